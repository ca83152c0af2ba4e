//! One conformance suite for both styles of an inbox, awake, asleep and batching, with and without
//! doorbells.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use common::{End, channel, number, numbered, tell};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use weft_local_ipc::*;
use weft_types::{Lane, Sequence};

const SMALL: Geometry = Geometry {
    slots: 64,
    slot_bytes: 64,
    arena_bytes: 4096,
    ..Geometry::DEFAULT.fixed()
};

/// Long enough for any machine; a test that gets there fails.
const PATIENCE: Option<Duration> = Some(Duration::from_secs(20));

/// What a test notes of an event.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Seen {
    Message { key: u64, lane: Lane, number: u64 },
    Left { key: u64, why: Why },
}

fn note(event: &Event<'_, u64>) -> Seen {
    match event {
        Event::Message(message) => Seen::Message {
            key: *message.key,
            lane: message.received.lane,
            number: numbered(message.body),
        },
        Event::Left(left) => Seen::Left {
            key: left.key,
            why: left.why,
        },
    }
}

/// A way to take messages out of an inbox.
trait Style {
    /// Takes `count` events, and calls `after` with the number of each and what it was.
    fn take_each(inbox: &mut Inbox<u64>, count: usize, after: impl FnMut(usize, Seen));

    fn take(inbox: &mut Inbox<u64>, count: usize) -> Vec<Seen> {
        let mut seen = Vec::with_capacity(count);
        Self::take_each(inbox, count, |_, event| seen.push(event));
        seen
    }
}

struct Poll;

impl Style for Poll {
    fn take_each(inbox: &mut Inbox<u64>, count: usize, mut after: impl FnMut(usize, Seen)) {
        for at in 0..count {
            let event = inbox.next(PATIENCE).expect("an event in time");
            let seen = note(&event);
            if let Event::Message(Message {
                member, received, ..
            }) = event
            {
                inbox.finish(member, received.lane, received.sequence.next());
            }
            after(at, seen);
        }
    }
}

struct Handler;

