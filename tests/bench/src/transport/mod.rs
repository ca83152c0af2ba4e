//! Everything that carries messages here. Each module has the descriptors of a line between two
//! processes, and the wire that a process makes of its end.

mod first;
mod floor;
mod hand_over;
mod heap;
mod iceoryx;
mod inbox;
mod kernel;
mod reference;
#[cfg(feature = "tokio")]
mod runtime;
mod threads;
mod weft;

use std::os::fd::OwnedFd;

use crate::Outcome;
use crate::cell::{Cell, Figures, Pattern, Transport};
use crate::part::Stage;

/// How many payloads of 1 MiB a line holds, whoever carries it: they fit into a cache together.
const MEGA_DEPTH: usize = 8;

/// The descriptors of one side of a line.
type Side = Vec<OwnedFd>;

/// The lines of a cell, one for each sender: what the senders get, and what the receiver gets.
pub(crate) fn lines(cell: &Cell) -> Outcome<Vec<(Side, Side)>> {
    (0..cell.senders)
        .map(|_| match cell.transport {
            Transport::Weft
            | Transport::WeftInbox
            | Transport::WeftInboxDoorbell
            | Transport::WeftHeap
            | Transport::WeftReference
            | Transport::WeftHandOver
            | Transport::WeftTokio
            | Transport::BareHandOver => weft::line(),
            Transport::Slot
            | Transport::Ring64
            | Transport::Ring128
            | Transport::RingPage
            | Transport::RingMega
            | Transport::Futex => floor::line(cell),
            Transport::Pipe => kernel::pipes(),
            Transport::Unix | Transport::UnixBatched | Transport::UnixTokio => kernel::sockets(),
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
        Transport::WeftInbox | Transport::WeftInboxDoorbell => inbox::play(stage),
        Transport::WeftHeap => heap::play(stage),
        Transport::WeftReference => reference::play(stage),
        Transport::WeftHandOver | Transport::BareHandOver => hand_over::play(stage),
        #[cfg(feature = "tokio")]
        Transport::WeftTokio => runtime::play_channel(stage),
        #[cfg(feature = "tokio")]
        Transport::UnixTokio => runtime::play_stream(stage),
        #[cfg(not(feature = "tokio"))]
        Transport::WeftTokio | Transport::UnixTokio => {
            anyhow::bail!("built without tokio: build with `--features tokio`")
        }
        Transport::Slot => floor::play_slot(stage),
        Transport::Ring64 | Transport::Ring128 | Transport::RingPage | Transport::RingMega => {
            floor::play_ring(stage)
        }
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

/// Whether both sides live in one process.
pub(crate) fn is_in_process(cell: &Cell) -> bool {
    cell.pattern == Pattern::First || cell.transport == Transport::Crossbeam
}

/// Measures what lives in one process.
pub(crate) fn in_process(cell: &Cell) -> Outcome<Figures> {
    match (cell.transport, cell.pattern) {
        (Transport::WeftInbox | Transport::WeftInboxDoorbell, Pattern::First) => {
            first::measure(cell)
        }
        (_, Pattern::First) => anyhow::bail!("only an inbox has channels that went cold"),
        _ => threads::measure(cell),
    }
}
