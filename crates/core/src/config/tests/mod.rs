//! What is taken, what is refused, and in which words.

mod azure_service;
mod destinations;
mod identities;
mod managed_identity;

use super::*;

const TENANT: &str = "11111111-1111-4111-8111-111111111111";
const CLIENT: &str = "aaaaaaaa-0000-4000-8000-000000000001";

fn webhook(name: &str) -> Option<String> {
    match name {
        "AZURE_TENANT_ID" => Some(TENANT.into()),
        "AZURE_CLIENT_ID" => Some(CLIENT.into()),
        "AZURE_AUTHORITY_HOST" => Some("https://login.microsoftonline.com/".into()),
        _ => None,
    }
}

fn parse(text: &str) -> Result<Config, Refused> {
    Config::parse(text.as_bytes(), &webhook)
}

fn mistakes(text: impl AsRef<[u8]>) -> Vec<String> {
    Config::parse(text.as_ref(), &webhook).unwrap_err().0.iter().map(ToString::to_string).collect()
}

/// What the first destination's requests get their token with.
fn injection(config: &Config) -> &InjectionConfig {
    match &config.destinations[0].action {
        DestinationAction::Inject(_, injection) => injection,
        other => panic!("{other:?}"),
    }
}

const SMALLEST: &str = r#"{"destinations":[{"hosts":["payments-kv.vault.azure.net"],"scope":"https://vault.azure.net/.default","tls_clusters":["outbound|80||{host}"]}]}"#;

#[test]
fn every_mistake_is_told_at_once_with_its_path_and_remedy() {
    let told = mistakes(
        r#"{"entra":{"authority":"http://login.microsoftonline.com","clusters":["a","b"]},
            "identities":[{"name":"Payments","tenant_id":"common","client_id":"payments","asertion":"x"},{"client_id":"c"}],
            "destinations":[
              {"host":["a.example"],"scope":"https://vault.azure.net","identity":"nobody","plaintext":"yes"},
              {"hosts":["https://a.example","b.example","b.example"],"scope":"a/.default b/.default","existing_credential":1},
              {"hosts":[],"scope":"x/.default","scope":"y/.default","identity":"Payments"},
              "x"]}"#,
    );
    let expected = [
        r#"entra.authority: "http://login.microsoftonline.com" is not a valid authority: write https:// and a host, such as https://login.microsoftonline.com"#,
        r#"identities[0].asertion: there is no such field: did you mean "assertion"?"#,
        r#"identities[0].name: "Payments" is no name: write at most 63 of a-z, 0-9, _ and -"#,
        r#"identities[0].tenant_id: "common" is no tenant that an application can sign in to: write the tenant's id"#,
        r#"identities[0].client_id: "payments" is no client id: write the application's or managed identity's client id, a GUID"#,
        "identities[1].name: is missing: with several identities each needs a name",
        r#"identities[1].client_id: "c" is no client id: write the application's or managed identity's client id, a GUID"#,
        r#"destinations[0].host: there is no such field: did you mean "hosts"?"#,
        "destinations[0].hosts: is missing: write the hosts that get the token, or azure_service",
        r#"destinations[0].scope: "https://vault.azure.net" is a resource: write "https://vault.azure.net/.default""#,
        r#"destinations[0].identity: "nobody" is no identity: write Payments"#,
        r#"destinations[0].plaintext: "yes" is not one of the words here: write "refuse" or "allow""#,
        r#"destinations[1].hosts[0]: "https://a.example" is no host: write a name such as "api.example.com" or "*.example.com", with :port if only that port is meant"#,
        r#"destinations[1].hosts[2]: "b.example" stands in two places (also destinations[1]), and which of them decides is not clear: write it once, or tell them apart by port, path_prefixes or methods"#,
        r#"destinations[1].scope: "a/.default b/.default" is more than one scope: write one resource and /.default"#,
        r#"destinations[1].existing_credential: 1 is not one of the words here: write "keep" or "replace" or "refuse""#,
        "destinations[1].identity: is missing: write Payments",
        "destinations[2].scope: duplicate entry: remove it",
        "destinations[2].hosts: [] is not a list: write [ … ] with at least one item",
        r#"destinations[3]: "x" is not an object: write { … }"#,
    ];
    assert_eq!(told, expected);
}

