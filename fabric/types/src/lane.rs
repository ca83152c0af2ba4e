//! Lanes: the priority levels inside a queue.

use std::fmt;
use std::ops::{Index, IndexMut};

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};

/// How many lanes each direction of a channel has.
///
/// A constant of the wire and of the shared layout: a change is a new version of both.
pub const LANES: usize = 4;

/// One priority level. A higher lane (a smaller number) is always drained first.
#[derive(
    Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize, Schema,
)]
#[serde(try_from = "u8", into = "u8")]
pub struct Lane(u8);

impl Lane {
    /// Goes before everything else.
    pub const URGENT: Self = Self(0);
    /// Interactive work that should not wait behind the ordinary.
    pub const HIGH: Self = Self(1);
    /// Where messages go if nobody says otherwise.
    pub const NORMAL: Self = Self(2);
    /// Bulk work that may wait.
    pub const LOW: Self = Self(3);

    /// All lanes, the most urgent first.
    pub const ALL: [Self; LANES] = [Self::URGENT, Self::HIGH, Self::NORMAL, Self::LOW];

    /// The lane of this number, if there is one.
    #[must_use]
    pub const fn new(value: u8) -> Option<Self> {
        if (value as usize) < LANES {
            Some(Self(value))
        } else {
            None
        }
    }

    /// The lane's number: 0 is the most urgent.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// The lane's number, to index an array of [`LANES`].
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl Default for Lane {
    fn default() -> Self {
        Self::NORMAL
    }
}

impl TryFrom<u8> for Lane {
    type Error = String;

    fn try_from(value: u8) -> Result<Self, String> {
        Self::new(value)
            .ok_or_else(|| format!("lane {value} does not exist: lanes are 0 to {}", LANES - 1))
    }
}

impl From<Lane> for u8 {
    fn from(lane: Lane) -> Self {
        lane.0
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lane {}", self.0)
    }
}

/// One `T` for each lane.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq, Serialize, Deserialize, Schema)]
pub struct PerLane<T>(pub [T; LANES]);

impl<T> PerLane<T> {
    /// Fills every lane by a function of the lane.
    pub fn from_fn(mut fill: impl FnMut(Lane) -> T) -> Self {
        Self(Lane::ALL.map(&mut fill))
    }

    /// The lanes with their values, the most urgent first.
    pub fn iter(&self) -> impl Iterator<Item = (Lane, &T)> {
        Lane::ALL.into_iter().zip(self.0.iter())
    }

    /// The lanes with their values, to change them, the most urgent first.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Lane, &mut T)> {
        Lane::ALL.into_iter().zip(self.0.iter_mut())
    }
}

impl<T> Index<Lane> for PerLane<T> {
    type Output = T;

    fn index(&self, lane: Lane) -> &T {
        &self.0[lane.index()]
    }
}

impl<T> IndexMut<Lane> for PerLane<T> {
    fn index_mut(&mut self, lane: Lane) -> &mut T {
        &mut self.0[lane.index()]
    }
}
