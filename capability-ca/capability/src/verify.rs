//! From a chain to something that can be believed.
//!
//! webpki builds the path and checks signatures, dates, path lengths and the purpose of every
//! certificate on it. What it leaves open is checked here, each point because it was tried and let
//! through: roots that have run out, certificates that outlive their issuer, a missing extension
//! (which cannot be marked critical, since then webpki refuses it), URIs, and certificates that
//! are sent along and are not on the path.
//!
//! The three kinds have one shape each, and any other is refused:
//!
//! ```text
//! node root        <- node CA                      <- node leaf        server + client usage
//! capability root  <- capability CA                <- capability       capability usage
//! capability root  <- issuer CA <- issuer of node  <- instance leaf    instance usage
//! ```

use std::time::SystemTime;

use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls_pki_types::{CertificateDer, UnixTime};
use serde::{Deserialize, Serialize};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeId, KeyPurposeIdIter};
use weft_types::{ClusterName, Epoch, NodeName, ServiceName};

use crate::Timestamp;
use crate::bundle::TrustBundle;
use crate::capability::Capability;
use crate::certificate::Facts;
use crate::chain::Chain;
use crate::error::{CapabilityError, Distrust, Document, holder_and_target};
use crate::extension::{self, ExtensionError};
use crate::names::{self, NameFault};
use crate::oid::{CAPABILITY_USAGE, CLIENT_USAGE_DER, INSTANCE_USAGE, SERVER_USAGE_DER};

/// Something out of a certificate, after the whole chain above it was verified.
///
/// Only this module makes one, so a function that takes `Verified<Capability>` cannot be given
/// what a peer merely claims.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Verified<T> {
    value: T,
    not_after: Timestamp,
}

impl<T> Verified<T> {
    /// What was verified.
    #[must_use]
    pub const fn get(&self) -> &T {
        &self.value
    }

    /// What was verified, by value. The caller now vouches for where it came from.
    #[must_use]
    pub fn into_inner(self) -> T {
        self.value
    }

    /// The last second in which all of the chain is valid.
    #[must_use]
    pub const fn not_after(&self) -> Timestamp {
        self.not_after
    }
}

/// A node, as its certificate names it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Node {
    /// The node.
    pub name: NodeName,
}

/// One instance of a service: the process that holds the key, on this node, in this epoch.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Instance {
    /// The service.
    pub service: ServiceName,
    /// Where the instance runs.
    pub node: NodeName,
    /// The epoch that it belongs to. Whether that is the current one only the directory knows.
    pub epoch: Epoch,
    key: Vec<u8>,
}

impl Instance {
    /// Whether `signature` (ECDSA P-256 with SHA-256, DER) is this instance's over `message`.
    #[must_use]
    pub fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.key)
            .verify(message, signature)
            .is_ok()
    }
}

/// The content of an instance certificate's extension.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct InstanceClaim {
    /// Where the instance runs.
    pub node: NodeName,
    /// The epoch that it belongs to.
    pub epoch: Epoch,
}

impl InstanceClaim {
    /// The content of the certificate's extension.
    ///
    /// # Errors
    ///
    /// [`ExtensionError`] if it does not fit.
    pub fn to_extension(&self) -> Result<Vec<u8>, ExtensionError> {
        extension::encode(self)
    }
}

/// Verifies a capability: chain, dates, purpose, extension and names.
///
/// # Errors
///
/// [`CapabilityError::Expired`], [`CapabilityError::NotYetValid`] or
/// [`CapabilityError::Untrusted`] with the reason.
pub fn verify_capability(
    bundle: &TrustBundle,
    chain: &Chain,
    now: SystemTime,
) -> Result<Verified<Capability>, CapabilityError> {
    let check = Check::new(bundle, Document::Capability, chain.certificates())?;
    let path = check.path(
        bundle.capability_roots(),
        chain.certificates(),
        &[CAPABILITY_USAGE.der],
        now,
    )?;
    // Delegation is not spoken yet: a CA that carries rights of its own would be a holder.
    if path.issuers.iter().any(Facts::has_extension) {
        return Err(check.distrust(Distrust::Delegated));
    }
    check.depth(&path, 1)?;
    let capability = path
        .leaf
        .capability_extension()
        .and_then(Capability::from_extension)
        .map_err(|error| check.distrust(error.into()))?;
    let holder = check.service_of(&path.leaf)?;
    if holder != capability.holder {
        let why = format!("it names {holder} and is held by {}", capability.holder);
        return Err(check.distrust(Distrust::Names(why)));
    }
    if capability.parent.is_some() {
        return Err(check.distrust(Distrust::Delegated));
    }
    // The rights may end before the certificate, never after it.
    if capability.not_after > path.leaf.not_after {
        return Err(check.distrust(Distrust::OutlivesIssuer));
    }
    if capability.not_after < now.into() {
        return Err(check.expired(capability.not_after));
    }
    Ok(Verified {
        not_after: capability.not_after.min(path.not_after),
        value: capability,
    })
}

