//! The side that is given the service.
//!
//! Until it is sealed a target may give up whenever it likes. Once it has told the source that it
//! holds everything, the source may commit at any time, and then the target's copy is the service.
//! So a sealed target never drops by itself: it waits for the source's word (`activate` or
//! `abandon`), and if the source is silent it asks it and the directory, again and again, until the
//! directory names this very move or a later owner, or the source says that it gave up.

use std::collections::VecDeque;
use std::time::Duration;

use weft_types::{Epoch, MoveId, NodeName, Refusal, RefusalCode, ServiceName};

use super::{Entry, Limits, MoveFailure, Retry, StateDigest, Step};

/// What a target's driver reports.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum TargetInput {
    /// The source asks for this move's preparation once more: it starts over.
    PrepareAsked,
    /// The instance runs and waits for its state.
    InstanceReady,
    /// Anything came from the source that is no input of its own (a part of the state).
    SourceHeard,
    /// The instance holds the whole state.
    StateStored {
        /// Computed over what it holds.
        digest: StateDigest,
    },
    /// The source says that the commit was taken.
    ActivateAsked,
    /// The source says that the commit was not taken and never will be.
    Abandoned,
    /// The directory's answer to `AskDirectory`. Silence is not reported; it is asked again.
    DirectoryAnswered {
        /// The owner; `None` if the service is unknown to it.
        current: Option<Entry>,
    },
    /// The record of the activation is durable.
    ActivationRecorded,
    /// The instance takes messages.
    Activated,
    /// The action last asked for could not be done.
    Failed(Refusal),
    /// The instance's process has died.
    InstanceDied,
    /// [`MoveTarget::poll_timeout`] has come.
    Timeout,
}

/// What a target's driver has to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum TargetAction {
    /// Start an instance that takes no messages. Answer: `InstanceReady` or `Failed`.
    StartInstance,
    /// Tell the source `Prepared`.
    TellPrepared,
    /// Tell the source `FinalStored`.
    TellStored {
        /// What the target computed.
        digest: StateDigest,
    },
    /// Ask the directory who owns the service. Answer: `DirectoryAnswered`, or nothing.
    AskDirectory,
    /// Ask the source's node whether the move goes on. It answers `Abandoned` if it owns the
    /// service since exactly this move's epoch and knows of no such move, `SourceHeard` if the
    /// move goes on, and nothing otherwise: after a crash it cannot know what it had submitted.
    AskSource,
    /// Write durably that this move was activated here, before a message is taken. Answer:
    /// `ActivationRecorded` or `Failed`.
    RecordActivation,
    /// Let the instance take messages. Answer: `Activated`.
    Activate,
    /// Tell the source `Activated`.
    TellActivated,
    /// Tell the source `NeverActivated`.
    TellNeverActivated,
    /// Tell the source `Superseded`.
    TellSuperseded {
        /// The owner, as the directory said.
        current: Option<Entry>,
    },
    /// Tell the source `Failed`.
    TellFailed(Refusal),
    /// Stop the instance and forget the state.
    DropInstance,
    /// The move is over on this side. The machine goes on to answer `ActivateAsked`, so keep it
    /// while the service lives, or answer from the record of activations.
    Finish(Result<(), MoveFailure>),
}

/// Where a target is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TargetState {
    /// An instance is being started.
    Preparing,
    /// The instance waits for the state, or is getting it.
    Receiving,
    /// Everything is here. The service may already be ours.
    Sealed,
    /// The service is ours; the activation is being written down.
    Recording,
    /// The activation is on record; the instance is being let loose.
    Activating,
    /// The instance serves.
    Active,
    /// The instance is gone, without ever having served.
    Dropped,
}

impl TargetState {
    /// The word that `weft ps` prints.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::Receiving => "receiving",
            Self::Sealed => "sealed",
            Self::Recording | Self::Activating => "activating",
            Self::Active => "active",
            Self::Dropped => "dropped",
        }
    }
}

/// The target's side of one move. See the [module](super) for the rules.
#[derive(Debug)]
pub struct MoveTarget {
    id: MoveId,
    service: ServiceName,
    from: NodeName,
    to: NodeName,
    epoch: Epoch,
    limits: Limits,
    state: TargetState,
    /// Whether this node may have lived through the commit before, and forgotten.
    sent_again: bool,
    /// Why it was dropped, if the directory said so.
    superseded: Option<Option<Entry>>,
    digest: Option<StateDigest>,
    /// The process died while the activation was being written down: what the record says counts.
    died_recording: bool,
    retry: Retry,
    deadline: Option<Duration>,
    actions: VecDeque<TargetAction>,
}

