//! What is a round trip where both sides share a core? `cargo bench -p weft-local-ipc --bench one_core`.
//!
//! Two threads on one core exchange 64 bytes, in turn: through two futex words (the floor of whoever
//! sleeps), a pipe, and a channel whose receiver sleeps at once, learns by itself that spinning is in
//! vain, or is told so and sends with `send_and_yield`. Medians of five passes, outermost.

use std::error::Error;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, futex, sched_setaffinity};
use weft_local_ipc::{
    Geometry, Header, OwnHalf, PeerHalf, Receiver, Sender, Spin, Start, Waiter, connect,
};
use weft_types::{Lane, MessageKind, Sequence, TypeIndex};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

const LANE: Lane = Lane::NORMAL;
const BODY: [u8; 64] = [7; 64];
const TRIPS: usize = 20_000;
const PASSES: usize = 5;
const CORE: usize = 1;
const PATIENCE: Option<Duration> = Some(Duration::from_secs(10));

/// How the channel's sides wait, and whether they give up the core after a send.
#[derive(Clone, Copy)]
enum How {
    Sleep,
    Learn,
    Yield,
}

fn main() -> Outcome {
    let mut set = CpuSet::new();
    set.set(CORE);
    sched_setaffinity(None, &set)?;
    let mut rows: Vec<(&str, Vec<u128>)> = [
        "bare futex ring",
        "pipe",
        "channel, asleep at once",
        "channel, learns",
        "channel, send_and_yield",
    ]
    .map(|name| (name, Vec::new()))
    .into();
    for _ in 0..PASSES {
        rows[0].1.push(futex_ring()?);
        rows[1].1.push(pipe()?);
        rows[2].1.push(channel(How::Sleep)?);
        rows[3].1.push(channel(How::Learn)?);
        rows[4].1.push(channel(How::Yield)?);
    }
    let floor = median(&mut rows[0].1);
    for (name, nanos) in &mut rows {
        let p50 = median(nanos);
        let share = p50 as f64 / floor as f64;
        println!("{name:>24}: p50 {p50:6} ns, {share:.2} of a bare futex ring");
    }
    Ok(())
}

fn median(nanos: &mut [u128]) -> u128 {
    nanos.sort_unstable();
    nanos[nanos.len() / 2]
}

/// The median of round trips, the first tenth not counted.
fn trips(mut trip: impl FnMut() -> Outcome) -> Outcome<u128> {
    let mut nanos = Vec::with_capacity(TRIPS);
    for n in 0..TRIPS {
        let begin = Instant::now();
        trip()?;
        if n >= TRIPS / 10 {
            nanos.push(begin.elapsed().as_nanos());
        }
    }
    Ok(median(&mut nanos))
}

fn futex_ring() -> Outcome<u128> {
    fn pass(word: &AtomicU32, value: u32) {
        word.store(value, Ordering::SeqCst);
        let _ = futex::wake(word, futex::Flags::empty(), 1);
    }
    fn until(word: &AtomicU32, value: u32) {
        loop {
            let now = word.load(Ordering::SeqCst);
            if now == value {
                return;
            }
            let _ = futex::wait(word, futex::Flags::empty(), now, None);
        }
    }
    let words = Arc::new((AtomicU32::new(0), AtomicU32::new(0)));
    let echo = thread::spawn({
        let words = Arc::clone(&words);
        move || {
            for turn in 1..=TRIPS as u32 {
                until(&words.0, turn);
                pass(&words.1, turn);
            }
        }
    });
    let mut turn = 0;
    let p50 = trips(|| {
        turn += 1;
        pass(&words.0, turn);
        until(&words.1, turn);
        Ok(())
    })?;
    echo.join().map_err(|_| "the echo panicked")?;
    Ok(p50)
}

fn pipe() -> Outcome<u128> {
    let (mut their_read, mut our_write) = std::io::pipe()?;
    let (mut our_read, mut their_write) = std::io::pipe()?;
    let echo = thread::spawn(move || {
        let mut body = BODY;
        while their_read.read_exact(&mut body).is_ok() {
            if their_write.write_all(&body).is_err() {
                return;
            }
        }
    });
    let mut body = BODY;
    let p50 = trips(|| {
        our_write.write_all(&body)?;
        our_read.read_exact(&mut body)?;
        Ok(())
    })?;
    drop(our_write);
    echo.join().map_err(|_| "the echo panicked")?;
    Ok(p50)
}

fn channel(how: How) -> Outcome<u128> {
    let a = OwnHalf::create(Geometry::DEFAULT.fixed(), Start::default())?;
    let b = OwnHalf::create(Geometry::DEFAULT.fixed(), Start::default())?;
    let (to_a, to_b) = (PeerHalf::open(b.share()?)?, PeerHalf::open(a.share()?)?);
    let (mut sender, mut receiver, _) = connect(a, to_a)?;
    let (mut back, mut there, _) = connect(b, to_b)?;
    let echo = thread::spawn(move || {
        let mut waiter = waiter(how);
        for _ in 0..TRIPS {
            take(&mut there, &mut waiter, how).expect("a request");
            send(&mut back, how).expect("room");
        }
    });
    let mut waiter = waiter(how);
    let p50 = trips(|| {
        send(&mut sender, how)?;
        take(&mut receiver, &mut waiter, how)
    })?;
    echo.join().map_err(|_| "the echo panicked")?;
    Ok(p50)
}

fn waiter(how: How) -> Waiter {
    match how {
        How::Yield => Waiter::default().without_spinning(),
        How::Sleep | How::Learn => Waiter::default(),
    }
}

fn send(sender: &mut Sender, how: How) -> Outcome {
    let header = Header {
        kind: MessageKind::Tell,
        type_index: TypeIndex::new(0),
        correlation: Sequence::ZERO,
        has_descriptors: false,
    };
    match how {
        How::Yield => sender.send_and_yield(LANE, header, &BODY)?,
        How::Sleep | How::Learn => sender.try_send(LANE, header, &BODY)?,
    };
    Ok(())
}

fn take(receiver: &mut Receiver, waiter: &mut Waiter, how: How) -> Outcome {
    let mut body = Vec::with_capacity(BODY.len());
    let begin = Instant::now();
    loop {
        if let Some(got) = receiver.try_receive(&mut body)? {
            receiver.finish(got.lane, got.sequence.next());
            return Ok(());
        }
        match how {
            How::Sleep => receiver.wait_spinning(Spin::lasting(Duration::ZERO), PATIENCE),
            How::Learn | How::Yield => waiter.wait(receiver, PATIENCE),
        };
        if PATIENCE.is_some_and(|patience| begin.elapsed() > patience) {
            return Err("the other side does not answer".into());
        }
    }
}
