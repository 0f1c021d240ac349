//! Azure's services by name: which host, scope and header belong to a resource of the operator's own.
//!
//! The rows stand in `data/azure-services.tsv`, each with the page that it is from; `build.rs` leaves those out. A row gives exact hosts for names that
//! the operator wrote, never a suffix: under most of them anyone can register.

use std::fmt;

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
                let plain = format!("type=aad&ver=1.0&sig={}", token.expose());
                form_urlencoded::byte_serialize(plain.as_bytes()).collect()
            }
        }
    }
}

/// A service in one cloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    word: &'static str,
    /// `None` where the host is the same for everybody.
    names: Option<NameRule>,
    header: HeaderForm,
    /// Separated by spaces.
    hosts: &'static str,
    scope: &'static str,
}

/// Where requests go that get a token, and the scope of the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// In lower case, without a port.
    pub host: String,
    /// The resource and `/.default`.
    pub scope: String,
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
        let rows = rows();
        for (place, service) in rows.iter().filter(|(_, service)| service.word == word) {
            if Some(*place) == cloud {
                return Ok(*service);
            }
            known = true;
        }
        Err(if known {
            AzureMistake::NotInCloud(cloud)
        } else {
            AzureMistake::UnknownService(nearest(
                word,
                &rows.iter().map(|(_, service)| service.word).collect::<Vec<_>>(),
            ))
        })
    }

    /// Whether the operator writes names of resources.
    pub const fn takes_names(&self) -> bool {
        self.names.is_some()
    }

    /// How the token stands in the header.
    pub const fn header(&self) -> HeaderForm {
        self.header
    }

    /// The hosts of a service that has the same for everybody.
    ///
    /// # Errors
    /// When it has a host for each resource.
    pub fn endpoints(&self) -> Result<Vec<Endpoint>, AzureMistake> {
        if self.takes_names() {
            return Err(AzureMistake::NeedsNames(self.hosts));
        }
        let endpoint = |host: &str| Endpoint { host: host.to_owned(), scope: self.scope.to_owned() };
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
        let scope = if self.scope == OF_THE_HOST { format!("https://{host}/.default") } else { self.scope.to_owned() };
        Ok(Endpoint { host, scope })
    }

    fn patterns(&self) -> std::str::Split<'static, char> {
        self.hosts.split(' ')
    }
}

