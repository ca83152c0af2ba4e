//! The node's own contract: what other daemons and operators ask of this one.
//!
//! Reached as service `node/<name>`, over channels like any other. What only daemons may ask of each
//! other (parts of a move, changes of the directory) is refused to everyone else.

use std::rc::Rc;
use std::time::{Duration, Instant};

use weft::{Contract, Request};
use weft_contract::TypeMap;
use weft_node_control::{
    Caller, ChannelReport, Describe, DescribeReply, DirectoryReply, DomainReport, GrantInstalled,
    InventoryReply, LogReply, Migrate, MigrateReply, MoveAbandoned, MoveChannelsStored,
    MoveChunkStored, MovePrepared, MoveReady, NodeControl, NodeControlRequest, Path, PeerPong,
    Ping, Pong, ServiceReport, Started, Stopped,
};
use weft_protocol::moving::Command;
use weft_types::{Refusal, RefusalCode};

use crate::directory::write;
use crate::incoming::write_digest;
use crate::line::{Answer, Line, reply};
use crate::node::Node;

/// How long a ping may take.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a move may take that is passed on to the node of its source.
const MIGRATE_TIMEOUT: Duration = Duration::from_secs(120);

/// Serves one request of `caller`.
pub(crate) fn serve(
    node: &Rc<Node>,
    types: &TypeMap,
    caller: &Caller,
    line: Line,
    request: Request,
) {
    let decoded = types
        .ours(request.index)
        .ok_or_else(|| {
            Refusal::new(
                RefusalCode::UnknownMessage,
                "a type that is not in the table of this channel",
            )
        })
        .and_then(|index| {
            NodeControl::decode(index, &request.body)
                .map_err(|error| weft::Error::from(error).into())
        });
    let message = match decoded {
        Ok(message) => message,
        Err(refusal) => return line.answer(&request, Err(refusal)),
    };
    if is_for_daemons(&message) && caller.name.as_node().as_ref() != Some(&caller.node) {
        let refusal = Refusal::new(
            RefusalCode::NotAllowed,
            format!(
                "{} is a message between node daemons; {} is none",
                message.name(),
                caller.name
            ),
        );
        return line.answer(&request, Err(refusal));
    }
    let (node, from) = (Rc::clone(node), caller.clone());
    line.answer_with(request, async move { answer(&node, &from, message).await });
}

fn is_for_daemons(message: &NodeControlRequest) -> bool {
    use NodeControlRequest as Ask;
    matches!(
        message,
        Ask::MovePrepare(_)
            | Ask::MoveChunk(_)
            | Ask::MoveChannels(_)
            | Ask::MoveFinal(_)
            | Ask::MoveActivate(_)
            | Ask::MoveAbandon(_)
            | Ask::MoveAsk(_)
            | Ask::DirectoryRegister(_)
            | Ask::DirectoryCommit(_)
            | Ask::DirectoryRemove(_)
    )
}

async fn answer(node: &Rc<Node>, from: &Caller, message: NodeControlRequest) -> Answer {
    use NodeControlRequest as Ask;
    match message {
        Ask::Ping(_) => reply(&Pong {
            node: node.name().clone(),
            received_nanos: nanos(node.started.elapsed()),
        }),
        Ask::PingPeer(ping) => reply(&node.ping(&ping.node).await?),
        Ask::Inventory(_) => reply(&node.inventory().await),
        Ask::Start(start) => {
            let (pid, epoch) = node.start_service(start.name, start.program).await?;
            reply(&Started { pid, epoch })
        }
        Ask::Stop(stop) => {
            node.stop_service(&stop.name).await?;
            reply(&Stopped {})
        }
        Ask::Migrate(migrate) => reply(&node.migrate_anywhere(from, migrate).await?),
        Ask::Log(log) => {
            let limit = usize::try_from(log.limit).unwrap_or(usize::MAX);
            reply(&LogReply {
                records: node.log.after(log.after, limit),
            })
        }
        Ask::Directory(_) => reply(&DirectoryReply {
            entries: node.directory.entries().await?,
        }),
        Ask::Describe(Describe { service }) => {
            let own = node.service(&service);
            let description = own
                .and_then(|own| own.description.borrow().clone())
                .ok_or_else(|| {
                    Refusal::new(
                        RefusalCode::UnknownService,
                        format!("{service} does not run on {}", node.name()),
                    )
                })?;
            reply(&DescribeReply { description })
        }
        Ask::InstallGrant(grant) => {
            let (holder, target) = node.security.install(&grant.certificate_pem)?;
            node.log.note(format!("{holder} may use {target}"));
            reply(&GrantInstalled {
                holder: holder.to_string(),
                target: target.to_string(),
            })
        }

        Ask::MovePrepare(prepare) => {
            same_node(from, &prepare.from)?;
            node.move_prepare(prepare).await?;
            reply(&MovePrepared {})
        }
        Ask::MoveChunk(chunk) => {
            node.move_chunk(&from.node, chunk).await?;
            reply(&MoveChunkStored {})
        }
        Ask::MoveChannels(part) => {
            node.move_channels(&from.node, part).await?;
            reply(&MoveChannelsStored {})
        }
        Ask::MoveFinal(last) => reply(&MoveReady {
            digest: write_digest(node.move_final(&from.node, last).await?),
        }),
        Ask::MoveActivate(activate) => reply(&node.move_activate(&from.node, &activate).await?),
        Ask::MoveAbandon(abandon) => {
            node.move_abandon(&from.node, abandon.id);
            reply(&MoveAbandoned {})
        }
        Ask::MoveAsk(ask) => reply(&node.move_standing(&ask)),

        Ask::DirectoryLookup(lookup) => {
            node.decide(Command::Lookup {
                service: lookup.service,
            })
            .await
        }
        Ask::DirectoryRegister(register) => {
            same_node(from, &register.node)?;
            let (service, after) = (register.service, register.after);
            node.decide(Command::Register {
                service,
                node: register.node,
                after,
            })
            .await
        }
        Ask::DirectoryCommit(commit) => {
            same_node(from, &commit.from)?;
            let (id, service, epoch) = (commit.id, commit.service, commit.epoch);
            node.decide(Command::Commit {
                id,
                service,
                from: commit.from,
                to: commit.to,
                epoch,
            })
            .await
        }
        Ask::DirectoryRemove(remove) => {
            same_node(from, &remove.node)?;
            node.decide(Command::Remove {
                service: remove.service,
                node: remove.node,
                epoch: remove.epoch,
            })
            .await
        }
    }
}

