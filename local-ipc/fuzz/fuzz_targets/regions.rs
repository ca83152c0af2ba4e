//! See `attack`.
#![no_main]

#[path = "../attack/mod.rs"]
mod attack;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    attack::regions::regions(bytes);
});
