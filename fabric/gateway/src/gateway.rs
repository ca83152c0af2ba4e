//! The gateway as a whole: its tables, the tasks of each connection, and the handle for its node.

use std::future::Future;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll};
use std::time::Duration;

use dashmap::{DashMap, DashSet};
use futures_util::FutureExt;
use quinn::{Endpoint, Incoming, RecvStream};
use tokio::sync::Semaphore;
use weft_capability::NodeIdentity;
use weft_local_ipc::{Geometry, Watcher};
use weft_protocol::session::Window;
use weft_protocol::wire::{Control, Direction, StreamHeader};
use weft_types::{ChannelId, Epoch, NodeName, Refusal, RefusalCode, ServiceName};

use crate::channel::{Attachment, Channel, Ending};
use crate::config::{Config, GatewayError};
use crate::endpoint;
use crate::far::{self, FarTable};
use crate::home::{Carried, Carry, Home, PeerStatus};
use crate::link::{
    CloseCode, HANDSHAKE_WITHIN, Link, LinkError, name_taken, read_control, write_control,
};
use crate::namesake;
use crate::near::{self, NearTable, open_half};
use crate::peers::{Fresh, Peers};
use crate::traffic::read_stream;

/// Handshakes with nodes that dial us, at a time. One more is refused; it dials again.
const MAX_HANDSHAKES: usize = 16;

/// Handshakes at a time beyond which a dialler has to show first that its address is its own.
const VALIDATE_BEYOND: usize = 8;

/// Opens of one connection that are being answered at a time. One more is refused with `Busy`.
const MAX_OPENS: usize = 64;

/// How long the end of the gateway waits for its last words to arrive.
const FAREWELL: Duration = Duration::from_millis(200);

/// What all tasks of the gateway know.
pub(crate) struct Shared {
    pub(crate) node: NodeName,
    pub(crate) identity: NodeIdentity,
    pub(crate) home: Arc<dyn Home>,
    pub(crate) near: NearTable,
    pub(crate) far: FarTable,
    /// Inbound channels that are being opened.
    pub(crate) far_opening: DashSet<ChannelId>,
    pub(crate) watcher: Arc<Watcher>,
    pub(crate) geometry: Geometry,
    pub(crate) window: Window,
    pub(crate) detached_for: Duration,
    pub(crate) endpoint: Endpoint,
    /// Numbers the openings of all outbound channels: one that is dropped here and carried again has
    /// to go on counting where the far side remembers it.
    pub(crate) openings: AtomicU64,
    peers: Peers,
    /// Of this process.
    pub(crate) incarnation: u64,
    handshakes: Semaphore,
    /// The gateway's own runtime: its handle may be used on any.
    runtime: tokio::runtime::Handle,
}

/// How a node commands its gateway.
#[derive(Clone)]
pub struct GatewayHandle(Arc<Shared>);

impl std::fmt::Debug for GatewayHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GatewayHandle")
            .field("node", &self.0.node)
            .finish_non_exhaustive()
    }
}

/// A gateway at work: a future that ends only when [`GatewayHandle::stop`] is called.
///
/// It has to be polled, and dropping it stops the gateway.
pub struct Running {
    work: Pin<Box<dyn Future<Output = ()> + Send>>,
    local_address: SocketAddr,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running")
            .field("local_address", &self.local_address)
            .finish_non_exhaustive()
    }
}

impl Running {
    /// The address that it listens on.
    #[must_use]
    pub fn local_address(&self) -> SocketAddr {
        self.local_address
    }
}

impl Future for Running {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.work.as_mut().poll(context)
    }
}

