//! The owning side: gives out blocks, lends them with messages, and takes them back.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;

use rustix::fd::OwnedFd;
use weft_types::{Lane, PerLane, Sequence};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::blocks::{Blocks, Class, GRANULE_BYTES};
use super::extent::{Extent, ExtentId, Unused};
use super::loan::Loan;
use super::notes::PeerNotes;
use super::reference::{HeapFault, Reference};
use crate::error::{RegionError, SendError};
use crate::note_ring::{GENERATION_MASK, Note};
use crate::numa::{Outcome, Placement};
use crate::sender::Sender;
use crate::slot::Header;

/// The largest object: a gibibyte.
pub const MAX_OBJECT_BYTES: u64 = 1 << 30;

/// The most extents of a heap.
pub const MAX_EXTENTS: usize = 256;

/// The most notes that are read before a block is looked for: each frees a block, and the next loan
/// reads on.
const NOTES_A_LOAN: usize = 16;

/// What a heap may take.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Bytes of all extents together; more by [`Heap::raise_budget`].
    pub budget_bytes: u64,
    /// The least bytes of an extent, a multiple of 4096.
    pub extent_bytes: u64,
    /// Objects that are on loan or lent at a time.
    pub objects: u32,
}

impl Default for Limits {
    /// 64 MiB in extents of 4 MiB, 4,096 objects.
    fn default() -> Self {
        Self {
            budget_bytes: 64 << 20,
            extent_bytes: 4 << 20,
            objects: 4096,
        }
    }
}

/// Who borrows from a heap, as the heap counts them.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct BorrowerId(usize);

/// How a borrower ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Gone {
    /// Its process is dead: it reads nothing any more.
    Dead,
    /// It may still have our extents mapped. They are retired, so that it reads nothing new: whoever
    /// remains is lent from new ones.
    Left,
}

/// Why a heap has no object or no extent to give.
#[derive(Debug, thiserror::Error)]
pub enum HeapError {
    /// No block is free. Some may become free, or an extent of so many bytes would have one.
    #[error("no block is free: wait for borrowers, or extend the heap by {extent_bytes} bytes")]
    Full {
        /// What [`Heap::extend`] would have to be given.
        extent_bytes: u64,
    },
    /// As many objects as the heap may have are on loan or lent.
    #[error("{most} objects are out: wait for borrowers")]
    TooManyObjects {
        /// [`Limits::objects`].
        most: u32,
    },
    /// No object can be so large.
    #[error("an object of {len_bytes} bytes is too large, at most {MAX_OBJECT_BYTES} can be lent")]
    TooLarge {
        /// What was asked for.
        len_bytes: u64,
    },
    /// The budget does not allow another extent of so many bytes.
    #[error("an extent of {bytes} bytes would exceed the budget, of which {left} bytes are left")]
    Budget {
        /// What was asked for.
        bytes: u64,
        /// What the budget has left.
        left: u64,
    },
    /// The heap has [`MAX_EXTENTS`] of them.
    #[error("a heap cannot have more than {MAX_EXTENTS} extents: make larger ones")]
    TooManyExtents,
    /// The machine does not give the memory.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// There is no such borrower (any more).
    #[error("this heap has no such borrower")]
    NoSuchBorrower,
    /// A loan of another heap.
    #[error("the loan is of another heap")]
    Foreign,
    /// The borrower holds this very object.
    #[error("the borrower was sent this object already")]
    AlreadySent,
    /// Somebody who left can still read the loan's memory: fill a new one.
    #[error("a borrower that left can read this loan: copy it into a new one")]
    Retired,
    /// The borrower holds as many objects as it has notes for.
    #[error("the borrower holds {most} objects and can note no more: wait until it has finished")]
    TooManyLent {
        /// How many it has notes for.
        most: u32,
    },
    /// The borrower broke the rules.
    #[error(transparent)]
    Fault(#[from] HeapFault),
    /// The message was not sent.
    #[error(transparent)]
    Send(#[from] SendError),
}

/// A loan that could not be sent, and why.
#[derive(Debug)]
pub struct Unsent<T: ?Sized> {
    /// Why.
    pub error: HeapError,
    /// To try again with, or to drop.
    pub loan: Loan<T>,
}

/// What became of a broadcast.
#[derive(Debug)]
pub struct Broadcast<T: ?Sized> {
    /// How many were sent it.
    pub sent: usize,
    /// Who was not, and why. They may be sent it later if nobody was.
    pub failed: Vec<(BorrowerId, HeapError)>,
    /// The loan, if nobody was sent it.
    pub unsent: Option<Loan<T>>,
}

/// The objects that a process lends to one peer, or to a group. Owned by one thread at a time, so that
/// a loan takes no lock.
#[derive(Debug)]
pub struct Heap {
    limits: Limits,
    /// The last one is looked at first.
    extents: Vec<Extent>,
    next_extent: u32,
    /// Bytes of all extents.
    taken_bytes: u64,
    objects: Vec<Object>,
    /// Objects that are not out.
    free: Vec<u32>,
    borrowers: Vec<Option<Account>>,
    unsent: Arc<Unused>,
    one_thread: PhantomData<Cell<()>>,
}

/// Our account of one object.
#[derive(Debug)]
struct Object {
    extent: ExtentId,
    granule: u32,
    class: Class,
    /// Counts how often it was given out.
    generation: u32,
    /// How many borrowers hold it.
    holders: u32,
}

impl Object {
    /// A number that was never given out.
    const UNUSED: Self = Self {
        extent: ExtentId(0),
        granule: 0,
        class: Class::SMALLEST,
        generation: 0,
        holders: 0,
    };
}

/// Our account of one borrower.
#[derive(Debug)]
struct Account {
    notes: PeerNotes,
    /// For each object the message that lent it, if this borrower holds it.
    held: Vec<Option<(Lane, Sequence)>>,
    /// How many it holds.
    count: u32,
    fault: Option<HeapFault>,
}

impl Heap {
    /// A heap without an extent.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            extents: Vec::new(),
            next_extent: 0,
            taken_bytes: 0,
            objects: Vec::new(),
            free: Vec::new(),
            borrowers: Vec::new(),
            unsent: Arc::default(),
            one_thread: PhantomData,
        }
    }

