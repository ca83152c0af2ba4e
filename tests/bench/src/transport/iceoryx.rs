//! iceoryx2: publish-subscribe polled, request-response polled, publish-subscribe with events.
//!
//! A payload of a page and more is a slice of lines with a word in each, so that a sender stores that
//! word and no more, as everybody here. Everything it makes lies under a directory of its own, which the parent takes away with it.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use iceoryx2::active_request::ActiveRequest;
use iceoryx2::pending_response::PendingResponse;
use iceoryx2::port::client::Client;
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::server::Server;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;

use crate::Outcome;
use crate::cell::Transport;
use crate::part::{Role, Stage};
use crate::wire::Wire;

/// How many payloads a subscriber holds: as many as a ring of Weft's has slots.
fn buffer(size: usize) -> usize {
    if size < 1 << 20 {
        512
    } else {
        super::MEGA_DEPTH
    }
}

/// A line of a payload. What lies behind the word is nobody's concern.
#[derive(Clone, Copy, Debug, ZeroCopySend)]
#[repr(C)]
#[repr(align(64))]
struct Line(u64);

/// How long a wait for an event lasts before the wire is polled all the same.
const PATIENCE: Duration = Duration::from_millis(100);

type Ipc = ipc::Service;
type Payload<const WORDS: usize> = [u64; WORDS];

/// An error of theirs as one of ours.
fn err<E: std::fmt::Debug>(error: E) -> anyhow::Error {
    anyhow!("iceoryx2: {error:?}")
}

pub(super) fn play(mut stage: Stage<'_>) -> Outcome {
    stage.lines.clear();
    set_log_level(LogLevel::Fatal);
    let mut config = Config::global_config().clone();
    let root = stage.part.directory.as_bytes();
    config.global.set_root_path(&Path::new(root).map_err(err)?);
    config.global.prefix =
        FileName::new(format!("weft_bench_{}_", stage.part.run).as_bytes()).map_err(err)?;
    let node = NodeBuilder::new()
        .config(&config)
        .create::<Ipc>()
        .map_err(err)?;
    let cell = stage.part.cell;
    match (cell.size, cell.transport) {
        (32, _) => play_words::<4>(stage, &node),
        (64, _) => play_words::<8>(stage, &node),
        (4096.., Transport::Iceoryx) if cell.size.is_multiple_of(size_of::<Line>()) => {
            let wire = Slices::open(&node, stage.part.role, cell.size)?;
            stage.play(vec![wire])
        }
        (size, _) => {
            bail!(
                "iceoryx2 is measured with 32 and 64 bytes, polled also with lines from 4096 bytes \
                 on, not with {size}"
            )
        }
    }
}

fn play_words<const WORDS: usize>(stage: Stage<'_>, node: &Node<Ipc>) -> Outcome {
    match stage.part.cell.transport {
        Transport::IceoryxRequest => {
            let wire = Requests::<WORDS>::open(node, stage.part.role)?;
            stage.play(vec![wire])
        }
        transport => {
            let events = transport == Transport::IceoryxEvent;
            let wire = Samples::<WORDS>::open(node, stage.part.role, events)?;
            stage.play(vec![wire])
        }
    }
}

/// The services that we send to and that we read from.
fn names(role: Role) -> (&'static str, &'static str) {
    match role {
        Role::Ask | Role::Source => ("there", "back"),
        Role::Echo | Role::Sink => ("back", "there"),
    }
}

/// Publish-subscribe each way.
struct Samples<const WORDS: usize> {
    publisher: Publisher<Ipc, Payload<WORDS>, ()>,
    subscriber: Subscriber<Ipc, Payload<WORDS>, ()>,
    events: Option<(Notifier<Ipc>, Listener<Ipc>)>,
}

impl<const WORDS: usize> Samples<WORDS> {
    fn open(node: &Node<Ipc>, role: Role, events: bool) -> Outcome<Self> {
        let (out, inward) = names(role);
        let service = |name: &str| {
            node.service_builder(&name.try_into().map_err(err)?)
                .publish_subscribe::<Payload<WORDS>>()
                .enable_safe_overflow(false)
                .subscriber_max_buffer_size(buffer(8 * WORDS))
                .open_or_create()
                .map_err(err)
        };
        let event = |name: &str| {
            node.service_builder(&name.try_into().map_err(err)?)
                .event()
                .open_or_create()
                .map_err(err)
        };
        let events = if events {
            let notifier = event(out)?.notifier_builder().create().map_err(err)?;
            let listener = event(inward)?.listener_builder().create().map_err(err)?;
            Some((notifier, listener))
        } else {
            None
        };
        Ok(Self {
            publisher: service(out)?
                .publisher_builder()
                .backpressure_strategy(BackpressureStrategy::RetryUntilDelivered)
                .create()
                .map_err(err)?,
            subscriber: service(inward)?
                .subscriber_builder()
                .buffer_size(buffer(8 * WORDS))
                .create()
                .map_err(err)?,
            events,
        })
    }
}

/// Loads a word of each line.
fn look(payload: &[u64]) -> Option<u64> {
    let sum = payload.iter().step_by(8).fold(0, |sum, word| sum ^ word);
    std::hint::black_box(sum);
    payload.first().copied()
}

