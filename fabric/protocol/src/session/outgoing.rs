//! One lane from the local ring to the wire.

use std::collections::VecDeque;

use weft_types::Sequence;

use super::error::LaneError;
use super::{ResumeLane, Window, charge};

/// Reads ahead in the local ring, within the window that the peer offers, and lets the ring go on
/// only when the peer acknowledges.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// Acknowledged: the remote receiver has done everything below.
    done: Sequence,
    /// Everything below was sent on this connection, or had arrived before it.
    sent: Sequence,
    /// The local ring holds everything below.
    published: Sequence,
    window: Window,
    /// What was sent and is not acknowledged: the end of a run of messages and what it is charged.
    /// At most one entry for each message of the window, and one for what had arrived before.
    in_flight: VecDeque<(Sequence, u64)>,
    in_flight_bytes: u64,
    /// `done` has moved and the driver does not know yet.
    advance: bool,
}

/// The most of a peer's window that is used, in messages: the most slots that a ring may have. It
/// bounds what is kept in mind of messages in flight, whatever a peer offers.
const MOST_MESSAGES: u32 = 1 << 16;

/// The window while there is no connection.
const CLOSED: Window = Window {
    messages: 0,
    bytes: 0,
};

impl Outgoing {
    pub(super) fn new(done: Sequence) -> Self {
        Self {
            done,
            sent: done,
            published: done,
            window: CLOSED,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            advance: false,
        }
    }

    pub(super) fn published(&mut self, upto: Sequence) {
        self.published = self.published.max(upto);
    }

    pub(super) fn position(&self) -> Sequence {
        self.sent
    }

    pub(super) fn all_acknowledged(&self) -> bool {
        self.done >= self.published
    }

    pub(super) fn check_resume(&self, peer: &ResumeLane) -> Result<(), LaneError> {
        if peer.done > peer.expected {
            return Err(LaneError::ResumeDoneAheadOfExpected {
                done: peer.done,
                expected: peer.expected,
            });
        }
        if peer.done < self.done {
            return Err(LaneError::ResumeBelowDone {
                ours: self.done,
                theirs: peer.done,
            });
        }
        if peer.expected > self.published {
            return Err(LaneError::ResumeAbovePublished {
                ours: self.published,
                theirs: peer.expected,
            });
        }
        Ok(())
    }

    /// Takes over a resume point that has passed [`Self::check_resume`].
    pub(super) fn connect(&mut self, peer: &ResumeLane, window: Window) {
        self.advance |= peer.done > self.done;
        self.done = peer.done;
        self.sent = peer.expected;
        self.window = Window {
            messages: window.messages.min(MOST_MESSAGES),
            bytes: window.bytes,
        };
        self.in_flight.clear();
        self.in_flight_bytes = 0;
        if peer.expected > peer.done {
            // The single bodies are not known any more: their room is free when all are done.
            self.in_flight_bytes = u64::from(peer.held_bytes);
            self.in_flight
                .push_back((peer.expected, self.in_flight_bytes));
        }
    }

    pub(super) fn disconnect(&mut self) {
        self.sent = self.done;
        self.window = CLOSED;
        self.in_flight.clear();
        self.in_flight_bytes = 0;
    }

    /// The run that may go out, `from..to`, if any.
    pub(super) fn sendable(&self) -> Option<(Sequence, Sequence)> {
        let limit = self.done.plus(u64::from(self.window.messages));
        let to = self.published.min(limit);
        (self.sent < to && self.in_flight_bytes < u64::from(self.window.bytes))
            .then_some((self.sent, to))
    }

    /// Counts the next message as sent, unless the byte window has no room for it.
    pub(super) fn send(&mut self, bytes: u32) -> bool {
        let charge = charge(bytes);
        if self.in_flight_bytes + charge > u64::from(self.window.bytes) {
            return false;
        }
        self.sent = self.sent.next();
        self.in_flight_bytes += charge;
        self.in_flight.push_back((self.sent, charge));
        true
    }

    pub(super) fn acknowledged(&mut self, upto: Sequence) -> Result<(), LaneError> {
        if upto < self.done {
            return Err(LaneError::AcknowledgedBack {
                ours: self.done,
                theirs: upto,
            });
        }
        if upto > self.sent {
            return Err(LaneError::AcknowledgedUnsent {
                ours: self.sent,
                theirs: upto,
            });
        }
        self.advance |= upto > self.done;
        self.done = upto;
        while let Some((end, charge)) = self.in_flight.front().copied()
            && end <= upto
        {
            self.in_flight.pop_front();
            self.in_flight_bytes -= charge;
        }
        Ok(())
    }

    /// The new `done`, once after each change.
    pub(super) fn take_advance(&mut self) -> Option<Sequence> {
        std::mem::take(&mut self.advance).then_some(self.done)
    }

    pub(super) fn check_invariants(&self, connected: bool) {
        debug_assert!(
            self.done <= self.sent,
            "sent lies below what is acknowledged"
        );
        debug_assert!(self.sent <= self.published, "sent what is not published");
        debug_assert!(
            connected || self.sent == self.done,
            "sent without a connection"
        );
        debug_assert_eq!(
            self.in_flight_bytes,
            self.in_flight.iter().map(|(_, charge)| charge).sum::<u64>(),
            "bytes in flight are miscounted"
        );
        debug_assert!(self.in_flight.len() as u64 <= self.sent.since(self.done));
    }
}
