//! Services that behave badly on purpose: `weft run NAME --binary weft-test-service -- MODE`.

use std::error::Error;
use std::process::ExitCode;

use weft::{Domain, Whole, serve};
use weft_tests::contracts::{OldKv, Slow};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weft-test-service: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let mode = std::env::args().nth(1).unwrap_or_default();
    match mode.as_str() {
        // Takes its time over each message.
        "slow" => serve::<Slow, _>(Domain::inherited()?, Whole::new(0_u64))?,
        // Speaks `kv` as it was before.
        "old-kv" => serve::<OldKv, _>(Domain::inherited()?, Whole::new(0_u64))?,
        // Ends before it has said a word to its node.
        "crash" => return Err("crashed on purpose".into()),
        // Attaches, and ends before it serves.
        "attach-and-crash" => {
            let _domain = Domain::inherited()?;
            return Err("crashed on purpose, attached".into());
        }
        other => return Err(format!("no mode {other:?}").into()),
    }
    Ok(())
}