impl Style for Handler {
    fn take_each(inbox: &mut Inbox<u64>, count: usize, mut after: impl FnMut(usize, Seen)) {
        let mut at = 0;
        if count == 0 {
            return;
        }
        let ended = inbox.run(PATIENCE, |event| {
            after(at, note(&event));
            at += 1;
            if at == count {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        assert_eq!(ended, Some(()), "an event in time");
    }
}

/// The other ends of an inbox's members, by key.
struct World {
    inbox: Inbox<u64>,
    members: Vec<MemberId>,
    peers: Vec<Sender>,
    swappers: Vec<Swapper>,
    /// Our sides, of which nothing is sent here.
    unused: Vec<Sender>,
}

impl World {
    fn new<S: Setup>(members: u64, geometry: Geometry) -> Self {
        let mut world = Self {
            inbox: Inbox::new(S::WAKE),
            members: Vec::new(),
            peers: Vec::new(),
            swappers: Vec::new(),
            unused: Vec::new(),
        };
        for _ in 0..members {
            world.add::<S>(geometry);
        }
        world
    }

    fn add<S: Setup>(&mut self, geometry: Geometry) {
        let (ours, theirs) = channel(geometry);
        let key = self.peers.len() as u64;
        let member = self.inbox.add(key, ours.receiver).unwrap();
        if S::DOORBELLS {
            let (doorbell, far) = Doorbell::pair().unwrap();
            theirs.swapper.ring_through(far).unwrap();
            self.inbox.set_doorbell(member, doorbell).unwrap();
        }
        self.members.push(member);
        self.peers.push(theirs.sender);
        self.swappers.push(ours.swapper);
        self.unused.push(ours.sender);
    }

    fn send(&mut self, key: usize, lane: Lane, n: u64) {
        self.peers[key].try_send(lane, tell(), &number(n)).unwrap();
    }

    /// Waits until all members are cold.
    fn cool(&mut self) {
        while self.inbox.cold() < self.inbox.len() {
            assert!(self.inbox.try_next().is_none());
        }
    }
}

/// How an inbox of the suite is set up.
trait Setup {
    const WAKE: Wake;
    const DOORBELLS: bool;
}

struct Bare;
impl Setup for Bare {
    const WAKE: Wake = Wake::Now;
    const DOORBELLS: bool = false;
}

struct Belled;
impl Setup for Belled {
    const WAKE: Wake = Wake::Now;
    const DOORBELLS: bool = true;
}

struct Napping;
impl Setup for Napping {
    const WAKE: Wake = Wake::Batched(Duration::from_micros(200));
    const DOORBELLS: bool = false;
}

fn message(key: u64, lane: Lane, number: u64) -> Seen {
    Seen::Message { key, lane, number }
}

fn urgent_lanes_of_all_channels_go_first<T: Style, S: Setup>() {
    let mut world = World::new::<S>(5, SMALL);
    for key in 0..5 {
        for lane in [Lane::LOW, Lane::NORMAL, Lane::URGENT, Lane::HIGH] {
            world.send(key, lane, 0);
            world.send(key, lane, 1);
        }
    }
    let lanes: Vec<u8> = T::take(&mut world.inbox, 40)
        .iter()
        .map(|seen| match seen {
            Seen::Message { lane, .. } => lane.get(),
            Seen::Left { .. } => panic!("nobody leaves"),
        })
        .collect();
    assert!(lanes.is_sorted(), "{lanes:?}");
}

fn an_urgent_message_overtakes_all_that_waits<T: Style, S: Setup>() {
    let mut world = World::new::<S>(6, SMALL);
    world.cool();
    for key in 0..5 {
        for n in 0..64 {
            world.send(key, Lane::LOW, n);
        }
    }
    let mut peers = std::mem::take(&mut world.peers);
    T::take_each(&mut world.inbox, 5 * 64 + 3, |at, seen| {
        // From a cold channel, from a hot one, and again.
        let sends = [(7, 5), (20, 0), (33, 5)];
        for (when, key) in sends {
            let urgent = message(key, Lane::URGENT, when);
            if at as u64 == when {
                let peer = &mut peers[key as usize];
                peer.try_send(Lane::URGENT, tell(), &number(when)).unwrap();
                assert_ne!(seen, urgent);
            }
            assert_eq!(seen == urgent, at as u64 == when + 1, "{at} {seen:?}");
        }
    });
}

fn senders_of_a_lane_take_turns<T: Style, S: Setup>() {
    let mut world = World::new::<S>(3, SMALL);
    for n in 0..64 {
        world.send(0, Lane::NORMAL, n);
    }
    for n in 0..8 {
        world.send(1, Lane::NORMAL, n);
        world.send(2, Lane::NORMAL, n);
    }
    let seen = T::take(&mut world.inbox, 24);
    for key in 0..3 {
        let of_key: Vec<Seen> = (0..8).map(|n| message(key, Lane::NORMAL, n)).collect();
        let got: Vec<Seen> = seen
            .iter()
            .copied()
            .filter(|seen| matches!(seen, Seen::Message { key: of, .. } if *of == key))
            .collect();
        assert_eq!(got, of_key);
    }
}

fn order_holds_for_each_channel_and_lane<T: Style, S: Setup>() {
    let mut world = World::new::<S>(20, SMALL);
    let mut random = SmallRng::seed_from_u64(3);
    let mut sent = [[0_u64; 4]; 20];
    let mut received = [[0_u64; 4]; 20];
    for _ in 0..50 {
        let mut count = 0;
        for _ in 0..random.random_range(0..300) {
            let (key, lane) = (random.random_range(0..20), random.random_range(0..4_u8));
            let lane = Lane::new(lane).unwrap();
            if world.peers[key].room(lane) {
                world.send(key, lane, sent[key][lane.index()]);
                sent[key][lane.index()] += 1;
                count += 1;
            }
        }
        for seen in T::take(&mut world.inbox, count) {
            let Seen::Message { key, lane, number } = seen else {
                panic!("nobody leaves")
            };
            let next = &mut received[key as usize][lane.index()];
            assert_eq!(number, *next);
            *next += 1;
        }
    }
    assert_eq!(sent, received);
    assert!(world.inbox.try_next().is_none());
}

fn a_flood_fills_its_own_ring_only<T: Style, S: Setup>() {
    let mut world = World::new::<S>(3, SMALL);
    let full = SendError::Full { lane: Lane::LOW };
    let flooded = (0..)
        .take_while(|&n| {
            let sent = world.peers[0].try_send(Lane::LOW, tell(), &number(n));
            assert!(sent.is_ok() || sent == Err(full));
            sent.is_ok()
        })
        .count();
    assert_eq!(flooded, 64);
    for n in 0..64 {
        world.send(1, Lane::LOW, n);
        world.send(2, Lane::LOW, n);
    }
    assert_eq!(T::take(&mut world.inbox, 3 * 64).len(), 192);
}

fn a_sleeping_inbox_hears_every_member<T: Style, S: Setup>() {
    let mut world = World::new::<S>(12, SMALL);
    let peers = std::mem::take(&mut world.peers);
    const ROUNDS: u64 = 30;
    let sender = thread::spawn(move || {
        let mut peers = peers;
        let mut random = SmallRng::seed_from_u64(5);
        for n in 0..ROUNDS {
            for peer in &mut peers {
                if random.random_range(0..3) == 0 {
                    thread::sleep(Duration::from_micros(random.random_range(0..300)));
                }
                peer.try_send(Lane::HIGH, tell(), &number(n)).unwrap();
            }
        }
        peers
    });
    let seen = T::take(&mut world.inbox, 12 * ROUNDS as usize);
    for key in 0..12 {
        for n in 0..ROUNDS {
            assert!(seen.contains(&message(key, Lane::HIGH, n)));
        }
    }
    drop(sender.join().unwrap());
}

fn whoever_hangs_up_leaves_after_its_last_message<T: Style, S: Setup>() {
    let mut world = World::new::<S>(3, SMALL);
    let (side, far) = SideSocket::pair().unwrap();
    let member = world.members[1];
    world.inbox.watch_side(member, side.as_fd()).unwrap();
    world.cool();
    world.send(1, Lane::LOW, 7);
    drop(far);
    let seen = T::take(&mut world.inbox, 2);
    let left = Seen::Left {
        key: 1,
        why: Why::HungUp,
    };
    assert_eq!(seen, [message(1, Lane::LOW, 7), left]);
    assert_eq!(world.inbox.len(), 2);
    assert!(world.inbox.key(member).is_none());
    world.send(0, Lane::LOW, 8);
    assert_eq!(T::take(&mut world.inbox, 1), [message(0, Lane::LOW, 8)]);
}

fn members_come_and_go<T: Style, S: Setup>() {
    let mut world = World::new::<S>(4, SMALL);
    for key in 0..4 {
        world.send(key, Lane::NORMAL, 1);
        world.send(key, Lane::NORMAL, 2);
    }
    let seen = T::take(&mut world.inbox, 4);
    assert_eq!(seen.len(), 4);
    let (key, mut receiver) = world.inbox.remove(world.members[2]).unwrap();
    assert_eq!(key, 2);
    assert!(world.inbox.remove(world.members[2]).is_none());
    // It goes on by itself where the inbox stopped.
    let mut body = Vec::new();
    receiver.try_receive(&mut body).unwrap().unwrap();
    assert_eq!(numbered(&body), 2);
    world.add::<S>(SMALL);
    world.send(4, Lane::NORMAL, 3);
    world
        .inbox
        .finish(world.members[2], Lane::NORMAL, Sequence::new(2));
    let seen = T::take(&mut world.inbox, 4);
    for (key, n) in [(0, 2), (1, 2), (3, 2), (4, 3)] {
        assert!(seen.contains(&message(key, Lane::NORMAL, n)), "{seen:?}");
    }
    assert!(world.inbox.try_next().is_none());
}

fn a_successor_is_heard_in_place_of_a_sleeping_peer<T: Style, S: Setup>() {
    let mut world = World::new::<S>(3, SMALL);
    world.send(1, Lane::LOW, 1);
    assert_eq!(T::take(&mut world.inbox, 1), [message(1, Lane::LOW, 1)]);
    world.cool();
    let swapper = world.swappers[1].clone();
    let start = Start {
        outgoing: weft_types::PerLane::from_fn(|lane| Sequence::new(u64::from(lane == Lane::LOW))),
        ..Start::default()
    };
    let successor = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        let mut end = End::succeed(&swapper, start);
        thread::sleep(Duration::from_millis(20));
        end.sender.try_send(Lane::LOW, tell(), &number(2)).unwrap();
        end
    });
    assert_eq!(T::take(&mut world.inbox, 1), [message(1, Lane::LOW, 2)]);
    let mut end = successor.join().unwrap();
    world.cool();
    let sender = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        end.sender.try_send(Lane::LOW, tell(), &number(3)).unwrap();
        end
    });
    assert_eq!(T::take(&mut world.inbox, 1), [message(1, Lane::LOW, 3)]);
    drop(sender.join().unwrap());
}

