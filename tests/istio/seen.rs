//! The filter's metrics in Istio, and the headers that an egress gateway sends to the service.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use stack::document::{at_mut, set};
use stack::{LISTED_HOST, Mesh, Options, Request, sidecar};

use crate::form::{Form, HTTP};
use crate::manifest::{GATEWAY, SIDECAR, WORKLOAD, manifest};
use crate::start;

/// The tags in the pod's annotation `sidecar.istio.io/extraStatTags`.
fn extra_stat_tags(file: &str) -> Vec<String> {
    let metadata = manifest(file).object("Deployment")["spec"]["template"]["metadata"].take();
    let tags = metadata["annotations"]["sidecar.istio.io/extraStatTags"].as_str().unwrap_or_default();
    tags.split(',').filter(|tag| !tag.is_empty()).map(str::to_owned).collect()
}

/// The `stats_config` of Istio's bootstrap: one expression for each of `extraStatTags`, those of Istio's tag expressions that are not
/// anchored at the beginning of a name, and the inclusion list (istio/istio, tools/packaging/common/envoy_bootstrap.json).
fn stats_config(extra: &[String]) -> Value {
    let mut tags: Vec<Value> =
        extra.iter().map(|tag| json!({"tag_name": tag, "regex": format!(r"({tag}=\.=(.*?);\.;)")})).collect();
    for (tag, regex) in [
        ("response_code", r"_rq(_(\d{3}))$"),
        ("cache", r"(cache\.(.+?)\.)"),
        ("component", r"(component\.(.+?)\.)"),
        ("tag", r"(tag\.(.+?);\.)"),
        ("wasm_filter", r"(wasm_filter\.(.+?)\.)"),
        ("authz_enforce_result", r"rbac(\.(allowed|denied))"),
    ] {
        tags.push(json!({"tag_name": tag, "regex": regex}));
    }
    let included = [
        "reporter=",
        "cluster_manager",
        "listener_manager",
        "server",
        "cluster.xds-grpc",
        "wasm",
        "component",
        "istio",
    ];
    let included: Vec<Value> = included.iter().map(|prefix| json!({"prefix": prefix})).collect();
    json!({
        "use_all_default_tags": false,
        "stats_tags": tags,
        "stats_matcher": {"inclusion_list": {"patterns": included}},
    })
}

/// The name and the sorted labels of a Prometheus series.
fn series(line: &str) -> (String, BTreeMap<String, String>) {
    let (name, rest) = line.split_once('{').unwrap();
    let labels = rest.split_once('}').unwrap().0;
    let labels = labels.split(',').filter_map(|label| label.split_once('='));
    (name.to_owned(), labels.map(|(label, value)| (label.to_owned(), value.trim_matches('"').to_owned())).collect())
}

