//! The demo's report: built once from what was recorded, then shown as JSON, table and page.

use serde::Serialize;
use serde_json::{Map, Value};

use super::check::Verdict;
use super::latency::{
    Answer, Latencies, Place, Summary, Whereabouts, blackout_nanos, milliseconds,
};

/// The step with which a service stops serving at its source.
const FREEZE: &str = "freeze";

/// The whole run. The field names are the keys of `report.json` and stay as they are.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// How long the clients sent.
    pub(crate) seconds: f64,
    /// How many nodes.
    pub(crate) nodes: usize,
    /// Numbered messages that the clients sent.
    pub(crate) sent: u64,
    /// Those of them that were answered.
    pub(crate) acknowledged: u64,
    /// Those that were not there at the end.
    pub(crate) lost: u64,
    /// How often one was handled more than once.
    pub(crate) duplicated: u64,
    /// Those that were handled, answered or read out of order.
    pub(crate) reordered: u64,
    /// Pings between the nodes' daemons that came back.
    pub(crate) kernel_messages: u64,
    /// Digest of the loaded keys before the clients began.
    pub(crate) digest_before: String,
    /// The same after the last move.
    pub(crate) digest_after: String,
    /// Each client.
    pub(crate) clients: Vec<ClientReport>,
    /// Each move, in order.
    pub(crate) moves: Vec<MoveEntry>,
}

/// One client.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ClientReport {
    /// Its number.
    pub(crate) client: u32,
    /// The node that it ran on.
    pub(crate) node: String,
    /// Numbered messages sent.
    pub(crate) sent: u64,
    /// Those that were answered.
    pub(crate) acknowledged: u64,
    /// Messages of any kind that failed or ran into their deadline.
    pub(crate) failed: u64,
    /// Numbers that it read back.
    pub(crate) reads: u64,
    /// Numbers not there at the end.
    pub(crate) lost: u64,
    /// Repetitions.
    pub(crate) duplicated: u64,
    /// Handled, answered or read out of order.
    pub(crate) reordered: u64,
    /// Values that were not what was sent.
    pub(crate) corrupted: u64,
    /// The first few damaged numbers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) damaged: Vec<u64>,
    /// The first few errors, in words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) errors: Vec<String>,
    /// Whether its process ended before it was told to.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) ended_early: bool,
    /// Latency by place, in milliseconds.
    pub(crate) latency_ms: ByPlace,
}

/// Latency by where the service was.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct ByPlace {
    /// On the client's node.
    pub(crate) local: Option<Summary>,
    /// On another node.
    pub(crate) remote: Option<Summary>,
    /// While it moved.
    pub(crate) moving: Option<Summary>,
}

impl From<&Latencies> for ByPlace {
    fn from(latencies: &Latencies) -> Self {
        Self {
            local: latencies.summary(Place::Local),
            remote: latencies.summary(Place::Remote),
            moving: latencies.summary(Place::Moving),
        }
    }
}

/// One move.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct MoveEntry {
    /// Where the service was.
    pub(crate) from: String,
    /// Where it went.
    pub(crate) to: String,
    /// The epoch of its new owner; 0 if the move failed.
    pub(crate) epoch: u64,
    /// Milliseconds of each step, by the step's name, in order.
    pub(crate) steps_ms: Map<String, Value>,
    /// The longest that any client waited for its next answer around the move, in milliseconds.
    pub(crate) blackout_ms: f64,
    /// How long the service answered nobody, as its nodes saw it.
    pub(crate) service_blackout_ms: f64,
    /// When it began, in seconds of the run.
    pub(crate) started_seconds: f64,
    /// How long the whole move took.
    pub(crate) took_ms: f64,
    /// Bytes of state that were copied.
    pub(crate) bytes: u64,
    /// Channels that were handed over.
    pub(crate) channels: u32,
    /// Why it failed, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// One move as the runner recorded it. Times are nanoseconds since the load began.
#[derive(Clone, Debug)]
pub(crate) struct MoveRecord {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) started_nanos: u64,
    pub(crate) ended_nanos: u64,
    pub(crate) outcome: Result<MoveOutcome, String>,
}

