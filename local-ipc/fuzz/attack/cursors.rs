//! What a sender reads of its peer: cursors, the parked word, whatever a successor brings.

use std::collections::BTreeMap;

use weft_local_ipc::*;
use weft_types::{Lane, MessageKind, PerLane, Sequence, TypeIndex};

use super::liar::{BELL, DONE, Liar, PARKED, TAKEN, WAKE_AT, lane_word};
use super::program::{Step, parse};
use super::{Seen, name_of_fault, name_of_send_error};

/// Operations of a step.
pub(crate) mod op {
    pub(crate) const DONE: u8 = 0;
    pub(crate) const SEND: u8 = 1;
    pub(crate) const IN_PLACE: u8 = 2;
    pub(crate) const BATCH: u8 = 3;
    pub(crate) const ACKNOWLEDGED: u8 = 4;
    pub(crate) const KEPT: u8 = 5;
    pub(crate) const MARK: u8 = 6;
    pub(crate) const ROOM: u8 = 7;
    pub(crate) const SWAP: u8 = 8;
    pub(crate) const CONTROL: u8 = 9;
    pub(crate) const REPLAY: u8 = 10;
    pub(crate) const BUDGET: u8 = 11;
    pub(super) const COUNT: u8 = 12;
}

struct Victim {
    geometry: Geometry,
    first: Sequence,
    liar: Liar,
    sender: Sender,
    swapper: Swapper,
    /// Our own ring, as others see it.
    ring: PeerHalf,
    sent: PerLane<BTreeMap<Sequence, Vec<u8>>>,
    done: PerLane<Sequence>,
    seen: Seen,
}

/// Cursors, against what was really sent.
pub(crate) fn cursors(bytes: &[u8]) -> Seen {
    let ([size, start, theirs, _], steps) = parse(bytes);
    let geometry = Geometry {
        slots: 2 << (size & 1),
        slot_bytes: if size & 4 == 0 { 64 } else { 128 },
        arena_bytes: u32::from(size >> 3 & 1) * 4096,
        growth: u32::from(size >> 4 & 3) % 3,
    };
    let first = Sequence::new(u64::from(start));
    let all = |at| PerLane([Sequence::new(at); 4]);
    // Its cursors need not begin where our ring does.
    let liar = Liar::new(
        geometry.fixed(),
        Start {
            outgoing: all(0),
            incoming: all(theirs.into()),
        },
    );
    let own = OwnHalf::create(
        geometry,
        Start {
            outgoing: all(first.get()),
            incoming: all(0),
        },
    )
    .unwrap();
    let ring = PeerHalf::open(own.share().unwrap()).unwrap();
    let peer = PeerHalf::open(liar.share()).unwrap();
    let (sender, _, swapper) = connect(own, peer).unwrap();
    let mut victim = Victim {
        geometry,
        first,
        liar,
        sender,
        swapper,
        ring,
        sent: PerLane::from_fn(|_| BTreeMap::new()),
        done: all(first.get()),
        seen: Seen::new(),
    };
    for step in steps {
        victim.step(step);
        victim.check(step.lane());
    }
    Lane::ALL.into_iter().for_each(|lane| victim.kept(lane));
    victim.seen
}

fn header(step: Step) -> Header {
    Header {
        kind: MessageKind::Reply,
        type_index: TypeIndex::new(step.b.into()),
        correlation: Sequence::new((step.b & 1).into()),
        has_descriptors: step.b & 2 != 0,
    }
}

