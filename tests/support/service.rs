//! Services that behave badly on purpose: `weft run NAME --binary weft-test-service -- MODE`. And the
//! other process of a heap: `weft-test-service MODE NODE-SOCKET`, with a side socket as its input.

use std::error::Error;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use weft::heap::{Limits, SideSocket};
use weft::{Domain, Whole, serve};
use weft_tests::contracts::{OldKv, Slow};

/// What an owner lends, in bytes.
const OBJECT_BYTES: u64 = 100 << 20;

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
        "borrow" => borrow(false)?,
        "borrow-and-keep" => borrow(true)?,
        "lend" => lend()?,
        other => return Err(format!("no mode {other:?}").into()),
    }
    Ok(())
}

/// This process as an app of the node, and the socket to who has started it.
fn attach() -> Result<(Domain, SideSocket), Box<dyn Error>> {
    let socket = std::env::args().nth(2).ok_or("no socket of a node")?;
    let domain = Domain::attach(Path::new(&socket), "other".parse()?)?;
    let side = std::io::stdin().as_fd().try_clone_to_owned()?;
    Ok((domain, SideSocket::from(side)))
}

/// Says what each object holds, until the owner is gone. Drops them, or keeps them all.
fn borrow(keep: bool) -> Result<(), Box<dyn Error>> {
    let (domain, side) = attach()?;
    let mut borrower = domain.borrow_from(side, 1 << 30)?;
    let mut kept = Vec::new();
    loop {
        let Some(object) = borrower.receive(Duration::from_secs(1))? else {
            continue;
        };
        let words = object.view().words().ok_or("no whole words")?;
        let first = words.get(0).ok_or("nothing in it")?;
        if words.iter().any(|word| word != first) {
            return Err("it holds different words".into());
        }
        println!("{} bytes of {first}", object.len());
        if keep {
            kept.push(object);
        }
    }
}

/// Takes what it can of its budget, lends one object, and stays until it is killed.
fn lend() -> Result<(), Box<dyn Error>> {
    let (domain, side) = attach()?;
    let mut heap = domain.heap(Limits {
        budget_bytes: 1 << 30,
        ..Limits::default()
    });
    let borrower = heap.admit(side)?;
    let refused = loop {
        if let Err(refused) = heap.grow(OBJECT_BYTES, None) {
            break refused;
        }
    };
    let mut loan = heap.loan_slice::<u64>(usize::try_from(OBJECT_BYTES / 8)?)?;
    loan.fill(9);
    heap.lend(borrower, loan).map_err(|unlent| unlent.error)?;
    println!("{}", refused.code().name());
    while !domain.node_is_gone() && !heap.has_hung_up(borrower) {
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
