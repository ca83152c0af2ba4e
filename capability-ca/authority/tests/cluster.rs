//! From `ca init` to an admitted channel, and what the files on the way refuse.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use support::*;
use weft_authority::{Authority, AuthorityError, GrantRequest, NodeIssuer, Validity, write_grant};
use weft_capability::identity::{
    INSTANCE_CA_FILE, INSTANCE_CA_KEY_FILE, NODE_CAPABILITY_FILE, NODE_CHAIN_FILE, NODE_KEY_FILE,
    TRUST_BUNDLE_FILE,
};
use weft_capability::{
    Chain, IdentityError, InstanceIssuer, InstanceKeys, IssueError, MessageSet, Opening, Presented,
    Session, Target, admit, validity_of, verify_capability, verify_instance,
};
use weft_types::{ChannelId, Epoch};
use x509_parser::prelude::{FromDer, X509Certificate};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn what_the_authority_issues_opens_a_channel_between_two_nodes() {
    let now = SystemTime::now();
    let cluster = Cluster::new("demo", now);
    let n1 = cluster.node("n1", now);
    let n2 = load(&cluster.node("n2", now), now).unwrap();
    let grant = cluster.grant("demo-client", "kv", now);
    let issuer = NodeIssuer::load(&n1, now).unwrap();
    let key = issuer
        .issue(&service("demo-client"), Epoch::FIRST, now)
        .unwrap();
    let (channel, exporter) = (ChannelId::random(), [3; 32]);
    let presented = Presented::new(grant.chain.clone(), key.as_ref(), channel, &exporter).unwrap();
    let admitted = admit(
        n2.bundle(),
        &presented,
        &Opening {
            target: &service("kv"),
            contract: &contract("kv"),
            version: 1,
            epoch: Epoch::FIRST,
        },
        &Session {
            peer: &node("n1"),
            channel,
            exporter: &exporter,
        },
        now,
    )
    .unwrap();
    assert_eq!(admitted.capability, grant.capability.id);
    assert_eq!(admitted.node, Some(node("n1")));
}

#[test]
fn a_daemon_may_speak_to_every_other_from_the_start() {
    let now = SystemTime::now();
    let cluster = Cluster::new("demo", now);
    let n1 = load(&cluster.node("n1", now), now).unwrap();
    let capability = verify_capability(n1.bundle(), n1.capability(), now).unwrap();
    let capability = capability.get();
    assert_eq!(capability.holder, service("node/n1"));
    assert_eq!(capability.target, Target::EveryNode);
    let control = contract("node.control");
    assert!(
        capability
            .check_opens(&service("node/n7"), &control, 1, Epoch::NONE)
            .is_ok()
    );
}

#[test]
fn a_ca_is_never_overwritten_and_its_keys_are_private() {
    let now = SystemTime::now();
    let cluster_ = Cluster::new("demo", now);
    let ca = cluster_.ca();
    assert_eq!(mode(&ca), 0o700);
    let mut keys = 0;
    for entry in fs::read_dir(&ca).unwrap() {
        let path = entry.unwrap().path();
        let private = path.extension().is_some_and(|extension| extension == "key");
        assert_eq!(mode(&path), if private { 0o600 } else { 0o644 }, "{path:?}");
        keys += usize::from(private);
    }
    assert_eq!(keys, 5);
    assert!(matches!(
        Authority::init(&ca, &cluster("other"), now),
        Err(AuthorityError::NotEmpty(_))
    ));
    assert_eq!(Authority::open(&ca).unwrap().cluster().as_str(), "demo");
    let n1 = cluster_.node("n1", now);
    for key in [NODE_KEY_FILE, INSTANCE_CA_KEY_FILE] {
        assert_eq!(mode(&n1.join(key)), 0o600, "{key}");
    }
}

