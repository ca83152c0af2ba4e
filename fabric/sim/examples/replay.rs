//! Runs one seed, or a range of seeds, of one scenario (or of all) and prints what came of it:
//!
//! ```text
//! cargo run -p weft-sim --example replay -- SEED [SCENARIO [EVENTS]]
//! cargo run -p weft-sim --example replay -- FIRST..END [SCENARIO]
//! ```
//!
//! A violation shows its last events, 60 if nothing else is said. A range prints violations only,
//! each with its last event, and how many runs there were.

use std::ops::Range;
use std::process::ExitCode;

use weft_sim::{Scenario, Simulation};

fn seeds(text: &str) -> Option<Range<u64>> {
    match text.split_once("..") {
        Some((first, end)) => Some(first.parse().ok()?..end.parse().ok()?),
        None => {
            let seed: u64 = text.parse().ok()?;
            Some(seed..seed.checked_add(1)?)
        }
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(seeds) = arguments.next().and_then(|text| seeds(&text)) else {
        eprintln!("usage: replay SEED [SCENARIO [EVENTS]] | replay FIRST..END [SCENARIO]");
        return ExitCode::from(2);
    };
    let wanted = arguments.next();
    let mut scenarios = Scenario::all();
    scenarios.retain(|scenario| wanted.as_deref().is_none_or(|name| name == scenario.name));
    let shown = arguments.next().and_then(|text| text.parse().ok());
    if scenarios.is_empty() {
        let names: Vec<_> = Scenario::all()
            .iter()
            .map(|scenario| scenario.name)
            .collect();
        eprintln!("no such scenario; there are {}", names.join(", "));
        return ExitCode::from(2);
    }
    let single = seeds.end - seeds.start == 1;
    let (mut runs, mut violations) = (0_u64, 0_u64);
    for scenario in &mut scenarios {
        scenario.shown_events = match shown {
            _ if !single => 1,
            None => scenario.shown_events,
            Some(shown) => shown,
        };
        for seed in seeds.clone() {
            runs += 1;
            match Simulation::run(seed, scenario) {
                Ok(summary) if single => println!("{}: {summary:#?}", scenario.name),
                Ok(_) => {}
                Err(mut violation) => {
                    violations += 1;
                    if !single {
                        violation
                            .events
                            .drain(..violation.events.len().saturating_sub(1));
                    }
                    println!("{violation}");
                }
            }
        }
    }
    println!("{runs} runs, {violations} violations");
    if violations == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
