//! Objects in shared memory: lent with messages, read in place, given back by notes.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::collections::VecDeque;

use common::other::{receive_fd, role, send_fd, setting, spawn};
use common::{End, channel, tell};
use proptest::prelude::*;
use rand::Rng;
use weft_local_ipc::heap::*;
use weft_local_ipc::numa::Placement;
use weft_local_ipc::region::{Options, allocate_object};
use weft_local_ipc::*;
use weft_types::{Lane, PerLane, Sequence};
use zerocopy::IntoBytes;

const LANE: Lane = Lane::NORMAL;
const MIB: u64 = 1 << 20;

/// A channel with a heap at one end and its borrower at the other.
struct Lent {
    owner: End,
    peer: End,
    heap: Heap,
    to: BorrowerId,
    borrower: Borrower,
    body: Vec<u8>,
}

impl Lent {
    fn new(limits: Limits, notes: u32) -> Self {
        let (owner, peer) = channel(Geometry::DEFAULT);
        let mut heap = Heap::new(limits);
        let borrower = Borrower::new(Notes::create(notes).unwrap(), limits.budget_bytes);
        let to = heap.admit(PeerNotes::open(&borrower.share_notes().unwrap()).unwrap());
        let mut lent = Self {
            owner,
            peer,
            heap,
            to,
            borrower,
            body: Vec::new(),
        };
        lent.extend(limits.extent_bytes);
        lent
    }

    fn small() -> Self {
        let limits = Limits {
            budget_bytes: MIB,
            extent_bytes: MIB,
            objects: 64,
        };
        Self::new(limits, 64)
    }

    fn extend(&mut self, bytes: u64) -> ExtentId {
        let (id, _) = self.heap.extend(bytes, Placement::Anywhere).unwrap();
        let fd = self.heap.share(id).unwrap().unwrap();
        self.borrower.adopt(id, &fd).unwrap();
        id
    }

    fn send<T: ?Sized>(&mut self, loan: Loan<T>) -> Sequence {
        let sender = &mut self.owner.sender;
        self.heap
            .send(self.to, sender, LANE, tell(), loan)
            .unwrap_or_else(|unsent| panic!("{}", unsent.error))
    }

    fn receive(&mut self) -> Borrowed {
        let received = self.peer.receiver.try_receive(&mut self.body).unwrap();
        let received = received.unwrap();
        assert_eq!(received.payload, Payload::Reference);
        self.borrower.resolve(&received, &self.body).unwrap()
    }

    fn finish(&mut self) {
        let taken = self.peer.receiver.taken(LANE);
        self.peer.receiver.finish(LANE, taken);
        self.borrower.finished(LANE, taken);
    }

    fn out(&mut self) -> usize {
        self.heap.collect().unwrap();
        self.heap.objects_out()
    }
}

#[test]
fn a_value_is_filled_and_read_in_place() {
    let mut lent = Lent::small();
    let mut loan = lent.heap.loan::<[u64; 500]>().unwrap();
    loan[3] = 7;
    loan[499] = 8;
    lent.send(loan);
    let borrowed = lent.receive();
    assert_eq!(borrowed.len(), 4000);
    assert_eq!(borrowed.view().read::<u64>(3 * 8), Some(7));
    assert_eq!(borrowed.view().words().unwrap().get(499), Some(8));
    assert_eq!(
        borrowed.view().read::<u64>(500 * 8),
        None,
        "outside of the object, though inside of its block"
    );
}

