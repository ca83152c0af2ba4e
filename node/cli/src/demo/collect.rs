//! Collects what happens during the run, for the progress line and for the report.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::Event;
use super::check::{Found, Verdict, judge};
use super::cluster::node_of_client;
use super::latency::{Answer, Summary, nanos_histogram, summary};
use super::lines::{Line, Totals};
use super::report::{ClientRecord, MoveRecord, Recording};

/// How many answers are kept with their times, over all clients: an hour at 2,000 a second, 128 MB.
/// Later ones are counted, but are missing in latencies and plot.
const MAX_TIMED_ANSWERS: usize = 8_000_000;

/// How many answers the live p50 looks back on.
const RECENT_ANSWERS: usize = 2000;

/// What is noted of a client whose process ended without its last word.
const ENDED_EARLY: &str = "ended before its time";

/// One client, as far as it has been heard of.
#[derive(Debug)]
struct Client {
    number: u32,
    node: String,
    ready: bool,
    gone: bool,
    done: bool,
    totals: Totals,
    answers: Vec<Answer>,
    verdict: Verdict,
}

/// The daemons' pings in figures.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Pings {
    /// Those that came back.
    pub(crate) round_trips: Option<Summary>,
    /// How many did not.
    pub(crate) failed: u64,
    /// Why the first of those did not.
    pub(crate) error: Option<String>,
}

/// Everything that has happened so far.
#[derive(Debug)]
pub(crate) struct Collector {
    clients: Vec<Client>,
    began_nanos: u64,
    seconds: f64,
    first_node: String,
    owner: String,
    moving_to: Option<String>,
    moves: Vec<MoveRecord>,
    moves_done: bool,
    timed: usize,
    recent_nanos: Vec<u64>,
    ping_nanos: Histogram<u64>,
    failed_pings: u64,
    /// Why the first of them failed.
    ping_error: Option<String>,
}

impl Collector {
    /// Nothing has happened yet; the service is on the first of the nodes.
    pub(crate) fn new(clients: u32, nodes: &[String]) -> Self {
        let clients = (1..=clients)
            .map(|number| Client {
                number,
                node: nodes[node_of_client(number, nodes.len())].clone(),
                ready: false,
                gone: false,
                done: false,
                totals: Totals::default(),
                answers: Vec::new(),
                verdict: Verdict::default(),
            })
            .collect();
        Self {
            clients,
            began_nanos: 0,
            seconds: 0.0,
            first_node: nodes[0].clone(),
            owner: nodes[0].clone(),
            moving_to: None,
            moves: Vec::new(),
            moves_done: false,
            timed: 0,
            recent_nanos: Vec::new(),
            ping_nanos: nanos_histogram(),
            failed_pings: 0,
            ping_error: None,
        }
    }

    /// The clients begin now, by the machine's monotonic clock.
    pub(crate) fn begin(&mut self, began_nanos: u64) {
        self.began_nanos = began_nanos;
    }

    /// The last client has stopped.
    pub(crate) fn end(&mut self, lasted: Duration) {
        self.seconds = lasted.as_secs_f64();
    }

    /// Takes one event in. Some deserve a line that stays.
    pub(crate) fn take(&mut self, event: Event) -> Option<String> {
        match event {
            Event::Client { client, line } => return self.take_line(client, line),
            Event::ClientGone { client } => {
                let client = &mut self.clients[client as usize - 1];
                client.gone = true;
                if client.ready && !client.done {
                    client.totals.errors.push(ENDED_EARLY.to_owned());
                    return Some(format!("client {} {ENDED_EARLY}", client.number));
                }
            }
            Event::MoveBegins { to } => self.moving_to = Some(to.to_string()),
            Event::Move(record) => return Some(self.take_move(record)),
            Event::MovesDone => self.moves_done = true,
            Event::Ping {
                round_trip_nanos: Ok(nanos),
            } => {
                self.ping_nanos.saturating_record(nanos);
            }
            Event::Ping {
                round_trip_nanos: Err(error),
            } => {
                self.failed_pings += 1;
                self.ping_error.get_or_insert_with(|| error.to_string());
            }
        }
        None
    }

