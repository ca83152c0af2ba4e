//! Real gateways over loopback: what they carry, what they refuse, what they survive.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod support;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use support::{Client, Cluster, TestNode, TestService, eventually, node, service};
use weft_types::{ChannelId, Epoch, Lane, RefusalCode};

const NO_PAUSE: Duration = Duration::ZERO;

/// Each message of the client was handled once and in the order of its lane.
fn assert_handled(service: &TestService, channel: ChannelId, total: u64) {
    let handled = service.handled(channel);
    for lane in Lane::ALL {
        let numbers = handled
            .iter()
            .filter(|(on, _)| *on == lane)
            .map(|(_, number)| *number);
        let sent = (0..total).filter(|number| number % 4 == u64::from(lane.get()));
        assert!(numbers.eq(sent), "{lane}: lost, doubled or out of order");
    }
}

fn service_at(node: &TestNode, name: &str) -> std::sync::Arc<TestService> {
    std::sync::Arc::clone(&node.home.services.lock().unwrap()[&service(name)])
}

#[tokio::test]
async fn messages_travel_both_ways_on_all_lanes() {
    let cluster = Cluster::new("shop");
    let (n1, n2) = (cluster.node("n1"), cluster.node("n2"));
    let kv = cluster.start_service(&n2, "kv", 1);
    let client = n1
        .open("app", "kv", cluster.grant("app", "kv"))
        .await
        .unwrap();
    let (client, report) = client.exchange(4_000, NO_PAUSE).await;
    assert_eq!(report.replies, 4_000);
    assert_handled(&kv, client.channel, 4_000);
    let peers = n1.handle().peers();
    assert_eq!(peers.len(), 1);
    assert!(peers[0].connected && peers[0].node == n2.name && peers[0].channels == 1);
    // The client ends, and the far side lets go of the channel.
    let channel = client.channel;
    drop(client);
    eventually("the far side closes", || {
        n2.home.closed.lock().unwrap().contains(&channel)
    })
    .await;
    assert!(n1.home.lost.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_message_on_an_idle_channel_wakes_everyone_on_its_way() {
    let cluster = Cluster::new("shop");
    let (n1, n2) = (cluster.node("n1"), cluster.node("n2"));
    cluster.start_service(&n2, "kv", 1);
    let mut client = n1
        .open("app", "kv", cluster.grant("app", "kv"))
        .await
        .unwrap();
    let mut times = Vec::new();
    for _ in 0..100 {
        let start = Instant::now();
        client = client.exchange(1, NO_PAUSE).await.0;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    // A lost wake-up would wait for some timer; the fastest of those is 20 ms.
    println!("round trip p50 {:?}, p90 {:?}", times[50], times[90]);
    assert!(times[50] < Duration::from_millis(10), "{times:?}");
}

#[tokio::test]
async fn what_is_done_long_after_it_came_is_acknowledged() {
    let cluster = Cluster::new("shop");
    let (n1, n2) = (cluster.node("n1"), cluster.node("n2"));
    let kv = cluster.start_service(&n2, "kv", 1);
    let mut client = n1
        .open("app", "kv", cluster.grant("app", "kv"))
        .await
        .unwrap();
    for number in 0..3 {
        kv.stalled.store(true, Ordering::SeqCst);
        client.tell(Lane::HIGH, number);
        tokio::time::sleep(Duration::from_millis(60)).await;
        assert_eq!(
            client.done(Lane::HIGH).get(),
            number,
            "nobody has handled it yet"
        );
        kv.stalled.store(false, Ordering::SeqCst);
        eventually("it is acknowledged", || {
            client.done(Lane::HIGH).get() == number + 1
        })
        .await;
    }
}

#[tokio::test]
async fn a_client_that_ends_right_after_sending_is_heard_to_its_last_message() {
    let cluster = Cluster::new("shop");
    let (n1, n2) = (cluster.node("n1"), cluster.node("n2"));
    let kv = cluster.start_service(&n2, "kv", 1);
    let mut client = n1
        .open("app", "kv", cluster.grant("app", "kv"))
        .await
        .unwrap();
    let (channel, sent) = (client.channel, client.flood(Lane::LOW));
    drop(client);
    eventually("the far side closes", || {
        n2.home.closed.lock().unwrap().contains(&channel)
    })
    .await;
    assert_eq!(kv.handled(channel).len() as u64, sent);
}

#[tokio::test]
async fn a_client_that_ends_while_the_connection_is_cut_is_heard_all_the_same() {
    let cluster = Cluster::new("shop");
    let (n1, mut n2) = (cluster.node("n1"), cluster.node("n2"));
    let kv = cluster.start_service(&n2, "kv", 1);
    let mut client = n1
        .open("app", "kv", cluster.grant("app", "kv"))
        .await
        .unwrap();
    let channel = client.channel;
    n2.kill_gateway();
    let sent = client.flood(Lane::LOW);
    drop(client);
    tokio::time::sleep(Duration::from_millis(200)).await;
    n2.start_gateway();
    eventually("the far side closes", || {
        n2.home.closed.lock().unwrap().contains(&channel)
    })
    .await;
    assert_eq!(kv.handled(channel).len() as u64, sent);
}

#[tokio::test]
async fn a_connection_that_is_cut_again_and_again_loses_nothing() {
    let cluster = Cluster::new("shop");
    let (n1, n2) = (cluster.node("n1"), cluster.node("n2"));
    let kv = cluster.start_service(&n2, "kv", 1);
    let client = n1
        .open("app", "kv", cluster.grant("app", "kv"))
        .await
        .unwrap();
    let (channel, replies) = (client.channel, client.replies.clone());
    let work = tokio::spawn(client.exchange(6_000, Duration::from_micros(50)));
    let mut cuts = 0;
    while !work.is_finished() {
        let before = replies.load(Ordering::SeqCst);
        let (from, to) = if cuts % 2 == 0 {
            (&n1, &n2)
        } else {
            (&n2, &n1)
        };
        from.handle().disconnect(&to.name);
        cuts += 1;
        eventually("replies come again", || {
            work.is_finished() || replies.load(Ordering::SeqCst) > before + 200
        })
        .await;
    }
    let (_client, report) = work.await.unwrap();
    assert_eq!(report.replies, 6_000);
    assert!(cuts > 5, "only {cuts} cuts: the test has tested nothing");
    assert_handled(&kv, channel, 6_000);
}

#[tokio::test]
async fn a_service_moves_between_far_gateways_while_its_clients_send() {
    let cluster = Cluster::new("shop");
    let (n1, n2, n3) = (cluster.node("n1"), cluster.node("n2"), cluster.node("n3"));
    cluster.start_service(&n2, "kv", 1);
    let client = n1
        .open("app", "kv", cluster.grant("app", "kv"))
        .await
        .unwrap();
    let (channel, replies) = (client.channel, client.replies.clone());
    let work = tokio::spawn(client.exchange(6_000, Duration::from_micros(50)));
    let mut moves = 0;
    let (mut here, mut there) = (&n2, &n3);
    while !work.is_finished() {
        let before = replies.load(Ordering::SeqCst);
        cluster.move_service("kv", here, there, moves + 2).await;
        moves += 1;
        (here, there) = (there, here);
        eventually("replies come again", || {
            work.is_finished() || replies.load(Ordering::SeqCst) > before + 300
        })
        .await;
    }
    let (_client, report) = work.await.unwrap();
    assert_eq!(report.replies, 6_000);
    assert!(moves > 3, "only {moves} moves: the test has tested nothing");
    assert_handled(&service_at(here, "kv"), channel, 6_000);
    assert!(n1.home.lost.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_old_home_that_was_told_nothing_takes_the_service_back_all_the_same() {
    let cluster = Cluster::new("shop");
    let (n1, n2, n3) = (cluster.node("n1"), cluster.node("n2"), cluster.node("n3"));
    cluster.start_service(&n2, "kv", 1);
    let client = n1
        .open("app", "kv", cluster.grant("app", "kv"))
        .await
        .unwrap();
    let (channel, replies) = (client.channel, client.replies.clone());
    let work = tokio::spawn(client.exchange(3_000, Duration::from_micros(50)));
    let reach = async |count| {
        eventually("replies come", || replies.load(Ordering::SeqCst) > count).await;
    };
    reach(500).await;
    cluster.move_silently("kv", &n2, &n3, 2).await;
    // The old home's gateway still has the channel; nobody serves it there.
    n1.handle()
        .service_moved(&service("kv"), &n3.name, Epoch::new(2))
        .await;
    reach(1_500).await;
    cluster.move_service("kv", &n3, &n2, 3).await;
    let (_client, report) = work.await.unwrap();
    assert_eq!(report.replies, 3_000);
    assert_handled(&service_at(&n2, "kv"), channel, 3_000);
}

#[tokio::test]
async fn a_gateway_that_dies_on_either_side_loses_nothing() {
    let cluster = Cluster::new("shop");
    let (mut n1, mut n2) = (cluster.node("n1"), cluster.node("n2"));
    let kv = cluster.start_service(&n2, "kv", 1);
    let client = n1
        .open("app", "kv", cluster.grant("app", "kv"))
        .await
        .unwrap();
    let (channel, replies) = (client.channel, client.replies.clone());
    let mut kept = client.kept();
    let mut sides = Vec::new();
    let work = tokio::spawn(client.exchange(6_000, Duration::from_micros(100)));
    let mut kills = 0;
    while !work.is_finished() {
        let before = replies.load(Ordering::SeqCst);
        if kills % 2 == 0 {
            n1.kill_gateway();
            n1.start_gateway();
            let (half, side) = Client::carry_again(&n1, &kept).await;
            kept.gateway = half;
            sides.push(side);
        } else {
            n2.kill_gateway();
            n2.start_gateway();
        }
        kills += 1;
        eventually("replies come again", || {
            work.is_finished() || replies.load(Ordering::SeqCst) > before + 300
        })
        .await;
    }
    let (_client, report) = work.await.unwrap();
    assert_eq!(report.replies, 6_000);
    assert!(kills > 3, "only {kills} kills: the test has tested nothing");
    assert_handled(&kv, channel, 6_000);
}

#[tokio::test]
async fn nodes_that_dial_each_other_at_once_end_up_with_one_connection() {
    let cluster = Cluster::new("shop");
    let (n1, n2) = (cluster.node("n1"), cluster.node("n2"));
    let (a, b) = (
        cluster.start_service(&n1, "a", 1),
        cluster.start_service(&n2, "b", 1),
    );
    let (to_b, to_a) = tokio::join!(
        n1.open("app", "b", cluster.grant("app", "b")),
        n2.open("app", "a", cluster.grant("app", "a")),
    );
    let (to_b, to_a) = (to_b.unwrap(), to_a.unwrap());
    let (one, other) = (to_b.channel, to_a.channel);
    let _clients = tokio::join!(
        to_b.exchange(1_000, NO_PAUSE),
        to_a.exchange(1_000, NO_PAUSE)
    );
    assert_handled(&b, one, 1_000);
    assert_handled(&a, other, 1_000);
    for (node, peer) in [(&n1, &n2), (&n2, &n1)] {
        let peers = node.handle().peers();
        assert_eq!(peers.len(), 1);
        assert!(peers[0].connected && peers[0].node == peer.name);
        assert_eq!(peers[0].channels, 2, "one connection carries both");
    }
}

#[tokio::test]
async fn a_channel_whose_service_stalls_does_not_stop_another() {
    let cluster = Cluster::new("shop");
    let (n1, n2) = (cluster.node("n1"), cluster.node("n2"));
    let slow = cluster.start_service(&n2, "slow", 1);
    let kv = cluster.start_service(&n2, "kv", 1);
    slow.stalled.store(true, Ordering::SeqCst);
    let mut stuck = n1
        .open("app", "slow", cluster.grant("app", "slow"))
        .await
        .unwrap();
    let sent: u64 = Lane::ALL.map(|lane| stuck.flood(lane)).iter().sum();
    assert!(sent > 500);
    let client = n1
        .open("app", "kv", cluster.grant("app", "kv"))
        .await
        .unwrap();
    let (client, report) = client.exchange(1_000, NO_PAUSE).await;
    assert_eq!(report.replies, 1_000);
    assert_handled(&kv, client.channel, 1_000);
    slow.stalled.store(false, Ordering::SeqCst);
    let channel = stuck.channel;
    eventually("the stalled ones are handled", || {
        slow.handled(channel).len() as u64 == sent
    })
    .await;
}

#[tokio::test]
async fn a_refusal_of_the_far_side_is_passed_on() {
    let cluster = Cluster::new("shop");
    let (n1, n2) = (cluster.node("n1"), cluster.node("n2"));
    cluster.start_service(&n2, "kv", 1);
    cluster.start_service(&n2, "other", 1);
    // A right to speak to another service, another holder's right, a lane too high.
    let refused = |result: Result<Client, _>| match result {
        Ok(_) => panic!("it was let in"),
        Err(refusal) => refusal,
    };
    let refusal = refused(n1.open("app", "kv", cluster.grant("app", "other")).await);
    assert_eq!(refusal.code, RefusalCode::NoGrant, "{refusal}");
    assert!(
        refusal.text.contains("app") && refusal.text.contains("kv"),
        "{refusal}"
    );
    let refusal = refused(n1.open("app", "kv", cluster.grant("another", "kv")).await);
    assert_eq!(refusal.code, RefusalCode::NotHolder, "{refusal}");
    // The directory knows a service that the node does not serve, in no epoch that matches.
    cluster.register(&n2, "ghost", 3);
    let opening = n1.open("app", "ghost", cluster.grant("app", "ghost"));
    let refusal = refused(opening.await);
    assert_eq!(refusal.code, RefusalCode::Busy, "{refusal}");
    assert!(
        n1.home.lost.lock().unwrap().is_empty(),
        "none of them was ever open"
    );
}

#[tokio::test]
async fn a_lane_above_the_ceiling_of_the_capability_closes_the_channel() {
    let cluster = Cluster::new("shop");
    let (n1, n2) = (cluster.node("n1"), cluster.node("n2"));
    let kv = cluster.start_service(&n2, "kv", 1);
    let right = cluster.grant_from("app", "kv", Lane::NORMAL);
    let mut client = n1.open("app", "kv", right).await.unwrap();
    client.send(Lane::NORMAL, 1);
    eventually("it is handled", || kv.handled(client.channel).len() == 1).await;
    client.send(Lane::URGENT, 2);
    let lost = || n1.home.lost.lock().unwrap().clone();
    eventually("the client is told", || !lost().is_empty()).await;
    assert_eq!(lost()[0].0, client.channel);
    assert_eq!(lost()[0].1.code, RefusalCode::NotAllowed);
    assert_eq!(kv.handled(client.channel).len(), 1);
}

#[tokio::test]
async fn a_message_with_descriptors_is_never_sent_without_them() {
    let cluster = Cluster::new("shop");
    let (n1, n2) = (cluster.node("n1"), cluster.node("n2"));
    let kv = cluster.start_service(&n2, "kv", 1);
    let mut client = n1
        .open("app", "kv", cluster.grant("app", "kv"))
        .await
        .unwrap();
    client.send_descriptors(Lane::NORMAL);
    let lost = || n1.home.lost.lock().unwrap().clone();
    eventually("the client is told", || !lost().is_empty()).await;
    assert_eq!(lost()[0].1.code, RefusalCode::NotAllowed);
    eventually("the far side closes", || {
        n2.home.closed.lock().unwrap().contains(&client.channel)
    })
    .await;
    assert!(kv.handled(client.channel).is_empty());
}

#[tokio::test]
async fn a_node_of_another_cluster_gets_nowhere() {
    let (ours, theirs) = (Cluster::new("shop"), Cluster::new("shop"));
    let n1 = ours.node("n1");
    let n2 = theirs.node("n2");
    theirs.start_service(&n2, "kv", 1);
    // n1 believes that the stranger is the n2 of its own cluster.
    ours.world
        .addresses
        .lock()
        .unwrap()
        .insert(node("n2"), n2.address());
    ours.world
        .directory
        .lock()
        .unwrap()
        .insert(service("kv"), (node("n2"), Epoch::FIRST));
    let refusal = match n1.open("app", "kv", ours.grant("app", "kv")).await {
        Ok(_) => panic!("it was let in"),
        Err(refusal) => refusal,
    };
    assert_eq!(refusal.code, RefusalCode::Unreachable, "{refusal}");
    assert!(refusal.text.contains("certificate"), "{refusal}");
    assert!(n2.handle().peers().is_empty());
}

#[tokio::test]
async fn a_node_that_answers_under_another_name_gets_nowhere() {
    let cluster = Cluster::new("shop");
    let (n1, n2) = (cluster.node("n1"), cluster.node("n2"));
    cluster.start_service(&n2, "kv", 1);
    cluster
        .world
        .addresses
        .lock()
        .unwrap()
        .insert(node("n3"), n2.address());
    cluster
        .world
        .directory
        .lock()
        .unwrap()
        .insert(service("kv"), (node("n3"), Epoch::FIRST));
    let refusal = match n1.open("app", "kv", cluster.grant("app", "kv")).await {
        Ok(_) => panic!("it was let in"),
        Err(refusal) => refusal,
    };
    assert_eq!(refusal.code, RefusalCode::Unreachable, "{refusal}");
}

#[tokio::test]
async fn a_port_in_use_is_an_error_that_says_which() {
    let cluster = Cluster::new("shop");
    let n1 = cluster.node("n1");
    let error = n1.start_at(n1.address()).unwrap_err();
    assert!(
        error.to_string().contains(&n1.address().to_string()),
        "{error}"
    );
}

#[tokio::test]
async fn a_channel_that_the_node_drops_is_closed_on_the_other_side() {
    let cluster = Cluster::new("shop");
    let (n1, n2) = (cluster.node("n1"), cluster.node("n2"));
    cluster.start_service(&n2, "kv", 1);
    let one = n1
        .open("app", "kv", cluster.grant("app", "kv"))
        .await
        .unwrap();
    n1.handle().drop_channel(one.channel, None).await;
    eventually("the far side closes", || {
        n2.home.closed.lock().unwrap().contains(&one.channel)
    })
    .await;
    let two = n1
        .open("app", "kv", cluster.grant("app", "kv"))
        .await
        .unwrap();
    n2.handle().drop_channel(two.channel, None).await;
    let lost = || n1.home.lost.lock().unwrap().clone();
    eventually("the client is told", || !lost().is_empty()).await;
    assert_eq!(
        (lost()[0].0, lost()[0].1.code),
        (two.channel, RefusalCode::Closed)
    );
    assert_eq!(
        lost().len(),
        1,
        "a node is not told of what it dropped itself"
    );
}
