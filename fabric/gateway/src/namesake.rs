//! Two nodes with one name: who keeps it.
//!
//! A copied data directory, or a certificate issued twice for one name, gives two processes that
//! every other node takes for the same one. To a third node the second looks at first like the
//! first one restarted: the same name, another incarnation. So before a connection is replaced it is
//! asked for a sign of life ([`is_alive`]); a node that was restarted cannot give one through the
//! connection of its predecessor. Where there is one, the name is taken, and whoever came later is
//! refused.
//!
//! Who is refused hears it from a peer, and a peer may lie: a node that ended itself at another's
//! word could be ended by any. So it looks for itself ([`settle`]): it dials the address that the
//! peer has named, and only a process that holds the key of our own name, and is not this one, proves
//! the point. What cannot be proved is logged, and the peer is dialled again like one that is down.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{Connection, Endpoint};
use tokio::sync::mpsc;
use weft_capability::{NodeIdentity, tls};
use weft_protocol::wire::Control;
use weft_types::NodeName;

use crate::gateway::Shared;
use crate::link::{
    CloseCode, HANDSHAKE_WITHIN, LinkError, certified_node, close, hello, read_control,
};

/// How long a peer whose successor seems to be here may take for a sign of life. Silence means that
/// it is gone. A peer that was restarted at its old address answers by a stateless reset, at once.
const ALIVE_WITHIN: Duration = Duration::from_secs(2);

/// Bytes of our hello that are said before theirs is heard: its length. More would let the namesake
/// close the connection before its own hello has left it.
const FIRST_WORDS_BYTES: usize = 4;

/// How long our namesake may take to close the connection at which it has met us.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// A peer has refused us, since it knows another node of our name.
#[derive(Debug)]
pub(crate) struct NameTaken {
    pub(crate) peer: NodeName,
    /// Where that other node is, as the peer says.
    pub(crate) holder: SocketAddr,
}

/// Whether the process behind `connection` still lives.
///
/// An empty stream is opened and its acknowledgement awaited: that can only have been sent after
/// the question, so nothing that was under way when the peer died is taken for life.
pub(crate) async fn is_alive(connection: &Connection) -> bool {
    let acknowledged = async {
        let mut stream = connection.open_uni().await.ok()?;
        stream.finish().ok()?;
        stream.stopped().await.ok()
    };
    let answer = tokio::time::timeout(ALIVE_WITHIN, acknowledged).await;
    matches!(answer, Ok(Some(_))) && connection.close_reason().is_none()
}

/// Looks into each refusal, one at a time, and tells our node of those that are true.
pub(crate) async fn settle(shared: Arc<Shared>, mut refusals: mpsc::Receiver<NameTaken>) {
    let own = &shared.node;
    while let Some(NameTaken { peer, holder }) = refusals.recv().await {
        let ours = shared.incarnation;
        match incarnation_at(&shared.endpoint, &shared.identity, ours, holder).await {
            Ok(theirs) if theirs != ours => {
                let text = format!(
                    "another node named {own} is in the cluster (connected to {peer} from {holder}): \
                     stop it, or give this one a certificate of another name with `weft ca node`"
                );
                shared.home.name_taken(peer, text);
            }
            // It was our predecessor at this address, and has ended meanwhile.
            Ok(_) => {
                tracing::warn!(%peer, %holder, "says that another node has our name, but that is this one")
            }
            Err(error) => {
                tracing::warn!(%peer, %holder, %error, "says that another node has our name, but none answers there")
            }
        }
    }
}

/// The incarnation of the process of our own name that answers at `address`.
async fn incarnation_at(
    endpoint: &Endpoint,
    identity: &NodeIdentity,
    incarnation: u64,
    address: SocketAddr,
) -> Result<u64, LinkError> {
    let asking = async {
        let lost = |error: &dyn std::fmt::Display| LinkError::Connection(error.to_string());
        let name = tls::server_name(identity.bundle(), identity.name());
        let connection = endpoint
            .connect(address, &name.to_str())
            .map_err(|error| lost(&error))?
            .await
            .map_err(|error| lost(&error))?;
        let incarnation = exchange_hello(&connection, identity, incarnation).await;
        close(&connection, CloseCode::Stranger, "both have the same name");
        incarnation
    };
    tokio::time::timeout(HANDSHAKE_WITHIN, asking)
        .await
        .unwrap_or(Err(LinkError::Silent))
}

async fn exchange_hello(
    connection: &Connection,
    identity: &NodeIdentity,
    incarnation: u64,
) -> Result<u64, LinkError> {
    let lost = |error: &dyn std::fmt::Display| LinkError::Connection(error.to_string());
    let (certified, _) = certified_node(connection, identity)?;
    let (mut out, mut answer) = connection.open_bi().await.map_err(|error| lost(&error))?;
    let bytes = hello(identity, incarnation)?;
    let (first, rest) = bytes.split_at(FIRST_WORDS_BYTES);
    out.write_all(first).await.map_err(|error| lost(&error))?;
    let theirs = read_control(&mut answer).await?;
    // The rest is for the log of the other one, whose operator may wonder as well.
    if out.write_all(rest).await.is_ok() {
        let _ = tokio::time::timeout(LAST_WORDS, connection.closed()).await;
    }
    match theirs {
        Control::Hello {
            node, incarnation, ..
        } if node == certified && node == *identity.name() => Ok(incarnation),
        _ => Err(LinkError::Stranger(format!(
            "node {certified} answers there"
        ))),
    }
}
