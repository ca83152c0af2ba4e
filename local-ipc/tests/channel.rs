//! Both ends of a channel in one process: order, room, cursors, swaps, wake-ups.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{End, channel, channel_with, number, numbered, tell};
use weft_local_ipc::*;
use weft_types::{Lane, MAX_BODY_BYTES, MessageKind, PerLane, Sequence, TypeIndex};

const SMALL: Geometry = Geometry {
    slots: 8,
    arena_bytes: 128 * 1024,
    ..Geometry::DEFAULT.fixed()
};

#[test]
fn a_message_arrives_as_it_was_sent() {
    let (mut a, mut b) = channel(SMALL);
    let header = Header {
        kind: MessageKind::Reply,
        type_index: TypeIndex::new(513),
        correlation: Sequence::new(77),
        has_descriptors: true,
    };
    for len in [0, 1, 7, 8, 103, 104, 105, 4096, MAX_BODY_BYTES] {
        let sent: Vec<u8> = (0..len).map(|i| (i * 7 + len) as u8).collect();
        let sequence = a.sender.try_send(Lane::HIGH, header, &sent).unwrap();
        let mut body = b"left over".to_vec();
        let received = b.receiver.try_receive(&mut body).unwrap().unwrap();
        assert_eq!(
            received,
            Received {
                lane: Lane::HIGH,
                sequence,
                header,
                payload: Payload::Body,
            }
        );
        assert!(body == sent, "body of {len} bytes");
        b.receiver.finish(Lane::HIGH, sequence.next());
    }
    assert_eq!(b.receiver.try_receive(&mut Vec::new()), Ok(None));
}

#[test]
fn a_higher_lane_is_always_drained_first() {
    let (mut a, mut b) = channel(SMALL);
    for lane in [
        Lane::LOW,
        Lane::URGENT,
        Lane::NORMAL,
        Lane::HIGH,
        Lane::URGENT,
    ] {
        a.sender.try_send(lane, tell(), b"x").unwrap();
    }
    let mut body = Vec::new();
    let order: Vec<u8> = std::iter::from_fn(|| {
        b.receiver
            .try_receive(&mut body)
            .unwrap()
            .map(|r| r.lane.get())
    })
    .collect();
    assert_eq!(order, [0, 0, 1, 2, 3]);
}

#[test]
fn a_full_ring_has_room_again_when_the_receiver_has_done_more() {
    let (mut a, mut b) = channel(SMALL);
    let lane = Lane::NORMAL;
    for _ in 0..8 {
        assert!(a.sender.room(lane));
        a.sender.try_send(lane, tell(), b"x").unwrap();
    }
    assert!(!a.sender.room(lane));
    let full = Err(SendError::Full { lane });
    assert_eq!(a.sender.try_send(lane, tell(), b"x"), full);
    assert!(a.sender.room(Lane::HIGH), "another lane has its own ring");

    let mut body = Vec::new();
    b.receiver.try_receive(&mut body).unwrap().unwrap();
    assert_eq!(
        a.sender.try_send(lane, tell(), b"x"),
        full,
        "taken is not done"
    );
    b.receiver.finish(lane, Sequence::new(1));
    assert_eq!(a.sender.try_send(lane, tell(), b"x"), Ok(Sequence::new(8)));
    assert_eq!(a.sender.try_send(lane, tell(), b"x"), full);
}

#[test]
fn bodies_wrap_around_the_arena_unharmed() {
    let (mut a, mut b) = channel(SMALL);
    let lane = Lane::LOW;
    let mut body = Vec::new();
    let (mut sent, mut received) = (0u64, 0u64);
    let len = |n: u64| 105 + (n as usize * 7919) % 50_000;
    while received < 500 {
        if sent < 500 && a.sender.fits(lane, len(sent)) {
            let bytes = vec![(sent % 251) as u8; len(sent)];
            a.sender.try_send(lane, tell(), &bytes).unwrap();
            sent += 1;
            continue;
        }
        let got = b
            .receiver
            .try_receive_lane(lane, &mut body)
            .unwrap()
            .unwrap();
        assert_eq!(got.sequence.get(), received);
        assert_eq!(body.len(), len(received));
        assert!(body.iter().all(|&byte| u64::from(byte) == received % 251));
        received += 1;
        b.receiver.finish(lane, got.sequence.next());
    }
}

