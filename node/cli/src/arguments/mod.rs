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

/// Everything that can be typed after `weft`.
#[derive(Debug, Parser)]
#[command(
    name = "weft",
    version,
    about = "A message fabric: typed messages within and between machines, and services that move while in use",
    long_about = "Weft runs a cluster of nodes, carries typed messages between services (through shared memory \
                  on one machine, over QUIC between machines), and moves a service to another node while its \
                  clients go on sending. Start with `weft demo`: it runs a whole cluster here and shows all three.",
    after_help = EXIT_CODES,
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
    Demo(DemoArgs),
    /// Run a node of a cluster until it is told to stop
    Node(NodeArgs),
    /// Start a service on a node
    Run(RunArgs),
    /// Stop a service, wherever it runs
    Stop(StopArgs),
    /// Show what runs: services, domains, channels and peers
    Ps(PsArgs),
    /// Send a service one message and print its reply
    Call(CallArgs),
    /// Send a service one message and do not wait for a reply
    Send(CallArgs),
    /// Show the messages that a service understands
    Describe(DescribeArgs),
    /// Move a service to another node while its clients go on sending
    Migrate(MigrateArgs),
    /// Allow a holder to open channels to a service
    Grant(GrantArgs),
    /// Make the certificates of a cluster
    Ca(CaArgs),
    /// Talk to the daemon of any node directly
    Kernel(KernelArgs),
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
                if sub.has_subcommands() {
                    check(sub);
                } else {
                    let after = sub.get_after_help().map(ToString::to_string);
                    let example = after.unwrap_or_default();
                    assert!(example.contains("weft "), "{name} has no example");
                }
            }
        }
        check(&Cli::command());
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
