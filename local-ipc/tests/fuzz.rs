//! Replays what is known to lead far into the checks of this crate: the corpora of the fuzz targets.
//!
//! The seeds are written down here, as programs, one at least for each error that a peer can cause.
//! `WEFT_WRITE_SEEDS=1` writes them into `fuzz/corpus`. Inputs that `fuzz/run` has found to fail belong
//! there too. The attacks are forged memory files with seals, which a portable backend has not.

#![cfg(not(weft_portable))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../fuzz/attack/mod.rs"]
mod attack;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use attack::program::{HEAD, Step, Value};
use attack::{ATTACKS, Seen};

/// A seed: its name, what it gets to see, its head and its steps.
type Seed = (&'static str, &'static [&'static str], [u8; HEAD], Vec<Step>);

const NEAR: Value = Value::Near(0);
const ZERO: Value = Value::Raw(0);

fn corpus(target: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("fuzz/corpus").join(target)
}

fn files(target: &str) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(corpus(target))
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read(path).unwrap())
        })
        .collect();
    files.sort();
    files
}

fn bytes_of(head: [u8; HEAD], steps: &[Step]) -> Vec<u8> {
    let steps = steps.iter().flat_map(|step| step.to_bytes());
    head.into_iter().chain(steps).collect()
}

/// Slots of 128 bytes, two of them, an arena.
const SMALL: [u8; HEAD] = [0b0000_1100, 0, 0, 0];

fn slots() -> Vec<Seed> {
    use attack::program::meta;
    use attack::rings::op;

    let word = |word: u8, value| Step::new(op::SLOT, 0, word, value);
    let publish = |len: u8| Step::new(op::PUBLISH, 0, len, NEAR);
    let receive = Step::new(op::RECEIVE, 0, 0, ZERO);
    let finish = Step::new(op::FINISH, 0, 0, NEAR);
    // A message whose header is a lie, and its offset.
    let lie = |kind: u8, flags: u8, len: u32, offset: u64| {
        vec![
            word(1, Value::Raw(meta(kind, flags, len))),
            word(2, Value::Raw(offset)),
            word(0, NEAR),
            receive,
        ]
    };
    let lap = |len: u8| [publish(len), receive, finish];
    vec![
        (
            "laps",
            &["message"],
            SMALL,
            [1, 48, 112, 0, 7].map(lap).concat(),
        ),
        (
            "sequence",
            &["WrongSequence"],
            SMALL,
            vec![word(0, Value::Near(1)), receive],
        ),
        ("last-sequence", &["message"], [4, 3, 0, 0], lap(4).to_vec()),
        ("kind", &["UnknownKind"], SMALL, lie(77, 0, 4, 0)),
        ("flags", &["UnknownFlags"], SMALL, lie(1, 8, 4, 0)),
        ("correlation", &["message"], SMALL, lie(3, 2, 104, 7)),
        (
            "arena",
            &["message in the arena"],
            SMALL,
            lie(1, 0, 4096, 0),
        ),
        ("too-long", &["TooLong"], SMALL, lie(1, 0, 98_305, 0)),
        ("outside", &["OutOfBounds"], SMALL, lie(1, 0, 4096, 1)),
        (
            "no-arena",
            &["OutOfBounds"],
            [4, 0, 0, 0],
            lie(2, 3, 112, 0),
        ),
        (
            "overflow",
            &["OutOfBounds"],
            SMALL,
            lie(1, 0, 200, u64::MAX),
        ),
        ("value", &["message", "WrongLength"], SMALL, {
            let value = Step::new(op::VALUE, 0, 0, ZERO);
            vec![publish(16), value, publish(17), value]
        }),
        ("in-place", &["message"], SMALL, {
            let look = |len, at| Step::new(op::IN_PLACE, 0, len, at);
            vec![
                publish(100),
                look(20, Value::Raw(60)),
                publish(100),
                look(200, Value::Top(3)),
            ]
        }),
        (
            "positions",
            &["message", "Done", "Beyond"],
            SMALL,
            vec![
                publish(1),
                receive,
                Step::new(op::REWIND, 0, 0, Value::Near(-1)),
                Step::new(op::SKIP, 0, 0, Value::Near(1)),
                Step::new(op::SKIP, 0, 0, Value::Near(5)),
                finish,
                Step::new(op::REWIND, 0, 0, Value::Near(-1)),
            ],
        ),
        ("swaps", &["message", "swap"], SMALL, {
            let mut steps = vec![publish(1), receive];
            for _ in 0..3 {
                steps.extend([
                    publish(2),
                    Step::new(op::SWAP, 0, 0, ZERO),
                    publish(3),
                    receive,
                    Step::new(op::LOOK, 0, 0, NEAR),
                ]);
            }
            steps.push(finish);
            steps
        }),
        ("marks", &["message"], SMALL, {
            let control = |row, value| Step::new(op::CONTROL, 0, row, value);
            let mut steps = vec![control(2, Value::Near(2)), control(1, Value::Top(0))];
            steps.extend(lap(1));
            steps.extend([control(3, Value::Top(1)), Step::new(op::WAIT, 0, 0, ZERO)]);
            steps
        }),
    ]
}

