//! The rings of `local-ipc` without anything above them.

use std::os::fd::AsFd;
use std::time::Duration;

use weft_local_ipc::{
    Geometry, Header, OwnHalf, PeerHalf, Receiver, SendError, Sender, SideSocket, Spin, Start,
    Wait, connect,
};
use weft_types::{Lane, MessageKind, Sequence, TypeIndex};

use crate::Outcome;
use crate::measure::{Sample, round_trips, windowed};
use crate::plan::QUESTION_BYTES;
use crate::role::{Part, Shape, line};

const LANE: Lane = Lane::NORMAL;
const PATIENCE: Duration = Duration::from_secs(10);

struct Ring {
    sender: Sender,
    receiver: Receiver,
    /// Whether it looks until there is something, or goes to sleep at once.
    spins: bool,
    body: Vec<u8>,
    /// Keeps the channel's hang-up from ringing.
    _side: SideSocket,
}

impl Ring {
    fn open(spins: bool) -> Outcome<Self> {
        let side = SideSocket::from(line()?);
        let own = OwnHalf::create(Geometry::DEFAULT, Start::default())?;
        side.send(b"half", &[own.share()?.as_fd()])?;
        let (_, descriptors) = side.receive(Some(PATIENCE))?.ok_or("no half came")?;
        let half = PeerHalf::open(descriptors.into_iter().next().ok_or("no half came")?)?;
        let (sender, receiver, _) = connect(own, half)?;
        Ok(Self {
            sender,
            receiver,
            spins,
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
            match self.sender.try_send(LANE, header, body) {
                // The other side is about to take what is in the way.
                Err(SendError::Full { .. }) if spin.again() => {}
                outcome => return outcome.map(|_| ()).map_err(Into::into),
            }
        }
    }

    /// The next message, if there is one; its body is in `self.body`.
    fn poll(&mut self) -> Outcome<bool> {
        let Some(received) = self.receiver.try_receive(&mut self.body)? else {
            return Ok(false);
        };
        self.receiver
            .finish(received.lane, received.sequence.next());
        Ok(true)
    }

    fn receive(&mut self) -> Outcome {
        let mut spin = Spin::lasting(PATIENCE);
        while !self.poll()? {
            let late = if self.spins {
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

pub(crate) fn ask(part: &Part, spins: bool) -> Outcome<Sample> {
    let mut ring = Ring::open(spins)?;
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
            ring.receive()?;
            let mut back = 1;
            while ring.poll()? {
                back += 1;
            }
            Ok(back)
        }),
    }?;
    ring.send(b"")?;
    Ok(sample)
}

pub(crate) fn answer(part: &Part, spins: bool) -> Outcome {
    let mut ring = Ring::open(spins)?;
    let body = vec![7; part.body_bytes];
    loop {
        ring.receive()?;
        if ring.body.is_empty() {
            return Ok(());
        }
        ring.send(&body)?;
    }
}
