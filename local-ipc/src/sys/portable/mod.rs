//! Any system that has files to map: regions are files in the temporary directory, and whoever waits
//! looks again and again, less often the longer it takes. Uses the standard library and `memmap2` alone.
//!
//! The rest of the crate is the same: who reads believes nothing that a peer wrote, and every bound holds.
//! What the kernel does for the other backend and nobody does here:
//!
//! - **One writer.** What is handed over is a file that was opened for reading, and the mapping made of
//!   it can only be read. But another process of the same user may find a way to open the file again
//!   and write it; who cannot trust its own user has to use the other backend. So nothing is ever
//!   borrowed from a file: a frozen region is *copied* when it is opened.
//!   Its owner has slices over what it alone should write (drafts, loans): who breaks in there from
//!   outside races with them.
//! - **Size.** A peer of the same user that manages to cut its file off kills its reader, where the system
//!   sends a signal for that (`SIGBUS`). It gains nothing else by it.
//! - **Memory.** Files are written once, so that a full disk is an error when a region is made. A peer's
//!   file may have holes; to read those takes memory of the machine, bounded by the region's size.
//! - **Forks.** A forked child inherits writable mappings.
//! - **Doorbells** are not to be had, nor the async ends, which stand on them.
//!
//! A wait takes a core for some microseconds, then naps of up to a few milliseconds, and wakes nobody; an
//! idle receiver costs some hundred looks a second.

mod backoff;
pub(crate) mod doorbell;
pub(crate) mod memory;
pub(crate) mod poller;
pub(crate) mod wait;
