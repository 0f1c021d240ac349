//! Compares the time of a decision with ten and with ten thousand destinations: `make bench`.
//!
//! The result is the ratio, not the time. This is a benchmark and not a test, because load on the machine affects it.

// A benchmark may panic.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use std::hint::black_box;
use std::process::ExitCode;
use std::time::Instant;

use entra_exchange_core::config::Config;
use entra_exchange_core::decision::Decision;
use entra_exchange_core::policy::Policy;
use entra_exchange_core::request::{DescribedRequest, RequestView};
use serde_json::{Value, json};

const FEW: usize = 10;
const MANY: usize = 10_000;
const ROUNDS: usize = 41;
const REQUESTS: usize = 2_000;

/// The ratio above which the time depends on the number of rules. Smaller differences are due to the processor's cache.
const LIMIT: f64 = 4.0;

fn sent(authority: &str, path: &str) -> DescribedRequest {
    DescribedRequest::new("GET", authority, path)
}

/// A kind of rule: its name, and the rule and a matching request for a number.
type Kind = (&'static str, fn(usize) -> Value, fn(usize) -> DescribedRequest);

const KINDS: &[Kind] = &[
    (
        "hosts",
        |number| json!({"hosts": [format!("kv-{number}.vault.azure.net")]}),
        |number| sent(&format!("kv-{number}.vault.azure.net"), "/secrets/a"),
    ),
    (
        "wildcards",
        |number| json!({"hosts": [format!("*.team-{number}.example.com")]}),
        |number| sent(&format!("a.team-{number}.example.com"), "/"),
    ),
    (
        "paths on one host",
        |number| json!({"hosts": ["api.example.com"], "path_prefixes": [format!("/tenants/{number}")]}),
        |number| sent("api.example.com", &format!("/tenants/{number}/orders/1")),
    ),
    (
        "an unlisted host",
        |number| json!({"hosts": [format!("kv-{number}.vault.azure.net")]}),
        |number| sent(&format!("other-{number}.example.com"), "/"),
    ),
];

fn main() -> ExitCode {
    let mut grows = false;
    println!("{:<20} {:>14} {:>14} {:>7}", "", format!("{FEW} rules"), format!("{MANY} rules"), "ratio");
    for kind in KINDS {
        let (few, many) = (nanoseconds(kind, FEW), nanoseconds(kind, MANY));
        println!("{:<20} {few:>11.0} ns {many:>11.0} ns {:>7.2}", kind.0, many / few);
        grows |= many / few > LIMIT;
    }
    if grows { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// The time of one decision in nanoseconds: the median of many rounds.
fn nanoseconds((_, rule, request): &Kind, rules: usize) -> f64 {
    let destinations: Vec<Value> = (0..rules).map(rule).collect();
    let text = json!({
        "identities": [{
            "tenant_id": "11111111-1111-4111-8111-111111111111", "client_id": "aaaaaaaa-0000-4000-8000-000000000001",
        }],
        "defaults": {"scope": "https://vault.azure.net/.default", "plaintext": "allow"},
        "destinations": destinations,
    });
    let policy = Policy::new(&Config::parse(text.to_string().as_bytes(), &|_| None).unwrap(), false);
    // The same number of different requests, spread over all rules.
    let requests: Vec<DescribedRequest> = (0..FEW).map(|number| request(number * (rules / FEW))).collect();
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let started = Instant::now();
            for number in 0..REQUESTS {
                let decision: Decision = policy.decide(&RequestView::new(black_box(&requests[number % FEW])));
                black_box(&decision);
            }
            started.elapsed().as_secs_f64() * 1e9 / REQUESTS as f64
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[ROUNDS / 2]
}
