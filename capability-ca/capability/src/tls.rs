//! TLS between nodes: 1.3, mutual, every session a full handshake.
//!
//! No tickets, no resumption, no early data. A resumed session never calls the verifier and goes on
//! reporting the old chain, so a node whose certificate has run out could come back; and during
//! early data there is no exporter to bind proofs to.
//!
//! The verifiers are our own and thin: [`verify_node`] for both directions, so that purpose, root
//! life and names are checked as everywhere else, and rustls for the handshake's signature.
//! A connection outlives the certificates that it was made with: close it with a timer at
//! [`Verified::not_after`] of [`verify_node`] over the peer's chain.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, OtherError,
    PeerIncompatible, ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use weft_types::NodeName;

use crate::bundle::TrustBundle;
use crate::error::{CapabilityError, Distrust};
use crate::identity::NodeIdentity;
use crate::names;
#[cfg(doc)]
use crate::verify::Verified;
use crate::verify::verify_node;

/// The application protocol that both sides must name.
pub const ALPN: &[u8] = b"weft/1";

/// What is dialled to reach `node`: rustls compares it with the certificate.
///
/// # Panics
///
/// Never: a [`TrustBundle`] exists only if its cluster can end a DNS name, and a node's name is a
/// DNS label.
#[must_use]
pub fn server_name(bundle: &TrustBundle, node: &NodeName) -> ServerName<'static> {
    ServerName::try_from(names::node_dns_name(bundle.cluster(), node))
        .expect("a node of a cluster with a bundle has a DNS name")
}

/// How this node answers other nodes.
///
/// # Errors
///
/// [`rustls::Error`] if the node's key does not serve for TLS.
pub fn server_config(identity: &NodeIdentity) -> Result<ServerConfig, rustls::Error> {
    let verifier = Arc::new(NodeVerifier::new(identity.bundle().clone()));
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.certificates().to_vec(), identity.key())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(config)
}

/// How this node dials other nodes. The name to dial is [`server_name`].
///
/// # Errors
///
/// [`rustls::Error`] if the node's key does not serve for TLS.
pub fn client_config(identity: &NodeIdentity) -> Result<ClientConfig, rustls::Error> {
    let verifier = Arc::new(NodeVerifier::new(identity.bundle().clone()));
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(identity.certificates().to_vec(), identity.key())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok(config)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Takes the certificates of this cluster's nodes, as server and as client, and no others.
#[derive(Debug)]
struct NodeVerifier {
    bundle: TrustBundle,
}

impl NodeVerifier {
    const fn new(bundle: TrustBundle) -> Self {
        Self { bundle }
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<NodeName, rustls::Error> {
        // Refused by count before the copy, which only collects references to the peer's bytes.
        if intermediates.len() >= crate::chain::MAX_CHAIN_CERTIFICATES {
            return Err(CertificateError::UnknownIssuer.into());
        }
        let certificates: Vec<CertificateDer<'_>> =
            [leaf].into_iter().chain(intermediates).cloned().collect();
        let now: SystemTime = UNIX_EPOCH + Duration::from_secs(now.as_secs());
        verify_node(&self.bundle, &certificates, now)
            .map(|node| node.into_inner().name)
            .map_err(|error| alert(error).into())
    }
}

/// The alert that tells the peer what was wrong, with our own words beside it for the log.
fn alert(error: CapabilityError) -> CertificateError {
    match error {
        CapabilityError::Expired { .. } => CertificateError::Expired,
        CapabilityError::NotYetValid { .. } => CertificateError::NotValidYet,
        CapabilityError::Untrusted {
            why: Distrust::UnknownIssuer,
            ..
        } => CertificateError::UnknownIssuer,
        CapabilityError::Untrusted {
            why: Distrust::WrongUsage,
            ..
        } => CertificateError::InvalidPurpose,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    }
}

impl ServerCertVerifier for NodeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let name = self.verify(end_entity, intermediates, now)?;
        let answered = crate::tls::server_name(&self.bundle, &name);
        if answered != *server_name {
            return Err(CertificateError::NotValidForNameContext {
                expected: server_name.to_owned(),
                presented: vec![answered.to_str().into_owned()],
            }
            .into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

impl ClientCertVerifier for NodeVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // A node has one certificate, so it needs no hint to choose.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ServerCertVerifier::verify_tls12_signature(self, message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ServerCertVerifier::verify_tls13_signature(self, message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ServerCertVerifier::supported_verify_schemes(self)
    }
}
