//! One connection to another node: who is there, and the control stream.
//!
//! The connection is good for nothing until both sides have said `Hello` and the name in it is the
//! one that the certificate carries. What then comes on the control stream is handed on by
//! [`crate::traffic`]; what goes out is queued here, bounded, and written in batches.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use quinn::{Connection, RecvStream, SendStream, VarInt};
use rustls_pki_types::CertificateDer;
use tokio::sync::mpsc;
use weft_capability::{
    EXPORTER_BYTES, EXPORTER_LABEL, NodeIdentity, exporter_context, verify_node,
};
use weft_protocol::wire::{self, Control, control_length, decode_control, encode_control};
use weft_types::{ChannelId, NodeName, Refusal, RefusalCode};

use crate::config::MAX_CHANNELS_PER_PEER;
use crate::namesake::NameTaken;

/// How long a handshake, `Hello` included, may take.
pub(crate) const HANDSHAKE_WITHIN: Duration = Duration::from_secs(3);

/// Control frames that wait for the stream. Who sends more waits.
const CONTROL_QUEUE: usize = 1024;

/// Bytes of control frames that are written at once.
const CONTROL_BATCH_BYTES: usize = 64 * 1024;

/// Why a connection is closed: the codes of QUIC's `CONNECTION_CLOSE`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CloseCode {
    /// The gateway ends.
    ShuttingDown = 1,
    /// Both sides dialled at once; the other connection stays.
    Duplicate = 2,
    /// The peer's certificate has run out.
    Expired = 3,
    /// The peer does not keep to the protocol.
    Protocol = 4,
    /// `Hello` does not fit: another version, cluster or name.
    Stranger = 5,
    /// The peer's gateway was restarted, and this connection was to its predecessor.
    Restarted = 6,
    /// Another node with the peer's name is connected. The reason is its address.
    NameTaken = 7,
}

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("{0}")]
    Connection(String),
    #[error("the peer did not say hello in time")]
    Silent,
    #[error("the peer does not keep to the protocol: {0}")]
    Protocol(String),
    #[error("{0}")]
    Stranger(String),
    #[error(
        "node {} has refused this one: another node of the same name is connected to it from {}",
        .0.peer, .0.holder
    )]
    NameTaken(NameTaken),
}

/// An established connection.
pub(crate) struct Link {
    /// Counts the connections of this process.
    pub(crate) id: u64,
    pub(crate) node: NodeName,
    /// Whether we dialled it.
    pub(crate) dialled: bool,
    /// Of the peer's process.
    pub(crate) incarnation: u64,
    pub(crate) address: SocketAddr,
    pub(crate) connection: Connection,
    control: mpsc::Sender<Control>,
    channels: AtomicU32,
    not_after: SystemTime,
}

/// The parts of a link that only its own tasks use.
pub(crate) struct LinkStreams {
    pub(crate) control_out: SendStream,
    pub(crate) control_in: RecvStream,
    pub(crate) queue: mpsc::Receiver<Control>,
}

impl Link {
    /// Says and hears `Hello` on a connection whose handshake is done.
    ///
    /// `expected`: the node that was dialled.
    pub(crate) async fn greet(
        connection: Connection,
        identity: &NodeIdentity,
        incarnation: u64,
        expected: Option<&NodeName>,
    ) -> Result<(Arc<Self>, LinkStreams), LinkError> {
        let greeting = Self::greet_unbounded(&connection, identity, incarnation, expected);
        let outcome = tokio::time::timeout(HANDSHAKE_WITHIN, greeting)
            .await
            .unwrap_or(Err(LinkError::Silent));
        // Whatever failed first: this is why.
        let outcome = outcome.map_err(|error| match certified_node(&connection, identity) {
            Ok((peer, _)) => name_taken(&connection, &peer).map_or(error, LinkError::NameTaken),
            Err(_) => error,
        });
        if let Err(error) = &outcome {
            let code = match error {
                LinkError::Stranger(_) => CloseCode::Stranger,
                _ => CloseCode::Protocol,
            };
            close(&connection, code, &error.to_string());
        }
        outcome
    }

