//! Channels of local clients to services elsewhere.
//!
//! Each has a task that opens it at the service's node, carries it, and opens it again after a lost
//! connection or a move, for as long as the client wants it. The client's ring and ours stay as
//! they are through all of that.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};
use weft_local_ipc::{OwnHalf, PeerHalf, Start};
use weft_protocol::session::ResumePoint;
use weft_protocol::wire::{Control, Direction, Open, PresentedBytes};
use weft_types::{ChannelId, Epoch, Fault, Lane, NodeName, Refusal, RefusalCode, ServiceName};

use crate::backoff::Backoff;
use crate::channel::{Attachment, Channel, Ending, Parts, dropped};
use crate::gateway::Shared;
use crate::home::{Carried, Carry};
use crate::link::{ChannelSlot, Link};
use crate::peers::unreachable_node;
use crate::traffic::{LINGER, serve};

/// How long the far side may take to answer an open: it may have to wake a service.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The shortest and the longest wait before a channel is opened again.
const OPEN_AGAIN: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// The same when a node answers that the service is not there, or not yet: shorter, since this is
/// what clients see of a move.
const FOLLOW_AGAIN: (Duration, Duration) = (Duration::from_millis(3), Duration::from_millis(100));

/// How long a new channel follows a service that moves while it is being opened. A move takes
/// milliseconds between its commit and its activation.
const FOLLOW_FOR: Duration = Duration::from_secs(2);

/// A channel that we carry for a local client.
pub(crate) struct Near {
    pub(crate) channel: Arc<Channel>,
    holder: ServiceName,
    table: Vec<u8>,
    /// Whether the far side has carried it before, for us or for a gateway before us.
    resumed: AtomicBool,
    /// Where the answer to the last `Open` goes.
    answer: Mutex<Option<(Attachment, oneshot::Sender<Answer>)>>,
    /// Where `Close` goes.
    carrier: Mutex<Option<(Arc<Link>, Attachment)>>,
    /// The service may live elsewhere: do not wait for the back-off.
    hurry: Notify,
}

type Answer = Result<(), Refusal>;

/// A channel that was just opened.
struct Opened {
    link: Arc<Link>,
    attachment: Attachment,
    /// The channel's place on the connection.
    _slot: ChannelSlot,
}

impl Near {
    /// The far side carries the channel. Attaches at once, so that nothing that follows on the
    /// control stream is missed.
    pub(crate) fn opened(&self, attachment: Attachment, epoch: Epoch, resume: ResumePoint) {
        if let Some(answer) = self.take_answer(attachment) {
            let attached = self.channel.attach(attachment, epoch, resume);
            if attached.is_ok() {
                // ORDER(resumed): Relaxed; the next opening comes after this one's answer was taken.
                self.resumed.store(true, Ordering::Relaxed);
            }
            let _ = answer.send(attached);
        }
    }

    /// The far side says no.
    pub(crate) fn refused(&self, attachment: Attachment, refusal: Refusal) {
        if let Some(answer) = self.take_answer(attachment) {
            let _ = answer.send(Err(refusal));
        }
    }

    /// The service lives in this epoch now.
    pub(crate) fn service_moved(&self, epoch: Epoch) {
        if epoch > self.channel.epoch()
            && let Some(attachment) = self.channel.attachment()
        {
            self.channel.end(attachment, Ending::Moved);
        }
        self.hurry.notify_one();
    }

    fn take_answer(&self, attachment: Attachment) -> Option<oneshot::Sender<Answer>> {
        let mut answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        answer
            .take_if(|(expected, _)| *expected == attachment)
            .map(|(_, answer)| answer)
    }

    /// Tells the far side that the channel is over, if it can be told.
    fn tell_closed(&self, refusal: Refusal) {
        let carrier = self
            .carrier
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some((link, attachment)) = carrier {
            let (channel, attempt) = (self.channel.id, attachment.attempt);
            link.mention(Control::Close {
                channel,
                attempt,
                refusal,
            });
        }
    }
}

