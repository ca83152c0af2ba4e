//! A real CA in a temporary directory, and nodes of its cluster.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;
use weft_authority::{Authority, Grant, GrantRequest, Validity};
use weft_capability::{IdentityError, NodeIdentity, Target};
use weft_types::{ClusterName, ContractName, NodeName, ServiceName};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn service(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

pub(crate) fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

pub(crate) fn contract(name: &str) -> ContractName {
    ContractName::new(name).unwrap()
}

pub(crate) fn cluster(name: &str) -> ClusterName {
    ClusterName::new(name).unwrap()
}

pub(crate) fn validity(now: SystemTime) -> Validity {
    Validity::starting(now, HOUR).unwrap()
}

/// A cluster whose CA lies on disk.
pub(crate) struct Cluster {
    pub(crate) directory: TempDir,
    pub(crate) authority: Authority,
}

impl Cluster {
    pub(crate) fn new(name: &str, now: SystemTime) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::init(&directory.path().join("ca"), &cluster(name), now).unwrap();
        Self {
            directory,
            authority,
        }
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.directory.path().join("ca")
    }

    /// Issues a node; returns its directory.
    pub(crate) fn node(&self, name: &str, now: SystemTime) -> PathBuf {
        let directory = self.directory.path().join(name);
        self.authority
            .issue_node(&node(name), &directory, validity(now))
            .unwrap();
        directory
    }

    pub(crate) fn identity(&self, name: &str, now: SystemTime) -> NodeIdentity {
        load(&self.node(name, now), now).unwrap()
    }

    pub(crate) fn grant(&self, holder: &str, target: &str, now: SystemTime) -> Grant {
        self.authority
            .grant(&GrantRequest::new(
                service(holder),
                Target::Service(service(target)),
                contract("kv"),
                1,
                validity(now),
            ))
            .unwrap()
    }
}

pub(crate) fn load(directory: &Path, now: SystemTime) -> Result<NodeIdentity, IdentityError> {
    NodeIdentity::load(|file| std::fs::read(directory.join(file)), now)
}
