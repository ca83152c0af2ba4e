//! Halves: everything that one side writes on one channel, in one sealed region.
//!
//! [`OwnHalf`] makes and seals it, [`PeerHalf`] checks and reads it. A half of a process that died
//! stays readable as long as somebody holds its descriptor: its sequence words and cursors say how
//! far it got, whatever line it died on, because each of them is one aligned word.

use rustix::fd::OwnedFd;
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::io::Errno;
use weft_types::{Lane, PerLane, Sequence};

use crate::error::RegionError;
use crate::layout::{self, Geometry, MAX_SEQUENCE, Start};
use crate::raw::{Memory, OwnMemory, PeerMemory};
use crate::slot::{self, SlotState};
use crate::sync::Ordering;

/// `tmpfs`, the file system behind memory files of small pages.
const TMPFS: u64 = 0x0102_1994;

fn required_seals() -> SealFlags {
    SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL
}

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
    fd: OwnedFd,
}

impl OwnHalf {
    /// Makes a half: allocates its memory, maps it, writes its header, seals it.
    ///
    /// # Errors
    ///
    /// [`RegionError::Geometry`] or [`RegionError::StartOutOfRange`] for bad arguments,
    /// [`RegionError::OutOfMemory`] if there is no memory, [`RegionError::System`] for the rest.
    pub fn create(geometry: Geometry, start: Start) -> Result<Self, RegionError> {
        let geometry = geometry.check()?;
        start.check()?;
        let bytes = geometry.region_bytes();
        let fd = memory_file(bytes)?;
        let memory = OwnMemory::map(&fd, bytes as usize)?;
        write_header(&memory, geometry, &start);
        rustix::fs::fcntl_add_seals(&fd, required_seals())
            .map_err(|error| RegionError::system("seal", error))?;
        Ok(Self {
            memory,
            geometry,
            start,
            fd,
        })
    }

    /// A descriptor to hand over. Who has it can read the half and never write it.
    ///
    /// # Errors
    ///
    /// [`RegionError::System`] if this process has no descriptor left.
    pub fn share(&self) -> Result<OwnedFd, RegionError> {
        self.fd
            .try_clone()
            .map_err(|error| RegionError::system("share", error))
    }

    /// The size it was made with.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }
}

