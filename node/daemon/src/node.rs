//! The node: what its parts share.
//!
//! One thread runs all of it (a `LocalSet` on a current-thread runtime), so that the parts share
//! plain cells. None is borrowed across an `await`.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Instant;

use tokio::sync::watch;
use weft_local_ipc::Watcher;
use weft_types::{
    ChannelId, ClusterName, DomainId, MoveId, NodeName, Refusal, RefusalCode, ServiceName,
};

use crate::channels::{Channels, Party};
use crate::config::Config;
use crate::directory::Directory;
use crate::domains::Domain;
use crate::gateway::Carried;
use crate::incoming::IncomingMove;
use crate::line::Line;
use crate::log::Log;
use crate::security::Security;
use crate::supervisor::{Registrations, Service};

/// A node and all of its parts.
pub(crate) struct Node {
    pub(crate) config: Config,
    pub(crate) watcher: Rc<Watcher>,
    pub(crate) started: Instant,
    pub(crate) domains: RefCell<BTreeMap<DomainId, Rc<Domain>>>,
    pub(crate) channels: Channels,
    pub(crate) services: RefCell<BTreeMap<ServiceName, Rc<Service>>>,
    pub(crate) registrations: Registrations,
    pub(crate) security: Security,
    pub(crate) directory: Box<dyn Directory>,
    /// The channels to other node daemons, each opened when it is first needed.
    pub(crate) kernels: RefCell<HashMap<NodeName, Rc<tokio::sync::Mutex<Option<Line>>>>>,
    /// The gateway, while one is attached.
    pub(crate) gateway: watch::Sender<Option<Rc<Domain>>>,
    /// Rung by the gateway when it listens.
    pub(crate) gateway_ready: tokio::sync::Notify,
    /// Channels that the gateway is opening.
    pub(crate) opening: RefCell<HashMap<ChannelId, Carried>>,
    /// Moves of which this node is the target.
    pub(crate) incoming: RefCell<HashMap<MoveId, Rc<IncomingMove>>>,
    pub(crate) log: Log,
    pub(crate) stopping: Cell<bool>,
    /// Set when the node has to end by itself, and why.
    pub(crate) end_with: watch::Sender<Option<Refusal>>,
    pub(crate) last_domain: Cell<u64>,
}

impl Node {
    pub(crate) fn name(&self) -> &NodeName {
        self.security.node()
    }

    pub(crate) fn cluster(&self) -> &ClusterName {
        self.security.cluster()
    }

    /// A number that no domain of this daemon has had.
    pub(crate) fn next_domain(&self) -> DomainId {
        self.last_domain.set(self.last_domain.get() + 1);
        DomainId::new(self.last_domain.get())
    }

    /// The line to the process of a domain.
    pub(crate) fn domain_line(&self, id: DomainId) -> Result<Line, Refusal> {
        self.domains
            .borrow()
            .get(&id)
            .map(|domain| domain.dispatcher.clone())
            .ok_or_else(|| Refusal::new(RefusalCode::Closed, format!("{id} has died")))
    }

    pub(crate) fn service(&self, name: &ServiceName) -> Option<Rc<Service>> {
        self.services.borrow().get(name).cloned()
    }

    /// The process behind `id` has hung up: its ends of channels are cleaned up.
    pub(crate) async fn domain_gone(&self, id: DomainId) {
        let Some(domain) = self.domains.borrow_mut().remove(&id) else {
            return;
        };
        tracing::debug!(domain = %id, name = %domain.name, "gone");
        domain.dispatcher.close(Refusal::new(
            RefusalCode::Closed,
            format!("{} has died", domain.name),
        ));
        self.gateway.send_if_modified(|gateway| {
            let was_it = gateway.as_ref().is_some_and(|gateway| gateway.id == id);
            if was_it {
                *gateway = None;
            }
            was_it
        });
        // Channels that it served are the supervisor's to restart; those that it held end here.
        let held = self
            .channels
            .select(|channel| channel.client.borrow().party.is_domain(id));
        for channel in held {
            self.channels.remove(channel.id);
            self.tell_server_closed(&channel).await;
        }
    }

    /// A client has closed one of its channels.
    pub(crate) async fn closed_by_client(&self, client: DomainId, id: ChannelId) {
        let own = |channel: &Rc<crate::channels::Channel>| {
            channel.client.borrow().party.is_domain(client)
        };
        if let Some(channel) = self.channels.get(id).filter(own) {
            self.channels.remove(id);
            self.tell_server_closed(&channel).await;
        }
    }

    /// Whether `node` is this one.
    pub(crate) fn is_own(&self, node: &NodeName) -> bool {
        node == self.name()
    }
}

/// The server's end of a channel that was just made.
pub(crate) struct NewServer {
    pub(crate) party: Party,
    pub(crate) half: OwnedFd,
    pub(crate) side: OwnedFd,
}
