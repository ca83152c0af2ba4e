//! The directory: one linearizable state that can be slow, cut off or full.

use weft_protocol::moving::{Command, Entry};
use weft_types::{MoveId, NodeName};

use crate::event::{DirectoryAnswer, Event, Node, NodeLife, Purpose, Service};
use crate::memory::Broken;
use crate::movement::Input;
use crate::world::World;

impl World {
    pub(crate) fn lookup(&self, service: Service) -> Command {
        Command::Lookup {
            service: self.service_names[service].clone(),
        }
    }

    pub(crate) fn node_of(&self, name: &NodeName) -> Node {
        self.nodes
            .iter()
            .position(|node| node.name == *name)
            .unwrap_or(usize::MAX)
    }

    fn service_of(&self, command: &Command) -> Service {
        let name = command.service();
        self.service_names
            .iter()
            .position(|service| service == name)
            .unwrap_or(usize::MAX)
    }

    /// A node watches what the directory says of it: if source and target of a move both die around
    /// its commit, nobody else knows that the service is the node's to start.
    pub(crate) fn named(&mut self, node: Node, service: Service) {
        if self.nodes[node].up && !self.directory_cuts.contains(&node) {
            let at = self.node_life(node);
            self.check_service(at, service);
        } else {
            self.after(Event::Named { node, service }, 100_000);
        }
    }

    pub(crate) fn entry(&self, service: Service) -> Option<Entry> {
        self.directory.lookup(&self.service_names[service])
    }

    fn directory_delay(&mut self) -> u64 {
        if self.chance(self.scenario.rates.slow_directory_percent) {
            self.draw(5_000..200_000)
        } else {
            self.draw(100..2_000)
        }
    }

    pub(crate) fn ask_directory(&mut self, from: NodeLife, purpose: Purpose, command: Command) {
        if self.directory_cuts.contains(&from.node) {
            return;
        }
        let delay = self.directory_delay();
        let event = Event::DirectoryAsked {
            from,
            purpose,
            command,
        };
        self.after(event, delay);
    }

    /// What has left a node arrives, even if the node has died since.
    pub(crate) fn directory_asked(
        &mut self,
        from: NodeLife,
        purpose: Purpose,
        command: &Command,
    ) -> Result<(), Broken> {
        let reads = matches!(command, Command::Lookup { .. });
        let answer = if self.directory_full && !reads {
            DirectoryAnswer::NotApplied
        } else {
            let before = self.directory.lookup(command.service());
            let answer = self.directory.apply(command);
            let after = self.directory.lookup(command.service());
            if let (Some(before), Some(after)) = (before, after)
                && after.epoch < before.epoch
            {
                return Err(format!("the directory goes back from {before} to {after}"));
            }
            if let (Command::Commit { .. }, Ok(entry)) = (command, &answer) {
                let node = self.node_of(&entry.node);
                let service = self.service_of(command);
                let delay = self.directory_delay();
                self.after(Event::Named { node, service }, delay);
            }
            DirectoryAnswer::Decided(answer)
        };
        let lossy = self.scenario.rates.lossy_percent;
        if self.directory_cuts.contains(&from.node) || self.chance(lossy) {
            return Ok(());
        }
        let delay = self.directory_delay();
        let event = Event::DirectoryAnswered {
            to: from,
            purpose,
            answer,
        };
        self.after(event, delay);
        Ok(())
    }

    pub(crate) fn directory_answered(
        &mut self,
        to: NodeLife,
        purpose: Purpose,
        answer: DirectoryAnswer,
    ) -> Result<(), Broken> {
        if !self.lives(to) {
            return Ok(());
        }
        let found = match &answer {
            DirectoryAnswer::Decided(Ok(entry)) => Some(entry.clone()),
            _ => None,
        };
        match purpose {
            Purpose::Commit(id) => {
                let input = Input::of_commit(answer);
                self.source_input(to.node, id, input)
            }
            Purpose::Target(id) => self.target_hears_directory(to.node, id, found),
            Purpose::Check(service, nonce) => self.checked(to, service, nonce, found),
            Purpose::Register(service, nonce) => self.registered(to, service, nonce, found),
            Purpose::Locate {
                channel,
                life,
                attempt,
            } => {
                let at = crate::event::GatewayLife {
                    node: to.node,
                    life,
                };
                match found {
                    Some(entry) => self.located(at, channel, attempt, &entry),
                    None => Ok(()),
                }
            }
            Purpose::ClientOpen(client) => {
                let state = &mut self.clients[client];
                state.asking = false;
                match found {
                    Some(entry) if state.open.is_none() => {
                        let owner = self.node_of(&entry.node);
                        self.open_channel(client, owner)
                    }
                    _ => Ok(()),
                }
            }
        }
    }

    fn target_hears_directory(
        &mut self,
        node: Node,
        id: MoveId,
        mut current: Option<Entry>,
    ) -> Result<(), Broken> {
        if let Some(entry) = &mut current
            && self.broken_by(crate::Mutation::IgnoreMoveId)
            && entry.node == self.nodes[node].name
        {
            entry.by = Some(id);
        }
        self.target_input(
            node,
            id,
            weft_protocol::moving::TargetInput::DirectoryAnswered { current },
        )
    }
}
