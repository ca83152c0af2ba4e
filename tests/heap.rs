//! A heap that the memory manager lets grow: its owner and its borrower are processes of one machine.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use weft::{Domain, Heap, Lane};
use weft_local_ipc::heap::{Borrowed, Borrower, ExtentId, Notes, PeerNotes};
use weft_local_ipc::numa::{NumaNode, Topology};
use weft_local_ipc::{
    Geometry, Header, OwnHalf, Payload, PeerHalf, Receiver, SideSocket, Start, connect,
    die_with_parent,
};
use weft_tests::{Cluster, ClusterOptions, eventually, kill};
use weft_types::{MessageKind, Sequence, TypeIndex};

/// Names the node's socket to the owner.
const SOCKET: &str = "WEFT_TEST_SOCKET";

const PATIENCE: Duration = Duration::from_secs(30);
const LANE: Lane = Lane::NORMAL;
const MIB: u64 = 1 << 20;
const OBJECTS: u32 = 64;

/// Not a test: the owner of a heap, which does what it is told over its standard input, a side socket.
#[test]
#[ignore = "started by another test"]
fn owner_in_a_process_of_its_own() {
    let Some(socket) = std::env::var_os(SOCKET) else {
        // Somebody runs all ignored tests: this is none.
        return;
    };
    die_with_parent().expect("tie to the test");
    let stdin = std::io::stdin().as_fd().try_clone_to_owned();
    let side = SideSocket::from(stdin.expect("standard input"));
    let domain = Domain::attach(Path::new(&socket), "operator".parse().expect("a name"));
    let domain = domain.expect("attach");

    let (_, fds) = side.receive(Some(PATIENCE)).expect("side").expect("a half");
    let [half, notes] = <[OwnedFd; 2]>::try_from(fds).expect("a half and notes");
    let own = OwnHalf::create(Geometry::DEFAULT, Start::default()).expect("a half");
    let shared = own.share().expect("share");
    side.send(b"half", &[shared.as_fd()]).expect("send");
    let (mut sender, _receiver, _swapper) =
        connect(own, PeerHalf::open(half).expect("half")).expect("connect");
    let mut heap = domain.heap(OBJECTS);
    let to = heap.admit(PeerNotes::open(&notes).expect("notes"));

    while let Ok(Some((command, _))) = side.receive(Some(PATIENCE)) {
        let command = String::from_utf8(command).expect("text");
        let (word, rest) = command.split_once(' ').unwrap_or((&command, ""));
        let mut given = None;
        let said = match word {
            "grow" => grow(&mut heap, rest).map(|(extent, outcome, fd)| {
                given = Some(fd);
                format!("{extent} {outcome}")
            }),
            "lend" => {
                let mut loan = heap.loan_slice::<u8>(rest.len()).expect("a loan");
                loan.copy_from_slice(rest.as_bytes());
                let sent = heap.send(to, &mut sender, LANE, tell(), loan);
                Ok(sent.expect("sent").to_string())
            }
            "out" => {
                heap.collect().expect("an honest borrower");
                Ok(heap.objects_out().to_string())
            }
            "shrink" => Ok(heap.shrink().len().to_string()),
            "drop" => {
                heap = domain.heap(OBJECTS);
                Ok("dropped".to_owned())
            }
            other => panic!("{other}?"),
        };
        let said = said.unwrap_or_else(|refused| refused);
        let fds: Vec<_> = given.iter().map(AsFd::as_fd).collect();
        side.send(said.as_bytes(), &fds).expect("send");
    }
}

/// `BYTES [NUMA NODE]`.
fn grow(heap: &mut Heap, words: &str) -> Result<(u32, String, OwnedFd), String> {
    let mut words = words.split(' ').map(|word| word.parse().expect("a number"));
    let bytes: u64 = words.next().expect("bytes");
    let node = words
        .next()
        .map(|node| NumaNode::new(node as u32).expect("a node"));
    let (id, outcome) = heap
        .grow(bytes, node)
        .map_err(|error| format!("{:?}: {error}", error.code()))?;
    let fd = heap.share(id).expect("it is there").expect("a descriptor");
    Ok((id.get(), outcome.to_string(), fd))
}

