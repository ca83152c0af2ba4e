//! Shared memory between the processes of one machine: regions, rings, wake-ups, descriptors.
//!
//! This crate knows bytes, lanes and sequences, and nothing of types, services or networks. It is
//! the only one with unsafe code.
//!
//! A channel is two *halves*, one in the memory of each side ([`OwnHalf`], [`PeerHalf`]): a sealed
//! region with one writer, holding all that this side writes. [`connect`] makes a [`Sender`], a
//! [`Receiver`] and a [`Swapper`] of them. Beside the halves runs a [`SideSocket`] for descriptors
//! and the hang-up.
//!
//! Two things hold for everything here. The other process is hostile: whatever it writes, we answer
//! with an error, never with undefined behaviour, a panic or an unbounded loop. And it may die on
//! any line: what it left is readable, and a successor takes its place by a swap.
//!
//! Start reading at `layout` (where things lie), `segment` (how a queue grows), `slot` (how a message
//! is published and checked) and `parking` (who rings when); [`heap`] is for what is too large for
//! that, or is to live longer. What the system is asked for stands in `sys`.

#[cfg(not(loom))]
mod adaptive;
#[cfg(not(loom))]
mod arena;
#[cfg(all(feature = "tokio", not(any(loom, weft_portable))))]
mod asynchronous;
#[cfg(not(loom))]
mod bell;
#[cfg(not(loom))]
mod cores;
#[cfg(not(loom))]
mod error;
#[cfg(not(loom))]
mod half;
#[cfg(not(loom))]
pub mod heap;
#[cfg(all(test, not(loom)))]
mod hostile;
#[cfg(not(loom))]
mod in_place;
#[cfg(not(loom))]
mod inbox;
#[cfg(not(loom))]
mod layout;
#[cfg_attr(loom, expect(dead_code, reason = "most of its users are not built"))]
mod note_ring;
#[cfg(not(loom))]
pub mod numa;
#[cfg_attr(loom, expect(dead_code, reason = "most of its users are not built"))]
mod parking;
#[cfg(not(loom))]
mod raw;
#[cfg(not(loom))]
mod receiver;
#[cfg(not(loom))]
pub mod region;
#[cfg(not(loom))]
mod rows;
#[cfg(not(loom))]
mod segment;
#[cfg(not(loom))]
mod sender;
#[cfg(not(loom))]
mod slot;
#[cfg(not(loom))]
mod spin;
#[cfg(not(loom))]
mod swap;
#[cfg_attr(
    all(loom, not(test)),
    expect(dead_code, reason = "the models use it, the rest is not built")
)]
mod sync;
#[cfg(not(loom))]
mod sys;
#[cfg(not(loom))]
mod typed;
#[cfg(not(loom))]
mod waiter;
#[cfg(all(loom, test))]
mod wake_models;
#[cfg(not(loom))]
mod watcher;
#[cfg(all(feature = "floor", not(loom)))]
mod words;

pub use parking::PARKED_ALWAYS;

#[cfg(not(loom))]
pub use {
    bell::{Bell, Wait, wait_any},
    cores::spinning_can_help,
    error::{ChannelError, PeerFault, RegionError, RewindError, SendError},
    half::{Cursors, OwnHalf, PeerHalf},
    in_place::{View, Words},
    inbox::{AddError, Event, Inbox, Left, MAX_MEMBERS, MemberId, Message, Nudge, Row, Why},
    layout::{Geometry, MAX_SEQUENCE, Start},
    receiver::{MAX_FORMER_PEERS, Received, Receiver},
    sender::Sender,
    slot::{Header, Payload},
    spin::Spin,
    swap::{Swapper, connect},
    sys::ENFORCED,
    sys::doorbell::Doorbell,
    typed::Plain,
    waiter::{NAPS_IN_VAIN, Waiter, Wake},
    watcher::{Ring, WatchId, Watcher},
};

#[cfg(all(target_os = "linux", not(loom)))]
pub use sys::{
    process::{die_with_parent, harden_process},
    side::{
        MAX_DESCRIPTORS, MAX_SIDE_BYTES, Packet, PeerCredentials, SideError, SideListener,
        SideSocket,
    },
};

#[cfg(all(feature = "tokio", not(any(loom, weft_portable))))]
pub use asynchronous::{AsyncReceiver, AsyncSendError, AsyncSender, RecvError, asynchronous};

#[cfg(all(feature = "floor", not(loom)))]
pub use words::SharedWords;