    /// Makes an extent of `bytes` bytes, or of [`Limits::extent_bytes`] if that is more, in memory placed
    /// as asked, and says what became of that wish. The largest object in it may have less:
    /// [`block_bytes`](super::block_bytes) tells what it takes. Takes a while (0.2 s for a GiB): do it
    /// ahead.
    ///
    /// Hand it to each borrower ([`Self::share`]) before a message that refers to it.
    ///
    /// # Errors
    ///
    /// [`HeapError::Budget`], [`HeapError::TooManyExtents`], or [`HeapError::Region`] if there is no
    /// memory.
    pub fn extend(
        &mut self,
        bytes: u64,
        placement: Placement,
    ) -> Result<(ExtentId, Outcome), HeapError> {
        let bytes = bytes
            .max(self.limits.extent_bytes)
            .checked_next_multiple_of(4096)
            .ok_or(RegionError::Size { bytes })?;
        let left = self.budget_left();
        if bytes > left {
            return Err(HeapError::Budget { bytes, left });
        }
        if self.extents.len() >= MAX_EXTENTS {
            return Err(HeapError::TooManyExtents);
        }
        let id = ExtentId(self.next_extent);
        let unsent = Arc::clone(&self.unsent);
        let (extent, outcome) = Extent::create(id, bytes, placement, unsent)?;
        self.next_extent += 1;
        self.taken_bytes += bytes;
        self.extents.push(extent);
        Ok((id, outcome))
    }

    /// A descriptor of an extent, for a borrower. `None` if it is gone.
    ///
    /// # Errors
    ///
    /// [`RegionError::System`] if this process has no descriptor left.
    pub fn share(&self, id: ExtentId) -> Option<Result<OwnedFd, RegionError>> {
        let place = self.find(id)?;
        Some(self.extents[place].share())
    }

    /// The extents that new loans may come from: what a new borrower has to be handed.
    pub fn extents(&self) -> impl Iterator<Item = ExtentId> {
        self.extents
            .iter()
            .filter(|extent| !extent.retired)
            .map(|extent| extent.id)
    }

