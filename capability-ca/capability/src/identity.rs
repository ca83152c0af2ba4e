//! Who this node is: the files that `weft ca node` wrote for it, checked.
//!
//! This crate does no I/O, so it is handed a function that reads one file by its name. Each fault
//! is an error of its own that names the file and the command that makes it anew.

use std::fmt;
use std::io;
use std::time::SystemTime;

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use weft_types::{ClusterName, NodeName, ServiceName};

use crate::Timestamp;
use crate::bundle::{MAX_BUNDLE_BYTES, TrustBundle};
use crate::capability::Capability;
use crate::certificate::Facts;
use crate::chain::{Chain, MAX_PEM_BYTES};
use crate::error::{CapabilityError, Distrust};
use crate::verify::{Verified, node_name_of, verify_capability, verify_node};

/// The node's certificate and its intermediate.
pub const NODE_CHAIN_FILE: &str = "node.pem";
/// The node's private key (PKCS #8).
pub const NODE_KEY_FILE: &str = "node.key";
/// The cluster's roots.
pub const TRUST_BUNDLE_FILE: &str = "trust-bundle.pem";
/// The capability of the node's daemon, to speak to every other.
pub const NODE_CAPABILITY_FILE: &str = "node-capability.pem";
/// The node's issuer of instance certificates, and its intermediate.
pub const INSTANCE_CA_FILE: &str = "instance-ca.pem";
/// That issuer's private key (PKCS #8).
pub const INSTANCE_CA_KEY_FILE: &str = "instance-ca.key";
/// The directory, below the node's own, with the capabilities of its domains: one PEM chain in
/// each file, read into a [`crate::Wallet`] when the node starts.
pub const GRANTS_DIRECTORY: &str = "grants";

/// Why a node cannot start with the files that it has.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file is not there.
    #[error(
        "{file} is missing; make the node's files with `weft ca node <name> --out <this directory>`"
    )]
    Missing {
        /// The file, in the node's directory.
        file: &'static str,
    },
    /// A file cannot be read.
    #[error("{file} cannot be read: {error}")]
    Unreadable {
        /// The file, in the node's directory.
        file: &'static str,
        /// What the system says.
        error: io::Error,
    },
    /// A file is not what it should be.
    #[error("{file} is broken: {why}; make the node's files anew with `weft ca node`")]
    Broken {
        /// The file, in the node's directory.
        file: &'static str,
        /// In which respect.
        why: String,
    },
    /// A certificate belongs to another cluster than the trust bundle.
    #[error(
        "{file} belongs to cluster {theirs}, and {TRUST_BUNDLE_FILE} to cluster {ours}; make the \
         node's files with `weft ca node` and the CA of cluster {ours}"
    )]
    Foreign {
        /// The file, in the node's directory.
        file: &'static str,
        /// The cluster of the trust bundle.
        ours: ClusterName,
        /// The cluster of the certificate.
        theirs: String,
    },
    /// The directory belongs to another cluster than was asked for.
    #[error("{TRUST_BUNDLE_FILE} belongs to cluster {found}, and cluster {expected} was asked for")]
    OtherCluster {
        /// What was asked for.
        expected: ClusterName,
        /// What the directory says.
        found: ClusterName,
    },
    /// A certificate is that of another node.
    #[error(
        "{file} is that of {found}, and this is {expected}; make it with `weft ca node {expected}`"
    )]
    OtherNode {
        /// The file, in the node's directory.
        file: &'static str,
        /// The node that this is.
        expected: NodeName,
        /// Whose it is.
        found: String,
    },
    /// A certificate has run out.
    #[error("{file} ran out at {at}; make a new one with `weft ca node {node}`")]
    Expired {
        /// The file, in the node's directory.
        file: &'static str,
        /// The node.
        node: String,
        /// Its last second.
        at: Timestamp,
    },
    /// A certificate does not hold yet.
    #[error("{file} holds from {from} on; is the clock of this machine right?")]
    NotYetValid {
        /// The file, in the node's directory.
        file: &'static str,
        /// Its first second.
        from: Timestamp,
    },
    /// A private key is not that of its certificate.
    #[error("{key} is not the key of {file}; make both anew with `weft ca node`")]
    OtherKey {
        /// The certificate's file.
        file: &'static str,
        /// The key's file.
        key: &'static str,
    },
    /// A certificate is not trusted, for another reason.
    #[error("{file} is not trusted: {why}; make the node's files anew with `weft ca node`")]
    Untrusted {
        /// The file, in the node's directory.
        file: &'static str,
        /// Why not.
        why: Distrust,
    },
}

