//! How an inbox waits: it looks, naps, or parks everybody and sleeps until somebody rings.

use std::time::{Duration, Instant};

use super::{Engine, Found};
use crate::inbox::take::Take;
use crate::sync::Ordering;

/// How many bells are looked at each time while there is nothing else to do.
const IDLE_COLD_LOOKS: usize = 64;

impl<K> Engine<K> {
    /// Waits for the next event. `None` when the time is over or after a nudge.
    #[cold]
    pub(in crate::inbox) fn wait(
        &mut self,
        take: &mut impl Take<K>,
        timeout: Option<Duration>,
    ) -> Option<Found<K>> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let mut found = None;
            let mut waiter = std::mem::take(&mut self.waiter);
            let looked = waiter.look(|| {
                self.sweep(IDLE_COLD_LOOKS);
                found = self.poll(take);
                found.is_some() || self.is_nudged()
            });
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if let Err(waited) = looked
                && left != Some(Duration::ZERO)
            {
                match waiter.nap(left) {
                    Some(nap) => std::thread::sleep(nap),
                    None => {
                        self.sleep(deadline);
                        waited.slept(&mut waiter);
                    }
                }
                self.sweep(self.cold.len());
                found = self.poll(take);
            }
            if found.is_some() {
                waiter.found();
            }
            self.waiter = waiter;
            if found.is_some() {
                return found;
            }
            if self.take_nudge() || left == Some(Duration::ZERO) {
                return None;
            }
        }
    }

    /// Parks everybody, looks at every bell once more, and sleeps if there is nothing.
    fn sleep(&mut self, deadline: Option<Instant>) {
        // ORDER(note): acquire; a later nudge changes the word that is slept on.
        let nudges = self.alarm.notes.nudges.load(Ordering::Acquire);
        while let Some(&index) = self.hot.last() {
            if !self.cool(index) {
                return;
            }
        }
        if self.alarm.needs_listeners(self.cold.len()) && !self.have_all_listened_to() {
            // No thread to be had: look again soon.
            std::thread::sleep(Duration::from_millis(1));
            return;
        }
        self.alarm.settle();
        self.sweep(self.cold.len());
        let nothing = self.hot.is_empty()
            && self.leaving.is_empty()
            && nudges == self.nudged
            && !self.alarm.notes.is_swapped();
        if nothing {
            let heard = self.alarm.sleep(&self.cold, nudges, deadline);
            self.heard(heard);
        }
    }

    /// Whether every bell without a doorbell has somebody who listens to it, from now on.
    fn have_all_listened_to(&mut self) -> bool {
        for member in self.members.iter_mut().flatten() {
            if member.doorbell.is_none() && member.listening.is_none() {
                let swapper = crate::swap::Swapper::of(member.receiver.shared());
                match self.alarm.listen(&swapper) {
                    Ok(listening) => member.listening = Some(listening),
                    Err(_) => return false,
                }
            }
        }
        true
    }

    fn is_nudged(&self) -> bool {
        // ORDER(note): acquire; pairs with the Release in `Notes::nudge`.
        self.alarm.notes.nudges.load(Ordering::Acquire) != self.nudged
    }

    fn take_nudge(&mut self) -> bool {
        // ORDER(note): as in `is_nudged`.
        let nudges = self.alarm.notes.nudges.load(Ordering::Acquire);
        std::mem::replace(&mut self.nudged, nudges) != nudges
    }
}
