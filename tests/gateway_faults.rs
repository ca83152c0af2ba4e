//! Gateways that cannot start, die again at once, or die while clients follow a service that moves;
//! and a daemon that forgets the channels of other nodes' clients. No channel is lost by the former,
//! and none of the latter pretends to be new.

use std::io::{BufRead, BufReader, Write};
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kv_messages::{Count, Kv, Put};
use rustix::process::{Pid, Signal, kill_process};
use weft::{Domain, Endpoint, RefusalCode};
use weft_tests::contracts::{Slow, Work};
use weft_tests::{Cluster, ClusterOptions, eventually, kill, processes_in, wait_until_gone};

/// How long an answer may take, restarts included.
const PATIENCE: Duration = Duration::from_secs(30);

/// The program of the slow service.
const TEST_SERVICE: &str = env!("CARGO_BIN_EXE_weft-test-service");

/// How many channels a client of these tests has: more than a gateway is given at a time.
const CHANNELS: usize = 100;

fn attach(cluster: &Cluster, node: &str) -> Domain {
    let socket = cluster.node(node).data.join("weft.sock");
    Domain::attach(&socket, "operator".parse().expect("a name")).expect("attach")
}

fn open_many(domain: &Domain) -> Vec<Endpoint<Kv>> {
    let kv = "kv".parse().expect("a name");
    (0..CHANNELS)
        .map(|_| domain.open::<Kv>(&kv).expect("open kv"))
        .collect()
}

/// One write on each channel; each key is new, so that a second version is a message handled twice.
fn write_on_all(channels: &mut [Endpoint<Kv>], round: &str) {
    let tickets: Vec<_> = channels
        .iter_mut()
        .enumerate()
        .map(|(number, channel)| {
            let put = Put {
                key: format!("{round}/{number}"),
                value: vec![1; 200],
            };
            channel.send(&put).expect("send")
        })
        .collect();
    for (number, (channel, ticket)) in channels.iter_mut().zip(tickets).enumerate() {
        let reply = channel
            .wait(ticket, PATIENCE)
            .unwrap_or_else(|error| panic!("{round}, channel {number}: {error}"));
        assert_eq!(reply.version, 1, "{round}, channel {number}");
    }
}

fn count(channel: &mut Endpoint<Kv>) -> u64 {
    let all = Count {
        prefix: String::new(),
    };
    channel.call(&all, PATIENCE).expect("count").count
}

/// The gateway of a node as the system knows it: the node itself may be waiting for it.
fn gateway_process(cluster: &Cluster, node: &str) -> Option<u32> {
    processes_in(&cluster.node(node).data)
        .into_iter()
        .find(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|word| word == b"gateway")
        })
}

/// What a node says when its gateway listens, and when a service has come to it.
const LISTENS: &str = "the gateway listens on";
const ARRIVED: &str = "service kv has moved here from";

/// How often a node has said something since it was started.
fn told(cluster: &Cluster, node: &str, what: &str) -> usize {
    let log = std::fs::read_to_string(cluster.path().join(format!("{node}.log")));
    log.expect("a log").matches(what).count()
}

/// Waits without sleeping: what follows is to happen within a millisecond.
fn soon(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not in time");
        std::thread::yield_now();
    }
}

fn send_signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    kill_process(pid.expect("a pid"), signal).expect("signal");
}

#[test]
fn a_gateway_whose_port_is_taken_for_a_moment_comes_back_when_it_is_free() {
    let cluster = Cluster::start(2);
    cluster.run_kv("n1");
    let mut channels = open_many(&attach(&cluster, "n2"));
    write_on_all(&mut channels, "before");
    // The daemon is held until the port has another owner, so that it cannot be quicker.
    let (daemon, port) = (cluster.node("n1").pid(), cluster.node("n1").port);
    let gateway = gateway_process(&cluster, "n1").expect("a gateway");
    send_signal(daemon, Signal::STOP);
    kill(gateway);
    wait_until_gone(gateway, PATIENCE);
    let squatter = eventually("the port is free", PATIENCE, || {
        UdpSocket::bind(("127.0.0.1", port)).map_err(|error| error.to_string())
    });
    send_signal(daemon, Signal::CONT);
    eventually("the node says why it has no gateway", PATIENCE, || {
        let log = cluster.node("n1").log();
        if log.contains("the gateway could not be started") {
            Ok(())
        } else {
            Err(log)
        }
    });
    drop(squatter);
    write_on_all(&mut channels, "after");
    assert_eq!(count(&mut channels[0]), 2 * CHANNELS as u64);
    drop(channels);
    cluster.shut_down();
}

