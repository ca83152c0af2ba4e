//! Moves: the real [`MoveSource`] and [`MoveTarget`], and what their driver, the daemon, does.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::time::Duration;

use weft_protocol::moving::{
    Command, Limits, MoveSource, MoveTarget, SourceAction, SourceInput, StateDigest, TargetAction,
    TargetInput, TargetState,
};
use weft_types::{Lane, MoveId, PerLane, Refusal, RefusalCode};

use crate::Mutation;
use crate::channel::RemoteRecord;
use crate::event::{
    Channel, DirectoryAnswer, Event, Instance, Node, NodeLife, Owner, Purpose, Said, Service,
};
use crate::memory::{Broken, End, Memory, Message, settled};
use crate::service::Phase;
use crate::world::World;

/// Shorter than a node's, so that a short run sees them pass.
const LIMITS: Limits = Limits {
    prepare: Duration::from_millis(150),
    precopy: Duration::from_millis(150),
    freeze: Duration::from_millis(60),
    last: Duration::from_millis(150),
    retry_first: Duration::from_millis(20),
    retry_most: Duration::from_millis(200),
    silence: Duration::from_millis(400),
};

/// What travels of one channel.
#[derive(Clone, Debug, Hash)]
pub(crate) struct ChannelImage {
    channel: Channel,
    /// The service's cursor over the client's messages.
    done: PerLane<u64>,
    /// The replies that the client's side has not acknowledged, and the sequence of the first.
    replies: PerLane<(u64, Vec<Message>)>,
}

impl ChannelImage {
    pub(crate) fn of(
        memory: &Memory,
        channel: Channel,
        end: &End,
        forget: bool,
    ) -> Result<Self, Broken> {
        let mut replies = PerLane::<(u64, Vec<Message>)>::default();
        for (lane, replies) in replies.iter_mut() {
            *replies = if forget {
                (memory.published(end.own)[lane], Vec::new())
            } else {
                end.unacknowledged(memory, lane)?
            };
        }
        Ok(Self {
            channel,
            done: memory.done(end.own),
            replies,
        })
    }
}

/// What travels of a service.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) channels: Vec<ChannelImage>,
    pub(crate) state: BTreeMap<(Channel, Lane), u64>,
    pub(crate) complete: bool,
    /// Where each channel's client lives.
    pub(crate) clients: BTreeMap<Channel, NodeLife>,
}

impl Image {
    fn digest(&self) -> StateDigest {
        let mut hasher = DefaultHasher::new();
        self.channels.hash(&mut hasher);
        self.state.hash(&mut hasher);
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&hasher.finish().to_le_bytes());
        StateDigest(digest)
    }
}

/// The source of a move on its node.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) machine: MoveSource,
    pub(crate) service: Service,
    to: Node,
    pub(crate) instance: Instance,
    image: Option<Rc<Image>>,
    timer: Option<Duration>,
}

/// The target of a move on its node.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) machine: MoveTarget,
    pub(crate) service: Service,
    from: Node,
    pub(crate) instance: Instance,
    image: Option<Rc<Image>>,
    timer: Option<Duration>,
}

/// How moves have ended.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Moves {
    /// The service serves at the target.
    pub done: u64,
    /// The service stayed, or was lost with its nodes.
    pub failed: u64,
    /// The state was sent again after the commit.
    pub sent_again: u64,
    /// Submissions of a commit after the first.
    pub asked_again: u64,
}

/// The directory's answers, as inputs of a source.
pub(crate) struct Input;

impl Input {
    pub(crate) fn of_commit(answer: DirectoryAnswer) -> SourceInput {
        match answer {
            DirectoryAnswer::Decided(answer) => SourceInput::of_commit(answer),
            DirectoryAnswer::NotApplied => SourceInput::CommitNotApplied(refusal()),
        }
    }
}

fn refusal() -> Refusal {
    Refusal::new(RefusalCode::Internal, "simulated")
}

