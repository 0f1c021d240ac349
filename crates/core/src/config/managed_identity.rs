//! The section `managed_identity`: who is answered, and as whom.

use super::reader::{Mistakes, Object};
use super::{AppService, Identity, Imds, ManagedAction, ManagedIdentity, Secret};
use crate::host::Host;
use crate::path;
use crate::problem::{Code, Problem};

/// Where IMDS clients call, unless `managed_identity.imds.hosts` says otherwise.
const IMDS_HOSTS: &[&str] = &["169.254.169.254", "127.0.0.1", "localhost"];

/// Where App Service clients call, unless `managed_identity.app_service.hosts` says otherwise.
const APP_SERVICE_HOSTS: &[&str] = &["127.0.0.1", "localhost"];

/// The variable with the secret of App Service clients, unless `secret_from_env` says another: theirs is called so too.
const SECRET_VARIABLE: &str = "IDENTITY_HEADER";

pub(super) fn read(
    root: &Object<'_>,
    identities: &[Identity],
    variable: &dyn Fn(&str) -> Option<String>,
    mistakes: &mut Mistakes,
) -> Option<ManagedIdentity> {
    const KNOWN: &[&str] = &["identities", "default_identity", "action", "imds", "app_service", "health"];
    let object = root.get("managed_identity")?.object(KNOWN, mistakes)?;
    let (offered, default) = read_offer(&object, identities, mistakes);
    let actions =
        [("answer", ManagedAction::Answer), ("report", ManagedAction::Report), ("refuse", ManagedAction::Refuse)];
    let health_hosts = object.get("health").and_then(|health| health.object(&["hosts"], mistakes)).map(|health| {
        // A kubelet calls by the pod's address, which nobody knows beforehand: there is no default.
        if health.get("hosts").is_none() {
            mistakes.add(&health.path_of("hosts"), "is missing: write the host that the probe sends");
        }
        read_hosts(&health, &[], mistakes)
    });
    if ["imds", "app_service", "health"].iter().all(|name| object.get(name).is_none()) {
        mistakes.add(
            &object.path_of("imds"),
            "is missing: write \"imds\": {} to answer IMDS clients, or \"app_service\": {} to answer those of App Service",
        );
    }
    Some(ManagedIdentity {
        offered,
        default,
        action: object.word("action", &actions, ManagedAction::Answer, mistakes),
        imds: read_imds(&object, mistakes),
        app_service: read_app_service(&object, variable, mistakes),
        health_hosts: health_hosts.unwrap_or_default(),
    })
}

/// Which identities callers may ask for, and whose token they get who name none.
fn read_offer(object: &Object<'_>, identities: &[Identity], mistakes: &mut Mistakes) -> (Vec<usize>, Option<usize>) {
    let names: Vec<&str> = identities.iter().map(|identity| identity.name.as_str()).collect();
    let place = |path: &str, name: &str, mistakes: &mut Mistakes| {
        let found = names.iter().position(|other| *other == name);
        if found.is_none() {
            mistakes.add(path, format!("{name:?} is no identity: write {}", names.join(" or ")));
        }
        found
    };
    let mut offered: Vec<usize> = Vec::new();
    match object.texts("identities", mistakes) {
        Some(texts) => {
            for (path, name) in texts {
                offered.extend(place(&path, name, mistakes));
            }
        }
        None if names.len() > 1 => mistakes.add(
            &object.path_of("identities"),
            format!("is missing: say which identities callers may ask for, of {}", names.join(", ")),
        ),
        None => offered.push(0),
    }
    let default = match (object.text("default_identity", mistakes), offered.as_slice()) {
        (Some(name), _) => {
            let path = object.path_of("default_identity");
            let found = place(&path, name, mistakes);
            if found.is_some_and(|place| !offered.contains(&place)) {
                mistakes.add(&path, format!("{name:?} is not among managed_identity.identities: add it there"));
            }
            found
        }
        (None, [only]) => Some(*only),
        (None, _) => None,
    };
    (offered, default)
}

fn read_imds(object: &Object<'_>, mistakes: &mut Mistakes) -> Option<Imds> {
    let imds = object.get("imds")?.object(&["hosts", "pass"], mistakes)?;
    let mut pass: Vec<String> = Vec::new();
    for (place, text) in imds.texts("pass", mistakes).unwrap_or_default() {
        let text = text.strip_suffix('/').unwrap_or(text);
        if !text.starts_with("/metadata/") || path::ambiguity(text.as_bytes()).is_some() {
            mistakes.add(&place, format!("{text:?} is no metadata path: write such as \"/metadata/instance\""));
        } else if text.to_ascii_lowercase().starts_with("/metadata/identity") {
            mistakes.add(
                &place,
                format!(
                    "{text:?} would hand out the node's own identity: what is below /metadata/identity never passes"
                ),
            );
        }
        pass.push(text.to_owned());
    }
    Some(Imds { hosts: read_hosts(&imds, IMDS_HOSTS, mistakes), pass })
}

fn read_app_service(
    object: &Object<'_>,
    variable: &dyn Fn(&str) -> Option<String>,
    mistakes: &mut Mistakes,
) -> Option<AppService> {
    let app_service = object.get("app_service")?.object(&["hosts", "secret_from_env"], mistakes)?;
    let name = app_service.text("secret_from_env", mistakes).unwrap_or(SECRET_VARIABLE);
    let secret = variable(name).filter(|secret| !secret.is_empty()).map(Secret).ok_or_else(|| {
        Problem::new(
            Code::VariableMissing,
            format!("{name} is not set in the proxy, so no caller can send the right secret"),
            format!(
                "Give the app and the proxy's container the same random {name}, and see that it stands in \
                 vm_config.environment_variables.host_env_keys."
            ),
        )
    });
    Some(AppService { hosts: read_hosts(&app_service, APP_SERVICE_HOSTS, mistakes), secret })
}

/// The field `hosts`: names and addresses, each on any port.
pub(super) fn read_hosts(object: &Object<'_>, default: &[&str], mistakes: &mut Mistakes) -> Vec<String> {
    let Some(texts) = object.texts("hosts", mistakes) else {
        return default.iter().map(|host| (*host).to_owned()).collect();
    };
    let mut hosts: Vec<String> = Vec::new();
    for (path, text) in texts {
        match Host::parse(text.as_bytes()) {
            Some(Host { name, port: None }) => hosts.push(name.into_owned()),
            _ => mistakes.add(&path, format!("{text:?} is no host: write a name or an address without a port")),
        }
    }
    hosts
}
