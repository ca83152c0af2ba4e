//! What the directory decides: which node owns a service, in which epoch.
//!
//! A pure state: commands go in one after the other, answers come out. Whoever stores or replicates
//! it (a file of one node, a replicated log, the simulator) applies the same commands in the same
//! order and gets the same answers.
//!
//! Two rules carry the fabric. A service has at most one owner. Its epoch never goes back and grows
//! with every change of the owner or of the owner's life, so a command that was lost on the way and
//! turns up late finds another epoch and is refused.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use serde::{Deserialize, Serialize};
use weft_types::{Epoch, MoveId, NodeName, Refusal, RefusalCode, ServiceName};

/// How many services the directory holds; a further one is refused.
///
/// At the bound removed services are forgotten first; see [`DirectoryState::apply`].
pub const MAX_SERVICES: usize = 65_536;

/// How many commits of one service are remembered, so that asking again is answered truly. A source
/// asks about its latest move only, and a service has one move at a time.
const REMEMBERED_COMMITS: usize = 16;

/// Who owns a service.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The node.
    pub node: NodeName,
    /// Since when, counted in owners.
    pub epoch: Epoch,
    /// The move that made it the owner; `None` if it registered. A target that asks on its own
    /// tells by this its own move from another one between the same two nodes.
    pub by: Option<MoveId>,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} since {}", self.node, self.epoch)
    }
}

/// What can be asked of the directory.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// `node` starts the service: a new owner, or a new life of the same one. Answered with the
    /// new epoch.
    Register {
        /// The service.
        service: ServiceName,
        /// The node that is going to run it.
        node: NodeName,
        /// `None`: nobody owns it. `Some(e)`: `node` is its owner since `e`, has lost that instance
        /// and starts another. The new epoch fences a commit that is still on the way.
        after: Option<Epoch>,
    },
    /// The one point of no return of a move. Asked again with the same id, it gives the same answer.
    Commit {
        /// The move.
        id: MoveId,
        /// What moves.
        service: ServiceName,
        /// The owner until now.
        from: NodeName,
        /// The owner from now on.
        to: NodeName,
        /// The epoch of `from`; that of `to` is the next.
        epoch: Epoch,
    },
    /// The owner has stopped the service for good. Its epoch is remembered.
    Remove {
        /// The service.
        service: ServiceName,
        /// Its owner.
        node: NodeName,
        /// Since when.
        epoch: Epoch,
    },
    /// Who owns the service?
    Lookup {
        /// The service.
        service: ServiceName,
    },
}

impl Command {
    /// The service that the command is about.
    #[must_use]
    pub const fn service(&self) -> &ServiceName {
        match self {
            Self::Register { service, .. }
            | Self::Commit { service, .. }
            | Self::Remove { service, .. }
            | Self::Lookup { service } => service,
        }
    }
}

/// The directory's no. It is an answer, not a failure: nothing was changed, and the same command
/// will not be taken later either unless the service's owner changes.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, thiserror::Error)]
pub enum DirectoryError {
    /// Nobody owns a service of this name.
    #[error("no service {service} is in the directory")]
    Unknown {
        /// The service.
        service: ServiceName,
    },
    /// The owner is another, or has a later epoch, than the command says.
    #[error("service {service} is owned by {current}")]
    Moved {
        /// The service.
        service: ServiceName,
        /// The owner.
        current: Entry,
    },
    /// The service moves to where it is.
    #[error("service {service} is already on {node}")]
    AlreadyThere {
        /// The service.
        service: ServiceName,
        /// The node.
        node: NodeName,
    },
    /// [`MAX_SERVICES`] services exist.
    #[error("the directory holds {MAX_SERVICES} services and takes no more")]
    Full,
}

impl DirectoryError {
    /// The owner that stands in the way, if there is one.
    #[must_use]
    pub const fn current(&self) -> Option<&Entry> {
        match self {
            Self::Moved { current, .. } => Some(current),
            Self::Unknown { .. } | Self::AlreadyThere { .. } | Self::Full => None,
        }
    }
}

