//! See the library's page.

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::{Args, Parser, Subcommand};
use weft_bench::cell::{Cell, Pattern, Transport, Wait};
use weft_bench::local::{self, Plan};
use weft_bench::{Outcome, facts, machine, part, process};

/// Measures how fast messages go, beside what they could at best do and beside others.
#[derive(Debug, Parser)]
#[command(name = "weft-bench", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measures one cell and prints one JSON object.
    ///
    /// For `lat`: p50_ns, p99_ns, p999_ns, mean_ns, min_ns, n. For `tput` and `fanin`: msgs_per_s, n.
    Contender(Contender),
    /// Measures the whole table of one machine: Weft, floors and rivals in one run.
    ///
    /// Takes about five minutes, with --quick a few seconds. Leave the machine alone meanwhile.
    Local(Local),
    /// Finds what a sleeping receiver costs, how often it is woken, and that it always is; prints one
    /// JSON object.
    Facts {
        /// Messages to a receiver that parks at random.
        #[arg(long, default_value_t = 1_000_000_000)]
        messages: u64,
    },
}

#[derive(Args, Debug)]
struct Local {
    /// One short run of each cell: to see that it works, not to compare.
    #[arg(long)]
    quick: bool,
    /// Runs of each cell; 5, with --quick 1.
    #[arg(long)]
    rounds: Option<u32>,
    /// The length of a run, in milliseconds; 1000, with --quick 50.
    #[arg(long)]
    ms: Option<u64>,
    /// Writes all figures to this file as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct Contender {
    /// lat: round trips. tput: one sender, one way. fanin: several senders to one receiver.
    pattern: Pattern,
    /// Bytes of a message's payload, at least 8.
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// How long to measure, in milliseconds.
    #[arg(long, default_value_t = 500)]
    ms: u64,
    /// The core of the sending (or asking) processes, and that of the receiver. Without it the first two
    /// that this process may use.
    #[arg(long, value_delimiter = ',', num_args = 1..)]
    cores: Vec<usize>,
    /// How many senders there are, for `fanin`.
    #[arg(long, default_value_t = 8)]
    senders: usize,
    /// What receivers do while there is nothing.
    #[arg(long, value_enum, default_value_t = Wait::Spin)]
    wait: Wait,
    /// How many messages a sender gives out in one row. 1: it looks after each whether the receiver
    /// sleeps.
    #[arg(long, default_value_t = 32)]
    row: u64,
    /// Who carries the messages.
    #[arg(long, value_enum, default_value_t = Transport::Weft)]
    transport: Transport,
}

impl Contender {
    fn cell(&self) -> Outcome<Cell> {
        let cores = match self.cores[..] {
            [] => machine::Cores::find().map(|cores| [cores.ask, cores.answer])?,
            [one] => [one, one],
            [a, b, ..] => [a, b],
        };
        ensure!(self.size >= 8, "a message has at least 8 bytes");
        ensure!(self.senders >= 1, "there has to be a sender");
        ensure!(self.row >= 1, "a row has at least a message");
        let fanin = self.pattern == Pattern::Fanin;
        let transport = match self.transport {
            // Who sleeps on several channels has an inbox.
            Transport::Weft if fanin && self.wait != Wait::Spin => Transport::WeftInbox,
            transport => transport,
        };
        ensure!(
            !fanin || self.wait == Wait::Spin || transport == Transport::WeftInbox,
            "of several senders, only those of an inbox are waited for asleep"
        );
        Ok(Cell {
            transport,
            pattern: self.pattern,
            size: self.size,
            millis: self.ms,
            cores,
            senders: match self.pattern {
                Pattern::Fanin => self.senders,
                _ => 1,
            },
            wait: self.wait,
            row: self.row,
            pause_micros: 0,
        })
    }
}

fn run() -> Outcome {
    if std::env::var_os(process::PART).is_some() {
        return part::play();
    }
    match Arguments::parse().command {
        Command::Contender(contender) => {
            let figures = process::measure(&contender.cell()?)?;
            println!("{}", serde_json::to_string(&figures)?);
        }
        Command::Facts { messages } => {
            println!("{}", serde_json::to_string(&facts::find(messages)?)?);
        }
        Command::Local(options) => {
            let (rounds, millis) = if options.quick { (1, 50) } else { (5, 1000) };
            let plan = Plan {
                rounds: options.rounds.unwrap_or(rounds).max(1),
                millis: options.ms.unwrap_or(millis).max(1),
            };
            // Before the time is spent.
            let mut json = options
                .json
                .map(|path| {
                    File::create(&path).with_context(|| format!("cannot write {}", path.display()))
                })
                .transpose()?;
            let report = local::fill(plan)?;
            print!("{}", report.text());
            if let Some(file) = &mut json {
                serde_json::to_writer_pretty(file, &report)?;
            }
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weft-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
