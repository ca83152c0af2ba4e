//! What a message carries in place of an object, and what can be wrong with what a peer says of one.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::blocks::GRANULE_BYTES;

/// How many bytes a [`Reference`] has as the body of a message.
pub const REFERENCE_BYTES: usize = size_of::<Reference>();

/// Where an object lies in the sender's heap: the body of a message sent with
/// [`Payload::Reference`](crate::Payload::Reference). It is the sender's word, to be checked.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct Reference {
    /// The object's number in the heap's accounts.
    pub(super) object: u32,
    /// How often that number was given out before.
    pub(super) generation: u32,
    /// The extent in which it lies.
    pub(super) extent: u32,
    /// Where it begins there, in units of 64 bytes.
    pub(super) granule: u32,
    /// How many bytes it has.
    pub(super) len_bytes: u64,
}

impl Reference {
    /// The object's size in bytes, as its sender says.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Where it begins in its extent, in bytes.
    pub(super) fn offset(&self) -> u64 {
        u64::from(self.granule) * GRANULE_BYTES
    }
}

/// The other side of a heap broke its rules. What it says cannot be believed any more.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HeapFault {
    /// A message by reference whose body is no reference.
    #[error("a reference has {REFERENCE_BYTES} bytes, not {len_bytes}")]
    NotAReference {
        /// The body's length in bytes.
        len_bytes: usize,
    },
    /// A reference into an extent that was not handed over, or was taken back.
    #[error("no extent {extent} was handed over: read the side socket, then try again")]
    UnknownExtent {
        /// The extent's number.
        extent: u32,
    },
    /// A reference that leaves its extent.
    #[error("an object at {offset} of {len_bytes} bytes leaves extent {extent}")]
    OutOfBounds {
        /// The extent's number.
        extent: u32,
        /// Where it would begin, in bytes.
        offset: u64,
        /// How long it would be, in bytes.
        len_bytes: u64,
    },
    /// An extent under a number that is in use, or more of them than can be kept.
    #[error("extent {extent} was handed over twice, or is one too many")]
    TooManyExtents {
        /// The extent's number.
        extent: u32,
    },
    /// A borrower noted an object that it does not hold.
    #[error("a note of object {object}, generation {generation}, which is not lent")]
    WrongNote {
        /// The object's number.
        object: u32,
        /// The generation noted.
        generation: u32,
    },
}