#[test]
fn a_gateway_that_dies_while_it_takes_over_costs_no_channel() {
    let cluster = Cluster::start(2);
    cluster.run_kv("n1");
    let mut channels = open_many(&attach(&cluster, "n2"));
    write_on_all(&mut channels, "before");
    // Each successor gets a little further with the channels than the one before. The last but one
    // dies before it listens.
    for moment_ms in [0, 1, 2, 4, 8, 16] {
        let seen = told(&cluster, "n2", LISTENS);
        kill(gateway_process(&cluster, "n2").expect("a gateway"));
        soon("the next gateway listens", || {
            told(&cluster, "n2", LISTENS) > seen
        });
        std::thread::sleep(Duration::from_millis(moment_ms));
    }
    let gateway = gateway_process(&cluster, "n2").expect("a gateway");
    kill(gateway);
    wait_until_gone(gateway, PATIENCE);
    soon("the next gateway is there", || {
        gateway_process(&cluster, "n2").is_some_and(|next| {
            kill(next);
            true
        })
    });
    write_on_all(&mut channels, "after");
    assert_eq!(count(&mut channels[0]), 2 * CHANNELS as u64);
    drop(channels);
    cluster.shut_down();
}

#[test]
fn a_gateway_that_dies_while_clients_follow_a_move_costs_no_channel() {
    let cluster = Cluster::start(2);
    cluster.run_kv("n1");
    let mut channels = open_many(&attach(&cluster, "n1"));
    write_on_all(&mut channels, "before");
    // After the target serves, which is when the source is about to point its clients there.
    let moments_ms = [0, 1, 2, 3, 5, 8];
    for (round, moment_ms) in moments_ms.into_iter().enumerate() {
        let gateway = gateway_process(&cluster, "n1").expect("a gateway");
        let seen = told(&cluster, "n2", ARRIVED);
        let moving = cluster.start_weft("n1", &["migrate", "kv", "--to", "n2"]);
        soon("kv is on n2", || told(&cluster, "n2", ARRIVED) > seen);
        std::thread::sleep(Duration::from_millis(moment_ms));
        kill(gateway);
        // The move is done, whatever became of who has asked for it.
        let _ = moving.finish(PATIENCE);
        write_on_all(&mut channels, &format!("round {round}"));
        eventually("kv is on n1 again", PATIENCE, || {
            if cluster.owner("n1", "kv").expect("an owner").0 == "n1" {
                return Ok(());
            }
            let back = cluster.weft("n2", &["migrate", "kv", "--to", "n1"]).done();
            Err(format!("{back:?}"))
        });
        write_on_all(&mut channels, &format!("back {round}"));
    }
    let written = (1 + 2 * moments_ms.len()) * CHANNELS;
    assert_eq!(count(&mut channels[0]), written as u64);
    drop(channels);
    cluster.shut_down();
}

