//! Whether two processes can run at the same time. Where they cannot, spinning never succeeds: the
//! other side only gets the core once we let go of it.

use std::sync::OnceLock;

use crate::sys::{Pid, cpu};

/// Whether it can help to spin for a process: `false` where the machine has only one processor in use, or
/// the calling thread and the peer are bound to the same one.
///
/// Bindings can change later, and threads have their own; a [`crate::Waiter`] finds out by itself when
/// spinning does not pay. This only saves it the attempt.
#[must_use]
pub fn spinning_can_help(peer: Option<u32>) -> bool {
    if only_one_processor() {
        return false;
    }
    // Zero: a process outside our namespace, see `PeerCredentials`.
    let pid = peer
        .and_then(|pid| i32::try_from(pid).ok())
        .and_then(Pid::from_raw);
    let Some(Ok(theirs)) = pid.map(|pid| cpu::bound_to(Some(pid))) else {
        return true;
    };
    !cpu::bound_to(None).is_ok_and(|ours| share_one(&ours, &theirs))
}

fn share_one(one: &[u32], other: &[u32]) -> bool {
    one.len() == 1 && one == other
}

fn only_one_processor() -> bool {
    static ONE: OnceLock<bool> = OnceLock::new();
    *ONE.get_or_init(cpu::only_one)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_single_core_is_shared() {
        assert!(share_one(&[1], &[1]));
        assert!(!share_one(&[1], &[0]));
        assert!(!share_one(&[0, 1], &[0, 1]));
    }

    #[test]
    fn a_peer_that_nobody_knows_is_spun_for_if_there_are_processors() {
        assert_eq!(spinning_can_help(None), !only_one_processor());
        assert_eq!(spinning_can_help(Some(0)), !only_one_processor());
    }
}
