//! The table of Azure services: the host, scope and header form of a service that is configured by name.
//!
//! The rows are in `data/azure-services.tsv`, each with its source pages, which `build.rs` removes. A row gives exact hosts
//! for the resource names in the configuration, never a suffix: anyone can register a host under most of the suffixes.

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::LazyLock;

use crate::authority::Cloud;
use crate::entra::AccessToken;
use crate::suggest::nearest;

const TABLE: &str = include_str!(concat!(env!("OUT_DIR"), "/azure-services.tsv"));

/// The placeholders in a host pattern for the name of the operator's resource and for the region that Azure appends.
const NAME: &str = "{name}";
const REGION: &str = "{region}";

/// The scope of a service for which each host is a resource in Entra.
const OF_THE_HOST: &str = "https://{host}/.default";

/// Services that do not accept a token in an HTTP header: the id, the reason, and the remedy.
const NOT_BY_HEADER: &[(&str, &str, &str)] = &[
    (
        "container_registry",
        "a registry does not accept Entra tokens: it requires an exchange of its own after a challenge",
        REGISTRY,
    ),
    ("sql", "SQL does not use HTTP", "have its client request https://database.windows.net/ from managed_identity"),
    ("postgresql", "PostgreSQL does not use HTTP", DATABASE),
    ("mysql", "MySQL does not use HTTP", DATABASE),
    (
        "amqp",
        "AMQP is not HTTP",
        "use the service's REST API with service_bus or event_hubs, or have the client request a token from managed_identity",
    ),
    (
        "kafka",
        "Kafka's protocol is not HTTP",
        "have its client request https://<namespace>.servicebus.windows.net from managed_identity",
    ),
];

const REGISTRY: &str = "use the kubelet's credential provider, or have the client request https://containerregistry.azure.net from managed_identity";
const DATABASE: &str = "have its client request https://ossrdbms-aad.database.windows.net from managed_identity";

/// The form in which a service expects the token in the `Authorization` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderForm {
    /// `Bearer` and the token (RFC 6750, section 2.1).
    Bearer,
    /// `type=aad&ver=1.0&sig=` and the token, all of it percent-encoded (learn.microsoft.com, "Access control in the Azure
    /// Cosmos DB SQL API").
    CosmosDb,
}

impl HeaderForm {
    fn parse(id: &str) -> Option<Self> {
        match id {
            "bearer" => Some(Self::Bearer),
            "cosmos_db" => Some(Self::CosmosDb),
            _ => None,
        }
    }

    /// The value of the header for this token.
    pub fn value(self, token: &AccessToken) -> String {
        match self {
            Self::Bearer => token.bearer().to_owned(),
            Self::CosmosDb => {
                let plain = format!("{COSMOS_DB}{}", token.expose());
                form_urlencoded::byte_serialize(plain.as_bytes()).collect()
            }
        }
    }

    /// Extracts the token from a header value of this form; `None` if the value has another form.
    pub(crate) fn token_in(self, value: &[u8]) -> Option<AccessToken> {
        let text = match self {
            Self::Bearer => str::from_utf8(value).ok()?.strip_prefix("Bearer ")?.to_owned(),
            Self::CosmosDb => {
                // The whole value parses as the key of one form parameter, which decodes it.
                let (plain, _) = form_urlencoded::parse(value).next()?;
                plain.strip_prefix(COSMOS_DB)?.to_owned()
            }
        };
        AccessToken::parse(&text)
    }
}

/// The text before the token in Cosmos DB's header.
const COSMOS_DB: &str = "type=aad&ver=1.0&sig=";

/// Where the clients of a service put their own credentials, in addition to `Authorization`: names separated by spaces;
/// the names of query parameters begin with `?`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CredentialPlaces(&'static str);

impl CredentialPlaces {
    /// The places for a host that is not of a known service: an API key and a shared access signature.
    pub const USUAL: Self = Self("api-key ?sig");

    /// Parses the field of a row.
    fn parse(text: &'static str) -> Self {
        Self(if text == "-" { "" } else { text })
    }

    /// The names of the headers, in lower case.
    pub fn headers(self) -> impl Iterator<Item = &'static str> {
        self.0.split(' ').filter(|name| !name.is_empty() && !name.starts_with('?'))
    }

    /// The names of the query parameters.
    pub fn parameters(self) -> impl Iterator<Item = &'static str> {
        self.0.split(' ').filter_map(|name| name.strip_prefix('?'))
    }
}

