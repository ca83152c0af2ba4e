//! The loop: take the next event, do it, check everything.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use weft_protocol::moving::{DirectoryState, TargetInput, TargetState};
use weft_types::{Lane, NodeName, ServiceName};

use crate::channel::ClientState;
use crate::checker::{Checker, Counts};
use crate::daemon::NodeState;
use crate::event::{Channel, Event, Node, Owner};
use crate::memory::{Broken, HalfId, Memory};
use crate::movement::Moves;
use crate::network::ConnectionState;
use crate::service::InstanceState;
use crate::{Mutation, Scenario};

/// How long after the load everything has to be settled, in simulated time.
const SETTLE: Duration = Duration::from_secs(60);

/// A run that takes more events than this is one that does not settle.
const MAX_EVENTS: u64 = 2_000_000;

/// Entry point: runs scenarios.
#[derive(Debug)]
pub struct Simulation;

/// What a run without a violation came to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Summary {
    /// The seed.
    pub seed: u64,
    /// A hash of the whole history: equal seeds give equal hashes.
    pub trace: u64,
    /// How many events there were.
    pub events: u64,
    /// Simulated time until everything was settled.
    pub lasted: Duration,
    /// Messages and their fates.
    pub counts: Counts,
    /// Moves and their ends.
    pub moves: Moves,
    /// Crashes of gateways, instances and nodes.
    pub crashes: u64,
}

/// A broken invariant, with what led to it.
#[derive(Clone, Debug, thiserror::Error)]
pub struct Violation {
    /// The scenario's name.
    pub scenario: &'static str,
    /// The seed, which is the whole history.
    pub seed: u64,
    /// What is broken.
    pub what: String,
    /// When, in simulated time.
    pub at: Duration,
    /// The last events, oldest first.
    pub events: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            scenario,
            seed,
            what,
            at,
            events,
        } = self;
        for event in events {
            writeln!(f, "  {event}")?;
        }
        writeln!(f, "{scenario}, seed {seed}, after {at:?}: {what}")?;
        write!(
            f,
            "replay: cargo run -p weft-sim --example replay -- {seed} {scenario}"
        )
    }
}

impl Simulation {
    /// Runs one history to its end.
    ///
    /// # Errors
    ///
    /// The first [`Violation`].
    pub fn run(seed: u64, scenario: &Scenario) -> Result<Summary, Box<Violation>> {
        let mut world = World::new(seed, scenario.clone());
        match world.run() {
            Ok(()) => Ok(world.summary(seed)),
            Err(what) => Err(Box::new(Violation {
                scenario: scenario.name,
                seed,
                what,
                at: world.now,
                events: world
                    .recent
                    .iter()
                    .map(|(at, event)| format!("{at:>12?} {event:?}"))
                    .collect(),
            })),
        }
    }
}

/// What is going to happen.
#[derive(Debug, Default)]
pub(crate) struct Agenda {
    events: BTreeMap<(Duration, u64), Event>,
    next: u64,
    /// Who has a bell ringing already.
    ringing: BTreeSet<Owner>,
}

impl Agenda {
    pub(crate) fn at(&mut self, at: Duration, event: Event) {
        self.events.insert((at, self.next), event);
        self.next += 1;
    }

    pub(crate) fn wake(&mut self, rng: &mut SmallRng, now: Duration, owner: Owner) {
        if self.ringing.insert(owner) {
            let delay = Duration::from_micros(rng.random_range(1..60));
            self.at(now + delay, Event::Wake(owner));
        }
    }
}

/// Everything there is.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) scenario: Scenario,
    pub(crate) rng: SmallRng,
    pub(crate) now: Duration,
    pub(crate) agenda: Agenda,
    pub(crate) memory: Memory,
    pub(crate) checker: Checker,
    pub(crate) nodes: Vec<NodeState>,
    pub(crate) clients: Vec<ClientState>,
    pub(crate) instances: Vec<InstanceState>,
    pub(crate) connections: Vec<ConnectionState>,
    pub(crate) service_names: Vec<ServiceName>,
    pub(crate) directory: DirectoryState,
    pub(crate) directory_cuts: BTreeSet<Node>,
    pub(crate) directory_full: bool,
    pub(crate) partitions: BTreeSet<(Node, Node)>,
    /// Channels whose memory this event has changed.
    pub(crate) touched: BTreeSet<Channel>,
    pub(crate) next_move: u64,
    pub(crate) moves: Moves,
    pub(crate) crashes: u64,
    events: u64,
    trace: DefaultHasher,
    recent: VecDeque<(Duration, Event)>,
}

