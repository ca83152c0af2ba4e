//! Stands in for `raw` in models: the same types and functions, over words that a checker watches.
//!
//! A half is a memory file here too, with its seals and its allocated pages. Only its content is
//! elsewhere: both sides find the same words by the file's number. Words are made when they are
//! first asked for, so whoever sets a model up asks for all that two threads share.
//!
//! No slice lies over these words, so what is filled in place cannot be modelled; it is published like
//! the rest.
#![expect(unsafe_code, reason = "functions of `raw` that are unsafe there")]

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak as Gone};

use super::words::{Data, Weak};
use crate::error::RegionError;
use crate::layout;
use crate::numa::Span;
use crate::sync::{AtomicU32, AtomicU64, Ordering, Read32, Read64, fence};
use crate::sys::OwnedFd;
use crate::sys::memory::MemoryFile;

/// What lies in each memory file.
static FILES: Mutex<Option<HashMap<u64, Gone<Mapping>>>> = Mutex::new(None);

const NO_SLICE: &str = "no slice lies over a checker's words";

fn number(fd: &OwnedFd) -> u64 {
    rustix::fs::fstat(fd).expect("a memory file").st_ino
}

/// The words of one half.
#[derive(Debug, Default)]
struct Mapping {
    words32: Mutex<BTreeMap<usize, Arc<AtomicU32>>>,
    words64: Mutex<BTreeMap<usize, Arc<AtomicU64>>>,
    rings: Mutex<BTreeMap<usize, Arc<[AtomicU64]>>>,
    data: Mutex<BTreeMap<usize, Arc<AtomicU64>>>,
}

/// The words at `offset`, made by `make` if this is the first time. Nothing in it is the checker's.
fn found<T: ?Sized>(
    words: &Mutex<BTreeMap<usize, Arc<T>>>,
    offset: usize,
    make: impl FnOnce() -> Arc<T>,
) -> Arc<T> {
    let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(words.entry(offset).or_insert_with(make))
}

impl Mapping {
    fn word32(&self, offset: usize) -> Arc<AtomicU32> {
        found(&self.words32, offset, || {
            Arc::new(if offset == layout::GROWN_AT {
                AtomicU32::weaker(Weak::Grown)
            } else {
                AtomicU32::default()
            })
        })
    }

    fn word64(&self, offset: usize) -> Arc<AtomicU64> {
        // No other word's stores order anything but those of the cursors.
        found(&self.words64, offset, || {
            Arc::new(AtomicU64::weaker(Weak::Done))
        })
    }

    fn data(&self, offset: usize) -> Arc<AtomicU64> {
        found(&self.data, offset, || {
            Arc::new(AtomicU64::Data(Data::new()))
        })
    }

    fn ring(&self, offset: usize, slots: u32, slot_bytes: usize) -> Ring {
        let in_slot = slot_bytes / 8;
        let make = |index| {
            if index % in_slot == 0 {
                AtomicU64::weaker(Weak::Published)
            } else {
                AtomicU64::Data(Data::new())
            }
        };
        let words = found(&self.rings, offset, || {
            (0..slots as usize * in_slot).map(make).collect()
        });
        Ring {
            words,
            mask: u64::from(slots) - 1,
            in_slot,
        }
    }
}

#[derive(Clone, Debug)]
struct Ring {
    words: Arc<[AtomicU64]>,
    mask: u64,
    in_slot: usize,
}

impl Ring {
    fn slot(&self, sequence: u64) -> &[AtomicU64] {
        let first = (sequence & self.mask) as usize * self.in_slot;
        &self.words[first..first + self.in_slot]
    }
}

#[derive(Clone, Debug)]
pub(crate) struct OwnMemory(Arc<Mapping>);

impl OwnMemory {
    pub(crate) fn map(file: &MemoryFile, _: usize) -> Result<Self, RegionError> {
        let fd = file.share()?;
        let mapping = Arc::new(Mapping::default());
        let mut files = FILES.lock().unwrap_or_else(PoisonError::into_inner);
        let files = files.get_or_insert_default();
        files.retain(|_, mapping| mapping.strong_count() > 0);
        files.insert(number(&fd), Arc::downgrade(&mapping));
        Ok(Self(mapping))
    }

    pub(crate) fn pages(&self) -> Span {
        Span::new(std::ptr::null(), 0)
    }

    pub(crate) fn word32(&self, offset: usize) -> OwnWord32 {
        OwnWord32(self.0.word32(offset))
    }

    pub(crate) fn word64(&self, offset: usize) -> OwnWord64 {
        OwnWord64(self.0.word64(offset))
    }

    pub(crate) fn ring(&self, offset: usize, slots: u32, slot_bytes: usize) -> OwnRing {
        OwnRing(self.0.ring(offset, slots, slot_bytes))
    }

    /// # Safety
    ///
    /// It never returns.
    pub(crate) unsafe fn span(&self, _: usize, _: usize) -> &mut [u8] {
        panic!("{NO_SLICE}")
    }

