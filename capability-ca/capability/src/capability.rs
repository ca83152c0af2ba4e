//! What a capability says, and when one is narrower than another.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use weft_types::{ContractName, Epoch, Lane, ServiceName};

use crate::Timestamp;
use crate::extension::{self, ExtensionError};

/// How often a capability can be passed on at most. Path building allows six intermediates; three
/// delegations and the CA leave room.
pub const MAX_DEPTH: u8 = 3;
/// How many messages a capability can name; more than that, and it does not fit its extension.
pub const MAX_MESSAGES: usize = 64;
/// The contract of the node daemons, the only one that [`Target::EveryNode`] may go with.
pub const NODE_CONTRACT: &str = "node.control";

/// Names one capability for ever. Random (128 bits): revocation will speak of it by this name.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct CapabilityId([u8; 16]);

impl CapabilityId {
    /// An id from 16 random bytes. (This crate has no source of them.)
    #[must_use]
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub const fn bytes(self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Display for CapabilityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cap-{:08x}", u128::from_be_bytes(self.0) >> 96)
    }
}

impl fmt::Debug for CapabilityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cap-{:032x}", u128::from_be_bytes(self.0))
    }
}

/// Whom a capability opens channels to.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Target {
    /// One service, wherever it lives.
    Service(ServiceName),
    /// The daemons of all nodes, also of those that join later. With [`NODE_CONTRACT`] only.
    EveryNode,
}

impl Target {
    /// Whether `service` is meant.
    #[must_use]
    pub fn covers(&self, service: &ServiceName) -> bool {
        match self {
            Self::Service(own) => own == service,
            Self::EveryNode => service.as_node().is_some(),
        }
    }

    fn is_within(&self, parent: &Self) -> bool {
        match self {
            Self::Service(service) => parent.covers(service),
            Self::EveryNode => *parent == Self::EveryNode,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(service) => service.fmt(f),
            Self::EveryNode => f.pad("every node"),
        }
    }
}

/// Which messages of the contract may be sent.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum MessageSet {
    /// All that the contract has.
    All,
    /// Those of these names. Names, not hashes: they are short, and `openssl` shows them.
    Only(BTreeSet<String>),
}

impl MessageSet {
    /// Whether a message of this name may be sent.
    #[must_use]
    pub fn contains(&self, message: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.contains(message),
        }
    }

    fn is_within(&self, parent: &Self) -> bool {
        match (self, parent) {
            (_, Self::All) => true,
            (Self::All, Self::Only(_)) => false,
            (Self::Only(own), Self::Only(parents)) => own.is_subset(parents),
        }
    }
}

/// The rights that one certificate gives: the content of its extension.
///
/// At most [`extension::MAX_EXTENSION_BYTES`] long when encoded. The order of the fields is the
/// format; a change is a new version of the extension.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Capability {
    /// This capability's own name.
    pub id: CapabilityId,
    /// The capability that it was derived from, if not straight from the authority.
    pub parent: Option<CapabilityId>,
    /// Who may use it: a service, whichever instance of it and wherever it lives.
    pub holder: ServiceName,
    /// Whom it opens channels to.
    pub target: Target,
    /// The contract that is spoken there.
    pub contract: ContractName,
    /// The oldest version of the contract that may be spoken.
    pub min_version: u16,
    /// The newest.
    pub max_version: u16,
    /// Which messages may be sent.
    pub messages: MessageSet,
    /// The most urgent lane that may be used.
    pub lane_ceiling: Lane,
    /// How often it may still be passed on.
    pub depth_left: u8,
    /// The last second in which channels can be opened with it.
    pub not_after: Timestamp,
    /// Owners of the target before this epoch are not meant.
    pub epoch_min: Epoch,
}

/// In which respect a capability does not cover an open.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Denied {
    /// It is for another service.
    #[error("it is for {covers}, not for {asked}")]
    Target {
        /// What it covers.
        covers: Target,
        /// What was asked.
        asked: ServiceName,
    },
    /// It is for another contract.
    #[error("it is for contract {covers}, not for {asked}")]
    Contract {
        /// What it covers.
        covers: ContractName,
        /// What was asked.
        asked: ContractName,
    },
    /// It is for other versions of the contract.
    #[error("it is for versions {min} to {max} of the contract, not for version {asked}")]
    Version {
        /// The oldest that it covers.
        min: u16,
        /// The newest that it covers.
        max: u16,
        /// What was asked.
        asked: u16,
    },
    /// It is for later owners of the target.
    #[error("it is for owners from {min} on, and the target is in {found}")]
    Epoch {
        /// The first epoch that it covers.
        min: Epoch,
        /// The target's epoch.
        found: Epoch,
    },
}

