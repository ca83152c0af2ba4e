//! Latency as the clients saw it, told apart by where the service was.
//!
//! A client cannot know at each moment on which node its service lives, so answers are sorted after
//! the fact by the moves: until its freeze the service was at its source, after the move at its
//! target, and an answer that was under way in between counts as *moving*, so that neither the local
//! nor the remote figures are blurred by it and the price of a move is seen by itself.

use hdrhistogram::Histogram;
use serde::Serialize;

/// Where the service was while a message was under way, from its client's point of view.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Place {
    /// On the client's node.
    Local,
    /// On another node.
    Remote,
    /// Between two nodes for a part of the time.
    Moving,
}

/// One answer that a client got. Times are nanoseconds since the load began.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Answer {
    /// When it came.
    pub(crate) at_nanos: u64,
    /// How long after its message was sent.
    pub(crate) latency_nanos: u64,
}

impl Answer {
    fn sent_nanos(self) -> u64 {
        self.at_nanos.saturating_sub(self.latency_nanos)
    }
}

/// One stay of the service on a node, or one move (`node` is `None`).
#[derive(Clone, Debug, Eq, PartialEq)]
struct Stay {
    from_nanos: u64,
    node: Option<String>,
}

/// Where the service was, at any time of the run.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Whereabouts {
    /// In order of time; the first begins at 0.
    stays: Vec<Stay>,
}

impl Whereabouts {
    /// A service that starts on `node`.
    pub(crate) fn starting_on(node: &str) -> Self {
        Self {
            stays: vec![Stay {
                from_nanos: 0,
                node: Some(node.to_owned()),
            }],
        }
    }

    /// Adds the part of a move in which the service serves nobody, later than all before, after which the service is on `node`: its target, or its
    /// source if it failed.
    pub(crate) fn add_move(&mut self, frozen_nanos: u64, ended_nanos: u64, node: &str) {
        self.stays.push(Stay {
            from_nanos: frozen_nanos,
            node: None,
        });
        self.stays.push(Stay {
            from_nanos: ended_nanos,
            node: Some(node.to_owned()),
        });
    }

    /// Where the service was for a client on `client_node` while this answer was under way.
    pub(crate) fn place(&self, answer: Answer, client_node: &str) -> Place {
        let sent = answer.sent_nanos();
        let after = self.stays.partition_point(|stay| stay.from_nanos <= sent);
        let stay = &self.stays[after.saturating_sub(1)];
        let changed = self
            .stays
            .get(after)
            .is_some_and(|next| next.from_nanos <= answer.at_nanos);
        match &stay.node {
            Some(node) if !changed && node == client_node => Place::Local,
            Some(_) if !changed => Place::Remote,
            _ => Place::Moving,
        }
    }
}

/// Percentiles of one kind of answers, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Summary {
    /// How many answers.
    pub(crate) count: u64,
    /// Half of them came within this time.
    pub(crate) p50: f64,
    /// 99 of 100 came within this time.
    pub(crate) p99: f64,
    /// The slowest.
    pub(crate) max: f64,
}

/// Latencies of many answers, by place.
#[derive(Clone, Debug)]
pub(crate) struct Latencies {
    places: [Histogram<u64>; 3],
}

impl Latencies {
    /// No answers yet.
    pub(crate) fn new() -> Self {
        Self {
            places: [nanos_histogram(), nanos_histogram(), nanos_histogram()],
        }
    }

    /// Counts one answer.
    pub(crate) fn add(&mut self, place: Place, latency_nanos: u64) {
        self.places[place as usize].saturating_record(latency_nanos);
    }

    /// Counts all answers of another.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (mine, others) in self.places.iter_mut().zip(&other.places) {
            // Both have the same bounds, so there is no value that does not fit.
            let merged = mine.add(others);
            debug_assert!(merged.is_ok(), "{merged:?}");
        }
    }

    /// The percentiles of one place, if anything was answered there.
    pub(crate) fn summary(&self, place: Place) -> Option<Summary> {
        summary(&self.places[place as usize])
    }
}

/// The longest time that is told apart, in nanoseconds: an hour. Longer ones count as an hour.
const MAX_NANOS: u64 = 3_600_000_000_000;

/// A histogram for times in nanoseconds, with three digits.
pub(crate) fn nanos_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MAX_NANOS, 3).expect("the bounds are constants, and valid")
}

