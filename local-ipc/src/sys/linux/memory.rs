//! Regions as memory files (`memfd_create(2)`), held by seals.

use memmap2::{Advice, MmapOptions, MmapRaw};
use rustix::fd::OwnedFd;
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::io::Errno;

use crate::error::RegionError;
use crate::sys::Stage;

/// `tmpfs`, the file system behind memory files of small pages.
const TMPFS: u64 = 0x0102_1994;
/// `hugetlbfs`, that behind memory files of huge pages.
const HUGETLBFS: u64 = 0x9584_58f6;

impl Stage {
    /// What nobody can undo, once a reader has seen it. Without `F_SEAL_SEAL` more can be added.
    fn seals(self) -> SealFlags {
        let size = SealFlags::SHRINK | SealFlags::GROW;
        match self {
            Self::Half => size | SealFlags::FUTURE_WRITE | SealFlags::SEAL,
            Self::Shared => size | SealFlags::FUTURE_WRITE,
            Self::Frozen => size | SealFlags::WRITE,
        }
    }
}

/// What a region lies in, as its maker has it.
#[derive(Debug)]
pub(crate) struct MemoryFile(OwnedFd);

impl MemoryFile {
    /// A file of so many bytes of small pages, not sealed and without memory yet.
    pub(crate) fn create(name: &str, bytes: u64) -> Result<Self, RegionError> {
        Self::of_pages(name, bytes, MemfdFlags::empty())
    }

    /// The same of huge pages of 2 MiB. An error where there are none reserved, or no right to them.
    pub(crate) fn create_huge(name: &str, bytes: u64) -> Result<Self, RegionError> {
        Self::of_pages(name, bytes, MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB)
    }

    fn of_pages(name: &str, bytes: u64, pages: MemfdFlags) -> Result<Self, RegionError> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | pages;
        let fd = match rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
            // Linux before 6.3 does not know that flag; the rest protects us just as well.
            Err(Errno::INVAL) => rustix::fs::memfd_create(name, flags),
            other => other,
        }
        .map_err(|error| RegionError::system("create", error))?;
        rustix::fs::ftruncate(&fd, bytes).map_err(|error| RegionError::system("size", error))?;
        Ok(Self(fd))
    }

    /// Gets memory for a span, so that no access to it can fail later.
    ///
    /// # Errors
    ///
    /// [`RegionError::OutOfMemory`] if there is none.
    pub(crate) fn allocate(&self, at: u64, bytes: u64) -> Result<(), RegionError> {
        match rustix::fs::fallocate(&self.0, FallocateFlags::empty(), at, bytes) {
            Ok(()) => Ok(()),
            Err(Errno::NOMEM | Errno::NOSPC) => Err(RegionError::OutOfMemory { bytes }),
            Err(error) => Err(RegionError::system("allocate", error)),
        }
    }

    /// No more memory will be asked for. The descriptor that is handed over is the only one there is.
    pub(crate) fn has_all(&mut self) {}

    /// Makes it what readers may rely on. For [`Stage::Frozen`] no writable mapping may be left.
    pub(crate) fn seal(&self, stage: Stage) -> std::io::Result<()> {
        let last = match stage {
            Stage::Frozen => SealFlags::SEAL,
            Stage::Half | Stage::Shared => SealFlags::empty(),
        };
        Ok(rustix::fs::fcntl_add_seals(&self.0, stage.seals() | last)?)
    }

    /// Maps `len` bytes of it, to be written.
    pub(crate) fn map(&self, len: usize) -> Result<MmapRaw, RegionError> {
        let map = MmapOptions::new()
            .len(len)
            .map_raw(&self.0)
            .map_err(|error| RegionError::system("map", error))?;
        // A forked child must not become a second writer.
        map.advise(Advice::DontFork)
            .map_err(|error| RegionError::system("protect", error))?;
        Ok(map)
    }

    /// A descriptor to hand over. After [`Self::seal`], who has it can read the region and never write
    /// it.
    pub(crate) fn share(&self) -> Result<OwnedFd, RegionError> {
        self.0
            .try_clone()
            .map_err(|error| RegionError::system("share", error))
    }

    /// The last of what its maker has, to be read from now on.
    pub(crate) fn into_shared(self) -> OwnedFd {
        self.0
    }
}

/// Maps `len` bytes of a region whose stage and size have been checked, to be read.
pub(crate) fn map_peer(fd: &OwnedFd, len: usize) -> Result<MmapRaw, RegionError> {
    let map = MmapOptions::new()
        .len(len)
        .map_raw_read_only(fd)
        .map_err(|error| RegionError::system("map", error))?;
    map.advise(Advice::DontFork)
        .map_err(|error| RegionError::system("protect", error))?;
    Ok(map)
}

