//! Files of a file system, read by system calls.

use std::fs::File;
use std::io;

use crate::error::RegionError;

/// The file as it is, and how many bytes it has: a descriptor's right to write cannot be taken from it here.
/// Hand over such as were opened for reading.
///
/// # Errors
///
/// [`RegionError::NotMemory`] if it is no regular file.
pub(crate) fn for_reading(file: File) -> Result<(File, u64), RegionError> {
    let metadata = file
        .metadata()
        .map_err(|error| RegionError::system("examine", error))?;
    if !metadata.is_file() {
        return Err(RegionError::NotMemory);
    }
    Ok((file, metadata.len()))
}

/// Fills `to` with the bytes from `offset` on; `UnexpectedEof` if there are fewer.
#[cfg(unix)]
pub(crate) fn read_exact_at(file: &File, to: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, to, offset)
}

/// Writes all bytes at an offset.
#[cfg(unix)]
pub(crate) fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

/// Fills `to` with the bytes from `offset` on; `UnexpectedEof` if there are fewer.
#[cfg(windows)]
pub(crate) fn read_exact_at(file: &File, mut to: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !to.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, to, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                to = &mut to[read..];
                offset += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes all bytes at an offset.
#[cfg(windows)]
pub(crate) fn write_all_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_write(file, bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = &bytes[written..];
                offset += written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