/// A service in one cloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    id: &'static str,
    /// The rule for resource names; `None` if the service has the same host for all customers.
    names: Option<NameRule>,
    header: HeaderForm,
    credentials: CredentialPlaces,
    /// The host patterns, separated by spaces.
    hosts: &'static str,
    /// The scope; `None` if each resource has its own, which the operator configures.
    scope: Option<&'static str>,
}

/// A host of a service, and the scope of the token for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The host in lower case, without a port.
    pub host: String,
    /// The scope, `<resource>/.default`; `None` if the operator configures it.
    pub scope: Option<String>,
}

/// The rule for the names of a service's resources: letters and digits, and what the row allows in addition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameRule {
    shortest: usize,
    longest: usize,
    /// Whether hyphens are allowed, except as the first or last character.
    hyphens: bool,
    single_hyphens: bool,
    letter_first: bool,
}

/// Why a service, or a resource name, has no host. `Display` continues a sentence that begins with the service or name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AzureMistake {
    /// No row has this service id. The value is a similar id, if there is one.
    UnknownService(Option<&'static str>),
    /// No row has this service id, and several ids end with it.
    SeveralServices(Vec<&'static str>),
    /// The service does not accept a token in an HTTP header: the reason and the remedy.
    NotByHeader(&'static str, &'static str),
    /// The service has no row for this cloud, or the authority belongs to a cloud without rows.
    NotInCloud(Option<Cloud>),
    /// The service has the same host for all customers, so it takes no names.
    TakesNoNames(&'static str),
    /// The service has a host for each resource, so it needs names.
    NeedsNames(&'static str),
    /// The value is a whole host. The name in it is given.
    HostInsteadOfName(String),
    /// The host also has a region, which is missing.
    NeedsRegion(&'static str),
    /// The value is not a valid name of such a resource.
    NoName(NameRule),
}

impl fmt::Display for AzureMistake {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownService(Some(near)) => {
                write!(formatter, "is not a known service: did you mean {near:?}?")
            }
            Self::SeveralServices(ids) => {
                write!(formatter, "is not a known service: did you mean {}?", ids.join(" or "))
            }
            Self::UnknownService(None) => formatter.write_str("is not a known service: use hosts and scope instead"),
            Self::NotByHeader(why, remedy) => write!(formatter, "cannot be a destination, because {why}: {remedy}"),
            Self::NotInCloud(Some(cloud)) => {
                write!(formatter, "is not listed for {cloud}, which the authority belongs to: use hosts and scope instead")
            }
            Self::NotInCloud(None) => formatter.write_str(
                "is listed for some of Azure's clouds, and the authority belongs to none of them: use hosts and scope instead",
            ),
            Self::TakesNoNames(host) => write!(formatter, "has the same host for all customers, {host}: remove names"),
            Self::NeedsNames(host) => {
                write!(formatter, "has a host for each resource, {host}: list your resources in names")
            }
            Self::HostInsteadOfName(name) => write!(formatter, "is a host: write only the name, {name:?}"),
            Self::NeedsRegion(host) => {
                write!(formatter, "has no region, which is part of the host {host}: write name.region")
            }
            Self::NoName(rule) => write!(formatter, "is not a valid resource name: expected {rule}"),
        }
    }
}

impl Service {
    /// Finds a service by its id, in the cloud of the authority.
    ///
    /// # Errors
    /// If the table has no row for it.
    pub fn find(id: &str, cloud: Option<Cloud>) -> Result<Self, AzureMistake> {
        if let Some((_, why, remedy)) = NOT_BY_HEADER.iter().find(|(other, ..)| *other == id) {
            return Err(AzureMistake::NotByHeader(why, remedy));
        }
        let mut known = false;
        for (place, service) in ROWS.iter().filter(|(_, service)| service.id == id) {
            if Some(*place) == cloud {
                return Ok(*service);
            }
            known = true;
        }
        Err(if known { AzureMistake::NotInCloud(cloud) } else { unknown(id) })
    }

    /// Whether the service has a host for each resource, so that the configuration must name resources.
    pub const fn takes_names(&self) -> bool {
        self.names.is_some()
    }

    /// The form of the token in the header.
    pub const fn header(&self) -> HeaderForm {
        self.header
    }

    /// Where the clients of the service put their own credentials.
    pub const fn credentials(&self) -> CredentialPlaces {
        self.credentials
    }

    /// Whether the row has the scope. If not, the operator configures it.
    pub const fn has_scope(&self) -> bool {
        self.scope.is_some()
    }

    /// The hosts of a service that has the same hosts for all customers.
    ///
    /// # Errors
    /// If the service has a host for each resource.
    pub fn endpoints(&self) -> Result<Vec<Endpoint>, AzureMistake> {
        if self.takes_names() {
            return Err(AzureMistake::NeedsNames(self.hosts));
        }
        let endpoint = |host: &str| Endpoint { host: host.to_owned(), scope: self.scope.map(str::to_owned) };
        Ok(self.patterns().map(endpoint).collect())
    }

    /// The host of a resource. Case is ignored; the form is `name.region` if the host contains the region.
    ///
    /// # Errors
    /// If the name is not valid for the service.
    pub fn endpoint(&self, name: &str) -> Result<Endpoint, AzureMistake> {
        let Some(rule) = self.names else { return Err(AzureMistake::TakesNoNames(self.hosts)) };
        let written = name.to_ascii_lowercase();
        if let Some(name) = self.patterns().find_map(|pattern| name_in(pattern, &written)) {
            return Err(AzureMistake::HostInsteadOfName(name));
        }
        let (name, region) = match written.split_once('.') {
            Some((name, region)) => (name, Some(region)),
            None => (written.as_str(), None),
        };
        if !rule.takes(name) || region.is_some_and(|region| !NameRule::LABEL.takes(region)) {
            return Err(AzureMistake::NoName(rule));
        }
        let pattern =
            self.patterns().find(|pattern| pattern.split('.').any(|label| label == REGION) == region.is_some());
        let pattern = pattern.ok_or(match region {
            Some(_) => AzureMistake::NoName(rule),
            None => AzureMistake::NeedsRegion(self.hosts),
        })?;
        let labels = pattern.split('.').map(|label| match label {
            NAME => name,
            REGION => region.unwrap_or_default(),
            fixed => fixed,
        });
        let host = labels.collect::<Vec<_>>().join(".");
        let scope = self.scope.map(|scope| match scope {
            OF_THE_HOST => format!("https://{host}/.default"),
            fixed => fixed.to_owned(),
        });
        Ok(Endpoint { host, scope })
    }

    fn patterns(&self) -> std::str::Split<'static, char> {
        self.hosts.split(' ')
    }
}

/// The ids of all services, in the order of the table. Services that do not accept a token in an HTTP header are not among them.
pub(crate) fn service_ids() -> Vec<&'static str> {
    let mut ids: Vec<&'static str> = ROWS.iter().map(|(_, service)| service.id).collect();
    ids.dedup();
    ids
}

