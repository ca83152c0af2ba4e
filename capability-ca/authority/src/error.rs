//! What can go wrong for somebody who issues certificates.

use std::io;
use std::path::{Path, PathBuf};

use weft_capability::{BundleError, ChainError, ExtensionError, Timestamp};
use weft_types::NodeName;

/// Why nothing was issued, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A CA is never overwritten: everything that it issued would be worthless.
    #[error("{} is not empty; choose another directory, or delete it with every certificate that it issued", .0.display())]
    NotEmpty(PathBuf),
    /// There is no CA.
    #[error("{} holds no CA ({file} is missing); make one with `weft ca init`", .directory.display())]
    NoAuthority {
        /// Where it was looked for.
        directory: PathBuf,
        /// What is missing there.
        file: &'static str,
    },
    /// A private key that others can read.
    #[error("{} can be read by others (mode {mode:04o}); make it private with `chmod 600`, and consider the key known", .path.display())]
    Exposed {
        /// The key's file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The system refused.
    #[error("{}: {error}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// A file is not what it should be.
    #[error("{} is broken: {why}", .path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// In which respect.
        why: String,
    },
    /// What was asked for would be valid for longer than its issuer, and so never believed.
    #[error("it was asked to last until {asked}, and {issuer} itself ends at {ends}; ask for less")]
    OutlivesIssuer {
        /// The last second that was asked for.
        asked: Timestamp,
        /// Who would have signed.
        issuer: String,
        /// The issuer's last second.
        ends: Timestamp,
    },
    /// A validity that ends before it begins, or in no year that a certificate can name.
    #[error("a certificate cannot be valid from {from} to {to}")]
    Validity {
        /// The first second.
        from: Timestamp,
        /// The last.
        to: Timestamp,
    },
    /// The rights contradict each other or do not fit into a certificate.
    #[error("these rights cannot be granted: {0}")]
    Rights(#[from] ExtensionError),
    /// The directory belongs to another node, whose files would be lost.
    #[error("{} holds the files of {found}, not of {asked}; choose another directory", .directory.display())]
    OtherNode {
        /// The directory.
        directory: PathBuf,
        /// Whose it is.
        found: String,
        /// For whom the files are.
        asked: NodeName,
    },
    /// The roots do not make a trust bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The certificates do not make a chain.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The machine could not make a key or a certificate.
    #[error("the certificate could not be made: {0}")]
    Machine(#[from] rcgen::Error),
}

impl AuthorityError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { path, error }
    }

    pub(crate) fn broken(path: &Path, why: impl ToString) -> Self {
        Self::Broken {
            path: path.to_owned(),
            why: why.to_string(),
        }
    }
}
