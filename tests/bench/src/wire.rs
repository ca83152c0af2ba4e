//! What a transport has to do, and the loops that measure it.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use hdrhistogram::Histogram;

use crate::Outcome;
use crate::cell::{Cell, Latency, Throughput};

/// The first word of a sender's last message.
pub(crate) const END: u64 = u64::MAX;

/// How long a run warms up: caches, branch predictors, pages.
const WARM_UP: Duration = Duration::from_millis(20);

/// Messages between two reports to the transport that they are handled.
const BATCH: u64 = 64;

/// The same for payloads of a page and more, whose memory is worth more than the report.
const LARGE_BATCH: u64 = 8;
const LARGE_BYTES: usize = 4096;

/// From this size on each message is reported: there is room for few.
const HUGE_BYTES: usize = 1 << 20;

/// The same for round trips: nobody waits for room there. Large payloads are reported at once, so that
/// the next one finds the same memory.
const TRIPS_A_BATCH: u64 = 16;

/// Rounds of a sender between two readings of the clock.
const ROWS_A_READING: u64 = 16;

/// One end of something that carries messages of one size.
///
/// `first` is a message's first word; a transport stores a word in each further line of the payload as
/// well, and loads one of each.
pub(crate) trait Wire {
    /// Sends a message, however long it takes.
    fn send(&mut self, first: u64) -> Outcome;

    /// Sends messages in a row.
    fn send_row(&mut self, first: u64, count: u64) -> Outcome {
        (first..first + count).try_for_each(|first| self.send(first))
    }

    /// The next message's first word, if there is one now. Who blocks in a read always has one.
    fn poll(&mut self) -> Outcome<Option<u64>>;

    /// Hands the first words of up to `most` messages that are there now to `each`. Ends with a sender's
    /// last message.
    fn poll_row(&mut self, most: u64, mut each: impl FnMut(u64)) -> Outcome {
        for _ in 0..most {
            match self.poll()? {
                Some(first) => {
                    each(first);
                    if first == END {
                        break;
                    }
                }
                None => break,
            }
        }
        Ok(())
    }

    /// Called when `poll` had nothing: returns when it is worth to poll again.
    fn wait(&mut self) -> Outcome;

    /// All messages so far are handled.
    fn done(&mut self) {}
}

/// Trips between two reports, for payloads of this size.
fn trips_a_batch(size: usize) -> u64 {
    if size < HUGE_BYTES { TRIPS_A_BATCH } else { 1 }
}

fn receive(wire: &mut impl Wire) -> Outcome<u64> {
    loop {
        if let Some(first) = wire.poll()? {
            return Ok(first);
        }
        wire.wait()?;
    }
}

/// Takes the time of trips: first some that do not count, then for as long as the cell says.
pub(crate) struct Trips {
    times: Histogram<u64>,
    /// What one reading of the clock costs.
    clock: u64,
    length: Duration,
    begin: Instant,
    last: Instant,
}

impl Trips {
    pub(crate) fn new(cell: &Cell) -> Outcome<Self> {
        let clock = clock_nanos();
        let now = Instant::now();
        Ok(Self {
            times: Histogram::new_with_max(60_000_000_000, 3)?,
            clock,
            length: Duration::from_millis(cell.millis),
            begin: now,
            last: now,
        })
    }

    /// Whether another trip that does not count is wanted: caches, branch predictors, pages.
    pub(crate) fn warms_up(&mut self) -> bool {
        let warms = self.begin.elapsed() < WARM_UP;
        if !warms {
            self.begin = Instant::now();
            self.last = self.begin;
        }
        warms
    }

    /// Whether another trip is wanted. There is one at least.
    pub(crate) fn go_on(&self) -> bool {
        self.last - self.begin < self.length || self.times.is_empty()
    }

    /// A trip begins now, and not when the last one ended.
    pub(crate) fn begin(&mut self) {
        self.last = Instant::now();
    }

    /// A trip has ended.
    pub(crate) fn end(&mut self) {
        let now = Instant::now();
        self.record(now - self.last);
        self.last = now;
    }

    /// A trip took so long.
    pub(crate) fn record(&mut self, time: Duration) {
        self.times
            .saturating_record(nanos(time).saturating_sub(self.clock));
    }

    /// Whether no trip counts yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    pub(crate) fn figure(&self) -> Latency {
        Latency {
            p50_ns: self.times.value_at_quantile(0.5),
            p99_ns: self.times.value_at_quantile(0.99),
            p999_ns: self.times.value_at_quantile(0.999),
            mean_ns: self.times.mean(),
            min_ns: self.times.min(),
            n: self.times.len(),
        }
    }
}

