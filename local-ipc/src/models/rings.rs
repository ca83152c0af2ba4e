//! Models of the ring: publishing, reuse of slots, growth, swaps, wake-ups, between real ends.
//!
//! No model waits for the other side: each thread does so many steps, and what is left is done when
//! both are over. Whatever happened until then, everything that was sent arrives once, whole and in
//! order. Beside each model stand those in which one ordering is taken away ([`Weak`]), to show that
//! it can fail; shuttle knows no weak orderings and leaves them out.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use weft_types::{Lane, MessageKind, Sequence, TypeIndex};

use super::words::Weak;
use super::{check, thread};
use crate::error::SendError;
use crate::half::{OwnHalf, PeerHalf};
use crate::layout::{self, Geometry, Start};
use crate::receiver::Receiver;
use crate::sender::Sender;
use crate::slot::Header;
use crate::swap::{Swapper, connect};

const LANE: Lane = Lane::URGENT;

const SMALL: Geometry = Geometry {
    slots: 2,
    slot_bytes: 64,
    arena_bytes: 4096,
    growth: 0,
};

/// How many messages a sender sends while the other side runs, and how often that looks.
#[cfg(loom)]
const MESSAGES: u64 = 4;
#[cfg(loom)]
const LOOKS: u64 = 4;
#[cfg(shuttle)]
const MESSAGES: u64 = 60;
#[cfg(shuttle)]
const LOOKS: u64 = 300;

/// Makes a half, and all words of it that both sides use.
fn half(geometry: Geometry, start: Start) -> OwnHalf {
    let half = OwnHalf::create(geometry, start).unwrap();
    let memory = &half.memory;
    for at in [layout::BELL_AT, layout::PARKED_AT, layout::GROWN_AT] {
        let _ = memory.word32(at);
    }
    for lane in Lane::ALL {
        let _ = memory.word64(layout::wake_at(lane));
        for segment in 0..=geometry.growth {
            let _ = memory.word64(layout::start_at(lane, segment));
            let _ = half.segment(lane, segment, 0);
        }
    }
    // Of the arena, what a body of the models takes.
    let at = geometry.arena_at(LANE, 0);
    memory.copy_in(at, &[0; 64]);
    half
}

fn view(half: &OwnHalf) -> PeerHalf {
    PeerHalf::open(half.share().unwrap()).unwrap()
}

/// One end of a channel, as far as a model uses it.
struct End {
    sender: Sender,
    receiver: Receiver,
    swapper: Swapper,
}

impl End {
    fn connect(own: OwnHalf, peer: PeerHalf) -> Self {
        let (sender, receiver, swapper) = connect(own, peer).unwrap();
        Self {
            sender,
            receiver,
            swapper,
        }
    }

    /// A successor of the peer of `survivor`; not swapped in yet.
    fn successor(survivor: &Swapper, geometry: Geometry, start: Start) -> (Self, PeerHalf) {
        let own = half(geometry, start);
        let shared = view(&own);
        let peer = PeerHalf::open(survivor.share().unwrap()).unwrap();
        (Self::connect(own, peer), shared)
    }
}

fn channel(geometry: Geometry) -> (End, End) {
    let (a, b) = (
        half(geometry, Start::default()),
        half(geometry, Start::default()),
    );
    let (to_a, to_b) = (view(&b), view(&a));
    (End::connect(a, to_a), End::connect(b, to_b))
}

fn tell() -> Header {
    Header {
        kind: MessageKind::Tell,
        type_index: TypeIndex::new(1),
        correlation: Sequence::ZERO,
        has_descriptors: false,
    }
}

/// The body of a message: two words, of which each says which one it is.
fn body(sequence: u64) -> [u8; 16] {
    let word = sequence + 7;
    let mut body = [0; 16];
    body[..8].copy_from_slice(&word.to_le_bytes());
    body[8..].copy_from_slice(&(!word).to_le_bytes());
    body
}

