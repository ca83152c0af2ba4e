//! The control stream: opening, resuming, acknowledging and closing channels.

use serde::{Deserialize, Serialize};
use weft_types::{
    ChannelId, ClusterName, Epoch, NodeName, PerLane, Refusal, Sequence, ServiceName,
};

use super::WireError;
use crate::session::ResumePoint;

/// The longest control frame, in bytes. A longer one ends the connection.
pub const MAX_CONTROL_BYTES: usize = 64 * 1024;

/// The longest type table, in bytes as its contract encodes it.
pub const MAX_TABLE_BYTES: usize = 32 * 1024;

/// The longest text of a refusal, in bytes. The encoder cuts longer ones.
pub const MAX_REFUSAL_BYTES: usize = 2 * 1024;

/// How many certificates a chain may have.
const MAX_CHAIN: usize = 8;

/// The longest certificate or signature, in bytes.
const MAX_CERTIFICATE_BYTES: usize = 4 * 1024;

/// One frame of the control stream.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Control {
    /// The first frame of each side.
    Hello {
        /// [`super::VERSION`] of who says it.
        version: u16,
        /// The cluster; must be our own.
        cluster: ClusterName,
        /// The node; must be the one that the certificate names.
        node: NodeName,
        /// Random for each process: tells a restarted gateway from one that dials twice.
        incarnation: u64,
    },
    /// Opens a channel, or opens it anew after a lost connection, a restart or a move.
    Open(Box<Open>),
    /// The answer to `Open`: the channel is carried.
    Opened {
        /// The channel.
        channel: ChannelId,
        /// The number of the `Open` that this answers.
        attempt: u64,
        /// The epoch in which the service serves.
        epoch: Epoch,
        /// Where the requests stand.
        resume: ResumePoint,
    },
    /// The answer to `Open`: no.
    Refused {
        /// The channel.
        channel: ChannelId,
        /// The number of the `Open` that this answers.
        attempt: u64,
        /// Why.
        refusal: Refusal,
    },
    /// The local receiver of who says this has done its work up to here. The direction is always
    /// the one that flows towards who says it.
    Acknowledge {
        /// The channel.
        channel: ChannelId,
        /// The opening that this belongs to.
        attempt: u64,
        /// The epoch of the opening.
        epoch: Epoch,
        /// For each lane, one past the last message that is done.
        done: PerLane<Sequence>,
    },
    /// The channel is over.
    Close {
        /// The channel.
        channel: ChannelId,
        /// The opening that this belongs to.
        attempt: u64,
        /// Why.
        refusal: Refusal,
    },
    /// The service lives elsewhere now; the client's node asks the directory and opens there.
    Moved {
        /// The channel.
        channel: ChannelId,
        /// The opening that this belongs to.
        attempt: u64,
        /// The epoch of the new owner.
        epoch: Epoch,
        /// The node of the new owner.
        node: NodeName,
    },
}

/// Who asks for what, and where the replies stand.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Open {
    /// The channel.
    pub channel: ChannelId,
    /// Numbers the openings by this gateway; larger than any before of this channel on this
    /// connection.
    pub attempt: u64,
    /// The service that is asked for.
    pub target: ServiceName,
    /// The epoch of its owner as the client's node knows it.
    pub epoch: Epoch,
    /// The client's type table, as the contract encodes it.
    pub table: Vec<u8>,
    /// The right to open.
    pub presented: PresentedBytes,
    /// Where the replies stand.
    pub resume: ResumePoint,
    /// Whether the channel has been carried before, by this gateway or a former one. Who has nothing of
    /// it then refuses: taken for a new one, it would bring requests that were handled once more.
    pub resumed: bool,
}

/// A capability with the proof that it is the presenter's own. Checked by who admits, not here.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct PresentedBytes {
    /// DER certificates, the capability first.
    pub capability_chain: Vec<Vec<u8>>,
    /// DER certificates, the instance first.
    pub identity_chain: Vec<Vec<u8>>,
    /// The instance's signature over channel, chain and TLS session.
    pub signature: Vec<u8>,
}

