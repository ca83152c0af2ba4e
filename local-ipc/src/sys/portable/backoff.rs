//! How often to look.

use std::time::{Duration, Instant};

/// So many looks give up the core in between and no more.
const YIELDS: u32 = 32;
/// The first nap after them. Each next one is a quarter longer.
const SHORTEST: Duration = Duration::from_micros(20);
/// The longest nap: how late a ring may be heard, and one over the looks that an idle wait costs.
const LONGEST: Duration = Duration::from_millis(4);

/// Looks again and again until `look` says yes or the time is over. Whether it said yes.
pub(super) fn look_until(left: Option<Duration>, mut look: impl FnMut() -> bool) -> bool {
    // A time that is too far away to be one is never over.
    let deadline = left.and_then(|left| Instant::now().checked_add(left));
    let mut looks = 0;
    let mut nap = SHORTEST;
    loop {
        if look() {
            return true;
        }
        let now = Instant::now();
        let left = deadline.map(|deadline| deadline.saturating_duration_since(now));
        if left == Some(Duration::ZERO) {
            return false;
        }
        if looks < YIELDS {
            looks += 1;
            std::thread::yield_now();
        } else {
            std::thread::sleep(left.map_or(nap, |left| left.min(nap)));
            nap = (nap + nap / 4).min(LONGEST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_become_rare_and_end_with_the_time() {
        let time = Duration::from_millis(200);
        let (begin, mut looks) = (Instant::now(), 0);
        let found = look_until(Some(time), || {
            looks += 1;
            false
        });
        assert!(!found && begin.elapsed() >= time);
        // The naps that grow take 20 ms, the others 4 ms each.
        assert!(looks < 2 * YIELDS + 80, "{looks} looks");
    }

    #[test]
    fn what_is_there_already_is_found_without_time() {
        assert!(look_until(Some(Duration::ZERO), || true));
        assert!(!look_until(Some(Duration::ZERO), || false));
        let mut looks = 0;
        assert!(look_until(None, || {
            looks += 1;
            looks == 50
        }));
    }
}
