//! Tests of whole configurations: accepted values, mistakes and their messages.

mod assertions;
mod azure_service;
mod destinations;
mod identities;
mod managed_identity;
mod settings;
mod variants;

use super::*;
use crate::azure::HeaderForm;
use crate::broker::UnlistedLimits;
use crate::event::Level;

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

fn mistakes(text: &(impl AsRef<[u8]> + ?Sized)) -> Vec<String> {
    Config::parse(text.as_ref(), &webhook).unwrap_err().0.iter().map(ToString::to_string).collect()
}

/// The injection settings of the first destination.
fn injection(config: &Config) -> &InjectionConfig {
    match &config.destinations[0].action {
        DestinationAction::Inject(_, injection) => injection,
        other => panic!("{other:?}"),
    }
}

const MINIMAL: &str = r#"{"destinations":[{"hosts":["payments-kv.vault.azure.net"],"scope":"https://vault.azure.net/.default","tls_clusters":["outbound|80||{host}"]}]}"#;

#[test]
fn all_mistakes_are_reported_at_once_with_path_and_remedy() {
    let found = mistakes(
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
        r#"identities[0].asertion: unknown field: did you mean "assertion"?"#,
        r#"identities[0].name: "Payments" is not a valid name: write at most 63 characters of a-z, 0-9, _ and -"#,
        r#"identities[0].tenant_id: "common" is not a tenant that an application can sign in to: write the tenant's id"#,
        r#"identities[0].client_id: "payments" is not a valid client id: write the application's or managed identity's client id, a GUID"#,
        "identities[1].name: is missing: with several identities each needs a name",
        r#"identities[1].client_id: "c" is not a valid client id: write the application's or managed identity's client id, a GUID"#,
        r#"destinations[0].host: unknown field: did you mean "hosts"?"#,
        "destinations[0].hosts: is missing: list the hosts, or set azure_service",
        r#"destinations[0].scope: "https://vault.azure.net" is a resource: write "https://vault.azure.net/.default""#,
        r#"destinations[0].identity: "nobody" is not a known identity: write Payments"#,
        r#"destinations[0].plaintext: "yes" is not valid: write "refuse" or "allow""#,
        r#"destinations[1].hosts[0]: "https://a.example" is not a valid host: write a name such as "api.example.com" or "*.example.com", with :port to match that port only"#,
        r#"destinations[1].hosts[2]: "b.example" is also listed in destinations[1]: remove one of the two, or distinguish them by port, path_prefixes or methods"#,
        r#"destinations[1].scope: "a/.default b/.default" is more than one scope: write one resource and /.default"#,
        r#"destinations[1].existing_credential: 1 is not valid: write "keep" or "replace" or "refuse""#,
        "destinations[1].identity: is missing: write Payments",
        "destinations[2].scope: duplicate entry: remove it",
        "destinations[2].hosts: [] is not valid: write a list with at least one item",
        r#"destinations[3]: "x" is not valid: write an object, { … }"#,
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_mistake_hides_no_other_mistake() {
    let nameless = br#"{"identities":[{"client_id":"x","principals":["a b"]},"y",{"name":"b","principals":["spiffe://b"],"object_id":"z"},{"name":"c"}],
        "managed_identity":{"identities":["b","b","nobody"],"imds":{}}}"#;
    assert_eq!(
        mistakes(nameless),
        [
            "identities[0].name: is missing: with several identities each needs a name",
            r#"identities[0].client_id: "x" is not a valid client id: write the application's or managed identity's client id, a GUID"#,
            r#"identities[0].principals[0]: "a b" is not a valid principal: write each in full, without patterns"#,
            r#"identities[1]: "y" is not valid: write an object, { … }"#,
            r#"identities[2].object_id: "z" is not a valid object id: write the managed identity's principal id, a GUID"#,
            r#"identities[0].principals: is missing: another identity has principals, so list those that may use """#,
            r#"identities[3].principals: is missing: another identity has principals, so list those that may use "c""#,
            "managed_identity.identities[1]: duplicate entry: remove it",
            r#"managed_identity.identities[2]: "nobody" is not a known identity: write b or c"#,
            "identities[2].principals: cannot be checked for managed-identity callers, which present no certificate: remove the identity from managed_identity.identities",
        ]
    );
    let doubled = br#"{"destinations":[{"hosts":["a.example"],"scope":"s/.default","scope":5,"methods":["GET"],"methods":["get"]}]}"#;
    assert_eq!(
        mistakes(doubled),
        [
            "destinations[0].scope: duplicate entry: remove it",
            "destinations[0].methods: duplicate entry: remove it",
            r#"destinations[0].methods[0]: "get" is not the method "GET", because methods are case-sensitive: write "GET""#,
            "destinations[0].scope: 5 is not valid: write a non-empty string",
        ]
    );
    let names = br#"{"destinations":[{"azure_service":"key_vault","names":[12345,"",["a"]]}]}"#;
    assert_eq!(
        mistakes(names),
        [
            "destinations[0].names[0]: 12345 is not valid: write a non-empty string",
            r#"destinations[0].names[1]: "" is not valid: write a non-empty string"#,
            "destinations[0].names[2]: a list is not valid: write a non-empty string",
        ]
    );
}

#[test]
fn a_text_that_is_not_a_configuration_is_rejected() {
    assert_eq!(mistakes(""), ["the configuration is empty: add destinations, managed_identity, or both"]);
    assert_eq!(mistakes("{}"), ["the configuration is empty: add destinations, managed_identity, or both"]);
    assert!(
        mistakes("{\"destinations\": [")
            .first()
            .unwrap()
            .starts_with("the configuration is not valid JSON: EOF while parsing a list at line 1 column 18")
    );
    assert_eq!(mistakes("[]"), ["[] is not valid: write an object, { … }"]);
    assert!(mistakes("\u{1}\u{2}")[0].contains("google.protobuf.StringValue"));
}

#[test]
fn a_configuration_in_another_encoding_is_reported_as_such() {
    assert_eq!(
        mistakes(b"\xef\xbb\xbf{}"),
        ["the configuration begins with a byte order mark: save it as UTF-8 without one"]
    );
    for text in [&b"\xff\xfe{\0}\0"[..], b"\xfe\xff\0{\0}", b"{\0}\0", b"\0{\0}"] {
        assert_eq!(mistakes(text), ["the configuration is encoded as UTF-16: save it as UTF-8"]);
    }
}

#[test]
fn the_prefix_of_envoys_headers_is_read() {
    let original_url = |text: &str| parse(text).unwrap().original_url;
    assert_eq!(original_url(MINIMAL), "x-envoy-original-url");
    assert_eq!(original_url(&format!(r#"{{"header_prefix":"x-acme",{}"#, &MINIMAL[1..])), "x-acme-original-url");
}

#[test]
fn limits_log_and_token_settings_are_read() {
    let config = parse(
        r#"{"limits":{"exchange":"5s","wait":"1m","waiting":7},"log":{"exchanges":"warn","requests":"info","access":true},
            "entra":{"clusters":["a","b"]},
            "identities":[{"discard_tokens_before":"2026-01-31T02:10:00Z"}],
            "destinations":[{"hosts":["x.example"],"scope":"s/.default","plaintext":"allow","on_failure":"pass","warm":true}]}"#,
    )
    .unwrap();
    assert_eq!((config.limits.exchange.as_secs(), config.limits.wait.as_secs(), config.limits.waiting), (5, 60, 7));
    assert_eq!(config.log, Log { exchanges: Some(Level::Warn), requests: Some(Level::Info), access: true });
    assert!(injection(&config).settings.pass_on_failure);
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
            r#"identities[0].discard_tokens_before: "yesterday" is not valid: write a time such as "2026-01-31T02:10:00Z" or "2026-01-31T03:10:00+01:00""#,
            r#"limits.exchange: "2m" is not valid: write a duration from 1s to 60s, such as "10s""#,
            r#"limits.wait: 5 is not valid: write a duration from 1s to 300s, such as "10s""#,
            "limits.waiting: 0 is not valid: write a number from 1 to 1000000",
            r#"log.requests: "debug" is not valid: write "info" or "warn" or "never""#,
        ]
    );
}

#[test]
fn a_wait_that_is_shorter_than_an_exchange_gives_a_warning() {
    let limits = |limits: &str| parse(&format!(r#"{{"managed_identity":{{"imds":{{}}}},"limits":{limits}}}"#)).unwrap();
    assert_eq!(
        limits(r#"{"wait":"5s"}"#).warnings,
        [
            "limits.wait (5s) is shorter than limits.exchange (10s): a request is answered with 504 while its exchange still runs; set wait to at least 10s"
        ]
    );
    assert_eq!(limits(r#"{"wait":"10s"}"#).warnings, Vec::<String>::new());
}

/// A configuration with this limit in its section; the value is in the documentation's format.
fn with_limit(section: &str, name: &str, value: &str) -> String {
    let value = if value.ends_with('s') { format!("{value:?}") } else { value.to_owned() };
    let limits = format!(r#""limits":{{"{name}":{value}}}"#);
    match section {
        "managed_identity" => format!(r#"{{"managed_identity":{{"imds":{{}},{limits}}}}}"#),
        _ => format!(r#"{{"managed_identity":{{"imds":{{}}}},{limits}}}"#),
    }
}

#[test]
fn the_bounds_of_every_limit_are_those_in_the_documentation() {
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
fn a_path_prefix_of_entra_begins_with_a_slash_and_has_no_query() {
    let with = |path: &str| format!(r#"{{"entra":{{"path_prefix":{path:?}}},{}"#, &MINIMAL[1..]);
    for path in ["/proxy", "/a/b-c/"] {
        assert!(parse(&with(path)).is_ok(), "{path}");
    }
    for path in ["proxy", "/a b", "/a?b", "/a#b", "/ä"] {
        let mistake = format!("entra.path_prefix: {path:?} is not a valid path: write one such as \"/proxy\"");
        assert_eq!(mistakes(&with(path)), [mistake]);
    }
}

#[test]
fn the_status_page_and_managed_identity_have_the_same_default_hosts() {
    let config = parse(r#"{"managed_identity":{"imds":{},"app_service":{}},"status":{}}"#).unwrap();
    let (answers, status) = (config.managed_identity.unwrap(), config.status.unwrap());
    assert_eq!(status.hosts, ["127.0.0.1", "localhost"]);
    assert_eq!(answers.app_service.unwrap().hosts, status.hosts);
    assert_eq!(answers.imds.unwrap().hosts, ["169.254.169.254", "127.0.0.1", "localhost"]);
}
