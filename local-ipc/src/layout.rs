//! Where everything lies in a half. The only place that knows offsets.
//!
//! ```text
//!       0  magic u64 | version u32 | slots u32 | arena_bytes u32 | lanes u32 | region_bytes u64
//!          | slot_bytes u32 | growth u32
//!      64  first sequence of each ring, 4 x u64                    written once, before sharing
//!     128  bell u32              the peer waits on it; we bump it
//!     256  parked u32            we sleep (a generation), or PARKED_ALWAYS
//!     384  wake-at, 4 x u64      at which `done` of the peer we want to be rung; 0 = never
//!     512  taken, 4 x u64                                          of the incoming direction
//!     640  done, 4 x u64                                           of the incoming direction
//!     768  grown u32             how many segments were linked, all lanes together
//!     896  segment starts, 4 x 8 x u64   of each lane; a sequence plus one, 0 = not linked
//!    4096  segment 0: rings, 4 x slots x slot_bytes                of the outgoing direction
//!       .             arenas, 4 x arena_bytes
//!       .  segment 1, lane by lane: ring of twice the slots, arena of twice the bytes
//!       .  segment 2, lane by lane: four times as large; and so on to segment `growth`
//! ```
//!
//! Words that change at different times lie 128 bytes apart, because processors fetch lines in
//! pairs. All numbers are in the machine's byte order: a half never leaves it.
//!
//! A half has its full size from the beginning, because nothing can make it larger once it is sealed.
//! Memory behind it is another matter: segment 0 has it at once, each further segment when its
//! lane links it. Nobody reads a segment that is not linked.

use weft_types::{Lane, PerLane, Sequence};

use crate::error::RegionError;

/// Says "this is a half of a channel". Read as bytes: `weftHALF`.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"weftHALF");
/// Any change of what this module says is a new version; the two sides must have the same one.
pub(crate) const VERSION: u32 = 2;

pub(crate) const MAGIC_AT: usize = 0;
pub(crate) const VERSION_AT: usize = 8;
pub(crate) const SLOTS_AT: usize = 12;
pub(crate) const ARENA_AT: usize = 16;
pub(crate) const LANES_AT: usize = 20;
pub(crate) const BYTES_AT: usize = 24;
pub(crate) const SLOT_BYTES_AT: usize = 32;
pub(crate) const GROWTH_AT: usize = 36;
const FIRST_AT: usize = 64;
pub(crate) const BELL_AT: usize = 128;
pub(crate) const PARKED_AT: usize = 256;
const WAKE_AT: usize = 384;
const TAKEN_AT: usize = 512;
const DONE_AT: usize = 640;
pub(crate) const GROWN_AT: usize = 768;
const STARTS_AT: usize = 896;
const CONTROL_BYTES: usize = 4096;

/// A slot's words: sequence, meta, then the body or where it lies. A correlation, if there is one,
/// comes before the body, which then begins one word later.
pub(crate) const META_WORD: usize = 1;
pub(crate) const BODY_WORD: usize = 2;

/// The most segments of a lane.
pub(crate) const MAX_SEGMENTS: usize = 8;

const _: () = assert!(FIRST_AT + 8 * weft_types::LANES <= BELL_AT);
const _: () = assert!(WAKE_AT + 8 * weft_types::LANES <= TAKEN_AT);
const _: () = assert!(DONE_AT + 8 * weft_types::LANES <= GROWN_AT);
const _: () = assert!(STARTS_AT + 8 * weft_types::LANES * MAX_SEGMENTS <= CONTROL_BYTES);

/// No channel gets this far (146 years at 10⁹ messages a second), so sums of sequences and ring
/// sizes below it never overflow. A start above it is refused.
pub const MAX_SEQUENCE: u64 = 1 << 62;

/// The size of a half, the same for each of its four lanes.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Geometry {
    /// Slots of each ring: a power of two from [`Self::MIN_SLOTS`] to [`Self::MAX_SLOTS`]. So many
    /// messages may be on their way, not yet done, on a lane.
    pub slots: u32,
    /// Bytes of a slot: 64 for messages of up to 48 bytes, or 128 for up to 112 bytes; longer ones
    /// take room in the arena, and those that carry a correlation have 8 bytes less.
    pub slot_bytes: u32,
    /// Bytes of each lane's arena for bodies that do not fit their slot: a multiple of 4096, at
    /// most [`Self::MAX_ARENA_BYTES`]. A body longer than its arena can never be sent.
    pub arena_bytes: u32,
    /// How often a full lane may link a segment of twice the size, at most [`Self::MAX_GROWTH`].
    /// Memory is taken when it does.
    pub growth: u32,
}

