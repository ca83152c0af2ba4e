use super::*;

const DIGEST: StateDigest = StateDigest([7; 32]);
const ID: MoveId = MoveId::new(5);

fn at(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn target() -> MoveTarget {
    MoveTarget::new(
        ID,
        ServiceName::new("kv").unwrap(),
        NodeName::new("n1").unwrap(),
        NodeName::new("n2").unwrap(),
        Epoch::FIRST,
        at(0),
    )
}

fn actions(target: &mut MoveTarget) -> Vec<TargetAction> {
    std::iter::from_fn(|| target.poll_action()).collect()
}

fn sealed() -> MoveTarget {
    let mut target = target();
    target.handle(at(1), TargetInput::InstanceReady);
    target.handle(at(2), TargetInput::StateStored { digest: DIGEST });
    assert_eq!(target.state(), TargetState::Sealed);
    actions(&mut target);
    target
}

fn entry(node: &str, epoch: u64, by: Option<MoveId>) -> Option<Entry> {
    Some(Entry {
        node: NodeName::new(node).unwrap(),
        epoch: Epoch::new(epoch),
        by,
    })
}

fn refusal() -> Refusal {
    Refusal::new(RefusalCode::Storage, "disk full")
}

#[test]
fn a_target_serves_after_the_word_of_its_source_and_writes_it_down_first() {
    let mut target = target();
    target.handle(at(1), TargetInput::InstanceReady);
    target.handle(at(2), TargetInput::StateStored { digest: DIGEST });
    target.handle(at(3), TargetInput::ActivateAsked);
    assert_eq!(
        actions(&mut target),
        [
            TargetAction::StartInstance,
            TargetAction::TellPrepared,
            TargetAction::TellStored { digest: DIGEST },
            TargetAction::RecordActivation,
        ]
    );
    target.handle(at(4), TargetInput::ActivationRecorded);
    assert_eq!(actions(&mut target), [TargetAction::Activate]);
    target.handle(at(5), TargetInput::Activated);
    assert_eq!(
        actions(&mut target),
        [TargetAction::TellActivated, TargetAction::Finish(Ok(()))]
    );
    // The answer was lost; the source asks again, and even an abandon comes too late.
    target.handle(at(6), TargetInput::ActivateAsked);
    target.handle(at(6), TargetInput::Abandoned);
    assert_eq!(actions(&mut target), [TargetAction::TellActivated]);
    assert_eq!(target.poll_timeout(), None);
}

#[test]
fn a_target_that_is_not_sealed_gives_up_on_a_silent_source() {
    for ready in [false, true] {
        let mut target = target();
        if ready {
            target.handle(at(1), TargetInput::InstanceReady);
        }
        actions(&mut target);
        target.handle(at(2), TargetInput::SourceHeard);
        let now = target.poll_timeout().unwrap();
        target.handle(now, TargetInput::Timeout);
        assert_eq!(target.state(), TargetState::Dropped);
        assert_eq!(actions(&mut target)[0], TargetAction::DropInstance);
        target.handle(now, TargetInput::ActivateAsked);
        assert_eq!(actions(&mut target), [TargetAction::TellNeverActivated]);
    }
}

#[test]
fn a_sealed_target_never_drops_by_itself_but_asks_the_directory() {
    let mut target = sealed();
    for _ in 0..1000 {
        let now = target.poll_timeout().unwrap();
        target.handle(now, TargetInput::Timeout);
        assert_eq!(
            actions(&mut target),
            [TargetAction::AskDirectory, TargetAction::AskSource]
        );
        // Still the source's, or what a reader that lags behind says.
        for current in [entry("n1", 1, None), entry("n3", 0, None)] {
            target.handle(now, TargetInput::DirectoryAnswered { current });
        }
        assert_eq!(target.state(), TargetState::Sealed);
    }
}

#[test]
fn a_sealed_target_with_a_dead_source_takes_over_if_the_directory_names_its_move() {
    let mut target = sealed();
    target.handle(
        at(9),
        TargetInput::DirectoryAnswered {
            current: entry("n2", 2, Some(ID)),
        },
    );
    assert_eq!(actions(&mut target), [TargetAction::RecordActivation]);
}

#[test]
fn another_move_to_the_same_node_does_not_wake_a_stale_copy() {
    for current in [
        entry("n2", 2, Some(MoveId::new(6))),
        entry("n1", 2, None),
        entry("n3", 4, Some(MoveId::new(6))),
        None,
    ] {
        let mut target = sealed();
        target.handle(
            at(9),
            TargetInput::DirectoryAnswered {
                current: current.clone(),
            },
        );
        assert_eq!(target.state(), TargetState::Dropped);
        actions(&mut target);
        target.handle(at(10), TargetInput::ActivateAsked);
        assert_eq!(
            actions(&mut target),
            [TargetAction::TellSuperseded { current }]
        );
    }
}

#[test]
fn an_instance_that_dies_before_the_record_has_never_served() {
    let mut target = sealed();
    target.handle(at(9), TargetInput::InstanceDied);
    assert_eq!(target.state(), TargetState::Dropped);
    actions(&mut target);
    target.handle(at(10), TargetInput::ActivateAsked);
    assert_eq!(actions(&mut target), [TargetAction::TellNeverActivated]);
}

#[test]
fn an_instance_that_dies_during_the_record_has_served_if_the_record_says_so() {
    let mut target = sealed();
    target.handle(at(9), TargetInput::ActivateAsked);
    target.handle(at(9), TargetInput::InstanceDied);
    actions(&mut target);
    target.handle(at(10), TargetInput::ActivationRecorded);
    assert_eq!(
        actions(&mut target),
        [TargetAction::TellActivated, TargetAction::Finish(Ok(()))]
    );

    let mut target = sealed();
    target.handle(at(9), TargetInput::ActivateAsked);
    target.handle(at(9), TargetInput::InstanceDied);
    target.handle(at(10), TargetInput::Failed(refusal()));
    assert_eq!(target.state(), TargetState::Dropped);
}

#[test]
fn a_full_disk_delays_the_activation_and_loses_nothing() {
    let mut target = sealed();
    target.handle(at(9), TargetInput::ActivateAsked);
    target.handle(at(10), TargetInput::Failed(refusal()));
    assert_eq!(target.state(), TargetState::Sealed);
    actions(&mut target);
    target.handle(at(11), TargetInput::ActivateAsked);
    assert_eq!(actions(&mut target), [TargetAction::RecordActivation]);
}

#[test]
fn an_abandoned_target_drops_its_copy_before_it_serves() {
    let mut target = sealed();
    target.handle(at(9), TargetInput::Abandoned);
    assert_eq!(
        actions(&mut target),
        [
            TargetAction::DropInstance,
            TargetAction::Finish(Err(MoveFailure::Cancelled)),
        ]
    );
}

#[test]
fn a_target_that_was_sent_the_state_again_asks_the_directory_before_it_serves() {
    let fresh = || {
        let mut target = target().sent_again();
        target.handle(at(1), TargetInput::InstanceReady);
        target.handle(at(2), TargetInput::StateStored { digest: DIGEST });
        actions(&mut target);
        target.handle(at(3), TargetInput::ActivateAsked);
        assert_eq!(actions(&mut target), [TargetAction::AskDirectory]);
        target
    };
    let mut owner = fresh();
    let current = entry("n2", 2, Some(ID));
    owner.handle(at(4), TargetInput::DirectoryAnswered { current });
    assert_eq!(actions(&mut owner), [TargetAction::RecordActivation]);

    let mut late = fresh();
    let current = entry("n3", 4, None);
    late.handle(at(4), TargetInput::DirectoryAnswered { current });
    assert_eq!(late.state(), TargetState::Dropped);
}
