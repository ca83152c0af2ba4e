//! The error of this crate: a refusal, or the reason why none could be had.

use weft_contract::{DecodeError, EncodeError};
use weft_local_ipc::heap::HeapError;
use weft_local_ipc::{ChannelError, PeerFault, RegionError, SendError};
use weft_types::{Refusal, RefusalCode};

/// What went wrong, always with a [`Refusal`] to act on.
///
/// The code of the refusal tells who has to act ([`RefusalCode::fault`]); its text says what to do.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(transparent)]
pub struct Error(Refusal);

impl Error {
    /// An error of this code.
    pub fn new(code: RefusalCode, text: impl Into<String>) -> Self {
        Self(Refusal::new(code, text))
    }

    /// The refusal, as it came over the channel or was made here.
    #[must_use]
    pub fn refusal(&self) -> &Refusal {
        &self.0
    }

    /// The refusal's code.
    #[must_use]
    pub fn code(&self) -> RefusalCode {
        self.0.code
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        error.0
    }
}

impl From<PeerFault> for Error {
    fn from(fault: PeerFault) -> Self {
        Self::new(
            RefusalCode::PeerFault,
            format!("the other side broke the channel's rules: {fault}"),
        )
    }
}

impl From<RegionError> for Error {
    fn from(error: RegionError) -> Self {
        Self::new(RefusalCode::Internal, format!("shared memory: {error}"))
    }
}

impl From<HeapError> for Error {
    fn from(error: HeapError) -> Self {
        let code = match &error {
            HeapError::Full { extent_bytes } => {
                return Self::new(
                    RefusalCode::Busy,
                    format!(
                        "the heap has no block free: wait for borrowers, or grow it by {extent_bytes} bytes"
                    ),
                );
            }
            HeapError::Budget { bytes, left } => {
                return Self::new(
                    RefusalCode::OverBudget,
                    format!(
                        "an extent of {bytes} bytes is more than the {left} that the heap may still take: shrink it, or make it with a larger `Limits::budget_bytes`"
                    ),
                );
            }
            HeapError::TooManyExtents => RefusalCode::OverBudget,
            HeapError::TooManyObjects { .. }
            | HeapError::TooManyLent { .. }
            | HeapError::Send(SendError::Full { .. }) => RefusalCode::Busy,
            HeapError::TooLarge { .. } => RefusalCode::TooLarge,
            HeapError::NoSuchBorrower
            | HeapError::Foreign
            | HeapError::AlreadySent
            | HeapError::Retired => RefusalCode::Rejected,
            HeapError::Fault(_) | HeapError::Send(SendError::Peer(_)) => RefusalCode::PeerFault,
            HeapError::Region(_) | HeapError::Send(_) => RefusalCode::Internal,
        };
        Self::new(code, error.to_string())
    }
}

impl From<ChannelError> for Error {
    fn from(error: ChannelError) -> Self {
        Self::new(
            RefusalCode::PeerFault,
            format!("the channel could not be connected: {error}"),
        )
    }
}

impl From<EncodeError> for Error {
    fn from(error: EncodeError) -> Self {
        Self::new(RefusalCode::TooLarge, error.to_string())
    }
}

impl From<DecodeError> for Error {
    fn from(error: DecodeError) -> Self {
        Self::new(RefusalCode::Malformed, error.to_string())
    }
}

/// Wraps a failed system call that this crate cannot do without.
pub(crate) fn system(what: &str, error: impl std::fmt::Display) -> Error {
    Error::new(RefusalCode::Internal, format!("{what}: {error}"))
}
