//! The runtime of a service: one thread that takes one message at a time, from all of its channels.
//!
//! The loop serves two masters in turn: the node, whose requests (a client to attach, freeze, copy)
//! are handled between two messages, and the clients, whose messages are taken in lane order and
//! fairly within a lane. Because nothing runs beside it, the state of the service between two turns
//! is plain data, and that is what makes it movable.
//!
//! A message is *done* only when its reply is in the ring. If the client does not take its replies,
//! the one that does not fit waits here, and no further message of that client is taken: a client
//! that is slow to listen stops nobody but itself.

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use weft_contract::{Accepts, Contract, Message, Serve, TypeMap};
use weft_local_ipc::{
    Geometry, Header, OwnHalf, PeerHalf, Receiver, SendError, Sender, SideSocket, Spin, Start,
    Swapper, wait_any,
};
use weft_node_control::{
    Activated, AttachClient, Caller, ChannelChunk, ChannelState, ChannelsLoaded, ClientAttached,
    ClientDetached, ClientFault, Dispatcher, Domain as DomainContract, DomainRequest, Frozen,
    MAX_PIECE_BYTES, PeerSwapped, RegisterService, SavedMessage, ShutDown, StateChunk, StateDigest,
    StateLoaded, Thawed,
};
use weft_types::{
    ChannelId, Lane, MessageKind, NodeName, PerLane, Refusal, RefusalCode, Sequence, TypeIndex,
};

use crate::domain::{Domain, two};
use crate::error::Error;
use crate::growth::{Growth, SERVICE_GROWTH_BYTES};
use crate::link::{Incoming, Link, Request, encode_refusal};
use crate::room::Lease;
use crate::state::State;

/// How long the loop sleeps at most before it looks whether its node still lives.
const LOOK_AROUND: Duration = Duration::from_millis(50);

/// How long the node may take to register a service.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(10);

/// How many messages are handled at most before the clock is read, where more are waiting.
const LOOK_TURNS: u32 = 64;

/// How often the side sockets of the clients are looked at. One look costs a system call for each.
const HANG_UP_EVERY: Duration = Duration::from_secs(1);

/// How long after its hang-up a client of this node counts as gone. It has nobody to follow it but a
/// swap that is under way.
const LOCAL_PATIENCE: Duration = Duration::from_secs(30);

/// The same for a client of another node. Here it is the gateway that hangs up, and its successor
/// may have a long way: the node keeps such channels for ten minutes and then detaches them itself.
const REMOTE_PATIENCE: Duration = Duration::from_secs(900);

/// What our half of a channel takes.
const HALF_BYTES: u64 = Geometry::DEFAULT.base_bytes();

/// For how many further channels a service has memory granted ahead.
const ROOM_AHEAD: u64 = 16;

/// How many clients may wait for memory to be granted. The node has fewer under way; one more is
/// told to come back.
const MAX_WAITING: usize = 256;

/// The most channels of one service in this version. One more is refused as over budget.
const MAX_CHANNELS: usize = 4096;

/// What a handler may know about the message in its hands.
#[derive(Debug)]
pub struct Context {
    caller: Caller,
    channel: ChannelId,
    lane: Lane,
    sequence: Sequence,
}

impl Context {
    /// Who sent the message, attached by the node that opened the channel and never by the sender.
    #[must_use]
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// The channel it came over.
    #[must_use]
    pub fn channel(&self) -> ChannelId {
        self.channel
    }

    /// Its lane.
    #[must_use]
    pub fn lane(&self) -> Lane {
        self.lane
    }

    /// Its place in its lane.
    #[must_use]
    pub fn sequence(&self) -> Sequence {
        self.sequence
    }
}

