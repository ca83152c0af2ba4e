//! Waiting for a descriptor of ours to become readable.

use std::io;
use std::os::fd::AsFd;

use tokio::io::Interest;
use tokio::net::UnixStream;

/// Tells when a socket can be read. It watches a duplicate, so that the socket itself stays where
/// it is; tokio sees it as a stream, of which only the readiness is used.
pub(crate) struct Readiness(UnixStream);

impl Readiness {
    /// Watches `socket`, which becomes non-blocking by it.
    ///
    /// # Errors
    ///
    /// If the system has no descriptor left.
    pub(crate) fn of(socket: &impl AsFd) -> io::Result<Self> {
        let duplicate = socket.as_fd().try_clone_to_owned()?;
        let stream = std::os::unix::net::UnixStream::from(duplicate);
        stream.set_nonblocking(true)?;
        UnixStream::from_std(stream).map(Self)
    }

    /// Waits until `read` gives something: called again whenever the socket can be read, and each
    /// time until it gives `None`.
    ///
    /// # Errors
    ///
    /// What `read` says.
    pub(crate) async fn read<T>(
        &self,
        mut read: impl FnMut() -> io::Result<Option<T>>,
    ) -> io::Result<T> {
        loop {
            self.0.readable().await?;
            let attempt = self.0.try_io(Interest::READABLE, || {
                read().and_then(|found| found.ok_or_else(|| io::ErrorKind::WouldBlock.into()))
            });
            match attempt {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return outcome,
            }
        }
    }
}
