//! The channels of this node: who holds each end, and how an end is replaced.
//!
//! The node is not on the path of any message. It connects two ends and keeps the descriptor of
//! each half, so that it can read the cursors of the dead and hand the half of the living to a
//! successor. Everything that happens to a running channel (the service restarts, moves away,
//! arrives; the gateway restarts) is one operation here: the server's end is replaced, and the
//! client is given the new one.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::sleep;
use weft_contract::TypeTable;
use weft_local_ipc::{Geometry, OwnHalf, PeerHalf, SideSocket, Start};
use weft_node_control::{
    AttachClient, Caller, CarryResume, ChannelState, Domain as DomainContract, Gateway, PeerGone,
    Resume, SavedMessage, SwapLocal, SwapPeer,
};
use weft_types::{
    ChannelId, DomainId, Epoch, Lane, NodeName, PerLane, Refusal, RefusalCode, ServiceName,
};

use crate::line::Line;
use crate::node::Node;

/// How long a domain or the gateway may take to attach or swap an end.
pub(crate) const ATTACH_TIMEOUT: Duration = Duration::from_secs(5);

/// How many former halves of a client's end are kept. A service drains one within moments of the
/// next coming, so that the oldest of more than these is long read.
const MAX_FORMER: usize = 8;

/// How many successive ends a client may still have to be told of. One that has stopped is told when
/// it goes on; a channel whose ends are replaced more often than this meanwhile is lost to it.
const MAX_UNTOLD: usize = 32;

/// How long a client has to take in what it is told. It has as long as it lives: the line ends with
/// the process, and nobody waits for the answer.
const FOR_ITS_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);

/// Between two attempts to tell a client while this process has no descriptor left.
const TELL_AGAIN: Duration = Duration::from_millis(100);

/// Who holds an end.
#[derive(Clone)]
pub(crate) enum Party {
    /// A process of this node.
    Domain(DomainId),
    /// The gateway, in place of somebody on another node.
    Gateway,
    /// The node daemon itself.
    Node(Line),
}

impl Party {
    pub(crate) fn describe(&self, node: &Node) -> String {
        match self {
            Self::Domain(id) => node.domains.borrow().get(id).map_or_else(
                || id.to_string(),
                |domain| format!("{} ({id})", domain.name),
            ),
            Self::Gateway => "gateway".to_owned(),
            Self::Node(_) => "node".to_owned(),
        }
    }

    pub(crate) fn is_domain(&self, id: DomainId) -> bool {
        matches!(self, Self::Domain(own) if *own == id)
    }
}

/// One end: who holds it, and its half of the channel.
pub(crate) struct End {
    pub(crate) party: Party,
    pub(crate) half: OwnedFd,
}

/// A channel with an end on this node.
pub(crate) struct Channel {
    pub(crate) id: ChannelId,
    pub(crate) target: ServiceName,
    pub(crate) holder: Caller,
    pub(crate) table: TypeTable,
    /// The most urgent lane that the capability allows.
    pub(crate) ceiling: Lane,
    /// The epoch of the service at the other end.
    pub(crate) epoch: Cell<Epoch>,
    /// The node of the service.
    pub(crate) node: RefCell<NodeName>,
    pub(crate) client: RefCell<End>,
    /// Halves of gateways that had the client's end before, the oldest first.
    pub(crate) former: RefCell<Vec<OwnedFd>>,
    pub(crate) server: RefCell<End>,
    pub(crate) upkeep: Upkeep,
}

/// What the node notes of a channel while its ends are being replaced. New channels have none of it.
#[derive(Default)]
pub(crate) struct Upkeep {
    /// The gateway that carries it, or carried it last. Nothing if none ever did.
    pub(crate) carrier: Cell<Option<DomainId>>,
    /// Lets one attempt at a time through to have a gateway carry it.
    pub(crate) turn: tokio::sync::Mutex<()>,
    /// Ends of the server's that its client has not been told of, the oldest first. Each may hold
    /// replies that no other does, so none is skipped.
    untold: Rc<RefCell<VecDeque<Told>>>,
}

