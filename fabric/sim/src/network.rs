//! Connections between gateways: streams that keep their order, and lose it towards each other.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use weft_types::{Epoch, Lane};

use crate::event::{Channel, Connection, Control, Event, GatewayLife, Node};
use crate::memory::{Broken, Message};
use crate::world::World;

/// A message that waits at the receiver until its channel is ready for it.
pub(crate) type Arrived = (Epoch, u64, Message);

/// One connection. The node with the smaller number has dialled.
#[derive(Debug)]
pub(crate) struct ConnectionState {
    /// The dialling end, then the other.
    pub(crate) ends: [GatewayLife; 2],
    /// Whether each end believes in it.
    pub(crate) open: [bool; 2],
    /// What is in flight is lost, and both ends will notice at their own time.
    pub(crate) cut: bool,
    /// When the last frame of each stream arrives. A stream: its receiver, and the channel and lane
    /// of data or nothing for control.
    last: BTreeMap<(Node, Option<(Channel, Lane)>), Duration>,
    /// Nothing arrives before: the handshake.
    ready_at: Duration,
    /// What has arrived at each end and waits for its channel.
    pub(crate) inbox: [BTreeMap<(Channel, Lane), VecDeque<Arrived>>; 2],
}

impl ConnectionState {
    pub(crate) fn side(&self, node: Node) -> usize {
        usize::from(self.ends[1].node == node)
    }
}

impl World {
    /// Whether packets go from one node to the other now.
    fn reaches(&self, a: Node, b: Node) -> bool {
        !self.partitions.contains(&(a.min(b), a.max(b)))
    }

    /// A delay on the way between two nodes.
    pub(crate) fn latency(&mut self) -> u64 {
        match self.pick(40) {
            0 => self.draw(5_000..40_000),
            1..=8 => self.draw(500..5_000),
            _ => self.draw(60..500),
        }
    }

    pub(crate) fn dial(&mut self, from: GatewayLife, to: Node) {
        if !self.gateway_lives(from) || self.nodes[from.node].gateway.links.contains_key(&to) {
            return;
        }
        let delay = self.latency();
        self.after(Event::DialArrives { from, to }, delay);
    }

    pub(crate) fn dial_arrives(&mut self, from: GatewayLife, to: Node) -> Result<(), Broken> {
        if !self.gateway_lives(from) {
            return Ok(());
        }
        if !self.reaches(from.node, to) || !self.nodes[to].gateway.up {
            let pause = self.draw(20_000..60_000);
            self.after(Event::Dial { from, to }, pause);
            return Ok(());
        }
        // Whatever this end still believes in has been given up by the other.
        if let Some(&old) = self.nodes[to].gateway.links.get(&from.node) {
            self.lose_connection(old, to)?;
        }
        let connection = self.connections.len();
        let delay = self.latency();
        self.connections.push(ConnectionState {
            ends: [from, self.gateway_life(to)],
            open: [false, true],
            cut: false,
            last: BTreeMap::new(),
            ready_at: self.now + Duration::from_micros(delay),
            inbox: Default::default(),
        });
        self.nodes[to].gateway.links.insert(from.node, connection);
        self.after(Event::DialDone(connection), delay);
        self.peer_lives(to, from.node)
    }

    pub(crate) fn dial_done(&mut self, connection: Connection) -> Result<(), Broken> {
        let [from, to] = self.connections[connection].ends;
        if self.connections[connection].cut || !self.gateway_lives(from) {
            self.cut(connection);
            if self.gateway_lives(from) {
                self.after(Event::Dial { from, to: to.node }, 30_000);
            }
            return Ok(());
        }
        self.connections[connection].open[0] = true;
        self.nodes[from.node]
            .gateway
            .links
            .insert(to.node, connection);
        self.peer_lives(from.node, to.node)
    }

    /// What is in flight is lost from now on; the ends learn it by their idle time-outs.
    pub(crate) fn cut(&mut self, connection: Connection) {
        let state = &mut self.connections[connection];
        if state.cut {
            return;
        }
        state.cut = true;
        for at in state.ends {
            let pause = self.draw(1_000..80_000);
            self.after(Event::ConnectionLost { connection, at }, pause);
        }
    }