#[test]
fn a_body_that_can_never_fit_is_told_from_one_that_has_to_wait() {
    let (mut a, _b) = channel(Geometry {
        slots: 4,
        arena_bytes: 4096,
        ..Geometry::DEFAULT.fixed()
    });
    let lane = Lane::NORMAL;
    let too_large = |len_bytes| {
        Err(SendError::TooLarge {
            len_bytes,
            most_bytes: 4096,
        })
    };
    assert_eq!(a.sender.try_send(lane, tell(), &[0; 4097]), too_large(4097));
    a.sender.try_send(lane, tell(), &[0; 4000]).unwrap();
    let full = Err(SendError::Full { lane });
    assert_eq!(a.sender.try_send(lane, tell(), &[0; 200]), full);
    assert!(
        a.sender.try_send(lane, tell(), &[0; 104]).is_ok(),
        "needs no arena"
    );

    let (mut large, _b) = channel(SMALL);
    let body = vec![0; MAX_BODY_BYTES + 1];
    assert!(matches!(
        large.sender.try_send(lane, tell(), &body),
        Err(SendError::TooLarge { .. })
    ));
}

#[test]
fn a_channel_may_start_at_any_sequence_up_to_the_bound() {
    for first in [5, (1 << 40) + 3, MAX_SEQUENCE] {
        let at = PerLane([Sequence::new(first); 4]);
        let (mut a, mut b) = channel_with(
            SMALL,
            Start {
                outgoing: at,
                ..Start::default()
            },
            Start {
                incoming: at,
                ..Start::default()
            },
        );
        let mut body = Vec::new();
        for n in 0..30 {
            let sequence = a.sender.try_send(Lane::HIGH, tell(), &number(n)).unwrap();
            assert_eq!(sequence.get(), first + n);
            let got = b.receiver.try_receive(&mut body).unwrap().unwrap();
            assert_eq!((got.sequence, numbered(&body)), (sequence, n));
            b.receiver.finish(Lane::HIGH, sequence.next());
        }
    }
    let beyond = Start {
        outgoing: PerLane([Sequence::new(MAX_SEQUENCE + 1); 4]),
        ..Start::default()
    };
    assert!(matches!(
        OwnHalf::create(SMALL, beyond),
        Err(RegionError::StartOutOfRange)
    ));
}

#[test]
fn what_is_not_acknowledged_can_be_read_back_and_replayed() {
    let (mut a, mut b) = channel(SMALL);
    let lane = Lane::NORMAL;
    for n in 0..5u64 {
        let body = vec![n as u8; if n % 2 == 0 { 8 } else { 3000 }];
        a.sender.try_send(lane, tell(), &body).unwrap();
    }
    let mut body = Vec::new();
    b.receiver.try_receive(&mut body).unwrap().unwrap();
    b.receiver.try_receive(&mut body).unwrap().unwrap();
    b.receiver.finish(lane, Sequence::new(2));
    let kept = a.sender.unacknowledged(lane).unwrap();
    let kept_sequences: Vec<u64> = kept.iter().map(|(s, ..)| s.get()).collect();
    assert_eq!(kept_sequences, [2, 3, 4]);

    let mut outgoing = PerLane::default();
    outgoing[lane] = Sequence::new(2);
    let start = Start {
        outgoing,
        ..Start::default()
    };
    let mut successor = End::succeed(&b.swapper, start);
    let wrong = successor.sender.replay(lane, Sequence::new(3), tell(), b"");
    assert!(matches!(wrong, Err(SendError::OutOfTurn { .. })));
    for (sequence, header, body) in &kept {
        successor
            .sender
            .replay(lane, *sequence, *header, body)
            .unwrap();
    }
    successor.sender.try_send(lane, tell(), b"new").unwrap();
    for n in 2..5u64 {
        let got = b.receiver.try_receive(&mut body).unwrap().unwrap();
        assert_eq!(got.sequence.get(), n);
        assert!(body.iter().all(|&byte| u64::from(byte) == n));
    }
    let got = b.receiver.try_receive(&mut body).unwrap().unwrap();
    assert_eq!((got.sequence.get(), &body[..]), (5, &b"new"[..]));
}

