//! The typed endpoint: what a client's code holds.

use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::time::Duration;

use weft_contract::{Accepts, Contract, Message};
use weft_types::{ChannelId, Lane, MessageKind, Sequence};

use crate::channel::Channel;
use crate::error::Error;

/// How long a send waits for room before it gives up.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// One end of a channel to a service, typed by the service's contract.
///
/// It is the same whether the service lives on this machine or on another, and stays good while the
/// service restarts or moves. An endpoint belongs to one thread (it can be moved, not shared), which
/// is what keeps its sends free of locks; two threads open two endpoints.
#[derive(Debug)]
pub struct Endpoint<C> {
    channel: Channel,
    lane: Lane,
    scratch: Vec<u8>,
    contract: PhantomData<fn() -> C>,
}

/// A question that has been sent: hand it to [`Endpoint::wait`] for the answer.
///
/// Means something only to the endpoint that gave it.
#[must_use = "a reply that nobody waits for is kept until the endpoint is dropped; use `tell` to want none"]
pub struct Ticket<R> {
    pub(crate) lane: Lane,
    pub(crate) sequence: Sequence,
    reply: PhantomData<fn() -> R>,
}

impl<R> Ticket<R> {
    pub(crate) fn new(lane: Lane, sequence: Sequence) -> Self {
        Self {
            lane,
            sequence,
            reply: PhantomData,
        }
    }

    /// The sequence under which the question travels.
    #[must_use]
    pub fn sequence(&self) -> Sequence {
        self.sequence
    }
}

impl<R> fmt::Debug for Ticket<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ticket({} {})", self.lane, self.sequence)
    }
}

impl<C: Contract> Endpoint<C> {
    pub(crate) fn new(channel: Channel) -> Self {
        Self {
            channel,
            lane: Lane::default(),
            scratch: Vec::new(),
            contract: PhantomData,
        }
    }

    /// Sends and replies use this lane from now on.
    #[must_use]
    pub fn on_lane(mut self, lane: Lane) -> Self {
        self.lane = lane;
        self
    }

    /// The channel's id: the same on every node that it crosses.
    #[must_use]
    pub fn id(&self) -> ChannelId {
        self.channel.id()
    }

    /// Whether the service is on this machine just now. Changes with a move.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.channel.is_local()
    }

    /// Sends a request and returns at once with a ticket for its reply. Waits only for room, where
    /// the channel is full.
    ///
    /// # Errors
    ///
    /// `TooLarge`, `Busy` (no room for 30 s), `Closed`, `Unreachable`.
    pub fn send<M>(&mut self, message: &M) -> Result<Ticket<C::Reply>, Error>
    where
        M: Message,
        C: Accepts<M>,
    {
        let sequence = self.put(message, MessageKind::Request)?;
        Ok(Ticket::new(self.lane, sequence))
    }

    /// Sends a message and wants no reply. The sequence tells [`Endpoint::wait_handled`] what to
    /// wait for.
    ///
    /// # Errors
    ///
    /// As [`Endpoint::send`].
    pub fn tell<M>(&mut self, message: &M) -> Result<Sequence, Error>
    where
        M: Message,
        C: Accepts<M>,
    {
        self.put(message, MessageKind::Tell)
    }

    fn put<M>(&mut self, message: &M, kind: MessageKind) -> Result<Sequence, Error>
    where
        M: Message,
        C: Accepts<M>,
    {
        self.scratch.clear();
        weft_contract::encode(message, &mut self.scratch)?;
        self.channel
            .send(self.lane, kind, C::INDEX, &self.scratch, SEND_TIMEOUT)
    }

    /// Waits in this thread until the service has handled everything up to and with `sequence`.
    ///
    /// # Errors
    ///
    /// `DeadlineExceeded`, `Closed`, `Unreachable`.
    pub fn wait_handled(&mut self, sequence: Sequence, timeout: Duration) -> Result<(), Error> {
        self.channel.wait_done(self.lane, sequence.next(), timeout)
    }

    /// Waits in this thread for a reply.
    ///
    /// # Errors
    ///
    /// What the service refused; `OutcomeUnknown` if it died with the request in hand;
    /// `DeadlineExceeded`, after which the reply is dropped if it still comes; `Closed`.
    pub fn wait<R: Message>(&mut self, ticket: Ticket<R>, timeout: Duration) -> Result<R, Error> {
        let body = self.channel.wait(ticket.lane, ticket.sequence, timeout)?;
        Ok(weft_contract::decode(&body)?)
    }

    /// Sends a request and waits in this thread for its reply.
    ///
    /// # Errors
    ///
    /// As [`Endpoint::send`] and [`Endpoint::wait`].
    pub fn call<M>(&mut self, message: &M, timeout: Duration) -> Result<C::Reply, Error>
    where
        M: Message,
        C: Accepts<M>,
    {
        let ticket = self.send(message)?;
        self.wait(ticket, timeout)
    }

    /// Awaits a reply. Runs on any executor; dropping the future gives the reply up.
    ///
    /// # Errors
    ///
    /// As [`Endpoint::wait`], without a deadline of its own.
    pub async fn reply<R: Message>(&mut self, ticket: Ticket<R>) -> Result<R, Error> {
        let mut waiting = GiveUp {
            channel: &mut self.channel,
            question: Some((ticket.lane, ticket.sequence)),
        };
        let body = poll_fn(|context| {
            waiting
                .channel
                .poll_wait(ticket.lane, ticket.sequence, context)
        })
        .await;
        waiting.question = None;
        Ok(weft_contract::decode(&body?)?)
    }
}

/// Gives a question up if the future that waits for it is dropped.
struct GiveUp<'a> {
    channel: &'a mut Channel,
    question: Option<(Lane, Sequence)>,
}

impl Drop for GiveUp<'_> {
    fn drop(&mut self) {
        if let Some((lane, sequence)) = self.question {
            self.channel.forget(lane, sequence);
        }
    }
}
