//! Whether two processes can run at the same time. Where they cannot, spinning never succeeds: the
//! other side only gets the core once we let go of it.

use std::sync::OnceLock;

use rustix::thread::{CpuSet, Pid, sched_getaffinity};

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
    let Some(Ok(theirs)) = pid.map(|pid| sched_getaffinity(Some(pid))) else {
        return true;
    };
    !sched_getaffinity(None).is_ok_and(|ours| share_one(&ours, &theirs))
}

fn share_one(one: &CpuSet, other: &CpuSet) -> bool {
    one.count() == 1 && one == other
}

fn only_one_processor() -> bool {
    static ONE: OnceLock<bool> = OnceLock::new();
    *ONE.get_or_init(|| {
        std::fs::read_to_string("/sys/devices/system/cpu/online")
            .is_ok_and(|list| is_one(list.trim()))
    })
}

/// Of a kernel's list of numbers ("0", "0-3", "0,2").
fn is_one(list: &str) -> bool {
    list.parse::<u32>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_processor_is_told_from_many() {
        assert!(is_one("0"));
        assert!(!is_one("0-1"));
        assert!(!is_one("0,2"));
        assert!(!is_one(""));
    }

    #[test]
    fn only_the_same_single_core_is_shared() {
        let set = |cpus: &[usize]| {
            let mut set = CpuSet::new();
            cpus.iter().for_each(|&cpu| set.set(cpu));
            set
        };
        assert!(share_one(&set(&[1]), &set(&[1])));
        assert!(!share_one(&set(&[1]), &set(&[0])));
        assert!(!share_one(&set(&[0, 1]), &set(&[0, 1])));
    }

    #[test]
    fn a_peer_that_nobody_knows_is_spun_for_if_there_are_processors() {
        assert_eq!(spinning_can_help(None), !only_one_processor());
        assert_eq!(spinning_can_help(Some(0)), !only_one_processor());
    }
}
