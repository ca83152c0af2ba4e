//! A domain: this process, attached to its node.
//!
//! A domain starts with three channels and reaches nothing else until its node has checked a
//! capability. One thread (the watcher of `local-ipc`) hears the node: it applies the swaps that a
//! restart or a move of a peer brings, so that an endpoint that nobody is using stays connected.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use weft_contract::{Accepts, Contract, Message, TypeTable};
use weft_local_ipc::{Geometry, OwnHalf, PeerHalf, SideSocket, Start, Watcher};
use weft_node_control::{
    ChannelOpened, CloseChannel, DescribeService, Dispatcher, Domain as DomainContract,
    DomainRequest, OpenChannel, PeerGoneNoted, PeerSwapped,
};
use weft_types::{ChannelId, Lane, Refusal, RefusalCode, Sequence, ServiceName};

use crate::bootstrap::{Attach, Attached, CHANNELS, DEBUGGABLE, Identity, VERSION};
use crate::channel::{Channel, Entry};
use crate::dynamic::DynamicEndpoint;
use crate::endpoint::Endpoint;
use crate::error::{Error, system};
use crate::heap::Heap;
use crate::link::{Incoming, Link, Request};
use crate::room::{Lease, Room};

/// How long the node may take for its part of attaching, or for a word to the memory manager.
const NODE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long opening a channel may take: the far node may be starting.
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);

/// How long to wait before a full channel to the node is tried again.
const FULL_RETRY: Duration = Duration::from_millis(2);

/// How many questions are remembered. Beyond it the oldest of those that were given up is forgotten:
/// the node has not answered it while it was asked so many more.
const MAX_QUESTIONS: usize = 1024;

/// This process, attached to its node.
///
/// Cloning gives another handle to the same domain.
#[derive(Clone, Debug)]
pub struct Domain {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    identity: Identity,
    control: Mutex<Control>,
    answered: Condvar,
    room: Arc<Room>,
    security: Mutex<Link>,
    channels: DashMap<ChannelId, Arc<Entry>>,
    /// Tells by its hang-up that the node is gone.
    bootstrap: SideSocket,
    watcher: Watcher,
}

/// An answer of the node's, with what came beside it.
type Answer = (Result<Vec<u8>, Refusal>, Vec<OwnedFd>);

/// The channel to the dispatcher, and what came over it for threads that wait.
#[derive(Debug)]
struct Control {
    /// Gone once a service's own loop has taken it over.
    link: Option<Link>,
    questions: Questions,
    lost: Option<Refusal>,
}

/// What became of the questions to the dispatcher.
#[derive(Debug, Default)]
struct Questions(BTreeMap<Sequence, Question>);

#[derive(Debug)]
enum Question {
    /// A thread waits for the answer.
    Asked,
    Answered(Answer),
    /// The thread has gone on. If the question was to open a channel, nobody has it if it opens.
    GivenUp(Option<ChannelId>),
}

impl Questions {
    fn asked(&mut self, question: Sequence) {
        self.0.insert(question, Question::Asked);
    }

    /// Files an answer. One that nobody waits for is dropped with its descriptors; gives the channel
    /// that it has opened, if it has, for the node to close.
    fn answered(&mut self, question: Sequence, answer: Answer) -> Option<ChannelId> {
        match self.0.get_mut(&question) {
            Some(place @ Question::Asked) => {
                *place = Question::Answered(answer);
                None
            }
            Some(Question::GivenUp(opens)) => {
                let opened = opens.filter(|_| answer.0.is_ok());
                self.0.remove(&question);
                opened
            }
            Some(Question::Answered(_)) | None => None,
        }
    }

    fn take(&mut self, question: Sequence) -> Option<Answer> {
        if !matches!(self.0.get(&question), Some(Question::Answered(_))) {
            return None;
        }
        match self.0.remove(&question) {
            Some(Question::Answered(answer)) => Some(answer),
            _ => None,
        }
    }

