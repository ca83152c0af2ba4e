//! A node of the cluster that does not keep to the protocol, and one whose certificate runs out.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod support;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint, SendStream};
use support::{Cluster, TestNode, eventually, node};
use weft_authority::Validity;
use weft_capability::{NodeIdentity, tls};
use weft_protocol::session::{ResumeLane, ResumePoint, Window};
use weft_protocol::wire::{
    Control, Direction, MessageHead, Open, PresentedBytes, StreamHeader, VERSION, encode_control,
    encode_message_head, encode_stream_header,
};
use weft_types::{Epoch, Lane, MessageKind, NodeName, PerLane, Sequence, TypeIndex};

/// The code of a close that says: another node of your name is connected to me.
const NAME_TAKEN: u32 = 7;

/// A connection with a valid certificate that says whatever it likes.
async fn dial(identity: &NodeIdentity, to: &TestNode) -> Connection {
    let tls_config = tls::client_config(identity).unwrap();
    let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls_config).unwrap()));
    let mut endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint.set_default_client_config(config);
    let name = tls::server_name(identity.bundle(), &to.name);
    endpoint
        .connect(to.address(), &name.to_str())
        .unwrap()
        .await
        .unwrap()
}

fn hello(identity: &NodeIdentity, name: NodeName) -> Vec<u8> {
    let hello = Control::Hello {
        version: VERSION,
        cluster: identity.cluster().clone(),
        node: name,
        incarnation: 1,
    };
    frame(&hello)
}

fn frame(control: &Control) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_control(control, &mut bytes).unwrap();
    bytes
}

/// A connection that has said hello.
async fn greeted(identity: &NodeIdentity, to: &TestNode) -> (Connection, SendStream) {
    let connection = dial(identity, to).await;
    let (mut control, mut answer) = connection.open_bi().await.unwrap();
    control
        .write_all(&hello(identity, identity.name().clone()))
        .await
        .unwrap();
    answer.read_exact(&mut [0; 4]).await.unwrap();
    eventually("it is taken in", || {
        to.handle()
            .peers()
            .iter()
            .any(|peer| peer.connected && peer.node == *identity.name())
    })
    .await;
    (connection, control)
}

async fn closes(connection: &Connection) {
    tokio::time::timeout(Duration::from_secs(5), connection.closed())
        .await
        .expect("the connection is closed");
}

#[tokio::test]
async fn garbage_ends_the_connection_it_came_on_and_no_other() {
    let cluster = Cluster::new("shop");
    let (n1, n2) = (cluster.node("n1"), cluster.node("n2"));
    let evil = cluster.node("evil").identity();
    let kv = cluster.start_service(&n2, "kv", 1);
    let client = n1
        .open("app", "kv", cluster.grant("app", "kv"))
        .await
        .unwrap();
    let channel = client.channel;
    let work = tokio::spawn(client.exchange(3_000, Duration::from_micros(50)));

    // Another name than the certificate's.
    let connection = dial(&evil, &n2).await;
    let (mut control, _answer) = connection.open_bi().await.unwrap();
    control.write_all(&hello(&evil, node("n1"))).await.unwrap();
    closes(&connection).await;
    // Anything but a hello; a hello twice; a length out of bounds; a frame that does not decode.
    for bytes in [
        frame(&Control::Close {
            channel,
            attempt: 1,
            refusal: weft_types::Refusal::new(weft_types::RefusalCode::Closed, ""),
        }),
        [hello(&evil, node("evil")), hello(&evil, node("evil"))].concat(),
        vec![0xff; 64],
        vec![4, 0, 0, 0, 0xee, 0xee, 0xee, 0xee],
    ] {
        let connection = dial(&evil, &n2).await;
        let (mut control, _answer) = connection.open_bi().await.unwrap();
        control.write_all(&bytes).await.unwrap();
        closes(&connection).await;
    }
    // A data stream whose header does not decode.
    let (connection, _control) = greeted(&evil, &n2).await;
    let mut stream = connection.open_uni().await.unwrap();
    stream.write_all(&[200; 100]).await.unwrap();
    closes(&connection).await;

    let (_client, report) = work.await.unwrap();
    assert_eq!(report.replies, 3_000);
    assert_eq!(kv.handled(channel).len(), 3_000);
}

