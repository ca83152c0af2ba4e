//! The memory manager: how much shared memory a domain may take.
//!
//! A domain asks in large chunks, ahead of need, and creates and seals what it was allowed itself.
//! The hard limit is the memory cgroup's. Where there is none, the budget is what domains agree to,
//! and the answer says so (`enforced: false`).

use std::fs;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use weft::{Contract, Request};
use weft_local_ipc::numa::{NumaNode, Topology};
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
            if let Some(number) = extent.numa_node {
                // Where the kernel does not say, the domain learns from its extent: a wish for a node
                // is about speed, and nothing fails for want of it.
                check_numa_node(number, Topology::of_machine().ok().as_ref())?;
            }
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
            grant(domain, extent.bytes, budget_bytes)
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
            grant(domain, growth.bytes, budget_bytes)
        }
        MemoryRequest::ReturnExtent(extent) => {
            let after = used_bytes.saturating_sub(extent.bytes);
            domain.used_bytes.set(after);
            reply(&ExtentReturned { used_bytes: after })
        }
    }
}

/// Refuses a NUMA node that the machine is known not to have.
fn check_numa_node(number: u32, machine: Option<&Topology>) -> Result<(), Refusal> {
    let Some(machine) = machine else {
        return Ok(());
    };
    if NumaNode::new(number).is_some_and(|node| machine.node(node).is_some()) {
        return Ok(());
    }
    let there: Vec<String> = machine
        .nodes()
        .iter()
        .map(|report| report.node.get().to_string())
        .collect();
    Err(Refusal::new(
        RefusalCode::Rejected,
        format!(
            "this machine has no NUMA node {number}; it has {}: ask for one of these, or for none",
            there.join(", ")
        ),
    ))
}

/// Charges a domain with `bytes`, which fit its budget.
fn grant(domain: &Domain, bytes: u64, budget_bytes: u64) -> Answer {
    let used_bytes = domain.used_bytes.get() + bytes;
    domain.used_bytes.set(used_bytes);
    reply(&ExtentGranted {
        bytes,
        budget_bytes,
        used_bytes,
        enforced: cgroup_limits(),
    })
}

/// Whether a memory cgroup stands behind the budget of this process and its children.
fn cgroup_limits() -> bool {
    // cgroup v2 mounts the process's own group here in a container; on a host the root has no limit.
    fs::read_to_string("/sys/fs/cgroup/memory.max").is_ok_and(|limit| limit.trim() != "max")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_numa_node_that_is_not_there_is_refused_by_the_names_of_those_that_are() {
        let tree = tempfile::tempdir().expect("a directory");
        std::fs::write(tree.path().join("online"), "0,8").expect("write");
        for node in ["node0", "node8"] {
            let folder = tree.path().join(node);
            std::fs::create_dir(&folder).expect("a directory");
            std::fs::write(folder.join("cpulist"), "0").expect("write");
            let meminfo = "Node 0 MemTotal: 8 kB\nNode 0 MemFree: 4 kB\n";
            std::fs::write(folder.join("meminfo"), meminfo).expect("write");
        }
        let machine = Topology::read(tree.path()).expect("a tree");
        for there in [0, 8] {
            check_numa_node(there, Some(&machine)).expect("it is there");
        }
        for missing in [1, 1024, u32::MAX] {
            let refusal = check_numa_node(missing, Some(&machine)).expect_err("missing");
            assert_eq!(refusal.code, RefusalCode::Rejected);
            assert!(refusal.text.contains("it has 0, 8:"), "{}", refusal.text);
            check_numa_node(missing, None).expect("nobody knows");
        }
    }
}
