//! Halves: everything that one side writes on one channel, in one sealed region.
//!
//! [`OwnHalf`] makes and seals it, [`PeerHalf`] checks and reads it. A half of a process that died
//! stays readable as long as somebody holds its descriptor: its sequence words and cursors say how
//! far it got, whatever line it died on, because each of them is one aligned word.

use weft_types::{Lane, PerLane, Sequence};

use crate::error::{PeerFault, RegionError};
use crate::layout::{self, Geometry, MAX_SEQUENCE, Start};
use crate::numa::{Outcome, Placement, Reason, Residence};
use crate::raw::{OwnMemory, PeerBytes, PeerMemory, PeerWord64};
use crate::segment::{LaneStarts, OwnSegment, PeerSegment, Starts};
use crate::slot::{self, SlotState};
use crate::sync::Ordering;
use crate::sys::memory::{self, MemoryFile};
use crate::sys::{OwnedFd, Stage};

/// How far a receiver is on one lane. Both are exclusive.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Cursors {
    /// Below this, messages have been handed to the receiver's handler.
    pub taken: Sequence,
    /// Below this, they are handled. At most `taken`, if their writer is honest.
    pub done: Sequence,
}

/// Everything this side writes on one channel: rings and arenas of the outgoing direction, cursors,
/// bell and parked word of the incoming one.
#[derive(Debug)]
pub struct OwnHalf {
    pub(crate) memory: OwnMemory,
    pub(crate) geometry: Geometry,
    pub(crate) start: Start,
    file: MemoryFile,
}

impl OwnHalf {
    /// Makes a half: allocates its memory, maps it, writes its header, seals it.
    ///
    /// # Errors
    ///
    /// [`RegionError::Geometry`] or [`RegionError::StartOutOfRange`] for bad arguments,
    /// [`RegionError::OutOfMemory`] if there is no memory, [`RegionError::System`] for the rest.
    pub fn create(geometry: Geometry, start: Start) -> Result<Self, RegionError> {
        let (half, _) = Self::create_placed(geometry, start, Placement::Anywhere)?;
        Ok(half)
    }

    /// Makes a half on a NUMA node, with what became of that wish. Segments that are linked later
    /// follow it.
    ///
    /// # Errors
    ///
    /// As [`Self::create`]. A half that could not be placed is none: it works all the same.
    pub fn create_placed(
        geometry: Geometry,
        start: Start,
        placement: Placement,
    ) -> Result<(Self, Outcome), RegionError> {
        let geometry = geometry.check()?;
        start.check()?;
        let mut file = MemoryFile::create("weft-half", geometry.region_bytes())?;
        let memory = OwnMemory::map(&file, geometry.region_bytes() as usize)?;
        // Only pages that are allocated afterwards follow it.
        let wish = placement.wish(memory.pages());
        file.allocate(0, geometry.base_bytes())?;
        let outcome = wish.outcome(memory.pages().first(geometry.base_bytes() as usize));
        write_header(&memory, geometry, &start);
        file.seal(Stage::Half)
            .map_err(|error| RegionError::system("seal", error))?;
        if geometry.growth == 0 {
            file.has_all();
        }
        let half = Self {
            memory,
            geometry,
            start,
            file,
        };
        Ok((half, outcome))
    }

    /// On which NUMA nodes its pages lie, without those of linked segments.
    ///
    /// # Errors
    ///
    /// [`Reason`] says why the kernel does not tell.
    pub fn residence(&self) -> Result<Residence, Reason> {
        let base = self.geometry.base_bytes() as usize;
        self.memory.pages().first(base).residence()
    }

    /// A descriptor to hand over. Who has it can read the half and never write it.
    ///
    /// # Errors
    ///
    /// [`RegionError::System`] if this process has no descriptor left.
    pub fn share(&self) -> Result<OwnedFd, RegionError> {
        self.file.share()
    }

    /// The size it was made with.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// A segment of a lane.
    pub(crate) fn segment(&self, lane: Lane, index: u32, start: u64) -> OwnSegment {
        let geometry = self.geometry;
        let ring = self.memory.ring(
            geometry.ring_at(lane, index),
            geometry.slots_of(index),
            geometry.slot_bytes as usize,
        );
        OwnSegment {
            ring,
            geometry,
            lane,
            index,
            start,
        }
    }

    /// Gets memory for a segment that is about to be linked. `false` if there is none.
    pub(crate) fn allocate_segment(&self, lane: Lane, index: u32) -> bool {
        let (at, bytes) = (
            self.geometry.segment_at(lane, index),
            self.geometry.segment_bytes(index),
        );
        self.file.allocate(at, bytes).is_ok()
    }

    /// Tells readers where a lane goes on. From `start` on it lies in segment `index`.
    pub(crate) fn link_segment(&self, lane: Lane, index: u32, start: u64) {
        // ORDER(grown): Relaxed; the count is published with Release after it, and both before the
        // first message of the segment.
        self.memory
            .word64(layout::start_at(lane, index))
            .store(start + 1, Ordering::Relaxed);
        // ORDER(grown): Release; pairs with the acquire load in `Receiver::see_growth`. Only the
        // sender's thread changes it.
        let grown = self.memory.word32(layout::GROWN_AT);
        let count = grown.load(Ordering::Relaxed);
        grown.store(count.wrapping_add(1), Ordering::Release);
    }
}

