//! What became of the numbered messages: the arithmetic behind the demo's verdict.
//!
//! Each client puts the numbers 1, 2, 3 … under keys of its own, each exactly once. What the service
//! holds at the end tells everything: a number that is missing was lost, a version above 1 means that
//! a message was handled twice, and revisions (one counter for the whole service) that do not grow
//! with the numbers mean that messages overtook each other.

use std::collections::BTreeMap;

/// How many numbers of each kind of damage are kept for the report.
const MAX_SAMPLES: usize = 10;

/// One number as the service holds it at the end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Found {
    /// The number in the key.
    pub(crate) number: u64,
    /// When its last change was handled, counted over the whole service.
    pub(crate) revision: u64,
    /// How often the key was written.
    pub(crate) version: u64,
    /// Whether the value is the one that the client sent.
    pub(crate) intact: bool,
}

/// What became of one client's messages.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Verdict {
    /// Sent, but not there at the end.
    pub(crate) lost: u64,
    /// Handled once more than they were sent.
    pub(crate) duplicated: u64,
    /// Handled after a message that was sent later.
    pub(crate) reordered: u64,
    /// There with another value, or there without having been sent.
    pub(crate) corrupted: u64,
    /// The first few damaged numbers, to look for in the logs.
    pub(crate) samples: Vec<u64>,
}

/// Judges one client that sent the numbers 1 to `sent`.
pub(crate) fn judge(sent: u64, found: &[Found]) -> Verdict {
    let mut verdict = Verdict::default();
    let by_number: BTreeMap<u64, &Found> = found.iter().map(|one| (one.number, one)).collect();
    let mut sample = |number: u64| {
        if verdict.samples.len() < MAX_SAMPLES {
            verdict.samples.push(number);
        }
    };
    for number in (1..=sent).filter(|number| !by_number.contains_key(number)) {
        verdict.lost += 1;
        sample(number);
    }
    let mut latest_revision = 0;
    for (number, one) in &by_number {
        if *number == 0 || *number > sent || !one.intact {
            verdict.corrupted += 1;
            sample(*number);
        }
        if one.version > 1 {
            verdict.duplicated += one.version - 1;
            sample(*number);
        }
        if one.revision <= latest_revision {
            verdict.reordered += 1;
            sample(*number);
        }
        latest_revision = latest_revision.max(one.revision);
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(numbers: impl IntoIterator<Item = u64>) -> Vec<Found> {
        numbers
            .into_iter()
            .map(|number| Found {
                number,
                // Other clients' changes lie between ours.
                revision: 100 + number * 6,
                version: 1,
                intact: true,
            })
            .collect()
    }

    #[test]
    fn a_whole_scan_has_nothing_to_report_in_whatever_order_it_comes() {
        let mut found = whole(1..=50);
        assert_eq!(judge(50, &found), Verdict::default());
        found.reverse();
        assert_eq!(judge(50, &found), Verdict::default());
        assert_eq!(judge(0, &[]), Verdict::default());
    }

    #[test]
    fn missing_numbers_are_lost_also_at_the_end() {
        let found = whole((1..=50).filter(|n| ![7, 8, 50].contains(n)));
        let verdict = judge(50, &found);
        assert_eq!((verdict.lost, verdict.samples), (3, vec![7, 8, 50]));
        assert_eq!(judge(3, &[]).lost, 3);
    }

    #[test]
    fn a_key_that_was_written_again_is_duplicated() {
        let mut found = whole(1..=5);
        found[2].version = 3;
        let verdict = judge(5, &found);
        assert_eq!((verdict.duplicated, verdict.lost), (2, 0));
    }

    #[test]
    fn a_message_that_was_overtaken_is_reordered_once() {
        let mut found = whole(1..=5);
        (found[1].revision, found[2].revision) = (found[2].revision, found[1].revision);
        assert_eq!(judge(5, &found).reordered, 1);
        // One early message that was handled last does not make the rest out of order twice over.
        let mut found = whole(1..=5);
        found[0].revision = 1000;
        assert_eq!(judge(5, &found).reordered, 4);
    }

    #[test]
    fn a_wrong_value_and_an_unknown_number_are_corrupted() {
        let mut found = whole(1..=6);
        found[0].intact = false;
        let verdict = judge(5, &found);
        assert_eq!(verdict.corrupted, 2);
        assert_eq!(verdict.samples, [1, 6]);
    }
}
