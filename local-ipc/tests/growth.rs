//! Queues that grow: a full lane links a larger segment, and nothing about its messages changes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::thread;

use common::{End, channel, number, numbered, tell};
use weft_local_ipc::*;
use weft_types::{Lane, PerLane, Sequence};

const LANE: Lane = Lane::NORMAL;

/// Four slots and a page of arena, four times as much after two links.
const GROWING: Geometry = Geometry {
    slots: 4,
    slot_bytes: 128,
    arena_bytes: 4096,
    growth: 2,
};

/// Sends until the lane is full; how many there were.
fn fill(sender: &mut Sender, from: u64) -> u64 {
    let mut next = from;
    loop {
        match sender.try_send(LANE, tell(), &number(next)) {
            Ok(sequence) => assert_eq!(sequence.get(), next),
            Err(SendError::Full { lane }) => {
                assert_eq!(lane, LANE);
                return next - from;
            }
            Err(error) => panic!("{error}"),
        }
        next += 1;
    }
}

fn take(receiver: &mut Receiver, from: u64, count: u64) {
    let mut body = Vec::new();
    for n in from..from + count {
        let got = receiver.try_receive(&mut body).unwrap().unwrap();
        assert_eq!((got.sequence.get(), numbered(&body)), (n, n));
    }
}

#[test]
fn a_full_lane_grows_to_its_bound_and_keeps_order() {
    let (mut a, mut b) = channel(GROWING);
    // Nobody has done anything: all three segments are full.
    assert_eq!(fill(&mut a.sender, 0), 4 + 8 + 16);
    take(&mut b.receiver, 0, 28);
    assert_eq!(b.receiver.try_receive(&mut Vec::new()), Ok(None));
    b.receiver.finish(LANE, Sequence::new(12));
    assert_eq!(fill(&mut a.sender, 28), 0, "the older segments are over");
    b.receiver.finish(LANE, Sequence::new(28));
    assert_eq!(fill(&mut a.sender, 28), 16);
    take(&mut b.receiver, 28, 16);
}

#[test]
fn a_lane_grows_for_a_body_that_its_arena_has_no_room_for() {
    let (mut a, mut b) = channel(GROWING);
    for len in [4000, 8000, 16_000] {
        a.sender.try_send(LANE, tell(), &vec![7; len]).unwrap();
    }
    let too_large = a.sender.try_send(LANE, tell(), &[0; 16_385]);
    let most_bytes = 4 * 4096;
    assert!(
        matches!(too_large, Err(SendError::TooLarge { most_bytes: most, .. }) if most == most_bytes)
    );
    let mut body = Vec::new();
    for len in [4000, 8000, 16_000] {
        b.receiver.try_receive(&mut body).unwrap().unwrap();
        assert_eq!(body, vec![7; len]);
    }
}

#[test]
fn a_lane_grows_only_as_far_as_its_budget() {
    let (mut a, _b) = channel(GROWING);
    let first = a.sender.next_growth_bytes(LANE).unwrap();
    a.sender.set_growth_budget(first);
    assert_eq!(fill(&mut a.sender, 0), 4 + 8);
    a.sender
        .set_growth_budget(a.sender.next_growth_bytes(LANE).unwrap());
    assert_eq!(
        fill(&mut a.sender, 12),
        16,
        "the older slots are not used again"
    );
    assert_eq!(a.sender.next_growth_bytes(LANE), None);
}

#[test]
fn another_lane_does_not_grow_with_it() {
    let (mut a, mut b) = channel(GROWING);
    assert_eq!(fill(&mut a.sender, 0), 28);
    a.sender.try_send(Lane::URGENT, tell(), b"urgent").unwrap();
    let mut body = Vec::new();
    let got = b.receiver.try_receive(&mut body).unwrap().unwrap();
    assert_eq!((got.lane, &body[..]), (Lane::URGENT, &b"urgent"[..]));
}

