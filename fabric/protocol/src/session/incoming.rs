//! One lane from the wire to the local ring.

use std::collections::VecDeque;

use weft_types::Sequence;

use super::error::LaneError;
use super::{Received, ResumeLane, Window, charge};

/// Lets each message into the local ring once and in order, and knows what the peer has been told
/// of the local receiver's progress.
#[derive(Debug)]
pub(super) struct Incoming {
    /// The next sequence to deliver.
    expected: Sequence,
    /// The local receiver has done everything below.
    done: Sequence,
    /// What the peer has been told of `done`: its window starts here.
    told: Sequence,
    /// What was delivered into this ring and lies above `told`: its end and its charge. At most one
    /// entry for each message of the window.
    held: VecDeque<(Sequence, u64)>,
    held_bytes: u64,
    /// How many entries at the front of `held` are done, and what they were charged.
    freed: usize,
    freed_bytes: u64,
}

impl Incoming {
    pub(super) fn new(expected: Sequence, done: Sequence) -> Self {
        let done = done.min(expected);
        Self {
            expected,
            done,
            told: done,
            held: VecDeque::new(),
            held_bytes: 0,
            freed: 0,
            freed_bytes: 0,
        }
    }

    pub(super) fn expected(&self) -> Sequence {
        self.expected
    }

    pub(super) fn in_progress(&self) -> bool {
        self.done < self.expected
    }

    pub(super) fn received(
        &mut self,
        sequence: Sequence,
        bytes: u32,
        window: Window,
    ) -> Result<Received, LaneError> {
        if sequence < self.expected {
            return Ok(Received::Duplicate);
        }
        if sequence > self.expected {
            return Err(LaneError::Gap {
                expected: self.expected,
                received: sequence,
            });
        }
        let charge = charge(bytes);
        // The peer knows `told` and may lag behind it, so its own limit is never above this one.
        if sequence.since(self.told) >= u64::from(window.messages)
            || self.held_bytes + charge > u64::from(window.bytes)
        {
            return Err(LaneError::WindowOverrun { received: sequence });
        }
        self.expected = sequence.next();
        self.held.push_back((self.expected, charge));
        self.held_bytes += charge;
        Ok(Received::Deliver)
    }

    pub(super) fn local_done(&mut self, upto: Sequence) -> Result<(), LaneError> {
        if upto > self.expected {
            return Err(LaneError::LocalDoneAhead {
                done: upto,
                expected: self.expected,
            });
        }
        self.done = self.done.max(upto);
        while let Some((end, charge)) = self.held.get(self.freed).copied()
            && end <= self.done
        {
            self.freed += 1;
            self.freed_bytes += charge;
        }
        Ok(())
    }

    /// Whether the peer does not know how far the receiver is.
    pub(super) fn owes(&self) -> bool {
        self.told < self.done
    }

    /// Whether the peer does not know of half a window or more.
    pub(super) fn owes_half(&self, window: Window) -> bool {
        self.done.since(self.told) * 2 >= u64::from(window.messages)
            || self.freed_bytes * 2 >= u64::from(window.bytes)
    }

    /// What the peer is told now.
    pub(super) fn tell(&mut self) -> Sequence {
        self.told = self.done;
        self.held.drain(..self.freed);
        self.held_bytes -= self.freed_bytes;
        self.freed = 0;
        self.freed_bytes = 0;
        self.told
    }

    pub(super) fn resume(&mut self) -> ResumeLane {
        let done = self.tell();
        ResumeLane {
            expected: self.expected,
            done,
            // Never above the window, which is a `u32`.
            held_bytes: u32::try_from(self.held_bytes).unwrap_or(u32::MAX),
        }
    }

    pub(super) fn check_invariants(&self) {
        debug_assert!(self.told <= self.done, "told the peer more than is done");
        debug_assert!(self.done <= self.expected, "done what was not delivered");
        debug_assert_eq!(
            self.held_bytes,
            self.held.iter().map(|(_, charge)| charge).sum::<u64>(),
            "bytes held are miscounted"
        );
        debug_assert!(self.freed <= self.held.len());
    }
}
