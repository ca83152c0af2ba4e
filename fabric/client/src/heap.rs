//! A heap whose extents the memory manager has allowed: objects up to a GiB that are lent to a peer.
//!
//! What a heap does is told in [`weft_local_ipc::heap`]; here is who allows it memory. For each extent
//! the memory manager is asked, with its size and its NUMA node. The room is in use for as long as the
//! extent is part of the heap; what a dead process had in use the node frees by itself.
//!
//! The channel, and how descriptors of extents get to the borrower, are the caller's.

use std::collections::HashMap;
use std::sync::Arc;

use rustix::fd::OwnedFd;
use weft_local_ipc::heap::{
    self, BorrowerId, Broadcast, ExtentId, Gone, HeapError, HeapFault, Limits, Loan, PeerNotes,
    Unsent,
};
use weft_local_ipc::numa::{NumaNode, Outcome, Placement};
use weft_local_ipc::{Header, RegionError, Sender};
use weft_types::{Lane, PerLane, RefusalCode, Sequence};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::error::Error;
use crate::room::{Lease, Room};

/// What an extent's size is a multiple of, in bytes.
const PAGE_BYTES: u64 = 4096;

/// A heap of this domain; made by [`Domain::heap`](crate::Domain::heap).
///
/// Dropped, it gives all of its room back. A loan that outlives it keeps its extent mapped, uncounted.
#[derive(Debug)]
pub struct Heap {
    // Before the leases: memory is unmapped first, then its room is given back.
    objects: heap::Heap,
    leases: HashMap<ExtentId, Lease>,
    room: Arc<Room>,
    least_bytes: u64,
}

impl Heap {
    pub(crate) fn new(room: Arc<Room>, objects: u32) -> Self {
        let limits = Limits {
            // Raised by what is granted.
            budget_bytes: 0,
            objects,
            ..Limits::default()
        };
        Self {
            objects: heap::Heap::new(limits),
            leases: HashMap::new(),
            room,
            least_bytes: limits.extent_bytes,
        }
    }

    /// Makes one more extent, for objects of up to `bytes` bytes, on a NUMA node or, without one, where
    /// the calling thread runs. Says whether its memory lies there, or why not. It has 4 MiB at least,
    /// and what an object of that size takes: up to a quarter more ([`heap::block_bytes`]).
    ///
    /// Asks the memory manager and waits for it: do it ahead, and in a service before it serves. Hand
    /// the extent to each borrower ([`Self::share`]) before a message that refers to it.
    ///
    /// # Errors
    ///
    /// `OverBudget`; `Rejected` if the machine has no such NUMA node, or the heap too many extents;
    /// `Internal` if the machine has no such memory; `Unreachable` and `DeadlineExceeded` if the node
    /// does not answer. Nothing is charged then.
    pub fn grow(
        &mut self,
        bytes: u64,
        numa_node: Option<NumaNode>,
    ) -> Result<(ExtentId, Outcome), Error> {
        // As the heap does it, so that what is charged is what is taken.
        let bytes = heap::block_bytes(bytes)
            .unwrap_or(bytes)
            .max(self.least_bytes)
            .checked_next_multiple_of(PAGE_BYTES)
            .unwrap_or(u64::MAX);
        let lease = self.room.take_extent(bytes, numa_node.map(NumaNode::get))?;
        let free = self.objects.budget_left();
        self.objects.raise_budget(bytes.saturating_sub(free));
        let placement = numa_node.map_or(Placement::Home, Placement::Node);
        let (id, outcome) = self.objects.extend(bytes, placement).map_err(not_made)?;
        self.leases.insert(id, lease);
        Ok((id, outcome))
    }

    /// Drops extents that hold nothing, and gives their room back. Returns which, to tell borrowers
    /// ([`Borrower::forget`](heap::Borrower::forget)).
    pub fn shrink(&mut self) -> Vec<ExtentId> {
        let dropped = self.objects.shrink();
        for id in &dropped {
            self.leases.remove(id);
        }
        dropped
    }

    /// How much room its extents take, in bytes.
    #[must_use]
    pub fn charged_bytes(&self) -> u64 {
        self.leases.values().map(Lease::bytes).sum()
    }

    /// As [`heap::Heap::share`].
    ///
    /// # Errors
    ///
    /// [`RegionError::System`] if this process has no descriptor left.
    pub fn share(&self, id: ExtentId) -> Option<Result<OwnedFd, RegionError>> {
        self.objects.share(id)
    }

    /// As [`heap::Heap::extents`].
    pub fn extents(&self) -> impl Iterator<Item = ExtentId> {
        self.objects.extents()
    }

    /// As [`heap::Heap::objects_out`].
    #[must_use]
    pub fn objects_out(&self) -> usize {
        self.objects.objects_out()
    }

    /// As [`heap::Heap::loan`].
    ///
    /// # Errors
    ///
    /// [`HeapError::Full`], which says how much to [`Self::grow`] by, or [`HeapError::TooManyObjects`].
    #[inline]
    pub fn loan<T: FromBytes + IntoBytes + KnownLayout + Immutable>(
        &mut self,
    ) -> Result<Loan<T>, HeapError> {
        self.objects.loan()
    }

    /// As [`heap::Heap::loan_slice`].
    ///
    /// # Errors
    ///
    /// As [`Self::loan`], and [`HeapError::TooLarge`].
    #[inline]
    pub fn loan_slice<T: FromBytes + IntoBytes + KnownLayout + Immutable>(
        &mut self,
        count: usize,
    ) -> Result<Loan<[T]>, HeapError> {
        self.objects.loan_slice(count)
    }

