//! The map itself, and how it is copied while it changes.
//!
//! Copying goes through the keys in order. A change to a key that was copied already is remembered
//! as *dirty*; a change ahead of the copy needs no note, since the copy will meet it. What is left
//! for the end, when the service stands still, is the dirty keys only. The digest of the whole is
//! kept up meanwhile, on both sides, so that it costs nothing at the end either. It does not go by
//! what is dirty: a change that was not noted as such would show in it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use kv_messages::{MAX_KEY_BYTES, MAX_VALUE_BYTES};
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use weft::{MAX_CHUNK_BYTES, Refusal, RefusalCode, State};

use crate::sum::{EntrySum, hex, update};

/// The most keys. One more is refused: a volatile map has to fit into memory.
pub(crate) const MAX_KEYS: usize = 10_000_000;

/// What the map knows of a key.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct Stored {
    /// The value.
    pub value: Vec<u8>,
    /// The map's revision when the key was last written.
    pub revision: u64,
    /// How often the key was written since it was last absent.
    pub version: u64,
}

/// An ordered map whose every change has a number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Store {
    entries: BTreeMap<String, Stored>,
    /// Counts changes; the last one's number.
    revision: u64,
    copy: Option<Copy>,
    /// Over all entries, if they have all come by `load`.
    loaded: Option<EntrySum>,
}

/// How far a copy has come.
#[derive(Clone, Debug, Default)]
struct Copy {
    /// The last key of the base that was handed out.
    after: Option<String>,
    base_done: bool,
    /// Changed behind the copy's back.
    dirty: BTreeSet<String>,
    /// Over the entries that the copy has passed, as they are now.
    passed: EntrySum,
    /// Whether the last chunk, which carries the revision, was handed out.
    ended: bool,
}

impl Copy {
    fn has_passed(&self, key: &str) -> bool {
        self.base_done || self.after.as_deref().is_some_and(|after| key <= after)
    }
}

/// A piece of a copy.
#[derive(Debug, Serialize, Deserialize)]
struct Chunk {
    /// Keys with what they hold; nothing: deleted.
    changes: Vec<(String, Option<Stored>)>,
    /// With the last chunk, the revision of the map.
    revision: Option<u64>,
}

/// About how many bytes an entry adds to a chunk besides key and value.
const ENTRY_OVERHEAD: usize = 32;

impl Store {
    /// An empty map.
    #[must_use]
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Writes a key. Gives what it held and what it holds.
    ///
    /// # Errors
    ///
    /// `TooLarge` if key or value are over their bounds, `OverBudget` if the map is full.
    pub(crate) fn put(
        &mut self,
        key: String,
        value: Vec<u8>,
    ) -> Result<(Option<Vec<u8>>, &Stored), Refusal> {
        check_key(&key)?;
        if value.len() > MAX_VALUE_BYTES {
            return Err(Refusal::new(
                RefusalCode::TooLarge,
                format!(
                    "a value of {} bytes is longer than {MAX_VALUE_BYTES}; cut it up",
                    value.len()
                ),
            ));
        }
        let before = self.entries.get(&key);
        if before.is_none() && self.entries.len() >= MAX_KEYS {
            return Err(Refusal::new(
                RefusalCode::OverBudget,
                format!("the map has {MAX_KEYS} keys, as many as it takes"),
            ));
        }
        self.revision += 1;
        let version = before.map_or(0, |before| before.version) + 1;
        let stored = Stored {
            value,
            revision: self.revision,
            version,
        };
        let before = self.entries.insert(key.clone(), stored);
        self.note(&key, before.as_ref());
        Ok((before.map(|before| before.value), &self.entries[&key]))
    }

    /// What a key holds.
    #[must_use]
    pub(crate) fn get(&self, key: &str) -> Option<&Stored> {
        self.entries.get(key)
    }

    /// Takes a key out. Gives what it held.
    pub(crate) fn delete(&mut self, key: &str) -> Option<Vec<u8>> {
        let removed = self.entries.remove(key)?;
        self.revision += 1;
        self.note(key, Some(&removed));
        Some(removed.value)
    }

    /// The entries whose keys begin with `prefix`, in order, from behind `after`.
    pub(crate) fn scan<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a String, &'a Stored)> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        self.entries
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(prefix))
    }

    /// A digest of the entries whose keys begin with `prefix` (key, value, version), in hex, and
    /// how many they are. Revisions are left out: they depend on what else was written.
    #[must_use]
    pub(crate) fn digest_of(&self, prefix: &str) -> (String, u64) {
        let mut context = Context::new(&SHA256);
        let mut count = 0;
        for (key, stored) in self.scan(prefix, None) {
            update(&mut context, key, stored);
            count += 1;
        }
        (hex(context), count)
    }

    /// Remembers that a key has changed, which held `before`.
    fn note(&mut self, key: &str, before: Option<&Stored>) {
        self.loaded = None;
        let Some(copy) = self.copy.as_mut().filter(|copy| copy.has_passed(key)) else {
            return;
        };
        if let Some(before) = before {
            copy.passed.remove(key, before);
        }
        if let Some(now) = self.entries.get(key) {
            copy.passed.add(key, now);
        }
        copy.dirty.insert(key.to_owned());
    }

    /// The sum over all entries: kept, or else made now.
    fn sum(&self) -> EntrySum {
        if let Some(copy) = self.copy.as_ref().filter(|copy| copy.base_done) {
            return copy.passed;
        }
        self.loaded.unwrap_or_else(|| {
            let mut sum = EntrySum::default();
            for (key, stored) in &self.entries {
                sum.add(key, stored);
            }
            sum
        })
    }
}

