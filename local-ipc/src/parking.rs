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

/// Puts what was just stored before what is looked at next, in the one order that all agree on.
pub(crate) fn publish_before_look() {
    // ORDER(parked): full fence between publishing (a slot, a cursor, a swap) and looking.
    fence(Ordering::SeqCst);
}

/// The sender's side: which sleep it has rung for.
#[derive(Debug, Default)]
pub(crate) struct Ringer {
    answered: u32,
}

impl Ringer {
    /// Whether to ring now. To be asked after publishing and [`publish_before_look`].
    pub(crate) fn must_ring(&mut self, parked: Read32<'_>) -> bool {
        let generation = parked.load();
        let asleep = generation != AWAKE;
        let new = generation != self.answered || generation == PARKED_ALWAYS;
        self.answered = generation;
        asleep && new
    }
}

/// Bumps a bell. The caller then wakes who waits on it.
pub(crate) fn bump(bell: &AtomicU32) {
    // ORDER(bell): Release; pairs with the acquire load of the bell in `Bell::value`. Who sees the
    // new value also sees what was published before it. A read-modify-write because several
    // threads of the owner may ring.
    bell.fetch_add(1, Ordering::Release);
}
