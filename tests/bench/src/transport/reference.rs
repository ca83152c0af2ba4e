//! Weft, a payload by reference: it lies in a region that the receiver has mapped before; messages say
//! where, and nobody touches it.
//!
//! The asking side owns the region. The other one checks that what it is told lies in it, and answers
//! with the same.

use std::os::fd::AsFd;

use anyhow::{Context, ensure};
use weft_local_ipc::Payload;
use weft_local_ipc::region::{Handed, Options, Shared, allocate_object};
use zerocopy::IntoBytes;

use super::weft::{Channel, HEADER, PATIENCE};
use crate::Outcome;
use crate::cell::Cell;
use crate::part::{Role, Stage};
use crate::wire::Wire;

/// Where a payload lies, how long it is, and which message it is.
type Reference = [u64; 3];

/// Ours, or the peer's as we see it.
enum Region {
    Own(Shared),
    Peers(Handed),
}

struct References {
    channel: Channel,
    region: Region,
}

impl References {
    fn open(channel: Channel, size: usize, role: Role) -> Outcome<Self> {
        let bytes = size as u64;
        let owns = matches!(role, Role::Ask | Role::Source);
        let region = if owns {
            let options = Options {
                prefault: true,
                huge: false,
            };
            let region = allocate_object(bytes, options)?.create_shared_region()?;
            let fd = region.share_region()?;
            channel.side.send(b"region", &[fd.as_fd()])?;
            Region::Own(region)
        } else {
            let packet = channel.side.receive(Some(PATIENCE))?;
            let (_, fds) = packet.context("no region came")?;
            let fd = fds.first().context("no region came")?;
            Region::Peers(Handed::open(fd, bytes)?)
        };
        Ok(Self { channel, region })
    }

    fn len(&self) -> u64 {
        match &self.region {
            Region::Own(region) => region.len() as u64,
            Region::Peers(region) => region.len() as u64,
        }
    }
}

impl Wire for References {
    fn send(&mut self, first: u64) -> Outcome {
        let reference: Reference = [0, self.len(), first];
        let lane = self.channel.lane;
        self.channel.insist(|sender| {
            sender
                .try_send_reference(lane, HEADER, reference.as_bytes())
                .map(|_| ())
        })
    }

    fn poll(&mut self) -> Outcome<Option<u64>> {
        let received = self.channel.receiver.try_receive_value::<Reference>()?;
        let Some((received, [offset, len, first])) = received else {
            return Ok(None);
        };
        self.channel.taken = received.sequence.next();
        ensure!(received.payload == Payload::Reference, "it is a reference");
        let end = offset.checked_add(len);
        ensure!(
            end.is_some_and(|end| end <= self.len()),
            "a payload lies in its region"
        );
        Ok(Some(first))
    }

    fn wait(&mut self) -> Outcome {
        self.channel.wait()
    }

    fn done(&mut self) {
        self.channel.done();
    }
}

pub(super) fn play(mut stage: Stage<'_>) -> Outcome {
    let (cell, role) = (stage.part.cell, stage.part.role);
    // The messages themselves are small.
    let message = Cell {
        size: size_of::<Reference>(),
        ..cell
    };
    let lines = std::mem::take(&mut stage.lines);
    let open = |fds| {
        let lane = super::weft::lane(stage.part, stage.part.index);
        References::open(Channel::open(fds, &message, lane)?, cell.size, role)
    };
    let wires = lines.into_iter().map(open).collect::<Outcome<Vec<_>>>()?;
    stage.play(wires)
}
