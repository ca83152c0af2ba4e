//! The client processes, as the runner sees them.

use std::io::{BufReader, Write as _};
use std::process::{Child, Stdio};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use super::Event;
use super::cluster::{Node, client_name, node_of_client};
use super::lines::Line;
use super::workspace::own_command;
use crate::error::CliError;

/// How long clients may take to end after they were told to: longer than a message's own deadline.
const STOP_TIMEOUT: Duration = Duration::from_secs(40);

/// All client processes. They are killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Fleet {
    clients: Vec<Child>,
}

impl Fleet {
    /// Starts `count` clients spread over the nodes. What they say arrives as events.
    ///
    /// Clients end with the thread that calls this, since the kernel counts the thread as the parent.
    pub(crate) fn start(
        nodes: &[Node],
        count: u32,
        total_rate: u32,
        events: &Sender<Event>,
    ) -> Result<Self, CliError> {
        let mut fleet = Self {
            clients: Vec::new(),
        };
        let rate = f64::from(total_rate) / f64::from(count);
        for client in 1..=count {
            let node = &nodes[node_of_client(client, nodes.len())];
            let mut process = own_command()?
                .arg("demo-client")
                .arg("--data")
                .arg(&node.data)
                .args(["--as", &client_name(client)])
                .args(["--id", &client.to_string(), "--rate", &rate.to_string()])
                .args(["--die-with-parent", &std::process::id().to_string()])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .map_err(|error| CliError::internal(format!("client {client}"), error))?;
            let stdout = process.stdout.take();
            fleet.clients.push(process);
            let events = events.clone();
            std::thread::Builder::new()
                .name(format!("client-{client}"))
                .spawn(move || {
                    if let Some(stdout) = stdout {
                        hear(client, BufReader::new(stdout), &events);
                    }
                })
                .map_err(|error| CliError::internal("thread", error))?;
        }
        Ok(fleet)
    }

    /// Lets all clients begin.
    pub(crate) fn begin(&mut self) -> Result<(), CliError> {
        for client in &mut self.clients {
            if let Some(stdin) = &mut client.stdin {
                stdin
                    .write_all(b"begin\n")
                    .map_err(|error| CliError::internal("client", error))?;
            }
        }
        Ok(())
    }

    /// Tells all clients to stop sending. Their last words arrive as events.
    pub(crate) fn stop(&mut self) {
        for client in &mut self.clients {
            drop(client.stdin.take());
        }
    }

    /// When a client that was told to stop now has taken too long.
    pub(crate) fn stop_deadline() -> Instant {
        Instant::now() + STOP_TIMEOUT
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for client in &mut self.clients {
            // Those that ended by themselves are only waited for.
            let _ = client.kill();
            let _ = client.wait();
        }
    }
}

/// Passes on what one client says, and in the end that it is gone.
fn hear(client: u32, lines: impl std::io::BufRead, events: &Sender<Event>) {
    for text in lines.lines() {
        let event = match text
            .map_err(|error| error.to_string())
            .and_then(|text| serde_json::from_str::<Line>(&text).map_err(|error| error.to_string()))
        {
            Ok(line) => Event::Client { client, line },
            Err(text) => Event::Client {
                client,
                line: Line::Failed { text },
            },
        };
        // Nobody listens once the runner has given up.
        if events.send(event).is_err() {
            return;
        }
    }
    let _ = events.send(Event::ClientGone { client });
}