#[test]
fn a_successor_may_find_that_more_was_acknowledged_than_it_has_replayed() {
    let (mut a, mut b) = channel(SMALL);
    let lane = Lane::NORMAL;
    let mut body = Vec::new();
    for _ in 0..4 {
        a.sender.try_send(lane, tell(), b"x").unwrap();
    }
    let kept = a.sender.unacknowledged(lane).unwrap();
    // Acknowledged after the state was taken.
    for _ in 0..3 {
        b.receiver.try_receive(&mut body).unwrap().unwrap();
    }
    b.receiver.finish(lane, Sequence::new(3));
    let mut successor = End::succeed(&b.swapper, Start::default());
    for (sequence, header, body) in &kept {
        successor
            .sender
            .replay(lane, *sequence, *header, body)
            .unwrap();
    }
    assert_eq!(successor.sender.done(lane), Ok(Sequence::new(3)));
    assert_eq!(
        successor.sender.try_send(lane, tell(), b"y"),
        Ok(Sequence::new(4))
    );
    let got = b.receiver.try_receive(&mut body).unwrap().unwrap();
    assert_eq!(got.sequence.get(), 3);
}

#[test]
fn a_consumer_swap_makes_the_successors_cursors_count() {
    let (mut a, mut b) = channel(SMALL);
    let lane = Lane::NORMAL;
    let mut body = Vec::new();
    for n in 0..8 {
        a.sender.try_send(lane, tell(), &number(n)).unwrap();
    }
    for _ in 0..5 {
        b.receiver.try_receive(&mut body).unwrap().unwrap();
    }
    b.receiver.finish(lane, Sequence::new(3));
    // The dead one had taken 5 and done 3: its successor starts at 5.
    let mut incoming = PerLane::default();
    incoming[lane] = Sequence::new(5);
    let start = Start {
        incoming,
        ..Start::default()
    };
    let mut successor = End::succeed(&a.swapper, start);
    assert_eq!(a.sender.done(lane), Ok(Sequence::new(5)));
    // The fenced one may go on writing its page: nobody looks.
    while b.receiver.try_receive(&mut body).unwrap().is_some() {}
    b.receiver.finish(lane, Sequence::new(8));
    assert_eq!(a.sender.done(lane), Ok(Sequence::new(5)));
    for n in 5..8 {
        let got = successor.receiver.try_receive(&mut body).unwrap().unwrap();
        assert_eq!((got.sequence.get(), numbered(&body)), (n, n));
    }
}

#[test]
fn a_successor_that_did_less_than_its_predecessor_is_a_fault() {
    let (mut a, mut b) = channel(SMALL);
    let lane = Lane::NORMAL;
    a.sender.try_send(lane, tell(), b"x").unwrap();
    b.receiver.try_receive(&mut Vec::new()).unwrap().unwrap();
    b.receiver.finish(lane, Sequence::new(1));
    assert_eq!(a.sender.done(lane), Ok(Sequence::new(1)));
    let _successor = End::succeed(&a.swapper, Start::default());
    let fault = PeerFault::CursorBack {
        lane,
        seen: Sequence::new(1),
        now: Sequence::ZERO,
    };
    assert_eq!(a.sender.done(lane), Err(fault));
    assert_eq!(
        a.sender.try_send(lane, tell(), b"y"),
        Err(SendError::Peer(fault))
    );
    assert!(a.sender.room(lane), "sending tells the fault");
}

