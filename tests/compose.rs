//! The cluster of `deploy/`: three containers from one static image. Shows call, migrate and kernel
//! ping there, and kills a container during a move to look at what is left.
//!
//! Needs a Docker engine, `docker-compose`, and what `deploy/build-static.sh` makes:
//!
//! ```sh
//! deploy/build-static.sh && cargo test -p weft-tests --test compose -- --ignored --nocapture
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft_tests::{Compose, docker_is_there, eventually};

/// The nodes of the compose file.
const NODES: [&str; 3] = ["n1", "n2", "n3"];

/// How long a cluster may take to answer, or to get over the loss of a container.
const PATIENCE: Duration = Duration::from_secs(60);

/// When the container is killed, after the moment at which the move is expected to begin. The steps
/// take some ten milliseconds together, so some of these fall before the commit and some behind.
const KILL_AFTER: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(10),
    Duration::from_millis(20),
    Duration::from_millis(35),
    Duration::from_millis(60),
    Duration::from_millis(120),
];

/// Entries that are there before each move, and how large: enough for a copy to take its time.
const ENTRIES: usize = 20;
const ENTRY_BYTES: usize = 50 * 1024;

fn cluster(label: &str) -> Compose {
    assert!(docker_is_there(), "no Docker engine answers: start dockerd");
    let compose = Compose::up(label);
    for from in NODES {
        for to in NODES {
            eventually(&format!("{from} reaches {to}"), PATIENCE, || {
                compose.try_weft(from, &["kernel", "ping", to])
            });
        }
    }
    compose
}

fn put(compose: &Compose, node: &str, key: &str, value: &str) -> Result<Value, String> {
    let fields = json!({ "key": key, "value": value }).to_string();
    compose.try_weft(node, &["call", "kv", "Put", &fields])
}

fn get(compose: &Compose, node: &str, key: &str) -> Option<String> {
    let fields = json!({ "key": key }).to_string();
    let reply = compose
        .weft(node, &["call", "kv", "Get", &fields])
        .expect_done();
    reply["reply"]["entry"]["value"].as_str().map(str::to_owned)
}

/// Where the directory says that `kv` lives, and in which epoch.
fn owner(compose: &Compose) -> (String, u64) {
    let entries = compose.weft("n1", &["kernel", "directory"]).expect_done();
    let entries = entries.as_array().expect("a list");
    let kv = entries
        .iter()
        .find(|entry| entry["service"] == "kv")
        .expect("kv is registered");
    let node = kv["node"].as_str().expect("a node").to_owned();
    (node, kv["epoch"].as_u64().expect("an epoch"))
}

/// Every instance of `kv` that any node tells of, with its state.
fn instances(compose: &Compose) -> Result<Vec<(String, String)>, String> {
    let all = compose.try_weft("n1", &["ps", "--all"])?;
    let mut found = Vec::new();
    for node in all.as_array().ok_or("not a list")? {
        let services = node["services"]
            .as_array()
            .ok_or_else(|| node.to_string())?;
        for service in services.iter().filter(|service| service["name"] == "kv") {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            found.push((text(&node["node"]), text(&service["state"])));
        }
    }
    Ok(found)
}

