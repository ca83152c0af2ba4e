//! What the compiler checks about each message and contract, before anything runs.
//!
//! The derive and [`crate::contract!`] write constants that call these functions, so a type that
//! could hurt its reader does not compile, and nothing has to be checked when a message arrives.

use postcard_schema::schema::{DataModelType, DataModelVariant, NamedType, NamedValue};

use crate::schema::MAX_SCHEMA_DEPTH;
use crate::table::{MAX_TYPE_NAME_BYTES, MAX_TYPES};
use crate::{Contract, Message};

/// Fails to compile unless `M` has a proper name, is not nested too deep, and has no sequence whose
/// elements may take no bytes.
///
/// Of such a sequence (`Vec<()>`) three bytes can claim 2⁶⁴ elements, and the reader would count
/// them all.
pub const fn assert_sendable<M: Message>() {
    assert!(is_type_name(M::NAME), "the message's name breaks the rules");
    assert!(
        depth(M::SCHEMA) <= MAX_SCHEMA_DEPTH,
        "the message is nested too deep"
    );
    assert!(
        sequences_take_bytes(M::SCHEMA),
        "the message has a sequence or map whose elements may take no bytes: a peer could claim \
         any number of them"
    );
}

/// Fails to compile unless the contract has a proper name, not too many messages, and no two of
/// the same name and version.
pub const fn assert_contract<C: Contract>(messages: &[(&str, u16)]) {
    assert!(
        is_contract_name(C::NAME),
        "a contract's name is 1 to 40 of a-z, 0-9, '-' and '.', first and last a letter or digit"
    );
    assert!(C::VERSION > 0, "versions count from 1");
    assert!(
        messages.len() <= MAX_TYPES,
        "a contract has at most 256 messages"
    );
    let mut i = 0;
    while i < messages.len() {
        let mut j = i + 1;
        while j < messages.len() {
            assert!(
                messages[i].1 != messages[j].1
                    || !equal(messages[i].0.as_bytes(), messages[j].0.as_bytes()),
                "two messages of the contract have the same name and version"
            );
            j += 1;
        }
        i += 1;
    }
}

/// Whether this can be the name of a message type: 1 to [`MAX_TYPE_NAME_BYTES`] of `a-z`, `A-Z`,
/// `0-9`, `.`, `_` and `-`.
#[must_use]
pub const fn is_type_name(name: &str) -> bool {
    let name = name.as_bytes();
    let mut i = 0;
    while i < name.len() {
        if !(name[i].is_ascii_alphanumeric() || matches!(name[i], b'.' | b'_' | b'-')) {
            return false;
        }
        i += 1;
    }
    !name.is_empty() && name.len() <= MAX_TYPE_NAME_BYTES
}

/// The rules of `weft_types::ContractName`, where the compiler can follow them.
const fn is_contract_name(name: &str) -> bool {
    const fn is_plain(byte: u8) -> bool {
        byte.is_ascii_lowercase() || byte.is_ascii_digit()
    }
    let name = name.as_bytes();
    let mut i = 0;
    while i < name.len() {
        if !(is_plain(name[i]) || matches!(name[i], b'-' | b'.')) {
            return false;
        }
        i += 1;
    }
    !name.is_empty() && name.len() <= 40 && is_plain(name[0]) && is_plain(name[name.len() - 1])
}

const fn equal(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}

const fn max(a: usize, b: usize) -> usize {
    if a > b { a } else { b }
}

/// How many levels of types lie within each other, the outermost included.
const fn depth(named: &NamedType) -> usize {
    1 + match named.ty {
        DataModelType::Option(inner)
        | DataModelType::NewtypeStruct(inner)
        | DataModelType::Seq(inner) => depth(inner),
        DataModelType::Tuple(items) | DataModelType::TupleStruct(items) => depth_of_items(items),
        DataModelType::Map { key, val } => max(depth(key), depth(val)),
        DataModelType::Struct(fields) => depth_of_fields(fields),
        DataModelType::Enum(variants) => {
            let mut deepest = 0;
            let mut i = 0;
            while i < variants.len() {
                let of_variant = match variants[i].ty {
                    DataModelVariant::UnitVariant => 0,
                    DataModelVariant::NewtypeVariant(inner) => depth(inner),
                    DataModelVariant::TupleVariant(items) => depth_of_items(items),
                    DataModelVariant::StructVariant(fields) => depth_of_fields(fields),
                };
                deepest = max(deepest, of_variant);
                i += 1;
            }
            deepest
        }
        _ => 0,
    }
}