macro_rules! run {
    ($style:ident, $how:ty, $setup:ty, $($claim:ident)*) => {
        mod $style {
            use super::*;
            $(#[test] fn $claim() { super::$claim::<$how, $setup>(); })*
        }
    };
}

macro_rules! suite {
    ($($claim:ident),* $(,)?) => {
        run!(poll, Poll, Bare, $($claim)*);
        run!(handler, Handler, Bare, $($claim)*);
        #[cfg(not(weft_portable))] // Without the kernel's help there are no doorbells.
        run!(poll_with_doorbells, Poll, Belled, $($claim)*);
        #[cfg(not(weft_portable))]
        run!(handler_with_doorbells, Handler, Belled, $($claim)*);
        run!(poll_batching, Poll, Napping, $($claim)*);
        run!(handler_batching, Handler, Napping, $($claim)*);
    };
}

suite!(
    urgent_lanes_of_all_channels_go_first,
    an_urgent_message_overtakes_all_that_waits,
    senders_of_a_lane_take_turns,
    order_holds_for_each_channel_and_lane,
    a_flood_fills_its_own_ring_only,
    a_sleeping_inbox_hears_every_member,
    whoever_hangs_up_leaves_after_its_last_message,
    members_come_and_go,
    a_successor_is_heard_in_place_of_a_sleeping_peer,
);

#[test]
fn an_urgent_message_passes_a_million_that_wait() {
    /// Grows until a lane holds 130,560 messages.
    const DEEP: Geometry = Geometry {
        slots: 512,
        slot_bytes: 64,
        arena_bytes: 0,
        growth: 7,
    };
    let mut world = World::new::<Bare>(9, DEEP);
    world.cool();
    const EACH: u64 = 125_000;
    for key in 0..8 {
        for n in 0..EACH {
            world.send(key, Lane::LOW, n);
        }
    }
    assert_eq!(Poll::take(&mut world.inbox, 100).len(), 100);
    world.send(8, Lane::URGENT, 1);
    assert_eq!(
        Poll::take(&mut world.inbox, 1),
        [message(8, Lane::URGENT, 1)]
    );
    let rest = 8 * EACH as usize - 100;
    assert_eq!(Handler::take(&mut world.inbox, rest).len(), rest);
    assert!(world.inbox.try_next().is_none());
}

#[test]
fn a_nudge_ends_a_wait() {
    let mut world = World::new::<Bare>(2, SMALL);
    let nudge = world.inbox.nudge();
    let other = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        nudge.nudge();
    });
    assert!(world.inbox.next(None).is_none());
    other.join().unwrap();
    assert!(world.inbox.next(Some(Duration::from_millis(1))).is_none());
    if ENFORCED {
        let belled = World::new::<Belled>(2, SMALL);
        let mut inbox = belled.inbox;
        inbox.nudge().nudge();
        assert!(inbox.next(None).is_none(), "said before the wait");
    }
}