#[test]
#[ignore = "needs a Docker engine and deploy/build-static.sh; .ci/run runs it"]
fn three_containers_are_a_cluster() {
    let compose = cluster("cluster");
    for (from, to) in [("n1", "n2"), ("n2", "n3"), ("n3", "n1")] {
        let ping = ["kernel", "ping", to, "--from", from, "--count", "5"];
        let pinged = compose.weft("n1", &ping).expect_done();
        let trips = pinged["round_trips_ms"].as_array().expect("a list").len();
        assert_eq!(trips, 5, "{pinged}");
    }
    let _ = compose.weft_by_compose("n1", &["run", "kv"]).expect_done();
    put(&compose, "n3", "greeting", "hello").expect("put");
    for (to, epoch) in [("n2", 2), ("n3", 3), ("n1", 4)] {
        let moved = compose
            .weft("n2", &["migrate", "kv", "--to", to])
            .expect_done();
        assert_eq!(
            (moved["to"].as_str(), moved["epoch"].as_u64()),
            (Some(to), Some(epoch))
        );
        assert_eq!(owner(&compose), (to.to_owned(), epoch));
        for node in NODES {
            assert_eq!(
                get(&compose, node, "greeting").as_deref(),
                Some("hello"),
                "at {node}"
            );
        }
    }
    // Started again, the cluster is the same one: nothing is set up twice, nothing is restarted.
    compose.bring_up();
    assert_eq!(get(&compose, "n2", "greeting").as_deref(), Some("hello"));
    // Nodes run as nobody, cannot write outside their volume, and cannot gain rights.
    let inspect = [
        "inspect",
        "--format",
        "{{.Config.User}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{.HostConfig.SecurityOpt}}",
    ];
    for node in NODES {
        let told =
            Compose::docker(&[&inspect[..], &[&compose.container(node)]].concat()).expect_success();
        assert_eq!(
            told.stdout.trim(),
            "65534:65534 true [ALL] [no-new-privileges:true]"
        );
    }
    // SIGTERM ends them cleanly, well within the grace period.
    let containers: Vec<String> = NODES.iter().map(|node| compose.container(node)).collect();
    let began = Instant::now();
    for container in &containers {
        let _ = Compose::docker(&["stop", container]).expect_success();
        let told = Compose::docker(&["inspect", "--format", "{{.State.ExitCode}}", container]);
        assert_eq!(told.stdout.trim(), "0", "{}", compose.logs());
    }
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
}

/// Puts numbered keys from n3 without pause, and remembers which were acknowledged.
fn write_until(compose: &Compose, round: usize, stop: &AtomicBool) -> BTreeSet<String> {
    let mut acknowledged = BTreeSet::new();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("during/{round}/{number:04}");
        // While the service is frozen or its node is down a call may fail; then nothing was promised.
        if let Ok(reply) = put(compose, "n3", &key, "x") {
            assert_eq!(reply["reply"]["version"], 1, "{key} was written twice");
            acknowledged.insert(key);
        }
    }
    acknowledged
}

/// All keys with a prefix, page after page.
fn keys(compose: &Compose, prefix: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut after = Value::Null;
    loop {
        let fields = json!({ "prefix": prefix, "after": after, "limit": 1000 }).to_string();
        let reply = compose
            .weft("n1", &["call", "kv", "Scan", &fields])
            .expect_done();
        let entries = reply["reply"]["entries"].as_array().expect("entries");
        found.extend(
            entries
                .iter()
                .filter_map(|entry| entry["key"].as_str().map(str::to_owned)),
        );
        if reply["reply"]["more"] != json!(true) {
            return found;
        }
        after = entries.last().expect("more follows the last")["key"].clone();
    }
}

/// How long it takes until a `weft` command in a container does its work: what lies between typing
/// `migrate` and the first step of the move.
fn time_to_begin(compose: &Compose) -> Duration {
    let ping = || {
        let began = Instant::now();
        let _ = compose.weft("n1", &["kernel", "ping", "n1"]).expect_done();
        began.elapsed()
    };
    let mut times: Vec<Duration> = (0..5).map(|_| ping()).collect();
    times.sort_unstable();
    // The command's way out of the container is a part of it.
    times[2].mul_f64(0.8)
}

