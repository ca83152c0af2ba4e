//! The gateway's process, one after the other, and what each is given to carry.
//!
//! Where a channel leads is written down in the table of channels, before and whether or not a
//! gateway is there. Each gateway has one task that has it carry what it does not carry yet; what
//! that does not achieve is left to the next.

use std::rc::Rc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt, stream};
use tokio::time::{sleep, timeout};
use weft_node_control::Carry;
use weft_types::{DomainId, Fault, Refusal, RefusalCode};

use crate::channels::Channel;
use crate::domains::Domain;
use crate::node::{NewServer, Node};
use crate::process::Process;

/// How long a gateway that was started may take until it listens.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// The shortest and the longest wait between two attempts to start the gateway. It doubles.
const RESTART_DELAY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));

/// How many channels are given to a new gateway at a time.
const CARRIED_AT_ONCE: usize = 16;

/// Between two attempts to have a gateway carry the channels that it did not take at first.
const CARRY_AGAIN_DELAY: Duration = Duration::from_millis(200);

/// How long a gateway's successor may be without word from the node of a remote client, until the
/// client's channel is closed: as long as a gateway itself waits for a node that stays away.
const UNCLAIMED_FOR: Duration = Duration::from_secs(600);

impl Node {
    /// Starts the gateway, and starts it again whenever it dies.
    ///
    /// # Errors
    ///
    /// If it cannot be started the first time: a port in use, most likely.
    pub(crate) async fn run_gateway(self: &Rc<Self>) -> Result<(), Refusal> {
        let (gateway, mut process) = self.start_gateway().await?;
        self.gateway_runs(gateway);
        let node = Rc::clone(self);
        tokio::task::spawn_local(async move {
            loop {
                let ended = process.ended().await;
                if node.stopping.get() {
                    return;
                }
                node.gateway.send_replace(None);
                node.log
                    .warn(format!("the gateway {ended}; it is started again"));
                let Some((gateway, successor)) = node.start_gateway_again().await else {
                    return;
                };
                process = successor;
                node.gateway_runs(Rc::clone(&gateway));
                // Both end by themselves once this gateway is no more the present one.
                tokio::task::spawn_local(Rc::clone(&node).carry_all());
                tokio::task::spawn_local(Rc::clone(&node).drop_unclaimed(gateway.id));
            }
        });
        Ok(())
    }

    /// Starts the gateway and waits until it listens.
    async fn start_gateway(self: &Rc<Self>) -> Result<(Rc<Domain>, Process), Refusal> {
        // The word of a predecessor that died right after it is not this one's.
        let _ = self.gateway_ready.notified().now_or_never();
        let (gateway, mut process) = self.launch_gateway().await?;
        tokio::select! {
            ready = timeout(READY_TIMEOUT, self.gateway_ready.notified()) => {
                if ready.is_ok() {
                    return Ok((gateway, process));
                }
            }
            ended = process.ended() => {
                return Err(Refusal::new(RefusalCode::Rejected, format!("the gateway {ended}")));
            }
        }
        process.kill().await;
        Err(Refusal::new(
            RefusalCode::DeadlineExceeded,
            format!(
                "the gateway did not listen within {} s",
                READY_TIMEOUT.as_secs()
            ),
        ))
    }

    /// Tries to start the gateway until it runs. Nothing if the node is stopped meanwhile.
    async fn start_gateway_again(self: &Rc<Self>) -> Option<(Rc<Domain>, Process)> {
        let mut delay = RESTART_DELAY.0;
        let mut told = String::new();
        while !self.stopping.get() {
            match self.start_gateway().await {
                Ok(started) => return Some(started),
                Err(refusal) if refusal.text != told => {
                    self.log
                        .warn(format!("the gateway could not be started: {refusal}"));
                    told = refusal.text;
                }
                Err(_) => {}
            }
            sleep(delay).await;
            delay = RESTART_DELAY.1.min(delay * 2);
        }
        None
    }

    fn gateway_runs(&self, gateway: Rc<Domain>) {
        self.channels.gateway_runs(gateway.id);
        self.gateway.send_replace(Some(gateway));
    }

