//! Regions from the first byte to the last reader, and what nobody can do to them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::fs::File;
use std::io::{ErrorKind, Seek, Write};
#[cfg(not(weft_portable))]
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::regions::{pattern, shared};
#[cfg(not(weft_portable))]
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::fs::{Mode, OFlags};
#[cfg(not(weft_portable))]
use rustix::io::Errno;
use weft_local_ipc::RegionError;
use weft_local_ipc::region::{
    FileRegion, Freeze, Frozen, Handed, Options, Pages, allocate_object, change_owner,
};

/// More than any region here has.
const MOST: u64 = 8 << 30;

#[test]
fn a_reader_sees_what_the_owner_writes_and_gets_copies() {
    let bytes = pattern(10_000);
    let mut owner = shared(&bytes);
    let reader = Handed::open(&owner.share_region().unwrap(), MOST).unwrap();
    assert_eq!((owner.len(), reader.len()), (10_000, 10_000));
    let mut copy = vec![0; 10_000];
    assert!(reader.copy_to(0, &mut copy));
    assert!(copy == bytes);
    assert!(owner.write_at(5, &7u64.to_ne_bytes()));
    assert_eq!(reader.read::<u64>(5), Some(7));
    // Nothing beyond its end, on either side.
    assert!(!owner.write_at(9_993, &[0; 8]) && !owner.write_at(usize::MAX, &[0; 8]));
    assert_eq!(reader.read::<u64>(9_993), None);
    assert_eq!(reader.read::<u64>(usize::MAX), None);
    assert!(!reader.copy_to(1, &mut copy));
}

// Only the kernel holds off who opens the file again, and cuts or punches it.
#[cfg(not(weft_portable))]
#[test]
fn who_has_the_descriptor_can_change_nothing() {
    let owner = shared(&pattern(8192));
    let file = File::from(owner.share_region().unwrap());
    let refused = |result: std::io::Result<()>| {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::PermissionDenied);
    };
    refused(file.write_all_at(b"x", 0));
    refused(file.set_len(0));
    refused(file.set_len(1 << 20));
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    assert_eq!(
        rustix::fs::fallocate(&file, punch, 0, 4096),
        Err(Errno::PERM)
    );
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let again = File::options().read(true).write(true).open(path);
    if let Ok(again) = again {
        refused(again.write_all_at(b"x", 0));
    }
    let reader = Handed::open(&file.into(), MOST).unwrap();
    assert_eq!(reader.read::<u8>(0), Some(0));
}

#[test]
fn what_is_no_regular_file_is_refused_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    let mode = Mode::RUSR | Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, mode).unwrap();
    let path = |flags| rustix::fs::open(&pipe, flags, Mode::empty()).unwrap();
    let nodes = [
        ("a pipe to be read", path(OFlags::RDONLY | OFlags::NONBLOCK)),
        ("a pipe to be read and written", path(OFlags::RDWR)),
        ("a pipe by its path alone", path(OFlags::PATH)),
        ("a directory", File::open(directory.path()).unwrap().into()),
        ("a device", File::open("/dev/zero").unwrap().into()),
        (
            "a device to be written",
            File::options()
                .write(true)
                .open("/dev/null")
                .unwrap()
                .into(),
        ),
        (
            "a socket",
            std::os::unix::net::UnixStream::pair().unwrap().0.into(),
        ),
    ];
    for (what, fd) in nodes {
        let open = FileRegion::open(fd);
        assert!(
            matches!(open, Err(RegionError::NotMemory)),
            "{what}: {open:?}"
        );
    }
}

#[test]
fn a_descriptor_without_the_right_to_read_is_not_read_by_our_own() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kept");
    std::fs::write(&path, b"kept").unwrap();
    // We could open each for reading.
    for flags in [OFlags::PATH, OFlags::WRONLY] {
        let open = FileRegion::open(rustix::fs::open(&path, flags, Mode::empty()).unwrap());
        assert!(matches!(open, Err(RegionError::System { .. })), "{open:?}");
    }
}

