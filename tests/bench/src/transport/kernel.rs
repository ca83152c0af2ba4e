//! What the kernel carries: pipes and Unix stream sockets. A receiver sleeps in its read.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use anyhow::{Context, bail};

use super::Side;
use crate::Outcome;
use crate::part::{Role, Stage};
use crate::wire::Wire;

/// The most bytes of one batched system call.
const BATCH_BYTES: usize = 64 * 1024;

/// A pipe each way: what we read, what we write.
pub(super) fn pipes() -> Outcome<(Side, Side)> {
    let (there_out, there_in) = rustix::pipe::pipe()?;
    let (back_out, back_in) = rustix::pipe::pipe()?;
    Ok((vec![back_out, there_in], vec![there_out, back_in]))
}

pub(super) fn sockets() -> Outcome<(Side, Side)> {
    let (near, far) = UnixStream::pair()?;
    let both = |stream: UnixStream| -> Outcome<Side> {
        Ok(vec![stream.try_clone()?.into(), stream.into()])
    };
    Ok((both(near)?, both(far)?))
}

/// A stream of messages of one size.
struct Stream<R, W> {
    reader: R,
    writer: W,
    size: usize,
    /// What was read and not given out.
    read: Vec<u8>,
    from: usize,
    to: usize,
    row: Vec<u8>,
}

fn file(side: &mut impl Iterator<Item = OwnedFd>) -> Outcome<std::fs::File> {
    Ok(side.next().context("a line has two ends")?.into())
}

fn play(mut stage: Stage<'_>, batched: bool) -> Outcome {
    let size = stage.part.cell.size;
    if size < 8 {
        bail!("a message has at least 8 bytes");
    }
    let reads = match (batched, stage.part.role) {
        (true, Role::Sink) => (BATCH_BYTES / size).max(1),
        _ => 1,
    };
    let lines = std::mem::take(&mut stage.lines);
    let open = |line: Side| {
        let mut ends = line.into_iter();
        Ok(Stream {
            reader: file(&mut ends)?,
            writer: file(&mut ends)?,
            size,
            read: vec![0; reads * size],
            from: 0,
            to: 0,
            row: Vec::new(),
        })
    };
    let wires = lines.into_iter().map(open).collect::<Outcome<Vec<_>>>()?;
    if wires.len() > 1 {
        bail!("one receiver of several streams is not measured: it would measure poll(2)");
    }
    stage.play(wires)
}

pub(super) fn play_pipe(stage: Stage<'_>) -> Outcome {
    play(stage, false)
}

pub(super) fn play_socket(stage: Stage<'_>, batched: bool) -> Outcome {
    play(stage, batched)
}

impl<R: Read, W: Write> Wire for Stream<R, W> {
    fn send(&mut self, first: u64) -> Outcome {
        self.send_row(first, 1)
    }

    fn send_row(&mut self, first: u64, count: u64) -> Outcome {
        self.row.resize(count as usize * self.size, 0);
        for (message, place) in self.row.chunks_mut(self.size).zip(0..) {
            let first = first.wrapping_add(place);
            for line in message.chunks_mut(64) {
                let bytes = line.len().min(8);
                line[..bytes].copy_from_slice(&first.to_ne_bytes()[..bytes]);
            }
        }
        Ok(self.writer.write_all(&self.row)?)
    }

    fn poll(&mut self) -> Outcome<Option<u64>> {
        while self.to - self.from < self.size {
            self.read.copy_within(self.from..self.to, 0);
            (self.from, self.to) = (0, self.to - self.from);
            match self.reader.read(&mut self.read[self.to..])? {
                0 => bail!("the other side is gone"),
                count => self.to += count,
            }
        }
        let message = &self.read[self.from..self.from + self.size];
        self.from += self.size;
        let mut words = message
            .chunks(64)
            .filter_map(|line| line.first_chunk::<8>())
            .map(|word| u64::from_ne_bytes(*word));
        let first = words.next().context("a message has a word")?;
        std::hint::black_box(words.fold(0, |sum, word| sum ^ word));
        Ok(Some(first))
    }

    fn wait(&mut self) -> Outcome {
        Ok(())
    }
}
