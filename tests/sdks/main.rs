//! The Azure SDKs themselves, each in a process of its own as an app runs it, against the module that ships in a real Envoy.
//!
//! Those that need more than the README asks for are ignored here and run by `make test-sdks`. What they do is told in
//! `docs/compatibility.md`; a run that shows something else fails, and with `UPDATE=1` writes it there.

// A test may fail where it stands.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod cases;
#[path = "../caught/mod.rs"]
mod caught;
mod rust;
mod sdk;
mod table;
mod world;

use std::process::ExitCode;

use caught::caught;
use libtest_mimic::{Arguments, Trial};

use cases::Case;
use sdk::Sdk;
use table::Table;
use world::World;

fn main() -> ExitCode {
    if let Some(done) = rust::run() {
        return done;
    }
    let mut arguments = Arguments::from_args();
    // Each Envoy has workers of its own and each SDK a process, and most of the time is waited for.
    arguments.test_threads.get_or_insert(4);
    let table = Table::default();
    let mut trials = Vec::new();
    for sdk in &sdk::ALL {
        let wanted = sdk.always || arguments.ignored || arguments.include_ignored;
        if wanted && (sdk.driver)().is_none() {
            println!("{} for {} is left out: it is not installed (scripts/fetch-sdks).", sdk.name, sdk.language);
            continue;
        }
        for case in cases::ALL.iter().filter(|case| case.concerns(sdk)) {
            trials.push(trial(sdk, case, &table));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    if let Err(difference) = table.settle() {
        eprintln!("{difference}");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

fn trial(sdk: &'static Sdk, case: &'static Case, table: &Table) -> Trial {
    let table = table.clone();
    let name = format!("{}_{}", sdk.id, case.sentence);
    let test = move || {
        caught(|| {
            let world = World::start(sdk);
            for source in case.sources(sdk) {
                let result = (case.run)(&world, source);
                table.add(sdk, source, case, world.version(), result);
            }
        })
    };
    Trial::test(name, test).with_kind(sdk.language).with_ignored_flag(!sdk.always)
}
