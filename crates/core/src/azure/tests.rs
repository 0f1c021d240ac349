//! Tests of every row of the table, and of names that must be rejected.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::host::Host;

/// The whole table, with the source pages.
const WHOLE: &str = include_str!("../../data/azure-services.tsv");

/// A valid resource name of the service.
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

fn find(id: &str, cloud: Cloud) -> Service {
    Service::find(id, Some(cloud)).unwrap_or_else(|mistake| panic!("{id:?} {mistake}"))
}

fn describe(id: &str, cloud: Cloud, name: &str) -> String {
    match Service::find(id, Some(cloud)).and_then(|service| service.endpoint(name)) {
        Ok(Endpoint { host, scope }) => format!("{host} {}", scope.unwrap_or_default()),
        Err(mistake) => mistake.to_string(),
    }
}

#[test]
fn every_line_of_the_table_is_well_formed_and_names_its_source_page() {
    let pages: BTreeMap<&str, &str> =
        WHOLE.lines().filter_map(|line| line.strip_prefix('@')?.split_once('\t')).collect();
    let publishers = [
        "learn.microsoft.com/",
        "docs.azure.cn/",
        "github.com/Azure/",
        "github.com/databricks/",
        "github.com/dotnet/",
        "github.com/projectkudu/",
    ];
    assert!(pages.values().all(|page| publishers.iter().any(|publisher| page.starts_with(publisher))));

    let mut used: BTreeSet<&str> = BTreeSet::new();
    let (mut ids, mut lines) = (BTreeSet::new(), 0);
    for line in WHOLE.lines().filter(|line| !line.is_empty() && !line.starts_with(['#', '@'])) {
        match line.split('\t').collect::<Vec<_>>().as_slice() {
            ["", cloud, hosts, scope] => {
                assert!(Cloud::ALL.iter().any(|known| known.as_str() == *cloud), "{line}");
                assert!(!hosts.is_empty() && (scope.ends_with("/.default") || *scope == "-"), "{line}");
                lines += 1;
            }
            [id, names, header, credentials, from] => {
                assert!(id.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{line}");
                assert!(ids.insert(*id), "duplicate entry {id}");
                assert!(*names == "-" || NameRule::parse(names).is_some(), "{line}");
                assert!(HeaderForm::parse(header).is_some(), "{line}");
                let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
                let mut places = credentials.split(' ').map(|place| place.strip_prefix('?').unwrap_or(place));
                assert!(places.all(|place| !place.is_empty() && place.bytes().all(is_name)), "{line}");
                used.extend(from.split(' '));
            }
            _ => panic!("{line}"),
        }
    }
    assert_eq!(used, pages.keys().copied().collect(), "every page is used, and every used page is defined");
    assert_eq!(ROWS.len(), lines);
    assert!(ids.iter().all(|id| NOT_BY_HEADER.iter().all(|(other, ..)| other != id)));
}

#[test]
fn every_row_has_valid_hosts_and_a_valid_scope_and_is_unique() {
    let mut found = BTreeSet::new();
    for (cloud, service) in ROWS.iter().copied() {
        let id = service.id;
        assert!(found.insert((id, cloud.as_str())), "duplicate entry {id} in {cloud}");
        assert_eq!(find(id, cloud), service);
        for pattern in service.patterns() {
            assert_eq!(pattern.starts_with("{name}."), service.takes_names(), "{pattern}");
            assert!(!pattern.replacen("{name}.", "", 1).replacen("{region}.", "", 1).contains(['{', '}', '*', ':']));
        }
        for Endpoint { host, scope } in endpoints(&service) {
            let parsed = Host::parse(host.as_bytes()).unwrap();
            assert!(parsed.name == host && parsed.port.is_none() && host.matches('.').count() >= 2, "{host}");
            assert_eq!(scope.is_some(), service.has_scope(), "{id}");
            let Some(scope) = scope else { continue };
            let resource = scope.strip_suffix("/.default").unwrap();
            let plain = !resource.contains(['{', '}', ' ']) && !resource.ends_with("/.default");
            assert!(plain && (resource.starts_with("https://") || crate::untrusted::is_guid(resource)), "{scope}");
        }
    }
}

#[test]
fn no_row_accepts_a_name_that_leads_to_another_host() {
    for (cloud, service) in ROWS.iter().copied() {
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
                assert!(service.endpoint(&other).is_err(), "{} in {cloud} accepts {other:?}", service.id);
            }
            // A host matches exactly one pattern of its row.
            if service.takes_names() {
                assert_eq!(service.patterns().filter_map(|pattern| name_in(pattern, &host)).count(), 1, "{host}");
                assert_eq!(name_in(service.hosts, &format!("{host}.evil.example")), None);
                assert_eq!(name_in(service.hosts, &format!("evil.{host}")), None);
            }
        }
    }
}

