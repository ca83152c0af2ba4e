//! A channel against the simplest queue there is: a list of everything that was sent.
//!
//! Random operations on both ends, with peers replaced in between. The model knows nothing of rings,
//! slots and arenas; it says what must come next on each lane, what must not be lost, and when a
//! refusal is wrong. A run that fails shrinks to a few operations.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::{End, channel, tell};
use proptest::prelude::*;
use weft_local_ipc::*;
use weft_types::{Lane, PerLane, Sequence};

const ARENA_BYTES: u32 = 4096;

fn geometry(slot_bytes: u32, growth: u32) -> Geometry {
    Geometry {
        slots: 4,
        slot_bytes,
        arena_bytes: ARENA_BYTES,
        growth,
    }
}

#[derive(Clone, Debug)]
enum Op {
    Send {
        lane: Lane,
        len: usize,
    },
    SendLazy {
        lane: Lane,
        len: usize,
    },
    SendRow {
        lane: Lane,
        len: usize,
        count: usize,
    },
    /// The next message of this lane.
    ReceiveLane(Lane),
    /// The next one of the most urgent lane.
    Receive,
    /// At most so many of the most urgent lane.
    ReceiveRow(usize),
    /// Finishes so many of those that were taken.
    Finish {
        lane: Lane,
        count: u64,
    },
    /// Back by so many, at most to `done`.
    Rewind {
        lane: Lane,
        count: u64,
    },
    Skip {
        lane: Lane,
        count: u64,
    },
    /// The receiver dies; its successor starts at `done`.
    SwapConsumer,
    /// The sender dies; its successor replays what is not done, or goes on at the end.
    SwapProducer {
        replays: bool,
    },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let lane = || (0..Lane::ALL.len()).prop_map(|index| Lane::ALL[index]);
    // Around what fits a slot of 64 or 128 bytes, a line of the arena, and the whole of it.
    let len = || {
        prop_oneof![
            4 => 0..130_usize,
            2 => prop::sample::select(vec![47, 48, 49, 111, 112, 113, 4032, 4095, 4096]),
            1 => 0..4097_usize,
            1 => Just(ARENA_BYTES as usize * 8 + 1),
        ]
    };
    let op = prop_oneof![
        10 => (lane(), len()).prop_map(|(lane, len)| Op::Send { lane, len }),
        4 => (lane(), len()).prop_map(|(lane, len)| Op::SendLazy { lane, len }),
        4 => (lane(), len(), 0..12_usize)
            .prop_map(|(lane, len, count)| Op::SendRow { lane, len, count }),
        8 => lane().prop_map(Op::ReceiveLane),
        4 => Just(Op::Receive),
        6 => (0..12_usize).prop_map(Op::ReceiveRow),
        8 => (lane(), 0..6_u64).prop_map(|(lane, count)| Op::Finish { lane, count }),
        2 => (lane(), 0..6_u64).prop_map(|(lane, count)| Op::Rewind { lane, count }),
        2 => (lane(), 0..6_u64).prop_map(|(lane, count)| Op::Skip { lane, count }),
        1 => Just(Op::SwapConsumer),
        1 => any::<bool>().prop_map(|replays| Op::SwapProducer { replays }),
    ];
    prop::collection::vec(op, 0..120)
}

/// One lane: what was sent, and how far it was handed out and handled.
#[derive(Default)]
struct Queue {
    sent: Vec<Vec<u8>>,
    next: usize,
    taken: usize,
    done: usize,
}

struct Model {
    a: End,
    b: End,
    lanes: PerLane<Queue>,
    /// Where the rings of the present sender begin. What lies before is its predecessor's, and
    /// counts as done for it.
    first: PerLane<usize>,
}

fn at(index: usize) -> Sequence {
    Sequence::new(index as u64)
}

impl Model {
    fn new(geometry: Geometry) -> Self {
        let (a, b) = channel(geometry);
        let lanes = PerLane::from_fn(|_| Queue::default());
        Self {
            a,
            b,
            lanes,
            first: PerLane::default(),
        }
    }

