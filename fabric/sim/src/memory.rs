//! Shared memory as the fabric uses it: halves with one writer each, and ends that connect two.
//!
//! A half outlives its writer, as a memfd does while somebody holds the descriptor: that is how the
//! daemon reads the cursors of the dead. Halves are kept for the whole run and known by index.

use weft_types::{MessageKind, PerLane};

use crate::event::Owner;
use weft_types::Lane;

/// How many messages a ring holds before its sender has to wait.
pub(crate) const SLOTS: u64 = 8;

/// What is broken, in words. The world adds where and when.
pub(crate) type Broken = String;

/// One message. Its sequence is its place in the ring.
#[derive(Clone, Debug, Eq, PartialEq, Hash)]
pub(crate) struct Message {
    pub(crate) kind: MessageKind,
    /// Of an answer: the request's sequence.
    pub(crate) correlation: u64,
    /// What the client wrote into its message; an answer repeats it.
    pub(crate) number: u64,
}

/// The outgoing ring of one lane. Freed slots are kept, so that a read of one can be told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ring {
    pub(crate) start: u64,
    messages: Vec<Message>,
}

impl Ring {
    pub(crate) fn published(&self) -> u64 {
        self.start + self.messages.len() as u64
    }

    pub(crate) fn get(&self, sequence: u64) -> Option<&Message> {
        let index = sequence.checked_sub(self.start)?;
        self.messages.get(usize::try_from(index).ok()?)
    }
}

/// Cursors over the incoming ring of one lane.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Cursors {
    pub(crate) taken: u64,
    pub(crate) done: u64,
}

/// Everything that one side writes on one channel.
#[derive(Clone, Debug)]
pub(crate) struct Half {
    /// Whom a bell for this half wakes.
    pub(crate) owner: Owner,
    pub(crate) rings: PerLane<Ring>,
    pub(crate) cursors: PerLane<Cursors>,
}

pub(crate) type HalfId = usize;

#[derive(Debug, Default)]
pub(crate) struct Memory {
    halves: Vec<Half>,
}

impl std::ops::Index<HalfId> for Memory {
    type Output = Half;

    fn index(&self, id: HalfId) -> &Half {
        &self.halves[id]
    }
}

impl Memory {
    /// A half whose rings start at `outgoing` and whose cursors stand at `incoming`.
    pub(crate) fn create(
        &mut self,
        owner: Owner,
        outgoing: PerLane<u64>,
        incoming: PerLane<Cursors>,
    ) -> HalfId {
        self.halves.push(Half {
            owner,
            rings: PerLane::from_fn(|lane| Ring {
                start: outgoing[lane],
                messages: Vec::new(),
            }),
            cursors: incoming,
        });
        self.halves.len() - 1
    }

    pub(crate) fn published(&self, id: HalfId) -> PerLane<u64> {
        PerLane::from_fn(|lane| self[id].rings[lane].published())
    }

    pub(crate) fn done(&self, id: HalfId) -> PerLane<u64> {
        PerLane::from_fn(|lane| self[id].cursors[lane].done)
    }
}

/// Cursors that have nothing taken that is not done.
pub(crate) fn settled(done: PerLane<u64>) -> PerLane<Cursors> {
    PerLane::from_fn(|lane| Cursors {
        taken: done[lane],
        done: done[lane],
    })
}

/// One side's connection of its own half with its peer's, and with the halves of peers before that
/// still have something to read.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub(crate) own: HalfId,
    /// The peers' halves, the oldest first. The last is the current one; there is none before the
    /// first peer has attached.
    producers: Vec<HalfId>,
    /// The next sequence to take.
    position: PerLane<u64>,
    /// The largest `done` of a peer that was seen: our slots below are gone.
    freed: PerLane<u64>,
}

impl End {
    /// An end that reads on from where its own cursors stand.
    ///
    /// What lies below our ring's start is in the half of our predecessor, and the peer may not be
    /// done with it yet.
    pub(crate) fn new(memory: &Memory, own: HalfId, producers: Vec<HalfId>) -> Self {
        let half = &memory[own];
        let peer = producers.last().map(|&peer| memory.done(peer));
        Self {
            own,
            producers,
            position: PerLane::from_fn(|lane| half.cursors[lane].taken),
            freed: PerLane::from_fn(|lane| {
                let start = half.rings[lane].start;
                peer.map_or(start, |done| done[lane].min(start))
            }),
        }
    }

