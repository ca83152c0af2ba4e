//! Domains: processes attached to this node, each with its three channels.
//!
//! Apps, services and the gateway come in by the same door and get the same three channels. What a
//! domain may do is decided by its name and the capabilities that the name holds, never by what
//! kind of process it is.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use tokio::time::timeout;
use weft::bootstrap::{Attach, Attached, CHANNELS, Identity, MAX_PACKET_BYTES, VERSION};
use weft::{Link, Request};
use weft_local_ipc::{Geometry, OwnHalf, PeerHalf, SideSocket, Start};
use weft_node_control::DomainRole;
use weft_types::{DomainId, Refusal, RefusalCode, ServiceName};

use crate::line::Line;
use crate::node::Node;
use crate::readiness::Readiness;

/// How long a process may take for its first words.
const FIRST_WORDS: Duration = Duration::from_secs(5);

/// The most domains of one node. One more is refused; each costs the daemon some 20 descriptors.
const MAX_DOMAINS: usize = 1024;

/// One attached process.
pub(crate) struct Domain {
    pub(crate) id: DomainId,
    pub(crate) name: ServiceName,
    pub(crate) pid: u32,
    pub(crate) role: DomainRole,
    pub(crate) debuggable: bool,
    /// Bytes of its budget that are in use.
    pub(crate) used_bytes: Cell<u64>,
    /// Its channel to the dispatcher, over which the node also speaks to it.
    pub(crate) dispatcher: Line,
    _security: Line,
    _memory: Line,
}

/// What the node knows of a process before it speaks: only of those that it started itself.
pub(crate) struct Expected {
    pub(crate) name: ServiceName,
    pub(crate) pid: u32,
    pub(crate) role: DomainRole,
}

/// Takes a process in: hears its first words, connects its three channels, and watches the socket
/// until it hangs up.
///
/// # Errors
///
/// Why the process was not taken in; it has been told.
pub(crate) async fn attach(
    node: &Rc<Node>,
    socket: SideSocket,
    expected: Option<Expected>,
) -> Result<Rc<Domain>, Refusal> {
    let watched = Readiness::of(&socket).map_err(|error| {
        Refusal::new(RefusalCode::Internal, format!("bootstrap socket: {error}"))
    })?;
    let refuse = |refusal: Refusal| {
        if let Ok(packet) = postcard::to_stdvec(&Attached::Refused(refusal.clone())) {
            // It may be gone already; then nobody needs the answer.
            let _ = socket.send(&packet, &[]);
        }
        refusal
    };
    let (packet, halves) = match timeout(FIRST_WORDS, receive(&socket, &watched)).await {
        Ok(received) => received?,
        Err(_) => {
            return Err(refuse(Refusal::new(
                RefusalCode::DeadlineExceeded,
                "the process said nothing",
            )));
        }
    };
    let who = identify(node, &socket, &packet, expected).map_err(refuse)?;
    let domain = connect(node, &socket, who, halves).map_err(refuse)?;
    node.domains
        .borrow_mut()
        .insert(domain.id, Rc::clone(&domain));
    tracing::debug!(domain = %domain.id, name = %domain.name, pid = domain.pid, "attached");
    let node = Rc::clone(node);
    let id = domain.id;
    tokio::task::spawn_local(async move {
        wait_for_hang_up(&socket, &watched).await;
        node.domain_gone(id).await;
    });
    Ok(domain)
}

/// The first packet.
async fn receive(
    socket: &SideSocket,
    watched: &Readiness,
) -> Result<(Vec<u8>, Vec<OwnedFd>), Refusal> {
    watched.read(|| next_packet(socket)).await.map_err(|error| {
        Refusal::new(
            RefusalCode::Closed,
            format!("the process went away before it was attached: {error}"),
        )
    })
}

/// A domain says nothing more over this socket; what it says all the same is thrown away.
async fn wait_for_hang_up(socket: &SideSocket, watched: &Readiness) {
    while watched.read(|| next_packet(socket)).await.is_ok() {}
}

/// The next packet; nothing if none is there; an error if none will come.
fn next_packet(socket: &SideSocket) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    match socket.try_receive() {
        Ok(Some(packet)) => Ok(Some(packet)),
        Ok(None) if socket.hung_up() => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(None) => Ok(None),
        Err(error) => Err(io::Error::other(error)),
    }
}

struct Who {
    name: ServiceName,
    pid: u32,
    role: DomainRole,
    debuggable: bool,
}