#[test]
fn a_ring_that_starts_above_what_is_expected_is_a_gap() {
    let (mut a, mut b) = channel(SMALL);
    let lane = Lane::NORMAL;
    a.sender.try_send(lane, tell(), b"x").unwrap();
    let mut outgoing = PerLane::default();
    outgoing[lane] = Sequence::new(2);
    let start = Start {
        outgoing,
        ..Start::default()
    };
    let _successor = End::succeed(&b.swapper, start);
    let mut body = Vec::new();
    assert!(b.receiver.try_receive(&mut body).unwrap().is_some());
    let gap = PeerFault::Gap {
        lane,
        expected: Sequence::new(1),
        first: Sequence::new(2),
    };
    assert_eq!(b.receiver.try_receive(&mut body), Err(gap));

    // The same when a channel is connected.
    let own = OwnHalf::create(SMALL, Start::default()).unwrap();
    let peer = OwnHalf::create(SMALL, start).unwrap();
    let peer = PeerHalf::open(peer.share().unwrap()).unwrap();
    assert!(connect(own, peer).is_err());
}

#[test]
fn what_a_dead_peer_left_is_read_before_its_successors_messages() {
    let (mut a, mut b) = channel(SMALL);
    let lane = Lane::NORMAL;
    let mut body = Vec::new();
    // Its ring has been around a few times, and ends with three messages that nobody took.
    for n in 0..23 {
        a.sender.try_send(lane, tell(), &number(n)).unwrap();
        if n < 20 {
            let got = b.receiver.try_receive(&mut body).unwrap().unwrap();
            b.receiver.finish(lane, got.sequence.next());
        }
    }
    drop(a);
    let mut start = Start::default();
    start.outgoing[lane] = Sequence::new(23);
    let mut successor = End::succeed(&b.swapper, start);
    successor
        .sender
        .try_send(lane, tell(), &number(23))
        .unwrap();
    for n in 20..24 {
        let got = b.receiver.try_receive(&mut body).unwrap().unwrap();
        assert_eq!((got.sequence.get(), numbered(&body)), (n, n));
        b.receiver.finish(lane, got.sequence.next());
    }
    assert_eq!(b.receiver.try_receive(&mut body), Ok(None));
}

#[test]
fn rings_of_several_dead_peers_are_read_one_after_the_other() {
    let (mut a, mut b) = channel(SMALL);
    let lane = Lane::NORMAL;
    a.sender.try_send(lane, tell(), &number(0)).unwrap();
    a.sender.try_send(lane, tell(), &number(1)).unwrap();
    let mut ends = vec![a];
    for generation in 0..3u64 {
        // Each repeats the last message of its predecessor, and adds two.
        let mut outgoing = PerLane::default();
        outgoing[lane] = Sequence::new(1 + 2 * generation);
        let start = Start {
            outgoing,
            ..Start::default()
        };
        let mut next = End::succeed(&b.swapper, start);
        let from = 1 + 2 * generation;
        let repeated = Sequence::new(from);
        next.sender
            .replay(lane, repeated, tell(), &number(from))
            .unwrap();
        next.sender
            .try_send(lane, tell(), &number(from + 1))
            .unwrap();
        next.sender
            .try_send(lane, tell(), &number(from + 2))
            .unwrap();
        ends.push(next);
    }
    let mut body = Vec::new();
    for n in 0..8 {
        let got = b.receiver.try_receive(&mut body).unwrap().unwrap();
        assert_eq!((got.sequence.get(), numbered(&body)), (n, n));
    }
    assert_eq!(b.receiver.try_receive(&mut body), Ok(None));
    // Nothing is done yet, so all of it can be read again, from whichever half it lies in.
    for back in [7, 4, 2, 0] {
        b.receiver.rewind(lane, Sequence::new(back)).unwrap();
        for n in back..8 {
            let got = b.receiver.try_receive(&mut body).unwrap().unwrap();
            assert_eq!((got.sequence.get(), numbered(&body)), (n, n));
        }
    }
    assert_eq!(b.receiver.taken(lane), Sequence::new(8));
    b.receiver.finish(lane, Sequence::new(3));
    let done = RewindError::Done {
        lane,
        to: Sequence::new(2),
        done: Sequence::new(3),
    };
    assert_eq!(b.receiver.rewind(lane, Sequence::new(2)), Err(done));
    assert!(b.receiver.rewind(lane, Sequence::new(9)).is_err());
    b.receiver.rewind(lane, Sequence::new(3)).unwrap();
    let got = b.receiver.try_receive(&mut body).unwrap().unwrap();
    assert_eq!((got.sequence.get(), numbered(&body)), (3, 3));
    b.receiver.finish(lane, Sequence::new(8));
    assert_eq!(b.receiver.expected(lane), Sequence::new(8));
}