    /// Drops extents that hold nothing, and gives their bytes back to the budget. Returns which, to tell
    /// borrowers ([`Borrower::forget`](super::Borrower::forget)).
    pub fn shrink(&mut self) -> Vec<ExtentId> {
        self.take_unsent();
        self.read_all_notes();
        let mut dropped = Vec::new();
        self.extents.retain(|extent| {
            let unused = extent.blocks.is_unused();
            if unused {
                dropped.push((extent.id, extent.bytes()));
            }
            !unused
        });
        self.taken_bytes -= dropped.iter().map(|(_, bytes)| bytes).sum::<u64>();
        dropped.into_iter().map(|(id, _)| id).collect()
    }

    /// Allows so many bytes more.
    pub fn raise_budget(&mut self, bytes: u64) {
        self.limits.budget_bytes = self.limits.budget_bytes.saturating_add(bytes);
    }

    /// How many bytes further extents may have.
    #[must_use]
    pub fn budget_left(&self) -> u64 {
        self.limits.budget_bytes.saturating_sub(self.taken_bytes)
    }

    /// How many objects are on loan or lent.
    #[must_use]
    pub fn objects_out(&self) -> usize {
        self.objects.len() - self.free.len()
    }

    /// A `T` to be filled. It holds what an earlier object of this heap left there, or zeros.
    ///
    /// # Errors
    ///
    /// [`HeapError::Full`] or [`HeapError::TooManyObjects`].
    #[inline]
    pub fn loan<T: FromBytes + IntoBytes + KnownLayout + Immutable>(
        &mut self,
    ) -> Result<Loan<T>, HeapError> {
        const { assert!(align_of::<T>() <= GRANULE_BYTES as usize) };
        self.lend(size_of::<T>() as u64)
    }

    /// `count` values of a `T` to be filled, in the state of [`Self::loan`].
    ///
    /// # Errors
    ///
    /// As [`Self::loan`], and [`HeapError::TooLarge`].
    #[inline]
    pub fn loan_slice<T: FromBytes + IntoBytes + KnownLayout + Immutable>(
        &mut self,
        count: usize,
    ) -> Result<Loan<[T]>, HeapError> {
        const { assert!(align_of::<T>() <= GRANULE_BYTES as usize && size_of::<T>() > 0) };
        self.lend((count as u64).saturating_mul(size_of::<T>() as u64))
    }

    #[inline]
    fn lend<T: ?Sized>(&mut self, len_bytes: u64) -> Result<Loan<T>, HeapError> {
        if len_bytes > MAX_OBJECT_BYTES {
            return Err(HeapError::TooLarge { len_bytes });
        }
        let class = Class::of(len_bytes).ok_or(HeapError::TooLarge { len_bytes })?;
        let object = self.number()?;
        let Some((place, granule)) = self.place(class) else {
            self.free.push(object);
            return Err(HeapError::Full {
                extent_bytes: class.bytes().max(self.limits.extent_bytes),
            });
        };
        let extent = &self.extents[place];
        let account = &mut self.objects[object as usize];
        *account = Object {
            extent: extent.id,
            granule,
            class,
            generation: (account.generation + 1) & GENERATION_MASK,
            holders: 0,
        };
        let reference = Reference {
            object,
            generation: account.generation,
            extent: extent.id.0,
            granule,
            len_bytes,
        };
        let held = Arc::clone(&extent.held);
        Ok(Loan::new(held, reference, len_bytes as usize))
    }

    /// The number of an object that is not out.
    #[inline]
    fn number(&mut self) -> Result<u32, HeapError> {
        self.take_unsent();
        if self.free.is_empty() && self.objects.len() >= self.limits.objects as usize {
            self.read_all_notes();
        }
        if let Some(object) = self.free.pop() {
            return Ok(object);
        }
        if self.objects.len() >= self.limits.objects as usize {
            return Err(HeapError::TooManyObjects {
                most: self.limits.objects,
            });
        }
        self.objects.push(Object::UNUSED);
        Ok(self.objects.len() as u32 - 1)
    }

    /// A free block: one that was used lately if there is one, for it is likely still in a cache.
    #[inline]
    fn place(&mut self, class: Class) -> Option<(usize, u32)> {
        if let Some(found) = self.find_block(class, Blocks::reuse) {
            return Some(found);
        }
        for borrower in 0..self.borrowers.len() {
            self.read_notes(borrower, NOTES_A_LOAN);
        }
        self.find_block(class, Blocks::reuse)
            .or_else(|| self.find_block(class, Blocks::carve))
            .or_else(|| self.place_with_care(class))
    }

