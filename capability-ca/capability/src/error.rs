//! Why somebody may not: one error, and the refusal that leaves the node.

use weft_types::{ContractName, Lane, NodeName, Refusal, RefusalCode, ServiceName};

use crate::Timestamp;
use crate::capability::{CapabilityId, Denied, Target};
use crate::extension::ExtensionError;

/// What kind of certificate is at fault.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Document {
    /// A capability.
    Capability,
    /// The certificate of a service's instance.
    Instance,
    /// The certificate of a node.
    Node,
}

impl std::fmt::Display for Document {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Capability => "capability",
            Self::Instance => "instance certificate",
            Self::Node => "node certificate",
        })
    }
}

/// Why a certificate is not believed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Distrust {
    /// It is not signed, over intermediates that came with it, by a root of the trust bundle.
    #[error("no root of this cluster has signed it")]
    UnknownIssuer,
    /// It says itself that it belongs to another cluster.
    #[error("it belongs to cluster {0}")]
    Foreign(String),
    /// Every root that it could lead to has run out. (Path building does not look at that.)
    #[error("the roots of this cluster ran out at {0}")]
    RootExpired(Timestamp),
    /// It, or an intermediate, was made for another purpose, or for any.
    #[error("it was not made for this purpose")]
    WrongUsage,
    /// It is valid for longer than the certificate that signed it. (Path building does not look.)
    #[error("it is valid for longer than the certificate that signed it")]
    OutlivesIssuer,
    /// The certificates are not just the path, in order, the leaf first.
    #[error("the certificates that came with it are not its path to the root, in order")]
    NotAPath,
    /// A link of the path carries rights to pass on, which this node cannot check yet.
    #[error("it was passed on by its holder, which this node does not support")]
    Delegated,
    /// The names in it do not agree with each other or with its purpose.
    #[error("its names do not fit: {0}")]
    Names(String),
    /// Its extension was not taken.
    #[error("{0}")]
    Extension(#[from] ExtensionError),
    /// It does not parse, or the signature or something else about the path is wrong.
    #[error("it is broken: {0}")]
    Broken(String),
}

/// Why a channel may not be opened, or a certificate is not taken.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CapabilityError {
    /// The holder has none that covers this.
    #[error("{holder} holds no capability for {target} with contract {contract} v{version}")]
    NoGrant {
        /// Who asks.
        holder: ServiceName,
        /// For which service.
        target: ServiceName,
        /// To speak what.
        contract: ContractName,
        /// In which version.
        version: u16,
    },
    /// The one that was presented covers something else.
    #[error("the capability {id} of {holder} does not cover this: {denied}")]
    DoesNotCover {
        /// The capability.
        id: CapabilityId,
        /// Who holds it.
        holder: ServiceName,
        /// For which service it was asked.
        target: ServiceName,
        /// To speak what.
        contract: ContractName,
        /// In which respect it does not.
        denied: Box<Denied>,
    },
    /// Not valid yet. Mostly a clock that is wrong.
    #[error("the {document} {subject} is valid from {from} on; is the clock of this node right?")]
    NotYetValid {
        /// What it is.
        document: Document,
        /// Whose it is.
        subject: String,
        /// The first second of its validity.
        from: Timestamp,
    },
    /// Not valid any more.
    #[error("the {document} {subject} ran out at {at}")]
    Expired {
        /// What it is.
        document: Document,
        /// Whose it is.
        subject: String,
        /// The last second of its validity.
        at: Timestamp,
    },
    /// Not a certificate of this cluster for this purpose.
    #[error("the {document} {subject} is not trusted: {why}")]
    Untrusted {
        /// What it should have been.
        document: Document,
        /// Whose it says that it is, as far as that can be told.
        subject: String,
        /// Why not.
        why: Distrust,
    },
    /// It is a capability of somebody else.
    #[error("the capability {id} is for {holder}, and {presenter} presented it")]
    OtherHolder {
        /// The capability.
        id: CapabilityId,
        /// For whom it was issued.
        holder: ServiceName,
        /// Who presented it.
        presenter: ServiceName,
    },
    /// The instance that asks lives elsewhere than on the node at the other end.
    #[error("{service} proves that it runs on {claimed}, and the request comes from {peer}")]
    OtherNode {
        /// The service.
        service: ServiceName,
        /// The node in its certificate.
        claimed: NodeName,
        /// The node that the connection was authenticated for.
        peer: NodeName,
    },
    /// The signature is not the instance's, or for another channel, chain or TLS session.
    #[error("{service} could not prove, for this connection and channel, that it is the holder")]
    NotProven {
        /// Who should have signed.
        service: ServiceName,
    },
    /// The message is not among those of the grant.
    #[error("the capability of {holder} for {target} does not allow message {message}")]
    MessageNotAllowed {
        /// Who sends.
        holder: ServiceName,
        /// To whom.
        target: ServiceName,
        /// What.
        message: String,
    },
    /// The lane is more urgent than the grant allows.
    #[error("the capability of {holder} for {target} allows {ceiling} at most, not {lane}")]
    LaneNotAllowed {
        /// Who sends.
        holder: ServiceName,
        /// To whom.
        target: ServiceName,
        /// The most urgent lane that is allowed.
        ceiling: Lane,
        /// The lane that was asked for.
        lane: Lane,
    },
}

