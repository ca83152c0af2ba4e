//! A cluster in one process: real gateways, certificates and shared memory; nodes, services and
//! clients are doubles that keep to the rules of halves and swaps.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;
use tokio::sync::oneshot;
use weft_authority::{Authority, GrantRequest, NodeIssuer, Validity};
use weft_capability::{Chain, NodeIdentity, Target};
use weft_gateway::{Config, GatewayError, GatewayHandle, run};
use weft_types::{ChannelId, ClusterName, ContractName, Epoch, Lane, NodeName, ServiceName};

mod client;
mod home;
mod service;

pub(crate) use client::Client;
pub(crate) use home::TestHome;
pub(crate) use service::{Frozen, TestService};

const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn service(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

pub(crate) fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

/// What all nodes of a cluster agree on.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) directory: Mutex<HashMap<ServiceName, (NodeName, Epoch)>>,
    pub(crate) addresses: Mutex<HashMap<NodeName, SocketAddr>>,
}

pub(crate) struct Cluster {
    files: TempDir,
    authority: Authority,
    pub(crate) world: Arc<World>,
}

impl Cluster {
    pub(crate) fn new(name: &str) -> Self {
        if std::env::var_os("WEFT_TEST_LOG").is_some() {
            let _ = tracing_subscriber::fmt()
                .with_max_level(tracing::Level::DEBUG)
                .with_writer(std::io::stderr)
                .try_init();
        }
        let files = tempfile::tempdir().unwrap();
        let cluster = ClusterName::new(name).unwrap();
        let authority =
            Authority::init(&files.path().join("ca"), &cluster, SystemTime::now()).unwrap();
        Self {
            files,
            authority,
            world: Arc::default(),
        }
    }

    fn validity() -> Validity {
        Validity::starting(SystemTime::now(), HOUR).unwrap()
    }

    /// A node with a running gateway.
    pub(crate) fn node(&self, name: &str) -> TestNode {
        self.node_until(name, Self::validity())
    }

    pub(crate) fn node_until(&self, name: &str, validity: Validity) -> TestNode {
        let name = node(name);
        let directory = self.files.path().join(name.as_str());
        self.authority
            .issue_node(&name, &directory, validity)
            .unwrap();
        self.node_of(name, directory)
    }

    /// A second node with the certificate of another, at an address that nobody is told.
    pub(crate) fn twin(&self, of: &TestNode) -> TestNode {
        let twin = self.node_of(of.name.clone(), of.directory.clone());
        self.set_address(&of.name, of.address());
        twin
    }

    /// Where the others dial a node from now on.
    pub(crate) fn set_address(&self, name: &NodeName, address: SocketAddr) {
        let mut addresses = self.world.addresses.lock().unwrap();
        addresses.insert(name.clone(), address);
    }

    fn node_of(&self, name: NodeName, directory: PathBuf) -> TestNode {
        let issuer = NodeIssuer::load(&directory, SystemTime::now()).unwrap();
        let home = Arc::new(TestHome::new(name.clone(), Arc::clone(&self.world), issuer));
        let mut node = TestNode {
            name,
            directory,
            home,
            gateway: None,
            address: None,
        };
        node.start_gateway();
        node
    }

    /// The right of `holder` to speak to `target` from lane `ceiling` on.
    pub(crate) fn grant_from(&self, holder: &str, target: &str, ceiling: Lane) -> Chain {
        let mut request = GrantRequest::new(
            service(holder),
            Target::Service(service(target)),
            ContractName::new("kv").unwrap(),
            1,
            Self::validity(),
        );
        request.lane_ceiling = ceiling;
        self.authority.grant(&request).unwrap().chain
    }

    pub(crate) fn grant(&self, holder: &str, target: &str) -> Chain {
        self.grant_from(holder, target, Lane::URGENT)
    }

    /// Starts a service on a node and enters it in the directory.
    pub(crate) fn start_service(&self, on: &TestNode, name: &str, epoch: u64) -> Arc<TestService> {
        let started = Arc::new(TestService::new(Epoch::new(epoch)));
        on.home
            .services
            .lock()
            .unwrap()
            .insert(service(name), Arc::clone(&started));
        self.register(on, name, epoch);
        started
    }

    pub(crate) fn register(&self, on: &TestNode, name: &str, epoch: u64) {
        let owner = (on.name.clone(), Epoch::new(epoch));
        self.world
            .directory
            .lock()
            .unwrap()
            .insert(service(name), owner);
    }

