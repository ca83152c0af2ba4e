//! Messages to a receiver that is awake ask for nothing: no memory. (Nor for a system call, which
//! `strace -c` on `weft-bench contender tput` shows.)
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
#[path = "common/counting.rs"]
mod counting;

use common::{channel, tell};
use counting::{Counting, allocations};
use weft_local_ipc::heap::{Borrower, Heap, Limits, Notes, PeerNotes};
use weft_local_ipc::numa::Placement;
use weft_local_ipc::*;
use weft_types::Lane;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const LANE: Lane = Lane::NORMAL;
const MESSAGES: usize = 1_000_000;

#[test]
fn a_million_messages_allocate_nothing() {
    let (mut a, mut b) = channel(Geometry::DEFAULT.fixed());
    let mut body = Vec::with_capacity(8192);
    let long = vec![7; 3000];
    let mut round = |n: usize| {
        a.sender
            .try_send_value(LANE, tell(), &[n as u64; 8])
            .unwrap();
        a.sender.try_send(LANE, tell(), &long).unwrap();
        a.sender
            .try_send_in_place(LANE, tell(), 100, |bytes| bytes[0] = 1)
            .unwrap();
        let (_, value) = b.receiver.try_receive_value::<[u64; 8]>().unwrap().unwrap();
        assert_eq!(value[7], n as u64);
        b.receiver.try_receive(&mut body).unwrap().unwrap();
        let (got, _) = b
            .receiver
            .try_receive_in_place(|_, view| view.read::<u8>(0))
            .unwrap()
            .unwrap();
        b.receiver.finish(LANE, got.sequence.next());
    };
    // The first message of a lane is sent with care.
    round(0);
    let before = allocations();
    (1..=MESSAGES / 3).for_each(&mut round);
    assert_eq!(allocations() - before, 0);
    let counted = std::hint::black_box(Box::new(7_u8));
    assert_eq!(allocations() - before, 1, "it does count: {counted}");
}

#[test]
fn a_million_objects_allocate_nothing() {
    let (mut a, mut b) = channel(Geometry::DEFAULT.fixed());
    let mut heap = Heap::new(Limits::default());
    let mut borrower = Borrower::new(Notes::create(64).unwrap(), 64 << 20);
    let to = heap.admit(PeerNotes::open(&borrower.share_notes().unwrap()).unwrap());
    let (extent, _) = heap.extend(0, Placement::Anywhere).unwrap();
    let fd = heap.share(extent).unwrap().unwrap();
    borrower.adopt(extent, &fd).unwrap();
    let mut body = Vec::with_capacity(64);
    let mut round = |n: usize| {
        let mut loan = heap.loan::<[u64; 32]>().unwrap();
        loan[0] = n as u64;
        heap.send(to, &mut a.sender, LANE, tell(), loan).unwrap();
        let received = b.receiver.try_receive(&mut body).unwrap().unwrap();
        let borrowed = borrower.resolve(&received, &body).unwrap();
        assert_eq!(borrowed.view().read::<u64>(0), Some(n as u64));
        drop(borrowed);
        b.receiver.finish(LANE, received.sequence.next());
        borrower.finished(LANE, received.sequence.next());
    };
    // Every object's number is known after the first lap.
    (0..10_000).for_each(&mut round);
    let before = allocations();
    (0..MESSAGES).for_each(&mut round);
    assert_eq!(allocations() - before, 0);
}
