//! Channels of remote clients to services of this node.
//!
//! A channel outlives the connections that carry it: after a lost one it waits, attached to its
//! service, for the client's node to open it again. It ends when the client closes it, when the
//! node takes it away (the service has moved or stopped), or when the client's node has stayed away
//! for too long.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::OwnedSemaphorePermit;
use weft_capability::{ChannelGrant, Opening, Presented, Session as TlsSession, admit};
use weft_contract::TypeTable;
use weft_protocol::wire::{Control, Direction, Open};
use weft_types::{ChannelId, Epoch, NodeName, Refusal, RefusalCode, ServiceName};

use crate::channel::{Attachment, Channel, Ending, Parts, dropped};
use crate::config::MAX_CHANNELS_PER_PEER;
use crate::gateway::Shared;
use crate::home::InboundOpen;
use crate::link::{ChannelSlot, Link};
use crate::near::{make_half, open_half};
use crate::traffic::serve;

/// The longest that a timer is set for; a grant that lasts longer is looked at again then.
const LONGEST_TIMER: Duration = Duration::from_secs(24 * 3600);

/// A channel that we carry for a client of another node.
pub(crate) struct Far {
    pub(crate) channel: Arc<Channel>,
    /// The client's node.
    node: NodeName,
    caller: ServiceName,
    /// Where `Close` and `Moved` go.
    carrier: Mutex<Option<(Arc<Link>, Attachment)>>,
}

/// For the table of channels.
pub(crate) type FarTable = dashmap::DashMap<ChannelId, Arc<Far>>;

impl Far {
    fn carried_by(&self, link: &Arc<Link>, attachment: Attachment) {
        *self.carrier.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((Arc::clone(link), attachment));
    }

    fn carrier(&self) -> Option<(Arc<Link>, Attachment)> {
        self.carrier
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The node takes the channel away: the service is stopped.
    pub(crate) fn drop_by_node(&self, refusal: Option<Refusal>) {
        self.channel.close();
        if let Some((link, attachment)) = self.carrier() {
            link.mention(Control::Close {
                channel: self.channel.id,
                attempt: attachment.attempt,
                refusal: refusal.unwrap_or_else(|| dropped(self.channel.id)),
            });
        }
    }

    /// The service has moved: the client's node is to open the channel there.
    pub(crate) fn move_away(&self, node: &NodeName, epoch: Epoch) {
        self.channel.close();
        if let Some((link, attachment)) = self.carrier() {
            link.mention(Control::Moved {
                channel: self.channel.id,
                attempt: attachment.attempt,
                epoch,
                node: node.clone(),
            });
        }
    }
}

/// What an open has led to.
struct Opened {
    far: Arc<Far>,
    attachment: Attachment,
    grant: ChannelGrant,
    _slot: ChannelSlot,
}

/// Answers an `Open`, and carries the channel on this connection until that is over.
pub(crate) async fn answer(
    shared: Arc<Shared>,
    link: Arc<Link>,
    open: Open,
    permit: OwnedSemaphorePermit,
) {
    let (channel, attempt) = (open.channel, open.attempt);
    let outcome = open_one(&shared, &link, open).await;
    drop(permit);
    match outcome {
        Ok(opened) => carry(&shared, &link, opened).await,
        Err(refusal) => {
            tracing::info!(%channel, node = %link.node, %refusal, "refuses a channel");
            let _ = link
                .say(Control::Refused {
                    channel,
                    attempt,
                    refusal,
                })
                .await;
        }
    }
}

/// Lets one opening of a channel at a time through.
struct Turn<'a>(&'a Shared, ChannelId);