/// Starts a gateway. It works on the tokio runtime that this is called on, best a current-thread
/// one of its own.
///
/// # Errors
///
/// [`GatewayError`]; nothing runs then.
pub async fn run(
    config: Config,
    home: Arc<dyn Home>,
) -> Result<(GatewayHandle, Running), GatewayError> {
    let window = Window::for_ring(config.geometry.slots, config.geometry.arena_bytes).ok_or(
        GatewayError::Geometry {
            slots: config.geometry.slots,
            arena_bytes: config.geometry.arena_bytes,
        },
    )?;
    let endpoint = endpoint::listen(config.listen, &config.identity)?;
    let local_address = endpoint
        .local_addr()
        .map_err(|source| GatewayError::Listen {
            address: config.listen,
            source,
        })?;
    let watcher = Watcher::start("weft-bells").map_err(GatewayError::Watcher)?;
    let (peers, refusals) = Peers::new();
    let shared = Arc::new(Shared {
        node: config.identity.name().clone(),
        identity: config.identity,
        home,
        near: DashMap::new(),
        far: DashMap::new(),
        far_opening: DashSet::new(),
        watcher: Arc::new(watcher),
        geometry: config.geometry,
        window,
        detached_for: config.detached_for,
        endpoint,
        openings: AtomicU64::new(0),
        peers,
        incarnation: incarnation(),
        handshakes: Semaphore::new(MAX_HANDSHAKES),
        runtime: tokio::runtime::Handle::current(),
    });
    let (accepting, settling) = (
        accept(Arc::clone(&shared)),
        namesake::settle(Arc::clone(&shared), refusals),
    );
    let work = Box::pin(async {
        tokio::select! {
            () = accepting => {}
            // Ends never: the table of connections holds the other end.
            () = settling => {}
        }
    });
    Ok((
        GatewayHandle(shared),
        Running {
            work,
            local_address,
        },
    ))
}

/// Tells this process from its predecessor; a machine without random numbers has no TLS either.
fn incarnation() -> u64 {
    ChannelId::random().get() as u64
}

impl GatewayHandle {
    /// Carries a channel of a local client to a service on another node.
    ///
    /// A new channel: returns when the far side has accepted it. With `resume` the channel exists
    /// already: returns at once, and goes on trying until the far side accepts; if it refuses for
    /// good, [`Home::channel_lost`] is told.
    ///
    /// # Errors
    ///
    /// What the far side refused, word for word, or `Unreachable`.
    pub async fn carry(&self, request: Carry) -> Result<Carried, Refusal> {
        // A task of its own: a caller that loses patience leaves nothing half open.
        self.0
            .runtime
            .spawn(near::carry(Arc::clone(&self.0), request))
            .await
            .unwrap_or_else(|error| Err(Refusal::new(RefusalCode::Internal, error.to_string())))
    }

    /// Takes a channel away from the gateway, whichever way it goes. When this returns, nothing
    /// more is published in the gateway's half and none of its cursors moves. A client on another
    /// node is told `refusal`.
    pub async fn drop_channel(&self, channel: ChannelId, refusal: Option<Refusal>) {
        if let Some((_, near)) = self.0.near.remove(&channel) {
            near.channel.close();
        }
        if let Some((_, far)) = self.0.far.remove(&channel) {
            far.drop_by_node(refusal);
        }
    }

    /// The service lives on `node` in `epoch` now.
    ///
    /// Inbound channels of the service are taken away, as by [`Self::drop_channel`], and their
    /// clients' nodes are told where to go. Outbound channels to it ask the directory at once.
    pub async fn service_moved(&self, service: &ServiceName, node: &NodeName, epoch: Epoch) {
        self.0.far.retain(|_, far| {
            let moved = far.channel.target == *service && far.channel.epoch() < epoch;
            if moved {
                far.move_away(node, epoch);
            }
            !moved
        });
        for near in &self.0.near {
            if near.channel.target == *service {
                near.service_moved(epoch);
            }
        }
    }

    /// The local peer of a channel was replaced (a service that was restarted): goes on with its
    /// successor's half.
    ///
    /// # Errors
    ///
    /// `Closed` if there is no such channel, `PeerFault` if `half` is none.
    pub async fn swap_local(
        &self,
        channel: ChannelId,
        half: OwnedFd,
        side: OwnedFd,
    ) -> Result<(), Refusal> {
        let half = open_half(half)?;
        match self.0.channels(channel).next() {
            Some(found) => {
                found.swap_local(half, side);
                Ok(())
            }
            None => Err(Refusal::new(
                RefusalCode::Closed,
                format!("this gateway does not carry {channel}"),
            )),
        }
    }

