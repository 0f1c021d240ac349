//! Statistics, metrics and log lines of Envoy and the filter about failures, and their absence without one.

use std::net::TcpListener;
use std::time::Duration;

use serde_json::{Value, json};
use stack::document::{at_mut, set};
use stack::{LISTED_HOST, Options, Stack};

use super::{filter_log, newest};

/// The tests of this file.
pub(crate) const ALL: &[(&str, fn())] = &[
    ("the_clusters_statistics_show_why_entra_is_unreachable", statistics_show_the_cause),
    ("a_timeout_of_an_exchange_is_reported_with_its_duration", a_timeout_is_reported),
    ("a_start_with_warm_tokens_and_probes_counts_no_failure", a_start_counts_no_failure),
    ("a_401_from_an_upstream_is_counted_and_logged_with_identity_scope_and_destination", a_401_is_counted_and_logged),
];

/// The sum of a statistic over both clusters for Entra.
fn of_entra(stack: &Stack, statistic: &str) -> u64 {
    let all = stack.envoy.admin("/stats?filter=cluster.entra").unwrap();
    let values = ["entra", "entra_new_connection"].map(|cluster| {
        let start = format!("cluster.{cluster}.{statistic}: ");
        all.lines().find_map(|line| line.strip_prefix(&start)?.parse::<u64>().ok()).unwrap_or_default()
    });
    values.iter().sum()
}

fn series(stack: &Stack, start: &str) -> Option<u64> {
    let all = stack.envoy.admin("/stats/prometheus?filter=entra_exchange").unwrap();
    all.lines().find_map(|line| line.strip_prefix(start)?.trim().parse().ok())
}

/// A stack with this change to the clusters for Entra.
fn with_entra(change: impl Fn(&mut Value) + Send + 'static) -> Stack {
    let edit = move |document: &mut Value| {
        for cluster in ["entra", "entra_new_connection"] {
            change(at_mut(document, &format!("static_resources.clusters[{cluster}]")).unwrap());
        }
    };
    newest(Options { concurrency: 1, edit: Some(Box::new(edit)), ..Options::default() })
}

fn statistics_show_the_cause() {
    const VALIDATION: &str = "transport_socket.typed_config.common_tls_context.validation_context";
    type Change = fn(&mut Value);
    let causes: [(&str, Change); 3] = [
        ("upstream_cx_connect_fail", |cluster| {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let address = "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.port_value";
            set(cluster, address, port).unwrap();
        }),
        ("ssl.fail_verify_san", |cluster| {
            let names = json!([{"san_type": "DNS", "matcher": {"exact": "other.example"}}]);
            set(cluster, &format!("{VALIDATION}.match_typed_subject_alt_names"), names).unwrap();
        }),
        ("ssl.fail_verify_error", |cluster| {
            let ca = at_mut(cluster, &format!("{VALIDATION}.trusted_ca.filename")).unwrap();
            *ca = json!(ca.as_str().unwrap().replace("entra-ca", "upstream-ca"));
        }),
    ];
    for (grows, change) in causes {
        let stack = with_entra(change);
        let answer = stack.get(LISTED_HOST, "/", &[]);
        let problem = answer.json();
        assert_eq!((answer.status, problem["code"].as_str()), (503, Some("entra_unavailable")), "{}", answer.text());
        let remedy = problem["remedy"].as_str().unwrap();
        for (statistic, _) in causes {
            assert!(remedy.contains(statistic), "{remedy}");
            // A failed handshake counts as a failed connection, too.
            let expected = statistic == grows || statistic == "upstream_cx_connect_fail";
            assert_eq!(of_entra(&stack, statistic) > 0, expected, "{statistic} where {grows} is wrong");
        }
        let log = stack.log();
        assert!(log.contains("class=transient") && log.contains(" took_ms="), "{}", filter_log(&log));
    }
}

fn a_timeout_is_reported() {
    let mut configuration = super::scenarios::destination(&json!({}));
    configuration["limits"] = json!({"exchange": "1s"});
    let stack =
        newest(Options { concurrency: 1, configuration: Some(configuration.to_string()), ..Options::default() });
    stack.directory().add_faults(vec![fake_entra::Fault::delay(Duration::from_secs(5)).times(2)]);
    let answer = stack.get(LISTED_HOST, "/", &[]);
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert_eq!((answer.status, detail.contains("answered")), (503, false), "{detail}");
    assert!(detail.starts_with("no response from cluster") && detail.contains("within limits.exchange"), "{detail}");
    let log = stack.log();
    let failed = log.lines().find(|line| line.contains("outcome=failed")).unwrap();
    let took = failed.split("took_ms=").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
    assert!(took.is_some_and(|took| took >= 400), "{failed}");
    assert!(of_entra(&stack, "upstream_rq_timeout") > 0);
}

fn a_start_counts_no_failure() {
    let mut configuration = super::scenarios::destination(&json!({"warm": true}));
    configuration["managed_identity"] = json!({"imds": {}, "health": {"hosts": [stack::HEALTH_HOST]}});
    let stack =
        newest(Options { concurrency: 2, configuration: Some(configuration.to_string()), ..Options::default() });
    let probe = stack::Request::get(stack::HEALTH_HOST, "/readyz");
    assert!(stack::eventually(Duration::from_secs(10), || stack.send_health(&probe).unwrap().status == 200));
    let issued = "entra_exchange_exchanges_total{identity=\"default\",outcome=\"issued\",class=\"none\"} ";
    assert!(stack::eventually(Duration::from_secs(10), || series(&stack, issued).is_some_and(|count| count > 0)));
    assert_eq!(series(&stack, "entra_exchange_ready{identity=\"default\"} "), Some(1));
    let all = stack.envoy.admin("/stats/prometheus?filter=entra_exchange").unwrap();
    assert!(!all.contains("assertion_unavailable") && !all.contains("outcome=\"failed\""), "{all}");
}

fn a_401_is_counted_and_logged() {
    let stack = newest(Options { concurrency: 1, ..Options::default() });
    for _ in 0..3 {
        assert_eq!(stack.get(LISTED_HOST, "/status/401", &[]).status, 401);
    }
    let expected = "event=rejected by=upstream identity=default scope=https://vault.azure.net/.default \
                    decided_by=destinations[0] status=401 next_forced_in_ms=30000 detail=";
    let log = stack.log();
    assert_eq!(log.matches(expected).count(), 1, "{}", filter_log(&log));
    let counted = || series(&stack, "entra_exchange_upstream_rejections_total{identity=\"default\"} ") == Some(3);
    assert!(stack::eventually(Duration::from_secs(10), counted));
}