impl<'a> Turn<'a> {
    fn take(shared: &'a Shared, channel: ChannelId) -> Result<Self, Refusal> {
        if shared.far_opening.insert(channel) {
            Ok(Self(shared, channel))
        } else {
            Err(Refusal::new(
                RefusalCode::Busy,
                format!("{channel} is being opened already"),
            ))
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.far_opening.remove(&self.1);
    }
}

async fn open_one(shared: &Arc<Shared>, link: &Arc<Link>, open: Open) -> Result<Opened, Refusal> {
    let _turn = Turn::take(shared, open.channel)?;
    let slot = link.admit_channel()?;
    let (table, rest): (TypeTable, _) = postcard::take_from_bytes(&open.table)
        .map_err(|_| Refusal::new(RefusalCode::Malformed, "the type table does not decode"))?;
    if !rest.is_empty() {
        return Err(Refusal::new(
            RefusalCode::Malformed,
            "bytes follow the type table",
        ));
    }
    let mut known = shared.far.get(&open.channel).map(|far| Arc::clone(&far));
    if let Some(far) = &known {
        check_known(far, link, &open)?;
    }
    // Before anything is asked of the node or taken from a channel that stands.
    let grant = check_right(shared, link, &open, &table)?;
    if let Some(far) = known.as_ref().filter(|far| far.caller != grant.holder) {
        return Err(other_owner(&far.channel));
    }
    let mut start = None;
    if known
        .as_ref()
        .is_none_or(|far| far.channel.epoch() < open.epoch)
    {
        let inbound = shared.home.inbound_start(
            open.channel,
            &grant.holder,
            &link.node,
            &open.target,
            open.epoch,
        );
        start = inbound.await?;
        // The service has come back in a later epoch, and nobody told that it had gone.
        if let Some(old) = known.take() {
            old.channel.close();
            shared
                .far
                .remove_if(&open.channel, |_, current| Arc::ptr_eq(current, &old));
        }
    }
    let attachment = Attachment {
        link: link.id,
        attempt: open.attempt,
    };
    let (far, is_new) = match known {
        Some(far) => (far, false),
        None if open.resumed && start.is_none() => return Err(state_lost(&open.target)),
        None => (
            create(shared, link, &open, table, &grant, start).await?,
            true,
        ),
    };
    match attach(shared, &far, link, attachment, &open) {
        Ok(answer) => {
            link.say(answer)
                .await
                .map_err(|error| Refusal::new(RefusalCode::Unreachable, error.to_string()))?;
            Ok(Opened {
                far,
                attachment,
                grant,
                _slot: slot,
            })
        }
        Err(refusal) => {
            if is_new {
                close(shared, &far);
            }
            Err(refusal)
        }
    }
}

fn attach(
    shared: &Shared,
    far: &Arc<Far>,
    link: &Arc<Link>,
    attachment: Attachment,
    open: &Open,
) -> Result<Control, Refusal> {
    // Taken away meanwhile, or closed and opened anew: the client's node asks again.
    let gone = || Refusal::new(RefusalCode::Busy, format!("{} is changing", open.channel));
    if shared
        .far
        .get(&open.channel)
        .is_none_or(|current| !Arc::ptr_eq(&current, far))
    {
        return Err(gone());
    }
    let epoch = far.channel.epoch();
    far.carried_by(link, attachment);
    let resume = far.channel.begin(attachment, epoch).ok_or_else(gone)?;
    if let Err(refusal) = far.channel.attach(attachment, epoch, open.resume) {
        far.channel.end(attachment, Ending::Lost);
        return Err(refusal);
    }
    Ok(Control::Opened {
        channel: open.channel,
        attempt: open.attempt,
        epoch,
        resume,
    })
}

/// Whether this open belongs to the channel that we have under its id.
fn check_known(far: &Far, link: &Link, open: &Open) -> Result<(), Refusal> {
    if far.node != link.node || far.channel.target != open.target {
        return Err(other_owner(&far.channel));
    }
    let ours = far.channel.epoch();
    if open.epoch < ours {
        return Err(Refusal::new(
            RefusalCode::Moved,
            format!("{} is in {ours}, not in {}", open.target, open.epoch),
        ));
    }
    // Frames of one connection come in order, so this is a peer that counts wrongly.
    let current = far.channel.attachment();
    if current.is_some_and(|now| now.link == link.id && now.attempt >= open.attempt) {
        return Err(Refusal::new(
            RefusalCode::PeerFault,
            "an old attempt to open a channel",
        ));
    }
    Ok(())
}

/// The channel stood before, and neither we nor our node has anything of it.
fn state_lost(target: &ServiceName) -> Refusal {
    Refusal::new(
        RefusalCode::OutcomeUnknown,
        format!(
            "{target} was started anew without its former channels; what it had not answered may or \
             may not have been done: open another channel"
        ),
    )
}

fn other_owner(channel: &Channel) -> Refusal {
    Refusal::new(
        RefusalCode::NotHolder,
        format!("{} belongs to another client", channel.id),
    )
}

fn check_right(
    shared: &Shared,
    link: &Link,
    open: &Open,
    table: &TypeTable,
) -> Result<ChannelGrant, Refusal> {
    let parts = &open.presented;
    let presented = Presented::from_parts(
        parts.capability_chain.clone(),
        parts.identity_chain.clone(),
        parts.signature.clone(),
    )
    .map_err(|why| Refusal::new(RefusalCode::Malformed, why))?;
    let opening = Opening {
        target: &open.target,
        contract: &table.contract,
        version: table.version,
        epoch: open.epoch,
    };
    let exporter = link.exporter(open.channel)?;
    let session = TlsSession {
        peer: &link.node,
        channel: open.channel,
        exporter: &exporter,
    };
    let bundle = shared.identity.bundle();
    let grant = admit(bundle, &presented, &opening, &session, SystemTime::now())
        .map_err(|error| error.refusal())?;
    for entry in &table.entries {
        // Once, here: what the table does not name cannot be sent.
        grant
            .check_message(&entry.request.name)
            .map_err(|error| error.refusal())?;
    }
    Ok(grant)
}

/// A node's channels count while they wait for it, too: it could open some, go, and come back for
/// more.
fn check_budget(shared: &Shared, node: &NodeName) -> Result<(), Refusal> {
    let channels = shared.far.iter().filter(|far| far.node == *node).count();
    if channels < MAX_CHANNELS_PER_PEER as usize {
        return Ok(());
    }
    Err(Refusal::new(
        RefusalCode::OverBudget,
        format!(
            "clients of node {node} have {channels} channels to services of node {} already, \
             which is the most: close some",
            shared.node
        ),
    ))
}

async fn create(
    shared: &Arc<Shared>,
    link: &Link,
    open: &Open,
    table: TypeTable,
    grant: &ChannelGrant,
    resume: Option<weft_local_ipc::Start>,
) -> Result<Arc<Far>, Refusal> {
    check_budget(shared, &link.node)?;
    let start = resume.unwrap_or_default();
    let (own, own_half) = make_half(shared, start)?;
    let request = InboundOpen {
        channel: open.channel,
        caller: grant.holder.clone(),
        node: link.node.clone(),
        grant: grant.clone(),
        target: open.target.clone(),
        epoch: open.epoch,
        table,
        own_half,
        resume,
    };
    let opened = shared.home.open_inbound(request).await?;
    let attached = || {
        let parts = Parts {
            id: open.channel,
            target: open.target.clone(),
            direction: Direction::ToClient,
            epoch: opened.epoch,
            window: shared.window,
            own,
            start,
            peer: open_half(opened.peer_half)?,
            side: opened.side,
            lane_ceiling: grant.lane_ceiling,
        };
        Channel::new(parts, &shared.watcher)
    };
    let channel = attached().inspect_err(|_| shared.home.inbound_closed(open.channel))?;
    let far = Arc::new(Far {
        channel,
        node: link.node.clone(),
        caller: grant.holder.clone(),
        carrier: Mutex::default(),
    });
    shared.far.insert(open.channel, Arc::clone(&far));
    Ok(far)
}

/// Carries the channel on this connection, and sees to it afterwards.
async fn carry(shared: &Arc<Shared>, link: &Arc<Link>, opened: Opened) {
    let Opened {
        far,
        attachment,
        grant,
        _slot,
    } = opened;
    let ending = tokio::select! {
        ending = serve(&far.channel, link, attachment) => ending,
        refusal = expired(&grant) => {
            let ending = Ending::Fault(refusal);
            far.channel.end(attachment, ending.clone());
            ending
        }
    };
    match ending {
        Ending::Lost | Ending::Moved => forget_later(shared, &far),
        Ending::ClosedByPeer(_) | Ending::ClientGone => close(shared, &far),
        Ending::Fault(refusal) => {
            tracing::warn!(channel = %far.channel.id, caller = %far.caller, node = %far.node,
                target = %far.channel.target, %refusal, "closes a channel");
            let (channel, attempt) = (far.channel.id, attachment.attempt);
            let _ = link
                .say(Control::Close {
                    channel,
                    attempt,
                    refusal,
                })
                .await;
            close(shared, &far);
        }
        Ending::Dropped => {}
    }
}

async fn expired(grant: &ChannelGrant) -> Refusal {
    loop {
        let left = grant.not_after.remaining(SystemTime::now());
        if left.is_zero() {
            return Refusal::new(
                RefusalCode::Expired,
                format!(
                    "the capability of {} for {} has run out; issue one with `weft grant {} {}`",
                    grant.holder, grant.target, grant.holder, grant.target
                ),
            );
        }
        tokio::time::sleep(left.min(LONGEST_TIMER)).await;
    }
}

/// Closes the channel if nobody opens it again for too long.
fn forget_later(shared: &Arc<Shared>, far: &Arc<Far>) {
    let (shared, far) = (Arc::clone(shared), Arc::clone(far));
    tokio::spawn(async move {
        let mut states = far.channel.states();
        states.mark_unchanged();
        // Whatever happens to the channel next has its own consequences.
        if tokio::time::timeout(shared.detached_for, states.changed())
            .await
            .is_err()
        {
            tracing::warn!(channel = %far.channel.id, node = %far.node,
                "closes a channel whose client's node has stayed away");
            close(&shared, &far);
        }
    });
}

fn close(shared: &Shared, far: &Arc<Far>) {
    far.channel.close();
    let channel = far.channel.id;
    if shared
        .far
        .remove_if(&channel, |_, current| Arc::ptr_eq(current, far))
        .is_some()
    {
        shared.home.inbound_closed(channel);
    }
}
