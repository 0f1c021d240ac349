//! Azure's services by name: which host, scope and header belong to a resource of the operator's own.
//!
//! The rows stand in `data/azure-services.tsv`, each with the page that it is from; `build.rs` leaves those out. A row gives exact hosts for names that
//! the operator wrote, never a suffix: under most of them anyone can register.

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::LazyLock;

use crate::entra::{AccessToken, Cloud};
use crate::spelling::nearest;

const TABLE: &str = include_str!(concat!(env!("OUT_DIR"), "/azure-services.tsv"));

/// What stands in a host for the operator's own resource, and for what Azure puts behind it.
const NAME: &str = "{name}";
const REGION: &str = "{region}";

/// The scope of a service whose every host is a resource of its own.
const OF_THE_HOST: &str = "https://{host}/.default";

/// Services that an operator may look for in vain: why a token in a header does not help, and what does.
const NOT_BY_HEADER: &[(&str, &str, &str)] = &[
    (
        "container_registry",
        "a registry takes no Entra token: it has an exchange of its own, answered to a challenge",
        REGISTRY,
    ),
    ("sql", "SQL does not speak HTTP", "let its client ask managed_identity for https://database.windows.net/"),
    ("postgresql", "PostgreSQL does not speak HTTP", DATABASE),
    ("mysql", "MySQL does not speak HTTP", DATABASE),
    (
        "amqp",
        "AMQP is not HTTP",
        "use the service's REST API with service_bus or event_hubs, or let the client ask managed_identity",
    ),
    (
        "kafka",
        "Kafka's protocol is not HTTP",
        "let its client ask managed_identity for https://<namespace>.servicebus.windows.net",
    ),
];

const REGISTRY: &str = "use the kubelet's credential provider, or let the client ask managed_identity for https://containerregistry.azure.net";
const DATABASE: &str = "let its client ask managed_identity for https://ossrdbms-aad.database.windows.net";

/// How a service wants the token in its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderForm {
    /// `Bearer` and the token (RFC 6750, section 2.1).
    Bearer,
    /// `type=aad&ver=1.0&sig=` and the token, all of it percent-encoded (learn.microsoft.com, "Access control in the Azure
    /// Cosmos DB SQL API").
    CosmosDb,
}

impl HeaderForm {
    fn parse(word: &str) -> Option<Self> {
        match word {
            "bearer" => Some(Self::Bearer),
            "cosmos_db" => Some(Self::CosmosDb),
            _ => None,
        }
    }

    /// The header's value.
    pub fn value(self, token: &AccessToken) -> String {
        match self {
            Self::Bearer => format!("Bearer {}", token.expose()),
            Self::CosmosDb => {
                let plain = format!("{COSMOS_DB}{}", token.expose());
                form_urlencoded::byte_serialize(plain.as_bytes()).collect()
            }
        }
    }

    /// The token in a header's value of this form.
    pub(crate) fn token_in(self, value: &[u8]) -> Option<AccessToken> {
        let text = match self {
            Self::Bearer => str::from_utf8(value).ok()?.strip_prefix("Bearer ")?.to_owned(),
            Self::CosmosDb => {
                // A key without a value: the whole of it is decoded.
                let (plain, _) = form_urlencoded::parse(value).next()?;
                plain.strip_prefix(COSMOS_DB)?.to_owned()
            }
        };
        AccessToken::parse(&text)
    }
}

/// What precedes the token in Cosmos DB's header.
const COSMOS_DB: &str = "type=aad&ver=1.0&sig=";

/// Where the clients of a service put credentials of their own, beside `Authorization`: names divided by spaces, those of parameters
/// in the query behind a `?`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CredentialPlaces(&'static str);

impl CredentialPlaces {
    /// Where they may be on a host of which no service is known: an API key, or a shared access signature.
    pub const USUAL: Self = Self("api-key ?sig");

    /// Reads the field of a row.
    fn parse(text: &'static str) -> Self {
        Self(if text == "-" { "" } else { text })
    }

    /// The headers, in lower case.
    pub fn headers(self) -> impl Iterator<Item = &'static str> {
        self.0.split(' ').filter(|name| !name.is_empty() && !name.starts_with('?'))
    }

    /// The parameters of the query.
    pub fn parameters(self) -> impl Iterator<Item = &'static str> {
        self.0.split(' ').filter_map(|name| name.strip_prefix('?'))
    }
}

/// A service in one cloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    word: &'static str,
    /// `None` where the host is the same for everybody.
    names: Option<NameRule>,
    header: HeaderForm,
    credentials: CredentialPlaces,
    /// Separated by spaces.
    hosts: &'static str,
    /// `None` where each resource has its own, which the operator knows.
    scope: Option<&'static str>,
}

