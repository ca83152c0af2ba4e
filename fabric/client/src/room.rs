//! Room: how much shared memory this domain may still take, and where it gets more.
//!
//! What is granted is kept here until it is used, and what is given back is used again before the
//! memory manager is asked for more. An app asks when it opens a channel and waits for the answer. A
//! service must wait for nothing but messages: its node may be waiting for it, or be stopped. It
//! asks ahead, for several channels at once, and goes on. Room for a queue that grows is asked for by
//! itself and looked for later ([`crate::growth`]); nothing that is kept for channels goes into it. So
//! is room for an extent of a heap ([`crate::heap`]), of which the memory manager has to know the NUMA
//! node. To give back is never waited for by anyone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use weft_contract::{Accepts, Message};
use weft_local_ipc::{Bell, wait_any};
use weft_node_control::{ExtentGranted, Memory, RequestExtent, RequestGrowth, ReturnExtent};
use weft_types::{ChannelId, Lane, Refusal, RefusalCode, Sequence, TypeIndex};

use crate::domain::lock;
use crate::error::Error;
use crate::link::{Incoming, Link};

/// How long the memory manager may take for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a thread sleeps at most that waits for room: another one may take in the answer.
const LOOK_AROUND: Duration = Duration::from_millis(20);

/// The memory that this domain was granted and does not use.
#[derive(Debug)]
pub(crate) struct Room(Mutex<Account>);

#[derive(Debug)]
struct Account {
    link: Link,
    free_bytes: u64,
    /// What is kept for later. What is free beyond this is given back.
    keep_bytes: u64,
    /// Questions that somebody comes back for, and what became of them.
    waited: HashMap<Sequence, Waited>,
    ahead: Option<Ahead>,
    /// What a service could not get ahead; told to the next that needs it.
    refused: Option<Refusal>,
}

/// A question that somebody comes back for.
#[derive(Debug)]
enum Waited {
    /// For what is free, whoever has asked for it.
    Open,
    /// It has been added to what is free.
    Added,
    /// For this question alone.
    OpenApart,
    /// So much is kept for who asked.
    Apart(u64),
    Refused(Refusal),
    /// Nobody comes back any more, and it is not answered.
    GivenUp,
}

/// A question that nobody waits for.
#[derive(Debug)]
struct Ahead {
    question: Sequence,
    bytes: u64,
    /// What is needed at once; 0 if this only fills the store.
    need_bytes: u64,
    asked: Instant,
}

/// Room that is in use. Given back when dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    room: Arc<Room>,
    bytes: u64,
}

impl Lease {
    /// None yet.
    pub(crate) fn empty(room: &Arc<Room>) -> Self {
        room.lease(0)
    }

    /// How much it is.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// From now on both are given back together.
    pub(crate) fn absorb(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut account = lock(&self.room.0);
        account.free_bytes += self.bytes;
        account.give_back();
    }
}

