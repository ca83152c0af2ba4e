//! The rows of the table, and what each is held against.

use clap::ValueEnum;
use serde::Serialize;

use crate::cell::{Cell, Figures, Pattern, Transport, Wait};
use crate::machine::Cores;

const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;
/// Channels on which nothing comes.
const IDLE: usize = 1000;

/// After so many microseconds who waits is asleep. Two sides that answer at once may each find the next
/// message before they are.
const ASLEEP_AFTER: u64 = 50;

/// In what way two figures are compared.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub enum Sense {
    /// Our time in times of the other's: the smaller the better.
    AtMost,
    /// Our rate in times of the other's.
    AtLeast,
    /// How many times faster we are, be it times or rates.
    Faster,
}

/// What a ratio should be.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Bar {
    /// In what way.
    pub sense: Sense,
    /// The bar; without it the ratio is stated only.
    pub at_least: Option<f64>,
    /// What to go for beyond it.
    pub go_for: Option<f64>,
}

impl Bar {
    const fn stated(sense: Sense) -> Self {
        Self {
            sense,
            at_least: None,
            go_for: None,
        }
    }

    const fn new(sense: Sense, at_least: f64) -> Self {
        Self {
            at_least: Some(at_least),
            ..Self::stated(sense)
        }
    }

    const fn at_most(ratio: f64) -> Self {
        Self::new(Sense::AtMost, ratio)
    }

    const fn at_least(ratio: f64) -> Self {
        Self::new(Sense::AtLeast, ratio)
    }

    const fn faster(ratio: f64) -> Self {
        Self::new(Sense::Faster, ratio)
    }

    const fn go_for(self, ratio: f64) -> Self {
        Self {
            go_for: Some(ratio),
            ..self
        }
    }

    /// The ratio of our figure and the other's, in this bar's sense.
    pub(crate) fn ratio(self, ours: &Figures, other: &Figures) -> f64 {
        let speed = speed(ours, other);
        match self.sense {
            Sense::AtMost => 1.0 / speed,
            Sense::AtLeast | Sense::Faster => speed,
        }
    }

    /// Whether a ratio is as good as another.
    pub(crate) fn is_met(self, ratio: f64, asked: f64) -> bool {
        match self.sense {
            Sense::AtMost => ratio <= asked,
            Sense::AtLeast | Sense::Faster => ratio >= asked,
        }
    }

    /// The sign before what is asked.
    pub(crate) fn sign(self) -> &'static str {
        match self.sense {
            Sense::AtMost => "≤",
            Sense::AtLeast | Sense::Faster => "≥",
        }
    }

    /// A ratio as how many times faster that is.
    pub(crate) fn as_speed(self, ratio: f64) -> f64 {
        match self.sense {
            Sense::AtMost => 1.0 / ratio,
            Sense::AtLeast | Sense::Faster => ratio,
        }
    }
}

/// How many times as fast as the other we are.
fn speed(ours: &Figures, other: &Figures) -> f64 {
    match ours {
        Figures::Latency(_) => other.main() / ours.main(),
        Figures::Throughput(_) => ours.main() / other.main(),
    }
}

/// What a row is held against.
#[derive(Clone, Debug)]
pub(crate) struct Against {
    pub(crate) cell: Key,
    pub(crate) bar: Bar,
}

/// A cell apart from the machine's cores and the length of a run.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Key {
    transport: Transport,
    pattern: Pattern,
    size: usize,
    wait: Wait,
    pub(crate) one_core: bool,
    senders: usize,
    row: u64,
    idle: usize,
    unchecked: bool,
    /// How long each side is left alone before a trip, so that it is asleep, in microseconds.
    pause: u64,
}

/// One row of the table.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) title: &'static str,
    pub(crate) cell: Key,
    pub(crate) against: Vec<Against>,
}

const LAT: Key = Key {
    transport: Transport::Weft,
    pattern: Pattern::Lat,
    size: 64,
    wait: Wait::Spin,
    one_core: false,
    senders: 1,
    row: 1,
    idle: 0,
    unchecked: false,
    pause: 0,
};
const TPUT: Key = Key {
    pattern: Pattern::Tput,
    row: 32,
    ..LAT
};

fn against(cell: Key, bar: Bar) -> Against {
    Against { cell, bar }
}

/// What this program can measure beside what it always can.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Built {
    /// There is a program without the checks: the price of safety is a row.
    pub(crate) unchecked: bool,
    /// Rows under a runtime.
    pub(crate) tokio: bool,
}

