//! The capabilities that the domains of one node hold.
//!
//! A domain never sees its chains. The node's security service keeps them, finds the one that an
//! open needs and says what is missing if there is none.

use std::time::SystemTime;

use weft_types::ServiceName;

use crate::Timestamp;
use crate::admit::Opening;
use crate::bundle::TrustBundle;
use crate::capability::Capability;
use crate::chain::Chain;
use crate::error::{CapabilityError, Document, holder_and_target};
use crate::verify::verify_capability;

/// How many capabilities a wallet takes. At the bound those that have run out make room, and if
/// none has, the new one is refused.
pub const MAX_CAPABILITIES: usize = 4096;

/// Why a capability was not put into the wallet.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum WalletError {
    /// It does not verify.
    #[error(transparent)]
    Refused(#[from] CapabilityError),
    /// There is no room.
    #[error("{MAX_CAPABILITIES} capabilities are held already, and all are valid")]
    Full,
}

/// One capability and the chain that proves it.
#[derive(Clone, Debug)]
pub struct Held {
    /// The rights.
    pub capability: Capability,
    /// Their proof.
    pub chain: Chain,
    not_after: Timestamp,
}

/// Capabilities, each verified when it came in. Whoever uses one verifies it again: time passes.
#[derive(Clone, Debug, Default)]
pub struct Wallet {
    held: Vec<Held>,
}

impl Wallet {
    /// A wallet with nothing in it.
    #[must_use]
    pub const fn new() -> Self {
        Self { held: Vec::new() }
    }

    /// Verifies a capability and keeps it; one of the same id takes the other's place.
    ///
    /// # Errors
    ///
    /// [`WalletError`].
    pub fn insert(
        &mut self,
        bundle: &TrustBundle,
        chain: Chain,
        now: SystemTime,
    ) -> Result<&Capability, WalletError> {
        let verified = verify_capability(bundle, &chain, now)?;
        let not_after = verified.not_after();
        let capability = verified.into_inner();
        self.held.retain(|held| held.capability.id != capability.id);
        if self.held.len() >= MAX_CAPABILITIES {
            self.held.retain(|held| held.not_after >= now.into());
        }
        if self.held.len() >= MAX_CAPABILITIES {
            return Err(WalletError::Full);
        }
        let index = self.held.len();
        self.held.push(Held {
            capability,
            chain,
            not_after,
        });
        Ok(&self.held[index].capability)
    }

    /// The capability with which `holder` can open this; of several, the one that lasts longest.
    ///
    /// # Errors
    ///
    /// [`CapabilityError::NoGrant`] if none covers it, [`CapabilityError::Expired`] if one did.
    pub fn find(
        &self,
        holder: &ServiceName,
        opening: &Opening<'_>,
        now: SystemTime,
    ) -> Result<&Held, CapabilityError> {
        let covers = |held: &&Held| {
            held.capability.holder == *holder
                && held
                    .capability
                    .check_opens(
                        opening.target,
                        opening.contract,
                        opening.version,
                        opening.epoch,
                    )
                    .is_ok()
        };
        let best = self
            .held
            .iter()
            .filter(covers)
            .max_by_key(|held| held.not_after);
        match best {
            None => Err(CapabilityError::NoGrant {
                holder: holder.clone(),
                target: opening.target.clone(),
                contract: opening.contract.clone(),
                version: opening.version,
            }),
            Some(held) if held.not_after < now.into() => Err(CapabilityError::Expired {
                document: Document::Capability,
                subject: holder_and_target(holder, &held.capability.target),
                at: held.not_after,
            }),
            Some(held) => Ok(held),
        }
    }

    /// What one holder has, expired ones included.
    pub fn of<'a>(&'a self, holder: &'a ServiceName) -> impl Iterator<Item = &'a Held> {
        self.held
            .iter()
            .filter(move |held| held.capability.holder == *holder)
    }

    /// Everything in it, expired ones included.
    #[must_use]
    pub fn all(&self) -> &[Held] {
        &self.held
    }
}
