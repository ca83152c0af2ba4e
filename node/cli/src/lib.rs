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
mod layout;
mod numa;
mod output;
mod show;
mod suggest;

use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
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
    let answer = answer(roles, std::env::args_os().collect());
    let printed = print(&mut std::io::stdout().lock(), &answer.stdout)
        .and_then(|()| print(&mut std::io::stderr().lock(), &answer.stderr));
    match printed {
        Ok(()) => answer.exit.into(),
        // Nobody may read this either, but the exit code tells.
        Err(_) => Exit::Internal.into(),
    }
}

/// What a command prints and how it ends.
#[derive(Debug, Eq, PartialEq)]
struct Answer {
    stdout: String,
    stderr: String,
    exit: Exit,
}

/// Does what the command line says. `words` begins with the program's own name.
fn answer(roles: &dyn Roles, words: Vec<OsString>) -> Answer {
    // Known before anything is parsed: errors of parsing are JSON too.
    let as_json = words
        .iter()
        .skip(1)
        .take_while(|word| *word != "--")
        .any(|word| word == "--json");
    let outcome = match Cli::try_parse_from(words) {
        Ok(cli) => guarded(|| dispatch(roles, cli)),
        Err(error) if as_json && error.use_stderr() => {
            let text = error.to_string();
            Err(CliError::usage(
                text.trim_start_matches("error: ").trim_end(),
            ))
        }
        Err(error) => return not_understood(&error),
    };
    let (exit, stdout, stderr) = match outcome {
        Ok(output) => (output.exit, output.render(as_json), String::new()),
        Err(error) if as_json => (
            error.exit(),
            format!("{:#}\n", error.to_json()),
            String::new(),
        ),
        Err(error) => (error.exit(), String::new(), format!("weft: {error}\n")),
    };
    Answer {
        stdout,
        stderr,
        exit,
    }
}

/// A panic is a fault of ours: it has the exit code and, with `--json`, the document of one. The
/// panic hook has told on standard error where it was.
fn guarded(work: impl FnOnce() -> Result<Output, CliError>) -> Result<Output, CliError> {
    // Nothing that it may have left half done is looked at any more.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|thrown| {
        let said = thrown
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| thrown.downcast_ref::<String>().cloned());
        let why = said.unwrap_or_else(|| "no reason given".to_owned());
        Err(CliError::internal(
            "a fault in Weft itself, please report it",
            why,
        ))
    })
}

/// Help and version are no errors; everything else that clap does not understand is one of usage.
fn not_understood(error: &clap::Error) -> Answer {
    let colour = |styled: &clap::builder::StyledStr, terminal: bool| {
        if terminal {
            styled.ansi().to_string()
        } else {
            styled.to_string()
        }
    };
    let text = error.render();
    if error.use_stderr() {
        let stderr = colour(&text, std::io::stderr().is_terminal());
        Answer {
            stdout: String::new(),
            stderr,
            exit: Exit::Usage,
        }
    } else {
        let stdout = colour(&text, std::io::stdout().is_terminal());
        Answer {
            stdout,
            stderr: String::new(),
            exit: Exit::Done,
        }
    }
}

