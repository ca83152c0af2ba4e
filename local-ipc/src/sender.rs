//! The sending end: publishes into our own rings, frees what the peer has done, rings our bell.
//!
//! If we die on any line, the peer sees each message whole or not at all, and who follows us reads
//! `[done, published)` from our ring. If the peer dies, its cursors stay as they are: at most our
//! ring fills up, until a swap brings a successor.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;

use weft_types::{Lane, MAX_BODY_BYTES, PerLane, Sequence};

use crate::arena::{Arena, Place};
use crate::bell::Peer;
use crate::error::{PeerFault, SendError};
use crate::layout;
use crate::parking::{self, Ringer};
use crate::raw::OwnWord64;
use crate::segment::{OwnSegment, Starts};
use crate::slot::{self, Header, Payload};
use crate::swap::Shared;
use crate::sync::Ordering;
use crate::trust::holds;

/// Sends on one channel. Owned by one thread at a time; it shares no line with what another thread
/// owns.
#[derive(Debug)]
#[repr(align(128))]
pub struct Sender {
    pub(crate) shared: Arc<Shared>,
    peer: Arc<Peer>,
    pub(crate) lanes: PerLane<Outgoing>,
    ringer: Ringer,
    /// How many bytes further segments may still take.
    growth_bytes: u64,
    /// What a successor did wrong when it was picked up; its own successor can mend it.
    fault: Option<PeerFault>,
    one_thread: PhantomData<Cell<()>>,
}

/// Our private account of one outgoing lane.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) segment: OwnSegment,
    pub(crate) next: u64,
    /// Below this, `next` has a free slot of the segment and nothing needs to be looked at first.
    pub(crate) limit: u64,
    /// Where the segments begin, the present one last.
    starts: Starts,
    /// The peer's cursor as last read, as it stood there.
    seen: u64,
    /// The same within our bounds: below it, slots are free.
    done: u64,
    /// Something else than a replay was sent. Before that, the peer may have done more than we
    /// replayed so far: it acknowledged to our predecessor while we took over.
    settled: bool,
    pub(crate) arena: Arena,
    mark: OwnWord64,
}

impl Sender {
    pub(crate) fn new(shared: Arc<Shared>, peer: Arc<Peer>) -> Self {
        let own = &shared.own;
        let lanes = PerLane::from_fn(|lane| {
            let first = own.start.outgoing[lane].get();
            let segment = own.segment(lane, 0, first);
            Outgoing {
                arena: Outgoing::arena(&segment),
                segment,
                next: first,
                limit: first,
                starts: Starts::new(first),
                seen: 0,
                done: first,
                settled: false,
                mark: own.memory.word64(layout::wake_at(lane)),
            }
        });
        Self {
            shared,
            peer,
            lanes,
            ringer: Ringer::default(),
            growth_bytes: u64::MAX,
            fault: None,
            one_thread: PhantomData,
        }
    }

    /// Bounds what this channel may still take by growing, in bytes. Without this call it is what the
    /// geometry of its half allows. A lane that may not grow is full.
    pub fn set_growth_budget(&mut self, bytes: u64) {
        self.growth_bytes = bytes;
    }

    /// What is left of it.
    #[must_use]
    pub fn growth_budget(&self) -> u64 {
        self.growth_bytes
    }

    /// How many bytes a lane takes when it grows next; `None` if its geometry allows no more.
    #[must_use]
    pub fn next_growth_bytes(&self, lane: Lane) -> Option<u64> {
        let geometry = self.shared.own.geometry;
        let next = self.lanes[lane].segment.index + 1;
        (next <= geometry.growth).then(|| geometry.segment_bytes(next))
    }

    /// Publishes a message under the next sequence of its lane, and rings if the peer sleeps.
    ///
    /// # Errors
    ///
    /// [`SendError::Full`] if there is no room now (see [`Self::wake_when_done`]),
    /// [`SendError::TooLarge`], or [`SendError::Peer`]. The message then was not sent.
    #[inline(always)]
    pub fn try_send(
        &mut self,
        lane: Lane,
        header: Header,
        body: &[u8],
    ) -> Result<Sequence, SendError> {
        let sequence = self.try_send_lazy(lane, header, body)?;
        self.flush();
        Ok(sequence)
    }

