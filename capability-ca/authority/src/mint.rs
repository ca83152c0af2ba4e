//! The one place where certificates are made.
//!
//! rcgen's defaults are traps: a validity from 1975 to 4096, and a serial number derived from the
//! key, so that two certificates of one key share it and a revocation hits the wrong one. Nothing
//! else in this crate fills in rcgen's parameters: here, both are always explicit.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use weft_capability::Timestamp;
use weft_capability::oid::{CAPABILITY_USAGE, INSTANCE_USAGE, ObjectId};
use weft_types::ClusterName;

use crate::error::AuthorityError;

/// By how much the clocks of two nodes may differ: certificates are valid from so long before they
/// are issued.
pub const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// From when to when a certificate is valid, both included. There is no default.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Validity {
    from: Timestamp,
    to: Timestamp,
}

impl Validity {
    /// Valid in these seconds.
    ///
    /// # Errors
    ///
    /// [`AuthorityError::Validity`] if they are in the wrong order or beyond the year 9999.
    pub fn between(from: SystemTime, to: SystemTime) -> Result<Self, AuthorityError> {
        let validity = Self {
            from: from.into(),
            to: to.into(),
        };
        if validity.from < validity.to && calendar(validity.to).is_some() {
            Ok(validity)
        } else {
            Err(AuthorityError::Validity {
                from: validity.from,
                to: validity.to,
            })
        }
    }

    /// Valid from now (less [`CLOCK_SKEW`]) for `life`.
    ///
    /// # Errors
    ///
    /// [`AuthorityError::Validity`] if that ends beyond the year 9999.
    pub fn starting(now: SystemTime, life: Duration) -> Result<Self, AuthorityError> {
        let from = now.checked_sub(CLOCK_SKEW).unwrap_or(now);
        let to = now.checked_add(life).unwrap_or(from);
        Self::between(from, to)
    }

    /// The last second.
    #[must_use]
    pub const fn not_after(&self) -> Timestamp {
        self.to
    }

    /// The same, cut off at the end of an issuer.
    pub(crate) fn within(self, issuer: Timestamp) -> Self {
        Self {
            from: self.from,
            to: self.to.min(issuer),
        }
    }
}

fn calendar(moment: Timestamp) -> Option<OffsetDateTime> {
    let seconds = i64::try_from(moment.unix_seconds()).ok()?;
    OffsetDateTime::from_unix_timestamp(seconds).ok()
}

/// What a certificate is for. Every certificate but a root lists exactly one of these.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Purpose {
    /// To be a node, as server and as client.
    Node,
    /// To be a capability.
    Capability,
    /// To be an instance.
    Instance,
}

impl Purpose {
    fn usages(self) -> Vec<ExtendedKeyUsagePurpose> {
        let own = |id: ObjectId| vec![ExtendedKeyUsagePurpose::Other(id.arcs.to_vec())];
        match self {
            Self::Node => vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
            Self::Capability => own(CAPABILITY_USAGE),
            Self::Instance => own(INSTANCE_USAGE),
        }
    }
}

/// A certificate before it is signed.
pub(crate) struct Blueprint<'a> {
    pub(crate) cluster: &'a ClusterName,
    /// For people; no program reads it.
    pub(crate) common_name: String,
    pub(crate) uri: String,
    pub(crate) dns_name: Option<String>,
    /// None for roots only.
    pub(crate) purpose: Option<Purpose>,
    /// How many CAs may follow below, if this is one; ignored by verifiers if this is a root.
    pub(crate) ca_with_path_length: Option<u8>,
    pub(crate) extension: Option<(ObjectId, Vec<u8>)>,
    pub(crate) validity: Validity,
}

impl Blueprint<'_> {
    fn parameters(&self) -> Result<CertificateParams, AuthorityError> {
        let mut parameters = CertificateParams::default();
        let date = |moment| {
            calendar(moment).ok_or(AuthorityError::Validity {
                from: self.validity.from,
                to: self.validity.to,
            })
        };
        parameters.not_before = date(self.validity.from)?;
        parameters.not_after = date(self.validity.to)?;
        parameters.serial_number = Some(SerialNumber::from_slice(&random()));
        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, format!("weft {}", self.cluster));
        name.push(DnType::CommonName, self.common_name.clone());
        parameters.distinguished_name = name;
        parameters.subject_alt_names = vec![SanType::URI(self.uri.as_str().try_into()?)];
        if let Some(dns_name) = &self.dns_name {
            let dns_name = SanType::DnsName(dns_name.as_str().try_into()?);
            parameters.subject_alt_names.push(dns_name);
        }
        parameters.extended_key_usages = self.purpose.map(Purpose::usages).unwrap_or_default();
        (parameters.is_ca, parameters.key_usages) = match self.ca_with_path_length {
            Some(length) => (
                IsCa::Ca(BasicConstraints::Constrained(length)),
                vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign],
            ),
            None => (IsCa::ExplicitNoCa, vec![KeyUsagePurpose::DigitalSignature]),
        };
        if let Some((id, content)) = &self.extension {
            // Not critical: the libraries refuse what they do not know if it is. Verifiers of ours
            // refuse the certificate if it is missing, which comes to the same.
            let extension = CustomExtension::from_oid_content(id.arcs, content.clone());
            parameters.custom_extensions = vec![extension];
        }
        Ok(parameters)
    }
}

