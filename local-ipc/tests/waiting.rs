//! No wake-up is lost, however a receiver waits; and what each way of waiting promises.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use common::{End, channel, number, numbered, tell};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use weft_local_ipc::*;
use weft_types::{Lane, Sequence};

const ROLE: &str = "WEFT_WAITING_ROLE";
const PATIENCE: Option<Duration> = Some(Duration::from_secs(20));
const MESSAGES: u64 = 1_000_000;
/// One wait in so many is a sleep for sure.
const SLEEPS: u32 = 64;

const GEOMETRY: Geometry = Geometry {
    slots: 256,
    slot_bytes: 64,
    arena_bytes: 0,
    growth: 0,
};

/// Sends numbered messages with pauses at random, so that the receiver runs dry now and then.
fn send_at_random(sender: &mut Sender, bell: impl Fn() -> (Bell, u32)) {
    let mut random = SmallRng::seed_from_u64(11);
    for n in 0..MESSAGES {
        match random.random_range(0..2_000) {
            0 => thread::sleep(Duration::from_micros(random.random_range(0..60))),
            1..20 => thread::yield_now(),
            _ => {}
        }
        while sender.try_send(Lane::LOW, tell(), &number(n)).is_err() {
            let (bell, seen) = bell();
            if !sender.wake_when_room(Lane::LOW) {
                assert_ne!(wait_any(&[(bell, seen)], PATIENCE), Wait::TimedOut);
            }
        }
    }
}

/// Takes all of them, and waits in another way each time.
fn receive_at_random(receiver: &mut Receiver) {
    let mut random = SmallRng::seed_from_u64(12);
    let mut body = Vec::new();
    let mut waiters = [
        Waiter::default(),
        Waiter::default().without_spinning(),
        Waiter::new(Wake::Batched(Duration::from_micros(50))),
    ];
    let mut next = 0;
    while next < MESSAGES {
        if let Some(received) = receiver.try_receive(&mut body).unwrap() {
            assert_eq!(numbered(&body), next);
            next += 1;
            receiver.finish(received.lane, received.sequence.next());
            if random.random_range(0..SLEEPS) > 0 {
                continue;
            }
        }
        let wait = match random.random_range(0..8) {
            0 => receiver.wait_spinning(Spin::lasting(Duration::ZERO), PATIENCE),
            1 => receiver.wait(PATIENCE),
            2 => {
                receiver.park();
                thread::yield_now();
                receiver.unpark();
                continue;
            }
            which if next < MESSAGES => waiters[which % 3].wait(receiver, PATIENCE),
            _ => continue,
        };
        assert!(
            wait != Wait::TimedOut || next == MESSAGES,
            "slept through message {next}"
        );
    }
}

#[test]
fn a_receiver_that_parks_at_random_loses_nothing_between_threads() {
    let (mut ours, theirs) = channel(GEOMETRY);
    let sending = thread::spawn(move || {
        let End {
            mut sender,
            receiver,
            swapper,
        } = theirs;
        send_at_random(&mut sender, || {
            let bell = swapper.bell();
            let seen = bell.value();
            (bell, seen)
        });
        (sender, receiver)
    });
    receive_at_random(&mut ours.receiver);
    drop(sending.join().unwrap());
}