#[test]
fn istio_exposes_the_metrics_with_the_tags_of_the_annotation_as_labels() {
    const REFUSED: &str = "refused.example";
    let tags = extra_stat_tags(WORKLOAD);
    assert_eq!(tags, extra_stat_tags(GATEWAY));
    let form = Form::sidecar(
        json!({"defaults": {"tls_clusters": ["outbound|80||{host}"]}, "destinations": [
            {"azure_service": "key_vault", "names": ["payments-kv"]},
            {"hosts": [REFUSED], "action": "refuse"},
        ]}),
        &[LISTED_HOST, REFUSED],
    );
    let edit = Box::new(move |bootstrap: &mut Value| {
        form.into_istio(bootstrap);
        bootstrap["stats_config"] = stats_config(&tags);
    });
    let stack = start(Options { edit: Some(edit), ..Options::default() });
    assert_eq!((stack.get(LISTED_HOST, "/", &[]).status, stack.get(REFUSED, "/", &[]).status), (200, 403));

    let expected: &[(&str, &[(&str, &str)])] = &[
        ("entra_exchange_requests_total", &[("identity", "default"), ("outcome", "injected")]),
        ("entra_exchange_requests_total", &[("outcome", "refused"), ("code", "refused_by_rule")]),
        ("entra_exchange_exchanges_total", &[("identity", "default"), ("outcome", "issued"), ("class", "none")]),
        ("entra_exchange_assertion_reads_total", &[("source", "file"), ("outcome", "read")]),
        ("entra_exchange_token_expiry_timestamp_seconds", &[("identity", "default")]),
        ("entra_exchange_build_info", &[("version", env!("CARGO_PKG_VERSION"))]),
        ("entra_exchange_exchange_ms_count", &[]),
        ("entra_exchange_waiters", &[]),
    ];
    let mut shown = String::new();
    let complete = stack::eventually(Duration::from_secs(10), || {
        shown = stack.envoy.admin("/stats/prometheus").unwrap();
        let all: Vec<_> = shown.lines().filter(|line| line.starts_with("entra_exchange")).map(series).collect();
        expected.iter().all(|(name, labels)| {
            all.iter().any(|(found, with)| {
                found == name
                    && labels.iter().all(|(label, value)| with.get(*label).is_some_and(|found| found == value))
            })
        })
    });
    assert!(complete, "{shown}");
    // A tag that is not in the annotation would remain in a metric's name. Envoy's own metrics about the filter begin with `envoy_`.
    let of_the_module =
        |line: &&str| line.contains("entra_exchange") && !line.starts_with('#') && !line.starts_with("envoy_");
    let ours: Vec<&str> = shown.lines().filter(of_the_module).collect();
    for line in ours {
        let name = series(line).0;
        assert!(name.starts_with("entra_exchange_") && !name.contains("__") && !name.ends_with('_'), "{line}");
    }
}

#[test]
fn the_egress_gateway_does_not_send_the_clients_certificate_and_address_to_the_service() {
    let mesh = Mesh::new().unwrap();
    for removes in [false, true] {
        let socket = mesh.transport_socket().unwrap();
        let edit = Box::new(move |bootstrap: &mut Value| {
            Form::envoy_filter(GATEWAY).into_istio(bootstrap);
            let chain = format!("static_resources.listeners[{}].filter_chains[0]", sidecar::OUTBOUND);
            at_mut(bootstrap, &chain).unwrap()["transport_socket"] = socket;
            // Istio sets these on every gateway.
            let http = at_mut(bootstrap, &format!("static_resources.listeners[{}].{HTTP}", sidecar::OUTBOUND)).unwrap();
            http["use_remote_address"] = json!(true);
            http["forward_client_cert_details"] = json!("SANITIZE_SET");
            http["set_current_client_cert_details"] = json!({"subject": true, "cert": true, "dns": true, "uri": true});
            if !removes {
                let route = "route_config.virtual_hosts[0].routes[0].request_headers_to_remove";
                set(http, route, json!([])).unwrap();
            }
        });
        let stack = start(Options { edit: Some(edit), ..Options::default() });
        let caller = "spiffe://cluster.local/ns/payments/sa/api";
        let answer = mesh.send_as(&[caller], &Request::get(LISTED_HOST, "/secrets/db"), stack.outbound_addr()).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(answer.seen_header("authorization").is_some_and(|value| value.starts_with("Bearer ey")));
        for header in ["x-forwarded-client-cert", "x-forwarded-for"] {
            assert_eq!(answer.seen_header(header).is_none(), removes, "{header}: {}", answer.text());
        }
    }
}

/// Istio uses the ports of one ServiceEntry per host: in a mesh with REGISTRY_ONLY, ports that it does not list are closed.
#[test]
fn the_service_entry_does_not_change_the_applications_own_https() {
    let sidecar = manifest(SIDECAR);
    for entry in sidecar.objects("ServiceEntry") {
        let ports = entry["spec"]["ports"].as_array().unwrap();
        assert!(ports.contains(&json!({"number": 443, "name": "https", "protocol": "TLS"})), "{entry}");
    }
    // A policy for port 443 would wrap the application's own TLS in another TLS connection.
    for rule in sidecar.objects("DestinationRule") {
        let policy = &rule["spec"]["trafficPolicy"];
        assert_eq!(policy["tls"], Value::Null, "{rule}");
        let ports = policy["portLevelSettings"].as_array().unwrap();
        assert!(ports.iter().all(|settings| settings["port"]["number"] == 80), "{rule}");
    }
}
