//! A doorbell with a descriptor, for who sleeps in epoll: an async runtime, a large inbox.
//!
//! The bell word says *that* somebody rang; a futex is one way to sleep until it does, and a doorbell
//! is another. It belongs to one channel alone. The sleeper makes it and hands the ringing end to
//! its peer, whose every ring then also knocks there.
//!
//! It is a socket pair and not an eventfd. A descriptor that two processes share has *one* set of
//! file flags: a hostile peer can take away `O_NONBLOCK` from an eventfd that it was handed, fill the
//! counter, and stop our sender for ever in the middle of a ring (or empty it, and stop our
//! receiver in a read). The two ends of a socket share no flags, and each call here says by itself that
//! it does not wait. So a hostile peer can knock in vain or not at all, and disturbs no other
//! channel. It costs one ring about as much more as one system call does.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

/// The most bytes taken off at once, a knock being one. What is left makes the next wait return at
/// once.
pub(crate) const KNOCKS_AT_ONCE: usize = 1024;

/// The sleeper's end of a doorbell: readable once somebody has knocked, and after a hang-up.
#[derive(Debug)]
pub struct Doorbell(OwnedFd);

impl Doorbell {
    /// A doorbell, and the end to knock at: hand it to the peer (side socket), which gives it to its
    /// [`crate::Swapper::ring_through`].
    ///
    /// # Errors
    ///
    /// If the process has no descriptors left.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (own, far) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        Ok((Self(own), far))
    }

    /// Takes off the knocks so far, in bounded time: after many it may still be readable. `false` if
    /// nobody will knock any more.
    pub fn silence(&self) -> bool {
        let mut knocks = [0; KNOCKS_AT_ONCE];
        match rustix::net::recv(&self.0, &mut knocks, RecvFlags::DONTWAIT) {
            Ok((taken, _)) => taken > 0,
            Err(Errno::INTR | Errno::AGAIN) => true,
            Err(_) => false,
        }
    }
}

#[cfg(feature = "tokio")]
impl Doorbell {
    /// As the socket that it is, for a runtime.
    pub(crate) fn into_stream(self) -> std::os::unix::net::UnixStream {
        self.0.into()
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The ringing end, checked.
#[derive(Debug)]
pub(crate) struct Knocker(OwnedFd);

impl Knocker {
    /// Accepts a descriptor that a peer sent: nothing but a Unix stream socket, on which a send
    /// cannot wait.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        let family = sockopt::socket_domain(&fd)?;
        let kind = sockopt::socket_type(&fd)?;
        if family == AddressFamily::UNIX && kind == SocketType::STREAM {
            Ok(Self(fd))
        } else {
            Err(io::ErrorKind::InvalidInput.into())
        }
    }

    /// Never waits. A doorbell that is full wakes its owner anyway; one that is closed has none.
    pub(crate) fn knock(&self) {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let _ = rustix::net::send(&self.0, &[0], flags);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn knocked(bell: &Doorbell) -> bool {
        let mut fds = [rustix::event::PollFd::new(
            bell,
            rustix::event::PollFlags::IN,
        )];
        rustix::event::poll(&mut fds, Some(&rustix::event::Timespec::default())).unwrap() == 1
    }

    #[test]
    fn a_knock_is_heard_until_it_is_silenced() {
        let (bell, far) = Doorbell::pair().unwrap();
        let knocker = Knocker::new(far).unwrap();
        assert!(!knocked(&bell));
        knocker.knock();
        knocker.knock();
        assert!(knocked(&bell));
        assert!(bell.silence());
        assert!(!knocked(&bell));
        assert!(bell.silence(), "and silence can be silenced");
        knocker.knock();
        drop(knocker);
        assert!(bell.silence());
        assert!(!bell.silence(), "nobody knocks any more");
    }

    /// The attack that an eventfd would not survive: flags off, and full to the brim.
    #[test]
    fn a_knock_never_waits_whatever_the_owner_does_to_its_descriptors() {
        let (bell, far) = Doorbell::pair().unwrap();
        let same_end = far.try_clone().unwrap();
        rustix::fs::fcntl_setfl(&same_end, rustix::fs::OFlags::empty()).unwrap();
        rustix::fs::fcntl_setfl(&bell, rustix::fs::OFlags::empty()).unwrap();
        let knocker = Knocker::new(far).unwrap();
        for _ in 0..10_000 {
            knocker.knock();
        }
        while knocked(&bell) {
            assert!(bell.silence());
        }
        drop(bell);
        knocker.knock();
    }

    #[test]
    fn other_descriptors_are_no_doorbells() {
        let (_, pipe) = io::pipe().unwrap();
        assert!(Knocker::new(pipe.into()).is_err());
        let (packet, _) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        assert!(Knocker::new(packet).is_err());
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(Knocker::new(file.into()).is_err());
    }
}
