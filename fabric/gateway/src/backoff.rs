//! How long to wait before trying again.

use std::time::Duration;

/// Waits that double from one to the next, up to a bound, each shortened at random by up to a
/// half: nodes that lost each other at one moment do not come back at one moment.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    first: Duration,
    most: Duration,
}

impl Backoff {
    pub(crate) const fn new(first: Duration, most: Duration) -> Self {
        Self {
            next: first,
            first,
            most,
        }
    }

    pub(crate) fn wait(&mut self) -> Duration {
        let full = self.next;
        self.next = (full * 2).min(self.most);
        full.mul_f64(1.0 - jitter() / 2.0)
    }

    /// The longest that the next wait can take.
    pub(crate) const fn full(&self) -> Duration {
        self.next
    }

    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

/// A number from 0 to 1. Not secret; a machine without random numbers waits the full time.
fn jitter() -> f64 {
    let mut byte = [0; 2];
    match getrandom::fill(&mut byte) {
        Ok(()) => f64::from(u16::from_le_bytes(byte)) / f64::from(u16::MAX),
        Err(_) => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_their_bound_and_start_over() {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(40));
        for full in [10, 20, 40, 40] {
            let wait = backoff.wait();
            let full = Duration::from_millis(full);
            assert!(wait <= full && wait * 2 >= full, "{wait:?} of {full:?}");
        }
        backoff.reset();
        assert!(backoff.wait() <= Duration::from_millis(10));
    }
}
