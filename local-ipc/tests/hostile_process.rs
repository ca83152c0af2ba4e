//! A hostile process: it maps its own half writable, as its right is, and writes anything there.
//!
//! It knows no layout. It first watches which words an honest half changes, and how; then it plays
//! those states back, whole, in part, out of order, bent and raced by several threads, while it
//! floods the side socket. The process that is attacked is this one. It has to see errors and
//! nothing else, take no memory for them, and serve an honest process beside it without a flaw.
//!
//! `WEFT_HOSTILE_SECONDS` says how long, `WEFT_SEED` repeats the attacks (not their races).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
#[path = "common/counting.rs"]
mod counting;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::other::{PATIENCE, random, receive_fd, role, send_fd, setting, spawn};
use common::{End, channel, number, numbered, tell};
use counting::{Counting, most_live_bytes};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rustix::fs::{MemfdFlags, SealFlags};
use weft_local_ipc::*;
use weft_types::{Lane, MAX_BODY_BYTES, Sequence};

#[global_allocator]
static COUNTING: Counting = Counting;

/// How long the attack takes in an ordinary run of the tests.
const SECONDS: u64 = 5;
/// How long one channel is attacked.
const ROUND: Duration = Duration::from_millis(25);
/// How many threads write into the hostile half.
const SCRIBBLERS: u64 = 3;
/// More than all of this test takes when nobody attacks it, and less than a leak would.
const MOST_LIVE_BYTES: usize = 32 << 20;

const GEOMETRIES: [Geometry; 3] = [
    Geometry {
        slots: 4,
        slot_bytes: 128,
        arena_bytes: 4096,
        growth: 0,
    },
    Geometry {
        slots: 4,
        slot_bytes: 64,
        arena_bytes: 8192,
        growth: 2,
    },
    Geometry {
        slots: 16,
        slot_bytes: 128,
        arena_bytes: 8192,
        growth: 1,
    },
];

// ---- The attacker.

fn all_seals() -> SealFlags {
    SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL
}

fn memory_file() -> File {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    rustix::fs::memfd_create("hostile", flags).unwrap().into()
}

/// A half that passes every check, and that this process goes on writing without the crate.
struct Forged {
    file: File,
    map: memmap2::MmapRaw,
}

impl Forged {
    fn new(bytes: &[u64]) -> Self {
        let file = memory_file();
        let bytes: Vec<u8> = bytes.iter().flat_map(|word| word.to_ne_bytes()).collect();
        file.write_all_at(&bytes, 0).unwrap();
        // Before the seals: afterwards nobody gets a writable mapping.
        let map = memmap2::MmapOptions::new().map_raw(&file).unwrap();
        rustix::fs::fcntl_add_seals(&file, all_seals()).unwrap();
        Self { file, map }
    }

    #[expect(
        unsafe_code,
        reason = "the attacker writes memory that is mapped elsewhere"
    )]
    fn words(&self) -> &[AtomicU64] {
        let (at, len) = (self.map.as_mut_ptr().cast(), self.map.len() / 8);
        // SAFETY: the mapping is page-aligned, writable, this long, and lives as long as `self`;
        // this process touches it through these atomics only.
        unsafe { std::slice::from_raw_parts(at, len) }
    }
}

/// What an honest half looks like as it is used, one state after the other.
struct Learned {
    states: Vec<Vec<u64>>,
    /// Every word that ever changed, with all values it had.
    words: Vec<(usize, Vec<u64>)>,
}

