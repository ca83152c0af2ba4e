//! The demo's cluster: certificates and node processes, made with the same commands a person types.

use std::fs::File;
use std::io::Read as _;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use weft_node_control::PingPeer;
use weft_types::{NodeName, ServiceName};

use super::interrupt::Interrupt;
use super::workspace::own_command;
use crate::arguments::DEMO_SERVICE;
use crate::connection::Connection;
use crate::error::CliError;

/// How long all nodes together may take until each answers each other.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a node may take to stop before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one call to a node may take. Moves take longer and say so themselves.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How much of a node's log is shown when it does not start, in bytes.
const LOG_TAIL_BYTES: usize = 2000;

/// The name under which the runner itself attaches.
const OPERATOR: &str = "operator";

/// One node of the demo.
#[derive(Debug)]
pub(crate) struct Node {
    /// Its name: n1, n2, …
    pub(crate) name: NodeName,
    /// Its data directory.
    pub(crate) data: PathBuf,
    log: PathBuf,
    process: Child,
}

/// The nodes, which stop when this is dropped.
#[derive(Debug)]
pub(crate) struct Cluster {
    nodes: Vec<Node>,
}

impl Cluster {
    /// Makes a CA, certificates and grants in `directory`, starts the nodes, and waits until each
    /// has been pinged by each.
    ///
    /// Nodes end with the thread that calls this, since the kernel counts the thread as the parent.
    pub(crate) fn start(
        directory: &Path,
        count: u32,
        clients: u32,
        interrupt: &Interrupt,
    ) -> Result<Self, CliError> {
        let names: Vec<NodeName> = (1..=count)
            .map(|number| {
                NodeName::new(format!("n{number}"))
                    .map_err(|error| CliError::internal("node", error))
            })
            .collect::<Result<_, _>>()?;
        make_certificates(directory, &names, clients, interrupt)?;
        let ports = free_ports(names.len())?;
        let mut cluster = Self { nodes: Vec::new() };
        for (position, name) in names.iter().enumerate() {
            let node = start_node(directory, name, position, &names, &ports)?;
            cluster.nodes.push(node);
        }
        cluster.wait_until_ready(interrupt)?;
        Ok(cluster)
    }

    /// The nodes, n1 first.
    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Attaches to each node.
    pub(crate) fn connect(&self) -> Result<Vec<Connection>, CliError> {
        self.nodes.iter().map(Node::connect).collect()
    }

    /// An error if one of the nodes has ended by itself.
    pub(crate) fn check(&mut self) -> Result<(), CliError> {
        for node in &mut self.nodes {
            if let Ok(Some(status)) = node.process.try_wait() {
                return Err(CliError::Internal(format!(
                    "node {} ended ({status}); the end of its log:\n{}",
                    node.name,
                    tail(&node.log)
                )));
            }
        }
        Ok(())
    }