impl MoveTarget {
    /// The source on `from`, owner of `service` since `epoch`, asks `to` (this node) to prepare.
    #[must_use]
    pub fn new(
        id: MoveId,
        service: ServiceName,
        from: NodeName,
        to: NodeName,
        epoch: Epoch,
        now: Duration,
    ) -> Self {
        Self::with_limits(id, service, from, to, epoch, Limits::default(), now)
    }

    /// [`Self::new`], with other limits.
    #[must_use]
    pub fn with_limits(
        id: MoveId,
        service: ServiceName,
        from: NodeName,
        to: NodeName,
        epoch: Epoch,
        limits: Limits,
        now: Duration,
    ) -> Self {
        Self {
            id,
            service,
            from,
            to,
            epoch,
            limits,
            state: TargetState::Preparing,
            sent_again: false,
            superseded: None,
            digest: None,
            died_recording: false,
            retry: Retry::new(&limits),
            deadline: Some(now + limits.silence),
            actions: VecDeque::from([TargetAction::StartInstance]),
        }
    }

    /// The source says that the move is committed and that this node has lost its state.
    ///
    /// The word of the source is not enough then to activate: this node may have registered the
    /// service anew in a former life, and that later epoch may have gone on to another node. The
    /// directory is asked first.
    #[must_use]
    pub const fn sent_again(mut self) -> Self {
        self.sent_again = true;
        self
    }

    /// The move.
    #[must_use]
    pub const fn id(&self) -> MoveId {
        self.id
    }

    /// What moves.
    #[must_use]
    pub const fn service(&self) -> &ServiceName {
        &self.service
    }

    /// The owner before.
    #[must_use]
    pub const fn from(&self) -> &NodeName {
        &self.from
    }

    /// The owner after: this node.
    #[must_use]
    pub const fn to(&self) -> &NodeName {
        &self.to
    }

    /// The epoch of the instance once it serves.
    #[must_use]
    pub const fn epoch_to_be(&self) -> Epoch {
        self.epoch.next()
    }

    /// Where it is.
    #[must_use]
    pub const fn state(&self) -> TargetState {
        self.state
    }

    /// The next thing to do, until there is none.
    pub fn poll_action(&mut self) -> Option<TargetAction> {
        self.actions.pop_front()
    }

