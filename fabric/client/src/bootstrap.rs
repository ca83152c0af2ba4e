//! The first words between a process and its node.
//!
//! A domain has one socket to its node daemon: a service inherits it as its standard input, an app
//! connects to the node's Unix socket. One packet goes each way over it. The domain names itself
//! and hands over its halves of three channels (security, memory manager, dispatcher, in this
//! order); the node answers with its own halves and a side socket for each. From then on everything
//! is messages, and the socket only tells each side that the other has died.

use serde::{Deserialize, Serialize};
use weft_types::{ClusterName, DomainId, NodeName, Refusal, ServiceName};

/// The version of this exchange, and of what goes over the channels that it gives. A node refuses any
/// other.
pub const VERSION: u16 = 2;

/// The three channels that every domain starts with, in the order of their descriptors.
pub const CHANNELS: usize = 3;

/// What a domain says first, with [`CHANNELS`] halves beside it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Attach {
    /// [`VERSION`].
    pub version: u16,
    /// The name that an app wants to be known by. A process that the node started itself has its
    /// name already, and what it says here is not looked at.
    pub name: Option<ServiceName>,
    /// Whether the process may be looked into (`--debuggable`); shows in `weft ps`.
    pub debuggable: bool,
}

/// What the node answers, with [`CHANNELS`] halves and as many side sockets beside it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Attached {
    /// The domain is attached, under this identity.
    Welcome(Identity),
    /// It is not; nothing comes beside this.
    Refused(Refusal),
}

/// Who a domain is, as its node knows it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// The name under which it holds capabilities.
    pub name: ServiceName,
    /// Its number on its node.
    pub domain: DomainId,
    /// Its node.
    pub node: NodeName,
    /// Its node's cluster.
    pub cluster: ClusterName,
}

/// The longest bootstrap packet, in bytes. A node refuses a longer one.
pub const MAX_PACKET_BYTES: usize = 4096;

/// Set to `1` in the environment of a process that may be looked into: it is not protected, and says
/// so to its node. `weft node --debuggable` sets it for all that it starts.
pub const DEBUGGABLE: &str = "WEFT_DEBUGGABLE";