impl Built {
    /// As this program is built.
    pub(crate) fn with(unchecked: bool) -> Self {
        Self {
            unchecked,
            tokio: cfg!(feature = "tokio"),
        }
    }
}

/// The whole table, as far as it can be measured.
pub(crate) fn rows(built: Built) -> Vec<Row> {
    let by = |transport, cell: Key| Key { transport, ..cell };
    let sized = |size, cell: Key| Key { size, ..cell };
    let parked = Key {
        wait: Wait::Park,
        pause: ASLEEP_AFTER,
        ..LAT
    };
    // Here the pause would take the core from who is to go to sleep.
    let one_core = Key {
        one_core: true,
        pause: 0,
        ..parked
    };
    let fanin = Key {
        pattern: Pattern::Fanin,
        senders: 8,
        ..TPUT
    };
    let mega = Key {
        row: 1,
        ..sized(MIB, TPUT)
    };
    let row = |title, cell, against| Row {
        title,
        cell,
        against,
    };
    let mut rows = vec![
        row(
            "round trip 32 B, awake",
            sized(32, LAT),
            vec![against(
                by(Transport::Slot, sized(32, LAT)),
                Bar::at_most(1.2).go_for(1.05),
            )],
        ),
        row(
            "round trip 64 B, awake",
            LAT,
            vec![
                against(by(Transport::Slot, LAT), Bar::at_most(1.35).go_for(1.15)),
                against(by(Transport::Iceoryx, LAT), Bar::faster(4.0).go_for(6.0)),
                against(
                    by(Transport::IceoryxRequest, LAT),
                    Bar::faster(5.0).go_for(8.0),
                ),
                against(by(Transport::Pipe, parked), Bar::faster(250.0)),
                against(by(Transport::Unix, parked), Bar::faster(250.0)),
                against(by(Transport::Pipe, one_core), Bar::faster(35.0)),
            ],
        ),
        row(
            "round trip 4 KiB in place, awake",
            sized(4096, LAT),
            vec![
                against(by(Transport::Slot, sized(4096, LAT)), Bar::at_most(1.0)),
                against(by(Transport::Iceoryx, sized(4096, LAT)), Bar::faster(2.0)),
            ],
        ),
        row(
            "round trip 64 B, both asleep, two cores, 50 µs between trips",
            parked,
            vec![
                against(by(Transport::Futex, parked), Bar::at_most(1.05)),
                against(by(Transport::IceoryxEvent, parked), Bar::at_most(0.9)),
                against(by(Transport::Pipe, parked), Bar::at_most(1.15)),
            ],
        ),
        row(
            "round trip 64 B, one core, both asleep",
            one_core,
            vec![
                against(by(Transport::Futex, one_core), Bar::at_most(1.05)),
                against(by(Transport::Pipe, one_core), Bar::at_most(1.0)),
            ],
        ),
        row(
            "round trip 64 B, one core, send_and_yield: who waits gives up the core, then sleeps",
            Key {
                wait: Wait::Yield,
                ..one_core
            },
            vec![
                against(by(Transport::Futex, one_core), Bar::at_most(1.05)),
                against(by(Transport::Pipe, one_core), Bar::at_most(1.0)),
                against(by(Transport::IceoryxEvent, one_core), Bar::at_most(0.4)),
            ],
        ),
        row(
            "one way 64 B, rows of 32",
            TPUT,
            vec![
                against(by(Transport::Ring128, TPUT), Bar::at_least(0.8).go_for(1.0)),
                against(
                    by(Transport::UnixBatched, Key { row: 1024, ..TPUT }),
                    Bar::at_least(1.2).go_for(2.0),
                ),
                against(by(Transport::Iceoryx, TPUT), Bar::at_least(20.0)),
                against(by(Transport::Crossbeam, TPUT), Bar::at_least(1.5)),
            ],
        ),
        row(
            "one way 64 B, one by one",
            Key { row: 1, ..TPUT },
            vec![against(
                by(Transport::Ring128, TPUT),
                Bar::at_least(0.8).go_for(1.0),
            )],
        ),
        row(
            "one way 32 B in slots of a line, rows of 32",
            sized(32, TPUT),
            vec![against(
                by(Transport::Ring64, sized(32, TPUT)),
                Bar::at_least(0.8).go_for(1.0),
            )],
        ),
        row(
            "one way 4 KiB in place",
            sized(4096, TPUT),
            vec![
                against(
                    by(Transport::RingPage, sized(4096, TPUT)),
                    Bar::at_least(0.9),
                ),
                against(
                    by(Transport::Iceoryx, sized(4096, TPUT)),
                    Bar::at_least(2.5),
                ),
            ],
        ),
        row(
            "one way 1 MiB in place, loans of a heap",
            by(Transport::WeftHeap, mega),
            vec![
                against(by(Transport::RingMega, mega), Bar::at_least(0.9)),
                against(by(Transport::Iceoryx, mega), Bar::at_least(1.4)),
            ],
        ),
        row(
            "8 senders to 1 receiver, 64 B",
            fanin,
            vec![against(
                by(Transport::Ring128, fanin),
                Bar::at_least(0.5).go_for(0.9),
            )],
        ),
        row(
            "the same by an inbox, in order of priority",
            by(Transport::WeftInbox, fanin),
            vec![against(
                by(Transport::Ring128, fanin),
                Bar::at_least(0.3).go_for(0.9),
            )],
        ),
        row(
            "inbox with 1,000 idle channels and one active, one way 64 B",
            Key {
                idle: IDLE,
                ..by(Transport::WeftInbox, TPUT)
            },
            vec![
                against(TPUT, Bar::at_least(0.7).go_for(0.9)),
                against(by(Transport::WeftInbox, TPUT), Bar::stated(Sense::AtLeast)),
            ],
        ),
        first(
            "first message on one of 1,000 cold channels, inbox spins (two threads)",
            Transport::WeftInbox,
            Wait::Spin,
        ),
        first(
            "first message on one of 1,000 cold channels, inbox sleeps (two threads)",
            Transport::WeftInbox,
            Wait::Park,
        ),
        first(
            "the same, a doorbell for each channel",
            Transport::WeftInboxDoorbell,
            Wait::Park,
        ),
        row(
            "tokio: recv().await, round trip 64 B, awake",
            by(Transport::WeftTokio, LAT),
            vec![
                against(LAT, Bar::stated(Sense::AtMost).go_for(2.0)),
                against(by(Transport::UnixTokio, parked), Bar::stated(Sense::Faster)),
            ],
        ),
        row(
            "round trip 1 GiB by reference, already mapped, untouched, awake",
            by(Transport::WeftReference, sized(GIB, LAT)),
            vec![against(LAT, Bar::at_most(2.0))],
        ),
        hand_over(
            "first hand-over of 1 MiB: made, frozen, passed, mapped, until the answer",
            MIB,
        ),
        hand_over("first hand-over of 1 GiB", GIB),
    ];
    rows.retain(|row| built.tokio || row.cell.transport != Transport::WeftTokio);
    if built.unchecked {
        let unchecked = |cell: Key| Key {
            unchecked: true,
            ..cell
        };
        rows.push(row(
            "the price of safety: round trip 64 B, awake, all checks on",
            LAT,
            vec![against(unchecked(LAT), Bar::at_most(1.1).go_for(1.03))],
        ));
        rows.push(row(
            "the price of safety: one way 64 B, rows of 32, all checks on",
            TPUT,
            vec![against(unchecked(TPUT), Bar::stated(Sense::AtLeast))],
        ));
    }
    rows
}

