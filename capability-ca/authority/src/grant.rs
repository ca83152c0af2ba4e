//! Granting: from a request to a capability.

use std::ops::RangeInclusive;

use rcgen::KeyPair;
use weft_capability::oid::CAPABILITY_EXTENSION;
use weft_capability::{Capability, CapabilityId, Chain, MessageSet, Target, names};
use weft_types::{ContractName, Epoch, Lane, ServiceName};

use crate::ca::Authority;
use crate::error::AuthorityError;
use crate::mint::{Blueprint, Purpose, Validity, random};

/// What is to be granted.
#[derive(Clone, Debug)]
pub struct GrantRequest {
    /// To whom: a service, whichever instance of it.
    pub holder: ServiceName,
    /// For whom.
    pub target: Target,
    /// To speak what.
    pub contract: ContractName,
    /// In which versions.
    pub versions: RangeInclusive<u16>,
    /// Which messages.
    pub messages: MessageSet,
    /// On which lane at most.
    pub lane_ceiling: Lane,
    /// From when to when.
    pub validity: Validity,
    /// How often the holder may pass it on.
    pub depth: u8,
}

impl GrantRequest {
    /// Everything that one version of a contract has, on all lanes, not to be passed on.
    #[must_use]
    pub fn new(
        holder: ServiceName,
        target: Target,
        contract: ContractName,
        version: u16,
        validity: Validity,
    ) -> Self {
        Self {
            holder,
            target,
            contract,
            versions: version..=version,
            messages: MessageSet::All,
            lane_ceiling: Lane::URGENT,
            validity,
            depth: 0,
        }
    }
}

/// What was granted.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The rights.
    pub capability: Capability,
    /// Their proof. Nothing secret is in it: a chain opens nothing without the holder's key.
    pub chain: Chain,
}

impl Grant {
    /// The chain as PEM, the capability first, with a line for people before it.
    #[must_use]
    pub fn to_pem(&self) -> String {
        let capability = &self.capability;
        format!(
            "# {}: {} may speak {} v{} to v{} with {}, until {}\n{}",
            capability.id,
            capability.holder,
            capability.contract,
            capability.min_version,
            capability.max_version,
            capability.target,
            capability.not_after,
            self.chain.to_pem()
        )
    }
}

impl Authority {
    /// Issues a capability.
    ///
    /// # Errors
    ///
    /// [`AuthorityError::Rights`] if the request contradicts itself or does not fit, and
    /// [`AuthorityError::OutlivesIssuer`] if it is for longer than the CA lives.
    pub fn grant(&self, request: &GrantRequest) -> Result<Grant, AuthorityError> {
        let capability = Capability {
            id: CapabilityId::new(random()),
            parent: None,
            holder: request.holder.clone(),
            target: request.target.clone(),
            contract: request.contract.clone(),
            min_version: *request.versions.start(),
            max_version: *request.versions.end(),
            messages: request.messages.clone(),
            lane_ceiling: request.lane_ceiling,
            depth_left: request.depth,
            not_after: request.validity.not_after(),
            epoch_min: Epoch::NONE,
        };
        let blueprint = Blueprint {
            cluster: self.cluster(),
            common_name: format!("{} {} to {}", capability.id, request.holder, request.target),
            uri: names::service_uri(self.cluster(), &request.holder),
            dns_name: None,
            purpose: Some(Purpose::Capability),
            ca_with_path_length: None,
            extension: Some((CAPABILITY_EXTENSION, capability.to_extension()?)),
            validity: request.validity,
        };
        // Grants name services, not keys: who presents this proves itself with the key of its
        // instance. X.509 wants a key all the same, so it gets one that nobody keeps.
        let nobodys = KeyPair::generate()?;
        let chain = Chain::new(self.capability_ca.chain(&blueprint, &nobodys)?)?;
        Ok(Grant { capability, chain })
    }
}