impl From<DirectoryError> for Refusal {
    fn from(error: DirectoryError) -> Self {
        let code = match &error {
            DirectoryError::Unknown { .. } => RefusalCode::UnknownService,
            DirectoryError::Moved { .. } => RefusalCode::Moved,
            DirectoryError::AlreadyThere { .. } => RefusalCode::AlreadyThere,
            DirectoryError::Full => RefusalCode::OverBudget,
        };
        Self::new(code, error.to_string())
    }
}

/// What is known of one service.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
struct Record {
    /// `None` once it was removed.
    node: Option<NodeName>,
    /// Of the owner, or of the last one.
    epoch: Epoch,
    /// The last moves: what they made, the latest last. At most [`REMEMBERED_COMMITS`].
    commits: VecDeque<(MoveId, Entry)>,
}

impl Record {
    fn entry(&self) -> Option<Entry> {
        Some(Entry {
            node: self.node.clone()?,
            epoch: self.epoch,
            by: self
                .commits
                .back()
                .filter(|(_, made)| made.epoch == self.epoch)
                .map(|(id, _)| *id),
        })
    }
}

/// The directory's whole state.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct DirectoryState {
    services: BTreeMap<ServiceName, Record>,
    /// No service that is forgotten had a later epoch: new ones start after it.
    floor: Epoch,
}

impl DirectoryState {
    /// A directory without services.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Who owns `service`.
    #[must_use]
    pub fn lookup(&self, service: &ServiceName) -> Option<Entry> {
        self.services.get(service)?.entry()
    }

    /// Every service that has an owner, by name.
    pub fn entries(&self) -> impl Iterator<Item = (&ServiceName, Entry)> {
        self.services
            .iter()
            .filter_map(|(service, record)| Some((service, record.entry()?)))
    }

    /// Decides on one command. The answer is the owner after it.
    ///
    /// # Errors
    ///
    /// [`DirectoryError`]; nothing has changed then.
    pub fn apply(&mut self, command: &Command) -> Result<Entry, DirectoryError> {
        match command {
            Command::Lookup { service } => {
                self.lookup(service).ok_or_else(|| DirectoryError::Unknown {
                    service: service.clone(),
                })
            }
            Command::Register {
                service,
                node,
                after,
            } => self.register(service, node, *after),
            Command::Commit {
                id,
                service,
                from,
                to,
                epoch,
            } => self.commit(*id, service, from, to, *epoch),
            Command::Remove {
                service,
                node,
                epoch,
            } => self.remove(service, node, *epoch),
        }
    }

    fn register(
        &mut self,
        service: &ServiceName,
        node: &NodeName,
        after: Option<Epoch>,
    ) -> Result<Entry, DirectoryError> {
        let current = self.lookup(service);
        if current.as_ref().map(|entry| (&entry.node, entry.epoch)) != after.map(|e| (node, e)) {
            return Err(refused(service, current));
        }
        if !self.services.contains_key(service) && self.services.len() >= MAX_SERVICES {
            self.forget_removed();
            if self.services.len() >= MAX_SERVICES {
                return Err(DirectoryError::Full);
            }
        }
        let floor = self.floor;
        let record = self
            .services
            .entry(service.clone())
            .or_insert_with(|| Record {
                node: None,
                epoch: floor,
                commits: VecDeque::new(),
            });
        record.epoch = record.epoch.next();
        record.node = Some(node.clone());
        Ok(Entry {
            node: node.clone(),
            epoch: record.epoch,
            by: None,
        })
    }

