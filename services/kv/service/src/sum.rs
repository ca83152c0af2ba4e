//! A digest of a set of entries that is kept while the set changes.
//!
//! The digest of a state is compared while the service stands still, so it must not take a pass
//! over the state. Each entry's SHA-256 is taken as a number of 256 bits, and the sum stands for the
//! set: an entry that comes is added, one that goes is taken away, and the order does not matter.
//! (AdHash: Bellare and Micciancio, "A New Paradigm for Collision-Free Hashing", 1997.)
//!
//! It finds what went missing or wrong by accident. It is no proof against somebody who chooses the
//! entries so that sums collide, which is why clients who ask for a digest get another one.

use ring::digest::{Context, SHA256};

use crate::store::Stored;

/// The sum over a set of entries.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct EntrySum {
    /// 256 bits, the lowest first.
    words: [u64; 4],
    count: u64,
}

impl EntrySum {
    pub(crate) fn add(&mut self, key: &str, stored: &Stored) {
        let mut carry = false;
        for (word, more) in self.words.iter_mut().zip(words_of(key, stored)) {
            (*word, carry) = word.carrying_add(more, carry);
        }
        self.count = self.count.wrapping_add(1);
    }

    pub(crate) fn remove(&mut self, key: &str, stored: &Stored) {
        let mut borrow = false;
        for (word, less) in self.words.iter_mut().zip(words_of(key, stored)) {
            (*word, borrow) = word.borrowing_sub(less, borrow);
        }
        self.count = self.count.wrapping_sub(1);
    }

    /// The digest of a map with these entries at this revision, in hex.
    pub(crate) fn digest_at(&self, revision: u64) -> String {
        let mut context = Context::new(&SHA256);
        for number in self.words.iter().chain([&self.count, &revision]) {
            context.update(&number.to_le_bytes());
        }
        hex(context)
    }
}

fn words_of(key: &str, stored: &Stored) -> [u64; 4] {
    let mut context = Context::new(&SHA256);
    update(&mut context, key, stored);
    context.update(&stored.revision.to_le_bytes());
    let digest = context.finish();
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(digest.as_ref().as_chunks().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}

/// Hashes key, value and version of an entry.
pub(crate) fn update(context: &mut Context, key: &str, stored: &Stored) {
    // Each part is preceded by its length, so that no two maps give the same bytes.
    for part in [key.as_bytes(), &stored.value] {
        context.update(&(part.len() as u64).to_le_bytes());
        context.update(part);
    }
    context.update(&stored.version.to_le_bytes());
}

pub(crate) fn hex(context: Context) -> String {
    context
        .finish()
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(value: u8, revision: u64) -> Stored {
        Stored {
            value: vec![value],
            revision,
            version: 1,
        }
    }

    #[test]
    fn the_order_does_not_matter_and_what_was_taken_away_leaves_nothing() {
        let entries: Vec<_> = (0..50).map(|at| (format!("{at}"), stored(at, 7))).collect();
        let mut forwards = EntrySum::default();
        entries
            .iter()
            .for_each(|(key, entry)| forwards.add(key, entry));
        let mut backwards = EntrySum::default();
        entries
            .iter()
            .rev()
            .for_each(|(key, entry)| backwards.add(key, entry));
        assert_eq!(forwards, backwards);
        entries
            .iter()
            .for_each(|(key, entry)| forwards.remove(key, entry));
        assert_eq!(forwards, EntrySum::default());
    }

    #[test]
    fn every_part_of_an_entry_counts() {
        let sum = |key: &str, entry: &Stored| {
            let mut sum = EntrySum::default();
            sum.add(key, entry);
            sum
        };
        let one = sum("a", &stored(1, 1));
        assert_ne!(one, sum("b", &stored(1, 1)));
        assert_ne!(one, sum("a", &stored(2, 1)));
        assert_ne!(one, sum("a", &stored(1, 2)));
        let versioned = Stored {
            version: 2,
            ..stored(1, 1)
        };
        assert_ne!(one, sum("a", &versioned));
        assert_ne!(one.digest_at(1), one.digest_at(2));
        assert_ne!(one.digest_at(1), EntrySum::default().digest_at(1));
    }
}
