//! The object identifiers of Weft: two key usages and two extensions.
//!
//! The arc is 1.3.6.1.4.1.32473, the enterprise number that RFC 5612 sets aside for examples, so
//! nobody else's certificate means something by it. A number of our own takes its place here, in
//! one line, before certificates leave the clusters of those who run this code.

/// One identifier, written down both ways that libraries want it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ObjectId {
    /// As numbers, to issue with.
    pub arcs: &'static [u64],
    /// As the content octets of DER, to verify with.
    pub der: &'static [u8],
}

macro_rules! weft_oid {
    ($kind:literal, $number:literal) => {
        ObjectId {
            arcs: &[1, 3, 6, 1, 4, 1, 32473, $kind, $number],
            der: &[0x2b, 6, 1, 4, 1, 0x81, 0xfd, 0x59, $kind, $number],
        }
    };
}

/// Extended key usage: this certificate is a capability, and good for nothing else.
pub const CAPABILITY_USAGE: ObjectId = weft_oid!(1, 1);
/// Extended key usage: this certificate names an instance of a service.
pub const INSTANCE_USAGE: ObjectId = weft_oid!(1, 2);
/// Extension: the rights of a capability.
pub const CAPABILITY_EXTENSION: ObjectId = weft_oid!(2, 1);
/// Extension: node and epoch of an instance.
pub const INSTANCE_EXTENSION: ObjectId = weft_oid!(2, 2);

/// Extended key usage of TLS servers (RFC 5280), as DER content octets.
pub(crate) const SERVER_USAGE_DER: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
/// Extended key usage of TLS clients (RFC 5280), as DER content octets.
pub(crate) const CLIENT_USAGE_DER: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_an_identifier_are_the_same_identifier() {
        for id in [
            CAPABILITY_USAGE,
            INSTANCE_USAGE,
            CAPABILITY_EXTENSION,
            INSTANCE_EXTENSION,
        ] {
            let encoded = x509_parser::oid_registry::Oid::from(id.arcs).unwrap();
            assert_eq!(encoded.as_bytes(), id.der, "{encoded}");
        }
    }
}
