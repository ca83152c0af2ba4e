//! Commands that ask a running cluster for something.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use weft_types::{Lane, NodeName, ServiceName};

/// Which program a service runs.
#[derive(Clone, Debug, Args)]
pub struct ProgramArgs {
    /// A program that is built in [default: the one called like the service]
    #[arg(long, value_name = "NAME", conflicts_with = "binary")]
    pub program: Option<String>,
    /// An executable on the node that links the `weft` crate
    #[arg(long, value_name = "PATH")]
    pub binary: Option<PathBuf>,
    /// Arguments for the executable
    #[arg(last = true, requires = "binary")]
    pub arguments: Vec<String>,
}

/// `weft run`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Examples:\n  weft run kv --data n1\n  weft run shop-kv --program kv --on n2 --data n1\n  \
                  weft run shop --binary /opt/shop --data n1 -- --verbose"
)]
pub struct RunArgs {
    /// The name under which clients will find it
    pub service: ServiceName,
    /// What to run.
    #[command(flatten)]
    pub program: ProgramArgs,
    /// On which node [default: the local one]
    #[arg(long, value_name = "NODE")]
    pub on: Option<NodeName>,
}

/// `weft stop`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:\n  weft stop kv --data n1")]
pub struct StopArgs {
    /// Which service
    pub service: ServiceName,
}

/// `weft ps`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Examples:\n  weft ps --data n1\n  weft ps n2 --data n1\n  weft ps --all --json --data n1"
)]
pub struct PsArgs {
    /// Which node [default: the local one]
    pub node: Option<NodeName>,
    /// The local node and all its peers
    #[arg(long, conflicts_with = "node")]
    pub all: bool,
}

/// `weft call` and `weft send`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Examples:\n  weft call kv Put '{\"key\": \"greeting\", \"value\": \"hello\"}' --data n1\n  \
                  weft call kv Get '{\"key\": \"greeting\"}' --data n2 --json\n  \
                  echo '{\"prefix\": \"\"}' | weft call kv Count - --data n1\n  \
                  weft send kv Delete '{\"key\": \"greeting\"}' --data n1"
)]
pub struct CallArgs {
    /// Which service
    pub service: ServiceName,
    /// The message's type, such as Put
    pub message: String,
    /// Its fields as JSON; `-` reads them from stdin
    #[arg(default_value = "{}")]
    pub fields: String,
    /// Priority lane: 0 (most urgent) to 3
    #[arg(long, value_parser = lane)]
    pub lane: Option<Lane>,
}

/// `weft describe`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:\n  weft describe kv --data n1\n  weft describe node/n2 --data n1")]
pub struct DescribeArgs {
    /// Which service
    pub service: ServiceName,
}

/// `weft migrate`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:\n  weft migrate kv --to n2 --data n1")]
pub struct MigrateArgs {
    /// Which service
    pub service: ServiceName,
    /// To which node
    #[arg(long, value_name = "NODE")]
    pub to: NodeName,
}

/// `weft kernel`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Examples:\n  weft kernel ping n3 --data n1\n  weft kernel inventory n2 --data n1"
)]
pub struct KernelArgs {
    /// Which message.
    #[command(subcommand)]
    pub command: KernelCommand,
}

/// The commands of `weft kernel`.
#[derive(Clone, Debug, Subcommand)]
pub enum KernelCommand {
    /// Measure the round trip to a node's daemon
    #[command(
        after_help = "Examples:\n  weft kernel ping n3 --data n1\n  weft kernel ping n3 --from n2 --count 10 --data n1"
    )]
    Ping {
        /// Which node
        node: NodeName,
        /// Let this node's daemon send the ping, and report what it measured
        #[arg(long, value_name = "NODE")]
        from: Option<NodeName>,
        /// How often
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        count: u32,
    },
    /// What a node runs
    #[command(after_help = "Example:\n  weft kernel inventory n2 --data n1")]
    Inventory {
        /// Which node
        node: NodeName,
    },
    /// Where each service of the cluster lives
    #[command(after_help = "Example:\n  weft kernel directory --data n1")]
    Directory {
        /// Which node to ask [default: the local one]
        node: Option<NodeName>,
    },
    /// The latest log lines of a node
    #[command(
        after_help = "Examples:\n  weft kernel log n2 --data n1\n  weft kernel log n2 --after 1200 --limit 50 --data n1"
    )]
    Log {
        /// Which node
        node: NodeName,
        /// The lines after this number, instead of the latest
        #[arg(long, value_name = "NUMBER")]
        after: Option<u64>,
        /// How many lines at most; a node keeps the last 1024
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1024))]
        limit: u32,
    },
    /// Start a service on a node
    #[command(after_help = "Example:\n  weft kernel start n2 shop-kv --program kv --data n1")]
    Start {
        /// On which node
        node: NodeName,
        /// The service's name
        service: ServiceName,
        /// What to run.
        #[command(flatten)]
        program: ProgramArgs,
    },
    /// Stop a service on a node
    #[command(after_help = "Example:\n  weft kernel stop n2 shop-kv --data n1")]
    Stop {
        /// On which node
        node: NodeName,
        /// Which service
        service: ServiceName,
    },
    /// Tell the node where a service lives to move it
    #[command(after_help = "Example:\n  weft kernel migrate n1 kv --to n2 --data n1")]
    Migrate {
        /// The node where it lives
        node: NodeName,
        /// Which service
        service: ServiceName,
        /// To which node
        #[arg(long, value_name = "NODE")]
        to: NodeName,
    },
}

fn lane(text: &str) -> Result<Lane, String> {
    let number: u8 = text
        .parse()
        .map_err(|_| format!("{text:?} is no lane: lanes are 0 to 3"))?;
    Lane::try_from(number)
}

#[cfg(test)]
mod tests {
    use super::super::{Command, tests::parse};
    use super::*;

    #[test]
    fn a_call_has_empty_fields_unless_some_are_given() {
        let Command::Call(call) = parse(&["call", "kv", "Count"]).unwrap().command else {
            panic!("not a call")
        };
        assert_eq!(call.fields, "{}");
        assert_eq!(call.lane, None);
        assert!(parse(&["call", "kv", "Count", "{}", "--lane", "4"]).is_err());
    }

    #[test]
    fn a_program_is_built_in_or_a_path_never_both() {
        assert!(parse(&["run", "kv", "--program", "kv", "--binary", "/bin/kv"]).is_err());
        assert!(
            parse(&["run", "kv", "--", "-v"]).is_err(),
            "arguments need a binary"
        );
        let cli = parse(&["run", "kv", "--binary", "/bin/kv", "--on", "n2", "--", "-v"]).unwrap();
        let Command::Run(run) = cli.command else {
            panic!("not a run")
        };
        assert_eq!(run.program.arguments, ["-v"]);
        assert_eq!(run.on.unwrap().as_str(), "n2");
    }

    #[test]
    fn a_move_needs_its_target() {
        assert!(parse(&["migrate", "kv"]).is_err());
        assert!(parse(&["migrate", "kv", "--to", "n2"]).is_ok());
        assert!(parse(&["kernel", "migrate", "n1", "kv", "--to", "n2"]).is_ok());
    }

    #[test]
    fn a_ping_can_be_sent_from_any_node() {
        let cli = parse(&["kernel", "ping", "n3", "--from", "n2", "--count", "3"]).unwrap();
        let Command::Kernel(KernelArgs {
            command: KernelCommand::Ping { node, from, count },
        }) = cli.command
        else {
            panic!("not a ping")
        };
        assert_eq!(
            (node.as_str(), from.unwrap().as_str(), count),
            ("n3", "n2", 3)
        );
    }
}
