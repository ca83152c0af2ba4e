//! The test binary as another process: started again, in a role, with a side socket as its input.

use std::hash::{BuildHasher, RandomState};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use weft_local_ipc::{SideSocket, die_with_parent};

const ROLE: &str = "WEFT_TEST_ROLE";

/// How long a test waits for what comes at once unless something is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// This binary, to be run once more: by the emulator and its arguments in `WEFT_TEST_RUNNER`, if that is
/// what runs us (then the system cannot).
pub(crate) fn again() -> Command {
    let exe = std::env::current_exe().unwrap();
    let runner = std::env::var("WEFT_TEST_RUNNER").unwrap_or_default();
    let mut words = runner.split_whitespace();
    let Some(emulator) = words.next() else {
        return Command::new(exe);
    };
    let mut command = Command::new(emulator);
    command.args(words).arg(exe);
    command
}

/// Starts this binary as a process that runs the ignored test `the_other_process`.
pub(crate) fn spawn(role: &str) -> (Child, SideSocket) {
    let (side, far) = SideSocket::pair().unwrap();
    let child = again()
        .args(["--exact", "the_other_process", "--ignored", "--nocapture"])
        .env(ROLE, role)
        .stdin(Stdio::from(OwnedFd::from(far)))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    (child, side)
}

/// The role that this process was started in, and the socket to who started it. `None` if
/// somebody runs all ignored tests.
pub(crate) fn role() -> Option<(String, SideSocket)> {
    let role = std::env::var(ROLE).ok()?;
    die_with_parent().unwrap();
    let socket = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    Some((role, SideSocket::from(socket)))
}

/// Waits for one descriptor.
pub(crate) fn receive_fd(side: &SideSocket) -> OwnedFd {
    let (_, mut fds) = side.receive(Some(PATIENCE)).unwrap().expect("in time");
    fds.remove(0)
}

pub(crate) fn send_fd(side: &SideSocket, fd: &OwnedFd) {
    side.send(b"half", &[fd.as_fd()]).unwrap();
}

/// A whole number from the environment, or the default.
pub(crate) fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no whole number")),
        Err(_) => default,
    }
}

/// A generator with a new seed, or the one in `WEFT_SEED`. Says which, to repeat a run.
pub(crate) fn random() -> SmallRng {
    let seed = setting("WEFT_SEED", RandomState::new().hash_one(0));
    println!("WEFT_SEED={seed}");
    SmallRng::seed_from_u64(seed)
}