    pub(crate) fn copy_in(&self, offset: usize, bytes: &[u8]) {
        for (at, bytes) in (offset..).step_by(8).zip(bytes.chunks(8)) {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            let data = self.0.data(at);
            data.store(u64::from_ne_bytes(word), Ordering::Relaxed);
        }
    }

    pub(crate) fn bytes(&self) -> PeerBytes<'_> {
        PeerBytes(&self.0)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct PeerMemory(Arc<Mapping>);

impl PeerMemory {
    pub(crate) fn map(fd: &OwnedFd, _: usize) -> Result<Self, RegionError> {
        let files = FILES.lock().unwrap_or_else(PoisonError::into_inner);
        let mapping = files.as_ref().and_then(|files| files.get(&number(fd)));
        let mapping = mapping.and_then(Gone::upgrade);
        mapping.map(Self).ok_or(RegionError::NotMemory)
    }

    pub(crate) fn pages(&self) -> Span {
        Span::new(std::ptr::null(), 0)
    }

    pub(crate) fn word32(&self, offset: usize) -> PeerWord32 {
        PeerWord32(self.0.word32(offset))
    }

    pub(crate) fn word64(&self, offset: usize) -> PeerWord64 {
        PeerWord64(self.0.word64(offset))
    }

    pub(crate) fn ring(&self, offset: usize, slots: u32, slot_bytes: usize) -> PeerRing {
        PeerRing(self.0.ring(offset, slots, slot_bytes))
    }

    pub(crate) fn bytes(&self) -> PeerBytes<'_> {
        PeerBytes(&self.0)
    }

    pub(crate) fn populate(&self, _: u64, _: u64) -> Result<(), RegionError> {
        Ok(())
    }
}

#[derive(Clone, Debug)]
pub(crate) struct OwnWord32(Arc<AtomicU32>);

impl std::ops::Deref for OwnWord32 {
    type Target = AtomicU32;

    fn deref(&self) -> &AtomicU32 {
        &self.0
    }
}

#[derive(Clone, Debug)]
pub(crate) struct OwnWord64(Arc<AtomicU64>);

impl std::ops::Deref for OwnWord64 {
    type Target = AtomicU64;

    fn deref(&self) -> &AtomicU64 {
        &self.0
    }
}

#[derive(Clone, Debug)]
pub(crate) struct PeerWord32(Arc<AtomicU32>);

impl PeerWord32 {
    pub(crate) fn read(&self) -> Read32<'_> {
        Read32(&self.0)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct PeerWord64(Arc<AtomicU64>);

impl PeerWord64 {
    pub(crate) fn read(&self) -> Read64<'_> {
        Read64(&self.0)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct OwnRing(Ring);

impl OwnRing {
    pub(crate) fn slot(&self, sequence: u64) -> &[AtomicU64] {
        self.0.slot(sequence)
    }

    /// # Safety
    ///
    /// It never returns.
    pub(crate) unsafe fn slot_bytes(&mut self, _: u64, _: usize) -> &mut [u8] {
        panic!("{NO_SLICE}")
    }

    pub(crate) fn as_peer(&self) -> PeerRing {
        PeerRing(self.0.clone())
    }
}

#[derive(Clone, Debug)]
pub(crate) struct PeerRing(Ring);

impl PeerRing {
    pub(crate) fn slot(&self, sequence: u64) -> PeerSlot<'_> {
        PeerSlot(self.0.slot(sequence))
    }

    pub(crate) fn slots(&self) -> u64 {
        self.0.mask + 1
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerSlot<'a>(&'a [AtomicU64]);

impl<'a> PeerSlot<'a> {
    pub(crate) fn sequence_word(self) -> u64 {
        self.0[0].load(Ordering::Relaxed)
    }

    pub(crate) fn acquire(self) {
        fence(Ordering::Acquire);
    }

    /// Hints are nothing to a model.
    pub(crate) fn fetch(self) {}

    pub(crate) fn word(self, index: usize) -> u64 {
        self.0[index].load(Ordering::Relaxed)
    }

    pub(crate) fn words(self, first: usize) -> &'a [AtomicU64] {
        &self.0[first..]
    }

    pub(crate) fn copy_to(self, first: usize, to: &mut [u8]) {
        for (to, word) in to.chunks_mut(8).zip(&self.0[first..]) {
            let bytes = word.load(Ordering::Relaxed).to_ne_bytes();
            to.copy_from_slice(&bytes[..to.len()]);
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerBytes<'a>(&'a Mapping);

impl<'a> PeerBytes<'a> {
    pub(crate) fn copy_to(self, offset: usize, to: &mut [u8]) {
        for (at, to) in (offset..).step_by(8).zip(to.chunks_mut(8)) {
            let bytes = self.0.data(at).load(Ordering::Relaxed).to_ne_bytes();
            to.copy_from_slice(&bytes[..to.len()]);
        }
    }

    pub(crate) fn words(self, _: usize, _: usize) -> Option<&'a [AtomicU64]> {
        None
    }

    pub(crate) fn append_to(self, offset: usize, len: usize, out: &mut Vec<u8>) {
        let old = out.len();
        out.resize(old + len, 0);
        self.copy_to(offset, &mut out[old..]);
    }
}