impl World {
    fn new(seed: u64, scenario: Scenario) -> Self {
        let name = |kind: &str, number: usize| format!("{kind}{number}");
        let nodes = (0..scenario.nodes)
            .map(|node| {
                let name = NodeName::new(name("n", node)).expect("a letter and a number");
                NodeState::new(name, 0)
            })
            .collect();
        let service_names = (0..scenario.services)
            .map(|service| ServiceName::new(name("s", service)).expect("a letter and a number"))
            .collect();
        Self {
            rng: SmallRng::seed_from_u64(seed),
            now: Duration::ZERO,
            agenda: Agenda::default(),
            memory: Memory::default(),
            checker: Checker::default(),
            nodes,
            clients: Vec::new(),
            instances: Vec::new(),
            connections: Vec::new(),
            service_names,
            directory: DirectoryState::new(),
            directory_cuts: BTreeSet::new(),
            directory_full: false,
            partitions: BTreeSet::new(),
            touched: BTreeSet::new(),
            next_move: 1,
            moves: Moves::default(),
            crashes: 0,
            events: 0,
            trace: DefaultHasher::new(),
            recent: VecDeque::new(),
            scenario,
        }
    }

    fn run(&mut self) -> Result<(), Broken> {
        for service in 0..self.scenario.services {
            self.found_service(service % self.nodes.len(), service)?;
        }
        for node in 0..self.nodes.len() {
            let at = self.node_life(node);
            self.start_gateway(at)?;
        }
        for client in 0..self.scenario.clients {
            let at = self.node_life(client % self.nodes.len());
            self.new_client(at, client % self.scenario.services);
        }
        self.schedule_faults();
        while let Some(((at, _), event)) = self.agenda.events.pop_first() {
            self.now = at;
            self.record(&event);
            self.happens(event)?;
            self.check()?;
            if self.now > self.scenario.load + SETTLE || self.events > MAX_EVENTS {
                return Err(format!("does not settle: {}", self.unsettled()));
            }
        }
        match self.checker.unsettled() {
            Some(what) => Err(format!("nothing happens any more, but {what}")),
            None if self.moves_are_over() => Ok(()),
            None => Err("nothing happens any more, but a move is not over".into()),
        }
    }

    fn unsettled(&self) -> String {
        self.checker
            .unsettled()
            .unwrap_or_else(|| "events without end".into())
    }

    fn moves_are_over(&self) -> bool {
        self.nodes.iter().all(|node| {
            node.sources.is_empty()
                && node.targets.values().all(|target| {
                    matches!(
                        target.machine.state(),
                        TargetState::Active | TargetState::Dropped
                    )
                })
        })
    }

    /// The trace is what was drawn and what happened when: two histories that differ anywhere have
    /// drawn different numbers or have events of another kind or time.
    fn record(&mut self, event: &Event) {
        self.events += 1;
        self.now.hash(&mut self.trace);
        std::mem::discriminant(event).hash(&mut self.trace);
        self.rng.clone().next_u64().hash(&mut self.trace);
        self.recent.push_back((self.now, event.clone()));
        if self.recent.len() > self.scenario.shown_events {
            self.recent.pop_front();
        }
    }

    fn summary(&self, seed: u64) -> Summary {
        let mut trace = self.trace.clone();
        format!("{:?}", self.checker.counts).hash(&mut trace);
        Summary {
            seed,
            trace: trace.finish(),
            events: self.events,
            lasted: self.now,
            counts: self.checker.counts,
            moves: self.moves,
            crashes: self.crashes,
        }
    }

