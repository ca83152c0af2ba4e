//! One client of the demo: a process that puts numbered messages and reads them back.
//!
//! It never repeats a message by itself: what the fabric promises (exactly once, in order) must show
//! without any help from here. A message that failed is counted, and the scan at the end tells
//! whether it took effect.

use std::collections::VecDeque;
use std::io::{BufRead as _, Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kv_messages::{Get, GetReply, Kv, Put, PutReply};
use weft::{Endpoint, Ticket};

use super::lines::{Line, Totals, monotonic_nanos};
use super::workspace::die_with_parent;
use crate::arguments::{DemoClientArgs, Global};
use crate::connection::Connection;
use crate::error::CliError;

/// How long a message may take before it counts as failed. Longer than any move should.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);

/// How many messages fall due together, so that several are in flight.
const BURST: u64 = 4;

/// Every so many numbers, one is read back.
const READ_EVERY: u64 = 8;

/// How often the runner hears from us.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// How many errors are kept in words.
const MAX_ERRORS: usize = 5;

/// The prefix of the keys of one client.
pub(crate) fn key_prefix(client: u32) -> String {
    format!("client/{client}/")
}

/// The key of one number.
fn key(client: u32, number: u64) -> String {
    format!("{}{number:010}", key_prefix(client))
}

/// The value of one number: anybody can tell whether it is the right one.
///
/// Sizes differ, so that messages take both ways, within a slot and beside it.
pub(crate) fn value(client: u32, number: u64) -> Vec<u8> {
    let length = if number.is_multiple_of(16) {
        2048
    } else {
        32 + (number * 37 % 200) as usize
    };
    let unit = format!("client {client} message {number}; ");
    unit.bytes().cycle().take(length).collect()
}

/// Runs a client until its stdin ends. The outcome, an error too, goes to stdout as a line.
pub(crate) fn run(args: &DemoClientArgs, global: &Global) -> Result<(), CliError> {
    if let Some(parent) = args.die_with_parent {
        die_with_parent(parent)?;
    }
    let outcome = attach(args, global);
    let mut client = match outcome {
        Ok(client) => client,
        Err(error) => {
            write_line(&Line::Failed {
                text: error.to_string(),
            })?;
            return Err(error);
        }
    };
    write_line(&Line::Ready)?;
    let stop = wait_for_start()?;
    client.send_until(&stop)?;
    write_line(&Line::Done(client.totals))
}

fn attach(args: &DemoClientArgs, global: &Global) -> Result<Client, CliError> {
    let connection = Connection::attach(global)?;
    Ok(Client {
        id: args.id,
        rate: args.rate.max(0.001),
        window: args.window as usize,
        endpoint: connection.open(&args.service)?,
        in_flight: VecDeque::new(),
        answers: Vec::new(),
        totals: Totals::default(),
        latest_revision: 0,
    })
}

/// Waits for the line that says "begin"; the flag rises when stdin ends.
fn wait_for_start() -> Result<Arc<AtomicBool>, CliError> {
    let mut line = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut line)
        .map_err(|error| CliError::internal("stdin", error))?;
    let stop = Arc::new(AtomicBool::new(line.is_empty()));
    let flag = Arc::clone(&stop);
    std::thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(move || {
            let mut rest = Vec::new();
            let _ = std::io::stdin().lock().take(1 << 16).read_to_end(&mut rest);
            // ORDER(stop): Relaxed; the flag guards no other data, here and where it is read.
            flag.store(true, Ordering::Relaxed);
        })
        .map_err(|error| CliError::internal("thread", error))?;
    Ok(stop)
}

/// A message whose answer has not come yet.
#[derive(Debug)]
enum Waiting {
    Put {
        ticket: Ticket<PutReply>,
    },
    Get {
        number: u64,
        ticket: Ticket<GetReply>,
    },
}

#[derive(Debug)]
struct Client {
    id: u32,
    rate: f64,
    window: usize,
    endpoint: Endpoint<Kv>,
    /// The oldest first, each with the time at which it was sent.
    in_flight: VecDeque<(u64, Waiting)>,
    answers: Vec<(u64, u64)>,
    totals: Totals,
    latest_revision: u64,
}

impl Client {
    /// Sends at its rate until told to stop, then waits for what is in flight.
    ///
    /// Messages that fell due while the window was full are sent as soon as it opens: a move slows
    /// the client down for a moment but does not make it send less.
    fn send_until(&mut self, stop: &AtomicBool) -> Result<(), CliError> {
        let began = Instant::now();
        let mut reported = began;
        loop {
            // ORDER(stop): Relaxed; as where it is stored.
            let stopped = stop.load(Ordering::Relaxed);
            while !stopped && self.in_flight.len() < self.window && self.due(began).is_zero() {
                self.send_next();
            }
            if self.in_flight.is_empty() {
                if stopped {
                    break;
                }
                std::thread::sleep(self.due(began).min(PROGRESS_EVERY));
            } else {
                self.await_oldest();
            }
            if reported.elapsed() >= PROGRESS_EVERY {
                reported = Instant::now();
                self.report()?;
            }
        }
        self.report()
    }

