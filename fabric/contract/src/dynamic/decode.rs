//! Bytes to JSON.

use postcard_schema::schema::owned::{
    OwnedDataModelType as Ty, OwnedDataModelVariant as Variant, OwnedNamedType, OwnedNamedValue,
    OwnedNamedVariant,
};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::path::{Path, ShapeError, Step};
use super::shape::shape_of;
use super::{Budget, is_byte, is_key};

/// Walks the schema, takes each value from the bytes and builds the JSON.
pub(super) struct Decoder<'a> {
    rest: &'a [u8],
    path: Path<'a>,
    budget: Budget,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self {
            rest: bytes,
            path: Path::default(),
            budget: Budget::default(),
        }
    }

    pub(super) fn run(mut self, schema: &'a OwnedNamedType) -> Result<Value, ShapeError> {
        let json = self.value(&schema.ty)?;
        if self.rest.is_empty() {
            Ok(json)
        } else {
            Err(ShapeError::Trailing {
                extra_bytes: self.rest.len(),
            })
        }
    }

    fn value(&mut self, ty: &'a Ty) -> Result<Value, ShapeError> {
        self.budget.enter(&self.path)?;
        let json = match ty {
            Ty::Bool => self.take::<bool>(ty)?.into(),
            Ty::U8 => self.take::<u8>(ty)?.into(),
            Ty::U16 => self.take::<u16>(ty)?.into(),
            Ty::U32 => self.take::<u32>(ty)?.into(),
            Ty::U64 | Ty::Usize => self.take::<u64>(ty)?.into(),
            Ty::U128 => {
                let value = self.take::<u128>(ty)?;
                u64::try_from(value).map_or_else(|_| value.to_string().into(), Value::from)
            }
            Ty::I8 => self.take::<i8>(ty)?.into(),
            Ty::I16 => self.take::<i16>(ty)?.into(),
            Ty::I32 => self.take::<i32>(ty)?.into(),
            Ty::I64 | Ty::Isize => self.take::<i64>(ty)?.into(),
            Ty::I128 => {
                let value = self.take::<i128>(ty)?;
                i64::try_from(value)
                    .map(Value::from)
                    .or_else(|_| u64::try_from(value).map(Value::from))
                    .unwrap_or_else(|_| value.to_string().into())
            }
            Ty::F32 => float(self.take::<f32>(ty)?.into()),
            Ty::F64 => float(self.take::<f64>(ty)?),
            Ty::Char => self.take::<char>(ty)?.to_string().into(),
            Ty::String => self.take::<&str>(ty)?.into(),
            Ty::ByteArray => self.bytes(ty)?,
            Ty::Seq(element) if is_byte(element) => self.bytes(ty)?,
            Ty::Seq(element) => {
                let mut items = Vec::new();
                for index in 0..self.length(ty)? {
                    items.push(self.element(index, element)?);
                }
                Value::Array(items)
            }
            Ty::Option(inner) => match self.take::<u8>(ty)? {
                0 => Value::Null,
                1 => self.value(&inner.ty)?,
                _ => return Err(self.bad(ty, "neither something nor nothing")),
            },
            Ty::Unit | Ty::UnitStruct => Value::Null,
            Ty::NewtypeStruct(inner) => self.value(&inner.ty)?,
            Ty::Tuple(items) | Ty::TupleStruct(items) => self.tuple(items)?,
            Ty::Map { key, val } => self.map(ty, key, val)?,
            Ty::Struct(fields) => self.fields(fields)?,
            Ty::Enum(variants) => self.variant(ty, variants)?,
            Ty::Schema => return Err(self.path.not_in_json(ty)),
        };
        self.budget.leave();
        Ok(json)
    }

    /// Takes a plain value with postcard itself.
    fn take<T: Deserialize<'a>>(&mut self, ty: &Ty) -> Result<T, ShapeError> {
        let (value, rest) = postcard::take_from_bytes(self.rest).map_err(|error| {
            let early = error == postcard::Error::DeserializeUnexpectedEnd;
            self.bad(
                ty,
                if early {
                    "they end early"
                } else {
                    "no such value"
                },
            )
        })?;
        self.rest = rest;
        Ok(value)
    }

    /// The length of a list. No element that may be sent takes less than a byte, so a length beyond
    /// the rest is a lie.
    fn length(&mut self, ty: &Ty) -> Result<usize, ShapeError> {
        let length = self.take::<u64>(ty)?;
        usize::try_from(length)
            .ok()
            .filter(|length| *length <= self.rest.len())
            .ok_or_else(|| self.bad(ty, "they claim more elements than there are bytes"))
    }

    fn bad(&self, ty: &Ty, reason: &'static str) -> ShapeError {
        ShapeError::BadBytes {
            path: self.path.render(),
            expected: shape_of(ty),
            reason,
        }
    }

    fn bytes(&mut self, ty: &Ty) -> Result<Value, ShapeError> {
        let bytes = self.take::<&[u8]>(ty)?;
        if let Ok(text) = std::str::from_utf8(bytes) {
            return Ok(text.into());
        }
        self.budget.count(bytes.len(), &self.path)?;
        Ok(bytes.iter().copied().map(Value::from).collect())
    }

    fn element(&mut self, index: usize, schema: &'a OwnedNamedType) -> Result<Value, ShapeError> {
        self.path.push(Step::Index(index));
        let json = self.value(&schema.ty)?;
        self.path.pop();
        Ok(json)
    }

    fn tuple(&mut self, items: &'a [OwnedNamedType]) -> Result<Value, ShapeError> {
        let mut values = Vec::new();
        for (index, item) in items.iter().enumerate() {
            values.push(self.element(index, item)?);
        }
        Ok(Value::Array(values))
    }

    fn map(
        &mut self,
        ty: &Ty,
        key: &'a OwnedNamedType,
        val: &'a OwnedNamedType,
    ) -> Result<Value, ShapeError> {
        if !is_key(&key.ty) {
            return Err(self.path.not_in_json(ty));
        }
        let mut entries = Map::new();
        for _ in 0..self.length(ty)? {
            let name = match self.value(&key.ty)? {
                Value::String(name) => name,
                other => other.to_string(),
            };
            self.path.push(Step::Key(name.clone()));
            let value = self.value(&val.ty)?;
            if entries.insert(name, value).is_some() {
                return Err(self.bad(ty, "a key comes twice"));
            }
            self.path.pop();
        }
        Ok(Value::Object(entries))
    }

    fn fields(&mut self, fields: &'a [OwnedNamedValue]) -> Result<Value, ShapeError> {
        let mut values = Map::new();
        for field in fields {
            self.path.push(Step::Field(&field.name));
            let value = self.value(&field.ty.ty)?;
            self.path.pop();
            values.insert(field.name.clone(), value);
        }
        Ok(Value::Object(values))
    }

    fn variant(&mut self, ty: &Ty, variants: &'a [OwnedNamedVariant]) -> Result<Value, ShapeError> {
        let index = self.take::<u32>(ty)?;
        let variant = usize::try_from(index)
            .ok()
            .and_then(|index| variants.get(index))
            .ok_or_else(|| self.bad(ty, "no such variant"))?;
        self.path.push(Step::Field(&variant.name));
        let content = match &variant.ty {
            Variant::UnitVariant => None,
            Variant::NewtypeVariant(inner) => Some(self.value(&inner.ty)?),
            Variant::TupleVariant(items) => Some(match items.as_slice() {
                [only] => self.value(&only.ty)?,
                items => self.tuple(items)?,
            }),
            Variant::StructVariant(fields) => Some(self.fields(fields)?),
        };
        self.path.pop();
        Ok(match content {
            None => variant.name.as_str().into(),
            Some(content) => Map::from_iter([(variant.name.clone(), content)]).into(),
        })
    }
}

/// JSON has no number that is not one.
fn float(value: f64) -> Value {
    if value.is_nan() {
        "NaN".into()
    } else if value.is_infinite() {
        if value > 0.0 { "inf" } else { "-inf" }.into()
    } else {
        value.into()
    }
}