const fn depth_of_items(items: &[&NamedType]) -> usize {
    let mut deepest = 0;
    let mut i = 0;
    while i < items.len() {
        deepest = max(deepest, depth(items[i]));
        i += 1;
    }
    deepest
}

const fn depth_of_fields(fields: &[&NamedValue]) -> usize {
    let mut deepest = 0;
    let mut i = 0;
    while i < fields.len() {
        deepest = max(deepest, depth(fields[i].ty));
        i += 1;
    }
    deepest
}

/// Whether a value of this type takes at least one byte, whatever the value.
const fn takes_bytes(named: &NamedType) -> bool {
    match named.ty {
        DataModelType::Unit | DataModelType::UnitStruct => false,
        DataModelType::NewtypeStruct(inner) => takes_bytes(inner),
        DataModelType::Tuple(items) | DataModelType::TupleStruct(items) => {
            let mut i = 0;
            while i < items.len() {
                if takes_bytes(items[i]) {
                    return true;
                }
                i += 1;
            }
            false
        }
        DataModelType::Struct(fields) => {
            let mut i = 0;
            while i < fields.len() {
                if takes_bytes(fields[i].ty) {
                    return true;
                }
                i += 1;
            }
            false
        }
        _ => true,
    }
}

const fn sequences_take_bytes(named: &NamedType) -> bool {
    match named.ty {
        DataModelType::Option(inner) | DataModelType::NewtypeStruct(inner) => {
            sequences_take_bytes(inner)
        }
        DataModelType::Seq(inner) => takes_bytes(inner) && sequences_take_bytes(inner),
        DataModelType::Map { key, val } => {
            (takes_bytes(key) || takes_bytes(val))
                && sequences_take_bytes(key)
                && sequences_take_bytes(val)
        }
        DataModelType::Tuple(items) | DataModelType::TupleStruct(items) => items_do(items),
        DataModelType::Struct(fields) => fields_do(fields),
        DataModelType::Enum(variants) => {
            let mut i = 0;
            while i < variants.len() {
                let fine = match variants[i].ty {
                    DataModelVariant::UnitVariant => true,
                    DataModelVariant::NewtypeVariant(inner) => sequences_take_bytes(inner),
                    DataModelVariant::TupleVariant(items) => items_do(items),
                    DataModelVariant::StructVariant(fields) => fields_do(fields),
                };
                if !fine {
                    return false;
                }
                i += 1;
            }
            true
        }
        _ => true,
    }
}

const fn items_do(items: &[&NamedType]) -> bool {
    let mut i = 0;
    while i < items.len() {
        if !sequences_take_bytes(items[i]) {
            return false;
        }
        i += 1;
    }
    true
}

const fn fields_do(fields: &[&NamedValue]) -> bool {
    let mut i = 0;
    while i < fields.len() {
        if !sequences_take_bytes(fields[i].ty) {
            return false;
        }
        i += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use postcard_schema::Schema;
    use weft_types::ContractName;

    use super::*;

    #[test]
    fn the_compiler_knows_the_same_contract_names_as_the_parser() {
        let long = "x".repeat(41);
        for name in [
            "kv",
            "node.control",
            "a",
            "",
            "-a",
            "a-",
            ".a",
            "Kv",
            "a b",
            "a/b",
            "7",
            &long,
            &long[1..],
        ] {
            assert_eq!(
                is_contract_name(name),
                ContractName::new(name).is_ok(),
                "{name:?}"
            );
        }
    }

    #[test]
    fn a_sequence_of_nothing_is_found_wherever_it_hides() {
        #[derive(Schema)]
        struct Empty {}
        #[derive(Schema)]
        #[expect(dead_code, reason = "only the shape matters")]
        enum Hidden {
            A,
            B { list: Vec<Option<Vec<Empty>>> },
        }
        assert!(sequences_take_bytes(<Vec<Option<()>>>::SCHEMA));
        assert!(sequences_take_bytes(<BTreeMap<u8, ()>>::SCHEMA));
        assert!(sequences_take_bytes(<(Empty, Empty)>::SCHEMA));
        assert!(!sequences_take_bytes(<Vec<()>>::SCHEMA));
        assert!(!sequences_take_bytes(<Vec<(Empty, ())>>::SCHEMA));
        assert!(!sequences_take_bytes(<BTreeMap<(), ()>>::SCHEMA));
        assert!(!sequences_take_bytes(Hidden::SCHEMA));
    }

    #[test]
    fn depth_counts_every_level() {
        assert_eq!(depth(u8::SCHEMA), 1);
        assert_eq!(depth(<Vec<Option<u8>>>::SCHEMA), 3);
        assert_eq!(depth(<(u8, Option<Vec<u8>>)>::SCHEMA), 4);
    }
}
