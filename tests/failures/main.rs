//! The commonest failures at run time, each caused in a real Envoy: the message alone names cause, place and remedy.
//!
//! `messages/NAME.txt` is the message of a failure. With `UPDATE=1` the tests write the messages anew: read each of them as the operator who
//! sees it at night.

// A test may panic.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

#[path = "../caught/mod.rs"]
mod caught;
mod causes;
mod message;

use std::process::ExitCode;

use caught::caught;
use libtest_mimic::{Arguments, Trial};
use stack::{Options, Request, Response, Stack, root};

/// A failure: how it is caused, and the request that shows it.
pub(crate) struct Failure {
    /// The name, as of its message's file.
    pub(crate) name: &'static str,
    /// What differs from a working stack before Envoy starts.
    pub(crate) options: fn() -> Options,
    /// What goes wrong after the start.
    pub(crate) cause: fn(&Stack),
    /// The request.
    pub(crate) request: fn() -> Ask,
}

/// A request, and the listener that it is sent to.
pub(crate) enum Ask {
    /// To a service.
    Outbound(Request),
    /// To the listener for managed identity.
    ManagedIdentity(Request),
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // The tests mostly wait for Envoy's start.
    arguments.test_threads.get_or_insert(4);
    assert!(causes::ALL.len() >= 40, "{}", causes::ALL.len());
    let trials = causes::ALL.iter().map(|failure| Trial::test(failure.name, move || caught(|| test(failure))));
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

fn test(failure: &Failure) {
    let stack = Stack::start((failure.options)()).unwrap();
    (failure.cause)(&stack);
    let response: Response = match (failure.request)() {
        Ask::Outbound(request) => request.send(stack.outbound_addr()).unwrap(),
        Ask::ManagedIdentity(request) => request.send(stack.imds_addr()).unwrap(),
    };
    let found = message::of(&response);
    let path = root().join("tests/failures/messages").join(format!("{}.txt", failure.name));
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == expected, "the message is\n{found}\nand {} has\n{expected}", path.display());
    let unexpected = stack.forbidden_log_lines();
    assert!(unexpected.is_empty(), "unexpected lines in the log:\n{}", unexpected.join("\n"));
}
