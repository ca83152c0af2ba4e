//! Contract `node.domain`: what a daemon asks of the domains attached to it.
//!
//! Served by the runtime in each domain, over the channel to the dispatcher, in the other
//! direction. The first two messages concern any domain; the rest only one that is a service, and
//! are refused by others with `UnknownMessage`.

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};
use weft_contract::{Message, TypeTable, contract};
use weft_types::{ChannelId, Epoch, Lane, NodeName, PerLane, Refusal, Sequence};

use crate::channel_state::{Caller, ChannelState};

/// The peer of a channel was replaced: it was started again, has moved, or its gateway was.
///
/// Descriptors beside it: the new peer's half, then this end of the new side socket.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct SwapPeer {
    /// The channel.
    pub channel: ChannelId,
    /// The epoch of the service.
    pub epoch: Epoch,
    /// Where the peer lives now.
    pub node: NodeName,
}

/// The domain sends to and reads from the new peer.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct PeerSwapped {}

/// The peer of a channel is gone and nobody follows it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct PeerGone {
    /// The channel.
    pub channel: ChannelId,
    /// Why; every call that waits ends with this.
    pub refusal: Refusal,
}

/// The domain knows.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct PeerGoneNoted {}

/// A client opens a channel to this service, or its channel goes on with this instance.
///
/// Descriptors beside it: the client's half, then this end of the side socket; beside the answer,
/// the service's half.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct AttachClient {
    /// The channel.
    pub channel: ChannelId,
    /// Who sends on it.
    pub caller: Caller,
    /// What it will send. If this service does not understand it, the refusal goes to the client.
    pub table: TypeTable,
    /// The epoch of this service.
    pub epoch: Epoch,
    /// Where to go on, after the death of a former instance. Nothing for a new channel, and nothing
    /// for one that came with [`LoadChannels`].
    pub resume: Option<Resume>,
    /// The most urgent lane that the client's capability allows. A message on a more urgent one is
    /// answered with `NotAllowed`.
    pub ceiling: Lane,
}

/// Where the channel of a dead instance goes on, as its node read it from what was left in memory.
/// What the dead one had replied, as far as the client has not acknowledged it, came before with
/// [`LoadChannels`].
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema)]
pub struct Resume {
    /// For each lane of requests, what the dead instance had finished.
    pub incoming: PerLane<Sequence>,
    /// What it had taken and not finished, from the first sequence to before the second: each is
    /// answered with `OutcomeUnknown`, and what follows is handled.
    pub unknown: Vec<(Lane, Sequence, Sequence)>,
}

/// The service reads the channel.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct ClientAttached {}

/// A client has closed its channel, or has died.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct DetachClient {
    /// The channel.
    pub channel: ChannelId,
}

/// The service drops the channel once it has handled what is in it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct ClientDetached {}

/// Step `freeze`: finish the message in hand and take no more.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct Freeze {}

/// The service takes no messages.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct Frozen {
    /// How many clients it has.
    pub channels: u32,
}

/// The move will not happen: take messages again.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct Thaw {}

/// The service takes messages.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct Thawed {}

/// Steps `precopy` and `final`: asks for a piece of the state.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct CopyState {
    /// Which round of copying, from 0. Round 0 is everything, the others what changed since.
    pub round: u32,
    /// Which piece of the round, from 0. They are asked for in order.
    pub index: u32,
    /// Whether the service is frozen, so that this round is the last.
    pub last_round: bool,
}

/// A piece of the state.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct StateChunk {
    /// Bytes that only the service understands. May be empty.
    #[serde(with = "weft_contract::bytes")]
    pub bytes: Vec<u8>,
    /// Whether the round ends with this piece.
    pub last: bool,
}

/// Step `final`: asks a frozen service for some of its channels.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct CopyChannels {
    /// Which part, from 0.
    pub index: u32,
}

/// Some of the channels.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct ChannelChunk {
    /// The channels, or pieces of them: see [`ChannelState::into_pieces`].
    pub channels: Vec<ChannelState>,
    /// Whether this is the last part.
    pub last: bool,
}

/// Gives a new instance a piece of state, in the order in which it was copied.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct LoadState {
    /// What a [`StateChunk`] carried.
    #[serde(with = "weft_contract::bytes")]
    pub bytes: Vec<u8>,
}

/// The piece is part of the state.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct StateLoaded {}

/// Gives a new instance channels, which it expects to be attached later.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct LoadChannels {
    /// What a [`ChannelChunk`] carried.
    pub channels: Vec<ChannelState>,
}

/// The channels are known.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct ChannelsLoaded {}

/// Asks for a digest of the state, to compare two instances.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
#[message(name = "node.domain.Digest")]
pub struct Digest {}

/// The digest of the state.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct StateDigest {
    /// In hex; how it is made is the service's affair.
    pub digest: String,
}

/// Step `activate`: this instance owns the service; take messages.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct Activate {
    /// In this epoch.
    pub epoch: Epoch,
}

/// The service takes messages.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct Activated {}

/// Finish the message in hand and end the process.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct Shutdown {}

/// The process ends now.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
pub struct ShutDown {}

contract! {
    /// What each domain's runtime serves to its daemon.
    pub contract Domain("node.domain", 1) as DomainRequest {
        SwapPeer => PeerSwapped,
        PeerGone => PeerGoneNoted,
        AttachClient => ClientAttached,
        DetachClient => ClientDetached,
        Freeze => Frozen,
        Thaw => Thawed,
        CopyState => StateChunk,
        CopyChannels => ChannelChunk,
        LoadState => StateLoaded,
        LoadChannels => ChannelsLoaded,
        Digest => StateDigest,
        Activate => Activated,
        Shutdown => ShutDown,
    }
}

#[cfg(test)]
mod tests {
    use weft_contract::{Accepts, Contract, encode};
    use weft_types::{RefusalCode, ServiceName};

    use super::*;

    fn round_trip<M: Message>(message: &M) -> DomainRequest
    where
        Domain: Accepts<M>,
    {
        let mut body = Vec::new();
        encode(message, &mut body).unwrap();
        Domain::decode(<Domain as Accepts<M>>::INDEX, &body).unwrap()
    }

    #[test]
    fn the_end_of_a_dead_instance_travels_whole() {
        let attach = AttachClient {
            channel: ChannelId::random(),
            caller: Caller {
                name: ServiceName::new("shop").unwrap(),
                node: NodeName::new("n2").unwrap(),
            },
            table: Domain::table(),
            epoch: Epoch::FIRST,
            resume: Some(Resume {
                incoming: PerLane::from_fn(|_| Sequence::new(12)),
                unknown: vec![(Lane::NORMAL, Sequence::new(11), Sequence::new(12))],
            }),
            ceiling: Lane::NORMAL,
        };
        let read = round_trip(&attach);
        assert!(matches!(read, DomainRequest::AttachClient(read) if read == attach));
    }

    #[test]
    fn the_reason_of_a_death_travels_whole() {
        let gone = PeerGone {
            channel: ChannelId::random(),
            refusal: Refusal::new(RefusalCode::Closed, "stopped by the operator"),
        };
        let read = round_trip(&gone);
        assert!(matches!(read, DomainRequest::PeerGone(read) if read == gone));
    }
}
