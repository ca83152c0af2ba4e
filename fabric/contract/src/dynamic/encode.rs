//! JSON to bytes.

use postcard_schema::schema::owned::{
    OwnedDataModelType as Ty, OwnedDataModelVariant as Variant, OwnedNamedType, OwnedNamedValue,
    OwnedNamedVariant,
};
use serde::Serialize;
use serde_json::{Map, Value};

use super::path::{Path, ShapeError, Step, summary};
use super::shape::{shape_of, shape_of_fields, shape_of_variant};
use super::{Budget, is_byte, is_key};
use crate::message::Body;

/// Walks schema and JSON side by side and writes postcard's encoding.
pub(super) struct Encoder<'a> {
    out: Vec<u8>,
    path: Path<'a>,
    budget: Budget,
}

impl<'a> Encoder<'a> {
    pub(super) fn new() -> Self {
        Self {
            out: Vec::new(),
            path: Path::default(),
            budget: Budget::default(),
        }
    }

    pub(super) fn run(
        mut self,
        schema: &'a OwnedNamedType,
        json: &'a Value,
    ) -> Result<Vec<u8>, ShapeError> {
        self.value(&schema.ty, json)?;
        Ok(self.out)
    }

    fn value(&mut self, ty: &'a Ty, json: &'a Value) -> Result<(), ShapeError> {
        self.budget.enter(&self.path)?;
        match ty {
            Ty::Bool => match json {
                Value::Bool(value) => self.put(value)?,
                _ => return Err(self.path.wrong(json, ty)),
            },
            Ty::U8 => self.integer::<u8>(ty, json)?,
            Ty::U16 => self.integer::<u16>(ty, json)?,
            Ty::U32 => self.integer::<u32>(ty, json)?,
            Ty::U64 | Ty::Usize => self.integer::<u64>(ty, json)?,
            Ty::U128 => self.integer::<u128>(ty, json)?,
            Ty::I8 => self.integer::<i8>(ty, json)?,
            Ty::I16 => self.integer::<i16>(ty, json)?,
            Ty::I32 => self.integer::<i32>(ty, json)?,
            Ty::I64 | Ty::Isize => self.integer::<i64>(ty, json)?,
            Ty::I128 => self.integer::<i128>(ty, json)?,
            Ty::F32 => self.single(ty, json)?,
            Ty::F64 => {
                let value = self.float(ty, json)?;
                self.put(&value)?;
            }
            Ty::Char => match json.as_str().map(|text| (text, only_char(text))) {
                Some((_, Some(letter))) => self.put(&letter)?,
                _ => return Err(self.path.wrong(json, ty)),
            },
            Ty::String => match json {
                Value::String(text) => self.put(text)?,
                _ => return Err(self.path.wrong(json, ty)),
            },
            Ty::ByteArray => self.bytes(ty, json)?,
            Ty::Seq(element) if is_byte(element) => self.bytes(ty, json)?,
            Ty::Seq(element) => {
                let Value::Array(items) = json else {
                    return Err(self.path.wrong(json, ty));
                };
                self.put(&items.len())?;
                self.elements(items.iter().map(|item| (&**element, item)))?;
            }
            Ty::Option(inner) => {
                self.put(&u8::from(!json.is_null()))?;
                if !json.is_null() {
                    self.value(&inner.ty, json)?;
                }
            }
            Ty::Unit | Ty::UnitStruct => {
                if !json.is_null() {
                    return Err(self.path.wrong(json, ty));
                }
            }
            Ty::NewtypeStruct(inner) => self.value(&inner.ty, json)?,
            Ty::Tuple(items) | Ty::TupleStruct(items) => self.tuple(items, json)?,
            Ty::Map { key, val } => self.map(ty, key, val, json)?,
            Ty::Struct(fields) => self.fields(fields, json)?,
            Ty::Enum(variants) => self.variant(ty, variants, json)?,
            Ty::Schema => return Err(self.path.not_in_json(ty)),
        }
        self.budget.leave();
        Ok(())
    }

    /// Writes a plain value with postcard itself.
    fn put<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ShapeError> {
        postcard::serialize_with_flavor(value, Body::new(&mut self.out, 0)).map_err(|_| {
            ShapeError::TooLarge {
                path: self.path.render(),
            }
        })
    }

    fn integer<T: Integer>(&mut self, ty: &'a Ty, json: &Value) -> Result<(), ShapeError> {
        match T::from_json(json) {
            Some(Ok(value)) => self.put(&value),
            Some(Err(found)) => Err(self.out_of_range::<T>(ty, found)),
            None => Err(self.path.wrong(json, ty)),
        }
    }

    fn out_of_range<T: Integer>(&self, ty: &Ty, found: String) -> ShapeError {
        ShapeError::OutOfRange {
            path: self.path.render(),
            found,
            expected: format!("{} ({})", shape_of(ty), T::range()),
        }
    }

