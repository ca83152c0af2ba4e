//! Weft's inbox: one receiver over all senders, the most urgent first.
//!
//! Senders keep to a lane each, so that the order of a sender's messages can be checked; together they
//! use all lanes. Idle channels, on which nothing ever comes, have both ends in the receiver's process.

use std::time::Duration;

use anyhow::bail;
use rustix::process::{Resource, getrlimit, setrlimit};
use weft_local_ipc::{
    Event, Geometry, Inbox, MemberId, OwnHalf, PeerHalf, Receiver, Row, Start, Swapper, Wake,
    connect,
};
use weft_types::{Lane, Sequence};

use super::weft::{self, Channel};
use crate::Outcome;
use crate::cell::{Cell, Wait};
use crate::part::{Role, Stage};
use crate::wire::Merged;

/// Messages of one sender between two reports that they are handled. Who sleeps reports each: a sender
/// may wait for it.
const BATCH: u64 = 64;

/// How long a sleep may last before the inbox is looked at again all the same.
const PATIENCE: Duration = Duration::from_secs(20);

/// Of a channel that hardly anything comes on.
const IDLE_GEOMETRY: Geometry = Geometry {
    slots: 16,
    slot_bytes: 128,
    arena_bytes: 0,
    growth: 0,
};

/// What the inbox knows of one sender, beside its receiver.
struct Sender {
    index: usize,
    /// Keeps the channel's other direction; of an idle channel, its other end.
    _channel: weft_local_ipc::Sender,
}

/// One member's messages that are taken and not reported.
#[derive(Clone, Copy, Default)]
struct Taken {
    member: Option<MemberId>,
    lane: Lane,
    upto: Sequence,
    count: u64,
}

struct Merger {
    inbox: Inbox<Sender>,
    taken: Vec<Taken>,
    sleeps: bool,
    batch: u64,
}

impl Merged for Merger {
    fn poll(&mut self, mut each: impl FnMut(usize, u64)) -> Outcome {
        if !self.sleeps {
            return self.poll_row(each);
        }
        match self.inbox.next(Some(PATIENCE)) {
            Some(Event::Message(message)) => {
                let index = message.key.index;
                let mut words = message.body.as_chunks::<8>().0.iter().step_by(8);
                let first = words.next().map_or(0, |word| u64::from_ne_bytes(*word));
                let sum = words.fold(0, |sum, word| sum ^ u64::from_ne_bytes(*word));
                std::hint::black_box(sum);
                let taken = &mut self.taken[index];
                taken.member = Some(message.member);
                taken.lane = message.received.lane;
                taken.upto = message.received.sequence.next();
                taken.count += 1;
                if taken.count >= self.batch {
                    self.report(index);
                }
                each(index, first);
            }
            Some(Event::Left(left)) => bail!("a sender left: {:?}", left.why),
            None => {
                for index in 0..self.taken.len() {
                    self.report(index);
                }
            }
        }
        Ok(())
    }
}

impl Merger {
    /// A row of whose turn it is.
    fn poll_row(&mut self, mut each: impl FnMut(usize, u64)) -> Outcome {
        let row = self.inbox.try_row(BATCH as usize, |_, sender, _, view| {
            // Without a word it is none of ours, and is found out as such.
            each(sender.index, weft::look(view).unwrap_or(0));
        });
        match row {
            Some(Row::Messages {
                member,
                lane,
                up_to,
                ..
            }) => self.inbox.finish(member, lane, up_to),
            Some(Row::Left(left)) => bail!("a sender left: {:?}", left.why),
            None => {}
        }
        Ok(())
    }

    fn report(&mut self, index: usize) {
        let taken = &mut self.taken[index];
        if taken.count > 0
            && let Some(member) = taken.member
        {
            taken.count = 0;
            let (lane, upto) = (taken.lane, taken.upto);
            self.inbox.finish(member, lane, upto);
        }
    }
}

/// A channel whose ends are both here, each half small.
pub(super) fn idle_channel() -> Outcome<(Receiver, weft_local_ipc::Sender, Swapper)> {
    let half = || OwnHalf::create(IDLE_GEOMETRY, Start::default());
    let (near, far) = (half()?, half()?);
    let (to_near, to_far) = (
        PeerHalf::open(far.share()?)?,
        PeerHalf::open(near.share()?)?,
    );
    let (_, receiver, _) = connect(near, to_near)?;
    let (sender, _, swapper) = connect(far, to_far)?;
    Ok((receiver, sender, swapper))
}

/// Many channels have many descriptors.
pub(super) fn raise_descriptors() -> Outcome {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, limit)?)
}

/// An inbox with the idle channels of a cell, all of which have gone cold.
fn with_idle(cell: &Cell) -> Outcome<Inbox<Sender>> {
    let mut inbox = Inbox::new(Wake::Now);
    if cell.idle > 0 {
        raise_descriptors()?;
    }
    for index in 0..cell.idle {
        let (receiver, sender, _) = idle_channel()?;
        let key = Sender {
            index: cell.senders + index,
            _channel: sender,
        };
        if inbox.add(key, receiver).is_err() {
            bail!("the inbox is full");
        }
    }
    while inbox.cold() < inbox.len() {
        inbox.try_next();
    }
    Ok(inbox)
}

pub(super) fn play(mut stage: Stage<'_>) -> Outcome {
    if stage.part.role == Role::Source {
        return weft::play(stage);
    }
    let cell = stage.part.cell;
    let lines = std::mem::take(&mut stage.lines);
    let mut inbox = with_idle(&cell)?;
    // Keep the channels' hang-ups from ringing.
    let mut sides = Vec::new();
    for (index, fds) in lines.into_iter().enumerate() {
        let lane = weft::lane(stage.part, index);
        let (sender, receiver, side) = Channel::open(fds, &cell, lane)?.into_parts();
        sides.push(side);
        let key = Sender {
            index,
            _channel: sender,
        };
        if inbox.add(key, receiver).is_err() {
            bail!("the inbox is full");
        }
    }
    let sleeps = cell.wait != Wait::Spin;
    stage.play_sink(Merger {
        inbox,
        taken: vec![Taken::default(); cell.senders],
        sleeps,
        batch: if sleeps { 1 } else { BATCH },
    })
}
