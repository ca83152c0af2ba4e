//! Growth: how a channel gets room for more messages than it was opened for.
//!
//! A lane that is full can go on in a larger segment, in the memory of its sender. That is the
//! sender's cost, and so the memory manager is asked first, and each channel has a budget of its own:
//! a peer that takes nothing uses up that and no more. The sender never waits for the answer alone:
//! whether the node allows room or the peer makes some, it goes on with what comes first. A node that
//! stands still stops no channel.

use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_local_ipc::Sender;
use weft_types::{ChannelId, Lane, Sequence};

use crate::room::{Lease, Room};

/// How much the client's end of a channel may take by growing, in bytes. Each of its four lanes takes
/// 4.4 MiB to grow from 512 messages on their way to 7,680: one to its end and another to 3,584. At the
/// bound a send waits for the service.
pub(crate) const CLIENT_GROWTH_BYTES: u64 = 8 << 20;

/// The same for the service's end, where replies wait for a client that does not take them. Less,
/// because the clients of a service share its memory: one lane to 3,584 replies. At the bound no
/// further message of that client is taken.
pub(crate) const SERVICE_GROWTH_BYTES: u64 = 2 << 20;

/// How long after a refusal the memory manager is left alone.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What one channel takes by growing. Given back when dropped.
#[derive(Debug)]
pub(crate) struct Growth {
    room: Arc<Room>,
    channel: ChannelId,
    most_bytes: u64,
    granted: Lease,
    /// What the lanes took before it was granted.
    owed_bytes: u64,
    question: Option<Sequence>,
    refused: Option<Instant>,
}

impl Growth {
    /// Nothing yet, and at most `most_bytes`. From now on `sender` grows only as it is told.
    pub(crate) fn new(
        room: &Arc<Room>,
        channel: ChannelId,
        most_bytes: u64,
        sender: &mut Sender,
    ) -> Self {
        sender.set_growth_budget(0);
        Self {
            room: Arc::clone(room),
            channel,
            most_bytes,
            granted: Lease::empty(room),
            owed_bytes: 0,
            question: None,
            refused: None,
        }
    }

    /// For a lane on which `sender` has just found no room: allows it to grow if that has been granted,
    /// and then it is worth to try again. Else sees to it that the memory manager has been asked, if
    /// the lane and the channel's budget leave anything to ask for.
    pub(crate) fn allow(&mut self, sender: &mut Sender, lane: Lane) -> bool {
        if self.question.is_none() && self.refused.is_some_and(|at| at.elapsed() < ASK_AGAIN) {
            return false;
        }
        let left = sender.growth_budget();
        let more = sender
            .next_growth_bytes(lane)
            .and_then(|next| next.checked_sub(left))
            // If it was allowed already, the machine had no memory for it.
            .filter(|&more| more > 0 && self.taken_bytes() + more <= self.most_bytes);
        let Some(more) = more else { return false };
        self.ask(sender, self.owed_bytes + more)
    }

    /// For a lane that has to take what a predecessor has sent already: allows it to grow at once.
    /// The predecessor was granted as much; this is asked for afterwards ([`Self::charge`]), because
    /// others rely on the messages by the time that anybody hears of this end. `false` if the
    /// lane cannot grow.
    pub(crate) fn overdraw(&mut self, sender: &mut Sender, lane: Lane) -> bool {
        let left = sender.growth_budget();
        let more = sender
            .next_growth_bytes(lane)
            .and_then(|next| next.checked_sub(left))
            .filter(|&more| more > 0);
        let Some(more) = more else { return false };
        self.owed_bytes += more;
        sender.set_growth_budget(left + more);
        true
    }

    /// Asks for what was overdrawn. If it is refused, it stays what it is: too much.
    pub(crate) fn charge(&mut self, sender: &mut Sender) {
        if self.owed_bytes > 0 {
            self.ask(sender, self.owed_bytes);
        }
    }

    fn taken_bytes(&self) -> u64 {
        self.granted.bytes() + self.owed_bytes
    }

    /// Takes what was granted, first for what is owed. `false` if nothing is left for a lane, or if
    /// the memory manager has only been asked.
    fn ask(&mut self, sender: &mut Sender, bytes: u64) -> bool {
        match self
            .room
            .take_apart(self.channel, bytes, &mut self.question)
        {
            Ok(Some(granted)) => {
                let paid = self.owed_bytes.min(granted.bytes());
                let free = granted.bytes() - paid;
                self.owed_bytes -= paid;
                self.granted.absorb(granted);
                sender.set_growth_budget(sender.growth_budget() + free);
                free > 0
            }
            Ok(None) => false,
            Err(error) => {
                tracing::debug!(channel = %self.channel, owed = self.owed_bytes, %error, "a full lane does not grow");
                self.refused = Some(Instant::now());
                false
            }
        }
    }

    /// Whether the memory manager has been asked, and its answer not been looked at.
    pub(crate) fn is_asked(&self) -> bool {
        self.question.is_some()
    }

    /// Whether it has answered.
    pub(crate) fn is_answered(&self) -> bool {
        self.question
            .is_some_and(|question| self.room.is_answered(question))
    }
}

impl Drop for Growth {
    fn drop(&mut self) {
        if let Some(question) = self.question {
            self.room.forget(question);
        }
    }
}

#[cfg(test)]
mod tests {
    use weft_local_ipc::{
        Geometry, Header, OwnHalf, PeerHalf, Receiver, SendError, Start, connect,
    };
    use weft_types::{MessageKind, TypeIndex};

