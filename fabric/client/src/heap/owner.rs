//! The owner's side: extents that the memory manager has allowed, and who borrows from them.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use weft_local_ipc::heap::{
    self, BorrowerId, ExtentId, Gone, HeapError, Limits, Loan, PeerNotes, block_bytes,
};
use weft_local_ipc::numa::{NumaNode, Outcome, Placement};
use weft_local_ipc::{Header, OwnHalf, Sender, SideSocket, Start};
use weft_types::{Lane, MessageKind, RefusalCode, Sequence, TypeIndex};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{QUEUE, Word, handed_over, open};
use crate::domain::Domain;
use crate::error::Error;
use crate::room::{Lease, Room};

/// What a message has that refers to an object.
const HEADER: Header = Header {
    kind: MessageKind::Tell,
    type_index: TypeIndex::new(0),
    correlation: Sequence::ZERO,
    has_descriptors: false,
};

/// What an extent begins and ends with, in bytes.
const PAGE_BYTES: u64 = 4096;

impl Domain {
    /// A heap of this domain, with no memory yet. `limits.budget_bytes` is what it may take of the
    /// domain's budget.
    #[must_use]
    pub fn heap(&self, limits: Limits) -> Heap {
        Heap::new(self.room(), limits)
    }
}

/// Objects that this domain lends to others of its node. Owned by one thread at a time.
///
/// When it is dropped, all of its memory is given back. A loan that is still being filled then keeps
/// the memory of its extent, which nobody is charged for, until it is dropped too.
#[derive(Debug)]
pub struct Heap {
    room: Arc<Room>,
    limits: Limits,
    // Dropped before the leases: what is given back is free.
    heap: heap::Heap,
    /// All extents that there are, with what each costs.
    leases: BTreeMap<ExtentId, Lease>,
    peers: HashMap<BorrowerId, Peer>,
    /// Counts changes of the extents.
    changes: u64,
}

/// What became of a growth.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Grown {
    /// How many bytes the heap has more, and the domain is charged with.
    pub bytes: u64,
    /// Whether they lie on the NUMA node that was asked for, and if not, why.
    pub outcome: Outcome,
    /// How many bytes of its budget the domain uses now.
    pub used_bytes: u64,
    /// Its budget, in bytes.
    pub budget_bytes: u64,
    /// Whether the system enforces the budget. If not, it is kept by those who keep to it.
    pub enforced: bool,
}

/// A loan that was not lent, and why.
#[derive(Debug)]
pub struct Unlent<T: ?Sized> {
    /// Why. `Busy`: it may work later.
    pub error: Error,
    /// To try again with, or to drop.
    pub loan: Loan<T>,
}

impl<T: ?Sized> fmt::Display for Unlent<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

/// One borrower.
#[derive(Debug)]
struct Peer {
    sender: Sender,
    side: SideSocket,
    /// Extents that it was handed and not told to forget.
    told: Vec<ExtentId>,
    /// As of which change it knows the extents.
    changes: u64,
    /// What our half of the queue to it takes of the budget.
    _room: Lease,
}

impl Heap {
    pub(crate) fn new(room: &Arc<Room>, limits: Limits) -> Self {
        Self {
            room: Arc::clone(room),
            limits,
            heap: heap::Heap::new(limits),
            leases: BTreeMap::new(),
            peers: HashMap::new(),
            changes: 0,
        }
    }