#[tokio::test]
async fn a_node_cannot_touch_the_channels_of_another() {
    let cluster = Cluster::new("shop");
    let (n1, n2) = (cluster.node("n1"), cluster.node("n2"));
    let evil = cluster.node("evil").identity();
    let kv = cluster.start_service(&n2, "kv", 1);
    let client = n1
        .open("app", "kv", cluster.grant("app", "kv"))
        .await
        .unwrap();
    let channel = client.channel;
    let (connection, mut control) = greeted(&evil, &n2).await;
    // Everything that names the channel of n1, as if it were ours.
    let mut lanes = PerLane::<ResumeLane>::default();
    lanes[Lane::URGENT].expected = Sequence::new(9);
    let resume = ResumePoint {
        lanes,
        window: Window {
            messages: 9,
            bytes: 1 << 20,
        },
    };
    let refusal = weft_types::Refusal::new(weft_types::RefusalCode::Closed, "go away");
    let frames = [
        Control::Open(Box::new(Open {
            channel,
            attempt: 99,
            target: support::service("kv"),
            epoch: Epoch::FIRST,
            table: postcard::to_stdvec(&weft_contract::TypeTable {
                contract: weft_types::ContractName::new("kv").unwrap(),
                version: 1,
                entries: Vec::new(),
            })
            .unwrap(),
            presented: PresentedBytes::default(),
            resume,
            resumed: false,
        })),
        Control::Opened {
            channel,
            attempt: 1,
            epoch: Epoch::FIRST,
            resume,
        },
        Control::Acknowledge {
            channel,
            attempt: 1,
            epoch: Epoch::FIRST,
            done: PerLane([Sequence::new(5); 4]),
        },
        Control::Close {
            channel,
            attempt: 1,
            refusal,
        },
        Control::Moved {
            channel,
            attempt: 1,
            epoch: Epoch::new(7),
            node: node("evil"),
        },
    ];
    for said in &frames {
        control.write_all(&frame(said)).await.unwrap();
    }
    let header = StreamHeader {
        channel,
        attempt: 1,
        epoch: Epoch::FIRST,
        direction: Direction::ToService,
        lane: Lane::URGENT,
    };
    let mut bytes = Vec::new();
    encode_stream_header(&header, &mut bytes);
    let head = MessageHead {
        sequence: Sequence::ZERO,
        correlation: Sequence::ZERO,
        type_index: TypeIndex::new(1),
        kind: MessageKind::Request,
    };
    encode_message_head(&head, 8, &mut bytes);
    bytes.extend_from_slice(&[66; 8]);
    let mut stream = connection.open_uni().await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    // All of it has been heard when the client's messages go through as if nothing were.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (_client, report) = client.exchange(1_000, Duration::ZERO).await;
    assert_eq!(report.replies, 1_000);
    assert!(
        kv.handled(channel)
            .iter()
            .all(|(_, number)| *number < 1_000)
    );
    assert_eq!(kv.handled(channel).len(), 1_000);
    assert!(n1.home.lost.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_peer_that_lies_about_a_second_node_of_our_name_is_not_believed() {
    let cluster = Cluster::new("shop");
    let (n1, n2) = (cluster.node("n1"), cluster.node("n2"));
    let evil = cluster.node("evil").identity();
    // Where nobody of our name is: we ourselves, another node, a socket that hears and is silent.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    silent.set_nonblocking(true).unwrap();
    let says = async |reason: &str| {
        let (connection, _control) = greeted(&evil, &n2).await;
        connection.close(NAME_TAKEN.into(), reason.as_bytes());
        eventually("it has heard", || n2.handle().peers().is_empty()).await;
        // It looks at one after the other, and loopback is quick.
        tokio::time::sleep(Duration::from_millis(300)).await;
    };
    for reason in [
        "not an address",
        &n2.address().to_string(),
        &n1.address().to_string(),
        &silent.local_addr().unwrap().to_string(),
    ] {
        says(reason).await;
    }
    assert!(
        silent.recv(&mut [0; 2_000]).is_ok(),
        "it did not even look, so this test has tested nothing"
    );
    assert!(n2.home.name_taken.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_connection_ends_when_the_peers_certificate_does() {
    let cluster = Cluster::new("shop");
    let n1 = cluster.node("n1");
    let now = SystemTime::now();
    let validity = Validity::between(now - Duration::from_secs(60), now + Duration::from_secs(3));
    let n2 = cluster.node_until("n2", validity.unwrap());
    cluster.start_service(&n2, "kv", 1);
    let client = n1
        .open("app", "kv", cluster.grant("app", "kv"))
        .await
        .unwrap();
    let connected = || n1.handle().peers().iter().any(|peer| peer.connected);
    assert!(connected());
    eventually("the connection ends", || !connected()).await;
    // Certificates count whole seconds.
    assert!(SystemTime::now() >= now + Duration::from_secs(2));
    assert!(
        n1.home.lost.lock().unwrap().is_empty(),
        "a new certificate may come"
    );
    drop(client);
}
