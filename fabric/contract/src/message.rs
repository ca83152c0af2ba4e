//! Messages as bytes.
//!
//! The encoding is postcard: no field names, no padding, integers as varints. A body is at most
//! [`MAX_BODY_BYTES`] long; both directions enforce it, since the other side may be hostile and we
//! may have a bug.

use postcard::ser_flavors::Flavor;
use postcard_schema::Schema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use weft_types::{MAX_BODY_BYTES, Refusal, RefusalCode, TypeIndex};

/// What can be sent.
///
/// Derived, together with serde's traits and the schema:
/// `#[derive(Serialize, Deserialize, Schema, Message)]`, and where the defaults (the type's ident,
/// version 1) do not fit, `#[message(name = "kv.Put", version = 2)]`.
///
/// A published type never changes. What has to change becomes a new type of the same name and the
/// next version, and a service that knows both serves both.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a message",
    note = "derive it: #[derive(Serialize, Deserialize, Schema, Message)]"
)]
pub trait Message: Serialize + DeserializeOwned + Schema + Send + 'static {
    /// What both sides call this type.
    const NAME: &'static str;
    /// Which version of that name this is, from 1.
    const VERSION: u16;
}

/// A message that cannot be turned into bytes. The caller is at fault.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum EncodeError {
    /// The encoded body would be longer than [`MAX_BODY_BYTES`].
    #[error("this {type_name} takes more than {limit_bytes} bytes: send it in pieces")]
    TooLarge {
        /// The message's type.
        type_name: &'static str,
        /// The most that is allowed.
        limit_bytes: usize,
    },
    /// The type's own `Serialize` refused.
    #[error("this {type_name} cannot be encoded: {reason}")]
    Refused {
        /// The message's type.
        type_name: &'static str,
        /// What postcard says.
        reason: postcard::Error,
    },
}

/// Bytes that are not the message that they claim to be. The peer is at fault.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// The body is longer than [`MAX_BODY_BYTES`]; it was not looked at.
    #[error(
        "a body of {len_bytes} bytes is too large for a {type_name}: the limit is {MAX_BODY_BYTES}"
    )]
    TooLarge {
        /// The type that it claims to be.
        type_name: &'static str,
        /// The body's length in bytes.
        len_bytes: usize,
    },
    /// The bytes end early, or hold a value that the type does not have.
    #[error("these {len_bytes} bytes are not a {type_name}: {reason}")]
    Malformed {
        /// The type that they claim to be.
        type_name: &'static str,
        /// The body's length in bytes.
        len_bytes: usize,
        /// What postcard says.
        reason: postcard::Error,
    },
    /// A whole message, and then something more.
    #[error("{extra_bytes} bytes follow the end of a {type_name}")]
    Trailing {
        /// The type that was read.
        type_name: &'static str,
        /// How many bytes are left over.
        extra_bytes: usize,
    },
    /// The contract has no message at this index.
    #[error("contract {contract} has no message {}", .index.get())]
    UnknownIndex {
        /// The contract's name.
        contract: &'static str,
        /// The index that the peer sent.
        index: TypeIndex,
    },
}

impl From<EncodeError> for Refusal {
    fn from(error: EncodeError) -> Self {
        let code = match error {
            EncodeError::TooLarge { .. } => RefusalCode::TooLarge,
            EncodeError::Refused { .. } => RefusalCode::Internal,
        };
        Self::new(code, error.to_string())
    }
}

impl From<DecodeError> for Refusal {
    fn from(error: DecodeError) -> Self {
        let code = match error {
            DecodeError::TooLarge { .. } => RefusalCode::TooLarge,
            DecodeError::Malformed { .. } | DecodeError::Trailing { .. } => RefusalCode::Malformed,
            DecodeError::UnknownIndex { .. } => RefusalCode::UnknownMessage,
        };
        Self::new(code, error.to_string())
    }
}

/// Appends the message's bytes to `out`.
///
/// # Errors
///
/// [`EncodeError`]; `out` is then as it was before.
pub fn encode<M: Message>(message: &M, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let start = out.len();
    postcard::serialize_with_flavor(message, Body::new(out, start)).map_err(|reason| {
        out.truncate(start);
        match reason {
            postcard::Error::SerializeBufferFull => EncodeError::TooLarge {
                type_name: M::NAME,
                limit_bytes: MAX_BODY_BYTES,
            },
            reason => EncodeError::Refused {
                type_name: M::NAME,
                reason,
            },
        }
    })
}

/// Reads a message that fills `bytes` to the last byte.
///
/// # Errors
///
/// [`DecodeError`], which names the type.
pub fn decode<M: Message>(bytes: &[u8]) -> Result<M, DecodeError> {
    let type_name = M::NAME;
    let len_bytes = bytes.len();
    if len_bytes > MAX_BODY_BYTES {
        return Err(DecodeError::TooLarge {
            type_name,
            len_bytes,
        });
    }
    let (message, rest) =
        postcard::take_from_bytes(bytes).map_err(|reason| DecodeError::Malformed {
            type_name,
            len_bytes,
            reason,
        })?;
    if rest.is_empty() {
        Ok(message)
    } else {
        Err(DecodeError::Trailing {
            type_name,
            extra_bytes: rest.len(),
        })
    }
}

