//! `make bench-cold`: measures how long many requests wait that start at the same time, when no token is cached.
//!
//! The token endpoint delays its response by 100 ms. The same number of requests in an Envoy that has the token is the measure: both Envoys
//! are new, so both open their connections to the upstream during the burst.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bench::BenchResult;
use bench::connection::Connection;
use bench::figures::{median, millis, row};
use fake_entra::Fault;
use serde_json::json;
use stack::{LISTED_HOST, Options, Stack, document};
use tokio::task::JoinSet;

/// How long the token endpoint takes.
const DELAY: Duration = Duration::from_millis(100);

fn main() -> BenchResult<()> {
    let mut numbers = std::env::args().skip(1).map(|number| number.parse::<usize>());
    let requests = numbers.next().unwrap_or(Ok(900))?;
    let rounds = numbers.next().unwrap_or(Ok(5))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut statuses = BTreeMap::new();
    let (mut cold, mut cached) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        cold.push(millis(runtime.block_on(burst(requests, false, &mut statuses))?));
        cached.push(millis(runtime.block_on(burst(requests, true, &mut statuses))?));
    }
    println!(
        "{requests} requests at once, 2 workers, {rounds} rounds, exchange delayed by {DELAY:?}; statuses: {statuses:?}\n"
    );
    row("", &["last, ms".to_owned()]);
    row("token cached", &[format!("{:.0}", median(cached.clone()))]);
    row("no token cached", &[format!("{:.0}", median(cold.clone()))]);
    let ratio = cold.iter().zip(&cached).map(|(cold, cached)| (cold - millis(DELAY)) / cached);
    println!("\nthe last without a token, less the delay, over the last with one: {:.2} ×", median(ratio));
    Ok(())
}

/// Returns the time until the last of this number of requests has its response.
async fn burst(requests: usize, cached: bool, statuses: &mut BTreeMap<u16, usize>) -> BenchResult<Duration> {
    let edit = |document: &mut serde_json::Value| {
        // The access log would be most of the work.
        if let Ok(manager) =
            document::at_mut(document, "static_resources.listeners[outbound].filter_chains[0].filters[0].typed_config")
        {
            manager["access_log"] = json!([]);
        }
    };
    let stack = Stack::start(Options { edit: Some(Box::new(edit)), ..Options::default() })?;
    if cached {
        // Both workers get the token into their own memory.
        for _ in 0..16 {
            Connection::open(stack.outbound_addr()).await?.request(LISTED_HOST, "/empty").await?;
        }
    }
    stack.directory().add_faults(vec![Fault::delay(DELAY)]);
    let mut connections = Vec::new();
    for _ in 0..requests {
        connections.push(Connection::open(stack.outbound_addr()).await?);
    }
    let start = Instant::now();
    let mut running = JoinSet::new();
    for mut connection in connections {
        running.spawn(async move {
            let status = connection.request(LISTED_HOST, "/empty").await?;
            Ok::<_, std::io::Error>((status, Instant::now()))
        });
    }
    let mut last = start;
    while let Some(ended) = running.join_next().await {
        let (status, at) = ended??;
        *statuses.entry(status).or_default() += 1;
        last = last.max(at);
    }
    let exchanges = stack.directory().stats().token_requests;
    if exchanges != 1 {
        return Err(format!("{exchanges} exchanges instead of one").into());
    }
    Ok(last - start)
}
