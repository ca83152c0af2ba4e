//! The state of a channel's service end: what goes along when the service moves.

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};
use weft_contract::TypeTable;
use weft_types::{
    ChannelId, Lane, MessageKind, NodeName, PerLane, Sequence, ServiceName, TypeIndex,
};

/// Who holds the client's end of a channel. Attached by the runtime, never said by the client.
#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize, Deserialize, Schema)]
pub struct Caller {
    /// The name by which it holds its capability.
    pub name: ServiceName,
    /// The node that it is attached to.
    pub node: NodeName,
}

/// The service's end of one channel, frozen: all that a successor needs to go on with it.
///
/// A channel with many unacknowledged messages comes in several pieces, which agree in everything
/// but [`Self::unacknowledged`]; the messages of the later ones follow those of the earlier.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema)]
pub struct ChannelState {
    /// The channel.
    pub channel: ChannelId,
    /// Who holds the client's end.
    pub holder: ServiceName,
    /// The node that the holder is attached to.
    pub holder_node: NodeName,
    /// The client's types, which rule the channel.
    pub table: TypeTable,
    /// For each lane of requests, what is handled: the first sequence that the successor takes.
    pub incoming: PerLane<Sequence>,
    /// For each lane of replies, what the client has acknowledged. The unacknowledged messages of
    /// the lane follow without a gap, and the next new one comes after them.
    pub outgoing: PerLane<Sequence>,
    /// Sent and not acknowledged, in the order of their sequences within each lane.
    pub unacknowledged: Vec<SavedMessage>,
}

/// A message that was sent and may have to be sent again.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema)]
pub struct SavedMessage {
    /// The lane that it was sent on.
    pub lane: Lane,
    /// Its sequence, which it keeps.
    pub sequence: Sequence,
    /// What it is for.
    pub kind: MessageKind,
    /// Its type, by the client's table.
    pub type_index: TypeIndex,
    /// The request that it answers, on the same lane.
    pub correlation: Sequence,
    /// Its bytes.
    #[serde(with = "weft_contract::bytes")]
    pub body: Vec<u8>,
}