fn check_key(key: &str) -> Result<(), Refusal> {
    if key.len() > MAX_KEY_BYTES {
        return Err(Refusal::new(
            RefusalCode::TooLarge,
            format!(
                "a key of {} bytes is longer than {MAX_KEY_BYTES}",
                key.len()
            ),
        ));
    }
    Ok(())
}

fn encode(chunk: &Chunk) -> Vec<u8> {
    // Strings, numbers and byte vectors: encoding them into memory cannot fail.
    postcard::to_stdvec(chunk).unwrap_or_default()
}

impl State for Store {
    fn begin_copy(&mut self) {
        self.copy = Some(Copy::default());
    }

    fn next_chunk(&mut self) -> Option<Vec<u8>> {
        let copy = self.copy.as_mut()?;
        let from = copy
            .after
            .as_deref()
            .map_or(Bound::Unbounded, Bound::Excluded);
        let mut changes = Vec::new();
        let mut filled = 0;
        for (key, stored) in self.entries.range::<str, _>((from, Bound::Unbounded)) {
            let size = key.len() + stored.value.len() + ENTRY_OVERHEAD;
            if filled + size > MAX_CHUNK_BYTES && filled > 0 {
                break;
            }
            filled += size;
            copy.passed.add(key, stored);
            changes.push((key.clone(), Some(stored.clone())));
        }
        let Some((last, _)) = changes.last() else {
            copy.base_done = true;
            return None;
        };
        copy.after = Some(last.clone());
        Some(encode(&Chunk {
            changes,
            revision: None,
        }))
    }

    fn final_chunk(&mut self) -> Option<Vec<u8>> {
        let copy = self.copy.as_mut()?;
        if copy.ended {
            return None;
        }
        let mut changes = Vec::new();
        let mut filled = 0;
        while let Some(key) = copy.dirty.first() {
            let stored = self.entries.get(key);
            let size = key.len() + stored.map_or(0, |stored| stored.value.len()) + ENTRY_OVERHEAD;
            if filled + size > MAX_CHUNK_BYTES && filled > 0 {
                return Some(encode(&Chunk {
                    changes,
                    revision: None,
                }));
            }
            filled += size;
            let stored = stored.cloned();
            if let Some(key) = copy.dirty.pop_first() {
                changes.push((key, stored));
            }
        }
        copy.ended = true;
        Some(encode(&Chunk {
            changes,
            revision: Some(self.revision),
        }))
    }

    fn end_copy(&mut self) {
        self.copy = None;
    }

    fn load(&mut self, chunk: &[u8]) -> Result<(), Refusal> {
        let chunk: Chunk = postcard::from_bytes(chunk).map_err(|error| {
            Refusal::new(
                RefusalCode::Malformed,
                format!("not a part of a map: {error}"),
            )
        })?;
        let mut sum = self.sum();
        for (key, stored) in chunk.changes {
            let before = match stored {
                Some(stored) => {
                    sum.add(&key, &stored);
                    self.entries.insert(key.clone(), stored)
                }
                None => self.entries.remove(&key),
            };
            if let Some(before) = before {
                sum.remove(&key, &before);
            }
        }
        self.loaded = Some(sum);
        if let Some(revision) = chunk.revision {
            self.revision = revision;
        }
        Ok(())
    }

