//! Two processes: the test binary starts itself again as the other side.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::collections::VecDeque;
use std::process::Child;
use std::time::{Duration, Instant};

use common::other::{self, PATIENCE, receive_fd, role, send_fd};
use common::{End, number, numbered, tell};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use weft_local_ipc::*;
use weft_types::{Lane, MessageKind, PerLane, Sequence, TypeIndex};

const LANE: Lane = Lane::NORMAL;

/// Starts this binary in a role, with the other end of a side socket as its standard input, and
/// connects with it.
struct Other {
    child: Child,
    side: SideSocket,
    /// What the daemon would keep: the other side's half.
    half: PeerHalf,
    end: End,
}

impl Other {
    fn start(role: &str) -> Self {
        let (child, side) = spawn(role, &Start::default());
        let own = OwnHalf::create(Geometry::DEFAULT, Start::default()).unwrap();
        send_fd(&side, &own.share().unwrap());
        let fd = receive_fd(&side);
        let half = PeerHalf::open(fd.try_clone().unwrap()).unwrap();
        let end = End::connect(own, PeerHalf::open(fd).unwrap());
        Self {
            child,
            side,
            half,
            end,
        }
    }

    /// Kills the other process at once, as a crash would.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        assert!(self.side.hung_up());
    }

    /// What the daemon does: starts a successor and swaps it in for the survivor.
    fn succeed(&mut self, role: &str, start: &Start) {
        let (child, side) = spawn(role, start);
        send_fd(&side, &self.end.swapper.share().unwrap());
        let fd = receive_fd(&side);
        self.half = PeerHalf::open(fd.try_clone().unwrap()).unwrap();
        self.end.swapper.swap(PeerHalf::open(fd).unwrap());
        (self.child, self.side) = (child, side);
    }

    fn ends_well(mut self) {
        let status = self.child.wait().unwrap();
        assert!(status.success(), "the other process: {status}");
        assert!(self.side.hung_up());
    }
}

/// Starts the other process, and tells it where the sequences of its half begin.
fn spawn(role: &str, start: &Start) -> (Child, SideSocket) {
    let (child, side) = other::spawn(role);
    let numbers = start.outgoing.0.iter().chain(&start.incoming.0);
    let bytes: Vec<u8> = numbers
        .flat_map(|sequence| number(sequence.get()))
        .collect();
    side.send(&bytes, &[]).unwrap();
    (child, side)
}

fn receive_start(side: &SideSocket) -> Start {
    let (bytes, _) = side.receive(Some(PATIENCE)).unwrap().expect("in time");
    let at = |index: usize| Sequence::new(numbered(&bytes[8 * index..]));
    Start {
        outgoing: PerLane::from_fn(|lane| at(lane.index())),
        incoming: PerLane::from_fn(|lane| at(4 + lane.index())),
    }
}

#[test]
#[ignore = "the other side of the tests here; they start it"]
fn the_other_process() {
    // Somebody who runs all ignored tests starts none.
    let Some((role, side)) = role() else { return };
    harden_process(false).unwrap();
    let dumpable = rustix::process::dumpable_behavior().unwrap();
    assert_eq!(dumpable, rustix::process::DumpableBehavior::NotDumpable);
    let start = receive_start(&side);
    let own = OwnHalf::create(Geometry::DEFAULT, start).unwrap();
    send_fd(&side, &own.share().unwrap());
    let peer = PeerHalf::open(receive_fd(&side)).unwrap();
    let mut end = End::connect(own, peer);
    match role.as_str() {
        "exchange" => exchange(&mut end, EXCHANGED),
        "echo" => echo(end),
        "flood" => flood(end),
        "swallow" => swallow(end),
        "serve" => serve(end),
        "dawdle" => dawdle(end),
        other => panic!("no role {other}"),
    }
}

const EXCHANGED: u64 = 100_000;

