//! The data streams: one header, then messages.

use serde::{Deserialize, Serialize};
use weft_types::{ChannelId, Epoch, Lane, MAX_BODY_BYTES, MessageKind, Sequence, TypeIndex};

use super::WireError;

/// The longest stream header, in bytes, without its length byte: five fields of which the channel
/// takes at most 19 bytes, attempt and epoch 10 each.
pub const MAX_STREAM_HEADER_BYTES: usize = 48;

/// The longest head of a message, in bytes: 10 + 10 + 3 + 1 + 5.
pub const MAX_HEAD_BYTES: usize = 29;

/// Which way the messages of a stream flow.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
pub enum Direction {
    /// Requests and tells.
    ToService,
    /// Replies.
    ToClient,
}

/// The first thing on a data stream: what all its messages belong to.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
pub struct StreamHeader {
    /// The channel.
    pub channel: ChannelId,
    /// The opening of the channel.
    pub attempt: u64,
    /// The epoch of the opening.
    pub epoch: Epoch,
    /// Which way the messages flow.
    pub direction: Direction,
    /// The lane of all messages.
    pub lane: Lane,
}

/// What stands in front of a body.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MessageHead {
    /// Given by the original sender.
    pub sequence: Sequence,
    /// Of answers: the sequence of the request.
    pub correlation: Sequence,
    /// The type's place in the channel's table.
    pub type_index: TypeIndex,
    /// What the message is for.
    pub kind: MessageKind,
}

/// The head as it is encoded, with the length of the body that follows.
#[derive(Serialize, Deserialize)]
struct RawHead {
    sequence: u64,
    correlation: u64,
    type_index: u16,
    kind: u8,
    body_bytes: u32,
}

/// One message in a buffer of received bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Message<'a> {
    /// What it is.
    pub head: MessageHead,
    /// Its body, at most [`MAX_BODY_BYTES`] long.
    pub body: &'a [u8],
    /// How many bytes of the buffer head and body take.
    pub used_bytes: usize,
}

/// Appends a stream header, its length in front.
pub fn encode_stream_header(header: &StreamHeader, out: &mut Vec<u8>) {
    let mut buffer = [0; MAX_STREAM_HEADER_BYTES];
    let bytes = postcard::to_slice(header, &mut buffer)
        .expect("the longest header fits; a test encodes it");
    out.push(bytes.len() as u8);
    out.extend_from_slice(bytes);
}

/// Decodes a stream header from what has arrived so far; `None` if more has to come.
///
/// Returns the header and the bytes it took, length byte included.
///
/// # Errors
///
/// [`WireError`], whatever the bytes are.
pub fn decode_stream_header(bytes: &[u8]) -> Result<Option<(StreamHeader, usize)>, WireError> {
    let what = "a stream header";
    let Some((&length, rest)) = bytes.split_first() else {
        return Ok(None);
    };
    let length = usize::from(length);
    if length > MAX_STREAM_HEADER_BYTES {
        return Err(WireError::TooLong {
            what,
            bytes: length,
            limit: MAX_STREAM_HEADER_BYTES,
        });
    }
    let Some(body) = rest.get(..length) else {
        return Ok(None);
    };
    match postcard::take_from_bytes(body) {
        Ok((header, [])) => Ok(Some((header, 1 + length))),
        _ => Err(WireError::Malformed { what }),
    }
}

/// Appends the head of a message whose body of `body_bytes` follows.
///
/// The caller keeps to [`MAX_BODY_BYTES`]; a longer body would be refused at the other end.
pub fn encode_message_head(head: &MessageHead, body_bytes: u32, out: &mut Vec<u8>) {
    let raw = RawHead {
        sequence: head.sequence.get(),
        correlation: head.correlation.get(),
        type_index: head.type_index.get(),
        kind: head.kind.to_byte(),
        body_bytes,
    };
    let mut buffer = [0; MAX_HEAD_BYTES];
    let bytes =
        postcard::to_slice(&raw, &mut buffer).expect("the longest head fits; a test encodes it");
    out.extend_from_slice(bytes);
}

