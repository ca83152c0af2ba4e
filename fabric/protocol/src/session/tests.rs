use super::*;

const CHANNEL: ChannelId = ChannelId::new(7);
const EPOCH: Epoch = Epoch::FIRST;
const WINDOW: Window = Window {
    messages: 4,
    bytes: 98_304,
};
const LANE: Lane = Lane::NORMAL;
const START: Duration = Duration::ZERO;

fn seq(value: u64) -> Sequence {
    Sequence::new(value)
}

fn point(expected: u64, done: u64) -> ResumePoint {
    let mut lanes = PerLane::<ResumeLane>::default();
    lanes[LANE] = ResumeLane {
        expected: seq(expected),
        done: seq(done),
        held_bytes: 0,
    };
    ResumePoint {
        lanes,
        window: WINDOW,
    }
}

fn session() -> Session {
    Session::new(CHANNEL, EPOCH, WINDOW, SessionStart::default())
}

/// A session whose ring holds `published` messages, connected to a peer that has nothing yet.
fn connected(published: u64) -> Session {
    let mut session = session();
    session.published(LANE, seq(published));
    session.connected(START, point(0, 0)).unwrap();
    session
}

fn send_all(session: &mut Session) {
    while let Some(send) = session.poll_send() {
        assert!(session.send(send.lane, send.from, 10).unwrap());
    }
}

#[test]
fn sending_stops_at_the_window_and_goes_on_with_the_acknowledgement() {
    let mut session = connected(10);
    assert_eq!(
        session.poll_send(),
        Some(Send {
            lane: LANE,
            from: seq(0),
            to: seq(4)
        })
    );
    send_all(&mut session);
    assert_eq!(session.poll_send(), None);
    session.acknowledged(LANE, seq(3)).unwrap();
    let advance = Output::AdvanceDone {
        lane: LANE,
        upto: seq(3),
    };
    assert_eq!(session.poll_output(START), Some(advance));
    assert_eq!(session.poll_output(START), None);
    assert_eq!(
        session.poll_send(),
        Some(Send {
            lane: LANE,
            from: seq(4),
            to: seq(7)
        })
    );
}

#[test]
fn a_body_waits_for_room_in_the_peers_arena() {
    let mut session = connected(3);
    assert!(session.send(LANE, seq(0), 90_000).unwrap());
    assert!(!session.send(LANE, seq(1), 90_000).unwrap());
    assert!(session.send(LANE, seq(1), 64).unwrap());
    session.acknowledged(LANE, seq(1)).unwrap();
    assert!(session.send(LANE, seq(2), 90_000).unwrap());
}

#[test]
fn what_a_peer_still_holds_counts_against_its_window_after_a_resume() {
    let mut session = session();
    session.published(LANE, seq(3));
    let mut peer = point(2, 1);
    peer.lanes[LANE].held_bytes = 90_048;
    session.connected(START, peer).unwrap();
    assert!(!session.send(LANE, seq(2), 90_000).unwrap());
    session.acknowledged(LANE, seq(2)).unwrap();
    assert!(session.send(LANE, seq(2), 90_000).unwrap());
}

#[test]
fn a_lost_connection_sends_what_was_not_acknowledged_once_more() {
    let mut session = connected(4);
    send_all(&mut session);
    session.acknowledged(LANE, seq(1)).unwrap();
    session.disconnected();
    assert_eq!(session.send_position(LANE), seq(1));
    // The peer got three of them and its receiver has done two.
    session.connected(START, point(3, 2)).unwrap();
    assert_eq!(
        session.poll_output(START),
        Some(Output::AdvanceDone {
            lane: LANE,
            upto: seq(2)
        })
    );
    assert_eq!(
        session.poll_send(),
        Some(Send {
            lane: LANE,
            from: seq(3),
            to: seq(4)
        })
    );
}

#[test]
fn nothing_goes_out_and_nothing_comes_in_without_a_connection() {
    let mut session = session();
    session.published(LANE, seq(3));
    assert_eq!(session.poll_send(), None);
    let refused = Err(SessionError::NotConnected { channel: CHANNEL });
    assert_eq!(session.received(LANE, seq(0), 1).map(|_| ()), refused);
    assert_eq!(session.acknowledged(LANE, seq(0)), refused);
}

#[test]
fn a_message_is_delivered_once_and_in_order() {
    let mut session = connected(0);
    assert_eq!(session.received(LANE, seq(0), 1), Ok(Received::Deliver));
    assert_eq!(session.received(LANE, seq(0), 1), Ok(Received::Duplicate));
    assert_eq!(
        session.received(LANE, seq(2), 1),
        Err(SessionError::Gap {
            channel: CHANNEL,
            lane: LANE,
            expected: seq(1),
            received: seq(2)
        })
    );
    assert_eq!(session.received(LANE, seq(1), 1), Ok(Received::Deliver));
    assert_eq!(
        session.received(Lane::URGENT, seq(0), 1),
        Ok(Received::Deliver)
    );
}

