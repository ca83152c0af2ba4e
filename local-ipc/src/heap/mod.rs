//! Heap: objects in shared memory that messages refer to, from some bytes to a gibibyte.
//!
//! A small body travels in its slot, a larger one in its lane's arena, and both are free when the
//! message is done. An object of a heap lives as long as whoever got it wants: it is filled in place
//! as a [`Loan`], goes out by a message that carries 24 bytes ([`Reference`]), and is read in place as
//! a [`Borrowed`] until that is dropped, in any order and on any thread.
//!
//! ```text
//!   owner                                            borrower
//!   Heap::extend ── descriptor, by the side socket ──> Borrower::adopt
//!   Heap::loan ─> Loan ─ fill ─> Heap::send ═ Reference, by the ring ═> Borrower::resolve ─> Borrowed
//!   Heap::collect <═ note, in the borrower's memory ═ drop, and the message is done
//! ```
//!
//! Memory comes in *extents*, a few large regions that the owner makes ahead and seals; none is made on
//! the way of a message. A heap is for one peer, or for the group of a broadcast: who maps its extents
//! can read all of them, a loan that is still being filled and one that is never sent included. So what
//! nobody else may read goes into another heap.
//!
//! The borrower cannot write the owner's memory, so it says in its own what it has finished with: a
//! [`Notes`] page, read by the owner when it allocates. All accounts (what is lent, to whom, of which
//! generation) are private memory of the owner. A borrower that says nonsense is told from it and
//! not heard again; one that says nothing holds what it was lent, against this heap's budget and no
//! other.
//!
//! The budget is what the heap was allowed ([`Limits::budget_bytes`], [`Heap::raise_budget`]): who allows
//! it is not this crate's business. The hard limit is that of the control group.

mod blocks;
mod borrower;
mod extent;
mod loan;
mod notes;
mod owner;
mod reference;

pub use self::blocks::block_bytes;
pub use self::borrower::{AdoptError, Borrowed, Borrower};
pub use self::extent::ExtentId;
pub use self::loan::Loan;
pub use self::notes::{MAX_NOTES, Notes, PeerNotes};
pub use self::owner::{
    BorrowerId, Broadcast, Gone, Heap, HeapError, Limits, MAX_EXTENTS, MAX_OBJECT_BYTES, Unsent,
};
pub use self::reference::{HeapFault, REFERENCE_BYTES, Reference};