#[test]
fn objects_have_from_no_byte_to_a_gibibyte() {
    let mut lent = Lent::new(
        Limits {
            budget_bytes: MAX_OBJECT_BYTES + 4 * MIB,
            ..Limits::default()
        },
        64,
    );
    lent.extend(MAX_OBJECT_BYTES);
    for len in [0, 1, 63, 64, 65, 4096, 100_000, 3_000_000, 1 << 30] {
        let mut loan = lent.heap.loan_slice::<u8>(len).unwrap();
        assert_eq!(loan.len(), len);
        if let [first, .., last] = &mut *loan {
            (*first, *last) = (1, 2);
        }
        lent.send(loan);
        let borrowed = lent.receive();
        assert_eq!(borrowed.len(), len);
        if len > 1 {
            assert_eq!(borrowed.view().read::<u8>(0), Some(1));
            assert_eq!(borrowed.view().read::<u8>(len - 1), Some(2));
        }
        drop(borrowed);
        lent.finish();
    }
    assert_eq!(lent.out(), 0);
    let error = lent.heap.loan_slice::<u8>((1 << 30) + 1).unwrap_err();
    assert!(matches!(error, HeapError::TooLarge { .. }), "{error}");
    let error = lent.heap.loan_slice::<u64>(usize::MAX).unwrap_err();
    assert!(matches!(error, HeapError::TooLarge { .. }), "{error}");
}

#[test]
fn an_extent_for_an_object_has_the_size_of_its_block() {
    for object in [1, 100_000, 1_100_000, MIB, 5 * MIB + 1] {
        let bytes = block_bytes(object).unwrap();
        assert!(bytes <= object + (object / 4).max(64), "{bytes}");
        for (extent_bytes, is_enough) in [(bytes, true), (bytes - bytes.min(4096), false)] {
            let limits = Limits {
                budget_bytes: 16 * MIB,
                extent_bytes: 4096,
                objects: 8,
            };
            let mut heap = Heap::new(limits);
            let _ = heap.extend(extent_bytes, Placement::Anywhere).unwrap();
            let loan = heap.loan_slice::<u8>(object as usize);
            assert_eq!(loan.is_ok(), is_enough || bytes <= 4096, "{object}");
        }
    }
    assert_eq!(block_bytes(u64::MAX), None);
}

#[test]
fn an_object_comes_back_when_it_is_dropped_and_its_message_is_done() {
    let mut lent = Lent::small();
    for _ in 0..2 {
        let loan = lent.heap.loan::<u64>().unwrap();
        lent.send(loan);
    }
    let (first, second) = (lent.receive(), lent.receive());
    drop(first);
    assert_eq!(lent.out(), 2, "not done: our successor would read it again");
    lent.finish();
    assert_eq!(lent.out(), 1, "dropped before");
    drop(second);
    assert_eq!(lent.out(), 0, "dropped after");
}

#[test]
fn a_message_that_is_read_again_gives_its_object_back_once() {
    let mut lent = Lent::small();
    for _ in 0..2 {
        let mut loan = lent.heap.loan::<u64>().unwrap();
        *loan = 7;
        lent.send(loan);
    }
    let first = Sequence::ZERO;
    // Dropped before it is read again, and after.
    drop(lent.receive());
    lent.peer.receiver.rewind(LANE, first).unwrap();
    let kept = lent.receive();
    lent.peer.receiver.rewind(LANE, first).unwrap();
    let again = lent.receive();
    drop(kept);
    drop(lent.receive());
    lent.finish();
    assert_eq!(lent.out(), 1, "one is still borrowed");
    assert_eq!(again.view().read::<u64>(0), Some(7));
    drop(again);
    assert_eq!(lent.out(), 0);
    let loan = lent.heap.loan::<u64>().unwrap();
    lent.send(loan);
    drop(lent.receive());
    lent.finish();
    assert_eq!(lent.out(), 0, "and no note was a lie");
}

#[test]
fn who_holds_an_object_is_not_sent_it_again() {
    let mut lent = Lent::small();
    let (mut owner, _peer) = channel(Geometry::DEFAULT);
    let loan = lent.heap.loan::<u64>().unwrap();
    let to = [
        (lent.to, &mut lent.owner.sender),
        (lent.to, &mut owner.sender),
    ];
    let result = lent.heap.broadcast(to, LANE, tell(), loan);
    assert_eq!(result.sent, 1);
    assert!(matches!(result.failed[..], [(_, HeapError::AlreadySent)]));
    drop(lent.receive());
    lent.finish();
    assert_eq!(lent.out(), 0);
}

