//! `detect`: how the workloads of a cluster get their tokens today, and what to do for each.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use operator::detect::{self, Detected, Options, Route, Workload};
use serde_json::json;

use crate::choice::one_of;
use crate::output::{Failure, Output, Verdict};
use crate::{files, input};

/// The arguments of `detect`.
#[derive(Debug, Args)]
pub(crate) struct Detect {
    /// Manifests, such as the output of kubectl get -o yaml or of helm template; - is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
    /// Write the files for each workload into a folder of its own below this one
    #[arg(long, value_name = "DIRECTORY")]
    write: Option<PathBuf>,
    /// Overwrite files
    #[arg(long, requires = "write")]
    force: bool,
    /// How requests reach the filter; without it, it is chosen for each workload
    #[arg(long = "for", value_name = "ROUTE", value_parser = one_of::<Route>())]
    route: Option<Route>,
    /// The issuer of the cluster's service-account tokens, for the federated credentials
    #[arg(long, value_name = "URL")]
    issuer: Option<String>,
    /// The tenant of identities whose objects name none
    #[arg(long, value_name = "TENANT")]
    tenant_id: Option<String>,
    /// The authority, if it is not that of the public cloud
    #[arg(long, value_name = "URL")]
    authority: Option<String>,
    /// The image of Envoy with the module
    #[arg(long, value_name = "REGISTRY/NAME@sha256:…")]
    image: Option<String>,
}

impl Detect {
    pub(crate) fn run(&self, output: Output) -> Result<Verdict, Failure> {
        let sources = input::sources(&self.files)?;
        let options = Options {
            issuer: self.issuer.clone(),
            tenant_id: self.tenant_id.clone(),
            route: self.route,
            image: self.image.clone(),
            authority: self.authority.clone(),
            directory: self.write.as_ref().map(|folder| folder.display().to_string()),
        };
        let detected = detect::detect(&sources, &options).map_err(Failure::input)?;
        let mut text = text(&detected);
        let mut written = Vec::new();
        if let Some(directory) = &self.write {
            let folders = detect::folders(&detected.workloads, &options).map_err(Failure::input)?;
            let named = folders.iter().flat_map(|folder| {
                folder.files.iter().map(|file| (directory.join(&folder.name).join(&file.name), file.text.as_str()))
            });
            written = files::write(&named.collect::<Vec<_>>(), self.force)?;
            // Writing to a string does not fail.
            let _ = write!(
                text,
                "\nWritten:\n  {}",
                if written.is_empty() { "nothing".to_owned() } else { written.join("\n  ") }
            );
        }
        let mut value = json!(detected);
        if let serde_json::Value::Object(fields) = &mut value {
            fields.insert("written".to_owned(), json!(written));
        }
        output.print(&text, &value)?;
        let lacks = |workload: &Workload| workload.must_change() && !workload.missing.is_empty();
        Ok(Verdict::of(!detected.workloads.iter().any(lacks)))
    }
}

fn text(detected: &Detected) -> String {
    let mut text = String::new();
    if detected.workloads.is_empty() {
        text.push_str(
            "No workload of the files gets tokens by aad-pod-identity, Azure Workload Identity or a client secret.\n",
        );
    }
    for workload in &detected.workloads {
        let _ = writeln!(text, "{} {}", workload.kind, workload.title());
        let mut line = |name: &str, value: &str| {
            let _ = writeln!(text, "  {name:<10}  {value}");
        };
        workload.evidence.iter().enumerate().for_each(|(index, one)| line(if index == 0 { "today" } else { "" }, one));
        for identity in &workload.identities {
            let unknown = "not known";
            let client = identity.client_id.as_deref().unwrap_or(unknown);
            let tenant = identity.tenant_id.as_deref().unwrap_or(unknown);
            line("identity", &format!("{}: client {client}, tenant {tenant}", identity.name));
        }
        if workload.must_change() {
            let is_new = if workload.new_service_account { " (a new service account)" } else { "" };
            line("subject", &format!("{}{is_new}", workload.subject()));
            line("route", workload.route.about());
        } else {
            line("", "it exchanges its federated token itself, and need not change");
        }
    }
    for note in &detected.notes {
        let _ = writeln!(text, "note: {note}");
    }
    let mut phase = None;
    for (index, step) in detected.steps.iter().enumerate() {
        if phase != Some(step.phase) {
            phase = Some(step.phase);
            let _ = writeln!(text, "\n{}", step.phase);
        }
        let owner = step.workload.as_ref().map(|workload| format!("{workload}: ")).unwrap_or_default();
        let _ = writeln!(text, "{:>3}. {owner}{}", index.saturating_add(1), step.text);
    }
    text
}