impl World {
    /// Somebody asks for a service to be moved, if its node can.
    pub(crate) fn start_move(&mut self) -> Result<(), Broken> {
        let service = self.pick(self.scenario.services);
        let shift = 1 + self.pick(self.nodes.len().max(2) - 1);
        let Some(entry) = self.entry(service) else {
            return Ok(());
        };
        let from = self.node_of(&entry.node);
        let to = (from + shift) % self.nodes.len();
        let moving = self.nodes[from]
            .sources
            .values()
            .any(|source| source.service == service);
        let Some(instance) = self.serving_instance(from, service) else {
            return Ok(());
        };
        if moving || from == to {
            return Ok(());
        }
        let id = MoveId::new(u128::from(self.next_move));
        self.next_move += 1;
        let machine = MoveSource::with_limits(
            id,
            self.service_names[service].clone(),
            self.nodes[from].name.clone(),
            self.nodes[to].name.clone(),
            self.instances[instance].epoch,
            LIMITS,
            self.now,
        );
        let source = Source {
            machine,
            service,
            to,
            instance,
            image: None,
            timer: None,
        };
        self.nodes[from].sources.insert(id, source);
        self.run_source(from, id)
    }

    pub(crate) fn source_input(
        &mut self,
        node: Node,
        id: MoveId,
        input: SourceInput,
    ) -> Result<(), Broken> {
        let now = self.now;
        let Some(source) = self.nodes[node].sources.get_mut(&id) else {
            return Ok(());
        };
        if input == SourceInput::Timeout {
            source.timer = None;
        }
        source.machine.handle(now, input);
        self.run_source(node, id)
    }

    fn run_source(&mut self, node: Node, id: MoveId) -> Result<(), Broken> {
        loop {
            let Some(source) = self.nodes[node].sources.get_mut(&id) else {
                return Ok(());
            };
            let Some(action) = source.machine.poll_action() else {
                // An earlier one than is needed does no harm, and sets the next.
                if let Some(due) = source.machine.poll_timeout()
                    && source.timer.is_none_or(|timer| timer > due)
                {
                    source.timer = Some(due);
                    let at = self.node_life(node);
                    let input = SourceInput::Timeout;
                    self.agenda.at(due, Event::Source { at, id, input });
                }
                return Ok(());
            };
            self.do_source(node, id, action)?;
        }
    }

    fn do_source(&mut self, node: Node, id: MoveId, action: SourceAction) -> Result<(), Broken> {
        let Some(source) = self.nodes[node].sources.get(&id) else {
            return Ok(());
        };
        let (service, to, instance) = (source.service, source.to, source.instance);
        let (epoch, image) = (source.machine.epoch(), source.image.clone());
        let at = self.node_life(node);
        match action {
            SourceAction::AskPrepare { again } => {
                self.moves.sent_again += u64::from(again);
                let said = Said::Prepare {
                    service,
                    from: node,
                    epoch,
                    again,
                };
                self.tell_daemon(node, to, id, said);
            }
            SourceAction::CopyRound { round } => {
                self.tell_daemon(node, to, id, Said::Copy { round });
            }
            SourceAction::Freeze => match self.instances[instance].phase {
                Phase::Serving => self.set_phase(instance, Phase::Freezing)?,
                _ => {
                    let input = SourceInput::Failed(refusal());
                    self.after(Event::Source { at, id, input }, 1);
                }
            },
            SourceAction::SendFinal => {
                if let Some(image) = image {
                    self.tell_daemon(node, to, id, Said::Final { image });
                }
            }
            SourceAction::SubmitCommit(command) => self.submit(at, id, command),
            SourceAction::AskCommit(command) => {
                self.moves.asked_again += 1;
                if self.broken_by(Mutation::ThawInDoubt)
                    && self.instances[instance].phase == Phase::Frozen
                {
                    self.set_phase(instance, Phase::Serving)?;
                }
                self.submit(at, id, command);
            }
            SourceAction::AskActivate => self.tell_daemon(node, to, id, Said::Activate),
            SourceAction::SwapClients => {
                self.swap_clients(node, service)?;
                let input = SourceInput::Swapped;
                self.after(Event::Source { at, id, input }, 200);
            }
            SourceAction::Thaw => {
                if matches!(
                    self.instances[instance].phase,
                    Phase::Freezing | Phase::Frozen
                ) {
                    self.set_phase(instance, Phase::Serving)?;
                }
            }
            SourceAction::Abandon => self.tell_daemon(node, to, id, Said::Abandon),
            SourceAction::Release => {
                self.swap_clients(node, service)?;
                self.set_phase(instance, Phase::Dead)?;
                self.nodes[node].owned.remove(&service);
            }
            SourceAction::Finish(result) => {
                self.nodes[node].sources.remove(&id);
                if result.is_ok() {
                    self.moves.done += 1;
                } else {
                    self.moves.failed += 1;
                    // It may have died while the move kept it from being restarted.
                    self.after(Event::RestartService { at, service }, 1_000);
                }
            }
        }
        Ok(())
    }

