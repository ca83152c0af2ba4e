//! Tests: a peer that writes whatever it likes into its half. Errors only, never a panic, never
//! more than a body's bound of work or memory for one call.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rustix::fs::{MemfdFlags, SealFlags};
use weft_types::{Lane, MAX_BODY_BYTES, MessageKind, PerLane, Sequence, TypeIndex};

use crate::sync::{AtomicU32, Ordering};
use crate::{
    Geometry, Header, OwnHalf, PeerFault, PeerHalf, Receiver, RegionError, RewindError, SendError,
    Sender, Start, Swapper, connect, layout,
};

const TINY: Geometry = Geometry {
    slots: 4,
    arena_bytes: 4096,
    ..Geometry::DEFAULT.fixed()
};

/// The bytes of an honest, empty half.
fn honest_bytes() -> Vec<u8> {
    let half = OwnHalf::create(TINY, Start::default()).unwrap();
    let file = std::fs::File::from(half.share().unwrap());
    let mut bytes = vec![0; TINY.region_bytes() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn all_seals() -> SealFlags {
    SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL
}

/// A memory file of these bytes with these seals: what a hostile peer could send.
fn forged(bytes: &[u8], seals: SealFlags) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = std::fs::File::from(rustix::fs::memfd_create("forged", flags).unwrap());
    file.write_all_at(bytes, 0).unwrap();
    rustix::fs::fcntl_add_seals(&file, seals).unwrap();
    file.into()
}

fn put(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

fn with_peer(bytes: &[u8]) -> Result<(Sender, Receiver, Swapper), String> {
    let peer = PeerHalf::open(forged(bytes, all_seals())).map_err(|error| error.to_string())?;
    let own = OwnHalf::create(TINY, Start::default()).unwrap();
    connect(own, peer).map_err(|error| error.to_string())
}

fn request() -> Header {
    Header {
        kind: MessageKind::Request,
        type_index: TypeIndex::new(1),
        correlation: Sequence::ZERO,
        has_descriptors: false,
    }
}

/// Uses everything that reads the peer's half.
fn exercise(sender: &mut Sender, receiver: &mut Receiver, swapper: &Swapper) {
    let mut body = Vec::new();
    for round in 0..12 {
        for lane in Lane::ALL {
            let _ = sender.try_send(lane, request(), &[7; 300]);
            let _ = (
                sender.room(lane),
                sender.fits(lane, 4096),
                sender.done(lane),
            );
            let _ = sender.wake_when_done(lane, Sequence::new(round));
            if let Ok(kept) = sender.unacknowledged(lane) {
                assert!(kept.len() <= 4);
            }
            assert!(sender.next(lane).get() <= 100);
            if let Ok(Some(received)) = receiver.try_receive_lane(lane, &mut body) {
                assert!(body.len() <= MAX_BODY_BYTES);
                receiver.finish(lane, received.sequence);
            }
            let expected = receiver.expected(lane);
            let _ = sender.send_each(lane, request(), 40, 3, |_, bytes| bytes[0] = 1);
            let row = receiver.receive_row(3, |received, view| {
                assert!(received.sequence.get() < layout::MAX_SEQUENCE);
                assert!(view.len() <= MAX_BODY_BYTES);
                let mut copy = vec![0; view.len()];
                assert!(view.copy_to(0, &mut copy));
            });
            assert!(row.is_err() || row.is_ok_and(|count| count <= 3));
            let _ = receiver.skip(lane, expected.plus(round));
            let _ = receiver.rewind(lane, expected);
            receiver.finish(lane, Sequence::new(u64::MAX));
            let _ = swapper.peer_published(lane);
        }
        receiver.park();
        let _ = (
            receiver.ready(),
            swapper.peer_cursors(),
            swapper.bell().value(),
        );
        receiver.unpark();
        let _ = receiver.try_receive(&mut body);
        assert!(body.capacity() <= 2 * MAX_BODY_BYTES);
    }
}

#[test]
fn a_fault_within_a_row_is_told_after_what_came_before_it() {
    let lane = Lane::NORMAL;
    let mut bytes = honest_bytes();
    for sequence in 0..3 {
        let slot = TINY.ring_at(lane, 0) + 128 * sequence;
        put(&mut bytes, slot, sequence as u64 + 1);
        let kind = if sequence == 2 {
            0xff
        } else {
            MessageKind::Tell.to_byte()
        };
        put(&mut bytes, slot + 8, u64::from(kind) << 16);
    }
    let (_, mut receiver, _) = with_peer(&bytes).unwrap();
    let mut got = Vec::new();
    let row = receiver.receive_row(10, |received, _| got.push(received.sequence.get()));
    assert_eq!((row, got), (Ok(2), vec![0, 1]));
    for _ in 0..2 {
        let row = receiver.receive_row(10, |_, _| panic!("it cannot be read"));
        assert!(matches!(row, Err(PeerFault::UnknownKind { .. })), "{row:?}");
    }
}

// Seals are the kernel's.
#[cfg(not(weft_portable))]
#[test]
fn a_half_without_a_seal_is_refused() {
    let bytes = honest_bytes();
    for seal in [
        SealFlags::SHRINK,
        SealFlags::GROW,
        SealFlags::FUTURE_WRITE,
        SealFlags::SEAL,
    ] {
        let open = PeerHalf::open(forged(&bytes, all_seals() - seal));
        assert!(
            matches!(open, Err(RegionError::NotSealed { .. })),
            "{open:?}"
        );
    }
}

#[test]
fn what_is_no_half_is_refused() {
    let bytes = honest_bytes();
    assert!(PeerHalf::open(forged(&bytes, all_seals())).is_ok());
    let (pipe, _other) = io::pipe().unwrap();
    assert!(matches!(
        PeerHalf::open(pipe.into()),
        Err(RegionError::NotMemory)
    ));
    let file = tempfile::tempfile().unwrap();
    assert!(PeerHalf::open(file.into()).is_err());
    for len in [
        0,
        1,
        4096,
        bytes.len() - 1,
        bytes.len() + 1,
        bytes.len() + 4096,
    ] {
        let mut other = bytes.clone();
        other.resize(len, 0);
        let open = PeerHalf::open(forged(&other, all_seals()));
        assert!(
            matches!(open, Err(RegionError::WrongSize { .. })),
            "{open:?}"
        );
    }
}

// Only the kernel's own memory files say what memory they have.
#[cfg(not(weft_portable))]
#[test]
fn a_region_with_missing_pages_is_refused() {
    let bytes = honest_bytes();
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = std::fs::File::from(rustix::fs::memfd_create("sparse", flags).unwrap());
    file.set_len(bytes.len() as u64).unwrap();
    file.write_all_at(&bytes[..4096], 0).unwrap();
    rustix::fs::fcntl_add_seals(&file, all_seals()).unwrap();
    assert!(matches!(
        PeerHalf::open(file.into()),
        Err(RegionError::NotAllocated { .. })
    ));
}

#[test]
fn a_header_that_lies_is_refused() {
    let lies: [(usize, u64, &str); 7] = [
        (layout::MAGIC_AT, 1, "no half"),
        (layout::VERSION_AT, 9 | 4 << 32, "layout 9"),
        (layout::SLOTS_AT, 3 | 4096 << 32, "out of bounds"),
        (layout::SLOTS_AT, 8 | 4096 << 32, "header means"),
        (layout::SLOTS_AT, 4 | 4095 << 32, "out of bounds"),
        (layout::BYTES_AT, 7, "header means"),
        (layout::first_at(Lane::LOW), u64::MAX, "beyond the largest"),
    ];
    for (at, value, says) in lies {
        let mut bytes = honest_bytes();
        put(&mut bytes, at, value);
        let error = PeerHalf::open(forged(&bytes, all_seals())).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn each_lie_in_a_slot_has_its_own_error() {
    let lane = Lane::URGENT;
    let slot = TINY.ring_at(lane, 0);
    let meta = |kind: u64, flags: u64, len: u64| kind << 16 | flags << 24 | len << 32;
    let sequence = Sequence::ZERO;
    let receive = |word: u64, meta: u64, offset: u64| {
        let mut bytes = honest_bytes();
        put(&mut bytes, slot, word);
        put(&mut bytes, slot + 8 * layout::META_WORD, meta);
        put(&mut bytes, slot + 8 * layout::BODY_WORD, offset);
        let (_, mut receiver, _) = with_peer(&bytes).unwrap();
        receiver.try_receive(&mut Vec::new())
    };
    assert!(receive(1, meta(1, 0, 4096), 0).unwrap().is_some());
    assert!(receive(0, meta(1, 0, 4096), 0).unwrap().is_none());
    for word in [2, 5, 9, u64::MAX] {
        assert_eq!(
            receive(word, meta(1, 0, 4), 0),
            Err(PeerFault::WrongSequence {
                lane,
                expected: sequence,
                word
            })
        );
    }
    let kind = PeerFault::UnknownKind {
        lane,
        sequence,
        kind: 77,
    };
    assert_eq!(receive(1, meta(77, 0, 4), 0), Err(kind));
    let flags = PeerFault::UnknownFlags {
        lane,
        sequence,
        flags: 8,
    };
    assert_eq!(receive(1, meta(1, 8, 4), 0), Err(flags));
    let len_bytes = MAX_BODY_BYTES as u32 + 1;
    let long = PeerFault::TooLong {
        lane,
        sequence,
        len_bytes,
    };
    assert_eq!(receive(1, meta(1, 0, u64::from(len_bytes)), 0), Err(long));
    for (offset, len_bytes) in [(0, 4097), (1, 4096), (3000, 1097), (u64::MAX, 200)] {
        let outside = PeerFault::OutOfBounds {
            lane,
            sequence,
            offset,
            len_bytes,
        };
        let found = receive(1, meta(1, 0, u64::from(len_bytes)), offset);
        assert_eq!(found, Err(outside));
    }
}

#[test]
fn a_slot_cannot_hold_what_lies_before_the_rings_beginning() {
    let lane = Lane::URGENT;
    let at = PerLane([Sequence::new(4); 4]);
    let start = Start {
        outgoing: at,
        incoming: at,
    };
    let own = OwnHalf::create(TINY, start).unwrap();
    let liar = OwnHalf::create(TINY, start).unwrap();
    let peer = PeerHalf::open(liar.share().unwrap()).unwrap();
    let (_, mut receiver, _) = connect(own, peer).unwrap();
    crate::slot::fill(
        &liar.segment(lane, 0, 0),
        0,
        request(),
        crate::Payload::Body,
        b"x",
    );
    let fault = PeerFault::WrongSequence {
        lane,
        expected: Sequence::new(4),
        word: 1,
    };
    assert_eq!(receiver.try_receive(&mut Vec::new()), Err(fault));
}

#[test]
fn a_cursor_that_lies_is_a_fault_and_frees_nothing() {
    let lane = Lane::NORMAL;
    let own = OwnHalf::create(TINY, Start::default()).unwrap();
    let liar = OwnHalf::create(TINY, Start::default()).unwrap();
    let peer = PeerHalf::open(liar.share().unwrap()).unwrap();
    let (mut sender, ..) = connect(own, peer).unwrap();
    let say = |done| {
        let word = liar.memory.word64(layout::done_at(lane));
        word.store(done, Ordering::Release);
    };
    for _ in 0..4 {
        sender.try_send(lane, request(), b"x").unwrap();
    }
    say(5);
    let ahead = PeerFault::CursorAhead {
        lane,
        next: Sequence::new(4),
        now: Sequence::new(5),
    };
    assert_eq!(sender.done(lane), Err(ahead));
    assert_eq!(
        sender.try_send(lane, request(), b"x"),
        Err(SendError::Peer(ahead))
    );
    say(3);
    assert_eq!(sender.done(lane), Ok(Sequence::new(3)));
    say(2);
    let back = PeerFault::CursorBack {
        lane,
        seen: Sequence::new(3),
        now: Sequence::new(2),
    };
    assert_eq!(sender.done(lane), Err(back));
}

#[test]
fn a_segment_that_lies_is_a_fault() {
    let lane = Lane::NORMAL;
    let geometry = Geometry { growth: 2, ..TINY };
    // A start before the ring's, and a segment without memory (of which only the kernel tells).
    let lies = [(3, true), (20, false)];
    for (start, allocated) in lies.into_iter().take(1 + usize::from(crate::ENFORCED)) {
        let at = PerLane([Sequence::new(8); 4]);
        let begin = Start {
            outgoing: at,
            incoming: at,
        };
        let own = OwnHalf::create(geometry, begin).unwrap();
        let liar = OwnHalf::create(geometry, begin).unwrap();
        let peer = PeerHalf::open(liar.share().unwrap()).unwrap();
        let (_, mut receiver, _) = connect(own, peer).unwrap();
        if allocated {
            assert!(liar.allocate_segment(lane, 1));
        }
        liar.link_segment(lane, 1, start);
        let fault = PeerFault::WrongSegment {
            lane,
            segment: 1,
            start: Sequence::new(start),
        };
        assert_eq!(receiver.try_receive(&mut Vec::new()), Err(fault));
        let again = PeerHalf::open(liar.share().unwrap()).unwrap();
        assert_eq!(again.published(lane), Sequence::new(8));
    }
}

// Only the kernel's own memory files say what memory they have.
#[cfg(not(weft_portable))]
#[test]
fn a_segment_that_was_a_lie_from_the_beginning_is_a_fault_too() {
    let lane = Lane::NORMAL;
    let geometry = Geometry { growth: 2, ..TINY };
    let own = OwnHalf::create(geometry, Start::default()).unwrap();
    let liar = OwnHalf::create(geometry, Start::default()).unwrap();
    liar.link_segment(lane, 1, 20);
    let peer = PeerHalf::open(liar.share().unwrap()).unwrap();
    let (_, mut receiver, _) = connect(own, peer).unwrap();
    let fault = receiver.try_receive(&mut Vec::new());
    assert!(
        matches!(fault, Err(PeerFault::WrongSegment { segment: 1, .. })),
        "{fault:?}"
    );
}

#[test]
fn a_peer_cannot_have_more_than_a_ring_out() {
    let lane = Lane::NORMAL;
    let own = OwnHalf::create(TINY, Start::default()).unwrap();
    let liar = OwnHalf::create(TINY, Start::default()).unwrap();
    let peer = PeerHalf::open(liar.share().unwrap()).unwrap();
    let (_, mut receiver, _) = connect(own, peer).unwrap();
    let mut body = Vec::new();
    // It fills each slot again as soon as it was read, though nothing is done.
    let mut fill = |sequence: u64| {
        crate::slot::fill(
            &liar.segment(lane, 0, 0),
            sequence,
            request(),
            crate::Payload::Body,
            b"x",
        );
        receiver.try_receive(&mut body).unwrap().is_some()
    };
    assert!((0..4).all(&mut fill));
    assert!(!fill(4));
    assert_eq!(receiver.taken(lane), Sequence::new(4));
    let beyond = receiver.skip(lane, Sequence::new(5));
    assert!(matches!(beyond, Err(RewindError::Beyond { .. })));
}

#[test]
fn a_peer_that_scribbles_while_we_read_gets_errors_only() {
    let own = OwnHalf::create(TINY, Start::default()).unwrap();
    let liar = OwnHalf::create(TINY, Start::default()).unwrap();
    let peer = PeerHalf::open(liar.share().unwrap()).unwrap();
    let (mut sender, mut receiver, swapper) = connect(own, peer).unwrap();
    let stop = AtomicU32::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = SmallRng::seed_from_u64(1);
            while stop.load(Ordering::Relaxed) == 0 {
                // All words behind the header, the small values that get through more often.
                let words = (TINY.region_bytes() as usize - layout::BELL_AT) / 8;
                let at = layout::BELL_AT + 8 * random.random_range(0..words.min(800));
                let value = match random.random_range(0..4) {
                    0 => random.random_range(0..12),
                    1 => random.random_range(0..12) | 1 << 16 | random.random_range(0..5000) << 32,
                    2 => 1 << 16 | random.random_range(0..8) << 32,
                    _ => random.random(),
                };
                liar.memory.word64(at).store(value, Ordering::Relaxed);
            }
        });
        let end = std::time::Instant::now() + Duration::from_millis(300);
        while std::time::Instant::now() < end {
            for lane in Lane::ALL {
                let _ = sender.try_send(lane, request(), &[7; 300]);
                let _ = sender.unacknowledged(lane);
                let _ = receiver.try_receive_lane(lane, &mut Vec::new());
                receiver.finish(lane, receiver.expected(lane));
                let _ = swapper.peer_published(lane);
            }
            let _ = receiver.ready();
        }
        stop.store(1, Ordering::Relaxed);
    });
}

