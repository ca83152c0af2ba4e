//! Two nodes with one name: the first one keeps it, unless it is gone.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod support;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use support::{Cluster, TestNode, eventually};
use weft_types::RefusalCode;

fn told(node: &TestNode) -> Vec<String> {
    let told = node.home.name_taken.lock().unwrap();
    told.iter().map(|(_, text)| text.clone()).collect()
}

/// The address at which `of` has its connection to `to`.
fn connected_from(of: &TestNode, to: &TestNode) -> Option<std::net::SocketAddr> {
    let peers = of.handle().peers();
    peers
        .into_iter()
        .find(|peer| peer.connected && peer.node == to.name)
        .and_then(|peer| peer.address)
}

#[tokio::test]
async fn the_second_node_of_a_name_is_refused_while_the_first_goes_on_under_load() {
    let cluster = Cluster::new("shop");
    let (n1, n2) = (cluster.node("n1"), cluster.node("n2"));
    let kv = cluster.start_service(&n2, "kv", 1);
    cluster.start_service(&n1, "shop", 1);
    let client = n1
        .open("app", "kv", cluster.grant("app", "kv"))
        .await
        .unwrap();
    let (channel, replies) = (client.channel, client.replies.clone());
    let work = tokio::spawn(client.exchange(6_000, Duration::from_micros(200)));
    eventually("replies come", || replies.load(Ordering::SeqCst) > 500).await;

    let second = cluster.twin(&n2);
    let opening = second.open("app", "shop", cluster.grant("app", "shop"));
    let (opened, ()) = tokio::join!(opening, async {
        eventually("it is told why", || !told(&second).is_empty()).await;
        assert!(!work.is_finished(), "the load was over before");
    });
    let refusal = match opened {
        Ok(_) => panic!("it was let in"),
        Err(refusal) => refusal,
    };
    assert_eq!(refusal.code, RefusalCode::Unreachable, "{refusal}");
    let (peer, text) = second.home.name_taken.lock().unwrap()[0].clone();
    assert_eq!(peer, n1.name);
    for word in [
        "n2",
        "connected to n1",
        &n2.address().to_string(),
        "weft ca node",
    ] {
        assert!(text.contains(word), "{word:?} is missing in: {text}");
    }

    let (_client, report) = work.await.unwrap();
    assert_eq!(report.replies, 6_000);
    let mut numbers: Vec<_> = kv
        .handled(channel)
        .iter()
        .map(|(_, number)| *number)
        .collect();
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..6_000), "lost or doubled");
    assert_eq!(connected_from(&n1, &n2), Some(n2.address()));
    assert!(told(&n2).is_empty(), "the first one was told to go");
}

#[tokio::test]
async fn of_two_that_come_at_once_one_stays_and_the_other_is_told() {
    let cluster = Cluster::new("shop");
    let (n1, n2) = (cluster.node("n1"), cluster.node("n2"));
    let second = cluster.twin(&n2);
    // n1 dials the one while the other dials n1.
    cluster.set_address(&n2.name, second.address());
    cluster.start_service(&n1, "shop", 1);
    cluster.start_service(&n2, "kv", 1);
    let _channels = tokio::join!(
        n2.open("app", "shop", cluster.grant("app", "shop")),
        n1.open("app", "kv", cluster.grant("app", "kv")),
    );
    let both = || (told(&n2).is_empty(), told(&second).is_empty());
    eventually("one of them is told", || both() != (true, true)).await;
    let stays = if told(&n2).is_empty() { &n2 } else { &second };
    assert_eq!(connected_from(&n1, &n2), Some(stays.address()));
    // Time for the other to be told as well, if it were.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_ne!(both(), (false, false), "nobody is left");
}

#[tokio::test]
async fn a_node_that_was_restarted_is_taken_in_at_once() {
    let cluster = Cluster::new("shop");
    let (n1, mut n2) = (cluster.node("n1"), cluster.node("n2"));
    cluster.start_service(&n1, "shop", 1);
    let open = async |n2: &TestNode| {
        let opening = n2.open("app", "shop", cluster.grant("app", "shop"));
        opening.await.unwrap()
    };
    let _first = open(&n2).await;
    for _ in 0..3 {
        n2.kill_gateway();
        assert!(
            connected_from(&n1, &n2).is_some(),
            "n1 has heard of it already"
        );
        n2.start_gateway();
        let start = Instant::now();
        let _next = open(&n2).await;
        let took = start.elapsed();
        println!("taken in after {took:?}");
        assert!(took < Duration::from_millis(700), "{took:?}");
    }
    assert!(told(&n2).is_empty());
}

#[tokio::test]
async fn a_node_that_comes_back_elsewhere_is_taken_in_once_the_old_one_is_silent() {
    let cluster = Cluster::new("shop");
    let (n1, mut n2) = (cluster.node("n1"), cluster.node("n2"));
    cluster.start_service(&n1, "shop", 1);
    let right = || cluster.grant("app", "shop");
    let _first = n2.open("app", "shop", right()).await.unwrap();
    n2.kill_gateway();
    let elsewhere = cluster.twin(&n2);
    let start = Instant::now();
    let _next = elsewhere.open("app", "shop", right()).await.unwrap();
    let took = start.elapsed();
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert_eq!(connected_from(&n1, &n2), Some(elsewhere.address()));
    assert!(told(&elsewhere).is_empty());
}
