//! `kill -9` of each kind of process, and what the others see: a call that was in the handler of a
//! dead service answers `OutcomeUnknown`; everything else goes on.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kv_messages::{Get, Kv, Put};
use weft::{Domain, Endpoint, RefusalCode};
use weft_tests::contracts::{Slow, Work};
use weft_tests::{Cluster, ClusterOptions, eventually, is_running, kill, wait_until_gone};

/// How long an answer may take, a restart of the other side included.
const PATIENCE: Duration = Duration::from_secs(30);

/// How many messages a steady client has in flight.
const WINDOW: u64 = 8;

/// The program of the slow service.
const TEST_SERVICE: &str = env!("CARGO_BIN_EXE_weft-test-service");

fn attach(cluster: &Cluster, node: &str) -> Domain {
    let socket = cluster.node(node).data.join("weft.sock");
    Domain::attach(&socket, "operator".parse().expect("a name")).expect("attach")
}

fn open_kv(cluster: &Cluster, node: &str) -> Endpoint<Kv> {
    attach(cluster, node)
        .open::<Kv>(&"kv".parse().expect("a name"))
        .expect("open kv")
}

fn slow_cluster(nodes: usize) -> Cluster {
    let options = ClusterOptions::new(nodes).grant("operator", "slow", "test.slow");
    let cluster = Cluster::with(&options);
    let run = ["run", "slow", "--binary", TEST_SERVICE, "--", "slow"];
    let _ = cluster.weft("n1", &run).expect_done();
    cluster
}

/// A client that puts numbered keys into `kv` without pause and never retries.
struct Steady {
    thread: JoinHandle<Result<u64, String>>,
    acknowledged: &'static AtomicU64,
    stop: &'static AtomicBool,
}

impl Steady {
    fn start(cluster: &Cluster, node: &str) -> Self {
        // Leaked: a test has a handful of them, and a thread that panics must not take them along.
        let acknowledged: &AtomicU64 = Box::leak(Box::default());
        let stop: &AtomicBool = Box::leak(Box::default());
        let mut endpoint = open_kv(cluster, node);
        let prefix = format!("steady/{node}");
        let thread =
            std::thread::spawn(move || send_until(&mut endpoint, &prefix, acknowledged, stop));
        Self {
            thread,
            acknowledged,
            stop,
        }
    }

    /// Waits until so many more messages have been acknowledged.
    fn go_on(&self, more: u64) {
        let goal = self.acknowledged.load(Ordering::Relaxed) + more;
        eventually("the client goes on", PATIENCE, || {
            let now = self.acknowledged.load(Ordering::Relaxed);
            if now >= goal {
                Ok(())
            } else if self.thread.is_finished() {
                // Its own words come from `finish`.
                Ok(())
            } else {
                Err(format!("{now} of {goal} are acknowledged"))
            }
        });
    }

    /// Stops it; how many messages it sent, all of them acknowledged once and in order.
    fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.thread.join().expect("the client's thread");
        sent.unwrap_or_else(|told| panic!("{told}"))
    }
}

fn send_until(
    endpoint: &mut Endpoint<Kv>,
    prefix: &str,
    acknowledged: &AtomicU64,
    stop: &AtomicBool,
) -> Result<u64, String> {
    let mut tickets = std::collections::VecDeque::new();
    let mut last_revision = 0;
    let mut sent = 0_u64;
    loop {
        let ending = stop.load(Ordering::Relaxed);
        if !ending && (tickets.len() as u64) < WINDOW {
            let put = Put {
                key: format!("{prefix}/{sent:08}"),
                value: sent.to_le_bytes().to_vec(),
            };
            let ticket = endpoint
                .send(&put)
                .map_err(|error| format!("send {sent}: {error}"))?;
            tickets.push_back((sent, ticket));
            sent += 1;
            continue;
        }
        let Some((number, ticket)) = tickets.pop_front() else {
            return Ok(sent);
        };
        let reply = endpoint
            .wait(ticket, PATIENCE)
            .map_err(|error| format!("message {number}: {error}"))?;
        // The key was not there before, so a second version would be a message handled twice.
        if reply.version != 1 || reply.revision <= last_revision {
            return Err(format!(
                "message {number}: {reply:?} after revision {last_revision}"
            ));
        }
        last_revision = reply.revision;
        acknowledged.fetch_add(1, Ordering::Relaxed);
    }
}

/// How many keys of a steady client are there.
fn count(cluster: &Cluster, asked: &str, node: &str) -> u64 {
    let fields = format!("{{\"prefix\": \"steady/{node}/\"}}");
    let reply = cluster
        .weft(asked, &["call", "kv", "Count", &fields])
        .expect_done();
    reply["reply"]["count"].as_u64().expect("a count")
}

