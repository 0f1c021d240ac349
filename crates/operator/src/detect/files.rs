//! The files for a migration: configuration, objects, patch of the workload, and federated credentials.

use minijinja::context;

use super::{Options, Route, Way, Workload, plan};
use crate::credentials::{self, FederatedCredential, Format, Workloads};
use crate::render::{File, Settings, Target, fill, render};
use crate::source::Source;

/// The files of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    /// The name of the folder: namespace and name of the workload.
    pub name: String,
    /// The files in it.
    pub files: Vec<File>,
}

/// An image that does not exist.
const IMAGE: &str =
    "registry.example/entra-exchange-envoy@sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// The files for each workload that lacks nothing.
///
/// # Errors
/// If an option would break a manifest: a sentence.
pub fn folders(workloads: &[Workload], options: &Options) -> Result<Vec<Folder>, String> {
    let ready = workloads.iter().filter(|workload| workload.must_change() && workload.missing.is_empty());
    ready.map(|workload| Ok(Folder { name: plan::folder(workload), files: files(workload, options)? })).collect()
}

fn files(workload: &Workload, options: &Options) -> Result<Vec<File>, String> {
    let configuration = configuration(workload, options)?;
    let source = Source::new("configuration.json", configuration.as_str());
    let credentials = credentials_of(&source, workload, options)?;
    let audience = credentials.first().map(|credential| credential.audience.clone()).unwrap_or_default();
    let envoy = match workload.route {
        Route::Istio => None,
        _ => Some(render(&source, Target::Envoy, &Settings::default()).map_err(|refusal| refusal.to_string())?),
    };
    let Workload { namespace, name, service_account, new_service_account, .. } = workload;
    let envoy = envoy.as_ref().map(|text| text.trim_end_matches('\n'));
    let objects = filled(
        include_str!("../../templates/migrate-objects.yaml"),
        context! { namespace, name, service_account, new_service_account, envoy },
    )?;
    let mut files = vec![File { name: "configuration.json".to_owned(), text: configuration }];
    if !objects.trim().is_empty() {
        files.push(File { name: "objects.yaml".to_owned(), text: objects });
    }
    files.push(File { name: "patch.yaml".to_owned(), text: patch(workload, options, &audience)? });
    if options.issuer.is_some() {
        let script = credentials::render(&credentials, Format::Az);
        files.push(File { name: "federated-credentials.sh".to_owned(), text: script });
        let list = format!("{}\n", credentials::render(&credentials, Format::Json));
        files.push(File { name: "federated-credentials.json".to_owned(), text: list });
    }
    Ok(files)
}

fn configuration(workload: &Workload, options: &Options) -> Result<String, String> {
    let names: Vec<&str> = workload.identities.iter().map(|identity| identity.name.as_str()).collect();
    let several = names.len() > 1;
    filled(
        include_str!("../../templates/migrate-configuration.json"),
        context! {
            authority => options.authority.as_ref().map(|authority| serde_json::Value::from(authority.as_str()).to_string()),
            identities => workload.identities,
            names => several.then(|| serde_json::Value::from(names).to_string()),
            route => workload.route.as_str(),
        },
    )
}

fn credentials_of(source: &Source, workload: &Workload, options: &Options) -> Result<Vec<FederatedCredential>, String> {
    let issuer = options.issuer.clone().unwrap_or_else(|| "https://issuer.invalid/".to_owned());
    let workloads = Workloads { issuer: Some(issuer), subjects: vec![workload.subject()], ..Workloads::default() };
    credentials::credentials(std::slice::from_ref(source), &workloads).map_err(|reason| reason.to_string())
}

/// The patch of the workload's object (a strategic merge patch of Kubernetes, in which null removes a field).
fn patch(workload: &Workload, options: &Options, audience: &str) -> Result<String, String> {
    let uses = |way: Way| workload.ways.contains(&way);
    let is_proxied = uses(Way::ProxySidecar) || uses(Way::WorkloadIdentity);
    let mut labels = Vec::new();
    labels.extend(uses(Way::PodIdentity).then_some("aadpodidbinding: null"));
    labels.extend(is_proxied.then_some("azure.workload.identity/use: null"));
    labels.extend((workload.route == Route::Istio).then_some("entra-exchange: enabled"));
    let mut annotations = Vec::new();
    annotations.extend(uses(Way::ProxySidecar).then_some("azure.workload.identity/inject-proxy-sidecar"));
    let has_annotations = !annotations.is_empty() || workload.route == Route::Istio;
    let changes = |container: &&super::Container| {
        workload.route == Route::Variables || !container.secrets.is_empty() || container.overrides_secret
    };
    let changed: Vec<&super::Container> = workload.containers.iter().filter(changes).collect();
    let image = options.image.as_deref().unwrap_or(IMAGE);
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"./_-:@".contains(&byte);
    if image.is_empty() || !image.bytes().all(fits) {
        return Err(format!("{image:?} is not the name of an image: write REGISTRY/NAME@sha256:DIGEST"));
    }
    let Workload { name, service_account, .. } = workload;
    let body = filled(
        include_str!("../../templates/migrate-patch.yaml"),
        context! { labels, annotations, has_annotations, name, service_account, changed, image, audience, route => workload.route.as_str() },
    )?;
    let (prefix, depth) = match workload.kind.as_str() {
        "Pod" => ("", 0),
        "CronJob" => ("spec:\n  jobTemplate:\n    spec:\n      template:\n", 8),
        _ => ("spec:\n  template:\n", 4),
    };
    let indentation = " ".repeat(depth);
    let lines = body.lines().map(|line| if line.is_empty() { line.to_owned() } else { format!("{indentation}{line}") });
    Ok(format!("{prefix}{}\n", lines.collect::<Vec<_>>().join("\n")))
}

fn filled(template: &'static str, values: minijinja::Value) -> Result<String, String> {
    fill(template, values).map_err(|refusal| refusal.to_string())
}