/// One new end of the server's, for the client.
struct Told {
    swap: SwapPeer,
    descriptors: [OwnedFd; 2],
}

impl Channel {
    /// Who holds it.
    pub(crate) fn caller(&self) -> Caller {
        self.holder.clone()
    }

    /// A copy of the client's half, to hand to a server.
    pub(crate) fn client_half(&self) -> Result<OwnedFd, Refusal> {
        duplicate(&self.client.borrow().half)
    }

    /// A copy of the server's half.
    pub(crate) fn server_half(&self) -> Result<OwnedFd, Refusal> {
        duplicate(&self.server.borrow().half)
    }

    pub(crate) fn server_is(&self, id: DomainId) -> bool {
        self.server.borrow().party.is_domain(id)
    }

    pub(crate) fn server_is_gateway(&self) -> bool {
        matches!(self.server.borrow().party, Party::Gateway)
    }

    pub(crate) fn client_is_gateway(&self) -> bool {
        matches!(self.client.borrow().party, Party::Gateway)
    }

    /// The service lives elsewhere from now on, and a gateway is to carry the channel there. Until one
    /// does, the half of the old instance stands in for the gateway's.
    pub(crate) fn leads_away(&self, node: NodeName, epoch: Epoch) {
        self.server.borrow_mut().party = Party::Gateway;
        *self.node.borrow_mut() = node;
        self.epoch.set(epoch);
        self.upkeep.carrier.set(None);
    }

    /// Where a gateway goes on that takes the server's end from whoever has it now: what the client
    /// has sent and is not done, and what it has been answered.
    pub(crate) fn carry_resume(&self) -> Result<CarryResume, Refusal> {
        let server = open_half(self.server_half()?)?;
        let cursors = server.cursors();
        Ok(CarryResume {
            incoming: PerLane::from_fn(|lane| cursors[lane].done),
            outgoing: PerLane::from_fn(|lane| server.published(lane)),
        })
    }

    /// Where a service goes on whose predecessor on this node has died: what that had taken and not
    /// finished is unknown.
    pub(crate) fn restart_resume(&self) -> Result<Resume, Refusal> {
        let cursors = open_half(self.server_half()?)?.cursors();
        let unknown = Lane::ALL
            .into_iter()
            .filter(|lane| cursors[*lane].done < cursors[*lane].taken)
            .map(|lane| (lane, cursors[lane].done, cursors[lane].taken))
            .collect();
        Ok(Resume {
            incoming: PerLane::from_fn(|lane| cursors[lane].done),
            unknown,
        })
    }

    /// What a dead service had replied and the client has not acknowledged. Its successor sends it
    /// again, under the same sequences: if the service then moves on, these replies move with it.
    pub(crate) fn replies_of_the_dead(&self) -> Result<ChannelState, Refusal> {
        let failed = |error: &dyn std::fmt::Display| {
            Refusal::new(RefusalCode::PeerFault, format!("{}: {error}", self.id))
        };
        let client = open_half(self.client_half()?)?.cursors();
        let acknowledged = PerLane::from_fn(|lane| client[lane].done);
        let reader = OwnHalf::create(
            Geometry::DEFAULT,
            Start {
                outgoing: PerLane::default(),
                incoming: acknowledged,
            },
        )
        .map_err(|error| failed(&error))?;
        let (_, mut dead, _) = weft_local_ipc::connect(reader, open_half(self.server_half()?)?)
            .map_err(|error| failed(&error))?;
        let mut unacknowledged = Vec::new();
        let mut body = Vec::new();
        for lane in Lane::ALL {
            while let Some(reply) = dead
                .try_receive_lane(lane, &mut body)
                .map_err(|error| failed(&error))?
            {
                unacknowledged.push(SavedMessage {
                    lane,
                    sequence: reply.sequence,
                    kind: reply.header.kind,
                    type_index: reply.header.type_index,
                    correlation: reply.header.correlation,
                    body: body.clone(),
                });
            }
        }
        Ok(ChannelState {
            channel: self.id,
            holder: self.holder.name.clone(),
            holder_node: self.holder.node.clone(),
            table: self.table.clone(),
            incoming: PerLane::default(),
            outgoing: acknowledged,
            unacknowledged,
        })
    }

