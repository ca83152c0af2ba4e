//! `weft demo` and the processes it starts.

use std::path::PathBuf;

use clap::Args;
use weft_types::ServiceName;

/// The name of the service that the demo loads and moves.
pub const DEMO_SERVICE: &str = "kv";

/// `weft demo`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Examples:\n  weft demo\n  weft demo --seconds 60 --moves 12 --report demo-report\n  \
                  weft demo --load /usr/share/dict/words --clients 12 --rate 4000 --json"
)]
pub struct DemoArgs {
    /// How long the clients send, in seconds
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(2..=86_400))]
    pub seconds: u32,
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(2..=9))]
    pub nodes: u32,
    /// How many clients, spread over the nodes
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub clients: u32,
    /// Numbered messages each second, of all clients together; they read back a part of them as well
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rate: u32,
    /// How often the service moves [default: every five seconds, at least three times]
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub moves: Option<u32>,
    /// A text file to load first, one key for each line [default: sources of Weft]
    #[arg(long, value_name = "FILE")]
    pub load: Option<PathBuf>,
    /// Write report.json and report.html into this directory
    #[arg(long, value_name = "DIR")]
    pub report: Option<PathBuf>,
    /// Keep the cluster's directory (certificates, logs) here instead of a temporary one
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
}

impl DemoArgs {
    /// How often the service moves in this run.
    #[must_use]
    pub fn moves(&self) -> u32 {
        self.moves.unwrap_or_else(|| (self.seconds / 5).max(3))
    }
}

/// `weft demo-client`: started by `weft demo` only. It sends until its stdin ends.
#[derive(Clone, Debug, Args)]
pub struct DemoClientArgs {
    /// Number of this client, from 1
    #[arg(long)]
    pub id: u32,
    /// Numbered messages each second
    #[arg(long)]
    pub rate: f64,
    /// How many messages may be in flight
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub window: u32,
    /// Which service
    #[arg(long, default_value = DEMO_SERVICE)]
    pub service: ServiceName,
    /// End when this process, which must be the parent, ends
    #[arg(long, value_name = "PID")]
    pub die_with_parent: Option<u32>,
}

/// `weft demo-janitor`: started by `weft demo` only. When its stdin ends, it ends what still runs in
/// the directory and removes it.
#[derive(Clone, Debug, Args)]
pub struct DemoJanitorArgs {
    /// The directory to remove
    pub directory: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::super::{Command, tests::parse};
    use super::*;

    fn demo(words: &[&str]) -> Result<DemoArgs, clap::Error> {
        let all: Vec<&str> = std::iter::once("demo")
            .chain(words.iter().copied())
            .collect();
        match parse(&all)?.command {
            Command::Demo(demo) => Ok(demo),
            other => panic!("not a demo: {other:?}"),
        }
    }

    #[test]
    fn the_service_moves_at_least_three_times_unless_told_otherwise() {
        assert_eq!(demo(&[]).unwrap().moves(), 4);
        assert_eq!(demo(&["--seconds", "5"]).unwrap().moves(), 3);
        assert_eq!(demo(&["--seconds", "60"]).unwrap().moves(), 12);
        assert_eq!(demo(&["--moves", "7"]).unwrap().moves(), 7);
    }

    #[test]
    fn sizes_that_make_no_sense_are_usage_errors() {
        for words in [
            ["--nodes", "1"],
            ["--clients", "0"],
            ["--rate", "0"],
            ["--seconds", "1"],
        ] {
            assert_eq!(demo(&words).unwrap_err().exit_code(), 2, "{words:?}");
        }
    }
}