#[test]
fn skipped_messages_count_as_taken_and_only_published_ones_can_be_skipped() {
    let (mut a, mut b) = channel(SMALL);
    let lane = Lane::NORMAL;
    for n in 0..4 {
        a.sender.try_send(lane, tell(), &number(n)).unwrap();
    }
    assert!(b.receiver.skip(lane, Sequence::new(5)).is_err());
    assert_eq!(b.receiver.taken(lane), Sequence::ZERO);
    b.receiver.skip(lane, Sequence::new(3)).unwrap();
    let mut body = Vec::new();
    let got = b.receiver.try_receive(&mut body).unwrap().unwrap();
    assert_eq!((got.sequence.get(), numbered(&body)), (3, 3));
    b.receiver.rewind(lane, Sequence::new(1)).unwrap();
    let got = b.receiver.try_receive(&mut body).unwrap().unwrap();
    assert_eq!((got.sequence.get(), numbered(&body)), (1, 1));
}

#[test]
fn former_peers_are_bounded() {
    let (mut a, mut b) = channel(SMALL);
    let lane = Lane::NORMAL;
    a.sender.try_send(lane, tell(), b"x").unwrap();
    let mut body = Vec::new();
    // Those that add nothing do not count.
    for _ in 0..2 * MAX_FORMER_PEERS {
        let _dead = End::succeed(&b.swapper, Start::default());
        assert!(b.receiver.rewind(lane, Sequence::ZERO).is_ok());
    }
    assert!(b.receiver.try_receive(&mut body).unwrap().is_some());
    // The first peer counts, the last one is not a former one yet.
    for n in 1..=MAX_FORMER_PEERS as u64 {
        let mut outgoing = PerLane::default();
        outgoing[lane] = Sequence::new(n);
        let start = Start {
            outgoing,
            ..Start::default()
        };
        let mut next = End::succeed(&b.swapper, start);
        next.sender.try_send(lane, tell(), b"x").unwrap();
        assert!(b.receiver.try_receive(&mut body).unwrap().is_some());
    }
    let mut outgoing = PerLane::default();
    outgoing[lane] = Sequence::new(1 + MAX_FORMER_PEERS as u64);
    let _last = End::succeed(
        &b.swapper,
        Start {
            outgoing,
            ..Start::default()
        },
    );
    assert!(matches!(
        b.receiver.try_receive(&mut body),
        Err(PeerFault::TooManySwaps { .. })
    ));
}

