//! One thread that listens to many bells, for runtimes that cannot sleep on them themselves.
//!
//! It tells what happened and does nothing about it: the callback wakes whoever owns the receiver.
//! It follows swaps, and looks for hang-ups of the side sockets now and then, because a process
//! that died rings no bell.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::bell::{self, Bell, Wait};
use crate::swap::Swapper;
use crate::sync::{AtomicU32, Ordering};
use crate::sys::BorrowedFd;
use crate::sys::side::Watched as Side;

/// A hang-up is noticed after at most this long.
const HANG_UP_EVERY: Duration = Duration::from_millis(50);

/// What a watched channel has to say.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ring {
    /// The peer rang, or another peer took its place: look at the rings and cursors.
    Bell,
    /// The side socket's other end is closed. Said once.
    HangUp,
}

/// A watched channel.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct WatchId(u64);

type OnRing = Arc<dyn Fn(Ring) + Send + Sync>;

/// Listens to the bells of many channels on one thread. Dropping it stops and joins the thread.
#[derive(Debug)]
pub struct Watcher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    registry: Mutex<Registry>,
    /// Bumped whenever the registry changes; the thread sleeps on it too.
    note: AtomicU32,
}

#[derive(Debug, Default)]
struct Registry {
    next: u64,
    stopping: bool,
    /// Channels that the thread has not seen yet.
    added: Vec<(u64, Watched)>,
    removed: Vec<u64>,
}

struct Watched {
    swapper: Swapper,
    bell: Bell,
    seen: u32,
    /// `Some(None)` if it could not be copied.
    side: Option<Option<Side>>,
    on_ring: OnRing,
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched")
            .field("swapper", &self.swapper)
            .finish_non_exhaustive()
    }
}

impl Watcher {
    /// Starts the thread under this name.
    ///
    /// # Errors
    ///
    /// If the system starts no thread.
    pub fn start(name: &str) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || run(&shared)
        })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Calls `on_ring`, on the watcher's thread, whenever the channel's current peer rings after
    /// this call. `side` is looked at for its hang-up; the watcher uses a copy of it.
    ///
    /// Park and look at the rings *after* this call, then nothing is missed. The callback must be
    /// quick. If it panics, the watcher goes on.
    ///
    /// If the process has no descriptor left for the copy, the side counts as hung up: better a
    /// channel closed than a death unnoticed.
    #[must_use = "a watch that nobody can end goes on"]
    pub fn watch(
        &self,
        swapper: &Swapper,
        side: Option<BorrowedFd<'_>>,
        on_ring: OnRing,
    ) -> WatchId {
        let side = side.map(|side| Side::of(side).ok());
        let bell = swapper.bell();
        let watched = Watched {
            swapper: swapper.clone(),
            seen: bell.value(),
            bell,
            side,
            on_ring,
        };
        let id = {
            let mut registry = self.shared.lock();
            registry.next += 1;
            let id = registry.next;
            registry.added.push((id, watched));
            id
        };
        self.shared.tell();
        WatchId(id)
    }

    /// Ends a watch soon; a callback that runs now, or is about to, still ends.
    pub fn unwatch(&self, id: WatchId) {
        self.shared.lock().removed.push(id.0);
        self.shared.tell();
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.lock().stopping = true;
        self.shared.tell();
        if let Some(thread) = self.thread.take()
            // A callback may hold the last reference: a thread cannot wait for itself.
            && thread.thread().id() != std::thread::current().id()
        {
            // It catches all panics of callbacks, and has none of its own to tell of.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Nothing panics while it holds the lock.
    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        // ORDER(note): Release; pairs with the acquire loads in `run` and `wait_words`.
        self.note.fetch_add(1, Ordering::Release);
        bell::wake_private(&self.note);
    }
}

fn run(shared: &Shared) {
    let mut watched: BTreeMap<u64, Watched> = BTreeMap::new();
    let mut next_look = Instant::now() + HANG_UP_EVERY;
    loop {
        // ORDER(note): acquire, before the registry is read: a later change wakes us again.
        let note = shared.note.load(Ordering::Acquire);
        {
            let mut registry = shared.lock();
            if registry.stopping {
                return;
            }
            watched.extend(registry.added.drain(..));
            for id in registry.removed.drain(..) {
                watched.remove(&id);
            }
        }
        watched.values_mut().for_each(listen);
        let now = Instant::now();
        if now >= next_look {
            watched.values_mut().for_each(look_for_hang_up);
            next_look = now + HANG_UP_EVERY;
        }
        let bells: Vec<(Bell, u32)> = watched
            .values()
            .map(|watched| (watched.bell.clone(), watched.seen))
            .collect();
        let any_side = watched.values().any(|watched| watched.side.is_some());
        let deadline = any_side.then_some(next_look);
        match bell::wait_words(&bells, Some((&shared.note, note)), deadline) {
            Wait::Rung(_) | Wait::TimedOut => {}
        }
    }
}

fn listen(watched: &mut Watched) {
    let superseded = watched.bell.is_superseded();
    if superseded {
        watched.bell = watched.swapper.bell();
    }
    let value = watched.bell.value();
    if superseded || value != watched.seen {
        watched.seen = value;
        tell(&watched.on_ring, Ring::Bell);
    }
}

fn look_for_hang_up(watched: &mut Watched) {
    if let Some(side) = &watched.side
        && side.as_ref().is_none_or(Side::has_hung_up)
    {
        watched.side = None;
        tell(&watched.on_ring, Ring::HangUp);
    }
}

fn tell(on_ring: &OnRing, ring: Ring) {
    // The panic hook has printed it already; the other channels need this thread.
    let _ = catch_unwind(AssertUnwindSafe(|| on_ring(ring)));
}
