//! The CA of a cluster: a directory.
//!
//! ```text
//! trust-bundle.pem                        the roots, for everybody
//! node-root.pem        node-root.key        offline: take these two keys away after the start
//! capability-root.pem  capability-root.key
//! node-ca.pem          node-ca.key          online: what issues, for 90 days
//! capability-ca.pem    capability-ca.key
//! issuer-ca.pem        issuer-ca.key
//! ```
//!
//! Opening it for issuing reads the online keys only. The bundle is written last: a directory
//! without it is an interrupted start, and is not taken for a CA.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::KeyPair;
use rustls_pki_types::CertificateDer;
use weft_capability::identity::{TRUST_BUNDLE_FILE, is_key_of};
use weft_capability::{Chain, TrustBundle, names};
use weft_types::ClusterName;

use crate::error::AuthorityError;
use crate::files::{self, Access};
use crate::mint::{Blueprint, Purpose, Signer, Validity, random};

/// How long a root lives. Verifiers take it from the trust bundle, where two can overlap.
pub const ROOT_LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);
/// How long a CA that issues lives.
pub const INTERMEDIATE_LIFE: Duration = Duration::from_secs(90 * 86_400);

/// The files of one CA, and how people call it.
#[derive(Clone, Copy)]
struct Slot {
    name: &'static str,
    certificate: &'static str,
    key: &'static str,
}

macro_rules! slot {
    ($file:literal, $name:literal) => {
        Slot {
            name: $name,
            certificate: concat!($file, ".pem"),
            key: concat!($file, ".key"),
        }
    };
}

const NODE_ROOT: Slot = slot!("node-root", "the node root");
const CAPABILITY_ROOT: Slot = slot!("capability-root", "the capability root");
const NODE_CA: Slot = slot!("node-ca", "the node CA");
const CAPABILITY_CA: Slot = slot!("capability-ca", "the capability CA");
const ISSUER_CA: Slot = slot!("issuer-ca", "the issuer CA");

/// What issues, for one cluster.
pub struct Authority {
    directory: PathBuf,
    pub(crate) bundle: TrustBundle,
    pub(crate) node_ca: Signer,
    pub(crate) capability_ca: Signer,
    pub(crate) issuer_ca: Signer,
}

impl Authority {
    /// Makes the roots and CAs of a new cluster in `directory`, which must be empty or not there.
    ///
    /// # Errors
    ///
    /// [`AuthorityError::NotEmpty`] rather than overwrite anything; else what the machine says.
    pub fn init(
        directory: &Path,
        cluster: &ClusterName,
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        files::create_empty_directory(directory)?;
        let validity = Validity::starting(now, ROOT_LIFE)?;
        let node_root = make_root(NODE_ROOT, cluster, validity)?;
        let capability_root = make_root(CAPABILITY_ROOT, cluster, validity)?;
        let bundle = TrustBundle::new(
            cluster.clone(),
            1,
            node_root.certificates.clone(),
            capability_root.certificates.clone(),
        )?;
        save(directory, NODE_ROOT, &node_root)?;
        save(directory, CAPABILITY_ROOT, &capability_root)?;
        let authority =
            Self::make_intermediates(directory, bundle, &node_root, &capability_root, now)?;
        let path = directory.join(TRUST_BUNDLE_FILE);
        files::write(&path, &authority.bundle.to_text(), Access::Public)?;
        Ok(authority)
    }

    /// Opens a CA to issue. The keys of the roots need not be there.
    ///
    /// # Errors
    ///
    /// [`AuthorityError::NoAuthority`], [`AuthorityError::Exposed`] or what is broken.
    pub fn open(directory: &Path) -> Result<Self, AuthorityError> {
        Ok(Self {
            bundle: read_bundle(directory)?,
            node_ca: read_signer(directory, NODE_CA)?,
            capability_ca: read_signer(directory, CAPABILITY_CA)?,
            issuer_ca: read_signer(directory, ISSUER_CA)?,
            directory: directory.to_owned(),
        })
    }

    /// Makes new CAs under the same roots, for another [`INTERMEDIATE_LIFE`]. What the old ones
    /// issued stays valid: it carries them along.
    ///
    /// # Errors
    ///
    /// [`AuthorityError::NoAuthority`] if the keys of the roots were taken away: bring them back.
    pub fn renew(directory: &Path, now: SystemTime) -> Result<Self, AuthorityError> {
        let bundle = read_bundle(directory)?;
        let node_root = read_signer(directory, NODE_ROOT)?;
        let capability_root = read_signer(directory, CAPABILITY_ROOT)?;
        Self::make_intermediates(directory, bundle, &node_root, &capability_root, now)
    }

