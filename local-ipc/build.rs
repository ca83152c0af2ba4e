//! Chooses what regions, waits and doorbells are made of: `cfg(weft_portable)` is `src/sys/portable`, else it
//! is `src/sys/linux`, where the kernel enforces what this crate promises.
//!
//! Features add up over everything that is built together, so the safe choice has to win: a program that
//! relies on the kernel asks for `enforced`, and nobody's `portable` takes that away.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(weft_portable)");
    let is_set = |name| std::env::var_os(name).is_some();
    let linux = std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux");
    let enforced = is_set("CARGO_FEATURE_ENFORCED");
    if enforced && !linux {
        println!(
            "cargo::error=the feature `enforced` needs what only Linux has: sealed memory files"
        );
    }
    if !linux || (is_set("CARGO_FEATURE_PORTABLE") && !enforced) {
        println!("cargo::rustc-cfg=weft_portable");
    }
}
