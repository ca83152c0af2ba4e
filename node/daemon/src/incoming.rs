//! A move of which this node is the target: does what `weft_protocol::moving::MoveTarget` decides.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, sleep_until, timeout};
use weft_node_control::{
    AttachClient, Caller, ChannelState, DetachClient, Digest, Domain as DomainContract,
    LoadChannels, LoadState, MoveActivate, MoveActivated, MoveChannels, MoveChunk, MoveFinal,
    MovePrepare, MoveStanding, ServiceState,
};
use weft_protocol::moving::{
    Command, DirectoryError, MoveFailure, MoveTarget, StateDigest, Step, TargetAction, TargetInput,
    TargetState,
};
use weft_types::{ChannelId, DomainId, MoveId, NodeName, Refusal, RefusalCode};

use crate::channels::{ATTACH_TIMEOUT, Channel, Party};
use crate::directory::owner;
use crate::durable;
use crate::node::Node;
use crate::recover::Sealed;
use crate::supervisor::{Launched, Service, begin};

/// How long a source's question may wait for the machine's word. The source asks again.
const WORD_TIMEOUT: Duration = Duration::from_secs(12);

/// How many activations are remembered across a restart of this node, the latest of each service's
/// first. A source asks about its latest move only.
const REMEMBERED: usize = 256;

/// How many moves are kept, under way and over. At the bound those that are over go first; if none
/// is, a further one is refused.
const KEPT: usize = 64;

/// How often a client is offered to a service that dies while it arrives.
const MAX_ATTEMPTS: u32 = 20;

/// Between two of these.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// How long a channel that came with a move waits for its client's node, as long as a gateway waits
/// for one that is away.
const ABSENT_FOR: Duration = Duration::from_secs(600);

/// One move of which this node is the target.
pub(crate) struct IncomingMove {
    node: Weak<Node>,
    prepare: MovePrepare,
    service: Rc<Service>,
    inputs: mpsc::UnboundedSender<TargetInput>,
    state: RefCell<TargetState>,
    launched: RefCell<Option<Launched>>,
    /// The channels that came with the state, whole.
    channels: RefCell<BTreeMap<ChannelId, ChannelState>>,
    waiting: RefCell<Waiting>,
    /// The round and piece of state that come next.
    next_piece: Cell<(u32, u32)>,
    /// Whether the machine wants no instance any more.
    dropped: Cell<bool>,
}

/// Who waits for the machine's word, by what they asked.
#[derive(Default)]
struct Waiting {
    prepared: Vec<oneshot::Sender<Result<(), Refusal>>>,
    stored: Vec<oneshot::Sender<Result<StateDigest, Refusal>>>,
    activated: Vec<oneshot::Sender<Result<MoveActivated, Refusal>>>,
}

/// What `moves.json` holds: activations that have happened here, the latest last.
#[derive(Default, Serialize, Deserialize)]
struct Activations {
    moves: Vec<MoveId>,
}

impl Node {
    /// The move whose instance is this process.
    pub(crate) fn incoming_instance(&self, domain: DomainId) -> Option<Rc<IncomingMove>> {
        self.incoming
            .borrow()
            .values()
            .find(|incoming| incoming.instance() == Some(domain))
            .cloned()
    }

    /// A move under way, of which only its source may speak.
    fn incoming_move(&self, id: MoveId, from: &NodeName) -> Result<Rc<IncomingMove>, Refusal> {
        self.incoming
            .borrow()
            .get(&id)
            .filter(|incoming| incoming.prepare.from == *from)
            .cloned()
            .ok_or_else(|| {
                Refusal::new(
                    RefusalCode::Closed,
                    format!("{id} from {from} is not under way on {}", self.name()),
                )
            })
    }

    /// Makes sure that whoever wants to give a service away owns it.
    async fn check_owner(&self, prepare: &MovePrepare) -> Result<(), Refusal> {
        let lookup = Command::Lookup {
            service: prepare.service.clone(),
        };
        let entry = self.directory.apply(lookup).await?.map_err(Refusal::from)?;
        let (owner, epoch) = if prepare.again {
            (self.name(), prepare.epoch.next())
        } else {
            (&prepare.from, prepare.epoch)
        };
        if entry.node == *owner && entry.epoch == epoch {
            return Ok(());
        }
        Err(Refusal::new(
            RefusalCode::Moved,
            format!(
                "{} is owned by {entry}, it is not {}'s to give away",
                prepare.service, prepare.from
            ),
        ))
    }

