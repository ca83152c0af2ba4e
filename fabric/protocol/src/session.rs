//! One channel between two nodes, as the gateway of one of them sees it.
//!
//! A gateway stands between a *local ring* (shared memory towards a client or a service) and the
//! *wire* (its peer gateway). A [`Session`] serves both directions of one channel:
//!
//! ```text
//!   local ring --published--> Outgoing --sendable--> wire     requests at the client's node,
//!              <-AdvanceDone-          <-acknowledged-        replies at the service's
//!
//!   local ring <---Deliver--- Incoming <--received--- wire    the other way round
//!              --local_done->          --Acknowledge->
//! ```
//!
//! It holds no message. The sender's ring is the retransmission buffer: what the peer has not
//! acknowledged is still in the local ring and is read from there once more after a lost
//! connection. What is acknowledged is what the *receiver has done*, not what has arrived.
//!
//! # Invariants
//!
//! For each lane, outgoing: `done <= sent <= published`, and `sent - done` stays within the window
//! that the peer offered. For each lane, incoming: `told <= done <= expected`, where `told` is what
//! the peer knows of `done`. Both `done` and `expected` never go back, across connections and
//! epochs. A message reaches the local ring exactly when its sequence is `expected`: less is a
//! duplicate, more is a gap, and a gap is an error that is never skipped.
//!
//! # Driving it
//!
//! Call the inputs as things happen, then [`Session::poll_output`] until it is empty, and again no
//! later than [`Session::poll_timeout`]. To send, read from the local ring, in order, what
//! [`Session::sendable`] names, and ask [`Session::send`] for each message: `false` means that the
//! peer's memory is full, and the message has to wait in the driver's hand (one for each lane).

mod error;
mod incoming;
mod outgoing;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use weft_types::{ChannelId, Epoch, Lane, MAX_BODY_BYTES, PerLane, Sequence};

pub use error::{SessionError, Side};
use incoming::Incoming;
use outgoing::Outgoing;

/// How long an acknowledgement waits for others to join it.
pub const ACKNOWLEDGE_AFTER: Duration = Duration::from_millis(1);

/// The unit, in bytes, in which bodies are counted against a window: what a ring may lose to
/// alignment for each message.
const CHARGE_UNIT: u64 = 64;

/// What a body of `bytes` costs of a byte window.
pub(crate) fn charge(bytes: u32) -> u64 {
    u64::from(bytes).div_ceil(CHARGE_UNIT) * CHARGE_UNIT
}

/// How much one lane may carry unacknowledged: what the ring at the far end holds.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// Messages, at most the slots of the destination ring.
    pub messages: u32,
    /// Bytes of bodies (each rounded up to 64), at most the arena of the destination ring less
    /// [`MAX_BODY_BYTES`], since a body that does not fit before the arena's end leaves a hole
    /// there that is nearly as large as itself.
    pub bytes: u32,
}

impl Window {
    /// The window for a destination ring of `slots` slots and `arena_bytes` of arena a lane, if
    /// such a ring can take every message at all.
    #[must_use]
    pub fn for_ring(slots: u32, arena_bytes: u32) -> Option<Self> {
        let window = Self {
            messages: slots,
            bytes: arena_bytes.checked_sub(u32::try_from(MAX_BODY_BYTES).ok()?)?,
        };
        window.is_usable().then_some(window)
    }

    /// Whether the longest message gets through: a smaller window would stop a lane for ever.
    #[must_use]
    pub fn is_usable(self) -> bool {
        self.messages > 0 && u64::from(self.bytes) >= MAX_BODY_BYTES as u64
    }
}

/// What one gateway tells the other of its incoming direction when a channel opens or resumes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct ResumePoint {
    /// Each lane of the direction that flows towards the one who says this.
    pub lanes: PerLane<ResumeLane>,
    /// How much each lane may carry unacknowledged.
    pub window: Window,
}

/// One lane of a [`ResumePoint`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct ResumeLane {
    /// The next sequence that will be delivered: sending goes on from here.
    pub expected: Sequence,
    /// Up to where the local receiver has done its work. Never beyond `expected`.
    pub done: Sequence,
    /// Window bytes that `done..expected` still takes.
    pub held_bytes: u32,
}

