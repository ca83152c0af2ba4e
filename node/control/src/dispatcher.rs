//! Contract `node.dispatcher`: how a domain opens channels and becomes a service.

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};
use weft_contract::{ContractDescription, Message, TypeTable, contract};
use weft_types::{ChannelId, Epoch, NodeName, Refusal, ServiceName};

/// Opens a channel. This is where the capability is checked, and never again per message.
///
/// Descriptors beside it: the client's half.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct OpenChannel {
    /// The new channel, named by the client.
    pub channel: ChannelId,
    /// The service at its far end, wherever it lives.
    pub target: ServiceName,
    /// What the client will send. It names the contract that the capability has to be for.
    pub table: TypeTable,
}

/// The channel stands.
///
/// Descriptors beside it: the service's (or the gateway's) half, then this end of the side socket.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct ChannelOpened {
    /// The epoch of the service.
    pub epoch: Epoch,
    /// Where the service lives now.
    pub node: NodeName,
    /// Whether that is this node.
    pub local: bool,
}

/// Closes a channel from the client's side. What the service has not taken yet may be dropped.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct CloseChannel {
    /// The channel.
    pub channel: ChannelId,
}

/// The channel is closed; also said of one that was not open.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct ChannelClosed {}

/// A domain that the daemon has started as a service says that it is ready, and for what.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct RegisterService {
    /// The service: the name under which the daemon started this domain.
    pub name: ServiceName,
    /// What it understands.
    pub description: ContractDescription,
}

/// Clients may come.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct ServiceRegistered {}

/// Asks what a service understands, wherever it lives.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct DescribeService {
    /// The service.
    pub service: ServiceName,
}

/// What the service understands.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct ServiceDescribed {
    /// As the service itself registered it: it may lie.
    pub description: ContractDescription,
}

/// A service says that the client of one of its channels broke the rules of shared memory, and that
/// it does not listen to it any more. The node closes the channel and tells the client.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct ClientFault {
    /// The channel.
    pub channel: ChannelId,
    /// What the client is told.
    pub refusal: Refusal,
}

/// The channel is being closed.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct ClientFaultNoted {}

contract! {
    /// What the daemon serves to each domain attached to it.
    pub contract Dispatcher("node.dispatcher", 1) as DispatcherRequest {
        OpenChannel => ChannelOpened,
        CloseChannel => ChannelClosed,
        RegisterService => ServiceRegistered,
        DescribeService => ServiceDescribed,
        ClientFault => ClientFaultNoted,
    }
}

#[cfg(test)]
mod tests {
    use weft_contract::{Accepts, Contract, encode};

    use super::*;

    #[test]
    fn a_registration_carries_the_whole_description() {
        let register = RegisterService {
            name: ServiceName::new("kv").unwrap(),
            description: Dispatcher::description(),
        };
        let mut body = Vec::new();
        encode(&register, &mut body).unwrap();
        let index = <Dispatcher as Accepts<RegisterService>>::INDEX;
        match Dispatcher::decode(index, &body).unwrap() {
            DispatcherRequest::RegisterService(read) => {
                assert_eq!(read, register);
                assert_eq!(read.description.table(), Dispatcher::table());
            }
            other => panic!("{other:?}"),
        }
    }
}