/// A node's name, certificate, key and first capability, all verified against its trust bundle.
pub struct NodeIdentity {
    name: NodeName,
    bundle: TrustBundle,
    chain: Chain,
    key: PrivateKeyDer<'static>,
    capability: Chain,
    not_after: Timestamp,
}

impl NodeIdentity {
    /// Reads and verifies the files of a node.
    ///
    /// `read` gives the content of one file of the node's directory by its name, such as
    /// `|name| std::fs::read(directory.join(name))`.
    ///
    /// # Errors
    ///
    /// [`IdentityError`], which names the file.
    pub fn load(
        read: impl Fn(&str) -> io::Result<Vec<u8>>,
        now: SystemTime,
    ) -> Result<Self, IdentityError> {
        let bundle = read_bundle(&read)?;
        let chain = read_chain(&read, NODE_CHAIN_FILE)?;
        let key = read_key(&read, NODE_KEY_FILE)?;
        let name = claimed_node(&chain, bundle.cluster())?;
        let fault = |error| IdentityError::of(NODE_CHAIN_FILE, &bundle, &name, error);
        let node = verify_node(&bundle, chain.certificates(), now).map_err(fault)?;
        if !is_key_of(&key, chain.leaf()) {
            return Err(IdentityError::OtherKey {
                file: NODE_CHAIN_FILE,
                key: NODE_KEY_FILE,
            });
        }
        let capability = read_chain(&read, NODE_CAPABILITY_FILE)?;
        check_capability(&bundle, &name, &capability, now)?;
        Ok(Self {
            name,
            chain,
            key: PrivateKeyDer::Pkcs8(key),
            capability,
            not_after: node.not_after(),
            bundle,
        })
    }

    /// Makes sure that this is the node and the cluster that were asked for.
    ///
    /// # Errors
    ///
    /// [`IdentityError::OtherCluster`] or [`IdentityError::OtherNode`].
    pub fn check_is(
        &self,
        node: Option<&NodeName>,
        cluster: Option<&ClusterName>,
    ) -> Result<(), IdentityError> {
        if let Some(expected) = cluster
            && expected != self.cluster()
        {
            return Err(IdentityError::OtherCluster {
                expected: expected.clone(),
                found: self.cluster().clone(),
            });
        }
        match node {
            Some(expected) if *expected != self.name => Err(IdentityError::OtherNode {
                file: NODE_CHAIN_FILE,
                expected: expected.clone(),
                found: self.name.to_string(),
            }),
            _ => Ok(()),
        }
    }

    /// The node.
    #[must_use]
    pub const fn name(&self) -> &NodeName {
        &self.name
    }

    /// Its cluster.
    #[must_use]
    pub const fn cluster(&self) -> &ClusterName {
        self.bundle.cluster()
    }

    /// The roots that the node believes in.
    #[must_use]
    pub const fn bundle(&self) -> &TrustBundle {
        &self.bundle
    }

    /// The node's certificate and its intermediate.
    #[must_use]
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        self.chain.certificates()
    }

    /// The node's private key, for TLS only.
    #[must_use]
    pub fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }

    /// The capability with which the node's daemon speaks to every other.
    #[must_use]
    pub const fn capability(&self) -> &Chain {
        &self.capability
    }

    /// The last second of the node's certificate.
    #[must_use]
    pub const fn not_after(&self) -> Timestamp {
        self.not_after
    }
}

impl fmt::Debug for NodeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeIdentity")
            .field("name", &self.name)
            .field("cluster", self.cluster())
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl IdentityError {
    /// What a failed verification means for a file.
    #[must_use]
    pub fn of(
        file: &'static str,
        bundle: &TrustBundle,
        node: &NodeName,
        error: CapabilityError,
    ) -> Self {
        match error {
            CapabilityError::Expired { at, .. } => Self::Expired {
                file,
                node: node.to_string(),
                at,
            },
            CapabilityError::NotYetValid { from, .. } => Self::NotYetValid { file, from },
            CapabilityError::Untrusted {
                why: Distrust::Foreign(theirs),
                ..
            } => Self::Foreign {
                file,
                ours: bundle.cluster().clone(),
                theirs,
            },
            CapabilityError::Untrusted { why, .. } => Self::Untrusted { file, why },
            other => Self::Broken {
                file,
                why: other.to_string(),
            },
        }
    }
}

