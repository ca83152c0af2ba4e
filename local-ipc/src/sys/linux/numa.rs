//! The system calls that rustix lacks. No libnuma: it would be three calls behind a C library.
//!
//! None of them reads or writes the memory that it is told about on our behalf, and an address that
//! is not mapped is an error of the kernel's (`EFAULT`), so addresses are plain numbers here.
#![expect(unsafe_code, reason = "system calls that rustix lacks")]

use std::ptr;

use rustix::io::Errno;

use crate::numa::MAX_NODES;

/// `get_mempolicy` answers with a node, not a policy: `MPOL_F_NODE` of `linux/mempolicy.h`.
const MPOL_F_NODE: libc::c_ulong = 1;
/// About an address, not the thread: `MPOL_F_ADDR` of `linux/mempolicy.h`.
const MPOL_F_ADDR: libc::c_ulong = 2;

const WORD_BITS: u32 = libc::c_ulong::BITS;

/// Asks for the pages of a span that are not allocated yet to come from `node` (below
/// [`MAX_NODES`]), or from another if that has none: `mbind` with `MPOL_PREFERRED`.
pub(crate) fn prefer(address: usize, len_bytes: usize, node: u32) -> Result<(), Errno> {
    let mut mask: [libc::c_ulong; (MAX_NODES / WORD_BITS) as usize] = Default::default();
    mask[(node / WORD_BITS) as usize] = 1 << (node % WORD_BITS);
    // SAFETY: `mask` is live and has `MAX_NODES` bits; the kernel reads one bit less than it is
    // told. It changes where pages come from, never what is in them, whoever's they are.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mbind,
            address,
            len_bytes,
            libc::MPOL_PREFERRED as libc::c_ulong,
            mask.as_ptr(),
            libc::c_ulong::from(MAX_NODES + 1),
            0 as libc::c_ulong,
        )
    };
    errno(result)
}

/// The node on which the page at an address lies. A page that is mapped but not allocated is
/// allocated by this.
pub(crate) fn node_of_page(address: usize) -> Result<u32, Errno> {
    let mut node: libc::c_int = -1;
    // SAFETY: `node` is live and writable; with these flags it is the only thing written. The mask
    // may be null with a length of 0.
    let result = unsafe {
        libc::syscall(
            libc::SYS_get_mempolicy,
            &raw mut node,
            ptr::null_mut::<libc::c_ulong>(),
            0 as libc::c_ulong,
            address,
            MPOL_F_NODE | MPOL_F_ADDR,
        )
    };
    errno(result)?;
    u32::try_from(node).map_err(|_| Errno::FAULT)
}

/// The node of the processor that this thread runs on now.
pub(crate) fn current_node() -> Result<u32, Errno> {
    let mut node: libc::c_uint = 0;
    // SAFETY: `node` is live and writable; the other two may be null.
    let result = unsafe {
        libc::syscall(
            libc::SYS_getcpu,
            ptr::null_mut::<libc::c_uint>(),
            &raw mut node,
            ptr::null_mut::<libc::c_void>(),
        )
    };
    errno(result).map(|()| node)
}

/// What a system call through libc has left in `errno`.
fn errno(result: libc::c_long) -> Result<(), Errno> {
    if result == 0 {
        return Ok(());
    }
    // Without a number the kernel has none for us either.
    let error = std::io::Error::last_os_error();
    Err(Errno::from_io_error(&error).unwrap_or(Errno::NOSYS))
}
