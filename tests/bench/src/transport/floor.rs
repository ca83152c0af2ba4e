//! The floor: what shared memory can do when nothing is checked, nobody sleeps without being asked to,
//! and each side may write all of it.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use anyhow::{Context, bail};
use rustix::thread::futex;
use weft_local_ipc::SharedWords;

use super::Side;
use crate::Outcome;
use crate::cell::{Cell, Transport};
use crate::part::{Role, Stage};
use crate::wire::Wire;

/// Slots of a bare ring, as many as one of Weft's has.
const SLOTS: usize = 512;
/// The same where a slot holds 1 MiB.
const MEGA_SLOTS: usize = super::MEGA_DEPTH;
/// Words of a slot that holds so much.
const MEGA_WORDS: usize = (1 << 17) + 16;
/// Words of a ring's control part: the receiver's cursor, on a pair of lines of its own.
const CONTROL: usize = 32;
/// Looks between two questions whether the other side still lives.
const LOOKS: u32 = 1 << 28;

/// Words of one direction.
fn direction_words(cell: &Cell) -> usize {
    let payload = cell.size.div_ceil(8);
    match cell.transport {
        Transport::Ring64 => CONTROL + 8 * SLOTS,
        Transport::Ring128 => CONTROL + 16 * SLOTS,
        Transport::RingPage => CONTROL + 528 * SLOTS,
        Transport::RingMega => CONTROL + MEGA_WORDS * MEGA_SLOTS,
        // A flag, then the payload; the next direction begins on another pair of lines.
        _ => (1 + payload).next_multiple_of(16) + CONTROL,
    }
}

pub(super) fn line(cell: &Cell) -> Outcome<(Side, Side)> {
    let words = SharedWords::create(2 * direction_words(cell))?;
    Ok((vec![words.try_clone()?], vec![words]))
}

fn map(mut side: Vec<OwnedFd>) -> Outcome<SharedWords> {
    Ok(SharedWords::map(&side.pop().context("a line has memory")?)?)
}

/// Where our direction and the other side's begin.
fn directions(stage: &Stage<'_>) -> (usize, usize) {
    let far = direction_words(&stage.part.cell);
    match stage.part.role {
        Role::Ask | Role::Source => (0, far),
        Role::Echo | Role::Sink => (far, 0),
    }
}

/// One slot each way.
struct Slot {
    words: SharedWords,
    out: usize,
    inward: usize,
    payload: usize,
    sent: u64,
    received: u64,
    sleeps: bool,
}

impl Slot {
    fn wires(stage: &mut Stage<'_>, sleeps: bool) -> Outcome<Vec<Self>> {
        let (out, inward) = directions(stage);
        let payload = stage.part.cell.size.div_ceil(8);
        let lines = std::mem::take(&mut stage.lines);
        let open = |line| {
            Ok(Self {
                words: map(line)?,
                out,
                inward,
                payload,
                sent: 0,
                received: 0,
                sleeps,
            })
        };
        lines.into_iter().map(open).collect()
    }

    /// The words of the payload that are stored and loaded: one in each line, after the flag's.
    fn lines(&self, direction: usize) -> impl Iterator<Item = &AtomicU64> {
        let payload = &self.words[direction + 1..direction + 1 + self.payload];
        payload.iter().skip(7).step_by(8)
    }
}

impl Wire for Slot {
    #[inline]
    fn send(&mut self, first: u64) -> Outcome {
        for word in self.lines(self.out) {
            word.store(first, Ordering::Relaxed);
        }
        self.words[self.out + 1].store(first, Ordering::Relaxed);
        self.sent += 1;
        self.words[self.out].store(self.sent, Ordering::Release);
        if self.sleeps {
            let flag = self.words.word32(self.out);
            // It has no other error than a bad address.
            let _ = futex::wake(flag, futex::Flags::empty(), 1);
        }
        Ok(())
    }

    #[inline]
    fn poll(&mut self) -> Outcome<Option<u64>> {
        if self.words[self.inward].load(Ordering::Acquire) == self.received {
            return Ok(None);
        }
        self.received += 1;
        let sum = self
            .lines(self.inward)
            .fold(0, |sum, word| sum ^ word.load(Ordering::Relaxed));
        std::hint::black_box(sum);
        Ok(Some(self.words[self.inward + 1].load(Ordering::Relaxed)))
    }

    fn wait(&mut self) -> Outcome {
        if self.sleeps {
            let flag = self.words.word32(self.inward);
            // The low half of the count, which is what the word holds.
            let seen = self.received as u32;
            // Woken, changed already, interrupted: it is polled again.
            let _ = futex::wait(flag, futex::Flags::empty(), seen, None);
        }
        Ok(())
    }
}

pub(super) fn play_slot(mut stage: Stage<'_>) -> Outcome {
    let wires = Slot::wires(&mut stage, false)?;
    stage.play(wires)
}

pub(super) fn play_futex(mut stage: Stage<'_>) -> Outcome {
    let wires = Slot::wires(&mut stage, true)?;
    stage.play(wires)
}

/// A ring of bare slots of `WORDS` words: sequence, a word that stands for a header, payload.
struct Ring<const WORDS: usize, const SLOTS: usize> {
    words: SharedWords,
    out: usize,
    inward: usize,
    payload: usize,
    sent: u64,
    /// The receiver's cursor as last seen.
    done: u64,
    received: u64,
    /// Our cursor as last stored.
    told: u64,
}