impl Capability {
    /// Whether it opens a channel to `target`, in this epoch, to speak this contract and version.
    ///
    /// Time is checked with the certificate, the holder by whoever knows who asks.
    ///
    /// # Errors
    ///
    /// [`Denied`]: the first respect in which it does not.
    pub fn check_opens(
        &self,
        target: &ServiceName,
        contract: &ContractName,
        version: u16,
        epoch: Epoch,
    ) -> Result<(), Denied> {
        if !self.target.covers(target) {
            return Err(Denied::Target {
                covers: self.target.clone(),
                asked: target.clone(),
            });
        }
        if self.contract != *contract {
            return Err(Denied::Contract {
                covers: self.contract.clone(),
                asked: contract.clone(),
            });
        }
        if !(self.min_version..=self.max_version).contains(&version) {
            return Err(Denied::Version {
                min: self.min_version,
                max: self.max_version,
                asked: version,
            });
        }
        if epoch < self.epoch_min {
            return Err(Denied::Epoch {
                min: self.epoch_min,
                found: epoch,
            });
        }
        Ok(())
    }

    /// Whether this capability gives nothing that `parent` does not, and was derived from it.
    ///
    /// The holder may be another: that is what passing on means.
    #[must_use]
    pub fn is_within(&self, parent: &Self) -> bool {
        self.parent == Some(parent.id)
            && self.target.is_within(&parent.target)
            && self.contract == parent.contract
            && self.min_version >= parent.min_version
            && self.max_version <= parent.max_version
            && self.messages.is_within(&parent.messages)
            && self.lane_ceiling >= parent.lane_ceiling
            && self.depth_left < parent.depth_left
            && self.not_after <= parent.not_after
            && self.epoch_min >= parent.epoch_min
    }

    /// The content of the certificate's extension.
    ///
    /// # Errors
    ///
    /// [`ExtensionError`] if the fields contradict each other or do not fit.
    pub fn to_extension(&self) -> Result<Vec<u8>, ExtensionError> {
        self.check_fields()?;
        extension::encode(self)
    }

    /// Reads the content of a certificate's extension.
    ///
    /// # Errors
    ///
    /// [`ExtensionError`] for everything but what [`Self::to_extension`] writes.
    pub fn from_extension(der: &[u8]) -> Result<Self, ExtensionError> {
        let capability: Self = extension::decode(der)?;
        capability.check_fields()?;
        Ok(capability)
    }

    /// What the types of the fields do not say.
    fn check_fields(&self) -> Result<(), ExtensionError> {
        let fault = if self.min_version > self.max_version {
            "its oldest version is newer than its newest"
        } else if self.target == Target::EveryNode && self.contract.as_str() != NODE_CONTRACT {
            "only node.control can be granted for every node"
        } else if self.depth_left > MAX_DEPTH {
            "it may be passed on more than three times"
        } else if self.holder.is_reserved() && self.holder.as_node().is_none() {
            "its holder is neither a node nor another service"
        } else if let MessageSet::Only(names) = &self.messages
            && (names.is_empty() || names.len() > MAX_MESSAGES)
        {
            "it names no message, or too many"
        } else if let MessageSet::Only(names) = &self.messages
            && !names.iter().all(|name| is_message_name(name))
        {
            "it names a message that cannot exist"
        } else {
            return Ok(());
        };
        Err(ExtensionError::Contradiction(fault))
    }
}

