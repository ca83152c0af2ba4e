//! The keys of the instances of one node: made here, renewed here, never moved.
//!
//! What issues them holds a CA key, so it lies behind a trait ([`InstanceIssuer`]) and this crate
//! sees certificates only.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use weft_types::{Epoch, NodeName, ServiceName};

use crate::Timestamp;
use crate::proof::InstanceKey;

/// How many instances of one node can have keys at a time. At the bound, keys that have run out
/// make room, and if none has, no other instance gets one.
pub const MAX_INSTANCES: usize = 4096;

/// Why an instance got no key.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum IssueError {
    /// The node's own issuer has run out.
    #[error("the issuer of {node} ran out at {at}; make a new one with `weft ca node {node}`")]
    IssuerExpired {
        /// The node.
        node: NodeName,
        /// Its last second.
        at: Timestamp,
    },
    /// The name is that of another node's daemon.
    #[error("{service} cannot run on {node}")]
    Reserved {
        /// The service.
        service: ServiceName,
        /// This node.
        node: NodeName,
    },
    /// Too many instances.
    #[error("{MAX_INSTANCES} instances have keys already")]
    Full,
    /// The machine failed: no random numbers, mostly.
    #[error("the key of the instance could not be made: {0}")]
    Machine(String),
}

/// Issues short-lived certificates to the instances of one node, each with a fresh key.
pub trait InstanceIssuer: Send + Sync {
    /// The node whose instances these are.
    fn node(&self) -> &NodeName;

    /// Makes a key for the instance of `service` in `epoch`, and its certificate.
    ///
    /// # Errors
    ///
    /// [`IssueError`].
    fn issue(
        &self,
        service: &ServiceName,
        epoch: Epoch,
        now: SystemTime,
    ) -> Result<Arc<dyn InstanceKey>, IssueError>;
}

type Keys = HashMap<(ServiceName, Epoch), Arc<dyn InstanceKey>>;

/// The current key of each instance of a node.
pub struct InstanceKeys {
    issuer: Box<dyn InstanceIssuer>,
    keys: Mutex<Keys>,
}

impl InstanceKeys {
    /// Keys that come from `issuer`.
    #[must_use]
    pub fn new(issuer: Box<dyn InstanceIssuer>) -> Self {
        Self {
            issuer,
            keys: Mutex::default(),
        }
    }

    /// The key of an instance; a new one if there was none or half of its life has passed.
    ///
    /// While the issuer fails, the old key serves until it runs out.
    ///
    /// # Errors
    ///
    /// [`IssueError`] if there is none that holds now.
    pub fn key(
        &self,
        service: &ServiceName,
        epoch: Epoch,
        now: SystemTime,
    ) -> Result<Arc<dyn InstanceKey>, IssueError> {
        let moment = Timestamp::from(now);
        // A panic elsewhere leaves the map whole: it is changed by single calls only.
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let name = (service.clone(), epoch);
        let current = keys
            .get(&name)
            .filter(|key| moment <= key.not_after())
            .cloned();
        if let Some(key) = &current
            && moment < key.renew_at()
        {
            return Ok(Arc::clone(key));
        }
        match self.issuer.issue(service, epoch, now) {
            Ok(key) => {
                if !keys.contains_key(&name) && keys.len() >= MAX_INSTANCES {
                    keys.retain(|_, key| moment <= key.not_after());
                }
                if !keys.contains_key(&name) && keys.len() >= MAX_INSTANCES {
                    return Err(IssueError::Full);
                }
                keys.insert(name, Arc::clone(&key));
                Ok(key)
            }
            Err(error) => current.ok_or(error),
        }
    }
}
