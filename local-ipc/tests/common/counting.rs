//! An allocator that counts, to show that a peer cannot make us take memory.
#![expect(unsafe_code, reason = "an allocator is unsafe to implement")]
#![allow(dead_code, reason = "each test crate uses its part")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Passes everything on to the system's allocator.
pub(crate) struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static CALLS: Cell<usize> = const { Cell::new(0) };
}

/// How often this thread has asked for memory. Others, the test runner's among them, do as they like.
pub(crate) fn allocations() -> usize {
    CALLS.with(Cell::get)
}

/// The most bytes that were allocated at one time in this process, since it began.
pub(crate) fn most_live_bytes() -> usize {
    MOST.load(Ordering::Relaxed)
}

// SAFETY: every call goes to `System` as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(live, Ordering::Relaxed);
        // A thread that ends asks too, after its counter is gone.
        let _ = CALLS.try_with(|calls| calls.set(calls.get() + 1));
        // SAFETY: the caller keeps the same contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: it came from `System` with this layout, as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }
}
