//! Where in a value something is wrong, and the errors that say so.

use std::fmt::Write;

use postcard_schema::schema::owned::OwnedDataModelType as Ty;
use serde_json::Value;
use weft_types::{MAX_BODY_BYTES, Refusal, RefusalCode};

use super::shape::shape_of;
use super::{MAX_VALUE_DEPTH, MAX_VALUES};

/// JSON, bytes and schema do not fit together.
///
/// `path` is the way from the top, as in `value.items[3].key`; it is empty at the top itself.
/// `expected` is the shape that belongs there, as [`super::shape()`] prints it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ShapeError {
    /// An object has a field that the type does not have.
    #[error(
        "{}: there is no field {field:?} here; expected {expected}",
        place(path)
    )]
    UnknownField {
        /// Where the object is.
        path: String,
        /// The field that nobody knows.
        field: String,
        /// The object's shape.
        expected: String,
        /// The fields that it may have.
        known: Vec<String>,
    },
    /// An object lacks a field that is not optional.
    #[error("{}: missing; expected {expected}", place(path))]
    MissingField {
        /// Where the field would be.
        path: String,
        /// The field's shape.
        expected: String,
    },
    /// A value of another kind than the type's.
    #[error("{}: found {found}, expected {expected}", place(path))]
    WrongType {
        /// Where.
        path: String,
        /// What is there.
        found: String,
        /// What belongs there.
        expected: String,
    },
    /// A number that the type cannot hold.
    #[error("{}: {found} is out of range for {expected}", place(path))]
    OutOfRange {
        /// Where.
        path: String,
        /// The number.
        found: String,
        /// The type and its range.
        expected: String,
    },
    /// The bytes end early, or say something that the type does not have.
    #[error("{}: the bytes are not {expected}: {reason}", place(path))]
    BadBytes {
        /// Where.
        path: String,
        /// What belongs there.
        expected: String,
        /// What is wrong with them.
        reason: &'static str,
    },
    /// The message has ended and the bytes have not.
    #[error("{extra_bytes} bytes follow the end of the message")]
    Trailing {
        /// How many.
        extra_bytes: usize,
    },
    /// Values lie too deep within each other.
    #[error("{}: nested deeper than {MAX_VALUE_DEPTH} levels", place(path))]
    TooDeep {
        /// Where it was given up.
        path: String,
    },
    /// More than [`MAX_VALUES`] values, or more than [`MAX_BODY_BYTES`] bytes.
    #[error(
        "{}: the message is larger than {MAX_BODY_BYTES} bytes or {MAX_VALUES} values",
        place(path)
    )]
    TooLarge {
        /// Where it was given up.
        path: String,
    },
    /// The schema has something that JSON cannot express, such as a map whose keys are lists.
    #[error("{}: {expected} cannot be written as JSON", place(path))]
    NotInJson {
        /// Where.
        path: String,
        /// What the schema has there.
        expected: String,
    },
}

impl From<ShapeError> for Refusal {
    fn from(error: ShapeError) -> Self {
        let code = match error {
            ShapeError::TooLarge { .. } => RefusalCode::TooLarge,
            ShapeError::UnknownField { .. }
            | ShapeError::MissingField { .. }
            | ShapeError::WrongType { .. }
            | ShapeError::OutOfRange { .. }
            | ShapeError::BadBytes { .. }
            | ShapeError::Trailing { .. }
            | ShapeError::TooDeep { .. }
            | ShapeError::NotInJson { .. } => RefusalCode::Malformed,
        };
        Self::new(code, error.to_string())
    }
}

fn place(path: &str) -> &str {
    if path.is_empty() { "the message" } else { path }
}

/// The way from the top to the value at hand.
#[derive(Default)]
pub(super) struct Path<'a>(Vec<Step<'a>>);

pub(super) enum Step<'a> {
    Field(&'a str),
    Index(usize),
    Key(String),
}

impl<'a> Path<'a> {
    pub(super) fn push(&mut self, step: Step<'a>) {
        self.0.push(step);
    }

    pub(super) fn pop(&mut self) {
        self.0.pop();
    }

    pub(super) fn render(&self) -> String {
        let mut text = String::new();
        for step in &self.0 {
            // Writing to a string does not fail.
            let _ = match step {
                Step::Field(name) if text.is_empty() => write!(text, "{name}"),
                Step::Field(name) => write!(text, ".{name}"),
                Step::Index(index) => write!(text, "[{index}]"),
                Step::Key(key) => write!(text, "[{}]", quoted(key)),
            };
        }
        text
    }

    pub(super) fn wrong(&self, found: &Value, expected: &Ty) -> ShapeError {
        ShapeError::WrongType {
            path: self.render(),
            found: summary(found),
            expected: shape_of(expected),
        }
    }

    pub(super) fn not_in_json(&self, expected: &Ty) -> ShapeError {
        ShapeError::NotInJson {
            path: self.render(),
            expected: shape_of(expected),
        }
    }
}

/// What a person recognises a value by, in a few words.
pub(super) fn summary(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => format!("the string {}", quoted(text)),
        Value::Array(items) => format!("an array of {}", items.len()),
        Value::Object(fields) => match fields.keys().next() {
            None => "an empty object".to_owned(),
            Some(first) if fields.len() == 1 => format!("an object with field {}", quoted(first)),
            Some(_) => format!("an object with {} fields", fields.len()),
        },
    }
}

/// The text in quotes, with control characters escaped, cut if it is long.
fn quoted(text: &str) -> String {
    const SHOWN: usize = 40;
    match text.char_indices().nth(SHOWN) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}...", &text[..end]),
    }
}