    fn float(&self, ty: &Ty, json: &Value) -> Result<f64, ShapeError> {
        match json {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => match text.as_str() {
                "NaN" => Some(f64::NAN),
                "inf" => Some(f64::INFINITY),
                "-inf" => Some(f64::NEG_INFINITY),
                _ => None,
            },
            _ => None,
        }
        .ok_or_else(|| self.path.wrong(json, ty))
    }

    fn single(&mut self, ty: &Ty, json: &Value) -> Result<(), ShapeError> {
        let wide = self.float(ty, json)?;
        // To the nearest: a person who writes 0.1 means the `f32` that is nearest to it.
        let value = wide as f32;
        if value.is_infinite() && wide.is_finite() {
            return Err(ShapeError::OutOfRange {
                path: self.path.render(),
                found: wide.to_string(),
                expected: format!("f32 ({} to {})", f32::MIN, f32::MAX),
            });
        }
        self.put(&value)
    }

    fn bytes(&mut self, ty: &'a Ty, json: &'a Value) -> Result<(), ShapeError> {
        match json {
            // A string and its bytes are encoded alike: a length, then the bytes.
            Value::String(text) => self.put(text),
            Value::Array(items) => {
                self.put(&items.len())?;
                self.budget.count(items.len(), &self.path)?;
                for (index, item) in items.iter().enumerate() {
                    self.path.push(Step::Index(index));
                    self.integer::<u8>(&Ty::U8, item)?;
                    self.path.pop();
                }
                Ok(())
            }
            _ => Err(self.path.wrong(json, ty)),
        }
    }

    fn elements(
        &mut self,
        elements: impl Iterator<Item = (&'a OwnedNamedType, &'a Value)>,
    ) -> Result<(), ShapeError> {
        for (index, (schema, json)) in elements.enumerate() {
            self.path.push(Step::Index(index));
            self.value(&schema.ty, json)?;
            self.path.pop();
        }
        Ok(())
    }

    fn tuple(&mut self, items: &'a [OwnedNamedType], json: &'a Value) -> Result<(), ShapeError> {
        match json {
            Value::Array(values) if values.len() == items.len() => {
                self.elements(items.iter().zip(values))
            }
            _ => Err(ShapeError::WrongType {
                path: self.path.render(),
                found: summary(json),
                expected: super::shape::shape_of_items(items),
            }),
        }
    }

    fn map(
        &mut self,
        ty: &'a Ty,
        key: &'a OwnedNamedType,
        val: &'a OwnedNamedType,
        json: &'a Value,
    ) -> Result<(), ShapeError> {
        if !is_key(&key.ty) {
            return Err(self.path.not_in_json(ty));
        }
        let Value::Object(entries) = json else {
            return Err(self.path.wrong(json, ty));
        };
        self.put(&entries.len())?;
        for (name, value) in entries {
            self.path.push(Step::Key(name.clone()));
            self.key(&key.ty, name)?;
            self.value(&val.ty, value)?;
            self.path.pop();
        }
        Ok(())
    }

    /// A key of a map, which in JSON is a string whatever its type.
    fn key(&mut self, ty: &'a Ty, text: &str) -> Result<(), ShapeError> {
        let refuse = |path: &Path<'_>| path.wrong(&Value::from(text), ty);
        match ty {
            Ty::String => self.put(text),
            Ty::NewtypeStruct(inner) => {
                self.budget.enter(&self.path)?;
                self.key(&inner.ty, text)?;
                self.budget.leave();
                Ok(())
            }
            Ty::Char => match only_char(text) {
                Some(letter) => self.put(&letter),
                None => Err(refuse(&self.path)),
            },
            Ty::Bool => match text {
                "true" => self.put(&true),
                "false" => self.put(&false),
                _ => Err(refuse(&self.path)),
            },
            Ty::Enum(variants) => {
                let found = variants
                    .iter()
                    .zip(0u32..)
                    .find(|(variant, _)| variant.name == text);
                match found {
                    Some((_, index)) => self.put(&index),
                    None => Err(refuse(&self.path)),
                }
            }
            Ty::U8 => self.integer_key::<u8>(ty, text),
            Ty::U16 => self.integer_key::<u16>(ty, text),
            Ty::U32 => self.integer_key::<u32>(ty, text),
            Ty::U64 | Ty::Usize => self.integer_key::<u64>(ty, text),
            Ty::U128 => self.integer_key::<u128>(ty, text),
            Ty::I8 => self.integer_key::<i8>(ty, text),
            Ty::I16 => self.integer_key::<i16>(ty, text),
            Ty::I32 => self.integer_key::<i32>(ty, text),
            Ty::I64 | Ty::Isize => self.integer_key::<i64>(ty, text),
            Ty::I128 => self.integer_key::<i128>(ty, text),
            _ => Err(self.path.not_in_json(ty)),
        }
    }

    fn integer_key<T: Integer>(&mut self, ty: &'a Ty, text: &str) -> Result<(), ShapeError> {
        match T::from_digits(text) {
            Some(Ok(value)) => self.put(&value),
            Some(Err(found)) => Err(self.out_of_range::<T>(ty, found)),
            None => Err(self.path.wrong(&Value::from(text), ty)),
        }
    }