#[test]
fn a_ca_issues_without_the_keys_of_its_roots_and_renews_with_them() {
    let now = SystemTime::now();
    let cluster = Cluster::new("demo", now);
    let ca = cluster.ca();
    let old = cluster.grant("a", "kv", now);
    let roots = ["node-root.key", "capability-root.key"];
    for root in roots {
        fs::rename(ca.join(root), cluster.directory.path().join(root)).unwrap();
    }
    let authority = Authority::open(&ca).unwrap();
    let directory = cluster.directory.path().join("n1");
    authority
        .issue_node(&node("n1"), &directory, validity(now))
        .unwrap();
    assert!(matches!(
        Authority::renew(&ca, now),
        Err(AuthorityError::NoAuthority { .. })
    ));
    for root in roots {
        fs::rename(cluster.directory.path().join(root), ca.join(root)).unwrap();
    }
    let later = now + 80 * 24 * HOUR;
    let renewed = Authority::renew(&ca, later).unwrap();
    let grant = GrantRequest::new(
        service("b"),
        Target::Service(service("kv")),
        contract("kv"),
        1,
        Validity::starting(later, 30 * 24 * HOUR).unwrap(),
    );
    let new = renewed.grant(&grant).unwrap();
    assert!(verify_capability(renewed.bundle(), &old.chain, now).is_ok());
    assert!(verify_capability(renewed.bundle(), &new.chain, later).is_ok());
}