// Without the kernel's help there are no doorbells.
#[cfg(not(weft_portable))]
#[test]
fn a_doorbell_that_the_peer_lets_go_of_leaves_its_bell() {
    let mut inbox = Inbox::new(Wake::Now);
    let mut peers = Vec::new();
    for key in 0..3_u64 {
        let (ours, theirs) = channel(SMALL);
        let member = inbox.add(key, ours.receiver).unwrap();
        let (doorbell, far) = Doorbell::pair().unwrap();
        theirs.swapper.ring_through(far).unwrap();
        inbox.set_doorbell(member, doorbell).unwrap();
        peers.push(theirs);
    }
    let other = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        // Another doorbell, at whose other end nobody is.
        let (_, far) = Doorbell::pair().unwrap();
        peers[1].swapper.ring_through(far).unwrap();
        for n in 0..5 {
            thread::sleep(Duration::from_millis(5));
            let sent = peers[1].sender.try_send(Lane::LOW, tell(), &number(n));
            sent.unwrap();
        }
        peers
    });
    let seen = Poll::take(&mut inbox, 5);
    let sent: Vec<Seen> = (0..5).map(|n| message(1, Lane::LOW, n)).collect();
    assert_eq!(seen, sent);
    drop(other.join().unwrap());
}

#[test]
fn an_idle_member_goes_cold_and_its_next_message_is_found() {
    let mut world = World::new::<Bare>(100, SMALL);
    for round in 0..3 {
        world.cool();
        world.send(77, Lane::LOW, round);
        // A sweep is over after so many calls, however busy.
        let event = (0..200).find_map(|_| world.inbox.try_next().map(|event| note(&event)));
        assert_eq!(event, Some(message(77, Lane::LOW, round)));
        world
            .inbox
            .finish(world.members[77], Lane::LOW, Sequence::new(round + 1));
    }
}