#[test]
fn a_daemon_that_comes_back_without_a_channel_leaves_its_requests_unknown() {
    let options = ClusterOptions::new(2).grant("operator", "slow", "test.slow");
    let mut cluster = Cluster::with(&options);
    let run = ["run", "slow", "--binary", TEST_SERVICE, "--", "slow"];
    let _ = cluster.weft("n2", &run).expect_done();
    let domain = attach(&cluster, "n1");
    let slow = "slow".parse().expect("a name");
    let mut used = domain.open::<Slow>(&slow).expect("open");
    // Nothing was ever answered on this one: by its cursors alone it looks like new.
    let mut fresh = domain.open::<Slow>(&slow).expect("open");
    let answered = used.call(&Work { milliseconds: 0 }, PATIENCE);
    assert_eq!(answered.expect("an answer").handled, 1);
    let work = Work {
        milliseconds: 2_000,
    };
    let tickets = [
        used.send(&work).expect("send"),
        fresh.send(&work).expect("send"),
    ];
    // Long enough for both to have arrived.
    std::thread::sleep(Duration::from_millis(500));
    cluster.kill_daemon("n2");
    cluster.restart("n2");
    for (endpoint, ticket) in [&mut used, &mut fresh].into_iter().zip(tickets) {
        let lost = endpoint
            .wait(ticket, PATIENCE)
            .expect_err("nobody knows what became of it");
        assert_eq!(lost.refusal().code, RefusalCode::OutcomeUnknown, "{lost}");
        assert!(lost.to_string().contains("open another"), "{lost}");
    }
    eventually("another channel is opened", PATIENCE, || {
        let mut next = domain
            .open::<Slow>(&slow)
            .map_err(|error| error.to_string())?;
        let answer = next.call(&Work { milliseconds: 0 }, PATIENCE);
        // The successor has handled nothing of what was sent to the dead one.
        assert_eq!(answer.map_err(|error| error.to_string())?.handled, 1);
        Ok(())
    });
    drop((used, fresh, domain));
    cluster.shut_down();
}

/// Where the process of the next test finds its node.
const SOCKET: &str = "WEFT_TEST_SOCKET";

/// Not a test: the client of the next one, which has to be a process of its own. Calls once, and again
/// for a line on its standard input.
#[test]
#[ignore = "started by another test"]
fn client_in_a_process_of_its_own() {
    let socket = std::env::var_os(SOCKET).expect("started by another test");
    let domain = Domain::attach(Path::new(&socket), "operator".parse().expect("a name"));
    let slow = "slow".parse().expect("a name");
    let mut endpoint = domain.expect("attach").open::<Slow>(&slow).expect("open");
    for _ in 0..2 {
        let answer = endpoint.call(&Work { milliseconds: 0 }, PATIENCE);
        println!("handled: {}", answer.expect("an answer").handled);
        std::io::stdin()
            .read_line(&mut String::new())
            .expect("a line");
    }
}

#[test]
fn a_client_that_is_stopped_while_its_service_moves_delays_nobody_and_keeps_its_channel() {
    let options = ClusterOptions::new(2).grant("operator", "slow", "test.slow");
    let cluster = Cluster::with(&options);
    let run = ["run", "slow", "--binary", TEST_SERVICE, "--", "slow"];
    let _ = cluster.weft("n1", &run).expect_done();
    let mut client = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "client_in_a_process_of_its_own"])
        .args(["--ignored", "--nocapture"])
        .env(SOCKET, cluster.node("n1").data.join("weft.sock"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the client");
    let mut said = BufReader::new(client.stdout.take().expect("stdout")).lines();
    let mut handled = || {
        said.by_ref()
            .map(|line| line.expect("a line"))
            .find_map(|line| Some(line.split_once("handled: ")?.1.parse::<u64>()))
            .expect("it has an answer")
            .expect("a number")
    };
    assert_eq!(handled(), 1);
    send_signal(client.id(), Signal::STOP);
    let slow = "slow".parse().expect("a name");
    let mut other = attach(&cluster, "n1").open::<Slow>(&slow).expect("open");
    let began = Instant::now();
    let _ = cluster
        .weft("n1", &["migrate", "slow", "--to", "n2"])
        .expect_done();
    let answer = other.call(&Work { milliseconds: 0 }, PATIENCE);
    assert_eq!(answer.expect("an answer").handled, 2);
    let took = began.elapsed();
    assert!(took < Duration::from_secs(4), "it waited: {took:?}");
    // Longer than a node waits for an answer of any process.
    std::thread::sleep(Duration::from_secs(6).saturating_sub(took));
    send_signal(client.id(), Signal::CONT);
    // It hears first whatever its node has told it meanwhile.
    std::thread::sleep(Duration::from_millis(300));
    let mut commands = client.stdin.take().expect("stdin");
    commands.write_all(b"go\n").expect("write");
    assert_eq!(handled(), 3);
    drop(commands);
    assert!(client.wait().expect("wait").success());
    drop(other);
    cluster.shut_down();
}
