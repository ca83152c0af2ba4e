//! A line: a link of the daemon's that tasks can ask over and wait.
//!
//! The daemon is one thread. Every line has a task that takes what comes in: answers go to whoever
//! asked, requests to the handler that the line was opened with. The watcher thread of `local-ipc`
//! only rings.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, SemaphorePermit, oneshot};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout_at};
use weft::{Error, Incoming, Link, Request};
use weft_contract::{Accepts, Message};
use weft_local_ipc::{PeerHalf, Ring, SideSocket, Swapper, WatchId, Watcher};
use weft_types::{Lane, Refusal, RefusalCode, Sequence, TypeIndex};

/// How long to wait before a full line is tried again. Lines carry control messages, so that a full
/// one means a peer that has stopped listening; there is no hurry.
const FULL_RETRY: Duration = Duration::from_millis(2);

/// How often an answer is tried again that its asker has no room for.
const ANSWER_RETRIES: u32 = 1000;

/// How many messages of one line are taken before the daemon's other tasks have their turn.
const BATCH: usize = 64;

/// How many requests of one process may be under way. Those that come then are held back.
const MAX_OPEN: usize = 64;

/// How many more are held back, so that answers behind them get through: what is under way may wait
/// for one. At the bound nothing more is read, and the asker's ring fills up.
const MAX_HELD: usize = 128;

/// The same two for the gateway, which asks for all of the remote clients, and of whose answers the
/// daemon needs many at once.
const MAX_OPEN_WIDE: usize = 512;
const MAX_HELD_WIDE: usize = 4096;

/// How many channels one process may have being opened at a time; further ones wait their turn.
const MAX_OPENING: usize = 16;

/// How many clients one service may have being attached at a time; further ones wait their turn. More
/// than one opener may have, so that a service is not one opener's alone.
const MAX_ATTACHING: usize = 2 * MAX_OPENING;

/// An answer: the reply and what came beside it.
pub type Answer = Result<(Vec<u8>, Vec<OwnedFd>), Refusal>;

/// One end of a channel, for the daemon's tasks. Clones are the same line.
#[derive(Clone)]
pub struct Line {
    inner: Rc<Inner>,
}

struct Inner {
    link: RefCell<Link>,
    bell: Arc<Notify>,
    waiting: RefCell<HashMap<(Lane, Sequence), oneshot::Sender<Answer>>>,
    closed: RefCell<Option<Refusal>>,
    /// Who asks sends in turn, also where the line is full: what was asked first arrives first.
    turn: tokio::sync::Mutex<()>,
    watch: Cell<Option<WatchId>>,
    watcher: Rc<Watcher>,
    /// Requests of the peer's that are being worked on, or whose answer waits for room.
    open: Cell<usize>,
    max_open: usize,
    /// Requests that wait until fewer are open.
    held: RefCell<VecDeque<Request>>,
    max_held: usize,
    opening: Semaphore,
    attaching: Semaphore,
}

/// A request is open for as long as this lives.
struct Open(Rc<Inner>);

impl Open {
    fn new(inner: &Rc<Inner>) -> Self {
        inner.open.set(inner.open.get() + 1);
        Self(Rc::clone(inner))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let open = self.0.open.get();
        self.0.open.set(open - 1);
        if open == self.0.max_open {
            self.0.bell.notify_one();
        }
    }
}

/// What a look at a line found.
#[derive(Debug, Eq, PartialEq)]
enum Taken {
    /// Nothing is left, or what is left has to wait until fewer requests are open.
    All,
    /// There may be more.
    Batch,
    /// The line is of no use any more.
    Closed,
}

impl Line {
    /// Opens a line over `link`. `serve` is called with each request that comes in; it answers by
    /// [`Line::answer`], now or later. Must run inside a `LocalSet`.
    ///
    /// Of one peer only so many requests are under way at a time, and after so many the others have
    /// their turn: whoever floods its line waits for itself.
    pub fn open(
        link: Link,
        watcher: &Rc<Watcher>,
        serve: impl Fn(Line, Request) + 'static,
    ) -> Self {
        Self::bounded(link, watcher, MAX_OPEN, MAX_HELD, serve)
    }

    /// [`Line::open`] for a peer that speaks for many, and is one of the node's own parts.
    pub fn open_wide(
        link: Link,
        watcher: &Rc<Watcher>,
        serve: impl Fn(Line, Request) + 'static,
    ) -> Self {
        Self::bounded(link, watcher, MAX_OPEN_WIDE, MAX_HELD_WIDE, serve)
    }

