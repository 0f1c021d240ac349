//! What is legal in a configuration and risky.

use entra_exchange_core::authority::Cloud;
use entra_exchange_core::azure::Service;

use crate::finding::Findings;
use crate::inventory::{Configuration, Form, Inventory};
use crate::tree::Node;

pub(super) fn check(inventory: &Inventory<'_>, findings: &mut Findings) {
    let in_cluster = has_cluster_chain(inventory);
    for configuration in &inventory.configurations {
        check_permissions(configuration, findings);
        check_scopes(configuration, findings);
        check_resources(configuration, findings);
        check_metadata(configuration, findings);
        check_entra(configuration, findings);
        if !in_cluster {
            check_tls_clusters(configuration, findings);
        }
    }
}

/// Whether a cluster of the files has the filter in its own chain, where `tls_clusters` is optional.
fn has_cluster_chain(inventory: &Inventory<'_>) -> bool {
    let mut found = false;
    for document in &inventory.documents {
        document.node.walk(&mut |node| {
            let filters = node.at(&["envoy.extensions.upstreams.http.v3.HttpProtocolOptions", "http_filters"]);
            found = found || filters.is_some();
        });
    }
    found
}

/// The fields that permit something, and what to do instead.
const PERMISSIONS: &[(&str, &str, &str, &str, &str)] = &[
    (
        "plaintext",
        "allow",
        "plaintext_allowed",
        "the token may be sent in plaintext, to any cluster",
        "Send the request through a cluster with TLS, list it in tls_clusters, and remove plaintext.",
    ),
    (
        "shared_suffix",
        "allow",
        "shared_suffix_allowed",
        "anyone can register a host that gets the token",
        "List your own hosts, and remove shared_suffix.",
    ),
    (
        "override_headers",
        "allow",
        "override_headers_allowed",
        "a request may override the method or path that rules depend on",
        "Remove override_headers, or check that no server behind this host obeys such headers.",
    ),
    (
        "on_failure",
        "pass",
        "on_failure_pass",
        "requests are forwarded without a token when none is available",
        "Set on_failure to refuse, unless the service is meant to be called without a token, too.",
    ),
];

fn check_permissions(configuration: &Configuration<'_>, findings: &mut Findings) {
    let defaults = configuration.get("defaults").map(|defaults| ("defaults".to_owned(), defaults));
    let destinations = configuration.destinations().map(|(index, one)| (format!("destinations[{index}]"), one));
    for (path, object) in defaults.into_iter().chain(destinations) {
        for (field, value, code, message, remedy) in PERMISSIONS {
            if let Some(node) = object.get(field).filter(|node| node.text() == Some(value)) {
                let place = (configuration.source, node.span.clone());
                findings.add(code, place, *message, *remedy).path = Some(format!("{path}.{field}"));
            }
        }
    }
    let unknown = configuration.get("entra").and_then(|entra| entra.get("unknown_authority"));
    if let Some(node) = unknown.filter(|node| node.text() == Some("allow")) {
        findings.add(
            "unknown_authority_allowed",
            (configuration.source, node.span.clone()),
            "the authority need not be one of Microsoft's",
            "Check that the authority is yours: the filter sends it the federated token. Remove unknown_authority for an \
             authority of Microsoft.",
        );
    }
}

/// The hosts of resources with which an identity can do everything that it may do in Azure or Graph.
const MANAGEMENT: &[&str] = &[
    "management.azure.com",
    "management.core.windows.net",
    "management.usgovcloudapi.net",
    "management.chinacloudapi.cn",
    "management.sovcloud-api.fr",
    "management.sovcloud-api.de",
];
const GRAPH: &[&str] = &[
    "graph.microsoft.com",
    "graph.microsoft.us",
    "dod-graph.microsoft.us",
    "microsoftgraph.chinacloudapi.cn",
    "graph.svc.sovcloud.fr",
    "graph.svc.sovcloud.de",
];

