//! The forms in which Istio gives the filter to Envoy: the bootstrap that comes of each.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use stack::document::{at_mut, set};
use stack::{LISTED_HOST, sidecar};

use crate::manifest::{Manifest, RBAC, SIDECAR, UPSTREAM, WASM, manifest};

pub(crate) const HTTP: &str = "filter_chains[0].filters[0].typed_config";
const PROTOCOL: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
pub(crate) const TOKEN_BODY: &str = "filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[projected_token].routes[0]\
                          .direct_response.body";

/// One form in which Istio gives the filter to Envoy.
#[derive(Clone)]
pub(crate) struct Form {
    /// The manifest with the ways to Entra and to the token.
    file: &'static str,
    /// What Envoy discovers, by its name.
    extension: Value,
    /// What stands in the chain, without where it is discovered.
    filter: Value,
    place: Place,
    /// The hosts of the ServiceEntry, each with its own cluster.
    pub(crate) hosts: Vec<String>,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Place {
    /// In the listener's chain.
    Downstream,
    /// In the chain of the cluster that leads to the upstream.
    Upstream,
}

impl Form {
    /// As the manifest's own EXTENSION_CONFIG and HTTP_FILTER say it.
    pub(crate) fn envoy_filter(file: &'static str) -> Self {
        let manifest = manifest(file);
        let mut extension = manifest.value("EXTENSION_CONFIG");
        let uri = at_mut(&mut extension, "typed_config.config.vm_config.code.remote.http_uri.uri").unwrap();
        assert!(uri.as_str().unwrap().starts_with("oci://"));
        let hosts = vec![LISTED_HOST.to_owned()];
        Self { file, extension, filter: manifest.value("HTTP_FILTER"), place: Place::Downstream, hosts }
    }

    /// With the patch of the cluster in place of the HTTP_FILTER.
    pub(crate) fn upstream() -> Self {
        let filter = upstream_options()["http_filters"][0].take();
        Self { filter, place: Place::Upstream, ..Self::envoy_filter(SIDECAR) }
    }

    /// As istiod makes it of a WasmPlugin, or of a TrafficExtension's `wasm`: no `vm_id`, and the configuration as JSON in a text.
    pub(crate) fn plugin(name: &str, spec: &Value) -> Self {
        let name = format!("extensions.istio.io/{name}");
        let variables = spec["vmConfig"]["env"].as_array().unwrap();
        assert!(variables.iter().all(|variable| variable["valueFrom"] == "HOST"));
        assert_eq!(spec["failStrategy"], "FAIL_RELOAD");
        let extension = json!({"name": name, "typed_config": {"@type": WASM, "config": {
            "name": name.rsplit('/').next(),
            "root_id": spec["pluginName"],
            "failure_policy": "FAIL_RELOAD",
            "configuration": {
                "@type": "type.googleapis.com/google.protobuf.StringValue",
                "value": spec["pluginConfig"].to_string(),
            },
            "vm_config": {
                "runtime": "envoy.wasm.runtime.v8",
                "code": null,
                "environment_variables": {
                    "host_env_keys": variables.iter().map(|variable| &variable["name"]).collect::<Vec<_>>(),
                    "key_values": {"ISTIO_META_WASM_PLUGIN_RESOURCE_VERSION": "1"},
                },
            },
        }}});
        let discovery = json!({"config_source": {"ads": {}, "initial_fetch_timeout": "0s"}, "type_urls": [WASM, RBAC]});
        let filter = json!({"name": name, "config_discovery": discovery});
        Self { extension, filter, ..Self::envoy_filter(SIDECAR) }
    }

    /// The sidecar with another configuration, and the ServiceEntry and DestinationRules for its hosts.
    pub(crate) fn scenario(configuration: Value, hosts: &[&str]) -> Self {
        let mut form = Self::envoy_filter(SIDECAR);
        form.configure(|written| *written = configuration);
        form.hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        form
    }