#[test]
fn a_loan_is_not_sent_from_memory_that_somebody_else_still_reads() {
    let mut lent = Lent::small();
    let (mut owner, _peer) = channel(Geometry::DEFAULT);
    let leaver = lent.heap.admit(liars_notes(64, &[0; 64]));
    let loan = lent.heap.loan::<u64>().unwrap();
    lent.heap.dismiss(leaver, Gone::Left);
    let sender = &mut owner.sender;
    let unsent = lent.heap.send(lent.to, sender, LANE, tell(), loan);
    assert!(matches!(unsent.unwrap_err().error, HeapError::Retired));
    assert_eq!(lent.out(), 0);
}

#[test]
fn a_loan_that_is_not_sent_goes_back_from_any_thread() {
    let mut lent = Lent::small();
    let mut loan = lent.heap.loan_slice::<u8>(700 << 10).unwrap();
    let error = lent.heap.loan_slice::<u8>(700 << 10).unwrap_err();
    assert!(matches!(error, HeapError::Full { extent_bytes } if extent_bytes >= 700 << 10));
    std::thread::spawn(move || loan[5] = 1).join().unwrap();
    assert_eq!(lent.out(), 0);
    drop(lent.heap.loan_slice::<u8>(700 << 10).unwrap());
}

#[test]
fn a_loan_that_cannot_be_sent_comes_back_whole() {
    let mut lent = Lent::small();
    let mut other = Lent::small();
    let mut loan = other.heap.loan::<u64>().unwrap();
    *loan = 5;
    let sender = &mut lent.owner.sender;
    let unsent = lent.heap.send(lent.to, sender, LANE, tell(), loan);
    let unsent = unsent.unwrap_err();
    assert!(matches!(unsent.error, HeapError::Foreign));
    assert_eq!(*unsent.loan, 5);
    other.send(unsent.loan);

    lent.owner.sender.set_growth_budget(0);
    while lent.owner.sender.try_send(LANE, tell(), b"").is_ok() {}
    let loan = lent.heap.loan::<u64>().unwrap();
    let sender = &mut lent.owner.sender;
    let unsent = lent.heap.send(lent.to, sender, LANE, tell(), loan);
    let unsent = unsent.unwrap_err();
    let full = matches!(unsent.error, HeapError::Send(SendError::Full { .. }));
    assert!(full, "{}", unsent.error);
    drop(unsent);
    assert_eq!(lent.out(), 0);
}

#[test]
fn who_gives_nothing_back_exhausts_its_own_heap_only() {
    let mut greedy = Lent::small();
    let mut honest = Lent::small();
    let mut kept = Vec::new();
    let error = loop {
        match greedy.heap.loan_slice::<u8>(50_000) {
            Ok(loan) => {
                greedy.send(loan);
                kept.push(greedy.receive());
                greedy.finish();
            }
            Err(error) => break error,
        }
    };
    assert!(matches!(error, HeapError::Full { .. }), "{error}");
    assert_eq!(kept.len(), 18, "of 57,344 bytes each in a MiB");
    let error = greedy.heap.extend(MIB, Placement::Anywhere).unwrap_err();
    assert!(
        matches!(error, HeapError::Budget { left: 0, .. }),
        "{error}"
    );

    for _ in 0..1000 {
        let loan = honest.heap.loan_slice::<u8>(50_000).unwrap();
        honest.send(loan);
        drop(honest.receive());
        honest.finish();
    }
    greedy.heap.raise_budget(MIB);
    greedy.borrower.raise_budget(MIB);
    greedy.extend(MIB);
    let loan = greedy.heap.loan_slice::<u8>(50_000).unwrap();
    greedy.send(loan);
}