impl Victim {
    fn step(&mut self, step: Step) {
        let lane = step.lane();
        let next = self.sender.next(lane);
        let body = self.body(step, next);
        match step.op % op::COUNT {
            op::DONE => self.liar.put(lane_word(DONE, lane), step.value(next.get())),
            op::SEND => {
                let sent = self.sender.try_send(lane, header(step), &body);
                self.sent(lane, body, sent);
            }
            op::IN_PLACE => {
                let fill = |room: &mut [u8]| room.copy_from_slice(&body);
                let sent = self
                    .sender
                    .try_send_in_place(lane, header(step), body.len(), fill);
                self.sent(lane, body, sent);
            }
            op::BATCH => {
                let bodies: Vec<_> = (0..3)
                    .map(|n| self.body(step, Sequence::new(next.get() + n)))
                    .collect();
                let messages = bodies.iter().map(|body| (header(step), body.as_slice()));
                let (count, result) = self.sender.send_batch(lane, messages);
                for body in bodies.into_iter().take(count) {
                    let sequence = Sequence::new(next.get() + self.later(lane, next));
                    self.sent(lane, body, Ok(sequence));
                }
                if let Err(error) = result {
                    self.seen.insert(name_of_send_error(&error));
                }
            }
            op::ACKNOWLEDGED => match self.sender.done(lane) {
                Ok(done) => {
                    assert!(done >= self.done[lane], "back");
                    assert!(done <= next, "ahead");
                    self.done[lane] = done;
                }
                Err(fault) => {
                    self.seen.insert(name_of_fault(&fault));
                }
            },
            op::KEPT => self.kept(lane),
            op::MARK => {
                let at = Sequence::new(step.value(next.get()));
                let _ = self.sender.wake_when_done(lane, at);
            }
            op::ROOM => {
                let fits = self.sender.fits(lane, body.len());
                let room = self.sender.room(lane);
                let small = body.len() + 16 <= self.geometry.slot_bytes as usize;
                assert!(
                    room || !fits || !small,
                    "room for a body and for no smaller one"
                );
            }
            op::SWAP => {
                let start = Start {
                    outgoing: PerLane::default(),
                    incoming: PerLane::from_fn(|_| Sequence::new(step.value(next.get()) >> 2)),
                };
                self.liar = Liar::new(self.geometry.fixed(), start);
                // It begins anew with what it says; what we know stays.
                self.swapper
                    .swap(PeerHalf::open(self.liar.share()).unwrap());
                self.seen.insert("swap");
            }
            op::CONTROL => {
                let rows = [BELL, PARKED, WAKE_AT, TAKEN];
                let row = rows[usize::from(step.b) % rows.len()];
                self.liar.put(lane_word(row, lane), step.value(next.get()));
            }
            op::REPLAY => {
                let sequence = Sequence::new(step.value(next.get()));
                let sent = self.sender.replay(lane, sequence, header(step), &body);
                self.sent(lane, body, sent.map(|()| sequence));
            }
            _ => self.sender.set_growth_budget(step.value(4096)),
        }
    }

    /// A body that no other message has, of a length that the step says.
    fn body(&self, step: Step, sequence: Sequence) -> Vec<u8> {
        let most = 2 * 4096 + 200;
        let len = usize::try_from(step.value(48) % most).unwrap();
        let mut body = vec![step.a; len];
        for (byte, with) in body.iter_mut().zip(sequence.get().to_le_bytes()) {
            *byte = with;
        }
        body
    }

    /// How many of a batch are accounted for.
    fn later(&self, lane: Lane, since: Sequence) -> u64 {
        let last = self.sent[lane].last_key_value();
        last.map_or(0, |(last, _)| (last.get() + 1).saturating_sub(since.get()))
    }

    fn sent(&mut self, lane: Lane, body: Vec<u8>, sent: Result<Sequence, SendError>) {
        match sent {
            Ok(sequence) => {
                let expected = self.first.get() + self.sent[lane].len() as u64;
                assert_eq!(sequence.get(), expected, "in turn");
                self.seen.insert("sent");
                self.sent[lane].insert(sequence, body);
            }
            Err(error) => {
                self.seen.insert(name_of_send_error(&error));
            }
        }
    }

    /// Nothing that is not done has been written over, whatever the peer says.
    fn kept(&mut self, lane: Lane) {
        match self.sender.unacknowledged(lane) {
            Ok(kept) => {
                let slots =
                    (0..=self.geometry.growth).map(|segment| self.geometry.slots << segment);
                assert!(kept.len() <= slots.sum::<u32>() as usize);
                let from = self.sender.next(lane).get() - kept.len() as u64;
                assert!(from >= self.done[lane].get(), "kept what was done");
                for (place, (sequence, _, body)) in kept.iter().enumerate() {
                    assert_eq!(sequence.get(), from + place as u64);
                    assert!(self.sent[lane][sequence] == *body, "kept another body");
                }
            }
            Err(fault) => {
                self.seen.insert(name_of_fault(&fault));
            }
        }
    }

    fn check(&mut self, lane: Lane) {
        let next = self.first.get() + self.sent[lane].len() as u64;
        assert_eq!(self.sender.next(lane).get(), next);
        assert_eq!(self.ring.published(lane).get(), next, "as its ring says");
        if self.ring.geometry().growth > 0 && self.sent[lane].len() > 4 {
            self.seen.insert("many");
        }
    }
}