impl MoveRecord {
    /// When the service stopped serving at its source, as far as the runner can tell. Until `freeze`
    /// it serves as before.
    ///
    /// The nodes report how long each step took, not when it began. The steps are laid out from the
    /// beginning and from the end of the call, and the earlier of the two counts: rather a few
    /// undisturbed answers among those of the move than the other way round.
    pub(crate) fn frozen_nanos(&self) -> u64 {
        let Ok(outcome) = &self.outcome else {
            return self.started_nanos;
        };
        let freeze = outcome.steps.iter().position(|(step, _)| step == FREEZE);
        let (before, after) = outcome.steps.split_at(freeze.unwrap_or(0));
        let nanos = |steps: &[(String, f64)]| {
            let milliseconds: f64 = steps.iter().map(|(_, took)| took.max(0.0)).sum();
            (milliseconds * 1e6) as u64
        };
        let from_begin = self.started_nanos.saturating_add(nanos(before));
        let from_end = self.ended_nanos.saturating_sub(nanos(after));
        from_begin.min(from_end).max(self.started_nanos)
    }
}

/// What the nodes reported of a move that was made.
#[derive(Clone, Debug, Default)]
pub(crate) struct MoveOutcome {
    pub(crate) epoch: u64,
    pub(crate) steps: Vec<(String, f64)>,
    pub(crate) bytes: u64,
    pub(crate) channels: u32,
    pub(crate) blackout_ms: f64,
}

/// One client as the runner recorded it.
#[derive(Clone, Debug)]
pub(crate) struct ClientRecord {
    pub(crate) client: u32,
    pub(crate) node: String,
    pub(crate) sent: u64,
    pub(crate) acknowledged: u64,
    pub(crate) failed: u64,
    pub(crate) reads: u64,
    /// Replies and reads that were out of order, as the client itself noticed.
    pub(crate) out_of_order: u64,
    pub(crate) errors: Vec<String>,
    /// Whether its process ended without its last word.
    pub(crate) ended_early: bool,
    /// In the order in which they came.
    pub(crate) answers: Vec<Answer>,
    pub(crate) verdict: Verdict,
}

/// Everything that was recorded.
#[derive(Clone, Debug)]
pub(crate) struct Recording {
    pub(crate) seconds: f64,
    pub(crate) nodes: usize,
    pub(crate) first_node: String,
    pub(crate) clients: Vec<ClientRecord>,
    pub(crate) moves: Vec<MoveRecord>,
    pub(crate) kernel_messages: u64,
    pub(crate) digest_before: String,
    pub(crate) digest_after: String,
}

impl Recording {
    /// Where the service was at each time.
    pub(crate) fn whereabouts(&self) -> Whereabouts {
        let mut whereabouts = Whereabouts::starting_on(&self.first_node);
        for one in &self.moves {
            let owner = if one.outcome.is_ok() {
                &one.to
            } else {
                &one.from
            };
            whereabouts.add_move(one.frozen_nanos(), one.ended_nanos, owner);
        }
        whereabouts
    }

    /// The latencies of one client, by place.
    fn latencies(&self, client: &ClientRecord, whereabouts: &Whereabouts) -> Latencies {
        let mut latencies = Latencies::new();
        for answer in &client.answers {
            let place = whereabouts.place(*answer, &client.node);
            latencies.add(place, answer.latency_nanos);
        }
        latencies
    }

    /// The latencies of all clients together, by place.
    pub(crate) fn all_latencies(&self) -> ByPlace {
        let whereabouts = self.whereabouts();
        let mut all = Latencies::new();
        for client in &self.clients {
            all.merge(&self.latencies(client, &whereabouts));
        }
        (&all).into()
    }

    /// The report of this run.
    pub(crate) fn report(&self) -> Report {
        let whereabouts = self.whereabouts();
        let clients: Vec<ClientReport> = self
            .clients
            .iter()
            .map(|client| client.report(&self.latencies(client, &whereabouts)))
            .collect();
        let total = |count: fn(&ClientReport) -> u64| clients.iter().map(count).sum();
        Report {
            seconds: (self.seconds * 1000.0).round() / 1000.0,
            nodes: self.nodes,
            sent: total(|client| client.sent),
            acknowledged: total(|client| client.acknowledged),
            lost: total(|client| client.lost),
            duplicated: total(|client| client.duplicated),
            reordered: total(|client| client.reordered),
            kernel_messages: self.kernel_messages,
            digest_before: self.digest_before.clone(),
            digest_after: self.digest_after.clone(),
            moves: self.moves.iter().map(|one| self.move_entry(one)).collect(),
            clients,
        }
    }

