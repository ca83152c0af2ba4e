//! One channel as its client holds it: questions go out, answers are matched to them.
//!
//! A [`Channel`] belongs to one thread; that is what keeps the send path free of locks. What other
//! threads may do to it (the node swaps its peer, the other side closes) goes through its
//! [`Entry`], by atomic flags that the channel looks at when it has nothing else to do.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use weft_local_ipc::{
    Geometry, Header, PeerHalf, Receiver, SendError, Sender, SideSocket, Spin, Swapper, WatchId,
    Watcher, wait_any,
};
use weft_types::{
    ChannelId, Lane, MessageKind, PerLane, Refusal, RefusalCode, Sequence, TypeIndex,
};

use crate::domain::{Domain, lock};
use crate::error::Error;
use crate::growth::{CLIENT_GROWTH_BYTES, Growth};
use crate::link::read_answer;
use crate::room::Lease;

/// The most questions that may be open on one lane. At the bound a send is refused as `Busy`: the
/// caller has sent without ever waiting.
const MAX_OPEN_QUESTIONS: usize = 65_536;

/// How many answers are filed before the caller looks at its clock again.
const MAX_DRAIN: u32 = Geometry::DEFAULT.slots;

/// How long a waiting channel sleeps at most before it looks whether its peer still lives.
const LOOK_AROUND: Duration = Duration::from_millis(20);

/// What the rest of the domain knows of a channel.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) id: ChannelId,
    state: Mutex<State>,
    local: AtomicBool,
    /// Set once `State::closed` is.
    closed: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

#[derive(Debug, Default)]
struct State {
    swapper: Option<Swapper>,
    side: Option<SideSocket>,
    /// A swap that overtook the end of opening.
    early: Vec<(PeerHalf, SideSocket, bool)>,
    closed: Option<Refusal>,
    node_lost: bool,
    /// Set at the first asynchronous wait: a channel that is only ever waited for by its own thread
    /// need not be watched by another.
    watch: Option<WatchId>,
}

/// Swaps that may wait for a channel to be opened. The node sends one only after a restart or a
/// move of the peer, so that more within one opening means that it is out of its mind.
const MAX_EARLY_SWAPS: usize = 16;

impl Entry {
    pub(crate) fn new(id: ChannelId) -> Self {
        Self {
            id,
            state: Mutex::default(),
            local: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            waker: Mutex::new(None),
        }
    }

    /// The channel is connected; swaps that came early are applied.
    pub(crate) fn opened(&self, swapper: Swapper, side: SideSocket, local: bool) {
        let mut state = lock(&self.state);
        self.set_local(local);
        state.side = Some(side);
        for (half, side, local) in state.early.drain(..).collect::<Vec<_>>() {
            swapper.swap(half);
            state.side = Some(side);
            self.set_local(local);
        }
        state.swapper = Some(swapper);
    }

    /// The peer has been replaced.
    pub(crate) fn swap(
        self: &Arc<Self>,
        half: PeerHalf,
        side: SideSocket,
        local: bool,
        watcher: &Watcher,
    ) {
        let mut state = lock(&self.state);
        match &state.swapper {
            Some(swapper) => {
                swapper.swap(half);
                state.side = Some(side);
                self.set_local(local);
                if let Some(watch) = state.watch.take() {
                    // It has a copy of the old side: it would hold that open, and never see the
                    // end of the new one.
                    watcher.unwatch(watch);
                    self.watch(&mut state, watcher);
                }
            }
            None if state.early.len() < MAX_EARLY_SWAPS => state.early.push((half, side, local)),
            None => {
                tracing::warn!(channel = %self.id, "too many swaps before the channel was open")
            }
        }
        drop(state);
        self.wake();
    }

    /// Has the watcher thread wake who waits, when the peer rings or dies.
    fn watch(self: &Arc<Self>, state: &mut State, watcher: &Watcher) {
        let Some(swapper) = state.swapper.as_ref().filter(|_| state.watch.is_none()) else {
            return;
        };
        let entry = Arc::downgrade(self);
        let on_ring = move |_| {
            if let Some(entry) = entry.upgrade() {
                entry.wake();
            }
        };
        let side = state.side.as_ref().map(AsFd::as_fd);
        state.watch = Some(watcher.watch(swapper, side, Arc::new(on_ring)));
    }