    /// Step `prepare`: starts an instance that takes no messages.
    pub(crate) async fn move_prepare(self: &Rc<Self>, prepare: MovePrepare) -> Result<(), Refusal> {
        let known = self.incoming.borrow().get(&prepare.id).cloned();
        let incoming = match known {
            Some(incoming) => {
                incoming.input(TargetInput::PrepareAsked);
                incoming
            }
            None => {
                self.check_owner(&prepare).await?;
                self.begin_incoming(prepare)?
            }
        };
        incoming.wait(|waiting| &mut waiting.prepared).await
    }

    fn begin_incoming(self: &Rc<Self>, prepare: MovePrepare) -> Result<Rc<IncomingMove>, Refusal> {
        if self.stopping.get() {
            return Err(Refusal::new(
                RefusalCode::ShuttingDown,
                format!("{} is shutting down", self.name()),
            ));
        }
        let mut kept = self.incoming.borrow_mut();
        if kept.len() >= KEPT {
            kept.retain(|_, old| !old.is_over());
        }
        if kept.len() >= KEPT {
            return Err(Refusal::new(
                RefusalCode::Busy,
                format!("{KEPT} moves to {} are under way", self.name()),
            ));
        }
        drop(kept);
        // One that has failed here is of a former life: the directory names another owner. One whose
        // state is awaited gets it now, or has been overtaken by this move.
        if let Some(there) = self
            .service(&prepare.service)
            .filter(|there| there.state.get() != ServiceState::Failed && !there.awaited.get())
        {
            let what = if there.state.get() == ServiceState::Incoming {
                "arrives on"
            } else {
                "runs on"
            };
            return Err(Refusal::new(
                RefusalCode::Busy,
                format!("{} {what} {} already", prepare.service, self.name()),
            ));
        }
        let service = Rc::new(Service::new(
            prepare.service.clone(),
            prepare.program.clone(),
            ServiceState::Incoming,
            prepare.epoch,
        ));
        self.services
            .borrow_mut()
            .insert(prepare.service.clone(), Rc::clone(&service));
        let (inputs, received) = mpsc::unbounded_channel();
        let machine = MoveTarget::new(
            prepare.id,
            prepare.service.clone(),
            prepare.from.clone(),
            self.name().clone(),
            prepare.epoch,
            Duration::ZERO,
        );
        let machine = if prepare.again {
            machine.sent_again()
        } else {
            machine
        };
        let incoming = Rc::new(IncomingMove {
            node: Rc::downgrade(self),
            service,
            inputs,
            state: RefCell::new(machine.state()),
            launched: RefCell::default(),
            channels: RefCell::default(),
            waiting: RefCell::default(),
            next_piece: Cell::new((0, 0)),
            dropped: Cell::new(false),
            prepare,
        });
        self.incoming
            .borrow_mut()
            .insert(incoming.prepare.id, Rc::clone(&incoming));
        tokio::task::spawn_local(run(Rc::downgrade(&incoming), machine, received));
        Ok(incoming)
    }

    /// Steps `precopy` and `final`: a part of the state.
    pub(crate) async fn move_chunk(
        &self,
        from: &NodeName,
        chunk: MoveChunk,
    ) -> Result<(), Refusal> {
        let incoming = self.incoming_move(chunk.id, from)?;
        incoming.input(TargetInput::SourceHeard);
        incoming.take_turn(chunk.round, chunk.index)?;
        let load = LoadState { bytes: chunk.bytes };
        incoming.ask(self, &load).await.map(|_| ())
    }