/// Verifies the certificate of an instance: chain, dates, purpose, extension and names.
///
/// Its issuer is a node's own and names that node; an instance that claims to run elsewhere is
/// refused. So a node whose keys are stolen can pose as services, but never as another node.
///
/// # Errors
///
/// [`CapabilityError::Expired`], [`CapabilityError::NotYetValid`] or
/// [`CapabilityError::Untrusted`] with the reason.
pub fn verify_instance(
    bundle: &TrustBundle,
    chain: &Chain,
    now: SystemTime,
) -> Result<Verified<Instance>, CapabilityError> {
    let check = Check::new(bundle, Document::Instance, chain.certificates())?;
    let path = check.path(
        bundle.capability_roots(),
        chain.certificates(),
        &[INSTANCE_USAGE.der],
        now,
    )?;
    check.depth(&path, 2)?;
    let claim: InstanceClaim = path
        .leaf
        .instance_extension()
        .and_then(extension::decode)
        .map_err(|error| check.distrust(error.into()))?;
    let service = check.service_of(&path.leaf)?;
    let issuing_node = check.node_of(&path.issuers[0])?;
    if claim.node != issuing_node {
        let why = format!(
            "it is for {} and from the issuer of {issuing_node}",
            claim.node
        );
        return Err(check.distrust(Distrust::Names(why)));
    }
    if service.is_reserved() && service.as_node().as_ref() != Some(&claim.node) {
        let why = format!("{service} cannot run on {}", claim.node);
        return Err(check.distrust(Distrust::Names(why)));
    }
    Ok(Verified {
        value: Instance {
            service,
            node: claim.node,
            epoch: claim.epoch,
            key: path.leaf.public_key,
        },
        not_after: path.not_after,
    })
}

/// Verifies the certificate of a node, as a server, as a client, as both: a node is always both.
///
/// `certificates` is what TLS carries: the leaf first, then the intermediate.
///
/// # Errors
///
/// [`CapabilityError::Expired`], [`CapabilityError::NotYetValid`] or
/// [`CapabilityError::Untrusted`] with the reason.
pub fn verify_node(
    bundle: &TrustBundle,
    certificates: &[CertificateDer<'_>],
    now: SystemTime,
) -> Result<Verified<Node>, CapabilityError> {
    let check = Check::new(bundle, Document::Node, certificates)?;
    let path = check.path(
        bundle.node_roots(),
        certificates,
        &[SERVER_USAGE_DER, CLIENT_USAGE_DER],
        now,
    )?;
    check.depth(&path, 1)?;
    let name = check.node_of(&path.leaf)?;
    if path.leaf.dns_names != [names::node_dns_name(bundle.cluster(), &name)] {
        let why = format!("its DNS name is not that of node {name}");
        return Err(check.distrust(Distrust::Names(why)));
    }
    Ok(Verified {
        value: Node { name },
        not_after: path.not_after,
    })
}

/// The node that a certificate names, from its URI. For certificates that are verified already,
/// such as those of an established TLS session, and for messages about others.
///
/// # Errors
///
/// [`CapabilityError::Untrusted`] if it names no node of this cluster.
pub fn node_name_of(
    certificate: &CertificateDer<'_>,
    cluster: &ClusterName,
) -> Result<NodeName, CapabilityError> {
    let distrust = |why| CapabilityError::Untrusted {
        document: Document::Node,
        subject: "?".to_owned(),
        why,
    };
    let facts =
        Facts::parse(certificate).map_err(|why| distrust(Distrust::Broken(why.to_owned())))?;
    let uri = facts.only_uri().unwrap_or_default();
    names::parse_node_uri(uri, cluster).map_err(|fault| distrust(fault.into()))
}

/// The first and the last second in which a certificate says that it is valid.
///
/// # Errors
///
/// [`CapabilityError::Untrusted`] if it does not parse.
pub fn validity_of(
    certificate: &CertificateDer<'_>,
) -> Result<(Timestamp, Timestamp), CapabilityError> {
    let facts = Facts::parse(certificate).map_err(|why| CapabilityError::Untrusted {
        document: Document::Node,
        subject: "?".to_owned(),
        why: Distrust::Broken(why.to_owned()),
    })?;
    Ok((facts.not_before, facts.not_after))
}

impl From<NameFault> for Distrust {
    fn from(fault: NameFault) -> Self {
        match fault {
            NameFault::Foreign(cluster) => Self::Foreign(cluster),
            NameFault::Shape(uri) => Self::Names(format!("{uri:?} was not expected here")),
        }
    }
}

/// A path that webpki and the rules of this file have accepted.
struct Path {
    leaf: Facts,
    /// From the leaf's issuer upwards, without the root.
    issuers: Vec<Facts>,
    not_after: Timestamp,
}

/// One verification: whose certificate it is, so that every error can say so.
struct Check<'a> {
    cluster: &'a ClusterName,
    document: Document,
    subject: String,
    facts: Vec<Facts>,
}