    fn move_entry(&self, one: &MoveRecord) -> MoveEntry {
        let blackout = self
            .clients
            .iter()
            .map(|client| blackout_nanos(&client.answers, one.started_nanos, one.ended_nanos))
            .max()
            .unwrap_or(0);
        let outcome = one.outcome.clone().unwrap_or_default();
        MoveEntry {
            from: one.from.clone(),
            to: one.to.clone(),
            epoch: outcome.epoch,
            steps_ms: outcome
                .steps
                .into_iter()
                .map(|(step, took)| (step, Value::from(round(took))))
                .collect(),
            blackout_ms: milliseconds(blackout),
            service_blackout_ms: round(outcome.blackout_ms),
            started_seconds: milliseconds(one.started_nanos) / 1000.0,
            took_ms: milliseconds(one.ended_nanos.saturating_sub(one.started_nanos)),
            bytes: outcome.bytes,
            channels: outcome.channels,
            error: one.outcome.as_ref().err().cloned(),
        }
    }
}

impl ClientRecord {
    fn report(&self, latencies: &Latencies) -> ClientReport {
        ClientReport {
            client: self.client,
            node: self.node.clone(),
            sent: self.sent,
            acknowledged: self.acknowledged,
            failed: self.failed,
            reads: self.reads,
            lost: self.verdict.lost,
            duplicated: self.verdict.duplicated,
            reordered: self.verdict.reordered + self.out_of_order,
            corrupted: self.verdict.corrupted,
            damaged: self.verdict.samples.clone(),
            errors: self.errors.clone(),
            ended_early: self.ended_early,
            latency_ms: latencies.into(),
        }
    }
}

impl Report {
    /// What was promised and not kept, in words; nothing if all is well.
    pub(crate) fn broken_promises(&self) -> Vec<String> {
        let mut broken = Vec::new();
        let corrupted: u64 = self.clients.iter().map(|client| client.corrupted).sum();
        // Also if the message is in kv: who sent it was not told.
        let unanswered = self.sent.saturating_sub(self.acknowledged);
        for (count, what) in [
            (unanswered, "not acknowledged"),
            (self.lost, "lost"),
            (self.duplicated, "duplicated"),
            (self.reordered, "reordered"),
            (corrupted, "corrupted"),
        ] {
            if count > 0 {
                broken.push(format!("{count} {what}"));
            }
        }
        if self.digest_before != self.digest_after {
            broken.push("the loaded data changed".to_owned());
        }
        broken
    }
}

