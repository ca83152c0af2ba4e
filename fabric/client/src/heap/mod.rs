//! Heap: objects of up to a gibibyte, lent from one domain to another of the same node.
//!
//! A message between services has at most 96 KiB and is copied. An object of a heap is filled in place,
//! and read in place by whoever it is lent to, until they drop it. Its memory comes in large *extents*,
//! and the memory manager of the node has allowed each: it is charged to the domain that owns the heap,
//! shows in `weft ps`, and is given back when the extent is taken out of use ([`Heap::shrink`]), when
//! the heap is dropped, or when its process dies.
//!
//! ```no_run
//! # use std::{path::Path, time::Duration};
//! use weft::Domain;
//! use weft::heap::{Limits, SideListener, SideSocket};
//!
//! # fn owner(domain: Domain, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
//! // One process owns:
//! let mut heap = domain.heap(Limits { budget_bytes: 256 << 20, ..Limits::default() });
//! let grown = heap.grow(100 << 20, None)?; // asks the memory manager, ahead of need
//! println!("{} bytes, {}", grown.bytes, grown.outcome);
//! let listener = SideListener::bind(path)?;
//! let them = heap.admit(listener.accept()?)?;
//! let mut loan = heap.loan_slice::<u64>((100 << 20) / 8)?;
//! loan.fill(7);
//! heap.lend(them, loan).map_err(|unlent| unlent.error)?;
//! # Ok(()) }
//! # fn borrower(domain: Domain, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
//! // The other borrows:
//! let mut borrower = domain.borrow_from(SideSocket::connect(path)?, 256 << 20)?;
//! if let Some(object) = borrower.receive(Duration::from_secs(10))? {
//!     let words = object.view().words().ok_or("whole words")?;
//!     println!("{} words, the first is {:?}", words.len(), words.get(0));
//! } // given back
//! # Ok(()) }
//! ```
//!
//! The two are connected by a socket that they have between them: of a path ([`SideListener`] takes
//! processes of its user alone), or a pair of which one has inherited an end. No capability is checked,
//! and the node is not in between: an object is lent to whoever holds the other end. Whoever is admitted can read all
//! extents of the heap, so what one borrower may not see goes into a heap for another.
//!
//! No loan and no message asks the memory manager. [`Heap::grow`] does, and waits for its answer:
//! call it ahead, and not in a handler of a service. A heap never grows by itself: it has no message that
//! could wait, and only its owner knows what comes next. [`Heap::loan`] on a full one says by how much to
//! grow.
//!
//! What was given back to the memory manager is free once the borrowers have let go of it too: an honest
//! one does as soon as it looks for the next object and has dropped those that it holds. The hard limit
//! for one that does not is the memory cgroup's.
//!
//! To read: `owner`, `borrower`; how objects lie in memory is `weft_local_ipc::heap`.

mod borrower;
mod owner;
#[cfg(test)]
mod tests;

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use weft_local_ipc::{Geometry, PeerHalf, RegionError, SideError};
use weft_types::RefusalCode;

pub use self::borrower::Borrower;
pub use self::owner::{Grown, Heap, Unlent};
#[doc(no_inline)]
pub use weft_local_ipc::heap::{Borrowed, BorrowerId, Gone, Limits, Loan};
#[doc(no_inline)]
pub use weft_local_ipc::numa::{NumaNode, Outcome};
#[doc(no_inline)]
pub use weft_local_ipc::{SideListener, SideSocket, View, Words};

use crate::error::Error;

/// How long one side waits for the first words of the other.
const FIRST_WORDS: Duration = Duration::from_secs(10);

/// The queue between an owner and a borrower carries references alone: 128 KiB for each side.
const QUEUE: Geometry = Geometry {
    slots: 512,
    slot_bytes: 64,
    arena_bytes: 0,
    growth: 0,
};

/// What goes over the socket between owner and borrower.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
enum Word {
    /// The borrower's first: its half of the queue and its notes beside it.
    Borrows,
    /// The owner's first: its half.
    Lends,
    /// An extent, before the first object in it; its descriptor is beside it.
    Extent(u32),
    /// An extent is out of use.
    Forget(u32),
}

impl Word {
    /// Sends it if the other side has room, and tells whether it had.
    fn try_send(self, side: &SideSocket, beside: &[OwnedFd]) -> Result<bool, Error> {
        let bytes = postcard::to_stdvec(&self)
            .map_err(|error| Error::new(RefusalCode::Internal, error.to_string()))?;
        let beside: Vec<_> = beside.iter().map(AsFd::as_fd).collect();
        Ok(side.try_send(&bytes, &beside)?)
    }

    fn read((bytes, beside): (Vec<u8>, Vec<OwnedFd>)) -> Result<(Self, Vec<OwnedFd>), Error> {
        match postcard::take_from_bytes(&bytes) {
            Ok((word, [])) => Ok((word, beside)),
            _ => Err(nonsense()),
        }
    }

    /// Waits for the first word, which has to be this one, with so many descriptors beside it.
    fn expect<const N: usize>(self, side: &SideSocket) -> Result<[OwnedFd; N], Error> {
        let packet = side.receive(Some(FIRST_WORDS))?.ok_or_else(|| {
            let text = format!(
                "the other side said nothing for {} s: one end has to `admit`, the other to `borrow_from`",
                FIRST_WORDS.as_secs()
            );
            Error::new(RefusalCode::DeadlineExceeded, text)
        })?;
        let (word, beside) = Self::read(packet)?;
        let beside = beside.try_into().map_err(|_| nonsense())?;
        if word == self {
            Ok(beside)
        } else {
            Err(nonsense())
        }
    }
}

/// The other side does not keep to this module's words.
fn nonsense() -> Error {
    Error::new(
        RefusalCode::PeerFault,
        "the other side of this socket neither lends nor borrows: it says something else",
    )
}

/// What the other side handed over is not what it has to be.
fn handed_over(error: &RegionError) -> Error {
    Error::new(
        RefusalCode::PeerFault,
        format!("what the other side handed over cannot be used: {error}"),
    )
}

/// Takes the other side's half of the queue.
fn open(half: OwnedFd) -> Result<PeerHalf, Error> {
    PeerHalf::open(half).map_err(|error| handed_over(&error))
}

impl From<SideError> for Error {
    fn from(error: SideError) -> Self {
        let code = match error {
            SideError::HungUp => RefusalCode::Closed,
            SideError::TooMuch => RefusalCode::PeerFault,
            SideError::Stuck | SideError::Crowded => RefusalCode::Busy,
            SideError::OutOfBounds | SideError::System(_) => RefusalCode::Internal,
        };
        Self::new(code, error.to_string())
    }
}
