//! Commands that ask node daemons: run, stop, ps, migrate, and `weft kernel` in all its forms.
//!
//! All of them are one or two messages of the contract `node.control`; how an answer looks is in
//! `show`.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde_json::json;
use weft_node_control::{
    Directory, DirectoryEntry, Inventory, Log, LogRecord, Migrate, Ping, PingPeer, Program, Start,
    Stop,
};
use weft_types::{NodeName, RefusalCode, ServiceName};

use crate::arguments::{
    Global, KernelCommand, MigrateArgs, ProgramArgs, PsArgs, RunArgs, StopArgs,
};
use crate::connection::Connection;
use crate::error::CliError;
use crate::output::Output;
use crate::show;
use crate::suggest::did_you_mean;

/// How long a move may take unless `--timeout` asks for more: it copies the service's state.
const MOVE_TIMEOUT: Duration = Duration::from_secs(120);

/// Starts a service.
pub(crate) fn run(args: &RunArgs, global: &Global) -> Result<Output, CliError> {
    let connection = Connection::attach(global)?;
    let node = args.on.clone().unwrap_or_else(|| connection.node().clone());
    start(&connection, &node, &args.service, &args.program)
}

/// Stops a service, wherever it is.
pub(crate) fn stop(args: &StopArgs, global: &Global) -> Result<Output, CliError> {
    let connection = Connection::attach(global)?;
    let entry = locate(&connection, &args.service)?;
    stop_on(&connection, &entry.node, &args.service)
}

/// Moves a service, wherever it is.
pub(crate) fn migrate(args: &MigrateArgs, global: &Global) -> Result<Output, CliError> {
    let connection = Connection::attach(global)?;
    let entry = locate(&connection, &args.service)?;
    migrate_from(&connection, &entry.node, &args.service, &args.to)
}

/// Shows what one or all nodes run.
pub(crate) fn ps(args: &PsArgs, global: &Global) -> Result<Output, CliError> {
    let connection = Connection::attach(global)?;
    let first = args
        .node
        .clone()
        .unwrap_or_else(|| connection.node().clone());
    let inventory = connection.kernel(&first)?.ask(&Inventory {})?;
    if !args.all {
        return Ok(show::inventory(&inventory));
    }
    let mut outputs = vec![show::inventory(&inventory)];
    for peer in &inventory.peers {
        let asked = connection
            .kernel(&peer.node)
            .and_then(|mut kernel| kernel.ask(&Inventory {}));
        outputs.push(match asked {
            Ok(inventory) => show::inventory(&inventory),
            // A node that is down is a part of the picture, not the end of it.
            Err(error) => Output::new(
                format!("node {}: {error}\n", peer.node),
                json!({ "node": peer.node.as_str(), "error": error.to_json()["error"] }),
            ),
        });
    }
    Ok(show::all(outputs))
}

/// Sends one message to the daemon of a node.
pub(crate) fn kernel_command(command: &KernelCommand, global: &Global) -> Result<Output, CliError> {
    let connection = Connection::attach(global)?;
    match command {
        KernelCommand::Ping { node, from, count } => ping(&connection, node, from.as_ref(), *count),
        KernelCommand::Inventory { node } => Ok(show::inventory(
            &connection.kernel(node)?.ask(&Inventory {})?,
        )),
        KernelCommand::Directory { node } => {
            let node = node.as_ref().unwrap_or(connection.node());
            Ok(show::directory(
                &connection.kernel(node)?.ask(&Directory {})?.entries,
            ))
        }
        KernelCommand::Log { node, after, limit } => {
            let mut kernel = connection.kernel(node)?;
            let records = read_log(*after, *limit, |log| Ok(kernel.ask(&log)?.records))?;
            Ok(show::log(node, &records))
        }
        KernelCommand::Start {
            node,
            service,
            program,
        } => start(&connection, node, service, program),
        KernelCommand::Stop { node, service } => stop_on(&connection, node, service),
        KernelCommand::Migrate { node, service, to } => {
            migrate_from(&connection, node, service, to)
        }
    }
}

