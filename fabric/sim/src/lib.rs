//! A whole cluster in one thread: seeded, replayable, checked after every event.
//!
//! The protocols of `weft-protocol` (the session of a channel, both sides of a move, the state of
//! the directory) run here as they run in a node. What is simulated is everything around them: the
//! clock, the network (delay, loss, reorder between streams, partition), the rings in shared memory
//! with their cursors and swaps, the processes of a node and their deaths.
//!
//! One seed gives one history. [`Simulation::run`] returns a [`Summary`] with a hash of the whole
//! trace, or a [`Violation`] that names the broken invariant, shows the last events and says how to
//! replay them.
//!
//! A [`Scenario`] says how large the cluster is and how often what goes wrong. It can also carry a
//! [`Mutation`], which breaks one rule of the protocols' drivers on purpose: the checker has to
//! find it, else the checker is worth nothing.
//!
//! Not here: bodies of messages, capabilities, types, and the replication of the directory, which
//! is one linearizable state that can be slow, cut off or full.

mod channel;
mod checker;
mod daemon;
mod directory;
mod event;
mod fault;
mod gateway;
mod memory;
mod movement;
mod network;
mod scenario;
mod service;
mod world;

pub use checker::Counts;
pub use movement::Moves;
pub use scenario::{Mutation, Rates, Scenario};
pub use world::{Simulation, Summary, Violation};
