//! A move of which this node is the source: does what `weft_protocol::moving::MoveSource` decides.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::stream::FuturesOrdered;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{RwLockWriteGuard, mpsc};
use tokio::task::spawn_local;
use tokio::time::{sleep_until, timeout};
use weft_contract::{Accepts, Message};
use weft_node_control::{
    ChannelState, CopyChannels, CopyState, Digest, Domain as DomainContract, Freeze, MoveAbandon,
    MoveActivate, MoveActivated, MoveAsk, MoveChannels, MoveChunk, MoveFinal, MovePrepare,
    MoveReport, MoveStanding, NodeControl, ServiceState, StepTime, Thaw,
};
use weft_protocol::moving::{
    Command, MoveFailure, MoveSource, SourceAction, SourceInput, SourceState, StateDigest,
};
use weft_types::{ChannelId, DomainId, Epoch, MoveId, NodeName, Refusal, RefusalCode, ServiceName};

use crate::channels::ATTACH_TIMEOUT;
use crate::directory::entry;
use crate::incoming::{digest_of, read_digest, write_digest};
use crate::line::Line;
use crate::node::Node;
use crate::supervisor::Service;

/// How long one word to the target may take. The machine has its own, shorter patience.
const WORD_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a move waits until the clients of its node are carried. They are carried all the same.
const SWAP_PATIENCE: Duration = Duration::from_secs(5);

/// How many pieces of state are on their way at once: as many as fit a lane of a channel.
const CHUNKS_UNDER_WAY: usize = 3;

/// One move of which this node is the source.
struct OutgoingMove {
    node: Rc<Node>,
    service: Rc<Service>,
    id: MoveId,
    to: NodeName,
    epoch: Epoch,
    /// The process that is given away.
    instance: DomainId,
    inputs: mpsc::UnboundedSender<SourceInput>,
    /// The channels as they were frozen, in the pieces in which they are sent.
    channels: RefCell<Vec<Vec<ChannelState>>>,
    /// The whole state's digest.
    digest: Cell<Option<StateDigest>>,
    bytes: Cell<u64>,
    moved_channels: Cell<u32>,
}

impl Node {
    /// Moves a service of this node to another.
    ///
    /// # Errors
    ///
    /// `AlreadyThere`, `UnknownNode`, `Busy`; or why the move failed, and what is left.
    pub(crate) async fn migrate(
        self: &Rc<Self>,
        name: &ServiceName,
        to: &NodeName,
    ) -> Result<MoveReport, Refusal> {
        self.known_node(to)?;
        let service = self.service(name).ok_or_else(|| {
            Refusal::new(
                RefusalCode::UnknownService,
                format!("{name} does not run on {}", self.name()),
            )
        })?;
        if self.is_own(to) {
            return Err(Refusal::new(
                RefusalCode::AlreadyThere,
                format!("{name} is on {to} already"),
            ));
        }
        if service.moving.get().is_some()
            || service.arriving.get()
            || service.state.get() != ServiceState::Active
        {
            return Err(Refusal::new(
                RefusalCode::Busy,
                format!(
                    "{name} is being moved or started; try again when `weft ps` shows it active"
                ),
            ));
        }
        let instance = service.instance().ok_or_else(|| {
            Refusal::new(RefusalCode::Busy, format!("{name} is being started again"))
        })?;
        let id = MoveId::random();
        service.moving.set(Some(id));
        *service.detail.borrow_mut() = format!("is being moved to {to}");
        let report = self.move_out(&service, id, instance, to).await;
        service.detail.borrow_mut().clear();
        service.moving.set(None);
        if report.is_err() && service.instance().is_none() && self.service(name).is_some() {
            // It died under the move, and it is still ours.
            self.restart(&service, instance).await;
        }
        match &report {
            Ok(report) => {
                self.log.note(format!(
                    "service {name} has moved to {to}, {}, blackout {:.1} ms",
                    report.epoch, report.blackout_ms
                ));
            }
            Err(refusal) => self
                .log
                .warn(format!("the move of {name} to {to} has failed: {refusal}")),
        }
        report
    }

