//! `render`: the manifests from a configuration.

use std::io::Write as _;
use std::path::PathBuf;

use clap::Args;
use operator::render::{File, Refusal, Settings, Target, directory, has_placeholder, render};
use serde_json::{Value, json};

use crate::choice::one_of;
use crate::input;
use crate::output::{Failure, Form, Output, Verdict, print, print_json};

/// The arguments of `render`.
#[derive(Debug, Args)]
pub(crate) struct Render {
    /// The filter's configuration, as JSON or YAML; - is standard input
    #[arg(value_name = "FILE")]
    file: String,
    /// What to make
    #[arg(long = "for", value_name = "TARGET", value_parser = one_of::<Target>())]
    target: Target,
    /// Write one file for each object, and a kustomization, into this directory
    #[arg(long, value_name = "DIRECTORY")]
    directory: Option<PathBuf>,
    /// Overwrite files in the directory
    #[arg(long, requires = "directory")]
    force: bool,
    /// The namespace
    #[arg(long)]
    namespace: Option<String>,
    /// The label of the pods whose sidecars get the filter
    #[arg(long, value_name = "NAME=VALUE", value_parser = super::check::variable)]
    label: Option<(String, String)>,
    /// The module's image, without tag and digest
    #[arg(long, value_name = "REGISTRY/NAME")]
    image: Option<String>,
    /// The tag of the image, for wasmplugin and trafficextension
    #[arg(long)]
    tag: Option<String>,
    /// The digest of the image's manifest
    #[arg(long, value_name = "sha256:…")]
    digest: Option<String>,
    /// The version of Istio
    #[arg(long, value_name = "MAJOR.MINOR", value_parser = version)]
    istio: Option<(u32, u32)>,
    /// The name of the GatewayClass, for gateway
    #[arg(long, value_name = "NAME")]
    gateway_class: Option<String>,
    /// The tenant id, for workload, egress-gateway and gateway
    #[arg(long, value_name = "GUID")]
    tenant_id: Option<String>,
    /// The client id, for workload, egress-gateway and gateway
    #[arg(long, value_name = "GUID")]
    client_id: Option<String>,
    /// A principal that may use the egress gateway; may be repeated
    #[arg(long = "principal", value_name = "PRINCIPAL")]
    principals: Vec<String>,
    /// An environment variable of the proxy's container, such as `AZURE_AUTHORITY_HOST=https://login.microsoftonline.us`
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = super::check::variable)]
    variables: Vec<(String, String)>,
    /// The host of the cluster of an assertion that names none (`authority`); may be repeated. A host on loopback is called in plaintext
    #[arg(long = "source", value_name = "CLUSTER=HOST[:PORT]", value_parser = super::check::variable)]
    sources: Vec<(String, String)>,
}

fn version(text: &str) -> Result<(u32, u32), String> {
    let mut parts = text.trim_start_matches('v').split('.').map(str::parse);
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => Err("write MAJOR.MINOR, such as 1.28".to_owned()),
    }
}

fn refused(refusal: &Refusal) -> Failure {
    Failure::input(refusal.to_string())
}

impl Render {
    pub(crate) fn run(&self, output: Output) -> Result<Verdict, Failure> {
        let source = input::source(&self.file)?;
        let target = self.target;
        let settings = self.settings(target);
        let files = match &self.directory {
            Some(_) => directory(&source, target, &settings).map_err(|refusal| refused(&refusal))?,
            None => {
                let text = render(&source, target, &settings).map_err(|refusal| refused(&refusal))?;
                vec![File { name: format!("{}.yaml", target.as_str()), text }]
            }
        };
        if has_placeholder(&files, &settings) {
            let note = "the digest is a placeholder that no image has: write --image and --digest";
            // A note that cannot be written is lost.
            let _ = writeln!(std::io::stderr(), "entra-exchange: {note}");
        }
        match (&self.directory, output.form) {
            (Some(folder), _) => {
                let named: Vec<_> = files.iter().map(|file| (folder.join(&file.name), file.text.as_str())).collect();
                let lines = crate::files::write(&named, self.force)?;
                output.print(&lines.join("\n"), &lines.into())?;
            }
            (None, Form::Text) => files.iter().try_for_each(|file| print(&file.text))?,
            (None, _) => {
                let values: Vec<Value> =
                    files.iter().map(|file| json!({ "name": file.name, "text": file.text })).collect();
                print_json(&values.into())?;
            }
        }
        Ok(Verdict::Good)
    }

    fn settings(&self, target: Target) -> Settings {
        let defaults = Settings::of(target);
        let or = |given: &Option<String>, default: String| given.clone().unwrap_or(default);
        Settings {
            namespace: or(&self.namespace, defaults.namespace),
            label: self.label.clone().unwrap_or(defaults.label),
            image: or(&self.image, defaults.image),
            tag: or(&self.tag, defaults.tag),
            digest: or(&self.digest, defaults.digest),
            istio: self.istio.unwrap_or(defaults.istio),
            gateway_class: or(&self.gateway_class, defaults.gateway_class),
            tenant_id: or(&self.tenant_id, defaults.tenant_id),
            client_id: or(&self.client_id, defaults.client_id),
            principals: if self.principals.is_empty() { defaults.principals } else { self.principals.clone() },
            variables: self.variables.clone(),
            sources: self.sources.clone(),
        }
    }
}
