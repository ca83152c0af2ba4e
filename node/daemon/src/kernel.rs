//! From daemon to daemon: kernel-to-kernel messages.
//!
//! A daemon reaches another as any client reaches any service: it opens a channel to `node/<name>`,
//! with its own capability, through its own gateway. Nothing here is privileged.

use std::cell::RefCell;
use std::rc::Rc;

use tokio::sync::Mutex;
use weft::Contract;
use weft_local_ipc::{Geometry, OwnHalf, PeerHalf, SideSocket, Start};
use weft_node_control::{Caller, NodeControl};
use weft_types::{ChannelId, Epoch, Lane, NodeName, Refusal, RefusalCode, ServiceName};

use crate::channels::{Channel, End, Party, Upkeep, duplicate};
use crate::line::Line;
use crate::node::{NewServer, Node};

impl Node {
    /// The line to the daemon of `peer`, opened when it is first needed and again when it was lost.
    ///
    /// # Errors
    ///
    /// `UnknownNode`; `Unreachable`; what the other node refuses.
    pub(crate) async fn kernel(self: &Rc<Self>, peer: &NodeName) -> Result<Line, Refusal> {
        self.known_node(peer)?;
        if self.is_own(peer) {
            return Err(Refusal::new(
                RefusalCode::Internal,
                format!("{peer} does not send messages to itself"),
            ));
        }
        let place = Rc::clone(
            self.kernels
                .borrow_mut()
                .entry(peer.clone())
                .or_insert_with(|| Rc::new(Mutex::new(None))),
        );
        let mut line = place.lock().await;
        if let Some(open) = line.as_ref().filter(|line| !line.is_closed()) {
            return Ok(open.clone());
        }
        let opened = self.open_kernel(peer).await?;
        *line = Some(opened.clone());
        Ok(opened)
    }

    async fn open_kernel(self: &Rc<Self>, peer: &NodeName) -> Result<Line, Refusal> {
        let failed =
            |error: &dyn std::fmt::Display| Refusal::new(RefusalCode::Internal, error.to_string());
        let id = ChannelId::random();
        let target = ServiceName::of_node(peer);
        let caller = Caller {
            name: ServiceName::of_node(self.name()),
            node: self.name().clone(),
        };
        let table = NodeControl::table();
        self.security.admit(&caller.name, &target, &table)?;
        let own =
            OwnHalf::create(Geometry::DEFAULT, Start::default()).map_err(|error| failed(&error))?;
        let half = own.share().map_err(|error| failed(&error))?;
        let NewServer {
            party,
            half: peer_half,
            side,
        } = self
            .carry(
                id,
                &target,
                &caller,
                peer,
                Epoch::FIRST,
                &table,
                duplicate(&half)?,
            )
            .await?;
        let side = SideSocket::from(side);
        let opened = PeerHalf::open(duplicate(&peer_half)?).map_err(|error| failed(&error))?;
        let link = weft::Link::new(own, opened, side)?;
        let line = Line::open(link, &self.watcher, |line, request| {
            // A kernel asks on its own channel, not on ours.
            line.answer(
                &request,
                Err(Refusal::new(
                    RefusalCode::UnknownMessage,
                    "nothing is served on this channel",
                )),
            );
        });
        self.channels.insert(Channel {
            id,
            target,
            holder: caller,
            table,
            ceiling: Lane::URGENT,
            epoch: Epoch::FIRST.into(),
            node: peer.clone().into(),
            client: End {
                party: Party::Node(line.clone()),
                half,
            }
            .into(),
            former: RefCell::default(),
            server: End {
                party,
                half: peer_half,
            }
            .into(),
            upkeep: Upkeep::default(),
        });
        Ok(line)
    }
}