#[test]
fn a_borrower_holds_no_more_than_it_can_note() {
    let limits = Limits {
        objects: 64,
        ..Limits::default()
    };
    let mut lent = Lent::new(limits, 2);
    let mut kept = Vec::new();
    for _ in 0..2 {
        let loan = lent.heap.loan::<u64>().unwrap();
        lent.send(loan);
        kept.push(lent.receive());
    }
    let loan = lent.heap.loan::<u64>().unwrap();
    let sender = &mut lent.owner.sender;
    let unsent = lent.heap.send(lent.to, sender, LANE, tell(), loan);
    let unsent = unsent.unwrap_err();
    assert!(matches!(unsent.error, HeapError::TooManyLent { most: 2 }));
    lent.finish();
    kept.clear();
    lent.heap.collect().unwrap();
    lent.send(unsent.loan);
}

#[test]
fn an_extent_of_small_blocks_serves_large_ones_once_it_is_free() {
    let mut lent = Lent::small();
    for _ in 0..2 {
        let mut kept = Vec::new();
        while let Ok(loan) = lent.heap.loan_slice::<u8>(16 << 10) {
            lent.send(loan);
            kept.push(lent.receive());
        }
        assert_eq!(kept.len(), 64);
        lent.finish();
        drop(kept);
        let loan = lent.heap.loan_slice::<u8>(MIB as usize).unwrap();
        drop(loan);
    }
}

#[test]
fn an_unused_extent_gives_its_bytes_back() {
    let mut lent = Lent::new(
        Limits {
            budget_bytes: 2 * MIB,
            extent_bytes: MIB,
            objects: 16,
        },
        16,
    );
    let second = lent.extend(MIB);
    let loan = lent.heap.loan_slice::<u8>(MIB as usize).unwrap();
    lent.send(loan);
    let borrowed = lent.receive();
    assert_eq!(
        lent.heap.shrink(),
        [ExtentId::new(0)],
        "the other is in use"
    );
    lent.borrower.forget(ExtentId::new(0));
    assert_eq!(lent.heap.budget_left(), MIB);
    let third = lent.extend(MIB);
    assert!(third > second, "numbers are not used twice");
    lent.borrower.forget(second);
    assert!(borrowed.view().read::<u64>(0).is_some(), "still there");
}

#[test]
fn a_broadcast_is_one_object_and_comes_back_from_all() {
    let mut lent = Lent::small();
    let mut others: Vec<(End, End, Borrower)> = (0..3)
        .map(|_| {
            let (owner, peer) = channel(Geometry::DEFAULT);
            (owner, peer, Borrower::new(Notes::create(64).unwrap(), MIB))
        })
        .collect();
    let mut to = Vec::new();
    for (owner, _, borrower) in &mut others {
        for id in lent.heap.extents().collect::<Vec<_>>() {
            let fd = lent.heap.share(id).unwrap().unwrap();
            borrower.adopt(id, &fd).unwrap();
        }
        let notes = PeerNotes::open(&borrower.share_notes().unwrap()).unwrap();
        to.push((lent.heap.admit(notes), &mut owner.sender));
    }
    let ids: Vec<BorrowerId> = to.iter().map(|(id, _)| *id).collect();
    let mut loan = lent.heap.loan::<[u64; 100]>().unwrap();
    loan[99] = 3;
    let result = lent.heap.broadcast(to, LANE, tell(), loan);
    assert_eq!((result.sent, result.failed.len()), (3, 0));
    assert!(result.unsent.is_none());
    let mut body = Vec::new();
    let mut borrowed: VecDeque<Borrowed> = others
        .iter_mut()
        .map(|(_, peer, borrower)| {
            let received = peer.receiver.try_receive(&mut body).unwrap().unwrap();
            peer.receiver.finish(LANE, received.sequence.next());
            borrower.finished(LANE, received.sequence.next());
            borrower.resolve(&received, &body).unwrap()
        })
        .collect();
    for borrowed in &borrowed {
        assert_eq!(borrowed.view().words().unwrap().get(99), Some(3));
    }
    borrowed.pop_back();
    borrowed.pop_back();
    assert_eq!(lent.out(), 1, "one holds it");
    lent.heap.dismiss(ids[0], Gone::Dead);
    assert_eq!(lent.out(), 0);
    drop(borrowed);

    let loan = lent.heap.loan::<u64>().unwrap();
    let to = [(ids[0], &mut others[0].0.sender)];
    let result = lent.heap.broadcast(to, LANE, tell(), loan);
    assert_eq!(result.sent, 0);
    assert!(matches!(
        result.failed[..],
        [(_, HeapError::NoSuchBorrower)]
    ));
    assert!(result.unsent.is_some(), "nobody has it");
}

