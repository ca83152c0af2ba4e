//! Starting the processes of a cell: this program again, a part each, together.
//!
//! Each child has a side socket to its parent as standard input. Over it come its part and the
//! descriptors of the transport; it says when it is ready, and starts when it is told to.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tempfile::TempDir;
use weft_local_ipc::SideSocket;

use crate::Outcome;
use crate::cell::{Cell, Figures};
use crate::part::{Part, Role};
use crate::transport;

/// What the processes of a run may take beyond the time that they measure.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a child may take to end by itself.
const FAREWELL: Duration = Duration::from_secs(1);

/// Set for a child that plays a part.
pub const PART: &str = "WEFT_BENCH_PART";

/// What the processes of one measurement have in common.
pub(crate) struct Run {
    pub(crate) name: String,
    pub(crate) directory: TempDir,
}

impl Run {
    fn new() -> Outcome<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            name: format!("{}_{count}", std::process::id()),
            directory: TempDir::with_prefix("weft-bench-")?,
        })
    }
}

impl Drop for Run {
    /// iceoryx2 leaves a file of shared memory behind each time.
    fn drop(&mut self) {
        let prefix = format!("weft_bench_{}_", self.name);
        for entry in std::fs::read_dir("/dev/shm")
            .into_iter()
            .flatten()
            .flatten()
        {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                // Somebody else has removed it.
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

/// A child that ends with this value.
struct Player {
    child: Child,
    line: Option<SideSocket>,
}

impl Drop for Player {
    fn drop(&mut self) {
        // It ends with its line, and takes away what it made.
        self.line = None;
        let end = Instant::now() + FAREWELL;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        // It has ended, or it hangs.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Player {
    fn start(program: &Path, part: &Part, descriptors: &[OwnedFd]) -> Outcome<Self> {
        let (line, far) = SideSocket::pair()?;
        let child = Command::new(program)
            .env(PART, "1")
            .stdin(Stdio::from(OwnedFd::from(far)))
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let player = Self {
            child,
            line: Some(line),
        };
        let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        player.line()?.send(&serde_json::to_vec(part)?, &borrowed)?;
        Ok(player)
    }

    fn line(&self) -> Outcome<&SideSocket> {
        self.line.as_ref().context("it was told to end")
    }

    fn hear(&self, until: Instant) -> Outcome<Vec<u8>> {
        let left = until.saturating_duration_since(Instant::now());
        match self.line()?.receive(Some(left)) {
            Ok(Some((bytes, _))) => Ok(bytes),
            Ok(None) => bail!("a process of the run takes too long"),
            Err(error) => Err(error).context("a process of the run has ended"),
        }
    }
}

/// Measures one cell, in processes of its own: this program, or for a cell without checks `unchecked`.
/// `look` is called right before it begins, when all have made what they need, and right after it.
///
/// # Errors
///
/// Whatever goes wrong in one of them, or if one takes too long.
pub fn measure(
    cell: &Cell,
    unchecked: Option<&Path>,
    mut look: impl FnMut() -> Outcome,
) -> Outcome<Figures> {
    if transport::is_in_process(cell) {
        look()?;
        let figures = transport::in_process(cell)?;
        look()?;
        return Ok(figures);
    }
    let program = match unchecked {
        Some(program) if cell.unchecked => program.to_owned(),
        None if cell.unchecked => bail!("there is no program without the checks"),
        _ => std::env::current_exe()?,
    };
    let lines = transport::lines(cell)?;
    let until = Instant::now() + PATIENCE + Duration::from_millis(cell.millis);
    let run = Run::new()?;
    let mut players = Vec::new();
    let (near, far): (Vec<_>, Vec<_>) = lines.into_iter().unzip();
    let measuring = match cell.pattern {
        crate::cell::Pattern::Lat => Role::Ask,
        _ => Role::Sink,
    };
    let (first, second) = match measuring {
        Role::Ask => (Role::Ask, Role::Echo),
        _ => (Role::Source, Role::Sink),
    };
    for (index, fds) in near.into_iter().enumerate() {
        let mut part = Part::new(first, *cell, &run, &[fds.len()]);
        part.index = index;
        players.push((first, Player::start(&program, &part, &fds)?));
    }
    let counts: Vec<usize> = far.iter().map(Vec::len).collect();
    let fds: Vec<OwnedFd> = far.into_iter().flatten().collect();
    let part = Part::new(second, *cell, &run, &counts);
    players.push((second, Player::start(&program, &part, &fds)?));
    drop(fds);
    for (_, player) in &players {
        player.hear(until)?;
    }
    look()?;
    for (_, player) in &players {
        player.line()?.send(b"go", &[])?;
    }
    let mut figures = None;
    for (role, player) in &mut players {
        let said = player.hear(until)?;
        if *role == measuring {
            figures = Some(serde_json::from_slice(&said)?);
        }
    }
    look()?;
    figures.context("nobody has measured")
}
