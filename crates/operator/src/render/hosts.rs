//! The hosts of a configuration, with the names that the manifests give them.

use std::collections::BTreeSet;

use entra_exchange_core::authority::Cloud;
use entra_exchange_core::azure::Service;
use serde::Serialize;

use super::Target;
use super::settings::{Refusal, Settings, is_label, is_name_of_cluster};
use super::sources::Sources;
use crate::tree::Node;

/// A host, and the names of the objects for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Host {
    /// The host, without a port.
    pub(super) host: String,
    /// The name of its objects in Kubernetes.
    pub(super) name: String,
    /// The name of its cluster in Envoy.
    pub(super) cluster: String,
    /// The name of its virtual host in Envoy.
    pub(super) virtual_host: String,
}

/// The clusters that the manifests define themselves.
const OWN: &[&str] = &["entra", "entra_new_connection", "projected_token", "instance_metadata", "elsewhere"];

/// The hosts whose requests get a token, each once.
pub(super) fn of(
    tree: &Node,
    cloud: Cloud,
    target: Target,
    settings: &Settings,
    sources: &Sources,
) -> Result<Vec<Host>, Refusal> {
    let mut taken = OWN.to_vec();
    taken.extend(sources.clusters.iter().map(|cluster| cluster.name.as_str()));
    let defaults = tree.get("defaults");
    let mut hosts: Vec<Host> = Vec::new();
    for (index, destination) in tree.get("destinations").into_iter().flat_map(Node::items).enumerate() {
        let setting = |name: &str| destination.get(name).or_else(|| defaults?.get(name));
        let action = setting("action").and_then(Node::text);
        if !matches!(action, None | Some("inject" | "report")) {
            continue;
        }
        let path = format!("destinations[{index}]");
        let clusters: Vec<&str> =
            setting("tls_clusters").into_iter().flat_map(Node::items).filter_map(Node::text).collect();
        for host in names(destination, cloud) {
            if hosts.iter().any(|other| other.host == host) {
                continue;
            }
            if host.contains(['*', ':', '[']) {
                return Err(Refusal::new(format!(
                    "{path}: {host:?} cannot be an object of its own: list hosts without wildcard and port"
                )));
            }
            let cluster = match target {
                Target::Gateway => gateway_cluster(&path, &host, &clusters, &settings.namespace)?,
                _ => cluster(&path, &host, &clusters, target, &taken)?,
            };
            if hosts.iter().any(|other| other.cluster == cluster) {
                return Err(Refusal::new(format!(
                    "{path}.tls_clusters: {cluster:?} would be the cluster of two hosts: write a name with {{host}}, such as to_{{host}}"
                )));
            }
            let name = if target == Target::Gateway { host.clone() } else { name(&host, &hosts)? };
            let virtual_host = if hosts.is_empty() { "listed".to_owned() } else { name.clone() };
            hosts.push(Host { host, name, cluster, virtual_host });
        }
    }
    Ok(hosts)
}

fn names(destination: &Node, cloud: Cloud) -> BTreeSet<String> {
    let listed = destination.get("hosts").into_iter().flat_map(Node::items).filter_map(Node::text);
    let mut hosts: BTreeSet<String> = listed.map(str::to_ascii_lowercase).collect();
    let service = destination.text_of("azure_service").and_then(|id| Service::find(id, Some(cloud)).ok());
    if let Some(service) = service {
        let own = destination.get("names").into_iter().flat_map(Node::items).filter_map(Node::text);
        hosts.extend(own.filter_map(|name| service.endpoint(name).ok()).map(|endpoint| endpoint.host));
        hosts.extend(service.endpoints().unwrap_or_default().into_iter().map(|endpoint| endpoint.host));
    }
    hosts
}

/// The cluster of a host: in a mesh Istio's own, in a plain Envoy the first of the list.
fn cluster(path: &str, host: &str, clusters: &[&str], target: Target, taken: &[&str]) -> Result<String, Refusal> {
    let expanded: Vec<String> = clusters.iter().map(|name| name.replace("{host}", host)).collect();
    if target == Target::Upstream {
        return Ok(format!("outbound|80||{host}"));
    }
    if target.is_istios() {
        let port = if target == Target::EgressGateway { 443 } else { 80 };
        let own = format!("outbound|{port}||{host}");
        if !expanded.contains(&own) {
            return Err(Refusal::new(format!(
                "{path}.tls_clusters does not list Istio's cluster of the host: add \"outbound|{port}||{{host}}\""
            )));
        }
        return Ok(own);
    }
    let Some(first) = expanded.into_iter().next() else {
        return Err(Refusal::new(format!("{path}.tls_clusters is missing: name the cluster, such as to_{{host}}")));
    };
    if !is_name_of_cluster(&first) || taken.contains(&first.as_str()) {
        return Err(Refusal::new(format!(
            "{path}.tls_clusters: {first:?} cannot be the name of a cluster of the manifest: write letters, digits, dots, hyphens and \
             underscores, and none of {}",
            taken.join(", ")
        )));
    }
    Ok(first)
}

/// The cluster that Envoy Gateway makes for the first rule of an HTTPRoute, which has the host's name.
fn gateway_cluster(path: &str, host: &str, clusters: &[&str], namespace: &str) -> Result<String, Refusal> {
    if host.len() > 253 || !host.split('.').all(is_label) {
        return Err(Refusal::new(format!("{path}: {host:?} cannot be the name of an HTTPRoute: write a name of DNS")));
    }
    let own = |host: &str| format!("httproute/{namespace}/{host}/rule/0");
    if clusters.iter().any(|name| name.replace("{host}", host) == own(host)) {
        return Ok(own(host));
    }
    Err(Refusal::new(format!(
        "{path}.tls_clusters does not list Envoy Gateway's cluster of the host: add {:?}",
        own("{host}")
    )))
}

/// The first label of the host, or all labels if another host has the same one.
fn name(host: &str, others: &[Host]) -> Result<String, Refusal> {
    let first = host.split('.').next().unwrap_or(host);
    let is_free = |name: &str| is_label(name) && others.iter().all(|other| other.name != name);
    let all = host.replace('.', "-");
    let name = [first, &all].into_iter().find(|name| is_free(name));
    name.map(str::to_owned).ok_or_else(|| Refusal::new(format!("{host:?} gives no name for an object of Kubernetes")))
}
