//! Weft: a channel of `weft-local-ipc`, used as anybody would use it.
//!
//! Sizes that are whole words up to 512 bytes are plain values; others are written and read in place.

use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, bail};
use weft_local_ipc::{
    Geometry, Header, OwnHalf, PeerHalf, Receiver, SendError, Sender, SideSocket, Spin, Start,
    Swapper, View, Waiter, connect,
};
use weft_types::{Lane, MAX_BODY_BYTES, MessageKind, Sequence, TypeIndex};
use zerocopy::IntoBytes;

use super::Side;
use crate::Outcome;
use crate::cell::{Cell, Transport, Wait};
use crate::part::{Part, Stage};
use crate::wire::Wire;

pub(super) const PATIENCE: Duration = Duration::from_secs(20);
pub(super) const HEADER: Header = Header {
    kind: MessageKind::Tell,
    type_index: TypeIndex::new(0),
    correlation: Sequence::ZERO,
    has_descriptors: false,
};
/// Looks for room between two questions whether it takes too long.
pub(super) const LOOKS: u32 = 1 << 20;

/// The two ends of a channel's side socket.
pub(super) fn line() -> Outcome<(Side, Side)> {
    let (near, far) = SideSocket::pair()?;
    Ok((vec![near.into()], vec![far.into()]))
}

pub(super) fn play(stage: Stage<'_>) -> Outcome {
    macro_rules! sizes {
        ($($words:literal)*) => {
            match stage.part.cell.size {
                $(size if size == 8 * $words => play_values::<$words>(stage),)*
                _ => play_in_place(stage),
            }
        };
    }
    sizes!(1 2 3 4 6 8 10 12 13 14 16 24 32 48 64)
}

/// The lane that a part sends on. Under an inbox senders keep to a lane each, and use all together.
pub(super) fn lane(part: &Part, sender: usize) -> Lane {
    match part.cell.transport {
        Transport::WeftInbox => Lane::ALL[sender % Lane::ALL.len()],
        _ => Lane::NORMAL,
    }
}

/// One end.
pub(super) struct Channel {
    pub(super) sender: Sender,
    pub(super) receiver: Receiver,
    #[cfg_attr(
        not(feature = "tokio"),
        expect(dead_code, reason = "a runtime's ends need it")
    )]
    pub(super) swapper: Swapper,
    pub(super) lane: Lane,
    wait: Wait,
    waiter: Waiter,
    pub(super) taken: Sequence,
    /// Tells of the other side's end.
    pub(super) side: SideSocket,
}

impl Channel {
    pub(super) fn open(mut fds: Side, cell: &Cell, lane: Lane) -> Outcome<Self> {
        let side = SideSocket::from(fds.pop().context("a channel has a side socket")?);
        let arena = cell
            .size
            .saturating_mul(512)
            .next_multiple_of(4096)
            .clamp(256 << 10, 8 << 20);
        let geometry = Geometry {
            slot_bytes: if cell.size <= 48 { 64 } else { 128 },
            arena_bytes: u32::try_from(arena)?,
            ..Geometry::DEFAULT.fixed()
        };
        let own = OwnHalf::create(geometry, Start::default())?;
        side.send(b"half", &[own.share()?.as_fd()])?;
        let (_, halves) = side.receive(Some(PATIENCE))?.context("no half came")?;
        let peer = PeerHalf::open(halves.into_iter().next().context("no half came")?)?;
        let (sender, receiver, swapper) = connect(own, peer)?;
        Ok(Self {
            sender,
            receiver,
            swapper,
            lane,
            wait: cell.wait,
            waiter: match cell.wait {
                Wait::Yield => Waiter::default().without_spinning(),
                _ => Waiter::default(),
            },
            taken: Sequence::ZERO,
            side,
        })
    }

    /// For who receives in another way; the side socket keeps the channel open.
    pub(super) fn into_parts(self) -> (Sender, Receiver, SideSocket) {
        (self.sender, self.receiver, self.side)
    }

    /// Tries until there is room.
    pub(super) fn insist(
        &mut self,
        mut send: impl FnMut(&mut Sender) -> Result<(), SendError>,
    ) -> Outcome {
        let mut looks = 0;
        loop {
            match send(&mut self.sender) {
                Err(SendError::Full { .. }) => {
                    looks += 1;
                    if looks % LOOKS == 0 && self.side.hung_up() {
                        bail!("the receiver is gone");
                    }
                }
                outcome => return Ok(outcome?),
            }
        }
    }

    /// Looks at a word of each line of messages where they lie.
    #[inline(always)]
    fn poll_row(&mut self, most: u64, mut each: impl FnMut(u64)) -> Outcome {
        let mut odd = false;
        let row = self
            .receiver
            .receive_row(most as usize, |received, view| match look(view) {
                Some(first) => {
                    self.taken = received.sequence.next();
                    each(first);
                }
                None => odd = true,
            });
        row?;
        if odd {
            bail!("a message without a word");
        }
        Ok(())
    }

    pub(super) fn wait(&mut self) -> Outcome {
        match self.wait {
            Wait::Spin => {}
            // A ring or a time-out: either way it is polled again.
            Wait::Adaptive | Wait::Yield => {
                let _ = self.waiter.wait(&mut self.receiver, Some(PATIENCE));
            }
            // The parent ends us if it takes too long: no clock is needed here.
            Wait::Park => {
                let _ = self
                    .receiver
                    .wait_spinning(Spin::lasting(Duration::ZERO), None);
            }
        }
        Ok(())
    }

    pub(super) fn done(&mut self) {
        self.receiver.finish(self.lane, self.taken);
    }
}

