//! `envoy/sidecar/envoy.yaml` itself, as operators get it, with the few values changed that differ on a developer's machine.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use crate::document;
use crate::error::NoSuchPath;
use crate::error::StartError;
use crate::workspace;

/// The listener to which the application speaks.
pub const OUTBOUND: &str = "outbound";
/// The listener that answers for IMDS and App Service.
pub const MANAGED_IDENTITY: &str = "managed_identity";
/// The listener that answers the kubelet.
pub const HEALTH: &str = "health";
/// The listeners that have a port and the filter.
pub const WITH_FILTER: [&str; 3] = [OUTBOUND, MANAGED_IDENTITY, HEALTH];

/// What stands around the sidecar here instead of in a pod.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// The token endpoint.
    pub entra: SocketAddr,
    /// The PEM file of the CA that signed its certificate.
    pub entra_ca: &'a Path,
    /// The upstream of the listed host and of all others.
    pub upstream: SocketAddr,
    /// The PEM file of the CA that signed its certificate.
    pub upstream_ca: &'a Path,
    /// What stands for the node's own metadata service.
    pub instance_metadata: SocketAddr,
    /// The projected token.
    pub token_file: &'a Path,
    /// The folder that holds `..data`.
    pub watched: &'a Path,
    /// The filter.
    pub module: &'a Path,
    /// The filter's configuration, when not the one in the file.
    pub configuration: Option<&'a str>,
}

/// The document as it stands in the repository, anchors resolved.
pub fn document() -> Result<Value, StartError> {
    Ok(document::read(workspace::SIDECAR)?.pop().unwrap_or_default())
}

/// All that differs from what an operator deploys. SNI and the names that certificates must have stay as they are.
pub fn substitutions(around: &Surroundings<'_>) -> Vec<(String, Value)> {
    let token = "static_resources.listeners[projected_token].filter_chains[0].filters[0].typed_config\
                 .route_config.virtual_hosts[projected_token].routes[0].direct_response.body";
    let mut list = vec![
        // Envoy chooses free ports and says which.
        ("admin.address.socket_address.port_value".to_owned(), json!(0)),
        (format!("static_resources.listeners[{HEALTH}].address.socket_address.address"), json!("127.0.0.1")),
        (format!("{token}.filename"), json!(around.token_file)),
        (format!("{token}.watched_directory.path"), json!(around.watched)),
    ];
    for (cluster, server, ca) in [
        ("entra", around.entra, Some(around.entra_ca)),
        ("entra_new_connection", around.entra, Some(around.entra_ca)),
        ("payments_kv", around.upstream, Some(around.upstream_ca)),
        ("elsewhere", around.upstream, Some(around.upstream_ca)),
        ("instance_metadata", around.instance_metadata, None),
    ] {
        let address = format!(
            "static_resources.clusters[{cluster}].load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address"
        );
        list.push((format!("{address}.address"), json!(server.ip())));
        list.push((format!("{address}.port_value"), json!(server.port())));
        list.extend(ca.map(|ca| (trusted_ca(cluster), json!(ca))));
    }
    for listener in WITH_FILTER {
        list.push((port(listener), json!(0)));
        list.push((format!("{}.vm_config.code.local.filename", filter(listener)), json!(around.module)));
        if let Some(configuration) = around.configuration {
            list.push((configuration_path(listener), json!(configuration)));
        }
    }
    list
}

/// Makes all substitutions.
pub(crate) fn adapt(document: &mut Value, around: &Surroundings<'_>) -> Result<(), NoSuchPath> {
    substitutions(around).into_iter().try_for_each(|(path, value)| document::set(document, &path, value))
}

/// Has a listener take the address that a client called from a PROXY header, in place of the network's own redirection: the header
/// names the metadata service's address without a packet to it.
pub fn take_proxy_header(document: &mut Value, listener: &str) -> Result<(), NoSuchPath> {
    let listener = document::at_mut(document, &format!("static_resources.listeners[{listener}]"))?;
    listener["listener_filters"] = json!([{
        "name": "envoy.filters.listener.proxy_protocol",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
        },
    }]);
    Ok(())
}

/// The path of the filter's own settings (Envoy's `PluginConfig`) in a listener.
pub fn filter(listener: &str) -> String {
    format!("static_resources.listeners[{listener}].{FILTER}")
}

/// The path of the CA file that a cluster trusts.
pub fn trusted_ca(cluster: &str) -> String {
    format!(
        "static_resources.clusters[{cluster}].transport_socket.typed_config.common_tls_context.validation_context.trusted_ca.filename"
    )
}

/// Moves the filter out of the listener `outbound` into a cluster's own filter chain, where it sees the connection.
pub fn move_into_cluster(document: &mut Value, cluster: &str) -> Result<(), NoSuchPath> {
    let filters = format!("static_resources.listeners[{OUTBOUND}].{FILTERS}");
    let Some(filters) = document::at_mut(document, &filters)?.as_array_mut() else { return Ok(()) };
    let Some(place) = filters.iter().position(|filter| filter["name"] == "entra-exchange") else { return Ok(()) };
    let filter = filters.remove(place);
    put_into_cluster(document, cluster, filter)
}

/// Gives a cluster this filter before its codec.
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

/// The filter as it stands in the listener `outbound`.
pub fn whole_filter(document: &mut Value) -> Result<Value, NoSuchPath> {
    let path = format!("static_resources.listeners[{OUTBOUND}].{FILTERS}[entra-exchange]");
    document::at_mut(document, &path).cloned()
}

const FILTERS: &str = "filter_chains[0].filters[0].typed_config.http_filters";

const FILTER: &str = "filter_chains[0].filters[0].typed_config.http_filters[entra-exchange].typed_config.config";

fn configuration_path(listener: &str) -> String {
    format!("{}.configuration.value", filter(listener))
}

fn port(listener: &str) -> String {
    format!("static_resources.listeners[{listener}].address.socket_address.port_value")
}

/// Another configuration text of the filter, in a list of listeners.
pub(crate) fn set_configuration(listeners: &mut Value, configuration: &str) -> Result<(), NoSuchPath> {
    WITH_FILTER
        .iter()
        .try_for_each(|name| document::set(listeners, &format!("[{name}].{FILTER}.configuration.value"), configuration))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn surroundings() -> Surroundings<'static> {
        Surroundings {
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
    fn every_substitution_names_a_value_that_stands_in_envoy_yaml() {
        let mut document = document().unwrap();

        for (path, value) in substitutions(&surroundings()) {
            let present = document::at_mut(&mut document, &path).unwrap();
            assert_ne!(*present, value, "{path} changes nothing");
            assert_eq!(present.is_string(), value.is_string(), "{path} changes its type");
        }
    }

    #[test]
    fn no_path_of_an_operators_pod_is_left_after_the_substitutions() {
        let mut document = document().unwrap();
        adapt(&mut document, &surroundings()).unwrap();

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
            assert!(!text.contains(left), "{left} is still there");
        }
    }

    #[test]
    fn names_in_certificates_are_still_verified_after_the_substitutions() {
        let mut document = document().unwrap();
        adapt(&mut document, &surroundings()).unwrap();

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
