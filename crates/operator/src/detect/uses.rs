//! How a workload gets its tokens today: aad-pod-identity, Azure Workload Identity, or a client secret.

use super::cluster::{Cluster, Object, annotation, containers, label, variable};
use super::{Container, Identity, Way, is_name};
use crate::tree::Node;

/// The containers of the application.
pub(super) fn applications(cluster: &Cluster<'_>, namespace: &str, pod: &Node) -> Vec<Container> {
    let listed = pod.at(&["spec", "containers"]).into_iter().flat_map(Node::items);
    let container = |container: &Node| {
        let has = |name: &&str| variable(container, name).is_some();
        let name = container.text_of("name").filter(|name| is_name(name))?.to_owned();
        let secrets: Vec<&'static str> = SECRETS.iter().copied().filter(has).collect();
        let overrides_secret =
            !secrets.contains(&"AZURE_CLIENT_SECRET") && secret_of(cluster, namespace, container).is_some();
        Some(Container { name, secrets, overrides_secret })
    };
    listed.filter_map(container).collect()
}

/// The variables in which the Azure SDKs look for a credential of a client (EnvironmentCredential).
const SECRETS: &[&str] = &["AZURE_CLIENT_SECRET", "AZURE_CLIENT_CERTIFICATE_PATH", "AZURE_CLIENT_CERTIFICATE_PASSWORD"];

/// How a workload gets its tokens, as far as it was found.
#[derive(Default)]
pub(super) struct Uses {
    pub(super) ways: Vec<Way>,
    pub(super) evidence: Vec<String>,
    pub(super) identities: Vec<Identity>,
    pub(super) missing: Vec<String>,
}

impl Uses {
    pub(super) fn of(cluster: &Cluster<'_>, object: &Object<'_>, pod: &Node) -> Self {
        let mut found = Self::default();
        pod_identity(cluster, object, pod, &mut found);
        workload_identity(cluster, object, pod, &mut found);
        client_secrets(cluster, object, pod, &mut found);
        found
    }

    fn add(&mut self, way: Way, evidence: String) {
        if !self.ways.contains(&way) {
            self.ways.push(way);
        }
        self.evidence.push(evidence);
    }

    /// Adds an identity, unless one with the same client id is known.
    fn add_identity(
        &mut self,
        name: &str,
        client_id: Option<&str>,
        tenant_id: Option<&str>,
        resource_id: Option<&str>,
    ) {
        let is_known = |other: &Identity| client_id.is_some() && other.client_id.as_deref() == client_id;
        if self.identities.iter().any(is_known) {
            return;
        }
        let owned = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(str::to_owned);
        let plain: String = name.to_ascii_lowercase().replace('.', "-").chars().take(60).collect();
        let count = self.identities.iter().filter(|other| other.name.starts_with(&plain)).count();
        let name = if count == 0 { plain } else { format!("{plain}-{}", count.saturating_add(1)) };
        let (client_id, tenant_id, resource_id) = (owned(client_id), owned(tenant_id), owned(resource_id));
        self.identities.push(Identity { name, client_id, tenant_id, resource_id });
    }
}

/// aad-pod-identity: a label of the pod selects bindings, and each names an identity (azure.github.io/aad-pod-identity, "Concepts").
fn pod_identity(cluster: &Cluster<'_>, object: &Object<'_>, pod: &Node, found: &mut Uses) {
    let Some(selector) = label(pod, "aadpodidbinding") else { return };
    found.add(Way::PodIdentity, format!("label aadpodidbinding: {selector}"));
    let bindings = cluster.of_kind("AzureIdentityBinding").filter(|binding| binding.spec("selector") == Some(selector));
    let mut is_bound = false;
    for binding in bindings {
        let name = binding.spec("azureIdentity").unwrap_or_default();
        let identity = cluster.find("AzureIdentity", binding.namespace, name);
        let Some(identity) = identity.filter(|identity| is_offered(identity, object)) else { continue };
        is_bound = true;
        found.evidence.push(format!("{} by {}", identity.title(), binding.title()));
        let of_either = |names: [&str; 2]| names.into_iter().find_map(|name| identity.spec(name));
        let client = of_either(["clientID", "clientId"]);
        found.add_identity(name, client, of_either(["tenantID", "tenantId"]), of_either(["resourceID", "resourceId"]));
    }
    if !is_bound {
        found.missing.push(format!(
            "no AzureIdentityBinding and AzureIdentity for aadpodidbinding: {selector}: add those of kubectl get \
             azureidentities,azureidentitybindings -A -o yaml"
        ));
    }
}