#[test]
fn who_leaves_a_group_alive_reads_nothing_new() {
    let mut lent = Lent::small();
    lent.heap.raise_budget(MIB);
    let loan = lent.heap.loan::<u64>().unwrap();
    lent.send(loan);
    lent.heap.dismiss(lent.to, Gone::Left);
    assert_eq!(lent.out(), 0);
    let error = lent.heap.loan::<u64>().unwrap_err();
    assert!(matches!(error, HeapError::Full { .. }), "retired: {error}");
    assert_eq!(lent.heap.extents().count(), 0);
    lent.heap.extend(MIB, Placement::Anywhere).unwrap();
    lent.heap.loan::<u64>().unwrap();
}

#[test]
fn a_successor_gets_what_was_not_done_and_the_rest_comes_back() {
    let mut lent = Lent::small();
    for n in 0..10_u64 {
        let mut loan = lent.heap.loan::<u64>().unwrap();
        *loan = n;
        lent.send(loan);
    }
    // It has done 3 and kept one of them, had 2 more in hand and dropped them, and dies.
    let kept = lent.receive();
    for _ in 0..2 {
        drop(lent.receive());
    }
    lent.finish();
    for _ in 0..2 {
        drop(lent.receive());
    }
    let from = PerLane::from_fn(|lane| lent.peer.receiver.done(lane));
    drop(kept);

    let start = Start {
        incoming: from,
        ..Start::default()
    };
    let mut successor = End::succeed(&lent.owner.swapper, start);
    let mut borrower = Borrower::new(Notes::create(64).unwrap(), MIB);
    let fd = lent.heap.share(ExtentId::new(0)).unwrap().unwrap();
    borrower.adopt(ExtentId::new(0), &fd).unwrap();
    let notes = PeerNotes::open(&borrower.share_notes().unwrap()).unwrap();
    lent.heap.succeed(lent.to, notes, &from).unwrap();
    assert_eq!(lent.out(), 7);
    let mut body = Vec::new();
    for n in 3..10 {
        let received = successor.receiver.try_receive(&mut body).unwrap().unwrap();
        let borrowed = borrower.resolve(&received, &body).unwrap();
        assert_eq!(borrowed.view().read::<u64>(0), Some(n));
        successor.receiver.finish(LANE, received.sequence.next());
        borrower.finished(LANE, received.sequence.next());
    }
    assert_eq!(lent.out(), 0);
}

/// A notes page made by hand, as a liar would.
fn liars_notes(capacity: u32, words: &[u64]) -> PeerNotes {
    let mut draft = allocate_object(4096, Options::default()).unwrap();
    let page = draft.as_mut_slice();
    page[..8].copy_from_slice(b"weftNOTE");
    page[8..12].copy_from_slice(&1_u32.to_ne_bytes());
    page[12..16].copy_from_slice(&capacity.to_ne_bytes());
    page[128..128 + 8 * words.len()].copy_from_slice(words.as_bytes());
    let shared = draft.create_shared_region().unwrap();
    PeerNotes::open(&shared.share_region().unwrap()).unwrap()
}

const PHASE: u64 = 1 << 63;