/// Serves `service` under the name that its node gave this process, until the node ends it.
///
/// # Errors
///
/// If the node cannot be reached or refuses the registration, or goes away.
pub fn serve<C, S>(domain: Domain, service: S) -> Result<(), Error>
where
    C: Serve<S, Context>,
    S: State,
{
    let mut control = domain
        .take_control()
        .ok_or_else(|| Error::new(RefusalCode::Rejected, "this domain serves already"))?;
    let register = RegisterService {
        name: domain.identity().name.clone(),
        description: C::description(),
    };
    let mut body = Vec::new();
    weft_contract::encode(&register, &mut body)?;
    // While nobody depends on us we may wait for the node.
    domain.room().keep(ROOM_AHEAD * HALF_BYTES);
    let index = <Dispatcher as Accepts<RegisterService>>::INDEX;
    control.ask_and_wait(index, &body, &[], REGISTER_TIMEOUT)?;
    Loop::<C, S> {
        domain,
        control,
        service,
        phase: Phase::Waiting,
        clients: Vec::new(),
        turn: PerLane::default(),
        loaded: HashMap::new(),
        packed: Vec::new(),
        waiting: VecDeque::new(),
        looked_for_hang_up: Instant::now(),
        body: Vec::new(),
        reply: Vec::new(),
        contract: std::marker::PhantomData,
    }
    .run()
}

/// What the service may do just now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    /// Registered, not yet told to begin: a new instance, or the target of a move.
    Waiting,
    /// Takes messages.
    Active,
    /// Takes none; its state is being copied for the last time.
    Frozen,
    /// Told to end.
    Ended,
}

/// One channel of the service.
#[derive(Debug)]
struct Client {
    id: ChannelId,
    caller: Caller,
    table: weft_contract::TypeTable,
    types: TypeMap,
    /// The most urgent lane that the client's capability allows.
    ceiling: Lane,
    sender: Sender,
    receiver: Receiver,
    swapper: Swapper,
    /// Its hang-up tells the client of our death, and us of the client's. Given up when the client
    /// breaks the rules.
    side: Option<SideSocket>,
    /// Since when the other end of it is closed.
    hung_up: Option<Instant>,
    /// Replies that did not fit into the ring yet, in order.
    stalled: VecDeque<Outgoing>,
    /// The client is gone: what it has sent is still handled.
    leaving: bool,
    /// A client that broke the rules is not listened to again.
    broken: bool,
    /// Why, until the node has been told.
    untold: Option<Refusal>,
    /// What our half takes of the budget.
    _room: Lease,
    /// What it takes since it has grown.
    growth: Growth,
}

#[derive(Debug)]
struct Outgoing {
    lane: Lane,
    header: Header,
    body: Vec<u8>,
    /// The message that this answers is done once the answer is in the ring.
    finishes: Option<Sequence>,
    /// A predecessor has sent it already, under this sequence. The client may have acknowledged it
    /// since, which is no fault of the client's.
    replays: Option<Sequence>,
}

impl Client {
    /// Puts stalled replies into the ring as far as they fit. True if none is left.
    fn flush(&mut self) -> bool {
        while let Some(outgoing) = self.stalled.front() {
            let (lane, header) = (outgoing.lane, outgoing.header);
            let sent = match outgoing.replays {
                Some(sequence) => self.sender.replay(lane, sequence, header, &outgoing.body),
                None => self
                    .sender
                    .try_send(lane, header, &outgoing.body)
                    .map(|_| ()),
            };
            match sent {
                Ok(()) => {
                    if let Some(sequence) = outgoing.finishes {
                        self.receiver.finish(outgoing.lane, sequence.next());
                    }
                    self.stalled.pop_front();
                }
                // What the predecessor had sent, others know of.
                Err(SendError::Full { .. })
                    if outgoing.replays.is_some()
                        && self.growth.overdraw(&mut self.sender, lane) => {}
                Err(SendError::Full { .. }) if self.growth.allow(&mut self.sender, lane) => {}
                Err(SendError::Full { .. }) => {
                    // Our bell has to ring when the client has taken what is in its way.
                    if self.sender.wake_when_room(lane) {
                        // It has taken it meanwhile, and will not ring for it.
                        continue;
                    }
                    return false;
                }
                Err(error) => {
                    self.fail(&error);
                    return false;
                }
            }
        }
        true
    }

    fn fail(&mut self, error: &dyn std::fmt::Display) {
        tracing::warn!(channel = %self.id, caller = %self.caller.name, %error, "a client broke the rules; its channel is closed");
        self.broken = true;
        self.side = None;
        self.untold = Some(Refusal::new(
            RefusalCode::PeerFault,
            format!(
                "the service has closed this channel, because its client broke the rules: {error}"
            ),
        ));
        self.stalled.clear();
    }

