//! The issuer of one node: certificates of 15 minutes for the instances that run on it.
//!
//! It holds a CA key and lives in the node's security service. The CA names its node, so the worst
//! that a stolen one can do is to pose as services *on that node*.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{KeyPair, SigningKey};
use weft_capability::identity::{
    INSTANCE_CA_FILE, INSTANCE_CA_KEY_FILE, read_bundle, read_chain, read_key,
};
use weft_capability::oid::INSTANCE_EXTENSION;
use weft_capability::{
    CapabilityError, Chain, Distrust, IdentityError, InstanceClaim, InstanceIssuer, InstanceKey,
    IssueError, Proof, SigningFailed, Timestamp, TrustBundle, names, node_name_of, verify_instance,
};
use weft_types::{Epoch, NodeName, ServiceName};

use crate::mint::{Blueprint, Purpose, Signer, Validity};

/// How long the certificate of an instance lives. It is renewed when half of that has passed.
pub const INSTANCE_LIFE: Duration = Duration::from_secs(15 * 60);

/// Issues to the instances of one node.
pub struct NodeIssuer {
    node: NodeName,
    bundle: TrustBundle,
    signer: Signer,
}

impl NodeIssuer {
    /// Reads the issuer of a node from the node's directory, and tries it: what it issues must be
    /// believed by others.
    ///
    /// # Errors
    ///
    /// [`IdentityError`], which names the file and what to do.
    pub fn load(directory: &Path, now: SystemTime) -> Result<Self, IdentityError> {
        Self::load_with(|file| std::fs::read(directory.join(file)), now)
    }

    /// The same, from wherever `read` finds a file of that name.
    ///
    /// # Errors
    ///
    /// [`IdentityError`], which names the file and what to do.
    pub fn load_with(
        read: impl Fn(&str) -> io::Result<Vec<u8>>,
        now: SystemTime,
    ) -> Result<Self, IdentityError> {
        let bundle = read_bundle(&read)?;
        let chain = read_chain(&read, INSTANCE_CA_FILE)?;
        let key = read_key(&read, INSTANCE_CA_KEY_FILE)?;
        if !weft_capability::identity::is_key_of(&key, chain.leaf()) {
            return Err(IdentityError::OtherKey {
                file: INSTANCE_CA_FILE,
                key: INSTANCE_CA_KEY_FILE,
            });
        }
        let node = node_name_of(chain.leaf(), bundle.cluster()).map_err(|error| match error {
            CapabilityError::Untrusted {
                why: Distrust::Foreign(theirs),
                ..
            } => IdentityError::Foreign {
                file: INSTANCE_CA_FILE,
                ours: bundle.cluster().clone(),
                theirs,
            },
            other => broken(&other),
        })?;
        let key = KeyPair::try_from(&key).map_err(|error| broken(&error))?;
        let signer = Signer::load("the node's issuer", chain.certificates().to_vec(), key)
            .map_err(|error| broken(&error))?;
        let issuer = Self {
            node,
            bundle,
            signer,
        };
        issuer.try_out(now)?;
        Ok(issuer)
    }

    /// Issues a certificate to this node's own daemon and verifies it as anybody would.
    fn try_out(&self, now: SystemTime) -> Result<(), IdentityError> {
        let daemon = ServiceName::of_node(&self.node);
        let key = self
            .issue(&daemon, Epoch::NONE, now)
            .map_err(|error| match error {
                IssueError::IssuerExpired { node, at } => IdentityError::Expired {
                    file: INSTANCE_CA_FILE,
                    node: node.to_string(),
                    at,
                },
                other => broken(&other),
            })?;
        verify_instance(&self.bundle, key.chain(), now).map_err(|error| {
            IdentityError::of(INSTANCE_CA_FILE, &self.bundle, &self.node, error)
        })?;
        Ok(())
    }

    fn make(
        &self,
        service: &ServiceName,
        epoch: Epoch,
        now: SystemTime,
    ) -> Result<LeafKey, crate::AuthorityError> {
        let claim = InstanceClaim {
            node: self.node.clone(),
            epoch,
        };
        let validity = Validity::starting(now, INSTANCE_LIFE)?.within(self.signer.not_after);
        let blueprint = Blueprint {
            cluster: self.bundle.cluster(),
            common_name: format!("{service} on {}, {epoch}", self.node),
            uri: names::service_uri(self.bundle.cluster(), service),
            dns_name: None,
            purpose: Some(Purpose::Instance),
            ca_with_path_length: None,
            extension: Some((INSTANCE_EXTENSION, claim.to_extension()?)),
            validity,
        };
        let key = KeyPair::generate()?;
        let chain = Chain::new(self.signer.chain(&blueprint, &key)?)?;
        let not_after = validity.not_after();
        let half = not_after.remaining(now) / 2;
        Ok(LeafKey {
            chain,
            key,
            renew_at: (now + half).into(),
            not_after,
        })
    }
}

impl InstanceIssuer for NodeIssuer {
    fn node(&self) -> &NodeName {
        &self.node
    }

    fn issue(
        &self,
        service: &ServiceName,
        epoch: Epoch,
        now: SystemTime,
    ) -> Result<Arc<dyn InstanceKey>, IssueError> {
        if service.is_reserved() && service.as_node().as_ref() != Some(&self.node) {
            return Err(IssueError::Reserved {
                service: service.clone(),
                node: self.node.clone(),
            });
        }
        if self.signer.not_after <= now.into() {
            return Err(IssueError::IssuerExpired {
                node: self.node.clone(),
                at: self.signer.not_after,
            });
        }
        let key = self
            .make(service, epoch, now)
            .map_err(|error| IssueError::Machine(error.to_string()))?;
        Ok(Arc::new(key))
    }
}

/// The key of one instance, in the memory of the security service and nowhere else.
struct LeafKey {
    chain: Chain,
    key: KeyPair,
    renew_at: Timestamp,
    not_after: Timestamp,
}

impl InstanceKey for LeafKey {
    fn chain(&self) -> &Chain {
        &self.chain
    }

    fn sign(&self, proof: &Proof) -> Result<Vec<u8>, SigningFailed> {
        self.key.sign(&proof.message()).map_err(|_| SigningFailed)
    }

    fn renew_at(&self) -> Timestamp {
        self.renew_at
    }

    fn not_after(&self) -> Timestamp {
        self.not_after
    }
}

fn broken(why: &dyn std::fmt::Display) -> IdentityError {
    IdentityError::Broken {
        file: INSTANCE_CA_FILE,
        why: why.to_string(),
    }
}