    /// Step `final`: a part of the channels.
    pub(crate) async fn move_channels(
        &self,
        from: &NodeName,
        part: MoveChannels,
    ) -> Result<(), Refusal> {
        let incoming = self.incoming_move(part.id, from)?;
        incoming.input(TargetInput::SourceHeard);
        for piece in &part.channels {
            let mut channels = incoming.channels.borrow_mut();
            match channels.get_mut(&piece.channel) {
                Some(known) => known
                    .absorb(piece.clone())
                    .map_err(|error| Refusal::new(RefusalCode::Malformed, error.to_string()))?,
                None => {
                    channels.insert(piece.channel, piece.clone());
                }
            }
        }
        incoming
            .ask(
                self,
                &LoadChannels {
                    channels: part.channels,
                },
            )
            .await
            .map(|_| ())
    }

    /// Step `final`: everything was sent. Gives the digest of what is here.
    pub(crate) async fn move_final(
        &self,
        from: &NodeName,
        last: MoveFinal,
    ) -> Result<StateDigest, Refusal> {
        let incoming = self.incoming_move(last.id, from)?;
        incoming.input(TargetInput::SourceHeard);
        let here = incoming.channels.borrow().len();
        if here != last.channels as usize {
            return Err(Refusal::new(
                RefusalCode::Malformed,
                format!(
                    "{here} channels have come, the source sent {}",
                    last.channels
                ),
            ));
        }
        let state = incoming.ask(self, &Digest {}).await?;
        let digest = digest_of(&state.digest, &incoming.channels.borrow())?;
        *incoming.service.sealed.borrow_mut() = Some(Sealed::of(&incoming.prepare));
        incoming.input(match self.remember_services() {
            Ok(()) => TargetInput::StateStored { digest },
            // After a crash of both sides, nobody would know that the service may be ours.
            Err(refusal) => TargetInput::Failed(refusal),
        });
        incoming.wait(|waiting| &mut waiting.stored).await
    }

    /// Step `activate`: the source says that the commit was taken.
    pub(crate) async fn move_activate(
        &self,
        from: &NodeName,
        activate: &MoveActivate,
    ) -> Result<MoveActivated, Refusal> {
        let Ok(incoming) = self.incoming_move(activate.id, from) else {
            // This daemon was started anew since: what it has written down counts.
            if self.has_activated(activate.id)? {
                return Ok(MoveActivated::Serving);
            }
            // It may have begun another life of the service since: then the old state is worth nothing.
            let lookup = Command::Lookup {
                service: activate.service.clone(),
            };
            let current = self.directory.apply(lookup).await?.ok();
            let ours = current
                .as_ref()
                .is_some_and(|entry| self.is_own(&entry.node) && entry.epoch == activate.epoch);
            return Ok(if ours {
                MoveActivated::Never
            } else {
                MoveActivated::Superseded {
                    owner: current.map(owner),
                }
            });
        };
        incoming.input(TargetInput::ActivateAsked);
        incoming.wait(|waiting| &mut waiting.activated).await
    }

    /// Drops the channels that came with a move and whose clients have not come back.
    async fn forget_absent(&self, service: &Service) {
        sleep(ABSENT_FOR).await;
        for state in service.all_arrived() {
            service.forget_arrived(state.channel);
            let Some(line) = service
                .instance()
                .and_then(|instance| self.domain_line(instance).ok())
            else {
                continue;
            };
            let detach = DetachClient {
                channel: state.channel,
            };
            if let Err(refusal) = line
                .ask::<DomainContract, _>(&detach, &[], ATTACH_TIMEOUT)
                .await
            {
                tracing::debug!(channel = %state.channel, %refusal, "not forgotten");
            }
        }
    }

    /// The source has called the move off.
    pub(crate) fn move_abandon(&self, from: &NodeName, id: MoveId) {
        if let Ok(incoming) = self.incoming_move(id, from) {
            incoming.input(TargetInput::Abandoned);
        }
    }

    fn activations_file(&self) -> std::path::PathBuf {
        self.config.data.join("moves.json")
    }

    /// Whether a move was activated here, in this life of the daemon or a former one.
    pub(crate) fn has_activated(&self, id: MoveId) -> Result<bool, Refusal> {
        let activations: Activations = durable::load(&self.activations_file())?.unwrap_or_default();
        Ok(activations.moves.contains(&id))
    }