#[test]
fn what_is_not_done_can_be_read_back_over_all_segments() {
    let (mut a, mut b) = channel(GROWING);
    assert_eq!(fill(&mut a.sender, 0), 28);
    take(&mut b.receiver, 0, 20);
    b.receiver.finish(LANE, Sequence::new(2));
    let kept = a.sender.unacknowledged(LANE).unwrap();
    let numbers: Vec<u64> = kept.iter().map(|(_, _, body)| numbered(body)).collect();
    assert_eq!(numbers, (2..28).collect::<Vec<_>>());
    b.receiver.rewind(LANE, Sequence::new(3)).unwrap();
    take(&mut b.receiver, 3, 25);
    let half = PeerHalf::open(a.swapper.share().unwrap()).unwrap();
    assert_eq!(half.published(LANE), Sequence::new(28));
    for from in [0, 3, 4, 11, 27] {
        let end = half.published_from(LANE, Sequence::new(from));
        assert_eq!(end, Sequence::new(28), "from {from}");
    }
}

#[test]
fn the_consumer_of_a_grown_lane_can_be_replaced() {
    let (mut a, mut b) = channel(GROWING);
    assert_eq!(fill(&mut a.sender, 0), 28);
    take(&mut b.receiver, 0, 9);
    b.receiver.finish(LANE, Sequence::new(6));
    let done = b.receiver.done(LANE);
    drop(b);
    let start = Start {
        incoming: PerLane([Sequence::ZERO, Sequence::ZERO, done, Sequence::ZERO]),
        ..Start::default()
    };
    let mut successor = End::succeed(&a.swapper, start);
    take(&mut successor.receiver, 6, 22);
    successor.receiver.finish(LANE, Sequence::new(28));
    assert_eq!(fill(&mut a.sender, 28), 16);
    take(&mut successor.receiver, 28, 16);
}

#[test]
fn what_a_dead_sender_left_in_a_grown_lane_comes_before_its_successors() {
    let (mut a, mut b) = channel(GROWING);
    assert_eq!(fill(&mut a.sender, 0), 28);
    take(&mut b.receiver, 0, 3);
    let published = PeerHalf::open(a.swapper.share().unwrap())
        .unwrap()
        .published(LANE);
    drop(a);
    let start = Start {
        outgoing: PerLane([Sequence::ZERO, Sequence::ZERO, published, Sequence::ZERO]),
        ..Start::default()
    };
    let mut successor = End::succeed(&b.swapper, start);
    assert_eq!(fill(&mut successor.sender, 28), 28);
    take(&mut b.receiver, 3, 53);
}

#[test]
fn a_million_messages_through_a_lane_that_grows_meanwhile() {
    let geometry = Geometry {
        slots: 2,
        arena_bytes: 4096,
        growth: 7,
        ..GROWING
    };
    let (mut a, mut b) = channel(geometry);
    let count = 1_000_000;
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut next = 0;
            while next < count {
                match a.sender.try_send_lazy(LANE, tell(), &number(next)) {
                    Ok(_) => next += 1,
                    Err(SendError::Full { .. }) => thread::yield_now(),
                    Err(error) => panic!("{error}"),
                }
            }
            a.sender.flush();
        });
        let mut body = Vec::new();
        let mut next = 0;
        while next < count {
            match b.receiver.try_receive(&mut body).unwrap() {
                Some(got) => {
                    assert_eq!((got.sequence.get(), numbered(&body)), (next, next));
                    next += 1;
                    // Not in step with the segments' sizes.
                    if next % 7 == 0 {
                        b.receiver.finish(LANE, got.sequence.next());
                    }
                }
                None => {
                    b.receiver.finish(LANE, Sequence::new(next));
                    thread::yield_now();
                }
            }
        }
    });
}

#[test]
fn a_batch_rings_once_and_says_how_much_of_it_went_out() {
    let (mut a, mut b) = channel(GROWING.fixed());
    b.receiver.park();
    let bell = b.swapper.bell();
    let before = bell.value();
    let bodies: Vec<[u8; 8]> = (0..10).map(number).collect();
    let messages = bodies.iter().map(|body| (tell(), &body[..]));
    let (sent, result) = a.sender.send_batch(LANE, messages);
    assert_eq!((sent, result), (4, Err(SendError::Full { lane: LANE })));
    assert_eq!(
        bell.value(),
        before.wrapping_add(1),
        "one ring for one sleep"
    );
    take(&mut b.receiver, 0, 4);
}

#[test]
fn a_lazy_message_is_told_of_by_the_flush() {
    let (mut a, mut b) = channel(GROWING);
    a.sender.try_send(LANE, tell(), &number(0)).unwrap();
    take(&mut b.receiver, 0, 1);
    b.receiver.park();
    let bell = b.swapper.bell();
    let before = bell.value();
    a.sender.try_send_lazy(LANE, tell(), &number(1)).unwrap();
    assert_eq!(bell.value(), before);
    a.sender.flush();
    assert_eq!(bell.value(), before.wrapping_add(1));
    take(&mut b.receiver, 1, 1);
}

