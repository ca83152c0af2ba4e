//! The vocabulary of Weft: names, ids, epochs, lanes and wire codes.
//!
//! Every other crate speaks in these words, and this one knows none of them. Nothing here does
//! anything: no I/O, no clock, no policy. What is here is what two sides have to agree on, so each
//! type says which mistake it prevents and how it looks on the wire.

mod ids;
mod lane;
mod message;
mod name;
mod refusal;

pub use ids::{ChannelId, DomainId, Epoch, Fingerprint, MoveId, Sequence, TypeIndex};
pub use lane::{LANES, Lane, PerLane};
pub use message::{MAX_BODY_BYTES, MessageKind};
pub use name::{ClusterName, ContractName, NameError, NodeName, ServiceName};
pub use refusal::{Fault, Refusal, RefusalCode};
