//! Contract `node.memory`: how much shared memory a domain may own.
//!
//! The domain creates and seals its regions itself; here it asks whether it may. Never on the way
//! of a message: extents are large and asked for ahead.

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};
use weft_contract::{Message, contract};
use weft_types::ChannelId;

/// Asks for room. Refused with `OverBudget`; with `Rejected` if there is no such NUMA node, or if the
/// domain may have no memory there.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct RequestExtent {
    /// How much, in bytes.
    pub bytes: u64,
    /// On which NUMA node of the machine the memory shall lie, by its number, if that matters.
    pub numa_node: Option<u32>,
}

/// Asks for room for a queue of a channel that is full. Refused with `OverBudget`, sooner than
/// [`RequestExtent`]: a peer that takes nothing makes its sender ask for this, and must not use up
/// what the sender needs for its other channels.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct RequestGrowth {
    /// The channel.
    pub channel: ChannelId,
    /// How much, in bytes.
    pub bytes: u64,
}

/// The room is granted.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct ExtentGranted {
    /// How much was granted, in bytes.
    pub bytes: u64,
    /// On which NUMA node the domain is to place it: the one that it asked for. It is there, and the
    /// domain may use it; whether it has so much free is seen when the pages are taken.
    pub numa_node: Option<u32>,
    /// How much the domain may have in all.
    pub budget_bytes: u64,
    /// How much it has now, this included.
    pub used_bytes: u64,
    /// Whether the system enforces the budget. If not, it is kept by those who keep to it.
    pub enforced: bool,
}

/// Gives room back.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct ReturnExtent {
    /// How much, in bytes.
    pub bytes: u64,
}

/// The room is free for others.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct ExtentReturned {
    /// How much the domain has now.
    pub used_bytes: u64,
}

contract! {
    /// What the daemon serves to each domain attached to it.
    pub contract Memory("node.memory", 1) as MemoryRequest {
        RequestExtent => ExtentGranted,
        ReturnExtent => ExtentReturned,
        RequestGrowth => ExtentGranted,
    }
}

#[cfg(test)]
mod tests {
    use weft_contract::{Accepts, Contract, encode};

    use super::*;

    #[test]
    fn a_request_for_room_travels_whole() {
        let request = RequestExtent {
            bytes: 1 << 33,
            numa_node: Some(1),
        };
        let mut body = Vec::new();
        encode(&request, &mut body).unwrap();
        let read = Memory::decode(<Memory as Accepts<RequestExtent>>::INDEX, &body).unwrap();
        assert!(matches!(read, MemoryRequest::RequestExtent(read) if read == request));
    }
}
