//! The reader's side: what a peer handed over, checked before it is mapped.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::examine;
use crate::error::RegionError;
use crate::raw::{FrozenMemory, PeerMemory};
use crate::sys::{OwnedFd, Stage};

/// A region that its owner may still write. Gives out copies only.
#[derive(Debug)]
pub struct Handed {
    memory: PeerMemory,
    len: usize,
}

impl Handed {
    /// Checks a descriptor that somebody sent, and maps it, if it has at most `most_bytes`: what its
    /// sender has left out of it counts as our memory.
    ///
    /// Reading it can never fail afterwards: the seals keep its size, and what exists of it. All its
    /// pages are mapped here, which takes a while for a large one (0.2 s for a GiB of small pages).
    ///
    /// # Errors
    ///
    /// [`RegionError`] says which check failed.
    pub fn open(fd: &OwnedFd, most_bytes: u64) -> Result<Self, RegionError> {
        let bytes = examine(fd, Stage::Shared, most_bytes).or_else(|error| {
            // A frozen one is all of that and more.
            examine(fd, Stage::Frozen, most_bytes).map_err(|_| error)
        })?;
        let len = usize::try_from(bytes).map_err(|_| RegionError::Size { bytes })?;
        let memory = PeerMemory::map(fd, len)?;
        memory.populate(0, bytes)?;
        Ok(Self { memory, len })
    }

    pub(crate) fn memory(&self) -> &PeerMemory {
        &self.memory
    }

    /// How many bytes it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: a region has a byte at least.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Fills `to` with a copy of the bytes from `offset` on. `false`, and nothing is copied, if they do
    /// not all lie in it.
    #[must_use]
    pub fn copy_to(&self, offset: usize, to: &mut [u8]) -> bool {
        let inside = offset
            .checked_add(to.len())
            .is_some_and(|end| end <= self.len);
        if inside {
            self.memory.bytes().copy_to(offset, to);
        }
        inside
    }

    /// A copy of the value at `offset` bytes; `None` if it does not lie in the region. Read twice, it
    /// may differ: check the copy.
    #[must_use]
    pub fn read<T: FromBytes + IntoBytes>(&self, offset: usize) -> Option<T> {
        let mut value = T::new_zeroed();
        self.copy_to(offset, value.as_mut_bytes()).then_some(value)
    }
}

/// A region that nobody can write any more. Its bytes can be borrowed.
#[derive(Debug)]
pub struct Frozen {
    fd: OwnedFd,
    memory: FrozenMemory,
}

impl Frozen {
    /// Checks that a region is frozen, and maps it, if it has at most `most_bytes` (see
    /// [`Handed::open`]).
    ///
    /// # Errors
    ///
    /// [`RegionError`] says which check failed.
    pub fn open(fd: OwnedFd, most_bytes: u64) -> Result<Self, RegionError> {
        let bytes = examine(&fd, Stage::Frozen, most_bytes)?;
        let len = usize::try_from(bytes).map_err(|_| RegionError::Size { bytes })?;
        let memory = FrozenMemory::map(&fd, len)?;
        Ok(Self { fd, memory })
    }

    /// A descriptor to hand over.
    ///
    /// # Errors
    ///
    /// [`RegionError::System`] if this process has no descriptor left.
    #[doc(alias = "ShareRegion")]
    pub fn share_region(&self) -> Result<OwnedFd, RegionError> {
        self.fd
            .try_clone()
            .map_err(|error| RegionError::system("share", error))
    }

    /// The object that begins at `offset`; `None` if it does not lie in the region, or not where one
    /// of its type may begin.
    #[must_use]
    pub fn object<T: FromBytes + KnownLayout + Immutable>(&self, offset: usize) -> Option<&T> {
        let bytes = self.memory.as_slice().get(offset..)?;
        T::ref_from_prefix(bytes).ok().map(|(object, _)| object)
    }
}

impl std::ops::Deref for Frozen {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.memory.as_slice()
    }
}
