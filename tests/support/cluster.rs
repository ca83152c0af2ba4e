//! A cluster on loopback: certificates, nodes as processes, commands typed at it.

use std::collections::HashSet;
use std::fs::File;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::binary::weft_binary;
use crate::eventually;
use crate::process::{Answer, Started, start, weft};
use crate::processes::{kill, processes_in, signal, wait_until_gone};

/// How long all nodes together may take until each answers each other.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// How long a node may take to stop after SIGTERM.
const STOP_PATIENCE: Duration = Duration::from_secs(15);

/// How much of a node's log a failure shows, in bytes.
const LOG_TAIL_BYTES: usize = 4000;

/// What a cluster should have.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// How many nodes, called n1, n2, …; n1 holds the directory.
    pub nodes: usize,
    /// Capabilities, each for all nodes: holder, target, contract.
    pub grants: Vec<(&'static str, &'static str, &'static str)>,
    /// How much shared memory each process of a node may take, in MiB. As the node has it by itself
    /// if nothing is said.
    pub budget_mib: Option<u64>,
}

impl ClusterOptions {
    /// So many nodes; the operator may command them and use `kv`.
    #[must_use]
    pub fn new(nodes: usize) -> Self {
        let grants = vec![
            ("operator", "node/*", "node.control"),
            ("operator", "kv", "kv"),
        ];
        Self {
            nodes,
            grants,
            budget_mib: None,
        }
    }

    /// Another capability.
    #[must_use]
    pub fn grant(
        mut self,
        holder: &'static str,
        target: &'static str,
        contract: &'static str,
    ) -> Self {
        self.grants.push((holder, target, contract));
        self
    }
}

/// One node.
#[derive(Debug)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its data directory.
    pub data: PathBuf,
    /// Its UDP port on loopback.
    pub port: u16,
    log: PathBuf,
    process: Option<Child>,
}

impl Node {
    /// The process id of the daemon.
    ///
    /// # Panics
    ///
    /// If the test has killed it.
    #[track_caller]
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the node runs").id()
    }

    /// What the daemon and its children have written so far: the end of it.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        let from = bytes.len().saturating_sub(LOG_TAIL_BYTES);
        String::from_utf8_lossy(&bytes[from..]).into_owned()
    }
}

/// A running cluster in a temporary directory. Everything ends and goes when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    directory: TempDir,
    nodes: Vec<Node>,
    budget_mib: Option<u64>,
}

impl Cluster {
    /// Starts so many nodes with the usual grants, and waits until each answers each.
    ///
    /// The nodes end with the thread that calls this: the kernel tells them of its end.
    ///
    /// # Panics
    ///
    /// If the cluster is not ready within a minute.
    #[track_caller]
    #[must_use]
    pub fn start(nodes: usize) -> Self {
        Self::with(&ClusterOptions::new(nodes))
    }

    /// As [`Cluster::start`], with choices.
    ///
    /// # Panics
    ///
    /// As [`Cluster::start`].
    #[track_caller]
    #[must_use]
    pub fn with(options: &ClusterOptions) -> Self {
        let mut cluster = Self::prepare(options);
        for position in 0..cluster.nodes.len() {
            cluster.launch(position);
        }
        cluster.wait_until_ready();
        cluster
    }

