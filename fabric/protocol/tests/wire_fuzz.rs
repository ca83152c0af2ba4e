//! Decoders against bytes of a hostile peer: an error or a frame, never a panic, and whatever
//! decodes encodes to something that decodes to the same.

use proptest::prelude::*;
use weft_protocol::wire::{
    MAX_HEAD_BYTES, decode_control, decode_message, decode_stream_header, encode_control,
    encode_message_head, encode_stream_header,
};
use weft_types::MAX_BODY_BYTES;

/// Random bytes, of which the first choose a frame more often than chance would.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let tail = prop::collection::vec(prop_oneof![any::<u8>(), 0..5_u8, Just(b'a')], 0..300);
    (0..9_u8, tail).prop_map(|(first, mut tail)| {
        tail.insert(0, first);
        tail
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_control_frame_decodes_or_fails_but_never_panics(bytes in bytes()) {
        if let Ok(frame) = decode_control(&bytes) {
            let mut again = Vec::new();
            encode_control(&frame, &mut again).unwrap();
            prop_assert_eq!(decode_control(&again[4..]), Ok(frame));
        }
    }

    #[test]
    fn a_data_stream_decodes_or_fails_but_never_panics(bytes in bytes()) {
        if let Ok(Some((header, used))) = decode_stream_header(&bytes) {
            prop_assert!(used <= bytes.len());
            let mut again = Vec::new();
            encode_stream_header(&header, &mut again);
            prop_assert_eq!(decode_stream_header(&again), Ok(Some((header, again.len()))));
        }
        if let Ok(Some(message)) = decode_message(&bytes) {
            prop_assert!(message.used_bytes <= bytes.len());
            let mut again = Vec::new();
            encode_message_head(&message.head, message.body.len() as u32, &mut again);
            again.extend_from_slice(message.body);
            let decoded = decode_message(&again).unwrap().unwrap();
            prop_assert_eq!((decoded.head, decoded.body), (message.head, message.body));
        }
    }

    #[test]
    fn a_full_buffer_never_asks_for_more(first in prop::collection::vec(any::<u8>(), MAX_HEAD_BYTES)) {
        let mut bytes = first;
        bytes.resize(MAX_HEAD_BYTES + MAX_BODY_BYTES, 0);
        prop_assert_ne!(decode_message(&bytes), Ok(None));
    }
}
