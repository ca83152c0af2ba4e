//! Facts beside the figures: what a sleeper costs, how often it is woken, and that it always is.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use weft_local_ipc::{
    Geometry, Header, OwnHalf, PeerHalf, Receiver, SendError, Sender, Spin, Start, Swapper, Wait,
    Waiter, connect,
};
use weft_types::{Lane, MessageKind, Sequence, TypeIndex};

use crate::Outcome;
use crate::machine::{self, Cores};

const LANE: Lane = Lane::NORMAL;
const HEADER: Header = Header {
    kind: MessageKind::Tell,
    type_index: TypeIndex::new(0),
    correlation: Sequence::ZERO,
    has_descriptors: false,
};

/// How long a receiver is left alone.
const IDLE: Duration = Duration::from_secs(1);

/// Messages of a burst.
const BURST: u64 = 400;

/// What was found.
#[derive(Debug, Serialize)]
pub struct Facts {
    /// Processor time that a receiver took in a second in which nothing came, in microseconds.
    pub idle_cpu_us_per_s: u64,
    /// How often a sleeper's bell was rung for a burst of so many messages.
    pub burst: (u64, u32),
    /// Messages to a receiver that parks at random, how often it slept, and how long it took.
    pub parked: Parked,
}

/// What came of many messages to a receiver that parks at random.
#[derive(Debug, Serialize)]
pub struct Parked {
    messages: u64,
    sleeps: u64,
    seconds: f64,
}

struct End {
    sender: Sender,
    receiver: Receiver,
    swapper: Swapper,
}

fn channel() -> Outcome<(End, End)> {
    let half = || OwnHalf::create(Geometry::DEFAULT.fixed(), Start::default());
    let (a, b) = (half()?, half()?);
    let (of_a, of_b) = (PeerHalf::open(a.share()?)?, PeerHalf::open(b.share()?)?);
    let end = |own, peer| -> Outcome<End> {
        let (sender, receiver, swapper) = connect(own, peer)?;
        Ok(End {
            sender,
            receiver,
            swapper,
        })
    };
    Ok((end(a, of_b)?, end(b, of_a)?))
}

/// Finds all of it. `messages` go to the receiver that parks at random.
///
/// # Errors
///
/// If a message is lost, comes twice or out of order, or a wake-up is lost (after ten seconds).
pub fn find(messages: u64) -> Outcome<Facts> {
    Ok(Facts {
        idle_cpu_us_per_s: idle()?,
        burst: (BURST, burst()?),
        parked: parked(messages)?,
    })
}

fn idle() -> Outcome<u64> {
    let (_near, mut far) = channel()?;
    let mut waiter = Waiter::default();
    // The spin window is not part of it.
    let _ = waiter.wait(&mut far.receiver, Some(Duration::from_millis(10)));
    let used = || clock_gettime(ClockId::ThreadCPUTime);
    let before = used();
    let wait = waiter.wait(&mut far.receiver, Some(IDLE));
    let after = used();
    ensure!(wait == Wait::TimedOut, "somebody rang");
    let nanos = (after.tv_sec - before.tv_sec) * 1_000_000_000 + (after.tv_nsec - before.tv_nsec);
    Ok(u64::try_from(nanos)? / 1000)
}

fn burst() -> Outcome<u32> {
    let (mut near, mut far) = channel()?;
    let bell = far.swapper.bell();
    let before = bell.value();
    far.receiver.park();
    for n in 0..BURST {
        near.sender.try_send_value(LANE, HEADER, &n)?;
    }
    Ok(bell.value().wrapping_sub(before))
}

/// A number that looks like chance, from one that does not (splitmix64).
fn mixed(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

fn parked(messages: u64) -> Outcome<Parked> {
    let cores = Cores::find()?;
    let (mut near, mut far) = channel()?;
    let over = AtomicBool::new(false);
    let begin = Instant::now();
    let sleeps = thread::scope(|scope| -> Outcome<u64> {
        let receiver = scope.spawn(|| -> Outcome<u64> {
            machine::pin(cores.answer)?;
            let taken = take_all(&mut far.receiver, messages);
            over.store(true, Ordering::Relaxed);
            taken
        });
        machine::pin(cores.ask)?;
        let mut next = 0;
        while next < messages && !over.load(Ordering::Relaxed) {
            // Rows of all lengths, and now and then a silence in which the receiver falls asleep.
            let row = 1 + mixed(next) % 200;
            let mut values = next..(next + row).min(messages);
            let (sent, result) = near.sender.send_values(LANE, HEADER, &mut values);
            next += sent as u64;
            match result {
                Ok(()) | Err(SendError::Full { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            if mixed(next).is_multiple_of(100) {
                thread::sleep(Duration::from_micros(mixed(next) % 100));
            }
        }
        receiver
            .join()
            .map_err(|_| anyhow::anyhow!("the receiver panicked"))?
    })?;
    Ok(Parked {
        messages,
        sleeps,
        seconds: begin.elapsed().as_secs_f64(),
    })
}

/// Takes so many messages, each in its turn; how often it slept meanwhile.
fn take_all(receiver: &mut Receiver, messages: u64) -> Outcome<u64> {
    let mut sleeps = 0;
    let mut next = 0;
    while next < messages {
        match receiver.try_receive_value::<u64>()? {
            Some((received, value)) => {
                ensure!(value == next, "{value} came in the place of {next}");
                next += 1;
                if next.is_multiple_of(64) || next == messages {
                    receiver.finish(LANE, received.sequence.next());
                }
            }
            None => {
                receiver.finish(LANE, Sequence::new(next));
                // At once, after a short look, or not at all.
                let spin = Duration::from_nanos([0, 200, 5000][(mixed(next) % 3) as usize]);
                let wait =
                    receiver.wait_spinning(Spin::lasting(spin), Some(Duration::from_secs(10)));
                ensure!(wait != Wait::TimedOut, "the wake-up for {next} was lost");
                sleeps += 1;
            }
        }
    }
    Ok(sleeps)
}
