//! The mapping itself: the one module that turns offsets into addresses.
//!
//! Two types, so that nobody can try to store to a peer's memory: [`OwnMemory`] gives out words to
//! load and store, [`PeerMemory`] words to load. Payload bytes go in and out as copies only: no
//! `&[u8]` over shared memory ever exists, because its bytes could change under it.
//!
//! Every offset is checked here against the mapping's length, which our own process knows and which
//! the seals keep valid. What a peer wrote has no part in any SAFETY argument below.
#![expect(unsafe_code, reason = "shared memory is reached through raw pointers")]

use memmap2::{Advice, MmapOptions, MmapRaw};
use rustix::fd::OwnedFd;

use crate::error::RegionError;
use crate::sync::{AtomicU32, AtomicU64, Ordering, Read32, Read64, compiler_fence};

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
    #[inline]
    fn at(&self, offset: usize, len: usize, align: usize) -> *mut u8 {
        let inside = offset
            .checked_add(len)
            .is_some_and(|end| end <= self.0.len());
        assert!(
            inside && offset & (align - 1) == 0,
            "offset {offset} + {len} outside a region of {} bytes",
            self.0.len()
        );
        // SAFETY: the assertion says that the result lies in (or one past) the mapping.
        unsafe { self.0.as_mut_ptr().add(offset) }
    }

    fn read32(&self, offset: usize) -> Read32<'_> {
        let word = self.at(offset, 4, 4).cast::<AtomicU32>();
        // SAFETY: `at` has checked bounds and alignment (mappings start at a page); the mapping,
        // borrowed for the reference's life, cannot be unmapped, and its file cannot shrink
        // (sealed, or our own). An atomic may change under us, every bit pattern is valid, and
        // `Read32` only does relaxed loads, which are allowed on read-only pages.
        Read32(unsafe { &*word })
    }

    fn read64(&self, offset: usize) -> Read64<'_> {
        let word = self.at(offset, 8, 8).cast::<AtomicU64>();
        // SAFETY: as in `read32`; eight bytes are a native atomic on all targets we build for.
        Read64(unsafe { &*word })
    }

    /// Appends a copy of `len` bytes at `offset` to `out`.
    fn copy_out(&self, offset: usize, len: usize, out: &mut Vec<u8>) {
        let from = self.at(offset, len, 1).cast_const();
        out.reserve(len);
        let old = out.len();
        // SAFETY: `at` has checked the source, `reserve` made room for the target, and the two
        // cannot overlap: one is a mapping, the other this process's heap. The bytes are copied
        // once, whatever they are at that moment; any value is a valid `u8`. `set_len` covers
        // exactly what has been written.
        unsafe {
            std::ptr::copy_nonoverlapping(from, out.as_mut_ptr().add(old), len);
            out.set_len(old + len);
        }
        // The compiler must not read the source a second time in place of the copy.
        compiler_fence(Ordering::SeqCst);
    }
}

/// Our own region: the only writable mapping of it that there will ever be.
#[derive(Debug)]
pub(crate) struct OwnMemory(Mapping);

impl OwnMemory {
    /// Maps a memory file of `len` bytes that is not sealed yet.
    pub(crate) fn map(fd: &OwnedFd, len: usize) -> Result<Self, RegionError> {
        let map = MmapOptions::new()
            .len(len)
            .map_raw(fd)
            .map_err(|error| RegionError::system("map", error))?;
        // A forked child must not become a second writer.
        map.advise(Advice::DontFork)
            .map_err(|error| RegionError::system("protect", error))?;
        Ok(Self(Mapping(map)))
    }

    pub(crate) fn word32(&self, offset: usize) -> &AtomicU32 {
        let word = self.0.at(offset, 4, 4).cast::<u32>();
        // SAFETY: in bounds and aligned (`at`), mapped readable and writable for the life of
        // `self`. Other threads of this process reach these bytes through atomics only: plain
        // copies go to slot bodies and arenas, which the sender's thread alone touches.
        unsafe { AtomicU32::from_ptr(word) }
    }

    pub(crate) fn word64(&self, offset: usize) -> &AtomicU64 {
        let word = self.0.at(offset, 8, 8).cast::<u64>();
        // SAFETY: as in `word32`.
        unsafe { AtomicU64::from_ptr(word) }
    }

    /// Writes `bytes` at `offset`. Only the sender's thread does, into arena room that no
    /// published message uses.
    pub(crate) fn copy_in(&self, offset: usize, bytes: &[u8]) {
        let to = self.0.at(offset, bytes.len(), 1);
        // SAFETY: `at` has checked the target, the source is a live slice, and they cannot
        // overlap: nobody has a slice over a mapping. The pages are mapped writable.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) }
    }
}

/// A peer's region, mapped read-only.
#[derive(Debug)]
pub(crate) struct PeerMemory(Mapping);

impl PeerMemory {
    /// Maps `len` bytes of a memory file whose seals and size have been checked.
    pub(crate) fn map(fd: &OwnedFd, len: usize) -> Result<Self, RegionError> {
        let map = MmapOptions::new()
            .len(len)
            .map_raw_read_only(fd)
            .map_err(|error| RegionError::system("map", error))?;
        map.advise(Advice::DontFork)
            .map_err(|error| RegionError::system("protect", error))?;
        Ok(Self(Mapping(map)))
    }
}

/// What both kinds of memory can do.
pub(crate) trait Memory {
    /// The 32-bit word at this offset.
    fn read32(&self, offset: usize) -> Read32<'_>;
    /// The 64-bit word at this offset.
    fn read64(&self, offset: usize) -> Read64<'_>;
    /// Appends a copy of bytes to `out`.
    fn copy_out(&self, offset: usize, len: usize, out: &mut Vec<u8>);
}

macro_rules! memory {
    ($name:ty) => {
        impl Memory for $name {
            fn read32(&self, offset: usize) -> Read32<'_> {
                self.0.read32(offset)
            }
            fn read64(&self, offset: usize) -> Read64<'_> {
                self.0.read64(offset)
            }
            fn copy_out(&self, offset: usize, len: usize, out: &mut Vec<u8>) {
                self.0.copy_out(offset, len, out);
            }
        }
    };
}

memory!(OwnMemory);
memory!(PeerMemory);

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
                start.cast(),
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
