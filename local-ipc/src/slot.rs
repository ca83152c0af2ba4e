//! One slot: how a message's header and body lie in it, and what a reader checks.
//!
//! A reader loads the sequence word first (acquire), then copies the header words once each, checks
//! the copies, and only then touches the body. It works the same on a live peer's ring, on a dead
//! one's, and on our own.

use weft_types::{Lane, MAX_BODY_BYTES, MessageKind, Sequence, TypeIndex};

use crate::error::PeerFault;
use crate::layout::{BODY_IN_SLOT, CORRELATION_IN_SLOT, Geometry, INLINE_BYTES, META_IN_SLOT};
use crate::raw::{Memory, OwnMemory};
use crate::sync::Ordering;

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

const HAS_DESCRIPTORS: u8 = 1;

/// Type, kind, flags and length, as they lie in the slot's third word.
#[derive(Clone, Copy)]
struct Meta {
    type_index: u16,
    kind: u8,
    flags: u8,
    len_bytes: u32,
}

impl Meta {
    fn pack(self) -> u64 {
        u64::from(self.type_index)
            | u64::from(self.kind) << 16
            | u64::from(self.flags) << 24
            | u64::from(self.len_bytes) << 32
    }

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

/// Looks at the slot of `sequence` in a ring that began at `first`.
///
/// A slot holds nothing, an older message of the same slot, or this one. Anything else is a lie.
pub(crate) fn look(
    memory: &impl Memory,
    geometry: Geometry,
    lane: Lane,
    first: u64,
    sequence: u64,
) -> Result<SlotState, PeerFault> {
    // ORDER(filled): acquire; pairs with the Release in `fill`. Having seen the sequence we also
    // see the header and body written before it.
    let word = memory.read64(geometry.slot_at(lane, sequence)).load();
    if word == sequence + 1 {
        return Ok(SlotState::Filled);
    }
    let lap = u64::from(geometry.slots) - 1;
    let older = word <= sequence && word > first && (sequence + 1 - word) & lap == 0;
    if word == 0 || older {
        return Ok(SlotState::Empty);
    }
    Err(PeerFault::WrongSequence {
        lane,
        expected: Sequence::new(sequence),
        word,
    })
}

/// Copies out the message of a slot that [`look`] found filled. Replaces what `body` holds.
pub(crate) fn read(
    memory: &impl Memory,
    geometry: Geometry,
    lane: Lane,
    sequence: u64,
    body: &mut Vec<u8>,
) -> Result<Header, PeerFault> {
    body.clear();
    let slot = geometry.slot_at(lane, sequence);
    let correlation = memory.read64(slot + CORRELATION_IN_SLOT).load_plain();
    let meta = Meta::unpack(memory.read64(slot + META_IN_SLOT).load_plain());
    let sequence = Sequence::new(sequence);

    let kind = MessageKind::from_byte(meta.kind).ok_or(PeerFault::UnknownKind {
        lane,
        sequence,
        kind: meta.kind,
    })?;
    if meta.flags & !HAS_DESCRIPTORS != 0 {
        return Err(PeerFault::UnknownFlags {
            lane,
            sequence,
            flags: meta.flags,
        });
    }
    let len = meta.len_bytes as usize;
    if len > MAX_BODY_BYTES {
        return Err(PeerFault::TooLong {
            lane,
            sequence,
            len_bytes: meta.len_bytes,
        });
    }
    if len <= INLINE_BYTES {
        memory.copy_out(slot + BODY_IN_SLOT, len, body);
    } else {
        let offset = memory.read64(slot + BODY_IN_SLOT).load_plain();
        let inside = offset
            .checked_add(u64::from(meta.len_bytes))
            .is_some_and(|end| end <= u64::from(geometry.arena_bytes));
        if !inside {
            return Err(PeerFault::OutOfBounds {
                lane,
                sequence,
                offset,
                len_bytes: meta.len_bytes,
            });
        }
        memory.copy_out(geometry.arena_at(lane) + offset as usize, len, body);
    }
    Ok(Header {
        kind,
        type_index: TypeIndex::new(meta.type_index),
        correlation: Sequence::new(correlation),
        has_descriptors: meta.flags & HAS_DESCRIPTORS != 0,
    })
}

/// Fills the slot of `sequence` and publishes it.
///
/// A body longer than [`INLINE_BYTES`] goes to `arena_offset`, which the caller has found free.
/// If we die on any line before the last, the slot still carries its old sequence word, and the
/// message does not exist.
pub(crate) fn fill(
    memory: &OwnMemory,
    geometry: Geometry,
    lane: Lane,
    sequence: u64,
    header: Header,
    body: &[u8],
    arena_offset: u64,
) {
    let slot = geometry.slot_at(lane, sequence);
    let meta = Meta {
        type_index: header.type_index.get(),
        kind: header.kind.to_byte(),
        flags: u8::from(header.has_descriptors) * HAS_DESCRIPTORS,
        len_bytes: u32::try_from(body.len()).expect("checked against MAX_BODY_BYTES"),
    };
    // ORDER(filled): Relaxed; the Release below publishes all of it.
    memory
        .word64(slot + CORRELATION_IN_SLOT)
        .store(header.correlation.get(), Ordering::Relaxed);
    memory
        .word64(slot + META_IN_SLOT)
        .store(meta.pack(), Ordering::Relaxed);
    if body.len() <= INLINE_BYTES {
        memory.copy_in(slot + BODY_IN_SLOT, body);
    } else {
        memory
            .word64(slot + BODY_IN_SLOT)
            .store(arena_offset, Ordering::Relaxed);
        memory.copy_in(geometry.arena_at(lane) + arena_offset as usize, body);
    }
    // ORDER(filled): Release; pairs with the acquire load in `look`.
    memory.word64(slot).store(sequence + 1, Ordering::Release);
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
