//! The report as a page of text.

use std::fmt::Write as _;

use super::collect::Pings;
use super::latency::Summary;
use super::report::{ByPlace, ClientReport, MoveEntry, Report};
use crate::output::{table, thousands};

/// What the text shows beside the report itself.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    /// What was loaded.
    pub(crate) corpus: String,
    /// How many keys that were.
    pub(crate) keys: usize,
    /// How long the load took, in seconds.
    pub(crate) load_seconds: f64,
    /// All clients together.
    pub(crate) latencies: ByPlace,
    /// What the nodes' daemons said to each other.
    pub(crate) pings: Pings,
}

/// The whole report for a terminal.
pub(crate) fn render(report: &Report, around: &Surroundings) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_all(&mut out, report, around);
    out
}

fn write_all(out: &mut String, report: &Report, around: &Surroundings) -> std::fmt::Result {
    writeln!(
        out,
        "{} nodes, {} clients, {:.1} s; {} keys from {} loaded in {:.1} s\n",
        report.nodes,
        report.clients.len(),
        report.seconds,
        thousands(around.keys as u64),
        around.corpus,
        around.load_seconds,
    )?;
    out.push_str(&clients(&report.clients, &around.latencies));
    if !report.moves.is_empty() {
        writeln!(out, "\nMoves, milliseconds")?;
        out.push_str(&moves(&report.moves));
    }
    write!(
        out,
        "\nkernel messages  {} answered",
        thousands(report.kernel_messages)
    )?;
    if let Some(trips) = around.pings.round_trips {
        write!(
            out,
            "; round trip p50 {} ms, p99 {} ms, max {} ms",
            ms(trips.p50),
            ms(trips.p99),
            ms(trips.max)
        )?;
    }
    if let Some(error) = &around.pings.error {
        write!(
            out,
            "\n                 {} failed: {error}",
            thousands(around.pings.failed)
        )?;
    }
    writeln!(out, "\ndigest before    {}", report.digest_before)?;
    writeln!(out, "digest after     {}", report.digest_after)?;
    for client in &report.clients {
        for error in &client.errors {
            writeln!(out, "client {}: {error}", client.client)?;
        }
        if !client.damaged.is_empty() {
            writeln!(
                out,
                "client {}: damaged numbers {:?}",
                client.client, client.damaged
            )?;
        }
    }
    writeln!(
        out,
        "\nsent {}, acknowledged {}, lost {}, duplicated {}, reordered {}",
        thousands(report.sent),
        thousands(report.acknowledged),
        thousands(report.lost),
        thousands(report.duplicated),
        thousands(report.reordered),
    )
}

fn clients(clients: &[ClientReport], all: &ByPlace) -> String {
    let heading = [
        "client",
        "node",
        "sent",
        "acked",
        "lost",
        "dup",
        "reord",
        "local p50",
        "p99",
        "max",
        "remote p50",
        "p99",
        "max",
        "moving p99",
        "max",
    ];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for client in clients {
        let mut row = vec![
            client.client.to_string(),
            client.node.clone(),
            thousands(client.sent),
            thousands(client.acknowledged),
            client.lost.to_string(),
            client.duplicated.to_string(),
            client.reordered.to_string(),
        ];
        row.extend(places(&client.latency_ms));
        rows.push(row);
    }
    let mut row = vec!["all".to_owned(), String::new()];
    for count in [
        |client: &ClientReport| client.sent,
        |client: &ClientReport| client.acknowledged,
        |client: &ClientReport| client.lost,
        |client: &ClientReport| client.duplicated,
        |client: &ClientReport| client.reordered,
    ] {
        row.push(thousands(clients.iter().map(count).sum()));
    }
    row.extend(places(all));
    rows.push(row);
    format!("Clients, latencies in milliseconds\n{}", table(&rows))
}

fn places(latency: &ByPlace) -> [String; 8] {
    let figures = |summary: Option<Summary>| {
        summary.map_or_else(
            || ["-", "-", "-"].map(str::to_owned),
            |summary| [ms(summary.p50), ms(summary.p99), ms(summary.max)],
        )
    };
    let [local50, local99, local_max] = figures(latency.local);
    let [remote50, remote99, remote_max] = figures(latency.remote);
    let [_, moving99, moving_max] = figures(latency.moving);
    [
        local50, local99, local_max, remote50, remote99, remote_max, moving99, moving_max,
    ]
}

fn moves(moves: &[MoveEntry]) -> String {
    // The steps in the order in which the first complete move names them.
    let steps: Vec<&String> = moves
        .iter()
        .max_by_key(|one| one.steps_ms.len())
        .map(|one| one.steps_ms.keys().collect())
        .unwrap_or_default();
    let mut heading: Vec<String> = ["at s", "move", "epoch"].map(str::to_owned).to_vec();
    heading.extend(steps.iter().map(|step| (*step).clone()));
    heading.extend(["took", "blackout", "as nodes saw it"].map(str::to_owned));
    let mut rows = vec![heading];
    for one in moves {
        let mut row = vec![
            format!("{:.1}", one.started_seconds),
            format!("{} > {}", one.from, one.to),
            one.epoch.to_string(),
        ];
        row.extend(steps.iter().map(|step| {
            one.steps_ms
                .get(*step)
                .and_then(serde_json::Value::as_f64)
                .map_or_else(|| "-".to_owned(), ms)
        }));
        row.extend([
            ms(one.took_ms),
            ms(one.blackout_ms),
            ms(one.service_blackout_ms),
        ]);
        rows.push(row);
    }
    let mut out = table(&rows);
    for one in moves {
        if let Some(error) = &one.error {
            let _ = writeln!(out, "{} > {} failed: {error}", one.from, one.to);
        }
    }
    out
}

/// Milliseconds with three digits that mean something.
fn ms(milliseconds: f64) -> String {
    let places = match milliseconds {
        ..10.0 => 3,
        10.0..100.0 => 2,
        100.0..1000.0 => 1,
        _ => 0,
    };
    format!("{milliseconds:.places$}")
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::recording;
    use super::*;

    fn text_of(recording: &super::super::report::Recording) -> String {
        let around = Surroundings {
            corpus: "words".to_owned(),
            keys: 100_000,
            load_seconds: 1.5,
            latencies: recording.all_latencies(),
            pings: Pings {
                failed: 2,
                error: Some("n3 is away".to_owned()),
                ..Pings::default()
            },
        };
        render(&recording.report(), &around)
    }

    #[test]
    fn the_text_shows_clients_moves_and_the_verdict() {
        let text = text_of(&recording());
        for part in [
            "2 nodes, 2 clients, 1.0 s; 100,000 keys from words",
            "n1 > n2",
            "prepare",
            "sent 2,000, acknowledged 2,000, lost 0, duplicated 0, reordered 0",
            "kernel messages  42 answered",
            "2 failed: n3 is away",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }

    #[test]
    fn a_failed_move_and_a_clients_errors_are_told() {
        let mut recording = recording();
        recording.moves[0].outcome = Err("n2 is down".to_owned());
        recording.clients[1].errors.push("put 7: closed".to_owned());
        let text = text_of(&recording);
        assert!(text.contains("n1 > n2 failed: n2 is down"), "{text}");
        assert!(text.contains("client 2: put 7: closed"), "{text}");
    }

    #[test]
    fn milliseconds_keep_three_digits() {
        let shown = [0.0123, 1.5, 12.345, 123.45, 12345.6].map(ms);
        assert_eq!(shown, ["0.012", "1.500", "12.35", "123.5", "12346"]);
    }
}
