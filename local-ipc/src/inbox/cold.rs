//! Members that have been idle for a while, and how their first message is noticed.
//!
//! A cold member's receiver is parked. So its sender's first message rings the bell, and a look at a
//! cold member is one load of one word, compared with the value from before it was parked. A look
//! never ends that state by itself: a bell that rang stays different, however late it is seen.

use crate::bell::Bell;
use crate::raw::PeerWord32;

/// The cold members, in no order.
#[derive(Debug, Default)]
pub(super) struct Cold {
    members: Vec<Entry>,
    /// Where the sweep goes on.
    at: usize,
}

#[derive(Debug)]
pub(super) struct Entry {
    word: PeerWord32,
    pub(super) bell: Bell,
    /// The bell's value from before the receiver was parked and looked once more.
    pub(super) seen: u32,
    pub(super) index: u32,
}

impl Entry {
    pub(super) fn new(bell: Bell, seen: u32, index: u32) -> Self {
        Self {
            word: bell.own_word(),
            bell,
            seen,
            index,
        }
    }

    #[inline]
    fn rang(&self) -> bool {
        // ORDER(bell): acquire; pairs with the Release in `parking::bump`.
        self.word.read().load() != self.seen
    }
}

impl Cold {
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.members
    }

    /// Adds a member and says its place.
    pub(super) fn push(&mut self, entry: Entry) -> usize {
        self.members.push(entry);
        self.members.len() - 1
    }

    /// Takes a member out. Which one stands in its place now, if any does.
    pub(super) fn remove(&mut self, place: usize) -> Option<u32> {
        self.members.swap_remove(place);
        self.members.get(place).map(|entry| entry.index)
    }

    /// The next of the following `most` members whose bell rang. Lowers `most` by the looks taken.
    #[inline]
    pub(super) fn sweep(&mut self, most: &mut usize) -> Option<u32> {
        while *most > 0 && !self.members.is_empty() {
            *most -= 1;
            if self.at >= self.members.len() {
                self.at = 0;
            }
            let entry = &self.members[self.at];
            self.at += 1;
            if entry.rang() {
                return Some(entry.index);
            }
        }
        None
    }
}
