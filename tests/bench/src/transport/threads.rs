//! crossbeam's bounded channels between two threads of one process: what Rust programs use where no
//! border is crossed.

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};

use anyhow::{Context, bail};

use crate::Outcome;
use crate::cell::{Cell, Figures, Pattern};
use crate::machine;
use crate::wire::{self, Wire};

/// As many as a ring of Weft's has slots.
const CAPACITY: usize = 512;

struct Channel<const WORDS: usize> {
    to: Sender<[u64; WORDS]>,
    from: Receiver<[u64; WORDS]>,
}

impl<const WORDS: usize> Wire for Channel<WORDS> {
    fn send(&mut self, first: u64) -> Outcome {
        self.to.send([first; WORDS]).context("the receiver is gone")
    }

    fn poll(&mut self) -> Outcome<Option<u64>> {
        match self.from.try_recv() {
            Ok(value) => {
                let sum = value.iter().step_by(8).fold(0, |sum, word| sum ^ word);
                std::hint::black_box(sum);
                Ok(Some(value[0]))
            }
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => bail!("the sender is gone"),
        }
    }

    fn wait(&mut self) -> Outcome {
        Ok(())
    }
}

pub(super) fn measure(cell: &Cell) -> Outcome<Figures> {
    match cell.size {
        32 => measure_words::<4>(cell),
        64 => measure_words::<8>(cell),
        4096 => measure_words::<512>(cell),
        size => bail!("crossbeam is measured with 32, 64 and 4096 bytes, not {size}"),
    }
}

fn measure_words<const WORDS: usize>(cell: &Cell) -> Outcome<Figures> {
    let (to, from) = bounded(CAPACITY);
    let (back_to, back_from) = bounded(CAPACITY);
    let mut near = Channel::<WORDS> {
        to,
        from: back_from,
    };
    let mut far = Channel::<WORDS> { to: back_to, from };
    std::thread::scope(|scope| {
        let far = scope.spawn(move || -> Outcome<Option<Figures>> {
            machine::pin(cell.cores[1])?;
            if cell.pattern == Pattern::Lat {
                return wire::echo(&mut far, cell).map(|()| None);
            }
            wire::sink(&mut [far], cell).map(|figure| Some(Figures::Throughput(figure)))
        });
        let near = scope.spawn(move || -> Outcome<Option<Figures>> {
            machine::pin(cell.cores[0])?;
            if cell.pattern == Pattern::Lat {
                return wire::ask(&mut near, cell).map(|figure| Some(Figures::Latency(figure)));
            }
            wire::source(&mut near, cell).map(|()| None)
        });
        let ended = |thread: std::thread::ScopedJoinHandle<'_, _>| match thread.join() {
            Ok(outcome) => outcome,
            Err(_) => bail!("a thread panicked"),
        };
        let (near, far) = (ended(near)?, ended(far)?);
        near.or(far).context("nobody has measured")
    })
}