/// As [`SMALL`], and a lane may grow twice.
const GROWING: [u8; HEAD] = [0b0001_1100, 1, 0, 0];

fn segments() -> Vec<Seed> {
    use attack::rings::op;

    let publish = |segment: u8, sequence| Step::new(op::PUBLISH, segment << 2, 9, sequence);
    let receive = Step::new(op::RECEIVE, 0, 0, ZERO);
    // Both argue with segment 1 and later.
    let memory = |segment: u8| Step::new(op::MEMORY, (segment - 1) << 2, 0, ZERO);
    let start = |segment: u8, value| Step::new(op::START, (segment - 1) << 2, 0, value);
    let grown = |count: u64| Step::new(op::GROWN, 0, 0, Value::Raw(count));
    let finish = |by| Step::new(op::FINISH, 0, 0, Value::Near(by));
    vec![
        (
            "grown",
            &["message", "message in a segment"],
            GROWING,
            vec![
                publish(0, NEAR),
                publish(0, Value::Near(1)),
                memory(1),
                start(1, Value::Near(2)),
                grown(1),
                publish(1, Value::Near(2)),
                publish(1, Value::Near(3)),
                receive,
                receive,
                receive,
                finish(0),
                memory(2),
                start(2, Value::Near(1)),
                grown(2),
                receive,
                publish(2, NEAR),
                receive,
                finish(0),
            ],
        ),
        (
            "no-memory",
            &["WrongSegment"],
            GROWING,
            vec![start(1, Value::Near(2)), grown(1), receive],
        ),
        (
            "back",
            &["WrongSegment"],
            GROWING,
            vec![memory(1), start(1, Value::Near(-1)), grown(1), receive],
        ),
        (
            "far",
            &["WrongSegment"],
            GROWING,
            vec![memory(1), start(1, Value::Top(0)), grown(1), receive],
        ),
        (
            "now",
            &["message"],
            GROWING,
            vec![
                memory(1),
                start(1, NEAR),
                grown(1),
                publish(1, NEAR),
                receive,
            ],
        ),
        (
            "read-again",
            &["message"],
            GROWING,
            vec![
                publish(0, NEAR),
                receive,
                memory(1),
                start(1, NEAR),
                grown(7),
                publish(1, NEAR),
                Step::new(op::REWIND, 0, 0, Value::Near(-1)),
                receive,
                receive,
            ],
        ),
        (
            "swapped",
            &["swap", "message"],
            GROWING,
            vec![
                publish(0, NEAR),
                memory(1),
                start(1, Value::Near(2)),
                publish(1, Value::Near(1)),
                Step::new(op::SWAP, 0, 0, ZERO),
                receive,
                receive,
                Step::new(op::LOOK, 0, 0, NEAR),
            ],
        ),
    ]
}

