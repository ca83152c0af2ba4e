//! Processes that ask for more than their share, and read nothing of what they get: they are held
//! back, and everybody else goes on. And a node that stands still, which stops nobody's messages.

use std::time::{Duration, Instant};

use kv_messages::{Count, Kv};
use rustix::process::{Pid, Signal, kill_process};
use weft::{Contract, Domain, Endpoint, Lane, Link, RefusalCode, ServiceName};
use weft_contract::Accepts;
use weft_local_ipc::{Geometry, OwnHalf, Start};
use weft_node_control::{CloseChannel, Dispatcher, OpenChannel};
use weft_tests::Cluster;
use weft_types::ChannelId;

/// How long an honest client may have to wait beside a greedy one. Before there were bounds it was
/// minutes.
const FAIR: Duration = Duration::from_secs(3);

/// How many channels one process may have, to all services together.
const CHANNELS_OF_ONE: usize = 256;

fn kv() -> ServiceName {
    "kv".parse().expect("a name")
}

fn one_node() -> Cluster {
    let cluster = Cluster::start(1);
    cluster.run_kv("n1");
    cluster
}

fn attach(cluster: &Cluster) -> Domain {
    let socket = cluster.node("n1").data.join("weft.sock");
    Domain::attach(&socket, "operator".parse().expect("a name")).expect("attach")
}

fn call(endpoint: &mut Endpoint<Kv>) {
    let count = Count {
        prefix: "none/".to_owned(),
    };
    endpoint.call(&count, FAIR).expect("call");
}

/// A process of its own opens a channel, calls and closes, again and again for so long.
fn go_on_as_usual(cluster: &Cluster, during: Duration) {
    let honest = attach(cluster);
    let end = Instant::now() + during;
    while Instant::now() < end {
        let begin = Instant::now();
        call(&mut honest.open::<Kv>(&kv()).expect("open"));
        assert!(
            begin.elapsed() < FAIR,
            "an open and a call took {:?}",
            begin.elapsed()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Asks for a channel and does not look at the answer.
fn ask_to_open(control: &mut Link) -> Result<(), weft::Error> {
    let small = Geometry {
        slots: 2,
        arena_bytes: 0,
        ..Geometry::DEFAULT.fixed()
    };
    let half = OwnHalf::create(small, Start::default()).expect("a half");
    let open = OpenChannel {
        channel: ChannelId::random(),
        target: kv(),
        table: Kv::table(),
    };
    let mut body = Vec::new();
    weft_contract::encode(&open, &mut body).expect("encode");
    let index = <Dispatcher as Accepts<OpenChannel>>::INDEX;
    control
        .ask(
            Lane::NORMAL,
            index,
            &body,
            &[half.share().expect("a descriptor")],
        )
        .map(|_| ())
}

#[test]
fn a_process_that_opens_without_end_and_reads_no_answer_delays_nobody() {
    let cluster = one_node();
    let greedy = attach(&cluster);
    let mut control = greedy.take_control().expect("its channel to the node");
    let mut asked = 0;
    for _ in 0..700 {
        match ask_to_open(&mut control) {
            Ok(()) => asked += 1,
            Err(error) => {
                assert_eq!(error.code(), RefusalCode::Busy, "{error}");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
    assert!(asked > 300, "only {asked} questions found room");
    go_on_as_usual(&cluster, Duration::from_secs(3));
    drop(greedy);
    cluster.shut_down();
}

#[test]
fn a_process_that_floods_its_node_with_messages_delays_nobody() {
    let cluster = one_node();
    let greedy = attach(&cluster);
    let mut control = greedy.take_control().expect("its channel to the node");
    let mut body = Vec::new();
    let close = CloseChannel {
        channel: ChannelId::random(),
    };
    weft_contract::encode(&close, &mut body).expect("encode");
    let index = <Dispatcher as Accepts<CloseChannel>>::INDEX;
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let mut sent = 0_u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                match control.tell(Lane::NORMAL, index, &body) {
                    Ok(()) => sent += 1,
                    Err(error) => assert_eq!(error.code(), RefusalCode::Busy, "{error}"),
                }
            }
            sent
        });
        go_on_as_usual(&cluster, Duration::from_secs(3));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let sent = flood.join().expect("the flood");
        assert!(sent > 1000, "a flood of {sent} is none");
    });
    cluster.shut_down();
}

#[test]
fn one_process_has_so_many_channels_and_leaves_the_service_to_others() {
    let cluster = one_node();
    let greedy = attach(&cluster);
    let mut held: Vec<_> = (0..CHANNELS_OF_ONE)
        .map(|number| {
            greedy
                .open::<Kv>(&kv())
                .unwrap_or_else(|error| panic!("channel {number}: {error}"))
        })
        .collect();
    // What is refused costs nothing, however often it is tried: the memory for all of these would
    // not be there.
    for _ in 0..700 {
        let error = greedy.open::<Kv>(&kv()).expect_err("one too many");
        assert_eq!(error.code(), RefusalCode::OverBudget, "{error}");
        assert!(error.to_string().contains("256 channels"), "{error}");
    }
    go_on_as_usual(&cluster, Duration::from_millis(200));
    held.truncate(CHANNELS_OF_ONE - 10);
    weft_tests::eventually("there is room again", FAIR, || {
        greedy
            .open::<Kv>(&kv())
            .map(|_| ())
            .map_err(|error| error.to_string())
    });
    held.iter_mut().for_each(call);
    drop(held);
    cluster.shut_down();
}

#[test]
fn a_node_that_stands_still_stops_no_message_and_no_close() {
    let cluster = one_node();
    let client = attach(&cluster);
    let mut stays = client.open::<Kv>(&kv()).expect("open");
    let leaves: Vec<_> = (0..20)
        .map(|_| client.open::<Kv>(&kv()).expect("open"))
        .collect();
    let daemon = Pid::from_raw(cluster.node("n1").pid().try_into().expect("a pid")).expect("a pid");
    kill_process(daemon, Signal::STOP).expect("SIGSTOP");
    let begin = Instant::now();
    drop(leaves);
    let closed = begin.elapsed();
    for _ in 0..1000 {
        call(&mut stays);
    }
    let called = begin.elapsed();
    kill_process(daemon, Signal::CONT).expect("SIGCONT");
    assert!(closed < FAIR, "closing took {closed:?}");
    assert!(called < FAIR, "calling took {called:?}");
    go_on_as_usual(&cluster, Duration::from_millis(200));
    drop(stays);
    cluster.shut_down();
}
