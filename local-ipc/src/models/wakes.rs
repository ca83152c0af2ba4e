//! Models of the wake-ups that come after a bell: doorbells, cold members, listeners.
//!
//! `parking` models who rings. Here a ring has happened or will, and whoever sleeps on something else
//! than the bell word must not sleep through it. Each receiver looks once and then either found the
//! message or sleeps; a model checks that what it sleeps on is signalled in the end. Beside each model is
//! one with a step left out or in the wrong place, to show that it can fail.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use super::words::Weak;
use super::{Arc, Mutex, check, thread};
use crate::parking::{Parking, Ringer, bump, publish_before_look};
use crate::sync::{AtomicU32, Ordering, Read32};

/// A descriptor as epoll sees it, level triggered: readable or not. The kernel orders its calls.
#[derive(Default)]
struct Descriptor(Mutex<bool>);

impl Descriptor {
    fn signal(&self) {
        *self.0.lock().unwrap() = true;
    }

    fn silence(&self) {
        *self.0.lock().unwrap() = false;
    }

    fn is_readable(&self) -> bool {
        *self.0.lock().unwrap()
    }
}

struct Channel {
    published: AtomicU32,
    bell: AtomicU32,
    parked: AtomicU32,
    doorbell: Descriptor,
    /// Whether the sender has the doorbell yet.
    handed_over: Mutex<bool>,
}

impl Channel {
    fn new(handed_over: bool) -> Arc<Self> {
        Arc::new(Self {
            published: AtomicU32::new(0),
            bell: AtomicU32::new(0),
            parked: AtomicU32::new(0),
            doorbell: Descriptor::default(),
            handed_over: Mutex::new(handed_over),
        })
    }

    fn bell(&self) -> u32 {
        Read32(&self.bell).load()
    }

    fn ring(&self) {
        bump(&self.bell);
        if *self.handed_over.lock().unwrap() {
            self.doorbell.signal();
        }
    }

    fn send(&self, ringer: &mut Ringer) {
        let published = self.published.load(Ordering::Relaxed);
        self.published.store(published + 1, Ordering::Release);
        if ringer.must_ring(publish_before_look(), Read32(&self.parked)) {
            self.ring();
        }
    }

    fn has(&self, count: u32) -> bool {
        self.published.load(Ordering::Acquire) >= count
    }
}

/// What `AsyncReceiver::recv` does, with knocks left over from before: silence, then compare.
fn awaits_a_doorbell(silence_last: bool) {
    check(Weak::Nothing, move || {
        let channel = Channel::new(true);
        // Left over: the bell had rung while the receiver was awake.
        channel.doorbell.signal();
        let receiver = thread::spawn({
            let channel = Arc::clone(&channel);
            move || {
                let seen = channel.bell();
                Parking::default().park(&channel.parked);
                if channel.has(1) {
                    return false;
                }
                if !silence_last && channel.doorbell.is_readable() {
                    channel.doorbell.silence();
                }
                let rung = channel.bell() != seen;
                if silence_last && channel.doorbell.is_readable() {
                    channel.doorbell.silence();
                }
                !rung
            }
        });
        channel.send(&mut Ringer::default());
        let asleep = receiver.join().unwrap();
        assert!(!asleep || channel.doorbell.is_readable(), "slept through");
    });
}

#[test]
fn no_send_is_awaited_for_ever() {
    awaits_a_doorbell(false);
}

#[test]
#[should_panic(expected = "slept through")]
fn a_doorbell_silenced_after_the_comparison_loses_a_wake_up() {
    awaits_a_doorbell(true);
}

/// A doorbell that is handed over while a message is on its way: `Swapper::ring_through` rings once.
fn a_doorbell_comes_late(ring_at_once: bool) {
    check(Weak::Nothing, move || {
        let channel = Channel::new(false);
        let handing = thread::spawn({
            let channel = Arc::clone(&channel);
            move || {
                *channel.handed_over.lock().unwrap() = true;
                if ring_at_once {
                    channel.ring();
                }
            }
        });
        let receiver = thread::spawn({
            let channel = Arc::clone(&channel);
            move || {
                let seen = channel.bell();
                Parking::default().park(&channel.parked);
                !channel.has(1) && channel.bell() == seen
            }
        });
        channel.send(&mut Ringer::default());
        let asleep = receiver.join().unwrap();
        handing.join().unwrap();
        assert!(!asleep || channel.doorbell.is_readable(), "slept through");
    });
}

#[test]
fn a_message_before_the_doorbell_is_heard_through_it() {
    a_doorbell_comes_late(true);
}

#[test]
#[should_panic(expected = "slept through")]
fn a_doorbell_handed_over_in_silence_loses_a_wake_up() {
    a_doorbell_comes_late(false);
}

/// A cold member of an inbox: `Engine::cool`, then looks at the bell alone. Each is warmed when its
/// bell rang, and cooled again; the last look comes before the sleep, and the kernel compares.
fn a_cold_member(messages: u32, bell_first: bool) {
    check(Weak::Nothing, move || {
        let channel = Channel::new(false);
        let receiver = thread::spawn({
            let channel = Arc::clone(&channel);
            move || {
                let mut parking = Parking::default();
                let mut taken = 0;
                // Found so many or asleep on this value; two sweeps, one of them before the sleep.
                for _ in 0..2 {
                    let early = channel.bell();
                    parking.park(&channel.parked);
                    if channel.has(taken + 1) {
                        Parking::unpark(&channel.parked);
                        taken = channel.published.load(Ordering::Acquire);
                        continue;
                    }
                    let seen = if bell_first { early } else { channel.bell() };
                    if channel.bell() == seen {
                        return Some((taken, seen));
                    }
                    Parking::unpark(&channel.parked);
                    taken = channel.published.load(Ordering::Acquire);
                }
                None
            }
        });
        let mut ringer = Ringer::default();
        (0..messages).for_each(|_| channel.send(&mut ringer));
        if let Some((taken, seen)) = receiver.join().unwrap() {
            let unheard = channel.bell() == seen && channel.has(taken + 1);
            assert!(!unheard, "slept through");
        }
    });
}

#[test]
fn a_cold_members_messages_differ_on_its_bell_however_late_it_is_looked_at() {
    a_cold_member(2, true);
}

#[test]
#[should_panic(expected = "slept through")]
fn a_bell_read_after_the_last_look_loses_a_wake_up() {
    a_cold_member(1, false);
}

/// An inbox in epoll whose bells are listened to by another thread: settle, sweep, sleep.
fn listened_to(settle_first: bool) {
    check(Weak::Nothing, move || {
        let bell = Arc::new(AtomicU32::new(0));
        let event = Arc::new(Descriptor::default());
        // Left over from a ring that a sweep had seen before.
        event.signal();
        let listener = thread::spawn({
            let (bell, event) = (Arc::clone(&bell), Arc::clone(&event));
            move || {
                // The sender's ring, and the listener that it woke.
                bump(&bell);
                event.signal();
            }
        });
        let seen = 0;
        if settle_first {
            event.silence();
        }
        let rung = Read32(&bell).load() != seen;
        if !settle_first {
            event.silence();
        }
        listener.join().unwrap();
        assert!(rung || event.is_readable(), "slept through");
    });
}

#[test]
fn a_ring_that_the_last_sweep_does_not_see_ends_the_sleep() {
    listened_to(true);
}

#[test]
#[should_panic(expected = "slept through")]
fn settling_after_the_sweep_loses_a_wake_up() {
    listened_to(false);
}
