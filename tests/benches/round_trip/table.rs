//! The tables, as a person reads them.

use std::fmt::Write as _;

use crate::measure::Work;
use crate::plan::{Group, SIZES};
use crate::report::{Figures, Report};
use crate::role::Shape;
use weft_bench::machine::median;

/// Others may have the cores for this share of the time before a run is called disturbed.
const QUIET_SHARE: f64 = 0.02;

const NOTHING: &str = "-";

/// Everything, a table for each group and one for what the processes did meanwhile.
pub(crate) fn text(report: &Report, groups: &[Group]) -> String {
    let mut text = head(report);
    for group in groups {
        let _ = write!(text, "\n{}\n\n", group.title);
        table(&mut text, report, group);
    }
    for group in groups {
        let _ = write!(text, "\nFor one message. {}\n\n", group.title);
        work(&mut text, report, group);
    }
    text
}

fn head(report: &Report) -> String {
    let lines = report.probes();
    let disturbance = report.disturbance();
    let least = lines.iter().copied().fold(f64::INFINITY, f64::min);
    let most = lines.iter().copied().fold(0.0, f64::max);
    format!(
        "{}\nasking side on core {}, answering side on core {}; {:.0} s in all\n\
         a bare cache line there and back: {:.0} ns (median; {least:.0} to {most:.0}); \
         runs with the cores in other places are not counted\n\
         others had the cores for {:.0} % of the time{}\n",
        report.machine.words(),
        report.cores.ask,
        report.cores.answer,
        report.took.as_secs_f64(),
        median(lines),
        disturbance * 100.0,
        if disturbance > QUIET_SHARE {
            ": NOT quiet, so that tails and rates mean little, and medians are high"
        } else {
            ""
        },
    )
}

fn table(text: &mut String, report: &Report, group: &Group) {
    let columns: &[&str] = match group.shape {
        Shape::RoundTrip => &["p50", "p99", "p99.9", "times the first"],
        Shape::Window(_) => &["messages/s", "MB/s", "times the first"],
    };
    let heads = SIZES.map(|size| format!("{} {}", bytes(size), columns.join(" | ")));
    let _ = writeln!(text, "| | {} | runs | |", heads.join(" | "));
    let _ = writeln!(
        text,
        "|---|{}---:|---|",
        "---:|".repeat(columns.len() * SIZES.len())
    );
    for row in &group.rows {
        let mut cells = vec![row.name.to_owned()];
        let (mut counted, mut runs, mut marks) = (0, 0, Vec::new());
        for size in SIZES {
            let own = report.figures(group, row.name, size).unwrap_or_default();
            let first = report
                .figures(group, group.rows[0].name, size)
                .unwrap_or_default();
            cells.extend(figures(group.shape, size, &own, &first));
            counted += own.counted;
            runs += own.runs;
            marks.extend(
                own.marks
                    .iter()
                    .map(|mark| format!("{}: {mark}", bytes(size))),
            );
        }
        cells.push(format!("{counted}/{runs}"));
        cells.push(marks.join("; "));
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
}

/// The cells of one row and size.
fn figures(shape: Shape, size: usize, own: &Figures, first: &Figures) -> Vec<String> {
    let ratio = |own: Option<f64>, first: Option<f64>| match (own, first) {
        (Some(own), Some(first)) if first > 0.0 => times(own / first),
        _ => NOTHING.to_owned(),
    };
    match shape {
        Shape::RoundTrip => {
            let at = |which: usize| {
                own.nanos
                    .map_or(NOTHING.to_owned(), |nanos| time(nanos[which]))
            };
            let middle = |figures: &Figures| figures.nanos.map(|nanos| nanos[0]);
            vec![at(0), at(1), at(2), ratio(middle(own), middle(first))]
        }
        Shape::Window(_) => {
            let rate = own.messages_per_second;
            let megabytes = rate.map(|rate| format!("{:.0}", rate * size as f64 / 1e6));
            vec![
                rate.map_or(NOTHING.to_owned(), thousands),
                megabytes.unwrap_or(NOTHING.to_owned()),
                ratio(rate, first.messages_per_second),
            ]
        }
    }
}

fn work(text: &mut String, report: &Report, group: &Group) {
    let _ = writeln!(
        text,
        "| | body | process | slept, times | ran, us | waited for its core, us |\n|---|---:|---|---:|---:|---:|"
    );
    for row in &group.rows {
        for size in SIZES {
            let figures = report.figures(group, row.name, size).unwrap_or_default();
            for work in figures.work {
                let Work {
                    part,
                    sleeps,
                    ran_us,
                    waited_us,
                } = work;
                let _ = writeln!(
                    text,
                    "| {} | {} | {part} | {sleeps:.3} | {ran_us:.2} | {waited_us:.2} |",
                    row.name,
                    bytes(size)
                );
            }
        }
    }
}

fn bytes(size: usize) -> String {
    if size.is_multiple_of(1024) {
        format!("{} KiB", size / 1024)
    } else {
        format!("{size} B")
    }
}

fn time(nanos: f64) -> String {
    match nanos {
        small if small < 10_000.0 => format!("{small:.0} ns"),
        middle if middle < 1e6 => format!("{:.1} us", middle / 1e3),
        large => format!("{:.2} ms", large / 1e6),
    }
}

fn thousands(rate: f64) -> String {
    if rate < 1e6 {
        format!("{:.1} k", rate / 1e3)
    } else {
        format!("{:.2} M", rate / 1e6)
    }
}

fn times(ratio: f64) -> String {
    if ratio < 10.0 {
        format!("{ratio:.2}")
    } else {
        format!("{ratio:.0}")
    }
}
