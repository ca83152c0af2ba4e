//! Contract `node.gateway`: what a daemon asks of its gateway.

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};
use weft_contract::{Message, TypeTable, contract};
use weft_types::{ChannelId, Epoch, NodeName, PerLane, Refusal, Sequence, ServiceName};

use crate::report::PeerReport;

/// Carries a channel to another node: there the far gateway checks the capability and opens it.
///
/// Descriptors beside it: the client's half, then this end of the side socket; beside the answer,
/// the gateway's half.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct Carry {
    /// The channel.
    pub channel: ChannelId,
    /// The service at its far end.
    pub target: ServiceName,
    /// Who holds the near end.
    pub holder: ServiceName,
    /// The node of the service.
    pub node: NodeName,
    /// The epoch of the service, as the daemon knows it.
    pub epoch: Epoch,
    /// What the client will send.
    pub table: TypeTable,
    /// Where to go on, if the channel is not new: a former gateway carried it, or the service has
    /// moved away from this node.
    pub resume: Option<CarryResume>,
}

/// Where a channel goes on, at one gateway.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize, Schema)]
pub struct CarryResume {
    /// For each lane that the gateway reads on this machine, the first sequence that is not done.
    pub incoming: PerLane<Sequence>,
    /// For each lane that it writes on this machine, the next sequence.
    pub outgoing: PerLane<Sequence>,
}

/// The channel stands from end to end.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct Carried {
    /// The epoch of the service, as the far node knows it.
    pub epoch: Epoch,
}

/// Carries a channel no longer: one of its ends is gone, or both are on this node now.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct Drop {
    /// The channel.
    pub channel: ChannelId,
    /// Why, for a far client. Nothing if there is none to be told.
    pub refusal: Option<Refusal>,
}

/// The gateway has nothing of the channel any more; also said of one that it did not carry.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct Dropped {}

/// The local end of a carried channel was replaced: its service has been started again.
///
/// Descriptors beside it: the new local half, then this end of the new side socket.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct SwapLocal {
    /// The channel.
    pub channel: ChannelId,
}

/// The gateway reads from and writes to the new local end.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct LocalSwapped {}

/// A service lives elsewhere now: every channel to it that comes from this node goes there.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct ServiceMoved {
    /// The service.
    pub service: ServiceName,
    /// Its new node.
    pub node: NodeName,
    /// Its new epoch. An older one than the gateway knows is ignored.
    pub epoch: Epoch,
}

/// The gateway connects the channels anew.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct MoveNoted {}

/// Asks how the connections to other nodes are.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct Peers {}

/// The other nodes.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct PeerList {
    /// One for each that the gateway was told of.
    pub peers: Vec<PeerReport>,
}

contract! {
    /// What the gateway serves to its daemon.
    pub contract Gateway("node.gateway", 1) as GatewayRequest {
        Carry => Carried,
        Drop => Dropped,
        SwapLocal => LocalSwapped,
        ServiceMoved => MoveNoted,
        Peers => PeerList,
    }
}

#[cfg(test)]
mod tests {
    use weft_contract::{Accepts, Contract, encode};

    use super::*;

    #[test]
    fn a_channel_that_goes_on_travels_whole() {
        let carry = Carry {
            channel: ChannelId::random(),
            target: ServiceName::new("kv").unwrap(),
            holder: ServiceName::new("shop").unwrap(),
            node: NodeName::new("n2").unwrap(),
            epoch: Epoch::FIRST,
            table: Gateway::table(),
            resume: Some(CarryResume {
                incoming: PerLane::from_fn(|lane| Sequence::new(1000 + u64::from(lane.get()))),
                outgoing: PerLane::default(),
            }),
        };
        let mut body = Vec::new();
        encode(&carry, &mut body).unwrap();
        let read = Gateway::decode(<Gateway as Accepts<Carry>>::INDEX, &body).unwrap();
        assert!(matches!(read, GatewayRequest::Carry(read) if read == carry));
    }
}
