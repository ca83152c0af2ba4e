//! A link: one end of a channel that asks and answers, with descriptors beside the messages.
//!
//! Control traffic (a domain and its node, a node and another) runs over ordinary channels in both
//! directions: either side sends requests and answers those of the other. A link adds to the queue
//! pair what such traffic needs and data traffic does not: a table of open questions, and
//! descriptors that travel on the side socket under the sequence of the message they belong to.
//!
//! A link neither waits nor runs anything: its owner pumps it when the bell rings. What it takes it
//! reports as done at once, since an answer may come much later.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use weft_local_ipc::{
    Header, OwnHalf, PeerHalf, Receiver, SendError, Sender, SideError, SideSocket, Swapper,
    wait_any,
};
use weft_types::{Lane, MessageKind, Refusal, RefusalCode, Sequence, TypeIndex};

use crate::error::{Error, system};

/// How many side packets may wait for their message. One more means that the peer sends
/// descriptors that belong to nothing, and the link is closed.
const MAX_STASHED: usize = 64;

/// How many answers may wait for room ([`Link::answer_or_keep`]). At the bound the link hears no
/// more: whoever asks without taking its answers stops only itself.
const MAX_KEPT: usize = 256;

/// How often a waiting link looks for hang-up.
const HANG_UP_LOOK: Duration = Duration::from_millis(20);

/// What came in over a link.
#[derive(Debug)]
pub enum Incoming {
    /// The peer asks (or tells, where `wants_reply` is false).
    Request(Request),
    /// The peer answers what we asked under this lane and sequence.
    Answer {
        /// The lane of the question.
        lane: Lane,
        /// The sequence of the question.
        question: Sequence,
        /// The reply's body, or the refusal.
        outcome: Result<Vec<u8>, Refusal>,
        /// Descriptors that came with it.
        descriptors: Vec<OwnedFd>,
    },
}

/// A question of the peer's. Answer it with [`Link::answer`].
#[derive(Debug)]
pub struct Request {
    /// Its lane; the answer goes back on the same.
    pub lane: Lane,
    /// Its sequence, which the answer names.
    pub sequence: Sequence,
    /// Its type, in the table of this channel.
    pub index: TypeIndex,
    /// Whether an answer is expected.
    pub wants_reply: bool,
    /// The encoded message.
    pub body: Vec<u8>,
    /// Descriptors that came with it.
    pub descriptors: Vec<OwnedFd>,
}

#[derive(Debug)]
struct KeptAnswer {
    lane: Lane,
    question: Sequence,
    index: TypeIndex,
    outcome: Result<Vec<u8>, Refusal>,
    descriptors: Vec<OwnedFd>,
}

/// One end of a channel for control traffic.
#[derive(Debug)]
pub struct Link {
    sender: Sender,
    receiver: Receiver,
    swapper: Swapper,
    side: SideSocket,
    /// Descriptors that have arrived before their message was read.
    stash: VecDeque<(Lane, Sequence, Vec<OwnedFd>)>,
    /// Requests that came in while this thread waited for an answer.
    backlog: VecDeque<Incoming>,
    /// Answers that did not fit, in order.
    kept: VecDeque<KeptAnswer>,
    buffer: Vec<u8>,
}

impl Link {
    /// Connects our half with the peer's.
    ///
    /// # Errors
    ///
    /// If the peer's half does not fit ours.
    pub fn new(own: OwnHalf, peer: PeerHalf, side: SideSocket) -> Result<Self, Error> {
        let (mut sender, receiver, swapper) = weft_local_ipc::connect(own, peer)?;
        // Its budget was granted when it was opened.
        sender.set_growth_budget(0);
        Ok(Self {
            sender,
            receiver,
            swapper,
            side,
            stash: VecDeque::new(),
            backlog: VecDeque::new(),
            kept: VecDeque::new(),
            buffer: Vec::new(),
        })
    }

