//! The mapping itself: the one module that turns offsets into addresses.
//!
//! Two kinds of everything, so that nobody can try to store to a peer's memory: [`OwnMemory`] gives
//! out words and rings to load and store, [`PeerMemory`] such to load. Payload bytes go in and out
//! as copies only: no `&[u8]` over shared memory ever exists, because its bytes could change under
//! it.
//!
//! Offsets are checked here against the mapping's length, which our own process knows and which the
//! seals keep valid. A word or ring on the way of every message is checked once, when it is made,
//! and keeps its mapping alive. What a peer wrote has no part in any SAFETY argument below.
#![expect(unsafe_code, reason = "shared memory is reached through raw pointers")]

use std::ptr::NonNull;
use std::sync::Arc;

use memmap2::MmapRaw;

use crate::error::RegionError;
use crate::numa::Span;
use crate::prefetch::{self, LINE};
use crate::sync::{AtomicU32, AtomicU64, Ordering, Read32, Read64, compiler_fence, fence};
use crate::sys::OwnedFd;
use crate::sys::memory::{self, MemoryFile};

/// A span of shared memory, mapped for the life of this value.
#[derive(Debug)]
struct Mapping(MmapRaw);

impl Mapping {
    /// The address of `len` bytes at `offset`, a multiple of `align` (a power of two).
    ///
    /// # Panics
    ///
    /// If they do not lie in the mapping. Offsets come from our own layout, or from a peer *after*
    /// a check, so this is our own bug.
    fn at(&self, offset: usize, len: usize, align: usize) -> NonNull<u8> {
        let inside = offset
            .checked_add(len)
            .is_some_and(|end| end <= self.0.len());
        assert!(
            inside && offset & (align - 1) == 0,
            "offset {offset} + {len} outside a region of {} bytes",
            self.0.len()
        );
        // SAFETY: the assertion says that the result lies in (or one past) the mapping.
        let address = unsafe { self.0.as_mut_ptr().add(offset) };
        NonNull::new(address).expect("no mapping begins at address 0")
    }

    /// All of it, to place it or to ask where it lies.
    fn span(&self) -> Span {
        Span::new(self.0.as_ptr(), self.0.len())
    }
}

/// A number of words in a mapping, checked once. `T` is an atomic integer.
///
/// A reference to it may be made wherever a load is allowed; who may store is for the two types
/// around this one to know.
#[derive(Debug)]
struct Words<T> {
    start: NonNull<T>,
    count: usize,
    /// Keeps `start` valid.
    _mapping: Arc<Mapping>,
}

// SAFETY: it is no more than a shared reference to atomics (`T` is only ever `AtomicU32` or
// `AtomicU64`) together with what keeps them alive, and both of these can go to other threads.
unsafe impl<T: Sync> Send for Words<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Words<T> {}

impl<T> Clone for Words<T> {
    fn clone(&self) -> Self {
        Self {
            start: self.start,
            count: self.count,
            _mapping: Arc::clone(&self._mapping),
        }
    }
}

impl Words<AtomicU32> {
    fn new32(mapping: &Arc<Mapping>, offset: usize) -> Self {
        Self {
            start: mapping.at(offset, 4, 4).cast(),
            count: 1,
            _mapping: Arc::clone(mapping),
        }
    }
}

impl Words<AtomicU64> {
    fn new64(mapping: &Arc<Mapping>, offset: usize, count: usize) -> Self {
        Self {
            start: mapping.at(offset, count * 8, 8).cast(),
            count,
            _mapping: Arc::clone(mapping),
        }
    }
}

impl<T> Words<T> {
    #[inline]
    fn one(&self) -> &T {
        // SAFETY: `new32` and `new64` have checked bounds and alignment of at least one word, and
        // the mapping lives as long as `self`; its file cannot shrink (sealed, or our own). An
        // atomic may change under us, and every bit pattern of it is valid.
        unsafe { self.start.as_ref() }
    }

