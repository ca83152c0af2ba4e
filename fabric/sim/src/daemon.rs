//! The node's daemon: what it owns, how it comes back after a crash, and what it restarts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use weft_protocol::moving::{Command, Entry, SourceInput, SourceState, TargetInput, TargetState};
use weft_types::{Epoch, MoveId, NodeName};

use crate::Mutation;
use crate::channel::{ClientState, LocalRecord, RemoteRecord};
use crate::event::{Channel, Event, Instance, Node, NodeLife, Purpose, Service};
use crate::gateway::GatewayState;
use crate::memory::Broken;
use crate::movement::{Source, Target};
use crate::service::Phase;
use crate::world::World;

/// How long an owner that has lost the state waits for a source that may still have it.
const WAIT_FOR_SOURCE: Duration = Duration::from_millis(1_500);

/// How often a node asks the directory about a service that it may have to start.
const CHECK_EVERY_MICROS: u64 = 200_000;

#[derive(Debug)]
pub(crate) struct Owned {
    pub(crate) epoch: Epoch,
    pub(crate) instance: Instance,
}

/// A service that this node may have to start.
#[derive(Debug)]
pub(crate) struct Check {
    /// Until when a source is given the chance to send the state again.
    wait_until: Duration,
    /// A registration may be on its way, so no older life may be activated here.
    pub(crate) registering: bool,
    nonce: u64,
}

#[derive(Debug)]
pub(crate) struct NodeState {
    pub(crate) name: NodeName,
    pub(crate) boot: u64,
    pub(crate) up: bool,
    /// Moves that were activated here. Survives the node.
    pub(crate) disk: BTreeSet<MoveId>,
    pub(crate) local: BTreeMap<Channel, LocalRecord>,
    pub(crate) remote: BTreeMap<Channel, RemoteRecord>,
    pub(crate) owned: BTreeMap<Service, Owned>,
    pub(crate) sources: BTreeMap<MoveId, Source>,
    pub(crate) targets: BTreeMap<MoveId, Target>,
    pub(crate) checks: BTreeMap<Service, Check>,
    /// The latest life of each peer that a connection has shown.
    pub(crate) peer_boots: BTreeMap<Node, u64>,
    pub(crate) gateway: GatewayState,
}

impl NodeState {
    pub(crate) fn new(name: NodeName, boot: u64) -> Self {
        Self {
            name,
            boot,
            up: true,
            disk: BTreeSet::new(),
            local: BTreeMap::new(),
            remote: BTreeMap::new(),
            owned: BTreeMap::new(),
            sources: BTreeMap::new(),
            targets: BTreeMap::new(),
            checks: BTreeMap::new(),
            peer_boots: BTreeMap::new(),
            gateway: GatewayState::default(),
        }
    }
}

impl World {
    pub(crate) fn node_life(&self, node: Node) -> NodeLife {
        let boot = self.nodes[node].boot;
        NodeLife { node, boot }
    }

    pub(crate) fn lives(&self, at: NodeLife) -> bool {
        let node = &self.nodes[at.node];
        node.up && node.boot == at.boot
    }

    pub(crate) fn own(&mut self, node: Node, service: Service, epoch: Epoch, instance: Instance) {
        self.nodes[node]
            .owned
            .insert(service, Owned { epoch, instance });
        self.nodes[node].checks.remove(&service);
    }

    pub(crate) fn owned_instance(&self, node: Node, service: Service) -> Option<Instance> {
        Some(self.nodes.get(node)?.owned.get(&service)?.instance)
    }

