//! What a request costs in the module, in wasmtime's fuel: about one for each instruction, and the same in every run.
//!
//! `benches/module-fuel.txt` holds the numbers, so that a change that costs is seen in its diff. This test fails when one
//! of them is off by more than a percent: less is the compiler's choice of what to inline, which an edit elsewhere in the
//! module moves. With `BENCH_WRITE=1` it writes them anew.

// A test may fail where it stands.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod sidecar;

use std::fs;

use sidecar::simple::Answers;
use sidecar::{to_imds, to_service};
use stack::{LISTED_HOST, UNLISTED_HOST};
use wasm_host::{Module, Request};

const REQUESTS: u64 = 100;

const HEAD: &str = "\
# What a request costs in the module, in wasmtime's fuel: about one for each instruction. The mean of 100 requests with
# the token in the VM's own memory, from the first look at the headers to the end of the stream. `make bench-module`
# writes this file, and `make test` fails when a number is off by more than a percent.
";

#[test]
fn a_request_costs_what_is_written() {
    let module = Module::metered(&sidecar::module_bytes()).unwrap();
    let costs: Vec<(&str, u64)> = [
        ("cached_inject", to_service(LISTED_HOST)),
        ("unlisted_host", to_service(UNLISTED_HOST)),
        ("managed_identity_answer", to_imds("https://vault.azure.net")),
    ]
    .iter()
    .map(|(name, request)| (*name, cost(&module, request)))
    .collect();
    let path = stack::root().join("benches/module-fuel.txt");
    if std::env::var_os("BENCH_WRITE").is_some() {
        let lines: String = costs.iter().map(|(name, cost)| format!("{name} {cost}\n")).collect();
        fs::write(&path, format!("{HEAD}\n{lines}")).unwrap();
    }
    let text = fs::read_to_string(&path).unwrap();
    let kept: Vec<(&str, u64)> = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split_once(' ').unwrap())
        .map(|(name, cost)| (name, cost.parse().unwrap()))
        .collect();
    let same = kept.len() == costs.len()
        && kept.iter().zip(&costs).all(|(kept, now)| kept.0 == now.0 && kept.1.abs_diff(now.1) * 100 <= kept.1);
    assert!(
        same,
        "the module costs more or less than before: run `make bench-module`, and look at the diff\nkept: {kept:?}\n now: {costs:?}"
    );
}

fn cost(module: &Module, request: &Request) -> u64 {
    let host = sidecar::builder(module).workers(1).start().unwrap();
    let worker = host.worker(0);
    let mut answers = Answers::default();
    let mut one = || {
        let stream = worker.request(request.clone());
        answers.serve(&host);
        stream.end();
    };
    // The first has the token fetched, the next ones let the VM's memory settle.
    (0..10).for_each(|_| one());
    worker.fuel();
    (0..REQUESTS).for_each(|_| one());
    worker.fuel() / REQUESTS
}
