//! Weft's command line: parsing, the commands that talk to nodes, and the demo.
//!
//! The command line is a client like any other. It attaches to a node's socket under a name of its
//! own and reaches what that name was granted; it knows the client library and the contracts, and
//! never the code of the daemon or of the CA. Commands that need those (running a node, making
//! certificates) are typed here and done by whoever composes the binary, through [`Roles`].
//!
//! Every command makes its result in two forms ([`Output`]), and `main` prints one of them; errors
//! ([`CliError`]) carry the exit code that a script acts on. To read: `arguments` (what can be
//! typed), `call` and `control` (the client commands), `demo` (the runner, its processes and its
//! report).

pub mod arguments;
mod call;
mod connection;
mod control;
mod demo;
mod error;
mod output;
mod show;
mod suggest;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use serde_json::json;

use self::arguments::{
    CaCommand, CaInitArgs, CaNodeArgs, Cli, Command, GatewayArgs, Global, GrantArgs, NodeArgs,
    ServiceArgs,
};
use self::call::Want;
pub use self::error::{CliError, EXIT_CODES, Exit};
pub use self::output::{Output, table};

/// What the command line leaves to the binary that composes all roles.
///
/// Each method is one command. The first three run until they are told to stop; the others make
/// something and say what. The data directory and the output format are in [`Global`].
pub trait Roles {
    /// Runs a node daemon: `weft node`.
    ///
    /// # Errors
    ///
    /// Whatever keeps the node from starting or going on.
    fn node(&self, global: &Global, args: NodeArgs) -> Result<(), CliError>;

    /// Runs the gateway process of a node, which a node daemon started.
    ///
    /// # Errors
    ///
    /// Whatever keeps the gateway from starting or going on.
    fn gateway(&self, global: &Global, args: GatewayArgs) -> Result<(), CliError>;

    /// Runs the process of a built-in service, which a node daemon started.
    ///
    /// # Errors
    ///
    /// Whatever keeps the service from starting or going on.
    fn service(&self, global: &Global, args: ServiceArgs) -> Result<(), CliError>;

    /// Makes the roots of a cluster: `weft ca init`.
    ///
    /// # Errors
    ///
    /// A CA that is there already, or a directory that cannot be written.
    fn ca_init(&self, args: CaInitArgs) -> Result<Output, CliError>;

    /// Issues a node's certificate: `weft ca node`.
    ///
    /// # Errors
    ///
    /// A CA that cannot be read, a node that has a certificate already, a full disk.
    fn ca_node(&self, args: CaNodeArgs) -> Result<Output, CliError>;

    /// Issues a capability: `weft grant`.
    ///
    /// # Errors
    ///
    /// A CA or data directory that cannot be read or written.
    fn grant(&self, args: GrantArgs) -> Result<Output, CliError>;
}

/// The whole program: parses the command line, does what it says, prints, and tells the exit code.
pub fn main(roles: &dyn Roles) -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return not_understood(&error, std::env::args().any(|word| word == "--json")),
    };
    let as_json = cli.global.json;
    match dispatch(roles, cli) {
        Ok(output) => match output.print(as_json) {
            Ok(()) => output.exit.into(),
            Err(error) => {
                eprintln!("weft: stdout: {error}");
                Exit::Internal.into()
            }
        },
        Err(error) => fail(&error, as_json),
    }
}

fn dispatch(roles: &dyn Roles, cli: Cli) -> Result<Output, CliError> {
    let global = &cli.global;
    match cli.command {
        Command::Demo(args) => demo::run(&args),
        Command::Node(args) => {
            if let Some(parent) = args.die_with_parent {
                demo::die_with_parent(parent)?;
            }
            global.data()?;
            roles.node(global, args).map(|()| silent())
        }
        Command::Gateway(args) => roles.gateway(global, args).map(|()| silent()),
        Command::Service(args) => roles.service(global, args).map(|()| silent()),
        Command::Run(args) => control::run(&args, global),
        Command::Stop(args) => control::stop(&args, global),
        Command::Ps(args) => control::ps(&args, global),
        Command::Call(args) => call::call(&args, Want::Reply, global),
        Command::Send(args) => call::call(&args, Want::Nothing, global),
        Command::Describe(args) => call::describe(&args, global),
        Command::Migrate(args) => control::migrate(&args, global),
        Command::Grant(args) => roles.grant(args),
        Command::Ca(args) => match args.command {
            CaCommand::Init(args) => roles.ca_init(args),
            CaCommand::Node(args) => roles.ca_node(args),
        },
        Command::Kernel(args) => control::kernel_command(&args.command, global),
        Command::Completions { shell } => completions(shell),
        Command::DemoClient(args) => demo::run_client(&args, global).map(|()| silent()),
        Command::DemoJanitor(args) => {
            demo::clear_up_after_stdin(&args.directory).map(|()| silent())
        }
    }
}

/// The result of a role that has run to its end. With `--json` it is still one document.
fn silent() -> Output {
    Output::new("", json!({ "stopped": true }))
}

fn completions(shell: clap_complete::Shell) -> Result<Output, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "weft", &mut script);
    let script =
        String::from_utf8(script).map_err(|error| CliError::internal("completions", error))?;
    let json = json!({ "shell": shell.to_string(), "script": script });
    Ok(Output::new(script, json))
}

fn fail(error: &CliError, as_json: bool) -> ExitCode {
    if as_json {
        // Where stdout is gone too, the exit code still tells.
        let _ = Output::new("", error.to_json()).print(true);
    } else {
        eprintln!("weft: {error}");
    }
    error.exit().into()
}

/// Help and version are no errors; everything else that clap does not understand is one of usage.
fn not_understood(error: &clap::Error, as_json: bool) -> ExitCode {
    if error.use_stderr() && as_json {
        let text = error.to_string();
        return fail(
            &CliError::usage(text.trim_start_matches("error: ").trim_end()),
            true,
        );
    }
    let _ = error.print();
    if error.use_stderr() {
        Exit::Usage.into()
    } else {
        Exit::Done.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_know_the_visible_commands() {
        for shell in [
            clap_complete::Shell::Bash,
            clap_complete::Shell::Zsh,
            clap_complete::Shell::Fish,
        ] {
            let output = completions(shell).unwrap();
            assert!(output.text.contains("migrate"), "{shell}");
            assert_eq!(output.json["shell"], shell.to_string());
        }
    }
}
