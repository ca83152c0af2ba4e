//! The atomics of this crate, from one place, so that model checkers can take their own in models.

#[cfg(not(any(loom, shuttle)))]
pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU32, AtomicU64, Ordering, compiler_fence, fence},
};

#[cfg(loom)]
pub(crate) use loom::sync::{Mutex, MutexGuard};
#[cfg(shuttle)]
pub(crate) use shuttle::sync::{Mutex, MutexGuard};

#[cfg(any(loom, shuttle))]
pub(crate) use crate::models::{AtomicU32, AtomicU64, Ordering, fence};

/// A 32-bit word that somebody else writes. It can only be loaded.
///
/// The memory may be mapped read-only. There a load has to be `Relaxed`: other orderings may
/// compile to writes on some machines (see "atomic accesses to read-only memory" in the
/// documentation of `std::sync::atomic`). The fence afterwards makes it an acquire load.
#[derive(Clone, Copy)]
pub(crate) struct Read32<'a>(pub(crate) &'a AtomicU32);

impl Read32<'_> {
    /// The value, with everything that its writer wrote before a `Release` store of it.
    #[inline]
    pub(crate) fn load(self) -> u32 {
        // ORDER(every label): Relaxed is enough because the fence follows.
        let value = self.0.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        value
    }
}

/// A 64-bit word that somebody else writes. It can only be loaded; see [`Read32`].
#[derive(Clone, Copy)]
pub(crate) struct Read64<'a>(pub(crate) &'a AtomicU64);

impl Read64<'_> {
    /// The value, with everything that its writer wrote before a `Release` store of it.
    #[inline]
    pub(crate) fn load(self) -> u64 {
        // ORDER(every label): Relaxed is enough because the fence follows.
        let value = self.0.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        value
    }
}
