//! What a row comes to: medians over the runs of one placement, and whether it is what it is called.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use crate::Outcome;
use crate::measure::{Sample, Work};
use crate::plan::{Group, SIZES, Waiting};
use weft_bench::machine::{Cores, Machine, Placement, median};

/// More sleeps a message than this, and a row that should be awake is not.
const AWAKE_SLEEPS: f64 = 0.02;
/// Fewer, and the receivers of a row that should be woken are not.
const WOKEN_SLEEPS: f64 = 0.9;
/// More of the time in which somebody could have run and had no core: others use the machine, or
/// our own processes get into each other's way.
const WAITED_SHARE: f64 = 0.05;

/// One run of one row.
pub(crate) struct Run {
    pub(crate) sample: Sample,
    /// The bare line's round trip before and after.
    pub(crate) line_nanos: [f64; 2],
}

/// What a row comes to.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Figures {
    /// Runs that count: those with the cores in their usual places.
    pub(crate) counted: usize,
    /// Runs there were.
    pub(crate) runs: usize,
    /// Percentiles 50, 99 and 99.9 in nanoseconds, where round trips were measured.
    pub(crate) nanos: Option<[f64; 3]>,
    pub(crate) messages_per_second: Option<f64>,
    pub(crate) work: Vec<Work>,
    /// Why the row is not what it is called.
    pub(crate) marks: Vec<String>,
}

type Key = (&'static str, &'static str, usize);

/// All runs.
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) cores: Cores,
    pub(crate) took: Duration,
    runs: BTreeMap<Key, Vec<Run>>,
}

impl Report {
    pub(crate) fn new(machine: Machine, cores: Cores) -> Self {
        Self {
            machine,
            cores,
            took: Duration::ZERO,
            runs: BTreeMap::new(),
        }
    }

    pub(crate) fn add(
        &mut self,
        group: &'static str,
        row: &'static str,
        body_bytes: usize,
        run: Run,
    ) {
        let key = (group, row, body_bytes);
        self.runs.entry(key).or_default().push(run);
    }

    pub(crate) fn finish(&mut self, took: Duration) {
        self.took = took;
    }

    /// Every probe of a bare line, in nanoseconds.
    pub(crate) fn probes(&self) -> Vec<f64> {
        let runs = self.runs.values().flatten();
        runs.flat_map(|run| run.line_nanos).collect()
    }

    /// For how much of the time others had the cores, as a share: what processes that have a core
    /// each waited for it.
    pub(crate) fn disturbance(&self) -> f64 {
        let alone = |sample: &Sample| {
            let waited = sample.work.iter().map(|work| work.waited_us).sum::<f64>();
            (sample.work.len() == 2).then_some(waited * sample.rate / 2e6)
        };
        let runs = self.runs.values().flatten();
        median(runs.filter_map(|run| alone(&run.sample)).collect())
    }

    /// Nothing if it was not measured at all.
    pub(crate) fn figures(
        &self,
        group: &Group,
        row: &'static str,
        body_bytes: usize,
    ) -> Option<Figures> {
        let all = self.runs.get(&(group.title, row, body_bytes))?;
        let usual = Placement::of_line(median(self.probes()));
        let is_usual = |line: &f64| Placement::of_line(*line) == usual;
        let counted: Vec<&Sample> = all
            .iter()
            .filter(|run| run.line_nanos.iter().all(is_usual))
            .map(|run| &run.sample)
            .collect();
        let figures = Figures {
            counted: counted.len(),
            runs: all.len(),
            ..Figures::default()
        };
        let Some(first) = counted.first() else {
            return Some(figures);
        };
        let over =
            |of: &dyn Fn(&Sample) -> f64| median(counted.iter().map(|sample| of(sample)).collect());
        let percentile =
            |which: usize| over(&|sample| sample.nanos.map_or(0.0, |nanos| nanos[which]));
        let work: Vec<Work> = (0..first.work.len())
            .map(|at| Work {
                part: first.work[at].part.clone(),
                sleeps: over(&|sample| sample.work[at].sleeps),
                ran_us: over(&|sample| sample.work[at].ran_us),
                waited_us: over(&|sample| sample.work[at].waited_us),
            })
            .collect();
        let rate = over(&|sample| sample.rate);
        Some(Figures {
            nanos: first.nanos.map(|_| [0, 1, 2].map(percentile)),
            messages_per_second: Some(rate),
            marks: marks(group.waiting, &work, rate),
            work,
            ..figures
        })
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
        let probe = |(key, run): (&Key, &Run)| {
            let (table, row, body_bytes) = key;
            json!({ "table": table, "row": row, "body_bytes": body_bytes, "line_nanos": run.line_nanos })
        };
        let probes: Vec<Value> = self
            .runs
            .iter()
            .flat_map(|(key, runs)| runs.iter().map(move |run| (key, run)))
            .map(probe)
            .collect();
        let document = json!({
            "machine": self.machine,
            "cores": self.cores,
            "line_nanos": median(self.probes()),
            "disturbance": self.disturbance(),
            "seconds": self.took.as_secs_f64(),
            "tables": tables,
            "probes": probes,
        });
        Ok(serde_json::to_string_pretty(&document)?)
    }
}

/// Where a row is not what it is called, or lacked a core.
fn marks(waiting: Waiting, work: &[Work], messages_per_second: f64) -> Vec<String> {
    let mut marks = Vec::new();
    // The asking side is first.
    let answering = &work[1..];
    match waiting {
        Waiting::Awake if work.iter().any(|work| work.sleeps > AWAKE_SLEEPS) => {
            marks.push("NOT always awake".to_owned());
        }
        Waiting::Woken if answering.iter().any(|work| work.sleeps < WOKEN_SLEEPS) => {
            marks.push("NOT always asleep".to_owned());
        }
        Waiting::Woken if (AWAKE_SLEEPS..WOKEN_SLEEPS).contains(&work[0].sleeps) => {
            // It spins before it sleeps, and some answers come so soon.
            marks.push(format!("asker asleep in {:.0} %", work[0].sleeps * 100.0));
        }
        _ => {}
    }
    let each_us = 1e6 / messages_per_second;
    let waited = work.iter().map(|work| work.waited_us).sum::<f64>() / each_us;
    if waited > WAITED_SHARE {
        marks.push(format!(
            "waited for a core {:.0} % of the time",
            waited * 100.0
        ));
    }
    marks
}