/// Where the cursors of a session start: what the local rings say when the gateway attaches to
/// them. All zero for a new channel.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SessionStart {
    /// Local ring to wire: up to where the remote receiver is known to be done. The cursors of our
    /// own half start here too.
    pub outgoing_done: PerLane<Sequence>,
    /// Wire to local ring: the first sequence that our own ring will carry.
    pub incoming_expected: PerLane<Sequence>,
    /// Wire to local ring: up to where the local receiver is done. Taken as `incoming_expected`
    /// where it is larger.
    pub incoming_done: PerLane<Sequence>,
}

/// A run of messages to read from the local ring and to put on the lane's stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Send {
    /// The lane of ring and stream.
    pub lane: Lane,
    /// The first sequence to send.
    pub from: Sequence,
    /// One past the last.
    pub to: Sequence,
}

/// What to do with a message that has arrived.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub enum Received {
    /// Put it into the local ring, under its own sequence.
    Deliver,
    /// Drop it: it is in the local ring already.
    Duplicate,
}

/// What the driver has to do, apart from sending.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Output {
    /// The remote receiver is done up to here: free the local ring's messages (`finish`).
    AdvanceDone {
        /// The lane of the local ring.
        lane: Lane,
        /// One past the last message that is done.
        upto: Sequence,
    },
    /// Tell the peer up to where the local receiver is done.
    Acknowledge {
        /// For each lane, one past the last message that is done.
        done: PerLane<Sequence>,
    },
}

/// Both directions of one channel. See the module's page.
#[derive(Debug)]
pub struct Session {
    channel: ChannelId,
    epoch: Epoch,
    connected: bool,
    /// What we offer: the size of the local ring.
    window: Window,
    outgoing: PerLane<Outgoing>,
    incoming: PerLane<Incoming>,
    /// When the acknowledgement that waits for company goes out.
    acknowledge_at: Option<Duration>,
    acknowledge_now: bool,
}

impl Session {
    /// A session that is not connected. `window` is what the local ring takes.
    #[must_use]
    pub fn new(channel: ChannelId, epoch: Epoch, window: Window, start: SessionStart) -> Self {
        Self {
            channel,
            epoch,
            connected: false,
            window,
            outgoing: PerLane::from_fn(|lane| Outgoing::new(start.outgoing_done[lane])),
            incoming: PerLane::from_fn(|lane| {
                Incoming::new(start.incoming_expected[lane], start.incoming_done[lane])
            }),
            acknowledge_at: None,
            acknowledge_now: false,
        }
    }

    /// The channel.
    #[must_use]
    pub fn channel(&self) -> ChannelId {
        self.channel
    }

    /// The epoch of the service's owner that this session talks to (or stands in for).
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whether a connection carries this channel now.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// Checks the epoch of an open, of a stream or of a control frame against ours.
    ///
    /// # Errors
    ///
    /// [`SessionError::OldEpoch`] when it is lower: the peer talks to an owner that is no more.
    /// [`SessionError::UnknownEpoch`] when it is higher: the peer knows of an owner that we do not.
    pub fn check_epoch(&self, theirs: Epoch) -> Result<(), SessionError> {
        let (channel, ours) = (self.channel, self.epoch);
        match theirs.cmp(&ours) {
            std::cmp::Ordering::Less => Err(SessionError::OldEpoch {
                channel,
                ours,
                theirs,
            }),
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Greater => Err(SessionError::UnknownEpoch {
                channel,
                ours,
                theirs,
            }),
        }
    }

    /// The service has another owner now; everything older is refused from here on.
    ///
    /// # Errors
    ///
    /// [`SessionError::OldEpoch`] if `epoch` lies below ours; nothing has changed then.
    /// [`SessionError::StillConnected`] if a connection still carries the old epoch.
    pub fn set_epoch(&mut self, epoch: Epoch) -> Result<(), SessionError> {
        if epoch < self.epoch {
            return Err(SessionError::OldEpoch {
                channel: self.channel,
                ours: self.epoch,
                theirs: epoch,
            });
        }
        if self.connected && epoch > self.epoch {
            return Err(SessionError::StillConnected {
                channel: self.channel,
            });
        }
        self.epoch = epoch;
        Ok(())
    }