/// Milliseconds, rounded to a microsecond: more digits than that would be noise.
fn round(milliseconds: f64) -> f64 {
    (milliseconds * 1000.0).round() / 1000.0
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::check::{Found, judge};
    use super::*;

    /// A run of two clients and one move, made up: client 1 on n1, client 2 on n2, one answer each
    /// millisecond but for a gap of 20 ms around the move at 500 ms.
    pub(crate) fn recording() -> Recording {
        const MS: u64 = 1_000_000;
        let client = |client: u32, node: &str| ClientRecord {
            client,
            node: node.to_owned(),
            sent: 1000,
            acknowledged: 1000,
            failed: 0,
            reads: 100,
            out_of_order: 0,
            errors: Vec::new(),
            ended_early: false,
            answers: (1..1000)
                .filter(|ms| !(501..520).contains(ms))
                .map(|ms| Answer {
                    at_nanos: ms * MS,
                    latency_nanos: match ms {
                        // Sent before the service froze, answered when it served again.
                        520 => 21 * MS,
                        _ if (ms < 500) == (node == "n1") => MS / 10,
                        _ => MS / 2,
                    },
                })
                .collect(),
            verdict: Verdict::default(),
        };
        Recording {
            seconds: 1.0,
            nodes: 2,
            first_node: "n1".to_owned(),
            clients: vec![client(1, "n1"), client(2, "n2")],
            moves: vec![MoveRecord {
                from: "n1".to_owned(),
                to: "n2".to_owned(),
                started_nanos: 500 * MS,
                ended_nanos: 515 * MS,
                outcome: Ok(MoveOutcome {
                    epoch: 2,
                    steps: [("prepare", 4.0), ("freeze", 0.5), ("commit", 2.25)]
                        .map(|(step, ms)| (step.to_owned(), ms))
                        .to_vec(),
                    bytes: 123_456,
                    channels: 2,
                    blackout_ms: 9.5,
                }),
            }],
            kernel_messages: 42,
            digest_before: "ab".repeat(32),
            digest_after: "ab".repeat(32),
        }
    }

    #[test]
    fn the_top_of_the_report_has_exactly_the_agreed_keys() {
        let json = serde_json::to_value(recording().report()).unwrap();
        let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
        assert_eq!(
            keys,
            [
                "seconds",
                "nodes",
                "sent",
                "acknowledged",
                "lost",
                "duplicated",
                "reordered",
                "kernel_messages",
                "digest_before",
                "digest_after",
                "clients",
                "moves"
            ]
        );
        let one = &json["moves"][0];
        for key in ["from", "to", "epoch", "steps_ms", "blackout_ms"] {
            assert!(one.get(key).is_some(), "{key}");
        }
        assert_eq!(one["steps_ms"]["commit"], 2.25);
        assert_eq!(json["clients"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn a_clean_run_breaks_no_promise_and_sums_its_clients() {
        let report = recording().report();
        assert_eq!((report.sent, report.acknowledged), (2000, 2000));
        assert!(report.broken_promises().is_empty());
        assert!((report.moves[0].blackout_ms - 20.0).abs() < 0.001);
        let local = report.clients[0].latency_ms.local.unwrap();
        let remote = report.clients[0].latency_ms.remote.unwrap();
        assert!(
            local.p99 < 0.11 && remote.p50 > 0.49,
            "{local:?} {remote:?}"
        );
        assert!(report.clients[0].latency_ms.moving.is_some());
    }

    #[test]
    fn damage_in_one_scan_shows_at_the_top() {
        let mut recording = recording();
        let found: Vec<Found> = (1..=999)
            .map(|number| Found {
                number,
                revision: if number == 10 { 1 } else { number * 2 },
                version: if number == 20 { 2 } else { 1 },
                intact: true,
            })
            .collect();
        recording.clients[1].verdict = judge(1000, &found);
        recording.clients[0].out_of_order = 3;
        let report = recording.report();
        assert_eq!(
            (report.lost, report.duplicated, report.reordered),
            (1, 1, 4)
        );
        assert_eq!(report.clients[1].damaged, [1000, 10, 20]);
        assert_eq!(
            report.broken_promises(),
            ["1 lost", "1 duplicated", "4 reordered"]
        );
    }

    #[test]
    fn an_answer_that_never_came_breaks_a_promise_though_its_message_is_there() {
        let mut recording = recording();
        recording.clients[0].acknowledged -= 1;
        assert_eq!(recording.report().broken_promises(), ["1 not acknowledged"]);
    }

    #[test]
    fn changed_data_breaks_a_promise_though_no_message_was_lost() {
        let mut recording = recording();
        recording.digest_after = "cd".repeat(32);
        assert_eq!(
            recording.report().broken_promises(),
            ["the loaded data changed"]
        );
    }

    #[test]
    fn the_service_is_at_its_source_until_it_freezes() {
        // Of the 15 ms of the move, 4 are before `freeze` and 2.75 from there on; the rest is unknown.
        let mut recording = recording();
        let one = &mut recording.moves[0];
        assert_eq!(one.frozen_nanos(), 504_000_000);
        one.outcome.as_mut().unwrap().steps[0].1 = 14.0;
        assert_eq!(one.frozen_nanos(), 512_250_000);
        one.outcome.as_mut().unwrap().steps[1].1 = 1e9;
        assert_eq!(one.frozen_nanos(), one.started_nanos);
        one.outcome = Err("no".to_owned());
        assert_eq!(one.frozen_nanos(), one.started_nanos);
    }

    #[test]
    fn a_failed_move_leaves_the_service_where_it_was() {
        let mut recording = recording();
        recording.moves[0].outcome = Err("no such node".to_owned());
        let late = Answer {
            at_nanos: 900_000_000,
            latency_nanos: 1000,
        };
        assert_eq!(recording.whereabouts().place(late, "n1"), Place::Local);
        let report = recording.report();
        assert_eq!(report.moves[0].error.as_deref(), Some("no such node"));
        assert_eq!(report.moves[0].epoch, 0);
    }
}