    /// Nobody waits for this answer any more.
    fn give_up(&mut self, question: Sequence, opens: Option<ChannelId>) {
        self.0.insert(question, Question::GivenUp(opens));
        if self.0.len() > MAX_QUESTIONS {
            let oldest = self
                .0
                .iter()
                .find(|(_, question)| matches!(question, Question::GivenUp(_)))
                .map(|(sequence, _)| *sequence);
            if let Some(oldest) = oldest {
                self.0.remove(&oldest);
            }
        }
    }
}

impl Domain {
    /// Connects to the node whose socket is at `socket`, under `name`.
    ///
    /// The process becomes one that no other of its user can look into (`PR_SET_DUMPABLE`), unless
    /// [`DEBUGGABLE`] is set in its environment.
    ///
    /// # Errors
    ///
    /// `Unreachable` if no node answers there; what the node refuses; `Internal` if the system
    /// denies memory or descriptors.
    pub fn attach(socket: &Path, name: ServiceName) -> Result<Self, Error> {
        let bootstrap = SideSocket::connect(socket).map_err(|error| {
            Error::new(
                RefusalCode::Unreachable,
                format!(
                    "no node answers at {}: {error}; is `weft node` running with this data directory?",
                    socket.display()
                ),
            )
        })?;
        Self::over(bootstrap, Some(name))
    }

    /// Attaches over the descriptor that the node handed to this process: its standard input.
    ///
    /// # Errors
    ///
    /// `Caller` faults if this process was not started by a node; otherwise as [`Domain::attach`].
    pub fn inherited() -> Result<Self, Error> {
        // A service follows its node, even by SIGKILL and in the middle of a long handler.
        weft_local_ipc::die_with_parent().map_err(|error| system("tie to the node", error))?;
        let stdin = std::io::stdin();
        let socket = stdin
            .as_fd()
            .try_clone_to_owned()
            .map_err(|error| system("standard input", error))?;
        let bootstrap = SideSocket::from(socket);
        if bootstrap.peer_credentials().is_err() {
            return Err(Error::new(
                RefusalCode::Rejected,
                "this process is started by a node (`weft run`), not by hand: its standard input is no socket to one",
            ));
        }
        Self::over(bootstrap, None)
    }

    fn over(bootstrap: SideSocket, name: Option<ServiceName>) -> Result<Self, Error> {
        // Before there is anything to protect: who may look into us may also write our regions.
        let debuggable = std::env::var_os(DEBUGGABLE).is_some_and(|value| value == "1");
        weft_local_ipc::harden_process(debuggable)
            .map_err(|error| system("this process cannot be protected from others", error))?;
        let halves = (0..CHANNELS)
            .map(|_| OwnHalf::create(Geometry::DEFAULT, Start::default()))
            .collect::<Result<Vec<_>, _>>()?;
        let shared = halves
            .iter()
            .map(OwnHalf::share)
            .collect::<Result<Vec<_>, _>>()?;
        let borrowed: Vec<_> = shared.iter().map(AsFd::as_fd).collect();
        let attach = Attach {
            version: VERSION,
            name,
            debuggable,
        };
        let packet = postcard::to_stdvec(&attach).map_err(|error| system("bootstrap", error))?;
        let gone = |error: &dyn std::fmt::Display| {
            Error::new(
                RefusalCode::Unreachable,
                format!("the node did not attach this process: {error}"),
            )
        };
        bootstrap
            .send(&packet, &borrowed)
            .map_err(|error| gone(&error))?;
        let (answer, descriptors) = bootstrap
            .receive(Some(NODE_TIMEOUT))
            .map_err(|error| gone(&error))?
            .ok_or_else(|| gone(&"it did not answer in time"))?;
        let identity = match postcard::from_bytes(&answer).map_err(|error| gone(&error))? {
            Attached::Refused(refusal) => return Err(refusal.into()),
            Attached::Welcome(identity) => identity,
        };
        let mut links = connect_links(halves, descriptors)?.into_iter();
        let (Some(security), Some(memory), Some(dispatcher)) =
            (links.next(), links.next(), links.next())
        else {
            return Err(gone(&"it gave fewer than three channels"));
        };
        let watcher =
            Watcher::start("weft-watcher").map_err(|error| system("watcher thread", error))?;
        let swapper = dispatcher.swapper().clone();
        let shared = Arc::new(Shared {
            identity,
            control: Mutex::new(Control {
                link: Some(dispatcher),
                questions: Questions::default(),
                lost: None,
            }),
            answered: Condvar::new(),
            room: Room::new(memory),
            security: Mutex::new(security),
            channels: DashMap::new(),
            bootstrap,
            watcher,
        });
        shared.hear_node(&swapper);
        Ok(Self { shared })
    }