/// Whether a pod may use an identity of another namespace: unless it is marked as namespaced.
fn is_offered(identity: &Object<'_>, workload: &Object<'_>) -> bool {
    let behavior =
        identity.node.at(&["metadata", "annotations", "aadpodidentity.k8s.io/Behavior"]).and_then(Node::text);
    behavior != Some("namespaced") || identity.namespace == workload.namespace
}

/// Azure Workload Identity (azwi): a label of the pod, annotations of its service account, and perhaps the proxy sidecar.
fn workload_identity(cluster: &Cluster<'_>, object: &Object<'_>, pod: &Node, found: &mut Uses) {
    let has_image =
        |container: &Node| container.text_of("image").is_some_and(|image| image.contains("workload-identity/proxy"));
    let annotated = annotation(pod, "azure.workload.identity/inject-proxy-sidecar").is_some();
    let is_used = label(pod, "azure.workload.identity/use").is_some();
    if annotated {
        found.add(Way::ProxySidecar, "annotation azure.workload.identity/inject-proxy-sidecar".to_owned());
    } else if containers(pod).any(has_image) {
        found.add(Way::ProxySidecar, "container with the image workload-identity/proxy".to_owned());
    } else if is_used {
        found.add(Way::WorkloadIdentity, "label azure.workload.identity/use".to_owned());
    } else {
        return;
    }
    let account = pod.at(&["spec", "serviceAccountName"]).and_then(Node::text).unwrap_or("default");
    let Some(object) = cluster.find("ServiceAccount", object.namespace, account) else {
        found
            .missing
            .push(format!("ServiceAccount {account} is not in the files: add it, its annotations name the client"));
        return;
    };
    let own = |name: &str| {
        object.node.at(&["metadata", "annotations", &format!("azure.workload.identity/{name}")]).and_then(Node::text)
    };
    found.evidence.push(object.title());
    found.add_identity(account, own("client-id"), own("tenant-id"), None);
}

/// The Secret of a container's environment that has a client secret.
fn secret_of<'a>(cluster: &Cluster<'_>, namespace: &str, container: &'a Node) -> Option<&'a str> {
    let listed = container.get("envFrom").into_iter().flat_map(Node::items);
    let mut names = listed.filter_map(|from| from.get("secretRef")?.text_of("name"));
    names.find(|name| {
        let object = cluster.find("Secret", namespace, name);
        let has = |field: &str| object.is_some_and(|object| object.node.at(&[field, "AZURE_CLIENT_SECRET"]).is_some());
        has("data") || has("stringData")
    })
}

/// Client secrets and certificates in the environment, as the Azure SDKs read them (EnvironmentCredential).
fn client_secrets(cluster: &Cluster<'_>, object: &Object<'_>, pod: &Node, found: &mut Uses) {
    for container in containers(pod) {
        let name = container.text_of("name").unwrap_or_default();
        let direct = SECRETS.iter().find(|name| variable(container, name).is_some());
        let evidence = match (direct, secret_of(cluster, object.namespace, container)) {
            (Some(variable), _) => format!("variable {variable} of container {name}"),
            (None, Some(secret)) => format!("Secret {secret} with AZURE_CLIENT_SECRET, in container {name}"),
            (None, None) => continue,
        };
        found.add(Way::ClientSecret, evidence);
        let value = |name: &str| variable(container, name).and_then(|variable| variable.text_of("value"));
        found.add_identity(object.name, value("AZURE_CLIENT_ID"), value("AZURE_TENANT_ID"), None);
    }
}
