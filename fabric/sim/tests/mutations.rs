//! Breaks one rule at a time and asks the checker to find it.

use std::time::Duration;

use weft_sim::{Mutation, Rates, Scenario, Simulation};

/// The mutation breaks what it should break in one of `seeds` seeds, and the same seed without it
/// breaks nothing.
#[track_caller]
fn is_found(scenario: Scenario, mutation: Mutation, seeds: u64, what: &[&str]) {
    let broken = scenario.clone().broken(mutation);
    let mut others = String::new();
    for seed in 0..seeds {
        let Err(violation) = Simulation::run(seed, &broken) else {
            continue;
        };
        if what.iter().any(|what| violation.what.contains(what)) {
            Simulation::run(seed, &scenario).expect("sound without the mutation");
            return;
        }
        others += &format!("seed {seed}: {}\n", violation.what);
    }
    panic!("{mutation:?} goes unnoticed in {seeds} seeds, but for\n{others}");
}

#[test]
fn a_skipped_watermark_is_found() {
    let what = [
        "a second answer",
        "out of order",
        "done goes back",
        "is done up to",
    ];
    is_found(
        Scenario::moves_under_load(),
        Mutation::SkipWatermark,
        200,
        &what,
    );
}

#[test]
fn an_activation_before_the_commit_is_found() {
    let what = ["active instances", "serves in"];
    is_found(
        Scenario::moves_under_load(),
        Mutation::ActivateBeforeCommit,
        20,
        &what,
    );
}

#[test]
fn a_thaw_with_the_commit_in_doubt_is_found() {
    let what = ["active instances", "has served", "after epoch"];
    is_found(
        Scenario::moves_under_load(),
        Mutation::ThawInDoubt,
        100,
        &what,
    );
}

#[test]
fn an_acknowledgement_on_arrival_is_found() {
    let what = ["is freed up to", "replies are freed"];
    is_found(
        Scenario::lossy_links(),
        Mutation::AcknowledgeOnArrival,
        5,
        &what,
    );
}

#[test]
fn a_reboot_without_a_new_epoch_is_found() {
    let what = ["active instances", "has served", "serves in"];
    // Sources die with commits on the way to a slow directory.
    let scenario = Scenario {
        clients: 1,
        pause: Duration::from_millis(200),
        rates: Rates {
            moves: Some(Duration::from_millis(60)),
            node_crashes: Some(Duration::from_millis(150)),
            slow_directory_percent: 50,
            ..Rates::default()
        },
        ..Scenario::everything()
    };
    is_found(scenario, Mutation::RebootWithoutRegistration, 300, &what);
}

#[test]
fn a_successor_that_starts_at_done_is_found() {
    let what = ["is handled again"];
    is_found(
        Scenario::process_crashes(),
        Mutation::SuccessorFromDone,
        20,
        &what,
    );
}

#[test]
fn a_silent_successor_is_found() {
    let what = ["has no answer"];
    is_found(
        Scenario::process_crashes(),
        Mutation::SilentSuccessor,
        20,
        &what,
    );
}

#[test]
fn replies_left_behind_by_a_move_are_found() {
    let what = ["gap", "but only up to", "resumes at"];
    is_found(
        Scenario::moves_under_load(),
        Mutation::ForgetReplies,
        50,
        &what,
    );
}

#[test]
fn a_target_that_takes_another_move_for_its_own_is_found() {
    let what = ["active instances", "has served", "serves in"];
    // Two nodes, so that the next move has the same source and target, and daemons that lose so
    // much of what they say that a target outlives its move.
    let scenario = Scenario {
        nodes: 2,
        clients: 1,
        load: Duration::from_secs(3),
        pause: Duration::from_millis(200),
        rates: Rates {
            moves: Some(Duration::from_millis(150)),
            lossy_percent: 15,
            slow_directory_percent: 5,
            ..Rates::default()
        },
        ..Scenario::moves_under_load()
    };
    is_found(scenario, Mutation::IgnoreMoveId, 400, &what);
}

#[test]
fn a_freeze_in_name_only_is_found() {
    let what = [
        "active instances",
        "is handled again",
        "has served",
        "is done up to",
    ];
    is_found(
        Scenario::moves_under_load(),
        Mutation::FreezeInName,
        20,
        &what,
    );
}
