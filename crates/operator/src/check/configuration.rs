//! What the core says of a configuration: its mistakes and its warnings, at their places in the source.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use entra_exchange_core::config::{Config, Mistake};
use entra_exchange_core::time::Timestamp;

use super::Options;
use super::environment::{AUTHORITY, Environment};
use super::sentences::{sentence, split};
use crate::finding::Findings;
use crate::inventory::{Configuration, Form, Inventory};
use crate::json;

pub(super) fn check(inventory: &Inventory<'_>, environment: &Environment, options: &Options, findings: &mut Findings) {
    for place in &inventory.not_strings {
        findings.add(
            "configuration_not_a_string",
            place.clone(),
            "the filter rejects a configuration that is not a google.protobuf.StringValue",
            "Set \"@type\" to type.googleapis.com/google.protobuf.StringValue, and write the configuration as JSON in value.",
        );
    }
    for configuration in &inventory.configurations {
        one(configuration, environment, options, findings);
    }
    let has_content = !inventory.configurations.is_empty() || !inventory.not_strings.is_empty();
    if inventory.unknown.is_empty() || has_content {
        return;
    }
    for found in &inventory.unknown {
        findings.add(
            "no_configuration",
            found.place(found.node),
            "neither a configuration of the filter nor an object of Envoy, Istio or Kubernetes",
            "Give the configuration, or the manifest that contains it.",
        );
    }
}

fn one(configuration: &Configuration<'_>, environment: &Environment, options: &Options, findings: &mut Findings) {
    if let Some(places) = &configuration.places
        && let Err(error) = json::read(&configuration.text, places)
        && !configuration.text.trim().is_empty()
    {
        let offset = places.of(error.offset);
        findings.add("invalid_json", (configuration.source, offset..offset), error.message, error.remedy);
        return;
    }
    let asked = RefCell::new(BTreeSet::new());
    let variable = |name: &str| {
        asked.borrow_mut().insert(name.to_owned());
        environment.assumed(name)
    };
    match Config::parse(configuration.text.as_bytes(), &variable) {
        Ok(config) => {
            let at = options.now.map(|now| Timestamp::default().plus(Duration::from_secs(now)));
            let later = at.map(|at| config.warnings_at(at)).unwrap_or_default();
            for warning in config.warnings.iter().chain(&later) {
                add_warning(configuration, environment, warning, findings);
            }
        }
        Err(refused) => refused.0.iter().for_each(|mistake| add_mistake(configuration, mistake, findings)),
    }
    check_variables(configuration, &asked.into_inner(), findings);
}

fn add_mistake(configuration: &Configuration<'_>, mistake: &Mistake, findings: &mut Findings) {
    let Mistake { path, message } = mistake;
    let (found, remedy) = split(message);
    let code = match message.as_str() {
        text if text.starts_with("unknown field") => "unknown_field",
        text if text.starts_with("is missing") => "missing_field",
        text if text.contains("duplicate entry") => "duplicate_entry",
        text if path.is_empty() && text.starts_with("the configuration is empty") => "empty_configuration",
        _ => "invalid_value",
    };
    let is_key = code == "unknown_field" || message == "duplicate entry: remove it";
    let span = match &configuration.tree {
        Some(tree) => tree.place(path, is_key),
        None => configuration.start..configuration.start,
    };
    let finding = findings.add(code, (configuration.source, span), found, remedy);
    finding.path = (!path.is_empty()).then(|| path.clone());
}

/// The kind of a warning of the core, by the words in it.
fn kind_of(warning: &str) -> &'static str {
    const KINDS: &[(&str, &str)] = &[
        ("is not used by any destination", "identity_unused"),
        ("have the same client_id", "same_client_id"),
        ("refuses paths on", "refusal_evaded"),
        ("is shorter than limits.exchange", "wait_shorter_than_exchange"),
        ("node's own credentials", "node_credentials_passed"),
        ("is in the future", "discard_time_in_future"),
    ];
    KINDS.iter().find(|(words, _)| warning.contains(words)).map_or("configuration_warning", |(_, code)| code)
}

fn add_warning(configuration: &Configuration<'_>, environment: &Environment, warning: &str, findings: &mut Findings) {
    let first = warning.split([' ', ':']).next().unwrap_or_default();
    if first.starts_with("AZURE_") || warning.contains("white space") {
        let (found, remedy) = split(warning);
        let place = environment.place(first).unwrap_or_else(|| (configuration.source, start_of(configuration)));
        findings.add("env_var_invalid", place, found, remedy);
        return;
    }
    let is_path = first.contains(['[', '.']);
    let span = match &configuration.tree {
        Some(tree) if is_path => tree.place(first, false),
        _ => start_of(configuration),
    };
    let code = kind_of(warning);
    let (found, remedy) = if code == "identity_unused" {
        (warning.to_owned(), sentence("use the identity in a destination or in managed_identity, or remove it"))
    } else {
        split(warning)
    };
    let found = found.strip_prefix(first).and_then(|rest| rest.strip_prefix(": ")).map_or(found.clone(), str::to_owned);
    findings.add(code, (configuration.source, span), found, remedy).path = is_path.then(|| first.to_owned());
}

/// The first character of a configuration.
fn start_of(configuration: &Configuration<'_>) -> Range<usize> {
    configuration.start..configuration.start
}

/// The core has said which variables it needs; the module can read those that are listed.
fn check_variables(configuration: &Configuration<'_>, asked: &BTreeSet<String>, findings: &mut Findings) {
    let Some((listed, span)) = configuration.variables.as_ref().filter(|_| configuration.form != Form::File) else {
        return;
    };
    // Without the variable, the authority is that of the public cloud.
    let missing = asked.iter().filter(|name| *name != AUTHORITY && !listed.contains(name));
    // An endpoint that only answers health checks uses no identity by itself.
    for name in missing {
        let list = match configuration.form {
            Form::Fields => "vmConfig.env, with valueFrom HOST",
            Form::Extension => "env.hostKeys",
            Form::String | Form::File => "host_env_keys",
        };
        let field = match name.as_str() {
            "AZURE_TENANT_ID" => ", or set tenant_id in the identity",
            "AZURE_CLIENT_ID" => ", or set client_id in the identity",
            _ => "",
        };
        findings.add(
            "env_var_not_listed",
            (configuration.source, span.clone()),
            format!("the configuration needs {name}, and the module cannot read it"),
            format!("Add {name} to {list}{field}."),
        );
    }
}