    /// The cluster.
    #[must_use]
    pub const fn cluster(&self) -> &ClusterName {
        self.bundle.cluster()
    }

    /// The cluster's roots.
    #[must_use]
    pub const fn bundle(&self) -> &TrustBundle {
        &self.bundle
    }

    /// Where it lies.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn make_intermediates(
        directory: &Path,
        bundle: TrustBundle,
        node_root: &Signer,
        capability_root: &Signer,
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        let cluster = bundle.cluster();
        let make = |root: &Signer, slot: Slot, purpose, path_length| {
            let validity = Validity::starting(now, INTERMEDIATE_LIFE)?.within(root.not_after);
            let blueprint = Blueprint {
                purpose: Some(purpose),
                ..authority_blueprint(slot, cluster, validity, path_length)
            };
            let signer = root.intermediate(slot.name, &blueprint)?;
            save(directory, slot, &signer)?;
            Ok::<_, AuthorityError>(signer)
        };
        let node_ca = make(node_root, NODE_CA, Purpose::Node, 0)?;
        let capability_ca = make(capability_root, CAPABILITY_CA, Purpose::Capability, 0)?;
        // One more CA below it: the issuer of each node.
        let issuer_ca = make(capability_root, ISSUER_CA, Purpose::Instance, 1)?;
        Ok(Self {
            directory: directory.to_owned(),
            node_ca,
            capability_ca,
            issuer_ca,
            bundle,
        })
    }
}

fn make_root(
    slot: Slot,
    cluster: &ClusterName,
    validity: Validity,
) -> Result<Signer, AuthorityError> {
    Signer::root(slot.name, &authority_blueprint(slot, cluster, validity, 2))
}

fn authority_blueprint(
    slot: Slot,
    cluster: &ClusterName,
    validity: Validity,
    path_length: u8,
) -> Blueprint<'_> {
    // A name of its own for every key: two CAs of one name would be told apart only by trying.
    let [a, b, c, d, ..] = random();
    let name = slot.name.trim_start_matches("the ");
    Blueprint {
        cluster,
        common_name: format!("{name} {a:02x}{b:02x}{c:02x}{d:02x}"),
        uri: names::cluster_uri(cluster),
        dns_name: None,
        purpose: None,
        ca_with_path_length: Some(path_length),
        extension: None,
        validity,
    }
}

fn save(directory: &Path, slot: Slot, signer: &Signer) -> Result<(), AuthorityError> {
    let pem = Chain::new(signer.certificates.clone())?.to_pem();
    // The key first: a certificate without its key would look like a CA that is in use.
    let key = directory.join(slot.key);
    files::write(&key, &signer.key_pem(), Access::Private)?;
    files::write(&directory.join(slot.certificate), &pem, Access::Public)
}

fn read_bundle(directory: &Path) -> Result<TrustBundle, AuthorityError> {
    let text = files::read(directory, TRUST_BUNDLE_FILE)?;
    let path = directory.join(TRUST_BUNDLE_FILE);
    TrustBundle::from_text(&text).map_err(|error| AuthorityError::broken(&path, error))
}

fn read_signer(directory: &Path, slot: Slot) -> Result<Signer, AuthorityError> {
    let certificate_path = directory.join(slot.certificate);
    let key_path = directory.join(slot.key);
    let pem = files::read(directory, slot.certificate)?;
    let chain =
        Chain::from_pem(&pem).map_err(|error| AuthorityError::broken(&certificate_path, error))?;
    let key = files::read_private(directory, slot.key)?;
    let key = KeyPair::from_pem(&key).map_err(|error| AuthorityError::broken(&key_path, error))?;
    check_key(&key, chain.leaf(), &key_path)?;
    Signer::load(slot.name, chain.certificates().to_vec(), key)
        .map_err(|error| AuthorityError::broken(&certificate_path, error))
}

fn check_key(
    key: &KeyPair,
    certificate: &CertificateDer<'_>,
    path: &Path,
) -> Result<(), AuthorityError> {
    if is_key_of(&key.serialize_der().into(), certificate) {
        Ok(())
    } else {
        let why = "it is not the key of the certificate beside it";
        Err(AuthorityError::broken(path, why))
    }
}