    /// `count` words from `first` on.
    #[inline(always)]
    fn some(&self, first: usize, count: usize) -> &[T] {
        debug_assert!(first + count <= self.count, "the caller masks");
        // SAFETY: the callers are `Ring`, whose mask keeps `first + count` within `self.count`, and
        // those that ask for all of them; the rest as in `one`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().add(first), count) }
    }
}

/// A ring of slots: which words are the slot of a sequence.
#[derive(Clone, Debug)]
struct Ring {
    words: Words<AtomicU64>,
    mask: u64,
    /// Of a slot's words, the binary logarithm.
    shift: u32,
}

impl Ring {
    fn new(mapping: &Arc<Mapping>, offset: usize, slots: u32, slot_bytes: usize) -> Self {
        assert!(
            slots.is_power_of_two() && slot_bytes.is_power_of_two() && slot_bytes >= 64,
            "checked with the geometry"
        );
        let words = slots as usize * slot_bytes / 8;
        Self {
            words: Words::new64(mapping, offset, words),
            mask: u64::from(slots) - 1,
            shift: (slot_bytes / 8).trailing_zeros(),
        }
    }

    #[inline(always)]
    fn slot(&self, sequence: u64) -> &[AtomicU64] {
        let index = (sequence & self.mask) as usize;
        self.words.some(index << self.shift, 1 << self.shift)
    }
}

/// Our own region: the only writable mapping of it that there will ever be.
#[derive(Clone, Debug)]
pub(crate) struct OwnMemory(Arc<Mapping>);

impl OwnMemory {
    /// Maps a memory file of `len` bytes that is not sealed yet.
    pub(crate) fn map(file: &MemoryFile, len: usize) -> Result<Self, RegionError> {
        Ok(Self(Arc::new(Mapping(file.map(len)?))))
    }

    /// All of it, to place it or to ask where it lies.
    pub(crate) fn pages(&self) -> Span {
        self.0.span()
    }

    /// Asks for huge pages where the system gives them by itself. No is an answer.
    pub(crate) fn prefer_huge_pages(&self) {
        memory::prefer_huge_pages(&self.0.0);
    }

    /// Maps all pages now.
    ///
    /// # Errors
    ///
    /// [`RegionError::OutOfMemory`] if that cannot be done.
    pub(crate) fn populate(&self) -> Result<(), RegionError> {
        memory::populate_write(&self.0.0)
    }

    pub(crate) fn word32(&self, offset: usize) -> OwnWord32 {
        OwnWord32(Words::new32(&self.0, offset))
    }

    pub(crate) fn word64(&self, offset: usize) -> OwnWord64 {
        OwnWord64(Words::new64(&self.0, offset, 1))
    }

    /// `count` words from `offset` on.
    pub(crate) fn words64(&self, offset: usize, count: usize) -> OwnWords {
        OwnWords(Words::new64(&self.0, offset, count))
    }

    pub(crate) fn ring(&self, offset: usize, slots: u32, slot_bytes: usize) -> OwnRing {
        OwnRing(Ring::new(&self.0, offset, slots, slot_bytes))
    }

    /// The bytes of a span, to be written in place.
    ///
    /// # Safety
    ///
    /// The span is free, and nothing else in this process touches it while the result lives.
    #[expect(
        clippy::mut_from_ref,
        reason = "the caller says that it is the only one"
    )]
    pub(crate) unsafe fn span(&self, offset: usize, len: usize) -> &mut [u8] {
        let start = self.0.at(offset, len, 1);
        // SAFETY: `at` has checked that the span lies in the mapping, which is writable and lives as
        // long as `self`; the rest as in `OwnRing::slot_bytes`.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), len) }
    }

    /// The bytes of a span, to be read in place.
    ///
    /// # Safety
    ///
    /// Nothing in this process writes to the span while the result lives.
    pub(crate) unsafe fn shared_span(&self, offset: usize, len: usize) -> &[u8] {
        let start = self.0.at(offset, len, 1);
        // SAFETY: as in `span`; we alone can write here, and the caller says that we do not.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), len) }
    }

    /// Writes `bytes` at `offset`. Only the sender's thread does, into arena room that no
    /// published message uses.
    pub(crate) fn copy_in(&self, offset: usize, bytes: &[u8]) {
        let to = self.0.at(offset, bytes.len(), 1);
        // SAFETY: `at` has checked the target, the source is a live slice, and they cannot
        // overlap: nobody has a slice over a mapping. The pages are mapped writable.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.as_ptr(), bytes.len()) }
    }
}

