//! What a node's daemon knows of the channels that end on it: enough to read the halves of the
//! dead and to put a successor in their place.

use weft_types::{Lane, PerLane};

use crate::event::{Channel, Client, Event, Node, NodeLife, Owner, Service};
use crate::memory::{Broken, End, HalfId, Message, settled};
use crate::world::World;

/// A channel whose client is on this node.
#[derive(Clone, Debug)]
pub(crate) struct LocalRecord {
    pub(crate) client: Client,
    pub(crate) service: Service,
    pub(crate) client_half: HalfId,
    /// What faces the client now, or did last: the service's half or a gateway's.
    pub(crate) peer_half: Option<HalfId>,
    /// Whether the gateway carries the channel.
    pub(crate) carried: bool,
    /// Whether a service has ever accepted the channel.
    pub(crate) opened: bool,
}

/// A channel whose service is on this node and whose client is not.
#[derive(Clone, Debug)]
pub(crate) struct RemoteRecord {
    pub(crate) service: Service,
    pub(crate) client: NodeLife,
    /// The half of this node's gateway that faces the service, or did last.
    pub(crate) far_half: Option<HalfId>,
}

/// What a client holds.
#[derive(Debug)]
pub(crate) struct ClientState {
    pub(crate) at: NodeLife,
    pub(crate) service: Service,
    pub(crate) open: Option<(Channel, End)>,
    /// Whether it waits for the directory's answer.
    pub(crate) asking: bool,
    pub(crate) number: u64,
    pub(crate) finish_scheduled: bool,
}

impl World {
    /// Opens a client's channel towards whoever the directory named.
    pub(crate) fn open_channel(&mut self, client: Client, owner: Node) -> Result<(), Broken> {
        let state = &self.clients[client];
        let (at, service) = (state.at, state.service);
        let local = owner == at.node;
        if local && self.serving_instance(at.node, service).is_none() {
            return Ok(());
        }
        let channel = self.checker.opened(client);
        let zero = PerLane::default();
        let client_half = self
            .memory
            .create(Owner::Client(client), zero, settled(zero));
        let end = End::new(&self.memory, client_half, Vec::new());
        self.clients[client].open = Some((channel, end));
        self.nodes[at.node].local.insert(
            channel,
            LocalRecord {
                client,
                service,
                client_half,
                peer_half: None,
                carried: !local,
                opened: local,
            },
        );
        if local {
            let instance = self
                .serving_instance(at.node, service)
                .ok_or("the instance has vanished")?;
            let half = self
                .memory
                .create(Owner::Instance(instance), zero, settled(zero));
            let end = End::new(&self.memory, half, Vec::new());
            self.instances[instance].ends.insert(channel, end);
            self.attach_local(at.node, channel)
        } else {
            self.carry(at.node, channel)
        }
    }

    /// Connects a service's end with the client on the same node: both swap to each other.
    pub(crate) fn attach_local(&mut self, node: Node, channel: Channel) -> Result<(), Broken> {
        let Some(record) = self.nodes[node].local.get(&channel).cloned() else {
            return Ok(());
        };
        let Some(instance) = self.owned_instance(node, record.service) else {
            return Ok(());
        };
        let Some(end) = self.instances[instance].ends.get_mut(&channel) else {
            return Ok(());
        };
        let half = end.own;
        if end.peer() != Some(record.client_half) {
            end.swap(&self.memory, record.client_half)
                .map_err(|why| format!("channel {channel}, service: {why}"))?;
        }
        self.nodes[node].gateway.near.remove(&channel);
        if let Some(record) = self.nodes[node].local.get_mut(&channel) {
            record.peer_half = Some(half);
            record.carried = false;
            record.opened = true;
        }
        self.swap_client(record.client, channel, half)?;
        self.wake(Owner::Instance(instance));
        Ok(())
    }

    /// Gives the client the half that it faces from now on.
    pub(crate) fn swap_client(
        &mut self,
        client: Client,
        channel: Channel,
        half: HalfId,
    ) -> Result<(), Broken> {
        let skip = self.broken_by(crate::Mutation::SkipWatermark);
        if let Some((open, end)) = &mut self.clients[client].open
            && *open == channel
        {
            end.swap(&self.memory, half)
                .map_err(|why| format!("channel {channel}, client: {why}"))?;
            if skip {
                end.forget_watermark(&mut self.memory);
            }
        }
        self.touched.insert(channel);
        self.wake(Owner::Client(client));
        Ok(())
    }

