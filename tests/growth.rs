//! A burst that is larger than a queue: it goes out all the same, into memory that its sender is
//! charged with, and nothing of it is lost or overtaken.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use weft::{Domain, Endpoint, ServiceName, Ticket};
use weft_local_ipc::Geometry;
use weft_tests::contracts::{Slow, Work, Worked};
use weft_tests::{Cluster, ClusterOptions, eventually, kill};

/// The program of the service, which counts what it has handled.
const TEST_SERVICE: &str = env!("CARGO_BIN_EXE_weft-test-service");

/// How long an answer may take, a restart of the service included.
const PATIENCE: Duration = Duration::from_secs(30);

/// Much shorter than a send waits for a service that takes nothing, and much longer than a node takes
/// to answer.
const SOON: Duration = Duration::from_secs(10);

/// How many messages may be on their way on a lane that has grown to its end.
const MOST: u64 = 512 + 1024 + 2048 + 4096;

/// What a lane takes to grow once, twice, three times, in bytes.
const SEGMENTS: [u64; 3] = [640 << 10, 1280 << 10, 2560 << 10];

fn slow() -> ServiceName {
    "slow".parse().expect("a name")
}

fn cluster(nodes: usize) -> Cluster {
    cluster_with(ClusterOptions::new(nodes))
}

fn cluster_with(options: ClusterOptions) -> Cluster {
    let cluster = Cluster::with(&options.grant("operator", "slow", "test.slow"));
    let run = ["run", "slow", "--binary", TEST_SERVICE, "--", "slow"];
    let _ = cluster.weft("n1", &run).expect_done();
    cluster
}

fn attach(cluster: &Cluster, node: &str) -> Domain {
    let socket = cluster.node(node).data.join("weft.sock");
    Domain::attach(&socket, "operator".parse().expect("a name")).expect("attach")
}

fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.try_into().expect("a pid")).expect("a pid");
    kill_process(pid, signal).expect("signal");
}

/// What the process `pid` has of its budget on `n1` in use, in bytes.
fn used(cluster: &Cluster, pid: u32) -> u64 {
    let inventory = cluster.inventory("n1");
    let domains = inventory["domains"].as_array().expect("domains");
    let domain = domains.iter().find(|domain| domain["pid"] == pid);
    domain
        .and_then(|domain| domain["used_bytes"].as_u64())
        .unwrap_or_else(|| panic!("no process {pid} in {inventory:#}"))
}

/// Waits until the memory manager of `n1` counts so many bytes for a domain.
#[track_caller]
fn uses(cluster: &Cluster, pid: u32, bytes: u64) {
    let what = format!("process {pid} uses {bytes} bytes");
    eventually(&what, PATIENCE, || match used(cluster, pid) {
        now if now == bytes => Ok(()),
        now => Err(format!("{now} bytes are in use")),
    });
}

fn send(endpoint: &mut Endpoint<Slow>, messages: u64) -> Vec<Ticket<Worked>> {
    let work = Work { milliseconds: 0 };
    (0..messages)
        .map(|number| {
            endpoint
                .send(&work)
                .unwrap_or_else(|error| panic!("message {number}: {error}"))
        })
        .collect()
}

/// Each message was handled once, in its turn: the service counts.
fn wait(endpoint: &mut Endpoint<Slow>, tickets: Vec<Ticket<Worked>>, before: u64) {
    for (ticket, number) in tickets.into_iter().zip(before + 1..) {
        let worked = endpoint
            .wait(ticket, PATIENCE)
            .unwrap_or_else(|error| panic!("message {number}: {error}"));
        assert_eq!(worked.handled, number);
    }
}

#[test]
fn a_burst_to_a_service_that_stands_still_goes_out_and_is_charged_to_its_sender() {
    let cluster = cluster(1);
    let client = attach(&cluster, "n1");
    let mut endpoint = client.open::<Slow>(&slow()).expect("open");
    let (own, service) = (std::process::id(), cluster.pid_of_service("n1", "slow"));
    let first = send(&mut endpoint, 1);
    wait(&mut endpoint, first, 0);
    assert_eq!(
        used(&cluster, own),
        Geometry::DEFAULT.base_bytes(),
        "what it was opened with"
    );

    signal(service, Signal::STOP);
    let begin = Instant::now();
    let mut tickets = send(&mut endpoint, MOST);
    assert!(begin.elapsed() < SOON, "took {:?}", begin.elapsed());
    let grown = Geometry::DEFAULT.base_bytes() + SEGMENTS.iter().sum::<u64>();
    assert_eq!(used(&cluster, own), grown);

    // One more waits as it always has.
    std::thread::scope(|scope| {
        let beyond = scope.spawn(|| {
            let tickets = send(&mut endpoint, 1);
            (endpoint, tickets)
        });
        std::thread::sleep(Duration::from_millis(300));
        assert!(!beyond.is_finished(), "there is no room for it");
        signal(service, Signal::CONT);
        let (mut endpoint, last) = beyond.join().expect("the last one");
        tickets.extend(last);
        wait(&mut endpoint, tickets, 1);
    });
    uses(&cluster, own, 0);
    drop(client);
    cluster.shut_down();
}

