//! What goes wrong, how often, and when it heals.

use std::time::Duration;

use weft_protocol::moving::SourceInput;

use crate::event::{Event, Fault, Node};
use crate::memory::Broken;
use crate::service::Phase;
use crate::world::World;

impl World {
    /// Every kind of fault that the scenario knows, the first time.
    pub(crate) fn schedule_faults(&mut self) {
        for fault in [
            Fault::Move,
            Fault::Cancel,
            Fault::Cut,
            Fault::Partition,
            Fault::GatewayCrash,
            Fault::ServiceCrash,
            Fault::NodeCrash,
            Fault::DirectoryCut,
            Fault::DirectoryFull,
        ] {
            self.schedule(fault);
        }
    }

    fn mean(&self, fault: Fault) -> Option<Duration> {
        let rates = &self.scenario.rates;
        match fault {
            Fault::Move => rates.moves,
            Fault::Cancel => rates.cancels,
            Fault::Cut => rates.cuts,
            Fault::Partition => rates.partitions,
            Fault::GatewayCrash => rates.gateway_crashes,
            Fault::ServiceCrash => rates.service_crashes,
            Fault::NodeCrash => rates.node_crashes,
            Fault::DirectoryCut => rates.directory_cuts,
            Fault::DirectoryFull => rates.directory_full,
        }
    }

    fn schedule(&mut self, fault: Fault) {
        if let Some(mean) = self.mean(fault) {
            let mean = u64::try_from(mean.as_micros()).unwrap_or(u64::MAX / 4);
            let pause = self.draw(0..2 * mean.max(1));
            self.after(Event::Fault(fault), pause);
        }
    }

    fn two_nodes(&mut self) -> Option<(Node, Node)> {
        let count = self.nodes.len();
        if count < 2 {
            return None;
        }
        let first = self.pick(count);
        let second = (first + 1 + self.pick(count - 1)) % count;
        Some((first, second))
    }

    pub(crate) fn fault(&mut self, fault: Fault) -> Result<(), Broken> {
        if self.now >= self.scenario.load {
            return Ok(());
        }
        self.schedule(fault);
        let node = self.pick(self.nodes.len());
        let lasts = self.draw(20_000..250_000);
        match fault {
            Fault::Move => self.start_move(),
            Fault::Cancel => {
                let running: Vec<_> = self
                    .nodes
                    .iter()
                    .enumerate()
                    .flat_map(|(node, state)| state.sources.keys().map(move |&id| (node, id)))
                    .collect();
                match running.first() {
                    Some(&(node, id)) => self.source_input(node, id, SourceInput::Cancel),
                    None => Ok(()),
                }
            }
            Fault::Cut => {
                let whole: Vec<_> = (0..self.connections.len())
                    .filter(|&id| !self.connections[id].cut)
                    .collect();
                if !whole.is_empty() {
                    let connection = whole[self.pick(whole.len())];
                    self.cut(connection);
                }
                Ok(())
            }
            Fault::Partition => {
                if let Some((a, b)) = self.two_nodes() {
                    self.partition(a, b);
                    self.after(Event::PartitionEnds(a, b), lasts);
                }
                Ok(())
            }
            Fault::GatewayCrash => {
                let at = self.node_life(node);
                if self.lives(at) && self.nodes[node].gateway.up {
                    self.crashes += 1;
                    self.kill_gateway(node);
                    self.after(Event::GatewayStarts(at), lasts / 4);
                }
                Ok(())
            }
            Fault::ServiceCrash => {
                let alive: Vec<_> = (0..self.instances.len())
                    .filter(|&id| self.instances[id].phase != Phase::Dead)
                    .collect();
                if alive.is_empty() {
                    return Ok(());
                }
                self.crashes += 1;
                let instance = alive[self.pick(alive.len())];
                self.crash_instance(instance)
            }
            Fault::NodeCrash => self.crash_node(node),
            Fault::DirectoryCut => {
                self.directory_cuts.insert(node);
                self.after(Event::DirectoryCutEnds(node), lasts);
                Ok(())
            }
            Fault::DirectoryFull => {
                self.directory_full = true;
                self.after(Event::DirectoryFullEnds, lasts);
                Ok(())
            }
        }
    }
}
