//! The inventory of the given files: the filter's configurations, and the objects of Envoy, Istio and Kubernetes around them.

use std::collections::HashSet;
use std::ops::Range;
use std::rc::Rc;

use crate::document::{Document, places_of};
use crate::embedded::Places;
use crate::source::Source;
use crate::tree::{Node, Value};

/// The fields that a configuration of the filter may have at its top.
pub(crate) const SECTIONS: &[&str] =
    &["entra", "identities", "assertions", "defaults", "destinations", "managed_identity", "status", "limits", "log"];

/// An object in one of the files.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found<'a> {
    /// The index of the source.
    pub(crate) source: usize,
    /// The object.
    pub(crate) node: &'a Node,
    /// The document that it is in.
    pub(crate) root: &'a Node,
}

impl Found<'_> {
    /// The place of a value in the same source.
    pub(crate) fn place(&self, node: &Node) -> (usize, Range<usize>) {
        (self.source, node.span.clone())
    }

    /// The place of the value of a field, or of the object if it has no such field.
    pub(crate) fn place_of(&self, name: &str) -> (usize, Range<usize>) {
        self.place(self.node.get(name).unwrap_or(self.node))
    }
}

/// How a configuration is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// A file of its own.
    File,
    /// JSON in a string, in a Wasm filter of Envoy.
    String,
    /// Fields of an object of Istio.
    Fields,
    /// Fields of an EnvoyExtensionPolicy of Envoy Gateway.
    Extension,
}

/// A configuration of the filter in one of the files.
#[derive(Clone, Debug)]
pub(crate) struct Configuration<'a> {
    /// The index of the source.
    pub(crate) source: usize,
    /// How it is written.
    pub(crate) form: Form,
    /// The text that the filter gets.
    pub(crate) text: String,
    /// Where the text is, if it is JSON in the source.
    pub(crate) places: Option<Places>,
    /// Its beginning in the source.
    pub(crate) start: usize,
    /// Its fields; `None` if it is not JSON.
    pub(crate) tree: Option<Rc<Node>>,
    /// The names of the variables that the module may read, and their place. `None` if that is not configured here.
    pub(crate) variables: Option<(Vec<String>, Range<usize>)>,
    /// The document that it is in.
    pub(crate) root: &'a Node,
}

impl Configuration<'_> {
    /// The value at a path of the configuration.
    pub(crate) fn get(&self, name: &str) -> Option<&Node> {
        self.tree.as_ref()?.get(name)
    }

    /// The destinations, each with its index.
    pub(crate) fn destinations(&self) -> impl Iterator<Item = (usize, &Node)> {
        self.get("destinations").into_iter().flat_map(Node::items).enumerate()
    }

    /// A setting of a destination: its own, or else that of `defaults`.
    pub(crate) fn setting<'a>(&'a self, destination: &'a Node, name: &str) -> Option<&'a Node> {
        destination.get(name).or_else(|| self.get("defaults")?.get(name))
    }

    /// Whether a destination's requests get a token, or are reported as if they did.
    pub(crate) fn sends_tokens(&self, destination: &Node) -> bool {
        let action = self.setting(destination, "action").and_then(Node::text);
        matches!(action, None | Some("inject" | "report"))
    }

    /// The names of the clusters for the token endpoint, each with its place.
    pub(crate) fn entra_clusters(&self) -> Vec<(String, Range<usize>)> {
        let start = self.start..self.start;
        match self.get("entra").and_then(|entra| entra.get("clusters")) {
            Some(clusters) => named(clusters),
            None => vec![("entra".to_owned(), start)],
        }
    }

    /// The names of the headers that the filter sets, in lower case.
    pub(crate) fn token_headers(&self) -> Vec<String> {
        let headers = self.destinations().filter_map(|(_, destination)| self.setting(destination, "header")?.text());
        std::iter::once("authorization".to_owned()).chain(headers.map(str::to_ascii_lowercase)).collect()
    }

    /// Whether applications may request tokens.
    pub(crate) fn answers_applications(&self) -> bool {
        self.get("managed_identity").is_some_and(|section| {
            (section.get("imds").is_some() || section.get("app_service").is_some())
                && matches!(section.text_of("action"), None | Some("answer"))
        })
    }
}

/// The strings of a list, each with its place.
pub(crate) fn named(list: &Node) -> Vec<(String, Range<usize>)> {
    list.items().filter_map(|item| Some((item.text()?.to_owned(), item.span.clone()))).collect()
}

