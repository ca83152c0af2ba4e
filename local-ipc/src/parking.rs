//! Who has to ring, and when: the delicate spot, kept small enough to model.
//!
//! A receiver that wants to sleep writes a *generation* into its parked word, looks at the rings
//! once more, and sleeps. A sender publishes, then looks at the parked word. Both put a full fence
//! between their store and their load, so at least one of them sees the other: either the receiver
//! sees the message, or the sender sees the generation and rings. It rings once a generation.
//!
//! The bell's value has to be read *before* the receiver's last look; the kernel then refuses to
//! sleep on a bell that was rung in between.

use crate::sync::{AtomicU32, Ordering, Read32, fence};

/// The parked word of a receiver that is awake.
const AWAKE: u32 = 0;

/// The parked word of a consumer that will never look again (frozen, before a swap): every send
/// rings, so that the successor hears all of them.
pub const PARKED_ALWAYS: u32 = u32::MAX;

/// The receiver's side: the generation of its sleep.
#[derive(Debug, Default)]
pub(crate) struct Parking {
    generation: u32,
}

impl Parking {
    /// Says "asleep" in a new generation. The caller looks once more before it sleeps.
    pub(crate) fn park(&mut self, parked: &AtomicU32) {
        self.generation = self.generation.wrapping_add(1);
        if self.generation == AWAKE || self.generation == PARKED_ALWAYS {
            self.generation = 1;
        }
        Self::say(parked, self.generation);
    }

    /// Says "asleep for good": every send rings from now on.
    pub(crate) fn park_always(parked: &AtomicU32) {
        Self::say(parked, PARKED_ALWAYS);
    }

    /// Says "awake".
    pub(crate) fn unpark(parked: &AtomicU32) {
        // ORDER(parked): Relaxed; a sender that still sees the old generation rings for nothing.
        parked.store(AWAKE, Ordering::Relaxed);
    }

    fn say(parked: &AtomicU32, value: u32) {
        // ORDER(parked): store, full fence, then the caller's look at the rings; pairs with
        // publish, full fence, look in `Ringer`.
        parked.store(value, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }
}

/// Says that a full fence lies between what was stored and what is looked at now. Whoever looks
/// at a parked word, a mark or a swap has to show one; do not keep it.
#[must_use]
pub(crate) struct Fenced(());

/// Puts what was just stored before what is looked at next, in the one order that all agree on.
#[inline]
pub(crate) fn publish_before_look() -> Fenced {
    // ORDER(parked): full fence between publishing (a slot, a cursor, a swap) and looking.
    fence(Ordering::SeqCst);
    Fenced(())
}

/// The sender's side: which sleep it has rung for.
#[derive(Debug, Default)]
pub(crate) struct Ringer {
    /// The parked word at which there is nothing to do: that of a receiver that is awake, or of a
    /// sleep that was rung for.
    quiet: u32,
}

impl Ringer {
    /// Whether to ring now, for what was published before the fence.
    #[inline]
    pub(crate) fn must_ring(&mut self, _: Fenced, parked: Read32<'_>) -> bool {
        let generation = parked.load();
        generation != self.quiet && self.answer(generation)
    }

    #[cold]
    fn answer(&mut self, generation: u32) -> bool {
        // PARKED_ALWAYS is never quiet.
        self.quiet = if generation == PARKED_ALWAYS {
            AWAKE
        } else {
            generation
        };
        generation != AWAKE
    }
}

/// Bumps a bell. The caller then wakes who waits on it.
pub(crate) fn bump(bell: &AtomicU32) {
    // ORDER(bell): Release; pairs with the acquire load of the bell in `Bell::value`. Who sees the
    // new value also sees what was published before it. A read-modify-write because several
    // threads of the owner may ring.
    bell.fetch_add(1, Ordering::Release);
}

/// Run with `RUSTFLAGS="--cfg loom" cargo test -p weft-local-ipc --lib`.
#[cfg(all(loom, test))]
mod models {
    use loom::sync::{Arc, Condvar, Mutex};
    use loom::thread;

    use super::*;

    /// A bell and what the kernel does with it: comparing and going to sleep is one step.
    struct Bell {
        word: AtomicU32,
        kernel: Mutex<()>,
        sleepers: Condvar,
    }

    impl Bell {
        fn new() -> Self {
            Self {
                word: AtomicU32::new(0),
                kernel: Mutex::new(()),
                sleepers: Condvar::new(),
            }
        }

        fn ring(&self) {
            bump(&self.word);
            let _kernel = self.kernel.lock().unwrap();
            self.sleepers.notify_all();
        }

