//! Two sessions, a wire that breaks at random, and a model of what must come out: every message
//! once, in order, and the sender's ring freed only of what the receiver has done.

#![expect(
    clippy::unwrap_used,
    reason = "a failed step of the model is a failed test"
)]

use std::collections::VecDeque;
use std::time::Duration;

use proptest::prelude::*;
use weft_protocol::session::{Output, Received, ResumePoint, Session, SessionStart, Window};
use weft_types::{ChannelId, Epoch, Lane, PerLane, Sequence};

const WINDOW: Window = Window {
    messages: 5,
    bytes: 100_000,
};

/// What can happen next. `side` 0 is the client's node, 1 the service's.
#[derive(Clone, Debug)]
enum Step {
    Publish {
        side: usize,
        lane: Lane,
    },
    Send {
        side: usize,
        lane: Lane,
    },
    ArriveData {
        side: usize,
        lane: Lane,
    },
    ArriveControl {
        side: usize,
    },
    Consume {
        side: usize,
        lane: Lane,
    },
    Tick,
    Disconnect,
    /// The gateway dies; its successor reads where to start from the halves of the dead.
    Crash {
        side: usize,
    },
    Connect,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let side = 0..2_usize;
    let lane = (0..2_u8).prop_map(|lane| Lane::new(lane).unwrap());
    let step = prop_oneof![
        6 => (side.clone(), lane.clone()).prop_map(|(side, lane)| Step::Publish { side, lane }),
        8 => (side.clone(), lane.clone()).prop_map(|(side, lane)| Step::Send { side, lane }),
        8 => (side.clone(), lane.clone()).prop_map(|(side, lane)| Step::ArriveData { side, lane }),
        6 => side.clone().prop_map(|side| Step::ArriveControl { side }),
        6 => (side.clone(), lane).prop_map(|(side, lane)| Step::Consume { side, lane }),
        3 => Just(Step::Tick),
        1 => Just(Step::Disconnect),
        1 => side.prop_map(|side| Step::Crash { side }),
        2 => Just(Step::Connect),
    ];
    prop::collection::vec(step, 0..400)
}

/// One node: the local domain with its ring towards the gateway, and the gateway's session.
struct Node {
    session: Session,
    /// What the local domain has published.
    published: PerLane<u64>,
    /// The gateway's `done` in the local domain's ring: everything below may be overwritten.
    freed: PerLane<u64>,
    /// What the gateway has put into its ring for the local domain, and what that has consumed.
    delivered: PerLane<u64>,
    consumed: PerLane<u64>,
    /// On the way to this node.
    data: PerLane<VecDeque<(u64, u32)>>,
    control: VecDeque<PerLane<Sequence>>,
}

impl Node {
    fn new() -> Self {
        Self {
            session: fresh(SessionStart::default()),
            published: PerLane::default(),
            freed: PerLane::default(),
            delivered: PerLane::default(),
            consumed: PerLane::default(),
            data: PerLane::default(),
            control: VecDeque::new(),
        }
    }

    fn resume_point(&mut self) -> ResumePoint {
        for lane in Lane::ALL {
            self.session
                .published(lane, Sequence::new(self.published[lane]));
        }
        self.session.resume_point()
    }
}

fn fresh(start: SessionStart) -> Session {
    Session::new(ChannelId::new(1), Epoch::FIRST, WINDOW, start)
}

fn body_bytes(sequence: u64) -> u32 {
    // Mixed sizes, some of which fill the byte window.
    [10, 30_000, 0, 96_000][sequence as usize % 4]
}

struct World {
    nodes: [Node; 2],
    now: Duration,
}

