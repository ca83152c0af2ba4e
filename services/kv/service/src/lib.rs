//! The service `kv`: an ordered map, kept in memory, that can be moved while it serves.
//!
//! Contract and bounds are in `kv-messages`. The map is volatile: it survives a move and a restart
//! of its clients, not the death of its own process.

mod store;
mod sum;

use kv_messages::{
    Count, CountReply, Delete, DeleteReply, Digest, DigestReply, Entry, Get, GetReply, KeyEntry,
    Kv, MAX_SCAN_ENTRIES, Put, PutReply, Scan, ScanReply,
};
use weft::{Context, Domain, Error, Handler, Refusal, serve};

use store::{Store, Stored};

/// How many bytes of entries a scan gives at once: a reply has to fit one message.
const SCAN_BYTES: usize = 64 * 1024;

/// Serves the map in this process, until its node ends it.
///
/// # Errors
///
/// If the process was not started by a node, or its node goes away.
pub fn run() -> Result<(), Error> {
    serve::<Kv, _>(Domain::inherited()?, Store::new())
}

impl Handler<Put, Context> for Store {
    type Reply = PutReply;

    fn handle(&mut self, message: Put, _: &mut Context) -> Result<PutReply, Refusal> {
        let (previous, stored) = self.put(message.key, message.value)?;
        Ok(PutReply {
            previous,
            revision: stored.revision,
            version: stored.version,
        })
    }
}

impl Handler<Get, Context> for Store {
    type Reply = GetReply;

    fn handle(&mut self, message: Get, _: &mut Context) -> Result<GetReply, Refusal> {
        let entry = self.get(&message.key).map(
            |Stored {
                 value,
                 revision,
                 version,
             }| Entry {
                value: value.clone(),
                revision: *revision,
                version: *version,
            },
        );
        Ok(GetReply { entry })
    }
}

impl Handler<Delete, Context> for Store {
    type Reply = DeleteReply;

    fn handle(&mut self, message: Delete, _: &mut Context) -> Result<DeleteReply, Refusal> {
        Ok(DeleteReply {
            previous: self.delete(&message.key),
        })
    }
}

impl Handler<Scan, Context> for Store {
    type Reply = ScanReply;

    fn handle(&mut self, message: Scan, _: &mut Context) -> Result<ScanReply, Refusal> {
        let limit = message.limit.min(MAX_SCAN_ENTRIES) as usize;
        let mut entries = Vec::new();
        let mut filled = 0;
        for (key, stored) in self.scan(&message.prefix, message.after.as_deref()) {
            filled += key.len() + stored.value.len() + 32;
            if entries.len() == limit || (filled > SCAN_BYTES && !entries.is_empty()) {
                return Ok(ScanReply {
                    entries,
                    more: true,
                });
            }
            entries.push(KeyEntry {
                key: key.clone(),
                value: stored.value.clone(),
                revision: stored.revision,
                version: stored.version,
            });
        }
        Ok(ScanReply {
            entries,
            more: false,
        })
    }
}

impl Handler<Count, Context> for Store {
    type Reply = CountReply;

    fn handle(&mut self, message: Count, _: &mut Context) -> Result<CountReply, Refusal> {
        Ok(CountReply {
            count: self.scan(&message.prefix, None).count() as u64,
        })
    }
}

impl Handler<Digest, Context> for Store {
    type Reply = DigestReply;

    fn handle(&mut self, message: Digest, _: &mut Context) -> Result<DigestReply, Refusal> {
        let (sha256, count) = self.digest_of(&message.prefix);
        Ok(DigestReply { sha256, count })
    }
}
