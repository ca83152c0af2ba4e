//! The side that gives the service away.
//!
//! Three stretches, and what a failure means in each:
//!
//! 1. `prepare` to `final`: the source owns the service. Anything that goes wrong, or takes too
//!    long, ends in `Thaw` and `Abandon`.
//! 2. `commit`, from the submission until its outcome is known: the source may or may not own the
//!    service, so it stays frozen and submits the same commit again until it is answered. Asking
//!    "did it happen?" instead would not do: a no could be overtaken by a submission still on the
//!    way. The answer to the same commit is final either way, since the directory knows it by its
//!    id and epochs only grow.
//! 3. `activate` and `swap`: the target owns the service. The source keeps the frozen state until
//!    the target has said `Activated`; if the target says that it lost the state and never
//!    activated, it is sent again under the same move.

use std::collections::VecDeque;
use std::time::Duration;

use weft_types::{Epoch, MoveId, NodeName, Refusal, ServiceName};

use super::{
    Command, DirectoryError, Entry, Limits, MoveFailure, Retry, StateDigest, Step, StepTimes,
};

/// What a source's driver reports.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SourceInput {
    /// The target has an instance that waits.
    Prepared,
    /// This round of copying has arrived at the target.
    RoundCopied {
        /// Counted from 0.
        round: u32,
    },
    /// No handler runs and none will; this is the digest of what is to be sent.
    Frozen {
        /// Over state, cursors and unacknowledged messages.
        digest: StateDigest,
    },
    /// The target has everything.
    FinalStored {
        /// What the target computed over it.
        digest: StateDigest,
    },
    /// The directory has taken the commit.
    Committed,
    /// The directory has answered the commit with a refusal by its rules.
    CommitRefused {
        /// The owner it named; `None` if the service is unknown to it.
        current: Option<Entry>,
    },
    /// The directory says for certain that this one submission was not applied and will not be
    /// (its disk is full, say). Only for an answer, never for silence.
    CommitNotApplied(Refusal),
    /// No answer to the commit: the connection broke, or the directory could not tell.
    CommitUnknown,
    /// The target serves.
    Activated,
    /// The target says that it has no state for this move and has never activated it: its
    /// instance died while it was sealed, or its node came back without a record of the move.
    NeverActivated,
    /// The target says that the directory names a later owner than this move makes.
    Superseded {
        /// The owner, as the target read it.
        current: Option<Entry>,
    },
    /// Clients at home and away have been pointed at the new owner.
    Swapped,
    /// The action last asked for could not be done: the target refused or cannot be reached, or
    /// the service could not freeze.
    Failed(Refusal),
    /// The service's process at the source has died.
    ServiceDied,
    /// Somebody wants the move to end.
    Cancel,
    /// [`MoveSource::poll_timeout`] has come.
    Timeout,
}

impl SourceInput {
    /// The directory's answer to a commit, as an input.
    #[must_use]
    pub fn of_commit(answer: Result<Entry, DirectoryError>) -> Self {
        match answer {
            Ok(_) => Self::Committed,
            Err(DirectoryError::Moved { current, .. }) => Self::CommitRefused {
                current: Some(current),
            },
            Err(DirectoryError::Unknown { .. }) => Self::CommitRefused { current: None },
            Err(error @ (DirectoryError::AlreadyThere { .. } | DirectoryError::Full)) => {
                Self::CommitNotApplied(error.into())
            }
        }
    }
}

/// What a source's driver has to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SourceAction {
    /// Ask the target to prepare. Answer: `Prepared` or `Failed`.
    AskPrepare {
        /// The move is committed, and the target lost the state. It starts over under the same id,
        /// with [`MoveTarget::sent_again`](super::MoveTarget::sent_again).
        again: bool,
    },
    /// Copy the state. Answer: `RoundCopied` or `Failed`.
    CopyRound {
        /// Counted from 0.
        round: u32,
    },
    /// Let the handler in flight end and take no more. Answer: `Frozen` or `Failed`.
    Freeze,
    /// Send what is missing at the target. Answer: `FinalStored` or `Failed`.
    SendFinal,
    /// Submit this commit. Answer: one of the `Commit..` inputs or `Committed`.
    SubmitCommit(Command),
    /// Submit the same commit once more, since the outcome is not known. Answers as before.
    AskCommit(Command),
    /// Tell the target that it owns the service. Answer: `Activated`, `NeverActivated` or
    /// `Superseded`; silence is asked again.
    AskActivate,
    /// Point the clients at the new owner. Answer: `Swapped`. May be asked again.
    SwapClients,
    /// Serve again.
    Thaw,
    /// Tell the target to drop what it has.
    Abandon,
    /// Stop the old instance: it does not own the service any more.
    Release,
    /// The move is over; the last action. After an error without `Thaw` before it the service
    /// does not run here.
    Finish(Result<(), MoveFailure>),
}

