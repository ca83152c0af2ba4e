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

/// Two probes that differ by no more than this found the cores in the same places: a line takes about
/// 70 ns there and back between siblings of a core, 110 under one cache, 500 with none in common.
const SAME_PLACEMENT: f64 = 1.5;

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

/// Whether the cores lay to each other as they mostly do: `usual` is the bare line's round trip then.
pub fn is_usual(line_nanos: f64, usual: f64) -> bool {
    (usual / SAME_PLACEMENT..usual * SAME_PLACEMENT).contains(&line_nanos)
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
