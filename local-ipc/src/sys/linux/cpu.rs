//! The processors that there are, and those that a thread may run on.

use std::io;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Binds the calling thread to these processors, as far as there are such.
pub(crate) fn bind(cpus: &[u32]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        // The system call's own limit in rustix; a machine with more keeps its lower ones.
        if (cpu as usize) < CpuSet::MAX_CPU {
            set.set(cpu as usize);
        }
    }
    if set.count() == 0 {
        let text = "no processor to pin to";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    sched_setaffinity(None, &set)?;
    Ok(())
}

/// The processors that a thread may run on, ascending. `None` is the calling one.
pub(crate) fn bound_to(thread: Option<Pid>) -> io::Result<Vec<u32>> {
    let set = sched_getaffinity(thread)?;
    let cpus = (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu));
    Ok(cpus.map(|cpu| cpu as u32).collect())
}

/// Whether the machine has only one processor in use.
pub(crate) fn only_one() -> bool {
    std::fs::read_to_string("/sys/devices/system/cpu/online").is_ok_and(|list| is_one(list.trim()))
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
}