    use super::*;
    use crate::room::tests::{manage, room};

    const LANE: Lane = Lane::NORMAL;

    /// Both ends of a channel, as far as it is looked at here.
    fn channel() -> (Sender, Receiver) {
        let half = || OwnHalf::create(Geometry::DEFAULT, Start::default()).unwrap();
        let (ours, theirs) = (half(), half());
        let peer = |half: &OwnHalf| PeerHalf::open(half.share().unwrap()).unwrap();
        let (for_us, for_them) = (peer(&theirs), peer(&ours));
        let (sender, _, _) = connect(ours, for_us).unwrap();
        let (_, receiver, _) = connect(theirs, for_them).unwrap();
        (sender, receiver)
    }

    /// Sends numbers from `next` on until there is no room, and looks for room between `grow`s.
    fn send_all(sender: &mut Sender, growth: &mut Growth, mut grow: impl FnMut()) -> u64 {
        let header = Header {
            kind: MessageKind::Tell,
            type_index: TypeIndex::new(0),
            correlation: Sequence::ZERO,
            has_descriptors: false,
        };
        loop {
            let next = sender.next(LANE).get();
            match sender.try_send(LANE, header, &next.to_le_bytes()) {
                Ok(_) => {}
                Err(SendError::Full { .. }) if growth.allow(sender, LANE) => {}
                Err(SendError::Full { .. }) if growth.is_asked() => grow(),
                Err(SendError::Full { .. }) => return next,
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn a_full_lane_grows_as_far_as_the_channel_may_and_gives_back_at_its_end() {
        let (room, mut manager) = room();
        let (mut sender, mut receiver) = channel();
        let mut left = 100 << 20;
        let all = left;
        let most = SERVICE_GROWTH_BYTES;
        let mut growth = Growth::new(&room, ChannelId::random(), most, &mut sender);
        let mut asked = 0;
        let sent = send_all(&mut sender, &mut growth, || {
            manage(&mut manager, &mut left);
            asked += 1;
        });
        assert_eq!((sent, asked), (512 + 1024 + 2048, 2));
        assert!(
            all - left <= most && all - left > most / 2,
            "{}",
            all - left
        );
        let mut body = Vec::new();
        for at in 0..sent {
            receiver.try_receive(&mut body).unwrap().unwrap();
            assert_eq!(body, at.to_le_bytes());
        }
        drop(growth);
        manage(&mut manager, &mut left);
        assert_eq!(left, all);
    }

    #[test]
    fn a_refused_lane_stays_as_it_is_and_asks_no_more_for_a_while() {
        let (room, mut manager) = room();
        let (mut sender, _receiver) = channel();
        let mut growth = Growth::new(&room, ChannelId::random(), CLIENT_GROWTH_BYTES, &mut sender);
        let mut asked = 0;
        for _ in 0..3 {
            let sent = send_all(&mut sender, &mut growth, || {
                manage(&mut manager, &mut 1000);
                asked += 1;
            });
            assert_eq!(sent, 512);
        }
        assert_eq!(asked, 1);
    }

    #[test]
    fn a_lane_that_grows_is_not_one_that_waits_for_the_memory_manager() {
        let (room, mut manager) = room();
        let (mut sender, mut receiver) = channel();
        let mut growth = Growth::new(&room, ChannelId::random(), CLIENT_GROWTH_BYTES, &mut sender);
        assert!(!growth.allow(&mut sender, LANE), "it is not here at once");
        let mut left = 1 << 20;
        let mut taken = 0;
        // The peer makes room before the memory manager has answered.
        let sent = send_all(&mut sender, &mut growth, || {
            if taken < 600 {
                let received = receiver.try_receive(&mut Vec::new()).unwrap().unwrap();
                receiver.finish(LANE, received.sequence.next());
                taken += 1;
            } else {
                manage(&mut manager, &mut left);
            }
        });
        assert_eq!(sent, 600 + 512 + 1024);
    }

    #[test]
    fn what_a_predecessor_had_sent_is_taken_at_once_and_charged_afterwards() {
        let (room, mut manager) = room();
        let (mut sender, _receiver) = channel();
        let mut growth = Growth::new(
            &room,
            ChannelId::random(),
            SERVICE_GROWTH_BYTES,
            &mut sender,
        );
        let header = Header {
            kind: MessageKind::Reply,
            type_index: TypeIndex::new(0),
            correlation: Sequence::ZERO,
            has_descriptors: false,
        };
        for number in 0..512 + 1024 {
            let sequence = Sequence::new(number);
            while let Err(error) = sender.replay(LANE, sequence, header, b"said") {
                assert_eq!(error, SendError::Full { lane: LANE });
                assert!(growth.overdraw(&mut sender, LANE), "message {number}");
            }
        }
        growth.charge(&mut sender);
        let (mut left, all) = (100 << 20, 100 << 20);
        manage(&mut manager, &mut left);
        let first = 640 << 10;
        assert_eq!(all - left, first);

        // What is owed is paid first; further room is asked for as ever.
        let sent = send_all(&mut sender, &mut growth, || {
            manage(&mut manager, &mut left);
        });
        assert_eq!(sent, 512 + 1024, "the answer pays what was taken");
        let sent = send_all(&mut sender, &mut growth, || {
            manage(&mut manager, &mut left);
        });
        assert_eq!(
            (sent, all - left),
            (512 + 1024 + 2048, first + (1280 << 10))
        );
        drop(growth);
        manage(&mut manager, &mut left);
        assert_eq!(left, all);
    }
}
