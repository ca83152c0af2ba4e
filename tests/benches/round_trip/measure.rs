//! Taking times, and counting what the processes did meanwhile.

use std::fs;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::Outcome;
use weft_bench::machine::median;

/// How long a run warms up: caches, branch predictors, the window of a connection.
const WARM_UP: Duration = Duration::from_millis(30);

/// How long a slice of a run is whose rate is taken. Long beside anything that is done in batches.
const SLICE: Duration = Duration::from_millis(5);

/// The fewest samples of a run. One with fewer goes on for longer.
const FEWEST_SAMPLES: usize = 50;

/// A process whose work is counted.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Watched {
    /// Its part, such as "service".
    pub(crate) part: String,
    pub(crate) pid: u32,
}

/// What a process did for one message, on average.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Work {
    pub(crate) part: String,
    /// How often it went to sleep.
    pub(crate) sleeps: f64,
    /// How long it ran, in microseconds.
    pub(crate) ran_us: f64,
    /// How long it could have run, while its core was given to somebody else, in microseconds.
    pub(crate) waited_us: f64,
}

/// What one run gave.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Sample {
    /// Messages a second. Where many are on their way, the median over slices of the run, so that a
    /// moment in which somebody else had the core does not count.
    pub(crate) rate: f64,
    /// Percentiles 50, 99 and 99.9 of a round trip; none where many are on their way at once.
    pub(crate) nanos: Option<[f64; 3]>,
    pub(crate) work: Vec<Work>,
}

/// How long to measure.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Extent {
    pub(crate) millis: u64,
    /// How long the asking side pauses, awake, before each question, so that the other falls asleep.
    pub(crate) pause_micros: u64,
}

impl Extent {
    fn duration(self) -> Duration {
        Duration::from_millis(self.millis)
    }
}

/// Measures round trips. `trip` makes one; it tells how long it took if it knows better than our
/// clock.
pub(crate) fn round_trips(
    extent: Extent,
    watched: &[Watched],
    mut trip: impl FnMut() -> Outcome<Option<Duration>>,
) -> Outcome<Sample> {
    let pause = Duration::from_micros(extent.pause_micros);
    let mut timed = |begin: Instant| -> Outcome<(u64, Instant)> {
        let begin = if pause.is_zero() {
            begin
        } else {
            spin(begin, pause)
        };
        let told = trip()?;
        let end = Instant::now();
        Ok((nanos(told.unwrap_or(end - begin)), end))
    };
    let warm = Instant::now();
    let mut last = warm;
    while last - warm < WARM_UP {
        last = timed(last)?.1;
    }
    let clock = clock_nanos();
    let mut times = Vec::with_capacity(1 << 20);
    let before = Counters::of_all(watched)?;
    let begin = Instant::now();
    let mut last = begin;
    while times.len() < FEWEST_SAMPLES || last - begin < extent.duration() {
        let (time, end) = timed(last)?;
        times.push(time.saturating_sub(clock));
        last = end;
    }
    let messages = times.len() as u64;
    let work = Counters::since(watched, &before, messages)?;
    times.sort_unstable();
    let at = |permille: usize| times[(times.len() - 1) * permille / 1000] as f64;
    Ok(Sample {
        rate: messages as f64 / (last - begin).as_secs_f64(),
        nanos: Some([at(500), at(990), at(999)]),
        work,
    })
}

/// Measures how many messages come back while always `window` are on their way. `exchange` sends so
/// many, waits until some have come back, and tells how many.
pub(crate) fn windowed(
    extent: Extent,
    watched: &[Watched],
    window: usize,
    mut exchange: impl FnMut(usize) -> Outcome<usize>,
) -> Outcome<Sample> {
    let mut room = window;
    let mut step = || -> Outcome<usize> {
        room = exchange(room)?;
        Ok(room)
    };
    let warm = Instant::now();
    while warm.elapsed() < WARM_UP {
        step()?;
    }
    let before = Counters::of_all(watched)?;
    let (mut rates, mut messages) = (Vec::new(), 0);
    let begin = Instant::now();
    while messages < FEWEST_SAMPLES || begin.elapsed() < extent.duration() {
        let slice = Instant::now();
        let (mut count, mut took) = (0, Duration::ZERO);
        while took < SLICE {
            count += step()?;
            took = slice.elapsed();
        }
        rates.push(count as f64 / took.as_secs_f64());
        messages += count;
    }
    let work = Counters::since(watched, &before, messages as u64)?;
    while room < window {
        room += exchange(0)?;
    }
    Ok(Sample {
        rate: median(rates),
        nanos: None,
        work,
    })
}

fn spin(from: Instant, pause: Duration) -> Instant {
    loop {
        let now = Instant::now();
        if now - from >= pause {
            return now;
        }
        std::hint::spin_loop();
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// What one reading of the clock costs; each round trip contains one.
fn clock_nanos() -> u64 {
    const READINGS: u32 = 20_000;
    let begin = Instant::now();
    for _ in 0..READINGS {
        std::hint::black_box(Instant::now());
    }
    nanos(begin.elapsed() / READINGS)
}

/// What the kernel has counted for all threads of a process.
#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    sleeps: u64,
    ran_nanos: u64,
    waited_nanos: u64,
}

impl Counters {
    fn of_all(watched: &[Watched]) -> Outcome<Vec<Self>> {
        watched
            .iter()
            .map(|watched| Self::of(watched.pid))
            .collect()
    }

    fn of(pid: u32) -> Outcome<Self> {
        let mut sum = Self::default();
        for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
            let thread = thread?.path();
            // A thread that has just ended has counted for nothing.
            let status = fs::read_to_string(thread.join("status")).unwrap_or_default();
            let times = fs::read_to_string(thread.join("schedstat")).unwrap_or_default();
            let sleeps = status
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))
                .and_then(|count| count.trim().parse::<u64>().ok());
            let mut times = times
                .split_whitespace()
                .map(|time| time.parse().unwrap_or(0u64));
            sum.sleeps += sleeps.unwrap_or(0);
            sum.ran_nanos += times.next().unwrap_or(0);
            sum.waited_nanos += times.next().unwrap_or(0);
        }
        Ok(sum)
    }

    /// What was done since `before`, for each of so many messages.
    fn since(watched: &[Watched], before: &[Self], messages: u64) -> Outcome<Vec<Work>> {
        let each = |now: u64, before: u64| now.saturating_sub(before) as f64 / messages as f64;
        let after = Self::of_all(watched)?;
        let pairs = watched.iter().zip(before.iter().zip(after));
        Ok(pairs
            .map(|(watched, (before, after))| Work {
                part: watched.part.clone(),
                sleeps: each(after.sleeps, before.sleeps),
                ran_us: each(after.ran_nanos, before.ran_nanos) / 1e3,
                waited_us: each(after.waited_nanos, before.waited_nanos) / 1e3,
            })
            .collect())
    }
}