    /// The client's halves that a service still has to read, the oldest first: of a gateway that
    /// was replaced before the service had taken all that it had written, then of the present one.
    pub(crate) fn halves_to_read(&self) -> Result<Vec<OwnedFd>, Refusal> {
        let server = open_half(self.server_half()?)?.cursors();
        let mut halves = Vec::new();
        for former in self.former.borrow().iter() {
            let half = open_half(duplicate(former)?)?;
            if Lane::ALL
                .into_iter()
                .any(|lane| half.published(lane) > server[lane].taken)
            {
                halves.push(duplicate(former)?);
            }
        }
        halves.push(self.client_half()?);
        Ok(halves)
    }

    /// Tells a client of its new peers, one after the other, for as long as it lives. A process that
    /// has stopped finds them all in its ring when it goes on.
    fn tell_client(&self, line: Line, told: Told) -> Result<(), Refusal> {
        let untold = Rc::clone(&self.upkeep.untold);
        let waiting = untold.borrow().len();
        if waiting == MAX_UNTOLD {
            return Err(Refusal::new(
                RefusalCode::Unreachable,
                format!(
                    "the client has not heard of the last {MAX_UNTOLD} peers of {}",
                    self.id
                ),
            ));
        }
        untold.borrow_mut().push_back(told);
        if waiting == 0 {
            tokio::task::spawn_local(tell_all(line, untold));
        }
        Ok(())
    }

    /// The client's end is another from now on; its former half may still have to be read.
    pub(crate) fn replace_client(&self, client: End) {
        let former = std::mem::replace(&mut *self.client.borrow_mut(), client);
        let mut kept = self.former.borrow_mut();
        if kept.len() == MAX_FORMER {
            kept.remove(0);
        }
        kept.push(former.half);
    }
}

/// All channels with an end on this node.
#[derive(Default)]
pub(crate) struct Channels {
    by_id: RefCell<HashMap<ChannelId, Rc<Channel>>>,
    /// The gateway that runs, or ran last: it carries what is inserted with an end at the gateway.
    gateway: Cell<Option<DomainId>>,
}

impl Channels {
    pub(crate) fn get(&self, id: ChannelId) -> Option<Rc<Channel>> {
        self.by_id.borrow().get(&id).cloned()
    }

    pub(crate) fn insert(&self, channel: Channel) -> Rc<Channel> {
        let channel = Rc::new(channel);
        if channel.server_is_gateway() || channel.client_is_gateway() {
            channel.upkeep.carrier.set(self.gateway.get());
        }
        self.by_id
            .borrow_mut()
            .insert(channel.id, Rc::clone(&channel));
        channel
    }

    pub(crate) fn remove(&self, id: ChannelId) -> Option<Rc<Channel>> {
        self.by_id.borrow_mut().remove(&id)
    }

    /// Whether this very channel is still there.
    pub(crate) fn holds(&self, channel: &Channel) -> bool {
        self.by_id
            .borrow()
            .get(&channel.id)
            .is_some_and(|current| std::ptr::eq(&raw const **current, channel))
    }

    /// From now on this gateway carries what is inserted.
    pub(crate) fn gateway_runs(&self, gateway: DomainId) {
        self.gateway.set(Some(gateway));
    }

    /// Channels of other nodes' clients that this gateway has not been asked for: their own gateways
    /// have not come back since its predecessor died.
    pub(crate) fn unclaimed(&self, gateway: DomainId) -> Vec<Rc<Channel>> {
        self.select(|channel| {
            channel.client_is_gateway() && channel.upkeep.carrier.get() != Some(gateway)
        })
    }