/// The ids of the services for which the operator configures the scope, in some cloud.
pub(crate) fn ids_without_scope() -> Vec<&'static str> {
    let rows = ROWS.iter().filter(|(_, service)| !service.has_scope());
    let mut ids: Vec<&'static str> = rows.map(|(_, service)| service.id).collect();
    ids.dedup();
    ids
}

/// The mistake that no row has this service id, with suggestions.
fn unknown(id: &str) -> AzureMistake {
    let ids = service_ids();
    let id = id.to_ascii_lowercase();
    let ending: Vec<&'static str> =
        ids.iter().copied().filter(|other| other.strip_suffix(&*id).is_some_and(|rest| rest.ends_with('_'))).collect();
    match nearest(&id, &ids) {
        Some(near) => AzureMistake::UnknownService(Some(near)),
        None if ending.is_empty() => AzureMistake::UnknownService(None),
        None => AzureMistake::SeveralServices(ending),
    }
}

/// The host suffixes of services that have a host for each resource. All customers share them.
pub(crate) fn shared_suffixes() -> impl Iterator<Item = &'static str> {
    let named = ROWS.iter().filter(|(_, service)| service.takes_names());
    // A dot follows the last placeholder.
    named
        .flat_map(|(_, service)| service.patterns())
        .filter_map(|pattern| pattern.rsplit_once('}')?.1.strip_prefix('.'))
}

