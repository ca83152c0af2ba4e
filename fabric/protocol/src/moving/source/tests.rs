use weft_types::RefusalCode;

use super::*;

const DIGEST: StateDigest = StateDigest([7; 32]);

fn at(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn source() -> MoveSource {
    MoveSource::new(
        MoveId::new(1 << 100),
        ServiceName::new("kv").unwrap(),
        NodeName::new("n1").unwrap(),
        NodeName::new("n2").unwrap(),
        Epoch::FIRST,
        at(0),
    )
}

fn actions(source: &mut MoveSource) -> Vec<SourceAction> {
    std::iter::from_fn(|| source.poll_action()).collect()
}

fn refusal() -> Refusal {
    Refusal::new(RefusalCode::Unreachable, "gone")
}

fn entry(node: &str, epoch: u64) -> Entry {
    Entry {
        node: NodeName::new(node).unwrap(),
        epoch: Epoch::new(epoch),
        by: None,
    }
}

/// The inputs of a move without trouble up to `step`, which has begun.
fn source_in(step: Step) -> MoveSource {
    let mut source = source();
    let inputs = [
        (Step::Prepare, SourceInput::Prepared),
        (Step::Precopy, SourceInput::RoundCopied { round: 0 }),
        (Step::Freeze, SourceInput::Frozen { digest: DIGEST }),
        (Step::Final, SourceInput::FinalStored { digest: DIGEST }),
        (Step::Commit, SourceInput::Committed),
        (Step::Activate, SourceInput::Activated),
    ];
    for (now, (ends, input)) in (1..).zip(inputs) {
        if ends >= step {
            break;
        }
        source.handle(at(now), input);
    }
    assert_eq!(source.step(), step);
    actions(&mut source);
    source
}

#[test]
fn a_move_without_trouble_goes_through_all_steps_in_order() {
    let mut source = source();
    let mut seen = vec![(source.step(), source.state())];
    let inputs = [
        SourceInput::Prepared,
        SourceInput::RoundCopied { round: 0 },
        SourceInput::Frozen { digest: DIGEST },
        SourceInput::FinalStored { digest: DIGEST },
        SourceInput::Committed,
        SourceInput::Activated,
    ];
    let mut done = actions(&mut source);
    for (now, input) in (1..).zip(inputs) {
        source.handle(at(now * 10), input);
        seen.push((source.step(), source.state()));
        done.extend(actions(&mut source));
    }
    source.handle(at(70), SourceInput::Swapped);
    done.extend(actions(&mut source));
    assert_eq!(
        seen,
        [
            (Step::Prepare, SourceState::Serving),
            (Step::Precopy, SourceState::Serving),
            (Step::Freeze, SourceState::Frozen),
            (Step::Final, SourceState::Frozen),
            (Step::Commit, SourceState::Committing),
            (Step::Activate, SourceState::Given),
            (Step::Swap, SourceState::Given),
        ]
    );
    assert_eq!(
        done,
        [
            SourceAction::AskPrepare { again: false },
            SourceAction::CopyRound { round: 0 },
            SourceAction::Freeze,
            SourceAction::SendFinal,
            SourceAction::SubmitCommit(source.commit()),
            SourceAction::AskActivate,
            SourceAction::SwapClients,
            SourceAction::Release,
            SourceAction::Finish(Ok(())),
        ]
    );
    let times: Vec<_> = source.times().iter().collect();
    assert_eq!(times, Step::ALL.map(|step| (step, at(10))));
    assert_eq!(source.poll_timeout(), None);
}

#[test]
fn a_failure_before_the_commit_thaws_the_source_if_it_was_frozen() {
    for step in [Step::Prepare, Step::Precopy, Step::Freeze, Step::Final] {
        let mut source = source_in(step);
        source.handle(at(50), SourceInput::Failed(refusal()));
        let mut wanted = vec![
            SourceAction::Abandon,
            SourceAction::Finish(Err(MoveFailure::Refused {
                step,
                refusal: refusal(),
            })),
        ];
        if step >= Step::Freeze {
            wanted.insert(0, SourceAction::Thaw);
        }
        assert_eq!(actions(&mut source), wanted, "{step}");
        assert_eq!(source.state(), SourceState::Over);
    }
}

#[test]
fn a_step_before_the_commit_that_takes_too_long_ends_the_move() {
    for step in [Step::Prepare, Step::Precopy, Step::Freeze, Step::Final] {
        let mut source = source_in(step);
        let deadline = source.poll_timeout().unwrap();
        source.handle(deadline - at(1), SourceInput::Timeout);
        assert_eq!(actions(&mut source), [], "{step}: too early");
        source.handle(deadline, SourceInput::Timeout);
        let done = actions(&mut source);
        assert!(
            matches!(
                done.last(),
                Some(SourceAction::Finish(Err(MoveFailure::Deadline { step: at, .. }))) if *at == step
            ),
            "{done:?}"
        );
        assert_eq!(done.contains(&SourceAction::Thaw), step >= Step::Freeze);
    }
}

#[test]
fn with_the_commit_unknown_nothing_thaws_the_source_and_it_asks_for_ever() {
    let mut source = source_in(Step::Commit);
    for input in [
        SourceInput::CommitUnknown,
        SourceInput::Failed(refusal()),
        SourceInput::Cancel,
        SourceInput::ServiceDied,
    ] {
        source.handle(at(6), input);
        assert_eq!(actions(&mut source), []);
        assert_eq!(source.state(), SourceState::Committing);
    }
    for _ in 0..1000 {
        let now = source.poll_timeout().unwrap();
        source.handle(now, SourceInput::Timeout);
        let commit = source.commit();
        assert_eq!(actions(&mut source), [SourceAction::AskCommit(commit)]);
    }
    source.handle(at(9_999_999), SourceInput::Committed);
    assert_eq!(actions(&mut source), [SourceAction::AskActivate]);
}

#[test]
fn a_refused_commit_ends_the_old_instance_if_there_is_a_later_owner() {
    for current in [Some(entry("n3", 2)), Some(entry("n1", 2)), None] {
        let mut source = source_in(Step::Commit);
        source.handle(
            at(9),
            SourceInput::CommitRefused {
                current: current.clone(),
            },
        );
        assert_eq!(
            actions(&mut source),
            [
                SourceAction::Release,
                SourceAction::Abandon,
                SourceAction::Finish(Err(MoveFailure::Superseded { current })),
            ]
        );
    }
}

#[test]
fn a_submission_that_was_surely_not_applied_thaws_only_if_no_other_is_open() {
    let mut source = source_in(Step::Commit);
    source.handle(at(9), SourceInput::CommitNotApplied(refusal()));
    assert_eq!(actions(&mut source)[0], SourceAction::Thaw);

    let mut source = source_in(Step::Commit);
    let now = source.poll_timeout().unwrap();
    source.handle(now, SourceInput::Timeout);
    actions(&mut source);
    source.handle(now, SourceInput::CommitNotApplied(refusal()));
    assert_eq!(actions(&mut source), [], "the first may still be taken");
    source.handle(now, SourceInput::CommitNotApplied(refusal()));
    assert_eq!(actions(&mut source)[0], SourceAction::Thaw);
}

#[test]
fn after_the_commit_nothing_ends_the_move_but_the_targets_answer() {
    let mut source = source_in(Step::Activate);
    for input in [
        SourceInput::Failed(refusal()),
        SourceInput::Cancel,
        SourceInput::ServiceDied,
        SourceInput::CommitUnknown,
        SourceInput::CommitNotApplied(refusal()),
        SourceInput::CommitRefused { current: None },
    ] {
        source.handle(at(6), input);
        assert_eq!(actions(&mut source), []);
    }
    for _ in 0..100 {
        let now = source.poll_timeout().unwrap();
        source.handle(now, SourceInput::Timeout);
        assert_eq!(actions(&mut source), [SourceAction::AskActivate]);
    }
    let now = source.poll_timeout().unwrap();
    source.handle(now, SourceInput::Activated);
    assert_eq!(actions(&mut source), [SourceAction::SwapClients]);
}

#[test]
fn a_target_that_lost_the_state_after_the_commit_gets_it_again() {
    let mut source = source_in(Step::Activate);
    source.handle(at(10), SourceInput::NeverActivated);
    assert_eq!(
        actions(&mut source),
        [SourceAction::AskPrepare { again: true }]
    );
    source.handle(at(11), SourceInput::Prepared);
    assert_eq!(actions(&mut source), [SourceAction::CopyRound { round: 0 }]);
    // No second freeze, and no second commit.
    source.handle(at(12), SourceInput::RoundCopied { round: 0 });
    assert_eq!(actions(&mut source), [SourceAction::SendFinal]);
    source.handle(at(13), SourceInput::FinalStored { digest: DIGEST });
    assert_eq!(actions(&mut source), [SourceAction::AskActivate]);
    assert_eq!(source.step(), Step::Activate);
    source.handle(at(14), SourceInput::Activated);
    source.handle(at(15), SourceInput::Swapped);
    assert_eq!(
        actions(&mut source).last(),
        Some(&SourceAction::Finish(Ok(())))
    );
}

#[test]
fn a_state_that_both_sides_lost_is_said_to_be_lost() {
    let mut source = source_in(Step::Activate);
    source.handle(at(10), SourceInput::ServiceDied);
    source.handle(at(11), SourceInput::NeverActivated);
    assert_eq!(
        actions(&mut source),
        [
            SourceAction::Release,
            SourceAction::Finish(Err(MoveFailure::StateLost)),
        ]
    );
}

#[test]
fn another_digest_at_the_target_is_never_committed() {
    let mut source = source_in(Step::Final);
    let theirs = StateDigest([8; 32]);
    source.handle(at(9), SourceInput::FinalStored { digest: theirs });
    let done = actions(&mut source);
    assert_eq!(done[0], SourceAction::Thaw);
    assert!(matches!(
        done.last(),
        Some(SourceAction::Finish(Err(MoveFailure::Digest { .. })))
    ));
}

#[test]
fn a_service_that_dies_before_the_commit_is_not_thawed() {
    let mut source = source_in(Step::Final);
    source.handle(at(9), SourceInput::ServiceDied);
    assert_eq!(
        actions(&mut source),
        [
            SourceAction::Abandon,
            SourceAction::Finish(Err(MoveFailure::ServiceDied { step: Step::Final })),
        ]
    );
}

#[test]
fn late_answers_change_nothing() {
    let mut source = source_in(Step::Freeze);
    for input in [
        SourceInput::Prepared,
        SourceInput::RoundCopied { round: 0 },
        SourceInput::Committed,
        SourceInput::Activated,
        SourceInput::NeverActivated,
        SourceInput::Superseded { current: None },
        SourceInput::Swapped,
    ] {
        source.handle(at(9), input);
        assert_eq!(actions(&mut source), []);
        assert_eq!(source.step(), Step::Freeze);
    }
}
