//! Envoy's clusters: those for Entra, and those of destinations.

use std::collections::BTreeSet;

use entra_exchange_core::authority::Authority;

use super::environment::Environment;
use super::risks::endpoints_of;
use crate::finding::Findings;
use crate::inventory::{Configuration, Found, Inventory, named};
use crate::tree::Node;

const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

pub(super) fn check(inventory: &Inventory<'_>, environment: &Environment, findings: &mut Findings) {
    let names = entra_names(inventory);
    let authority = environment.authority(inventory);
    for cluster in &inventory.clusters {
        if cluster.node.text_of("name").is_some_and(|name| names.contains(name)) {
            check_name(*cluster, authority.as_deref(), inventory, findings);
            check_idle_timeout(*cluster, findings);
        }
    }
    for configuration in &inventory.configurations {
        check_destinations(configuration, inventory, findings);
        check_defined(configuration, inventory, findings);
    }
}

/// The names of the clusters for Entra: those in the configurations, or the usual ones.
fn entra_names(inventory: &Inventory<'_>) -> BTreeSet<String> {
    if inventory.configurations.is_empty() {
        return ["entra", "entra_new_connection"].map(str::to_owned).into();
    }
    let clusters = inventory.configurations.iter().flat_map(Configuration::entra_clusters);
    clusters.map(|(name, _)| name).collect()
}

/// How a cluster verifies its server.
pub(super) struct Tls<'a> {
    sni: Option<&'a Node>,
    validation: Option<&'a Node>,
    /// The name of the secret with the CA.
    secret: Option<&'a str>,
    matchers: Vec<&'a Node>,
    verifies_host: bool,
}

/// The TLS settings of a cluster; `None` if it has no transport socket.
pub(super) fn tls(cluster: &Node) -> Option<Tls<'_>> {
    let context = cluster.get("transport_socket")?.get("typed_config")?;
    let common = context.get("common_tls_context");
    let combined = common.and_then(|common| common.get("combined_validation_context"));
    let validation = common
        .and_then(|common| common.get("validation_context"))
        .or_else(|| combined?.get("default_validation_context"));
    let secret = combined.or(common).and_then(|context| context.get("validation_context_sds_secret_config"));
    let matchers = validation.and_then(|validation| validation.get("match_typed_subject_alt_names"));
    let options = cluster.at(&["typed_extension_protocol_options", HTTP_OPTIONS, "upstream_http_protocol_options"]);
    let automatic = options.and_then(|options| options.get("auto_san_validation")).is_some_and(Node::is_true);
    let by_sni = context.get("auto_sni_san_validation").is_some_and(Node::is_true);
    Some(Tls {
        sni: context.get("sni"),
        validation,
        secret: secret.and_then(|secret| secret.text_of("name")),
        matchers: matchers.into_iter().flat_map(Node::items).collect(),
        verifies_host: automatic || by_sni,
    })
}

impl Tls<'_> {
    pub(super) fn verifies_name(&self) -> bool {
        !self.matchers.is_empty() || self.verifies_host
    }

    /// Whether the CA is one that the platform gives to the pod, such as that of the token proxy of AKS identity bindings. Its names are not
    /// those of Entra, and only the platform can issue certificates for them.
    /// A secret that is not in the files is taken for one with such a CA.
    fn trusts_ca_of_the_pod(&self, inventory: &Inventory<'_>) -> bool {
        let (mut ca, mut is_unknown) = (self.validation, false);
        if let Some(name) = self.secret {
            let is_it = |node: &&Node| node.text_of("name") == Some(name) && node.get("validation_context").is_some();
            ca = inventory.secrets().find(is_it).and_then(|secret| secret.get("validation_context"));
            is_unknown = ca.is_none();
        }
        let file = ca.and_then(|validation| validation.get("trusted_ca")?.text_of("filename"));
        is_unknown || file.is_some_and(|file| file.starts_with("/var/run/secrets/"))
    }

    /// Whether a CA is configured, in the cluster or by a secret.
    pub(super) fn verifies_certificate(&self) -> bool {
        let has = |name: &str| self.validation.is_some_and(|validation| validation.get(name).is_some());
        self.secret.is_some()
            || has("trusted_ca")
            || has("system_root_certs")
            || has("ca_certificate_provider_instance")
    }
}

fn check_name(cluster: Found<'_>, authority: Option<&str>, inventory: &Inventory<'_>, findings: &mut Findings) {
    let Some(tls) = tls(cluster.node) else {
        findings.add(
            "entra_not_tls",
            cluster.place_of("name"),
            "this cluster for Entra has no TLS",
            "Add a transport_socket with TLS, and verify the server's name: the federated token is sent over this connection.",
        );
        return;
    };
    let validation = tls.validation.unwrap_or(cluster.node);
    if !tls.verifies_certificate() {
        findings.add(
            "entra_certificate_not_verified",
            cluster.place(tls.validation.unwrap_or_else(|| cluster.node.get("name").unwrap_or(cluster.node))),
            "this cluster for Entra verifies no certificate",
            "Set trusted_ca in the validation_context: without it Envoy verifies no certificate.",
        );
    } else if !tls.verifies_name() {
        findings.add(
            "entra_name_not_verified",
            cluster.place(validation),
            "this cluster for Entra accepts a certificate for any name",
            "Add match_typed_subject_alt_names with the exact host of the authority: without it Envoy accepts a certificate for \
             any name.",
        );
    }
    if tls.trusts_ca_of_the_pod(inventory) {
        return;
    }
    // The host of an authority may have a port, which a certificate has not.
    let expected = authority.map(|host| host.split(':').next().unwrap_or(host));
    let fits = |name: &str| match expected {
        Some(expected) => name == expected,
        None => Authority::parse(&format!("https://{name}"), false).is_ok(),
    };
    let host = expected.unwrap_or("login.microsoftonline.com");
    if let Some((sni, text)) = tls.sni.and_then(|sni| Some((sni, sni.text()?))).filter(|(_, text)| !fits(text)) {
        findings.add(
            "entra_name_not_verified",
            cluster.place(sni),
            format!("this cluster asks for the certificate of {text:?}"),
            format!("Set sni to {host}, the host of the authority."),
        );
    }
    for matcher in &tls.matchers {
        let Some(name) = matcher.get("matcher").and_then(|matcher| matcher.entries().first()) else { continue };
        let text = name.value.text().unwrap_or_default();
        if name.key != "exact" || !fits(text) {
            findings.add(
                "entra_name_not_verified",
                cluster.place(&name.value),
                format!("this cluster for Entra accepts the certificate of {text:?}"),
                format!("Set the matcher to {host}, the host of the authority."),
            );
        }
    }
}

