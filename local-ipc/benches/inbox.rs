//! What does an inbox cost over a bare receiver? `cargo bench -p weft-local-ipc --bench inbox`.
//!
//! A sender process pinned to one core sends 64-byte messages to a receiver on another: into a bare
//! channel, into an inbox with that channel alone, and into one with 1,000 idle channels beside it.
//! Then the time from a send on a cold channel until the inbox hands it out, with an inbox that spins
//! and one that sleeps. Rows of one run compare; a bare cache-line round trip is
//! printed before and after, because virtual cores are moved about: drop a run in which they differ.

use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};
use weft_local_ipc::{
    Doorbell, Event, Geometry, Header, Inbox, OwnHalf, PeerHalf, Receiver, Sender, Start, Swapper,
    Wake, connect,
};
use weft_types::{Lane, MessageKind, Sequence, TypeIndex};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

const LANE: Lane = Lane::NORMAL;
const GEOMETRY: Geometry = Geometry {
    slots: 1024,
    slot_bytes: 128,
    arena_bytes: 0,
    growth: 0,
};
const IDLE_GEOMETRY: Geometry = Geometry {
    slots: 16,
    ..GEOMETRY
};
const IDLE: usize = 1000;
const MEASURED: Duration = Duration::from_millis(300);
const PASSES: usize = 5;
const FIRST_MESSAGES: usize = 400;
const SENDER_CORE: usize = 0;
const RECEIVER_CORE: usize = 1;
const BURST: u64 = 32;
const PAUSES: u32 = 16;
const PROBES: u32 = 200_000;

fn main() -> Outcome {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    pin(RECEIVER_CORE)?;
    println!("line round trip before: {:?}", probe());
    drains()?;
    for burst in [1, BURST] {
        throughput(burst)?;
    }
    for (name, doorbells, gap) in [
        ("spinning", false, Duration::ZERO),
        ("asleep, listeners", false, Duration::from_millis(1)),
        ("asleep, doorbells", true, Duration::from_millis(1)),
    ] {
        let mut nanos = first_messages(doorbells, gap)?;
        nanos.sort_unstable();
        let at = |share: usize| nanos[nanos.len() * share / 100];
        println!(
            "first message, cold among 1,000, {name}: p50 {} ns, p99 {} ns",
            at(50),
            at(99)
        );
    }
    println!("line round trip after: {:?}", probe());
    Ok(())
}

/// What taking one of many waiting messages costs, without another core: the receiver's part alone.
fn drains() -> Outcome {
    let mut body = Vec::new();
    let (mut receiver, mut sender, _) = channel(GEOMETRY)?;
    let bare = drain(&mut sender, || {
        let got = receiver
            .try_receive(&mut body)
            .expect("honest")
            .expect("there");
        receiver.finish(got.lane, got.sequence.next());
    });
    println!("{:>24}: {bare:?} a message waiting", "bare channel");
    for idle in [0, IDLE] {
        let mut inbox = Inbox::new(Wake::Now);
        let mut others = Vec::new();
        let (receiver, mut sender, _) = channel(GEOMETRY)?;
        for key in 0..idle {
            let (receiver, sender, _) = channel(IDLE_GEOMETRY)?;
            inbox.add(key, receiver)?;
            others.push(sender);
        }
        while inbox.cold() < inbox.len() {
            inbox.try_next();
        }
        inbox.add(idle, receiver)?;
        let taken = drain(&mut sender, || {
            let Some(Event::Message(message)) = inbox.try_next() else {
                panic!("no message");
            };
            let (member, got) = (message.member, message.received);
            inbox.finish(member, got.lane, got.sequence.next());
        });
        println!(
            "{:>24}: {taken:?} a message waiting",
            format!("inbox of 1 + {idle} idle")
        );
    }
    Ok(())
}

