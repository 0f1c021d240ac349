//! The environment variables of the proxy's container, as far as the files or the command line give them.

use std::ops::Range;

use super::Options;
use crate::inventory::Inventory;
use crate::tree::Node;

/// A tenant and a client that stand for those that are not known.
const TENANT: &str = "11111111-1111-4111-8111-111111111111";
const CLIENT: &str = "aaaaaaaa-0000-4000-8000-000000000001";

/// The variable with the authority.
pub(super) const AUTHORITY: &str = "AZURE_AUTHORITY_HOST";

/// The known variables.
#[derive(Debug, Default)]
pub(crate) struct Environment {
    given: Vec<(String, String)>,
    /// Those in the files, each with its place.
    found: Vec<(String, String, (usize, Range<usize>))>,
    /// Those with a URL, each with one that the configuration accepts.
    urls: Vec<(String, String)>,
}

/// Collects the variables of istio-proxy from annotations, and those of containers that run Envoy.
pub(crate) fn of(inventory: &Inventory<'_>, options: &Options) -> Environment {
    let assertions = inventory.configurations.iter().filter_map(|configuration| configuration.get("assertions"));
    let urls = assertions.flat_map(Node::items).filter_map(url_of).collect();
    let mut environment = Environment { given: options.variables.clone(), found: Vec::new(), urls };
    for object in &inventory.objects {
        object.node.walk(&mut |node| {
            if let Some(annotation) = node.get("proxy.istio.io/config") {
                environment.add_annotation(object.source, annotation);
            }
            if let Some(metadata) = node.get("proxyMetadata") {
                environment.add_fields(object.source, metadata);
            }
            let is_container = node.get("image").is_some() || node.get("volumeMounts").is_some();
            if is_container || object.node.text_of("kind") == Some("EnvoyProxy") {
                for variable in node.get("env").into_iter().flat_map(Node::items) {
                    if let (Some(name), Some(value)) = (variable.text_of("name"), variable.get("value")) {
                        environment.add(object.source, name, value);
                    }
                }
            }
        });
    }
    environment
}

/// The variable with the URL of a source of federated tokens, and a URL at a host that the source accepts.
fn url_of(assertion: &Node) -> Option<(String, String)> {
    let request = assertion.get("request").unwrap_or(assertion);
    let (variable, usual) = match assertion.text_of("source")? {
        "github_actions" => ("ACTIONS_ID_TOKEN_REQUEST_URL", ".actions.githubusercontent.com"),
        "azure_pipelines" => ("SYSTEM_OIDCREQUESTURI", "dev.azure.com"),
        "azure_app_service" => ("IDENTITY_ENDPOINT", "localhost"),
        _ => (request.text_of("url_from_env")?, "host.invalid"),
    };
    let allowed = request.get("allowed_hosts").and_then(|hosts| hosts.items().next()?.text()).unwrap_or(usual);
    let below = if allowed.starts_with('.') { "host" } else { "" };
    Some((variable.to_owned(), format!("https://{below}{allowed}/")))
}

impl Environment {
    /// The annotation is YAML or JSON; its values have the place of the whole annotation.
    fn add_annotation(&mut self, source: usize, annotation: &Node) {
        let Some(text) = annotation.text() else { return };
        let places = crate::embedded::Places::direct(0, text.len());
        for document in crate::yaml::read(text, &places).unwrap_or_default() {
            for entry in document.get("proxyMetadata").map(Node::entries).unwrap_or_default() {
                if let Some(value) = entry.value.text() {
                    self.found.push((entry.key.clone(), value.to_owned(), (source, annotation.span.clone())));
                }
            }
        }
    }

    fn add_fields(&mut self, source: usize, fields: &Node) {
        for entry in fields.entries() {
            self.add(source, &entry.key, &entry.value);
        }
    }

    fn add(&mut self, source: usize, name: &str, value: &Node) {
        if let Some(text) = value.text().filter(|_| name.starts_with("AZURE_") || name.starts_with("IDENTITY_")) {
            self.found.push((name.to_owned(), text.to_owned(), (source, value.span.clone())));
        }
    }

    /// The value of a variable, if it is given or in a file.
    pub(crate) fn known(&self, name: &str) -> Option<&str> {
        let given = self.given.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str());
        given.or_else(|| self.found.iter().find(|(other, ..)| other == name).map(|(_, value, _)| value.as_str()))
    }

    /// The place of a variable in a file.
    pub(super) fn place(&self, name: &str) -> Option<(usize, Range<usize>)> {
        self.found.iter().find(|(other, ..)| other == name).map(|(.., place)| place.clone())
    }

    /// The value that a check uses for a variable: a value that stands for it if it is not known.
    pub(crate) fn assumed(&self, name: &str) -> Option<String> {
        let url = self.urls.iter().find(|(variable, _)| variable == name).map(|(_, url)| url.as_str());
        let stand_in = match name {
            "AZURE_TENANT_ID" => Some(TENANT),
            "AZURE_CLIENT_ID" => Some(CLIENT),
            AUTHORITY => None,
            _ => url.or(Some("secret")),
        };
        self.known(name).or(stand_in).map(str::to_owned)
    }

    /// The host of the authority, if a configuration or a variable sets it.
    pub(super) fn authority(&self, inventory: &Inventory<'_>) -> Option<String> {
        let configured = inventory.configurations.iter().find_map(|one| one.get("entra")?.text_of("authority"));
        let text = configured.or_else(|| self.known(AUTHORITY))?;
        entra_exchange_core::authority::Authority::parse(text, true).ok().map(|authority| authority.host().to_owned())
    }
}
