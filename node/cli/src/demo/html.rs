//! The report as a page that needs nothing but itself: data, drawing code and style in one file.
//!
//! A run has more answers than a page can draw, so time is cut into buckets. Of each bucket and
//! place the page gets median, slowest and fastest and a few points between: a pause or a slow answer
//! never disappears in the thinning.

use serde::Serialize;
use serde_json::{Value, json};

use super::latency::{Answer, Place, milliseconds};
use super::report::Recording;
use crate::error::CliError;

const TEMPLATE: &str = include_str!("report.html");

/// Where the template wants the data.
const SLOT: &str = "\"WEFT-DATA\"";

/// How many buckets a run has at most: about one for each pixel column.
const MAX_BUCKETS: u64 = 1000;

/// The shortest bucket, in nanoseconds.
const MIN_BUCKET_NANOS: u64 = 5_000_000;

/// How many points of one bucket and place are drawn at most.
const POINTS_PER_BUCKET: usize = 5;

/// What the page draws beside the report.
#[derive(Debug, Serialize)]
struct Timeline {
    /// The length of the run.
    length_ms: f64,
    /// The length of a bucket.
    bucket_ms: f64,
    /// All answers in each bucket.
    counts: Vec<u64>,
    /// Local, remote, moving: for each bucket median and slowest in milliseconds, or null.
    figures: [Vec<Option<[f64; 2]>>; 3],
    /// Local, remote, moving: time and latency of some answers, in milliseconds.
    points: [Vec<[f64; 2]>; 3],
    /// Begin, freeze and end of each move, in milliseconds.
    moves: Vec<[f64; 3]>,
}

impl Timeline {
    fn of(recording: &Recording) -> Self {
        let last = recording
            .clients
            .iter()
            .filter_map(|client| client.answers.last());
        let answered = last.map(|answer| answer.at_nanos).max().unwrap_or(0);
        let length = answered
            .max((recording.seconds * 1e9) as u64)
            .max(MIN_BUCKET_NANOS);
        let bucket = (length / MAX_BUCKETS + 1).max(MIN_BUCKET_NANOS);
        let buckets = (length / bucket + 1) as usize;
        let whereabouts = recording.whereabouts();
        let mut sorted: Vec<[Vec<Answer>; 3]> = vec![Default::default(); buckets];
        for client in &recording.clients {
            for answer in &client.answers {
                let place = whereabouts.place(*answer, &client.node);
                let position = (answer.at_nanos / bucket) as usize;
                sorted[position][place as usize].push(*answer);
            }
        }
        let mut timeline = Self {
            length_ms: milliseconds(length),
            bucket_ms: milliseconds(bucket),
            counts: Vec::with_capacity(buckets),
            figures: Default::default(),
            points: Default::default(),
            moves: recording
                .moves
                .iter()
                .map(|one| {
                    [one.started_nanos, one.frozen_nanos(), one.ended_nanos].map(milliseconds)
                })
                .collect(),
        };
        for places in &mut sorted {
            timeline
                .counts
                .push(places.iter().map(|answers| answers.len() as u64).sum());
            for place in [Place::Local, Place::Remote, Place::Moving] {
                timeline.add_bucket(place as usize, &mut places[place as usize]);
            }
        }
        timeline
    }

    fn add_bucket(&mut self, place: usize, answers: &mut [Answer]) {
        answers.sort_unstable_by_key(|answer| answer.latency_nanos);
        let Some(slowest) = answers.last() else {
            self.figures[place].push(None);
            return;
        };
        let median = answers[answers.len() / 2];
        self.figures[place].push(Some([
            milliseconds(median.latency_nanos),
            milliseconds(slowest.latency_nanos),
        ]));
        let drawn = answers.len().min(POINTS_PER_BUCKET);
        for position in 0..drawn {
            // Evenly over the order of latency, the fastest and the slowest included.
            let answer = answers[position * (answers.len() - 1) / (drawn - 1).max(1)];
            self.points[place].push([
                milliseconds(answer.at_nanos),
                milliseconds(answer.latency_nanos),
            ]);
        }
    }
}