impl World {
    fn new() -> Self {
        Self {
            nodes: [Node::new(), Node::new()],
            now: Duration::ZERO,
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Publish { side, lane } => {
                let node = &mut self.nodes[side];
                // The domain's own ring is bounded too.
                if node.published[lane] - node.freed[lane] < 8 {
                    node.published[lane] += 1;
                    node.session
                        .published(lane, Sequence::new(node.published[lane]));
                }
            }
            Step::Send { side, lane } => {
                if let Some(send) = self.nodes[side].session.sendable(lane) {
                    let from = send.from.get();
                    assert!(
                        from >= self.nodes[side].freed[lane],
                        "reads what is overwritten"
                    );
                    assert!(send.to.get() <= self.nodes[side].published[lane]);
                    let bytes = body_bytes(from);
                    if self.nodes[side]
                        .session
                        .send(lane, send.from, bytes)
                        .unwrap()
                    {
                        self.nodes[1 - side].data[lane].push_back((from, bytes));
                    }
                }
            }
            Step::ArriveData { side, lane } => {
                let node = &mut self.nodes[side];
                if let Some((sequence, bytes)) = node.data[lane].pop_front() {
                    let received = node
                        .session
                        .received(lane, Sequence::new(sequence), bytes)
                        .unwrap();
                    if received == Received::Deliver {
                        assert_eq!(sequence, node.delivered[lane], "doubled or out of order");
                        node.delivered[lane] += 1;
                        assert!(
                            node.delivered[lane] - node.consumed[lane]
                                <= u64::from(WINDOW.messages),
                            "the local ring overflows"
                        );
                    }
                }
            }
            Step::ArriveControl { side } => {
                let node = &mut self.nodes[side];
                if let Some(done) = node.control.pop_front() {
                    for (lane, upto) in done.iter() {
                        node.session.acknowledged(lane, *upto).unwrap();
                    }
                }
            }
            Step::Consume { side, lane } => {
                let node = &mut self.nodes[side];
                if node.consumed[lane] < node.delivered[lane] {
                    node.consumed[lane] += 1;
                    let upto = Sequence::new(node.consumed[lane]);
                    node.session.local_done(self.now, lane, upto).unwrap();
                }
            }
            Step::Tick => self.now += Duration::from_millis(1),
            Step::Disconnect => self.disconnect(),
            Step::Crash { side } => {
                self.disconnect();
                let node = &mut self.nodes[side];
                node.session = fresh(SessionStart {
                    outgoing_done: PerLane(node.freed.0.map(Sequence::new)),
                    incoming_expected: PerLane(node.delivered.0.map(Sequence::new)),
                    incoming_done: PerLane(node.consumed.0.map(Sequence::new)),
                });
            }
            Step::Connect => self.connect(),
        }
        self.drain_outputs();
    }

    fn disconnect(&mut self) {
        for node in &mut self.nodes {
            node.session.disconnected();
            node.data = PerLane::default();
            node.control.clear();
        }
    }

    fn connect(&mut self) {
        if self.nodes[0].session.is_connected() {
            return;
        }
        let open = self.nodes[0].resume_point();
        let opened = self.nodes[1].resume_point();
        self.nodes[1].session.connected(self.now, open).unwrap();
        self.nodes[0].session.connected(self.now, opened).unwrap();
    }

    fn drain_outputs(&mut self) {
        for side in 0..2 {
            while let Some(output) = self.nodes[side].session.poll_output(self.now) {
                match output {
                    Output::AdvanceDone { lane, upto } => {
                        let remote = self.nodes[1 - side].consumed[lane];
                        let freed = &mut self.nodes[side].freed[lane];
                        assert!(
                            upto.get() > *freed,
                            "the ring's cursor stands still or goes back"
                        );
                        assert!(upto.get() <= remote, "freed before the receiver was done");
                        *freed = upto.get();
                    }
                    Output::Acknowledge { done } => self.nodes[1 - side].control.push_back(done),
                }
            }
        }
    }

    fn settled(&self) -> bool {
        (0..2).all(|side| {
            Lane::ALL.iter().all(|lane| {
                let published = self.nodes[side].published[*lane];
                self.nodes[side].freed[*lane] == published
                    && self.nodes[1 - side].consumed[*lane] == published
            })
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn every_message_arrives_once_and_in_order_however_often_the_wire_breaks(steps in steps()) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        // Nothing breaks any more: everything must settle, in a bounded number of rounds.
        for _ in 0..200 {
            world.step(&Step::Connect);
            for side in 0..2 {
                for lane in [Lane::URGENT, Lane::HIGH] {
                    for step in [
                        Step::Send { side, lane },
                        Step::ArriveData { side: 1 - side, lane },
                        Step::Consume { side: 1 - side, lane },
                        Step::Tick,
                        Step::ArriveControl { side },
                    ] {
                        world.step(&step);
                    }
                }
            }
            if world.settled() {
                break;
            }
        }
        prop_assert!(world.settled(), "messages are stuck");
    }

    #[test]
    fn a_hostile_peer_gets_errors_and_nothing_else(
        inputs in prop::collection::vec((0..5_u8, 0..12_u64, 0..12_u64, 0..200_000_u32), 0..200),
    ) {
        let mut session = fresh(SessionStart::default());
        let lane = Lane::URGENT;
        for (kind, a, b, bytes) in inputs {
            let (a, b) = (Sequence::new(a), Sequence::new(b));
            match kind {
                0 => {
                    let mut point = session.resume_point();
                    point.window = Window { messages: bytes % 9, bytes };
                    point.lanes[lane].expected = a;
                    point.lanes[lane].done = b;
                    point.lanes[lane].held_bytes = bytes;
                    let _ = session.connected(Duration::ZERO, point);
                }
                1 => drop(session.received(lane, a, bytes)),
                2 => drop(session.acknowledged(lane, a)),
                3 => session.published(lane, a),
                _ => {
                    if let Some(send) = session.poll_send() {
                        prop_assert!(session.send(lane, send.from, bytes).is_ok());
                    } else {
                        session.disconnected();
                    }
                }
            }
            while session.poll_output(Duration::from_secs(1)).is_some() {}
        }
    }
}