#[test]
fn swaps_of_both_directions_under_load_lose_double_and_reorder_nothing() {
    const MESSAGES: u64 = 20_000;
    const SWAPS: u64 = 20;
    let lane = Lane::NORMAL;
    let (a, b) = channel(SMALL);

    // The survivor echoes what it gets, from its own threads' point of view without a pause.
    let swapper = b.swapper.clone();
    let survivor = thread::spawn(move || {
        let End {
            mut sender,
            mut receiver,
            ..
        } = b;
        let mut body = Vec::new();
        let mut next = 0;
        while next < MESSAGES {
            let Some(got) = receiver.try_receive(&mut body).unwrap() else {
                let _ = receiver.wait(Some(Duration::from_secs(5)));
                continue;
            };
            assert_eq!((got.sequence.get(), numbered(&body)), (next, next));
            while let Err(error) = sender.try_send(lane, tell(), &body) {
                assert_eq!(error, SendError::Full { lane });
                thread::yield_now();
            }
            next += 1;
            receiver.finish(lane, Sequence::new(next));
        }
        (sender, receiver)
    });

    // The other side sends and reads echoes, and is replaced again and again in the middle of it.
    let mut end = a;
    let (mut sent, mut echoed) = (0, 0);
    let mut body = Vec::new();
    for swap in 1..=SWAPS {
        let until = MESSAGES * swap / SWAPS;
        let deadline = Instant::now() + Duration::from_secs(20);
        while sent < until {
            assert!(
                Instant::now() < deadline,
                "stalled at {sent}, {echoed} echoed"
            );
            if end.sender.try_send(lane, tell(), &number(sent)).is_ok() {
                sent += 1;
            } else {
                thread::yield_now();
            }
            while let Some(got) = end.receiver.try_receive(&mut body).unwrap() {
                assert_eq!((got.sequence.get(), numbered(&body)), (echoed, echoed));
                echoed += 1;
                if echoed % 3 == 0 {
                    end.receiver.finish(lane, Sequence::new(echoed));
                }
            }
        }
        if swap == SWAPS {
            break;
        }
        // Freeze, take along, start the successor, swap, replay: as a move does.
        end.receiver.park_always();
        end.receiver.finish(lane, Sequence::new(echoed));
        let kept = end.sender.unacknowledged(lane).unwrap();
        let mut start = Start::default();
        start.incoming[lane] = Sequence::new(echoed);
        start.outgoing[lane] = kept.first().map_or(Sequence::new(sent), |kept| kept.0);
        let mut successor = End::succeed(&swapper, start);
        for (sequence, header, body) in &kept {
            successor
                .sender
                .replay(lane, *sequence, *header, body)
                .unwrap();
        }
        end = successor;
    }
    while echoed < MESSAGES {
        match end.receiver.try_receive(&mut body).unwrap() {
            Some(got) => {
                assert_eq!((got.sequence.get(), numbered(&body)), (echoed, echoed));
                echoed += 1;
                end.receiver.finish(lane, Sequence::new(echoed));
            }
            None => assert_eq!(
                end.receiver.wait(Some(Duration::from_secs(5))),
                Wait::Rung(0)
            ),
        }
    }
    let (_sender, receiver) = survivor.join().unwrap();
    assert_eq!(receiver.done(lane), Sequence::new(MESSAGES));
}

#[test]
fn a_send_rings_once_for_each_sleep() {
    let (mut a, mut b) = channel(SMALL);
    let bell = b.swapper.bell();
    let rings = |bell: &Bell, from: u32| bell.value().wrapping_sub(from);
    let start = bell.value();
    a.sender.try_send(Lane::NORMAL, tell(), b"x").unwrap();
    assert_eq!(rings(&bell, start), 0, "nobody sleeps");
    b.receiver.park();
    a.sender.try_send(Lane::NORMAL, tell(), b"x").unwrap();
    a.sender.try_send(Lane::NORMAL, tell(), b"x").unwrap();
    assert_eq!(rings(&bell, start), 1, "once for this sleep");
    b.receiver.unpark();
    b.receiver.park();
    a.sender.try_send(Lane::NORMAL, tell(), b"x").unwrap();
    assert_eq!(rings(&bell, start), 2, "again for the next");
    b.receiver.park_always();
    a.sender.try_send(Lane::NORMAL, tell(), b"x").unwrap();
    a.sender.try_send(Lane::NORMAL, tell(), b"x").unwrap();
    assert_eq!(rings(&bell, start), 4, "each time for a frozen one");
}

