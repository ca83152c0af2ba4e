//! Messages that are written and read where they lie: no copy on either side.
//!
//! A sender fills memory of its own that nobody else can write and that is not published yet, so it
//! gets a `&mut [u8]`. A receiver reads memory that its peer can still write: it gets a [`View`], which
//! gives out copies of values and never a reference. A value that was read twice may differ; who
//! has to check something checks the copy.

use weft_types::{Lane, Sequence};
use zerocopy::FromBytes;

use crate::error::{PeerFault, SendError};
use crate::prefetch::{self, LINE};
use crate::receiver::{Received, Receiver};
use crate::sender::Sender;
use crate::slot::{self, Body, Header, Payload};
use crate::sync::{AtomicU64, Ordering};

/// The longest body whose lines are all asked for before it is filled, in bytes. A core can ask for a
/// dozen lines at once; what is longer keeps it busy by itself.
const MOST_CLAIMED: usize = 8192;

/// A message's body in the peer's memory, for as long as it is not finished.
#[derive(Clone, Copy, Debug)]
pub struct View<'a>(pub(crate) Body<'a>);

/// Words that the peer can still write: each look is a copy.
#[derive(Clone, Copy, Debug)]
pub struct Words<'a>(&'a [AtomicU64]);

impl<'a> Words<'a> {
    /// How many there are.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A copy of the word at this place.
    #[must_use]
    #[inline]
    pub fn get(&self, index: usize) -> Option<u64> {
        // ORDER(filled): Relaxed; the receiver has acquired the slot that says where they are.
        self.0.get(index).map(|word| word.load(Ordering::Relaxed))
    }

    /// Copies of all of them, in order.
    #[inline]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = u64> + 'a {
        // ORDER(filled): Relaxed, as above.
        self.0.iter().map(|word| word.load(Ordering::Relaxed))
    }
}

impl<'a> View<'a> {
    /// Its whole words in the machine's byte order, to look at one by one. `None` if an ill-behaved
    /// peer put the body where words do not begin: use [`Self::copy_to`].
    #[must_use]
    #[inline]
    pub fn words(&self) -> Option<Words<'a>> {
        self.0.words().map(Words)
    }

    /// Its length in bytes.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A copy of the value at `offset` bytes; `None` if it does not lie in the body.
    #[must_use]
    #[inline]
    pub fn read<T: FromBytes + zerocopy::IntoBytes>(&self, offset: usize) -> Option<T> {
        let mut value = T::new_zeroed();
        self.copy_to(offset, value.as_mut_bytes()).then_some(value)
    }

    /// Fills `to` with a copy of the bytes from `offset` on. `false`, and nothing is copied, if they do
    /// not all lie in the body.
    #[must_use]
    #[inline]
    pub fn copy_to(&self, offset: usize, to: &mut [u8]) -> bool {
        let inside = offset
            .checked_add(to.len())
            .is_some_and(|end| end <= self.len());
        if inside {
            self.0.copy_part(offset, to);
        }
        inside
    }
}

impl Sender {
    /// As [`Sender::try_send`] for a body of `len` bytes that `fill` writes where it will be read.
    ///
    /// The bytes it gets hold something older; what it does not write is sent as it is. If it
    /// panics, nothing was sent.
    ///
    /// # Errors
    ///
    /// As [`Sender::try_send`]; `fill` is not called then.
    pub fn try_send_in_place(
        &mut self,
        lane: Lane,
        header: Header,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<Sequence, SendError> {
        let sequence = self.try_send_in_place_lazy(lane, header, len, fill)?;
        self.flush();
        Ok(sequence)
    }

    /// As [`Self::try_send_in_place`], without a look whether the peer sleeps (see
    /// [`Sender::try_send_lazy`]).
    ///
    /// # Errors
    ///
    /// As [`Sender::try_send`]; `fill` is not called then.
    #[expect(unsafe_code, reason = "a slice over free memory of our own")]
    pub fn try_send_in_place_lazy(
        &mut self,
        lane: Lane,
        header: Header,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<Sequence, SendError> {
        self.settle(lane)?;
        let place = match self.find_room(lane, Some(&header), len) {
            Err(full @ SendError::Full { .. }) => {
                self.flush();
                return Err(full);
            }
            place => place?,
        };
        let outgoing = &mut self.lanes[lane];
        let sequence = outgoing.next;
        match place {
            None => {
                let first = slot::body_word(&header);
                // SAFETY: `find_room` says that the slot is free: its last message is done, and this
                // one is not published. `self` is borrowed until `fill` has returned, and nobody
                // else in this process reads slots of our own ring.
                let bytes = unsafe { outgoing.segment.ring.slot_bytes(sequence, first) };
                fill(&mut bytes[..len]);
                slot::fill_header(&outgoing.segment, sequence, header, Payload::Body, len);
            }
            Some(place) => {
                let at = outgoing.segment.arena_at() + place.offset as usize;
                // SAFETY: `find_room` says that no body lies there; the rest as above.
                let bytes = unsafe { self.shared.own.memory.span(at, len) };
                if len <= MOST_CLAIMED {
                    bytes.iter().step_by(LINE).for_each(prefetch::claim);
                }
                fill(bytes);
                let offset = place.offset;
                let segment = &outgoing.segment;
                slot::fill_by_offset(segment, sequence, header, Payload::Body, len, offset);
                outgoing.arena.commit(sequence, place);
            }
        }
        outgoing.next += 1;
        Ok(Sequence::new(sequence))
    }
}

impl Receiver {
    /// As [`Receiver::try_receive`], but has `read` look at the body where it lies.
    ///
    /// # Errors
    ///
    /// As [`Receiver::try_receive`].
    #[inline]
    pub fn try_receive_in_place<R>(
        &mut self,
        read: impl FnOnce(Header, View<'_>) -> R,
    ) -> Result<Option<(Received, R)>, PeerFault> {
        let Some(lane) = self.ready_lane()? else {
            return Ok(None);
        };
        let mut result = None;
        let received = self.take(lane, |_, header, body| {
            result = Some(read(header, View(body)));
            Ok(())
        })?;
        Ok(result.map(|result| (received, result)))
    }
}
