//! The node's side of its gateway: what the gateway asks, and what it is told.
//!
//! The gateway is a process like any other, and may die like any other: its successor gets every
//! channel that it carried, from the descriptors that the node has kept.

mod process;

use std::cell::RefCell;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::timeout;
use weft::{Contract, Request};
use weft_local_ipc::Start;
use weft_node_control::{
    AttachClient, Caller, ChannelState, Drop as DropCarried, Gateway, GatewayHome,
    GatewayHomeRequest, GatewayReady, InboundCloseNoted, InboundClosed, InboundOpened,
    InboundStart, InboundStarted, Located, LostNoted, NameTaken, NameTakenNoted, OpenInbound,
    PeerReport, Peers, ReadyNoted, Resolve, Resolved, ServiceMoved, ServiceState,
};
use weft_types::{
    ChannelId, DomainId, Epoch, Lane, NodeName, PerLane, Refusal, RefusalCode, ServiceName,
};

use crate::channels::{ATTACH_TIMEOUT, Channel, End, Party, Upkeep, duplicate, open_half};
use crate::domains::new_link_from;
use crate::line::{Answer, Line, reply, reply_with};
use crate::node::{NewServer, Node};

/// How long to wait for a gateway that is being started again.
const GATEWAY_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves one request of the gateway.
pub(crate) fn serve(node: &Rc<Node>, _gateway: DomainId, line: Line, mut request: Request) {
    let descriptors = std::mem::take(&mut request.descriptors);
    let message = match GatewayHome::decode(request.index, &request.body) {
        Ok(message) => message,
        Err(error) => return line.answer(&request, Err(weft::Error::from(error).into())),
    };
    let node = Rc::clone(node);
    line.answer_with(
        request,
        async move { answer(&node, message, descriptors).await },
    );
}

async fn answer(node: &Rc<Node>, message: GatewayHomeRequest, descriptors: Vec<OwnedFd>) -> Answer {
    match message {
        GatewayHomeRequest::GatewayReady(GatewayReady { address }) => {
            node.log.note(format!("the gateway listens on {address}"));
            node.gateway_ready.notify_one();
            reply(&ReadyNoted {})
        }
        GatewayHomeRequest::Locate(locate) => {
            let (at, epoch) = node.locate(&locate.service).await?;
            if node.is_own(&at) {
                // It has just come, or is about to: the channel is given to it here, and taken from
                // the gateway, when it is let loose.
                return Err(Refusal::new(
                    RefusalCode::Busy,
                    format!("{} arrives on this node", locate.service),
                ));
            }
            reply(&Located { node: at, epoch })
        }
        GatewayHomeRequest::Resolve(Resolve { node: peer }) => reply(&Resolved {
            addresses: node
                .resolve(&peer)
                .await?
                .iter()
                .map(ToString::to_string)
                .collect(),
        }),
        GatewayHomeRequest::InboundStart(start) => {
            let start = node.inbound_start(&start).await?;
            reply(&InboundStarted { start })
        }
        GatewayHomeRequest::OpenInbound(open) => node.open_inbound(open, descriptors).await,
        GatewayHomeRequest::InboundClosed(InboundClosed { channel }) => {
            if let Some(channel) = node
                .channels
                .get(channel)
                .filter(|channel| channel.client_is_gateway())
            {
                node.channels.remove(channel.id);
                node.tell_server_closed(&channel).await;
            }
            reply(&InboundCloseNoted {})
        }
        GatewayHomeRequest::ChannelLost(lost) => {
            if let Some(channel) = node
                .channels
                .get(lost.channel)
                .filter(|channel| channel.server_is_gateway())
            {
                node.channels.remove(channel.id);
                node.tell_client_closed(&channel, lost.refusal).await;
            }
            reply(&LostNoted {})
        }
        GatewayHomeRequest::NameTaken(NameTaken { peer, text }) => {
            tracing::debug!(%peer, "refuses this node for another of its name");
            let refusal = Refusal::new(RefusalCode::AlreadyThere, text);
            node.end_with.send_replace(Some(refusal));
            reply(&NameTakenNoted {})
        }
    }
}

