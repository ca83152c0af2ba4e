//! Messages without their Rust types: JSON in, bytes out, and back, by the schema alone.
//!
//! The command line and other strangers to a contract ask the service for its description and then
//! write JSON. What they write is checked against the schema, field by field, before it is sent;
//! an error says where it is wrong, what was found there and what belongs there.
//!
//! JSON looks as serde would write it, with these liberties:
//!
//! - bytes are a string (their UTF-8) or an array of numbers; they are printed as a string if they
//!   are UTF-8;
//! - an optional field may be left out;
//! - integers of 128 bits that JSON's numbers cannot hold are strings of digits, and floats that
//!   are not numbers are `"NaN"`, `"inf"` and `"-inf"`.
//!
//! An option within an option has two nothings that JSON cannot tell apart: `null` is the outer.
//!
//! Schema, JSON and bytes may all come from someone hostile. The depth is bounded, so is the number
//! of values, and nothing is reserved on the word of a length.

mod decode;
mod encode;
mod path;
mod shape;

pub use path::ShapeError;
pub use shape::shape;

use postcard_schema::schema::owned::{
    OwnedDataModelType as Ty, OwnedDataModelVariant as Variant, OwnedNamedType,
};
use serde_json::Value;

use path::Path;

/// How deep values may lie within each other: what the deepest schema allows, and no more.
pub const MAX_VALUE_DEPTH: usize = crate::MAX_SCHEMA_DEPTH;

/// How many values one message may consist of, each field and element counted. It bounds the memory
/// for the JSON of a message whose schema gives many values to each byte. No body of bytes reaches
/// it.
pub const MAX_VALUES: usize = 256 * 1024;

/// The bytes of the message that `json` describes.
///
/// # Errors
///
/// [`ShapeError`], which says where the JSON does not fit, what was found and what belongs there.
pub fn json_to_bytes(schema: &OwnedNamedType, json: &Value) -> Result<Vec<u8>, ShapeError> {
    encode::Encoder::new().run(schema, json)
}

/// The JSON for the bytes of a message.
///
/// # Errors
///
/// [`ShapeError`], if the bytes are not what the schema says: whoever sent one of the two is at
/// fault.
pub fn bytes_to_json(schema: &OwnedNamedType, bytes: &[u8]) -> Result<Value, ShapeError> {
    decode::Decoder::new(bytes).run(schema)
}

/// Counts values and levels, for both directions.
#[derive(Default)]
struct Budget {
    values: usize,
    depth: usize,
}

impl Budget {
    /// A value begins; [`Self::leave`] ends it.
    fn enter(&mut self, path: &Path<'_>) -> Result<(), ShapeError> {
        self.depth += 1;
        if self.depth > MAX_VALUE_DEPTH {
            return Err(ShapeError::TooDeep {
                path: path.render(),
            });
        }
        self.count(1, path)
    }

    fn leave(&mut self) {
        self.depth -= 1;
    }

    fn count(&mut self, more: usize, path: &Path<'_>) -> Result<(), ShapeError> {
        self.values += more;
        if self.values > MAX_VALUES {
            return Err(ShapeError::TooLarge {
                path: path.render(),
            });
        }
        Ok(())
    }
}

/// Whether a sequence of these is bytes, to be written as a string.
fn is_byte(element: &OwnedNamedType) -> bool {
    matches!(element.ty, Ty::U8)
}

/// Whether a map may have such keys in JSON, where every key is a string. What passes here comes
/// out of the decoder as a string, a bool or an integer.
fn is_key(ty: &Ty) -> bool {
    match ty {
        Ty::NewtypeStruct(inner) => is_key(&inner.ty),
        Ty::Enum(variants) => variants
            .iter()
            .all(|variant| matches!(variant.ty, Variant::UnitVariant)),
        Ty::String | Ty::Char | Ty::Bool => true,
        Ty::U8 | Ty::U16 | Ty::U32 | Ty::U64 | Ty::U128 | Ty::Usize => true,
        Ty::I8 | Ty::I16 | Ty::I32 | Ty::I64 | Ty::I128 | Ty::Isize => true,
        _ => false,
    }
}