/// Words at random places: in the control page, in the slots, in the arenas; now and then one in
/// the header, which mostly means that the half is refused.
fn words() -> impl Strategy<Value = Vec<(usize, u64)>> {
    let end = TINY.region_bytes() as usize / 8;
    let place = prop_oneof![
        2 => layout::BELL_AT / 8..80,
        // The four words of interest of the sixteen slots.
        8 => (0..16usize, 0..4usize).prop_map(|(slot, word)| 512 + slot * 16 + word),
        1 => layout::BELL_AT / 8..end,
    ];
    let value = || {
        prop_oneof![
            any::<u64>(),
            0..20u64,
            (0..7u64, 0..3u64, 0..6000u64)
                .prop_map(|(kind, flags, len)| kind << 16 | flags << 24 | len << 32),
            (0..64u32, 0..3u64).prop_map(|(shift, less)| (1u64 << shift).wrapping_sub(less)),
        ]
    };
    let header = prop::option::weighted(0.2, (0..12usize, value()));
    let rest = prop::collection::vec((place, value()), 0..64);
    (header, rest).prop_map(|(header, rest)| header.into_iter().chain(rest).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn random_words_in_a_half_cause_errors_only(words in words()) {
        let mut bytes = honest_bytes();
        for (at, value) in words {
            put(&mut bytes, at * 8, value);
        }
        if let Ok((mut sender, mut receiver, swapper)) = with_peer(&bytes) {
            exercise(&mut sender, &mut receiver, &swapper);
            // The same liar as a successor.
            if let Ok(peer) = PeerHalf::open(forged(&bytes, all_seals())) {
                swapper.swap(peer);
                exercise(&mut sender, &mut receiver, &swapper);
            }
        }
    }

}
