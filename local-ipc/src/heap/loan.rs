//! Loans: objects that are being filled.
#![expect(unsafe_code, reason = "slices over a block that nobody else has")]

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::extent::Held;
use super::reference::Reference;

/// A `T` in shared memory that is not sent yet: filled in place, and consumed by
/// [`Heap::send`](super::Heap::send). Dropped, it goes back.
///
/// It can be filled on any thread. What is written into it may be read by the heap's borrowers at once,
/// sent or not.
pub struct Loan<T: ?Sized> {
    block: Block,
    content: PhantomData<fn() -> Box<T>>,
}

/// A block in use by us alone.
struct Block {
    held: Arc<Held>,
    reference: Reference,
    at: usize,
    len: usize,
    sent: bool,
}

impl Drop for Block {
    fn drop(&mut self) {
        if !self.sent {
            self.held.unsent.put(self.reference.object);
        }
    }
}

impl<T: ?Sized> Loan<T> {
    /// The caller has taken the block out of its accounts, and a `T` may lie there.
    pub(super) fn new(held: Arc<Held>, reference: Reference, len: usize) -> Self {
        let at = reference.offset() as usize;
        Self {
            block: Block {
                held,
                reference,
                at,
                len,
                sent: false,
            },
            content: PhantomData,
        }
    }

    /// How many bytes are sent.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.block.len
    }

    pub(super) fn reference(&self) -> &Reference {
        &self.block.reference
    }

    /// Whether it comes from the heap that these are of.
    pub(super) fn is_of(&self, unsent: &Arc<super::extent::Unused>) -> bool {
        Arc::ptr_eq(&self.block.held.unsent, unsent)
    }

    /// It was sent: its block is the borrower's until that gives it back.
    pub(super) fn sent(mut self) {
        self.block.sent = true;
    }
}

impl Block {
    fn bytes(&self) -> &[u8] {
        // SAFETY: the heap gives out a block once, until this value is dropped or sent, and the
        // mapping is ours to write for as long as `held`. Borrowers only read. `self` is borrowed
        // shared, so nobody has the exclusive slice of `bytes_mut` meanwhile.
        unsafe { self.held.memory.shared_span(self.at, self.len) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; `self` is borrowed exclusively.
        unsafe { self.held.memory.span(self.at, self.len) }
    }
}

impl<T: ?Sized + FromBytes + KnownLayout + Immutable> Deref for Loan<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        T::ref_from_bytes(self.block.bytes())
            .expect("a loan is made with the length of its content")
    }
}

impl<T: ?Sized + FromBytes + IntoBytes + KnownLayout + Immutable> DerefMut for Loan<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        T::mut_from_bytes(self.block.bytes_mut())
            .expect("a loan is made with the length of its content")
    }
}

impl<T: ?Sized> fmt::Debug for Loan<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loan")
            .field("reference", &self.block.reference)
            .finish_non_exhaustive()
    }
}
