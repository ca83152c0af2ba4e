//! What moves when a service moves: its state between two messages.

use serde::Serialize;
use serde::de::DeserializeOwned;
use weft_types::{Refusal, RefusalCode};

/// The longest chunk of state, in bytes: it has to fit one message with room for its header.
pub const MAX_CHUNK_BYTES: usize = 64 * 1024;

/// The state of a service, as something that can be copied elsewhere while the service runs.
///
/// The calls come in this order: `begin_copy`, then `next_chunk` between messages until it gives
/// `None` (the base), then, when the service takes no more messages, `final_chunk` until it gives
/// `None` (what changed since). `load` takes the chunks on the other side, in the same order.
/// `end_copy` ends it in any case: the copy was made, or the move was called off.
pub trait State {
    /// Starts a copy. From now on changes have to be remembered.
    fn begin_copy(&mut self);

    /// The next part of the base, at most [`MAX_CHUNK_BYTES`] long.
    fn next_chunk(&mut self) -> Option<Vec<u8>>;

    /// The next part of what changed while the base was copied, at most [`MAX_CHUNK_BYTES`] long.
    fn final_chunk(&mut self) -> Option<Vec<u8>>;

    /// Stops remembering changes.
    fn end_copy(&mut self);

    /// Takes a chunk in.
    ///
    /// # Errors
    ///
    /// If the chunk is not one of this state's: the move is called off.
    fn load(&mut self, chunk: &[u8]) -> Result<(), Refusal>;

    /// A digest of the whole state. Two states with the same digest answer alike.
    fn digest(&self) -> String;
}

/// The state of a small service: copied whole, at the end.
///
/// For a service whose state encodes into a few megabytes; the time to copy it is time in which the
/// service stands still. Larger states implement [`State`] themselves and copy ahead.
#[derive(Debug, Default)]
pub struct Whole<T> {
    value: T,
    /// What is still to be handed out, the last chunk first.
    outgoing: Option<Vec<Vec<u8>>>,
    incoming: Vec<u8>,
}

impl<T> Whole<T> {
    /// Wraps a value.
    pub fn new(value: T) -> Self {
        Self {
            value,
            outgoing: None,
            incoming: Vec::new(),
        }
    }

    /// The value.
    pub fn get(&self) -> &T {
        &self.value
    }

    /// The value, to change it.
    pub fn get_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

/// The first byte of a chunk tells whether more follow.
const MORE: u8 = 1;
const LAST: u8 = 0;

impl<T: Serialize + DeserializeOwned> State for Whole<T> {
    fn begin_copy(&mut self) {
        self.outgoing = None;
    }

    fn next_chunk(&mut self) -> Option<Vec<u8>> {
        None
    }

    fn final_chunk(&mut self) -> Option<Vec<u8>> {
        let value = &self.value;
        let outgoing = self.outgoing.get_or_insert_with(|| {
            // The only failures of postcard in memory are types without a length, which a state
            // that was ever loaded cannot hold; an empty copy then fails at `load`, loudly.
            let bytes = postcard::to_stdvec(value).unwrap_or_default();
            let mut chunks: Vec<Vec<u8>> = bytes
                .chunks(MAX_CHUNK_BYTES - 1)
                .map(|part| [&[MORE], part].concat())
                .collect();
            match chunks.last_mut() {
                Some(last) => last[0] = LAST,
                None => chunks.push(vec![LAST]),
            }
            chunks.reverse();
            chunks
        });
        outgoing.pop()
    }

    fn end_copy(&mut self) {
        self.outgoing = None;
    }

    fn load(&mut self, chunk: &[u8]) -> Result<(), Refusal> {
        let (mark, part) = chunk
            .split_first()
            .ok_or_else(|| Refusal::new(RefusalCode::Malformed, "an empty chunk of state"))?;
        self.incoming.extend_from_slice(part);
        if *mark == LAST {
            let bytes = std::mem::take(&mut self.incoming);
            self.value = postcard::from_bytes(&bytes).map_err(|error| {
                Refusal::new(
                    RefusalCode::Malformed,
                    format!("the state cannot be read: {error}"),
                )
            })?;
        }
        Ok(())
    }

    fn digest(&self) -> String {
        let bytes = postcard::to_stdvec(&self.value).unwrap_or_default();
        weft_contract::digest_hex(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_state_of_many_chunks_arrives_as_it_left() {
        let value: Vec<u64> = (0..100_000).collect();
        let mut source = Whole::new(value.clone());
        let mut target = Whole::<Vec<u64>>::new(Vec::new());
        source.begin_copy();
        assert!(source.next_chunk().is_none());
        let mut chunks = 0;
        while let Some(chunk) = source.final_chunk() {
            assert!(chunk.len() <= MAX_CHUNK_BYTES);
            target.load(&chunk).unwrap();
            chunks += 1;
        }
        source.end_copy();
        assert!(chunks > 1);
        assert_eq!(target.get(), &value);
        assert_eq!(source.digest(), target.digest());
    }

    #[test]
    fn a_chunk_of_something_else_is_refused() {
        let mut target = Whole::new(String::new());
        assert!(target.load(&[]).is_err());
        assert!(target.load(&[LAST, 200, 1]).is_err());
    }
}
