//! The rings and the session of one channel: what is done with them while the lock is held.

use std::os::fd::OwnedFd;
use std::time::Duration;

use weft_local_ipc::{Header, PeerFault, Receiver, SendError, Sender, WatchId};
use weft_protocol::session::{Output, Received, Session, SessionError};
use weft_protocol::wire::MessageHead;
use weft_types::{ChannelId, Lane, PerLane, Refusal, RefusalCode, Sequence};

use super::Attachment;

/// What lies behind the channel's mutex. Nothing here waits or wakes.
pub(super) struct Core {
    pub(super) sender: Sender,
    pub(super) receiver: Receiver,
    pub(super) session: Session,
    pub(super) attachment: Option<Attachment>,
    /// The first lane that the remote client may use.
    pub(super) lane_ceiling: Lane,
    /// Read from the local ring and not sent yet: one for each lane at most.
    pub(super) hand: PerLane<Option<Held>>,
    /// An empty buffer for the next one in hand.
    pub(super) spare: Vec<Vec<u8>>,
    /// Due, and not yet told to the peer.
    pub(super) acknowledge: Option<PerLane<Sequence>>,
    /// The local peer's process has gone.
    pub(super) hung_up: bool,
    /// The node has taken the channel away: nothing moves any more.
    pub(super) closed: bool,
    pub(super) watch: Option<WatchId>,
    pub(super) side: OwnedFd,
    /// Counts the local peers.
    pub(super) generation: u64,
}

/// A message that was read and waits for its turn or for room at the far end.
pub(super) struct Held {
    pub(super) head: MessageHead,
    pub(super) body: Vec<u8>,
    pub(super) has_descriptors: bool,
}

impl Core {
    pub(super) fn detach(&mut self) {
        self.attachment = None;
        self.acknowledge = None;
        self.session.disconnected();
        for (_, held) in self.hand.iter_mut() {
            // It is still in the ring, and is read again from there.
            *held = None;
        }
        // Nobody listens: the local peer need not ring for us until somebody does.
        self.receiver.unpark();
    }

    /// Puts the reader of the local ring where the session says that sending goes on.
    pub(super) fn take_position(&mut self) -> Result<(), Refusal> {
        for lane in Lane::ALL {
            let to = self.session.send_position(lane);
            let at = self.receiver.expected(lane);
            let moved = if to < at {
                self.receiver.rewind(lane, to)
            } else {
                self.receiver.skip(lane, to)
            };
            moved.map_err(|error| Refusal::new(RefusalCode::PeerFault, error.to_string()))?;
        }
        Ok(())
    }

    /// Does what the session wants done on this side.
    pub(super) fn outputs(&mut self, now: Duration) {
        while let Some(output) = self.session.poll_output(now) {
            match output {
                Output::AdvanceDone { lane, upto } => self.receiver.finish(lane, upto),
                Output::Acknowledge { done } => self.acknowledge = Some(done),
            }
        }
    }

    /// Reads the next message of the lane into the hand, if there is one. A fault counts as one:
    /// taking it tells.
    pub(super) fn reach(&mut self, lane: Lane) -> bool {
        matches!(self.read(lane), Ok(true) | Err(_))
    }

    fn read(&mut self, lane: Lane) -> Result<bool, PeerFault> {
        if self.hand[lane].is_some() {
            return Ok(true);
        }
        let mut body = self.spare.pop().unwrap_or_default();
        let Some(received) = self.receiver.try_receive_lane(lane, &mut body)? else {
            self.spare.push(body);
            return Ok(false);
        };
        self.session.published(lane, received.sequence.next());
        let Header {
            kind,
            type_index,
            correlation,
            has_descriptors,
        } = received.header;
        let head = MessageHead {
            sequence: received.sequence,
            correlation,
            type_index,
            kind,
        };
        self.hand[lane] = Some(Held {
            head,
            body,
            has_descriptors,
        });
        Ok(true)
    }

    /// The next message of the lane, if the peer has room for it.
    pub(super) fn next_to_send(
        &mut self,
        channel: ChannelId,
        lane: Lane,
    ) -> Result<Option<Held>, Refusal> {
        let fault = |error: PeerFault| Refusal::new(RefusalCode::PeerFault, error.to_string());
        if !self.read(lane).map_err(fault)? {
            return Ok(None);
        }
        let Some(held) = self.hand[lane].take() else {
            return Ok(None);
        };
        if held.has_descriptors {
            return Err(Refusal::new(
                RefusalCode::NotAllowed,
                format!(
                    "{channel} {lane}: message {} carries descriptors, which cannot travel to \
                     another machine",
                    held.head.sequence
                ),
            ));
        }
        let in_turn = self
            .session
            .sendable(lane)
            .is_some_and(|send| send.from == held.head.sequence);
        let bytes = held.body.len() as u32;
        if in_turn
            && self
                .session
                .send(lane, held.head.sequence, bytes)
                .map_err(|error| error.refusal())?
        {
            return Ok(Some(held));
        }
        self.hand[lane] = Some(held);
        Ok(None)
    }

    /// Puts one message into the local ring; `false` if the ring is full.
    pub(super) fn deliver_one(
        &mut self,
        lane: Lane,
        head: &MessageHead,
        body: &[u8],
    ) -> Result<bool, Refusal> {
        if lane < self.lane_ceiling {
            return Err(Refusal::new(
                RefusalCode::NotAllowed,
                format!("the capability does not reach {lane}"),
            ));
        }
        // Looked at first, since the session counts what it lets through.
        if head.sequence == self.session.expected(lane) && !self.sender.fits(lane, body.len()) {
            return Ok(false);
        }
        let received = self
            .session
            .received(lane, head.sequence, body.len() as u32)
            .map_err(|error: SessionError| error.refusal())?;
        if received == Received::Duplicate {
            return Ok(true);
        }
        let header = Header {
            kind: head.kind,
            type_index: head.type_index,
            correlation: head.correlation,
            has_descriptors: false,
        };
        match self.sender.replay(lane, head.sequence, header, body) {
            Ok(()) => Ok(true),
            Err(error @ SendError::Peer(_)) => {
                Err(Refusal::new(RefusalCode::PeerFault, error.to_string()))
            }
            Err(error) => Err(Refusal::new(RefusalCode::Internal, error.to_string())),
        }
    }

    /// Takes over the local receiver's cursors, and asks it to ring at the next of interest.
    pub(super) fn look_at_done(&mut self, now: Duration) -> Result<(), Refusal> {
        let fault = |error: PeerFault| Refusal::new(RefusalCode::PeerFault, error.to_string());
        for lane in Lane::ALL {
            loop {
                let done = self.sender.done(lane).map_err(fault)?;
                self.session
                    .local_done(now, lane, done)
                    .map_err(|error| error.refusal())?;
                // While an acknowledgement is due soon, the cursor is looked at then anyway.
                if !self.session.in_progress(lane) || self.session.poll_timeout().is_some() {
                    break;
                }
                if !self.sender.wake_when_done(lane, done.next()) {
                    break;
                }
            }
        }
        Ok(())
    }
}