#[test]
#[ignore = "needs a Docker engine and deploy/build-static.sh; .ci/run runs it"]
fn a_container_killed_during_a_move_leaves_exactly_one_owner_that_answers() {
    let compose = Arc::new(cluster("kill"));
    let _ = compose.weft("n1", &["run", "kv"]).expect_done();
    let begin = time_to_begin(&compose);
    let mut kept_by_source = 0;
    for (round, after) in KILL_AFTER.into_iter().enumerate() {
        let prefix = format!("before/{round}/");
        let value = "v".repeat(ENTRY_BYTES);
        let before: BTreeSet<String> = (0..ENTRIES)
            .map(|number| format!("{prefix}{number:04}"))
            .collect();
        for key in &before {
            put(&compose, "n1", key, &value).unwrap_or_else(|told| panic!("{key}: {told}"));
        }
        let epoch = owner(&compose).1;
        let victim = compose.container("n2");
        let stop = Arc::new(AtomicBool::new(false));
        let writer = std::thread::spawn({
            let (compose, stop) = (Arc::clone(&compose), Arc::clone(&stop));
            move || write_until(&compose, round, &stop)
        });

        let mut moving = compose.start_weft("n1", &["migrate", "kv", "--to", "n2"]);
        std::thread::sleep(begin + after);
        let _ = Compose::docker(&["kill", &victim]).expect_success();
        // The directory is on n1, which lives. Either the move is called off, or the target owns and
        // the source waits for it to come back.
        let (node, now) = loop {
            let found = owner(&compose);
            if found.0 == "n2" || moving.has_ended() {
                break found;
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        println!(
            "round {round}, killed {after:?} into the move: {node} owns, epoch {epoch} -> {now}"
        );
        match node.as_str() {
            "n1" => {
                let outcome = moving.finish(PATIENCE);
                println!(
                    "  {}",
                    outcome
                        .stdout
                        .split_whitespace()
                        .collect::<Vec<_>>()
                        .join(" ")
                );
                assert!(!outcome.status.success());
                assert_eq!(now, epoch, "the source owns as before");
                eventually("the source serves on without the target", PATIENCE, || {
                    compose.try_weft("n1", &["call", "kv", "Count", "{\"prefix\": \"\"}"])
                });
                stop.store(true, Ordering::Relaxed);
                let during = writer.join().expect("the writer");
                assert_eq!(keys(&compose, &prefix), before);
                let there = keys(&compose, &format!("during/{round}/"));
                let lost: Vec<_> = during.difference(&there).collect();
                assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
                println!(
                    "  {} writes acknowledged meanwhile, all there",
                    during.len()
                );
                kept_by_source += 1;
                let _ = Compose::docker(&["start", &victim]).expect_success();
            }
            "n2" => {
                assert_eq!(now, epoch + 1, "the target owns in the next epoch");
                let _ = Compose::docker(&["start", &victim]).expect_success();
                let _ = moving.finish(Duration::from_secs(150));
                stop.store(true, Ordering::Relaxed);
                let _ = writer.join().expect("the writer");
                eventually("the target serves", PATIENCE, || {
                    compose.try_weft("n1", &["call", "kv", "Count", "{\"prefix\": \"\"}"])
                });
                // The source sends the state again if the target had not begun to serve. If it had,
                // the only copy has died with it: `kv` keeps nothing elsewhere.
                let there = keys(&compose, &prefix);
                println!("  {} of {} entries are there", there.len(), before.len());
                assert!(
                    there.is_empty() || there == before,
                    "a part is left: {there:?}"
                );
            }
            other => panic!("{other} was no part of the move"),
        }

        eventually("one instance is left, and it is active", PATIENCE, || {
            let found = instances(&compose)?;
            let owner = owner(&compose).0;
            if found == [(owner, "active".to_owned())] {
                Ok(())
            } else {
                Err(format!("{found:?}"))
            }
        });
        let key = format!("afterwards/{round}");
        for (writer, reader) in [("n3", "n1"), ("n2", "n3")] {
            eventually("the service answers all nodes", PATIENCE, || {
                put(&compose, writer, &key, writer)
            });
            assert_eq!(get(&compose, reader, &key).as_deref(), Some(writer));
        }
        if owner(&compose).0 == "n2" {
            let _ = compose
                .weft("n1", &["migrate", "kv", "--to", "n1"])
                .expect_done();
        }
    }
    println!(
        "{kept_by_source} of {} moves were called off, the others had been committed",
        KILL_AFTER.len()
    );
}