#[test]
fn a_note_of_what_is_not_held_is_told_and_frees_nothing() {
    let lies = [
        (PHASE | 5 << 32, "generation"),
        (PHASE | 1 << 32 | 1, "not lent to it"),
        (PHASE | 1 << 32 | 0xffff, "no object"),
        (u64::MAX, "anything"),
    ];
    for (word, why) in lies {
        let mut lent = Lent::small();
        let liar = lent.heap.admit(liars_notes(64, &[word; 64]));
        let (mut owner, _peer) = channel(Geometry::DEFAULT);
        for to_liar in [true, false] {
            let loan = lent.heap.loan::<u64>().unwrap();
            if to_liar {
                let sender = &mut owner.sender;
                lent.heap.send(liar, sender, LANE, tell(), loan).unwrap();
            } else {
                lent.send(loan);
            }
        }
        let (who, fault) = lent.heap.collect().unwrap_err();
        assert_eq!(who, liar, "{why}");
        assert!(matches!(fault, HeapFault::WrongNote { .. }), "{fault}");
        assert_eq!(lent.heap.objects_out(), 2);
        let loan = lent.heap.loan::<u64>().unwrap();
        let unsent = lent.heap.send(liar, &mut owner.sender, LANE, tell(), loan);
        assert!(matches!(unsent.unwrap_err().error, HeapError::Fault(_)));
        lent.heap.dismiss(liar, Gone::Left);
        assert_eq!(lent.out(), 1, "what the honest one holds");
    }
}

#[test]
fn the_same_note_twice_frees_once() {
    let mut lent = Lent::small();
    let liar = lent.heap.admit(liars_notes(64, &[PHASE | 1 << 32; 64]));
    let (mut owner, _peer) = channel(Geometry::DEFAULT);
    for _ in 0..2 {
        let loan = lent.heap.loan::<u64>().unwrap();
        let sent = lent.heap.send(liar, &mut owner.sender, LANE, tell(), loan);
        sent.unwrap();
    }
    lent.heap.collect().unwrap_err();
    assert_eq!(lent.heap.objects_out(), 1);
}

#[test]
fn notes_pages_that_make_no_sense_are_refused() {
    assert!(Notes::create(0).is_err());
    assert!(Notes::create(100).is_err());
    assert!(Notes::create(2 * MAX_NOTES).is_err());
    let page = |header: &[u8]| {
        let mut draft = allocate_object(4096, Options::default()).unwrap();
        draft.as_mut_slice()[..header.len()].copy_from_slice(header);
        let shared = draft.create_shared_region().unwrap();
        PeerNotes::open(&shared.share_region().unwrap())
    };
    assert!(matches!(page(b""), Err(RegionError::WrongMagic)));
    let version = page(b"weftNOTE\x02\0\0\0");
    assert!(matches!(version, Err(RegionError::WrongVersion { .. })));
    for capacity in [0_u32, 1, 3, 100, 1 << 20, u32::MAX] {
        let header = [b"weftNOTE\x01\0\0\0" as &[u8], &capacity.to_ne_bytes()].concat();
        let opened = page(&header);
        assert!(
            matches!(opened, Err(RegionError::WrongSize { .. })),
            "{capacity}"
        );
    }
}

#[test]
fn extents_are_taken_once_and_within_bounds() {
    let mut lent = Lent::small();
    let fd = lent.heap.share(ExtentId::new(0)).unwrap().unwrap();
    let twice = lent.borrower.adopt(ExtentId::new(0), &fd);
    assert!(matches!(twice, Err(AdoptError::Fault(_))));
    let too_large = lent.borrower.adopt(ExtentId::new(1), &fd);
    assert!(matches!(
        too_large,
        Err(AdoptError::Region(RegionError::Size { .. }))
    ));
}

