//! How long does a message take to another process and back, and how many go through?
//!
//! Weft on one machine and between two nodes, beside what it is made of (one shared slot, the ring)
//! and what it competes with (a Unix socket, raw quinn), all measured in the same run:
//!
//! ```text
//! cargo bench -p weft-tests --bench round_trip [-- --quick] [-- --json] [-- --only WORDS]
//! ```
//!
//! `--only` takes a part of a table's title or of a row's name.
//!
//! What makes the rows comparable, and what does not:
//!
//! - Each row is the median of a few short runs, each with fresh processes and a fresh channel. The
//!   rounds go through all rows in turn, so that a slow minute hits all of them.
//! - One side runs on one core, the other on another. The host of a virtual machine may move its
//!   cores, which changes every spinning row up to five times over: so a bare cache line is sent to
//!   and fro before and after each run, and only runs of one placement are counted.
//! - A receiver that is awake and one that has to be woken are two questions with answers that lie a
//!   hundred times apart. No row mixes them: each tells how often its processes slept, and is marked
//!   if that is not what it is called.
//! - A question is 16 bytes long everywhere, about as a `Get`; the sizes in the tables are those of
//!   the answers.
//! - Every time is what the asking side saw, less what reading the clock costs.
//!
//! The nodes are started once and kept, with `kv` on n2; its clients are fresh in each run.
//!
//! Not here: memory, many clients, moves (the demo tells of those).

mod fabric;
mod measure;
mod plan;
mod quic;
mod report;
mod ring;
mod role;
mod run;
mod slot;
mod table;
mod unix;

use std::process::ExitCode;

use run::Options;

/// What can go wrong here ends the run, so nobody has to tell errors apart.
type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let outcome = match role::own_part() {
        Some(part) => part.and_then(role::play),
        None => Options::parse(std::env::args().skip(1)).and_then(run::run),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("round_trip: {error}");
            ExitCode::FAILURE
        }
    }
}
