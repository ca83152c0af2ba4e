//! Linux, which enforces what the rest of this crate says: seals on memory files, read-only mappings
//! that stay so, futexes that can be slept on through them, sockets that carry descriptors.

pub(crate) mod cpu;
#[cfg(not(any(loom, shuttle)))]
mod credentials;
#[cfg(not(weft_portable))]
pub(crate) mod doorbell;
#[cfg(not(any(loom, shuttle)))]
pub(crate) mod file;
#[cfg(not(weft_portable))]
pub(crate) mod memory;
pub(crate) mod numa;
#[cfg(not(any(loom, shuttle, weft_portable)))]
pub(crate) mod poller;
pub(crate) mod process;
#[cfg(not(any(loom, shuttle)))]
pub(crate) mod side;
#[cfg(not(any(loom, shuttle, weft_portable)))]
pub(crate) mod wait;