fn cursors() -> Vec<Seed> {
    use attack::cursors::op;

    let say = |value| Step::new(op::DONE, 0, 0, value);
    let send = |len: u64| Step::new(op::SEND, 0, 0, Value::Raw(len));
    let look = Step::new(op::ACKNOWLEDGED, 0, 0, ZERO);
    let kept = Step::new(op::KEPT, 0, 0, ZERO);
    vec![
        (
            "laps",
            &["sent"],
            SMALL,
            [40, 100, 4000, 200, 3]
                .map(|len| [send(len), kept, say(NEAR), look])
                .concat()
                .split_off(1),
        ),
        (
            "full",
            &["sent", "Full"],
            SMALL,
            vec![send(8), send(9), send(10), kept],
        ),
        ("large", &["TooLarge"], SMALL, vec![send(4097)]),
        (
            "grown",
            &["sent", "Full", "many"],
            [0b0010_1100, 7, 7, 0],
            {
                let mut steps: Vec<_> = (0..16).map(|n| send(n * 11)).collect();
                steps.push(kept);
                steps
            },
        ),
        (
            "ahead",
            &["sent", "CursorAhead"],
            SMALL,
            vec![send(8), say(Value::Near(1)), look, send(8)],
        ),
        (
            "back",
            &["sent", "CursorBack"],
            SMALL,
            vec![
                send(8),
                send(8),
                say(NEAR),
                look,
                say(Value::Near(-1)),
                look,
            ],
        ),
        (
            "far-ahead",
            &["CursorAhead"],
            [12, 0, 200, 0],
            vec![look, send(8), look],
        ),
        ("turn", &["sent", "OutOfTurn"], SMALL, {
            let replay = |by| Step::new(op::REPLAY, 0, 0, Value::Near(by));
            vec![replay(0), replay(1), kept]
        }),
        (
            "successor-back",
            &["swap", "CursorBack"],
            SMALL,
            vec![
                send(8),
                send(8),
                say(NEAR),
                look,
                Step::new(op::SWAP, 0, 0, ZERO),
                look,
                send(8),
            ],
        ),
        ("parked", &["sent"], SMALL, {
            let control = |row, value| Step::new(op::CONTROL, 0, row, value);
            vec![
                control(1, Value::Raw(1)),
                send(8),
                control(1, Value::Top(0)),
                send(8),
                control(3, Value::Top(0)),
                Step::new(op::MARK, 0, 0, NEAR),
                Step::new(op::ROOM, 0, 0, Value::Raw(3000)),
            ]
        }),
        (
            "batches",
            &["sent", "Full"],
            SMALL,
            vec![
                Step::new(op::BATCH, 1, 3, Value::Raw(30)),
                Step::new(op::IN_PLACE, 2, 1, Value::Raw(100)),
                Step::new(op::IN_PLACE, 2, 0, Value::Raw(300)),
                Step::new(op::BUDGET, 0, 0, ZERO),
            ],
        ),
    ]
}

fn halves() -> Vec<Seed> {
    use attack::halves::op;

    let header = |word: u8, part: u8, value| Step::new(op::HEADER, word, part, value);
    let one = |step| vec![step];
    let growing: [u8; HEAD] = [0b0010_1000, 0, 0, 0];
    vec![
        ("honest", &["open"], growing, vec![]),
        ("magic", &["WrongMagic"], SMALL, one(header(0, 0, ZERO))),
        (
            "version",
            &["WrongVersion"],
            SMALL,
            one(header(1, 1, Value::Near(1))),
        ),
        (
            "slots",
            &["Geometry"],
            SMALL,
            one(header(1, 2, Value::Near(1))),
        ),
        (
            "arena",
            &["Geometry"],
            SMALL,
            one(header(2, 1, Value::Near(64))),
        ),
        (
            "lanes",
            &["WrongVersion"],
            SMALL,
            one(header(2, 2, Value::Near(-1))),
        ),
        (
            "bytes",
            &["WrongSize"],
            SMALL,
            one(header(3, 0, Value::Near(64))),
        ),
        (
            "slot-bytes",
            &["Geometry"],
            SMALL,
            one(header(4, 1, Value::Raw(96))),
        ),
        (
            "growth",
            &["Geometry"],
            SMALL,
            one(header(4, 2, Value::Raw(8))),
        ),
        (
            "start",
            &["StartOutOfRange"],
            SMALL,
            one(header(9, 0, Value::Top(0))),
        ),
        (
            "gap",
            &["open", "Gap"],
            [12, 1, 0, 0],
            one(header(8, 0, Value::Raw(5))),
        ),
        (
            "word",
            &["open", "WrongSequence"],
            SMALL,
            vec![Step::new(op::WORD, 64, 0, Value::Raw(3))],
        ),
        (
            "seals",
            &["NotSealed"],
            SMALL,
            one(Step::new(op::SEALS, 0x0f, 0, ZERO)),
        ),
        (
            "small",
            &["WrongSize"],
            SMALL,
            one(Step::new(op::SIZE, 0, 0, Value::Raw(4096))),
        ),
        (
            "memory",
            &["NotAllocated"],
            SMALL,
            one(Step::new(op::MEMORY, 0, 0, Value::Raw(4096))),
        ),
        (
            "huge",
            &["NotAllocated"],
            SMALL,
            vec![
                // A quarter of a GiB, of which nothing exists.
                header(1, 2, Value::Raw(2)),
                header(2, 1, Value::Raw(64 << 20)),
                header(3, 0, Value::Raw(4096 + 4 * (256 + (64 << 20)))),
                Step::new(op::SIZE, 0, 0, Value::Raw(4096 + 4 * (256 + (64 << 20)))),
            ],
        ),
    ]
}