    fn set_local(&self, local: bool) {
        // ORDER(local): Relaxed; a hint for reports, nothing is published by it.
        self.local.store(local, Ordering::Relaxed);
    }

    /// The other side is gone for good.
    pub(crate) fn close(&self, refusal: Refusal) {
        lock(&self.state).closed.get_or_insert(refusal);
        // ORDER(closed): Release; pairs with the Acquire in `Entry::closed`.
        self.closed.store(true, Ordering::Release);
        self.wake();
    }

    /// The node is gone: nobody will replace the peer if it dies too.
    pub(crate) fn node_lost(&self) {
        lock(&self.state).node_lost = true;
        self.wake();
    }

    /// Why the channel is closed, if it is. `look` also looks at the peer itself, which costs a
    /// system call.
    fn closed(&self, look: bool) -> Option<Refusal> {
        // ORDER(closed): Acquire; pairs with the Release in `Entry::close`.
        if self.closed.load(Ordering::Acquire) {
            return lock(&self.state).closed.clone();
        }
        if !look {
            return None;
        }
        let state = lock(&self.state);
        let peer_gone = state.side.as_ref().is_some_and(SideSocket::hung_up);
        (state.node_lost && peer_gone).then(|| {
            Refusal::new(
                RefusalCode::Unreachable,
                "the node and the other side of this channel are gone",
            )
        })
    }

    fn wake(&self) {
        if let Some(waker) = lock(&self.waker).take() {
            waker.wake();
        }
    }
}

/// The answers that a channel waits for on one lane: one place for each sequence since `base`.
#[derive(Debug, Default)]
struct Questions {
    base: u64,
    places: VecDeque<Place>,
}

#[derive(Debug)]
enum Place {
    Open,
    Answered(Result<Vec<u8>, Refusal>),
    /// Nobody waits: a tell, or a question that was given up or answered and taken.
    Idle,
}

impl Questions {
    /// Notes that `sequence` was sent. Sequences come without a gap.
    fn sent(&mut self, sequence: Sequence, wants_reply: bool) {
        if self.places.is_empty() {
            self.base = sequence.get();
        }
        debug_assert_eq!(
            self.base + self.places.len() as u64,
            sequence.get(),
            "a gap in our own sequences"
        );
        if wants_reply || !self.places.is_empty() {
            self.places.push_back(if wants_reply {
                Place::Open
            } else {
                Place::Idle
            });
        }
    }

    fn place(&mut self, sequence: Sequence) -> Option<&mut Place> {
        let at = usize::try_from(sequence.get().checked_sub(self.base)?).ok()?;
        self.places.get_mut(at)
    }

    /// Files an answer. One that nobody waits for is dropped: a late one, or the second of two that
    /// a crash between "replied" and "done" brings.
    fn answered(&mut self, sequence: Sequence, outcome: Result<Vec<u8>, Refusal>) {
        if let Some(place @ Place::Open) = self.place(sequence) {
            *place = Place::Answered(outcome);
        }
    }

    /// Takes the answer to `sequence`, if it is here.
    fn take(&mut self, sequence: Sequence) -> Option<Result<Vec<u8>, Refusal>> {
        let place = self.place(sequence)?;
        if !matches!(place, Place::Answered(_)) {
            return None;
        }
        let Place::Answered(outcome) = std::mem::replace(place, Place::Idle) else {
            return None;
        };
        self.trim();
        Some(outcome)
    }

    fn forget(&mut self, sequence: Sequence) {
        if let Some(place) = self.place(sequence) {
            *place = Place::Idle;
        }
        self.trim();
    }

    fn trim(&mut self) {
        while matches!(self.places.front(), Some(Place::Idle)) {
            self.places.pop_front();
            self.base += 1;
        }
    }
}