    /// Makes room for an object of `bytes`, or for many that have so much together and half of it to
    /// spare, in a new extent of at least [`Limits::extent_bytes`], placed on a NUMA node if one is named.
    ///
    /// Asks the memory manager and waits for its answer, which is not the way of a message: do it ahead.
    /// Taking the pages takes 0.2 s for a GiB. A node without so much free is no error: see
    /// [`Grown::outcome`].
    ///
    /// # Errors
    ///
    /// `OverBudget`, by the domain's budget or the heap's own limits; `Rejected` for a NUMA node that
    /// the machine has not or the process may not use; `Internal` if the machine has no memory;
    /// `Unreachable` and `DeadlineExceeded` if the node does not answer. Nothing is charged then.
    pub fn grow(&mut self, bytes: u64, numa_node: Option<NumaNode>) -> Result<Grown, Error> {
        let bytes = block_bytes(bytes)
            .unwrap_or(bytes)
            .max(self.limits.extent_bytes)
            .checked_next_multiple_of(PAGE_BYTES)
            .ok_or_else(|| {
                Error::new(RefusalCode::TooLarge, format!("{bytes} bytes are too many"))
            })?;
        let left = self.heap.budget_left();
        if bytes > left {
            return Err(HeapError::Budget { bytes, left }.into());
        }
        let (lease, granted) = self.room.take_extent(bytes, numa_node.map(NumaNode::get))?;
        let placement = granted
            .numa_node
            .and_then(NumaNode::new)
            .map_or(Placement::Anywhere, Placement::Node);
        let (extent, outcome) = self.heap.extend(bytes, placement)?;
        self.leases.insert(extent, lease);
        self.changed();
        Ok(Grown {
            bytes,
            outcome,
            used_bytes: granted.used_bytes,
            budget_bytes: granted.budget_bytes,
            enforced: granted.enforced,
        })
    }

    /// Takes extents out of use that hold no object, and gives them back to the memory manager. Gives
    /// how many bytes that are. Waits for nobody.
    pub fn shrink(&mut self) -> u64 {
        let gone = self.heap.shrink();
        let leases = gone.iter().filter_map(|extent| self.leases.remove(extent));
        let bytes = leases.map(|lease| lease.bytes()).sum();
        self.changed();
        bytes
    }

