//! The filter chains that are compared: each is a listener of its own in one Envoy.

use std::path::Path;

use serde_json::{Value, json};
use stack::{LISTED_HOST, Options, Request, Stack, document, sidecar};

use crate::wrk::{self, Target};
use crate::{BenchResult, figures, process};

/// The cluster of the upstream in plaintext, which the listener form uses.
const PLAINTEXT: &str = "bench_plaintext";

/// Where the filters run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// In a listener's filter chain; the upstream is in plaintext.
    Listener,
    /// In a cluster's filter chain; the upstream has TLS, because the filter checks it there.
    Cluster,
    /// In a listener's filter chain that answers requests itself, as the one for managed identity.
    Replying,
}

/// A filter chain to measure.
#[derive(Clone, Debug)]
pub struct Chain {
    /// What it is, for the table.
    pub name: &'static str,
    /// Its filter; `None` is a chain without a filter.
    pub filter: Option<Value>,
    /// The `Host` header of its requests.
    pub host: &'static str,
    /// The response that its route sends; `None` forwards to the upstream.
    pub direct_response: Option<Value>,
}

impl Chain {
    /// Creates a chain for requests to the listed host.
    pub fn new(name: &'static str, filter: Option<Value>) -> Self {
        Self { name, filter, host: LISTED_HOST, direct_response: None }
    }

    /// Sends its requests to this host.
    #[must_use]
    pub fn for_host(self, host: &'static str) -> Self {
        Self { host, ..self }
    }
}

/// The chains in a running Envoy.
pub struct Chains {
    /// The stack.
    pub stack: Stack,
    targets: Vec<Target>,
    workers: u32,
}

impl Chains {
    /// Starts an Envoy with these chains. `path` and `header` belong to every request.
    pub fn start(
        form: Form,
        workers: u32,
        chains: &[Chain],
        path: &str,
        header: Option<&'static str>,
    ) -> BenchResult<Self> {
        let installed = chains.to_vec();
        let edit = move |document: &mut Value| {
            if let Err(error) = install(document, form, &installed) {
                panic!("{error}");
            }
        };
        let options = Options {
            concurrency: workers,
            log_level: "warning".to_owned(),
            edit: Some(Box::new(edit)),
            ..Options::default()
        };
        let stack = Stack::start(options)?;
        let mut targets = Vec::new();
        for (index, chain) in chains.iter().enumerate() {
            let address = stack.envoy.listener(&listener_name(index))?;
            let address = address.ok_or_else(|| format!("the listener of `{}` has not started", chain.name))?;
            targets.push(Target { address, host: chain.host.to_owned(), path: path.to_owned(), header });
        }
        Ok(Self { stack, targets, workers })
    }

    /// Sends one request through a chain, with this path.
    pub fn send(&self, index: usize, path: &str) -> BenchResult<stack::Response> {
        let target = &self.targets[index];
        let mut request = Request::get(&target.host, path);
        if let Some((name, value)) = target.header.and_then(|header| header.split_once(": ")) {
            request = request.header(name, value);
        }
        Ok(request.send(target.address)?)
    }

    /// Returns Envoy's CPU time per request of each chain in microseconds, in each of these rounds of one second for each chain.
    pub fn measure(&self, rounds: usize) -> BenchResult<Vec<Vec<f64>>> {
        let all = |seconds| {
            let cost = |target| cost(target, self.stack.envoy.pid(), self.workers, seconds);
            self.targets.iter().map(cost).collect::<BenchResult<Vec<f64>>>()
        };
        // The first round fetches the tokens, opens connections, and lets V8 compile the modules.
        all(1)?;
        (0..rounds).map(|_| all(1)).collect()
    }
}

/// Returns the CPU time per request of the process with this id in microseconds.
pub fn cost(target: &Target, pid: u32, workers: u32, seconds: u32) -> BenchResult<f64> {
    let before = process::cpu(pid)?;
    let requests = wrk::run(target, workers, seconds)?;
    Ok(figures::micros(process::cpu(pid)? - before) / requests as f64)
}

fn listener_name(index: usize) -> String {
    format!("bench_{index}")
}

