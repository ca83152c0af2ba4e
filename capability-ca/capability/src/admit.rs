//! The one entry point at channel open: who is asking, and may it?
//!
//! Remote and local opens end in the same [`ChannelGrant`], by the same check of the capability.
//! They differ in how the holder is known: over the wire it proves itself, on the node the
//! security service has started it and knows. Nothing is checked after that for each message but
//! what the grant holds.

use std::time::SystemTime;

use weft_types::{ChannelId, ContractName, Epoch, Lane, NodeName, ServiceName};

use crate::Timestamp;
use crate::bundle::TrustBundle;
use crate::capability::{Capability, CapabilityId, MessageSet};
use crate::chain::Chain;
use crate::error::CapabilityError;
use crate::proof::{EXPORTER_BYTES, Presented, Proof};
use crate::verify::{Verified, verify_capability, verify_instance};

/// What is to be opened.
#[derive(Clone, Copy, Debug)]
pub struct Opening<'a> {
    /// The service at the other end.
    pub target: &'a ServiceName,
    /// The contract that will be spoken.
    pub contract: &'a ContractName,
    /// Its version, as the client's type table says it.
    pub version: u16,
    /// The target's epoch, as the directory of the node that checks says it.
    pub epoch: Epoch,
}

/// Where a remote request came from, as this node knows it, not as the request says.
#[derive(Clone, Copy, Debug)]
pub struct Session<'a> {
    /// The node that TLS authenticated.
    pub peer: &'a NodeName,
    /// The channel that is being opened.
    pub channel: ChannelId,
    /// [`EXPORTER_BYTES`] of this TLS session, drawn with [`crate::EXPORTER_LABEL`] and
    /// [`crate::exporter_context`].
    pub exporter: &'a [u8],
}

/// What was granted, for as long as the channel lives: all that is looked at after the open.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ChannelGrant {
    /// The capability that opened it, by which revocation finds the channel.
    pub capability: CapabilityId,
    /// Who holds the channel.
    pub holder: ServiceName,
    /// The node of the holder's instance; none for a holder on this node.
    pub node: Option<NodeName>,
    /// The epoch of the holder's instance; none for a holder on this node.
    pub holder_epoch: Option<Epoch>,
    /// Whom it leads to.
    pub target: ServiceName,
    /// Which messages may be sent.
    pub messages: MessageSet,
    /// The most urgent lane that may be used.
    pub lane_ceiling: Lane,
    /// The capability's last second. An open channel outlives it only if the node lets it.
    pub not_after: Timestamp,
}

impl ChannelGrant {
    /// Whether a message of this name may be sent.
    ///
    /// # Errors
    ///
    /// [`CapabilityError::MessageNotAllowed`].
    pub fn check_message(&self, message: &str) -> Result<(), CapabilityError> {
        if self.messages.contains(message) {
            return Ok(());
        }
        Err(CapabilityError::MessageNotAllowed {
            holder: self.holder.clone(),
            target: self.target.clone(),
            message: message.to_owned(),
        })
    }

    /// Whether this lane may be used.
    ///
    /// # Errors
    ///
    /// [`CapabilityError::LaneNotAllowed`].
    pub fn check_lane(&self, lane: Lane) -> Result<(), CapabilityError> {
        if lane >= self.lane_ceiling {
            return Ok(());
        }
        Err(CapabilityError::LaneNotAllowed {
            holder: self.holder.clone(),
            target: self.target.clone(),
            ceiling: self.lane_ceiling,
            lane,
        })
    }
}

/// Decides about a request from another node.
///
/// # Errors
///
/// [`CapabilityError`]: the first thing that is missing.
pub fn admit(
    bundle: &TrustBundle,
    presented: &Presented,
    opening: &Opening<'_>,
    session: &Session<'_>,
    now: SystemTime,
) -> Result<ChannelGrant, CapabilityError> {
    let identity = verify_instance(bundle, &presented.identity_chain, now)?;
    let instance = identity.get();
    if instance.node != *session.peer {
        return Err(CapabilityError::OtherNode {
            service: instance.service.clone(),
            claimed: instance.node.clone(),
            peer: session.peer.clone(),
        });
    }
    let proof = Proof::new(
        session.channel,
        &presented.capability_chain,
        session.exporter,
    );
    // A session without an exporter value would make proofs good for any other such session.
    if session.exporter.len() != EXPORTER_BYTES
        || !instance.has_signed(&proof.message(), presented.signature.as_bytes())
    {
        return Err(CapabilityError::NotProven {
            service: instance.service.clone(),
        });
    }
    let capability = verify_capability(bundle, &presented.capability_chain, now)?;
    let mut grant = grant(&capability, &instance.service, opening)?;
    grant.node = Some(instance.node.clone());
    grant.holder_epoch = Some(instance.epoch);
    Ok(grant)
}

/// Decides about a request from a domain of this node, which the security service knows by name.
///
/// # Errors
///
/// [`CapabilityError`]: the first thing that is missing.
pub fn admit_local(
    bundle: &TrustBundle,
    capability_chain: &Chain,
    holder: &ServiceName,
    opening: &Opening<'_>,
    now: SystemTime,
) -> Result<ChannelGrant, CapabilityError> {
    let capability = verify_capability(bundle, capability_chain, now)?;
    grant(&capability, holder, opening)
}

/// The part that local and remote opens share.
fn grant(
    capability: &Verified<Capability>,
    presenter: &ServiceName,
    opening: &Opening<'_>,
) -> Result<ChannelGrant, CapabilityError> {
    let not_after = capability.not_after();
    let capability = capability.get();
    if capability.holder != *presenter {
        return Err(CapabilityError::OtherHolder {
            id: capability.id,
            holder: capability.holder.clone(),
            presenter: presenter.clone(),
        });
    }
    check_covers(capability, opening)?;
    Ok(ChannelGrant {
        capability: capability.id,
        holder: capability.holder.clone(),
        node: None,
        holder_epoch: None,
        target: opening.target.clone(),
        messages: capability.messages.clone(),
        lane_ceiling: capability.lane_ceiling,
        not_after,
    })
}

fn check_covers(capability: &Capability, opening: &Opening<'_>) -> Result<(), CapabilityError> {
    capability
        .check_opens(
            opening.target,
            opening.contract,
            opening.version,
            opening.epoch,
        )
        .map_err(|denied| CapabilityError::DoesNotCover {
            id: capability.id,
            holder: capability.holder.clone(),
            target: opening.target.clone(),
            contract: opening.contract.clone(),
            denied: Box::new(denied),
        })
}