impl Geometry {
    /// 512 slots of 128 bytes and 256 KiB on each lane, 1.3 MiB in all; a lane may grow three times,
    /// to 4,096 slots and 2 MiB.
    pub const DEFAULT: Self = Self {
        slots: 512,
        slot_bytes: 128,
        arena_bytes: 256 * 1024,
        growth: 3,
    };
    /// The fewest slots of a ring.
    pub const MIN_SLOTS: u32 = 2;
    /// The most slots of a ring, grown or not. What a reader scans of a peer's ring is bounded by
    /// this.
    pub const MAX_SLOTS: u32 = 1 << 16;
    /// The largest arena of a lane, grown or not.
    pub const MAX_ARENA_BYTES: u32 = 64 << 20;
    /// The most times that a lane can grow.
    pub const MAX_GROWTH: u32 = MAX_SEGMENTS as u32 - 1;

    /// The smallest half that there can be, in bytes.
    pub(crate) const SMALLEST_BYTES: u64 = Self {
        slots: Self::MIN_SLOTS,
        slot_bytes: 64,
        arena_bytes: 0,
        growth: 0,
    }
    .region_bytes();

    /// More than the largest half, in bytes.
    pub(crate) const LARGEST_BYTES: u64 = 2 * Self {
        slots: Self::MAX_SLOTS,
        slot_bytes: 128,
        arena_bytes: Self::MAX_ARENA_BYTES,
        growth: 0,
    }
    .region_bytes();

    /// This geometry without the right to grow.
    #[must_use]
    pub const fn fixed(self) -> Self {
        Self { growth: 0, ..self }
    }

    /// Checks the bounds.
    ///
    /// # Errors
    ///
    /// [`RegionError::Geometry`] if one of them is broken.
    pub fn check(self) -> Result<Self, RegionError> {
        let refused = Err(RegionError::Geometry(self));
        if self.growth > Self::MAX_GROWTH || !matches!(self.slot_bytes, 64 | 128) {
            return refused;
        }
        let slots = self.slots.is_power_of_two()
            && self.slots >= Self::MIN_SLOTS
            && self.slots <= Self::MAX_SLOTS >> self.growth;
        let arena = self.arena_bytes.is_multiple_of(4096)
            && self.arena_bytes <= Self::MAX_ARENA_BYTES >> self.growth;
        if slots && arena { Ok(self) } else { refused }
    }

    /// How large a half of this geometry is in bytes. Memory is taken for
    /// [`Self::base_bytes`] of it at first.
    #[must_use]
    pub const fn region_bytes(self) -> u64 {
        self.segment_base(self.growth + 1)
    }

    /// How many bytes of memory a half of this geometry takes before a lane has grown.
    #[must_use]
    pub const fn base_bytes(self) -> u64 {
        CONTROL_BYTES as u64 + weft_types::LANES as u64 * (self.ring_bytes(0) + self.arena(0))
    }

    /// The longest body that travels inside its slot.
    pub(crate) const fn inline_bytes(self, correlated: bool) -> usize {
        self.slot_bytes as usize - 8 * (BODY_WORD + correlated as usize)
    }

    /// Slots of a lane's ring in this segment.
    pub(crate) const fn slots_of(self, segment: u32) -> u32 {
        self.slots << segment
    }

    /// Bytes of a lane's arena in this segment.
    pub(crate) const fn arena(self, segment: u32) -> u64 {
        (self.arena_bytes as u64) << segment
    }

    const fn ring_bytes(self, segment: u32) -> u64 {
        (self.slots_of(segment) as u64) * (self.slot_bytes as u64)
    }

    /// Bytes that a lane takes by linking this segment (not segment 0).
    pub(crate) const fn segment_bytes(self, segment: u32) -> u64 {
        self.ring_bytes(segment).next_multiple_of(4096) + self.arena(segment)
    }

    /// Where this segment (not segment 0) begins; one beyond the last is the end.
    const fn segment_base(self, segment: u32) -> u64 {
        if segment <= 1 && self.growth == 0 {
            return self.base_bytes();
        }
        let mut at = self.base_bytes().next_multiple_of(4096);
        let mut before = 1;
        while before < segment {
            at += weft_types::LANES as u64 * self.segment_bytes(before);
            before += 1;
        }
        at
    }

    /// Where a lane's part of a segment (not segment 0) begins.
    pub(crate) const fn segment_at(self, lane: Lane, segment: u32) -> u64 {
        self.segment_base(segment) + lane.index() as u64 * self.segment_bytes(segment)
    }

    /// Where a lane's ring in this segment begins.
    pub(crate) const fn ring_at(self, lane: Lane, segment: u32) -> usize {
        if segment == 0 {
            CONTROL_BYTES + lane.index() * self.ring_bytes(0) as usize
        } else {
            self.segment_at(lane, segment) as usize
        }
    }