#[test]
fn all_of_4096_members_are_heard_and_one_more_comes_back() {
    let geometry = Geometry {
        slots: 2,
        slot_bytes: 64,
        arena_bytes: 0,
        growth: 0,
    };
    allow_descriptors();
    let mut world = World::new::<Bare>(MAX_MEMBERS as u64, geometry);
    let (ours, mut theirs) = channel(geometry);
    let refused = world.inbox.add(9999, ours.receiver).unwrap_err();
    assert_eq!(refused.key, 9999);
    let mut receiver = *refused.receiver;
    theirs
        .sender
        .try_send(Lane::LOW, tell(), &number(5))
        .unwrap();
    assert!(receiver.try_receive(&mut Vec::new()).unwrap().is_some());

    // All of them have something to say; then single ones wake the inbox from its sleep.
    for key in 0..MAX_MEMBERS {
        world.send(key, Lane::LOW, 0);
    }
    let seen = Poll::take(&mut world.inbox, MAX_MEMBERS);
    let mut keys: Vec<u64> = seen
        .iter()
        .map(|seen| match seen {
            Seen::Message { key, .. } => *key,
            Seen::Left { .. } => panic!("nobody leaves"),
        })
        .collect();
    keys.sort_unstable();
    assert!(keys.iter().copied().eq(0..MAX_MEMBERS as u64));
    let peers = std::mem::take(&mut world.peers);
    let (asleep, sends) = std::sync::mpsc::channel::<usize>();
    let sender = thread::spawn(move || {
        let mut peers = peers;
        for key in sends {
            thread::sleep(Duration::from_millis(5));
            let peer = &mut peers[key];
            peer.try_send(Lane::URGENT, tell(), &number(1)).unwrap();
        }
        peers
    });
    for key in [0, 4095, 127, 2048] {
        asleep.send(key).unwrap();
        let seen = Handler::take(&mut world.inbox, 1);
        assert_eq!(seen, [message(key as u64, Lane::URGENT, 1)]);
    }
    drop(asleep);
    drop(sender.join().unwrap());
}

/// Two descriptors for each of 4,096 channels, and what else this process has.
fn allow_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    const NEEDED: u64 = 3 * MAX_MEMBERS as u64;
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < NEEDED) {
        limit.current = Some(NEEDED);
        limit.maximum = limit.maximum.map(|maximum| maximum.max(NEEDED));
        setrlimit(Resource::Nofile, limit).expect("a limit of 12,288 descriptors or more");
    }
}