    fn commit(
        &mut self,
        id: MoveId,
        service: &ServiceName,
        from: &NodeName,
        to: &NodeName,
        epoch: Epoch,
    ) -> Result<Entry, DirectoryError> {
        let Some(record) = self.services.get_mut(service) else {
            return Err(refused(service, None));
        };
        if let Some((_, made)) = record.commits.iter().find(|(known, _)| *known == id) {
            return Ok(made.clone());
        }
        if record.node.as_ref() != Some(from) || record.epoch != epoch {
            return Err(refused(service, record.entry()));
        }
        if from == to {
            return Err(DirectoryError::AlreadyThere {
                service: service.clone(),
                node: to.clone(),
            });
        }
        let made = Entry {
            node: to.clone(),
            epoch: epoch.next(),
            by: Some(id),
        };
        record.node = Some(to.clone());
        record.epoch = made.epoch;
        if record.commits.len() == REMEMBERED_COMMITS {
            record.commits.pop_front();
        }
        record.commits.push_back((id, made.clone()));
        Ok(made)
    }

    fn remove(
        &mut self,
        service: &ServiceName,
        node: &NodeName,
        epoch: Epoch,
    ) -> Result<Entry, DirectoryError> {
        let Some(record) = self.services.get_mut(service) else {
            return Err(refused(service, None));
        };
        match record.entry() {
            // Asked again after a lost answer.
            None if record.epoch == epoch => Ok(Entry {
                node: node.clone(),
                epoch,
                by: None,
            }),
            Some(current) if current.node == *node && current.epoch == epoch => {
                record.node = None;
                Ok(current)
            }
            current => Err(refused(service, current)),
        }
    }

    /// Makes room: what was removed is forgotten, but its epoch is not used again.
    fn forget_removed(&mut self) {
        for record in self
            .services
            .values()
            .filter(|record| record.node.is_none())
        {
            self.floor = self.floor.max(record.epoch);
        }
        self.services.retain(|_, record| record.node.is_some());
    }
}

