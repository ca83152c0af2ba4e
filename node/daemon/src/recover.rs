//! What a node takes up that its former life has left: services that it owns, and moves to it.
//!
//! A daemon that comes back has lost every process, but not what it wrote down: which services are
//! its own, and which a move had brought here, whole, without its knowing yet whether the move was
//! committed. The directory has the last word on each:
//!
//! - It names another node: nothing is to be done; but the commit of a move to here may still fall,
//!   so a service that was sealed is watched until its source has gone on or given up.
//! - It names this node: the service begins another life, under a new epoch, without its state.
//! - It names this node by a move that was never activated here: the source may still hold the
//!   state, and sends it again. Only when it says that it does not, or has been silent for as long
//!   as a sealed target would wait for it, is the service begun anew.
//!
//! Not here: the sending again (`outgoing`, `incoming`), and starting processes (`supervisor`).

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use weft_node_control::{MoveAsk, MovePrepare, MoveStanding, NodeControl, Program, ServiceState};
use weft_protocol::moving::{Command, DirectoryError, Entry, Limits};
use weft_types::{Epoch, Fault, MoveId, NodeName, Refusal, RefusalCode, ServiceName};

use crate::durable;
use crate::node::Node;
use crate::supervisor::Service;

/// Between two questions about a service whose fate is not settled.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// How long a source may take to say how it stands to a move.
const WORD_TIMEOUT: Duration = Duration::from_secs(12);

/// A move whose whole state has arrived: from here on its commit may fall at any time.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sealed {
    /// The move.
    pub(crate) id: MoveId,
    /// Where the service lived before.
    pub(crate) from: NodeName,
    /// In which epoch.
    pub(crate) epoch: Epoch,
}

impl Sealed {
    /// The move that a source asks to prepare.
    pub(crate) fn of(prepare: &MovePrepare) -> Self {
        Self {
            id: prepare.id,
            from: prepare.from.clone(),
            epoch: prepare.epoch,
        }
    }
}

/// What `services.json` holds.
#[derive(Default, Serialize, Deserialize)]
struct Remembered {
    services: BTreeMap<ServiceName, Program>,
    /// Those of them that a move has brought and that may not be ours.
    #[serde(default)]
    sealed: BTreeMap<ServiceName, Sealed>,
}

/// What is to be done about a service of a former life.
#[derive(Debug, Eq, PartialEq)]
enum Verdict {
    /// It is ours, and what it knew is lost: another life begins after this epoch.
    Begin(Epoch),
    /// Its source may send the state again, or commit yet.
    Wait,
    /// It is not ours, for this reason.
    Leave(String),
}

/// How long a source that may hold a service's state is waited for: as long as it is not silent.
struct Patience {
    heard: Instant,
    silence: Duration,
}

impl Patience {
    fn new(now: Instant) -> Self {
        Self {
            heard: now,
            silence: Limits::default().silence,
        }
    }

    /// The source has said that it goes on, however long that takes.
    const fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    fn lasts(&self, now: Instant) -> bool {
        now.duration_since(self.heard) < self.silence
    }
}

impl Node {
    /// Writes down which services this node runs or is about to register, to start them again after
    /// a restart.
    ///
    /// # Errors
    ///
    /// As [`durable::store`].
    pub(crate) fn remember_services(&self) -> Result<(), Refusal> {
        let mut remembered = Remembered::default();
        for service in self.services.borrow().values() {
            // Whatever its state just now. Also what a move has sealed here: if the commit falls
            // and both sides die, this node is the one that has to start the service again.
            let sealed = service.sealed.borrow().clone();
            let owned = service.owned.get() || service.registering.get();
            if !owned && sealed.is_none() {
                continue;
            }
            let name = &service.name;
            remembered
                .services
                .insert(name.clone(), service.program.clone());
            if let Some(sealed) = sealed.filter(|_| !owned) {
                remembered.sealed.insert(name.clone(), sealed);
            }
        }
        durable::store(&self.config.services_file(), &remembered)
    }