    /// When to hand in [`TargetInput::Timeout`] if nothing else happens before.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<Duration> {
        self.deadline
    }

    /// Tells the machine what happened. Take the actions afterwards.
    pub fn handle(&mut self, now: Duration, input: TargetInput) {
        use TargetInput as In;
        use TargetState as State;
        match (self.state, input) {
            (State::Preparing, In::InstanceReady) => {
                self.enter(now, State::Receiving);
                self.actions.push_back(TargetAction::TellPrepared);
            }
            (State::Receiving, In::PrepareAsked) => {
                self.heard(now);
                self.actions.push_back(TargetAction::TellPrepared);
            }
            (State::Receiving, In::StateStored { digest }) => {
                self.digest = Some(digest);
                self.enter(now, State::Sealed);
                self.actions.push_back(TargetAction::TellStored { digest });
            }

            (State::Sealed, In::ActivateAsked) if self.sent_again => {
                self.actions.push_back(TargetAction::AskDirectory);
            }
            (State::Sealed, In::ActivateAsked) => self.record(now),
            (State::Sealed, In::DirectoryAnswered { current }) => self.answered(now, current),
            // On record as activated: it died while it was the service, and the node's rule for a
            // dead service applies. The source has to know that the service is not its own.
            (State::Recording, In::ActivationRecorded) if self.died_recording => self.active(now),
            (State::Activating, In::Activated | In::InstanceDied) => self.active(now),
            (State::Recording, In::InstanceDied) => self.died_recording = true,
            (State::Recording, In::Failed(_)) if self.died_recording => self.lost(),
            (State::Recording, In::ActivationRecorded) => {
                self.enter(now, State::Activating);
                self.actions.push_back(TargetAction::Activate);
            }
            // The disk may have room again later, and until then nobody else can serve.
            (State::Recording, In::Failed(_)) => {
                self.state = State::Sealed;
                self.deadline = Some(self.retry.after(now));
            }

            (State::Preparing | State::Receiving, In::ActivateAsked) => {
                self.heard(now);
                self.actions.push_back(TargetAction::TellNeverActivated);
            }
            // The source acts on something that we said long ago.
            (State::Sealed, In::PrepareAsked) => {
                self.heard(now);
                let digest = self.digest;
                self.actions
                    .extend(digest.map(|digest| TargetAction::TellStored { digest }));
            }
            (State::Active, In::ActivateAsked | In::PrepareAsked) => {
                self.actions.push_back(TargetAction::TellActivated);
            }
            (State::Dropped, In::ActivateAsked) => {
                self.actions.push_back(match &self.superseded {
                    Some(current) => TargetAction::TellSuperseded {
                        current: current.clone(),
                    },
                    None => TargetAction::TellNeverActivated,
                });
            }

            (State::Preparing | State::Receiving | State::Sealed, In::Abandoned) => {
                self.drop_instance(Err(MoveFailure::Cancelled));
            }
            (State::Preparing | State::Receiving, In::Failed(refusal)) => {
                self.actions
                    .push_back(TargetAction::TellFailed(refusal.clone()));
                let step = self.step();
                self.drop_instance(Err(MoveFailure::Refused { step, refusal }));
            }
            (State::Preparing | State::Receiving | State::Sealed, In::InstanceDied) => self.lost(),

            (_, In::Timeout) if self.deadline.is_some_and(|deadline| deadline <= now) => {
                self.timeout(now);
            }
            (_, In::SourceHeard) => self.heard(now),
            _ => {}
        }
        self.check_invariants();
    }

    fn step(&self) -> Step {
        match self.state {
            TargetState::Preparing => Step::Prepare,
            TargetState::Receiving => Step::Final,
            TargetState::Sealed => Step::Commit,
            TargetState::Recording
            | TargetState::Activating
            | TargetState::Active
            | TargetState::Dropped => Step::Activate,
        }
    }

    fn enter(&mut self, now: Duration, state: TargetState) {
        self.state = state;
        self.retry.reset();
        self.deadline = Some(now + self.limits.silence);
    }

    /// The source lives, so there is no need to give up or to ask the directory.
    fn heard(&mut self, now: Duration) {
        if let TargetState::Preparing | TargetState::Receiving | TargetState::Sealed = self.state {
            self.retry.reset();
            self.deadline = Some(now + self.limits.silence);
        }
    }

    fn record(&mut self, now: Duration) {
        self.enter(now, TargetState::Recording);
        self.actions.push_back(TargetAction::RecordActivation);
    }

    /// The instance died and is not on record, so it has never served. If the move is committed, the
    /// source sends the state again.
    fn lost(&mut self) {
        let step = self.step();
        self.actions
            .push_back(TargetAction::TellFailed(Refusal::new(
                RefusalCode::Internal,
                format!("the instance of {} died at the target", self.service),
            )));
        self.drop_instance(Err(MoveFailure::ServiceDied { step }));
    }

    fn active(&mut self, now: Duration) {
        self.enter(now, TargetState::Active);
        self.deadline = None;
        self.actions.push_back(TargetAction::TellActivated);
        self.actions.push_back(TargetAction::Finish(Ok(())));
    }

    fn answered(&mut self, now: Duration, current: Option<Entry>) {
        match &current {
            Some(entry) if entry.by == Some(self.id) => self.record(now),
            // The commit can still come, or the answer is from a reader that lags behind.
            Some(entry) if entry.epoch <= self.epoch => {}
            _ => {
                self.superseded = Some(current.clone());
                self.drop_instance(Err(MoveFailure::Superseded { current }));
            }
        }
    }

    fn timeout(&mut self, now: Duration) {
        match self.state {
            TargetState::Preparing | TargetState::Receiving => {
                let step = self.step();
                let limit = self.limits.silence;
                self.drop_instance(Err(MoveFailure::Deadline { step, limit }));
            }
            TargetState::Sealed => {
                self.deadline = Some(self.retry.after(now));
                self.actions.push_back(TargetAction::AskDirectory);
                self.actions.push_back(TargetAction::AskSource);
            }
            // Our own disk and our own process: they answer, or fail, by themselves.
            TargetState::Recording | TargetState::Activating => {
                self.deadline = Some(now + self.limits.silence);
            }
            TargetState::Active | TargetState::Dropped => self.deadline = None,
        }
    }

    fn drop_instance(&mut self, result: Result<(), MoveFailure>) {
        self.state = TargetState::Dropped;
        self.deadline = None;
        self.digest = None;
        self.actions.push_back(TargetAction::DropInstance);
        self.actions.push_back(TargetAction::Finish(result));
    }

    fn check_invariants(&self) {
        debug_assert_eq!(
            self.deadline.is_none(),
            matches!(self.state, TargetState::Active | TargetState::Dropped),
            "a target that is not done always has something to wait for"
        );
        debug_assert!(
            !matches!(
                self.state,
                TargetState::Sealed
                    | TargetState::Recording
                    | TargetState::Activating
                    | TargetState::Active
            ) || self.digest.is_some(),
            "a target went on without the state"
        );
    }
}

#[cfg(test)]
mod tests;