/// The latest records of a log, or those after a number; the oldest first. An answer of the node
/// holds as many as fit a message, so it is asked until nothing is left to ask for.
fn read_log(
    after: Option<u64>,
    limit: u32,
    mut ask: impl FnMut(Log) -> Result<Vec<LogRecord>, CliError>,
) -> Result<Vec<LogRecord>, CliError> {
    let limit = limit as usize;
    let mut read: VecDeque<LogRecord> = VecDeque::new();
    let mut last = after.unwrap_or(0);
    loop {
        let lacking = match after {
            Some(_) => u32::try_from(limit - read.len()).unwrap_or(u32::MAX),
            None => u32::MAX,
        };
        let records = match lacking {
            0 => Vec::new(),
            limit => ask(Log { after: last, limit })?,
        };
        // Numbers that do not grow would have us ask for ever.
        match records.last() {
            Some(record) if record.number > last => last = record.number,
            _ => return Ok(read.into()),
        }
        read.extend(records);
        if after.is_none() {
            read.drain(..read.len().saturating_sub(limit));
        }
    }
}

/// Pings from here, or has another daemon ping.
fn ping(
    connection: &Connection,
    node: &NodeName,
    from: Option<&NodeName>,
    count: u32,
) -> Result<Output, CliError> {
    let asked = from.unwrap_or(node);
    let mut kernel = connection.kernel(asked)?;
    let began = Instant::now();
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let mut round_trips = Vec::new();
    for _ in 0..count {
        round_trips.push(if from.is_some() {
            kernel
                .ask(&PingPeer { node: node.clone() })?
                .round_trip_nanos
        } else {
            let sent = Instant::now();
            kernel.ask(&Ping {
                sent_nanos: nanos(began.elapsed()),
            })?;
            nanos(sent.elapsed())
        });
    }
    let from = from.map_or_else(
        || format!("this process on {}", connection.node()),
        ToString::to_string,
    );
    Ok(show::ping(&from, node, &round_trips))
}

fn start(
    connection: &Connection,
    node: &NodeName,
    service: &ServiceName,
    program: &ProgramArgs,
) -> Result<Output, CliError> {
    let program = program_of(service, program)?;
    let started = connection.kernel(node)?.ask(&Start {
        name: service.clone(),
        program,
    })?;
    Ok(Output::new(
        format!(
            "{service} runs on {node}, pid {}, {}",
            started.pid, started.epoch
        ),
        json!({
            "service": service.as_str(),
            "node": node.as_str(),
            "pid": started.pid,
            "epoch": started.epoch.get(),
        }),
    ))
}

/// What a service runs: a path, or a built-in program that by default is called like it.
fn program_of(service: &ServiceName, program: &ProgramArgs) -> Result<Program, CliError> {
    let Some(path) = &program.binary else {
        let name = program
            .program
            .clone()
            .unwrap_or_else(|| service.to_string());
        return Ok(Program::Builtin(name));
    };
    let path = path.to_str().ok_or_else(|| {
        CliError::usage(format!(
            "--binary {}: the path is not UTF-8",
            path.display()
        ))
    })?;
    Ok(Program::Path {
        path: path.to_owned(),
        arguments: program.arguments.clone(),
    })
}

fn stop_on(
    connection: &Connection,
    node: &NodeName,
    service: &ServiceName,
) -> Result<Output, CliError> {
    connection.kernel(node)?.ask(&Stop {
        name: service.clone(),
    })?;
    Ok(Output::new(
        format!("{service} has stopped on {node}"),
        json!({ "service": service.as_str(), "node": node.as_str(), "stopped": true }),
    ))
}

fn migrate_from(
    connection: &Connection,
    from: &NodeName,
    service: &ServiceName,
    to: &NodeName,
) -> Result<Output, CliError> {
    let timeout = connection.timeout().max(MOVE_TIMEOUT);
    let migrate = Migrate {
        service: service.clone(),
        to: to.clone(),
    };
    let reply = connection.kernel(from)?.ask_within(&migrate, timeout)?;
    Ok(show::moved(&reply.report))
}

/// Where the directory says that a service lives.
fn locate(connection: &Connection, service: &ServiceName) -> Result<DirectoryEntry, CliError> {
    let entries = connection.local_kernel()?.ask(&Directory {})?.entries;
    let unknown = || unknown_service(service, entries.iter().map(|entry| entry.service.as_str()));
    entries
        .iter()
        .find(|entry| entry.service == *service)
        .cloned()
        .ok_or_else(unknown)
}

