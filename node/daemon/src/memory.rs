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

use crate::line::{Answer, Line, reply};
use crate::node::Node;

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
            domain.used_bytes.set(after);
            reply(&ExtentGranted {
                bytes: extent.bytes,
                budget_bytes,
                used_bytes: after,
                enforced: cgroup_limits(),
            })
        }
        MemoryRequest::ReturnExtent(extent) => {
            let after = used_bytes.saturating_sub(extent.bytes);
            domain.used_bytes.set(after);
            reply(&ExtentReturned { used_bytes: after })
        }
    }
}

/// Whether a memory cgroup stands behind the budget of this process and its children.
fn cgroup_limits() -> bool {
    // cgroup v2 mounts the process's own group here in a container; on a host the root has no limit.
    fs::read_to_string("/sys/fs/cgroup/memory.max").is_ok_and(|limit| limit.trim() != "max")
}
