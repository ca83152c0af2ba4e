//! Contract `node.gateway-home`: what a gateway asks of its daemon.

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};
use weft_contract::{Message, TypeTable, contract};
use weft_types::{ChannelId, Epoch, NodeName, PerLane, Sequence, ServiceName};

use crate::channel_state::Caller;
use crate::gateway::CarryResume;

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
    /// The epoch that the far node believes in. Refused with `Moved` if it is not ours.
    pub epoch: Epoch,
    /// What the client will send.
    pub table: TypeTable,
    /// Where the gateway goes on, if it has carried the channel before.
    pub resume: Option<CarryResume>,
}

/// The channel is connected to the service.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct InboundOpened {
    /// For each lane of requests, the sequence that the service expects next.
    pub incoming: PerLane<Sequence>,
    /// For each lane of replies, what the client has acknowledged: the service's ring starts there.
    pub outgoing: PerLane<Sequence>,
    /// The epoch of the service.
    pub epoch: Epoch,
}

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

/// A channel from another node has ended there.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct InboundClosed {
    /// The channel.
    pub channel: ChannelId,
}

/// The service is told.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct InboundCloseNoted {}

contract! {
    /// What the daemon serves to its gateway.
    pub contract GatewayHome("node.gateway-home", 1) as GatewayHomeRequest {
        OpenInbound => InboundOpened,
        Locate => Located,
        InboundClosed => InboundCloseNoted,
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
            resume: None,
        };
        let mut body = Vec::new();
        encode(&open, &mut body).unwrap();
        let index = <GatewayHome as Accepts<OpenInbound>>::INDEX;
        let read = GatewayHome::decode(index, &body).unwrap();
        assert!(matches!(read, GatewayHomeRequest::OpenInbound(read) if read == open));
    }
}
