//! How long to look before going to sleep.

use std::time::{Duration, Instant};

/// About what a wake costs across cores. Spinning this long is never worse than twice the best
/// choice: whoever sleeps at once pays the wake, whoever waits longer could have slept.
const SPIN_FOR: Duration = Duration::from_micros(20);

/// Looks between two readings of the clock, which costs as much as a few looks.
const LOOKS_A_READING: u32 = 16;

/// A bounded spin: `while spin.again() { look }`, then park.
#[derive(Clone, Debug)]
pub struct Spin {
    bound: Duration,
    end: Option<Instant>,
    looks: u32,
}

impl Spin {
    /// A spin of about 20 µs.
    #[must_use]
    pub fn new() -> Self {
        Self::lasting(SPIN_FOR)
    }

    /// A spin of another length; zero looks once.
    #[must_use]
    pub fn lasting(bound: Duration) -> Self {
        Self {
            bound,
            end: None,
            looks: 0,
        }
    }

    /// Whether to look once more. Pauses a little between looks.
    pub fn again(&mut self) -> bool {
        self.looks = self.looks.wrapping_add(1);
        if !self.looks.is_multiple_of(LOOKS_A_READING) && (self.looks > 1 && !self.bound.is_zero())
        {
            std::hint::spin_loop();
            return true;
        }
        let now = Instant::now();
        match self.end {
            None => {
                self.end = now.checked_add(self.bound);
                true
            }
            Some(end) => now < end,
        }
    }

    /// Starts over: something was found.
    pub fn reset(&mut self) {
        self.end = None;
        self.looks = 0;
    }
}

impl Default for Spin {
    fn default() -> Self {
        Self::new()
    }
}