    /// As [`heap::Heap::send`].
    ///
    /// # Errors
    ///
    /// [`Unsent`] gives the loan back, and says why nothing was sent.
    #[inline]
    pub fn send<T: ?Sized>(
        &mut self,
        borrower: BorrowerId,
        sender: &mut Sender,
        lane: Lane,
        header: Header,
        loan: Loan<T>,
    ) -> Result<Sequence, Unsent<T>> {
        self.objects.send(borrower, sender, lane, header, loan)
    }

    /// As [`heap::Heap::broadcast`].
    #[inline]
    pub fn broadcast<'a, T: ?Sized>(
        &mut self,
        to: impl IntoIterator<Item = (BorrowerId, &'a mut Sender)>,
        lane: Lane,
        header: Header,
        loan: Loan<T>,
    ) -> Broadcast<T> {
        self.objects.broadcast(to, lane, header, loan)
    }

    /// As [`heap::Heap::admit`].
    pub fn admit(&mut self, notes: PeerNotes) -> BorrowerId {
        self.objects.admit(notes)
    }

    /// As [`heap::Heap::dismiss`].
    pub fn dismiss(&mut self, borrower: BorrowerId, gone: Gone) {
        self.objects.dismiss(borrower, gone);
    }

    /// As [`heap::Heap::succeed`].
    ///
    /// # Errors
    ///
    /// [`HeapError::NoSuchBorrower`].
    pub fn succeed(
        &mut self,
        borrower: BorrowerId,
        notes: PeerNotes,
        from: &PerLane<Sequence>,
    ) -> Result<(), HeapError> {
        self.objects.succeed(borrower, notes, from)
    }

    /// As [`heap::Heap::collect`].
    ///
    /// # Errors
    ///
    /// The first borrower that noted what it does not hold.
    pub fn collect(&mut self) -> Result<(), (BorrowerId, HeapFault)> {
        self.objects.collect()
    }
}

/// Why an extent that was granted could not be made.
fn not_made(error: HeapError) -> Error {
    match error {
        HeapError::Region(error) => error.into(),
        error => Error::new(RefusalCode::Rejected, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::room::tests::{manage, managed, room};

    const MIB: u64 = 1 << 20;

    #[test]
    fn an_extent_is_charged_as_it_is_made_and_its_room_given_back_when_it_is_shrunk_away() {
        let (room, manager) = room();
        let mut heap = Heap::new(room, 16);
        assert!(matches!(heap.loan::<u64>(), Err(HeapError::Full { .. })));
        let (_, mut manager, mut left) = managed(manager, 16 * MIB, || {
            heap.grow(1, None).unwrap();
            heap.grow(5 * MIB + 1, None).unwrap();
        });
        let charged = 4 * MIB + 6 * MIB;
        assert_eq!(heap.charged_bytes(), charged);
        assert_eq!(left, 16 * MIB - charged);

        // It lies in the last one.
        let loan = heap.loan::<u64>().unwrap();
        assert_eq!(heap.shrink().len(), 1);
        assert_eq!(manage(&mut manager, &mut left), 4 * MIB);
        drop(loan);
        drop(heap);
        assert_eq!(manage(&mut manager, &mut left), 6 * MIB);
        assert_eq!(left, 16 * MIB);
    }

    #[test]
    fn an_object_fits_the_extent_that_was_made_for_it() {
        let (room, manager) = room();
        managed(manager, 64 * MIB, || {
            let mut heap = Heap::new(room, 16);
            for object in [1, 4 * MIB + 1, 5 * MIB, 9 * MIB + 1, 15 * MIB] {
                heap.grow(object, None).unwrap();
                let _ = heap.loan_slice::<u8>(object as usize).unwrap();
                assert!(heap.charged_bytes() <= object + object / 4 + 4 * MIB);
                heap.shrink();
            }
        });
    }

    #[test]
    fn a_heap_takes_no_more_than_it_is_granted_and_can_grow_again_after_it_shrank() {
        let (room, manager) = room();
        let mut heap = Heap::new(room, 16);
        let (_, _, left) = managed(manager, 8 * MIB, || {
            for bytes in [8 * MIB + 1, u64::MAX] {
                let refused = heap.grow(bytes, None).unwrap_err();
                assert_eq!(refused.code(), RefusalCode::OverBudget);
            }
            for _ in 0..3 {
                heap.grow(8 * MIB, None).unwrap();
                let refused = heap.grow(1, None).unwrap_err();
                assert_eq!(refused.code(), RefusalCode::OverBudget);
                heap.shrink();
            }
        });
        assert_eq!(heap.charged_bytes(), 0);
        assert_eq!(heap.objects.budget_left(), 8 * MIB, "never added up");
        assert_eq!(left, 8 * MIB);
    }

    #[test]
    fn an_extent_that_cannot_be_made_is_not_charged() {
        let (room, manager) = room();
        let mut heap = Heap::new(room, 16);
        // More than a file can have.
        let (_, _, left) = managed(manager, u64::MAX, || {
            let error = heap.grow(u64::MAX, None).unwrap_err();
            assert_eq!(error.code(), RefusalCode::Internal, "{error}");
        });
        assert_eq!((heap.charged_bytes(), left), (0, u64::MAX));
    }
}
