//! What can go wrong on the command line, and which exit code says so.
//!
//! A script has to tell "you asked for nonsense" from "you may not" from "try again later" without
//! reading English. The exit code carries exactly that distinction; `--json` adds the code's name.

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Value, json};
use weft_types::{Fault, Refusal, RefusalCode};

/// The table that every `--help` shows. [`Exit`] is its truth; a test compares the two.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  `weft demo` only: a message was lost, repeated, reordered or not acknowledged, or the data changed
  2  usage: the command line or the JSON does not fit
  3  refused: no such service, node or message, no grant, already there
  4  unreachable: no node, no answer in time, busy, or the outcome is not known
  5  internal: Weft or the machine is at fault
  130  interrupted by Ctrl-C";

/// How a command ends, as a number for the shell.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Exit {
    /// The command did what it was asked.
    Done = 0,
    /// The demo ran and found that a promise was broken.
    Broken = 1,
    /// The command line, or JSON on it, does not fit.
    Usage = 2,
    /// The other side said no.
    Refused = 3,
    /// The other side could not be reached or asked, or did not answer in time.
    Unreachable = 4,
    /// Weft or the machine is at fault.
    Internal = 5,
    /// Somebody pressed Ctrl-C or sent SIGTERM; 128 + SIGINT, as shells count.
    Interrupted = 130,
}

impl Exit {
    /// Every way to end.
    pub const ALL: [Self; 7] = [
        Self::Done,
        Self::Broken,
        Self::Usage,
        Self::Refused,
        Self::Unreachable,
        Self::Internal,
        Self::Interrupted,
    ];

    /// The number that the shell sees.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The exit for a refusal: total, so that a new code cannot be forgotten.
    #[must_use]
    pub const fn of(code: RefusalCode) -> Self {
        match code.fault() {
            Fault::Caller | Fault::Right => Self::Refused,
            Fault::Reach => Self::Unreachable,
            Fault::Internal => Self::Internal,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.number())
    }
}

/// Why a command did not do what it was asked. The text says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The command line, or JSON on it, does not fit.
    #[error("{0}")]
    Usage(String),
    /// A node, a service or a certificate check said no, or could not be reached.
    #[error("{}", .0.text)]
    Refused(Refusal),
    /// No node answers on the socket of this data directory.
    #[error(
        "{reason}\nstart one with `weft node --data {} --listen 127.0.0.1:7001`, \
         or name the directory of a running one with --data or WEFT_DATA",
        data.display()
    )]
    NoNode {
        /// The directory that `--data` or `WEFT_DATA` names.
        data: PathBuf,
        /// Who does not answer, and what the system said.
        reason: String,
    },
    /// The demo ran to its end and found a broken promise.
    #[error("{0}")]
    Broken(String),
    /// Somebody pressed Ctrl-C or ended us.
    #[error("interrupted")]
    Interrupted,
    /// Weft or the machine is at fault.
    #[error("{0}")]
    Internal(String),
}

impl CliError {
    /// The command line does not fit.
    pub fn usage(text: impl fmt::Display) -> Self {
        Self::Usage(text.to_string())
    }

    /// Weft or the machine is at fault: `what` failed, and the system or library said `why`.
    pub fn internal(what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self::Internal(format!("{what}: {why}"))
    }

    /// Something that the caller named is not there or does not fit.
    pub fn refused(code: RefusalCode, text: impl fmt::Display) -> Self {
        Self::Refused(Refusal::new(code, text.to_string()))
    }

    /// How the process should end.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            Self::Refused(refusal) => Exit::of(refusal.code),
            Self::NoNode { .. } => Exit::Unreachable,
            Self::Broken(_) => Exit::Broken,
            Self::Interrupted => Exit::Interrupted,
            Self::Internal(_) => Exit::Internal,
        }
    }

    /// The name that `--json` prints: a refusal's own, or one of ours.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Usage(_) => "usage",
            Self::Refused(refusal) => refusal.code.name(),
            Self::NoNode { .. } => "no_node",
            Self::Broken(_) => "broken_promise",
            Self::Interrupted => "interrupted",
            Self::Internal(_) => "internal",
        }
    }

    /// The one document that `--json` prints for an error.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({ "error": { "code": self.code(), "text": self.to_string() } })
    }
}

impl From<Refusal> for CliError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_code_has_the_exit_code_of_who_has_to_act() {
        for code in RefusalCode::ALL {
            let exit = CliError::refused(*code, "no").exit();
            let expected = match code.fault() {
                Fault::Caller | Fault::Right => 3,
                Fault::Reach => 4,
                Fault::Internal => 5,
            };
            assert_eq!(exit.number(), expected, "{code}");
        }
    }

    #[test]
    fn the_help_lists_exactly_the_exit_codes_there_are() {
        let listed: Vec<u8> = EXIT_CODES
            .lines()
            .skip(1)
            .map(|line| line.trim().split(' ').next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(listed, Exit::ALL.map(Exit::number));
    }

    #[test]
    fn our_own_errors_exit_as_documented() {
        let no_node = CliError::NoNode {
            data: "d1".into(),
            reason: "no node answers at d1/weft.sock".into(),
        };
        assert_eq!(CliError::usage("x").exit(), Exit::Usage);
        assert_eq!(no_node.exit(), Exit::Unreachable);
        assert_eq!(CliError::Broken("x".into()).exit(), Exit::Broken);
        assert_eq!(CliError::internal("x", "y").exit(), Exit::Internal);
        assert!(
            no_node.to_string().contains("weft node --data d1"),
            "{no_node}"
        );
    }

    #[test]
    fn an_error_as_json_has_a_code_and_a_text() {
        let error = CliError::refused(RefusalCode::NoGrant, "ask for a grant");
        assert_eq!(
            error.to_json(),
            json!({ "error": { "code": "no_grant", "text": "ask for a grant" } })
        );
    }
}