impl<const WORDS: usize, const SLOTS: usize> Ring<WORDS, SLOTS> {
    /// Messages between two stores of the cursor.
    const BATCH: u64 = SLOTS as u64 / 8;

    fn slot(&self, direction: usize, sequence: u64) -> &[AtomicU64; WORDS] {
        let at = direction + CONTROL + sequence as usize % SLOTS * WORDS;
        self.words[at..at + WORDS]
            .as_array()
            .expect("a slice of that length")
    }

    #[inline]
    fn fill(&self, sequence: u64, first: u64) {
        let slot = self.slot(self.out, sequence);
        // The line of the sequence word, at which the receiver looks again and again, in one go.
        for word in payload(slot, self.payload).rev() {
            word.store(first, Ordering::Relaxed);
        }
        slot[1].store(first, Ordering::Relaxed);
        slot[0].store(sequence + 1, Ordering::Release);
    }

    /// Waits until the slot of this sequence is free.
    fn make_room(&mut self, sequence: u64) -> Outcome {
        let mut looks = 0;
        while sequence - self.done >= SLOTS as u64 {
            self.done = self.words[self.inward].load(Ordering::Acquire);
            looks += 1;
            if looks == LOOKS {
                bail!("the receiver does not go on");
            }
        }
        Ok(())
    }
}

/// The words of a payload that are stored and loaded: the first, and one of each further line. Without
/// the line of its end half of a message would stay with its sender.
#[inline]
fn payload(slot: &[AtomicU64], count: usize) -> impl DoubleEndedIterator<Item = &AtomicU64> {
    let further = slot[..2 + count].iter().skip(8).step_by(8);
    std::iter::once(&slot[2]).chain(further)
}

impl<const WORDS: usize, const SLOTS: usize> Wire for Ring<WORDS, SLOTS> {
    fn send(&mut self, first: u64) -> Outcome {
        self.send_row(first, 1)
    }

    #[inline]
    fn send_row(&mut self, first: u64, count: u64) -> Outcome {
        let mut first = first;
        let end = self.sent + count;
        while self.sent < end {
            self.make_room(self.sent)?;
            // The index in a register.
            let to = end.min(self.done + SLOTS as u64);
            let from = self.sent;
            for sequence in from..to {
                self.fill(sequence, first);
                first = first.wrapping_add(1);
            }
            self.sent = to;
        }
        Ok(())
    }

    #[inline]
    fn poll(&mut self) -> Outcome<Option<u64>> {
        let slot = self.slot(self.inward, self.received);
        if slot[0].load(Ordering::Acquire) != self.received + 1 {
            if self.told != self.received {
                self.told = self.received;
                self.words[self.out].store(self.told, Ordering::Release);
            }
            return Ok(None);
        }
        let sum =
            payload(slot, self.payload).fold(0, |sum, word| sum ^ word.load(Ordering::Relaxed));
        std::hint::black_box(sum);
        let first = slot[1].load(Ordering::Relaxed);
        self.received += 1;
        if self.received - self.told == Self::BATCH {
            self.told = self.received;
            self.words[self.out].store(self.told, Ordering::Release);
        }
        Ok(Some(first))
    }

    #[inline]
    fn poll_row(&mut self, most: u64, mut each: impl FnMut(u64)) -> Outcome {
        let from = self.received;
        let mut to = from;
        while to < from + most && self.slot(self.inward, to)[0].load(Ordering::Relaxed) == to + 1 {
            to += 1;
        }
        fence(Ordering::Acquire);
        for sequence in from..to {
            let slot = self.slot(self.inward, sequence);
            let sum =
                payload(slot, self.payload).fold(0, |sum, word| sum ^ word.load(Ordering::Relaxed));
            std::hint::black_box(sum);
            each(slot[1].load(Ordering::Relaxed));
        }
        if to > from {
            self.received = to;
            self.told = to;
            self.words[self.out].store(to, Ordering::Release);
        }
        Ok(())
    }

    fn wait(&mut self) -> Outcome {
        Ok(())
    }
}

pub(super) fn play_ring(stage: Stage<'_>) -> Outcome {
    match stage.part.cell.transport {
        Transport::Ring64 => play_slots::<8, SLOTS>(stage),
        Transport::Ring128 => play_slots::<16, SLOTS>(stage),
        Transport::RingPage => play_slots::<528, SLOTS>(stage),
        Transport::RingMega => play_slots::<MEGA_WORDS, MEGA_SLOTS>(stage),
        other => bail!("{other:?} is no ring"),
    }
}

fn play_slots<const WORDS: usize, const SLOTS: usize>(mut stage: Stage<'_>) -> Outcome {
    let payload = stage.part.cell.size.div_ceil(8);
    if payload > WORDS - 2 {
        bail!("a slot holds {} bytes", 8 * (WORDS - 2));
    }
    let (out, inward) = directions(&stage);
    let lines = std::mem::take(&mut stage.lines);
    let open = |line| {
        Ok(Ring::<WORDS, SLOTS> {
            words: map(line)?,
            out,
            inward,
            payload,
            sent: 0,
            done: 0,
            received: 0,
            told: 0,
        })
    };
    let wires = lines.into_iter().map(open).collect::<Outcome<Vec<_>>>()?;
    stage.play(wires)
}
