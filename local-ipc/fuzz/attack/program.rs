//! How bytes become a program: a head that sets the stage, then steps of one size, so that a change of
//! one byte leaves the other steps what they are.

use weft_types::Lane;

/// Bytes of the head.
pub(crate) const HEAD: usize = 4;
/// Bytes of a step: operation, two small arguments, the kind of value, the value.
pub(crate) const STEP: usize = 12;
/// The most steps that are done. More find nothing new, and take time.
const MOST_STEPS: usize = 400;

/// One step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) op: u8,
    pub(crate) a: u8,
    pub(crate) b: u8,
    tag: u8,
    word: u64,
}

/// A value of a step. Any word can be written; these are the ones that get further.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value {
    /// This word.
    Raw(u64),
    /// The value that would be right, and so much more.
    Near(i8),
    /// So far below the largest word.
    Top(u8),
    /// A power of two, less so much.
    Power(u8, u8),
    /// The second word of a slot.
    Meta {
        /// Kind of message.
        kind: u8,
        /// Its flags.
        flags: u8,
        /// Bytes of its body.
        len: u32,
    },
}

impl Step {
    pub(crate) fn new(op: u8, a: u8, b: u8, value: Value) -> Self {
        let (tag, word) = match value {
            Value::Raw(word) => (0, word),
            Value::Near(by) => (1, u64::from(by.cast_unsigned())),
            Value::Top(by) => (2, u64::from(by)),
            Value::Power(shift, less) => (3, u64::from(shift) | u64::from(less) << 8),
            Value::Meta { kind, flags, len } => (4, meta(kind, flags, len)),
        };
        Self {
            op,
            a,
            b,
            tag,
            word,
        }
    }

    pub(crate) fn to_bytes(self) -> [u8; STEP] {
        let mut bytes = [0; STEP];
        bytes[..4].copy_from_slice(&[self.op, self.a, self.b, self.tag]);
        bytes[4..].copy_from_slice(&self.word.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; STEP]) -> Self {
        let [op, a, b, tag, word @ ..] = *bytes;
        let word = u64::from_le_bytes(word);
        Self {
            op,
            a,
            b,
            tag,
            word,
        }
    }

    pub(crate) fn lane(self) -> Lane {
        Lane::ALL[usize::from(self.a & 3)]
    }

    /// The value, where `near` would be right.
    pub(crate) fn value(self, near: u64) -> u64 {
        let small = self.word.to_le_bytes()[0];
        match self.tag % 5 {
            0 => self.word,
            1 => near.wrapping_add_signed(small.cast_signed().into()),
            2 => u64::MAX - u64::from(small),
            3 => {
                let less = self.word >> 8 & 3;
                (1_u64 << (small & 63)).wrapping_sub(less)
            }
            // Lengths around what there is room for.
            _ => self.word & 0x0003_ffff_ffff_ffff,
        }
    }
}

/// The second word of a slot.
pub(crate) fn meta(kind: u8, flags: u8, len: u32) -> u64 {
    u64::from(kind) << 16 | u64::from(flags) << 24 | u64::from(len) << 32
}

/// The head of an input (zero where it is too short) and its steps.
pub(crate) fn parse(bytes: &[u8]) -> ([u8; HEAD], impl Iterator<Item = Step>) {
    let (start, rest) = bytes.split_at(HEAD.min(bytes.len()));
    let mut head = [0; HEAD];
    head[..start.len()].copy_from_slice(start);
    let (steps, _) = rest.as_chunks::<STEP>();
    let steps = steps.iter().take(MOST_STEPS).map(Step::from_bytes);
    (head, steps)
}
