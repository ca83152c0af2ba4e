//! How our two extensions are spelled in bytes.
//!
//! ```text
//! extnValue  OCTET STRING            wrapped by X.509
//!   04 len   OCTET STRING            so that stock tools can walk it
//!     u8     version, 1              another version = refused
//!     ..     postcard of the fields  in their order; bytes left over = refused
//! ```
//!
//! There is exactly one spelling of each value: what was decoded is encoded again and compared.
//! So two nodes never read different rights out of one certificate, and a field that a later
//! version adds is refused here, never skipped.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest content, in bytes, without the OCTET STRING around it. A grant that needs more is
/// refused when it is issued: name fewer messages, or grant all of them.
pub const MAX_EXTENSION_BYTES: usize = 256;

/// The version that this code writes, and the only one it reads.
const VERSION: u8 = 1;

/// Why the content of an extension was not taken.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ExtensionError {
    /// The certificate has none. This takes the place of criticality, which the libraries refuse.
    #[error("the extension is missing")]
    Missing,
    /// Twice the same extension: which one would count?
    #[error("the extension is there twice")]
    Twice,
    /// Marked critical. We never do that, and path building refuses it as well.
    #[error("the extension is marked critical")]
    Critical,
    /// Longer than [`MAX_EXTENSION_BYTES`].
    #[error("the extension has {0} bytes, {MAX_EXTENSION_BYTES} are allowed")]
    TooLong(usize),
    /// Written by a later version of this code, or by none.
    #[error("the extension has version {0}, this node reads version {VERSION} only")]
    Version(u8),
    /// Not an encoding of the fields, or not the shortest, or followed by more.
    #[error("the extension does not decode")]
    Malformed,
    /// The fields decode, and contradict each other.
    #[error("the extension contradicts itself: {0}")]
    Contradiction(&'static str),
}

/// Encodes `fields`, as the content of an X.509 extension.
pub(crate) fn encode<T: Serialize>(fields: &T) -> Result<Vec<u8>, ExtensionError> {
    let mut content = vec![VERSION];
    content.extend(postcard::to_stdvec(fields).map_err(|_| ExtensionError::Malformed)?);
    if content.len() > MAX_EXTENSION_BYTES {
        return Err(ExtensionError::TooLong(content.len()));
    }
    let mut der = vec![OCTET_STRING];
    match content.len() {
        short @ 0..=0x7f => der.push(low_byte(short)),
        medium @ 0x80..=0xff => der.extend([0x81, low_byte(medium)]),
        long => der.extend([0x82, low_byte(long >> 8), low_byte(long)]),
    }
    der.extend(content);
    Ok(der)
}

/// Decodes the content of an X.509 extension.
pub(crate) fn decode<T: Serialize + DeserializeOwned>(der: &[u8]) -> Result<T, ExtensionError> {
    // The longest content needs a header of four bytes; what is longer is not looked at.
    if der.len() > MAX_EXTENSION_BYTES + 4 {
        return Err(ExtensionError::TooLong(der.len()));
    }
    let content = octet_string(der).ok_or(ExtensionError::Malformed)?;
    let (version, fields) = content.split_first().ok_or(ExtensionError::Malformed)?;
    if *version != VERSION {
        return Err(ExtensionError::Version(*version));
    }
    let (value, rest) =
        postcard::take_from_bytes::<T>(fields).map_err(|_| ExtensionError::Malformed)?;
    if !rest.is_empty() || encode(&value)? != der {
        return Err(ExtensionError::Malformed);
    }
    Ok(value)
}

const OCTET_STRING: u8 = 0x04;

fn low_byte(length: usize) -> u8 {
    length.to_le_bytes()[0]
}

/// The content of the one OCTET STRING that `der` consists of.
fn octet_string(der: &[u8]) -> Option<&[u8]> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, content) = match (first, rest) {
        (0..=0x7f, content) => (usize::from(first), content),
        (0x81, [length, content @ ..]) => (usize::from(*length), content),
        (0x82, [high, low, content @ ..]) => (usize::from(*high) << 8 | usize::from(*low), content),
        _ => return None,
    };
    (tag == OCTET_STRING && content.len() == length).then_some(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_up_to_the_bound_comes_back_and_the_next_is_refused() {
        for length in 0..MAX_EXTENSION_BYTES - 3 {
            let text = "x".repeat(length);
            let der = encode(&text).unwrap();
            assert_eq!(decode::<String>(&der), Ok(text));
        }
        let long = "x".repeat(MAX_EXTENSION_BYTES);
        assert!(matches!(encode(&long), Err(ExtensionError::TooLong(_))));
    }

    #[test]
    fn what_is_too_long_is_refused_unread() {
        let mut der = vec![0x04, 0x82, 0x01, 0x01];
        der.extend([1; 0x101]);
        assert_eq!(decode::<String>(&der), Err(ExtensionError::TooLong(261)));
        assert!(matches!(
            decode::<String>(&vec![4; 5000]),
            Err(ExtensionError::TooLong(5000))
        ));
    }

    #[test]
    fn another_version_a_byte_more_and_a_longer_spelling_are_refused() {
        let der = encode(&7_u64).unwrap();
        assert_eq!(der, [4, 2, 1, 7]);
        assert_eq!(decode::<u64>(&der), Ok(7));
        assert_eq!(
            decode::<u64>(&[4, 2, 2, 7]),
            Err(ExtensionError::Version(2))
        );
        assert_eq!(
            decode::<u64>(&[4, 3, 1, 7, 0]),
            Err(ExtensionError::Malformed)
        );
        assert_eq!(
            decode::<u64>(&[4, 0x81, 2, 1, 7]),
            Err(ExtensionError::Malformed)
        );
        assert_eq!(
            decode::<u64>(&[4, 3, 1, 0x87, 0]),
            Err(ExtensionError::Malformed)
        );
        assert_eq!(decode::<u64>(&[]), Err(ExtensionError::Malformed));
        assert_eq!(decode::<u64>(&[4, 0]), Err(ExtensionError::Malformed));
    }
}
