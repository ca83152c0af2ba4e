//! Refusals: the errors that cross a boundary.
//!
//! Inside a process each layer has its own error type. What leaves it, over a channel or a wire, is
//! a [`Refusal`]: a code that a program can act on, and a sentence for a person.

use std::fmt;

use postcard_schema::Schema;
use postcard_schema::schema::NamedType;
use serde::{Deserialize, Serialize};

/// Who has to act on a refusal. It decides the exit code of the command line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// The caller asked for something that does not exist or does not fit.
    Caller,
    /// The caller may not do this.
    Right,
    /// Something that is needed cannot be reached now; the same call may work later.
    Reach,
    /// We are at fault, or the machine is.
    Internal,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal, $fault:ident;)*) => {
        /// Why something was refused. The numbers are the wire format and never change meaning.
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
        #[serde(try_from = "u16", into = "u16")]
        pub enum RefusalCode {
            $($(#[$doc])* $name,)*
        }

        impl RefusalCode {
            /// Every code, for tables and tests.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The code's number on the wire.
            #[must_use]
            pub const fn number(self) -> u16 {
                match self { $(Self::$name => $number,)* }
            }

            /// The code's name, as logs and `--json` print it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Who has to act.
            #[must_use]
            pub const fn fault(self) -> Fault {
                match self { $(Self::$name => Fault::$fault,)* }
            }
        }

        impl TryFrom<u16> for RefusalCode {
            type Error = String;

            fn try_from(number: u16) -> Result<Self, String> {
                match number {
                    $($number => Ok(Self::$name),)*
                    _ => Err(format!("refusal code {number} is unknown here")),
                }
            }
        }
    };
}

codes! {
    /// No service of this name is in the directory.
    UnknownService = 10, "unknown_service", Caller;
    /// No node of this name belongs to the cluster.
    UnknownNode = 11, "unknown_node", Caller;
    /// The contract has no message of this name or index.
    UnknownMessage = 12, "unknown_message", Caller;
    /// The bytes of a message do not fit its type.
    Malformed = 13, "malformed", Caller;
    /// The two sides mean different types by one name.
    TypeMismatch = 14, "type_mismatch", Caller;
    /// A body or value is larger than the fabric or the service takes.
    TooLarge = 15, "too_large", Caller;
    /// The handler refuses this request; the text is the service's.
    Rejected = 16, "rejected", Caller;
    /// The thing exists already, or the state asked for is already reached.
    AlreadyThere = 17, "already_there", Caller;
    /// Something else is being done with this service; try again when it is over.
    Busy = 18, "busy", Reach;
    /// The service speaks another contract than was asked for.
    WrongContract = 19, "wrong_contract", Caller;

    /// The holder has no capability for this target and contract.
    NoGrant = 30, "no_grant", Right;
    /// The capability has run out, or does not hold yet.
    Expired = 31, "expired", Right;
    /// The certificate chain does not lead to a root of this cluster.
    Untrusted = 32, "untrusted", Right;
    /// The holder could not prove that the capability is its own.
    NotHolder = 33, "not_holder", Right;
    /// The capability does not reach this message or lane.
    NotAllowed = 34, "not_allowed", Right;
    /// The budget of the domain is used up.
    OverBudget = 35, "over_budget", Right;

    /// The node, or a process on it, cannot be reached now.
    Unreachable = 50, "unreachable", Reach;
    /// The service lives elsewhere, in a later epoch.
    Moved = 51, "moved", Reach;
    /// The answer did not come in time. The request may still be handled.
    DeadlineExceeded = 52, "deadline_exceeded", Reach;
    /// The receiver died with the request in hand: whether it took effect is not known.
    OutcomeUnknown = 53, "outcome_unknown", Reach;
    /// The other side has closed the channel.
    Closed = 54, "closed", Reach;
    /// What was asked for is being stopped.
    ShuttingDown = 55, "shutting_down", Reach;

    /// Something broke on the side that refuses.
    Internal = 70, "internal", Internal;
    /// The peer broke the protocol.
    PeerFault = 71, "peer_fault", Internal;
    /// Storage failed: a full or broken disk.
    Storage = 72, "storage", Internal;
}

// A code travels as its number, so a further code changes the shape of no message.
impl Schema for RefusalCode {
    const SCHEMA: &'static NamedType = &NamedType {
        name: "RefusalCode",
        ty: u16::SCHEMA.ty,
    };
}

impl From<RefusalCode> for u16 {
    fn from(code: RefusalCode) -> Self {
        code.number()
    }
}

impl fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// An error that leaves a process: a code to act on and a sentence that says what to do.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, thiserror::Error)]
#[error("{text} [{code}]")]
pub struct Refusal {
    /// What a program acts on.
    pub code: RefusalCode,
    /// What a person reads: what was asked, what is missing, what to do next.
    pub text: String,
}

impl Refusal {
    /// A refusal with its reason.
    pub fn new(code: RefusalCode, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_comes_back_from_its_number_and_no_two_share_one() {
        let mut numbers: Vec<u16> = RefusalCode::ALL.iter().map(|code| code.number()).collect();
        for code in RefusalCode::ALL {
            assert_eq!(RefusalCode::try_from(code.number()), Ok(*code));
        }
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), RefusalCode::ALL.len());
        assert!(RefusalCode::try_from(9).is_err());
    }
}
