//! Bad input gets a clear error and loses nothing: each way to get it wrong, at the real binary.
//!
//! "Clear" means here: the exit code of who has to act, the code's name, and in the text what was
//! wrong, with what would be right where that can be known. "Loses nothing" means that what was there
//! before is there afterwards, and that the right command then works. A second node with the name of
//! another is a matter of its own: `second_node`.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use kv_messages::{Count, Get, GetReply, Kv};
use rustix::process::{Pid, Signal, kill_process};
use weft::{Domain, RefusalCode};
use weft_authority::{Authority, GrantRequest, Validity, write_grant};
use weft_capability::Target;
use weft_contract::{contract, fingerprint};
use weft_tests::contracts::OldGet;
use weft_tests::{
    Answer, Cluster, ClusterOptions, eventually, free_udp_ports, issue_node, make_ca, node_command,
    run, weft, weft_binary,
};

/// The program that misbehaves on purpose.
const TEST_SERVICE: &str = env!("CARGO_BIN_EXE_weft-test-service");

/// Exit codes, as `weft --help` lists them.
const USAGE: i32 = 2;
const REFUSED: i32 = 3;
const UNREACHABLE: i32 = 4;
const INTERNAL: i32 = 5;

/// The files that `weft ca node` writes.
const NODE_FILES: [&str; 6] = [
    "node.pem",
    "node.key",
    "trust-bundle.pem",
    "node-capability.pem",
    "instance-ca.pem",
    "instance-ca.key",
];

/// How long a node that cannot start may take to say so.
const PATIENCE: Duration = Duration::from_secs(30);

/// Unit of the lifetimes of certificates.
const HOUR: Duration = Duration::from_secs(3600);

/// One or more nodes with `kv` on n1, and something in it.
fn cluster_with_data(nodes: usize) -> Cluster {
    filled(&ClusterOptions::new(nodes))
}

/// Two nodes as [`cluster_with_data`] makes them, where the service `other` may be used as well.
fn cluster_for_another() -> Cluster {
    filled(&ClusterOptions::new(2).grant("operator", "other", "kv"))
}

fn filled(options: &ClusterOptions) -> Cluster {
    let cluster = Cluster::with(options);
    cluster.run_kv("n1");
    let _ = cluster.put("n1", "kept", "value").expect_done();
    cluster
}

/// What was there is there, read through the last node.
#[track_caller]
fn assert_nothing_lost(cluster: &Cluster) {
    let last = &cluster.nodes().last().expect("a node").name;
    assert_eq!(cluster.get(last, "kept").as_deref(), Some("value"));
}

/// All of these stand in the text.
#[track_caller]
fn assert_says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is missing in: {text}");
    }
}

/// Runs a node that is expected to end by itself with an error.
#[track_caller]
fn start_that_fails(command: &mut Command) -> Answer {
    Answer::of(run(command.arg("--json"), PATIENCE))
}

#[test]
fn an_unknown_service_is_answered_with_those_there_are() {
    let cluster = cluster_with_data(1);
    let fields = "{\"key\": \"kept\"}";
    for words in [
        &["call", "kvv", "Get", fields][..],
        &["describe", "kvv"],
        &["stop", "kvv"],
        &["migrate", "kvv", "--to", "n1"],
    ] {
        let text = cluster
            .weft("n1", words)
            .expect_error(REFUSED, "unknown_service");
        assert_says(&text, &["kvv", "did you mean `kv`?"]);
    }
    assert_nothing_lost(&cluster);
    cluster.shut_down();
}

#[test]
fn an_unknown_node_is_answered_with_those_there_are() {
    let cluster = cluster_with_data(2);
    for words in [
        &["kernel", "ping", "n9"][..],
        &["ps", "n9"],
        &["migrate", "kv", "--to", "n9"],
        &["run", "other", "--program", "kv", "--on", "n9"],
    ] {
        let text = cluster
            .weft("n1", words)
            .expect_error(REFUSED, "unknown_node");
        assert_says(&text, &["n9", "n1", "n2"]);
    }
    assert_nothing_lost(&cluster);
    cluster.shut_down();
}

