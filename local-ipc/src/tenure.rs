//! How long a peer is the one to listen to, for threads that sleep on its bell.
//!
//! A swap has to wake who sleeps on the bell of the replaced peer. That bell is not ours to change, so
//! the kernel, which compares values before it puts a thread to sleep, cannot tell one that comes too
//! late. Sleepers therefore say first that they are there, and a swap wakes until none of them is.

use crate::sync::{AtomicU32, Ordering, fence};

/// Begins with the peer and ends with a swap.
#[derive(Debug)]
pub(crate) struct Tenure {
    over: AtomicU32,
    sleepers: AtomicU32,
}

impl Default for Tenure {
    fn default() -> Self {
        Self {
            over: AtomicU32::new(0),
            sleepers: AtomicU32::new(0),
        }
    }
}

impl Tenure {
    /// Whether another has taken the peer's place.
    pub(crate) fn is_over(&self) -> bool {
        // ORDER(superseded): acquire; pairs with the Release in `end`.
        self.over.load(Ordering::Acquire) != 0
    }

    /// To sleep on the bell while the result lives; `None` if that is over.
    pub(crate) fn sleeper(&self) -> Option<Sleeper<'_>> {
        // ORDER(tenure): count, full fence, look whether it is over; pairs with "over", full fence, look
        // at the count in `end`. So one of them sees the other.
        self.sleepers.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let sleeper = Sleeper(self);
        (!self.is_over()).then_some(sleeper)
    }

    /// Ends it, and calls `wake` until nobody sleeps on the bell any more. Each call has to wake all who
    /// sleep there, and to let others run.
    pub(crate) fn end(&self, mut wake: impl FnMut()) {
        // ORDER(superseded): Release; pairs with the acquire in `is_over`.
        self.over.store(1, Ordering::Release);
        // ORDER(tenure): full fence, as in `sleeper`.
        fence(Ordering::SeqCst);
        // ORDER(tenure): Relaxed; nothing that sleepers did is used.
        while self.sleepers.load(Ordering::Relaxed) > 0 {
            wake();
        }
    }
}

/// A thread that sleeps on a bell, or is about to.
#[derive(Debug)]
pub(crate) struct Sleeper<'a>(&'a Tenure);

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        // ORDER(tenure): Relaxed, as in `end`.
        self.0.sleepers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// `RUSTFLAGS="--cfg loom" cargo test --release -p weft-local-ipc --lib tenure`
#[cfg(all(loom, test))]
mod models {
    use loom::sync::{Arc, Condvar, Mutex};
    use loom::thread;

    use super::*;

    /// The bell of a dead peer: its value never changes, so the kernel puts everybody to sleep.
    #[derive(Default)]
    struct Kernel {
        /// How often all were woken.
        wakes: Mutex<u32>,
        sleepers: Condvar,
    }

    impl Kernel {
        fn sleep(&self) {
            let wakes = self.wakes.lock().unwrap();
            drop(self.sleepers.wait(wakes).unwrap());
        }

        fn wake_all(&self) {
            *self.wakes.lock().unwrap() += 1;
            self.sleepers.notify_all();
        }
    }

    /// A sleeper that nobody wakes is a deadlock, which loom reports.
    #[test]
    fn a_swap_wakes_who_sleeps_on_the_bell_of_the_replaced() {
        loom::model(|| {
            let shared = Arc::new((Tenure::default(), Kernel::default()));
            let sleeper = thread::spawn({
                let shared = Arc::clone(&shared);
                move || {
                    let sleeper = shared.0.sleeper();
                    if sleeper.is_some() {
                        shared.1.sleep();
                    }
                }
            });
            shared.0.end(|| {
                shared.1.wake_all();
                thread::yield_now();
            });
            sleeper.join().unwrap();
            assert!(shared.0.is_over());
        });
    }

    /// The model can fail: a sleeper that only looks whether the tenure is over is not woken.
    #[test]
    #[should_panic(expected = "slept through")]
    fn who_does_not_say_that_it_sleeps_is_slept_through() {
        loom::model(|| {
            let shared = Arc::new((Tenure::default(), Kernel::default()));
            let sleeper = thread::spawn({
                let shared = Arc::clone(&shared);
                move || !shared.0.is_over()
            });
            shared.0.end(|| shared.1.wake_all());
            let slept = sleeper.join().unwrap();
            assert!(
                !slept || *shared.1.wakes.lock().unwrap() > 0,
                "slept through"
            );
        });
    }
}
