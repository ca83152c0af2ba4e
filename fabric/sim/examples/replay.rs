//! Runs one seed of one scenario (or of all) and prints what came of it:
//!
//! ```text
//! cargo run -p weft-sim --example replay -- SEED [SCENARIO]
//! ```

use std::process::ExitCode;

use weft_sim::{Scenario, Simulation};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(seed) = arguments.next().and_then(|seed| seed.parse().ok()) else {
        eprintln!("usage: replay SEED [SCENARIO]");
        return ExitCode::from(2);
    };
    let wanted = arguments.next();
    let scenarios: Vec<Scenario> = Scenario::all()
        .into_iter()
        .filter(|scenario| {
            wanted
                .as_deref()
                .is_none_or(|wanted| wanted == scenario.name)
        })
        .collect();
    if scenarios.is_empty() {
        let names: Vec<_> = Scenario::all()
            .iter()
            .map(|scenario| scenario.name)
            .collect();
        eprintln!("no such scenario; there are {}", names.join(", "));
        return ExitCode::from(2);
    }
    let mut status = ExitCode::SUCCESS;
    for scenario in scenarios {
        match Simulation::run(seed, &scenario) {
            Ok(summary) => println!("{}: {summary:#?}", scenario.name),
            Err(violation) => {
                println!("{violation}");
                status = ExitCode::FAILURE;
            }
        }
    }
    status
}