#[test]
fn an_unknown_message_is_answered_with_those_there_are() {
    let cluster = cluster_with_data(1);
    let text = cluster
        .weft("n1", &["call", "kv", "Gett", "{\"key\": \"kept\"}"])
        .expect_error(REFUSED, "unknown_message");
    assert_says(
        &text,
        &[
            "Gett",
            "did you mean `kv.Get`?",
            "kv.Put",
            "weft describe kv",
        ],
    );
    assert_nothing_lost(&cluster);
    cluster.shut_down();
}

#[test]
fn fields_that_do_not_fit_are_refused_before_anything_is_sent() {
    let cluster = cluster_with_data(1);
    for (fields, words) in [
        // A field that there is not.
        (
            "{\"key\": \"kept\", \"valeu\": \"x\"}",
            &["valeu", "did you mean `value`?"][..],
        ),
        // One that is missing.
        ("{\"key\": \"kept\"}", &["value"]),
        // Wrong types.
        (
            "{\"key\": 7, \"value\": \"x\"}",
            &["key", "number 7", "string"],
        ),
        ("{\"key\": null, \"value\": \"x\"}", &["key", "string"]),
        ("{\"key\": \"kept\", \"value\": {\"a\": 1}}", &["value"]),
        ("{\"key\": \"kept\", \"value\": [256]}", &["value", "256"]),
        ("[]", &["Put"]),
        ("\"kept\"", &["Put"]),
        // Not JSON at all.
        ("{key: kept}", &["not JSON"]),
        ("", &["not JSON"]),
    ] {
        let text = cluster
            .weft("n1", &["call", "kv", "Put", fields])
            .expect_error(USAGE, "usage");
        assert_says(&text, words);
    }
    assert_nothing_lost(&cluster);
    cluster.shut_down();
}

#[test]
fn a_value_that_is_too_large_is_refused_and_the_channel_goes_on() {
    let cluster = cluster_with_data(2);
    // More than the service takes.
    let answer = cluster.put("n2", "kept", &"x".repeat(61 * 1024));
    let _ = answer.expect_error(REFUSED, "too_large");
    // More than fits a message at all.
    let answer = cluster.put("n2", "kept", &"x".repeat(100_000));
    let _ = answer.expect_error(USAGE, "usage");
    assert_nothing_lost(&cluster);
    cluster.shut_down();
}

#[test]
fn a_port_in_use_is_named_and_the_node_leaves_nothing() {
    let cluster = Cluster::prepare(&ClusterOptions::new(1));
    let port = cluster.nodes()[0].port;
    let taken = std::net::UdpSocket::bind(("127.0.0.1", port)).expect("the port is free");
    let text = start_that_fails(&mut node_command(&cluster, 0)).expect_error(REFUSED, "rejected");
    assert_says(&text, &[&port.to_string(), "in use", "choose another port"]);
    assert!(!cluster.nodes()[0].data.join("weft.sock").exists());
    drop(taken);
    let mut cluster = cluster;
    cluster.restart("n1");
    cluster.shut_down();
}

#[test]
fn a_second_node_on_the_same_data_is_refused_and_the_first_goes_on() {
    let cluster = cluster_with_data(1);
    let text =
        start_that_fails(&mut node_command(&cluster, 0)).expect_error(REFUSED, "already_there");
    assert_says(&text, &["n1", "already"]);
    assert_nothing_lost(&cluster);
    cluster.shut_down();
}

#[test]
fn a_name_that_is_not_the_certificates_is_refused() {
    let cluster = Cluster::prepare(&ClusterOptions::new(1));
    let mut command = node_command(&cluster, 0);
    let answer = start_that_fails(command.args(["--name", "n7"]));
    assert!(
        matches!(answer.exit(), Some(USAGE | REFUSED)),
        "{}",
        answer.finished.told()
    );
    assert_says(answer.error_text(), &["n7", "n1"]);
    cluster.shut_down();
}

#[test]
fn a_data_directory_without_certificates_says_how_to_get_them() {
    let cluster = Cluster::prepare(&ClusterOptions::new(1));
    let data = cluster.path().join("n1");
    for file in NODE_FILES {
        let path = data.join(file);
        let content = std::fs::read(&path).expect("a file of the node");
        let told = || {
            let text =
                start_that_fails(&mut node_command(&cluster, 0)).expect_error(REFUSED, "untrusted");
            assert_says(&text, &[file, "weft ca node"]);
            text
        };
        std::fs::remove_file(&path).expect("remove");
        assert_says(&told(), &["is missing"]);
        std::fs::write(&path, b"not a certificate").expect("write");
        assert_says(&told(), &["is broken"]);
        std::fs::write(&path, content).expect("write");
    }
    let mut cluster = cluster;
    cluster.restart("n1");
    cluster.shut_down();
}

