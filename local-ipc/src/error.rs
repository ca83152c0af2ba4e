//! What can go wrong, sorted by who is at fault: the machine, the caller, the peer.

use std::io;

use weft_types::{Lane, Sequence};

use crate::layout::Geometry;

/// Why a region cannot be made or is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    /// The caller (or the peer's header) asks for sizes out of bounds.
    #[error(
        "a half of {} slots of {} bytes and {} arena bytes a lane that grows {} times is out of bounds",
        .0.slots,
        .0.slot_bytes,
        .0.arena_bytes,
        .0.growth
    )]
    Geometry(Geometry),
    /// A start beyond [`crate::MAX_SEQUENCE`].
    #[error("a ring or cursor starts beyond the largest sequence")]
    StartOutOfRange,
    /// A region of no bytes, of more than can be addressed, or of more than its reader wants.
    #[error("a region cannot have {bytes} bytes here")]
    Size {
        /// What was asked for, or what the peer's has.
        bytes: u64,
    },
    /// The machine (or the control group) has no memory for it now.
    #[error("no memory for a region of {bytes} bytes: free some or raise the domain's limit")]
    OutOfMemory {
        /// What was asked for.
        bytes: u64,
    },
    /// The system refused one step.
    #[error("cannot {step} a region: {source}")]
    System {
        /// Which step.
        step: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The peer's descriptor is not a memory file of small pages.
    #[error("the descriptor is no memory file")]
    NotMemory,
    /// The peer's region lacks a seal, so that it could shrink or be written by others.
    #[error("the region is not sealed (has seals {seals:#x})")]
    NotSealed {
        /// The seals that it has, as the system numbers them.
        seals: u32,
    },
    /// The peer's region has pages that were never allocated: to read them could fail.
    #[error("the region holds {allocated} allocated bytes of {bytes}")]
    NotAllocated {
        /// What is allocated.
        allocated: u64,
        /// What its size says.
        bytes: u64,
    },
    /// The file's size is not that of the geometry in its header.
    #[error("the region has {found} bytes, its header means {expected}")]
    WrongSize {
        /// The file's size.
        found: u64,
        /// The size by the header.
        expected: u64,
    },
    /// The region is no half of a channel.
    #[error("the region is no half of a channel")]
    WrongMagic,
    /// The peer was built with another layout.
    #[error("the region has layout {found}, this program speaks layout {expected}")]
    WrongVersion {
        /// The peer's layout version.
        found: u32,
        /// Ours.
        expected: u32,
    },
}

impl RegionError {
    pub(crate) fn system(step: &'static str, source: impl Into<io::Error>) -> Self {
        Self::System {
            step,
            source: source.into(),
        }
    }
}

