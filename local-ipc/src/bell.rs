//! Bells: how a sleeper waits without asking the waker for anything.
//!
//! A bell is a word in its *owner's* region. The owner bumps it and wakes; everybody else can only
//! read it and sleep on it, which the kernel allows through a read-only mapping. So nobody can
//! silence a bell but its owner, who hurts only itself by that.
//!
//! A peer that is replaced rings no more. Who sleeps on its bell alone is woken by the swap itself (see
//! [`Tenure`]); each wait for several words also includes [`SUPERSEDED`], which every swap in this
//! process bumps.

use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_types::{Lane, PerLane};

use crate::half::PeerHalf;
use crate::layout;
use crate::parking::Fenced;
use crate::raw::{PeerWord32, PeerWord64};
use crate::sync::{AtomicU32, Ordering, Read32};
#[cfg(not(any(loom, shuttle)))]
use crate::sys::wait;
use crate::tenure::Tenure;

#[cfg(not(any(loom, shuttle)))]
pub(crate) use crate::sys::wait::{wake_private, wake_shared};

// Models do not sleep: a checker's words are nothing to the kernel.

/// Counts the swaps of this process. Private to it.
#[cfg(not(any(loom, shuttle)))]
static SUPERSEDED: AtomicU32 = AtomicU32::new(0);

/// How long one group of bells is waited on when there are more than fit one call. A ring in
/// another group is heard after at most this long.
const GROUP_SLICE: Duration = Duration::from_millis(1);

/// After so many wakes a swap sleeps between them: a sleeper of lower priority on the same core would not
/// run otherwise.
const YIELDING_WAKES: u32 = 64;
const WAKE_PAUSE: Duration = Duration::from_micros(50);

/// A connected peer: its half and whether another has taken its place.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) half: PeerHalf,
    bell: PeerWord32,
    /// Says whether its receiver sleeps.
    pub(crate) parked: PeerWord32,
    /// Where its sender wants to be woken.
    marks: PerLane<PeerWord64>,
    /// Ends when another takes its place.
    tenure: Tenure,
}

impl Peer {
    pub(crate) fn new(half: PeerHalf) -> Arc<Self> {
        let memory = &half.memory;
        Arc::new(Self {
            bell: memory.word32(layout::BELL_AT),
            parked: memory.word32(layout::PARKED_AT),
            marks: PerLane::from_fn(|lane| memory.word64(layout::wake_at(lane))),
            half,
            tenure: Tenure::default(),
        })
    }

    /// Makes every wait on this peer's bell return: a successor has taken its place.
    pub(crate) fn supersede(&self) {
        let mut wakes = 0;
        self.tenure.end(|| {
            wake_shared(self.bell.read().0);
            wakes += 1;
            if wakes < YIELDING_WAKES {
                std::thread::yield_now();
            } else {
                std::thread::sleep(WAKE_PAUSE);
            }
        });
        #[cfg(not(any(loom, shuttle)))]
        {
            // ORDER(superseded): Release, after the tenure ended; pairs with the acquire load in
            // `wait_words` of the count, before it looks at the bells.
            SUPERSEDED.fetch_add(1, Ordering::Release);
            wake_private(&SUPERSEDED);
        }
    }

    fn is_superseded(&self) -> bool {
        self.tenure.is_over()
    }
}

/// The bell of one peer. Keeps its mapping alive.
#[derive(Clone, Debug)]
pub struct Bell(Arc<Peer>);

impl Bell {
    pub(crate) fn of(peer: &Arc<Peer>) -> Self {
        Self(Arc::clone(peer))
    }

    /// Its value now. Read it before the last look at the rings, and wait with it.
    #[must_use]
    pub fn value(&self) -> u32 {
        // ORDER(bell): acquire; pairs with the Release in `parking::bump`.
        self.word().load()
    }

    /// Whether its owner has been replaced: it says nothing any more, ask for the current one.
    #[must_use]
    pub fn is_superseded(&self) -> bool {
        self.0.is_superseded()
    }