/// The authority of a cluster's `ca` directory.
fn authority(cluster: &Cluster) -> Authority {
    Authority::open(&cluster.path().join("ca")).expect("the cluster's CA")
}

/// A time that is over.
fn yesterday() -> Validity {
    let now = SystemTime::now();
    Validity::between(now - 24 * HOUR, now - 23 * HOUR).expect("a validity")
}

#[test]
fn an_expired_node_certificate_keeps_the_node_from_starting_and_says_since_when() {
    let cluster = Cluster::prepare(&ClusterOptions::new(1));
    let data = cluster.path().join("n1");
    authority(&cluster)
        .issue_node(&"n1".parse().expect("a name"), &data, yesterday())
        .expect("issue");
    let answer = start_that_fails(&mut node_command(&cluster, 0));
    assert_eq!(
        (answer.exit(), answer.error_code()),
        (Some(REFUSED), "expired"),
        "{}",
        answer.finished.told()
    );
    assert_says(answer.error_text(), &["weft ca node"]);
    issue_node(cluster.path(), "ca", "n1", "n1");
    let mut cluster = cluster;
    cluster.restart("n1");
    cluster.shut_down();
}

#[test]
fn an_expired_grant_opens_nothing() {
    let cluster = Cluster::prepare(&ClusterOptions::new(2));
    let request = GrantRequest::new(
        "late".parse().expect("a name"),
        Target::Service("kv".parse().expect("a name")),
        "kv".parse().expect("a name"),
        1,
        yesterday(),
    );
    let grant = authority(&cluster).grant(&request).expect("issue");
    for node in cluster.nodes() {
        write_grant(&node.data, &grant).expect("write");
    }
    let mut cluster = cluster;
    for node in ["n1", "n2"] {
        cluster.launch_node(node);
    }
    cluster.wait_until_ready();
    cluster.run_kv("n1");
    let _ = cluster.put("n1", "kept", "value").expect_done();
    for node in ["n1", "n2"] {
        let get = ["--as", "late", "call", "kv", "Get", "{\"key\": \"kept\"}"];
        let answer = cluster.weft(node, &get);
        assert_eq!(answer.exit(), Some(REFUSED), "{}", answer.finished.told());
        assert!(
            matches!(answer.error_code(), "expired" | "no_grant"),
            "{}",
            answer.finished.told()
        );
        assert_says(answer.error_text(), &["late", "kv"]);
    }
    assert_nothing_lost(&cluster);
    cluster.shut_down();
}

#[test]
fn without_a_grant_the_error_says_what_is_missing_and_how_to_get_it() {
    let cluster = cluster_with_data(2);
    cluster.grant("elsewhere", "other", "kv");
    cluster.grant("wrongly", "kv", "test.slow");
    for node in ["n1", "n2"] {
        for holder in ["stranger", "elsewhere", "wrongly"] {
            let get = ["--as", holder, "call", "kv", "Get", "{\"key\": \"kept\"}"];
            let text = cluster.weft(node, &get).expect_error(REFUSED, "no_grant");
            assert_says(&text, &[holder, "kv", "weft grant"]);
        }
    }
    let ps = cluster.weft("n1", &["--as", "stranger", "ps"]);
    let text = ps.expect_error(REFUSED, "no_grant");
    assert_says(&text, &["stranger", "node.control"]);
    assert_nothing_lost(&cluster);
    cluster.shut_down();
}

