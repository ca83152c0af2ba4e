//! Waiting for one channel: spin as long as it pays, give up the core where spinning cannot help, then
//! sleep in the way the receiver's owner asked for.

use std::time::{Duration, Instant};

use weft_types::{Lane, Sequence};

use crate::adaptive::Learner;
use crate::bell::Wait;
use crate::error::SendError;
use crate::receiver::Receiver;
use crate::sender::Sender;
use crate::slot::Header;
use crate::spin::Spin;

/// How a receiver sleeps.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Wake {
    /// Parks: the first send rings and wakes it at once.
    #[default]
    Now,
    /// Naps for this long and does not say that it sleeps: sends make no system call, and what
    /// came meanwhile is taken in one go. After [`NAPS_IN_VAIN`] naps in which nothing came it parks,
    /// so that a channel without traffic costs nothing; the first send then rings once.
    Batched(Duration),
}

/// After so many naps in which nothing came a batching receiver parks.
pub const NAPS_IN_VAIN: u32 = 16;

/// How often the core is given up before parking. Each time, whoever else is ready to run on it does.
const YIELDS: u32 = 4;

/// A yield that returns sooner than this has found nobody else to run.
const NOBODY_RAN: Duration = Duration::from_micros(1);

/// Looks between two readings of the clock.
const LOOKS_A_READING: u32 = 8;

/// How one receiver waits, and what it learnt about that. Keep it with the receiver.
#[derive(Clone, Debug)]
pub struct Waiter {
    wake: Wake,
    learner: Learner,
    may_spin: bool,
    naps_in_vain: u32,
}

impl Default for Waiter {
    fn default() -> Self {
        Self::new(Wake::Now)
    }
}

impl Waiter {
    /// A waiter that finds out by itself how long to spin, at most 50 µs.
    #[must_use]
    pub fn new(wake: Wake) -> Self {
        Self {
            wake,
            learner: Learner::default(),
            may_spin: crate::cores::spinning_can_help(None),
            naps_in_vain: 0,
        }
    }

    /// The same, but it never spins: it gives up the core instead. For a receiver whose sender
    /// shares its core (see [`crate::spinning_can_help`]). Others find that out after a few waits.
    #[must_use]
    pub fn without_spinning(mut self) -> Self {
        self.may_spin = false;
        self
    }

    /// How long the next wait will spin.
    #[must_use]
    pub fn bound(&self) -> Duration {
        if self.may_spin {
            self.learner.bound()
        } else {
            Duration::ZERO
        }
    }

    /// Waits until there is something to receive, the bell rings for another reason, or the time is
    /// over. As [`Receiver::wait`], spinning as long as has paid lately.
    ///
    /// A batching waiter may say [`Wait::Rung`] for nothing after a nap.
    pub fn wait(&mut self, receiver: &mut Receiver, timeout: Option<Duration>) -> Wait {
        let waited = self.look(|| receiver.ready());
        let Err(waited) = waited else {
            self.found();
            return Wait::Rung(0);
        };
        if let Some(nap) = self.nap(timeout) {
            std::thread::sleep(nap);
            return if timeout == Some(nap) && !receiver.ready() {
                Wait::TimedOut
            } else {
                Wait::Rung(0)
            };
        }
        let wait = receiver.wait_spinning(Spin::lasting(Duration::ZERO), timeout);
        waited.slept(self);
        if wait != Wait::TimedOut {
            self.found();
        }
        wait
    }

    /// Looks again and again for as long as that pays. `Ok` if something was found; else tell
    /// [`Waited::slept`] when the wait is over.
    pub(crate) fn look(&mut self, mut look: impl FnMut() -> bool) -> Result<(), Waited> {
        let begin = Instant::now();
        let bound = self.bound();
        if bound.is_zero() {
            if !self.may_spin || self.learner.is_barred() {
                return self.give_way(begin, look);
            }
            return if look() {
                Ok(())
            } else {
                Err(Waited { begin, spun: bound })
            };
        }
        let mut looks = 0_u32;
        loop {
            if look() {
                self.learner.spun(begin.elapsed());
                return Ok(());
            }
            looks = looks.wrapping_add(1);
            if looks.is_multiple_of(LOOKS_A_READING) && begin.elapsed() >= bound {
                return Err(Waited { begin, spun: bound });
            }
            std::hint::spin_loop();
        }
    }

    /// Lets others run on this core, as long as there are any.
    fn give_way(&self, begin: Instant, mut look: impl FnMut() -> bool) -> Result<(), Waited> {
        let mut before = begin;
        for _ in 0..YIELDS {
            if look() {
                return Ok(());
            }
            std::thread::yield_now();
            let now = Instant::now();
            if now - before < NOBODY_RAN {
                break;
            }
            before = now;
        }
        let spun = Duration::ZERO;
        if look() {
            Ok(())
        } else {
            Err(Waited { begin, spun })
        }
    }

    /// How long to nap now instead of parking, if at all.
    pub(crate) fn nap(&mut self, timeout: Option<Duration>) -> Option<Duration> {
        let Wake::Batched(least) = self.wake else {
            return None;
        };
        if self.naps_in_vain >= NAPS_IN_VAIN {
            return None;
        }
        self.naps_in_vain += 1;
        Some(timeout.map_or(least, |timeout| least.min(timeout)))
    }

    /// Whether sends should find the receiver awake although it may nap.
    pub(crate) fn batches(&self) -> bool {
        matches!(self.wake, Wake::Batched(_))
    }

    /// Something came.
    pub(crate) fn found(&mut self) {
        self.naps_in_vain = 0;
    }
}

/// A wait that is not over yet.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub(crate) struct Waited {
    begin: Instant,
    spun: Duration,
}

impl Waited {
    /// It is over, after a sleep.
    pub(crate) fn slept(self, waiter: &mut Waiter) {
        waiter.learner.slept(self.spun, self.begin.elapsed());
    }
}

impl Sender {
    /// The reverse bell for who found the lane full: asks the peer to ring its bell when it has done one
    /// message more. As [`Self::wake_when_done`], returns whether there is nothing to wait for: try
    /// again then.
    ///
    /// Not more than one, because the receiver may want something of us before it finishes another.
    /// And not "one more than is done now" without a look at what was sent: if the receiver has done
    /// all meanwhile, there is no such message and would never be one.
    pub fn wake_when_room(&mut self, lane: Lane) -> bool {
        match self.done(lane) {
            Ok(done) if done < self.next(lane) => self.wake_when_done(lane, done.next()),
            _ => true,
        }
    }

    /// As [`Self::try_send`], then gives up the core, so that a receiver that shares it runs at once.
    ///
    /// For a request on one core: the answer is often there when this returns, and neither side went
    /// to sleep for it. Where nobody else wants the core it costs one system call.
    ///
    /// # Errors
    ///
    /// As [`Self::try_send`]; the core is kept then.
    pub fn send_and_yield(
        &mut self,
        lane: Lane,
        header: Header,
        body: &[u8],
    ) -> Result<Sequence, SendError> {
        let sequence = self.try_send(lane, header, body)?;
        std::thread::yield_now();
        Ok(sequence)
    }
}
