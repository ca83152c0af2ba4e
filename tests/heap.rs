//! Heaps of domains, lent from process to process: the memory manager allows each extent, sees what is
//! in use, and gets it back whoever dies.

use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use weft::heap::{Borrower, Gone, Heap, Limits, NumaNode, SideSocket};
use weft::{Domain, RefusalCode};
use weft_local_ipc::heap::block_bytes;
use weft_local_ipc::numa::Topology;
use weft_tests::{Cluster, ClusterOptions, eventually, kill};

/// The program that is the other process.
const TEST_SERVICE: &str = env!("CARGO_BIN_EXE_weft-test-service");

const PATIENCE: Duration = Duration::from_secs(30);

const MIB: u64 = 1 << 20;

/// What is lent.
const OBJECT_BYTES: u64 = 100 * MIB;

/// What the queue to a borrower costs its owner, in bytes.
const QUEUE_BYTES: u64 = 132 << 10;

fn cluster() -> Cluster {
    let mut options = ClusterOptions::new(1);
    options.budget_mib = Some(256);
    Cluster::with(&options)
}

fn attach(cluster: &Cluster) -> Domain {
    let socket = cluster.node("n1").data.join("weft.sock");
    Domain::attach(&socket, "lender".parse().expect("a name")).expect("attach")
}

fn heap(domain: &Domain) -> Heap {
    domain.heap(Limits {
        budget_bytes: 1 << 30,
        ..Limits::default()
    })
}

/// What of its budget each process of this name uses, as `weft ps` tells.
fn used(cluster: &Cluster, name: &str) -> Vec<u64> {
    let inventory = cluster.inventory("n1");
    let domains = inventory["domains"].as_array().expect("domains");
    let named = domains.iter().filter(|domain| domain["name"] == name);
    named
        .map(|domain| domain["used_bytes"].as_u64().expect("a number"))
        .collect()
}

#[track_caller]
fn uses(cluster: &Cluster, name: &str, expected: &[u64]) {
    eventually(&format!("{name} uses {expected:?}"), PATIENCE, || {
        let used = used(cluster, name);
        if used == expected {
            Ok(())
        } else {
            Err(format!("{used:?}"))
        }
    });
}

/// Another process, attached under the name `other`, with one end of a socket. Killed when dropped.
struct Other(Child);

impl Other {
    fn start(cluster: &Cluster, mode: &str) -> (Self, SideSocket) {
        let (near, far) = SideSocket::pair().expect("a pair");
        let child = Command::new(TEST_SERVICE)
            .arg(mode)
            .arg(cluster.node("n1").data.join("weft.sock"))
            .stdin(Stdio::from(OwnedFd::from(far)))
            .stdout(Stdio::piped())
            .spawn()
            .expect("the other process");
        (Self(child), near)
    }

    /// The next line that it prints.
    fn says(&mut self) -> String {
        let mut line = String::new();
        let stdout = self.0.stdout.as_mut().expect("piped");
        BufReader::with_capacity(1, stdout)
            .read_line(&mut line)
            .expect("a line");
        line.trim().to_owned()
    }

