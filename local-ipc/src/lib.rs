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
#![cfg_attr(
    any(loom, shuttle),
    allow(
        dead_code,
        unused_imports,
        reason = "who uses the rest is not built for models"
    )
)]

#[cfg(not(any(loom, shuttle)))]
mod adaptive;
mod arena;
#[cfg(all(feature = "tokio", not(any(loom, shuttle, weft_portable))))]
mod asynchronous;
mod bell;
#[cfg(not(any(loom, shuttle)))]
mod cores;
mod error;
mod half;
#[cfg(not(any(loom, shuttle)))]
pub mod heap;
#[cfg(all(test, not(any(loom, shuttle))))]
mod hostile;
mod in_place;
#[cfg(not(any(loom, shuttle)))]
mod inbox;
mod layout;
#[cfg(any(loom, shuttle))]
mod models;
mod note_ring;
pub mod numa;
mod parking;
mod prefetch;
#[cfg(not(any(loom, shuttle)))]
mod raw;
mod receiver;
#[cfg(not(any(loom, shuttle)))]
pub mod region;
mod rows;
mod segment;
mod sender;
mod slot;
mod spin;
mod swap;
mod sync;
mod sys;
mod tenure;
mod trust;
mod typed;
#[cfg(not(any(loom, shuttle)))]
mod waiter;
#[cfg(not(any(loom, shuttle)))]
mod watcher;
#[cfg(all(feature = "floor", not(any(loom, shuttle))))]
mod words;

// Models run the code of a channel, and nothing around it.
#[cfg(any(loom, shuttle))]
use models::memory as raw;

pub use parking::PARKED_ALWAYS;
pub use {
    bell::{Bell, Wait},
    error::{ChannelError, PeerFault, RegionError, RewindError, SendError},
    half::{Cursors, OwnHalf, PeerHalf},
    in_place::{View, Words},
    layout::{Geometry, MAX_SEQUENCE, Start},
    receiver::{MAX_FORMER_PEERS, Received, Receiver},
    sender::Sender,
    slot::{Header, Payload},
    spin::Spin,
    swap::{Swapper, connect},
    sys::ENFORCED,
    sys::doorbell::Doorbell,
    typed::Plain,
};

#[cfg(target_os = "linux")]
pub use sys::process::{die_with_parent, harden_process};

#[cfg(not(any(loom, shuttle)))]
pub use {
    bell::wait_any,
    cores::spinning_can_help,
    inbox::{AddError, Event, Inbox, Left, MAX_MEMBERS, MemberId, Message, Nudge, Row, Why},
    waiter::{NAPS_IN_VAIN, Waiter, Wake},
    watcher::{Ring, WatchId, Watcher},
};

#[cfg(all(target_os = "linux", not(any(loom, shuttle))))]
pub use sys::side::{
    MAX_DESCRIPTORS, MAX_SIDE_BYTES, Packet, PeerCredentials, SideError, SideListener, SideSocket,
};

#[cfg(all(feature = "tokio", not(any(loom, shuttle, weft_portable))))]
pub use asynchronous::{AsyncReceiver, AsyncSendError, AsyncSender, RecvError, asynchronous};

#[cfg(all(feature = "floor", not(any(loom, shuttle))))]
pub use {trust::CHECKED, words::SharedWords};