impl Room {
    /// Room that is granted over `link`, none of it yet.
    pub(crate) fn new(link: Link) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Account {
            link,
            free_bytes: 0,
            keep_bytes: 0,
            waited: HashMap::new(),
            ahead: None,
            refused: None,
        })))
    }

    /// Takes `bytes`, and waits for the memory manager if it has to be asked.
    ///
    /// # Errors
    ///
    /// `OverBudget`; `Unreachable` and `DeadlineExceeded` if the node does not answer.
    pub(crate) fn take(self: &Arc<Self>, bytes: u64) -> Result<Lease, Error> {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let mut question = None;
        loop {
            let mut account = lock(&self.0);
            let outcome = account.try_take(bytes, &mut question);
            if let Some(asked) = question.filter(|_| !matches!(outcome, Ok(false))) {
                account.forget(asked);
            }
            if outcome? {
                return Ok(self.lease(bytes));
            }
            sleep(account, question, deadline)?;
        }
    }

    /// Takes `bytes` for an extent on a NUMA node (`None`: wherever), and waits for the memory manager,
    /// which is always asked. What is free here is for channels, and granted for no node.
    ///
    /// # Errors
    ///
    /// `OverBudget`; `Rejected` if the machine has no such node; else as [`Self::take`].
    pub(crate) fn take_extent(
        self: &Arc<Self>,
        bytes: u64,
        numa_node: Option<u32>,
    ) -> Result<Lease, Error> {
        let request = RequestExtent { bytes, numa_node };
        let index = <Memory as Accepts<RequestExtent>>::INDEX;
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let mut question = None;
        loop {
            let mut account = lock(&self.0);
            if let Some(bytes) = account.try_apart(index, &request, &mut question)? {
                return Ok(self.lease(bytes));
            }
            sleep(account, question, deadline)?;
        }
    }

    /// Keeps `bytes` for later from now on, and gets them if they are to be had.
    pub(crate) fn keep(self: &Arc<Self>, bytes: u64) {
        lock(&self.0).keep_bytes = bytes;
        // What is taken is given back at once, and so is there.
        if let Err(error) = self.take(bytes) {
            tracing::debug!(%error, "no room ahead");
        }
    }

    /// Whether [`Self::take_now`] has an answer, without waiting. If not, the memory manager has
    /// been asked; see [`Self::listen`].
    ///
    /// # Errors
    ///
    /// If the memory manager breaks the rules.
    pub(crate) fn can_tell(&self, bytes: u64) -> Result<bool, Error> {
        let mut account = lock(&self.0);
        account.hear()?;
        if account.free_bytes >= bytes || account.refused.is_some() {
            return Ok(true);
        }
        account.ask_ahead(bytes)?;
        Ok(false)
    }

    /// Takes `bytes` from what was granted ahead.
    ///
    /// # Errors
    ///
    /// `OverBudget`; `Busy` if more has to be asked for first.
    pub(crate) fn take_now(self: &Arc<Self>, bytes: u64) -> Result<Lease, Error> {
        let mut account = lock(&self.0);
        account.hear()?;
        if account.free_bytes < bytes {
            return Err(account.refused.take().map_or_else(
                || Error::new(RefusalCode::Busy, "memory is being asked for; try again"),
                Error::from,
            ));
        }
        account.free_bytes -= bytes;
        if account.free_bytes < account.keep_bytes / 2 {
            account.ask_ahead(0)?;
        }
        Ok(self.lease(bytes))
    }

    /// Takes `bytes` for a queue that grows, if they have been granted. Else sees to it that they have
    /// been asked for, under `question`; the answer is for who asked, and may be of another size than
    /// what is asked for by then.
    ///
    /// # Errors
    ///
    /// `OverBudget`, and what else a node refuses.
    pub(crate) fn take_apart(
        self: &Arc<Self>,
        channel: ChannelId,
        bytes: u64,
        question: &mut Option<Sequence>,
    ) -> Result<Option<Lease>, Error> {
        let request = RequestGrowth { channel, bytes };
        let index = <Memory as Accepts<RequestGrowth>>::INDEX;
        let taken = lock(&self.0).try_apart(index, &request, question)?;
        Ok(taken.map(|bytes| self.lease(bytes)))
    }

    /// Nobody comes back for this answer.
    pub(crate) fn forget(&self, question: Sequence) {
        lock(&self.0).forget(question);
    }

    /// Whether a question has its answer.
    pub(crate) fn is_answered(&self, question: Sequence) -> bool {
        !lock(&self.0).is_open(question)
    }

    /// The bell to sleep on while something is asked for and has not come yet, and whether anything
    /// has come just now.
    pub(crate) fn listen(&self) -> Option<(Bell, u32, bool)> {
        let mut account = lock(&self.0);
        let open = account.ahead.is_some() || account.waited.values().any(Waited::is_open);
        if !open {
            return None;
        }
        let came = account.link.ready();
        if came && let Err(error) = account.hear() {
            // Whoever asks next is told.
            tracing::debug!(%error, "the memory manager");
        }
        let (bell, value, ready) = account.listen();
        Some((bell, value, came || ready))
    }

    fn lease(self: &Arc<Self>, bytes: u64) -> Lease {
        Lease {
            room: Arc::clone(self),
            bytes,
        }
    }
}

