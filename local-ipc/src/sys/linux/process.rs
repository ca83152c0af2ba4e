//! What a process asks of the kernel for itself.

use std::io;

use rustix::process::{DumpableBehavior, Signal};

/// Keeps other processes of the same user out of our memory: no `ptrace`, no `/proc/PID/mem`, no
/// reopening of our descriptors. Call it before the first region is made, and again after an exec.
///
/// With `debuggable` nothing is done, and whoever runs as this user can write our regions. Root
/// always can.
///
/// # Errors
///
/// What `prctl(2)` says.
pub fn harden_process(debuggable: bool) -> io::Result<()> {
    if !debuggable {
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    }
    Ok(())
}

/// Has the kernel kill this process when the thread that started it ends.
///
/// A parent that died before this call is not noticed: compare its id, or look at a descriptor
/// that it holds, afterwards.
///
/// # Errors
///
/// What `prctl(2)` says.
pub fn die_with_parent() -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    Ok(())
}
