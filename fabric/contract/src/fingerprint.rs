//! Fingerprints: what a type looks like, in 64 bits.

use std::fmt::Write;

use ring::digest::{Context, SHA256, digest};
use weft_types::Fingerprint;

use crate::{Message, TypeSchema};

/// Sets these hashes apart from every other use of SHA-256; the number is the recipe's version.
const DOMAIN: &[u8] = b"weft type fingerprint 1\0";

/// The fingerprint of a message type: the first 64 bits of SHA-256 over its name, its version and
/// its schema in postcard's encoding.
///
/// The same on every machine: nothing in a schema depends on the target (`usize` has none). It
/// guards against mistakes, not against forgers, who could just as well send wrong bytes.
#[must_use]
pub fn fingerprint<M: Message>() -> Fingerprint {
    fingerprint_of(M::NAME, M::VERSION, &TypeSchema::of::<M>())
}

/// The fingerprint of a type of which only the description is known.
pub(crate) fn fingerprint_of(name: &str, version: u16, schema: &TypeSchema) -> Fingerprint {
    let mut context = Context::new(&SHA256);
    context.update(DOMAIN);
    // No name has a zero byte, so the end of the name is plain.
    context.update(name.as_bytes());
    context.update(&[0]);
    context.update(&version.to_le_bytes());
    context.update(schema.encoded());
    let digest = context.finish();
    let mut first = [0; 8];
    first.copy_from_slice(&digest.as_ref()[..8]);
    Fingerprint::new(u64::from_be_bytes(first))
}

/// SHA-256 of `bytes` in lower-case hex: how digests of states are written everywhere.
#[must_use]
pub fn digest_hex(bytes: &[u8]) -> String {
    let digest = digest(&SHA256, bytes);
    digest
        .as_ref()
        .iter()
        .fold(String::with_capacity(64), |mut hex, byte| {
            // Writing to a string does not fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        })
}

#[cfg(test)]
mod tests {
    use postcard_schema::Schema;
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::Message;

    macro_rules! shape {
        ($module:ident, $name:literal, $version:literal, { $($body:tt)* }) => {
            mod $module {
                use super::*;

                #[derive(Serialize, Deserialize, Schema, Message)]
                #[message(crate = crate, name = $name, version = $version)]
                pub(super) struct Shape { $($body)* }
            }
        };
    }

    shape!(base, "test.Shape", 1, { a: u32, b: Vec<String> });
    shape!(same, "test.Shape", 1, { a: u32, b: Vec<String> });
    shape!(renamed, "test.Shape2", 1, { a: u32, b: Vec<String> });
    shape!(newer, "test.Shape", 2, { a: u32, b: Vec<String> });
    shape!(wider, "test.Shape", 1, { a: u64, b: Vec<String> });
    shape!(swapped, "test.Shape", 1, { b: Vec<String>, a: u32 });
    shape!(field, "test.Shape", 1, { a: u32, c: Vec<String> });

    #[test]
    fn every_difference_of_name_version_or_shape_shows() {
        let base = fingerprint::<base::Shape>();
        assert_eq!(base, fingerprint::<same::Shape>());
        for other in [
            fingerprint::<renamed::Shape>(),
            fingerprint::<newer::Shape>(),
            fingerprint::<wider::Shape>(),
            fingerprint::<swapped::Shape>(),
            fingerprint::<field::Shape>(),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn a_digest_is_plain_sha_256() {
        assert_eq!(
            digest_hex(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn the_fingerprint_is_the_same_on_every_machine_and_in_every_build() {
        // If this fails, every node of a cluster has to be updated at once: change the recipe's
        // number above and say so, or undo what changed.
        assert_eq!(fingerprint::<base::Shape>().to_string(), "c781bb301d6e4337");
    }
}
