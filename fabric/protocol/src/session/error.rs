//! What can go wrong in a session, sorted by who is at fault.

use weft_types::{ChannelId, Epoch, Lane, Refusal, RefusalCode, Sequence};

use super::Window;

/// Who broke the protocol.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    /// The gateway at the other end of the wire.
    Peer,
    /// The local client or service, or the driver of the session.
    Local,
}

/// An input that a correct peer, or a correct local side, never gives.
///
/// The session is unchanged by the input. A channel does not go on after any of these but
/// [`SessionError::OldEpoch`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SessionError {
    /// A frame of an owner that is no more.
    #[error("{channel} is in {ours}, the frame is from {theirs}")]
    OldEpoch {
        /// The channel.
        channel: ChannelId,
        /// The epoch of the session.
        ours: Epoch,
        /// The epoch of the frame.
        theirs: Epoch,
    },
    /// A frame of an owner that this side has not heard of.
    #[error("{channel} is in {ours}, the frame claims {theirs}")]
    UnknownEpoch {
        /// The channel.
        channel: ChannelId,
        /// The epoch of the session.
        ours: Epoch,
        /// The epoch of the frame.
        theirs: Epoch,
    },
    /// Something that only a connected channel can get.
    #[error("{channel} has no connection")]
    NotConnected {
        /// The channel.
        channel: ChannelId,
    },
    /// Something that only a disconnected channel can get.
    #[error("{channel} has a connection already")]
    StillConnected {
        /// The channel.
        channel: ChannelId,
    },
    /// The peer offers a window that would stop the lane for ever.
    #[error("{channel}: a window of {} messages and {} bytes takes no full message", window.messages, window.bytes)]
    UselessWindow {
        /// The channel.
        channel: ChannelId,
        /// What was offered.
        window: Window,
    },
    /// The peer resumes below what it had acknowledged: it has lost its state.
    #[error("{channel} {lane}: the peer resumes at {theirs}, but had acknowledged up to {ours}")]
    ResumeBelowDone {
        /// The channel.
        channel: ChannelId,
        /// The lane.
        lane: Lane,
        /// What is acknowledged.
        ours: Sequence,
        /// What the peer says now.
        theirs: Sequence,
    },
    /// The peer expects a message beyond the last that exists.
    #[error("{channel} {lane}: the peer expects {theirs}, but only up to {ours} exists")]
    ResumeAbovePublished {
        /// The channel.
        channel: ChannelId,
        /// The lane.
        lane: Lane,
        /// The end of what exists.
        ours: Sequence,
        /// What the peer says.
        theirs: Sequence,
    },
    /// The peer's receiver claims to have done what has not been delivered to it.
    #[error("{channel} {lane}: the peer is done up to {done}, but expects {expected}")]
    ResumeDoneAheadOfExpected {
        /// The channel.
        channel: ChannelId,
        /// The lane.
        lane: Lane,
        /// Done, as the peer says.
        done: Sequence,
        /// Expected, as the peer says.
        expected: Sequence,
    },
    /// The peer acknowledges what was never sent to it.
    #[error("{channel} {lane}: {theirs} is acknowledged, but only up to {ours} was sent")]
    AcknowledgedUnsent {
        /// The channel.
        channel: ChannelId,
        /// The lane.
        lane: Lane,
        /// The end of what was sent.
        ours: Sequence,
        /// What is acknowledged.
        theirs: Sequence,
    },
    /// The peer takes an acknowledgement back.
    #[error("{channel} {lane}: {theirs} is acknowledged after {ours}")]
    AcknowledgedBack {
        /// The channel.
        channel: ChannelId,
        /// The lane.
        lane: Lane,
        /// What was acknowledged before.
        ours: Sequence,
        /// What is acknowledged now.
        theirs: Sequence,
    },
    /// Messages are missing between the last one and this.
    #[error("{channel} {lane}: {expected} is next, but {received} has come")]
    Gap {
        /// The channel.
        channel: ChannelId,
        /// The lane.
        lane: Lane,
        /// What comes next.
        expected: Sequence,
        /// What has come.
        received: Sequence,
    },
    /// The peer sends more than its window allows.
    #[error("{channel} {lane}: {received} overruns the window")]
    WindowOverrun {
        /// The channel.
        channel: ChannelId,
        /// The lane.
        lane: Lane,
        /// The message that is too much.
        received: Sequence,
    },
    /// The local receiver claims to have done what was never delivered.
    #[error(
        "{channel} {lane}: the local receiver is done up to {done}, but only up to {expected} was delivered"
    )]
    LocalDoneAhead {
        /// The channel.
        channel: ChannelId,
        /// The lane.
        lane: Lane,
        /// Done, as the local cursor page says.
        done: Sequence,
        /// The end of what was delivered.
        expected: Sequence,
    },
    /// The driver sends out of turn.
    #[error("{channel} {lane}: {sequence} is not the next message to send")]
    NotSendable {
        /// The channel.
        channel: ChannelId,
        /// The lane.
        lane: Lane,
        /// The message.
        sequence: Sequence,
    },
}

