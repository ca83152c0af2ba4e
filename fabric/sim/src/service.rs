//! Instances of services: one handler at a time, most urgent lane first, fair among channels.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use weft_types::{Epoch, Lane, MessageKind, PerLane};

use crate::Mutation;
use crate::event::{Channel, Event, Instance, Node, NodeLife, Owner, Service};
use crate::memory::{Broken, Cursors, End, HalfId, Message};
use crate::movement::Image;
use crate::world::World;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Phase {
    /// The target of a move: takes nothing.
    Waiting,
    Serving,
    /// Ends the handler in flight and takes no more.
    Freezing,
    Frozen,
    Dead,
}

/// The handler in flight.
#[derive(Clone, Debug)]
struct Handling {
    channel: Channel,
    lane: Lane,
    sequence: u64,
    message: Message,
}

#[derive(Debug)]
pub(crate) struct InstanceState {
    pub(crate) service: Service,
    pub(crate) at: NodeLife,
    pub(crate) epoch: Epoch,
    pub(crate) phase: Phase,
    pub(crate) ends: BTreeMap<Channel, End>,
    handling: Option<Handling>,
    /// Unknown outcomes to tell before anything else, and the `done` that this makes true.
    owed: VecDeque<(Channel, Lane, Message)>,
    owed_done: Vec<(Channel, Lane, u64)>,
    /// The service's own state: how many messages of each lane it has handled.
    pub(crate) state: BTreeMap<(Channel, Lane), u64>,
    /// Whether `state` goes back to the service's first message, not just to a crash.
    pub(crate) complete: bool,
    /// Where the next look for a message starts.
    turn: Channel,
}

impl World {
    pub(crate) fn new_instance(
        &mut self,
        at: NodeLife,
        service: Service,
        epoch: Epoch,
        complete: bool,
    ) -> Instance {
        self.instances.push(InstanceState {
            service,
            at,
            epoch,
            phase: Phase::Waiting,
            ends: BTreeMap::new(),
            handling: None,
            owed: VecDeque::new(),
            owed_done: Vec::new(),
            state: BTreeMap::new(),
            complete,
            turn: 0,
        });
        self.instances.len() - 1
    }

    pub(crate) fn serving_instance(&self, node: Node, service: Service) -> Option<Instance> {
        self.owned_instance(node, service)
            .filter(|&instance| self.instances[instance].phase == Phase::Serving)
    }

    pub(crate) fn set_phase(&mut self, instance: Instance, phase: Phase) -> Result<(), Broken> {
        let state = &mut self.instances[instance];
        let (service, epoch) = (state.service, state.epoch);
        let active = |phase| matches!(phase, Phase::Serving | Phase::Freezing);
        let (before, after) = (active(state.phase), active(phase));
        state.phase = phase;
        if after && !before {
            self.checker.serves(service, instance, epoch)?;
        }
        if before && !after {
            self.checker.rests(service, instance);
        }
        self.wake(Owner::Instance(instance));
        Ok(())
    }

    /// Looks for the next message, or notices that the freeze is complete.
    pub(crate) fn instance_wakes(&mut self, instance: Instance) -> Result<(), Broken> {
        let phase = self.instances[instance].phase;
        if !matches!(phase, Phase::Serving | Phase::Freezing)
            || self.instances[instance].handling.is_some()
            || !self.pay_what_is_owed(instance)?
        {
            return Ok(());
        }
        if phase == Phase::Freezing {
            if !self.broken_by(Mutation::FreezeInName) {
                self.set_phase(instance, Phase::Frozen)?;
            }
            self.frozen(instance)?;
            if !self.broken_by(Mutation::FreezeInName) {
                return Ok(());
            }
        }
        let Some((channel, lane, message)) = self.next_message(instance)? else {
            return Ok(());
        };
        let state = &mut self.instances[instance];
        let Some(end) = state.ends.get_mut(&channel) else {
            return Ok(());
        };
        let sequence = end.take(&mut self.memory, lane);
        state.turn = channel + 1;
        self.touched.insert(channel);
        self.checker.handled(
            state.service,
            state.epoch,
            channel,
            lane,
            sequence,
            &message,
        )?;
        let handled = state.state.get(&(channel, lane)).copied();
        if handled.unwrap_or(if state.complete { 0 } else { sequence }) != sequence {
            return Err(format!(
                "channel {channel} {lane}: the service's state knows of {handled:?} messages, \
                 and is given #{sequence}"
            ));
        }
        state.state.insert((channel, lane), sequence + 1);
        state.handling = Some(Handling {
            channel,
            lane,
            sequence,
            message,
        });
        let pause = self.draw(20..1_500);
        self.after(Event::HandlerReplies(instance), pause);
        Ok(())
    }