#[test]
fn a_mistake_hides_no_other() {
    let nameless = br#"{"identities":[{"client_id":"x","principals":["a b"]},"y",{"name":"b","principals":["spiffe://b"],"object_id":"z"},{"name":"c"}],
        "managed_identity":{"identities":["b","b","nobody"],"imds":{}}}"#;
    assert_eq!(
        mistakes(nameless),
        [
            "identities[0].name: is missing: with several identities each needs a name",
            r#"identities[0].client_id: "x" is no client id: write the application's or managed identity's client id, a GUID"#,
            r#"identities[0].principals[0]: "a b" is no principal: write each in full, there are no patterns"#,
            r#"identities[1]: "y" is not an object: write { … }"#,
            r#"identities[2].object_id: "z" is no object id: write the managed identity's principal id, a GUID"#,
            r#"identities[0].principals: is missing: another identity has principals, so say who may use "" too"#,
            r#"identities[3].principals: is missing: another identity has principals, so say who may use "c" too"#,
            "managed_identity.identities[1]: duplicate entry: remove it",
            r#"managed_identity.identities[2]: "nobody" is no identity: write b or c"#,
            "identities[2].principals: cannot be looked for among managed-identity callers, who show no certificate: take the identity out of managed_identity.identities",
        ]
    );
    let doubled = br#"{"destinations":[{"hosts":["a.example"],"scope":"s/.default","scope":5,"methods":["GET"],"methods":["get"]}]}"#;
    assert_eq!(
        mistakes(doubled),
        [
            "destinations[0].scope: duplicate entry: remove it",
            "destinations[0].methods: duplicate entry: remove it",
            r#"destinations[0].methods[0]: "get" is another method than "GET": write "GET""#,
            "destinations[0].scope: 5 is not a text: write a string that is not empty",
        ]
    );
    let names = br#"{"destinations":[{"azure_service":"key_vault","names":[12345]}]}"#;
    assert_eq!(mistakes(names), ["destinations[0].names[0]: 12345 is not a text: write a string that is not empty"]);
}

#[test]
fn what_is_no_configuration_is_told_so() {
    assert_eq!(mistakes(""), ["there is no configuration: write at least destinations or managed_identity"]);
    assert_eq!(mistakes("{}"), ["nothing is asked for: write destinations, managed_identity, or both"]);
    assert!(
        mistakes("{\"destinations\": [")
            .first()
            .unwrap()
            .starts_with("this is no JSON: EOF while parsing a list at line 1 column 18")
    );
    assert_eq!(mistakes("[]"), ["[] is not an object: write { … }"]);
    assert!(mistakes("\u{1}\u{2}")[0].contains("google.protobuf.StringValue"));
}

#[test]
fn a_text_in_another_encoding_is_named_as_such() {
    assert_eq!(mistakes(b"\xef\xbb\xbf{}"), ["the text begins with a byte order mark: save it as UTF-8 without one"]);
    for text in [&b"\xff\xfe{\0}\0"[..], b"\xfe\xff\0{\0}", b"{\0}\0", b"\0{\0}"] {
        assert_eq!(mistakes(text), ["the text is UTF-16: save it as UTF-8"]);
    }
}