    fn take_line(&mut self, number: u32, line: Line) -> Option<String> {
        let client = &mut self.clients[number as usize - 1];
        match line {
            Line::Ready => client.ready = true,
            Line::Progress {
                sent,
                acknowledged,
                answers,
            } => {
                client.totals.sent = sent;
                client.totals.acknowledged = acknowledged;
                let room = MAX_TIMED_ANSWERS
                    .saturating_sub(self.timed)
                    .min(answers.len());
                self.timed += room;
                let began = self.began_nanos;
                client
                    .answers
                    .extend(answers[..room].iter().map(|(at, latency)| Answer {
                        at_nanos: at.saturating_sub(began),
                        latency_nanos: *latency,
                    }));
                self.recent_nanos
                    .extend(answers.iter().map(|(_, latency)| *latency));
                let old = self.recent_nanos.len().saturating_sub(RECENT_ANSWERS);
                self.recent_nanos.drain(..old);
            }
            Line::Done(totals) => {
                client.totals = totals;
                client.done = true;
            }
            Line::Failed { text } => {
                let line = format!("client {number}: {text}");
                client.totals.errors.push(text);
                return Some(line);
            }
        }
        None
    }

    fn take_move(&mut self, record: MoveRecord) -> String {
        self.moving_to = None;
        let took = (record.ended_nanos.saturating_sub(record.started_nanos)) as f64 / 1e6;
        let line = match &record.outcome {
            Ok(outcome) => {
                self.owner.clone_from(&record.to);
                format!(
                    "moved {} > {} in {took:.1} ms, epoch {}",
                    record.from, record.to, outcome.epoch
                )
            }
            Err(error) => format!("the move {} > {} failed: {error}", record.from, record.to),
        };
        self.moves.push(record);
        line
    }

    /// Whether every client's channel is open.
    pub(crate) fn all_ready(&self) -> bool {
        self.clients.iter().all(|client| client.ready)
    }

    /// Whether waiting for the clients' channels is over, one way or the other.
    pub(crate) fn ready_or_failed(&self) -> bool {
        self.all_ready() || self.clients.iter().any(|client| client.gone)
    }

    /// For an error message.
    pub(crate) fn who_is_not_ready(&self) -> String {
        let waiting: Vec<String> = self
            .clients
            .iter()
            .filter(|client| !client.ready)
            .map(|client| {
                let why = client
                    .totals
                    .errors
                    .first()
                    .map_or("no word from it", String::as_str);
                format!("client {} on {}: {why}", client.number, client.node)
            })
            .collect();
        format!(
            "not every client could open its channel: {}",
            waiting.join("; ")
        )
    }

    /// Whether no more moves are to come.
    pub(crate) fn moves_are_done(&self) -> bool {
        self.moves_done
    }

    /// Whether every client has ended.
    pub(crate) fn all_gone(&self) -> bool {
        self.clients.iter().all(|client| client.gone)
    }

    /// Judges one client by what the service holds of it.
    pub(crate) fn judge(&mut self, number: u32, found: &[Found]) {
        let client = &mut self.clients[number as usize - 1];
        if !client.done {
            // It could not say how far it came. What is there beyond its last word was sent.
            let highest = found.iter().map(|one| one.number).max().unwrap_or(0);
            client.totals.sent = client.totals.sent.max(highest);
        }
        client.verdict = judge(client.totals.sent, found);
    }

    /// One line about now.
    pub(crate) fn progress_line(&self) -> String {
        let sum = |count: fn(&Totals) -> u64| -> u64 {
            self.clients
                .iter()
                .map(|client| count(&client.totals))
                .sum()
        };
        let sent = sum(|totals| totals.sent);
        let place = match &self.moving_to {
            Some(to) => format!("{} > {to}", self.owner),
            None => format!("on {}", self.owner),
        };
        format!(
            "kv {place:<8} sent {sent:>8}  acknowledged {:>8}  failed {}  p50 {:.2} ms  kernel messages {}  moves {}",
            sum(|totals| totals.acknowledged),
            sum(|totals| totals.failed),
            self.recent_p50_ms(),
            self.ping_nanos.len(),
            self.moves.len(),
        )
    }

    fn recent_p50_ms(&self) -> f64 {
        let mut sorted = self.recent_nanos.clone();
        sorted.sort_unstable();
        sorted
            .get(sorted.len() / 2)
            .map_or(0.0, |nanos| *nanos as f64 / 1e6)
    }

