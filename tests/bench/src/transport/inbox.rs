//! Weft's inbox: one receiver over all senders, the most urgent first.
//!
//! Senders keep to a lane each, so that the order of a sender's messages can be checked; together they
//! use all lanes.

use weft_local_ipc::{Event, Inbox, MemberId, Wake};
use weft_types::{Lane, Sequence};

use super::weft::{Channel, Values};
use crate::Outcome;
use crate::part::{Role, Stage};
use crate::wire::Merged;

/// Messages of one sender between two reports that they are handled.
const BATCH: u64 = 64;

fn lane(sender: usize) -> Lane {
    Lane::ALL[sender % Lane::ALL.len()]
}

/// What the inbox knows of one sender, beside its receiver.
struct Sender {
    index: usize,
    /// Keeps the channel's other direction, and its side socket.
    _channel: weft_local_ipc::Sender,
}

/// One member's messages that are taken and not reported.
#[derive(Clone, Copy, Default)]
struct Taken {
    member: Option<MemberId>,
    upto: Sequence,
    count: u64,
}

struct Merger {
    inbox: Inbox<Sender>,
    taken: Vec<Taken>,
}

impl Merged for Merger {
    fn poll(&mut self) -> Outcome<Option<(usize, u64)>> {
        match self.inbox.try_next() {
            Some(Event::Message(message)) => {
                let index = message.key.index;
                let mut words = message.body.as_chunks::<8>().0.iter().step_by(8);
                let first = words.next().map_or(0, |word| u64::from_ne_bytes(*word));
                let sum = words.fold(0, |sum, word| sum ^ u64::from_ne_bytes(*word));
                std::hint::black_box(sum);
                let taken = &mut self.taken[index];
                taken.member = Some(message.member);
                taken.upto = message.received.sequence.next();
                taken.count += 1;
                if taken.count == BATCH {
                    self.report(index);
                }
                Ok(Some((index, first)))
            }
            Some(Event::Left(left)) => anyhow::bail!("a sender left: {:?}", left.why),
            None => {
                for index in 0..self.taken.len() {
                    self.report(index);
                }
                Ok(None)
            }
        }
    }
}

impl Merger {
    fn report(&mut self, index: usize) {
        let taken = &mut self.taken[index];
        if taken.count > 0
            && let Some(member) = taken.member
        {
            taken.count = 0;
            let upto = taken.upto;
            self.inbox.finish(member, lane(index), upto);
        }
    }
}

pub(super) fn play(mut stage: Stage<'_>) -> Outcome {
    anyhow::ensure!(
        stage.part.cell.size == 64,
        "the inbox is measured with 64 bytes"
    );
    let cell = stage.part.cell;
    let lines = std::mem::take(&mut stage.lines);
    if stage.part.role == Role::Source {
        let lane = lane(stage.part.index);
        let open = |fds| Channel::open(fds, &cell, lane).map(Values::<8>);
        let wires = lines.into_iter().map(open).collect::<Outcome<Vec<_>>>()?;
        return stage.play(wires);
    }
    let mut inbox = Inbox::new(Wake::Now);
    let mut sides = Vec::new();
    for (index, fds) in lines.into_iter().enumerate() {
        let (sender, receiver, side) = Channel::open(fds, &cell, lane(index))?.into_parts();
        sides.push(side);
        let key = Sender {
            index,
            _channel: sender,
        };
        if inbox.add(key, receiver).is_err() {
            anyhow::bail!("the inbox is full");
        }
    }
    let taken = vec![Taken::default(); cell.senders];
    stage.play_sink(Merger { inbox, taken })
}