    /// What to tell the peer of our incoming direction, in `Open` or `Opened`.
    pub fn resume_point(&mut self) -> ResumePoint {
        let window = self.window;
        // The point tells all that an acknowledgement would.
        self.acknowledge_at = None;
        self.acknowledge_now = false;
        let mut lanes = PerLane::<ResumeLane>::default();
        for (lane, incoming) in self.incoming.iter_mut() {
            lanes[lane] = incoming.resume();
        }
        ResumePoint { lanes, window }
    }

    /// A connection carries the channel, and the peer has told its [`ResumePoint`].
    ///
    /// Tell [`Session::published`] for each lane before: the peer may expect no more than that.
    ///
    /// # Errors
    ///
    /// What of the point is impossible; the session stays disconnected and unchanged.
    pub fn connected(&mut self, now: Duration, peer: ResumePoint) -> Result<(), SessionError> {
        if self.connected {
            return Err(SessionError::StillConnected {
                channel: self.channel,
            });
        }
        if !peer.window.is_usable() {
            return Err(SessionError::UselessWindow {
                channel: self.channel,
                window: peer.window,
            });
        }
        for (lane, outgoing) in self.outgoing.iter() {
            outgoing
                .check_resume(&peer.lanes[lane])
                .map_err(|why| why.on(self.channel, lane))?;
        }
        for (lane, outgoing) in self.outgoing.iter_mut() {
            outgoing.connect(&peer.lanes[lane], peer.window);
        }
        self.connected = true;
        if self.incoming.iter().any(|(_, lane)| lane.owes()) {
            self.acknowledge_at = Some(now + ACKNOWLEDGE_AFTER);
        }
        self.check_invariants();
        Ok(())
    }

    /// The connection is gone. Reading goes back to what is acknowledged.
    pub fn disconnected(&mut self) {
        self.connected = false;
        self.acknowledge_at = None;
        self.acknowledge_now = false;
        for (_, outgoing) in self.outgoing.iter_mut() {
            outgoing.disconnect();
        }
        self.check_invariants();
    }

    /// The local ring holds everything below `upto`. A lower value than before is an old
    /// observation and changes nothing.
    pub fn published(&mut self, lane: Lane, upto: Sequence) {
        self.outgoing[lane].published(upto);
    }

    /// Messages of this lane that may go out now, if any.
    ///
    /// Asking changes nothing; [`Session::send`] does.
    #[must_use]
    pub fn sendable(&self, lane: Lane) -> Option<Send> {
        let (from, to) = self.connected.then(|| self.outgoing[lane].sendable())??;
        Some(Send { lane, from, to })
    }

    /// What may go out first: the most urgent lane that has something.
    #[must_use]
    pub fn poll_send(&self) -> Option<Send> {
        Lane::ALL.into_iter().find_map(|lane| self.sendable(lane))
    }

    /// Where reading of the local ring stands: the next sequence to send.
    ///
    /// After [`Session::connected`] the driver puts its reader here, back or ahead.
    #[must_use]
    pub fn send_position(&self, lane: Lane) -> Sequence {
        self.outgoing[lane].position()
    }

    /// Counts one message, just read from the local ring, as sent.
    ///
    /// `false` means that the peer's arena has no room for it: it waits until more is acknowledged.
    ///
    /// # Errors
    ///
    /// [`SessionError::NotSendable`] if `sequence` is not the first of [`Session::sendable`].
    pub fn send(
        &mut self,
        lane: Lane,
        sequence: Sequence,
        bytes: u32,
    ) -> Result<bool, SessionError> {
        if self.sendable(lane).map(|send| send.from) != Some(sequence) {
            return Err(SessionError::NotSendable {
                channel: self.channel,
                lane,
                sequence,
            });
        }
        let sent = self.outgoing[lane].send(bytes);
        self.check_invariants();
        Ok(sent)
    }

