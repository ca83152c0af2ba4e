//! What comes out of a side socket: packets of any length with any descriptors, and descriptors that are
//! to be knocked at.

use std::io::{IoSlice, PipeReader, PipeWriter, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sockopt};
use weft_local_ipc::{
    Doorbell, Geometry, MAX_DESCRIPTORS, MAX_SIDE_BYTES, OwnHalf, PeerHalf, SideError, SideSocket,
    Start, connect,
};

use super::Seen;
use super::program::{Step, parse};

/// Operations of a step.
pub(crate) mod op {
    /// A packet of so many bytes with `a` descriptors.
    pub(crate) const SEND: u8 = 0;
    pub(crate) const RECEIVE: u8 = 1;
    pub(crate) const HANG_UP: u8 = 2;
    /// A descriptor of kind `a` to knock at.
    pub(crate) const KNOCK: u8 = 3;
    pub(crate) const ANSWER: u8 = 4;
    pub(super) const COUNT: u8 = 5;
}

/// More than this the kernel does not let into a message (SCM_MAX_FD).
const MOST_DESCRIPTORS: usize = 253;
/// More than a packet may have, but not so much that the socket takes no second one.
const MOST_BYTES: usize = MAX_SIDE_BYTES + 1024;

struct Socket {
    own: SideSocket,
    /// Gone once it has hung up.
    far: Option<OwnedFd>,
    /// What was sent and not received: length and number of descriptors.
    under_way: Vec<(usize, usize)>,
    /// We wrote to it, and it has not read.
    answered: bool,
    /// The descriptors that are sent are all of this one.
    marked: PipeWriter,
    seen: Seen,
}

/// Packets, against what was sent.
pub(crate) fn side(bytes: &[u8]) -> Seen {
    let (_, steps) = parse(bytes);
    let (own, far) = SideSocket::pair().unwrap();
    let far = OwnedFd::from(far);
    sockopt::set_socket_send_buffer_size(&far, 8 * MOST_BYTES).unwrap();
    let (last, marked) = std::io::pipe().unwrap();
    let mut socket = Socket {
        own,
        far: Some(far),
        under_way: Vec::new(),
        answered: false,
        marked,
        seen: Seen::new(),
    };
    for step in steps {
        socket.step(step);
    }
    socket.far = None;
    while !matches!(socket.own.try_receive(), Err(SideError::HungUp)) {}
    let seen = std::mem::take(&mut socket.seen);
    drop(socket);
    assert!(is_closed(last), "a descriptor was kept");
    seen
}

/// Whether nobody can write to this pipe any more.
fn is_closed(mut pipe: PipeReader) -> bool {
    rustix::io::ioctl_fionbio(&pipe, true).unwrap();
    matches!(pipe.read(&mut [0]), Ok(0))
}

impl Socket {
    fn step(&mut self, step: Step) {
        match step.op % op::COUNT {
            op::SEND => self.send(step),
            op::RECEIVE => self.receive(),
            op::HANG_UP => self.far = None,
            op::KNOCK => self.knock(step),
            _ => {
                let sent = self.own.try_send(&[1], &[]);
                assert!(sent.is_ok() == self.far.is_some(), "{sent:?}");
                self.answered = true;
            }
        }
    }

    fn send(&mut self, step: Step) {
        let Some(far) = &self.far else { return };
        let value = step.value(MAX_SIDE_BYTES as u64);
        let len = usize::try_from(value % (MOST_BYTES as u64)).unwrap();
        let count = usize::from(step.a).min(MOST_DESCRIPTORS);
        let bytes: Vec<u8> = (0..len).map(|at| (at ^ len) as u8).collect();
        let fds: Vec<BorrowedFd<'_>> = (0..count).map(|_| self.marked.as_fd()).collect();
        let mut space =
            vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if count > 0 {
            assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match rustix::net::sendmsg(far, &[IoSlice::new(&bytes)], &mut control, flags) {
            Ok(_) => self.under_way.push((len, count)),
            // Too many packets, or descriptors, wait already.
            Err(Errno::AGAIN | Errno::TOOMANYREFS | Errno::NOBUFS) => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn receive(&mut self) {
        let received = self.own.receive(Some(Duration::ZERO));
        let expected = if self.under_way.is_empty() {
            None
        } else {
            Some(self.under_way.remove(0))
        };
        match (received, expected) {
            (Ok(None), None) if self.far.is_some() => {}
            (Err(SideError::HungUp), None) if self.far.is_none() => {
                assert!(self.own.hung_up());
                self.seen.insert("HungUp");
            }
            // An empty packet cannot be told from a hang-up; who sends one has hung up.
            (Err(SideError::HungUp), Some((0, _))) => {
                self.seen.insert("empty");
            }
            (Ok(Some((bytes, fds))), Some((len, count))) => {
                assert!(len <= MAX_SIDE_BYTES && count <= MAX_DESCRIPTORS);
                assert_eq!((bytes.len(), fds.len()), (len, count));
                assert!((0..len).all(|at| bytes[at] == (at ^ len) as u8));
                self.seen.insert("packet");
                if count > 0 {
                    self.seen.insert("descriptors");
                }
            }
            (Err(SideError::TooMuch), Some((len, count))) => {
                assert!(len > MAX_SIDE_BYTES || count > MAX_DESCRIPTORS);
                self.seen.insert("TooMuch");
            }
            (received, expected) => panic!("sent {expected:?}, received {received:?}"),
        }
    }

    /// A descriptor that is said to be a doorbell: taken or refused, and never waited on.
    fn knock(&mut self, step: Step) {
        let fd: OwnedFd = match step.a % 5 {
            0 => Doorbell::pair().unwrap().1,
            1 => std::io::pipe().unwrap().1.into(),
            2 => SideSocket::pair().unwrap().0.into(),
            3 => std::os::unix::net::UnixDatagram::unbound().unwrap().into(),
            _ => rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap(),
        };
        let half = || OwnHalf::create(TINY, Start::default()).unwrap();
        let peer = PeerHalf::open(half().share().unwrap()).unwrap();
        let (_sender, _receiver, swapper) = connect(half(), peer).unwrap();
        let accepted = swapper.ring_through(fd).is_ok();
        assert_eq!(accepted, step.a.is_multiple_of(5));
        for _ in 0..step.b {
            swapper.ring();
        }
        self.seen
            .insert(if accepted { "doorbell" } else { "no doorbell" });
    }
}

const TINY: Geometry = Geometry {
    slots: 2,
    arena_bytes: 0,
    ..Geometry::DEFAULT.fixed()
};