    fn bounded(
        link: Link,
        watcher: &Rc<Watcher>,
        max_open: usize,
        max_held: usize,
        serve: impl Fn(Line, Request) + 'static,
    ) -> Self {
        let bell = Arc::new(Notify::new());
        let watch = watch(watcher, link.swapper(), link.side(), &bell);
        let line = Self {
            inner: Rc::new(Inner {
                link: RefCell::new(link),
                bell,
                waiting: RefCell::default(),
                closed: RefCell::default(),
                turn: tokio::sync::Mutex::new(()),
                watch: Cell::new(Some(watch)),
                watcher: Rc::clone(watcher),
                open: Cell::new(0),
                max_open,
                held: RefCell::default(),
                max_held,
                opening: Semaphore::new(MAX_OPENING),
                attaching: Semaphore::new(MAX_ATTACHING),
            }),
        };
        // The task holds the line only while it works, so that dropping the last clone ends it.
        let weak = Rc::downgrade(&line.inner);
        let bell = Arc::clone(&line.inner.bell);
        tokio::task::spawn_local(async move {
            loop {
                let Some(inner) = weak.upgrade() else { return };
                let taken = Line { inner }.take_batch(&serve);
                match taken {
                    Taken::All => bell.notified().await,
                    Taken::Batch => yield_now().await,
                    Taken::Closed => return,
                }
            }
        });
        line
    }

    /// Takes what has come, up to a bound.
    fn take_batch(&self, serve: &impl Fn(Line, Request)) -> Taken {
        for _ in 0..BATCH {
            if self.inner.closed.borrow().is_some() {
                return Taken::Closed;
            }
            let may_start = self.inner.open.get() < self.inner.max_open;
            if may_start && let Some(request) = self.next_held() {
                serve(self.clone(), request);
                continue;
            }
            if self.inner.held.borrow().len() >= self.inner.max_held {
                // The end of a request that is open rings.
                return Taken::All;
            }
            let polled = self.inner.link.borrow_mut().poll();
            match polled {
                Ok(Some(Incoming::Answer {
                    lane,
                    question,
                    outcome,
                    descriptors,
                })) => {
                    let waiting = self.inner.waiting.borrow_mut().remove(&(lane, question));
                    if let Some(waiting) = waiting {
                        // Whoever asked may have given up.
                        let _ = waiting.send(outcome.map(|body| (body, descriptors)));
                    }
                }
                Ok(Some(Incoming::Request(request))) if may_start => serve(self.clone(), request),
                Ok(Some(Incoming::Request(request))) => {
                    self.inner.held.borrow_mut().push_back(request);
                }
                Ok(None) => {
                    let mut link = self.inner.link.borrow_mut();
                    link.park();
                    if !link.ready() {
                        return Taken::All;
                    }
                }
                Err(error) => {
                    self.close(error.into());
                    return Taken::Closed;
                }
            }
        }
        Taken::Batch
    }

    fn next_held(&self) -> Option<Request> {
        self.inner.held.borrow_mut().pop_front()
    }

