//! Ctrl-C and SIGTERM: the first asks the demo to clear up, a second ends it at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::error::{CliError, Exit};

/// Whether somebody wants the demo to end.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt {
    asked: Arc<AtomicBool>,
}

impl Interrupt {
    /// Listens from now on.
    pub(crate) fn listen() -> Result<Self, CliError> {
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // Registered first, so it sees the flag of an earlier signal only: the second one ends
            // the process, and the janitor does the rest.
            signal_hook::flag::register_conditional_shutdown(
                signal,
                Exit::Interrupted.number().into(),
                Arc::clone(&asked),
            )
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&asked)))
            .map_err(|error| CliError::internal("signals", error))?;
        }
        Ok(Self { asked })
    }

    /// An error once somebody wants the demo to end.
    pub(crate) fn check(&self) -> Result<(), CliError> {
        // ORDER(asked): Relaxed; the flag guards no other data, and a look that comes late is made again.
        if self.asked.load(Ordering::Relaxed) {
            Err(CliError::Interrupted)
        } else {
            Ok(())
        }
    }
}
