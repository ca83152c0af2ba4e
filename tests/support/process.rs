//! Running commands to their end, with a deadline, and reading what they say.

use std::ffi::OsStr;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::binary::weft_binary;

/// How long a `weft` command may take before it is killed and the test fails. Longer than its own
/// deadline.
const COMMAND_PATIENCE: Duration = Duration::from_secs(60);

/// A command that has ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The words that were typed.
    pub words: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
    /// How long it ran.
    pub took: Duration,
}

impl Finished {
    /// Itself, if it ended well.
    ///
    /// # Panics
    ///
    /// With all that it said, if it did not.
    #[track_caller]
    #[must_use]
    pub fn expect_success(self) -> Self {
        assert!(self.status.success(), "{}", self.told());
        self
    }

    /// Command, status and output, for a message.
    #[must_use]
    pub fn told(&self) -> String {
        let Self {
            words,
            status,
            stdout,
            stderr,
            took,
        } = self;
        format!("`{words}` ended with {status} after {took:?}\nstdout: {stdout}\nstderr: {stderr}")
    }
}

/// A running command whose output is being collected.
#[derive(Debug)]
pub struct Started {
    words: String,
    child: Child,
    began: Instant,
    stdout: JoinHandle<String>,
    stderr: JoinHandle<String>,
}

impl Started {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended.
    ///
    /// # Panics
    ///
    /// If the system does not tell.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_some()
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// If it runs for longer than `patience` from its start; it is killed then.
    #[track_caller]
    pub fn finish(mut self, patience: Duration) -> Finished {
        let status = loop {
            match self.child.try_wait().expect("wait") {
                Some(status) => break Some(status),
                None if self.began.elapsed() >= patience => break None,
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let took = self.began.elapsed();
        let late = status.is_none();
        let status = status.unwrap_or_else(|| {
            let _ = self.child.kill();
            self.child.wait().expect("wait")
        });
        let finished = Finished {
            words: self.words,
            status,
            stdout: self.stdout.join().expect("reader"),
            stderr: self.stderr.join().expect("reader"),
            took,
        };
        assert!(!late, "killed after {patience:?}: {}", finished.told());
        finished
    }
}

/// Starts a command with nothing on stdin and collects its output.
///
/// # Panics
///
/// If it cannot be started.
#[track_caller]
pub fn start(command: &mut Command) -> Started {
    let words = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("`{words}`: {error}"));
    let stdout = collect(child.stdout.take().expect("piped"));
    let stderr = collect(child.stderr.take().expect("piped"));
    Started {
        words,
        child,
        began: Instant::now(),
        stdout,
        stderr,
    }
}

/// Runs a command to its end.
///
/// # Panics
///
/// If it cannot be started or takes longer than `patience`.
#[track_caller]
pub fn run(command: &mut Command, patience: Duration) -> Finished {
    start(command).finish(patience)
}

fn collect(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // A pipe that breaks has said all that it will say.
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// What a `weft` command answered to `--json`.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The process.
    pub finished: Finished,
    /// The one document on its stdout.
    pub json: Value,
}

impl Answer {
    /// Reads the answer of a command that has ended.
    ///
    /// # Panics
    ///
    /// If its stdout is not exactly one JSON document: that is a promise of `--json`.
    #[track_caller]
    #[must_use]
    pub fn of(finished: Finished) -> Self {
        let json = serde_json::from_str(&finished.stdout)
            .unwrap_or_else(|error| panic!("not one JSON document: {error}\n{}", finished.told()));
        Self { finished, json }
    }

    /// The exit code; `None` if a signal ended it.
    #[must_use]
    pub fn exit(&self) -> Option<i32> {
        self.finished.status.code()
    }

    /// The code of the error, such as `no_grant`; empty if there is none.
    #[must_use]
    pub fn error_code(&self) -> &str {
        self.json["error"]["code"].as_str().unwrap_or_default()
    }

    /// The text of the error; empty if there is none.
    #[must_use]
    pub fn error_text(&self) -> &str {
        self.json["error"]["text"].as_str().unwrap_or_default()
    }

    /// The document, if the command did what it was asked.
    ///
    /// # Errors
    ///
    /// All that it said.
    pub fn done(self) -> Result<Value, String> {
        if self.finished.status.success() {
            Ok(self.json)
        } else {
            Err(self.finished.told())
        }
    }

    /// The document of a command that did what it was asked.
    ///
    /// # Panics
    ///
    /// With all that it said, if it did not.
    #[track_caller]
    #[must_use]
    pub fn expect_done(self) -> Value {
        self.done().unwrap_or_else(|told| panic!("{told}"))
    }

    /// The text of the error of a command that was refused with `code` and ended with `exit`.
    ///
    /// # Panics
    ///
    /// If it did not end so.
    #[track_caller]
    #[must_use]
    pub fn expect_error(self, exit: i32, code: &str) -> String {
        assert_eq!(
            (self.exit(), self.error_code()),
            (Some(exit), code),
            "{}",
            self.finished.told()
        );
        let text = self.error_text();
        assert!(
            !text.is_empty(),
            "an error without a text: {}",
            self.finished.told()
        );
        text.to_owned()
    }
}

/// Runs a `weft` command with `--json` in `directory`.
///
/// # Panics
///
/// If it takes longer than a minute, or answers with anything but one JSON document.
#[track_caller]
pub fn weft(directory: &Path, words: &[&str]) -> Answer {
    let mut command = Command::new(weft_binary());
    // What the person who runs the tests has set is not for them.
    command
        .env_remove("WEFT_DATA")
        .current_dir(directory)
        .arg("--json")
        .args(words);
    Answer::of(run(&mut command, COMMAND_PATIENCE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_command_tells_its_status_and_both_of_its_outputs() {
        let done = run(
            &mut shell("echo out; echo err >&2; exit 3"),
            Duration::from_secs(10),
        );
        assert_eq!(done.status.code(), Some(3));
        assert_eq!(
            (done.stdout.as_str(), done.stderr.as_str()),
            ("out\n", "err\n")
        );
    }

    #[test]
    fn a_command_that_hangs_is_killed_and_fails_the_test() {
        let began = Instant::now();
        let outcome = std::panic::catch_unwind(|| {
            run(&mut shell("exec sleep 60"), Duration::from_millis(200))
        });
        assert!(outcome.is_err());
        assert!(began.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn an_answer_is_exactly_one_document() {
        let answer = |text: &str| {
            let words = format!("printf '%s' '{text}'");
            std::panic::catch_unwind(|| {
                Answer::of(run(&mut shell(&words), Duration::from_secs(10)))
            })
        };
        assert_eq!(answer("{\"a\": 1}").expect("one").expect_done()["a"], 1);
        assert!(answer("{} {}").is_err());
        assert!(answer("").is_err());
    }

    #[test]
    fn an_error_is_compared_by_exit_code_and_name() {
        let script = "echo '{\"error\": {\"code\": \"no_grant\", \"text\": \"ask\"}}'; exit 3";
        let answer = Answer::of(run(&mut shell(script), Duration::from_secs(10)));
        assert_eq!(answer.clone().expect_error(3, "no_grant"), "ask");
        for (exit, code) in [(4, "no_grant"), (3, "expired")] {
            let answer = answer.clone();
            assert!(std::panic::catch_unwind(|| answer.expect_error(exit, code)).is_err());
        }
        assert!(answer.done().is_err());
    }
}
