//! `make bench-load`: measures the cost of requests that wait for a connection, and how many of many requests that are resumed at once
//! succeed.
//!
//! Other processes distort durations on a shared machine. Therefore the cost is the CPU time of Envoy's process, and latencies are
//! compared with those of the same Envoy just before, when no request waited. The program prints medians.

use std::error::Error;
use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use fake_entra::Fault;
use serde_json::json;
use stack::{LISTED_HOST, Options, Stack, UNLISTED_HOST, document, sidecar};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

type LoadResult<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// The timeout of a measurement.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The number of requests to the unlisted host in one measurement.
const PROBES: usize = 300;
/// The duration of one measurement of CPU time.
const SPAN: Duration = Duration::from_secs(2);
/// The number of measurements of CPU time.
const ROUNDS: usize = 3;

fn main() -> LoadResult<()> {
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
async fn connections(number: usize) -> LoadResult<()> {
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
    unlisted.latency().await?;
    let quiet = unlisted.latency().await?;
    let mut waiting = Vec::new();
    for _ in 0..number {
        let mut stream = TcpStream::connect(stack.outbound_addr()).await?;
        stream.write_all(get(LISTED_HOST).as_bytes()).await?;
        waiting.push(stream);
    }
    let pending = "cluster.payments_kv.upstream_rq_pending_active";
    until(|| Ok(stack.envoy.stat(pending)? == Some(number as u64))).await?;
    let mut costs = Vec::new();
    for _ in 0..ROUNDS {
        let (before, since) = (cpu(&stack)?, Instant::now());
        tokio::time::sleep(SPAN).await;
        costs.push((cpu(&stack)? - before).as_secs_f64() / since.elapsed().as_secs_f64() * 100.0);
    }
    costs.sort_by(f64::total_cmp);
    let busy = unlisted.latency().await?;
    println!(
        "{number} requests waiting for connections: {:.1} % of a core; a request to an unlisted host takes {:.2} ms (p99 {:.2} ms), without them {:.2} ms (p99 {:.2} ms)",
        costs[ROUNDS / 2],
        millis(busy[PROBES / 2]),
        millis(busy[PROBES * 99 / 100]),
        millis(quiet[PROBES / 2]),
        millis(quiet[PROBES * 99 / 100]),
    );
    Ok(())
}

/// Measures two workers with this number of concurrent requests whose token is not cached.
async fn release(number: usize) -> LoadResult<()> {
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
            let status = connection.request(LISTED_HOST).await?;
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

fn get(host: &str) -> String {
    format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n")
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// A persistent connection.
struct Connection(TcpStream);

impl Connection {
    async fn open(addr: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(Self(stream))
    }

    /// Sends a GET, reads the complete response and returns its status.
    async fn request(&mut self, host: &str) -> std::io::Result<u16> {
        self.0.write_all(get(host).as_bytes()).await?;
        let (mut response, mut part) = (Vec::new(), [0; 16384]);
        loop {
            let read = tokio::time::timeout(TIMEOUT, self.0.read(&mut part)).await??;
            response.extend_from_slice(&part[..read]);
            let text = String::from_utf8_lossy(&response);
            let status = text.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_default();
            let Some((head, body)) = text.split_once("\r\n\r\n") else {
                if read == 0 {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
                continue;
            };
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            if read == 0
                || length.is_some_and(|length: usize| body.len() >= length)
                || head.contains("chunked") && body.ends_with("0\r\n\r\n")
            {
                return Ok(status);
            }
        }
    }

    /// Returns the latencies of [`PROBES`] requests to the unlisted host in ascending order.
    async fn latency(&mut self) -> std::io::Result<Vec<Duration>> {
        let mut times = Vec::new();
        for _ in 0..PROBES {
            let since = Instant::now();
            self.request(UNLISTED_HOST).await?;
            times.push(since.elapsed());
        }
        times.sort_unstable();
        Ok(times)
    }
}

async fn until(mut holds: impl FnMut() -> LoadResult<bool>) -> LoadResult<()> {
    let deadline = Instant::now() + TIMEOUT;
    while !holds()? {
        if Instant::now() > deadline {
            return Err("the condition did not hold within the timeout".into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Returns the CPU time that Envoy has used. The kernel counts it in hundredths of a second, in fields 14 and 15 of `stat` (proc(5)).
fn cpu(stack: &Stack) -> LoadResult<Duration> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", stack.envoy.pid()))?;
    let fields = stat.rsplit_once(')').map(|(_, fields)| fields).unwrap_or_default();
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 10))
}
