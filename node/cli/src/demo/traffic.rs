//! What goes on between the nodes during the run: the moves, and the daemons' pings.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use weft_node_control::{Migrate, PingPeer};
use weft_types::{NodeName, ServiceName};

use super::Event;
use super::lines::monotonic_nanos;
use super::report::{MoveOutcome, MoveRecord};
use crate::connection::{Connection, Kernel};
use crate::error::CliError;

/// How long a move may take before the runner stops waiting for it.
const MOVE_TIMEOUT: Duration = Duration::from_secs(60);

/// Time between two pings, over all pairs of nodes.
const PING_EVERY: Duration = Duration::from_millis(20);

/// A thread of the runner that is told to stop when this is dropped.
///
/// Nobody waits for it: it may be in a call that takes a minute, and the end of the process ends it.
#[derive(Debug)]
pub(crate) struct Worker {
    stop: Arc<AtomicBool>,
}

impl Worker {
    fn start(
        name: &str,
        work: impl FnOnce(&AtomicBool) + Send + 'static,
    ) -> Result<Self, CliError> {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || work(&flag))
            .map_err(|error| CliError::internal("thread", error))?;
        Ok(Self { stop })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // ORDER(stop): Relaxed; the flag guards no other data, here and where it is read.
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// When and how often the service moves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    pub(crate) moves: u32,
    pub(crate) over: Duration,
}

impl Schedule {
    /// When a move begins, after the start: evenly spaced, with load before the first and after the
    /// last.
    fn begin_of(self, position: u32) -> Duration {
        self.over * (position + 1) / (self.moves + 1)
    }
}

/// Moves the service from node to node. It is on the first one now, at `began_nanos` of the
/// monotonic clock.
pub(crate) fn start_moves(
    connections: Vec<Connection>,
    service: ServiceName,
    schedule: Schedule,
    began_nanos: u64,
    events: Sender<Event>,
) -> Result<Worker, CliError> {
    let began = Instant::now();
    Worker::start("moves", move |stop| {
        let mut owner = 0;
        for position in 0..schedule.moves {
            if !sleep_until(began + schedule.begin_of(position), stop) {
                return;
            }
            let (from, to) = (
                &connections[owner],
                &connections[(owner + 1) % connections.len()],
            );
            let _ = events.send(Event::MoveBegins {
                to: to.node().clone(),
            });
            let started = monotonic_nanos();
            let outcome = migrate(from, &service, to.node());
            let record = MoveRecord {
                from: from.node().to_string(),
                to: to.node().to_string(),
                started_nanos: started.saturating_sub(began_nanos),
                ended_nanos: monotonic_nanos().saturating_sub(began_nanos),
                outcome: outcome.map_err(|error| error.to_string()),
            };
            if record.outcome.is_ok() {
                owner = (owner + 1) % connections.len();
            }
            if events.send(Event::Move(record)).is_err() {
                return;
            }
        }
        let _ = events.send(Event::MovesDone);
    })
}

fn migrate(
    from: &Connection,
    service: &ServiceName,
    to: &NodeName,
) -> Result<MoveOutcome, CliError> {
    let mut kernel = from.local_kernel()?;
    let migrate = Migrate {
        service: service.clone(),
        to: to.clone(),
    };
    let report = kernel.ask_within(&migrate, MOVE_TIMEOUT)?.report;
    Ok(MoveOutcome {
        epoch: report.epoch.get(),
        steps: report
            .steps_ms
            .into_iter()
            .map(|step| (step.step, step.milliseconds))
            .collect(),
        bytes: report.bytes,
        channels: report.channels,
        blackout_ms: report.blackout_ms,
    })
}

/// Has the nodes' daemons ping each other, each pair in turn, until told to stop.
pub(crate) fn start_pings(
    connections: Vec<Connection>,
    events: Sender<Event>,
) -> Result<Worker, CliError> {
    let pairs: Vec<(usize, NodeName)> = (0..connections.len())
        .flat_map(|from| (0..connections.len()).map(move |to| (from, to)))
        .filter(|(from, to)| from != to)
        .map(|(from, to)| (from, connections[to].node().clone()))
        .collect();
    let mut kernels: Vec<Kernel> = connections
        .iter()
        .map(Connection::local_kernel)
        .collect::<Result<_, _>>()?;
    Worker::start("pings", move |stop| {
        for (from, to) in pairs.iter().cycle() {
            if !sleep_until(Instant::now() + PING_EVERY, stop) {
                return;
            }
            let pong = kernels[*from].ask(&PingPeer { node: to.clone() });
            let event = Event::Ping {
                round_trip_nanos: pong.map(|pong| pong.round_trip_nanos),
            };
            if events.send(event).is_err() {
                return;
            }
        }
    })
}

/// Sleeps in short naps; false if told to stop meanwhile.
fn sleep_until(deadline: Instant, stop: &AtomicBool) -> bool {
    loop {
        // ORDER(stop): Relaxed; as where it is stored.
        if stop.load(Ordering::Relaxed) {
            return false;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        std::thread::sleep(left.min(Duration::from_millis(50)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_are_spaced_evenly_with_load_on_both_sides() {
        let schedule = Schedule {
            moves: 3,
            over: Duration::from_secs(20),
        };
        let begins: Vec<u64> = (0..3)
            .map(|position| schedule.begin_of(position).as_secs())
            .collect();
        assert_eq!(begins, [5, 10, 15]);
    }

    #[test]
    fn a_worker_stops_when_its_owner_is_gone() {
        let (done, ended) = std::sync::mpsc::channel();
        let worker = Worker::start("test", move |stop| {
            let slept = sleep_until(Instant::now() + Duration::from_secs(60), stop);
            done.send(slept).unwrap();
        });
        drop(worker.unwrap());
        assert_eq!(ended.recv_timeout(Duration::from_secs(10)), Ok(false));
    }
}
