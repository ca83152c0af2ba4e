//! Channels under tokio: `recv().await` and `send().await`.
//!
//! Both ends of a channel wait on its one [`Doorbell`]. A wait spins a little, as long as that has paid
//! lately, then parks, looks once more, and awaits the doorbell; the value of the bell word decides
//! whether it rang, the doorbell only says when to look at it. So whoever is woken takes the knocks off
//! and tells the other, and a peer that knocks in vain gains nothing by it.
//!
//! Spinning keeps the runtime's thread from its other tasks for up to 50 µs. Where the peer is one of
//! them it cannot succeed; a [`Waiter`] notices and leaves it.

use std::io;
use std::sync::Arc;

use tokio::net::UnixStream;
use tokio::sync::Notify;
use weft_types::{Lane, Sequence};

use crate::bell::Bell;
use crate::error::{PeerFault, SendError};
use crate::receiver::{Received, Receiver};
use crate::sender::Sender;
use crate::slot::Header;
use crate::swap::Shared;
use crate::sys::doorbell::{Doorbell, KNOCKS_AT_ONCE};
use crate::waiter::Waiter;

/// Makes the two ends of a channel wait for their peer in the current tokio runtime.
///
/// `doorbell` is one whose other end the peer has given to its [`crate::Swapper::ring_through`], or
/// will; until then a wait may last. After a swap the successor needs one too: split the ends again
/// ([`AsyncReceiver::into_inner`]) and call this with another doorbell.
///
/// # Errors
///
/// If the runtime cannot watch the doorbell.
///
/// # Panics
///
/// Outside a tokio runtime that has I/O enabled.
pub fn asynchronous(
    sender: Sender,
    receiver: Receiver,
    doorbell: Doorbell,
) -> io::Result<(AsyncSender, AsyncReceiver)> {
    let shared = Arc::clone(receiver.shared());
    let told = Arc::new(Notify::new());
    let on_swap = Arc::clone(&told);
    shared.set_on_swap(Some(Arc::new(move || on_swap.notify_waiters())));
    let waiting = Arc::new(Waiting {
        doorbell: UnixStream::from_std(doorbell.into_stream())?,
        told,
        shared,
    });
    let sender = AsyncSender {
        sender,
        waiting: Arc::clone(&waiting),
        waiter: Waiter::default(),
    };
    let receiver = AsyncReceiver {
        receiver,
        waiting,
        waiter: Waiter::default(),
        parked: false,
    };
    Ok((sender, receiver))
}

/// What both ends wait on.
#[derive(Debug)]
struct Waiting {
    doorbell: UnixStream,
    /// For who did not take the knock itself, and for swaps.
    told: Arc<Notify>,
    shared: Arc<Shared>,
}

impl Waiting {
    /// The bell and its value. Take it before the last look.
    fn before_look(&self) -> (Bell, u32) {
        let bell = Bell::of(&self.shared.current());
        let seen = bell.value();
        (bell, seen)
    }

    /// Returns once the bell has another value, or another peer.
    async fn rung(&self, (bell, seen): (Bell, u32)) -> Result<(), HungUp> {
        loop {
            let mut told = std::pin::pin!(self.told.notified());
            // From here on we are told, so that nothing is missed between the look and the wait.
            told.as_mut().enable();
            if bell.is_superseded() || bell.value() != seen {
                return Ok(());
            }
            tokio::select! {
                readable = self.doorbell.readable() => {
                    let silenced = readable.and_then(|()| self.silence());
                    self.told.notify_waiters();
                    silenced.map_err(|_| HungUp)?;
                }
                () = told => {}
            }
        }
    }

