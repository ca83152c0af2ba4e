//! The trust bundle: which roots a cluster believes in.
//!
//! A text file: a few lines of our own and PEM, so that stock tools find the certificates.
//!
//! ```text
//! weft trust bundle 1
//! cluster demo
//! version 1
//! node root
//! -----BEGIN CERTIFICATE----- ...
//! capability root
//! -----BEGIN CERTIFICATE----- ...
//! ```
//!
//! **Invariant**: no key is a node root and a capability root. With one root for both, a holder
//! that may pass on its capability could issue itself the certificate of a node.

use std::fmt::Write as _;

use rustls_pki_types::{CertificateDer, DnsName};
use weft_types::ClusterName;

use crate::certificate::Facts;
use crate::chain::certificate_to_pem;
use crate::names;

/// The longest bundle, in bytes.
pub const MAX_BUNDLE_BYTES: usize = 64 * 1024;
/// How many roots of one kind a bundle may have: the current one, the next, and room to spare.
pub const MAX_ROOTS: usize = 8;

const MAGIC: &str = "weft trust bundle 1";
const NODE_ROOT: &str = "node root";
const CAPABILITY_ROOT: &str = "capability root";

/// Why a bundle is not taken.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BundleError {
    /// A line is not what the format has there.
    #[error("line {line}: {expected} was expected")]
    Line {
        /// The line's number, from 1.
        line: usize,
        /// What should have been there.
        expected: &'static str,
    },
    /// It is longer than [`MAX_BUNDLE_BYTES`] or has more than [`MAX_ROOTS`] of a kind.
    #[error("it is larger than any trust bundle of ours")]
    TooLarge,
    /// One of the kinds has no root.
    #[error("it has no {0}")]
    NoRoot(&'static str),
    /// A root is not the root certificate of this cluster.
    #[error("a {kind} in it is not a root of cluster {cluster}: {why}")]
    NotARoot {
        /// Which kind.
        kind: &'static str,
        /// The bundle's cluster.
        cluster: ClusterName,
        /// What is wrong.
        why: &'static str,
    },
    /// The cluster's name cannot end the DNS names of its nodes: it has digits only, or is longer
    /// than DNS takes.
    #[error("cluster {0} cannot be part of a DNS name: choose a name with a letter in it")]
    ClusterName(ClusterName),
    /// One key is root of both kinds.
    #[error("one key is node root and capability root, which would let holders become nodes")]
    SharedRoot,
}

/// The roots of a cluster.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TrustBundle {
    cluster: ClusterName,
    version: u64,
    node_roots: Vec<CertificateDer<'static>>,
    capability_roots: Vec<CertificateDer<'static>>,
}

impl TrustBundle {
    /// A bundle of these roots.
    ///
    /// # Errors
    ///
    /// [`BundleError`] if one is not a root of the cluster, or is of both kinds.
    pub fn new(
        cluster: ClusterName,
        version: u64,
        node_roots: Vec<CertificateDer<'static>>,
        capability_roots: Vec<CertificateDer<'static>>,
    ) -> Result<Self, BundleError> {
        if DnsName::try_from(cluster.as_str()).is_err() {
            return Err(BundleError::ClusterName(cluster));
        }
        let node_keys = root_keys(&cluster, NODE_ROOT, &node_roots)?;
        let capability_keys = root_keys(&cluster, CAPABILITY_ROOT, &capability_roots)?;
        if node_keys.iter().any(|key| capability_keys.contains(key)) {
            return Err(BundleError::SharedRoot);
        }
        Ok(Self {
            cluster,
            version,
            node_roots,
            capability_roots,
        })
    }

    /// Reads a bundle from the content of its file.
    ///
    /// # Errors
    ///
    /// [`BundleError`], with the line where there is one.
    pub fn from_text(text: &str) -> Result<Self, BundleError> {
        if text.len() > MAX_BUNDLE_BYTES {
            return Err(BundleError::TooLarge);
        }
        let mut lines = text
            .lines()
            .enumerate()
            .map(|(index, line)| (index + 1, line.trim_end()))
            .filter(|(_, line)| !line.is_empty());
        let end = text.lines().count() + 1;
        let mut next = |expected| {
            lines.next().ok_or(BundleError::Line {
                line: end,
                expected,
            })
        };
        let (line, magic) = next("`weft trust bundle 1`")?;
        if magic != MAGIC {
            let expected = "`weft trust bundle 1`";
            return Err(BundleError::Line { line, expected });
        }
        let cluster = field(next("`cluster <name>`")?, "cluster ", "`cluster <name>`")?;
        let version = field(next("`version <n>`")?, "version ", "`version <n>`")?;
        let (mut node_roots, mut capability_roots) = (Vec::new(), Vec::new());
        while let Some((line, kind)) = lines.next() {
            let roots = match kind {
                NODE_ROOT => &mut node_roots,
                CAPABILITY_ROOT => &mut capability_roots,
                _ => {
                    let expected = "`node root` or `capability root`";
                    return Err(BundleError::Line { line, expected });
                }
            };
            if roots.len() == MAX_ROOTS {
                return Err(BundleError::TooLarge);
            }
            roots.push(certificate(&mut lines, line)?);
        }
        Self::new(cluster, version, node_roots, capability_roots)
    }

