//! The one binary of Weft.
fn main() {}
