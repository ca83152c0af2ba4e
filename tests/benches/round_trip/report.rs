//! From runs to tables: medians over the runs of one placement, ratios within a table, and what does
//! not hold said beside it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use crate::Outcome;
use crate::machine::{Cores, Machine, Placement, median};
use crate::measure::{Sample, Work};
use crate::plan::{Group, SIZES, Waiting};
use crate::role::Shape;

/// More sleeps a message than this, and a row that should be awake is not.
const AWAKE_SLEEPS: f64 = 0.02;
/// Fewer, and the receivers of a row that should be woken are not.
const WOKEN_SLEEPS: f64 = 0.9;
/// More of its time without a core that it could have used, and a row was disturbed.
const DISTURBED_SHARE: f64 = 0.05;

/// One run of one row.
pub(crate) struct Run {
    pub(crate) sample: Sample,
    /// The bare line's round trip before and after.
    pub(crate) line_nanos: (f64, f64),
    /// None if it was another afterwards.
    pub(crate) placement: Option<Placement>,
}

/// What a row comes to.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figures {
    /// Runs that count, and runs there were.
    runs: (usize, usize),
    /// Percentiles 50, 99 and 99.9 in nanoseconds, where round trips were measured.
    nanos: Option<[f64; 3]>,
    messages_per_second: f64,
    work: Vec<Work>,
    /// Why the row is not what it is called.
    marks: Vec<String>,
}

type Key = (&'static str, &'static str, usize);

/// All runs.
pub(crate) struct Report {
    machine: Machine,
    cores: Cores,
    runs: BTreeMap<Key, Vec<Run>>,
    took: Duration,
}

impl Report {
    pub(crate) fn new(machine: Machine, cores: Cores) -> Self {
        Self {
            machine,
            cores,
            runs: BTreeMap::new(),
            took: Duration::ZERO,
        }
    }

    pub(crate) fn add(
        &mut self,
        group: &'static str,
        row: &'static str,
        body_bytes: usize,
        run: Run,
    ) {
        self.runs
            .entry((group, row, body_bytes))
            .or_default()
            .push(run);
    }

    pub(crate) fn finish(&mut self, took: Duration) {
        self.took = took;
    }

    /// The placement of most runs. Runs of any other do not count.
    fn placement(&self) -> Option<Placement> {
        let mut counts = BTreeMap::new();
        for placement in self.runs.values().flatten().filter_map(|run| run.placement) {
            *counts.entry(placement).or_insert(0) += 1;
        }
        counts
            .into_iter()
            .max_by_key(|(_, count)| *count)
            .map(|(placement, _)| placement)
    }

    fn figures(&self, group: &Group, row: &'static str, body_bytes: usize) -> Option<Figures> {
        let all = self.runs.get(&(group.title, row, body_bytes))?;
        let placement = self.placement();
        let counted: Vec<&Sample> = all
            .iter()
            .filter(|run| run.placement.is_some() && run.placement == placement)
            .map(|run| &run.sample)
            .collect();
        if counted.is_empty() {
            return None;
        }
        let over =
            |of: &dyn Fn(&Sample) -> f64| median(counted.iter().map(|sample| of(sample)).collect());
        let nanos = counted[0].nanos.map(|_| {
            [0, 1, 2].map(|which| over(&|sample| sample.nanos.map_or(0.0, |nanos| nanos[which])))
        });
        let work: Vec<Work> = (0..counted[0].work.len())
            .map(|at| Work {
                part: counted[0].work[at].part.clone(),
                sleeps: over(&|sample| sample.work[at].sleeps),
                ran_us: over(&|sample| sample.work[at].ran_us),
                waited_us: over(&|sample| sample.work[at].waited_us),
            })
            .collect();
        let messages_per_second = over(&Sample::rate);
        let marks = marks(group.waiting, &work, messages_per_second);
        Some(Figures {
            runs: (counted.len(), all.len()),
            nanos,
            messages_per_second,
            work,
            marks,
        })
    }

    /// The tables.
    pub(crate) fn text(&self, groups: &[Group]) -> String {
        let mut text = self.head();
        for group in groups {
            let _ = writeln!(text, "\n{}\n", group.title);
            self.table(&mut text, group);
        }
        let _ = writeln!(text, "\nWhat each process did for one message\n");
        self.work(&mut text, groups);
        text
    }

    fn head(&self) -> String {
        let mut text = format!("{}\n", self.machine.words());
        let _ = writeln!(
            text,
            "asking side on core {}, answering side on core {}; {:.0} s in all",
            self.cores.ask,
            self.cores.answer,
            self.took.as_secs_f64()
        );
        let lines: Vec<f64> = self
            .runs
            .values()
            .flatten()
            .flat_map(|run| [run.line_nanos.0, run.line_nanos.1])
            .collect();
        let least = lines.iter().copied().fold(f64::INFINITY, f64::min);
        let most = lines.iter().copied().fold(0.0, f64::max);
        let where_ = self
            .placement()
            .map_or("cores that moved all the time", Placement::words);
        let _ = writeln!(
            text,
            "a bare cache line: {:.0} ns there and back (median; {least:.0} to {most:.0}): {where_}; runs of another placement are not counted",
            median(lines),
        );
        text
    }