/// Prints a text. A reader that has gone away (`weft ps | head -1`) is no error.
fn print(out: &mut dyn Write, text: &str) -> io::Result<()> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
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
        Command::Numa => numa::numa(global),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The roles of a binary that has none: each says which one was asked for.
    struct NoRoles;

    impl NoRoles {
        fn none<T>(role: &str) -> Result<T, CliError> {
            Err(CliError::Internal(format!("no role {role}")))
        }
    }

    impl Roles for NoRoles {
        fn node(&self, _: &Global, _: NodeArgs) -> Result<(), CliError> {
            Self::none("node")
        }
        fn gateway(&self, _: &Global, _: GatewayArgs) -> Result<(), CliError> {
            Self::none("gateway")
        }
        fn service(&self, _: &Global, _: ServiceArgs) -> Result<(), CliError> {
            Self::none("service")
        }
        fn ca_init(&self, args: CaInitArgs) -> Result<Output, CliError> {
            Ok(Output::new(
                "made",
                json!({ "cluster": args.cluster.as_str() }),
            ))
        }
        fn ca_node(&self, _: CaNodeArgs) -> Result<Output, CliError> {
            Self::none("ca node")
        }
        fn grant(&self, args: GrantArgs) -> Result<Output, CliError> {
            panic!("{} is too much", args.holder)
        }
    }

    fn weft(words: &[&str]) -> Answer {
        let all = std::iter::once("weft").chain(words.iter().copied());
        answer(&NoRoles, all.map(OsString::from).collect())
    }

    fn document(text: &str) -> serde_json::Value {
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text:?}"))
    }

    #[test]
    fn a_result_is_text_or_exactly_one_json_document() {
        assert_eq!(weft(&["ca", "init"]).stdout, "made\n");
        let answer = weft(&["--json", "ca", "init", "--cluster", "shop"]);
        assert_eq!(document(&answer.stdout), json!({ "cluster": "shop" }));
        assert_eq!((answer.stderr.as_str(), answer.exit), ("", Exit::Done));
    }

    #[test]
    fn every_error_is_one_json_document_on_stdout_if_json_was_asked_for() {
        for (words, code, exit) in [
            (
                &["--json", "ca", "node", "n1"][..],
                "internal",
                Exit::Internal,
            ),
            (&["--json", "no-such-command"][..], "usage", Exit::Usage),
            (&["migrate", "kv", "--json"][..], "usage", Exit::Usage),
            (
                &["call", "kv", "Put", "{", "--data", "/nowhere", "--json"][..],
                "usage",
                Exit::Usage,
            ),
            (
                &["ps", "--data", "/nowhere", "--json"][..],
                "no_node",
                Exit::Unreachable,
            ),
        ] {
            let answer = weft(words);
            assert_eq!(document(&answer.stdout)["error"]["code"], code, "{words:?}");
            assert_eq!(
                (answer.stderr.as_str(), answer.exit),
                ("", exit),
                "{words:?}"
            );
        }
    }

    #[test]
    fn a_panic_has_the_exit_code_and_the_document_of_a_fault_of_ours() {
        let grant = ["grant", "shop", "kv", "--contract", "kv", "--json"];
        let answer = weft(&grant);
        let error = &document(&answer.stdout)["error"];
        assert_eq!(
            (&error["code"], answer.exit),
            (&json!("internal"), Exit::Internal)
        );
        assert!(
            error["text"].to_string().contains("shop is too much"),
            "{error}"
        );
        let answer = weft(&grant[..5]);
        assert_eq!((answer.stdout.as_str(), answer.exit), ("", Exit::Internal));
    }

    #[test]
    fn an_error_for_a_person_goes_to_stderr_and_says_what_to_do() {
        let answer = weft(&["ps", "--data", "/nowhere"]);
        assert_eq!(
            (answer.stdout.as_str(), answer.exit),
            ("", Exit::Unreachable)
        );
        assert!(
            answer.stderr.contains("weft node --data /nowhere"),
            "{}",
            answer.stderr
        );
        let answer = weft(&["migrat", "kv"]);
        assert_eq!(answer.exit, Exit::Usage);
        assert!(answer.stderr.contains("'migrate'"), "{}", answer.stderr);
    }

    #[test]
    fn help_and_version_are_no_errors_even_with_json() {
        for words in [
            &["--help"][..],
            &["demo", "--help"][..],
            &["--version", "--json"][..],
        ] {
            let answer = weft(words);
            assert_eq!(answer.exit, Exit::Done, "{words:?}");
            assert!(answer.stdout.contains("weft"), "{}", answer.stdout);
        }
        assert!(weft(&["--help"]).stdout.contains("Exit codes:"));
        assert!(weft(&["call", "--help"]).stdout.contains("expected shape"));
    }

    #[test]
    fn json_among_the_arguments_of_a_program_is_not_ours() {
        let answer = weft(&[
            "run", "x", "--binary", "/x", "--data", "/nowhere", "--", "--json",
        ]);
        assert!(
            answer.stdout.is_empty() && answer.stderr.contains("no node"),
            "{answer:?}"
        );
    }

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
