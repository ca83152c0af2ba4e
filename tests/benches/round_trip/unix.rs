//! A Unix stream socket between two processes, at its best: no framing, since all messages are of one
//! size, and as many in one system call as there are.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::Outcome;
use crate::measure::{Sample, round_trips, windowed};
use crate::plan::QUESTION_BYTES;
use crate::role::{Part, Shape, line};

const PATIENCE: Duration = Duration::from_secs(10);

/// How many system calls, and what becomes of who waits.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Manner {
    /// Sleeps in `read`.
    Sleeps,
    /// Reads again and again until there is something.
    Spins,
    /// Sleeps in `read`; each message is written by itself.
    OneByOne,
}

struct Socket {
    stream: UnixStream,
    spins: bool,
}

impl Socket {
    fn open(manner: Manner) -> Outcome<Self> {
        let stream = UnixStream::from(line()?);
        let spins = manner == Manner::Spins;
        if spins {
            stream.set_nonblocking(true)?;
        } else {
            stream.set_read_timeout(Some(PATIENCE))?;
        }
        Ok(Self { stream, spins })
    }

    /// What there is, at least a byte; nothing if the other side is gone.
    fn read(&mut self, buffer: &mut [u8]) -> Outcome<usize> {
        let begin = Instant::now();
        loop {
            match self.stream.read(buffer) {
                Err(error) if self.spins && error.kind() == ErrorKind::WouldBlock => {
                    if begin.elapsed() > PATIENCE {
                        return Err("the other process does not answer".into());
                    }
                }
                outcome => return Ok(outcome?),
            }
        }
    }

    fn read_exact(&mut self, buffer: &mut [u8]) -> Outcome<bool> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read(&mut buffer[filled..])? {
                0 => return Ok(false),
                count => filled += count,
            }
        }
        Ok(true)
    }

    fn write(&mut self, mut bytes: &[u8]) -> Outcome {
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Err(error) if self.spins && error.kind() == ErrorKind::WouldBlock => {}
                outcome => bytes = &bytes[outcome?..],
            }
        }
        Ok(())
    }
}

pub(crate) fn ask(part: &Part, manner: Manner) -> Outcome<Sample> {
    let mut socket = Socket::open(manner)?;
    let size = part.body_bytes;
    match part.shape {
        Shape::RoundTrip => {
            let mut body = vec![0; size];
            round_trips(part.extent, &part.watched, || {
                socket.write(&[7; QUESTION_BYTES])?;
                if !socket.read_exact(&mut body)? {
                    return Err("the other process is gone".into());
                }
                Ok(None)
            })
        }
        Shape::Window(window) => {
            let out = vec![7; window * QUESTION_BYTES];
            let mut back = vec![0; window * size];
            // Bytes of a message that has come in part.
            let mut rest = 0;
            windowed(part.extent, &part.watched, window, |count| {
                if manner == Manner::OneByOne {
                    for body in out.chunks(QUESTION_BYTES).take(count) {
                        socket.write(body)?;
                    }
                } else {
                    socket.write(&out[..count * QUESTION_BYTES])?;
                }
                while rest < size {
                    match socket.read(&mut back)? {
                        0 => return Err("the other process is gone".into()),
                        bytes => rest += bytes,
                    }
                }
                let messages = rest / size;
                rest %= size;
                Ok(messages)
            })
        }
    }
}

pub(crate) fn answer(part: &Part, manner: Manner) -> Outcome {
    let mut socket = Socket::open(manner)?;
    let size = part.body_bytes;
    match part.shape {
        Shape::RoundTrip => {
            let (mut question, body) = ([0; QUESTION_BYTES], vec![7; size]);
            while socket.read_exact(&mut question)? {
                socket.write(&body)?;
            }
        }
        Shape::Window(window) => {
            let mut questions = vec![0; window * QUESTION_BYTES];
            let bodies = vec![7; window * size];
            // Bytes of a question that has come in part.
            let mut rest = 0;
            loop {
                match socket.read(&mut questions[rest..])? {
                    0 => break,
                    bytes => rest += bytes,
                }
                let count = rest / QUESTION_BYTES;
                rest %= QUESTION_BYTES;
                if manner == Manner::OneByOne {
                    for body in bodies.chunks(size).take(count) {
                        socket.write(body)?;
                    }
                } else {
                    socket.write(&bodies[..count * size])?;
                }
            }
        }
    }
    Ok(())
}