    fn digest(&self) -> String {
        self.sum().digest_at(self.revision)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Change {
        Put(u8, u16),
        Delete(u8),
    }

    fn changes() -> impl Strategy<Value = Vec<Change>> {
        let one = prop_oneof![
            3 => (any::<u8>(), any::<u16>()).prop_map(|(key, value)| Change::Put(key, value)),
            1 => any::<u8>().prop_map(Change::Delete),
        ];
        prop::collection::vec(one, 0..200)
    }

    fn apply(store: &mut Store, change: &Change) {
        match change {
            Change::Put(key, value) => {
                // Values of some kilobytes, so that a copy takes several chunks.
                let value = value.to_le_bytes().repeat(1500);
                store.put(format!("{key:03}"), value).unwrap();
            }
            Change::Delete(key) => {
                store.delete(&format!("{key:03}"));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever changes while the base is copied, the copy ends as the original.
        #[test]
        fn a_copy_of_a_changing_map_ends_as_the_map(before in changes(), during in changes()) {
            let mut source = Store::new();
            before.iter().for_each(|change| apply(&mut source, change));
            let mut target = Store::new();
            source.begin_copy();
            let mut during = during.iter();
            while let Some(chunk) = source.next_chunk() {
                prop_assert!(chunk.len() < weft_types::MAX_BODY_BYTES);
                target.load(&chunk).unwrap();
                during.by_ref().take(20).for_each(|change| apply(&mut source, change));
            }
            during.for_each(|change| apply(&mut source, change));
            while let Some(chunk) = source.final_chunk() {
                prop_assert!(chunk.len() < weft_types::MAX_BODY_BYTES);
                target.load(&chunk).unwrap();
            }
            let kept = State::digest(&source);
            prop_assert_eq!(&kept, &State::digest(&target));
            // Without the copy the digest is made from the map, and that is the same.
            source.end_copy();
            prop_assert_eq!(&kept, &State::digest(&source));
            prop_assert_eq!(&kept, &State::digest(&Store { loaded: None, ..target.clone() }));
            prop_assert_eq!(&source.entries, &target.entries);
            prop_assert_eq!(source.revision, target.revision);
        }
    }

    #[test]
    fn a_change_that_is_missing_in_the_copy_shows_in_the_digest() {
        let mut source = Store::new();
        let mut target = Store::new();
        source.put("a".into(), vec![1]).unwrap();
        source.begin_copy();
        while let Some(chunk) = source.next_chunk() {
            target.load(&chunk).unwrap();
        }
        source.put("a".into(), vec![2]).unwrap();
        // As if nobody had noted it.
        source.copy.as_mut().unwrap().dirty.clear();
        while let Some(chunk) = source.final_chunk() {
            target.load(&chunk).unwrap();
        }
        assert_ne!(State::digest(&source), State::digest(&target));
    }

    #[test]
    fn a_map_that_has_moved_and_is_changed_has_another_digest() {
        let mut source = Store::new();
        source.put("a".into(), vec![1]).unwrap();
        source.begin_copy();
        let mut target = Store::new();
        target.load(&source.next_chunk().unwrap()).unwrap();
        let moved = State::digest(&target);
        target.put("a".into(), vec![1]).unwrap();
        assert_ne!(State::digest(&target), moved);
        assert_eq!(
            target.sum(),
            Store {
                loaded: None,
                ..target.clone()
            }
            .sum()
        );
    }

    #[test]
    fn only_what_changed_behind_the_copy_is_left_for_the_end() {
        let mut store = Store::new();
        for at in 0..1000 {
            store.put(format!("{at:04}"), vec![0; 1000]).unwrap();
        }
        store.begin_copy();
        while store.next_chunk().is_some() {}
        store.put("0500".into(), vec![1]).unwrap();
        let last = store.final_chunk().unwrap();
        assert!(last.len() < 100, "{} bytes", last.len());
        assert!(store.final_chunk().is_none());
    }

    #[test]
    fn versions_count_the_writes_of_a_key_and_revisions_those_of_the_map() {
        let mut store = Store::new();
        assert_eq!(store.put("a".into(), vec![1]).unwrap().1.version, 1);
        assert_eq!(store.put("b".into(), vec![1]).unwrap().1.revision, 2);
        let (previous, stored) = store.put("a".into(), vec![2]).unwrap();
        assert_eq!(previous, Some(vec![1]));
        assert_eq!((stored.version, stored.revision), (2, 3));
        store.delete("a");
        assert_eq!(store.put("a".into(), vec![3]).unwrap().1.version, 1);
    }

    #[test]
    fn a_scan_keeps_to_its_prefix_and_starts_behind_its_mark() {
        let mut store = Store::new();
        for key in ["a", "b/1", "b/2", "b/3", "c"] {
            store.put(key.into(), vec![]).unwrap();
        }
        let keys = |after| {
            store
                .scan("b/", after)
                .map(|(key, _)| key.as_str())
                .collect::<Vec<_>>()
        };
        assert_eq!(keys(None), ["b/1", "b/2", "b/3"]);
        assert_eq!(keys(Some("b/1")), ["b/2", "b/3"]);
        assert_eq!(keys(Some("a")), ["b/1", "b/2", "b/3"]);
        assert_eq!(store.digest_of("b/").1, 3);
        assert_ne!(store.digest_of("b/").0, store.digest_of("").0);
    }

    #[test]
    fn what_is_too_large_is_refused_and_changes_nothing() {
        let mut store = Store::new();
        assert_eq!(
            store
                .put("k".repeat(MAX_KEY_BYTES + 1), vec![])
                .unwrap_err()
                .code,
            RefusalCode::TooLarge
        );
        assert_eq!(
            store
                .put("k".into(), vec![0; MAX_VALUE_BYTES + 1])
                .unwrap_err()
                .code,
            RefusalCode::TooLarge
        );
        assert_eq!(store.digest_of("").1, 0);
        assert!(store.load(b"\xff\xff\xff").is_err());
    }
}
