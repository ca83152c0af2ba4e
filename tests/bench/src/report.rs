//! The filled table, and how it is told.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::cell::Figures;
use crate::local::Run;
use crate::machine::{Cores, Machine, Placement};
use crate::table::Bar;

/// The filled table.
#[derive(Debug, Serialize)]
pub struct Report {
    pub(crate) machine: Machine,
    pub(crate) cores: Cores,
    /// Pairs that each ratio should be the median of.
    pub(crate) rounds: u32,
    pub(crate) millis: u64,
    pub(crate) passes: u32,
    /// Runs that do not count because the cores were moved meanwhile.
    pub(crate) dropped: u32,
    /// Runs of others that failed, and how.
    pub(crate) failed: Vec<String>,
    pub(crate) seconds: f64,
    pub(crate) groups: Vec<Group>,
    /// What could not be compared: no two runs of a pass found the cores in one placement.
    pub(crate) unpaired: Vec<String>,
    /// All runs that count, by the name of their cell.
    pub(crate) runs: BTreeMap<String, Vec<Run>>,
}

/// The rows with the cores in one placement.
#[derive(Debug, Serialize)]
pub(crate) struct Group {
    pub(crate) placement: Placement,
    /// The median round trip of a bare line, in nanoseconds; 0 on one core.
    pub(crate) line_nanos: f64,
    pub(crate) rows: Vec<FilledRow>,
}

#[derive(Debug, Serialize)]
pub(crate) struct FilledRow {
    pub(crate) title: &'static str,
    /// The median run.
    pub(crate) ours: Figures,
    pub(crate) against: Vec<FilledBar>,
}

#[derive(Debug, Serialize)]
pub(crate) struct FilledBar {
    pub(crate) other: String,
    /// The median run.
    pub(crate) figures: Figures,
    /// The median over the passes, so not always the ratio of the two figures.
    pub(crate) ratio: f64,
    /// Passes that it is the median of.
    pub(crate) pairs: usize,
    pub(crate) bar: Bar,
    pub(crate) met: bool,
    /// What to go for is reached.
    pub(crate) reached: bool,
}

impl Report {
    /// The table in Markdown, a part for each placement of the cores.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!(
            "{}\n{} runs of {} ms in {} passes, and {} that were dropped because the cores were moved meanwhile; {:.0} s in all. Each ratio is the median of those of its pairs: two runs of one pass with the cores in one placement.\n",
            self.machine.words(),
            self.runs.values().map(Vec::len).sum::<usize>(),
            self.millis,
            self.passes,
            self.dropped,
            self.seconds,
        );
        for group in &self.groups {
            group.tell(&mut text);
        }
        if !self.failed.is_empty() {
            text.push_str(&format!(
                "\nFailed, and tried again: {}.\n",
                self.failed.join("; ")
            ));
        }
        if !self.unpaired.is_empty() {
            text.push_str(&format!(
                "\nNot compared, since the cores were moved too often: {}.\n",
                self.unpaired.join("; ")
            ));
        }
        text
    }
}

impl Group {
    fn tell(&self, text: &mut String) {
        text.push_str(&format!("\nCores {}", self.placement.words()));
        if self.line_nanos > 0.0 {
            text.push_str(&format!(
                "; a bare line takes {:.0} ns there and back",
                self.line_nanos
            ));
        }
        text.push_str(".\n\n| | Weft | beside | | ratio | at least | go for | pairs |\n| --- | ---: | --- | ---: | ---: | --- | --- | ---: |\n");
        for row in &self.rows {
            let mut title = row.title;
            let mut ours = words(&row.ours);
            for bar in &row.against {
                text.push_str(&format!("| {title} | {ours} | {} |\n", bar.words()));
                title = "";
                ours = String::new();
            }
        }
    }
}

impl FilledBar {
    /// From "beside" on.
    fn words(&self) -> String {
        let sign = self.bar.sign();
        let at_least = match self.bar.at_least {
            None => "stated".to_owned(),
            Some(asked) if self.met => format!("{sign} {asked}"),
            Some(asked) => format!("{sign} {asked} **missed**"),
        };
        let go_for = match self.bar.go_for {
            None => String::new(),
            Some(asked) if self.reached => format!("{sign} {asked} reached"),
            Some(asked) => format!("{sign} {asked}"),
        };
        format!(
            "{} | {} | {:.2} | {at_least} | {go_for} | {}",
            self.other,
            words(&self.figures),
            self.ratio,
            self.pairs
        )
    }
}

fn words(figures: &Figures) -> String {
    match figures {
        Figures::Latency(latency) => match latency.p50_ns {
            nanos @ ..10_000 => format!("{nanos} ns"),
            nanos @ ..10_000_000 => format!("{:.1} µs", nanos as f64 / 1e3),
            nanos => format!("{:.1} ms", nanos as f64 / 1e6),
        },
        Figures::Throughput(throughput) if throughput.msgs_per_s < 1e5 => {
            format!("{:.1} k/s", throughput.msgs_per_s / 1e3)
        }
        Figures::Throughput(throughput) => format!("{:.2} M/s", throughput.msgs_per_s / 1e6),
    }
}
