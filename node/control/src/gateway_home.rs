//! Contract `node.gateway-home`: what a gateway asks of its daemon.

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};
use weft_contract::{Message, TypeTable, contract};
use weft_types::{ChannelId, Epoch, Lane, NodeName, PerLane, Refusal, Sequence, ServiceName};

use crate::channel_state::Caller;

/// The gateway listens for other nodes.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct GatewayReady {
    /// The UDP address, with the port that the system chose if any was asked for.
    pub address: String,
}

/// The daemon knows.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct ReadyNoted {}

/// Asks where a service lives now.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct Locate {
    /// The service.
    pub service: ServiceName,
}

/// Where the service lives.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct Located {
    /// Its node.
    pub node: NodeName,
    /// Its epoch.
    pub epoch: Epoch,
}

/// Asks at which addresses a node can be dialled.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct Resolve {
    /// The node.
    pub node: NodeName,
}

/// The addresses, looked up anew.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct Resolved {
    /// Socket addresses as text (`127.0.0.1:7001`), at least one.
    pub addresses: Vec<String>,
}

/// Asks whether this node serves a service in this epoch, and where one of its channels stands.
/// Refused with `Moved` or `Busy` if it does not, or not yet.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct InboundStart {
    /// The channel.
    pub channel: ChannelId,
    /// Who holds the far end, as the gateway has verified it. Only of its own channels it learns where
    /// they stand.
    pub caller: Caller,
    /// The service.
    pub target: ServiceName,
    /// The epoch that the far node believes in.
    pub epoch: Epoch,
}

/// The service is here.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct InboundStarted {
    /// Where the channel stands, if this node knows it: a former gateway carried it, or it came
    /// with a move.
    pub start: Option<StartAt>,
}

/// Where a gateway's half starts.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize, Schema)]
pub struct StartAt {
    /// For each lane that the gateway writes towards the service, the next sequence.
    pub outgoing: PerLane<Sequence>,
    /// For each lane that it reads from the service, the first sequence that is not done.
    pub incoming: PerLane<Sequence>,
}

/// A channel comes in from another node, and its capability is in order: connect it to the service.
///
/// Descriptors beside it: the gateway's half; beside the answer, the service's half, then this end
/// of the side socket.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct OpenInbound {
    /// The channel.
    pub channel: ChannelId,
    /// Who holds the far end, as the gateway has verified it.
    pub caller: Caller,
    /// The service.
    pub target: ServiceName,
    /// The epoch that the far node believes in.
    pub epoch: Epoch,
    /// What the client will send.
    pub table: TypeTable,
    /// The most urgent lane that the client's capability allows.
    pub ceiling: Lane,
    /// Where the gateway's half starts, as [`InboundStarted`] said.
    pub resume: Option<StartAt>,
}

/// The channel is connected to the service.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct InboundOpened {
    /// The epoch of the service.
    pub epoch: Epoch,
}

/// A channel from another node has ended there.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct InboundClosed {
    /// The channel.
    pub channel: ChannelId,
}

/// The service is told.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct InboundCloseNoted {}

/// A channel that was carried for a domain of this node cannot go on.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct ChannelLost {
    /// The channel.
    pub channel: ChannelId,
    /// Why.
    pub refusal: Refusal,
}

/// The client is told.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct LostNoted {}

/// Another node of this one's name is in the cluster and was there first. The gateway has seen it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct NameTaken {
    /// Who has refused us for it.
    pub peer: NodeName,
    /// What an operator is to know and do.
    pub text: String,
}

/// The daemon ends.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct NameTakenNoted {}

contract! {
    /// What the daemon serves to its gateway.
    pub contract GatewayHome("node.gateway-home", 1) as GatewayHomeRequest {
        GatewayReady => ReadyNoted,
        Locate => Located,
        Resolve => Resolved,
        InboundStart => InboundStarted,
        OpenInbound => InboundOpened,
        InboundClosed => InboundCloseNoted,
        ChannelLost => LostNoted,
        NameTaken => NameTakenNoted,
    }
}

#[cfg(test)]
mod tests {
    use weft_contract::{Accepts, Contract, encode};

    use super::*;

    #[test]
    fn a_channel_from_elsewhere_travels_whole() {
        let open = OpenInbound {
            channel: ChannelId::random(),
            caller: Caller {
                name: ServiceName::new("shop").unwrap(),
                node: NodeName::new("n1").unwrap(),
            },
            target: ServiceName::new("kv").unwrap(),
            epoch: Epoch::new(3),
            table: GatewayHome::table(),
            ceiling: Lane::HIGH,
            resume: None,
        };
        let mut body = Vec::new();
        encode(&open, &mut body).unwrap();
        let index = <GatewayHome as Accepts<OpenInbound>>::INDEX;
        let read = GatewayHome::decode(index, &body).unwrap();
        assert!(matches!(read, GatewayHomeRequest::OpenInbound(read) if read == open));
    }
}
