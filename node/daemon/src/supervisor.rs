//! The supervisor: starts the processes of this node, and stops them.
//!
//! Each service is a process of its own, which inherits one descriptor: its socket to this daemon,
//! as its standard input. What becomes of a service that dies by itself: `restart`.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::process::Command;
use tokio::sync::{Notify, RwLock, oneshot};
use tokio::time::timeout;
use weft::bootstrap::DEBUGGABLE;
use weft_contract::{ContractDescription, TypeTable};
use weft_local_ipc::SideSocket;
use weft_node_control::{
    Activate, ChannelState, Domain as DomainContract, DomainRole, Program, ServiceState, Shutdown,
};
use weft_protocol::moving::{Command as DirectoryCommand, DirectoryError};
use weft_types::{ChannelId, DomainId, Epoch, MoveId, NodeName, Refusal, RefusalCode, ServiceName};

use crate::channels::ATTACH_TIMEOUT;
use crate::domains::{Domain, Expected, attach};
use crate::node::Node;
use crate::process::Process;
use crate::recover::Sealed;

/// How long a process may take to attach and register.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a process may take to end when it is asked to.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// A service that dies this often within [`CRASH_WINDOW`] is not started again.
pub(crate) const MAX_CRASHES: usize = 5;

/// The time in which [`MAX_CRASHES`] count.
pub(crate) const CRASH_WINDOW: Duration = Duration::from_secs(30);

/// A service of this node, through all of its instances.
pub(crate) struct Service {
    pub(crate) name: ServiceName,
    pub(crate) program: Program,
    pub(crate) state: Cell<ServiceState>,
    pub(crate) epoch: Cell<Epoch>,
    pub(crate) restarts: Cell<u32>,
    pub(crate) detail: RefCell<String>,
    pub(crate) description: RefCell<Option<ContractDescription>>,
    /// Opening a channel reads it; a restart, and a move from `freeze` to `swap`, hold it for
    /// themselves, so that no channel is missed.
    pub(crate) gate: RwLock<()>,
    /// The process that serves now.
    running: RefCell<Option<Instance>>,
    /// Rung when the process dies while a move is under way: the move decides what follows.
    pub(crate) died: Notify,
    /// The move under way of which this node is the source.
    pub(crate) moving: Cell<Option<MoveId>>,
    /// The move with which it came here, whole: it may be ours at any moment.
    pub(crate) sealed: RefCell<Option<Sealed>>,
    /// Whether it is being launched and registered: a stop would not see what comes of it.
    pub(crate) registering: Cell<bool>,
    /// Whether the state that came with `sealed` is lost here, and its source may send it again.
    pub(crate) awaited: Cell<bool>,
    /// Whether the directory has named this node as its owner.
    pub(crate) owned: Cell<bool>,
    /// Whether the clients of a service that has just come are still being connected.
    pub(crate) arriving: Cell<bool>,
    crashes: RefCell<VecDeque<Instant>>,
    /// Channels that came with a move and have not been attached yet. They are kept whole: if the
    /// instance dies first, its successor needs them.
    arrived: RefCell<HashMap<ChannelId, ChannelState>>,
}

/// One process of a service (or the gateway).
#[derive(Clone)]
pub(crate) struct Instance {
    pub(crate) domain: DomainId,
    pub(crate) pid: u32,
    kill: Rc<Notify>,
}

impl Service {
    pub(crate) fn new(
        name: ServiceName,
        program: Program,
        state: ServiceState,
        epoch: Epoch,
    ) -> Self {
        Self {
            name,
            program,
            state: Cell::new(state),
            epoch: Cell::new(epoch),
            restarts: Cell::new(0),
            detail: RefCell::default(),
            description: RefCell::default(),
            gate: RwLock::new(()),
            running: RefCell::default(),
            died: Notify::new(),
            moving: Cell::new(None),
            sealed: RefCell::default(),
            registering: Cell::new(false),
            awaited: Cell::new(false),
            owned: Cell::new(false),
            arriving: Cell::new(false),
            crashes: RefCell::default(),
            arrived: RefCell::default(),
        }
    }

    /// Notes the channels that came with a move.
    pub(crate) fn arrive(&self, channels: BTreeMap<ChannelId, ChannelState>) {
        *self.arrived.borrow_mut() = channels.into_iter().collect();
    }

