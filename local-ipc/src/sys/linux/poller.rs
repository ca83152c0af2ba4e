//! Sleeping on descriptors: one epoll, with an eventfd of ours in it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec};

use super::doorbell::Doorbell;
use crate::sys::Heard;

/// Events taken at once; more are taken at the next look.
const EVENTS_AT_ONCE: usize = 64;

const NOTE: u64 = u64::MAX;
const SIDE: u64 = 1 << 32;

/// What wakes the [`Poller`] that it was given to, from any thread of this process.
#[derive(Debug)]
pub(crate) struct Event(OwnedFd);

impl Event {
    pub(crate) fn new() -> io::Result<Self> {
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(event))
    }

    /// Ends a [`Poller::hear`], now or the next, until [`Self::settle`].
    pub(crate) fn signal(&self) {
        // Full means that it is readable.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Forgets the signals so far.
    pub(crate) fn settle(&self) {
        let _ = rustix::io::read(&self.0, &mut [0_u8; 8]);
    }
}

/// Hears doorbells, the hang-ups of side sockets, and an [`Event`].
#[derive(Debug)]
pub(crate) struct Poller(OwnedFd);

impl Poller {
    pub(crate) fn new(event: &Event) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &event.0, EventData::new_u64(NOTE), EventFlags::IN)?;
        Ok(Self(epoll))
    }

    pub(crate) fn add_doorbell(&mut self, doorbell: &Doorbell, index: u32) -> io::Result<()> {
        let data = EventData::new_u64(index.into());
        Ok(epoll::add(&self.0, doorbell, data, EventFlags::IN)?)
    }

    pub(crate) fn add_side(&mut self, side: BorrowedFd<'_>, index: u32) -> io::Result<()> {
        let data = EventData::new_u64(SIDE | u64::from(index));
        // Nothing asked for: errors and hang-ups are told anyway, packets are not ours to read.
        Ok(epoll::add(&self.0, side, data, EventFlags::empty())?)
    }

    pub(crate) fn remove_doorbell(&mut self, doorbell: &Doorbell, _index: u32) {
        self.delete(doorbell.as_fd());
    }

    pub(crate) fn remove_side(&mut self, side: BorrowedFd<'_>, _index: u32) {
        self.delete(side);
    }

    fn delete(&self, fd: BorrowedFd<'_>) {
        // It is ours and registered: this cannot fail.
        let _ = epoll::delete(&self.0, fd);
    }

    /// Waits until there is something to hear, at most this long. May return nothing for no reason.
    pub(crate) fn hear(&self, timeout: Option<Duration>) -> Vec<Heard> {
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut events = Vec::with_capacity(EVENTS_AT_ONCE);
        // Interrupted is as good as woken for no reason.
        let _ = epoll::wait(
            &self.0,
            rustix::buffer::spare_capacity(&mut events),
            timeout.as_ref(),
        );
        let heard = |event: epoll::Event| {
            let data = event.data.u64();
            let index = (data & u64::from(u32::MAX)) as u32;
            match data {
                NOTE => None,
                data if data & SIDE != 0 => Some(Heard::HangUp(index)),
                _ => Some(Heard::Doorbell(index)),
            }
        };
        events.into_iter().filter_map(heard).collect()
    }
}