/// Carries a channel for a local client. See `GatewayHandle::carry`.
pub(crate) async fn carry(shared: Arc<Shared>, request: Carry) -> Result<Carried, Refusal> {
    let resumed = request.resume;
    let (node, epoch) = (request.node.clone(), request.epoch);
    let (near, own_half) = create(&shared, request)?;
    if resumed.is_some() {
        tokio::spawn(supervise(shared, near, None));
        return Ok(Carried { own_half, epoch });
    }
    match open_first(&shared, &near, node, epoch).await {
        Ok(opened) => {
            let epoch = near.channel.epoch();
            tokio::spawn(supervise(shared, near, Some(opened)));
            Ok(Carried { own_half, epoch })
        }
        Err(refusal) => {
            near.channel.close();
            near.tell_closed(refusal.clone());
            shared.near.remove(&near.channel.id);
            Err(refusal)
        }
    }
}

fn create(
    shared: &Arc<Shared>,
    request: Carry,
) -> Result<(Arc<Near>, std::os::fd::OwnedFd), Refusal> {
    let resumed = request.resume.is_some();
    let resume = request.resume.unwrap_or_default();
    let start = Start {
        outgoing: resume.outgoing,
        incoming: resume.incoming,
    };
    let (own, own_half) = make_half(shared, start)?;
    let table = postcard::to_stdvec(&request.table)
        .map_err(|error| Refusal::new(RefusalCode::Malformed, error.to_string()))?;
    let parts = Parts {
        id: request.channel,
        target: request.target,
        direction: Direction::ToService,
        epoch: request.epoch,
        window: shared.window,
        own,
        start,
        peer: open_half(request.client_half)?,
        side: request.side,
        lane_ceiling: Lane::URGENT,
    };
    let near = Arc::new(Near {
        channel: Channel::new(parts, &shared.watcher)?,
        holder: request.holder,
        table,
        resumed: AtomicBool::new(resumed),
        answer: Mutex::default(),
        carrier: Mutex::default(),
        hurry: Notify::new(),
    });
    match shared.near.entry(request.channel) {
        dashmap::Entry::Vacant(entry) => {
            entry.insert(Arc::clone(&near));
            Ok((near, own_half))
        }
        dashmap::Entry::Occupied(_) => Err(Refusal::new(
            RefusalCode::AlreadyThere,
            format!("{} is carried already", request.channel),
        )),
    }
}

/// Makes our half of a channel, and a descriptor of it to hand over.
pub(crate) fn make_half(
    shared: &Shared,
    start: Start,
) -> Result<(OwnHalf, std::os::fd::OwnedFd), Refusal> {
    let failed = |error: weft_local_ipc::RegionError| {
        Refusal::new(RefusalCode::Internal, format!("the gateway: {error}"))
    };
    let own = OwnHalf::create(shared.geometry, start).map_err(failed)?;
    let handed = own.share().map_err(failed)?;
    Ok((own, handed))
}

/// Opens the half of a local peer.
pub(crate) fn open_half(half: std::os::fd::OwnedFd) -> Result<PeerHalf, Refusal> {
    PeerHalf::open(half).map_err(|error| Refusal::new(RefusalCode::PeerFault, error.to_string()))
}

/// Opens a new channel where the directory says, and follows a service that moves meanwhile.
async fn open_first(
    shared: &Arc<Shared>,
    near: &Arc<Near>,
    mut node: NodeName,
    mut epoch: Epoch,
) -> Result<Opened, Refusal> {
    let mut backoff = Backoff::new(FOLLOW_AGAIN.0, FOLLOW_AGAIN.1);
    let deadline = Instant::now() + FOLLOW_FOR;
    loop {
        let refusal = match open_at(shared, near, &node, epoch).await {
            Ok(opened) => return Ok(opened),
            Err(NotOpened::Refused(refusal))
                if !matches!(refusal.code, RefusalCode::Moved | RefusalCode::Busy) =>
            {
                return Err(refusal);
            }
            // Not the service's word: the connection has made way for another one, mostly.
            Err(NotOpened::Lost(refusal)) | Err(NotOpened::Refused(refusal)) => refusal,
        };
        // A service that lives here by now is for our node to connect.
        if node == shared.node || Instant::now() >= deadline {
            return Err(refusal);
        }
        tokio::time::sleep(backoff.wait()).await;
        (node, epoch) = shared.home.locate(&near.channel.target).await?;
    }
}

