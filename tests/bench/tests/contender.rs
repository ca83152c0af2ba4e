//! The program as a harness would use it: one JSON object for each cell.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::process::{Command, Output};

use serde_json::Value;

fn bench(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_weft-bench"))
        .args(words)
        .output()
        .unwrap()
}

fn figures(words: &[&str]) -> Value {
    let output = bench(words);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {errors}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 1, "one object: {text}");
    serde_json::from_str(&text).unwrap()
}

fn positive(figures: &Value, names: &[&str]) {
    let object = figures.as_object().unwrap();
    assert_eq!(object.len(), names.len(), "{figures}");
    for name in names {
        assert!(figures[name].as_f64().unwrap() > 0.0, "{name}: {figures}");
    }
}

const LATENCY: [&str; 6] = ["p50_ns", "p99_ns", "p999_ns", "mean_ns", "min_ns", "n"];
const THROUGHPUT: [&str; 2] = ["msgs_per_s", "n"];

#[test]
fn round_trips_of_all_sizes_and_ways_to_wait() {
    for size in ["8", "9", "64", "100", "4096", "98304"] {
        let words = ["contender", "lat", "--ms", "30", "--size", size];
        positive(&figures(&words), &LATENCY);
    }
    for wait in ["spin", "adaptive", "park"] {
        let words = ["contender", "lat", "--ms", "30", "--wait", wait];
        let figures = figures(&words);
        positive(&figures, &LATENCY);
        assert!(figures["min_ns"].as_u64() <= figures["p50_ns"].as_u64());
        assert!(figures["p50_ns"].as_u64() <= figures["p99_ns"].as_u64());
    }
}

#[test]
fn both_sides_may_share_a_core_if_they_sleep() {
    let words = [
        "contender",
        "lat",
        "--ms",
        "30",
        "--wait",
        "park",
        "--cores",
        "0",
    ];
    positive(&figures(&words), &LATENCY);
}

#[test]
fn one_way_by_one_sender_and_by_several() {
    for wait in ["spin", "adaptive", "park"] {
        for row in ["1", "32"] {
            let words = [
                "contender",
                "tput",
                "--ms",
                "30",
                "--wait",
                wait,
                "--row",
                row,
            ];
            positive(&figures(&words), &THROUGHPUT);
        }
    }
    let words = [
        "contender",
        "fanin",
        "--ms",
        "30",
        "--senders",
        "3",
        "--size",
        "32",
    ];
    positive(&figures(&words), &THROUGHPUT);
}

#[test]
fn every_rival_and_every_floor_carries_messages() {
    for transport in [
        "slot",
        "ring64",
        "ring128",
        "ring-page",
        "futex",
        "pipe",
        "unix",
        "crossbeam",
        "iceoryx",
        "iceoryx-event",
        "iceoryx-request",
    ] {
        let words = [
            "contender",
            "lat",
            "--ms",
            "30",
            "--size",
            "32",
            "--transport",
            transport,
        ];
        positive(&figures(&words), &LATENCY);
    }
    for transport in [
        "ring64",
        "ring128",
        "ring-page",
        "pipe",
        "unix",
        "unix-batched",
        "crossbeam",
        "iceoryx",
    ] {
        let words = [
            "contender",
            "tput",
            "--ms",
            "30",
            "--size",
            "32",
            "--transport",
            transport,
        ];
        positive(&figures(&words), &THROUGHPUT);
    }
}

#[test]
fn what_cannot_be_measured_is_said() {
    for (words, says) in [
        (&["contender", "lat", "--size", "4"][..], "at least 8 bytes"),
        (
            &["contender", "lat", "--size", "100000"],
            "8 to 98304 bytes",
        ),
        (&["contender", "fanin", "--senders", "0"], "a sender"),
        (&["contender", "tput", "--row", "0"], "at least a message"),
        (&["contender", "lat", "--cores", "4000"], "weft-bench: "),
        (
            &["local", "--json", "/nowhere/x.json"],
            "cannot write /nowhere/x.json",
        ),
        (
            &["local", "--unchecked", "/nowhere/weft-bench"],
            "no program /nowhere/weft-bench: build it with",
        ),
    ] {
        let output = bench(words);
        assert!(!output.status.success(), "{words:?}");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.contains(says), "{words:?}: {errors}");
        assert!(output.stdout.is_empty(), "{words:?}");
    }
}