    /// Who this process is, as its node knows it.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.shared.identity
    }

    /// Opens a channel to `target`, typed by its contract.
    ///
    /// # Errors
    ///
    /// `UnknownService`, `NoGrant` and its kin, `TypeMismatch` (naming the type and both
    /// fingerprints), `Unreachable`.
    pub fn open<C: Contract>(&self, target: &ServiceName) -> Result<Endpoint<C>, Error> {
        Ok(Endpoint::new(self.open_channel(target, C::table())?))
    }

    /// Opens a channel to `target` whatever its contract, which is asked for first.
    ///
    /// # Errors
    ///
    /// As [`Domain::open`].
    pub fn open_dynamic(&self, target: &ServiceName) -> Result<DynamicEndpoint, Error> {
        let described = self.dispatch(&DescribeService {
            service: target.clone(),
        })?;
        let table = described.description.table();
        Ok(DynamicEndpoint::new(
            self.open_channel(target, table)?,
            described.description,
        ))
    }

    fn open_channel(&self, target: &ServiceName, table: TypeTable) -> Result<Channel, Error> {
        let id = ChannelId::random();
        let room = self.room().take(Geometry::DEFAULT.base_bytes())?;
        let own = OwnHalf::create(Geometry::DEFAULT, Start::default())?;
        let entry = Arc::new(Entry::new(id));
        // Known before the node is: a swap may come right behind the answer.
        self.shared.channels.insert(id, Arc::clone(&entry));
        let opened = self.connect_channel(id, target, table, own, room, &entry);
        if opened.is_err() {
            self.shared.channels.remove(&id);
        }
        opened
    }

    fn connect_channel(
        &self,
        channel: ChannelId,
        target: &ServiceName,
        table: TypeTable,
        own: OwnHalf,
        room: Lease,
        entry: &Arc<Entry>,
    ) -> Result<Channel, Error> {
        let open = OpenChannel {
            channel,
            target: target.clone(),
            table,
        };
        let (opened, descriptors) = self.dispatch_with(&open, &[own.share()?], Some(channel))?;
        let [half, side] = two(descriptors)?;
        let side = SideSocket::from(side);
        let (sender, receiver, swapper) = weft_local_ipc::connect(own, PeerHalf::open(half)?)?;
        let ChannelOpened { node, .. } = opened;
        entry.opened(swapper, side, node == self.shared.identity.node);
        Ok(Channel::new(
            sender,
            receiver,
            Arc::clone(entry),
            self.clone(),
            room,
        ))
    }

    /// Asks the dispatcher, without descriptors.
    pub(crate) fn dispatch<M>(
        &self,
        message: &M,
    ) -> Result<<Dispatcher as Accepts<M>>::Reply, Error>
    where
        M: Message,
        Dispatcher: Accepts<M>,
    {
        Ok(self.dispatch_with(message, &[], None)?.0)
    }

    fn dispatch_with<M>(
        &self,
        message: &M,
        descriptors: &[OwnedFd],
        opens: Option<ChannelId>,
    ) -> Result<(<Dispatcher as Accepts<M>>::Reply, Vec<OwnedFd>), Error>
    where
        M: Message,
        Dispatcher: Accepts<M>,
    {
        let mut body = Vec::new();
        weft_contract::encode(message, &mut body)?;
        let (reply, descriptors) =
            self.shared
                .ask(<Dispatcher as Accepts<M>>::INDEX, &body, descriptors, opens)?;
        Ok((weft_contract::decode(&reply)?, descriptors))
    }

    /// The memory that this domain may take.
    pub(crate) fn room(&self) -> &Arc<Room> {
        &self.shared.room
    }

    /// A heap for up to `objects` objects at a time, without memory yet: see [`Heap::grow`]. It is for
    /// one peer, or for the group of a broadcast, since who borrows from it can read all of it.
    #[must_use]
    pub fn heap(&self, objects: u32) -> Heap {
        Heap::new(Arc::clone(self.room()), objects)
    }

    /// Asks the security service.
    ///
    /// # Errors
    ///
    /// What it refuses, or `Unreachable`.
    pub fn ask_security<M>(
        &self,
        message: &M,
    ) -> Result<<weft_node_control::Security as Accepts<M>>::Reply, Error>
    where
        M: Message,
        weft_node_control::Security: Accepts<M>,
    {
        ask_typed::<weft_node_control::Security, _>(&mut lock(&self.shared.security), message)
    }

    /// Whether the node is gone.
    #[must_use]
    pub fn node_is_gone(&self) -> bool {
        self.shared.bootstrap.hung_up()
    }

    pub(crate) fn watcher(&self) -> &Watcher {
        &self.shared.watcher
    }

    /// Forgets a channel that its endpoint has dropped. Waits for nobody: the node hears of it when
    /// it listens next.
    pub(crate) fn close_channel(&self, channel: ChannelId) {
        self.shared.channels.remove(&channel);
        let mut control = lock(&self.shared.control);
        if let Some(link) = &mut control.link {
            tell_closed(link, channel);
        }
    }

    /// Takes the channel to the dispatcher away from the watcher thread: from now on the caller pumps
    /// it. For the loop of a service and for the gateway, which handle the node's requests in their
    /// own turn. `None` if it was taken already.
    #[must_use]
    pub fn take_control(&self) -> Option<Link> {
        lock(&self.shared.control).link.take()
    }
}

