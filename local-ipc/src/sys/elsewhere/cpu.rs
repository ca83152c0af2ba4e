//! The processors that there are.

use std::io;

use super::{Pid, unsupported};

/// Binding threads is not supported.
pub(crate) fn bind(_: &[u32]) -> io::Result<()> {
    Err(unsupported())
}

/// What a thread is bound to is not told.
pub(crate) fn bound_to(_: Option<Pid>) -> io::Result<Vec<u32>> {
    Err(unsupported())
}

/// Whether there is only one processor for this process.
pub(crate) fn only_one() -> bool {
    std::thread::available_parallelism().is_ok_and(|count| count.get() == 1)
}
