//! What this crate asks of the operating system: every system call stands below this module, and no
//! other file names one.
//!
//! | part | what it does |
//! |---|---|
//! | `memory` | makes, seals, checks and maps regions |
//! | `wait` | sleeps on words of memory, and wakes who sleeps there |
//! | `poller`, `doorbell` | sleep on descriptors, for large inboxes and async runtimes |
//! | `side` (with `credentials`) | sockets that carry descriptors between processes |
//! | `cpu`, `numa` | where threads run and where pages lie |
//! | `file`, `process` | reading what may be cut off meanwhile; keeping others out of our memory |
//!
//! What the rest of the crate promises about these calls is promised by the comments here, so that
//! another system can be held against them.

pub(crate) mod linux;

pub(crate) use self::linux::{cpu, doorbell, memory, numa, process};
#[cfg(not(any(loom, shuttle)))]
pub(crate) use self::linux::{file, poller, side, wait};
pub(crate) use rustix::io::Errno;
pub(crate) use rustix::process::Pid;
pub(crate) use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What a region's makers and readers may rely on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Stage {
    /// Its size stays, and nobody gets a writable mapping any more. For good: nothing can be added.
    Half,
    /// The same, but it may be frozen later.
    Shared,
    /// Nobody can write it, its maker included.
    Frozen,
}

/// What woke who slept in `poller`, beyond our own event.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Heard {
    /// The doorbell of this number.
    Doorbell(u32),
    /// The other end of the side socket of this number is closed.
    HangUp(u32),
}
