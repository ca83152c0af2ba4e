//! What can happen, and who it happens to.

use std::rc::Rc;

use weft_protocol::moving::{
    Command, DirectoryError, Entry, SourceInput, StateDigest, TargetInput,
};
use weft_protocol::session::ResumePoint;
use weft_types::{Epoch, Lane, MoveId, PerLane, Sequence};

use crate::memory::Message;
use crate::movement::Image;

/// A node by its place in the cluster.
pub(crate) type Node = usize;
/// A service by its number.
pub(crate) type Service = usize;
/// A channel by the order of opening.
pub(crate) type Channel = usize;
/// A client by its number; a client of a restarted node is another one.
pub(crate) type Client = usize;
/// An instance by the order of its start.
pub(crate) type Instance = usize;
/// A connection by the order of its making.
pub(crate) type Connection = usize;

/// Who waits for a bell.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Owner {
    Client(Client),
    Instance(Instance),
    Gateway(Node),
}

/// One life of a node's gateway: what was meant for an earlier one is dropped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct GatewayLife {
    pub(crate) node: Node,
    pub(crate) life: u64,
}

/// One life of a node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct NodeLife {
    pub(crate) node: Node,
    pub(crate) boot: u64,
}

/// What gateways say to each other about one channel.
#[derive(Clone, Debug)]
pub(crate) enum Control {
    Open {
        service: Service,
        epoch: Epoch,
        client: NodeLife,
        /// Nobody has ever accepted this channel, so nothing was sent on it.
        fresh: bool,
        resume: ResumePoint,
    },
    Opened {
        epoch: Epoch,
        resume: ResumePoint,
    },
    Refused {
        /// The far side has lost what belongs to the channel; else the near side tries again.
        for_good: bool,
    },
    Acknowledge {
        epoch: Epoch,
        done: PerLane<Sequence>,
    },
    Moved {
        epoch: Epoch,
    },
}

/// What daemons say to each other about one move. May be lost, doubled, and overtaken.
#[derive(Clone, Debug)]
pub(crate) enum Said {
    Prepare {
        service: Service,
        from: Node,
        epoch: Epoch,
        again: bool,
    },
    Copy {
        round: u32,
    },
    Final {
        image: Rc<Image>,
    },
    Activate,
    Abandon,
    StillOn {
        service: Service,
        epoch: Epoch,
        asker: Node,
    },
    Going,
    Prepared,
    Copied {
        round: u32,
    },
    Stored {
        digest: StateDigest,
    },
    Activated,
    NeverActivated,
    Superseded {
        current: Option<Entry>,
    },
    Failed,
}

/// Why the directory was asked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    Commit(MoveId),
    Target(MoveId),
    /// A node looks whether it has to start the service. The number tells the latest asking from
    /// earlier ones.
    Check(Service, u64),
    Register(Service, u64),
    Locate {
        channel: Channel,
        life: u64,
        attempt: u64,
    },
    ClientOpen(Client),
}

#[derive(Clone, Debug)]
pub(crate) enum DirectoryAnswer {
    Decided(Result<Entry, DirectoryError>),
    /// The disk is full: surely nothing has changed.
    NotApplied,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    Move,
    Cancel,
    Cut,
    Partition,
    GatewayCrash,
    ServiceCrash,
    NodeCrash,
    DirectoryCut,
    DirectoryFull,
}

#[derive(Clone, Debug)]
pub(crate) enum Event {
    Wake(Owner),
    ClientSends(Client),
    ClientOpens(Client),
    ClientFinishes(Client),
    HandlerReplies(Instance),
    HandlerDone(Instance),
    RestartService {
        at: NodeLife,
        service: Service,
    },

    Dial {
        from: GatewayLife,
        to: Node,
    },
    DialArrives {
        from: GatewayLife,
        to: Node,
    },
    DialDone(Connection),
    ConnectionLost {
        connection: Connection,
        at: GatewayLife,
    },
    Control {
        connection: Connection,
        to: Node,
        channel: Channel,
        control: Control,
    },
    Data {
        connection: Connection,
        to: Node,
        channel: Channel,
        lane: Lane,
        epoch: Epoch,
        sequence: u64,
        message: Message,
    },
    SessionTimer {
        at: GatewayLife,
        channel: Channel,
    },
    Retry {
        at: GatewayLife,
        channel: Channel,
        attempt: u64,
    },
    GatewayStarts(NodeLife),

    Daemon {
        to: Node,
        from: Node,
        id: MoveId,
        said: Said,
    },
    DirectoryAsked {
        from: NodeLife,
        purpose: Purpose,
        command: Command,
    },
    DirectoryAnswered {
        to: NodeLife,
        purpose: Purpose,
        answer: DirectoryAnswer,
    },
    Source {
        at: NodeLife,
        id: MoveId,
        input: SourceInput,
    },
    Target {
        at: NodeLife,
        id: MoveId,
        input: TargetInput,
    },
    CheckService {
        at: NodeLife,
        service: Service,
    },
    /// The directory tells a node that it has become an owner.
    Named {
        node: Node,
        service: Service,
    },

    Fault(Fault),
    PartitionEnds(Node, Node),
    NodeStarts(Node),
    DirectoryCutEnds(Node),
    DirectoryFullEnds,
}