    /// A gateway has taken the client's end of an inbound channel.
    pub(crate) fn claim(&self, channel: &Channel, half: OwnedFd) {
        channel.replace_client(End {
            party: Party::Gateway,
            half,
        });
        channel.upkeep.carrier.set(self.gateway.get());
    }

    /// The channels for which `which` holds, in the order of their ids.
    pub(crate) fn select(&self, which: impl Fn(&Channel) -> bool) -> Vec<Rc<Channel>> {
        let mut selected: Vec<_> = self
            .by_id
            .borrow()
            .values()
            .filter(|channel| which(channel))
            .cloned()
            .collect();
        selected.sort_by_key(|channel| channel.id);
        selected
    }
}

impl Node {
    /// Attaches `client_half` to the service in `server`: gives the service's half and the client's
    /// end of the side socket.
    pub(crate) async fn attach_to_service(
        &self,
        server: DomainId,
        attach: AttachClient,
        client_half: OwnedFd,
    ) -> Result<(OwnedFd, OwnedFd), Refusal> {
        // An instance that dies under the question is followed by another: ask again.
        let dying = |refusal: Refusal| match refusal.code {
            RefusalCode::Closed => Refusal::new(
                RefusalCode::Busy,
                format!("it is being started again: {}", refusal.text),
            ),
            _ => refusal,
        };
        let line = self.domain_line(server).map_err(dying)?;
        let (near, far) = side_pair()?;
        let (_, mut descriptors) = line
            .ask::<DomainContract, _>(&attach, &[client_half, near], ATTACH_TIMEOUT)
            .await
            .map_err(dying)?;
        let half = descriptors
            .pop()
            .filter(|_| descriptors.is_empty())
            .ok_or_else(|| {
                Refusal::new(
                    RefusalCode::PeerFault,
                    "the service gave no half of the channel",
                )
            })?;
        Ok((half, far))
    }

    /// Gives the client of `channel` its new peer: `party` with `half`, reached by `side`.
    ///
    /// The end is replaced when this is first polled. A client that is a process of this node is told
    /// in its own time, and not waited for.
    ///
    /// # Errors
    ///
    /// If the client cannot be told; then it is dying, and the channel with it.
    pub(crate) async fn replace_server(
        &self,
        channel: &Channel,
        party: Party,
        half: OwnedFd,
        side: OwnedFd,
        node: NodeName,
        epoch: Epoch,
    ) -> Result<(), Refusal> {
        let shown = duplicate(&half)?;
        *channel.server.borrow_mut() = End { party, half };
        *channel.node.borrow_mut() = node.clone();
        channel.epoch.set(epoch);
        let client = channel.client.borrow().party.clone();
        match client {
            Party::Domain(id) => {
                let line = self.domain_line(id)?;
                let swap = SwapPeer {
                    channel: channel.id,
                    epoch,
                    node,
                };
                channel.tell_client(
                    line,
                    Told {
                        swap,
                        descriptors: [shown, side],
                    },
                )
            }
            Party::Gateway => {
                let Some(gateway) = self.gateway.borrow().clone() else {
                    // The next one asks for the channel, and is shown this end.
                    return Ok(());
                };
                let swap = SwapLocal {
                    channel: channel.id,
                };
                let swapped = gateway
                    .dispatcher
                    .ask::<Gateway, _>(&swap, &[shown, side], ATTACH_TIMEOUT)
                    .await;
                // One that has died or does not carry it now asks for it when its client's node
                // comes back.
                note_failure(swapped, channel.id, "the gateway has not swapped an end");
                Ok(())
            }
            Party::Node(line) => {
                line.swap(open_half(shown)?, SideSocket::from(side));
                Ok(())
            }
        }
    }

    /// Closes a channel for good: its client is told why, its server that nobody is there any more.
    pub(crate) async fn close_channel(&self, id: ChannelId, refusal: Refusal) {
        let Some(channel) = self.channels.remove(id) else {
            return;
        };
        tracing::debug!(channel = %id, target = %channel.target, %refusal, "closed");
        self.tell_client_closed(&channel, refusal).await;
        self.tell_server_closed(&channel).await;
    }