    /// As [`Self::try_send`], but does not look whether the peer sleeps: it may hear of the message
    /// only at the next [`Self::flush`], or the next operation of this sender that is not lazy.
    /// A receiver that is awake sees the message at once.
    ///
    /// For several messages in a row; the look costs more than the rest of a small message.
    ///
    /// # Errors
    ///
    /// As [`Self::try_send`]. With [`SendError::Full`] the peer has been told of all before it.
    #[inline(always)]
    pub fn try_send_lazy(
        &mut self,
        lane: Lane,
        header: Header,
        body: &[u8],
    ) -> Result<Sequence, SendError> {
        self.push(lane, header, Payload::Body, body)
    }

    /// As [`Self::try_send`] for a body that says where the payload lies (see [`Payload`]).
    ///
    /// # Errors
    ///
    /// As [`Self::try_send`].
    #[inline]
    pub fn try_send_reference(
        &mut self,
        lane: Lane,
        header: Header,
        reference: &[u8],
    ) -> Result<Sequence, SendError> {
        let sequence = self.push(lane, header, Payload::Reference, reference)?;
        self.flush();
        Ok(sequence)
    }

    /// Publishes a message without looking whether the peer sleeps.
    #[inline(always)]
    fn push(
        &mut self,
        lane: Lane,
        header: Header,
        payload: Payload,
        body: &[u8],
    ) -> Result<Sequence, SendError> {
        let outgoing = &mut self.lanes[lane];
        let sequence = outgoing.next;
        if sequence < outgoing.limit
            && slot::is_inline(outgoing.segment.geometry, &header, body.len())
        {
            slot::fill(&outgoing.segment, sequence, header, payload, body);
            outgoing.next = sequence + 1;
            Ok(Sequence::new(sequence))
        } else {
            self.send_with_care(lane, header, payload, body)
        }
    }

    /// Looks whether the peer sleeps, and rings if so. Ends a row of [`Self::try_send_lazy`].
    #[inline(always)]
    pub fn flush(&mut self) {
        let fenced = parking::publish_before_look();
        if self.shared.for_sender.is_raised() {
            // The messages are out. If the successor is at fault, the next operation says so.
            self.adopt();
        }
        if self.ringer.must_ring(fenced, self.peer.parked.read()) {
            self.shared.ring();
        }
    }

    /// Publishes messages in a row, and looks once at the end whether the peer sleeps.
    ///
    /// Returns how many were sent, and why no more, if there were more. A message that there is no
    /// room for is taken from the iterator and not sent: with one that remembers, go on from there.
    pub fn send_batch<'a>(
        &mut self,
        lane: Lane,
        messages: impl IntoIterator<Item = (Header, &'a [u8])>,
    ) -> (usize, Result<(), SendError>) {
        let mut sent = 0;
        let mut result = Ok(());
        for (header, body) in messages {
            if let Err(error) = self.try_send_lazy(lane, header, body) {
                result = Err(error);
                break;
            }
            sent += 1;
        }
        self.flush();
        (sent, result)
    }

    /// Looks at everything that has to be looked at before a body of this length can be sent.
    #[cold]
    pub(crate) fn prepare(
        &mut self,
        lane: Lane,
        header: Header,
        len: usize,
    ) -> Result<(), SendError> {
        self.settle(lane)?;
        let room = self.find_room(lane, Some(&header), len).map(|_| ());
        if let Err(SendError::Full { .. }) = room {
            // What makes room may be asleep on lazy messages before this one.
            self.flush();
        }
        room
    }

    /// What [`Self::try_send_lazy`] does when something has to be looked at first: a bound that is
    /// reached, a body for the arena, the first message, a swap, a fault.
    #[cold]
    fn send_with_care(
        &mut self,
        lane: Lane,
        header: Header,
        payload: Payload,
        body: &[u8],
    ) -> Result<Sequence, SendError> {
        self.prepare(lane, header, body.len())?;
        self.publish(lane, header, payload, body)
    }

    /// Before anything but a replay: what the peer acknowledged to our predecessor is over.
    pub(crate) fn settle(&mut self, lane: Lane) -> Result<(), PeerFault> {
        self.follow()?;
        if !self.lanes[lane].settled {
            self.lanes[lane].settled = true;
            self.read_done(lane)?;
        }
        Ok(())
    }

    /// Publishes a message that a predecessor had sent already, under its old sequence.
    ///
    /// # Errors
    ///
    /// [`SendError::OutOfTurn`] unless `sequence` is the next one, else as [`Self::try_send`].
    pub fn replay(
        &mut self,
        lane: Lane,
        sequence: Sequence,
        header: Header,
        body: &[u8],
    ) -> Result<(), SendError> {
        self.follow()?;
        let next = self.next(lane);
        if sequence != next {
            return Err(SendError::OutOfTurn {
                lane,
                sequence,
                next,
            });
        }
        self.publish(lane, header, Payload::Body, body)?;
        self.flush();
        Ok(())
    }