    /// An instance has died by itself: whose business is it?
    pub(crate) fn crash_instance(&mut self, instance: Instance) -> Result<(), Broken> {
        let at = self.instances[instance].at;
        let service = self.instances[instance].service;
        if self.instances[instance].phase == Phase::Dead || !self.lives(at) {
            return Ok(());
        }
        let waiting = self.instances[instance].phase == Phase::Waiting;
        if waiting && self.owner_is(service, at.node) || self.given_away(at.node, instance) {
            self.state_may_be_lost(instance);
        }
        self.kill_instance(instance)?;
        let node = &self.nodes[at.node];
        let source = node
            .sources
            .iter()
            .find_map(|(&id, source)| (source.instance == instance).then_some(id));
        let target = node.targets.iter().find_map(|(&id, target)| {
            let before = target.machine.state() != TargetState::Active;
            (target.instance == instance && before).then_some(id)
        });
        if let Some(id) = source {
            self.source_input(at.node, id, SourceInput::ServiceDied)
        } else if let Some(id) = target {
            self.target_input(at.node, id, TargetInput::InstanceDied)
        } else {
            let pause = self.draw(2_000..30_000);
            self.after(Event::RestartService { at, service }, pause);
            Ok(())
        }
    }

    pub(crate) fn restart_service(&mut self, at: NodeLife, service: Service) -> Result<(), Broken> {
        let Some(instance) = self.owned_instance(at.node, service) else {
            return Ok(());
        };
        let moving = self.nodes[at.node]
            .sources
            .values()
            .any(|source| source.instance == instance);
        if !self.lives(at) || moving {
            return Ok(());
        }
        self.succeed(at, service)
    }

    fn owner_is(&self, service: Service, node: Node) -> bool {
        self.entry(service)
            .is_some_and(|entry| entry.node == self.nodes[node].name)
    }

    /// Whether the instance is the source of a move that may be committed: the copy to send again.
    fn given_away(&self, node: Node, instance: Instance) -> bool {
        self.nodes[node].sources.values().any(|source| {
            source.instance == instance
                && matches!(
                    source.machine.state(),
                    SourceState::Committing | SourceState::Given
                )
        })
    }

    pub(crate) fn is_given_away(&self, node: Node, service: Service) -> bool {
        self.nodes[node]
            .sources
            .values()
            .any(|source| source.service == service && source.machine.state() == SourceState::Given)
    }

    fn state_may_be_lost(&mut self, instance: Instance) {
        for &channel in self.instances[instance].ends.keys() {
            self.checker.may_be_lost(channel);
        }
    }

    /// A node dies with everything on it but its disk.
    pub(crate) fn crash_node(&mut self, node: Node) -> Result<(), Broken> {
        let at = self.node_life(node);
        if !self.lives(at) {
            return Ok(());
        }
        self.crashes += 1;
        let here: Vec<Instance> = (0..self.instances.len())
            .filter(|&id| self.instances[id].at == at)
            .collect();
        for instance in here {
            let state = &self.instances[instance];
            let is_copy = state.phase == Phase::Waiting && !self.owner_is(state.service, node);
            let owned = self.owned_instance(node, state.service) == Some(instance);
            if !is_copy && (state.phase != Phase::Dead || owned) {
                self.state_may_be_lost(instance);
            }
            if self.instances[instance].phase != Phase::Dead {
                self.set_phase(instance, Phase::Dead)?;
            }
        }
        for client in 0..self.clients.len() {
            if self.clients[client].at == at
                && let Some((channel, _)) = self.clients[client].open.take()
            {
                self.checker.client_gone(channel);
            }
        }
        self.kill_gateway(node);
        let state = &mut self.nodes[node];
        let life = state.gateway.life;
        let mut reborn = NodeState::new(state.name.clone(), state.boot);
        reborn.up = false;
        reborn.disk = std::mem::take(&mut state.disk);
        reborn.gateway.life = life;
        *state = reborn;
        let pause = self.draw(20_000..300_000);
        self.after(Event::NodeStarts(node), pause);
        Ok(())
    }

    pub(crate) fn start_node(&mut self, node: Node) -> Result<(), Broken> {
        self.nodes[node].boot += 1;
        self.nodes[node].up = true;
        let at = self.node_life(node);
        self.start_gateway(at)?;
        for service in 0..self.scenario.services {
            self.check_service(at, service);
        }
        for client in 0..self.scenario.clients {
            if client % self.nodes.len() == node {
                self.new_client(at, client % self.scenario.services);
            }
        }
        Ok(())
    }

