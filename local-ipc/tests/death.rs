//! Death at any instruction: `kill -9` at random moments, on either side, under load.
//!
//! The survivor has to hear of it, find whole messages and cursors that make sense, and go on with
//! a successor that misses nothing that was published and sees nothing again that was done. What a
//! dead peer leaves behind must not add up: descriptors, mappings and memory are counted.
//!
//! `WEFT_KILLS` says how often each side is killed, `WEFT_SEED` repeats a run.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::process::Child;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use common::other::{PATIENCE, random, receive_fd, role, send_fd, setting, spawn};
use common::{End, number, numbered, tell};
use rand::Rng;
use rand::rngs::SmallRng;
use weft_local_ipc::*;
use weft_types::{Lane, Sequence};

const KILLS: u64 = 300;
const LANE: Lane = Lane::NORMAL;
const GEOMETRY: Geometry = Geometry {
    slots: 64,
    arena_bytes: 128 * 1024,
    ..Geometry::DEFAULT.fixed()
};

/// The tests count what this process holds, so only one may run at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// A body whose every byte follows from its number: a torn one cannot pass for whole.
fn pattern(n: u64, body: &mut Vec<u8>) {
    let len = 8 + (n * 7919 % 1500) as usize;
    body.clear();
    body.extend_from_slice(&number(n));
    let seed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    body.extend((8..len).map(|at| (seed >> (at % 8 * 8)) as u8 ^ at as u8));
}

fn assert_whole(n: u64, body: &[u8], spare: &mut Vec<u8>) {
    pattern(n, spare);
    assert!(body == &spare[..], "message {n} is torn");
}

#[test]
#[ignore = "the other side of the tests here; they start it"]
fn the_other_process() {
    let Some((role, side)) = role() else {
        return;
    };
    let (bytes, mut fds) = side.receive(Some(PATIENCE)).unwrap().expect("in time");
    let mut start = Start::default();
    start.outgoing[LANE] = Sequence::new(numbered(&bytes));
    start.incoming[LANE] = Sequence::new(numbered(&bytes[8..]));
    let own = OwnHalf::create(GEOMETRY, start).unwrap();
    send_fd(&side, &own.share().unwrap());
    let mut end = End::connect(own, PeerHalf::open(fds.remove(0)).unwrap());
    let mut body = Vec::new();
    match role.as_str() {
        "send" => loop {
            let n = end.sender.next(LANE).get();
            pattern(n, &mut body);
            if end.sender.try_send(LANE, tell(), &body).is_err() {
                std::thread::yield_now();
            }
        },
        "receive" => {
            let mut spare = Vec::new();
            loop {
                let Some(got) = end.receiver.try_receive(&mut body).unwrap() else {
                    let _ = end.receiver.wait(Some(PATIENCE));
                    continue;
                };
                assert_whole(got.sequence.get(), &body, &mut spare);
                if got.sequence.get() % 3 == 0 {
                    end.receiver.finish(LANE, got.sequence.next());
                }
            }
        }
        other => panic!("no role {other}"),
    }
}

/// The other side as its supervisor knows it.
struct Victim {
    child: Child,
    side: SideSocket,
    /// What the node would keep, to read it when its owner is dead.
    half: PeerHalf,
}

/// Starts a process that continues on the lane from these sequences; gives also the half to
/// connect with or to swap in.
fn start(
    role: &str,
    outgoing: u64,
    incoming: u64,
    survivor: std::os::fd::OwnedFd,
) -> (Victim, PeerHalf) {
    let (child, side) = spawn(role);
    let start = [number(outgoing), number(incoming)].concat();
    side.send(&start, &[std::os::fd::AsFd::as_fd(&survivor)])
        .unwrap();
    let fd = receive_fd(&side);
    let half = PeerHalf::open(fd.try_clone().unwrap()).unwrap();
    (Victim { child, side, half }, PeerHalf::open(fd).unwrap())
}

impl Victim {
    /// Kills it as a crash would; the side socket tells of it, and of no death before.
    fn kill(&mut self) {
        assert!(!self.side.hung_up(), "it died by itself");
        self.child.kill().unwrap();
        let status = self.child.wait().unwrap();
        assert_eq!(status.code(), None, "it ended by itself: {status}");
        assert!(self.side.hung_up(), "nobody told the survivor");
    }
}

/// What this process holds: descriptors, mappings of halves, and resident shared memory in KiB.
#[derive(Clone, Copy, Debug)]
struct Held {
    descriptors: usize,
    halves: usize,
    shared_kib: u64,
}

