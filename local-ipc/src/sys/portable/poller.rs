//! Sleeping on hang-ups and an event of ours, by looking at them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::backoff;
use super::doorbell::Doorbell;
use crate::sync::Ordering;
use crate::sys::side::Watched;
use crate::sys::{BorrowedFd, Heard};

/// What wakes the [`Poller`] that it was given to, from any thread of this process.
#[derive(Debug)]
pub(crate) struct Event(Arc<AtomicBool>);

impl Event {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(Arc::default()))
    }

    /// Ends a [`Poller::hear`], now or the next, until [`Self::settle`].
    pub(crate) fn signal(&self) {
        // ORDER(event): Release; pairs with the Acquire in `Poller::hear`.
        self.0.store(true, Ordering::Release);
    }

    /// Forgets the signals so far.
    pub(crate) fn settle(&self) {
        // ORDER(event): Acquire, as in `Poller::hear`: the looks come after it.
        self.0.swap(false, Ordering::Acquire);
    }
}

/// Hears the hang-ups of side sockets, and an [`Event`].
#[derive(Debug)]
pub(crate) struct Poller {
    event: Arc<AtomicBool>,
    sides: Vec<(u32, Watched)>,
}

impl Poller {
    pub(crate) fn new(event: &Event) -> io::Result<Self> {
        Ok(Self {
            event: Arc::clone(&event.0),
            sides: Vec::new(),
        })
    }

    pub(crate) fn add_doorbell(&mut self, doorbell: &Doorbell, _index: u32) -> io::Result<()> {
        doorbell.silence();
        Ok(())
    }

    pub(crate) fn add_side(&mut self, side: BorrowedFd<'_>, index: u32) -> io::Result<()> {
        self.sides.push((index, Watched::of(side)?));
        Ok(())
    }

    pub(crate) fn remove_doorbell(&mut self, doorbell: &Doorbell, _index: u32) {
        doorbell.silence();
    }

    pub(crate) fn remove_side(&mut self, _side: BorrowedFd<'_>, index: u32) {
        self.sides.retain(|&(other, _)| other != index);
    }

    /// Waits until there is something to hear, at most this long.
    pub(crate) fn hear(&self, timeout: Option<Duration>) -> Vec<Heard> {
        let mut heard = Vec::new();
        backoff::look_until(timeout, || {
            let gone = self.sides.iter().filter(|(_, side)| side.has_hung_up());
            heard.extend(gone.map(|&(index, _)| Heard::HangUp(index)));
            // ORDER(event): Acquire; pairs with the Release in `Event::signal`.
            !heard.is_empty() || self.event.load(Ordering::Acquire)
        });
        heard
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_ends_a_wait_until_it_is_settled() {
        let event = Event::new().unwrap();
        let poller = Poller::new(&event).unwrap();
        event.signal();
        assert!(poller.hear(None).is_empty(), "returned, and nobody hung up");
        event.settle();
        let begin = std::time::Instant::now();
        let time = Duration::from_millis(5);
        assert!(poller.hear(Some(time)).is_empty());
        assert!(begin.elapsed() >= time, "settled");
        let later = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(5));
            event.signal();
        });
        assert!(poller.hear(None).is_empty());
        later.join().unwrap();
    }
}
