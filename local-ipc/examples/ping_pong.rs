//! How long a message takes to another process and back: `cargo run --release --example ping_pong`.
//!
//! Prints the median and p99 of 64-byte round trips, spinning and sleeping, and of a pipe as the
//! floor that the kernel offers. Rows of one run compare; the machine decides the rest (whether the
//! cores share a cache, whether they halt when idle).

use std::error::Error;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use weft_local_ipc::{
    Geometry, Header, OwnHalf, PeerHalf, Receiver, Sender, SideSocket, Spin, Start, Wait, connect,
    die_with_parent,
};
use weft_types::{Lane, MessageKind, Sequence, TypeIndex};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

const LANE: Lane = Lane::NORMAL;
const BODY: [u8; 64] = [7; 64];
const SPINNING_TRIPS: usize = 100_000;
const SLEEPING_TRIPS: usize = 5_000;
const PATIENCE: Duration = Duration::from_secs(10);
/// Tells the echo process which way to wait.
const ROLE: &str = "WEFT_PING_PONG";

fn main() -> Outcome {
    match std::env::var(ROLE).as_deref() {
        Ok("pipe") => return echo_pipe(),
        Ok(how) => return echo(how == "spin"),
        Err(_) => {}
    }
    for (how, trips) in [("spin", SPINNING_TRIPS), ("sleep", SLEEPING_TRIPS)] {
        report(how, ping(how, trips)?);
    }
    report("pipe", ping_pipe(SLEEPING_TRIPS)?);
    Ok(())
}

fn report(how: &str, mut nanos: Vec<u128>) {
    nanos.sort_unstable();
    let at = |share: usize| nanos[nanos.len() * share / 100];
    println!("{how:>6}: p50 {:>7} ns, p99 {:>7} ns", at(50), at(99));
}

fn ping(how: &str, trips: usize) -> Outcome<Vec<u128>> {
    let (side, far) = SideSocket::pair()?;
    let mut child = Command::new(std::env::current_exe()?)
        .env(ROLE, how)
        .stdin(Stdio::from(OwnedFd::from(far)))
        .spawn()?;
    let (mut sender, mut receiver) = handshake(&side)?;
    let mut nanos = Vec::with_capacity(trips);
    for _ in 0..trips {
        let begin = Instant::now();
        sender.try_send(LANE, tell(), &BODY)?;
        take(&mut receiver, how == "spin")?;
        nanos.push(begin.elapsed().as_nanos());
    }
    sender.try_send(LANE, tell(), b"")?;
    child.wait()?;
    Ok(nanos)
}

fn echo(spinning: bool) -> Outcome {
    die_with_parent()?;
    let side = SideSocket::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let (mut sender, mut receiver) = handshake(&side)?;
    while take(&mut receiver, spinning)? > 0 {
        sender.try_send(LANE, tell(), &BODY)?;
    }
    Ok(())
}

/// Waits for a message, finishes it, says how long its body is.
fn take(receiver: &mut Receiver, spinning: bool) -> Outcome<usize> {
    let mut body = Vec::with_capacity(BODY.len());
    let mut spin = Spin::lasting(PATIENCE);
    loop {
        if let Some(got) = receiver.try_receive(&mut body)? {
            receiver.finish(got.lane, got.sequence.next());
            return Ok(body.len());
        }
        let late = if spinning {
            !spin.again()
        } else {
            receiver.wait_spinning(Spin::lasting(Duration::ZERO), Some(PATIENCE)) == Wait::TimedOut
        };
        if late {
            return Err("the other process does not answer".into());
        }
    }
}

fn handshake(side: &SideSocket) -> Outcome<(Sender, Receiver)> {
    let own = OwnHalf::create(Geometry::DEFAULT, Start::default())?;
    side.send(b"half", &[own.share()?.as_fd()])?;
    let (_, fds) = side.receive(Some(PATIENCE))?.ok_or("no answer")?;
    let peer = PeerHalf::open(fds.into_iter().next().ok_or("no descriptor")?)?;
    let (sender, receiver, _) = connect(own, peer)?;
    Ok((sender, receiver))
}

fn tell() -> Header {
    Header {
        kind: MessageKind::Tell,
        type_index: TypeIndex::new(0),
        correlation: Sequence::ZERO,
        has_descriptors: false,
    }
}

fn ping_pipe(trips: usize) -> Outcome<Vec<u128>> {
    let mut child = Command::new(std::env::current_exe()?)
        .env(ROLE, "pipe")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut there = child.stdin.take().ok_or("no pipe")?;
    let mut back = child.stdout.take().ok_or("no pipe")?;
    let mut nanos = Vec::with_capacity(trips);
    let mut body = BODY;
    for _ in 0..trips {
        let begin = Instant::now();
        there.write_all(&body)?;
        back.read_exact(&mut body)?;
        nanos.push(begin.elapsed().as_nanos());
    }
    drop(there);
    child.wait()?;
    Ok(nanos)
}

fn echo_pipe() -> Outcome {
    // Past the buffers of the standard streams.
    let mut there = std::fs::File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let mut back = std::fs::File::from(std::io::stdout().as_fd().try_clone_to_owned()?);
    let mut body = BODY;
    while there.read_exact(&mut body).is_ok() {
        back.write_all(&body)?;
    }
    Ok(())
}
