//! The section `managed_identity`: who is answered, and as whom.

use super::ManagedIdentity;
use super::reader::{Mistakes, Object};
use crate::host::Host;

/// Where IMDS clients call, unless `managed_identity.imds.hosts` says otherwise.
const IMDS_HOSTS: [&str; 3] = ["169.254.169.254", "127.0.0.1", "localhost"];

pub(super) fn read(root: &Object<'_>, names: &[&str], mistakes: &mut Mistakes) -> Option<ManagedIdentity> {
    let object = root.get("managed_identity")?.object(&["identities", "default_identity", "imds"], mistakes)?;
    let place = |path: &str, name: &str, mistakes: &mut Mistakes| {
        let found = names.iter().position(|other| *other == name);
        if found.is_none() {
            mistakes.add(path, format!("{name:?} is no identity: write {}", names.join(" or ")));
        }
        found
    };
    let offered: Vec<usize> = match object.texts("identities", mistakes) {
        Some(texts) => texts.iter().filter_map(|(path, name)| place(path, name, mistakes)).collect(),
        None if names.len() > 1 => {
            mistakes.add(
                &object.path_of("identities"),
                format!("is missing: say which identities callers may ask for, of {}", names.join(", ")),
            );
            Vec::new()
        }
        None => vec![0],
    };
    let default = match object.text("default_identity", mistakes) {
        Some(name) => {
            let found = place(&object.path_of("default_identity"), name, mistakes);
            if found.is_some_and(|place| !offered.contains(&place)) {
                mistakes.add(
                    &object.path_of("default_identity"),
                    format!("{name:?} is not among managed_identity.identities: add it there"),
                );
            }
            found
        }
        None => match offered.as_slice() {
            [only] => Some(*only),
            _ => None,
        },
    };
    let Some(imds) = object.get("imds") else {
        mistakes.add(&object.path_of("imds"), "is missing: write \"imds\": {} to answer IMDS clients");
        return None;
    };
    let imds = imds.object(&["hosts"], mistakes)?;
    let hosts = match imds.texts("hosts", mistakes) {
        None => IMDS_HOSTS.map(str::to_owned).to_vec(),
        Some(texts) => texts
            .into_iter()
            .filter_map(|(path, text)| match Host::parse(text.as_bytes()) {
                Some(Host { name, port: None }) => Some(name.into_owned()),
                _ => {
                    mistakes.add(&path, format!("{text:?} is no host: write a name or an address without a port"));
                    None
                }
            })
            .collect(),
    };
    Some(ManagedIdentity { offered, default, imds_hosts: hosts })
}