#[test]
fn a_successors_first_sleep_is_rung_for_though_its_predecessor_slept_as_often() {
    let (mut a, mut b) = channel(SMALL);
    b.receiver.park();
    a.sender.try_send(Lane::NORMAL, tell(), b"x").unwrap();
    let mut successor = End::succeed(&a.swapper, Start::default());
    let bell = successor.swapper.bell();
    let before = bell.value();
    successor.receiver.park();
    a.sender.try_send(Lane::NORMAL, tell(), b"x").unwrap();
    assert_ne!(bell.value(), before);
}

#[test]
fn a_successor_that_sleeps_already_hears_what_was_sent_before_the_swap() {
    let (mut a, _b) = channel(SMALL);
    let survivor = PeerHalf::open(a.swapper.share().unwrap()).unwrap();
    let own = OwnHalf::create(SMALL, Start::default()).unwrap();
    let half = PeerHalf::open(own.share().unwrap()).unwrap();
    let mut successor = End::connect(own, survivor);
    let bell = successor.swapper.bell();
    let seen = bell.value();
    successor.receiver.park();
    assert!(!successor.receiver.ready());
    // The sender still looks at the old peer, who is awake.
    a.sender.try_send(Lane::NORMAL, tell(), b"x").unwrap();
    assert_eq!(bell.value(), seen);
    a.swapper.swap(half);
    assert_eq!(
        wait_any(&[(bell, seen)], Some(Duration::ZERO)),
        Wait::Rung(0)
    );
    assert!(successor.receiver.ready());
}

#[test]
fn a_waiting_sender_is_rung_when_the_receiver_has_done_enough() {
    let (mut a, mut b) = channel(SMALL);
    let lane = Lane::NORMAL;
    for _ in 0..8 {
        a.sender.try_send(lane, tell(), b"x").unwrap();
    }
    let mut body = Vec::new();
    while b.receiver.try_receive(&mut body).unwrap().is_some() {}
    let bell = a.swapper.bell();
    let before = bell.value();
    assert!(!a.sender.wake_when_done(lane, Sequence::new(4)));
    b.receiver.finish(lane, Sequence::new(3));
    assert_eq!(bell.value(), before, "not yet");
    b.receiver.finish(lane, Sequence::new(5));
    assert_ne!(bell.value(), before);
    let after = bell.value();
    b.receiver.finish(lane, Sequence::new(6));
    assert_eq!(bell.value(), after, "once a mark");
    assert!(
        a.sender.wake_when_done(lane, Sequence::new(6)),
        "there already"
    );
}

#[test]
fn a_swap_ends_a_wait_on_the_old_bell_and_passes_the_doorbell_on() {
    let (mut a, b) = channel(SMALL);
    let bell = a.swapper.bell();
    let seen = bell.value();
    let waiter = thread::spawn({
        let bell = bell.clone();
        move || wait_any(&[(bell, seen)], Some(Duration::from_secs(10)))
    });
    thread::sleep(Duration::from_millis(20));
    let mut successor = End::succeed(&a.swapper, Start::default());
    assert_eq!(waiter.join().unwrap(), Wait::Rung(0));
    assert!(bell.is_superseded() && !a.swapper.bell().is_superseded());
    // The successor sleeps; the sender has not looked at it before.
    let sleeper = thread::spawn(move || {
        let wait = successor.receiver.wait(Some(Duration::from_secs(10)));
        (wait, successor.receiver.try_receive(&mut Vec::new()))
    });
    thread::sleep(Duration::from_millis(20));
    a.sender.try_send(Lane::NORMAL, tell(), b"x").unwrap();
    let (wait, received) = sleeper.join().unwrap();
    assert_eq!(wait, Wait::Rung(0));
    assert!(received.unwrap().is_some());
    drop(b);
}

