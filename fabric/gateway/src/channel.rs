//! One channel in this gateway: the local rings, the session, and who is attached to them.
//!
//! Everything about a channel lies behind one mutex that is never held across an await, so that the
//! tasks of a connection (readers of streams, the reader of the control stream) and the channel's
//! own task see one state. A connection that carries the channel is an [`Attachment`]; whatever
//! comes from another one than the current is stale and is dropped, so that tearing a connection
//! down needs no order.
//!
//! If the local peer dies on any line, its rings stay readable and nothing more comes. If it lies,
//! the local end faults, and only this channel ends.

mod core;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use weft_local_ipc::{OwnHalf, PeerHalf, Ring, Swapper, Watcher};
use weft_protocol::session::{ResumePoint, Session, SessionStart, Window};
use weft_protocol::wire::{
    Direction, MAX_HEAD_BYTES, WireError, decode_message, encode_message_head,
};
use weft_types::{
    ChannelId, Epoch, Lane, MAX_BODY_BYTES, PerLane, Refusal, RefusalCode, Sequence, ServiceName,
};

use self::core::Core;

/// How many bytes of frames a lane collects before they go to its stream. More would let an urgent
/// message wait longer behind what QUIC has taken already.
const BATCH_BYTES: usize = 32 * 1024;

/// One opening of a channel on one connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Attachment {
    /// The connection, by its number in this process.
    pub(crate) link: u64,
    /// The number of the opening, as the client's node counts.
    pub(crate) attempt: u64,
}

/// Why an attachment is over.
#[derive(Clone, Debug)]
pub(crate) enum Ending {
    /// The connection is lost, or the peer has dropped its end without a word: open again.
    Lost,
    /// The service lives elsewhere: ask the directory, and open there.
    Moved,
    /// The peer has closed the channel.
    ClosedByPeer(Refusal),
    /// Our client is gone and all that it had sent is done, or has had its time.
    ClientGone,
    /// Something is wrong with the peer or the local end: tell the peer, and close.
    Fault(Refusal),
    /// The node has taken the channel away.
    Dropped,
}

/// What carries a channel.
#[derive(Clone, Debug)]
pub(crate) enum State {
    /// Nothing, and nothing has.
    Idle,
    /// `Open` is on its way.
    Opening(Attachment),
    /// This connection does.
    Attached(Attachment),
    /// Nothing any more.
    Ended(Ending),
}

/// What comes from another attachment than the current one: to be dropped in silence.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stale;

/// Why received bytes were not taken.
#[derive(Debug)]
pub(crate) enum DeliverError {
    /// The channel has another attachment by now.
    Stale,
    /// The peer's bytes make no sense: the whole connection cannot be trusted.
    Wire(WireError),
}

/// What became of received bytes.
#[derive(Debug)]
pub(crate) struct Delivered {
    /// So many were taken.
    pub(crate) used_bytes: usize,
    /// The local ring is full: try again later with the rest.
    pub(crate) full: bool,
}

/// What the channel's acknowledgements need next.
#[derive(Debug)]
pub(crate) struct Progress {
    /// To be told to the peer.
    pub(crate) acknowledge: Option<PerLane<Sequence>>,
    /// When to look again if nothing rings.
    pub(crate) again_in: Option<Duration>,
}

/// One channel. See the module's page.
pub(crate) struct Channel {
    pub(crate) id: ChannelId,
    pub(crate) target: ServiceName,
    /// Which way our outgoing messages flow.
    pub(crate) direction: Direction,
    pub(crate) swapper: Swapper,
    core: Mutex<Core>,
    state: watch::Sender<State>,
    /// Wakes the writer of a lane.
    lane_wake: PerLane<Notify>,
    /// Wakes who looks after acknowledgements and hang-ups.
    main_wake: Notify,
    /// Wakes who waits for the local peer's end.
    gone: Notify,
    watcher: Arc<Watcher>,
    started: Instant,
}

/// What a channel is made of.
pub(crate) struct Parts {
    pub(crate) id: ChannelId,
    pub(crate) target: ServiceName,
    pub(crate) direction: Direction,
    pub(crate) epoch: Epoch,
    pub(crate) window: Window,
    pub(crate) own: OwnHalf,
    pub(crate) start: weft_local_ipc::Start,
    pub(crate) peer: PeerHalf,
    pub(crate) side: OwnedFd,
    pub(crate) lane_ceiling: Lane,
}

