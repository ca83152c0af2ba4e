//! What the kernel refuses to everybody, the owner included, once a half is sealed.
// Without the kernel's help some of it is refused to whoever has the descriptor, and nothing to who opens
// the file again: see `sys::portable::memory`, with tests of its own.
#![cfg(not(weft_portable))]

mod common;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use memmap2::MmapOptions;
use rustix::fs::{FallocateFlags, SealFlags};
use rustix::io::Errno;
use weft_local_ipc::*;

const EPERM: i32 = 1;

fn sealed() -> (OwnHalf, File) {
    let half = OwnHalf::create(Geometry::DEFAULT, Start::default()).expect("memory");
    let file = File::from(half.share().expect("a descriptor"));
    (half, file)
}

fn errno<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[test]
fn nobody_gets_a_second_writable_mapping() {
    let (_half, file) = sealed();
    let map = MmapOptions::new().len(4096).map_raw(&file);
    assert_eq!(errno(map), Some(EPERM));
    assert!(
        MmapOptions::new()
            .len(4096)
            .map_raw_read_only(&file)
            .is_ok()
    );
}

#[test]
fn nobody_writes_through_the_descriptor() {
    let (_half, file) = sealed();
    assert_eq!(errno(file.write_at(b"x", 0)), Some(EPERM));
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let again = File::options().read(true).write(true).open(path);
    let again = again.expect("the owner may reopen it");
    assert_eq!(errno(again.write_at(b"x", 0)), Some(EPERM));
    assert_eq!(
        errno(MmapOptions::new().len(4096).map_raw(&again)),
        Some(EPERM)
    );
}

#[test]
fn nobody_changes_its_size_its_pages_or_its_seals() {
    let (_half, file) = sealed();
    let bytes = Geometry::DEFAULT.region_bytes();
    assert_eq!(errno(file.set_len(bytes - 4096)), Some(EPERM));
    assert_eq!(errno(file.set_len(bytes + 4096)), Some(EPERM));
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    assert_eq!(
        rustix::fs::fallocate(&file, hole, 0, 4096),
        Err(Errno::PERM)
    );
    assert_eq!(
        rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE),
        Err(Errno::PERM)
    );
}

#[test]
fn sizes_out_of_bounds_are_refused_before_memory_is_asked_for() {
    for (slots, arena_bytes) in [
        (0, 4096),
        (1, 4096),
        (3, 4096),
        (1 << 17, 4096),
        (4, 4095),
        (4, u32::MAX),
        (4, Geometry::MAX_ARENA_BYTES + 4096),
    ] {
        let half = OwnHalf::create(
            Geometry {
                slots,
                arena_bytes,
                ..Geometry::DEFAULT.fixed()
            },
            Start::default(),
        );
        assert!(matches!(half, Err(RegionError::Geometry(_))));
    }
    assert_eq!(Geometry::DEFAULT.base_bytes(), 4096 + 4 * (65536 + 262_144));
}

#[test]
fn a_dead_owners_half_can_still_be_read() {
    let (mut end, other) = common::channel(Geometry::DEFAULT);
    let fd = end.swapper.share().expect("a descriptor");
    let lane = weft_types::Lane::HIGH;
    for n in 0..301 {
        let sent = end
            .sender
            .try_send(lane, common::tell(), &common::number(n));
        assert_eq!(sent.expect("room").get(), n);
    }
    drop((end, other));
    let dead = PeerHalf::open(fd).expect("the file lives on");
    assert_eq!(dead.published(lane).get(), 301);
    assert_eq!(dead.published_from(lane, dead.first(lane)).get(), 301);
    assert_eq!(dead.published(weft_types::Lane::LOW).get(), 0);
    assert_eq!(dead.cursors()[lane], Cursors::default());
}