#[test]
fn a_key_that_others_can_read_is_not_used() {
    let cluster = Cluster::new("demo", SystemTime::now());
    let key = cluster.ca().join("capability-ca.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    let error = Authority::open(&cluster.ca()).err().unwrap();
    assert!(matches!(error, AuthorityError::Exposed { mode: 0o640, .. }));
}

#[test]
fn a_directory_without_a_ca_or_with_a_mixed_one_is_refused() {
    let now = SystemTime::now();
    let (one, other) = (Cluster::new("demo", now), Cluster::new("demo", now));
    let empty = one.directory.path().join("nothing");
    let error = Authority::open(&empty).err().unwrap();
    assert!(error.to_string().contains("weft ca init"), "{error}");
    let key = "node-ca.key";
    fs::copy(other.ca().join(key), one.ca().join(key)).unwrap();
    assert!(matches!(
        Authority::open(&one.ca()),
        Err(AuthorityError::Broken { .. })
    ));
}

#[test]
fn the_files_of_a_node_are_renewed_in_place_and_never_another_nodes() {
    let now = SystemTime::now();
    let cluster = Cluster::new("demo", now);
    let directory = cluster.node("n1", now);
    let old = fs::read(directory.join(NODE_CHAIN_FILE)).unwrap();
    cluster.node("n1", now);
    assert_ne!(fs::read(directory.join(NODE_CHAIN_FILE)).unwrap(), old);
    assert!(load(&directory, now).is_ok());
    let issue = |cluster: &Cluster, name: &str| {
        cluster
            .authority
            .issue_node(&node(name), &directory, validity(now))
    };
    assert!(matches!(
        issue(&cluster, "n2"),
        Err(AuthorityError::OtherNode { .. })
    ));
    assert!(matches!(
        issue(&Cluster::new("other", now), "n1"),
        Err(AuthorityError::OtherNode { .. })
    ));
    assert!(load(&directory, now).is_ok());
}

#[test]
fn each_fault_in_the_files_of_a_node_is_told_from_the_others() {
    let now = SystemTime::now();
    let cluster_ = Cluster::new("demo", now);
    let directory = cluster_.node("n1", now);
    let n2 = cluster_.node("n2", now);
    let other = Cluster::new("other", now);
    let foreign = other.node("n1", now);
    let swap = |file: &str, from: &Path| {
        let own = fs::read(directory.join(file)).unwrap();
        fs::copy(from.join(file), directory.join(file)).unwrap();
        let error = load(&directory, now).unwrap_err();
        fs::write(directory.join(file), own).unwrap();
        error
    };
    assert!(matches!(
        swap(NODE_CHAIN_FILE, &n2),
        IdentityError::OtherKey { .. }
    ));
    assert!(matches!(
        swap(NODE_KEY_FILE, &n2),
        IdentityError::OtherKey { .. }
    ));
    assert!(matches!(
        swap(NODE_CAPABILITY_FILE, &n2),
        IdentityError::OtherNode { .. }
    ));
    assert!(matches!(
        swap(NODE_CHAIN_FILE, &foreign),
        IdentityError::Foreign { .. }
    ));
    assert!(matches!(
        swap(TRUST_BUNDLE_FILE, &foreign),
        IdentityError::Foreign { .. }
    ));
    let identity = load(&directory, now).unwrap();
    assert!(
        identity
            .check_is(Some(&node("n1")), Some(&cluster("demo")))
            .is_ok()
    );
    assert!(matches!(
        identity.check_is(Some(&node("n2")), None),
        Err(IdentityError::OtherNode { .. })
    ));
    assert!(matches!(
        identity.check_is(None, Some(&cluster("other"))),
        Err(IdentityError::OtherCluster { .. })
    ));
    let expired = load(&directory, now + 2 * HOUR).unwrap_err();
    assert!(
        expired.to_string().contains("`weft ca node n1`"),
        "{expired}"
    );
    assert!(matches!(expired, IdentityError::Expired { .. }));
    assert!(matches!(
        load(&directory, now - 2 * HOUR).unwrap_err(),
        IdentityError::NotYetValid { .. }
    ));
    fs::write(directory.join(NODE_CHAIN_FILE), "nonsense").unwrap();
    assert!(matches!(
        load(&directory, now).unwrap_err(),
        IdentityError::Broken { .. }
    ));
    fs::remove_file(directory.join(NODE_CHAIN_FILE)).unwrap();
    assert!(matches!(
        load(&directory, now).unwrap_err(),
        IdentityError::Missing {
            file: NODE_CHAIN_FILE
        }
    ));
}

#[test]
fn an_issuer_serves_its_own_node_and_says_what_is_wrong_with_its_files() {
    let now = SystemTime::now();
    let cluster = Cluster::new("demo", now);
    let n1 = cluster.node("n1", now);
    let issuer = NodeIssuer::load(&n1, now).unwrap();
    assert_eq!(issuer.node(), &node("n1"));
    assert!(matches!(
        issuer.issue(&service("node/n2"), Epoch::FIRST, now),
        Err(IssueError::Reserved { .. })
    ));
    assert!(matches!(
        issuer.issue(&service("kv"), Epoch::FIRST, now + 2 * HOUR),
        Err(IssueError::IssuerExpired { .. })
    ));
    let load = |moment| NodeIssuer::load(&n1, moment).err().unwrap();
    assert!(matches!(
        load(now + 2 * HOUR),
        IdentityError::Expired { .. }
    ));
    let namesake = Cluster::new("demo", now);
    let other = namesake.node("n1", now);
    for file in [INSTANCE_CA_FILE, INSTANCE_CA_KEY_FILE] {
        fs::copy(other.join(file), n1.join(file)).unwrap();
        assert!(matches!(
            load(now),
            IdentityError::OtherKey { .. } | IdentityError::Untrusted { .. }
        ));
    }
}

#[test]
fn an_instance_keeps_its_key_for_half_its_life_and_never_past_its_issuer() {
    let now = SystemTime::now();
    let cluster = Cluster::new("demo", now);
    let n1 = cluster.node("n1", now);
    let keys = InstanceKeys::new(Box::new(NodeIssuer::load(&n1, now).unwrap()));
    let minutes = |count: u64| now + Duration::from_secs(60 * count);
    let kv = service("kv");
    let key = |moment| keys.key(&kv, Epoch::FIRST, moment).unwrap();
    let first = key(now);
    assert_eq!(first.not_after(), minutes(15).into());
    assert!(Arc::ptr_eq(&first, &key(minutes(7))));
    let second = key(minutes(8));
    assert!(!Arc::ptr_eq(&first, &second));
    let bundle = cluster.authority.bundle();
    assert!(verify_instance(bundle, second.chain(), minutes(20)).is_ok());
    let next_epoch = keys.key(&kv, Epoch::FIRST.next(), now).unwrap();
    let instance = verify_instance(bundle, next_epoch.chain(), now).unwrap();
    assert_eq!(instance.get().epoch, Epoch::FIRST.next());
    assert_eq!(instance.get().service, kv);
    // The issuer ends after an hour. Its last certificate ends with it, and then there is none.
    let last = key(minutes(55));
    assert_eq!(last.not_after(), minutes(60).into());
    assert!(verify_instance(bundle, last.chain(), minutes(59)).is_ok());
    assert!(keys.key(&kv, Epoch::FIRST, minutes(61)).is_err());
}

#[test]
fn nothing_is_issued_beyond_its_issuer_nor_with_rights_that_make_no_sense() {
    let now = SystemTime::now();
    let cluster = Cluster::new("demo", now);
    let request = |life: Duration| {
        GrantRequest::new(
            service("a"),
            Target::Service(service("kv")),
            contract("kv"),
            1,
            Validity::starting(now, life).unwrap(),
        )
    };
    let grant = |request: &GrantRequest| cluster.authority.grant(request);
    assert!(grant(&request(90 * 24 * HOUR)).is_ok());
    assert!(matches!(
        grant(&request(91 * 24 * HOUR)),
        Err(AuthorityError::OutlivesIssuer { .. })
    ));
    let every_kv = GrantRequest {
        target: Target::EveryNode,
        ..request(HOUR)
    };
    assert!(matches!(grant(&every_kv), Err(AuthorityError::Rights(_))));
    let names = (0..60).map(|n| format!("Message{n}")).collect();
    let many = GrantRequest {
        messages: MessageSet::Only(names),
        ..request(HOUR)
    };
    assert!(matches!(grant(&many), Err(AuthorityError::Rights(_))));
}

#[test]
fn every_certificate_has_its_own_random_serial_and_the_dates_it_was_asked_for() {
    let now = SystemTime::now();
    let cluster = Cluster::new("demo", now);
    let n1 = cluster.node("n1", now);
    let mut chains: Vec<Chain> = [NODE_CHAIN_FILE, INSTANCE_CA_FILE, NODE_CAPABILITY_FILE]
        .iter()
        .map(|file| Chain::from_pem(&fs::read_to_string(n1.join(file)).unwrap()).unwrap())
        .collect();
    chains.extend((0..8).map(|_| cluster.grant("a", "kv", now).chain));
    let mut serials = BTreeSet::new();
    for chain in &chains {
        let (_, certificate) = X509Certificate::from_der(chain.leaf()).unwrap();
        assert!(certificate.raw_serial().len() >= 14, "128 random bits");
        assert!(serials.insert(certificate.raw_serial().to_vec()));
        let (from, to) = validity_of(chain.leaf()).unwrap();
        assert_eq!(from, (now - weft_authority::CLOCK_SKEW).into());
        assert_eq!(to, (now + HOUR).into());
    }
}

#[test]
fn every_ca_is_for_one_purpose_and_says_how_far_the_path_may_go() {
    let now = SystemTime::now();
    let cluster = Cluster::new("demo", now);
    let n1 = cluster.node("n1", now);
    let (capability, instance) = ("1.3.6.1.4.1.32473.1.1", "1.3.6.1.4.1.32473.1.2");
    for (path, length, own) in [
        (cluster.ca().join("node-ca.pem"), 0, None),
        (cluster.ca().join("capability-ca.pem"), 0, Some(capability)),
        (cluster.ca().join("issuer-ca.pem"), 1, Some(instance)),
        (n1.join(INSTANCE_CA_FILE), 0, Some(instance)),
    ] {
        let chain = Chain::from_pem(&fs::read_to_string(&path).unwrap()).unwrap();
        let (_, certificate) = X509Certificate::from_der(chain.leaf()).unwrap();
        let constraints = certificate.basic_constraints().unwrap().unwrap().value;
        assert!(constraints.ca, "{path:?}");
        assert_eq!(constraints.path_len_constraint, Some(length), "{path:?}");
        let usages = certificate.extended_key_usage().unwrap().unwrap().value;
        let listed: Vec<String> = usages.other.iter().map(ToString::to_string).collect();
        assert_eq!(
            listed,
            own.map(str::to_owned).into_iter().collect::<Vec<_>>()
        );
        assert_eq!(usages.server_auth, own.is_none(), "{path:?}");
        assert_eq!(usages.client_auth, own.is_none(), "{path:?}");
    }
}

#[test]
fn a_grant_on_disk_is_the_grant() {
    let now = SystemTime::now();
    let cluster = Cluster::new("demo", now);
    let n1 = cluster.node("n1", now);
    let grant = cluster.grant("demo-client", "kv", now);
    let path = write_grant(&n1, &grant).unwrap();
    let text = fs::read_to_string(path).unwrap();
    assert!(text.starts_with("# cap-"), "{text}");
    assert_eq!(Chain::from_pem(&text), Ok(grant.chain));
}
