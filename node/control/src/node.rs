//! Contract `node.control`: what operators ask of a node, and nodes of each other.

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};
use weft_contract::{ContractDescription, Message, contract};
use weft_types::{ClusterName, Epoch, NodeName, ServiceName};

use crate::moves::{
    DirectoryAnswer, DirectoryCommit, DirectoryLookup, DirectoryRegister, DirectoryRemove,
    MoveAbandon, MoveAbandoned, MoveActivate, MoveActivated, MoveAsk, MoveChannels,
    MoveChannelsStored, MoveChunk, MoveChunkStored, MoveFinal, MovePrepare, MovePrepared,
    MoveReady, MoveStanding,
};
use crate::report::{
    ChannelReport, DirectoryEntry, DomainReport, LogRecord, MoveReport, PeerReport, Program,
    ServiceReport,
};

/// Asks whether the daemon answers.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct Ping {
    /// The sender's clock when it asked, in nanoseconds; means nothing to anyone else.
    pub sent_nanos: u64,
}

/// The daemon answers.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct Pong {
    /// The node that answers.
    pub node: NodeName,
    /// Its own clock when it handled the ping, in nanoseconds; not comparable to the sender's.
    pub received_nanos: u64,
}

/// Asks a daemon to ping the daemon of another node.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct PingPeer {
    /// The other node.
    pub node: NodeName,
}

/// The other node answered.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct PeerPong {
    /// The node that pinged.
    pub from: NodeName,
    /// The node that answered.
    pub node: NodeName,
    /// From one daemon to the other and back, in nanoseconds.
    pub round_trip_nanos: u64,
}

/// Asks for everything that runs on a node.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct Inventory {}

/// What runs on a node. Must fit into one message, as must every reply: a node with very many
/// channels answers `TooLarge`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct InventoryReply {
    /// The node.
    pub node: NodeName,
    /// The cluster that it belongs to.
    pub cluster: ClusterName,
    /// The daemon's process id.
    pub pid: u32,
    /// How long the daemon has been running, in milliseconds.
    pub uptime_ms: u64,
    /// The processes attached to it.
    pub domains: Vec<DomainReport>,
    /// The services that live, start or arrive here.
    pub services: Vec<ServiceReport>,
    /// The channels with an end here.
    pub channels: Vec<ChannelReport>,
    /// The other nodes that it knows.
    pub peers: Vec<PeerReport>,
}

/// Starts a service here.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct Start {
    /// Its name, which is free in the directory.
    pub name: ServiceName,
    /// What its process runs.
    pub program: Program,
}

/// The service has registered and serves.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct Started {
    /// Its process id on the node.
    pub pid: u32,
    /// The epoch in which it serves.
    pub epoch: Epoch,
}

/// Stops a service that lives here, and takes it out of the directory. Its state is gone.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct Stop {
    /// Its name.
    pub name: ServiceName,
}

/// The service is no more.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct Stopped {}

/// Moves a service that lives here to another node, and answers when it serves there.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct Migrate {
    /// Which service.
    pub service: ServiceName,
    /// Its new node.
    pub to: NodeName,
}

/// The service has moved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct MigrateReply {
    /// What happened, with times.
    pub report: MoveReport,
}

/// Reads the daemon's log.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct Log {
    /// Only records with a number greater than this; 0 for all that are kept.
    pub after: u64,
    /// At most so many records, the oldest first.
    pub limit: u32,
}

/// A part of the log.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct LogReply {
    /// The records in the order of their numbers. Fewer than the limit if more would not fit into a
    /// message, or if there are no more: ask again behind the last one until none comes.
    pub records: Vec<LogRecord>,
}

/// Asks where the services of the cluster live.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct Directory {}

/// The services of the cluster.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct DirectoryReply {
    /// In the order of their names.
    pub entries: Vec<DirectoryEntry>,
}

/// Asks what a service that lives here understands.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct Describe {
    /// The service.
    pub service: ServiceName,
}

/// What the service understands.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct DescribeReply {
    /// As the service itself registered it.
    pub description: ContractDescription,
}

/// Gives the node a capability for one of its domains. The node checks it like any other.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct InstallGrant {
    /// The certificate, and those between it and the root, as PEM.
    pub certificate_pem: String,
}

/// The node keeps the capability.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct GrantInstalled {
    /// Who may use it.
    pub holder: String,
    /// What it opens.
    pub target: String,
}

contract! {
    /// What each node daemon serves, as service `node/<name>`.
    pub contract NodeControl("node.control", 1) as NodeControlRequest {
        Ping => Pong,
        PingPeer => PeerPong,
        Inventory => InventoryReply,
        Start => Started,
        Stop => Stopped,
        Migrate => MigrateReply,
        Log => LogReply,
        Directory => DirectoryReply,
        Describe => DescribeReply,
        InstallGrant => GrantInstalled,
        MovePrepare => MovePrepared,
        MoveChunk => MoveChunkStored,
        MoveChannels => MoveChannelsStored,
        MoveFinal => MoveReady,
        MoveActivate => MoveActivated,
        MoveAbandon => MoveAbandoned,
        MoveAsk => MoveStanding,
        DirectoryLookup => DirectoryAnswer,
        DirectoryRegister => DirectoryAnswer,
        DirectoryCommit => DirectoryAnswer,
        DirectoryRemove => DirectoryAnswer,
    }
}

#[cfg(test)]
mod tests {
    use weft_contract::{Accepts, Contract, decode, encode};
    use weft_types::MAX_BODY_BYTES;

    use super::*;

    #[test]
    fn a_move_report_travels_whole() {
        let node = |name| NodeName::new(name).unwrap();
        let reply = MigrateReply {
            report: MoveReport {
                service: ServiceName::new("kv").unwrap(),
                from: node("n1"),
                to: node("n2"),
                epoch: Epoch::FIRST.next(),
                steps_ms: vec![crate::StepTime {
                    step: "freeze".into(),
                    milliseconds: 0.25,
                }],
                bytes: 1 << 40,
                channels: 3,
                blackout_ms: 1.5,
            },
        };
        let mut body = Vec::new();
        encode(&reply, &mut body).unwrap();
        assert_eq!(decode(&body), Ok(reply));
    }

    #[test]
    fn a_request_is_decoded_by_its_index() {
        let start = Start {
            name: ServiceName::new("kv").unwrap(),
            program: Program::Builtin("kv".into()),
        };
        let mut body = Vec::new();
        encode(&start, &mut body).unwrap();
        let request = NodeControl::decode(<NodeControl as Accepts<Start>>::INDEX, &body).unwrap();
        assert!(matches!(request, NodeControlRequest::Start(read) if read == start));
    }

    #[test]
    fn a_name_that_breaks_the_rules_does_not_get_in() {
        // `Stop` with a service name that would leave its directory.
        let body = b"\x06../etc";
        assert!(NodeControl::decode(<NodeControl as Accepts<Stop>>::INDEX, body).is_err());
    }

    #[test]
    fn the_largest_contract_can_be_described_in_one_message() {
        let reply = DescribeReply {
            description: NodeControl::description(),
        };
        let mut body = Vec::new();
        encode(&reply, &mut body).unwrap();
        assert!(body.len() < MAX_BODY_BYTES / 4, "{} bytes", body.len());
        assert_eq!(decode(&body), Ok(reply));
    }
}
