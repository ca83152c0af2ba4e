//! How long it pays to spin: learnt from how long recent waits took.
//!
//! A wait that spins for `b` costs its own length if it ends within `b`, else `b` and a wake on top.
//! From the lengths of recent waits, sorted into a few classes, the cheapest `b` follows by trying all
//! of them. So a receiver that is sent to every 3 µs spins for about that long, one that is sent to
//! every millisecond does not spin at all.
//!
//! One thing the lengths do not show: where sender and receiver share a core, a wait that sleeps is
//! short and one that spins never ends. What gives that away is spins that keep failing; then
//! spinning is barred for a while, twice as long each time that it fails again.
//!
//! No clock here: a `crate::Waiter` measures, this decides.

use std::time::Duration;

/// How long it takes across cores from a ring until a sleeper runs, in µs; see `spin`. At times it is
/// four times as long.
const WAKE_MICROS: u64 = 20;

/// What a wake is taken to cost, in µs of spinning: the sleeper's wait, the waker's system call, and that
/// of two sides that sleep each waits for the other's wake. It has to be more than the longest bound:
/// else both would go on sleeping through waits that are only as long because they sleep.
const WAKE_PRICE: u64 = 60;

/// The bounds to choose from, in µs. The last is the most that is ever spun.
const BOUNDS: [u64; 8] = [0, 1, 2, 4, 8, 16, 32, 50];

/// Waits counted before their weight is halved: the memory of this is about that long.
const MEMORY: u32 = 64;

/// After so many spins that succeeded the bound is chosen anew.
const RECONSIDER: u32 = 8;

/// So many spins in a row that found nothing bar further ones.
const FUTILE: u32 = 8;

/// For how many waits they are barred at first, and at most.
const BAR: u32 = 64;
const LONGEST_BAR: u32 = 1 << 16;

/// What recent waits taught.
#[derive(Clone, Debug)]
pub(crate) struct Learner {
    /// How many waits took longer than `BOUNDS[i]` and at most `BOUNDS[i + 1]`; the last: longer
    /// than all.
    classes: [u32; BOUNDS.len()],
    /// How many there are in all classes.
    counted: u32,
    /// Which bound is the cheapest.
    best: usize,
    futile: u32,
    barred: u32,
    next_bar: u32,
}

impl Default for Learner {
    /// Knows nothing, and spins for somewhat longer than a wake takes.
    fn default() -> Self {
        Self {
            classes: [0; BOUNDS.len()],
            counted: 0,
            best: BOUNDS.len() - 2,
            futile: 0,
            barred: 0,
            next_bar: BAR,
        }
    }
}

impl Learner {
    /// How long the next wait should spin.
    pub(crate) fn bound(&self) -> Duration {
        if self.barred > 0 {
            Duration::ZERO
        } else {
            Duration::from_micros(BOUNDS[self.best])
        }
    }

    /// Spinning fails here, whatever the lengths say: better give up the core.
    pub(crate) fn is_barred(&self) -> bool {
        self.barred > 0
    }

    /// A wait ended while it spun.
    pub(crate) fn spun(&mut self, length: Duration) {
        self.futile = 0;
        self.next_bar = BAR;
        self.count(length, true);
    }

    /// A wait spun for `spun` in vain (or not at all) and ended after `length` in all.
    pub(crate) fn slept(&mut self, spun: Duration, length: Duration) {
        if self.barred > 0 {
            self.barred -= 1;
        } else if !spun.is_zero() {
            self.futile += 1;
            if self.futile >= FUTILE && self.best > 0 {
                self.barred = self.next_bar;
                self.next_bar = (self.next_bar * 2).min(LONGEST_BAR);
                self.futile = 0;
            }
        }
        // What was waited for came about one wake before we ran, and after the spin.
        let came = length.saturating_sub(Duration::from_micros(WAKE_MICROS));
        let at_least = if spun.is_zero() {
            spun
        } else {
            spun + Duration::from_nanos(1)
        };
        self.count(came.max(at_least), false);
    }

    fn count(&mut self, length: Duration, spun: bool) {
        let micros = length.as_nanos().div_ceil(1000);
        let class = BOUNDS[1..]
            .iter()
            .position(|&bound| micros <= u128::from(bound))
            .unwrap_or(BOUNDS.len() - 1);
        self.classes[class] += 1;
        self.counted += 1;
        if self.counted > MEMORY {
            self.classes.iter_mut().for_each(|count| *count /= 2);
            self.counted = self.classes.iter().sum();
        }
        // A choice that has just succeeded may wait to be improved: choosing costs as much as a look.
        if spun && !self.counted.is_multiple_of(RECONSIDER) {
            return;
        }
        self.best = (0..BOUNDS.len())
            .min_by_key(|&bound| self.cost(bound))
            .unwrap_or_default();
    }

