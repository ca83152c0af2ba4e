//! The part of `node.control` that daemons say to each other: moves and the directory.
//!
//! The source's daemon drives a move and says these to the target's; both may hear a message again
//! after a lost answer, and answer as they did the first time. [`MoveId`] tells moves apart.
//! The directory's holder hears the `Directory...` messages.

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};
use weft_contract::{Message, TypeTable};
use weft_types::{Epoch, MoveId, NodeName, ServiceName};

use crate::channel_state::ChannelState;
use crate::report::Program;

/// Step `prepare`: start an instance that takes no messages.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct MovePrepare {
    /// The move.
    pub id: MoveId,
    /// What moves.
    pub service: ServiceName,
    /// What it understands: the target's program may understand more, never less.
    pub types: TypeTable,
    /// What its process runs.
    pub program: Program,
    /// Where it lives now.
    pub from: NodeName,
    /// In which epoch.
    pub epoch: Epoch,
    /// The move is committed, and the target lost the state: it starts over under the same id.
    pub again: bool,
}

/// The instance waits for state.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct MovePrepared {}

/// Steps `precopy` and `final`: a piece of the service's state.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct MoveChunk {
    /// The move.
    pub id: MoveId,
    /// Which round of copying, from 0.
    pub round: u32,
    /// Which piece of the round, from 0. They come in order.
    pub index: u32,
    /// Bytes that only the service understands.
    #[serde(with = "weft_contract::bytes")]
    pub bytes: Vec<u8>,
}

/// The piece is in the new instance.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct MoveChunkStored {}

/// Step `final`: some of the service's channels.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct MoveChannels {
    /// The move.
    pub id: MoveId,
    /// Which part, from 0. They come in order.
    pub index: u32,
    /// The channels, or pieces of them: see [`ChannelState::into_pieces`].
    pub channels: Vec<ChannelState>,
}

/// The channels are in the new instance.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct MoveChannelsStored {}

/// Step `final`: everything was sent; compare.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct MoveFinal {
    /// The move.
    pub id: MoveId,
    /// How many [`MoveChannels`] there were.
    pub parts: u32,
    /// How many channels, each counted once.
    pub channels: u32,
    /// The digest of the state at the source.
    pub digest: String,
}

/// The new instance has everything and could take over.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct MoveReady {
    /// The digest of the state at the target. If it differs, the source thaws.
    pub digest: String,
}

/// Step `activate`: the directory says that the target owns the service.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct MoveActivate {
    /// The move.
    pub id: MoveId,
    /// What moves.
    pub service: ServiceName,
    /// The epoch of the target.
    pub epoch: Epoch,
}

/// What became of the activation.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub enum MoveActivated {
    /// The new instance takes messages.
    Serving,
    /// The target has no state for this move and has never activated it; it has to be sent again.
    Never,
    /// The directory names a later owner than this move makes.
    Superseded {
        /// The owner; nothing if the service was removed.
        owner: Option<Owner>,
    },
}

/// The move will not happen: drop what was prepared. Never said once the commit was submitted,
/// unless the directory has refused it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct MoveAbandon {
    /// The move.
    pub id: MoveId,
}

/// Nothing is left of the move.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct MoveAbandoned {}

/// The target asks the source whether a move goes on, of which it has not heard for long.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct MoveAsk {
    /// The move.
    pub id: MoveId,
    /// What moves.
    pub service: ServiceName,
    /// The source's epoch.
    pub epoch: Epoch,
}

/// How the source stands to a move.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub enum MoveStanding {
    /// It goes on.
    GoesOn,
    /// The source owns the service since exactly that epoch, and moves it no more.
    Abandoned,
    /// The source cannot tell: it may have submitted the commit in a former life.
    Unknown,
}

/// Asks where a service lives.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct DirectoryLookup {
    /// The service.
    pub service: ServiceName,
}

/// Starts a service: a new owner, or a new life of the same one.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct DirectoryRegister {
    /// The service.
    pub service: ServiceName,
    /// The node that is going to run it.
    pub node: NodeName,
    /// Nothing: nobody owns it. An epoch: `node` owns it since then, has lost that instance and
    /// starts another.
    pub after: Option<Epoch>,
}

/// Step `commit`: the service changes its owner, if it still is what the source thinks. The one
/// point of no return; only the source's node submits it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct DirectoryCommit {
    /// The move: submitted again, it gets the answer of the first time.
    pub id: MoveId,
    /// What moves.
    pub service: ServiceName,
    /// The present owner.
    pub from: NodeName,
    /// The next one.
    pub to: NodeName,
    /// The present owner's epoch; the next one's is one more.
    pub epoch: Epoch,
}

/// Takes a service out, if it still belongs to this node in this epoch.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct DirectoryRemove {
    /// The service.
    pub service: ServiceName,
    /// Its owner.
    pub node: NodeName,
    /// The owner's epoch.
    pub epoch: Epoch,
}

/// An owner, as the directory names it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema)]
pub struct Owner {
    /// The node.
    pub node: NodeName,
    /// Since when, counted in owners.
    pub epoch: Epoch,
    /// The move that made it the owner; nothing if it registered.
    pub by: Option<MoveId>,
}

/// What the directory decided. A no is an answer, not a failure: nothing was changed.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub enum DirectoryAnswer {
    /// The owner after the command.
    Owned(Owner),
    /// Nobody owns a service of this name.
    Unknown {
        /// The service.
        service: ServiceName,
    },
    /// The owner is another, or has another epoch, than the command says.
    Moved {
        /// The service.
        service: ServiceName,
        /// Its owner.
        current: Owner,
    },
    /// The service moves to where it is.
    AlreadyThere {
        /// The service.
        service: ServiceName,
        /// The node.
        node: NodeName,
    },
    /// The directory has as many services as it takes.
    Full,
}

#[cfg(test)]
mod tests {
    use weft_contract::{Accepts, Contract, encode};
    use weft_types::{
        ChannelId, ContractName, Fingerprint, Lane, MessageKind, PerLane, Sequence, TypeIndex,
    };

    use super::*;
    use crate::SavedMessage;
    use crate::node::{NodeControl, NodeControlRequest};

    #[test]
    fn the_state_of_a_channel_travels_whole() {
        let described = weft_contract::TypeDescription {
            name: "kv.Put".into(),
            version: 1,
            fingerprint: Fingerprint::new(u64::MAX),
        };
        let sent = MoveChannels {
            id: MoveId::new(u128::MAX),
            index: 1,
            channels: vec![ChannelState {
                channel: ChannelId::new(7),
                holder: ServiceName::new("shop").unwrap(),
                holder_node: NodeName::new("n1").unwrap(),
                table: TypeTable {
                    contract: ContractName::new("kv").unwrap(),
                    version: 1,
                    entries: vec![weft_contract::TypeEntry {
                        request: described.clone(),
                        reply: described,
                    }],
                },
                incoming: PerLane::from_fn(|lane| Sequence::new(u64::from(lane.get()))),
                outgoing: PerLane::default(),
                unacknowledged: vec![SavedMessage {
                    lane: Lane::LOW,
                    sequence: Sequence::ZERO,
                    kind: MessageKind::Reply,
                    type_index: TypeIndex::new(0),
                    correlation: Sequence::new(9),
                    body: vec![1; 1000],
                }],
            }],
        };
        let mut body = Vec::new();
        encode(&sent, &mut body).unwrap();
        let index = <NodeControl as Accepts<MoveChannels>>::INDEX;
        let read = NodeControl::decode(index, &body).unwrap();
        assert!(matches!(read, NodeControlRequest::MoveChannels(read) if read == sent));
    }
}
