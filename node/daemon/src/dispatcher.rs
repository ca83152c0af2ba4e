//! The dispatcher: opens channels.
//!
//! The one place where a domain gets to reach anything. First the capability is checked, then the
//! service is found, then two ends are connected; after that the dispatcher has no part in the
//! channel. Messages are never looked at here.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use weft::{Contract, Request};
use weft_contract::{ContractDescription, TypeTable};
use weft_node_control::{
    AttachClient, Caller, Carry, ChannelClosed, ChannelOpened, ClientFaultNoted, Describe,
    Dispatcher, DispatcherRequest, Gateway, NodeControl, OpenChannel, ServiceDescribed,
    ServiceRegistered, ServiceState,
};
use weft_protocol::moving::Command;
use weft_types::{ChannelId, DomainId, Epoch, Lane, NodeName, Refusal, RefusalCode, ServiceName};

use crate::channels::{ATTACH_TIMEOUT, Channel, End, Party, Upkeep, duplicate, side_pair};
use crate::gateway::Carried;
use crate::line::{Answer, Line, reply, reply_with};
use crate::node::{NewServer, Node};

/// How long the far node may take to take a new channel in.
const CARRY_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a service is followed that moves while a channel to it is opened.
const MAX_CHASES: u32 = 10;

/// Between two attempts to catch it.
const CHASE_DELAY: Duration = Duration::from_millis(50);

/// How long another daemon may take to describe a service.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(5);

/// How many channels one process may hold, to whichever services. Each takes memory out of the
/// service's budget too, so that one process must not have them all. One more is `OverBudget`. (As
/// many more as it may have being opened at a time can slip through.)
const MAX_CHANNELS_PER_DOMAIN: usize = 256;

/// Serves one request of a domain.
pub(crate) fn serve(node: &Rc<Node>, domain: DomainId, line: Line, mut request: Request) {
    let descriptors = std::mem::take(&mut request.descriptors);
    let message = match Dispatcher::decode(request.index, &request.body) {
        Ok(message) => message,
        Err(error) => return line.answer(&request, Err(weft::Error::from(error).into())),
    };
    let node = Rc::clone(node);
    match message {
        DispatcherRequest::OpenChannel(open) => {
            let client = line.clone();
            line.answer_with(request, async move {
                let _turn = client.turn_to_open().await?;
                open_for(&node, domain, open, descriptors).await
            });
        }
        DispatcherRequest::CloseChannel(close) => line.answer_with(request, async move {
            node.closed_by_client(domain, close.channel).await;
            reply(&ChannelClosed {})
        }),
        DispatcherRequest::RegisterService(register) => {
            let outcome = node
                .registrations
                .registered(domain, register.description)
                .and_then(|()| reply(&ServiceRegistered {}));
            line.answer(&request, outcome);
        }
        DispatcherRequest::DescribeService(describe) => line.answer_with(request, async move {
            let description = node.describe(&describe.service).await?;
            reply(&ServiceDescribed { description })
        }),
        DispatcherRequest::ClientFault(fault) => line.answer_with(request, async move {
            let served = |channel: &Rc<Channel>| channel.server_is(domain);
            if node.channels.get(fault.channel).filter(served).is_some() {
                node.log
                    .warn(format!("{} is closed: {}", fault.channel, fault.refusal));
                node.close_channel(fault.channel, fault.refusal).await;
            }
            reply(&ClientFaultNoted {})
        }),
    }
}

/// Opens a channel for a process of this node.
async fn open_for(
    node: &Rc<Node>,
    client: DomainId,
    open: OpenChannel,
    mut descriptors: Vec<OwnedFd>,
) -> Answer {
    let half = descriptors
        .pop()
        .filter(|_| descriptors.is_empty())
        .ok_or_else(|| {
            Refusal::new(
                RefusalCode::Malformed,
                "an open comes with the client's half, and nothing else",
            )
        })?;
    let holder = node
        .domains
        .borrow()
        .get(&client)
        .map(|domain| domain.name.clone())
        .ok_or_else(|| Refusal::new(RefusalCode::Closed, "this domain is not attached"))?;
    let held = |channel: &Channel| channel.client.borrow().party.is_domain(client);
    if node.channels.select(held).len() >= MAX_CHANNELS_PER_DOMAIN {
        return Err(Refusal::new(
            RefusalCode::OverBudget,
            format!(
                "{holder} ({client}) has {MAX_CHANNELS_PER_DOMAIN} channels open, as many as a process may: close some, or share them out over several processes"
            ),
        ));
    }
    let end = End {
        party: Party::Domain(client),
        half,
    };
    let (channel, side) = node.open_channel(end, holder, open).await?;
    if !node.domains.borrow().contains_key(&client) {
        // It has died meanwhile, and the node has forgotten it: nobody else would close this.
        node.channels.remove(channel.id);
        node.tell_server_closed(&channel).await;
        return Err(Refusal::new(RefusalCode::Closed, "this domain has died"));
    }
    let opened = ChannelOpened {
        epoch: channel.epoch.get(),
        node: channel.node.borrow().clone(),
        local: !channel.server_is_gateway(),
    };
    reply_with(&opened, vec![channel.server_half()?, side])
}

