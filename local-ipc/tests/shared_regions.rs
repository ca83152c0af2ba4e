//! Regions from the first byte to the last reader, and what nobody can do to them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::fs::File;
use std::io::{self, ErrorKind, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::other::{PATIENCE, receive_fd, role, send_fd, spawn};
use memmap2::{Mmap, MmapOptions};
use rustix::fs::{FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use rustix::pipe::SpliceFlags;
use weft_local_ipc::RegionError;
use weft_local_ipc::region::{
    FileRegion, Freeze, Frozen, Handed, Options, Pages, Shared, allocate_object, change_owner,
};

/// More than any region here has.
const MOST: u64 = 8 << 30;

fn shared(bytes: &[u8]) -> Shared {
    let mut draft = allocate_object(bytes.len() as u64, Options::default()).unwrap();
    draft.as_mut_slice().copy_from_slice(bytes);
    draft.create_shared_region().unwrap()
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 31 % 251) as u8).collect()
}

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

/// How many attacks [`attack`] makes.
const ATTACKS: usize = 18;

/// What another process, which was handed the region `file`, does to change it, and what came of it.
fn attack(file: &File) -> Vec<(&'static str, io::Result<()>)> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let again = File::options().read(true).write(true).open(&path);
    let again = || {
        again
            .as_ref()
            .map_err(|error| io::Error::from(error.kind()))
    };
    let fallocate = |flags| rustix::fs::fallocate(file, flags, 0, 4096).map_err(io::Error::from);
    let writable = |file: &File| MmapOptions::new().map_raw(file).map(drop);
    let keep = FallocateFlags::KEEP_SIZE;
    let source = || {
        let mut source = tempfile::tempfile().unwrap();
        source.write_all(&[0xee; 4096]).unwrap();
        source.rewind().unwrap();
        source
    };
    let piped = || {
        let (from, mut to) = io::pipe().unwrap();
        to.write_all(&[0xee; 64]).unwrap();
        from
    };
    let moved = |result: rustix::io::Result<usize>| result.map(drop).map_err(io::Error::from);
    vec![
        ("write", file.write_all_at(b"x", 0)),
        ("lengthen by writing", file.write_all_at(b"x", 3 * 4096)),
        ("copy into", {
            // From one of its kind: between two kinds of file systems the kernel copies nothing.
            let flags = MemfdFlags::CLOEXEC;
            let from = File::from(rustix::fs::memfd_create("source", flags).unwrap());
            from.write_all_at(&[0xee; 64], 0).unwrap();
            let (mut at, mut to) = (0, 0);
            moved(rustix::fs::copy_file_range(
                &from,
                Some(&mut at),
                file,
                Some(&mut to),
                64,
            ))
        }),
        ("send into", {
            let mut file = file.try_clone().unwrap();
            file.rewind().unwrap();
            moved(rustix::fs::sendfile(&file, source(), None, 64))
        }),
        ("splice into", {
            let flags = SpliceFlags::empty();
            moved(rustix::pipe::splice(
                piped(),
                None,
                file,
                Some(&mut 0),
                64,
                flags,
            ))
        }),
        ("cut off", file.set_len(4096)),
        ("empty", file.set_len(0)),
        ("lengthen", file.set_len(1 << 20)),
        ("punch", fallocate(FallocateFlags::PUNCH_HOLE | keep)),
        ("lengthen by memory", {
            let after = rustix::fs::fallocate(file, FallocateFlags::empty(), 3 * 4096, 4096);
            after.map_err(io::Error::from)
        }),
        ("map writable", writable(file)),
        ("make a mapping writable", {
            #[expect(unsafe_code, reason = "a mapping that nothing is read from")]
            // SAFETY: the mapping is not read, so that nobody sees it change.
            let mapping: Mmap = unsafe { MmapOptions::new().map(file) }.unwrap();
            mapping.make_mut().map(drop)
        }),
        (
            "open again and write",
            again().and_then(|file| file.write_all_at(b"x", 0)),
        ),
        ("open again and map", again().and_then(writable)),
        (
            "open again and cut off",
            again().and_then(|file| file.set_len(0)),
        ),
        (
            "open again, emptied",
            File::options()
                .write(true)
                .truncate(true)
                .open(&path)
                .map(drop),
        ),
        ("open again for appending", {
            let mut file = File::options().append(true).open(&path).unwrap();
            file.write_all(b"x")
        }),
        ("open again and punch", {
            again().and_then(|file| {
                let punch = FallocateFlags::PUNCH_HOLE | keep;
                rustix::fs::fallocate(file, punch, 0, 4096).map_err(io::Error::from)
            })
        }),
    ]
}

#[test]
#[ignore = "the other side of the tests here; they start it"]
fn the_other_process() {
    let Some((role, side)) = role() else { return };
    assert_eq!(role, "attack");
    let file = File::from(receive_fd(&side));
    let told: Vec<String> = attack(&file)
        .into_iter()
        .map(|(name, outcome)| match outcome {
            Ok(()) => format!("{name}: done"),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => "refused".to_owned(),
            // It is no attack if it was not understood.
            Err(error) => format!("{name}: {error}"),
        })
        .collect();
    side.send(told.join("\n").as_bytes(), &[]).unwrap();
}

/// Has another process attack the region behind `fd`: all of it is refused, with the error for it.
fn is_attacked_in_vain(fd: &OwnedFd) {
    let (mut child, side) = spawn("attack");
    send_fd(&side, fd);
    let (told, _) = side.receive(Some(PATIENCE)).unwrap().expect("in time");
    let told = String::from_utf8(told).unwrap();
    let lines: Vec<_> = told.lines().collect();
    assert_eq!(lines, ["refused"; ATTACKS]);
    assert!(child.wait().unwrap().success());
}

#[test]
fn another_process_changes_nothing_of_a_region_that_it_was_handed() {
    let mut expected = pattern(3 * 4096);
    let mut owner = shared(&expected);
    let fd = owner.share_region().unwrap();
    let reader = Handed::open(&fd, MOST).unwrap();
    is_attacked_in_vain(&fd);
    // The owner writes as before, and a reader sees that and nothing else.
    assert!(owner.write_at(4096, b"mine"));
    expected[4096..4100].copy_from_slice(b"mine");
    let mut copy = vec![0; expected.len()];
    assert!(reader.copy_to(0, &mut copy) && copy == expected);

    // Nobody has spoilt the freeze either.
    let Freeze::InPlace(frozen) = owner.freeze().unwrap() else {
        panic!("the attacker has left something");
    };
    is_attacked_in_vain(&frozen.share_region().unwrap());
    assert!(frozen[..] == expected);
}

#[test]
fn the_attacks_do_harm_where_nothing_is_sealed() {
    let flags = MemfdFlags::CLOEXEC;
    let file = File::from(rustix::fs::memfd_create("unsealed", flags).unwrap());
    file.write_all_at(&pattern(3 * 4096), 0).unwrap();
    let outcomes = attack(&file);
    assert_eq!(outcomes.len(), ATTACKS);
    for (name, outcome) in outcomes {
        assert!(outcome.is_ok(), "{name}: {outcome:?}");
    }
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
    let error = File::from(fd).write_all_at(b"x", 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
}

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
