use std::sync::Arc;

use weft_local_ipc::numa::Reason;

use super::*;
use crate::link::Link;
use crate::room::Room;
use crate::room::tests::{manage, managed, room};

const MIB: u64 = 1 << 20;
const SOON: Duration = Duration::from_secs(5);

fn limits() -> Limits {
    Limits {
        budget_bytes: 64 * MIB,
        extent_bytes: MIB,
        objects: 64,
    }
}

/// A heap of a domain that has a budget of `left`, and its borrower in another.
fn lent(room: &Arc<Room>, most_bytes: u64) -> (Heap, BorrowerId, Borrower) {
    let mut heap = Heap::new(room, limits());
    let (near, far) = SideSocket::pair().unwrap();
    std::thread::scope(|scope| {
        let borrower = scope.spawn(|| Borrower::connect(room, far, most_bytes).unwrap());
        let them = heap.admit(near).unwrap();
        (heap, them, borrower.join().unwrap())
    })
}

/// Runs `work` while a memory manager with so many bytes answers, and gives what it has left once all
/// that `work` had is given back.
fn with_budget(bytes: u64, work: impl FnOnce(&Arc<Room>)) -> u64 {
    let (room, manager) = room();
    let ((), mut manager, mut left): ((), Link, u64) = managed(manager, bytes, || work(&room));
    manage(&mut manager, &mut left);
    left
}

fn lend_words(heap: &mut Heap, to: BorrowerId, words: usize, value: u64) {
    let mut loan = heap.loan_slice::<u64>(words).unwrap();
    loan.fill(value);
    heap.lend(to, loan).unwrap();
}

#[test]
fn an_object_is_lent_read_and_given_back_and_so_is_its_memory() {
    let left = with_budget(64 * MIB, |room| {
        let (mut heap, them, mut borrower) = lent(room, 64 * MIB);
        let grown = heap.grow(10 * MIB, None).unwrap();
        assert_eq!((grown.bytes, heap.bytes()), (10 * MIB, 10 * MIB));
        assert_eq!(grown.outcome, Outcome::NotPlaced(Reason::NotAsked));
        lend_words(&mut heap, them, 10 * MIB as usize / 8, 7);
        let object = borrower.receive(SOON).unwrap().unwrap();
        assert_eq!(object.len() as u64, 10 * MIB);
        assert!(object.view().words().unwrap().iter().all(|word| word == 7));
        assert_eq!(heap.shrink(), 0, "it is lent");
        let full = heap.loan::<[u64; 512]>().unwrap_err();
        assert_eq!(full.code(), RefusalCode::Busy, "{full}");
        drop(object);
        heap.collect().unwrap();
        assert_eq!(heap.objects_out(), 0);
        assert_eq!((heap.shrink(), heap.bytes()), (10 * MIB, 0));
        // What it has given up can be had again, by a borrower that takes no more than before.
        for value in 0..8 {
            let _ = heap.grow(40 * MIB, None).unwrap();
            lend_words(&mut heap, them, 5 * MIB as usize, value);
            let object = borrower.receive(SOON).unwrap().unwrap();
            assert_eq!(object.view().read::<u64>(0), Some(value));
            drop(object);
            assert_eq!(heap.shrink(), 40 * MIB);
        }
        let _ = heap.grow(MIB, None).unwrap();
    });
    assert_eq!(left, 64 * MIB, "dropping the heap gives back the rest");
}

#[test]
fn an_extent_for_an_object_has_room_for_it() {
    with_budget(64 * MIB, |room| {
        let mut heap = Heap::new(room, limits());
        for object in [1, 1_100_000, 5 * MIB + 1, 9 * MIB] {
            let _ = heap.grow(object, None).unwrap();
            let _ = heap.loan_slice::<u8>(object as usize).unwrap();
            assert!(heap.bytes() <= object + (object / 4).max(MIB));
            heap.shrink();
        }
    });
}