/// Sends requests, answers the other side's, and checks the answers, all on one thread.
fn exchange(end: &mut End, count: u64) {
    /// Requests without an answer. Less than half a ring: the answers need room too.
    const WINDOW: u64 = 200;
    let length = |n: u64| 8 + (n * 31 % 257) as usize;
    let (mut sent, mut answered, mut served) = (0, 0, 0);
    let mut asked = VecDeque::new();
    let mut body = Vec::new();
    while answered < count || served < count {
        let mut idle = true;
        while sent < count && sent - answered < WINDOW {
            let mut request = vec![sent as u8; length(sent)];
            request[..8].copy_from_slice(&number(sent));
            let header = Header {
                kind: MessageKind::Request,
                ..tell()
            };
            let sequence = end.sender.try_send(LANE, header, &request).unwrap();
            asked.push_back(sequence);
            sent += 1;
            idle = false;
        }
        while let Some(got) = end.receiver.try_receive(&mut body).unwrap() {
            idle = false;
            let n = numbered(&body);
            match got.header.kind {
                MessageKind::Request => {
                    assert_eq!(n, served);
                    assert_eq!(body.len(), length(n));
                    assert!(body[8..].iter().all(|&byte| byte == n as u8));
                    let header = Header {
                        kind: MessageKind::Reply,
                        type_index: TypeIndex::new(1),
                        correlation: got.sequence,
                        has_descriptors: false,
                    };
                    end.sender.try_send(LANE, header, &number(n)).unwrap();
                    served += 1;
                }
                _ => {
                    assert_eq!(n, answered);
                    assert_eq!(Some(got.header.correlation), asked.pop_front());
                    answered += 1;
                }
            }
            end.receiver.finish(LANE, got.sequence.next());
        }
        if idle {
            assert_eq!(end.receiver.wait(Some(PATIENCE)), Wait::Rung(0), "in time");
        }
    }
}

#[test]
fn two_processes_exchange_100_000_requests_in_each_direction() {
    let mut other = Other::start("exchange");
    exchange(&mut other.end, EXCHANGED);
    other.ends_well();
}

/// Sends everything back, until an empty message.
fn echo(mut end: End) {
    let mut random = SmallRng::seed_from_u64(2);
    let mut body = Vec::new();
    loop {
        match end.receiver.try_receive(&mut body).unwrap() {
            Some(got) => {
                if body.is_empty() {
                    return;
                }
                end.receiver.finish(got.lane, got.sequence.next());
                // Sometimes while the other side still spins, sometimes when it sleeps.
                std::thread::sleep(Duration::from_micros(random.random_range(0..60)));
                end.sender.try_send(got.lane, tell(), &body).unwrap();
            }
            None => assert_eq!(end.receiver.wait(Some(PATIENCE)), Wait::Rung(0)),
        }
    }
}

#[test]
fn no_wake_up_is_lost_between_processes() {
    let mut other = Other::start("echo");
    let mut random = SmallRng::seed_from_u64(1);
    let mut body = Vec::new();
    for n in 0..3000 {
        let lane = Lane::ALL[n as usize % 4];
        other.end.sender.try_send(lane, tell(), &number(n)).unwrap();
        std::thread::sleep(Duration::from_micros(random.random_range(0..60)));
        let got = loop {
            match other.end.receiver.try_receive(&mut body).unwrap() {
                Some(got) => break got,
                None => assert_eq!(other.end.receiver.wait(Some(PATIENCE)), Wait::Rung(0)),
            }
        };
        assert_eq!((got.lane, numbered(&body)), (lane, n));
        other.end.receiver.finish(lane, got.sequence.next());
    }
    other.end.sender.try_send(LANE, tell(), b"").unwrap();
    other.ends_well();
}

/// Bodies of all lengths, each byte of which follows from the sequence.
fn pattern(n: u64) -> Vec<u8> {
    let len = (n * 7919 % 3001) as usize;
    (0..len).map(|i| (n as usize * 31 + i) as u8).collect()
}

/// Sends as fast as it can until it is killed.
fn flood(mut end: End) {
    for n in 0.. {
        let body = pattern(n);
        while end.sender.try_send(LANE, tell(), &body).is_err() {
            std::thread::yield_now();
        }
    }
}

