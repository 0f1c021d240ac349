//! `render`: the manifests from a configuration and a few settings. The files below `envoy/` are made by it.

mod files;
mod hosts;
mod settings;
mod sources;
mod target;

use entra_exchange_core::authority::{Authority, Cloud};
use minijinja::{Environment, UndefinedBehavior, context};

use crate::check::{self, Options};
use crate::embedded::Places;
use crate::finding::{self, Findings, Severity};
use crate::inventory::{Configuration, Inventory};
use crate::source::Source;
use crate::tree::Node;
use crate::{document, json, yaml};
pub use files::{File, directory, has_placeholder};
use hosts::Host;
pub use settings::{Refusal, Settings};
use sources::{Cluster, Sources, VAULT_TOKEN};
pub use target::Target;

/// Parts that several templates have in common.
const CAPABILITIES: &str = include_str!("../../templates/part-capabilities.yaml");
const ISTIO_ENTRA: &str = include_str!("../../templates/part-istio-entra.yaml");
const ISTIO_TOKEN: &str = include_str!("../../templates/part-istio-token.yaml");
const ISTIO_SOURCE: &str = include_str!("../../templates/part-istio-source.yaml");

/// Makes a manifest from the configuration in the source.
///
/// # Errors
/// If the configuration has mistakes or does not fit the manifest, or if a setting would break it.
pub fn render(source: &Source, target: Target, settings: &Settings) -> Result<String, Refusal> {
    settings.check(target)?;
    let wanted = Wanted::of(source, settings)?;
    let hosts = if target.has_hosts() { wanted.hosts(target, settings)? } else { Vec::new() };
    wanted.check_gateway(target, &hosts)?;
    let rendered = wanted.fill(target, settings, &hosts)?;
    if target.has_configuration() {
        wanted.compare(&rendered, target)?;
    }
    Ok(rendered)
}

/// The configuration, as it is written in the manifests.
struct Wanted {
    /// The text of the source.
    text: String,
    /// Its fields.
    tree: std::rc::Rc<Node>,
    authority: String,
    cloud: Option<Cloud>,
    audience: &'static str,
    sources: Sources,
}

impl Wanted {
    fn of(source: &Source, settings: &Settings) -> Result<Self, Refusal> {
        let sources = std::slice::from_ref(source);
        let options = Options { variables: settings.variables.clone(), ..Options::default() };
        let mistakes = check::check(sources, &options).count(Severity::Error);
        if mistakes > 0 {
            return Err(Refusal::new(format!("{} has {}", source.name(), finding::correct(mistakes))));
        }
        let documents = document::read(sources, &mut Findings::default());
        let inventory = Inventory::of(sources, &documents);
        let [Configuration { form: crate::inventory::Form::File, tree: Some(tree), .. }] =
            inventory.configurations.as_slice()
        else {
            return Err(Refusal::new(format!(
                "{} is not the filter's configuration in a file of its own",
                source.name()
            )));
        };
        let variable = settings.variables.iter().find(|(name, _)| name == "AZURE_AUTHORITY_HOST");
        let configured = tree.get("entra").and_then(|entra| entra.text_of("authority"));
        let authority = match configured.or(variable.map(|(_, value)| value.as_str())) {
            Some(text) => {
                Authority::parse(text, true).map_err(|mistake| Refusal::new(format!("{text:?} {mistake}")))?
            }
            None => Authority::public(),
        };
        if authority.host().contains(':') {
            return Err(Refusal::new("the manifests are for an authority at port 443"));
        }
        check_clusters(tree)?;
        let written = inventory.configurations.first().map(|one| one.text.as_str()).unwrap_or_default();
        let token_sources = sources::of(written, tree, &inventory, &options, &settings.sources)?;
        let start = source.content_start();
        let text = source.text().get(start..).unwrap_or_default().trim_end().replace("\r\n", "\n");
        Ok(Self {
            text,
            tree: std::rc::Rc::clone(tree),
            cloud: authority.cloud(),
            audience: authority.audience(),
            authority: authority.host().to_owned(),
            sources: token_sources,
        })
    }

    fn hosts(&self, target: Target, settings: &Settings) -> Result<Vec<Host>, Refusal> {
        hosts::of(&self.tree, self.cloud.unwrap_or(Cloud::Public), target, settings, &self.sources)
    }

    /// A gateway has a route for each host, and Envoy Gateway's runs the filter for requests with a route only.
    fn check_gateway(&self, target: Target, hosts: &[Host]) -> Result<(), Refusal> {
        if matches!(target, Target::EgressGateway | Target::Gateway) && hosts.is_empty() {
            return Err(Refusal::new(
                "a gateway needs a destination whose requests get a token: add it to destinations",
            ));
        }
        if target == Target::Gateway && self.tree.get("managed_identity").is_some() {
            return Err(Refusal::new(
                "managed_identity answers requests without a route, for which Envoy Gateway does not run the filter: remove it",
            ));
        }
        Ok(())
    }