#[test]
fn a_growth_that_is_refused_or_fails_is_not_charged() {
    let left = with_budget(20 * MIB, |room| {
        let mut heap = Heap::new(room, limits());
        let _ = heap.grow(8 * MIB, None).unwrap();
        for (bytes, by) in [(16 * MIB, "no more"), (64 * MIB, "Limits::budget_bytes")] {
            let refused = heap.grow(bytes, None).unwrap_err();
            assert_eq!(refused.code(), RefusalCode::OverBudget);
            assert!(refused.to_string().contains(by), "{refused}");
        }
        let refused = heap.grow(u64::MAX, None).unwrap_err();
        assert_eq!(refused.code(), RefusalCode::TooLarge);
        assert_eq!(heap.bytes(), 8 * MIB);
        // The heap cannot have so many extents; the memory manager would allow it.
        let mut small = Heap::new(
            room,
            Limits {
                extent_bytes: 4096,
                ..limits()
            },
        );
        let refused = loop {
            match small.grow(1, None) {
                Ok(_) => {}
                Err(refused) => break refused,
            }
        };
        assert_eq!(refused.code(), RefusalCode::OverBudget);
        assert_eq!(small.bytes(), 256 * 4096);
    });
    assert_eq!(left, 20 * MIB);
}

#[test]
fn who_does_not_read_what_it_is_told_is_lent_nothing_and_delays_nobody() {
    with_budget(64 * MIB, |room| {
        let (mut heap, them, mut borrower) = lent(room, 64 * MIB);
        let begin = std::time::Instant::now();
        let refused = loop {
            let _ = heap.grow(MIB, None).unwrap();
            let loan = heap.loan::<u64>().unwrap();
            match heap.lend(them, loan) {
                Ok(()) => borrower.receive(SOON).unwrap().map(drop).unwrap(),
                Err(unlent) => break unlent,
            }
            // It reads objects only: these it was told of before.
            for _ in 0..200 {
                heap.shrink();
                let _ = heap.grow(MIB, None).unwrap();
            }
        };
        assert_eq!(refused.error.code(), RefusalCode::Busy, "{refused}");
        assert!(begin.elapsed() < SOON);
        assert!(borrower.receive(Duration::ZERO).unwrap().is_none());
        heap.lend(them, refused.loan).unwrap();
        assert!(borrower.receive(SOON).unwrap().is_some());
    });
}

#[test]
fn what_a_borrower_held_comes_back_when_it_is_gone() {
    with_budget(64 * MIB, |room| {
        let (mut heap, them, mut borrower) = lent(room, 64 * MIB);
        let _ = heap.grow(MIB, None).unwrap();
        lend_words(&mut heap, them, 100, 1);
        lend_words(&mut heap, them, 100, 2);
        let kept = borrower.receive(SOON).unwrap().unwrap();
        assert!(!heap.has_hung_up(them));
        drop(borrower);
        assert!(heap.has_hung_up(them));
        heap.dismiss(them, Gone::Left);
        assert_eq!(heap.objects_out(), 0);
        assert_eq!(kept.view().read::<u64>(0), Some(1), "it is not dead");
        let full = heap.loan::<u64>().unwrap_err();
        assert_eq!(full.code(), RefusalCode::Busy, "it would read that too");
        let _ = heap.grow(MIB, None).unwrap();
        let loan = heap.loan::<u64>().unwrap();
        let unknown = heap.lend(them, loan).unwrap_err();
        assert_eq!(unknown.error.code(), RefusalCode::Rejected);
        drop(unknown);
        assert_eq!(heap.shrink(), 2 * MIB);
    });
}