    fn happens(&mut self, event: Event) -> Result<(), Broken> {
        match event {
            Event::Wake(owner) => {
                self.agenda.ringing.remove(&owner);
                match owner {
                    Owner::Client(client) => self.client_wakes(client),
                    Owner::Instance(instance) => self.instance_wakes(instance),
                    Owner::Gateway(node) => self.gateway_wakes(node),
                }
            }
            Event::ClientSends(client) => self.client_sends(client),
            Event::ClientOpens(client) => {
                // A late one of these means that no answer came to the last.
                self.clients[client].asking = false;
                self.client_opens(client);
                Ok(())
            }
            Event::ClientFinishes(client) => self.client_finishes(client),
            Event::HandlerReplies(instance) => self.handler_replies(instance),
            Event::HandlerDone(instance) => self.handler_done(instance),
            Event::RestartService { at, service } => self.restart_service(at, service),
            Event::Dial { from, to } => {
                self.dial(from, to);
                Ok(())
            }
            Event::DialArrives { from, to } => self.dial_arrives(from, to),
            Event::DialDone(connection) => self.dial_done(connection),
            Event::ConnectionLost { connection, at } => {
                if self.gateway_lives(at) {
                    self.lose_connection(connection, at.node)
                } else {
                    Ok(())
                }
            }
            Event::Control {
                connection,
                to,
                channel,
                control,
            } => self.control(connection, to, channel, control),
            Event::Data {
                connection,
                to,
                channel,
                lane,
                epoch,
                sequence,
                message,
            } => self.data(connection, to, channel, lane, (epoch, sequence, message)),
            Event::SessionTimer { at, channel } => self.session_timer(at, channel),
            Event::Retry {
                at,
                channel,
                attempt,
            } => {
                self.retry(at, channel, attempt);
                Ok(())
            }
            Event::GatewayStarts(at) => self.start_gateway(at),
            Event::Daemon { to, from, id, said } => self.daemon_hears(to, from, id, said),
            Event::DirectoryAsked {
                from,
                purpose,
                command,
            } => self.directory_asked(from, purpose, &command),
            Event::DirectoryAnswered {
                to,
                purpose,
                answer,
            } => self.directory_answered(to, purpose, answer),
            Event::Source { at, id, input } if self.lives(at) => {
                self.source_input(at.node, id, input)
            }
            Event::Target {
                at,
                id,
                input: input @ (TargetInput::ActivationRecorded | TargetInput::Failed(_)),
            } => self.recorded(at, id, input),
            Event::Target { at, id, input } if self.lives(at) => {
                self.target_input(at.node, id, input)
            }
            Event::Source { .. } | Event::Target { .. } => Ok(()),
            Event::CheckService { at, service } => {
                self.check_again(at, service);
                Ok(())
            }
            Event::Named { node, service } => {
                self.named(node, service);
                Ok(())
            }
            Event::Fault(fault) => self.fault(fault),
            Event::PartitionEnds(a, b) => {
                self.partitions.remove(&(a.min(b), a.max(b)));
                Ok(())
            }
            Event::NodeStarts(node) => self.start_node(node),
            Event::DirectoryCutEnds(node) => {
                self.directory_cuts.remove(&node);
                Ok(())
            }
            Event::DirectoryFullEnds => {
                self.directory_full = false;
                Ok(())
            }
        }
    }

    /// The invariants that can have been broken by what has just happened.
    fn check(&mut self) -> Result<(), Broken> {
        self.checker.at_most_one_serves()?;
        for channel in std::mem::take(&mut self.touched) {
            let end = self
                .clients
                .iter()
                .filter_map(|client| client.open.as_ref())
                .find(|(open, _)| *open == channel);
            let Some((_, end)) = end else { continue };
            for lane in Lane::ALL {
                if let Some(peer) = end.peer() {
                    let freed = self.memory[peer].cursors[lane].done;
                    self.checker.freed(channel, lane, freed)?;
                }
            }
            self.check_replies_kept(channel, end.own)?;
        }
        Ok(())
    }

    /// The service's ring keeps a reply until the client has done with it.
    fn check_replies_kept(&self, channel: Channel, client: HalfId) -> Result<(), Broken> {
        for instance in &self.instances {
            let Some(peer) = instance.ends.get(&channel).and_then(|end| end.peer()) else {
                continue;
            };
            for lane in Lane::ALL {
                let done = self.memory[client].cursors[lane].done;
                let freed = self.memory[peer].cursors[lane].done;
                if freed > done {
                    return Err(format!(
                        "channel {channel} {lane}: replies are freed up to {freed}, \
                         but the client is done up to {done} only"
                    ));
                }
            }
        }
        Ok(())
    }

    pub(crate) fn broken_by(&self, mutation: Mutation) -> bool {
        self.scenario.mutation == Some(mutation)
    }

    pub(crate) fn after(&mut self, event: Event, micros: u64) {
        self.agenda
            .at(self.now + Duration::from_micros(micros), event);
    }

    pub(crate) fn wake(&mut self, owner: Owner) {
        self.agenda.wake(&mut self.rng, self.now, owner);
    }

    /// Rings whoever reads what we have written.
    pub(crate) fn ring(&mut self, peer: Option<HalfId>) {
        if let Some(peer) = peer {
            let owner = self.memory[peer].owner;
            self.wake(owner);
        }
    }

    pub(crate) fn draw(&mut self, range: Range<u64>) -> u64 {
        self.rng.random_range(range)
    }

    pub(crate) fn pick(&mut self, count: usize) -> usize {
        self.rng.random_range(0..count)
    }

    pub(crate) fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }
}
