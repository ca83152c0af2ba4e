//! Systems other than Linux, where this crate asks for less: no side sockets, no placement, no pinning.
//! What is asked for all the same is answered with "unsupported", which every caller knows how to go on
//! after.

pub(crate) mod cpu;
pub(crate) mod file;
pub(crate) mod numa;
pub(crate) mod side;

use std::fmt;
use std::num::NonZeroI32;

/// The number of a process or a thread.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Pid(NonZeroI32);

impl Pid {
    /// By its number, which is above zero.
    #[must_use]
    pub fn from_raw(number: i32) -> Option<Self> {
        NonZeroI32::new(number)
            .filter(|number| number.get() > 0)
            .map(Self)
    }

    /// Its number.
    #[must_use]
    pub fn as_raw_nonzero(self) -> NonZeroI32 {
        self.0
    }
}

/// What a system says that refuses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Errno(&'static str);

impl Errno {
    /// There is no such call.
    pub const NOSYS: Self = Self("no such system call");
    /// No right to it.
    pub const PERM: Self = Self("operation not permitted");
    /// No access.
    pub const ACCESS: Self = Self("permission denied");
    /// Not with these arguments.
    pub const INVAL: Self = Self("invalid argument");
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Errno {}

fn unsupported() -> std::io::Error {
    std::io::ErrorKind::Unsupported.into()
}
