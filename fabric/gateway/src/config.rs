//! What a gateway is started with, and why it may not start.

use std::net::SocketAddr;
use std::time::Duration;

use weft_capability::NodeIdentity;
use weft_local_ipc::Geometry;

/// How many channels one connection carries. Each takes up to four streams in each direction, and
/// QUIC reserves memory for every stream that a peer may open, so this is a bound and not a hint:
/// the channel after the last is refused with `OverBudget`.
pub const MAX_CHANNELS_PER_PEER: u32 = 256;

/// What a gateway is started with.
#[derive(Debug)]
pub struct Config {
    /// The node's certificate, key and trust bundle.
    pub identity: NodeIdentity,
    /// The UDP address to listen on. Port 0: any free one, see `Running::local_address`.
    pub listen: SocketAddr,
    /// The size of the gateway's halves.
    pub geometry: Geometry,
    /// How long an inbound channel waits for its client's node to come back before it is closed.
    pub detached_for: Duration,
}

impl Config {
    /// A gateway with everything else as usual: halves of the default size, and ten minutes for a
    /// node that is away.
    #[must_use]
    pub fn new(identity: NodeIdentity, listen: SocketAddr) -> Self {
        Self {
            identity,
            listen,
            geometry: Geometry::DEFAULT,
            detached_for: Duration::from_secs(600),
        }
    }
}

/// Why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// Somebody else listens there.
    #[error("UDP port {0} is in use: is another node running here? choose another port")]
    PortInUse(SocketAddr),
    /// The address cannot be listened on.
    #[error("cannot listen on UDP {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// The node's key or certificate does not serve for TLS.
    #[error("the node's certificate does not serve for TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The configuration of TLS lacks what QUIC needs.
    #[error("the TLS configuration does not serve for QUIC")]
    NoQuicSuite,
    /// The machine has no thread for the watcher of bells.
    #[error("cannot start the watcher of doorbells: {0}")]
    Watcher(std::io::Error),
    /// The halves are too small for the longest message.
    #[error("halves of {slots} slots and {arena_bytes} arena bytes take no full message")]
    Geometry {
        /// Slots of a lane.
        slots: u32,
        /// Arena bytes of a lane.
        arena_bytes: u32,
    },
}
