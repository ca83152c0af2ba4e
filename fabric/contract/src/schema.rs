//! Schemas that travel.
//!
//! Postcard's own [`OwnedNamedType`] is a tree, and its derived decoder follows the tree wherever
//! the bytes lead: two bytes a level, with 96 KiB to spend, are enough to overflow any stack. So a
//! schema travels as one opaque string of bytes (postcard's encoding of the tree), and this module
//! reads it with bounds on depth, number of nodes and length of names.

use std::ops::Deref;

use postcard_schema::Schema;
use postcard_schema::schema::owned::{
    OwnedDataModelType as Ty, OwnedDataModelVariant as Variant, OwnedNamedType, OwnedNamedValue,
    OwnedNamedVariant,
};
use postcard_schema::schema::{DataModelType, NamedType};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How many levels of types may lie within each other. A deeper message does not compile; a deeper
/// schema from a peer is refused.
pub const MAX_SCHEMA_DEPTH: usize = 32;

/// How many types, fields and variants one schema from a peer may have. More are refused.
pub const MAX_SCHEMA_NODES: usize = 4096;

/// The longest name of a type, field or variant in a schema from a peer, in bytes. They end up as
/// the keys of JSON objects, once for each value.
pub const MAX_SCHEMA_NAME_BYTES: usize = 128;

/// A schema from a peer that is not one.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SchemaError {
    /// The bytes end early, go on after the end, or hold a tag or length that does not exist.
    #[error("the schema's bytes are not a schema")]
    Malformed,
    /// Types lie too deep within each other.
    #[error("the schema is nested deeper than {MAX_SCHEMA_DEPTH} levels")]
    TooDeep,
    /// More types, fields and variants than one schema may have.
    #[error("the schema has more than {MAX_SCHEMA_NODES} parts")]
    TooLarge,
    /// A name that is too long or not fit to be printed.
    #[error(
        "a name in the schema is longer than {MAX_SCHEMA_NAME_BYTES} bytes or has control characters"
    )]
    BadName,
}

/// The shape of a type, field by field. Within the bounds of this module, whoever sent it.
///
/// Reads as an [`OwnedNamedType`]. In binary formats it is a string of bytes, in JSON the tree.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TypeSchema {
    tree: OwnedNamedType,
    encoded: Vec<u8>,
}

impl TypeSchema {
    /// The schema of `T`.
    ///
    /// # Panics
    ///
    /// Never: a schema that the compiler knows can be encoded.
    #[must_use]
    pub fn of<T: Schema>() -> Self {
        Self {
            tree: T::SCHEMA.into(),
            encoded: postcard::to_stdvec(T::SCHEMA).expect("a schema is plain lists and strings"),
        }
    }

    /// Reads a schema that a peer sent.
    ///
    /// # Errors
    ///
    /// [`SchemaError`]; nothing was allocated beyond the bounds.
    pub fn decode(encoded: &[u8]) -> Result<Self, SchemaError> {
        let mut reader = Reader {
            rest: encoded,
            nodes: 0,
        };
        let tree = reader.named_type(0)?;
        if !reader.rest.is_empty() {
            return Err(SchemaError::Malformed);
        }
        Ok(Self {
            tree,
            encoded: encoded.to_vec(),
        })
    }

    /// Postcard's encoding of the tree: what travels, and what the fingerprint is made of.
    #[must_use]
    pub fn encoded(&self) -> &[u8] {
        &self.encoded
    }
}

impl Deref for TypeSchema {
    type Target = OwnedNamedType;

    fn deref(&self) -> &OwnedNamedType {
        &self.tree
    }
}

impl Schema for TypeSchema {
    const SCHEMA: &'static NamedType = &NamedType {
        name: "TypeSchema",
        ty: &DataModelType::ByteArray,
    };
}

impl Serialize for TypeSchema {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            self.tree.serialize(serializer)
        } else {
            serializer.serialize_bytes(&self.encoded)
        }
    }
}

impl<'de> Deserialize<'de> for TypeSchema {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let encoded = if deserializer.is_human_readable() {
            // serde_json has a recursion limit of its own; what passes it is checked below.
            let tree = OwnedNamedType::deserialize(deserializer)?;
            postcard::to_stdvec(&tree).map_err(serde::de::Error::custom)?
        } else {
            crate::bytes::deserialize(deserializer)?
        };
        Self::decode(&encoded).map_err(serde::de::Error::custom)
    }
}