fn drain(sender: &mut Sender, mut take: impl FnMut()) -> Duration {
    let mut best = Duration::MAX;
    for _ in 0..200 {
        for _ in 0..GEOMETRY.slots {
            sender.try_send_lazy(LANE, tell(), &[7; 64]).expect("room");
        }
        let begin = Instant::now();
        (0..GEOMETRY.slots).for_each(|_| take());
        best = best.min(begin.elapsed() / GEOMETRY.slots);
    }
    best
}

/// Each message flushed and finished by itself, or `burst` of them together.
fn throughput(burst: u64) -> Outcome {
    let mut rows = [
        (Vec::new(), "bare channel"),
        (Vec::new(), "inbox of 1"),
        (Vec::new(), "inbox of 1 + 1,000 idle"),
    ];
    for _ in 0..PASSES {
        rows[0].0.push(bare(burst)?);
        rows[1].0.push(inbox(0, burst)?);
        rows[2].0.push(inbox(IDLE, burst)?);
    }
    let base = median(&mut rows[0].0);
    for (figures, name) in &mut rows {
        let rate = median(figures);
        let share = rate / base;
        let rate = rate / 1e6;
        println!("{name:>24}, {burst:2} a flush: {rate:6.2} M/s, {share:.2} of a bare channel");
    }
    Ok(())
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn pin(core: usize) -> Outcome {
    let mut set = CpuSet::new();
    set.set(core);
    Ok(sched_setaffinity(None, &set)?)
}

/// A channel with its two ends in two threads, which is all the same to the rings.
fn channel(geometry: Geometry) -> Outcome<(Receiver, Sender, Swapper)> {
    let a = OwnHalf::create(geometry, Start::default())?;
    let b = OwnHalf::create(geometry, Start::default())?;
    let (to_a, to_b) = (PeerHalf::open(b.share()?)?, PeerHalf::open(a.share()?)?);
    let (_, receiver, _) = connect(a, to_a)?;
    let (sender, _, swapper) = connect(b, to_b)?;
    Ok((receiver, sender, swapper))
}

fn tell() -> Header {
    Header {
        kind: MessageKind::Tell,
        type_index: TypeIndex::new(0),
        correlation: Sequence::ZERO,
        has_descriptors: false,
    }
}

/// Sends until told to stop, and counts nothing: the receiver does.
fn flood(mut sender: Sender, burst: u64, stop: Arc<AtomicBool>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        pin(SENDER_CORE).expect("the sender's core");
        let mut body = [0_u8; 64];
        let mut n = 0_u64;
        while !stop.load(Ordering::Relaxed) {
            body[..8].copy_from_slice(&n.to_le_bytes());
            match sender.try_send_lazy(LANE, tell(), &body) {
                Ok(_) => {
                    n += 1;
                    if n.is_multiple_of(burst) {
                        sender.flush();
                    }
                }
                Err(_) => std::hint::spin_loop(),
            }
        }
    })
}

fn bare(burst: u64) -> Outcome<f64> {
    let (mut receiver, sender, _) = channel(GEOMETRY)?;
    let mut body = Vec::new();
    measure(sender, burst, || {
        let got = receiver.try_receive(&mut body).ok()??;
        black_box(body[0]);
        let end = got.sequence.next();
        if end.get().is_multiple_of(burst) {
            receiver.finish(got.lane, end);
        }
        Some(())
    })
}

fn inbox(idle: usize, burst: u64) -> Outcome<f64> {
    let mut inbox = Inbox::new(Wake::Now);
    let mut others = Vec::new();
    for key in 0..idle {
        let (receiver, sender, _) = channel(IDLE_GEOMETRY)?;
        inbox.add(key, receiver)?;
        others.push(sender);
    }
    let (receiver, sender, _) = channel(GEOMETRY)?;
    while inbox.cold() < inbox.len() {
        inbox.try_next();
    }
    inbox.add(idle, receiver)?;
    measure(sender, burst, || {
        let Event::Message(message) = inbox.try_next()? else {
            return None;
        };
        black_box(message.body[0]);
        let (member, got) = (message.member, message.received);
        let end = got.sequence.next();
        if end.get().is_multiple_of(burst) {
            inbox.finish(member, got.lane, end);
        }
        Some(())
    })
}

