//! The side path: a seqpacket socket beside each channel, and the daemon's bootstrap connection.
//!
//! It carries descriptors and short notes, and its hang-up tells of death. It is never on the way
//! of an ordinary message. Packets and descriptors are bounded; what is too much is refused and
//! closed, not kept.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use super::credentials;

pub use super::credentials::PeerCredentials;

/// The longest packet, in bytes. A longer one is refused on both sides.
pub const MAX_SIDE_BYTES: usize = 64 * 1024;

/// The most descriptors beside one packet. The kernel closes what comes beyond.
pub const MAX_DESCRIPTORS: usize = 16;

/// How long a send waits for a peer that does not read. It should: notes are few.
const SEND_PATIENCE: Duration = Duration::from_secs(2);

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 128;

/// What goes wrong on a side socket.
#[derive(Debug, thiserror::Error)]
pub enum SideError {
    /// The other side is gone, or has closed the socket.
    #[error("the other side has hung up")]
    HungUp,
    /// The caller wants to send nothing, too many bytes or too many descriptors.
    #[error("a packet has 1 to {MAX_SIDE_BYTES} bytes and at most {MAX_DESCRIPTORS} descriptors")]
    OutOfBounds,
    /// The peer has sent more than a packet may hold. What came was thrown away.
    #[error("the peer sent too many bytes or descriptors in one packet")]
    TooMuch,
    /// The peer has not read for two seconds.
    #[error("the peer does not read its side socket")]
    Stuck,
    /// This user has as many descriptors under way between processes as the system allows
    /// (`RLIMIT_NOFILE`). It may work later.
    #[error("too many descriptors of this user are under way")]
    Crowded,
    /// The system refused.
    #[error(transparent)]
    System(io::Error),
}

impl From<Errno> for SideError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN | Errno::CONNREFUSED => Self::HungUp,
            Errno::TOOMANYREFS => Self::Crowded,
            errno => Self::System(errno.into()),
        }
    }
}

/// What one packet carries: its bytes, and the descriptors that came with them.
pub type Packet = (Vec<u8>, Vec<OwnedFd>);

/// One end of a connected seqpacket socket. Closed when dropped.
#[derive(Debug)]
pub struct SideSocket(OwnedFd);