    /// The other nodes that were dialled or have dialled us.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerStatus> {
        self.0.peers.statuses()
    }

    /// Closes the connection to a node, if there is one. What it carried is opened again at once:
    /// for an operator who has a reason, and for tests.
    pub fn disconnect(&self, node: &NodeName) {
        if let Some(link) = self.0.peers.get(node) {
            link.close(CloseCode::ShuttingDown, "an operator closes the connection");
        }
    }

    /// Closes all connections and ends [`Running`].
    pub async fn stop(&self) {
        self.0
            .peers
            .close_all(CloseCode::ShuttingDown, "the gateway is stopped");
        self.0.endpoint.close(
            quinn::VarInt::from_u32(CloseCode::ShuttingDown as u32),
            b"the gateway is stopped",
        );
        let _ = tokio::time::timeout(FAREWELL, self.0.endpoint.wait_idle()).await;
    }
}

impl Shared {
    /// The channels of this id: ours, or one of the peer's, or (of a peer that lies) both.
    fn channels(&self, channel: ChannelId) -> impl Iterator<Item = Arc<Channel>> {
        let near = self
            .near
            .get(&channel)
            .map(|near| Arc::clone(&near.channel));
        let far = self.far.get(&channel).map(|far| Arc::clone(&far.channel));
        near.into_iter().chain(far)
    }

    /// The connection to a node, dialled if need be.
    pub(crate) async fn link(self: &Arc<Self>, node: &NodeName) -> Result<Arc<Link>, Refusal> {
        let start = |fresh| {
            let shared = Arc::clone(self);
            async move { shared.start_link(fresh).await }.boxed()
        };
        self.peers
            .link(
                node,
                &self.endpoint,
                &self.identity,
                self.incarnation,
                &*self.home,
                start,
            )
            .await
    }

    /// Registers a connection and starts its tasks, unless another one stays.
    async fn start_link(self: &Arc<Self>, fresh: Fresh) {
        if self.peers.admit(&self.node, &fresh.link).await {
            tracing::info!(node = %fresh.link.node, address = %fresh.link.address,
                dialled = fresh.link.dialled, "connected");
            tokio::spawn(run_link(Arc::clone(self), fresh));
        }
    }
}

/// Takes in the nodes that dial us, until the endpoint is closed.
async fn accept(shared: Arc<Shared>) {
    // Dropping the future ends everything: the tasks of connections end with their connections.
    let _closer = CloseOnDrop(Arc::clone(&shared));
    while let Some(incoming) = shared.endpoint.accept().await {
        let busy = MAX_HANDSHAKES - shared.handshakes.available_permits();
        if busy >= MAX_HANDSHAKES {
            incoming.refuse();
        } else if busy >= VALIDATE_BEYOND && !incoming.remote_address_validated() {
            // The dialler answers from its own address or not at all.
            let _ = incoming.retry();
        } else {
            tokio::spawn(greet(Arc::clone(&shared), incoming));
        }
    }
}

struct CloseOnDrop(Arc<Shared>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        let code = quinn::VarInt::from_u32(CloseCode::ShuttingDown as u32);
        self.0.endpoint.close(code, b"the gateway is stopped");
        for near in &self.0.near {
            near.channel.close();
        }
        for far in &self.0.far {
            far.channel.close();
        }
    }
}

async fn greet(shared: Arc<Shared>, incoming: Incoming) {
    let Ok(_permit) = shared.handshakes.acquire().await else {
        return;
    };
    let address = incoming.remote_address();
    let connection = match tokio::time::timeout(HANDSHAKE_WITHIN, incoming).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return tracing::info!(%address, %error, "a handshake failed"),
        Err(_) => return tracing::info!(%address, "a handshake took too long"),
    };
    match Link::greet(connection, &shared.identity, shared.incarnation, None).await {
        Ok((link, streams)) => shared.start_link(Fresh { link, streams }).await,
        Err(LinkError::NameTaken(taken)) => shared.peers.name_refused(taken),
        Err(error) => tracing::warn!(%address, %error, "refuses a connection"),
    }
}

