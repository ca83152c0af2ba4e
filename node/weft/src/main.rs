//! The one binary of Weft: every role, each started by re-executing it.
//!
//! What a role does lies in its own crate, and none of those knows of the others; here they are put
//! together. `weft node` starts `weft gateway` and `weft service <name>`; everything else is the
//! command line.

mod authority;
mod gateway;
mod process;
mod roles;

use std::process::ExitCode;

fn main() -> ExitCode {
    weft_cli::main(&roles::Binary)
}
