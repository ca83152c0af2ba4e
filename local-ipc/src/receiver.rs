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
use crate::raw::{OwnWord32, OwnWord64, PeerBytes, PeerWord32};
use crate::segment::{LaneStarts, PeerSegment};
use crate::slot::{self, Body, Header, Payload, SlotState};
use crate::spin::Spin;
use crate::swap::Shared;
use crate::sync::Ordering;
use crate::trust::holds;

/// How many former peers may have left messages that are not done. Each was replaced while we
/// finished nothing of it; beyond this the channel is given up with [`PeerFault::TooManySwaps`].
pub const MAX_FORMER_PEERS: usize = 64;

/// So many messages in full rows say that we are behind the sender, and that it has left the slots
/// ahead. Less may be chance: whoever then fetches ahead takes lines away that are being written, which
/// was seen to cost a third of the rate between cores that share no cache.
const BEHIND: u64 = 2048;

/// How far ahead slots are fetched where we are behind.
const FETCH_AHEAD: u64 = 16;

/// A message that was taken; its body is in the buffer that the caller gave.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Received {
    /// The lane it came on.
    pub lane: Lane,
    /// Its sequence on that lane.
    pub sequence: Sequence,
    /// What stands beside its body.
    pub header: Header,
    /// Whether its body is the payload or says where that lies.
    pub payload: Payload,
}

/// Receives on one channel. Owned by one thread at a time; it shares no line with what another
/// thread owns.
#[derive(Debug)]
#[repr(align(128))]
pub struct Receiver {
    shared: Arc<Shared>,
    /// Former peers that still hold something, the oldest first.
    former: VecDeque<Former>,
    current: Source,
    lanes: PerLane<Incoming>,
    parking: Parking,
    parked: OwnWord32,
    /// Marks of the peer (see `Sender::wake_when_done`) that we have rung for.
    answered: PerLane<u64>,
    fault: Option<PeerFault>,
    one_thread: PhantomData<Cell<()>>,
}

/// A peer and what we know of its segments.
#[derive(Debug)]
struct Source {
    peer: Arc<Peer>,
    starts: LaneStarts,
    /// The peer's count of links when we last looked at them.
    grown: u32,
    grown_word: PeerWord32,
}

/// What a quick look at a receiver's slots shows.
enum Glance {
    /// The message in turn of this lane, which is the most urgent one with a message.
    Message(Lane),
    Nothing,
    /// Something has to be looked at with care first.
    Unclear,
}

/// A replaced peer and the end of what it had published, lane by lane.
#[derive(Debug)]
struct Former {
    source: Source,
    end: PerLane<u64>,
}

/// Our private account of one incoming lane.
#[derive(Debug)]
pub(crate) struct Incoming {
    /// What will be handed out next.
    pub(crate) next: u64,
    /// The largest `next` there was: what our page says.
    taken: u64,
    done: u64,
    /// Where `next` lies or will lie.
    pub(crate) segment: PeerSegment,
    /// Here the segment ends: with its peer's, or because another is linked.
    end: u64,
    /// Below this, `next` is to be found in `segment`. An honest peer has never more than a ring
    /// out: without this bound a liar that fills slots as fast as we read them could keep us busy
    /// without anything being done.
    limit: u64,
    /// The sequence word in the slot of `next` that says "not yet".
    blank: u64,
    taken_word: OwnWord64,
    done_word: OwnWord64,
    /// Messages that were taken in rows since one found less than it wanted.
    in_full_rows: u64,
}

impl Source {
    fn new(peer: Arc<Peer>) -> Self {
        let mut source = Self {
            starts: peer.half.first_starts(),
            grown: 0,
            grown_word: peer.half.memory.word32(layout::GROWN_AT),
            peer,
        };
        // A peer that lies is found out when the lane is read.
        let _ = source.see_growth();
        source
    }

    /// Whether the peer has linked segments that we do not know.
    #[inline]
    fn has_grown(&self) -> bool {
        // ORDER(grown): acquire; pairs with the Release in `OwnHalf::link_segment`.
        self.grown_word.read().load() != self.grown
    }

    fn see_growth(&mut self) -> Result<(), PeerFault> {
        // ORDER(grown): acquire, as above, before the starts are read.
        let grown = self.grown_word.read().load();
        for (lane, starts) in self.starts.iter_mut() {
            self.peer.half.learn(lane, starts)?;
        }
        // Not before: who lies has to be found out again when somebody listens.
        self.grown = grown;
        Ok(())
    }
}

impl Incoming {
    /// Goes on to the sequence after `next`.
    #[inline]
    fn advance(&mut self) {
        self.next += 1;
        self.expect();
        self.take();
    }

