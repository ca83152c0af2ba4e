//! Blocks of an extent: a bump pointer, and a list of free blocks for each size class.
//!
//! Pure bookkeeping in private memory. It counts in granules of 64 bytes, so that no two objects share
//! a cache line. A block has the size of its class, at most a quarter more than was asked for (a
//! granule more below 256 bytes). A free block serves its own class only; an extent that is wholly
//! free can be made one piece again.

/// What blocks are made of.
pub(super) const GRANULE_BYTES: u64 = 64;

/// A size class: four to each power of two.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Class(u8);

impl Class {
    /// The largest has blocks of 4 GiB.
    const COUNT: usize = 4 + 4 * 24;
    /// Blocks of a granule.
    pub(super) const SMALLEST: Self = Self(0);

    /// The smallest class for so many bytes; `None` if there is none.
    #[inline]
    pub(super) fn of(len_bytes: u64) -> Option<Self> {
        let granules = len_bytes.div_ceil(GRANULE_BYTES).max(1);
        if granules <= 4 {
            return Some(Self(granules as u8 - 1));
        }
        // Of `granules - 1` the leading bit says which power of two, the next two which quarter.
        let last = granules - 1;
        let power = last.ilog2();
        let quarter = (last >> (power - 2)) & 3;
        let class = 4 + 4 * (power as usize - 2) + quarter as usize;
        (class < Self::COUNT).then_some(Self(class as u8))
    }

    /// The size of its blocks.
    #[inline]
    pub(super) fn granules(self) -> u64 {
        let class = u64::from(self.0);
        if class < 4 {
            return class + 1;
        }
        let (power, quarter) = ((class - 4) / 4 + 2, (class - 4) % 4);
        (5 + quarter) << (power - 2)
    }

    pub(super) fn bytes(self) -> u64 {
        self.granules() * GRANULE_BYTES
    }
}

/// How many bytes of an extent an object of so many takes: at most a quarter more, or 64 bytes. An extent
/// for it has to be so large. `None` if no block is.
#[must_use]
pub fn block_bytes(object_bytes: u64) -> Option<u64> {
    Class::of(object_bytes).map(Class::bytes)
}

/// The blocks of one extent.
#[derive(Debug)]
pub(super) struct Blocks {
    granules: u64,
    /// Below this, granules belong to a block, free or not.
    bump: u64,
    /// Blocks that are not free.
    used: u32,
    free: Vec<Vec<u32>>,
}

impl Blocks {
    pub(super) fn new(bytes: u64) -> Self {
        Self {
            granules: bytes / GRANULE_BYTES,
            bump: 0,
            used: 0,
            free: vec![Vec::new(); Class::COUNT],
        }
    }

    /// A block that was freed before: the last one, which is likely still in a cache.
    #[inline]
    pub(super) fn reuse(&mut self, class: Class) -> Option<u32> {
        let granule = self.free[usize::from(class.0)].pop()?;
        self.used += 1;
        Some(granule)
    }

    /// A block that was never used, or not since the extent was wholly free.
    #[inline]
    pub(super) fn carve(&mut self, class: Class) -> Option<u32> {
        let end = self.bump + class.granules();
        if end > self.granules {
            return None;
        }
        let granule = u32::try_from(self.bump).ok()?;
        self.bump = end;
        self.used += 1;
        Some(granule)
    }

    /// Takes a block back.
    #[inline]
    pub(super) fn free(&mut self, class: Class, granule: u32) {
        self.used -= 1;
        self.free[usize::from(class.0)].push(granule);
    }

    /// Makes it one piece, if no block of it is used: or a change of sizes would never find room.
    pub(super) fn merge(&mut self) {
        if self.used == 0 {
            self.bump = 0;
            self.free.iter_mut().for_each(Vec::clear);
        }
    }

    pub(super) fn is_unused(&self) -> bool {
        self.used == 0
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn classes_are_in_order_and_waste_at_most_a_quarter() {
        let mut before = 0;
        for class in (0..Class::COUNT).map(|class| Class(class as u8)) {
            let granules = class.granules();
            assert!(granules > before, "{class:?}");
            for granules in before + 1..=granules.min(before + 3) {
                assert_eq!(Class::of(granules * GRANULE_BYTES), Some(class));
            }
            assert_eq!(Class::of(class.bytes()), Some(class));
            assert!(before < 4 || granules * 4 <= (before + 1) * 5, "{class:?}");
            before = granules;
        }
        assert_eq!(Class::of(0), Some(Class(0)));
        assert_eq!(Class::of(1 << 30).map(Class::bytes), Some(1 << 30));
        assert_eq!(Class::of((4 << 30) + 1), None);
    }

    proptest! {
        /// Against a map of what is used: blocks never overlap, never leave the extent, and all of it
        /// can be used again once all is free.
        #[test]
        fn blocks_never_overlap(
            steps in proptest::collection::vec((any::<bool>(), 0_u64..40_000, any::<usize>()), 1..300)
        ) {
            const BYTES: u64 = 1 << 20;
            let mut blocks = Blocks::new(BYTES);
            let mut used: BTreeMap<u64, Class> = BTreeMap::new();
            for (take, len, which) in steps {
                if take {
                    let class = Class::of(len).unwrap();
                    let Some(granule) = blocks.reuse(class).or_else(|| blocks.carve(class)) else {
                        continue;
                    };
                    let at = u64::from(granule);
                    prop_assert!((at + class.granules()) * GRANULE_BYTES <= BYTES);
                    let before = used.range(..=at).next_back();
                    prop_assert!(before.is_none_or(|(start, class)| start + class.granules() <= at));
                    let after = used.range(at..).next();
                    prop_assert!(after.is_none_or(|(start, _)| at + class.granules() <= *start));
                    used.insert(at, class);
                } else if !used.is_empty() {
                    let (&at, &class) = used.iter().nth(which % used.len()).unwrap();
                    used.remove(&at);
                    blocks.free(class, at as u32);
                }
                prop_assert_eq!(blocks.is_unused(), used.is_empty());
            }
            for (at, class) in used {
                blocks.free(class, at as u32);
            }
            blocks.merge();
            let whole = Class::of(BYTES).unwrap();
            prop_assert_eq!(blocks.carve(whole), Some(0));
        }
    }
}
