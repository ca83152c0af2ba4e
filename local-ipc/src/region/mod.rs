//! Regions: spans of shared memory with exactly one writer, from the first byte to the last reader.
//!
//! A region goes one way, and each step is a type:
//!
//! ```text
//! allocate_object ─> Draft ──create_shared_region──> Shared ──freeze──> Frozen
//!                      └──────────────freeze───────────────────────────────^
//! ```
//!
//! A [`Draft`] is nobody else's yet: its owner has it as a slice. A [`Shared`] region can be read by all
//! who were given its descriptor while its owner writes: they see it as a [`Handed`] region, which
//! gives out copies only. A [`Frozen`] one can be written by nobody any more, its owner included, so
//! that whoever holds it may borrow its bytes, even from a peer that is not trusted.
//!
//! The kernel enforces it by seals (`fcntl(2)`, `F_ADD_SEALS`): from `Shared` on, nobody gets a writable
//! mapping; from `Frozen` on there is none. A reader checks seals, size and memory before it maps.
//! Root, and who may `ptrace` the owner, stand outside of this. Without the kernel's help
//! ([`crate::ENFORCED`] says so) a frozen region is copied when it is opened, so that it can be borrowed
//! all the same.
//!
//! Memory is taken when a region is made, so that no access to it can fail later; if there is none,
//! making it fails.
//!
//! A file of a file system is something else: whoever may write it can cut it off, and who reads a
//! mapping of it then dies. [`FileRegion`] therefore reads, and answers with an error.

mod file;
mod owned;
mod reader;

use crate::error::RegionError;
use crate::sys::memory::{self, MemoryFile};
use crate::sys::{OwnedFd, Stage};

pub use self::file::FileRegion;
pub use self::owned::{Draft, Freeze, Shared, allocate_object, allocate_placed, change_owner};
pub use self::reader::{Frozen, Handed};

/// The size of a huge page that is asked for.
const HUGE_PAGE_BYTES: u64 = 2 << 20;

/// How to get memory.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Options {
    /// Map all pages now. Otherwise each is mapped when it is first touched, which takes some
    /// microseconds then.
    pub prefault: bool,
    /// Take huge pages if the system has them reserved; ask for them where it gives them by itself.
    pub huge: bool,
}

/// Of what pages a region consists.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Pages {
    /// Of the system's usual pages.
    Small,
    /// Of reserved huge pages.
    Huge,
}

/// From this size on the machine is asked first whether it has so much. The kernel does not say no to
/// a memory file that it has no memory for: it ends processes until it has, or none is left.
const ASK_FROM_BYTES: u64 = 16 << 20;

/// A memory file, not sealed yet: with all of its memory if its pages are huge, else without (see
/// [`MemoryFile::allocate`]).
fn memory_file(bytes: u64, options: Options) -> Result<(MemoryFile, Pages), RegionError> {
    if bytes == 0 || i64::try_from(bytes).is_err() {
        return Err(RegionError::Size { bytes });
    }
    let short = |available| available < bytes;
    if bytes >= ASK_FROM_BYTES && memory::available_bytes().is_some_and(short) {
        return Err(RegionError::OutOfMemory { bytes });
    }
    let name = "weft-region";
    if options.huge && bytes.is_multiple_of(HUGE_PAGE_BYTES) {
        // No reserved pages, no right, no support: small ones do.
        let allocated = |file: MemoryFile| file.allocate(0, bytes).map(|()| file);
        if let Ok(file) = MemoryFile::create_huge(name, bytes).and_then(allocated) {
            return Ok((file, Pages::Huge));
        }
    }
    MemoryFile::create(name, bytes).map(|file| (file, Pages::Small))
}

/// Checks what a peer handed over, before it is mapped. Returns its size in bytes.
///
/// A liar may have its memory in another place than where it is read, even beyond the end. Its missing
/// pages are then made in our name; `most_bytes` bounds that.
fn examine(fd: &OwnedFd, stage: Stage, most_bytes: u64) -> Result<u64, RegionError> {
    let bytes = memory::examine(fd, stage)?;
    if bytes == 0 || bytes > most_bytes {
        return Err(RegionError::Size { bytes });
    }
    memory::check_allocated(fd, bytes)?;
    Ok(bytes)
}