#[test]
fn acknowledgements_wait_for_company_but_not_longer_than_a_millisecond() {
    let mut session = connected(0);
    let _ = session.received(LANE, seq(0), 1).unwrap();
    session.local_done(START, LANE, seq(1)).unwrap();
    assert_eq!(session.poll_output(START), None);
    assert_eq!(session.poll_timeout(), Some(ACKNOWLEDGE_AFTER));
    let mut done = PerLane::<Sequence>::default();
    done[LANE] = seq(1);
    assert_eq!(
        session.poll_output(ACKNOWLEDGE_AFTER),
        Some(Output::Acknowledge { done })
    );
    assert_eq!(session.poll_timeout(), None);
    // Half a window goes at once.
    for sequence in 1..3 {
        let _ = session.received(LANE, seq(sequence), 1).unwrap();
    }
    session.local_done(START, LANE, seq(3)).unwrap();
    done[LANE] = seq(3);
    assert_eq!(
        session.poll_output(START),
        Some(Output::Acknowledge { done })
    );
}

#[test]
fn what_the_receiver_did_while_the_connection_was_lost_is_acknowledged_later() {
    let mut session = connected(0);
    let _ = session.received(LANE, seq(0), 1).unwrap();
    session.disconnected();
    session.local_done(START, LANE, seq(1)).unwrap();
    assert_eq!(session.poll_timeout(), None);
    let lane = session.resume_point().lanes[LANE];
    assert_eq!((lane.expected, lane.done), (seq(1), seq(1)));
    session.connected(START, point(0, 0)).unwrap();
    assert_eq!(session.poll_timeout(), None, "the resume point has told it");
}

#[test]
fn a_sender_that_overruns_the_window_is_refused() {
    let mut session = connected(0);
    for sequence in 0..4 {
        let _ = session.received(LANE, seq(sequence), 1).unwrap();
    }
    assert!(matches!(
        session.received(LANE, seq(4), 1),
        Err(SessionError::WindowOverrun { .. })
    ));
    let mut session = connected(0);
    let _ = session.received(LANE, seq(0), 90_000).unwrap();
    assert!(matches!(
        session.received(LANE, seq(1), 90_000),
        Err(SessionError::WindowOverrun { .. })
    ));
}

#[test]
fn impossible_acknowledgements_and_resumes_are_errors() {
    let mut session = connected(4);
    send_all(&mut session);
    assert!(matches!(
        session.acknowledged(LANE, seq(5)),
        Err(SessionError::AcknowledgedUnsent { .. })
    ));
    session.acknowledged(LANE, seq(3)).unwrap();
    assert!(matches!(
        session.acknowledged(LANE, seq(2)),
        Err(SessionError::AcknowledgedBack { .. })
    ));
    assert!(matches!(
        session.connected(START, point(4, 4)),
        Err(SessionError::StillConnected { .. })
    ));
    session.disconnected();
    let mut refused = |point| session.connected(START, point).unwrap_err();
    assert!(matches!(
        refused(point(4, 2)),
        SessionError::ResumeBelowDone { .. }
    ));
    assert!(matches!(
        refused(point(5, 4)),
        SessionError::ResumeAbovePublished { .. }
    ));
    assert!(matches!(
        refused(point(3, 4)),
        SessionError::ResumeDoneAheadOfExpected { .. }
    ));
    let mut useless = point(4, 4);
    useless.window.bytes = 1;
    assert!(matches!(
        refused(useless),
        SessionError::UselessWindow { .. }
    ));
    assert!(!session.is_connected());
    session.connected(START, point(4, 4)).unwrap();
}

#[test]
fn a_local_receiver_cannot_have_done_what_it_never_got() {
    let mut session = connected(0);
    let error = session.local_done(START, LANE, seq(1)).unwrap_err();
    assert!(matches!(error, SessionError::LocalDoneAhead { .. }));
    assert_eq!(error.side(), Side::Local);
}

#[test]
fn an_older_epoch_is_refused_with_moved_and_never_comes_back() {
    let mut session = session();
    session.set_epoch(EPOCH.next()).unwrap();
    let error = session.check_epoch(EPOCH).unwrap_err();
    assert_eq!(error.refusal().code, weft_types::RefusalCode::Moved);
    assert!(matches!(
        session.set_epoch(EPOCH),
        Err(SessionError::OldEpoch { .. })
    ));
    assert!(matches!(
        session.check_epoch(EPOCH.next().next()),
        Err(SessionError::UnknownEpoch { .. })
    ));
    session.connected(START, point(0, 0)).unwrap();
    assert!(matches!(
        session.set_epoch(EPOCH.next().next()),
        Err(SessionError::StillConnected { .. })
    ));
}

#[test]
fn a_window_leaves_room_for_the_hole_at_the_arenas_end() {
    let window = Window::for_ring(512, 256 * 1024).unwrap();
    assert_eq!(
        window,
        Window {
            messages: 512,
            bytes: 160 * 1024
        }
    );
    assert_eq!(Window::for_ring(512, 100 * 1024), None);
    assert_eq!(Window::for_ring(0, 256 * 1024), None);
}