#[test]
fn small_slots_carry_what_fits_a_line_and_the_rest_by_the_arena() {
    let (mut a, mut b) = channel(Geometry {
        slot_bytes: 64,
        ..GROWING
    });
    let mut body = Vec::new();
    for len in [0, 1, 40, 41, 47, 48, 49, 112, 113, 4000] {
        for correlation in [0, 9] {
            let header = Header {
                correlation: Sequence::new(correlation),
                ..tell()
            };
            let sent: Vec<u8> = (0..len).map(|i| i as u8).collect();
            a.sender.try_send(LANE, header, &sent).unwrap();
            let got = b.receiver.try_receive(&mut body).unwrap().unwrap();
            assert_eq!((got.header, &body), (header, &sent));
            b.receiver.finish(LANE, got.sequence.next());
        }
    }
}

#[test]
fn a_plain_value_comes_out_as_it_went_in_and_nothing_else_for_it() {
    let (mut a, mut b) = channel(GROWING);
    let value = [1u64, u64::MAX, 3];
    a.sender.try_send_value(LANE, tell(), &value).unwrap();
    let (got, back) = b.receiver.try_receive_value::<[u64; 3]>().unwrap().unwrap();
    assert_eq!((got.sequence, back), (Sequence::ZERO, value));
    a.sender.try_send_value(LANE, tell(), &7u32).unwrap();
    let wrong = PeerFault::WrongLength {
        lane: LANE,
        sequence: Sequence::new(1),
        len_bytes: 4,
        expected: 8,
    };
    assert_eq!(b.receiver.try_receive_value::<u64>(), Err(wrong));
    let (_, right) = b.receiver.try_receive_value::<u32>().unwrap().unwrap();
    assert_eq!(right, 7, "what was refused was not taken");
}

#[test]
fn values_in_a_row_stop_at_a_full_lane_without_losing_one() {
    let (mut a, mut b) = channel(GROWING);
    let mut values = (0..100u64).map(|n| [n, n, n]);
    let (sent, result) = a.sender.send_values(LANE, tell(), &mut values);
    assert_eq!((sent, result), (28, Err(SendError::Full { lane: LANE })));
    let mut received = 0;
    while received < 100 {
        match b.receiver.try_receive_value::<[u64; 3]>().unwrap() {
            Some((got, value)) => {
                assert_eq!((got.sequence.get(), value), (received, [received; 3]));
                received += 1;
                b.receiver.finish(LANE, got.sequence.next());
            }
            None => {
                let (_, result) = a.sender.send_values(LANE, tell(), &mut values);
                assert!(matches!(result, Ok(()) | Err(SendError::Full { .. })));
            }
        }
    }
    assert_eq!(a.sender.next(LANE), Sequence::new(100));
}

#[test]
fn an_iterator_that_panics_leaves_what_it_gave_before() {
    let (mut a, mut b) = channel(GROWING);
    a.sender.try_send_value(LANE, tell(), &0u64).unwrap();
    let values = (1..5u64).map(|n| if n == 3 { panic!("as asked") } else { n });
    let batch = std::panic::AssertUnwindSafe(|| a.sender.send_values(LANE, tell(), values));
    assert!(std::panic::catch_unwind(batch).is_err());
    a.sender.try_send_value(LANE, tell(), &9u64).unwrap();
    for expected in [0, 1, 2, 9] {
        let (_, value) = b.receiver.try_receive_value::<u64>().unwrap().unwrap();
        assert_eq!(value, expected);
    }
}

#[test]
fn values_too_large_for_a_slot_go_in_a_row_too() {
    let (mut a, mut b) = channel(Geometry {
        slot_bytes: 64,
        ..GROWING
    });
    let values = (0..3u64).map(|n| [n; 16]);
    assert_eq!(a.sender.send_values(LANE, tell(), values), (3, Ok(())));
    for n in 0..3 {
        let (_, value) = b
            .receiver
            .try_receive_value::<[u64; 16]>()
            .unwrap()
            .unwrap();
        assert_eq!(value, [n; 16]);
    }
}
