//! The owner's side: filling, sharing, freezing, giving away.
#![expect(unsafe_code, reason = "a slice over memory that nobody else has")]

use super::reader::Frozen;
use super::{Options, Pages, memory_file};
use crate::error::RegionError;
use crate::numa::{Outcome, Placement};
use crate::raw::{OwnMemory, PeerMemory};
use crate::sys::memory::MemoryFile;
use crate::sys::{OwnedFd, Stage};

/// Makes a region of so many bytes, all zero, for its owner alone.
///
/// # Errors
///
/// [`RegionError::OutOfMemory`] if there is not so much, [`RegionError::Size`] for none or too many.
#[doc(alias = "AllocateObject")]
pub fn allocate_object(bytes: u64, options: Options) -> Result<Draft, RegionError> {
    allocate_placed(bytes, options, Placement::Anywhere).map(|(draft, _)| draft)
}

/// As [`allocate_object`] on a NUMA node, with what became of that wish.
///
/// # Errors
///
/// As [`allocate_object`]. A region that could not be placed is none: it works all the same.
pub fn allocate_placed(
    bytes: u64,
    options: Options,
    placement: Placement,
) -> Result<(Draft, Outcome), RegionError> {
    let (file, pages) = memory_file(bytes, options)?;
    let len = usize::try_from(bytes).map_err(|_| RegionError::Size { bytes })?;
    let memory = OwnMemory::map(&file, len)?;
    // Only pages that are allocated afterwards follow it.
    let wish = placement.wish(memory.pages());
    if pages == Pages::Small {
        file.allocate(0, bytes)?;
    }
    let outcome = wish.outcome(memory.pages());
    if options.huge && pages == Pages::Small {
        memory.prefer_huge_pages();
    }
    if options.prefault {
        memory.populate()?;
    }
    let region = Owned {
        file,
        memory,
        len,
        pages,
    };
    Ok((Draft { region }, outcome))
}

/// What the owner of a region holds: the only writable mapping.
#[derive(Debug)]
struct Owned {
    file: MemoryFile,
    memory: OwnMemory,
    len: usize,
    pages: Pages,
}

/// A region that only its owner has: to be filled, then shared or frozen.
#[derive(Debug)]
pub struct Draft {
    region: Owned,
}

impl Draft {
    /// Its bytes.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: the descriptor has not left this value, so no other mapping exists; `self` is
        // borrowed for as long as the slice lives. (Who makes one all the same, as the portable backend
        // cannot rule out, is our own user and breaks into our memory: see `sys::portable`.)
        unsafe { self.region.memory.span(0, self.region.len) }
    }

    /// To write parts of it while others read. Whoever keeps it stands for what its owner does.
    pub(crate) fn memory(&self) -> &OwnMemory {
        &self.region.memory
    }

    /// How many bytes it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.region.len
    }

    /// Never: a region has a byte at least.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.region.len == 0
    }

    /// Of what pages it consists.
    #[must_use]
    pub fn pages(&self) -> Pages {
        self.region.pages
    }

    /// Lets others read it from now on, while we go on writing. Nobody gets a writable mapping again.
    ///
    /// # Errors
    ///
    /// [`RegionError::System`].
    #[doc(alias = "CreateSharedRegion")]
    pub fn create_shared_region(self) -> Result<Shared, RegionError> {
        self.region
            .file
            .seal(Stage::Shared)
            .map_err(|error| RegionError::system("seal", error))?;
        Ok(Shared {
            region: self.region,
        })
    }

    /// Gives up the right to write it, for good.
    ///
    /// # Errors
    ///
    /// [`RegionError::System`].
    pub fn freeze(self) -> Result<Frozen, RegionError> {
        let Owned {
            file, memory, len, ..
        } = self.region;
        drop(memory);
        file.seal(Stage::Frozen)
            .map_err(|error| RegionError::system("freeze", error))?;
        Frozen::open(file.into_shared(), len as u64)
    }
}

/// A region that others read while its owner writes it.
#[derive(Debug)]
pub struct Shared {
    region: Owned,
}

/// How a region was frozen.
#[derive(Debug)]
pub enum Freeze {
    /// In its place. Readers who have it see the same memory.
    InPlace(Frozen),
    /// By a copy, because a reader had spoilt the freeze: it sealed the seals, or mapped the region
    /// before it was shared. Readers have to be given the copy.
    Copied(Frozen),
}

impl Freeze {
    /// The frozen region, wherever it lies.
    #[must_use]
    pub fn into_frozen(self) -> Frozen {
        match self {
            Self::InPlace(frozen) | Self::Copied(frozen) => frozen,
        }
    }
}

impl Shared {
    /// Writes bytes at an offset. `false`, and nothing is written, if they do not all lie in it.
    ///
    /// A reader may see some of them before the others.
    #[must_use]
    pub fn write_at(&mut self, offset: usize, bytes: &[u8]) -> bool {
        let inside = offset
            .checked_add(bytes.len())
            .is_some_and(|end| end <= self.region.len);
        if inside {
            self.region.memory.copy_in(offset, bytes);
        }
        inside
    }

    /// How many bytes it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.region.len
    }

    /// Never: a region has a byte at least.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.region.len == 0
    }

    /// A descriptor to hand over. Who has it can read the region and never write it.
    ///
    /// # Errors
    ///
    /// [`RegionError::System`] if this process has no descriptor left.
    #[doc(alias = "ShareRegion")]
    pub fn share_region(&self) -> Result<OwnedFd, RegionError> {
        self.region.file.share()
    }

    /// Gives up the right to write it, for good. In its place if no reader has spoilt that, else by
    /// a copy, which is the owner's doing and seen by nobody before it is whole.
    ///
    /// # Errors
    ///
    /// [`RegionError`] if the copy cannot be made.
    pub fn freeze(self) -> Result<Freeze, RegionError> {
        let Owned {
            file, memory, len, ..
        } = self.region;
        // The last writable mapping.
        drop(memory);
        let sealed = file.seal(Stage::Frozen).is_ok();
        let fd = file.into_shared();
        if sealed {
            return Frozen::open(fd, len as u64).map(Freeze::InPlace);
        }
        let old = PeerMemory::map(&fd, len)?;
        let mut copy = allocate_object(len as u64, Options::default())?;
        old.bytes().copy_to(0, copy.as_mut_slice());
        copy.freeze().map(Freeze::Copied)
    }
}

/// Makes the caller the owner of what a frozen region holds: a region of its own, with the only right
/// to write it.
///
/// Write rights cannot be handed over, only given up and made anew: the old owner froze the region, so
/// it can write neither that one nor this. Costs the new region, which is made page by page, and one
/// copy; who only wants to read needs none of it and keeps the frozen region.
///
/// # Errors
///
/// As [`allocate_object`].
#[doc(alias = "ChangeOwner")]
pub fn change_owner(from: &Frozen, options: Options) -> Result<Draft, RegionError> {
    let mut draft = allocate_object(from.len() as u64, options)?;
    draft.as_mut_slice().copy_from_slice(from);
    Ok(draft)
}
