//! The sources of federated tokens of a configuration: their clusters in a manifest, and the environment variables that they need.
//!
//! The clusters are those below `envoy/sources/`, with the configuration's names and hosts.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::IpAddr;

use entra_exchange_core::assertion::Source as TokenSource;
use entra_exchange_core::config::Config;
use serde::Serialize;

use super::settings::{Refusal, is_host, is_name_of_cluster};
use crate::check::Options;
use crate::check::environment;
use crate::inventory::Inventory;
use crate::tree::Node;

/// What the manifests need for the sources of a configuration.
#[derive(Debug, Default)]
pub(super) struct Sources {
    /// Whether the file with the projected token is read, which the cluster `projected_token` serves.
    pub(super) has_file: bool,
    /// The clusters of the sources over HTTP.
    pub(super) clusters: Vec<Cluster>,
    /// The environment variables that the module must be able to read, besides Azure's.
    pub(super) variables: Vec<String>,
}

/// A cluster for a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Cluster {
    pub(super) name: String,
    /// The cluster as a mapping of YAML.
    pub(super) text: String,
    /// Whether Envoy adds the Vault token to its requests.
    pub(super) adds_vault_token: bool,
}

/// A file below `envoy/sources/`, with the texts in it that are replaced.
struct Template {
    text: &'static str,
    name: &'static str,
    /// The host, for a cluster with one endpoint.
    host: &'static str,
    port: u16,
}

const GITHUB: Template = Template {
    text: include_str!("../../../../envoy/sources/github-actions.yaml"),
    name: "github",
    host: "",
    port: 443,
};
const AZURE_PIPELINES: Template = Template {
    text: include_str!("../../../../envoy/sources/azure-pipelines.yaml"),
    name: "azure_pipelines",
    host: "dev.azure.com",
    port: 443,
};
const GOOGLE: Template = Template {
    text: include_str!("../../../../envoy/sources/google-metadata.yaml"),
    name: "google_metadata",
    host: "169.254.169.254",
    port: 80,
};
const VAULT: Template = Template {
    text: include_str!("../../../../envoy/sources/vault.yaml"),
    name: "vault",
    host: "vault.example.com",
    port: 443,
};
const LOOPBACK: Template = Template {
    text: include_str!("../../../../envoy/sources/vault-proxy.yaml"),
    name: "vault",
    host: "127.0.0.1",
    port: 8100,
};
const OIDC: Template = Template {
    text: include_str!("../../../../envoy/sources/oidc.yaml"),
    name: "oidc",
    host: "keycloak.example.com",
    port: 443,
};

const AZURE_IMDS: Template = Template {
    text: include_str!("../../../../envoy/sources/azure-imds.yaml"),
    name: "azure_imds",
    host: "169.254.169.254",
    port: 80,
};
const AZURE_APP_SERVICE: Template = Template {
    text: include_str!("../../../../envoy/sources/azure-app-service.yaml"),
    name: "azure_app_service",
    host: "127.0.0.1",
    port: 8081,
};
const AWS_STS: Template = Template {
    text: include_str!("../../../../envoy/sources/aws-sts.yaml"),
    name: "aws_sts",
    host: "sts.eu-central-1.amazonaws.com",
    port: 443,
};
const SPIRE: Template =
    Template { text: include_str!("../../../../envoy/sources/spire.yaml"), name: "spire_agent", host: "", port: 0 };

/// The names that a certificate may have in the cluster for GitHub's hosts.
const GITHUB_NAMES: &str = "- { san_type: DNS, matcher: { suffix: .actions.githubusercontent.com } }";

/// The file that names the Vault token, for Envoy's cluster.
pub(super) const VAULT_TOKEN: &str = include_str!("../../../../envoy/sources/vault-token.yaml");

/// The variables of the module in every manifest.
const USUAL: &[&str] = &["AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_AUTHORITY_HOST"];

/// What the configuration needs. `hosts` are those of clusters that the configuration does not name: cluster, and host with port.
pub(super) fn of(
    text: &str,
    tree: &Node,
    inventory: &Inventory<'_>,
    options: &Options,
    hosts: &[(String, String)],
) -> Result<Sources, Refusal> {
    let asked = RefCell::new(BTreeSet::new());
    let environment = environment::of(inventory, options);
    let config = Config::parse(text.as_bytes(), &|name| {
        asked.borrow_mut().insert(name.to_owned());
        environment.assumed(name)
    });
    let config = config.map_err(|refused| Refusal::new(refused.to_string()))?;
    let variables: Vec<String> =
        asked.into_inner().into_iter().filter(|name| !USUAL.contains(&name.as_str())).collect();
    let is_word = |name: &String| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if let Some(name) = variables.iter().find(|name| !is_word(name)) {
        return Err(Refusal::new(format!(
            "{name:?} is not a valid name of an environment variable: write letters and _"
        )));
    }
    let specs = config.identities().filter_map(|identity| identity.token("").ok());
    let mut sources = Sources { has_file: false, clusters: Vec::new(), variables };
    for spec in specs {
        sources.has_file |= reads_file(spec.assertion());
    }
    for (index, entry) in tree.get("assertions").into_iter().flat_map(Node::items).enumerate() {
        let path = format!("assertions[{index}]");
        let Some(cluster) = cluster(&path, entry, hosts)? else { continue };
        match sources.clusters.iter().find(|other| other.name == cluster.name) {
            None => sources.clusters.push(cluster),
            Some(other) if *other == cluster => {}
            Some(_) => {
                return Err(Refusal::new(format!(
                    "{path}.cluster: {:?} would lead to two hosts: choose another name",
                    cluster.name
                )));
            }
        }
    }
    let unused = hosts.iter().find(|(name, _)| sources.clusters.iter().all(|cluster| cluster.name != *name));
    match unused {
        Some((name, _)) => {
            Err(Refusal::new(format!("no assertion over HTTP has the cluster {name:?}: correct --source")))
        }
        None => Ok(sources),
    }
}