impl Account {
    /// Takes `bytes` if they are here, else sees to it that they have been asked for.
    fn try_take(&mut self, bytes: u64, question: &mut Option<Sequence>) -> Result<bool, Error> {
        self.hear()?;
        if self.free_bytes >= bytes {
            self.free_bytes -= bytes;
            return Ok(true);
        }
        if let Some(asked) = *question {
            if self.is_open(asked) {
                return Ok(false);
            }
            *question = None;
            if let Some(Waited::Refused(refusal)) = self.waited.remove(&asked) {
                return Err(refusal.into());
            }
            // Somebody else has taken it: once more.
        }
        *question = self.ask(bytes)?;
        let waited = question.map(|asked| (asked, Waited::Open));
        self.waited.extend(waited);
        Ok(false)
    }

    /// What was granted to `question` alone, if its answer is here. Else sees to it that it has been
    /// asked.
    fn try_apart(
        &mut self,
        index: TypeIndex,
        request: &impl Message,
        question: &mut Option<Sequence>,
    ) -> Result<Option<u64>, Error> {
        self.hear()?;
        let Some(asked) = *question else {
            *question = self.ask_for(index, request)?;
            let waited = question.map(|asked| (asked, Waited::OpenApart));
            self.waited.extend(waited);
            return Ok(None);
        };
        if self.is_open(asked) {
            return Ok(None);
        }
        *question = None;
        match self.waited.remove(&asked) {
            Some(Waited::Apart(bytes)) => Ok(Some(bytes)),
            Some(Waited::Refused(refusal)) => Err(refusal.into()),
            // Then it would be open, or was never asked apart.
            _ => Ok(None),
        }
    }

    /// Nobody comes back for this answer: what it grants is free, or goes back, now or when it comes.
    fn forget(&mut self, question: Sequence) {
        match self.waited.remove(&question) {
            Some(Waited::Apart(bytes)) => {
                self.free_bytes = self.free_bytes.saturating_add(bytes);
                self.give_back();
            }
            Some(waited) if waited.is_open() => {
                self.waited.insert(question, Waited::GivenUp);
            }
            _ => {}
        }
    }

    /// Whether the memory manager still owes the answer to a question that somebody comes back for.
    fn is_open(&self, question: Sequence) -> bool {
        self.waited.get(&question).is_some_and(Waited::is_open)
    }

    /// Asks for room. `None` if the memory manager has too much to read already.
    fn ask(&mut self, bytes: u64) -> Result<Option<Sequence>, Error> {
        let request = RequestExtent {
            bytes,
            numa_node: None,
        };
        self.ask_for(<Memory as Accepts<RequestExtent>>::INDEX, &request)
    }