    fn submit(&mut self, at: NodeLife, id: MoveId, command: Command) {
        self.ask_directory(at, Purpose::Commit(id), command);
        if self.chance(10) {
            let input = SourceInput::CommitUnknown;
            self.after(Event::Source { at, id, input }, 3_000);
        }
    }

    /// An instance has frozen: its image is taken.
    pub(crate) fn frozen(&mut self, instance: Instance) -> Result<(), Broken> {
        let at = self.instances[instance].at;
        let image = self.image_of(instance)?;
        let digest = image.digest();
        let source = self.nodes[at.node]
            .sources
            .iter_mut()
            .find(|(_, source)| source.instance == instance);
        if let Some((&id, source)) = source
            && source.image.is_none()
        {
            source.image = Some(image);
            let input = SourceInput::Frozen { digest };
            self.after(Event::Source { at, id, input }, 50);
        }
        Ok(())
    }

    /// What another daemon says.
    pub(crate) fn daemon_hears(
        &mut self,
        node: Node,
        from: Node,
        id: MoveId,
        said: Said,
    ) -> Result<(), Broken> {
        if !self.nodes[node].up {
            return Ok(());
        }
        let source = |input| (Some(input), None);
        let target = |input| (None, Some(input));
        let (to_source, to_target) = match said {
            Said::Prepared => source(SourceInput::Prepared),
            Said::Copied { round } => source(SourceInput::RoundCopied { round }),
            Said::Stored { digest } => source(SourceInput::FinalStored { digest }),
            Said::Activated => source(SourceInput::Activated),
            Said::NeverActivated => source(SourceInput::NeverActivated),
            Said::Superseded { current } => source(SourceInput::Superseded { current }),
            Said::Failed => source(SourceInput::Failed(refusal())),
            Said::Abandon => target(TargetInput::Abandoned),
            Said::Going => target(TargetInput::SourceHeard),
            Said::Copy { round } => {
                if self.nodes[node].targets.contains_key(&id) {
                    self.tell_daemon(node, from, id, Said::Copied { round });
                }
                target(TargetInput::SourceHeard)
            }
            Said::Final { image } => return self.store_image(node, id, image),
            Said::Activate => return self.asked_to_activate(node, from, id),
            Said::StillOn {
                service,
                epoch,
                asker,
            } => {
                if self.nodes[node].sources.contains_key(&id) {
                    self.tell_daemon(node, asker, id, Said::Going);
                } else if self.nodes[node]
                    .owned
                    .get(&service)
                    .is_some_and(|owned| owned.epoch == epoch)
                {
                    self.tell_daemon(node, asker, id, Said::Abandon);
                }
                return Ok(());
            }
            Said::Prepare {
                service,
                from,
                epoch,
                again,
            } => return self.asked_to_prepare(node, id, service, from, epoch, again),
        };
        if let Some(input) = to_source {
            self.source_input(node, id, input)?;
        }
        if let Some(input) = to_target {
            self.target_input(node, id, input)?;
        }
        Ok(())
    }

    fn asked_to_prepare(
        &mut self,
        node: Node,
        id: MoveId,
        service: Service,
        from: Node,
        epoch: weft_types::Epoch,
        again: bool,
    ) -> Result<(), Broken> {
        let state = &self.nodes[node];
        if state.disk.contains(&id) {
            self.tell_daemon(node, from, id, Said::Activated);
            return Ok(());
        }
        // A node that registers the service anew must not be given an older life of it as well.
        if state
            .checks
            .get(&service)
            .is_some_and(|check| check.registering)
        {
            return Ok(());
        }
        // It comes back before we have let go of it: the swap of the earlier move is still to do.
        if state
            .sources
            .values()
            .any(|source| source.service == service)
        {
            self.tell_daemon(node, from, id, Said::Failed);
            return Ok(());
        }
        if state
            .owned
            .get(&service)
            .is_some_and(|owned| owned.epoch > epoch)
        {
            let current = self.entry(service);
            self.tell_daemon(node, from, id, Said::Superseded { current });
            return Ok(());
        }
        if let Some(target) = state.targets.get(&id)
            && target.machine.state() != TargetState::Dropped
        {
            return self.target_input(node, id, TargetInput::PrepareAsked);
        }
        let at = self.node_life(node);
        let instance = self.new_instance(at, service, epoch.next(), true);
        let machine = MoveTarget::with_limits(
            id,
            self.service_names[service].clone(),
            self.nodes[from].name.clone(),
            self.nodes[node].name.clone(),
            epoch,
            LIMITS,
            self.now,
        );
        let target = Target {
            machine: if again { machine.sent_again() } else { machine },
            service,
            from,
            instance,
            image: None,
            timer: None,
        };
        self.nodes[node].targets.insert(id, target);
        self.run_target(node, id)
    }