    /// The word itself, for who looks at many bells.
    pub(crate) fn own_word(&self) -> PeerWord32 {
        self.0.bell.clone()
    }

    fn word(&self) -> Read32<'_> {
        self.0.bell.read()
    }

    fn differs(&self, seen: u32) -> bool {
        self.is_superseded() || self.value() != seen
    }
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wait {
    /// The bell at this place has another value than was given, or its owner was replaced.
    Rung(usize),
    /// The time is over.
    TimedOut,
}

/// Sleeps until one of `bells` has another value than the one given with it, or is superseded.
///
/// No ring is missed: the kernel compares the values when it puts the thread to sleep. More than
/// 127 bells are waited on in turns, and a ring may then be noticed a millisecond late.
/// Without bells it waits for a swap or the time.
#[cfg(not(any(loom, shuttle)))]
#[must_use]
pub fn wait_any(bells: &[(Bell, u32)], timeout: Option<Duration>) -> Wait {
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    match bells {
        [(bell, seen)] => wait_one(bell, *seen, deadline),
        _ => wait_words(bells, None, deadline),
    }
}

/// [`wait_any`] for a single bell: `futex` costs half of what `futex_waitv` does.
#[cfg(not(any(loom, shuttle)))]
fn wait_one(bell: &Bell, seen: u32, deadline: Option<Instant>) -> Wait {
    loop {
        let sleeper = bell.0.tenure.sleeper();
        if sleeper.is_none() || bell.value() != seen {
            return Wait::Rung(0);
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            return Wait::TimedOut;
        }
        wait::sleep_on(bell.word().0, seen, left, || bell.is_superseded());
    }
}

/// As [`wait_any`]; `note`, a word of this process, ends the wait as `TimedOut` too if it differs
/// from the value given.
#[cfg(not(any(loom, shuttle)))]
pub(crate) fn wait_words(
    bells: &[(Bell, u32)],
    note: Option<(&AtomicU32, u32)>,
    deadline: Option<Instant>,
) -> Wait {
    let own_words = 1 + usize::from(note.is_some());
    let group_size = wait::MOST_WORDS - own_words;
    let mut group = 0;
    loop {
        // ORDER(superseded): acquire; a swap after this load changes the word we sleep on.
        let swaps = SUPERSEDED.load(Ordering::Acquire);
        if let Some(place) = bells.iter().position(|(bell, seen)| bell.differs(*seen)) {
            return Wait::Rung(place);
        }
        // ORDER(note): acquire; pairs with the Release of who changes it.
        if note.is_some_and(|(word, seen)| word.load(Ordering::Acquire) != seen) {
            return Wait::TimedOut;
        }
        let now = Instant::now();
        let mut left = match deadline.map(|deadline| deadline.saturating_duration_since(now)) {
            Some(Duration::ZERO) => return Wait::TimedOut,
            left => left,
        };
        let groups = bells.len().div_ceil(group_size).max(1);
        if groups > 1 {
            left = Some(left.unwrap_or(GROUP_SLICE).min(GROUP_SLICE));
        }
        let here = bells
            .chunks(group_size)
            .nth(group % groups)
            .unwrap_or_default();
        group = group.wrapping_add(1);

        let private = std::iter::once((&SUPERSEDED, swaps))
            .chain(note)
            .map(|(word, value)| wait::private(word, value));
        let shared = here
            .iter()
            .map(|(bell, value)| wait::shared(bell.word().0, *value));
        let words: Vec<_> = private.chain(shared).collect();
        wait::sleep(&words, left);
    }
}

/// In a model nobody sleeps.
#[cfg(any(loom, shuttle))]
pub(crate) fn wake_shared(_: &AtomicU32) {}

/// The mark at which a peer wants to be rung, as the raw word: a sequence plus one, or 0.
#[inline]
pub(crate) fn wake_mark(_: Fenced, peer: &Peer, lane: Lane) -> u64 {
    peer.marks[lane].read().load()
}
