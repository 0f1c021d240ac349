//! Objects of Istio.

use super::listeners::{IGNORE_UPGRADE, MIRROR, OTHER_HEADER};
use crate::document::{kind_and_name, places_of};
use crate::finding::Findings;
use crate::inventory::{Found, Inventory};
use crate::source::Source;
use crate::tree::{Node, Value};

pub(super) fn check(sources: &[Source], inventory: &Inventory<'_>, findings: &mut Findings) {
    let headers = inventory.token_headers();
    let hosts = hosts(inventory);
    for object in &inventory.objects {
        match object.node.text_of("kind") {
            Some("DestinationRule") => check_destination_rule(*object, findings),
            Some("ServiceEntry") => check_service_entry(*object, &hosts, findings),
            Some("VirtualService") => check_virtual_service(*object, &headers, &hosts, findings),
            Some("WasmPlugin" | "TrafficExtension") => check_digest(*object, findings),
            Some("EnvoyFilter") => check_file_content(sources, *object, findings),
            _ => {}
        }
    }
    check_upgrade(inventory, findings);
}

/// The hosts of all destinations, in lower case. Those of Azure services in the public cloud.
fn hosts(inventory: &Inventory<'_>) -> Vec<String> {
    let mut hosts = Vec::new();
    for configuration in &inventory.configurations {
        for (_, destination) in configuration.destinations() {
            if let Some(id) = destination.text_of("azure_service") {
                hosts.extend(super::risks::endpoints_of(id, destination).into_iter().map(|(host, _)| host));
            }
            let own = destination.get("hosts").into_iter().flat_map(Node::items).filter_map(Node::text);
            hosts.extend(own.map(|host| host.split(':').next().unwrap_or(host).to_ascii_lowercase()));
        }
    }
    hosts
}

/// Whether an object is about a destination. Without a configuration in the files, any object may be.
fn concerns(object: &Node, hosts: &[String]) -> bool {
    let mut own = object.at(&["spec", "hosts"]).into_iter().flat_map(Node::items).filter_map(Node::text);
    hosts.is_empty() || own.any(|host| hosts.iter().any(|other| other.eq_ignore_ascii_case(host)))
}

/// With `sni` and without `subjectAltNames`, Istio sets no name to verify (istio.io, "Destination Rule", ClientTLSSettings).
fn check_destination_rule(object: Found<'_>, findings: &mut Findings) {
    object.node.walk(&mut |node| {
        let Some(tls) = node.get("tls") else { return };
        let verifies_itself = !matches!(tls.text_of("mode"), Some("SIMPLE" | "MUTUAL"));
        let names = tls.get("subjectAltNames").is_some_and(|names| names.items().next().is_some());
        if let Some(sni) = tls.get("sni").filter(|_| !verifies_itself && !names) {
            findings.add(
                "server_name_not_verified",
                object.place(sni),
                format!("{} does not verify the server's name", kind_and_name(object.node)),
                "Remove sni, or add subjectAltNames with the same name: with sni alone, Istio does not verify the server's name.",
            );
        }
    });
}

fn check_service_entry(object: Found<'_>, hosts: &[String], findings: &mut Findings) {
    let Some(ports) = object.node.at(&["spec", "ports"]) else { return };
    let port =
        |name: &str, number: u64| ports.items().any(|port| port.get(name).and_then(Node::number) == Some(number));
    let originates_tls = port("targetPort", 443);
    let is_destination = !hosts.is_empty() && concerns(object.node, hosts);
    if port("number", 443) || !(originates_tls || is_destination) {
        return;
    }
    findings.add(
        "service_entry_hides_443",
        object.place(ports),
        format!("{} has no port 443", kind_and_name(object.node)),
        "Add { number: 443, name: https, protocol: TLS }: this ServiceEntry replaces any other for the host, so that connections to \
         its port 443 are reset in a mesh with REGISTRY_ONLY.",
    );
}

fn check_virtual_service(object: Found<'_>, headers: &[String], hosts: &[String], findings: &mut Findings) {
    if !concerns(object.node, hosts) {
        return;
    }
    for route in object.node.at(&["spec", "http"]).into_iter().flat_map(Node::items) {
        for condition in route.get("match").into_iter().flat_map(Node::items) {
            for field in ["headers", "withoutHeaders"] {
                for header in condition.get(field).map(Node::entries).unwrap_or_default() {
                    let name = header.key.to_ascii_lowercase();
                    if headers.contains(&name) {
                        let message = format!("this route matches on {name}, which the filter sets");
                        let place = (object.source, header.key_span.clone());
                        findings.add("route_matches_changed_header", place, message, OTHER_HEADER);
                    }
                }
            }
        }
        for field in ["mirror", "mirrors"] {
            if let Some(mirror) = route.entry(field) {
                let place = (object.source, mirror.key_span.clone());
                findings.add(
                    "mirror_gets_token",
                    place,
                    "a copy of the request, with its token, is sent elsewhere",
                    MIRROR,
                );
            }
        }
    }
}

fn check_digest(object: Found<'_>, findings: &mut Findings) {
    object.node.walk(&mut |node| {
        if let Some(digest) = node.get("sha256").filter(|digest| matches!(digest.value, Value::Number(_))) {
            findings.add(
                "digest_unquoted",
                object.place(digest),
                "YAML reads this digest as a number, because all its characters are digits",
                "Write the digest in quotes.",
            );
        }
    });
}

/// Istio's proxy is built without `envoy.formatter.file_content`.
fn check_file_content(sources: &[Source], object: Found<'_>, findings: &mut Findings) {
    const COMMAND: &str = "%FILE_CONTENT(";
    let Some(source) = sources.get(object.source) else { return };
    object.node.walk(&mut |node| {
        let Value::String(text) = &node.value else { return };
        let is_type = text.text.contains("envoy.extensions.formatter.file_content");
        let span = match text.text.find(COMMAND) {
            Some(offset) => {
                let command = text.text.get(offset..).and_then(|rest| rest.find(")%")).map_or(COMMAND.len(), |end| end.saturating_add(2));
                places_of(source, &node.span, text).range(&(offset..offset.saturating_add(command)))
            }
            None if is_type => node.span.clone(),
            None => return,
        };
        findings.add(
            "file_content_in_istio",
            (object.source, span),
            "Istio's Envoy rejects this object",
            "Serve the file with direct_response and watched_directory, as in envoyfilter.yaml: Istio's Envoy does not have the \
             formatter FILE_CONTENT.",
        );
    });
}

/// The patches of all files together: one that inserts the filter, and one that lets Envoy ignore `Upgrade: TLS/…`.
fn check_upgrade(inventory: &Inventory<'_>, findings: &mut Findings) {
    let mut ignores = false;
    let mut inserted = Vec::new();
    for object in &inventory.objects {
        object.node.walk(&mut |node| {
            ignores = ignores || node.get("ignore_http_11_upgrade").is_some();
            let is_insertion = node.text_of("applyTo") == Some("HTTP_FILTER");
            let name = node.at(&["patch", "value", "name"]).filter(|_| is_insertion);
            if let Some(name) = name.filter(|name| name.text().is_some_and(|name| name.contains("entra-exchange"))) {
                inserted.push(object.place(name));
            }
        });
    }
    for place in inserted.into_iter().filter(|_| !ignores) {
        let message = "Envoy rejects a request with Upgrade: TLS/1.2 before the filter runs";
        findings.add("upgrade_not_ignored", place, message, IGNORE_UPGRADE);
    }
}
