//! Whether what a peer wrote is checked at each message. It is, in every program but one: a benchmark
//! that asks what the checks cost is built with `--cfg weft_unchecked` and measured beside itself.
//!
//! Left out are then: that a slot's sequence word is the expected one, that kind and flags are known,
//! that a value's length is its type's and a long body lies in its arena, and that a cursor goes
//! neither back nor beyond what was sent. Left in is what keeps this process's own memory safe (no
//! offset is used without its bound), whatever is looked at once when a channel opens, and what a
//! reader needs to find its place.

#[cfg(all(weft_unchecked, not(feature = "floor")))]
compile_error!("only a benchmark may be built without checks of what a peer wrote");

/// Whether what a peer wrote is checked.
#[cfg_attr(
    not(feature = "floor"),
    expect(unreachable_pub, reason = "only a benchmark asks")
)]
pub const CHECKED: bool = !cfg!(weft_unchecked);

/// Whether a check holds; where none is made, it does.
#[inline(always)]
pub(crate) fn holds(check: bool) -> bool {
    !CHECKED || check
}