    fn asked_to_activate(&mut self, node: Node, from: Node, id: MoveId) -> Result<(), Broken> {
        let state = &self.nodes[node];
        match state.targets.get(&id) {
            Some(target) => {
                let registering = state
                    .checks
                    .get(&target.service)
                    .is_some_and(|check| check.registering);
                if registering {
                    return Ok(());
                }
                self.target_input(node, id, TargetInput::ActivateAsked)
            }
            None => {
                let said = if state.disk.contains(&id) {
                    Said::Activated
                } else {
                    Said::NeverActivated
                };
                self.tell_daemon(node, from, id, said);
                Ok(())
            }
        }
    }

    /// The state has come: the instance gets its ends, without peers yet.
    fn store_image(&mut self, node: Node, id: MoveId, image: Rc<Image>) -> Result<(), Broken> {
        let Some(target) = self.nodes[node].targets.get_mut(&id) else {
            return Ok(());
        };
        if target.machine.state() != TargetState::Receiving {
            return Ok(());
        }
        let instance = target.instance;
        target.image = Some(image.clone());
        let state = &mut self.instances[instance];
        state.state.clone_from(&image.state);
        state.complete = image.complete;
        state.ends.clear();
        for channel in &image.channels {
            let starts = PerLane::from_fn(|lane| channel.replies[lane].0);
            let half = self
                .memory
                .create(Owner::Instance(instance), starts, settled(channel.done));
            let mut end = End::new(&self.memory, half, Vec::new());
            for (lane, (_, replies)) in channel.replies.iter() {
                for reply in replies {
                    end.replay(&mut self.memory, lane, reply.clone());
                }
            }
            state.ends.insert(channel.channel, end);
        }
        let at = self.node_life(node);
        let digest = image.digest();
        let input = TargetInput::StateStored { digest };
        self.after(Event::Target { at, id, input }, 300);
        Ok(())
    }

    pub(crate) fn target_input(
        &mut self,
        node: Node,
        id: MoveId,
        input: TargetInput,
    ) -> Result<(), Broken> {
        let now = self.now;
        let Some(target) = self.nodes[node].targets.get_mut(&id) else {
            return Ok(());
        };
        if input == TargetInput::Timeout {
            target.timer = None;
        }
        target.machine.handle(now, input);
        self.run_target(node, id)
    }

    fn run_target(&mut self, node: Node, id: MoveId) -> Result<(), Broken> {
        loop {
            let Some(target) = self.nodes[node].targets.get_mut(&id) else {
                return Ok(());
            };
            let Some(action) = target.machine.poll_action() else {
                // An earlier one than is needed does no harm, and sets the next.
                if let Some(due) = target.machine.poll_timeout()
                    && target.timer.is_none_or(|timer| timer > due)
                {
                    target.timer = Some(due);
                    let at = self.node_life(node);
                    let input = TargetInput::Timeout;
                    self.agenda.at(due, Event::Target { at, id, input });
                }
                return Ok(());
            };
            self.do_target(node, id, action)?;
        }
    }

