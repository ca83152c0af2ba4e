//! The demo's directory, and the promise that nothing is left of it.
//!
//! Three things keep the promise, each for another way to end. A guard stops the nodes when the
//! runner returns. The nodes and clients end by themselves when their parent dies (the kernel tells
//! them). And a janitor process, which hears of the runner's death through its closed stdin, ends
//! whatever still runs from the directory and removes it: only a third party can do that after
//! `kill -9`.

use std::fs::{DirBuilder, Permissions};
use std::io::Read as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::error::CliError;

/// How long processes that still run may take to end by themselves.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest path of the directory, in bytes: a node's socket lies in it, and the path of a socket
/// is at most 107 bytes long.
const MAX_PATH_BYTES: usize = 107 - "/n9/weft.sock".len();

/// The directory of one demo.
#[derive(Debug)]
pub(crate) struct Workspace {
    path: PathBuf,
    /// Removes the directory, unless it is to be kept.
    janitor: Option<Child>,
}

impl Workspace {
    /// Makes the directory: a new temporary one, or `keep`, which must not hold anything yet.
    pub(crate) fn create(keep: Option<&Path>) -> Result<Self, CliError> {
        if let Some(path) = keep {
            return Self::create_kept(path);
        }
        let name = format!("weft-demo-{}", std::process::id());
        check_length(
            &std::env::temp_dir().join(format!("{name}-99")),
            "set TMPDIR to a shorter one",
        )?;
        let path = (0..100)
            .map(|attempt| std::env::temp_dir().join(format!("{name}-{attempt}")))
            .find_map(|path| match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => Some(Ok(path)),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => None,
                Err(error) => Some(Err(CliError::internal(path.display(), error))),
            })
            .unwrap_or_else(|| {
                let temp = std::env::temp_dir();
                Err(CliError::internal(
                    temp.display(),
                    "no free name for a directory",
                ))
            })?;
        let janitor = start_janitor(&path);
        if janitor.is_err() {
            // Still empty, so this cannot take anything along.
            let _ = std::fs::remove_dir(&path);
        }
        Ok(Self {
            path,
            janitor: Some(janitor?),
        })
    }

    fn create_kept(path: &Path) -> Result<Self, CliError> {
        let fail = |why: &dyn std::fmt::Display| {
            CliError::usage(format!("--keep {}: {why}", path.display()))
        };
        std::fs::create_dir_all(path).map_err(|error| fail(&error))?;
        let mut entries = std::fs::read_dir(path).map_err(|error| fail(&error))?;
        if entries.next().is_some() {
            return Err(fail(&"the directory is not empty"));
        }
        check_length(
            &path.canonicalize().map_err(|error| fail(&error))?,
            "name a shorter one",
        )?;
        std::fs::set_permissions(path, Permissions::from_mode(0o700))
            .map_err(|error| fail(&error))?;
        Ok(Self {
            path: path.canonicalize().map_err(|error| fail(&error))?,
            janitor: None,
        })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if let Some(mut janitor) = self.janitor.take() {
            drop(janitor.stdin.take());
            // It gives up by itself, so this ends.
            let _ = janitor.wait();
        }
    }
}

fn check_length(path: &Path, advice: &str) -> Result<(), CliError> {
    if path.as_os_str().len() <= MAX_PATH_BYTES {
        return Ok(());
    }
    Err(CliError::usage(format!(
        "{} is too long a path for the sockets of the nodes (at most {MAX_PATH_BYTES} bytes): {advice}",
        path.display()
    )))
}

fn start_janitor(path: &Path) -> Result<Child, CliError> {
    own_command()?
        .arg("demo-janitor")
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| CliError::internal("the demo's janitor", error))
}

/// This program again, in a process group of its own: Ctrl-C reaches the runner alone, which then
/// ends the others in order.
pub(crate) fn own_command() -> Result<Command, CliError> {
    let program = std::env::current_exe()
        .map_err(|error| CliError::internal("the path of this program", error))?;
    let mut command = Command::new(program);
    command.process_group(0);
    Ok(command)
}

/// The janitor's whole life: waits for its stdin to end, then ends what runs from the directory and
/// removes it.
pub(crate) fn clear_up_after_stdin(directory: &Path) -> Result<(), CliError> {
    let mut nothing = Vec::new();
    // Whatever ends stdin, an error too, means that the runner is gone.
    let _ = std::io::stdin()
        .lock()
        .take(1 << 16)
        .read_to_end(&mut nothing);
    end_processes(directory);
    remove(directory)
}

fn end_processes(directory: &Path) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let running = processes_in(directory);
        if running.is_empty() {
            return;
        }
        let late = Instant::now() >= deadline;
        for pid in running {
            let signal = if late { Signal::KILL } else { Signal::TERM };
            // It may have ended meanwhile, which is what we want.
            let _ = rustix::process::kill_process(pid, signal);
        }
        if late {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Processes of this very program that were started for the directory.
///
/// The program is compared as well, so that an editor that shows a log of the demo is left alone.
fn processes_in(directory: &Path) -> Vec<Pid> {
    let Ok(own) = std::fs::read_link("/proc/self/exe") else {
        return Vec::new();
    };
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let names_it = |word: &[u8]| {
        let rest = word.strip_prefix(directory.as_os_str().as_encoded_bytes());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| *pid != std::process::id().cast_signed())
        .filter(|pid| std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == own))
        .filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(names_it)
        })
        .filter_map(Pid::from_raw)
        .collect()
}

fn remove(directory: &Path) -> Result<(), CliError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match std::fs::remove_dir_all(directory) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            // A process on its way out may still have written something.
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(100)),
            Err(error) => return Err(CliError::internal(directory.display(), error)),
        }
    }
}

/// Has the kernel send this process SIGTERM when its parent dies, and ends at once if the parent is
/// gone already or is not the one that was named.
pub(crate) fn die_with_parent(parent: u32) -> Result<(), CliError> {
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))
        .map_err(|error| CliError::internal("cannot follow the parent process", error))?;
    // Asked for before this look: a parent that dies from now on is told of.
    let actual = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().cast_unsigned());
    if actual == Some(parent) {
        Ok(())
    } else {
        Err(CliError::Internal(format!(
            "the parent process {parent} is gone"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_holds_something_is_never_taken() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let error = Workspace::create(Some(here)).unwrap_err();
        assert_eq!(error.exit(), crate::Exit::Usage);
        assert!(error.to_string().contains("not empty"), "{error}");
    }

    #[test]
    fn a_path_too_long_for_a_socket_is_said_before_anything_starts() {
        let long = format!("/tmp/{}", "x".repeat(100));
        let error = check_length(Path::new(&long), "name a shorter one").unwrap_err();
        assert!(error.to_string().contains("at most 94 bytes"), "{error}");
        assert!(check_length(Path::new("/tmp/weft-demo-4194304-99"), "").is_ok());
    }

    #[test]
    fn only_processes_of_this_program_count_as_ours() {
        // A shell whose command line names the directory, as an editor's or a pager's would.
        let mut other = Command::new("sleep")
            .arg("5")
            .arg0("/weft-demo-test/log")
            .spawn()
            .unwrap();
        assert_eq!(processes_in(Path::new("/weft-demo-test")), []);
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn a_wrong_parent_ends_the_process_before_it_does_anything() {
        assert!(die_with_parent(u32::MAX - 1).is_err());
    }
}