    fn record_activation(&self, id: MoveId) -> Result<(), Refusal> {
        let path = self.activations_file();
        let mut activations: Activations = durable::load(&path)?.unwrap_or_default();
        activations.moves.retain(|known| *known != id);
        if activations.moves.len() == REMEMBERED {
            activations.moves.remove(0);
        }
        activations.moves.push(id);
        durable::store(&path, &activations)
    }
}

impl IncomingMove {
    fn instance(&self) -> Option<DomainId> {
        self.launched
            .borrow()
            .as_ref()
            .map(|launched| launched.instance.domain)
    }

    /// Its instance's process has died.
    pub(crate) fn instance_died(&self) {
        self.input(TargetInput::InstanceDied);
    }

    fn is_over(&self) -> bool {
        matches!(
            *self.state.borrow(),
            TargetState::Active | TargetState::Dropped
        )
    }

    fn input(&self, input: TargetInput) {
        // The machine's task ends only with the daemon.
        let _ = self.inputs.send(input);
    }

    /// Waits for the machine's next word of one kind.
    async fn wait<T>(
        &self,
        kind: impl FnOnce(&mut Waiting) -> &mut Vec<oneshot::Sender<Result<T, Refusal>>>,
    ) -> Result<T, Refusal> {
        let (sender, word) = oneshot::channel();
        kind(&mut self.waiting.borrow_mut()).push(sender);
        match timeout(WORD_TIMEOUT, word).await {
            Ok(Ok(word)) => word,
            _ => Err(Refusal::new(
                RefusalCode::DeadlineExceeded,
                format!("{} took too long", self.prepare.id),
            )),
        }
    }

    /// Asks the instance.
    async fn ask<M>(
        &self,
        node: &Node,
        message: &M,
    ) -> Result<<DomainContract as weft_contract::Accepts<M>>::Reply, Refusal>
    where
        M: weft_contract::Message,
        DomainContract: weft_contract::Accepts<M>,
    {
        let instance = self.instance().ok_or_else(|| {
            Refusal::new(
                RefusalCode::Closed,
                format!("{} has no instance", self.prepare.id),
            )
        })?;
        Ok(node
            .domain_line(instance)?
            .ask::<DomainContract, M>(message, &[], ATTACH_TIMEOUT)
            .await?
            .0)
    }

    fn tell<T: Clone>(
        waiting: &mut Vec<oneshot::Sender<Result<T, Refusal>>>,
        word: &Result<T, Refusal>,
    ) {
        for asker in waiting.drain(..) {
            // One that has given up asks again.
            let _ = asker.send(word.clone());
        }
    }

    fn tell_all(&self, refusal: &Refusal) {
        let mut waiting = self.waiting.borrow_mut();
        Self::tell(&mut waiting.prepared, &Err(refusal.clone()));
        Self::tell(&mut waiting.stored, &Err(refusal.clone()));
        Self::tell(&mut waiting.activated, &Err(refusal.clone()));
    }

    /// Pieces of state are changes upon changes, so none may be missing or come twice.
    fn take_turn(&self, round: u32, index: u32) -> Result<(), Refusal> {
        let next = self.next_piece.get();
        let starts_round = index == 0 && round == next.0 + 1;
        if (round, index) != next && !starts_round {
            return Err(Refusal::new(
                RefusalCode::Malformed,
                format!(
                    "piece {index} of round {round} came where piece {} of round {} was due",
                    next.1, next.0
                ),
            ));
        }
        self.next_piece.set((round, index + 1));
        Ok(())
    }

    /// Starts the instance and makes sure that it understands what the old one did.
    async fn start_instance(&self, node: &Rc<Node>) -> Result<(), Refusal> {
        self.channels.borrow_mut().clear();
        self.next_piece.set((0, 0));
        self.dropped.set(false);
        let launched = node
            .launch(&self.prepare.service, &self.prepare.program)
            .await?;
        if let Err(refusal) = launched.check_follows(&self.prepare.types) {
            node.stop_instance(&launched.instance).await;
            let update = format!("{}; update it on {} first", refusal.text, node.name());
            return Err(Refusal::new(refusal.code, update));
        }
        if self.dropped.get() {
            // The move was called off while the instance was being started.
            node.stop_instance(&launched.instance).await;
            return Err(Refusal::new(RefusalCode::Closed, "the move was called off"));
        }
        *self.launched.borrow_mut() = Some(launched);
        Ok(())
    }