    /// A channel that came with a move and is not attached yet.
    pub(crate) fn arrived(&self, channel: ChannelId) -> Option<ChannelState> {
        self.arrived.borrow().get(&channel).cloned()
    }

    /// All channels that came with a move and are not attached yet.
    pub(crate) fn all_arrived(&self) -> Vec<ChannelState> {
        self.arrived.borrow().values().cloned().collect()
    }

    /// The channel is attached.
    pub(crate) fn forget_arrived(&self, channel: ChannelId) {
        self.arrived.borrow_mut().remove(&channel);
    }

    /// The domain of the process that serves now.
    pub(crate) fn instance(&self) -> Option<DomainId> {
        self.running
            .borrow()
            .as_ref()
            .map(|instance| instance.domain)
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.running.borrow().as_ref().map(|instance| instance.pid)
    }

    pub(crate) fn run_by(&self, launched: &Launched) {
        *self.running.borrow_mut() = Some(launched.instance.clone());
        *self.description.borrow_mut() = Some(launched.description.clone());
    }

    fn is_run_by(&self, domain: DomainId) -> bool {
        self.instance() == Some(domain)
    }

    pub(crate) fn fail(&self, why: impl Into<String>) {
        self.state.set(ServiceState::Failed);
        *self.detail.borrow_mut() = why.into();
    }

    /// What its clients hear, those that it had and those that come, if it has failed. `Closed`: what
    /// it had open is over for good, also where a gateway would open it again.
    pub(crate) fn failure(&self, here: &NodeName) -> Option<Refusal> {
        (self.state.get() == ServiceState::Failed).then(|| {
            let detail = self.detail.borrow();
            Refusal::new(
                RefusalCode::Closed,
                format!("{} has failed on {here}: {detail}", self.name),
            )
        })
    }

    /// Notes a crash. False if there were too many.
    pub(crate) fn may_restart(&self) -> bool {
        let now = Instant::now();
        let mut crashes = self.crashes.borrow_mut();
        crashes.push_back(now);
        crashes.retain(|at| now.duration_since(*at) < CRASH_WINDOW);
        crashes.len() <= MAX_CRASHES
    }
}

/// Processes that were started and have not registered yet.
#[derive(Default)]
pub(crate) struct Registrations {
    waiting: RefCell<HashMap<DomainId, oneshot::Sender<ContractDescription>>>,
}

impl Registrations {
    fn expect(&self, domain: DomainId) -> oneshot::Receiver<ContractDescription> {
        let (sender, receiver) = oneshot::channel();
        self.waiting.borrow_mut().insert(domain, sender);
        receiver
    }

    /// A domain says that it is ready to serve.
    ///
    /// # Errors
    ///
    /// `NotAllowed` if the node did not start it as a service.
    pub(crate) fn registered(
        &self,
        domain: DomainId,
        description: ContractDescription,
    ) -> Result<(), Refusal> {
        let waiting = self.waiting.borrow_mut().remove(&domain).ok_or_else(|| {
            Refusal::new(
                RefusalCode::NotAllowed,
                "only a process that the node starts as a service can serve; see `weft run`",
            )
        })?;
        // If nobody waits any more, the process is being stopped.
        let _ = waiting.send(description);
        Ok(())
    }
}

/// Forgets that a process was to register, however the wait for it ended.
struct Forget<'a>(&'a Registrations, DomainId);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.waiting.borrow_mut().remove(&self.1);
    }
}

/// A process that runs, is attached, and (a service) has registered.
pub(crate) struct Launched {
    pub(crate) instance: Instance,
    pub(crate) description: ContractDescription,
}

impl Launched {
    /// Whether it understands all that was understood before it, so that open channels stay good.
    pub(crate) fn check_follows(&self, former: &TypeTable) -> Result<(), Refusal> {
        weft_contract::check_successor(&self.description.table(), former)
    }
}

