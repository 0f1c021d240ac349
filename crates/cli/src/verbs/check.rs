//! `check`: every mistake and every risk, at its line and column.

use clap::Args;
use image::{Reference, Registry};
use operator::registry::{self, Answer};
use operator::{Checked, Options, Severity, report};
use serde_json::json;

use crate::output::{Failure, Form, Output, Verdict, print, print_json};
use crate::{clock, input};

/// The arguments of `check`.
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Configurations (JSON or YAML) and manifests that contain them; - is standard input. Files that belong together are checked
    /// together
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
    /// Treat warnings as errors
    #[arg(long)]
    strict: bool,
    /// Ask the registry of each image that is named by digest whether the digest is a manifest's, as it must be
    #[arg(long)]
    registry: bool,
    /// Accept warnings with this code. In YAML, a comment does the same for its file: `# entra-exchange check: accept CODE,
    /// because …`
    #[arg(long = "accept", value_name = "CODE")]
    accepted: Vec<String>,
    /// An environment variable of the proxy's container, such as `AZURE_AUTHORITY_HOST=https://login.microsoftonline.us`
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = variable)]
    variables: Vec<(String, String)>,
}

/// Reads `NAME=VALUE`.
pub(crate) fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Check {
    pub(crate) fn run(&self, output: Output) -> Result<Verdict, Failure> {
        let sources = input::sources(&self.files)?;
        let now = Some(clock::now());
        if let Some(unknown) = self.accepted.iter().find(|code| operator::code(code).is_none()) {
            return Err(Failure::input(format!("--accept {unknown}: no finding has this code")));
        }
        let options = Options { variables: self.variables.clone(), now, accepted: self.accepted.clone() };
        let mut checked = operator::check(&sources, &options);
        if self.registry {
            let images = registry::images(&sources);
            checked.findings.extend(images.iter().filter_map(|image| registry::judge(image, &ask(&image.reference))));
        }
        if self.strict {
            checked.findings.iter_mut().for_each(|finding| finding.severity = Severity::Error);
        }
        match output.form {
            Form::Text => {
                let text = report::text(&sources, &checked.findings, output.has_colours());
                print(&format!("{text}{}", summary(&checked)))?;
            }
            Form::Json | Form::Csv => print_json(&json!({
                "configurations": checked.configurations,
                "errors": checked.count(Severity::Error),
                "warnings": checked.count(Severity::Warning),
                "accepted": checked.accepted,
                "findings": report::json(&sources, &checked.findings),
            }))?,
            Form::Sarif => print_json(&report::sarif(&sources, &checked.findings))?,
        }
        Ok(Verdict::of(checked.count(Severity::Error) == 0))
    }
}

/// Asks a registry, without a login, because the istio-agent has none for an EnvoyFilter.
fn ask(name: &str) -> Answer {
    let reference = match Reference::parse(name) {
        Ok(reference) => reference,
        Err(reason) => return Answer::Nothing(format!("{name} {reason}")),
    };
    match Registry::of(&reference, None).manifest(reference.version()) {
        Ok(manifest) if image::media_type::is_index(&manifest.media_type) => Answer::Index,
        Ok(_) => Answer::Manifest,
        Err(error) => Answer::Nothing(error.to_string()),
    }
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn summary(checked: &Checked) -> String {
    let of = |severity| checked.count(severity);
    let found = format!("{}, {}", counted(of(Severity::Error), "error"), counted(of(Severity::Warning), "warning"));
    let accepted = if checked.accepted == 0 { String::new() } else { format!(" ({} accepted)", checked.accepted) };
    let configurations = counted(checked.configurations, "configuration");
    format!("{found}{accepted} in {configurations} of the filter")
}
