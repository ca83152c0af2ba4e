//! NUMA: which memory is near which processor, and putting memory where it is wanted.
//!
//! A ring is read far more often than it is allocated, and memory of another node is slower at every
//! read. So a half (and whatever else lies in a memory file) can be made with a
//! [`Placement`], and what became of the wish is an [`Outcome`]: [`Outcome::Placed`] only if the
//! kernel, asked page by page, says that the pages lie on that node. A machine with one node, a
//! container without the right, a node that is full: each is [`Outcome::NotPlaced`] with its
//! [`Reason`], and the memory is there all the same. Placement is about speed, so nothing fails for
//! want of it.
//!
//! To read: `topology` (what the machine has, from sysfs), `placement` (wishes and outcomes),
//! `affinity` (where threads run), `process` (where other processes' memory lies and may lie), `calls` (the system calls).

mod affinity;
mod calls;
mod list;
mod placement;
mod process;
mod topology;

pub use affinity::{current_node, pin_to_cpus, pin_to_node, pinned_node};
pub use placement::{Outcome, Placement, Reason, Residence, Span};
pub use process::{nodes_of_process, residence_of_process};
pub use topology::{
    MAX_CPUS, MAX_NODES, NodeReport, NumaNode, Performance, Topology, TopologyError,
};
