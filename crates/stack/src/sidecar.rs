//! Reads `envoy/sidecar/envoy.yaml`, the file that operators deploy, and changes the few values that differ on a developer's machine.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use crate::document;
use crate::error::NoSuchPath;
use crate::error::StartError;
use crate::workspace;

/// The listener for the application's outbound requests.
pub const OUTBOUND: &str = "outbound";
/// The listener with the managed-identity endpoints of IMDS and App Service.
pub const MANAGED_IDENTITY: &str = "managed_identity";
/// The listener for the kubelet's probes.
pub const HEALTH: &str = "health";
/// The listeners that have a port and the filter.
pub const WITH_FILTER: [&str; 3] = [OUTBOUND, MANAGED_IDENTITY, HEALTH];

/// The addresses and files that replace those of a pod.
#[derive(Clone, Copy, Debug)]
pub struct Substitutes<'a> {
    /// The token endpoint.
    pub entra: SocketAddr,
    /// The PEM file of the CA that signed its certificate.
    pub entra_ca: &'a Path,
    /// The upstream of listed and unlisted hosts.
    pub upstream: SocketAddr,
    /// The PEM file of the CA that signed its certificate.
    pub upstream_ca: &'a Path,
    /// The server in place of the node's instance metadata service.
    pub instance_metadata: SocketAddr,
    /// The projected token.
    pub token_file: &'a Path,
    /// The folder that holds `..data`.
    pub watched: &'a Path,
    /// The module.
    pub module: &'a Path,
    /// The filter's configuration; `None` uses the one in the file.
    pub configuration: Option<&'a str>,
}

/// Reads the file and resolves anchors.
pub fn document() -> Result<Value, StartError> {
    Ok(document::read(workspace::SIDECAR)?.pop().unwrap_or_default())
}

/// Returns all differences from what an operator deploys. SNI and the expected certificate names are unchanged.
pub fn substitutions(substitutes: &Substitutes<'_>) -> Vec<(String, Value)> {
    let token = "static_resources.listeners[projected_token].filter_chains[0].filters[0].typed_config\
                 .route_config.virtual_hosts[projected_token].routes[0].direct_response.body";
    let mut list = vec![
        // Port 0: Envoy selects a free port and reports it.
        ("admin.address.socket_address.port_value".to_owned(), json!(0)),
        (format!("static_resources.listeners[{HEALTH}].address.socket_address.address"), json!("127.0.0.1")),
        (format!("{token}.filename"), json!(substitutes.token_file)),
        (format!("{token}.watched_directory.path"), json!(substitutes.watched)),
    ];
    for (cluster, server, ca) in [
        ("entra", substitutes.entra, Some(substitutes.entra_ca)),
        ("entra_new_connection", substitutes.entra, Some(substitutes.entra_ca)),
        ("payments_kv", substitutes.upstream, Some(substitutes.upstream_ca)),
        ("elsewhere", substitutes.upstream, Some(substitutes.upstream_ca)),
        ("instance_metadata", substitutes.instance_metadata, None),
    ] {
        list.extend(connected(cluster, server, ca));
    }
    for listener in WITH_FILTER {
        list.push((port(listener), json!(0)));
        list.push((module_path(listener), json!(substitutes.module)));
        if let Some(configuration) = substitutes.configuration {
            list.push((configuration_path(listener), json!(configuration)));
        }
    }
    list
}

/// The differences that connect a cluster to a server, and make it trust this CA.
pub(crate) fn connected(cluster: &str, server: SocketAddr, ca: Option<&Path>) -> Vec<(String, Value)> {
    let address = format!(
        "static_resources.clusters[{cluster}].load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address"
    );
    let mut list = vec![
        (format!("{address}.address"), json!(server.ip())),
        (format!("{address}.port_value"), json!(server.port())),
    ];
    list.extend(ca.map(|ca| (trusted_ca(cluster), json!(ca))));
    list
}

/// Returns the path of the module's file in a listener.
pub(crate) fn module_path(listener: &str) -> String {
    format!("{}.vm_config.code.local.filename", filter(listener))
}

/// Applies all substitutions.
pub(crate) fn adapt(document: &mut Value, substitutes: &Substitutes<'_>) -> Result<(), NoSuchPath> {
    substitutions(substitutes).into_iter().try_for_each(|(path, value)| document::set(document, &path, value))
}

/// Makes a listener take the original destination address from a PROXY protocol header instead of from an iptables redirect, so that a
/// test can name the metadata service's address without sending a packet to it.
pub fn accept_proxy_protocol(document: &mut Value, listener: &str) -> Result<(), NoSuchPath> {
    let listener = document::at_mut(document, &format!("static_resources.listeners[{listener}]"))?;
    listener["listener_filters"] = json!([{
        "name": "envoy.filters.listener.proxy_protocol",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
        },
    }]);
    Ok(())
}

/// Returns the path of the filter's `PluginConfig` in a listener.
pub fn filter(listener: &str) -> String {
    format!("static_resources.listeners[{listener}].{FILTER}")
}

/// Returns the path of the CA file that a cluster trusts.
pub fn trusted_ca(cluster: &str) -> String {
    format!(
        "static_resources.clusters[{cluster}].transport_socket.typed_config.common_tls_context.validation_context.trusted_ca.filename"
    )
}

