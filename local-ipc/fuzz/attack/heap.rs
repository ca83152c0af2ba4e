//! What the two sides of a heap read of each other: notes of a borrower, references and extents of an
//! owner.

use rustix::fs::SealFlags;
use weft_local_ipc::heap::{
    AdoptError, Borrowed, Borrower, BorrowerId, ExtentId, Gone, Heap, HeapError, HeapFault, Limits,
    Notes, PeerNotes, REFERENCE_BYTES,
};
use weft_local_ipc::numa::Placement;
use weft_local_ipc::*;
use weft_types::{Lane, MessageKind, PerLane, Sequence, TypeIndex};

use super::liar::Memory;
use super::program::{Step, parse};
use super::{Seen, name_of_region_error};

/// Operations of a step, of notes.
pub(crate) mod notes_op {
    pub(crate) const LEND: u8 = 0;
    /// Writes note `a`, as a true one of the object that was lent `b` objects ago.
    pub(crate) const NOTE: u8 = 1;
    /// As that, in the phase of the second lap.
    pub(crate) const NOTE_AGAIN: u8 = 2;
    pub(crate) const COLLECT: u8 = 3;
    pub(crate) const LEND_HONEST: u8 = 4;
    pub(crate) const LEND_BOTH: u8 = 5;
    pub(crate) const DROP: u8 = 6;
    pub(crate) const DISMISS: u8 = 7;
    pub(crate) const SUCCEED: u8 = 8;
    pub(crate) const SHRINK: u8 = 9;
    pub(crate) const EXTEND: u8 = 10;
    pub(super) const COUNT: u8 = 11;
}

/// Operations of a step, of references.
pub(crate) mod references_op {
    /// Extent `a` of `b` pages.
    pub(crate) const ADOPT: u8 = 0;
    /// An object in extent `a`, so many times 64 bytes from its beginning, as long as the value.
    pub(crate) const RESOLVE: u8 = 1;
    pub(crate) const VIEW: u8 = 2;
    pub(crate) const DROP: u8 = 3;
    pub(crate) const FINISHED: u8 = 4;
    pub(crate) const FORGET: u8 = 5;
    /// A body that is no reference.
    pub(crate) const NONSENSE: u8 = 6;
    pub(super) const COUNT: u8 = 7;
}

const LANE: Lane = Lane::URGENT;
const CAPACITY: u32 = 8;
const PHASE: u64 = 1 << 63;

const LIMITS: Limits = Limits {
    budget_bytes: 256 << 10,
    extent_bytes: 64 << 10,
    objects: 16,
};

fn name_of_heap_fault(fault: &HeapFault) -> &'static str {
    match fault {
        HeapFault::NotAReference { .. } => "NotAReference",
        HeapFault::UnknownExtent { .. } => "UnknownExtent",
        HeapFault::OutOfBounds { .. } => "OutOfBounds in the heap",
        HeapFault::TooManyExtents { .. } => "TooManyExtents",
        HeapFault::WrongNote { .. } => "WrongNote",
    }
}

fn tell() -> Header {
    Header {
        kind: MessageKind::Tell,
        type_index: TypeIndex::new(0),
        correlation: Sequence::ZERO,
        has_descriptors: false,
    }
}

fn shared_seals() -> SealFlags {
    SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE
}

/// A way from the owner to a borrower.
struct Way {
    sender: Sender,
    receiver: Receiver,
}

impl Way {
    fn new() -> Self {
        let geometry = Geometry {
            slots: 64,
            arena_bytes: 0,
            ..Geometry::DEFAULT.fixed()
        };
        let half = || OwnHalf::create(geometry, Start::default()).unwrap();
        let (a, b) = (half(), half());
        let view = |half: &OwnHalf| PeerHalf::open(half.share().unwrap()).unwrap();
        let (to_a, to_b) = (view(&b), view(&a));
        let (sender, ..) = connect(a, to_a).unwrap();
        let (_, receiver, _) = connect(b, to_b).unwrap();
        Self { sender, receiver }
    }

    /// The one message that was sent.
    fn receive(&mut self) -> (Received, Vec<u8>) {
        let mut body = Vec::new();
        let received = self.receiver.try_receive(&mut body).unwrap().unwrap();
        self.receiver.finish(LANE, received.sequence.next());
        (received, body)
    }
}

/// The page of a borrower that lies.
fn page() -> (Memory, PeerNotes) {
    let memory = Memory::new(4096, 4096);
    memory.put(0, u64::from_ne_bytes(*b"weftNOTE"));
    memory.put(8, 1 | u64::from(CAPACITY) << 32);
    memory.seal(shared_seals());
    let notes = PeerNotes::open(&memory.share()).unwrap();
    (memory, notes)
}

