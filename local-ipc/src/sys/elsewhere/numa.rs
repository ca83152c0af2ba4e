//! Placement of memory, which is not supported: callers say "not placed" and go on.

use std::io;

use super::{Errno, unsupported};

/// Memory lies wherever the system puts it.
pub(crate) fn prefer(_: usize, _: usize, _: u32) -> Result<(), Errno> {
    Err(Errno::NOSYS)
}

/// Where a page lies is not told.
pub(crate) fn node_of_page(_: usize) -> Result<u32, Errno> {
    Err(Errno::NOSYS)
}

/// Where a thread runs is not told.
pub(crate) fn current_node() -> io::Result<u32> {
    Err(unsupported())
}