/// Whether a source is the file with the projected token, or depends on it.
fn reads_file(source: &TokenSource) -> bool {
    source.kind() == "file" || source.input().is_some_and(reads_file)
}

/// The cluster of an entry of `assertions`; `None` for a file.
fn cluster(path: &str, entry: &Node, hosts: &[(String, String)]) -> Result<Option<Cluster>, Refusal> {
    let name = entry.text_of("cluster").unwrap_or_default();
    let kind = entry.text_of("source").unwrap_or("file");
    if kind == "file" {
        if name == "projected_token" {
            return Ok(None);
        }
        return Err(Refusal::new(format!(
            "{path}.cluster: the manifests serve a token's file by the cluster projected_token, and not by {name:?}"
        )));
    }
    if !is_name_of_cluster(name) {
        return Err(Refusal::new(format!(
            "{path}.cluster: {name:?} cannot be the name of a cluster of the manifest: write letters, digits, dots, hyphens and underscores"
        )));
    }
    let (request, authority_path) = match entry.get("request") {
        Some(request) => (request, format!("{path}.request.authority")),
        None => (entry, format!("{path}.authority")),
    };
    let given = hosts.iter().find(|(cluster, _)| cluster == name).map(|(_, host)| host.as_str());
    let place = Place { path, name, authority: request.text_of("authority"), authority_path: &authority_path, given };
    let allowed: Vec<&str> =
        request.get("allowed_hosts").into_iter().flat_map(Node::items).filter_map(Node::text).collect();
    let filled = match kind {
        "github_actions" => by_request(&GITHUB, &place, &allowed)?,
        "http" if request.get("url_from_env").is_some() => by_request(&GITHUB, &place, &allowed)?,
        "azure_pipelines" => match (given, allowed.as_slice()) {
            (None, [host]) if !host.starts_with('.') => Place { given: Some(host), ..place }.fill(&AZURE_PIPELINES)?,
            (None, [_, ..]) => by_request(&GITHUB, &place, &allowed)?,
            _ => place.fill(&AZURE_PIPELINES)?,
        },
        "google_metadata" => place.fill(&GOOGLE)?,
        "azure_managed_identity" => place.fill(&AZURE_IMDS)?,
        "azure_app_service" => place.fill(&AZURE_APP_SERVICE)?,
        "aws_sts" => aws_sts(entry, &place)?,
        "spiffe_workload_api" => on_socket(&place)?,
        "vault" => place.fill(if place.is_loopback() { &LOOPBACK } else { &VAULT })?,
        "oidc_client_credentials" | "token_exchange" | "http" => {
            place.fill(if place.is_loopback() { &LOOPBACK } else { &OIDC })?
        }
        other => {
            return Err(Refusal::new(format!(
                "{path}.source: the manifests have no cluster for {other}: paste the configuration into a manifest of envoy/, and add \
                 the cluster {name:?}"
            )));
        }
    };
    let adds_vault_token = filled.contains("vault-token.yaml");
    Ok(Some(Cluster { name: name.to_owned(), text: filled, adds_vault_token }))
}

/// A cluster whose requests go to the host that each of them names. The certificate may have the allowed names only.
fn by_request(template: &Template, place: &Place<'_>, allowed: &[&str]) -> Result<String, Refusal> {
    if let Some(given) = place.given {
        return Err(Refusal::new(format!(
            "--source {}={given}: the cluster resolves the host of each request: list the host in {}.allowed_hosts",
            place.name, place.path
        )));
    }
    let text = place.named(template);
    if allowed.is_empty() {
        return Ok(text);
    }
    let (before, after) = text.split_once(GITHUB_NAMES).ok_or_else(|| changed(template))?;
    let indentation = before.rsplit('\n').next().unwrap_or_default();
    let names = allowed.iter().map(|host| {
        let matcher = if host.starts_with('.') { "suffix" } else { "exact" };
        format!("- {{ san_type: DNS, matcher: {{ {matcher}: {host} }} }}")
    });
    let names = names.collect::<Vec<_>>().join(&format!("\n{indentation}"));
    Ok(format!("{before}{names}{after}"))
}

