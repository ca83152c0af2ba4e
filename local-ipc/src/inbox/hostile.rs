//! Tests: members that lie, beside honest ones.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::thread;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use weft_types::{Lane, MessageKind, Sequence, TypeIndex};

use super::{Event, Inbox, Why};
use crate::sync::{AtomicU32, Ordering};
use crate::waiter::Wake;
use crate::{
    Doorbell, Geometry, Header, OwnHalf, PeerHalf, Receiver, Sender, Start, Swapper, connect,
    layout,
};

const TINY: Geometry = Geometry {
    slots: 8,
    slot_bytes: 128,
    arena_bytes: 4096,
    ..Geometry::DEFAULT.fixed()
};
const HONEST: u64 = 3;
/// How often the liar comes back once it was found out; each time maps two halves.
const LIVES: u32 = 50;
/// On the urgent lane, where a liar has no more right than they.
const MESSAGES: u64 = 10_000;

fn honest() -> (Receiver, Sender, Swapper) {
    let a = OwnHalf::create(TINY, Start::default()).unwrap();
    let b = OwnHalf::create(TINY, Start::default()).unwrap();
    let to_a = PeerHalf::open(b.share().unwrap()).unwrap();
    let to_b = PeerHalf::open(a.share().unwrap()).unwrap();
    let (_, receiver, _) = connect(a, to_a).unwrap();
    let (sender, _, swapper) = connect(b, to_b).unwrap();
    (receiver, sender, swapper)
}

/// A receiver whose peer is a half that the test writes as it likes.
fn lied_to() -> (Receiver, OwnHalf) {
    let own = OwnHalf::create(TINY, Start::default()).unwrap();
    let liar = OwnHalf::create(TINY, Start::default()).unwrap();
    let peer = PeerHalf::open(liar.share().unwrap()).unwrap();
    let (_, receiver, _) = connect(own, peer).unwrap();
    (receiver, liar)
}

fn tell() -> Header {
    Header {
        kind: MessageKind::Tell,
        type_index: TypeIndex::new(1),
        correlation: Sequence::ZERO,
        has_descriptors: false,
    }
}

/// Scribbles over the whole half, its bell above all, until told to stop. Each liar is added again when
/// it was found out.
fn among_liars(doorbells: bool) {
    let mut inbox = Inbox::new(Wake::Now);
    let mut senders = Vec::new();
    for key in 0..HONEST {
        let (receiver, sender, swapper) = honest();
        let member = inbox.add(key, receiver).unwrap();
        if doorbells {
            let (doorbell, far) = Doorbell::pair().unwrap();
            swapper.ring_through(far).unwrap();
            inbox.set_doorbell(member, doorbell).unwrap();
        }
        senders.push(sender);
    }
    let (receiver, liar) = lied_to();
    let member = inbox.add(HONEST, receiver).unwrap();
    let knocker = doorbells.then(|| {
        let (doorbell, far) = Doorbell::pair().unwrap();
        inbox.set_doorbell(member, doorbell).unwrap();
        crate::sys::doorbell::Knocker::new(far).unwrap()
    });
    let stop = AtomicU32::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = SmallRng::seed_from_u64(1);
            let words = (TINY.region_bytes() as usize - layout::BELL_AT) / 8;
            while stop.load(Ordering::Relaxed) == 0 {
                let at = match random.random_range(0..3) {
                    0 => layout::BELL_AT,
                    _ => layout::BELL_AT + 8 * random.random_range(0..words),
                };
                let value = match random.random_range(0..3) {
                    0 => random.random_range(0..12),
                    1 => 1 << 16 | random.random_range(0..8) << 32,
                    _ => random.random(),
                };
                liar.memory.word64(at).store(value, Ordering::Relaxed);
                crate::bell::wake_shared(&liar.memory.word32(layout::BELL_AT));
                if let Some(knocker) = &knocker {
                    knocker.knock();
                }
                if random.random_range(0..64) == 0 {
                    thread::sleep(Duration::from_micros(100));
                }
            }
        });
        scope.spawn(|| {
            let mut sent = [0; HONEST as usize];
            while sent.iter().any(|&sent| sent < MESSAGES) {
                for (sent, sender) in sent.iter_mut().zip(&mut senders) {
                    let body = sent.to_le_bytes();
                    if *sent < MESSAGES && sender.try_send(Lane::URGENT, tell(), &body).is_ok() {
                        *sent += 1;
                    }
                }
                thread::yield_now();
            }
        });
        let mut next = [0; HONEST as usize];
        let mut faults = 0;
        while next.iter().any(|&next| next < MESSAGES) {
            match inbox.next(Some(Duration::from_secs(20))).expect("in time") {
                Event::Message(message) if *message.key < HONEST => {
                    let next = &mut next[*message.key as usize];
                    assert_eq!(message.body, next.to_le_bytes());
                    *next += 1;
                    let (member, received) = (message.member, message.received);
                    inbox.finish(member, received.lane, received.sequence.next());
                }
                Event::Message(message) => {
                    let (member, received) = (message.member, message.received);
                    inbox.finish(member, received.lane, received.sequence.next());
                }
                Event::Left(left) => {
                    assert_eq!(left.key, HONEST, "an honest member was expelled: {left:?}");
                    assert!(matches!(left.why, Why::Fault(_)));
                    faults += 1;
                    if faults == LIVES {
                        continue;
                    }
                    let peer = PeerHalf::open(liar.share().unwrap());
                    let own = OwnHalf::create(TINY, Start::default()).unwrap();
                    if let Some((_, receiver, _)) =
                        peer.ok().and_then(|peer| connect(own, peer).ok())
                    {
                        inbox.add(HONEST, receiver).unwrap();
                    }
                }
            }
        }
        stop.store(1, Ordering::Relaxed);
        assert!(faults > 0, "the liar was never found out");
    });
}

#[test]
fn a_liar_leaves_and_the_honest_lose_nothing() {
    among_liars(false);
}

// Without the kernel's help there are no doorbells.
#[cfg(not(weft_portable))]
#[test]
fn a_liar_that_knocks_without_end_disturbs_nobody() {
    among_liars(true);
}
