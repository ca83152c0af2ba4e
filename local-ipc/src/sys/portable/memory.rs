//! Regions as files in the temporary directory.
//!
//! A file has no name for longer than it takes to open it twice: once to be written by its maker, once
//! to be read by everybody else. So nothing is left behind, whoever dies when. What is handed over is
//! the second descriptor, which no writable mapping can be made of.

use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind};

use memmap2::{MmapMut, MmapOptions, MmapRaw};

use crate::error::RegionError;
use crate::sys::{OwnedFd, Stage, file};

/// The largest region, in bytes. A larger one is refused as if there were no room for it: room is found
/// out by filling it, which must not end with a full disk for whoever asks for absurdly much.
const MOST_BYTES: u64 = 4 << 30;

/// So many names are tried. Each is one of 2⁶⁴, so a second one is needed by nobody.
const NAMES: u32 = 8;

/// Written at once.
const ZEROS: [u8; 16 << 10] = [0; 16 << 10];

/// What a region lies in, as its maker has it.
#[derive(Debug)]
pub(crate) struct MemoryFile {
    /// To be written, until it [`Self::has_all`].
    own: Option<File>,
    /// The same file, to be read.
    theirs: File,
}

impl MemoryFile {
    /// A file of so many bytes, without room yet.
    pub(crate) fn create(name: &str, bytes: u64) -> Result<Self, RegionError> {
        if bytes > MOST_BYTES {
            return Err(RegionError::OutOfMemory { bytes });
        }
        let file = Self::nameless(name).map_err(|error| RegionError::system("create", error))?;
        file.own()
            .and_then(|own| own.set_len(bytes))
            .map_err(|error| RegionError::system("size", error))?;
        Ok(file)
    }

    /// There are no huge pages here.
    pub(crate) fn create_huge(_: &str, _: u64) -> Result<Self, RegionError> {
        let error = io::Error::from(ErrorKind::Unsupported);
        Err(RegionError::system("create", error))
    }

    fn nameless(name: &str) -> io::Result<Self> {
        let folder = std::env::temp_dir();
        let mut refused = io::Error::from(ErrorKind::AlreadyExists);
        for attempt in 0..NAMES {
            let random = RandomState::new().hash_one(attempt);
            let path = folder.join(format!("{name}-{random:016x}"));
            let mut options = OpenOptions::new();
            options.read(true).write(true).create_new(true);
            // For this user alone.
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            match options.open(&path) {
                Ok(own) => {
                    let theirs = File::open(&path);
                    std::fs::remove_file(&path)?;
                    return Ok(Self {
                        own: Some(own),
                        theirs: theirs?,
                    });
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => refused = error,
                Err(error) => return Err(error),
            }
        }
        Err(refused)
    }

    fn own(&self) -> io::Result<&File> {
        self.own
            .as_ref()
            .ok_or_else(|| ErrorKind::InvalidInput.into())
    }

    /// Gets room for a span that holds nothing yet, so that no access to it fails later for want of it.
    /// (On file systems that write elsewhere what they write again, it may all the same.)
    ///
    /// # Errors
    ///
    /// [`RegionError::OutOfMemory`] if there is none.
    pub(crate) fn allocate(&self, at: u64, bytes: u64) -> Result<(), RegionError> {
        let step = |error| RegionError::system("allocate", error);
        let own = self.own().map_err(step)?;
        let mut written = 0;
        while written < bytes {
            let now = (bytes - written).min(ZEROS.len() as u64);
            match file::write_all_at(own, &ZEROS[..now as usize], at + written) {
                Ok(()) => written += now,
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
                    ) =>
                {
                    return Err(RegionError::OutOfMemory { bytes });
                }
                Err(error) => return Err(step(error)),
            }
        }
        Ok(())
    }

    /// No more room will be asked for: one descriptor less to hold.
    pub(crate) fn has_all(&mut self) {
        self.own = None;
    }

    /// Says what readers may rely on, as far as they trust us: nothing enforces it. A frozen file is
    /// marked read-only.
    pub(crate) fn seal(&self, stage: Stage) -> io::Result<()> {
        if stage != Stage::Frozen {
            return Ok(());
        }
        let own = self.own()?;
        let mut permissions = own.metadata()?.permissions();
        permissions.set_readonly(true);
        own.set_permissions(permissions)
    }

    /// Maps `len` bytes of it, to be written.
    pub(crate) fn map(&self, len: usize) -> Result<MmapRaw, RegionError> {
        let own = self.own();
        own.and_then(|own| MmapOptions::new().len(len).map_raw(own))
            .map_err(|error| RegionError::system("map", error))
    }

    /// A descriptor to hand over, to be read.
    pub(crate) fn share(&self) -> Result<OwnedFd, RegionError> {
        self.theirs
            .try_clone()
            .map(OwnedFd::from)
            .map_err(|error| RegionError::system("share", error))
    }

    /// The last of what its maker has, to be read from now on.
    pub(crate) fn into_shared(self) -> OwnedFd {
        self.theirs.into()
    }
}