impl Learned {
    fn of(geometry: Geometry) -> Self {
        let (mut a, mut b) = channel(geometry);
        let file = File::from(a.swapper.share().unwrap());
        let mut states = Vec::new();
        let mut body = Vec::new();
        let mut bytes = vec![0; geometry.region_bytes() as usize];
        for step in 0..40_u64 {
            for lane in Lane::ALL {
                let len = [0, 8, 47, 48, 104, 112, 113, 1000, 3000][(step % 9) as usize];
                // Laps of both rings, some growth: nothing is finished for a while.
                let _ = a.sender.try_send(lane, tell(), &vec![step as u8; len]);
                let _ = b.sender.try_send(lane, tell(), &vec![step as u8; len]);
                if step % 20 > 9 {
                    for _ in 0..3 {
                        if let Some(got) = b.receiver.try_receive_lane(lane, &mut body).unwrap() {
                            b.receiver.finish(lane, got.sequence.next());
                        }
                        if let Some(got) = a.receiver.try_receive_lane(lane, &mut body).unwrap() {
                            a.receiver.finish(lane, got.sequence.next());
                        }
                    }
                }
                a.sender.wake_when_done(lane, Sequence::new(step));
            }
            a.receiver.park();
            a.swapper.ring();
            if step % 3 == 0 {
                a.receiver.unpark();
            }
            file.read_exact_at(&mut bytes, 0).unwrap();
            let words = bytes.as_chunks::<8>().0.iter();
            states.push(words.map(|word| u64::from_ne_bytes(*word)).collect());
        }
        let mut words = BTreeMap::<usize, Vec<u64>>::new();
        let first: &Vec<u64> = &states[0];
        for state in &states {
            for (at, (value, before)) in state.iter().zip(first).enumerate() {
                if value != before || words.contains_key(&at) {
                    words
                        .entry(at)
                        .or_insert_with(|| vec![*before])
                        .push(*value);
                }
            }
        }
        let words = words.into_iter().collect();
        Self { states, words }
    }

    /// One bent value for a word of interest.
    fn lie(&self, random: &mut SmallRng) -> (usize, u64) {
        let (at, values) = &self.words[random.random_range(0..self.words.len())];
        let value = values[random.random_range(0..values.len())];
        let bent = match random.random_range(0..9) {
            0 | 1 => value,
            2 => value.wrapping_add(random.random_range(0..5)),
            3 => value.wrapping_sub(random.random_range(0..5)),
            // A half, a byte or a bit of it at the most: lengths, kinds, flags, parked words.
            4 => value | 0xffff_ffff << (32 * random.random_range(0..2)),
            5 => value | 0xff << (8 * random.random_range(0..8)),
            6 => value ^ 1 << random.random_range(0..64),
            7 => [0, 1, u64::MAX, 1 << 62, i64::MAX as u64][random.random_range(0..5)],
            _ => random.random(),
        };
        (*at, bent)
    }

    /// Writes until it is told to stop, in one of several manners.
    fn scribble(&self, words: &[AtomicU64], random: &mut SmallRng, stop: &AtomicBool) {
        let manner = random.random_range(0..4);
        let mut state = random.random_range(0..self.states.len());
        while !stop.load(Ordering::Relaxed) {
            match manner {
                // One lie after the other, as fast as it goes.
                0 => {
                    let (at, value) = self.lie(random);
                    words[at].store(value, Ordering::Release);
                }
                // Honest states in order, with a lie now and then: gets far before it fails.
                1 => {
                    state = (state + 1) % self.states.len();
                    for (at, _) in &self.words {
                        words[*at].store(self.states[state][*at], Ordering::Release);
                    }
                    if random.random_range(0..4) == 0 {
                        let (at, value) = self.lie(random);
                        words[at].store(value, Ordering::Release);
                    }
                }
                // Rewinds and replays: old states over new ones.
                2 => {
                    let old = &self.states[random.random_range(0..self.states.len())];
                    let (from, to) = (random.random_range(0..self.words.len()), self.words.len());
                    for (at, _) in &self.words[from..to.min(from + 64)] {
                        words[*at].store(old[*at], Ordering::Release);
                    }
                }
                // One word flickers between a truth and a lie, so that checks and uses differ.
                _ => {
                    let (at, lie) = self.lie(random);
                    let truth = words[at].load(Ordering::Relaxed);
                    for _ in 0..500 {
                        words[at].store(lie, Ordering::Release);
                        words[at].store(truth, Ordering::Release);
                    }
                }
            }
            if random.random_range(0..200) == 0 {
                // All of memory, headers and arenas too.
                let at = random.random_range(0..words.len());
                words[at].store(random.random(), Ordering::Release);
            }
        }
    }
}

/// Sends packets of all sizes with all kinds of descriptors, and reads some, sometimes.
fn flood_side(side: &SideSocket, random: &mut SmallRng, stop: &AtomicBool) {
    let descriptor = memory_file();
    while !stop.load(Ordering::Relaxed) {
        let bytes = vec![random.random(); random.random_range(1..=MAX_SIDE_BYTES)];
        let fds = vec![descriptor.as_fd(); random.random_range(0..=MAX_DESCRIPTORS)];
        let _ = side.try_send(&bytes, &fds);
        if random.random() {
            let _ = side.try_receive();
        }
        thread::sleep(Duration::from_micros(200));
    }
}