/// Decodes the message at the start of `bytes`; `None` if more of it has to come.
///
/// # Errors
///
/// [`WireError`], whatever the bytes are. A buffer of [`MAX_HEAD_BYTES`] + [`MAX_BODY_BYTES`] always
/// yields a message or an error.
pub fn decode_message(bytes: &[u8]) -> Result<Option<Message<'_>>, WireError> {
    let malformed = Err(WireError::Malformed {
        what: "the head of a message",
    });
    let (raw, rest) = match postcard::take_from_bytes::<RawHead>(bytes) {
        Ok(decoded) => decoded,
        Err(postcard::Error::DeserializeUnexpectedEnd) if bytes.len() < MAX_HEAD_BYTES => {
            return Ok(None);
        }
        Err(_) => return malformed,
    };
    let length = raw.body_bytes as usize;
    if length > MAX_BODY_BYTES {
        return Err(WireError::TooLong {
            what: "a body",
            bytes: length,
            limit: MAX_BODY_BYTES,
        });
    }
    let Some(kind) = MessageKind::from_byte(raw.kind) else {
        return malformed;
    };
    let Some(body) = rest.get(..length) else {
        return Ok(None);
    };
    let head = MessageHead {
        sequence: Sequence::new(raw.sequence),
        correlation: Sequence::new(raw.correlation),
        type_index: TypeIndex::new(raw.type_index),
        kind,
    };
    Ok(Some(Message {
        head,
        body,
        used_bytes: bytes.len() - rest.len() + length,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: StreamHeader = StreamHeader {
        channel: ChannelId::new(u128::MAX),
        attempt: u64::MAX,
        epoch: Epoch::new(u64::MAX),
        direction: Direction::ToClient,
        lane: Lane::LOW,
    };

    fn head(sequence: u64) -> MessageHead {
        MessageHead {
            sequence: Sequence::new(sequence),
            correlation: Sequence::new(sequence),
            type_index: TypeIndex::new(u16::MAX),
            kind: MessageKind::OutcomeUnknown,
        }
    }

    #[test]
    fn a_stream_header_comes_back_as_it_went_and_not_before_it_is_whole() {
        let mut bytes = Vec::new();
        encode_stream_header(&LONGEST, &mut bytes);
        for cut in 0..bytes.len() {
            assert_eq!(decode_stream_header(&bytes[..cut]), Ok(None));
        }
        assert_eq!(
            decode_stream_header(&bytes),
            Ok(Some((LONGEST, bytes.len())))
        );
    }

    #[test]
    fn a_message_comes_back_as_it_went_and_not_before_it_is_whole() {
        for sequence in [0, 300, u64::MAX] {
            let body = [9; 40];
            let mut bytes = Vec::new();
            encode_message_head(&head(sequence), 40, &mut bytes);
            assert!(bytes.len() <= MAX_HEAD_BYTES);
            bytes.extend_from_slice(&body);
            for cut in 0..bytes.len() {
                assert_eq!(decode_message(&bytes[..cut]), Ok(None));
            }
            bytes.push(77);
            let message = decode_message(&bytes).unwrap().unwrap();
            assert_eq!(message.head, head(sequence));
            assert_eq!(message.body, body);
            assert_eq!(message.used_bytes, bytes.len() - 1);
        }
        // The longest head there is.
        encode_message_head(&head(u64::MAX), u32::MAX, &mut Vec::new());
    }

    #[test]
    fn a_body_beyond_the_bound_and_an_unknown_kind_are_errors() {
        let mut bytes = Vec::new();
        encode_message_head(&head(1), MAX_BODY_BYTES as u32 + 1, &mut bytes);
        assert!(matches!(
            decode_message(&bytes),
            Err(WireError::TooLong { .. })
        ));
        let raw = RawHead {
            sequence: 1,
            correlation: 1,
            type_index: 1,
            kind: 99,
            body_bytes: 0,
        };
        let bytes = postcard::to_stdvec(&raw).unwrap();
        assert!(matches!(
            decode_message(&bytes),
            Err(WireError::Malformed { .. })
        ));
        let mut bytes = Vec::new();
        encode_stream_header(&LONGEST, &mut bytes);
        let last = bytes.len() - 1;
        bytes[last] = 4;
        assert!(decode_stream_header(&bytes).is_err(), "there is no lane 4");
    }
}
