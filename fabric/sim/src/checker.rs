//! The invariants, held after every event.
//!
//! The checker sees what a person with a view of the whole cluster would see: what each client has
//! sent, what each handler was given, what each client was answered, which instances serve. It
//! takes no part in the protocols.

use std::collections::{BTreeMap, BTreeSet};

use weft_types::{Epoch, Lane, MessageKind, PerLane};

use crate::event::{Channel, Client, Instance, Service};
use crate::memory::{Broken, Message};

#[derive(Debug)]
struct Sent {
    number: u64,
    kind: MessageKind,
    answered: bool,
    /// Some instance died with this message in hand.
    in_dead_hands: bool,
}

#[derive(Debug)]
struct ChannelCheck {
    client: Client,
    sent: PerLane<Vec<Sent>>,
    /// The next sequence that a handler may be given.
    handled: PerLane<u64>,
    /// Below this everything is handled or in dead hands: only this may be freed.
    finished: PerLane<u64>,
    /// The request that was answered last.
    answered: PerLane<Option<u64>>,
    /// The owner of the service died with its state: the channel may be refused for good.
    may_be_lost: bool,
    over: bool,
}

/// What was counted over a whole run.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// Messages that clients have sent.
    pub sent: u64,
    /// Messages that handlers were given.
    pub handled: u64,
    /// Requests that were answered by a handler.
    pub replied: u64,
    /// Requests that ended in `OutcomeUnknown`.
    pub unknown: u64,
    /// Channels that ended because a node or an instance died with the only copy of a state.
    pub channels_lost: u64,
    /// Activations of an instance.
    pub activations: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Checker {
    channels: Vec<ChannelCheck>,
    serving: BTreeMap<Service, BTreeSet<Instance>>,
    /// The latest epoch in which an instance of the service has served.
    epochs: BTreeMap<Service, Epoch>,
    pub(crate) counts: Counts,
}

impl Checker {
    pub(crate) fn opened(&mut self, client: Client) -> Channel {
        self.channels.push(ChannelCheck {
            client,
            sent: PerLane::default(),
            handled: PerLane::default(),
            finished: PerLane::default(),
            answered: PerLane::default(),
            may_be_lost: false,
            over: false,
        });
        self.channels.len() - 1
    }

    pub(crate) fn sent(&mut self, channel: Channel, lane: Lane, sequence: u64, message: &Message) {
        self.counts.sent += 1;
        let lane = &mut self.channels[channel].sent[lane];
        debug_assert_eq!(lane.len() as u64, sequence, "a client numbers from 0");
        lane.push(Sent {
            number: message.number,
            kind: message.kind,
            answered: false,
            in_dead_hands: false,
        });
    }

    /// A handler is given a message: exactly once, in order, by an instance of the latest epoch.
    pub(crate) fn handled(
        &mut self,
        service: Service,
        epoch: Epoch,
        channel: Channel,
        lane: Lane,
        sequence: u64,
        message: &Message,
    ) -> Result<(), Broken> {
        self.counts.handled += 1;
        if self.epochs.get(&service) != Some(&epoch) {
            return Err(format!(
                "s{service} handles a message in {epoch}, though {:?} has served",
                self.epochs.get(&service)
            ));
        }
        let check = &mut self.channels[channel];
        let next = check.handled[lane];
        if sequence != next {
            let what = if sequence < next {
                "is handled again"
            } else {
                "is handled too early"
            };
            return Err(format!(
                "channel {channel} {lane}: #{sequence} {what}: #{next} is next"
            ));
        }
        let sent = usize::try_from(sequence)
            .ok()
            .and_then(|index| check.sent[lane].get(index));
        if sent.map(|sent| (sent.number, sent.kind)) != Some((message.number, message.kind)) {
            return Err(format!(
                "channel {channel} {lane}: #{sequence} is handled as {message:?}, sent was {sent:?}"
            ));
        }
        check.handled[lane] = next + 1;
        Ok(())
    }

    /// The receiver says that everything below is done.
    pub(crate) fn finished(
        &mut self,
        channel: Channel,
        lane: Lane,
        upto: u64,
    ) -> Result<(), Broken> {
        let check = &mut self.channels[channel];
        if upto > check.handled[lane] {
            return Err(format!(
                "channel {channel} {lane}: done up to {upto}, handled up to {}",
                check.handled[lane]
            ));
        }
        check.finished[lane] = check.finished[lane].max(upto);
        Ok(())
    }