struct Owner {
    heap: Heap,
    liar: BorrowerId,
    page: Memory,
    to_liar: Way,
    /// Object and generation of all that the liar was lent, as its notes say them.
    lent: Vec<u64>,
    honest: BorrowerId,
    to_honest: Way,
    borrower: Borrower,
    /// What the honest one holds, and what it should find there.
    held: Vec<(Borrowed, u64)>,
    count: u64,
    seen: Seen,
}

/// Notes, against what was really lent.
pub(crate) fn notes(bytes: &[u8]) -> Seen {
    let (_, steps) = parse(bytes);
    let mut heap = Heap::new(LIMITS);
    let borrower = Borrower::new(Notes::create(16).unwrap(), LIMITS.budget_bytes);
    let (page, lies) = page();
    let mut owner = Owner {
        liar: heap.admit(lies),
        honest: heap.admit(PeerNotes::open(&borrower.share_notes().unwrap()).unwrap()),
        heap,
        page,
        to_liar: Way::new(),
        lent: vec![0],
        to_honest: Way::new(),
        borrower,
        held: Vec::new(),
        count: 0,
        seen: Seen::new(),
    };
    owner.extend();
    for step in steps {
        owner.step(step);
        owner.check();
    }
    owner.seen
}

impl Owner {
    fn step(&mut self, step: Step) {
        match step.op % notes_op::COUNT {
            notes_op::LEND => self.lend(step, true, false),
            notes_op::LEND_HONEST => self.lend(step, false, true),
            notes_op::LEND_BOTH => self.lend(step, true, true),
            notes_op::NOTE => self.note(step, PHASE),
            notes_op::NOTE_AGAIN => self.note(step, 0),
            notes_op::COLLECT => self.collect(),
            notes_op::DROP => {
                if !self.held.is_empty() {
                    let place = usize::from(step.a) % self.held.len();
                    self.held.swap_remove(place);
                }
            }
            notes_op::DISMISS => {
                let left = step.b & 1 == 1;
                let gone = if left { Gone::Left } else { Gone::Dead };
                self.heap.dismiss(self.liar, gone);
                let (page, lies) = page();
                self.page = page;
                self.liar = self.heap.admit(lies);
            }
            notes_op::SUCCEED => {
                let (page, lies) = page();
                self.page = page;
                let from = step.value(self.to_liar.sender.next(LANE).get());
                let from = PerLane([Sequence::new(from); 4]);
                self.heap.succeed(self.liar, lies, &from).unwrap();
            }
            notes_op::SHRINK => {
                for id in self.heap.shrink() {
                    self.borrower.forget(id);
                }
            }
            _ => self.extend(),
        }
    }

    fn extend(&mut self) {
        if let Ok((id, _)) = self.heap.extend(1, Placement::Anywhere) {
            let fd = self.heap.share(id).unwrap().unwrap();
            self.borrower.adopt(id, &fd).unwrap();
        }
    }

    /// Writes a note: one that the liar may write, or one near it.
    fn note(&self, step: Step, phase: u64) {
        let ago = usize::from(step.b) % self.lent.len();
        let note = phase | self.lent[self.lent.len() - 1 - ago];
        let at = u64::from(u32::from(step.a) % CAPACITY);
        self.page.put(128 + 8 * at, step.value(note));
    }

    fn lend(&mut self, step: Step, to_liar: bool, to_honest: bool) {
        self.count += 1;
        let count = self.count;
        let words = 1 + usize::from(step.b) * 8;
        let mut loan = match self.heap.loan_slice::<u64>(words) {
            Ok(loan) => loan,
            Err(HeapError::Full { .. } | HeapError::TooManyObjects { .. }) => {
                self.seen.insert("heap full");
                return;
            }
            Err(error) => panic!("{error}"),
        };
        loan.fill(count);
        let both = [
            (to_liar, self.liar, &mut self.to_liar.sender),
            (to_honest, self.honest, &mut self.to_honest.sender),
        ];
        let to = both.into_iter().filter(|(is, ..)| *is);
        let to: Vec<_> = to.map(|(_, whom, sender)| (whom, sender)).collect();
        let result = self.heap.broadcast(to, LANE, tell(), loan);
        let mut failed = Vec::new();
        for (whom, error) in result.failed {
            failed.push(whom);
            match error {
                HeapError::Fault(fault) => self.seen.insert(name_of_heap_fault(&fault)),
                HeapError::TooManyLent { .. } => self.seen.insert("TooManyLent"),
                error => panic!("{error}"),
            };
        }
        if to_liar && !failed.contains(&self.liar) {
            let (_, body) = self.to_liar.receive();
            self.lent
                .push(u64::from_ne_bytes(body[..8].try_into().unwrap()));
        }
        if to_honest && !failed.contains(&self.honest) {
            let (received, body) = self.to_honest.receive();
            self.borrower.finished(LANE, received.sequence.next());
            let borrowed = self.borrower.resolve(&received, &body).unwrap();
            assert_eq!(borrowed.len(), 8 * words);
            self.held.push((borrowed, count));
            self.seen.insert("lent");
        }
    }

