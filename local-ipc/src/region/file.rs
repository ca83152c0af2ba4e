//! Files of a file system, handed over by descriptor: nothing is copied to hand them over.
//!
//! Whoever may write such a file can change it and cut it off at any time. A mapping of it would kill
//! its reader then (SIGBUS, see `mmap(2)`); so it is read by system calls, which say what happened. The
//! rule of one writer does not hold here.
//!
//! A file has no bound on time either. One of a network file system, or of a file system that a process
//! serves (FUSE), answers when its server wants to, and that may be the very peer that handed it over:
//! each call here, [`FileRegion::open`] included, may wait for ever, which no flag changes for regular
//! files. Whoever must not wait gives such a file to a thread of its own, or takes files only from peers
//! that it would also wait for.

use std::fs::File;
use std::io::{self, ErrorKind};

use super::{Draft, Options, allocate_object};
use crate::error::RegionError;
use crate::sys::{OwnedFd, file};

/// A file that is read like a region.
#[derive(Debug)]
pub struct FileRegion {
    file: File,
    /// Its size when it was opened.
    bytes: u64,
}

impl FileRegion {
    /// Takes a file that can be read. A right to write it is dropped here, so that it is not handed on
    /// with it. May wait for the file system that the file lies in.
    ///
    /// # Errors
    ///
    /// [`RegionError::NotMemory`] if it is no regular file; [`RegionError::System`] if the descriptor
    /// gives no right to read it, or if the system does not tell, or does not let it be opened for
    /// reading alone.
    pub fn open(fd: OwnedFd) -> Result<Self, RegionError> {
        let (file, bytes) = file::for_reading(File::from(fd))?;
        Ok(Self { file, bytes })
    }

    /// How many bytes it had when it was opened.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.bytes
    }

    /// Whether it had none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Fills `to` with a copy of the bytes from `offset` on.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` if they do not all lie in the file, because it was cut off or never had them;
    /// else as `pread(2)`.
    pub fn copy_to(&self, offset: u64, to: &mut [u8]) -> io::Result<()> {
        file::read_exact_at(&self.file, to, offset).map_err(|error| {
            if error.kind() == ErrorKind::UnexpectedEof {
                let end = offset.saturating_add(to.len() as u64);
                let text = format!("the file ends before byte {end}: it was cut off");
                return io::Error::new(ErrorKind::UnexpectedEof, text);
            }
            error
        })
    }

    /// A descriptor to hand over: the file itself, and no copy of it.
    ///
    /// # Errors
    ///
    /// [`RegionError::System`] if this process has no descriptor left.
    #[doc(alias = "ShareRegion")]
    pub fn share_region(&self) -> Result<OwnedFd, RegionError> {
        self.file
            .try_clone()
            .map(OwnedFd::from)
            .map_err(|error| RegionError::system("share", error))
    }

    /// A copy in memory, which nobody can change.
    ///
    /// # Errors
    ///
    /// [`RegionError::System`] if the file ends before its size when it was opened, else as
    /// [`allocate_object`].
    pub fn load(&self, options: Options) -> Result<Draft, RegionError> {
        let mut draft = allocate_object(self.bytes, options)?;
        self.copy_to(0, draft.as_mut_slice())
            .map_err(|error| RegionError::system("read", error))?;
        Ok(draft)
    }
}
