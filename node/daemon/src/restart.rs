//! A service that has died: starts it again, and gives the successor what the node still knows.
//!
//! That is the descriptors of its clients' halves and of its own. What the dead one had taken and
//! not finished is answered `OutcomeUnknown`; everything behind it is handled by the successor. (Its
//! state is gone, if it did not move: services of this version are volatile.)

use std::rc::Rc;
use std::time::Duration;

use tokio::time::sleep;
use weft_contract::ContractDescription;
use weft_node_control::{
    AttachClient, ChannelState, Domain as DomainContract, LoadChannels, ServiceState, SwapPeer,
};
use weft_types::{DomainId, Epoch, Refusal, RefusalCode};

use crate::channels::{ATTACH_TIMEOUT, Channel, Party, side_pair};
use crate::node::Node;
use crate::supervisor::{CRASH_WINDOW, Launched, MAX_CRASHES, Service, begin};

impl Node {
    /// Starts a service again whose process was `dead`, and gives it the channels of the dead one.
    pub(crate) async fn restart(self: &Rc<Self>, service: &Rc<Service>, dead: DomainId) {
        service.state.set(ServiceState::Starting);
        let _gate = service.gate.write().await;
        loop {
            if !service.may_restart() {
                let last = service.detail.borrow().clone();
                let why = format!(
                    "died {} times within {} s{}; start it again with `weft run {}` when it is mended",
                    MAX_CRASHES + 1,
                    CRASH_WINDOW.as_secs(),
                    if last.is_empty() {
                        last
                    } else {
                        format!(" (the last time: {last})")
                    },
                    service.name
                );
                self.log.warn(format!("service {} {why}", service.name));
                service.fail(why);
                self.close_served(dead, service).await;
                return;
            }
            service.restarts.set(service.restarts.get() + 1);
            match self.relaunch(service).await {
                Ok(launched) => {
                    if let Err(refusal) = self.take_over(service, &launched, dead).await {
                        self.log
                            .warn(format!("service {}: {refusal}", service.name));
                        self.stop_instance(&launched.instance).await;
                        continue;
                    }
                    self.log.note(format!(
                        "service {} runs again, pid {}",
                        service.name, launched.instance.pid
                    ));
                    return;
                }
                Err(refusal) => {
                    self.log.warn(format!(
                        "service {} could not be started again: {refusal}",
                        service.name
                    ));
                    *service.detail.borrow_mut() = refusal.text;
                    sleep(Duration::from_millis(200)).await;
                }
            }
            if self.stopping.get() {
                return;
            }
        }
    }

    /// Launches the program of a service anew, and makes sure that it is no older one: somebody may
    /// have replaced it.
    async fn relaunch(self: &Rc<Self>, service: &Service) -> Result<Launched, Refusal> {
        let launched = self.launch(&service.name, &service.program).await?;
        let former = service
            .description
            .borrow()
            .as_ref()
            .map(ContractDescription::table);
        if let Some(former) = former
            && let Err(refusal) = launched.check_follows(&former)
        {
            self.stop_instance(&launched.instance).await;
            return Err(refusal);
        }
        Ok(launched)
    }

    /// Gives the channels of a dead instance to its successor.
    async fn take_over(
        self: &Rc<Self>,
        service: &Rc<Service>,
        launched: &Launched,
        dead: DomainId,
    ) -> Result<(), Refusal> {
        let successor = launched.instance.domain;
        for channel in self.channels.select(|channel| channel.server_is(dead)) {
            if let Err(refusal) = self.inherit(&channel, successor, service.epoch.get()).await {
                // One client that is dying, or has broken the rules, stops none of the others.
                tracing::warn!(channel = %channel.id, %refusal, "a channel did not outlive its service");
                self.close_channel(channel.id, refusal).await;
            }
        }
        // What came with a move and was not attached before the death is still to come.
        let line = self.domain_line(successor)?;
        for piece in service
            .all_arrived()
            .into_iter()
            .flat_map(ChannelState::into_pieces)
        {
            let load = LoadChannels {
                channels: vec![piece],
            };
            line.ask::<DomainContract, _>(&load, &[], ATTACH_TIMEOUT)
                .await?;
        }
        service.run_by(launched);
        self.activate(successor, service.epoch.get()).await?;
        service.state.set(ServiceState::Active);
        service.detail.borrow_mut().clear();
        Ok(())
    }

    /// Gives one channel of a dead instance to its successor.
    async fn inherit(
        self: &Rc<Self>,
        channel: &Rc<Channel>,
        successor: DomainId,
        epoch: Epoch,
    ) -> Result<(), Refusal> {
        let line = self.domain_line(successor)?;
        for piece in channel.replies_of_the_dead()?.into_pieces() {
            let load = LoadChannels {
                channels: vec![piece],
            };
            line.ask::<DomainContract, _>(&load, &[], ATTACH_TIMEOUT)
                .await?;
        }
        let attach = AttachClient {
            channel: channel.id,
            caller: channel.caller(),
            table: channel.table.clone(),
            epoch,
            resume: Some(channel.restart_resume()?),
            ceiling: channel.ceiling,
        };
        let mut halves = channel.halves_to_read()?.into_iter();
        let first = halves
            .next()
            .ok_or_else(|| Refusal::new(RefusalCode::Internal, "a channel without a client"))?;
        let (half, mut side) = self.attach_to_service(successor, attach, first).await?;
        for next in halves {
            // The dead one had not read its client's former gateway to the end: this one does.
            let (near, far) = side_pair()?;
            let swap = SwapPeer {
                channel: channel.id,
                epoch,
                node: channel.holder.node.clone(),
            };
            line.ask::<DomainContract, _>(&swap, &[next, near], ATTACH_TIMEOUT)
                .await?;
            side = far;
        }
        // The end is replaced now; that the client has heard it is not waited for: one that is
        // stopped delays nobody.
        let (node, told) = (Rc::clone(self), Rc::clone(channel));
        begin(async move {
            let (party, here) = (Party::Domain(successor), node.name().clone());
            if let Err(refusal) = node
                .replace_server(&told, party, half, side, here, epoch)
                .await
            {
                tracing::debug!(channel = %told.id, %refusal, "a client has not answered a restart");
            }
        });
        Ok(())
    }

    /// Closes every channel that a dead instance served: nobody follows it.
    async fn close_served(&self, dead: DomainId, service: &Service) {
        let Some(refusal) = service.failure(self.name()) else {
            return;
        };
        for channel in self.channels.select(|channel| channel.server_is(dead)) {
            self.channels.remove(channel.id);
            self.tell_client_closed(&channel, refusal.clone()).await;
        }
    }
}