    fn table(&self, text: &mut String, group: &Group) {
        let round_trip = group.shape == Shape::RoundTrip;
        let columns = if round_trip {
            "p50 | p99 | p99.9 | times the first"
        } else {
            "messages/s | MB/s | times the first"
        };
        let columns = SIZES.map(|size| format!("{} {columns}", bytes(size)));
        let _ = writeln!(text, "| | {} | runs | |", columns.join(" | "));
        let count = columns.iter().flat_map(|column| column.split('|')).count();
        let _ = writeln!(text, "|---|{}---:|---|", "---:|".repeat(count));
        for row in &group.rows {
            let mut cells = vec![row.name.to_owned()];
            let (mut runs, mut marks) = ((0, 0), Vec::new());
            for size in SIZES {
                let own = self.figures(group, row.name, size);
                let first = self.figures(group, group.rows[0].name, size);
                let ratio = |of: &dyn Fn(&Figures) -> f64| match (&own, &first) {
                    (Some(own), Some(first)) if of(first) > 0.0 => times(of(own) / of(first)),
                    _ => "-".to_owned(),
                };
                if round_trip {
                    let nanos = own.as_ref().and_then(|own| own.nanos);
                    cells.extend(
                        (0..3)
                            .map(|which| nanos.map_or("-".to_owned(), |nanos| time(nanos[which]))),
                    );
                    cells.push(ratio(&|figures| {
                        figures.nanos.map_or(0.0, |nanos| nanos[0])
                    }));
                } else {
                    let rate = own.as_ref().map(|own| own.messages_per_second);
                    cells.push(rate.map_or("-".to_owned(), thousands));
                    cells.push(rate.map_or("-".to_owned(), |rate| {
                        format!("{:.0}", rate * size as f64 / 1e6)
                    }));
                    cells.push(ratio(&|figures| figures.messages_per_second));
                }
                if let Some(own) = own {
                    runs = (runs.0 + own.runs.0, runs.1 + own.runs.1);
                    marks.extend(
                        own.marks
                            .iter()
                            .map(|mark| format!("{}: {mark}", bytes(size))),
                    );
                }
            }
            cells.push(format!("{}/{}", runs.0, runs.1));
            cells.push(marks.join("; "));
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        }
    }

    fn work(&self, text: &mut String, groups: &[Group]) {
        let _ = writeln!(
            text,
            "| | body | process | sleeps | ran, us | waited for its core, us |"
        );
        let _ = writeln!(text, "|---|---:|---|---:|---:|---:|");
        for group in groups {
            for row in &group.rows {
                for size in SIZES {
                    let Some(figures) = self.figures(group, row.name, size) else {
                        continue;
                    };
                    for work in figures.work {
                        let Work {
                            part,
                            sleeps,
                            ran_us,
                            waited_us,
                        } = work;
                        let (title, name, size) = (group.title, row.name, bytes(size));
                        let _ = writeln!(
                            text,
                            "| {title}: {name} | {size} | {part} | {sleeps:.3} | {ran_us:.2} | {waited_us:.2} |"
                        );
                    }
                }
            }
        }
    }

    /// Everything, for a program.
    pub(crate) fn json(&self, groups: &[Group]) -> Outcome<String> {
        let mut tables = Vec::new();
        for group in groups {
            let mut rows = Vec::new();
            for row in &group.rows {
                for size in SIZES {
                    if let Some(figures) = self.figures(group, row.name, size) {
                        rows.push(
                            json!({ "name": row.name, "body_bytes": size, "figures": figures }),
                        );
                    }
                }
            }
            tables.push(json!({ "title": group.title, "rows": rows }));
        }
        let probes: Vec<Value> = self
            .runs
            .iter()
            .flat_map(|((group, row, size), runs)| {
                runs.iter().map(move |run| json!({ "table": group, "row": row, "body_bytes": size, "line_nanos": run.line_nanos }))
            })
            .collect();
        let document = json!({
            "machine": self.machine,
            "cores": self.cores,
            "placement": self.placement(),
            "seconds": self.took.as_secs_f64(),
            "tables": tables,
            "probes": probes,
        });
        Ok(serde_json::to_string_pretty(&document)?)
    }
}

/// Where a row is not what it is called, or was disturbed.
fn marks(waiting: Waiting, work: &[Work], messages_per_second: f64) -> Vec<String> {
    let mut marks = Vec::new();
    // The asking side is first. It may get its answer before it falls asleep.
    let answering = &work[1..];
    match waiting {
        Waiting::Awake if work.iter().any(|work| work.sleeps > AWAKE_SLEEPS) => {
            marks.push("NOT always awake")
        }
        Waiting::Woken if answering.iter().any(|work| work.sleeps < WOKEN_SLEEPS) => {
            marks.push("NOT always asleep")
        }
        _ => {}
    }
    let mut marks: Vec<String> = marks.into_iter().map(str::to_owned).collect();
    let each_us = 1e6 / messages_per_second;
    let waited = work.iter().map(|work| work.waited_us).sum::<f64>() / each_us;
    if waited > DISTURBED_SHARE {
        marks.push(format!("cores shared {:.0} %", waited * 100.0));
    }
    marks
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