/// Reads a text file of the node's directory.
///
/// # Errors
///
/// [`IdentityError`], which names the file.
pub fn read_text(
    read: impl Fn(&str) -> io::Result<Vec<u8>>,
    file: &'static str,
) -> Result<String, IdentityError> {
    let bytes = read(file).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => IdentityError::Missing { file },
        _ => IdentityError::Unreadable { file, error },
    })?;
    if bytes.len() > MAX_BUNDLE_BYTES.max(MAX_PEM_BYTES) {
        return Err(broken(file, "it is too long"));
    }
    String::from_utf8(bytes).map_err(|_| broken(file, "it is not text"))
}

/// Reads a chain from a file of the node's directory.
///
/// # Errors
///
/// [`IdentityError`], which names the file.
pub fn read_chain(
    read: impl Fn(&str) -> io::Result<Vec<u8>>,
    file: &'static str,
) -> Result<Chain, IdentityError> {
    Chain::from_pem(&read_text(read, file)?).map_err(|error| broken(file, error))
}

/// Reads the trust bundle of the node's directory.
///
/// # Errors
///
/// [`IdentityError`], which names the file.
pub fn read_bundle(
    read: impl Fn(&str) -> io::Result<Vec<u8>>,
) -> Result<TrustBundle, IdentityError> {
    let text = read_text(read, TRUST_BUNDLE_FILE)?;
    TrustBundle::from_text(&text).map_err(|error| broken(TRUST_BUNDLE_FILE, error))
}

/// Reads a private key from a file of the node's directory.
///
/// # Errors
///
/// [`IdentityError`], which names the file.
pub fn read_key(
    read: impl Fn(&str) -> io::Result<Vec<u8>>,
    file: &'static str,
) -> Result<PrivatePkcs8KeyDer<'static>, IdentityError> {
    let block = pem::parse(read_text(read, file)?)
        .map_err(|_| broken(file, "it is not a PEM private key"))?;
    if block.tag() != "PRIVATE KEY" {
        return Err(broken(file, "it is not a PKCS #8 private key"));
    }
    Ok(block.into_contents().into())
}

/// Whether `key` is the private half of the key in `certificate`.
#[must_use]
pub fn is_key_of(key: &PrivatePkcs8KeyDer<'_>, certificate: &CertificateDer<'_>) -> bool {
    let pair = EcdsaKeyPair::from_pkcs8(
        &ECDSA_P256_SHA256_ASN1_SIGNING,
        key.secret_pkcs8_der(),
        &SystemRandom::new(),
    );
    match (pair, Facts::parse(certificate)) {
        (Ok(pair), Ok(facts)) => pair.public_key().as_ref() == facts.public_key,
        _ => false,
    }
}

/// The node that a chain claims to be for; the claim is verified afterwards.
fn claimed_node(chain: &Chain, cluster: &ClusterName) -> Result<NodeName, IdentityError> {
    node_name_of(chain.leaf(), cluster).map_err(|error| match error {
        CapabilityError::Untrusted {
            why: Distrust::Foreign(theirs),
            ..
        } => IdentityError::Foreign {
            file: NODE_CHAIN_FILE,
            ours: cluster.clone(),
            theirs,
        },
        other => broken(NODE_CHAIN_FILE, other),
    })
}

/// The capability must be valid and the daemon's own.
fn check_capability(
    bundle: &TrustBundle,
    name: &NodeName,
    chain: &Chain,
    now: SystemTime,
) -> Result<Verified<Capability>, IdentityError> {
    let capability = verify_capability(bundle, chain, now)
        .map_err(|error| IdentityError::of(NODE_CAPABILITY_FILE, bundle, name, error))?;
    if capability.get().holder != ServiceName::of_node(name) {
        return Err(IdentityError::OtherNode {
            file: NODE_CAPABILITY_FILE,
            expected: name.clone(),
            found: capability.get().holder.to_string(),
        });
    }
    Ok(capability)
}

fn broken(file: &'static str, why: impl fmt::Display) -> IdentityError {
    IdentityError::Broken {
        file,
        why: why.to_string(),
    }
}
