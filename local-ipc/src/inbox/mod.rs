//! One receiver over many channels.
//!
//! An [`Inbox`] has up to [`MAX_MEMBERS`] members, each a [`Receiver`] with the caller's key beside
//! it, so that who a message comes from is said by us and never by the sender. Messages come in strict
//! order of their lanes over all members, and members of one lane take turns, message by message. A
//! sender that floods fills its own rings and waits for its own turn.
//!
//! Members that have messages are *hot*: they are looked at all the time. One that stays idle goes
//! *cold*: its receiver is parked, and all that is looked at is its bell (see `cold`), a few of them with
//! each message, all of them before the inbox sleeps. The first message on a cold member rings; a
//! ring that is seen late costs time and nothing else.
//!
//! Two ways to take messages, over the one engine in `engine`: ask for the next one
//! ([`Inbox::try_next`], [`Inbox::next`]) and say yourself when it is done, or have each handed to a
//! handler ([`Inbox::run`]), which makes it done by returning.

mod alarm;
mod cold;
mod engine;
#[cfg(test)]
mod hostile;
mod take;
mod turns;

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use weft_types::{Lane, Sequence};

use self::alarm::Notes;
use self::engine::{Engine, Found};
use self::take::{Many, One};
use crate::error::PeerFault;
use crate::in_place::View;
use crate::receiver::{Received, Receiver};
use crate::sys::doorbell::Doorbell;
use crate::sys::{BorrowedFd, OwnedFd};
use crate::waiter::Wake;

/// The most members of one inbox. One more is refused.
pub const MAX_MEMBERS: usize = 4096;

/// A member of an inbox. Never given twice by one inbox.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct MemberId {
    index: u32,
    generation: u32,
}

/// What comes out of an inbox.
#[derive(Debug)]
pub enum Event<'a, K> {
    /// A message of a member.
    Message(Message<'a, K>),
    /// A member is no more; its last messages came before this.
    Left(Box<Left<K>>),
}

/// What [`Inbox::try_row`] found.
#[derive(Debug)]
pub enum Row<K> {
    /// Messages were handed out. They are not finished: [`Inbox::finish`].
    Messages {
        /// Whose.
        member: MemberId,
        /// Of which lane.
        lane: Lane,
        /// How many.
        count: usize,
        /// The sequence after the last of them.
        up_to: Sequence,
    },
    /// As [`Event::Left`].
    Left(Box<Left<K>>),
}

/// A message, taken.
#[derive(Debug)]
pub struct Message<'a, K> {
    /// The member it came from.
    pub member: MemberId,
    /// That member's key.
    pub key: &'a K,
    /// Lane, sequence and header.
    pub received: Received,
    /// A copy of its body, which the peer cannot change any more.
    pub body: &'a [u8],
}

/// A member that was removed because of its peer.
#[derive(Debug)]
pub struct Left<K> {
    /// Which one it was.
    pub member: MemberId,
    /// Its key.
    pub key: K,
    /// Its receiver, with its cursors where they were.
    pub receiver: Receiver,
    /// What happened.
    pub why: Why,
}

/// Why a member left.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Why {
    /// The peer broke the rules: close the channel.
    Fault(PeerFault),
    /// The other end of its side socket is closed, and what the peer had sent before has been taken.
    HungUp,
}

/// There are [`MAX_MEMBERS`] already. What was to be added comes back.
#[derive(Debug, thiserror::Error)]
#[error("an inbox has at most {MAX_MEMBERS} members")]
pub struct AddError<K> {
    /// The key.
    pub key: K,
    /// The receiver, untouched.
    pub receiver: Box<Receiver>,
}

/// Receives on many channels. Owned by one thread at a time.
#[derive(Debug)]
pub struct Inbox<K> {
    engine: Engine<K>,
    body: Vec<u8>,
}

impl<K> Default for Inbox<K> {
    fn default() -> Self {
        Self::new(Wake::Now)
    }
}

impl<K> Inbox<K> {
    /// An empty inbox that sleeps in this way.
    #[must_use]
    pub fn new(wake: Wake) -> Self {
        Self {
            engine: Engine::new(wake),
            body: Vec::new(),
        }
    }

    /// Adds a channel.
    ///
    /// An inbox sleeps on the bells of up to 126 members by itself. If there are more it has threads
    /// listen to them, one for each 126, unless they have doorbells ([`Self::set_doorbell`]).
    ///
    /// # Errors
    ///
    /// [`AddError`] if there are [`MAX_MEMBERS`]; it gives back what was to be added.
    pub fn add(&mut self, key: K, receiver: Receiver) -> Result<MemberId, AddError<K>> {
        self.engine.add(key, receiver)
    }

    /// Gives a member a doorbell, whose other end ([`Doorbell::pair`]) its peer has given to
    /// [`crate::Swapper::ring_through`], or will. However many members have doorbells, the inbox
    /// sleeps on all of them at once and needs no thread for them.
    ///
    /// It belongs to the member's present peer. After a swap the member is without one, until this is
    /// called again with one that the successor has.
    ///
    /// # Errors
    ///
    /// If there is no such member, or the system refuses.
    pub fn set_doorbell(&mut self, member: MemberId, doorbell: Doorbell) -> io::Result<()> {
        self.engine.set_doorbell(member, doorbell)
    }

