//! The ways to install the filter with Istio, and the Envoy bootstrap that Istio generates for each.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use stack::document::{at_mut, set};
use stack::{LISTED_HOST, sidecar};

use crate::manifest::{HTTP_10, IMDS, Manifest, RBAC, SIDECAR, UPSTREAM, WASM, manifest};

pub(crate) const HTTP: &str = "filter_chains[0].filters[0].typed_config";
const TCP_PROXY: &str = "envoy.filters.network.tcp_proxy";
const PROTOCOL: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
pub(crate) const TOKEN_BODY: &str = "filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[projected_token].routes[0]\
                          .direct_response.body";

/// A way to install the filter with Istio.
#[derive(Clone)]
pub(crate) struct Form {
    /// The manifest with the clusters for Entra and for the federated token.
    file: &'static str,
    /// The extension configuration that Envoy discovers by name.
    extension: Value,
    /// The filter in the filter chain; its `config_source` is replaced.
    filter: Value,
    placement: Placement,
    /// The hosts of the ServiceEntry, each with its own cluster.
    pub(crate) hosts: Vec<String>,
    /// Whether `http10.yaml` is applied.
    pub(crate) http_10: bool,
    /// The cluster for connections that Istio does not recognize as HTTP. With REGISTRY_ONLY it has no endpoint.
    pub(crate) passthrough: &'static str,
    /// Whether the EnvoyFilter of `imds.yaml` is applied.
    pub(crate) guards_metadata: bool,
}

/// Istio's cluster without endpoints, for connections to unknown destinations.
pub(crate) const BLACK_HOLE: &str = "BlackHoleCluster";

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Placement {
    /// In the listener's filter chain.
    Downstream,
    /// In the filter chain of the upstream's cluster.
    Upstream,
}

impl Form {
    /// The EXTENSION_CONFIG and HTTP_FILTER of a manifest.
    pub(crate) fn envoy_filter(file: &'static str) -> Self {
        let manifest = manifest(file);
        let mut extension = manifest.value("EXTENSION_CONFIG");
        let uri = at_mut(&mut extension, "typed_config.config.vm_config.code.remote.http_uri.uri").unwrap();
        assert!(uri.as_str().unwrap().starts_with("oci://"));
        let hosts = vec![LISTED_HOST.to_owned()];
        let filter = manifest.value("HTTP_FILTER");
        let placement = Placement::Downstream;
        Self {
            file,
            extension,
            filter,
            placement,
            hosts,
            http_10: false,
            passthrough: BLACK_HOLE,
            guards_metadata: true,
        }
    }

    /// The CLUSTER patch of `upstream.yaml` instead of the HTTP_FILTER.
    pub(crate) fn upstream() -> Self {
        let filter = upstream_options()["http_filters"][0].take();
        Self { filter, placement: Placement::Upstream, ..Self::envoy_filter(SIDECAR) }
    }

    /// The filter that istiod generates for a WasmPlugin or for the `wasm` of a TrafficExtension: without `vm_id`, and with the
    /// configuration as a JSON string.
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

    /// The sidecar with this configuration of the filter, and a ServiceEntry and DestinationRules for these hosts.
    pub(crate) fn sidecar(configuration: Value, hosts: &[&str]) -> Self {
        let mut form = Self::envoy_filter(SIDECAR);
        form.configure(|current| *current = configuration);
        form.hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        form
    }

    /// Applies `http10.yaml` as well.
    pub(crate) fn with_http_10(self) -> Self {
        Self { http_10: true, ..self }
    }

    /// Changes the filter's configuration.
    pub(crate) fn configure(&mut self, change: impl FnOnce(&mut Value)) {
        let text = at_mut(&mut self.extension, "typed_config.config.configuration.value").unwrap();
        let mut configuration = serde_json::from_str(text.as_str().unwrap()).unwrap();
        change(&mut configuration);
        *text = json!(configuration.to_string());
    }

    /// Turns the plain sidecar's bootstrap into the one that Istio generates for a pod. Of the plain sidecar, only the listener `outbound`
    /// and the listeners that the stack waits for remain, all without the filter.
    pub(crate) fn into_istio(self, bootstrap: &mut Value) {
        let mut plain = bootstrap.clone();
        let manifest = manifest(self.file);
        let filter = self.discovered(&mut plain);

        let mut clusters = manifest.values("CLUSTER");
        // Istio generates another cluster for the ServiceEntry of IMDS; the remaining listener's route refers to this one.
        clusters.push(at_mut(&mut plain, "static_resources.clusters[instance_metadata]").unwrap().clone());
        let mut hosts = Vec::new();
        for host in &self.hosts {
            // Istio's cluster for the ServiceEntry and DestinationRule verifies the server's name against the request's host, like the
            // plain sidecar's cluster `elsewhere`.
            let name = form_cluster(self.file).replace(LISTED_HOST, host);
            let mut upstream = at_mut(&mut plain, "static_resources.clusters[elsewhere]").unwrap().clone();
            set(&mut upstream, "name", name.as_str()).unwrap();
            set(&mut upstream, "load_assignment.cluster_name", name.as_str()).unwrap();
            if self.placement == Placement::Upstream {
                let mut options = upstream_options();
                options["http_filters"][0] = filter.clone();
                upstream["typed_extension_protocol_options"] = json!({PROTOCOL: options});
            }
            clusters.push(upstream);
            let mut route = json!({"match": {"prefix": "/"}, "route": {"cluster": name, "timeout": "0s"}});
            route["request_headers_to_remove"] = removed_headers(&manifest);
            hosts.push(json!({"name": format!("{host}:80"), "domains": [host], "routes": [route]}));
        }
        clusters.push(json!({"name": BLACK_HOLE, "type": "STATIC", "connect_timeout": "10s"}));
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
        // Istio's settings, before any patch.
        http.as_object_mut().unwrap().remove("http_protocol_options");
        http["upgrade_configs"] = json!([{"upgrade_type": "websocket"}]);
        for patch in manifest.patches("NETWORK_FILTER") {
            assert_eq!(patch["patch"]["operation"], "MERGE");
            merge(http, &patch["patch"]["value"]["typed_config"]);
        }
        set(http, "route_config.virtual_hosts", hosts).unwrap();
        if self.placement == Placement::Downstream {
            insert(&manifest.patch("HTTP_FILTER"), at_mut(http, "http_filters").unwrap(), filter);
        }
        // A gateway's listener accepts only HTTP.
        if self.file == SIDECAR {
            let listener = at_mut(bootstrap, &format!("static_resources.listeners[{}]", sidecar::OUTBOUND)).unwrap();
            self.recognize_http(listener);
        }
    }

