//! A cluster out of nothing, whose authorities sign whatever a test asks them to.
//!
//! The real authority refuses to make most of these certificates, so the verifier is tried against
//! a CA that does not. Time stands still at [`now`].

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType, SerialNumber, SigningKey,
};
use rustls_pki_types::CertificateDer;
use weft_capability::oid::{
    CAPABILITY_EXTENSION, CAPABILITY_USAGE, INSTANCE_EXTENSION, INSTANCE_USAGE, ObjectId,
};
use weft_capability::{
    Capability, CapabilityId, Chain, InstanceClaim, InstanceKey, MessageSet, Opening, Presented,
    Proof, Session, SigningFailed, Target, Timestamp, TrustBundle, names,
};
use weft_types::{ChannelId, ClusterName, ContractName, Epoch, Lane, NodeName, ServiceName};

pub(crate) const HOUR: i64 = 3600;
const NOW: u64 = 1_800_000_000;

pub(crate) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

pub(crate) fn at(offset: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW.checked_add_signed(offset).unwrap())
}

pub(crate) fn service(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

pub(crate) fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

pub(crate) fn contract(name: &str) -> ContractName {
    ContractName::new(name).unwrap()
}

pub(crate) fn usage(id: ObjectId) -> Vec<ExtendedKeyUsagePurpose> {
    vec![ExtendedKeyUsagePurpose::Other(id.arcs.to_vec())]
}

pub(crate) fn node_usage() -> Vec<ExtendedKeyUsagePurpose> {
    vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ]
}

/// What a certificate says. Nothing of it is checked here.
#[derive(Clone)]
pub(crate) struct Spec {
    pub(crate) common_name: String,
    pub(crate) uris: Vec<String>,
    pub(crate) dns_names: Vec<String>,
    pub(crate) usages: Vec<ExtendedKeyUsagePurpose>,
    /// None: an end entity. Some(None): a CA without path length.
    pub(crate) ca: Option<Option<u8>>,
    pub(crate) extensions: Vec<CustomExtension>,
    /// Validity, in seconds from [`now`].
    pub(crate) from: i64,
    pub(crate) to: i64,
}

impl Spec {
    pub(crate) fn new(common_name: &str, uri: String) -> Self {
        Self {
            common_name: common_name.to_owned(),
            uris: vec![uri],
            dns_names: vec![],
            usages: vec![],
            ca: None,
            extensions: vec![],
            from: -HOUR,
            to: HOUR,
        }
    }

    fn parameters(&self) -> CertificateParams {
        let mut parameters = CertificateParams::default();
        let date = |offset| {
            let seconds = i64::try_from(NOW).unwrap() + offset;
            time::OffsetDateTime::from_unix_timestamp(seconds).unwrap()
        };
        parameters.not_before = date(self.from);
        parameters.not_after = date(self.to);
        parameters.serial_number = Some(SerialNumber::from_slice(&random()));
        parameters.distinguished_name = DistinguishedName::new();
        parameters
            .distinguished_name
            .push(DnType::CommonName, self.common_name.clone());
        let uris = self
            .uris
            .iter()
            .map(|uri| SanType::URI(uri.as_str().try_into().unwrap()));
        let dns_names = self
            .dns_names
            .iter()
            .map(|name| SanType::DnsName(name.as_str().try_into().unwrap()));
        parameters.subject_alt_names = uris.chain(dns_names).collect();
        parameters.extended_key_usages = self.usages.clone();
        parameters.is_ca = match self.ca {
            None => IsCa::ExplicitNoCa,
            Some(None) => IsCa::Ca(BasicConstraints::Unconstrained),
            Some(Some(length)) => IsCa::Ca(BasicConstraints::Constrained(length)),
        };
        parameters.custom_extensions = self.extensions.clone();
        parameters
    }
}

/// Whoever signs, entitled to it or not.
pub(crate) struct Signer {
    pub(crate) certificate: CertificateDer<'static>,
    /// From this signer's certificate upwards, without the root.
    pub(crate) path: Vec<CertificateDer<'static>>,
    issuer: Issuer<'static, KeyPair>,
}

impl Signer {
    pub(crate) fn root(spec: &Spec) -> Self {
        let key = KeyPair::generate().unwrap();
        let parameters = spec.parameters();
        let certificate = parameters.self_signed(&key).unwrap().into();
        Self {
            certificate,
            path: vec![],
            issuer: Issuer::new(parameters, key),
        }
    }

    pub(crate) fn below(&self, spec: &Spec) -> Self {
        let key = KeyPair::generate().unwrap();
        let parameters = spec.parameters();
        let certificate: CertificateDer<'static> =
            parameters.signed_by(&key, &self.issuer).unwrap().into();
        let path = [certificate.clone()]
            .into_iter()
            .chain(self.path.iter().cloned())
            .collect();
        Self {
            certificate,
            path,
            issuer: Issuer::new(parameters, key),
        }
    }

    pub(crate) fn chain(&self) -> Chain {
        Chain::new(self.path.clone()).unwrap()
    }
}

/// The key of an instance, with whatever chain a test puts beside it.
pub(crate) struct TestKey {
    pub(crate) chain: Chain,
    pub(crate) signer: Signer,
}

impl InstanceKey for TestKey {
    fn chain(&self) -> &Chain {
        &self.chain
    }

    fn sign(&self, proof: &Proof) -> Result<Vec<u8>, SigningFailed> {
        let key = self.signer.issuer.key();
        key.sign(&proof.message()).map_err(|_| SigningFailed)
    }

    fn renew_at(&self) -> Timestamp {
        at(HOUR / 2).into()
    }

    fn not_after(&self) -> Timestamp {
        at(HOUR).into()
    }
}