/// Attacks one channel after the other, until its victim hangs up.
fn attack(control: &SideSocket) {
    let learned = GEOMETRIES.map(Learned::of);
    control.send(b"ready", &[]).unwrap();
    loop {
        let (command, mut fds) = match control.receive(Some(PATIENCE)) {
            Ok(Some(packet)) => packet,
            Ok(None) | Err(_) => return,
        };
        let (seed, which) = (numbered(&command), command[8] as usize);
        let side = SideSocket::from(fds.remove(0));
        let mut random = SmallRng::seed_from_u64(seed);
        let learned = &learned[which];
        let forged = Forged::new(&learned.states[0]);
        send_fd(control, &forged.file.try_clone().unwrap().into());
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..SCRIBBLERS {
                let mut random = SmallRng::seed_from_u64(random.random());
                let (forged, stop) = (&forged, &stop);
                scope.spawn(move || learned.scribble(forged.words(), &mut random, stop));
            }
            scope.spawn(|| flood_side(&side, &mut random, &stop));
            // The victim's word ends the round, or its death.
            let _ = control.receive(Some(PATIENCE));
            stop.store(true, Ordering::Relaxed);
        });
    }
}

// ---- The honest one beside it.

fn pattern(n: u64) -> Vec<u8> {
    let mut body = number(n).to_vec();
    body.extend((8..n * 7919 % 3001).map(|at| (n * 31 + at) as u8));
    body
}

/// Sends everything back.
fn echo(control: &SideSocket) {
    let own = OwnHalf::create(Geometry::DEFAULT, Start::default()).unwrap();
    send_fd(control, &own.share().unwrap());
    let mut end = End::connect(own, PeerHalf::open(receive_fd(control)).unwrap());
    let mut body = Vec::new();
    while !control.hung_up() {
        while let Some(got) = end.receiver.try_receive(&mut body).unwrap() {
            while end.sender.try_send(got.lane, tell(), &body).is_err() {
                thread::yield_now();
            }
            end.receiver.finish(got.lane, got.sequence.next());
        }
        let _ = end.receiver.wait(Some(Duration::from_millis(20)));
    }
}

#[test]
#[ignore = "the other side of the tests here; they start it"]
fn the_other_process() {
    let Some((role, control)) = role() else {
        return;
    };
    match role.as_str() {
        "attack" => attack(&control),
        "echo" => echo(&control),
        other => panic!("no role {other}"),
    }
}

// ---- The victim.

/// What the attacked side was told, by the words of the error.
#[derive(Default)]
struct Told(BTreeMap<String, u64>);

impl Told {
    fn hear<T, E: std::fmt::Debug>(&mut self, result: Result<T, E>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                // The variant without its fields; of a wrapped fault, the fault.
                let text = format!("{error:?}");
                let name = text.trim_start_matches("Peer(");
                let name = name.split([' ', '(', '{']).next().unwrap_or_default();
                *self.0.entry(name.to_owned()).or_default() += 1;
                None
            }
        }
    }
}