    async fn greet_unbounded(
        connection: &Connection,
        identity: &NodeIdentity,
        incarnation: u64,
        expected: Option<&NodeName>,
    ) -> Result<(Arc<Self>, LinkStreams), LinkError> {
        let (certified, not_after) = certified_node(connection, identity)?;
        let dialled = expected.is_some();
        let lost = |error: quinn::ConnectionError| LinkError::Connection(error.to_string());
        let (mut control_out, mut control_in) = if dialled {
            connection.open_bi().await.map_err(lost)?
        } else {
            connection.accept_bi().await.map_err(lost)?
        };
        // Control frames go before all data.
        let _ = control_out.set_priority(CONTROL_PRIORITY);
        control_out
            .write_all(&hello(identity, incarnation)?)
            .await
            .map_err(|error| LinkError::Connection(error.to_string()))?;
        let theirs = read_control(&mut control_in).await?;
        let (node, incarnation) = check_hello(theirs, identity, &certified, expected)?;
        let (control, queue) = mpsc::channel(CONTROL_QUEUE);
        let link = Arc::new(Self {
            id: next_link(),
            node,
            dialled,
            incarnation,
            address: connection.remote_address(),
            connection: connection.clone(),
            control,
            channels: AtomicU32::new(0),
            not_after,
        });
        Ok((
            link,
            LinkStreams {
                control_out,
                control_in,
                queue,
            },
        ))
    }

    /// Queues a control frame. An error means that the connection is gone.
    pub(crate) async fn say(&self, frame: Control) -> Result<(), LinkError> {
        self.control
            .send(frame)
            .await
            .map_err(|_| LinkError::Connection("the connection is closed".to_owned()))
    }

    /// Queues a control frame if there is room: for words that only save time.
    pub(crate) fn mention(&self, frame: Control) {
        let _ = self.control.try_send(frame);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.connection.close_reason().is_some()
    }

    pub(crate) fn close(&self, code: CloseCode, why: &str) {
        close(&self.connection, code, why);
    }

    /// Waits until the peer's certificate has run out.
    pub(crate) async fn expires(&self) {
        let left = self
            .not_after
            .duration_since(SystemTime::now())
            .unwrap_or_default();
        tokio::time::sleep(left).await;
    }

    /// The keying material of this TLS session that binds a proof to it and to the channel.
    pub(crate) fn exporter(&self, channel: ChannelId) -> Result<[u8; EXPORTER_BYTES], Refusal> {
        let mut bytes = [0; EXPORTER_BYTES];
        self.connection
            .export_keying_material(&mut bytes, EXPORTER_LABEL, &exporter_context(channel))
            .map_err(|_| Refusal::new(RefusalCode::Internal, "the TLS session exports no key"))?;
        Ok(bytes)
    }

    pub(crate) fn channels(&self) -> u32 {
        // ORDER(count): Relaxed; a number to show, nothing else hangs on it.
        self.channels.load(Ordering::Relaxed)
    }

    /// Counts one more channel on this connection, up to the bound.
    pub(crate) fn admit_channel(self: &Arc<Self>) -> Result<ChannelSlot, Refusal> {
        // ORDER(count): Relaxed; the bound is kept by the one read-modify-write.
        self.channels
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |channels| {
                (channels < MAX_CHANNELS_PER_PEER).then_some(channels + 1)
            })
            .map(|_| ChannelSlot(Arc::clone(self)))
            .map_err(|_| {
                Refusal::new(
                    RefusalCode::OverBudget,
                    format!(
                        "the connection to node {} carries {MAX_CHANNELS_PER_PEER} channels \
                         already, which is the most: close some",
                        self.node
                    ),
                )
            })
    }
}

/// One channel's place on a connection. Given back when dropped.
pub(crate) struct ChannelSlot(Arc<Link>);