/// One end of a channel, owned by one thread.
#[derive(Debug)]
pub(crate) struct Channel {
    sender: Sender,
    receiver: Receiver,
    entry: Arc<Entry>,
    domain: Domain,
    questions: PerLane<Questions>,
    buffer: Vec<u8>,
    /// A peer that broke the rules is not listened to again.
    fault: Option<Refusal>,
    /// What our half takes of the budget.
    _room: Lease,
    /// What it takes since it has grown.
    growth: Growth,
}

impl Channel {
    pub(crate) fn new(
        mut sender: Sender,
        receiver: Receiver,
        entry: Arc<Entry>,
        domain: Domain,
        room: Lease,
    ) -> Self {
        let growth = Growth::new(domain.room(), entry.id, CLIENT_GROWTH_BYTES, &mut sender);
        Self {
            sender,
            receiver,
            entry,
            domain,
            questions: PerLane::default(),
            buffer: Vec::new(),
            fault: None,
            _room: room,
            growth,
        }
    }

    pub(crate) fn id(&self) -> ChannelId {
        self.entry.id
    }

    pub(crate) fn is_local(&self) -> bool {
        // ORDER(local): Relaxed; a hint for reports, nothing is published by it.
        self.entry.local.load(Ordering::Relaxed)
    }

    /// Sends without waiting. Where the channel is full and could grow, the memory manager has been
    /// asked: a later try may find room.
    pub(crate) fn try_send(
        &mut self,
        lane: Lane,
        kind: MessageKind,
        type_index: TypeIndex,
        body: &[u8],
    ) -> Result<Sequence, Error> {
        self.check()?;
        self.check_questions(lane)?;
        let header = Header {
            kind,
            type_index,
            correlation: Sequence::ZERO,
            has_descriptors: false,
        };
        let mut sent = self.sender.try_send(lane, header, body);
        while matches!(sent, Err(SendError::Full { .. }))
            && self.growth.allow(&mut self.sender, lane)
        {
            sent = self.sender.try_send(lane, header, body);
        }
        match sent {
            Ok(sequence) => {
                self.questions[lane].sent(sequence, kind == MessageKind::Request);
                Ok(sequence)
            }
            Err(SendError::Full { .. }) => Err(Error::new(
                RefusalCode::Busy,
                "the channel is full: the service does not keep up; wait for answers, or send later",
            )),
            Err(SendError::Peer(fault)) => Err(self.broken(fault.into())),
            Err(error @ (SendError::TooLarge { .. } | SendError::OutOfTurn { .. })) => {
                Err(Error::new(RefusalCode::TooLarge, error.to_string()))
            }
        }
    }

    /// Sends, and waits for room where the channel is full.
    pub(crate) fn send(
        &mut self,
        lane: Lane,
        kind: MessageKind,
        type_index: TypeIndex,
        body: &[u8],
        timeout: Duration,
    ) -> Result<Sequence, Error> {
        let deadline = Instant::now() + timeout;
        loop {
            // Of these no other thread makes fewer, so that waiting would not help.
            self.check_questions(lane)?;
            match self.try_send(lane, kind, type_index, body) {
                Err(error) if error.code() == RefusalCode::Busy => {
                    // Our peer may wait for room too: taking its answers is what lets it go on.
                    self.drain()?;
                    let done = self.done(lane)?;
                    self.sender.wake_when_done(lane, done.next());
                    self.sleep_until(deadline, |channel| {
                        channel.growth.is_answered() || channel.sender.fits(lane, body.len())
                    })
                    .map_err(|slept| match slept.code() {
                        RefusalCode::DeadlineExceeded => unsent(&error, timeout),
                        _ => slept,
                    })?;
                }
                outcome => return outcome,
            }
        }
    }

    /// Refuses a further question where none of the last so many answers was waited for.
    fn check_questions(&self, lane: Lane) -> Result<(), Error> {
        if self.questions[lane].places.len() < MAX_OPEN_QUESTIONS {
            return Ok(());
        }
        Err(Error::new(
            RefusalCode::Busy,
            format!(
                "{MAX_OPEN_QUESTIONS} answers on {lane} have not been waited for; the message was not sent: wait for the first of them"
            ),
        ))
    }