fn write_header(memory: &OwnMemory, geometry: Geometry, start: &Start) {
    // ORDER(header): Relaxed; the descriptor is handed over afterwards, through the kernel.
    let order = Ordering::Relaxed;
    memory.word64(layout::MAGIC_AT).store(layout::MAGIC, order);
    memory
        .word32(layout::VERSION_AT)
        .store(layout::VERSION, order);
    memory.word32(layout::SLOTS_AT).store(geometry.slots, order);
    memory
        .word32(layout::ARENA_AT)
        .store(geometry.arena_bytes, order);
    memory
        .word32(layout::LANES_AT)
        .store(weft_types::LANES as u32, order);
    memory
        .word64(layout::BYTES_AT)
        .store(geometry.region_bytes(), order);
    memory
        .word32(layout::SLOT_BYTES_AT)
        .store(geometry.slot_bytes, order);
    memory
        .word32(layout::GROWTH_AT)
        .store(geometry.growth, order);
    for lane in Lane::ALL {
        let (first, incoming) = (start.outgoing[lane].get(), start.incoming[lane].get());
        memory.word64(layout::first_at(lane)).store(first, order);
        memory.word64(layout::taken_at(lane)).store(incoming, order);
        memory.word64(layout::done_at(lane)).store(incoming, order);
    }
}

/// A peer's half, or a dead one's: read-only, checked, and still not believed.
#[derive(Debug)]
pub struct PeerHalf {
    pub(crate) memory: PeerMemory,
    pub(crate) geometry: Geometry,
    first: PerLane<Sequence>,
    done: PerLane<PeerWord64>,
    /// To see whether a segment has memory. Not kept of a half that cannot grow.
    fd: Option<OwnedFd>,
}

impl PeerHalf {
    /// Checks a descriptor that somebody sent, and maps it.
    ///
    /// Seals first: once they are there, size and pages cannot change any more, so what is checked
    /// afterwards stays true. The header is copied, and the copy is checked and used.
    ///
    /// # Errors
    ///
    /// [`RegionError`] says which check failed.
    pub fn open(fd: OwnedFd) -> Result<Self, RegionError> {
        let found = memory::examine(&fd, Stage::Half)?;
        if !(Geometry::SMALLEST_BYTES..=Geometry::LARGEST_BYTES).contains(&found) {
            return Err(RegionError::WrongSize {
                found,
                expected: Geometry::SMALLEST_BYTES,
            });
        }
        let memory = PeerMemory::map(&fd, found as usize)?;
        // The header's page first: without it nothing can be said of the rest.
        memory::check_allocated(&fd, 4096)?;
        memory.populate(0, 4096)?;
        let (geometry, first) = read_header(&memory, found)?;
        memory::check_allocated(&fd, geometry.base_bytes())?;
        memory.populate(0, geometry.base_bytes())?;
        Ok(Self {
            done: PerLane::from_fn(|lane| memory.word64(layout::done_at(lane))),
            memory,
            geometry,
            first,
            fd: (geometry.growth > 0).then_some(fd),
        })
    }

    /// The end of what is published on a lane.
    ///
    /// Reads every sequence word once, so it is bounded by the ring's size and works for a dead or
    /// lying peer; what a liar says is a number below [`MAX_SEQUENCE`] plus one and no more.
    #[must_use]
    pub fn published(&self, lane: Lane) -> Sequence {
        let starts = self.starts(lane);
        let segments = (0..starts.count()).map(|index| self.segment(lane, index, &starts));
        let end = segments
            .flat_map(|segment| {
                let slots = segment.ring.slots();
                (0..slots).filter_map(move |index| {
                    let word = segment.ring.slot(index).sequence_word();
                    let published =
                        word > segment.start && word <= MAX_SEQUENCE && (word - 1) % slots == index;
                    published.then_some(word)
                })
            })
            .max();
        // A word is its sequence plus one, which is the end of what it publishes.
        Sequence::new(end.unwrap_or(starts.first()))
    }

    /// The end of what is published without a gap from `from` on: what a reader at `from` can get.
    #[must_use]
    pub fn published_from(&self, lane: Lane, from: Sequence) -> Sequence {
        let starts = self.starts(lane);
        let mut next = from.get().max(starts.first());
        let mut looks = 0;
        loop {
            let (index, _, end) = starts.find(next);
            let segment = self.segment(lane, index, &starts);
            let end = end.unwrap_or(u64::MAX);
            // A liar may fill its slots again and again while we look.
            let most = segment.ring.slots();
            let before = next;
            while next < end
                && next - before < most
                && slot::look(&segment, next) == Ok(SlotState::Filled)
            {
                next += 1;
            }
            looks += 1;
            if next < end || looks > layout::MAX_SEGMENTS {
                return Sequence::new(next);
            }
        }
    }

