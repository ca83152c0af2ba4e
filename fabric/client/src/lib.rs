//! What an app and a service link: attach to the node, open channels, call, serve.
//!
//! ```no_run
//! # use std::{path::Path, time::Duration};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use kv_messages::{Get, Kv, Put};
//! use weft::Domain;
//!
//! let domain = Domain::attach(Path::new("/var/lib/weft/weft.sock"), "shop".parse()?)?;
//! let mut kv = domain.open::<Kv>(&"kv".parse()?)?;
//! kv.call(&Put { key: "tea".into(), value: b"green".to_vec() }, Duration::from_secs(1))?;
//! let found = kv.call(&Get { key: "tea".into() }, Duration::from_secs(1))?;
//! # Ok(()) }
//! ```
//!
//! The same source runs whether `kv` is a process on this machine or on another, and goes on while
//! `kv` moves between them.
//!
//! What is too large for a message is lent from a [`heap`], to a process of the same node.
//!
//! Not here: how a channel is laid out in memory (`weft-local-ipc`), what a message is
//! (`weft-contract`), how a node decides (`weft-daemon`).

// Only a benchmark of local channels alone may leave out what this crate rests on.
#[cfg(weft_unchecked)]
compile_error!("weft is not built without checks of what a peer wrote");

pub mod bootstrap;
mod channel;
mod domain;
mod dynamic;
mod endpoint;
mod error;
mod growth;
pub mod heap;
mod link;
mod room;
mod service;
mod state;

pub use domain::Domain;
pub use dynamic::DynamicEndpoint;
pub use endpoint::{Endpoint, Ticket};
pub use error::Error;
pub use link::{Incoming, Link, Request};
pub use service::{Context, serve};
pub use state::{MAX_CHUNK_BYTES, State, Whole};

#[doc(no_inline)]
pub use weft_contract::{Contract, Handler, Message, contract};
#[doc(no_inline)]
pub use weft_types::{Lane, NodeName, Refusal, RefusalCode, ServiceName};