fn check_scopes(configuration: &Configuration<'_>, findings: &mut Findings) {
    for (index, destination) in configuration.destinations() {
        if !configuration.sends_tokens(destination) {
            continue;
        }
        let service = destination.get("azure_service");
        let scope = configuration.setting(destination, "scope").filter(|_| service.is_none());
        let Some(node) = service.or(scope) else { continue };
        let text = node.text().unwrap_or_default();
        let names = |hosts: &[&str]| hosts.iter().any(|host| host_of(text) == *host);
        let place = (configuration.source, node.span.clone());
        let (field, remedy) = if names(MANAGEMENT) || text == "resource_manager" {
            (
                if service.is_some() { "azure_service" } else { "scope" },
                "Check that the identity has only the roles that the workload needs: this scope reaches everything that the \
                 identity may manage in Azure.",
            )
        } else if names(GRAPH) || text.starts_with("microsoft_graph") {
            (
                if service.is_some() { "azure_service" } else { "scope" },
                "Check that the application has only the permissions that the workload needs, and list the methods and paths \
                 that it calls: this scope reaches everything that the application may do in Microsoft Graph.",
            )
        } else {
            continue;
        };
        let finding = findings.add("broad_scope", place, "the token is not limited to one resource", remedy);
        finding.path = Some(format!("destinations[{index}].{field}"));
    }
}

/// The host of a resource or scope, such as `https://vault.azure.net/.default`.
fn host_of(text: &str) -> &str {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default()
}

/// The identities that applications may select, each with its object if the configuration has one.
fn offered<'a>(configuration: &'a Configuration<'_>) -> Vec<Option<(usize, &'a Node)>> {
    let Some(identities) = configuration.get("identities") else { return vec![None] };
    let listed = configuration.get("managed_identity").and_then(|section| section.get("identities"));
    let is_offered = |identity: &Node| match listed {
        Some(listed) => listed.items().any(|name| name.text() == Some(identity.text_of("name").unwrap_or("default"))),
        None => true,
    };
    identities.items().enumerate().filter(|(_, identity)| is_offered(identity)).map(Some).collect()
}

fn check_resources(configuration: &Configuration<'_>, findings: &mut Findings) {
    let Some(section) = configuration.get("managed_identity").filter(|_| configuration.answers_applications()) else {
        return;
    };
    for identity in offered(configuration) {
        let resources = identity.and_then(|(_, identity)| identity.get("resources"));
        if resources.is_none() {
            let (node, path) = match identity {
                Some((index, node)) => (node, format!("identities[{index}]")),
                None => (section, "managed_identity".to_owned()),
            };
            let finding = findings.add(
                "resources_missing",
                (configuration.source, node.span.clone()),
                "applications may request a token for any resource",
                "List the resources that the application requests in resources of the identity.",
            );
            finding.path = Some(path);
        }
        check_path_rules(configuration, identity.map(|(_, identity)| identity), resources, findings);
    }
}

/// Rules for methods and paths protect nothing if the application can request the same token and send it itself.
fn check_path_rules(
    configuration: &Configuration<'_>,
    identity: Option<&Node>,
    resources: Option<&Node>,
    findings: &mut Findings,
) {
    let name = identity.and_then(|identity| identity.text_of("name")).unwrap_or("default");
    for (index, destination) in configuration.destinations() {
        let owner = configuration.setting(destination, "identity").and_then(Node::text);
        let field = ["methods", "path_prefixes"].into_iter().find(|field| destination.get(field).is_some());
        let (Some(field), true) = (field, configuration.sends_tokens(destination)) else { continue };
        let may_request = |resource: &str| {
            let plain = |text: &str| text.trim_end_matches('/').to_owned();
            resources.is_none_or(|list| list.items().any(|one| one.text().map(plain) == Some(plain(resource))))
        };
        let scopes = scopes_of(configuration, destination);
        let requested = scopes.iter().filter_map(|scope| scope.strip_suffix("/.default")).any(may_request);
        if owner.is_some_and(|owner| owner != name) || !requested {
            continue;
        }
        let span = destination.get(field).map(|node| node.span.clone()).unwrap_or_default();
        let remedy = if resources.is_some() {
            "Remove the resource from resources, or do not rely on methods and path_prefixes: the application can request the \
             same token from managed_identity and send it anywhere."
        } else {
            "Set resources of the identity to the other resources that the application requests, or do not rely on methods and \
             path_prefixes: the application can request the same token from managed_identity and send it anywhere."
        };
        let message = "managed_identity gives the application the token that this rule protects";
        let finding = findings.add("path_rules_evaded", (configuration.source, span), message, remedy);
        finding.path = Some(format!("destinations[{index}].{field}"));
    }
}

