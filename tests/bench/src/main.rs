//! See the library's page.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::{Args, Parser, Subcommand};
use weft_bench::cell::{Cell, Pattern, Transport, Wait};
use weft_bench::local::{self, Plan};
use weft_bench::{Outcome, facts, machine, part, plot, process};

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
    /// Takes about five minutes, with --quick half a minute; longer where the host moves the cores
    /// often (see --limit). Leave the machine alone meanwhile.
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
    /// Pairs of runs that each ratio is the median of; 5, with --quick 1.
    #[arg(long)]
    rounds: Option<u32>,
    /// The length of a run, in milliseconds; 200, with --quick 50. The longer it is, the more runs are
    /// lost to cores that the host moves.
    #[arg(long)]
    ms: Option<u64>,
    /// When to stop measuring again what moved cores have spoilt, in seconds; 900, with --quick 30.
    #[arg(long, value_name = "SECONDS")]
    limit: Option<u64>,
    /// Writes all figures to this file as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draws the table into this file as SVG.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// This program built with `--cfg weft_unchecked`: with it the price of safety is measured.
    #[arg(long, value_name = "PROGRAM")]
    unchecked: Option<PathBuf>,
}

impl Local {
    fn run(&self) -> Outcome {
        ensure!(
            weft_local_ipc::CHECKED,
            "this program was built without checks: give it to another one with --unchecked"
        );
        if let Some(program) = &self.unchecked {
            ensure!(
                program.is_file(),
                "no program {}: build it with RUSTFLAGS=\"--cfg weft_unchecked\" and a --target-dir of its own",
                program.display()
            );
        }
        let (rounds, millis, limit) = if self.quick {
            (1, 50, 30)
        } else {
            (5, 200, 900)
        };
        let plan = Plan {
            rounds: self.rounds.unwrap_or(rounds).max(1),
            millis: self.ms.unwrap_or(millis).max(1),
            limit: Duration::from_secs(self.limit.unwrap_or(limit)),
            unchecked: self.unchecked.clone(),
        };
        // Before the time is spent.
        let mut json = create(self.json.as_deref())?;
        let mut picture = create(self.plot.as_deref())?;
        let report = local::fill(plan)?;
        print!("{}", report.text());
        if let Some(file) = &mut json {
            serde_json::to_writer_pretty(file, &report)?;
        }
        if let Some(file) = &mut picture {
            file.write_all(plot::svg(&report).as_bytes())?;
        }
        Ok(())
    }
}

fn create(path: Option<&Path>) -> Outcome<Option<File>> {
    path.map(|path| File::create(path).with_context(|| format!("cannot write {}", path.display())))
        .transpose()
}

#[derive(Args, Debug)]
struct Contender {
    /// lat: round trips. tput: one sender, one way. fanin: several senders to one receiver. first: the
    /// first message on one of an inbox's channels that have gone cold.
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
    /// Channels beside those of the senders on which nothing comes; of `first`, all channels.
    #[arg(long, default_value_t = 0)]
    idle: usize,
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
            Transport::Weft
                if self.idle > 0
                    || self.pattern == Pattern::First
                    || fanin && self.wait != Wait::Spin =>
            {
                Transport::WeftInbox
            }
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
            idle: self.idle,
            unchecked: false,
        })
    }
}

fn run() -> Outcome {
    if std::env::var_os(process::PART).is_some() {
        return part::play();
    }
    match Arguments::parse().command {
        Command::Contender(contender) => {
            let figures = process::measure(&contender.cell()?, None, || Ok(()))?;
            println!("{}", serde_json::to_string(&figures)?);
        }
        Command::Facts { messages } => {
            println!("{}", serde_json::to_string(&facts::find(messages)?)?);
        }
        Command::Local(options) => {
            options.run()?;
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