    /// Makes the instance the service, and gives it the clients of this node.
    async fn activate(&self, node: &Rc<Node>) -> Result<(), Refusal> {
        let gone = || Refusal::new(RefusalCode::Closed, "the instance has died");
        let service = &self.service;
        let epoch = self.prepare.epoch.next();
        service.owned.set(true);
        service.epoch.set(epoch);
        service.arriving.set(true);
        service.arrive(std::mem::take(&mut *self.channels.borrow_mut()));
        // Should this fail, it is on record as sealed and the move as activated: enough to know it by.
        node.note_services();
        let instance = self.instance();
        if let Some(launched) = self.launched.borrow().as_ref() {
            service.run_by(launched);
        }
        let activated = match instance {
            Some(instance) => node.activate(instance, epoch).await,
            None => Err(gone()),
        };
        match activated {
            Ok(()) => service.state.set(ServiceState::Active),
            // It is ours, and died as it began: it is started again like any other.
            Err(refusal) => {
                node.log.warn(format!(
                    "{} died as it was activated: {refusal}",
                    self.prepare.service
                ));
                if service.state.get() == ServiceState::Incoming
                    && let Some(dead) = instance
                {
                    node.restart(service, dead).await;
                }
            }
        }
        node.log.note(format!(
            "service {} has moved here from {}, {epoch}",
            self.prepare.service, self.prepare.from
        ));
        self.take_clients(node).await;
        service.arriving.set(false);
        let (node, service) = (Rc::clone(node), Rc::clone(service));
        tokio::task::spawn_local(async move { node.forget_absent(&service).await });
        Ok(())
    }

    /// The clients of this node, until now served through the gateway, get the service itself.
    async fn take_clients(&self, node: &Rc<Node>) {
        let target = &self.prepare.service;
        let carried = node
            .channels
            .select(|channel| channel.server_is_gateway() && channel.target == *target);
        join_all(carried.iter().map(|channel| async {
            let taken = match self.service.arrived(channel.id) {
                Some(state) => self.take_client(node, channel, &state).await,
                // The service has never seen it, or has lost it.
                None => Err(Refusal::new(
                    RefusalCode::OutcomeUnknown,
                    format!("{target} came to this node without this channel; open another"),
                )),
            };
            if let Err(refusal) = taken {
                tracing::warn!(channel = %channel.id, %refusal, "a client of this node was not attached");
                node.drop_carried(channel.id, None).await;
                node.close_channel(channel.id, refusal).await;
            }
        }))
        .await;
    }

    /// Gives one client of this node the service itself. If the instance dies meanwhile, its
    /// successor is given to it.
    async fn take_client(
        &self,
        node: &Rc<Node>,
        channel: &Rc<Channel>,
        state: &ChannelState,
    ) -> Result<(), Refusal> {
        node.drop_carried(channel.id, None).await;
        let epoch = self.prepare.epoch.next();
        let mut attempts = 0;
        let (instance, half, side) = loop {
            // A restart holds the gate until the successor is there.
            let gate = self.service.gate.read().await;
            let attached = match self.service.instance() {
                Some(instance) => {
                    let attach = AttachClient {
                        channel: channel.id,
                        caller: Caller {
                            name: state.holder.clone(),
                            node: state.holder_node.clone(),
                        },
                        table: state.table.clone(),
                        epoch,
                        resume: None,
                        ceiling: channel.ceiling,
                    };
                    node.attach_to_service(instance, attach, channel.client_half()?)
                        .await
                        .map(|(half, side)| (instance, half, side))
                }
                None => Err(Refusal::new(RefusalCode::Busy, "the service has died")),
            };
            drop(gate);
            attempts += 1;
            match attached {
                Ok(attached) => break attached,
                Err(refusal) if refusal.code == RefusalCode::Busy && attempts < MAX_ATTEMPTS => {
                    sleep(RETRY_DELAY).await;
                }
                Err(refusal) => return Err(refusal),
            }
        };
        self.service.forget_arrived(channel.id);
        let (node, told) = (Rc::clone(node), Rc::clone(channel));
        begin(async move {
            let (party, here) = (Party::Domain(instance), node.name().clone());
            if let Err(refusal) = node
                .replace_server(&told, party, half, side, here, epoch)
                .await
            {
                tracing::debug!(channel = %told.id, %refusal, "a client has not answered a move");
            }
        });
        Ok(())
    }

