//! Running the plan: rounds over all rows, fresh processes in each, the cores probed around each run.

use std::io::Read;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use weft_local_ipc::SideSocket;

use crate::fabric::Fabric;
use crate::measure::{Extent, Sample, Watched};
use crate::plan::{Contender, Group, SIZES, groups};
use crate::report::{Report, Run};
use crate::role::{PART, Part, Side, Transport};
use crate::{Outcome, quic, slot, table};
use weft_bench::machine::{Cores, Machine, probe};

/// What the processes of a run may take beyond the time that they measure.
const PATIENCE: Duration = Duration::from_secs(20);

/// How the program was called.
#[derive(Debug)]
pub(crate) struct Options {
    rounds: u32,
    millis: u64,
    json: bool,
    only: Option<String>,
}

impl Options {
    pub(crate) fn parse(words: impl Iterator<Item = String>) -> Outcome<Self> {
        let mut options = Self {
            rounds: 5,
            millis: 120,
            json: false,
            only: None,
        };
        let mut words = words;
        while let Some(word) = words.next() {
            match word.as_str() {
                "--quick" => (options.rounds, options.millis) = (1, 40),
                "--json" => options.json = true,
                "--only" => {
                    options.only = Some(
                        words
                            .next()
                            .ok_or("--only wants a part of a title or of a row's name")?,
                    )
                }
                // What cargo adds.
                "--bench" => {}
                other => {
                    return Err(format!(
                        "unknown option {other}; there are --quick (one short round), --json, --only NAME"
                    )
                    .into());
                }
            }
        }
        Ok(options)
    }

    fn wants(&self, group: &str, row: &str) -> bool {
        let name = format!("{group}: {row}").to_lowercase();
        self.only
            .as_ref()
            .is_none_or(|part| name.contains(&part.to_lowercase()))
    }
}

/// Measures everything and prints what was found.
pub(crate) fn run(options: Options) -> Outcome {
    let began = Instant::now();
    let machine = Machine::look();
    let cores = Cores::find()?;
    let mut groups = groups();
    for group in &mut groups {
        group
            .rows
            .retain(|row| options.wants(group.title, row.name));
    }
    groups.retain(|group| !group.rows.is_empty());
    if groups.is_empty() {
        return Err("no row has such a name".into());
    }
    eprintln!("starting two nodes");
    let fabric = Fabric::start(cores)?;
    let mut report = Report::new(machine, cores);
    for round in 1..=options.rounds {
        for group in &groups {
            eprintln!("round {round} of {}: {}", options.rounds, group.title);
            for (row, contender) in group.rows.iter().map(|row| (row.name, row.contender)) {
                for body_bytes in SIZES.into_iter().filter(|size| contender.takes(*size)) {
                    let run = measure(group, contender, body_bytes, options.millis, cores, &fabric)
                        .map_err(|error| {
                            format!("{}, {row}, {body_bytes} B: {error}", group.title)
                        })?;
                    report.add(group.title, row, body_bytes, run);
                }
            }
        }
    }
    fabric.shut_down();
    report.finish(began.elapsed());
    if options.json {
        println!("{}", report.json(&groups)?);
    } else {
        print!("{}", table::text(&report, &groups));
    }
    Ok(())
}

fn measure(
    group: &Group,
    contender: Contender,
    body_bytes: usize,
    millis: u64,
    cores: Cores,
    fabric: &Fabric,
) -> Outcome<Run> {
    let before = probe(cores)?;
    let part = Part {
        side: Side::Ask,
        transport: Transport::Slot,
        shape: group.shape,
        body_bytes,
        extent: Extent {
            millis,
            pause_micros: group.pause_micros,
        },
        core: cores.ask,
        watched: Vec::new(),
    };
    let sample = match contender {
        Contender::Quinn => ask_quinn(part, cores, fabric),
        Contender::WeftLocal => {
            let transport = Transport::Weft {
                socket: fabric.socket("n2"),
            };
            ask_alone(Part {
                transport,
                watched: fabric.local(),
                ..part
            })
        }
        Contender::WeftRemote => {
            let transport = Transport::Weft {
                socket: fabric.socket("n1"),
            };
            ask_alone(Part {
                transport,
                watched: fabric.remote(),
                ..part
            })
        }
        Contender::KernelPing => {
            let (from, to) = ("n1".to_owned(), "n2".to_owned());
            let transport = Transport::KernelPing {
                socket: fabric.socket("n1"),
                from,
                to,
            };
            ask_alone(Part {
                transport,
                watched: fabric.kernels(),
                ..part
            })
        }
        Contender::Slot | Contender::Ring { .. } | Contender::Unix(_) => {
            let transport = contender.transport().ok_or("no transport of ours")?;
            let (near, far) = lines(&transport)?;
            let answering = Part {
                side: Side::Answer,
                core: cores.answer,
                transport: transport.clone(),
                ..part.clone()
            };
            ask_pair(Part { transport, ..part }, near, answering, far)
        }
    }?;
    let after = probe(cores)?;
    Ok(Run {
        sample,
        line_nanos: [before, after],
    })
}

