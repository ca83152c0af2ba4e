//! Sleeping on words of memory, by looking at them. Nobody is woken: a look sees what has changed, and
//! comes after some milliseconds at most.

use std::time::Duration;

use super::backoff;
use crate::sync::{AtomicU32, Read32};

/// The most words of one [`sleep`]: more than an inbox has bells.
pub(crate) const MOST_WORDS: usize = 1 << 16;

/// Sleep as long as a word has a value.
#[derive(Clone, Copy)]
pub(crate) struct Word<'a> {
    word: Read32<'a>,
    value: u32,
}

/// Of a word of this process alone.
pub(crate) fn private(word: &AtomicU32, value: u32) -> Word<'_> {
    let word = Read32(word);
    Word { word, value }
}

/// Of a word of a region, which another process may write.
pub(crate) fn shared(word: &AtomicU32, value: u32) -> Word<'_> {
    private(word, value)
}

/// Returns when a word differs or the time is over.
pub(crate) fn sleep(words: &[Word<'_>], left: Option<Duration>) {
    backoff::look_until(left, || {
        let differs = |word: &Word<'_>| word.word.load() != word.value;
        words.iter().any(differs)
    });
}

/// As [`sleep`] on one word of a region, and until something else is over.
pub(crate) fn sleep_on(
    word: &AtomicU32,
    value: u32,
    left: Option<Duration>,
    is_over: impl Fn() -> bool,
) {
    backoff::look_until(left, || Read32(word).load() != value || is_over());
}

/// Nothing to be done: who sleeps on a word of a shared region looks at it.
pub(crate) fn wake_shared(_: &AtomicU32) {}

/// Nothing to be done, as for [`wake_shared`].
pub(crate) fn wake_private(_: &AtomicU32) {}
