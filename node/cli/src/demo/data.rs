//! What the runner itself does with the service: load it, take its digest, read everything back.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use kv_messages::{Digest, Kv, Put, Scan};
use weft::Endpoint;
use weft_types::{RefusalCode, ServiceName};

use super::check::Found;
use super::client::{key_prefix, value};
use super::corpus::{Corpus, LOAD_PREFIX};
use super::interrupt::Interrupt;
use crate::connection::Connection;
use crate::error::CliError;

/// How many puts are in flight while loading.
const LOAD_WINDOW: usize = 64;

/// How many entries are asked for at once. Fewer, if they do not fit into one message.
const SCAN_LIMIT: u32 = 256;

/// How long one message may take: longer than a move.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How long a service that has just been started may take to be found.
const FIND_TIMEOUT: Duration = Duration::from_secs(10);

/// Opens a channel to a service that may have been started a moment ago.
pub(crate) fn open_fresh(
    connection: &Connection,
    service: &ServiceName,
    interrupt: &Interrupt,
) -> Result<Endpoint<Kv>, CliError> {
    let deadline = Instant::now() + FIND_TIMEOUT;
    loop {
        interrupt.check()?;
        match connection.open(service) {
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(50)),
            outcome => return outcome,
        }
    }
}

/// Puts every line, and tells how many are in after each.
pub(crate) fn load(
    endpoint: &mut Endpoint<Kv>,
    corpus: Corpus,
    interrupt: &Interrupt,
    mut progress: impl FnMut(usize),
) -> Result<(), CliError> {
    let mut in_flight = VecDeque::new();
    for (position, (key, value)) in corpus.lines.into_iter().enumerate() {
        interrupt.check()?;
        if in_flight.len() >= LOAD_WINDOW
            && let Some(ticket) = in_flight.pop_front()
        {
            endpoint.wait(ticket, TIMEOUT)?;
        }
        in_flight.push_back(endpoint.send(&Put { key, value })?);
        progress(position + 1);
    }
    for ticket in in_flight {
        endpoint.wait(ticket, TIMEOUT)?;
    }
    Ok(())
}

/// The digest of what was loaded.
pub(crate) fn digest(endpoint: &mut Endpoint<Kv>) -> Result<String, CliError> {
    let prefix = LOAD_PREFIX.to_owned();
    Ok(endpoint.call(&Digest { prefix }, TIMEOUT)?.sha256)
}

/// Everything that the service holds of one client.
pub(crate) fn scan_client(
    endpoint: &mut Endpoint<Kv>,
    client: u32,
    interrupt: &Interrupt,
) -> Result<Vec<Found>, CliError> {
    let prefix = key_prefix(client);
    let mut found = Vec::new();
    let mut after: Option<String> = None;
    let mut limit = SCAN_LIMIT;
    loop {
        interrupt.check()?;
        let scan = Scan {
            prefix: prefix.clone(),
            after: after.clone(),
            limit,
        };
        let page = match endpoint.call(&scan, TIMEOUT) {
            Err(error) if error.code() == RefusalCode::TooLarge && limit > 1 => {
                limit /= 2;
                continue;
            }
            other => other?,
        };
        let Some(last) = page.entries.last() else {
            break;
        };
        after = Some(last.key.clone());
        found.extend(page.entries.iter().map(|entry| {
            // A key that is not a number is none that the client sent: 0 counts as such.
            let number = entry
                .key
                .strip_prefix(&prefix)
                .and_then(|text| text.parse().ok())
                .unwrap_or(0);
            Found {
                number,
                revision: entry.revision,
                version: entry.version,
                intact: entry.value == value(client, number),
            }
        }));
        if !page.more {
            break;
        }
    }
    Ok(found)
}
