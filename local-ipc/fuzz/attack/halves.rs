//! What stands in the header of a half, and what its descriptor really is.

use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, SealFlags};
use weft_local_ipc::*;
use weft_types::{Lane, PerLane, Sequence};

use super::liar::{all_seals, memory_file};
use super::program::{Step, parse};
use super::{Seen, name_of_fault, name_of_region_error};

/// Operations of a step: each lies about one thing.
pub(crate) mod op {
    /// The header's word `a`, or half of it: `b` is 1 for the lower, 2 for the upper.
    pub(crate) const HEADER: u8 = 0;
    pub(crate) const SEALS: u8 = 1;
    pub(crate) const SIZE: u8 = 2;
    pub(crate) const MEMORY: u8 = 3;
    /// A word anywhere.
    pub(crate) const WORD: u8 = 4;
    pub(super) const COUNT: u8 = 5;
}

/// No file is made larger than this, and none gets more memory than the next.
const MOST_BYTES: u64 = 8 << 30;
const MOST_MEMORY: u64 = 1 << 19;

/// Descriptors that claim to be a half.
pub(crate) fn halves(bytes: &[u8]) -> Seen {
    let ([size, follows, ..], steps) = parse(bytes);
    let geometry = Geometry {
        slots: 2 << (size & 3),
        slot_bytes: if size & 4 == 0 { 64 } else { 128 },
        arena_bytes: u32::from(size >> 3 & 1) * 4096,
        growth: u32::from(size >> 4 & 3),
    };
    let honest = OwnHalf::create(geometry, Start::default()).unwrap();
    let mut words = vec![0; geometry.base_bytes() as usize];
    let file = std::fs::File::from(honest.share().unwrap());
    file.read_exact_at(&mut words, 0).unwrap();

    let mut claim = Claim {
        words,
        seals: all_seals(),
        bytes: geometry.region_bytes(),
        memory: geometry.base_bytes(),
    };
    steps.for_each(|step| claim.step(step));
    let mut seen = Seen::new();
    match claim.open() {
        Ok(peer) => {
            seen.insert("open");
            let geometry = peer.geometry();
            assert_eq!(geometry.check().unwrap(), geometry);
            assert_eq!(geometry.region_bytes(), claim.bytes);
            assert!(claim.seals.contains(all_seals()));
            // Memory comes in pages.
            assert!(claim.memory.next_multiple_of(4096) >= geometry.base_bytes());
            use_it(peer, follows & 1 == 0, &mut seen);
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            seen.insert(name_of_region_error(&error));
        }
    }
    seen
}

struct Claim {
    /// The bytes of its beginning.
    words: Vec<u8>,
    seals: SealFlags,
    bytes: u64,
    memory: u64,
}

impl Claim {
    fn step(&mut self, step: Step) {
        match step.op % op::COUNT {
            op::HEADER => self.put(usize::from(step.a) % 12, step),
            op::WORD => {
                let word = usize::from(step.a) << 3 | usize::from(step.b) >> 5;
                self.put(word % (self.words.len() / 8), step);
            }
            op::SEALS => self.seals = SealFlags::from_bits_truncate(u32::from(step.a) & 0x1f),
            op::SIZE => self.bytes = step.value(self.bytes) % MOST_BYTES,
            _ => self.memory = step.value(self.memory) % MOST_MEMORY,
        }
    }

    fn put(&mut self, word: usize, step: Step) {
        let place = &mut self.words[8 * word..8 * word + 8];
        let old = u64::from_ne_bytes(place.try_into().unwrap());
        let (low, high) = (old & 0xffff_ffff, old >> 32);
        let new = match step.b & 3 {
            1 => high << 32 | step.value(low) & 0xffff_ffff,
            2 => low | step.value(high) << 32,
            _ => step.value(old),
        };
        place.copy_from_slice(&new.to_ne_bytes());
    }

    fn open(&self) -> Result<PeerHalf, RegionError> {
        let file = memory_file(self.bytes);
        let end = usize::try_from(self.bytes.min(self.memory).min(self.words.len() as u64));
        file.write_all_at(&self.words[..end.unwrap()], 0).unwrap();
        if self.memory > 0 {
            // Perhaps beyond its end, where it counts as well.
            let keep = FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(&file, keep, 0, self.memory).unwrap();
        }
        rustix::fs::fcntl_add_seals(&file, self.seals).unwrap();
        PeerHalf::open(file.into())
    }
}

/// Whatever its first words say, it can be read.
fn use_it(peer: PeerHalf, follows: bool, seen: &mut Seen) {
    for lane in Lane::ALL {
        assert!(peer.first(lane).get() <= MAX_SEQUENCE);
        assert!(peer.published(lane).get() <= MAX_SEQUENCE + 1);
        let _ = peer.published_from(lane, peer.first(lane));
    }
    let _ = peer.cursors();
    let small = Geometry {
        slots: 2,
        arena_bytes: 0,
        ..Geometry::DEFAULT.fixed()
    };
    let start = Start {
        outgoing: PerLane::default(),
        incoming: PerLane::from_fn(|lane| {
            if follows {
                peer.first(lane)
            } else {
                Sequence::ZERO
            }
        }),
    };
    let own = OwnHalf::create(small, start).unwrap();
    match connect(own, peer) {
        Ok((mut sender, mut receiver, _)) => {
            for lane in Lane::ALL {
                let _ = (sender.done(lane), receiver.ready());
                match receiver.try_receive_lane(lane, &mut Vec::new()) {
                    Ok(_) => receiver.finish(lane, Sequence::new(u64::MAX)),
                    Err(fault) => {
                        seen.insert(name_of_fault(&fault));
                    }
                }
            }
        }
        Err(ChannelError::Peer(fault)) => {
            seen.insert(name_of_fault(&fault));
        }
    }
}