fn unknown_service<'a>(
    service: &ServiceName,
    known: impl Iterator<Item = &'a str> + Clone,
) -> CliError {
    let names: Vec<&str> = known.clone().collect();
    let there_are = if names.is_empty() {
        "no service runs in this cluster; start one with `weft run kv`".to_owned()
    } else {
        format!("there are {}", names.join(", "))
    };
    CliError::refused(
        RefusalCode::UnknownService,
        format!(
            "no service {service} in the directory{}\n{there_are}",
            did_you_mean(service.as_str(), known)
        ),
    )
}

/// Adds to "no such service" the names of those that there are, if the local node tells.
pub(crate) fn with_known_services(
    error: CliError,
    connection: &Connection,
    service: &ServiceName,
) -> CliError {
    match error {
        CliError::Refused(refusal) if refusal.code == RefusalCode::UnknownService => {
            match known_services(connection) {
                Ok(known) => unknown_service(service, known.iter().map(String::as_str)),
                Err(_) => CliError::Refused(refusal),
            }
        }
        other => other,
    }
}

/// All services of the cluster. Nobody without the right to ask gets to know them.
fn known_services(connection: &Connection) -> Result<Vec<String>, CliError> {
    let entries = connection.local_kernel()?.ask(&Directory {})?.entries;
    Ok(entries
        .iter()
        .map(|entry| entry.service.to_string())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(program: Option<&str>, binary: Option<&str>) -> ProgramArgs {
        ProgramArgs {
            program: program.map(str::to_owned),
            binary: binary.map(Into::into),
            arguments: vec!["-v".to_owned()],
        }
    }

    #[test]
    fn a_service_runs_the_program_of_its_own_name_unless_told_otherwise() {
        let service = ServiceName::new("kv").unwrap();
        let program = |args| program_of(&service, &args).unwrap();
        assert_eq!(program(args(None, None)), Program::Builtin("kv".into()));
        assert_eq!(
            program(args(Some("other"), None)),
            Program::Builtin("other".into())
        );
        assert_eq!(
            program(args(None, Some("/bin/kv"))),
            Program::Path {
                path: "/bin/kv".into(),
                arguments: vec!["-v".into()]
            }
        );
    }

    #[test]
    fn an_unknown_service_is_answered_with_those_there_are() {
        let service = ServiceName::new("vk").unwrap();
        let text = unknown_service(&service, ["kv", "shop"].into_iter()).to_string();
        assert!(
            text.contains("did you mean `kv`?") && text.contains("there are kv, shop"),
            "{text}"
        );
        let none = unknown_service(&service, std::iter::empty());
        assert!(none.to_string().contains("weft run kv"), "{none}");
        assert_eq!(none.exit(), crate::Exit::Refused);
    }

    /// A node that keeps records 11 to 60 and answers with ten at once.
    fn log_of_fifty(asked: Log) -> Result<Vec<LogRecord>, CliError> {
        let numbers = (11..=60).filter(|number| *number > asked.after);
        let at_once = 10.min(asked.limit as usize);
        Ok(numbers
            .take(at_once)
            .map(|number| LogRecord {
                number,
                unix_ms: 0,
                level: "info".into(),
                text: String::new(),
            })
            .collect())
    }

    #[test]
    fn a_log_is_read_in_as_many_answers_as_it_takes() {
        let read = |after, limit| -> Vec<u64> {
            let records = read_log(after, limit, log_of_fifty).unwrap();
            records.iter().map(|record| record.number).collect()
        };
        let numbers = |from: u64, to: u64| (from..=to).collect::<Vec<_>>();
        assert_eq!(read(None, 1024), numbers(11, 60));
        // The latest, unless told behind which to begin.
        assert_eq!(read(None, 25), numbers(36, 60));
        assert_eq!(read(Some(0), 25), numbers(11, 35));
        assert_eq!(read(Some(55), 25), numbers(56, 60));
        assert!(read(Some(60), 25).is_empty());
    }
}
