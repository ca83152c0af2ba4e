//! Chains: certificates on their way, believed by nobody yet.

use ring::digest;
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

/// How many certificates a chain may have: the leaf, three delegations and the CA. A longer one
/// is refused before anything in it is read.
pub const MAX_CHAIN_CERTIFICATES: usize = 5;
/// The longest certificate, in bytes. Ours have about 600.
pub const MAX_CERTIFICATE_BYTES: usize = 2048;
/// The longest text that is searched for a chain, in bytes.
pub const MAX_PEM_BYTES: usize = 32 * 1024;

const CERTIFICATE_LABEL: &str = "CERTIFICATE";

/// Why bytes are not a chain.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ChainError {
    /// There is no certificate in it.
    #[error("there is no certificate in it")]
    Empty,
    /// There are more than [`MAX_CHAIN_CERTIFICATES`].
    #[error("there are more than {MAX_CHAIN_CERTIFICATES} certificates in it")]
    TooMany,
    /// A certificate has more than [`MAX_CERTIFICATE_BYTES`], or the text than [`MAX_PEM_BYTES`].
    #[error("it is longer than any chain of ours")]
    TooLong,
    /// It is not PEM, or not of certificates.
    #[error("it is not a sequence of PEM certificates")]
    NotPem,
}

/// Certificates from a leaf to the one that a root has signed, the leaf first, without the root.
///
/// Bounded, and otherwise unchecked: what it says counts after [`crate::verify_capability`] or
/// [`crate::verify_instance`] only.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Vec<u8>>", into = "Vec<Vec<u8>>")]
pub struct Chain(Vec<CertificateDer<'static>>);

impl Chain {
    /// Takes certificates that may form a chain.
    ///
    /// # Errors
    ///
    /// [`ChainError`] if there are none, too many, or one is too long.
    pub fn new(certificates: Vec<CertificateDer<'static>>) -> Result<Self, ChainError> {
        if certificates.is_empty() {
            return Err(ChainError::Empty);
        }
        if certificates.len() > MAX_CHAIN_CERTIFICATES {
            return Err(ChainError::TooMany);
        }
        if certificates
            .iter()
            .any(|certificate| certificate.len() > MAX_CERTIFICATE_BYTES)
        {
            return Err(ChainError::TooLong);
        }
        Ok(Self(certificates))
    }

    /// Reads the PEM certificates in a text; what stands between them is ignored, as `openssl` does.
    ///
    /// # Errors
    ///
    /// [`ChainError`].
    pub fn from_pem(text: &str) -> Result<Self, ChainError> {
        if text.len() > MAX_PEM_BYTES {
            return Err(ChainError::TooLong);
        }
        let blocks = pem::parse_many(text).map_err(|_| ChainError::NotPem)?;
        if blocks.iter().any(|block| block.tag() != CERTIFICATE_LABEL) {
            return Err(ChainError::NotPem);
        }
        Self::new(
            blocks
                .into_iter()
                .map(|block| block.into_contents().into())
                .collect(),
        )
    }

    /// The certificates as PEM, the leaf first.
    #[must_use]
    pub fn to_pem(&self) -> String {
        self.0.iter().map(certificate_to_pem).collect()
    }

    /// The certificates, the leaf first.
    #[must_use]
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.0
    }

    /// The leaf.
    #[must_use]
    pub fn leaf(&self) -> &CertificateDer<'static> {
        &self.0[0]
    }

    /// SHA-256 over all certificates, each after its length: what a proof of possession signs.
    #[must_use]
    pub fn hash(&self) -> ChainHash {
        let mut context = digest::Context::new(&digest::SHA256);
        for certificate in &self.0 {
            // Bounded by MAX_CERTIFICATE_BYTES, so the length always fits.
            let length = u32::try_from(certificate.len()).unwrap_or(u32::MAX);
            context.update(&length.to_be_bytes());
            context.update(certificate);
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(context.finish().as_ref());
        ChainHash(hash)
    }
}

/// A certificate as PEM.
pub(crate) fn certificate_to_pem(certificate: &CertificateDer<'_>) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    let block = pem::Pem::new(CERTIFICATE_LABEL, certificate.as_ref());
    pem::encode_config(&block, config)
}

impl TryFrom<Vec<Vec<u8>>> for Chain {
    type Error = ChainError;

    fn try_from(certificates: Vec<Vec<u8>>) -> Result<Self, ChainError> {
        Self::new(certificates.into_iter().map(Into::into).collect())
    }
}

impl From<Chain> for Vec<Vec<u8>> {
    fn from(chain: Chain) -> Self {
        chain
            .0
            .into_iter()
            .map(|certificate| certificate.to_vec())
            .collect()
    }
}

/// Names a chain by its content.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct ChainHash([u8; 32]);

impl ChainHash {
    /// The bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_chain_has_bounds_whichever_way_it_comes() {
        let certificate = vec![1; MAX_CERTIFICATE_BYTES];
        let good = vec![certificate.clone(); MAX_CHAIN_CERTIFICATES];
        assert!(Chain::try_from(good).is_ok());
        let long = vec![vec![1; MAX_CERTIFICATE_BYTES + 1]];
        assert_eq!(Chain::try_from(long), Err(ChainError::TooLong));
        let many = vec![certificate; MAX_CHAIN_CERTIFICATES + 1];
        assert_eq!(Chain::try_from(many.clone()), Err(ChainError::TooMany));
        assert_eq!(Chain::try_from(vec![]), Err(ChainError::Empty));
        let wire = postcard::to_stdvec(&many).unwrap();
        assert!(postcard::from_bytes::<Chain>(&wire).is_err());
    }

    #[test]
    fn a_chain_comes_back_from_text_and_other_text_is_refused() {
        let chain = Chain::try_from(vec![vec![1, 2, 3], vec![4]]).unwrap();
        let text = format!("# a grant\n{}", chain.to_pem());
        assert_eq!(Chain::from_pem(&text), Ok(chain));
        assert_eq!(Chain::from_pem("nothing"), Err(ChainError::Empty));
        let key = text.replace("CERTIFICATE", "PRIVATE KEY");
        assert_eq!(Chain::from_pem(&key), Err(ChainError::NotPem));
    }

    #[test]
    fn certificates_cut_elsewhere_hash_to_something_else() {
        let hash = |parts: Vec<Vec<u8>>| Chain::try_from(parts).unwrap().hash();
        assert_ne!(
            hash(vec![vec![1, 2], vec![3]]),
            hash(vec![vec![1], vec![2, 3]])
        );
    }

    proptest! {
        #[test]
        fn no_text_and_no_bytes_make_it_panic(text in ".{0,200}", bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Chain::from_pem(&text);
            let framed = format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----");
            let _ = Chain::from_pem(&framed);
            let _ = postcard::from_bytes::<Chain>(&bytes);
        }
    }
}
