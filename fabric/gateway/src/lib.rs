//! The gateway of a node: carries channels to and from other nodes over QUIC.
//!
//! A gateway is a domain that stands in for every remote peer. Towards a local client or service it
//! has a half of a channel like anybody else; towards another node it has one connection (mutual
//! TLS 1.3) with a control stream and, for each channel, direction and lane, a data stream. What
//! happens between the two is decided by [`weft_protocol::session`]; this crate moves the bytes.
//!
//! It stores no message. What the far receiver has not done is still in the sender's ring, so a
//! lost connection costs time and nothing else, and so does a gateway that dies.
//!
//! - `home`: what the gateway and its node ask of each other. Start reading there.
//! - `gateway`: tables, tasks, the handle.
//! - `near`, `far`: channels of local clients, channels of remote ones.
//! - `channel`: one channel, its rings and its session; `traffic`: its streams.
//! - `peers`, `link`, `endpoint`: the connections; `namesake`: two nodes with one name.

mod backoff;
mod channel;
mod config;
mod endpoint;
mod far;
mod gateway;
mod home;
mod link;
mod namesake;
mod near;
mod peers;
mod traffic;

pub use config::{Config, GatewayError, MAX_CHANNELS_PER_PEER};
pub use gateway::{GatewayHandle, Running, run};
pub use home::{Carried, Carry, CarryResume, Home, InboundOpen, InboundOpened, PeerStatus};