    /// Round trips of the daemons' pings, how many failed, and why the first of those did.
    pub(crate) fn pings(&self) -> Pings {
        Pings {
            round_trips: summary(&self.ping_nanos),
            failed: self.failed_pings,
            error: self.ping_error.clone(),
        }
    }

    /// What the report is made of.
    pub(crate) fn into_recording(
        self,
        nodes: usize,
        digest_before: String,
        digest_after: String,
    ) -> Recording {
        let clients = self
            .clients
            .into_iter()
            .map(|client| ClientRecord {
                client: client.number,
                node: client.node,
                sent: client.totals.sent,
                acknowledged: client.totals.acknowledged,
                failed: client.totals.failed,
                reads: client.totals.reads,
                out_of_order: client.totals.out_of_order,
                errors: client.totals.errors,
                ended_early: !client.done,
                answers: client.answers,
                verdict: client.verdict,
            })
            .collect();
        Recording {
            seconds: self.seconds,
            nodes,
            first_node: self.first_node,
            clients,
            moves: self.moves,
            kernel_messages: self.ping_nanos.len(),
            digest_before,
            digest_after,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::CliError;

    fn collector() -> Collector {
        Collector::new(2, &["n1".to_owned(), "n2".to_owned()])
    }

    fn say(collector: &mut Collector, client: u32, line: Line) {
        collector.take(Event::Client { client, line });
    }

    #[test]
    fn answers_are_counted_from_the_beginning_of_the_load() {
        let mut collector = collector();
        collector.begin(1_000_000);
        let answers = vec![(1_500_000, 200_000)];
        say(
            &mut collector,
            2,
            Line::Progress {
                sent: 4,
                acknowledged: 1,
                answers,
            },
        );
        let recording = collector.into_recording(2, String::new(), String::new());
        let client = &recording.clients[1];
        assert_eq!((client.sent, client.acknowledged), (4, 1));
        assert_eq!(
            client.answers,
            [Answer {
                at_nanos: 500_000,
                latency_nanos: 200_000
            }]
        );
    }

    #[test]
    fn a_client_that_was_killed_is_judged_by_what_it_surely_sent() {
        let mut collector = collector();
        say(&mut collector, 1, Line::Ready);
        say(
            &mut collector,
            1,
            Line::Progress {
                sent: 4,
                acknowledged: 4,
                answers: vec![],
            },
        );
        let said = collector.take(Event::ClientGone { client: 1 });
        assert!(said.unwrap().contains("before its time"));
        let found: Vec<Found> = (1..=6)
            .map(|number| Found {
                number,
                revision: number,
                version: 1,
                intact: true,
            })
            .collect();
        collector.judge(1, &found);
        let report = collector
            .into_recording(2, String::new(), String::new())
            .report();
        assert_eq!((report.sent, report.lost), (6, 0));
        assert_eq!(report.clients[0].errors, ["ended before its time"]);
        assert!(report.clients[0].ended_early);
        assert_eq!(report.clients[0].corrupted, 0);
    }

    #[test]
    fn only_pings_that_came_back_count_as_kernel_messages() {
        let mut collector = collector();
        collector.take(Event::Ping {
            round_trip_nanos: Ok(90_000),
        });
        collector.take(Event::Ping {
            round_trip_nanos: Err(CliError::usage("x")),
        });
        let pings = collector.pings();
        assert_eq!((pings.round_trips.unwrap().count, pings.failed), (1, 1));
        assert_eq!(pings.error.as_deref(), Some("x"));
    }

    #[test]
    fn a_client_that_cannot_open_its_channel_is_named_with_its_reason() {
        let mut collector = collector();
        say(&mut collector, 1, Line::Ready);
        say(
            &mut collector,
            2,
            Line::Failed {
                text: "no grant".to_owned(),
            },
        );
        assert!(!collector.ready_or_failed(), "its output has not ended yet");
        collector.take(Event::ClientGone { client: 2 });
        assert!(collector.ready_or_failed() && !collector.all_ready());
        assert!(
            collector
                .who_is_not_ready()
                .contains("client 2 on n2: no grant")
        );
    }
}
