//! What our rules want to know about one certificate.
//!
//! webpki builds and checks the path, and shows neither dates nor extensions. This reads them, out
//! of the same bytes. Before the path is checked it serves for error texts only.

use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::Timestamp;
use crate::extension::ExtensionError;
use crate::oid::{CAPABILITY_EXTENSION, INSTANCE_EXTENSION, ObjectId};

/// One certificate, parsed. Nothing in it is verified by that.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
    pub(crate) is_ca: bool,
    /// Distinguished names, as DER.
    pub(crate) subject: Vec<u8>,
    pub(crate) issuer: Vec<u8>,
    /// The bits of the public key, without its algorithm.
    pub(crate) public_key: Vec<u8>,
    pub(crate) uris: Vec<String>,
    pub(crate) dns_names: Vec<String>,
    capability: Vec<(bool, Vec<u8>)>,
    instance: Vec<(bool, Vec<u8>)>,
}

impl Facts {
    /// Parses one certificate; the error is a short reason.
    pub(crate) fn parse(der: &CertificateDer<'_>) -> Result<Self, &'static str> {
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|_| "it is not an X.509 certificate")?;
        if !rest.is_empty() {
            return Err("bytes follow the certificate");
        }
        let names = certificate
            .subject_alternative_name()
            .map_err(|_| "its names do not parse")?;
        let mut uris = Vec::new();
        let mut dns_names = Vec::new();
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            match name {
                GeneralName::URI(uri) => uris.push((*uri).to_owned()),
                GeneralName::DNSName(name) => dns_names.push((*name).to_owned()),
                _ => return Err("it has a name that is neither URI nor DNS name"),
            }
        }
        let extensions = |id: ObjectId| {
            certificate
                .extensions()
                .iter()
                .filter(|extension| extension.oid.as_bytes() == id.der)
                .map(|extension| (extension.critical, extension.value.to_vec()))
                .collect::<Vec<_>>()
        };
        Ok(Self {
            not_before: Timestamp::from_asn1(certificate.validity().not_before.timestamp()),
            not_after: Timestamp::from_asn1(certificate.validity().not_after.timestamp()),
            is_ca: certificate.is_ca(),
            subject: certificate.subject().as_raw().to_vec(),
            issuer: certificate.issuer().as_raw().to_vec(),
            public_key: certificate.public_key().subject_public_key.data.to_vec(),
            uris,
            dns_names,
            capability: extensions(CAPABILITY_EXTENSION),
            instance: extensions(INSTANCE_EXTENSION),
        })
    }

    /// The certificate's only URI. Two would leave open which of them it means.
    pub(crate) fn only_uri(&self) -> Option<&str> {
        match self.uris.as_slice() {
            [uri] => Some(uri),
            _ => None,
        }
    }

    /// The content of the capability extension, which must be there once and not critical.
    pub(crate) fn capability_extension(&self) -> Result<&[u8], ExtensionError> {
        only(&self.capability)
    }

    /// The content of the instance extension, which must be there once and not critical.
    pub(crate) fn instance_extension(&self) -> Result<&[u8], ExtensionError> {
        only(&self.instance)
    }

    /// Whether it carries an extension of ours at all.
    pub(crate) fn has_extension(&self) -> bool {
        !self.capability.is_empty() || !self.instance.is_empty()
    }

    pub(crate) fn is_valid_at(&self, now: Timestamp) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }
}

fn only(found: &[(bool, Vec<u8>)]) -> Result<&[u8], ExtensionError> {
    match found {
        [] => Err(ExtensionError::Missing),
        [(true, _)] => Err(ExtensionError::Critical),
        [(false, content)] => Ok(content),
        _ => Err(ExtensionError::Twice),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Facts::parse(&CertificateDer::from(bytes));
        }
    }
}