    /// The content of the bundle's file.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = format!(
            "{MAGIC}\ncluster {}\nversion {}\n",
            self.cluster, self.version
        );
        let nodes = self.node_roots.iter().map(|root| (NODE_ROOT, root));
        let capabilities = self.capability_roots.iter();
        for (kind, root) in nodes.chain(capabilities.map(|root| (CAPABILITY_ROOT, root))) {
            // Writing to a String cannot fail.
            let _ = write!(text, "\n{kind}\n{}", certificate_to_pem(root));
        }
        text
    }

    /// The cluster that these are the roots of.
    #[must_use]
    pub const fn cluster(&self) -> &ClusterName {
        &self.cluster
    }

    /// Counts the bundles of a cluster; the higher one is the later.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// The roots of node certificates.
    #[must_use]
    pub fn node_roots(&self) -> &[CertificateDer<'static>] {
        &self.node_roots
    }

    /// The roots of capabilities and instance certificates.
    #[must_use]
    pub fn capability_roots(&self) -> &[CertificateDer<'static>] {
        &self.capability_roots
    }
}

fn root_keys(
    cluster: &ClusterName,
    kind: &'static str,
    roots: &[CertificateDer<'static>],
) -> Result<Vec<Vec<u8>>, BundleError> {
    if roots.is_empty() {
        return Err(BundleError::NoRoot(kind));
    }
    if roots.len() > MAX_ROOTS {
        return Err(BundleError::TooLarge);
    }
    let uri = names::cluster_uri(cluster);
    roots
        .iter()
        .map(|root| {
            let facts = Facts::parse(root)?;
            if !facts.is_ca {
                Err("it is not a CA")
            } else if facts.subject != facts.issuer {
                Err("it is signed by another, not by itself")
            } else if facts.only_uri() != Some(&uri) {
                Err("it has another name")
            } else {
                Ok(facts.public_key)
            }
        })
        .collect::<Result<_, _>>()
        .map_err(|why| BundleError::NotARoot {
            kind,
            cluster: cluster.clone(),
            why,
        })
}

fn field<T: std::str::FromStr>(
    (line, text): (usize, &str),
    key: &str,
    expected: &'static str,
) -> Result<T, BundleError> {
    text.strip_prefix(key)
        .and_then(|value| value.parse().ok())
        .ok_or(BundleError::Line { line, expected })
}

/// The PEM block that follows line `after`.
fn certificate<'a>(
    lines: &mut impl Iterator<Item = (usize, &'a str)>,
    after: usize,
) -> Result<CertificateDer<'static>, BundleError> {
    const END: &str = "-----END CERTIFICATE-----";
    let fault = BundleError::Line {
        line: after + 1,
        expected: "a PEM certificate",
    };
    let mut block = String::new();
    for (_, line) in lines {
        block.push_str(line);
        block.push('\n');
        if line == END {
            let parsed = pem::parse(&block).map_err(|_| fault.clone())?;
            return if parsed.tag() == "CERTIFICATE" {
                Ok(parsed.into_contents().into())
            } else {
                Err(fault)
            };
        }
    }
    Err(fault)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_broken_line_is_named_by_its_number() {
        let line = |text: &str| match TrustBundle::from_text(text) {
            Err(BundleError::Line { line, .. }) => line,
            other => panic!("{other:?}"),
        };
        assert_eq!(line("weft trust bundle 2"), 1);
        assert_eq!(line("weft trust bundle 1\ncluster NO"), 2);
        assert_eq!(line("weft trust bundle 1\ncluster demo\nversion x"), 3);
        assert_eq!(
            line("weft trust bundle 1\ncluster demo\nversion 1\n\nroot"),
            5
        );
        assert_eq!(
            TrustBundle::from_text("weft trust bundle 1\ncluster demo\nversion 1\n"),
            Err(BundleError::NoRoot(NODE_ROOT))
        );
    }

    #[test]
    fn a_cluster_that_dns_cannot_name_has_no_bundle() {
        let digits = ClusterName::new("123").unwrap();
        assert_eq!(
            TrustBundle::new(digits.clone(), 1, vec![], vec![]),
            Err(BundleError::ClusterName(digits))
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,300}") {
            let _ = TrustBundle::from_text(&text);
            let _ = TrustBundle::from_text(&format!(
                "{MAGIC}\ncluster demo\nversion 1\nnode root\n-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----"
            ));
        }
    }
}