proptest! {
    /// Whatever a peer sends as a reference, what is found lies in an extent of it.
    #[test]
    fn a_reference_leads_nowhere_else(
        (object, generation) in any::<(u32, u32)>(),
        extent in 0_u32..3,
        granule in prop_oneof![any::<u32>(), 16_380_u32..16_390],
        len in prop_oneof![any::<u64>(), 0_u64..300],
        cut in 0_usize..30,
    ) {
        let mut lent = Lent::small();
        let mut bytes = Vec::new();
        for word in [object, generation, extent, granule] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(len.to_ne_bytes());
        bytes.truncate(cut.max(1));
        let sender = &mut lent.owner.sender;
        sender.try_send_reference(LANE, tell(), &bytes).unwrap();
        let received = lent.peer.receiver.try_receive(&mut lent.body).unwrap().unwrap();
        match lent.borrower.resolve(&received, &lent.body) {
            Err(_) => (),
            Ok(borrowed) => {
                prop_assert_eq!((extent, bytes.len()), (0, 24));
                let at = u64::from(granule) * 64;
                prop_assert!(at.checked_add(len).is_some_and(|end| end <= MIB));
                let mut copy = vec![0; borrowed.len()];
                prop_assert!(borrowed.view().copy_to(0, &mut copy));
            }
        }
    }

    /// Objects of all sizes, given back in any order: what is borrowed keeps its content, and all of it
    /// comes back.
    #[test]
    fn what_is_borrowed_does_not_change(
        steps in proptest::collection::vec((0_u8..5, 1_usize..60_000), 1..200)
    ) {
        let mut lent = Lent::small();
        let mut kept: Vec<(Borrowed, u64)> = Vec::new();
        let mut number = 0_u64;
        let mut on_the_way = VecDeque::new();
        for (step, size) in steps {
            match step {
                0 | 1 => {
                    if let Ok(mut loan) = lent.heap.loan_slice::<u64>(size.div_ceil(8)) {
                        number += 1;
                        loan.fill(number);
                        lent.send(loan);
                        on_the_way.push_back(number);
                    }
                }
                2 => {
                    if let Some(number) = on_the_way.pop_front() {
                        kept.push((lent.receive(), number));
                    }
                }
                3 => lent.finish(),
                _ => {
                    if !kept.is_empty() {
                        let (borrowed, number) = kept.swap_remove(size % kept.len());
                        let words = borrowed.view().words().unwrap();
                        prop_assert!(words.iter().all(|word| word == number));
                    }
                }
            }
            for (borrowed, number) in &kept {
                let words = borrowed.view().words().unwrap();
                prop_assert_eq!(words.get(0), Some(*number));
                prop_assert_eq!(words.get(words.len() - 1), Some(*number));
            }
        }
        while on_the_way.pop_front().is_some() {
            drop(lent.receive());
        }
        kept.clear();
        lent.finish();
        prop_assert_eq!(lent.out(), 0);
    }
}

/// The exit code of a borrower that found something else than what was sent.
const WRONG_OBJECT: i32 = 3;

/// Receives objects, holds some, and checks that each is whole, until it is killed.
fn borrow_for_ever(side: &SideSocket) {
    let peer = PeerHalf::open(receive_fd(side)).unwrap();
    let start: [u64; 1] = {
        let (bytes, _) = side.receive(None).unwrap().unwrap();
        [u64::from_ne_bytes(bytes[..8].try_into().unwrap())]
    };
    let incoming = PerLane::from_fn(|lane| match lane {
        LANE => Sequence::new(start[0]),
        _ => Sequence::ZERO,
    });
    let start = Start {
        incoming,
        ..Start::default()
    };
    let own = OwnHalf::create(peer.geometry(), start).unwrap();
    send_fd(side, &own.share().unwrap());
    let mut borrower = Borrower::new(Notes::create(64).unwrap(), MIB);
    send_fd(side, &borrower.share_notes().unwrap());
    borrower.adopt(ExtentId::new(0), &receive_fd(side)).unwrap();
    let mut end = End::connect(own, peer);
    let mut kept = VecDeque::new();
    let mut body = Vec::new();
    loop {
        let Some(received) = end.receiver.try_receive(&mut body).unwrap() else {
            end.receiver.wait(None);
            continue;
        };
        let borrowed = borrower.resolve(&received, &body).unwrap();
        let words = borrowed.view().words().unwrap();
        if !words.iter().all(|word| word == received.sequence.get()) {
            // Not a panic: it may be killed before that is over.
            std::process::exit(WRONG_OBJECT);
        }
        kept.push_back(borrowed);
        // Some go before their messages are done, some long after.
        let number = received.sequence.get();
        while kept.len() as u64 > number % 11 {
            kept.pop_front();
        }
        if number.is_multiple_of(8) {
            end.receiver.finish(LANE, received.sequence.next());
            borrower.finished(LANE, received.sequence.next());
        }
    }
}

