//! Gateways: the real [`Session`] between a ring in memory and the simulated wire.

use std::collections::BTreeMap;
use std::time::Duration;

use weft_protocol::moving::Entry;
use weft_protocol::session::{Output, Received, Session, SessionStart, Window};
use weft_types::{ChannelId, Epoch, Lane, MAX_BODY_BYTES, PerLane, Sequence};

use crate::Mutation;
use crate::channel::RemoteRecord;
use crate::event::{
    Channel, Connection, Control, Event, GatewayLife, Node, NodeLife, Owner, Purpose, Service,
};
use crate::memory::{Broken, End, HalfId, SLOTS, settled};
use crate::service::Phase;
use crate::world::World;

/// Every body is this long. Byte windows have their own tests, in the session's crate.
const BODY_BYTES: u32 = 32;

/// One channel of one gateway: the session and the end that it drives.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) end: End,
    pub(crate) session: Session,
    /// The connection that carries it now.
    pub(crate) connection: Option<Connection>,
    timer: Option<Duration>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    /// Asks the directory, or waits to ask again.
    Locating,
    Opening(Connection),
    Open,
}

/// A channel whose client is here.
#[derive(Debug)]
pub(crate) struct Near {
    pub(crate) line: Line,
    stage: Stage,
    /// Counts what was tried; answers to earlier tries are dropped.
    attempt: u64,
}

#[derive(Debug, Default)]
pub(crate) struct GatewayState {
    pub(crate) up: bool,
    pub(crate) life: u64,
    pub(crate) near: BTreeMap<Channel, Near>,
    /// Channels whose service is here.
    pub(crate) far: BTreeMap<Channel, Line>,
    /// The connection to each peer that this end believes in.
    pub(crate) links: BTreeMap<Node, Connection>,
}

impl World {
    pub(crate) fn gateway_life(&self, node: Node) -> GatewayLife {
        let life = self.nodes[node].gateway.life;
        GatewayLife { node, life }
    }

    pub(crate) fn gateway_lives(&self, at: GatewayLife) -> bool {
        let gateway = &self.nodes[at.node].gateway;
        gateway.up && gateway.life == at.life
    }

    fn line(&self, channel: Channel, epoch: Epoch, half: HalfId, peer: HalfId) -> Line {
        let sequences =
            |from: PerLane<u64>| PerLane::from_fn(|lane: Lane| Sequence::new(from[lane]));
        let window = Window {
            messages: u32::try_from(SLOTS).unwrap_or(u32::MAX),
            bytes: u32::try_from(MAX_BODY_BYTES * 2).unwrap_or(u32::MAX),
        };
        let start = SessionStart {
            outgoing_done: sequences(self.memory.done(half)),
            incoming_expected: sequences(self.memory.published(half)),
            incoming_done: sequences(self.memory.done(peer)),
        };
        Line {
            end: End::new(&self.memory, half, vec![peer]),
            session: Session::new(ChannelId::new(channel as u128), epoch, window, start),
            connection: None,
            timer: None,
        }
    }

    /// The gateway stands in for the client's peer from now on, and goes on where the half left off
    /// that the client faced until now, be it a service's or a dead gateway's.
    pub(crate) fn carry(&mut self, node: Node, channel: Channel) -> Result<(), Broken> {
        let Some(record) = self.nodes[node].local.get_mut(&channel) else {
            return Ok(());
        };
        record.carried = true;
        let record = record.clone();
        if !self.nodes[node].gateway.up {
            return Ok(());
        }
        let (outgoing, incoming) = record.peer_half.map_or_else(Default::default, |before| {
            (self.memory.published(before), self.memory.done(before))
        });
        let half = self
            .memory
            .create(Owner::Gateway(node), outgoing, settled(incoming));
        let line = self.line(channel, Epoch::NONE, half, record.client_half);
        let near = Near {
            line,
            stage: Stage::Locating,
            attempt: 0,
        };
        self.nodes[node].gateway.near.insert(channel, near);
        if let Some(record) = self.nodes[node].local.get_mut(&channel) {
            record.peer_half = Some(half);
        }
        self.swap_client(record.client, channel, half)?;
        self.locate(node, channel);
        Ok(())
    }

