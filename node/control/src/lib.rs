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

pub use channel_state::{Caller, ChannelState, MAX_PIECE_BYTES, PieceError, SavedMessage};
pub use dispatcher::{
    ChannelClosed, ChannelOpened, ClientFault, ClientFaultNoted, CloseChannel, DescribeService,
    Dispatcher, DispatcherRequest, OpenChannel, RegisterService, ServiceDescribed,
    ServiceRegistered,
};
pub use domain::{
    Activate, Activated, AttachClient, ChannelChunk, ChannelsLoaded, ClientAttached,
    ClientDetached, CopyChannels, CopyState, DetachClient, Digest, Domain, DomainRequest, Freeze,
    Frozen, LoadChannels, LoadState, PeerGone, PeerGoneNoted, PeerSwapped, Resume, ShutDown,
    Shutdown, StateChunk, StateDigest, StateLoaded, SwapPeer, Thaw, Thawed,
};
pub use gateway::{
    Carried, Carry, CarryResume, Drop, Dropped, Gateway, GatewayRequest, LocalSwapped, MoveNoted,
    PeerList, Peers, ServiceMoved, SwapLocal,
};
pub use gateway_home::{
    ChannelLost, GatewayHome, GatewayHomeRequest, GatewayReady, InboundCloseNoted, InboundClosed,
    InboundOpened, InboundStart, InboundStarted, Locate, Located, LostNoted, NameTaken,
    NameTakenNoted, OpenInbound, ReadyNoted, Resolve, Resolved, StartAt,
};
pub use memory::{
    ExtentGranted, ExtentReturned, Memory, MemoryRequest, RequestExtent, RequestGrowth,
    ReturnExtent,
};
pub use moves::{
    DirectoryAnswer, DirectoryCommit, DirectoryLookup, DirectoryRegister, DirectoryRemove,
    MoveAbandon, MoveAbandoned, MoveActivate, MoveActivated, MoveAsk, MoveChannels,
    MoveChannelsStored, MoveChunk, MoveChunkStored, MoveFinal, MovePrepare, MovePrepared,
    MoveReady, MoveStanding, Owner,
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weft_contract::{Contract, DecodeError};
    use weft_types::TypeIndex;

    use super::*;

    /// Reads the bytes as every message of the contract, and as one that it does not have.
    fn read_as_everything<C: Contract>(bytes: &[u8]) {
        let count = u16::try_from(C::table().entries.len()).unwrap();
        for index in 0..count {
            let _ = C::decode(TypeIndex::new(index), bytes);
        }
        assert!(matches!(
            C::decode(TypeIndex::new(count), bytes),
            Err(DecodeError::UnknownIndex { .. })
        ));
    }

    fn read_by_all(bytes: &[u8]) {
        read_as_everything::<NodeControl>(bytes);
        read_as_everything::<Dispatcher>(bytes);
        read_as_everything::<Security>(bytes);
        read_as_everything::<Memory>(bytes);
        read_as_everything::<Domain>(bytes);
        read_as_everything::<Gateway>(bytes);
        read_as_everything::<GatewayHome>(bytes);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn bytes_from_nowhere_are_refused_or_read_but_never_panic(bytes: Vec<u8>) {
            read_by_all(&bytes);
        }
    }

    #[test]
    fn claims_of_endless_lists_are_refused_at_once() {
        read_by_all(&[0xff; 10]);
        read_by_all(&[0x7f; 200]);
        read_by_all(&[1; 10_000]);
    }

    #[test]
    fn no_two_contracts_have_the_same_name_and_each_fits_into_a_message() {
        let descriptions = [
            NodeControl::description(),
            Dispatcher::description(),
            Security::description(),
            Memory::description(),
            Domain::description(),
            Gateway::description(),
            GatewayHome::description(),
        ];
        for (n, one) in descriptions.iter().enumerate() {
            assert!(descriptions[..n].iter().all(|other| other.name != one.name));
            let described = DescribeReply {
                description: one.clone(),
            };
            let mut body = Vec::new();
            weft_contract::encode(&described, &mut body).unwrap();
        }
    }
}
