//! The table of one machine: its rows, what each is held against, and how it is filled.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde::Serialize;

use crate::Outcome;
use crate::cell::{Cell, Figures, Pattern, Transport, Wait};
use crate::machine::{self, Cores, Machine, median, probe};
use crate::process;

/// Runs of a cell that the placement of the cores spoils, at most, before one counts all the same.
const SPOILT: u32 = 4;

/// Whether a row's figure should be small or large beside another's.
#[derive(Clone, Copy, Debug, Serialize)]
pub enum Bar {
    /// At most so many times the other's.
    AtMost(f64),
    /// At least so many times the other's.
    AtLeast(f64),
    /// At least so many times faster: the other's time is divided by ours.
    Faster(f64),
}

/// What a row is held against.
#[derive(Clone, Debug)]
pub struct Against {
    cell: Key,
    bar: Bar,
    goal: Option<f64>,
}

/// A cell apart from the machine's cores and the length of a run.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Key {
    transport: Transport,
    pattern: Pattern,
    size: usize,
    wait: Wait,
    one_core: bool,
    senders: usize,
    row: u64,
}

/// One row of the table.
#[derive(Clone, Debug)]
pub struct Row {
    title: &'static str,
    cell: Key,
    against: Vec<Against>,
}

const LAT: Key = Key {
    transport: Transport::Weft,
    pattern: Pattern::Lat,
    size: 64,
    wait: Wait::Spin,
    one_core: false,
    senders: 1,
    row: 1,
};
const TPUT: Key = Key {
    pattern: Pattern::Tput,
    row: 32,
    ..LAT
};

fn against(cell: Key, bar: Bar, goal: impl Into<Option<f64>>) -> Against {
    Against {
        cell,
        bar,
        goal: goal.into(),
    }
}

/// The whole table.
#[must_use]
pub fn rows() -> Vec<Row> {
    use Bar::{AtLeast, AtMost, Faster};
    let by = |transport, cell: Key| Key { transport, ..cell };
    let sized = |size, cell: Key| Key { size, ..cell };
    let parked = Key {
        wait: Wait::Park,
        ..LAT
    };
    let one_core = Key {
        one_core: true,
        ..parked
    };
    let fanin = Key {
        pattern: Pattern::Fanin,
        senders: 8,
        ..TPUT
    };
    let row = |title, cell, against| Row {
        title,
        cell,
        against,
    };
    vec![
        row(
            "round trip 32 B, awake",
            sized(32, LAT),
            vec![against(
                by(Transport::Slot, sized(32, LAT)),
                AtMost(1.2),
                1.05,
            )],
        ),
        row(
            "round trip 64 B, awake",
            LAT,
            vec![
                against(by(Transport::Slot, LAT), AtMost(1.35), 1.15),
                against(by(Transport::Iceoryx, LAT), Faster(4.0), 6.0),
                against(by(Transport::IceoryxRequest, LAT), Faster(5.0), 8.0),
                against(by(Transport::Pipe, parked), Faster(250.0), None),
                against(by(Transport::Unix, parked), Faster(250.0), None),
                against(by(Transport::Pipe, one_core), Faster(35.0), None),
            ],
        ),
        row(
            "round trip 4 KiB in place, awake",
            sized(4096, LAT),
            vec![
                against(by(Transport::Slot, sized(4096, LAT)), AtMost(1.0), None),
                against(by(Transport::Iceoryx, sized(4096, LAT)), Faster(2.0), None),
            ],
        ),
        row(
            "round trip 64 B, both asleep, two cores",
            parked,
            vec![
                against(by(Transport::Futex, parked), AtMost(1.05), None),
                against(by(Transport::IceoryxEvent, parked), AtMost(0.9), None),
                against(by(Transport::Pipe, parked), AtMost(1.15), None),
            ],
        ),
        row(
            "round trip 64 B, one core, both asleep",
            one_core,
            vec![
                against(by(Transport::Futex, one_core), AtMost(1.05), None),
                against(by(Transport::Pipe, one_core), AtMost(1.0), None),
            ],
        ),
        row(
            "round trip 64 B, one core, send_and_yield: who waits gives up the core, then sleeps",
            Key {
                wait: Wait::Yield,
                ..one_core
            },
            vec![
                against(by(Transport::Futex, one_core), AtMost(1.05), None),
                against(by(Transport::Pipe, one_core), AtMost(1.0), None),
                against(by(Transport::IceoryxEvent, one_core), AtMost(0.4), None),
            ],
        ),
        row(
            "one way 64 B, rows of 32",
            TPUT,
            vec![
                against(by(Transport::Ring128, TPUT), AtLeast(0.8), 1.0),
                against(
                    by(Transport::UnixBatched, Key { row: 1024, ..TPUT }),
                    AtLeast(1.2),
                    2.0,
                ),
                against(by(Transport::Iceoryx, TPUT), AtLeast(20.0), None),
                against(by(Transport::Crossbeam, TPUT), AtLeast(1.5), None),
            ],
        ),
        row(
            "one way 64 B, one by one",
            Key { row: 1, ..TPUT },
            vec![against(by(Transport::Ring128, TPUT), AtLeast(0.8), 1.0)],
        ),
        row(
            "one way 32 B in slots of a line, rows of 32",
            sized(32, TPUT),
            vec![against(
                by(Transport::Ring64, sized(32, TPUT)),
                AtLeast(0.8),
                1.0,
            )],
        ),
        row(
            "one way 4 KiB in place",
            sized(4096, TPUT),
            vec![
                against(
                    by(Transport::RingPage, sized(4096, TPUT)),
                    AtLeast(0.9),
                    None,
                ),
                against(
                    by(Transport::Iceoryx, sized(4096, TPUT)),
                    AtLeast(2.5),
                    None,
                ),
            ],
        ),
        row(
            "8 senders to 1 receiver, 64 B",
            fanin,
            vec![against(by(Transport::Ring128, fanin), AtLeast(0.5), 0.9)],
        ),
        row(
            "the same by an inbox, in order of priority",
            by(Transport::WeftInbox, fanin),
            vec![against(by(Transport::Ring128, fanin), AtLeast(0.3), 0.9)],
        ),
    ]
}