/// Whenever the swap comes: before the sleeper looks, between its look and its sleep, or while it sleeps.
#[test]
fn a_swap_at_any_moment_ends_a_wait_on_the_old_bell() {
    let (mut a, _b) = channel(SMALL);
    for round in 0..300 {
        let bell = a.swapper.bell();
        let seen = bell.value();
        let waiter =
            thread::spawn(move || wait_any(&[(bell, seen)], Some(Duration::from_secs(60))));
        for _ in 0..round * 200 {
            std::hint::spin_loop();
        }
        let _successor = End::succeed(&a.swapper, Start::default());
        assert_eq!(waiter.join().unwrap(), Wait::Rung(0), "round {round}");
        a.sender.flush();
    }
}

#[test]
fn wait_any_times_out_and_hears_one_of_many() {
    let ends: Vec<(End, End)> = (0..200)
        .map(|_| {
            channel(Geometry {
                slots: 2,
                arena_bytes: 0,
                ..Geometry::DEFAULT.fixed()
            })
        })
        .collect();
    let bells: Vec<(Bell, u32)> = ends
        .iter()
        .map(|(a, _)| a.swapper.bell())
        .map(|bell| (bell.clone(), bell.value()))
        .collect();
    let begin = Instant::now();
    let wait = wait_any(&bells, Some(Duration::from_millis(20)));
    assert_eq!(wait, Wait::TimedOut);
    assert!(begin.elapsed() >= Duration::from_millis(20));
    for ringing in [0, 126, 127, 199] {
        let swapper = ends[ringing].1.swapper.clone();
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(5));
                swapper.ring();
            });
            let wait = wait_any(&bells, Some(Duration::from_secs(10)));
            assert!(matches!(wait, Wait::Rung(place) if place <= ringing));
            let wait = wait_any(&bells[ringing..], Some(Duration::from_secs(10)));
            assert_eq!(wait, Wait::Rung(0));
        });
    }
}

#[test]
fn a_watcher_hears_bells_swaps_and_hang_ups() {
    let watcher = Watcher::start("watcher").unwrap();
    let (mut a, b) = channel(SMALL);
    let (side, far_side) = SideSocket::pair().unwrap();
    let bells = Arc::new(AtomicU32::new(0));
    let hang_ups = Arc::new(AtomicU32::new(0));
    let until = |counter: &AtomicU32, at_least: u32| {
        let deadline = Instant::now() + Duration::from_secs(10);
        while counter.load(Ordering::SeqCst) < at_least {
            assert!(Instant::now() < deadline, "never told {at_least} times");
            thread::sleep(Duration::from_millis(1));
        }
    };
    let id = watcher.watch(
        &a.swapper,
        Some(std::os::fd::AsFd::as_fd(&side)),
        Arc::new({
            let (bells, hang_ups) = (Arc::clone(&bells), Arc::clone(&hang_ups));
            move |ring| {
                match ring {
                    Ring::Bell => bells.fetch_add(1, Ordering::SeqCst),
                    Ring::HangUp => hang_ups.fetch_add(1, Ordering::SeqCst),
                };
            }
        }),
    );
    b.swapper.ring();
    until(&bells, 1);
    let successor = End::succeed(&a.swapper, Start::default());
    until(&bells, 2);
    let so_far = bells.load(Ordering::SeqCst);
    successor.swapper.ring();
    until(&bells, so_far + 1);
    assert_eq!(hang_ups.load(Ordering::SeqCst), 0);
    drop(far_side);
    until(&hang_ups, 1);

    watcher.unwatch(id);
    thread::sleep(Duration::from_millis(20));
    let so_far = bells.load(Ordering::SeqCst);
    successor.swapper.ring();
    thread::sleep(Duration::from_millis(20));
    assert_eq!(bells.load(Ordering::SeqCst), so_far);
    assert!(a.sender.room(Lane::NORMAL));
    drop(watcher);
}