    /// Writes down the services where it is no promise to anybody: what is on record already leads
    /// a restart to the same end, by way of the directory.
    pub(crate) fn note_services(&self) {
        if let Err(refusal) = self.remember_services() {
            self.log
                .warn(format!("the list of services is out of date: {refusal}"));
        }
    }

    /// Takes up the services of this node's former life.
    pub(crate) async fn start_remembered(self: &Rc<Self>) {
        let mut remembered: Remembered = match durable::load(&self.config.services_file()) {
            Ok(Some(remembered)) => remembered,
            Ok(None) => return,
            Err(refusal) => {
                return self
                    .log
                    .warn(format!("services are not started again: {refusal}"));
            }
        };
        // All are known before the first is started: the list is written anew with each.
        let services: Vec<_> = remembered
            .services
            .into_iter()
            .map(|(name, program)| match remembered.sealed.remove(&name) {
                Some(sealed) => self.awaited(name, program, sealed),
                None => self.owned(name, program),
            })
            .collect();
        join_all(services.iter().map(|service| self.take_up(service))).await;
    }

    /// A move to this node has failed that may be committed: whoever the directory names sees to it.
    pub(crate) fn await_state(self: &Rc<Self>, prepare: &MovePrepare) {
        if self.service(&prepare.service).is_some() {
            return;
        }
        let service = self.awaited(
            prepare.service.clone(),
            prepare.program.clone(),
            Sealed::of(prepare),
        );
        self.note_services();
        let node = Rc::clone(self);
        tokio::task::spawn_local(async move { node.take_up(&service).await });
    }

    fn owned(&self, name: ServiceName, program: Program) -> Rc<Service> {
        let service = Service::new(name, program, ServiceState::Starting, Epoch::NONE);
        service.owned.set(true);
        self.know(service)
    }

    fn awaited(&self, name: ServiceName, program: Program, sealed: Sealed) -> Rc<Service> {
        let service = Service::new(name, program, ServiceState::Incoming, sealed.epoch);
        *service.sealed.borrow_mut() = Some(sealed);
        service.awaited.set(true);
        self.know(service)
    }

    fn know(&self, service: Service) -> Rc<Service> {
        let service = Rc::new(service);
        self.services
            .borrow_mut()
            .insert(service.name.clone(), Rc::clone(&service));
        service
    }

    /// Whether this is still what the node knows under the service's name: a move that sends the
    /// state again, or a later one, takes its place.
    fn is_known(&self, service: &Rc<Service>) -> bool {
        self.services
            .borrow()
            .get(&service.name)
            .is_some_and(|known| Rc::ptr_eq(known, service))
    }

    /// Settles what becomes of a service of a former life.
    async fn take_up(self: &Rc<Self>, service: &Rc<Service>) {
        let mut patience = Patience::new(Instant::now());
        // A registration may be on its way, so no older life may be activated here any more.
        let mut registering = false;
        loop {
            let patient = !registering && patience.lasts(Instant::now());
            let verdict = self.verdict(service, patient).await;
            if let Ok((_, true)) = verdict {
                patience.heard(Instant::now());
            }
            if self.stopping.get() || !self.is_known(service) {
                return;
            }
            let refusal = match verdict.map(|(verdict, _)| verdict) {
                Ok(Verdict::Begin(epoch)) => {
                    registering = true;
                    service.awaited.set(false);
                    service.state.set(ServiceState::Starting);
                    service.epoch.set(epoch);
                    match self.start_registered(service, Some(epoch)).await {
                        Ok(_) => return *service.sealed.borrow_mut() = None,
                        Err(refusal) => refusal,
                    }
                }
                Ok(Verdict::Wait) => Refusal::new(
                    RefusalCode::Busy,
                    "waits for the node that it comes from to send its state again",
                ),
                Ok(Verdict::Leave(why)) => {
                    self.log.note(format!(
                        "service {} is not started again: {why}",
                        service.name
                    ));
                    self.services.borrow_mut().remove(&service.name);
                    // For good, so that the next life need not ask again.
                    return self.note_services();
                }
                Err(refusal) => refusal,
            };
            if !self.is_known(service) {
                return;
            }
            if refusal.code.fault() != Fault::Reach {
                // It stays known, in `weft ps` and for the next life: the directory names us.
                self.log.warn(format!(
                    "service {} is not started again: {refusal}",
                    service.name
                ));
                service.awaited.set(false);
                return service.fail(refusal.text);
            }
            *service.detail.borrow_mut() = refusal.text;
            sleep(ASK_EVERY).await;
        }
    }