impl Node {
    /// The line to the gateway; waits for one that is being started.
    pub(crate) async fn gateway_line(&self) -> Result<Line, Refusal> {
        let mut gateway = self.gateway.subscribe();
        let found = timeout(GATEWAY_TIMEOUT, gateway.wait_for(Option::is_some)).await;
        match found {
            Ok(Ok(gateway)) => gateway.as_ref().map(|gateway| gateway.dispatcher.clone()),
            _ => None,
        }
        .ok_or_else(|| {
            Refusal::new(
                RefusalCode::Unreachable,
                format!("the gateway of {} does not run; see its log", self.name()),
            )
        })
    }

    /// A channel that the gateway carries for a domain of this node.
    pub(crate) fn carried(&self, id: ChannelId) -> Result<Carried, Refusal> {
        if let Some(opening) = self.opening.borrow().get(&id) {
            return Ok(opening.clone());
        }
        self.channels
            .get(id)
            .filter(|channel| channel.server_is_gateway())
            .map(|channel| Carried {
                holder: channel.holder.name.clone(),
                target: channel.target.clone(),
                table: channel.table.clone(),
            })
            .ok_or_else(|| {
                Refusal::new(
                    RefusalCode::NotHolder,
                    format!("{id} is not held by a domain of this node"),
                )
            })
    }

    /// The addresses at which another node may be reached, looked up anew each time.
    async fn resolve(&self, peer: &NodeName) -> Result<Vec<SocketAddr>, Refusal> {
        self.known_node(peer)?;
        let Some(address) = self.config.peers.get(peer).cloned() else {
            return Err(Refusal::new(
                RefusalCode::UnknownNode,
                format!("{peer} is this node itself"),
            ));
        };
        // The system's resolver blocks, so it gets a thread.
        let looked_up = address.clone();
        let found =
            tokio::task::spawn_blocking(move || looked_up.to_socket_addrs().map(Iterator::collect))
                .await
                .map_err(|error| error.to_string())
                .and_then(|found: std::io::Result<Vec<_>>| {
                    found.map_err(|error| error.to_string())
                });
        match found {
            Ok(addresses) if !addresses.is_empty() => Ok(addresses),
            Ok(_) => Err(Refusal::new(
                RefusalCode::Unreachable,
                format!("{peer} at {address} has no address"),
            )),
            Err(error) => Err(Refusal::new(
                RefusalCode::Unreachable,
                format!("{peer} at {address}: {error}"),
            )),
        }
    }

    /// Whether this node serves a service in this epoch, and where a channel stands that it knows.
    async fn inbound_start(
        &self,
        start: &InboundStart,
    ) -> Result<Option<weft_node_control::StartAt>, Refusal> {
        self.serves(&start.target, start.epoch)?;
        if let Some(channel) = self.channels.get(start.channel) {
            check_owner(&channel, &start.caller, &start.target)?;
            // The gateway that carried it is gone. Its half says how far it had come.
            let former = open_half(duplicate(&channel.client.borrow().half)?)?;
            let cursors = former.cursors();
            return Ok(Some(weft_node_control::StartAt {
                outgoing: PerLane::from_fn(|lane| former.published(lane)),
                incoming: PerLane::from_fn(|lane| cursors[lane].done),
            }));
        }
        let Some(state) = self.arrived(start.channel, &start.caller, &start.target)? else {
            return Ok(None);
        };
        Ok(Some(weft_node_control::StartAt {
            outgoing: state.incoming,
            incoming: state.outgoing,
        }))
    }

    /// A channel of this caller that came with a move and that no gateway has asked for yet.
    fn arrived(
        &self,
        channel: ChannelId,
        caller: &Caller,
        target: &ServiceName,
    ) -> Result<Option<ChannelState>, Refusal> {
        let Some(state) = self
            .service(target)
            .and_then(|service| service.arrived(channel))
        else {
            return Ok(None);
        };
        if state.holder == caller.name && state.holder_node == caller.node {
            Ok(Some(state))
        } else {
            Err(other_owner(channel))
        }
    }