fn refused(service: &ServiceName, current: Option<Entry>) -> DirectoryError {
    let service = service.clone();
    match current {
        Some(current) => DirectoryError::Moved { service, current },
        None => DirectoryError::Unknown { service },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeName {
        NodeName::new(name).unwrap()
    }

    fn kv() -> ServiceName {
        ServiceName::new("kv").unwrap()
    }

    fn register(at: &str, after: Option<u64>) -> Command {
        Command::Register {
            service: kv(),
            node: node(at),
            after: after.map(Epoch::new),
        }
    }

    fn commit(id: u128, from: &str, to: &str, epoch: u64) -> Command {
        Command::Commit {
            id: MoveId::new(id),
            service: kv(),
            from: node(from),
            to: node(to),
            epoch: Epoch::new(epoch),
        }
    }

    fn entry(at: &str, epoch: u64) -> Entry {
        Entry {
            node: node(at),
            epoch: Epoch::new(epoch),
            by: None,
        }
    }

    fn made(by: u128, at: &str, epoch: u64) -> Entry {
        Entry {
            by: Some(MoveId::new(by)),
            ..entry(at, epoch)
        }
    }

    #[test]
    fn a_service_has_one_owner_and_its_epoch_only_grows() {
        let mut state = DirectoryState::new();
        assert_eq!(state.apply(&register("n1", None)), Ok(entry("n1", 1)));
        assert!(state.apply(&register("n2", None)).is_err());
        assert!(state.apply(&register("n2", Some(1))).is_err());
        assert_eq!(state.apply(&commit(1, "n1", "n2", 1)), Ok(made(1, "n2", 2)));
        assert_eq!(state.apply(&register("n2", Some(2))), Ok(entry("n2", 3)));
        let remove = Command::Remove {
            service: kv(),
            node: node("n2"),
            epoch: Epoch::new(3),
        };
        assert_eq!(state.apply(&remove), Ok(entry("n2", 3)));
        assert_eq!(state.apply(&remove), Ok(entry("n2", 3)));
        assert_eq!(state.lookup(&kv()), None);
        assert_eq!(state.apply(&register("n1", None)), Ok(entry("n1", 4)));
    }

    #[test]
    fn the_same_commit_again_gives_the_same_answer() {
        let mut state = DirectoryState::new();
        state.apply(&register("n1", None)).unwrap();
        let first = state.apply(&commit(7, "n1", "n2", 1));
        assert_eq!(first, Ok(made(7, "n2", 2)));
        state.apply(&commit(8, "n2", "n3", 2)).unwrap();
        assert_eq!(state.apply(&commit(7, "n1", "n2", 1)), first);
        assert_eq!(state.lookup(&kv()), Some(made(8, "n3", 3)));
    }

    #[test]
    fn of_two_commits_from_one_epoch_only_one_is_taken() {
        let mut state = DirectoryState::new();
        state.apply(&register("n1", None)).unwrap();
        state.apply(&commit(1, "n1", "n2", 1)).unwrap();
        let second = state.apply(&commit(2, "n1", "n3", 1)).unwrap_err();
        assert_eq!(second.current(), Some(&made(1, "n2", 2)));
        assert_eq!(Refusal::from(second).code, RefusalCode::Moved);
    }

    #[test]
    fn a_commit_of_a_former_life_is_fenced_by_the_next_registration() {
        let mut state = DirectoryState::new();
        state.apply(&register("n1", None)).unwrap();
        assert_eq!(state.apply(&register("n1", Some(1))), Ok(entry("n1", 2)));
        assert!(state.apply(&commit(1, "n1", "n2", 1)).is_err());
        assert_eq!(state.lookup(&kv()), Some(entry("n1", 2)));
        // And a registration that was late itself changes nothing.
        assert!(state.apply(&register("n1", Some(1))).is_err());
    }

    #[test]
    fn remembered_commits_are_bounded_and_a_forgotten_one_is_refused() {
        let mut state = DirectoryState::new();
        state.apply(&register("n1", None)).unwrap();
        for epoch in 1..=40 {
            let (from, to) = if epoch % 2 == 1 {
                ("n1", "n2")
            } else {
                ("n2", "n1")
            };
            state
                .apply(&commit(u128::from(epoch), from, to, epoch))
                .unwrap();
        }
        assert_eq!(state.services[&kv()].commits.len(), REMEMBERED_COMMITS);
        assert!(state.apply(&commit(1, "n1", "n2", 1)).is_err());
        assert!(state.apply(&commit(40, "n2", "n1", 40)).is_ok());
    }

    #[test]
    fn a_full_directory_forgets_removed_services_but_never_their_epochs() {
        let mut state = DirectoryState::new();
        let name = |i: usize| ServiceName::new(format!("s{i}")).unwrap();
        let register = |service| Command::Register {
            service,
            node: node("n1"),
            after: None,
        };
        for i in 0..MAX_SERVICES {
            state.apply(&register(name(i))).unwrap();
        }
        let extra = name(MAX_SERVICES);
        assert_eq!(
            state.apply(&register(extra.clone())),
            Err(DirectoryError::Full)
        );
        state
            .apply(&Command::Remove {
                service: name(0),
                node: node("n1"),
                epoch: Epoch::FIRST,
            })
            .unwrap();
        let made = state.apply(&register(extra)).unwrap();
        assert_eq!(made.epoch, Epoch::new(2));
        state.apply(&register(name(0))).unwrap_err();
    }

    #[test]
    fn the_state_survives_being_stored() {
        let mut state = DirectoryState::new();
        state.apply(&register("n1", None)).unwrap();
        state.apply(&commit(9, "n1", "n2", 1)).unwrap();
        let bytes = postcard::to_stdvec(&state).unwrap();
        let mut back: DirectoryState = postcard::from_bytes(&bytes).unwrap();
        assert_eq!(back, state);
        assert_eq!(back.apply(&commit(9, "n1", "n2", 1)), Ok(made(9, "n2", 2)));
    }
}