/// What a move looks like from outside, for `weft ps`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SourceState {
    /// The source owns the service and serves.
    Serving,
    /// The source owns the service, which takes no messages.
    Frozen,
    /// The commit is submitted and its outcome not known. The service takes no messages until the
    /// directory has answered.
    Committing,
    /// The target owns the service.
    Given,
    /// The move is over.
    Over,
}

impl SourceState {
    /// The word that `weft ps` prints.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Frozen => "frozen",
            Self::Committing => "committing",
            Self::Given => "given",
            Self::Over => "over",
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    Preparing,
    Copying { round: u32 },
    Freezing,
    Sending,
    Committing,
    Activating,
    Swapping,
    Over,
}

/// The source's side of one move. See the [module](super) for the rules.
#[derive(Debug)]
pub struct MoveSource {
    id: MoveId,
    service: ServiceName,
    from: NodeName,
    to: NodeName,
    epoch: Epoch,
    limits: Limits,
    phase: Phase,
    /// Whether `Freeze` was asked for: then a failure before the commit owes a `Thaw`.
    freezing: bool,
    /// Whether the target owns the service. Earlier phases can then come again, to send the state
    /// to a target that lost it, and nothing in them can abort.
    committed: bool,
    /// Submissions of the commit that nobody has said no to. With one of these the commit can
    /// still happen.
    open_submissions: u64,
    digest: Option<StateDigest>,
    service_alive: bool,
    cancel_wanted: bool,
    retry: Retry,
    /// When to do something if nothing is heard.
    deadline: Option<Duration>,
    step_since: Duration,
    times: StepTimes,
    ended_in: Step,
    actions: VecDeque<SourceAction>,
}

