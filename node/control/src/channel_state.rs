//! The state of a channel's service end: what goes along when the service moves.

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};
use weft_contract::TypeTable;
use weft_types::{
    ChannelId, Lane, MAX_BODY_BYTES, MessageKind, NodeName, PerLane, Sequence, ServiceName,
    TypeIndex,
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
/// The unacknowledged messages of one channel need not fit into one message, and one of them may
/// already be as long as a body can be. So a state travels in pieces ([`Self::into_pieces`]), which
/// the receiver puts together again ([`Self::absorb`]).
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

/// The most bytes that a piece of a channel's state takes. It leaves room for what lies around it in
/// a message.
pub const MAX_PIECE_BYTES: usize = 80 * 1024;

/// What a [`SavedMessage`] takes beside its body, at most, in bytes.
const MESSAGE_OVERHEAD_BYTES: usize = 40;

/// What numbers, ids and lengths of a state take, at most, in bytes.
const STATE_OVERHEAD_BYTES: usize = 160;

/// What version, fingerprint and lengths of a type's description take, at most, in bytes.
const DESCRIPTION_OVERHEAD_BYTES: usize = 16;

/// A piece that does not continue the state that it is given to.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PieceError {
    /// It differs in what all pieces of a state have in common.
    #[error("a piece of {found} does not continue the state of {expected}")]
    Foreign {
        /// The channel whose state it is given to.
        expected: ChannelId,
        /// The channel that it names.
        found: ChannelId,
    },
    /// It would make a body longer than any message's.
    #[error("message {sequence} on {lane} of {channel} is longer than any message may be")]
    TooLong {
        /// The channel.
        channel: ChannelId,
        /// The message's lane.
        lane: Lane,
        /// The message.
        sequence: Sequence,
    },
}

impl ChannelState {
    /// An upper bound of what this takes on the wire, in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let messages = self.unacknowledged.iter().map(SavedMessage::size_bytes);
        self.size_without_messages() + messages.sum::<usize>()
    }

    fn size_without_messages(&self) -> usize {
        let types = self.table.entries.iter().map(|entry| {
            entry.request.name.len() + entry.reply.name.len() + 2 * DESCRIPTION_OVERHEAD_BYTES
        });
        let names = self.holder.as_str().len()
            + self.holder_node.as_str().len()
            + self.table.contract.as_str().len();
        STATE_OVERHEAD_BYTES + names + types.sum::<usize>()
    }

    /// Cuts the state into pieces of at most [`MAX_PIECE_BYTES`].
    ///
    /// All pieces agree in everything but their messages. A message that does not fit into what is
    /// left of a piece goes on in the next one, under the same lane and sequence.
    #[must_use]
    pub fn into_pieces(mut self) -> Vec<Self> {
        let messages = std::mem::take(&mut self.unacknowledged);
        let common = self;
        // A table within its bounds leaves half of it; each piece has to take something in any case.
        let capacity = MAX_PIECE_BYTES
            .saturating_sub(common.size_without_messages())
            .max(2 * MESSAGE_OVERHEAD_BYTES);
        let mut pieces = Vec::new();
        let mut piece = common.clone();
        let mut room = capacity;
        for mut message in messages {
            while message.size_bytes() > room {
                let fits = room.saturating_sub(MESSAGE_OVERHEAD_BYTES);
                if fits > 0 {
                    let rest = message.body.split_off(fits);
                    let body = std::mem::replace(&mut message.body, rest);
                    piece.unacknowledged.push(SavedMessage { body, ..message });
                }
                pieces.push(std::mem::replace(&mut piece, common.clone()));
                room = capacity;
            }
            room -= message.size_bytes();
            piece.unacknowledged.push(message);
        }
        pieces.push(piece);
        pieces
    }

    /// Appends the next piece of this state.
    ///
    /// # Errors
    ///
    /// [`PieceError`]; the state is then worth nothing.
    pub fn absorb(&mut self, mut next: Self) -> Result<(), PieceError> {
        let messages = std::mem::take(&mut next.unacknowledged);
        let own = std::mem::take(&mut self.unacknowledged);
        let same = *self == next;
        self.unacknowledged = own;
        if !same {
            return Err(PieceError::Foreign {
                expected: self.channel,
                found: next.channel,
            });
        }
        for message in messages {
            match self.unacknowledged.last_mut() {
                Some(last) if (last.lane, last.sequence) == (message.lane, message.sequence) => {
                    if last.body.len() + message.body.len() > MAX_BODY_BYTES {
                        return Err(PieceError::TooLong {
                            channel: self.channel,
                            lane: last.lane,
                            sequence: last.sequence,
                        });
                    }
                    last.body.extend(message.body);
                }
                _ => self.unacknowledged.push(message),
            }
        }
        Ok(())
    }
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

