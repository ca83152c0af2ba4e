//! Ids and counters. Two of them never mix, because each is its own type.

use std::fmt;

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};

/// Counts the owners of one service.
///
/// What carries an old epoch comes from a node that no longer owns the service, and is refused
/// whatever it says. Epoch 0 belongs to nobody: the first owner has epoch 1.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    Eq,
    Hash,
    Ord,
    PartialEq,
    PartialOrd,
    Serialize,
    Deserialize,
    Schema,
)]
pub struct Epoch(u64);

impl Epoch {
    /// The epoch of a service that nobody has owned yet.
    pub const NONE: Self = Self(0);
    /// The epoch of the first owner.
    pub const FIRST: Self = Self(1);

    /// An epoch as it stands on the wire or in the directory.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The number itself, for display and storage.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The epoch of the next owner.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {}", self.0)
    }
}

/// The place of a message in one lane of one direction of a channel.
///
/// Given once, by the original sender, and kept by every ring and wire on the way. As a cursor it
/// is exclusive: "done up to 7" means that 0 to 6 are done and 7 is next.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    Eq,
    Hash,
    Ord,
    PartialEq,
    PartialOrd,
    Serialize,
    Deserialize,
    Schema,
)]
pub struct Sequence(u64);

impl Sequence {
    /// Where a new channel starts.
    pub const ZERO: Self = Self(0);

    /// A sequence as it stands in a slot or on the wire.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The number itself.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The sequence after this one. At 10⁹ messages a second it wraps after 584 years.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }

    /// This sequence, `count` messages later.
    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        Self(self.0.wrapping_add(count))
    }

    /// How many messages lie from `earlier` (included) to this one (excluded); 0 if it is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// A channel, everywhere and for its whole life: it survives restarts, reconnections and moves.
///
/// Random (128 bits), so that two nodes can name channels without asking each other.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize, Schema)]
pub struct ChannelId(u128);

/// One migration of one service. Random (128 bits): a commit can be submitted again after a lost
/// answer, and the directory knows it for the same one.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize, Schema)]
pub struct MoveId(u128);

macro_rules! random_id {
    ($name:ident, $prefix:literal) => {
        impl $name {
            /// A fresh id from the operating system's random numbers.
            ///
            /// # Panics
            ///
            /// If the system has no random numbers (`getrandom(2)` fails): nothing is safe then.
            #[must_use]
            pub fn random() -> Self {
                let mut bytes = [0; 16];
                getrandom::fill(&mut bytes).expect("the system gives random numbers");
                Self(u128::from_le_bytes(bytes))
            }

            /// An id as it stands on the wire, or one that a simulation drew from its seed.
            #[must_use]
            pub const fn new(value: u128) -> Self {
                Self(value)
            }

            /// The number itself.
            #[must_use]
            pub const fn get(self) -> u128 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // The first 32 bits tell ids of one log apart; the whole is in `Debug`.
                write!(f, concat!($prefix, "-{:08x}"), self.0 >> 96)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "-{:032x}"), self.0)
            }
        }
    };
}

random_id!(ChannelId, "ch");
random_id!(MoveId, "mv");

/// A process attached to a node, counted by its node daemon from 1 and never used again.
///
/// A restarted process is another domain, so nothing said to the dead one reaches its successor.
#[derive(
    Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize, Schema,
)]
pub struct DomainId(u64);

impl DomainId {
    /// A domain by its number on its node.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The number itself.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for DomainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "domain {}", self.0)
    }
}

/// What a type looks like, in 64 bits: name, version and the shape of every field.
///
/// Equal fingerprints mean that the two sides read each other's bytes alike.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize, Schema)]
pub struct Fingerprint(u64);

impl Fingerprint {
    /// A fingerprint as it stands on the wire.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The number itself.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// A message's type on one channel: its place in the table that was agreed when it opened.
///
/// Means nothing on another channel. A reply carries the index of its request.
#[derive(
    Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize, Schema,
)]
pub struct TypeIndex(u16);

impl TypeIndex {
    /// An index as it stands in a slot.
    #[must_use]
    pub const fn new(value: u16) -> Self {
        Self(value)
    }

    /// The number itself.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}