    pub(crate) fn peer(&self) -> Option<HalfId> {
        self.producers.last().copied()
    }

    pub(crate) fn producers(&self) -> &[HalfId] {
        &self.producers
    }

    pub(crate) fn position(&self, lane: Lane) -> u64 {
        self.position[lane]
    }

    /// Both swaps: from now on `peer`'s cursors count, and its ring is read after the old ones.
    pub(crate) fn swap(&mut self, memory: &Memory, peer: HalfId) -> Result<(), Broken> {
        for lane in Lane::ALL {
            let done = memory[peer].cursors[lane].done;
            if done < self.freed[lane] {
                return Err(format!(
                    "{lane}: the new consumer is done up to {done}, the old one was up to {}",
                    self.freed[lane]
                ));
            }
        }
        self.producers.push(peer);
        Ok(())
    }

    /// Forgets the watermark (a mutation): the newest ring is read from its start.
    pub(crate) fn forget_watermark(&mut self, memory: &mut Memory) {
        if let Some(peer) = self.peer() {
            for lane in Lane::ALL {
                let start = memory[peer].rings[lane].start;
                self.position[lane] = self.position[lane].min(start);
                let cursors = &mut memory.halves[self.own].cursors[lane];
                cursors.done = cursors.done.min(start);
                cursors.taken = cursors.taken.min(start);
            }
        }
    }

    /// The end of what can be read.
    pub(crate) fn published(&self, memory: &Memory, lane: Lane) -> u64 {
        self.producers
            .iter()
            .map(|&half| memory[half].rings[lane].published())
            .max()
            .unwrap_or(self.position[lane])
    }

    /// Publishes a message, unless the ring is full. Its sequence is the answer.
    pub(crate) fn send(
        &mut self,
        memory: &mut Memory,
        lane: Lane,
        message: Message,
    ) -> Result<Option<u64>, Broken> {
        let Some(peer) = self.peer() else {
            return Ok(None);
        };
        let done = memory[peer].cursors[lane].done;
        let next = memory[self.own].rings[lane].published();
        if done < self.freed[lane] || done > next {
            return Err(format!(
                "{lane}: the peer is done up to {done}, but was up to {} and only {next} exist",
                self.freed[lane]
            ));
        }
        self.freed[lane] = done;
        if next - done >= SLOTS {
            return Ok(None);
        }
        memory.halves[self.own].rings[lane].messages.push(message);
        Ok(Some(next))
    }

    /// First sends of a successor, before it has a peer. They were within the bound before.
    pub(crate) fn replay(&mut self, memory: &mut Memory, lane: Lane, message: Message) {
        memory.halves[self.own].rings[lane].messages.push(message);
    }

    /// The message at the read position, from the oldest ring that reaches so far.
    pub(crate) fn peek(&self, memory: &Memory, lane: Lane) -> Result<Option<Message>, Broken> {
        let position = self.position[lane];
        for &half in &self.producers {
            let ring = &memory[half].rings[lane];
            if position < ring.start {
                return Err(format!(
                    "{lane}: gap: {position} is next, the ring starts at {}",
                    ring.start
                ));
            }
            if let Some(message) = ring.get(position) {
                return Ok(Some(message.clone()));
            }
        }
        Ok(None)
    }

    /// Counts the message at the read position as taken. Its sequence is the answer.
    pub(crate) fn take(&mut self, memory: &mut Memory, lane: Lane) -> u64 {
        let sequence = self.position[lane];
        self.position[lane] += 1;
        memory.halves[self.own].cursors[lane].taken = self.position[lane];
        sequence
    }

    /// Puts the read position (a gateway's) back or ahead.
    pub(crate) fn seek(&mut self, memory: &mut Memory, lane: Lane, to: u64) -> Result<(), Broken> {
        let cursors = &mut memory.halves[self.own].cursors[lane];
        if to < cursors.done {
            return Err(format!(
                "{lane}: reading goes back to {to}, but {} is freed",
                cursors.done
            ));
        }
        self.position[lane] = to;
        cursors.taken = to;
        Ok(())
    }

