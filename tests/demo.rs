//! The report of a demo run: its keys are what scripts read, and its numbers are the promises.
//!
//! The run itself is the command of README.md; this looks at what it wrote:
//!
//! ```sh
//! cargo run --release --bin weft -- demo --report demo-report
//! WEFT_DEMO_REPORT=demo-report cargo test -p weft-tests --test demo -- --ignored
//! ```

use std::path::PathBuf;

use serde_json::Value;

/// The steps of a move, by the names under which they appear everywhere.
const STEPS: [&str; 7] = [
    "prepare", "precopy", "freeze", "final", "commit", "activate", "swap",
];

fn directory() -> PathBuf {
    let path = std::env::var_os("WEFT_DEMO_REPORT")
        .expect("WEFT_DEMO_REPORT names the directory of a report");
    PathBuf::from(path)
}

fn report() -> Value {
    let path = directory().join("report.json");
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).expect("JSON")
}

#[track_caller]
fn number(value: &Value, key: &str) -> u64 {
    value[key]
        .as_u64()
        .unwrap_or_else(|| panic!("{key} is {} and no number", value[key]))
}

#[track_caller]
fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key]
        .as_array()
        .unwrap_or_else(|| panic!("{key} is {} and no list", value[key]))
}

#[test]
#[ignore = "looks at the report of a demo run, WEFT_DEMO_REPORT; .ci/run runs it"]
fn nothing_was_lost_repeated_or_reordered() {
    let report = report();
    for promise in ["lost", "duplicated", "reordered"] {
        assert_eq!(number(&report, promise), 0, "{promise}");
    }
    let (sent, acknowledged) = (number(&report, "sent"), number(&report, "acknowledged"));
    assert_eq!(sent, acknowledged);
    assert!(
        sent >= 1000,
        "a demo that sends {sent} messages shows nothing"
    );
    let digest = report["digest_before"].as_str().expect("a digest");
    assert_eq!(digest.len(), 64, "SHA-256 in hex: {digest}");
    assert_eq!(report["digest_after"], digest);
}

#[test]
#[ignore = "looks at the report of a demo run, WEFT_DEMO_REPORT; .ci/run runs it"]
fn the_service_went_round_all_nodes_while_six_clients_sent() {
    let report = report();
    assert!(number(&report, "nodes") >= 3);
    assert!(number(&report, "kernel_messages") > 0);
    let clients = list(&report, "clients");
    assert!(clients.len() >= 6, "{} clients", clients.len());
    assert!(clients.iter().all(|client| number(client, "sent") > 0));
    let moves = list(&report, "moves");
    assert!(moves.len() >= 3, "{} moves", moves.len());
    for (one, next) in moves.iter().zip(&moves[1..]) {
        assert_eq!(one["to"], next["from"]);
        assert!(number(one, "epoch") < number(next, "epoch"));
    }
    for one in moves {
        assert!(
            one["blackout_ms"].as_f64().is_some_and(|time| time > 0.0),
            "{one}"
        );
        let steps = one["steps_ms"].as_object().expect("steps by their names");
        let names: Vec<&str> = steps.keys().map(String::as_str).collect();
        assert_eq!(names, STEPS, "in the order in which they are taken");
        assert!(
            steps
                .values()
                .all(|time| time.as_f64().is_some_and(|time| time >= 0.0))
        );
    }
}

#[test]
#[ignore = "looks at the report of a demo run, WEFT_DEMO_REPORT; .ci/run runs it"]
fn the_page_stands_by_itself() {
    let path = directory().join("report.html");
    let page = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(
        page.contains("<svg") || page.contains("<canvas"),
        "there is no plot"
    );
    for fetched in [
        "src=\"http",
        "href=\"http",
        "src='http",
        "@import",
        "url(http",
    ] {
        assert!(!page.contains(fetched), "{fetched} would be fetched");
    }
}