    fn locate(&mut self, node: Node, channel: Channel) {
        let at = self.gateway_life(node);
        let Some(service) = self.nodes[node]
            .local
            .get(&channel)
            .map(|record| record.service)
        else {
            return;
        };
        let attempt = self.next_attempt(node, channel, Stage::Locating);
        let from = self.node_life(node);
        let purpose = Purpose::Locate {
            channel,
            life: at.life,
            attempt,
        };
        let command = self.lookup(service);
        self.ask_directory(from, purpose, command);
        // The answer may be lost.
        let pause = self.draw(80_000..150_000);
        self.after(
            Event::Retry {
                at,
                channel,
                attempt,
            },
            pause,
        );
    }

    fn next_attempt(&mut self, node: Node, channel: Channel, stage: Stage) -> u64 {
        let Some(near) = self.nodes[node].gateway.near.get_mut(&channel) else {
            return 0;
        };
        near.attempt += 1;
        near.stage = stage;
        near.attempt
    }

    fn locate_later(&mut self, node: Node, channel: Channel) {
        let attempt = self.next_attempt(node, channel, Stage::Locating);
        let at = self.gateway_life(node);
        let pause = self.draw(1_000..25_000);
        self.after(
            Event::Retry {
                at,
                channel,
                attempt,
            },
            pause,
        );
    }

    pub(crate) fn retry(&mut self, at: GatewayLife, channel: Channel, attempt: u64) {
        let waits = self.nodes[at.node].gateway.near.get(&channel);
        if self.gateway_lives(at)
            && waits.is_some_and(|near| near.attempt == attempt && near.stage == Stage::Locating)
        {
            self.locate(at.node, channel);
        }
    }

    /// The directory has said where the service is: open the channel there.
    pub(crate) fn located(
        &mut self,
        at: GatewayLife,
        channel: Channel,
        attempt: u64,
        entry: &Entry,
    ) -> Result<(), Broken> {
        let node = at.node;
        if !self.gateway_lives(at) {
            return Ok(());
        }
        let Some(record) = self.nodes[node].local.get(&channel).cloned() else {
            return Ok(());
        };
        let owner = self.node_of(&entry.node);
        let link = self.nodes[node].gateway.links.get(&owner).copied();
        let client = self.node_life(node);
        let Some(near) = self.nodes[node].gateway.near.get_mut(&channel) else {
            return Ok(());
        };
        if near.attempt != attempt || near.stage != Stage::Locating {
            return Ok(());
        }
        if owner == node {
            return self.came_home(node, channel, record.service, entry.epoch, record.opened);
        }
        let Some(connection) = link else {
            self.locate_later(node, channel);
            return Ok(());
        };
        if near.line.session.set_epoch(entry.epoch).is_err() {
            // What the directory had said before a later move: ask again.
            self.locate_later(node, channel);
            return Ok(());
        }
        self.note_published(node, channel, true)?;
        let Some(near) = self.nodes[node].gateway.near.get_mut(&channel) else {
            return Ok(());
        };
        let open = Control::Open {
            service: record.service,
            epoch: entry.epoch,
            client,
            fresh: !record.opened,
            resume: near.line.session.resume_point(),
        };
        self.next_attempt(node, channel, Stage::Opening(connection));
        self.send_control(connection, node, channel, open);
        Ok(())
    }

    /// The service of a channel that the gateway carries is on this very node. If it knows the
    /// channel, it attaches it as soon as it serves; if not, it never will.
    fn came_home(
        &mut self,
        node: Node,
        channel: Channel,
        service: Service,
        epoch: Epoch,
        opened: bool,
    ) -> Result<(), Broken> {
        let Some(instance) = self
            .serving_instance(node, service)
            .filter(|&instance| self.instances[instance].epoch == epoch)
        else {
            self.locate_later(node, channel);
            return Ok(());
        };
        if !self.instances[instance].ends.contains_key(&channel) {
            if opened {
                return self.close_channel(node, channel);
            }
            let zero = PerLane::default();
            let half = self
                .memory
                .create(Owner::Instance(instance), zero, settled(zero));
            let end = End::new(&self.memory, half, Vec::new());
            self.instances[instance].ends.insert(channel, end);
        }
        self.attach_local(node, channel)
    }

