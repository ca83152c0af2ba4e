//! Notes: how a borrower says, in its own memory, that it has finished with an object.
//!
//! ```text
//!       0  magic u64 | version u32 | capacity u32          written once, before sharing
//!     128  notes, capacity x u64                           phase 1 bit | generation 31 | object 32
//! ```
//!
//! A ring without cursors. A note says by its *phase* bit, which changes with each lap, whether it is
//! of this lap or of the last one (as in the completion queues of NVMe, Base Specification, section
//! 3.3.1.2); the reader needs no other word, and the writer needs to know nothing of the reader: an owner
//! never lends more objects than its borrower has notes, so that a note is never overwritten before
//! it is read, unless the owner itself cheats.

use super::reference::Reference;
use crate::error::RegionError;
use crate::note_ring::{Note, Reader, Writer};
use crate::raw::{OwnWords, PeerWords};
use crate::region::{self, Handed, Options, Shared};
use crate::sync::Ordering;
use crate::sys::OwnedFd;

const MAGIC: u64 = u64::from_le_bytes(*b"weftNOTE");
const VERSION: u32 = 1;
const VERSION_AT: usize = 8;
const CAPACITY_AT: usize = 12;
const NOTES_AT: usize = 128;

/// The most notes of a page, and so the most objects that a borrower may hold.
pub const MAX_NOTES: u32 = 1 << 20;

/// Our own notes on a peer's heap.
#[derive(Debug)]
pub struct Notes {
    region: Shared,
    words: OwnWords,
    writer: Writer,
}

impl Notes {
    /// Makes a page of `capacity` notes, a power of two from 2 to [`MAX_NOTES`]: so many objects the
    /// peer may lend us at a time.
    ///
    /// # Errors
    ///
    /// [`RegionError::Size`] for another capacity, else as [`region::allocate_object`].
    pub fn create(capacity: u32) -> Result<Self, RegionError> {
        let bytes = (NOTES_AT + 8 * capacity as usize).next_multiple_of(4096) as u64;
        if !capacity.is_power_of_two() || !(2..=MAX_NOTES).contains(&capacity) {
            return Err(RegionError::Size { bytes });
        }
        let region = region::allocate_object(bytes, Options::default())?;
        let memory = region.memory();
        // ORDER(header): Relaxed; the descriptor is handed over afterwards, through the kernel.
        memory.word64(0).store(MAGIC, Ordering::Relaxed);
        memory.word32(VERSION_AT).store(VERSION, Ordering::Relaxed);
        memory
            .word32(CAPACITY_AT)
            .store(capacity, Ordering::Relaxed);
        let words = memory.words64(NOTES_AT, capacity as usize);
        Ok(Self {
            region: region.create_shared_region()?,
            words,
            writer: Writer::new(capacity),
        })
    }

    /// A descriptor for the owner of the heap.
    ///
    /// # Errors
    ///
    /// [`RegionError::System`] if this process has no descriptor left.
    pub fn share(&self) -> Result<OwnedFd, RegionError> {
        self.region.share_region()
    }

    pub(super) fn put(&mut self, reference: &Reference) {
        let note = Note {
            object: reference.object,
            generation: reference.generation,
        };
        self.writer.put(&self.words[self.writer.index()], note);
    }
}

/// The notes of a borrower, read-only, checked, and not believed.
#[derive(Debug)]
pub struct PeerNotes {
    words: PeerWords,
    reader: Reader,
}

impl PeerNotes {
    /// Checks a descriptor that somebody sent, and maps it.
    ///
    /// # Errors
    ///
    /// [`RegionError`] says which check failed.
    pub fn open(fd: &OwnedFd) -> Result<Self, RegionError> {
        let most = (NOTES_AT as u64 + 8 * u64::from(MAX_NOTES)).next_multiple_of(4096);
        let handed = Handed::open(fd, most)?;
        let header = |at| handed.read::<u32>(at).unwrap_or(0);
        if handed.read::<u64>(0) != Some(MAGIC) {
            return Err(RegionError::WrongMagic);
        }
        if header(VERSION_AT) != VERSION {
            return Err(RegionError::WrongVersion {
                found: header(VERSION_AT),
                expected: VERSION,
            });
        }
        let capacity = header(CAPACITY_AT);
        let expected = (NOTES_AT as u64 + 8 * u64::from(capacity)).next_multiple_of(4096);
        if !capacity.is_power_of_two() || capacity < 2 || handed.len() as u64 != expected {
            return Err(RegionError::WrongSize {
                found: handed.len() as u64,
                expected,
            });
        }
        Ok(Self {
            words: handed.memory().words64(NOTES_AT, capacity as usize),
            reader: Reader::new(capacity),
        })
    }

    /// How many objects its writer may hold at a time.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.reader.capacity()
    }

    /// The next note, if there is one.
    #[inline]
    pub(super) fn next(&mut self) -> Option<Note> {
        self.reader.next(self.words.read(self.reader.index()))
    }
}