    /// Whether a small message would find a slot now. `true` after a fault too: sending tells it.
    pub fn room(&mut self, lane: Lane) -> bool {
        self.fits(lane, 0)
    }

    /// Whether a body of `len_bytes` would be taken now, or would fail with something else than
    /// [`SendError::Full`].
    pub fn fits(&mut self, lane: Lane, len_bytes: usize) -> bool {
        if self.follow().is_err() {
            return true;
        }
        !matches!(
            self.find_room(lane, None, len_bytes),
            Err(SendError::Full { .. })
        )
    }

    /// The sequence that the next message of this lane will get.
    #[must_use]
    pub fn next(&self, lane: Lane) -> Sequence {
        Sequence::new(self.lanes[lane].next)
    }

    /// Below what the peer has handled our messages: never back, never beyond [`Self::next`].
    ///
    /// # Errors
    ///
    /// [`PeerFault`] if the peer's cursor is neither.
    pub fn done(&mut self, lane: Lane) -> Result<Sequence, PeerFault> {
        self.follow()?;
        self.read_done(lane)?;
        Ok(Sequence::new(self.lanes[lane].done))
    }

    /// The reverse bell: asks the peer to ring *its* bell once its `done` has reached `at`.
    ///
    /// Returns whether it is there already; then it may not ring. One mark a lane: a later call
    /// replaces an earlier one.
    pub fn wake_when_done(&mut self, lane: Lane, at: Sequence) -> bool {
        // ORDER(mark): store, full fence, look at `done`; pairs with `done`, full fence, look at
        // the mark in `Receiver::finish`.
        self.lanes[lane]
            .mark
            .store(at.get().saturating_add(1), Ordering::Relaxed);
        let _ = parking::publish_before_look();
        // After a fault there is nothing to wait for: sending tells it.
        self.done(lane).is_ok_and(|done| done >= at) || self.fault.is_some()
    }

    /// `[done, next)`, read back from our own ring: what a move takes along.
    ///
    /// Of a message by reference only the reference comes out, which leads nowhere in another process: who
    /// sends such and moves has to take the objects along itself.
    ///
    /// # Errors
    ///
    /// [`PeerFault`] if the peer's cursor makes no sense.
    pub fn unacknowledged(
        &mut self,
        lane: Lane,
    ) -> Result<Vec<(Sequence, Header, Vec<u8>)>, PeerFault> {
        let done = self.done(lane)?.get();
        let own = &self.shared.own;
        let outgoing = &self.lanes[lane];
        (done..outgoing.next)
            .map(|sequence| {
                let (index, start, _) = outgoing.starts.find(sequence);
                let segment = own.segment(lane, index, start).as_peer();
                let mut copy = Vec::new();
                let (header, _, body) = slot::read(&segment, own.memory.bytes(), sequence)?;
                body.fill(&mut copy);
                Ok((Sequence::new(sequence), header, copy))
            })
            .collect()
    }

    pub(crate) fn publish(
        &mut self,
        lane: Lane,
        header: Header,
        payload: Payload,
        body: &[u8],
    ) -> Result<Sequence, SendError> {
        let place = self.find_room(lane, Some(&header), body.len())?;
        let outgoing = &mut self.lanes[lane];
        let sequence = outgoing.next;
        match place {
            None => slot::fill(&outgoing.segment, sequence, header, payload, body),
            Some(place) => {
                let segment = &outgoing.segment;
                let offset = place.offset;
                let at = segment.arena_at() + offset as usize;
                self.shared.own.memory.copy_in(at, body);
                slot::fill_by_offset(segment, sequence, header, payload, body.len(), offset);
                outgoing.arena.commit(sequence, place);
            }
        }
        outgoing.next += 1;
        Ok(Sequence::new(sequence))
    }

