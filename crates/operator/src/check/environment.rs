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
}

/// Collects the variables of istio-proxy from annotations, and those of containers that run Envoy.
pub(crate) fn of(inventory: &Inventory<'_>, options: &Options) -> Environment {
    let mut environment = Environment { given: options.variables.clone(), found: Vec::new() };
    for object in &inventory.objects {
        object.node.walk(&mut |node| {
            if let Some(annotation) = node.get("proxy.istio.io/config") {
                environment.add_annotation(object.source, annotation);
            }
            if let Some(metadata) = node.get("proxyMetadata") {
                environment.add_fields(object.source, metadata);
            }
            if node.get("image").is_some() || node.get("volumeMounts").is_some() {
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
    pub(super) fn known(&self, name: &str) -> Option<&str> {
        let given = self.given.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str());
        given.or_else(|| self.found.iter().find(|(other, ..)| other == name).map(|(_, value, _)| value.as_str()))
    }

    /// The place of a variable in a file.
    pub(super) fn place(&self, name: &str) -> Option<(usize, Range<usize>)> {
        self.found.iter().find(|(other, ..)| other == name).map(|(.., place)| place.clone())
    }

    /// The value that a check uses for a variable: a value that stands for it if it is not known.
    pub(crate) fn assumed(&self, name: &str) -> Option<String> {
        let stand_in = match name {
            "AZURE_TENANT_ID" => Some(TENANT),
            "AZURE_CLIENT_ID" => Some(CLIENT),
            AUTHORITY => None,
            "ACTIONS_ID_TOKEN_REQUEST_URL" => Some("https://job.actions.githubusercontent.com/"),
            "SYSTEM_OIDCREQUESTURI" => Some("https://dev.azure.com/"),
            _ => Some("secret"),
        };
        self.known(name).or(stand_in).map(str::to_owned)
    }

    /// The host of the authority, if a configuration or a variable sets it.
    pub(super) fn authority(&self, inventory: &Inventory<'_>) -> Option<String> {
        let configured = inventory.configurations.iter().find_map(|one| one.get("entra")?.text_of("authority"));
        let text = configured.or_else(|| self.known(AUTHORITY))?;
        entra_exchange_core::entra::Authority::parse(text, true).ok().map(|authority| authority.host().to_owned())
    }
}
