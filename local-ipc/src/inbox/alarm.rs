//! What an inbox sleeps on.
//!
//! A futex wait takes at most 128 words, so there are two ways. Few bells: `futex_waitv` on all of
//! them. Many, or members with a [`Doorbell`]: one epoll, in which each doorbell stands by itself; bells
//! without one are listened to by threads (one for each [`BELLS_A_LISTENER`]) that signal an event of
//! ours. Going round the bells in groups instead would cost a wake each millisecond while nothing
//! happens; threads that sleep cost nothing, and one more thread to wake when something does.
//!
//! Descriptors at which hang-ups are heard stand in the epoll too. An inbox that sleeps on futexes
//! looks at them every [`HANG_UP_EVERY`].

use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::cold::Cold;
use crate::bell::{self, Bell};
use crate::swap::Swapper;
use crate::sync::{AtomicU32, Ordering};
use crate::sys::doorbell::Doorbell;
use crate::sys::poller::{Event, Poller};
use crate::sys::{BorrowedFd, Heard, wait};
use crate::watcher::{Ring, WatchId, Watcher};

/// The most bells that are slept on directly: two of the words are our own.
pub(super) const MOST_BELLS: usize = wait::MOST_WORDS - 2;

/// How many bells one listening thread has. As many as fit its one wait, with its own two words.
const BELLS_A_LISTENER: usize = MOST_BELLS;

/// How late a hang-up is heard by an inbox that sleeps on futexes.
const HANG_UP_EVERY: Duration = Duration::from_millis(50);

/// What other threads have to say to an inbox.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Bumped by each nudge; slept on where there is no epoll.
    pub(super) nudges: AtomicU32,
    swapped: AtomicBool,
    /// Readable once somebody wants us to look.
    event: OnceLock<Event>,
}

impl Notes {
    pub(super) fn nudge(&self) {
        // ORDER(note): Release; pairs with the acquire loads in `Inbox::was_nudged` and
        // `bell::wait_words`.
        self.nudges.fetch_add(1, Ordering::Release);
        bell::wake_private(&self.nudges);
        self.signal();
    }

    pub(super) fn swap(&self) {
        // ORDER(superseded): Release; pairs with the acquire in `take_swapped`. The futex sleeper is
        // woken by `Peer::supersede`.
        self.swapped.store(true, Ordering::Release);
        self.signal();
    }

    /// Whether the peer of some member was swapped since the last call.
    #[inline]
    pub(super) fn take_swapped(&self) -> bool {
        // ORDER(superseded): Acquire; pairs with the Release in `swap`.
        self.is_swapped() && self.swapped.swap(false, Ordering::Acquire)
    }

    #[inline]
    pub(super) fn is_swapped(&self) -> bool {
        // ORDER(superseded): Relaxed; whoever acts on it takes it with `take_swapped`. Before a sleep
        // it comes after `settle`, which a swap that it does not see will undo.
        self.swapped.load(Ordering::Relaxed)
    }

    fn signal(&self) {
        if let Some(event) = self.event.get() {
            event.signal();
        }
    }
}

#[derive(Debug)]
pub(super) struct Alarm {
    pub(super) notes: Arc<Notes>,
    poller: Option<Poller>,
    listeners: Vec<Listener>,
    sides: usize,
    doorbells: usize,
}

#[derive(Debug)]
struct Listener {
    watcher: Watcher,
    bells: usize,
}

/// A bell that a listener has.
#[derive(Debug)]
pub(super) struct Listening {
    listener: usize,
    id: WatchId,
}

impl Alarm {
    pub(super) fn new() -> Self {
        Self {
            notes: Arc::default(),
            poller: None,
            listeners: Vec::new(),
            sides: 0,
            doorbells: 0,
        }
    }

    pub(super) fn add_doorbell(&mut self, doorbell: &Doorbell, index: u32) -> io::Result<()> {
        self.poller()?.add_doorbell(doorbell, index)?;
        self.doorbells += 1;
        Ok(())
    }

