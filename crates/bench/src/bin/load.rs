//! `make bench-load`: measures the cost of requests that wait for a connection, and how many of many requests that are resumed at once
//! succeed.
//!
//! Other processes distort durations on a shared machine. Therefore the cost is the CPU time of Envoy's process, and latencies are
//! compared with those of the same Envoy just before, when no request waited. The program prints medians.

use std::time::{Duration, Instant};

use bench::connection::{Connection, get};
use bench::figures::{median, millis};
use bench::{BenchResult, process};
use fake_entra::Fault;
use serde_json::json;
use stack::{LISTED_HOST, Options, Stack, UNLISTED_HOST, document, sidecar};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// The timeout of a measurement.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The number of requests to the unlisted host in one measurement.
const PROBES: usize = 300;
/// The duration of one measurement of CPU time.
const SPAN: Duration = Duration::from_secs(2);
/// The number of measurements of CPU time.
const ROUNDS: usize = 3;

fn main() -> BenchResult<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let numbers = arguments.iter().skip(1).map(|number| number.parse()).collect::<Result<Vec<usize>, _>>()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for number in numbers {
        match arguments.first().map(String::as_str) {
            Some("connections") => runtime.block_on(connections(number))?,
            Some("release") => runtime.block_on(release(number))?,
            _ => return Err("usage: load connections|release <number of requests>...".into()),
        }
    }
    Ok(())
}

/// Measures one worker with this number of requests that wait for connections to an upstream that never completes a TLS handshake.
async fn connections(number: usize) -> BenchResult<()> {
    let silent = TcpListener::bind("127.0.0.1:0").await?;
    let port = silent.local_addr()?.port();
    let edit = move |document: &mut serde_json::Value| {
        let moved = sidecar::move_into_cluster(document, "payments_kv");
        debug_assert!(moved.is_ok());
        if let Ok(cluster) = document::at_mut(document, "static_resources.clusters[payments_kv]") {
            cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]["port_value"] =
                json!(port);
            cluster["connect_timeout"] = json!("600s");
            cluster["circuit_breakers"] = json!({"thresholds": [{"max_connections": 4000, "max_pending_requests": 20000, "max_requests": 20000}]});
        }
    };
    let configuration = json!({
        "destinations": [{"hosts": [LISTED_HOST], "scope": "https://vault.azure.net/.default"}],
        "limits": {"wait": "60s", "waiting": 20000},
    });
    let stack = Stack::start(Options {
        concurrency: 1,
        configuration: Some(configuration.to_string()),
        edit: Some(Box::new(edit)),
        ..Options::default()
    })?;
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = silent.accept().await {
            held.push(stream);
        }
    });
    let mut unlisted = Connection::open(stack.outbound_addr()).await?;
    latency(&mut unlisted).await?;
    let quiet = latency(&mut unlisted).await?;
    let mut waiting = Vec::new();
    for _ in 0..number {
        let mut stream = TcpStream::connect(stack.outbound_addr()).await?;
        stream.write_all(get(LISTED_HOST, "/").as_bytes()).await?;
        waiting.push(stream);
    }
    let pending = "cluster.payments_kv.upstream_rq_pending_active";
    until(|| Ok(stack.envoy.stat(pending)? == Some(number as u64))).await?;
    let mut costs = Vec::new();
    for _ in 0..ROUNDS {
        let (before, since) = (process::cpu(stack.envoy.pid())?, Instant::now());
        tokio::time::sleep(SPAN).await;
        costs.push((process::cpu(stack.envoy.pid())? - before).as_secs_f64() / since.elapsed().as_secs_f64() * 100.0);
    }
    let busy = latency(&mut unlisted).await?;
    println!(
        "{number} requests waiting for connections: {:.1} % of a core; a request to an unlisted host takes {:.2} ms (p99 {:.2} ms), without them {:.2} ms (p99 {:.2} ms)",
        median(costs),
        millis(busy[PROBES / 2]),
        millis(busy[PROBES * 99 / 100]),
        millis(quiet[PROBES / 2]),
        millis(quiet[PROBES * 99 / 100]),
    );
    Ok(())
}

/// Measures two workers with this number of concurrent requests whose token is not cached.
async fn release(number: usize) -> BenchResult<()> {
    let edit = |document: &mut serde_json::Value| {
        // DEFAULT_BREAKERS measures Envoy's default circuit breakers instead of those in the manifest.
        if std::env::var_os("DEFAULT_BREAKERS").is_some()
            && let Ok(cluster) = document::at_mut(document, "static_resources.clusters[payments_kv]")
        {
            cluster["circuit_breakers"] = json!({});
        }
    };
    let stack = Stack::start(Options { edit: Some(Box::new(edit)), ..Options::default() })?;
    stack.directory().add_faults(vec![Fault::delay(Duration::from_secs(4))]);
    let mut requests = JoinSet::new();
    for _ in 0..number {
        let mut connection = Connection::open(stack.outbound_addr()).await?;
        requests.spawn(async move {
            let status = connection.request(LISTED_HOST, "/").await?;
            Ok::<_, std::io::Error>((status, Instant::now()))
        });
    }
    let mut statuses = std::collections::BTreeMap::new();
    let (mut first, mut last) = (None::<Instant>, None::<Instant>);
    while let Some(ended) = requests.join_next().await {
        let (status, at) = ended??;
        *statuses.entry(status).or_insert(0) += 1;
        first = Some(first.map_or(at, |first| first.min(at)));
        last = Some(last.map_or(at, |last| last.max(at)));
    }
    let took = last.zip(first).map(|(last, first)| last - first).unwrap_or_default();
    println!(
        "{number} requests without a cached token: {statuses:?} in {took:?}, {} exchange(s), overflow {:?}",
        stack.directory().stats().token_requests,
        stack.envoy.stat("cluster.payments_kv.upstream_rq_pending_overflow")?,
    );
    Ok(())
}

/// Returns the latencies of [`PROBES`] requests to the unlisted host in ascending order.
async fn latency(connection: &mut Connection) -> std::io::Result<Vec<Duration>> {
    let mut times = Vec::new();
    for _ in 0..PROBES {
        let since = Instant::now();
        connection.request(UNLISTED_HOST, "/").await?;
        times.push(since.elapsed());
    }
    times.sort_unstable();
    Ok(times)
}

async fn until(mut holds: impl FnMut() -> BenchResult<bool>) -> BenchResult<()> {
    let deadline = Instant::now() + TIMEOUT;
    while !holds()? {
        if Instant::now() > deadline {
            return Err("the condition did not hold within the timeout".into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