    fn send(&mut self, lane: Lane, len: usize, lazy: bool) {
        let queue = &mut self.lanes[lane];
        let body: Vec<u8> = (0..len)
            .map(|i| (queue.sent.len() * 31 + i) as u8)
            .collect();
        let fits = self.a.sender.fits(lane, len);
        let result = if lazy {
            self.a.sender.try_send_lazy(lane, tell(), &body)
        } else {
            self.a.sender.try_send(lane, tell(), &body)
        };
        match result {
            Ok(sequence) => {
                assert!(fits, "sent though it does not fit");
                assert_eq!(sequence, at(queue.sent.len()));
                queue.sent.push(body);
            }
            Err(SendError::Full { lane: full }) => {
                assert!(!fits && full == lane);
                assert!(queue.sent.len() > queue.done, "full, and nothing is out");
            }
            Err(error) => {
                let too_large = matches!(error, SendError::TooLarge { .. });
                assert!(too_large && len > ARENA_BYTES as usize, "{error}");
            }
        }
    }

    fn send_row(&mut self, lane: Lane, len: usize, count: usize) {
        let first = self.lanes[lane].sent.len();
        let content = |n: usize| (0..len).map(move |i| ((first + n) * 31 + i) as u8);
        let (sent, result) = self
            .a
            .sender
            .send_each(lane, tell(), len, count, |n, bytes| {
                bytes
                    .iter_mut()
                    .zip(content(n))
                    .for_each(|(to, byte)| *to = byte);
            });
        let queue = &mut self.lanes[lane];
        queue.sent.extend((0..sent).map(|n| content(n).collect()));
        match result {
            Ok(()) => assert_eq!(sent, count),
            Err(SendError::Full { .. }) => {
                assert!(sent < count && !self.a.sender.fits(lane, len));
            }
            Err(error) => {
                let too_large = matches!(error, SendError::TooLarge { .. });
                assert!(too_large && sent == 0, "{error}");
            }
        }
    }

    fn receive_row(&mut self, most: usize) {
        let mut got = Vec::new();
        let count = self.b.receiver.receive_row(most, |received, view| {
            let mut body = vec![0; view.len()];
            assert!(view.copy_to(0, &mut body));
            got.push((received, body));
        });
        assert_eq!(count, Ok(got.len()));
        assert!(got.len() <= most);
        let waits = |lane: &Lane| self.lanes[*lane].next < self.lanes[*lane].sent.len();
        let lane = Lane::ALL.into_iter().find(waits);
        assert_eq!(got.is_empty(), lane.is_none() || most == 0);
        for (received, body) in got {
            self.take(Some(received), lane.unwrap(), &body);
        }
    }

    fn take(&mut self, received: Option<Received>, lane: Lane, body: &[u8]) {
        let queue = &mut self.lanes[lane];
        let Some(received) = received else {
            assert_eq!(queue.next, queue.sent.len(), "a message is lost");
            return;
        };
        assert_eq!((received.lane, received.sequence), (lane, at(queue.next)));
        assert!(body == queue.sent[queue.next], "another body");
        queue.next += 1;
        queue.taken = queue.taken.max(queue.next);
    }