    /// Where a lane's arena in this segment begins.
    pub(crate) const fn arena_at(self, lane: Lane, segment: u32) -> usize {
        if segment == 0 {
            let rings = weft_types::LANES * self.ring_bytes(0) as usize;
            CONTROL_BYTES + rings + lane.index() * self.arena_bytes as usize
        } else {
            let ring = self.ring_bytes(segment).next_multiple_of(4096);
            (self.segment_at(lane, segment) + ring) as usize
        }
    }
}

impl Default for Geometry {
    fn default() -> Self {
        Self::DEFAULT
    }
}

pub(crate) const fn first_at(lane: Lane) -> usize {
    FIRST_AT + 8 * lane.index()
}

pub(crate) const fn wake_at(lane: Lane) -> usize {
    WAKE_AT + 8 * lane.index()
}

pub(crate) const fn taken_at(lane: Lane) -> usize {
    TAKEN_AT + 8 * lane.index()
}

pub(crate) const fn done_at(lane: Lane) -> usize {
    DONE_AT + 8 * lane.index()
}

pub(crate) const fn start_at(lane: Lane, segment: u32) -> usize {
    STARTS_AT + 8 * (lane.index() * MAX_SEGMENTS + segment as usize)
}

/// Where the sequences of a new half begin. All zero for a new channel.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Start {
    /// The first sequence that each outgoing ring will carry.
    pub outgoing: PerLane<Sequence>,
    /// The initial cursors of the incoming direction: `taken` and `done` alike.
    pub incoming: PerLane<Sequence>,
}

impl Start {
    pub(crate) fn check(&self) -> Result<(), RegionError> {
        let in_range = |(_, sequence): (Lane, &Sequence)| sequence.get() <= MAX_SEQUENCE;
        if self.outgoing.iter().all(in_range) && self.incoming.iter().all(in_range) {
            Ok(())
        } else {
            Err(RegionError::StartOutOfRange)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The lines that one side writes while the other reads them, and who else is in their pair.
    #[test]
    fn words_that_change_at_different_times_share_no_pair_of_lines() {
        let spans = [
            (FIRST_AT, 8 * weft_types::LANES, "first"),
            (BELL_AT, 4, "bell"),
            (PARKED_AT, 4, "parked"),
            (WAKE_AT, 8 * weft_types::LANES, "wake-at"),
            (TAKEN_AT, 8 * weft_types::LANES, "taken"),
            (DONE_AT, 8 * weft_types::LANES, "done"),
            (GROWN_AT, 4, "grown"),
            (STARTS_AT, 8 * weft_types::LANES * MAX_SEGMENTS, "starts"),
        ];
        for (index, (at, bytes, name)) in spans.iter().enumerate() {
            for (other_at, other_bytes, other) in &spans[index + 1..] {
                let pairs = (at / 128)..=((at + bytes - 1) / 128);
                let theirs = (other_at / 128)..=((other_at + other_bytes - 1) / 128);
                let apart = pairs.end() < theirs.start() || theirs.end() < pairs.start();
                assert!(apart, "{name} and {other} share a pair of lines");
            }
        }
    }

    fn geometries() -> impl Strategy<Value = Geometry> {
        (1..8u32, prop::bool::ANY, 0..5u32, 0..5u32).prop_map(|(slots, one_line, pages, growth)| {
            Geometry {
                slots: 1 << slots,
                slot_bytes: if one_line { 64 } else { 128 },
                arena_bytes: pages * 4096,
                growth,
            }
        })
    }

    proptest! {
        #[test]
        fn parts_fill_the_region_and_never_overlap(geometry in geometries()) {
            let geometry = geometry.check().unwrap();
            let mut parts = vec![(0, CONTROL_BYTES as u64)];
            for segment in 0..=geometry.growth {
                for lane in Lane::ALL {
                    let ring = geometry.ring_at(lane, segment) as u64;
                    prop_assert!(ring.is_multiple_of(u64::from(geometry.slot_bytes)));
                    parts.push((ring, geometry.ring_bytes(segment)));
                    let arena = geometry.arena_at(lane, segment) as u64;
                    prop_assert!(arena.is_multiple_of(64));
                    parts.push((arena, geometry.arena(segment)));
                    if segment > 0 {
                        prop_assert_eq!(ring, geometry.segment_at(lane, segment));
                        let end = ring + geometry.segment_bytes(segment);
                        prop_assert_eq!(end, arena + geometry.arena(segment));
                    }
                }
            }
            parts.sort_unstable();
            for pair in parts.windows(2) {
                prop_assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{:?}", pair);
            }
            let (at, bytes) = parts[parts.len() - 1];
            prop_assert_eq!(at + bytes, geometry.region_bytes());
            prop_assert!(geometry.base_bytes() <= geometry.region_bytes());
            prop_assert!(geometry.region_bytes() <= Geometry::LARGEST_BYTES);
        }
    }
}