/// Takes postcard's output and stops it at [`MAX_BODY_BYTES`], so that a value of any size costs no
/// more memory than a body.
pub(crate) struct Body<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Body<'a> {
    /// A body that begins at `start` in `out`.
    pub(crate) fn new(out: &'a mut Vec<u8>, start: usize) -> Self {
        Self { out, start }
    }

    fn check_room(&self, more: usize) -> postcard::Result<()> {
        if self.out.len() - self.start + more > MAX_BODY_BYTES {
            return Err(postcard::Error::SerializeBufferFull);
        }
        Ok(())
    }
}

impl Flavor for Body<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.check_room(1)?;
        self.out.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.check_room(bytes.len())?;
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize, Schema, weft_contract_derive::Message)]
    #[message(crate = crate, name = "test.Note", version = 3)]
    struct Note {
        text: String,
        #[serde(with = "crate::bytes")]
        bytes: Vec<u8>,
        #[serde(with = "crate::optional_bytes")]
        more: Option<Vec<u8>>,
    }

    fn note(len: usize) -> Note {
        Note {
            text: "n".into(),
            bytes: vec![7; len],
            more: Some(vec![1, 2]),
        }
    }

    #[test]
    fn a_message_comes_back_and_its_place_in_the_buffer_is_respected() {
        assert_eq!((Note::NAME, Note::VERSION), ("test.Note", 3));
        let mut out = vec![9, 9];
        encode(&note(3), &mut out).unwrap();
        assert_eq!(out[..2], [9, 9]);
        assert_eq!(decode::<Note>(&out[2..]), Ok(note(3)));
    }

    #[test]
    fn the_longest_name_is_as_long_for_the_derive_as_for_the_decoder() {
        // One letter more is refused by the derive: see tests/ui.
        #[derive(Serialize, Deserialize, Schema, weft_contract_derive::Message)]
        #[message(
            crate = crate,
            name = "x234567890123456789012345678901234567890123456789012345678901234"
        )]
        struct Long {}
        assert_eq!(Long::NAME.len(), crate::MAX_TYPE_NAME_BYTES);
    }

    #[test]
    fn bytes_in_one_piece_have_the_encoding_that_the_schema_says() {
        #[derive(Serialize, Schema)]
        struct Plain {
            text: String,
            bytes: Vec<u8>,
            more: Option<Vec<u8>>,
        }
        let plain = Plain {
            text: "n".into(),
            bytes: vec![7; 300],
            more: Some(vec![1, 2]),
        };
        let mut out = Vec::new();
        encode(&note(300), &mut out).unwrap();
        assert_eq!(out, postcard::to_stdvec(&plain).unwrap());
        assert_eq!(Note::SCHEMA.ty, Plain::SCHEMA.ty);
        let json = serde_json::to_string(&note(2)).unwrap();
        assert_eq!(serde_json::from_str::<Note>(&json).unwrap(), note(2));
    }

    #[test]
    fn the_largest_body_passes_and_one_byte_more_leaves_the_buffer_alone() {
        // Around the 3-byte length lie "n" (2 bytes) and the optional bytes (4).
        let fits = MAX_BODY_BYTES - 3 - 2 - 4;
        let mut out = Vec::new();
        encode(&note(fits), &mut out).unwrap();
        assert_eq!(out.len(), MAX_BODY_BYTES);
        assert!(decode::<Note>(&out).is_ok());

        let mut out = vec![5];
        let error = encode(&note(fits + 1), &mut out).unwrap_err();
        assert_eq!(out, [5]);
        assert_eq!(Refusal::from(error).code, RefusalCode::TooLarge);
        assert!(matches!(
            decode::<Note>(&vec![0; MAX_BODY_BYTES + 1]),
            Err(DecodeError::TooLarge { .. })
        ));
    }

    #[test]
    fn bytes_that_end_early_or_late_are_refused_by_name() {
        let mut out = Vec::new();
        encode(&note(3), &mut out).unwrap();
        for end in 0..out.len() {
            let error = decode::<Note>(&out[..end]).unwrap_err();
            assert!(error.to_string().contains("test.Note"), "{error}");
        }
        out.push(0);
        assert_eq!(
            decode::<Note>(&out),
            Err(DecodeError::Trailing {
                type_name: "test.Note",
                extra_bytes: 1
            })
        );
    }

    #[test]
    fn a_length_that_lies_reserves_nothing() {
        // A string of 2³⁵ bytes, and bytes of the same claim.
        let claim = [0xff, 0xff, 0xff, 0xff, 0x7f];
        assert!(decode::<Note>(&claim).is_err());
        let mut second = vec![0];
        second.extend(claim);
        assert!(decode::<Note>(&second).is_err());
    }
}