    /// What the directory says of a service, and where it leaves that open, its source. Also whether
    /// the source has said that the move goes on.
    async fn verdict(
        self: &Rc<Self>,
        service: &Service,
        patient: bool,
    ) -> Result<(Verdict, bool), Refusal> {
        let lookup = Command::Lookup {
            service: service.name.clone(),
        };
        let entry = match self.directory.apply(lookup).await? {
            Err(DirectoryError::Unknown { .. }) => {
                return Ok((Verdict::Leave("it was stopped".into()), false));
            }
            decision => decision.map_err(Refusal::from)?,
        };
        let sealed = service.sealed.borrow().clone();
        let activated = match entry.by {
            Some(id) => self.has_activated(id)?,
            None => false,
        };
        let verdict = judge(self.name(), &entry, sealed.as_ref(), activated, patient);
        let (Verdict::Wait, Some(sealed)) = (&verdict, &sealed) else {
            return Ok((verdict, false));
        };
        let ours = self.is_own(&entry.node);
        Ok(match self.ask_source(&service.name, sealed).await {
            Ok(MoveStanding::GoesOn) => (verdict, true),
            // It holds nothing of the move any more, and the directory names us: nobody else will.
            Ok(MoveStanding::Unknown) if ours => (Verdict::Begin(entry.epoch), false),
            Ok(MoveStanding::Abandoned) if !ours => {
                let why = format!("its move from {} was called off", sealed.from);
                (Verdict::Leave(why), false)
            }
            _ => (verdict, false),
        })
    }

    /// Asks the source of a move how it stands to it.
    pub(crate) async fn ask_source(
        self: &Rc<Self>,
        service: &ServiceName,
        sealed: &Sealed,
    ) -> Result<MoveStanding, Refusal> {
        let ask = MoveAsk {
            id: sealed.id,
            service: service.clone(),
            epoch: sealed.epoch,
        };
        let source = self.kernel(&sealed.from).await?;
        let (standing, _) = source
            .ask::<NodeControl, _>(&ask, &[], WORD_TIMEOUT)
            .await?;
        Ok(standing)
    }
}

