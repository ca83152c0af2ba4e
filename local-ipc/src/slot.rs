//! One slot: how a message's header and body lie in it, and what a reader checks.
//!
//! A reader loads the sequence word first (acquire), then copies the header words once each, checks
//! the copies, and only then touches the body. It works the same on a live peer's ring, on a dead
//! one's, and on our own.

use weft_types::{Lane, MAX_BODY_BYTES, MessageKind, Sequence, TypeIndex};

use crate::error::PeerFault;
use crate::layout::{BODY_WORD, Geometry, META_WORD};
use crate::prefetch::{self, LINE};
use crate::raw::PeerBytes;
use crate::segment::{OwnSegment, PeerSegment};
use crate::sync::{AtomicU64, Ordering};
use crate::trust::{CHECKED, holds};

/// What stands beside a body.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header {
    /// What the message is for.
    pub kind: MessageKind,
    /// Its type in the channel's table.
    pub type_index: TypeIndex,
    /// Of an answer: the request's sequence, on the same lane. Zero otherwise.
    pub correlation: Sequence,
    /// Descriptors for this message travel on the channel's side socket.
    pub has_descriptors: bool,
}

const WORDS_A_LINE: usize = LINE / 8;

const HAS_DESCRIPTORS: u8 = 1;
const HAS_CORRELATION: u8 = 2;
const BY_REFERENCE: u8 = 4;
const KNOWN_FLAGS: u8 = HAS_DESCRIPTORS | HAS_CORRELATION | BY_REFERENCE;

/// Whether a message's body is the payload, or says where the payload lies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Payload {
    /// The body is the payload.
    Body,
    /// The body names memory that the receiver can read: what it means is not for the queue to know.
    Reference,
}

/// Type, kind, flags and length, as they lie in the slot's second word.
#[derive(Clone, Copy)]
struct Meta {
    type_index: u16,
    kind: u8,
    flags: u8,
    len_bytes: u32,
}

impl Meta {
    #[inline]
    fn pack(self) -> u64 {
        u64::from(self.type_index)
            | u64::from(self.kind) << 16
            | u64::from(self.flags) << 24
            | u64::from(self.len_bytes) << 32
    }

    #[inline]
    fn unpack(word: u64) -> Self {
        let [t0, t1, kind, flags, l0, l1, l2, l3] = word.to_le_bytes();
        Self {
            type_index: u16::from_le_bytes([t0, t1]),
            kind,
            flags,
            len_bytes: u32::from_le_bytes([l0, l1, l2, l3]),
        }
    }
}

/// What a slot says about one sequence.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum SlotState {
    /// Not published yet.
    Empty,
    /// Published.
    Filled,
}

/// Looks at the slot of `sequence` in a segment.
///
/// A slot holds nothing, an older message of the same slot, or this one. Anything else is a lie.
pub(crate) fn look(segment: &PeerSegment, sequence: u64) -> Result<SlotState, PeerFault> {
    let slot = segment.ring.slot(sequence);
    let word = slot.sequence_word();
    if word == sequence + 1 {
        slot.acquire();
        return Ok(SlotState::Filled);
    }
    let lap = segment.ring.slots() - 1;
    let older = word <= sequence && word > segment.start && (sequence + 1 - word) & lap == 0;
    if word == 0 || older {
        return Ok(SlotState::Empty);
    }
    Err(PeerFault::WrongSequence {
        lane: segment.lane,
        expected: Sequence::new(sequence),
        word,
    })
}

/// A message's body as it lies in shared memory. It may change while it is copied; how long it is,
/// and that it lies where it may, has been checked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Body<'a> {
    Inline {
        segment: &'a PeerSegment,
        sequence: u64,
        first_word: usize,
        len: usize,
    },
    Arena {
        bytes: PeerBytes<'a>,
        at: usize,
        len: usize,
    },
}