    /// One end gives the connection up.
    pub(crate) fn lose_connection(
        &mut self,
        connection: Connection,
        node: Node,
    ) -> Result<(), Broken> {
        self.cut(connection);
        let state = &mut self.connections[connection];
        let side = state.side(node);
        if !std::mem::take(&mut state.open[side]) {
            return Ok(());
        }
        state.inbox[side].clear();
        let peer = state.ends[1 - side].node;
        self.nodes[node].gateway.links.remove(&peer);
        self.disconnected(node, connection)?;
        if side == 0 {
            let from = self.gateway_life(node);
            let pause = self.draw(100..20_000);
            self.after(Event::Dial { from, to: peer }, pause);
        }
        Ok(())
    }

    /// When the next frame of a stream arrives, or `None` if it never does.
    fn arrival(
        &mut self,
        connection: Connection,
        to: Node,
        stream: Option<(Channel, Lane)>,
    ) -> Option<Duration> {
        let latency = Duration::from_micros(self.latency());
        let now = self.now;
        let state = &mut self.connections[connection];
        if state.cut {
            return None;
        }
        let last = state.last.entry((to, stream)).or_insert(state.ready_at);
        *last = (now + latency).max(*last + Duration::from_micros(1));
        Some(*last)
    }

    fn other_end(&self, connection: Connection, node: Node) -> Node {
        let state = &self.connections[connection];
        state.ends[1 - state.side(node)].node
    }

    pub(crate) fn send_control(
        &mut self,
        connection: Connection,
        from: Node,
        channel: Channel,
        control: Control,
    ) {
        let to = self.other_end(connection, from);
        if let Some(at) = self.arrival(connection, to, None) {
            let event = Event::Control {
                connection,
                to,
                channel,
                control,
            };
            self.agenda.at(at, event);
        }
    }

    pub(crate) fn send_data(
        &mut self,
        connection: Connection,
        from: Node,
        channel: Channel,
        lane: Lane,
        (epoch, sequence, message): Arrived,
    ) {
        let to = self.other_end(connection, from);
        if let Some(at) = self.arrival(connection, to, Some((channel, lane))) {
            let event = Event::Data {
                connection,
                to,
                channel,
                lane,
                epoch,
                sequence,
                message,
            };
            self.agenda.at(at, event);
        }
    }

    /// Whether a frame that arrives now is read: the connection is whole and this end knows it.
    pub(crate) fn arrives(&self, connection: Connection, to: Node) -> bool {
        let state = &self.connections[connection];
        !state.cut && state.open[state.side(to)]
    }

    /// What a daemon says to another about a move: it may be lost, doubled or overtaken.
    pub(crate) fn tell_daemon(
        &mut self,
        from: Node,
        to: Node,
        id: weft_types::MoveId,
        said: crate::event::Said,
    ) {
        if !self.reaches(from, to) {
            return;
        }
        let lossy = self.scenario.rates.lossy_percent;
        let copies = if self.chance(lossy) {
            0
        } else if self.chance(lossy) {
            2
        } else {
            1
        };
        for _ in 0..copies {
            // A share of them takes very long, to turn up when nobody waits for them any more.
            let delay = if self.chance(lossy) {
                self.draw(50_000..1_500_000)
            } else {
                self.latency()
            };
            let said = said.clone();
            self.after(Event::Daemon { to, from, id, said }, delay);
        }
    }

    pub(crate) fn partition(&mut self, a: Node, b: Node) {
        self.partitions.insert((a.min(b), a.max(b)));
        let between = |state: &ConnectionState| {
            let nodes = [state.ends[0].node, state.ends[1].node];
            nodes == [a, b] || nodes == [b, a]
        };
        let broken: Vec<_> = (0..self.connections.len())
            .filter(|&id| !self.connections[id].cut && between(&self.connections[id]))
            .collect();
        for connection in broken {
            self.cut(connection);
        }
    }
}