fn regions() -> Vec<Seed> {
    use attack::regions::{kind, op};

    let shared = 0x02 | 0x04 | 0x10;
    let frozen = 0x02 | 0x04 | 0x08;
    let copy = |len: u8, at| Step::new(op::COPY, len, 0, at);
    let object = |at| Step::new(op::OBJECT, 0, 0, at);
    let read = |at| Step::new(op::READ, 0, 0, at);
    vec![
        (
            "shared",
            &["handed", "file", "NotSealed"],
            [kind::MEMORY, shared, 0x10, 0x27],
            vec![
                copy(200, Value::Raw(4000)),
                copy(17, Value::Near(-17)),
                copy(17, Value::Near(-16)),
                copy(1, Value::Top(0)),
                read(Value::Raw(4090)),
                read(Value::Near(-23)),
            ],
        ),
        (
            "frozen",
            &["handed", "frozen"],
            [kind::MEMORY, frozen, 0, 1],
            vec![
                object(Value::Raw(8)),
                object(Value::Raw(9)),
                object(Value::Near(-39)),
                object(Value::Near(3)),
            ],
        ),
        (
            "open",
            &["file", "NotSealed"],
            [kind::MEMORY, 0x02, 10, 0],
            vec![copy(11, ZERO)],
        ),
        (
            "empty",
            &["Size"],
            [kind::MEMORY, frozen, 0, 0],
            vec![copy(1, ZERO)],
        ),
        (
            "large",
            &["Size"],
            [kind::MEMORY, shared, 0xff, 0xff],
            vec![],
        ),
        (
            "holes",
            &["handed"],
            [kind::HOLES, shared, 0, 0x20],
            vec![copy(9, Value::Raw(4090))],
        ),
        (
            "few",
            &["NotAllocated"],
            [kind::HOLES, shared, 1, 0x60],
            vec![],
        ),
        ("pipe", &["NotMemory"], [kind::PIPE, 0, 0, 0], vec![]),
        (
            "unsealable",
            &["NotSealed"],
            [kind::UNSEALABLE, 0, 9, 0],
            vec![copy(3, Value::Raw(2))],
        ),
    ]
}

fn side() -> Vec<Seed> {
    use attack::side::op;

    let send = |fds: u8, len| Step::new(op::SEND, fds, 0, len);
    let receive = Step::new(op::RECEIVE, 0, 0, ZERO);
    let hang_up = Step::new(op::HANG_UP, 0, 0, ZERO);
    vec![
        (
            "packets",
            &["packet", "descriptors"],
            [0; 4],
            vec![
                send(0, Value::Raw(1)),
                send(3, Value::Raw(100)),
                send(16, NEAR),
                receive,
                receive,
                receive,
                receive,
            ],
        ),
        (
            "long",
            &["TooMuch", "packet"],
            [0; 4],
            vec![
                send(0, Value::Near(1)),
                send(1, Value::Raw(2)),
                receive,
                receive,
            ],
        ),
        (
            "descriptors",
            &["TooMuch", "packet"],
            [0; 4],
            vec![
                send(17, Value::Raw(2)),
                send(200, Value::Raw(2)),
                send(1, Value::Raw(2)),
                receive,
                receive,
                receive,
            ],
        ),
        (
            "empty",
            &["empty"],
            [0; 4],
            vec![send(2, ZERO), receive, receive],
        ),
        (
            "hang-up",
            &["packet", "HungUp"],
            [0; 4],
            vec![
                Step::new(op::ANSWER, 0, 0, ZERO),
                send(2, Value::Raw(9)),
                hang_up,
                receive,
                receive,
            ],
        ),
        ("left", &[], [0; 4], vec![send(9, Value::Raw(9)), hang_up]),
        (
            "doorbells",
            &["doorbell", "no doorbell"],
            [0; 4],
            (0..5)
                .map(|kind| Step::new(op::KNOCK, kind, 255, ZERO))
                .collect(),
        ),
    ]
}