/// Uses all that reads what the peer can write, once.
fn exercise(end: &mut End, side: &SideSocket, body: &mut Vec<u8>, n: u64, told: &mut Told) {
    for lane in Lane::ALL {
        let len = [8, 112, 113, 1500][(n % 4) as usize];
        told.hear(end.sender.try_send(lane, tell(), &pattern(n)[..8]));
        told.hear(
            end.sender
                .try_send_in_place(lane, tell(), len, |bytes| bytes.fill(7)),
        );
        let _ = (end.sender.room(lane), end.sender.fits(lane, 4096));
        if let Some(done) = told.hear(end.sender.done(lane)) {
            assert!(
                done <= end.sender.next(lane),
                "an impossible cursor was believed"
            );
        }
        let _ = end.sender.wake_when_done(lane, Sequence::new(n));
        if n.is_multiple_of(16) {
            told.hear(end.sender.unacknowledged(lane));
            let _ = end.swapper.peer_published(lane);
        }
        if let Some(Some(got)) = told.hear(end.receiver.try_receive_lane(lane, body)) {
            assert!(body.len() <= MAX_BODY_BYTES);
            assert_eq!(end.receiver.expected(lane), got.sequence.next());
            if !n.is_multiple_of(3) {
                end.receiver.finish(lane, got.sequence.next());
            }
        }
        let expected = end.receiver.expected(lane);
        if n.is_multiple_of(8) {
            told.hear(end.receiver.skip(lane, expected.plus(2)));
            told.hear(end.receiver.rewind(lane, end.receiver.done(lane)));
            end.receiver.finish(lane, Sequence::new(u64::MAX));
        }
        assert!(end.receiver.done(lane) <= end.receiver.taken(lane));
    }
    let read = end.receiver.try_receive_in_place(|_, view| {
        let words = view
            .words()
            .map_or(0, |words| words.iter().fold(0, u64::wrapping_add));
        std::hint::black_box(words);
        assert!(!view.copy_to(view.len(), &mut [0]), "read past its end");
        assert!(view.copy_to(0, &mut vec![0; view.len()]));
        view.len()
    });
    if let Some(Some((_, len))) = told.hear(read) {
        assert!(len <= MAX_BODY_BYTES);
    }
    let _ = (end.receiver.ready(), end.swapper.peer_cursors());
    if n.is_multiple_of(32) {
        let _ = end.receiver.wait_spinning(
            Spin::lasting(Duration::ZERO),
            Some(Duration::from_micros(200)),
        );
        told.hear(side.try_receive());
        let _ = side.try_send(b"note", &[]);
    }
}

/// Descriptors that are no half. Each must be refused.
fn refuse_what_is_no_half(random: &mut SmallRng, told: &mut Told) {
    let geometry = GEOMETRIES[random.random_range(0..GEOMETRIES.len())];
    let honest = OwnHalf::create(geometry, Start::default()).unwrap();
    let mut bytes = vec![0; geometry.region_bytes() as usize];
    let shared = File::from(honest.share().unwrap());
    shared.read_exact_at(&mut bytes, 0).unwrap();
    let sealed = |bytes: &[u8], len: u64, seals| {
        let file = memory_file();
        file.write_all_at(bytes, 0).unwrap();
        file.set_len(len).unwrap();
        rustix::fs::fcntl_add_seals(&file, seals).unwrap();
        OwnedFd::from(file)
    };
    let len = bytes.len() as u64;
    let missing = [
        SealFlags::SHRINK,
        SealFlags::GROW,
        SealFlags::FUTURE_WRITE,
        SealFlags::SEAL,
    ];
    let unsealed = all_seals() - missing[random.random_range(0..4)];
    let mut wrong: Vec<OwnedFd> = vec![
        sealed(&bytes, random.random_range(0..len), all_seals()),
        sealed(&bytes, len + random.random_range(1..9000), all_seals()),
        sealed(&[], 1 << 40, all_seals()),
        tempfile::tempfile().unwrap().into(),
        std::io::pipe().unwrap().0.into(),
        SideSocket::pair().unwrap().0.into(),
        File::open("/").unwrap().into(),
    ];
    // What only the kernel tells of a file.
    if ENFORCED {
        wrong.push(sealed(&bytes, len, unsealed));
        // No memory behind it: read, it would be taken in our name.
        wrong.push(sealed(&bytes[..4096], len, all_seals()));
    }
    for fd in wrong {
        let open = told.hear(PeerHalf::open(fd));
        assert!(open.is_none(), "what is no half was taken for one");
    }
}

