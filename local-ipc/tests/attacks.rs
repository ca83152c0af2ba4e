//! What another process does to a region that it was handed, all in vain. Where nothing seals regions there
//! is nothing to show.
#![cfg(not(weft_portable))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::fs::File;
use std::io::{self, ErrorKind, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use common::other::{PATIENCE, receive_fd, role, send_fd, spawn};
use common::regions::{pattern, shared};
use memmap2::{Mmap, MmapOptions};
use rustix::fs::{FallocateFlags, MemfdFlags};
use rustix::pipe::SpliceFlags;
use weft_local_ipc::region::{Freeze, Handed};

/// More than any region here has.
const MOST: u64 = 8 << 30;

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
