//! What a client process tells the runner: one JSON document a line on its stdout.

use serde::{Deserialize, Serialize};

/// One line of a client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Line {
    /// Its channel is open; it waits for a line on its stdin to begin.
    Ready,
    /// What happened since the last such line.
    Progress {
        /// Numbered messages sent so far.
        sent: u64,
        /// Those of them that were answered.
        acknowledged: u64,
        /// New answers: when (monotonic clock of the machine) and after how long, in nanoseconds.
        answers: Vec<(u64, u64)>,
    },
    /// It has stopped sending and everything has been answered or given up.
    Done(Totals),
    /// It could not begin.
    Failed {
        /// Why.
        text: String,
    },
}

/// What a client did in all.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct Totals {
    /// Numbered messages sent.
    pub(crate) sent: u64,
    /// Those of them that were answered.
    pub(crate) acknowledged: u64,
    /// Numbers read back.
    pub(crate) reads: u64,
    /// Messages of either kind that failed or ran into their deadline.
    pub(crate) failed: u64,
    /// Answers that show that messages overtook each other or were repeated: a revision that did not
    /// grow, a version other than 1, a read that did not find what was put before it.
    pub(crate) out_of_order: u64,
    /// The first few errors, in words.
    pub(crate) errors: Vec<String>,
}

/// Nanoseconds of the machine's monotonic clock: the same for all processes on it.
pub(crate) fn monotonic_nanos() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_back_as_it_was_written() {
        for line in [
            Line::Ready,
            Line::Progress {
                sent: 3,
                acknowledged: 2,
                answers: vec![(7, 1)],
            },
            Line::Done(Totals {
                sent: 3,
                errors: vec!["x\ny".to_owned()],
                ..Totals::default()
            }),
            Line::Failed {
                text: "no node".to_owned(),
            },
        ] {
            let text = serde_json::to_string(&line).unwrap();
            assert!(!text.contains('\n'));
            assert_eq!(serde_json::from_str::<Line>(&text).unwrap(), line);
        }
    }

    #[test]
    fn the_clock_does_not_go_back() {
        let first = monotonic_nanos();
        assert!(monotonic_nanos() >= first);
    }
}
