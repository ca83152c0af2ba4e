//! Capabilities: what they say, who holds them, and whether to believe it.
//!
//! On a node a capability is a handle: whoever holds the channel can send. Between nodes it is a
//! certificate under the cluster's capability root, which names a holder and a target *service* and
//! carries the rights in an extension. The check happens when a channel is opened, once, in
//! [`admit()`] (from another node) or [`admit_local`]; both end in a [`ChannelGrant`].
//!
//! Two kinds of trust are kept apart by root, by purpose and by name. *Node* certificates
//! authenticate the connection between two machines ([`tls`]) and give no right at all.
//! *Capabilities* give rights to services and identify nobody; who presents one proves with the
//! key of its *instance* that it is the holder ([`proof`]).
//!
//! Not here: keys of authorities and anything that issues (`weft-authority`), files, sockets, and
//! the time, which is always passed in. (rustls takes the time of its handshakes itself.)

pub mod admit;
pub mod bundle;
pub mod capability;
mod certificate;
pub mod chain;
mod error;
pub mod extension;
pub mod identity;
pub mod instance_keys;
pub mod names;
pub mod oid;
pub mod proof;
mod timestamp;
pub mod tls;
pub mod verify;
pub mod wallet;

pub use admit::{ChannelGrant, Opening, Session, admit, admit_local};
pub use bundle::{BundleError, TrustBundle};
pub use capability::{Capability, CapabilityId, Denied, MessageSet, Target};
pub use chain::{Chain, ChainError, ChainHash};
pub use error::{CapabilityError, Distrust, Document};
pub use extension::ExtensionError;
pub use identity::{IdentityError, NodeIdentity};
pub use instance_keys::{InstanceIssuer, InstanceKeys, IssueError};
pub use proof::{
    EXPORTER_BYTES, EXPORTER_LABEL, InstanceKey, Presented, Proof, Signature, SigningFailed,
    exporter_context,
};
pub use timestamp::Timestamp;
pub use verify::{
    Instance, InstanceClaim, Node, Verified, node_name_of, validity_of, verify_capability,
    verify_instance, verify_node,
};
pub use wallet::{Held, Wallet, WalletError};
