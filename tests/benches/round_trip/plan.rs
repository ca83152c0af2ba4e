//! What is measured: the rows of the tables and what each is held against.

use crate::role::{Shape, Transport};
use crate::unix::Manner;

/// The size of a question, in bytes: about that of a `Get`. Who answers a short question with a long
/// body must not be held against who is asked with one.
pub(crate) const QUESTION_BYTES: usize = 16;

/// The sizes of an answer, in bytes.
pub(crate) const SIZES: [usize; 2] = [64, 4096];

/// How many messages are on their way where throughput is measured.
pub(crate) const WINDOW: usize = 64;

/// Longer than anybody spins, so that whoever waits is asleep; in microseconds.
const SILENCE_MICROS: u64 = 300;

/// What a row's processes do while they wait.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Waiting {
    /// They look until there is something. Nobody sleeps.
    Awake,
    /// Who answers sleeps before each question.
    Woken,
    /// Many messages are on their way: they sleep now and then, and the row tells how often.
    AsItComes,
}

/// One table.
pub(crate) struct Group {
    pub(crate) title: &'static str,
    pub(crate) waiting: Waiting,
    pub(crate) shape: Shape,
    pub(crate) pause_micros: u64,
    /// The first row is what the others are held against.
    pub(crate) rows: Vec<Row>,
}

/// One line of a table.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) contender: Contender,
}

/// Who carries the messages.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Contender {
    /// Two processes of this program on one machine.
    Slot,
    Ring {
        spins: bool,
    },
    Unix(Manner),
    /// Two processes of this program over loopback.
    Quinn,
    /// A client of `kv` on its node.
    WeftLocal,
    /// A client of `kv` on the other node.
    WeftRemote,
    /// One daemon asks the other; the body is its own.
    KernelPing,
}

impl Contender {
    /// Whether it carries bodies of our size.
    pub(crate) fn takes(self, body_bytes: usize) -> bool {
        self != Self::KernelPing || body_bytes == SIZES[0]
    }

    /// Whether this program plays the answering side as well.
    pub(crate) fn transport(self) -> Option<Transport> {
        match self {
            Self::Slot => Some(Transport::Slot),
            Self::Ring { spins } => Some(Transport::Ring { spins }),
            Self::Unix(manner) => Some(Transport::Unix(manner)),
            Self::Quinn | Self::WeftLocal | Self::WeftRemote | Self::KernelPing => None,
        }
    }
}

/// All tables.
pub(crate) fn groups() -> Vec<Group> {
    let row = |name, contender| Row { name, contender };
    let unix = |manner| Contender::Unix(manner);
    let group = |title, waiting, shape, rows| Group {
        title,
        waiting,
        shape,
        pause_micros: 0,
        rows,
    };
    vec![
        group(
            "One machine, round trip, receivers awake",
            Waiting::Awake,
            Shape::RoundTrip,
            vec![
                row("one shared slot (floor)", Contender::Slot),
                row("local-ipc ring", Contender::Ring { spins: true }),
                row("Weft call, kv Get", Contender::WeftLocal),
                row("Unix stream, polled", unix(Manner::Spins)),
            ],
        ),
        group(
            "One machine, round trip, receivers asleep, one question after the other",
            Waiting::Woken,
            Shape::RoundTrip,
            vec![
                row("Unix stream", unix(Manner::Sleeps)),
                row("local-ipc ring, no spin", Contender::Ring { spins: false }),
            ],
        ),
        Group {
            pause_micros: SILENCE_MICROS,
            ..group(
                "One machine, round trip, receivers asleep, 300 us of silence before each question",
                Waiting::Woken,
                Shape::RoundTrip,
                vec![
                    row("Unix stream", unix(Manner::Sleeps)),
                    row("local-ipc ring, no spin", Contender::Ring { spins: false }),
                    row("Weft call, kv Get", Contender::WeftLocal),
                ],
            )
        },
        group(
            "Two nodes over loopback, round trip",
            Waiting::Woken,
            Shape::RoundTrip,
            vec![
                row("raw quinn, one stream", Contender::Quinn),
                row("Weft call, kv Get", Contender::WeftRemote),
                row("daemon to daemon, Ping", Contender::KernelPing),
            ],
        ),
        group(
            "One machine, 64 requests on their way",
            Waiting::AsItComes,
            Shape::Window(WINDOW),
            vec![
                row("Unix stream, batched", unix(Manner::Sleeps)),
                row("Unix stream, a write each", unix(Manner::OneByOne)),
                row("local-ipc ring, awake", Contender::Ring { spins: true }),
                row("Weft, kv Get", Contender::WeftLocal),
            ],
        ),
        group(
            "Two nodes over loopback, 64 requests on their way",
            Waiting::AsItComes,
            Shape::Window(WINDOW),
            vec![
                row("raw quinn, one stream", Contender::Quinn),
                row("Weft, kv Get", Contender::WeftRemote),
            ],
        ),
    ]
}
