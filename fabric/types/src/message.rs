//! What a message is to the fabric: a kind, a type index, a correlation and bytes.

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};

/// The longest body of one message, in bytes. Larger values are cut up by who sends them.
///
/// It bounds what a reader has to copy before it can check anything.
pub const MAX_BODY_BYTES: usize = 96 * 1024;

/// What a message is for. One byte in a slot and on the wire.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize, Deserialize, Schema)]
#[repr(u8)]
pub enum MessageKind {
    /// Wants a reply, which carries this message's sequence as its correlation.
    Request = 1,
    /// Wants none: the sender is content to know that it was handled.
    Tell = 2,
    /// The answer to a request of the other direction, on the same lane.
    Reply = 3,
    /// The handler's (or the runtime's) error in place of a reply. The body is a [`crate::Refusal`].
    Failure = 4,
    /// The receiver died with the request in hand; whether it took effect is not known. Its type index
    /// is 0: who says this has not seen the request.
    OutcomeUnknown = 5,
}

impl MessageKind {
    /// The kind that this byte stands for, if there is one.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Request,
            2 => Self::Tell,
            3 => Self::Reply,
            4 => Self::Failure,
            5 => Self::OutcomeUnknown,
            _ => return None,
        })
    }

    /// The byte that stands for this kind.
    #[must_use]
    pub const fn to_byte(self) -> u8 {
        self as u8
    }

    /// Whether the correlation names a request of the other direction.
    #[must_use]
    pub const fn answers(self) -> bool {
        matches!(self, Self::Reply | Self::Failure | Self::OutcomeUnknown)
    }
}