    /// Works out what stands in the slot of `next` if nothing is published there.
    #[inline]
    fn expect(&mut self) {
        // A slot holds the sequence of the lap before, or nothing in the first lap.
        self.blank =
            if self.blank != 0 || self.next - self.segment.start >= self.segment.ring.slots() {
                self.next + 1 - self.segment.ring.slots()
            } else {
                0
            };
    }

    /// Counts on the slots that are free since `done`.
    #[inline]
    fn free(&mut self, done: u64) {
        let out = done.max(self.segment.start) + self.segment.ring.slots();
        self.limit = self.end.min(out);
    }

    /// Counts everything below `next` as taken.
    #[inline]
    fn take(&mut self) {
        if self.next > self.taken {
            self.taken = self.next;
            // ORDER(taken): Release, and before the message is handed out: who reads our page
            // after our death finds it in `(done, taken]`.
            self.taken_word.store(self.next, Ordering::Release);
        }
    }
}

/// The peer whose ring holds this sequence, or will.
fn source_of<'a>(
    former: &'a VecDeque<Former>,
    current: &'a Source,
    lane: Lane,
    sequence: u64,
) -> &'a Source {
    former
        .iter()
        .find(|former| sequence < former.end[lane])
        .map_or(current, |former| &former.source)
}

impl Receiver {
    pub(crate) fn new(shared: Arc<Shared>, peer: Arc<Peer>) -> Self {
        let memory = &shared.own.memory;
        let current = Source::new(peer);
        let lanes = PerLane::from_fn(|lane| {
            let start = shared.own.start.incoming[lane].get();
            Incoming {
                next: start,
                taken: start,
                done: start,
                segment: current.peer.half.segment(lane, 0, &current.starts[lane]),
                end: 0,
                limit: 0,
                blank: 0,
                in_full_rows: 0,
                taken_word: memory.word64(layout::taken_at(lane)),
                done_word: memory.word64(layout::done_at(lane)),
            }
        });
        let mut receiver = Self {
            parked: memory.word32(layout::PARKED_AT),
            shared,
            former: VecDeque::new(),
            current,
            lanes,
            parking: Parking::default(),
            answered: PerLane::default(),
            fault: None,
            one_thread: PhantomData,
        };
        receiver.aim_all();
        receiver
    }

    /// The next message in lane order, its body in `body` (which loses what it held).
    ///
    /// # Errors
    ///
    /// [`PeerFault`] if what the peer wrote makes no sense. The channel should then be closed.
    #[inline]
    pub fn try_receive(&mut self, body: &mut Vec<u8>) -> Result<Option<Received>, PeerFault> {
        match self.ready_lane()? {
            Some(lane) => self.take_into(lane, body).map(Some),
            None => Ok(None),
        }
    }

    /// The next message of one lane.
    ///
    /// # Errors
    ///
    /// As [`Self::try_receive`].
    #[inline]
    pub fn try_receive_lane(
        &mut self,
        lane: Lane,
        body: &mut Vec<u8>,
    ) -> Result<Option<Received>, PeerFault> {
        self.follow()?;
        if self.is_ready(lane)? {
            self.take_into(lane, body).map(Some)
        } else {
            Ok(None)
        }
    }

    /// The most urgent lane that has a message.
    #[inline(always)]
    pub(crate) fn ready_lane(&mut self) -> Result<Option<Lane>, PeerFault> {
        match self.glance() {
            Glance::Message(lane) => Ok(Some(lane)),
            Glance::Nothing => Ok(None),
            Glance::Unclear => self.ready_lane_with_care(),
        }
    }

    /// What a look at the slots in turn shows, and at the two words that say whether they are still
    /// the right ones.
    #[inline(always)]
    fn glance(&self) -> Glance {
        if self.shared.for_receiver.is_raised() || self.current.has_grown() || self.fault.is_some()
        {
            return Glance::Unclear;
        }
        for lane in Lane::ALL {
            let incoming = &self.lanes[lane];
            let slot = incoming.segment.ring.slot(incoming.next);
            let word = slot.sequence_word();
            if word != incoming.blank {
                if !holds(word == incoming.next + 1) || incoming.next >= incoming.limit {
                    return Glance::Unclear;
                }
                slot.acquire();
                return Glance::Message(lane);
            }
        }
        Glance::Nothing
    }

    #[cold]
    fn ready_lane_with_care(&mut self) -> Result<Option<Lane>, PeerFault> {
        self.follow()?;
        for lane in Lane::ALL {
            if self.is_ready(lane)? {
                return Ok(Some(lane));
            }
        }
        Ok(None)
    }