#[test]
fn limits_log_and_the_rest_of_a_tokens_life_are_read() {
    let config = parse(
        r#"{"limits":{"exchange":"5s","wait":"1m","waiting":7},"log":{"exchanges":"warn","requests":"info","access":true},
            "entra":{"clusters":["a","b"]},
            "identities":[{"discard_tokens_before":"2026-01-31T02:10:00Z"}],
            "destinations":[{"hosts":["x.example"],"scope":"s/.default","plaintext":"allow","on_failure":"pass","warm":true}]}"#,
    )
    .unwrap();
    assert_eq!((config.limits.exchange.as_secs(), config.limits.wait.as_secs(), config.limits.waiting), (5, 60, 7));
    assert_eq!(config.log, Log { exchanges: Some(Level::Warn), requests: Some(Level::Info), access: true });
    assert!(injection(&config).pass_on_failure);
    assert!(matches!(&config.destinations[0].action, DestinationAction::Inject(Token { warm: true, .. }, _)));
    let spec = config.identities[0].spec("s/.default").unwrap();
    assert_eq!(spec.clusters(), ["a", "b"]);
    assert_eq!(spec.discard_before(), Some(Timestamp::from_unix_seconds(1_769_825_400)));
    assert_eq!(
        mistakes(
            r#"{"limits":{"exchange":"2m","wait":5,"waiting":0},"log":{"requests":"debug"},"managed_identity":{"imds":{}},
                "identities":[{"discard_tokens_before":"yesterday"}]}"#
        ),
        [
            r#"identities[0].discard_tokens_before: "yesterday" is not a time: write such as "2026-01-31T02:10:00Z" or "2026-01-31T03:10:00+01:00""#,
            r#"limits.exchange: "2m" is not a duration from 1s to 60s: write such as "10s""#,
            r#"limits.wait: 5 is not a duration from 1s to 300s: write such as "10s""#,
            "limits.waiting: 0 is not a number from 1 to 1000000",
            r#"log.requests: "debug" is not one of the words here: write "info" or "warn" or "never""#,
        ]
    );
}

#[test]
fn a_wait_that_ends_before_the_exchange_can_is_warned_of() {
    let limits = |limits: &str| parse(&format!(r#"{{"managed_identity":{{"imds":{{}}}},"limits":{limits}}}"#)).unwrap();
    assert_eq!(
        limits(r#"{"wait":"5s"}"#).warnings,
        [
            "limits.wait (5s) is shorter than limits.exchange (10s): a request is answered with 504 while its exchange still runs; set wait to at least 10s"
        ]
    );
    assert_eq!(limits(r#"{"wait":"10s"}"#).warnings, Vec::<String>::new());
}

/// A limit of this name, in its section, as the documentation writes its value.
fn with_limit(section: &str, name: &str, value: &str) -> String {
    let value = if value.ends_with('s') { format!("{value:?}") } else { value.to_owned() };
    let limits = format!(r#""limits":{{"{name}":{value}}}"#);
    match section {
        "managed_identity" => format!(r#"{{"managed_identity":{{"imds":{{}},{limits}}}}}"#),
        _ => format!(r#"{{"managed_identity":{{"imds":{{}}}},{limits}}}"#),
    }
}

#[test]
fn the_bounds_of_every_limit_are_those_of_the_documentation() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (mut section, mut tried) = ("", Vec::new());
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("## `") {
            section = heading.split('`').next().unwrap();
        }
        let Some((name, row)) = line.strip_prefix("| `limits.").and_then(|row| row.split_once('`')) else { continue };
        let bounds = row.split(" from ").nth(1).unwrap_or_else(|| panic!("{line}: no bounds"));
        let choices: Vec<&str> = bounds.split([' ', '.', '|']).collect();
        let [least, "to", most, ..] = choices.as_slice() else { panic!("{line}: no bounds") };
        for (bound, beyond) in [(least, -1), (most, 1)] {
            assert!(parse(&with_limit(section, name, bound)).is_ok(), "{name}: {bound}");
            let (number, unit) = bound.split_at(bound.trim_end_matches('s').len());
            let outside = format!("{}{unit}", number.parse::<i64>().unwrap() + beyond);
            assert!(parse(&with_limit(section, name, &outside)).is_err(), "{name}: {outside}");
        }
        tried.push(format!("{section} {name}"));
    }
    assert_eq!(
        tried,
        [
            "managed_identity unlisted_scopes",
            "managed_identity new_scopes_per_minute",
            "managed_identity parallel_exchanges",
            "limits exchange",
            "limits wait",
            "limits waiting",
        ]
    );
}

#[test]
fn the_status_page_is_where_managed_identity_is_unless_it_is_said_otherwise() {
    let config = parse(r#"{"managed_identity":{"imds":{},"app_service":{}},"status":{}}"#).unwrap();
    let (answers, status) = (config.managed_identity.unwrap(), config.status.unwrap());
    assert_eq!(status.hosts, ["127.0.0.1", "localhost"]);
    assert_eq!(answers.app_service.unwrap().hosts, status.hosts);
    assert_eq!(answers.imds.unwrap().hosts, ["169.254.169.254", "127.0.0.1", "localhost"]);
}
