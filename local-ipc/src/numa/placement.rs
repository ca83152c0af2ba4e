//! Wishes where memory shall lie, and what became of them.
//!
//! The order is what counts: map, wish, allocate, look. The pages of a memory file follow the wish
//! of the *file*, whoever touches them first, but only those that are allocated after it; so it is
//! made on the mapping before `fallocate`, and it holds for segments that are allocated later and
//! for every peer's mapping.
//!
//! The wish is `MPOL_PREFERRED` and not `MPOL_BIND`. A bound file on a full node has the kernel look
//! for a process to kill while another node has memory to spare; a preferred one gets memory from
//! there. That trade is only honest if somebody looks afterwards: [`Wish::outcome`] asks the kernel
//! page by page, and what lies elsewhere is not "placed". (By `get_mempolicy`: `move_pages` is
//! refused in containers even with the right to place.) A wish also keeps the kernel's own balancing
//! from moving the pages about.

use std::collections::BTreeMap;
use std::fmt;

use super::affinity::{current_node, pinned_node};
use super::topology::{NumaNode, Topology, TopologyError};
use crate::sys::{Errno, Pid, numa};

/// The share of the pages, in percent, that has to lie on the node for it to count as placed.
const PLACED_PERCENT: u8 = 99;
/// The most pages that are looked at, spread evenly. Each is a system call, so this bounds the time
/// to a few milliseconds; a larger span's share is an estimate.
const MAX_LOOKED_AT: usize = 4096;
/// The smallest page of any machine. Where pages are larger, each is counted several times.
const PAGE_BYTES: usize = 4096;

/// Where memory is wanted.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Placement {
    /// Wherever the kernel puts it: as a rule, the node of the thread that allocates it.
    #[default]
    Anywhere,
    /// At home, where the calling thread runs now: for a heap, whose owner writes every byte of it.
    Home,
    /// Where the receiver is pinned, given as a thread or, for its first thread, a process: for a
    /// ring, which the receiver polls.
    Receiver(Pid),
    /// On this node: what somebody has configured.
    Node(NumaNode),
}

/// What became of a wish.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// The pages lie where they were wanted.
    Placed {
        /// Where.
        node: NumaNode,
        /// How many of them, of a hundred: 99 or 100.
        share_percent: u8,
    },
    /// They lie wherever the kernel put them, and work all the same.
    NotPlaced(Reason),
}

impl Outcome {
    /// Whether the pages lie where they were wanted.
    #[must_use]
    pub fn is_placed(&self) -> bool {
        matches!(self, Self::Placed { .. })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Placed {
                node,
                share_percent,
            } => write!(f, "placed: {share_percent} % of its pages lie on {node}"),
            Self::NotPlaced(reason) => write!(f, "not placed: {reason}"),
        }
    }
}

/// Why memory was not placed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Reason {
    /// Nobody asked: [`Placement::Anywhere`].
    #[error("no placement was asked for")]
    NotAsked,
    /// There is nothing to choose.
    #[error("this machine has one NUMA node")]
    OneNode,
    /// A kernel that was built without NUMA.
    #[error("this kernel was built without NUMA")]
    NoNuma,
    /// The nodes could not be read.
    #[error("the NUMA nodes of this machine are not known: {0}")]
    Unknown(String),
    /// The node that was asked for is not there.
    #[error("this machine has no {node}; `weft numa` lists those that it has")]
    NoSuchNode {
        /// The node.
        node: NumaNode,
    },
    /// A node of processors only.
    #[error("{node} has processors and no memory")]
    NoMemory {
        /// The node.
        node: NumaNode,
    },
    /// The control group's list of memory nodes lacks it.
    #[error(
        "{node} is not among the nodes that this process may use (cpuset.mems of its control group)"
    )]
    NotAllowed {
        /// The node.
        node: NumaNode,
    },
    /// The container's filter forbids the system call.
    #[error("this process may not place memory (in a container: add the capability SYS_NICE)")]
    NoRight,
    /// The receiver may run on several nodes, so that none is its own.
    #[error("the receiver (thread {thread}) is not pinned to one NUMA node")]
    NotPinned {
        /// The thread.
        thread: i32,
    },
    /// The node had too little free memory, and the rest came from others.
    #[error("only {share_percent} % of its pages lie on {node}, which had no more memory free")]
    Elsewhere {
        /// The node that was asked for.
        node: NumaNode,
        /// How many of the pages lie there, of a hundred.
        share_percent: u8,
    },
    /// The system refused for another reason.
    #[error("{call}: {error}")]
    System {
        /// Which system call.
        call: &'static str,
        /// What it said.
        error: Errno,
    },
}