    async fn drop_instance(&self, node: &Rc<Node>) {
        self.dropped.set(true);
        let launched = self.launched.borrow_mut().take();
        if let Some(launched) = launched {
            node.stop_instance(&launched.instance).await;
        }
        *self.service.sealed.borrow_mut() = None;
        let mut services = node.services.borrow_mut();
        if services
            .get(&self.prepare.service)
            .is_some_and(|service| Rc::ptr_eq(service, &self.service))
        {
            services.remove(&self.prepare.service);
        }
    }
}

/// Drives the machine for as long as its move is kept: it goes on to answer after the move is over.
async fn run(
    incoming: Weak<IncomingMove>,
    mut machine: MoveTarget,
    mut inputs: mpsc::UnboundedReceiver<TargetInput>,
) {
    let started = Instant::now();
    loop {
        while let Some(action) = machine.poll_action() {
            let Some(incoming) = incoming.upgrade() else {
                return;
            };
            let Some(node) = incoming.node.upgrade() else {
                return;
            };
            act(&incoming, &node, action).await;
        }
        match incoming.upgrade() {
            Some(incoming) => *incoming.state.borrow_mut() = machine.state(),
            None => return,
        }
        let deadline = machine.poll_timeout().map(|at| (started + at).into());
        let input = match deadline {
            Some(deadline) => tokio::select! {
                input = inputs.recv() => input,
                () = sleep_until(deadline) => Some(TargetInput::Timeout),
            },
            None => inputs.recv().await,
        };
        let Some(input) = input else { return };
        machine.handle(started.elapsed(), input);
    }
}

async fn act(incoming: &Rc<IncomingMove>, node: &Rc<Node>, action: TargetAction) {
    // What takes long runs beside the machine, which has to hear other inputs meanwhile.
    let beside = |work: std::pin::Pin<Box<dyn Future<Output = TargetInput>>>| {
        let incoming = Rc::clone(incoming);
        tokio::task::spawn_local(async move { incoming.input(work.await) });
    };
    match action {
        TargetAction::StartInstance => {
            let (incoming, node) = (Rc::clone(incoming), Rc::clone(node));
            beside(Box::pin(async move {
                match incoming.start_instance(&node).await {
                    Ok(()) => TargetInput::InstanceReady,
                    Err(refusal) => TargetInput::Failed(refusal),
                }
            }));
        }
        TargetAction::AskDirectory => {
            let (incoming, node) = (Rc::clone(incoming), Rc::clone(node));
            tokio::task::spawn_local(async move {
                let lookup = Command::Lookup {
                    service: incoming.prepare.service.clone(),
                };
                match node.directory.apply(lookup).await {
                    Ok(Ok(entry)) => incoming.input(TargetInput::DirectoryAnswered {
                        current: Some(entry),
                    }),
                    Ok(Err(DirectoryError::Unknown { .. })) => {
                        incoming.input(TargetInput::DirectoryAnswered { current: None });
                    }
                    // Silence is not reported; the machine asks again.
                    Ok(Err(_)) | Err(_) => {}
                }
            });
        }
        TargetAction::AskSource => {
            let (incoming, node) = (Rc::clone(incoming), Rc::clone(node));
            tokio::task::spawn_local(async move {
                match node
                    .ask_source(&incoming.prepare.service, &Sealed::of(&incoming.prepare))
                    .await
                {
                    Ok(MoveStanding::GoesOn) => incoming.input(TargetInput::SourceHeard),
                    Ok(MoveStanding::Abandoned) => incoming.input(TargetInput::Abandoned),
                    Ok(MoveStanding::Unknown) | Err(_) => {}
                }
            });
        }
        TargetAction::Activate => {
            let (incoming, node) = (Rc::clone(incoming), Rc::clone(node));
            beside(Box::pin(async move {
                match incoming.activate(&node).await {
                    Ok(()) => TargetInput::Activated,
                    Err(refusal) => {
                        tracing::warn!(%refusal, "the moved service died as it began");
                        TargetInput::InstanceDied
                    }
                }
            }));
        }
        TargetAction::RecordActivation => {
            incoming.input(match node.record_activation(incoming.prepare.id) {
                Ok(()) => TargetInput::ActivationRecorded,
                Err(refusal) => TargetInput::Failed(refusal),
            })
        }
        TargetAction::DropInstance => incoming.drop_instance(node).await,
        TargetAction::TellPrepared => {
            IncomingMove::tell(&mut incoming.waiting.borrow_mut().prepared, &Ok(()));
        }
        TargetAction::TellStored { digest } => {
            IncomingMove::tell(&mut incoming.waiting.borrow_mut().stored, &Ok(digest));
        }
        TargetAction::TellActivated => incoming.tell_activation(MoveActivated::Serving),
        TargetAction::TellNeverActivated => incoming.tell_activation(MoveActivated::Never),
        TargetAction::TellSuperseded { current } => {
            incoming.tell_activation(MoveActivated::Superseded {
                owner: current.map(owner),
            });
        }
        TargetAction::TellFailed(refusal) => incoming.tell_all(&refusal),
        TargetAction::Finish(outcome) => {
            if let Err(failure) = outcome {
                node.log.warn(format!(
                    "the move of {} from {} has failed: {failure}",
                    incoming.prepare.service, incoming.prepare.from
                ));
                incoming.tell_all(&Refusal::new(RefusalCode::Closed, failure.to_string()));
                if incoming.may_be_committed(&failure) {
                    node.await_state(&incoming.prepare);
                }
            }
        }
    }
}

