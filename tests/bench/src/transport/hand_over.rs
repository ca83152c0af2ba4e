//! The first hand-over of a payload: a region made, frozen, its descriptor passed by the side path,
//! checked and mapped; until the answer has come. The receiver looks at a word of each page.
//!
//! Beside it the same without anything that makes it safe: a memory file that both may write, and whose
//! pages are mapped when they are looked at.
//!
//! Both sides look again and again, so nobody is woken. One region at a time: it is gone on both sides
//! before the next one is made, which does not count.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use anyhow::{Context, bail};
use weft_local_ipc::region::{Frozen, Options, allocate_object};
use weft_local_ipc::{Header, SharedWords, SideError, SideSocket};

use super::weft::{Channel, HEADER, lane};
use crate::Outcome;
use crate::cell::{Cell, Figures, Transport};
use crate::part::{Role, Stage};
use crate::wire::{END, Trips};

const PAGE: usize = 4096;

/// One way to hand a payload over and to hear of it.
trait HandOver {
    /// What the sender keeps of it, and what the receiver has of it.
    type Region;

    /// Makes one and hands it over.
    fn give(&mut self, bytes: usize) -> Outcome<Self::Region>;
    /// Takes what has been handed over.
    fn take(&mut self) -> Outcome<Self::Region>;
    /// Looks at a word of each page.
    fn look(region: &Self::Region) -> u64;
    /// Sends a word without a region.
    fn say(&mut self, word: u64) -> Outcome;
    /// Waits for one. [`END`] means that nothing is handed over any more.
    fn hear(&mut self) -> Outcome<u64>;
}

fn ask<H: HandOver>(mut way: H, cell: &Cell) -> Outcome<Figures> {
    let mut trips = Trips::new(cell)?;
    let mut trip = |trips: Option<&mut Trips>| -> Outcome {
        way.say(0)?;
        let begin = Instant::now();
        let region = way.give(cell.size)?;
        way.hear()?;
        if let Some(trips) = trips {
            trips.record(begin.elapsed());
        }
        drop(region);
        // It is gone on the other side.
        way.hear().map(drop)
    };
    while trips.warms_up() {
        trip(None)?;
    }
    let begin = Instant::now();
    while trips.is_empty() || begin.elapsed().as_millis() < u128::from(cell.millis) {
        trip(Some(&mut trips))?;
    }
    way.say(END)?;
    Ok(Figures::Latency(trips.figure()))
}

fn echo<H: HandOver>(mut way: H) -> Outcome {
    while way.hear()? != END {
        let region = way.take()?;
        std::hint::black_box(H::look(&region));
        way.say(1)?;
        drop(region);
        way.say(2)?;
    }
    Ok(())
}

/// Looks until a packet comes.
fn packet(side: &SideSocket) -> Result<(Vec<u8>, Vec<OwnedFd>), SideError> {
    loop {
        if let Some(packet) = side.try_receive()? {
            return Ok(packet);
        }
        std::hint::spin_loop();
    }
}

/// Of a region as Weft has it: the words go over the channel, the descriptor over its side socket.
struct Weft {
    channel: Channel,
    most_bytes: u64,
}

impl Weft {
    fn send(&mut self, has_descriptors: bool, word: u64) -> Outcome {
        let lane = self.channel.lane;
        let header = Header {
            has_descriptors,
            ..HEADER
        };
        self.channel
            .insist(|sender| sender.try_send_value(lane, header, &word).map(|_| ()))
    }

    fn receive(&mut self) -> Outcome<(bool, u64)> {
        loop {
            if let Some((received, word)) = self.channel.receiver.try_receive_value::<u64>()? {
                self.channel.taken = received.sequence.next();
                self.channel.done();
                return Ok((received.header.has_descriptors, word));
            }
        }
    }
}

impl HandOver for Weft {
    type Region = Frozen;

    fn give(&mut self, bytes: usize) -> Outcome<Frozen> {
        let region = allocate_object(bytes as u64, Options::default())?.freeze()?;
        self.channel
            .side
            .send(b"region", &[region.share_region()?.as_fd()])?;
        self.send(true, 0)?;
        Ok(region)
    }

    fn take(&mut self) -> Outcome<Frozen> {
        if !self.receive()?.0 {
            bail!("a message without a descriptor");
        }
        // It was sent before the message.
        let (_, fds) = packet(&self.channel.side)?;
        let fd = fds.into_iter().next().context("no descriptor came")?;
        Ok(Frozen::open(fd, self.most_bytes)?)
    }

    fn look(region: &Frozen) -> u64 {
        region
            .iter()
            .step_by(PAGE)
            .fold(0, |sum, byte| sum ^ u64::from(*byte))
    }

    fn say(&mut self, word: u64) -> Outcome {
        self.send(false, word)
    }

    fn hear(&mut self) -> Outcome<u64> {
        Ok(self.receive()?.1)
    }
}

/// Of a file that both map, over a bare socket.
struct Bare(SideSocket);

impl HandOver for Bare {
    type Region = SharedWords;

    fn give(&mut self, bytes: usize) -> Outcome<SharedWords> {
        let fd = SharedWords::create(bytes / 8)?;
        self.0.send(&[0; 8], &[fd.as_fd()])?;
        Ok(SharedWords::map(&fd)?)
    }

    fn take(&mut self) -> Outcome<SharedWords> {
        let (_, fds) = packet(&self.0)?;
        let fd = fds.into_iter().next().context("no descriptor came")?;
        Ok(SharedWords::map(&fd)?)
    }

    fn look(region: &SharedWords) -> u64 {
        region.iter().step_by(PAGE / 8).fold(0, |sum, word| {
            sum ^ word.load(std::sync::atomic::Ordering::Relaxed)
        })
    }

    fn say(&mut self, word: u64) -> Outcome {
        Ok(self.0.send(&word.to_ne_bytes(), &[])?)
    }

    fn hear(&mut self) -> Outcome<u64> {
        let (bytes, _) = packet(&self.0)?;
        let word = bytes.first_chunk().context("a word came")?;
        Ok(u64::from_ne_bytes(*word))
    }
}

fn play_way(stage: Stage<'_>, way: impl HandOver) -> Outcome {
    stage.play_alone(|role, cell| match role {
        Role::Ask => ask(way, cell).map(Some),
        Role::Echo => echo(way).map(|()| None),
        Role::Source | Role::Sink => bail!("what is handed over is answered: only `lat`"),
    })
}

pub(super) fn play(mut stage: Stage<'_>) -> Outcome {
    let cell = stage.part.cell;
    let mut fds = stage.lines.pop().context("a part has a line")?;
    if cell.transport == Transport::BareHandOver {
        let side = fds.pop().context("a line has a socket")?;
        return play_way(stage, Bare(side.into()));
    }
    let message = Cell { size: 8, ..cell };
    let channel = Channel::open(fds, &message, lane(stage.part, 0))?;
    let most_bytes = cell.size as u64;
    play_way(
        stage,
        Weft {
            channel,
            most_bytes,
        },
    )
}
