//! What the gateway and its node ask of each other. Neither knows more of the other than this.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use futures_util::future::BoxFuture;
use weft_capability::{ChannelGrant, Presented};
use weft_contract::TypeTable;
use weft_local_ipc::Start;
use weft_types::{ChannelId, Epoch, NodeName, PerLane, Refusal, Sequence, ServiceName};

/// What the gateway asks of its node.
pub trait Home: Send + Sync + 'static {
    /// Where a service lives, and in which epoch, by the directory.
    fn locate(
        &self,
        service: &ServiceName,
    ) -> BoxFuture<'static, Result<(NodeName, Epoch), Refusal>>;

    /// Where a node can be dialled. Asked before each dial, so that a node may change its address.
    fn address(&self, node: &NodeName) -> BoxFuture<'static, Result<Vec<SocketAddr>, Refusal>>;

    /// The capability of the domain that holds `channel`, and its proof for this TLS session.
    fn prove(
        &self,
        channel: ChannelId,
        target: &ServiceName,
        exporter: Vec<u8>,
    ) -> BoxFuture<'static, Result<Presented, Refusal>>;

    /// Whether this node serves `target` in `epoch`, and where the service's cursors on `channel`
    /// stand, if it has the channel already: from a gateway that died, or from a move.
    ///
    /// Asked first for each inbound channel that this gateway does not know, once its client was
    /// admitted as `caller` of the node `from`. Refuse with `Moved` (or `Busy`, if it will be so soon)
    /// when the service is not here in this epoch, and with `NotHolder` when the channel is another's.
    fn inbound_start(
        &self,
        channel: ChannelId,
        caller: &ServiceName,
        from: &NodeName,
        target: &ServiceName,
        epoch: Epoch,
    ) -> BoxFuture<'static, Result<Option<Start>, Refusal>>;

    /// Attaches our half to the local service, for a remote client that was admitted.
    fn open_inbound(
        &self,
        request: InboundOpen,
    ) -> BoxFuture<'static, Result<InboundOpened, Refusal>>;

    /// A channel of a remote client is over: the client closed it, or stayed away for too long.
    /// Not called for what the node itself dropped or moved away.
    fn inbound_closed(&self, channel: ChannelId);

    /// A channel that this gateway carried for a local client cannot go on; tell the client why.
    /// Not called for what the node itself dropped.
    fn channel_lost(&self, channel: ChannelId, refusal: Refusal);

    /// Another node of our name is in the cluster and was there first: `peer` has refused us for it,
    /// and we have seen that it answers. `text` says so to an operator, with what to do. Told again
    /// for as long as it is so.
    fn name_taken(&self, peer: NodeName, text: String);
}

/// A remote client that was admitted, to be attached to a local service.
#[derive(Debug)]
pub struct InboundOpen {
    /// The channel.
    pub channel: ChannelId,
    /// The client, as its certificates name it.
    pub caller: ServiceName,
    /// The client's node, as TLS authenticated it.
    pub node: NodeName,
    /// What the client may do. The lane ceiling is enforced by the gateway, messages are not.
    pub grant: ChannelGrant,
    /// The service.
    pub target: ServiceName,
    /// The epoch in which the client's node wants it.
    pub epoch: Epoch,
    /// The client's type table.
    pub table: TypeTable,
    /// The gateway's half of the channel.
    pub own_half: OwnedFd,
    /// What [`Home::inbound_start`] said: where the gateway's half starts. None: a new channel.
    pub resume: Option<Start>,
}

/// The local service's end of an inbound channel.
#[derive(Debug)]
pub struct InboundOpened {
    /// The service's half.
    pub peer_half: OwnedFd,
    /// The gateway's end of the side path.
    pub side: OwnedFd,
    /// The epoch in which the service serves.
    pub epoch: Epoch,
}

/// A channel that a local client has opened to a service on another node.
#[derive(Debug)]
pub struct Carry {
    /// The channel.
    pub channel: ChannelId,
    /// The service.
    pub target: ServiceName,
    /// The client.
    pub holder: ServiceName,
    /// Where the service lives, as the directory says.
    pub node: NodeName,
    /// The epoch in which it lives there.
    pub epoch: Epoch,
    /// The client's type table.
    pub table: TypeTable,
    /// The client's half.
    pub client_half: OwnedFd,
    /// The gateway's end of the side path.
    pub side: OwnedFd,
    /// Set if the channel exists already: its service has moved away from here, or the gateway was
    /// restarted.
    pub resume: Option<CarryResume>,
}

/// Where the gateway's half starts for a channel that exists already.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct CarryResume {
    /// Where the messages of the previous half towards the client end (its last published).
    pub outgoing: PerLane<Sequence>,
    /// Up to where the previous consumer of the client's messages was done.
    pub incoming: PerLane<Sequence>,
}

/// A channel that is carried.
#[derive(Debug)]
pub struct Carried {
    /// The gateway's half, for the client.
    pub own_half: OwnedFd,
    /// The epoch of the service. Of a channel that is resumed: the one that was asked for.
    pub epoch: Epoch,
}

/// What the gateway knows of another node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PeerStatus {
    /// The node.
    pub node: NodeName,
    /// The address of the connection, or the last one that was tried.
    pub address: Option<SocketAddr>,
    /// Whether there is a connection now.
    pub connected: bool,
    /// How many channels it carries, both ways.
    pub channels: u32,
}