#[test]
fn a_resource_name_gives_the_host_in_the_cloud_of_the_authority() {
    use Cloud::{Bleu, China, Delos, Public, UsGovernment};
    for (id, cloud, name, expected) in [
        ("key_vault", Public, "payments-kv", "payments-kv.vault.azure.net https://vault.azure.net/.default"),
        ("key_vault", Public, "Payments-KV", "payments-kv.vault.azure.net https://vault.azure.net/.default"),
        (
            "key_vault",
            UsGovernment,
            "agency-kv",
            "agency-kv.vault.usgovcloudapi.net https://vault.usgovcloudapi.net/.default",
        ),
        ("key_vault", China, "kv1", "kv1.vault.azure.cn https://vault.azure.cn/.default"),
        ("key_vault", Bleu, "kv1", "kv1.vault.sovcloud-api.fr https://vault.sovcloud-api.fr/.default"),
        ("key_vault", Delos, "kv1", "kv1.vault.sovcloud-api.de https://vault.sovcloud-api.de/.default"),
        (
            "blob_storage",
            Bleu,
            "kv1",
            "is not listed for Bleu's cloud in France, which the authority belongs to: use hosts and scope instead",
        ),
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
        assert_eq!(describe(id, cloud, name), expected);
    }
    let graph = find("microsoft_graph", UsGovernment).endpoints().unwrap();
    assert_eq!(
        graph,
        [Endpoint { host: "graph.microsoft.us".into(), scope: Some("https://graph.microsoft.us/.default".into()) }]
    );
}

#[test]
fn a_mistake_names_the_remedy() {
    use Cloud::{China, Public};
    for (id, cloud, name, expected) in [
        ("key_valt", Public, "kv1", "is not a known service: did you mean \"key_vault\"?"),
        ("KEY_VAULT", Public, "kv1", "is not a known service: did you mean \"key_vault\"?"),
        (
            "storage",
            Public,
            "kv1",
            "is not a known service: did you mean blob_storage or queue_storage or table_storage or file_storage or data_lake_storage?",
        ),
        ("toaster", Public, "kv1", "is not a known service: use hosts and scope instead"),
        (
            "azure_openai",
            China,
            "x1",
            "is not listed for the cloud in China, which the authority belongs to: use hosts and scope instead",
        ),
        ("key_vault", Public, "payments-kv.vault.azure.net", "is a host: write only the name, \"payments-kv\""),
        (
            "data_explorer",
            Public,
            "help.westeurope.kusto.windows.net",
            "is a host: write only the name, \"help.westeurope\"",
        ),
        (
            "data_explorer",
            Public,
            "help",
            "has no region, which is part of the host {name}.{region}.kusto.windows.net: write name.region",
        ),
        (
            "key_vault",
            Public,
            "kv",
            "is not a valid resource name: expected 3 to 24 letters, digits and, between them, single hyphens, starting with a letter",
        ),
        (
            "key_vault",
            Public,
            "a--kv",
            "is not a valid resource name: expected 3 to 24 letters, digits and, between them, single hyphens, starting with a letter",
        ),
        (
            "key_vault",
            Public,
            "1kv",
            "is not a valid resource name: expected 3 to 24 letters, digits and, between them, single hyphens, starting with a letter",
        ),
        (
            "key_vault",
            Public,
            "kv1.westeurope",
            "is not a valid resource name: expected 3 to 24 letters, digits and, between them, single hyphens, starting with a letter",
        ),
        ("blob_storage", Public, "payments-data", "is not a valid resource name: expected 3 to 24 letters and digits"),
        ("microsoft_graph", Public, "x", "has the same host for all customers, graph.microsoft.com: remove names"),
    ] {
        assert_eq!(describe(id, cloud, name), expected);
    }
    assert_eq!(Service::find("key_vault", None).unwrap_err(), AzureMistake::NotInCloud(None));
    assert_eq!(
        find("key_vault", Public).endpoints().unwrap_err().to_string(),
        "has a host for each resource, {name}.vault.azure.net: list your resources in names"
    );
}

#[test]
fn a_service_that_does_not_accept_a_token_in_a_header_is_rejected_with_reason_and_remedy() {
    for (id, why, remedy) in NOT_BY_HEADER {
        let mistake = Service::find(id, Some(Cloud::Public)).unwrap_err();
        assert_eq!(mistake, AzureMistake::NotByHeader(why, remedy));
        assert!(mistake.to_string().starts_with("cannot be a destination, because "), "{mistake}");
    }
    assert!(describe("container_registry", Cloud::China, "r").contains("https://containerregistry.azure.net"));
}

