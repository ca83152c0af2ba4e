//! What does a runtime cost? `cargo bench -p weft-local-ipc --features tokio --bench tokio_round_trip`.
//!
//! Two threads, a core and a current-thread runtime each, exchange 64 bytes in turn: over a channel
//! whose receivers spin (no runtime), over the same under tokio with `recv().await` awake (it spins
//! for what the wait takes), and over tokio's Unix streams. Medians of five passes, outermost; a bare
//! cache-line round trip before and after each run says whether rows compare.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_setaffinity};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use weft_local_ipc::{
    AsyncReceiver, AsyncSender, Doorbell, Geometry, Header, OwnHalf, PeerHalf, Receiver, Sender,
    Start, Swapper, asynchronous, connect,
};
use weft_types::{Lane, MessageKind, Sequence, TypeIndex};

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;
type End = (Sender, Receiver, Swapper);

const LANE: Lane = Lane::NORMAL;
const BODY: [u8; 64] = [7; 64];
const TRIPS: usize = 50_000;
/// A stream sleeps on every trip.
const STREAM_TRIPS: usize = 5_000;
const PASSES: usize = 5;
const OUR_CORE: usize = 1;
const THEIR_CORE: usize = 0;
const PROBES: u32 = 200_000;

fn main() -> Outcome {
    pin(OUR_CORE)?;
    println!("line round trip before: {:?}", probe());
    let mut rows: Vec<(&str, Vec<u128>)> =
        ["spinning, no runtime", "tokio channel", "tokio Unix stream"]
            .map(|name| (name, Vec::new()))
            .into();
    for _ in 0..PASSES {
        rows[0].1.push(spinning()?);
        rows[1].1.push(under_tokio()?);
        rows[2].1.push(stream()?);
    }
    let floor = median(&mut rows[0].1);
    for (name, nanos) in &mut rows {
        let p50 = median(nanos);
        println!(
            "{name:>22}: p50 {p50:6} ns, {:.2} of spinning",
            p50 as f64 / floor as f64
        );
    }
    println!("line round trip after: {:?}", probe());
    Ok(())
}

fn median(nanos: &mut [u128]) -> u128 {
    nanos.sort_unstable();
    nanos[nanos.len() / 2]
}

fn pin(core: usize) -> Outcome {
    let mut set = CpuSet::new();
    set.set(core);
    Ok(sched_setaffinity(None, &set)?)
}

fn runtime() -> Outcome<Runtime> {
    Ok(Builder::new_current_thread().enable_io().build()?)
}

fn ends() -> Outcome<(End, End)> {
    let a = OwnHalf::create(Geometry::DEFAULT.fixed(), Start::default())?;
    let b = OwnHalf::create(Geometry::DEFAULT.fixed(), Start::default())?;
    let (to_a, to_b) = (PeerHalf::open(b.share()?)?, PeerHalf::open(a.share()?)?);
    Ok((connect(a, to_a)?, connect(b, to_b)?))
}

fn tell() -> Header {
    Header {
        kind: MessageKind::Tell,
        type_index: TypeIndex::new(0),
        correlation: Sequence::ZERO,
        has_descriptors: false,
    }
}

fn spinning() -> Outcome<u128> {
    fn take(receiver: &mut Receiver, body: &mut Vec<u8>) -> Outcome {
        loop {
            if let Some(got) = receiver.try_receive(body)? {
                receiver.finish(got.lane, got.sequence.next());
                return Ok(());
            }
            std::hint::spin_loop();
        }
    }
    let ((mut sender, mut receiver, _), (mut back, mut there, _)) = ends()?;
    let echo = thread::spawn(move || -> Outcome {
        pin(THEIR_CORE)?;
        let mut body = Vec::new();
        for _ in 0..TRIPS {
            take(&mut there, &mut body)?;
            back.try_send(LANE, tell(), &BODY)?;
        }
        Ok(())
    });
    let mut nanos = Vec::with_capacity(TRIPS);
    let mut body = Vec::new();
    for _ in 0..TRIPS {
        let begin = Instant::now();
        sender.try_send(LANE, tell(), &BODY)?;
        take(&mut receiver, &mut body)?;
        nanos.push(begin.elapsed().as_nanos());
    }
    echo.join().map_err(|_| "the echo panicked")??;
    Ok(median(&mut nanos))
}

fn under_tokio() -> Outcome<u128> {
    async fn take(receiver: &mut AsyncReceiver, body: &mut Vec<u8>) -> Outcome {
        let got = receiver.recv(body).await?;
        receiver.get_mut().finish(got.lane, got.sequence.next());
        Ok(())
    }
    async fn send(sender: &mut AsyncSender) -> Outcome {
        sender.send(LANE, tell(), &BODY).await?;
        Ok(())
    }
    let ((sender, receiver, swapper), (back, there, far_swapper)) = ends()?;
    let (bell, far) = Doorbell::pair()?;
    let (far_bell, near) = Doorbell::pair()?;
    far_swapper.ring_through(far)?;
    swapper.ring_through(near)?;
    let echo = thread::spawn(move || -> Outcome {
        pin(THEIR_CORE)?;
        runtime()?.block_on(async {
            let (mut back, mut there) = asynchronous(back, there, far_bell)?;
            let mut body = Vec::new();
            for _ in 0..TRIPS {
                take(&mut there, &mut body).await?;
                send(&mut back).await?;
            }
            Ok(())
        })
    });
    let nanos = runtime()?.block_on(async {
        let (mut sender, mut receiver) = asynchronous(sender, receiver, bell)?;
        let mut nanos = Vec::with_capacity(TRIPS);
        let mut body = Vec::new();
        for _ in 0..TRIPS {
            let begin = Instant::now();
            send(&mut sender).await?;
            take(&mut receiver, &mut body).await?;
            nanos.push(begin.elapsed().as_nanos());
        }
        Outcome::Ok(nanos)
    });
    echo.join().map_err(|_| "the echo panicked")??;
    Ok(median(&mut nanos?))
}

fn stream() -> Outcome<u128> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    let echo = thread::spawn(move || -> Outcome {
        pin(THEIR_CORE)?;
        runtime()?.block_on(async {
            let mut stream = UnixStream::from_std(theirs)?;
            let mut body = BODY;
            for _ in 0..STREAM_TRIPS {
                stream.read_exact(&mut body).await?;
                stream.write_all(&body).await?;
            }
            Ok(())
        })
    });
    let nanos = runtime()?.block_on(async {
        let mut stream = UnixStream::from_std(ours)?;
        let mut body = BODY;
        let mut nanos = Vec::with_capacity(STREAM_TRIPS);
        for _ in 0..STREAM_TRIPS {
            let begin = Instant::now();
            stream.write_all(&body).await?;
            stream.read_exact(&mut body).await?;
            nanos.push(begin.elapsed().as_nanos());
        }
        Outcome::Ok(nanos)
    });
    echo.join().map_err(|_| "the echo panicked")??;
    Ok(median(&mut nanos?))
}

/// A cache line there and back.
fn probe() -> Duration {
    let line = Arc::new(AtomicU64::new(0));
    let echo = thread::spawn({
        let line = Arc::clone(&line);
        move || {
            pin(THEIR_CORE).expect("their core");
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
