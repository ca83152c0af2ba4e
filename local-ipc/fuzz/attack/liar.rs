//! The memory of a hostile peer: half of a channel that it goes on writing however it likes.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use weft_local_ipc::{Geometry, Start};
use weft_types::Lane;

/// The seals without which nobody takes it.
pub(crate) fn all_seals() -> SealFlags {
    SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL
}

/// A memory file of so many bytes, none of them allocated.
pub(crate) fn memory_file(bytes: u64) -> File {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = File::from(rustix::fs::memfd_create("liar", flags).unwrap());
    file.set_len(bytes).unwrap();
    file
}

/// A memory file that others map and that its owner goes on writing.
#[derive(Debug)]
pub(crate) struct Memory {
    file: File,
    map: memmap2::MmapRaw,
}

impl Memory {
    /// So many bytes, all of them allocated or only the first.
    pub(crate) fn new(bytes: u64, allocated: u64) -> Self {
        let file = memory_file(bytes);
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, allocated).unwrap();
        // Before the seals: afterwards nobody gets a writable mapping.
        let map = memmap2::MmapOptions::new().map_raw(&file).unwrap();
        Self { file, map }
    }

    pub(crate) fn seal(&self, seals: SealFlags) {
        rustix::fs::fcntl_add_seals(&self.file, seals).unwrap();
    }

    pub(crate) fn share(&self) -> OwnedFd {
        self.file.as_fd().try_clone_to_owned().unwrap()
    }

    /// Writes the word at this offset, a multiple of 8 in the region.
    #[expect(
        unsafe_code,
        reason = "the attacker writes memory that is mapped elsewhere"
    )]
    pub(crate) fn put(&self, at: u64, word: u64) {
        let at = usize::try_from(at).unwrap();
        assert!(at.is_multiple_of(8) && at + 8 <= self.map.len());
        // SAFETY: the word lies in the mapping, as was just checked, which is page-aligned, writable
        // and lives as long as `self`; whoever else reads it here does so through atomics or copies.
        let place = unsafe { &*self.map.as_mut_ptr().add(at).cast::<AtomicU64>() };
        place.store(word, Ordering::Release);
    }
}

/// A half whose owner is a liar. Offsets are those of `docs/FORMATS.md`.
#[derive(Debug)]
pub(crate) struct Liar {
    memory: Memory,
    pub(crate) geometry: Geometry,
}

pub(crate) const BELL: u64 = 128;
pub(crate) const PARKED: u64 = 256;
pub(crate) const WAKE_AT: u64 = 384;
pub(crate) const TAKEN: u64 = 512;
pub(crate) const DONE: u64 = 640;
pub(crate) const GROWN: u64 = 768;

impl Liar {
    /// One that nobody can tell from an honest one yet.
    pub(crate) fn new(geometry: Geometry, start: Start) -> Self {
        let memory = Memory::new(geometry.region_bytes(), geometry.base_bytes());
        let liar = Self { memory, geometry };
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        liar.put(0, u64::from_ne_bytes(*b"weftHALF"));
        liar.put(8, pair(2, geometry.slots));
        liar.put(16, pair(geometry.arena_bytes, 4));
        liar.put(24, geometry.region_bytes());
        liar.put(32, pair(geometry.slot_bytes, geometry.growth));
        for lane in Lane::ALL {
            let incoming = start.incoming[lane].get();
            liar.put(lane_word(64, lane), start.outgoing[lane].get());
            liar.put(lane_word(TAKEN, lane), incoming);
            liar.put(lane_word(DONE, lane), incoming);
        }
        liar.memory.seal(all_seals());
        liar
    }

    pub(crate) fn share(&self) -> OwnedFd {
        self.memory.share()
    }

    /// Writes the word at this offset.
    pub(crate) fn put(&self, at: u64, word: u64) {
        self.memory.put(at, word);
    }

    /// Takes memory for a lane's segment (not segment 0).
    pub(crate) fn allocate(&self, lane: Lane, segment: u32) {
        let (at, bytes) = (self.segment_at(lane, segment), self.segment_bytes(segment));
        let file = &self.memory.file;
        rustix::fs::fallocate(file, FallocateFlags::empty(), at, bytes).unwrap();
    }

    /// Where a word of a sequence's slot stands.
    pub(crate) fn slot_word(&self, lane: Lane, segment: u32, sequence: u64, word: u64) -> u64 {
        let slot = sequence & (self.slots(segment) - 1);
        self.ring_at(lane, segment) + slot * u64::from(self.geometry.slot_bytes) + 8 * word
    }

    pub(crate) fn slots(&self, segment: u32) -> u64 {
        u64::from(self.geometry.slots) << segment
    }

    fn ring_bytes(&self, segment: u32) -> u64 {
        self.slots(segment) * u64::from(self.geometry.slot_bytes)
    }

    fn segment_bytes(&self, segment: u32) -> u64 {
        let arena = u64::from(self.geometry.arena_bytes) << segment;
        self.ring_bytes(segment).next_multiple_of(4096) + arena
    }

    fn segment_at(&self, lane: Lane, segment: u32) -> u64 {
        let before: u64 = (1..segment)
            .map(|index| 4 * self.segment_bytes(index))
            .sum();
        let first = self.geometry.base_bytes().next_multiple_of(4096);
        first + before + u64::try_from(lane.index()).unwrap() * self.segment_bytes(segment)
    }

    fn ring_at(&self, lane: Lane, segment: u32) -> u64 {
        if segment == 0 {
            4096 + u64::try_from(lane.index()).unwrap() * self.ring_bytes(0)
        } else {
            self.segment_at(lane, segment)
        }
    }
}

/// Where the word of a lane stands in a row of one for each.
pub(crate) fn lane_word(row: u64, lane: Lane) -> u64 {
    row + 8 * u64::try_from(lane.index()).unwrap()
}

/// Where the start of a lane's segment stands.
pub(crate) fn start_word(lane: Lane, segment: u32) -> u64 {
    896 + 8 * (8 * u64::try_from(lane.index()).unwrap() + u64::from(segment))
}