/// The peer broke the rules of the channel. Close it: nothing it says can be believed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PeerFault {
    /// A slot carries a sequence that cannot be there.
    #[error("{lane}: the slot of {expected} carries sequence word {word:#x}")]
    WrongSequence {
        /// The lane.
        lane: Lane,
        /// Whose slot was read.
        expected: Sequence,
        /// What its sequence word says.
        word: u64,
    },
    /// A message of a kind that does not exist.
    #[error("{lane}: message {sequence} has the unknown kind {kind}")]
    UnknownKind {
        /// The lane.
        lane: Lane,
        /// The message.
        sequence: Sequence,
        /// The kind's byte.
        kind: u8,
    },
    /// A message with flags that do not exist.
    #[error("{lane}: message {sequence} has the unknown flags {flags:#x}")]
    UnknownFlags {
        /// The lane.
        lane: Lane,
        /// The message.
        sequence: Sequence,
        /// The flags' byte.
        flags: u8,
    },
    /// A body longer than [`weft_types::MAX_BODY_BYTES`].
    #[error("{lane}: message {sequence} claims {len_bytes} bytes")]
    TooLong {
        /// The lane.
        lane: Lane,
        /// The message.
        sequence: Sequence,
        /// The claimed length in bytes.
        len_bytes: u32,
    },
    /// A body that has not the size of the type that the receiver expects.
    #[error("{lane}: message {sequence} has {len_bytes} bytes, its type has {expected}")]
    WrongLength {
        /// The lane.
        lane: Lane,
        /// The message.
        sequence: Sequence,
        /// Its length in bytes.
        len_bytes: usize,
        /// The size of the type in bytes.
        expected: usize,
    },
    /// A body that would lie outside its lane's arena.
    #[error("{lane}: message {sequence} lies outside its arena (at {offset}, {len_bytes} bytes)")]
    OutOfBounds {
        /// The lane.
        lane: Lane,
        /// The message.
        sequence: Sequence,
        /// The claimed offset in the arena, in bytes.
        offset: u64,
        /// The claimed length in bytes.
        len_bytes: u32,
    },
    /// The peer's `done` went back.
    #[error("{lane}: the peer's done cursor went back from {seen} to {now}")]
    CursorBack {
        /// The lane.
        lane: Lane,
        /// What we saw before.
        seen: Sequence,
        /// What it says now.
        now: Sequence,
    },
    /// The peer says that it has done what was never sent.
    #[error("{lane}: the peer's done cursor is {now}, but only {next} comes next")]
    CursorAhead {
        /// The lane.
        lane: Lane,
        /// What would be sent next.
        next: Sequence,
        /// What the cursor says.
        now: Sequence,
    },
    /// The peer's ring starts above what we expect: messages are missing.
    #[error("{lane}: {expected} comes next, but the peer's ring starts at {first}")]
    Gap {
        /// The lane.
        lane: Lane,
        /// What comes next.
        expected: Sequence,
        /// Where the ring starts.
        first: Sequence,
    },
    /// A segment that begins before the last one, or that has no memory.
    #[error("{lane}: segment {segment} cannot begin at {start}, or has no memory")]
    WrongSegment {
        /// The lane.
        lane: Lane,
        /// Which of its segments.
        segment: u32,
        /// Where it begins, by the peer's word.
        start: Sequence,
    },
    /// More predecessors hold messages that nobody finished than a receiver keeps.
    #[error("more than {most} former peers left messages that are not done")]
    TooManySwaps {
        /// The bound.
        most: usize,
    },
}

/// Why two halves cannot be connected.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// They do not fit each other: one starts where the other cannot follow.
    #[error(transparent)]
    Peer(#[from] PeerFault),
}

/// Why a message was not sent. Nothing was published and no sequence was used up.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SendError {
    /// No slot or no arena room until the receiver has done more.
    #[error("{lane} is full until the receiver has done more")]
    Full {
        /// The lane.
        lane: Lane,
    },
    /// The body can never fit.
    #[error("a body of {len_bytes} bytes is too large, at most {most_bytes} can be sent")]
    TooLarge {
        /// The body's length in bytes.
        len_bytes: usize,
        /// The longest body that can be sent here.
        most_bytes: usize,
    },
    /// A replayed message must be the next one of its lane.
    #[error("{lane}: cannot replay {sequence}, {next} comes next")]
    OutOfTurn {
        /// The lane.
        lane: Lane,
        /// The replayed sequence.
        sequence: Sequence,
        /// What comes next.
        next: Sequence,
    },
    /// The peer broke the rules.
    #[error(transparent)]
    Peer(#[from] PeerFault),
}

/// Why a read position cannot be moved there.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RewindError {
    /// The slot may hold something else by now.
    #[error("{lane}: cannot go back to {to}, everything below {done} is done")]
    Done {
        /// The lane.
        lane: Lane,
        /// Where to.
        to: Sequence,
        /// What is done.
        done: Sequence,
    },
    /// It was not handed out yet, or not even published.
    #[error("{lane}: cannot go to {to}, only {end} is reached")]
    Beyond {
        /// The lane.
        lane: Lane,
        /// Where to.
        to: Sequence,
        /// How far one can go.
        end: Sequence,
    },
    /// The peer broke the rules.
    #[error(transparent)]
    Peer(#[from] PeerFault),
}