/// A new, allocated, not yet sealed memory file.
fn memory_file(bytes: u64) -> Result<OwnedFd, RegionError> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = match rustix::fs::memfd_create("weft-half", flags | MemfdFlags::NOEXEC_SEAL) {
        // Linux before 6.3 does not know that flag; the rest protects us just as well.
        Err(Errno::INVAL) => rustix::fs::memfd_create("weft-half", flags),
        other => other,
    }
    .map_err(|error| RegionError::system("create", error))?;
    let allocated = rustix::fs::ftruncate(&fd, bytes)
        .and_then(|()| rustix::fs::fallocate(&fd, FallocateFlags::empty(), 0, bytes));
    match allocated {
        Ok(()) => Ok(fd),
        Err(Errno::NOMEM | Errno::NOSPC) => Err(RegionError::OutOfMemory { bytes }),
        Err(error) => Err(RegionError::system("allocate", error)),
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
        let seals = rustix::fs::fcntl_get_seals(&fd).map_err(|error| match error {
            Errno::INVAL => RegionError::NotMemory,
            error => RegionError::system("examine", error),
        })?;
        if !seals.contains(required_seals()) {
            return Err(RegionError::NotSealed {
                seals: seals.bits(),
            });
        }
        // Huge pages support seals too, but a read of a missing one can kill the reader.
        let system =
            rustix::fs::fstatfs(&fd).map_err(|error| RegionError::system("examine", error))?;
        if system.f_type as u64 != TMPFS {
            return Err(RegionError::NotMemory);
        }
        let stat = rustix::fs::fstat(&fd).map_err(|error| RegionError::system("examine", error))?;
        let found = stat.st_size as u64;
        let smallest = Geometry {
            slots: Geometry::MIN_SLOTS,
            arena_bytes: 0,
        };
        let largest = Geometry {
            slots: Geometry::MAX_SLOTS,
            arena_bytes: Geometry::MAX_ARENA_BYTES,
        };
        if !(smallest.region_bytes()..=largest.region_bytes()).contains(&found) {
            return Err(RegionError::WrongSize {
                found,
                expected: smallest.region_bytes(),
            });
        }
        let allocated = (stat.st_blocks as u64).saturating_mul(512);
        if allocated < found {
            return Err(RegionError::NotAllocated {
                allocated,
                bytes: found,
            });
        }
        let memory = PeerMemory::map(&fd, found as usize)?;
        let (geometry, first) = read_header(&memory, found)?;
        Ok(Self {
            memory,
            geometry,
            first,
        })
    }

    /// The end of what is published in its ring.
    ///
    /// Reads every sequence word once, so it is bounded by the ring's size and works for a dead or
    /// lying peer; what a liar says is a number below [`MAX_SEQUENCE`] plus one and no more.
    #[must_use]
    pub fn published(&self, lane: Lane) -> Sequence {
        let slots = u64::from(self.geometry.slots);
        let first = self.first[lane].get();
        let last = (0..slots)
            .map(|index| {
                (
                    index,
                    self.memory.read64(self.geometry.slot_at(lane, index)),
                )
            })
            .map(|(index, word)| (index, word.load()))
            .filter(|&(index, word)| {
                word > first && word <= MAX_SEQUENCE && (word - 1) % slots == index
            })
            .map(|(_, word)| word)
            .max();
        // A word is its sequence plus one, which is the end of what it publishes.
        Sequence::new(last.unwrap_or(first))
    }

    /// The end of what is published without a gap from `from` on: what a reader at `from` can get.
    #[must_use]
    pub fn published_from(&self, lane: Lane, from: Sequence) -> Sequence {
        let first = self.first[lane].get();
        let from = from.get().max(first);
        let end = from.saturating_add(u64::from(self.geometry.slots));
        let filled = |&sequence: &u64| {
            slot::look(&self.memory, self.geometry, lane, first, sequence) == Ok(SlotState::Filled)
        };
        let count = (from..end).take_while(filled).count() as u64;
        Sequence::new(from + count)
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
            let taken = Sequence::new(self.memory.read64(layout::taken_at(lane)).load());
            Cursors { taken, done }
        })
    }

    /// Its size.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Its done cursor on one lane, unchecked.
    pub(crate) fn done(&self, lane: Lane) -> Sequence {
        Sequence::new(self.memory.read64(layout::done_at(lane)).load())
    }
}

fn read_header(
    memory: &PeerMemory,
    found: u64,
) -> Result<(Geometry, PerLane<Sequence>), RegionError> {
    if memory.read64(layout::MAGIC_AT).load() != layout::MAGIC {
        return Err(RegionError::WrongMagic);
    }
    let version = memory.read32(layout::VERSION_AT).load();
    let lanes = memory.read32(layout::LANES_AT).load();
    if version != layout::VERSION || lanes != weft_types::LANES as u32 {
        return Err(RegionError::WrongVersion {
            found: version,
            expected: layout::VERSION,
        });
    }
    let geometry = Geometry {
        slots: memory.read32(layout::SLOTS_AT).load(),
        arena_bytes: memory.read32(layout::ARENA_AT).load(),
    }
    .check()?;
    let said = memory.read64(layout::BYTES_AT).load();
    if geometry.region_bytes() != found || said != found {
        return Err(RegionError::WrongSize {
            found,
            expected: geometry.region_bytes(),
        });
    }
    let first = PerLane::from_fn(|lane| memory.read64(layout::first_at(lane)).load());
    if first.iter().any(|(_, &first)| first > MAX_SEQUENCE) {
        return Err(RegionError::StartOutOfRange);
    }
    Ok((geometry, PerLane(first.0.map(Sequence::new))))
}