/// Serves the honest process until it is told to stop. Gives how many messages came back.
fn serve_the_honest_one(stop: &AtomicBool) -> u64 {
    const LANE: Lane = Lane::NORMAL;
    let (mut child, control) = spawn("echo");
    let own = OwnHalf::create(Geometry::DEFAULT, Start::default()).unwrap();
    let half = own.share().unwrap();
    let peer = PeerHalf::open(receive_fd(&control)).unwrap();
    send_fd(&control, &half);
    let mut end = End::connect(own, peer);
    let (mut sent, mut back, mut body) = (0, 0, Vec::new());
    let mut heard = Instant::now();
    while !stop.load(Ordering::Relaxed) || back < sent {
        if sent < back + 50 && !stop.load(Ordering::Relaxed) {
            end.sender.try_send(LANE, tell(), &pattern(sent)).unwrap();
            sent += 1;
        }
        while let Some(got) = end.receiver.try_receive(&mut body).unwrap() {
            assert_eq!(got.sequence.get(), back);
            assert!(body == pattern(back), "message {back} was disturbed");
            back += 1;
            end.receiver.finish(LANE, got.sequence.next());
            heard = Instant::now();
        }
        if sent == back + 50 {
            let _ = end.receiver.wait(Some(Duration::from_millis(20)));
        }
        assert!(
            heard.elapsed() < PATIENCE,
            "the honest channel stands still at {back}"
        );
    }
    drop(control);
    assert!(child.wait().unwrap().success());
    back
}

/// One channel to the attacker, used while it is attacked; sometimes another attacker's half is
/// swapped in, in the middle.
fn round(control: &SideSocket, random: &mut SmallRng, told: &mut Told) -> u64 {
    let which = random.random_range(0..GEOMETRIES.len());
    let (side, far) = SideSocket::pair().unwrap();
    let command = [&number(random.random())[..], &[which as u8]].concat();
    control.send(&command, &[far.as_fd()]).unwrap();
    drop(far);
    let fd = receive_fd(control);
    let again = fd.try_clone().unwrap();
    let own = OwnHalf::create(GEOMETRIES[which], Start::default()).unwrap();
    let mut calls = 0;
    // It scribbles already: the half, or the connection, may be refused.
    let peer = told.hear(PeerHalf::open(fd));
    let ends = peer.and_then(|peer| told.hear(connect(own, peer)));
    if let Some((sender, receiver, swapper)) = ends {
        let mut end = End {
            sender,
            receiver,
            swapper,
        };
        let mut body = Vec::new();
        let until = Instant::now() + ROUND;
        let mut successor = random.random::<bool>().then_some(again);
        while Instant::now() < until {
            exercise(&mut end, &side, &mut body, calls, told);
            calls += 1;
            if calls == 50
                && let Some(fd) = successor.take()
                && let Some(peer) = told.hear(PeerHalf::open(fd))
            {
                end.swapper.swap(peer);
            }
        }
        assert!(body.capacity() <= 2 * MAX_BODY_BYTES);
    }
    let no_fds: &[BorrowedFd<'_>] = &[];
    control.send(b"enough", no_fds).unwrap();
    calls
}

#[test]
fn a_hostile_process_gets_errors_and_disturbs_nobody() {
    let seconds = setting("WEFT_HOSTILE_SECONDS", SECONDS);
    let mut random = random();
    let mut told = Told::default();
    let stop = AtomicBool::new(false);
    let (mut rounds, mut calls) = (0_u64, 0_u64);
    let back = thread::scope(|scope| {
        let honest = scope.spawn(|| serve_the_honest_one(&stop));
        let (mut child, control) = spawn("attack");
        let ready = control.receive(Some(PATIENCE)).unwrap();
        assert!(ready.is_some(), "the attacker never began");
        let end = Instant::now() + Duration::from_secs(seconds);
        let attacked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            while Instant::now() < end {
                calls += round(&control, &mut random, &mut told);
                refuse_what_is_no_half(&mut random, &mut told);
                rounds += 1;
            }
        }));
        stop.store(true, Ordering::Relaxed);
        drop(control);
        let status = child.wait().unwrap();
        let back = honest.join().unwrap();
        if let Err(panic) = attacked {
            std::panic::resume_unwind(panic);
        }
        assert!(status.success(), "the attacker gave up: {status}");
        back
    });
    println!("{rounds} channels attacked in {calls} passes over all calls; {back} honest messages");
    println!(
        "at most {} KiB allocated; told: {:?}",
        most_live_bytes() / 1024,
        told.0
    );
    assert!(back > 0 && rounds > 0);
    assert!(
        most_live_bytes() < MOST_LIVE_BYTES,
        "a peer made us take memory"
    );
    for fault in ["WrongSequence", "CursorAhead", "NotSealed", "WrongSize"] {
        assert!(
            told.0.contains_key(fault) || (fault == "NotSealed" && !ENFORCED),
            "the attack is too weak: no {fault}"
        );
    }
}
