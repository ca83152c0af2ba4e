//! What a hostile peer can do, as programs of bytes: one attack for each kind of thing that it writes.
//!
//! An attack takes any bytes, does what they say with real ends of a channel, and panics if what we
//! promise does not hold. `fuzz_targets` has libFuzzer look for such bytes; `tests/fuzz.rs` replays those
//! in `corpus` with every run of the tests.
//!
//! Everything here goes through the crate's public API on our side, and on the peer's through
//! `docs/FORMATS.md`: a peer does not use our code.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(dead_code, reason = "each target uses its part")]

pub(crate) mod cursors;
pub(crate) mod halves;
pub(crate) mod heap;
mod liar;
pub(crate) mod program;
pub(crate) mod regions;
pub(crate) mod rings;
pub(crate) mod side;

use std::collections::BTreeSet;

/// What an input got to see: the names of errors, and of things that went well.
pub(crate) type Seen = BTreeSet<&'static str>;

/// Takes any bytes.
pub(crate) type Attack = fn(&[u8]) -> Seen;

/// All attacks, by the names of their targets and corpora.
pub(crate) const ATTACKS: &[(&str, Attack)] = &[
    ("slots", rings::slots),
    ("segments", rings::segments),
    ("cursors", cursors::cursors),
    ("halves", halves::halves),
    ("regions", regions::regions),
    ("side", side::side),
    ("notes", heap::notes),
    ("references", heap::references),
];

use weft_local_ipc::{PeerFault, RegionError, SendError};

fn name_of_fault(fault: &PeerFault) -> &'static str {
    match fault {
        PeerFault::WrongSequence { .. } => "WrongSequence",
        PeerFault::UnknownKind { .. } => "UnknownKind",
        PeerFault::UnknownFlags { .. } => "UnknownFlags",
        PeerFault::TooLong { .. } => "TooLong",
        PeerFault::WrongLength { .. } => "WrongLength",
        PeerFault::OutOfBounds { .. } => "OutOfBounds",
        PeerFault::CursorBack { .. } => "CursorBack",
        PeerFault::CursorAhead { .. } => "CursorAhead",
        PeerFault::Gap { .. } => "Gap",
        PeerFault::WrongSegment { .. } => "WrongSegment",
        PeerFault::TooManySwaps { .. } => "TooManySwaps",
    }
}

fn name_of_send_error(error: &SendError) -> &'static str {
    match error {
        SendError::Full { .. } => "Full",
        SendError::TooLarge { .. } => "TooLarge",
        SendError::OutOfTurn { .. } => "OutOfTurn",
        SendError::Peer(fault) => name_of_fault(fault),
    }
}

fn name_of_region_error(error: &RegionError) -> &'static str {
    match error {
        RegionError::Geometry(_) => "Geometry",
        RegionError::StartOutOfRange => "StartOutOfRange",
        RegionError::Size { .. } => "Size",
        RegionError::OutOfMemory { .. } => "OutOfMemory",
        RegionError::System { .. } => "System",
        RegionError::NotMemory => "NotMemory",
        RegionError::NotSealed { .. } => "NotSealed",
        RegionError::NotAllocated { .. } => "NotAllocated",
        RegionError::WrongSize { .. } => "WrongSize",
        RegionError::WrongMagic => "WrongMagic",
        RegionError::WrongVersion { .. } => "WrongVersion",
    }
}