impl Key {
    fn cell(self, cores: Cores, millis: u64) -> Cell {
        Cell {
            transport: self.transport,
            pattern: self.pattern,
            size: self.size,
            millis,
            cores: if self.one_core {
                [cores.ask; 2]
            } else {
                [cores.ask, cores.answer]
            },
            senders: self.senders,
            wait: self.wait,
            row: self.row,
            pause_micros: 0,
        }
    }

    /// That of no other cell.
    fn full_name(&self) -> String {
        let (pattern, wait) = (self.pattern, self.wait);
        let name = self.name();
        format!("{name}, {pattern:?}, {wait:?}, rows of {}", self.row)
    }

    fn name(&self) -> String {
        let transport = self.transport.to_possible_value();
        let transport = transport.as_ref().map_or("?", |value| value.get_name());
        let place = if self.one_core { ", one core" } else { "" };
        format!("{transport} {} B{place}", self.size)
    }
}

/// One run of a cell.
#[derive(Clone, Debug, Serialize)]
struct Run {
    figures: Figures,
    /// The round trip of a bare line before and after it, in nanoseconds.
    line_nanos: [f64; 2],
    /// The cores did not lie as they mostly do, or were moved meanwhile.
    moved: bool,
}

/// How to fill the table.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Runs of each cell.
    pub rounds: u32,
    /// The length of a run, in milliseconds.
    pub millis: u64,
}

/// The filled table.
#[derive(Debug, Serialize)]
pub struct Report {
    machine: Machine,
    cores: Cores,
    plan: (u32, u64),
    /// Round trip of a bare line that most runs saw, in nanoseconds.
    line_nanos: f64,
    /// Whether the cores share a cache, by that figure.
    placement: &'static str,
    /// Runs that were thrown away because the cores were moved.
    thrown_away: u32,
    /// Runs that were kept although the cores were moved: no better ones were to be had. Of a cell
    /// that has others they are not the one shown.
    kept_all_the_same: usize,
    seconds: f64,
    rows: Vec<FilledRow>,
    /// All runs, by the name of their cell.
    runs: BTreeMap<String, Vec<Run>>,
}

