//! Stock tools read what we issue: `openssl verify` follows the chains, `openssl x509` prints them.
//!
//! Where there is no `openssl` the test says so and passes: it is a claim about our certificates,
//! not about the machine.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use support::*;
use weft_authority::NodeIssuer;
use weft_capability::identity::NODE_CHAIN_FILE;
use weft_capability::{Chain, InstanceIssuer};
use weft_types::Epoch;

/// Runs openssl; what it printed, and whether it succeeded.
fn openssl(arguments: &[&str]) -> Option<(bool, String)> {
    let output = Command::new("openssl").args(arguments).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    Some((
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    ))
}

/// Splits a chain into the two files that `openssl verify` wants.
fn split(directory: &Path, chain: &Chain) -> (String, String) {
    let write = |name: &str, certificates: &[_]| {
        let path = directory.join(name);
        let pem = Chain::new(certificates.to_vec()).unwrap().to_pem();
        fs::write(&path, pem).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (leaf, above) = chain.certificates().split_at(1);
    (write("leaf.pem", leaf), write("above.pem", above))
}

#[test]
fn openssl_verifies_our_chains_and_prints_our_names() {
    if openssl(&["version"]).is_none() {
        eprintln!("no openssl on this machine: nothing was compared");
        return;
    }
    let now = SystemTime::now();
    let cluster = Cluster::new("demo", now);
    let n1 = cluster.node("n1", now);
    let issuer = NodeIssuer::load(&n1, now).unwrap();
    let instance = issuer.issue(&service("kv"), Epoch::FIRST, now).unwrap();
    let node = Chain::from_pem(&fs::read_to_string(n1.join(NODE_CHAIN_FILE)).unwrap()).unwrap();
    let grant = cluster.grant("demo-client", "kv", now);
    let capability_arc = "1.3.6.1.4.1.32473.1.1";
    let rows: [(&str, &Chain, &str, &[&str]); 3] = [
        (
            "node-root.pem",
            &node,
            "capability-root.pem",
            &[
                "URI:spiffe://demo/node/n1",
                "DNS:n1.node.demo",
                "TLS Web Server Authentication",
                "TLS Web Client Authentication",
            ],
        ),
        (
            "capability-root.pem",
            &grant.chain,
            "node-root.pem",
            &[
                "URI:spiffe://demo/svc/demo-client",
                capability_arc,
                "1.3.6.1.4.1.32473.2.1:",
                "demo-client",
            ],
        ),
        (
            "capability-root.pem",
            instance.chain(),
            "node-root.pem",
            &["URI:spiffe://demo/svc/kv", "1.3.6.1.4.1.32473.2.2:"],
        ),
    ];
    let root = |name: &str| cluster.ca().join(name).to_str().unwrap().to_owned();
    for (own_root, chain, other_root, shown) in rows {
        let (leaf, above) = split(cluster.directory.path(), chain);
        let verify = |root: &str| {
            let arguments = [
                "verify",
                "-x509_strict",
                "-CAfile",
                root,
                "-untrusted",
                &above,
                &leaf,
            ];
            openssl(&arguments).unwrap()
        };
        let (verified, text) = verify(&root(own_root));
        assert!(verified, "{text}");
        let (verified, text) = verify(&root(other_root));
        assert!(!verified, "{text}");
        let (_, text) = openssl(&["x509", "-in", &leaf, "-noout", "-text"]).unwrap();
        for part in shown {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(!text.contains("Extension: critical"), "{text}");
    }
    // The rights, as anybody can walk them: an OCTET STRING with the names in it.
    let (leaf, _) = split(cluster.directory.path(), &grant.chain);
    let (parsed, text) = openssl(&["asn1parse", "-in", &leaf]).unwrap();
    assert!(parsed && text.contains("1.3.6.1.4.1.32473.2.1"), "{text}");
}
