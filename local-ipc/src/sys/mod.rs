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
//! The first three can be had in two ways: `linux`, where the kernel enforces what the rest of this crate
//! says, and `portable`, from the standard library and mapped files. `build.rs` chooses. The others are
//! asked of the system that it is; those that have not got them say "unsupported" (`elsewhere`).
//!
//! What the rest of the crate promises about these calls is promised by the comments here.

#[cfg(not(target_os = "linux"))]
mod elsewhere;
#[cfg(target_os = "linux")]
pub(crate) mod linux;
#[cfg(weft_portable)]
mod portable;

// What is the heart of this crate, and there are two ways to have it.
#[cfg(not(weft_portable))]
pub(crate) use self::linux::{doorbell, memory};
#[cfg(not(any(loom, shuttle, weft_portable)))]
pub(crate) use self::linux::{poller, wait};
#[cfg(weft_portable)]
pub(crate) use self::portable::{doorbell, memory, poller, wait};

// What is had beside it, where the system has it.
#[cfg(not(target_os = "linux"))]
pub use self::elsewhere::{Errno, Pid};
#[cfg(not(target_os = "linux"))]
pub(crate) use self::elsewhere::{cpu, file, numa, side};
#[cfg(target_os = "linux")]
pub(crate) use self::linux::{cpu, numa, process};
#[cfg(all(target_os = "linux", not(any(loom, shuttle))))]
pub(crate) use self::linux::{file, side};
#[cfg(target_os = "linux")]
pub(crate) use rustix::{io::Errno, process::Pid};

#[cfg(unix)]
pub(crate) use std::os::fd::{BorrowedFd, OwnedFd};
#[cfg(windows)]
pub(crate) use std::os::windows::io::{BorrowedHandle as BorrowedFd, OwnedHandle as OwnedFd};

/// A descriptor of a side socket, borrowed.
pub(crate) fn borrowed(fd: &OwnedFd) -> BorrowedFd<'_> {
    #[cfg(unix)]
    return std::os::fd::AsFd::as_fd(fd);
    #[cfg(windows)]
    return std::os::windows::io::AsHandle::as_handle(fd);
}

/// Whether the kernel keeps each region to its one writer. If not (on systems other than Linux, and with
/// the feature `portable` alone), a peer of the same user can break the rules in more ways than its
/// readers notice: see "Portability" in `ARCHITECTURE.md`.
pub const ENFORCED: bool = cfg!(not(weft_portable));

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
    #[cfg_attr(weft_portable, expect(dead_code, reason = "there are none"))]
    Doorbell(u32),
    /// The other end of the side socket of this number is closed.
    HangUp(u32),
}
