//! The directory as the daemon sees it: held here, or asked of the node that holds it.
//!
//! What the directory decides is `weft_protocol::moving::DirectoryState`, a pure value. Here it gets
//! a disk (on the one node that holds it) or a wire (on all others). A command whose answer was lost
//! is asked again; that is safe, since the state knows a commit by its id.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Weak;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use weft_node_control::{
    Directory as ListDirectory, DirectoryAnswer, DirectoryCommit, DirectoryEntry, DirectoryLookup,
    DirectoryRegister, DirectoryRemove, NodeControl, Owner,
};
use weft_protocol::moving::{Command, DirectoryError, DirectoryState, Entry};
use weft_types::{NodeName, Refusal, RefusalCode};

use crate::durable;
use crate::node::Node;

/// How long the holder of the directory may take for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// The answer to one command: the owner after it, or the directory's no.
pub(crate) type Decision = Result<Entry, DirectoryError>;

/// The replicated map of services, whoever holds it.
///
/// An outer error means that the directory could not be asked, or could not write: `Storage` says
/// for certain that nothing was changed, anything else leaves it open.
pub(crate) trait Directory {
    /// Has the directory decide on `command`.
    fn apply(&self, command: Command) -> LocalBoxFuture<'_, Result<Decision, Refusal>>;

    /// Every service with its owner.
    fn entries(&self) -> LocalBoxFuture<'_, Result<Vec<DirectoryEntry>, Refusal>>;
}

/// The directory in a file of this node.
pub(crate) struct FileDirectory {
    path: PathBuf,
    state: RefCell<DirectoryState>,
}

impl FileDirectory {
    /// Opens the directory at `path`, or begins an empty one.
    ///
    /// # Errors
    ///
    /// `Storage` if there is a file and it cannot be read: an unreadable directory is not replaced
    /// by an empty one.
    pub(crate) fn open(path: PathBuf) -> Result<Self, Refusal> {
        let state = durable::load(&path)?.unwrap_or_default();
        Ok(Self {
            path,
            state: RefCell::new(state),
        })
    }

    fn decide(&self, command: &Command) -> Result<Decision, Refusal> {
        let mut next = self.state.borrow().clone();
        let decision = next.apply(command);
        if next != *self.state.borrow() {
            // What was not written down was not decided. If that is not known, nobody is told that it
            // was, and the same command, which comes again, is decided and written again.
            durable::store(&self.path, &next)?;
            *self.state.borrow_mut() = next;
        }
        Ok(decision)
    }
}

impl Directory for FileDirectory {
    fn apply(&self, command: Command) -> LocalBoxFuture<'_, Result<Decision, Refusal>> {
        std::future::ready(self.decide(&command)).boxed_local()
    }

    fn entries(&self) -> LocalBoxFuture<'_, Result<Vec<DirectoryEntry>, Refusal>> {
        let entries = self
            .state
            .borrow()
            .entries()
            .map(|(service, entry)| DirectoryEntry {
                service: service.clone(),
                node: entry.node,
                epoch: entry.epoch,
            })
            .collect();
        std::future::ready(Ok(entries)).boxed_local()
    }
}

/// The directory on another node, asked by kernel-to-kernel messages.
pub(crate) struct RemoteDirectory {
    node: Weak<Node>,
    holder: NodeName,
}

impl RemoteDirectory {
    pub(crate) fn new(node: Weak<Node>, holder: NodeName) -> Self {
        Self { node, holder }
    }

    async fn ask(&self, command: Command) -> Result<Decision, Refusal> {
        let node = self.node.upgrade().ok_or_else(shutting_down)?;
        let kernel = node.kernel(&self.holder).await?;
        let answer = match command {
            Command::Lookup { service } => {
                kernel
                    .ask::<NodeControl, _>(&DirectoryLookup { service }, &[], ANSWER_TIMEOUT)
                    .await?
                    .0
            }
            Command::Register {
                service,
                node,
                after,
            } => {
                let register = DirectoryRegister {
                    service,
                    node,
                    after,
                };
                kernel
                    .ask::<NodeControl, _>(&register, &[], ANSWER_TIMEOUT)
                    .await?
                    .0
            }
            Command::Commit {
                id,
                service,
                from,
                to,
                epoch,
            } => {
                let commit = DirectoryCommit {
                    id,
                    service,
                    from,
                    to,
                    epoch,
                };
                kernel
                    .ask::<NodeControl, _>(&commit, &[], ANSWER_TIMEOUT)
                    .await?
                    .0
            }
            Command::Remove {
                service,
                node,
                epoch,
            } => {
                let remove = DirectoryRemove {
                    service,
                    node,
                    epoch,
                };
                kernel
                    .ask::<NodeControl, _>(&remove, &[], ANSWER_TIMEOUT)
                    .await?
                    .0
            }
        };
        Ok(read(answer))
    }
}

impl Directory for RemoteDirectory {
    fn apply(&self, command: Command) -> LocalBoxFuture<'_, Result<Decision, Refusal>> {
        async move {
            self.ask(command).await.map_err(|refusal| {
                Refusal::new(
                    refusal.code,
                    format!(
                        "the directory on {} cannot be asked: {}",
                        self.holder, refusal.text
                    ),
                )
            })
        }
        .boxed_local()
    }

    fn entries(&self) -> LocalBoxFuture<'_, Result<Vec<DirectoryEntry>, Refusal>> {
        async move {
            let node = self.node.upgrade().ok_or_else(shutting_down)?;
            let kernel = node.kernel(&self.holder).await?;
            let (reply, _) = kernel
                .ask::<NodeControl, _>(&ListDirectory {}, &[], ANSWER_TIMEOUT)
                .await?;
            Ok(reply.entries)
        }
        .boxed_local()
    }
}

fn shutting_down() -> Refusal {
    Refusal::new(RefusalCode::ShuttingDown, "this node is shutting down")
}

/// A decision, as it travels.
pub(crate) fn write(decision: Decision) -> DirectoryAnswer {
    match decision {
        Ok(entry) => DirectoryAnswer::Owned(owner(entry)),
        Err(DirectoryError::Unknown { service }) => DirectoryAnswer::Unknown { service },
        Err(DirectoryError::Moved { service, current }) => DirectoryAnswer::Moved {
            service,
            current: owner(current),
        },
        Err(DirectoryError::AlreadyThere { service, node }) => {
            DirectoryAnswer::AlreadyThere { service, node }
        }
        Err(DirectoryError::Full) => DirectoryAnswer::Full,
    }
}

fn read(answer: DirectoryAnswer) -> Decision {
    match answer {
        DirectoryAnswer::Owned(owner) => Ok(entry(owner)),
        DirectoryAnswer::Unknown { service } => Err(DirectoryError::Unknown { service }),
        DirectoryAnswer::Moved { service, current } => Err(DirectoryError::Moved {
            service,
            current: entry(current),
        }),
        DirectoryAnswer::AlreadyThere { service, node } => {
            Err(DirectoryError::AlreadyThere { service, node })
        }
        DirectoryAnswer::Full => Err(DirectoryError::Full),
    }
}

/// An entry of the directory, as it travels.
pub(crate) fn owner(entry: Entry) -> Owner {
    Owner {
        node: entry.node,
        epoch: entry.epoch,
        by: entry.by,
    }
}

/// An entry of the directory, as it came.
pub(crate) fn entry(owner: Owner) -> Entry {
    Entry {
        node: owner.node,
        epoch: owner.epoch,
        by: owner.by,
    }
}