/// The suffixes under which everybody has the names of these services' resources.
pub(crate) fn shared_suffixes() -> impl Iterator<Item = &'static str> {
    let named = rows().into_iter().filter(|(_, service)| service.takes_names());
    // A dot is behind the last placeholder.
    named
        .flat_map(|(_, service)| service.patterns())
        .filter_map(|pattern| pattern.rsplit_once('}')?.1.strip_prefix('.'))
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
fn rows() -> Vec<(Cloud, Service)> {
    let mut rows = Vec::new();
    let mut service = None;
    for line in TABLE.lines() {
        let fields: Vec<&'static str> = line.split('\t').collect();
        match (fields.as_slice(), service) {
            (["", cloud, hosts, scope], Some((word, names, header))) => {
                let cloud = Cloud::ALL.into_iter().find(|known| known.word() == *cloud);
                rows.extend(cloud.map(|cloud| (cloud, Service { word, names, header, hosts, scope })));
            }
            ([word, names, header], _) => {
                service = HeaderForm::parse(header).map(|header| (*word, NameRule::parse(names), header));
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

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::host::Host;

    /// With the pages.
    const WHOLE: &str = include_str!("../data/azure-services.tsv");

    /// A name that the service takes.
    fn sample(service: &Service) -> String {
        let name = if service.names.is_some_and(|rule| rule.hyphens) { "payments-kv" } else { "paymentskv" };
        let with_region = service.patterns().all(|host| host.contains("{region}"));
        if with_region { format!("{name}.westeurope-1") } else { name.to_owned() }
    }

    fn endpoints(service: &Service) -> Vec<Endpoint> {
        match service.takes_names() {
            true => vec![service.endpoint(&sample(service)).unwrap()],
            false => service.endpoints().unwrap(),
        }
    }

    fn find(word: &str, cloud: Cloud) -> Service {
        Service::find(word, Some(cloud)).unwrap_or_else(|mistake| panic!("{word:?} {mistake}"))
    }

    fn said(word: &str, cloud: Cloud, name: &str) -> String {
        match Service::find(word, Some(cloud)).and_then(|service| service.endpoint(name)) {
            Ok(Endpoint { host, scope }) => format!("{host} {scope}"),
            Err(mistake) => mistake.to_string(),
        }
    }

    #[test]
    fn every_line_of_the_table_is_well_formed_and_says_what_page_it_is_from() {
        let pages: BTreeMap<&str, &str> =
            WHOLE.lines().filter_map(|line| line.strip_prefix('@')?.split_once('\t')).collect();
        let publishers = ["learn.microsoft.com/", "docs.azure.cn/", "github.com/Azure/", "github.com/databricks/"];
        assert!(pages.values().all(|page| publishers.iter().any(|publisher| page.starts_with(publisher))));

        let mut used: BTreeSet<&str> = BTreeSet::new();
        let (mut words, mut lines) = (BTreeSet::new(), 0);
        for line in WHOLE.lines().filter(|line| !line.is_empty() && !line.starts_with(['#', '@'])) {
            match line.split('\t').collect::<Vec<_>>().as_slice() {
                ["", cloud, hosts, scope] => {
                    assert!(Cloud::ALL.iter().any(|known| known.word() == *cloud), "{line}");
                    assert!(!hosts.is_empty() && scope.ends_with("/.default"), "{line}");
                    lines += 1;
                }
                [word, names, header, from] => {
                    assert!(word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{line}");
                    assert!(words.insert(*word), "{word} stands twice");
                    assert!(*names == "-" || NameRule::parse(names).is_some(), "{line}");
                    assert!(HeaderForm::parse(header).is_some(), "{line}");
                    used.extend(from.split(' '));
                }
                _ => panic!("{line}"),
            }
        }
        assert_eq!(used, pages.keys().copied().collect(), "each page is used, and each one used is there");
        assert_eq!(rows().len(), lines);
        assert!(words.iter().all(|word| NOT_BY_HEADER.iter().all(|(other, ..)| other != word)));
    }

    #[test]
    fn every_row_gives_hosts_and_a_scope_and_stands_once() {
        let mut found = BTreeSet::new();
        for (cloud, service) in rows() {
            let word = service.word;
            assert!(found.insert((word, cloud.word())), "{word} stands twice in {cloud}");
            assert_eq!(find(word, cloud), service);
            for pattern in service.patterns() {
                assert_eq!(pattern.starts_with("{name}."), service.takes_names(), "{pattern}");
                assert!(
                    !pattern.replacen("{name}.", "", 1).replacen("{region}.", "", 1).contains(['{', '}', '*', ':'])
                );
            }
            for Endpoint { host, scope } in endpoints(&service) {
                let parsed = Host::parse(host.as_bytes()).unwrap();
                assert!(parsed.name == host && parsed.port.is_none() && host.matches('.').count() >= 2, "{host}");
                let resource = scope.strip_suffix("/.default").unwrap();
                let plain = !resource.contains(['{', '}', ' ']) && !resource.ends_with("/.default");
                assert!(plain && (resource.starts_with("https://") || crate::entra::is_guid(resource)), "{scope}");
            }
        }
    }

    #[test]
    fn no_row_knows_a_look_alike() {
        for (cloud, service) in rows() {
            for Endpoint { host, .. } in endpoints(&service) {
                let name = sample(&service);
                for other in [
                    format!("{host}.evil.example"),
                    format!("evil{host}"),
                    format!("evil.{host}"),
                    format!("{host}@evil.example"),
                    format!("{name}.evil.example"),
                    format!("{name}.evil.example/"),
                    format!("{name}.evil.example#"),
                    format!("{name}%2eevil"),
                    format!("{name}:443"),
                    format!("*.{name}"),
                    format!("{name}."),
                    format!(".{name}"),
                    format!("-{name}"),
                    format!("{name}-"),
                    format!("{name} "),
                    format!("{name}\0"),
                    format!("b\u{fc}{name}"),
                    "{name}".to_owned(),
                    "*".to_owned(),
                    String::new(),
                    "x".repeat(64),
                ] {
                    assert!(service.endpoint(&other).is_err(), "{} in {cloud} takes {other:?}", service.word);
                }
                // A host of one row is no host of another name in it.
                if service.takes_names() {
                    assert_eq!(service.patterns().filter_map(|pattern| name_in(pattern, &host)).count(), 1, "{host}");
                    assert_eq!(name_in(service.hosts, &format!("{host}.evil.example")), None);
                    assert_eq!(name_in(service.hosts, &format!("evil.{host}")), None);
                }
            }
        }
    }

    #[test]
    fn a_name_of_our_own_becomes_a_host_in_the_cloud_of_the_authority() {
        use Cloud::{China, Public, UsGovernment};
        for (word, cloud, name, expected) in [
            ("key_vault", Public, "payments-kv", "payments-kv.vault.azure.net https://vault.azure.net/.default"),
            ("key_vault", Public, "Payments-KV", "payments-kv.vault.azure.net https://vault.azure.net/.default"),
            (
                "key_vault",
                UsGovernment,
                "agency-kv",
                "agency-kv.vault.usgovcloudapi.net https://vault.usgovcloudapi.net/.default",
            ),
            ("key_vault", China, "kv1", "kv1.vault.azure.cn https://vault.azure.cn/.default"),
            (
                "blob_storage",
                Public,
                "paymentsdata",
                "paymentsdata.blob.core.windows.net https://storage.azure.com/.default",
            ),
            (
                "azure_openai",
                Public,
                "contoso-eu",
                "contoso-eu.openai.azure.com https://cognitiveservices.azure.com/.default",
            ),
            (
                "data_explorer",
                Public,
                "help.westeurope",
                "help.westeurope.kusto.windows.net https://help.westeurope.kusto.windows.net/.default",
            ),
            (
                "monitor_ingestion",
                Public,
                "dce-a1b2.eastus-1",
                "dce-a1b2.eastus-1.ingest.monitor.azure.com https://monitor.azure.com//.default",
            ),
            (
                "digital_twins",
                Public,
                "plant.weu",
                "plant.api.weu.digitaltwins.azure.net https://digitaltwins.azure.net/.default",
            ),
            (
                "communication",
                Public,
                "contoso",
                "contoso.communication.azure.com https://communication.azure.com//.default",
            ),
            (
                "communication",
                Public,
                "contoso.europe",
                "contoso.europe.communication.azure.com https://communication.azure.com//.default",
            ),
            (
                "databricks",
                Public,
                "adb-1234567890123456.7",
                "adb-1234567890123456.7.azuredatabricks.net 2ff814a6-3304-4ab8-85cb-cd0e6f879c1d/.default",
            ),
        ] {
            assert_eq!(said(word, cloud, name), expected);
        }
        let graph = find("microsoft_graph", UsGovernment).endpoints().unwrap();
        assert_eq!(
            graph,
            [Endpoint { host: "graph.microsoft.us".into(), scope: "https://graph.microsoft.us/.default".into() }]
        );
    }

    #[test]
    fn a_mistake_says_what_would_be_right() {
        use Cloud::{China, Public};
        for (word, cloud, name, expected) in [
            ("key_valt", Public, "kv1", "is no service with a row here: did you mean \"key_vault\"?"),
            ("toaster", Public, "kv1", "is no service with a row here: write hosts and scope"),
            (
                "azure_openai",
                China,
                "x1",
                "has no row for the cloud in China, whose authority this is: write hosts and scope",
            ),
            ("key_vault", Public, "payments-kv.vault.azure.net", "is a host: write its name alone, \"payments-kv\""),
            (
                "data_explorer",
                Public,
                "help.westeurope.kusto.windows.net",
                "is a host: write its name alone, \"help.westeurope\"",
            ),
            (
                "data_explorer",
                Public,
                "help",
                "lacks a part of the host {name}.{region}.kusto.windows.net: write name and region with a dot between",
            ),
            (
                "key_vault",
                Public,
                "kv",
                "is no name of such a resource: write 3 to 24 letters, digits and, inside, single hyphens, a letter first",
            ),
            (
                "key_vault",
                Public,
                "a--kv",
                "is no name of such a resource: write 3 to 24 letters, digits and, inside, single hyphens, a letter first",
            ),
            (
                "key_vault",
                Public,
                "1kv",
                "is no name of such a resource: write 3 to 24 letters, digits and, inside, single hyphens, a letter first",
            ),
            (
                "key_vault",
                Public,
                "kv1.westeurope",
                "is no name of such a resource: write 3 to 24 letters, digits and, inside, single hyphens, a letter first",
            ),
            (
                "blob_storage",
                Public,
                "payments-data",
                "is no name of such a resource: write 3 to 24 letters and digits",
            ),
            ("microsoft_graph", Public, "x", "has one host for everybody, graph.microsoft.com: leave names out"),
        ] {
            assert_eq!(said(word, cloud, name), expected);
        }
        assert_eq!(Service::find("key_vault", None).unwrap_err(), AzureMistake::NotInCloud(None));
        assert_eq!(
            find("key_vault", Public).endpoints().unwrap_err().to_string(),
            "has a host for each resource, {name}.vault.azure.net: write the names of your own into names"
        );
    }

    #[test]
    fn what_cannot_work_says_why_and_what_to_do() {
        for (word, why, remedy) in NOT_BY_HEADER {
            let mistake = Service::find(word, Some(Cloud::Public)).unwrap_err();
            assert_eq!(mistake, AzureMistake::NotByHeader(why, remedy));
            assert!(mistake.to_string().starts_with("cannot be a destination, for "), "{mistake}");
        }
        assert!(said("container_registry", Cloud::China, "r").contains("https://containerregistry.azure.net"));
    }

    #[test]
    fn the_documentation_has_every_row() {
        let documented = include_str!("../../../docs/azure-services.md");
        let mut clouds: BTreeMap<&str, Vec<Cloud>> = BTreeMap::new();
        for (cloud, service) in rows() {
            clouds.entry(service.word).or_default().push(cloud);
        }
        for (word, clouds) in clouds {
            let (first, names) = (clouds[0], clouds.iter().map(|cloud| cloud.word().replace('_', " ").to_lowercase()));
            let hosts: Vec<String> = find(word, first).patterns().map(|host| format!("`{host}`")).collect();
            let row = format!("| `{word}` | {} | {} |", hosts.join(" or "), names.collect::<Vec<_>>().join(", "));
            assert!(documented.to_lowercase().contains(&row), "{row}");
        }
        assert!(NOT_BY_HEADER.iter().all(|(word, ..)| documented.contains(&format!("`{word}`"))));
    }

    #[test]
    fn a_suffix_is_what_the_placeholders_leave_of_a_host() {
        let suffixes: BTreeSet<&str> = shared_suffixes().collect();
        for suffix in ["vault.azure.net", "kusto.windows.net", "digitaltwins.azure.net", "communication.azure.com"] {
            assert!(suffixes.contains(suffix), "{suffix}");
        }
        assert!(suffixes.iter().all(|suffix| !suffix.contains(['{', '}']) && suffix.contains('.')));
    }

    #[test]
    fn cosmos_db_has_a_header_form_of_its_own() {
        let token = AccessToken::parse("eyJ0.a-b_c~d+e/f=").unwrap();
        assert_eq!(find("key_vault", Cloud::Public).header().value(&token), "Bearer eyJ0.a-b_c~d+e/f=");
        let header = find("cosmos_db", Cloud::Public).header();
        assert_eq!(header.value(&token), "type%3Daad%26ver%3D1.0%26sig%3DeyJ0.a-b_c%7Ed%2Be%2Ff%3D");
        assert!(rows().iter().all(|(_, other)| (other.header == HeaderForm::CosmosDb) == (other.word == "cosmos_db")));
    }
}