    /// The peer says that the remote receiver is done up to `upto`.
    ///
    /// # Errors
    ///
    /// [`SessionError::NotConnected`], [`SessionError::AcknowledgedUnsent`] or
    /// [`SessionError::AcknowledgedBack`].
    pub fn acknowledged(&mut self, lane: Lane, upto: Sequence) -> Result<(), SessionError> {
        self.require_connection()?;
        let channel = self.channel;
        self.outgoing[lane]
            .acknowledged(upto)
            .map_err(|why| why.on(channel, lane))?;
        self.check_invariants();
        Ok(())
    }

    /// A message with a body of `bytes` has arrived.
    ///
    /// # Errors
    ///
    /// [`SessionError::NotConnected`], [`SessionError::Gap`] or [`SessionError::WindowOverrun`].
    pub fn received(
        &mut self,
        lane: Lane,
        sequence: Sequence,
        bytes: u32,
    ) -> Result<Received, SessionError> {
        self.require_connection()?;
        let (channel, window) = (self.channel, self.window);
        let received = self.incoming[lane]
            .received(sequence, bytes, window)
            .map_err(|why| why.on(channel, lane))?;
        self.check_invariants();
        Ok(received)
    }

    /// The next sequence of the lane that will be delivered.
    #[must_use]
    pub fn expected(&self, lane: Lane) -> Sequence {
        self.incoming[lane].expected()
    }

    /// Whether the local receiver still has work in this lane that came from the peer.
    #[must_use]
    pub fn in_progress(&self, lane: Lane) -> bool {
        self.incoming[lane].in_progress()
    }

    /// Whether everything that the local ring is known to hold has been acknowledged.
    #[must_use]
    pub fn all_acknowledged(&self) -> bool {
        self.outgoing
            .iter()
            .all(|(_, lane)| lane.all_acknowledged())
    }

    /// The local receiver is done up to `upto`. A lower value than before is an old observation.
    ///
    /// # Errors
    ///
    /// [`SessionError::LocalDoneAhead`] if that was never delivered: the local side lies.
    pub fn local_done(
        &mut self,
        now: Duration,
        lane: Lane,
        upto: Sequence,
    ) -> Result<(), SessionError> {
        let channel = self.channel;
        self.incoming[lane]
            .local_done(upto)
            .map_err(|why| why.on(channel, lane))?;
        if self.connected && self.incoming[lane].owes() {
            if self.incoming[lane].owes_half(self.window) {
                self.acknowledge_now = true;
            } else if self.acknowledge_at.is_none() {
                self.acknowledge_at = Some(now + ACKNOWLEDGE_AFTER);
            }
        }
        self.check_invariants();
        Ok(())
    }

    /// The next thing to do, until there is none.
    pub fn poll_output(&mut self, now: Duration) -> Option<Output> {
        for (lane, outgoing) in self.outgoing.iter_mut() {
            if let Some(upto) = outgoing.take_advance() {
                return Some(Output::AdvanceDone { lane, upto });
            }
        }
        let due = self.acknowledge_now || self.acknowledge_at.is_some_and(|at| at <= now);
        if !(due && self.connected) {
            return None;
        }
        self.acknowledge_now = false;
        self.acknowledge_at = None;
        let mut done = PerLane::<Sequence>::default();
        for (lane, incoming) in self.incoming.iter_mut() {
            done[lane] = incoming.tell();
        }
        Some(Output::Acknowledge { done })
    }

    /// When to call [`Session::poll_output`] if nothing happens before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.acknowledge_at
    }

    fn require_connection(&self) -> Result<(), SessionError> {
        if self.connected {
            Ok(())
        } else {
            Err(SessionError::NotConnected {
                channel: self.channel,
            })
        }
    }

    fn check_invariants(&self) {
        for (_, lane) in self.outgoing.iter() {
            lane.check_invariants(self.connected);
        }
        for (_, lane) in self.incoming.iter() {
            lane.check_invariants();
        }
    }
}

#[cfg(test)]
mod tests;