/// A word of each line that the value lies in, the last one first: the receiver looks at the first line
/// again and again. In its slot a value begins at the third word of a line.
#[inline(always)]
fn fill_words<const WORDS: usize>(value: &mut [u64; WORDS], first: u64) {
    for line in (1..=(WORDS + 1) / 8).rev() {
        value[8 * line - 2] = first;
    }
    value[0] = first;
}

/// Messages of so many words, as values.
struct Values<const WORDS: usize>(Channel);

fn value<const WORDS: usize>(first: u64) -> [u64; WORDS] {
    [first; WORDS]
}

impl<const WORDS: usize> Wire for Values<WORDS> {
    #[inline]
    fn send(&mut self, first: u64) -> Outcome {
        let (lane, yields) = (self.0.lane, self.0.wait == Wait::Yield);
        self.0.insist(|sender| {
            let value = value::<WORDS>(first);
            if yields {
                sender.send_and_yield(lane, HEADER, value.as_bytes())?;
            } else {
                sender.try_send_value(lane, HEADER, &value)?;
            }
            Ok(())
        })
    }

    fn send_row(&mut self, first: u64, count: u64) -> Outcome {
        if count == 1 {
            return self.send(first);
        }
        let lane = self.0.lane;
        let mut sent = 0;
        self.0.insist(|sender| {
            let left = (count - sent) as usize;
            let now = first + sent;
            let (row, result) = sender.send_row(lane, HEADER, left, |n, value| {
                fill_words::<WORDS>(value, now + n as u64);
            });
            sent += row as u64;
            result
        })
    }

    #[inline]
    fn poll(&mut self) -> Outcome<Option<u64>> {
        let Some((received, value)) = self.0.receiver.try_receive_value::<[u64; WORDS]>()? else {
            return Ok(None);
        };
        self.0.taken = received.sequence.next();
        // One word of each line; the rest of the value need not be loaded.
        let sum = value.iter().step_by(8).fold(0, |sum, word| sum ^ word);
        std::hint::black_box(sum);
        Ok(Some(value[0]))
    }

    #[inline]
    fn poll_row(&mut self, most: u64, each: impl FnMut(u64)) -> Outcome {
        self.0.poll_row(most, each)
    }

    fn wait(&mut self) -> Outcome {
        self.0.wait()
    }

    fn done(&mut self) {
        self.0.done();
    }
}

fn play_values<const WORDS: usize>(mut stage: Stage<'_>) -> Outcome {
    let lines = std::mem::take(&mut stage.lines);
    let lane = lane(stage.part, stage.part.index);
    let open = |fds| Channel::open(fds, &stage.part.cell, lane).map(Values::<WORDS>);
    let wires = lines.into_iter().map(open).collect::<Outcome<Vec<_>>>()?;
    stage.play(wires)
}

/// Messages of any size, written and read where they lie.
struct InPlace {
    channel: Channel,
    size: usize,
}

fn fill(bytes: &mut [u8], first: u64) {
    let first = first.to_ne_bytes();
    let (lines, rest) = bytes.as_chunks_mut::<64>();
    for line in lines {
        line[..8].copy_from_slice(&first);
    }
    if let Some(word) = rest.first_chunk_mut() {
        *word = first;
    }
}

/// Loads a word of each line, and returns the first.
#[inline(always)]
pub(super) fn look(view: View<'_>) -> Option<u64> {
    let words = view.words()?;
    let first = words.get(0)?;
    // In a slot a body begins at the third word of a line; in an arena at the first, and one line
    // is loaded twice.
    let sum = (6..words.len())
        .step_by(8)
        .fold(first, |sum, at| sum ^ words.get(at).unwrap_or(0));
    std::hint::black_box(sum);
    Some(first)
}

impl Wire for InPlace {
    fn send(&mut self, first: u64) -> Outcome {
        let (size, lane) = (self.size, self.channel.lane);
        self.channel.insist(|sender| {
            sender
                .try_send_in_place(lane, HEADER, size, |bytes| fill(bytes, first))
                .map(|_| ())
        })
    }

    fn send_row(&mut self, first: u64, count: u64) -> Outcome {
        let (size, lane) = (self.size, self.channel.lane);
        let mut sent = 0;
        self.channel.insist(|sender| {
            let left = (count - sent) as usize;
            let now = first + sent;
            let (row, result) = sender.send_each(lane, HEADER, size, left, |n, bytes| {
                fill(bytes, now + n as u64);
            });
            sent += row as u64;
            result
        })
    }

    #[inline]
    fn poll_row(&mut self, most: u64, each: impl FnMut(u64)) -> Outcome {
        self.channel.poll_row(most, each)
    }

    fn poll(&mut self) -> Outcome<Option<u64>> {
        let received = self
            .channel
            .receiver
            .try_receive_in_place(|_, view| look(view))?;
        Ok(received.and_then(|(received, first)| {
            self.channel.taken = received.sequence.next();
            first
        }))
    }

    fn wait(&mut self) -> Outcome {
        self.channel.wait()
    }

    fn done(&mut self) {
        self.channel.done();
    }
}

fn play_in_place(mut stage: Stage<'_>) -> Outcome {
    let size = stage.part.cell.size;
    if !(8..=MAX_BODY_BYTES).contains(&size) {
        bail!("a message has 8 to {MAX_BODY_BYTES} bytes, not {size}");
    }
    let lines = std::mem::take(&mut stage.lines);
    let open = |fds| {
        let lane = lane(stage.part, stage.part.index);
        let channel = Channel::open(fds, &stage.part.cell, lane)?;
        Ok(InPlace { channel, size })
    };
    let wires = lines.into_iter().map(open).collect::<Outcome<Vec<_>>>()?;
    stage.play(wires)
}