fn is_message_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-:".contains(&byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn service(name: &str) -> ServiceName {
        ServiceName::new(name).unwrap()
    }

    fn contract(name: &str) -> ContractName {
        ContractName::new(name).unwrap()
    }

    fn parent() -> Capability {
        Capability {
            id: CapabilityId::new([7; 16]),
            parent: None,
            holder: service("demo-client"),
            target: Target::Service(service("kv")),
            contract: contract("kv"),
            min_version: 1,
            max_version: 3,
            messages: MessageSet::Only(["Get", "Put"].map(String::from).into()),
            lane_ceiling: Lane::HIGH,
            depth_left: 2,
            not_after: Timestamp::from_unix_seconds(2_000_000_000),
            epoch_min: Epoch::new(3),
        }
    }

    fn child() -> Capability {
        Capability {
            id: CapabilityId::new([8; 16]),
            parent: Some(parent().id),
            holder: service("helper"),
            depth_left: 1,
            ..parent()
        }
    }

    #[test]
    fn it_opens_its_target_with_its_contract_and_nothing_else() {
        let epoch = Epoch::new(3);
        let capability = parent();
        let opens = |target: &str, name: &str, version, epoch| {
            capability.check_opens(&service(target), &contract(name), version, epoch)
        };
        assert_eq!(opens("kv", "kv", 1, epoch), Ok(()));
        assert_eq!(opens("kv", "kv", 3, epoch.next()), Ok(()));
        assert!(matches!(
            opens("kv2", "kv", 1, epoch),
            Err(Denied::Target { .. })
        ));
        assert!(matches!(
            opens("kv", "log", 1, epoch),
            Err(Denied::Contract { .. })
        ));
        assert!(matches!(
            opens("kv", "kv", 0, epoch),
            Err(Denied::Version { .. })
        ));
        assert!(matches!(
            opens("kv", "kv", 4, epoch),
            Err(Denied::Version { .. })
        ));
        assert!(matches!(
            opens("kv", "kv", 1, Epoch::new(2)),
            Err(Denied::Epoch { .. })
        ));
    }

    #[test]
    fn every_node_means_daemons_only_and_node_control_only() {
        let mut capability = parent();
        capability.target = Target::EveryNode;
        assert!(matches!(
            capability.to_extension(),
            Err(ExtensionError::Contradiction(_))
        ));
        capability.contract = contract(NODE_CONTRACT);
        assert!(capability.to_extension().is_ok());
        assert!(capability.target.covers(&service("node/n9")));
        assert!(!capability.target.covers(&service("kv")));
        assert!(!capability.target.covers(&service("node/n9/x")));
    }

    #[test]
    fn a_child_that_is_wider_in_one_field_is_not_within_its_parent() {
        assert!(child().is_within(&parent()));
        type Widen = fn(&mut Capability);
        let wider: [(&str, Widen); 10] = [
            ("parent", |c| c.parent = None),
            ("target", |c| {
                c.target = Target::Service(ServiceName::new("log").unwrap());
            }),
            ("contract", |c| {
                c.contract = ContractName::new("log").unwrap();
            }),
            ("min_version", |c| c.min_version = 0),
            ("max_version", |c| c.max_version = 4),
            ("messages", |c| c.messages = MessageSet::All),
            ("lane", |c| c.lane_ceiling = Lane::URGENT),
            ("depth", |c| c.depth_left = 2),
            ("not_after", |c| {
                c.not_after = Timestamp::from_unix_seconds(2_000_000_001);
            }),
            ("epoch", |c| c.epoch_min = Epoch::new(2)),
        ];
        for (field, widen) in wider {
            let mut wide = child();
            widen(&mut wide);
            assert!(!wide.is_within(&parent()), "{field}");
        }
    }

    #[test]
    fn one_node_is_narrower_than_every_node_and_not_the_reverse() {
        let every = Target::EveryNode;
        let one = Target::Service(service("node/n1"));
        assert!(one.is_within(&every));
        assert!(!every.is_within(&one));
        assert!(!Target::Service(service("kv")).is_within(&every));
    }

    #[test]
    fn fields_that_contradict_each_other_are_neither_written_nor_read() {
        type Break = fn(&mut Capability);
        let broken: [Break; 5] = [
            |c| c.min_version = 4,
            |c| c.depth_left = MAX_DEPTH + 1,
            |c| c.messages = MessageSet::Only(BTreeSet::new()),
            |c| c.messages = MessageSet::Only(["a b".to_owned()].into()),
            |c| c.holder = ServiceName::new("node/n1/x").unwrap(),
        ];
        for spoil in broken {
            let mut capability = parent();
            spoil(&mut capability);
            let written = extension::encode(&capability).unwrap();
            assert!(matches!(
                capability.to_extension(),
                Err(ExtensionError::Contradiction(_))
            ));
            assert!(matches!(
                Capability::from_extension(&written),
                Err(ExtensionError::Contradiction(_))
            ));
        }
    }

    #[test]
    fn the_longest_names_fit_with_all_messages() {
        let capability = Capability {
            parent: Some(CapabilityId::new([255; 16])),
            holder: service(&"h".repeat(64)),
            target: Target::Service(service(&"t".repeat(64))),
            contract: contract(&"c".repeat(40)),
            min_version: u16::MAX,
            max_version: u16::MAX,
            messages: MessageSet::All,
            not_after: Timestamp::from_unix_seconds(u64::MAX),
            epoch_min: Epoch::new(u64::MAX),
            ..parent()
        };
        let der = capability.to_extension().unwrap();
        assert_eq!(Capability::from_extension(&der), Ok(capability));
    }

    #[test]
    fn too_many_messages_are_refused_with_the_size() {
        let mut capability = parent();
        let names = (0..60).map(|n| format!("Message{n}")).collect();
        capability.messages = MessageSet::Only(names);
        assert!(matches!(
            capability.to_extension(),
            Err(ExtensionError::TooLong(_))
        ));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_to_an_error_or_to_what_encodes_to_them(
            bytes in proptest::collection::vec(any::<u8>(), 0..300)
        ) {
            if let Ok(capability) = Capability::from_extension(&bytes) {
                prop_assert_eq!(capability.to_extension().unwrap(), bytes);
            }
        }

        #[test]
        fn a_spoiled_extension_never_reads_as_the_same_rights(
            at in 0_usize..100, flip in 1_u8..=255
        ) {
            let mut der = parent().to_extension().unwrap();
            let at = at % der.len();
            der[at] ^= flip;
            if let Ok(other) = Capability::from_extension(&der) {
                prop_assert_ne!(other, parent());
            }
        }
    }
}