/// Sends the next message. `false` if there is no room.
fn send(sender: &mut Sender) -> bool {
    let next = sender.next(LANE).get();
    match sender.try_send_lazy(LANE, tell(), &body(next)) {
        Ok(sequence) => {
            assert_eq!(sequence.get(), next);
            true
        }
        Err(SendError::Full { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

/// Takes the next message, if there is one, and looks at it.
fn receive(receiver: &mut Receiver) -> bool {
    let expected = receiver.expected(LANE).get();
    let mut found = Vec::new();
    match receiver.try_receive(&mut found).unwrap() {
        None => false,
        Some(received) => {
            assert_eq!(received.sequence.get(), expected, "in turn");
            assert_eq!(found, body(expected), "torn");
            true
        }
    }
}

fn finish(receiver: &mut Receiver) {
    let taken = receiver.taken(LANE);
    receiver.finish(LANE, taken);
}

/// Both are still: all that is under way arrives, and then all that is sent.
fn drain(sender: &mut Sender, receiver: &mut Receiver) {
    finish(receiver);
    while receive(receiver) {
        finish(receiver);
    }
    assert_eq!(receiver.expected(LANE), sender.next(LANE), "lost");
    assert_eq!(sender.done(LANE), Ok(receiver.done(LANE)));
    for _ in 0..2 {
        assert!(send(sender), "no room");
        assert!(receive(receiver), "lost");
        finish(receiver);
    }
}

/// A sender that sends more than its ring holds, a receiver that looks, and finishes what it finds.
fn used_again(weak: Weak) {
    check(weak, || {
        let (a, mut b) = channel(SMALL);
        let mut sender = a.sender;
        let receiving = thread::spawn(move || {
            for _ in 0..LOOKS {
                if receive(&mut b.receiver) {
                    finish(&mut b.receiver);
                }
            }
            b
        });
        for _ in 0..MESSAGES {
            send(&mut sender);
        }
        let mut b = receiving.join().unwrap();
        drain(&mut sender, &mut b.receiver);
    });
}

#[test]
fn a_message_is_whole_and_its_slot_is_used_again_only_when_it_is_done() {
    used_again(Weak::Nothing);
}

#[cfg(loom)]
#[test]
#[should_panic(expected = "Causality violation")]
fn a_sequence_word_without_release_is_read_before_its_body() {
    used_again(Weak::Published);
}

#[cfg(loom)]
#[test]
#[should_panic(expected = "Causality violation")]
fn a_sequence_word_without_acquire_is_read_before_its_body() {
    used_again(Weak::Acquire);
}

#[cfg(loom)]
#[test]
#[should_panic(expected = "Causality violation")]
fn a_slot_is_used_again_too_early_if_done_has_no_release() {
    used_again(Weak::Done);
}

/// As [`used_again`], but takes and finishes what is there as rows.
fn rows(weak: Weak) {
    check(weak, || {
        let (a, mut b) = channel(SMALL);
        let mut sender = a.sender;
        let receiving = thread::spawn(move || {
            for _ in 1..LOOKS {
                let mut expected = b.receiver.expected(LANE).get();
                let taken = b.receiver.receive_row(3, |received, view| {
                    let mut found = [0; 16];
                    assert_eq!(received.sequence.get(), expected, "in turn");
                    assert!(view.copy_to(0, &mut found) && view.len() == 16);
                    assert_eq!(found, body(expected), "torn");
                    expected += 1;
                });
                assert!(taken.unwrap() <= 3);
                assert_eq!(b.receiver.expected(LANE).get(), expected);
                finish(&mut b.receiver);
            }
            b
        });
        for _ in 0..MESSAGES {
            send(&mut sender);
        }
        let mut b = receiving.join().unwrap();
        drain(&mut sender, &mut b.receiver);
    });
}

#[test]
fn a_row_is_whole_and_its_slots_are_used_again_only_when_they_are_done() {
    rows(Weak::Nothing);
}

#[cfg(loom)]
#[test]
#[should_panic(expected = "Causality violation")]
fn a_row_without_acquire_is_read_before_its_bodies() {
    rows(Weak::Acquire);
}

/// A body that lies in the arena: where is said in the slot.
fn in_the_arena(weak: Weak) {
    check(weak, || {
        let (a, mut b) = channel(SMALL);
        let mut sender = a.sender;
        let receiving = thread::spawn(move || {
            let mut bodies = Vec::new();
            for _ in 0..LOOKS {
                let mut found = Vec::new();
                if let Some(received) = b.receiver.try_receive(&mut found).unwrap() {
                    bodies.push((received.sequence.get(), found));
                    finish(&mut b.receiver);
                }
            }
            bodies
        });
        for sequence in 0..MESSAGES {
            let body = [sequence as u8 + 1; 56];
            if sender.try_send_lazy(LANE, tell(), &body).is_err() {
                break;
            }
        }
        for (place, (sequence, found)) in receiving.join().unwrap().into_iter().enumerate() {
            assert_eq!(sequence, place as u64);
            assert_eq!(found, [sequence as u8 + 1; 56], "torn");
        }
    });
}

#[test]
fn a_body_in_the_arena_is_whole() {
    in_the_arena(Weak::Nothing);
}

#[cfg(loom)]
#[test]
#[should_panic(expected = "Causality violation")]
fn an_arena_is_used_again_too_early_if_done_has_no_release() {
    in_the_arena(Weak::Done);
}

/// More messages than the first segment holds; nothing is finished meanwhile.
fn grows(weak: Weak) {
    check(weak, || {
        let (a, mut b) = channel(Geometry { growth: 1, ..SMALL });
        let mut sender = a.sender;
        let receiving = thread::spawn(move || {
            for _ in 0..LOOKS {
                receive(&mut b.receiver);
            }
            b
        });
        for _ in 0..MESSAGES {
            send(&mut sender);
        }
        assert!(sender.next(LANE).get() > 2, "it did not grow");
        let mut b = receiving.join().unwrap();
        drain(&mut sender, &mut b.receiver);
    });
}

#[test]
fn a_message_in_a_linked_segment_is_found() {
    grows(Weak::Nothing);
}

#[cfg(loom)]
#[test]
#[should_panic(expected = "lost")]
fn a_segment_counted_before_its_start_is_seen_is_never_found() {
    grows(Weak::Grown);
}

/// A second segment is linked while the receiver learns of the first.
#[test]
fn a_segment_linked_while_another_is_learnt_is_found() {
    check(Weak::Nothing, || {
        let (a, mut b) = channel(Geometry { growth: 2, ..SMALL });
        let mut sender = a.sender;
        // The first segment is full, and so is the next but for two.
        (0..4).for_each(|_| assert!(send(&mut sender)));
        let receiving = thread::spawn(move || {
            // Learns of what is linked by now.
            receive(&mut b.receiver);
            b
        });
        (0..3).for_each(|_| assert!(send(&mut sender)));
        let mut b = receiving.join().unwrap();
        drain(&mut sender, &mut b.receiver);
    });
}

/// The receiver dies between any two steps and is reaped; a successor goes on at its `done`, and the
/// sender hears of it whenever it looks.
fn consumer_swap(weak: Weak) {
    check(weak, || {
        let (a, mut b) = channel(SMALL);
        let mut sender = a.sender;
        let dying = thread::spawn(move || {
            // Takes two and finishes one.
            if receive(&mut b.receiver) {
                finish(&mut b.receiver);
                receive(&mut b.receiver);
            }
        });
        let sending = thread::spawn(move || {
            for _ in 0..MESSAGES {
                send(&mut sender);
            }
            sender
        });
        dying.join().unwrap();
        let dead = a.swapper.peer_cursors()[LANE];
        assert!(dead.done <= dead.taken);
        let mut start = Start::default();
        start.incoming[LANE] = dead.done;
        let (mut successor, shared) = End::successor(&a.swapper, SMALL, start);
        a.swapper.swap(shared);
        if receive(&mut successor.receiver) {
            finish(&mut successor.receiver);
        }
        let mut sender = sending.join().unwrap();
        drain(&mut sender, &mut successor.receiver);
    });
}

#[test]
fn a_successor_gets_what_the_dead_consumer_had_not_done() {
    consumer_swap(Weak::Nothing);
}

#[cfg(loom)]
#[test]
#[should_panic(expected = "Causality violation")]
fn after_a_consumer_swap_too_a_slot_waits_for_the_release_of_done() {
    consumer_swap(Weak::Done);
}

/// The sender dies having sent two messages, of which its successor replays what was not done, and goes
/// on. The receiver hears of it whenever it looks.
fn producer_swap(weak: Weak) {
    check(weak, || {
        let (mut a, mut b) = channel(Geometry { slots: 4, ..SMALL });
        assert!(send(&mut a.sender) && send(&mut a.sender));
        let swapper = b.swapper;
        let receiving = thread::spawn(move || {
            for _ in 0..LOOKS {
                receive(&mut b.receiver);
            }
            b.receiver
        });
        // Nothing is done, so both are replayed.
        let kept = a.sender.unacknowledged(LANE).unwrap();
        let geometry = Geometry { slots: 4, ..SMALL };
        let (mut successor, shared) = End::successor(&swapper, geometry, Start::default());
        swapper.swap(shared);
        for (sequence, header, body) in &kept {
            let replayed = successor.sender.replay(LANE, *sequence, *header, body);
            replayed.unwrap();
        }
        send(&mut successor.sender);
        let mut receiver = receiving.join().unwrap();
        while receive(&mut receiver) {}
        assert_eq!(receiver.expected(LANE), successor.sender.next(LANE), "lost");
        finish(&mut receiver);
        drain(&mut successor.sender, &mut receiver);
    });
}

#[test]
fn after_a_producer_swap_each_message_comes_once() {
    producer_swap(Weak::Nothing);
}

#[cfg(loom)]
#[test]
#[should_panic(expected = "Causality violation")]
fn what_a_successor_replays_is_published_with_release() {
    producer_swap(Weak::Published);
}

/// What a receiver that goes to sleep once sleeps on: its peer's bell, and the value it has seen; none if
/// it found something.
fn sleep_once(end: &mut End) -> Option<(crate::bell::Bell, u32)> {
    let bell = end.swapper.bell();
    let seen = bell.value();
    end.receiver.park();
    (!end.receiver.ready()).then_some((bell, seen))
}

fn is_woken(asleep: Option<(crate::bell::Bell, u32)>) {
    if let Some((bell, seen)) = asleep {
        let woken = bell.is_superseded() || bell.value() != seen;
        assert!(woken, "slept through");
    }
}

/// One message to a receiver that goes to sleep once.
fn wakes(weak: Weak) {
    check(weak, || {
        let (mut a, mut b) = channel(SMALL);
        let sleeping = thread::spawn(move || {
            let asleep = sleep_once(&mut b);
            (b, asleep)
        });
        a.sender.try_send(LANE, tell(), &body(0)).unwrap();
        let (mut b, asleep) = sleeping.join().unwrap();
        is_woken(asleep);
        drain(&mut a.sender, &mut b.receiver);
    });
}

#[test]
fn no_message_is_slept_through() {
    wakes(Weak::Nothing);
}

#[cfg(loom)]
#[test]
#[should_panic(expected = "slept through")]
fn without_the_full_fences_a_message_is_slept_through() {
    wakes(Weak::Full);
}

/// A message sent while a successor takes over and goes to sleep.
fn wakes_a_successor(weak: Weak) {
    check(weak, || {
        let (mut a, b) = channel(SMALL);
        let (mut successor, shared) = End::successor(&a.swapper, SMALL, Start::default());
        drop(b);
        let swapper = a.swapper.clone();
        let swapping = thread::spawn(move || swapper.swap(shared));
        let sleeping = thread::spawn(move || {
            let asleep = sleep_once(&mut successor);
            (successor, asleep)
        });
        a.sender.try_send(LANE, tell(), &body(0)).unwrap();
        let (mut successor, asleep) = sleeping.join().unwrap();
        swapping.join().unwrap();
        is_woken(asleep);
        drain(&mut a.sender, &mut successor.receiver);
    });
}

#[test]
fn no_message_of_a_swap_is_slept_through() {
    wakes_a_successor(Weak::Nothing);
}

#[cfg(loom)]
#[test]
#[should_panic(expected = "slept through")]
fn without_the_full_fences_a_message_of_a_swap_is_slept_through() {
    wakes_a_successor(Weak::Full);
}

/// The reverse bell: a sender at its full ring waits for room, the receiver makes some.
fn wakes_for_room(weak: Weak) {
    check(weak, || {
        let (mut a, mut b) = channel(SMALL);
        while send(&mut a.sender) {}
        let finishing = thread::spawn(move || {
            assert!(receive(&mut b.receiver));
            finish(&mut b.receiver);
            b
        });
        let bell = a.swapper.bell();
        let seen = bell.value();
        let is_done = a.sender.wake_when_done(LANE, Sequence::new(1));
        let mut b = finishing.join().unwrap();
        is_woken((!is_done).then_some((bell, seen)));
        drain(&mut a.sender, &mut b.receiver);
    });
}

#[test]
fn no_room_is_slept_through() {
    wakes_for_room(Weak::Nothing);
}

#[cfg(loom)]
#[test]
#[should_panic(expected = "slept through")]
fn without_the_full_fences_room_is_slept_through() {
    wakes_for_room(Weak::Full);
}
