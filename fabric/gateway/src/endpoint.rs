//! The QUIC endpoint: one UDP socket, server and client in one, with its limits.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, IdleTimeout,
    ServerConfig, TokioRuntime, TransportConfig, VarInt,
};
use ring::hmac;
use weft_capability::{NodeIdentity, tls};
use weft_types::LANES;

use crate::config::{GatewayError, MAX_CHANNELS_PER_PEER};

/// A peer that says nothing for so long is gone.
const IDLE_TIMEOUT_MS: u32 = 4_000;

/// How often we say something: often enough that three losses in a row end nothing.
const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// What a peer may have sent on one stream and we have not read. More than a lane's window of
/// bodies with their heads, so credit stops a lane before its stream does.
const STREAM_WINDOW_BYTES: u32 = 512 * 1024;

/// The same for all streams of a connection. We always read, so only a peer that sends to channels
/// whose rings are full, against their credit, ever comes near it.
const CONNECTION_WINDOW_BYTES: u32 = 32 * 1024 * 1024;

/// Streams beyond those of the channels that may be open: those of channels that have just ended.
const SPARE_STREAMS: u32 = 64;

/// Connections that have sent a first packet and were not looked at yet. The default of quinn is
/// far more than the nodes of a cluster.
const MAX_INCOMING: usize = 64;

/// Bytes that are kept of each of those, and of all.
const INCOMING_BYTES: (u64, u64) = (64 * 1024, 1024 * 1024);

/// Listens on `address`.
pub(crate) fn listen(
    address: SocketAddr,
    identity: &NodeIdentity,
) -> Result<Endpoint, GatewayError> {
    let transport = Arc::new(transport());
    let server = QuicServerConfig::try_from(tls::server_config(identity)?)
        .map_err(|_| GatewayError::NoQuicSuite)?;
    let mut server = ServerConfig::with_crypto(Arc::new(server));
    server
        .transport_config(Arc::clone(&transport))
        // Nodes stay where they are; a node that changes its address dials again.
        .migration(false)
        .max_incoming(MAX_INCOMING)
        .incoming_buffer_size(INCOMING_BYTES.0)
        .incoming_buffer_size_total(INCOMING_BYTES.1);
    let client = QuicClientConfig::try_from(tls::client_config(identity)?)
        .map_err(|_| GatewayError::NoQuicSuite)?;
    let mut client = ClientConfig::new(Arc::new(client));
    client.transport_config(transport);

    let failed = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::AddrInUse => GatewayError::PortInUse(address),
        _ => GatewayError::Listen { address, source },
    };
    let socket = UdpSocket::bind(address).map_err(failed)?;
    let mut config = EndpointConfig::new(Arc::new(reset_key(identity)));
    config.cid_generator(|| Box::new(RandomIds));
    let mut endpoint =
        Endpoint::new(config, Some(server), socket, Arc::new(TokioRuntime)).map_err(failed)?;
    endpoint.set_default_client_config(client);
    Ok(endpoint)
}

/// What lets a gateway that was restarted tell its peers so (a stateless reset): the same in every
/// life of a node, and known to nobody else. Without it they wait for the idle timeout.
fn reset_key(identity: &NodeIdentity) -> hmac::Key {
    let key = hmac::Key::new(hmac::HMAC_SHA256, identity.key().secret_der());
    let derived = hmac::sign(&key, b"weft stateless reset 1");
    hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref())
}

/// Connection ids without a secret of this process in them. Those of quinn have one, by which an
/// endpoint drops the packets of its predecessor instead of answering them with a reset.
struct RandomIds;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; CONNECTION_ID_BYTES];
        getrandom::fill(&mut id).expect("the system gives random numbers");
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Long enough that ids do not meet by chance.
const CONNECTION_ID_BYTES: usize = 8;

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_TIMEOUT_MS))))
        .keep_alive_interval(Some(KEEP_ALIVE))
        // The control stream is all that flows both ways.
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(
            MAX_CHANNELS_PER_PEER * LANES as u32 + SPARE_STREAMS,
        ))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
        .datagram_receive_buffer_size(None);
    transport
}