#[test]
fn the_documentation_has_every_row() {
    let documented = include_str!("../../../../docs/azure-services.md");
    let mut clouds: BTreeMap<&str, Vec<Cloud>> = BTreeMap::new();
    for (cloud, service) in ROWS.iter().copied() {
        clouds.entry(service.id).or_default().push(cloud);
    }
    for (id, clouds) in clouds {
        let (first, names) = (clouds[0], clouds.iter().map(|cloud| cloud.as_str().replace('_', " ").to_lowercase()));
        let hosts: Vec<String> = find(id, first).patterns().map(|host| format!("`{host}`")).collect();
        let places = find(id, first).credentials();
        let headers = places.headers().map(|name| format!("`{name}`"));
        let all: Vec<String> = headers.chain(places.parameters().map(|name| format!("`?{name}=`"))).collect();
        let clouds = names.collect::<Vec<_>>().join(", ");
        let row = format!("| `{id}` | {} | {clouds} | {} |", hosts.join(" or "), all.join(", "));
        assert!(documented.to_lowercase().contains(&row), "{row}");
    }
    assert!(NOT_BY_HEADER.iter().all(|(id, ..)| documented.contains(&format!("`{id}`"))));
}

#[test]
fn a_shared_suffix_is_the_part_of_a_host_after_the_placeholders() {
    let suffixes: BTreeSet<&str> = shared_suffixes().collect();
    for suffix in ["vault.azure.net", "kusto.windows.net", "digitaltwins.azure.net", "communication.azure.com"] {
        assert!(suffixes.contains(suffix), "{suffix}");
    }
    assert!(suffixes.iter().all(|suffix| !suffix.contains(['{', '}']) && suffix.contains('.')));
}

#[test]
fn only_cosmos_db_has_another_header_form_than_bearer() {
    let token = AccessToken::parse("eyJ0.a-b_c~d+e/f=").unwrap();
    assert_eq!(find("key_vault", Cloud::Public).header().value(&token), "Bearer eyJ0.a-b_c~d+e/f=");
    let header = find("cosmos_db", Cloud::Public).header();
    assert_eq!(header.value(&token), "type%3Daad%26ver%3D1.0%26sig%3DeyJ0.a-b_c%7Ed%2Be%2Ff%3D");
    assert!(ROWS.iter().all(|(_, other)| (other.header == HeaderForm::CosmosDb) == (other.id == "cosmos_db")));
}

#[test]
fn the_token_is_extracted_from_a_header_of_each_form() {
    let token = AccessToken::parse("eyJ.a-b_c~d+e/f==").unwrap();
    for form in [HeaderForm::Bearer, HeaderForm::CosmosDb] {
        let value = form.value(&token);
        assert!(form.token_in(value.as_bytes()) == Some(token.clone()), "{form:?}");
        for other in ["", "Bearer", "Basic eyJ", "type%3Dmaster%26ver%3D1.0%26sig%3DeyJ", "Bearer \u{e9}"] {
            assert!(form.token_in(other.as_bytes()).is_none(), "{form:?} {other:?}");
        }
    }
}

#[test]
fn a_service_lists_the_places_of_its_clients_credentials() {
    let places = |id: &str| {
        let places = find(id, Cloud::Public).credentials();
        (places.headers().collect::<Vec<_>>(), places.parameters().collect::<Vec<_>>())
    };
    assert_eq!(places("key_vault"), (vec![], vec![]));
    assert_eq!(places("event_grid"), (vec!["aeg-sas-key", "aeg-sas-token"], vec!["aeg-sas-key"]));
    assert_eq!(places("functions"), (vec!["x-functions-key"], vec!["code"]));
    assert_eq!(places("blob_storage"), (vec![], vec!["sig"]));
}

#[test]
fn a_host_with_an_odata_api_is_recognized() {
    for host in [
        "graph.microsoft.com",
        "graph.microsoft.us",
        "dod-graph.microsoft.us",
        "payments.search.windows.net",
        "payments.table.core.windows.net",
        "contoso.crm4.dynamics.com",
    ] {
        assert!(speaks_odata(host), "{host}");
    }
    for host in
        ["payments-kv.vault.azure.net", "graph.microsoft.com.evil.example", "a.b.search.windows.net", "dynamics.com"]
    {
        assert!(!speaks_odata(host), "{host}");
    }
}