/// Reads postcard's encoding of a schema from bytes that nobody vouches for.
struct Reader<'a> {
    rest: &'a [u8],
    nodes: usize,
}

impl Reader<'_> {
    fn named_type(&mut self, depth: usize) -> Result<OwnedNamedType, SchemaError> {
        if depth >= MAX_SCHEMA_DEPTH {
            return Err(SchemaError::TooDeep);
        }
        self.count_node()?;
        Ok(OwnedNamedType {
            name: self.name()?,
            ty: self.data_model_type(depth + 1)?,
        })
    }

    /// The numbers are the positions of the variants in postcard-schema's enum, which are its
    /// encoding; a test holds them against the crate.
    fn data_model_type(&mut self, depth: usize) -> Result<Ty, SchemaError> {
        Ok(match self.number()? {
            0 => Ty::Bool,
            1 => Ty::I8,
            2 => Ty::U8,
            3 => Ty::I16,
            4 => Ty::I32,
            5 => Ty::I64,
            6 => Ty::I128,
            7 => Ty::U16,
            8 => Ty::U32,
            9 => Ty::U64,
            10 => Ty::U128,
            11 => Ty::Usize,
            12 => Ty::Isize,
            13 => Ty::F32,
            14 => Ty::F64,
            15 => Ty::Char,
            16 => Ty::String,
            17 => Ty::ByteArray,
            18 => Ty::Option(Box::new(self.named_type(depth)?)),
            19 => Ty::Unit,
            20 => Ty::UnitStruct,
            21 => Ty::NewtypeStruct(Box::new(self.named_type(depth)?)),
            22 => Ty::Seq(Box::new(self.named_type(depth)?)),
            23 => Ty::Tuple(self.list(|reader| reader.named_type(depth))?),
            24 => Ty::TupleStruct(self.list(|reader| reader.named_type(depth))?),
            25 => Ty::Map {
                key: Box::new(self.named_type(depth)?),
                val: Box::new(self.named_type(depth)?),
            },
            26 => Ty::Struct(self.list(|reader| reader.field(depth))?),
            27 => Ty::Enum(self.list(|reader| reader.variant(depth))?),
            28 => Ty::Schema,
            _ => return Err(SchemaError::Malformed),
        })
    }

    fn field(&mut self, depth: usize) -> Result<OwnedNamedValue, SchemaError> {
        Ok(OwnedNamedValue {
            name: self.name()?,
            ty: self.named_type(depth)?,
        })
    }

    fn variant(&mut self, depth: usize) -> Result<OwnedNamedVariant, SchemaError> {
        self.count_node()?;
        Ok(OwnedNamedVariant {
            name: self.name()?,
            ty: match self.number()? {
                0 => Variant::UnitVariant,
                1 => Variant::NewtypeVariant(Box::new(self.named_type(depth)?)),
                2 => Variant::TupleVariant(self.list(|reader| reader.named_type(depth))?),
                3 => Variant::StructVariant(self.list(|reader| reader.field(depth))?),
                _ => return Err(SchemaError::Malformed),
            },
        })
    }

    /// A list grows with what is really there, never by what its length claims.
    fn list<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<T, SchemaError>,
    ) -> Result<Vec<T>, SchemaError> {
        let mut items = Vec::new();
        for _ in 0..self.number()? {
            items.push(item(self)?);
        }
        Ok(items)
    }

    fn count_node(&mut self) -> Result<(), SchemaError> {
        self.nodes += 1;
        if self.nodes > MAX_SCHEMA_NODES {
            return Err(SchemaError::TooLarge);
        }
        Ok(())
    }

    fn name(&mut self) -> Result<String, SchemaError> {
        let len = usize::try_from(self.number()?).map_err(|_| SchemaError::Malformed)?;
        if len > MAX_SCHEMA_NAME_BYTES {
            return Err(SchemaError::BadName);
        }
        let (name, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(SchemaError::Malformed)?;
        self.rest = rest;
        let name = std::str::from_utf8(name).map_err(|_| SchemaError::Malformed)?;
        // Names are printed on terminals.
        if name.chars().any(char::is_control) {
            return Err(SchemaError::BadName);
        }
        Ok(name.to_owned())
    }

    fn number(&mut self) -> Result<u64, SchemaError> {
        let (number, rest) =
            postcard::take_from_bytes(self.rest).map_err(|_| SchemaError::Malformed)?;
        self.rest = rest;
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Schema)]
    struct Nothing;

    #[derive(Schema)]
    #[expect(dead_code, reason = "only the shape matters")]
    struct Pair(u8, f64);

    #[derive(Schema)]
    #[expect(dead_code, reason = "only the shape matters")]
    enum Choice {
        A,
        B(i128),
        C(i8, i16),
        D { x: i32, y: i64 },
    }

    #[derive(Schema)]
    #[expect(dead_code, reason = "only the shape matters")]
    struct Everything {
        numbers: (bool, u16, u32, u64, u128),
        rest: (f32, char, ()),
        map: BTreeMap<String, Option<Choice>>,
        list: Vec<Pair>,
        nothing: Nothing,
        inner: TypeSchema,
        lane: weft_types::Lane,
        tree: OwnedNamedType,
    }

    #[test]
    fn every_kind_of_type_comes_back() {
        let schema = TypeSchema::of::<Everything>();
        assert_eq!(TypeSchema::decode(schema.encoded()), Ok(schema.clone()));
        // The two kinds that no type has.
        for ty in [Ty::Usize, Ty::Isize] {
            let tree = OwnedNamedType {
                name: "n".into(),
                ty,
            };
            let encoded = postcard::to_stdvec(&tree).unwrap();
            assert_eq!(*TypeSchema::decode(&encoded).unwrap(), tree);
        }
        let bytes = postcard::to_stdvec(&schema).unwrap();
        assert_eq!(postcard::from_bytes::<TypeSchema>(&bytes).unwrap(), schema);
        let json = serde_json::to_string(&schema).unwrap();
        assert_eq!(serde_json::from_str::<TypeSchema>(&json).unwrap(), schema);
    }

    #[test]
    fn a_schema_that_would_overflow_the_stack_is_refused() {
        // An unnamed option of an unnamed option of ...
        let deep = [0, 18].repeat(48 * 1024);
        assert_eq!(TypeSchema::decode(&deep), Err(SchemaError::TooDeep));
    }

    #[test]
    fn a_schema_is_bounded_in_every_direction() {
        let units = |count: usize| {
            let tree = OwnedNamedType {
                name: String::new(),
                ty: Ty::Tuple(vec![
                    OwnedNamedType {
                        name: String::new(),
                        ty: Ty::Unit
                    };
                    count
                ]),
            };
            TypeSchema::decode(&postcard::to_stdvec(&tree).unwrap())
        };
        assert!(units(MAX_SCHEMA_NODES - 1).is_ok());
        assert_eq!(units(MAX_SCHEMA_NODES), Err(SchemaError::TooLarge));

        let named = |name: &str| {
            let tree = OwnedNamedType {
                name: name.into(),
                ty: Ty::Bool,
            };
            TypeSchema::decode(&postcard::to_stdvec(&tree).unwrap())
        };
        assert!(named(&"x".repeat(MAX_SCHEMA_NAME_BYTES)).is_ok());
        assert_eq!(
            named(&"x".repeat(MAX_SCHEMA_NAME_BYTES + 1)),
            Err(SchemaError::BadName)
        );
        assert_eq!(named("\u{1b}[2J"), Err(SchemaError::BadName));

        // A tuple that claims 2⁶³ items.
        let claim = [&[0, 23][..], &[0xff; 9], &[0]].concat();
        assert_eq!(TypeSchema::decode(&claim), Err(SchemaError::Malformed));
    }

    #[test]
    fn cut_or_garbled_schemas_are_refused_or_read_but_never_panic() {
        let whole = TypeSchema::of::<Everything>();
        for end in 0..whole.encoded().len() {
            assert!(TypeSchema::decode(&whole.encoded()[..end]).is_err());
        }
        for place in 0..whole.encoded().len() {
            for flip in [1, 0x10, 0x80, 0xff] {
                let mut garbled = whole.encoded().to_vec();
                garbled[place] ^= flip;
                if let Ok(read) = TypeSchema::decode(&garbled) {
                    assert_eq!(read.encoded(), garbled);
                }
            }
        }
    }
}