    /// The turn of this peer, as a client, to have a channel opened.
    pub(crate) async fn turn_to_open(&self) -> Result<SemaphorePermit<'_>, Refusal> {
        turn(&self.inner.opening).await
    }

    /// The turn to have this peer, as a service, attach a client.
    pub(crate) async fn turn_to_attach(&self) -> Result<SemaphorePermit<'_>, Refusal> {
        turn(&self.inner.attaching).await
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    ///
    /// The other side's refusal; `DeadlineExceeded`; why the line is closed.
    pub async fn ask<C, M>(
        &self,
        message: &M,
        descriptors: &[OwnedFd],
        timeout: Duration,
    ) -> Result<(C::Reply, Vec<OwnedFd>), Refusal>
    where
        C: Accepts<M>,
        M: Message,
    {
        let mut body = Vec::new();
        weft_contract::encode(message, &mut body)
            .map_err(|error| Refusal::from(Error::from(error)))?;
        let (reply, descriptors) = self
            .ask_bytes(C::INDEX, &body, descriptors, timeout, M::NAME)
            .await?;
        let reply =
            weft_contract::decode(&reply).map_err(|error| Refusal::from(Error::from(error)))?;
        Ok((reply, descriptors))
    }

    async fn ask_bytes(
        &self,
        index: TypeIndex,
        body: &[u8],
        descriptors: &[OwnedFd],
        timeout: Duration,
        what: &str,
    ) -> Answer {
        let deadline = Instant::now() + timeout;
        let late = || {
            Refusal::new(
                RefusalCode::DeadlineExceeded,
                format!("{what} was not answered within {} ms", timeout.as_millis()),
            )
        };
        let (answered, answer) = oneshot::channel();
        let turn = timeout_at(deadline, self.inner.turn.lock())
            .await
            .map_err(|_| late())?;
        let question = loop {
            self.check()?;
            let asked = self
                .inner
                .link
                .borrow_mut()
                .ask(Lane::NORMAL, index, body, descriptors);
            match asked {
                Ok(sequence) => break (Lane::NORMAL, sequence),
                Err(error) if error.code() == RefusalCode::Busy && Instant::now() < deadline => {
                    sleep(FULL_RETRY).await;
                }
                Err(error) => return Err(error.into()),
            }
        };
        drop(turn);
        self.inner.waiting.borrow_mut().insert(question, answered);
        match timeout_at(deadline, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(self
                .check()
                .err()
                .unwrap_or_else(|| Refusal::new(RefusalCode::Closed, "the line was closed"))),
            Err(_) => {
                self.inner.waiting.borrow_mut().remove(&question);
                Err(late())
            }
        }
    }

    /// Answers `request`. A failure to do so concerns only the peer, and is logged.
    pub fn answer(&self, request: &Request, outcome: Result<(Vec<u8>, Vec<OwnedFd>), Refusal>) {
        if !request.wants_reply {
            return;
        }
        let (lane, question, index) = (request.lane, request.sequence, request.index);
        let line = self.clone();
        let open = Open::new(&self.inner);
        let attempt = move || {
            let mut link = line.inner.link.borrow_mut();
            match &outcome {
                Ok((body, descriptors)) => {
                    link.answer(lane, question, index, Ok(body), descriptors)
                }
                Err(refusal) => link.answer(lane, question, index, Err(refusal), &[]),
            }
        };
        match attempt() {
            Ok(()) => {}
            Err(error) if error.code() == RefusalCode::Busy => {
                // The asker's ring is full of answers that it does not take: try for a while.
                tokio::task::spawn_local(async move {
                    let _open = open;
                    for _ in 0..ANSWER_RETRIES {
                        sleep(FULL_RETRY).await;
                        match attempt() {
                            Err(error) if error.code() == RefusalCode::Busy => {}
                            _ => return,
                        }
                    }
                });
            }
            Err(error) => tracing::debug!(%error, "an answer could not be sent"),
        }
    }

    /// Runs `work` as a task of its own and answers `request` with what it gives.
    pub fn answer_with(&self, request: Request, work: impl Future<Output = Answer> + 'static) {
        let line = self.clone();
        let open = Open::new(&self.inner);
        tokio::task::spawn_local(async move {
            let _open = open;
            let outcome = work.await;
            line.answer(&request, outcome);
        });
    }

    /// The peer was replaced.
    pub fn swap(&self, half: PeerHalf, side: SideSocket) {
        let inner = &self.inner;
        inner.link.borrow().swapper().swap(half);
        inner.link.borrow_mut().replace_side(side);
        // The watcher has a copy of the old side, which the old peer's other half would see open.
        let link = inner.link.borrow();
        let watch = watch(&inner.watcher, link.swapper(), link.side(), &inner.bell);
        if let Some(old) = inner.watch.replace(Some(watch)) {
            inner.watcher.unwatch(old);
        }
        inner.bell.notify_one();
    }

    /// Ends the line: whoever waits gets `refusal`, and so does whoever asks later.
    pub fn close(&self, refusal: Refusal) {
        self.inner
            .closed
            .borrow_mut()
            .get_or_insert(refusal.clone());
        self.inner.held.borrow_mut().clear();
        for (_, waiting) in self.inner.waiting.borrow_mut().drain() {
            let _ = waiting.send(Err(refusal.clone()));
        }
        self.inner.bell.notify_one();
    }

    fn check(&self) -> Result<(), Refusal> {
        self.inner
            .closed
            .borrow()
            .as_ref()
            .map_or(Ok(()), |refusal| Err(refusal.clone()))
    }

    /// Whether the line was closed.
    pub fn is_closed(&self) -> bool {
        self.inner.closed.borrow().is_some()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(watch) = self.watch.take() {
            self.watcher.unwatch(watch);
        }
        // Wakes the task, which finds the line gone.
        self.bell.notify_one();
    }
}

fn watch(watcher: &Watcher, swapper: &Swapper, side: &SideSocket, bell: &Arc<Notify>) -> WatchId {
    let ring = Arc::clone(bell);
    watcher.watch(
        swapper,
        Some(side.as_fd()),
        Arc::new(move |_: Ring| ring.notify_one()),
    )
}

async fn turn(turns: &Semaphore) -> Result<SemaphorePermit<'_>, Refusal> {
    // Nobody closes these.
    let turn = turns.acquire().await;
    turn.map_err(|error| Refusal::new(RefusalCode::Internal, error.to_string()))
}

/// An encoded reply without descriptors.
pub fn reply<M: Message>(message: &M) -> Answer {
    reply_with(message, Vec::new())
}

/// An encoded reply with descriptors.
pub fn reply_with<M: Message>(message: &M, descriptors: Vec<OwnedFd>) -> Answer {
    let mut body = Vec::new();
    weft_contract::encode(message, &mut body).map_err(|error| Refusal::from(Error::from(error)))?;
    Ok((body, descriptors))
}