    /// How this node stands to a move of which it was the source.
    pub(crate) fn move_standing(&self, ask: &MoveAsk) -> MoveStanding {
        match self.service(&ask.service) {
            Some(service) if service.moving.get() == Some(ask.id) => MoveStanding::GoesOn,
            Some(service)
                if service.epoch.get() == ask.epoch
                    && service.moving.get().is_none()
                    && service.state.get() == ServiceState::Active =>
            {
                MoveStanding::Abandoned
            }
            _ => MoveStanding::Unknown,
        }
    }

    async fn move_out(
        self: &Rc<Self>,
        service: &Rc<Service>,
        id: MoveId,
        instance: DomainId,
        to: &NodeName,
    ) -> Result<MoveReport, Refusal> {
        // A death that was rung before this move began is not this move's.
        let _ = service.died.notified().now_or_never();
        let (inputs, received) = mpsc::unbounded_channel();
        let outgoing = Rc::new(OutgoingMove {
            node: Rc::clone(self),
            service: Rc::clone(service),
            id,
            to: to.clone(),
            epoch: service.epoch.get(),
            instance,
            inputs,
            channels: RefCell::default(),
            digest: Cell::new(None),
            bytes: Cell::new(0),
            moved_channels: Cell::new(0),
        });
        outgoing.run(received).await
    }
}

/// Work that ends in an input for the machine.
type Work = Pin<Box<dyn Future<Output = SourceInput>>>;

impl OutgoingMove {
    async fn run(
        self: Rc<Self>,
        mut inputs: mpsc::UnboundedReceiver<SourceInput>,
    ) -> Result<MoveReport, Refusal> {
        let started = Instant::now();
        let mut frozen_at = None;
        let mut machine = MoveSource::new(
            self.id,
            self.service.name.clone(),
            self.node.name().clone(),
            self.to.clone(),
            self.epoch,
            Duration::ZERO,
        );
        // From `freeze` on nobody opens a channel until it is clear where the service lives.
        let mut gate: Option<RwLockWriteGuard<'_, ()>> = None;
        loop {
            while let Some(action) = machine.poll_action() {
                if matches!(action, SourceAction::Freeze) && gate.is_none() {
                    gate = Some(self.service.gate.write().await);
                    frozen_at = Some(Instant::now());
                }
                if let SourceAction::Finish(outcome) = action {
                    drop(gate);
                    let blackout = frozen_at.map_or(Duration::ZERO, |at: Instant| at.elapsed());
                    return outcome
                        .map(|()| self.report(&machine, blackout))
                        .map_err(|failure| self.refusal(failure));
                }
                self.act(action).await;
            }
            self.show(machine.state());
            let deadline = machine.poll_timeout().map(|at| (started + at).into());
            let timeout = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            let input = tokio::select! {
                Some(input) = inputs.recv() => input,
                () = self.service.died.notified() => SourceInput::ServiceDied,
                () = timeout => SourceInput::Timeout,
            };
            machine.handle(started.elapsed(), input);
        }
    }

    /// Shows in `weft ps` where the move is.
    fn show(&self, state: SourceState) {
        let shown = match state {
            SourceState::Serving => ServiceState::Active,
            SourceState::Frozen => ServiceState::Frozen,
            SourceState::Committing => ServiceState::Committing,
            SourceState::Given | SourceState::Over => return,
        };
        self.service.state.set(shown);
    }

