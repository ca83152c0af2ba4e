//! The node daemon: supervises, connects, places, moves; and is on the path of no message.
//!
//! | part | does |
//! |---|---|
//! | `run` | the life of the daemon |
//! | `domains` | takes processes in, each with its three channels |
//! | `security`, `memory`, `dispatcher` | serve those three channels |
//! | `channels` | who holds each end of each channel, and how an end is replaced |
//! | `supervisor`, `process` | starts processes and stops them; one child |
//! | `restart` | starts a service again that has died |
//! | `recover` | takes up what a former life of the daemon has left |
//! | `gateway` | the node's side of its gateway |
//! | `kernel`, `control` | messages to and from other daemons |
//! | `directory` | who owns which service: held here, or asked for |
//! | `outgoing`, `incoming` | the two sides of a move, driven by `weft-protocol` |
//!
//! One thread runs all of it. The daemon's death ends the node: its services follow it.
//!
//! Not here: QUIC and TLS (the gateway is a process of its own), keys of authorities, the rules of a
//! move and of the directory (`weft-protocol`), and any layout of shared memory (`weft-local-ipc`).

mod channels;
mod config;
mod control;
mod directory;
mod dispatcher;
mod domains;
mod durable;
mod gateway;
mod incoming;
mod kernel;
pub mod line;
mod log;
mod memory;
mod node;
mod outgoing;
mod process;
mod readiness;
mod recover;
mod restart;
mod run;
mod security;
mod supervisor;

pub use config::Config;
pub use run::run;
