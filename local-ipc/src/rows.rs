//! Rows: many messages at once, for the price of what each of them needs.
//!
//! What costs a message most, beside its own lines, is every store to another line: between processors
//! stores become visible in order, so that two of them between two slots halve the rate. A row keeps
//! its counters in registers and writes each once, looks once whether the peer sleeps, and once for
//! more urgent messages.

use weft_types::{Lane, Sequence};
use zerocopy::KnownLayout;

use crate::error::{PeerFault, SendError};
use crate::in_place::View;
use crate::receiver::{Received, Receiver};
use crate::sender::Sender;
use crate::slot::{self, Header, Payload};
use crate::typed::Plain;

/// How far ahead in a row slots are asked for, as long as they are free. Between cores that share no
/// cache a row is a quarter faster by it.
const CLAIM_AHEAD: u64 = 16;

/// A counter in a register. It is written back when this is dropped, whatever the code in between
/// does.
struct Progress<'a> {
    now: u64,
    home: &'a mut u64,
}

impl<'a> Progress<'a> {
    #[inline(always)]
    fn of(home: &'a mut u64) -> Self {
        Self { now: *home, home }
    }
}

impl Drop for Progress<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        *self.home = self.now;
    }
}

impl Sender {
    /// Sends up to `count` plain values in a row under one header, each written by `fill` where it will
    /// be read, and looks once at the end whether the peer sleeps.
    ///
    /// `fill` gets the number of the value in this row, and the value as an older message left it, or
    /// zeros: what it does not write is sent as it is. If it panics, that message was not sent.
    ///
    /// Returns how many were sent, and why no more, if less than `count`.
    #[inline(always)]
    pub fn send_row<T: Plain + KnownLayout>(
        &mut self,
        lane: Lane,
        header: Header,
        count: usize,
        mut fill: impl FnMut(usize, &mut T),
    ) -> (usize, Result<(), SendError>) {
        const { assert!(align_of::<T>() <= 8, "bodies begin at words") };
        self.send_each(lane, header, size_of::<T>(), count, |n, bytes| {
            let value = T::mut_from_bytes(bytes);
            fill(n, value.expect("as long as a T, and at a word"));
        })
    }

    /// As [`Self::send_row`] for bodies of `len` bytes.
    #[inline(always)]
    #[expect(unsafe_code, reason = "a slice over free memory of our own")]
    pub fn send_each(
        &mut self,
        lane: Lane,
        header: Header,
        len: usize,
        count: usize,
        mut fill: impl FnMut(usize, &mut [u8]),
    ) -> (usize, Result<(), SendError>) {
        let mut sent = 0;
        let first = slot::body_word(&header);
        let result = loop {
            let outgoing = &mut self.lanes[lane];
            if slot::is_inline(outgoing.segment.geometry, &header, len) {
                let mut next = Progress::of(&mut outgoing.next);
                let room = outgoing.limit.saturating_sub(next.now);
                let end = next.now + room.min((count - sent) as u64);
                while next.now < end {
                    if next.now + CLAIM_AHEAD < outgoing.limit {
                        slot::claim(&outgoing.segment, next.now + CLAIM_AHEAD);
                    }
                    // SAFETY: below `limit` the slot is free: its last message is done, and this one is
                    // not published. `outgoing` is borrowed until `fill` has returned, and nobody
                    // else in this process reads slots of our own ring.
                    let bytes = unsafe { outgoing.segment.ring.slot_bytes(next.now, first) };
                    fill(sent, &mut bytes[..len]);
                    let segment = &outgoing.segment;
                    slot::fill_header(segment, next.now, header, Payload::Body, len);
                    next.now += 1;
                    sent += 1;
                }
            }
            if sent == count {
                break Ok(());
            }
            // One with care: a bound is reached, or bodies go to the arena.
            let one = self.try_send_in_place_lazy(lane, header, len, |bytes| fill(sent, bytes));
            match one {
                Ok(_) => sent += 1,
                Err(error) => break Err(error),
            }
        };
        self.flush();
        (sent, result)
    }

