//! The code of a channel, run by a model checker.
//!
//! Not a copy of it: `sender`, `receiver`, `slot`, `segment`, `half`, `swap` and `parking` are the ones
//! of the product. Only the memory below them is another ([`memory`] in place of `raw`), and its words
//! are the checker's ([`words`]).
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test --release -p weft-local-ipc --lib models
//! RUSTFLAGS="--cfg shuttle" cargo test --release -p weft-local-ipc --lib models
//! ```

pub(crate) mod memory;
#[cfg(test)]
mod rings;
#[cfg(test)]
mod wakes;
mod words;

#[cfg(all(test, loom))]
use loom::{
    sync::{Arc, Mutex},
    thread,
};
#[cfg(all(test, shuttle))]
use shuttle::{
    sync::{Arc, Mutex},
    thread,
};

pub(crate) use words::{AtomicU32, AtomicU64, Ordering, fence};

/// Runs a model: in every order of steps that makes a difference, or in random ones.
/// `WEFT_SHUTTLE_SCHEDULES` says in how many.
#[cfg(test)]
fn check(weak: words::Weak, model: impl Fn() + Send + Sync + 'static) {
    let model = move || {
        words::weaken(weak);
        model();
    };
    #[cfg(loom)]
    loom::model(model);
    #[cfg(shuttle)]
    {
        let schedules = std::env::var("WEFT_SHUTTLE_SCHEDULES").ok();
        let schedules = schedules.and_then(|text| text.parse().ok());
        shuttle::check_random(model, schedules.unwrap_or(2000));
    }
}
