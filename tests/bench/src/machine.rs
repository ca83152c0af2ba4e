//! The machine under the measurement: its cores, what they say of themselves, how far apart they are.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::{Deserialize, Serialize};

use crate::Outcome;

/// Trips of the probe between two readings of the clock.
const PROBE_BATCH: u64 = 50;
/// Batches of one probe; it tells their median. A few milliseconds in all.
const PROBE_BATCHES: usize = 100;

/// Below so many nanoseconds of a bare line's round trip both cores are threads of one: about 50 there.
const SIBLINGS_BELOW: f64 = 70.0;
/// Below so many they share a cache: 85 to 120 there, 400 to 550 with none in common.
const NEAR_BELOW: f64 = 250.0;

/// How two cores lie to each other. The host of a virtual machine changes it under us, from one
/// second to the next.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// They share a cache.
    Near,
    /// They have no cache in common.
    Far,
    /// They are two threads of one core.
    Siblings,
    /// Both sides run on one core: there is no distance.
    OneCore,
}

impl Placement {
    /// All of them, the usual ones first.
    pub const ALL: [Self; 4] = [Self::Near, Self::Far, Self::Siblings, Self::OneCore];

    /// What the round trip of a bare line tells.
    #[must_use]
    pub fn of_line(nanos: f64) -> Self {
        if nanos < SIBLINGS_BELOW {
            Self::Siblings
        } else if nanos < NEAR_BELOW {
            Self::Near
        } else {
            Self::Far
        }
    }

    /// In words, after "cores".
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Near => "near: they share a cache",
            Self::Far => "far: they have no cache in common",
            Self::Siblings => "siblings: two threads of one core",
            Self::OneCore => "one: both sides share it",
        }
    }
}

/// The cores of the two sides.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Cores {
    /// Where the asking side runs, with its node.
    pub ask: usize,
    /// Where the answering side runs, with its node.
    pub answer: usize,
}

impl Cores {
    /// The first two that this process may use.
    pub fn find() -> Outcome<Self> {
        let allowed = sched_getaffinity(None)?;
        let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
        match (cores.next(), cores.next()) {
            (Some(ask), Some(answer)) => Ok(Self { ask, answer }),
            _ => anyhow::bail!(
                "two cores are needed: a receiver that spins must not take the sender's"
            ),
        }
    }
}

/// Keeps the calling thread on a core.
pub fn pin(core: usize) -> Outcome {
    Ok(pin_thread(None, core)?)
}

/// Keeps all threads of another process on a core. Threads that it starts later follow.
pub fn pin_process(pid: u32, core: usize) -> Outcome {
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let thread: i32 = thread?.file_name().to_string_lossy().parse()?;
        match pin_thread(Pid::from_raw(thread), core) {
            // It has ended just now.
            Err(Errno::SRCH) => {}
            outcome => outcome?,
        }
    }
    Ok(())
}

fn pin_thread(thread: Option<Pid>, core: usize) -> Result<(), Errno> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(thread, &set)
}

/// A word on lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Line(AtomicU64);

/// The round trip of a bare cache line between the two cores, in nanoseconds. Between two threads:
/// the cores do not know whose pages they share.
pub fn probe(cores: Cores) -> Outcome<f64> {
    let (there, back, over) = (Line::default(), Line::default(), AtomicBool::new(false));
    let times = std::thread::scope(|scope| {
        let echo = scope.spawn(|| -> Outcome {
            pin(cores.answer)?;
            let mut seen = 0;
            while !over.load(Ordering::Relaxed) {
                let now = there.0.load(Ordering::Acquire);
                if now != seen {
                    seen = now;
                    back.0.store(now, Ordering::Release);
                }
            }
            Ok(())
        });
        let ask = scope.spawn(|| -> Outcome<Vec<f64>> {
            pin(cores.ask)?;
            let mut next = 0;
            let mut batch = || {
                let begin = Instant::now();
                for _ in 0..PROBE_BATCH {
                    next += 1;
                    there.0.store(next, Ordering::Release);
                    while back.0.load(Ordering::Acquire) != next {
                        if begin.elapsed() > Duration::from_secs(2) {
                            anyhow::bail!("the other core does not answer");
                        }
                    }
                }
                Ok(begin.elapsed().as_nanos() as f64 / PROBE_BATCH as f64)
            };
            let times = (0..PROBE_BATCHES).map(|_| batch()).collect();
            over.store(true, Ordering::Relaxed);
            times
        });
        let times = ask
            .join()
            .map_err(|_| anyhow::anyhow!("the probe panicked"))?;
        over.store(true, Ordering::Relaxed);
        echo.join()
            .map_err(|_| anyhow::anyhow!("the probe panicked"))??;
        times
    })?;
    Ok(median(times))
}

/// The middle of some numbers; 0 if there are none.
pub fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    match numbers.len() {
        0 => 0.0,
        even if even.is_multiple_of(2) => (numbers[middle - 1] + numbers[middle]) / 2.0,
        _ => numbers[middle],
    }
}

/// What a reader has to know of the machine.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    processor: String,
    cores: usize,
    kernel: String,
    /// Runnable threads of the whole machine, averaged over the last minute.
    load_before: f64,
}

impl Machine {
    /// What this machine says of itself.
    #[must_use]
    pub fn look() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let info = read("/proc/cpuinfo");
        let name = info
            .lines()
            .find_map(|line| line.strip_prefix("model name"));
        Self {
            processor: name
                .map_or("an unknown processor", |name| {
                    name.trim_start_matches([' ', '\t', ':'])
                })
                .to_owned(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_before: load(),
        }
    }

    /// In one line.
    #[must_use]
    pub fn words(&self) -> String {
        let Self {
            processor,
            cores,
            kernel,
            load_before,
        } = self;
        format!("{processor}, {cores} cores, Linux {kernel}; load before the run {load_before:.2}")
    }
}

fn load() -> f64 {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ')
        .next()
        .and_then(|first| first.parse().ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_where_the_cores_lie() {
        for (nanos, placement) in [
            (48.0, Placement::Siblings),
            (85.0, Placement::Near),
            (120.0, Placement::Near),
            (417.0, Placement::Far),
            (526.0, Placement::Far),
        ] {
            assert_eq!(Placement::of_line(nanos), placement, "{nanos} ns");
        }
    }

    #[test]
    fn the_middle_of_two_lies_between_them() {
        assert_eq!(median(vec![]), 0.0);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![3.0, 1.0]), 2.0);
    }
}
