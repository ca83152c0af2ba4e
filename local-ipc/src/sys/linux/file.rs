//! Files of a file system, read by system calls.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use rustix::fs::OFlags;

/// The same file without a right to write it.
pub(crate) fn for_reading(file: File) -> io::Result<File> {
    let flags = rustix::fs::fcntl_getfl(&file)?;
    if flags & OFlags::ACCMODE == OFlags::RDONLY {
        return Ok(file);
    }
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
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