impl IncomingMove {
    /// Whether the directory may name this node for a move that has failed here: then this node is
    /// the one that has to see to the service, should its source die as well.
    fn may_be_committed(&self, failure: &MoveFailure) -> bool {
        match failure {
            MoveFailure::Cancelled | MoveFailure::Superseded { .. } => false,
            MoveFailure::ServiceDied {
                step: Step::Commit | Step::Activate,
            } => true,
            _ => self.prepare.again,
        }
    }

    fn tell_activation(&self, word: MoveActivated) {
        Self::tell(&mut self.waiting.borrow_mut().activated, &Ok(word));
    }
}

/// The digest of everything that moves: the service's own digest of its state, and its channels
/// with their cursors and unacknowledged messages.
pub(crate) fn digest_of(
    state: &str,
    channels: &BTreeMap<ChannelId, ChannelState>,
) -> Result<StateDigest, Refusal> {
    let internal =
        |error: &dyn std::fmt::Display| Refusal::new(RefusalCode::Internal, error.to_string());
    let mut bytes = state.as_bytes().to_vec();
    for channel in channels.values() {
        bytes.extend(postcard::to_stdvec(channel).map_err(|error| internal(&error))?);
    }
    read_digest(&weft_contract::digest_hex(&bytes))
}

/// A digest as it travels: 64 hexadecimal digits.
pub(crate) fn read_digest(hex: &str) -> Result<StateDigest, Refusal> {
    let malformed = || Refusal::new(RefusalCode::Malformed, format!("{hex:?} is not a digest"));
    let mut digest = [0; 32];
    if hex.len() != 64 || !hex.is_ascii() {
        return Err(malformed());
    }
    for (at, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).map_err(|_| malformed())?;
    }
    Ok(StateDigest(digest))
}

/// A digest to travel.
pub(crate) fn write_digest(digest: StateDigest) -> String {
    digest.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_comes_back_as_it_left_and_nothing_else_does() {
        let digest = digest_of("state", &BTreeMap::new()).unwrap();
        assert_eq!(read_digest(&write_digest(digest)).unwrap(), digest);
        for bad in ["", "zz", &"g".repeat(64), &"ä".repeat(32)] {
            assert!(read_digest(bad).is_err(), "{bad}");
        }
        assert_ne!(digest, digest_of("other", &BTreeMap::new()).unwrap());
    }
}