    /// How long until the next burst falls due.
    fn due(&self, began: Instant) -> Duration {
        let burst = self.totals.sent / BURST * BURST;
        Duration::from_secs_f64(burst as f64 / self.rate).saturating_sub(began.elapsed())
    }

    fn send_next(&mut self) {
        let number = self.totals.sent + 1;
        self.totals.sent = number;
        let put = Put {
            key: key(self.id, number),
            value: value(self.id, number),
        };
        let now = monotonic_nanos();
        match self.endpoint.send(&put) {
            Ok(ticket) => self.in_flight.push_back((now, Waiting::Put { ticket })),
            Err(error) => self.fail(&format!("put {number}: {error}")),
        }
        if number.is_multiple_of(READ_EVERY) {
            // In turn the number that was just put (it must be there, being before us in the lane)
            // and one from the middle of the past.
            let wanted = if number.is_multiple_of(2 * READ_EVERY) {
                number
            } else {
                number / 2
            };
            self.send_read(wanted.max(1));
        }
    }

    fn send_read(&mut self, number: u64) {
        let get = Get {
            key: key(self.id, number),
        };
        let now = monotonic_nanos();
        match self.endpoint.send(&get) {
            Ok(ticket) => self
                .in_flight
                .push_back((now, Waiting::Get { number, ticket })),
            Err(error) => self.fail(&format!("get {number}: {error}")),
        }
    }

    fn await_oldest(&mut self) {
        let Some((sent, waiting)) = self.in_flight.pop_front() else {
            return;
        };
        let outcome = match waiting {
            Waiting::Put { ticket } => self.await_put(ticket),
            Waiting::Get { number, ticket } => self.await_get(number, ticket),
        };
        match outcome {
            Ok(()) => {
                let now = monotonic_nanos();
                self.answers.push((now, now.saturating_sub(sent)));
            }
            Err(error) => self.fail(&error.to_string()),
        }
    }

    fn await_put(&mut self, ticket: Ticket<PutReply>) -> Result<(), weft::Error> {
        let reply = self.endpoint.wait(ticket, MESSAGE_TIMEOUT)?;
        self.totals.acknowledged += 1;
        if reply.version != 1 || reply.revision <= self.latest_revision {
            self.totals.out_of_order += 1;
            self.note(format!(
                "version {} at revision {} after revision {}",
                reply.version, reply.revision, self.latest_revision
            ));
        }
        self.latest_revision = self.latest_revision.max(reply.revision);
        Ok(())
    }

    fn await_get(&mut self, number: u64, ticket: Ticket<GetReply>) -> Result<(), weft::Error> {
        let reply = self.endpoint.wait(ticket, MESSAGE_TIMEOUT)?;
        self.totals.reads += 1;
        let expected = value(self.id, number);
        if reply.entry.is_none_or(|entry| entry.value != expected) {
            self.totals.out_of_order += 1;
            self.note(format!("number {number} was put but not read back"));
        }
        Ok(())
    }

    fn fail(&mut self, error: &str) {
        self.totals.failed += 1;
        self.note(error.to_owned());
        // A channel that is gone fails at once; this keeps the loop from spinning on it.
        std::thread::sleep(Duration::from_millis(1));
    }

    fn note(&mut self, error: String) {
        if self.totals.errors.len() < MAX_ERRORS {
            self.totals.errors.push(error);
        }
    }

    fn report(&mut self) -> Result<(), CliError> {
        write_line(&Line::Progress {
            sent: self.totals.sent,
            acknowledged: self.totals.acknowledged,
            answers: std::mem::take(&mut self.answers),
        })
    }
}

fn write_line(line: &Line) -> Result<(), CliError> {
    let mut text = serde_json::to_vec(line).map_err(|error| CliError::internal("line", error))?;
    text.push(b'\n');
    let mut out = std::io::stdout().lock();
    out.write_all(&text)
        .and_then(|()| out.flush())
        .map_err(|error| CliError::internal("stdout", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_as_their_numbers_and_clients_do_not_share_a_prefix() {
        assert!(key(1, 9) < key(1, 10));
        assert!(!key(12, 1).starts_with(&key_prefix(1)));
    }

    #[test]
    fn a_value_tells_its_client_and_number_and_some_are_large() {
        assert!(value(3, 17).starts_with(b"client 3 message 17;"));
        assert_ne!(value(3, 17), value(3, 18));
        assert_eq!(value(3, 32).len(), 2048);
        assert!((1..100).all(|number| value(1, number).len() >= 32));
    }
}