    /// The handle by which another thread swaps the peer, and watches its bell.
    #[must_use]
    pub fn swapper(&self) -> &Swapper {
        &self.swapper
    }

    /// The side socket, to watch for hang-up.
    #[must_use]
    pub fn side(&self) -> &SideSocket {
        &self.side
    }

    /// Replaces the side socket after the peer was replaced.
    pub fn replace_side(&mut self, side: SideSocket) {
        self.side = side;
        self.stash.clear();
    }

    /// Asks. The answer comes in as [`Incoming::Answer`] under the sequence returned.
    ///
    /// # Errors
    ///
    /// `Busy` if the ring is full; `PeerFault` if the peer breaks the rules; `Closed` if it is gone.
    pub fn ask(
        &mut self,
        lane: Lane,
        index: TypeIndex,
        body: &[u8],
        descriptors: &[OwnedFd],
    ) -> Result<Sequence, Error> {
        self.send(
            lane,
            MessageKind::Request,
            index,
            Sequence::ZERO,
            body,
            descriptors,
        )
    }

    /// Says something that wants no answer.
    ///
    /// # Errors
    ///
    /// As [`Link::ask`].
    pub fn tell(&mut self, lane: Lane, index: TypeIndex, body: &[u8]) -> Result<(), Error> {
        self.send(lane, MessageKind::Tell, index, Sequence::ZERO, body, &[])
            .map(|_| ())
    }

    /// Answers a request.
    ///
    /// # Errors
    ///
    /// As [`Link::ask`].
    pub fn answer(
        &mut self,
        lane: Lane,
        question: Sequence,
        index: TypeIndex,
        outcome: Result<&[u8], &Refusal>,
        descriptors: &[OwnedFd],
    ) -> Result<(), Error> {
        match outcome {
            Ok(body) => self.send(lane, MessageKind::Reply, index, question, body, descriptors)?,
            Err(refusal) => {
                let body = encode_refusal(refusal);
                self.send(lane, MessageKind::Failure, index, question, &body, &[])?
            }
        };
        Ok(())
    }

    /// Answers a request, later if there is no room now: a link that is polled again sends what it
    /// keeps. For owners that have nowhere else to keep it.
    ///
    /// # Errors
    ///
    /// As [`Link::ask`], but never `Busy`.
    pub fn answer_or_keep(
        &mut self,
        lane: Lane,
        question: Sequence,
        index: TypeIndex,
        outcome: Result<Vec<u8>, Refusal>,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), Error> {
        self.kept.push_back(KeptAnswer {
            lane,
            question,
            index,
            outcome,
            descriptors,
        });
        self.send_kept()
    }

