//! Envoy's listeners and routes around the filter.

use crate::finding::Findings;
use crate::inventory::{Found, Inventory};
use crate::tree::Node;

/// The name of the filter in the manifests.
const FILTER: &str = "entra-exchange";

pub(super) const MIRROR: &str = "Remove the mirror, or run the filter as an upstream HTTP filter: in the listener's filter chain \
    the mirrored request carries the token, too.";
pub(super) const OTHER_HEADER: &str =
    "Match on another header: Envoy selects the route again after the filter has set this one.";
pub(super) const IGNORE_UPGRADE: &str = "Set http_protocol_options.ignore_http_11_upgrade to [{ prefix: TLS/ }]: Envoy rejects the \
    Upgrade: TLS/1.2 of Apache HttpClient 5.4 and later.";

pub(super) fn check(inventory: &Inventory<'_>, findings: &mut Findings) {
    let answers = inventory.configurations.iter().any(|configuration| configuration.answers_applications());
    let headers = inventory.token_headers();
    for listener in &inventory.listeners {
        for manager in managers(listener.node) {
            if !has_filter(manager) {
                continue;
            }
            let manager = Found { node: manager, ..*listener };
            let is_metadata = domains(manager.node).any(|domain| domain == "169.254.169.254");
            if answers && is_metadata {
                check_metadata(*listener, manager, findings);
            }
            check_upgrade(manager, findings);
            check_routes(manager, &headers, findings);
        }
    }
    check_failure_policy(inventory, findings);
}

/// The HTTP connection managers of a listener.
pub(super) fn managers(listener: &Node) -> impl Iterator<Item = &Node> {
    let chains = listener.get("filter_chains").into_iter().flat_map(Node::items);
    let filters = chains.flat_map(|chain| chain.get("filters").into_iter().flat_map(Node::items));
    filters.filter_map(|filter| filter.get("typed_config")).filter(|config| config.get("http_filters").is_some())
}

pub(super) fn has_filter(manager: &Node) -> bool {
    let mut filters = manager.get("http_filters").into_iter().flat_map(Node::items);
    filters.any(|filter| {
        let root_id = filter.at(&["typed_config", "config", "root_id"]).and_then(Node::text);
        filter.text_of("name").is_some_and(|name| name.contains(FILTER)) || root_id == Some(FILTER)
    })
}

fn virtual_hosts(manager: &Node) -> impl Iterator<Item = &Node> {
    manager.at(&["route_config", "virtual_hosts"]).into_iter().flat_map(Node::items)
}

fn domains(manager: &Node) -> impl Iterator<Item = &str> {
    virtual_hosts(manager).flat_map(|host| host.get("domains").into_iter().flat_map(Node::items)).filter_map(Node::text)
}

fn routes(manager: &Node) -> impl Iterator<Item = &Node> {
    virtual_hosts(manager).flat_map(|host| host.get("routes").into_iter().flat_map(Node::items))
}

fn check_metadata(listener: Found<'_>, manager: Found<'_>, findings: &mut Findings) {
    if let Some(setting) = manager.node.get("use_remote_address").filter(|setting| setting.is_true()) {
        findings.add(
            "use_remote_address",
            manager.place(setting),
            "Envoy adds X-Forwarded-For before the filter runs",
            "Set use_remote_address to false on this listener: Envoy adds X-Forwarded-For, and the filter rejects metadata \
             requests with that header.",
        );
    }
    let mut filters = listener.node.get("listener_filters").into_iter().flat_map(Node::items);
    let is_original_dst = |filter: &Node| filter.text_of("name").is_some_and(|name| name.contains("original_dst"));
    if !filters.any(is_original_dst) {
        findings.add(
            "original_dst_missing",
            listener.place_of("name"),
            "the filter does not learn which address a redirected client called",
            "Add the listener filter envoy.filters.listener.original_dst: without it the filter does not learn that a redirected client \
             called 169.254.169.254.",
        );
    }
}

/// A listener that forwards requests of applications. One that only answers probes has no route to a cluster.
fn check_upgrade(manager: Found<'_>, findings: &mut Findings) {
    let ignores = manager.node.at(&["http_protocol_options", "ignore_http_11_upgrade"]).is_some();
    let forwards =
        manager.node.get("route_config").is_none() || routes(manager.node).any(|route| route.get("route").is_some());
    if !ignores && forwards {
        findings.add(
            "upgrade_not_ignored",
            manager.place_of("stat_prefix"),
            "Envoy rejects a request with Upgrade: TLS/1.2 before the filter runs",
            IGNORE_UPGRADE,
        );
    }
}

fn check_routes(manager: Found<'_>, headers: &[String], findings: &mut Findings) {
    for route in routes(manager.node) {
        let matched = route.at(&["match", "headers"]).into_iter().flat_map(Node::items);
        for name in matched.filter_map(|header| header.get("name")) {
            let text = name.text().unwrap_or_default().to_ascii_lowercase();
            if headers.contains(&text) {
                let message = format!("this route matches on {text}, which the filter sets");
                findings.add("route_matches_changed_header", manager.place(name), message, OTHER_HEADER);
            }
        }
        if let Some(mirror) = route.get("route").and_then(|route| route.entry("request_mirror_policies")) {
            let place = (manager.source, mirror.key_span.clone());
            findings.add(
                "mirror_gets_token",
                place,
                "a copy of the request, with its token, is sent to another cluster",
                MIRROR,
            );
        }
    }
}

/// A filter that fails open forwards requests without their token, and metadata requests to the node.
fn check_failure_policy(inventory: &Inventory<'_>, findings: &mut Findings) {
    for document in &inventory.documents {
        document.node.walk(&mut |node| {
            // The last one is Envoy Gateway's.
            let fields = [("failure_policy", "FAIL_RELOAD"), ("failStrategy", "FAIL_RELOAD"), ("failOpen", "false")];
            for (field, right) in fields {
                let is_open = |policy: &&Node| match field {
                    "failOpen" => policy.is_true() && node.get("code").is_some(),
                    _ => policy.text() == Some("FAIL_OPEN"),
                };
                if let Some(policy) = node.get(field).filter(is_open) {
                    findings.add(
                        "fail_open",
                        document.place(policy),
                        "when the module fails, requests are forwarded without it",
                        format!("Set {field} to {right}."),
                    );
                }
            }
        });
    }
}
