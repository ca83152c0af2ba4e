//! How the table of one machine is filled: in passes, so that the runs of a cell lie apart, and each
//! row's cells close together, so that they find the cores in one placement.
//!
//! The placement is looked at before and after each run. A run in which it changed is dropped, and the
//! cell is tried again. Only runs of one pass and one placement are compared; a row's ratio is the
//! median over its passes. Rows that lack such pairs go into further passes, until the time is up.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::Outcome;
use crate::cell::Figures;
use crate::machine::{Cores, Machine, Placement, median, probe};
use crate::process;
use crate::report::{FilledBar, FilledRow, Group, Report};
use crate::table::{self, Against, Key, Row};

/// Runs of a cell in one pass, at most, to have one of the placement that is wanted.
const ATTEMPTS: u32 = 5;

/// How to fill the table.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Pairs that each ratio should be the median of.
    pub rounds: u32,
    /// The length of a run, in milliseconds.
    pub millis: u64,
    /// Passes begin until then. For the first half of it they go on until each row has its pairs with
    /// near cores, for the second half until it has them with cores in any one placement.
    pub limit: Duration,
    /// This program, built without Weft's checks.
    pub unchecked: Option<PathBuf>,
}

/// One run that counts.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    pass: u32,
    placement: Placement,
    /// The round trip of a bare line before and after it, in nanoseconds. None on one core.
    line_nanos: Option<[f64; 2]>,
    figures: Figures,
}

impl Run {
    /// Whether it may be compared with a run of ours in this placement. One core is as far from itself
    /// as it ever was.
    fn fits(&self, placement: Placement) -> bool {
        self.placement == placement || self.placement == Placement::OneCore
    }
}

/// What was measured so far.
struct Runs {
    plan: Plan,
    cores: Cores,
    of: BTreeMap<Key, Vec<Run>>,
    dropped: u32,
    /// Runs of others that failed, and how.
    failed: Vec<String>,
    pass: u32,
}

impl Runs {
    /// Measures a row's cells, as far as this pass has not yet.
    fn visit(&mut self, row: &Row) -> Outcome {
        let wanted = self.see(row.cell, None)?;
        for other in &row.against {
            self.see(other.cell, wanted)?;
        }
        Ok(())
    }

    /// Has this pass measure a cell in the placement that is wanted, or any. Which it was, if it was
    /// one.
    fn see(&mut self, key: Key, wanted: Option<Placement>) -> Outcome<Option<Placement>> {
        for attempt in 0.. {
            let runs = self.of.entry(key).or_default();
            let of_pass = runs
                .iter()
                .rfind(|run| run.pass == self.pass && wanted.is_none_or(|wanted| run.fits(wanted)));
            if let Some(run) = of_pass {
                return Ok(Some(run.placement));
            }
            if attempt == ATTEMPTS {
                break;
            }
            self.measure(key)
                .map_err(|error| error.context(key.full_name()))?;
        }
        Ok(None)
    }

    /// Whether a run of this cell may fail: it is another's, and works at other times.
    fn may_fail(&self, key: Key) -> bool {
        let name = key.full_name();
        let failed = self.failed.iter().filter(|told| told.starts_with(&name));
        let works = self.of.get(&key).is_some_and(|runs| !runs.is_empty());
        !key.is_ours() && (works || failed.count() + 1 < ATTEMPTS as usize)
    }

