//! The words of this crate as a model checker has them, and orderings that can be taken away.
//!
//! Two kinds of words lie in a half. Those that order others are the checker's atomics. The rest (header
//! and body of a message, arenas) is data: an honest peer writes it only before it is published and
//! after it is done, so each access is checked against all others, and two that nothing orders end
//! the model. That is more than the code relies on (it reads data with atomic loads, since a hostile
//! peer keeps to nothing), and it finds what a model of atomics alone cannot: a slot that is written
//! anew before the last look at it was over.
//!
//! loom knows orderings and runs every interleaving within a bound. shuttle takes every access as
//! sequentially consistent and runs long random schedules.
#![cfg_attr(
    loom,
    expect(unsafe_code, reason = "the record of accesses goes to other threads")
)]

use std::cell::Cell;
use std::sync::atomic::AtomicU64 as Plain;

#[cfg(loom)]
use loom::sync::atomic as checked;
#[cfg(shuttle)]
use shuttle::sync::atomic as checked;

pub(crate) use checked::Ordering;

/// What is taken away from the code, to show that a model notices.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Weak {
    /// Nothing: the code as it is.
    #[default]
    Nothing,
    /// The Release of a slot's sequence word.
    Published,
    /// The Release of `done`.
    Done,
    /// The Release of the count of linked segments.
    Grown,
    /// All acquire fences.
    Acquire,
    /// All full fences.
    Full,
}

thread_local! {
    /// All threads of a model run on one thread of the system.
    static WEAK: Cell<Weak> = const { Cell::new(Weak::Nothing) };
}

/// From here on, on this thread of the system.
pub(crate) fn weaken(what: Weak) {
    WEAK.set(what);
}

fn is_weak(what: Weak) -> bool {
    WEAK.get() == what
}

/// A fence, unless it was taken away.
pub(crate) fn fence(order: Ordering) {
    let taken_away = match order {
        Ordering::SeqCst => is_weak(Weak::Full),
        _ => is_weak(Weak::Acquire),
    };
    if !taken_away {
        checked::fence(order);
    }
}

/// A word of 32 bits.
#[derive(Debug, Default)]
pub(crate) struct AtomicU32 {
    word: checked::AtomicU32,
    relaxed: bool,
}

impl AtomicU32 {
    pub(crate) fn new(value: u32) -> Self {
        Self {
            word: checked::AtomicU32::new(value),
            relaxed: false,
        }
    }

    /// One whose stores order nothing, if that is taken away.
    pub(super) fn weaker(what: Weak) -> Self {
        Self {
            relaxed: is_weak(what),
            ..Self::new(0)
        }
    }

    pub(crate) fn load(&self, order: Ordering) -> u32 {
        self.word.load(order)
    }

    pub(crate) fn store(&self, value: u32, order: Ordering) {
        self.word.store(value, weaker(order, self.relaxed));
    }

    pub(crate) fn fetch_add(&self, value: u32, order: Ordering) -> u32 {
        self.word.fetch_add(value, order)
    }

    pub(crate) fn fetch_sub(&self, value: u32, order: Ordering) -> u32 {
        self.word.fetch_sub(value, order)
    }
}

fn weaker(order: Ordering, relaxed: bool) -> Ordering {
    if relaxed { Ordering::Relaxed } else { order }
}

/// A word of 64 bits: one that orders others, or data.
#[derive(Debug)]
pub(crate) enum AtomicU64 {
    Ordering {
        word: checked::AtomicU64,
        relaxed: bool,
    },
    Data(Data),
}

impl AtomicU64 {
    pub(crate) fn new(value: u64) -> Self {
        Self::Ordering {
            word: checked::AtomicU64::new(value),
            relaxed: false,
        }
    }

    pub(super) fn weaker(what: Weak) -> Self {
        Self::Ordering {
            word: checked::AtomicU64::new(0),
            relaxed: is_weak(what),
        }
    }

    pub(crate) fn load(&self, order: Ordering) -> u64 {
        match self {
            Self::Ordering { word, .. } => word.load(order),
            Self::Data(data) => data.load(),
        }
    }

    pub(crate) fn store(&self, value: u64, order: Ordering) {
        match self {
            Self::Ordering { word, relaxed } => word.store(value, weaker(order, *relaxed)),
            Self::Data(data) => data.store(value),
        }
    }
}

/// A word that others order.
#[derive(Debug)]
pub(crate) struct Data {
    #[cfg(loom)]
    accesses: loom::cell::UnsafeCell<()>,
    value: Plain,
}

// SAFETY: what keeps it from being `Sync` is the cell, of which nothing is used but the record of
// accesses. The checker keeps that for all of its threads, of which one runs at a time.
#[cfg(loom)]
unsafe impl Sync for Data {}
// SAFETY: as above.
#[cfg(loom)]
unsafe impl Send for Data {}

impl Data {
    pub(super) fn new() -> Self {
        Self {
            #[cfg(loom)]
            accesses: loom::cell::UnsafeCell::new(()),
            value: Plain::new(0),
        }
    }

    fn load(&self) -> u64 {
        #[cfg(loom)]
        self.accesses.with(|_| ());
        self.value.load(Ordering::Relaxed)
    }

    fn store(&self, value: u64) {
        #[cfg(loom)]
        self.accesses.with_mut(|_| ());
        self.value.store(value, Ordering::Relaxed);
    }
}
