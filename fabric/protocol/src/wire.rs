//! What two gateways say to each other over one QUIC connection.
//!
//! ```text
//!   control stream (bidirectional, opened by who dialled)
//!     | length u32 LE | Control, postcard |  ...            first of each side: Hello
//!
//!   data stream (unidirectional, one for each channel, direction and lane, opened with its
//!   first message, never used again after its channel was opened anew)
//!     | length u8 | StreamHeader, postcard |
//!     | MessageHead, postcard | body |  ...
//! ```
//!
//! Every frame belongs to one *attempt*: the client's node counts how often it has opened a channel,
//! and both sides drop what carries another number than the last. So nothing that was under way
//! when a channel was opened anew is mistaken for part of what follows.
//!
//! The decoders are pure functions of bytes that a hostile peer has chosen: they return typed
//! errors, allocate no more than the bytes that they were given, and never panic.

mod control;
mod data;

pub use control::{
    Control, MAX_CONTROL_BYTES, MAX_REFUSAL_BYTES, MAX_TABLE_BYTES, Open, PresentedBytes,
    control_length, decode_control, encode_control,
};
pub use data::{
    Direction, MAX_HEAD_BYTES, MAX_STREAM_HEADER_BYTES, Message, MessageHead, StreamHeader,
    decode_message, decode_stream_header, encode_message_head, encode_stream_header,
};

/// The version of everything on this page. Two gateways of different versions refuse each other.
pub const VERSION: u16 = 2;

/// Bytes that are no frame of this protocol.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum WireError {
    /// A length beyond its bound.
    #[error("{what} of {bytes} bytes is longer than the {limit} that are allowed")]
    TooLong {
        /// What is too long.
        what: &'static str,
        /// Its length.
        bytes: usize,
        /// The bound.
        limit: usize,
    },
    /// Bytes that do not decode, or more of them than the frame needs.
    #[error("{what} does not decode")]
    Malformed {
        /// What was expected.
        what: &'static str,
    },
}