    /// Reads all notes there are, and makes extents that are wholly free one piece again.
    #[cold]
    fn place_with_care(&mut self, class: Class) -> Option<(usize, u32)> {
        self.read_all_notes();
        for extent in &mut self.extents {
            extent.blocks.merge();
        }
        self.find_block(class, Blocks::reuse)
            .or_else(|| self.find_block(class, Blocks::carve))
    }

    #[inline]
    fn find_block(
        &mut self,
        class: Class,
        take: fn(&mut Blocks, Class) -> Option<u32>,
    ) -> Option<(usize, u32)> {
        let usable = self.extents.iter_mut().enumerate().rev();
        usable
            .filter(|(_, extent)| !extent.retired)
            .find_map(|(place, extent)| Some((place, take(&mut extent.blocks, class)?)))
    }

    /// Sends a message that refers to the loan's content, with which the loan becomes the borrower's.
    ///
    /// # Errors
    ///
    /// [`Unsent`] gives the loan back, and says why nothing was sent.
    pub fn send<T: ?Sized>(
        &mut self,
        borrower: BorrowerId,
        sender: &mut Sender,
        lane: Lane,
        header: Header,
        loan: Loan<T>,
    ) -> Result<Sequence, Unsent<T>> {
        match self.send_one(borrower, sender, lane, header, &loan) {
            Ok(sequence) => {
                loan.sent();
                Ok(sequence)
            }
            Err(error) => Err(Unsent { error, loan }),
        }
    }

    /// Sends several borrowers a message that refers to one loan's content: one object, many
    /// references. It is free when all have given it back.
    pub fn broadcast<'a, T: ?Sized>(
        &mut self,
        to: impl IntoIterator<Item = (BorrowerId, &'a mut Sender)>,
        lane: Lane,
        header: Header,
        loan: Loan<T>,
    ) -> Broadcast<T> {
        let mut result = Broadcast {
            sent: 0,
            failed: Vec::new(),
            unsent: None,
        };
        for (borrower, sender) in to {
            match self.send_one(borrower, sender, lane, header, &loan) {
                Ok(_) => result.sent += 1,
                Err(error) => result.failed.push((borrower, error)),
            }
        }
        if result.sent > 0 {
            loan.sent();
        } else {
            result.unsent = Some(loan);
        }
        result
    }

    fn send_one<T: ?Sized>(
        &mut self,
        borrower: BorrowerId,
        sender: &mut Sender,
        lane: Lane,
        header: Header,
        loan: &Loan<T>,
    ) -> Result<Sequence, HeapError> {
        if !loan.is_of(&self.unsent) {
            return Err(HeapError::Foreign);
        }
        let reference = loan.reference();
        let place = self.find(ExtentId(reference.extent));
        if place.is_none_or(|place| self.extents[place].retired) {
            return Err(HeapError::Retired);
        }
        let account = self
            .borrowers
            .get_mut(borrower.0)
            .and_then(Option::as_mut)
            .ok_or(HeapError::NoSuchBorrower)?;
        if let Some(fault) = account.fault {
            return Err(fault.into());
        }
        let most = account.notes.capacity();
        if account.count >= most {
            return Err(HeapError::TooManyLent { most });
        }
        let object = reference.object as usize;
        if account.held[object].is_some() {
            return Err(HeapError::AlreadySent);
        }
        let sequence = sender.try_send_reference(lane, header, reference.as_bytes())?;
        account.held[object] = Some((lane, sequence));
        account.count += 1;
        self.objects[object].holders += 1;
        Ok(sequence)
    }

    /// Lends to one borrower more, which notes in these what it has finished with.
    pub fn admit(&mut self, notes: PeerNotes) -> BorrowerId {
        let account = Account::new(notes, self.limits.objects);
        let place = self.borrowers.iter().position(Option::is_none);
        let place = place.unwrap_or_else(|| {
            self.borrowers.push(None);
            self.borrowers.len() - 1
        });
        self.borrowers[place] = Some(account);
        BorrowerId(place)
    }

    /// Takes back all that a borrower holds, and lends to it no more.
    pub fn dismiss(&mut self, borrower: BorrowerId, gone: Gone) {
        let Some(account) = self.borrowers.get_mut(borrower.0).and_then(Option::take) else {
            return;
        };
        for (object, held) in account.held.iter().enumerate() {
            if held.is_some() {
                self.give_back(object);
            }
        }
        if gone == Gone::Left {
            self.extents
                .iter_mut()
                .for_each(|extent| extent.retired = true);
        }
    }