fn tell() -> Header {
    Header {
        kind: MessageKind::Tell,
        type_index: TypeIndex::new(0),
        correlation: Sequence::ZERO,
        has_descriptors: false,
    }
}

/// An owner, and what this process has of it as its borrower.
struct Owner {
    process: Child,
    side: SideSocket,
    receiver: Receiver,
    borrower: Borrower,
    body: Vec<u8>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Owner {
    fn start(cluster: &Cluster) -> Self {
        let (side, far) = SideSocket::pair().expect("a side socket");
        let process = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "owner_in_a_process_of_its_own"])
            .args(["--ignored", "--nocapture"])
            .env(SOCKET, cluster.node("n1").data.join("weft.sock"))
            .stdin(Stdio::from(OwnedFd::from(far)))
            .stdout(Stdio::null())
            .spawn()
            .expect("the owner");
        let own = OwnHalf::create(Geometry::DEFAULT, Start::default()).expect("a half");
        let borrower = Borrower::new(Notes::create(OBJECTS).expect("notes"), 64 * MIB);
        let (half, notes) = (own.share(), borrower.share_notes());
        let (half, notes) = (half.expect("share"), notes.expect("share"));
        side.send(b"half", &[half.as_fd(), notes.as_fd()])
            .expect("send");
        let (_, mut fds) = side.receive(Some(PATIENCE)).expect("side").expect("a half");
        let peer = PeerHalf::open(fds.remove(0)).expect("half");
        let (_sender, receiver, _swapper) = connect(own, peer).expect("connect");
        Self {
            process,
            side,
            receiver,
            borrower,
            body: Vec::new(),
        }
    }

    fn tell(&self, command: &str) -> (String, Vec<OwnedFd>) {
        self.side.send(command.as_bytes(), &[]).expect("send");
        let answer = self.side.receive(Some(PATIENCE)).expect("side");
        let (said, fds) = answer.expect("an answer");
        (String::from_utf8(said).expect("text"), fds)
    }

    /// What it says to a command that hands over nothing.
    fn says(&self, command: &str) -> String {
        let (said, fds) = self.tell(command);
        assert!(fds.is_empty(), "{command}: {said}");
        said
    }

    /// Has it grow, and takes the extent. What became of its placement.
    fn grow(&mut self, words: &str) -> String {
        let (said, fds) = self.tell(&format!("grow {words}"));
        let [fd] = &fds[..] else { panic!("{said}") };
        let (extent, outcome) = said.split_once(' ').expect("an extent and its outcome");
        let extent = ExtentId::new(extent.parse().expect("a number"));
        self.borrower.adopt(extent, fd).expect("an extent");
        outcome.to_owned()
    }

    fn borrow(&mut self) -> Borrowed {
        let received = self.receiver.try_receive(&mut self.body).expect("a peer");
        let received = received.expect("a message");
        assert_eq!(received.payload, Payload::Reference);
        self.borrower
            .resolve(&received, &self.body)
            .expect("an object")
    }

    /// What the memory manager of `n1` has charged it with, in bytes; `None` if it is not attached.
    fn used(&self, cluster: &Cluster) -> Option<u64> {
        let inventory = cluster.inventory("n1");
        let domains = inventory["domains"].as_array().expect("domains");
        let domain = domains
            .iter()
            .find(|domain| domain["pid"] == self.process.id());
        domain.map(|domain| domain["used_bytes"].as_u64().expect("bytes"))
    }

    #[track_caller]
    fn uses(&self, cluster: &Cluster, bytes: Option<u64>) {
        eventually("what is charged", PATIENCE, || match self.used(cluster) {
            now if now == bytes => Ok(()),
            now => Err(format!("{now:?} is charged, not {bytes:?}")),
        });
    }
}