#[derive(Debug, Serialize)]
struct FilledRow {
    title: &'static str,
    ours: Figures,
    against: Vec<FilledBar>,
}

#[derive(Debug, Serialize)]
struct FilledBar {
    other: String,
    figures: Figures,
    ratio: f64,
    bar: Bar,
    goal: Option<f64>,
    met: bool,
}

/// Measures all cells, the rounds outermost. Tells of its progress on standard error.
///
/// # Errors
///
/// If a cell cannot be measured.
pub fn fill(plan: Plan) -> Outcome<Report> {
    let began = Instant::now();
    let machine = Machine::look();
    let cores = Cores::find()?;
    let rows = rows();
    let mut runs: BTreeMap<Key, Vec<Run>> = BTreeMap::new();
    for row in &rows {
        for key in std::iter::once(row.cell).chain(row.against.iter().map(|other| other.cell)) {
            runs.entry(key).or_default();
        }
    }
    let usual = usual_line(cores)?;
    let mut progress = Progress::default();
    let mut thrown_away = 0;
    for round in 1..=plan.rounds {
        let count = runs.len();
        for (place, (key, runs)) in runs.iter_mut().enumerate() {
            progress.show(&format!(
                "round {round} of {}, cell {} of {count}: {}",
                plan.rounds,
                place + 1,
                key.name()
            ));
            let cell = key.cell(cores, plan.millis);
            for attempt in 0.. {
                let before = probe(cores)?;
                let figures = process::measure(&cell).map_err(|error| error.context(key.name()))?;
                let line_nanos = [before, probe(cores)?];
                let quiet = line_nanos
                    .iter()
                    .all(|&nanos| machine::is_usual(nanos, usual));
                if quiet || attempt == SPOILT {
                    let moved = !quiet;
                    runs.push(Run {
                        figures,
                        line_nanos,
                        moved,
                    });
                    break;
                }
                thrown_away += 1;
            }
        }
    }
    progress.show("");
    let typical = |key: &Key| typical(&runs[key]);
    let rows = rows
        .iter()
        .map(|row| {
            let ours = typical(&row.cell);
            let against = row.against.iter().map(|other| {
                let figures = typical(&other.cell);
                let ratio = match other.bar {
                    Bar::AtMost(_) | Bar::AtLeast(_) => ours.main() / figures.main(),
                    Bar::Faster(_) => figures.main() / ours.main(),
                };
                let ratio = match (other.bar, &ours) {
                    // Of rates the larger is the faster.
                    (Bar::Faster(_), Figures::Throughput(_)) => 1.0 / ratio,
                    _ => ratio,
                };
                let met = match other.bar {
                    Bar::AtMost(bar) => ratio <= bar,
                    Bar::AtLeast(bar) | Bar::Faster(bar) => ratio >= bar,
                };
                FilledBar {
                    other: other.cell.name(),
                    figures,
                    ratio,
                    bar: other.bar,
                    goal: other.goal,
                    met,
                }
            });
            FilledRow {
                title: row.title,
                against: against.collect(),
                ours,
            }
        })
        .collect();
    Ok(Report {
        machine,
        cores,
        plan: (plan.rounds, plan.millis),
        line_nanos: median(
            runs.values()
                .flatten()
                .flat_map(|run| run.line_nanos)
                .collect(),
        ),
        placement: placement(usual),
        thrown_away,
        kept_all_the_same: runs.values().flatten().filter(|run| run.moved).count(),
        seconds: began.elapsed().as_secs_f64(),
        rows,
        runs: runs
            .into_iter()
            .map(|(key, runs)| (key.full_name(), runs))
            .collect(),
    })
}

/// One line on a terminal, or a line now and then.
#[derive(Debug, Default)]
struct Progress {
    said: Option<Instant>,
}

impl Progress {
    /// Between two lines where there is no terminal.
    const EVERY: Duration = Duration::from_secs(20);