/// A peer's region, mapped read-only.
#[derive(Clone, Debug)]
pub(crate) struct PeerMemory(Arc<Mapping>);

impl PeerMemory {
    /// Maps `len` bytes of a memory file whose seals and size have been checked.
    pub(crate) fn map(fd: &OwnedFd, len: usize) -> Result<Self, RegionError> {
        Ok(Self(Arc::new(Mapping(memory::map_peer(fd, len)?))))
    }

    /// All of it, to ask where it lies.
    pub(crate) fn pages(&self) -> Span {
        self.0.span()
    }

    pub(crate) fn word32(&self, offset: usize) -> PeerWord32 {
        PeerWord32(Words::new32(&self.0, offset))
    }

    pub(crate) fn word64(&self, offset: usize) -> PeerWord64 {
        PeerWord64(Words::new64(&self.0, offset, 1))
    }

    /// `count` words from `offset` on.
    pub(crate) fn words64(&self, offset: usize, count: usize) -> PeerWords {
        PeerWords(Words::new64(&self.0, offset, count))
    }

    pub(crate) fn ring(&self, offset: usize, slots: u32, slot_bytes: usize) -> PeerRing {
        PeerRing(Ring::new(&self.0, offset, slots, slot_bytes))
    }

    pub(crate) fn bytes(&self) -> PeerBytes<'_> {
        PeerBytes(&self.0)
    }

    /// Maps the pages of a span now. Afterwards reading them cannot fail: what exists stays, the
    /// seals see to that.
    ///
    /// # Errors
    ///
    /// [`RegionError::OutOfMemory`] if a page that the peer left out cannot be made.
    pub(crate) fn populate(&self, offset: u64, bytes: u64) -> Result<(), RegionError> {
        memory::populate_read(&self.0.0, offset as usize, bytes as usize)
    }
}

/// A region that nobody can write: sealed so, without a writable mapping anywhere.
#[derive(Debug)]
pub(crate) struct FrozenMemory(Mapping);

impl FrozenMemory {
    /// Maps `len` bytes of a memory file.
    ///
    /// # Errors
    ///
    /// [`RegionError::NotSealed`] unless the kernel says that nobody can write or cut it.
    pub(crate) fn map(fd: &OwnedFd, len: usize) -> Result<Self, RegionError> {
        memory::map_frozen(fd, len).map(|map| Self(Mapping(map)))
    }

    /// Its bytes.
    pub(crate) fn as_slice(&self) -> &[u8] {
        let start = self.0.at(0, self.0.0.len(), 1);
        // SAFETY: so many bytes are mapped for as long as `self`, and `memory::map_frozen` says why they
        // never change, whoever else has the file.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), self.0.0.len()) }
    }
}

/// A word that only we write.
#[derive(Clone, Debug)]
pub(crate) struct OwnWord32(Words<AtomicU32>);

impl std::ops::Deref for OwnWord32 {
    type Target = AtomicU32;

    #[inline]
    fn deref(&self) -> &AtomicU32 {
        self.0.one()
    }
}

/// A word that only we write.
#[derive(Clone, Debug)]
pub(crate) struct OwnWord64(Words<AtomicU64>);

impl std::ops::Deref for OwnWord64 {
    type Target = AtomicU64;

    #[inline]
    fn deref(&self) -> &AtomicU64 {
        self.0.one()
    }
}

/// A word that only the peer writes.
#[derive(Clone, Debug)]
pub(crate) struct PeerWord32(Words<AtomicU32>);

impl PeerWord32 {
    #[inline]
    pub(crate) fn read(&self) -> Read32<'_> {
        Read32(self.0.one())
    }
}

/// A word that only the peer writes.
#[derive(Clone, Debug)]
pub(crate) struct PeerWord64(Words<AtomicU64>);