/// Checks the first words, and who says them.
fn identify(
    node: &Node,
    socket: &SideSocket,
    packet: &[u8],
    expected: Option<Expected>,
) -> Result<Who, Refusal> {
    if packet.len() > MAX_PACKET_BYTES {
        return Err(Refusal::new(
            RefusalCode::Malformed,
            format!(
                "first words of {} bytes are longer than {MAX_PACKET_BYTES}",
                packet.len()
            ),
        ));
    }
    let attach: Attach = postcard::from_bytes(packet).map_err(|error| {
        Refusal::new(
            RefusalCode::Malformed,
            format!("not the first words of a domain: {error}"),
        )
    })?;
    if attach.version != VERSION {
        return Err(Refusal::new(
            RefusalCode::TypeMismatch,
            format!(
                "this node speaks version {VERSION} of the bootstrap, the process version {}: build it against the same weft",
                attach.version
            ),
        ));
    }
    if node.domains.borrow().len() >= MAX_DOMAINS {
        return Err(Refusal::new(
            RefusalCode::OverBudget,
            format!("this node has {MAX_DOMAINS} domains, as many as it takes"),
        ));
    }
    let debuggable = attach.debuggable;
    if let Some(Expected { name, pid, role }) = expected {
        return Ok(Who {
            name,
            pid,
            role,
            debuggable,
        });
    }
    let peer = socket.peer_credentials().map_err(|error| {
        Refusal::new(RefusalCode::Internal, format!("peer credentials: {error}"))
    })?;
    let own = rustix::process::getuid().as_raw();
    if peer.uid != own && peer.uid != 0 {
        return Err(Refusal::new(
            RefusalCode::NotAllowed,
            format!(
                "this node runs as user {own} and attaches no processes of user {}",
                peer.uid
            ),
        ));
    }
    let name = attach
        .name
        .ok_or_else(|| Refusal::new(RefusalCode::Malformed, "an app has to say its name"))?;
    if name.is_reserved() || node.services.borrow().contains_key(&name) {
        return Err(Refusal::new(
            RefusalCode::NotAllowed,
            format!("{name} is the name of a service of this node; take another (`--as NAME`)"),
        ));
    }
    Ok(Who {
        name,
        pid: peer.pid,
        role: DomainRole::App,
        debuggable,
    })
}

/// Connects the three channels and tells the process who it is.
fn connect(
    node: &Rc<Node>,
    socket: &SideSocket,
    who: Who,
    halves: Vec<OwnedFd>,
) -> Result<Rc<Domain>, Refusal> {
    if halves.len() != CHANNELS {
        return Err(Refusal::new(
            RefusalCode::Malformed,
            format!("expected {CHANNELS} halves, got {}", halves.len()),
        ));
    }
    let id = node.next_domain();
    let mut links = Vec::new();
    let mut ours = Vec::new();
    let mut sides = Vec::new();
    for half in halves {
        let (link, own, side) = new_link(half)?;
        links.push(link);
        ours.push(own);
        sides.push(side);
    }
    let identity = Identity {
        name: who.name.clone(),
        domain: id,
        node: node.name().clone(),
        cluster: node.cluster().clone(),
    };
    let packet = postcard::to_stdvec(&Attached::Welcome(identity))
        .map_err(|error| Refusal::new(RefusalCode::Internal, error.to_string()))?;
    let descriptors: Vec<_> = ours.iter().chain(&sides).map(AsFd::as_fd).collect();
    socket.send(&packet, &descriptors).map_err(|error| {
        Refusal::new(RefusalCode::Closed, format!("the process is gone: {error}"))
    })?;
    let mut links = links.into_iter();
    let (Some(security), Some(memory), Some(dispatcher)) =
        (links.next(), links.next(), links.next())
    else {
        return Err(Refusal::new(
            RefusalCode::Internal,
            "three channels were made",
        ));
    };
    let serve = |part: fn(&Rc<Node>, DomainId, Line, Request)| {
        let node = Rc::downgrade(node);
        move |line: Line, request: Request| {
            if let Some(node) = node.upgrade() {
                part(&node, id, line, request);
            }
        }
    };
    Ok(Rc::new(Domain {
        id,
        name: who.name,
        pid: who.pid,
        role: who.role,
        debuggable: who.debuggable,
        used_bytes: Cell::new(0),
        _security: Line::open(security, &node.watcher, serve(crate::security::serve)),
        _memory: Line::open(memory, &node.watcher, serve(crate::memory::serve)),
        dispatcher: if who.role == DomainRole::Gateway {
            Line::open_wide(dispatcher, &node.watcher, serve(crate::gateway::serve))
        } else {
            Line::open(dispatcher, &node.watcher, serve(crate::dispatcher::serve))
        },
    }))
}

/// A link over a fresh half of ours and the peer's `half`: the link, our half to hand over, and the
/// peer's end of the side socket.
pub(crate) fn new_link(half: OwnedFd) -> Result<(Link, OwnedFd, OwnedFd), Refusal> {
    new_link_from(half, Start::default())
}

/// [`new_link`], with sequences that do not start at zero.
pub(crate) fn new_link_from(
    half: OwnedFd,
    start: Start,
) -> Result<(Link, OwnedFd, OwnedFd), Refusal> {
    let failed = |error: &dyn std::fmt::Display| {
        Refusal::new(
            RefusalCode::Internal,
            format!("a channel could not be made: {error}"),
        )
    };
    let own = OwnHalf::create(Geometry::DEFAULT, start).map_err(|error| failed(&error))?;
    let shared = own.share().map_err(|error| failed(&error))?;
    let (near, far) = SideSocket::pair().map_err(|error| failed(&error))?;
    let peer = PeerHalf::open(half).map_err(|error| {
        Refusal::new(
            RefusalCode::PeerFault,
            format!("not a half of a channel: {error}"),
        )
    })?;
    let link = Link::new(own, peer, near)?;
    Ok((link, shared, far.into()))
}
