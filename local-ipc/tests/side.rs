//! The side socket: packets, descriptors, bounds, hang-up, listener.

use std::fs::File;
use std::io::{Read, Write, pipe};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::io::FdFlags;
use weft_local_ipc::*;

#[test]
fn bytes_and_descriptors_arrive_together_and_close_on_exec() {
    let (a, b) = SideSocket::pair().unwrap();
    assert!(b.try_receive().unwrap().is_none());
    let (mut reader, writer) = pipe().unwrap();
    a.send(b"take this", &[writer.as_fd()]).unwrap();
    drop(writer);
    let (bytes, mut fds) = b.receive(Some(Duration::from_secs(5))).unwrap().unwrap();
    assert_eq!(bytes, b"take this");
    assert_eq!(fds.len(), 1);
    assert!(
        rustix::io::fcntl_getfd(&fds[0])
            .unwrap()
            .contains(FdFlags::CLOEXEC)
    );
    File::from(fds.remove(0)).write_all(b"hello").unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
}

#[test]
fn what_a_peer_sent_is_there_though_it_died_with_something_unread() {
    let (a, b) = SideSocket::pair().unwrap();
    let (_, writer) = pipe().unwrap();
    b.send(b"never read", &[]).unwrap();
    a.send(b"first", &[writer.as_fd()]).unwrap();
    a.send(b"second", &[]).unwrap();
    // The kernel tells a reset before it gives out what is in the queue.
    drop(a);
    let (bytes, fds) = b.try_receive().unwrap().unwrap();
    assert_eq!((bytes.as_slice(), fds.len()), (&b"first"[..], 1));
    assert_eq!(b.try_receive().unwrap().unwrap().0, b"second");
    assert!(matches!(b.try_receive(), Err(SideError::HungUp)));
}

#[test]
fn packets_keep_their_borders_and_their_bounds() {
    let (a, b) = SideSocket::pair().unwrap();
    for len in [1, 5, MAX_SIDE_BYTES] {
        a.send(&vec![3; len], &[]).unwrap();
        assert_eq!(b.try_receive().unwrap().unwrap().0.len(), len);
    }
    let refused = [
        a.send(b"", &[]),
        a.send(&vec![3; MAX_SIDE_BYTES + 1], &[]),
        a.send(b"x", &[a.as_fd(); MAX_DESCRIPTORS + 1]),
    ];
    for result in refused {
        assert!(matches!(result, Err(SideError::OutOfBounds)));
    }
    a.send(b"x", &[a.as_fd(); MAX_DESCRIPTORS]).unwrap();
    assert_eq!(b.try_receive().unwrap().unwrap().1.len(), MAX_DESCRIPTORS);
}

#[test]
fn a_packet_that_is_too_large_is_thrown_away_and_the_next_one_arrives() {
    let (a, b) = SideSocket::pair().unwrap();
    let large = vec![1; MAX_SIDE_BYTES + 1];
    rustix::net::send(&a, &large, rustix::net::SendFlags::empty()).unwrap();
    a.send(b"small", &[]).unwrap();
    assert!(matches!(b.try_receive(), Err(SideError::TooMuch)));
    assert_eq!(b.try_receive().unwrap().unwrap().0, b"small");
}

#[test]
fn a_hang_up_is_told_after_what_was_sent_before() {
    let (a, b) = SideSocket::pair().unwrap();
    assert!(!b.hung_up());
    a.send(b"last words", &[]).unwrap();
    drop(a);
    assert!(b.hung_up());
    assert_eq!(b.try_receive().unwrap().unwrap().0, b"last words");
    assert!(matches!(b.try_receive(), Err(SideError::HungUp)));
    assert!(matches!(b.send(b"x", &[]), Err(SideError::HungUp)));
}

#[test]
fn a_try_send_to_a_peer_that_does_not_read_says_so_at_once_and_works_again_later() {
    let (a, b) = SideSocket::pair().unwrap();
    let begin = std::time::Instant::now();
    let mut sent = 0;
    while a.try_send(b"x", &[a.as_fd()]).unwrap() {
        sent += 1;
        assert!(sent < 100_000, "the socket has no bound");
    }
    assert!(begin.elapsed() < Duration::from_secs(1), "it waited");
    for _ in 0..sent {
        assert_eq!(b.try_receive().unwrap().unwrap().1.len(), 1);
    }
    assert!(b.try_receive().unwrap().is_none(), "a refused packet came");
    assert!(a.try_send(b"x", &[]).unwrap());
}

#[test]
fn a_receive_gives_up_in_time() {
    let (_a, b) = SideSocket::pair().unwrap();
    let begin = std::time::Instant::now();
    assert!(
        b.receive(Some(Duration::from_millis(20)))
            .unwrap()
            .is_none()
    );
    assert!(begin.elapsed() >= Duration::from_millis(19));
}

#[test]
fn a_listener_takes_connections_says_who_they_are_and_replaces_a_dead_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("node.sock");
    let listener = SideListener::bind(&path).unwrap();
    assert!(
        listener
            .accept_timeout(Duration::from_millis(5))
            .unwrap()
            .is_none()
    );
    assert!(SideListener::bind(&path).is_err(), "somebody listens there");
    let client = SideSocket::connect(&path).unwrap();
    // The refused `bind` above looked whether somebody answers, and hung up.
    let probe = listener.accept().unwrap();
    assert!(probe.hung_up());
    let server = listener.accept().unwrap();
    let who = server.peer_credentials().unwrap();
    assert_eq!(who.pid, std::process::id());
    assert_eq!(who.uid, rustix::process::getuid().as_raw());
    client.send(b"hello", &[]).unwrap();
    assert_eq!(server.try_receive().unwrap().unwrap().0, b"hello");

    // A crashed listener leaves its path behind.
    let stale = directory.path().join("stale.sock");
    let dead = SideListener::bind(&stale).unwrap();
    std::fs::rename(&stale, directory.path().join("aside")).unwrap();
    drop(dead);
    std::fs::rename(directory.path().join("aside"), &stale).unwrap();
    let successor = SideListener::bind(&stale).unwrap();
    let _client = SideSocket::connect(&stale).unwrap();
    assert!(
        successor
            .accept_timeout(Duration::from_secs(5))
            .unwrap()
            .is_some()
    );
}
