//! Doorbells, which this backend has not: whoever waits looks at the bell itself.

use std::convert::Infallible;
use std::io;

use crate::sys::OwnedFd;

/// The sleeper's end of a doorbell. This backend has none, so there is no value of it: an inbox looks at
/// its members' bells, and the async ends are not to be had.
#[derive(Debug)]
pub struct Doorbell(Infallible);

impl Doorbell {
    /// A doorbell, and the end to knock at: hand it to the peer (side socket), which gives it to its
    /// [`crate::Swapper::ring_through`].
    ///
    /// # Errors
    ///
    /// Here always `Unsupported`.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        Err(unsupported())
    }

    /// Takes off the knocks so far. `false` if nobody will knock any more.
    pub fn silence(&self) -> bool {
        match self.0 {}
    }
}

/// The ringing end.
#[derive(Debug)]
pub(crate) struct Knocker(Infallible);

impl Knocker {
    /// Refuses what a peer sent: a peer with this backend has no doorbell, and one with another cannot
    /// share a channel with us.
    pub(crate) fn new(_: OwnedFd) -> io::Result<Self> {
        Err(unsupported())
    }

    pub(crate) fn knock(&self) {
        match self.0 {}
    }
}

fn unsupported() -> io::Error {
    let text = "doorbells are not to be had without the kernel's help";
    io::Error::new(io::ErrorKind::Unsupported, text)
}
