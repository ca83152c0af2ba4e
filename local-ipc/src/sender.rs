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
use crate::layout::{self, INLINE_BYTES};
use crate::parking::{self, Ringer};
use crate::raw::Memory;
use crate::slot::{self, Header};
use crate::swap::Shared;
use crate::sync::Ordering;

/// Sends on one channel. Owned by one thread at a time.
#[derive(Debug)]
pub struct Sender {
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    lanes: PerLane<Outgoing>,
    ringer: Ringer,
    /// What a successor did wrong when it was picked up; its own successor can mend it.
    fault: Option<PeerFault>,
    one_thread: PhantomData<Cell<()>>,
}

/// Our private account of one outgoing lane.
#[derive(Debug)]
struct Outgoing {
    first: u64,
    next: u64,
    /// The peer's cursor as last read, as it stood there.
    seen: u64,
    /// The same within our bounds: below it, slots are free.
    done: u64,
    /// Something else than a replay was sent. Before that, the peer may have done more than we
    /// replayed so far: it acknowledged to our predecessor while we took over.
    settled: bool,
    arena: Arena,
}

impl Sender {
    pub(crate) fn new(shared: Arc<Shared>, peer: Arc<Peer>) -> Self {
        let geometry = shared.own.geometry;
        let lanes = PerLane::from_fn(|lane| {
            let first = shared.own.start.outgoing[lane].get();
            Outgoing {
                first,
                next: first,
                seen: 0,
                done: first,
                settled: false,
                arena: Arena::new(geometry.arena_bytes, geometry.slots),
            }
        });
        Self {
            shared,
            peer,
            lanes,
            ringer: Ringer::default(),
            fault: None,
            one_thread: PhantomData,
        }
    }

    /// Publishes a message under the next sequence of its lane, and rings if the peer sleeps.
    ///
    /// # Errors
    ///
    /// [`SendError::Full`] if there is no room now (see [`Self::wake_when_done`]),
    /// [`SendError::TooLarge`], or [`SendError::Peer`]. The message then was not sent.
    pub fn try_send(
        &mut self,
        lane: Lane,
        header: Header,
        body: &[u8],
    ) -> Result<Sequence, SendError> {
        self.follow()?;
        if !self.lanes[lane].settled {
            self.lanes[lane].settled = true;
            self.read_done(lane)?;
        }
        self.publish(lane, header, body)
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
        self.publish(lane, header, body).map(|_| ())
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
        !matches!(self.find_room(lane, len_bytes), Err(SendError::Full { .. }))
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
        self.shared
            .own
            .memory
            .word64(layout::wake_at(lane))
            .store(at.get().saturating_add(1), Ordering::Relaxed);
        let _ = parking::publish_before_look();
        // After a fault there is nothing to wait for: sending tells it.
        self.done(lane).is_ok_and(|done| done >= at) || self.fault.is_some()
    }

    /// `[done, next)`, read back from our own ring: what a move takes along.
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
        (done..self.lanes[lane].next)
            .map(|sequence| {
                let mut body = Vec::new();
                let header = slot::read(&own.memory, own.geometry, lane, sequence, &mut body)?;
                Ok((Sequence::new(sequence), header, body))
            })
            .collect()
    }

    fn publish(&mut self, lane: Lane, header: Header, body: &[u8]) -> Result<Sequence, SendError> {
        let place = self.find_room(lane, body.len())?;
        let own = &self.shared.own;
        let outgoing = &mut self.lanes[lane];
        let sequence = outgoing.next;
        let offset = place.map_or(0, |place| place.offset);
        slot::fill(
            &own.memory,
            own.geometry,
            lane,
            sequence,
            header,
            body,
            offset,
        );
        if let Some(place) = place {
            outgoing.arena.commit(sequence, place);
        }
        outgoing.next += 1;

        let fenced = parking::publish_before_look();
        if self.shared.for_sender.is_raised() {
            // The message is out. If the successor is at fault, the next operation says so.
            self.adopt();
        }
        let parked = self.peer.half.memory.read32(layout::PARKED_AT);
        if self.ringer.must_ring(fenced, parked) {
            self.shared.ring();
        }
        Ok(Sequence::new(sequence))
    }

    /// A free slot, and a place in the arena if the body needs one.
    fn find_room(&mut self, lane: Lane, len: usize) -> Result<Option<Place>, SendError> {
        let geometry = self.shared.own.geometry;
        let most = match geometry.arena_bytes as usize {
            arena if arena < INLINE_BYTES => INLINE_BYTES,
            arena => arena.min(MAX_BODY_BYTES),
        };
        if len > most {
            return Err(SendError::TooLarge {
                len_bytes: len,
                most_bytes: most,
            });
        }
        if let Some(place) = self.lanes[lane].room(geometry.slots, len) {
            return Ok(place);
        }
        self.read_done(lane)?;
        self.lanes[lane]
            .room(geometry.slots, len)
            .ok_or(SendError::Full { lane })
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
    fn adopt(&mut self) {
        let Some(peer) = self.shared.for_sender.take().peers.pop() else {
            return;
        };
        self.peer = peer;
        self.ringer = Ringer::default();
        self.fault = Lane::ALL
            .into_iter()
            .find_map(|lane| self.read_done(lane).err());
    }
}

impl Outgoing {
    /// Room for a body by what we know now: `Some(None)` if it goes into its slot.
    fn room(&self, slots: u32, len: usize) -> Option<Option<Place>> {
        if self.next - self.done >= u64::from(slots) {
            return None;
        }
        if len <= INLINE_BYTES {
            return Some(None);
        }
        self.arena.place(len).map(Some)
    }

    /// Checks what the peer's cursor says, and frees what it allows.
    fn accept_done(&mut self, lane: Lane, now: u64) -> Result<(), PeerFault> {
        if now < self.seen {
            return Err(PeerFault::CursorBack {
                lane,
                seen: Sequence::new(self.seen),
                now: Sequence::new(now),
            });
        }
        if now > self.next && self.settled {
            return Err(PeerFault::CursorAhead {
                lane,
                next: Sequence::new(self.next),
                now: Sequence::new(now),
            });
        }
        self.seen = now;
        // Below `first` it still reads our predecessor's ring.
        self.done = now.clamp(self.first, self.next);
        self.arena.free_to(self.done);
        Ok(())
    }
}
