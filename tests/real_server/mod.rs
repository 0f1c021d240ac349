//! Runs tests against one real server, which is started only if the tests are selected: they are ignored by default.

use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Trial};
use stack::StartError;

use crate::caught::caught;

/// A test: a sentence that it proves, and a function that panics if the sentence is not true.
pub(crate) type Test<S> = (&'static str, fn(&S));

/// Starts the server, runs the tests and stops the server.
pub(crate) fn run<S: Send + Sync + 'static>(start: fn() -> Result<S, StartError>, tests: &[Test<S>]) -> ExitCode {
    let arguments = Arguments::from_args();
    let is_selected = (arguments.ignored || arguments.include_ignored) && !arguments.list;
    let server = match is_selected.then(start).transpose() {
        Ok(server) => server.map(Arc::new),
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let trial = |(name, test): &Test<S>| {
        let (server, test) = (server.clone(), *test);
        let run = move || caught(AssertUnwindSafe(|| test(server.as_deref().expect("the server runs"))));
        Trial::test(*name, run).with_ignored_flag(true)
    };
    libtest_mimic::run(&arguments, tests.iter().map(trial).collect()).exit_code()
}