    /// Takes off the knocks so far, in bounded time.
    fn silence(&self) -> io::Result<()> {
        let mut knocks = [0; KNOCKS_AT_ONCE];
        // The second time mostly finds nothing, which is what tells the runtime so.
        for _ in 0..2 {
            match self.doorbell.try_read(&mut knocks) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Nobody knocks at this doorbell any more.
struct HungUp;

/// The receiving end of a channel, under tokio.
#[derive(Debug)]
pub struct AsyncReceiver {
    receiver: Receiver,
    waiting: Arc<Waiting>,
    waiter: Waiter,
    /// The parked word says that we sleep; it stays so if a wait is given up.
    parked: bool,
}

impl AsyncReceiver {
    /// The next message in lane order, its body in `body` (which loses what it held).
    ///
    /// May be given up at any await: nothing is taken before it returns.
    ///
    /// # Errors
    ///
    /// [`RecvError`]: the peer's fault, or that it hung up and nothing of it is left.
    pub async fn recv(&mut self, body: &mut Vec<u8>) -> Result<Received, RecvError> {
        // A channel that always has something must not starve the other tasks.
        tokio::task::coop::consume_budget().await;
        loop {
            if let Some(received) = self.receiver.try_receive(body)? {
                if self.parked {
                    self.awake();
                }
                return Ok(received);
            }
            let receiver = &self.receiver;
            let Err(waited) = self.waiter.look(|| receiver.ready()) else {
                continue;
            };
            let seen = self.waiting.before_look();
            self.parked = true;
            self.receiver.park();
            if !self.receiver.ready() {
                self.waiting.rung(seen).await?;
                waited.slept(&mut self.waiter);
            }
            self.awake();
        }
    }

    /// The receiver itself, for its cursors and [`Receiver::finish`].
    pub fn get_mut(&mut self) -> &mut Receiver {
        &mut self.receiver
    }

    /// The receiver, to be used without a runtime.
    #[must_use]
    pub fn into_inner(self) -> Receiver {
        let mut receiver = self.receiver;
        receiver.unpark();
        receiver
    }

    fn awake(&mut self) {
        self.parked = false;
        self.receiver.unpark();
    }
}

/// Why nothing was received.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RecvError {
    /// The peer broke the rules: close the channel.
    #[error(transparent)]
    Peer(#[from] PeerFault),
    /// Nobody knocks at the doorbell any more: the peer is dead, was replaced, or replaced us, or the
    /// runtime is going down. A successor needs a new doorbell.
    #[error("the peer knocks at our doorbell no more")]
    HungUp,
}

impl From<HungUp> for RecvError {
    fn from(_: HungUp) -> Self {
        Self::HungUp
    }
}

impl From<HungUp> for AsyncSendError {
    fn from(_: HungUp) -> Self {
        Self::HungUp
    }
}

/// The sending end of a channel, under tokio.
#[derive(Debug)]
pub struct AsyncSender {
    sender: Sender,
    waiting: Arc<Waiting>,
    waiter: Waiter,
}

impl AsyncSender {
    /// Publishes a message, as [`Sender::try_send`]; waits for room first if the lane is full.
    ///
    /// May be given up at any await: nothing is sent before it returns.
    ///
    /// # Errors
    ///
    /// [`AsyncSendError`]; never [`SendError::Full`].
    pub async fn send(
        &mut self,
        lane: Lane,
        header: Header,
        body: &[u8],
    ) -> Result<Sequence, AsyncSendError> {
        tokio::task::coop::consume_budget().await;
        loop {
            match self.sender.try_send(lane, header, body) {
                Ok(sequence) => return Ok(sequence),
                Err(SendError::Full { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            let sender = &mut self.sender;
            let Err(waited) = self.waiter.look(|| sender.fits(lane, body.len())) else {
                continue;
            };
            let seen = self.waiting.before_look();
            if !self.sender.wake_when_room(lane) {
                self.waiting.rung(seen).await?;
                waited.slept(&mut self.waiter);
            }
        }
    }

    /// The sender itself, for what does not wait.
    pub fn get_mut(&mut self) -> &mut Sender {
        &mut self.sender
    }

    /// The sender, to be used without a runtime.
    #[must_use]
    pub fn into_inner(self) -> Sender {
        self.sender
    }
}

/// Why a message was not sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AsyncSendError {
    /// As without a runtime.
    #[error(transparent)]
    Send(#[from] SendError),
    /// Nobody knocks at the doorbell any more: the peer is dead, was replaced, or replaced us, or the
    /// runtime is going down. A successor needs a new doorbell.
    #[error("the peer knocks at our doorbell no more")]
    HungUp,
}
