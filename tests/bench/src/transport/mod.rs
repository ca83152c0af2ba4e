//! Everything that carries messages here. Each module has the descriptors of a line between two
//! processes, and the wire that a process makes of its end.

mod floor;
mod iceoryx;
mod inbox;
mod kernel;
mod threads;
mod weft;

use std::os::fd::OwnedFd;

use crate::Outcome;
use crate::cell::{Cell, Figures, Transport};
use crate::part::Stage;

/// The descriptors of one side of a line.
type Side = Vec<OwnedFd>;

/// The lines of a cell, one for each sender: what the senders get, and what the receiver gets.
pub(crate) fn lines(cell: &Cell) -> Outcome<Vec<(Side, Side)>> {
    (0..cell.senders)
        .map(|_| match cell.transport {
            Transport::Weft | Transport::WeftInbox => weft::line(),
            Transport::Slot
            | Transport::Ring64
            | Transport::Ring128
            | Transport::RingPage
            | Transport::Futex => floor::line(cell),
            Transport::Pipe => kernel::pipes(),
            Transport::Unix | Transport::UnixBatched => kernel::sockets(),
            // They find each other by name.
            Transport::Iceoryx | Transport::IceoryxEvent | Transport::IceoryxRequest => {
                Ok((Vec::new(), Vec::new()))
            }
            Transport::Crossbeam => anyhow::bail!("crossbeam stays in one process"),
        })
        .collect()
}

/// Plays a part over its transport.
pub(crate) fn play(stage: Stage<'_>) -> Outcome {
    match stage.part.cell.transport {
        Transport::Weft => weft::play(stage),
        Transport::WeftInbox => inbox::play(stage),
        Transport::Slot => floor::play_slot(stage),
        Transport::Ring64 => floor::play_ring::<8>(stage),
        Transport::Ring128 => floor::play_ring::<16>(stage),
        Transport::RingPage => floor::play_ring::<528>(stage),
        Transport::Futex => floor::play_futex(stage),
        Transport::Pipe => kernel::play_pipe(stage),
        Transport::Unix => kernel::play_socket(stage, false),
        Transport::UnixBatched => kernel::play_socket(stage, true),
        Transport::Iceoryx | Transport::IceoryxEvent | Transport::IceoryxRequest => {
            iceoryx::play(stage)
        }
        Transport::Crossbeam => anyhow::bail!("crossbeam stays in one process"),
    }
}

/// Measures a transport that lives in one process.
pub(crate) fn in_process(cell: &Cell) -> Outcome<Option<Figures>> {
    match cell.transport {
        Transport::Crossbeam => threads::measure(cell).map(Some),
        _ => Ok(None),
    }
}
