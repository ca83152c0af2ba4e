//! The daemon of the source or of the target dies at any moment of a move, and comes back.
//!
//! Whatever the moment, one node owns the service in the end and it answers everybody. What was
//! acknowledged is there, unless the daemon that died had the only copy: `kv` keeps its data in
//! memory, so the death of the node that serves it takes them along.

use std::collections::BTreeSet;
use std::time::Duration;

use weft::{Domain, Endpoint, RefusalCode};
use weft_node_control::{Migrate, NodeControl};
use weft_tests::{Cluster, eventually};

use kv_messages::{Kv, Put, Scan};

/// How long the cluster may take to get over it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Entries that are there before each move, and how large: enough for a copy to take its time.
const ENTRIES: usize = 40;
const ENTRY_BYTES: usize = 50 * 1024;

/// Moments after the order to move, in milliseconds. An undisturbed move takes about as long as the
/// longest of them, and which step each falls into differs from run to run.
const MOMENTS_MS: [u64; 8] = [0, 10, 25, 40, 55, 70, 90, 120];

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

/// Fills kv with what a round expects to find again.
fn fill(kv: &mut Endpoint<Kv>, round: usize) -> BTreeSet<String> {
    let keys: BTreeSet<String> = (0..ENTRIES)
        .map(|number| format!("{round}/{number:03}"))
        .collect();
    for key in &keys {
        let put = Put {
            key: key.clone(),
            value: vec![b'v'; ENTRY_BYTES],
        };
        kv.call(&put, PATIENCE)
            .unwrap_or_else(|error| panic!("{key}: {error}"));
    }
    keys
}

fn keys(kv: &mut Endpoint<Kv>, prefix: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    loop {
        let scan = Scan {
            prefix: prefix.to_owned(),
            after: found.last().cloned(),
            limit: 1000,
        };
        let page = kv.call(&scan, PATIENCE).expect("scan");
        found.extend(page.entries.into_iter().map(|entry| entry.key));
        if !page.more {
            return found;
        }
    }
}

/// Moves kv, kills `victim` so long after the order, starts it again, and looks at what is left.
fn kill_in_a_move(victim: &str) {
    let mut cluster = Cluster::start(3);
    cluster.run_kv(SOURCE);
    for (round, moment) in MOMENTS_MS.into_iter().enumerate() {
        let moment = Duration::from_millis(moment);
        let mut bystander = open_kv(&cluster, "n1");
        let before = fill(&mut bystander, round);
        let (_, epoch) = cluster.owner("n1", "kv").expect("an owner");

        let operator = attach(&cluster, "n1");
        let mut kernel = operator
            .open::<NodeControl>(&format!("node/{SOURCE}").parse().expect("a name"))
            .expect("the source's daemon");
        let order = Migrate {
            service: "kv".parse().expect("a name"),
            to: TARGET.parse().expect("a name"),
        };
        let ticket = kernel.send(&order).expect("send");
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
        println!(
            "{victim} killed {moment:?} into a move: {node} owns, epoch {epoch} -> {now}; {what}"
        );
        assert!(now >= epoch, "epochs never go back");

        eventually("one instance is left, and it is active", PATIENCE, || {
            let found = cluster.instances("kv");
            let (owner, _) = cluster.owner("n1", "kv").ok_or("no owner")?;
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
        // The bystander's channel has lived through it, or says plainly that it has not.
        match bystander.call(
            &Scan {
                prefix: "none".into(),
                after: None,
                limit: 1,
            },
            PATIENCE,
        ) {
            Ok(_) => {}
            Err(error) => {
                let code = error.refusal().code;
                assert!(
                    matches!(
                        code,
                        RefusalCode::Closed | RefusalCode::Unreachable | RefusalCode::Moved
                    ),
                    "{error}"
                );
            }
        }
        let mut fresh = open_kv(&cluster, "n1");
        let there = keys(&mut fresh, &format!("{round}/"));
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
        if owner != SOURCE {
            let _ = cluster
                .weft("n1", &["migrate", "kv", "--to", SOURCE])
                .expect_done();
        }
    }
    cluster.shut_down();
}

#[test]
fn the_target_may_die_at_any_moment_of_a_move() {
    kill_in_a_move(TARGET);
}

#[test]
fn the_source_may_die_at_any_moment_of_a_move() {
    kill_in_a_move(SOURCE);
}
