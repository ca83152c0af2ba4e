//! Byte fields in one piece: `#[serde(with = "weft_contract::bytes")]` on a `Vec<u8>`.
//!
//! By itself serde takes a `Vec<u8>` for a list of numbers and writes it one element at a time. The
//! encoded bytes are the same either way (a length, then the bytes), and so is the schema; only the
//! work differs, which matters for values of many kilobytes.

use std::fmt;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserializer, Serializer};

/// Writes the bytes in one piece.
///
/// # Errors
///
/// Whatever the serializer says, for example that its output is full.
pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}

/// Reads what [`serialize`] wrote, and also a list of numbers (which is what JSON has).
///
/// # Errors
///
/// If the input ends early or is neither bytes nor numbers.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    deserializer.deserialize_byte_buf(BytesVisitor)
}

/// How many bytes are reserved on the word of the input alone.
const MAX_RESERVED_BYTES: usize = 4096;

struct BytesVisitor;

impl<'de> Visitor<'de> for BytesVisitor {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        Ok(bytes.to_vec())
    }

    fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
        Ok(bytes)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut numbers: A) -> Result<Vec<u8>, A::Error> {
        let claimed = numbers.size_hint().unwrap_or(0);
        let mut bytes = Vec::with_capacity(claimed.min(MAX_RESERVED_BYTES));
        while let Some(byte) = numbers.next_element()? {
            bytes.push(byte);
        }
        Ok(bytes)
    }
}