    /// The sequence that its ring started at, copied when it was opened.
    #[must_use]
    pub fn first(&self, lane: Lane) -> Sequence {
        self.first[lane]
    }

    /// Its cursors, as they are now, unchecked: a liar can say anything.
    #[must_use]
    pub fn cursors(&self) -> PerLane<Cursors> {
        PerLane::from_fn(|lane| {
            // ORDER(done): acquire; pairs with the Release stores in `Receiver`. `done` first, so
            // that `taken` is never older than it.
            let done = self.done(lane);
            // ORDER(taken): acquire; pairs with the Release in `Incoming::take`.
            let taken = Sequence::new(self.memory.word64(layout::taken_at(lane)).read().load());
            Cursors { taken, done }
        })
    }

    /// On which NUMA nodes its pages lie, without those of linked segments: the same as its writer
    /// sees.
    ///
    /// # Errors
    ///
    /// [`Reason`] says why the kernel does not tell.
    pub fn residence(&self) -> Result<Residence, Reason> {
        let base = self.geometry.base_bytes() as usize;
        self.memory.pages().first(base).residence()
    }

    /// Its size.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Its done cursor on one lane, unchecked.
    #[inline]
    pub(crate) fn done(&self, lane: Lane) -> Sequence {
        Sequence::new(self.done[lane].read().load())
    }

    /// To copy bodies out of it.
    #[inline]
    pub(crate) fn bytes(&self) -> PeerBytes<'_> {
        self.memory.bytes()
    }

    /// A segment of a lane, which `starts` knows.
    pub(crate) fn segment(&self, lane: Lane, index: u32, starts: &Starts) -> PeerSegment {
        let geometry = self.geometry;
        let ring = self.memory.ring(
            geometry.ring_at(lane, index),
            geometry.slots_of(index),
            geometry.slot_bytes as usize,
        );
        PeerSegment {
            ring,
            geometry,
            lane,
            index,
            start: starts.start(index),
        }
    }

    /// The starts of a lane as they are now; without those that cannot be.
    fn starts(&self, lane: Lane) -> Starts {
        let mut starts = Starts::new(self.first[lane].get());
        let _ = self.learn(lane, &mut starts);
        starts
    }

    /// Learns of segments that were linked since.
    pub(crate) fn learn(&self, lane: Lane, starts: &mut Starts) -> Result<(), PeerFault> {
        starts
            .learn(
                self.geometry,
                |segment| {
                    self.memory
                        .word64(layout::start_at(lane, segment))
                        .read()
                        .load()
                },
                |segment| self.has_memory(lane, segment),
            )
            .map_err(|start| PeerFault::WrongSegment {
                lane,
                segment: starts.count(),
                start: Sequence::new(start),
            })
    }

    /// The starts of all lanes that have not grown.
    pub(crate) fn first_starts(&self) -> LaneStarts {
        PerLane::from_fn(|lane| Starts::new(self.first[lane].get()))
    }

    /// Whether a segment has memory behind it. Afterwards it has.
    fn has_memory(&self, lane: Lane, segment: u32) -> bool {
        let geometry = self.geometry;
        let linked: u64 = (1..=segment)
            .map(|index| geometry.segment_bytes(index))
            .sum();
        let at = geometry.segment_at(lane, segment);
        self.fd.as_ref().is_some_and(|fd| {
            memory::check_allocated(fd, geometry.base_bytes() + linked).is_ok()
                && self
                    .memory
                    .populate(at, geometry.segment_bytes(segment))
                    .is_ok()
        })
    }
}

fn read_header(
    memory: &PeerMemory,
    found: u64,
) -> Result<(Geometry, PerLane<Sequence>), RegionError> {
    // ORDER(header): plain would do; whoever gave us the descriptor had written it all before.
    if memory.word64(layout::MAGIC_AT).read().load() != layout::MAGIC {
        return Err(RegionError::WrongMagic);
    }
    let version = memory.word32(layout::VERSION_AT).read().load();
    let lanes = memory.word32(layout::LANES_AT).read().load();
    if version != layout::VERSION || lanes != weft_types::LANES as u32 {
        return Err(RegionError::WrongVersion {
            found: version,
            expected: layout::VERSION,
        });
    }
    let geometry = Geometry {
        slots: memory.word32(layout::SLOTS_AT).read().load(),
        slot_bytes: memory.word32(layout::SLOT_BYTES_AT).read().load(),
        arena_bytes: memory.word32(layout::ARENA_AT).read().load(),
        growth: memory.word32(layout::GROWTH_AT).read().load(),
    }
    .check()?;
    let said = memory.word64(layout::BYTES_AT).read().load();
    if geometry.region_bytes() != found || said != found {
        return Err(RegionError::WrongSize {
            found,
            expected: geometry.region_bytes(),
        });
    }
    let first = PerLane::from_fn(|lane| memory.word64(layout::first_at(lane)).read().load());
    if first.iter().any(|(_, &first)| first > MAX_SEQUENCE) {
        return Err(RegionError::StartOutOfRange);
    }
    Ok((geometry, PerLane(first.0.map(Sequence::new))))
}
