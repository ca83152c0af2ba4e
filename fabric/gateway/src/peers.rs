//! The connections to other nodes: one for each pair of nodes.
//!
//! Both sides may dial at once, so a connection that has said hello is only a candidate: of two
//! between the same two processes the one stays that the node with the smaller name dialled. Both
//! sides decide so by themselves and come to the same. A process that was restarted says another
//! incarnation, and replaces whatever there was to its predecessor, unless that one shows that it
//! lives: then they are two nodes with one name (see [`crate::namesake`]).

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use futures_util::future::BoxFuture;
use quinn::{Connection, Endpoint};
use tokio::sync::mpsc;
use weft_capability::{NodeIdentity, tls};
use weft_types::{NodeName, Refusal, RefusalCode};

use crate::backoff::Backoff;
use crate::home::{Home, PeerStatus};
use crate::link::{CloseCode, HANDSHAKE_WITHIN, Link, LinkError, LinkStreams, is_duplicate};
use crate::namesake::{self, NameTaken};

/// The shortest and the longest wait between two dials of one node that does not answer.
const DIAL_AGAIN: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// How long the connection that the peer says it prefers may take to appear here, and how often it
/// is looked for.
const OTHER_WITHIN: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// The connections, and who is being dialled.
pub(crate) struct Peers {
    links: DashMap<NodeName, Arc<Link>>,
    dialling: DashMap<NodeName, Arc<Dialling>>,
    /// Where refusals go that say that our name is taken.
    refusals: mpsc::Sender<NameTaken>,
}

/// Lets one task at a time dial a node.
struct Dialling {
    turn: tokio::sync::Mutex<Pace>,
    address: Mutex<Option<SocketAddr>>,
}

struct Pace {
    backoff: Backoff,
    not_before: Instant,
}

/// A new connection, with the streams that its tasks need.
pub(crate) struct Fresh {
    pub(crate) link: Arc<Link>,
    pub(crate) streams: LinkStreams,
}

/// What becomes of a connection that has said hello.
enum Registered {
    /// It is the one to its node.
    Stays,
    /// It was closed: another one stays.
    Goes,
    /// Another process of the same name is, or was, connected.
    Elder(Arc<Link>),
}

impl Peers {
    /// An empty table, and where it reports that our name is taken.
    pub(crate) fn new() -> (Self, mpsc::Receiver<NameTaken>) {
        // One is looked into at a time, and what is true is said again.
        let (refusals, refused) = mpsc::channel(1);
        let peers = Self {
            links: DashMap::new(),
            dialling: DashMap::new(),
            refusals,
        };
        (peers, refused)
    }

    /// The live connection to a node, if there is one.
    pub(crate) fn get(&self, node: &NodeName) -> Option<Arc<Link>> {
        self.links
            .get(node)
            .filter(|link| !link.is_closed())
            .map(|link| Arc::clone(&link))
    }

    /// The live connection to a node; dials it if there is none. `start` gets a connection that
    /// was made on the way.
    pub(crate) async fn link(
        &self,
        node: &NodeName,
        endpoint: &Endpoint,
        identity: &NodeIdentity,
        incarnation: u64,
        home: &dyn Home,
        start: impl Fn(Fresh) -> BoxFuture<'static, ()>,
    ) -> Result<Arc<Link>, Refusal> {
        if let Some(link) = self.get(node) {
            return Ok(link);
        }
        let dialling = Arc::clone(&self.dialling.entry(node.clone()).or_insert_with(|| {
            let (first, most) = DIAL_AGAIN;
            let pace = Pace {
                backoff: Backoff::new(first, most),
                not_before: Instant::now(),
            };
            Arc::new(Dialling {
                turn: tokio::sync::Mutex::new(pace),
                address: Mutex::default(),
            })
        }));
        let mut pace = dialling.turn.lock().await;
        // Whoever had the turn before may have succeeded, or the node has dialled us.
        if let Some(link) = self.get(node) {
            return Ok(link);
        }
        tokio::time::sleep_until(pace.not_before.into()).await;
        if let Some(link) = self.get(node) {
            return Ok(link);
        }
        let tried = &dialling.address;
        let dialled = self.dial(node, endpoint, identity, incarnation, home, tried);
        match dialled.await {
            Ok(fresh) => {
                pace.backoff.reset();
                let ours = fresh.link.connection.clone();
                start(fresh).await;
                self.winner(node, &ours)
                    .await
                    .ok_or_else(|| unreachable_node(node, "the connection ended at once"))
            }
            Err(NoLink { refusal, ours }) => {
                let winner = match ours {
                    Some(ours) => self.winner(node, &ours).await,
                    // It may have dialled us while it did not answer.
                    None => self.get(node),
                };
                winner.ok_or_else(|| {
                    pace.not_before = Instant::now() + pace.backoff.wait();
                    refusal
                })
            }
        }
    }

