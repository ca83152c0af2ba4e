//! The floor: one slot each way, in memory that both processes map, a flag beside the body.
//!
//! No sequence, no check, no lane, no wake-up: nothing can be faster and still take a message from
//! one process to another.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::MemfdFlags;
use vm_memory::volatile_memory::VolatileMemory;
use vm_memory::{Bytes, FileOffset, MmapRegion};

use crate::Outcome;
use crate::measure::{Sample, round_trips};
use crate::plan::QUESTION_BYTES;
use crate::role::{Part, line};

/// The flag of a slot stands on the line before its body.
const BODY_AT: usize = 64;
/// One slot, and what keeps the two from sharing a line or being fetched together.
const SLOT_BYTES: usize = 8192;

/// The flag that ends the echo.
const OVER: u64 = u64::MAX;

const PATIENCE: Duration = Duration::from_secs(10);
/// Looks between two readings of the clock.
const LOOKS: u32 = 1 << 16;

/// Memory for two slots.
pub(crate) fn memory() -> Outcome<OwnedFd> {
    let file = rustix::fs::memfd_create("weft-bench-slot", MemfdFlags::CLOEXEC)?;
    rustix::fs::ftruncate(&file, 2 * SLOT_BYTES as u64)?;
    Ok(file)
}

struct Slots(MmapRegion);

impl Slots {
    fn map() -> Outcome<Self> {
        let file = FileOffset::new(File::from(line()?), 0);
        Ok(Self(MmapRegion::from_file(file, 2 * SLOT_BYTES)?))
    }

    fn flag(&self, slot: usize) -> Outcome<&AtomicU64> {
        Ok(self.0.get_atomic_ref(slot * SLOT_BYTES)?)
    }
}

pub(crate) fn ask(part: &Part) -> Outcome<Sample> {
    let slots = Slots::map()?;
    let (there, back) = (slots.flag(0)?, slots.flag(1)?);
    let (out, inward) = bodies(&slots, part.body_bytes)?;
    let mut body = vec![0; part.body_bytes];
    let mut next = 0;
    let sample = round_trips(part.extent, &part.watched, || {
        next += 1;
        out.write_slice(&[7; QUESTION_BYTES], 0)?;
        there.store(next, Ordering::Release);
        wait(back, next - 1)?;
        inward.read_slice(&mut body, 0)?;
        Ok(None)
    });
    there.store(OVER, Ordering::Release);
    sample
}

pub(crate) fn answer(part: &Part) -> Outcome {
    let slots = Slots::map()?;
    let (there, back) = (slots.flag(0)?, slots.flag(1)?);
    let (inward, out) = bodies(&slots, part.body_bytes)?;
    let (mut question, body) = ([0; QUESTION_BYTES], vec![7; part.body_bytes]);
    let mut seen = 0;
    loop {
        seen = wait(there, seen)?;
        if seen == OVER {
            return Ok(());
        }
        inward.read_slice(&mut question, 0)?;
        out.write_slice(&body, 0)?;
        back.store(seen, Ordering::Release);
    }
}

type Body<'a> = vm_memory::VolatileSlice<'a>;

/// Those of the question and of the answer.
fn bodies(slots: &Slots, bytes: usize) -> Outcome<(Body<'_>, Body<'_>)> {
    Ok((
        slots.0.get_slice(BODY_AT, QUESTION_BYTES)?,
        slots.0.get_slice(SLOT_BYTES + BODY_AT, bytes)?,
    ))
}

/// Spins until the flag is another.
fn wait(flag: &AtomicU64, old: u64) -> Outcome<u64> {
    let begin = Instant::now();
    loop {
        for _ in 0..LOOKS {
            let now = flag.load(Ordering::Acquire);
            if now != old {
                return Ok(now);
            }
        }
        if begin.elapsed() > PATIENCE {
            return Err("the other process does not answer".into());
        }
    }
}