    fn kill(&mut self) {
        kill(self.0.id());
        let _ = self.0.wait().expect("its end");
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Fills an object of this size with this word.
fn lend(heap: &mut Heap, to: weft::heap::BorrowerId, word: u64) {
    let words = usize::try_from(OBJECT_BYTES / 8).expect("a size");
    let mut loan = heap.loan_slice::<u64>(words).expect("room");
    loan.fill(word);
    heap.lend(to, loan).expect("lent");
}

#[test]
fn a_large_object_is_lent_to_another_process_and_its_memory_is_charged_and_given_back() {
    let cluster = cluster();
    let domain = attach(&cluster);
    let mut heap = heap(&domain);
    let grown = heap.grow(OBJECT_BYTES, None).expect("grow");
    let extent = block_bytes(OBJECT_BYTES).expect("a size");
    assert_eq!(
        (grown.bytes, grown.used_bytes, grown.budget_bytes),
        (extent, extent, 256 * MIB)
    );
    assert_eq!(used(&cluster, "lender"), [extent]);

    let (mut other, side) = Other::start(&cluster, "borrow");
    let them = heap.admit(side).expect("admit");
    assert_eq!(used(&cluster, "lender"), [extent + QUEUE_BYTES]);
    for word in [3, 4] {
        lend(&mut heap, them, word);
        assert_eq!(other.says(), format!("{OBJECT_BYTES} bytes of {word}"));
        eventually("it is given back", PATIENCE, || {
            heap.collect().expect("an honest borrower");
            match heap.objects_out() {
                0 => Ok(()),
                out => Err(format!("{out} are out")),
            }
        });
    }
    // A second one does not fit beside it.
    let refused = heap.grow(2 * OBJECT_BYTES, None).expect_err("over budget");
    assert_eq!(refused.code(), RefusalCode::OverBudget);
    let text = refused.to_string();
    assert!(
        text.contains("shrink heaps") && text.contains("--budget"),
        "{text}"
    );
    assert_eq!(used(&cluster, "lender"), [extent + QUEUE_BYTES]);

    assert_eq!(heap.shrink(), extent);
    uses(&cluster, "lender", &[QUEUE_BYTES]);
    let _ = heap.grow(2 * OBJECT_BYTES, None).expect("now it does");
    drop(heap);
    uses(&cluster, "lender", &[0]);
    drop(other);
    drop(domain);
    cluster.shut_down();
}

#[test]
fn a_numa_node_that_the_machine_has_not_is_refused_and_one_that_it_has_is_asked_for() {
    let cluster = cluster();
    let domain = attach(&cluster);
    let mut heap = heap(&domain);
    let missing = NumaNode::new(1023).expect("a number");
    let refused = heap.grow(MIB, Some(missing)).expect_err("no such node");
    assert_eq!(refused.code(), RefusalCode::Rejected);
    let text = refused.to_string();
    let Ok(topology) = Topology::of_machine() else {
        assert!(text.contains("ask without one"), "{text}");
        return cluster.shut_down();
    };
    let first = topology.nodes()[0].node;
    assert!(
        text.contains("NUMA node 1023 is not on this machine")
            && text.contains(&format!("[{}", first.get())),
        "{text}"
    );
    assert_eq!(used(&cluster, "lender"), [0], "nothing is charged");
    let grown = heap.grow(MIB, Some(first)).expect("a node that is there");
    let told = grown.outcome.to_string();
    // By the machine: placed, or the reason. Not as if nobody had asked.
    assert!(
        grown.outcome.is_placed() || told.contains("one NUMA node") || told.contains("SYS_NICE"),
        "{told}"
    );
    assert_eq!(used(&cluster, "lender"), [grown.bytes]);
    drop(heap);
    drop(domain);
    cluster.shut_down();
}

#[test]
fn what_a_killed_borrower_held_comes_back() {
    let cluster = cluster();
    let domain = attach(&cluster);
    let mut heap = heap(&domain);
    let _ = heap.grow(OBJECT_BYTES, None).expect("grow");
    let (mut other, side) = Other::start(&cluster, "borrow-and-keep");
    let them = heap.admit(side).expect("admit");
    lend(&mut heap, them, 5);
    assert_eq!(other.says(), format!("{OBJECT_BYTES} bytes of 5"));
    assert_eq!(used(&cluster, "other").len(), 1);
    heap.collect().expect("nothing is wrong");
    assert_eq!((heap.objects_out(), heap.shrink()), (1, 0), "it keeps it");
    assert!(!heap.has_hung_up(them));

    other.kill();
    eventually("its end is seen", PATIENCE, || {
        if heap.has_hung_up(them) {
            Ok(())
        } else {
            Err("not yet".to_owned())
        }
    });
    heap.dismiss(them, Gone::Dead);
    assert_eq!(heap.objects_out(), 0);
    uses(&cluster, "other", &[]);
    uses(&cluster, "lender", &[heap.bytes()]);
    // The same memory serves the next one.
    let (mut next, side) = Other::start(&cluster, "borrow");
    let them = heap.admit(side).expect("admit");
    lend(&mut heap, them, 6);
    assert_eq!(next.says(), format!("{OBJECT_BYTES} bytes of 6"));
    drop(next);
    drop(heap);
    uses(&cluster, "lender", &[0]);
    drop(domain);
    cluster.shut_down();
}

#[test]
fn the_budget_of_a_killed_owner_is_free_and_what_it_lent_can_be_read_on() {
    let cluster = cluster();
    let domain = attach(&cluster);
    let extent = block_bytes(OBJECT_BYTES).expect("a size");
    for _ in 0..2 {
        let (mut other, side) = Other::start(&cluster, "lend");
        let mut borrower: Borrower = domain.borrow_from(side, 256 * MIB).expect("an owner");
        let object = borrower.receive(PATIENCE).expect("lent").expect("in time");
        assert_eq!(object.len() as u64, OBJECT_BYTES);
        // Its whole budget but for one more of these: who comes next needs what this one had.
        uses(&cluster, "other", &[2 * extent + QUEUE_BYTES]);
        assert_eq!(other.says(), "over_budget");

        other.kill();
        uses(&cluster, "other", &[]);
        let words = object.view().words().expect("whole words");
        assert!(words.iter().all(|word| word == 9));
        let closed = borrower.receive(PATIENCE).expect_err("it is dead");
        assert_eq!(closed.code(), RefusalCode::Closed);
    }
    drop(domain);
    cluster.shut_down();
}