    /// A frame of a control stream.
    pub(crate) fn control(
        &mut self,
        connection: Connection,
        node: Node,
        channel: Channel,
        control: Control,
    ) -> Result<(), Broken> {
        if !self.arrives(connection, node) {
            return Ok(());
        }
        self.touched.insert(channel);
        match control {
            Control::Open {
                service,
                epoch,
                client,
                fresh,
                resume,
            } => {
                let opened =
                    self.accept(node, channel, service, epoch, client, fresh, connection)?;
                let answer = match opened {
                    Ok(()) => self.resume_far(node, channel, connection, epoch, resume)?,
                    Err(for_good) => Control::Refused { for_good },
                };
                self.send_control(connection, node, channel, answer);
                self.pump(node, channel)
            }
            Control::Opened { epoch, resume } => {
                let opening = Stage::Opening(connection);
                let Some(near) = self.nodes[node].gateway.near.get(&channel) else {
                    return Ok(());
                };
                if near.stage != opening || near.line.session.epoch() != epoch {
                    return Ok(());
                }
                self.note_published(node, channel, true)?;
                let now = self.now;
                let Some(near) = self.nodes[node].gateway.near.get_mut(&channel) else {
                    return Ok(());
                };
                near.line.resume(&mut self.memory, now, resume)?;
                near.line.connection = Some(connection);
                near.stage = Stage::Open;
                if let Some(record) = self.nodes[node].local.get_mut(&channel) {
                    record.opened = true;
                }
                self.read_inbox(connection, node, channel)?;
                self.pump(node, channel)
            }
            Control::Refused { for_good } => {
                let near = self.nodes[node].gateway.near.get(&channel);
                if near.is_none_or(|near| near.stage != Stage::Opening(connection)) {
                    return Ok(());
                }
                if for_good {
                    return self.close_channel(node, channel);
                }
                self.locate_later(node, channel);
                Ok(())
            }
            Control::Acknowledge { epoch, done } => {
                let Some(line) = self.line_of(node, channel) else {
                    return Ok(());
                };
                if line.connection != Some(connection) || line.session.epoch() != epoch {
                    return Ok(());
                }
                for lane in Lane::ALL {
                    line.session
                        .acknowledged(lane, done[lane])
                        .map_err(|error| error.to_string())?;
                }
                self.pump(node, channel)
            }
            Control::Moved { epoch } => {
                let Some(near) = self.nodes[node].gateway.near.get_mut(&channel) else {
                    return Ok(());
                };
                let here = near.line.connection == Some(connection)
                    || near.stage == Stage::Opening(connection);
                if here && near.line.session.epoch() < epoch {
                    near.line.disconnect();
                    self.locate_later(node, channel);
                }
                Ok(())
            }
        }
    }

    /// The service's node decides on an open, and attaches the far gateway to the service. The
    /// error says whether the refusal is for good.
    #[expect(clippy::too_many_arguments, reason = "they are one frame's fields")]
    fn accept(
        &mut self,
        node: Node,
        channel: Channel,
        service: Service,
        epoch: Epoch,
        client: NodeLife,
        fresh: bool,
        connection: Connection,
    ) -> Result<Result<(), bool>, Broken> {
        let Some(instance) = self
            .owned_instance(node, service)
            .filter(|&instance| self.instances[instance].epoch == epoch)
        else {
            return Ok(Err(false));
        };
        let phase = self.instances[instance].phase;
        // A frozen service takes up its channels again, but not once it is given away: what is
        // opened then would start from cursors that the new owner has left behind.
        if matches!(phase, Phase::Dead | Phase::Waiting) || self.is_given_away(node, service) {
            return Ok(Err(false));
        }
        if !self.instances[instance].ends.contains_key(&channel) {
            if !fresh {
                return Ok(Err(true));
            }
            if phase != Phase::Serving {
                return Ok(Err(false));
            }
            let zero = PerLane::default();
            let half = self
                .memory
                .create(Owner::Instance(instance), zero, settled(zero));
            let end = End::new(&self.memory, half, Vec::new());
            self.instances[instance].ends.insert(channel, end);
        }
        let record = self.nodes[node]
            .remote
            .entry(channel)
            .or_insert(RemoteRecord {
                service,
                client,
                far_half: None,
            })
            .clone();
        if !self.nodes[node].gateway.far.contains_key(&channel) {
            let Some(end) = self.instances[instance].ends.get_mut(&channel) else {
                return Ok(Err(false));
            };
            let (outgoing, incoming) = record.far_half.map_or_else(
                || {
                    let service = &self.memory[end.own];
                    let starts = PerLane::from_fn(|lane| service.rings[lane].start);
                    (self.memory.done(end.own), starts)
                },
                |before| (self.memory.published(before), self.memory.done(before)),
            );
            let half = self
                .memory
                .create(Owner::Gateway(node), outgoing, settled(incoming));
            let service_half = end.own;
            end.swap(&self.memory, half)
                .map_err(|why| format!("channel {channel}, service: {why}"))?;
            let line = self.line(channel, epoch, half, service_half);
            self.nodes[node].gateway.far.insert(channel, line);
            if let Some(record) = self.nodes[node].remote.get_mut(&channel) {
                record.far_half = Some(half);
            }
            self.wake(Owner::Instance(instance));
        }
        if let Some(line) = self.nodes[node].gateway.far.get_mut(&channel) {
            line.disconnect();
            line.connection = Some(connection);
        }
        Ok(Ok(()))
    }

