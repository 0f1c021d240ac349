//! The field `azure_service` of a destination: its row knows hosts, scope and the form of the header.

use super::reader::{Mistakes, Object};
use crate::azure::{AzureMistake, CredentialPlaces, Endpoint, HeaderForm, Service};
use crate::entra::Cloud;
use crate::host::HostPattern;

/// What a service of Azure's makes of a destination.
pub(super) struct AzureService {
    pub(super) form: HeaderForm,
    pub(super) credentials: CredentialPlaces,
    /// Whether the row knows the scope; else the operator writes it.
    pub(super) has_scope: bool,
    resources: Vec<Resource>,
}

/// One host of it.
struct Resource {
    /// Where its name is written.
    path: String,
    host: HostPattern,
    scope: Option<String>,
}

/// Reads `azure_service` and `names`; `None` when the destination names its hosts itself.
pub(super) fn read(object: &Object<'_>, cloud: Option<Cloud>, mistakes: &mut Mistakes) -> Option<AzureService> {
    let Some(field) = object.get("azure_service") else {
        if object.get("names").is_some() {
            mistakes.add(&object.path_of("names"), "are the names of what service's resources? Write azure_service");
        }
        return None;
    };
    let made_by_the_row = |own: &str, mistakes: &mut Mistakes| {
        if object.get(own).is_some() {
            mistakes.add(&object.path_of(own), "is what azure_service makes: leave out one of the two");
        }
    };
    made_by_the_row("hosts", mistakes);
    let mut read = AzureService {
        form: HeaderForm::Bearer,
        credentials: CredentialPlaces::USUAL,
        has_scope: true,
        resources: Vec::new(),
    };
    let Some(choice) = field.text(mistakes) else { return Some(read) };
    let of_the_word = |mistake: AzureMistake| format!("{choice:?} {mistake}");
    let service = match Service::find(choice, cloud) {
        Ok(service) => service,
        Err(mistake) => {
            mistakes.add(&field.path, of_the_word(mistake));
            return Some(read);
        }
    };
    (read.form, read.credentials, read.has_scope) = (service.header(), service.credentials(), service.has_scope());
    if read.has_scope {
        made_by_the_row("scope", mistakes);
    }
    let names = object.texts("names", mistakes).unwrap_or_default();
    if object.get("names").is_none() {
        match service.endpoints() {
            Ok(endpoints) => read.resources.extend(endpoints.into_iter().filter_map(|one| resource(&field.path, one))),
            Err(mistake) => mistakes.add(&field.path, of_the_word(mistake)),
        }
    }
    for (path, name) in names {
        match service.endpoint(name) {
            Ok(endpoint) => read.resources.extend(resource(&path, endpoint)),
            Err(mistake @ AzureMistake::TakesNoNames(_)) => {
                mistakes.add(&object.path_of("names"), of_the_word(mistake));
                break;
            }
            Err(mistake) => mistakes.add(&path, format!("{name:?} {mistake}")),
        }
    }
    Some(read)
}

fn resource(path: &str, endpoint: Endpoint) -> Option<Resource> {
    let host = HostPattern::parse(&endpoint.host)?;
    Some(Resource { path: path.to_owned(), host, scope: endpoint.scope })
}

impl AzureService {
    /// The hosts, each with the path of where its name is written.
    pub(super) fn hosts(&self) -> Vec<(String, HostPattern)> {
        self.resources.iter().map(|resource| (resource.path.clone(), resource.host.clone())).collect()
    }

    /// The hosts of each scope; `None` is the one that the operator writes. Few services have more than one.
    pub(super) fn by_scope(self) -> Vec<(Option<String>, Vec<HostPattern>)> {
        let mut groups: Vec<(Option<String>, Vec<HostPattern>)> = Vec::new();
        for Resource { host, scope, .. } in self.resources {
            match groups.iter_mut().find(|(other, _)| *other == scope) {
                Some((_, hosts)) => hosts.push(host),
                None => groups.push((scope, vec![host])),
            }
        }
        groups
    }
}