    fn fill(&self, target: Target, settings: &Settings, hosts: &[Host]) -> Result<String, Refusal> {
        let section = self.tree.get("managed_identity");
        let list = |path: &[&str]| -> Vec<String> {
            let list = section.and_then(|section| section.at(path)).into_iter().flat_map(Node::items);
            list.filter_map(Node::text).map(settings::yaml).collect()
        };
        let (mesh_context, proxy) =
            if target == Target::EgressGateway { ("GATEWAY", "gateway") } else { ("SIDECAR_OUTBOUND", "sidecar") };
        let part = |template: &'static str, source: Option<&Cluster>| {
            let values =
                context! { authority => self.authority, context => mesh_context, proxy => proxy, source => source };
            fill(template, values).map(|text| text.trim_end_matches('\n').to_owned())
        };
        let clusters = &self.sources.clusters;
        // The bootstrap of a plain Envoy lists it always.
        let is_listed = |name: &str| target == Target::Envoy && name == "IDENTITY_HEADER";
        let variables: Vec<&String> = self.sources.variables.iter().filter(|name| !is_listed(name)).collect();
        let mut tokens = if self.sources.has_file { vec![part(ISTIO_TOKEN, None)?] } else { Vec::new() };
        for cluster in clusters {
            tokens.push(part(ISTIO_SOURCE, Some(cluster))?);
        }
        let values = context! {
            namespace => settings.namespace,
            label_name => settings.label.0,
            label_value => settings::yaml(&settings.label.1),
            image => format!("oci://{}", settings.image),
            image_name => settings.image,
            tag => format!(":{}", settings.tag),
            digest => settings.digest,
            digest_hex => settings.digest.strip_prefix("sha256:"),
            authority => self.authority,
            audience => self.audience,
            gateway_class => settings::yaml(&settings.gateway_class),
            tenant_id => settings.tenant_id,
            client_id => settings.client_id,
            principals => settings.principals.iter().map(|one| settings::yaml(one)).collect::<Vec<_>>(),
            configuration => self.written(target),
            hosts => hosts,
            host_names => hosts.iter().map(|host| host.host.as_str()).collect::<Vec<_>>(),
            managed_identity => section.is_some(),
            pass => list(&["imds", "pass"]),
            health_hosts => list(&["health", "hosts"]),
            capabilities => CAPABILITIES.trim_end_matches('\n'),
            entra => part(ISTIO_ENTRA, None)?,
            token => tokens.join("\n"),
            has_file => self.sources.has_file,
            sources => clusters,
            variables => variables,
            vault_token => clusters.iter().any(|cluster| cluster.adds_vault_token).then_some(VAULT_TOKEN.trim_end_matches('\n')),
        };
        fill(target.template(), values)
    }

    /// The text of the configuration in a manifest: that of the source if it can be indented unchanged, else JSON.
    fn written(&self, target: Target) -> String {
        let needs_json = !matches!(target, Target::WasmPlugin | Target::TrafficExtension | Target::Gateway);
        let is_json = json::read(&self.text, &Places::direct(0, self.text.len())).is_ok();
        let begins_document = |line: &str| ["---", "...", "%"].iter().any(|marker| line.starts_with(marker));
        let fits = !self.text.contains('\t') && !self.text.lines().any(begins_document);
        if fits && (is_json || !needs_json) { self.text.clone() } else { pretty(&self.tree, 0) }
    }

    /// Reads the manifest, and compares the configuration in it: nothing in a text may end it early.
    fn compare(&self, rendered: &str, target: Target) -> Result<(), Refusal> {
        let source = Source::new("manifest.yaml", rendered);
        let sources = std::slice::from_ref(&source);
        let documents = document::read(sources, &mut Findings::default());
        let inventory = Inventory::of(sources, &documents);
        let found = inventory.configurations.first().and_then(|configuration| configuration.tree.as_ref());
        if found.map(|tree| tree.to_json()) == Some(self.tree.to_json()) {
            return Ok(());
        }
        Err(Refusal::new(format!("the configuration cannot be written in a manifest for {}", target.as_str())))
    }
}

/// The manifests define two clusters for Entra with these names.
fn check_clusters(tree: &Node) -> Result<(), Refusal> {
    let clusters = tree.get("entra").and_then(|entra| entra.get("clusters"));
    let names: Vec<&str> = clusters.into_iter().flat_map(Node::items).filter_map(Node::text).collect();
    if !matches!(names.as_slice(), ["entra", "entra_new_connection"]) {
        return Err(Refusal::new(
            "the manifests define the clusters entra and entra_new_connection: set entra.clusters to [\"entra\", \
             \"entra_new_connection\"]",
        ));
    }
    Ok(())
}

/// JSON with one field a line, and lists of plain values in one line.
fn pretty(node: &Node, depth: usize) -> String {
    use crate::tree::{Entry, Value};
    let indentation = "  ".repeat(depth.saturating_add(1));
    let end = "  ".repeat(depth);
    let is_plain = |node: &Node| !matches!(node.value, Value::Object(_) | Value::List(_));
    match &node.value {
        Value::Object(entries) if !entries.is_empty() => {
            let line = |Entry { key, value, .. }: &Entry| {
                let key = serde_json::Value::from(key.as_str());
                format!("{indentation}{key}: {}", pretty(value, depth.saturating_add(1)))
            };
            format!("{{\n{}\n{end}}}", entries.iter().map(line).collect::<Vec<_>>().join(",\n"))
        }
        Value::List(items) if !items.iter().all(|item| is_plain(item)) => {
            let line = |item: &std::rc::Rc<Node>| format!("{indentation}{}", pretty(item, depth.saturating_add(1)));
            format!("[\n{}\n{end}]", items.iter().map(line).collect::<Vec<_>>().join(",\n"))
        }
        _ => node.to_json(),
    }
}

/// Fills a template.
pub(crate) fn fill(template: &'static str, values: minijinja::Value) -> Result<String, Refusal> {
    let mut environment = Environment::empty();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_keep_trailing_newline(true);
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.add_filter("indent", minijinja::filters::indent);
    environment.add_filter("join", minijinja::filters::join);
    environment.add_filter("first", minijinja::filters::first);
    environment
        .render_str(template, values)
        .map_err(|error| Refusal::new(format!("the template cannot be filled: {error}")))
}

/// The documents of a manifest.
pub(crate) fn documents_of(text: &str) -> Vec<std::rc::Rc<Node>> {
    yaml::read(text, &Places::direct(0, text.len())).unwrap_or_default()
}
