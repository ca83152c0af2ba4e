//! Channels under tokio. Built with the feature `tokio`, where there are doorbells.
#![cfg(all(feature = "tokio", not(weft_portable)))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::thread;
use std::time::Duration;

use common::{End, channel, number, numbered, tell};
use tokio::time::timeout;
use weft_local_ipc::*;
use weft_types::{Lane, PerLane, Sequence};

const SMALL: Geometry = Geometry {
    slots: 8,
    slot_bytes: 64,
    arena_bytes: 0,
    growth: 0,
};
const PATIENCE: Duration = Duration::from_secs(20);
const LANE: Lane = Lane::NORMAL;

/// Both ends under tokio, each with a doorbell at which the other knocks.
fn two() -> ((AsyncSender, AsyncReceiver), (AsyncSender, AsyncReceiver)) {
    let (a, b) = channel(SMALL);
    let (bell_of_a, far_of_a) = Doorbell::pair().unwrap();
    let (bell_of_b, far_of_b) = Doorbell::pair().unwrap();
    a.swapper.ring_through(far_of_b).unwrap();
    b.swapper.ring_through(far_of_a).unwrap();
    (
        asynchronous(a.sender, a.receiver, bell_of_a).unwrap(),
        asynchronous(b.sender, b.receiver, bell_of_b).unwrap(),
    )
}

/// Sends all, while the other side of it takes all: through a ring of eight, so that both wait.
async fn exchange(count: u64) {
    let ((mut send, _keep), (_back, mut recv)) = two();
    let sending = tokio::spawn(async move {
        for n in 0..count {
            send.send(LANE, tell(), &number(n)).await.unwrap();
        }
        (send, _keep)
    });
    let mut body = Vec::new();
    for n in 0..count {
        let received = timeout(PATIENCE, recv.recv(&mut body))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(numbered(&body), n);
        recv.get_mut().finish(LANE, received.sequence.next());
    }
    drop(sending.await.unwrap());
}

#[tokio::test]
async fn nothing_is_lost_between_two_tasks_of_one_thread() {
    exchange(20_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_between_two_threads() {
    exchange(20_000).await;
}

#[tokio::test]
async fn a_receiver_that_awaits_hears_a_thread_that_does_not() {
    let (ours, mut theirs) = channel(SMALL);
    let (bell, far) = Doorbell::pair().unwrap();
    let (_send, mut recv) = asynchronous(ours.sender, ours.receiver, bell).unwrap();
    let other = thread::spawn(move || {
        // Before the peer knows of the doorbell: heard as soon as it does.
        thread::sleep(Duration::from_millis(20));
        theirs.sender.try_send(LANE, tell(), &number(1)).unwrap();
        thread::sleep(Duration::from_millis(20));
        theirs.swapper.ring_through(far).unwrap();
        thread::sleep(Duration::from_millis(20));
        theirs.sender.try_send(LANE, tell(), &number(2)).unwrap();
        theirs
    });
    let mut body = Vec::new();
    for n in [1, 2] {
        timeout(PATIENCE, recv.recv(&mut body))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(numbered(&body), n);
    }
    drop(other.join().unwrap());
}

#[tokio::test]
async fn a_wait_that_is_given_up_takes_nothing() {
    let ((mut send, _keep), (_back, mut recv)) = two();
    let mut body = Vec::new();
    for n in 0..8 {
        let early = timeout(Duration::from_millis(2), recv.recv(&mut body)).await;
        assert!(early.is_err());
        send.send(LANE, tell(), &number(n)).await.unwrap();
        recv.recv(&mut body).await.unwrap();
        assert_eq!(numbered(&body), n);
    }
    let late = timeout(
        Duration::from_millis(2),
        send.send(LANE, tell(), &number(8)),
    )
    .await;
    assert!(late.is_err(), "the lane is full");
    recv.get_mut().finish(LANE, Sequence::new(1));
    let sequence = send.send(LANE, tell(), &number(8)).await.unwrap();
    assert_eq!(sequence, Sequence::new(8));
}

#[tokio::test]
async fn both_ends_of_a_channel_wait_on_its_one_doorbell() {
    let ((mut send, mut recv), (mut back, mut far)) = two();
    // Full in one direction, empty in the other: our sender and our receiver both wait.
    for n in 0..8 {
        send.send(LANE, tell(), &number(n)).await.unwrap();
    }
    let sending = tokio::spawn(async move {
        send.send(LANE, tell(), &number(8)).await.unwrap();
        send
    });
    let receiving = tokio::spawn(async move {
        let mut body = Vec::new();
        recv.recv(&mut body).await.unwrap();
        (recv, numbered(&body))
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    back.send(LANE, tell(), &number(77)).await.unwrap();
    far.recv(&mut Vec::new()).await.unwrap();
    far.get_mut().finish(LANE, Sequence::new(1));
    let (_recv, heard) = timeout(PATIENCE, receiving).await.unwrap().unwrap();
    assert_eq!(heard, 77);
    drop(timeout(PATIENCE, sending).await.unwrap().unwrap());
}

#[tokio::test]
async fn a_swap_ends_the_wait_for_the_old_peer() {
    let (ours, theirs) = channel(SMALL);
    let (bell, far) = Doorbell::pair().unwrap();
    theirs.swapper.ring_through(far).unwrap();
    let swapper = ours.swapper.clone();
    let (_send, mut recv) = asynchronous(ours.sender, ours.receiver, bell).unwrap();
    let other = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        let start = Start {
            outgoing: PerLane::from_fn(|_| Sequence::ZERO),
            ..Start::default()
        };
        let survivor = PeerHalf::open(swapper.share().unwrap()).unwrap();
        let own = OwnHalf::create(survivor.geometry(), start).unwrap();
        let shared = PeerHalf::open(own.share().unwrap()).unwrap();
        let mut end = End::connect(own, survivor);
        end.sender.try_send(LANE, tell(), &number(5)).unwrap();
        swapper.swap(shared);
        (end, theirs)
    });
    let mut body = Vec::new();
    timeout(PATIENCE, recv.recv(&mut body))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(numbered(&body), 5);
    drop(other.join().unwrap());
}

#[tokio::test]
async fn a_peer_that_is_gone_is_told_after_its_last_message() {
    let ((mut send, _keep), (back, mut recv)) = two();
    send.send(LANE, tell(), &number(1)).await.unwrap();
    let gone = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        drop((send, _keep));
    });
    let mut body = Vec::new();
    recv.recv(&mut body).await.unwrap();
    assert_eq!(numbered(&body), 1);
    let end = timeout(PATIENCE, recv.recv(&mut body)).await.unwrap();
    assert_eq!(end, Err(RecvError::HungUp));
    gone.join().unwrap();
    drop(back);
}