/// Reads the length in front of a control frame.
///
/// # Errors
///
/// [`WireError::TooLong`] beyond [`MAX_CONTROL_BYTES`].
pub fn control_length(prefix: [u8; 4]) -> Result<usize, WireError> {
    let bytes = u32::from_le_bytes(prefix) as usize;
    if bytes > MAX_CONTROL_BYTES {
        return Err(WireError::TooLong {
            what: "a control frame",
            bytes,
            limit: MAX_CONTROL_BYTES,
        });
    }
    Ok(bytes)
}

/// Encodes a frame with its length in front, and appends it to `out`.
///
/// # Errors
///
/// [`WireError::TooLong`] if a part is longer than the decoder at the other end takes; `out` is
/// unchanged then.
pub fn encode_control(frame: &Control, out: &mut Vec<u8>) -> Result<(), WireError> {
    check_parts(frame)?;
    let malformed = |_| WireError::Malformed {
        what: "a control frame",
    };
    let body = match frame {
        Control::Refused {
            channel,
            attempt,
            refusal,
        } => postcard::to_stdvec(&Control::Refused {
            channel: *channel,
            attempt: *attempt,
            refusal: cut(refusal),
        }),
        Control::Close {
            channel,
            attempt,
            refusal,
        } => postcard::to_stdvec(&Control::Close {
            channel: *channel,
            attempt: *attempt,
            refusal: cut(refusal),
        }),
        other => postcard::to_stdvec(other),
    }
    .map_err(malformed)?;
    let too_long = WireError::TooLong {
        what: "a control frame",
        bytes: body.len(),
        limit: MAX_CONTROL_BYTES,
    };
    if body.len() > MAX_CONTROL_BYTES {
        return Err(too_long);
    }
    let length = u32::try_from(body.len()).map_err(|_| too_long)?;
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&body);
    Ok(())
}

/// Decodes the body of one control frame, all of it.
///
/// # Errors
///
/// [`WireError`], whatever the bytes are.
pub fn decode_control(bytes: &[u8]) -> Result<Control, WireError> {
    if bytes.len() > MAX_CONTROL_BYTES {
        return Err(WireError::TooLong {
            what: "a control frame",
            bytes: bytes.len(),
            limit: MAX_CONTROL_BYTES,
        });
    }
    let malformed = WireError::Malformed {
        what: "a control frame",
    };
    let (frame, rest) = postcard::take_from_bytes(bytes).map_err(|_| malformed.clone())?;
    if !rest.is_empty() {
        return Err(malformed);
    }
    check_parts(&frame)?;
    if let Control::Refused { refusal, .. } | Control::Close { refusal, .. } = &frame {
        within(
            "the text of a refusal",
            refusal.text.len(),
            MAX_REFUSAL_BYTES,
        )?;
    }
    Ok(frame)
}

fn check_parts(frame: &Control) -> Result<(), WireError> {
    let Control::Open(open) = frame else {
        return Ok(());
    };
    within("a type table", open.table.len(), MAX_TABLE_BYTES)?;
    let presented = &open.presented;
    for chain in [&presented.capability_chain, &presented.identity_chain] {
        within("a chain (in certificates)", chain.len(), MAX_CHAIN)?;
        for certificate in chain {
            within("a certificate", certificate.len(), MAX_CERTIFICATE_BYTES)?;
        }
    }
    within(
        "a signature",
        presented.signature.len(),
        MAX_CERTIFICATE_BYTES,
    )
}

fn within(what: &'static str, bytes: usize, limit: usize) -> Result<(), WireError> {
    if bytes > limit {
        Err(WireError::TooLong { what, bytes, limit })
    } else {
        Ok(())
    }
}

/// The refusal with its text cut to what the decoder takes.
fn cut(refusal: &Refusal) -> Refusal {
    let mut end = refusal.text.len().min(MAX_REFUSAL_BYTES);
    while !refusal.text.is_char_boundary(end) {
        end -= 1;
    }
    Refusal::new(refusal.code, &refusal.text[..end])
}