#[test]
fn replies_that_a_client_does_not_take_grow_the_queue_of_the_service() {
    let cluster = cluster(1);
    let client = attach(&cluster, "n1");
    let mut endpoint = client.open::<Slow>(&slow()).expect("open");
    let service = cluster.pid_of_service("n1", "slow");
    let first = send(&mut endpoint, 1);
    wait(&mut endpoint, first, 0);
    let before = used(&cluster, service);

    // More than the service may keep for us: it goes on as we listen.
    let tickets = send(&mut endpoint, MOST);
    uses(&cluster, service, before + SEGMENTS[0] + SEGMENTS[1]);
    wait(&mut endpoint, tickets, 1);
    drop(endpoint);
    drop(client);
    cluster.shut_down();
}

#[test]
fn a_queue_that_has_grown_outlives_the_service_that_did_not_take_it() {
    let cluster = cluster(2);
    for node in ["n1", "n2"] {
        let client = attach(&cluster, node);
        let mut endpoint = client.open::<Slow>(&slow()).expect("open");
        let service = cluster.pid_of_service("n1", "slow");
        signal(service, Signal::STOP);
        let begin = Instant::now();
        let tickets = send(&mut endpoint, 3000);
        assert!(begin.elapsed() < SOON, "{node} took {:?}", begin.elapsed());
        kill(service);
        // What the dead one had taken may be answered with "unknown"; it was stopped, with nothing in
        // its hands. The new one counts from the beginning.
        wait(&mut endpoint, tickets, 0);
    }
    cluster.shut_down();
}

#[test]
fn replies_that_have_grown_a_queue_move_with_their_service() {
    let cluster = cluster(2);
    let client = attach(&cluster, "n1");
    let mut endpoint = client.open::<Slow>(&slow()).expect("open");
    let service = cluster.pid_of_service("n1", "slow");
    let before = used(&cluster, service);
    let tickets = send(&mut endpoint, MOST);
    uses(&cluster, service, before + SEGMENTS[0] + SEGMENTS[1]);
    let _ = cluster
        .weft("n1", &["migrate", "slow", "--to", "n2"])
        .expect_done();
    wait(&mut endpoint, tickets, 0);
    drop(endpoint);
    drop(client);
    cluster.shut_down();
}

#[test]
fn queues_that_grow_leave_half_of_a_budget_to_new_channels() {
    let mut options = ClusterOptions::new(1);
    options.budget_mib = Some(8);
    let cluster = cluster_with(options);
    let client = attach(&cluster, "n1");
    let mut endpoint = client.open::<Slow>(&slow()).expect("open");
    let (own, service) = (std::process::id(), cluster.pid_of_service("n1", "slow"));
    signal(service, Signal::STOP);
    let mut tickets = send(&mut endpoint, 512 + 1024 + 2048);
    std::thread::scope(|scope| {
        let beyond = scope.spawn(|| {
            let tickets = send(&mut endpoint, 1);
            (endpoint, tickets)
        });
        std::thread::sleep(Duration::from_millis(300));
        assert!(!beyond.is_finished(), "the last segment is beyond the half");
        let grown = Geometry::DEFAULT.base_bytes() + SEGMENTS[0] + SEGMENTS[1];
        assert_eq!(used(&cluster, own), grown);
        signal(service, Signal::CONT);
        let _others = [(); 2].map(|()| client.open::<Slow>(&slow()).expect("open"));
        let (mut endpoint, last) = beyond.join().expect("the last one");
        tickets.extend(last);
        wait(&mut endpoint, tickets, 0);
    });
    drop(client);
    cluster.shut_down();
}

#[test]
fn a_node_that_stands_still_stops_no_burst() {
    let cluster = cluster(1);
    let client = attach(&cluster, "n1");
    let mut endpoint = client.open::<Slow>(&slow()).expect("open");
    let daemon = cluster.node("n1").pid();
    signal(daemon, Signal::STOP);
    let begin = Instant::now();
    // Nobody answers whether the queues may grow.
    let tickets = send(&mut endpoint, 3000);
    wait(&mut endpoint, tickets, 0);
    let took = begin.elapsed();
    signal(daemon, Signal::CONT);
    assert!(took < SOON, "took {took:?}");
    drop(endpoint);
    drop(client);
    cluster.shut_down();
}
