//! One cell of the table: who carries what, how, and what came of it.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Who carries the messages.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize, ValueEnum)]
pub enum Transport {
    /// Weft's channels, through their typed interface.
    Weft,
    /// The same with an inbox over all senders, which keep to a lane each: strict priority.
    WeftInbox,
    /// An inbox whose channels ring a doorbell of their own each.
    WeftInboxDoorbell,
    /// Weft: payloads are loans of a heap, filled and read in place.
    WeftHeap,
    /// Weft: the payload lies in a region that the receiver has mapped before; messages say where, and
    /// nobody touches it.
    WeftReference,
    /// Weft: each payload has a region of its own, which is made, frozen, handed over and mapped.
    WeftHandOver,
    /// Weft's channels under tokio: `recv().await`.
    WeftTokio,
    /// Shared memory with one slot each way and a flag in it: the least that a round trip can cost.
    Slot,
    /// A ring of bare slots of 64 bytes, without checks, cursors in registers.
    Ring64,
    /// The same with slots of 128 bytes.
    Ring128,
    /// The same with slots that hold 4 KiB.
    RingPage,
    /// The same with eight slots that hold 1 MiB.
    RingMega,
    /// A memory file for each payload, made, handed over and mapped without any check.
    BareHandOver,
    /// One slot each way and a futex: the least that a woken round trip can cost.
    Futex,
    /// A pipe each way.
    Pipe,
    /// A Unix stream socket, a system call for each message.
    Unix,
    /// A Unix stream socket, 64 KiB in one system call.
    UnixBatched,
    /// A Unix stream socket under tokio.
    UnixTokio,
    /// iceoryx2, publish-subscribe, both sides poll.
    Iceoryx,
    /// iceoryx2, publish-subscribe with an event for each message; who waits sleeps.
    IceoryxEvent,
    /// iceoryx2, request-response, both sides poll.
    IceoryxRequest,
    /// crossbeam's channels between two threads of one process.
    Crossbeam,
}

/// What is measured.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize, ValueEnum)]
pub enum Pattern {
    /// Round trips, one message at a time.
    Lat,
    /// One sender, one way.
    Tput,
    /// Several senders to one receiver.
    Fanin,
    /// The first message on one of an inbox's channels, all of which have been silent for long: from
    /// before the send until the inbox hands it out. Two threads, which share a clock.
    First,
}

/// What a receiver does while there is nothing.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize, ValueEnum,
)]
pub enum Wait {
    /// It looks again and again.
    #[default]
    Spin,
    /// It looks for a while, then sleeps.
    Adaptive,
    /// It sleeps at once.
    Park,
    /// It gives up its core as long as somebody else wants it, then sleeps; and so does a sender after
    /// each message. For two sides on one core.
    Yield,
}

/// One measurement.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Cell {
    /// Who carries the messages.
    pub transport: Transport,
    /// What is measured.
    pub pattern: Pattern,
    /// Bytes of a message's payload.
    pub size: usize,
    /// How long to measure, in milliseconds.
    pub millis: u64,
    /// The core of the senders (or of the side that measures round trips), and of the receiver.
    pub cores: [usize; 2],
    /// How many senders there are.
    pub senders: usize,
    /// What receivers do while there is nothing.
    pub wait: Wait,
    /// How many messages a sender puts into one row before it looks whether the receiver sleeps.
    pub row: u64,
    /// How long the asking side keeps still, awake, before each round trip, in microseconds.
    pub pause_micros: u64,
    /// Channels of an inbox on which nothing comes, beside those of the senders.
    pub idle: usize,
    /// The processes have to be built without Weft's checks of what a peer wrote.
    pub unchecked: bool,
}

/// What a cell gave.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Figures {
    /// Of round trips, or of first messages.
    Latency(Latency),
    /// Of one-way runs.
    Throughput(Throughput),
}

/// Round trips (or, of first messages, one way), in nanoseconds.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Latency {
    /// The median.
    pub p50_ns: u64,
    /// 99 of 100 took at most this long.
    pub p99_ns: u64,
    /// 999 of 1,000 took at most this long.
    pub p999_ns: u64,
    /// The mean.
    pub mean_ns: f64,
    /// The fastest.
    pub min_ns: u64,
    /// How many there were.
    pub n: u64,
}

/// Messages one way.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Throughput {
    /// Messages a second.
    pub msgs_per_s: f64,
    /// How many were counted.
    pub n: u64,
}

impl Figures {
    /// The figure that rows are compared by: nanoseconds of a round trip, or messages a second.
    #[must_use]
    pub fn main(&self) -> f64 {
        match self {
            Self::Latency(latency) => latency.p50_ns as f64,
            Self::Throughput(throughput) => throughput.msgs_per_s,
        }
    }
}