fn notes() -> Vec<Seed> {
    use attack::heap::notes_op as op;

    let lend = |words: u8| Step::new(op::LEND, 0, words, ZERO);
    let honest = Step::new(op::LEND_HONEST, 0, 9, ZERO);
    let both = Step::new(op::LEND_BOTH, 0, 200, ZERO);
    let note = |at: u8, ago: u8, value| Step::new(op::NOTE, at, ago, value);
    let collect = Step::new(op::COLLECT, 0, 0, ZERO);
    let drop = Step::new(op::DROP, 0, 0, ZERO);
    vec![
        (
            "honest",
            &["lent"],
            [0; 4],
            vec![
                lend(1),
                honest,
                both,
                note(0, 0, NEAR),
                note(1, 1, NEAR),
                collect,
                drop,
                drop,
                collect,
                Step::new(op::SHRINK, 0, 0, ZERO),
                Step::new(op::EXTEND, 0, 0, ZERO),
                honest,
            ],
        ),
        ("laps", &[], [0; 4], {
            let lap = |phase: u8, at: u8| [lend(0), Step::new(phase, at, 0, NEAR), collect];
            let first = (0..8).flat_map(|at| lap(op::NOTE, at));
            first
                .chain((0..8).flat_map(|at| lap(op::NOTE_AGAIN, at)))
                .collect()
        }),
        (
            "not-held",
            &["lent", "WrongNote"],
            [0; 4],
            vec![
                honest,
                lend(3),
                note(0, 0, Value::Near(-1)),
                collect,
                honest,
            ],
        ),
        (
            "twice",
            &["WrongNote"],
            [0; 4],
            vec![
                lend(1),
                lend(1),
                note(0, 0, NEAR),
                note(1, 0, NEAR),
                collect,
                lend(1),
            ],
        ),
        (
            "no-object",
            &["WrongNote"],
            [0; 4],
            vec![lend(1), note(0, 0, Value::Top(0)), collect],
        ),
        ("silent", &["heap full", "TooManyLent"], [0; 4], {
            let mut steps = vec![lend(0); 9];
            steps.extend([honest; 9]);
            steps
        }),
        (
            "gone",
            &["lent"],
            [0; 4],
            vec![
                both,
                lend(255),
                Step::new(op::SUCCEED, 0, 0, NEAR),
                lend(1),
                Step::new(op::DISMISS, 0, 1, ZERO),
                Step::new(op::EXTEND, 0, 0, ZERO),
                honest,
                Step::new(op::DISMISS, 0, 0, ZERO),
                lend(1),
            ],
        ),
    ]
}

