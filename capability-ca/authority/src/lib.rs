//! Authorities: everything that holds a CA key.
//!
//! ```text
//! node root *        <- node CA        <- node certificates
//! capability root *  <- capability CA  <- capabilities
//!                    <- issuer CA      <- issuer of node n1  <- instances on n1
//! ```
//!
//! The two roots (*) are offline keys: needed to start a cluster and to renew the three CAs, which
//! live 90 days, and never to issue. They are never one key: a holder that may pass on a capability
//! could otherwise make itself a node. Each CA lists the one purpose that it may issue for and how
//! far the path below it may go; both stand in the intermediates, since verifiers ignore them in
//! a root.
//!
//! A node issues the certificates of its own instances ([`NodeIssuer`]), under a CA that names the
//! node, so no instance waits for an authority and no node can speak for another.
//!
//! Not here: what the certificates mean and whether to believe them (`weft-capability`).

mod ca;
mod error;
mod files;
mod grant;
mod mint;
mod node;
mod node_issuer;

pub use ca::{Authority, INTERMEDIATE_LIFE, ROOT_LIFE};
pub use error::AuthorityError;
pub use grant::{Grant, GrantRequest};
pub use mint::{CLOCK_SKEW, Validity};
pub use node::{NodeMaterial, write_grant};
pub use node_issuer::{INSTANCE_LIFE, NodeIssuer};