    /// How many bytes of the domain's budget its extents take.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.leases.values().map(Lease::bytes).sum()
    }

    /// A `T` to be filled. It holds what an earlier object left there, or zeros.
    ///
    /// # Errors
    ///
    /// `Busy` if there is no room: wait for borrowers, or [`Self::grow`].
    pub fn loan<T>(&mut self) -> Result<Loan<T>, Error>
    where
        T: FromBytes + IntoBytes + KnownLayout + Immutable,
    {
        Ok(self.heap.loan()?)
    }

    /// `count` values of a `T` to be filled, in the state of [`Self::loan`].
    ///
    /// # Errors
    ///
    /// As [`Self::loan`]; `TooLarge` for more than a gibibyte.
    pub fn loan_slice<T>(&mut self, count: usize) -> Result<Loan<[T]>, Error>
    where
        T: FromBytes + IntoBytes + KnownLayout + Immutable,
    {
        Ok(self.heap.loan_slice(count)?)
    }

    /// Takes in who is at the other end of a socket, with [`Domain::borrow_from`]. Waits up to 10 s for
    /// its first words.
    ///
    /// # Errors
    ///
    /// `OverBudget` (a queue of 132 KiB is charged to this domain, and one to theirs);
    /// `DeadlineExceeded` and `Closed` if it does not come; `PeerFault` if it says something else.
    pub fn admit(&mut self, side: SideSocket) -> Result<BorrowerId, Error> {
        let [half, notes] = Word::Borrows.expect(&side)?;
        let room = self.room.take(QUEUE.base_bytes())?;
        let own = OwnHalf::create(QUEUE, Start::default())?;
        let notes = PeerNotes::open(&notes).map_err(|error| handed_over(&error))?;
        let shared = own.share()?;
        let (sender, _, _) = weft_local_ipc::connect(own, open(half)?)?;
        if !Word::Lends.try_send(&side, &[shared])? {
            return Err(not_read());
        }
        let borrower = self.heap.admit(notes);
        let peer = Peer {
            sender,
            side,
            told: Vec::new(),
            changes: 0,
            _room: room,
        };
        self.peers.insert(borrower, peer);
        Ok(borrower)
    }

    /// Lends a borrower what was filled. It has it until it drops it. Waits for nobody and asks nobody.
    ///
    /// # Errors
    ///
    /// [`Unlent`] gives the loan back: `Busy` if the borrower holds too many objects or does not
    /// read; `Closed` if it is gone; `Rejected` if it is not known or the loan is of another heap;
    /// `PeerFault` if it broke the rules. After the last three [`Self::dismiss`] it.
    pub fn lend<T: ?Sized>(&mut self, to: BorrowerId, loan: Loan<T>) -> Result<(), Unlent<T>> {
        let Some(peer) = self.peers.get_mut(&to) else {
            let error = HeapError::NoSuchBorrower.into();
            return Err(Unlent { error, loan });
        };
        if let Err(error) = peer.tell(&self.heap, &self.leases, self.changes) {
            return Err(Unlent { error, loan });
        }
        let sent = self
            .heap
            .send(to, &mut peer.sender, Lane::NORMAL, HEADER, loan);
        sent.map(|_| ()).map_err(|unsent| Unlent {
            error: unsent.error.into(),
            loan: unsent.loan,
        })
    }

    /// Whether a borrower has closed its end, or is dead. An object that was lent to it meanwhile is
    /// its own until it is dismissed.
    #[must_use]
    pub fn has_hung_up(&self, borrower: BorrowerId) -> bool {
        let peer = self.peers.get(&borrower);
        peer.is_none_or(|peer| peer.side.hung_up())
    }

    /// Takes back all that a borrower holds, and lends to it no more. [`Gone::Dead`] only of a process
    /// that is known to have ended; one that lives may still read ([`Gone::Left`]): nothing new goes into
    /// the extents that it can see, so grow afterwards.
    pub fn dismiss(&mut self, borrower: BorrowerId, gone: Gone) {
        self.heap.dismiss(borrower, gone);
        self.peers.remove(&borrower);
        self.changed();
    }

    /// Takes back what borrowers have dropped. A loan does so itself where it needs to.
    ///
    /// # Errors
    ///
    /// `PeerFault` with a borrower that claims to have dropped what it was not lent, each time until it
    /// is dismissed.
    pub fn collect(&mut self) -> Result<(), (BorrowerId, Error)> {
        let collected = self.heap.collect();
        collected.map_err(|(who, fault)| (who, HeapError::Fault(fault).into()))
    }

    /// How many objects are being filled or lent, as far as borrowers have told ([`Self::collect`]).
    #[must_use]
    pub fn objects_out(&self) -> usize {
        self.heap.objects_out()
    }

    /// The extents have changed: whoever reads is told now, others before they are lent something.
    fn changed(&mut self) {
        self.changes += 1;
        for peer in self.peers.values_mut() {
            if let Err(error) = peer.tell(&self.heap, &self.leases, self.changes) {
                tracing::debug!(%error, "a borrower does not know the extents yet");
            }
        }
    }
}

impl Peer {
    /// Tells the borrower of what has changed since it was told last.
    fn tell(
        &mut self,
        heap: &heap::Heap,
        leases: &BTreeMap<ExtentId, Lease>,
        changes: u64,
    ) -> Result<(), Error> {
        if self.changes == changes {
            return Ok(());
        }
        // First, for what it takes is bounded.
        while let Some(place) = self.told.iter().position(|told| !leases.contains_key(told)) {
            if !Word::Forget(self.told[place].get()).try_send(&self.side, &[])? {
                return Err(not_read());
            }
            self.told.swap_remove(place);
        }
        for extent in heap.extents().filter(|extent| leases.contains_key(extent)) {
            if self.told.contains(&extent) {
                continue;
            }
            let Some(shared) = heap.share(extent) else {
                continue;
            };
            if !Word::Extent(extent.get()).try_send(&self.side, &[shared?])? {
                return Err(not_read());
            }
            self.told.push(extent);
        }
        self.changes = changes;
        Ok(())
    }
}

fn not_read() -> Error {
    Error::new(
        RefusalCode::Busy,
        "the borrower does not read what it is told of the heap: lend later, or dismiss it",
    )
}