impl Shared {
    /// Has the watcher thread pump the dispatcher's channel whenever its bell rings.
    fn hear_node(self: &Arc<Self>, swapper: &weft_local_ipc::Swapper) {
        let weak: Weak<Self> = Arc::downgrade(self);
        // Watched for as long as the domain lives.
        let _ = self.watcher.watch(
            swapper,
            Some(self.bootstrap.as_fd()),
            Arc::new(move |ring| {
                if let Some(shared) = weak.upgrade() {
                    match ring {
                        weft_local_ipc::Ring::Bell => shared.pump(),
                        weft_local_ipc::Ring::HangUp => shared.node_lost(),
                    }
                }
            }),
        );
        // What came before the watch began.
        self.pump();
    }

    fn node_lost(&self) {
        let mut control = lock(&self.control);
        control.lost = Some(Refusal::new(
            RefusalCode::Unreachable,
            "the node of this process is gone; start it again",
        ));
        drop(control);
        self.answered.notify_all();
        for entry in &self.channels {
            entry.node_lost();
        }
    }

    /// Takes what the node has sent.
    fn pump(&self) {
        let mut control = lock(&self.control);
        let Control {
            link,
            questions,
            lost,
        } = &mut *control;
        let Some(link) = link else { return };
        loop {
            match link.poll() {
                Ok(Some(Incoming::Answer {
                    question,
                    outcome,
                    descriptors,
                    ..
                })) => {
                    if let Some(channel) = questions.answered(question, (outcome, descriptors)) {
                        tell_closed(link, channel);
                    }
                    self.answered.notify_all();
                }
                Ok(Some(Incoming::Request(request))) => self.obey(link, request),
                Ok(None) => {
                    link.park();
                    if !link.ready() {
                        return;
                    }
                }
                Err(error) => {
                    *lost = Some(error.into());
                    self.answered.notify_all();
                    return;
                }
            }
        }
    }

