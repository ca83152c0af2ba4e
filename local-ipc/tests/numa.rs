//! Placement on NUMA nodes, with real ones: `local-ipc/vm/numa` runs the ignored tests in guests.
//!
//! What `get_mempolicy` says of a span is held against `/proc/self/numa_maps`, where the kernel
//! counts the pages of every mapping by itself. That file knows mappings by their file's name, so
//! tests that make halves take turns.

// Only memory files follow a wish where to lie.
#![cfg(not(weft_portable))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use common::{End, number, tell};
use rustix::thread::gettid;
use weft_local_ipc::numa::*;
use weft_local_ipc::*;
use weft_types::Lane;

/// 129 pages.
const GEOMETRY: Geometry = Geometry {
    slots: 512,
    slot_bytes: 128,
    arena_bytes: 64 * 1024,
    growth: 0,
};

static TURN: Mutex<()> = Mutex::new(());

/// Until it is dropped, only the caller's halves exist.
fn alone() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn node(number: u32) -> NumaNode {
    NumaNode::new(number).unwrap()
}

fn place(geometry: Geometry, placement: Placement) -> (OwnHalf, Outcome) {
    OwnHalf::create_placed(geometry, Start::default(), placement).unwrap()
}

fn placed(node: NumaNode) -> Outcome {
    Outcome::Placed {
        node,
        share_percent: 100,
    }
}

/// For each mapping of a half in this process, its pages by node.
fn kernel_counts() -> Vec<Vec<(u32, u64)>> {
    let maps = fs::read_to_string("/proc/self/numa_maps").unwrap();
    let halves = maps.lines().filter(|line| line.contains("memfd:weft-half"));
    let counts = |line: &str| {
        let words = line.split_whitespace().filter_map(|word| {
            let (node, pages) = word.strip_prefix('N')?.split_once('=')?;
            Some((node.parse().ok()?, pages.parse().ok()?))
        });
        words.collect()
    };
    halves.map(counts).collect()
}

/// Makes a half there, and checks with the kernel, with both mappings and with a message.
fn check_placed_on(asked: NumaNode, placement: Placement) {
    let _turn = alone();
    let (own, outcome) = place(GEOMETRY, placement);
    assert_eq!(outcome, placed(asked));
    let peer = PeerHalf::open(own.share().unwrap()).unwrap();
    let pages = GEOMETRY.base_bytes() / 4096;
    for residence in [own.residence().unwrap(), peer.residence().unwrap()] {
        assert_eq!(residence.pages().collect::<Vec<_>>(), [(asked, pages)]);
    }
    let expected = vec![(asked.get(), pages)];
    assert_eq!(kernel_counts(), [expected.clone(), expected]);
}

#[test]
fn where_nothing_can_be_chosen_it_says_so_and_the_half_works() {
    let _turn = alone();
    let (own, outcome) = place(GEOMETRY, Placement::Home);
    match Topology::of_machine().map(|topology| topology.nodes().len()) {
        Ok(1) => assert_eq!(outcome, Outcome::NotPlaced(Reason::OneNode)),
        Ok(_) => {}
        Err(_) => assert!(!outcome.is_placed(), "{outcome}"),
    }
    let other = OwnHalf::create(GEOMETRY, Start::default()).unwrap();
    let peer = PeerHalf::open(own.share().unwrap()).unwrap();
    let back = PeerHalf::open(other.share().unwrap()).unwrap();
    let (mut a, mut b) = (End::connect(own, back), End::connect(other, peer));
    a.sender.try_send(Lane::NORMAL, tell(), b"here").unwrap();
    let mut body = Vec::new();
    b.receiver.try_receive(&mut body).unwrap().unwrap();
    assert_eq!(body, b"here");
}

#[test]
fn a_node_that_is_not_there_is_named() {
    let _turn = alone();
    let (_, outcome) = place(GEOMETRY, Placement::Node(node(1023)));
    assert!(!outcome.is_placed());
    // Without a description of its nodes, a kernel cannot say that it lacks one.
    if Topology::of_machine().is_ok() {
        let reason = Reason::NoSuchNode { node: node(1023) };
        assert_eq!(outcome, Outcome::NotPlaced(reason));
    }
}

mod two_nodes {
    use super::*;