    fn collect(&mut self) {
        if let Err((who, fault)) = self.heap.collect() {
            assert_eq!(who, self.liar, "the honest one is blamed");
            self.seen.insert(name_of_heap_fault(&fault));
        }
    }

    /// Whatever the liar notes, what the other one holds stays what it is.
    fn check(&self) {
        assert!(self.heap.objects_out() >= self.held.len());
        for (borrowed, count) in &self.held {
            let last = borrowed.len() - 8;
            assert_eq!(borrowed.view().read(0), Some(*count), "written over");
            assert_eq!(borrowed.view().read(last), Some(*count), "written over");
        }
    }
}

/// References and extents, against what was handed over.
pub(crate) fn references(bytes: &[u8]) -> Seen {
    const MOST: u64 = 20 * 4096;
    let ([.., capacity], steps) = parse(bytes);
    let notes = Notes::create(2 << (capacity & 3)).unwrap();
    let mut borrower = Borrower::new(notes, MOST);
    // Each word of an extent says where it is.
    let mut extents: Vec<(u8, u64)> = Vec::new();
    let mut held: Vec<(u8, u64, Borrowed)> = Vec::new();
    let mut seen = Seen::new();
    let mut sequence = Sequence::ZERO;
    for step in steps {
        let id = ExtentId::new(step.a.into());
        match step.op % references_op::COUNT {
            references_op::ADOPT => {
                let bytes = u64::from(step.b) * 4096;
                let memory = Memory::new(bytes.max(4096), step.value(bytes).clamp(1, bytes.max(1)));
                (0..bytes.max(4096) / 8).for_each(|at| memory.put(8 * at, at ^ u64::from(step.a)));
                memory.seal(shared_seals());
                match borrower.adopt(id, &memory.share()) {
                    Ok(()) => {
                        assert!(extents.iter().all(|(other, _)| *other != step.a));
                        extents.push((step.a, bytes.max(4096)));
                    }
                    Err(AdoptError::Fault(fault)) => {
                        seen.insert(name_of_heap_fault(&fault));
                    }
                    Err(AdoptError::Region(error)) => {
                        seen.insert(name_of_region_error(&error));
                    }
                }
                let all: u64 = extents.iter().map(|(_, bytes)| bytes).sum();
                assert!(all <= MOST, "more than it wants");
            }
            references_op::FORGET => {
                borrower.forget(id);
                extents.retain(|(other, _)| *other != step.a);
            }
            references_op::RESOLVE | references_op::NONSENSE => {
                sequence = sequence.next();
                let len = step.value(64);
                // Near the beginning, or far away.
                let granule = u32::from(step.b) << ((step.b >> 7) * 24);
                let words = [step.op.into(), 0, step.a.into(), granule].map(u32::to_ne_bytes);
                let mut body = [words.concat(), len.to_ne_bytes().to_vec()].concat();
                if step.op % references_op::COUNT == references_op::NONSENSE {
                    body.resize(usize::from(step.b), 0);
                }
                let received = Received {
                    lane: step.lane(),
                    sequence,
                    header: tell(),
                    payload: Payload::Reference,
                };
                match borrower.resolve(&received, &body) {
                    Ok(borrowed) => {
                        assert_eq!(body.len(), REFERENCE_BYTES);
                        let (_, bytes) = extents.iter().find(|(id, _)| *id == body[8]).unwrap();
                        let at =
                            64 * u64::from(u32::from_ne_bytes(body[12..16].try_into().unwrap()));
                        assert!(at + borrowed.len() as u64 <= *bytes, "outside");
                        held.push((body[8], at, borrowed));
                        seen.insert("borrowed");
                    }
                    Err(fault) => {
                        seen.insert(name_of_heap_fault(&fault));
                    }
                }
            }
            references_op::FINISHED => {
                let up_to = Sequence::new(step.value(sequence.get()));
                borrower.finished(step.lane(), up_to);
            }
            _ if held.is_empty() => {}
            references_op::DROP => {
                let place = usize::from(step.b) % held.len();
                held.swap_remove(place);
            }
            _ => {
                let (id, at, borrowed) = &held[usize::from(step.b) % held.len()];
                let offset = usize::try_from(step.value(borrowed.len() as u64) & !7).unwrap();
                let word = borrowed.view().read::<u64>(offset);
                let inside = offset
                    .checked_add(8)
                    .is_some_and(|end| end <= borrowed.len());
                let expected = inside.then(|| ((at + offset as u64) / 8) ^ u64::from(*id));
                assert_eq!(word, expected, "another's word");
            }
        }
    }
    seen
}
