//! Borrows of memory that somebody can still write, and rights that a type does not have.

use weft_local_ipc::region::{Draft, Frozen, Handed, Shared};

/// A draft is its owner's alone: nobody is given it, and it is written as a slice, not read as one.
fn draft(draft: Draft) {
    let _ = draft.share_region();
    let _: &[u8] = &draft;
}

/// The owner of a shared region writes it, and borrows nothing: whoever sees the bytes does not see
/// them change under a reference.
fn shared(shared: Shared) {
    let _: &[u8] = &shared;
    let _: &u64 = shared.object(0);
    let _ = shared.as_mut_slice();
}

/// A reader of a shared region gets copies, and writes nothing.
fn handed(handed: Handed) {
    let _: &[u8] = &handed;
    let _: &u64 = handed.object(0);
    let _ = handed.write_at(0, b"x");
}

/// Nobody writes what is frozen, or goes back.
fn frozen(frozen: Frozen) {
    let _ = frozen.write_at(0, b"x");
    let _ = frozen.as_mut_slice();
}

fn main() {}