    /// Up to where the other side has handled what was sent on this lane.
    pub(crate) fn done(&mut self, lane: Lane) -> Result<Sequence, Error> {
        match self.sender.done(lane) {
            Ok(done) => Ok(done),
            Err(fault) => Err(self.broken(fault.into())),
        }
    }

    /// Waits until everything before `up_to` has been handled.
    pub(crate) fn wait_done(
        &mut self,
        lane: Lane,
        up_to: Sequence,
        timeout: Duration,
    ) -> Result<(), Error> {
        let deadline = Instant::now() + timeout;
        while self.done(lane)? < up_to {
            self.drain()?;
            self.sender.wake_when_done(lane, up_to);
            self.sleep_until(deadline, |channel| {
                channel.sender.done(lane).is_ok_and(|done| done >= up_to)
            })?;
        }
        Ok(())
    }

    /// Waits in this thread for the answer to `question`: spins for the price of a wake, then sleeps.
    pub(crate) fn wait(
        &mut self,
        lane: Lane,
        question: Sequence,
        timeout: Duration,
    ) -> Result<Vec<u8>, Error> {
        let deadline = Instant::now() + timeout;
        let mut spin = Spin::new();
        loop {
            self.drain()?;
            if let Some(outcome) = self.questions[lane].take(question) {
                return Ok(outcome?);
            }
            if spin.again() {
                continue;
            }
            if let Err(error) = self.sleep_until(deadline, |channel| channel.receiver.ready()) {
                return self.last_look(lane, question, error);
            }
        }
    }

    /// The asynchronous form of [`Channel::wait`].
    pub(crate) fn poll_wait(
        &mut self,
        lane: Lane,
        question: Sequence,
        context: &mut Context<'_>,
    ) -> Poll<Result<Vec<u8>, Error>> {
        self.entry
            .watch(&mut lock(&self.entry.state), self.domain.watcher());
        *lock(&self.entry.waker) = Some(context.waker().clone());
        if let Err(error) = self.drain() {
            return Poll::Ready(Err(error));
        }
        if let Some(outcome) = self.questions[lane].take(question) {
            return Poll::Ready(outcome.map_err(Error::from));
        }
        if let Some(refusal) = self.entry.closed(true) {
            return Poll::Ready(self.last_look(lane, question, refusal.into()));
        }
        self.receiver.park();
        if self.receiver.ready() {
            // The executor's other tasks come first: a peer that never stops must not stop them.
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Gives a question up with `error`, unless its answer came with the last breath of the peer.
    fn last_look(
        &mut self,
        lane: Lane,
        question: Sequence,
        error: Error,
    ) -> Result<Vec<u8>, Error> {
        // Once for each of its rings, so that all that an honest peer has left is read.
        for _ in Lane::ALL {
            self.drain()?;
        }
        if let Some(outcome) = self.questions[lane].take(question) {
            return Ok(outcome?);
        }
        self.questions[lane].forget(question);
        Err(error)
    }

    /// Gives a question up. Its answer is dropped when it comes.
    pub(crate) fn forget(&mut self, lane: Lane, question: Sequence) {
        self.questions[lane].forget(question);
    }

    /// Files the answers that have come. Of a peer that answers as fast as they are read, as many as
    /// a ring of the usual size holds, so that the caller gets to look at its clock.
    fn drain(&mut self) -> Result<(), Error> {
        for _ in 0..MAX_DRAIN {
            let received = match self.receiver.try_receive(&mut self.buffer) {
                Ok(Some(received)) => received,
                Ok(None) => return Ok(()),
                Err(fault) => return Err(self.broken(fault.into())),
            };
            let (lane, header) = (received.lane, received.header);
            if header.kind.answers() {
                let outcome = read_answer(header.kind, std::mem::take(&mut self.buffer));
                self.questions[lane].answered(header.correlation, outcome);
            }
            // A service has nothing to ask of its client: such a message is dropped.
            self.receiver.finish(lane, received.sequence.next());
        }
        Ok(())
    }

    /// Sleeps until the bell rings, `ready` holds, or it is time to look around.
    fn sleep_until(
        &mut self,
        deadline: Instant,
        ready: impl Fn(&mut Self) -> bool,
    ) -> Result<(), Error> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::new(
                RefusalCode::DeadlineExceeded,
                "the answer did not come in time; the request may still be handled",
            ));
        }
        let bell = lock(&self.entry.state).swapper.as_ref().map(Swapper::bell);
        let Some(bell) = bell else { return Ok(()) };
        let value = bell.value();
        let mut bells = vec![(bell, value)];
        self.receiver.park();
        if self.growth.is_asked()
            && let Some((bell, value, _)) = self.domain.room().listen()
        {
            bells.push((bell, value));
        }
        if ready(self) || self.receiver.ready() {
            return Ok(());
        }
        if let Some(refusal) = self.entry.closed(true) {
            return Err(refusal.into());
        }
        // Whatever woke us, the caller looks again.
        let _ = wait_any(&bells, Some(left.min(LOOK_AROUND)));
        Ok(())
    }

    fn check(&self) -> Result<(), Error> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone().into());
        }
        self.entry
            .closed(false)
            .map_or(Ok(()), |refusal| Err(refusal.into()))
    }

    fn broken(&mut self, error: Error) -> Error {
        self.fault.get_or_insert_with(|| error.refusal().clone());
        error
    }
}