fn check_idle_timeout(cluster: Found<'_>, findings: &mut Findings) {
    let options = cluster.node.at(&["typed_extension_protocol_options", HTTP_OPTIONS, "common_http_protocol_options"]);
    let has = |name: &str| options.is_some_and(|options| options.get(name).is_some());
    if has("idle_timeout") || has("max_requests_per_connection") {
        return;
    }
    findings.add(
        "entra_no_idle_timeout",
        cluster.place_of("name"),
        "this cluster for Entra keeps idle connections for an hour",
        "Set common_http_protocol_options.idle_timeout to 60s: NATs and firewalls silently drop idle connections, often after four \
         minutes.",
    );
}

/// The clusters that a destination's requests may be routed to, with `{host}` replaced by each of its hosts.
fn clusters_of(configuration: &Configuration<'_>, destination: &Node) -> Vec<(String, std::ops::Range<usize>)> {
    let hosts: Vec<String> = match destination.text_of("azure_service") {
        Some(id) => endpoints_of(id, destination).into_iter().map(|(host, _)| host).collect(),
        None => named(destination.get("hosts").unwrap_or(destination)).into_iter().map(|(host, _)| host).collect(),
    };
    let list = configuration.setting(destination, "tls_clusters").map(named).unwrap_or_default();
    let each = |(name, span): (String, std::ops::Range<usize>)| -> Vec<_> {
        if !name.contains("{host}") {
            return vec![(name, span)];
        }
        let plain = |host: &String| host.split(':').next().unwrap_or(host).to_ascii_lowercase();
        hosts.iter().map(|host| (name.replace("{host}", &plain(host)), span.clone())).collect()
    };
    list.into_iter().flat_map(each).collect()
}

fn check_destinations(configuration: &Configuration<'_>, inventory: &Inventory<'_>, findings: &mut Findings) {
    for (_, destination) in configuration.destinations() {
        if !configuration.sends_tokens(destination) {
            continue;
        }
        for (name, _) in clusters_of(configuration, destination) {
            let defined = inventory.clusters.iter().filter(|cluster| cluster.node.text_of("name") == Some(&name));
            for cluster in defined {
                let tls = tls(cluster.node);
                if tls.is_some_and(|tls| tls.verifies_name() && tls.verifies_certificate()) {
                    continue;
                }
                findings.add(
                    "destination_cluster_not_verified",
                    cluster.place_of("name"),
                    format!("tls_clusters lists {name:?}, which does not verify a certificate and its name"),
                    "Add a transport_socket with TLS, and verify the server's name: requests through this cluster carry the \
                     access token.",
                );
            }
        }
    }
}

/// In a bootstrap that gets no clusters from elsewhere, every cluster that the configuration names is defined.
fn check_defined(configuration: &Configuration<'_>, inventory: &Inventory<'_>, findings: &mut Findings) {
    let has_all = configuration.root.at(&["static_resources", "clusters"]).is_some()
        && configuration.root.at(&["dynamic_resources", "cds_config"]).is_none();
    if !has_all {
        return;
    }
    let start = configuration.start..configuration.start;
    let mut used = configuration.entra_clusters();
    let assertions = configuration.get("assertions").into_iter().flat_map(Node::items);
    let sources =
        assertions.filter_map(|one| Some((one.text_of("cluster")?.to_owned(), one.get("cluster")?.span.clone())));
    used.extend(sources);
    if configuration.get("assertions").is_none() {
        used.push(("projected_token".to_owned(), start));
    }
    let destinations = configuration.destinations().filter(|(_, destination)| configuration.sends_tokens(destination));
    used.extend(destinations.flat_map(|(_, destination)| clusters_of(configuration, destination)));
    let defined: Vec<&str> = inventory.clusters.iter().filter_map(|cluster| cluster.node.text_of("name")).collect();
    for (name, span) in used.iter().filter(|(name, _)| !defined.contains(&name.as_str())) {
        let near = defined.iter().min_by_key(|other| strsim::osa_distance(name, other));
        let near = near.filter(|other| strsim::osa_distance(name, other) <= 2);
        let remedy = match near {
            Some(near) => format!("Define the cluster, or correct its name: did you mean {near:?}?"),
            None => "Define the cluster, or correct its name.".to_owned(),
        };
        findings.add(
            "cluster_not_defined",
            (configuration.source, span.clone()),
            format!("no cluster is named {name:?}"),
            remedy,
        );
    }
}