#[test]
fn of_a_sender_killed_anywhere_whole_messages_are_left_and_nothing_else() {
    let mut random = SmallRng::seed_from_u64(3);
    for round in 0..50 {
        let mut other = Other::start("flood");
        let mut body = Vec::new();
        let mut next = 0;
        let kill_at = Duration::from_micros(random.random_range(0..4000));
        let begin = Instant::now();
        let mut take = |other: &mut Other| {
            let Some(got) = other.end.receiver.try_receive(&mut body).unwrap() else {
                return false;
            };
            assert_eq!(got.sequence.get(), next);
            assert!(body == pattern(next), "round {round}: message {next}");
            next += 1;
            other.end.receiver.finish(LANE, Sequence::new(next));
            true
        };
        // Until it sends at all, then a random time more.
        while !take(&mut other) {
            assert!(begin.elapsed() < PATIENCE);
        }
        let begin = Instant::now();
        while begin.elapsed() < kill_at {
            take(&mut other);
        }
        other.kill();
        while take(&mut other) {}
        assert_eq!(other.half.published(LANE).get(), next);
        assert_eq!(
            other.half.published_from(LANE, Sequence::new(next)).get(),
            next
        );
    }
}

/// Takes messages and finishes them late, until it is killed.
fn swallow(mut end: End) {
    let mut body = Vec::new();
    loop {
        for _ in 0..5 {
            if let Some(got) = end.receiver.try_receive(&mut body).unwrap()
                && got.sequence.get() % 3 == 0
            {
                end.receiver.finish(LANE, got.sequence);
            }
        }
    }
}

#[test]
fn of_a_receiver_killed_anywhere_the_cursors_say_what_is_unknown() {
    let mut random = SmallRng::seed_from_u64(4);
    for _ in 0..20 {
        let mut other = Other::start("swallow");
        let mut sent = 0;
        let begin = Instant::now();
        let kill_at = Duration::from_micros(random.random_range(2000..6000));
        while begin.elapsed() < kill_at || other.half.cursors()[LANE].done == Sequence::ZERO {
            assert!(begin.elapsed() < PATIENCE);
            if other
                .end
                .sender
                .try_send(LANE, tell(), &pattern(sent))
                .is_ok()
            {
                sent += 1;
            }
        }
        other.kill();
        let dead = other.half.cursors()[LANE];
        assert!(dead.done <= dead.taken && dead.taken.get() <= sent);
        assert!(dead.taken.since(dead.done) <= 4, "{dead:?}");
        // The successor starts at `taken`; what lies before it, its sender is told about.
        let mut start = Start::default();
        start.incoming[LANE] = dead.taken;
        let mut successor = End::succeed(&other.end.swapper, start);
        let mut body = Vec::new();
        let mut take = |n| {
            let got = successor.receiver.try_receive(&mut body).unwrap().unwrap();
            assert_eq!(got.sequence.get(), n);
            assert!(body == pattern(n));
            successor.receiver.finish(LANE, got.sequence.next());
        };
        let mut next = dead.taken.get();
        // The dead one may have left the ring, or its arena, full: then room comes as it is taken.
        while let Err(error) = other.end.sender.try_send(LANE, tell(), &pattern(sent)) {
            assert_eq!(error, SendError::Full { lane: LANE });
            assert!(next < sent, "full, and nothing is left to take");
            take(next);
            next += 1;
        }
        sent += 1;
        (next..sent).for_each(&mut take);
        assert_eq!(successor.receiver.try_receive(&mut body), Ok(None));
    }
}

/// Answers requests. Never ends by itself.
fn serve(mut end: End) {
    let mut body = Vec::new();
    loop {
        let Some(got) = end.receiver.try_receive(&mut body).unwrap() else {
            let _ = end.receiver.wait(Some(PATIENCE));
            continue;
        };
        let header = Header {
            kind: MessageKind::Reply,
            correlation: got.sequence,
            ..tell()
        };
        while let Err(error) = end.sender.try_send(got.lane, header, &body) {
            assert_eq!(error, SendError::Full { lane: got.lane });
            std::thread::yield_now();
        }
        end.receiver.finish(got.lane, got.sequence.next());
    }
}