#[test]
fn a_node_of_another_cluster_is_not_let_in() {
    let cluster = cluster_with_data(1);
    let path = cluster.path();
    make_ca(path, "foreign-ca", "test");
    // The same cluster's name and a name that n1 expects: only the roots differ.
    issue_node(path, "foreign-ca", "n2", "foreign");
    let _ = weft(
        path,
        &[
            "grant",
            "operator",
            "node/*",
            "--contract",
            "node.control",
            "--ca",
            "foreign-ca",
            "--to",
            "foreign",
        ],
    )
    .expect_done();
    let port = free_udp_ports(1)[0];
    let mut foreign = Command::new(weft_binary());
    let peer = format!("n1=127.0.0.1:{}", cluster.node("n1").port);
    foreign
        .current_dir(path)
        .args([
            "node",
            "--data",
            "foreign",
            "--directory",
            "n2",
            "--peer",
            &peer,
        ])
        .args(["--listen", &format!("127.0.0.1:{port}")])
        .args(["--die-with-parent", &std::process::id().to_string()]);
    let foreign = weft_tests::start(&mut foreign);
    let pid = foreign.pid();
    eventually(
        "the foreign node answers its own operator",
        PATIENCE,
        || weft(path, &["--data", "foreign", "kernel", "ping", "n2"]).done(),
    );
    let answer = weft(
        path,
        &[
            "--data",
            "foreign",
            "--timeout",
            "5s",
            "kernel",
            "ping",
            "n1",
        ],
    );
    assert!(
        matches!(answer.exit(), Some(REFUSED | UNREACHABLE)),
        "{}",
        answer.finished.told()
    );
    assert!(
        matches!(
            answer.error_code(),
            "untrusted" | "unreachable" | "deadline_exceeded"
        ),
        "{}",
        answer.finished.told()
    );
    assert_nothing_lost(&cluster);
    weft_tests::kill(pid);
    let _ = foreign.finish(PATIENCE);
    cluster.shut_down();
}

#[test]
fn the_data_directory_of_another_cluster_is_not_taken_over() {
    let mut cluster = cluster_with_data(1);
    cluster.stop("n1");
    let data = cluster.path().join("n1");
    // `weft ca node` itself refuses to write over another cluster's node.
    make_ca(cluster.path(), "foreign-ca", "foreign");
    let words = ["ca", "node", "n1", "--dir", "foreign-ca", "--out", "n1"];
    let answer = weft(cluster.path(), &words);
    assert_ne!(answer.exit(), Some(0), "{}", answer.finished.told());
    // Somebody does it by hand.
    issue_node(cluster.path(), "foreign-ca", "n1", "foreign");
    for file in NODE_FILES {
        std::fs::copy(data.join(file), data.join(format!("{file}.kept"))).expect("keep");
        std::fs::copy(cluster.path().join("foreign").join(file), data.join(file)).expect("copy");
    }
    let answer = start_that_fails(&mut node_command(&cluster, 0));
    assert_eq!(
        (answer.exit(), answer.error_code()),
        (Some(REFUSED), "untrusted"),
        "{}",
        answer.finished.told()
    );
    assert_says(answer.error_text(), &["test", "foreign"]);
    // With its own certificates the node comes back with its directory.
    for entry in std::fs::read_dir(&data).expect("read").flatten() {
        let path = entry.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "kept")
        {
            std::fs::rename(&path, path.with_extension("")).expect("restore");
        }
    }
    cluster.restart("n1");
    assert_eq!(
        cluster.owner("n1", "kv").map(|owner| owner.0).as_deref(),
        Some("n1")
    );
    cluster.shut_down();
}

#[test]
fn a_full_disk_refuses_what_it_cannot_keep_and_nothing_else() {
    let cluster = cluster_for_another();
    let before = cluster.owner("n1", "kv");
    // The directory is written beside and renamed. A device that is always full takes the place of
    // the new file.
    let beside = cluster.node("n1").data.join("directory.new");
    let fill = || symlink("/dev/full", &beside).expect("symlink");
    fill();
    let other = ["run", "other", "--program", "kv"];
    let text = cluster.weft("n1", &other).expect_error(INTERNAL, "storage");
    assert_says(&text, &["directory"]);
    assert_eq!(cluster.owner("n1", "other"), None);
    assert_nothing_lost(&cluster);
    // A move cannot commit either; the source goes on.
    fill();
    let moved = cluster.weft("n1", &["migrate", "kv", "--to", "n2"]);
    assert_ne!(moved.exit(), Some(0), "{}", moved.finished.told());
    assert_eq!(cluster.owner("n1", "kv"), before);
    assert_nothing_lost(&cluster);
    // There is room again.
    let _ = std::fs::remove_file(&beside);
    let _ = cluster.weft("n1", &other).expect_done();
    let _ = cluster
        .weft("n1", &["migrate", "kv", "--to", "n2"])
        .expect_done();
    assert_nothing_lost(&cluster);
    cluster.shut_down();
}

