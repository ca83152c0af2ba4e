//! Regions to try things with.

use weft_local_ipc::region::{Options, Shared, allocate_object};

/// A shared region that holds these bytes.
pub(crate) fn shared(bytes: &[u8]) -> Shared {
    let mut draft = allocate_object(bytes.len() as u64, Options::default()).unwrap();
    draft.as_mut_slice().copy_from_slice(bytes);
    draft.create_shared_region().unwrap()
}

/// So many bytes, none of which looks like its neighbours.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 31 % 251) as u8).collect()
}
