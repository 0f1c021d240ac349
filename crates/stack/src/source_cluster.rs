//! The clusters of `envoy/sources/`, connected to a test's server, a stack whose filter uses one of them, and an Envoy that calls through
//! one of them.

use std::net::SocketAddr;
use std::path::Path;
use std::{fs, io};

use serde_json::{Value, json};

use crate::client::{Request, Response};
use crate::document::{self, at_mut};
use crate::envoy::{Envoy, Launch};
use crate::error::{NoSuchPath, StartError};
use crate::folder::Folder;
use crate::options::Options;
use crate::process;
use crate::token_directory::TokenDirectory;
use crate::workload::LISTED_HOST;

/// The folder of the clusters, relative to the repository's root.
pub const FOLDER: &str = "envoy/sources";

const CA: &str = "transport_socket.typed_config.common_tls_context.validation_context.trusted_ca.filename";
const NAME: &str =
    "transport_socket.typed_config.common_tls_context.validation_context.match_typed_subject_alt_names[0].matcher";
const ENDPOINT: &str = "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address";
const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const SECRET_CA: &str = "transport_socket.typed_config.common_tls_context.combined_validation_context.validation_context_sds_secret_config.\
                         sds_config.path_config_source.path";
const SECRET: &str = "http_filters[0].typed_config.credential.typed_config.credential.sds_config.path_config_source";

/// Makes the HTTP call that the request's headers describe, as a Wasm filter does, and responds with its result.
const LUA: &str = r#"
function envoy_on_request(handle)
  -- The body first: it can suspend the script, after which objects taken before are not valid.
  local sent_body, text = handle:body(true), ""
  if sent_body:length() > 0 then text = sent_body:getBytes(0, sent_body:length()) end
  local request, headers = handle:headers(), {}
  for name, value in pairs(request) do
    local sent = string.match(name, "^x%-send%-(.+)$")
    if sent then headers[sent] = value end
  end
  headers[":method"], headers[":path"] = request:get("x-call-method"), request:get("x-call-path")
  headers[":authority"] = request:get("x-call-authority")
  local options = { ["timeout_ms"] = 5000, ["send_xff"] = false }
  local answer, body = handle:httpCall(request:get("x-call-cluster"), headers, text, options)
  handle:respond({ [":status"] = answer[":status"] }, body)
end
"#;

/// Reads the cluster of a file for plain Envoy, such as `vault`.
///
/// # Errors
/// When the file is not a list of one cluster.
pub fn read(name: &str) -> Result<Value, StartError> {
    let path = format!("{FOLDER}/{name}.yaml");
    let mut documents = document::read(&path)?;
    match documents.first_mut().and_then(Value::as_array_mut).map(Vec::as_mut_slice) {
        Some([cluster]) => Ok(cluster.take()),
        _ => Err(StartError::Yaml { path: path.into(), reason: "the file is not a list of one cluster".to_owned() }),
    }
}

/// Connects a cluster to a server: its address, unless the cluster resolves the request's host.
pub fn set_address(cluster: &mut Value, server: SocketAddr) {
    if let Ok(endpoint) = at_mut(cluster, ENDPOINT) {
        *endpoint = json!({ "address": server.ip().to_string(), "port_value": server.port() });
    }
}

/// Makes a cluster trust this CA. Does nothing if it does not use TLS.
pub fn set_ca(cluster: &mut Value, ca: &Path) {
    if let Ok(file) = at_mut(cluster, CA) {
        *file = json!(ca);
    }
}

/// Makes a cluster accept certificates for this name only.
///
/// # Errors
/// When the cluster does not verify a name.
pub fn set_name(cluster: &mut Value, name: &str) -> Result<(), NoSuchPath> {
    document::set(cluster, NAME, json!({ "exact": name }))
}

/// Makes a cluster speak plaintext.
pub fn remove_tls(cluster: &mut Value) {
    if let Some(cluster) = cluster.as_object_mut() {
        cluster.shift_remove("transport_socket");
    }
}

/// Makes the cluster `vault` read the Vault token from this file, with its secret beside it.
///
/// # Errors
/// When the secret cannot be read or written.
pub fn set_vault_token(cluster: &mut Value, token: &Path, secret: &Path) -> Result<(), StartError> {
    let shipped = crate::root().join(FOLDER).join("vault-token.yaml");
    let text = fs::read_to_string(&shipped).map_err(StartError::io(format!("reading {}", shipped.display())))?;
    fs::write(secret, text.replace("/var/run/vault/token", &token.display().to_string()))
        .map_err(StartError::io(format!("writing {}", secret.display())))?;
    let folder = token.parent().unwrap_or(token);
    let watched = json!({ "path": secret, "watched_directory": { "path": folder } });
    Ok(document::set(&mut cluster["typed_extension_protocol_options"][OPTIONS], SECRET, watched)?)
}

/// Makes a cluster of the token proxy trust the CA in the file of this volume, which its secret names.
///
/// # Errors
/// When the cluster does not take its CA from a secret, or the secret cannot be read or written.
pub fn set_watched_ca(cluster: &mut Value, volume: &TokenDirectory, secret: &Path) -> Result<(), StartError> {
    document::set(cluster, SECRET_CA, json!(secret))?;
    let shipped = crate::root().join(FOLDER).join("aks-token-proxy-ca.yaml");
    let text = fs::read_to_string(&shipped).map_err(StartError::io(format!("reading {}", shipped.display())))?;
    let text = text
        .replace("/var/run/secrets/azure/wi/ca-cert/ca.crt", &volume.file().display().to_string())
        .replace("/var/run/secrets/azure/wi", &volume.watched().display().to_string());
    fs::write(secret, text).map_err(StartError::io(format!("writing {}", secret.display())))
}