fn cluster() -> Cluster {
    let mut options = ClusterOptions::new(1);
    options.budget_mib = Some(16);
    Cluster::with(&options)
}

#[test]
fn a_heap_grows_by_the_memory_manager_lends_across_processes_and_gives_its_room_back() {
    let cluster = cluster();
    let mut owner = Owner::start(&cluster);
    owner.uses(&cluster, Some(0));
    let outcome = owner.grow(&(6 * MIB).to_string());
    assert!(outcome.contains("placed"), "{outcome}");
    owner.uses(&cluster, Some(6 * MIB));

    let _ = owner.says("lend green tea");
    let borrowed = owner.borrow();
    let mut read = vec![0; borrowed.len()];
    for (at, byte) in read.iter_mut().enumerate() {
        *byte = borrowed.view().read(at).expect("inside");
    }
    assert_eq!(read, b"green tea");
    assert_eq!(owner.says("shrink"), "0", "it is lent");
    owner.uses(&cluster, Some(6 * MIB));
    drop(borrowed);
    let taken = owner.receiver.taken(LANE);
    owner.receiver.finish(LANE, taken);
    owner.borrower.finished(LANE, taken);
    assert_eq!(owner.says("out"), "0", "it was given back");
    assert_eq!(owner.says("shrink"), "1");
    owner.uses(&cluster, Some(0));

    let _ = owner.grow(&MIB.to_string());
    owner.uses(&cluster, Some(4 * MIB));
    let _ = owner.says("drop");
    owner.uses(&cluster, Some(0));
    drop(owner);
    cluster.shut_down();
}

#[test]
fn a_heap_is_refused_what_its_budget_or_the_machine_does_not_have() {
    let cluster = cluster();
    let mut owner = Owner::start(&cluster);
    let _ = owner.grow(&(12 * MIB).to_string());
    let refused = owner.says(&format!("grow {}", 5 * MIB));
    assert!(refused.starts_with("OverBudget: "), "{refused}");
    assert!(refused.contains("shrink heaps, or start"), "{refused}");

    // Where the kernel names no nodes, none can be told from another.
    if let Ok(machine) = Topology::of_machine() {
        let there: Vec<u32> = machine.nodes().iter().map(|it| it.node.get()).collect();
        let missing = (0..).find(|node| !there.contains(node)).expect("a number");
        let refused = owner.says(&format!("grow {MIB} {missing}"));
        assert!(refused.starts_with("Rejected: "), "{refused}");
        let named: Vec<String> = there.iter().map(u32::to_string).collect();
        let named = format!("no NUMA node {missing}; it has {}:", named.join(", "));
        assert!(refused.contains(&named), "{refused}");
        owner.uses(&cluster, Some(12 * MIB));

        let outcome = owner.grow(&format!("{MIB} {}", there[0]));
        assert!(outcome.contains("placed"), "{outcome}");
        owner.uses(&cluster, Some(16 * MIB));
    }
    drop(owner);
    cluster.shut_down();
}

#[test]
fn the_death_of_an_owner_frees_its_room_and_leaves_its_borrower_what_it_holds() {
    let cluster = cluster();
    let mut owner = Owner::start(&cluster);
    let _ = owner.grow(&(16 * MIB).to_string());
    let _ = owner.says("lend tea");
    let borrowed = owner.borrow();
    owner.uses(&cluster, Some(16 * MIB));
    kill(owner.process.id());
    owner.uses(&cluster, None);
    assert_eq!(borrowed.view().read::<[u8; 3]>(0), Some(*b"tea"));
    // All of it is there for the next of that name.
    let mut next = Owner::start(&cluster);
    let _ = next.grow(&(16 * MIB).to_string());
    next.uses(&cluster, Some(16 * MIB));
    drop((owner, next));
    cluster.shut_down();
}
