//! Where everything lies in a half. The only place that knows offsets.
//!
//! ```text
//!       0  magic u64 | version u32 | slots u32 | arena_bytes u32 | lanes u32 | region_bytes u64
//!      64  first sequence of each ring, 4 x u64                    written once, before sharing
//!     128  bell u32              the peer waits on it; we bump it
//!     256  parked u32            we sleep (a generation), or PARKED_ALWAYS
//!     384  wake-at, 4 x u64      at which `done` of the peer we want to be rung; 0 = never
//!     512  cursors, 4 x { taken u64, done u64 }                    of the incoming direction
//!    4096  rings, 4 x slots x 128 bytes                            of the outgoing direction
//!       .  arenas, 4 x arena_bytes
//! ```
//!
//! Words that change at different times lie 128 bytes apart, because processors fetch lines in
//! pairs. All numbers are in the machine's byte order: a half never leaves it.

use weft_types::{Lane, PerLane, Sequence};

use crate::error::RegionError;

/// Says "this is a half of a channel". Read as bytes: `weftHALF`.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"weftHALF");
/// Any change of what this module says is a new version; the two sides must have the same one.
pub(crate) const VERSION: u32 = 1;

pub(crate) const MAGIC_AT: usize = 0;
pub(crate) const VERSION_AT: usize = 8;
pub(crate) const SLOTS_AT: usize = 12;
pub(crate) const ARENA_AT: usize = 16;
pub(crate) const LANES_AT: usize = 20;
pub(crate) const BYTES_AT: usize = 24;
const FIRST_AT: usize = 64;
pub(crate) const BELL_AT: usize = 128;
pub(crate) const PARKED_AT: usize = 256;
const WAKE_AT: usize = 384;
const CURSORS_AT: usize = 512;
const CONTROL_BYTES: usize = 4096;

/// One slot: sequence, correlation, meta, then the body or where it lies.
pub(crate) const SLOT_BYTES: usize = 128;
pub(crate) const CORRELATION_IN_SLOT: usize = 8;
pub(crate) const META_IN_SLOT: usize = 16;
pub(crate) const BODY_IN_SLOT: usize = 24;
/// The longest body that travels inside its slot.
pub(crate) const INLINE_BYTES: usize = SLOT_BYTES - BODY_IN_SLOT;

const _: () = assert!(INLINE_BYTES.is_multiple_of(8));
const _: () = assert!(CURSORS_AT + 16 * weft_types::LANES <= CONTROL_BYTES);
const _: () = assert!(FIRST_AT + 8 * weft_types::LANES <= BELL_AT);

/// No channel gets this far (292 years at 10⁹ messages a second), so sums of sequences and ring
/// sizes below it never overflow. A start above it is refused.
pub const MAX_SEQUENCE: u64 = 1 << 63;

/// The size of a half, the same for each of its four lanes.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Geometry {
    /// Slots of each ring: a power of two from [`Self::MIN_SLOTS`] to [`Self::MAX_SLOTS`]. So many
    /// messages may be on their way, not yet done, on a lane.
    pub slots: u32,
    /// Bytes of each lane's arena for bodies that do not fit their slot: a multiple of 4096, at
    /// most [`Self::MAX_ARENA_BYTES`]. A body longer than its arena can never be sent.
    pub arena_bytes: u32,
}

impl Geometry {
    /// 512 slots and 256 KiB on each lane: 1.3 MiB in all.
    pub const DEFAULT: Self = Self {
        slots: 512,
        arena_bytes: 256 * 1024,
    };
    /// The fewest slots of a ring.
    pub const MIN_SLOTS: u32 = 2;
    /// The most slots of a ring. What a reader scans of a peer's ring is bounded by this.
    pub const MAX_SLOTS: u32 = 1 << 16;
    /// The largest arena of a lane.
    pub const MAX_ARENA_BYTES: u32 = 64 << 20;

    /// Checks the bounds.
    ///
    /// # Errors
    ///
    /// [`RegionError::Geometry`] if one of them is broken.
    pub fn check(self) -> Result<Self, RegionError> {
        let slots = self.slots.is_power_of_two()
            && (Self::MIN_SLOTS..=Self::MAX_SLOTS).contains(&self.slots);
        let arena =
            self.arena_bytes.is_multiple_of(4096) && self.arena_bytes <= Self::MAX_ARENA_BYTES;
        if slots && arena {
            Ok(self)
        } else {
            Err(RegionError::Geometry(self))
        }
    }

    /// How many bytes of memory a half of this geometry takes.
    #[must_use]
    pub const fn region_bytes(self) -> u64 {
        CONTROL_BYTES as u64
            + weft_types::LANES as u64
                * (self.slots as u64 * SLOT_BYTES as u64 + self.arena_bytes as u64)
    }

    /// Where the slot of this sequence lies.
    pub(crate) fn slot_at(self, lane: Lane, sequence: u64) -> usize {
        // A mask, because a reader that looks in vain does this for each lane, and a division takes
        // as long as everything else in that look.
        debug_assert!(
            self.slots.is_power_of_two(),
            "checked when the half was made"
        );
        let slots = self.slots as usize;
        let index = (sequence & u64::from(self.slots - 1)) as usize;
        CONTROL_BYTES + (lane.index() * slots + index) * SLOT_BYTES
    }

    /// Where the lane's arena begins.
    pub(crate) fn arena_at(self, lane: Lane) -> usize {
        CONTROL_BYTES
            + weft_types::LANES * self.slots as usize * SLOT_BYTES
            + lane.index() * self.arena_bytes as usize
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
    CURSORS_AT + 16 * lane.index()
}

pub(crate) const fn done_at(lane: Lane) -> usize {
    taken_at(lane) + 8
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