pub(crate) struct World {
    pub(crate) cluster: ClusterName,
    pub(crate) node_root: Signer,
    pub(crate) capability_root: Signer,
    pub(crate) node_ca: Signer,
    pub(crate) capability_ca: Signer,
    pub(crate) issuer_ca: Signer,
    pub(crate) bundle: TrustBundle,
}

impl World {
    pub(crate) fn new(cluster: &str) -> Self {
        let cluster = ClusterName::new(cluster).unwrap();
        let authority = |name: &str, usages, length| Spec {
            ca: Some(Some(length)),
            usages,
            to: 100 * HOUR,
            ..Spec::new(name, names::cluster_uri(&cluster))
        };
        let node_root = Signer::root(&authority("node root", vec![], 2));
        let capability_root = Signer::root(&authority("capability root", vec![], 2));
        let bundle = TrustBundle::new(
            cluster.clone(),
            1,
            vec![node_root.certificate.clone()],
            vec![capability_root.certificate.clone()],
        )
        .unwrap();
        Self {
            node_ca: node_root.below(&authority("node CA", node_usage(), 0)),
            capability_ca: capability_root.below(&authority(
                "capability CA",
                usage(CAPABILITY_USAGE),
                0,
            )),
            issuer_ca: capability_root.below(&authority("issuer CA", usage(INSTANCE_USAGE), 1)),
            cluster,
            node_root,
            capability_root,
            bundle,
        }
    }

    pub(crate) fn node_spec(&self, name: &str) -> Spec {
        Spec {
            usages: node_usage(),
            dns_names: vec![names::node_dns_name(&self.cluster, &node(name))],
            ..Spec::new(name, names::node_uri(&self.cluster, &node(name)))
        }
    }

    pub(crate) fn capability_spec(&self, capability: &Capability) -> Spec {
        let content = capability.to_extension().unwrap();
        Spec {
            extensions: vec![extension(CAPABILITY_EXTENSION, content)],
            usages: usage(CAPABILITY_USAGE),
            ..Spec::new(
                "capability",
                names::service_uri(&self.cluster, &capability.holder),
            )
        }
    }

    pub(crate) fn capability_chain(&self, capability: &Capability) -> Chain {
        let spec = self.capability_spec(capability);
        self.capability_ca.below(&spec).chain()
    }

    pub(crate) fn issuer_spec(&self, name: &str) -> Spec {
        Spec {
            usages: usage(INSTANCE_USAGE),
            ca: Some(Some(0)),
            to: 2 * HOUR,
            ..Spec::new(
                &format!("issuer of {name}"),
                names::node_uri(&self.cluster, &node(name)),
            )
        }
    }

    pub(crate) fn instance_spec(&self, of: &str, on: &str) -> Spec {
        let claim = InstanceClaim {
            node: node(on),
            epoch: Epoch::FIRST,
        };
        let content = claim.to_extension().unwrap();
        Spec {
            extensions: vec![extension(INSTANCE_EXTENSION, content)],
            usages: usage(INSTANCE_USAGE),
            ..Spec::new(of, names::service_uri(&self.cluster, &service(of)))
        }
    }

    /// The key of `of` on `on`, as the real issuer of that node makes it.
    pub(crate) fn instance(&self, of: &str, on: &str) -> TestKey {
        let issuer = self.issuer_ca.below(&self.issuer_spec(on));
        let signer = issuer.below(&self.instance_spec(of, on));
        TestKey {
            chain: signer.chain(),
            signer,
        }
    }
}

pub(crate) fn extension(id: ObjectId, content: Vec<u8>) -> CustomExtension {
    CustomExtension::from_oid_content(id.arcs, content)
}

/// demo-client may speak kv v1 with kv.
pub(crate) fn capability() -> Capability {
    Capability {
        id: CapabilityId::new(random()),
        parent: None,
        holder: service("demo-client"),
        target: Target::Service(service("kv")),
        contract: contract("kv"),
        min_version: 1,
        max_version: 1,
        messages: MessageSet::All,
        lane_ceiling: Lane::HIGH,
        depth_left: 0,
        not_after: at(HOUR).into(),
        epoch_min: Epoch::NONE,
    }
}

pub(crate) const EXPORTER: [u8; 32] = [42; 32];

pub(crate) fn channel() -> ChannelId {
    ChannelId::new(77)
}

/// Opens kv with contract kv v1 from n1, unless told otherwise.
#[derive(Clone)]
pub(crate) struct Request {
    pub(crate) target: ServiceName,
    pub(crate) contract: ContractName,
    pub(crate) version: u16,
    pub(crate) epoch: Epoch,
    pub(crate) peer: NodeName,
    pub(crate) channel: ChannelId,
    pub(crate) exporter: Vec<u8>,
    pub(crate) now: SystemTime,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            target: service("kv"),
            contract: contract("kv"),
            version: 1,
            epoch: Epoch::FIRST,
            peer: node("n1"),
            channel: channel(),
            exporter: EXPORTER.to_vec(),
            now: now(),
        }
    }
}

impl Request {
    pub(crate) fn opening(&self) -> Opening<'_> {
        Opening {
            target: &self.target,
            contract: &self.contract,
            version: self.version,
            epoch: self.epoch,
        }
    }

    pub(crate) fn session(&self) -> Session<'_> {
        Session {
            peer: &self.peer,
            channel: self.channel,
            exporter: &self.exporter,
        }
    }
}

/// What an honest client presents on the channel and session of [`Request::default`].
pub(crate) fn present(chain: Chain, key: &TestKey) -> Presented {
    Presented::new(chain, key, channel(), &EXPORTER).unwrap()
}

pub(crate) fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}