    /// Has the inbox look for the hang-up of a member's side socket: once the other end is closed and
    /// the member's messages are taken, it leaves ([`Why::HungUp`]). Keeps a copy of the descriptor.
    ///
    /// # Errors
    ///
    /// If there is no such member, or no descriptor left.
    pub fn watch_side(&mut self, member: MemberId, side: BorrowedFd<'_>) -> io::Result<()> {
        let side: OwnedFd = side.try_clone_to_owned()?;
        self.engine.watch_side(member, side)
    }

    /// Takes a member out, its receiver as it is now. `None` if it left before.
    pub fn remove(&mut self, member: MemberId) -> Option<(K, Receiver)> {
        self.engine.remove(member)
    }

    /// How many members there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.engine.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many members are cold: idle for so long that only their bells are looked at.
    #[must_use]
    pub fn cold(&self) -> usize {
        self.engine.cold()
    }

    /// A member's key.
    #[must_use]
    pub fn key(&self, member: MemberId) -> Option<&K> {
        self.engine.member(member).map(|member| &member.key)
    }

    /// A member's receiver, for its cursors.
    #[must_use]
    pub fn receiver(&self, member: MemberId) -> Option<&Receiver> {
        self.engine.member(member).map(|member| &member.receiver)
    }

    /// Ends a wait of this inbox from another thread.
    #[must_use]
    pub fn nudge(&self) -> Nudge {
        Nudge(self.engine.notes())
    }

    /// What comes next, if there is something now. Never sleeps, and looks at each member at most
    /// once.
    ///
    /// With up to 16 hot and 8 cold members (counted after they have settled) what comes is the most
    /// urgent of all that were published before the call. With more, `h` hot and `c` cold ones, a message that
    /// arrives while others wait may see `h / 16` less urgent ones go first, on a cold member `c`.
    #[inline]
    pub fn try_next(&mut self) -> Option<Event<'_, K>> {
        let mut one = One::new(&mut self.body);
        let found = self.engine.poll(&mut one)?;
        let received = one.received;
        Some(self.event(found, received))
    }

    /// As [`Self::try_next`], but takes up to `most` messages (one at least) of the member whose turn it
    /// is, all of its most urgent lane, and has `each` look at them where they lie.
    ///
    /// Turns are rows then, and a more urgent message waits for a row's end. As in
    /// [`Receiver::receive_row`], all of a row count as taken before the first is handed out.
    #[inline]
    pub fn try_row(
        &mut self,
        most: usize,
        each: impl FnMut(MemberId, &K, Received, View<'_>),
    ) -> Option<Row<K>> {
        let mut many = Many::new(most, each);
        Some(match self.engine.poll(&mut many)? {
            Found::Message(member) => Row::Messages {
                member,
                lane: many.lane,
                count: many.count,
                up_to: many.up_to,
            },
            Found::Left(left) => Row::Left(left),
        })
    }

    /// Waits for what comes next. `None` when the time is over, and after a [`Nudge`].
    #[inline]
    pub fn next(&mut self, timeout: Option<Duration>) -> Option<Event<'_, K>> {
        let mut one = One::new(&mut self.body);
        let found = match self.engine.poll(&mut one) {
            Some(found) => found,
            None => self.engine.wait(&mut one, timeout)?,
        };
        let received = one.received;
        Some(self.event(found, received))
    }

    /// Says that this and everything before it on its lane is handled, see [`Receiver::finish`].
    /// Does nothing if the member left.
    #[inline]
    pub fn finish(&mut self, member: MemberId, lane: Lane, up_to: Sequence) {
        if let Some(member) = self.engine.member_mut(member) {
            member.receiver.finish(lane, up_to);
        }
    }

    /// Hands each event to `handle` until it breaks, and makes each message done when `handle`
    /// returns. `None` when nothing came for `idle`, or after a [`Nudge`].
    pub fn run<B>(
        &mut self,
        idle: Option<Duration>,
        mut handle: impl FnMut(Event<'_, K>) -> ControlFlow<B>,
    ) -> Option<B> {
        loop {
            let event = self.next(idle)?;
            let done = match &event {
                Event::Message(message) => Some((message.member, message.received)),
                Event::Left(_) => None,
            };
            let flow = handle(event);
            if let Some((member, received)) = done {
                self.finish(member, received.lane, received.sequence.next());
            }
            if let ControlFlow::Break(result) = flow {
                return Some(result);
            }
        }
    }

    #[inline]
    fn event(&mut self, found: Found<K>, received: Option<Received>) -> Event<'_, K> {
        match found {
            Found::Message(id) => {
                let received = received.expect("found by this call");
                Event::Message(self.engine.message(id, received, &self.body))
            }
            Found::Left(left) => Event::Left(left),
        }
    }
}

/// Ends waits of one inbox, from any thread.
#[derive(Clone, Debug)]
pub struct Nudge(Arc<Notes>);

impl Nudge {
    /// Ends the wait that goes on now, or the next one.
    pub fn nudge(&self) {
        self.0.nudge();
    }
}
