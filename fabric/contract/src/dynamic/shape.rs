//! Shapes for people: what may be written where, in one line.

use postcard_schema::schema::owned::{
    OwnedDataModelType as Ty, OwnedDataModelVariant as Variant, OwnedNamedType, OwnedNamedValue,
    OwnedNamedVariant,
};

use super::{MAX_VALUE_DEPTH, is_byte};

/// The longest shape, in bytes. What goes beyond is left out with dots.
const MAX_SHAPE_BYTES: usize = 4096;

/// The shape of a type, with its name: `Put { key: string, value: bytes, lease: u64? }`.
///
/// `?` marks what may be `null` or left out, `[T]` is an array, `[T; 4]` one of four, and
/// `"A" | {"B": u32}` is a choice. `bytes` are a string or an array of numbers.
#[must_use]
pub fn shape(schema: &OwnedNamedType) -> String {
    let shape = shape_of(&schema.ty);
    match schema.ty {
        Ty::Struct(_) => format!("{} {shape}", schema.name),
        Ty::Enum(_) | Ty::NewtypeStruct(_) | Ty::TupleStruct(_) | Ty::UnitStruct => {
            format!("{}: {shape}", schema.name)
        }
        _ => shape,
    }
}

pub(super) fn shape_of(ty: &Ty) -> String {
    print(|printer| printer.ty(ty, 0))
}

pub(super) fn shape_of_fields(fields: &[OwnedNamedValue]) -> String {
    print(|printer| printer.fields(fields, 0))
}

pub(super) fn shape_of_items(items: &[OwnedNamedType]) -> String {
    print(|printer| printer.items(items, 0))
}

pub(super) fn shape_of_variant(variant: &OwnedNamedVariant) -> String {
    print(|printer| printer.variant(variant, 0))
}

fn print(write: impl FnOnce(&mut Printer)) -> String {
    let mut printer = Printer { out: String::new() };
    write(&mut printer);
    let mut out = printer.out;
    if out.len() > MAX_SHAPE_BYTES {
        let end = (0..=MAX_SHAPE_BYTES)
            .rev()
            .find(|end| out.is_char_boundary(*end));
        out.truncate(end.unwrap_or(0));
        out.push_str("...");
    }
    out
}

struct Printer {
    out: String,
}

impl Printer {
    /// Whether there is any use in going on. Names are short, so that it is never far beyond.
    fn is_full(&self) -> bool {
        self.out.len() > MAX_SHAPE_BYTES
    }

    fn ty(&mut self, ty: &Ty, depth: usize) {
        if depth > MAX_VALUE_DEPTH || self.is_full() {
            self.out.push_str("...");
            return;
        }
        let depth = depth + 1;
        match ty {
            Ty::Bool => self.out.push_str("bool"),
            Ty::I8 => self.out.push_str("i8"),
            Ty::U8 => self.out.push_str("u8"),
            Ty::I16 => self.out.push_str("i16"),
            Ty::I32 => self.out.push_str("i32"),
            Ty::I64 | Ty::Isize => self.out.push_str("i64"),
            Ty::I128 => self.out.push_str("i128"),
            Ty::U16 => self.out.push_str("u16"),
            Ty::U32 => self.out.push_str("u32"),
            Ty::U64 | Ty::Usize => self.out.push_str("u64"),
            Ty::U128 => self.out.push_str("u128"),
            Ty::F32 => self.out.push_str("f32"),
            Ty::F64 => self.out.push_str("f64"),
            Ty::Char => self.out.push_str("char"),
            Ty::String => self.out.push_str("string"),
            Ty::ByteArray => self.out.push_str("bytes"),
            Ty::Unit | Ty::UnitStruct => self.out.push_str("null"),
            Ty::Schema => self.out.push_str("schema"),
            Ty::Option(inner) => self.option(inner, depth),
            Ty::NewtypeStruct(inner) => self.ty(&inner.ty, depth),
            Ty::Seq(element) if is_byte(element) => self.out.push_str("bytes"),
            Ty::Seq(element) => {
                self.out.push('[');
                self.ty(&element.ty, depth);
                self.out.push(']');
            }
            Ty::Tuple(items) | Ty::TupleStruct(items) => self.items(items, depth),
            Ty::Map { key, val } => {
                self.out.push('{');
                self.ty(&key.ty, depth);
                self.out.push_str(": ");
                self.ty(&val.ty, depth);
                self.out.push('}');
            }
            Ty::Struct(fields) => self.fields(fields, depth),
            Ty::Enum(variants) => {
                self.separated(variants, " | ", |printer, variant| {
                    printer.variant(variant, depth);
                });
            }
        }
    }

    fn option(&mut self, inner: &OwnedNamedType, depth: usize) {
        let choice = matches!(&inner.ty, Ty::Enum(variants) if variants.len() > 1);
        if choice {
            self.out.push('(');
        }
        self.ty(&inner.ty, depth);
        self.out.push_str(if choice { ")?" } else { "?" });
    }

    fn items(&mut self, items: &[OwnedNamedType], depth: usize) {
        self.out.push('[');
        match items {
            [first, others @ ..] if !others.is_empty() && others.iter().all(|o| o == first) => {
                self.ty(&first.ty, depth);
                self.out.push_str(&format!("; {}", items.len()));
            }
            _ => self.separated(items, ", ", |printer, item| printer.ty(&item.ty, depth)),
        }
        self.out.push(']');
    }

    fn fields(&mut self, fields: &[OwnedNamedValue], depth: usize) {
        if fields.is_empty() {
            self.out.push_str("{}");
            return;
        }
        self.out.push_str("{ ");
        self.separated(fields, ", ", |printer, field| {
            printer.out.push_str(&field.name);
            printer.out.push_str(": ");
            printer.ty(&field.ty.ty, depth);
        });
        self.out.push_str(" }");
    }

    fn variant(&mut self, variant: &OwnedNamedVariant, depth: usize) {
        let name = &variant.name;
        if matches!(variant.ty, Variant::UnitVariant) {
            self.out.push_str(&format!("\"{name}\""));
            return;
        }
        self.out.push_str(&format!("{{\"{name}\": "));
        match &variant.ty {
            Variant::UnitVariant => {}
            Variant::NewtypeVariant(inner) => self.ty(&inner.ty, depth),
            Variant::TupleVariant(items) => match items.as_slice() {
                [only] => self.ty(&only.ty, depth),
                items => self.items(items, depth),
            },
            Variant::StructVariant(fields) => self.fields(fields, depth),
        }
        self.out.push('}');
    }

    fn separated<T>(&mut self, list: &[T], between: &str, mut print: impl FnMut(&mut Self, &T)) {
        for (index, item) in list.iter().enumerate() {
            if self.is_full() {
                return;
            }
            if index > 0 {
                self.out.push_str(between);
            }
            print(self, item);
        }
    }
}