#[test]
fn facts_of_a_short_run() {
    let found = figures(&["facts", "--messages", "2000000"]);
    assert_eq!(found["burst"][1], 1, "one wake for one sleep: {found}");
    assert_eq!(found["parked"]["messages"], 2_000_000);
    assert!(found["parked"]["sleeps"].as_u64() > Some(0), "{found}");
}

#[test]
fn large_payloads_and_cold_channels() {
    let of = |words: &str| figures(&words.split(' ').collect::<Vec<_>>());
    for words in [
        "lat --transport weft-heap --size 1048576",
        "lat --transport weft-reference --size 16777216",
        "lat --transport weft-hand-over --size 1048576",
        "lat --transport bare-hand-over --size 1048576",
        "first --idle 100",
        "first --idle 100 --wait park",
        "first --idle 100 --wait park --transport weft-inbox-doorbell",
    ] {
        positive(&of(&format!("contender {words} --ms 30")), &LATENCY);
    }
    for words in [
        "tput --transport weft-heap --size 1048576 --row 1",
        "tput --transport ring-mega --size 1048576 --row 1",
        "tput --transport iceoryx --size 1048576 --row 1",
        "tput --idle 100",
    ] {
        positive(&of(&format!("contender {words} --ms 30")), &THROUGHPUT);
    }
}

#[test]
fn under_a_runtime_or_how_to_get_it() {
    for transport in ["weft-tokio", "unix-tokio"] {
        let words = ["contender", "lat", "--ms", "30", "--transport", transport];
        if cfg!(feature = "tokio") {
            positive(&figures(&words), &LATENCY);
        } else {
            let output = bench(&words);
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success());
            assert!(errors.contains("--features tokio"), "{errors}");
        }
    }
}

#[test]
fn several_senders_to_a_receiver_asleep_or_awake() {
    for wait in ["spin", "adaptive", "park"] {
        for size in ["8", "64", "4096"] {
            let words = [
                "contender",
                "fanin",
                "--ms",
                "30",
                "--senders",
                "3",
                "--size",
                size,
                "--wait",
                wait,
            ];
            positive(&figures(&words), &THROUGHPUT);
        }
    }
}

#[test]
fn the_whole_table_in_a_quick_run() {
    let json = tempfile::NamedTempFile::new().unwrap();
    let path = json.path().to_str().unwrap();
    let picture = tempfile::NamedTempFile::new().unwrap();
    let plot = picture.path().to_str().unwrap();
    let output = bench(&[
        "local", "--quick", "--limit", "1", "--json", path, "--plot", plot,
    ]);
    assert!(output.status.success(), "{output:?}");
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("| round trip 64 B, awake |"), "{table}");
    let report: Value = serde_json::from_reader(json.reopen().unwrap()).unwrap();
    let mut bars = 0;
    for group in report["groups"].as_array().unwrap() {
        for row in group["rows"].as_array().unwrap() {
            for bar in row["against"].as_array().unwrap() {
                assert!(bar["ratio"].as_f64().unwrap() > 0.0, "{row}");
                bars += 1;
            }
        }
    }
    let picture = std::fs::read_to_string(picture.path()).unwrap();
    assert!(picture.starts_with("<svg ") && picture.ends_with("</svg>\n"));
    // One each for the background, a bar, and a placement in the legend.
    let groups = report["groups"].as_array().unwrap().len();
    assert_eq!(picture.matches("<rect ").count(), 1 + bars + groups);
}