/// The percentiles of a histogram of nanoseconds.
pub(crate) fn summary(histogram: &Histogram<u64>) -> Option<Summary> {
    if histogram.is_empty() {
        return None;
    }
    Some(Summary {
        count: histogram.len(),
        p50: milliseconds(histogram.value_at_quantile(0.5)),
        p99: milliseconds(histogram.value_at_quantile(0.99)),
        max: milliseconds(histogram.max()),
    })
}

/// Nanoseconds as milliseconds, rounded to a microsecond.
pub(crate) fn milliseconds(nanos: u64) -> f64 {
    (nanos / 1000) as f64 / 1000.0
}

/// The longest time that this client waited for the next answer of any kind around a move, in
/// nanoseconds.
///
/// It is the longest gap between two successive answers that overlaps the move, without the part in
/// which the client had nothing under way: a client that sends rarely is not blacked out between its
/// messages.
pub(crate) fn blackout_nanos(
    answers: &[Answer],
    move_started_nanos: u64,
    move_ended_nanos: u64,
) -> u64 {
    let first = answers.partition_point(|answer| answer.at_nanos < move_started_nanos);
    let mut previous = first
        .checked_sub(1)
        .map_or(0, |before| answers[before].at_nanos);
    let mut longest = 0;
    for answer in &answers[first..] {
        let waits_since = previous.max(answer.sent_nanos());
        if previous > move_ended_nanos {
            break;
        }
        if waits_since <= move_ended_nanos {
            longest = longest.max(answer.at_nanos.saturating_sub(waits_since));
        }
        previous = answer.at_nanos;
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(sent: u64, at: u64) -> Answer {
        Answer {
            at_nanos: at,
            latency_nanos: at - sent,
        }
    }

    #[test]
    fn an_answer_is_local_remote_or_overlaps_a_move() {
        let mut whereabouts = Whereabouts::starting_on("n1");
        whereabouts.add_move(1000, 1500, "n2");
        for (sent, at, node, expected) in [
            (10, 20, "n1", Place::Local),
            (10, 20, "n2", Place::Remote),
            (900, 999, "n1", Place::Local),
            (900, 1000, "n1", Place::Moving),
            (1100, 1200, "n1", Place::Moving),
            (900, 2000, "n2", Place::Moving),
            (1499, 1600, "n2", Place::Moving),
            (1500, 1600, "n2", Place::Local),
            (1500, 1600, "n1", Place::Remote),
            (1500, 1600, "n3", Place::Remote),
        ] {
            assert_eq!(
                whereabouts.place(answer(sent, at), node),
                expected,
                "{sent}..{at} on {node}"
            );
        }
    }

    #[test]
    fn the_blackout_is_the_longest_wait_that_overlaps_the_move() {
        // Always four under way: each was sent well before the answer to the one before it.
        let busy: Vec<Answer> = [100u64, 200, 300, 900, 1000, 5000, 5100]
            .map(|at| answer(at.saturating_sub(5000), at))
            .to_vec();
        assert_eq!(blackout_nanos(&busy, 350, 800), 600);
        assert_eq!(blackout_nanos(&busy, 150, 250), 100);
        assert_eq!(blackout_nanos(&busy, 2000, 2100), 4000);
        assert_eq!(blackout_nanos(&busy, 6000, 7000), 0);
        assert_eq!(blackout_nanos(&[], 0, 1), 0);
    }

    #[test]
    fn a_client_with_nothing_under_way_is_not_blacked_out() {
        let rare = [answer(90, 100), answer(1040, 1050), answer(1060, 3000)];
        assert_eq!(blackout_nanos(&rare, 500, 1045), 10);
        assert_eq!(blackout_nanos(&rare, 500, 600), 0);
        assert_eq!(blackout_nanos(&rare, 1100, 1200), 1940);
    }

    #[test]
    fn percentiles_are_those_of_the_place() {
        let mut latencies = Latencies::new();
        for micros in 1..=100 {
            latencies.add(Place::Local, micros * 1000);
        }
        latencies.add(Place::Remote, 5_000_000);
        let local = latencies.summary(Place::Local).unwrap();
        assert_eq!(local.count, 100);
        assert!((local.p50 - 0.050).abs() < 0.001, "{local:?}");
        assert!((local.p99 - 0.099).abs() < 0.001, "{local:?}");
        assert!((local.max - 0.100).abs() < 0.001, "{local:?}");
        assert!((latencies.summary(Place::Remote).unwrap().max - 5.0).abs() < 0.01);
        assert_eq!(latencies.summary(Place::Moving), None);
        let mut all = Latencies::new();
        all.merge(&latencies);
        all.merge(&latencies);
        assert_eq!(all.summary(Place::Local).unwrap().count, 200);
    }
}