/// Adds a listener for each chain, and a cluster where the form needs one.
fn install(document: &mut Value, form: Form, chains: &[Chain]) -> BenchResult<()> {
    let template = match form {
        Form::Replying => sidecar::MANAGED_IDENTITY,
        Form::Listener | Form::Cluster => sidecar::OUTBOUND,
    };
    let listener = document::at_mut(document, &format!("static_resources.listeners[{template}]"))?.clone();
    let plaintext = document::at_mut(document, "static_resources.clusters[instance_metadata]")?.clone();
    add(document, "clusters", named(plaintext, PLAINTEXT))?;
    document["static_resources"]["secrets"] = json!([]);
    for (index, chain) in chains.iter().enumerate() {
        let name = listener_name(index);
        let mut listener = named(listener.clone(), &name);
        let manager = document::at_mut(&mut listener, "filter_chains[0].filters[0].typed_config")?;
        let router = document::at_mut(manager, "http_filters[envoy.filters.http.router]")?.clone();
        let cluster = if form == Form::Cluster { name.as_str() } else { PLAINTEXT };
        let route = match &chain.direct_response {
            Some(response) => json!({"match": {"prefix": "/"}, "direct_response": response}),
            None => json!({"match": {"prefix": "/"}, "route": {"cluster": cluster}}),
        };
        manager["route_config"] = json!({"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]});
        manager["access_log"] = json!([]);
        manager["http_filters"] = json!([router]);
        match (form, &chain.filter) {
            (Form::Cluster, filter) => {
                let mut cluster = document::at_mut(document, "static_resources.clusters[payments_kv]")?.clone();
                cluster = named(cluster, &name);
                add(document, "clusters", cluster)?;
                if let Some(filter) = filter {
                    sidecar::put_into_cluster(document, &name, filter.clone())?;
                }
            }
            (_, Some(filter)) => manager["http_filters"] = json!([filter, router]),
            (_, None) => {}
        }
        add(document, "listeners", listener)?;
    }
    Ok(())
}

fn named(mut value: Value, name: &str) -> Value {
    value["name"] = json!(name);
    if value.get("load_assignment").is_some() {
        value["load_assignment"]["cluster_name"] = json!(name);
    }
    value
}

fn add(document: &mut Value, list: &str, element: Value) -> BenchResult<()> {
    let list = document::at_mut(document, &format!("static_resources.{list}"))?;
    list.as_array_mut().ok_or("the list is missing")?.push(element);
    Ok(())
}

/// Returns `header_mutation` that sets `authorization` to this value.
pub fn header_mutation(value: &str) -> Value {
    let mutation = json!({"append": {
        "header": {"key": "authorization", "value": value},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    }});
    filter(
        "header_mutation",
        "header_mutation.v3.HeaderMutation",
        json!({"mutations": {"request_mutations": [mutation]}}),
    )
}

/// Returns `credential_injector` that sets `authorization` to the content of this file.
pub fn credential_injector(file: &Path) -> Value {
    let generic = json!({
        "@type": "type.googleapis.com/envoy.extensions.http.injected_credentials.generic.v3.Generic",
        "credential": {"name": "bench", "sds_config": {"path_config_source": {"path": file}}},
    });
    let credential = json!({"name": "envoy.http.injected_credentials.generic", "typed_config": generic});
    let config = json!({"overwrite": true, "credential": credential});
    filter("credential_injector", "credential_injector.v3.CredentialInjector", config)
}

/// Returns a Lua filter that looks the host up in a table and sets `authorization` to its value.
pub fn lua(value: &str) -> Value {
    let code = format!(
        "local tokens = {{ [\"{LISTED_HOST}\"] = \"{value}\" }}
        function envoy_on_request(handle)
          local headers = handle:headers()
          local token = tokens[headers:get(\":authority\")]
          if token then headers:replace(\"authorization\", token) end
        end"
    );
    filter("lua", "lua.v3.Lua", json!({"default_source_code": {"inline_string": code}}))
}

fn filter(name: &str, kind: &str, mut config: Value) -> Value {
    config["@type"] = json!(format!("type.googleapis.com/envoy.extensions.filters.http.{kind}"));
    json!({"name": format!("envoy.filters.http.{name}"), "typed_config": config})
}

/// Compiles a filter that makes only the necessary host calls into `folder`, and returns it. `length` is the size in bytes of what it
/// sends.
pub fn floor(folder: &Path, name: &str, text: &str, length: usize) -> BenchResult<Value> {
    let file = folder.join(format!("{name}.wasm"));
    std::fs::write(&file, wat::parse_str(text.replace("LENGTH", &length.to_string()))?)?;
    let vm = json!({"vm_id": name, "runtime": "envoy.wasm.runtime.v8", "code": {"local": {"filename": file}}});
    Ok(filter("wasm", "wasm.v3.Wasm", json!({"config": {"name": name, "root_id": name, "vm_config": vm}})))
}

/// Returns the product's filter with this configuration, in VMs of its own.
pub fn product(name: &str, configuration: &Value) -> BenchResult<Value> {
    let mut filter = sidecar::http_filter(&mut sidecar::document()?)?;
    for (path, value) in [
        ("typed_config.config.vm_config.vm_id", json!(name)),
        ("typed_config.config.vm_config.code.local.filename", json!(stack::module()?)),
        ("typed_config.config.configuration.value", json!(configuration.to_string())),
    ] {
        document::set(&mut filter, path, value)?;
    }
    Ok(filter)
}

/// Returns the destination of the listed host in this form.
pub fn destination(form: Form) -> Value {
    let mut destination = json!({"hosts": [LISTED_HOST], "scope": "https://vault.azure.net/.default"});
    if form == Form::Listener {
        destination["tls_clusters"] = json!([PLAINTEXT]);
    }
    destination
}