/// A message that never went out is not one that may have been handled.
fn unsent(why: &Error, timeout: Duration) -> Error {
    Error::new(
        RefusalCode::Busy,
        format!(
            "the message was not sent within {} s: {}",
            timeout.as_secs_f32(),
            why.refusal().text
        ),
    )
}

impl Drop for Channel {
    fn drop(&mut self) {
        let watch = lock(&self.entry.state).watch.take();
        if let Some(watch) = watch {
            self.domain.watcher().unwatch(watch);
        }
        self.domain.close_channel(self.entry.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(value: u64) -> Sequence {
        Sequence::new(value)
    }

    #[test]
    fn answers_find_their_questions_in_any_order() {
        let mut questions = Questions::default();
        for at in 5..8 {
            questions.sent(sequence(at), true);
        }
        questions.answered(sequence(7), Ok(vec![7]));
        questions.answered(sequence(5), Ok(vec![5]));
        assert_eq!(questions.take(sequence(6)), None);
        assert_eq!(questions.take(sequence(7)), Some(Ok(vec![7])));
        assert_eq!(questions.take(sequence(5)), Some(Ok(vec![5])));
        questions.answered(sequence(6), Ok(vec![6]));
        assert_eq!(questions.take(sequence(6)), Some(Ok(vec![6])));
        assert!(questions.places.is_empty());
    }

    #[test]
    fn a_second_answer_and_a_forged_one_are_dropped() {
        let mut questions = Questions::default();
        questions.sent(sequence(0), true);
        questions.sent(sequence(1), false);
        questions.answered(sequence(0), Ok(vec![1]));
        questions.answered(sequence(0), Ok(vec![2]));
        questions.answered(sequence(1), Ok(vec![3]));
        questions.answered(sequence(99), Ok(vec![4]));
        assert_eq!(questions.take(sequence(0)), Some(Ok(vec![1])));
        assert_eq!(questions.take(sequence(1)), None);
    }

    #[test]
    fn a_question_given_up_leaves_nothing_behind() {
        let mut questions = Questions::default();
        questions.sent(sequence(3), true);
        questions.forget(sequence(3));
        questions.answered(sequence(3), Ok(vec![]));
        assert!(questions.places.is_empty());
        questions.sent(sequence(4), true);
        questions.answered(sequence(4), Ok(vec![4]));
        assert_eq!(questions.take(sequence(4)), Some(Ok(vec![4])));
    }
}
