//! A second node with the name of another: it ends with an error that says what to do, and whoever
//! works with the first one sees nothing of it.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use kv_messages::{Kv, Put};
use weft::Domain;
use weft_tests::{
    Answer, Cluster, eventually, free_udp_ports, issue_node, node_command, run, weft_binary,
};

/// The exit code of a refusal, as `weft --help` lists it.
const REFUSED: i32 = 3;

/// How long the second node may take to find out, and an answer in the meantime.
const PATIENCE: Duration = Duration::from_secs(30);

/// A client that puts numbered keys, one after the other, until it is told to stop.
struct Client {
    thread: JoinHandle<Result<(), String>>,
    answered: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Client {
    fn start(cluster: &Cluster, node: &str) -> Self {
        let socket = cluster.node(node).data.join("weft.sock");
        let domain = Domain::attach(&socket, "operator".parse().expect("a name")).expect("attach");
        let mut kv = domain
            .open::<Kv>(&"kv".parse().expect("a name"))
            .expect("open kv");
        let (answered, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (count, ends) = (Arc::clone(&answered), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                let number = count.load(Ordering::Relaxed);
                let put = Put {
                    key: format!("steady/{number:08}"),
                    value: Vec::new(),
                };
                let failed = |error: weft::Error| format!("message {number}: {error}");
                let ticket = kv.send(&put).map_err(failed)?;
                let reply = kv.wait(ticket, PATIENCE).map_err(failed)?;
                // The key is new: a second version would be a message handled twice.
                if reply.version != 1 {
                    return Err(format!("message {number}: {reply:?}"));
                }
                count.store(number + 1, Ordering::Relaxed);
            }
            drop(domain);
            Ok(())
        });
        Self {
            thread,
            answered,
            stop,
        }
    }

    fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Waits for so many more answers.
    fn go_on(&self, more: u64) {
        let goal = self.answered() + more;
        eventually("the client goes on", PATIENCE, || {
            if self.answered() >= goal || self.thread.is_finished() {
                Ok(())
            } else {
                Err(format!("{} of {goal}", self.answered()))
            }
        });
    }

    /// How many were answered, none twice and none not at all.
    fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let outcome = self.thread.join().expect("the client's thread");
        outcome.unwrap_or_else(|told| panic!("{told}"));
        self.answered.load(Ordering::Relaxed)
    }
}

/// A further node of a name that is taken, with a certificate, a data directory and a port of its
/// own: everything that it can be told is right.
fn second(cluster: &Cluster, name: &str) -> (Command, PathBuf) {
    let out = format!("{name}-second");
    issue_node(cluster.path(), "ca", name, &out);
    let data = cluster.path().join(&out);
    let mut command = Command::new(weft_binary());
    command
        .env_remove("WEFT_DATA")
        .current_dir(cluster.path())
        .args(["--json", "node", "--data"])
        .arg(&data)
        .args([
            "--listen",
            &format!("127.0.0.1:{}", free_udp_ports(1)[0]),
            "--directory",
            "n1",
            "--die-with-parent",
            &std::process::id().to_string(),
        ]);
    for peer in cluster.nodes().iter().filter(|peer| peer.name != name) {
        let peer = format!("{}=127.0.0.1:{}", peer.name, peer.port);
        command.args(["--peer", &peer]);
    }
    (command, data)
}

/// Starts a second `name`, which `by` is to refuse.
#[track_caller]
fn assert_refused(cluster: &Cluster, name: &str, by: &str) {
    let (mut command, data) = second(cluster, name);
    let answer = Answer::of(run(&mut command, PATIENCE));
    println!("{name} ended after {:?}", answer.finished.took);
    let text = answer.expect_error(REFUSED, "already_there");
    let first = format!(
        "connected to {by} from 127.0.0.1:{}",
        cluster.node(name).port
    );
    for word in [
        &format!("another node named {name} is in the cluster"),
        &first,
        "weft ca node",
    ] {
        assert!(text.contains(word), "{word:?} is missing in: {text}");
    }
    assert!(!data.join("weft.sock").exists(), "it has left its socket");
}

#[test]
fn a_second_node_of_a_name_ends_with_a_clear_error_and_the_first_goes_on() {
    let cluster = Cluster::start(2);
    cluster.run_kv("n2");
    let client = Client::start(&cluster, "n1");
    client.go_on(100);
    let gateways = ["n1", "n2"].map(|node| cluster.pid_of_gateway(node));
    assert_refused(&cluster, "n2", "n1");
    // Also the node that holds the directory, whose double would begin an empty one.
    assert_refused(&cluster, "n1", "n2");
    client.go_on(100);
    let sent = client.finish();
    let prefix = "{\"prefix\": \"steady/\"}";
    let there = cluster
        .weft("n2", &["call", "kv", "Count", prefix])
        .expect_done();
    assert_eq!(there["reply"]["count"], sent);
    assert_eq!(
        gateways,
        ["n1", "n2"].map(|node| cluster.pid_of_gateway(node)),
        "a gateway was started again"
    );
    cluster.shut_down();
}

#[test]
fn once_the_first_is_gone_the_second_takes_its_place() {
    let mut cluster = Cluster::start(2);
    cluster.kill_daemon("n2");
    let (mut command, _) = second(&cluster, "n2");
    let mut stand_in = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("weft node");
    eventually("n1 reaches the new n2", PATIENCE, || {
        // At an address that nobody has told n1: it has come by itself.
        cluster.weft("n1", &["kernel", "ping", "n2"]).done()
    });
    // And the first, when it comes back, is the second one now.
    let text = Answer::of(run(node_command(&cluster, 1).arg("--json"), PATIENCE))
        .expect_error(REFUSED, "already_there");
    assert!(text.contains("another node named n2"), "{text}");
    stand_in.kill().expect("kill");
    stand_in.wait().expect("wait");
    cluster.shut_down();
}
