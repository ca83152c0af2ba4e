//! Extents: the large regions that a heap is made of.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::blocks::Blocks;
use crate::error::RegionError;
use crate::numa::{Outcome, Placement};
use crate::raw::OwnMemory;
use crate::region::{self, Options, Shared};
use crate::sys::OwnedFd;

/// The number of an extent in its heap. Never used twice.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ExtentId(pub(super) u32);

impl ExtentId {
    /// The number that somebody sent.
    #[must_use]
    pub fn new(number: u32) -> Self {
        Self(number)
    }

    /// As a number, to be sent.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }
}

/// One extent: its memory, and which parts of it are in use.
#[derive(Debug)]
pub(super) struct Extent {
    pub(super) id: ExtentId,
    pub(super) blocks: Blocks,
    /// What loans keep alive.
    pub(super) held: Arc<Held>,
    /// No new loan is made from it: somebody can read it who shall not read what comes.
    pub(super) retired: bool,
    region: Shared,
}

/// What a loan needs of its extent.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) memory: OwnMemory,
    pub(super) unsent: Arc<Unused>,
}

impl Extent {
    /// Makes an extent of so many bytes, placed, pre-faulted and sealed.
    pub(super) fn create(
        id: ExtentId,
        bytes: u64,
        placement: Placement,
        unsent: Arc<Unused>,
    ) -> Result<(Self, Outcome), RegionError> {
        let options = Options {
            prefault: true,
            huge: true,
        };
        let (draft, outcome) = region::allocate_placed(bytes, options, placement)?;
        let memory = draft.memory().clone();
        let extent = Self {
            id,
            blocks: Blocks::new(bytes),
            held: Arc::new(Held { memory, unsent }),
            retired: false,
            region: draft.create_shared_region()?,
        };
        Ok((extent, outcome))
    }

    pub(super) fn bytes(&self) -> u64 {
        self.region.len() as u64
    }

    pub(super) fn share(&self) -> Result<OwnedFd, RegionError> {
        self.region.share_region()
    }
}

/// Objects whose loans were dropped without being sent, on whatever thread.
#[derive(Debug, Default)]
pub(super) struct Unused {
    count: AtomicU32,
    objects: Mutex<Vec<u32>>,
}

impl Unused {
    pub(super) fn put(&self, object: u32) {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        objects.push(object);
        // ORDER(unused): Relaxed; a hint. What it counts is under the lock.
        self.count.store(objects.len() as u32, Ordering::Relaxed);
    }

    /// Moves them to the end of `to`.
    #[inline]
    pub(super) fn take(&self, to: &mut Vec<u32>) {
        // ORDER(unused): Relaxed, as above.
        if self.count.load(Ordering::Relaxed) != 0 {
            let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
            to.append(&mut objects);
            self.count.store(0, Ordering::Relaxed);
        }
    }
}
