//! Sleeping on words of memory: futexes, which work through a read-only mapping too.

use std::time::Duration;

use rustix::io::Errno;
use rustix::thread::futex::{self, ClockId, Timespec, WaitFlags, WaitPtr, WaitvFlags};

use crate::sync::AtomicU32;

/// The most words of one [`sleep`].
pub(crate) const MOST_WORDS: usize = 128;

/// How long to sleep at most when the kernel refuses a wait.
const REFUSED_NAP: Duration = Duration::from_millis(1);

/// Sleep as long as a word of this process alone has a value. Keep the word alive until then.
pub(crate) fn private(word: &AtomicU32, value: u32) -> futex::Wait {
    entry(word, value, WaitFlags::PRIVATE)
}

/// Sleep as long as a word of a region, which another process may write, has a value. Keep the word
/// alive until then.
pub(crate) fn shared(word: &AtomicU32, value: u32) -> futex::Wait {
    entry(word, value, WaitFlags::empty())
}

fn entry(word: &AtomicU32, value: u32, flags: WaitFlags) -> futex::Wait {
    let mut wait = futex::Wait::new();
    wait.val = u64::from(value);
    wait.uaddr = WaitPtr::new(word.as_ptr().cast());
    wait.flags = WaitFlags::SIZE_U32 | flags;
    wait
}

/// Returns when a word differs or is woken, when the time is over, or for no reason. The kernel compares
/// the values when it puts the thread to sleep, so that no wake is missed.
pub(crate) fn sleep(words: &[futex::Wait], left: Option<Duration>) {
    let until = left.map(|left| {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        now.checked_add(timespec(left)).unwrap_or(Timespec {
            tv_sec: i64::MAX,
            tv_nsec: 0,
        })
    });
    match futex::waitv(
        words,
        WaitvFlags::empty(),
        until.as_ref(),
        ClockId::Monotonic,
    ) {
        Ok(_) | Err(Errno::AGAIN | Errno::TIMEDOUT | Errno::INTR) => {}
        // No memory for the wait, or a kernel without it: never spin, never miss.
        Err(_) => std::thread::sleep(left.unwrap_or(REFUSED_NAP).min(REFUSED_NAP)),
    }
}

/// As [`sleep`] on one word of a region: half the price. Whoever says that something is over wakes as
/// well, so the kernel need not be told of that.
pub(crate) fn sleep_on(
    word: &AtomicU32,
    value: u32,
    left: Option<Duration>,
    _is_over: impl Fn() -> bool,
) {
    let left_spec = left.map(timespec);
    match futex::wait(word, futex::Flags::empty(), value, left_spec.as_ref()) {
        Ok(()) | Err(Errno::AGAIN | Errno::TIMEDOUT | Errno::INTR) => {}
        // As above.
        Err(_) => std::thread::sleep(left.unwrap_or(REFUSED_NAP).min(REFUSED_NAP)),
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

/// Wakes all who sleep on a word of a shared region.
pub(crate) fn wake_shared(word: &AtomicU32) {
    // The only errors are bad addresses, and this one is a live reference.
    let _ = futex::wake(word, futex::Flags::empty(), i32::MAX as u32);
}

/// Wakes all threads of this process that sleep on a word of its own.
pub(crate) fn wake_private(word: &AtomicU32) {
    let _ = futex::wake(word, futex::Flags::PRIVATE, i32::MAX as u32);
}
