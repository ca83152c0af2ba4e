//! The node's own log, kept in memory so that it can be asked for from anywhere in the cluster.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

use weft_node_control::LogRecord;

/// How many records are kept. The oldest go first; each has a number, so that a gap is seen.
const KEPT: usize = 1024;

/// The longest text of a record, in bytes; what a dying process said last can be longer.
const MAX_TEXT_BYTES: usize = 4096;

/// The most texts in one answer, in bytes: with what else is in a record they fit one message.
const MAX_ANSWER_BYTES: usize = 32 * 1024;

/// What a record takes up in an answer beside its text, in bytes, and a little more.
const RECORD_BYTES: usize = 32;

/// The last things that happened on a node.
#[derive(Debug, Default)]
pub(crate) struct Log {
    records: RefCell<VecDeque<LogRecord>>,
}

impl Log {
    /// Notes something that an operator wants to know, here and in the process's own log.
    pub(crate) fn note(&self, text: impl Into<String>) {
        let text = text.into();
        tracing::info!("{text}");
        self.push("info", text);
    }

    /// Notes something that went wrong.
    pub(crate) fn warn(&self, text: impl Into<String>) {
        let text = text.into();
        tracing::warn!("{text}");
        self.push("warn", text);
    }

    fn push(&self, level: &str, mut text: String) {
        if text.len() > MAX_TEXT_BYTES {
            text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES - '…'.len_utf8()));
            text.push('…');
        }
        let mut records = self.records.borrow_mut();
        let number = records.back().map_or(1, |last| last.number + 1);
        if records.len() == KEPT {
            records.pop_front();
        }
        let unix_ms = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| {
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            });
        records.push_back(LogRecord {
            number,
            unix_ms,
            level: level.to_owned(),
            text,
        });
    }

    /// The records after number `after`, the oldest first: at most `limit`, and no more than fit a
    /// message. Only if there are none after `after` is the answer empty.
    pub(crate) fn after(&self, after: u64, limit: usize) -> Vec<LogRecord> {
        let mut room = MAX_ANSWER_BYTES;
        self.records
            .borrow()
            .iter()
            .filter(|record| record.number > after)
            .take(limit)
            .take_while(|record| {
                let left = room.checked_sub(RECORD_BYTES + record.text.len());
                room = left.unwrap_or(0);
                left.is_some()
            })
            .cloned()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use weft_node_control::LogReply;

    use super::*;

    #[test]
    fn the_oldest_records_go_first_and_numbers_tell_the_gap() {
        let log = Log::default();
        for at in 0..KEPT + 10 {
            log.note(format!("{at}"));
        }
        let kept = whole(&log);
        assert_eq!(kept.len(), KEPT);
        assert_eq!(kept[0].number, 11);
        assert_eq!(log.after(kept[0].number, 2).len(), 2);
    }

    #[test]
    fn an_answer_fits_a_message_and_the_next_goes_on_behind_it() {
        let log = Log::default();
        let long = "ä".repeat(MAX_TEXT_BYTES);
        for _ in 0..30 {
            log.warn(&long);
        }
        let first = log.after(0, 30);
        assert!((1..30).contains(&first.len()), "{}", first.len());
        let reply = LogReply { records: first };
        weft_contract::encode(&reply, &mut Vec::new()).expect("it fits a message");
        let all = whole(&log);
        assert_eq!(all.len(), 30);
        assert!(all.iter().all(|record| record.text.ends_with("ä…")));
    }

    /// Everything that is kept, asked for until nothing is left.
    fn whole(log: &Log) -> Vec<LogRecord> {
        let mut all: Vec<LogRecord> = Vec::new();
        loop {
            let next = log.after(all.last().map_or(0, |last| last.number), usize::MAX);
            if next.is_empty() {
                return all;
            }
            all.extend(next);
        }
    }
}