/// Maps `len` bytes of a region whose stage and size have been checked, to be read.
pub(crate) fn map_peer(fd: &OwnedFd, len: usize) -> Result<MmapRaw, RegionError> {
    MmapOptions::new()
        .len(len)
        .map_raw_read_only(fd)
        .map_err(|error| RegionError::system("map", error))
}

/// A copy of `len` bytes of a frozen region. What is returned never changes.
///
/// It is memory of this process alone, filled before anybody has it and made read-only. The file
/// itself may be written by who breaks the rules, so it is not borrowed from.
///
/// # Errors
///
/// [`RegionError::System`] if the file is shorter.
pub(crate) fn map_frozen(fd: &OwnedFd, len: usize) -> Result<MmapRaw, RegionError> {
    let step = |step| move |error: io::Error| RegionError::system(step, error);
    let from = File::from(fd.try_clone().map_err(step("share"))?);
    let mut copy = MmapMut::map_anon(len).map_err(step("map"))?;
    file::read_exact_at(&from, &mut copy, 0).map_err(step("read"))?;
    Ok(copy.make_read_only().map_err(step("protect"))?.into())
}

/// There are no huge pages here, and no is an answer.
pub(crate) fn prefer_huge_pages(_: &MmapRaw) {}

/// Pages are mapped when they are touched.
pub(crate) fn populate_write(_: &MmapRaw) -> Result<(), RegionError> {
    Ok(())
}

/// Pages are mapped when they are touched.
pub(crate) fn populate_read(_: &MmapRaw, _: usize, _: usize) -> Result<(), RegionError> {
    Ok(())
}

/// Checks what a peer handed over, and says how many bytes it has.
///
/// # Errors
///
/// [`RegionError::NotMemory`] if it is no regular file, [`RegionError::NotSealed`] if it should be frozen
/// and is not marked so, [`RegionError::System`] if the system does not tell.
pub(crate) fn examine(fd: &OwnedFd, stage: Stage) -> Result<u64, RegionError> {
    let metadata = fd
        .try_clone()
        .and_then(|fd| File::from(fd).metadata())
        .map_err(|error| RegionError::system("examine", error))?;
    if !metadata.is_file() {
        return Err(RegionError::NotMemory);
    }
    if stage == Stage::Frozen && !metadata.permissions().readonly() {
        return Err(RegionError::NotSealed { seals: 0 });
    }
    Ok(metadata.len())
}

/// Whether a file has so many bytes of memory: nobody tells, in a way that all systems know. What is
/// missing reads as zeros.
pub(crate) fn check_allocated(_: &OwnedFd, _: u64) -> Result<(), RegionError> {
    Ok(())
}

/// Not known here; room is found out by filling it.
pub(crate) fn available_bytes() -> Option<u64> {
    None
}

/// A file that everybody writes who has it, all zero.
#[cfg(feature = "floor")]
pub(crate) fn create_words(bytes: u64) -> Result<OwnedFd, RegionError> {
    let file = MemoryFile::create("weft-words", bytes)?;
    file.allocate(0, bytes)?;
    file.own
        .map(OwnedFd::from)
        .ok_or(RegionError::OutOfMemory { bytes })
}

/// Maps such a file, to be written.
#[cfg(feature = "floor")]
pub(crate) fn map_words(fd: &OwnedFd) -> Result<MmapRaw, RegionError> {
    MmapOptions::new()
        .map_raw(fd)
        .map_err(|error| RegionError::system("map", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_handed_over_cannot_be_written_nor_mapped_to_be_written() {
        let file = MemoryFile::create("weft-test", 4096).unwrap();
        file.allocate(0, 4096).unwrap();
        let theirs = File::from(file.share().unwrap());
        assert!(file::write_all_at(&theirs, b"x", 0).is_err());
        assert!(theirs.set_len(0).is_err());
        assert!(MmapOptions::new().len(4096).map_raw(&theirs).is_err());
        assert!(map_peer(&theirs.into(), 4096).is_ok());
    }

    #[test]
    fn nothing_is_left_in_the_folder() {
        let _file = MemoryFile::create("weft-nothing-left", 1).unwrap();
        let names = std::fs::read_dir(std::env::temp_dir()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name());
        let ours = names.filter(|name| name.to_string_lossy().starts_with("weft-nothing-left"));
        assert_eq!(ours.count(), 0);
    }

    /// What makes a borrowed frozen region sound here, whatever its owner does.
    #[test]
    fn a_frozen_region_that_is_written_all_the_same_stays_what_it_was() {
        let file = MemoryFile::create("weft-test", 4096).unwrap();
        file.seal(Stage::Frozen).unwrap();
        let theirs = file.share().unwrap();
        let frozen = crate::region::Frozen::open(theirs, 4096).unwrap();
        file::write_all_at(file.own().unwrap(), &[7; 4096], 0).unwrap();
        assert!(frozen.iter().all(|&byte| byte == 0));
        file.own().unwrap().set_len(0).unwrap();
        assert!(frozen.iter().all(|&byte| byte == 0), "cut off");
    }
}
