//! `make bench-envoy`: measures what each filter adds to the CPU time of a request in Envoy.

use bench::BenchResult;
use bench::chain::{self, Chain, Chains, Form};
use bench::figures::{median, row};
use serde_json::{Value, json};
use stack::{LISTED_HOST, Options, Stack, UNLISTED_HOST};

const EMPTY: &str = "no filter";
const LUA: &str = "Lua, looks the host up, sets a header";
const FLOOR_PASS: &str = "only the host calls to pass";
const FLOOR_INJECT: &str = "only the host calls to inject";
const CACHED: &str = "entra-exchange, cached token";
const UNLISTED: &str = "entra-exchange, unlisted host";
const MANY: &str = "entra-exchange, 10,000 destinations";

/// The ratios that have targets: what, over what.
const RATIOS: [(&str, &str); 4] = [(CACHED, FLOOR_INJECT), (CACHED, LUA), (UNLISTED, FLOOR_PASS), (MANY, CACHED)];

fn main() -> BenchResult<()> {
    let rounds = std::env::args().nth(1).map_or(Ok(5), |rounds| rounds.parse())?;
    let value = injected_value()?;
    println!("Envoy's CPU time per request; {rounds} rounds; a header of {} bytes is set", value.len());
    for workers in [1, 2] {
        for form in [Form::Listener, Form::Cluster] {
            measure(form, workers, rounds, &value)?;
        }
    }
    Ok(())
}

/// Returns the header that the product injects, so that the other filters set one of the same size.
fn injected_value() -> BenchResult<String> {
    let response = Stack::start(Options { concurrency: 1, ..Options::default() })?.get(LISTED_HOST, "/", &[]);
    let value = response.seen_header("authorization").ok_or_else(|| format!("no token: {}", response.text()))?;
    Ok(format!("Bearer {}", "x".repeat(value.len() - "Bearer ".len())))
}

fn measure(form: Form, workers: u32, rounds: usize, value: &str) -> BenchResult<()> {
    let folder = tempfile::tempdir()?;
    let secret = folder.path().join("secret.json");
    let inline = json!({"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        "name": "bench", "generic_secret": {"secret": {"inline_string": value}}});
    std::fs::write(&secret, json!({"resources": [inline]}).to_string())?;
    let own = |name, destinations: Vec<Value>| chain::product(name, &configuration(&destinations));
    let one = vec![chain::destination(form)];
    let floor = |name, text| chain::floor(folder.path(), name, text, value.len());
    let mut chains = vec![
        Chain::new(EMPTY, None),
        Chain::new("header_mutation, sets a header", Some(chain::header_mutation(value))),
        Chain::new("credential_injector, sets a header", Some(chain::credential_injector(&secret))),
    ];
    if form == Form::Listener {
        // Envoy has no Lua in a cluster's chain.
        chains.push(Chain::new(LUA, Some(chain::lua(value))));
    }
    chains.extend([
        Chain::new(FLOOR_PASS, Some(floor("pass", include_str!("../floor/pass.wat"))?)),
        Chain::new(FLOOR_INJECT, Some(floor("inject", include_str!("../floor/inject.wat"))?)),
        Chain::new(CACHED, Some(own("cached", one.clone())?)),
        // The same VM, which has sent a token: the filter then also looks for the header of a redirect.
        Chain::new(UNLISTED, Some(own("cached", one)?)).for_host(UNLISTED_HOST),
        Chain::new(MANY, Some(own("many", ten_thousand(form))?)),
    ]);
    let running = Chains::start(form, workers, &chains, "/empty", None)?;
    check(&running, &chains, value)?;
    let costs = running.measure(rounds)?;

    let cost = |name: &str| {
        let index = chains.iter().position(|chain| chain.name == name);
        index.map(|index| costs.iter().map(|round| round[index]).collect::<Vec<f64>>())
    };
    let empty = cost(EMPTY).unwrap_or_default();
    let added = |name: &str| {
        cost(name).map(|costs| costs.iter().zip(&empty).map(|(cost, empty)| cost - empty).collect::<Vec<f64>>())
    };
    println!("\n{} worker(s), {}\n", workers, place(form));
    row("", &["µs per request".to_owned(), "µs added".to_owned()]);
    for chain in &chains {
        let (whole, more) = (cost(chain.name).unwrap_or_default(), added(chain.name).unwrap_or_default());
        row(chain.name, &[format!("{:.1}", median(whole)), format!("{:.2}", median(more))]);
    }
    println!();
    for (what, over) in RATIOS {
        if let (Some(what_costs), Some(over_costs)) = (added(what), added(over)) {
            let ratios = what_costs.iter().zip(&over_costs).map(|(what, over)| what / over);
            println!(
                "{what}, over {over}: {:.2} × (of the medians: {:.2} ×)",
                median(ratios),
                median(what_costs.clone()) / median(over_costs.clone())
            );
        }
    }
    Ok(())
}

/// Checks that each chain does what its name says.
fn check(running: &Chains, chains: &[Chain], value: &str) -> BenchResult<()> {
    for (index, chain) in chains.iter().enumerate() {
        let response = running.send(index, "/")?;
        let sets_header = ![EMPTY, FLOOR_PASS, UNLISTED].contains(&chain.name);
        let length = response.seen_header("authorization").map(|seen| seen.len());
        if length != sets_header.then_some(value.len()) {
            return Err(format!("`{}` sent a header of {length:?} bytes: {}", chain.name, response.text()).into());
        }
    }
    Ok(())
}

fn place(form: Form) -> &'static str {
    match form {
        Form::Listener => "in a listener's filter chain, upstream in plaintext",
        Form::Cluster => "in a cluster's filter chain, upstream with TLS",
        Form::Replying => "in a listener's filter chain that answers itself",
    }
}

fn configuration(destinations: &[Value]) -> Value {
    json!({"entra": {"clusters": ["entra", "entra_new_connection"]}, "destinations": destinations})
}

/// Returns the destination of the listed host after 9,999 others.
fn ten_thousand(form: Form) -> Vec<Value> {
    let other = |index| {
        let mut destination = chain::destination(form);
        destination["hosts"] = json!([format!("service-{index}.vault.azure.net")]);
        destination
    };
    (1..10_000).map(other).chain([chain::destination(form)]).collect()
}