    /// The service has gone away: its clients on this node are carried by the gateway, and the
    /// gateways of the others are told. Doing it again changes nothing.
    pub(crate) fn swap_clients(&mut self, node: Node, service: Service) -> Result<(), Broken> {
        let here: Vec<Channel> = self.nodes[node]
            .local
            .iter()
            .filter(|(_, record)| record.service == service && !record.carried)
            .map(|(&channel, _)| channel)
            .collect();
        for channel in here {
            self.carry(node, channel)?;
        }
        let away: Vec<Channel> = self.nodes[node]
            .remote
            .iter()
            .filter(|(_, record)| record.service == service)
            .map(|(&channel, _)| channel)
            .collect();
        for channel in away {
            self.nodes[node].remote.remove(&channel);
            self.tell_moved(node, channel);
        }
        Ok(())
    }

    /// The client's channel is refused for good.
    pub(crate) fn close_channel(&mut self, node: Node, channel: Channel) -> Result<(), Broken> {
        self.nodes[node].gateway.near.remove(&channel);
        if let Some(record) = self.nodes[node].local.remove(&channel) {
            self.checker.lost(channel)?;
            self.clients[record.client].open = None;
            self.after(crate::event::Event::ClientOpens(record.client), 5_000);
        }
        Ok(())
    }

    /// A client's message, if it is time for one.
    pub(crate) fn client_sends(&mut self, client: Client) -> Result<(), Broken> {
        let state = &self.clients[client];
        if !self.lives(state.at) || self.now >= self.scenario.load {
            return Ok(());
        }
        let mean = u64::try_from(self.scenario.pause.as_micros()).unwrap_or(u64::MAX / 4);
        let pause = self.draw(1..2 * mean.max(1));
        self.after(Event::ClientSends(client), pause);
        let lane = [Lane::NORMAL, Lane::NORMAL, Lane::URGENT, Lane::LOW][self.pick(4)];
        // A burst now and then fills the rings.
        let burst = if self.chance(8) { 12 } else { 1 };
        for _ in 0..burst {
            let kind = if self.chance(25) {
                weft_types::MessageKind::Tell
            } else {
                weft_types::MessageKind::Request
            };
            let state = &mut self.clients[client];
            let Some((channel, end)) = &mut state.open else {
                self.client_opens(client);
                return Ok(());
            };
            let channel = *channel;
            let message = Message {
                kind,
                correlation: 0,
                number: state.number,
            };
            if let Some(sequence) = end.send(&mut self.memory, lane, message.clone())? {
                state.number += 1;
                let peer = end.peer();
                self.checker.sent(channel, lane, sequence, &message);
                self.touched.insert(channel);
                self.ring(peer);
            }
        }
        Ok(())
    }

    pub(crate) fn client_opens(&mut self, client: Client) {
        let state = &mut self.clients[client];
        if state.open.is_some() || state.asking {
            return;
        }
        state.asking = true;
        let (at, service) = (state.at, state.service);
        if self.lives(at) {
            let command = self.lookup(service);
            self.ask_directory(at, crate::event::Purpose::ClientOpen(client), command);
            // The answer may be lost.
            self.after(Event::ClientOpens(client), 150_000);
        }
    }

    /// Takes what has come for the client; it is done with it a little later.
    pub(crate) fn client_wakes(&mut self, client: Client) -> Result<(), Broken> {
        if !self.lives(self.clients[client].at) {
            return Ok(());
        }
        let state = &mut self.clients[client];
        let Some((channel, end)) = &mut state.open else {
            return Ok(());
        };
        let mut any = false;
        for lane in Lane::ALL {
            while let Some(message) = end
                .peek(&self.memory, lane)
                .map_err(|why| format!("channel {channel}, client: {why}"))?
            {
                end.take(&mut self.memory, lane);
                self.checker.answered(*channel, lane, &message)?;
                any = true;
            }
        }
        self.touched.insert(*channel);
        if any && !state.finish_scheduled {
            state.finish_scheduled = true;
            let pause = self.draw(1..3_000);
            self.after(Event::ClientFinishes(client), pause);
        }
        Ok(())
    }

    pub(crate) fn client_finishes(&mut self, client: Client) -> Result<(), Broken> {
        let state = &mut self.clients[client];
        state.finish_scheduled = false;
        let Some((channel, end)) = &mut state.open else {
            return Ok(());
        };
        self.touched.insert(*channel);
        let mut moved = false;
        for lane in Lane::ALL {
            let position = end.position(lane);
            moved |= end.finish(&mut self.memory, lane, position)?;
        }
        let peer = end.peer();
        if moved {
            self.ring(peer);
        }
        Ok(())
    }
}
