//! A line: a link of the daemon's that tasks can ask over and wait.
//!
//! The daemon is one thread. Every line has a task that takes what comes in: answers go to whoever
//! asked, requests to the handler that the line was opened with. The watcher thread of `local-ipc`
//! only rings.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, timeout_at};
use weft::{Error, Incoming, Link, Request};
use weft_contract::{Accepts, Message};
use weft_local_ipc::{PeerHalf, SideSocket, WatchId, Watcher};
use weft_types::{Lane, Refusal, RefusalCode, Sequence, TypeIndex};

/// How long to wait before a full line is tried again. Lines carry control messages, so that a full
/// one means a peer that has stopped listening; there is no hurry.
const FULL_RETRY: Duration = Duration::from_millis(2);

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
}

impl Line {
    /// Opens a line over `link`. `serve` is called with each request that comes in; it answers by
    /// [`Line::answer`], now or later. Must run inside a `LocalSet`.
    pub fn open(
        link: Link,
        watcher: &Rc<Watcher>,
        serve: impl Fn(Line, Request) + 'static,
    ) -> Self {
        let bell = Arc::new(Notify::new());
        let ring = Arc::clone(&bell);
        let watch = watcher.watch(
            link.swapper(),
            Some(link.side().as_fd()),
            Arc::new(move |_| ring.notify_one()),
        );
        let line = Self {
            inner: Rc::new(Inner {
                link: RefCell::new(link),
                bell,
                waiting: RefCell::default(),
                closed: RefCell::default(),
                turn: tokio::sync::Mutex::new(()),
                watch: Cell::new(Some(watch)),
                watcher: Rc::clone(watcher),
            }),
        };
        // The task holds the line only while it works, so that dropping the last clone ends it.
        let weak = Rc::downgrade(&line.inner);
        let bell = Arc::clone(&line.inner.bell);
        tokio::task::spawn_local(async move {
            loop {
                let Some(inner) = weak.upgrade() else { return };
                if !(Line { inner }).take_all(&serve) {
                    return;
                }
                bell.notified().await;
            }
        });
        line
    }

    /// Takes everything that has come. False if the line is of no use any more.
    fn take_all(&self, serve: &impl Fn(Line, Request)) -> bool {
        loop {
            if self.inner.closed.borrow().is_some() {
                return false;
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
                Ok(Some(Incoming::Request(request))) => serve(self.clone(), request),
                Ok(None) => {
                    let mut link = self.inner.link.borrow_mut();
                    link.park();
                    if !link.ready() {
                        return true;
                    }
                }
                Err(error) => {
                    self.close(error.into());
                    return false;
                }
            }
        }
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
                    for _ in 0..1000 {
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
        tokio::task::spawn_local(async move {
            let outcome = work.await;
            line.answer(&request, outcome);
        });
    }

    /// The peer was replaced.
    pub fn swap(&self, half: PeerHalf, side: SideSocket) {
        self.inner.link.borrow().swapper().swap(half);
        self.inner.link.borrow_mut().replace_side(side);
        self.inner.bell.notify_one();
    }

    /// Ends the line: whoever waits gets `refusal`, and so does whoever asks later.
    pub fn close(&self, refusal: Refusal) {
        self.inner
            .closed
            .borrow_mut()
            .get_or_insert(refusal.clone());
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