/// Where requests go that get a token, and the scope of the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// In lower case, without a port.
    pub host: String,
    /// The resource and `/.default`; `None` where the operator writes it.
    pub scope: Option<String>,
}

/// What may be the name of a resource: letters and digits, and what the row allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameRule {
    shortest: usize,
    longest: usize,
    /// Inside, not at the ends.
    hyphens: bool,
    single_hyphens: bool,
    letter_first: bool,
}

/// Why a service, or a name in it, stands for no host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AzureMistake {
    /// There is no row for the word; perhaps this one was meant.
    UnknownService(Option<&'static str>),
    /// There are several rows whose words end in this one.
    SeveralServices(Vec<&'static str>),
    /// A token in a header is of no use there: why, and what to do.
    NotByHeader(&'static str, &'static str),
    /// There is no row for this cloud, or the authority is of none that has rows.
    NotInCloud(Option<Cloud>),
    /// The service has one host for everybody.
    TakesNoNames(&'static str),
    /// The service has a host for each resource.
    NeedsNames(&'static str),
    /// The whole host was written; this is its name.
    HostInsteadOfName(String),
    /// Azure puts the region between name and suffix.
    NeedsRegion(&'static str),
    /// It cannot be the name of such a resource; this could.
    NoName(NameRule),
}

impl fmt::Display for AzureMistake {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownService(Some(near)) => {
                write!(formatter, "is no service with a row here: did you mean {near:?}?")
            }
            Self::SeveralServices(words) => {
                write!(formatter, "is no service with a row here: did you mean {}?", words.join(" or "))
            }
            Self::UnknownService(None) => formatter.write_str("is no service with a row here: write hosts and scope"),
            Self::NotByHeader(why, remedy) => write!(formatter, "cannot be a destination, for {why}: {remedy}"),
            Self::NotInCloud(Some(cloud)) => {
                write!(formatter, "has no row for {cloud}, whose authority this is: write hosts and scope")
            }
            Self::NotInCloud(None) => formatter.write_str(
                "has rows for the public cloud, the US Government cloud and the cloud in China, and the authority is of none of \
                 them: write hosts and scope",
            ),
            Self::TakesNoNames(host) => write!(formatter, "has one host for everybody, {host}: leave names out"),
            Self::NeedsNames(host) => {
                write!(formatter, "has a host for each resource, {host}: write the names of your own into names")
            }
            Self::HostInsteadOfName(name) => write!(formatter, "is a host: write its name alone, {name:?}"),
            Self::NeedsRegion(host) => {
                write!(formatter, "lacks a part of the host {host}: write name and region with a dot between")
            }
            Self::NoName(rule) => write!(formatter, "is no name of such a resource: write {rule}"),
        }
    }
}

impl Service {
    /// The service of this word in this cloud.
    ///
    /// # Errors
    /// When there is no row for it.
    pub fn find(word: &str, cloud: Option<Cloud>) -> Result<Self, AzureMistake> {
        if let Some((_, why, remedy)) = NOT_BY_HEADER.iter().find(|(other, ..)| *other == word) {
            return Err(AzureMistake::NotByHeader(why, remedy));
        }
        let mut known = false;
        for (place, service) in ROWS.iter().filter(|(_, service)| service.word == word) {
            if Some(*place) == cloud {
                return Ok(*service);
            }
            known = true;
        }
        Err(if known { AzureMistake::NotInCloud(cloud) } else { unknown(word) })
    }

    /// Whether the operator writes names of resources.
    pub const fn takes_names(&self) -> bool {
        self.names.is_some()
    }

    /// How the token stands in the header.
    pub const fn header(&self) -> HeaderForm {
        self.header
    }

    /// Where its clients put credentials of their own.
    pub const fn credentials(&self) -> CredentialPlaces {
        self.credentials
    }

    /// Whether the row knows the scope; else the operator writes it.
    pub const fn has_scope(&self) -> bool {
        self.scope.is_some()
    }

    /// The hosts of a service that has the same for everybody.
    ///
    /// # Errors
    /// When it has a host for each resource.
    pub fn endpoints(&self) -> Result<Vec<Endpoint>, AzureMistake> {
        if self.takes_names() {
            return Err(AzureMistake::NeedsNames(self.hosts));
        }
        let endpoint = |host: &str| Endpoint { host: host.to_owned(), scope: self.scope.map(str::to_owned) };
        Ok(self.patterns().map(endpoint).collect())
    }

    /// The host of a resource. The name may be in any case; where Azure puts the region into the host, it is `name.region`.
    ///
    /// # Errors
    /// When it can be no name of such a resource.
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

/// What to say of a word that no row has.
fn unknown(word: &str) -> AzureMistake {
    let mut words: Vec<&'static str> = ROWS.iter().map(|(_, service)| service.word).collect();
    words.dedup();
    let word = word.to_ascii_lowercase();
    let ending: Vec<&'static str> = words
        .iter()
        .copied()
        .filter(|other| other.strip_suffix(&*word).is_some_and(|rest| rest.ends_with('_')))
        .collect();
    match nearest(&word, &words) {
        Some(near) => AzureMistake::UnknownService(Some(near)),
        None if ending.is_empty() => AzureMistake::UnknownService(None),
        None => AzureMistake::SeveralServices(ending),
    }
}

/// The suffixes under which everybody has the names of these services' resources.
pub(crate) fn shared_suffixes() -> impl Iterator<Item = &'static str> {
    let named = ROWS.iter().filter(|(_, service)| service.takes_names());
    // A dot is behind the last placeholder.
    named
        .flat_map(|(_, service)| service.patterns())
        .filter_map(|pattern| pattern.rsplit_once('}')?.1.strip_prefix('.'))
}

/// Services that speak OData (OASIS, "OData Version 4.01. Part 2: URL Conventions"): one resource has many paths there, and a batch
/// has the paths in its body.
const ODATA: [&str; 4] = ["microsoft_graph", "microsoft_graph_dod", "search", "table_storage"];

/// The suffix of Dataverse, which speaks OData too and has no row: its scope is its host.
const DATAVERSE: &str = ".dynamics.com";

/// Whether OData is spoken at a host, in lower case.
pub(crate) fn speaks_odata(host: &str) -> bool {
    let of_a_row = ROWS.iter().filter(|(_, service)| ODATA.contains(&service.word));
    host.ends_with(DATAVERSE) || of_a_row.flat_map(|(_, service)| service.patterns()).any(|it| labels_fit(it, host))
}

/// What the placeholders stand for in this host, with a dot between.
fn name_in(pattern: &str, host: &str) -> Option<String> {
    let labels = pattern.split('.').zip(host.split('.'));
    let names: Vec<&str> = labels.filter(|(wanted, _)| wanted.starts_with('{')).map(|(_, label)| label).collect();
    labels_fit(pattern, host).then(|| names.join("."))
}

/// Label by label; a placeholder stands for any one.
fn labels_fit(pattern: &str, host: &str) -> bool {
    let mut labels = host.split('.');
    let fit =
        pattern.split('.').all(|wanted| labels.next().is_some_and(|label| wanted.starts_with('{') || wanted == label));
    fit && labels.next().is_none()
}

/// Every service in every cloud that it has a row for.
static ROWS: LazyLock<Vec<(Cloud, Service)>> = LazyLock::new(read_rows);

fn read_rows() -> Vec<(Cloud, Service)> {
    let mut rows = Vec::new();
    let mut service = None;
    for line in TABLE.lines() {
        let fields: Vec<&'static str> = line.split('\t').collect();
        match (fields.as_slice(), service) {
            (["", cloud, hosts, scope], Some((word, names, header, credentials))) => {
                let cloud = Cloud::ALL.into_iter().find(|known| known.word() == *cloud);
                let scope = Some(*scope).filter(|scope| *scope != "-");
                let service = Service { word, names, header, credentials, hosts, scope };
                rows.extend(cloud.map(|cloud| (cloud, service)));
            }
            ([word, names, header, credentials], _) => {
                let credentials = CredentialPlaces::parse(credentials);
                service = HeaderForm::parse(header).map(|header| (*word, NameRule::parse(names), header, credentials));
            }
            _ => {}
        }
    }
    rows
}

impl NameRule {
    /// What any label of a host may be.
    const LABEL: Self = Self { shortest: 1, longest: 63, hyphens: true, single_hyphens: false, letter_first: false };

    /// Reads `3-24 hyphens letter_first`.
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let (shortest, longest) = words.next()?.split_once('-')?;
        let mut rule = Self {
            shortest: shortest.parse().ok()?,
            longest: longest.parse().ok()?,
            hyphens: false,
            single_hyphens: false,
            letter_first: false,
        };
        for word in words {
            match word {
                "hyphens" => rule.hyphens = true,
                "single_hyphens" => rule.single_hyphens = true,
                "letter_first" => rule.letter_first = true,
                _ => return None,
            }
        }
        Some(rule)
    }

    /// Whether this is a name, in lower case.
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
            (true, false) => "letters, digits and, inside, hyphens",
            (true, true) => "letters, digits and, inside, single hyphens",
        };
        let first = if self.letter_first { ", a letter first" } else { "" };
        write!(formatter, "{} to {} {kinds}{first}", self.shortest, self.longest)
    }
}