impl Drop for ChannelSlot {
    fn drop(&mut self) {
        // ORDER(count): Relaxed; as in `Link::admit_channel`.
        self.0.channels.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Data streams of lane 0 to 3 get priorities 3 to 0; this is above.
const CONTROL_PRIORITY: i32 = 10;

fn next_link() -> u64 {
    static LINKS: AtomicU64 = AtomicU64::new(1);
    // ORDER(links): Relaxed; only that no two get the same number matters.
    LINKS.fetch_add(1, Ordering::Relaxed)
}

/// Whether the peer has closed the connection because another one to us stays.
pub(crate) fn is_duplicate(error: &quinn::ConnectionError) -> bool {
    matches!(error, quinn::ConnectionError::ApplicationClosed(close)
        if close.error_code == VarInt::from_u32(CloseCode::Duplicate as u32))
}

/// What the peer says, if it has closed the connection because it knows another node of our name.
pub(crate) fn name_taken(connection: &Connection, peer: &NodeName) -> Option<NameTaken> {
    let Some(quinn::ConnectionError::ApplicationClosed(close)) = connection.close_reason() else {
        return None;
    };
    if close.error_code != VarInt::from_u32(CloseCode::NameTaken as u32) {
        return None;
    }
    let holder = std::str::from_utf8(&close.reason).ok()?.parse().ok()?;
    Some(NameTaken {
        peer: peer.clone(),
        holder,
    })
}

pub(crate) fn close(connection: &Connection, code: CloseCode, why: &str) {
    connection.close(VarInt::from_u32(code as u32), why.as_bytes());
}

/// Our `Hello`, encoded.
pub(crate) fn hello(identity: &NodeIdentity, incarnation: u64) -> Result<Vec<u8>, LinkError> {
    let hello = Control::Hello {
        version: wire::VERSION,
        cluster: identity.cluster().clone(),
        node: identity.name().clone(),
        incarnation,
    };
    let mut bytes = Vec::new();
    encode_control(&hello, &mut bytes).map_err(|error| LinkError::Protocol(error.to_string()))?;
    Ok(bytes)
}

/// The node that the peer's certificate names, and until when it may.
pub(crate) fn certified_node(
    connection: &Connection,
    identity: &NodeIdentity,
) -> Result<(NodeName, SystemTime), LinkError> {
    let chain = connection
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok())
        .ok_or_else(|| LinkError::Stranger("the peer has no certificate".to_owned()))?;
    let node = verify_node(identity.bundle(), &chain, SystemTime::now())
        .map_err(|error| LinkError::Stranger(error.to_string()))?;
    let not_after = node.not_after().to_system_time();
    Ok((node.into_inner().name, not_after))
}

fn check_hello(
    frame: Control,
    identity: &NodeIdentity,
    certified: &NodeName,
    expected: Option<&NodeName>,
) -> Result<(NodeName, u64), LinkError> {
    let Control::Hello {
        version,
        cluster,
        node,
        incarnation,
    } = frame
    else {
        return Err(LinkError::Protocol(
            "the first frame is not a hello".to_owned(),
        ));
    };
    let stranger = |why: String| Err(LinkError::Stranger(why));
    if version != wire::VERSION {
        return stranger(format!(
            "node {certified} speaks version {version} of the wire, this node {}",
            wire::VERSION
        ));
    }
    if cluster != *identity.cluster() {
        return stranger(format!(
            "node {certified} says that it belongs to cluster {cluster}"
        ));
    }
    if node != *certified || expected.is_some_and(|expected| *expected != node) {
        return stranger(format!("node {certified} says that it is {node}"));
    }
    if node == *identity.name() {
        return stranger(format!(
            "a second node says that it is {node}, which this one is"
        ));
    }
    Ok((node, incarnation))
}

/// Reads one control frame.
pub(crate) async fn read_control(stream: &mut RecvStream) -> Result<Control, LinkError> {
    let lost = |error: quinn::ReadExactError| LinkError::Connection(error.to_string());
    let protocol = |error: wire::WireError| LinkError::Protocol(error.to_string());
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix).await.map_err(lost)?;
    let mut body = vec![0; control_length(prefix).map_err(protocol)?];
    stream.read_exact(&mut body).await.map_err(lost)?;
    decode_control(&body).map_err(protocol)
}

/// Writes what is queued until the link or its connection is gone.
pub(crate) async fn write_control(
    mut stream: SendStream,
    mut queue: mpsc::Receiver<Control>,
) -> LinkError {
    let mut bytes = Vec::new();
    while let Some(frame) = queue.recv().await {
        bytes.clear();
        let mut next = Some(frame);
        while let Some(frame) = next {
            if let Err(error) = encode_control(&frame, &mut bytes) {
                tracing::error!(%error, "a control frame of ours cannot be sent");
            }
            next = if bytes.len() < CONTROL_BATCH_BYTES {
                queue.try_recv().ok()
            } else {
                None
            };
        }
        if let Err(error) = stream.write_all(&bytes).await {
            return LinkError::Connection(error.to_string());
        }
    }
    LinkError::Connection("the link was dropped".to_owned())
}
