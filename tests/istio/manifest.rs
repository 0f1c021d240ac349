//! Reads the manifests of `envoy/istio/`.

use std::fs;

use serde_json::Value;

pub(crate) const FOLDER: &str = "envoy/istio";
pub(crate) const SIDECAR: &str = "envoyfilter.yaml";
pub(crate) const GATEWAY: &str = "egress-gateway.yaml";
pub(crate) const UPSTREAM: &str = "upstream.yaml";
pub(crate) const WASM_PLUGIN: &str = "wasmplugin.yaml";
pub(crate) const TRAFFIC_EXTENSION: &str = "trafficextension.yaml";
pub(crate) const WORKLOAD: &str = "workload.yaml";
pub(crate) const IMDS: &str = "imds.yaml";
pub(crate) const READINESS: &str = "readiness.yaml";
pub(crate) const HTTP_10: &str = "http10.yaml";

pub(crate) const WASM: &str = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm";
pub(crate) const RBAC: &str = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC";

/// The objects of a file.
pub(crate) struct Manifest(pub(crate) Vec<Value>);

pub(crate) fn manifest(name: &str) -> Manifest {
    Manifest(stack::document::read(&format!("{FOLDER}/{name}")).unwrap())
}

pub(crate) fn files() -> Vec<String> {
    let folder = fs::read_dir(stack::root().join(FOLDER)).unwrap();
    folder.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
}

impl Manifest {
    pub(crate) fn objects(&self, kind: &str) -> Vec<Value> {
        self.0.iter().filter(|object| object["kind"] == kind).cloned().collect()
    }

    /// The first object of this kind.
    pub(crate) fn object(&self, kind: &str) -> Value {
        self.objects(kind).into_iter().next().unwrap_or_else(|| panic!("no {kind}"))
    }

    /// The EnvoyFilter patches with this `applyTo`, in order.
    pub(crate) fn patches(&self, to: &str) -> Vec<Value> {
        let filters = self.objects("EnvoyFilter");
        let patches = filters.iter().flat_map(|filter| filter["spec"]["configPatches"].as_array().unwrap());
        patches.filter(|patch| patch["applyTo"] == to).cloned().collect()
    }

    pub(crate) fn patch(&self, to: &str) -> Value {
        only(self.patches(to))
    }

    /// The Envoy configuration in each patch with this `applyTo`.
    pub(crate) fn values(&self, to: &str) -> Vec<Value> {
        self.patches(to).into_iter().map(|mut patch| patch["patch"]["value"].take()).collect()
    }

    pub(crate) fn value(&self, to: &str) -> Value {
        only(self.values(to))
    }
}

fn only(mut list: Vec<Value>) -> Value {
    assert_eq!(list.len(), 1, "{list:?}");
    list.remove(0)
}
