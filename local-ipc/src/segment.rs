//! Segments: the pieces that a lane's queue consists of, one after the other.
//!
//! A lane begins in segment 0. When that is full its sender may link the next one, of twice the
//! size: from a sequence on, messages lie there. The older segment keeps what it holds until it is
//! done, and is not used again. Which sequence lies where follows from the starts alone, so a
//! successor or the node can read any part of it, whoever died meanwhile.
//!
//! A peer's starts are its word, and a linked segment may have no memory behind it: [`Starts::learn`]
//! believes a start only if it comes after the last one and the segment's pages exist.

use weft_types::{Lane, PerLane};

use crate::layout::{Geometry, MAX_SEGMENTS, MAX_SEQUENCE};
use crate::raw::{OwnRing, PeerRing};

/// One segment of an outgoing lane.
#[derive(Clone, Debug)]
pub(crate) struct OwnSegment {
    pub(crate) ring: OwnRing,
    pub(crate) geometry: Geometry,
    pub(crate) lane: Lane,
    pub(crate) index: u32,
    /// The first sequence in it.
    pub(crate) start: u64,
}

/// One segment of an incoming lane (or of an own one that is read back).
#[derive(Clone, Debug)]
pub(crate) struct PeerSegment {
    pub(crate) ring: PeerRing,
    pub(crate) geometry: Geometry,
    pub(crate) lane: Lane,
    pub(crate) index: u32,
    /// The first sequence in it.
    pub(crate) start: u64,
}

impl OwnSegment {
    /// Where its arena begins in the region.
    pub(crate) fn arena_at(&self) -> usize {
        self.geometry.arena_at(self.lane, self.index)
    }

    /// As a reader sees it.
    pub(crate) fn as_peer(&self) -> PeerSegment {
        PeerSegment {
            ring: self.ring.as_peer(),
            geometry: self.geometry,
            lane: self.lane,
            index: self.index,
            start: self.start,
        }
    }
}

/// Where each segment of a lane begins, as far as it is known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Starts {
    starts: [u64; MAX_SEGMENTS],
    count: u32,
}

impl Starts {
    /// A lane that has not grown.
    pub(crate) fn new(first: u64) -> Self {
        let mut starts = [0; MAX_SEGMENTS];
        starts[0] = first;
        Self { starts, count: 1 }
    }

    /// The segments that are linked.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Where a linked segment begins.
    pub(crate) fn start(&self, segment: u32) -> u64 {
        self.starts[..self.count as usize][segment as usize]
    }

    /// The first sequence of all.
    pub(crate) fn first(&self) -> u64 {
        self.starts[0]
    }

    /// The segment in which a sequence lies, the sequence at which that segment begins, and the one
    /// at which the next begins, if there is a next.
    pub(crate) fn find(&self, sequence: u64) -> (u32, u64, Option<u64>) {
        let known = &self.starts[..self.count as usize];
        let after = known.partition_point(|&start| start <= sequence).max(1);
        (
            after as u32 - 1,
            known[after - 1],
            known.get(after).copied(),
        )
    }

    /// Adds the next segment.
    pub(crate) fn link(&mut self, start: u64) {
        debug_assert!(start >= self.starts[self.count as usize - 1], "in order");
        self.starts[self.count as usize] = start;
        self.count += 1;
    }

    /// Takes over what a peer says about segments that we do not know yet.
    ///
    /// `word` gives its start word of a segment, `exists` whether there is memory behind it.
    ///
    /// # Errors
    ///
    /// The start that cannot be.
    pub(crate) fn learn(
        &mut self,
        geometry: Geometry,
        word: impl Fn(u32) -> u64,
        exists: impl Fn(u32) -> bool,
    ) -> Result<(), u64> {
        while self.count <= geometry.growth {
            let segment = self.count;
            let Some(start) = word(segment).checked_sub(1) else {
                return Ok(());
            };
            let before = self.starts[segment as usize - 1];
            if start < before || start > MAX_SEQUENCE || !exists(segment) {
                return Err(start);
            }
            self.link(start);
        }
        Ok(())
    }
}

/// The starts of all lanes of a half.
pub(crate) type LaneStarts = PerLane<Starts>;

#[cfg(test)]
mod tests {
    use super::*;

    fn grown(words: [u64; 3], exists: bool) -> (Result<(), u64>, Starts) {
        let geometry = Geometry {
            growth: 3,
            ..Geometry::DEFAULT
        };
        let mut starts = Starts::new(10);
        let learnt = starts.learn(
            geometry,
            |segment| words.get(segment as usize - 1).copied().unwrap_or(0),
            |_| exists,
        );
        (learnt, starts)
    }

    #[test]
    fn a_sequence_lies_in_the_last_segment_that_begins_at_or_before_it() {
        let (learnt, starts) = grown([21, 41, 0], true);
        assert_eq!((learnt, starts.count()), (Ok(()), 3));
        assert_eq!(starts.find(10), (0, 10, Some(20)));
        assert_eq!(starts.find(19), (0, 10, Some(20)));
        assert_eq!(starts.find(20), (1, 20, Some(40)));
        assert_eq!(starts.find(1000), (2, 40, None));
        assert_eq!(starts.find(3), (0, 10, Some(20)), "before the first");
    }

    #[test]
    fn starts_that_cannot_be_are_not_believed() {
        assert_eq!(grown([21, 20, 0], true).0, Err(19), "goes back");
        assert_eq!(grown([5, 0, 0], true).0, Err(4), "before the first");
        assert_eq!(grown([u64::MAX, 0, 0], true).0, Err(u64::MAX - 1));
        assert_eq!(grown([21, 0, 0], false).0, Err(20), "no memory");
        assert_eq!(grown([0, 30, 0], true).1.count(), 1, "a gap hides the rest");
    }
}
