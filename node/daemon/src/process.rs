//! A child process of the node: how it ends, and what it said last.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Child;
use tokio::time::sleep;
use weft_types::ServiceName;

/// How many of the last lines of a process's standard error are kept for the message about its end.
const KEPT_LINES: usize = 5;

/// The longest line of a process's standard error, in bytes; a longer one is cut into several.
const MAX_LINE_BYTES: u64 = 4096;

/// A child process, with the last lines that it wrote.
pub(crate) struct Process {
    child: Child,
    last_words: Rc<RefCell<VecDeque<String>>>,
}

impl Process {
    /// Takes care of a child, which writes its words to a pipe.
    pub(crate) fn of(mut child: Child, name: &ServiceName) -> Self {
        let last_words = listen(&mut child, name);
        Self { child, last_words }
    }

    /// Waits for the end and tells it: "ended with exit status: 1: no such file".
    pub(crate) async fn ended(&mut self) -> String {
        let status = match self.child.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => format!("an unknown status ({error})"),
        };
        // What it wrote last may still be in the pipe.
        sleep(Duration::from_millis(20)).await;
        let words = self
            .last_words
            .borrow()
            .iter()
            .cloned()
            .collect::<Vec<_>>()
            .join(" | ");
        if words.is_empty() {
            format!("ended with {status}")
        } else {
            format!("ended with {status}: {words}")
        }
    }

    /// Ends it at once.
    pub(crate) async fn kill(&mut self) {
        if let Err(error) = self.child.kill().await {
            tracing::debug!(%error, "already gone");
        }
    }
}

/// Passes on what a process writes to its standard error, and keeps the last lines.
fn listen(child: &mut Child, name: &ServiceName) -> Rc<RefCell<VecDeque<String>>> {
    let kept = Rc::new(RefCell::new(VecDeque::new()));
    if let Some(stderr) = child.stderr.take() {
        let (kept, name) = (Rc::clone(&kept), name.clone());
        tokio::task::spawn_local(async move {
            let mut reader = BufReader::new(stderr);
            let mut line = Vec::new();
            // A line that never ends is cut.
            while matches!(
                (&mut reader)
                    .take(MAX_LINE_BYTES)
                    .read_until(b'\n', &mut line)
                    .await,
                Ok(1..)
            ) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                line.clear();
                tracing::info!(target: "process", %name, "{text}");
                let mut kept = kept.borrow_mut();
                if kept.len() == KEPT_LINES {
                    kept.pop_front();
                }
                kept.push_back(text);
            }
        });
    }
    kept
}