    #[test]
    #[ignore = "needs two NUMA nodes"]
    fn the_topology_is_that_of_the_machine() {
        let topology = Topology::of_machine().unwrap();
        let cpus: Vec<String> = topology.nodes().iter().map(NodeReport::cpu_list).collect();
        assert_eq!(cpus, ["0-1", "2-3"]);
        assert_eq!(topology.distance(node(0), node(1)), Some(21));
        assert_eq!(topology.distance(node(1), node(1)), Some(10));
        for report in topology.nodes() {
            assert_eq!(report.performance, Performance::default(), "no such table");
            assert!(
                report.memory_bytes > 100 << 20 && report.free_bytes > 0,
                "{report:?}"
            );
        }
    }

    #[test]
    #[ignore = "needs two NUMA nodes"]
    fn all_pages_lie_on_the_node_asked_for_in_the_peers_mapping_too() {
        for number in [1, 0, 1] {
            check_placed_on(node(number), Placement::Node(node(number)));
        }
    }

    #[test]
    #[ignore = "needs two NUMA nodes"]
    fn a_pinned_thread_is_on_its_node_and_its_memory_at_home() {
        let topology = Topology::of_machine().unwrap();
        for number in [0, 1] {
            thread::scope(|scope| {
                scope.spawn(|| {
                    pin_to_node(&topology, node(number)).unwrap();
                    assert_eq!(current_node().unwrap(), node(number));
                    assert_eq!(pinned_node(None, &topology).unwrap(), Some(node(number)));
                    check_placed_on(node(number), Placement::Home);
                    // One that looks elsewhere than it runs.
                    check_placed_on(node(1 - number), Placement::Node(node(1 - number)));
                });
            });
        }
        pin_to_cpus(&[1, 2]).unwrap();
        assert_eq!(pinned_node(None, &topology).unwrap(), None);
    }

    #[test]
    #[ignore = "needs two NUMA nodes"]
    fn a_ring_lies_where_its_receiver_is_pinned_and_nowhere_if_it_is_not() {
        let topology = Topology::of_machine().unwrap();
        let (told, tid) = std::sync::mpsc::channel();
        let (done, wait) = std::sync::mpsc::channel::<()>();
        thread::scope(|scope| {
            let receiver = scope.spawn(move || {
                pin_to_node(&topology, node(1)).unwrap();
                told.send(gettid()).unwrap();
                // Until the other side has hung up.
                let _ = wait.recv();
            });
            check_placed_on(node(1), Placement::Receiver(tid.recv().unwrap()));
            drop(done);
            receiver.join().unwrap();
        });
        let _turn = alone();
        let (_, outcome) = place(GEOMETRY, Placement::Receiver(gettid()));
        let thread = gettid().as_raw_nonzero().get();
        assert_eq!(outcome, Outcome::NotPlaced(Reason::NotPinned { thread }));
    }

    #[test]
    #[ignore = "needs two NUMA nodes"]
    fn segments_that_are_linked_later_lie_there_too() {
        let _turn = alone();
        let topology = Topology::of_machine().unwrap();
        pin_to_node(&topology, node(0)).unwrap();
        let growing = Geometry {
            growth: 2,
            ..GEOMETRY
        };
        let (own, outcome) = place(growing, Placement::Node(node(1)));
        assert_eq!(outcome, placed(node(1)));
        let (other, outcome) = place(growing, Placement::Node(node(1)));
        assert_eq!(outcome, placed(node(1)));
        let peer = PeerHalf::open(own.share().unwrap()).unwrap();
        let back = PeerHalf::open(other.share().unwrap()).unwrap();
        let (mut a, mut b) = (End::connect(own, back), End::connect(other, peer));
        let sent = (0..4096).take_while(|&n| {
            let sent = a.sender.try_send(Lane::NORMAL, tell(), &number(n));
            sent.is_ok()
        });
        let sent = sent.count();
        assert_eq!(
            sent,
            512 * 7,
            "two more segments, of twice and four times the size"
        );
        let mut body = Vec::new();
        for _ in 0..sent {
            b.receiver.try_receive(&mut body).unwrap().unwrap();
        }
        let base = growing.base_bytes() / 4096;
        let counts = kernel_counts();
        assert!(
            counts
                .iter()
                .all(|nodes| nodes.len() == 1 && nodes[0].0 == 1),
            "{counts:?}"
        );
        let largest = counts.iter().map(|nodes| nodes[0].1).max().unwrap();
        assert!(
            largest > base + 64,
            "{counts:?}: rings of 64 pages and more were linked"
        );
    }