impl MoveSource {
    /// Begins a move of `service`, which `from` owns since `epoch`, to `to`. The first action waits.
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
            phase: Phase::Preparing,
            freezing: false,
            committed: false,
            open_submissions: 0,
            digest: None,
            service_alive: true,
            cancel_wanted: false,
            retry: Retry::new(&limits),
            deadline: Some(now + limits.prepare),
            step_since: now,
            times: StepTimes::default(),
            ended_in: Step::Prepare,
            actions: VecDeque::from([SourceAction::AskPrepare { again: false }]),
        }
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

    /// The owner after.
    #[must_use]
    pub const fn to(&self) -> &NodeName {
        &self.to
    }

    /// The epoch that the move ends; the target's is the next.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The step that the move is in (or ended in).
    #[must_use]
    pub const fn step(&self) -> Step {
        match self.phase {
            Phase::Over => self.ended_in,
            Phase::Swapping => Step::Swap,
            // The state is sent again: to its owner, so this is part of activating.
            _ if self.committed => Step::Activate,
            Phase::Preparing => Step::Prepare,
            Phase::Copying { .. } => Step::Precopy,
            Phase::Freezing => Step::Freeze,
            Phase::Sending => Step::Final,
            Phase::Committing => Step::Commit,
            Phase::Activating => Step::Activate,
        }
    }

    /// How long each step took until now.
    #[must_use]
    pub const fn times(&self) -> &StepTimes {
        &self.times
    }

    /// What an operator sees.
    #[must_use]
    pub const fn state(&self) -> SourceState {
        match self.phase {
            Phase::Over => SourceState::Over,
            Phase::Committing => SourceState::Committing,
            _ if self.committed => SourceState::Given,
            _ if self.freezing => SourceState::Frozen,
            _ => SourceState::Serving,
        }
    }

    /// The next thing to do, until there is none.
    pub fn poll_action(&mut self) -> Option<SourceAction> {
        self.actions.pop_front()
    }

    /// When to hand in [`SourceInput::Timeout`] if nothing else happens before.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<Duration> {
        self.deadline
    }

    /// Tells the machine what happened. Take the actions afterwards.
    pub fn handle(&mut self, now: Duration, input: SourceInput) {
        use SourceInput as In;
        match (self.phase, input) {
            (Phase::Over, _) => {}
            (_, In::ServiceDied) => self.service_died(now),
            (_, In::Cancel) => {
                self.cancel_wanted = true;
                if self.may_abort() {
                    self.abort(now, MoveFailure::Cancelled);
                }
            }
            (_, In::Timeout) if self.deadline.is_some_and(|deadline| deadline <= now) => {
                self.timeout(now);
            }
            (_, In::Failed(refusal)) => self.failed(now, refusal),

            (Phase::Preparing, In::Prepared) => {
                self.enter(now, Phase::Copying { round: 0 });
                self.actions.push_back(SourceAction::CopyRound { round: 0 });
            }
            (Phase::Copying { round }, In::RoundCopied { round: copied }) if round == copied => {
                // One round for now; further rounds would follow here until one is small enough.
                if self.committed {
                    self.enter(now, Phase::Sending);
                    self.actions.push_back(SourceAction::SendFinal);
                } else {
                    self.freezing = true;
                    self.enter(now, Phase::Freezing);
                    self.actions.push_back(SourceAction::Freeze);
                }
            }
            (Phase::Freezing, In::Frozen { digest }) => {
                self.digest = Some(digest);
                self.enter(now, Phase::Sending);
                self.actions.push_back(SourceAction::SendFinal);
            }
            (Phase::Sending, In::FinalStored { digest }) => self.stored(now, digest),
            // Sending again, to a target that turns out to have it.
            (Phase::Preparing | Phase::Copying { .. }, In::FinalStored { digest })
                if self.committed =>
            {
                self.stored(now, digest);
            }

            (Phase::Committing, In::Committed) => {
                self.committed = true;
                self.enter(now, Phase::Activating);
                self.actions.push_back(SourceAction::AskActivate);
            }
            (Phase::Committing, In::CommitRefused { current }) => self.refused(now, current),
            (Phase::Committing, In::CommitNotApplied(refusal)) => self.not_applied(now, refusal),
            // The time set for the answer also sets when to ask again: an early "unknown" must not
            // make us hammer a directory that is in trouble.
            (Phase::Committing, In::CommitUnknown) => {}

            // A target that serves needs nothing more from us, wherever we think we are.
            (_, In::Activated) if self.committed && self.phase != Phase::Swapping => {
                self.enter(now, Phase::Swapping);
                self.actions.push_back(SourceAction::SwapClients);
            }
            (Phase::Activating, In::NeverActivated) => self.send_again(now),
            (Phase::Activating | Phase::Preparing, In::Superseded { current })
                if self.committed =>
            {
                self.superseded(now, current);
            }
            (Phase::Swapping, In::Swapped) => {
                self.actions.push_back(SourceAction::Release);
                self.finish(now, Ok(()));
            }
            _ => {}
        }
        self.check_invariants();
    }

    fn may_abort(&self) -> bool {
        !self.committed && self.open_submissions == 0
    }

    /// Ends the current step and begins the next.
    fn enter(&mut self, now: Duration, phase: Phase) {
        self.end_step(now);
        self.phase = phase;
        self.retry.reset();
        self.deadline = Some(match phase {
            Phase::Committing | Phase::Activating | Phase::Swapping => self.retry.after(now),
            _ => now + self.limit(),
        });
    }

    fn end_step(&mut self, now: Duration) {
        let took = now.saturating_sub(self.step_since);
        self.times.add(self.step_timed(), took);
        self.step_since = now;
    }

    /// The step that the time since `step_since` belongs to: `enter` is called after `committed` is
    /// set, but the wait before it was for the commit.
    fn step_timed(&self) -> Step {
        match self.phase {
            Phase::Committing => Step::Commit,
            _ => self.step(),
        }
    }

    fn limit(&self) -> Duration {
        match self.phase {
            Phase::Preparing => self.limits.prepare,
            Phase::Copying { .. } => self.limits.precopy,
            Phase::Freezing => self.limits.freeze,
            Phase::Sending => self.limits.last,
            Phase::Committing | Phase::Activating | Phase::Swapping | Phase::Over => {
                self.limits.retry_most
            }
        }
    }

    fn stored(&mut self, now: Duration, theirs: StateDigest) {
        let Some(ours) = self.digest else { return };
        if self.committed {
            if ours == theirs {
                self.enter(now, Phase::Activating);
                self.actions.push_back(SourceAction::AskActivate);
            } else {
                self.send_again(now);
            }
        } else if ours == theirs {
            self.enter(now, Phase::Committing);
            self.open_submissions += 1;
            let commit = self.commit();
            self.actions.push_back(SourceAction::SubmitCommit(commit));
        } else {
            self.abort(now, MoveFailure::Digest { ours, theirs });
        }
    }

    fn commit(&self) -> Command {
        Command::Commit {
            id: self.id,
            service: self.service.clone(),
            from: self.from.clone(),
            to: self.to.clone(),
            epoch: self.epoch,
        }
    }

    /// The directory has answered by its rules. It would give a late copy of the same submission
    /// the same answer, so the outcome is known.
    fn refused(&mut self, now: Duration, current: Option<Entry>) {
        let still_ours = current
            .as_ref()
            .is_some_and(|entry| entry.node == self.from && entry.epoch == self.epoch);
        if still_ours {
            // The rules refuse a commit from the true owner only if it makes no sense at all (a
            // move to where the service is); it can never be taken.
            self.open_submissions = 0;
            let refusal = DirectoryError::AlreadyThere {
                service: self.service.clone(),
                node: self.to.clone(),
            };
            let step = Step::Commit;
            let refusal = refusal.into();
            self.abort(now, MoveFailure::Refused { step, refusal });
        } else {
            self.superseded(now, current);
        }
    }

    fn not_applied(&mut self, now: Duration, refusal: Refusal) {
        self.open_submissions = self.open_submissions.saturating_sub(1);
        if self.open_submissions == 0 {
            let step = Step::Commit;
            self.abort(now, MoveFailure::Refused { step, refusal });
        }
    }

    fn superseded(&mut self, now: Duration, current: Option<Entry>) {
        self.actions.push_back(SourceAction::Release);
        self.actions.push_back(SourceAction::Abandon);
        self.finish(now, Err(MoveFailure::Superseded { current }));
    }

    /// After the commit: the target has lost the state, and we still hold it.
    fn send_again(&mut self, now: Duration) {
        if !self.service_alive {
            self.actions.push_back(SourceAction::Release);
            return self.finish(now, Err(MoveFailure::StateLost));
        }
        self.enter(now, Phase::Preparing);
        self.actions
            .push_back(SourceAction::AskPrepare { again: true });
    }

    fn failed(&mut self, now: Duration, refusal: Refusal) {
        if self.may_abort() {
            let step = self.step();
            self.abort(now, MoveFailure::Refused { step, refusal });
        } else if self.committed {
            // Ask again, but neither at once nor as late as the limit of the step.
            let again = self.retry.after(now);
            self.deadline = Some(self.deadline.map_or(again, |deadline| deadline.min(again)));
        }
        // While committing only the directory's answer counts.
    }

    fn service_died(&mut self, now: Duration) {
        self.service_alive = false;
        if self.may_abort() {
            let step = self.step();
            self.abort(now, MoveFailure::ServiceDied { step });
        }
        // Otherwise the target has the state, or is about to say that it has not.
    }

    fn timeout(&mut self, now: Duration) {
        match self.phase {
            Phase::Committing => {
                self.deadline = Some(self.retry.after(now));
                self.open_submissions += 1;
                let commit = self.commit();
                self.actions.push_back(SourceAction::AskCommit(commit));
            }
            Phase::Activating => {
                self.deadline = Some(self.retry.after(now));
                self.actions.push_back(SourceAction::AskActivate);
            }
            Phase::Swapping => {
                self.deadline = Some(self.retry.after(now));
                self.actions.push_back(SourceAction::SwapClients);
            }
            Phase::Over => {}
            // Sending the state again has stalled. The target may have got further than we know,
            // so ask; what it says leads on from there.
            _ if self.committed => {
                self.phase = Phase::Activating;
                self.deadline = Some(self.retry.after(now));
                self.actions.push_back(SourceAction::AskActivate);
            }
            Phase::Preparing | Phase::Copying { .. } | Phase::Freezing | Phase::Sending => {
                let (step, limit) = (self.step(), self.limit());
                self.abort(now, MoveFailure::Deadline { step, limit });
            }
        }
    }

    /// Ends a move that has not happened and never will.
    fn abort(&mut self, now: Duration, failure: MoveFailure) {
        assert!(self.may_abort(), "aborting a move that may be committed");
        if self.freezing && self.service_alive {
            self.actions.push_back(SourceAction::Thaw);
        }
        self.actions.push_back(SourceAction::Abandon);
        let failure = if !self.service_alive {
            MoveFailure::ServiceDied { step: self.step() }
        } else if self.cancel_wanted {
            MoveFailure::Cancelled
        } else {
            failure
        };
        self.finish(now, Err(failure));
    }

    fn finish(&mut self, now: Duration, result: Result<(), MoveFailure>) {
        if result.is_ok() {
            self.end_step(now);
        }
        self.ended_in = self.step();
        self.phase = Phase::Over;
        self.deadline = None;
        self.actions.push_back(SourceAction::Finish(result));
    }

    fn check_invariants(&self) {
        debug_assert_eq!(
            self.deadline.is_none(),
            self.phase == Phase::Over,
            "a move that is not over always has something to wait for"
        );
        debug_assert!(
            self.open_submissions == 0 || self.freezing,
            "submitted a commit without a freeze"
        );
        debug_assert!(
            self.phase != Phase::Swapping || self.committed,
            "clients swapped without a commit"
        );
    }
}

#[cfg(test)]
mod tests;