    /// Makes certificates and data directories, and starts nothing.
    ///
    /// # Panics
    ///
    /// If one of the commands fails.
    #[track_caller]
    #[must_use]
    pub fn prepare(options: &ClusterOptions) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("weft-test-")
            .tempdir()
            .expect("a directory");
        // Without links, so that it can be compared with what /proc tells.
        let path = directory.path().canonicalize().expect("path");
        let nodes: Vec<Node> = free_udp_ports(options.nodes)
            .into_iter()
            .enumerate()
            .map(|(position, port)| {
                let name = format!("n{}", position + 1);
                Node {
                    data: path.join(&name),
                    log: path.join(format!("{name}.log")),
                    name,
                    port,
                    process: None,
                }
            })
            .collect();
        make_ca(&path, "ca", "test");
        for node in &nodes {
            issue_node(&path, "ca", &node.name, &node.name);
        }
        let cluster = Self {
            directory,
            nodes,
            budget_mib: options.budget_mib,
        };
        for (holder, target, contract) in &options.grants {
            cluster.grant(holder, target, contract);
        }
        cluster
    }

    /// Gives a capability to a holder on every node.
    ///
    /// # Panics
    ///
    /// If it is refused.
    #[track_caller]
    pub fn grant(&self, holder: &str, target: &str, contract: &str) {
        let mut words = vec![
            "grant",
            holder,
            target,
            "--contract",
            contract,
            "--ca",
            "ca",
        ];
        for node in &self.nodes {
            words.extend(["--to", node.name.as_str()]);
        }
        let _ = weft(self.path(), &words).expect_done();
    }

    /// The directory of the cluster: `ca`, the data directories, the logs.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// All nodes, n1 first.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node of a name.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[track_caller]
    #[must_use]
    pub fn node(&self, name: &str) -> &Node {
        &self.nodes[self.position(name)]
    }

    #[track_caller]
    fn position(&self, name: &str) -> usize {
        self.nodes
            .iter()
            .position(|node| node.name == name)
            .unwrap_or_else(|| panic!("the test has no node {name}"))
    }

    /// Runs a command at a node, as the operator.
    ///
    /// # Panics
    ///
    /// As [`weft()`].
    #[track_caller]
    #[must_use]
    pub fn weft(&self, node: &str, words: &[&str]) -> Answer {
        weft(self.path(), &[&["--data", node][..], words].concat())
    }

    /// Starts a command at a node and lets it run.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    #[track_caller]
    #[must_use]
    pub fn start_weft(&self, node: &str, words: &[&str]) -> Started {
        let mut command = Command::new(weft_binary());
        command
            .current_dir(self.path())
            .env_remove("WEFT_DATA")
            .args(["--json", "--data", node])
            .args(words);
        start(&mut command)
    }

    /// Starts the service `kv` on a node.
    ///
    /// # Panics
    ///
    /// If it is refused.
    #[track_caller]
    pub fn run_kv(&self, node: &str) {
        let _ = self.weft(node, &["run", "kv"]).expect_done();
    }

    /// Writes into `kv` from a node.
    #[track_caller]
    #[must_use]
    pub fn put(&self, node: &str, key: &str, value: &str) -> Answer {
        let fields = json!({ "key": key, "value": value }).to_string();
        self.weft(node, &["call", "kv", "Put", &fields])
    }

    /// Reads from `kv` at a node: the value as text, if the key is there.
    ///
    /// # Panics
    ///
    /// If the call fails.
    #[track_caller]
    #[must_use]
    pub fn get(&self, node: &str, key: &str) -> Option<String> {
        let fields = json!({ "key": key }).to_string();
        let reply = self
            .weft(node, &["call", "kv", "Get", &fields])
            .expect_done();
        reply["reply"]["entry"]["value"].as_str().map(str::to_owned)
    }

    /// What a node runs.
    ///
    /// # Panics
    ///
    /// If it does not answer.
    #[track_caller]
    #[must_use]
    pub fn inventory(&self, node: &str) -> Value {
        self.weft(node, &["ps"]).expect_done()
    }

    /// The process id of a service, as its node tells.
    ///
    /// # Panics
    ///
    /// If it does not run there.
    #[track_caller]
    #[must_use]
    pub fn pid_of_service(&self, node: &str, service: &str) -> u32 {
        self.pid_in(node, "services", |entry| entry["name"] == service)
    }

    /// The process id of a node's gateway.
    ///
    /// # Panics
    ///
    /// If it has none.
    #[track_caller]
    #[must_use]
    pub fn pid_of_gateway(&self, node: &str) -> u32 {
        self.pid_in(node, "domains", |entry| entry["role"] == "gateway")
    }

    #[track_caller]
    fn pid_in(&self, node: &str, list: &str, is: impl Fn(&Value) -> bool) -> u32 {
        let inventory = self.inventory(node);
        let found = inventory[list]
            .as_array()
            .and_then(|entries| entries.iter().find(|entry| is(entry)));
        found
            .and_then(|entry| entry["pid"].as_u64())
            .and_then(|pid| u32::try_from(pid).ok())
            .unwrap_or_else(|| panic!("no process in {list} of {inventory:#}"))
    }

    /// The nodes that say that they run an instance of a service, with its state. Nodes that are
    /// down say nothing.
    #[must_use]
    pub fn instances(&self, service: &str) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for node in self.nodes.iter().filter(|node| node.process.is_some()) {
            let Ok(inventory) = self.weft(&node.name, &["ps"]).done() else {
                continue;
            };
            let services = inventory["services"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            found.extend(
                services
                    .iter()
                    .filter(|entry| entry["name"] == service)
                    .map(|entry| {
                        (
                            node.name.clone(),
                            entry["state"].as_str().unwrap_or_default().to_owned(),
                        )
                    }),
            );
        }
        found
    }

    /// Where the directory says that a service lives, and in which epoch.
    ///
    /// # Panics
    ///
    /// If the directory does not answer.
    #[track_caller]
    #[must_use]
    pub fn owner(&self, asked: &str, service: &str) -> Option<(String, u64)> {
        let answer = self.weft(asked, &["kernel", "directory"]).expect_done();
        answer
            .as_array()
            .unwrap_or_else(|| panic!("no list: {answer:#}"))
            .iter()
            .find(|entry| entry["service"] == service)
            .and_then(|entry| Some((entry["node"].as_str()?.to_owned(), entry["epoch"].as_u64()?)))
    }

    /// `kill -9` of a node's daemon.
    ///
    /// # Panics
    ///
    /// If it does not run.
    #[track_caller]
    pub fn kill_daemon(&mut self, name: &str) {
        let position = self.position(name);
        let mut process = self.nodes[position].process.take().expect("the node runs");
        kill(process.id());
        process.wait().expect("wait");
    }

    /// Starts a node that was killed or stopped again, and waits until all answer each other.
    ///
    /// # Panics
    ///
    /// If the cluster is not ready within a minute.
    #[track_caller]
    pub fn restart(&mut self, name: &str) {
        self.launch_node(name);
        self.wait_until_ready();
    }

    /// Starts a node that does not run, and waits for nothing.
    ///
    /// # Panics
    ///
    /// If it runs already.
    #[track_caller]
    pub fn launch_node(&mut self, name: &str) {
        let position = self.position(name);
        self.launch(position);
    }

    /// SIGTERM to a node, and waits for its end.
    ///
    /// # Panics
    ///
    /// If it takes too long, or ends with an error.
    #[track_caller]
    pub fn stop(&mut self, name: &str) {
        let position = self.position(name);
        let process = self.nodes[position]
            .process
            .as_ref()
            .expect("the node runs");
        signal(process.id(), Signal::TERM);
        self.await_stop(position);
    }

    #[track_caller]
    fn await_stop(&mut self, position: usize) {
        let node = &mut self.nodes[position];
        let mut process = node.process.take().expect("the node runs");
        let deadline = Instant::now() + STOP_PATIENCE;
        let status = loop {
            match process.try_wait().expect("wait") {
                Some(status) => break status,
                None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(10)),
                None => {
                    kill(process.id());
                    let _ = process.wait();
                    panic!(
                        "node {} did not stop in {STOP_PATIENCE:?}; its log:\n{}",
                        node.name,
                        node.log()
                    );
                }
            }
        };
        assert!(
            status.success(),
            "node {} stopped with {status}; its log:\n{}",
            node.name,
            node.log()
        );
    }

    fn launch(&mut self, position: usize) {
        let mut command = node_command(self, position);
        let node = &mut self.nodes[position];
        assert!(node.process.is_none(), "node {} runs already", node.name);
        let log = File::options()
            .create(true)
            .append(true)
            .open(&node.log)
            .expect("log");
        let process = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log"))
            .stderr(log)
            .spawn()
            .expect("weft node");
        node.process = Some(process);
    }

    /// Waits until each running node has answered each other.
    ///
    /// # Panics
    ///
    /// If it takes longer than a minute, or a node ends.
    #[track_caller]
    pub fn wait_until_ready(&mut self) {
        let running: Vec<String> = self
            .nodes
            .iter()
            .filter(|node| node.process.is_some())
            .map(|node| node.name.clone())
            .collect();
        for from in &running {
            for to in &running {
                eventually(&format!("{from} reaches {to}"), START_PATIENCE, || {
                    let position = self.position(from);
                    let node = &mut self.nodes[position];
                    if let Some(Ok(Some(status))) = node.process.as_mut().map(Child::try_wait) {
                        // It will not come back, so there is nothing to wait for.
                        panic!("node {from} ended with {status}; its log:\n{}", node.log());
                    }
                    let pinged = self.weft(from, &["kernel", "ping", to]).done();
                    pinged.map_err(|told| {
                        format!("{told}\nlog of {from}:\n{}", self.node(from).log())
                    })
                });
            }
        }
    }

    /// Stops all nodes with SIGTERM and checks that nothing is left: no process that belongs to the
    /// directory, no socket in it.
    ///
    /// # Panics
    ///
    /// If a node does not stop well, or something is left.
    #[track_caller]
    pub fn shut_down(mut self) {
        let running: Vec<usize> = (0..self.nodes.len())
            .filter(|position| self.nodes[*position].process.is_some())
            .collect();
        for position in &running {
            signal(self.nodes[*position].pid(), Signal::TERM);
        }
        for position in &running {
            self.await_stop(*position);
        }
        let path = self.path().canonicalize().expect("path");
        eventually(
            "all processes of the cluster end",
            Duration::from_secs(5),
            || match &processes_in(&path)[..] {
                [] => Ok(()),
                left => Err(format!("left: {left:?}")),
            },
        );
        for node in &self.nodes {
            let socket = node.data.join("weft.sock");
            assert!(
                !socket.exists() || !running.contains(&self.position(&node.name)),
                "{} is left",
                socket.display()
            );
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The nodes' side of the story goes with the directory, so it is told now.
            for node in &self.nodes {
                eprintln!("the end of the log of {}:\n{}", node.name, node.log());
            }
        }
        for process in self
            .nodes
            .iter_mut()
            .filter_map(|node| node.process.as_mut())
        {
            kill(process.id());
            let _ = process.wait();
        }
        let Ok(path) = self.directory.path().canonicalize() else {
            return;
        };
        // Services and gateways end by themselves when their daemon dies; what does not is ended here.
        let left = processes_in(&path);
        left.iter().copied().for_each(kill);
        if !std::thread::panicking() {
            left.into_iter()
                .for_each(|pid| wait_until_gone(pid, Duration::from_secs(5)));
        }
    }
}

