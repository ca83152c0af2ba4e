//! The rings of `local-ipc` without anything above them.

use std::os::fd::AsFd;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use weft_local_ipc::{
    Geometry, Header, OwnHalf, PeerHalf, Receiver, SendError, Sender, SideSocket, Spin, Start,
    Wait, connect, flush,
};
use weft_types::{Lane, MessageKind, Sequence, TypeIndex};

use crate::Outcome;
use crate::measure::{Sample, round_trips, windowed};
use crate::plan::QUESTION_BYTES;
use crate::role::{Part, Shape, line};

const LANE: Lane = Lane::NORMAL;
const PATIENCE: Duration = Duration::from_secs(10);

/// How the two sides send and wait.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Manner {
    /// They look until there is something.
    Spins,
    /// As `Spins`; and who has several messages to send or to finish does so lazily, with one fence
    /// behind the last.
    Batches,
    /// They go to sleep at once.
    Sleeps,
}

struct Ring {
    sender: Sender,
    receiver: Receiver,
    manner: Manner,
    body: Vec<u8>,
    /// Keeps the channel's hang-up from ringing.
    _side: SideSocket,
}

impl Ring {
    fn open(manner: Manner) -> Outcome<Self> {
        let side = SideSocket::from(line()?);
        let own = OwnHalf::create(Geometry::DEFAULT, Start::default())?;
        side.send(b"half", &[own.share()?.as_fd()])?;
        let (_, descriptors) = side.receive(Some(PATIENCE))?.ok_or("no half came")?;
        let half = PeerHalf::open(descriptors.into_iter().next().ok_or("no half came")?)?;
        let (sender, receiver, _) = connect(own, half)?;
        Ok(Self {
            sender,
            receiver,
            manner,
            body: Vec::new(),
            _side: side,
        })
    }

    fn send(&mut self, body: &[u8]) -> Outcome {
        let header = Header {
            kind: MessageKind::Tell,
            type_index: TypeIndex::new(0),
            correlation: Sequence::ZERO,
            has_descriptors: false,
        };
        let mut spin = Spin::lasting(PATIENCE);
        loop {
            let sent = if self.manner == Manner::Batches {
                self.sender.send_lazy(LANE, header, body)
            } else {
                self.sender.try_send(LANE, header, body)
            };
            match sent {
                // The other side is about to take what is in the way.
                Err(SendError::Full { .. }) if spin.again() => {}
                outcome => return outcome.map(|_| ()).map_err(Into::into),
            }
        }
    }

    /// Makes known what was sent and finished lazily.
    fn flush(&mut self) {
        flush(&mut self.sender, &mut self.receiver);
    }

    /// The next message, if there is one; its body is in `self.body`.
    fn poll(&mut self) -> Outcome<bool> {
        let Some(received) = self.receiver.try_receive(&mut self.body)? else {
            return Ok(false);
        };
        let (lane, next) = (received.lane, received.sequence.next());
        if self.manner == Manner::Batches {
            self.receiver.finish_lazy(lane, next);
        } else {
            self.receiver.finish(lane, next);
        }
        Ok(true)
    }

    fn receive(&mut self) -> Outcome {
        let mut spin = Spin::lasting(PATIENCE);
        while !self.poll()? {
            let late = if self.manner != Manner::Sleeps {
                !spin.again()
            } else {
                let wait = self
                    .receiver
                    .wait_spinning(Spin::lasting(Duration::ZERO), Some(PATIENCE));
                wait == Wait::TimedOut
            };
            if late {
                return Err("the other process does not answer".into());
            }
        }
        Ok(())
    }
}

pub(crate) fn ask(part: &Part, manner: Manner) -> Outcome<Sample> {
    let mut ring = Ring::open(manner)?;
    let question = [7; QUESTION_BYTES];
    let sample = match part.shape {
        Shape::RoundTrip => round_trips(part.extent, &part.watched, || {
            ring.send(&question)?;
            ring.receive()?;
            Ok(None)
        }),
        Shape::Window(window) => windowed(part.extent, &part.watched, window, |count| {
            for _ in 0..count {
                ring.send(&question)?;
            }
            ring.flush();
            ring.receive()?;
            let mut back = 1;
            while ring.poll()? {
                back += 1;
            }
            Ok(back)
        }),
    }?;
    ring.send(b"")?;
    ring.flush();
    Ok(sample)
}

pub(crate) fn answer(part: &Part, manner: Manner) -> Outcome {
    let mut ring = Ring::open(manner)?;
    let body = vec![7; part.body_bytes];
    loop {
        ring.receive()?;
        loop {
            if ring.body.is_empty() {
                return Ok(());
            }
            ring.send(&body)?;
            if !ring.poll()? {
                break;
            }
        }
        ring.flush();
    }
}
