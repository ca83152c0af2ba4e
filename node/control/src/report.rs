//! What a node tells about itself: the parts of replies.

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};
use weft_types::{ChannelId, DomainId, Epoch, NodeName, ServiceName};

/// A process attached to a node.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema)]
pub struct DomainReport {
    /// Its number on this node.
    pub id: DomainId,
    /// The name by which it holds capabilities.
    pub name: ServiceName,
    /// Its process id, in the node's pid namespace.
    pub pid: u32,
    /// What it is there for.
    pub role: DomainRole,
    /// How much shared memory it may own, in bytes.
    pub budget_bytes: u64,
    /// How much of it is granted, in bytes.
    pub used_bytes: u64,
    /// Whether a debugger may look into it, and so into everything that was sent to it.
    pub debuggable: bool,
}

/// What a domain is there for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize, Schema)]
pub enum DomainRole {
    /// A client: an app or the command line.
    App,
    /// An instance of a service.
    Service,
    /// The node's gateway.
    Gateway,
}

/// A service on this node.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema)]
pub struct ServiceReport {
    /// Its name.
    pub name: ServiceName,
    /// What it understands, with its version (`kv v1`); empty until the service has registered.
    pub contract: String,
    /// The epoch of this instance.
    pub epoch: Epoch,
    /// How far it is.
    pub state: ServiceState,
    /// How often it was started again after a death, since it was started or came here.
    pub restarts: u32,
    /// Its process, if it has one now.
    pub pid: Option<u32>,
    /// What a person should know beyond the state: which step of a move, why it failed. May be empty.
    pub detail: String,
}

/// How far an instance of a service is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize, Schema)]
pub enum ServiceState {
    /// Its process is being started and has not registered yet.
    Starting,
    /// It serves.
    Active,
    /// It moves away: it takes no messages while its last state is copied.
    Frozen,
    /// It moves away and the outcome of the commit is not known yet. It stays frozen until the
    /// directory answers; nobody else may decide.
    Committing,
    /// It comes from another node and does not serve yet.
    Incoming,
    /// It was told to stop.
    Stopping,
    /// It is not running, and will not be started again by itself.
    Failed,
}

/// One channel, as the node sees it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema)]
pub struct ChannelReport {
    /// The channel.
    pub channel: ChannelId,
    /// The service at its far end.
    pub target: ServiceName,
    /// Who opened it.
    pub holder: ServiceName,
    /// The process at the client's end: `domain 3`, or `node n2` if it comes from there.
    pub client: String,
    /// The process at the service's end, likewise.
    pub server: String,
    /// The epoch of the service that it is connected to.
    pub epoch: Epoch,
    /// Whether it stays on this machine.
    pub path: Path,
}

/// Whether a channel stays on this machine.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize, Schema)]
pub enum Path {
    /// Both ends are here.
    Local,
    /// The client is here, the service on another node.
    RemoteOut,
    /// The service is here, the client on another node.
    RemoteIn,
}

/// Another node, as the gateway sees it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema)]
pub struct PeerReport {
    /// The other node.
    pub node: NodeName,
    /// Where it is looked for, as `host:port`.
    pub address: String,
    /// Whether a connection stands.
    pub connected: bool,
    /// How many channels go over it.
    pub channels: u32,
}

/// What a service's process runs.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema)]
pub enum Program {
    /// One that the `weft` binary has in itself, by name.
    Builtin(String),
    /// A program on the node's disk. Every node that the service may move to has to have it.
    Path {
        /// Absolute, or relative to the node's data directory.
        path: String,
        /// Its arguments, without the program's own name.
        arguments: Vec<String>,
    },
}

/// A finished move.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Schema)]
pub struct MoveReport {
    /// What moved.
    pub service: ServiceName,
    /// From here.
    pub from: NodeName,
    /// To here.
    pub to: NodeName,
    /// The epoch of the new owner.
    pub epoch: Epoch,
    /// How long each step took, in the order in which they were taken.
    pub steps_ms: Vec<StepTime>,
    /// How many bytes of state were sent, repeats included.
    pub bytes: u64,
    /// How many channels went along.
    pub channels: u32,
    /// How long nobody took messages: from `freeze` to the end of `swap`, in milliseconds.
    pub blackout_ms: f64,
}

/// One step of a move.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Schema)]
pub struct StepTime {
    /// `prepare`, `precopy`, `freeze`, `final`, `commit`, `activate` or `swap`.
    pub step: String,
    /// How long it took.
    pub milliseconds: f64,
}

/// One line of a node's log.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema)]
pub struct LogRecord {
    /// Counts the records of this daemon from 1; a gap means that records were dropped.
    pub number: u64,
    /// When, in milliseconds since 1970.
    pub unix_ms: u64,
    /// `info`, or `warn` for what went wrong.
    pub level: String,
    /// What.
    pub text: String,
}

/// Where a service lives.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema)]
pub struct DirectoryEntry {
    /// The service.
    pub service: ServiceName,
    /// The node that owns it.
    pub node: NodeName,
    /// In which epoch.
    pub epoch: Epoch,
}