/// The command that starts a node of a cluster, as a person would type it.
#[must_use]
pub fn node_command(cluster: &Cluster, position: usize) -> Command {
    let node = &cluster.nodes[position];
    let mut command = Command::new(weft_binary());
    command
        .env_remove("WEFT_DATA")
        .current_dir(cluster.path().canonicalize().expect("path"))
        .arg("node")
        .arg("--data")
        .arg(&node.data)
        .args(["--listen", &format!("127.0.0.1:{}", node.port)])
        .args(["--directory", &cluster.nodes[0].name])
        .args(["--die-with-parent", &std::process::id().to_string()]);
    if let Some(budget) = cluster.budget_mib {
        command.args(["--budget", &budget.to_string()]);
    }
    for peer in cluster.nodes.iter().filter(|peer| peer.name != node.name) {
        command
            .arg("--peer")
            .arg(format!("{}=127.0.0.1:{}", peer.name, peer.port));
    }
    command
}

/// Makes a CA in a directory.
///
/// # Panics
///
/// If it is refused.
#[track_caller]
pub fn make_ca(directory: &Path, ca: &str, cluster: &str) {
    let _ = weft(
        directory,
        &["ca", "init", "--dir", ca, "--cluster", cluster],
    )
    .expect_done();
}

/// Makes a node's certificate and data directory.
///
/// # Panics
///
/// If it is refused.
#[track_caller]
pub fn issue_node(directory: &Path, ca: &str, node: &str, out: &str) {
    let _ = weft(directory, &["ca", "node", node, "--dir", ca, "--out", out]).expect_done();
}