    /// Changes what the module decides.
    pub(crate) fn configure(&mut self, change: impl FnOnce(&mut Value)) {
        let text = at_mut(&mut self.extension, "typed_config.config.configuration.value").unwrap();
        let mut configuration = serde_json::from_str(text.as_str().unwrap()).unwrap();
        change(&mut configuration);
        *text = json!(configuration.to_string());
    }

    /// Makes the sidecar's bootstrap the one that Istio gives a pod's Envoy. Of the sidecar's own only the listener `outbound`
    /// remains, and those for which the stack waits; all without the filter.
    pub(crate) fn into_istio(self, bootstrap: &mut Value) {
        let mut plain = bootstrap.clone();
        let manifest = manifest(self.file);
        let filter = self.discovered(&mut plain);

        let mut clusters = manifest.values("CLUSTER");
        // Istio has another for the ServiceEntry of IMDS; the route of the listener that remains knows this one.
        clusters.push(at_mut(&mut plain, "static_resources.clusters[instance_metadata]").unwrap().clone());
        let mut hosts = Vec::new();
        for host in &self.hosts {
            // What Istio makes of the ServiceEntry and the DestinationRule: the name to verify is the request's host, as in the
            // plain sidecar's cluster `elsewhere`.
            let name = form_cluster(self.file).replace(LISTED_HOST, host);
            let mut upstream = at_mut(&mut plain, "static_resources.clusters[elsewhere]").unwrap().clone();
            set(&mut upstream, "name", name.as_str()).unwrap();
            set(&mut upstream, "load_assignment.cluster_name", name.as_str()).unwrap();
            if self.place == Place::Upstream {
                let mut options = upstream_options();
                options["http_filters"][0] = filter.clone();
                upstream["typed_extension_protocol_options"] = json!({PROTOCOL: options});
            }
            clusters.push(upstream);
            let mut route = json!({"match": {"prefix": "/"}, "route": {"cluster": name, "timeout": "0s"}});
            route["request_headers_to_remove"] = removed_headers(&manifest);
            hosts.push(json!({"name": format!("{host}:80"), "domains": [host], "routes": [route]}));
        }
        set(bootstrap, "static_resources.clusters", clusters).unwrap();

        let listeners = at_mut(bootstrap, "static_resources.listeners").unwrap().as_array_mut().unwrap();
        listeners.retain(|listener| listener["name"] != "projected_token");
        for listener in &mut *listeners {
            let filters = at_mut(listener, &format!("{HTTP}.http_filters")).unwrap().as_array_mut().unwrap();
            filters.retain(|filter| filter["name"] != "entra-exchange");
        }
        listeners.push(manifest.value("LISTENER"));

        for path in substitutions() {
            let local = at_mut(&mut plain, &path).unwrap().clone();
            set(bootstrap, &path, local).unwrap();
        }

        let http = format!("static_resources.listeners[{}].{HTTP}", sidecar::OUTBOUND);
        let http = at_mut(bootstrap, &http).unwrap();
        // Istio's own, before any patch.
        http.as_object_mut().unwrap().remove("http_protocol_options");
        http["upgrade_configs"] = json!([{"upgrade_type": "websocket"}]);
        for patch in manifest.patches("NETWORK_FILTER") {
            assert_eq!(patch["patch"]["operation"], "MERGE");
            merge(http, &patch["patch"]["value"]["typed_config"]);
        }
        set(http, "route_config.virtual_hosts", hosts).unwrap();
        if self.place == Place::Downstream {
            insert(&manifest.patch("HTTP_FILTER"), at_mut(http, "http_filters").unwrap(), filter);
        }
    }