    fn ask_for(
        &mut self,
        index: TypeIndex,
        request: &impl Message,
    ) -> Result<Option<Sequence>, Error> {
        match self.link.ask(Lane::NORMAL, index, &encoded(request)?, &[]) {
            Ok(question) => Ok(Some(question)),
            Err(error) if error.code() == RefusalCode::Busy => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks for what is needed and for as much again as is to be kept, unless that is under way.
    fn ask_ahead(&mut self, need_bytes: u64) -> Result<(), Error> {
        match &mut self.ahead {
            Some(ahead) if ahead.asked.elapsed() < ANSWER_TIMEOUT => {
                ahead.need_bytes = ahead.need_bytes.max(need_bytes);
                Ok(())
            }
            _ => self.ask_exactly(need_bytes + self.keep_bytes, need_bytes),
        }
    }

    fn ask_exactly(&mut self, bytes: u64, need_bytes: u64) -> Result<(), Error> {
        self.ahead = self.ask(bytes)?.map(|question| Ahead {
            question,
            bytes,
            need_bytes,
            asked: Instant::now(),
        });
        Ok(())
    }

    /// Takes in what the memory manager has answered.
    fn hear(&mut self) -> Result<(), Error> {
        while let Some(incoming) = self.link.poll()? {
            // The memory manager has nothing to ask of us.
            let Incoming::Answer {
                question, outcome, ..
            } = incoming
            else {
                continue;
            };
            let ahead = self.ahead.take_if(|ahead| ahead.question == question);
            match outcome {
                // Of something given back nothing is answered: it was told.
                Ok(body) => {
                    let granted: ExtentGranted = weft_contract::decode(&body)?;
                    self.granted(question, granted.bytes);
                }
                Err(refusal) => match (self.waited.get_mut(&question), ahead) {
                    (Some(Waited::GivenUp), _) => {
                        self.waited.remove(&question);
                    }
                    (Some(waited), _) => *waited = Waited::Refused(refusal),
                    // So much was not to be had; what is needed may be.
                    (None, Some(ahead))
                        if ahead.need_bytes > 0 && ahead.bytes > ahead.need_bytes =>
                    {
                        self.ask_exactly(ahead.need_bytes, ahead.need_bytes)?;
                    }
                    (None, Some(ahead)) if ahead.need_bytes > 0 => self.refused = Some(refusal),
                    // Nobody needs it.
                    (None, _) => {}
                },
            }
        }
        Ok(())
    }

    /// Puts what was granted where who asked looks for it. If nobody does any more, it is free.
    fn granted(&mut self, question: Sequence, bytes: u64) {
        match self.waited.get_mut(&question) {
            Some(waited @ Waited::OpenApart) => {
                *waited = Waited::Apart(bytes);
                return;
            }
            Some(Waited::GivenUp) => {
                self.waited.remove(&question);
                self.free_bytes = self.free_bytes.saturating_add(bytes);
                self.give_back();
                return;
            }
            Some(waited) => *waited = Waited::Added,
            None => {}
        }
        self.free_bytes = self.free_bytes.saturating_add(bytes);
    }

    /// Gives back what is free beyond what is kept, unless a thread waits for it.
    fn give_back(&mut self) {
        let bytes = self.free_bytes.saturating_sub(self.keep_bytes);
        let wanted = |waited: &Waited| matches!(waited, Waited::Open | Waited::Added);
        if bytes == 0 || self.waited.values().any(wanted) {
            return;
        }
        let index = <Memory as Accepts<ReturnExtent>>::INDEX;
        let told = encoded(&ReturnExtent { bytes })
            .and_then(|body| self.link.tell(Lane::NORMAL, index, &body));
        match told {
            Ok(()) => self.free_bytes -= bytes,
            // It stays here, and goes with what is given back next.
            Err(error) => tracing::debug!(%error, bytes, "memory could not be given back yet"),
        }
    }

    fn listen(&mut self) -> (Bell, u32, bool) {
        let bell = self.link.swapper().bell();
        let value = bell.value();
        self.link.park();
        (bell, value, self.link.ready())
    }
}

impl Waited {
    fn is_open(&self) -> bool {
        matches!(self, Self::Open | Self::OpenApart)
    }
}

/// Sleeps until something may have come. Forgets the question if nothing will, or not in time.
fn sleep(
    mut account: MutexGuard<'_, Account>,
    question: Option<Sequence>,
    deadline: Instant,
) -> Result<(), Error> {
    let (bell, value, ready) = account.listen();
    let gone = account.link.side().hung_up();
    if gone || Instant::now() >= deadline {
        if let Some(asked) = question {
            account.forget(asked);
        }
        return Err(unanswered(gone));
    }
    drop(account);
    if !ready {
        // Whatever woke us, we look again.
        let _ = wait_any(&[(bell, value)], Some(LOOK_AROUND));
    }
    Ok(())
}

fn encoded<M: Message>(message: &M) -> Result<Vec<u8>, Error> {
    let mut body = Vec::new();
    weft_contract::encode(message, &mut body)?;
    Ok(body)
}

fn unanswered(gone: bool) -> Error {
    if gone {
        return Error::new(RefusalCode::Unreachable, "the node of this process is gone");
    }
    Error::new(
        RefusalCode::DeadlineExceeded,
        format!(
            "the node did not answer within {} s whether there is memory",
            ANSWER_TIMEOUT.as_secs()
        ),
    )
}

#[cfg(test)]
pub(crate) mod tests {
    use weft_contract::Contract;
    use weft_local_ipc::{Geometry, OwnHalf, PeerHalf, SideSocket, Start};
    use weft_node_control::MemoryRequest;

    use super::*;

    /// A room, and the memory manager's end of its link.
    pub(crate) fn room() -> (Arc<Room>, Link) {
        let half = || OwnHalf::create(Geometry::DEFAULT, Start::default()).unwrap();
        let (ours, theirs) = (half(), half());
        let peer = |half: &OwnHalf| PeerHalf::open(half.share().unwrap()).unwrap();
        let (for_us, for_them) = (peer(&theirs), peer(&ours));
        let (near, far) = SideSocket::pair().unwrap();
        let room = Room::new(Link::new(ours, for_us, near).unwrap());
        (room, Link::new(theirs, for_them, far).unwrap())
    }

    /// Answers every question that has come, out of `left` bytes. Gives what was given back.
    pub(crate) fn manage(manager: &mut Link, left: &mut u64) -> u64 {
        let mut returned = 0;
        while let Some(incoming) = manager.poll().unwrap() {
            let Incoming::Request(request) = incoming else {
                panic!("{incoming:?}")
            };
            let asked = match Memory::decode(request.index, &request.body).unwrap() {
                MemoryRequest::RequestExtent(extent) => extent.bytes,
                MemoryRequest::RequestGrowth(growth) => growth.bytes,
                MemoryRequest::ReturnExtent(extent) => {
                    assert!(!request.wants_reply, "giving back waits for nobody");
                    *left += extent.bytes;
                    returned += extent.bytes;
                    continue;
                }
            };
            let outcome = if asked <= *left {
                *left -= asked;
                Ok(encoded(&ExtentGranted {
                    bytes: asked,
                    budget_bytes: 0,
                    used_bytes: 0,
                    enforced: false,
                })
                .unwrap())
            } else {
                Err(Refusal::new(RefusalCode::OverBudget, "no more"))
            };
            manager
                .answer_or_keep(
                    request.lane,
                    request.sequence,
                    request.index,
                    outcome,
                    Vec::new(),
                )
                .unwrap();
        }
        returned
    }

    /// Does `work` while a memory manager with `left` bytes answers.
    pub(crate) fn managed<T>(manager: Link, left: u64, work: impl FnOnce() -> T) -> (T, Link, u64) {
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (mut manager, mut left, stop) = (manager, left, &stop);
            let managing = scope.spawn(move || {
                while !stop.load(std::sync::atomic::Ordering::Acquire) {
                    manage(&mut manager, &mut left);
                    std::thread::yield_now();
                }
                // What was given back last: nobody waits for that.
                manage(&mut manager, &mut left);
                (manager, left)
            });
            let done = work();
            stop.store(true, std::sync::atomic::Ordering::Release);
            let (manager, left) = managing.join().unwrap();
            (done, manager, left)
        })
    }