#[cfg(test)]
mod tests {
    use weft_types::RefusalCode;

    use super::*;
    use crate::session::{ResumeLane, Window};

    fn open() -> Open {
        let mut lanes = PerLane::<ResumeLane>::default();
        lanes.0[2].expected = Sequence::new(u64::MAX);
        Open {
            channel: ChannelId::new(u128::MAX - 5),
            attempt: 3,
            target: ServiceName::new("node/n2").unwrap(),
            epoch: Epoch::new(9),
            table: vec![1; 500],
            presented: PresentedBytes {
                capability_chain: vec![vec![2; 700]; 3],
                identity_chain: vec![vec![3; 700]; 2],
                signature: vec![4; 72],
            },
            resume: ResumePoint {
                lanes,
                window: Window {
                    messages: 512,
                    bytes: 160 * 1024,
                },
            },
            resumed: true,
        }
    }

    fn round_trip(frame: &Control) -> Control {
        let mut bytes = Vec::new();
        encode_control(frame, &mut bytes).unwrap();
        let length = control_length(bytes[..4].try_into().unwrap()).unwrap();
        assert_eq!(length, bytes.len() - 4);
        decode_control(&bytes[4..]).unwrap()
    }

    #[test]
    fn every_frame_comes_back_as_it_went() {
        let (channel, attempt) = (ChannelId::new(5), 7);
        let node = NodeName::new("n1").unwrap();
        let frames = [
            Control::Hello {
                version: super::super::VERSION,
                cluster: ClusterName::new("shop").unwrap(),
                node: node.clone(),
                incarnation: 4,
            },
            Control::Open(Box::new(open())),
            Control::Opened {
                channel,
                attempt,
                epoch: Epoch::FIRST,
                resume: open().resume,
            },
            Control::Refused {
                channel,
                attempt,
                refusal: Refusal::new(RefusalCode::NoGrant, "no"),
            },
            Control::Acknowledge {
                channel,
                attempt,
                epoch: Epoch::FIRST,
                done: PerLane([Sequence::new(300); 4]),
            },
            Control::Close {
                channel,
                attempt,
                refusal: Refusal::new(RefusalCode::Closed, ""),
            },
            Control::Moved {
                channel,
                attempt,
                epoch: Epoch::new(2),
                node,
            },
        ];
        for frame in frames {
            assert_eq!(round_trip(&frame), frame);
        }
    }

    #[test]
    fn what_is_too_long_is_refused_on_both_sides() {
        let mut long = open();
        long.table = vec![0; MAX_TABLE_BYTES + 1];
        let frame = Control::Open(Box::new(long));
        let mut out = Vec::new();
        assert!(matches!(
            encode_control(&frame, &mut out),
            Err(WireError::TooLong { .. })
        ));
        assert!(out.is_empty());
        let bytes = postcard::to_stdvec(&frame).unwrap();
        assert!(matches!(
            decode_control(&bytes),
            Err(WireError::TooLong { .. })
        ));
        assert!(control_length((MAX_CONTROL_BYTES as u32 + 1).to_le_bytes()).is_err());
    }

    #[test]
    fn a_long_refusal_is_cut_at_a_character() {
        let text = "ß".repeat(MAX_REFUSAL_BYTES);
        let frame = Control::Close {
            channel: ChannelId::new(1),
            attempt: 1,
            refusal: Refusal::new(RefusalCode::Closed, text),
        };
        let Control::Close { refusal, .. } = round_trip(&frame) else {
            panic!("another frame")
        };
        assert_eq!(refusal.text.len(), MAX_REFUSAL_BYTES);
    }

    #[test]
    fn bytes_after_a_frame_are_an_error() {
        let mut bytes = Vec::new();
        encode_control(&Control::Open(Box::new(open())), &mut bytes).unwrap();
        bytes.push(0);
        assert!(matches!(
            decode_control(&bytes[4..]),
            Err(WireError::Malformed { .. })
        ));
    }
}
