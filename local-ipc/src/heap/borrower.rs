//! The borrowing side: finds objects in the peer's extents, and gives them back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weft_types::{Lane, PerLane, Sequence};
use zerocopy::FromBytes;

use super::extent::ExtentId;
use super::notes::Notes;
use super::owner::MAX_EXTENTS;
use super::reference::{HeapFault, Reference};
use crate::error::RegionError;
use crate::in_place::View;
use crate::receiver::Received;
use crate::region::Handed;
use crate::slot::Body;
use crate::sys::OwnedFd;

/// Reads objects of one peer's heap.
#[derive(Debug)]
pub struct Borrower {
    /// In the order of their numbers.
    extents: Vec<(ExtentId, Arc<Handed>)>,
    /// How many bytes further extents may have.
    most_bytes: u64,
    returns: Arc<Returns>,
}

/// Where borrowed objects go when they are dropped, on whatever thread.
#[derive(Debug)]
struct Returns(Mutex<Pending>);

#[derive(Debug)]
struct Pending {
    notes: Notes,
    /// Below this, messages are done.
    done: PerLane<Sequence>,
    /// What each message lent us that was not given back.
    lent: HashMap<(Lane, Sequence), Lent>,
    /// Dropped, but their message is not done: it may be read again, by us or after our death.
    waiting: Vec<(Lane, Sequence)>,
}

/// An object that one message lent us.
#[derive(Debug)]
struct Lent {
    reference: Reference,
    /// How often it is borrowed: more than once if its message was read again.
    borrowed: u32,
}

impl Pending {
    fn borrow(&mut self, message: (Lane, Sequence), reference: Reference) {
        let lent = self.lent.entry(message).or_insert(Lent {
            reference,
            borrowed: 0,
        });
        lent.borrowed += 1;
    }

    fn give_back(&mut self, message: (Lane, Sequence)) {
        let Some(lent) = self.lent.get_mut(&message) else {
            return;
        };
        lent.borrowed -= 1;
        if lent.borrowed > 0 {
            return;
        }
        if self.is_done(message) {
            self.note(message);
        } else {
            self.waiting.push(message);
        }
    }

    fn finish(&mut self, lane: Lane, up_to: Sequence) {
        self.done[lane] = self.done[lane].max(up_to);
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain(|&message| {
            let done = self.is_done(message);
            if done {
                self.note(message);
            }
            !done
        });
        self.waiting = waiting;
    }

    fn is_done(&self, (lane, sequence): (Lane, Sequence)) -> bool {
        sequence < self.done[lane]
    }

    /// Notes what a message lent us, unless it is borrowed again.
    fn note(&mut self, message: (Lane, Sequence)) {
        if self
            .lent
            .get(&message)
            .is_some_and(|lent| lent.borrowed == 0)
            && let Some(lent) = self.lent.remove(&message)
        {
            self.notes.put(&lent.reference);
        }
    }
}

impl Returns {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Borrower {
    /// Borrows what the peer lends against these notes, from extents of at most `most_bytes` together:
    /// a peer may leave out pages, which then count as ours.
    #[must_use]
    pub fn new(notes: Notes, most_bytes: u64) -> Self {
        let pending = Pending {
            notes,
            done: PerLane::default(),
            lent: HashMap::new(),
            waiting: Vec::new(),
        };
        Self {
            extents: Vec::new(),
            most_bytes,
            returns: Arc::new(Returns(Mutex::new(pending))),
        }
    }

    /// A descriptor of the notes, for the owner of the heap.
    ///
    /// # Errors
    ///
    /// [`RegionError::System`] if this process has no descriptor left.
    pub fn share_notes(&self) -> Result<OwnedFd, RegionError> {
        self.returns.pending().notes.share()
    }