impl SavedMessage {
    fn size_bytes(&self) -> usize {
        MESSAGE_OVERHEAD_BYTES + self.body.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weft_contract::{TypeDescription, TypeEntry, encode};
    use weft_types::{ContractName, Fingerprint, MoveId};

    use super::*;
    use crate::MoveChannels;

    /// A state with a table of `types` entries of the longest names, and bodies of these lengths.
    fn state(types: usize, bodies: &[usize]) -> ChannelState {
        let longest = TypeDescription {
            name: "x".repeat(weft_contract::MAX_TYPE_NAME_BYTES),
            version: u16::MAX,
            fingerprint: Fingerprint::new(u64::MAX),
        };
        ChannelState {
            channel: ChannelId::new(u128::MAX),
            holder: ServiceName::new("h".repeat(64)).unwrap(),
            holder_node: NodeName::new("n".repeat(40)).unwrap(),
            table: TypeTable {
                contract: ContractName::new("c".repeat(40)).unwrap(),
                version: u16::MAX,
                entries: vec![
                    TypeEntry {
                        request: longest.clone(),
                        reply: longest,
                    };
                    types
                ],
            },
            incoming: PerLane::from_fn(|_| Sequence::new(u64::MAX)),
            outgoing: PerLane::from_fn(|_| Sequence::new(u64::MAX)),
            unacknowledged: (0u8..)
                .zip(bodies)
                .map(|(n, len)| SavedMessage {
                    lane: Lane::LOW,
                    sequence: Sequence::new(u64::MAX - u64::from(n)),
                    kind: MessageKind::OutcomeUnknown,
                    type_index: TypeIndex::new(u16::MAX),
                    correlation: Sequence::new(u64::MAX),
                    body: vec![n; *len],
                })
                .collect(),
        }
    }

    fn check_round_trip(whole: &ChannelState) {
        let mut joined: Option<ChannelState> = None;
        for piece in whole.clone().into_pieces() {
            assert!(piece.size_bytes() <= MAX_PIECE_BYTES);
            let message = MoveChannels {
                id: MoveId::new(u128::MAX),
                index: u32::MAX,
                channels: vec![piece.clone()],
            };
            let mut body = Vec::new();
            encode(&message, &mut body).unwrap();
            assert!(body.len() <= piece.size_bytes() + 40, "the bound is one");
            match &mut joined {
                None => joined = Some(piece),
                Some(joined) => joined.absorb(piece).unwrap(),
            }
        }
        assert_eq!(joined.as_ref(), Some(whole));
    }

    #[test]
    fn the_largest_table_and_the_longest_replies_travel_in_pieces() {
        let whole = state(
            weft_contract::MAX_TYPES,
            &[MAX_BODY_BYTES, 0, MAX_BODY_BYTES],
        );
        check_round_trip(&whole);
        assert_eq!(state(0, &[]).into_pieces().len(), 1);
    }

    #[test]
    fn a_piece_of_something_else_is_refused() {
        let mut whole = state(1, &[10]);
        let mut other = state(1, &[]);
        other.channel = ChannelId::new(7);
        assert!(matches!(
            whole.absorb(other),
            Err(PieceError::Foreign { found, .. }) if found == ChannelId::new(7)
        ));
        let mut behind = state(1, &[]);
        behind.outgoing[Lane::LOW] = Sequence::ZERO;
        assert!(whole.absorb(behind).is_err());
    }

    #[test]
    fn pieces_do_not_add_up_to_more_than_a_message() {
        let mut whole = state(1, &[MAX_BODY_BYTES]);
        assert!(whole.absorb(state(1, &[0])).is_ok());
        assert!(matches!(
            whole.absorb(state(1, &[1])),
            Err(PieceError::TooLong { .. })
        ));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_state_comes_together_again(
            types in 0usize..20,
            bodies in proptest::collection::vec(prop_oneof![0usize..200, 0..=MAX_BODY_BYTES], 0..12),
        ) {
            check_round_trip(&state(types, &bodies));
        }
    }
}