    #[test]
    fn what_is_dropped_is_given_back_without_waiting() {
        let (room, manager) = room();
        let (lease, mut manager, mut left) = managed(manager, 100, || room.take(60).unwrap());
        assert_eq!(left, 40);
        // Nobody answers from here on.
        let begin = Instant::now();
        drop(lease);
        assert!(begin.elapsed() < Duration::from_secs(1));
        assert_eq!(manage(&mut manager, &mut left), 60);
    }

    #[test]
    fn more_than_the_budget_is_refused_and_what_was_refused_does_not_count() {
        let (room, manager) = room();
        let (codes, _, left) = managed(manager, 100, || {
            [101, 1000].map(|bytes| room.take(bytes).unwrap_err().code())
        });
        assert_eq!(codes, [RefusalCode::OverBudget; 2]);
        assert_eq!(left, 100);
    }

    #[test]
    fn a_service_never_waits_and_gets_by_with_less_than_it_would_keep() {
        let (room, mut manager) = room();
        let mut left = 35;
        lock(&room.0).keep_bytes = 40;
        assert!(!room.can_tell(10).unwrap(), "it was asked for just now");
        assert_eq!(room.take_now(10).unwrap_err().code(), RefusalCode::Busy);
        // 50 are refused, so that 10 are asked for.
        manage(&mut manager, &mut left);
        assert!(!room.can_tell(10).unwrap());
        manage(&mut manager, &mut left);
        assert!(room.can_tell(10).unwrap());
        let lease = room.take_now(10).unwrap();
        assert_eq!(left, 25);
        // What is given back is kept for the next.
        drop(lease);
        manage(&mut manager, &mut left);
        assert_eq!(left, 25);
        let _lease = room.take_now(10).unwrap();
    }

