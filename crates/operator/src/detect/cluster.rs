//! What the manifests of a cluster say about identities: objects of aad-pod-identity, service accounts and pods.

use crate::document::kind_and_name;
use crate::inventory::{Found, Inventory};
use crate::tree::Node;

/// An object of Kubernetes.
#[derive(Clone, Copy)]
pub(super) struct Object<'a> {
    pub(super) node: &'a Node,
    pub(super) kind: &'a str,
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
}

impl<'a> Object<'a> {
    fn of(found: Found<'a>) -> Self {
        let node = found.node;
        let metadata = |name: &str| node.at(&["metadata", name]).and_then(Node::text);
        Self {
            node,
            kind: node.text_of("kind").unwrap_or_default(),
            namespace: metadata("namespace").unwrap_or("default"),
            name: metadata("name").or_else(|| metadata("generateName")).unwrap_or("unnamed"),
        }
    }

    /// A string of its `spec`. A number is taken as it is written.
    pub(super) fn spec(&self, name: &str) -> Option<&'a str> {
        self.node.get("spec")?.text_of(name)
    }

    /// Its kind and name, for messages.
    pub(super) fn title(&self) -> String {
        kind_and_name(self.node)
    }

    /// The template of its pods, if it has any: an object with `metadata` and `spec`.
    pub(super) fn pod(&self) -> Option<&'a Node> {
        let templates = [
            self.node.at(&["spec", "template"]),
            self.node.at(&["spec", "jobTemplate", "spec", "template"]),
            (self.kind == "Pod").then_some(self.node),
        ];
        templates.into_iter().flatten().find(|template| template.at(&["spec", "containers"]).is_some())
    }
}

/// The objects of the given files.
pub(super) struct Cluster<'a> {
    objects: Vec<Object<'a>>,
}

impl<'a> Cluster<'a> {
    pub(super) fn of(inventory: &Inventory<'a>) -> Self {
        Self { objects: inventory.objects.iter().map(|found| Object::of(*found)).collect() }
    }

    /// The objects of a kind.
    pub(super) fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Object<'a>> {
        self.objects.iter().filter(move |object| object.kind == kind)
    }

    /// The workloads: objects with pods that no other object of the files makes.
    pub(super) fn workloads(&self) -> impl Iterator<Item = (&Object<'a>, &'a Node)> {
        self.objects
            .iter()
            .filter(|object| !self.is_made_by_another(object))
            .filter_map(|object| Some((object, object.pod()?)))
    }

    /// Whether an object of the files owns this one, or owns its owner by the usual names: a Deployment makes a ReplicaSet, which makes pods.
    fn is_made_by_another(&self, object: &Object<'_>) -> bool {
        let owners = object.node.at(&["metadata", "ownerReferences"]).into_iter().flat_map(Node::items);
        let names: Vec<&str> = owners.filter_map(|owner| owner.text_of("name")).collect();
        self.objects.iter().any(|other| {
            let makes = |name: &&str| other.name == *name || name.starts_with(&format!("{}-", other.name));
            other.namespace == object.namespace
                && other.pod().is_some()
                && other.name != object.name
                && names.iter().any(makes)
        })
    }

    /// The object with this kind, namespace and name.
    pub(super) fn find(&self, kind: &str, namespace: &str, name: &str) -> Option<&Object<'a>> {
        self.of_kind(kind).find(|object| object.namespace == namespace && object.name == name)
    }

    /// Whether Istio injects its sidecar into the pods of a namespace.
    pub(super) fn is_in_mesh(&self, namespace: &str) -> bool {
        let Some(object) = self.of_kind("Namespace").find(|object| object.name == namespace) else { return false };
        let label = |name: &str| object.node.at(&["metadata", "labels", name]).and_then(Node::text);
        label("istio-injection") == Some("enabled") || label("istio.io/rev").is_some()
    }
}

/// A label of a pod's template.
pub(super) fn label<'a>(pod: &'a Node, name: &str) -> Option<&'a str> {
    pod.at(&["metadata", "labels", name]).and_then(Node::text)
}

/// An annotation of a pod's template. Any value counts, a boolean among them.
pub(super) fn annotation<'a>(pod: &'a Node, name: &str) -> Option<&'a Node> {
    pod.at(&["metadata", "annotations", name])
}

/// The containers of a pod, those that run before it included.
pub(super) fn containers(pod: &Node) -> impl Iterator<Item = &Node> {
    let lists = ["initContainers", "containers"].into_iter().filter_map(|field| pod.at(&["spec", field]));
    lists.flat_map(Node::items)
}

/// The environment variable of a container.
pub(super) fn variable<'a>(container: &'a Node, name: &str) -> Option<&'a Node> {
    container.get("env").into_iter().flat_map(Node::items).find(|variable| variable.text_of("name") == Some(name))
}