    /// What the counted waits would have cost with this bound, in µs.
    fn cost(&self, bound: usize) -> u64 {
        let cost = |(class, &count): (usize, &u32)| {
            let each = if class < bound {
                BOUNDS[class + 1]
            } else {
                BOUNDS[bound] + WAKE_PRICE
            };
            u64::from(count) * each
        };
        self.classes.iter().enumerate().map(cost).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICRO: Duration = Duration::from_micros(1);

    /// A world in which each wait is over after `comes`, and a wake costs 20 µs.
    fn wait(learner: &mut Learner, comes: Duration) -> Duration {
        let bound = learner.bound();
        if comes <= bound {
            learner.spun(comes);
        } else {
            learner.slept(bound, comes + 20 * MICRO);
        }
        bound
    }

    fn settle(learner: &mut Learner, comes: Duration) -> Duration {
        let last = (0..1000).map(|_| wait(learner, comes)).last();
        last.unwrap_or_default()
    }

    #[test]
    fn short_waits_are_spun_through_and_no_longer_than_they_take() {
        let mut learner = Learner::default();
        assert_eq!(settle(&mut learner, 3 * MICRO), 4 * MICRO);
        assert_eq!(settle(&mut learner, MICRO / 2), MICRO);
        assert_eq!(settle(&mut learner, 15 * MICRO), 16 * MICRO);
    }

    #[test]
    fn long_waits_are_not_spun_for_at_all() {
        let mut learner = Learner::default();
        assert_eq!(settle(&mut learner, 1000 * MICRO), Duration::ZERO);
        assert_eq!(settle(&mut learner, 60 * MICRO), Duration::ZERO);
    }

    #[test]
    fn a_change_is_noticed_both_ways_without_spinning_for_it() {
        let mut learner = Learner::default();
        for _ in 0..3 {
            assert_eq!(settle(&mut learner, 1000 * MICRO), Duration::ZERO);
            assert_eq!(settle(&mut learner, 5 * MICRO), 8 * MICRO);
        }
    }

    /// Each side waits for the other, which takes a wake to answer if it sleeps.
    #[test]
    fn two_sides_that_both_sleep_come_to_spin() {
        let mut sides = [Learner::default(), Learner::default()];
        for side in &mut sides {
            assert_eq!(settle(side, 1000 * MICRO), Duration::ZERO);
        }
        let wake = 22 * MICRO;
        let (mut now, mut began) = (Duration::ZERO, [Duration::ZERO; 2]);
        for turn in 0..2_000 {
            let side = &mut sides[turn % 2];
            let waited = now - began[turn % 2];
            let bound = side.bound();
            if waited <= bound {
                side.spun(waited);
            } else {
                now += wake;
                side.slept(bound, waited + wake);
            }
            now += MICRO / 10;
            began[turn % 2] = now;
        }
        for side in &sides {
            assert!(
                (MICRO..=2 * MICRO).contains(&side.bound()),
                "{:?}",
                side.bound()
            );
        }
    }

    #[test]
    fn a_few_long_waits_among_short_ones_do_not_end_the_spinning() {
        let mut learner = Learner::default();
        for round in 0..1000 {
            let comes = if round % 10 == 0 { 1000 } else { 2 };
            wait(&mut learner, comes * MICRO);
        }
        assert!(learner.bound() >= 2 * MICRO);
    }

    #[test]
    fn where_spins_never_succeed_they_die_out() {
        let mut learner = Learner::default();
        // On a shared core: whoever sleeps is served at once, whoever spins is not.
        let mut spun = Duration::ZERO;
        let waits = 10_000;
        for _ in 0..waits {
            let bound = learner.bound();
            spun += bound;
            learner.slept(bound, bound + 3 * MICRO);
        }
        assert!(spun / waits < MICRO / 4, "{spun:?} in {waits} waits");
    }

    #[test]
    fn once_spins_succeed_again_they_come_back() {
        let mut learner = Learner::default();
        for _ in 0..200 {
            let bound = learner.bound();
            learner.slept(bound, bound + 3 * MICRO);
        }
        assert_eq!(settle(&mut learner, 3 * MICRO), 4 * MICRO);
    }
}