    fn next_message(&self, instance: Instance) -> Result<Option<(Channel, Lane, Message)>, Broken> {
        let state = &self.instances[instance];
        for lane in Lane::ALL {
            let after = state.ends.range(state.turn..);
            let before = state.ends.range(..state.turn);
            for (&channel, end) in after.chain(before) {
                let message = end
                    .peek(&self.memory, lane)
                    .map_err(|why| format!("channel {channel}, service: {why}"))?;
                if let Some(message) = message {
                    return Ok(Some((channel, lane, message)));
                }
            }
        }
        Ok(None)
    }

    pub(crate) fn handler_replies(&mut self, instance: Instance) -> Result<(), Broken> {
        let state = &mut self.instances[instance];
        let Some(handling) = state.handling.clone() else {
            return Ok(());
        };
        if state.phase == Phase::Dead {
            return Ok(());
        }
        if handling.message.kind == MessageKind::Request
            && let Some(end) = state.ends.get_mut(&handling.channel)
        {
            let reply = Message {
                kind: MessageKind::Reply,
                correlation: handling.sequence,
                number: handling.message.number,
            };
            if end.send(&mut self.memory, handling.lane, reply)?.is_none() {
                // Full. The client is slow, or nobody carries its channel now.
                self.after(Event::HandlerReplies(instance), 2_000);
                return Ok(());
            }
            let peer = end.peer();
            self.ring(peer);
        }
        self.touched.insert(handling.channel);
        let pause = self.draw(1..60);
        self.after(Event::HandlerDone(instance), pause);
        Ok(())
    }

    pub(crate) fn handler_done(&mut self, instance: Instance) -> Result<(), Broken> {
        let state = &mut self.instances[instance];
        if state.phase == Phase::Dead {
            return Ok(());
        }
        let Some(handling) = state.handling.take() else {
            return Ok(());
        };
        if let Some(end) = state.ends.get_mut(&handling.channel) {
            let upto = handling.sequence + 1;
            end.finish(&mut self.memory, handling.lane, upto)?;
            let peer = end.peer();
            self.checker
                .finished(handling.channel, handling.lane, upto)?;
            self.ring(peer);
        }
        self.touched.insert(handling.channel);
        self.wake(Owner::Instance(instance));
        Ok(())
    }

    /// Tells the outcomes that a dead predecessor left open. `false`: some ring is still full.
    fn pay_what_is_owed(&mut self, instance: Instance) -> Result<bool, Broken> {
        let state = &mut self.instances[instance];
        while let Some((channel, lane, message)) = state.owed.front().cloned() {
            if let Some(end) = state.ends.get_mut(&channel) {
                if end.send(&mut self.memory, lane, message)?.is_none() {
                    self.after(Event::Wake(Owner::Instance(instance)), 2_000);
                    return Ok(false);
                }
                let peer = end.peer();
                self.touched.insert(channel);
                if let Some(owner) = peer.map(|peer| self.memory[peer].owner) {
                    self.agenda.wake(&mut self.rng, self.now, owner);
                }
            }
            state.owed.pop_front();
        }
        for (channel, lane, upto) in std::mem::take(&mut state.owed_done) {
            if let Some(end) = state.ends.get_mut(&channel) {
                end.finish(&mut self.memory, lane, upto)?;
                self.checker.finished(channel, lane, upto)?;
            }
        }
        Ok(true)
    }

    /// An instance dies where it stands. Who restarts it is not decided here.
    pub(crate) fn kill_instance(&mut self, instance: Instance) -> Result<(), Broken> {
        self.set_phase(instance, Phase::Dead)?;
        let state = &mut self.instances[instance];
        state.handling = None;
        for (&channel, end) in &state.ends {
            self.touched.insert(channel);
            for lane in Lane::ALL {
                let Cursors { taken, done } = self.memory[end.own].cursors[lane];
                self.checker.in_dead_hands(channel, lane, done, taken);
            }
        }
        Ok(())
    }