    /// Whether a service is here, in this very epoch.
    fn serves(&self, target: &ServiceName, epoch: Epoch) -> Result<(), Refusal> {
        if let Some(node) = target.as_node() {
            return if self.is_own(&node) {
                Ok(())
            } else {
                Err(Refusal::new(
                    RefusalCode::UnknownService,
                    format!("this is {}, not {node}", self.name()),
                ))
            };
        }
        let not_here = |code| {
            Refusal::new(
                code,
                format!("{target} does not live on {} in {epoch}", self.name()),
            )
        };
        let service = self
            .service(target)
            .ok_or_else(|| not_here(RefusalCode::Moved))?;
        if let Some(refusal) = service.failure(self.name()) {
            return Err(refusal);
        }
        match service.state.get() {
            // It will be here in a moment, or its move is called off.
            ServiceState::Incoming
            | ServiceState::Starting
            | ServiceState::Frozen
            | ServiceState::Committing => Err(not_here(RefusalCode::Busy)),
            ServiceState::Active if service.epoch.get() == epoch => Ok(()),
            ServiceState::Active | ServiceState::Stopping | ServiceState::Failed => {
                Err(not_here(RefusalCode::Moved))
            }
        }
    }

    /// Attaches the gateway's half to a service of this node, for a client of another.
    async fn open_inbound(
        self: &Rc<Self>,
        open: OpenInbound,
        mut descriptors: Vec<OwnedFd>,
    ) -> Answer {
        self.serves(&open.target, open.epoch)?;
        let half = descriptors
            .pop()
            .filter(|_| descriptors.is_empty())
            .ok_or_else(|| {
                Refusal::new(
                    RefusalCode::Malformed,
                    "an inbound open comes with the gateway's half",
                )
            })?;
        if let Some(channel) = self.channels.get(open.channel) {
            check_owner(&channel, &open.caller, &open.target)?;
            return self.reopen_inbound(&channel, half).await;
        }
        let OpenInbound {
            channel,
            caller,
            target,
            table,
            resume,
            ceiling,
            ..
        } = open;
        let arrived = self.arrived(channel, &caller, &target)?.is_some();
        if resume.is_some() && !arrived {
            // It was there when the gateway asked where it stands.
            return Err(state_lost(&target));
        }
        let shown = duplicate(&half)?;
        let server = if target.as_node().is_some() {
            self.serve_kernel(&caller, &table, shown)?
        } else {
            self.attach_inbound(channel, &target, &caller, &table, ceiling, shown)
                .await?
        };
        let epoch = self
            .service(&target)
            .map_or(Epoch::FIRST, |service| service.epoch.get());
        let opened = self.channels.insert(Channel {
            id: channel,
            target,
            holder: caller,
            table,
            ceiling,
            epoch: epoch.into(),
            node: self.name().clone().into(),
            client: End {
                party: Party::Gateway,
                half,
            }
            .into(),
            former: RefCell::default(),
            server: End {
                party: server.party,
                half: server.half,
            }
            .into(),
            upkeep: Upkeep::default(),
        });
        reply_with(
            &InboundOpened { epoch },
            vec![opened.server_half()?, server.side],
        )
    }

    async fn attach_inbound(
        &self,
        channel: ChannelId,
        target: &ServiceName,
        caller: &Caller,
        table: &weft_contract::TypeTable,
        ceiling: Lane,
        half: OwnedFd,
    ) -> Result<NewServer, Refusal> {
        let service = self.service(target).ok_or_else(|| state_lost(target))?;
        let _gate = service.gate.read().await;
        let server = service.instance().ok_or_else(|| {
            Refusal::new(
                RefusalCode::Busy,
                format!("{target} is being started on {}", self.name()),
            )
        })?;
        let attach = AttachClient {
            channel,
            caller: caller.clone(),
            table: table.clone(),
            epoch: service.epoch.get(),
            resume: None,
            ceiling,
        };
        let (half, side) = self.attach_to_service(server, attach, half).await?;
        service.forget_arrived(channel);
        Ok(NewServer {
            party: Party::Domain(server),
            half,
            side,
        })
    }