    /// Counts a client as gone whose side socket has been hung up for long enough. Mostly the node
    /// says so at once; this is for what it does not know of, such as an open that nobody waited for
    /// to its end.
    fn look_for_hang_up(&mut self, own_node: &NodeName) {
        let hung_up = self.side.as_ref().is_some_and(SideSocket::hung_up);
        if !hung_up || self.leaving {
            return;
        }
        let since = *self.hung_up.get_or_insert_with(Instant::now);
        let patience = if self.caller.node == *own_node {
            LOCAL_PATIENCE
        } else {
            REMOTE_PATIENCE
        };
        if since.elapsed() >= patience {
            tracing::debug!(channel = %self.id, caller = %self.caller.name, "hung up, and nobody followed");
            self.leaving = true;
        }
    }

    /// What a successor needs to go on with this channel.
    fn save(&mut self) -> Result<ChannelState, Error> {
        let mut unacknowledged = Vec::new();
        let mut outgoing = PerLane::default();
        for lane in Lane::ALL {
            // The cursor of the client goes on while we look: what is kept and where it starts have
            // to come from one look.
            let kept = self.sender.unacknowledged(lane)?;
            outgoing[lane] = kept
                .first()
                .map_or(self.sender.next(lane), |(first, _, _)| *first);
            for (sequence, header, body) in kept {
                unacknowledged.push(saved(lane, sequence, header, body));
            }
            // Replies that wait for room have been handled; they take the sequences that follow.
            let mut next = self.sender.next(lane);
            for outgoing in self.stalled.iter().filter(|outgoing| outgoing.lane == lane) {
                unacknowledged.push(saved(lane, next, outgoing.header, outgoing.body.clone()));
                next = next.next();
            }
        }
        Ok(ChannelState {
            channel: self.id,
            holder: self.caller.name.clone(),
            holder_node: self.caller.node.clone(),
            table: self.table.clone(),
            incoming: PerLane::from_fn(|lane| self.receiver.expected(lane)),
            outgoing,
            unacknowledged,
        })
    }
}

fn saved(lane: Lane, sequence: Sequence, header: Header, body: Vec<u8>) -> SavedMessage {
    SavedMessage {
        lane,
        sequence,
        kind: header.kind,
        type_index: header.type_index,
        correlation: header.correlation,
        body,
    }
}

struct Loop<C, S> {
    domain: Domain,
    control: Link,
    service: S,
    phase: Phase,
    clients: Vec<Client>,
    /// For each lane, the client whose turn is next.
    turn: PerLane<usize>,
    /// Channels that came with the state of a move and are not attached yet.
    loaded: HashMap<ChannelId, ChannelState>,
    /// What a frozen service hands out of its channels, in parts that each fit a message. Made once:
    /// clients acknowledge meanwhile, and parts from two looks would not fit together.
    packed: Vec<Vec<ChannelState>>,
    /// Clients to attach once there is memory, in order.
    waiting: VecDeque<Request>,
    looked_for_hang_up: Instant,
    body: Vec<u8>,
    reply: Vec<u8>,
    contract: std::marker::PhantomData<fn() -> C>,
}