impl CapabilityError {
    /// The code for programs. Total: a new variant does not compile without one.
    #[must_use]
    pub const fn code(&self) -> RefusalCode {
        match self {
            Self::NoGrant { .. } | Self::DoesNotCover { .. } => RefusalCode::NoGrant,
            Self::NotYetValid { .. } | Self::Expired { .. } => RefusalCode::Expired,
            Self::Untrusted { .. } => RefusalCode::Untrusted,
            Self::OtherHolder { .. } | Self::OtherNode { .. } | Self::NotProven { .. } => {
                RefusalCode::NotHolder
            }
            Self::MessageNotAllowed { .. } | Self::LaneNotAllowed { .. } => RefusalCode::NotAllowed,
        }
    }

    /// What to do about it, for people.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::NoGrant {
                holder,
                target,
                contract,
                ..
            } => format!("issue one with `weft grant {holder} {target} --contract {contract}`"),
            Self::DoesNotCover {
                holder,
                target,
                contract,
                denied,
                ..
            } => match &**denied {
                Denied::Target { .. } | Denied::Contract { .. } => {
                    format!("issue one with `weft grant {holder} {target} --contract {contract}`")
                }
                Denied::Version { asked, .. } => format!(
                    "issue one that covers version {asked} with `weft grant {holder} {target} \
                     --contract {contract}`"
                ),
                Denied::Epoch { .. } => {
                    "ask again when the directory knows the target's later owner".to_owned()
                }
            },
            Self::NotYetValid { .. } => {
                "compare the clocks of the nodes, which may differ by 60 s".to_owned()
            }
            Self::Expired {
                document: Document::Capability,
                subject,
                ..
            } => format!("issue a new one with `weft grant` ({subject})"),
            Self::Expired {
                document: Document::Instance,
                ..
            } => "its node renews it by itself; compare the clocks of the nodes".to_owned(),
            Self::Expired {
                document: Document::Node,
                subject,
                ..
            } => format!("issue a new one with `weft ca node {subject}`"),
            Self::Untrusted { document, .. } => match document {
                Document::Capability => {
                    "issue one with `weft grant` and the CA of this cluster".to_owned()
                }
                Document::Instance | Document::Node => {
                    "issue the node's files with `weft ca node` and the CA of this cluster"
                        .to_owned()
                }
            },
            Self::OtherHolder {
                holder, presenter, ..
            } => format!(
                "run as {holder}, or issue a capability to {presenter} with `weft grant \
                 {presenter} ...`"
            ),
            Self::OtherNode { .. } => {
                "an instance opens channels from its own node only".to_owned()
            }
            Self::NotProven { .. } => {
                "open the channel again; if that fails too, the chain is not the caller's"
                    .to_owned()
            }
            Self::MessageNotAllowed {
                holder,
                target,
                message,
            } => format!(
                "issue one to {holder} for {target} that names {message}, with `weft grant`"
            ),
            Self::LaneNotAllowed { ceiling, .. } => format!("send on {ceiling} or below"),
        }
    }

    /// What leaves the node: what was asked, what is missing, what to do.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        Refusal::new(self.code(), format!("{self}; {}", self.remedy()))
    }
}

impl From<CapabilityError> for Refusal {
    fn from(error: CapabilityError) -> Self {
        error.refusal()
    }
}

/// How a capability is called before it is verified: by what it says.
pub(crate) fn holder_and_target(holder: &ServiceName, target: &Target) -> String {
    format!("{holder} -> {target}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_grant_says_what_is_missing_and_how_to_get_it() {
        let refusal = CapabilityError::NoGrant {
            holder: ServiceName::new("demo-client").unwrap(),
            target: ServiceName::new("kv").unwrap(),
            contract: ContractName::new("kv").unwrap(),
            version: 1,
        }
        .refusal();
        assert_eq!(refusal.code, RefusalCode::NoGrant);
        assert_eq!(
            refusal.text,
            "demo-client holds no capability for kv with contract kv v1; issue one with \
             `weft grant demo-client kv --contract kv`"
        );
    }
}
