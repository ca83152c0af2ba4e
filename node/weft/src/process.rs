//! What every long-running role does first.

use std::io::IsTerminal;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing_subscriber::EnvFilter;
use weft_cli::CliError;

/// Prepares this process: it cannot be looked into (unless `debuggable`), may open as many
/// descriptors as the system allows, and writes its log to standard error.
///
/// # Errors
///
/// If the system refuses to protect the process: its memory is not private then.
pub(crate) fn prepare(debuggable: bool, own_log: bool) -> Result<(), CliError> {
    weft_local_ipc::harden_process(debuggable).map_err(|error| {
        CliError::internal("this process cannot be protected from others", error)
    })?;
    raise_descriptor_limit();
    let filter = EnvFilter::try_from_env("WEFT_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false);
    // A child's lines go through its parent, which adds the time.
    let started = if own_log {
        log.with_ansi(std::io::stderr().is_terminal()).try_init()
    } else {
        log.without_time().with_ansi(false).try_init()
    };
    started.map_err(|error| CliError::internal("log", error))
}

/// Each channel takes a handful of descriptors, so the soft limit is raised to the hard one.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}