#[test]
fn a_full_disk_for_the_list_of_services_starts_and_takes_none() {
    let cluster = cluster_for_another();
    let before = cluster.owner("n1", "kv");
    let beside = cluster.node("n2").data.join("services.new");
    let fill = || symlink("/dev/full", &beside).expect("symlink");

    fill();
    let run = ["run", "other", "--program", "kv"];
    let text = cluster.weft("n2", &run).expect_error(INTERNAL, "storage");
    assert_says(&text, &["services.json", "No space left"]);
    assert_eq!(cluster.owner("n2", "other"), None);
    assert!(cluster.instances("other").is_empty());

    // A move to there is refused before the commit; the source goes on.
    let _ = std::fs::remove_file(&beside);
    fill();
    let migrate = ["migrate", "kv", "--to", "n2"];
    let text = cluster
        .weft("n1", &migrate)
        .expect_error(INTERNAL, "storage");
    assert_says(
        &text,
        &["services.json", "No space left", "kv serves on n1"],
    );
    assert_eq!(cluster.owner("n1", "kv"), before);
    assert_eq!(
        cluster.instances("kv"),
        [("n1".to_owned(), "active".to_owned())]
    );
    assert_nothing_lost(&cluster);

    let _ = std::fs::remove_file(&beside);
    let _ = cluster.weft("n2", &run).expect_done();
    let _ = cluster.weft("n1", &migrate).expect_done();
    assert_nothing_lost(&cluster);
    cluster.shut_down();
}

#[test]
fn a_program_that_is_missing_or_ends_at_once_is_refused_with_its_last_words() {
    let cluster = cluster_with_data(1);
    let run = |program: &[&str]| cluster.weft("n1", &[&["run", "bad"][..], program].concat());
    let text = run(&["--program", "nope"]).expect_error(REFUSED, "rejected");
    assert_says(&text, &["nope", "kv", "--binary"]);
    let text = run(&["--binary", "/nope"]).expect_error(REFUSED, "rejected");
    assert_says(&text, &["/nope", "No such file"]);
    let text = run(&["--binary", "/etc/passwd"]).expect_error(REFUSED, "rejected");
    assert_says(&text, &["/etc/passwd", "ermission denied"]);
    let text = run(&["--binary", TEST_SERVICE, "--", "crash"]).expect_error(REFUSED, "rejected");
    assert_says(&text, &["crashed on purpose"]);
    let attached = ["--binary", TEST_SERVICE, "--", "attach-and-crash"];
    let text = run(&attached).expect_error(REFUSED, "rejected");
    assert_says(&text, &["crashed on purpose, attached"]);
    assert_eq!(cluster.owner("n1", "bad"), None);
    assert!(cluster.instances("bad").is_empty());
    assert_nothing_lost(&cluster);
    // The name is not spoilt.
    let _ = run(&["--program", "kv"]).expect_done();
    cluster.shut_down();
}

#[test]
fn a_stopped_service_is_gone_everywhere_and_can_be_run_again() {
    let cluster = cluster_with_data(2);
    let _ = cluster.weft("n2", &["stop", "kv"]).expect_done();
    assert_eq!(cluster.owner("n2", "kv"), None);
    assert!(cluster.instances("kv").is_empty());
    let _ = cluster
        .weft("n2", &["stop", "kv"])
        .expect_error(REFUSED, "unknown_service");
    let _ = cluster.weft("n2", &["run", "kv"]).expect_done();
    assert_eq!(cluster.owner("n1", "kv"), Some(("n2".to_owned(), 2)));
    cluster.shut_down();
}

