//! Rights that were given up, and references that outlive what they point into.

use weft_local_ipc::region::{Draft, Frozen, Shared};

fn a_slice_of_a_draft_that_is_shared_meanwhile(mut draft: Draft) {
    let bytes = draft.as_mut_slice();
    let _ = draft.create_shared_region();
    bytes[0] = 1;
}

fn a_draft_that_was_frozen(mut draft: Draft) {
    let _ = draft.freeze();
    draft.as_mut_slice()[0] = 1;
}

fn a_shared_region_that_was_frozen(mut shared: Shared) {
    let _ = shared.freeze();
    let _ = shared.write_at(0, b"x");
}

fn a_frozen_region_that_is_written(mut frozen: Frozen) {
    frozen[0] = 1;
    let _: &mut [u8] = &mut frozen;
}

fn an_object_that_outlives_its_region(frozen: Frozen) -> Option<u64> {
    let object = frozen.object::<u64>(0);
    drop(frozen);
    object.copied()
}

fn main() {}