impl Node {
    /// Opens a channel from `client`, which holds it as `holder`: gives the channel, and the
    /// client's end of the side socket.
    ///
    /// # Errors
    ///
    /// `NoGrant` and its kin before anything else; then whatever finding and attaching the service
    /// brings.
    pub(crate) async fn open_channel(
        self: &Rc<Self>,
        client: End,
        holder: ServiceName,
        open: OpenChannel,
    ) -> Result<(Rc<Channel>, OwnedFd), Refusal> {
        let OpenChannel {
            channel,
            target,
            table,
        } = open;
        let ceiling = self.security.admit(&holder, &target, &table)?;
        if self.channels.get(channel).is_some() {
            return Err(Refusal::new(
                RefusalCode::AlreadyThere,
                format!("{channel} is open already"),
            ));
        }
        let caller = Caller {
            name: holder,
            node: self.name().clone(),
        };
        let mut attempts = 0;
        let (server, node, epoch) = loop {
            let (node, epoch) = self.locate(&target).await?;
            let half = duplicate(&client.half)?;
            let server = if !self.is_own(&node) {
                self.carry(channel, &target, &caller, &node, epoch, &table, half)
                    .await
            } else if target.as_node().is_some() {
                self.serve_kernel(&caller, &table, half)
            } else {
                self.attach_local(channel, &target, &caller, &table, ceiling, half)
                    .await
            };
            attempts += 1;
            match server {
                Ok(server) => break (server, node, epoch),
                // It moved between the question and the call.
                Err(refusal) if refusal.code == RefusalCode::Moved && attempts < MAX_CHASES => {
                    sleep(CHASE_DELAY).await;
                }
                Err(refusal) => return Err(refusal),
            }
        };
        let opened = self.channels.insert(Channel {
            id: channel,
            target,
            holder: caller,
            table,
            ceiling,
            epoch: epoch.into(),
            node: node.into(),
            client: client.into(),
            former: RefCell::default(),
            server: End {
                party: server.party,
                half: server.half,
            }
            .into(),
            upkeep: Upkeep::default(),
        });
        Ok((opened, server.side))
    }

    /// Where a service lives, by the directory. A node daemon lives on its node.
    pub(crate) async fn locate(&self, service: &ServiceName) -> Result<(NodeName, Epoch), Refusal> {
        if let Some(node) = service.as_node() {
            self.known_node(&node)?;
            return Ok((node, Epoch::FIRST));
        }
        // What this node serves needs no directory: the epoch is ours until we commit it away.
        if let Some(own) = self.service(service) {
            if !matches!(
                own.state.get(),
                ServiceState::Incoming | ServiceState::Failed
            ) {
                // A service in the middle of a move: whoever comes now waits for its end.
                drop(own.gate.read().await);
            }
            if let Some(own) = self
                .service(service)
                .filter(|own| own.state.get() == ServiceState::Active)
            {
                return Ok((self.name().clone(), own.epoch.get()));
            }
        }
        let decision = self
            .directory
            .apply(Command::Lookup {
                service: service.clone(),
            })
            .await?;
        let entry = decision.map_err(Refusal::from)?;
        Ok((entry.node, entry.epoch))
    }

    /// Refuses a node that this one has no address of.
    pub(crate) fn known_node(&self, node: &NodeName) -> Result<(), Refusal> {
        if self.is_own(node) || self.config.peers.contains_key(node) {
            return Ok(());
        }
        let mut known: Vec<&str> = self.config.peers.keys().map(NodeName::as_str).collect();
        known.push(self.name().as_str());
        known.sort_unstable();
        Err(Refusal::new(
            RefusalCode::UnknownNode,
            format!(
                "no node {node} in this cluster; {} knows {}",
                self.name(),
                known.join(", ")
            ),
        ))
    }