    /// A free slot, and a place in the arena if the body needs one. Without a header: for the
    /// smallest room that a body of this length may need.
    pub(crate) fn find_room(
        &mut self,
        lane: Lane,
        header: Option<&Header>,
        len: usize,
    ) -> Result<Option<Place>, SendError> {
        let geometry = self.shared.own.geometry;
        let correlated = header.is_some_and(|header| header.correlation != Sequence::ZERO);
        let inline = geometry.inline_bytes(correlated);
        let most = (geometry.arena(geometry.growth) as usize).clamp(inline, MAX_BODY_BYTES);
        if len > most {
            return Err(SendError::TooLarge {
                len_bytes: len,
                most_bytes: most,
            });
        }
        let in_arena = (len > inline).then_some(len);
        let stale = in_arena.is_some() && self.lanes[lane].arena.wants_news();
        if !stale && let Some(place) = self.lanes[lane].room(in_arena) {
            return Ok(place);
        }
        self.read_done(lane)?;
        loop {
            if let Some(place) = self.lanes[lane].room(in_arena) {
                return Ok(place);
            }
            if !self.grow(lane) {
                return Err(SendError::Full { lane });
            }
        }
    }

    /// Links the next segment of a lane that is full, if its budget and the machine's memory allow.
    fn grow(&mut self, lane: Lane) -> bool {
        let Some(bytes) = self.next_growth_bytes(lane) else {
            return false;
        };
        let own = &self.shared.own;
        let outgoing = &mut self.lanes[lane];
        let index = outgoing.segment.index + 1;
        if bytes > self.growth_bytes || !own.allocate_segment(lane, index) {
            return false;
        }
        self.growth_bytes -= bytes;
        own.link_segment(lane, index, outgoing.next);
        outgoing.starts.link(outgoing.next);
        outgoing.segment = own.segment(lane, index, outgoing.next);
        outgoing.arena = Outgoing::arena(&outgoing.segment);
        outgoing.update_limit();
        true
    }

    fn read_done(&mut self, lane: Lane) -> Result<(), PeerFault> {
        // ORDER(done): acquire (in `half.done`); pairs with the Release in `Receiver::finish`. The
        // peer has read what we now overwrite.
        let now = self.peer.half.done(lane).get();
        self.lanes[lane].accept_done(lane, now)
    }

    /// Picks up a swap if there is one, and says what is wrong with the peer.
    fn follow(&mut self) -> Result<(), PeerFault> {
        if self.shared.for_sender.is_raised() {
            self.adopt();
        }
        self.fault.map_or(Ok(()), Err)
    }

    /// The consumer swap. Of several successors only the last one counts.
    #[cold]
    fn adopt(&mut self) {
        let Some(peer) = self.shared.for_sender.take().peers.pop() else {
            return;
        };
        self.peer = peer;
        self.ringer = Ringer::default();
        self.fault = Lane::ALL
            .into_iter()
            .find_map(|lane| self.read_done(lane).err());
        if self.fault.is_some() {
            // So that the next message is sent with care, and finds the fault.
            self.lanes
                .iter_mut()
                .for_each(|(_, outgoing)| outgoing.limit = outgoing.next);
        }
    }
}

impl Drop for Sender {
    /// Nobody is left asleep on lazy messages.
    fn drop(&mut self) {
        self.flush();
    }
}

impl Outgoing {
    fn arena(segment: &OwnSegment) -> Arena {
        let geometry = segment.geometry;
        Arena::new(
            geometry.arena(segment.index),
            geometry.slots_of(segment.index),
        )
    }

    /// Room for a body by what we know now: `Some(None)` if it goes into its slot.
    fn room(&self, in_arena: Option<usize>) -> Option<Option<Place>> {
        if self.next >= self.free_to() {
            return None;
        }
        match in_arena {
            None => Some(None),
            Some(len) => self.arena.place(len).map(Some),
        }
    }

    /// Below this, sequences have a free slot in the present segment.
    fn free_to(&self) -> u64 {
        let slots = self.segment.geometry.slots_of(self.segment.index);
        self.done.max(self.segment.start) + u64::from(slots)
    }

    fn update_limit(&mut self) {
        self.limit = if self.settled {
            self.free_to()
        } else {
            self.next
        };
    }

    /// Checks what the peer's cursor says, and frees what it allows.
    fn accept_done(&mut self, lane: Lane, now: u64) -> Result<(), PeerFault> {
        if !holds(now >= self.seen) {
            return Err(PeerFault::CursorBack {
                lane,
                seen: Sequence::new(self.seen),
                now: Sequence::new(now),
            });
        }
        if !holds(now <= self.next || !self.settled) {
            return Err(PeerFault::CursorAhead {
                lane,
                next: Sequence::new(self.next),
                now: Sequence::new(now),
            });
        }
        self.seen = now;
        // Below `first` it still reads our predecessor's ring.
        self.done = now.clamp(self.starts.first(), self.next);
        self.arena.free_to(self.done);
        self.update_limit();
        Ok(())
    }
}
