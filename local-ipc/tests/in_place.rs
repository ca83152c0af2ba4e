//! Bodies that are written and read where they lie.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::{channel, tell};
use weft_local_ipc::*;
use weft_types::{Lane, MAX_BODY_BYTES, Sequence};

const LANE: Lane = Lane::HIGH;

#[test]
fn what_is_filled_in_place_arrives() {
    let (mut a, mut b) = channel(Geometry::DEFAULT);
    for len in [0, 1, 8, 104, 105, 112, 113, 4096, MAX_BODY_BYTES] {
        for correlation in [0, 5] {
            let header = Header {
                correlation: Sequence::new(correlation),
                ..tell()
            };
            let sequence = a.sender.try_send_in_place(LANE, header, len, |bytes| {
                assert_eq!(bytes.len(), len);
                bytes
                    .iter_mut()
                    .zip(0..)
                    .for_each(|(byte, n)| *byte = n as u8);
            });
            let (got, (header_seen, copy)) = b
                .receiver
                .try_receive_in_place(|header, view| {
                    let mut copy = vec![0; view.len()];
                    assert!(view.copy_to(0, &mut copy));
                    assert!(!view.copy_to(1, &mut copy) || len == 0, "beyond its end");
                    assert_eq!(view.read::<u64>(len.saturating_sub(7)), None);
                    assert_eq!(view.read::<u8>(usize::MAX), None);
                    if len >= 16 {
                        let word = u64::from_le_bytes([5, 6, 7, 8, 9, 10, 11, 12]);
                        assert_eq!(view.read::<u64>(5), Some(word));
                    }
                    let words = view.words().unwrap();
                    assert_eq!(words.len(), len / 8);
                    assert_eq!(words.get(len / 8), None);
                    let whole: Vec<u8> = words.iter().flat_map(u64::to_ne_bytes).collect();
                    assert!(whole == copy[..len / 8 * 8]);
                    (header, copy)
                })
                .unwrap()
                .unwrap();
            assert_eq!(Ok(got.sequence), sequence);
            assert_eq!((got.header, header_seen), (header, header));
            let expected: Vec<u8> = (0..len).map(|n| n as u8).collect();
            assert!(copy == expected, "{len} bytes");
            b.receiver.finish(LANE, got.sequence.next());
        }
    }
}

#[test]
fn a_fill_that_panics_sends_nothing() {
    let (mut a, mut b) = channel(Geometry::DEFAULT);
    for len in [8, 4096] {
        let send = std::panic::AssertUnwindSafe(|| {
            a.sender
                .try_send_in_place(LANE, tell(), len, |_| panic!("as asked"))
        });
        assert!(std::panic::catch_unwind(send).is_err());
    }
    assert_eq!(a.sender.next(LANE), Sequence::ZERO);
    assert_eq!(b.receiver.try_receive(&mut Vec::new()), Ok(None));
    a.sender.try_send(LANE, tell(), b"next").unwrap();
    let mut body = Vec::new();
    b.receiver.try_receive(&mut body).unwrap().unwrap();
    assert_eq!(body, b"next");
}

#[test]
fn without_room_nothing_is_filled() {
    let (mut a, _b) = channel(Geometry {
        slots: 2,
        arena_bytes: 4096,
        ..Geometry::DEFAULT.fixed()
    });
    a.sender
        .try_send_in_place(LANE, tell(), 4000, |_| ())
        .unwrap();
    let untouched = |_: &mut [u8]| panic!("must not be called");
    let full = a.sender.try_send_in_place(LANE, tell(), 200, untouched);
    assert_eq!(full, Err(SendError::Full { lane: LANE }));
    let large = a.sender.try_send_in_place(LANE, tell(), 5000, untouched);
    assert!(matches!(large, Err(SendError::TooLarge { .. })));
}