    /// Everything below `upto` is done. Whether anything changed is the answer.
    pub(crate) fn finish(
        &mut self,
        memory: &mut Memory,
        lane: Lane,
        upto: u64,
    ) -> Result<bool, Broken> {
        let cursors = &mut memory.halves[self.own].cursors[lane];
        if upto < cursors.done || upto > self.position[lane] {
            return Err(format!(
                "{lane}: done goes to {upto}, from {} with {} taken",
                cursors.done, self.position[lane]
            ));
        }
        let moved = upto > cursors.done;
        cursors.done = upto;
        Ok(moved)
    }

    /// What was sent and is not done at the peer, with the sequence of the first.
    pub(crate) fn unacknowledged(
        &self,
        memory: &Memory,
        lane: Lane,
    ) -> Result<(u64, Vec<Message>), Broken> {
        let ring = &memory[self.own].rings[lane];
        let done = self.peer().map_or(self.freed[lane], |peer| {
            memory[peer].cursors[lane].done.max(self.freed[lane])
        });
        let messages = (done..ring.published())
            .map(|sequence| {
                ring.get(sequence).cloned().ok_or_else(|| {
                    format!("{lane}: #{sequence} is not acknowledged and in no ring of the sender")
                })
            })
            .collect::<Result<_, _>>()?;
        Ok((done, messages))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANE: Lane = Lane::NORMAL;

    fn message(number: u64) -> Message {
        Message {
            kind: MessageKind::Tell,
            correlation: 0,
            number,
        }
    }

    fn pair(memory: &mut Memory) -> (End, End) {
        let zero = PerLane::default();
        let a = memory.create(Owner::Client(0), zero, settled(zero));
        let b = memory.create(Owner::Client(1), zero, settled(zero));
        (End::new(memory, a, vec![b]), End::new(memory, b, vec![a]))
    }

    #[test]
    fn a_ring_is_full_until_the_receiver_is_done() {
        let mut memory = Memory::default();
        let (mut a, mut b) = pair(&mut memory);
        for number in 0..SLOTS {
            assert_eq!(a.send(&mut memory, LANE, message(number)), Ok(Some(number)));
        }
        assert_eq!(a.send(&mut memory, LANE, message(9)), Ok(None));
        assert_eq!(b.peek(&memory, LANE), Ok(Some(message(0))));
        assert_eq!(b.take(&mut memory, LANE), 0);
        assert_eq!(a.send(&mut memory, LANE, message(9)), Ok(None));
        assert_eq!(b.finish(&mut memory, LANE, 1), Ok(true));
        assert_eq!(a.send(&mut memory, LANE, message(9)), Ok(Some(SLOTS)));
        assert!(b.finish(&mut memory, LANE, 2).is_err(), "done beyond taken");
    }

    #[test]
    fn a_receiver_drains_the_old_producer_and_drops_what_both_have() {
        let mut memory = Memory::default();
        let (mut a, mut b) = pair(&mut memory);
        for number in 0..3 {
            a.send(&mut memory, LANE, message(number)).unwrap();
        }
        b.take(&mut memory, LANE);
        // The successor of `a` starts below what `b` has taken from it.
        let mut outgoing = PerLane::default();
        outgoing[LANE] = 2;
        let half = memory.create(Owner::Client(2), outgoing, settled(PerLane::default()));
        let mut successor = End::new(&memory, half, vec![b.own]);
        for number in 2..4 {
            successor.replay(&mut memory, LANE, message(number));
        }
        b.swap(&memory, half).unwrap();
        let mut seen = Vec::new();
        while let Some(message) = b.peek(&memory, LANE).unwrap() {
            b.take(&mut memory, LANE);
            seen.push(message.number);
        }
        assert_eq!(seen, [1, 2, 3]);
    }

    #[test]
    fn a_gap_and_a_consumer_that_goes_back_are_broken() {
        let mut memory = Memory::default();
        let (mut a, mut b) = pair(&mut memory);
        a.send(&mut memory, LANE, message(0)).unwrap();
        b.take(&mut memory, LANE);
        b.finish(&mut memory, LANE, 1).unwrap();
        a.send(&mut memory, LANE, message(1)).unwrap();
        let zero = PerLane::default();
        let fresh = memory.create(Owner::Client(2), zero, settled(zero));
        assert!(a.swap(&memory, fresh).is_err());
        let mut outgoing = PerLane::default();
        outgoing[LANE] = 5;
        let late = memory.create(Owner::Client(2), outgoing, settled(zero));
        b.swap(&memory, late).unwrap();
        b.take(&mut memory, LANE);
        assert!(b.peek(&memory, LANE).is_err());
    }
}
