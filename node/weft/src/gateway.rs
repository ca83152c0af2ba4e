//! The gateway's process: `weft-gateway` on one side, the node daemon on the other.
//!
//! The gateway asks its node through the trait [`Home`], whose futures may run on any thread; the
//! line to the daemon belongs to one. So what is to be asked is sent, as a piece of work, to the one
//! task that has the line.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, LocalBoxFuture};
use futures_util::{FutureExt, TryFutureExt};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;
use weft::{Contract, Domain, Request};
use weft_capability::{NodeIdentity, Presented};
use weft_cli::CliError;
use weft_daemon::line::{Answer, Line, reply, reply_with};
use weft_gateway::{Carry, CarryResume, Config, GatewayHandle, Home, InboundOpen, InboundOpened};
use weft_local_ipc::{Start, Watcher};
use weft_node_control::{
    Caller, Carried, ChannelLost, Dropped, Gateway, GatewayHome, GatewayReady, GatewayRequest,
    InboundClosed, InboundStart, LocalSwapped, Locate, MoveNoted, NameTaken, OpenInbound, PeerList,
    PeerReport, Prove, Resolve, StartAt,
};
use weft_types::{ChannelId, Epoch, NodeName, Refusal, RefusalCode, ServiceName};

/// How long the daemon may take for an answer. Attaching a client starts no process.
const HOME_TIMEOUT: Duration = Duration::from_secs(10);

/// How often to look whether the daemon still lives.
const LOOK_AROUND: Duration = Duration::from_millis(50);

/// Runs the gateway until its node ends it.
///
/// # Errors
///
/// A port in use, a certificate that does not serve, a node that is gone.
pub(crate) async fn run(identity: NodeIdentity, listen: SocketAddr) -> Result<(), CliError> {
    LocalSet::new().run_until(serve(identity, listen)).await
}

async fn serve(identity: NodeIdentity, listen: SocketAddr) -> Result<(), CliError> {
    let domain = Domain::inherited().map_err(|error| CliError::Refused(error.into()))?;
    let control = domain
        .take_control()
        .ok_or_else(|| CliError::internal("gateway", "its channel to the node is taken"))?;
    let watcher =
        Watcher::start("weft-home").map_err(|error| CliError::internal("watcher thread", error))?;
    let (asks, mut asked) = mpsc::unbounded_channel();
    let home = Arc::new(NodeHome {
        domain: domain.clone(),
        asks,
    });
    let (handle, running) = weft_gateway::run(Config::new(identity, listen), home)
        .await
        .map_err(|error| CliError::internal("gateway", error))?;
    let address = running.local_address().to_string();
    let to_stop = handle.clone();
    let line = Line::open_wide(control, &Rc::new(watcher), move |line, request| {
        obey(&handle, &line, request)
    });
    let to_node = line.clone();
    tokio::task::spawn_local(async move {
        while let Some(ask) = asked.recv().await {
            let work: Ask = ask;
            tokio::task::spawn_local(work(to_node.clone()));
        }
    });
    line.ask::<GatewayHome, _>(&GatewayReady { address }, &[], HOME_TIMEOUT)
        .await?;
    let mut term =
        signal(SignalKind::terminate()).map_err(|error| CliError::internal("SIGTERM", error))?;
    tokio::select! {
        () = running => {}
        () = node_ends(&domain) => {}
        // The node ends in order: the other nodes hear so at once, and not by our silence.
        _ = term.recv() => to_stop.stop().await,
    }
    Ok(())
}

async fn node_ends(domain: &Domain) {
    while !domain.node_is_gone() {
        tokio::time::sleep(LOOK_AROUND).await;
    }
}

/// Does what the daemon asks of its gateway.
fn obey(handle: &GatewayHandle, line: &Line, mut request: Request) {
    let descriptors = std::mem::take(&mut request.descriptors);
    match Gateway::decode(request.index, &request.body) {
        Ok(message) => line.answer_with(request, act(handle.clone(), message, descriptors)),
        Err(error) => line.answer(&request, Err(weft::Error::from(error).into())),
    }
}

