//! Weft's heap: payloads are loans, filled in place, and are read in place until they are dropped.
//!
//! A heap has room for a few large payloads: as many as rivals of that size have.

use std::os::fd::AsFd;

use anyhow::{Context, bail, ensure};
use weft_local_ipc::heap::{
    Borrower, BorrowerId, ExtentId, Heap, HeapError, Limits, Loan, Notes, PeerNotes,
    REFERENCE_BYTES,
};
use weft_local_ipc::numa::Placement;
use weft_local_ipc::{Payload, SendError};

use super::MEGA_DEPTH;
use super::weft::{Channel, HEADER, LOOKS, PATIENCE, lane, look};
use crate::Outcome;
use crate::cell::Cell;
use crate::part::Stage;
use crate::wire::Wire;

/// The most objects that are lent at once; the memory ends before.
const NOTES: u32 = 64;

/// Our heap, and what the peer lends us of its own.
struct Objects {
    channel: Channel,
    words: usize,
    heap: Heap,
    to: BorrowerId,
    borrower: Borrower,
    body: Vec<u8>,
}

impl Objects {
    fn open(channel: Channel, cell: &Cell) -> Outcome<Self> {
        let bytes = cell.size.checked_mul(MEGA_DEPTH).context("such a size")? as u64;
        let mut heap = Heap::new(Limits {
            budget_bytes: bytes,
            extent_bytes: bytes,
            objects: NOTES,
        });
        let (extent, _) = heap.extend(bytes, Placement::Anywhere)?;
        let mut borrower = Borrower::new(Notes::create(NOTES)?, bytes);
        let shared = heap.share(extent).context("it was made just now")??;
        let fds = [shared, borrower.share_notes()?];
        let fds = fds.each_ref().map(AsFd::as_fd);
        channel.side.send(&extent.get().to_ne_bytes(), &fds)?;
        let (number, fds) = channel
            .side
            .receive(Some(PATIENCE))?
            .context("no heap came")?;
        let [extent, notes] = &fds[..] else {
            bail!("a heap comes as an extent and notes");
        };
        let number = number.first_chunk().context("an extent has a number")?;
        borrower.adopt(ExtentId::new(u32::from_ne_bytes(*number)), extent)?;
        Ok(Self {
            channel,
            words: cell.size / 8,
            to: heap.admit(PeerNotes::open(notes)?),
            heap,
            borrower,
            body: Vec::with_capacity(64),
        })
    }

    /// A loan, as soon as there is room for it.
    fn loan(&mut self) -> Outcome<Loan<[u64]>> {
        for look in 1_u32.. {
            match self.heap.loan_slice(self.words) {
                Err(HeapError::Full { .. } | HeapError::TooManyObjects { .. }) => {}
                loan => return Ok(loan?),
            }
            if look.is_multiple_of(LOOKS) && self.channel.side.hung_up() {
                break;
            }
        }
        bail!("the receiver gives nothing back")
    }
}

impl Wire for Objects {
    fn send(&mut self, first: u64) -> Outcome {
        let mut loan = self.loan()?;
        loan.iter_mut().step_by(8).for_each(|word| *word = first);
        let lane = self.channel.lane;
        loop {
            let sender = &mut self.channel.sender;
            let Err(unsent) = self.heap.send(self.to, sender, lane, HEADER, loan) else {
                return Ok(());
            };
            // There is room for more messages than objects, but for the last one of a lap.
            ensure!(
                matches!(unsent.error, HeapError::Send(SendError::Full { .. })),
                unsent.error
            );
            loan = unsent.loan;
        }
    }

    fn poll(&mut self) -> Outcome<Option<u64>> {
        let Some(received) = self.channel.receiver.try_receive(&mut self.body)? else {
            return Ok(None);
        };
        self.channel.taken = received.sequence.next();
        ensure!(received.payload == Payload::Reference, "it is an object");
        let object = self.borrower.resolve(&received, &self.body)?;
        look(object.view()).map(Some).context("it has a word")
    }

    fn wait(&mut self) -> Outcome {
        self.channel.wait()
    }

    fn done(&mut self) {
        self.channel.done();
        self.borrower
            .finished(self.channel.lane, self.channel.taken);
    }
}

pub(super) fn play(mut stage: Stage<'_>) -> Outcome {
    let cell = stage.part.cell;
    ensure!(
        cell.size >= 8 && cell.size.is_multiple_of(8),
        "an object here has whole words, at least one"
    );
    // The messages themselves are small.
    let message = Cell {
        size: REFERENCE_BYTES,
        ..cell
    };
    let lines = std::mem::take(&mut stage.lines);
    let open = |fds| {
        let lane = lane(stage.part, stage.part.index);
        Objects::open(Channel::open(fds, &message, lane)?, &cell)
    };
    let wires = lines.into_iter().map(open).collect::<Outcome<Vec<_>>>()?;
    stage.play(wires)
}