#[test]
fn all_that_a_dead_owner_lent_is_received_and_read_on() {
    with_budget(64 * MIB, |room| {
        let (mut heap, them, mut borrower) = lent(room, 64 * MIB);
        let _ = heap.grow(MIB, None).unwrap();
        lend_words(&mut heap, them, 100, 1);
        lend_words(&mut heap, them, 100, 2);
        drop(heap);
        let objects = [(); 2].map(|()| borrower.receive(SOON).unwrap().unwrap());
        for _ in 0..2 {
            let closed = borrower.receive(SOON).unwrap_err();
            assert_eq!(closed.code(), RefusalCode::Closed);
        }
        let first = objects.map(|object| object.view().read::<u64>(0));
        assert_eq!(first, [Some(1), Some(2)]);
    });
}

#[test]
fn an_owner_that_hands_over_too_much_is_refused() {
    with_budget(64 * MIB, |room| {
        let (mut heap, them, mut borrower) = lent(room, 3 * MIB);
        for _ in 0..2 {
            let _ = heap.grow(2 * MIB, None).unwrap();
        }
        lend_words(&mut heap, them, 100, 1);
        for _ in 0..2 {
            let refused = borrower.receive(SOON).unwrap_err();
            assert_eq!(refused.code(), RefusalCode::OverBudget, "{refused}");
        }
    });
}

#[test]
fn who_says_something_else_is_told_so() {
    with_budget(64 * MIB, |room| {
        let half = || {
            let half = weft_local_ipc::OwnHalf::create(QUEUE, weft_local_ipc::Start::default());
            half.unwrap().share().unwrap()
        };
        let words = |word: Word| postcard::to_stdvec(&word).unwrap();
        let longer = [words(Word::Borrows), vec![0]].concat();
        for (bytes, beside) in [
            (b"hello".to_vec(), vec![]),
            (words(Word::Borrows), vec![]),
            (words(Word::Borrows), vec![half()]),
            (words(Word::Borrows), vec![half(), half(), half()]),
            (words(Word::Borrows), vec![half(), half()]),
            (words(Word::Lends), vec![half(), half()]),
            (words(Word::Extent(0)), vec![half(), half()]),
            (longer, vec![half(), half()]),
        ] {
            let mut heap = Heap::new(room, limits());
            let (near, far) = SideSocket::pair().unwrap();
            let beside: Vec<_> = beside.iter().map(AsFd::as_fd).collect();
            far.send(&bytes, &beside).unwrap();
            let refused = heap.admit(near).unwrap_err();
            assert_eq!(refused.code(), RefusalCode::PeerFault, "{refused}");
        }
        let (near, far) = SideSocket::pair().unwrap();
        drop(far);
        let refused = Borrower::connect(room, near, MIB).unwrap_err();
        assert_eq!(refused.code(), RefusalCode::Closed);
    });
}

#[test]
fn an_owner_that_breaks_the_rules_later_is_not_listened_to_again() {
    for (word, beside) in [
        (Word::Borrows, 0),
        (Word::Extent(0), 0),
        (Word::Extent(0), 1),
        (Word::Extent(7), 2),
    ] {
        with_budget(64 * MIB, |room| {
            let (near, far) = SideSocket::pair().unwrap();
            let mut heap = Heap::new(room, limits());
            let liar = near.try_clone().unwrap();
            let mut borrower = std::thread::scope(|scope| {
                let borrower = scope.spawn(|| Borrower::connect(room, far, MIB).unwrap());
                heap.admit(near).unwrap();
                borrower.join().unwrap()
            });
            let _ = heap.grow(MIB, None).unwrap();
            let (no_memory, _pair) = SideSocket::pair().unwrap();
            let bytes = postcard::to_stdvec(&word).unwrap();
            liar.send(&bytes, &vec![no_memory.as_fd(); beside]).unwrap();
            let first = borrower.receive(SOON).unwrap_err();
            let second = borrower.receive(SOON).unwrap_err();
            assert_eq!(first, second, "{word:?}");
            assert_eq!(first.code(), RefusalCode::PeerFault, "{first}");
        });
    }
}