#[test]
fn a_receiver_that_parks_at_random_loses_nothing_between_processes() {
    let (side, far) = SideSocket::pair().unwrap();
    let mut child = common::other::again()
        .args(["--exact", "the_other_process", "--ignored", "--nocapture"])
        .env(ROLE, "send")
        .stdin(Stdio::from(OwnedFd::from(far)))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut end = handshake(&side);
    receive_at_random(&mut end.receiver);
    side.send(b"done", &[]).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
#[ignore = "the other side of a test here, which starts it"]
fn the_other_process() {
    if std::env::var(ROLE).is_err() {
        // Somebody runs all ignored tests: this is none.
        return;
    }
    die_with_parent().unwrap();
    let side = SideSocket::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    let mut end = handshake(&side);
    let swapper = end.swapper.clone();
    send_at_random(&mut end.sender, || {
        let bell = swapper.bell();
        let seen = bell.value();
        (bell, seen)
    });
    side.receive(PATIENCE).unwrap().expect("in time");
}

fn handshake(side: &SideSocket) -> End {
    let own = OwnHalf::create(GEOMETRY, Start::default()).unwrap();
    side.send(b"half", &[own.share().unwrap().as_fd()]).unwrap();
    let (_, mut fds) = side.receive(PATIENCE).unwrap().expect("in time");
    End::connect(own, PeerHalf::open(fds.remove(0)).unwrap())
}

/// The bell's value counts the rings.
fn rings(swapper: &Swapper) -> u32 {
    swapper.bell().value()
}

#[test]
fn a_batching_receiver_is_not_rung_for_and_takes_what_gathered() {
    let (mut ours, mut theirs) = channel(GEOMETRY);
    let mut waiter = Waiter::new(Wake::Batched(Duration::from_millis(1)));
    let mut body = Vec::new();
    let before = rings(&ours.swapper);
    for round in 0..20 {
        for n in 0..5 {
            theirs
                .sender
                .try_send(Lane::LOW, tell(), &number(n))
                .unwrap();
        }
        while let Some(received) = ours.receiver.try_receive(&mut body).unwrap() {
            ours.receiver
                .finish(received.lane, received.sequence.next());
        }
        // A nap in vain, fewer than make it park.
        let _ = waiter.wait(&mut ours.receiver, PATIENCE);
        assert_eq!(rings(&ours.swapper), before, "round {round}");
        if round % 2 == 0 {
            theirs
                .sender
                .try_send(Lane::LOW, tell(), &number(5))
                .unwrap();
            assert_eq!(waiter.wait(&mut ours.receiver, PATIENCE), Wait::Rung(0));
        }
    }
}

#[test]
fn a_batching_receiver_without_traffic_parks_and_is_woken() {
    let (mut ours, mut theirs) = channel(GEOMETRY);
    let mut waiter = Waiter::new(Wake::Batched(Duration::from_millis(1)));
    let sending = thread::spawn(move || {
        thread::sleep(Duration::from_millis(100));
        theirs
            .sender
            .try_send(Lane::LOW, tell(), &number(5))
            .unwrap();
        theirs
    });
    let mut waits = 0;
    while !ours.receiver.ready() {
        assert_eq!(waiter.wait(&mut ours.receiver, PATIENCE), Wait::Rung(0));
        waits += 1;
    }
    assert!(waits <= NAPS_IN_VAIN + 1, "{waits} naps, and no sleep");
    drop(sending.join().unwrap());
}

#[test]
fn a_wait_ends_with_its_time() {
    let (mut ours, _theirs) = channel(GEOMETRY);
    for mut waiter in [
        Waiter::default(),
        Waiter::default().without_spinning(),
        Waiter::new(Wake::Batched(Duration::from_millis(50))),
    ] {
        let begin = Instant::now();
        let wait = waiter.wait(&mut ours.receiver, Some(Duration::from_millis(5)));
        assert_eq!(wait, Wait::TimedOut);
        assert!(begin.elapsed() >= Duration::from_millis(5));
    }
}

#[test]
fn a_receiver_that_waits_in_vain_for_long_does_not_spin_the_next_time() {
    let (mut ours, _theirs) = channel(GEOMETRY);
    let mut waiter = Waiter::default();
    for _ in 0..10 {
        let wait = waiter.wait(&mut ours.receiver, Some(Duration::from_millis(2)));
        assert_eq!(wait, Wait::TimedOut);
    }
    assert_eq!(waiter.bound(), Duration::ZERO);
}

#[test]
fn a_message_sent_with_the_core_given_up_has_arrived() {
    let (mut ours, mut theirs) = channel(GEOMETRY);
    let sequence = theirs
        .sender
        .send_and_yield(Lane::LOW, tell(), &number(1))
        .unwrap();
    assert_eq!(sequence, Sequence::ZERO);
    assert!(
        ours.receiver
            .try_receive(&mut Vec::new())
            .unwrap()
            .is_some()
    );
}
