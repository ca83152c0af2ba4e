//! Under tokio, a current-thread runtime on each side: Weft's channels with `recv().await`, and Unix
//! streams.
//!
//! A channel's receiver is awake where the answer comes soon: it looks for a while before it has the
//! runtime wait. A stream's always waits in the runtime.

use std::future::Future;
use std::os::unix::net::UnixStream as StdStream;

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::runtime::Builder;
use weft_local_ipc::{AsyncReceiver, AsyncSender, Doorbell, asynchronous};
use weft_types::Lane;

use super::weft::{Channel, HEADER, PATIENCE};
use crate::Outcome;
use crate::cell::{Cell, Figures};
use crate::part::{Role, Stage};
use crate::wire::{END, Trips};

const LANE: Lane = Lane::NORMAL;

/// One end, under a runtime: messages of one size.
trait End {
    fn send(&mut self, first: u64) -> impl Future<Output = Outcome>;
    fn receive(&mut self) -> impl Future<Output = Outcome<u64>>;
}

async fn ask(mut end: impl End, cell: &Cell) -> Outcome<Option<Figures>> {
    let mut trips = Trips::new(cell)?;
    let mut next = 0;
    let mut trip = async || -> Outcome {
        next += 1;
        end.send(next).await?;
        let back = end.receive().await?;
        ensure!(back == next, "{back} came back for {next}");
        Ok(())
    };
    while trips.warms_up() {
        trip().await?;
    }
    while trips.go_on() {
        trip().await?;
        trips.end();
    }
    end.send(END).await?;
    Ok(Some(Figures::Latency(trips.figure())))
}

async fn echo(mut end: impl End) -> Outcome<Option<Figures>> {
    loop {
        let first = end.receive().await?;
        if first == END {
            return Ok(None);
        }
        end.send(first).await?;
    }
}

/// Plays the part with the end that `open` makes inside the runtime.
fn play<E: End>(stage: Stage<'_>, open: impl FnOnce() -> Outcome<E>) -> Outcome {
    stage.play_alone(|role, cell| {
        let runtime = Builder::new_current_thread().enable_io().build()?;
        runtime.block_on(async {
            match role {
                Role::Ask => ask(open()?, cell).await,
                Role::Echo => echo(open()?).await,
                Role::Source | Role::Sink => bail!("under a runtime only `lat` is measured"),
            }
        })
    })
}

struct Words {
    sender: AsyncSender,
    receiver: AsyncReceiver,
    out: Vec<u8>,
    body: Vec<u8>,
}

impl End for Words {
    async fn send(&mut self, first: u64) -> Outcome {
        fill(&mut self.out, first);
        self.sender.send(LANE, HEADER, &self.out).await?;
        Ok(())
    }

    async fn receive(&mut self) -> Outcome<u64> {
        let received = self.receiver.recv(&mut self.body).await?;
        let receiver = self.receiver.get_mut();
        receiver.finish(received.lane, received.sequence.next());
        look(&self.body)
    }
}

pub(super) fn play_channel(mut stage: Stage<'_>) -> Outcome {
    let cell = stage.part.cell;
    let fds = stage.lines.pop().context("a part has a line")?;
    let channel = Channel::open(fds, &cell, LANE)?;
    let (doorbell, far) = Doorbell::pair()?;
    channel
        .side
        .send(b"bell", &[std::os::fd::AsFd::as_fd(&far)])?;
    let (_, bells) = channel
        .side
        .receive(Some(PATIENCE))?
        .context("no bell came")?;
    let bell = bells.into_iter().next().context("no bell came")?;
    channel.swapper.ring_through(bell)?;
    let (sender, receiver, _side) = channel.into_parts();
    play(stage, || {
        let (sender, receiver) = asynchronous(sender, receiver, doorbell)?;
        Ok(Words {
            sender,
            receiver,
            out: vec![0; cell.size],
            body: Vec::new(),
        })
    })
}

struct Bytes {
    stream: UnixStream,
    out: Vec<u8>,
    body: Vec<u8>,
}

impl End for Bytes {
    async fn send(&mut self, first: u64) -> Outcome {
        fill(&mut self.out, first);
        Ok(self.stream.write_all(&self.out).await?)
    }

    async fn receive(&mut self) -> Outcome<u64> {
        self.stream.read_exact(&mut self.body).await?;
        look(&self.body)
    }
}

pub(super) fn play_stream(mut stage: Stage<'_>) -> Outcome {
    let size = stage.part.cell.size;
    let mut fds = stage.lines.pop().context("a part has a line")?;
    let stream = StdStream::from(fds.pop().context("a line has a socket")?);
    stream.set_nonblocking(true)?;
    play(stage, || {
        Ok(Bytes {
            stream: UnixStream::from_std(stream)?,
            out: vec![0; size],
            body: vec![0; size],
        })
    })
}

/// Stores a word in each line.
fn fill(bytes: &mut [u8], first: u64) {
    for line in bytes.chunks_mut(64) {
        if let Some(word) = line.first_chunk_mut() {
            *word = first.to_ne_bytes();
        }
    }
}

/// Loads a word of each line.
fn look(bytes: &[u8]) -> Outcome<u64> {
    let mut words = bytes
        .chunks(64)
        .filter_map(|line| line.first_chunk::<8>())
        .map(|word| u64::from_ne_bytes(*word));
    let first = words.next().context("a message has a word")?;
    std::hint::black_box(words.fold(0, |sum, word| sum ^ word));
    Ok(first)
}