/// Everything that the rules of `check` look at.
#[derive(Debug, Default)]
pub(crate) struct Inventory<'a> {
    /// The documents.
    pub(crate) documents: Vec<Found<'a>>,
    /// The filter's configurations.
    pub(crate) configurations: Vec<Configuration<'a>>,
    /// Configurations that are not a string: the place of their type.
    pub(crate) not_strings: Vec<(usize, Range<usize>)>,
    /// Envoy's clusters.
    pub(crate) clusters: Vec<Found<'a>>,
    /// Envoy's listeners.
    pub(crate) listeners: Vec<Found<'a>>,
    /// The objects of Kubernetes, Istio's included.
    pub(crate) objects: Vec<Found<'a>>,
    /// Documents that are none of these.
    pub(crate) unknown: Vec<Found<'a>>,
}

impl<'a> Inventory<'a> {
    /// Takes the inventory of the documents.
    pub(crate) fn of(sources: &'a [Source], documents: &'a [Document]) -> Self {
        let mut inventory = Self::default();
        for document in documents {
            let Some(source) = sources.get(document.source) else { continue };
            inventory.add_document(source, document);
        }
        // A filter that is used again by a YAML alias is one.
        let mut seen = HashSet::new();
        inventory.configurations.retain(|one| seen.insert((one.source, one.start)));
        inventory
    }

    fn add_document(&mut self, source: &Source, document: &'a Document) {
        let root = &*document.root;
        let found = Found { source: document.source, node: root, root };
        self.documents.push(found);
        if root.get("kind").is_some() && root.get("apiVersion").is_some() {
            let items: Vec<&Node> = root.get("items").into_iter().flat_map(Node::items).collect();
            let objects = if items.is_empty() { vec![root] } else { items };
            self.objects.extend(objects.iter().map(|node| Found { node, ..found }));
        } else if !is_envoy(root) {
            if is_configuration(root) {
                self.configurations.push(own_file(document));
            } else {
                self.unknown.push(found);
            }
            return;
        }
        root.walk(&mut |node| self.add_node(source, Found { node, ..found }));
    }

    fn add_node(&mut self, source: &Source, found: Found<'a>) {
        let node = found.node;
        if matches!(node.value, Value::Object(_)) {
            let is_cluster = node.get("name").is_some() && node.get("filter_chains").is_none();
            if is_cluster && (node.get("load_assignment").is_some() || node.get("connect_timeout").is_some()) {
                self.clusters.push(found);
            }
            if node.get("filter_chains").is_some() {
                self.listeners.push(found);
            }
            self.add_wasm(source, found);
            self.add_plugin(found);
            self.add_extension(found);
        }
    }

    /// Adds the configuration of a Wasm filter of Envoy, the message `envoy.extensions.wasm.v3.PluginConfig`.
    fn add_wasm(&mut self, source: &Source, found: Found<'a>) {
        let Some(configuration) = found.node.get("configuration") else { return };
        let Some(kind) = configuration.text_of("@type") else { return };
        let Some(value) = configuration.get("value") else { return };
        if !is_ours(found.node) {
            return;
        }
        let keys = found.node.at(&["vm_config", "environment_variables", "host_env_keys"]);
        let variables = match (keys, found.node.get("vm_config")) {
            (Some(keys), _) => Some((named(keys).into_iter().map(|(name, _)| name).collect(), keys.span.clone())),
            (None, Some(vm)) => Some((Vec::new(), vm.span.clone())),
            (None, None) => None,
        };
        match &value.value {
            Value::String(text) if kind.ends_with("google.protobuf.StringValue") => {
                let places = places_of(source, &value.span, text);
                let start = places.of(text.text.len().saturating_sub(text.text.trim_start().len()));
                self.configurations.push(Configuration {
                    source: found.source,
                    form: Form::String,
                    text: text.text.clone(),
                    tree: crate::json::read(&text.text, &places).ok().map(Rc::new),
                    places: Some(places),
                    start,
                    variables,
                    root: found.root,
                });
            }
            _ => {
                let kind = configuration.get("@type").unwrap_or(configuration);
                self.not_strings.push(found.place(kind));
            }
        }
    }

    /// Adds the configuration of a WasmPlugin or TrafficExtension of Istio.
    fn add_plugin(&mut self, found: Found<'a>) {
        let Some(entry) = found.node.entry("pluginConfig") else { return };
        let variables = found.node.at(&["vmConfig", "env"]).map(|env| {
            let names = env.items().filter_map(|item| item.text_of("name").map(str::to_owned));
            (names.collect(), env.span.clone())
        });
        self.add_fields(found, Form::Fields, &entry.value, variables);
    }

