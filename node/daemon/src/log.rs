//! The node's own log, kept in memory so that it can be asked for from anywhere in the cluster.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

use weft_node_control::LogRecord;

/// How many records are kept. The oldest go first; each has a number, so that a gap is seen.
const KEPT: usize = 1024;

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

    fn push(&self, level: &str, text: String) {
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

    /// The records after number `after`, at most `limit`, the oldest first.
    pub(crate) fn after(&self, after: u64, limit: usize) -> Vec<LogRecord> {
        self.records
            .borrow()
            .iter()
            .filter(|record| record.number > after)
            .take(limit)
            .cloned()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_records_go_first_and_numbers_tell_the_gap() {
        let log = Log::default();
        for at in 0..KEPT + 10 {
            log.note(format!("{at}"));
        }
        let kept = log.after(0, usize::MAX);
        assert_eq!(kept.len(), KEPT);
        assert_eq!(kept[0].number, 11);
        assert_eq!(log.after(kept[0].number, 2).len(), 2);
    }
}