impl Node {
    /// Starts the process of a service and waits until it is ready to be activated.
    ///
    /// # Errors
    ///
    /// If the program is missing, ends before it has registered (with its last words), or takes
    /// too long.
    pub(crate) async fn launch(
        self: &Rc<Self>,
        name: &ServiceName,
        program: &Program,
    ) -> Result<Launched, Refusal> {
        let mut command = match program {
            Program::Builtin(builtin) => {
                let mut command = Command::new(&self.config.program);
                command.args(["service", builtin]);
                command
            }
            Program::Path { path, arguments } => {
                let mut command = Command::new(path);
                command.args(arguments);
                command
            }
        };
        let what = match program {
            Program::Builtin(builtin) => format!("the built-in service {builtin:?}"),
            Program::Path { path, .. } => path.clone(),
        };
        let (domain, mut process) = self
            .spawn(&mut command, &what, name, DomainRole::Service)
            .await?;
        let registered = self.registrations.expect(domain.id);
        let _forget = Forget(&self.registrations, domain.id);
        let description = tokio::select! {
            registered = timeout(START_TIMEOUT, registered) => match registered {
                Ok(Ok(description)) => description,
                _ => {
                    process.kill().await;
                    return Err(Refusal::new(
                        RefusalCode::DeadlineExceeded,
                        format!("{what} did not register within {} s", START_TIMEOUT.as_secs()),
                    ));
                }
            },
            ended = process.ended() => {
                return Err(Refusal::new(RefusalCode::Rejected, format!("{what} {ended} before it registered")));
            }
        };
        let instance = Instance {
            domain: domain.id,
            pid: domain.pid,
            kill: Rc::new(Notify::new()),
        };
        self.watch_service(name.clone(), instance.clone(), process);
        Ok(Launched {
            instance,
            description,
        })
    }

    /// Starts the gateway and waits until it is attached.
    pub(crate) async fn launch_gateway(self: &Rc<Self>) -> Result<(Rc<Domain>, Process), Refusal> {
        let mut command = Command::new(&self.config.program);
        command.arg("gateway").arg("--data").arg(&self.config.data);
        command.arg("--listen").arg(self.config.listen.to_string());
        let name = ServiceName::of_node(self.name());
        self.spawn(&mut command, "the gateway", &name, DomainRole::Gateway)
            .await
    }

    /// Starts a process that inherits one descriptor, and attaches it.
    async fn spawn(
        self: &Rc<Self>,
        command: &mut Command,
        what: &str,
        name: &ServiceName,
        role: DomainRole,
    ) -> Result<(Rc<Domain>, Process), Refusal> {
        let (near, far) = SideSocket::pair().map_err(|error| {
            Refusal::new(RefusalCode::Internal, format!("socket pair: {error}"))
        })?;
        if self.config.debuggable {
            command.env(DEBUGGABLE, "1");
        } else {
            command.env_remove(DEBUGGABLE);
        }
        let child = command
            .stdin(Stdio::from(OwnedFd::from(far)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                Refusal::new(
                    RefusalCode::Rejected,
                    format!("{what} could not be started: {error}"),
                )
            })?;
        // The command keeps the child's end of the socket open; while it does, nobody hears a hang-up.
        command.stdin(Stdio::null());
        let pid = child.id().unwrap_or_default();
        let mut process = Process::of(child, name);
        let expected = Expected {
            name: name.clone(),
            pid,
            role,
        };
        tokio::select! {
            attached = attach(self, near, Some(expected)) => match attached {
                Ok(domain) => Ok((domain, process)),
                Err(refusal) => {
                    // What the process itself says is more to the point than that it went away.
                    match timeout(STOP_TIMEOUT, process.ended()).await {
                        Ok(ended) => Err(Refusal::new(RefusalCode::Rejected, format!("{what} {ended}"))),
                        Err(_) => { process.kill().await; Err(refusal) }
                    }
                }
            },
            ended = process.ended() => {
                Err(Refusal::new(RefusalCode::Rejected, format!("{what} {ended}")))
            }
        }
    }

