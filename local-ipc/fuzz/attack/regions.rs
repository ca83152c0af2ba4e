//! What is handed over as a region, and what it really is.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use weft_local_ipc::region::{FileRegion, Frozen, Handed};

use super::liar::memory_file;
use super::program::{Step, parse};
use super::{Seen, name_of_region_error};

/// Operations of a step.
pub(crate) mod op {
    pub(crate) const COPY: u8 = 0;
    pub(crate) const OBJECT: u8 = 1;
    pub(crate) const READ: u8 = 2;
    pub(super) const COUNT: u8 = 3;
}

/// What a descriptor is, by the lower bits of the head's first byte.
pub(crate) mod kind {
    pub(crate) const MEMORY: u8 = 0;
    pub(crate) const HOLES: u8 = 1;
    pub(crate) const PIPE: u8 = 2;
    pub(crate) const UNSEALABLE: u8 = 3;
    pub(super) const COUNT: u8 = 4;
}

/// The most that the reader wants.
const MOST_BYTES: u64 = 40_000;

/// Descriptors that claim to be a region, read every way there is.
pub(crate) fn regions(bytes: &[u8]) -> Seen {
    let ([what, seals, small, large], steps) = parse(bytes);
    let size = u64::from(small) | u64::from(large) << 8;
    let content: Vec<u8> = (0..size).map(|at| (at ^ at >> 8) as u8).collect();
    let seals = SealFlags::from_bits_truncate(u32::from(seals) & 0x3f);
    let fd = descriptor(what % kind::COUNT, size, &content, seals);
    // Some seals bring others along.
    let seals = rustix::fs::fcntl_get_seals(&fd).unwrap_or(SealFlags::empty());

    let mut seen = Seen::new();
    let mut tell = |error| {
        seen.insert(name_of_region_error(&error));
    };
    let handed = Handed::open(&fd, MOST_BYTES).map_err(&mut tell).ok();
    let frozen = Frozen::open(fd.try_clone().unwrap(), MOST_BYTES)
        .map_err(&mut tell)
        .ok();
    let file = FileRegion::open(fd).map_err(&mut tell).ok();
    let content = if what % kind::COUNT == kind::HOLES {
        vec![0; content.len()]
    } else {
        content
    };
    if let Some(region) = &handed {
        assert!(seals.contains(SealFlags::SHRINK));
        assert!(seals.intersects(SealFlags::FUTURE_WRITE | SealFlags::WRITE));
        assert_eq!(region.len(), content.len());
        assert!(!region.is_empty());
        seen.insert("handed");
    }
    if let Some(region) = &frozen {
        assert!(seals.contains(SealFlags::SHRINK | SealFlags::WRITE));
        assert_eq!(region[..], content);
        seen.insert("frozen");
    }
    if file.is_some() {
        seen.insert("file");
    }
    for step in steps {
        read(
            step,
            &content,
            handed.as_ref(),
            frozen.as_ref(),
            file.as_ref(),
        );
    }
    seen
}

fn descriptor(what: u8, size: u64, content: &[u8], seals: SealFlags) -> OwnedFd {
    if what == kind::PIPE {
        return std::io::pipe().unwrap().0.into();
    }
    if what == kind::UNSEALABLE {
        let memory = rustix::fs::memfd_create("no seals", MemfdFlags::CLOEXEC).unwrap();
        let mut file = File::from(memory);
        file.write_all(content).unwrap();
        file.seek(SeekFrom::Start(7)).unwrap();
        return file.into();
    }
    let file = memory_file(size);
    if what == kind::MEMORY {
        file.write_all_at(content, 0).unwrap();
    } else if size > 1 {
        // Half of its memory, or all of it, beyond its end.
        let keep = FallocateFlags::KEEP_SIZE;
        let bytes = size / (1 + (size & 1));
        rustix::fs::fallocate(&file, keep, size.next_multiple_of(4096), bytes).unwrap();
    }
    rustix::fs::fcntl_add_seals(&file, seals).unwrap();
    file.into()
}

fn read(
    step: Step,
    content: &[u8],
    handed: Option<&Handed>,
    frozen: Option<&Frozen>,
    file: Option<&FileRegion>,
) {
    let offset = usize::try_from(step.value(content.len() as u64)).unwrap();
    let mut copy = vec![0; usize::from(step.a) | usize::from(step.b & 15) << 8];
    let expected = offset
        .checked_add(copy.len())
        .and_then(|end| content.get(offset..end));
    match step.op % op::COUNT {
        op::COPY => {
            if let Some(region) = handed {
                assert_eq!(region.copy_to(offset, &mut copy), expected.is_some());
                assert!(expected.is_none_or(|expected| copy == expected));
            }
            if let Some(region) = file {
                let copied = region.copy_to(offset as u64, &mut copy).is_ok();
                // Nothing can be read anywhere.
                assert_eq!(copied, expected.is_some() || copy.is_empty());
                assert!(expected.is_none_or(|expected| copy == expected));
            }
        }
        op::OBJECT => {
            if let Some(region) = frozen {
                let bytes = content.get(offset..).and_then(|bytes| bytes.first_chunk());
                let object = region.object::<[u8; 40]>(offset);
                assert_eq!(object, bytes);
                let aligned = offset.is_multiple_of(8) && bytes.is_some();
                let words = region.object::<[u64; 5]>(offset);
                assert_eq!(words.is_some(), aligned);
            }
        }
        _ => {
            if let Some(region) = handed {
                let bytes = content.get(offset..).and_then(|bytes| bytes.first_chunk());
                let value = region.read::<[u8; 24]>(offset);
                assert_eq!(value.as_ref(), bytes);
            }
        }
    }
}
