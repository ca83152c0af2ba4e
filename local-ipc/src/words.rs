//! Bare shared words: the floor that a benchmark holds the rest of this crate against.
//!
//! Both sides write all of it and nobody is kept from anything, which is what this crate exists to
//! avoid. Only with the feature `floor`, for programs that measure.
#![expect(unsafe_code, reason = "a slice over a mapping")]

use memmap2::MmapRaw;

use crate::error::RegionError;
use crate::sync::{AtomicU32, AtomicU64};
use crate::sys::{OwnedFd, memory};

/// Words that whoever has the descriptor can load and store.
#[derive(Debug)]
pub struct SharedWords {
    map: MmapRaw,
    count: usize,
}

impl SharedWords {
    /// A memory file for `count` words, all zero. It cannot shrink.
    ///
    /// # Errors
    ///
    /// [`RegionError::System`].
    pub fn create(count: usize) -> Result<OwnedFd, RegionError> {
        memory::create_words(8 * count as u64)
    }

    /// Maps such a file.
    ///
    /// # Errors
    ///
    /// [`RegionError::NotSealed`] if it could shrink, else [`RegionError::System`].
    pub fn map(fd: &OwnedFd) -> Result<Self, RegionError> {
        let map = memory::map_words(fd)?;
        let count = map.len() / 8;
        Ok(Self { map, count })
    }
}

impl SharedWords {
    /// The low half of a word, to sleep on.
    ///
    /// # Panics
    ///
    /// If there are not so many words.
    #[must_use]
    pub fn word32(&self, index: usize) -> &AtomicU32 {
        let word = self[index].as_ptr().cast::<AtomicU32>();
        let low = usize::from(cfg!(target_endian = "big"));
        // SAFETY: half of a word of the mapping, aligned, alive as long as `self`. Whole and half are
        // reached through atomics only; that they overlap is what the floor is about.
        unsafe { &*word.add(low) }
    }
}

impl std::ops::Deref for SharedWords {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: so many words are mapped, readable and writable, at the start of a page, for as
        // long as `self`; their file cannot shrink (sealed). Everybody reaches them through atomics.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast(), self.count) }
    }
}