/// Why a channel was not opened.
enum NotOpened {
    /// Something was said against it, or there is no connection to be had.
    Refused(Refusal),
    /// The connection was lost in between.
    Lost(Refusal),
}

impl NotOpened {
    fn into_refusal(self) -> Refusal {
        match self {
            Self::Refused(refusal) | Self::Lost(refusal) => refusal,
        }
    }
}

impl From<Refusal> for NotOpened {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Opens the channel at this node, once.
async fn open_at(
    shared: &Arc<Shared>,
    near: &Arc<Near>,
    node: &NodeName,
    epoch: Epoch,
) -> Result<Opened, NotOpened> {
    let channel = &near.channel;
    if *node == shared.node {
        return Err(NotOpened::Refused(Refusal::new(
            RefusalCode::Moved,
            format!(
                "{} lives on this node: its node connects the client itself",
                channel.target
            ),
        )));
    }
    let link = shared.link(node).await?;
    let slot = link.admit_channel()?;
    let exporter = link.exporter(channel.id)?.to_vec();
    let presented = shared
        .home
        .prove(channel.id, &channel.target, exporter)
        .await?;
    // ORDER(openings): Relaxed; only that each opening gets a later number matters.
    let attempt = shared.openings.fetch_add(1, Ordering::Relaxed) + 1;
    let attachment = Attachment {
        link: link.id,
        attempt,
    };
    let (answer, answered) = oneshot::channel();
    *near.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some((attachment, answer));
    let resume = channel
        .begin(attachment, epoch)
        .ok_or_else(|| stale(channel, epoch))?;
    *near.carrier.lock().unwrap_or_else(PoisonError::into_inner) =
        Some((Arc::clone(&link), attachment));
    let open = Control::Open(Box::new(Open {
        channel: channel.id,
        attempt,
        target: channel.target.clone(),
        epoch,
        table: near.table.clone(),
        presented: PresentedBytes {
            capability_chain: presented.capability_chain.into(),
            identity_chain: presented.identity_chain.into(),
            signature: presented.signature.into(),
        },
        resume,
        // ORDER(resumed): Relaxed; the answer to the opening before, which stores it, has been taken.
        resumed: near.resumed.load(Ordering::Relaxed),
    }));
    let lost = |why: &str| NotOpened::Lost(unreachable_node(node, why));
    let answer = async {
        link.say(open)
            .await
            .map_err(|error| lost(&error.to_string()))?;
        tokio::select! {
            answer = answered => Ok(answer.unwrap_or_else(|_| Err(dropped(channel.id)))?),
            error = link.connection.closed() => Err(lost(&error.to_string())),
            () = tokio::time::sleep(ANSWER_WITHIN) => {
                Err(unreachable_node(node, "it does not answer the open").into())
            }
        }
    };
    match answer.await {
        Ok(()) => Ok(Opened {
            link,
            attachment,
            _slot: slot,
        }),
        Err(why) => {
            channel.end(attachment, Ending::Lost);
            Err(why)
        }
    }
}

fn stale(channel: &Channel, epoch: Epoch) -> Refusal {
    if channel.is_closed() {
        return dropped(channel.id);
    }
    Refusal::new(
        RefusalCode::Moved,
        format!(
            "{} is in {}, the directory says {epoch}",
            channel.target,
            channel.epoch()
        ),
    )
}

/// The task of one channel, from its first opening to its end.
async fn supervise(shared: Arc<Shared>, near: Arc<Near>, opened: Option<Opened>) {
    let channel = &near.channel;
    let outcome = tokio::select! {
        biased;
        () = channel.dropped() => Ending::Dropped,
        ending = keep_carrying(&shared, &near, opened) => ending,
    };
    let refusal = match &outcome {
        Ending::Fault(refusal) | Ending::ClosedByPeer(refusal) => refusal.clone(),
        Ending::ClientGone => Refusal::new(
            RefusalCode::Closed,
            format!("client {} of {} is gone", near.holder, channel.id),
        ),
        Ending::Dropped | Ending::Lost | Ending::Moved => dropped(channel.id),
    };
    channel.close();
    if !matches!(outcome, Ending::ClosedByPeer(_)) {
        near.tell_closed(refusal.clone());
    }
    // A channel that was dropped may have a successor by now.
    shared
        .near
        .remove_if(&channel.id, |_, current| Arc::ptr_eq(current, &near));
    if matches!(outcome, Ending::Fault(_) | Ending::ClosedByPeer(_)) {
        tracing::warn!(channel = %channel.id, holder = %near.holder, target = %channel.target,
            %refusal, "a channel is lost");
        shared.home.channel_lost(channel.id, refusal);
    }
}

/// Opens and carries the channel again and again, until it is over for good.
async fn keep_carrying(
    shared: &Arc<Shared>,
    near: &Arc<Near>,
    mut opened: Option<Opened>,
) -> Ending {
    let mut unreachable = Backoff::new(OPEN_AGAIN.0, OPEN_AGAIN.1);
    let mut moving = Backoff::new(FOLLOW_AGAIN.0, FOLLOW_AGAIN.1);
    let mut gone_since = None;
    loop {
        let backoff = match opened.take() {
            Some(opened) => {
                let since = Instant::now();
                let ending = serve(&near.channel, &opened.link, opened.attachment).await;
                let moved = match ending {
                    Ending::Moved => true,
                    Ending::Lost => false,
                    Ending::ClosedByPeer(ref refusal) if !is_final(refusal.code) => false,
                    over => return over,
                };
                // Carried for longer than we would wait: whatever it is now, it is news.
                for backoff in [&mut unreachable, &mut moving] {
                    if since.elapsed() > backoff.full() {
                        backoff.reset();
                    }
                }
                if moved { &mut moving } else { &mut unreachable }
            }
            None => match open_again(shared, near).await {
                Ok(again) => {
                    tracing::debug!(channel = %near.channel.id, node = %again.link.node,
                        epoch = %near.channel.epoch(), "carries a channel again");
                    opened = Some(again);
                    continue;
                }
                Err(refusal) if is_final(refusal.code) => return Ending::Fault(refusal),
                Err(refusal) => {
                    tracing::debug!(channel = %near.channel.id, %refusal, "cannot carry a channel");
                    match refusal.code {
                        RefusalCode::Moved | RefusalCode::Busy => &mut moving,
                        _ => &mut unreachable,
                    }
                }
            },
        };
        if near.channel.has_hung_up() {
            // What the client sent before it ended is still to be done, for as long as that may
            // take on a connection.
            let since = *gone_since.get_or_insert_with(Instant::now);
            if near.channel.all_acknowledged() || since.elapsed() > LINGER {
                return Ending::ClientGone;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.wait()) => {}
            () = near.hurry.notified() => {}
        }
    }
}

async fn open_again(shared: &Arc<Shared>, near: &Arc<Near>) -> Result<Opened, Refusal> {
    let (node, epoch) = shared.home.locate(&near.channel.target).await?;
    open_at(shared, near, &node, epoch)
        .await
        .map_err(NotOpened::into_refusal)
}

/// Whether an established channel is over with this refusal. Everything else is tried again for
/// as long as the client wants it.
fn is_final(code: RefusalCode) -> bool {
    match code.fault() {
        Fault::Caller | Fault::Right => true,
        // The service was started anew and knows nothing of the channel.
        Fault::Reach => matches!(code, RefusalCode::Closed | RefusalCode::OutcomeUnknown),
        Fault::Internal => code == RefusalCode::PeerFault,
    }
}

/// For the table of channels.
pub(crate) type NearTable = dashmap::DashMap<ChannelId, Arc<Near>>;