async fn act(handle: GatewayHandle, message: GatewayRequest, descriptors: Vec<OwnedFd>) -> Answer {
    match message {
        GatewayRequest::Carry(carry) => {
            let [client_half, side] = two(descriptors)?;
            let carried = handle
                .carry(Carry {
                    channel: carry.channel,
                    target: carry.target,
                    holder: carry.holder,
                    node: carry.node,
                    epoch: carry.epoch,
                    table: carry.table,
                    client_half,
                    side,
                    resume: carry.resume.map(|resume| CarryResume {
                        outgoing: resume.outgoing,
                        incoming: resume.incoming,
                    }),
                })
                .await?;
            reply_with(
                &Carried {
                    epoch: carried.epoch,
                },
                vec![carried.own_half],
            )
        }
        GatewayRequest::Drop(dropped) => {
            handle.drop_channel(dropped.channel, dropped.refusal).await;
            reply(&Dropped {})
        }
        GatewayRequest::SwapLocal(swap) => {
            let [half, side] = two(descriptors)?;
            handle.swap_local(swap.channel, half, side).await?;
            reply(&LocalSwapped {})
        }
        GatewayRequest::ServiceMoved(moved) => {
            handle
                .service_moved(&moved.service, &moved.node, moved.epoch)
                .await;
            reply(&MoveNoted {})
        }
        GatewayRequest::Peers(_) => {
            let peers = handle
                .peers()
                .into_iter()
                .map(|peer| PeerReport {
                    node: peer.node,
                    address: peer
                        .address
                        .map(|address| address.to_string())
                        .unwrap_or_default(),
                    connected: peer.connected,
                    channels: peer.channels,
                })
                .collect();
            reply(&PeerList { peers })
        }
    }
}

fn two(descriptors: Vec<OwnedFd>) -> Result<[OwnedFd; 2], Refusal> {
    descriptors.try_into().map_err(|_| {
        Refusal::new(
            RefusalCode::PeerFault,
            "a half and a side socket come with this message",
        )
    })
}

/// Work for the task that has the line to the daemon.
type Ask = Box<dyn FnOnce(Line) -> LocalBoxFuture<'static, ()> + Send>;

/// The node, as its gateway sees it.
struct NodeHome {
    domain: Domain,
    asks: mpsc::UnboundedSender<Ask>,
}

impl NodeHome {
    /// Has `work` done with the line to the daemon.
    fn ask<T, F>(
        &self,
        work: impl FnOnce(Line) -> F + Send + 'static,
    ) -> BoxFuture<'static, Result<T, Refusal>>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Refusal>> + 'static,
    {
        let (answered, answer) = oneshot::channel();
        let ask: Ask = Box::new(move |line| {
            work(line)
                .map(|outcome| {
                    // Whoever asked may have given up.
                    let _ = answered.send(outcome);
                })
                .boxed_local()
        });
        let sent = self.asks.send(ask).is_ok();
        let gone = || Refusal::new(RefusalCode::ShuttingDown, "the node is going down");
        async move {
            if !sent {
                return Err(gone());
            }
            answer.await.unwrap_or_else(|_| Err(gone()))
        }
        .boxed()
    }
}

