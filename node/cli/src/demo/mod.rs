//! `weft demo`: a whole cluster on this machine, under load, with a service that moves.
//!
//! The runner uses nothing that a person could not use: it runs `weft ca`, `weft grant` and `weft
//! node` as processes, attaches as a client, and asks the nodes' daemons to start and move the
//! service. Clients are processes of their own, so that their messages take the same way as any
//! app's.
//!
//! One thread (the caller's) starts all processes and collects what happens as [`Event`]s; the others
//! wait for one thing each: a client's output (`fleet`), the next move or ping (`traffic`). The
//! verdict (`check`) and the figures (`latency`, `report`) are arithmetic over what was recorded.

mod check;
mod client;
mod cluster;
mod collect;
mod corpus;
mod data;
mod fleet;
mod html;
mod interrupt;
mod latency;
mod lines;
mod progress;
mod report;
mod text;
mod traffic;
mod workspace;

use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use weft_node_control::{Program, Start};
use weft_types::{NodeName, ServiceName};

use self::cluster::Cluster;
use self::collect::Collector;
use self::corpus::Corpus;
use self::fleet::Fleet;
use self::interrupt::Interrupt;
use self::lines::{Line, monotonic_nanos};
use self::progress::Progress;
use self::report::{MoveRecord, Recording};
use self::text::Surroundings;
use self::traffic::Schedule;
use self::workspace::Workspace;
use crate::arguments::{DEMO_SERVICE, DemoArgs};
use crate::connection::Connection;
use crate::error::{CliError, Exit};
use crate::output::{Output, thousands};

pub(crate) use self::client::run as run_client;
pub(crate) use self::workspace::{clear_up_after_stdin, die_with_parent};

/// How long all clients together may take until their channels are open.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the runner sleeps if nothing happens.
const TICK: Duration = Duration::from_millis(50);

/// Something that happened during the run.
#[derive(Debug)]
enum Event {
    /// A client said something.
    Client { client: u32, line: Line },
    /// A client's output has ended.
    ClientGone { client: u32 },
    /// A move begins.
    MoveBegins { to: NodeName },
    /// A move is over.
    Move(MoveRecord),
    /// There are no more moves to come.
    MovesDone,
    /// One daemon pinged another.
    Ping {
        round_trip_nanos: Result<u64, CliError>,
    },
}

/// Runs the demo. A broken promise shows in the output's exit, not as an error.
pub(crate) fn run(args: &DemoArgs) -> Result<Output, CliError> {
    let interrupt = Interrupt::listen()?;
    // What the user gave is checked before anything is started.
    let corpus = Corpus::open(args.load.as_deref())?;
    if let Some(directory) = &args.report {
        std::fs::create_dir_all(directory).map_err(|error| {
            CliError::usage(format!("--report {}: {error}", directory.display()))
        })?;
    }
    let mut progress = Progress::new();
    let workspace = Workspace::create(args.keep.as_deref())?;
    progress.say(&format!(
        "starting {} nodes in {}",
        args.nodes,
        workspace.path().display()
    ));
    let cluster = Cluster::start(workspace.path(), args.nodes, args.clients, &interrupt)?;
    let mut stage = Stage {
        args,
        interrupt,
        progress,
        cluster,
        service: ServiceName::new(DEMO_SERVICE)
            .map_err(|error| CliError::internal("name", error))?,
    };
    let (recording, around) = stage.play(corpus)?;
    finish(args, &recording, &around)
}

/// What the acts of the demo share.
struct Stage<'a> {
    args: &'a DemoArgs,
    interrupt: Interrupt,
    progress: Progress,
    cluster: Cluster,
    service: ServiceName,
}

