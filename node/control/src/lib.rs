//! What the parts of a node say to each other and to other nodes.
//!
//! Everything a node's daemon, gateway and domains ask of one another is an ordinary message of one
//! of these contracts, over an ordinary channel:
//!
//! | contract | served by | to |
//! |---|---|---|
//! | [`NodeControl`] | each node daemon, as service `node/<name>` | operators, other daemons |
//! | [`Dispatcher`] | the daemon | each domain attached to it |
//! | [`Security`] | the daemon | each domain attached to it |
//! | [`Memory`] | the daemon | each domain attached to it |
//! | [`Domain`] | each domain's runtime | its daemon |
//! | [`Gateway`] | the gateway | its daemon |
//! | [`GatewayHome`] | the daemon | its gateway |
//!
//! Types only: who imports this crate learns what can be asked, never how it is done. Where
//! descriptors travel beside a message (over the channel's side path), the message says which, and
//! in which order.

mod channel_state;
mod dispatcher;
mod domain;
mod gateway;
mod gateway_home;
mod memory;
mod moves;
mod node;
mod report;
mod security;

pub use channel_state::{Caller, ChannelState, SavedMessage};
pub use dispatcher::{
    ChannelClosed, ChannelOpened, CloseChannel, DescribeService, Dispatcher, DispatcherRequest,
    OpenChannel, RegisterService, ServiceDescribed, ServiceRegistered,
};
pub use domain::{
    Activate, Activated, AttachClient, ChannelChunk, ChannelsLoaded, ClientAttached,
    ClientDetached, CopyChannels, CopyState, DetachClient, Digest, Domain, DomainRequest, Freeze,
    Frozen, LoadChannels, LoadState, PeerGone, PeerGoneNoted, PeerSwapped, Resume, ShutDown,
    Shutdown, StateChunk, StateDigest, StateLoaded, SwapPeer, Thaw, Thawed,
};
pub use gateway::{
    Carried, Carry, CarryResume, Drop, Dropped, Gateway, GatewayRequest, MoveNoted, PeerList,
    Peers, ServiceMoved,
};
pub use gateway_home::{
    GatewayHome, GatewayHomeRequest, InboundCloseNoted, InboundClosed, InboundOpened, Locate,
    Located, OpenInbound,
};
pub use memory::{
    ExtentGranted, ExtentReturned, Memory, MemoryRequest, RequestExtent, ReturnExtent,
};
pub use moves::{
    DirectoryCommit, DirectoryCommitted, DirectoryLookup, DirectoryLookupReply, DirectoryRegister,
    DirectoryRegistered, DirectoryRemove, DirectoryRemoved, MoveAbandon, MoveAbandoned,
    MoveActivate, MoveActivated, MoveChannels, MoveChannelsStored, MoveChunk, MoveChunkStored,
    MoveFinal, MovePrepare, MovePrepared, MoveReady,
};
pub use node::{
    Describe, DescribeReply, Directory, DirectoryReply, GrantInstalled, InstallGrant, Inventory,
    InventoryReply, Log, LogReply, Migrate, MigrateReply, NodeControl, NodeControlRequest,
    PeerPong, Ping, PingPeer, Pong, Start, Started, Stop, Stopped,
};
pub use report::{
    ChannelReport, DirectoryEntry, DomainReport, DomainRole, LogRecord, MoveReport, Path,
    PeerReport, Program, ServiceReport, ServiceState, StepTime,
};
pub use security::{
    GrantSummary, Grants, Identity, ListGrants, Proof, Prove, Security, SecurityRequest, WhoAmI,
};