    fn present_gateway(&self) -> Option<DomainId> {
        self.gateway.borrow().as_ref().map(|gateway| gateway.id)
    }

    /// Has the present gateway carry all channels of this node's domains that lead to other nodes and
    /// that it does not carry yet: those of a predecessor, and those of a service that has moved away.
    /// (Those of other nodes' clients are opened again by their own gateways.)
    ///
    /// Ends when it carries them all, or when it is no more: what is left then is its successor's.
    pub(crate) async fn carry_all(self: Rc<Self>) {
        let Some(gateway) = self.gateway.borrow().clone() else {
            return;
        };
        let waiting = || {
            self.channels.select(|channel| {
                channel.server_is_gateway() && channel.upkeep.carrier.get() != Some(gateway.id)
            })
        };
        loop {
            stream::iter(waiting())
                .for_each_concurrent(CARRIED_AT_ONCE, |channel| {
                    let (node, gateway) = (Rc::clone(&self), Rc::clone(&gateway));
                    async move { node.carry_or_close(&channel, &gateway).await }
                })
                .await;
            if self.present_gateway() != Some(gateway.id) || waiting().is_empty() {
                return;
            }
            sleep(CARRY_AGAIN_DELAY).await;
        }
    }

    async fn carry_or_close(&self, channel: &Channel, gateway: &Domain) {
        let Err(refusal) = self.carry_on(channel, gateway).await else {
            return;
        };
        // Out of reach is the gateway, not the service: nothing is wrong with the channel.
        if refusal.code.fault() == Fault::Reach {
            tracing::debug!(channel = %channel.id, %refusal, "not carried yet");
            return;
        }
        self.log.warn(format!(
            "{} to {} cannot be carried: {refusal}",
            channel.id, channel.target
        ));
        self.close_channel(channel.id, refusal).await;
    }

    /// Has a gateway carry a channel whose server's end is the gateway's by our record, and gives its
    /// client the gateway as its peer.
    async fn carry_on(&self, channel: &Channel, gateway: &Domain) -> Result<(), Refusal> {
        let _turn = channel.upkeep.turn.lock().await;
        let (node, epoch) = (channel.node.borrow().clone(), channel.epoch.get());
        let still_wanted = || {
            channel.server_is_gateway()
                && channel.epoch.get() == epoch
                && self.channels.holds(channel)
        };
        if !still_wanted() || channel.upkeep.carrier.get() == Some(gateway.id) {
            return Ok(());
        }
        let carry = Carry {
            channel: channel.id,
            target: channel.target.clone(),
            holder: channel.holder.name.clone(),
            node: node.clone(),
            epoch,
            table: channel.table.clone(),
            resume: Some(channel.carry_resume()?),
        };
        let line = &gateway.dispatcher;
        let mut carried = self
            .carry_by(line, carry.clone(), channel.client_half()?)
            .await;
        if matches!(&carried, Err(refusal) if refusal.code == RefusalCode::AlreadyThere) {
            // It was asked before, and its answer came too late to be heard: its half is lost, and
            // the client has never seen it.
            self.drop_carried(channel.id, None).await;
            carried = self.carry_by(line, carry, channel.client_half()?).await;
        }
        let NewServer { party, half, side } = carried?;
        if !still_wanted() {
            // The service is back on this node, or the client is gone.
            self.drop_carried(channel.id, None).await;
            return Ok(());
        }
        channel.upkeep.carrier.set(Some(gateway.id));
        self.replace_server(channel, party, half, side, node, epoch)
            .await
    }

    /// Closes the channels of remote clients whose nodes have not come back to this gateway.
    async fn drop_unclaimed(self: Rc<Self>, gateway: DomainId) {
        sleep(UNCLAIMED_FOR).await;
        if self.present_gateway() != Some(gateway) {
            return;
        }
        for channel in self.channels.unclaimed(gateway) {
            self.log.warn(format!(
                "{} of {} is closed: node {} has stayed away",
                channel.id, channel.holder.name, channel.holder.node
            ));
            self.channels.remove(channel.id);
            self.tell_server_closed(&channel).await;
        }
    }
}
