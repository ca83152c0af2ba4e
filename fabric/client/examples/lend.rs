//! Lends an object of 100 MiB from one process to another of the same node, without a copy.
//!
//! With a node that runs (`weft node --data n1 …`), in two terminals:
//!
//! ```sh
//! cargo run -p weft --example lend -- own n1/weft.sock /tmp/lend.sock
//! cargo run -p weft --example lend -- borrow n1/weft.sock /tmp/lend.sock
//! ```
//!
//! `weft ps` shows meanwhile what the owner is charged with. A number as the last word of `own` asks for a NUMA node.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use weft::Domain;
use weft::heap::{Limits, NumaNode, SideListener, SideSocket};

const OBJECT_BYTES: u64 = 100 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["own", node, path] => own(node.as_ref(), path.as_ref(), None),
        ["own", node, path, numa] => {
            let numa = NumaNode::new(numa.parse()?).ok_or("no machine has such a node")?;
            own(node.as_ref(), path.as_ref(), Some(numa))
        }
        ["borrow", node, path] => borrow(node.as_ref(), path.as_ref()),
        _ => Err("lend own|borrow NODE-SOCKET PATH [NUMA-NODE]".into()),
    }
}

fn own(node: &Path, path: &Path, numa: Option<NumaNode>) -> Result<(), Box<dyn Error>> {
    let domain = Domain::attach(node, "owner".parse()?)?;
    let mut heap = domain.heap(Limits {
        budget_bytes: 256 << 20,
        ..Limits::default()
    });
    let grown = heap.grow(OBJECT_BYTES, numa)?;
    println!(
        "the heap has {} bytes, {}; {} of {} are in use",
        grown.bytes, grown.outcome, grown.used_bytes, grown.budget_bytes
    );
    let listener = SideListener::bind(path)?;
    println!("waiting for a borrower at {}", path.display());
    let borrower = heap.admit(listener.accept()?)?;
    let mut loan = heap.loan_slice::<u64>(usize::try_from(OBJECT_BYTES / 8)?)?;
    for (word, number) in loan.iter_mut().zip(0..) {
        *word = number;
    }
    heap.lend(borrower, loan).map_err(|unlent| unlent.error)?;
    println!("lent");
    loop {
        // Looked at first: what it has dropped before its end is seen then.
        let gone = heap.has_hung_up(borrower);
        heap.collect().map_err(|(_, error)| error)?;
        if gone || heap.objects_out() == 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    println!("{} objects are out", heap.objects_out());
    println!("{} bytes go back", heap.shrink());
    Ok(())
}

fn borrow(node: &Path, path: &Path) -> Result<(), Box<dyn Error>> {
    let domain = Domain::attach(node, "borrower".parse()?)?;
    let mut borrower = domain.borrow_from(SideSocket::connect(path)?, 256 << 20)?;
    let object = borrower
        .receive(Duration::from_secs(10))?
        .ok_or("nothing was lent in 10 s")?;
    let words = object.view().words().ok_or("it has no whole words")?;
    let sum: u64 = words.iter().sum();
    println!("{} bytes; the sum of the words is {sum}", object.len());
    Ok(())
}
