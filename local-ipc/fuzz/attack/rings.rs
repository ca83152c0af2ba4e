//! What a receiver reads of its peer: slots, bodies, the starts of segments, marks.

use std::time::Duration;

use weft_local_ipc::*;
use weft_types::{Lane, MAX_BODY_BYTES, PerLane, Sequence};

use super::liar::{BELL, DONE, GROWN, Liar, PARKED, TAKEN, WAKE_AT, lane_word, start_word};
use super::program::{Step, meta, parse};
use super::{Seen, name_of_fault};

/// Slots and bodies of rings that do not grow.
pub(crate) fn slots(bytes: &[u8]) -> Seen {
    attack(bytes, 0)
}

/// Rings that are said to grow.
pub(crate) fn segments(bytes: &[u8]) -> Seen {
    attack(bytes, 1)
}

/// Operations of a step.
pub(crate) mod op {
    pub(crate) const SLOT: u8 = 0;
    pub(crate) const PUBLISH: u8 = 1;
    pub(crate) const RECEIVE: u8 = 2;
    pub(crate) const RECEIVE_LANE: u8 = 3;
    pub(crate) const IN_PLACE: u8 = 4;
    pub(crate) const VALUE: u8 = 5;
    pub(crate) const FINISH: u8 = 6;
    pub(crate) const REWIND: u8 = 7;
    pub(crate) const SKIP: u8 = 8;
    pub(crate) const LOOK: u8 = 9;
    pub(crate) const WAIT: u8 = 10;
    pub(crate) const SWAP: u8 = 11;
    pub(crate) const CONTROL: u8 = 12;
    pub(crate) const START: u8 = 13;
    pub(crate) const GROWN: u8 = 14;
    pub(crate) const MEMORY: u8 = 15;
    pub(super) const COUNT: u8 = 16;
}

struct Victim {
    liar: Liar,
    /// Our own page, as others see it.
    page: PeerHalf,
    receiver: Receiver,
    swapper: Swapper,
    swaps: u64,
    seen: Seen,
}

fn attack(bytes: &[u8], least_growth: u32) -> Seen {
    let ([size, start, ..], steps) = parse(bytes);
    let geometry = Geometry {
        slots: 2 << (size & 3),
        slot_bytes: if size & 4 == 0 { 64 } else { 128 },
        arena_bytes: u32::from(size >> 3 & 1) * 4096,
        growth: least_growth * (1 + u32::from(size >> 4 & 1)),
    };
    let first = match start & 3 {
        0 => 0,
        1 => 5,
        2 => u64::from(start),
        _ => MAX_SEQUENCE - u64::from(start >> 2),
    };
    let first = PerLane([Sequence::new(first); 4]);
    let start = Start {
        outgoing: first,
        incoming: first,
    };
    let liar = Liar::new(geometry, start);
    let own = OwnHalf::create(geometry.fixed(), start).unwrap();
    let page = PeerHalf::open(own.share().unwrap()).unwrap();
    let peer = PeerHalf::open(liar.share()).unwrap();
    let (_, receiver, swapper) = connect(own, peer).unwrap();
    let mut victim = Victim {
        liar,
        page,
        receiver,
        swapper,
        swaps: 0,
        seen: Seen::new(),
    };
    for step in steps {
        victim.step(step);
        victim.check();
    }
    victim.seen
}