#[test]
fn a_killed_client_is_forgotten_and_disturbs_nobody() {
    let cluster = slow_cluster(2);
    cluster.run_kv("n1");
    let others = [Steady::start(&cluster, "n1"), Steady::start(&cluster, "n2")];
    for node in ["n1", "n2"] {
        let work = ["call", "slow", "Work", "{\"milliseconds\": 1000}"];
        let victim = cluster.start_weft(node, &work);
        let pid = victim.pid();
        // Its message is in the handler when the channel is there and a while has passed.
        eventually("the victim's channel", PATIENCE, || {
            let channels = cluster.inventory("n1")["channels"].clone();
            let open = channels
                .as_array()
                .is_some_and(|channels| channels.iter().any(|channel| channel["target"] == "slow"));
            if open {
                Ok(())
            } else {
                Err(channels.to_string())
            }
        });
        kill(pid);
        let _ = victim.finish(PATIENCE);
        eventually("the victim is forgotten", PATIENCE, || {
            let inventory = cluster.inventory("n1");
            let channels = inventory["channels"].as_array().expect("a list");
            match channels.iter().find(|channel| channel["target"] == "slow") {
                None => Ok(()),
                Some(channel) => Err(channel.to_string()),
            }
        });
        others.iter().for_each(|other| other.go_on(200));
    }
    let reply = cluster.weft("n2", &["call", "slow", "Work", "{\"milliseconds\": 0}"]);
    let _ = reply.expect_done();
    for (other, node) in others.into_iter().zip(["n1", "n2"]) {
        let sent = other.finish();
        assert_eq!(count(&cluster, "n1", node), sent);
    }
    cluster.shut_down();
}

/// The service dies with one message in its hands and others behind it.
fn kill_the_service_under(node: &str) {
    let cluster = slow_cluster(2);
    let mut endpoint = attach(&cluster, node)
        .open::<Slow>(&"slow".parse().expect("a name"))
        .expect("open");
    let handled = endpoint
        .call(&Work { milliseconds: 0 }, PATIENCE)
        .expect("a healthy service answers")
        .handled;
    assert_eq!(handled, 1);

    let in_hand = endpoint
        .send(&Work {
            milliseconds: 60_000,
        })
        .expect("send");
    let behind: Vec<_> = (0..5)
        .map(|_| endpoint.send(&Work { milliseconds: 0 }).expect("send"))
        .collect();
    // Long enough for the first to be taken, wherever the client is.
    std::thread::sleep(Duration::from_millis(500));
    let victim = cluster.pid_of_service("n1", "slow");
    kill(victim);
    wait_until_gone(victim, PATIENCE);

    let lost = endpoint
        .wait(in_hand, PATIENCE)
        .expect_err("nobody knows what became of it");
    assert_eq!(lost.refusal().code, RefusalCode::OutcomeUnknown, "{lost}");
    // The successor has a new state, and has handled each of the others exactly once, in order.
    let answers: Vec<u64> = behind
        .into_iter()
        .map(|ticket| endpoint.wait(ticket, PATIENCE).expect("an answer").handled)
        .collect();
    assert_eq!(answers, [1, 2, 3, 4, 5]);

    let service = &cluster.inventory("n1")["services"][0];
    assert_eq!(
        (service["state"].as_str(), service["restarts"].as_u64()),
        (Some("active"), Some(1))
    );
    assert_ne!(service["pid"].as_u64(), Some(victim.into()));
    drop(endpoint);
    cluster.shut_down();
}

#[test]
fn a_killed_service_leaves_the_outcome_of_the_message_in_hand_unknown_to_a_local_client() {
    kill_the_service_under("n1");
}

#[test]
fn a_killed_service_leaves_the_outcome_of_the_message_in_hand_unknown_to_a_remote_client() {
    kill_the_service_under("n2");
}

