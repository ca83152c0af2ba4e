//! The life of a node daemon, from its lock to its last service.

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};
use weft_capability::{InstanceKeys, NodeIdentity};
use weft_local_ipc::{SideListener, Watcher};
use weft_types::{Refusal, RefusalCode};

use crate::channels::Channels;
use crate::config::Config;
use crate::directory::{Directory, FileDirectory, RemoteDirectory};
use crate::domains::attach;
use crate::log::Log;
use crate::node::Node;
use crate::readiness::Readiness;
use crate::security::Security;

/// How long the gateway may take to say farewell to the other nodes.
const GATEWAY_FAREWELL: Duration = Duration::from_secs(1);

/// Between two attempts to reach the directory's node after the start.
const REACH_AGAIN: Duration = Duration::from_secs(5);

/// Runs a node until it is told to end (SIGTERM or SIGINT).
///
/// # Errors
///
/// Why the node could not be started: another runs on the same data directory, a port is in use,
/// the directory's file cannot be read, another node of the same name is in the cluster. Nothing is
/// left behind then.
pub async fn run(
    config: Config,
    identity: NodeIdentity,
    keys: InstanceKeys,
) -> Result<(), Refusal> {
    LocalSet::new()
        .run_until(serve(config, identity, keys))
        .await
}

async fn serve(config: Config, identity: NodeIdentity, keys: InstanceKeys) -> Result<(), Refusal> {
    let _lock = lock(&config)?;
    remember_cluster(&config, &identity)?;
    let own = identity.name().clone();
    if config.directory != own && !config.peers.contains_key(&config.directory) {
        return Err(Refusal::new(
            RefusalCode::UnknownNode,
            format!(
                "the directory is on {}, which is no --peer of {own}",
                config.directory
            ),
        ));
    }
    let held = (config.directory == own)
        .then(|| FileDirectory::open(config.directory_file()))
        .transpose()?;
    let watcher =
        Watcher::start("weft-watcher").map_err(|error| internal("watcher thread", &error))?;
    let listener = SideListener::bind(&config.socket())
        .map_err(|error| internal(&format!("{}", config.socket().display()), &error))?;
    let security = Security::new(identity, keys, config.grants());
    let node = Rc::new_cyclic(|weak| {
        let directory: Box<dyn Directory> = match held {
            Some(held) => Box::new(held),
            None => Box::new(RemoteDirectory::new(weak.clone(), config.directory.clone())),
        };
        Node {
            config,
            watcher: Rc::new(watcher),
            started: Instant::now(),
            domains: RefCell::default(),
            channels: Channels::default(),
            services: RefCell::default(),
            registrations: crate::supervisor::Registrations::default(),
            security,
            directory,
            kernels: RefCell::default(),
            gateway: watch::channel(None).0,
            gateway_ready: Notify::new(),
            opening: RefCell::default(),
            incoming: RefCell::default(),
            log: Log::default(),
            stopping: Cell::new(false),
            end_with: watch::channel(None).0,
            last_domain: Cell::new(0),
        }
    });
    node.run_gateway().await?;
    tokio::task::spawn_local(accept(Rc::clone(&node), listener));
    let services = Rc::clone(&node);
    tokio::task::spawn_local(async move { services.start_remembered().await });
    node.log.note(format!(
        "{} of cluster {} runs",
        node.name(),
        node.cluster()
    ));
    tokio::task::spawn_local(reach_out(Rc::clone(&node)));
    let outcome = wait_for_the_end(&node).await;
    if let Err(refusal) = &outcome {
        node.log.warn(refusal.text.clone());
    }
    stop(&node).await;
    outcome
}

/// Takes the data directory for this process alone. The lock goes with the process, however it ends.
fn lock(config: &Config) -> Result<File, Refusal> {
    let path = config.data.join("lock");
    let file =
        File::create(&path).map_err(|error| internal(&format!("{}", path.display()), &error))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        Refusal::new(
            RefusalCode::AlreadyThere,
            format!(
                "a node runs on {} already; stop it, or take another data directory",
                config.data.display()
            ),
        )
    })?;
    Ok(file)
}

