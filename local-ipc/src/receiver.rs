//! The receiving end: takes messages out of the peer's rings, and writes our cursors.
//!
//! After a producer swap there are several rings to read: those of former peers, each to the end it
//! had when it was replaced, then the current one. A message is found by its sequence alone, so
//! copies that a successor replays are passed over, a gap is noticed, and the read position can go
//! back across a swap as long as nothing there is done.
//!
//! If we die on any line, our cursors say what happened: below `done` is handled, from there to
//! `taken` is unknown, the rest belongs to our successor.

use std::cell::Cell;
use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use weft_types::{Lane, PerLane, Sequence};

use crate::bell::{self, Bell, Peer, Wait};
use crate::error::{PeerFault, RewindError};
use crate::layout;
use crate::parking::{self, Parking};
use crate::slot::{self, Header, SlotState};
use crate::spin::Spin;
use crate::swap::Shared;
use crate::sync::Ordering;

/// How many former peers may have left messages that are not done. Each was replaced while we
/// finished nothing of it; beyond this the channel is given up with [`PeerFault::TooManySwaps`].
pub const MAX_FORMER_PEERS: usize = 64;

/// A message that was taken; its body is in the buffer that the caller gave.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Received {
    /// The lane it came on.
    pub lane: Lane,
    /// Its sequence on that lane.
    pub sequence: Sequence,
    /// What stands beside its body.
    pub header: Header,
}

/// Receives on one channel. Owned by one thread at a time.
#[derive(Debug)]
pub struct Receiver {
    shared: Arc<Shared>,
    /// Former peers that still hold something, the oldest first.
    former: VecDeque<Former>,
    current: Arc<Peer>,
    lanes: PerLane<Incoming>,
    parking: Parking,
    /// Marks of the peer (see `Sender::wake_when_done`) that we have rung for.
    answered: PerLane<u64>,
    fault: Option<PeerFault>,
    one_thread: PhantomData<Cell<()>>,
}

/// A replaced peer and the end of what it had published, lane by lane.
#[derive(Debug)]
struct Former {
    peer: Arc<Peer>,
    end: PerLane<u64>,
}

/// Our private account of one incoming lane.
#[derive(Clone, Copy, Debug)]
struct Incoming {
    /// What will be handed out next.
    next: u64,
    /// The largest `next` there was: what our page says.
    taken: u64,
    done: u64,
}

impl Receiver {
    pub(crate) fn new(shared: Arc<Shared>, peer: Arc<Peer>) -> Self {
        let lanes = PerLane::from_fn(|lane| {
            let start = shared.own.start.incoming[lane].get();
            Incoming {
                next: start,
                taken: start,
                done: start,
            }
        });
        Self {
            shared,
            former: VecDeque::new(),
            current: peer,
            lanes,
            parking: Parking::default(),
            answered: PerLane::default(),
            fault: None,
            one_thread: PhantomData,
        }
    }

    /// The next message in lane order, its body in `body` (which loses what it held).
    ///
    /// # Errors
    ///
    /// [`PeerFault`] if what the peer wrote makes no sense. The channel should then be closed.
    pub fn try_receive(&mut self, body: &mut Vec<u8>) -> Result<Option<Received>, PeerFault> {
        for lane in Lane::ALL {
            if let Some(received) = self.try_receive_lane(lane, body)? {
                return Ok(Some(received));
            }
        }
        Ok(None)
    }

    /// The next message of one lane.
    ///
    /// # Errors
    ///
    /// As [`Self::try_receive`].
    pub fn try_receive_lane(
        &mut self,
        lane: Lane,
        body: &mut Vec<u8>,
    ) -> Result<Option<Received>, PeerFault> {
        self.follow()?;
        let sequence = self.lanes[lane].next;
        if self.look(lane, sequence)? == SlotState::Empty {
            return Ok(None);
        }
        let half = &self.source(lane, sequence).half;
        let header = slot::read(&half.memory, half.geometry, lane, sequence, body)?;
        self.move_to(lane, sequence + 1);
        Ok(Some(Received {
            lane,
            sequence: Sequence::new(sequence),
            header,
        }))
    }