impl Channel {
    /// Connects our half with the local peer's and listens to its bell.
    pub(crate) fn new(parts: Parts, watcher: &Arc<Watcher>) -> Result<Arc<Self>, Refusal> {
        let (mut sender, receiver, swapper) = weft_local_ipc::connect(parts.own, parts.peer)
            .map_err(|error| Refusal::new(RefusalCode::PeerFault, error.to_string()))?;
        // Its budget was granted when it was opened.
        sender.set_growth_budget(0);
        let session = Session::new(
            parts.id,
            parts.epoch,
            parts.window,
            SessionStart {
                outgoing_done: parts.start.incoming,
                incoming_expected: parts.start.outgoing,
                incoming_done: parts.start.outgoing,
            },
        );
        let channel = Arc::new(Self {
            id: parts.id,
            target: parts.target,
            direction: parts.direction,
            swapper,
            core: Mutex::new(Core {
                sender,
                receiver,
                session,
                attachment: None,
                lane_ceiling: parts.lane_ceiling,
                hand: PerLane::default(),
                spare: Vec::new(),
                acknowledge: None,
                hung_up: false,
                closed: false,
                watch: None,
                side: parts.side,
                generation: 0,
            }),
            state: watch::Sender::new(State::Idle),
            lane_wake: PerLane::from_fn(|_| Notify::new()),
            main_wake: Notify::new(),
            gone: Notify::new(),
            watcher: Arc::clone(watcher),
            started: Instant::now(),
        });
        channel.listen();
        Ok(channel)
    }

    /// (Re)starts the watch over the local peer's bell and side socket.
    fn listen(self: &Arc<Self>) {
        let weak = Arc::downgrade(self);
        let mut core = self.lock();
        core.generation += 1;
        let generation = core.generation;
        let on_ring = Arc::new(move |ring| {
            if let Some(channel) = weak.upgrade() {
                if ring == Ring::HangUp {
                    let mut core = channel.lock();
                    // The hang-up of a peer that was replaced says nothing about its successor.
                    core.hung_up |= core.generation == generation;
                    channel.gone.notify_one();
                }
                channel.wake_all();
            }
        });
        let watch = self
            .watcher
            .watch(&self.swapper, Some(core.side.as_fd()), on_ring);
        if let Some(old) = core.watch.replace(watch) {
            self.watcher.unwatch(old);
        }
    }

    /// The local peer was replaced by its successor.
    pub(crate) fn swap_local(self: &Arc<Self>, half: PeerHalf, side: OwnedFd) {
        {
            let mut core = self.lock();
            core.side = side;
            core.hung_up = false;
        }
        self.swapper.swap(half);
        self.listen();
        self.wake_all();
    }

    /// Nothing panics while it holds the lock on purpose; if something did, the state is still a
    /// consistent one, because the session checks every input before it changes.
    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn wake_all(&self) {
        for (_, wake) in self.lane_wake.iter() {
            wake.notify_one();
        }
        self.main_wake.notify_one();
    }

    /// Waits until this lane may have something to send.
    pub(crate) async fn lane_wakes(&self, lane: Lane) {
        self.lane_wake[lane].notified().await;
    }

    /// Waits until acknowledgements have to be looked at.
    pub(crate) async fn main_wakes(&self) {
        self.main_wake.notified().await;
    }

    /// The states from now on, the current one first.
    pub(crate) fn states(&self) -> watch::Receiver<State> {
        let mut states = self.state.subscribe();
        states.mark_changed();
        states
    }

    /// Waits until the node takes the channel away.
    pub(crate) async fn dropped(&self) {
        let mut states = self.states();
        let _ = states
            .wait_for(|state| matches!(state, State::Ended(Ending::Dropped)))
            .await;
    }