/// Messages a second, from the first one received on.
fn measure(sender: Sender, burst: u64, mut take: impl FnMut() -> Option<()>) -> Outcome<f64> {
    let stop = Arc::new(AtomicBool::new(false));
    let flooding = flood(sender, burst, Arc::clone(&stop));
    while take().is_none() {}
    let begin = Instant::now();
    let mut count = 0_u64;
    while begin.elapsed() < MEASURED {
        for _ in 0..256 {
            if take().is_some() {
                count += 1;
            } else {
                // Whoever looks all the time takes the line from the sender each time.
                (0..PAUSES).for_each(|_| std::hint::spin_loop());
            }
        }
    }
    let rate = count as f64 / begin.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    flooding.join().map_err(|_| "the sender panicked")?;
    Ok(rate)
}

/// From before each send on a cold channel until the inbox hands it out, in nanoseconds.
fn first_messages(doorbells: bool, gap: Duration) -> Outcome<Vec<u64>> {
    let mut inbox = Inbox::new(Wake::Now);
    let mut senders = Vec::new();
    for key in 0..IDLE {
        let (receiver, sender, swapper) = channel(IDLE_GEOMETRY)?;
        let member = inbox.add(key, receiver)?;
        if doorbells {
            let (doorbell, far) = Doorbell::pair()?;
            swapper.ring_through(far)?;
            inbox.set_doorbell(member, doorbell)?;
        }
        senders.push(sender);
    }
    let clock = Instant::now();
    let ready = Arc::new(AtomicU64::new(0));
    let sending = thread::spawn({
        let ready = Arc::clone(&ready);
        move || {
            pin(SENDER_CORE).expect("the sender's core");
            for n in 0..FIRST_MESSAGES {
                while ready.load(Ordering::Acquire) <= n as u64 {
                    std::hint::spin_loop();
                }
                thread::sleep(gap);
                let now = clock.elapsed().as_nanos() as u64;
                let sender = &mut senders[(n * 7919) % IDLE];
                sender
                    .try_send(LANE, tell(), &now.to_le_bytes())
                    .expect("room");
            }
            senders
        }
    });
    let mut nanos = Vec::new();
    while nanos.len() < FIRST_MESSAGES {
        while inbox.cold() < inbox.len() {
            inbox.try_next();
        }
        ready.fetch_add(1, Ordering::Release);
        let event = if gap.is_zero() {
            loop {
                if let Some(event) = inbox.try_next() {
                    break Some(event);
                }
            }
        } else {
            inbox.next(Some(Duration::from_secs(5)))
        };
        let now = clock.elapsed().as_nanos() as u64;
        let Some(Event::Message(message)) = event else {
            return Err("no message".into());
        };
        let sent = u64::from_le_bytes(message.body.try_into()?);
        nanos.push(now.saturating_sub(sent));
        let (member, got) = (message.member, message.received);
        inbox.finish(member, got.lane, got.sequence.next());
    }
    drop(sending.join().map_err(|_| "the sender panicked")?);
    Ok(nanos)
}

/// A cache line there and back.
fn probe() -> Duration {
    let line = Arc::new(AtomicU64::new(0));
    let echo = thread::spawn({
        let line = Arc::clone(&line);
        move || {
            pin(SENDER_CORE).expect("the sender's core");
            for turn in 0..u64::from(PROBES) {
                while line.load(Ordering::Acquire) != 2 * turn + 1 {}
                line.store(2 * turn + 2, Ordering::Release);
            }
        }
    });
    let begin = Instant::now();
    for turn in 0..u64::from(PROBES) {
        line.store(2 * turn + 1, Ordering::Release);
        while line.load(Ordering::Acquire) != 2 * turn + 2 {}
    }
    let taken = begin.elapsed() / PROBES;
    echo.join().expect("the echo");
    taken
}