    /// Says that everything below `up_to` is handled; at most what was taken. The peer's slots are
    /// free from then on, and nothing below can be read again.
    ///
    /// Rings our bell if the peer wants to be woken there.
    pub fn finish(&mut self, lane: Lane, up_to: Sequence) {
        let incoming = &mut self.lanes[lane];
        let done = up_to.get().min(incoming.taken);
        if done <= incoming.done {
            return;
        }
        incoming.done = done;
        incoming.next = incoming.next.max(done);
        // ORDER(done): Release; pairs with the acquire load in `PeerHalf::done`. All copies out of
        // the peer's slots come before it.
        self.shared
            .own
            .memory
            .word64(layout::done_at(lane))
            .store(done, Ordering::Release);
        // ORDER(mark): `done`, full fence, look at the mark; pairs with `Sender::wake_when_done`.
        let fenced = parking::publish_before_look();
        if self.shared.for_receiver.is_raised() {
            self.adopt();
        }
        if !self.former.is_empty() {
            self.retire();
        }
        let mark = bell::wake_mark(fenced, &self.current, lane);
        if mark != 0 && mark != self.answered[lane] && done >= mark - 1 {
            self.answered[lane] = mark;
            self.shared.ring();
        }
    }

    /// Sets the read position back: what lies from `to` on is handed out again. For a gateway whose
    /// far side has to hear it once more; works across producer swaps.
    ///
    /// # Errors
    ///
    /// [`RewindError`] if `to` is done already, or was not handed out yet.
    pub fn rewind(&mut self, lane: Lane, to: Sequence) -> Result<(), RewindError> {
        self.follow()?;
        let incoming = &mut self.lanes[lane];
        if to.get() < incoming.done {
            return Err(RewindError::Done {
                lane,
                to,
                done: Sequence::new(incoming.done),
            });
        }
        if to.get() > incoming.taken {
            return Err(RewindError::Beyond {
                lane,
                to,
                end: Sequence::new(incoming.taken),
            });
        }
        incoming.next = to.get();
        Ok(())
    }

    /// Sets the read position forward over published messages without reading them, and counts
    /// them as taken. For a restarted gateway whose far side has them from its predecessor.
    ///
    /// # Errors
    ///
    /// [`RewindError::Beyond`] if they are not all published, else as [`Self::rewind`].
    pub fn skip(&mut self, lane: Lane, to: Sequence) -> Result<(), RewindError> {
        self.follow()?;
        let mut next = self.lanes[lane].next;
        while next < to.get() && self.look(lane, next)? == SlotState::Filled {
            next += 1;
        }
        if next != to.get() {
            return Err(RewindError::Beyond {
                lane,
                to,
                end: Sequence::new(next),
            });
        }
        self.move_to(lane, next);
        Ok(())
    }

    /// The watermark: the next sequence that will be handed out.
    #[must_use]
    pub fn expected(&self, lane: Lane) -> Sequence {
        Sequence::new(self.lanes[lane].next)
    }

    /// Below this everything was handed out at least once.
    #[must_use]
    pub fn taken(&self, lane: Lane) -> Sequence {
        Sequence::new(self.lanes[lane].taken)
    }

    /// Below this everything is finished.
    #[must_use]
    pub fn done(&self, lane: Lane) -> Sequence {
        Sequence::new(self.lanes[lane].done)
    }

    /// Says "asleep" to the sender. Afterwards look once more ([`Self::ready`]), and only then
    /// sleep, on a bell value that was read before that look.
    pub fn park(&mut self) {
        let word = self.shared.own.memory.word32(layout::PARKED_AT);
        self.parking.park(word);
    }

    /// Says "awake" again: sends need not ring.
    pub fn unpark(&mut self) {
        Parking::unpark(self.shared.own.memory.word32(layout::PARKED_AT));
    }

    /// Leaves the note of a consumer that froze: every send rings until a successor takes over.
    pub fn park_always(&mut self) {
        Parking::park_always(self.shared.own.memory.word32(layout::PARKED_AT));
    }