#[test]
fn a_service_that_is_being_started_is_not_stopped_under_the_hands_of_its_node() {
    let cluster = cluster_with_data(1);
    // It never registers, so its start takes until the node gives up.
    let starting = [
        "run",
        "slow",
        "--binary",
        "/bin/sleep",
        "--timeout",
        "30s",
        "--",
        "60",
    ];
    let run = cluster.start_weft("n1", &starting);
    eventually("it is being started", PATIENCE, || {
        let found = cluster.instances("slow");
        let there = found == [("n1".to_owned(), "starting".to_owned())];
        there.then_some(()).ok_or(format!("{found:?}"))
    });
    let text = cluster
        .weft("n1", &["kernel", "stop", "n1", "slow"])
        .expect_error(UNREACHABLE, "busy");
    assert_says(&text, &["slow", "started", "weft ps"]);
    drop(run);
    eventually("the start is given up", PATIENCE, || {
        let found = cluster.instances("slow");
        found.is_empty().then_some(()).ok_or(format!("{found:?}"))
    });
    assert_eq!(cluster.owner("n1", "slow"), None);
    assert_nothing_lost(&cluster);
    cluster.shut_down();
}

#[test]
fn a_service_whose_program_is_gone_when_its_node_comes_back_is_shown_and_not_forgotten() {
    let mut cluster = Cluster::start(1);
    let program = cluster.path().join("program");
    std::fs::copy(TEST_SERVICE, &program).expect("copy");
    let program = program.to_str().expect("a path").to_owned();
    let run = ["run", "kv", "--binary", &program, "--", "old-kv"];
    let _ = cluster.weft("n1", &run).expect_done();
    // Another one, whose start has the list of services written anew.
    let _ = cluster
        .weft("n1", &["run", "other", "--program", "kv"])
        .expect_done();
    std::fs::remove_file(&program).expect("remove");
    for _ in 0..2 {
        cluster.kill_daemon("n1");
        cluster.restart("n1");
        eventually("both are settled", PATIENCE, || {
            let found = (cluster.instances("kv"), cluster.instances("other"));
            let at_n1 = |state: &str| [("n1".to_owned(), state.to_owned())];
            let settled = found.0 == at_n1("failed") && found.1 == at_n1("active");
            settled.then_some(()).ok_or(format!("{found:?}"))
        });
    }
    // A start that fails as well changes nothing about that.
    let text = cluster.weft("n1", &run).expect_error(REFUSED, "rejected");
    assert_says(&text, &["No such file"]);
    assert_eq!(
        cluster.instances("kv"),
        [("n1".to_owned(), "failed".to_owned())]
    );
    std::fs::copy(TEST_SERVICE, &program).expect("copy");
    let _ = cluster.weft("n1", &run).expect_done();
    cluster.shut_down();
}

contract! {
    /// Of the contract `kv` the one message that the older program knows by name, too.
    pub contract KvGet("kv", 1) as KvGetRequest { Get => GetReply }
}

/// The types of `kv.Get`, as `kv` and the older program define it.
fn fingerprints_of_get() -> [String; 2] {
    [
        fingerprint::<Get>().to_string(),
        fingerprint::<OldGet>().to_string(),
    ]
}

#[test]
fn a_service_with_an_older_contract_is_refused_with_the_type_and_both_fingerprints() {
    let cluster = Cluster::with(&ClusterOptions::new(2));
    let run = ["run", "kv", "--binary", TEST_SERVICE, "--", "old-kv"];
    let _ = cluster.weft("n1", &run).expect_done();
    let [new, old] = fingerprints_of_get();
    let kv = "kv".parse().expect("a name");
    for node in ["n1", "n2"] {
        let socket = cluster.node(node).data.join("weft.sock");
        let domain = Domain::attach(&socket, "operator".parse().expect("a name")).expect("attach");
        // The same name and version, of another shape.
        let error = domain.open::<KvGet>(&kv).expect_err("the types differ");
        assert_eq!(error.refusal().code, RefusalCode::TypeMismatch, "{error}");
        assert_says(&error.refusal().text, &["kv.Get", &new, &old]);
        // Types that the older one does not know at all.
        let error = domain.open::<Kv>(&kv).expect_err("types are missing");
        assert_eq!(error.refusal().code, RefusalCode::TypeMismatch, "{error}");
        assert_says(&error.refusal().text, &["no message kv.Put"]);
    }
    // Who asks for its types first can speak to it all the same.
    let reply = cluster
        .weft("n2", &["call", "kv", "Get", "{\"key\": 7}"])
        .expect_done();
    assert_eq!(reply["reply"]["value"], 7);
    cluster.shut_down();
}

/// A program that can be replaced while it runs: a script that becomes another program.
struct Replaceable(PathBuf);