    /// An instance died with these messages taken and not done.
    pub(crate) fn in_dead_hands(&mut self, channel: Channel, lane: Lane, done: u64, taken: u64) {
        let sent = &mut self.channels[channel].sent[lane];
        for (sequence, sent) in (0..).zip(sent.iter_mut()) {
            if (done..taken).contains(&sequence) {
                sent.in_dead_hands = true;
            }
        }
    }

    /// A client gets an answer: to a request of its own, in the order of requests, once.
    pub(crate) fn answered(
        &mut self,
        channel: Channel,
        lane: Lane,
        message: &Message,
    ) -> Result<(), Broken> {
        let check = &mut self.channels[channel];
        let to = message.correlation;
        let broken = |what: &str| Err(format!("channel {channel} {lane}: {what}: {message:?}"));
        let index = usize::try_from(to).unwrap_or(usize::MAX);
        let Some(sent) = check.sent[lane].get_mut(index) else {
            return broken("an answer to nothing");
        };
        if sent.kind != MessageKind::Request || sent.number != message.number {
            return broken("an answer to another message");
        }
        let unknown = message.kind == MessageKind::OutcomeUnknown;
        if unknown && !sent.in_dead_hands {
            return broken("an unknown outcome, though nobody died with the request");
        }
        if !unknown && check.handled[lane] <= to {
            return broken("an answer to a request that nobody has handled");
        }
        match check.answered[lane] {
            Some(last) if to < last => return broken("an answer out of order"),
            // It had answered before it died, and its successor could not know.
            Some(last) if to == last && !unknown => return broken("a second answer"),
            _ => {}
        }
        check.answered[lane] = Some(to);
        sent.answered = true;
        if unknown {
            self.counts.unknown += 1;
        } else {
            self.counts.replied += 1;
        }
        Ok(())
    }

    /// What the client's peer says is done may be overwritten, so it must be settled.
    pub(crate) fn freed(&self, channel: Channel, lane: Lane, upto: u64) -> Result<(), Broken> {
        let finished = self.channels[channel].finished[lane];
        if upto > finished {
            return Err(format!(
                "channel {channel} {lane}: the client's ring is freed up to {upto}, \
                 but the service is done up to {finished} only"
            ));
        }
        Ok(())
    }

    pub(crate) fn serves(
        &mut self,
        service: Service,
        instance: Instance,
        epoch: Epoch,
    ) -> Result<(), Broken> {
        self.counts.activations += 1;
        self.serving.entry(service).or_default().insert(instance);
        let latest = self.epochs.entry(service).or_insert(epoch);
        if epoch < *latest {
            return Err(format!("s{service} serves in {epoch} after {latest}"));
        }
        *latest = epoch;
        Ok(())
    }

    pub(crate) fn rests(&mut self, service: Service, instance: Instance) {
        if let Some(serving) = self.serving.get_mut(&service) {
            serving.remove(&instance);
        }
    }

    /// After every event, whatever it was.
    pub(crate) fn at_most_one_serves(&self) -> Result<(), Broken> {
        match self.serving.iter().find(|(_, serving)| serving.len() > 1) {
            None => Ok(()),
            Some((service, serving)) => Err(format!(
                "s{service} has {} active instances: {serving:?}",
                serving.len()
            )),
        }
    }

    pub(crate) fn may_be_lost(&mut self, channel: Channel) {
        self.channels[channel].may_be_lost = true;
    }

    /// The client is gone with its node: what it had sent concerns nobody any more.
    pub(crate) fn client_gone(&mut self, channel: Channel) {
        self.channels[channel].over = true;
    }

    /// The channel is refused for good.
    pub(crate) fn lost(&mut self, channel: Channel) -> Result<(), Broken> {
        let check = &mut self.channels[channel];
        if !check.may_be_lost {
            return Err(format!(
                "channel {channel} of client {} is refused for good, though no state was lost",
                check.client
            ));
        }
        check.over = true;
        self.counts.channels_lost += 1;
        Ok(())
    }

    /// What is still owed to some client, in words, if anything.
    pub(crate) fn unsettled(&self) -> Option<String> {
        for (channel, check) in self.channels.iter().enumerate() {
            if check.over {
                continue;
            }
            for (lane, sent) in check.sent.iter() {
                let (handled, sent_upto) = (check.handled[lane], sent.len() as u64);
                if handled < sent_upto {
                    return Some(format!(
                        "channel {channel} {lane}: {sent_upto} are sent, {handled} handled"
                    ));
                }
                if let Some(index) = sent
                    .iter()
                    .position(|sent| sent.kind == MessageKind::Request && !sent.answered)
                {
                    return Some(format!("channel {channel} {lane}: #{index} has no answer"));
                }
            }
        }
        None
    }
}