/// The tasks of one connection, until it ends.
async fn run_link(shared: Arc<Shared>, fresh: Fresh) {
    let Fresh { link, streams } = fresh;
    let writer = tokio::spawn(write_control(streams.control_out, streams.queue));
    let why = tokio::select! {
        error = hear(&shared, &link, streams.control_in) => error,
        error = accept_streams(&shared, &link) => error,
        () = link.expires() => {
            let why = format!("the certificate of node {} has run out", link.node);
            link.close(CloseCode::Expired, &why);
            LinkError::Stranger(why)
        }
        error = link.connection.closed() => LinkError::Connection(error.to_string()),
    };
    if let Some(taken) = name_taken(&link.connection, &link.node) {
        shared.peers.name_refused(taken);
    }
    if let LinkError::Protocol(why) = &why {
        link.close(CloseCode::Protocol, why);
    } else {
        link.close(CloseCode::ShuttingDown, "the connection ends");
    }
    writer.abort();
    shared.peers.remove(&link);
    tracing::info!(node = %link.node, %why, "disconnected");
}

/// A task for each data stream that the peer opens; QUIC bounds their number.
async fn accept_streams(shared: &Arc<Shared>, link: &Arc<Link>) -> LinkError {
    loop {
        match link.connection.accept_uni().await {
            Ok(stream) => tokio::spawn(read(Arc::clone(shared), Arc::clone(link), stream)),
            Err(error) => return LinkError::Connection(error.to_string()),
        };
    }
}

async fn read(shared: Arc<Shared>, link: Arc<Link>, stream: RecvStream) {
    let find = |header: &StreamHeader| match header.direction {
        Direction::ToService => shared
            .far
            .get(&header.channel)
            .map(|far| Arc::clone(&far.channel)),
        Direction::ToClient => shared
            .near
            .get(&header.channel)
            .map(|near| Arc::clone(&near.channel)),
    };
    read_stream(link, stream, find).await;
}

/// Hears what the peer says on the control stream. Never waits for a channel: what takes time has
/// a task of its own.
async fn hear(shared: &Arc<Shared>, link: &Arc<Link>, mut stream: RecvStream) -> LinkError {
    let opens = Arc::new(Semaphore::new(MAX_OPENS));
    loop {
        let frame = match read_control(&mut stream).await {
            Ok(frame) => frame,
            Err(error) => return error,
        };
        let at = |attempt| Attachment {
            link: link.id,
            attempt,
        };
        match frame {
            Control::Hello { .. } => return LinkError::Protocol("a second hello".to_owned()),
            Control::Open(open) => match Arc::clone(&opens).try_acquire_owned() {
                Ok(permit) => {
                    let (shared, link) = (Arc::clone(shared), Arc::clone(link));
                    tokio::spawn(far::answer(shared, link, *open, permit));
                }
                Err(_) => link.mention(Control::Refused {
                    channel: open.channel,
                    attempt: open.attempt,
                    refusal: Refusal::new(RefusalCode::Busy, "too many channels open at once"),
                }),
            },
            Control::Opened {
                channel,
                attempt,
                epoch,
                resume,
            } => {
                if let Some(near) = shared.near.get(&channel) {
                    near.opened(at(attempt), epoch, resume);
                }
            }
            Control::Refused {
                channel,
                attempt,
                refusal,
            } => {
                if let Some(near) = shared.near.get(&channel) {
                    near.refused(at(attempt), refusal);
                }
            }
            Control::Acknowledge {
                channel,
                attempt,
                epoch,
                done,
            } => {
                for channel in shared.channels(channel) {
                    channel.acknowledged(at(attempt), epoch, &done);
                }
            }
            Control::Close {
                channel,
                attempt,
                refusal,
            } => {
                for channel in shared.channels(channel) {
                    channel.end(at(attempt), Ending::ClosedByPeer(refusal.clone()));
                }
            }
            Control::Moved {
                channel, attempt, ..
            } => {
                // Where to is for the directory to say: a peer could name any node.
                if let Some(near) = shared.near.get(&channel) {
                    near.channel.end(at(attempt), Ending::Moved);
                }
            }
        }
    }
}