    fn fields(&mut self, fields: &'a [OwnedNamedValue], json: &'a Value) -> Result<(), ShapeError> {
        let Value::Object(values) = json else {
            return Err(ShapeError::WrongType {
                path: self.path.render(),
                found: summary(json),
                expected: shape_of_fields(fields),
            });
        };
        self.refuse_unknown(fields, values)?;
        for field in fields {
            self.path.push(Step::Field(&field.name));
            match values.get(&field.name) {
                Some(value) => self.value(&field.ty.ty, value)?,
                None if matches!(field.ty.ty, Ty::Option(_)) => {
                    self.value(&field.ty.ty, &Value::Null)?;
                }
                None => {
                    return Err(ShapeError::MissingField {
                        path: self.path.render(),
                        expected: shape_of(&field.ty.ty),
                    });
                }
            }
            self.path.pop();
        }
        Ok(())
    }

    /// Looked for before anything is missed: a misspelt field is both, and this says it better.
    fn refuse_unknown(
        &self,
        fields: &[OwnedNamedValue],
        values: &Map<String, Value>,
    ) -> Result<(), ShapeError> {
        let unknown = values
            .keys()
            .find(|name| fields.iter().all(|field| field.name != **name));
        match unknown {
            None => Ok(()),
            Some(name) => Err(ShapeError::UnknownField {
                path: self.path.render(),
                field: name.clone(),
                expected: shape_of_fields(fields),
                known: fields.iter().map(|field| field.name.clone()).collect(),
            }),
        }
    }

    fn variant(
        &mut self,
        ty: &'a Ty,
        variants: &'a [OwnedNamedVariant],
        json: &'a Value,
    ) -> Result<(), ShapeError> {
        let (name, content) = match json {
            Value::String(name) => (name, &Value::Null),
            Value::Object(fields) if fields.len() == 1 => match fields.iter().next() {
                Some(only) => only,
                None => return Err(self.path.wrong(json, ty)),
            },
            _ => return Err(self.path.wrong(json, ty)),
        };
        let Some((variant, index)) = variants.iter().zip(0u32..).find(|(v, _)| v.name == *name)
        else {
            return Err(self.path.wrong(json, ty));
        };
        self.put(&index)?;
        self.path.push(Step::Field(&variant.name));
        match &variant.ty {
            Variant::UnitVariant if content.is_null() => {}
            Variant::UnitVariant => {
                return Err(ShapeError::WrongType {
                    path: self.path.render(),
                    found: summary(content),
                    expected: shape_of_variant(variant),
                });
            }
            Variant::NewtypeVariant(inner) => self.value(&inner.ty, content)?,
            Variant::TupleVariant(items) => match items.as_slice() {
                // How `Result` describes what serde writes without the brackets.
                [only] => self.value(&only.ty, content)?,
                items => self.tuple(items, content)?,
            },
            Variant::StructVariant(fields) => self.fields(fields, content)?,
        }
        self.path.pop();
        Ok(())
    }
}

/// The one character of a text that has only one.
fn only_char(text: &str) -> Option<char> {
    let mut letters = text.chars();
    letters.next().filter(|_| letters.next().is_none())
}

/// Integers as JSON has them. The inner error is the number that is out of range, as text.
trait Integer: Serialize + Sized {
    fn from_json(json: &Value) -> Option<Result<Self, String>>;
    fn from_digits(digits: &str) -> Option<Result<Self, String>>;
    fn range() -> String;
}

macro_rules! integers {
    ($($ty:ty),*) => {
        $(impl Integer for $ty {
            fn from_json(json: &Value) -> Option<Result<Self, String>> {
                match json {
                    Value::Number(number) => {
                        let wide = number
                            .as_u64()
                            .map(i128::from)
                            .or_else(|| number.as_i64().map(i128::from));
                        match wide {
                            Some(wide) => Some(Self::try_from(wide).map_err(|_| number.to_string())),
                            // Whole numbers beyond 64 bits come as floats. They are too large for
                            // most types, and not exact enough for the others.
                            None if number.as_f64().is_some_and(|f| f.fract() == 0.0 && f.abs() >= 9e18) => {
                                Some(Err(number.to_string()))
                            }
                            None => None,
                        }
                    }
                    Value::String(digits) if size_of::<Self>() == 16 => Self::from_digits(digits),
                    _ => None,
                }
            }

            fn from_digits(digits: &str) -> Option<Result<Self, String>> {
                let unsigned = digits.strip_prefix('-').unwrap_or(digits);
                if unsigned.is_empty() || !unsigned.bytes().all(|b| b.is_ascii_digit()) {
                    return None;
                }
                Some(digits.parse().map_err(|_| digits.chars().take(64).collect()))
            }

            fn range() -> String {
                format!("{} to {}", Self::MIN, Self::MAX)
            }
        })*
    };
}

integers!(u8, u16, u32, u64, u128, i8, i16, i32, i64, i128);
