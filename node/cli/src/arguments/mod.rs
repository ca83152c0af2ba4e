//! The command line as types: what can be typed, and the help that teaches it.
//!
//! Names are checked here, where they enter; behind this module a `ServiceName` is valid. Each
//! command's help has one paragraph, its arguments and an example that works.

mod control;
mod demo;
mod roles;
mod values;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use weft_types::ServiceName;

pub use control::{
    CallArgs, DescribeArgs, KernelArgs, KernelCommand, MigrateArgs, ProgramArgs, PsArgs, RunArgs,
    StopArgs,
};
pub use demo::{DEMO_SERVICE, DemoArgs, DemoClientArgs, DemoJanitorArgs};
pub use roles::{
    CaArgs, CaCommand, CaInitArgs, CaNodeArgs, GatewayArgs, GrantArgs, GrantTarget, NodeArgs, Peer,
    ServiceArgs,
};

use crate::error::{CliError, EXIT_CODES};

/// The name of a node's socket in its data directory.
pub const SOCKET_NAME: &str = "weft.sock";

/// What a newcomer types first: the whole at once, then by hand.
const EXAMPLES: &str = "\
Examples:
  weft demo
  weft ca init --dir ca --cluster shop && weft ca node n1 --dir ca --out n1
  weft node --data n1 --listen 127.0.0.1:7001
  weft run kv --data n1
  weft call kv Put '{\"key\": \"tea\", \"value\": \"green\"}' --data n1";

/// Everything that can be typed after `weft`.
#[derive(Debug, Parser)]
#[command(
    name = "weft",
    version,
    about = "A message fabric: typed messages within and between machines, and services that move while in use",
    long_about = "Weft runs a cluster of nodes, carries typed messages between services (through shared memory \
                  on one machine, over QUIC between machines), and moves a service to another node while its \
                  clients go on sending. Start with `weft demo`: it runs a whole cluster here and shows all three.",
    after_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"),
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub global: Global,
    /// Which command.
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every command takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Global {
    /// Data directory of the local node; its socket is DIR/weft.sock
    #[arg(long, value_name = "DIR", env = "WEFT_DATA", global = true)]
    pub data: Option<PathBuf>,
    /// Print exactly one JSON document on stdout, also for errors
    #[arg(long, global = true)]
    pub json: bool,
    /// How long to wait for an answer: 500ms, 10s, 2m
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = values::duration, global = true)]
    pub timeout: Duration,
    /// The name under which this command attaches to the node; capabilities belong to a name
    #[arg(
        long = "as",
        value_name = "NAME",
        default_value = "operator",
        global = true
    )]
    pub identity: ServiceName,
}

impl Global {
    /// The data directory of the local node.
    ///
    /// # Errors
    ///
    /// A usage error that says how to name one.
    pub fn data(&self) -> Result<&PathBuf, CliError> {
        self.data.as_ref().ok_or_else(|| {
            CliError::usage(
                "which node? Name the data directory of a node on this machine with --data DIR, or set WEFT_DATA. \
                 `weft node --help` shows how to start one, `weft demo` needs none",
            )
        })
    }

    /// The socket of the local node.
    ///
    /// # Errors
    ///
    /// As [`Global::data`].
    pub fn socket(&self) -> Result<PathBuf, CliError> {
        Ok(self.data()?.join(SOCKET_NAME))
    }
}