    #[test]
    fn a_service_that_gets_nothing_says_so_to_who_needs_it() {
        let (room, mut manager) = room();
        let mut left = 5;
        for _ in 0..3 {
            assert!(!room.can_tell(10).unwrap());
            manage(&mut manager, &mut left);
            assert!(room.can_tell(10).unwrap());
            let refused = room.take_now(10).unwrap_err();
            assert_eq!(refused.code(), RefusalCode::OverBudget);
        }
    }

    #[test]
    fn who_finds_that_another_has_taken_what_it_asked_for_asks_again() {
        let (room, mut manager) = room();
        let mut left = 20;
        let mut question = None;
        let try_take = |question: &mut _| lock(&room.0).try_take(10, question).unwrap();
        assert!(!try_take(&mut question));
        manage(&mut manager, &mut left);
        let _theirs = room.take_now(10).unwrap();
        assert!(!try_take(&mut question));
        manage(&mut manager, &mut left);
        assert!(try_take(&mut question));
    }

    #[test]
    fn what_a_queue_asked_for_is_taken_by_nobody_else_and_comes_back_if_it_is_forgotten() {
        let (room, mut manager) = room();
        let (channel, mut left) = (ChannelId::random(), 100);
        let mut question = None;
        let take = |bytes, question: &mut _| room.take_apart(channel, bytes, question).unwrap();
        assert!(take(10, &mut question).is_none());
        assert!(take(10, &mut question).is_none(), "asked once");
        manage(&mut manager, &mut left);
        assert_eq!(left, 90);
        assert_eq!(room.take_now(10).unwrap_err().code(), RefusalCode::Busy);
        assert_eq!(take(10, &mut question).unwrap().bytes(), 10);
        assert_eq!(manage(&mut manager, &mut left), 10, "dropped at once");

        assert!(take(10, &mut question).is_none());
        manage(&mut manager, &mut left);
        assert!(room.listen().is_some_and(|(_, _, came)| came));
        room.forget(question.take().unwrap());
        assert_eq!(manage(&mut manager, &mut left), 10);
        assert_eq!(left, 100);
    }

    #[test]
    fn a_grant_that_comes_after_nobody_waits_any_more_goes_back() {
        let (room, mut manager) = room();
        let mut left = 100;
        let index = <Memory as Accepts<RequestExtent>>::INDEX;
        let request = |bytes| RequestExtent {
            bytes,
            numa_node: None,
        };
        for (bytes, granted) in [(60, 60), (101, 0)] {
            let mut question = None;
            let mut account = lock(&room.0);
            let taken = account.try_apart(index, &request(bytes), &mut question);
            assert!(taken.unwrap().is_none());
            account.forget(question.unwrap());
            drop(account);
            manage(&mut manager, &mut left);
            assert_eq!(left, 100 - granted);
            lock(&room.0).hear().unwrap();
            assert_eq!(manage(&mut manager, &mut left), granted);
            assert_eq!(left, 100);
            assert!(lock(&room.0).waited.is_empty());
        }
    }
}