impl Replaceable {
    /// The program of `kv`, in the cluster's directory.
    fn kv(cluster: &Cluster) -> Self {
        let program = Self(cluster.path().join("program"));
        program.replace_by(&format!("'{}' service kv", weft_binary().display()));
        program
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("a path")
    }

    /// From now on whoever starts it gets this command.
    fn replace_by(&self, command: &str) {
        let beside = self.0.with_extension("new");
        std::fs::write(&beside, format!("#!/bin/sh\nexec {command}\n")).expect("write");
        std::fs::set_permissions(&beside, Permissions::from_mode(0o755)).expect("permissions");
        std::fs::rename(&beside, &self.0).expect("rename");
    }

    /// From now on it speaks an older contract.
    fn make_older(&self) {
        self.replace_by(&format!("'{TEST_SERVICE}' old-kv"));
    }

    fn remove(&self) {
        std::fs::remove_file(&self.0).expect("remove");
    }
}

#[test]
fn a_move_to_a_program_that_is_older_or_missing_leaves_the_service_where_it_is() {
    let cluster = Cluster::start(2);
    let program = Replaceable::kv(&cluster);
    let run = ["run", "kv", "--binary", program.path()];
    let _ = cluster.weft("n1", &run).expect_done();
    let _ = cluster.put("n1", "kept", "value").expect_done();
    let before = cluster.owner("n1", "kv");
    let migrate = || cluster.weft("n1", &["migrate", "kv", "--to", "n2"]);
    let unmoved = || {
        assert_eq!(cluster.owner("n2", "kv"), before);
        assert_eq!(
            cluster.instances("kv"),
            [("n1".to_owned(), "active".to_owned())]
        );
        assert_nothing_lost(&cluster);
    };

    program.make_older();
    let text = migrate().expect_error(REFUSED, "type_mismatch");
    assert_says(
        &text,
        &[
            "kv.Put",
            "program to take over",
            "update it on n2",
            "kv serves on n1",
        ],
    );
    unmoved();

    program.remove();
    let text = migrate().expect_error(REFUSED, "rejected");
    assert_says(&text, &[program.path(), "No such file", "kv serves on n1"]);
    unmoved();

    let program = Replaceable::kv(&cluster);
    let _ = migrate().expect_done();
    assert_nothing_lost(&cluster);
    drop(program);
    cluster.shut_down();
}

#[test]
fn a_restart_with_an_older_program_gets_none_of_the_channels() {
    let cluster = Cluster::start(2);
    let program = Replaceable::kv(&cluster);
    let run = ["run", "kv", "--binary", program.path()];
    let _ = cluster.weft("n1", &run).expect_done();
    let open = ["n1", "n2"].map(|node| {
        let socket = cluster.node(node).data.join("weft.sock");
        let domain = Domain::attach(&socket, "operator".parse().expect("a name")).expect("attach");
        domain
            .open::<Kv>(&"kv".parse().expect("a name"))
            .expect("a channel")
    });

    program.make_older();
    weft_tests::kill(cluster.pid_of_service("n1", "kv"));
    let failed = [("n1".to_owned(), "failed".to_owned())];
    eventually("the node gives up", PATIENCE, || {
        let found = cluster.instances("kv");
        (found == failed).then_some(()).ok_or(format!("{found:?}"))
    });
    let inventory = cluster.inventory("n1").to_string();
    assert_says(
        &inventory,
        &["no message kv.Put", "program to take over", "weft run kv"],
    );
    for (mut open, node) in open.into_iter().zip(["n1", "n2"]) {
        let count = Count {
            prefix: String::new(),
        };
        let error = open.call(&count, PATIENCE).expect_err("nobody serves it");
        assert_eq!(error.refusal().code, RefusalCode::Closed, "{node}: {error}");
        assert_says(
            &error.refusal().text,
            &["kv has failed on n1", "no message kv.Put"],
        );
        // Nor does anybody who comes now.
        let text = cluster
            .put(node, "kept", "value")
            .expect_error(UNREACHABLE, "closed");
        assert_says(&text, &["kv has failed on n1", "weft run kv"]);
    }

    let program = Replaceable::kv(&cluster);
    let _ = cluster
        .weft("n1", &["run", "kv", "--binary", program.path()])
        .expect_done();
    let _ = cluster.put("n2", "kept", "value").expect_done();
    cluster.shut_down();
}

