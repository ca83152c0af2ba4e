//! The daemon of the source or of the target dies at any moment of a move, and comes back.
//!
//! Whatever the moment, one node owns the service in the end and it answers everybody. What was
//! acknowledged is there, unless the daemon that died had the only copy: `kv` keeps its data in
//! memory, so the death of the node that serves it takes them along.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use weft::{Domain, Endpoint, RefusalCode, Ticket};
use weft_node_control::{Migrate, MigrateReply, NodeControl};
use weft_tests::{Cluster, eventually};

use kv_messages::{KeyEntry, Kv, Put, Scan};

/// How long the cluster may take to get over it: longer than a target that has the state waits for a
/// sign of its source before it asks the directory itself, which is 75 s.
const PATIENCE: Duration = Duration::from_secs(100);

/// Entries that are there before each move, and how large: enough for a copy to take its time.
const ENTRIES: usize = 40;
const ENTRY_BYTES: usize = 50 * 1024;

/// Moments after the order to move, in parts of the time that an undisturbed move takes. The last
/// step of a move is short and the copy is long, so most of the moments are late.
const MOMENTS: [f64; 8] = [0.0, 0.4, 0.7, 0.85, 0.92, 0.97, 1.0, 1.05];

/// n1 holds the directory; kv moves from n2 to n3.
const SOURCE: &str = "n2";
const TARGET: &str = "n3";

fn attach(cluster: &Cluster, node: &str) -> Domain {
    let socket = cluster.node(node).data.join("weft.sock");
    eventually("attach", PATIENCE, || {
        Domain::attach(&socket, "operator".parse().expect("a name"))
            .map_err(|error| error.to_string())
    })
}

fn open_kv(cluster: &Cluster, node: &str) -> Endpoint<Kv> {
    let domain = attach(cluster, node);
    let name = "kv".parse().expect("a name");
    eventually("kv opens", PATIENCE, || {
        domain.open::<Kv>(&name).map_err(|error| error.to_string())
    })
}

/// Keys, each with a mark of the round that wrote it.
type Entries = BTreeSet<(String, Option<u8>)>;

/// The keys that each round writes, so that the state does not grow.
const PREFIX: &str = "filled/";

/// Fills kv with what a round expects to find again.
fn fill(kv: &mut Endpoint<Kv>, mark: u8) -> Entries {
    (0..ENTRIES)
        .map(|number| {
            let key = format!("{PREFIX}{number:03}");
            let put = Put {
                key: key.clone(),
                value: vec![mark; ENTRY_BYTES],
            };
            kv.call(&put, PATIENCE)
                .unwrap_or_else(|error| panic!("{key}: {error}"));
            (key, Some(mark))
        })
        .collect()
}

fn filled(kv: &mut Endpoint<Kv>) -> Entries {
    let mut found = Entries::new();
    loop {
        let scan = Scan {
            prefix: PREFIX.to_owned(),
            after: found.last().map(|(key, _)| key.clone()),
            limit: 1000,
        };
        let page = kv.call(&scan, PATIENCE).expect("scan");
        let marked = |entry: KeyEntry| (entry.key, entry.value.first().copied());
        found.extend(page.entries.into_iter().map(marked));
        if !page.more {
            return found;
        }
    }
}

/// Tells the source to move kv to the target.
fn order_move(kernel: &mut Endpoint<NodeControl>) -> Ticket<MigrateReply> {
    let order = Migrate {
        service: "kv".parse().expect("a name"),
        to: TARGET.parse().expect("a name"),
    };
    kernel.send(&order).expect("send")
}

fn open_kernel(cluster: &Cluster, node: &str) -> Endpoint<NodeControl> {
    let name = format!("node/{node}").parse().expect("a name");
    attach(cluster, "n1").open(&name).expect("a daemon")
}

/// How long a move takes that nobody disturbs. kv is back at the source afterwards.
fn time_of_a_move(cluster: &Cluster) -> Duration {
    fill(&mut open_kv(cluster, "n1"), u8::MAX);
    let mut kernel = open_kernel(cluster, SOURCE);
    let began = Instant::now();
    let ticket = order_move(&mut kernel);
    kernel.wait(ticket, PATIENCE).expect("nobody disturbs");
    let took = began.elapsed();
    let _ = cluster
        .weft("n1", &["migrate", "kv", "--to", SOURCE])
        .expect_done();
    took
}