impl<C, S> Loop<C, S>
where
    C: Serve<S, Context>,
    S: State,
{
    fn run(mut self) -> Result<(), Error> {
        let mut spin = Spin::new();
        let mut looked = Instant::now();
        let mut turns = 0_u32;
        while self.phase != Phase::Ended {
            let mut busy = self.hear_node()?;
            busy |= self.phase == Phase::Active && self.take_message();
            turns = turns.wrapping_add(1);
            // A service that never comes to rest looks around as well, but reads no clock each time.
            if (!busy || turns.is_multiple_of(LOOK_TURNS)) && looked.elapsed() >= LOOK_AROUND {
                looked = Instant::now();
                self.look_around()?;
            }
            if busy {
                spin = Spin::new();
                continue;
            }
            self.drop_departed();
            if spin.again() {
                continue;
            }
            self.sleep();
        }
        Ok(())
    }

    /// What needs no haste: whether the node and the clients still live.
    fn look_around(&mut self) -> Result<(), Error> {
        if self.domain.node_is_gone() {
            return Err(Error::new(
                RefusalCode::Unreachable,
                "the node of this service is gone",
            ));
        }
        self.tell_faults();
        if self.looked_for_hang_up.elapsed() >= HANG_UP_EVERY {
            self.looked_for_hang_up = Instant::now();
            let own = &self.domain.identity().node;
            for client in &mut self.clients {
                client.look_for_hang_up(own);
            }
        }
        self.drop_departed();
        Ok(())
    }

    /// Tells the node of clients that broke the rules, so that it tells them.
    fn tell_faults(&mut self) {
        for client in self.clients.iter_mut().filter(|client| client.broken) {
            let Some(refusal) = client.untold.clone() else {
                continue;
            };
            let fault = ClientFault {
                channel: client.id,
                refusal,
            };
            let index = <Dispatcher as Accepts<ClientFault>>::INDEX;
            let told =
                encoded(&fault).and_then(|body| self.control.tell(Lane::NORMAL, index, &body));
            match told {
                Ok(()) => client.untold = None,
                // At the next look.
                Err(error) => tracing::debug!(%error, channel = %client.id, "a fault is untold"),
            }
        }
    }

    /// Handles one message of the most urgent lane that has any. Within a lane the clients take turns.
    fn take_message(&mut self) -> bool {
        let count = self.clients.len();
        for lane in Lane::ALL {
            for step in 0..count {
                let at = (self.turn[lane] + step) % count;
                let client = &mut self.clients[at];
                if client.broken || !client.flush() {
                    continue;
                }
                match client.receiver.try_receive_lane(lane, &mut self.body) {
                    Ok(Some(received)) => {
                        self.turn[lane] = at + 1;
                        self.handle(at, lane, received.sequence, received.header);
                        return true;
                    }
                    Ok(None) => {}
                    Err(fault) => client.fail(&fault),
                }
            }
        }
        false
    }

    /// The one entry point: decode, check, handle, answer.
    fn handle(&mut self, at: usize, lane: Lane, sequence: Sequence, header: Header) {
        let client = &mut self.clients[at];
        if header.kind.answers() {
            // We asked nothing over this channel, so that nothing can be answered.
            client.receiver.finish(lane, sequence.next());
            return;
        }
        let mut context = Context {
            caller: client.caller.clone(),
            channel: client.id,
            lane,
            sequence,
        };
        self.reply.clear();
        let outcome = match client.types.ours(header.type_index) {
            _ if lane < client.ceiling => Err(Refusal::new(
                RefusalCode::NotAllowed,
                format!(
                    "{}'s capability allows {} and below, not {lane}",
                    client.caller.name, client.ceiling
                ),
            )),
            Some(index) => C::dispatch(
                &mut self.service,
                &mut context,
                index,
                &self.body,
                &mut self.reply,
            ),
            None => Err(Refusal::new(
                RefusalCode::UnknownMessage,
                format!(
                    "type {} is not in the table of this channel",
                    header.type_index.get()
                ),
            )),
        };
        if let Err(refusal) = &outcome {
            tracing::debug!(channel = %client.id, caller = %client.caller.name, %lane, %sequence, %refusal, "refused");
        }
        if header.kind == MessageKind::Tell {
            client.receiver.finish(lane, sequence.next());
            return;
        }
        let (kind, body) = match outcome {
            Ok(()) => (MessageKind::Reply, std::mem::take(&mut self.reply)),
            Err(refusal) => (MessageKind::Failure, encode_refusal(&refusal)),
        };
        client.stalled.push_back(Outgoing {
            lane,
            header: Header {
                kind,
                type_index: header.type_index,
                correlation: sequence,
                has_descriptors: false,
            },
            body,
            finishes: Some(sequence),
            replays: None,
        });
        client.flush();
    }

    /// Drops the channels of clients that are gone, once all that they sent is handled.
    fn drop_departed(&mut self) {
        let active = self.phase == Phase::Active;
        self.clients.retain(|client| {
            let drained = active && !client.receiver.ready() && client.stalled.is_empty();
            !(client.leaving && (drained || client.broken))
        });
    }

    /// Says everywhere that we sleep, looks once more, and sleeps until any bell rings.
    fn sleep(&mut self) {
        let mut bells = Vec::with_capacity(self.clients.len() + 1);
        let bell = self.control.swapper().bell();
        bells.push((bell.clone(), bell.value()));
        for client in &self.clients {
            let bell = client.swapper.bell();
            bells.push((bell.clone(), bell.value()));
        }
        self.control.park();
        let mut ready = self.control.ready();
        if let Some((bell, value, granted)) = self.domain.room().listen() {
            bells.push((bell, value));
            ready |= granted;
        }
        if self.phase == Phase::Active {
            for client in &mut self.clients {
                client.receiver.park();
                ready |= !client.broken
                    && if client.stalled.is_empty() {
                        client.receiver.ready()
                    } else {
                        client.growth.is_answered()
                    };
            }
        }
        if !ready {
            // Whatever woke us, the loop looks at everything.
            let _ = wait_any(&bells, Some(LOOK_AROUND));
        }
    }

    /// Handles everything that the node asks. True if it asked anything.
    fn hear_node(&mut self) -> Result<bool, Error> {
        let mut heard = false;
        while self.phase != Phase::Ended {
            let Some(incoming) = self.control.poll()? else {
                break;
            };
            heard = true;
            if let Incoming::Request(request) = incoming {
                self.obey(request)?;
            }
        }
        Ok(heard | self.attach_waiting()?)
    }

    /// Handles a request of the node's, or puts it off: to attach a client takes memory, and the
    /// node is not waited for.
    fn obey(&mut self, request: Request) -> Result<(), Error> {
        let attaches = request.index == <DomainContract as Accepts<AttachClient>>::INDEX;
        if attaches && !(self.waiting.is_empty() && self.domain.room().can_tell(HALF_BYTES)?) {
            if self.waiting.len() < MAX_WAITING {
                self.waiting.push_back(request);
                return Ok(());
            }
            let refusal = Refusal::new(RefusalCode::Busy, "too many clients come at once");
            return self.answer(request.lane, request.sequence, request.index, Err(refusal));
        }
        self.obey_now(request)
    }

    /// Attaches the clients that waited for memory, or tells why not. True if there were any.
    fn attach_waiting(&mut self) -> Result<bool, Error> {
        let mut any = false;
        while !self.waiting.is_empty() && self.domain.room().can_tell(HALF_BYTES)? {
            if let Some(request) = self.waiting.pop_front() {
                any = true;
                self.obey_now(request)?;
            }
        }
        Ok(any)
    }

    fn obey_now(&mut self, request: Request) -> Result<(), Error> {
        let Request {
            lane,
            sequence,
            index,
            body,
            descriptors,
            ..
        } = request;
        let outcome = DomainContract::decode(index, &body)
            .map_err(Error::from)
            .and_then(|message| self.apply(message, descriptors));
        self.answer(lane, sequence, index, outcome.map_err(Refusal::from))
    }

    fn answer(
        &mut self,
        lane: Lane,
        question: Sequence,
        index: TypeIndex,
        outcome: Result<(Vec<u8>, Vec<OwnedFd>), Refusal>,
    ) -> Result<(), Error> {
        let (outcome, descriptors) = match outcome {
            Ok((body, descriptors)) => (Ok(body), descriptors),
            Err(refusal) => (Err(refusal), Vec::new()),
        };
        self.control
            .answer_or_keep(lane, question, index, outcome, descriptors)
    }

    fn apply(
        &mut self,
        message: DomainRequest,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(Vec<u8>, Vec<OwnedFd>), Error> {
        let body = match message {
            DomainRequest::AttachClient(attach) => return self.attach(attach, descriptors),
            DomainRequest::SwapPeer(swap) if self.client(swap.channel).is_some() => {
                let [half, side] = two(descriptors)?;
                let side = SideSocket::from(side);
                let half = PeerHalf::open(half)?;
                if let Some(client) = self.client(swap.channel) {
                    client.swapper.swap(half);
                    client.side = Some(side);
                    client.hung_up = None;
                    client.broken = false;
                    client.untold = None;
                }
                encoded(&PeerSwapped {})?
            }
            DomainRequest::DetachClient(detach) => {
                if let Some(client) = self.client(detach.channel) {
                    client.leaving = true;
                }
                // Or it came with a move, and its client will not come back.
                self.loaded.remove(&detach.channel);
                encoded(&ClientDetached {})?
            }
            DomainRequest::Freeze(_) => {
                self.require(Phase::Active)?;
                self.phase = Phase::Frozen;
                for client in &mut self.clients {
                    client.receiver.park_always();
                }
                let channels = self.pack()?;
                encoded(&Frozen { channels })?
            }
            DomainRequest::Thaw(_) => {
                self.require(Phase::Frozen)?;
                self.service.end_copy();
                self.packed.clear();
                self.phase = Phase::Active;
                for client in &mut self.clients {
                    client.receiver.unpark();
                }
                encoded(&Thawed {})?
            }
            DomainRequest::CopyState(copy) => {
                encoded(&self.copy_state(copy.index, copy.last_round)?)?
            }
            DomainRequest::CopyChannels(copy) => encoded(&self.copy_channels(copy.index)?)?,
            DomainRequest::LoadState(load) => {
                self.require(Phase::Waiting)?;
                self.service.load(&load.bytes)?;
                encoded(&StateLoaded {})?
            }
            DomainRequest::LoadChannels(load) => {
                self.require(Phase::Waiting)?;
                self.load_channels(load.channels)?;
                encoded(&ChannelsLoaded {})?
            }
            DomainRequest::Digest(_) => encoded(&StateDigest {
                digest: self.service.digest(),
            })?,
            DomainRequest::Activate(_) => {
                self.require(Phase::Waiting)?;
                self.phase = Phase::Active;
                encoded(&Activated {})?
            }
            DomainRequest::Shutdown(_) => {
                self.phase = Phase::Ended;
                encoded(&ShutDown {})?
            }
            // What concerns channels that this service holds as a client of others.
            other => self.domain.shared().apply(other, descriptors)?,
        };
        Ok((body, Vec::new()))
    }

    fn require(&self, phase: Phase) -> Result<(), Error> {
        if self.phase == phase {
            return Ok(());
        }
        Err(Error::new(
            RefusalCode::Busy,
            format!("the service is {:?}, not {phase:?}", self.phase),
        ))
    }

    fn client(&mut self, channel: ChannelId) -> Option<&mut Client> {
        self.clients.iter_mut().find(|client| client.id == channel)
    }

    /// Agrees on types with a new client, or goes on with one that a predecessor had.
    fn attach(
        &mut self,
        attach: AttachClient,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(Vec<u8>, Vec<OwnedFd>), Error> {
        let [half, side] = two(descriptors)?;
        if self.client(attach.channel).is_some() {
            return Err(Error::new(
                RefusalCode::AlreadyThere,
                format!("{} is attached", attach.channel),
            ));
        }
        if self.clients.len() == MAX_CHANNELS {
            return Err(Error::new(
                RefusalCode::OverBudget,
                format!("the service has {MAX_CHANNELS} channels, as many as it may"),
            ));
        }
        let types = weft_contract::negotiate(&C::table(), &attach.table)
            .map_err(|mismatch| Error::new(RefusalCode::TypeMismatch, mismatch.to_string()))?;
        let (start, mut stalled) = self.resume(&attach);
        let peer = PeerHalf::open(half)?;
        let side = SideSocket::from(side);
        let room = self.domain.room().take_now(HALF_BYTES)?;
        let own = OwnHalf::create(Geometry::DEFAULT, start)?;
        let descriptor = own.share()?;
        let (mut sender, mut receiver, swapper) = weft_local_ipc::connect(own, peer)?;
        let growth = Growth::new(
            self.domain.room(),
            attach.channel,
            SERVICE_GROWTH_BYTES,
            &mut sender,
        );
        for (lane, done, taken) in attach.resume.iter().flat_map(|resume| &resume.unknown) {
            // What the predecessor took is never taken again. (That it was published bounds it.)
            receiver
                .skip(*lane, *taken)
                .map_err(|error| Error::new(RefusalCode::PeerFault, error.to_string()))?;
            let sequences = done.get()..taken.get();
            stalled.extend(sequences.map(|sequence| unknown(*lane, Sequence::new(sequence))));
        }
        self.loaded.remove(&attach.channel);
        let mut client = Client {
            id: attach.channel,
            caller: attach.caller,
            table: attach.table,
            types,
            ceiling: attach.ceiling,
            sender,
            receiver,
            swapper,
            side: Some(side),
            hung_up: None,
            stalled,
            leaving: false,
            broken: false,
            untold: None,
            _room: room,
            growth,
        };
        client.flush();
        client.growth.charge(&mut client.sender);
        if self.phase == Phase::Frozen {
            client.receiver.park_always();
        }
        self.clients.push(client);
        Ok((encoded(&ClientAttached {})?, vec![descriptor]))
    }

    /// Where a channel goes on, and what is to be sent on it first: replies that a predecessor had
    /// sent and the client has not acknowledged.
    fn resume(&self, attach: &AttachClient) -> (Start, VecDeque<Outgoing>) {
        let mut start = Start::default();
        let mut first = VecDeque::new();
        if let Some(state) = self.loaded.get(&attach.channel) {
            start = Start {
                outgoing: state.outgoing,
                incoming: state.incoming,
            };
            first.extend(state.unacknowledged.iter().map(restored));
        }
        if let Some(resume) = &attach.resume {
            start.incoming = resume.incoming;
        }
        (start, first)
    }

    fn copy_state(&mut self, index: u32, last_round: bool) -> Result<StateChunk, Error> {
        if last_round {
            self.require(Phase::Frozen)?;
        } else if index == 0 {
            // Of a frozen service it is copied anew if the target has lost what it had.
            if self.phase != Phase::Frozen {
                self.require(Phase::Active)?;
            }
            self.service.begin_copy();
        }
        let chunk = if last_round {
            self.service.final_chunk()
        } else {
            self.service.next_chunk()
        };
        Ok(match chunk {
            Some(bytes) => StateChunk { bytes, last: false },
            None => StateChunk {
                bytes: Vec::new(),
                last: true,
            },
        })
    }

    /// Packs every channel into parts that fit a message: those that are attached, and those that
    /// came with a move and whose clients have not come back since. Gives how many there are.
    fn pack(&mut self) -> Result<u32, Error> {
        let mut states = Vec::new();
        for client in self.clients.iter_mut().filter(|client| !client.broken) {
            states.push(client.save()?);
        }
        states.extend(self.loaded.values().cloned());
        let count = u32::try_from(states.len()).unwrap_or(u32::MAX);
        self.packed = vec![Vec::new()];
        let mut filled = 0;
        for piece in states.into_iter().flat_map(ChannelState::into_pieces) {
            let size = piece.size_bytes();
            if filled + size > MAX_PIECE_BYTES && filled > 0 {
                self.packed.push(Vec::new());
                filled = 0;
            }
            filled += size;
            if let Some(part) = self.packed.last_mut() {
                part.push(piece);
            }
        }
        Ok(count)
    }

    fn copy_channels(&self, index: u32) -> Result<ChannelChunk, Error> {
        self.require(Phase::Frozen)?;
        let at = usize::try_from(index).unwrap_or(usize::MAX);
        let channels = self.packed.get(at).cloned().ok_or_else(|| {
            Error::new(
                RefusalCode::Malformed,
                format!("there is no part {index} of the channels"),
            )
        })?;
        Ok(ChannelChunk {
            channels,
            last: at + 1 == self.packed.len(),
        })
    }

    fn load_channels(&mut self, channels: Vec<ChannelState>) -> Result<(), Error> {
        for state in channels {
            if self.loaded.len() >= MAX_CHANNELS && !self.loaded.contains_key(&state.channel) {
                return Err(Error::new(
                    RefusalCode::OverBudget,
                    "more channels than a service may have",
                ));
            }
            // A channel with much to say comes in pieces: the later ones only add messages.
            match self.loaded.get_mut(&state.channel) {
                Some(known) => known
                    .absorb(state)
                    .map_err(|error| Error::new(RefusalCode::Malformed, error.to_string()))?,
                None => {
                    self.loaded.insert(state.channel, state);
                }
            }
        }
        Ok(())
    }
}

/// The answer to a request that the predecessor took and never finished. The request is done once
/// this is in the ring, and not before: a successor that dies in between leaves it unknown still.
fn unknown(lane: Lane, sequence: Sequence) -> Outgoing {
    Outgoing {
        lane,
        header: Header {
            kind: MessageKind::OutcomeUnknown,
            type_index: TypeIndex::new(0),
            correlation: sequence,
            has_descriptors: false,
        },
        body: Vec::new(),
        finishes: Some(sequence),
        replays: None,
    }
}

fn restored(saved: &SavedMessage) -> Outgoing {
    Outgoing {
        lane: saved.lane,
        header: Header {
            kind: saved.kind,
            type_index: saved.type_index,
            correlation: saved.correlation,
            has_descriptors: false,
        },
        body: saved.body.clone(),
        finishes: None,
        replays: Some(saved.sequence),
    }
}

fn encoded<M: Message>(message: &M) -> Result<Vec<u8>, Error> {
    let mut body = Vec::new();
    weft_contract::encode(message, &mut body)?;
    Ok(body)
}
