//! The protocols of Weft between machines, without any machine: no socket, no task, no clock.
//!
//! - [`session`]: one channel as one gateway sees it. Numbering, credit, acknowledgement, resume
//!   after a lost connection, epoch fencing. It moves sequence numbers, never bytes.
//! - [`wire`]: what stands in the frames between two gateways, and bounded decoders for bytes that
//!   come from a hostile peer.
//! - [`moving`]: one move of one service, seen from its source and from its target.
//!
//! Everything here is a value: inputs and a time go in, outputs and deadlines come out. The gateway
//! drives these with quinn and tokio, the simulator with a simulated network. Times are `Duration`s
//! since an arbitrary start that the driver chooses once.

pub mod moving;
pub mod session;
pub mod wire;
