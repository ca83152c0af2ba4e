//! A service that answers each message with its own body, and notes what it has handled.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use weft_gateway::InboundOpened;
use weft_local_ipc::{
    Geometry, Header, OwnHalf, PeerHalf, Receiver, SendError, Sender, SideSocket, Start, Swapper,
    connect,
};
use weft_types::{ChannelId, Epoch, Lane, MessageKind, PerLane, Sequence};

/// What was handled, in order: lane and the number in the body.
type Handled = Arc<Mutex<HashMap<ChannelId, Vec<(Lane, u64)>>>>;

pub(crate) struct TestService {
    pub(crate) epoch: Epoch,
    channels: Mutex<HashMap<ChannelId, Attached>>,
    /// From a move: channels whose clients have not come yet.
    arrived: Mutex<HashMap<ChannelId, Saved>>,
    handled: Handled,
    /// Takes messages only while this is not set.
    pub(crate) stalled: Arc<AtomicBool>,
}

struct Attached {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(Sender, Receiver)>,
    swapper: Swapper,
    /// The gateway's half, as the node keeps it.
    gateway: OwnedFd,
    side: SideSocket,
}

/// What a move takes along of one channel.
struct Saved {
    incoming: PerLane<Sequence>,
    outgoing: PerLane<Sequence>,
    unacknowledged: Vec<(Lane, Sequence, Header, Vec<u8>)>,
}

/// What a move takes along.
pub(crate) struct Frozen {
    channels: HashMap<ChannelId, Saved>,
    handled: Handled,
}

impl TestService {
    pub(crate) fn new(epoch: Epoch) -> Self {
        Self::activated(
            epoch,
            Frozen {
                channels: HashMap::new(),
                handled: Handled::default(),
            },
        )
    }

    pub(crate) fn activated(epoch: Epoch, frozen: Frozen) -> Self {
        Self {
            epoch,
            channels: Mutex::default(),
            arrived: Mutex::new(frozen.channels),
            handled: frozen.handled,
            stalled: Arc::default(),
        }
    }

    /// What was handled of this channel, before and after all moves.
    pub(crate) fn handled(&self, channel: ChannelId) -> Vec<(Lane, u64)> {
        self.handled
            .lock()
            .unwrap()
            .get(&channel)
            .cloned()
            .unwrap_or_default()
    }

    /// Where a gateway's half has to start for this channel.
    pub(crate) fn start_of(&self, channel: ChannelId) -> Option<Start> {
        if let Some(attached) = self.channels.lock().unwrap().get(&channel) {
            let dead = PeerHalf::open(attached.gateway.try_clone().unwrap()).unwrap();
            return Some(Start {
                outgoing: PerLane::from_fn(|lane| dead.published(lane)),
                incoming: PerLane::from_fn(|lane| dead.cursors()[lane].done),
            });
        }
        let arrived = self.arrived.lock().unwrap();
        arrived.get(&channel).map(|saved| Start {
            outgoing: saved.incoming,
            incoming: saved.outgoing,
        })
    }

    pub(crate) fn attach(
        &self,
        channel: ChannelId,
        gateway: OwnedFd,
        epoch: Epoch,
    ) -> InboundOpened {
        let peer = PeerHalf::open(gateway.try_clone().unwrap()).unwrap();
        let (ours, theirs) = SideSocket::pair().unwrap();
        let mut channels = self.channels.lock().unwrap();
        let peer_half = if let Some(attached) = channels.get_mut(&channel) {
            attached.swapper.swap(peer);
            attached.gateway = gateway;
            attached.side = ours;
            attached.swapper.share().unwrap()
        } else {
            let saved = self.arrived.lock().unwrap().remove(&channel);
            let start = saved.as_ref().map_or_else(Start::default, |saved| Start {
                outgoing: saved.outgoing,
                incoming: saved.incoming,
            });
            let own = OwnHalf::create(Geometry::DEFAULT, start).unwrap();
            let half = own.share().unwrap();
            let (mut sender, receiver, swapper) = connect(own, peer).unwrap();
            for (lane, sequence, header, body) in saved.into_iter().flat_map(|s| s.unacknowledged) {
                sender.replay(lane, sequence, header, &body).unwrap();
            }
            let stop = Arc::new(AtomicBool::new(false));
            let thread = std::thread::spawn({
                let (stop, stalled) = (Arc::clone(&stop), Arc::clone(&self.stalled));
                let handled = Arc::clone(&self.handled);
                move || serve(channel, sender, receiver, &stop, &stalled, &handled)
            });
            channels.insert(
                channel,
                Attached {
                    stop,
                    thread,
                    swapper,
                    gateway,
                    side: ours,
                },
            );
            half
        };
        InboundOpened {
            peer_half,
            side: theirs.as_fd().try_clone_to_owned().unwrap(),
            epoch,
        }
    }

    /// Finishes what is in hand, stops taking, and hands over everything.
    pub(crate) fn freeze(&self) -> Frozen {
        let mut saved: HashMap<_, _> = self.arrived.lock().unwrap().drain().collect();
        for (channel, attached) in self.channels.lock().unwrap().drain() {
            attached.stop.store(true, Ordering::SeqCst);
            let (mut sender, receiver) = attached.thread.join().unwrap();
            let mut unacknowledged = Vec::new();
            let outgoing = PerLane::from_fn(|lane| {
                let waiting = sender.unacknowledged(lane).unwrap();
                let first = waiting
                    .first()
                    .map_or(sender.next(lane), |(first, ..)| *first);
                unacknowledged.extend(
                    waiting
                        .into_iter()
                        .map(|(sequence, header, body)| (lane, sequence, header, body)),
                );
                first
            });
            let incoming = PerLane::from_fn(|lane| receiver.done(lane));
            saved.insert(
                channel,
                Saved {
                    incoming,
                    outgoing,
                    unacknowledged,
                },
            );
        }
        Frozen {
            channels: saved,
            handled: Arc::clone(&self.handled),
        }
    }
}

impl Drop for TestService {
    fn drop(&mut self) {
        for (_, attached) in self.channels.lock().unwrap().drain() {
            attached.stop.store(true, Ordering::SeqCst);
        }
    }
}

fn serve(
    channel: ChannelId,
    mut sender: Sender,
    mut receiver: Receiver,
    stop: &AtomicBool,
    stalled: &AtomicBool,
    handled: &Handled,
) -> (Sender, Receiver) {
    let mut body = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        if stalled.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        }
        let Some(received) = receiver.try_receive(&mut body).unwrap() else {
            receiver.wait(Some(Duration::from_millis(20)));
            continue;
        };
        let number = u64::from_le_bytes(body[..8].try_into().unwrap());
        handled
            .lock()
            .unwrap()
            .entry(channel)
            .or_default()
            .push((received.lane, number));
        if received.header.kind == MessageKind::Tell {
            receiver.finish(received.lane, received.sequence.next());
            continue;
        }
        let header = Header {
            kind: MessageKind::Reply,
            type_index: received.header.type_index,
            correlation: received.sequence,
            has_descriptors: false,
        };
        loop {
            match sender.try_send(received.lane, header, &body) {
                Ok(_) => break,
                Err(SendError::Full { .. }) => std::thread::sleep(Duration::from_micros(100)),
                Err(error) => panic!("the gateway's half is at fault: {error}"),
            }
        }
        receiver.finish(received.lane, received.sequence.next());
    }
    (sender, receiver)
}
