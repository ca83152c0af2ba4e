//! The parts that processes play: this program starts itself once for each side of a measurement.
//!
//! What a part needs to know comes in one environment variable, the line to the other side as standard
//! input; what the asking side has found leaves by standard output.

use std::os::fd::{AsFd, OwnedFd};

use serde::{Deserialize, Serialize};

use crate::measure::{Extent, Sample, Watched};
use weft_bench::machine;

use crate::{Outcome, fabric, quic, ring, slot, unix};

/// Carries a [`Part`] as JSON.
pub(crate) const PART: &str = "WEFT_BENCH_PART";

/// One side of a measurement.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Part {
    pub(crate) side: Side,
    pub(crate) transport: Transport,
    pub(crate) shape: Shape,
    /// The size of an answer.
    pub(crate) body_bytes: usize,
    pub(crate) extent: Extent,
    pub(crate) core: usize,
    /// Whose work the asking side counts, beside its own.
    pub(crate) watched: Vec<Watched>,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Side {
    /// Asks, and measures.
    Ask,
    /// Sends an answer for each question.
    Answer,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) enum Transport {
    /// One slot each way in shared memory, and nothing else: the least that it can cost.
    Slot,
    /// The rings of `local-ipc`.
    Ring { spins: bool },
    /// A Unix stream socket.
    Unix(unix::Manner),
    /// One QUIC stream, mutual TLS.
    Quinn {
        identity: String,
        server: Option<quic::Server>,
    },
    /// A typed call of `kv`, attached at the node with this socket.
    Weft { socket: String },
    /// The daemon of this node pings that of another.
    KernelPing {
        socket: String,
        from: String,
        to: String,
    },
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Shape {
    /// One message is on its way at a time.
    RoundTrip,
    /// Always so many are.
    Window(usize),
}

/// The part that this process was started for, if it was.
pub(crate) fn own_part() -> Option<Outcome<Part>> {
    let text = std::env::var(PART).ok()?;
    Some(serde_json::from_str(&text).map_err(Into::into))
}

/// Plays a part to its end.
pub(crate) fn play(mut part: Part) -> Outcome {
    weft_local_ipc::die_with_parent()?;
    machine::pin(part.core)?;
    if part.side == Side::Answer {
        return answer(&part);
    }
    let own = Watched {
        part: "client".into(),
        pid: std::process::id(),
    };
    part.watched.insert(0, own);
    println!("{}", serde_json::to_string(&ask(&part)?)?);
    Ok(())
}

fn ask(part: &Part) -> Outcome<Sample> {
    match &part.transport {
        Transport::Slot => slot::ask(part),
        Transport::Ring { spins } => ring::ask(part, *spins),
        Transport::Unix(manner) => unix::ask(part, *manner),
        Transport::Quinn { identity, server } => {
            quic::ask(part, identity, server.as_ref().ok_or("no server is named")?)
        }
        Transport::Weft { socket } => fabric::ask(part, socket),
        Transport::KernelPing { socket, from, to } => fabric::ask_kernel(part, socket, from, to),
    }
}

fn answer(part: &Part) -> Outcome {
    match &part.transport {
        Transport::Slot => slot::answer(part),
        Transport::Ring { spins } => ring::answer(part, *spins),
        Transport::Unix(manner) => unix::answer(part, *manner),
        Transport::Quinn { identity, .. } => quic::answer(part, identity),
        Transport::Weft { .. } | Transport::KernelPing { .. } => {
            Err("the nodes answer these".into())
        }
    }
}

/// The line to the other side.
pub(crate) fn line() -> Outcome<OwnedFd> {
    Ok(std::io::stdin().as_fd().try_clone_to_owned()?)
}