/// Measures round trips.
pub(crate) fn ask(wire: &mut impl Wire, cell: &Cell) -> Outcome<Latency> {
    let pause = Duration::from_micros(cell.pause_micros);
    let batch = trips_a_batch(cell.size);
    let mut next = 0;
    let mut trip = || -> Outcome {
        next += 1;
        wire.send(next)?;
        let back = receive(wire)?;
        ensure!(back == next, "{back} came back for {next}");
        if next % batch == 0 {
            wire.done();
        }
        Ok(())
    };
    let mut trips = Trips::new(cell)?;
    while trips.warms_up() {
        trip()?;
    }
    while trips.go_on() {
        if !pause.is_zero() {
            while trips.last.elapsed() < pause {
                std::hint::spin_loop();
            }
            trips.begin();
        }
        trip()?;
        trips.end();
    }
    wire.send(END)?;
    Ok(trips.figure())
}

/// Sends each message back.
pub(crate) fn echo(wire: &mut impl Wire, cell: &Cell) -> Outcome {
    let batch = trips_a_batch(cell.size);
    loop {
        let first = receive(wire)?;
        if first == END {
            return Ok(());
        }
        wire.send(first)?;
        if first % batch == 0 {
            wire.done();
        }
    }
}

/// Sends for as long as the cell says.
pub(crate) fn source(wire: &mut impl Wire, cell: &Cell) -> Outcome {
    let length = WARM_UP + Duration::from_millis(cell.millis);
    let begin = Instant::now();
    let mut next = 0;
    while begin.elapsed() < length {
        for _ in 0..ROWS_A_READING {
            wire.send_row(next, cell.row)?;
            next += cell.row;
        }
    }
    wire.send(END)
}

/// Receives from all, in turn, and counts until the first sender has stopped.
pub(crate) fn sink(wires: &mut [impl Wire], cell: &Cell) -> Outcome<Throughput> {
    let most = match cell.size {
        HUGE_BYTES.. => 1,
        LARGE_BYTES.. => LARGE_BATCH,
        _ => BATCH,
    };
    let mut counted = Vec::from_iter(wires.iter().map(|_| 0u64));
    let mut open = Vec::from_iter(wires.iter().map(|_| true));
    let mut begin = None;
    let mut figure = None;
    while open.contains(&true) {
        let mut idle = true;
        for (index, wire) in wires.iter_mut().enumerate() {
            if !open[index] {
                continue;
            }
            let mut batch = 0;
            let mut last = None;
            let next = counted[index];
            wire.poll_row(most, |first| {
                if first == next + batch {
                    batch += 1;
                } else {
                    last = Some(first);
                }
            })?;
            if batch > 0 {
                begin.get_or_insert_with(Instant::now);
                wire.done();
                counted[index] += batch;
                idle = false;
            }
            match last {
                None => {}
                Some(END) => {
                    open[index] = false;
                    idle = false;
                    let all: u64 = counted.iter().sum();
                    let begin: Instant = begin.ok_or_else(|| anyhow::anyhow!("nothing came"))?;
                    figure.get_or_insert_with(|| (all, begin.elapsed()));
                }
                Some(other) => bail!("{other} came in the place of {}", counted[index]),
            }
        }
        if idle && let [wire] = wires {
            wire.wait()?;
        }
    }
    let (n, time) = figure.ok_or_else(|| anyhow::anyhow!("no sender has ended"))?;
    Ok(Throughput {
        msgs_per_s: n as f64 / time.as_secs_f64(),
        n,
    })
}

/// One receiver over all senders.
pub(crate) trait Merged {
    /// Hands some messages to `each`, if there are any: who sent them, and their first words.
    fn poll(&mut self, each: impl FnMut(usize, u64)) -> Outcome;
}

/// As [`sink`], where the transport decides whose turn it is.
pub(crate) fn sink_merged(merged: &mut impl Merged, senders: usize) -> Outcome<Throughput> {
    let mut counted = vec![0; senders];
    let mut open = senders;
    let mut begin = None;
    let mut figure = None;
    while open > 0 {
        let mut wrong = None;
        merged.poll(|index, first| {
            let begin = *begin.get_or_insert_with(Instant::now);
            if first == END {
                open -= 1;
                figure.get_or_insert_with(|| (counted.iter().sum::<u64>(), begin.elapsed()));
            } else if first == counted[index] {
                counted[index] += 1;
            } else {
                wrong = Some((first, counted[index]));
            }
        })?;
        if let Some((first, expected)) = wrong {
            bail!("{first} came in the place of {expected}");
        }
    }
    let (n, time) = figure.ok_or_else(|| anyhow::anyhow!("no sender has ended"))?;
    Ok(Throughput {
        msgs_per_s: n as f64 / time.as_secs_f64(),
        n,
    })
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
