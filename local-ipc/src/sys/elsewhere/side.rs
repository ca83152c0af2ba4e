//! Side sockets, which are not to be had: a program hands its regions over in a way of its own.

use std::convert::Infallible;
use std::io;

use super::unsupported;
use crate::sys::BorrowedFd;

/// A side socket whose hang-up is looked for; there is none.
#[derive(Debug)]
pub(crate) struct Watched(Infallible);

impl Watched {
    pub(crate) fn of(_: BorrowedFd<'_>) -> io::Result<Self> {
        Err(unsupported())
    }

    pub(crate) fn has_hung_up(&self) -> bool {
        match self.0 {}
    }
}
