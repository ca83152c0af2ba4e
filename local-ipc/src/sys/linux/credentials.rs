//! Who is at the other end of a socket.
//!
//! Not through rustix: it keeps the process id in a type that must not be zero, and the kernel says
//! zero for a process outside our process namespace.
#![expect(
    unsafe_code,
    reason = "a system call that rustix lacks in a form we can use"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Who is at the other end, as the kernel saw it when the connection was made. For a pair made by
/// [`crate::SideSocket::pair`] that is who made the pair, whoever holds the end now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PeerCredentials {
    /// The process, in our process namespace; 0 if it lies outside.
    pub pid: u32,
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

pub(crate) fn peer_credentials(socket: BorrowedFd<'_>) -> io::Result<PeerCredentials> {
    let mut found = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: `found` and `len` are live and writable for the call, `len` is the size of `found`,
    // and the kernel writes at most that many bytes. Every bit pattern is a valid `ucred`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut found).cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(PeerCredentials {
        pid: u32::try_from(found.pid).unwrap_or(0),
        uid: found.uid,
        gid: found.gid,
    })
}