    /// The successor of a dead instance on the same node, in the same epoch: it starts at `taken`,
    /// and says of what lies between `done` and `taken` that the outcome is not known.
    pub(crate) fn succeed(&mut self, at: NodeLife, service: Service) -> Result<(), Broken> {
        let Some(dead) = self.owned_instance(at.node, service) else {
            return Ok(());
        };
        if self.instances[dead].phase != Phase::Dead {
            return Ok(());
        }
        let epoch = self.instances[dead].epoch;
        let instance = self.new_instance(at, service, epoch, false);
        let ends = std::mem::take(&mut self.instances[dead].ends);
        self.own(at.node, service, epoch, instance);
        let mut swaps: Vec<(Channel, HalfId)> = Vec::new();
        for (channel, old) in ends {
            let before = self.memory[old.own].cursors;
            // As in a move: the successor's ring begins with what is not acknowledged, so that one
            // ring holds all of it when the service moves or dies again.
            let mut kept = Vec::new();
            for lane in Lane::ALL {
                kept.push(old.unacknowledged(&self.memory, lane)?);
            }
            let start = PerLane::from_fn(|lane: Lane| kept[lane.index()].0);
            let mut cursors = before;
            if self.broken_by(Mutation::SuccessorFromDone) {
                cursors = PerLane::from_fn(|lane| Cursors {
                    taken: before[lane].done,
                    done: before[lane].done,
                });
            }
            let half = self
                .memory
                .create(Owner::Instance(instance), start, cursors);
            // The dead one may not have drained the halves of gateways before the current one.
            let mut end = End::new(&self.memory, half, old.producers().to_vec());
            for (lane, (_, replies)) in Lane::ALL.into_iter().zip(kept) {
                for reply in replies {
                    end.replay(&mut self.memory, lane, reply);
                }
                self.leave_open(instance, channel, lane, &old, cursors[lane]);
            }
            self.instances[instance].ends.insert(channel, end);
            swaps.push((channel, half));
        }
        self.set_phase(instance, Phase::Serving)?;
        for (channel, half) in swaps {
            self.swap_successor(at.node, channel, half)?;
        }
        Ok(())
    }

    fn leave_open(
        &mut self,
        instance: Instance,
        channel: Channel,
        lane: Lane,
        old: &End,
        cursors: Cursors,
    ) {
        if cursors.taken == cursors.done {
            return;
        }
        let ring = &self.memory[old.own].rings[lane];
        for sequence in cursors.done..cursors.taken {
            let request = old
                .producers()
                .iter()
                .find_map(|&half| self.memory[half].rings[lane].get(sequence));
            let answered = (ring.start..ring.published())
                .filter_map(|reply| ring.get(reply))
                .any(|reply| reply.correlation == sequence);
            if let Some(request) = request
                && request.kind == MessageKind::Request
                && !answered
                && self.scenario.mutation != Some(Mutation::SilentSuccessor)
            {
                let message = Message {
                    kind: MessageKind::OutcomeUnknown,
                    correlation: sequence,
                    number: request.number,
                };
                self.instances[instance]
                    .owed
                    .push_back((channel, lane, message));
            }
        }
        // Only once they are published: if this one dies as well, the next has to know.
        self.instances[instance]
            .owed_done
            .push((channel, lane, cursors.taken));
    }

    /// Whoever faced the dead instance faces the new one.
    fn swap_successor(&mut self, node: Node, channel: Channel, half: HalfId) -> Result<(), Broken> {
        if let Some(record) = self.nodes[node].local.get_mut(&channel) {
            record.peer_half = Some(half);
            let client = record.client;
            self.swap_client(client, channel, half)?;
        } else if let Some(far) = self.nodes[node].gateway.far.get_mut(&channel) {
            far.end
                .swap(&self.memory, half)
                .map_err(|why| format!("channel {channel}, far gateway: {why}"))?;
            self.wake(Owner::Gateway(node));
        }
        Ok(())
    }

    /// What a frozen instance leaves to its successor on another node.
    pub(crate) fn image_of(&self, instance: Instance) -> Result<Rc<Image>, Broken> {
        let state = &self.instances[instance];
        let forget = self.broken_by(Mutation::ForgetReplies);
        Ok(Rc::new(Image {
            channels: state
                .ends
                .iter()
                .map(|(&channel, end)| {
                    crate::movement::ChannelImage::of(&self.memory, channel, end, forget)
                })
                .collect::<Result<_, _>>()?,
            state: state.state.clone(),
            complete: state.complete,
            clients: state
                .ends
                .keys()
                .filter_map(|&channel| Some((channel, self.client_of(state.at.node, channel)?)))
                .collect(),
        }))
    }
}