    fn measure(&mut self, key: Key) -> Outcome {
        let cell = key.cell(self.cores, self.plan.millis);
        let cores = self.cores;
        let mut lines = Vec::new();
        let look = || {
            if !key.one_core {
                lines.push(probe(cores)?);
            }
            Ok(())
        };
        let figures = match process::measure(&cell, self.plan.unchecked.as_deref(), look) {
            Ok(figures) => figures,
            // What another loses is told, and not everything else lost with it.
            Err(error) if self.may_fail(key) => {
                self.failed.push(format!("{}: {error:#}", key.full_name()));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let (placement, line_nanos) = match lines[..] {
            [before, after] => {
                let placement = Placement::of_line(before);
                if Placement::of_line(after) != placement {
                    self.dropped += 1;
                    return Ok(());
                }
                (placement, Some([before, after]))
            }
            _ => (Placement::OneCore, None),
        };
        let pass = self.pass;
        let runs = self.of.entry(key).or_default();
        // Another placement is wanted, and this one is there already.
        if !runs
            .iter()
            .any(|run| run.pass == pass && run.placement == placement)
        {
            runs.push(Run {
                pass,
                placement,
                line_nanos,
                figures,
            });
        }
        Ok(())
    }

    fn of(&self, key: Key) -> &[Run] {
        self.of.get(&key).map_or(&[], Vec::as_slice)
    }

    /// The runs of a row's own cell and of another one, pass by pass, in one placement.
    fn pairs(&self, ours: Key, other: Key, placement: Placement) -> Vec<(&Figures, &Figures)> {
        let ours = self.of(ours).iter();
        ours.filter(|run| run.placement == placement)
            .filter_map(|run| {
                let mut others = self.of(other).iter();
                let other = others.find(|other| other.pass == run.pass && other.fits(placement))?;
                Some((&run.figures, &other.figures))
            })
            .collect()
    }

    fn has_all_pairs(&self, row: &Row, placement: Placement) -> bool {
        row.against.iter().all(|other| {
            self.pairs(row.cell, other.cell, placement).len() >= self.plan.rounds as usize
        })
    }

    /// Whether a row needs no further pass.
    fn is_filled(&self, row: &Row, late: bool) -> bool {
        let good = [Placement::Near, Placement::OneCore];
        let other = [Placement::Far, Placement::Siblings];
        good.iter()
            .chain(other.iter().filter(|_| late))
            .any(|&placement| self.has_all_pairs(row, placement))
    }

    fn fill_bar(&self, row: &Row, against: &Against, placement: Placement) -> Option<FilledBar> {
        let pairs = self.pairs(row.cell, against.cell, placement);
        let bar = against.bar;
        let ratios = pairs.iter().map(|(ours, other)| bar.ratio(ours, other));
        let ratio = median(ratios.collect());
        Some(FilledBar {
            other: against.cell.name(),
            figures: typical(pairs.iter().map(|(_, other)| *other))?,
            ratio,
            pairs: pairs.len(),
            bar,
            met: bar.at_least.is_none_or(|asked| bar.is_met(ratio, asked)),
            reached: bar.go_for.is_some_and(|asked| bar.is_met(ratio, asked)),
        })
    }

    fn fill_row(&self, row: &Row, placement: Placement) -> Option<FilledRow> {
        let against = row.against.iter();
        let against: Vec<_> = against
            .filter_map(|against| self.fill_bar(row, against, placement))
            .collect();
        if against.is_empty() {
            return None;
        }
        let ours = self.of(row.cell).iter();
        let ours = ours.filter(|run| run.placement == placement);
        Some(FilledRow {
            title: row.title,
            ours: typical(ours.map(|run| &run.figures))?,
            against,
        })
    }

    fn group(&self, rows: &[Row], placement: Placement) -> Option<Group> {
        let filled: Vec<_> = rows
            .iter()
            .filter_map(|row| self.fill_row(row, placement))
            .collect();
        let runs = self.of.values().flatten();
        let lines = runs
            .filter(|run| run.placement == placement)
            .flat_map(|run| run.line_nanos)
            .flatten();
        (!filled.is_empty()).then(|| Group {
            placement,
            line_nanos: median(lines.collect()),
            rows: filled,
        })
    }

    /// What could not be compared with cores in any placement.
    fn unpaired(&self, rows: &[Row]) -> Vec<String> {
        let mut unpaired = Vec::new();
        for row in rows {
            for other in &row.against {
                let paired = Placement::ALL
                    .iter()
                    .any(|&placement| !self.pairs(row.cell, other.cell, placement).is_empty());
                if !paired {
                    unpaired.push(format!("{} beside {}", row.title, other.cell.name()));
                }
            }
        }
        unpaired
    }
}

/// The one with the median figure.
fn typical<'a>(figures: impl Iterator<Item = &'a Figures>) -> Option<Figures> {
    let mut sorted: Vec<_> = figures.collect();
    sorted.sort_by(|a, b| a.main().total_cmp(&b.main()));
    sorted.get(sorted.len() / 2).map(|&figures| figures.clone())
}

/// Measures all cells, the passes outermost. Tells of its progress on standard error.
///
/// # Errors
///
/// If a cell cannot be measured.
pub fn fill(plan: Plan) -> Outcome<Report> {
    let began = Instant::now();
    let machine = Machine::look();
    let built = table::Built::with(plan.unchecked.is_some());
    if !built.tokio {
        eprintln!("without the rows under tokio: they need `--features tokio`");
    }
    let rows = table::rows(built);
    let limit = plan.limit;
    let mut runs = Runs {
        cores: Cores::find()?,
        of: BTreeMap::new(),
        dropped: 0,
        failed: Vec::new(),
        pass: 0,
        plan,
    };
    let mut progress = Progress::default();
    loop {
        let late = began.elapsed() > limit / 2;
        let open = rows.iter().filter(|row| !runs.is_filled(row, late));
        let open: Vec<&Row> = open.collect();
        if open.is_empty() || runs.pass > 0 && began.elapsed() > limit {
            break;
        }
        runs.pass += 1;
        for (place, row) in open.iter().enumerate() {
            // The first pass is whole: something is to be seen of each row.
            if runs.pass > 1 && began.elapsed() > limit {
                break;
            }
            let (pass, count) = (runs.pass, open.len());
            let title = row.title;
            progress.show(&format!(
                "pass {pass}, row {} of {count}: {title}",
                place + 1
            ));
            runs.visit(row)?;
        }
    }
    progress.show("");
    let groups = Placement::ALL.iter();
    Ok(Report {
        groups: groups
            .filter_map(|&placement| runs.group(&rows, placement))
            .collect(),
        unpaired: runs.unpaired(&rows),
        machine,
        cores: runs.cores,
        rounds: runs.plan.rounds,
        millis: runs.plan.millis,
        passes: runs.pass,
        dropped: runs.dropped,
        failed: runs.failed,
        seconds: began.elapsed().as_secs_f64(),
        runs: runs
            .of
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
            eprint!("\r{text:<100.100}\r");
        } else if !text.is_empty() && self.said.is_none_or(|said| said.elapsed() > Self::EVERY) {
            self.said = Some(Instant::now());
            eprintln!("{text}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::Throughput;

    fn runs(of: &[(Key, u32, Placement, f64)]) -> Runs {
        let mut runs = Runs {
            plan: Plan {
                rounds: 2,
                millis: 1,
                limit: Duration::ZERO,
                unchecked: None,
            },
            cores: Cores { ask: 0, answer: 1 },
            of: BTreeMap::new(),
            dropped: 0,
            failed: Vec::new(),
            pass: 0,
        };
        for &(key, pass, placement, msgs_per_s) in of {
            runs.of.entry(key).or_default().push(Run {
                pass,
                placement,
                line_nanos: None,
                figures: Figures::Throughput(Throughput { msgs_per_s, n: 1 }),
            });
        }
        runs
    }

    /// A row of rates, which has one bar that is a rate as well.
    fn row() -> (Row, Key) {
        let mut rows = table::rows(table::Built::with(false));
        let at = rows
            .iter()
            .position(|row| row.title == "8 senders to 1 receiver, 64 B");
        let row = rows.swap_remove(at.expect("the row"));
        let other = row.against[0].cell;
        (row, other)
    }

    #[test]
    fn only_runs_of_one_pass_and_one_placement_are_compared() {
        use Placement::{Far, Near};
        let (row, other) = row();
        let ours = row.cell;
        let runs = runs(&[
            (ours, 1, Near, 100.0),
            (other, 1, Far, 50.0),
            (ours, 2, Near, 100.0),
            (other, 2, Near, 200.0),
            (ours, 3, Far, 10.0),
            (other, 3, Far, 10.0),
            (other, 4, Near, 1.0),
        ]);
        let near = runs
            .group(std::slice::from_ref(&row), Near)
            .expect("a pair");
        assert_eq!(near.rows[0].against[0].pairs, 1);
        assert_eq!(near.rows[0].against[0].ratio, 0.5);
        let far = runs.group(std::slice::from_ref(&row), Far).expect("a pair");
        assert_eq!(far.rows[0].against[0].ratio, 1.0);
        assert!(
            runs.group(std::slice::from_ref(&row), Placement::Siblings)
                .is_none()
        );
        assert!(runs.unpaired(&[row]).is_empty());
    }

    #[test]
    fn a_ratio_is_the_median_over_the_passes() {
        let (row, other) = row();
        let mut of = Vec::new();
        for (pass, figure) in [(1, 100.0), (2, 300.0), (3, 10.0)] {
            of.push((row.cell, pass, Placement::Near, figure));
            // Slow passes are slow for both.
            of.push((other, pass, Placement::Near, 2.0 * figure));
        }
        let group = runs(&of).group(&[row], Placement::Near).expect("pairs");
        let filled = &group.rows[0];
        assert_eq!((filled.against[0].pairs, filled.against[0].ratio), (3, 0.5));
        assert_eq!(filled.ours.main(), 100.0);
    }

    #[test]
    fn a_row_is_filled_near_first_and_anywhere_when_it_is_late() {
        let (row, other) = row();
        let mut of = Vec::new();
        for pass in 1..=2 {
            of.push((row.cell, pass, Placement::Far, 1.0));
            of.push((other, pass, Placement::Far, 1.0));
        }
        let far = runs(&of);
        assert!(!far.is_filled(&row, false) && far.is_filled(&row, true));
        of.iter_mut().for_each(|run| run.2 = Placement::Near);
        assert!(runs(&of).is_filled(&row, false));
        assert!(!runs(&of[..3]).is_filled(&row, true), "a pair is missing");
    }

    #[test]
    fn another_may_fail_if_it_works_at_other_times_and_we_never() {
        let (row, other) = row();
        let mut runs = runs(&[]);
        assert!(!runs.may_fail(row.cell));
        for _ in 1..ATTEMPTS {
            assert!(runs.may_fail(other));
            runs.failed.push(format!("{}: gone", other.full_name()));
        }
        assert!(!runs.may_fail(other), "it never worked");
        let works = (other, 1, Placement::Near, 1.0);
        let mut worked = self::runs(&[works]);
        worked.failed = runs.failed;
        assert!(worked.may_fail(other));
    }

    #[test]
    fn what_has_no_pair_is_told() {
        let (row, other) = row();
        let runs = runs(&[
            (row.cell, 1, Placement::Near, 1.0),
            (other, 1, Placement::Far, 1.0),
        ]);
        let unpaired = runs.unpaired(&[row]);
        assert_eq!(
            unpaired,
            ["8 senders to 1 receiver, 64 B beside ring128 64 B"]
        );
    }
}
