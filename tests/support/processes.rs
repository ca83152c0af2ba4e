//! Processes of other people's making: finding those of a cluster, killing them, waiting for their end.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use crate::eventually;

/// Processes that belong to a directory: they work in it, or their command line names it. This
/// process is not among them.
#[must_use]
pub fn processes_in(directory: &Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != std::process::id() && is_running(*pid))
        .filter(|pid| belongs_to(*pid, directory))
        .collect()
}

fn belongs_to(pid: u32, directory: &Path) -> bool {
    let works_in = fs::read_link(proc(pid, "cwd")).is_ok_and(|path| path.starts_with(directory));
    let line = fs::read(proc(pid, "cmdline")).unwrap_or_default();
    works_in
        || line.split(|byte| *byte == 0).any(|word| {
            std::str::from_utf8(word).is_ok_and(|word| Path::new(word).starts_with(directory))
        })
}

/// Whether a process is there and has not ended. A zombie has: it only waits for its parent's look.
#[must_use]
pub fn is_running(pid: u32) -> bool {
    // The state follows the name, which stands in parentheses and may contain any.
    fs::read_to_string(proc(pid, "stat")).is_ok_and(|stat| {
        let state = stat.rsplit_once(") ").map(|(_, rest)| rest.as_bytes());
        state.is_some_and(|rest| !matches!(rest.first(), Some(b'Z' | b'X')))
    })
}

fn proc(pid: u32, file: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{file}"))
}

/// `kill -9`. A process that is gone already is no error.
pub fn kill(pid: u32) {
    signal(pid, Signal::KILL);
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Waits until a process has ended.
///
/// # Panics
///
/// If it still runs after `patience`.
#[track_caller]
pub fn wait_until_gone(pid: u32, patience: Duration) {
    eventually(&format!("process {pid} ends"), patience, || {
        if is_running(pid) {
            Err("it still runs".to_owned())
        } else {
            Ok(())
        }
    });
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_belongs_to_the_directory_that_it_works_in_or_names() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().canonicalize().expect("path");
        let mut inside = Command::new("sleep")
            .arg("60")
            .current_dir(&path)
            .spawn()
            .expect("sleep");
        let mut naming = Command::new("tail")
            .args(["-f"])
            .arg(path.join("log"))
            .arg("/dev/null")
            .spawn()
            .expect("tail");
        let mut other = Command::new("sleep").arg("60").spawn().expect("sleep");
        let found = eventually("both are found", Duration::from_secs(10), || {
            let found = processes_in(&path);
            if found.len() == 2 {
                Ok(found)
            } else {
                Err(format!("{found:?}"))
            }
        });
        assert!(
            found.contains(&inside.id()) && found.contains(&naming.id()),
            "{found:?}"
        );
        for child in [&mut inside, &mut naming, &mut other] {
            kill(child.id());
            child.wait().expect("wait");
        }
        assert!(processes_in(&path).is_empty());
    }

    #[test]
    fn a_zombie_does_not_run() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep");
        assert!(is_running(child.id()));
        kill(child.id());
        wait_until_gone(child.id(), Duration::from_secs(10));
        child.wait().expect("a zombie until now");
        assert!(!is_running(u32::MAX));
    }
}