/// 128 random bits, for a serial number or an id.
///
/// # Panics
///
/// If the system has no random numbers: nothing is safe then.
pub(crate) fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the system gives random numbers");
    bytes
}

/// A CA: its certificate, what leads from it to the root, and its key.
pub(crate) struct Signer {
    /// The CA's certificate first, the root not included (but for a root itself).
    pub(crate) certificates: Vec<CertificateDer<'static>>,
    pub(crate) not_after: Timestamp,
    /// How errors call it.
    name: &'static str,
    issuer: Issuer<'static, KeyPair>,
}

impl Signer {
    /// A CA out of what its files hold.
    pub(crate) fn load(
        name: &'static str,
        certificates: Vec<CertificateDer<'static>>,
        key: KeyPair,
    ) -> Result<Self, rcgen::Error> {
        let certificate = certificates
            .first()
            .ok_or(rcgen::Error::CouldNotParseCertificate)?;
        let (_, not_after) = weft_capability::validity_of(certificate)
            .map_err(|_| rcgen::Error::CouldNotParseCertificate)?;
        Ok(Self {
            issuer: Issuer::from_ca_cert_der(certificate, key)?,
            certificates,
            not_after,
            name,
        })
    }

    /// A new root.
    pub(crate) fn root(
        name: &'static str,
        blueprint: &Blueprint<'_>,
    ) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate()?;
        let certificate = blueprint.parameters()?.self_signed(&key)?;
        Ok(Self::load(name, vec![certificate.into()], key)?)
    }

    /// A new CA below this root.
    pub(crate) fn intermediate(
        &self,
        name: &'static str,
        blueprint: &Blueprint<'_>,
    ) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate()?;
        let certificate = self.sign(blueprint, &key)?;
        Ok(Self::load(name, vec![certificate], key)?)
    }

    /// Signs one certificate.
    pub(crate) fn sign(
        &self,
        blueprint: &Blueprint<'_>,
        key: &KeyPair,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        if blueprint.validity.to > self.not_after {
            return Err(AuthorityError::OutlivesIssuer {
                asked: blueprint.validity.to,
                issuer: self.name.to_owned(),
                ends: self.not_after,
            });
        }
        let mut parameters = blueprint.parameters()?;
        parameters.use_authority_key_identifier_extension = true;
        Ok(parameters.signed_by(key, &self.issuer)?.into())
    }

    /// Signs a leaf and gives it with all that leads to the root.
    pub(crate) fn chain(
        &self,
        blueprint: &Blueprint<'_>,
        key: &KeyPair,
    ) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
        let leaf = self.sign(blueprint, key)?;
        Ok([leaf]
            .into_iter()
            .chain(self.certificates.iter().cloned())
            .collect())
    }

    /// The private key, as PKCS #8 PEM.
    pub(crate) fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_certificates_of_one_key_have_two_serial_numbers() {
        use x509_parser::prelude::{FromDer, X509Certificate};

        let cluster = ClusterName::new("demo").unwrap();
        let blueprint = Blueprint {
            cluster: &cluster,
            common_name: "root".to_owned(),
            uri: "spiffe://demo".to_owned(),
            dns_name: None,
            purpose: None,
            ca_with_path_length: Some(0),
            extension: None,
            validity: Validity::starting(SystemTime::now(), Duration::from_secs(60)).unwrap(),
        };
        let root = Signer::root("the root", &blueprint).unwrap();
        let key = KeyPair::generate().unwrap();
        let serial = || {
            let certificate = root.sign(&blueprint, &key).unwrap();
            let (_, parsed) = X509Certificate::from_der(&certificate).unwrap();
            parsed.raw_serial().to_vec()
        };
        assert_ne!(serial(), serial());
    }

    #[test]
    fn a_validity_has_two_ends_in_their_order_and_in_the_calendar() {
        let now = SystemTime::now();
        let day = Duration::from_secs(86_400);
        assert!(Validity::between(now, now + day).is_ok());
        assert!(Validity::between(now + day, now).is_err());
        assert!(Validity::between(now, now).is_err());
        assert!(Validity::starting(now, day * 365 * 9000).is_err());
        assert!(Validity::starting(now, Duration::MAX).is_err());
        let validity = Validity::starting(now, day).unwrap();
        assert_eq!(validity.from, Timestamp::from(now - CLOCK_SKEW));
    }
}