/// Held against the same with one channel.
fn first(title: &'static str, transport: Transport, wait: Wait) -> Row {
    let cell = Key {
        transport,
        pattern: Pattern::First,
        wait,
        idle: IDLE,
        ..LAT
    };
    let one = Key { idle: 1, ..cell };
    Row {
        title,
        cell,
        against: vec![against(one, Bar::stated(Sense::AtMost))],
    }
}

fn hand_over(title: &'static str, size: usize) -> Row {
    let by = |transport| Key {
        transport,
        size,
        ..LAT
    };
    Row {
        title,
        cell: by(Transport::WeftHandOver),
        against: vec![against(
            by(Transport::BareHandOver),
            Bar::stated(Sense::AtMost),
        )],
    }
}

impl Key {
    pub(crate) fn cell(self, cores: Cores, millis: u64) -> Cell {
        Cell {
            transport: self.transport,
            pattern: self.pattern,
            size: self.size,
            millis,
            cores: if self.one_core {
                [cores.ask; 2]
            } else {
                [cores.ask, cores.answer]
            },
            senders: self.senders,
            wait: self.wait,
            row: self.row,
            pause_micros: self.pause,
            idle: self.idle,
            unchecked: self.unchecked,
        }
    }

    /// Whether it is a cell of Weft's.
    pub(crate) fn is_ours(&self) -> bool {
        self.name().starts_with("weft")
    }