impl<'a> Body<'a> {
    /// Its whole words, unless the peer put it where words do not begin.
    #[inline]
    pub(crate) fn words(&self) -> Option<&'a [AtomicU64]> {
        match *self {
            Self::Inline {
                segment,
                sequence,
                first_word,
                len,
            } => Some(&segment.ring.slot(sequence).words(first_word)[..len / 8]),
            Self::Arena { bytes, at, len } => bytes.words(at, len),
        }
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        match *self {
            Self::Inline { len, .. } | Self::Arena { len, .. } => len,
        }
    }

    /// Copies the body to `to`, which is as long as it.
    #[inline]
    pub(crate) fn copy_to(&self, to: &mut [u8]) {
        debug_assert_eq!(to.len(), self.len(), "the caller has compared");
        match *self {
            Self::Inline {
                segment,
                sequence,
                first_word,
                ..
            } => segment.ring.slot(sequence).copy_to(first_word, to),
            Self::Arena { bytes, at, .. } => bytes.copy_to(at, to),
        }
    }

    /// Copies `to.len()` bytes from `offset` on, which lie in the body.
    #[inline]
    pub(crate) fn copy_part(&self, offset: usize, to: &mut [u8]) {
        debug_assert!(offset + to.len() <= self.len(), "the caller has compared");
        match *self {
            Self::Inline {
                segment,
                sequence,
                first_word,
                ..
            } => {
                let slot = segment.ring.slot(sequence);
                if offset.is_multiple_of(8) {
                    return slot.copy_to(first_word + offset / 8, to);
                }
                for (at, byte) in (offset..).zip(to) {
                    *byte = slot.word(first_word + at / 8).to_ne_bytes()[at % 8];
                }
            }
            Self::Arena { bytes, at, .. } => bytes.copy_to(at + offset, to),
        }
    }

    /// Replaces what `to` holds by the body.
    #[inline]
    pub(crate) fn fill(&self, to: &mut Vec<u8>) {
        to.clear();
        match *self {
            Self::Inline {
                segment,
                sequence,
                first_word,
                len,
            } => {
                to.resize(len, 0);
                segment.ring.slot(sequence).copy_to(first_word, to);
            }
            Self::Arena { bytes, at, len } => bytes.append_to(at, len, to),
        }
    }
}

/// Reads the header of a slot that [`look`] found filled, and finds its body. Everything that was
/// checked is checked on copies.
#[inline(always)]
pub(crate) fn read<'a>(
    segment: &'a PeerSegment,
    bytes: PeerBytes<'a>,
    sequence: u64,
) -> Result<(Header, Payload, Body<'a>), PeerFault> {
    let slot = segment.ring.slot(sequence);
    let meta = Meta::unpack(slot.word(META_WORD));
    let unchecked = (!CHECKED).then_some(MessageKind::Tell);
    let (Some(kind), true) = (
        MessageKind::from_byte(meta.kind).or(unchecked),
        holds(meta.flags & !KNOWN_FLAGS == 0),
    ) else {
        return Err(unknown(segment.lane, sequence, meta));
    };
    let correlated = meta.flags & HAS_CORRELATION != 0;
    let first_word = BODY_WORD + usize::from(correlated);
    let correlation = if correlated { slot.word(BODY_WORD) } else { 0 };
    let len = meta.len_bytes as usize;
    let body = if len <= segment.geometry.inline_bytes(correlated) {
        Body::Inline {
            segment,
            sequence,
            first_word,
            len,
        }
    } else {
        let offset = slot.word(first_word);
        let at = check_arena(segment, sequence, offset, len)?;
        Body::Arena { bytes, at, len }
    };
    let header = Header {
        kind,
        type_index: TypeIndex::new(meta.type_index),
        correlation: Sequence::new(correlation),
        has_descriptors: meta.flags & HAS_DESCRIPTORS != 0,
    };
    let payload = if meta.flags & BY_REFERENCE != 0 {
        Payload::Reference
    } else {
        Payload::Body
    };
    Ok((header, payload, body))
}

#[cold]
fn unknown(lane: Lane, sequence: u64, meta: Meta) -> PeerFault {
    let sequence = Sequence::new(sequence);
    if MessageKind::from_byte(meta.kind).is_none() {
        PeerFault::UnknownKind {
            lane,
            sequence,
            kind: meta.kind,
        }
    } else {
        PeerFault::UnknownFlags {
            lane,
            sequence,
            flags: meta.flags,
        }
    }
}

/// Where a body of the arena lies in the region.
fn check_arena(
    segment: &PeerSegment,
    sequence: u64,
    offset: u64,
    len: usize,
) -> Result<usize, PeerFault> {
    let lane = segment.lane;
    let sequence = Sequence::new(sequence);
    let len_bytes = len as u32;
    if !holds(len <= MAX_BODY_BYTES) {
        return Err(PeerFault::TooLong {
            lane,
            sequence,
            len_bytes,
        });
    }
    let inside = offset
        .checked_add(len as u64)
        .is_some_and(|end| end <= segment.geometry.arena(segment.index));
    if !holds(inside) {
        return Err(PeerFault::OutOfBounds {
            lane,
            sequence,
            offset,
            len_bytes,
        });
    }
    Ok(segment.geometry.arena_at(lane, segment.index) + offset as usize)
}

/// Whether a body of this length goes into its slot.
#[inline(always)]
pub(crate) fn is_inline(geometry: Geometry, header: &Header, len: usize) -> bool {
    len <= geometry.inline_bytes(header.correlation != Sequence::ZERO)
}