/// Makes sure that the directory's data belongs to the cluster of its certificate.
fn remember_cluster(config: &Config, identity: &NodeIdentity) -> Result<(), Refusal> {
    let path = config.data.join("cluster.json");
    let own = (identity.cluster().clone(), identity.name().clone());
    match crate::durable::load(&path)? {
        Some(there) if there == own => Ok(()),
        Some((cluster, node)) => Err(Refusal::new(
            RefusalCode::Untrusted,
            format!(
                "{} holds the data of {node} in cluster {cluster}, its certificate is of {} in {}: take another data directory",
                config.data.display(),
                own.1,
                own.0
            ),
        )),
        None => crate::durable::store(&path, &own),
    }
}

/// Takes in apps that connect to the node's socket.
async fn accept(node: Rc<Node>, listener: SideListener) {
    let Ok(watched) = Readiness::of(&listener) else {
        node.log.warn("the node's socket cannot be watched");
        return;
    };
    loop {
        let accepted = watched.read(|| match listener.accept() {
            Ok(socket) => Ok(Some(socket)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        });
        match accepted.await {
            Ok(socket) => {
                let node = Rc::clone(&node);
                tokio::task::spawn_local(async move {
                    if let Err(refusal) = attach(&node, socket, None).await {
                        tracing::info!(%refusal, "an app was not attached");
                    }
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: those who wait are taken in when some are free.
                node.log
                    .warn(format!("an app could not be taken in: {error}"));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Opens the line to the directory's node before anything needs it; the directory's own node opens
/// one to each peer that is there. Mostly for what comes back: that the name of this node is taken.
async fn reach_out(node: Rc<Node>) {
    let holder = &node.config.directory;
    if node.is_own(holder) {
        let peers = node.config.peers.keys().map(async |peer| {
            // A peer that is not there yet asks for the directory when it is.
            if let Err(refusal) = node.kernel(peer).await {
                tracing::debug!(%peer, %refusal, "not reached at the start");
            }
        });
        join_all(peers).await;
        return;
    }
    let mut told = false;
    while let Err(refusal) = node.kernel(holder).await {
        if !told {
            node.log
                .warn(format!("the directory is not reached yet: {refusal}"));
            told = true;
        }
        sleep(REACH_AGAIN).await;
    }
}

/// Until a signal comes, or until the node must not go on.
async fn wait_for_the_end(node: &Node) -> Result<(), Refusal> {
    let mut term = signal(SignalKind::terminate()).map_err(|error| internal("SIGTERM", &error))?;
    let mut int = signal(SignalKind::interrupt()).map_err(|error| internal("SIGINT", &error))?;
    let mut ended = node.end_with.subscribe();
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
        ended = ended.wait_for(Option::is_some) => {
            if let Ok(Some(refusal)) = ended.as_deref() {
                return Err(refusal.clone());
            }
        }
    }
    Ok(())
}

/// Ends everything that this node has started. Its services stay in the directory: they are started
/// again with the node.
async fn stop(node: &Rc<Node>) {
    node.log.note("shutting down");
    node.stopping.set(true);
    let services: Vec<_> = node.services.borrow().values().cloned().collect();
    for service in services {
        if let Some(instance) = node.take_instance(&service) {
            node.stop_instance(&instance).await;
        }
    }
    stop_gateway(node).await;
    // Dropping the socket's listener removes it; children that are still there die with us.
    if let Err(error) = fs::remove_file(node.config.socket()) {
        tracing::debug!(%error, "the socket was gone");
    }
}

/// Has the gateway say farewell to the other nodes.
async fn stop_gateway(node: &Rc<Node>) {
    let Some(gateway) = node.gateway.borrow().clone() else {
        return;
    };
    let pid = i32::try_from(gateway.pid).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid
        && kill_process(pid, Signal::TERM).is_ok()
    {
        let mut there = node.gateway.subscribe();
        // It is killed with us if it takes longer.
        let _ = timeout(GATEWAY_FAREWELL, there.wait_for(Option::is_none)).await;
    }
}

fn internal(what: &str, error: &dyn std::fmt::Display) -> Refusal {
    Refusal::new(RefusalCode::Internal, format!("{what}: {error}"))
}