    fn show(&mut self, text: &str) {
        if std::io::stderr().is_terminal() {
            eprint!("\r{text:<78}\r");
        } else if self.said.is_none_or(|said| said.elapsed() > Self::EVERY) {
            self.said = Some(Instant::now());
            eprintln!("{text}");
        }
    }
}

/// Where the cores mostly lie to each other now: the median of a few probes.
fn usual_line(cores: Cores) -> Outcome<f64> {
    let probes = (0..5).map(|_| probe(cores)).collect::<Outcome<Vec<_>>>()?;
    Ok(median(probes))
}

/// A line takes about 70 ns there and back between siblings of a core, 110 under one cache, 500 with none
/// in common.
fn placement(line_nanos: f64) -> &'static str {
    if line_nanos < 220.0 { "near" } else { "far" }
}

/// The run with the median figure, of those whose cores were not moved if there are any.
fn typical(runs: &[Run]) -> Figures {
    let mut sorted: Vec<&Run> = runs.iter().filter(|run| !run.moved).collect();
    if sorted.is_empty() {
        sorted = runs.iter().collect();
    }
    sorted.sort_by(|a, b| a.figures.main().total_cmp(&b.figures.main()));
    sorted[sorted.len() / 2].figures.clone()
}

impl Report {
    /// The table in Markdown.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!(
            "{}\nCores {}: a bare line took {:.0} ns there and back. {} runs were thrown away because the cores were moved, {} of {} kept all the same; {:.0} s in all.\n\n",
            self.machine.words(),
            self.placement,
            self.line_nanos,
            self.thrown_away,
            self.kept_all_the_same,
            self.runs.values().map(Vec::len).sum::<usize>(),
            self.seconds,
        );
        text.push_str("| | Weft | beside | | ratio | at least | go for |\n| --- | ---: | --- | ---: | ---: | --- | --- |\n");
        for row in &self.rows {
            let mut title = row.title;
            let mut ours = words(&row.ours);
            for bar in &row.against {
                let (sign, at_least) = match bar.bar {
                    Bar::AtMost(bar) => ("≤", bar),
                    Bar::AtLeast(bar) | Bar::Faster(bar) => ("≥", bar),
                };
                let goal = bar
                    .goal
                    .map_or_else(String::new, |goal| format!("{sign} {goal}"));
                let met = if bar.met { "" } else { " **missed**" };
                text.push_str(&format!(
                    "| {title} | {ours} | {} | {} | {:.2} | {sign} {at_least}{met} | {goal} |\n",
                    bar.other,
                    words(&bar.figures),
                    bar.ratio,
                ));
                title = "";
                ours = String::new();
            }
        }
        text
    }
}

fn words(figures: &Figures) -> String {
    match figures {
        Figures::Latency(latency) if latency.p50_ns >= 10_000 => {
            format!("{:.1} µs", latency.p50_ns as f64 / 1e3)
        }
        Figures::Latency(latency) => format!("{} ns", latency.p50_ns),
        Figures::Throughput(throughput) => format!("{:.2} M/s", throughput.msgs_per_s / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_table_is_held_against_something() {
        for row in rows() {
            assert!(!row.against.is_empty(), "{}", row.title);
            let ours = [Transport::Weft, Transport::WeftInbox];
            assert!(ours.contains(&row.cell.transport), "{}", row.title);
        }
    }

    #[test]
    fn the_typical_run_is_the_median_one() {
        let run = |msgs_per_s| Run {
            figures: Figures::Throughput(crate::cell::Throughput { msgs_per_s, n: 1 }),
            line_nanos: [100.0; 2],
            moved: false,
        };
        let mut runs = vec![run(5.0), run(1.0), run(3.0)];
        assert_eq!(typical(&runs).main(), 3.0);
        for _ in 0..3 {
            let moved = Run {
                moved: true,
                ..run(0.1)
            };
            runs.push(moved);
        }
        assert_eq!(typical(&runs).main(), 3.0, "moved cores do not count");
        assert_eq!(
            typical(&runs[3..]).main(),
            0.1,
            "unless there is nothing else"
        );
    }
}
