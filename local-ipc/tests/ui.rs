//! What must not compile does not: memory that another process can still write is never borrowed, and
//! who has given up the right to write has it no more.
//!
//! The expected output is the compiler's own: when the toolchain changes its wording, look at the
//! difference and accept it with `TRYBUILD=overwrite`.
//!
//! The types are the same with every backend, so one build of them is enough.
#![cfg(not(weft_portable))]

#[test]
fn mistakes_with_regions_do_not_compile() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