fn references() -> Vec<Seed> {
    use attack::heap::references_op as op;

    let adopt = |id: u8, pages: u8, memory| Step::new(op::ADOPT, id, pages, memory);
    let resolve = |id: u8, granule: u8, len| Step::new(op::RESOLVE, id, granule, len);
    let view = |at| Step::new(op::VIEW, 0, 0, at);
    vec![
        (
            "read",
            &["borrowed"],
            [0; 4],
            vec![
                adopt(3, 2, NEAR),
                resolve(3, 1, Value::Raw(100)),
                view(ZERO),
                view(Value::Near(-8)),
                view(NEAR),
                Step::new(op::FORGET, 3, 0, ZERO),
                view(Value::Near(-16)),
                Step::new(op::FINISHED, 3, 0, Value::Near(1)),
                Step::new(op::DROP, 0, 0, ZERO),
            ],
        ),
        ("late", &["borrowed"], [0; 4], {
            let mut steps = vec![adopt(0, 1, NEAR)];
            for _ in 0..5 {
                steps.extend([resolve(0, 0, NEAR), Step::new(op::DROP, 0, 0, ZERO)]);
            }
            steps.push(Step::new(op::FINISHED, 0, 0, Value::Top(0)));
            steps
        }),
        (
            "unknown",
            &["UnknownExtent"],
            [0; 4],
            vec![adopt(1, 1, NEAR), resolve(2, 0, NEAR)],
        ),
        (
            "outside",
            &["OutOfBounds in the heap"],
            [0; 4],
            vec![adopt(1, 1, NEAR), resolve(1, 63, Value::Near(1))],
        ),
        (
            "overflow",
            &["OutOfBounds in the heap"],
            [0; 4],
            vec![adopt(1, 1, NEAR), resolve(1, 63, Value::Top(0))],
        ),
        (
            "edge",
            &["borrowed"],
            [0; 4],
            vec![
                adopt(1, 1, NEAR),
                resolve(1, 63, NEAR),
                view(Value::Near(-8)),
            ],
        ),
        (
            "twice",
            &["TooManyExtents"],
            [0; 4],
            vec![adopt(1, 1, NEAR), adopt(1, 1, NEAR)],
        ),
        (
            "too-much",
            &["Size"],
            [0; 4],
            vec![adopt(1, 15, NEAR), adopt(2, 15, NEAR)],
        ),
        (
            "nonsense",
            &["NotAReference"],
            [0; 4],
            vec![
                Step::new(op::NONSENSE, 0, 23, ZERO),
                Step::new(op::NONSENSE, 0, 0, ZERO),
            ],
        ),
    ]
}

fn seeds(target: &str) -> Vec<Seed> {
    match target {
        "slots" => slots(),
        "segments" => segments(),
        "cursors" => cursors(),
        "halves" => halves(),
        "regions" => regions(),
        "side" => side(),
        "notes" => notes(),
        "references" => references(),
        other => panic!("{other} has no seeds"),
    }
}

#[test]
fn each_seed_gets_where_it_should_and_stands_in_its_corpus() {
    for (target, attack) in ATTACKS {
        for (name, sees, head, steps) in seeds(target) {
            let bytes = bytes_of(head, &steps);
            let seen = attack(&bytes);
            let all = sees.iter().all(|what| seen.contains(what));
            assert!(all, "{target}/{name} saw {seen:?}, not {sees:?}");
            let path = corpus(target).join(format!("seed-{name}"));
            if std::env::var_os("WEFT_WRITE_SEEDS").is_some() {
                std::fs::create_dir_all(corpus(target)).unwrap();
                std::fs::write(&path, &bytes).unwrap();
            }
            let stored = std::fs::read(&path).unwrap_or_default();
            let hint = "WEFT_WRITE_SEEDS=1 writes the seeds";
            assert!(stored == bytes, "{} is another: {hint}", path.display());
        }
    }
}

#[test]
fn no_input_of_a_corpus_gets_more_than_errors() {
    for (target, attack) in ATTACKS {
        let files = files(target);
        assert!(files.len() <= 100, "{target}: {} files", files.len());
        for (name, bytes) in files {
            // Half of an input is an input too.
            for end in [bytes.len(), bytes.len() / 2] {
                println!("{target}/{name} to byte {end}");
                attack(&bytes[..end]);
            }
        }
    }
}

/// Between them, the corpora see everything that a peer can be found out by.
#[test]
fn every_fault_is_in_a_corpus() {
    let faults = [
        "WrongSequence",
        "UnknownKind",
        "UnknownFlags",
        "TooLong",
        "WrongLength",
        "OutOfBounds",
        "CursorBack",
        "CursorAhead",
        "Gap",
        "WrongSegment",
        "Geometry",
        "StartOutOfRange",
        "Size",
        "NotMemory",
        "NotSealed",
        "NotAllocated",
        "WrongSize",
        "WrongMagic",
        "WrongVersion",
        "TooMuch",
        "NotAReference",
        "UnknownExtent",
        "OutOfBounds in the heap",
        "TooManyExtents",
        "WrongNote",
        "HungUp",
        "no doorbell",
    ];
    let mut seen = Seen::new();
    for (target, attack) in ATTACKS {
        for (_, bytes) in files(target) {
            seen.extend(attack(&bytes));
        }
    }
    let missing: BTreeSet<_> = faults
        .iter()
        .filter(|fault| !seen.contains(*fault))
        .collect();
    assert!(missing.is_empty(), "not seen: {missing:?}");
}