    /// Sends bodies of one length under one header, copied. A body is taken from `bodies` only if there
    /// is room for it.
    #[inline(always)]
    pub(crate) fn send_equal<B: AsBody>(
        &mut self,
        lane: Lane,
        header: Header,
        bodies: impl IntoIterator<Item = B>,
    ) -> (usize, Result<(), SendError>) {
        let mut bodies = bodies.into_iter();
        let mut sent = 0;
        let result = loop {
            let outgoing = &mut self.lanes[lane];
            let inline = slot::is_inline(outgoing.segment.geometry, &header, B::LEN);
            let limit = if inline { outgoing.limit } else { 0 };
            let ended = {
                let mut next = Progress::of(&mut outgoing.next);
                loop {
                    if next.now >= limit {
                        break false;
                    }
                    let Some(body) = bodies.next() else {
                        break true;
                    };
                    let bytes = body.as_body();
                    slot::fill(&outgoing.segment, next.now, header, Payload::Body, bytes);
                    next.now += 1;
                    sent += 1;
                }
            };
            if ended {
                break Ok(());
            }
            if let Err(error) = self.prepare(lane, header, B::LEN) {
                break Err(error);
            }
            if !inline {
                let Some(body) = bodies.next() else {
                    break Ok(());
                };
                if let Err(error) = self.publish(lane, header, Payload::Body, body.as_body()) {
                    break Err(error);
                }
                sent += 1;
            }
        };
        self.flush();
        (sent, result)
    }
}

/// A body of a length that its type has.
pub(crate) trait AsBody {
    /// In bytes.
    const LEN: usize;
    /// The bytes, [`Self::LEN`] of them.
    fn as_body(&self) -> &[u8];
}

impl Receiver {
    /// Takes up to `most` messages that are there, all of the most urgent lane with a message, and has
    /// `each` look at them where they lie, in order. Returns how many it took.
    ///
    /// They are counted as taken together, before the first is handed out: if this process dies
    /// meanwhile, the outcome of all of them is unknown. A message that comes on a more urgent lane
    /// meanwhile waits for the row's end, so `most` bounds how long.
    ///
    /// # Errors
    ///
    /// As [`Receiver::try_receive`], if the first message is at fault; another's fault is told by the
    /// next call.
    #[inline(always)]
    pub fn receive_row(
        &mut self,
        most: usize,
        each: impl FnMut(Received, View<'_>),
    ) -> Result<usize, PeerFault> {
        if most == 0 {
            return Ok(0);
        }
        let Some(lane) = self.ready_lane()? else {
            return Ok(0);
        };
        self.row_of(lane, most, each)
    }

    /// As [`Self::receive_row`] of a lane on which a look has found a message.
    #[inline(always)]
    pub(crate) fn row_of(
        &mut self,
        lane: Lane,
        most: usize,
        mut each: impl FnMut(Received, View<'_>),
    ) -> Result<usize, PeerFault> {
        let to = self.take_row(lane, most);
        let (incoming, bytes) = self.reading(lane);
        let segment = &incoming.segment;
        let from = incoming.next;
        let fault = {
            let mut next = Progress::of(&mut incoming.next);
            loop {
                if next.now == to {
                    break None;
                }
                match slot::read(segment, bytes, next.now) {
                    Ok((header, payload, body)) => {
                        let received = Received {
                            lane,
                            sequence: Sequence::new(next.now),
                            header,
                            payload,
                        };
                        each(received, View(body));
                    }
                    Err(fault) => break Some(fault),
                }
                next.now += 1;
            }
        };
        let count = (incoming.next - from) as usize;
        self.after_row(lane);
        match fault {
            Some(fault) if count == 0 => Err(fault),
            _ => Ok(count),
        }
    }
}