    /// Does what the node asks of any domain.
    fn obey(&self, link: &mut Link, request: Request) {
        let outcome = DomainContract::decode(request.index, &request.body)
            .map_err(Error::from)
            .and_then(|message| self.apply(message, request.descriptors));
        let outcome = outcome.map_err(Refusal::from);
        let (lane, question, index) = (request.lane, request.sequence, request.index);
        let answered = link.answer_or_keep(lane, question, index, outcome, Vec::new());
        if let Err(error) = answered {
            tracing::warn!(%error, "the node could not be answered");
        }
    }

    /// The part of the node's requests that concerns a domain as a client.
    pub(crate) fn apply(
        &self,
        message: DomainRequest,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Vec<u8>, Error> {
        let mut reply = Vec::new();
        match message {
            DomainRequest::SwapPeer(swap) => {
                let entry = self.entry(swap.channel)?;
                let [half, side] = two(descriptors)?;
                let side = SideSocket::from(side);
                let local = swap.node == self.identity.node;
                entry.swap(PeerHalf::open(half)?, side, local, &self.watcher);
                weft_contract::encode(&PeerSwapped {}, &mut reply)?;
            }
            DomainRequest::PeerGone(gone) => {
                // A channel that was closed here meanwhile needs no word.
                if let Ok(entry) = self.entry(gone.channel) {
                    entry.close(gone.refusal);
                }
                weft_contract::encode(&PeerGoneNoted {}, &mut reply)?;
            }
            _ => {
                return Err(Error::new(
                    RefusalCode::UnknownMessage,
                    "this domain is not a service: it has no state to freeze, copy or load",
                ));
            }
        }
        Ok(reply)
    }

    fn entry(&self, channel: ChannelId) -> Result<Arc<Entry>, Error> {
        self.channels
            .get(&channel)
            .map(|entry| Arc::clone(&entry))
            .ok_or_else(|| Error::new(RefusalCode::Closed, format!("{channel} is not open here")))
    }

    /// Asks the dispatcher and waits for its answer, which the watcher thread takes in. `opens`: the
    /// channel that stands if the answer is good, and that nobody has if it comes too late.
    fn ask(
        &self,
        index: weft_types::TypeIndex,
        body: &[u8],
        descriptors: &[OwnedFd],
        opens: Option<ChannelId>,
    ) -> Result<(Vec<u8>, Vec<OwnedFd>), Error> {
        let deadline = Instant::now() + OPEN_TIMEOUT;
        let mut control = lock(&self.control);
        let question = loop {
            if let Some(lost) = &control.lost {
                return Err(lost.clone().into());
            }
            let Some(link) = &mut control.link else {
                return Err(Error::new(
                    RefusalCode::Rejected,
                    "a service opens its channels before it starts to serve",
                ));
            };
            match link.ask(Lane::NORMAL, index, body, descriptors) {
                Err(error) if error.code() == RefusalCode::Busy && Instant::now() < deadline => {
                    control = self.wait(control, FULL_RETRY);
                }
                outcome => break outcome?,
            }
        };
        control.questions.asked(question);
        loop {
            if let Some((outcome, descriptors)) = control.questions.take(question) {
                return Ok((outcome?, descriptors));
            }
            if let Some(lost) = &control.lost {
                return Err(lost.clone().into());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                control.questions.give_up(question, opens);
                return Err(Error::new(
                    RefusalCode::DeadlineExceeded,
                    format!(
                        "the node did not answer within {} s",
                        OPEN_TIMEOUT.as_secs()
                    ),
                ));
            }
            control = self.wait(control, left);
        }
    }

    fn wait<'a>(
        &self,
        control: MutexGuard<'a, Control>,
        timeout: Duration,
    ) -> MutexGuard<'a, Control> {
        self.answered
            .wait_timeout(control, timeout)
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }
}