    pub(crate) fn new_client(&mut self, at: NodeLife, service: Service) {
        let client = self.clients.len();
        self.clients.push(ClientState {
            at,
            service,
            open: None,
            asking: false,
            number: 0,
            finish_scheduled: false,
        });
        self.after(Event::ClientOpens(client), 500);
        let pause = self.draw(1_000..20_000);
        self.after(Event::ClientSends(client), pause);
    }

    /// Begins to find out whether this node has to start the service.
    pub(crate) fn check_service(&mut self, at: NodeLife, service: Service) {
        let wait_until = self.now + WAIT_FOR_SOURCE;
        let state = &mut self.nodes[at.node];
        if state.owned.contains_key(&service) || state.checks.contains_key(&service) {
            return;
        }
        state.checks.insert(
            service,
            Check {
                wait_until,
                registering: false,
                nonce: 0,
            },
        );
        self.after(Event::CheckService { at, service }, 100);
    }

    /// Asks the directory, until the matter is settled.
    pub(crate) fn check_again(&mut self, at: NodeLife, service: Service) {
        if !self.lives(at) {
            return;
        }
        let Some(check) = self.nodes[at.node].checks.get_mut(&service) else {
            return;
        };
        check.nonce += 1;
        let purpose = Purpose::Check(service, check.nonce);
        let command = self.lookup(service);
        self.ask_directory(at, purpose, command);
        self.after(Event::CheckService { at, service }, CHECK_EVERY_MICROS);
    }

    pub(crate) fn checked(
        &mut self,
        at: NodeLife,
        service: Service,
        nonce: u64,
        found: Option<Entry>,
    ) -> Result<(), Broken> {
        let state = &mut self.nodes[at.node];
        let Some(check) = state.checks.get_mut(&service) else {
            return Ok(());
        };
        let Some(entry) = found.filter(|_| check.nonce == nonce) else {
            return Ok(());
        };
        if entry.node != state.name {
            state.checks.remove(&service);
            return Ok(());
        }
        let being_given = state.targets.values().any(|target| {
            target.service == service
                && !matches!(
                    target.machine.state(),
                    TargetState::Active | TargetState::Dropped
                )
        });
        let never_here = entry.by.is_some_and(|id| !state.disk.contains(&id));
        if being_given || never_here && self.now < check.wait_until {
            return Ok(());
        }
        if self.scenario.mutation == Some(Mutation::RebootWithoutRegistration) {
            return self.start_fresh(at, service, entry.epoch);
        }
        check.registering = true;
        let purpose = Purpose::Register(service, nonce);
        let command = Command::Register {
            service: self.service_names[service].clone(),
            node: entry.node,
            after: Some(entry.epoch),
        };
        self.ask_directory(at, purpose, command);
        Ok(())
    }

    pub(crate) fn registered(
        &mut self,
        at: NodeLife,
        service: Service,
        nonce: u64,
        found: Option<Entry>,
    ) -> Result<(), Broken> {
        // Only the answer to the latest asking: an earlier one may have been overtaken by it.
        let latest = self.nodes[at.node]
            .checks
            .get(&service)
            .is_some_and(|check| check.nonce == nonce);
        match found {
            Some(entry) if latest => self.start_fresh(at, service, entry.epoch),
            _ => Ok(()),
        }
    }

    fn start_fresh(&mut self, at: NodeLife, service: Service, epoch: Epoch) -> Result<(), Broken> {
        let instance = self.new_instance(at, service, epoch, true);
        self.own(at.node, service, epoch, instance);
        self.set_phase(instance, Phase::Serving)
    }

    /// Gives a service its first owner, before anything else happens.
    pub(crate) fn found_service(&mut self, node: Node, service: Service) -> Result<(), Broken> {
        let entry = self
            .directory
            .apply(&Command::Register {
                service: self.service_names[service].clone(),
                node: self.nodes[node].name.clone(),
                after: None,
            })
            .map_err(|error| error.to_string())?;
        let at = self.node_life(node);
        self.start_fresh(at, service, entry.epoch)
    }
}
