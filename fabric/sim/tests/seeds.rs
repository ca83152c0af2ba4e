//! Many seeds of every scenario, and the same seed twice.
//!
//! `WEFT_SIM_SEEDS` sets how many seeds each scenario gets, `WEFT_SIM_FIRST` where they begin.

use weft_sim::{Scenario, Simulation, Summary};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

/// Runs the seeds and gives back the summaries; the first violation ends the test.
fn run(scenario: &Scenario) -> Vec<Summary> {
    let first = number("WEFT_SIM_FIRST", 0);
    (first..first + number("WEFT_SIM_SEEDS", 110))
        .map(|seed| {
            Simulation::run(seed, scenario).unwrap_or_else(|violation| panic!("{violation}"))
        })
        .collect()
}

fn sum(summaries: &[Summary], of: impl Fn(&Summary) -> u64) -> u64 {
    summaries.iter().map(of).sum()
}

#[test]
fn lossy_links_lose_repeat_and_reorder_nothing() {
    let runs = run(&Scenario::lossy_links());
    for run in &runs {
        assert_eq!(run.counts.sent, run.counts.handled);
        assert_eq!(run.counts.unknown + run.counts.channels_lost, 0);
    }
}

#[test]
fn a_service_that_moves_under_load_handles_every_message_once() {
    let runs = run(&Scenario::moves_under_load());
    for run in &runs {
        assert_eq!(run.counts.sent, run.counts.handled);
        assert_eq!(run.counts.unknown + run.counts.channels_lost, 0);
    }
    // The runs are worth something only if they went through the cases.
    assert!(sum(&runs, |run| run.moves.done) > runs.len() as u64);
    assert!(sum(&runs, |run| run.moves.failed) > runs.len() as u64 / 4);
    assert!(sum(&runs, |run| run.moves.asked_again) > 0);
}

#[test]
fn only_what_a_dead_process_had_in_hand_is_unknown() {
    let runs = run(&Scenario::process_crashes());
    for run in &runs {
        // One handler at a time: each death leaves at most one message.
        assert!(run.counts.unknown <= run.crashes);
        assert_eq!(run.counts.channels_lost, 0);
        assert_eq!(run.counts.sent, run.counts.handled);
    }
    assert!(sum(&runs, |run| run.counts.unknown) > 0);
}

#[test]
fn nodes_that_die_at_any_step_of_a_move_never_leave_two_owners() {
    let runs = run(&Scenario::everything());
    assert!(sum(&runs, |run| run.moves.done) > runs.len() as u64);
    assert!(sum(&runs, |run| run.counts.channels_lost) > 0);
    assert!(sum(&runs, |run| run.moves.sent_again) > 0);
}

#[test]
fn commits_that_stay_in_doubt_end_with_one_owner() {
    let runs = run(&Scenario::doubtful_commits());
    assert!(sum(&runs, |run| run.moves.asked_again) > runs.len() as u64);
    assert!(sum(&runs, |run| run.moves.done) > runs.len() as u64);
}

#[test]
fn one_seed_has_one_history() {
    for scenario in Scenario::all() {
        let mut traces = Vec::new();
        for seed in 0..4 {
            let once = Simulation::run(seed, &scenario);
            let again = Simulation::run(seed, &scenario);
            let (once, again) = (once.expect("no violation"), again.expect("no violation"));
            assert_eq!(once, again, "{}, seed {seed}", scenario.name);
            traces.push(once.trace);
        }
        traces.sort_unstable();
        traces.dedup();
        assert_eq!(traces.len(), 4, "two seeds have one history");
    }
}