/// UDP ports on loopback that nobody uses now. No port is given out twice by one process, so tests
/// that run at the same time do not get each other's.
///
/// # Panics
///
/// If the system has none.
#[must_use]
pub fn free_udp_ports(count: usize) -> Vec<u16> {
    static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let given = given.get_or_insert_default();
    let mut sockets = Vec::new();
    let mut ports = Vec::new();
    while ports.len() < count {
        let socket = UdpSocket::bind(("127.0.0.1", 0)).expect("a free UDP port");
        let port = socket.local_addr().expect("address").port();
        // Held until all are found, so that the system gives another one next time.
        sockets.push(socket);
        if given.insert(port) {
            ports.push(port);
        }
    }
    ports
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_never_given_twice() {
        let mut ports: Vec<u16> = (0..20).flat_map(|_| free_udp_ports(5)).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 100);
    }

    #[test]
    fn a_cluster_starts_answers_and_leaves_nothing() {
        let cluster = Cluster::start(2);
        cluster.run_kv("n1");
        let _ = cluster.put("n2", "greeting", "hello").expect_done();
        assert_eq!(cluster.get("n1", "greeting").as_deref(), Some("hello"));
        assert_eq!(cluster.owner("n2", "kv").expect("an owner").0, "n1");
        let path = cluster.path().to_owned();
        cluster.shut_down();
        assert!(!path.exists());
    }

    #[test]
    fn a_test_that_panics_leaves_nothing_either() {
        let mut path = None;
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let cluster = Cluster::start(1);
            cluster.run_kv("n1");
            path = Some(cluster.path().canonicalize().expect("path"));
            panic!("as a failing test does");
        }));
        assert!(outcome.is_err());
        let path = path.expect("the cluster started");
        eventually("all processes end", Duration::from_secs(5), || {
            let left = processes_in(&path);
            if left.is_empty() {
                Ok(())
            } else {
                Err(format!("{left:?}"))
            }
        });
        assert!(!path.exists());
    }
}