    pub(super) fn add_side(&mut self, side: BorrowedFd<'_>, index: u32) -> io::Result<()> {
        self.poller()?.add_side(side, index)?;
        self.sides += 1;
        Ok(())
    }

    pub(super) fn remove_doorbell(&mut self, doorbell: &Doorbell, index: u32) {
        self.doorbells -= 1;
        if let Some(poller) = &mut self.poller {
            poller.remove_doorbell(doorbell, index);
        }
    }

    pub(super) fn remove_side(&mut self, side: BorrowedFd<'_>, index: u32) {
        self.sides -= 1;
        if let Some(poller) = &mut self.poller {
            poller.remove_side(side, index);
        }
    }

    fn poller(&mut self) -> io::Result<&mut Poller> {
        if self.poller.is_none() {
            let event = Event::new()?;
            let event = self.notes.event.get_or_init(|| event);
            self.poller = Some(Poller::new(event)?);
        }
        Ok(self.poller.as_mut().expect("made above"))
    }

    /// Whether the next sleep is in the poller, so that each bell needs a doorbell or a listener.
    pub(super) fn needs_listeners(&self, bells: usize) -> bool {
        self.doorbells > 0 || bells > MOST_BELLS
    }

    /// Has a thread listen to this bell. Look at the bell once more afterwards.
    pub(super) fn listen(&mut self, swapper: &Swapper) -> io::Result<Listening> {
        self.poller()?;
        let free = self
            .listeners
            .iter()
            .position(|listener| listener.bells < BELLS_A_LISTENER);
        let listener = match free {
            Some(place) => place,
            None => {
                let watcher = Watcher::start("weft-listener")?;
                self.listeners.push(Listener { watcher, bells: 0 });
                self.listeners.len() - 1
            }
        };
        let notes = Arc::clone(&self.notes);
        let Listener { watcher, bells } = &mut self.listeners[listener];
        *bells += 1;
        let id = watcher.watch(
            swapper,
            None,
            Arc::new(move |ring| match ring {
                Ring::Bell | Ring::HangUp => notes.signal(),
            }),
        );
        Ok(Listening { listener, id })
    }

    pub(super) fn listen_no_more(&mut self, listening: &Listening) {
        let listener = &mut self.listeners[listening.listener];
        listener.bells -= 1;
        listener.watcher.unwatch(listening.id);
    }

    /// Forgets that somebody wanted us to look, before the looks that come now.
    pub(super) fn settle(&self) {
        if let Some(event) = self.notes.event.get() {
            event.settle();
        }
    }

    /// Sleeps until a bell of `cold` rings, somebody knocks, nudges, hangs up or is swapped, or the
    /// time is over. May return for no reason.
    pub(super) fn sleep(&self, cold: &Cold, nudges: u32, deadline: Option<Instant>) -> Vec<Heard> {
        match &self.poller {
            Some(poller) if self.needs_listeners(cold.len()) => poller.hear(left(deadline)),
            _ => {
                let bells: Vec<(Bell, u32)> = cold
                    .entries()
                    .iter()
                    .map(|entry| (entry.bell.clone(), entry.seen))
                    .collect();
                let look = (self.sides > 0).then(|| Instant::now() + HANG_UP_EVERY);
                let until = deadline.into_iter().chain(look).min();
                let _ = bell::wait_words(&bells, Some((&self.notes.nudges, nudges)), until);
                self.look()
            }
        }
    }

    /// What happened on descriptors, without waiting.
    pub(super) fn look(&self) -> Vec<Heard> {
        match &self.poller {
            Some(poller) if self.sides + self.doorbells > 0 => poller.hear(Some(Duration::ZERO)),
            _ => Vec::new(),
        }
    }
}

fn left(deadline: Option<Instant>) -> Option<Duration> {
    deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
}