/// Services with an OData API (OASIS, "OData Version 4.01. Part 2: URL Conventions"). A resource has several paths there,
/// and the paths of a batch are in its body, so path rules do not restrict access.
const ODATA: [&str; 4] = ["microsoft_graph", "microsoft_graph_dod", "search", "table_storage"];

/// The host suffix of Dataverse, which also has an OData API. It has no row, because its scope is its host.
const DATAVERSE: &str = ".dynamics.com";

/// Whether a host, in lower case, has an OData API.
pub(crate) fn speaks_odata(host: &str) -> bool {
    let rows = ROWS.iter().filter(|(_, service)| ODATA.contains(&service.id));
    host.ends_with(DATAVERSE) || rows.flat_map(|(_, service)| service.patterns()).any(|it| labels_match(it, host))
}

/// The values of the placeholders in this host, separated by dots; `None` if the host does not match the pattern.
fn name_in(pattern: &str, host: &str) -> Option<String> {
    let labels = pattern.split('.').zip(host.split('.'));
    let names: Vec<&str> = labels.filter(|(expected, _)| expected.starts_with('{')).map(|(_, label)| label).collect();
    labels_match(pattern, host).then(|| names.join("."))
}

/// Whether each label of the host equals that of the pattern. A placeholder matches any one label.
fn labels_match(pattern: &str, host: &str) -> bool {
    let mut labels = host.split('.');
    let matches = pattern
        .split('.')
        .all(|expected| labels.next().is_some_and(|label| expected.starts_with('{') || expected == label));
    matches && labels.next().is_none()
}

/// The rows of the table: each service with each cloud that it is listed for.
static ROWS: LazyLock<Vec<(Cloud, Service)>> = LazyLock::new(read_rows);

fn read_rows() -> Vec<(Cloud, Service)> {
    let mut rows = Vec::new();
    let mut service = None;
    for line in TABLE.lines() {
        let fields: Vec<&'static str> = line.split('\t').collect();
        match (fields.as_slice(), service) {
            (["", cloud, hosts, scope], Some((id, names, header, credentials))) => {
                let cloud = Cloud::ALL.into_iter().find(|known| known.as_str() == *cloud);
                let scope = Some(*scope).filter(|scope| *scope != "-");
                let service = Service { id, names, header, credentials, hosts, scope };
                rows.extend(cloud.map(|cloud| (cloud, service)));
            }
            ([id, names, header, credentials], _) => {
                let credentials = CredentialPlaces::parse(credentials);
                service = HeaderForm::parse(header).map(|header| (*id, NameRule::parse(names), header, credentials));
            }
            _ => {}
        }
    }
    rows
}

impl NameRule {
    /// The rule for any label of a host name (RFC 1123, section 2.1).
    const LABEL: Self = Self { shortest: 1, longest: 63, hyphens: true, single_hyphens: false, letter_first: false };

    /// Parses the field of a row, such as `3-24 hyphens letter_first`.
    fn parse(text: &str) -> Option<Self> {
        let mut ids = text.split(' ');
        let (shortest, longest) = ids.next()?.split_once('-')?;
        let mut rule = Self {
            shortest: shortest.parse().ok()?,
            longest: longest.parse().ok()?,
            hyphens: false,
            single_hyphens: false,
            letter_first: false,
        };
        for id in ids {
            match id {
                "hyphens" => rule.hyphens = true,
                "single_hyphens" => rule.single_hyphens = true,
                "letter_first" => rule.letter_first = true,
                _ => return None,
            }
        }
        Some(rule)
    }

    /// Whether a name in lower case follows the rule.
    fn takes(&self, name: &str) -> bool {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        (self.shortest..=self.longest).contains(&name.len())
            && name.bytes().all(|byte| plain(byte) || (self.hyphens && byte == b'-'))
            && !name.starts_with('-')
            && !name.ends_with('-')
            && !(self.single_hyphens && name.as_bytes().windows(2).any(|pair| pair == b"--"))
            && !(self.letter_first && name.starts_with(|first: char| first.is_ascii_digit()))
    }
}

impl fmt::Display for NameRule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = match (self.hyphens, self.single_hyphens) {
            (false, _) => "letters and digits",
            (true, false) => "letters, digits and, between them, hyphens",
            (true, true) => "letters, digits and, between them, single hyphens",
        };
        let first = if self.letter_first { ", starting with a letter" } else { "" };
        write!(formatter, "{} to {} {kinds}{first}", self.shortest, self.longest)
    }
}