#[test]
fn a_frozen_region_can_be_borrowed_and_written_by_nobody() {
    let bytes = pattern(4096);
    let owner = shared(&bytes);
    let fd = owner.share_region().unwrap();
    let early = Handed::open(&fd, MOST).unwrap();
    assert!(matches!(
        Frozen::open(owner.share_region().unwrap(), MOST),
        Err(RegionError::NotSealed { .. })
    ));
    let Freeze::InPlace(frozen) = owner.freeze().unwrap() else {
        panic!("a reader that mapped a shared region spoils nothing");
    };
    assert!(frozen[..] == bytes);
    let word: &zerocopy::little_endian::U32 = frozen.object(1).unwrap();
    assert_eq!(word.get().to_le_bytes(), bytes[1..5]);
    assert!(frozen.object::<u64>(4).is_none(), "not where one may begin");
    assert!(frozen.object::<u64>(4096).is_none());
    // The same memory, by the descriptor that was handed over before.
    let theirs = Frozen::open(fd.try_clone().unwrap(), MOST).unwrap();
    assert!(theirs[..] == bytes);
    assert_eq!(early.read::<u8>(1), Some(31));
    assert!(File::from(fd).write_all_at(b"x", 0).is_err());
}

// There is nothing to spoil without seals.
#[cfg(not(weft_portable))]
#[test]
fn a_freeze_that_a_peer_has_spoilt_is_a_copy() {
    let bytes = pattern(4096);
    let owner = shared(&bytes);
    let fd = owner.share_region().unwrap();
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SEAL).unwrap();
    let Freeze::Copied(frozen) = owner.freeze().unwrap() else {
        panic!("the seals were sealed");
    };
    assert!(frozen[..] == bytes);
    assert!(matches!(
        Frozen::open(fd, MOST),
        Err(RegionError::NotSealed { .. })
    ));
}

#[test]
fn a_new_owner_has_the_only_right_to_write() {
    let mut draft = allocate_object(4096, Options::default()).unwrap();
    draft.as_mut_slice().fill(1);
    let old = draft.freeze().unwrap();
    let mut new = change_owner(&old, Options::default()).unwrap();
    new.as_mut_slice()[0] = 2;
    assert_eq!((old[0], new.as_mut_slice()[0]), (1, 2));
    let new = new.create_shared_region().unwrap();
    let reader = Handed::open(&new.share_region().unwrap(), MOST).unwrap();
    assert_eq!(
        (reader.read::<u8>(0), reader.read::<u8>(1)),
        (Some(2), Some(1))
    );
}

// Seals, and what memory a file has, are the kernel's to tell.
#[cfg(not(weft_portable))]
#[test]
fn what_is_no_sealed_region_is_refused() {
    let file = || {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut file = File::from(rustix::fs::memfd_create("forged", flags).unwrap());
        file.write_all(&[7; 4096]).unwrap();
        file
    };
    let all = SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE;
    for seal in [SealFlags::SHRINK, SealFlags::GROW, SealFlags::FUTURE_WRITE] {
        let file = file();
        rustix::fs::fcntl_add_seals(&file, all - seal).unwrap();
        let open = Handed::open(&file.into(), MOST);
        assert!(
            matches!(open, Err(RegionError::NotSealed { .. })),
            "{open:?}"
        );
    }
    let sparse = file();
    sparse.set_len(1 << 20).unwrap();
    rustix::fs::fcntl_add_seals(&sparse, all).unwrap();
    let open = Handed::open(&sparse.into(), MOST);
    assert!(
        matches!(open, Err(RegionError::NotAllocated { .. })),
        "{open:?}"
    );
    let empty = file();
    empty.set_len(0).unwrap();
    rustix::fs::fcntl_add_seals(&empty, all).unwrap();
    let open = Handed::open(&empty.into(), MOST);
    assert!(
        matches!(open, Err(RegionError::Size { bytes: 0 })),
        "{open:?}"
    );
    let (pipe, _other) = std::io::pipe().unwrap();
    let open = Handed::open(&OwnedFd::from(pipe), MOST);
    assert!(matches!(open, Err(RegionError::NotMemory)), "{open:?}");
    let disk = tempfile::tempfile().unwrap();
    assert!(Handed::open(&disk.into(), MOST).is_err());
}

#[test]
fn a_region_larger_than_its_reader_wants_is_refused() {
    let owner = shared(&pattern(8192));
    let fd = owner.share_region().unwrap();
    assert!(Handed::open(&fd, 8192).is_ok());
    let open = Handed::open(&fd, 8191);
    assert!(
        matches!(open, Err(RegionError::Size { bytes: 8192 })),
        "{open:?}"
    );
    let frozen = owner.freeze().unwrap().into_frozen();
    let open = Frozen::open(frozen.share_region().unwrap(), 1);
    assert!(
        matches!(open, Err(RegionError::Size { bytes: 8192 })),
        "{open:?}"
    );
}