    async fn act(self: &Rc<Self>, action: SourceAction) {
        let this = Rc::clone(self);
        let work: Work = match action {
            SourceAction::AskPrepare { again } => Box::pin(async move {
                this.or_failed(this.prepare(again), SourceInput::Prepared)
                    .await
            }),
            SourceAction::CopyRound { round } => Box::pin(async move {
                this.or_failed(this.copy(round, false), SourceInput::RoundCopied { round })
                    .await
            }),
            SourceAction::Freeze => Box::pin(async move {
                match this.freeze().await {
                    Ok(digest) => SourceInput::Frozen { digest },
                    Err(refusal) => SourceInput::Failed(refusal),
                }
            }),
            SourceAction::SendFinal => Box::pin(async move {
                match this.send_final().await {
                    Ok(digest) => SourceInput::FinalStored { digest },
                    Err(refusal) => SourceInput::Failed(refusal),
                }
            }),
            SourceAction::SubmitCommit(command) | SourceAction::AskCommit(command) => {
                Box::pin(async move { this.commit(command).await })
            }
            SourceAction::AskActivate => Box::pin(async move {
                match this.activate().await {
                    Ok(MoveActivated::Serving) => SourceInput::Activated,
                    Ok(MoveActivated::Never) => SourceInput::NeverActivated,
                    Ok(MoveActivated::Superseded { owner }) => SourceInput::Superseded {
                        current: owner.map(entry),
                    },
                    Err(refusal) => SourceInput::Failed(refusal),
                }
            }),
            SourceAction::SwapClients => Box::pin(async move {
                this.swap_clients().await;
                SourceInput::Swapped
            }),
            // These end a move, in this order; the last word comes after them.
            SourceAction::Thaw => return self.thaw().await,
            SourceAction::Abandon => return self.abandon(),
            SourceAction::Release => return self.release().await,
            SourceAction::Finish(_) => return,
        };
        let inputs = self.inputs.clone();
        tokio::task::spawn_local(async move {
            // A move that is over hears nothing any more.
            let _ = inputs.send(work.await);
        });
    }

    async fn or_failed(
        &self,
        work: impl Future<Output = Result<(), Refusal>>,
        done: SourceInput,
    ) -> SourceInput {
        match work.await {
            Ok(()) => done,
            Err(refusal) => SourceInput::Failed(refusal),
        }
    }

    /// Asks the instance that is given away.
    async fn ask<M>(&self, message: &M) -> Result<<DomainContract as Accepts<M>>::Reply, Refusal>
    where
        M: Message,
        DomainContract: Accepts<M>,
    {
        let line = self.node.domain_line(self.instance)?;
        Ok(line
            .ask::<DomainContract, M>(message, &[], ATTACH_TIMEOUT)
            .await?
            .0)
    }

    /// Says something to the target's daemon.
    async fn say<M>(
        &self,
        target: &Line,
        message: &M,
    ) -> Result<<NodeControl as Accepts<M>>::Reply, Refusal>
    where
        M: Message,
        NodeControl: Accepts<M>,
    {
        Ok(target
            .ask::<NodeControl, M>(message, &[], WORD_TIMEOUT)
            .await?
            .0)
    }

    async fn prepare(&self, again: bool) -> Result<(), Refusal> {
        // Asked now, while the service still serves, so that the commit finds the way open; and if
        // the directory cannot be reached, the move ends before it has cost anything.
        let lookup = Command::Lookup {
            service: self.service.name.clone(),
        };
        self.node
            .directory
            .apply(lookup)
            .await?
            .map_err(Refusal::from)?;
        let target = self.node.kernel(&self.to).await?;
        let description = self.service.description.borrow().clone();
        let types = description.map(|description| description.table());
        let types = types.ok_or_else(|| {
            Refusal::new(RefusalCode::Internal, "a service without a description")
        })?;
        let prepare = MovePrepare {
            id: self.id,
            service: self.service.name.clone(),
            types,
            program: self.service.program.clone(),
            from: self.node.name().clone(),
            epoch: self.epoch,
            again,
        };
        self.say(&target, &prepare).await.map(|_| ())
    }

    /// Copies one round of the state. A few pieces are under way at once; the target takes them in
    /// order, and refuses one that comes out of turn.
    async fn copy(&self, round: u32, last_round: bool) -> Result<(), Refusal> {
        let target = self.node.kernel(&self.to).await?;
        let mut under_way = FuturesOrdered::new();
        for index in 0.. {
            let chunk = self
                .ask(&CopyState {
                    round,
                    index,
                    last_round,
                })
                .await?;
            if !chunk.bytes.is_empty() {
                self.bytes.set(self.bytes.get() + chunk.bytes.len() as u64);
                let chunk = MoveChunk {
                    id: self.id,
                    round,
                    index,
                    bytes: chunk.bytes,
                };
                let target = target.clone();
                under_way.push_back(async move { self.say(&target, &chunk).await });
            }
            while under_way.len() > if chunk.last { 0 } else { CHUNKS_UNDER_WAY } {
                if let Some(stored) = under_way.next().await {
                    stored?;
                }
            }
            if chunk.last {
                break;
            }
        }
        Ok(())
    }