/// Moves the filter from the listener `outbound` to a cluster's upstream filter chain, where it can read the connection's properties.
pub fn move_into_cluster(document: &mut Value, cluster: &str) -> Result<(), NoSuchPath> {
    let filters = format!("static_resources.listeners[{OUTBOUND}].{FILTERS}");
    let Some(filters) = document::at_mut(document, &filters)?.as_array_mut() else { return Ok(()) };
    let Some(index) = filters.iter().position(|filter| filter["name"] == "entra-exchange") else { return Ok(()) };
    let filter = filters.remove(index);
    put_into_cluster(document, cluster, filter)
}

/// Adds this filter to a cluster's upstream filter chain, before the codec.
pub fn put_into_cluster(document: &mut Value, cluster: &str, filter: Value) -> Result<(), NoSuchPath> {
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let cluster = document::at_mut(document, &format!("static_resources.clusters[{cluster}]"))?;
    let options = &mut cluster["typed_extension_protocol_options"][options];
    if options["@type"].is_null() {
        *options = json!({
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http_protocol_options": {}},
        });
    }
    let codec = json!({
        "name": "envoy.filters.http.upstream_codec",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec"},
    });
    options["http_filters"] = json!([filter, codec]);
    Ok(())
}

/// Returns the complete HTTP filter of the listener `outbound`.
pub fn http_filter(document: &mut Value) -> Result<Value, NoSuchPath> {
    let path = format!("static_resources.listeners[{OUTBOUND}].{FILTERS}[entra-exchange]");
    document::at_mut(document, &path).cloned()
}

const FILTERS: &str = "filter_chains[0].filters[0].typed_config.http_filters";

const FILTER: &str = "filter_chains[0].filters[0].typed_config.http_filters[entra-exchange].typed_config.config";

/// Returns the path of the filter's configuration in a listener.
pub fn configuration_path(listener: &str) -> String {
    format!("{}.configuration.value", filter(listener))
}

pub(crate) fn port(listener: &str) -> String {
    format!("static_resources.listeners[{listener}].address.socket_address.port_value")
}

/// Replaces the filter's configuration in a list of listeners.
pub(crate) fn set_configuration(listeners: &mut Value, configuration: &str) -> Result<(), NoSuchPath> {
    WITH_FILTER
        .iter()
        .try_for_each(|name| document::set(listeners, &format!("[{name}].{FILTER}.configuration.value"), configuration))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn substitutes() -> Substitutes<'static> {
        Substitutes {
            entra: SocketAddr::from(([127, 0, 0, 1], 1)),
            entra_ca: Path::new("/entra.pem"),
            upstream: SocketAddr::from(([127, 0, 0, 1], 2)),
            upstream_ca: Path::new("/upstream.pem"),
            instance_metadata: SocketAddr::from(([127, 0, 0, 1], 3)),
            token_file: Path::new("/wi/token/azure-identity-token"),
            watched: Path::new("/wi"),
            module: Path::new("/filter.wasm"),
            configuration: Some("{}"),
        }
    }

    #[test]
    fn every_substitution_replaces_a_value_of_envoy_yaml() {
        let mut document = document().unwrap();

        for (path, value) in substitutions(&substitutes()) {
            let present = document::at_mut(&mut document, &path).unwrap();
            assert_ne!(*present, value, "{path} changes nothing");
            assert_eq!(present.is_string(), value.is_string(), "{path} changes its type");
        }
    }

    #[test]
    fn no_path_or_port_of_a_pod_remains_after_the_substitutions() {
        let mut document = document().unwrap();
        adapt(&mut document, &substitutes()).unwrap();

        let text = document.to_string();
        for left in [
            "/var/run/",
            "/etc/",
            ":443",
            "15000",
            "15001",
            "15002",
            "15003",
            "\"address\":\"169.254.169.254\"",
            "0.0.0.0",
        ] {
            assert!(!text.contains(left), "{left} remains");
        }
    }

    #[test]
    fn certificate_names_are_verified_after_the_substitutions() {
        let mut document = document().unwrap();
        adapt(&mut document, &substitutes()).unwrap();

        let entra = "login.microsoftonline.com";
        for (cluster, name) in [("entra", entra), ("entra_new_connection", entra), ("payments_kv", crate::LISTED_HOST)]
        {
            let tls = format!("static_resources.clusters[{cluster}].transport_socket.typed_config");
            let tls = document::at_mut(&mut document, &tls).unwrap();
            assert_eq!(tls["sni"], name);
            let names = &tls["common_tls_context"]["validation_context"]["match_typed_subject_alt_names"];
            assert_eq!(*names, json!([{"san_type": "DNS", "matcher": {"exact": name}}]));
        }
    }

    #[test]
    fn all_listeners_have_the_same_filter() {
        let mut document = document().unwrap();

        let outbound = document::at_mut(&mut document, &filter(OUTBOUND)).unwrap().clone();
        for listener in [MANAGED_IDENTITY, HEALTH] {
            assert_eq!(outbound, *document::at_mut(&mut document, &filter(listener)).unwrap());
        }
    }
}
