//! How fast is it, and beside what?
//!
//! `weft-bench local` measures Weft, the floor that shared memory could at best reach, and rivals, all
//! in one run, and holds each row against its bar. `weft-bench contender` measures one cell for
//! somebody else's harness. What keeps the rows comparable:
//!
//! - The two sides are processes of their own, pinned to a core each, and start together.
//! - A sender stores one word in every cache line of the payload and a receiver loads one, whether
//!   the transport copies or not.
//! - Throughput counts from the first message received until the first sender has stopped.
//! - The host of a virtual machine moves its cores, which changes every spinning row up to five times
//!   over: a bare cache line is sent to and fro before and after each run, which says how the cores
//!   lie to each other. A run in which that changed does not count, and only runs of one pass and one
//!   placement are compared.
//! - A receiver that looks and one that has to be woken are never in one row, unless the row is about
//!   that.
//! - The passes go through all rows in turn, so that the runs of a cell lie apart.
//!
//! What the checks of a hostile peer cost is measured against the same program built without them:
//! `RUSTFLAGS="--cfg weft_unchecked"`, which nothing but this program can be built with.
//!
//! Not here: what lies between two machines.

pub mod cell;
pub mod facts;
pub mod local;
pub mod machine;
pub mod part;
pub mod plot;
pub mod process;
pub mod report;
pub mod table;
mod transport;
mod wire;

/// What can go wrong here ends the run, so nobody has to tell errors apart.
pub type Outcome<T = ()> = anyhow::Result<T>;