/// What follows on `here` from the directory's word alone.
///
/// `activated`: the move that made the entry was activated here. `patient`: its source has not been
/// silent for too long yet.
fn judge(
    here: &NodeName,
    entry: &Entry,
    sealed: Option<&Sealed>,
    activated: bool,
    patient: bool,
) -> Verdict {
    if entry.node == *here {
        // By a registration, or by a move that was activated: what it knew died with us.
        // (Of moves long ago the record of activations says nothing, but nor are they sealed here.)
        let never_served = sealed.is_some() && entry.by.is_some() && !activated;
        return if never_served && patient {
            Verdict::Wait
        } else {
            Verdict::Begin(entry.epoch)
        };
    }
    match sealed {
        // The source owns it still, and may have submitted the commit.
        Some(sealed) if entry.node == sealed.from && entry.epoch == sealed.epoch => Verdict::Wait,
        _ => Verdict::Leave(format!("it lives on {} now", entry.node)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeName {
        NodeName::new(name).unwrap()
    }

    fn entry(at: &str, epoch: u64, by: Option<u128>) -> Entry {
        Entry {
            node: node(at),
            epoch: Epoch::new(epoch),
            by: by.map(MoveId::new),
        }
    }

    /// Move 7 brought the service from n2, where it lived in epoch 1.
    fn sealed() -> Sealed {
        Sealed {
            id: MoveId::new(7),
            from: node("n2"),
            epoch: Epoch::new(1),
        }
    }

    fn judged(entry: &Entry, activated: bool, patient: bool) -> Verdict {
        judge(&node("n3"), entry, Some(&sealed()), activated, patient)
    }

    #[test]
    fn what_was_remembered_comes_back_also_as_an_older_node_wrote_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("services.json");
        let name = ServiceName::new("kv").unwrap();
        let sealed = Sealed {
            id: MoveId::new(u128::MAX),
            ..sealed()
        };
        let remembered = Remembered {
            services: BTreeMap::from([(name.clone(), Program::Builtin("kv".into()))]),
            sealed: BTreeMap::from([(name.clone(), sealed.clone())]),
        };
        durable::store(&path, &remembered).unwrap();
        let back: Remembered = durable::load(&path).unwrap().unwrap();
        assert_eq!(back.sealed[&name], sealed);

        let older = r#"{"services": {"kv": {"Builtin": "kv"}}}"#;
        std::fs::write(&path, older).unwrap();
        let back: Remembered = durable::load(&path).unwrap().unwrap();
        assert!(back.services.contains_key(&name) && back.sealed.is_empty());
    }

    #[test]
    fn a_state_that_its_source_may_still_hold_is_waited_for() {
        let given = entry("n3", 2, Some(7));
        assert_eq!(judged(&given, false, true), Verdict::Wait);
        // Not for ever: then nobody else starts it.
        assert_eq!(judged(&given, false, false), Verdict::Begin(Epoch::new(2)));
    }

    #[test]
    fn a_source_that_goes_on_is_waited_for_however_long_it_takes() {
        let given = entry("n3", 2, Some(7));
        let mut now = Instant::now();
        let mut patience = Patience::new(now);
        let silence = patience.silence;
        for _ in 0..10 {
            now += silence / 2;
            assert_eq!(judged(&given, false, patience.lasts(now)), Verdict::Wait);
            patience.heard(now);
        }
        now += silence;
        let begin = Verdict::Begin(Epoch::new(2));
        assert_eq!(judged(&given, false, patience.lasts(now)), begin);
    }

    #[test]
    fn what_has_served_here_begins_anew_at_once() {
        let begin = Verdict::Begin(Epoch::new(2));
        assert_eq!(judged(&entry("n3", 2, Some(7)), true, true), begin);
        assert_eq!(judged(&entry("n3", 2, None), false, true), begin);
    }

    #[test]
    fn a_commit_that_may_still_fall_is_watched_for() {
        assert_eq!(judged(&entry("n2", 1, None), false, false), Verdict::Wait);
        // The source has begun another life, which fences that commit; or it went elsewhere.
        for other in [entry("n2", 2, None), entry("n1", 2, Some(8))] {
            assert!(matches!(judged(&other, false, true), Verdict::Leave(_)));
        }
    }

    #[test]
    fn a_service_of_our_own_waits_for_nobody() {
        // It came with a move so long ago that no record of the activation is left.
        let verdict = judge(&node("n3"), &entry("n3", 2, Some(7)), None, false, true);
        assert_eq!(verdict, Verdict::Begin(Epoch::new(2)));
    }

    #[test]
    fn a_service_of_our_own_that_went_elsewhere_is_left_there() {
        let verdict = judge(&node("n3"), &entry("n2", 2, Some(7)), None, false, true);
        assert!(matches!(verdict, Verdict::Leave(_)));
    }
}