    /// Whether an operation would find something now: a message, a fault or a swap. Changes
    /// nothing.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.shared.for_receiver.is_raised()
            || self.fault.is_some()
            || Lane::ALL
                .into_iter()
                .any(|lane| self.look(lane, self.lanes[lane].next) != Ok(SlotState::Empty))
    }

    /// Spins for a moment, then parks and sleeps, until there is something or the bell rings for
    /// another reason (a cursor the sender asked about, a swap). Waits for this one channel only.
    pub fn wait(&mut self, timeout: Option<Duration>) -> Wait {
        self.wait_spinning(Spin::new(), timeout)
    }

    /// As [`Self::wait`], spinning as long as the caller likes.
    pub fn wait_spinning(&mut self, mut spin: Spin, timeout: Option<Duration>) -> Wait {
        while spin.again() {
            if self.ready() {
                return Wait::Rung(0);
            }
        }
        let bell = Bell::of(&self.shared.current());
        let seen = bell.value();
        self.park();
        let wait = if self.ready() {
            Wait::Rung(0)
        } else {
            bell::wait_any(&[(bell, seen)], timeout)
        };
        self.unpark();
        wait
    }

    /// The peer whose ring holds this sequence, or will.
    fn source(&self, lane: Lane, sequence: u64) -> &Arc<Peer> {
        self.former
            .iter()
            .find(|former| sequence < former.end[lane])
            .map_or(&self.current, |former| &former.peer)
    }

    fn look(&self, lane: Lane, sequence: u64) -> Result<SlotState, PeerFault> {
        let half = &self.source(lane, sequence).half;
        let first = half.first(lane);
        if sequence < first.get() {
            return Err(PeerFault::Gap {
                lane,
                expected: Sequence::new(sequence),
                first,
            });
        }
        // An honest peer has never more than a ring out. Without this a liar that fills slots as
        // fast as we read them could keep us busy without anything being done.
        let most = first.get().max(self.lanes[lane].done) + u64::from(half.geometry.slots);
        if sequence >= most {
            return Ok(SlotState::Empty);
        }
        slot::look(&half.memory, half.geometry, lane, first.get(), sequence)
    }

    fn move_to(&mut self, lane: Lane, next: u64) {
        let incoming = &mut self.lanes[lane];
        incoming.next = next;
        if next > incoming.taken {
            incoming.taken = next;
            // ORDER(taken): Release, and before the message is handed out: who reads our page
            // after our death finds it in `(done, taken]`.
            self.shared
                .own
                .memory
                .word64(layout::taken_at(lane))
                .store(next, Ordering::Release);
        }
    }

    fn follow(&mut self) -> Result<(), PeerFault> {
        if self.shared.for_receiver.is_raised() {
            self.adopt();
        }
        self.fault.map_or(Ok(()), Err)
    }

    /// The producer swap: fixes the end of each replaced ring and goes on with the last one.
    fn adopt(&mut self) {
        let successors = self.shared.for_receiver.take();
        for successor in successors.peers {
            let peer = std::mem::replace(&mut self.current, successor);
            let from = self.ends();
            let end = PerLane::from_fn(|lane| {
                let from = Sequence::new(from[lane]);
                peer.half.published_from(lane, from).get()
            });
            // One that added nothing is not kept, or a service that dies again and again would
            // make us keep all of its halves.
            if end.iter().any(|(lane, &end)| end > from[lane]) {
                self.former.push_back(Former { peer, end });
            }
            self.answered = PerLane::default();
        }
        self.retire();
        if successors.overflowed || self.former.len() > MAX_FORMER_PEERS {
            self.fault = Some(PeerFault::TooManySwaps {
                most: MAX_FORMER_PEERS,
            });
        }
    }

    /// Where the current peer's ring begins to count: the end of the last former one.
    fn ends(&self) -> PerLane<u64> {
        PerLane::from_fn(|lane| {
            let former = self.former.iter().map(|former| former.end[lane]);
            former.fold(self.lanes[lane].done, u64::max)
        })
    }

    /// Drops former peers of whom everything is done.
    fn retire(&mut self) {
        let lanes = &self.lanes;
        self.former
            .retain(|former| former.end.iter().any(|(lane, &end)| end > lanes[lane].done));
    }
}
