//! The clusters of sources of federated tokens.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::clusters::tls;
use super::listeners::{has_filter, managers};
use crate::finding::Findings;
use crate::inventory::{Configuration, Found, Inventory};
use crate::tree::Node;

/// The sources that the machine itself answers.
const ON_THIS_MACHINE: [&str; 4] = ["file", "google_metadata", "azure_managed_identity", "azure_app_service"];

/// Where IMDS, and Google's metadata server, are.
const METADATA: &str = "169.254.169.254";

const ITSELF: &str = "Set the cluster's address to that of the platform: 169.254.169.254:80, or for azure_app_service the host and port of the \
    platform's IDENTITY_ENDPOINT. A filter that asks itself gets no token.";
const REDIRECTED: &str = "Exempt the user that Envoy runs as before the redirection: iptables -t nat -A OUTPUT -d 169.254.169.254/32 -p tcp \
    --dport 80 -m owner --uid-owner 101 -j RETURN. Without it the source asks this filter, and gets no token.";

pub(super) fn check(inventory: &Inventory<'_>, findings: &mut Findings) {
    let answers = inventory.configurations.iter().any(Configuration::answers_applications);
    for configuration in &inventory.configurations {
        check_verified(configuration, inventory, findings);
        if answers {
            check_loop(configuration, inventory, findings);
        }
    }
}

/// The clusters that are defined in the files, of the assertions whose source is one of those that `is_asked` names.
fn clusters_of<'a>(
    configuration: &Configuration<'_>,
    inventory: &Inventory<'a>,
    is_asked: impl Fn(&str) -> bool,
) -> Vec<(String, Found<'a>)> {
    let assertions = configuration.get("assertions").into_iter().flat_map(Node::items);
    let asked = assertions.filter(|one| one.text_of("source").is_some_and(&is_asked));
    let names: BTreeSet<&str> =
        asked.filter_map(|one| one.text_of("cluster").or_else(|| one.get("request")?.text_of("cluster"))).collect();
    let clusters = inventory.clusters.iter().copied();
    let named = |cluster: Found<'a>| Some((cluster.node.text_of("name")?.to_owned(), cluster));
    clusters.filter_map(named).filter(|(name, _)| names.contains(&**name)).collect()
}

/// A source over HTTP gets a secret or a federated token, and answers with a federated token (docs/sources.md). Only Envoy's own listeners
/// and the metadata services of a machine are asked in plaintext.
fn check_verified(configuration: &Configuration<'_>, inventory: &Inventory<'_>, findings: &mut Findings) {
    for (name, cluster) in clusters_of(configuration, inventory, |source| !ON_THIS_MACHINE.contains(&source)) {
        let is_verified = tls(cluster.node).is_some_and(|tls| tls.verifies_name() && tls.verifies_certificate());
        if is_verified || is_local(cluster.node) {
            continue;
        }
        findings.add(
            "source_cluster_not_verified",
            cluster.place_of("name"),
            format!("an assertion names {name:?}, which does not verify a certificate and its name"),
            "Add a transport_socket with TLS, and verify the server's name: secrets and federated tokens are sent over this \
             connection.",
        );
    }
}

/// A source that is a metadata service must be the platform's: the filter answers in its place, to applications and to itself.
fn check_loop(configuration: &Configuration<'_>, inventory: &Inventory<'_>, findings: &mut Findings) {
    let listeners: Vec<Found<'_>> =
        inventory.listeners.iter().filter(|listener| managers(listener.node).any(has_filter)).copied().collect();
    for (name, cluster) in clusters_of(configuration, inventory, |source| ON_THIS_MACHINE[1..].contains(&source)) {
        for endpoint in endpoints(cluster.node) {
            if let Some(listener) = listeners.iter().find(|listener| is_at(listener.node, endpoint)) {
                let listener = listener.node.text_of("name").unwrap_or_default();
                findings.add(
                    "source_is_this_filter",
                    cluster.place(endpoint),
                    format!("the source's cluster {name:?} leads to the listener {listener:?} of this Envoy"),
                    ITSELF,
                );
            } else if endpoint.at(&["socket_address"]).and_then(|socket| socket.text_of("address")) == Some(METADATA) {
                check_redirection(inventory, findings);
            }
        }
    }
}

/// The addresses of a cluster's endpoints.
fn endpoints(cluster: &Node) -> Vec<&Node> {
    let localities = cluster.at(&["load_assignment", "endpoints"]).into_iter().flat_map(Node::items);
    let endpoints = localities.flat_map(|one| one.get("lb_endpoints").into_iter().flat_map(Node::items));
    endpoints.filter_map(|one| one.at(&["endpoint", "address"])).collect()
}

/// Whether a listener accepts the connections to an endpoint.
fn is_at(listener: &Node, endpoint: &Node) -> bool {
    if let Some(name) = endpoint.at(&["envoy_internal_address", "server_listener_name"]).and_then(Node::text) {
        return listener.text_of("name") == Some(name);
    }
    let more = listener.get("additional_addresses").into_iter().flat_map(Node::items);
    let addresses = listener.get("address").into_iter().chain(more.filter_map(|one| one.get("address")));
    let sockets = addresses.filter_map(|address| address.get("socket_address"));
    endpoint.get("socket_address").is_some_and(|endpoint| sockets.into_iter().any(|socket| accepts(socket, endpoint)))
}

fn accepts(socket: &Node, endpoint: &Node) -> bool {
    let port = |node: &Node| node.get("port_value").and_then(Node::number);
    let (listens, called) = (socket.text_of("address").unwrap_or_default(), endpoint.text_of("address"));
    let is_every = listens.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified());
    let is_same = |called: &str| called == listens || (is_loopback(called) && (is_every || is_loopback(listens)));
    port(socket).is_some() && port(socket) == port(endpoint) && called.is_some_and(is_same)
}

/// An iptables rule in the files, such as the command of an init container, that redirects requests for the metadata service before
/// another rule has exempted Envoy's own.
fn check_redirection(inventory: &Inventory<'_>, findings: &mut Findings) {
    for document in &inventory.documents {
        document.node.walk(&mut |node| {
            let lines = node.text().unwrap_or_default().lines().filter(|line| line.contains(METADATA));
            let is_exempt = |line: &str| line.contains("--uid-owner") || line.contains("--gid-owner");
            if lines.take_while(|line| !is_exempt(line)).any(|line| line.contains("REDIRECT")) {
                findings.add(
                    "source_is_this_filter",
                    document.place(node),
                    "requests of Envoy itself for 169.254.169.254 are redirected, too",
                    REDIRECTED,
                );
            }
        });
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether all endpoints of a cluster are on loopback addresses or sockets of the machine.
fn is_local(cluster: &Node) -> bool {
    let (mut local, mut remote) = (false, false);
    if let Some(endpoints) = cluster.get("load_assignment") {
        endpoints.walk(&mut |node| {
            let address = node.get("socket_address").map(|address| address.text_of("address").unwrap_or_default());
            local |= node.get("pipe").is_some() || address.is_some_and(is_loopback);
            remote |= address.is_some_and(|text| !is_loopback(text));
        });
    }
    local && !remote
}
