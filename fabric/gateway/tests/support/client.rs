//! A client that numbers its messages and checks every reply.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use weft_capability::Chain;
use weft_contract::TypeTable;
use weft_gateway::{Carry, CarryResume};
use weft_local_ipc::{
    Geometry, Header, OwnHalf, PeerHalf, Receiver, SendError, Sender, SideSocket, Start, Swapper,
    connect,
};
use weft_types::{
    ChannelId, ContractName, Lane, MessageKind, PerLane, Refusal, Sequence, ServiceName, TypeIndex,
};

use super::TestNode;

pub(crate) struct Client {
    pub(crate) channel: ChannelId,
    target: ServiceName,
    holder: ServiceName,
    sender: Sender,
    receiver: Receiver,
    pub(crate) swapper: Swapper,
    /// The gateway's half, as the node keeps it.
    pub(crate) gateway: OwnedFd,
    side: SideSocket,
    /// How many replies have come.
    pub(crate) replies: Arc<AtomicU64>,
}

/// What a client saw.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) sent: u64,
    pub(crate) replies: u64,
}

pub(crate) fn table() -> TypeTable {
    TypeTable {
        contract: ContractName::new("kv").unwrap(),
        version: 1,
        entries: Vec::new(),
    }
}

impl Client {
    pub(crate) async fn open(
        at: &TestNode,
        channel: ChannelId,
        holder: ServiceName,
        target: ServiceName,
        capability: Chain,
    ) -> Result<Self, Refusal> {
        at.home
            .holders
            .lock()
            .unwrap()
            .insert(channel, (holder.clone(), capability));
        let own = OwnHalf::create(Geometry::DEFAULT, Start::default()).unwrap();
        let (side, theirs) = SideSocket::pair().unwrap();
        let located = at
            .home
            .world
            .directory
            .lock()
            .unwrap()
            .get(&target)
            .cloned();
        let (node, epoch) = located.unwrap();
        let carried = at
            .handle()
            .carry(Carry {
                channel,
                target: target.clone(),
                holder: holder.clone(),
                node,
                epoch,
                table: table(),
                client_half: own.share().unwrap(),
                side: OwnedFd::from(theirs),
                resume: None,
            })
            .await?;
        let gateway = carried.own_half.try_clone().unwrap();
        let (sender, receiver, swapper) =
            connect(own, PeerHalf::open(carried.own_half).unwrap()).unwrap();
        let replies = Arc::default();
        Ok(Self {
            channel,
            target,
            holder,
            sender,
            receiver,
            swapper,
            gateway,
            side,
            replies,
        })
    }

    /// What the node does when its gateway was restarted, for a client that runs meanwhile.
    pub(crate) async fn carry_again(at: &TestNode, lost: &Lost) -> (OwnedFd, SideSocket) {
        let dead = PeerHalf::open(lost.gateway.try_clone().unwrap()).unwrap();
        let (side, theirs) = SideSocket::pair().unwrap();
        let located = at
            .home
            .world
            .directory
            .lock()
            .unwrap()
            .get(&lost.target)
            .cloned();
        let (node, epoch) = located.unwrap();
        let carried = at
            .handle()
            .carry(Carry {
                channel: lost.channel,
                target: lost.target.clone(),
                holder: lost.holder.clone(),
                node,
                epoch,
                table: table(),
                client_half: lost.swapper.share().unwrap(),
                side: OwnedFd::from(theirs),
                resume: Some(CarryResume {
                    outgoing: PerLane::from_fn(|lane| dead.published(lane)),
                    incoming: PerLane::from_fn(|lane| dead.cursors()[lane].done),
                }),
            })
            .await
            .unwrap();
        let kept = carried.own_half.try_clone().unwrap();
        lost.swapper.swap(PeerHalf::open(carried.own_half).unwrap());
        (kept, side)
    }

    /// What the node keeps of the channel while the client runs.
    pub(crate) fn kept(&self) -> Lost {
        Lost {
            channel: self.channel,
            target: self.target.clone(),
            holder: self.holder.clone(),
            swapper: self.swapper.clone(),
            gateway: self.gateway.try_clone().unwrap(),
        }
    }