    /// That of no other cell.
    pub(crate) fn full_name(&self) -> String {
        let (pattern, wait) = (self.pattern, self.wait);
        let name = self.name();
        format!("{name}, {pattern:?}, {wait:?}, rows of {}", self.row)
    }

    pub(crate) fn name(&self) -> String {
        let transport = self.transport.to_possible_value();
        let transport = transport.as_ref().map_or("?", |value| value.get_name());
        let mut name = format!("{transport} {}", bytes(self.size));
        match (self.pattern, self.idle) {
            (Pattern::First, 1) => name.push_str(", one channel"),
            (Pattern::First, channels) => name.push_str(&format!(", {channels} channels")),
            (_, 0) => {}
            (_, idle) => name.push_str(&format!(", {idle} idle")),
        }
        if self.one_core {
            name.push_str(", one core");
        }
        if self.unchecked {
            name.push_str(", unchecked");
        }
        name
    }
}

fn bytes(size: usize) -> String {
    for (unit, name) in [(GIB, "GiB"), (MIB, "MiB"), (1024, "KiB")] {
        if size >= unit && size.is_multiple_of(unit) {
            return format!("{} {name}", size / unit);
        }
    }
    format!("{size} B")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::cell::{Latency, Throughput};

    const ALL: Built = Built {
        unchecked: true,
        tokio: true,
    };

    #[test]
    fn every_row_is_one_of_ours_and_held_against_something() {
        for row in rows(ALL) {
            assert!(!row.against.is_empty(), "{}", row.title);
            assert!(row.cell.is_ours(), "{}", row.title);
            assert!(!row.cell.unchecked, "{}", row.title);
            for other in row.against {
                let name = other.cell.full_name();
                assert_ne!(name, row.cell.full_name(), "{}", row.title);
            }
        }
    }

    #[test]
    fn no_two_cells_have_one_name() {
        let mut keys = BTreeMap::new();
        for row in rows(ALL) {
            for key in std::iter::once(row.cell).chain(row.against.iter().map(|other| other.cell)) {
                let old = keys.insert(key.full_name(), key);
                assert!(old.is_none_or(|old| old == key), "{}", key.full_name());
            }
        }
    }

    #[test]
    fn what_is_not_built_is_no_row() {
        let unchecked = |row: &Row| row.against.iter().any(|other| other.cell.unchecked);
        let tokio = |row: &Row| {
            let others = row.against.iter().map(|other| other.cell.transport);
            others
                .chain([row.cell.transport])
                .any(|of| matches!(of, Transport::WeftTokio | Transport::UnixTokio))
        };
        assert!(rows(ALL).iter().any(unchecked) && rows(ALL).iter().any(tokio));
        let none = Built {
            unchecked: false,
            tokio: false,
        };
        assert!(!rows(none).iter().any(|row| unchecked(row) || tokio(row)));
    }

    #[test]
    fn times_and_rates_are_compared_the_right_way_round() {
        let time = |p50_ns| {
            Figures::Latency(Latency {
                p50_ns,
                p99_ns: 0,
                p999_ns: 0,
                mean_ns: 0.0,
                min_ns: 0,
                n: 1,
            })
        };
        let rate = |msgs_per_s| Figures::Throughput(Throughput { msgs_per_s, n: 1 });
        let most = Bar::at_most(1.2);
        assert_eq!(most.ratio(&time(110), &time(100)), 1.1);
        assert!(most.is_met(1.1, 1.2) && !most.is_met(1.3, 1.2));
        let least = Bar::at_least(0.8);
        assert_eq!(least.ratio(&rate(90.0), &rate(100.0)), 0.9);
        assert!(least.is_met(0.9, 0.8) && !least.is_met(0.7, 0.8));
        let faster = Bar::faster(4.0);
        assert_eq!(faster.ratio(&time(100), &time(500)), 5.0);
        assert_eq!(faster.ratio(&rate(500.0), &rate(100.0)), 5.0);
        assert_eq!((most.as_speed(2.0), least.as_speed(2.0)), (0.5, 2.0));
    }

    #[test]
    fn sizes_are_named_by_whole_units() {
        let names = [64, 1000, 4096, MIB, GIB].map(bytes);
        assert_eq!(names, ["64 B", "1000 B", "4 KiB", "1 MiB", "1 GiB"]);
    }
}
