//! A node daemon reduced to what the gateway asks of it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use weft_authority::NodeIssuer;
use weft_capability::{Chain, InstanceIssuer, Presented};
use weft_gateway::{Home, InboundOpen, InboundOpened};
use weft_local_ipc::Start;
use weft_types::{ChannelId, Epoch, NodeName, Refusal, RefusalCode, ServiceName};

use super::{TestService, World};

pub(crate) struct TestHome {
    name: NodeName,
    pub(crate) world: Arc<World>,
    issuer: NodeIssuer,
    pub(crate) services: Mutex<HashMap<ServiceName, Arc<TestService>>>,
    /// Who holds each outbound channel, and by which right.
    pub(crate) holders: Mutex<HashMap<ChannelId, (ServiceName, Chain)>>,
    pub(crate) lost: Mutex<Vec<(ChannelId, Refusal)>>,
    pub(crate) closed: Mutex<Vec<ChannelId>>,
    /// Who has refused us for another node of our name, and what our gateway says of it.
    pub(crate) name_taken: Mutex<Vec<(NodeName, String)>>,
}

impl TestHome {
    pub(crate) fn new(name: NodeName, world: Arc<World>, issuer: NodeIssuer) -> Self {
        Self {
            name,
            world,
            issuer,
            services: Mutex::default(),
            holders: Mutex::default(),
            lost: Mutex::default(),
            closed: Mutex::default(),
            name_taken: Mutex::default(),
        }
    }

    fn service(&self, target: &ServiceName, epoch: Epoch) -> Result<Arc<TestService>, Refusal> {
        let (owner, current) = self
            .world
            .directory
            .lock()
            .unwrap()
            .get(target)
            .cloned()
            .ok_or_else(|| Refusal::new(RefusalCode::UnknownService, format!("no {target}")))?;
        if owner != self.name || current != epoch {
            return Err(Refusal::new(
                RefusalCode::Moved,
                format!("{target} is on {owner}"),
            ));
        }
        let services = self.services.lock().unwrap();
        let service = services
            .get(target)
            .filter(|service| service.epoch == epoch);
        service
            .cloned()
            .ok_or_else(|| Refusal::new(RefusalCode::Busy, format!("{target} is being activated")))
    }
}

/// The answer at once, as a future.
fn now<T: Send + 'static>(value: T) -> BoxFuture<'static, T> {
    std::future::ready(value).boxed()
}

impl Home for TestHome {
    fn locate(
        &self,
        service: &ServiceName,
    ) -> BoxFuture<'static, Result<(NodeName, Epoch), Refusal>> {
        let found = self.world.directory.lock().unwrap().get(service).cloned();
        now(found.ok_or_else(|| Refusal::new(RefusalCode::UnknownService, format!("no {service}"))))
    }

    fn address(&self, node: &NodeName) -> BoxFuture<'static, Result<Vec<SocketAddr>, Refusal>> {
        let found = self.world.addresses.lock().unwrap().get(node).copied();
        now(found
            .map(|address| vec![address])
            .ok_or_else(|| Refusal::new(RefusalCode::UnknownNode, format!("no node {node}"))))
    }

    fn prove(
        &self,
        channel: ChannelId,
        _target: &ServiceName,
        exporter: Vec<u8>,
    ) -> BoxFuture<'static, Result<Presented, Refusal>> {
        let (holder, chain) = self.holders.lock().unwrap()[&channel].clone();
        let key = self
            .issuer
            .issue(&holder, Epoch::FIRST, SystemTime::now())
            .unwrap();
        now(Ok(Presented::new(chain, &*key, channel, &exporter).unwrap()))
    }

    fn inbound_start(
        &self,
        channel: ChannelId,
        _caller: &ServiceName,
        _from: &NodeName,
        target: &ServiceName,
        epoch: Epoch,
    ) -> BoxFuture<'static, Result<Option<Start>, Refusal>> {
        now(self
            .service(target, epoch)
            .map(|service| service.start_of(channel)))
    }

    fn open_inbound(
        &self,
        request: InboundOpen,
    ) -> BoxFuture<'static, Result<InboundOpened, Refusal>> {
        now(self
            .service(&request.target, request.epoch)
            .map(|service| service.attach(request.channel, request.own_half, request.epoch)))
    }

    fn inbound_closed(&self, channel: ChannelId) {
        self.closed.lock().unwrap().push(channel);
    }

    fn channel_lost(&self, channel: ChannelId, refusal: Refusal) {
        self.lost.lock().unwrap().push((channel, refusal));
    }

    fn name_taken(&self, peer: NodeName, text: String) {
        self.name_taken.lock().unwrap().push((peer, text));
    }
}