    /// Detects HTTP like Istio's listener for a port of a sidecar: by the first bytes of a connection. Connections that are not recognized are
    /// forwarded as TCP (istio/istio, pilot/pkg/networking/core/listener.go, `plaintextHTTPALPNs`).
    fn recognize_http(&self, listener: &mut Value) {
        listener["listener_filters"] = json!([{
            "name": "envoy.filters.listener.http_inspector",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector"},
        }]);
        listener["continue_on_listener_filters_timeout"] = json!(true);
        let chain = &mut listener["filter_chains"][0];
        chain["filter_chain_match"] =
            json!({"transport_protocol": "raw_buffer", "application_protocols": ["http/1.1", "h2c"]});
        if self.http_10 {
            let patch = manifest(HTTP_10).patch("FILTER_CHAIN");
            assert_eq!(patch["patch"]["operation"], "MERGE");
            let wanted = &patch["match"]["listener"]["filterChain"];
            assert_eq!(*wanted, json!({"transportProtocol": "raw_buffer", "applicationProtocols": "http/1.1,h2c"}));
            merge(chain, &patch["patch"]["value"]);
        }
        let mut filters = json!([{"name": TCP_PROXY, "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": self.passthrough, "cluster": self.passthrough,
        }}]);
        if self.guards_metadata {
            let patch = manifest(IMDS).patch("NETWORK_FILTER");
            assert_eq!(patch["patch"]["operation"], "INSERT_BEFORE");
            assert_eq!(patch["match"]["listener"]["filterChain"]["filter"]["name"], TCP_PROXY);
            filters.as_array_mut().unwrap().insert(0, patch["patch"]["value"].clone());
        }
        listener["default_filter_chain"] = json!({"filters": filters});
    }

    /// Writes the file from which Envoy discovers the extension configuration, next to the stack's other files, and returns the filter for
    /// the filter chain.
    fn discovered(&self, plain: &mut Value) -> Value {
        let module = at_mut(plain, &format!("{}.vm_config.code", sidecar::filter(sidecar::OUTBOUND))).unwrap().clone();
        stack::module().unwrap_or_else(|error| panic!("{error}"));
        let mut extension = self.extension.clone();
        set(&mut extension, "typed_config.config.vm_config.code", module).unwrap();
        extension["@type"] = json!("type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig");
        let ca = at_mut(plain, &sidecar::trusted_ca("entra")).unwrap().as_str().unwrap();
        // In a separate folder: Envoy watches the whole folder, and it writes its log to the other one.
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

/// Istio's name for the upstream's cluster, as in the filter's configuration.
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

/// The headers that the egress gateway's route to the service removes; a sidecar has no such route.
fn removed_headers(manifest: &Manifest) -> Value {
    let services = manifest.objects("VirtualService");
    let mut routes = services.iter().flat_map(|service| service["spec"]["http"].as_array().unwrap());
    let is_egress = |route: &&Value| route["match"][0]["gateways"] != json!(["mesh"]);
    routes.find(is_egress).map_or_else(|| json!([]), |route| route["headers"]["request"]["remove"].clone())
}

/// The `HttpProtocolOptions` of the CLUSTER patch in `upstream.yaml`.
pub(crate) fn upstream_options() -> Value {
    let patch = manifest(UPSTREAM).patch("CLUSTER");
    assert_eq!(patch["patch"]["operation"], "MERGE");
    patch["patch"]["value"]["typed_extension_protocol_options"][PROTOCOL].clone()
}

/// Merges like protobuf: messages field by field, repeated fields by concatenation; other values are replaced.
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

/// Applies the HTTP_FILTER patch.
fn insert(patch: &Value, filters: &mut Value, filter: Value) {
    assert_eq!(patch["patch"]["operation"], "INSERT_BEFORE");
    let chain = &patch["match"]["listener"]["filterChain"]["filter"];
    assert_eq!(chain["name"], "envoy.filters.network.http_connection_manager");
    let filters = filters.as_array_mut().unwrap();
    let index = filters.iter().position(|other| other["name"] == chain["subFilter"]["name"]).unwrap();
    filters.insert(index, filter);
}

/// The paths of the values that differ between a pod and a developer's machine; the stack has already set them in the plain sidecar's
/// bootstrap. Otherwise only two things differ from a pod: the module is a local file (the istio-agent makes it one in a pod, too), and
/// the filter's configuration is discovered from a file instead of by ADS.
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