/// Fills the slot of `sequence` with a message that [`is_inline`], and publishes it.
///
/// If we die on any line before the last, the slot still carries its old sequence word, and the
/// message does not exist.
#[inline(always)]
pub(crate) fn fill(
    segment: &OwnSegment,
    sequence: u64,
    header: Header,
    payload: Payload,
    body: &[u8],
) {
    let slot = segment.ring.slot(sequence);
    let first_word = body_word(&header);
    if first_word + body.len().div_ceil(8) > WORDS_A_LINE {
        // Both lines at once: that takes a tenth off the round trip of such a message.
        claim_lines(slot);
    }
    write_words(&slot[first_word..], body);
    write_header(slot, header, payload, body.len());
    publish(slot, sequence);
}

/// Fills the slot of `sequence` with a message whose body lies in the arena already, at `offset`; and
/// publishes it.
pub(crate) fn fill_by_offset(
    segment: &OwnSegment,
    sequence: u64,
    header: Header,
    payload: Payload,
    len: usize,
    offset: u64,
) {
    let slot = segment.ring.slot(sequence);
    let first_word = write_header(slot, header, payload, len);
    // ORDER(filled): Relaxed; the Release in `publish` publishes it.
    slot[first_word].store(offset, Ordering::Relaxed);
    publish(slot, sequence);
}

/// Publishes a message that [`is_inline`] and whose body stands in its slot already.
#[inline(always)]
pub(crate) fn fill_header(
    segment: &OwnSegment,
    sequence: u64,
    header: Header,
    payload: Payload,
    len: usize,
) {
    let slot = segment.ring.slot(sequence);
    write_header(slot, header, payload, len);
    publish(slot, sequence);
}

/// The word of a slot at which the body begins.
#[inline(always)]
pub(crate) fn body_word(header: &Header) -> usize {
    BODY_WORD + usize::from(header.correlation != Sequence::ZERO)
}

/// Returns the word at which the body begins.
#[inline(always)]
fn write_header(slot: &[AtomicU64], header: Header, payload: Payload, len: usize) -> usize {
    let correlated = header.correlation != Sequence::ZERO;
    let meta = Meta {
        type_index: header.type_index.get(),
        kind: header.kind.to_byte(),
        flags: (u8::from(header.has_descriptors) * HAS_DESCRIPTORS)
            | (u8::from(correlated) * HAS_CORRELATION)
            | (u8::from(payload == Payload::Reference) * BY_REFERENCE),
        len_bytes: len as u32,
    };
    debug_assert!(len <= MAX_BODY_BYTES, "checked by the caller");
    // ORDER(filled): Relaxed; the Release in `publish` publishes it.
    slot[META_WORD].store(meta.pack(), Ordering::Relaxed);
    if correlated {
        // ORDER(filled): Relaxed, as above.
        slot[BODY_WORD].store(header.correlation.get(), Ordering::Relaxed);
    }
    BODY_WORD + usize::from(correlated)
}

/// Asks for the lines of a slot that is filled soon. It has to be free.
#[inline(always)]
pub(crate) fn claim(segment: &OwnSegment, sequence: u64) {
    claim_lines(segment.ring.slot(sequence));
}

/// The last line first: the other side may look at the first one.
#[inline(always)]
fn claim_lines(slot: &[AtomicU64]) {
    let lines = slot.iter().step_by(WORDS_A_LINE);
    lines.rev().for_each(prefetch::claim);
}

#[inline(always)]
fn write_words(words: &[AtomicU64], body: &[u8]) {
    let (whole, rest) = body.as_chunks::<8>();
    let (words, after) = words.split_at(whole.len());
    if !rest.is_empty() {
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        // ORDER(filled): Relaxed, as above.
        after[0].store(u64::from_ne_bytes(last), Ordering::Relaxed);
    }
    // From the back, so that the line of the sequence word, at which the receiver looks again and
    // again, is written last and in one go.
    for (word, bytes) in words.iter().zip(whole).rev() {
        // ORDER(filled): Relaxed; the Release in `publish` publishes it.
        word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
    }
}

#[inline(always)]
fn publish(slot: &[AtomicU64], sequence: u64) {
    // ORDER(filled): Release; pairs with `PeerSlot::acquire`, after which the header and the body
    // written above are seen.
    slot[0].store(sequence + 1, Ordering::Release);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meta_comes_back_from_its_word() {
        let meta = Meta {
            type_index: 0xabcd,
            kind: 3,
            flags: 1,
            len_bytes: 0x1234_5678,
        };
        let back = Meta::unpack(meta.pack());
        assert_eq!(
            (back.type_index, back.kind, back.flags, back.len_bytes),
            (0xabcd, 3, 1, 0x1234_5678)
        );
    }
}