/// The scopes of a destination: its own, or those of its Azure service in the public cloud.
pub(super) fn scopes_of(configuration: &Configuration<'_>, destination: &Node) -> Vec<String> {
    let Some(id) = destination.text_of("azure_service") else {
        return configuration
            .setting(destination, "scope")
            .and_then(Node::text)
            .map(str::to_owned)
            .into_iter()
            .collect();
    };
    let endpoints = endpoints_of(id, destination);
    endpoints.into_iter().filter_map(|(_, scope)| scope).collect()
}

/// The hosts of a destination with an Azure service, each with its scope.
pub(super) fn endpoints_of(id: &str, destination: &Node) -> Vec<(String, Option<String>)> {
    let Ok(service) = Service::find(id, Some(Cloud::Public)) else { return Vec::new() };
    let names = destination.get("names").into_iter().flat_map(Node::items).filter_map(Node::text);
    let named = names.filter_map(|name| service.endpoint(name).ok());
    let fixed = service.endpoints().unwrap_or_default();
    fixed.into_iter().chain(named).map(|endpoint| (endpoint.host, endpoint.scope)).collect()
}

fn check_metadata(configuration: &Configuration<'_>, findings: &mut Findings) {
    let imds = configuration.get("managed_identity").and_then(|section| section.get("imds"));
    for (index, path) in imds.and_then(|imds| imds.get("pass")).into_iter().flat_map(Node::items).enumerate() {
        let text = path.text().unwrap_or_default();
        // The core warns of credentials itself.
        let is_reported = findings.0.iter().any(|finding| {
            finding.code == "node_credentials_passed"
                && (finding.source, &finding.span) == (configuration.source, &path.span)
        });
        if text.starts_with("/metadata") || !text.starts_with('/') || is_reported {
            continue;
        }
        let finding = findings.add(
            "foreign_metadata_passed",
            (configuration.source, path.span.clone()),
            format!("{text:?} is a path of another cloud's metadata service"),
            "Remove the path, unless the node runs in that cloud and the application needs it.",
        );
        finding.path = Some(format!("managed_identity.imds.pass[{index}]"));
    }
}

fn check_entra(configuration: &Configuration<'_>, findings: &mut Findings) {
    let clusters = configuration.entra_clusters();
    let uses_tokens = configuration.answers_applications()
        || configuration.destinations().any(|(_, destination)| configuration.sends_tokens(destination));
    let is_set = configuration.get("entra").is_some_and(|entra| entra.get("clusters").is_some());
    // An example of one field does not show the whole configuration.
    if clusters.len() > 1 || !uses_tokens || (configuration.form == Form::File && !is_set) {
        return;
    }
    let list = configuration.get("entra").and_then(|entra| entra.get("clusters"));
    let span = list.map_or(configuration.start..configuration.start, |list| list.span.clone());
    let finding = findings.add(
        "entra_single_cluster",
        (configuration.source, span),
        "an exchange whose connection was dropped has no second cluster",
        "Add a second cluster that uses a new connection for each request (max_requests_per_connection: 1), as in the manifests.",
    );
    finding.path = Some("entra.clusters".to_owned());
}

fn check_tls_clusters(configuration: &Configuration<'_>, findings: &mut Findings) {
    for (index, destination) in configuration.destinations() {
        let setting = |name: &str| configuration.setting(destination, name);
        let listed = setting("tls_clusters").is_some_and(|list| list.items().next().is_some());
        let plaintext = setting("plaintext").and_then(Node::text) == Some("allow");
        let is_object = !destination.entries().is_empty();
        // A destination without hosts or scope has mistakes that are reported already.
        let has_hosts = destination.get("hosts").is_some() || destination.get("azure_service").is_some();
        let has_scope = setting("scope").is_some() || destination.get("azure_service").is_some();
        if listed || plaintext || !is_object || !has_hosts || !has_scope || !configuration.sends_tokens(destination) {
            continue;
        }
        if setting("tls_clusters").is_none() && destination.get("tls_cluster").is_some() {
            continue;
        }
        let finding = findings.add(
            "tls_clusters_missing",
            (configuration.source, destination.span.clone()),
            "in a listener's filter chain, requests to this destination get 403 tls_clusters_missing",
            "Set tls_clusters to the clusters with TLS to which these requests may be routed. For an upstream HTTP filter it \
             is optional.",
        );
        finding.path = Some(format!("destinations[{index}]"));
    }
}
