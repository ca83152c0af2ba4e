//! The cluster of `deploy/docker-compose.yml`, under a project name of its own.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;

use crate::process::{Answer, Finished, Started, run, start};

/// The command that reads compose files, if it is not `docker-compose`: `docker compose`, say.
const OVERRIDE: &str = "WEFT_COMPOSE";

/// How long bringing a cluster up or down may take; images are built on the way up.
const UP_PATIENCE: Duration = Duration::from_secs(180);

/// How long any other command may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether a Docker engine answers.
#[must_use]
pub fn docker_is_there() -> bool {
    let asked = Command::new("docker").arg("info").output();
    asked.is_ok_and(|done| done.status.success())
}

/// A running compose cluster. Containers, networks and volumes go when it is dropped.
#[derive(Debug)]
pub struct Compose {
    project: String,
    file: PathBuf,
    /// Containers by their node. A container that is killed and started keeps its id.
    containers: Mutex<HashMap<String, String>>,
}

impl Compose {
    /// Brings the cluster up under a project name that nobody else uses.
    ///
    /// # Panics
    ///
    /// If it does not come up.
    #[track_caller]
    #[must_use]
    pub fn up(label: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .expect("the workspace");
        let compose = Self {
            project: format!("weft-test-{label}-{}", std::process::id()),
            file: root.join("deploy/docker-compose.yml"),
            containers: Mutex::default(),
        };
        compose.bring_up();
        compose
    }

    /// Brings it up, or up again: what runs stays, and what was set up is not set up twice.
    ///
    /// # Panics
    ///
    /// If it does not come up.
    #[track_caller]
    pub fn bring_up(&self) {
        let up = run(
            self.compose().args(["up", "--detach", "--build"]),
            UP_PATIENCE,
        );
        assert!(up.status.success(), "{}\n{}", up.told(), self.logs());
    }

    fn compose(&self) -> Command {
        let words = std::env::var(OVERRIDE).unwrap_or_else(|_| "docker-compose".to_owned());
        let mut words = words.split_whitespace();
        let mut command = Command::new(words.next().unwrap_or("docker-compose"));
        command
            .args(words)
            .arg("--file")
            .arg(&self.file)
            .args(["--project-name", &self.project]);
        command
    }

    /// A `weft` command inside the container of a node, at that node. By `docker`, which begins at
    /// once; `docker-compose` takes its time and makes moments hard to hit.
    #[track_caller]
    fn exec(&self, node: &str, words: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command
            .args(["exec", &self.container(node), "/weft", "--json"])
            .args(words);
        command
    }

    /// Runs a `weft` command in a node's container the way that deploy/README.md tells people to.
    ///
    /// # Panics
    ///
    /// As [`Compose::weft`].
    #[track_caller]
    #[must_use]
    pub fn weft_by_compose(&self, node: &str, words: &[&str]) -> Answer {
        let mut command = self.compose();
        // Without a terminal, so that stdout is what the command wrote.
        command
            .args(["exec", "-T", node, "/weft", "--json"])
            .args(words);
        Answer::of(run(&mut command, PATIENCE))
    }

    /// Runs a `weft` command in a node's container.
    ///
    /// # Panics
    ///
    /// If it takes too long, or answers with anything but one JSON document.
    #[track_caller]
    #[must_use]
    pub fn weft(&self, node: &str, words: &[&str]) -> Answer {
        Answer::of(run(&mut self.exec(node, words), PATIENCE))
    }

    /// Runs a `weft` command in a node's container; a container that is down, or dies meanwhile, is
    /// an error like any other.
    ///
    /// # Errors
    ///
    /// All that was said.
    pub fn try_weft(&self, node: &str, words: &[&str]) -> Result<Value, String> {
        let done = run(&mut self.exec(node, words), PATIENCE);
        if !done.status.success() {
            return Err(done.told());
        }
        serde_json::from_str(&done.stdout).map_err(|error| format!("{error}: {}", done.told()))
    }

    /// Starts a `weft` command in a node's container and lets it run.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    #[track_caller]
    #[must_use]
    pub fn start_weft(&self, node: &str, words: &[&str]) -> Started {
        start(&mut self.exec(node, words))
    }

    /// The container of a node.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[track_caller]
    #[must_use]
    pub fn container(&self, node: &str) -> String {
        let mut known = self
            .containers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = known.get(node) {
            return id.clone();
        }
        // Compose 1 and 2 put the name together differently; both can be asked.
        let asked = run(self.compose().args(["ps", "-q", node]), PATIENCE).expect_success();
        let id = asked.stdout.trim().to_owned();
        assert!(!id.is_empty(), "no container of {node}: {}", asked.told());
        known.insert(node.to_owned(), id.clone());
        id
    }

    /// Runs a `docker` command.
    ///
    /// # Panics
    ///
    /// If it takes too long.
    #[track_caller]
    #[must_use]
    pub fn docker(words: &[&str]) -> Finished {
        run(Command::new("docker").args(words), PATIENCE)
    }

    /// What the containers wrote.
    ///
    /// # Panics
    ///
    /// If it takes too long to tell.
    #[track_caller]
    #[must_use]
    pub fn logs(&self) -> String {
        let logs = run(
            self.compose().args(["logs", "--no-color", "--tail", "60"]),
            PATIENCE,
        );
        format!("{}{}", logs.stdout, logs.stderr)
    }
}

impl Drop for Compose {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = self
                .compose()
                .args(["logs", "--no-color", "--tail", "60"])
                .output();
            if let Ok(logs) = logs {
                eprintln!("{}", String::from_utf8_lossy(&logs.stdout));
            }
        }
        let down = self
            .compose()
            .args(["down", "--volumes", "--timeout", "5", "--remove-orphans"])
            .output();
        match down {
            Ok(done) if done.status.success() => {}
            Ok(done) => eprintln!("compose down: {}", String::from_utf8_lossy(&done.stderr)),
            Err(error) => eprintln!("compose down: {error}"),
        }
    }
}
