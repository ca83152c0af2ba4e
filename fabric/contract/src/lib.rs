//! What a message is, and what a contract is.
//!
//! A [`Message`] is a value with a name, a version and a shape. A [`Contract`] is the list of
//! messages that a service accepts, each with its reply; it lives in a crate of its own that
//! clients and services both import, and it is written once, with [`contract!`].
//!
//! What both sides must agree on travels when a channel opens and never again: the client sends
//! its [`TypeTable`], the service answers by [`negotiate()`], and from then on a message says its
//! type by an index. A type that differs in a single field has another [`fingerprint()`], and the
//! open fails with an error that names it.
//!
//! Who has no Rust types (the command line, a monitor) asks the service for its
//! [`ContractDescription`] and speaks JSON through [`dynamic`].
//!
//! Not here: channels, bytes in shared memory, capabilities. This crate has never seen a peer; it
//! is handed a peer's bytes and answers with a value or an error.

pub mod bytes;
pub mod check;
mod contract;
mod description;
pub mod dynamic;
mod fingerprint;
mod message;
mod negotiate;
pub mod optional_bytes;
mod schema;
mod table;

pub use contract::{Accepts, Contract, Handler, Serve};
pub use description::{ContractDescription, MessageDescription, TypeShape};
pub use fingerprint::{digest_hex, fingerprint};
pub use message::{DecodeError, EncodeError, Message, decode, encode};
pub use negotiate::{Mismatch, TypeMap, check_successor, negotiate};
pub use schema::{
    MAX_SCHEMA_DEPTH, MAX_SCHEMA_NAME_BYTES, MAX_SCHEMA_NODES, SchemaError, TypeSchema,
};
pub use table::{MAX_TYPE_NAME_BYTES, MAX_TYPES, TypeDescription, TypeEntry, TypeTable};
pub use weft_contract_derive::Message;

pub use postcard_schema;
pub use postcard_schema::schema::owned::OwnedNamedType;
pub use serde;

/// What the code that [`contract!`] writes refers to. Not part of the interface.
#[doc(hidden)]
pub mod generated {
    pub use crate::contract::{decode_unknown, dispatch_one, dispatch_unknown};
    pub use weft_types::{Refusal, TypeIndex};
}