    /// Moves a service: freeze, state, commit, activate, swap.
    pub(crate) async fn move_service(
        &self,
        name: &str,
        from: &TestNode,
        to: &TestNode,
        epoch: u64,
    ) {
        let saved = self.freeze_and_commit(name, from, to, epoch).await;
        from.handle()
            .service_moved(&service(name), &to.name, Epoch::new(epoch))
            .await;
        self.activate(name, to, epoch, saved);
    }

    /// The same, but the gateway of the old home is told nothing.
    pub(crate) async fn move_silently(
        &self,
        name: &str,
        from: &TestNode,
        to: &TestNode,
        epoch: u64,
    ) {
        let saved = self.freeze_and_commit(name, from, to, epoch).await;
        self.activate(name, to, epoch, saved);
    }

    async fn freeze_and_commit(
        &self,
        name: &str,
        from: &TestNode,
        to: &TestNode,
        epoch: u64,
    ) -> Frozen {
        let old = from
            .home
            .services
            .lock()
            .unwrap()
            .remove(&service(name))
            .unwrap();
        let saved = tokio::task::spawn_blocking(move || old.freeze())
            .await
            .unwrap();
        self.register(to, name, epoch);
        saved
    }

    fn activate(&self, name: &str, to: &TestNode, epoch: u64, saved: Frozen) {
        let new = Arc::new(TestService::activated(Epoch::new(epoch), saved));
        to.home.services.lock().unwrap().insert(service(name), new);
    }
}

pub(crate) struct TestNode {
    pub(crate) name: NodeName,
    directory: PathBuf,
    pub(crate) home: Arc<TestHome>,
    gateway: Option<GatewayThread>,
    address: Option<SocketAddr>,
}

/// A gateway on a thread and runtime of its own, as in a process of its own.
struct GatewayThread {
    handle: GatewayHandle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for GatewayThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl TestNode {
    pub(crate) fn identity(&self) -> NodeIdentity {
        let read = |file: &str| std::fs::read(self.directory.join(file));
        NodeIdentity::load(read, SystemTime::now()).unwrap()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address.unwrap()
    }

    pub(crate) fn handle(&self) -> GatewayHandle {
        self.gateway.as_ref().unwrap().handle.clone()
    }

    /// Ends the gateway as a kill would: its connections, tasks and mappings are gone, without a
    /// word to the peers.
    pub(crate) fn kill_gateway(&mut self) {
        self.gateway = None;
    }

    pub(crate) fn start_gateway(&mut self) {
        let listen = self
            .address
            .unwrap_or_else(|| "127.0.0.1:0".parse().unwrap());
        let gateway = start(Config::new(self.identity(), listen), &self.home).unwrap();
        let (gateway, address) = gateway;
        self.address = Some(address);
        self.gateway = Some(gateway);
        self.home
            .world
            .addresses
            .lock()
            .unwrap()
            .insert(self.name.clone(), address);
    }

    /// Starts a second gateway at this address.
    pub(crate) fn start_at(&self, listen: SocketAddr) -> Result<(), GatewayError> {
        start(Config::new(self.identity(), listen), &self.home).map(|_| ())
    }

    /// Opens a channel as a local client would.
    pub(crate) async fn open(
        &self,
        holder: &str,
        target: &str,
        capability: Chain,
    ) -> Result<Client, weft_types::Refusal> {
        Client::open(
            self,
            ChannelId::random(),
            service(holder),
            service(target),
            capability,
        )
        .await
    }
}

fn start(
    config: Config,
    home: &Arc<TestHome>,
) -> Result<(GatewayThread, SocketAddr), GatewayError> {
    let (started, wait) = std::sync::mpsc::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let home = Arc::clone(home);
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            match run(config, home).await {
                Ok((handle, running)) => {
                    started.send(Ok((handle, running.local_address()))).unwrap();
                    tokio::select! {
                        () = running => {}
                        _ = stopped => {}
                    }
                }
                Err(error) => started.send(Err(error)).unwrap(),
            }
        });
        runtime.shutdown_background();
    });
    let (handle, address) = wait.recv().unwrap()?;
    Ok((
        GatewayThread {
            handle,
            stop: Some(stop),
            thread: Some(thread),
        },
        address,
    ))
}

/// Waits until `condition` holds.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..1_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never comes true that {what}");
}