impl Reason {
    /// What a refusal of `mbind` or `get_mempolicy` means for a node that is there.
    fn of(call: &'static str, node: Option<NumaNode>, error: Errno) -> Self {
        match (error, node) {
            (Errno::NOSYS, _) => Self::NoNuma,
            (Errno::PERM | Errno::ACCESS, _) => Self::NoRight,
            (Errno::INVAL, Some(node)) => Self::NotAllowed { node },
            _ => Self::System { call, error },
        }
    }
}

impl Placement {
    /// Makes the wish for a span that is mapped and has no pages yet.
    pub(crate) fn wish(self, span: Span) -> Wish {
        if self == Self::Anywhere {
            return Wish(Err(Reason::NotAsked));
        }
        let topology = Topology::of_machine();
        Wish(self.node(topology).and_then(|node| {
            numa::prefer(span.address, span.len_bytes, node.get())
                .map_err(|error| Reason::of("mbind", Some(node), error))?;
            Ok(node)
        }))
    }

    /// The node that is meant, if it can be had.
    fn node(self, topology: Result<Topology, TopologyError>) -> Result<NumaNode, Reason> {
        let topology = topology.map_err(|error| match error {
            TopologyError::NotThere(_) => Reason::NoNuma,
            other => Reason::Unknown(other.to_string()),
        })?;
        let node = match self {
            Self::Anywhere => return Err(Reason::NotAsked),
            Self::Node(node) if topology.node(node).is_none() => {
                return Err(Reason::NoSuchNode { node });
            }
            _ if topology.nodes().len() == 1 => return Err(Reason::OneNode),
            Self::Home => current_node().map_err(|error| Reason::Unknown(error.to_string()))?,
            Self::Receiver(thread) => pinned_node(Some(thread), &topology)
                .map_err(|error| Reason::Unknown(error.to_string()))?
                .ok_or(Reason::NotPinned {
                    thread: thread.as_raw_nonzero().get(),
                })?,
            Self::Node(node) => node,
        };
        match topology.node(node) {
            None => Err(Reason::NoSuchNode { node }),
            Some(report) if report.memory_bytes == 0 => Err(Reason::NoMemory { node }),
            Some(_) => Ok(node),
        }
    }
}

/// A wish that was made, or why it could not be.
#[derive(Debug)]
#[must_use = "nobody knows whether it came true before `outcome`"]
pub(crate) struct Wish(Result<NumaNode, Reason>);

impl Wish {
    /// Looks whether it came true for a span of which every page is allocated now.
    pub(crate) fn outcome(self, allocated: Span) -> Outcome {
        let looked = self.0.and_then(|node| {
            let share_percent = allocated.residence()?.share_percent(node);
            Ok((node, share_percent))
        });
        match looked {
            Ok((node, share_percent)) if share_percent >= PLACED_PERCENT => Outcome::Placed {
                node,
                share_percent,
            },
            Ok((node, share_percent)) => Outcome::NotPlaced(Reason::Elsewhere {
                node,
                share_percent,
            }),
            Err(reason) => Outcome::NotPlaced(reason),
        }
    }
}

/// A span of mapped memory, as a number: nothing is read or written through it.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    address: usize,
    len_bytes: usize,
}

impl Span {
    /// `len_bytes` from `address` on, which begins a page. A span that is not mapped is found by the
    /// kernel, as an error.
    pub fn new(address: *const u8, len_bytes: usize) -> Self {
        Self {
            address: address.addr(),
            len_bytes,
        }
    }

    /// Its first `len_bytes`, or all of it.
    #[must_use]
    pub fn first(self, len_bytes: usize) -> Self {
        Self {
            len_bytes: self.len_bytes.min(len_bytes),
            ..self
        }
    }

    /// On which nodes its pages lie, by a look at 4,096 of them at most. A page that is not
    /// allocated is by this.
    ///
    /// # Errors
    ///
    /// [`Reason`] says why the kernel does not tell.
    pub fn residence(self) -> Result<Residence, Reason> {
        let pages = self.len_bytes.div_ceil(PAGE_BYTES);
        let mut residence = Residence::default();
        for page in (0..pages).step_by(pages.div_ceil(MAX_LOOKED_AT).max(1)) {
            let node = numa::node_of_page(self.address + page * PAGE_BYTES)
                .map_err(|error| Reason::of("get_mempolicy", None, error))?;
            let node = NumaNode::new(node)
                .ok_or_else(|| Reason::Unknown(format!("a page on NUMA node {node}")))?;
            residence.add(node, 1);
        }
        Ok(residence)
    }
}

