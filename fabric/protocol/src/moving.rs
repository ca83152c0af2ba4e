//! The move of a service from one node to another, decided without doing anything.
//!
//! Two nodes must never both believe that they own a service. So there is one point of no return,
//! the `commit` in the directory, and two machines that agree on nothing else: [`MoveSource`] on
//! the node that owns the service, [`MoveTarget`] on the node that is to own it. Before the commit
//! any failure ends with the source serving again. From the moment that the source has submitted
//! the commit until it has learnt the outcome, nobody serves. After it everything rolls forward.
//!
//! Both are plain values: inputs and a time go in, actions come out. The driver (the node daemon,
//! or the simulator) does each action and reports the result as an input. Time is a [`Duration`]
//! since a start that the driver chose, always the same one for one machine. An input that does
//! not fit the state is a late answer and changes nothing, so a driver may retry whatever it likes.
//!
//! What a driver has to promise:
//!
//! - One [`MoveSource`] and one [`MoveTarget`] for each [`MoveId`](weft_types::MoveId), and one
//!   move of a service at a time on a node: while a node is still the source of an earlier move it
//!   refuses to prepare for the same service, which may come back before the earlier `swap` is done.
//! - Between `Freeze` and `Thaw` or `Release` the service is neither started nor restarted, even
//!   if it dies: that is the machine's decision, told by its end.
//! - Channels of the service are opened and resumed at the source until its state is `Given`, and
//!   refused from then on, also before the swap: the new owner goes on from the frozen cursors.
//! - `RecordActivation` is durable before the answer to it. A node that comes back without such a
//!   record answers that it has *never* activated the move; then the source, which keeps the frozen
//!   state until it hears `Activated`, sends it again.
//! - A node that comes back after a crash owns nothing until it has registered its services anew
//!   ([`Command::Register`] with the epoch that the directory names): the new epoch fences a commit
//!   that its former life may have left on the way.
//! - A node watches what the directory says of it. If it is named the owner by a move that it has
//!   neither activated nor is being given, source and target may both have died around the commit:
//!   it gives the source time to send the state again, then registers the service anew. While such a
//!   registration may be on its way, it neither prepares nor activates an older life of the service.
//!
//! Not here: the state's bytes, how they travel, and which node is a good target.

mod directory;
mod source;
mod target;

pub use directory::{Command, DirectoryError, DirectoryState, Entry, MAX_SERVICES};
pub use source::{MoveSource, SourceAction, SourceInput, SourceState};
pub use target::{MoveTarget, TargetAction, TargetInput, TargetState};

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use weft_types::Refusal;

/// One step of a move. The names are the same in code, logs, on the command line and in reports.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// The target starts an instance that takes no messages.
    Prepare,
    /// The state is copied while the source serves.
    Precopy,
    /// The source finishes the handler in flight and takes no more.
    Freeze,
    /// What changed since, the cursors and the unacknowledged messages follow.
    Final,
    /// The directory names the target as owner, one epoch later.
    Commit,
    /// The target's instance begins to take messages.
    Activate,
    /// Clients' rings get their new peers.
    Swap,
}

impl Step {
    /// All steps in their order.
    pub const ALL: [Self; 7] = [
        Self::Prepare,
        Self::Precopy,
        Self::Freeze,
        Self::Final,
        Self::Commit,
        Self::Activate,
        Self::Swap,
    ];

    /// The step's name, which is also its key in `steps_ms`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Precopy => "precopy",
            Self::Freeze => "freeze",
            Self::Final => "final",
            Self::Commit => "commit",
            Self::Activate => "activate",
            Self::Swap => "swap",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How long each step of a move took. A step that has not ended (or never began) has none.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct StepTimes([Option<Duration>; Step::ALL.len()]);

impl StepTimes {
    /// How long `step` took.
    #[must_use]
    pub fn get(&self, step: Step) -> Option<Duration> {
        Step::ALL
            .iter()
            .zip(self.0)
            .find_map(|(&at, took)| (at == step).then_some(took)?)
    }

    /// The steps that have ended, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Step, Duration)> {
        Step::ALL
            .into_iter()
            .zip(self.0)
            .filter_map(|(step, took)| Some((step, took?)))
    }

    /// Adds to a step's time: what is done again is counted again.
    fn add(&mut self, step: Step, took: Duration) {
        for (at, total) in Step::ALL.into_iter().zip(&mut self.0) {
            if at == step {
                *total = Some(total.unwrap_or_default() + took);
            }
        }
    }
}