    fn wait_until_ready(&mut self, interrupt: &Interrupt) -> Result<(), CliError> {
        let deadline = Instant::now() + START_TIMEOUT;
        let names: Vec<NodeName> = self.nodes.iter().map(|node| node.name.clone()).collect();
        for position in 0..names.len() {
            loop {
                interrupt.check()?;
                self.check()?;
                let node = &self.nodes[position];
                let Err(error) = node.ping_all(&names) else {
                    break;
                };
                if Instant::now() >= deadline {
                    return Err(CliError::Internal(format!(
                        "the cluster was not ready after {} s: {error}\nthe end of the log of {}:\n{}",
                        START_TIMEOUT.as_secs(),
                        node.name,
                        tail(&node.log)
                    )));
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &self.nodes {
            if let Some(pid) = Pid::from_raw(node.process.id().cast_signed()) {
                // A node that has ended already is waited for below all the same.
                let _ = rustix::process::kill_process(pid, Signal::TERM);
            }
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        for node in &mut self.nodes {
            while Instant::now() < deadline && matches!(node.process.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = node.process.kill();
            let _ = node.process.wait();
        }
    }
}

impl Node {
    /// Attaches to this node as the operator.
    pub(crate) fn connect(&self) -> Result<Connection, CliError> {
        let operator =
            ServiceName::new(OPERATOR).map_err(|error| CliError::internal("name", error))?;
        Connection::to(self.data.clone(), operator, CALL_TIMEOUT)
    }

    fn ping_all(&self, others: &[NodeName]) -> Result<(), CliError> {
        let mut kernel = self.connect()?.local_kernel()?;
        for node in others.iter().filter(|node| **node != self.name) {
            kernel.ask(&PingPeer { node: node.clone() })?;
        }
        Ok(())
    }
}

/// The name under which a client of the demo attaches.
pub(crate) fn client_name(client: u32) -> String {
    format!("demo-client-{client}")
}

/// Which node a client runs on: they go round.
pub(crate) fn node_of_client(client: u32, nodes: usize) -> usize {
    (client as usize - 1) % nodes
}

fn make_certificates(
    directory: &Path,
    names: &[NodeName],
    clients: u32,
    interrupt: &Interrupt,
) -> Result<(), CliError> {
    let ca = directory.join("ca");
    let path = |path: &Path| path.display().to_string();
    let ca = path(&ca);
    let data: Vec<String> = names
        .iter()
        .map(|name| path(&directory.join(name.as_str())))
        .collect();
    weft(&["ca", "init", "--dir", &ca, "--cluster", "demo"])?;
    for (name, out) in names.iter().zip(&data) {
        weft(&["ca", "node", name.as_str(), "--dir", &ca, "--out", out])?;
    }
    let grant = |holder: &str, target: &str, contract: &str, to: &[String]| {
        interrupt.check()?;
        let mut words = vec![
            "grant",
            holder,
            target,
            "--contract",
            contract,
            "--ca",
            &ca,
            "--to",
        ];
        words.extend(to.iter().map(String::as_str));
        weft(&words)
    };
    grant(OPERATOR, "node/*", "node.control", &data)?;
    grant(OPERATOR, DEMO_SERVICE, "kv", &data)?;
    for client in 1..=clients {
        let node = node_of_client(client, data.len());
        grant(&client_name(client), DEMO_SERVICE, "kv", &data[node..=node])?;
    }
    Ok(())
}

/// Runs one `weft` command to its end.
fn weft(words: &[&str]) -> Result<(), CliError> {
    let done = own_command()?
        .args(words)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| CliError::internal("weft", error))?;
    if done.status.success() {
        return Ok(());
    }
    Err(CliError::Internal(format!(
        "`weft {}` failed ({}): {}",
        words.join(" "),
        done.status,
        String::from_utf8_lossy(&done.stderr).trim()
    )))
}

fn start_node(
    directory: &Path,
    name: &NodeName,
    position: usize,
    names: &[NodeName],
    ports: &[u16],
) -> Result<Node, CliError> {
    let data = directory.join(name.as_str());
    let log = directory.join(format!("{name}.log"));
    let file = File::create(&log).map_err(|error| CliError::internal(log.display(), error))?;
    let copy = file
        .try_clone()
        .map_err(|error| CliError::internal(log.display(), error))?;
    let mut command = own_command()?;
    command
        .arg("node")
        .arg("--data")
        .arg(&data)
        .args(["--name", name.as_str(), "--directory", names[0].as_str()])
        .args(["--listen", &format!("127.0.0.1:{}", ports[position])])
        .args(["--die-with-parent", &std::process::id().to_string()]);
    for (peer, port) in names.iter().zip(ports).filter(|(peer, _)| *peer != name) {
        command
            .arg("--peer")
            .arg(format!("{peer}=127.0.0.1:{port}"));
    }
    let process = command
        .stdin(Stdio::null())
        .stdout(copy)
        .stderr(file)
        .spawn()
        .map_err(|error| CliError::internal(format!("node {name}"), error))?;
    Ok(Node {
        name: name.clone(),
        data,
        log,
        process,
    })
}

/// UDP ports on loopback that nobody uses now.
///
/// All are held until all are found, so they differ. Another process may take one before our node
/// does; the node then says so and the demo ends with its log.
fn free_ports(count: usize) -> Result<Vec<u16>, CliError> {
    let sockets: Vec<UdpSocket> = (0..count)
        .map(|_| UdpSocket::bind(("127.0.0.1", 0)))
        .collect::<Result<_, _>>()
        .map_err(|error| CliError::internal("a free UDP port", error))?;
    sockets
        .iter()
        .map(|socket| socket.local_addr().map(|address| address.port()))
        .collect::<Result<_, _>>()
        .map_err(|error| CliError::internal("a free UDP port", error))
}

/// The end of a log, for an error message.
fn tail(log: &Path) -> String {
    let mut bytes = Vec::new();
    if let Err(error) = File::open(log).and_then(|mut file| file.read_to_end(&mut bytes)) {
        return format!("{}: {error}", log.display());
    }
    let start = bytes.len().saturating_sub(LOG_TAIL_BYTES);
    String::from_utf8_lossy(&bytes[start..]).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_spread_over_all_nodes() {
        let nodes: Vec<usize> = (1..=6).map(|client| node_of_client(client, 3)).collect();
        assert_eq!(nodes, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn free_ports_differ() {
        let mut ports = free_ports(9).unwrap();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 9);
    }
}