/// Connects a cluster to a Unix socket.
///
/// # Errors
/// When the cluster has no Unix socket.
pub fn set_socket(cluster: &mut Value, socket: &Path) -> Result<(), NoSuchPath> {
    let path = "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.pipe.path";
    document::set(cluster, path, json!(socket))
}

/// Makes the cluster `aws_sts` sign requests with the credentials of this provider (Envoy's `AwsCredentialProvider`), instead of those that
/// Envoy finds on the machine.
///
/// # Errors
/// When the cluster does not sign requests.
pub fn set_aws_credentials(cluster: &mut Value, provider: Value) -> Result<(), NoSuchPath> {
    let signer = at_mut(&mut cluster["typed_extension_protocol_options"][OPTIONS], "http_filters[0].typed_config")?;
    signer["credential_provider"] = provider;
    Ok(())
}

/// The options of a stack whose filter gets its federated token over HTTP, through this cluster, and may read these environment variables.
/// `assertions` is the section of that name; its first entry is the workload's.
pub fn options(cluster: Value, variables: &[(String, String)], assertions: &Value) -> Options {
    let configuration = json!({
        "assertions": assertions,
        "identities": [{ "assertion": assertions[0]["name"] }],
        "destinations": [{
            "hosts": [LISTED_HOST], "scope": "https://vault.azure.net/.default", "tls_clusters": ["payments_kv"],
        }],
    });
    let names: Vec<Value> = variables.iter().map(|(name, _)| json!(name)).collect();
    let mut options = Options {
        configuration: Some(configuration.to_string()),
        edit: Some(Box::new(move |bootstrap| {
            allow_variables(bootstrap, &names);
            if let Some(clusters) = bootstrap["static_resources"]["clusters"].as_array_mut() {
                clusters.push(cluster);
            }
        })),
        ..Options::default()
    };
    for (name, value) in variables {
        options = options.variable(name, Some(value));
    }
    options
}

/// Lets the filter read these variables.
fn allow_variables(document: &mut Value, names: &[Value]) {
    match document {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::Array(keys) if name == "host_env_keys" => {
                        // Envoy rejects a name that is listed twice.
                        let added = names.iter().filter(|name| !keys.contains(name)).cloned().collect::<Vec<_>>();
                        keys.extend(added);
                    }
                    other => allow_variables(other, names),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| allow_variables(item, names)),
        _ => {}
    }
}

/// An Envoy with one cluster, which makes HTTP calls to it as a Wasm filter does. It stops when dropped.
pub struct Caller {
    // Dropped before its folder.
    /// Envoy.
    pub envoy: Envoy,
    listener: SocketAddr,
    cluster: String,
    _folder: Folder,
}

impl Caller {
    /// Starts an Envoy with this binary.
    ///
    /// # Errors
    /// When Envoy rejects the cluster or does not start.
    pub fn start(binary: &Path, cluster: &Value) -> Result<Self, StartError> {
        let folder = process::folder()?;
        let bootstrap = bootstrap(cluster);
        let envoy = Envoy::start(&launch(binary, &bootstrap, folder.path()))?;
        let listener = envoy.listener("call").map_err(StartError::io("getting the listener's address"))?;
        let missing = || StartError::io("getting the listener's address")(io::ErrorKind::NotFound.into());
        let name = cluster["name"].as_str().unwrap_or_default().to_owned();
        Ok(Self { envoy, listener: listener.ok_or_else(missing)?, cluster: name, _folder: folder })
    }

    /// Makes a call and returns its status and body. `request` has the method, the host, the path, the headers and the body of the call.
    ///
    /// # Errors
    /// When Envoy does not respond. A failed call is a 503.
    pub fn call(&self, request: &Request) -> io::Result<Response> {
        let call = Request::post("caller", "/", request.body().unwrap_or_default())
            .header("x-call-cluster", &self.cluster)
            .header("x-call-method", request.method())
            .header("x-call-authority", request.host())
            .header("x-call-path", request.path());
        let add = |call: Request, (name, value): (&str, &[u8])| call.header(&format!("x-send-{name}"), value);
        request.headers().fold(call, add).send(self.listener)
    }
}

/// Validates a cluster with an Envoy.
///
/// # Errors
/// When Envoy rejects it.
pub fn validate(binary: &Path, cluster: &Value) -> Result<(), StartError> {
    let folder = process::folder()?;
    launch(binary, &bootstrap(cluster), folder.path()).validate()
}

fn launch<'a>(binary: &'a Path, bootstrap: &'a Value, folder: &'a Path) -> Launch<'a> {
    Launch { binary, bootstrap, folder, concurrency: 1, environment: &[], log_level: "warning", listeners: &["call"] }
}

fn bootstrap(cluster: &Value) -> Value {
    json!({
        "node": { "id": "test", "cluster": "test" },
        "admin": { "address": { "socket_address": { "address": "127.0.0.1", "port_value": 0 } } },
        "static_resources": {
            "listeners": [{
                "name": "call",
                "address": { "socket_address": { "address": "127.0.0.1", "port_value": 0 } },
                "filter_chains": [{ "filters": [{
                    "name": "envoy.filters.network.http_connection_manager",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                        "stat_prefix": "call",
                        "route_config": { "virtual_hosts": [{
                            "name": "call", "domains": ["*"],
                            "routes": [{ "match": { "prefix": "/" }, "direct_response": { "status": 500 } }],
                        }] },
                        "http_filters": [
                            {
                                "name": "envoy.filters.http.lua",
                                "typed_config": {
                                    "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
                                    "default_source_code": { "inline_string": LUA },
                                },
                            },
                            {
                                "name": "envoy.filters.http.router",
                                "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
                            },
                        ],
                    },
                }] }],
            }],
            "clusters": [cluster],
        },
    })
}