    fn resume_far(
        &mut self,
        node: Node,
        channel: Channel,
        connection: Connection,
        epoch: Epoch,
        resume: weft_protocol::session::ResumePoint,
    ) -> Result<Control, Broken> {
        self.note_published(node, channel, false)?;
        let now = self.now;
        let Some(line) = self.nodes[node].gateway.far.get_mut(&channel) else {
            return Ok(Control::Refused { for_good: false });
        };
        let ours = line.session.resume_point();
        line.resume(&mut self.memory, now, resume)
            .map_err(|why| format!("channel {channel}, far gateway: {why}"))?;
        line.connection = Some(connection);
        Ok(Control::Opened {
            epoch,
            resume: ours,
        })
    }

    /// The near or the far line of a channel on this node; a node never has both.
    fn line_of(&mut self, node: Node, channel: Channel) -> Option<&mut Line> {
        let gateway = &mut self.nodes[node].gateway;
        match gateway.near.get_mut(&channel) {
            Some(near) => Some(&mut near.line),
            None => gateway.far.get_mut(&channel),
        }
    }

    pub(crate) fn data(
        &mut self,
        connection: Connection,
        node: Node,
        channel: Channel,
        lane: Lane,
        arrived: crate::network::Arrived,
    ) -> Result<(), Broken> {
        if !self.arrives(connection, node) {
            return Ok(());
        }
        let state = &mut self.connections[connection];
        let side = state.side(node);
        state.inbox[side]
            .entry((channel, lane))
            .or_default()
            .push_back(arrived);
        self.read_inbox(connection, node, channel)?;
        self.pump(node, channel)
    }

    /// Reads a channel's streams, unless its `Opened` is still on the way.
    fn read_inbox(
        &mut self,
        connection: Connection,
        node: Node,
        channel: Channel,
    ) -> Result<(), Broken> {
        let near = self.nodes[node].gateway.near.get(&channel);
        if near.is_some_and(|near| near.stage == Stage::Opening(connection)) {
            return Ok(());
        }
        let side = self.connections[connection].side(node);
        for lane in Lane::ALL {
            let queue = self.connections[connection].inbox[side].remove(&(channel, lane));
            for (epoch, sequence, message) in queue.into_iter().flatten() {
                let Some(line) = self.line_of(node, channel) else {
                    continue;
                };
                // An owner that is no more, or a stream of a channel that was given up.
                if line.connection != Some(connection) || line.session.check_epoch(epoch).is_err() {
                    continue;
                }
                let received = line
                    .session
                    .received(lane, Sequence::new(sequence), BODY_BYTES)
                    .map_err(|error| error.to_string())?;
                if received == Received::Duplicate {
                    continue;
                }
                // Borrowed anew, with the memory.
                let gateway = &mut self.nodes[node].gateway;
                let line = match gateway.near.get_mut(&channel) {
                    Some(near) => &mut near.line,
                    None => match gateway.far.get_mut(&channel) {
                        Some(line) => line,
                        None => continue,
                    },
                };
                let published = line.end.send(&mut self.memory, lane, message)?;
                if published != Some(sequence) {
                    return Err(format!(
                        "channel {channel} {lane}: #{sequence} went into n{node}'s ring as \
                         {published:?}"
                    ));
                }
                let peer = line.end.peer();
                self.touched.insert(channel);
                self.ring(peer);
            }
        }
        Ok(())
    }

