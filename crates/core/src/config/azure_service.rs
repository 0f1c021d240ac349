//! Reads the fields `azure_service` and `names` of a destination, from which the hosts, the scope and the form of the header follow.

use super::object::{Field, Shape};
use super::reader::Mistakes;
use super::shapes::{List, Text};
use crate::authority::Cloud;
use crate::azure::{AzureMistake, CredentialPlaces, Endpoint, HeaderForm, Service};
use crate::host::HostPattern;

/// The fields of a destination that select an Azure service, and those that follow from it.
pub(super) struct ServiceFields<'p, 'a> {
    pub(super) service: Field<'p, 'a, Text>,
    pub(super) names: Field<'p, 'a, List<Text>>,
    pub(super) hosts: Field<'p, 'a, List<Text>>,
    pub(super) scope: Field<'p, 'a, Text>,
}

/// The settings of a destination that follow from its Azure service.
pub(super) struct AzureService {
    pub(super) form: HeaderForm,
    pub(super) credentials: CredentialPlaces,
    /// Whether the table has the scope. If not, the operator configures it.
    pub(super) has_scope: bool,
    resources: Vec<Resource>,
}

/// One host of an Azure service.
struct Resource {
    /// The path of the field that names it, for messages.
    path: String,
    host: HostPattern,
    scope: Option<String>,
}

/// Reads `azure_service` and `names`. Returns `None` if the destination has no `azure_service`.
pub(super) fn read(
    fields: &ServiceFields<'_, '_>,
    cloud: Option<Cloud>,
    mistakes: &mut Mistakes,
) -> Option<AzureService> {
    let (field, names) = (&fields.service, &fields.names);
    if !field.is_set() {
        if names.is_set() {
            names.mistake("requires azure_service: set azure_service, or remove names", mistakes);
        }
        return None;
    }
    must_not_be_set(&fields.hosts, mistakes);
    let mut read = AzureService {
        form: HeaderForm::Bearer,
        credentials: CredentialPlaces::USUAL,
        has_scope: true,
        resources: Vec::new(),
    };
    let Some(choice) = field.read(mistakes) else { return Some(read) };
    let with_choice = |mistake: AzureMistake| format!("{choice:?} {mistake}");
    let service = match Service::find(choice, cloud) {
        Ok(service) => service,
        Err(mistake) => {
            field.mistake(with_choice(mistake), mistakes);
            return Some(read);
        }
    };
    (read.form, read.credentials, read.has_scope) = (service.header(), service.credentials(), service.has_scope());
    if read.has_scope {
        must_not_be_set(&fields.scope, mistakes);
    }
    let texts = names.texts(mistakes).unwrap_or_default();
    if !names.is_set() {
        match service.endpoints() {
            Ok(endpoints) => {
                read.resources.extend(endpoints.into_iter().filter_map(|one| resource(&field.path(), one)))
            }
            Err(mistake) => field.mistake(with_choice(mistake), mistakes),
        }
    }
    for (path, name) in texts {
        match service.endpoint(name) {
            Ok(endpoint) => read.resources.extend(resource(&path, endpoint)),
            Err(mistake @ AzureMistake::TakesNoNames(_)) => {
                names.mistake(with_choice(mistake), mistakes);
                break;
            }
            Err(mistake) => mistakes.add(&path, format!("{name:?} {mistake}")),
        }
    }
    Some(read)
}

/// Reports a field that follows from the Azure service.
fn must_not_be_set<S: Shape>(field: &Field<'_, '_, S>, mistakes: &mut Mistakes) {
    if field.is_set() {
        field.mistake("is set by azure_service: remove one of the two", mistakes);
    }
}

fn resource(path: &str, endpoint: Endpoint) -> Option<Resource> {
    let host = HostPattern::parse(&endpoint.host)?;
    Some(Resource { path: path.to_owned(), host, scope: endpoint.scope })
}

impl AzureService {
    /// The hosts, each with the path of the field that names it.
    pub(super) fn hosts(&self) -> Vec<(String, HostPattern)> {
        self.resources.iter().map(|resource| (resource.path.clone(), resource.host.clone())).collect()
    }

    /// The hosts grouped by scope; `None` is the scope that the operator configures. Few services have several scopes.
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
