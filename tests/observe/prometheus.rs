//! A Prometheus that scrapes an Envoy.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{env, fs};

use serde_json::{Value, json};
use stack::{Request, eventually, root};
use tempfile::TempDir;

/// How often it scrapes and evaluates rules, in milliseconds: Prometheus' usual 15 s would be 50 ms by the test's factor, which is
/// more than a small machine can do.
const INTERVAL: &str = "250ms";

/// Stops when dropped.
pub(crate) struct Prometheus {
    child: Child,
    addr: SocketAddr,
    _folder: TempDir,
}

/// A program of Prometheus: where `make prometheus` puts it, or on the `PATH`.
pub(crate) fn program(name: &str) -> PathBuf {
    let fetched = root().join(".tools/prometheus/usr/bin").join(name);
    if fetched.is_file() { fetched } else { PathBuf::from(name) }
}

impl Prometheus {
    /// Starts one that scrapes `envoy`'s `/stats/prometheus` and evaluates `rules`, and waits until it answers.
    pub(crate) fn start(envoy: SocketAddr, rules: &Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &Value| {
            let path = folder.path().join(name);
            // JSON is YAML.
            fs::write(&path, content.to_string()).unwrap();
            path
        };
        let rules = file("rules.yaml", rules);
        let config = file(
            "prometheus.yaml",
            &json!({
                "global": {"scrape_interval": INTERVAL, "scrape_timeout": INTERVAL, "evaluation_interval": INTERVAL},
                "rule_files": [rules],
                "scrape_configs": [{
                    "job_name": "envoy", "metrics_path": "/stats/prometheus", "params": {"filter": ["entra_exchange"]},
                    "static_configs": [{"targets": [envoy.to_string()]}],
                }],
            }),
        );
        let addr = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let log = fs::File::create(env::temp_dir().join("entra-exchange-prometheus.log")).unwrap();
        let child = Command::new(program("prometheus"))
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={addr}"))
            // A sample counts for five minutes by default: a scrape or two may fail.
            .arg("--query.lookback-delta=2s")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("prometheus: {error}: run `make prometheus`"));
        let prometheus = Self { child, addr, _folder: folder };
        let ready = Request::get("prometheus", "/-/ready");
        let is_ready = || ready.send(addr).is_ok_and(|answer| answer.status == 200);
        assert!(eventually(Duration::from_secs(30), is_ready), "Prometheus does not start");
        prometheus
    }

    /// What an expression gives now.
    pub(crate) fn query(&self, expression: &str) -> Vec<Value> {
        let encoded: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let request = Request::post("prometheus", "/api/v1/query", format!("query={encoded}"))
            .header("content-type", "application/x-www-form-urlencoded");
        let answer = request.send(self.addr).unwrap();
        assert_eq!(answer.status, 200, "{expression}: {}", answer.text());
        answer.json()["data"]["result"].as_array().cloned().unwrap_or_default()
    }

    /// Whether an alert fires now.
    pub(crate) fn fires(&self, alert: &str) -> bool {
        !self.query(&format!("ALERTS{{alertname=\"{alert}\",alertstate=\"firing\"}}")).is_empty()
    }

    /// All alerts that fire now.
    pub(crate) fn firing(&self) -> Vec<String> {
        let all = self.query("ALERTS{alertstate=\"firing\"}");
        all.iter().map(|alert| alert["metric"].to_string()).collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
