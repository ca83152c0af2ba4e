//! The borrower's side: takes objects as they come, and reads them where they lie.

use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_local_ipc::heap::{self, AdoptError, Borrowed, ExtentId, HeapFault, MAX_EXTENTS, Notes};
use weft_local_ipc::{
    OwnHalf, Payload, Received, Receiver, RegionError, SideError, SideSocket, Start,
};
use weft_types::RefusalCode;

use super::{QUEUE, Word, handed_over, nonsense, open};
use crate::domain::Domain;
use crate::error::Error;
use crate::room::{Lease, Room};

/// How many objects a borrower may hold. One more is not lent before it has dropped another.
const NOTES: u32 = 4096;

/// What the notes take, in bytes.
const NOTES_BYTES: u64 = 8 * NOTES as u64 + 4096;

/// How many words of the owner are read in a row: an honest one has no more to say at a time.
const MAX_WORDS: usize = 2 * MAX_EXTENTS;

/// How long a receiver sleeps at most before it looks whether the owner still lives.
const LOOK_AROUND: Duration = Duration::from_millis(20);

impl Domain {
    /// Borrows from who is at the other end of a socket, with [`Heap::admit`](super::Heap::admit), and
    /// waits up to 10 s for that. Extents of at most `most_bytes` together are taken: their owner is
    /// charged for them, unless it lies.
    ///
    /// # Errors
    ///
    /// `OverBudget` (168 KiB for queue and notes are charged to this domain); `DeadlineExceeded` and
    /// `Closed` if the owner does not come; `PeerFault` if it says something else.
    pub fn borrow_from(&self, side: SideSocket, most_bytes: u64) -> Result<Borrower, Error> {
        Borrower::connect(self.room(), side, most_bytes)
    }
}

/// Objects of another domain's heap, as they are lent to this one. Owned by one thread at a time;
/// the objects may go to any.
#[derive(Debug)]
pub struct Borrower {
    receiver: Receiver,
    objects: heap::Borrower,
    side: SideSocket,
    body: Vec<u8>,
    /// An owner that broke the rules is not listened to again.
    fault: Option<Error>,
    /// What our half of the queue and our notes take of the budget.
    _room: Lease,
}

impl Borrower {
    pub(crate) fn connect(
        room: &Arc<Room>,
        side: SideSocket,
        most_bytes: u64,
    ) -> Result<Self, Error> {
        let room = room.take(QUEUE.base_bytes() + NOTES_BYTES)?;
        let own = OwnHalf::create(QUEUE, Start::default())?;
        let objects = heap::Borrower::new(Notes::create(NOTES)?, most_bytes);
        let beside = [own.share()?, objects.share_notes()?];
        if !Word::Borrows.try_send(&side, &beside)? {
            return Err(nonsense());
        }
        let [half] = Word::Lends.expect(&side)?;
        let (_, receiver, _) = weft_local_ipc::connect(own, open(half)?)?;
        Ok(Self {
            receiver,
            objects,
            side,
            body: Vec::new(),
            fault: None,
            _room: room,
        })
    }

    /// Waits for the next object. `None` if none has come in time. It goes back when it is dropped.
    ///
    /// # Errors
    ///
    /// `Closed` once the owner is gone and all that it lent was received (that can be read on);
    /// `OverBudget` if it has handed over more than this borrower takes; `PeerFault` if it broke the
    /// rules. None of them ends.
    pub fn receive(&mut self, timeout: Duration) -> Result<Option<Borrowed>, Error> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        let received = self.next(Instant::now().checked_add(timeout));
        if let Err(error) = &received {
            self.fault = Some(error.clone());
        }
        received
    }

    fn next(&mut self, deadline: Option<Instant>) -> Result<Option<Borrowed>, Error> {
        loop {
            // Looked at first: what a dead one has sent is all there then.
            let gone = self.side.hung_up();
            if let Some(received) = self.receiver.try_receive(&mut self.body)? {
                return self.take(&received).map(Some);
            }
            self.listen()?;
            if gone {
                return Err(Error::new(
                    RefusalCode::Closed,
                    "the owner of the heap is gone: what it lent can be read on, and nothing comes",
                ));
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(None);
            }
            let nap = left.map_or(LOOK_AROUND, |left| left.min(LOOK_AROUND));
            let _ = self.receiver.wait(Some(nap));
        }
    }

    /// Finds what a message refers to. The message is done with that: nobody reads it again for us.
    fn take(&mut self, received: &Received) -> Result<Borrowed, Error> {
        if received.payload != Payload::Reference {
            return Err(nonsense());
        }
        let borrowed = match self.objects.resolve(received, &self.body) {
            Err(HeapFault::UnknownExtent { .. }) => {
                self.listen()?;
                self.objects.resolve(received, &self.body)
            }
            resolved => resolved,
        };
        let borrowed = borrowed.map_err(heap::HeapError::Fault)?;
        let up_to = received.sequence.next();
        self.receiver.finish(received.lane, up_to);
        self.objects.finished(received.lane, up_to);
        Ok(borrowed)
    }

    /// Takes in what the owner has said of its extents.
    fn listen(&mut self) -> Result<(), Error> {
        for _ in 0..MAX_WORDS {
            let packet = match self.side.try_receive() {
                Ok(Some(packet)) => packet,
                Ok(None) | Err(SideError::HungUp) => break,
                Err(error) => return Err(error.into()),
            };
            match Word::read(packet)? {
                (Word::Extent(number), beside) => {
                    let [extent] = &beside[..] else {
                        return Err(nonsense());
                    };
                    self.objects.adopt(ExtentId::new(number), extent)?;
                }
                (Word::Forget(number), _) => self.objects.forget(ExtentId::new(number)),
                _ => return Err(nonsense()),
            }
        }
        Ok(())
    }
}

impl From<AdoptError> for Error {
    fn from(error: AdoptError) -> Self {
        match error {
            AdoptError::Region(RegionError::Size { bytes }) => Self::new(
                RefusalCode::OverBudget,
                format!(
                    "an extent of {bytes} bytes is more than this borrower takes: borrow with more `most_bytes`"
                ),
            ),
            AdoptError::Region(error) => handed_over(&error),
            AdoptError::Fault(fault) => heap::HeapError::Fault(fault).into(),
        }
    }
}