/// On which nodes pages lie.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Residence {
    pages: BTreeMap<NumaNode, u64>,
}

impl Residence {
    /// The nodes with the number of pages on each, of those that were looked at.
    pub fn pages(&self) -> impl Iterator<Item = (NumaNode, u64)> {
        self.pages.iter().map(|(&node, &pages)| (node, pages))
    }

    pub(super) fn add(&mut self, node: NumaNode, pages: u64) {
        let sum = self.pages.entry(node).or_default();
        *sum = sum.saturating_add(pages);
    }

    /// How many of a hundred pages lie on a node, rounded down; 0 if none was looked at.
    #[must_use]
    pub fn share_percent(&self, node: NumaNode) -> u8 {
        let all: u64 = self.pages.values().sum();
        let here = self.pages.get(&node).copied().unwrap_or(0);
        let percent = (here * 100).checked_div(all).unwrap_or(0);
        u8::try_from(percent).unwrap_or(100)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn node(number: u32) -> NumaNode {
        NumaNode::new(number).unwrap()
    }

    fn machine(nodes: &[(&str, u64)]) -> Result<Topology, TopologyError> {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: String| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("online", format!("0-{}", nodes.len() - 1));
        for (number, (cpus, kib)) in nodes.iter().enumerate() {
            write(&format!("node{number}/cpulist"), (*cpus).to_owned());
            let text = format!("Node 0 MemTotal: {kib} kB\nNode 0 MemFree: 0 kB\n");
            write(&format!("node{number}/meminfo"), text);
        }
        Topology::read(root.path())
    }

    #[test]
    fn a_machine_with_one_node_places_nothing() {
        for placement in [
            Placement::Home,
            Placement::Node(node(0)),
            Placement::Receiver(rustix::process::getpid()),
        ] {
            let found = placement.node(machine(&[("0-1", 8)]));
            assert_eq!(found, Err(Reason::OneNode), "{placement:?}");
        }
        let outcome = Outcome::NotPlaced(Reason::OneNode);
        assert!(!outcome.is_placed());
        assert_eq!(
            outcome.to_string(),
            "not placed: this machine has one NUMA node"
        );
    }

    #[test]
    fn a_node_must_be_there_and_have_memory() {
        let asked = |number| Placement::Node(node(number)).node(machine(&[("0", 8), ("1", 0)]));
        assert_eq!(asked(0), Ok(node(0)));
        assert_eq!(asked(1), Err(Reason::NoMemory { node: node(1) }));
        assert_eq!(asked(2), Err(Reason::NoSuchNode { node: node(2) }));
        let asked = Placement::Node(node(1)).node(machine(&[("0", 8)]));
        assert_eq!(asked, Err(Reason::NoSuchNode { node: node(1) }));
    }

    #[test]
    fn a_kernel_without_numa_is_told_from_one_that_refuses() {
        let nowhere = Topology::read(Path::new("/nonexistent/node"));
        assert_eq!(Placement::Home.node(nowhere), Err(Reason::NoNuma));
        let refused = |error| Reason::of("mbind", Some(node(1)), error);
        assert_eq!(refused(Errno::NOSYS), Reason::NoNuma);
        assert_eq!(refused(Errno::PERM), Reason::NoRight);
        assert_eq!(refused(Errno::INVAL), Reason::NotAllowed { node: node(1) });
        let other = Reason::System {
            call: "mbind",
            error: Errno::NOMEM,
        };
        assert_eq!(refused(Errno::NOMEM), other);
    }

    #[test]
    fn nothing_asked_is_not_success() {
        let span = Span::new(std::ptr::null(), 0);
        let outcome = Placement::Anywhere.wish(span).outcome(span);
        assert_eq!(outcome, Outcome::NotPlaced(Reason::NotAsked));
    }

    #[test]
    fn a_share_is_rounded_down_and_of_nothing_it_is_nothing() {
        let shares = |pages: &[(u32, u64)], of| {
            let pages = pages.iter().map(|&(number, count)| (node(number), count));
            let residence = Residence {
                pages: pages.collect(),
            };
            residence.share_percent(node(of))
        };
        assert_eq!(shares(&[], 0), 0);
        assert_eq!(shares(&[(0, 5)], 0), 100);
        assert_eq!(shares(&[(0, 989), (1, 11)], 0), 98);
        assert_eq!(shares(&[(0, 989), (1, 11)], 1), 1);
    }

    #[test]
    fn memory_that_is_not_mapped_is_an_error_of_the_kernel() {
        let span = Span::new(std::ptr::null(), 4096);
        assert!(span.residence().is_err());
    }
}