#[test]
fn a_client_loses_and_repeats_nothing_while_its_service_is_killed_again_and_again() {
    const WINDOW: u64 = 200;
    const KILLS: usize = 15;
    let mut random = SmallRng::seed_from_u64(5);
    let mut other = Other::start("serve");
    let mut body = Vec::new();
    let (mut sent, mut answered, mut next_reply, mut unknown) = (0, 0, 0, 0);
    // Requests whose outcome nobody can tell: taken, and not done when the service died.
    let mut in_doubt: VecDeque<u64> = VecDeque::new();
    for kill in 0..=KILLS {
        let begin = Instant::now();
        let serve_for = Duration::from_micros(random.random_range(500..6000));
        let until = answered + 1;
        while begin.elapsed() < serve_for || answered < until {
            assert!(
                begin.elapsed() < PATIENCE,
                "kill {kill}: stuck at {answered} of {sent}"
            );
            if sent - answered < WINDOW {
                let header = Header {
                    kind: MessageKind::Request,
                    ..tell()
                };
                let sequence = other
                    .end
                    .sender
                    .try_send(LANE, header, &number(sent))
                    .unwrap();
                assert_eq!(sequence.get(), sent);
                sent += 1;
            }
            while let Some(got) = other.end.receiver.try_receive(&mut body).unwrap() {
                assert_eq!(got.sequence.get(), next_reply);
                next_reply += 1;
                let about = got.header.correlation.get();
                assert_eq!(about, numbered(&body));
                while in_doubt.front().is_some_and(|&lost| lost < about) {
                    assert_eq!(in_doubt.pop_front(), Some(answered));
                    answered += 1;
                    unknown += 1;
                }
                assert_eq!(about, answered, "one answer each, in order");
                // It answered, and died before it could say that it was done.
                in_doubt.retain(|&doubt| doubt != about);
                answered += 1;
                other.end.receiver.finish(LANE, got.sequence.next());
            }
        }
        other.kill();
        let dead = other.half.cursors()[LANE];
        in_doubt.extend(dead.done.get()..dead.taken.get());
        in_doubt.retain(|&doubt| doubt >= answered);
        let mut start = Start::default();
        start.incoming[LANE] = dead.taken;
        start.outgoing[LANE] = other.half.published(LANE);
        other.succeed("serve", &start);
    }
    other.kill();
    assert!(
        unknown <= KILLS,
        "{unknown} in doubt: at most one for each kill"
    );
    assert!(answered > KILLS as u64);
}

/// Takes its time with everything, until an empty message.
fn dawdle(mut end: End) {
    let mut body = Vec::new();
    let mut next = 0;
    loop {
        let Some(got) = end.receiver.try_receive(&mut body).unwrap() else {
            assert_eq!(end.receiver.wait(Some(PATIENCE)), Wait::Rung(0));
            continue;
        };
        if body.is_empty() {
            return;
        }
        assert_eq!(numbered(&body), next);
        next += 1;
        if next % 1000 == 0 {
            // Long enough for the slowest sender, an emulated one, to run out of room.
            std::thread::sleep(Duration::from_millis(20));
        } else if next % 100 == 0 {
            std::thread::sleep(Duration::from_micros(200));
        }
        end.receiver.finish(LANE, got.sequence.next());
    }
}

#[test]
fn a_sender_that_waits_for_room_is_woken_across_processes() {
    let mut other = Other::start("dawdle");
    let bell = other.end.swapper.bell();
    let sender = &mut other.end.sender;
    let mut waits = 0;
    for n in 0..20_000 {
        let mut body = vec![0; 2000];
        body[..8].copy_from_slice(&number(n));
        loop {
            let seen = bell.value();
            match sender.try_send(LANE, tell(), &body) {
                Ok(_) => break,
                Err(error) => assert_eq!(error, SendError::Full { lane: LANE }),
            }
            // Once a quarter of the ring is free, not for each message.
            let at = sender.done(LANE).unwrap().plus(30);
            if !sender.wake_when_done(LANE, at) {
                waits += 1;
                let wait = wait_any(&[(bell.clone(), seen)], Some(PATIENCE));
                assert_eq!(wait, Wait::Rung(0), "message {n}");
            }
        }
    }
    while !other.end.sender.room(LANE) {
        std::thread::yield_now();
    }
    other.end.sender.try_send(LANE, tell(), b"").unwrap();
    other.ends_well();
    assert!(waits > 10, "it never had to wait");
}