#[test]
fn a_move_to_where_the_service_already_is_changes_nothing() {
    let cluster = cluster_with_data(2);
    let before = cluster.owner("n1", "kv");
    let text = cluster
        .weft("n2", &["migrate", "kv", "--to", "n1"])
        .expect_error(REFUSED, "already_there");
    assert_says(&text, &["kv", "n1", "already"]);
    assert_eq!(cluster.owner("n2", "kv"), before);
    assert_nothing_lost(&cluster);
    cluster.shut_down();
}

#[test]
fn a_move_to_a_node_that_is_down_leaves_the_service_where_it_is() {
    let mut cluster = cluster_with_data(2);
    let before = cluster.owner("n1", "kv");
    cluster.kill_daemon("n2");
    let answer = cluster.weft("n1", &["migrate", "kv", "--to", "n2"]);
    assert_eq!(
        answer.exit(),
        Some(UNREACHABLE),
        "{}",
        answer.finished.told()
    );
    assert_says(answer.error_text(), &["n2", "n1"]);
    assert_eq!(cluster.get("n1", "kept").as_deref(), Some("value"));
    assert_eq!(cluster.owner("n1", "kv"), before);
    cluster.restart("n2");
    // The first attempt may find that what n1 had open to n2 went with the old daemon.
    eventually("the node takes services again", PATIENCE, || {
        cluster.weft("n1", &["migrate", "kv", "--to", "n2"]).done()
    });
    assert_nothing_lost(&cluster);
    cluster.shut_down();
}

#[test]
fn of_two_moves_at_once_one_happens_and_the_other_is_told() {
    let cluster = cluster_with_data(3);
    // The first hangs at its target, which says nothing until it may go on.
    let target = Pid::from_raw(cluster.node("n2").pid().try_into().expect("a pid")).expect("a pid");
    kill_process(target, Signal::STOP).expect("SIGSTOP");
    let first = cluster.start_weft("n1", &["migrate", "kv", "--to", "n2"]);
    eventually("the first is under way", PATIENCE, || {
        let inventory = cluster.inventory("n1").to_string();
        let under_way = inventory.contains("is being moved to n2");
        under_way.then_some(()).ok_or(inventory)
    });
    for words in [
        &["migrate", "kv", "--to", "n3"][..],
        &["kernel", "migrate", "n1", "kv", "--to", "n2"],
        &["kernel", "stop", "n1", "kv"],
    ] {
        let text = cluster.weft("n3", words).expect_error(UNREACHABLE, "busy");
        assert_says(&text, &["kv is being moved"]);
    }
    kill_process(target, Signal::CONT).expect("SIGCONT");
    let _ = Answer::of(first.finish(2 * PATIENCE)).expect_done();
    assert_eq!(cluster.owner("n1", "kv"), Some(("n2".to_owned(), 2)));
    assert_eq!(
        cluster.instances("kv"),
        [("n2".to_owned(), "active".to_owned())]
    );
    assert_nothing_lost(&cluster);
    cluster.shut_down();
}

#[test]
fn without_a_node_every_command_says_how_to_start_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let path: &Path = directory.path();
    for words in [
        &["ps"][..],
        &["call", "kv", "Count"],
        &["kernel", "ping", "n1"],
    ] {
        let text =
            weft(path, &[&["--data", "d1"], words].concat()).expect_error(UNREACHABLE, "no_node");
        assert_says(&text, &["weft node --data d1"]);
    }
    let text = weft(path, &["ps"]).expect_error(USAGE, "usage");
    assert_says(&text, &["--data", "WEFT_DATA"]);
}

#[test]
fn a_ca_is_never_made_twice_in_one_place() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    make_ca(path, "ca", "first");
    let answer = weft(path, &["ca", "init", "--dir", "ca", "--cluster", "second"]);
    let text = answer.expect_error(REFUSED, "already_there");
    assert_says(&text, &["ca"]);
    // And a command that needs one says which file it looked for.
    let answer = weft(path, &["ca", "node", "n1", "--dir", "elsewhere"]);
    assert_ne!(answer.exit(), Some(0));
    assert_says(answer.error_text(), &["elsewhere"]);
}
