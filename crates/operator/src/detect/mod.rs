//! `detect`: how the workloads of a cluster get their tokens of Entra today, and what to do for each, in the order in which it is safe.

mod cluster;
mod files;
mod plan;
mod uses;

use serde::Serialize;

use crate::azure_devops::is_guid;
use crate::document;
use crate::finding::{self, Findings};
use crate::inventory::Inventory;
use crate::source::Source;
use crate::tree::Node;
use cluster::{Cluster, Object, annotation, label};
pub use files::{Folder, folders};
pub use plan::{Phase, Step};
use uses::Uses;

/// What the files do not say.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The issuer of the cluster's service-account tokens.
    pub issuer: Option<String>,
    /// The tenant of identities whose objects name none.
    pub tenant_id: Option<String>,
    /// How requests reach the filter; `None` chooses for each workload.
    pub route: Option<Route>,
    /// The image of Envoy with the module, by its digest.
    pub image: Option<String>,
    /// The authority, if it is not that of the public cloud.
    pub authority: Option<String>,
    /// The folder with the files, which the steps name.
    pub directory: Option<String>,
}

/// How the requests of an application reach the filter (docs/migrate.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Route {
    /// The application finds a sidecar by two environment variables.
    Variables,
    /// An init container redirects the requests for IMDS to a sidecar.
    Iptables,
    /// Istio's sidecar answers them.
    Istio,
}

impl Route {
    /// All routes.
    pub const ALL: [Self; 3] = [Self::Variables, Self::Iptables, Self::Istio];

    /// The name of the route.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Variables => "variables",
            Self::Iptables => "iptables",
            Self::Istio => "istio",
        }
    }

    /// What it is, for a list of routes.
    pub const fn about(self) -> &'static str {
        match self {
            Self::Variables => "A sidecar that the application finds by two environment variables",
            Self::Iptables => "A sidecar, and an init container that redirects the requests for IMDS to it",
            Self::Istio => "Istio's sidecar",
        }
    }
}

/// How a workload gets its tokens today.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// aad-pod-identity answers its requests to IMDS.
    PodIdentity,
    /// The proxy sidecar of Azure Workload Identity answers them.
    ProxySidecar,
    /// It exchanges its federated token itself.
    WorkloadIdentity,
    /// It has a client secret or a certificate.
    ClientSecret,
}

/// An identity of a workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// Its name in the filter's configuration.
    pub name: String,
    /// The client id; `None` if the files do not have it.
    pub client_id: Option<String>,
    /// The tenant; `None` if it is not known.
    pub tenant_id: Option<String>,
    /// The Azure resource id of a managed identity.
    pub resource_id: Option<String>,
}

/// A container of an application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// The variables with a secret that it no longer needs.
    pub secrets: Vec<&'static str>,
    /// Whether it gets a client secret from a whole Secret, which an empty variable overrides.
    pub overrides_secret: bool,
}

/// A workload that gets tokens of Entra.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Workload {
    /// The kind of its object.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// How it gets tokens today.
    pub ways: Vec<Way>,
    /// What says so.
    pub evidence: Vec<String>,
    /// Its identities.
    pub identities: Vec<Identity>,
    /// Its service account after the migration.
    pub service_account: String,
    /// Whether the service account must be created.
    pub new_service_account: bool,
    /// The containers of its pods.
    pub containers: Vec<Container>,
    /// How its requests reach the filter.
    pub route: Route,
    /// What must be known or changed before the files can be written.
    pub missing: Vec<String>,
}

impl Workload {
    /// Its namespace and name.
    pub fn title(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// The subject of its federated tokens.
    pub fn subject(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.service_account)
    }

    /// Whether it needs the filter: an application that exchanges its federated token itself does not.
    pub fn must_change(&self) -> bool {
        self.ways.iter().any(|way| *way != Way::WorkloadIdentity)
    }
}

/// The result of `detect`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Detected {
    /// The workloads, in the order of the files.
    pub workloads: Vec<Workload>,
    /// What is used by no workload of the files, and what else the files lack.
    pub notes: Vec<String>,
    /// What to do, in the order in which it is safe.
    pub steps: Vec<Step>,
}

/// Looks for workloads that get tokens of Entra.
///
/// # Errors
/// If a file is not YAML or JSON, or has no objects of Kubernetes: a sentence.
pub fn detect(sources: &[Source], options: &Options) -> Result<Detected, String> {
    let mut findings = Findings::default();
    let documents = document::read(sources, &mut findings);
    let mistakes = findings.0.iter().filter(|finding| finding.code.starts_with("invalid_")).count();
    if mistakes > 0 {
        return Err(format!("the manifests have {}", finding::correct(mistakes)));
    }
    let inventory = Inventory::of(sources, &documents);
    if inventory.objects.is_empty() {
        return Err(
            "the files contain no object of Kubernetes: give the output of kubectl get -o yaml, or of helm template"
                .to_owned(),
        );
    }
    let cluster = Cluster::of(&inventory);
    let workloads: Vec<Workload> =
        cluster.workloads().filter_map(|(object, pod)| workload(&cluster, object, pod, options)).collect();
    let notes = notes(&cluster, &workloads);
    let steps = plan::steps(&workloads, options);
    Ok(Detected { workloads, notes, steps })
}