impl SessionError {
    /// Who is at fault.
    #[must_use]
    pub fn side(&self) -> Side {
        match self {
            Self::OldEpoch { .. }
            | Self::UnknownEpoch { .. }
            | Self::UselessWindow { .. }
            | Self::ResumeBelowDone { .. }
            | Self::ResumeAbovePublished { .. }
            | Self::ResumeDoneAheadOfExpected { .. }
            | Self::AcknowledgedUnsent { .. }
            | Self::AcknowledgedBack { .. }
            | Self::Gap { .. }
            | Self::WindowOverrun { .. } => Side::Peer,
            Self::NotConnected { .. }
            | Self::StillConnected { .. }
            | Self::LocalDoneAhead { .. }
            | Self::NotSendable { .. } => Side::Local,
        }
    }

    /// What the other side of the channel is told.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        let code = match self {
            Self::OldEpoch { .. } => RefusalCode::Moved,
            Self::UnknownEpoch { .. } => RefusalCode::Busy,
            Self::NotConnected { .. } | Self::StillConnected { .. } | Self::NotSendable { .. } => {
                RefusalCode::Internal
            }
            Self::UselessWindow { .. }
            | Self::ResumeBelowDone { .. }
            | Self::ResumeAbovePublished { .. }
            | Self::ResumeDoneAheadOfExpected { .. }
            | Self::AcknowledgedUnsent { .. }
            | Self::AcknowledgedBack { .. }
            | Self::Gap { .. }
            | Self::WindowOverrun { .. }
            | Self::LocalDoneAhead { .. } => RefusalCode::PeerFault,
        };
        Refusal::new(code, self.to_string())
    }
}

/// A [`SessionError`] of one lane that does not know its channel yet.
#[derive(Clone, Copy, Debug)]
pub(super) enum LaneError {
    ResumeBelowDone {
        ours: Sequence,
        theirs: Sequence,
    },
    ResumeAbovePublished {
        ours: Sequence,
        theirs: Sequence,
    },
    ResumeDoneAheadOfExpected {
        done: Sequence,
        expected: Sequence,
    },
    AcknowledgedUnsent {
        ours: Sequence,
        theirs: Sequence,
    },
    AcknowledgedBack {
        ours: Sequence,
        theirs: Sequence,
    },
    Gap {
        expected: Sequence,
        received: Sequence,
    },
    WindowOverrun {
        received: Sequence,
    },
    LocalDoneAhead {
        done: Sequence,
        expected: Sequence,
    },
}

impl LaneError {
    pub(super) fn on(self, channel: ChannelId, lane: Lane) -> SessionError {
        match self {
            Self::ResumeBelowDone { ours, theirs } => SessionError::ResumeBelowDone {
                channel,
                lane,
                ours,
                theirs,
            },
            Self::ResumeAbovePublished { ours, theirs } => SessionError::ResumeAbovePublished {
                channel,
                lane,
                ours,
                theirs,
            },
            Self::ResumeDoneAheadOfExpected { done, expected } => {
                SessionError::ResumeDoneAheadOfExpected {
                    channel,
                    lane,
                    done,
                    expected,
                }
            }
            Self::AcknowledgedUnsent { ours, theirs } => SessionError::AcknowledgedUnsent {
                channel,
                lane,
                ours,
                theirs,
            },
            Self::AcknowledgedBack { ours, theirs } => SessionError::AcknowledgedBack {
                channel,
                lane,
                ours,
                theirs,
            },
            Self::Gap { expected, received } => SessionError::Gap {
                channel,
                lane,
                expected,
                received,
            },
            Self::WindowOverrun { received } => SessionError::WindowOverrun {
                channel,
                lane,
                received,
            },
            Self::LocalDoneAhead { done, expected } => SessionError::LocalDoneAhead {
                channel,
                lane,
                done,
                expected,
            },
        }
    }
}
