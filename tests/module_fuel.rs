//! Measures the cost of a request in the module in wasmtime's fuel: about one unit per instruction, and the same in every run.
//!
//! `benches/module-fuel.txt` contains the figures, so that a diff shows a change of the cost. This test fails when a figure
//! differs by more than one percent. Smaller differences come from the compiler's inlining, which an edit elsewhere in the
//! module can change. `BENCH_WRITE=1` rewrites the file.

// A test may panic.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod sidecar;

use std::fs;

use sidecar::simple::Answers;
use sidecar::{to_imds, to_service};
use stack::{LISTED_HOST, UNLISTED_HOST};
use wasm_host::{Module, Request, Worker};

const REQUESTS: u64 = 100;

/// The name of a request in the files, and the request.
type RequestKind = (&'static str, fn() -> Request);

/// The requests that are measured.
const REQUEST_KINDS: &[RequestKind] = &[
    ("cached_inject", || to_service(LISTED_HOST)),
    ("unlisted_host", || to_service(UNLISTED_HOST)),
    ("managed_identity_answer", || to_imds("https://vault.azure.net")),
];

const HEAD: &str = "\
# The cost of a request in the module in wasmtime's fuel, about one unit per instruction: the mean of 100 requests in
# a VM that has sent a token, from the request headers to the end of the stream. `make bench-module` writes this file,
# and `make test` fails when a figure differs by more than one percent.
";

#[test]
fn the_cost_of_a_request_is_the_recorded_one() {
    let module = Module::metered(&sidecar::module_bytes()).unwrap();
    let costs: Vec<(&str, u64)> =
        REQUEST_KINDS.iter().map(|(name, request)| (*name, cost(&module, &request()))).collect();
    let path = stack::root().join("benches/module-fuel.txt");
    if std::env::var_os("BENCH_WRITE").is_some() {
        let lines: String = costs.iter().map(|(name, cost)| format!("{name} {cost}\n")).collect();
        fs::write(&path, format!("{HEAD}\n{lines}")).unwrap();
    }
    let text = fs::read_to_string(&path).unwrap();
    let recorded: Vec<(&str, u64)> = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split_once(' ').unwrap())
        .map(|(name, cost)| (name, cost.parse().unwrap()))
        .collect();
    let same = recorded.len() == costs.len()
        && recorded.iter().zip(&costs).all(|(old, new)| old.0 == new.0 && old.1.abs_diff(new.1) * 100 <= old.1);
    assert!(
        same,
        "the cost of a request has changed: run `make bench-module` and check the diff\nrecorded: {recorded:?}\nmeasured: {costs:?}"
    );
}

/// What Envoy is asked for a request in a worker that has sent a token: `benches/module-host-calls.txt` holds each call, so that one
/// more is seen in its diff.
#[test]
fn a_cached_request_makes_the_host_calls_that_are_written() {
    let module = Module::new(&sidecar::module_bytes()).unwrap();
    let lines: String = REQUEST_KINDS.iter().map(|(name, request)| host_calls(&module, name, &request())).collect();
    let path = stack::root().join("benches/module-host-calls.txt");
    let head = "# The host calls of one request in a VM that has sent a token. BENCH_WRITE=1 writes this file.\n\n";
    if std::env::var_os("BENCH_WRITE").is_some() {
        fs::write(&path, format!("{head}{lines}")).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap_or_default(), format!("{head}{lines}"));
}

/// Requests of one application are alike: after a listed host, the authority is not read on its own, and after an unlisted one nothing
/// else is.
#[test]
fn all_headers_are_read_first_after_a_request_that_needed_them() {
    let host = sidecar::builder(&Module::new(&sidecar::module_bytes()).unwrap()).workers(1).start().unwrap();
    let worker = host.worker(0);
    let mut answers = Answers::default();
    let mut reads = |name: &str| {
        worker.host_calls();
        let stream = worker.request(to_service(name));
        answers.serve(&host);
        stream.end();
        let calls = worker.host_calls();
        let number = |function: &str| calls.get(function).copied().unwrap_or_default();
        (number("proxy_get_header_map_value"), number("proxy_get_header_map_pairs"))
    };
    reads(LISTED_HOST);
    assert_eq!(reads(LISTED_HOST), (0, 1));
    assert_eq!(reads(UNLISTED_HOST), (0, 1), "after a listed host");
    assert_eq!(reads(UNLISTED_HOST), (2, 0), "the authority, and the header of a redirect");
    assert_eq!(reads(LISTED_HOST), (1, 1), "after an unlisted host");
}

/// One line for each function of the host that a request calls, with its number of calls.
fn host_calls(module: &Module, name: &str, request: &Request) -> String {
    let calls = measured(module, request, |worker, one| {
        worker.host_calls();
        one();
        worker.host_calls()
    });
    calls.into_iter().map(|(function, calls)| format!("{name} {function} {calls}\n")).collect()
}

fn cost(module: &Module, request: &Request) -> u64 {
    measured(module, request, |worker, one| {
        worker.fuel();
        (0..REQUESTS).for_each(|_| one());
        worker.fuel() / REQUESTS
    })
}

/// Measures a worker that has sent a token, as any does after its start. `measure` gets a function that serves one such request.
fn measured<T>(module: &Module, request: &Request, measure: impl FnOnce(&Worker<'_>, &mut dyn FnMut()) -> T) -> T {
    let host = sidecar::builder(module).workers(1).start().unwrap();
    let worker = host.worker(0);
    let mut answers = Answers::default();
    let mut serve = |request: Request| {
        let stream = worker.request(request);
        answers.serve(&host);
        stream.end();
    };
    serve(to_service(LISTED_HOST));
    // The first request fetches the token; the next ones let the VM's memory reach its final size.
    (0..10).for_each(|_| serve(request.clone()));
    measure(&worker, &mut || serve(request.clone()))
}
