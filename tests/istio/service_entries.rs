//! The ServiceEntry of `envoyfilter.yaml` beside one that the mesh has for the same host: in a mesh with REGISTRY_ONLY, the application's own
//! HTTPS must go on as before.

use serde_json::{Value, json};
use stack::document::{at_mut, set};
use stack::{LISTED_HOST, Options, Request, Stack, sidecar};

use crate::form::{BLACK_HOLE, Form, HTTP};
use crate::manifest::{SIDECAR, manifest};
use crate::start;

/// The listener for what applications send to port 443.
const HTTPS: &str = "0.0.0.0_443";

/// Another team's object for the same host, which a whole mesh may use.
fn others(namespace: &str, port: u16) -> Value {
    json!({"metadata": {"namespace": namespace}, "spec": {
        "hosts": [LISTED_HOST], "location": "MESH_EXTERNAL", "resolution": "DNS",
        "ports": [{"number": port, "name": "https", "protocol": "TLS"}],
    }})
}

/// The ports that a sidecar in the namespace `payments` knows for the host. Istio takes the entries that only this namespace sees
/// first, in the order of their age, then the others, and merges another entry into the first one only if both have one namespace,
/// resolution and `exportTo` (istio/istio, pilot/pkg/model/push_context.go, `servicesExportedToNamespace`, and sidecar.go,
/// `canMergeServices`, of the 1.31 line; the table in the test was compared with what its control plane generates).
fn known_ports(entries: &[Value]) -> Vec<Value> {
    let is_private = |entry: &&Value| entry["spec"]["exportTo"] == json!(["."]);
    let (private, public): (Vec<_>, Vec<_>) = entries.iter().partition(is_private);
    let visible = private.into_iter().filter(|entry| entry["metadata"]["namespace"] == "payments").chain(public);
    let visible: Vec<&Value> = visible.filter(|entry| entry["spec"]["hosts"][0] == LISTED_HOST).collect();
    let merges = |entry: &&&Value| {
        let first = visible[0];
        let fields = ["resolution", "exportTo"];
        entry["metadata"]["namespace"] == first["metadata"]["namespace"]
            && fields.iter().all(|field| entry["spec"][field] == first["spec"][field])
    };
    let mut known: Vec<Value> = Vec::new();
    for port in visible.iter().filter(merges).flat_map(|entry| entry["spec"]["ports"].as_array().unwrap()) {
        if known.iter().all(|other| other["number"] != port["number"]) {
            known.push(port.clone());
        }
    }
    known
}

/// A sidecar in a mesh with REGISTRY_ONLY, as Istio makes it of these ports: HTTP as everywhere in these tests, and for each port with
/// TLS a filter chain for the host's name. What no chain is for is closed.
fn registry_only(ports: Vec<Value>) -> Stack {
    let edit = Box::new(move |bootstrap: &mut Value| {
        Form::envoy_filter(SIDECAR).into_istio(bootstrap);
        // Istio adds no TLS here: the application's own goes through.
        let service = at_mut(bootstrap, &format!("static_resources.clusters[outbound|80||{LISTED_HOST}]")).unwrap();
        let name = format!("outbound|443||{LISTED_HOST}");
        let mut cluster = json!({"name": name, "connect_timeout": "5s", "load_assignment": service["load_assignment"]});
        set(&mut cluster, "load_assignment.cluster_name", name.as_str()).unwrap();
        let tcp_proxy = |cluster: &str| {
            json!([{"name": "envoy.filters.network.tcp_proxy", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                "stat_prefix": cluster, "cluster": cluster,
            }}])
        };
        let with_tls = ports.iter().filter(|port| port["number"] == 443 && port["protocol"] == "TLS");
        let chain = |_| json!({"filter_chain_match": {"server_names": [LISTED_HOST]}, "filters": tcp_proxy(&name)});
        let chains: Vec<Value> = with_tls.map(chain).collect();
        let listener = json!({
            "name": HTTPS,
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
            "listener_filters": [{"name": "envoy.filters.listener.tls_inspector", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
            }}],
            "filter_chains": chains,
            "default_filter_chain": {"filters": tcp_proxy(BLACK_HOLE)},
        });
        at_mut(bootstrap, "static_resources.clusters").unwrap().as_array_mut().unwrap().push(cluster);
        at_mut(bootstrap, "static_resources.listeners").unwrap().as_array_mut().unwrap().push(listener);
        let hosts = format!("static_resources.listeners[{}].{HTTP}.route_config.virtual_hosts", sidecar::OUTBOUND);
        assert_eq!(at_mut(bootstrap, &hosts).unwrap().as_array().unwrap().len(), 1, "no route for other hosts");
    });
    start(Options { edit: Some(edit), ..Options::default() })
}

/// What the application's own `https://` request reads: the status, and whether the service saw a token.
fn own_https(stack: &Stack) -> Result<(u16, bool), String> {
    let listener = stack.envoy.listener(HTTPS).unwrap().unwrap();
    let request = Request::get(LISTED_HOST, "/secrets/db");
    let answer = request.send_https(listener, stack.upstream.ca_pem()).map_err(|error| error.to_string())?;
    Ok((answer.status, answer.seen_header("authorization").is_some()))
}

#[test]
fn the_applications_own_https_goes_on_beside_another_service_entry_for_the_host() {
    let ours = manifest(SIDECAR).object("ServiceEntry");
    let stack = registry_only(known_ports(&[others("egress", 443), ours]));
    assert_eq!(own_https(&stack), Ok((200, false)), "{}", stack.log());
    let injected = stack.get(LISTED_HOST, "/secrets/db", &[]);
    assert_eq!((injected.status, injected.seen_header("authorization").is_some()), (200, true), "{}", stack.log());
}

/// So a mesh loses it by an entry of ours without the port: the other one is not merged into it.
#[test]
fn without_its_port_443_the_service_entry_would_take_the_applications_https_away() {
    let mut ours = manifest(SIDECAR).object("ServiceEntry");
    at_mut(&mut ours, "spec.ports").unwrap().as_array_mut().unwrap().retain(|port| port["number"] != 443);
    let stack = registry_only(known_ports(&[others("egress", 443), ours]));
    let closed = own_https(&stack);
    assert!(closed.is_err(), "{closed:?}");
    assert_eq!(stack.get(LISTED_HOST, "/secrets/db", &[]).status, 200, "{}", stack.log());
}

#[test]
fn the_service_entry_hides_every_other_one_for_the_host_that_differs_in_its_export() {
    let ours = manifest(SIDECAR).object("ServiceEntry");
    let private = |mut entry: Value| {
        entry["spec"]["exportTo"] = json!(["."]);
        entry
    };
    let numbers = |entries: &[Value]| -> Vec<u64> {
        known_ports(entries).iter().map(|port| port["number"].as_u64().unwrap()).collect()
    };
    for (entries, known) in [
        (vec![ours.clone()], &[80, 443][..]),
        (vec![others("egress", 8443), ours.clone()], &[80, 443]),
        (vec![others("payments", 8443), ours.clone()], &[80, 443]),
        (vec![private(others("payments", 8443)), ours.clone()], &[8443, 80, 443]),
        (vec![private(others("payments", 443)), ours.clone()], &[443, 80]),
        (vec![ours, private(others("egress", 8443))], &[80, 443]),
    ] {
        assert_eq!(numbers(&entries), known, "{entries:?}");
    }
}