    /// Takes an extent that the peer handed over; see [`Handed::open`]. The peer sends it before the
    /// first reference into it, so read the side socket before [`Self::resolve`], or after its
    /// [`HeapFault::UnknownExtent`].
    ///
    /// # Errors
    ///
    /// [`AdoptError`] if it is not fit to be read, or is one too many.
    pub fn adopt(&mut self, id: ExtentId, fd: &OwnedFd) -> Result<(), AdoptError> {
        let too_many = HeapFault::TooManyExtents { extent: id.get() };
        let Err(place) = self.find(id) else {
            return Err(too_many.into());
        };
        if self.extents.len() >= MAX_EXTENTS {
            return Err(too_many.into());
        }
        let handed = Handed::open(fd, self.most_bytes)?;
        self.most_bytes -= handed.len() as u64;
        self.extents.insert(place, (id, Arc::new(handed)));
        Ok(())
    }

    /// Gives up an extent that its owner took out of use. What is borrowed of it stays readable.
    pub fn forget(&mut self, id: ExtentId) {
        if let Ok(place) = self.find(id) {
            let (_, handed) = self.extents.remove(place);
            self.most_bytes += handed.len() as u64;
        }
    }

    /// Allows extents of so many bytes more.
    pub fn raise_budget(&mut self, bytes: u64) {
        self.most_bytes = self.most_bytes.saturating_add(bytes);
    }

    fn find(&self, id: ExtentId) -> Result<usize, usize> {
        self.extents.binary_search_by_key(&id, |&(id, _)| id)
    }

    /// Finds the object that a message refers to. `body` is the message's body.
    ///
    /// Once for each time that the message is read: an object that is never resolved is never given back.
    ///
    /// What it gives lies where it may; the bytes themselves can be changed by the peer at any time, as
    /// in any [`View`].
    ///
    /// # Errors
    ///
    /// [`HeapFault`] if there is no such object.
    pub fn resolve(&self, received: &Received, body: &[u8]) -> Result<Borrowed, HeapFault> {
        let reference = Reference::read_from_bytes(body).map_err(|_| HeapFault::NotAReference {
            len_bytes: body.len(),
        })?;
        let extent = reference.extent;
        let place = self
            .find(ExtentId(extent))
            .map_err(|_| HeapFault::UnknownExtent { extent })?;
        let handed = &self.extents[place].1;
        let (offset, len_bytes) = (reference.offset(), reference.len_bytes);
        let inside = offset
            .checked_add(len_bytes)
            .is_some_and(|end| end <= handed.len() as u64);
        if !inside {
            return Err(HeapFault::OutOfBounds {
                extent,
                offset,
                len_bytes,
            });
        }
        let message = (received.lane, received.sequence);
        self.returns.pending().borrow(message, reference);
        Ok(Borrowed {
            handed: Arc::clone(handed),
            at: offset as usize,
            len: len_bytes as usize,
            message,
            returns: Arc::clone(&self.returns),
        })
    }

    /// Says up to where messages of a lane are done: call it after each
    /// [`Receiver::finish`](crate::Receiver::finish). An object goes back to its owner when it is
    /// dropped *and* its message is done, because a message that is not done may be read again, by
    /// us or by our successor.
    pub fn finished(&self, lane: Lane, up_to: Sequence) {
        self.returns.pending().finish(lane, up_to);
    }
}

/// Why an extent was not taken.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// It is not fit to be read.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// It comes out of turn.
    #[error(transparent)]
    Fault(#[from] HeapFault),
}

/// An object of a peer's heap, readable until this is dropped.
#[derive(Debug)]
pub struct Borrowed {
    handed: Arc<Handed>,
    at: usize,
    len: usize,
    message: (Lane, Sequence),
    returns: Arc<Returns>,
}

impl Borrowed {
    /// Its bytes, to be copied or looked at one by one.
    #[must_use]
    #[inline]
    pub fn view(&self) -> View<'_> {
        View(Body::Arena {
            bytes: self.handed.memory().bytes(),
            at: self.at,
            len: self.len,
        })
    }

    /// How many bytes it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        self.returns.pending().give_back(self.message);
    }
}