    /// Attaches a client to a service of this node.
    pub(crate) async fn attach_local(
        &self,
        channel: ChannelId,
        target: &ServiceName,
        caller: &Caller,
        table: &TypeTable,
        ceiling: Lane,
        half: OwnedFd,
    ) -> Result<NewServer, Refusal> {
        let not_here = || {
            Refusal::new(
                RefusalCode::Unreachable,
                format!("{target} is being started on {}; try again", self.name()),
            )
        };
        let service = self.service(target).ok_or_else(not_here)?;
        if let Some(refusal) = service.failure(self.name()) {
            return Err(refusal);
        }
        // Before the gate: whoever wants to close it does not wait for a queue.
        let line = self.domain_line(service.instance().ok_or_else(not_here)?)?;
        let _turn = timeout(ATTACH_TIMEOUT, line.turn_to_attach())
            .await
            .unwrap_or_else(|_| {
                Err(Refusal::new(
                    RefusalCode::Busy,
                    format!("{target} has too many clients coming at once; try again"),
                ))
            })?;
        let _gate = service.gate.read().await;
        let server = service.instance().ok_or_else(not_here)?;
        let attach = AttachClient {
            channel,
            caller: caller.clone(),
            table: table.clone(),
            epoch: service.epoch.get(),
            resume: None,
            ceiling,
        };
        let (half, side) = self.attach_to_service(server, attach, half).await?;
        Ok(NewServer {
            party: Party::Domain(server),
            half,
            side,
        })
    }

    /// Has the gateway carry a new channel to a service on `node`.
    #[expect(clippy::too_many_arguments, reason = "all of it goes into one message")]
    pub(crate) async fn carry(
        &self,
        channel: ChannelId,
        target: &ServiceName,
        caller: &Caller,
        node: &NodeName,
        epoch: Epoch,
        table: &TypeTable,
        half: OwnedFd,
    ) -> Result<NewServer, Refusal> {
        self.known_node(node)?;
        // While it is opened, the gateway asks for a proof by the channel's id alone.
        let carried = Carried {
            holder: caller.name.clone(),
            target: target.clone(),
            table: table.clone(),
        };
        self.opening.borrow_mut().insert(channel, carried);
        let carry = Carry {
            channel,
            target: target.clone(),
            holder: caller.name.clone(),
            node: node.clone(),
            epoch,
            table: table.clone(),
            resume: None,
        };
        let outcome = self.carry_as(carry, half).await;
        self.opening.borrow_mut().remove(&channel);
        outcome
    }

    /// Has the gateway carry a channel, new or resumed.
    pub(crate) async fn carry_as(&self, carry: Carry, half: OwnedFd) -> Result<NewServer, Refusal> {
        let gateway = self.gateway_line().await?;
        self.carry_by(&gateway, carry, half).await
    }

    /// Has this very gateway carry a channel.
    pub(crate) async fn carry_by(
        &self,
        gateway: &Line,
        carry: Carry,
        half: OwnedFd,
    ) -> Result<NewServer, Refusal> {
        let (near, far) = side_pair()?;
        let (_, mut descriptors) = gateway
            .ask::<Gateway, _>(&carry, &[half, near], CARRY_TIMEOUT)
            .await?;
        let half = descriptors
            .pop()
            .filter(|_| descriptors.is_empty())
            .ok_or_else(|| {
                Refusal::new(
                    RefusalCode::PeerFault,
                    "the gateway gave no half of the channel",
                )
            })?;
        Ok(NewServer {
            party: Party::Gateway,
            half,
            side: far,
        })
    }

    /// What a service understands, wherever it is.
    pub(crate) async fn describe(
        self: &Rc<Self>,
        service: &ServiceName,
    ) -> Result<ContractDescription, Refusal> {
        if let Some(node) = service.as_node() {
            self.known_node(&node)?;
            return Ok(NodeControl::description());
        }
        let (node, _) = self.locate(service).await?;
        if self.is_own(&node) {
            return self
                .service(service)
                .and_then(|own| own.description.borrow().clone())
                .ok_or_else(|| {
                    Refusal::new(
                        RefusalCode::Unreachable,
                        format!("{service} is being started"),
                    )
                });
        }
        let kernel = self.kernel(&node).await?;
        let describe = Describe {
            service: service.clone(),
        };
        Ok(kernel
            .ask::<NodeControl, _>(&describe, &[], DESCRIBE_TIMEOUT)
            .await?
            .0
            .description)
    }
}