impl Held {
    fn now() -> Self {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let shared = status
            .lines()
            .find_map(|line| line.strip_prefix("RssShmem:"));
        let shared = shared.unwrap().trim().trim_end_matches("kB").trim();
        Self {
            descriptors: std::fs::read_dir("/proc/self/fd").unwrap().count(),
            halves: maps
                .lines()
                .filter(|line| line.contains("weft-half"))
                .count(),
            shared_kib: shared.parse().unwrap(),
        }
    }

    /// Each half that is alive is mapped a few times at most; kills must not add to it.
    fn assert_no_more_than(self, before: Self) {
        assert!(
            self.descriptors <= before.descriptors,
            "{before:?}, now {self:?}"
        );
        assert!(self.halves <= before.halves, "{before:?}, now {self:?}");
        // A survivor's own half may become resident page by page.
        let most = before.shared_kib + 4 * GEOMETRY.region_bytes() / 1024;
        assert!(self.shared_kib <= most, "{before:?}, now {self:?}");
    }
}

/// How long the victim lives after it was seen to work: often no time, sometimes some laps.
fn lifetime(random: &mut SmallRng) -> Duration {
    match random.random_range(0..4) {
        0 => Duration::ZERO,
        1 => Duration::from_nanos(random.random_range(0..20_000)),
        2 => Duration::from_micros(random.random_range(0..300)),
        _ => Duration::from_micros(random.random_range(0..3000)),
    }
}

fn senders_are_killed(kills: u64) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let before_all = Held::now();
    let mut random = random();
    let began = Instant::now();
    let own = OwnHalf::create(GEOMETRY, Start::default()).unwrap();
    let (mut victim, half) = start("send", 0, 0, own.share().unwrap());
    let mut end = End::connect(own, half);
    let (mut next, mut body, mut spare) = (0, Vec::new(), Vec::new());
    let mut take = |end: &mut End, next: &mut u64| {
        let Some(got) = end.receiver.try_receive(&mut body).unwrap() else {
            return false;
        };
        assert_eq!(got.sequence.get(), *next, "lost or repeated");
        assert_whole(*next, &body, &mut spare);
        *next += 1;
        end.receiver.finish(LANE, Sequence::new(*next));
        true
    };
    let (mut steady, mut empty_handed) = (None, 0);
    for kill in 1..=kills {
        // One in eight may die before it has sent anything.
        if random.random_range(0..8) > 0 {
            let begin = Instant::now();
            while !take(&mut end, &mut next) {
                assert!(begin.elapsed() < PATIENCE, "kill {kill}: it never sent");
            }
        }
        let (begin, lives) = (Instant::now(), lifetime(&mut random));
        while begin.elapsed() < lives {
            take(&mut end, &mut next);
        }
        victim.kill();
        let published = victim.half.published(LANE).get();
        assert!(published >= next, "kill {kill}");
        empty_handed += u64::from(published == victim.half.first(LANE).get());
        if random.random() {
            // The survivor reads on before the successor is there, else only after the swap.
            while take(&mut end, &mut next) {}
            assert_eq!(next, published, "kill {kill}");
        }
        let (successor, half) = start("send", published, 0, end.swapper.share().unwrap());
        end.swapper.swap(half);
        victim = successor;
        while next < published {
            assert!(
                take(&mut end, &mut next),
                "kill {kill}: {next} of {published} is lost"
            );
        }
        // Looks at the swap even if there was nothing left to read.
        take(&mut end, &mut next);
        match steady {
            None if kill >= 20.min(kills) => steady = Some(Held::now()),
            Some(held) if kill % 50 == 0 || kill == kills => Held::now().assert_no_more_than(held),
            _ => {}
        }
    }
    victim.kill();
    drop((end, victim));
    Held::now().assert_no_more_than(before_all);
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{kills} senders killed in {seconds:.1} s: {next} messages, each whole and once; \
         {empty_handed} died before their first"
    );
}