/// Borrowers are killed at any point, one after the other: no successor finds an object that was
/// given to somebody else, and what the dead held comes back.
#[test]
fn borrowers_killed_anywhere_leave_nothing_behind() {
    let mut random = common::other::random();
    let limits = Limits {
        budget_bytes: MIB,
        extent_bytes: MIB,
        objects: 64,
    };
    let mut heap = Heap::new(limits);
    let (extent, _) = heap.extend(MIB, Placement::Anywhere).unwrap();
    let mut owner: Option<(End, BorrowerId)> = None;
    let mut half = Some(OwnHalf::create(Geometry::DEFAULT.fixed(), Start::default()).unwrap());
    let mut sent = 0_u64;
    let mut dead: Option<PeerHalf> = None;
    for _ in 0..setting("WEFT_KILLS", 20) {
        let (mut child, side) = spawn("borrower");
        let fd = match (&owner, &half) {
            (Some((end, _)), _) => end.swapper.share().unwrap(),
            (None, half) => half.as_ref().unwrap().share().unwrap(),
        };
        send_fd(&side, &fd);
        let done = dead
            .as_ref()
            .map_or(Sequence::ZERO, |half| half.cursors()[LANE].done);
        side.send(&done.get().to_ne_bytes(), &[]).unwrap();
        let fd = receive_fd(&side);
        dead = Some(PeerHalf::open(fd.try_clone().unwrap()).unwrap());
        let peer = PeerHalf::open(fd).unwrap();
        let notes = PeerNotes::open(&receive_fd(&side)).unwrap();
        send_fd(&side, &heap.share(extent).unwrap().unwrap());
        match &owner {
            None => {
                let end = End::connect(half.take().unwrap(), peer);
                owner = Some((end, heap.admit(notes)));
            }
            Some((end, id)) => {
                end.swapper.swap(peer);
                let from =
                    PerLane::from_fn(|lane| if lane == LANE { done } else { Sequence::ZERO });
                heap.succeed(*id, notes, &from).unwrap();
            }
        }
        let (end, id) = owner.as_mut().unwrap();
        let until = std::time::Instant::now()
            + std::time::Duration::from_micros(random.random_range(500..20_000));
        while std::time::Instant::now() < until {
            heap.collect().unwrap();
            let words = random.random_range(1..4000);
            let Ok(mut loan) = heap.loan_slice::<u64>(words) else {
                continue;
            };
            loan.fill(sent);
            match heap.send(*id, &mut end.sender, LANE, tell(), loan) {
                Ok(sequence) => {
                    assert_eq!(sequence.get(), sent);
                    sent += 1;
                }
                Err(unsent) => assert!(
                    matches!(
                        unsent.error,
                        HeapError::Send(SendError::Full { .. }) | HeapError::TooManyLent { .. }
                    ),
                    "{}",
                    unsent.error
                ),
            }
        }
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert_ne!(
            status.code(),
            Some(WRONG_OBJECT),
            "another object lay there"
        );
        assert_eq!(status.code(), None, "killed, and nothing else");
    }
    let (_, id) = owner.unwrap();
    assert!(sent > 100, "{sent}");
    heap.dismiss(id, Gone::Dead);
    heap.collect().unwrap();
    assert_eq!(heap.objects_out(), 0);
    assert_eq!(heap.shrink(), [extent]);
    assert_eq!(heap.budget_left(), MIB);
}

#[test]
#[ignore = "the other process of the tests above"]
fn the_other_process() {
    if let Some((role, side)) = role() {
        assert_eq!(role, "borrower");
        borrow_for_ever(&side);
    }
}
