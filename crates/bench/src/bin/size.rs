//! `make bench-size`: measures the module's size, and the memory of Envoy with and without the filter.

use std::fs;

use bench::BenchResult;
use bench::figures::row;
use bench::process;
use serde_json::Value;
use stack::{LISTED_HOST, Options, Stack, document, sidecar};

fn main() -> BenchResult<()> {
    let path = stack::module()?;
    println!("{}: {} bytes\n", path.display(), fs::metadata(&path)?.len());
    row("memory of Envoy, MiB", &["resident".to_owned(), "not of files".to_owned()]);
    for workers in [1, 2, 8] {
        for with_filter in [false, true] {
            let (resident, anonymous) = envoy_memory(workers, with_filter)?;
            let name = format!("{workers} worker(s), {} the filter", if with_filter { "with" } else { "without" });
            row(&name, &[mebibytes(resident), mebibytes(anonymous)]);
        }
    }
    Ok(())
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}

/// Returns the resident memory of an Envoy that has served a hundred requests.
fn envoy_memory(workers: u32, with_filter: bool) -> BenchResult<(u64, u64)> {
    let edit = move |document: &mut Value| {
        for listener in sidecar::WITH_FILTER {
            let filters =
                format!("static_resources.listeners[{listener}].filter_chains[0].filters[0].typed_config.http_filters");
            if let Ok(Value::Array(filters)) = document::at_mut(document, &filters) {
                filters.retain(|filter| with_filter || filter["name"] != "entra-exchange");
            }
        }
    };
    let stack = Stack::start(Options { concurrency: workers, edit: Some(Box::new(edit)), ..Options::default() })?;
    for _ in 0..100 {
        stack.get(LISTED_HOST, "/empty", &[]);
    }
    process::resident(stack.envoy.pid())
}
