//! Whose turn it is: strict by lane, round robin within one.
//!
//! A member stands in the queue of each lane on which it was last seen to have a message, at most
//! once in each. Entries may be out of date; whoever takes one looks before it serves.

use std::collections::VecDeque;

use weft_types::{Lane, PerLane};

#[derive(Debug, Default)]
pub(super) struct Turns {
    queues: PerLane<VecDeque<u32>>,
    /// In which queues a member stands, one bit a lane.
    standing: Vec<u8>,
    /// Which queues somebody stands in, one bit a lane.
    waiting: u8,
}

impl Turns {
    /// Puts a member at the end of a lane's queue, unless it stands there.
    #[inline]
    pub(super) fn join(&mut self, lane: Lane, index: u32) {
        let place = index as usize;
        if place >= self.standing.len() {
            self.standing.resize(place + 1, 0);
        }
        let bit = 1 << lane.get();
        if self.standing[place] & bit == 0 {
            self.standing[place] |= bit;
            self.waiting |= bit;
            self.queues[lane].push_back(index);
        }
    }

    /// Takes the next member of the most urgent queue.
    #[inline]
    pub(super) fn next(&mut self) -> Option<(Lane, u32)> {
        let lane = Lane::new(self.waiting.trailing_zeros() as u8)?;
        let queue = &mut self.queues[lane];
        let index = queue.pop_front()?;
        let bit = 1 << lane.get();
        if queue.is_empty() {
            self.waiting &= !bit;
        }
        self.standing[index as usize] &= !bit;
        Some((lane, index))
    }

    /// Takes a member out of all queues.
    pub(super) fn forget(&mut self, index: u32) {
        if self
            .standing
            .get(index as usize)
            .is_some_and(|&lanes| lanes != 0)
        {
            self.standing[index as usize] = 0;
            for (lane, queue) in self.queues.iter_mut() {
                queue.retain(|&other| other != index);
                if queue.is_empty() {
                    self.waiting &= !(1 << lane.get());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_more_urgent_lane_goes_first_and_within_one_they_take_turns() {
        let mut turns = Turns::default();
        turns.join(Lane::LOW, 1);
        turns.join(Lane::LOW, 2);
        turns.join(Lane::LOW, 1);
        turns.join(Lane::HIGH, 3);
        assert_eq!(turns.next(), Some((Lane::HIGH, 3)));
        assert_eq!(turns.next(), Some((Lane::LOW, 1)));
        turns.join(Lane::LOW, 1);
        assert_eq!(turns.next(), Some((Lane::LOW, 2)));
        assert_eq!(turns.next(), Some((Lane::LOW, 1)));
        assert_eq!(turns.next(), None);
    }

    #[test]
    fn a_forgotten_member_has_no_turn() {
        let mut turns = Turns::default();
        turns.join(Lane::LOW, 1);
        turns.join(Lane::HIGH, 1);
        turns.join(Lane::LOW, 2);
        turns.forget(1);
        turns.forget(77);
        assert_eq!(turns.next(), Some((Lane::LOW, 2)));
        assert_eq!(turns.next(), None);
    }
}