    /// Whether a lane has a message. Follow first.
    #[inline]
    fn is_ready(&mut self, lane: Lane) -> Result<bool, PeerFault> {
        let incoming = &self.lanes[lane];
        let sequence = incoming.next;
        if incoming.segment.ring.slot(sequence).sequence_word() == incoming.blank {
            return Ok(false);
        }
        let filled = self.look(lane, sequence)? == SlotState::Filled;
        if filled {
            self.aim(lane);
        }
        Ok(filled)
    }

    /// Takes the message that a look at its lane has found; `copy` copies its body, or refuses it.
    #[inline(always)]
    pub(crate) fn take(
        &mut self,
        lane: Lane,
        copy: impl FnOnce(Sequence, Header, Body<'_>) -> Result<(), PeerFault>,
    ) -> Result<Received, PeerFault> {
        let (incoming, bytes) = self.reading(lane);
        let sequence = incoming.next;
        let (header, payload, body) = slot::read(&incoming.segment, bytes, sequence)?;
        copy(Sequence::new(sequence), header, body)?;
        incoming.advance();
        if incoming.next >= incoming.limit {
            self.aim(lane);
        }
        Ok(Received {
            lane,
            sequence: Sequence::new(sequence),
            header,
            payload,
        })
    }

    /// A lane, and the memory of the peer that its next message lies in.
    #[inline(always)]
    pub(crate) fn reading(&mut self, lane: Lane) -> (&mut Incoming, PeerBytes<'_>) {
        let next = self.lanes[lane].next;
        let source = if self.former.is_empty() {
            &self.current
        } else {
            source_of(&self.former, &self.current, lane, next)
        };
        (&mut self.lanes[lane], source.peer.half.bytes())
    }

    /// Counts what is published of a lane in which a look has found a message, up to `most`, as taken,
    /// and returns where that ends.
    #[inline(always)]
    pub(crate) fn take_row(&mut self, lane: Lane, most: usize) -> u64 {
        let incoming = &mut self.lanes[lane];
        let from = incoming.next;
        let end = from.saturating_add(most as u64).min(incoming.limit);
        let mut to = from + 1;
        let mut slot = incoming.segment.ring.slot(to);
        let behind = incoming.in_full_rows >= BEHIND;
        while to < end && slot.sequence_word() == to + 1 {
            if behind {
                incoming.segment.ring.slot(to + FETCH_AHEAD).fetch();
            }
            to += 1;
            slot = incoming.segment.ring.slot(to);
        }
        slot.acquire();
        incoming.in_full_rows = if to == end {
            incoming.in_full_rows + (to - from)
        } else {
            0
        };
        if to > incoming.taken {
            incoming.taken = to;
            // ORDER(taken): Release, as in `Incoming::take`.
            incoming.taken_word.store(to, Ordering::Release);
        }
        to
    }

    /// After messages up to `next` were handed out.
    #[inline(always)]
    pub(crate) fn after_row(&mut self, lane: Lane) {
        let incoming = &mut self.lanes[lane];
        incoming.expect();
        if incoming.next >= incoming.limit {
            self.aim(lane);
        }
    }

    #[inline]
    fn take_into(&mut self, lane: Lane, body: &mut Vec<u8>) -> Result<Received, PeerFault> {
        self.take(lane, |_, _, copy| {
            copy.fill(body);
            Ok(())
        })
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
        // ORDER(done): Release; pairs with the acquire load in `PeerHalf::done`. All copies out of
        // the peer's slots come before it.
        incoming.done_word.store(done, Ordering::Release);
        if incoming.next < done || !self.former.is_empty() {
            incoming.next = incoming.next.max(done);
            self.aim(lane);
        } else {
            incoming.free(done);
        }
        // ORDER(mark): `done`, full fence, look at the mark; pairs with `Sender::wake_when_done`.
        let fenced = parking::publish_before_look();
        if self.shared.for_receiver.is_raised() {
            self.adopt();
        }
        if !self.former.is_empty() {
            self.retire();
        }
        let mark = bell::wake_mark(fenced, &self.current.peer, lane);
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
        self.aim(lane);
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
        let incoming = &mut self.lanes[lane];
        incoming.next = next;
        incoming.take();
        self.aim(lane);
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
        self.parking.park(&self.parked);
    }

    /// Says "awake" again: sends need not ring.
    pub fn unpark(&mut self) {
        Parking::unpark(&self.parked);
    }

    /// Leaves the note of a consumer that froze: every send rings until a successor takes over.
    pub fn park_always(&mut self) {
        Parking::park_always(&self.parked);
    }

    /// Whether an operation would find something now: a message, a fault or a swap. Changes
    /// nothing.
    #[must_use]
    pub fn ready(&self) -> bool {
        match self.glance() {
            Glance::Message(_) => true,
            Glance::Nothing => false,
            Glance::Unclear => self.ready_with_care(),
        }
    }

    #[cold]
    fn ready_with_care(&self) -> bool {
        self.shared.for_receiver.is_raised()
            || self.fault.is_some()
            || self.current.has_grown()
            || Lane::ALL
                .into_iter()
                .any(|lane| self.look(lane, self.lanes[lane].next) != Ok(SlotState::Empty))
    }

    /// Spins for a moment, then parks and sleeps, until there is something or the bell rings for
    /// another reason (a cursor the sender asked about, a swap). Waits for this one channel only.
    #[cfg(not(any(loom, shuttle)))]
    pub fn wait(&mut self, timeout: Option<Duration>) -> Wait {
        self.wait_spinning(Spin::new(), timeout)
    }

    /// As [`Self::wait`], spinning as long as the caller likes.
    #[cfg(not(any(loom, shuttle)))]
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

    /// What this end's threads share.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The peer whose ring holds this sequence, or will.
    fn source(&self, lane: Lane, sequence: u64) -> &Source {
        source_of(&self.former, &self.current, lane, sequence)
    }

    /// Finds where the next message of a lane lies or will lie.
    fn aim(&mut self, lane: Lane) {
        let next = self.lanes[lane].next;
        let former = self
            .former
            .iter()
            .find(|former| next < former.end[lane])
            .map(|former| former.end[lane]);
        let source = self.source(lane, next);
        let starts = &source.starts[lane];
        let (index, start, following) = starts.find(next);
        let segment = source.peer.half.segment(lane, index, starts);
        let slots = segment.ring.slots();
        let incoming = &mut self.lanes[lane];
        incoming.end = [former, following]
            .into_iter()
            .flatten()
            .fold(u64::MAX, u64::min);
        incoming.segment = segment;
        incoming.blank = match next.checked_sub(start) {
            // A gap: no word means "not yet", so that `look` is asked and says so.
            None => u64::MAX,
            Some(distance) if distance >= slots => next + 1 - slots,
            Some(_) => 0,
        };
        if next < start {
            incoming.end = 0;
        }
        incoming.free(incoming.done);
    }

    fn aim_all(&mut self) {
        for lane in Lane::ALL {
            self.aim(lane);
        }
    }

    fn look(&self, lane: Lane, sequence: u64) -> Result<SlotState, PeerFault> {
        let source = self.source(lane, sequence);
        let first = source.peer.half.first(lane);
        if sequence < first.get() {
            return Err(PeerFault::Gap {
                lane,
                expected: Sequence::new(sequence),
                first,
            });
        }
        let starts = &source.starts[lane];
        let (index, start, _) = starts.find(sequence);
        let segment = source.peer.half.segment(lane, index, starts);
        if sequence >= start.max(self.lanes[lane].done) + segment.ring.slots() {
            // See `Incoming::limit`.
            return Ok(SlotState::Empty);
        }
        slot::look(&segment, sequence)
    }

    #[inline]
    fn follow(&mut self) -> Result<(), PeerFault> {
        if self.shared.for_receiver.is_raised() || self.current.has_grown() {
            self.catch_up();
        }
        match self.fault {
            None => Ok(()),
            Some(fault) => Err(fault),
        }
    }

    /// Takes note of swaps and of segments that were linked.
    #[cold]
    fn catch_up(&mut self) {
        self.adopt();
        if self.current.has_grown() {
            if let Err(fault) = self.current.see_growth() {
                self.fault = Some(fault);
            }
            self.aim_all();
        }
    }

    /// The producer swap: fixes the end of each replaced ring and goes on with the last one.
    #[cold]
    fn adopt(&mut self) {
        let successors = self.shared.for_receiver.take();
        for successor in successors.peers {
            let mut source = std::mem::replace(&mut self.current, Source::new(successor));
            // A lie in what it linked last cannot be told any more; what lies before it is read.
            let _ = source.see_growth();
            let from = self.ends();
            let end = PerLane::from_fn(|lane| {
                let from = Sequence::new(from[lane]);
                source.peer.half.published_from(lane, from).get()
            });
            // One that added nothing is not kept, or a service that dies again and again would
            // make us keep all of its halves.
            if end.iter().any(|(lane, &end)| end > from[lane]) {
                self.former.push_back(Former { source, end });
            }
            self.answered = PerLane::default();
        }
        self.retire();
        if successors.overflowed || self.former.len() > MAX_FORMER_PEERS {
            self.fault = Some(PeerFault::TooManySwaps {
                most: MAX_FORMER_PEERS,
            });
        }
        self.aim_all();
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
