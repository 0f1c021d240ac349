//! Runs the real Azure SDKs, each in its own process as in an app, against the shipped module in a real Envoy.
//!
//! SDKs whose runtime the README does not require are ignored by default; `make test-sdks` runs them. `docs/compatibility.md` has the
//! results. A run with other results fails; with `UPDATE=1` it updates the document.

// A test may panic.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

#[path = "../caught/mod.rs"]
mod caught;
mod harness;
mod rust;
mod scenarios;
mod sdk;
mod table;

use std::process::ExitCode;

use caught::caught;
use libtest_mimic::{Arguments, Trial};

use harness::Harness;
use scenarios::Scenario;
use sdk::Sdk;
use table::Table;

fn main() -> ExitCode {
    if let Some(done) = rust::run() {
        return done;
    }
    let mut arguments = Arguments::from_args();
    // Most of the time is spent waiting for Envoys and SDK processes.
    arguments.test_threads.get_or_insert(4);
    let table = Table::default();
    let mut trials = Vec::new();
    for sdk in &sdk::ALL {
        let selected = sdk.always || arguments.ignored || arguments.include_ignored;
        if selected && (sdk.driver)().is_none() {
            println!("skipping {} for {}: not installed; run scripts/fetch-sdks", sdk.name, sdk.language);
            continue;
        }
        for scenario in scenarios::ALL.iter().filter(|scenario| scenario.applies_to(sdk)) {
            trials.push(trial(sdk, scenario, &table));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    if let Err(difference) = table.check() {
        eprintln!("{difference}");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

fn trial(sdk: &'static Sdk, scenario: &'static Scenario, table: &Table) -> Trial {
    let table = table.clone();
    let name = format!("{}_{}", sdk.id, scenario.sentence);
    let test = move || {
        caught(|| {
            let harness = Harness::start(sdk);
            for source in scenario.sources(sdk) {
                let result = (scenario.run)(&harness, source);
                table.add(sdk, source, scenario, harness.version(), result);
            }
        })
    };
    Trial::test(name, test).with_kind(sdk.language).with_ignored_flag(!sdk.always)
}