impl Home for NodeHome {
    fn locate(
        &self,
        service: &ServiceName,
    ) -> BoxFuture<'static, Result<(NodeName, Epoch), Refusal>> {
        let locate = Locate {
            service: service.clone(),
        };
        self.ask(move |line| async move {
            let (located, _) = line
                .ask::<GatewayHome, _>(&locate, &[], HOME_TIMEOUT)
                .await?;
            Ok((located.node, located.epoch))
        })
    }

    fn address(&self, node: &NodeName) -> BoxFuture<'static, Result<Vec<SocketAddr>, Refusal>> {
        let resolve = Resolve { node: node.clone() };
        self.ask(move |line| async move {
            let (resolved, _) = line
                .ask::<GatewayHome, _>(&resolve, &[], HOME_TIMEOUT)
                .await?;
            Ok(resolved
                .addresses
                .iter()
                .filter_map(|address| address.parse().ok())
                .collect())
        })
    }

    fn prove(
        &self,
        channel: ChannelId,
        target: &ServiceName,
        exporter: Vec<u8>,
    ) -> BoxFuture<'static, Result<Presented, Refusal>> {
        let (domain, prove) = (
            self.domain.clone(),
            Prove {
                channel,
                target: target.clone(),
                exporter,
            },
        );
        // The security service has a channel of its own, which is waited on in a thread.
        tokio::task::spawn_blocking(move || {
            let proof = domain.ask_security(&prove).map_err(Refusal::from)?;
            Presented::from_parts(
                proof.capability_chain,
                proof.identity_chain,
                proof.signature,
            )
            .map_err(|why| Refusal::new(RefusalCode::Internal, why))
        })
        .unwrap_or_else(|error| Err(Refusal::new(RefusalCode::Internal, error.to_string())))
        .boxed()
    }

    fn inbound_start(
        &self,
        channel: ChannelId,
        caller: &ServiceName,
        from: &NodeName,
        target: &ServiceName,
        epoch: Epoch,
    ) -> BoxFuture<'static, Result<Option<Start>, Refusal>> {
        let ask = InboundStart {
            channel,
            caller: Caller {
                name: caller.clone(),
                node: from.clone(),
            },
            target: target.clone(),
            epoch,
        };
        self.ask(move |line| async move {
            let (started, _) = line.ask::<GatewayHome, _>(&ask, &[], HOME_TIMEOUT).await?;
            Ok(started.start.map(|start| Start {
                outgoing: start.outgoing,
                incoming: start.incoming,
            }))
        })
    }

    fn open_inbound(
        &self,
        request: InboundOpen,
    ) -> BoxFuture<'static, Result<InboundOpened, Refusal>> {
        let InboundOpen {
            channel,
            caller,
            node,
            grant,
            target,
            epoch,
            table,
            own_half,
            resume,
        } = request;
        let open = OpenInbound {
            channel,
            caller: Caller { name: caller, node },
            target,
            epoch,
            table,
            ceiling: grant.lane_ceiling,
            resume: resume.map(|start| StartAt {
                outgoing: start.outgoing,
                incoming: start.incoming,
            }),
        };
        self.ask(move |line| async move {
            let (opened, descriptors) = line
                .ask::<GatewayHome, _>(&open, &[own_half], HOME_TIMEOUT)
                .await?;
            let [peer_half, side] = two(descriptors)?;
            Ok(InboundOpened {
                peer_half,
                side,
                epoch: opened.epoch,
            })
        })
    }

    fn inbound_closed(&self, channel: ChannelId) {
        tell(self.ask(move |line| async move {
            line.ask::<GatewayHome, _>(&InboundClosed { channel }, &[], HOME_TIMEOUT)
                .await
        }));
    }

    fn channel_lost(&self, channel: ChannelId, refusal: Refusal) {
        tell(self.ask(move |line| async move {
            line.ask::<GatewayHome, _>(&ChannelLost { channel, refusal }, &[], HOME_TIMEOUT)
                .await
        }));
    }

    fn name_taken(&self, peer: NodeName, text: String) {
        tell(self.ask(move |line| async move {
            line.ask::<GatewayHome, _>(&NameTaken { peer, text }, &[], HOME_TIMEOUT)
                .await
        }));
    }
}

/// Sees that something is said, without waiting for it.
fn tell<T: Send + 'static>(said: BoxFuture<'static, Result<T, Refusal>>) {
    tokio::spawn(said.map(|outcome| {
        if let Err(refusal) = outcome {
            tracing::debug!(%refusal, "the node was not told");
        }
    }));
}
