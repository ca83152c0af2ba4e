//! Many messages at once: what the model test cannot show.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};

use common::{End, channel, number, numbered, tell};
use weft_local_ipc::*;
use weft_types::{Lane, Sequence};

const LANE: Lane = Lane::NORMAL;

fn send(end: &mut End, lane: Lane, numbers: std::ops::Range<u64>) {
    let count = (numbers.end - numbers.start) as usize;
    let (sent, result) = end.sender.send_row::<u64>(lane, tell(), count, |n, value| {
        *value = numbers.start + n as u64
    });
    assert_eq!((sent, result), (count, Ok(())));
}

fn row(end: &mut End, most: usize) -> Vec<(Lane, u64)> {
    let mut got = Vec::new();
    let count = end.receiver.receive_row(most, |received, view| {
        got.push((received.lane, view.read::<u64>(0).unwrap()));
    });
    assert_eq!(count, Ok(got.len()));
    got
}

#[test]
fn a_row_is_of_one_lane_the_most_urgent_first() {
    let (mut a, mut b) = channel(Geometry::DEFAULT);
    send(&mut a, Lane::LOW, 0..3);
    send(&mut a, Lane::URGENT, 10..15);
    let urgent = Lane::URGENT;
    assert_eq!(row(&mut b, 2), [(urgent, 10), (urgent, 11)]);
    assert_eq!(row(&mut b, 100), [(urgent, 12), (urgent, 13), (urgent, 14)]);
    assert_eq!(row(&mut b, 100).len(), 3);
    assert_eq!(row(&mut b, 100), []);
}

#[test]
fn a_row_is_taken_before_its_first_message_is_handed_out() {
    let (mut a, mut b) = channel(Geometry::DEFAULT);
    send(&mut a, LANE, 0..5);
    let swapper = a.swapper.clone();
    let mut seen = Vec::new();
    let taken = b.receiver.receive_row(3, |_, _| {
        seen.push(swapper.peer_cursors()[LANE].taken.get());
    });
    assert_eq!(taken, Ok(3));
    assert_eq!(seen, [3, 3, 3]);
}

#[test]
fn a_row_ends_with_the_ring_and_goes_on_once_there_is_room() {
    let geometry = Geometry {
        slots: 4,
        ..Geometry::DEFAULT.fixed()
    };
    let (mut a, mut b) = channel(geometry);
    let (sent, result) = a
        .sender
        .send_row::<u64>(LANE, tell(), 6, |n, value| *value = n as u64);
    assert_eq!((sent, result), (4, Err(SendError::Full { lane: LANE })));
    assert_eq!(row(&mut b, 100).len(), 4);
    b.receiver.finish(LANE, Sequence::new(3));
    send(&mut a, LANE, 4..7);
    assert_eq!(row(&mut b, 100), [(LANE, 4), (LANE, 5), (LANE, 6)]);
}

#[test]
fn who_panics_in_a_row_has_sent_and_read_what_came_before() {
    let (mut a, mut b) = channel(Geometry::DEFAULT);
    let sending = catch_unwind(AssertUnwindSafe(|| {
        a.sender.send_row::<u64>(LANE, tell(), 5, |n, value| {
            *value = n as u64;
            assert!(n < 3, "here");
        })
    }));
    assert!(sending.is_err());
    send(&mut a, LANE, 3..5);
    let mut got = Vec::new();
    let reading = catch_unwind(AssertUnwindSafe(|| {
        b.receiver.receive_row(100, |_, view| {
            let value = view.read::<u64>(0).unwrap();
            assert!(value < 2, "here");
            got.push(value);
        })
    }));
    assert!(reading.is_err());
    let rest = row(&mut b, 100).into_iter().map(|(_, value)| value);
    assert_eq!(
        got.into_iter().chain(rest).collect::<Vec<_>>(),
        [0, 1, 2, 3, 4]
    );
    assert_eq!(row(&mut b, 100), []);
}

#[test]
fn values_that_do_not_fit_a_slot_go_through_the_arena() {
    let (mut a, mut b) = channel(Geometry::DEFAULT);
    let (sent, result) = a
        .sender
        .send_row::<[u64; 100]>(LANE, tell(), 10, |n, value| value[99] = n as u64);
    assert_eq!((sent, result), (10, Ok(())));
    let mut got = Vec::new();
    let count = b.receiver.receive_row(100, |_, view| {
        got.push(view.words().unwrap().get(99).unwrap());
    });
    assert_eq!(count, Ok(10));
    assert_eq!(got, (0..10).collect::<Vec<_>>());
}

#[test]
fn rows_of_an_inbox_take_turns_and_an_urgent_one_goes_first() {
    let mut inbox = Inbox::default();
    let mut ends: Vec<End> = Vec::new();
    for key in 0..2 {
        let (a, b) = channel(Geometry::DEFAULT);
        inbox.add(key, b.receiver).unwrap();
        ends.push(a);
    }
    send(&mut ends[0], LANE, 0..6);
    send(&mut ends[1], LANE, 10..16);
    send(&mut ends[1], Lane::URGENT, 20..22);
    let mut order = Vec::new();
    let mut got = Vec::new();
    while let Some(row) = inbox.try_row(3, |_, &key, received, view| {
        got.push((key, received.lane, view.read::<u64>(0).unwrap()));
    }) {
        let Row::Messages {
            member,
            lane,
            count,
            up_to,
        } = row
        else {
            panic!("nobody leaves")
        };
        let numbers: Vec<u64> = got.drain(..).map(|(_, _, number)| number).collect();
        assert_eq!(numbers.len(), count);
        inbox.finish(member, lane, up_to);
        order.push((*inbox.key(member).unwrap(), numbers));
    }
    assert_eq!(order[0], (1, vec![20, 21]));
    let turns: Vec<i32> = order[1..].iter().map(|(key, _)| *key).collect();
    assert!(turns == [0, 1, 0, 1] || turns == [1, 0, 1, 0], "{turns:?}");
    for (key, numbers) in &order[1..] {
        assert_eq!(numbers.len(), 3);
        assert!(numbers.iter().all(|n| *n / 10 == *key as u64));
    }
    // The other style goes on where rows ended.
    ends[0].sender.try_send(LANE, tell(), &number(7)).unwrap();
    let Some(Event::Message(message)) = inbox.try_next() else {
        panic!("one message waits")
    };
    assert_eq!((*message.key, numbered(message.body)), (0, 7));
}