/// The digest of a service's whole state, cursors and unacknowledged messages included.
///
/// Source and target each compute it over what they hold; the commit is not submitted unless they
/// agree. The machines only compare, so the driver chooses the hash.
#[derive(Clone, Copy, Eq, Hash, PartialEq, Serialize, Deserialize)]
pub struct StateDigest(pub [u8; 32]);

impl fmt::Debug for StateDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StateDigest({self})")
    }
}

impl fmt::Display for StateDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // 48 bits tell two states of one log apart.
        self.0[..6]
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Why a move ended without having moved the service.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum MoveFailure {
    /// The target, or the source's own service, refused to take part. The source serves.
    #[error("{step} was refused: {refusal}")]
    Refused {
        /// Where it happened.
        step: Step,
        /// What was said.
        refusal: Refusal,
    },
    /// A step took too long before the commit. The source serves.
    #[error("{step} took longer than {limit:?}")]
    Deadline {
        /// Where it happened.
        step: Step,
        /// The step's limit.
        limit: Duration,
    },
    /// The state at the target is not the state that was sent. The source serves.
    #[error("the target holds state {theirs}, the source sent {ours}")]
    Digest {
        /// The source's digest.
        ours: StateDigest,
        /// The target's digest.
        theirs: StateDigest,
    },
    /// Somebody asked for the move to end before the commit. The source serves.
    #[error("the move was cancelled before its commit")]
    Cancelled,
    /// The service died at the source before the commit. The restart rule of the source's node
    /// applies.
    #[error("the service died at the source during {step}")]
    ServiceDied {
        /// Where it happened.
        step: Step,
    },
    /// The directory names a later owner, so neither side of this move may serve.
    #[error("the service has another owner: {}", .current.as_ref().map_or_else(|| "none".into(), ToString::to_string))]
    Superseded {
        /// The owner that the directory names; `None` if the service was removed.
        current: Option<Entry>,
    },
    /// The move was committed, but both sides lost the state before the target could serve.
    #[error("the move was committed, but source and target both died with the state")]
    StateLost,
}

/// Limits of a move. Up to the commit a step that takes longer aborts the move; from then on
/// nothing is given up, only asked again, later each time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// The target starts a process and gets a certificate.
    pub prepare: Duration,
    /// One round of copying.
    pub precopy: Duration,
    /// The handler in flight ends. Clients wait from here on.
    pub freeze: Duration,
    /// The rest of the state travels.
    pub last: Duration,
    /// How long an answer is awaited before the same thing is asked again; doubles each time.
    pub retry_first: Duration,
    /// The longest wait between two askings.
    pub retry_most: Duration,
    /// How long a target waits for a sign of its source before it gives up (not sealed) or asks
    /// the directory (sealed).
    pub silence: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            prepare: Duration::from_secs(10),
            precopy: Duration::from_secs(60),
            freeze: Duration::from_secs(2),
            last: Duration::from_secs(10),
            retry_first: Duration::from_millis(250),
            retry_most: Duration::from_secs(2),
            // Longer than the source's own limits: an impatient target must not drop what a
            // patient source still counts on.
            silence: Duration::from_secs(75),
        }
    }
}

/// Waits that double up to a bound, for what is asked until it is answered.
#[derive(Clone, Copy, Debug)]
struct Retry {
    next: Duration,
    first: Duration,
    most: Duration,
}

impl Retry {
    fn new(limits: &Limits) -> Self {
        Self {
            next: limits.retry_first,
            first: limits.retry_first,
            most: limits.retry_most,
        }
    }

    /// Back to short waits: something was answered.
    fn reset(&mut self) {
        self.next = self.first;
    }

    /// When to ask again if nothing is heard.
    fn after(&mut self, now: Duration) -> Duration {
        let at = now + self.next;
        self.next = (self.next * 2).min(self.most);
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_done_twice_counts_both_times() {
        let mut times = StepTimes::default();
        times.add(Step::Final, Duration::from_millis(3));
        times.add(Step::Final, Duration::from_millis(4));
        assert_eq!(times.get(Step::Final), Some(Duration::from_millis(7)));
        assert_eq!(times.get(Step::Swap), None);
        assert_eq!(times.iter().count(), 1);
    }

    #[test]
    fn waits_double_up_to_their_bound() {
        let limits = Limits {
            retry_first: Duration::from_millis(10),
            retry_most: Duration::from_millis(35),
            ..Limits::default()
        };
        let mut retry = Retry::new(&limits);
        let waits: Vec<_> = (0..4)
            .map(|_| retry.after(Duration::ZERO).as_millis())
            .collect();
        assert_eq!(waits, [10, 20, 35, 35]);
    }
}