impl PeerWord64 {
    #[inline]
    pub(crate) fn read(&self) -> Read64<'_> {
        Read64(self.0.one())
    }
}

/// Words that only we write.
#[derive(Clone, Debug)]
pub(crate) struct OwnWords(Words<AtomicU64>);

impl std::ops::Deref for OwnWords {
    type Target = [AtomicU64];

    #[inline]
    fn deref(&self) -> &[AtomicU64] {
        self.0.some(0, self.0.count)
    }
}

/// Words that only the peer writes.
#[derive(Clone, Debug)]
pub(crate) struct PeerWords(Words<AtomicU64>);

impl PeerWords {
    /// The word at this place.
    #[inline]
    pub(crate) fn read(&self, index: usize) -> Read64<'_> {
        Read64(&self.0.some(0, self.0.count)[index])
    }
}

/// A ring that only we write.
#[derive(Clone, Debug)]
pub(crate) struct OwnRing(Ring);

impl OwnRing {
    /// The words of the slot of this sequence.
    #[inline]
    pub(crate) fn slot(&self, sequence: u64) -> &[AtomicU64] {
        self.0.slot(sequence)
    }

    /// The bytes of a slot from word `first` on, to be written in place.
    ///
    /// # Safety
    ///
    /// The slot is free, and nothing else in this process touches it while the result lives.
    #[inline(always)]
    pub(crate) unsafe fn slot_bytes(&mut self, sequence: u64, first: usize) -> &mut [u8] {
        let words = &self.0.slot(sequence)[first..];
        let start = words.as_ptr().cast_mut().cast();
        // SAFETY: the words are live and ours to write; the caller says that nobody else in this
        // process reads or writes them. The peer may read them at any time, which is its own
        // affair: it cannot change them. Bytes have no alignment and no bad values.
        unsafe { std::slice::from_raw_parts_mut(start, size_of_val(words)) }
    }

    /// As a reader sees it.
    pub(crate) fn as_peer(&self) -> PeerRing {
        PeerRing(self.0.clone())
    }
}

/// A ring that only the peer writes (or an own one that is read back).
#[derive(Clone, Debug)]
pub(crate) struct PeerRing(Ring);

impl PeerRing {
    /// The slot of this sequence.
    #[inline]
    pub(crate) fn slot(&self, sequence: u64) -> PeerSlot<'_> {
        PeerSlot(self.0.slot(sequence))
    }

    /// How many slots it has.
    #[inline]
    pub(crate) fn slots(&self) -> u64 {
        self.0.mask + 1
    }
}

/// A slot to be read: words that may change under us.
///
/// All loads are relaxed: the memory may be mapped read-only, see [`Read32`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerSlot<'a>(&'a [AtomicU64]);

impl<'a> PeerSlot<'a> {
    /// The sequence word. Orders nothing; see [`Self::acquire`].
    #[inline]
    pub(crate) fn sequence_word(self) -> u64 {
        // ORDER(filled): Relaxed; who finds the word filled calls `acquire`.
        self.0[0].load(Ordering::Relaxed)
    }

    /// Call it having seen the sequence word: the header and the body written before it are seen
    /// afterwards.
    #[inline]
    pub(crate) fn acquire(self) {
        // ORDER(filled): acquire, for the relaxed load of the sequence word; pairs with the
        // Release in `slot::fill`.
        fence(Ordering::Acquire);
    }

    /// Asks for its lines, which will be read soon.
    #[inline(always)]
    pub(crate) fn fetch(self) {
        self.0.iter().step_by(LINE / 8).for_each(prefetch::fetch);
    }

    /// Another word of the slot.
    #[inline]
    pub(crate) fn word(self, index: usize) -> u64 {
        // ORDER(filled): Relaxed; after `acquire`.
        self.0[index].load(Ordering::Relaxed)
    }

