//! The part that a child process plays.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use weft_local_ipc::SideSocket;

use crate::cell::{Cell, Figures};
use crate::process::Run;
use crate::wire::{self, Merged, Wire};
use crate::{Outcome, machine, transport};

const PATIENCE: Duration = Duration::from_secs(20);

/// What a process does.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Role {
    /// Sends, waits for the answer, takes the time.
    Ask,
    /// Answers.
    Echo,
    /// Sends one way.
    Source,
    /// Receives and counts.
    Sink,
}

/// A process's part in a cell.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Part {
    /// What it does.
    pub role: Role,
    /// What is measured.
    pub cell: Cell,
    /// Names this run among others.
    pub run: String,
    /// For transports that keep files.
    pub directory: String,
    /// Which of the senders it is.
    pub index: usize,
    /// How many descriptors each of its lines consists of.
    lines: Vec<usize>,
}

/// A part as its transport sees it: its lines, one for each peer, and a way to wait for the others.
pub(crate) struct Stage<'a> {
    pub(crate) part: &'a Part,
    pub(crate) lines: Vec<Vec<OwnedFd>>,
    to_parent: &'a SideSocket,
}

impl Part {
    pub(crate) fn new(role: Role, cell: Cell, run: &Run, lines: &[usize]) -> Self {
        Self {
            role,
            cell,
            index: 0,
            run: run.name.clone(),
            directory: run.directory.path().display().to_string(),
            lines: lines.to_vec(),
        }
    }
}

impl Stage<'_> {
    /// Says that we are ready and waits until all are.
    fn start(&self) -> Outcome {
        self.to_parent.send(b"ready", &[])?;
        self.to_parent
            .receive(Some(PATIENCE))?
            .context("nobody says go")?;
        Ok(())
    }

    /// Tells the parent what was found, and waits until it has no more need of us: the other side may
    /// still read what we wrote.
    fn end(&self, figures: Option<Figures>) -> Outcome {
        self.to_parent.send(&serde_json::to_vec(&figures)?, &[])?;
        let _ = self.to_parent.receive(Some(PATIENCE));
        Ok(())
    }

    /// Plays the part of a sink that is one thing over all lines.
    pub(crate) fn play_sink(self, mut merged: impl Merged) -> Outcome {
        self.start()?;
        let figure = wire::sink_merged(&mut merged, self.part.cell.senders)?;
        self.end(Some(Figures::Throughput(figure)))
    }

    /// Plays the part in a way of its own: `measure` returns what it found, if it is the side that
    /// measures.
    pub(crate) fn play_alone(
        self,
        measure: impl FnOnce(Role, &Cell) -> Outcome<Option<Figures>>,
    ) -> Outcome {
        self.start()?;
        let figures = measure(self.part.role, &self.part.cell)?;
        self.end(figures)
    }

    /// Plays the part over these wires, one for each line, once all processes are ready.
    pub(crate) fn play(self, mut wires: Vec<impl Wire>) -> Outcome {
        self.start()?;
        let cell = &self.part.cell;
        let first = wires.first_mut().context("a part has a line")?;
        let figures = match self.part.role {
            Role::Ask => Some(Figures::Latency(wire::ask(first, cell)?)),
            Role::Sink => Some(Figures::Throughput(wire::sink(&mut wires, cell)?)),
            Role::Echo => wire::echo(first, cell).map(|()| None)?,
            Role::Source => wire::source(first, cell).map(|()| None)?,
        };
        self.end(figures)
    }
}

/// Plays the part that comes over standard input.
///
/// # Errors
///
/// Whatever goes wrong; the parent hears of the hang-up.
pub fn play() -> Outcome {
    weft_local_ipc::die_with_parent()?;
    let to_parent = SideSocket::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let (bytes, fds) = to_parent.receive(Some(PATIENCE))?.context("no part came")?;
    let part: Part = serde_json::from_slice(&bytes)?;
    ensure!(
        part.cell.unchecked != weft_local_ipc::CHECKED,
        "this program was not built for that cell"
    );
    let mut fds = fds.into_iter();
    let lines = part
        .lines
        .iter()
        .map(|&count| fds.by_ref().take(count).collect())
        .collect();
    machine::pin(match part.role {
        Role::Ask | Role::Source => part.cell.cores[0],
        Role::Echo | Role::Sink => part.cell.cores[1],
    })?;
    transport::play(Stage {
        part: &part,
        lines,
        to_parent: &to_parent,
    })
}