    /// The filter as it stands in the chain, and beside the stack's other files the one in which Envoy discovers the rest.
    fn discovered(&self, plain: &mut Value) -> Value {
        let module = at_mut(plain, &format!("{}.vm_config.code", sidecar::filter(sidecar::OUTBOUND))).unwrap().clone();
        stack::module().unwrap_or_else(|error| panic!("{error}"));
        let mut extension = self.extension.clone();
        set(&mut extension, "typed_config.config.vm_config.code", module).unwrap();
        extension["@type"] = json!("type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig");
        let ca = at_mut(plain, &sidecar::trusted_ca("entra")).unwrap().as_str().unwrap();
        // In a folder of its own: Envoy watches the whole folder, and its log grows in the other.
        let file = Path::new(ca).with_file_name("discovered").join("extensions.json");
        fs::create_dir(file.parent().unwrap()).unwrap();
        fs::write(&file, json!({"version_info": "1", "resources": [extension]}).to_string()).unwrap();

        let mut filter = self.filter.clone();
        let source = at_mut(&mut filter, "config_discovery.config_source").unwrap().as_object_mut().unwrap();
        assert_eq!(source.remove("ads"), Some(json!({})));
        source.insert("path_config_source".to_owned(), json!({"path": file}));
        filter
    }
}

/// Istio's name for the cluster that leads to the upstream, as the filter's configuration has it.
pub(crate) fn form_cluster(file: &str) -> String {
    let manifest = manifest(file);
    let extension = manifest.value("EXTENSION_CONFIG");
    let text = extension["typed_config"]["config"]["configuration"]["value"].as_str().unwrap();
    let configuration: Value = serde_json::from_str(text).unwrap();
    let destination = &configuration["destinations"][0];
    let host = manifest.object("ServiceEntry")["spec"]["hosts"][0].as_str().unwrap().to_owned();
    assert_eq!(host, format!("{}.vault.azure.net", destination["names"][0].as_str().unwrap()));
    destination["tls_clusters"][0].as_str().unwrap().replace("{host}", &host)
}

/// The headers that the route from an egress gateway to the service removes; a sidecar has no such route.
fn removed_headers(manifest: &Manifest) -> Value {
    let services = manifest.objects("VirtualService");
    let mut routes = services.iter().flat_map(|service| service["spec"]["http"].as_array().unwrap());
    let leads_out = |route: &&Value| route["match"][0]["gateways"] != json!(["mesh"]);
    routes.find(leads_out).map_or_else(|| json!([]), |route| route["headers"]["request"]["remove"].clone())
}

/// What the patch of a cluster puts there.
pub(crate) fn upstream_options() -> Value {
    let patch = manifest(UPSTREAM).patch("CLUSTER");
    assert_eq!(patch["patch"]["operation"], "MERGE");
    patch["patch"]["value"]["typed_extension_protocol_options"][PROTOCOL].clone()
}

/// Merges as messages of protobuf are merged: fields one by one, lists one behind the other.
fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(from)) => into.extend(from.iter().cloned()),
        (into, from) => *into = from.clone(),
    }
}

/// Carries out the HTTP_FILTER patch.
fn insert(patch: &Value, filters: &mut Value, filter: Value) {
    assert_eq!(patch["patch"]["operation"], "INSERT_BEFORE");
    let chain = &patch["match"]["listener"]["filterChain"]["filter"];
    assert_eq!(chain["name"], "envoy.filters.network.http_connection_manager");
    let filters = filters.as_array_mut().unwrap();
    let place = filters.iter().position(|other| other["name"] == chain["subFilter"]["name"]).unwrap();
    filters.insert(place, filter);
}

/// What a developer's machine has elsewhere than a pod; the stack has set the same paths of the sidecar's bootstrap already. Beside
/// these, only the module is a local file, as the istio-agent makes it, and the filter is discovered in a file instead of by ADS.
fn substitutions() -> Vec<String> {
    let mut paths = vec![
        format!("static_resources.listeners[projected_token].{TOKEN_BODY}.filename"),
        format!("static_resources.listeners[projected_token].{TOKEN_BODY}.watched_directory.path"),
    ];
    for cluster in ["entra", "entra_new_connection"] {
        let endpoint = "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address";
        for part in ["address", "port_value"] {
            paths.push(format!("static_resources.clusters[{cluster}].{endpoint}.{part}"));
        }
        paths.push(sidecar::trusted_ca(cluster));
    }
    paths
}
