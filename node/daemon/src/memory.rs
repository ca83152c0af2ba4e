//! The memory manager: how much shared memory a domain may take.
//!
//! A domain asks in large chunks, ahead of need, and creates and seals what it was allowed itself.
//! The hard limit is the memory cgroup's. Where there is none, the budget is what domains agree to,
//! and the answer says so (`enforced: false`).
//!
//! A domain may say on which NUMA node it wants its memory. Whoever allocates places, so that is done
//! there; here only a node is refused that cannot be had.

use std::fs;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::process::Pid;
use weft::{Contract, Request};
use weft_local_ipc::numa::{NumaNode, Topology, nodes_of_process};
use weft_node_control::{ExtentGranted, ExtentReturned, Memory, MemoryRequest};
use weft_types::{DomainId, Refusal, RefusalCode};

use crate::domains::Domain;
use crate::line::{Answer, Line, reply};
use crate::node::Node;

/// Queues that grow take a domain to at most this part of its budget: the rest is for channels. What
/// the peers of a domain do not take makes it grow, and must not keep it from opening channels.
const GROWTH_PART: u64 = 2;

/// Serves one request of a domain.
pub(crate) fn serve(node: &Rc<Node>, domain: DomainId, line: Line, request: Request) {
    let outcome = answer(node, domain, &request);
    line.answer(
        &request,
        outcome.map(|(body, _)| (body, Vec::<OwnedFd>::new())),
    );
}

fn answer(node: &Node, id: DomainId, request: &Request) -> Answer {
    let message = Memory::decode(request.index, &request.body)
        .map_err(|error| Refusal::from(weft::Error::from(error)))?;
    let domains = node.domains.borrow();
    let domain = domains
        .get(&id)
        .ok_or_else(|| Refusal::new(RefusalCode::Closed, "this domain is not attached"))?;
    let budget_bytes = node.config.budget_bytes;
    let used_bytes = domain.used_bytes.get();
    match message {
        MemoryRequest::RequestExtent(extent) => {
            let numa_node = extent
                .numa_node
                .map(|number| numa_node(number, domain.pid))
                .transpose()?;
            let after = used_bytes.saturating_add(extent.bytes);
            if after > budget_bytes {
                return Err(Refusal::new(
                    RefusalCode::OverBudget,
                    format!(
                        "{} uses {used_bytes} of {budget_bytes} bytes and asks for {}: close channels, shrink heaps, or start the node with a larger --budget",
                        domain.name, extent.bytes
                    ),
                ));
            }
            grant(domain, extent.bytes, numa_node, budget_bytes)
        }
        MemoryRequest::RequestGrowth(growth) => {
            let most_bytes = budget_bytes / GROWTH_PART;
            if used_bytes.saturating_add(growth.bytes) > most_bytes {
                return Err(Refusal::new(
                    RefusalCode::OverBudget,
                    format!(
                        "{} uses {used_bytes} bytes, and queues may grow to {most_bytes} of its {budget_bytes}; {} is full and asks for {}: close channels, or start the node with a larger --budget",
                        domain.name, growth.channel, growth.bytes
                    ),
                ));
            }
            grant(domain, growth.bytes, None, budget_bytes)
        }
        MemoryRequest::ReturnExtent(extent) => {
            let after = used_bytes.saturating_sub(extent.bytes);
            domain.used_bytes.set(after);
            reply(&ExtentReturned { used_bytes: after })
        }
    }
}

/// Charges a domain with `bytes`, which fit its budget.
fn grant(domain: &Domain, bytes: u64, numa_node: Option<NumaNode>, budget_bytes: u64) -> Answer {
    let used_bytes = domain.used_bytes.get() + bytes;
    domain.used_bytes.set(used_bytes);
    reply(&ExtentGranted {
        bytes,
        numa_node: numa_node.map(NumaNode::get),
        budget_bytes,
        used_bytes,
        enforced: cgroup_limits(),
    })
}

/// The NUMA node of a number, if the machine has memory there and the process may use it.
fn numa_node(number: u32, pid: u32) -> Result<NumaNode, Refusal> {
    let allowed = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        // Where /proc is hidden from us, the domain finds out by itself.
        .and_then(|process| nodes_of_process(process).ok());
    let topology = Topology::of_machine().map_err(|error| {
        Refusal::new(
            RefusalCode::Rejected,
            format!("no memory can be had on a NUMA node: {error}; ask without one"),
        )
    })?;
    choose_node(number, &topology, allowed.as_deref())
}

fn choose_node(
    number: u32,
    topology: &Topology,
    allowed: Option<&[NumaNode]>,
) -> Result<NumaNode, Refusal> {
    let may_use = |node: NumaNode| allowed.is_none_or(|allowed| allowed.contains(&node));
    let report = NumaNode::new(number).and_then(|node| topology.node(node));
    let why = match report {
        None => "is not on this machine",
        Some(report) if report.memory_bytes == 0 => "has processors and no memory",
        Some(report) if !may_use(report.node) => {
            "is not among those that the process may use (cpuset.mems of its control group)"
        }
        Some(report) => return Ok(report.node),
    };
    let usable = topology
        .nodes()
        .iter()
        .filter(|report| report.memory_bytes > 0 && may_use(report.node));
    let usable: Vec<String> = usable.map(|report| report.node.get().to_string()).collect();
    Err(Refusal::new(
        RefusalCode::Rejected,
        format!(
            "NUMA node {number} {why}: ask for one of [{}] (`weft numa` shows them), or for none",
            usable.join(", ")
        ),
    ))
}

/// Whether a memory cgroup stands behind the budget of this process and its children.
fn cgroup_limits() -> bool {
    // cgroup v2 mounts the process's own group here in a container; on a host the root has no limit.
    fs::read_to_string("/sys/fs/cgroup/memory.max").is_ok_and(|limit| limit.trim() != "max")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine of which node 1 has no memory.
    fn machine() -> Topology {
        let root = tempfile::tempdir().expect("a directory");
        let write = |path: String, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("folder");
            fs::write(path, text).expect("file");
        };
        write("online".to_owned(), "0-2");
        for (number, kib) in [8, 0, 8].into_iter().enumerate() {
            write(format!("node{number}/cpulist"), &number.to_string());
            let text = format!("Node 0 MemTotal: {kib} kB\nNode 0 MemFree: 0 kB\n");
            write(format!("node{number}/meminfo"), &text);
        }
        Topology::read(root.path()).expect("a machine")
    }

    #[test]
    fn only_nodes_with_memory_that_the_process_may_use_are_granted() {
        let machine = machine();
        let node = |number| NumaNode::new(number).expect("a number");
        let choose = |number, allowed: Option<&[NumaNode]>| {
            choose_node(number, &machine, allowed).map_err(|refusal| {
                assert_eq!(refusal.code, RefusalCode::Rejected);
                refusal.text
            })
        };
        assert_eq!(choose(2, None), Ok(node(2)));
        assert_eq!(choose(2, Some(&[node(1), node(2)])), Ok(node(2)));
        for (number, allowed, why, usable) in [
            (3, None, "is not on this machine", "[0, 2]"),
            (u32::MAX, None, "is not on this machine", "[0, 2]"),
            (1, None, "has processors and no memory", "[0, 2]"),
            (2, Some(&[node(0)][..]), "cpuset.mems", "[0]"),
        ] {
            let text = choose(number, allowed).expect_err("a refusal");
            assert!(text.contains(why) && text.contains(usable), "{text}");
        }
    }
}