    /// A channel that a former gateway carried: the service gets the new gateway's half.
    async fn reopen_inbound(&self, channel: &Channel, half: OwnedFd) -> Answer {
        let service = self.service(&channel.target);
        // A restart or a move of the service first comes to its end: it replaces the other end.
        let _gate = match &service {
            Some(service) => Some(service.gate.read().await),
            None => None,
        };
        if !self.channels.holds(channel) {
            return Err(Refusal::new(
                RefusalCode::Busy,
                format!("{} is changing", channel.id),
            ));
        }
        let (near, far) = crate::channels::side_pair()?;
        let server = channel.server.borrow().party.clone();
        let shown = duplicate(&half)?;
        match server {
            Party::Domain(id) => {
                let swap = weft_node_control::SwapPeer {
                    channel: channel.id,
                    epoch: channel.epoch.get(),
                    node: channel.holder.node.clone(),
                };
                let swapped = async {
                    self.domain_line(id)?
                        .ask::<weft_node_control::Domain, _>(&swap, &[shown, near], ATTACH_TIMEOUT)
                        .await
                };
                swapped.await.map_err(|refusal| match refusal.code {
                    // It dies in this moment: its successor gets the channel.
                    RefusalCode::Closed => Refusal::new(RefusalCode::Busy, refusal.text),
                    _ => refusal,
                })?;
            }
            Party::Node(line) => {
                line.swap(open_half(shown)?, weft_local_ipc::SideSocket::from(near))
            }
            Party::Gateway => {
                return Err(Refusal::new(
                    RefusalCode::AlreadyThere,
                    format!("{} leads elsewhere", channel.id),
                ));
            }
        }
        self.channels.claim(channel, half);
        reply_with(
            &InboundOpened {
                epoch: channel.epoch.get(),
            },
            vec![channel.server_half()?, far],
        )
    }

    /// Has the gateway forget a channel.
    pub(crate) async fn drop_carried(&self, channel: ChannelId, refusal: Option<Refusal>) {
        let Ok(gateway) = self.gateway_line().await else {
            return;
        };
        let dropped = gateway
            .ask::<Gateway, _>(&DropCarried { channel, refusal }, &[], ATTACH_TIMEOUT)
            .await;
        if let Err(refusal) = dropped {
            tracing::debug!(%channel, %refusal, "the gateway did not drop a channel");
        }
    }

    /// Tells the gateway that a service lives elsewhere now: clients of other nodes go there.
    pub(crate) async fn tell_moved(
        &self,
        service: &ServiceName,
        node: &NodeName,
        epoch: Epoch,
    ) -> Result<(), Refusal> {
        let moved = ServiceMoved {
            service: service.clone(),
            node: node.clone(),
            epoch,
        };
        self.gateway_line()
            .await?
            .ask::<Gateway, _>(&moved, &[], ATTACH_TIMEOUT)
            .await
            .map(|_| ())
    }

    /// The other nodes: as the gateway sees them, and those that it has not yet had to reach.
    pub(crate) async fn peers(&self) -> Vec<PeerReport> {
        let mut peers = match self.gateway_line().await {
            Ok(gateway) => match gateway
                .ask::<Gateway, _>(&Peers {}, &[], ATTACH_TIMEOUT)
                .await
            {
                Ok((list, _)) => list.peers,
                Err(_) => Vec::new(),
            },
            Err(_) => Vec::new(),
        };
        for (node, address) in &self.config.peers {
            if !peers.iter().any(|peer| peer.node == *node) {
                let (node, address) = (node.clone(), address.clone());
                peers.push(PeerReport {
                    node,
                    address,
                    connected: false,
                    channels: 0,
                });
            }
        }
        peers.sort_by(|one, other| one.node.cmp(&other.node));
        peers
    }

    /// Serves the node's own contract to whoever holds `half`.
    pub(crate) fn serve_kernel(
        self: &Rc<Self>,
        caller: &Caller,
        table: &weft_contract::TypeTable,
        half: OwnedFd,
    ) -> Result<NewServer, Refusal> {
        let types = weft_contract::negotiate(&weft_node_control::NodeControl::table(), table)?;
        let (link, own, side) = new_link_from(half, Start::default())?;
        let (node, caller) = (Rc::downgrade(self), caller.clone());
        let line = Line::open(link, &self.watcher, move |line, request| {
            if let Some(node) = node.upgrade() {
                crate::control::serve(&node, &types, &caller, line, request);
            }
        });
        Ok(NewServer {
            party: Party::Node(line),
            half: own,
            side,
        })
    }
}