/// Maps `len` bytes of a region that nobody can write, with all of its pages. What is returned never
/// changes.
///
/// It has seen the seals: with `F_SEAL_WRITE` the kernel has made sure that no writable mapping is left
/// and makes none again, with `F_SEAL_SHRINK` the file keeps its pages, and seals are never taken
/// back (`fcntl(2)`). So nothing changes under a slice of it, whoever else has the file.
///
/// # Errors
///
/// [`RegionError::NotSealed`] unless the kernel says all that.
pub(crate) fn map_frozen(fd: &OwnedFd, len: usize) -> Result<MmapRaw, RegionError> {
    let seals =
        rustix::fs::fcntl_get_seals(fd).map_err(|error| RegionError::system("examine", error))?;
    if !seals.contains(SealFlags::WRITE | SealFlags::SHRINK) {
        return Err(RegionError::NotSealed {
            seals: seals.bits(),
        });
    }
    let map = map_peer(fd, len)?;
    populate_read(&map, 0, len)?;
    Ok(map)
}

/// Asks for huge pages where the system gives them by itself. No is an answer.
pub(crate) fn prefer_huge_pages(map: &MmapRaw) {
    let _ = map.advise(Advice::HugePage);
}

/// Maps all pages now, to be written.
///
/// # Errors
///
/// [`RegionError::OutOfMemory`] if that cannot be done.
pub(crate) fn populate_write(map: &MmapRaw) -> Result<(), RegionError> {
    populated(map.advise(Advice::PopulateWrite), map.len())
}

/// Maps the pages of a span now. Afterwards reading them cannot fail: what exists stays, the seals see
/// to that.
///
/// # Errors
///
/// [`RegionError::OutOfMemory`] if a page that the peer left out cannot be made.
pub(crate) fn populate_read(map: &MmapRaw, offset: usize, len: usize) -> Result<(), RegionError> {
    populated(map.advise_range(Advice::PopulateRead, offset, len), len)
}

fn populated(result: std::io::Result<()>, len: usize) -> Result<(), RegionError> {
    match result {
        Ok(()) => Ok(()),
        // Linux before 5.14: pages are mapped when they are touched.
        Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => Ok(()),
        Err(_) => Err(RegionError::OutOfMemory { bytes: len as u64 }),
    }
}

/// Checks what a peer handed over, and says how many bytes it has.
///
/// Seals first: once they are there, size and pages cannot change any more, so what is checked
/// afterwards stays true.
///
/// # Errors
///
/// [`RegionError::NotMemory`], [`RegionError::NotSealed`], or [`RegionError::System`] if the system does
/// not tell.
pub(crate) fn examine(fd: &OwnedFd, stage: Stage) -> Result<u64, RegionError> {
    let system = |error| RegionError::system("examine", error);
    let seals = rustix::fs::fcntl_get_seals(fd).map_err(|error| match error {
        Errno::INVAL => RegionError::NotMemory,
        error => system(error),
    })?;
    if !seals.contains(stage.seals()) {
        return Err(RegionError::NotSealed {
            seals: seals.bits(),
        });
    }
    let kind = rustix::fs::fstatfs(fd).map_err(system)?.f_type as u64;
    // Huge pages support seals too, but a read of a missing one can kill the reader, and a half has
    // pages that are missing until it grows.
    if kind != TMPFS && (kind != HUGETLBFS || stage == Stage::Half) {
        return Err(RegionError::NotMemory);
    }
    Ok(rustix::fs::fstat(fd).map_err(system)?.st_size as u64)
}

/// Whether a file has so many bytes of memory, wherever they are.
///
/// To read a page that does not exist would take memory in our name. A liar may have its memory in
/// another place than where it is read; it then costs us no more than it pays itself.
pub(crate) fn check_allocated(fd: &OwnedFd, bytes: u64) -> Result<(), RegionError> {
    let stat = rustix::fs::fstat(fd).map_err(|error| RegionError::system("examine", error))?;
    let allocated = (stat.st_blocks as u64).saturating_mul(512);
    if allocated < bytes {
        return Err(RegionError::NotAllocated { allocated, bytes });
    }
    Ok(())
}

/// What the machine can still give out without taking it from anybody, in bytes: `MemAvailable` of
/// `proc_meminfo(5)`. A control group may have less, and answers for itself.
pub(crate) fn available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// A file that everybody writes who has it, all zero. It cannot shrink.
#[cfg(feature = "floor")]
pub(crate) fn create_words(bytes: u64) -> Result<OwnedFd, RegionError> {
    let file = MemoryFile::create("weft-words", bytes)?;
    file.allocate(0, bytes)?;
    rustix::fs::fcntl_add_seals(&file.0, SealFlags::SHRINK)
        .map_err(|error| RegionError::system("create", error))?;
    Ok(file.0)
}

/// Maps such a file, to be written.
///
/// # Errors
///
/// [`RegionError::NotSealed`] if it could shrink.
#[cfg(feature = "floor")]
pub(crate) fn map_words(fd: &OwnedFd) -> Result<MmapRaw, RegionError> {
    let system = |error| RegionError::system("examine", error);
    let seals = rustix::fs::fcntl_get_seals(fd).map_err(system)?;
    if !seals.contains(SealFlags::SHRINK) {
        return Err(RegionError::NotSealed {
            seals: seals.bits(),
        });
    }
    let bytes = rustix::fs::fstat(fd).map_err(system)?.st_size as usize;
    MmapOptions::new()
        .len(bytes)
        .map_raw(fd)
        .map_err(|error| RegionError::system("map", error))
}