impl Stage<'_> {
    /// The whole run: load, traffic, scan.
    fn play(&mut self, corpus: Corpus) -> Result<(Recording, Surroundings), CliError> {
        let connections = self.cluster.connect()?;
        let first = &connections[0];
        first.local_kernel()?.ask(&Start {
            name: self.service.clone(),
            program: Program::Builtin(DEMO_SERVICE.to_owned()),
        })?;
        let mut endpoint = data::open_fresh(first, &self.service, &self.interrupt)?;
        let (title, keys) = (corpus.title.clone(), corpus.lines.len());
        self.progress.say(&format!(
            "loading {} keys from {title}",
            thousands(keys as u64)
        ));
        let load_began = Instant::now();
        let progress = &mut self.progress;
        data::load(&mut endpoint, corpus, &self.interrupt, |done| {
            progress.now(|| format!("loaded {}", thousands(done as u64)));
        })?;
        let load_seconds = load_began.elapsed().as_secs_f64();
        let digest_before = data::digest(&mut endpoint)?;

        let mut collector = self.traffic(&connections)?;

        self.progress.say("reading everything back");
        for client in 1..=self.args.clients {
            let found = data::scan_client(&mut endpoint, client, &self.interrupt)?;
            collector.judge(client, &found);
            self.progress
                .now(|| format!("read back client {client} of {}", self.args.clients));
        }
        let digest_after = data::digest(&mut endpoint)?;
        let pings = collector.pings();
        let recording = collector.into_recording(connections.len(), digest_before, digest_after);
        let around = Surroundings {
            corpus: title,
            keys,
            load_seconds,
            latencies: recording.all_latencies(),
            pings,
        };
        Ok((recording, around))
    }

    /// Clients, moves and pings, until the time is over and the last move is done.
    fn traffic(&mut self, connections: &[Connection]) -> Result<Collector, CliError> {
        let (events, happenings) = mpsc::channel();
        let nodes: Vec<String> = self
            .cluster
            .nodes()
            .iter()
            .map(|node| node.name.to_string())
            .collect();
        let mut collector = Collector::new(self.args.clients, &nodes);
        self.progress.say(&format!(
            "{} clients on {} nodes, {} messages a second, {} moves in {} s",
            self.args.clients,
            nodes.len(),
            thousands(self.args.rate.into()),
            self.args.moves(),
            self.args.seconds
        ));
        let mut fleet = Fleet::start(
            self.cluster.nodes(),
            self.args.clients,
            self.args.rate,
            &events,
        )?;
        self.collect(
            &happenings,
            &mut collector,
            Instant::now() + READY_TIMEOUT,
            Collector::ready_or_failed,
        )?;
        if !collector.all_ready() {
            return Err(CliError::Internal(collector.who_is_not_ready()));
        }

        let pings = traffic::start_pings(connections.to_vec(), events.clone())?;
        let length = Duration::from_secs(self.args.seconds.into());
        let began_nanos = monotonic_nanos();
        collector.begin(began_nanos);
        fleet.begin()?;
        let began = Instant::now();
        let schedule = Schedule {
            moves: self.args.moves(),
            over: length,
        };
        let moves = traffic::start_moves(
            connections.to_vec(),
            self.service.clone(),
            schedule,
            began_nanos,
            events,
        )?;
        // The load lasts as long as was asked, and longer if the moves take longer.
        self.collect(&happenings, &mut collector, began + length, |_| false)?;
        let endless = began + length * 10 + Duration::from_secs(600);
        self.collect(
            &happenings,
            &mut collector,
            endless,
            Collector::moves_are_done,
        )?;
        drop(pings);
        drop(moves);
        fleet.stop();
        self.collect(
            &happenings,
            &mut collector,
            Fleet::stop_deadline(),
            Collector::all_gone,
        )?;
        collector.end(began.elapsed());
        Ok(collector)
    }

    /// Takes in what happens until `enough` or the deadline.
    fn collect(
        &mut self,
        happenings: &Receiver<Event>,
        collector: &mut Collector,
        deadline: Instant,
        enough: impl Fn(&Collector) -> bool,
    ) -> Result<(), CliError> {
        while !enough(collector) && Instant::now() < deadline {
            self.interrupt.check()?;
            self.cluster.check()?;
            let left = deadline.saturating_duration_since(Instant::now());
            match happenings.recv_timeout(left.min(TICK)) {
                Ok(event) => {
                    if let Some(line) = collector.take(event) {
                        self.progress.say(&line);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                // Every thread that could tell something has ended.
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            self.progress.now(|| collector.progress_line());
        }
        Ok(())
    }
}

/// Writes and words the report.
fn finish(
    args: &DemoArgs,
    recording: &Recording,
    around: &Surroundings,
) -> Result<Output, CliError> {
    let report = recording.report();
    let json =
        serde_json::to_value(&report).map_err(|error| CliError::internal("report", error))?;
    let mut text = text::render(&report, around);
    if let Some(directory) = &args.report {
        write(&directory.join("report.json"), &format!("{json:#}\n"))?;
        write(
            &directory.join("report.html"),
            &html::render(&json, recording)?,
        )?;
        text.push_str(&format!("report in {}\n", directory.display()));
    }
    let broken = report.broken_promises();
    let failed_moves = report
        .moves
        .iter()
        .filter(|one| one.error.is_some())
        .count();
    let ended_early = report.clients.iter().filter(|one| one.ended_early).count();
    let mut output = Output::new(text, json);
    if !broken.is_empty() {
        output.exit = Exit::Broken;
        output
            .text
            .push_str(&format!("BROKEN: {}\n", broken.join(", ")));
    } else if failed_moves + ended_early > 0 {
        output.exit = Exit::Internal;
        output.text.push_str(&format!(
            "no message was harmed, but moves that failed: {failed_moves}, clients that ended before their time: {ended_early}\n"
        ));
    }
    Ok(output)
}

fn write(path: &Path, content: &str) -> Result<(), CliError> {
    std::fs::write(path, content).map_err(|error| CliError::internal(path.display(), error))
}