/// A daemon speaks for its own node only.
fn same_node(from: &Caller, claimed: &weft_types::NodeName) -> Result<(), Refusal> {
    if from.node == *claimed {
        return Ok(());
    }
    Err(Refusal::new(
        RefusalCode::NotAllowed,
        format!("{} cannot speak for {claimed}", from.node),
    ))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Node {
    /// Has the directory that this node holds decide.
    async fn decide(&self, command: Command) -> Answer {
        if self.config.directory != *self.name() {
            return Err(Refusal::new(
                RefusalCode::WrongContract,
                format!(
                    "{} does not hold the directory, {} does: all nodes have to be started with the same --directory",
                    self.name(),
                    self.config.directory
                ),
            ));
        }
        reply(&write(self.directory.apply(command).await?))
    }

    /// Pings another daemon, kernel to kernel.
    async fn ping(self: &Rc<Self>, peer: &weft_types::NodeName) -> Result<PeerPong, Refusal> {
        let from = self.name().clone();
        if self.is_own(peer) {
            return Ok(PeerPong {
                from,
                node: peer.clone(),
                round_trip_nanos: 0,
            });
        }
        let kernel = self.kernel(peer).await?;
        let asked = Instant::now();
        let ping = Ping {
            sent_nanos: nanos(self.started.elapsed()),
        };
        let (pong, _) = kernel
            .ask::<NodeControl, _>(&ping, &[], PING_TIMEOUT)
            .await?;
        Ok(PeerPong {
            from,
            node: pong.node,
            round_trip_nanos: nanos(asked.elapsed()),
        })
    }

    /// Moves a service from wherever it is: its own node is asked to.
    async fn migrate_anywhere(
        self: &Rc<Self>,
        from: &Caller,
        migrate: Migrate,
    ) -> Result<MigrateReply, Refusal> {
        let Migrate { service, to } = &migrate;
        self.known_node(to)?;
        if self.service(service).is_some() {
            return Ok(MigrateReply {
                report: self.migrate(service, to).await?,
            });
        }
        let (owner, _) = self.locate(service).await?;
        if self.is_own(&owner) || from.name.is_reserved() {
            // It left between two looks, or the one who asked looked too early.
            return Err(Refusal::new(
                RefusalCode::Busy,
                format!("{service} is on its way; try again"),
            ));
        }
        let kernel = self.kernel(&owner).await?;
        Ok(kernel
            .ask::<NodeControl, _>(&migrate, &[], MIGRATE_TIMEOUT)
            .await?
            .0)
    }

    /// Everything that runs here.
    async fn inventory(&self) -> InventoryReply {
        let peers = self.peers().await;
        let domains = self
            .domains
            .borrow()
            .values()
            .map(|domain| DomainReport {
                id: domain.id,
                name: domain.name.clone(),
                pid: domain.pid,
                role: domain.role,
                budget_bytes: self.config.budget_bytes,
                used_bytes: domain.used_bytes.get(),
                debuggable: domain.debuggable,
            })
            .collect();
        let services = self
            .services
            .borrow()
            .values()
            .map(|service| ServiceReport {
                name: service.name.clone(),
                contract: service
                    .description
                    .borrow()
                    .as_ref()
                    .map_or_else(String::new, |description| {
                        format!("{} v{}", description.name, description.version)
                    }),
                epoch: service.epoch.get(),
                state: service.state.get(),
                restarts: service.restarts.get(),
                pid: service.pid(),
                detail: service.detail.borrow().clone(),
            })
            .collect();
        let channels = self
            .channels
            .select(|_| true)
            .iter()
            .map(|channel| ChannelReport {
                channel: channel.id,
                target: channel.target.clone(),
                holder: channel.holder.name.clone(),
                client: channel.client.borrow().party.describe(self),
                server: channel.server.borrow().party.describe(self),
                epoch: channel.epoch.get(),
                path: match (channel.client_is_gateway(), channel.server_is_gateway()) {
                    (true, _) => Path::RemoteIn,
                    (false, true) => Path::RemoteOut,
                    (false, false) => Path::Local,
                },
            })
            .collect();
        InventoryReply {
            node: self.name().clone(),
            cluster: self.cluster().clone(),
            pid: std::process::id(),
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            domains,
            services,
            channels,
            peers,
        }
    }
}
