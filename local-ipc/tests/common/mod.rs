//! What the tests share: two connected ends, numbered bodies, a child process.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(dead_code, reason = "each test crate uses its part")]

pub(crate) mod other;
pub(crate) mod regions;

use weft_local_ipc::*;
use weft_types::{MessageKind, Sequence, TypeIndex};

/// One end of a channel.
pub(crate) struct End {
    pub(crate) sender: Sender,
    pub(crate) receiver: Receiver,
    pub(crate) swapper: Swapper,
}

impl End {
    pub(crate) fn connect(own: OwnHalf, peer: PeerHalf) -> Self {
        let (sender, receiver, swapper) = connect(own, peer).unwrap();
        Self {
            sender,
            receiver,
            swapper,
        }
    }

    /// A new peer for the survivor behind `swapper`, swapped in.
    pub(crate) fn succeed(swapper: &Swapper, start: Start) -> Self {
        let survivor = PeerHalf::open(swapper.share().unwrap()).unwrap();
        let own = OwnHalf::create(survivor.geometry(), start).unwrap();
        let shared = PeerHalf::open(own.share().unwrap()).unwrap();
        let end = Self::connect(own, survivor);
        swapper.swap(shared);
        end
    }
}

pub(crate) fn channel(geometry: Geometry) -> (End, End) {
    channel_with(geometry, Start::default(), Start::default())
}

pub(crate) fn channel_with(geometry: Geometry, one: Start, other: Start) -> (End, End) {
    let a = OwnHalf::create(geometry, one).unwrap();
    let b = OwnHalf::create(geometry, other).unwrap();
    let peer_of_a = PeerHalf::open(b.share().unwrap()).unwrap();
    let peer_of_b = PeerHalf::open(a.share().unwrap()).unwrap();
    (End::connect(a, peer_of_a), End::connect(b, peer_of_b))
}

pub(crate) fn tell() -> Header {
    Header {
        kind: MessageKind::Tell,
        type_index: TypeIndex::new(0),
        correlation: Sequence::ZERO,
        has_descriptors: false,
    }
}

pub(crate) fn number(n: u64) -> [u8; 8] {
    n.to_le_bytes()
}

pub(crate) fn numbered(body: &[u8]) -> u64 {
    u64::from_le_bytes(body[..8].try_into().unwrap())
}
