//! What must not compile does not, and the compiler says why.
//!
//! The expected output is the compiler's own: when the toolchain changes its wording, look at the
//! difference and accept it with `TRYBUILD=overwrite`.

#[test]
fn mistakes_do_not_compile() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
