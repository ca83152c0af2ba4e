//! Types that not every bit pattern is a value of, or that change behind a shared reference.

use std::cell::Cell;

use weft_local_ipc::region::{Frozen, Handed};

fn a_value_that_a_peer_could_make_invalid(handed: &Handed, frozen: &Frozen) {
    let _ = handed.read::<bool>(0);
    let _ = frozen.object::<bool>(0);
    let _ = frozen.object::<&u8>(0);
}

fn a_value_that_changes(frozen: &Frozen) {
    let _ = frozen.object::<Cell<u8>>(0);
}

fn main() {}
