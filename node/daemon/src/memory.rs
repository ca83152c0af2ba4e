//! The memory manager: how much shared memory a domain may take.
//!
//! A domain asks in large chunks, ahead of need, and creates and seals what it was allowed itself.
//! The hard limit is the memory cgroup's. Where there is none, the budget is what domains agree to,
//! and the answer says so (`enforced: false`).

use std::fs;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use weft::{Contract, Request};
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
            let after = used_bytes.saturating_add(extent.bytes);
            if after > budget_bytes {
                return Err(Refusal::new(
                    RefusalCode::OverBudget,
                    format!(
                        "{} uses {used_bytes} of {budget_bytes} bytes and asks for {}: close channels, or start the node with a larger --budget",
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