/// The page for a report.
pub(crate) fn render(report: &Value, recording: &Recording) -> Result<String, CliError> {
    let data = json!({ "report": report, "timeline": Timeline::of(recording) });
    let text = serde_json::to_string(&data).map_err(|error| CliError::internal("report", error))?;
    // A string in the data must not be able to end the script element, whatever it says.
    Ok(TEMPLATE.replacen(SLOT, &text.replace('<', "\\u003c"), 1))
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::recording;
    use super::*;

    fn page(recording: &Recording) -> String {
        render(
            &serde_json::to_value(recording.report()).unwrap(),
            recording,
        )
        .unwrap()
    }

    #[test]
    fn the_page_holds_the_data_and_fetches_nothing() {
        let page = page(&recording());
        assert!(!page.contains(SLOT));
        assert!(page.contains("\"digest_before\":\"abab"));
        assert!(page.contains("\"steps_ms\":{\"prepare\":4.0"));
        for fetch in ["src=", "href=", "http://", "https://", "@import", "url("] {
            let allowed = page.replace("http://www.w3.org/2000/svg", "");
            assert!(!allowed.contains(fetch), "{fetch}");
        }
    }

    #[test]
    fn no_text_in_the_data_can_end_the_script() {
        let mut recording = recording();
        recording.clients[0].errors.push("</script><b>".to_owned());
        let ends = page(&recording).matches("</script>").count();
        assert_eq!(ends, TEMPLATE.matches("</script>").count());
    }

    #[test]
    fn the_slowest_answer_and_the_pause_survive_the_thinning() {
        let mut recording = recording();
        let many = (0..100_000u64).map(|number| Answer {
            at_nanos: number * 10_000,
            latency_nanos: if number == 77_777 {
                900_000_000
            } else {
                100_000
            },
        });
        recording.clients[0].answers = many.collect();
        recording.clients[1].answers.clear();
        let timeline = Timeline::of(&recording);
        let drawn: usize = timeline.points.iter().map(Vec::len).sum();
        assert!(drawn < 10_000, "{drawn}");
        let slowest = timeline
            .points
            .iter()
            .flatten()
            .map(|point| point[1])
            .fold(0.0, f64::max);
        assert!((slowest - 900.0).abs() < 0.001, "{slowest}");

        let paused = Timeline::of(&super::super::report::tests::recording());
        assert!(
            paused.counts[101..103].iter().all(|count| *count == 0),
            "{:?}",
            &paused.counts[98..106]
        );
    }

    #[test]
    fn a_run_without_answers_still_has_a_page() {
        let mut recording = recording();
        for client in &mut recording.clients {
            client.answers.clear();
        }
        assert!(page(&recording).contains("\"counts\""));
    }

    /// Writes a made-up report for a look at the page: `WEFT_PAGE=page.html cargo test -p weft-cli`.
    #[test]
    fn a_made_up_report_can_be_looked_at() {
        if let Some(path) = std::env::var_os("WEFT_PAGE") {
            std::fs::write(path, page(&made_up())).unwrap();
        }
    }

    /// Half a minute with twelve moves over three nodes, from a small generator with a fixed seed.
    fn made_up() -> Recording {
        const MS: u64 = 1_000_000;
        let mut state = 88_172_645_463_325_252_u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        let mut recording = recording();
        let template = recording.clients[0].clone();
        let one_move = recording.moves[0].clone();
        recording.nodes = 3;
        recording.seconds = 30.0;
        let begin = |number: u64| (number + 1) * 30_000 / 13;
        recording.moves = (0..12)
            .map(|number| {
                let mut one = one_move.clone();
                one.from = format!("n{}", number % 3 + 1);
                one.to = format!("n{}", (number + 1) % 3 + 1);
                one.started_nanos = begin(number) * MS;
                one.ended_nanos = one.started_nanos + 48 * MS;
                one.outcome = Ok(super::super::report::MoveOutcome {
                    epoch: number + 2,
                    steps: [
                        "prepare", "precopy", "freeze", "final", "commit", "activate", "swap",
                    ]
                    .into_iter()
                    .map(|step| {
                        (
                            step.to_owned(),
                            0.3 + random() * if step == "prepare" { 25.0 } else { 6.0 },
                        )
                    })
                    .collect(),
                    bytes: 2_400_000,
                    channels: 7,
                    blackout_ms: 8.0 + random() * 4.0,
                });
                one
            })
            .collect();
        recording.clients = (1..=6)
            .map(|number| {
                let mut client = template.clone();
                client.client = number;
                client.node = format!("n{}", (number - 1) % 3 + 1);
                (client.sent, client.acknowledged, client.reads) = (10_000, 10_000, 1250);
                let mut at = 0.0;
                client.answers.clear();
                while at < 30_000.0 {
                    at += 2.5 + random();
                    let moved = (0..12)
                        .rev()
                        .find(|move_number| begin(*move_number) as f64 <= at);
                    let frozen = moved
                        .is_some_and(|number| (20.0..40.0).contains(&(at - begin(number) as f64)));
                    if frozen {
                        continue;
                    }
                    let owner = moved.map_or(1, |number| (number + 1) % 3 + 1);
                    let local = client.node == format!("n{owner}");
                    let tail = (1.0 / (random() + 0.004)).powf(0.8);
                    let held = moved
                        .is_some_and(|number| (40.0..46.0).contains(&(at - begin(number) as f64)));
                    let latency = if held {
                        18.0 + random() * 6.0
                    } else if local {
                        0.05 * tail
                    } else {
                        0.28 * tail
                    };
                    client.answers.push(Answer {
                        at_nanos: (at * 1e6) as u64,
                        latency_nanos: (latency * 1e6) as u64,
                    });
                }
                client
            })
            .collect();
        recording
    }
}