/// Tells the node that nobody here has this channel.
fn tell_closed(link: &mut Link, channel: ChannelId) {
    let mut body = Vec::new();
    let index = <Dispatcher as Accepts<CloseChannel>>::INDEX;
    let told = weft_contract::encode(&CloseChannel { channel }, &mut body)
        .map_err(Error::from)
        .and_then(|()| link.tell(Lane::NORMAL, index, &body));
    if let Err(error) = told {
        tracing::debug!(%error, %channel, "the node was not told of a closed channel");
    }
}

impl Domain {
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }
}

/// Connects our halves with the node's: `CHANNELS` halves, then as many side sockets.
fn connect_links(own: Vec<OwnHalf>, descriptors: Vec<OwnedFd>) -> Result<Vec<Link>, Error> {
    let mut halves = descriptors;
    if halves.len() != 2 * CHANNELS {
        return Err(Error::new(
            RefusalCode::PeerFault,
            "the node gave the wrong number of descriptors",
        ));
    }
    let sides = halves.split_off(CHANNELS);
    own.into_iter()
        .zip(halves)
        .zip(sides)
        .map(|((own, half), side)| {
            let side = SideSocket::from(side);
            Link::new(own, PeerHalf::open(half)?, side)
        })
        .collect()
}

/// Exactly two descriptors: a half and a side socket.
pub(crate) fn two(descriptors: Vec<OwnedFd>) -> Result<[OwnedFd; 2], Error> {
    descriptors.try_into().map_err(|given: Vec<_>| {
        Error::new(
            RefusalCode::PeerFault,
            format!(
                "expected a half and a side socket, got {} descriptors",
                given.len()
            ),
        )
    })
}

fn ask_typed<C, M>(link: &mut Link, message: &M) -> Result<C::Reply, Error>
where
    C: Accepts<M>,
    M: Message,
{
    let mut body = Vec::new();
    weft_contract::encode(message, &mut body)?;
    let (reply, _) = link.ask_and_wait(C::INDEX, &body, &[], NODE_TIMEOUT)?;
    Ok(weft_contract::decode(&reply)?)
}

/// A lock whose holder panicked still guards good data: each critical section leaves it whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_nobody_waits_for_leaves_nothing_and_its_channel_is_closed() {
        let mut questions = Questions::default();
        let channel = ChannelId::random();
        let (opened, refused, unknown) = (Sequence::new(1), Sequence::new(2), Sequence::new(3));
        for question in [opened, refused] {
            questions.asked(question);
            questions.give_up(question, Some(channel));
        }
        let refusal = Refusal::new(RefusalCode::NoGrant, "no");
        assert_eq!(
            questions.answered(opened, (Ok(Vec::new()), Vec::new())),
            Some(channel)
        );
        assert_eq!(
            questions.answered(refused, (Err(refusal), Vec::new())),
            None
        );
        assert_eq!(
            questions.answered(unknown, (Ok(Vec::new()), Vec::new())),
            None
        );
        assert!(questions.0.is_empty());
    }

    #[test]
    fn questions_that_are_never_answered_do_not_add_up() {
        let mut questions = Questions::default();
        questions.asked(Sequence::ZERO);
        for at in 1..3 * MAX_QUESTIONS as u64 {
            questions.asked(Sequence::new(at));
            questions.give_up(Sequence::new(at), None);
        }
        assert!(questions.0.len() <= MAX_QUESTIONS);
        let answer = (Ok(vec![7]), Vec::new());
        assert_eq!(questions.answered(Sequence::ZERO, answer), None);
        assert!(questions.take(Sequence::ZERO).is_some(), "one still waits");
    }
}
