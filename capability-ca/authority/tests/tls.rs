//! Two nodes shake hands, with the configurations that the gateways use, in memory.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

mod support;

use std::sync::Arc;
use std::time::SystemTime;

use rustls::{
    ClientConfig, ClientConnection, ConnectionCommon, HandshakeKind, ServerConfig, ServerConnection,
};
use support::*;
use weft_authority::NodeIssuer;
use weft_capability::{
    CapabilityError, EXPORTER_BYTES, EXPORTER_LABEL, InstanceIssuer, NodeIdentity, Opening,
    Presented, Session, admit, exporter_context, tls, verify_node,
};
use weft_types::{ChannelId, Epoch};

/// Carries bytes from one side to the other; the reader's verdict.
fn pass<A, B>(
    from: &mut ConnectionCommon<A>,
    to: &mut ConnectionCommon<B>,
) -> Result<(), rustls::Error> {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).unwrap();
    }
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        to.read_tls(&mut rest).unwrap();
        to.process_new_packets()?;
    }
    Ok(())
}

fn connect(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
    dialled: &NodeIdentity,
) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
    let name = tls::server_name(dialled.bundle(), dialled.name());
    let mut client = ClientConnection::new(Arc::clone(client), name)?;
    let mut server = ServerConnection::new(Arc::clone(server))?;
    for _ in 0..4 {
        pass(&mut client, &mut server)?;
        pass(&mut server, &mut client)?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok((client, server))
}

fn configs(client: &NodeIdentity, server: &NodeIdentity) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    (
        Arc::new(tls::client_config(client).unwrap()),
        Arc::new(tls::server_config(server).unwrap()),
    )
}

fn shake(
    client: &NodeIdentity,
    server: &NodeIdentity,
    dialled: &NodeIdentity,
) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
    let (client, server) = configs(client, server);
    connect(&client, &server, dialled)
}

fn exporter<S>(connection: &ConnectionCommon<S>, channel: ChannelId) -> [u8; EXPORTER_BYTES] {
    connection
        .export_keying_material(
            [0; EXPORTER_BYTES],
            EXPORTER_LABEL,
            Some(&exporter_context(channel)),
        )
        .unwrap()
}

#[test]
fn two_nodes_of_a_cluster_know_each_other_by_name() {
    let now = SystemTime::now();
    let cluster = Cluster::new("demo", now);
    let (n1, n2) = (cluster.identity("n1", now), cluster.identity("n2", now));
    let (client, server) = shake(&n1, &n2, &n2).unwrap();
    let peer = |certificates: Option<&[_]>, bundle| {
        verify_node(bundle, certificates.unwrap(), now).unwrap()
    };
    let seen_by_server = peer(server.peer_certificates(), n2.bundle());
    assert_eq!(&seen_by_server.get().name, n1.name());
    assert_eq!(seen_by_server.not_after(), n1.not_after());
    let seen_by_client = peer(client.peer_certificates(), n1.bundle());
    assert_eq!(&seen_by_client.get().name, n2.name());
    assert_eq!(client.alpn_protocol(), Some(tls::ALPN));
}