impl SideSocket {
    /// Two ends, connected with each other.
    ///
    /// # Errors
    ///
    /// If the process has no descriptors left.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Self(one), Self(other)))
    }

    /// Connects with a [`SideListener`].
    ///
    /// # Errors
    ///
    /// As `connect(2)`.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let address = SocketAddrUnix::new(path)?;
        let socket = socket()?;
        rustix::net::connect(&socket, &address)?;
        Ok(Self(socket))
    }

    /// Sends a packet of 1 to [`MAX_SIDE_BYTES`] bytes with copies of up to [`MAX_DESCRIPTORS`]
    /// descriptors. Waits at most two seconds for a peer that does not read: not for a thread that
    /// others depend on, see [`Self::try_send`].
    ///
    /// # Errors
    ///
    /// [`SideError`]; nothing was sent then.
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), SideError> {
        let deadline = Instant::now() + SEND_PATIENCE;
        while !self.try_send(bytes, fds)? {
            if !self.wait_for(PollFlags::OUT, Some(deadline))? {
                return Err(SideError::Stuck);
            }
        }
        Ok(())
    }

    /// As [`Self::send`], but never waits. `false`: nothing was sent, because the peer has not read
    /// what was sent before.
    ///
    /// # Errors
    ///
    /// [`SideError`]; nothing was sent then either.
    pub fn try_send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<bool, SideError> {
        if bytes.is_empty() || bytes.len() > MAX_SIDE_BYTES || fds.len() > MAX_DESCRIPTORS {
            return Err(SideError::OutOfBounds);
        }
        loop {
            let mut space =
                [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
                return Err(SideError::OutOfBounds);
            }
            let sent = rustix::net::sendmsg(
                &self.0,
                &[IoSlice::new(bytes)],
                &mut control,
                SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
            );
            match sent {
                Ok(_) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The next packet and its descriptors (closed on exec), if one has come.
    ///
    /// # Errors
    ///
    /// [`SideError::HungUp`] once everything that was sent has been read and the peer is gone,
    /// [`SideError::TooMuch`] for a packet that is too large; the next call goes on behind it.
    pub fn try_receive(&self) -> Result<Option<Packet>, SideError> {
        let mut bytes = vec![0; MAX_SIDE_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut reset = false;
        let received = loop {
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            let into = &mut [IoSliceMut::new(&mut bytes)];
            match rustix::net::recvmsg(&self.0, into, &mut control, flags) {
                Ok(received) => break received,
                Err(Errno::INTR) => {}
                // Said once, of a peer that was closed with packets of ours unread, and before what
                // it has sent itself is given out (unix(7) calls it a connection reset).
                Err(Errno::CONNRESET) if !reset => reset = true,
                Err(Errno::AGAIN) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        };
        // Taken out first: on every way out of here they are closed.
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        if received.bytes == 0 {
            return Err(SideError::HungUp);
        }
        let cut = ReturnFlags::TRUNC | ReturnFlags::CTRUNC;
        if received.flags.intersects(cut) || fds.len() > MAX_DESCRIPTORS {
            return Err(SideError::TooMuch);
        }
        bytes.truncate(received.bytes);
        Ok(Some((bytes, fds)))
    }

    /// As [`Self::try_receive`], but waits for a packet. `None` means that the time is over.
    ///
    /// # Errors
    ///
    /// As [`Self::try_receive`].
    pub fn receive(&self, timeout: Option<Duration>) -> Result<Option<Packet>, SideError> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            if let Some(packet) = self.try_receive()? {
                return Ok(Some(packet));
            }
            if !self.wait_for(PollFlags::IN, deadline)? {
                return Ok(None);
            }
        }
    }

    /// Whether the other side is gone. What it sent before can still be received.
    #[must_use]
    pub fn hung_up(&self) -> bool {
        has_hung_up(self.0.as_fd())
    }

    /// Who is at the other end, see [`PeerCredentials`].
    ///
    /// # Errors
    ///
    /// As `getsockopt(2)`.
    pub fn peer_credentials(&self) -> io::Result<PeerCredentials> {
        credentials::peer_credentials(self.0.as_fd())
    }

    /// Another descriptor of the same end. The peer sees a hang-up when all of them are closed.
    ///
    /// # Errors
    ///
    /// If the process has no descriptors left.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    fn wait_for(&self, event: PollFlags, deadline: Option<Instant>) -> Result<bool, SideError> {
        wait_for(self.0.as_fd(), event, deadline).map_err(Into::into)
    }
}

/// For a connected seqpacket socket that came from elsewhere (a parent, another socket).
impl From<OwnedFd> for SideSocket {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<SideSocket> for OwnedFd {
    fn from(socket: SideSocket) -> Self {
        socket.0
    }
}

impl AsFd for SideSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits for connections at a path. The path is removed when this is dropped.
#[derive(Debug)]
pub struct SideListener {
    socket: OwnedFd,
    path: PathBuf,
}

impl SideListener {
    /// Listens at `path`, for this user only. A socket that nobody listens on any more is replaced.
    ///
    /// # Errors
    ///
    /// `AddrInUse` if somebody listens there, else as `bind(2)`.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let address = SocketAddrUnix::new(path)?;
        let socket = socket()?;
        if let Err(error) = rustix::net::bind(&socket, &address) {
            let stale = error == Errno::ADDRINUSE
                && SideSocket::connect(path)
                    .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
            if !stale {
                return Err(error.into());
            }
            std::fs::remove_file(path)?;
            rustix::net::bind(&socket, &address)?;
        }
        // Nobody can connect before `listen`, so the rights come in time.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(Self {
            socket,
            path: path.to_owned(),
        })
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    ///
    /// As `accept(2)`.
    pub fn accept(&self) -> io::Result<SideSocket> {
        loop {
            match rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC) {
                Ok(socket) => return Ok(SideSocket(socket)),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits for the next connection, at most this long.
    ///
    /// # Errors
    ///
    /// As `accept(2)`.
    pub fn accept_timeout(&self, timeout: Duration) -> io::Result<Option<SideSocket>> {
        let deadline = Instant::now().checked_add(timeout);
        if wait_for(self.socket.as_fd(), PollFlags::IN, deadline)? {
            self.accept().map(Some)
        } else {
            Ok(None)
        }
    }
}

impl AsFd for SideListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for SideListener {
    fn drop(&mut self) {
        // Whoever removed it before us has done no harm.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn socket() -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    Ok(socket)
}

/// A socket whose hang-up is looked for, by a descriptor of our own.
#[derive(Debug)]
pub(crate) struct Watched(OwnedFd);

impl Watched {
    pub(crate) fn of(side: BorrowedFd<'_>) -> io::Result<Self> {
        side.try_clone_to_owned().map(Self)
    }

    pub(crate) fn has_hung_up(&self) -> bool {
        has_hung_up(self.0.as_fd())
    }
}

/// Whether the other end of this socket is gone.
fn has_hung_up(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::empty())];
    matches!(
        rustix::event::poll(&mut fds, Some(&Timespec::default())),
        Ok(1..)
    ) && fds[0]
        .revents()
        .intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL)
}

/// Waits for an event (or a hang-up); `false` when the time is over.
fn wait_for(
    fd: BorrowedFd<'_>,
    event: PollFlags,
    deadline: Option<Instant>,
) -> Result<bool, Errno> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        let mut fds = [PollFd::from_borrowed_fd(fd, event)];
        match rustix::event::poll(&mut fds, left.as_ref()) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}