    /// Waits for the end of a service's process, and does what follows from it.
    fn watch_service(self: &Rc<Self>, name: ServiceName, instance: Instance, mut process: Process) {
        let node = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let ended = tokio::select! {
                ended = process.ended() => ended,
                () = instance.kill.notified() => { process.kill().await; return; }
            };
            node.domain_gone(instance.domain).await;
            node.instance_ended(&name, instance.domain, &ended).await;
        });
    }

    /// A service's process has ended by itself.
    async fn instance_ended(self: &Rc<Self>, name: &ServiceName, domain: DomainId, ended: &str) {
        if let Some(incoming) = self.incoming_instance(domain) {
            incoming.instance_died();
        }
        let Some(service) = self
            .service(name)
            .filter(|service| service.is_run_by(domain))
        else {
            return;
        };
        if self.stopping.get() || service.state.get() == ServiceState::Stopping {
            return;
        }
        self.log.warn(format!("service {name} {ended}"));
        *service.running.borrow_mut() = None;
        if service.moving.get().is_some() {
            // The move decides: until it knows whether the service is still ours, nothing is started.
            service.died.notify_one();
            return;
        }
        self.restart(&service, domain).await;
    }

    /// Lets an instance take messages.
    pub(crate) async fn activate(&self, instance: DomainId, epoch: Epoch) -> Result<(), Refusal> {
        self.domain_line(instance)?
            .ask::<DomainContract, _>(&Activate { epoch }, &[], ATTACH_TIMEOUT)
            .await
            .map(|_| ())
    }

    /// Starts a service on this node that runs nowhere: `weft run`.
    ///
    /// # Errors
    ///
    /// `AlreadyThere` if it runs, here or elsewhere; whatever starting it or the directory brings.
    pub(crate) async fn start_service(
        self: &Rc<Self>,
        name: ServiceName,
        program: Program,
    ) -> Result<(u32, Epoch), Refusal> {
        if name.is_reserved() {
            return Err(Refusal::new(
                RefusalCode::NotAllowed,
                format!("{name} is the name of a node daemon"),
            ));
        }
        if let Some(there) = self
            .service(&name)
            .filter(|there| there.state.get() != ServiceState::Failed)
        {
            return Err(Refusal::new(
                RefusalCode::AlreadyThere,
                format!(
                    "{name} runs on {} already ({:?})",
                    self.name(),
                    there.state.get()
                ),
            ));
        }
        let service = Rc::new(Service::new(
            name.clone(),
            program,
            ServiceState::Starting,
            Epoch::NONE,
        ));
        let failed = self
            .services
            .borrow_mut()
            .insert(name.clone(), Rc::clone(&service));
        let started = self.start_registered(&service, None).await;
        if started.is_err() {
            // One that had failed before is still what the directory names us for.
            let mut services = self.services.borrow_mut();
            match failed {
                Some(failed) => services.insert(name, failed),
                None => services.remove(&name),
            };
            drop(services);
            self.note_services();
        }
        started
    }

    /// Launches, registers with the directory, and only then activates: the order that keeps a
    /// service from running twice.
    pub(crate) async fn start_registered(
        self: &Rc<Self>,
        service: &Rc<Service>,
        after: Option<Epoch>,
    ) -> Result<(u32, Epoch), Refusal> {
        service.registering.set(true);
        let started = self.launch_and_register(service, after).await;
        service.owned.set(service.owned.get() || started.is_ok());
        service.registering.set(false);
        started
    }

    async fn launch_and_register(
        self: &Rc<Self>,
        service: &Rc<Service>,
        after: Option<Epoch>,
    ) -> Result<(u32, Epoch), Refusal> {
        let launched = self.launch(&service.name, &service.program).await?;
        let started = async {
            // Before the directory hears of it: what it then names is known here after any crash.
            self.remember_services()?;
            let register = DirectoryCommand::Register {
                service: service.name.clone(),
                node: self.name().clone(),
                after,
            };
            let entry = match self.directory.apply(register).await? {
                // The directory still names this node, from a former life that nothing is left of:
                // the service begins another.
                Err(DirectoryError::Moved { current, .. })
                    if self.is_own(&current.node) && after.is_none() =>
                {
                    let again = DirectoryCommand::Register {
                        service: service.name.clone(),
                        node: self.name().clone(),
                        after: Some(current.epoch),
                    };
                    self.directory.apply(again).await?
                }
                decision => decision,
            };
            let entry = entry.map_err(|error| {
                let refusal = Refusal::from(error);
                match refusal.code {
                    RefusalCode::Moved => Refusal::new(RefusalCode::AlreadyThere, refusal.text),
                    _ => refusal,
                }
            })?;
            service.epoch.set(entry.epoch);
            service.run_by(&launched);
            self.activate(launched.instance.domain, entry.epoch).await?;
            Ok(entry.epoch)
        }
        .await;
        match started {
            Ok(epoch) => {
                service.state.set(ServiceState::Active);
                self.log.note(format!(
                    "service {} runs, pid {}, {epoch}",
                    service.name, launched.instance.pid
                ));
                Ok((launched.instance.pid, epoch))
            }
            Err(refusal) => {
                self.stop_instance(&launched.instance).await;
                Err(refusal)
            }
        }
    }

    /// Stops a service for good: `weft stop`.
    ///
    /// # Errors
    ///
    /// `UnknownService` if it does not run here; `Busy` while it moves.
    pub(crate) async fn stop_service(self: &Rc<Self>, name: &ServiceName) -> Result<(), Refusal> {
        let Some(service) = self.service(name) else {
            return self.forget_service(name).await;
        };
        if service.moving.get().is_some()
            || service.arriving.get()
            || service.state.get() == ServiceState::Incoming
        {
            return Err(Refusal::new(
                RefusalCode::Busy,
                format!("{name} is being moved; stop it afterwards"),
            ));
        }
        if service.registering.get() {
            return Err(Refusal::new(
                RefusalCode::Busy,
                format!("{name} is being started; stop it when `weft ps` shows it active"),
            ));
        }
        let before = service.state.replace(ServiceState::Stopping);
        let _gate = service.gate.write().await;
        let remove = DirectoryCommand::Remove {
            service: name.clone(),
            node: self.name().clone(),
            epoch: service.epoch.get(),
        };
        let removed = match self.directory.apply(remove).await {
            // Ours in another epoch: what is stopped here would not be what the directory names.
            Ok(Err(error))
                if error
                    .current()
                    .is_some_and(|owner| self.is_own(&owner.node)) =>
            {
                Err(error.into())
            }
            // Elsewhere, or nowhere: nothing is left to remove but what runs here.
            Ok(_) => Ok(()),
            Err(refusal) => Err(refusal),
        };
        if let Err(refusal) = removed {
            if service.instance().is_some() {
                service.state.set(before);
            } else {
                service.fail("died while it was to be stopped; stop it again, or run it");
            }
            return Err(refusal);
        }
        let instance = service.running.borrow_mut().take();
        if let Some(instance) = instance {
            for channel in self
                .channels
                .select(|channel| channel.server_is(instance.domain))
            {
                self.channels.remove(channel.id);
                let refusal = Refusal::new(RefusalCode::Closed, format!("{name} was stopped"));
                self.tell_client_closed(&channel, refusal).await;
            }
            self.stop_instance(&instance).await;
        }
        self.services.borrow_mut().remove(name);
        self.note_services();
        self.log.note(format!("service {name} was stopped"));
        Ok(())
    }

    /// Takes a service out of the directory that names this node while nothing of it is left here.
    async fn forget_service(&self, name: &ServiceName) -> Result<(), Refusal> {
        let lookup = DirectoryCommand::Lookup {
            service: name.clone(),
        };
        let entry = self.directory.apply(lookup).await?.map_err(Refusal::from)?;
        if !self.is_own(&entry.node) {
            return Err(Refusal::new(
                RefusalCode::UnknownService,
                format!(
                    "{name} does not run on {}, it is on {}",
                    self.name(),
                    entry.node
                ),
            ));
        }
        let remove = DirectoryCommand::Remove {
            service: name.clone(),
            node: self.name().clone(),
            epoch: entry.epoch,
        };
        self.directory
            .apply(remove)
            .await?
            .map(|_| ())
            .map_err(Refusal::from)
    }

    /// Ends the process of an instance: asks it, and kills it if it takes too long.
    pub(crate) async fn stop_instance(&self, instance: &Instance) {
        if let Ok(line) = self.domain_line(instance.domain) {
            let asked = line
                .ask::<DomainContract, _>(&Shutdown {}, &[], STOP_TIMEOUT)
                .await;
            if let Err(refusal) = asked {
                tracing::debug!(pid = instance.pid, %refusal, "killed");
            }
        }
        instance.kill.notify_one();
    }

    /// Takes the running instance out of a service that leaves this node.
    pub(crate) fn take_instance(&self, service: &Service) -> Option<Instance> {
        service.running.borrow_mut().take()
    }
}

/// Takes the first steps of `work` now, and the rest beside whatever follows.
pub(crate) fn begin(work: impl Future<Output = ()> + 'static) {
    let mut work = Box::pin(work);
    if work.as_mut().now_or_never().is_none() {
        tokio::task::spawn_local(work);
    }
}