    fn apply(&mut self, op: &Op) {
        let mut body = Vec::new();
        match *op {
            Op::Send { lane, len } => self.send(lane, len, false),
            Op::SendLazy { lane, len } => self.send(lane, len, true),
            Op::SendRow { lane, len, count } => self.send_row(lane, len, count),
            Op::ReceiveRow(most) => self.receive_row(most),
            Op::ReceiveLane(lane) => {
                let got = self.b.receiver.try_receive_lane(lane, &mut body).unwrap();
                self.take(got, lane, &body);
            }
            Op::Receive => {
                let got = self.b.receiver.try_receive(&mut body).unwrap();
                let waits = |lane: &Lane| self.lanes[*lane].next < self.lanes[*lane].sent.len();
                match Lane::ALL.into_iter().find(waits) {
                    Some(lane) => self.take(Some(got.expect("one waits")), lane, &body),
                    None => assert_eq!(got, None),
                }
            }
            Op::Finish { lane, count } => {
                let queue = &mut self.lanes[lane];
                let to = queue.done + count as usize;
                self.b.receiver.finish(lane, at(to));
                queue.done = to.min(queue.taken);
                queue.next = queue.next.max(queue.done);
            }
            Op::Rewind { lane, count } => {
                let queue = &mut self.lanes[lane];
                let to = queue.next.saturating_sub(count as usize);
                let result = self.b.receiver.rewind(lane, at(to));
                assert_eq!(result.is_ok(), to >= queue.done, "{result:?}");
                if result.is_ok() {
                    queue.next = to;
                }
            }
            Op::Skip { lane, count } => {
                let queue = &mut self.lanes[lane];
                let to = queue.next + count as usize;
                let result = self.b.receiver.skip(lane, at(to));
                assert_eq!(result.is_ok(), to <= queue.sent.len(), "{result:?}");
                if result.is_ok() {
                    queue.next = to;
                    queue.taken = queue.taken.max(to);
                }
            }
            // A successor of the receiver cannot read a dead sender's ring: whoever replaces both
            // has to have the sender's successor replay.
            Op::SwapConsumer if self.b_needs_a_dead_ring() => {}
            Op::SwapConsumer => {
                let start = Start {
                    // As its sender side: nothing was ever sent in this direction.
                    outgoing: PerLane::default(),
                    incoming: PerLane::from_fn(|lane| at(self.lanes[lane].done)),
                };
                self.b = End::succeed(&self.a.swapper, start);
                for lane in Lane::ALL {
                    let queue = &mut self.lanes[lane];
                    (queue.next, queue.taken) = (queue.done, queue.done);
                }
            }
            Op::SwapProducer { replays } => self.swap_producer(replays),
        }
        self.check();
    }

    fn b_needs_a_dead_ring(&self) -> bool {
        Lane::ALL
            .into_iter()
            .any(|lane| self.lanes[lane].done < self.first[lane])
    }

    /// A new sender. It replays what is not done from the old one's memory, or goes on behind it:
    /// then the receiver has to read the dead one's ring to its end first.
    fn swap_producer(&mut self, replays: bool) {
        let mut kept = PerLane::from_fn(|_| Vec::new());
        let outgoing = PerLane::from_fn(|lane| {
            if replays {
                kept[lane] = self.a.sender.unacknowledged(lane).unwrap();
            }
            let sent = at(self.lanes[lane].sent.len());
            kept[lane].first().map_or(sent, |first| first.0)
        });
        self.first = PerLane::from_fn(|lane| outgoing[lane].get() as usize);
        let start = Start {
            outgoing,
            incoming: PerLane::default(),
        };
        self.a = End::succeed(&self.b.swapper, start);
        for lane in Lane::ALL {
            for (sequence, header, body) in &kept[lane] {
                let sent = &self.lanes[lane].sent[sequence.get() as usize];
                assert!(body == sent, "kept another body");
                let replayed = self.a.sender.replay(lane, *sequence, *header, body);
                replayed.unwrap();
            }
        }
    }

    fn check(&mut self) {
        for lane in Lane::ALL {
            let queue = &self.lanes[lane];
            let receiver = &self.b.receiver;
            assert_eq!(receiver.expected(lane), at(queue.next), "{lane:?}");
            assert_eq!(receiver.taken(lane), at(queue.taken), "{lane:?}");
            assert_eq!(receiver.done(lane), at(queue.done), "{lane:?}");
            assert_eq!(self.a.sender.next(lane), at(queue.sent.len()), "{lane:?}");
            let done = at(queue.done.max(self.first[lane]));
            assert_eq!(self.a.sender.done(lane), Ok(done), "{lane:?}");
        }
    }

    /// In the end everything that was sent and is not done comes, once, in order.
    fn drain(mut self) {
        for lane in Lane::ALL {
            while self.lanes[lane].next < self.lanes[lane].sent.len() {
                self.apply(&Op::ReceiveLane(lane));
            }
            self.apply(&Op::ReceiveLane(lane));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_channel_behaves_as_a_plain_queue_on_each_lane(
        slot_bytes in prop::sample::select(vec![64, 128]),
        growth in 0..3_u32,
        ops in ops(),
    ) {
        let mut model = Model::new(geometry(slot_bytes, growth));
        for op in &ops {
            model.apply(op);
        }
        model.drain();
    }
}