/// A cluster that signs its requests for the assertion's region.
fn aws_sts(entry: &Node, place: &Place<'_>) -> Result<String, Refusal> {
    // The configuration was parsed, so the region is one label of a host.
    let region = entry.text_of("region").unwrap_or_default();
    let host = format!("sts.{region}.amazonaws.com");
    let text = Place { authority: place.authority.or(Some(&host)), ..*place }.fill(&AWS_STS)?;
    Ok(text.replace("region: eu-central-1\n", &format!("region: {region}\n")))
}

/// A cluster for the socket of an agent.
fn on_socket(place: &Place<'_>) -> Result<String, Refusal> {
    match place.given {
        None => Ok(place.named(&SPIRE)),
        Some(given) => Err(Refusal::new(format!(
            "--source {}={given}: the cluster leads to a socket: correct its path in the manifest",
            place.name
        ))),
    }
}

fn changed(template: &Template) -> Refusal {
    Refusal::new(format!("the cluster {:?} of envoy/sources/ has another form", template.name))
}

/// Where a cluster leads to.
#[derive(Clone, Copy)]
struct Place<'a> {
    /// The place of the assertion in the configuration.
    path: &'a str,
    /// The name of the cluster.
    name: &'a str,
    /// The host in requests.
    authority: Option<&'a str>,
    /// The path of the field with the host in requests.
    authority_path: &'a str,
    /// The host that the settings name.
    given: Option<&'a str>,
}

impl Place<'_> {
    /// The host to connect to, with its port, if it is known.
    fn host(&self) -> Option<(&str, Option<u16>)> {
        // An authority may be a mere name, which no DNS has.
        let authority = self.authority.filter(|host| host.contains('.') || is_loopback(split(host).0));
        self.given.or(authority).map(split)
    }

    fn is_loopback(&self) -> bool {
        self.host().is_some_and(|(host, _)| is_loopback(host))
    }

    /// The template's cluster with the name of this one, as a mapping.
    fn named(&self, template: &Template) -> String {
        let list = template.text.split_once("\n- ").map_or("", |(_, list)| list);
        let mapping = list.lines().map(|line| line.strip_prefix("  ").unwrap_or(line)).collect::<Vec<_>>().join("\n");
        // The cluster's name also names its endpoints and its DNS cache.
        mapping.replace(&format!("name: {}\n", template.name), &format!("name: {}\n", self.name))
    }

    fn fill(&self, template: &Template) -> Result<String, Refusal> {
        let text = self.named(template);
        let is_example = template.host.ends_with(".example.com");
        let Some((address, port)) = self.host().or((!is_example).then_some((template.host, None))) else {
            return Err(Refusal::new(format!(
                "{}: the host of the cluster {:?} is not known: write --source {}=HOST, or set {}",
                self.path, self.name, self.name, self.authority_path
            )));
        };
        if !is_host(address) {
            return Err(Refusal::new(format!(
                "{}: {address:?} is not a valid host: write a name or an address",
                self.path
            )));
        }
        let port = port.unwrap_or(template.port);
        let verified = if address.parse::<IpAddr>().is_ok() {
            self.authority.map(split).map(|(host, _)| host)
        } else {
            Some(address)
        };
        let verified = verified.filter(|name| is_host(name) && name.parse::<IpAddr>().is_err());
        let has_tls = text.contains("transport_socket:");
        let Some(verified) = verified.or((!has_tls).then_some(address)) else {
            return Err(Refusal::new(format!(
                "{}: the certificate of {address} has a name that is not known: set {} to the name",
                self.path, self.authority_path
            )));
        };
        let endpoint =
            |host: &str, port: u16| format!("socket_address: {{ address: {}, port_value: {port} }}", scalar(host));
        let written = endpoint(template.host, template.port);
        if !text.contains(&written) {
            return Err(changed(template));
        }
        Ok(text
            .replace(&written, &endpoint(address, port))
            .replace(&format!("sni: {}\n", template.host), &format!("sni: {verified}\n"))
            .replace(&format!("exact: {} }}", template.host), &format!("exact: {verified} }}")))
    }
}

/// A host in YAML: an IPv6 address has colons.
fn scalar(host: &str) -> String {
    if host.contains(':') { format!("\"{host}\"") } else { host.to_owned() }
}

/// Host and port. An IPv6 address with a port is in brackets.
fn split(text: &str) -> (&str, Option<u16>) {
    if text.parse::<IpAddr>().is_ok() {
        return (text, None);
    }
    let (host, port) = match text.rsplit_once(':').map(|(host, port)| (host, port.parse().ok())) {
        Some((host, Some(port))) => (host, Some(port)),
        _ => (text, None),
    };
    (host.trim_start_matches('[').trim_end_matches(']'), port)
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