    /// Dials a node, at all of its addresses one after the other.
    async fn dial(
        &self,
        node: &NodeName,
        endpoint: &Endpoint,
        identity: &NodeIdentity,
        incarnation: u64,
        home: &dyn Home,
        tried: &Mutex<Option<SocketAddr>>,
    ) -> Result<Fresh, NoLink> {
        let mut ours = None;
        let addresses = home.address(node).await.map_err(|refusal| NoLink {
            refusal,
            ours: None,
        })?;
        let name = tls::server_name(identity.bundle(), node)
            .to_str()
            .into_owned();
        let mut why = "it has no address".to_owned();
        for address in addresses {
            *tried.lock().unwrap_or_else(PoisonError::into_inner) = Some(address);
            let connecting = match endpoint.connect(address, &name) {
                Ok(connecting) => connecting,
                Err(error) => {
                    why = format!("{address}: {error}");
                    continue;
                }
            };
            let connection = match tokio::time::timeout(HANDSHAKE_WITHIN, connecting).await {
                Ok(Ok(connection)) => connection,
                Ok(Err(error)) => {
                    why = format!("{address}: {error}");
                    continue;
                }
                Err(_) => {
                    why = format!("{address} does not answer");
                    continue;
                }
            };
            ours = Some(connection.clone());
            match Link::greet(connection, identity, incarnation, Some(node)).await {
                Ok((link, streams)) => return Ok(Fresh { link, streams }),
                Err(error) => {
                    why = format!("{address}: {error}");
                    if let LinkError::NameTaken(taken) = error {
                        self.name_refused(taken);
                    }
                }
            }
        }
        Err(NoLink {
            refusal: unreachable_node(node, &why),
            ours,
        })
    }

    /// The connection that stays after we have dialled: ours, or the one that the peer has dialled
    /// at the same moment, which may still be saying hello.
    async fn winner(&self, node: &NodeName, ours: &Connection) -> Option<Arc<Link>> {
        let deadline = Instant::now() + OTHER_WITHIN;
        loop {
            if let Some(link) = self.get(node) {
                return Some(link);
            }
            let lost_to_another = ours.close_reason().as_ref().is_some_and(is_duplicate);
            if !lost_to_another || Instant::now() >= deadline {
                return None;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Takes a new connection in; `false` if another one to the same node stays instead, or if
    /// another process of its name is alive.
    pub(crate) async fn admit(&self, own: &NodeName, link: &Arc<Link>) -> bool {
        // Each turn but the last ends a connection.
        loop {
            let elder = match self.register(own, link) {
                Registered::Stays => return true,
                Registered::Goes => return false,
                Registered::Elder(elder) => elder,
            };
            if namesake::is_alive(&elder.connection).await {
                tracing::warn!(node = %link.node, address = %link.address,
                    connected = %elder.address, "refuses a second node of one name");
                link.close(CloseCode::NameTaken, &elder.address.to_string());
                return false;
            }
            elder.close(CloseCode::Restarted, "another connection takes its place");
        }
    }

    fn register(&self, own: &NodeName, link: &Arc<Link>) -> Registered {
        let mut replaced = None;
        let stays = match self.links.entry(link.node.clone()) {
            dashmap::Entry::Vacant(entry) => {
                entry.insert(Arc::clone(link));
                true
            }
            dashmap::Entry::Occupied(mut entry) => {
                let old = entry.get();
                if !old.is_closed() && old.incarnation != link.incarnation {
                    return Registered::Elder(Arc::clone(old));
                }
                let stays = replaces(own, link, old);
                if stays {
                    replaced = Some(entry.insert(Arc::clone(link)));
                }
                stays
            }
        };
        if let Some(old) = replaced {
            old.close(CloseCode::Duplicate, "another connection takes its place");
        }
        if !stays {
            link.close(
                CloseCode::Duplicate,
                "both sides have dialled; the other one stays",
            );
            return Registered::Goes;
        }
        Registered::Stays
    }

    /// A peer has refused us because of another node of our name.
    pub(crate) fn name_refused(&self, taken: NameTaken) {
        // A full queue: it is being looked into.
        let _ = self.refusals.try_send(taken);
    }

    /// The connection has ended.
    pub(crate) fn remove(&self, link: &Link) {
        self.links
            .remove_if(&link.node, |_, current| current.id == link.id);
    }

    pub(crate) fn statuses(&self) -> Vec<PeerStatus> {
        let mut statuses: Vec<_> = self
            .links
            .iter()
            .map(|link| PeerStatus {
                node: link.node.clone(),
                address: Some(link.address),
                connected: !link.is_closed(),
                channels: link.channels(),
            })
            .collect();
        for dialled in &self.dialling {
            if !statuses.iter().any(|status| status.node == *dialled.key()) {
                statuses.push(PeerStatus {
                    node: dialled.key().clone(),
                    address: *dialled
                        .address
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner),
                    connected: false,
                    channels: 0,
                });
            }
        }
        statuses.sort_by(|one, other| one.node.cmp(&other.node));
        statuses
    }

    pub(crate) fn close_all(&self, code: CloseCode, why: &str) {
        for link in &self.links {
            link.close(code, why);
        }
    }
}

/// Whether the new connection takes the place of the old one to the same process.
fn replaces(own: &NodeName, new: &Link, old: &Link) -> bool {
    // Who has dialled twice has lost the old one already.
    if old.is_closed() || new.dialled == old.dialled {
        return true;
    }
    let ours_stays = *own < new.node;
    new.dialled == ours_stays
}

/// A dial that came to nothing.
struct NoLink {
    refusal: Refusal,
    /// The last connection whose handshake was done.
    ours: Option<Connection>,
}

/// What is said of a node that cannot be reached.
pub(crate) fn unreachable_node(node: &NodeName, why: &str) -> Refusal {
    Refusal::new(
        RefusalCode::Unreachable,
        format!("node {node} cannot be reached: {why}"),
    )
}