fn receivers_are_killed(kills: u64) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let before_all = Held::now();
    let mut random = random();
    let began = Instant::now();
    let own = OwnHalf::create(GEOMETRY, Start::default()).unwrap();
    let (mut victim, half) = start("receive", 0, 0, own.share().unwrap());
    let mut end = End::connect(own, half);
    let (mut body, mut again) = (Vec::new(), 0);
    let mut send = |end: &mut End| {
        let n = end.sender.next(LANE).get();
        pattern(n, &mut body);
        match end.sender.try_send(LANE, tell(), &body) {
            Ok(sequence) => assert_eq!(sequence.get(), n),
            Err(error) => assert_eq!(error, SendError::Full { lane: LANE }),
        }
    };
    let mut steady = None;
    for kill in 1..=kills {
        let from = victim.half.cursors()[LANE].done;
        if random.random_range(0..8) > 0 {
            let begin = Instant::now();
            while victim.half.cursors()[LANE].done == from {
                assert!(
                    begin.elapsed() < PATIENCE,
                    "kill {kill}: it handles nothing"
                );
                assert!(
                    !victim.side.hung_up(),
                    "kill {kill}: a successor missed or saw torn"
                );
                send(&mut end);
            }
        }
        let (begin, lives) = (Instant::now(), lifetime(&mut random));
        while begin.elapsed() < lives {
            send(&mut end);
        }
        victim.kill();
        let dead = victim.half.cursors()[LANE];
        let sent = end.sender.next(LANE);
        assert!(
            from <= dead.done && dead.done <= dead.taken && dead.taken <= sent,
            "{dead:?}"
        );
        assert!(dead.taken.since(dead.done) <= 4, "{dead:?}");
        again += dead.taken.since(dead.done);
        // Everything that is not done is still in the ring, whole, for the successor. It checks
        // each body, and that the first is `done` (a gap is a fault), so it dies if that is wrong.
        let kept = end.sender.unacknowledged(LANE).unwrap();
        assert_eq!(
            kept.first().map_or(sent, |kept| kept.0),
            dead.done,
            "kill {kill}"
        );
        assert_eq!(kept.len() as u64, sent.since(dead.done), "kill {kill}");
        let survivor = end.swapper.share().unwrap();
        let (successor, half) = start("receive", 0, dead.done.get(), survivor);
        end.swapper.swap(half);
        victim = successor;
        assert!(end.sender.done(LANE).unwrap() >= dead.done, "kill {kill}");
        match steady {
            None if kill >= 20.min(kills) => steady = Some(Held::now()),
            Some(held) if kill % 50 == 0 || kill == kills => {
                // The receiving thread picks a swap up too; here it is this one.
                let _ = end.receiver.try_receive(&mut Vec::new()).unwrap();
                Held::now().assert_no_more_than(held);
            }
            _ => {}
        }
    }
    // The last successor handles all that is left, except what it finishes three at a time.
    let sent = end.sender.next(LANE);
    let begin = Instant::now();
    while victim.half.cursors()[LANE].taken < sent {
        assert!(begin.elapsed() < PATIENCE, "what was published is lost");
        std::thread::yield_now();
    }
    victim.kill();
    drop((end, victim));
    Held::now().assert_no_more_than(before_all);
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{kills} receivers killed in {seconds:.1} s: {} messages published and handled; {again} \
         taken and not done, handed to a successor again",
        sent.get()
    );
}

#[test]
fn a_sender_that_rests_keeps_no_dead_peers() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut first, mut survivor) = common::channel(GEOMETRY);
    first.sender.try_send(LANE, tell(), b"x").unwrap();
    drop(first);
    let mut body = Vec::new();
    let mut before = None;
    for n in 0..20_u64 {
        let got = survivor.receiver.try_receive(&mut body).unwrap().unwrap();
        survivor.receiver.finish(LANE, got.sequence.next());
        let mut start = Start::default();
        start.outgoing[LANE] = Sequence::new(n + 1);
        let mut peer = End::succeed(&survivor.swapper, start);
        peer.sender.try_send(LANE, tell(), b"x").unwrap();
        drop(peer);
        if n == 3 {
            before = Some(Held::now());
        }
    }
    Held::now().assert_no_more_than(before.unwrap());
}

#[test]
fn a_killed_sender_leaves_whole_messages_and_its_successor_goes_on() {
    senders_are_killed(setting("WEFT_KILLS", KILLS));
}

#[test]
fn a_killed_receiver_costs_nothing_that_was_published() {
    receivers_are_killed(setting("WEFT_KILLS", KILLS));
}

#[test]
#[ignore = "takes some minutes"]
fn ten_thousand_killed_senders_leave_whole_messages() {
    senders_are_killed(10_000);
}

#[test]
#[ignore = "takes some minutes"]
fn ten_thousand_killed_receivers_cost_nothing_that_was_published() {
    receivers_are_killed(10_000);
}
