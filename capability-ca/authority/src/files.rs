//! Files that others must not read, or must not see half written.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::error::AuthorityError;

/// Who may read a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Access {
    /// The owner only.
    Private,
    /// Everybody.
    Public,
}

impl Access {
    const fn mode(self) -> u32 {
        match self {
            Self::Private => 0o600,
            Self::Public => 0o644,
        }
    }
}

/// Makes sure that there is an empty directory that only the owner can look into.
pub(crate) fn create_empty_directory(path: &Path) -> Result<(), AuthorityError> {
    create_directory(path)?;
    let mut entries = fs::read_dir(path).map_err(AuthorityError::io(path))?;
    if entries.next().is_some() {
        return Err(AuthorityError::NotEmpty(path.to_owned()));
    }
    // It may have been there before, such as a volume that was mounted for it.
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(AuthorityError::io(path))
}

/// Makes a directory that only the owner can look into; one that exists is left as it is.
pub(crate) fn create_directory(path: &Path) -> Result<(), AuthorityError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(AuthorityError::io(path))
}

/// Writes a file whole or not at all, durably, with these permissions from its first byte on.
pub(crate) fn write(path: &Path, content: &str, access: Access) -> Result<(), AuthorityError> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = Path::new(&partial);
    // A crash may have left one, with any content.
    match fs::remove_file(partial) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(AuthorityError::io(partial)(error));
        }
        _ => {}
    }
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(access.mode())
        .open(partial)
        .and_then(|mut file| {
            // The umask may have taken bits away that others need.
            file.set_permissions(fs::Permissions::from_mode(access.mode()))?;
            file.write_all(content.as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(partial, path))
        .and_then(|()| File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all());
    written.map_err(|error| {
        // What cannot be removed either is overwritten by the next attempt.
        let _ = fs::remove_file(partial);
        AuthorityError::io(path)(error)
    })
}

/// Reads a file of a CA.
pub(crate) fn read(directory: &Path, file: &'static str) -> Result<String, AuthorityError> {
    let path = directory.join(file);
    fs::read_to_string(&path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => AuthorityError::NoAuthority {
            directory: directory.to_owned(),
            file,
        },
        _ => AuthorityError::Io { path, error },
    })
}

/// Reads a private key of a CA, unless others can read it as well.
pub(crate) fn read_private(directory: &Path, file: &'static str) -> Result<String, AuthorityError> {
    let path = directory.join(file);
    if let Ok(metadata) = fs::metadata(&path) {
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(AuthorityError::Exposed { path, mode });
        }
    }
    read(directory, file)
}