    /// Tells the session what its local ring holds, and how far its local receiver is.
    fn note_published(&mut self, node: Node, channel: Channel, near: bool) -> Result<(), Broken> {
        let eager = self.broken_by(Mutation::AcknowledgeOnArrival);
        let now = self.now;
        let gateway = &mut self.nodes[node].gateway;
        let line = if near {
            gateway.near.get_mut(&channel).map(|near| &mut near.line)
        } else {
            gateway.far.get_mut(&channel)
        };
        let Some(line) = line else { return Ok(()) };
        let Some(peer) = line.end.peer() else {
            return Ok(());
        };
        for lane in Lane::ALL {
            let published = line.end.published(&self.memory, lane);
            line.session.published(lane, Sequence::new(published));
            let done = if eager {
                self.memory[line.end.own].rings[lane].published()
            } else {
                self.memory[peer].cursors[lane].done
            };
            line.session
                .local_done(now, lane, Sequence::new(done))
                .map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    pub(crate) fn gateway_wakes(&mut self, node: Node) -> Result<(), Broken> {
        if !self.nodes[node].gateway.up {
            return Ok(());
        }
        let gateway = &self.nodes[node].gateway;
        let channels: Vec<Channel> = gateway
            .near
            .keys()
            .chain(gateway.far.keys())
            .copied()
            .collect();
        channels
            .into_iter()
            .try_for_each(|channel| self.pump(node, channel))
    }

    /// Sends what may go out, and does what the session wants done.
    pub(crate) fn pump(&mut self, node: Node, channel: Channel) -> Result<(), Broken> {
        let is_near = self.nodes[node].gateway.near.contains_key(&channel);
        self.note_published(node, channel, is_near)?;
        let now = self.now;
        let gateway = &mut self.nodes[node].gateway;
        let line = if is_near {
            gateway.near.get_mut(&channel).map(|near| &mut near.line)
        } else {
            gateway.far.get_mut(&channel)
        };
        let Some(line) = line else { return Ok(()) };
        let epoch = line.session.epoch();
        let mut data = Vec::new();
        let mut acknowledge = None;
        let mut freed = false;
        for lane in Lane::ALL {
            while let Some(send) = line.session.sendable(lane) {
                let message = line
                    .end
                    .peek(&self.memory, lane)
                    .map_err(|why| format!("channel {channel}, gateway of n{node}: {why}"))?
                    .filter(|_| line.end.position(lane) == send.from.get());
                let Some(message) = message else {
                    return Err(format!(
                        "channel {channel} {lane}: {send:?} is not at the read position {}",
                        line.end.position(lane)
                    ));
                };
                if !line
                    .session
                    .send(lane, send.from, BODY_BYTES)
                    .map_err(|error| error.to_string())?
                {
                    break;
                }
                let sequence = line.end.take(&mut self.memory, lane);
                data.push((lane, (epoch, sequence, message)));
            }
        }
        while let Some(output) = line.session.poll_output(now) {
            match output {
                Output::AdvanceDone { lane, upto } => {
                    freed |= line.end.finish(&mut self.memory, lane, upto.get())?;
                }
                Output::Acknowledge { done } => acknowledge = Some(done),
            }
        }
        let timer = line.session.poll_timeout().filter(|_| line.timer.is_none());
        line.timer = line.timer.or(timer);
        let (connection, peer) = (line.connection, line.end.peer());
        let touched = freed || !data.is_empty();
        if let Some(connection) = connection {
            for (lane, message) in data {
                self.send_data(connection, node, channel, lane, message);
            }
            if let Some(done) = acknowledge {
                let control = Control::Acknowledge { epoch, done };
                self.send_control(connection, node, channel, control);
            }
        }
        if freed {
            self.ring(peer);
        }
        if let Some(at) = timer {
            let life = self.gateway_life(node);
            self.agenda
                .at(at, Event::SessionTimer { at: life, channel });
        }
        if touched {
            self.touched.insert(channel);
        }
        Ok(())
    }

    pub(crate) fn session_timer(
        &mut self,
        at: GatewayLife,
        channel: Channel,
    ) -> Result<(), Broken> {
        if !self.gateway_lives(at) {
            return Ok(());
        }
        if let Some(line) = self.line_of(at.node, channel) {
            line.timer = None;
        }
        self.pump(at.node, channel)
    }

    /// A connection is gone: near channels look for their service again, far ones wait.
    pub(crate) fn disconnected(
        &mut self,
        node: Node,
        connection: Connection,
    ) -> Result<(), Broken> {
        let gateway = &mut self.nodes[node].gateway;
        for line in gateway.far.values_mut() {
            if line.connection == Some(connection) {
                line.disconnect();
            }
        }
        let mut lost = Vec::new();
        for (&channel, near) in &mut gateway.near {
            if near.line.connection == Some(connection) || near.stage == Stage::Opening(connection)
            {
                near.line.disconnect();
                lost.push(channel);
            }
        }
        for channel in lost {
            self.locate_later(node, channel);
        }
        Ok(())
    }

    /// The service of a far channel is not here any more.
    pub(crate) fn tell_moved(&mut self, node: Node, channel: Channel) {
        if let Some(line) = self.nodes[node].gateway.far.remove(&channel)
            && let Some(connection) = line.connection
        {
            let epoch = line.session.epoch().next();
            self.send_control(connection, node, channel, Control::Moved { epoch });
        }
    }

    /// A connection is up: what belongs to an earlier life of the peer is given up.
    pub(crate) fn peer_lives(&mut self, node: Node, peer: Node) -> Result<(), Broken> {
        let boot = self.nodes[peer].boot;
        self.nodes[node].peer_boots.insert(peer, boot);
        let gone: Vec<(Channel, Service)> = self.nodes[node]
            .remote
            .iter()
            .filter(|(_, record)| record.client.node == peer && record.client.boot < boot)
            .map(|(&channel, record)| (channel, record.service))
            .collect();
        for (channel, service) in gone {
            self.nodes[node].remote.remove(&channel);
            self.nodes[node].gateway.far.remove(&channel);
            if let Some(instance) = self.owned_instance(node, service) {
                self.instances[instance].ends.remove(&channel);
            }
        }
        Ok(())
    }

    /// The gateway dies; its halves stay where the daemon can read them.
    pub(crate) fn kill_gateway(&mut self, node: Node) {
        let gateway = &mut self.nodes[node].gateway;
        gateway.up = false;
        gateway.life += 1;
        gateway.near.clear();
        gateway.far.clear();
        for connection in std::mem::take(&mut gateway.links).into_values() {
            self.cut(connection);
        }
    }

    pub(crate) fn start_gateway(&mut self, at: NodeLife) -> Result<(), Broken> {
        if !self.lives(at) || self.nodes[at.node].gateway.up {
            return Ok(());
        }
        self.nodes[at.node].gateway.up = true;
        let carried: Vec<Channel> = self.nodes[at.node]
            .local
            .iter()
            .filter(|(_, record)| record.carried)
            .map(|(&channel, _)| channel)
            .collect();
        for channel in carried {
            self.carry(at.node, channel)?;
        }
        let from = self.gateway_life(at.node);
        for to in at.node + 1..self.nodes.len() {
            self.after(Event::Dial { from, to }, 100);
        }
        Ok(())
    }
}

impl Line {
    fn disconnect(&mut self) {
        self.session.disconnected();
        self.connection = None;
    }

    fn resume(
        &mut self,
        memory: &mut crate::memory::Memory,
        now: Duration,
        peer: weft_protocol::session::ResumePoint,
    ) -> Result<(), Broken> {
        self.session
            .connected(now, peer)
            .map_err(|error| error.to_string())?;
        for lane in Lane::ALL {
            self.end
                .seek(memory, lane, self.session.send_position(lane).get())?;
        }
        Ok(())
    }
}