fn workload(cluster: &Cluster<'_>, object: &Object<'_>, pod: &Node, options: &Options) -> Option<Workload> {
    let found = Uses::of(cluster, object, pod);
    if found.ways.is_empty() {
        return None;
    }
    let account = pod.at(&["spec", "serviceAccountName"]).and_then(Node::text).unwrap_or("default");
    // Every pod of the namespace without an account of its own has this one, and would share the identity.
    let is_shared = account == "default";
    let service_account = if is_shared { object.name } else { account }.to_owned();
    let is_host_network = pod.at(&["spec", "hostNetwork"]).is_some_and(Node::is_true);
    let in_mesh = cluster.is_in_mesh(object.namespace)
        || label(pod, "sidecar.istio.io/inject") == Some("true")
        || annotation(pod, "sidecar.istio.io/inject").is_some_and(|value| value.text() == Some("true"));
    let asks_imds = found.ways.iter().any(|way| matches!(way, Way::PodIdentity | Way::ProxySidecar));
    let route = options.route.unwrap_or(match (in_mesh, asks_imds && !is_host_network) {
        (true, _) => Route::Istio,
        (false, true) => Route::Iptables,
        (false, false) => Route::Variables,
    });
    let mut identities = found.identities;
    for identity in &mut identities {
        identity.tenant_id = identity.tenant_id.take().or_else(|| options.tenant_id.clone());
    }
    let mut missing = found.missing;
    missing.extend(identities.iter().flat_map(unusable));
    if is_host_network && route == Route::Iptables {
        missing.push(
            "the pod uses the node's network, and the redirection would be the node's: use --for variables".to_owned(),
        );
    }
    for name in [object.namespace, object.name, &service_account] {
        if !is_name(name) {
            missing.push(format!("{name:?} is not a valid name in Kubernetes"));
        }
    }
    Some(Workload {
        kind: object.kind.to_owned(),
        namespace: object.namespace.to_owned(),
        name: object.name.to_owned(),
        new_service_account: cluster.find("ServiceAccount", object.namespace, &service_account).is_none() && is_shared,
        containers: uses::applications(cluster, object.namespace, pod),
        ways: found.ways,
        evidence: found.evidence,
        identities,
        service_account,
        route,
        missing,
    })
}

/// Why an identity cannot be written into a configuration.
fn unusable(identity: &Identity) -> Vec<String> {
    let Identity { name, client_id, tenant_id, resource_id } = identity;
    let mut reasons = Vec::new();
    match client_id.as_deref() {
        Some(id) if is_guid(id) => {}
        Some(id) => reasons.push(format!("the client id {id:?} of {name} is not a GUID: correct it")),
        None => reasons.push(format!("the client id of {name} is not in the files: add the object with it")),
    }
    let is_tenant = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
    };
    match tenant_id.as_deref() {
        Some(id) if is_tenant(id) => {}
        Some(id) => reasons.push(format!("{id:?} is not a valid tenant: correct it")),
        None => reasons.push(format!("the tenant of {name} is not in the files: write --tenant-id")),
    }
    if resource_id.as_deref().is_some_and(|id| !id.starts_with("/subscriptions/") || id.contains(['"', '\\', '\n'])) {
        reasons.push(format!("the resource id of {name} does not begin with /subscriptions/: correct it"));
    }
    reasons
}

/// Whether a text is the name of an object of Kubernetes (RFC 1123, subdomain).
fn is_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    (1..=253).contains(&text.len())
        && text.bytes().all(fits)
        && !text.starts_with(['-', '.'])
        && !text.ends_with(['-', '.'])
}

/// Objects of aad-pod-identity without a workload in the files.
fn notes(cluster: &Cluster<'_>, workloads: &[Workload]) -> Vec<String> {
    let mut notes = Vec::new();
    let is_used =
        |text: &str| workloads.iter().any(|workload| workload.evidence.iter().any(|evidence| evidence.ends_with(text)));
    for binding in cluster.of_kind("AzureIdentityBinding") {
        if !is_used(&format!("by {}", binding.title())) {
            notes.push(format!(
                "{} in {} (selector {}) is used by no workload of the files: look for its pods before you remove it",
                binding.title(),
                binding.namespace,
                binding.spec("selector").unwrap_or_default()
            ));
        }
    }
    for assigned in cluster.of_kind("AzureAssignedIdentity") {
        let (pod, namespace) =
            (assigned.spec("pod").unwrap_or_default(), assigned.spec("podNamespace").unwrap_or_default());
        let is_of = |workload: &Workload| {
            workload.namespace == namespace && (pod == workload.name || pod.starts_with(&format!("{}-", workload.name)))
        };
        if !workloads.iter().any(is_of) {
            notes.push(format!("the pod {namespace}/{pod} uses aad-pod-identity, and its workload is not in the files: add its manifest"));
        }
    }
    for exception in cluster.of_kind("AzurePodIdentityException") {
        notes.push(format!(
            "{} in {} lets pods reach the node's own identity: give them identities of their own, if they need tokens",
            exception.title(),
            exception.namespace
        ));
    }
    notes
}

#[cfg(test)]
mod tests;