    fn send_kept(&mut self) -> Result<(), Error> {
        let mut again = true;
        while let Some(kept) = self.kept.pop_front() {
            let outcome = kept.outcome.as_deref();
            let (lane, question, index) = (kept.lane, kept.question, kept.index);
            match self.answer(lane, question, index, outcome, &kept.descriptors) {
                Ok(()) => {}
                Err(error) if error.code() == RefusalCode::Busy => {
                    // Our bell has to ring when there is room in the ring. A full side socket rings
                    // no bell: it is looked at when the link is polled next.
                    self.kept.push_front(kept);
                    let room = self.sender.wake_when_room(lane);
                    if room && std::mem::take(&mut again) {
                        // The peer has made room since, and will not ring for it.
                        continue;
                    }
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn send(
        &mut self,
        lane: Lane,
        kind: MessageKind,
        type_index: TypeIndex,
        correlation: Sequence,
        body: &[u8],
        descriptors: &[OwnedFd],
    ) -> Result<Sequence, Error> {
        if !self.sender.fits(lane, body.len()) {
            return Err(full());
        }
        if !descriptors.is_empty() {
            // The side packet goes first, so that it is there when the message is read. It must not
            // wait: a peer that does not read would hold up whoever else this thread serves.
            let tag = side_tag(lane, self.sender.next(lane));
            let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
            match self.side.try_send(&tag, &borrowed) {
                Ok(true) => {}
                Ok(false) | Err(SideError::Crowded) => return Err(full()),
                Err(error) => {
                    return Err(Error::new(
                        RefusalCode::Closed,
                        format!("descriptors could not be handed over: {error}"),
                    ));
                }
            }
        }
        let header = Header {
            kind,
            type_index,
            correlation,
            has_descriptors: !descriptors.is_empty(),
        };
        self.sender
            .try_send(lane, header, body)
            .map_err(|error| match error {
                SendError::Full { .. } => full(),
                SendError::TooLarge { .. } | SendError::OutOfTurn { .. } => {
                    Error::new(RefusalCode::TooLarge, error.to_string())
                }
                SendError::Peer(fault) => fault.into(),
            })
    }

    /// The next thing that came in, if there is one.
    ///
    /// # Errors
    ///
    /// `PeerFault` if the peer breaks the rules: the link is of no use then.
    pub fn poll(&mut self) -> Result<Option<Incoming>, Error> {
        if let Some(incoming) = self.backlog.pop_front() {
            return Ok(Some(incoming));
        }
        self.poll_ring()
    }

    fn poll_ring(&mut self) -> Result<Option<Incoming>, Error> {
        if !self.kept.is_empty() {
            self.send_kept()?;
            if self.kept.len() >= MAX_KEPT {
                return Ok(None);
            }
        }
        let Some(received) = self.receiver.try_receive(&mut self.buffer)? else {
            return Ok(None);
        };
        let (lane, sequence, header) = (received.lane, received.sequence, received.header);
        self.receiver.finish(lane, sequence.next());
        let descriptors = if header.has_descriptors {
            self.take_descriptors(lane, sequence)?
        } else {
            Vec::new()
        };
        let body = self.buffer.clone();
        Ok(Some(match header.kind {
            MessageKind::Request | MessageKind::Tell => Incoming::Request(Request {
                lane,
                sequence,
                index: header.type_index,
                wants_reply: header.kind == MessageKind::Request,
                body,
                descriptors,
            }),
            kind => Incoming::Answer {
                lane,
                question: header.correlation,
                outcome: read_answer(kind, body),
                descriptors,
            },
        }))
    }

    fn take_descriptors(&mut self, lane: Lane, sequence: Sequence) -> Result<Vec<OwnedFd>, Error> {
        loop {
            if let Some(at) = self
                .stash
                .iter()
                .position(|(l, s, _)| (*l, *s) == (lane, sequence))
            {
                return Ok(self
                    .stash
                    .remove(at)
                    .map(|(_, _, descriptors)| descriptors)
                    .unwrap_or_default());
            }
            let packet = self.side.try_receive().map_err(|error| match error {
                // Its death is no fault of ours: who asked may ask its successor.
                SideError::HungUp => Error::new(
                    RefusalCode::Closed,
                    "the other side died before it had handed over its descriptors",
                ),
                error => system("side socket", error),
            })?;
            let Some((bytes, descriptors)) = packet else {
                return Err(Error::new(
                    RefusalCode::PeerFault,
                    format!("{lane} {sequence} announces descriptors that did not come"),
                ));
            };
            let (tag_lane, tag_sequence) = read_side_tag(&bytes)?;
            if self.stash.len() == MAX_STASHED {
                return Err(Error::new(
                    RefusalCode::PeerFault,
                    "descriptors without a message",
                ));
            }
            self.stash.push_back((tag_lane, tag_sequence, descriptors));
        }
    }

    /// Says that the owner is about to sleep until the bell rings. Look once more afterwards.
    pub fn park(&mut self) {
        self.receiver.park();
    }

    /// Whether something can be taken now.
    #[must_use]
    pub fn ready(&self) -> bool {
        !self.backlog.is_empty() || self.kept.len() < MAX_KEPT && self.receiver.ready()
    }

    /// Asks, and waits in this thread for the answer. Requests of the peer's that come in meanwhile
    /// are kept for [`Link::poll`].
    ///
    /// # Errors
    ///
    /// The peer's refusal; `DeadlineExceeded`; `Unreachable` if the peer is gone; see [`Link::ask`].
    pub fn ask_and_wait(
        &mut self,
        index: TypeIndex,
        body: &[u8],
        descriptors: &[OwnedFd],
        timeout: Duration,
    ) -> Result<(Vec<u8>, Vec<OwnedFd>), Error> {
        let deadline = Instant::now() + timeout;
        let asked = self.ask(Lane::NORMAL, index, body, descriptors)?;
        loop {
            match self.poll_ring()? {
                Some(Incoming::Answer {
                    lane: Lane::NORMAL,
                    question,
                    outcome,
                    descriptors,
                }) if question == asked => {
                    return Ok((outcome?, descriptors));
                }
                // An answer to a question that timed out: nobody wants it any more.
                Some(Incoming::Answer { .. }) => {}
                Some(request) => self.backlog.push_back(request),
                None => self.sleep_until(deadline)?,
            }
        }
    }

    /// Sleeps until the bell rings or it is time to look for hang-up.
    fn sleep_until(&mut self, deadline: Instant) -> Result<(), Error> {
        let now = Instant::now();
        if now >= deadline {
            return Err(Error::new(
                RefusalCode::DeadlineExceeded,
                "the answer did not come in time",
            ));
        }
        let bell = self.swapper.bell();
        let value = bell.value();
        self.receiver.park();
        if self.receiver.ready() {
            return Ok(());
        }
        if self.side.hung_up() {
            return Err(Error::new(
                RefusalCode::Unreachable,
                "the other side of the channel is gone",
            ));
        }
        // Whatever woke us, the caller looks again.
        let _ = wait_any(&[(bell, value)], Some((deadline - now).min(HANG_UP_LOOK)));
        Ok(())
    }
}

fn full() -> Error {
    Error::new(
        RefusalCode::Busy,
        "the channel is full: the other side does not keep up",
    )
}

fn side_tag(lane: Lane, sequence: Sequence) -> [u8; 9] {
    let mut tag = [0; 9];
    tag[0] = lane.get();
    tag[1..].copy_from_slice(&sequence.get().to_le_bytes());
    tag
}

fn read_side_tag(bytes: &[u8]) -> Result<(Lane, Sequence), Error> {
    let bad = || Error::new(RefusalCode::PeerFault, "a side packet with no tag");
    let (lane, sequence) = bytes.split_first().ok_or_else(bad)?;
    let lane = Lane::new(*lane).ok_or_else(bad)?;
    let sequence = sequence.try_into().map_err(|_| bad())?;
    Ok((lane, Sequence::new(u64::from_le_bytes(sequence))))
}

/// The body of a [`MessageKind::Failure`].
pub(crate) fn encode_refusal(refusal: &Refusal) -> Vec<u8> {
    // A refusal is a number and a string: encoding it into memory cannot fail.
    postcard::to_stdvec(refusal).unwrap_or_default()
}

/// What an answer of this kind and body says.
pub(crate) fn read_answer(kind: MessageKind, body: Vec<u8>) -> Result<Vec<u8>, Refusal> {
    match kind {
        MessageKind::Reply => Ok(body),
        MessageKind::OutcomeUnknown => Err(Refusal::new(
            RefusalCode::OutcomeUnknown,
            "the service died with this request in hand: whether it took effect is not known",
        )),
        _ => Err(postcard::from_bytes(&body).unwrap_or_else(|_| {
            Refusal::new(
                RefusalCode::PeerFault,
                "the other side refused, and its reason cannot be read",
            )
        })),
    }
}
