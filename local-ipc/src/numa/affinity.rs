//! Where threads run: pinning, and asking.

use std::io;

use super::topology::{NumaNode, Topology};
use crate::sys::{Pid, cpu, numa};

/// Lets the calling thread run on these processors and no others. Those that the machine or the
/// control group does not have are left out; memory that lies somewhere already stays there.
///
/// # Errors
///
/// What `sched_setaffinity(2)` says; `InvalidInput` if no processor is left.
pub fn pin_to_cpus(cpus: &[u32]) -> io::Result<()> {
    cpu::bind(cpus)
}

/// Lets the calling thread run on the processors of one node and no others.
///
/// # Errors
///
/// `InvalidInput` if there is no such node or it has no processors (memory only); else as
/// [`pin_to_cpus`].
pub fn pin_to_node(topology: &Topology, node: NumaNode) -> io::Result<()> {
    let invalid = |text| io::Error::new(io::ErrorKind::InvalidInput, text);
    let report = topology
        .node(node)
        .ok_or_else(|| invalid(format!("this machine has no {node}")))?;
    if report.cpus.is_empty() {
        return Err(invalid(format!("{node} has memory and no processors")));
    }
    pin_to_cpus(&report.cpus)
}

/// The node that a thread cannot leave: the one that all processors it may run on belong to. `None`
/// if there are several. `None` for `thread` is the calling one; a process id is its first thread.
///
/// # Errors
///
/// What `sched_getaffinity(2)` says, such as that there is no such thread.
pub fn pinned_node(thread: Option<Pid>, topology: &Topology) -> io::Result<Option<NumaNode>> {
    let cpus = cpu::bound_to(thread)?;
    Ok(topology.node_of_cpus(&cpus))
}

/// The node that the calling thread runs on now. Unless it is pinned, it may be on another by the
/// time this returns.
///
/// # Errors
///
/// What `getcpu(2)` says.
pub fn current_node() -> io::Result<NumaNode> {
    let number = numa::current_node()?;
    NumaNode::new(number).ok_or_else(|| io::Error::other(format!("NUMA node {number}?")))
}