    /// Publishes as much as the ring takes, without a look at replies; says how much.
    pub(crate) fn flood(&mut self, lane: Lane) -> u64 {
        let mut sent = 0;
        while self.sender.try_send(lane, request(), &body(sent)).is_ok() {
            sent += 1;
        }
        sent
    }

    /// Sends one message on this lane.
    pub(crate) fn send(&mut self, lane: Lane, number: u64) {
        self.sender
            .try_send(lane, request(), &body(number))
            .unwrap();
    }

    /// Sends one message that wants no reply.
    pub(crate) fn tell(&mut self, lane: Lane, number: u64) {
        let header = Header {
            kind: MessageKind::Tell,
            ..request()
        };
        self.sender.try_send(lane, header, &body(number)).unwrap();
    }

    /// Sends one message that claims to have descriptors beside it.
    pub(crate) fn send_descriptors(&mut self, lane: Lane) {
        let header = Header {
            has_descriptors: true,
            ..request()
        };
        self.sender.try_send(lane, header, &body(0)).unwrap();
    }

    /// How far the far receiver is, as the gateway's cursor says.
    pub(crate) fn done(&mut self, lane: Lane) -> Sequence {
        self.sender.done(lane).unwrap()
    }

    /// Sends `total` messages over all lanes on a thread, with `pause` after each, and checks the
    /// replies: each once, in order, with the body of its request.
    pub(crate) async fn exchange(mut self, total: u64, pause: Duration) -> (Self, Report) {
        tokio::task::spawn_blocking(move || {
            let report = self.run(total, pause);
            (self, report)
        })
        .await
        .unwrap()
    }

    fn run(&mut self, total: u64, pause: Duration) -> Report {
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut report = Report::default();
        let mut numbers: PerLane<Vec<u64>> = PerLane([const { Vec::new() }; 4]);
        let mut expected = PerLane::from_fn(|lane| self.sender.next(lane));
        let first = expected;
        let mut buffer = Vec::new();
        while report.replies < total {
            assert!(Instant::now() < deadline, "stuck after {report:?}");
            let mut idle = true;
            if report.sent < total {
                let lane = Lane::new((report.sent % 4) as u8).unwrap();
                match self.sender.try_send(lane, request(), &body(report.sent)) {
                    Ok(_) => {
                        numbers[lane].push(report.sent);
                        report.sent += 1;
                        idle = false;
                        if !pause.is_zero() {
                            std::thread::sleep(pause);
                        }
                    }
                    Err(SendError::Full { .. }) => {}
                    Err(error) => panic!("the gateway's half is at fault: {error}"),
                }
            }
            while let Some(received) = self.receiver.try_receive(&mut buffer).unwrap() {
                let lane = received.lane;
                let want: Sequence = expected[lane];
                assert_eq!(
                    received.header.correlation, want,
                    "doubled, lost or out of order"
                );
                let number = numbers[lane][want.since(first[lane]) as usize];
                assert_eq!(buffer, body(number), "the body of another message");
                expected[lane] = want.next();
                self.receiver.finish(lane, received.sequence.next());
                report.replies += 1;
                self.replies.fetch_add(1, Ordering::SeqCst);
                idle = false;
            }
            if idle {
                self.receiver.wait(Some(Duration::from_millis(100)));
            }
        }
        report
    }
}

/// What a node needs to carry a client's channel again after its gateway died.
pub(crate) struct Lost {
    channel: ChannelId,
    target: ServiceName,
    holder: ServiceName,
    swapper: Swapper,
    pub(crate) gateway: OwnedFd,
}

fn request() -> Header {
    Header {
        kind: MessageKind::Request,
        type_index: TypeIndex::new(1),
        correlation: Sequence::ZERO,
        has_descriptors: false,
    }
}

/// The number, and some more: mostly what fits a slot, now and then nearly the longest there is.
fn body(number: u64) -> Vec<u8> {
    let length = match number {
        n if n % 499 == 498 => 90_000,
        n if n % 97 == 96 => 5_000,
        n if n % 7 == 0 => 300,
        _ => 16,
    };
    let mut body = vec![number as u8; length];
    body[..8].copy_from_slice(&number.to_le_bytes());
    body
}