/// Every command. The hidden ones are for processes that Weft starts itself.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a three-node cluster here, load it, move a service under load, and report
    ///
    /// Starts a cluster as processes on this machine in a temporary directory, loads a text file
    /// into the service `kv`, starts clients on all nodes that put numbered messages and read them
    /// back, moves the service from node to node under that load while the nodes' daemons ping each
    /// other, and reports what became of every message. Needs no set-up and leaves nothing behind.
    /// The exit status is 1 if any message was lost, repeated, reordered or not acknowledged.
    Demo(DemoArgs),
    /// Run a node of a cluster until it is told to stop
    ///
    /// Runs the daemon of one node in the foreground, with its gateway and services as processes of
    /// their own. The data directory (--data) holds the node's certificate as `weft ca node` wrote
    /// it, and everything the node stores. SIGTERM or Ctrl-C stops the node and its services
    /// cleanly.
    Node(NodeArgs),
    /// Start a service on a node
    ///
    /// Starts a service as a process of its own on the local node (--data), or on another one
    /// (--on), and enters it in the directory. The node restarts it if it dies.
    Run(RunArgs),
    /// Stop a service, wherever it runs
    ///
    /// Stops a service on whichever node it runs, and takes it out of the directory. What it kept
    /// in memory is gone.
    Stop(StopArgs),
    /// Show what runs: services, domains, channels and peers
    ///
    /// Shows what a node runs: its services with epoch and state, the domains (processes) attached
    /// to it with what they use of their budget, the open channels, and the nodes it is connected
    /// with.
    Ps(PsArgs),
    /// Send a service one message and print its reply
    ///
    /// The message is written as JSON. Its fields are checked against the type that the service
    /// itself declares: an unknown field or a wrong type is refused with the expected shape before
    /// anything is sent. `weft describe <service>` lists the messages.
    Call(CallArgs),
    /// Send a service one message and do not wait for a reply
    ///
    /// As `weft call`, but the reply is dropped: returns as soon as the message has been handled.
    Send(CallArgs),
    /// Show the messages that a service understands
    ///
    /// Shows the contract of a running service: every message with its fields and the fields of its
    /// reply.
    Describe(DescribeArgs),
    /// Move a service to another node while its clients go on sending
    ///
    /// Moves a service with its state to another node. Clients keep their channels and go on
    /// sending; nothing is lost or repeated. Prints how long each step took and how long the
    /// service answered nobody. If the move fails before its commit, the service goes on where it
    /// was.
    Migrate(MigrateArgs),
    /// Allow a holder to open channels to a service
    ///
    /// Issues a capability: HOLDER may open channels to TARGET under one contract, until it runs
    /// out. Without a grant for exactly this target and contract a channel is refused. The target
    /// `node/*` stands for the daemons of all nodes (contract node.control), which is what commands
    /// such as `weft ps` talk to.
    Grant(GrantArgs),
    /// Make the certificates of a cluster
    Ca(CaArgs),
    /// Talk to the daemon of any node directly
    ///
    /// Sends the daemon of any node one message of the contract node.control, from the local node
    /// (--data). The other commands are made of these; here each is by itself.
    Kernel(KernelArgs),
    /// Show the NUMA nodes of this machine, and whether memory can be placed on them
    ///
    /// Shows which processors and which memory belong together, how far the nodes are from each
    /// other, and how fast their memory is where the firmware says so. Then makes a small region for
    /// each way to place one (at home, on each node), and says whether its pages lie there; if not,
    /// why. With --data also where the memory lies that the domains of that node have mapped. Needs
    /// no node otherwise.
    #[command(after_help = "Examples:\n  weft numa\n  weft numa --json\n  weft numa --data n1")]
    Numa,
    /// Print a completion script for a shell
    #[command(
        after_help = "Example:\n  weft completions bash > /etc/bash_completion.d/weft\n  weft completions fish | source"
    )]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// The gateway process of a node
    #[command(hide = true)]
    Gateway(GatewayArgs),
    /// The process of a service that is built in
    #[command(hide = true)]
    Service(ServiceArgs),
    /// One client of the demo
    #[command(hide = true)]
    DemoClient(DemoClientArgs),
    /// What clears up after a demo, however it ends
    #[command(hide = true)]
    DemoJanitor(DemoJanitorArgs),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    pub(super) fn parse(words: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("weft").chain(words.iter().copied()))
    }

    /// Parses what would be typed: of lines that are parts of a pipeline, ours. What stands between
    /// two quotes is one word; there is no more to these lines.
    fn check_examples(examples: &str) {
        let lines = examples.lines().skip(1).take_while(|line| !line.is_empty());
        for command in lines.flat_map(|line| line.split("&&")) {
            let ours = |part: &&str| part.trim_start().starts_with("weft ");
            let part = command.split(" | ").find(ours);
            let command = part.unwrap_or_else(|| panic!("{command} is none of ours"));
            let command = command.split(" > ").next().unwrap_or(command);
            let words: Vec<&str> = command
                .split('\'')
                .enumerate()
                .flat_map(|(part, text)| match part % 2 {
                    0 => text.split_whitespace().collect(),
                    _ => vec![text],
                })
                .collect();
            if let Err(error) = parse(&words[1..]) {
                panic!("{command}: {error}");
            }
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_visible_command_teaches_with_an_example() {
        fn check(command: &clap::Command) {
            for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
                if sub.get_name() == "help" {
                    continue;
                }
                let name = sub.get_name();
                assert!(sub.get_about().is_some(), "{name} says nothing");
                let after = sub.get_after_help().map(ToString::to_string);
                let after = after.unwrap_or_default();
                let examples = after.find("Example").map(|at| &after[at..]);
                check_examples(examples.unwrap_or_else(|| panic!("{name} has no example")));
                check(sub);
            }
        }
        check(&Cli::command());
        check_examples(EXAMPLES);
    }

    #[test]
    #[should_panic(expected = "weft migrate kv n2")]
    fn an_example_that_does_not_parse_is_found() {
        check_examples(
            "Example:\n  weft ps --data n1\n  weft migrate kv n2 --data n1\n\nOther text.",
        );
    }

    #[test]
    fn global_options_stand_before_or_after_the_command() {
        for words in [
            &["--data", "d1", "--json", "ps"][..],
            &["ps", "--data", "d1", "--json"][..],
        ] {
            let cli = parse(words).unwrap();
            assert!(cli.global.json);
            assert_eq!(cli.global.socket().unwrap(), PathBuf::from("d1/weft.sock"));
        }
    }

    #[test]
    fn without_a_data_directory_the_error_says_how_to_name_one() {
        let mut cli = parse(&["ps"]).unwrap();
        cli.global.data = None;
        let error = cli.global.socket().unwrap_err();
        assert_eq!(error.exit(), crate::Exit::Usage);
        assert!(error.to_string().contains("WEFT_DATA"), "{error}");
    }

    #[test]
    fn names_are_checked_where_they_enter() {
        for words in [
            &["call", "K V", "Get", "{}"][..],
            &["migrate", "kv", "--to", "../n2"][..],
            &["ps", "--timeout", "soon"][..],
            &["ps", "--as", "Root"][..],
        ] {
            let error = parse(words).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{words:?}");
        }
    }
}
