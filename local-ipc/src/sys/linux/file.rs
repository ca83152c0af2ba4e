//! Files of a file system, read by system calls.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::error::RegionError;

/// The same file without a right to write it, and how many bytes it has.
///
/// # Errors
///
/// [`RegionError::NotMemory`] if it is no regular file; [`RegionError::System`] if there is no right to
/// read it.
pub(crate) fn for_reading(mut file: File) -> Result<(File, u64), RegionError> {
    let system = |error: io::Error| RegionError::system("examine", error);
    let flags = rustix::fs::fcntl_getfl(&file).map_err(|error| system(error.into()))?;
    // First of all: to open a device once more may set something going.
    let mut metadata = file.metadata().map_err(system)?;
    if !metadata.is_file() {
        return Err(RegionError::NotMemory);
    }
    let access = flags & OFlags::ACCMODE;
    if flags.contains(OFlags::PATH) || access == OFlags::WRONLY {
        // We might be allowed to open it for reading, and would read for somebody who is not.
        return Err(RegionError::system("read", Errno::BADF));
    }
    if access != OFlags::RDONLY {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        file = File::open(path).map_err(system)?;
        metadata = file.metadata().map_err(system)?;
    }
    Ok((file, metadata.len()))
}

/// Fills `to` with the bytes from `offset` on, as `pread(2)`; `UnexpectedEof` if there are fewer.
pub(crate) fn read_exact_at(file: &File, to: &mut [u8], offset: u64) -> io::Result<()> {
    file.read_exact_at(to, offset)
}

/// Writes all bytes at an offset.
#[cfg(weft_portable)]
pub(crate) fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    file.write_all_at(bytes, offset)
}
