//! The file with the federated token: whether Envoy notices that it is renewed.

use crate::finding::Findings;
use crate::inventory::{Found, Inventory};
use crate::tree::Node;

/// Where Azure's workload-identity webhook mounts the volume, by its version.
const WEBHOOK: &[&str] = &["/var/run/secrets/azure/wi", "/var/run/secrets/azure/tokens"];

pub(super) fn check(inventory: &Inventory<'_>, findings: &mut Findings) {
    let mounts = mounts(inventory);
    for listener in &inventory.listeners {
        if listener.node.get("internal_listener").is_none() {
            continue;
        }
        listener.node.walk(&mut |node| {
            let body = node.get("direct_response").and_then(|response| response.get("body"));
            if let Some((body, file)) = body.and_then(|body| Some((body, body.get("filename")?))) {
                check_body(Found { node: body, ..*listener }, file, &mounts, findings);
            }
        });
    }
}

fn check_body(body: Found<'_>, file: &Node, mounts: &[String], findings: &mut Findings) {
    let path = file.text().unwrap_or_default();
    let mount = mounts.iter().filter(|mount| is_within(path, mount)).max_by_key(|mount| mount.len());
    let Some(watched) = body.node.at(&["watched_directory", "path"]) else {
        let place = body.place(body.node.get("watched_directory").unwrap_or(file));
        findings.add(
            "token_file_not_watched",
            place,
            "Envoy reads the token once, and serves it after it has expired",
            "Add watched_directory with the volume's mount path: without it Envoy serves the first token for ever.",
        );
        return;
    };
    let directory = watched.text().unwrap_or_default().trim_end_matches('/');
    match mount {
        Some(mount) if mount != directory => {
            findings.add(
                "watched_directory_wrong",
                body.place(watched),
                format!("the file's link is not in {directory}"),
                format!("Set watched_directory.path to {mount}, the volume's mount path: the kubelet replaces the link ..data there."),
            );
        }
        None if !is_within(path, directory) => {
            findings.add(
                "watched_directory_wrong",
                body.place(watched),
                format!("{path} is not in {directory}"),
                "Set watched_directory.path to the directory in which the token is renewed: the volume's mount path, or the file's own \
                 directory.",
            );
        }
        _ => {}
    }
}

fn is_within(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}

/// The mount paths of volumes in which the kubelet replaces files by a link.
fn mounts(inventory: &Inventory<'_>) -> Vec<String> {
    let mut mounts: Vec<String> = WEBHOOK.iter().map(|path| (*path).to_owned()).collect();
    for object in &inventory.objects {
        object.node.walk(&mut |node| {
            if let Some(annotation) = node.get("sidecar.istio.io/userVolumeMount") {
                mounts.extend(of_annotation(annotation));
            }
            if node.get("containers").is_some() {
                mounts.extend(of_pod(node));
            }
        });
    }
    let plain = mounts.into_iter().map(|mount| mount.trim_end_matches('/').to_owned());
    plain.collect()
}

fn of_annotation(annotation: &Node) -> Vec<String> {
    let text = annotation.text().unwrap_or_default();
    let places = crate::embedded::Places::direct(0, text.len());
    let documents = crate::yaml::read(text, &places).unwrap_or_default();
    let mounts = documents.iter().flat_map(|document| document.entries());
    mounts.filter_map(|mount| mount.value.text_of("mountPath").map(str::to_owned)).collect()
}

/// The mounts of a pod's containers. Only these kinds of volumes have the link `..data`; in others, files are written in place.
fn of_pod(pod: &Node) -> Vec<String> {
    const LINKED: &[&str] = &["projected", "secret", "configMap", "downwardAPI"];
    let volumes: Vec<&Node> = pod.get("volumes").into_iter().flat_map(Node::items).collect();
    let is_linked = |name: &str| {
        let volume = volumes.iter().find(|volume| volume.text_of("name") == Some(name));
        volume.is_some_and(|volume| LINKED.iter().any(|kind| volume.get(kind).is_some()))
    };
    let containers =
        ["containers", "initContainers"].into_iter().filter_map(|field| pod.get(field)).flat_map(Node::items);
    let mounts = containers.flat_map(|container| container.get("volumeMounts").into_iter().flat_map(Node::items));
    let linked = mounts.filter(|mount| mount.text_of("name").is_some_and(is_linked));
    linked.filter_map(|mount| mount.text_of("mountPath").map(str::to_owned)).collect()
}