impl<const WORDS: usize> Wire for Samples<WORDS> {
    fn send(&mut self, first: u64) -> Outcome {
        let sample = self.publisher.loan_uninit().map_err(err)?;
        sample.write_payload([first; WORDS]).send().map_err(err)?;
        if let Some((notifier, _)) = &self.events {
            notifier.notify().map_err(err)?;
        }
        Ok(())
    }

    fn poll(&mut self) -> Outcome<Option<u64>> {
        let sample = self.subscriber.receive().map_err(err)?;
        Ok(sample.and_then(|sample| look(sample.payload())))
    }

    fn wait(&mut self) -> Outcome {
        if let Some((_, listener)) = &self.events {
            listener.timed_wait(|_| (), PATIENCE).map_err(err)?;
        }
        Ok(())
    }
}

/// Publish-subscribe each way, of large payloads.
struct Slices {
    publisher: Publisher<Ipc, [Line], ()>,
    subscriber: Subscriber<Ipc, [Line], ()>,
    lines: usize,
}

impl Slices {
    fn open(node: &Node<Ipc>, role: Role, size: usize) -> Outcome<Self> {
        let (out, inward) = names(role);
        let lines = size / size_of::<Line>();
        let service = |name: &str| {
            node.service_builder(&name.try_into().map_err(err)?)
                .publish_subscribe::<[Line]>()
                .enable_safe_overflow(false)
                .subscriber_max_buffer_size(buffer(size))
                .open_or_create()
                .map_err(err)
        };
        Ok(Self {
            publisher: service(out)?
                .publisher_builder()
                .initial_max_slice_len(lines)
                .backpressure_strategy(BackpressureStrategy::RetryUntilDelivered)
                .create()
                .map_err(err)?,
            subscriber: service(inward)?
                .subscriber_builder()
                .buffer_size(buffer(size))
                .create()
                .map_err(err)?,
            lines,
        })
    }
}

impl Wire for Slices {
    fn send(&mut self, first: u64) -> Outcome {
        let sample = self.publisher.loan_slice_uninit(self.lines).map_err(err)?;
        sample.write_from_fn(|_| Line(first)).send().map_err(err)?;
        Ok(())
    }

    fn poll(&mut self) -> Outcome<Option<u64>> {
        let Some(sample) = self.subscriber.receive().map_err(err)? else {
            return Ok(None);
        };
        let sum = sample.payload().iter().fold(0, |sum, line| sum ^ line.0);
        std::hint::black_box(sum);
        Ok(sample.payload().first().map(|line| line.0))
    }

    fn wait(&mut self) -> Outcome {
        Ok(())
    }
}

/// Request-response: a client on one side, a server on the other.
enum Requests<const WORDS: usize> {
    Ask {
        client: Client<Ipc, Payload<WORDS>, (), Payload<WORDS>, ()>,
        pending: Option<PendingResponse<Ipc, Payload<WORDS>, (), Payload<WORDS>, ()>>,
    },
    Echo {
        server: Server<Ipc, Payload<WORDS>, (), Payload<WORDS>, ()>,
        active: Option<ActiveRequest<Ipc, Payload<WORDS>, (), Payload<WORDS>, ()>>,
    },
}

impl<const WORDS: usize> Requests<WORDS> {
    fn open(node: &Node<Ipc>, role: Role) -> Outcome<Self> {
        let service = node
            .service_builder(&"calls".try_into().map_err(err)?)
            .request_response::<Payload<WORDS>, Payload<WORDS>>()
            .open_or_create()
            .map_err(err)?;
        Ok(match role {
            Role::Ask => Self::Ask {
                client: service.client_builder().create().map_err(err)?,
                pending: None,
            },
            Role::Echo => Self::Echo {
                server: service.server_builder().create().map_err(err)?,
                active: None,
            },
            Role::Source | Role::Sink => bail!("requests are answered: only `lat` is measured"),
        })
    }
}

impl<const WORDS: usize> Wire for Requests<WORDS> {
    fn send(&mut self, first: u64) -> Outcome {
        match self {
            Self::Ask { client, pending } => {
                let request = client.loan_uninit().map_err(err)?;
                *pending = Some(request.write_payload([first; WORDS]).send().map_err(err)?);
            }
            Self::Echo { active, .. } => {
                let active = active.take().context("there is a request")?;
                let response = active.loan_uninit().map_err(err)?;
                response.write_payload([first; WORDS]).send().map_err(err)?;
            }
        }
        Ok(())
    }

    fn poll(&mut self) -> Outcome<Option<u64>> {
        match self {
            Self::Ask { pending, .. } => {
                let pending = pending.as_ref().context("there is a question")?;
                let response = pending.receive().map_err(err)?;
                Ok(response.and_then(|response| look(response.payload())))
            }
            Self::Echo { server, active } => {
                let Some(request) = server.receive().map_err(err)? else {
                    return Ok(None);
                };
                let first = look(request.payload());
                *active = Some(request);
                Ok(first)
            }
        }
    }

    fn wait(&mut self) -> Outcome {
        Ok(())
    }
}