impl Victim {
    fn step(&mut self, step: Step) {
        let lane = step.lane();
        let expected = self.receiver.expected(lane).get();
        let growth = self.liar.geometry.growth;
        let segment = u32::from(step.a >> 2) % (growth + 1);
        let later = 1 + u32::from(step.a >> 2) % growth.max(1);
        match step.op % op::COUNT {
            op::SLOT => {
                let place = u64::from(step.b >> 2);
                let at = self
                    .liar
                    .slot_word(lane, segment, place, (step.b & 3).into());
                self.liar.put(at, step.value(expected + 1));
            }
            op::PUBLISH => self.publish(step, segment, step.value(expected)),
            op::RECEIVE => {
                let mut body = Vec::new();
                let found = self.receiver.try_receive(&mut body);
                self.taken(found.map(|found| found.map(|found| (found, body.len()))));
                assert!(body.capacity() <= 2 * MAX_BODY_BYTES);
            }
            op::RECEIVE_LANE => {
                let mut body = Vec::new();
                let found = self.receiver.try_receive_lane(lane, &mut body);
                assert!(!matches!(found, Ok(Some(other)) if other.lane != lane));
                self.taken(found.map(|found| found.map(|found| (found, body.len()))));
            }
            op::IN_PLACE => {
                let offset = usize::try_from(step.value(0)).unwrap();
                let found = self
                    .receiver
                    .try_receive_in_place(|_, view| read_all(view, offset, step.b));
                self.taken(found);
            }
            op::VALUE => {
                let found = self.receiver.try_receive_value::<[u64; 2]>();
                self.taken(found.map(|found| found.map(|(found, _)| (found, 16))));
            }
            op::FINISH => {
                let up_to = Sequence::new(step.value(expected));
                self.receiver.finish(lane, up_to);
            }
            op::REWIND => {
                let to = Sequence::new(step.value(expected));
                let rewound = self.receiver.rewind(lane, to);
                self.moved(lane, to, rewound);
            }
            op::SKIP => {
                let to = Sequence::new(step.value(expected));
                let skipped = self.receiver.skip(lane, to);
                self.moved(lane, to, skipped);
            }
            op::LOOK => {
                let published = self.swapper.peer_published(lane);
                assert!(published.get() <= MAX_SEQUENCE + 1, "{published}");
                let _ = (self.swapper.peer_cursors(), self.swapper.bell().value());
                let peer = PeerHalf::open(self.liar.share()).unwrap();
                let from = Sequence::new(step.value(expected).min(MAX_SEQUENCE));
                assert!(peer.published_from(lane, from) >= from);
                let _ = self.receiver.ready();
            }
            op::WAIT => {
                let _ = self.receiver.wait(Some(Duration::ZERO));
                self.receiver.park_always();
                self.receiver.unpark();
            }
            op::SWAP => {
                self.swaps += 1;
                self.swapper
                    .swap(PeerHalf::open(self.liar.share()).unwrap());
                self.seen.insert("swap");
            }
            op::CONTROL => {
                let rows = [BELL, PARKED, WAKE_AT, TAKEN, DONE];
                let row = rows[usize::from(step.b) % rows.len()];
                self.liar.put(lane_word(row, lane), step.value(expected));
            }
            op::START if growth > 0 => {
                let start = step.value(expected + 1);
                self.liar.put(start_word(lane, later), start);
            }
            op::GROWN => self
                .liar
                .put(GROWN, step.value(u64::from(step.b)) & 0xffff_ffff),
            op::MEMORY if growth > 0 => self.liar.allocate(lane, later),
            _ => {}
        }
    }

    /// What an honest peer would do, wherever it is.
    fn publish(&self, step: Step, segment: u32, sequence: u64) {
        let lane = step.lane();
        let put = |word, value| {
            let at = self.liar.slot_word(lane, segment, sequence, word);
            self.liar.put(at, value);
        };
        put(1, meta(2, 0, step.b.into()));
        put(2, 0);
        put(0, sequence.wrapping_add(1));
    }

    fn taken(&mut self, found: Result<Option<(Received, usize)>, PeerFault>) {
        match found {
            Ok(None) => {}
            Ok(Some((received, len))) => {
                assert!(len <= MAX_BODY_BYTES);
                let next = self.receiver.expected(received.lane).get();
                assert_eq!(received.sequence.get() + 1, next, "in turn");
                self.seen.insert("message");
                if len > self.liar.geometry.slot_bytes as usize {
                    self.seen.insert("message in the arena");
                }
                let start = received.sequence.get();
                if self.liar.geometry.growth > 0 && start >= 2 * self.liar.slots(0) {
                    self.seen.insert("message in a segment");
                }
            }
            Err(fault) => {
                self.seen.insert(name_of_fault(&fault));
            }
        }
    }

    fn moved(&mut self, lane: Lane, to: Sequence, result: Result<(), RewindError>) {
        match result {
            Ok(()) => assert_eq!(self.receiver.expected(lane), to),
            Err(RewindError::Done { .. }) => {
                self.seen.insert("Done");
            }
            Err(RewindError::Beyond { .. }) => {
                self.seen.insert("Beyond");
            }
            Err(RewindError::Peer(fault)) => {
                self.seen.insert(name_of_fault(&fault));
            }
        }
    }

    /// Whatever it was told: its cursors are in order, bounded, and what its own page says.
    fn check(&mut self) {
        let slots: u64 = (0..=self.liar.geometry.growth)
            .map(|segment| self.liar.slots(segment))
            .sum();
        let page = self.page.cursors();
        for lane in Lane::ALL {
            let (next, taken, done) = (
                self.receiver.expected(lane),
                self.receiver.taken(lane),
                self.receiver.done(lane),
            );
            assert!(done <= next && next <= taken, "{done} {next} {taken}");
            let most = slots * (1 + self.swaps);
            assert!(taken.get() - done.get() <= most, "more than its rings hold");
            assert_eq!(page[lane], Cursors { taken, done }, "as its page says");
        }
    }
}

/// Looks at a body in every way there is. Returns its length.
fn read_all(view: View<'_>, offset: usize, len: u8) -> usize {
    let inside = |len: usize| offset.checked_add(len).is_some_and(|end| end <= view.len());
    let mut part = vec![0; len.into()];
    assert_eq!(view.copy_to(offset, &mut part), inside(part.len()));
    assert_eq!(view.read::<[u8; 24]>(offset).is_some(), inside(24));
    if let Some(words) = view.words() {
        assert_eq!(words.len(), view.len() / 8);
        assert_eq!(words.iter().count(), words.len());
        assert_eq!(words.get(offset).is_some(), offset < words.len());
    }
    view.len()
}