#[test]
fn every_connection_is_a_full_handshake_without_tickets() {
    let now = SystemTime::now();
    let cluster = Cluster::new("demo", now);
    let (n1, n2) = (cluster.identity("n1", now), cluster.identity("n2", now));
    let (client, server) = configs(&n1, &n2);
    assert_eq!(
        (server.send_tls13_tickets, server.max_early_data_size),
        (0, 0)
    );
    assert!(!client.enable_early_data);
    for _ in 0..3 {
        let (client, server) = connect(&client, &server, &n2).unwrap();
        assert_eq!(client.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(server.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(client.tls13_tickets_received(), 0);
    }
}

#[test]
fn another_node_than_the_one_dialled_is_not_spoken_to() {
    let now = SystemTime::now();
    let cluster = Cluster::new("demo", now);
    let [n1, n2, n3] = ["n1", "n2", "n3"].map(|name| cluster.identity(name, now));
    let error = shake(&n1, &n3, &n2).err().unwrap();
    let text = error.to_string();
    assert!(
        text.contains("n2.node.demo") && text.contains("n3.node.demo"),
        "{text}"
    );
}

#[test]
fn nodes_of_another_cluster_are_refused_in_both_directions() {
    let now = SystemTime::now();
    let ours = Cluster::new("demo", now);
    let (n1, n2) = (ours.identity("n1", now), ours.identity("n2", now));
    for name in ["demo", "other"] {
        let theirs = Cluster::new(name, now);
        let stranger = theirs.identity("n2", now);
        assert!(shake(&n1, &stranger, &n2).is_err(), "as server, {name}");
        // It believes in our roots, so that only our verdict on it is left.
        let mut client = tls::client_config(&n1).unwrap();
        let strangers = tls::client_config(&stranger).unwrap();
        client.client_auth_cert_resolver = strangers.client_auth_cert_resolver;
        let server = Arc::new(tls::server_config(&n2).unwrap());
        let refused = connect(&Arc::new(client), &server, &n2).err().unwrap();
        assert!(
            matches!(refused, rustls::Error::InvalidCertificate(_)),
            "as client, {name}: {refused}"
        );
    }
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let now = SystemTime::now();
    let cluster = Cluster::new("demo", now);
    let (n1, n2) = (cluster.identity("n1", now), cluster.identity("n2", now));
    let (client, server) = configs(&n1, &n2);
    let mut client = ClientConfig::clone(&client);
    client.client_auth_cert_resolver = Arc::new(NoCertificate);
    let error = connect(&Arc::new(client), &server, &n2).err().unwrap();
    assert_eq!(error, rustls::Error::NoCertificatesPresented);
}

#[derive(Debug)]
struct NoCertificate;

impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(
        &self,
        _hints: &[&[u8]],
        _schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[test]
fn a_node_whose_certificate_has_run_out_is_refused_in_both_directions() {
    let now = SystemTime::now();
    let then = now - 3 * HOUR;
    let cluster = Cluster::new("demo", then);
    let old = cluster.identity("n1", then);
    let fresh = cluster.identity("n2", now);
    let refused = |result: Result<_, rustls::Error>| {
        let error = result.err().unwrap();
        let expected = rustls::CertificateError::Expired;
        assert_eq!(error, rustls::Error::InvalidCertificate(expected));
    };
    refused(shake(&old, &fresh, &fresh));
    refused(shake(&fresh, &old, &old));
}

#[test]
fn a_proof_is_good_on_its_own_session_and_on_no_other() {
    let now = SystemTime::now();
    let cluster = Cluster::new("demo", now);
    let (n1, n2) = (cluster.identity("n1", now), cluster.identity("n2", now));
    let issuer = NodeIssuer::load(&cluster.directory.path().join("n1"), now).unwrap();
    let holder = service("demo-client");
    let key = issuer.issue(&holder, Epoch::FIRST, now).unwrap();
    let grant = cluster.grant("demo-client", "kv", now);
    let (channel, other_channel) = (ChannelId::random(), ChannelId::random());

    let (client, server) = shake(&n1, &n2, &n2).unwrap();
    assert_eq!(exporter(&client, channel), exporter(&server, channel));
    assert_ne!(exporter(&client, channel), exporter(&client, other_channel));

    let here = exporter(&client, channel);
    let presented = Presented::new(grant.chain, key.as_ref(), channel, &here).unwrap();
    let verdict = |server: &ServerConnection, channel| {
        admit(
            n2.bundle(),
            &presented,
            &Opening {
                target: &service("kv"),
                contract: &contract("kv"),
                version: 1,
                epoch: Epoch::FIRST,
            },
            &Session {
                peer: n1.name(),
                channel,
                exporter: &exporter(server, channel),
            },
            now,
        )
    };
    assert_eq!(verdict(&server, channel).unwrap().holder, holder);
    let (_, another) = shake(&n1, &n2, &n2).unwrap();
    for stolen in [verdict(&another, channel), verdict(&server, other_channel)] {
        assert!(matches!(stolen, Err(CapabilityError::NotProven { .. })));
    }
}
