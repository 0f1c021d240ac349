//! A directory of manifests: one file for each object, and a kustomization.

use std::fmt::Write as _;

use super::settings::PLACEHOLDER;
use super::{Refusal, Settings, Target, VAULT_TOKEN, documents_of, render};
use crate::source::Source;
use crate::tree::Node;

/// A file of the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its name.
    pub name: String,
    /// Its content.
    pub text: String,
}

/// Where the clusters for Vault read the name of the token's file.
const VAULT_TOKEN_PATH: &str = "path: /etc/entra-exchange/vault-token.yaml";

/// Makes all files that the target needs. In Kubernetes that is one for each object, and `kustomization.yaml`.
///
/// # Errors
/// As [`render`].
pub fn directory(source: &Source, target: Target, settings: &Settings) -> Result<Vec<File>, Refusal> {
    if !target.has_objects() {
        let mut files =
            vec![File { name: format!("{}.yaml", target.as_str()), text: render(source, target, settings)? }];
        if files.iter().any(|file| file.text.contains(VAULT_TOKEN_PATH)) {
            files.push(File { name: "vault-token.yaml".to_owned(), text: VAULT_TOKEN.to_owned() });
        }
        return Ok(files);
    }
    let mut objects: Vec<File> = Vec::new();
    let mut add = |target: Target, keep: &dyn Fn(&str) -> bool| -> Result<(), Refusal> {
        let text = render(source, target, settings)?;
        objects.extend(split(&text).into_iter().filter(|file| keep(&file.name)));
        Ok(())
    };
    match target {
        Target::WasmPlugin | Target::TrafficExtension => {
            add(Target::EnvoyFilter, &|name| name != "envoyfilter-entra-exchange.yaml")?;
            add(target, &|_| true)?;
        }
        Target::Upstream => {
            add(Target::EnvoyFilter, &|_| true)?;
            add(Target::Upstream, &|_| true)?;
        }
        _ => add(target, &|_| true)?,
    }
    let has = |path: &[&str]| documents_of(source.text()).first().is_some_and(|root| root.at(path).is_some());
    let is_filter = matches!(target, Target::EnvoyFilter | Target::WasmPlugin | Target::TrafficExtension);
    if is_filter && has(&["managed_identity", "imds"]) {
        add(Target::Imds, &|_| true)?;
    }
    if is_filter && has(&["managed_identity", "health"]) {
        if target != Target::EnvoyFilter {
            return Err(Refusal::new(
                "managed_identity.health needs a listener with the filter, which only an EnvoyFilter adds: render for envoyfilter, or \
                 remove health",
            ));
        }
        add(Target::Readiness, &|_| true)?;
    }
    if target == Target::Upstream {
        without_listener_patch(&mut objects);
    }
    let mut kustomization =
        String::from("apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n");
    for file in &objects {
        // Writing to a string does not fail.
        let _ = writeln!(kustomization, "- {}", file.name);
    }
    objects.push(File { name: "kustomization.yaml".to_owned(), text: kustomization });
    Ok(objects)
}

/// Whether the files name the image of the settings by a placeholder that no image has.
pub fn has_placeholder(files: &[File], settings: &Settings) -> bool {
    // A WasmPlugin has the digits alone.
    let digits = PLACEHOLDER.trim_start_matches("sha256:");
    let names = |text: &str| text.contains(&settings.image) && text.contains(digits);
    settings.digest == PLACEHOLDER && files.iter().any(|file| names(&file.text))
}

/// The filter is an upstream HTTP filter, and not in the listener's filter chain.
fn without_listener_patch(objects: &mut [File]) {
    const PATCH: &str = "\n  # ---- The filter's position";
    for file in objects.iter_mut().filter(|file| file.name == "envoyfilter-entra-exchange.yaml") {
        if let Some(offset) = file.text.find(PATCH) {
            file.text.truncate(offset);
        }
    }
}

/// One file for each object. Comments before the first object are in its file.
fn split(text: &str) -> Vec<File> {
    let objects = text.split("\n---\n").filter_map(|part| {
        let documents = documents_of(part);
        let root = documents.first()?;
        let kind = root.text_of("kind")?.to_ascii_lowercase();
        let name = root.at(&["metadata", "name"]).and_then(Node::text)?;
        Some(File { name: format!("{kind}-{name}.yaml"), text: format!("{}\n", part.trim_end_matches('\n')) })
    });
    objects.collect()
}