#[test]
fn a_service_that_dies_again_and_again_is_given_up_and_says_so() {
    let cluster = slow_cluster(1);
    let deadline = Instant::now() + Duration::from_secs(60);
    let detail = loop {
        assert!(Instant::now() < deadline, "it is restarted for ever");
        let service = cluster.inventory("n1")["services"][0].clone();
        if service["state"] == "failed" {
            break service["detail"].as_str().unwrap_or_default().to_owned();
        }
        if let Some(pid) = service["pid"].as_u64() {
            kill(u32::try_from(pid).expect("a pid"));
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(detail.contains("weft run slow"), "{detail}");
    let call = ["call", "slow", "Work", "{\"milliseconds\": 0}"];
    assert_eq!(cluster.weft("n1", &call).exit(), Some(4));
    let run = ["run", "slow", "--binary", TEST_SERVICE, "--", "slow"];
    let _ = cluster.weft("n1", &run).expect_done();
    let _ = cluster.weft("n1", &call).expect_done();
    cluster.shut_down();
}

#[test]
fn a_killed_gateway_loses_repeats_and_reorders_nothing() {
    let cluster = Cluster::start(2);
    cluster.run_kv("n1");
    let remote = Steady::start(&cluster, "n2");
    let local = Steady::start(&cluster, "n1");
    remote.go_on(500);
    for node in ["n2", "n1", "n2"] {
        kill(cluster.pid_of_gateway(node));
        local.go_on(500);
        remote.go_on(500);
    }
    // Both ends at once.
    let gateways = [cluster.pid_of_gateway("n1"), cluster.pid_of_gateway("n2")];
    gateways.into_iter().for_each(kill);
    remote.go_on(500);
    for (client, node) in [(local, "n1"), (remote, "n2")] {
        let sent = client.finish();
        assert_eq!(count(&cluster, "n2", node), sent, "as {node} sent");
    }
    cluster.shut_down();
}

#[test]
fn a_killed_daemon_takes_its_own_services_along_and_nobody_elses() {
    let mut cluster = Cluster::with(&ClusterOptions::new(2).grant("operator", "far", "kv"));
    cluster.run_kv("n1");
    let _ = cluster
        .weft("n2", &["run", "far", "--program", "kv"])
        .expect_done();
    let local = Steady::start(&cluster, "n1");
    local.go_on(100);
    let children = [
        cluster.pid_of_service("n2", "far"),
        cluster.pid_of_gateway("n2"),
    ];
    assert!(children.iter().all(|pid| is_running(*pid)));

    cluster.kill_daemon("n2");
    for pid in children {
        wait_until_gone(pid, Duration::from_secs(10));
    }
    local.go_on(1000);
    let call = [
        "--timeout",
        "3s",
        "call",
        "far",
        "Count",
        "{\"prefix\": \"\"}",
    ];
    let refused = cluster.weft("n1", &call);
    assert_eq!(refused.exit(), Some(4), "{}", refused.finished.told());

    // The node comes back with what it ran, and the cluster with it.
    cluster.restart("n2");
    eventually("far serves again", PATIENCE, || {
        cluster.weft("n1", &call).done()
    });
    assert_eq!(cluster.instances("far").len(), 1);
    let sent = local.finish();
    assert_eq!(count(&cluster, "n2", "n1"), sent);
    cluster.shut_down();
}

#[test]
fn a_killed_directory_stops_nothing_that_runs() {
    let mut cluster = Cluster::with(&ClusterOptions::new(2).grant("operator", "far", "kv"));
    let _ = cluster.weft("n2", &["run", "kv"]).expect_done();
    let local = Steady::start(&cluster, "n2");
    local.go_on(100);
    cluster.kill_daemon("n1");
    local.go_on(1000);
    // What would need the directory says so instead of hanging.
    let run = ["--timeout", "3s", "run", "far", "--program", "kv"];
    let refused = cluster.weft("n2", &run);
    assert_eq!(refused.exit(), Some(4), "{}", refused.finished.told());
    cluster.restart("n1");
    assert_eq!(cluster.owner("n1", "kv").expect("an owner").0, "n2");
    let sent = local.finish();
    assert_eq!(count(&cluster, "n1", "n2"), sent);
    cluster.shut_down();
}

#[test]
fn nothing_of_a_killed_daemon_keeps_its_node_from_starting_again() {
    let mut cluster = Cluster::start(1);
    for _ in 0..3 {
        cluster.kill_daemon("n1");
        let socket = cluster.node("n1").data.join("weft.sock");
        assert!(Path::new(&socket).exists(), "a dead daemon removes nothing");
        let asked = cluster.weft("n1", &["ps"]);
        assert_eq!(asked.exit(), Some(4), "{}", asked.finished.told());
        cluster.restart("n1");
    }
    cluster.run_kv("n1");
    let mut kv = open_kv(&cluster, "n1");
    let put = Put {
        key: "k".into(),
        value: b"v".to_vec(),
    };
    kv.call(&put, PATIENCE).expect("put");
    let found = kv.call(&Get { key: "k".into() }, PATIENCE).expect("get");
    assert_eq!(found.entry.expect("an entry").value, b"v");
    cluster.shut_down();
}