    /// Tells the client of a channel that is no more in the table that it is closed.
    pub(crate) async fn tell_client_closed(&self, channel: &Channel, refusal: Refusal) {
        let client = channel.client.borrow().party.clone();
        match client {
            Party::Domain(id) => {
                if let Ok(line) = self.domain_line(id) {
                    let gone = PeerGone {
                        channel: channel.id,
                        refusal,
                    };
                    let told = line
                        .ask::<DomainContract, _>(&gone, &[], ATTACH_TIMEOUT)
                        .await;
                    note_failure(told, channel.id, "its client could not be told");
                }
            }
            Party::Gateway => self.drop_carried(channel.id, Some(refusal)).await,
            Party::Node(line) => line.close(refusal),
        }
    }

    /// Tells the server of a channel that is no more in the table that its client is gone.
    pub(crate) async fn tell_server_closed(&self, channel: &Channel) {
        let server = channel.server.borrow().party.clone();
        match server {
            Party::Domain(id) => {
                if let Ok(line) = self.domain_line(id) {
                    let detach = weft_node_control::DetachClient {
                        channel: channel.id,
                    };
                    let told = line
                        .ask::<DomainContract, _>(&detach, &[], ATTACH_TIMEOUT)
                        .await;
                    note_failure(told, channel.id, "its service could not be told");
                }
            }
            // It hears the client hang up, and first passes on what the client has still said.
            Party::Gateway => {}
            Party::Node(line) => line.close(Refusal::new(
                RefusalCode::Closed,
                "the client has closed the channel",
            )),
        }
    }
}

fn note_failure<T>(told: Result<T, Refusal>, channel: ChannelId, what: &str) {
    if let Err(refusal) = told {
        tracing::debug!(%channel, %refusal, "{what}");
    }
}

/// Tells a client of its new peers until none is left. The one that is being told stays at the front,
/// so that a second task is never begun beside this one.
async fn tell_all(line: Line, untold: Rc<RefCell<VecDeque<Told>>>) {
    loop {
        let next = untold.borrow().front().map(|told| {
            let [half, side] = &told.descriptors;
            let descriptors = duplicate(half).and_then(|half| Ok([half, duplicate(side)?]));
            (told.swap.clone(), descriptors)
        });
        let Some((swap, descriptors)) = next else {
            return;
        };
        let told = match descriptors {
            Ok(descriptors) => {
                line.ask::<DomainContract, _>(&swap, &descriptors, FOR_ITS_LIFE)
                    .await
            }
            Err(refusal) => {
                tracing::warn!(channel = %swap.channel, %refusal, "a client waits for its new peer");
                sleep(TELL_AGAIN).await;
                continue;
            }
        };
        if line.is_closed() {
            // The channel ends with its client.
            untold.borrow_mut().clear();
            return;
        }
        note_failure(told, swap.channel, "its client did not take its new peer");
        untold.borrow_mut().pop_front();
    }
}

/// A half that some process gave us, checked.
pub(crate) fn open_half(half: OwnedFd) -> Result<PeerHalf, Refusal> {
    PeerHalf::open(half).map_err(|error| {
        Refusal::new(
            RefusalCode::PeerFault,
            format!("not a half of a channel: {error}"),
        )
    })
}

/// A socket pair to run beside a channel.
pub(crate) fn side_pair() -> Result<(OwnedFd, OwnedFd), Refusal> {
    let (near, far) = SideSocket::pair()
        .map_err(|error| Refusal::new(RefusalCode::Internal, format!("socket pair: {error}")))?;
    Ok((near.into(), far.into()))
}

pub(crate) fn duplicate(descriptor: &OwnedFd) -> Result<OwnedFd, Refusal> {
    descriptor.try_clone().map_err(|error| {
        Refusal::new(
            RefusalCode::Internal,
            format!("no descriptor left: {error}; raise the limit of open files (`ulimit -n`)"),
        )
    })
}