    /// The words from `first` on.
    #[inline]
    pub(crate) fn words(self, first: usize) -> &'a [AtomicU64] {
        &self.0[first..]
    }

    /// Copies the bytes from word `first` on to fill `to`.
    #[inline]
    pub(crate) fn copy_to(self, first: usize, to: &mut [u8]) {
        let (whole, rest) = to.as_chunks_mut::<8>();
        let words = &self.0[first..];
        let (body, after) = words.split_at(whole.len());
        for (to, word) in whole.iter_mut().zip(body) {
            // ORDER(filled): Relaxed; after `acquire`.
            *to = word.load(Ordering::Relaxed).to_ne_bytes();
        }
        if !rest.is_empty() {
            // ORDER(filled): Relaxed, as above.
            let last = after[0].load(Ordering::Relaxed).to_ne_bytes();
            rest.copy_from_slice(&last[..rest.len()]);
        }
    }
}

/// Bytes of a peer that may change while they are copied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerBytes<'a>(&'a Mapping);

impl<'a> PeerBytes<'a> {
    /// Copies bytes from `offset` to fill `to`.
    pub(crate) fn copy_to(self, offset: usize, to: &mut [u8]) {
        let from = self.0.at(offset, to.len(), 1);
        // SAFETY: `at` has checked the source, the target is a live slice, and the two cannot
        // overlap: one is a mapping, the other memory of this process. The bytes are copied once,
        // whatever they are at that moment; any value is a valid `u8`.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.as_mut_ptr(), to.len()) }
        // ORDER(filled): of the compiler alone. It must not read the source a second time in place of
        // the copy; the processor's order comes from `PeerSlot::acquire`.
        compiler_fence(Ordering::SeqCst);
    }

    /// The whole words among `len` bytes at `offset`, if they begin at a multiple of 8.
    pub(crate) fn words(self, offset: usize, len: usize) -> Option<&'a [AtomicU64]> {
        if !offset.is_multiple_of(8) {
            return None;
        }
        let start = self.0.at(offset, len, 8).cast();
        // SAFETY: `at` has checked bounds and alignment; the mapping lives as long as `'a`, and its
        // file cannot shrink. Atomics may change under us, every bit pattern is valid, and
        // `in_place::Words` only does relaxed loads, which are allowed on read-only pages.
        Some(unsafe { std::slice::from_raw_parts(start.as_ptr(), len / 8) })
    }

    /// Appends a copy of `len` bytes at `offset` to `out`.
    pub(crate) fn append_to(self, offset: usize, len: usize, out: &mut Vec<u8>) {
        let from = self.0.at(offset, len, 1);
        out.reserve(len);
        let old = out.len();
        // SAFETY: as in `copy_to`; `reserve` made room for the target, and `set_len` covers exactly
        // what has been written.
        unsafe {
            std::ptr::copy_nonoverlapping(from.as_ptr(), out.as_mut_ptr().add(old), len);
            out.set_len(old + len);
        }
        // ORDER(filled): as in `copy_to`.
        compiler_fence(Ordering::SeqCst);
    }
}

impl OwnMemory {
    /// To read back what we wrote.
    pub(crate) fn bytes(&self) -> PeerBytes<'_> {
        PeerBytes(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use rustix::mm::MprotectFlags;

    use crate::{Geometry, OwnHalf, PeerHalf, Start};

    #[test]
    fn a_read_only_mapping_cannot_be_made_writable() {
        let half = OwnHalf::create(Geometry::DEFAULT, Start::default()).unwrap();
        let peer = PeerHalf::open(half.share().unwrap()).unwrap();
        let start = peer.memory.0.at(0, 4096, 8);
        // SAFETY: it is refused; and if it were not, nobody would write there.
        let result = unsafe {
            rustix::mm::mprotect(
                start.as_ptr().cast(),
                4096,
                MprotectFlags::READ | MprotectFlags::WRITE,
            )
        };
        assert_eq!(result, Err(rustix::io::Errno::ACCESS));
    }

    #[test]
    #[should_panic(expected = "outside a region")]
    fn an_offset_outside_the_mapping_is_caught() {
        let half = OwnHalf::create(Geometry::DEFAULT, Start::default()).unwrap();
        let end = Geometry::DEFAULT.region_bytes() as usize;
        let _ = half.memory.word64(end);
    }
}
