//! The first message on a channel that went cold, among many that are cold: from before the send until
//! the inbox hands it out.
//!
//! Two threads of one process, which is all the same to the channels, and lets both read one clock and
//! one side know that the other has gone cold. An inbox that spins is sent to as soon as all is cold;
//! one that sleeps a millisecond later.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use weft_local_ipc::{Doorbell, Event, Inbox, Sender, Wake};
use weft_types::Lane;
use zerocopy::IntoBytes;

use super::inbox::{idle_channel, raise_descriptors};
use super::weft::HEADER;
use crate::cell::{Cell, Figures, Transport, Wait};
use crate::wire::Trips;
use crate::{Outcome, machine};

const LANE: Lane = Lane::NORMAL;
/// How long an inbox is left alone so that it sleeps.
const SILENCE: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(5);
/// Looks of an inbox that spins before the message counts as lost.
const LOOKS: u32 = 1 << 27;
/// Apart from each other by this, so that neighbours do not follow each other.
const STEP: usize = 7919;

pub(super) fn measure(cell: &Cell) -> Outcome<Figures> {
    raise_descriptors()?;
    let sleeps = cell.wait != Wait::Spin;
    let turn = AtomicU64::new(0);
    let over = AtomicBool::new(false);
    let clock = Instant::now();
    thread::scope(|scope| {
        let (senders, of_receiver) = std::sync::mpsc::channel();
        let receiver = scope.spawn(|| -> Outcome<Figures> {
            machine::pin(cell.cores[1])?;
            let figures = receive(cell, sleeps, &turn, clock, senders);
            over.store(true, Ordering::Release);
            figures
        });
        let (turn, over) = (&turn, &over);
        let sender = scope.spawn(move || -> Outcome {
            machine::pin(cell.cores[0])?;
            // Without senders the receiver says why.
            let senders = of_receiver.recv().unwrap_or_default();
            send(senders, sleeps, turn, over, clock)
        });
        let figures = receiver.join();
        let sent = sender.join();
        let (Ok(figures), Ok(sent)) = (figures, sent) else {
            bail!("a thread panicked");
        };
        sent.and(figures)
    })
}

/// Sends a message each time that it is our turn, on another channel each time.
fn send(
    mut senders: Vec<Sender>,
    sleeps: bool,
    turn: &AtomicU64,
    over: &AtomicBool,
    clock: Instant,
) -> Outcome {
    let mut sent = 0;
    loop {
        while turn.load(Ordering::Acquire) <= sent {
            if over.load(Ordering::Acquire) {
                return Ok(());
            }
            std::hint::spin_loop();
        }
        if sleeps {
            thread::sleep(SILENCE);
        }
        let count = senders.len();
        let sender = &mut senders[sent as usize * STEP % count];
        let mut body = [0u64; 8];
        body[0] = clock.elapsed().as_nanos() as u64;
        sender.try_send(LANE, HEADER, body.as_bytes())?;
        sent += 1;
    }
}

fn receive(
    cell: &Cell,
    sleeps: bool,
    turn: &AtomicU64,
    clock: Instant,
    to_sender: std::sync::mpsc::Sender<Vec<Sender>>,
) -> Outcome<Figures> {
    let mut inbox = Inbox::new(Wake::Now);
    let mut senders = Vec::new();
    for key in 0..cell.idle.max(1) {
        let (receiver, sender, swapper) = idle_channel()?;
        let Ok(member) = inbox.add(key, receiver) else {
            bail!("the inbox is full");
        };
        if cell.transport == Transport::WeftInboxDoorbell {
            let (doorbell, far) = Doorbell::pair()?;
            swapper.ring_through(far)?;
            inbox.set_doorbell(member, doorbell)?;
        }
        senders.push(sender);
    }
    to_sender
        .send(senders)
        .ok()
        .context("the sender has ended")?;
    let mut trips = Trips::new(cell)?;
    let mut begin = Instant::now();
    let mut warm = false;
    while trips.is_empty() || begin.elapsed().as_millis() < u128::from(cell.millis) {
        while inbox.cold() < inbox.len() {
            inbox.try_next();
        }
        turn.fetch_add(1, Ordering::Release);
        let event = if sleeps {
            inbox.next(Some(PATIENCE))
        } else {
            let mut looks = 0;
            loop {
                if let Some(event) = inbox.try_next() {
                    break Some(event);
                }
                looks += 1;
                if looks == LOOKS {
                    break None;
                }
            }
        };
        let now = clock.elapsed();
        let Some(Event::Message(message)) = event else {
            bail!("no message came");
        };
        let sent = message.body.first_chunk().context("a time came")?;
        if warm {
            trips.record(now.saturating_sub(Duration::from_nanos(u64::from_ne_bytes(*sent))));
        } else {
            // Until all have gone cold for the first time it takes a while.
            warm = true;
            begin = Instant::now();
        }
        let (member, got) = (message.member, message.received);
        inbox.finish(member, got.lane, got.sequence.next());
    }
    Ok(Figures::Latency(trips.figure()))
}
