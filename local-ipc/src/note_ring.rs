//! The ring of notes by which a borrower gives objects back; see `heap::notes` for what it is for.
//!
//! Apart from there because loom builds this module and not that one.

use crate::sync::{AtomicU64, Ordering, Read64};

/// How many bits of a generation a note has.
pub(crate) const GENERATION_MASK: u32 = u32::MAX >> 1;

/// An object that its borrower has finished with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Note {
    pub(crate) object: u32,
    /// At most [`GENERATION_MASK`]; what a peer says beyond that is cut off.
    pub(crate) generation: u32,
}

impl Note {
    #[inline]
    fn pack(self, phase: bool) -> u64 {
        let generation = u64::from(self.generation & GENERATION_MASK);
        u64::from(phase) << 63 | generation << 32 | u64::from(self.object)
    }

    #[inline]
    fn unpack(word: u64) -> (Self, bool) {
        let note = Self {
            object: word as u32,
            generation: (word >> 32) as u32 & GENERATION_MASK,
        };
        (note, word >> 63 != 0)
    }
}

/// A place in the ring, and the phase of its lap: set in the first, for memory begins as zeros.
#[derive(Debug)]
struct Place {
    index: u32,
    phase: bool,
    capacity: u32,
}

impl Place {
    fn new(capacity: u32) -> Self {
        Self {
            index: 0,
            phase: true,
            capacity,
        }
    }

    #[inline]
    fn advance(&mut self) {
        self.index += 1;
        if self.index == self.capacity {
            self.index = 0;
            self.phase = !self.phase;
        }
    }
}

/// Writes notes.
#[derive(Debug)]
pub(crate) struct Writer(Place);

impl Writer {
    pub(crate) fn new(capacity: u32) -> Self {
        Self(Place::new(capacity))
    }

    /// Which word comes next.
    #[inline]
    pub(crate) fn index(&self) -> usize {
        self.0.index as usize
    }

    /// Writes a note to the word that comes next.
    #[inline]
    pub(crate) fn put(&mut self, word: &AtomicU64, note: Note) {
        // ORDER(returned): Release; pairs with the acquire load in `Reader::next`. All that was read of
        // the object comes before it, and its owner writes there only afterwards.
        word.store(note.pack(self.0.phase), Ordering::Release);
        self.0.advance();
    }
}

/// Reads notes.
#[derive(Debug)]
pub(crate) struct Reader(Place);

impl Reader {
    pub(crate) fn new(capacity: u32) -> Self {
        Self(Place::new(capacity))
    }

    pub(crate) fn capacity(&self) -> u32 {
        self.0.capacity
    }

    /// Which word comes next.
    #[inline]
    pub(crate) fn index(&self) -> usize {
        self.0.index as usize
    }

    /// The note in the word that comes next, if it is there already.
    #[inline]
    pub(crate) fn next(&mut self, word: Read64<'_>) -> Option<Note> {
        // ORDER(returned): acquire; pairs with the Release in `Writer::put`.
        let (note, phase) = Note::unpack(word.load());
        if phase != self.0.phase {
            return None;
        }
        self.0.advance();
        Some(note)
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn notes_come_out_in_order_lap_after_lap() {
        let words: Vec<AtomicU64> = (0..4).map(|_| AtomicU64::new(0)).collect();
        let (mut writer, mut reader) = (Writer::new(4), Reader::new(4));
        for round in 0..50_u32 {
            let notes: Vec<Note> = (0..round % 5)
                .map(|object| Note {
                    object,
                    generation: round,
                })
                .collect();
            for &note in &notes {
                writer.put(&words[writer.index()], note);
            }
            for note in notes {
                let index = reader.index();
                assert_eq!(reader.next(Read64(&words[index])), Some(note));
            }
            let index = reader.index();
            assert_eq!(reader.next(Read64(&words[index])), None);
        }
    }
}

/// An owner lends its only block again and again; each borrower must see what was written for it.
#[cfg(all(loom, test))]
#[expect(unsafe_code, reason = "loom's cells show a race and want it said")]
mod models {
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    struct Shared {
        block: UnsafeCell<u32>,
        published: AtomicU64,
        notes: [AtomicU64; 2],
    }

    fn lends(note_ordering: Ordering) {
        loom::model(move || {
            const ROUNDS: u32 = 3;
            let shared = Arc::new(Shared {
                block: UnsafeCell::new(0),
                published: AtomicU64::new(0),
                notes: [AtomicU64::new(0), AtomicU64::new(0)],
            });
            let peer = Arc::clone(&shared);
            let borrower = thread::spawn(move || {
                let mut writer = Writer::new(2);
                for round in 1..=ROUNDS {
                    while Read64(&peer.published).load() < u64::from(round) {
                        thread::yield_now();
                    }
                    // loom tells of a race with the owner's next write.
                    peer.block.with(|block| {
                        // SAFETY: what the model is to show.
                        assert_eq!(unsafe { *block }, round);
                    });
                    let note = Note {
                        object: 7,
                        generation: round,
                    };
                    let word = &peer.notes[writer.index()];
                    if note_ordering == Ordering::Release {
                        writer.put(word, note);
                    } else {
                        word.store(note.pack(writer.0.phase), note_ordering);
                        writer.0.advance();
                    }
                }
            });
            let mut reader = Reader::new(2);
            for round in 1..=ROUNDS {
                // SAFETY: what the model is to show.
                shared.block.with_mut(|block| unsafe { *block = round });
                shared.published.store(u64::from(round), Ordering::Release);
                let note = loop {
                    let word = Read64(&shared.notes[reader.index()]);
                    if let Some(note) = reader.next(word) {
                        break note;
                    }
                    thread::yield_now();
                };
                assert_eq!((note.object, note.generation), (7, round));
            }
            borrower.join().unwrap();
        });
    }

    #[test]
    fn a_block_is_written_again_only_after_its_borrower_has_read_it() {
        lends(Ordering::Release);
    }

    #[test]
    #[should_panic(expected = "Causality violation")]
    fn a_relaxed_note_would_let_the_owner_overtake_the_reader() {
        lends(Ordering::Relaxed);
    }
}