    /// Step `freeze`, and what is to be sent at the end: channels, and the digest of everything.
    async fn freeze(&self) -> Result<StateDigest, Refusal> {
        let frozen = self.ask(&Freeze {}).await?;
        let state = self.ask(&Digest {}).await?;
        let mut parts = Vec::new();
        let mut whole: BTreeMap<ChannelId, ChannelState> = BTreeMap::new();
        for index in 0.. {
            let part = self.ask(&CopyChannels { index }).await?;
            for piece in &part.channels {
                match whole.get_mut(&piece.channel) {
                    Some(known) => known
                        .absorb(piece.clone())
                        .map_err(|error| Refusal::new(RefusalCode::Internal, error.to_string()))?,
                    None => {
                        whole.insert(piece.channel, piece.clone());
                    }
                }
            }
            parts.push(part.channels);
            if part.last {
                break;
            }
        }
        if whole.len() != frozen.channels as usize {
            return Err(Refusal::new(
                RefusalCode::Internal,
                format!(
                    "{} of {} channels were handed out",
                    whole.len(),
                    frozen.channels
                ),
            ));
        }
        let digest = digest_of(&state.digest, &whole)?;
        self.moved_channels
            .set(u32::try_from(whole.len()).unwrap_or(u32::MAX));
        self.digest.set(Some(digest));
        *self.channels.borrow_mut() = parts;
        Ok(digest)
    }

    /// Step `final`: what changed since the copy, then the channels, then the question whether the
    /// target holds the same.
    async fn send_final(&self) -> Result<StateDigest, Refusal> {
        self.copy(1, true).await?;
        let target = self.node.kernel(&self.to).await?;
        let parts = self.channels.borrow().clone();
        let count = u32::try_from(parts.len()).unwrap_or(u32::MAX);
        for (index, channels) in (0..).zip(parts) {
            self.say(
                &target,
                &MoveChannels {
                    id: self.id,
                    index,
                    channels,
                },
            )
            .await?;
        }
        let digest = self.digest.get().map(write_digest).unwrap_or_default();
        let last = MoveFinal {
            id: self.id,
            parts: count,
            channels: self.moved_channels.get(),
            digest,
        };
        let ready = self.say(&target, &last).await?;
        read_digest(&ready.digest)
    }

    async fn commit(&self, command: Command) -> SourceInput {
        match self.node.directory.apply(command).await {
            Ok(decision) => SourceInput::of_commit(decision),
            // It could not write it down, so it has not happened.
            Err(refusal) if refusal.code == RefusalCode::Storage => {
                SourceInput::CommitNotApplied(refusal)
            }
            Err(refusal) => {
                self.node.log.warn(format!(
                    "whether {} was given to {} is not known, so it stays frozen until the directory answers: {refusal}",
                    self.service.name, self.to
                ));
                SourceInput::CommitUnknown
            }
        }
    }

    async fn activate(&self) -> Result<MoveActivated, Refusal> {
        let target = self.node.kernel(&self.to).await?;
        self.say(
            &target,
            &MoveActivate {
                id: self.id,
                service: self.service.name.clone(),
                epoch: self.epoch.next(),
            },
        )
        .await
    }

