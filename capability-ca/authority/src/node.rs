//! What one node needs from the authority: its certificate, its issuer, its first capability.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rcgen::KeyPair;
use weft_capability::capability::NODE_CONTRACT;
use weft_capability::identity::{
    GRANTS_DIRECTORY, INSTANCE_CA_FILE, INSTANCE_CA_KEY_FILE, NODE_CAPABILITY_FILE,
    NODE_CHAIN_FILE, NODE_KEY_FILE, TRUST_BUNDLE_FILE,
};
use weft_capability::{Chain, Target, Timestamp, names, node_name_of};
use weft_types::{ContractName, NodeName, ServiceName};

use crate::ca::Authority;
use crate::error::AuthorityError;
use crate::files::{self, Access};
use crate::grant::{Grant, GrantRequest};
use crate::mint::{Blueprint, Purpose, Validity};

/// The version of `node.control` that daemons speak to each other.
const NODE_CONTRACT_VERSIONS: std::ops::RangeInclusive<u16> = 1..=1;

/// What was issued to a node, and where it lies.
#[derive(Clone, Debug)]
pub struct NodeMaterial {
    /// The node.
    pub name: NodeName,
    /// The directory with its files.
    pub directory: PathBuf,
    /// The last second of all of it.
    pub not_after: Timestamp,
}

impl Authority {
    /// Issues everything that a node needs and writes it into `directory`, keys readable by their
    /// owner only. The files of the same node are replaced, those of another never.
    ///
    /// # Errors
    ///
    /// [`AuthorityError::OtherNode`] if the directory is another node's (or cluster's).
    pub fn issue_node(
        &self,
        name: &NodeName,
        directory: &Path,
        validity: Validity,
    ) -> Result<NodeMaterial, AuthorityError> {
        self.check_directory(name, directory)?;
        let (node_key, node_chain) = self.node_certificate(name, validity)?;
        let (issuer_key, issuer_chain) = self.node_issuer(name, validity)?;
        let capability = self.node_capability(name, validity)?;
        files::create_directory(directory)?;
        let write = |file: &str, content: &str, access| {
            files::write(&directory.join(file), content, access)
        };
        write(NODE_KEY_FILE, &node_key.serialize_pem(), Access::Private)?;
        write(
            INSTANCE_CA_KEY_FILE,
            &issuer_key.serialize_pem(),
            Access::Private,
        )?;
        write(INSTANCE_CA_FILE, &issuer_chain.to_pem(), Access::Public)?;
        write(NODE_CAPABILITY_FILE, &capability.to_pem(), Access::Public)?;
        write(TRUST_BUNDLE_FILE, &self.bundle.to_text(), Access::Public)?;
        write(NODE_CHAIN_FILE, &node_chain.to_pem(), Access::Public)?;
        Ok(NodeMaterial {
            name: name.clone(),
            directory: directory.to_owned(),
            not_after: validity.not_after(),
        })
    }

    /// Refuses a directory that belongs to somebody else.
    fn check_directory(&self, name: &NodeName, directory: &Path) -> Result<(), AuthorityError> {
        let path = directory.join(NODE_CHAIN_FILE);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            text => text.map_err(AuthorityError::io(&path))?,
        };
        let chain = Chain::from_pem(&text).map_err(|error| AuthorityError::broken(&path, error))?;
        let found = match node_name_of(chain.leaf(), self.cluster()) {
            Ok(found) if found == *name => return Ok(()),
            Ok(found) => found.to_string(),
            Err(_) => "a node of another cluster".to_owned(),
        };
        Err(AuthorityError::OtherNode {
            directory: directory.to_owned(),
            found,
            asked: name.clone(),
        })
    }

    fn node_certificate(
        &self,
        name: &NodeName,
        validity: Validity,
    ) -> Result<(KeyPair, Chain), AuthorityError> {
        let blueprint = Blueprint {
            cluster: self.cluster(),
            common_name: format!("node {name}"),
            uri: names::node_uri(self.cluster(), name),
            dns_name: Some(names::node_dns_name(self.cluster(), name)),
            purpose: Some(Purpose::Node),
            ca_with_path_length: None,
            extension: None,
            validity,
        };
        let key = KeyPair::generate()?;
        let chain = Chain::new(self.node_ca.chain(&blueprint, &key)?)?;
        Ok((key, chain))
    }

    /// The CA of one node, for instances on that node: it names the node, and verifiers hold what
    /// it issues against that name.
    fn node_issuer(
        &self,
        name: &NodeName,
        validity: Validity,
    ) -> Result<(KeyPair, Chain), AuthorityError> {
        let blueprint = Blueprint {
            cluster: self.cluster(),
            common_name: format!("issuer of node {name}"),
            uri: names::node_uri(self.cluster(), name),
            dns_name: None,
            purpose: Some(Purpose::Instance),
            ca_with_path_length: Some(0),
            extension: None,
            validity,
        };
        let key = KeyPair::generate()?;
        let chain = Chain::new(self.issuer_ca.chain(&blueprint, &key)?)?;
        Ok((key, chain))
    }

    fn node_capability(
        &self,
        name: &NodeName,
        validity: Validity,
    ) -> Result<Grant, AuthorityError> {
        let contract = ContractName::new(NODE_CONTRACT).expect("the name of a contract of ours");
        let holder = ServiceName::of_node(name);
        self.grant(&GrantRequest {
            versions: NODE_CONTRACT_VERSIONS,
            ..GrantRequest::new(holder, Target::EveryNode, contract, 1, validity)
        })
    }
}

/// Puts a grant where a node finds it when it starts, one file for each capability.
///
/// # Errors
///
/// What the system says.
pub fn write_grant(node_directory: &Path, grant: &Grant) -> Result<PathBuf, AuthorityError> {
    let directory = node_directory.join(GRANTS_DIRECTORY);
    files::create_directory(&directory)?;
    let id: String = grant
        .capability
        .id
        .bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let path = directory.join(format!("{id}.pem"));
    files::write(&path, &grant.to_pem(), Access::Public)?;
    Ok(path)
}