impl<'a> Check<'a> {
    /// Parses the certificates; what they claim serves for error texts from here on.
    fn new(
        bundle: &'a TrustBundle,
        document: Document,
        certificates: &[CertificateDer<'_>],
    ) -> Result<Self, CapabilityError> {
        let mut check = Self {
            cluster: bundle.cluster(),
            document,
            subject: "?".to_owned(),
            facts: Vec::new(),
        };
        if certificates.is_empty() || certificates.len() > crate::chain::MAX_CHAIN_CERTIFICATES {
            return Err(check.distrust(Distrust::NotAPath));
        }
        for certificate in certificates {
            let facts = Facts::parse(certificate)
                .map_err(|why| check.distrust(Distrust::Broken(why.to_owned())))?;
            check.facts.push(facts);
        }
        check.subject = check.claimed_subject();
        Ok(check)
    }

    fn claimed_subject(&self) -> String {
        let leaf = &self.facts[0];
        let capability = leaf
            .capability_extension()
            .and_then(Capability::from_extension);
        if let (Document::Capability, Ok(capability)) = (self.document, capability) {
            return holder_and_target(&capability.holder, &capability.target);
        }
        let uri = leaf.only_uri().unwrap_or("?");
        let own = format!("{}/", names::cluster_uri(self.cluster));
        let name = uri.strip_prefix(&own).unwrap_or(uri);
        let name = name
            .strip_prefix("node/")
            .or_else(|| name.strip_prefix("svc/"))
            .unwrap_or(name);
        names::printable(name)
    }

    fn distrust(&self, why: Distrust) -> CapabilityError {
        CapabilityError::Untrusted {
            document: self.document,
            subject: self.subject.clone(),
            why,
        }
    }

    fn expired(&self, at: Timestamp) -> CapabilityError {
        CapabilityError::Expired {
            document: self.document,
            subject: self.subject.clone(),
            at,
        }
    }

    /// Builds and checks the path from the first certificate to one of `roots`.
    fn path(
        &self,
        roots: &[CertificateDer<'static>],
        certificates: &[CertificateDer<'_>],
        usages: &[&[u8]],
        now: SystemTime,
    ) -> Result<Path, CapabilityError> {
        // Said first, since a foreign chain also fails for its root, and that would say less.
        if let Some(uri) = self.facts[0].only_uri()
            && let Err(NameFault::Foreign(cluster)) = names::path_in(uri, self.cluster)
        {
            return Err(self.distrust(Distrust::Foreign(cluster)));
        }
        let roots = self.valid_roots(roots, now.into())?;
        let anchors = roots
            .iter()
            .map(|(root, _)| webpki::anchor_from_trusted_cert(root))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| self.path_fault(&error))?;
        let leaf =
            EndEntityCert::try_from(&certificates[0]).map_err(|error| self.path_fault(&error))?;
        let path = leaf
            .verify_for_usage(
                &[webpki::ring::ECDSA_P256_SHA256],
                &anchors,
                &certificates[1..],
                unix_time(now),
                RequiredUsages(usages),
                None,
                None,
            )
            .map_err(|error| self.path_fault(&error))?;
        let used = path.intermediate_certificates().map(|issuer| issuer.der());
        if !used.eq(certificates[1..].iter().cloned()) {
            return Err(self.distrust(Distrust::NotAPath));
        }
        let anchor_key = path.anchor().subject_public_key_info.as_ref();
        let root = roots
            .iter()
            .zip(&anchors)
            .filter(|(_, anchor)| anchor.subject_public_key_info.as_ref() == anchor_key)
            .map(|((_, facts), _)| facts)
            // A root may be there twice under one key, the second time with a later end.
            .max_by_key(|facts| facts.not_after)
            .ok_or_else(|| self.distrust(Distrust::UnknownIssuer))?;
        self.nested(root)?;
        let (leaf, issuers) = (self.facts[0].clone(), self.facts[1..].to_vec());
        Ok(Path {
            // Nested validity: the leaf is the first to run out.
            not_after: leaf.not_after,
            leaf,
            issuers,
        })
    }

    /// The roots that have not run out. webpki takes any root at any time.
    fn valid_roots<'r>(
        &self,
        roots: &'r [CertificateDer<'static>],
        now: Timestamp,
    ) -> Result<Vec<(&'r CertificateDer<'static>, Facts)>, CapabilityError> {
        let parsed = roots
            .iter()
            .map(|root| Facts::parse(root).map(|facts| (root, facts)))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|why| self.distrust(Distrust::Broken(why.to_owned())))?;
        let last = parsed.iter().map(|(_, facts)| facts.not_after).max();
        let valid: Vec<_> = parsed
            .into_iter()
            .filter(|(_, facts)| facts.is_valid_at(now))
            .collect();
        match last {
            Some(last) if valid.is_empty() && last < now => {
                Err(self.distrust(Distrust::RootExpired(last)))
            }
            _ => Ok(valid),
        }
    }

    /// Every certificate ends with the one that signed it, or before.
    fn nested(&self, root: &Facts) -> Result<(), CapabilityError> {
        let ends = self.facts.iter().chain([root]).map(|facts| facts.not_after);
        if ends.is_sorted() {
            Ok(())
        } else {
            Err(self.distrust(Distrust::OutlivesIssuer))
        }
    }

    fn depth(&self, path: &Path, intermediates: usize) -> Result<(), CapabilityError> {
        if path.issuers.len() == intermediates {
            Ok(())
        } else {
            Err(self.distrust(Distrust::NotAPath))
        }
    }

    fn service_of(&self, facts: &Facts) -> Result<ServiceName, CapabilityError> {
        let uri = self.only_uri(facts)?;
        names::parse_service_uri(uri, self.cluster).map_err(|fault| self.distrust(fault.into()))
    }

    fn node_of(&self, facts: &Facts) -> Result<NodeName, CapabilityError> {
        let uri = self.only_uri(facts)?;
        names::parse_node_uri(uri, self.cluster).map_err(|fault| self.distrust(fault.into()))
    }

    fn only_uri<'f>(&self, facts: &'f Facts) -> Result<&'f str, CapabilityError> {
        facts.only_uri().ok_or_else(|| {
            let why = "it has not exactly one URI".to_owned();
            self.distrust(Distrust::Names(why))
        })
    }

    fn path_fault(&self, error: &webpki::Error) -> CapabilityError {
        match error {
            webpki::Error::CertExpired { not_after, .. } => {
                self.expired(Timestamp::from_unix_seconds(not_after.as_secs()))
            }
            webpki::Error::CertNotValidYet { not_before, .. } => CapabilityError::NotYetValid {
                document: self.document,
                subject: self.subject.clone(),
                from: Timestamp::from_unix_seconds(not_before.as_secs()),
            },
            webpki::Error::UnknownIssuer => self.distrust(Distrust::UnknownIssuer),
            webpki::Error::RequiredEkuNotFoundContext(_) | webpki::Error::EmptyEkuExtension => {
                self.distrust(Distrust::WrongUsage)
            }
            other => self.distrust(Distrust::Broken(format!("{other:?}"))),
        }
    }
}

/// All of these purposes must be listed, in the leaf and in every intermediate.
///
/// webpki's own check for server and client authentication lets a certificate without a list pass
/// for everything, which is how a holder that may delegate once became a node.
struct RequiredUsages<'a>(&'a [&'a [u8]]);

impl ExtendedKeyUsageValidator for RequiredUsages<'_> {
    fn validate(&self, listed: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        let listed = listed.collect::<Result<Vec<_>, _>>()?;
        let all = self
            .0
            .iter()
            .all(|usage| listed.contains(&KeyPurposeId::new(usage)));
        // The context that webpki's variant carries cannot be built outside it.
        if all {
            Ok(())
        } else {
            Err(webpki::Error::EmptyEkuExtension)
        }
    }
}

fn unix_time(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(
        Timestamp::from(time).unix_seconds(),
    ))
}
