//! What is shown while the demo runs, on stderr: one live line on a terminal, else a line a second.

use std::io::{IsTerminal as _, Write as _, stderr};
use std::time::{Duration, Instant};

/// How often the live line changes on a terminal.
const LIVE_EVERY: Duration = Duration::from_millis(200);

/// How often a line is written where there is no terminal.
const PLAIN_EVERY: Duration = Duration::from_secs(1);

/// The progress display.
#[derive(Debug)]
pub(crate) struct Progress {
    live: bool,
    shown: Option<Instant>,
    /// Whether the cursor stands behind a live line.
    open: bool,
}

impl Progress {
    /// A display on stderr.
    pub(crate) fn new() -> Self {
        Self {
            live: stderr().is_terminal(),
            shown: None,
            open: false,
        }
    }

    /// Shows what is going on now, unless something was shown a moment ago.
    pub(crate) fn now(&mut self, line: impl FnOnce() -> String) {
        let every = if self.live { LIVE_EVERY } else { PLAIN_EVERY };
        if self.shown.is_some_and(|shown| shown.elapsed() < every) {
            return;
        }
        self.shown = Some(Instant::now());
        let line = line();
        // Nobody reads stderr any more: no reason to end the demo.
        let _ = if self.live {
            self.open = true;
            write!(stderr(), "\r\x1b[2K{line}").and_then(|()| stderr().flush())
        } else {
            writeln!(stderr(), "{line}")
        };
    }

    /// Writes a line that stays.
    pub(crate) fn say(&mut self, line: &str) {
        let clear = if self.open { "\r\x1b[2K" } else { "" };
        self.open = false;
        self.shown = None;
        let _ = writeln!(stderr(), "{clear}{line}");
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.open {
            let _ = writeln!(stderr());
        }
    }
}