/// Moves kv, kills `victim` so long after the order, starts it again, and looks at what is left.
fn kill_in_a_move(cluster: &mut Cluster, victim: &str, round: u8, moment: Duration) {
    let mut bystander = open_kv(cluster, "n1");
    let before = fill(&mut bystander, round);
    let (_, epoch) = cluster.owner("n1", "kv").expect("an owner");

    let mut kernel = open_kernel(cluster, SOURCE);
    let ticket = order_move(&mut kernel);
    std::thread::sleep(moment);
    cluster.kill_daemon(victim);
    // Time for the survivors to notice, and for a commit on the way to arrive.
    std::thread::sleep(Duration::from_millis(300));
    cluster.restart(victim);

    let moved = kernel.wait(ticket, PATIENCE);
    let (node, now) = cluster.owner("n1", "kv").expect("an owner");
    let what = match &moved {
        Ok(reply) => format!("moved, epoch {}", reply.report.epoch.get()),
        Err(error) => error.to_string(),
    };
    println!("{victim} killed {moment:?} into a move: {node} owns, epoch {epoch} -> {now}; {what}");
    assert!(now >= epoch, "epochs never go back");

    eventually("one instance serves", PATIENCE, || {
        let mut found = cluster.instances("kv");
        let (owner, _) = cluster.owner("n1", "kv").ok_or("no owner")?;
        // A target whose source has died waits for it to come back with the state, and then gives up.
        found.retain(|(node, state)| !(node == TARGET && state == "incoming"));
        if found == [(owner, "active".to_owned())] {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        }
    });
    for asked in ["n1", "n2", "n3"] {
        let key = format!("after/{round}/{asked}");
        eventually("the service answers all nodes", PATIENCE, || {
            cluster.put(asked, &key, "x").done()
        });
    }
    // The bystander's channel has lived through it, or says that it has not, and does not hang.
    let scan = Scan {
        prefix: "none".into(),
        after: None,
        limit: 1,
    };
    if let Err(error) = bystander.call(&scan, PATIENCE) {
        println!("  the bystander hears: {error}");
        assert_ne!(error.refusal().code, RefusalCode::DeadlineExceeded);
    }
    let mut fresh = open_kv(cluster, "n1");
    let there = filled(&mut fresh);
    // A node that died and serves had the only copy in its memory; otherwise all is there.
    let (owner, _) = cluster.owner("n1", "kv").expect("an owner");
    if owner == victim {
        assert!(
            there.is_empty() || there == before,
            "a part is left: {} of {}",
            there.len(),
            before.len()
        );
    } else {
        assert_eq!(there, before);
    }
}

#[test]
fn the_target_may_die_at_any_moment_of_a_move() {
    let mut cluster = Cluster::start(3);
    cluster.run_kv(SOURCE);
    for (round, part) in (0..).zip(MOMENTS) {
        // Anew each time: other work on the machine changes it.
        let whole = time_of_a_move(&cluster);
        kill_in_a_move(&mut cluster, TARGET, round, whole.mul_f64(part));
        if cluster.owner("n1", "kv").expect("an owner").0 != SOURCE {
            let back = cluster.weft("n1", &["migrate", "kv", "--to", SOURCE]);
            let _ = back.expect_done();
        }
    }
    cluster.shut_down();
}

/// In a cluster of its own for each moment, since a target that lost its source takes no other move
/// of the service for a while.
#[test]
fn the_source_may_die_at_any_moment_of_a_move() {
    for (round, part) in (0..).zip(MOMENTS) {
        let mut cluster = Cluster::start(3);
        cluster.run_kv(SOURCE);
        let whole = time_of_a_move(&cluster);
        kill_in_a_move(&mut cluster, SOURCE, round, whole.mul_f64(part));
        cluster.shut_down();
    }
}

/// The moment that is hardest to hit by time: the directory names the target, which has the state and
/// has not begun to serve.
#[test]
fn a_target_that_dies_between_commit_and_activation_is_sent_the_state_again() {
    let mut cluster = Cluster::start(3);
    cluster.run_kv(SOURCE);
    let before = fill(&mut open_kv(&cluster, "n1"), 1);
    // A directory where the target's record of activations would be written keeps it from serving.
    let in_the_way = cluster.node(TARGET).data.join("moves.new");
    std::fs::create_dir(&in_the_way).expect("a directory");
    let mut kernel = open_kernel(&cluster, SOURCE);
    let ticket = order_move(&mut kernel);
    eventually("the commit is made", PATIENCE, || {
        match cluster.owner("n1", "kv") {
            Some((node, 2)) if node == TARGET => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    cluster.kill_daemon(TARGET);
    std::fs::remove_dir(&in_the_way).expect("remove");
    cluster.restart(TARGET);

    let report = kernel
        .wait(ticket, PATIENCE / 4)
        .expect("the move ends")
        .report;
    assert_eq!(report.to.as_str(), TARGET);
    assert_eq!(filled(&mut open_kv(&cluster, "n1")), before);
    assert_eq!(
        cluster.instances("kv"),
        [(TARGET.to_owned(), "active".to_owned())]
    );
    cluster.shut_down();
}