    /// Step `swap`: clients of this node are carried to the new home, those of other nodes are told
    /// by their gateways.
    async fn swap_clients(&self) {
        let epoch = self.epoch.next();
        for channel in self
            .node
            .channels
            .select(|channel| channel.server_is(self.instance))
        {
            if channel.client_is_gateway() {
                self.node.channels.remove(channel.id);
                continue;
            }
            // Only written down here, and at once: whichever gateway runs next finds it, too.
            channel.leads_away(self.to.clone(), epoch);
        }
        let carrying = timeout(
            SWAP_PATIENCE,
            spawn_local(Rc::clone(&self.node).carry_all()),
        );
        let telling = self.node.tell_moved(&self.service.name, &self.to, epoch);
        let (carried, told) = tokio::join!(carrying, telling);
        if carried.is_err() {
            tracing::warn!(service = %self.service.name, "clients of a moved service still wait for the gateway");
        }
        if let Err(refusal) = told {
            // Their gateways find out when they ask for the epoch that is no more.
            tracing::warn!(%refusal, "the gateway was not told of the move");
        }
    }

    async fn thaw(&self) {
        self.service.state.set(ServiceState::Active);
        if let Err(refusal) = self.ask(&Thaw {}).await {
            self.node.log.warn(format!(
                "{} could not be thawed: {refusal}",
                self.service.name
            ));
        }
    }

    /// Tells the target, which drops by itself if it does not hear this.
    fn abandon(&self) {
        let (node, to, id) = (Rc::clone(&self.node), self.to.clone(), self.id);
        tokio::task::spawn_local(async move {
            if let Ok(target) = node.kernel(&to).await
                && let Err(refusal) = target
                    .ask::<NodeControl, _>(&MoveAbandon { id }, &[], WORD_TIMEOUT)
                    .await
            {
                tracing::debug!(%refusal, "the target was not told that the move is off");
            }
        });
    }

    /// Stops the old instance, and forgets the service.
    async fn release(&self) {
        let instance = self.node.take_instance(&self.service);
        self.service.state.set(ServiceState::Stopping);
        let mut services = self.node.services.borrow_mut();
        if services
            .get(&self.service.name)
            .is_some_and(|own| Rc::ptr_eq(own, &self.service))
        {
            services.remove(&self.service.name);
        }
        drop(services);
        self.node.note_services();
        if let Some(instance) = instance {
            let node = Rc::clone(&self.node);
            tokio::task::spawn_local(async move { node.stop_instance(&instance).await });
        }
    }

    fn report(&self, machine: &MoveSource, blackout: Duration) -> MoveReport {
        let milliseconds = |took: Duration| took.as_secs_f64() * 1e3;
        MoveReport {
            service: self.service.name.clone(),
            from: self.node.name().clone(),
            to: self.to.clone(),
            epoch: self.epoch.next(),
            steps_ms: machine
                .times()
                .iter()
                .map(|(step, took)| StepTime {
                    step: step.name().to_owned(),
                    milliseconds: milliseconds(took),
                })
                .collect(),
            bytes: self.bytes.get(),
            channels: self.moved_channels.get(),
            blackout_ms: milliseconds(blackout),
        }
    }

    /// A failed move, for who asked for it: what happened, and where the service is now.
    fn refusal(&self, failure: MoveFailure) -> Refusal {
        let (name, here) = (&self.service.name, self.node.name());
        let code = match &failure {
            MoveFailure::Refused { refusal, .. } => refusal.code,
            MoveFailure::Deadline { .. } => RefusalCode::DeadlineExceeded,
            MoveFailure::Cancelled => RefusalCode::Closed,
            MoveFailure::ServiceDied { .. } => RefusalCode::Unreachable,
            MoveFailure::Superseded { .. } => RefusalCode::Moved,
            MoveFailure::Digest { .. } | MoveFailure::StateLost => RefusalCode::Internal,
        };
        let now = match &failure {
            MoveFailure::Refused { .. }
            | MoveFailure::Deadline { .. }
            | MoveFailure::Digest { .. }
            | MoveFailure::Cancelled => format!("; {name} serves on {here} as before"),
            MoveFailure::ServiceDied { .. } => format!("; {name} is started again on {here}"),
            MoveFailure::Superseded { .. } | MoveFailure::StateLost => String::new(),
        };
        Refusal::new(
            code,
            format!("{name} was not moved to {}: {failure}{now}", self.to),
        )
    }
}