    /// Adds the configuration of a Wasm extension in an EnvoyExtensionPolicy of Envoy Gateway.
    fn add_extension(&mut self, found: Found<'a>) {
        let (Some(code), Some(entry)) = (found.node.get("code"), found.node.entry("config")) else { return };
        let keys = found.node.at(&["env", "hostKeys"]);
        let names = keys.into_iter().flat_map(named).map(|(name, _)| name).collect();
        // Without the list, the module can read no variable.
        let place = keys.unwrap_or(code).span.clone();
        self.add_fields(found, Form::Extension, &entry.value, Some((names, place)));
    }

    fn add_fields(
        &mut self,
        found: Found<'a>,
        form: Form,
        configuration: &Rc<Node>,
        variables: Option<(Vec<String>, Range<usize>)>,
    ) {
        if !is_ours(found.node) {
            return;
        }
        self.configurations.push(Configuration {
            source: found.source,
            form,
            text: configuration.to_json(),
            places: None,
            start: configuration.span.start,
            tree: Some(Rc::clone(configuration)),
            variables,
            root: found.root,
        });
    }

    /// Envoy's secrets, which are in files of their own.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = &'a Node> {
        self.documents.iter().flat_map(|document| document.node.get("resources").into_iter().flat_map(Node::items))
    }

    /// All headers that the filter sets, in lower case.
    pub(crate) fn token_headers(&self) -> Vec<String> {
        let mut headers = vec!["authorization".to_owned()];
        headers.extend(self.configurations.iter().flat_map(Configuration::token_headers));
        headers.sort();
        headers.dedup();
        headers
    }
}

/// Whether a document that is neither Envoy's nor an object of Kubernetes is a configuration, perhaps with mistakes: it has a
/// section, a name like that of a section, or nothing that says otherwise.
fn is_configuration(root: &Node) -> bool {
    // Other objects, such as a reply, may have a field `status`, `limits` or `log`, too.
    let own = SECTIONS.iter().filter(|section| section.len() > "status".len());
    let is_near = |name: &str| name == "entra" || own.clone().any(|section| strsim::osa_distance(name, section) <= 2);
    let is_section = |name: &str| SECTIONS.contains(&name);
    match &root.value {
        Value::Object(entries) => {
            entries.iter().any(|entry| is_near(&entry.key)) || entries.iter().all(|entry| is_section(&entry.key))
        }
        _ => true,
    }
}

fn own_file(document: &Document) -> Configuration<'_> {
    let root = &document.root;
    Configuration {
        source: document.source,
        form: Form::File,
        text: document.json.clone().unwrap_or_else(|| root.to_json()),
        places: None,
        start: root.span.start,
        tree: Some(Rc::clone(root)),
        variables: None,
        root,
    }
}

/// Whether a document is Envoy's: a bootstrap, a list of resources, or one message of the API.
fn is_envoy(root: &Node) -> bool {
    const FIELDS: &[&str] = &[
        "@type",
        "static_resources",
        "dynamic_resources",
        "resources",
        "admin",
        "node",
        "bootstrap_extensions",
        "filter_chains",
        "load_assignment",
        "virtual_hosts",
        "http_filters",
        "typed_config",
        "configuration",
        "configPatches",
        "pluginConfig",
        "extensionProviders",
        "meshConfig",
        "connect_timeout",
        "watched_directory",
        "listeners",
        "clusters",
        "config_discovery",
        "applyTo",
    ];
    if let Value::List(items) = &root.value {
        return items.iter().any(|item| is_envoy(item));
    }
    FIELDS.iter().any(|name| root.get(name).is_some()) && !SECTIONS.iter().any(|name| root.get(name).is_some())
}

/// Whether a Wasm filter is this one: its names or its configuration say so.
fn is_ours(plugin: &Node) -> bool {
    let mut ours = false;
    plugin.walk(&mut |node| {
        let text = node.text().unwrap_or_default();
        let named = text.contains("entra-exchange") || text.contains("entra_exchange");
        let configured = text.contains("\"destinations\"") || text.contains("\"managed_identity\"");
        let has_sections = node.get("destinations").is_some() || node.get("managed_identity").is_some();
        ours = ours || named || configured || has_sections;
    });
    ours
}