        fn sleep(&self, seen: u32) {
            let kernel = self.kernel.lock().unwrap();
            if Read32(&self.word).load() == seen {
                drop(self.sleepers.wait(kernel).unwrap());
            }
        }
    }

    struct Channel {
        /// How much is published; stands for the sequence words.
        published: AtomicU32,
        bell: Bell,
        parked: AtomicU32,
        swap: AtomicU32,
    }

    impl Channel {
        fn new() -> Arc<Self> {
            Arc::new(Self {
                published: AtomicU32::new(0),
                bell: Bell::new(),
                parked: AtomicU32::new(AWAKE),
                swap: AtomicU32::new(0),
            })
        }

        /// Sleeps as `Receiver::wait` does until `count` are published. A lost wake-up is a
        /// deadlock, which loom reports.
        fn receive(&self, parking: &mut Parking, count: u32) {
            loop {
                let seen = Read32(&self.bell.word).load();
                parking.park(&self.parked);
                if self.published.load(Ordering::Acquire) >= count {
                    break;
                }
                self.bell.sleep(seen);
                Parking::unpark(&self.parked);
                if self.published.load(Ordering::Acquire) >= count {
                    break;
                }
            }
            Parking::unpark(&self.parked);
        }

        /// Looks once and then goes to sleep: on which value of the bell, if it found nothing.
        fn sleep_once(&self) -> Option<u32> {
            let seen = Read32(&self.bell.word).load();
            Parking::default().park(&self.parked);
            let found = self.published.load(Ordering::Acquire) == 1;
            (!found).then_some(seen)
        }

        fn send(&self, ringer: &mut Ringer, look: impl Fn() -> Fenced) {
            let published = self.published.load(Ordering::Relaxed);
            self.published.store(published + 1, Ordering::Release);
            if ringer.must_ring(look(), Read32(&self.parked)) {
                self.bell.ring();
            }
        }
    }

    fn one_sender(messages: u32) {
        loom::model(move || {
            let channel = Channel::new();
            let receiver = thread::spawn({
                let channel = Arc::clone(&channel);
                move || {
                    let mut parking = Parking::default();
                    for count in 1..=messages {
                        channel.receive(&mut parking, count);
                    }
                }
            });
            let mut ringer = Ringer::default();
            for _ in 0..messages {
                channel.send(&mut ringer, publish_before_look);
            }
            receiver.join().unwrap();
        });
    }

    #[test]
    fn no_send_is_slept_through() {
        one_sender(2);
    }

    /// One message to a receiver that goes to sleep once. Whoever ends up asleep must have been rung
    /// for, or sleeps through the message.
    fn one_sleep(look: impl Fn() -> Fenced + Copy + Sync + Send + 'static) {
        loom::model(move || {
            let channel = Channel::new();
            let receiver = thread::spawn({
                let channel = Arc::clone(&channel);
                move || channel.sleep_once()
            });
            channel.send(&mut Ringer::default(), look);
            let asleep = receiver.join().unwrap();
            let bell = Read32(&channel.bell.word).load();
            assert_ne!(asleep, Some(bell), "slept through");
        });
    }

    #[test]
    fn whoever_goes_to_sleep_has_been_rung_for() {
        one_sleep(publish_before_look);
    }

    /// The model can fail: without the sender's fence it finds the lost wake-up. (So would the
    /// model with two messages, but a deadlock there aborts the whole test process.)
    #[test]
    #[should_panic(expected = "slept through")]
    fn without_the_fence_a_wake_up_is_lost() {
        one_sleep(|| Fenced(()));
    }

    /// The sender looks at the old peer's parked word (awake for ever) until it sees the swap.
    /// The successor hears what is sent meanwhile all the same.
    #[test]
    fn no_send_during_a_swap_is_slept_through() {
        loom::model(|| {
            let channel = Channel::new();
            let successor = thread::spawn({
                let channel = Arc::clone(&channel);
                move || channel.sleep_once()
            });
            let swapper = thread::spawn({
                let channel = Arc::clone(&channel);
                move || {
                    channel.swap.store(1, Ordering::Relaxed);
                    let _ = publish_before_look();
                    bump(&channel.bell.word);
                }
            });
            channel.published.store(1, Ordering::Release);
            let fenced = publish_before_look();
            if channel.swap.load(Ordering::Relaxed) != 0
                && Ringer::default().must_ring(fenced, Read32(&channel.parked))
            {
                bump(&channel.bell.word);
            }
            let asleep = successor.join().unwrap();
            swapper.join().unwrap();
            let bell = Read32(&channel.bell.word).load();
            assert_ne!(asleep, Some(bell), "slept through");
        });
    }
}