    /// The consumer swap: another process goes on where a borrower ended. Messages below `from` are
    /// over, so what they lent comes back; the rest the successor will read. Hand it our extents.
    ///
    /// The old one's notes are not read any more: it must be dead or frozen, as for the swap itself.
    pub fn succeed(
        &mut self,
        borrower: BorrowerId,
        notes: PeerNotes,
        from: &PerLane<Sequence>,
    ) -> Result<(), HeapError> {
        let old = self
            .borrowers
            .get_mut(borrower.0)
            .and_then(Option::as_mut)
            .ok_or(HeapError::NoSuchBorrower)?;
        let mut account = Account {
            held: std::mem::take(&mut old.held),
            count: old.count,
            ..Account::new(notes, 0)
        };
        let mut over = Vec::new();
        for (object, held) in account.held.iter_mut().enumerate() {
            if held.is_some_and(|(lane, sequence)| sequence < from[lane]) {
                *held = None;
                over.push(object);
            }
        }
        account.count -= over.len() as u32;
        *old = account;
        over.into_iter().for_each(|object| self.give_back(object));
        Ok(())
    }

    /// Takes back all that borrowers have noted.
    ///
    /// # Errors
    ///
    /// The first borrower that noted what it does not hold, each time until it is dismissed. What it
    /// holds stays lent.
    pub fn collect(&mut self) -> Result<(), (BorrowerId, HeapFault)> {
        self.take_unsent();
        self.read_all_notes();
        let mut accounts = self.borrowers.iter().enumerate();
        accounts
            .find_map(|(place, account)| Some((BorrowerId(place), account.as_ref()?.fault?)))
            .map_or(Ok(()), Err)
    }

    /// Takes back loans that were dropped.
    #[inline]
    fn take_unsent(&mut self) {
        let first = self.free.len();
        self.unsent.take(&mut self.free);
        for place in first..self.free.len() {
            self.free_block(self.free[place] as usize);
        }
    }

    #[cold]
    fn read_all_notes(&mut self) {
        for borrower in 0..self.borrowers.len() {
            self.read_notes(borrower, usize::MAX);
        }
    }

    /// Reads notes of a borrower, at most so many, and no more than it holds objects.
    #[inline]
    fn read_notes(&mut self, borrower: usize, most: usize) {
        for _ in 0..most {
            let Some(object) = self.borrowers[borrower]
                .as_mut()
                .and_then(|account| account.next_free(&self.objects))
            else {
                return;
            };
            self.give_back(object);
        }
    }

    /// One holder less of an object.
    fn give_back(&mut self, object: usize) {
        let account = &mut self.objects[object];
        account.holders -= 1;
        if account.holders == 0 {
            self.free_block(object);
            self.free.push(object as u32);
        }
    }

    fn free_block(&mut self, object: usize) {
        let Object {
            extent,
            class,
            granule,
            ..
        } = self.objects[object];
        if let Some(place) = self.find(extent) {
            self.extents[place].blocks.free(class, granule);
        }
    }

    fn find(&self, id: ExtentId) -> Option<usize> {
        self.extents
            .binary_search_by_key(&id, |extent| extent.id)
            .ok()
    }
}

impl Account {
    fn new(notes: PeerNotes, objects: u32) -> Self {
        Self {
            notes,
            held: vec![None; objects as usize],
            count: 0,
            fault: None,
        }
    }

    /// The next object that the borrower says it has finished with.
    #[inline]
    fn next_free(&mut self, objects: &[Object]) -> Option<usize> {
        // Without something to give back there is nothing to say.
        if self.count == 0 || self.fault.is_some() {
            return None;
        }
        let Note { object, generation } = self.notes.next()?;
        let place = object as usize;
        let known = objects
            .get(place)
            .is_some_and(|account| account.generation == generation);
        match self
            .held
            .get_mut(place)
            .filter(|held| known && held.is_some())
        {
            Some(held) => {
                *held = None;
                self.count -= 1;
                Some(place)
            }
            None => {
                self.fault = Some(HeapFault::WrongNote { object, generation });
                None
            }
        }
    }
}