/// Both ends of what lies between two processes of this program.
fn lines(transport: &Transport) -> Outcome<(OwnedFd, OwnedFd)> {
    Ok(match transport {
        Transport::Slot => {
            let memory = slot::memory()?;
            (memory.try_clone()?, memory)
        }
        Transport::Ring { .. } => {
            let (near, far) = SideSocket::pair()?;
            (near.into(), far.into())
        }
        Transport::Unix(_) => {
            let (near, far) = UnixStream::pair()?;
            (near.into(), far.into())
        }
        Transport::Quinn { .. } | Transport::Weft { .. } | Transport::KernelPing { .. } => {
            return Err("no line of ours lies between these".into());
        }
    })
}

fn ask_quinn(part: Part, cores: Cores, fabric: &Fabric) -> Outcome<Sample> {
    let (near, far) = (
        UdpSocket::bind("127.0.0.1:0")?,
        UdpSocket::bind("127.0.0.1:0")?,
    );
    let server = quic::Server {
        address: far.local_addr()?,
        node: "n2".into(),
    };
    let answering = Part {
        side: Side::Answer,
        core: cores.answer,
        transport: Transport::Quinn {
            identity: fabric.data("n2"),
            server: None,
        },
        ..part.clone()
    };
    let transport = Transport::Quinn {
        identity: fabric.data("n1"),
        server: Some(server),
    };
    ask_pair(
        Part { transport, ..part },
        near.into(),
        answering,
        far.into(),
    )
}

fn ask_pair(asking: Part, near: OwnedFd, answering: Part, far: OwnedFd) -> Outcome<Sample> {
    let mut answerer = start(&answering, far.into(), Stdio::null())?;
    let asking = Part {
        watched: vec![Watched {
            part: "server".into(),
            pid: answerer.id(),
        }],
        ..asking
    };
    let sample = guard(&answerer).and_then(|_guard| {
        let sample = finish(start(&asking, near.into(), Stdio::piped())?)?;
        let status = answerer.wait()?;
        if status.success() {
            Ok(sample)
        } else {
            Err(format!("the answering side ended with {status}").into())
        }
    });
    if sample.is_err() {
        // It may wait for somebody who is gone.
        let _ = answerer.kill();
        let _ = answerer.wait();
    }
    sample
}

fn ask_alone(asking: Part) -> Outcome<Sample> {
    finish(start(&asking, Stdio::null(), Stdio::piped())?)
}

fn start(part: &Part, line: Stdio, stdout: Stdio) -> Outcome<Child> {
    let child = Command::new(std::env::current_exe()?)
        .env(PART, serde_json::to_string(part)?)
        .stdin(line)
        .stdout(stdout)
        .spawn()?;
    Ok(child)
}

/// Waits, without waking up now and then on a core that is being measured.
fn finish(mut asker: Child) -> Outcome<Sample> {
    let guard = guard(&asker);
    let mut said = String::new();
    let read = asker
        .stdout
        .take()
        .ok_or("no output")?
        .read_to_string(&mut said);
    let status = asker.wait()?;
    drop(guard?);
    read?;
    if !status.success() {
        return Err(format!("the asking side ended with {status}").into());
    }
    Ok(serde_json::from_str(&said)?)
}

/// Ends a process that takes too long, unless this is dropped before.
fn guard(child: &Child) -> Outcome<mpsc::Sender<()>> {
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .ok_or("no process id")?;
    // Means this very process, even after its number has gone to another.
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let (guard, over) = mpsc::channel();
    std::thread::spawn(move || {
        if over.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
            eprintln!("round_trip: a process takes longer than {PATIENCE:?} and is ended");
            // It may have ended just now.
            let _ = pidfd_send_signal(&process, Signal::KILL);
        }
    });
    Ok(guard)
}