/// A channel that the gateway carries, as far as a proof needs it.
#[derive(Clone)]
pub(crate) struct Carried {
    pub(crate) holder: ServiceName,
    pub(crate) target: ServiceName,
    pub(crate) table: weft_contract::TypeTable,
}

/// Whether a channel is this caller's to have opened anew. An id is no secret, and no right either.
fn check_owner(channel: &Channel, caller: &Caller, target: &ServiceName) -> Result<(), Refusal> {
    if channel.client_is_gateway() && channel.holder == *caller && channel.target == *target {
        return Ok(());
    }
    Err(other_owner(channel.id))
}

fn other_owner(channel: ChannelId) -> Refusal {
    Refusal::new(
        RefusalCode::NotHolder,
        format!("{channel} belongs to another client"),
    )
}

fn state_lost(target: &ServiceName) -> Refusal {
    Refusal::new(
        RefusalCode::OutcomeUnknown,
        format!("{target} was started anew without its former channels; open another"),
    )
}

#[cfg(test)]
mod tests {
    use weft_local_ipc::{Geometry, OwnHalf};

    use super::*;

    fn half() -> OwnedFd {
        let half = OwnHalf::create(Geometry::DEFAULT, Start::default()).unwrap();
        half.share().unwrap()
    }

    fn caller(name: &str, node: &str) -> Caller {
        Caller {
            name: ServiceName::new(name).unwrap(),
            node: NodeName::new(node).unwrap(),
        }
    }

    /// A channel of `shop` on n2 to `kv`, as the node of `kv` has it.
    fn channel(client: Party) -> Channel {
        let end = |party| End {
            party,
            half: half(),
        };
        Channel {
            id: ChannelId::random(),
            target: ServiceName::new("kv").unwrap(),
            holder: caller("shop", "n2"),
            table: weft_node_control::NodeControl::table(),
            ceiling: Lane::URGENT,
            epoch: Epoch::FIRST.into(),
            node: NodeName::new("n1").unwrap().into(),
            client: end(client).into(),
            former: RefCell::default(),
            server: end(Party::Domain(DomainId::new(7))).into(),
            upkeep: Upkeep::default(),
        }
    }

    #[test]
    fn only_the_holder_of_a_channel_opens_it_anew() {
        let kv = ServiceName::new("kv").unwrap();
        let inbound = channel(Party::Gateway);
        assert_eq!(check_owner(&inbound, &caller("shop", "n2"), &kv), Ok(()));
        let refused = |channel: &Channel, caller: &Caller, target: &ServiceName| {
            check_owner(channel, caller, target).map_err(|refusal| refusal.code)
                == Err(RefusalCode::NotHolder)
        };
        assert!(refused(&inbound, &caller("thief", "n2"), &kv));
        assert!(refused(&inbound, &caller("shop", "n3"), &kv));
        let other = ServiceName::new("ledger").unwrap();
        assert!(refused(&inbound, &caller("shop", "n2"), &other));
        // Of a process of this node: nothing that comes in by the gateway is its channel.
        let local = channel(Party::Domain(DomainId::new(8)));
        assert!(refused(&local, &caller("shop", "n2"), &kv));
    }

    #[test]
    fn a_remote_client_is_missed_until_its_node_asks_the_new_gateway_for_it() {
        let channels = crate::channels::Channels::default();
        let (first, second) = (DomainId::new(1), DomainId::new(2));
        channels.gateway_runs(first);
        let [comes, stays_away] = [(); 2].map(|()| channels.insert(channel(Party::Gateway)));
        channels.insert(channel(Party::Domain(DomainId::new(8))));
        assert!(channels.unclaimed(first).is_empty());
        channels.gateway_runs(second);
        assert_eq!(channels.unclaimed(second).len(), 2);
        channels.claim(&comes, half());
        let missed = channels.unclaimed(second);
        assert_eq!(missed.len(), 1);
        assert_eq!(missed[0].id, stays_away.id);
    }
}