    #[test]
    #[ignore = "needs two NUMA nodes"]
    fn a_full_node_is_not_called_placed_and_the_memory_is_there() {
        let _turn = alone();
        // 32 MiB each; the node has less than 192.
        let large = Geometry {
            arena_bytes: 8 << 20,
            ..GEOMETRY
        };
        let mut halves = Vec::new();
        let outcome = loop {
            assert!(halves.len() < 6, "the node takes more than it has");
            let (half, outcome) = place(large, Placement::Node(node(1)));
            halves.push(half);
            if !outcome.is_placed() {
                break outcome;
            }
        };
        let elsewhere = matches!(
            outcome,
            Outcome::NotPlaced(Reason::Elsewhere { node: asked, share_percent: 0..99 }) if asked == node(1)
        );
        assert!(elsewhere && halves.len() > 1, "{outcome}");
        PeerHalf::open(halves.last().unwrap().share().unwrap()).unwrap();
    }

    #[test]
    #[ignore = "needs two NUMA nodes"]
    fn without_the_right_it_says_so_and_the_half_works() {
        // Only this thread's, and it ends with the test.
        thread::spawn(|| {
            let _turn = alone();
            forbid(libc::SYS_mbind);
            let (own, outcome) = place(GEOMETRY, Placement::Node(node(1)));
            assert_eq!(outcome, Outcome::NotPlaced(Reason::NoRight));
            PeerHalf::open(own.share().unwrap()).unwrap();
        })
        .join()
        .unwrap();
    }

    /// Has a system call fail with `EPERM` in this thread for ever, as in a container.
    #[expect(unsafe_code, reason = "no library of ours installs filters")]
    fn forbid(call: libc::c_long) {
        let step = |code: u32, k: u32, jt, jf| libc::sock_filter {
            code: code as u16,
            jt,
            jf,
            k,
        };
        let mut steps = [
            step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
            step(
                libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
                call as u32,
                0,
                1,
            ),
            step(
                libc::BPF_RET | libc::BPF_K,
                libc::SECCOMP_RET_ERRNO | libc::EPERM as u32,
                0,
                0,
            ),
            step(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
        ];
        let program = libc::sock_fprog {
            len: steps.len() as u16,
            filter: steps.as_mut_ptr(),
        };
        // SAFETY: `program` and the steps that it points to are live; the kernel copies them.
        let result = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const program,
            )
        };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    }
}

mod three_nodes {
    use super::*;

    #[test]
    #[ignore = "needs three NUMA nodes, the third without processors"]
    fn the_third_node_has_memory_only_and_the_firmwares_figures() {
        let topology = Topology::of_machine().unwrap();
        let cpus: Vec<String> = topology.nodes().iter().map(NodeReport::cpu_list).collect();
        assert_eq!(cpus, ["0-1", "2-3", ""]);
        assert_eq!(topology.nodes()[2].distances, [41, 31, 10]);
        // From the nearest processors: the first two nodes' own, for the third the second's.
        for (report, latency, bandwidth) in [
            (&topology.nodes()[0], 80, 20480),
            (&topology.nodes()[1], 80, 20480),
            (&topology.nodes()[2], 200, 5120),
        ] {
            let expected = Performance {
                read_latency_ns: Some(latency),
                write_latency_ns: Some(latency),
                read_bandwidth_mb_s: Some(bandwidth),
                write_bandwidth_mb_s: Some(bandwidth),
            };
            assert_eq!(report.performance, expected, "{}", report.node);
        }
    }

    #[test]
    #[ignore = "needs three NUMA nodes, the third without processors"]
    fn memory_can_lie_on_a_node_without_processors() {
        for number in [2, 0, 1] {
            check_placed_on(node(number), Placement::Node(node(number)));
        }
    }

    #[test]
    #[ignore = "needs three NUMA nodes, the third without processors"]
    fn no_thread_can_be_pinned_to_a_node_without_processors() {
        let topology = Topology::of_machine().unwrap();
        for (number, said) in [(2, "no processors"), (3, "no NUMA node 3")] {
            let error = pin_to_node(&topology, node(number)).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
        }
        pin_to_node(&topology, node(1)).unwrap();
        assert_eq!(current_node().unwrap(), node(1));
    }
}