#[test]
fn a_file_is_handed_on_without_the_right_to_write_it() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"kept").unwrap();
    let region = FileRegion::open(file.into()).unwrap();
    let theirs = File::from(region.share_region().unwrap());
    assert!(theirs.write_all_at(b"x", 0).is_err());
    let mut copy = [0; 4];
    region.copy_to(0, &mut copy).unwrap();
    assert_eq!(&copy, b"kept");
}

#[test]
fn a_region_that_cannot_be_had_is_an_error() {
    for bytes in [0, u64::MAX] {
        let draft = allocate_object(bytes, Options::default());
        assert!(matches!(draft, Err(RegionError::Size { .. })), "{draft:?}");
    }
    // More than any machine has, within what a file may be long. It is not tried: the kernel would
    // look for the memory until nobody has any.
    let draft = allocate_object(1 << 60, Options::default());
    assert!(
        matches!(draft, Err(RegionError::OutOfMemory { .. })),
        "{draft:?}"
    );
}

#[test]
fn huge_pages_are_taken_where_there_are_some_and_missed_nowhere() {
    let options = Options {
        prefault: true,
        huge: true,
    };
    let mut draft = allocate_object(4 << 20, options).unwrap();
    draft.as_mut_slice().fill(3);
    let pages = draft.pages();
    let shared = draft.create_shared_region().unwrap();
    let reader = Handed::open(&shared.share_region().unwrap(), MOST).unwrap();
    assert_eq!(reader.read::<u8>((4 << 20) - 1), Some(3));
    assert!(matches!(pages, Pages::Small | Pages::Huge));
    let odd = allocate_object(4097, options).unwrap();
    assert_eq!(odd.pages(), Pages::Small, "no whole huge page");
}

#[test]
fn a_file_that_is_cut_off_while_it_is_read_is_an_error_and_no_signal() {
    let mut file = tempfile::tempfile().unwrap();
    let bytes = pattern(1 << 20);
    file.write_all(&bytes).unwrap();
    file.rewind().unwrap();
    let region = FileRegion::open(file.try_clone().unwrap().into()).unwrap();
    let theirs = FileRegion::open(region.share_region().unwrap()).unwrap();
    assert_eq!(theirs.len(), 1 << 20);
    let mut copy = vec![0; 1 << 20];
    theirs.copy_to(0, &mut copy).unwrap();
    assert!(copy == bytes);
    assert!(theirs.load(Options::default()).unwrap().freeze().unwrap()[..] == bytes);
    let over = AtomicBool::new(false);
    let (mut whole, mut cut) = (0, 0);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                file.set_len(5000).unwrap();
                file.write_all_at(&bytes, 0).unwrap();
            }
        });
        while whole < 20 || cut < 20 {
            match theirs.copy_to(4096, &mut copy[4096..]) {
                Ok(()) => whole += 1,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{error}");
                    cut += 1;
                }
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    file.set_len(10).unwrap();
    let load = theirs.load(Options::default());
    assert!(matches!(load, Err(RegionError::System { .. })), "{load:?}");
    let (pipe, _other) = std::io::pipe().unwrap();
    let open = FileRegion::open(pipe.into());
    assert!(matches!(open, Err(RegionError::NotMemory)));
}

// More than the portable backend gives out.
#[cfg(not(weft_portable))]
#[test]
#[ignore = "takes 4.5 GiB of memory and some seconds"]
fn a_region_beyond_four_gibibytes_is_made_addressed_and_shared() {
    let bytes = 9u64 << 29;
    let mut owner = allocate_object(bytes, Options::default())
        .unwrap()
        .create_shared_region()
        .unwrap();
    let far = (5usize << 30) - (1 << 30) + 12;
    assert!(owner.write_at(far, &u64::MAX.to_ne_bytes()));
    let reader = Handed::open(&owner.share_region().unwrap(), MOST).unwrap();
    assert_eq!(reader.len() as u64, bytes);
    assert_eq!(reader.read::<u64>(far), Some(u64::MAX));
    assert_eq!(
        reader.read::<u64>(12),
        Some(0),
        "no offset was cut to 32 bits"
    );
}
