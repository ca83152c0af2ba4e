//! Proof of possession: a chain alone opens nothing.
//!
//! A chain travels in the open and could be copied. So who presents one also signs, with the key
//! of its instance, over the channel, the chain and a value that only the two ends of this very
//! TLS session can compute (its exporter). A copied chain, and even a copied proof, is useless on
//! any other connection or channel.

use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use weft_types::ChannelId;

use crate::Timestamp;
use crate::chain::{Chain, ChainHash};

/// The label under which the exporter of the TLS session is drawn. Its context is
/// [`exporter_context`].
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-weft-channel-open-1";
/// How many bytes are drawn from the exporter.
pub const EXPORTER_BYTES: usize = 32;
/// The longest signature, in bytes: ECDSA P-256 in DER has 72 at most.
pub const MAX_SIGNATURE_BYTES: usize = 80;

/// What the signature says it is for, so that it can never be taken for another kind of signature
/// by the same key.
const PROOF_LABEL: &[u8] = b"weft channel open 1";

/// The context with which the exporter is drawn for one channel.
#[must_use]
pub const fn exporter_context(channel: ChannelId) -> [u8; 16] {
    channel.get().to_be_bytes()
}

/// What an instance key signs. There is no way to have it sign anything else.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Proof {
    channel: ChannelId,
    chain: ChainHash,
    exporter: Vec<u8>,
}

impl Proof {
    /// A proof for this channel and capability chain on the TLS session with this exporter value.
    #[must_use]
    pub fn new(channel: ChannelId, capability_chain: &Chain, exporter: &[u8]) -> Self {
        Self {
            channel,
            chain: capability_chain.hash(),
            exporter: exporter.to_vec(),
        }
    }

    /// The bytes that are signed. Every part but the last has a fixed length, so two different
    /// proofs are never the same bytes.
    #[must_use]
    pub fn message(&self) -> Vec<u8> {
        let mut message = PROOF_LABEL.to_vec();
        message.extend(self.channel.get().to_be_bytes());
        message.extend(self.chain.bytes());
        message.extend(&self.exporter);
        message
    }
}

/// The system gave no random numbers, which an ECDSA signature needs.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the key of the instance could not sign")]
pub struct SigningFailed;

/// The key of one instance, wherever it is kept. It never leaves there.
pub trait InstanceKey: Send + Sync {
    /// The instance's certificate and what it leads to the root over, the leaf first.
    fn chain(&self) -> &Chain;

    /// Signs one proof: ECDSA P-256 with SHA-256, DER.
    ///
    /// # Errors
    ///
    /// [`SigningFailed`] if the machine has no random numbers.
    fn sign(&self, proof: &Proof) -> Result<Vec<u8>, SigningFailed>;

    /// When half of the certificate's life has passed and a new key should be asked for.
    fn renew_at(&self) -> Timestamp;

    /// The last second of the certificate's validity.
    fn not_after(&self) -> Timestamp;
}

/// What the open of a remote channel carries.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Presented {
    /// The capability.
    pub capability_chain: Chain,
    /// Who presents it.
    pub identity_chain: Chain,
    /// That it is the one who presents it, here and now.
    pub signature: Signature,
}

impl Presented {
    /// Presents `capability_chain` with the key of the instance that holds it.
    ///
    /// # Errors
    ///
    /// [`SigningFailed`] if the machine has no random numbers.
    pub fn new(
        capability_chain: Chain,
        key: &dyn InstanceKey,
        channel: ChannelId,
        exporter: &[u8],
    ) -> Result<Self, SigningFailed> {
        let proof = Proof::new(channel, &capability_chain, exporter);
        let signature = Signature::try_from(key.sign(&proof)?).map_err(|_| SigningFailed)?;
        Ok(Self {
            capability_chain,
            identity_chain: key.chain().clone(),
            signature,
        })
    }

    /// Puts together what came as parts: certificates as DER, the leaf first, and a signature.
    ///
    /// # Errors
    ///
    /// A sentence, if a part is empty or longer than any of ours.
    pub fn from_parts(
        capability_chain: Vec<Vec<u8>>,
        identity_chain: Vec<Vec<u8>>,
        signature: Vec<u8>,
    ) -> Result<Self, String> {
        Ok(Self {
            capability_chain: parse_chain("capability", capability_chain)?,
            identity_chain: parse_chain("identity", identity_chain)?,
            signature: Signature::try_from(signature)?,
        })
    }
}

fn parse_chain(kind: &str, certificates: Vec<Vec<u8>>) -> Result<Chain, String> {
    let certificates: Vec<CertificateDer<'static>> =
        certificates.into_iter().map(Into::into).collect();
    Chain::new(certificates).map_err(|error| format!("the {kind} chain is unusable: {error}"))
}

/// A signature of bounded length, believed by nobody yet.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct Signature(Vec<u8>);

impl Signature {
    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<Vec<u8>> for Signature {
    type Error = String;

    fn try_from(bytes: Vec<u8>) -> Result<Self, String> {
        if bytes.len() > MAX_SIGNATURE_BYTES {
            return Err(format!(
                "a signature has {MAX_SIGNATURE_BYTES} bytes at most"
            ));
        }
        Ok(Self(bytes))
    }
}

impl From<Signature> for Vec<u8> {
    fn from(signature: Signature) -> Self {
        signature.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_proof_changes_what_is_signed() {
        let chain = |byte| Chain::try_from(vec![vec![byte]]).unwrap();
        let channel = ChannelId::new;
        let message =
            |id, byte, exporter: &[u8]| Proof::new(channel(id), &chain(byte), exporter).message();
        let one = message(1, 1, &[1; 32]);
        assert_ne!(one, message(2, 1, &[1; 32]));
        assert_ne!(one, message(1, 2, &[1; 32]));
        assert_ne!(one, message(1, 1, &[2; 32]));
        assert_eq!(one, message(1, 1, &[1; 32]));
    }
}
