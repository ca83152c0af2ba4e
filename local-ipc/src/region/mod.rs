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
//! Root, and who may `ptrace` the owner, stand outside of this.
//!
//! Memory is taken when a region is made, so that no access to it can fail later; if there is none,
//! making it fails.
//!
//! A file of a file system is something else: whoever may write it can cut it off, and who reads a
//! mapping of it then dies. [`FileRegion`] therefore reads, and answers with an error.

mod file;
mod owned;
mod reader;

use rustix::fd::OwnedFd;
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::io::Errno;

use crate::error::RegionError;

pub use self::file::FileRegion;
pub use self::owned::{Draft, Freeze, Shared, allocate_object, allocate_placed, change_owner};
pub use self::reader::{Frozen, Handed};

/// `tmpfs`, the file system behind memory files of small pages.
const TMPFS: u64 = 0x0102_1994;
/// `hugetlbfs`, that behind memory files of huge pages.
const HUGETLBFS: u64 = 0x9584_58f6;

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

/// What nobody can undo, once a reader has seen it: the region's size, and that no writable mapping is
/// made any more. Not `F_SEAL_SEAL`: the region may be frozen later.
fn shared_seals() -> SealFlags {
    SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE
}

/// Of a region that nobody can write.
fn frozen_seals() -> SealFlags {
    SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE
}

/// From this size on the machine is asked first whether it has so much. The kernel does not say no to
/// a memory file that it has no memory for: it ends processes until it has, or none is left.
const ASK_FROM_BYTES: u64 = 16 << 20;

/// What the machine can still give out without taking it from anybody, in bytes: `MemAvailable` of
/// `proc_meminfo(5)`. A control group may have less, and answers for itself.
fn available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// A memory file, not sealed yet: with all of its memory if its pages are huge, else without (see
/// [`allocate`]).
fn memory_file(bytes: u64, options: Options) -> Result<(OwnedFd, Pages), RegionError> {
    if bytes == 0 || i64::try_from(bytes).is_err() {
        return Err(RegionError::Size { bytes });
    }
    if bytes >= ASK_FROM_BYTES && available_bytes().is_some_and(|available| available < bytes) {
        return Err(RegionError::OutOfMemory { bytes });
    }
    if options.huge && bytes.is_multiple_of(HUGE_PAGE_BYTES) {
        let huge = MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
        // No reserved pages, no right, no support: small ones do.
        if let Ok(fd) = new_file(bytes, huge).and_then(|fd| allocate(&fd, bytes).map(|()| fd)) {
            return Ok((fd, Pages::Huge));
        }
    }
    new_file(bytes, MemfdFlags::empty()).map(|fd| (fd, Pages::Small))
}

fn new_file(bytes: u64, pages: MemfdFlags) -> Result<OwnedFd, RegionError> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | pages;
    let fd = match rustix::fs::memfd_create("weft-region", flags | MemfdFlags::NOEXEC_SEAL) {
        // Linux before 6.3 does not know that flag.
        Err(Errno::INVAL) => rustix::fs::memfd_create("weft-region", flags),
        other => other,
    }
    .map_err(|error| RegionError::system("create", error))?;
    rustix::fs::ftruncate(&fd, bytes).map_err(|error| RegionError::system("size", error))?;
    Ok(fd)
}

/// Gets all of a file's memory.
fn allocate(fd: &OwnedFd, bytes: u64) -> Result<(), RegionError> {
    match rustix::fs::fallocate(fd, FallocateFlags::empty(), 0, bytes) {
        Ok(()) => Ok(()),
        Err(Errno::NOMEM | Errno::NOSPC) => Err(RegionError::OutOfMemory { bytes }),
        Err(error) => Err(RegionError::system("allocate", error)),
    }
}

fn seal(fd: &OwnedFd, seals: SealFlags) -> Result<(), Errno> {
    rustix::fs::fcntl_add_seals(fd, seals)
}

/// Checks what a peer handed over: seals first, then what they keep true. Returns its size in bytes.
///
/// A liar may have its memory in another place than where it is read, even beyond the end. Its missing
/// pages are then made in our name; `most_bytes` bounds that.
fn examine(fd: &OwnedFd, required: SealFlags, most_bytes: u64) -> Result<u64, RegionError> {
    let system = |error| RegionError::system("examine", error);
    let seals = rustix::fs::fcntl_get_seals(fd).map_err(|error| match error {
        Errno::INVAL => RegionError::NotMemory,
        error => system(error),
    })?;
    if !seals.contains(required) {
        return Err(RegionError::NotSealed {
            seals: seals.bits(),
        });
    }
    let kind = rustix::fs::fstatfs(fd).map_err(system)?.f_type as u64;
    if kind != TMPFS && kind != HUGETLBFS {
        return Err(RegionError::NotMemory);
    }
    let stat = rustix::fs::fstat(fd).map_err(system)?;
    let bytes = stat.st_size as u64;
    if bytes == 0 || bytes > most_bytes {
        return Err(RegionError::Size { bytes });
    }
    let allocated = (stat.st_blocks as u64).saturating_mul(512);
    if allocated < bytes {
        return Err(RegionError::NotAllocated { allocated, bytes });
    }
    Ok(bytes)
}