    fn do_target(&mut self, node: Node, id: MoveId, action: TargetAction) -> Result<(), Broken> {
        let Some(target) = self.nodes[node].targets.get(&id) else {
            return Ok(());
        };
        let (service, from, instance) = (target.service, target.from, target.instance);
        let epoch = target.machine.epoch_to_be();
        let at = self.node_life(node);
        let said = match action {
            TargetAction::StartInstance => {
                let delay = self.draw(500..15_000);
                let input = if self.chance(2) {
                    TargetInput::Failed(refusal())
                } else {
                    TargetInput::InstanceReady
                };
                self.after(Event::Target { at, id, input }, delay);
                return Ok(());
            }
            TargetAction::AskDirectory => {
                let command = self.lookup(service);
                self.ask_directory(at, Purpose::Target(id), command);
                return Ok(());
            }
            TargetAction::RecordActivation => {
                let delay = self.draw(200..3_000);
                let input = if self.chance(5) {
                    TargetInput::Failed(refusal())
                } else {
                    TargetInput::ActivationRecorded
                };
                self.after(Event::Target { at, id, input }, delay);
                return Ok(());
            }
            TargetAction::Activate => {
                self.activate(node, id)?;
                let input = TargetInput::Activated;
                self.after(Event::Target { at, id, input }, 100);
                return Ok(());
            }
            TargetAction::DropInstance => {
                if self.instances[instance].phase != Phase::Dead {
                    self.set_phase(instance, Phase::Dead)?;
                }
                self.instances[instance].ends.clear();
                return Ok(());
            }
            TargetAction::Finish(result) => {
                if result.is_ok() && self.instances[instance].phase == Phase::Dead {
                    // It died between the record and its first message: it was the service.
                    self.activate(node, id)?;
                    self.after(Event::RestartService { at, service }, 1_000);
                }
                return Ok(());
            }
            TargetAction::AskSource => Said::StillOn {
                service,
                epoch: weft_types::Epoch::new(epoch.get() - 1),
                asker: node,
            },
            TargetAction::TellPrepared => Said::Prepared,
            TargetAction::TellStored { digest } => {
                if self.broken_by(Mutation::ActivateBeforeCommit) {
                    let input = TargetInput::ActivateAsked;
                    self.after(Event::Target { at, id, input }, 1);
                }
                Said::Stored { digest }
            }
            TargetAction::TellActivated => Said::Activated,
            TargetAction::TellNeverActivated => Said::NeverActivated,
            TargetAction::TellSuperseded { current } => Said::Superseded { current },
            TargetAction::TellFailed(_) => Said::Failed,
        };
        self.tell_daemon(node, from, id, said);
        Ok(())
    }

    /// The record of the activation has reached the disk, or the disk is full.
    pub(crate) fn recorded(
        &mut self,
        at: NodeLife,
        id: MoveId,
        input: TargetInput,
    ) -> Result<(), Broken> {
        if !self.lives(at) {
            return Ok(());
        }
        if input == TargetInput::ActivationRecorded {
            self.nodes[at.node].disk.insert(id);
        }
        self.target_input(at.node, id, input)
    }

    /// The target's instance is the service from now on.
    fn activate(&mut self, node: Node, id: MoveId) -> Result<(), Broken> {
        let Some(target) = self.nodes[node].targets.get(&id) else {
            return Ok(());
        };
        let (service, instance) = (target.service, target.instance);
        let (epoch, image) = (target.machine.epoch_to_be(), target.image.clone());
        self.own(node, service, epoch, instance);
        if self.instances[instance].phase == Phase::Waiting {
            self.set_phase(instance, Phase::Serving)?;
        }
        let Some(image) = image else { return Ok(()) };
        for (&channel, &client) in &image.clients {
            if client.node == node {
                if self.nodes[node].local.contains_key(&channel) {
                    self.attach_local(node, channel)?;
                } else {
                    self.instances[instance].ends.remove(&channel);
                }
            } else if self.nodes[node]
                .peer_boots
                .get(&client.node)
                .is_some_and(|&boot| boot > client.boot)
            {
                self.instances[instance].ends.remove(&channel);
            } else {
                let record = RemoteRecord {
                    service,
                    client,
                    far_half: None,
                };
                self.nodes[node].remote.insert(channel, record);
            }
        }
        Ok(())
    }

    /// The client of a channel of a service on `node`.
    pub(crate) fn client_of(&self, node: Node, channel: Channel) -> Option<NodeLife> {
        let state = &self.nodes[node];
        match state.local.get(&channel) {
            Some(_) => Some(self.node_life(node)),
            None => state.remote.get(&channel).map(|record| record.client),
        }
    }
}