    /// The connection that carries the channel now, or is about to.
    pub(crate) fn attachment(&self) -> Option<Attachment> {
        match *self.state.borrow() {
            State::Opening(attachment) | State::Attached(attachment) => Some(attachment),
            State::Idle | State::Ended(_) => None,
        }
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.lock().session.epoch()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Whether the local peer's process has gone.
    pub(crate) fn has_hung_up(&self) -> bool {
        self.lock().hung_up
    }

    /// Waits until the local peer's process has gone.
    pub(crate) async fn hangs_up(&self) {
        while !self.has_hung_up() {
            self.gone.notified().await;
        }
    }

    /// Whether all that the local peer has sent is done at the far end.
    pub(crate) fn all_acknowledged(&self) -> bool {
        let core = self.lock();
        core.session.all_acknowledged()
            && core.hand.iter().all(|(_, held)| held.is_none())
            && !core.receiver.ready()
    }

    /// Prepares an opening on this connection: what `Open` says of our incoming direction.
    ///
    /// `None` if the channel was closed meanwhile, or lives in a later epoch.
    pub(crate) fn begin(&self, attachment: Attachment, epoch: Epoch) -> Option<ResumePoint> {
        let mut core = self.lock();
        if core.closed {
            return None;
        }
        core.detach();
        core.session.set_epoch(epoch).ok()?;
        let now = self.now();
        core.look_at_done(now).ok()?;
        let point = core.session.resume_point();
        self.state.send_replace(State::Opening(attachment));
        Some(point)
    }

    /// The connection carries the channel from here on, and the peer has said where it stands.
    ///
    /// # Errors
    ///
    /// What is impossible about that; the channel cannot go on.
    pub(crate) fn attach(
        &self,
        attachment: Attachment,
        epoch: Epoch,
        peer: ResumePoint,
    ) -> Result<(), Refusal> {
        let mut core = self.lock();
        let opening = matches!(*self.state.borrow(), State::Opening(at) if at == attachment);
        if core.closed || !opening {
            return Err(dropped(self.id));
        }
        core.session
            .check_epoch(epoch)
            .map_err(|error| error.refusal())?;
        for lane in Lane::ALL {
            let published = self
                .swapper
                .peer_published(lane)
                .max(core.receiver.taken(lane));
            core.session.published(lane, published);
        }
        let now = self.now();
        core.session
            .connected(now, peer)
            .map_err(|error| error.refusal())?;
        if let Err(refusal) = core.take_position() {
            core.session.disconnected();
            return Err(refusal);
        }
        core.attachment = Some(attachment);
        core.outputs(now);
        self.state.send_replace(State::Attached(attachment));
        drop(core);
        self.wake_all();
        Ok(())
    }

    /// Ends this attachment (or opening), if it is still the current one.
    pub(crate) fn end(&self, attachment: Attachment, ending: Ending) {
        let mut core = self.lock();
        let current = match *self.state.borrow() {
            State::Opening(current) | State::Attached(current) => current == attachment,
            State::Idle | State::Ended(_) => false,
        };
        if current {
            core.detach();
            self.state.send_replace(State::Ended(ending));
        }
    }

    /// The node takes the channel away. When this returns, nothing more is published towards the
    /// local peer and no cursor of ours moves.
    pub(crate) fn close(&self) {
        let mut core = self.lock();
        core.closed = true;
        core.detach();
        if let Some(watch) = core.watch.take() {
            self.watcher.unwatch(watch);
        }
        self.state.send_replace(State::Ended(Ending::Dropped));
    }

    /// The channel's task goes to sleep: says so to the local peer, then looks once more.
    ///
    /// Wakes the lanes that found something, so the task is polled again.
    pub(crate) fn sleep(&self, attachment: Attachment) {
        let mut core = self.lock();
        if core.attachment != Some(attachment) {
            return;
        }
        core.receiver.park();
        for lane in Lane::ALL {
            // A lane that holds one already waits for its stream or its window, not for the bell.
            if core.hand[lane].is_none() && core.reach(lane) {
                self.lane_wake[lane].notify_one();
            }
        }
    }

    /// The channel's task runs: the local peer need not ring.
    pub(crate) fn awake(&self, attachment: Attachment) {
        let mut core = self.lock();
        if core.attachment == Some(attachment) {
            core.receiver.unpark();
        }
    }

    /// Appends what the lane may send now to `out`, as frames.
    ///
    /// A fault of the local end ends the attachment.
    pub(crate) fn fill(
        &self,
        attachment: Attachment,
        lane: Lane,
        out: &mut Vec<u8>,
    ) -> Result<(), Stale> {
        let mut core = self.lock();
        if core.attachment != Some(attachment) {
            return Err(Stale);
        }
        while out.len() < BATCH_BYTES {
            match core.next_to_send(self.id, lane) {
                Ok(Some(held)) => {
                    encode_message_head(&held.head, held.body.len() as u32, out);
                    out.extend_from_slice(&held.body);
                    core.spare.push(held.body);
                }
                Ok(None) => break,
                Err(refusal) => {
                    drop(core);
                    self.end(attachment, Ending::Fault(refusal));
                    return Err(Stale);
                }
            }
        }
        Ok(())
    }

    /// Takes the messages at the start of `bytes`, as many as are whole.
    pub(crate) fn deliver(
        &self,
        attachment: Attachment,
        lane: Lane,
        bytes: &[u8],
    ) -> Result<Delivered, DeliverError> {
        let mut core = self.lock();
        if core.attachment != Some(attachment) {
            return Err(DeliverError::Stale);
        }
        let was_idle = !core.session.in_progress(lane);
        let mut delivered = Delivered {
            used_bytes: 0,
            full: false,
        };
        let outcome = loop {
            let rest = &bytes[delivered.used_bytes..];
            let message = match decode_message(rest) {
                Ok(Some(message)) => message,
                Ok(None) => break Ok(()),
                Err(error) => return Err(DeliverError::Wire(error)),
            };
            match core.deliver_one(lane, &message.head, message.body) {
                Ok(true) => delivered.used_bytes += message.used_bytes,
                Ok(false) => {
                    delivered.full = true;
                    break Ok(());
                }
                Err(refusal) => break Err(refusal),
            }
        };
        let wake = was_idle && core.session.in_progress(lane);
        drop(core);
        if wake {
            self.main_wake.notify_one();
        }
        match outcome {
            Ok(()) => Ok(delivered),
            Err(refusal) => {
                self.end(attachment, Ending::Fault(refusal));
                Err(DeliverError::Stale)
            }
        }
    }

    /// The peer acknowledges.
    pub(crate) fn acknowledged(
        &self,
        attachment: Attachment,
        epoch: Epoch,
        done: &PerLane<Sequence>,
    ) {
        let mut core = self.lock();
        if core.attachment != Some(attachment) {
            return;
        }
        let outcome = core.session.check_epoch(epoch).and_then(|()| {
            done.iter()
                .try_for_each(|(lane, upto)| core.session.acknowledged(lane, *upto))
        });
        core.outputs(self.now());
        drop(core);
        match outcome {
            Ok(()) => self.wake_all(),
            Err(error) => self.end(attachment, Ending::Fault(error.refusal())),
        }
    }

    /// Looks at how far the local receiver is, and says what to tell the peer and when to look
    /// again.
    pub(crate) fn progress(&self, attachment: Attachment) -> Result<Progress, Stale> {
        let mut core = self.lock();
        if core.attachment != Some(attachment) {
            return Err(Stale);
        }
        let now = self.now();
        if let Err(refusal) = core.look_at_done(now) {
            drop(core);
            self.end(attachment, Ending::Fault(refusal));
            return Err(Stale);
        }
        core.outputs(now);
        let acknowledge = core.acknowledge.take();
        let again_in = core.session.poll_timeout().map(|at| at.saturating_sub(now));
        Ok(Progress {
            acknowledge,
            again_in,
        })
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        let watch = self.lock().watch.take();
        if let Some(watch) = watch {
            self.watcher.unwatch(watch);
        }
    }
}

/// What is told of a channel that the node has taken away.
pub(crate) fn dropped(channel: ChannelId) -> Refusal {
    Refusal::new(
        RefusalCode::Closed,
        format!("{channel} was closed by its node"),
    )
}

/// A buffer of this size always holds a whole message or a fault.
pub(crate) const MESSAGE_BYTES: usize = MAX_HEAD_BYTES + MAX_BODY_BYTES;
