//! What is taken, what is refused, and in which words.

use super::*;
use crate::problem::Code;

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

fn mistakes(text: &str) -> Vec<String> {
    parse(text).unwrap_err().0.iter().map(ToString::to_string).collect()
}

#[test]
fn debug_hides_the_secret_also_within_the_whole_configuration() {
    let variable = |name: &str| match name {
        "IDENTITY_HEADER" => Some("secret-of-the-app".to_owned()),
        name => webhook(name),
    };
    let config = Config::parse(br#"{"managed_identity":{"app_service":{}}}"#, &variable).unwrap();

    let shown = format!("{config:?}");

    assert!(shown.contains("Secret(hidden)") && !shown.contains("secret-of-the-app"), "{shown}");
    assert_eq!(format!("{:?}", Secret("secret-of-the-app".to_owned())), "Secret(hidden)");
}

#[test]
fn the_budget_of_unlisted_scopes_is_read_and_every_number_has_a_largest() {
    let with = |limits: &str| format!(r#"{{"managed_identity":{{"imds":{{}},"limits":{limits}}}}}"#);
    let limits = parse(&with(r#"{"unlisted_scopes":1000,"new_scopes_per_minute":5}"#)).unwrap().limits;
    assert_eq!(limits.unlisted, UnlistedLimits { scopes: 1000, new_per_minute: 5, parallel_exchanges: 4 });
    assert_eq!(
        mistakes(&with(r#"{"unlisted_scopes":0,"new_scopes_per_minute":1001,"parallel_exchanges":101,"scopes":1}"#)),
        [
            "managed_identity.limits.scopes: there is no such field: write unlisted_scopes, new_scopes_per_minute, parallel_exchanges",
            "managed_identity.limits.unlisted_scopes: 0 is not a number from 1 to 1000",
            "managed_identity.limits.new_scopes_per_minute: 1001 is not a number from 1 to 1000",
            "managed_identity.limits.parallel_exchanges: 101 is not a number from 1 to 100",
        ]
    );
}

/// What the first destination's requests get their token with.
fn terms(config: &Config) -> &Terms {
    match &config.destinations[0].action {
        Action::Inject(_, terms) => terms,
        other => panic!("{other:?}"),
    }
}

const SMALLEST: &str = r#"{"destinations":[{"hosts":["payments-kv.vault.azure.net"],"scope":"https://vault.azure.net/.default","tls_clusters":["outbound|80||{host}"]}]}"#;

#[test]
fn the_smallest_text_takes_the_rest_from_the_variables() {
    let config = parse(SMALLEST).unwrap();
    let grant = config.identities[0].grant("https://vault.azure.net/.default").unwrap();
    assert_eq!(grant.identity(), "default");
    assert_eq!((grant.tenant_id(), grant.client_id()), (TENANT, CLIENT));
    assert_eq!(grant.authority().host(), "login.microsoftonline.com");
    assert_eq!(grant.assertion().cluster(), "projected_token");
    assert_eq!(grant.clusters(), ["entra"]);
    assert_eq!(terms(&config).existing_credential, ExistingCredential::Keep);
    assert_eq!(terms(&config).header, "authorization");
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn what_is_written_wins_over_the_variables() {
    let config = parse(
        r#"{"entra":{"authority":"https://login.microsoftonline.us","clusters":["gov"]},
            "assertions":[{"name":"spire","source":"file","cluster":"spire_file"}],
            "identities":[{"name":"a","tenant_id":"contoso.onmicrosoft.com","client_id":"bbbbbbbb-0000-4000-8000-000000000002","assertion":"spire"}],
            "managed_identity":{"imds":{"hosts":["127.0.0.1"]}}}"#,
    )
    .unwrap();
    let grant = config.identities[0].grant("x/.default").unwrap();
    assert_eq!(grant.tenant_id(), "contoso.onmicrosoft.com");
    assert_eq!(grant.authority().host(), "login.microsoftonline.us");
    assert_eq!((grant.assertion().cluster(), grant.clusters()), ("spire_file", &["gov".to_owned()][..]));
    let answers = config.managed_identity.unwrap();
    assert_eq!((answers.offered, answers.default), (vec![0], Some(0)));
    assert_eq!(answers.imds.as_ref().unwrap().hosts, ["127.0.0.1"]);
}

#[test]
fn a_missing_variable_refuses_requests_and_not_the_text() {
    let config = Config::parse(SMALLEST.as_bytes(), &|_| None).unwrap();
    let problem = config.identities[0].grant("s/.default").unwrap_err();
    assert_eq!(problem.code, Code::VariableMissing);
    assert_eq!(problem.detail, "AZURE_TENANT_ID is not set; AZURE_CLIENT_ID is not set");
    // Istio's sidecars get no variable from the Deployment's `env`.
    assert!(problem.remedy.contains("proxy.istio.io/config") && problem.remedy.contains("host_env_keys"));
    assert_eq!(problem.remedy.matches("Set the variables").count(), 1);
    let all_wrong = |name: &str| Some(if name == "AZURE_TENANT_ID" { "contoso ".to_owned() } else { "x".to_owned() });
    let config = Config::parse(SMALLEST.as_bytes(), &all_wrong).unwrap();
    let problem = config.identities[0].grant("s/.default").unwrap_err();
    for variable in ["AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_AUTHORITY_HOST"] {
        assert!(problem.detail.contains(variable), "{}", problem.detail);
    }
    let wrong = |name: &str| if name == "AZURE_AUTHORITY_HOST" { Some("http://x".into()) } else { webhook(name) };
    let config = Config::parse(SMALLEST.as_bytes(), &wrong).unwrap();
    assert!(
        config.identities[0].grant("s/.default").unwrap_err().detail.starts_with("AZURE_AUTHORITY_HOST: \"http://x\"")
    );
    let wrong = |name: &str| if name == "AZURE_CLIENT_ID" { Some("payments".into()) } else { webhook(name) };
    let config = Config::parse(SMALLEST.as_bytes(), &wrong).unwrap();
    assert!(config.identities[0].grant("s/.default").unwrap_err().detail.contains("is no client id"));
}

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
        r#"destinations[0].plaintext: "yes" is not one of the words here: write "refuse" or "allowed""#,
        r#"destinations[1].hosts[0]: "https://a.example" is no host: write a name such as "api.example.com" or "*.example.com", with :port if only that port is meant"#,
        r#"destinations[1].hosts[2]: "b.example" stands in two places (also destinations[1]), and which of them decides is not clear: write it once, or tell them apart by port, path_prefixes or methods"#,
        r#"destinations[1].scope: "a/.default b/.default" is more than one scope: write one resource and /.default"#,
        r#"destinations[1].existing_credential: 1 is not one of the words here: write "keep" or "replace" or "refuse""#,
        "destinations[1].identity: is missing: write Payments",
        "destinations[2].scope: stands here a second time: write it once",
        "destinations[2].hosts: [] is not a list: write [ … ] with at least one item",
        r#"destinations[3]: "x" is not an object: write { … }"#,
    ];
    assert_eq!(told, expected);
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
fn several_identities_must_be_told_apart_wherever_one_is_meant() {
    let two = format!(r#""identities":[{{"name":"a","client_id":"{CLIENT}"}},{{"name":"b","client_id":"{CLIENT}"}}]"#);
    assert_eq!(
        mistakes(&format!(
            r#"{{{two},"managed_identity":{{"imds":{{}}}},"destinations":[{{"hosts":["x.example"],"scope":"s/.default"}}]}}"#
        )),
        [
            "managed_identity.identities: is missing: say which identities callers may ask for, of a, b",
            "destinations[0].identity: is missing: write a or b",
        ]
    );
    assert_eq!(
        mistakes(&format!(
            r#"{{{two},"managed_identity":{{"identities":["a","c"],"default_identity":"b","imds":{{"hosts":["x:1"]}}}}}}"#
        )),
        [
            r#"managed_identity.identities[1]: "c" is no identity: write a or b"#,
            r#"managed_identity.default_identity: "b" is not among managed_identity.identities: add it there"#,
            r#"managed_identity.imds.hosts[0]: "x:1" is no host: write a name or an address without a port"#,
        ]
    );
    assert_eq!(
        mistakes(&format!(
            r#"{{{two},"managed_identity":{{"identities":["a"],"health":{{"hosts":["h"],"identities":["c"]}}}}}}"#
        )),
        [r#"managed_identity.health.identities[0]: "c" is no identity: write a or b"#]
    );
    let health = r#""health":{"hosts":["h"],"identities":["b","a"]}"#;
    let config = parse(&format!(r#"{{{two},"managed_identity":{{"identities":["a"],{health}}}}}"#)).unwrap();
    assert_eq!(config.managed_identity.unwrap().health_identities, Some(vec![1, 0]));
    let config = parse(&format!(r#"{{{two},"managed_identity":{{"identities":["a","b"],"imds":{{}}}}}}"#)).unwrap();
    assert_eq!(config.limits.unlisted, UnlistedLimits { scopes: 64, new_per_minute: 30, parallel_exchanges: 4 });
    assert_eq!(config.managed_identity.unwrap().default, None);
}

#[test]
fn what_is_probably_not_meant_is_a_warning() {
    let config = parse(&format!(
        r#"{{"identities":[{{"name":"a"}},{{"name":"b","client_id":"{CLIENT}"}}],
            "destinations":[{{"hosts":["x.example"],"scope":"s/.default","identity":"a"}}]}}"#
    ))
    .unwrap();
    assert_eq!(config.warnings, ["identities[1] (b) is used by no destination and not on offer"]);
}

#[test]
fn a_host_cannot_be_a_destination_and_imds() {
    assert_eq!(
        mistakes(
            r#"{"managed_identity":{"imds":{}},"destinations":[{"hosts":["localhost:81"],"scope":"s/.default"}]}"#
        ),
        [r#"destinations[0].hosts[0]: "localhost:81" is answered by managed_identity: take it out here or there"#]
    );
}

#[test]
fn limits_log_and_the_rest_of_a_tokens_life_are_read() {
    let config = parse(
        r#"{"limits":{"exchange":"5s","wait":"1m","waiting":7},"log":{"exchanges":"warn","requests":"info","access":true},
            "entra":{"clusters":["a","b"]},
            "identities":[{"discard_tokens_before":"2026-01-31T02:10:00Z"}],
            "destinations":[{"hosts":["x.example"],"scope":"s/.default","plaintext":"allowed","on_failure":"pass","warm":true}]}"#,
    )
    .unwrap();
    assert_eq!((config.limits.exchange.as_secs(), config.limits.wait.as_secs(), config.limits.waiting), (5, 60, 7));
    assert_eq!(config.log, Log { exchanges: Some(Level::Warn), requests: Some(Level::Info), access: true });
    assert!(terms(&config).pass_on_failure);
    assert!(matches!(&config.destinations[0].action, Action::Inject(Token { warm: true, .. }, _)));
    let grant = config.identities[0].grant("s/.default").unwrap();
    assert_eq!(grant.clusters(), ["a", "b"]);
    assert_eq!(grant.discard_before(), Some(Timestamp::from_unix_seconds(1_769_825_400)));
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
fn what_is_wrong_with_managed_identity_and_status_is_told_all_at_once() {
    assert_eq!(
        mistakes(
            r#"{"identities":[{"object_id":"x","resource_id":"/resourcegroups/g","resources":[]}],
                "managed_identity":{"action":"off","imds":{"pass":["/metadata/identity/info","/metadata/../x","/healthz"]},"app_service":{"secret":"x"},"health":{}},
                "status":{"hosts":["127.0.0.1:80"],"path":"status"}}"#
        ),
        [
            "identities[0].resources: [] is not a list: write [ … ] with at least one item",
            r#"identities[0].object_id: "x" is no object id: write the managed identity's principal id, a GUID"#,
            r#"identities[0].resource_id: "/resourcegroups/g" is no resource id: write the managed identity's, which starts with /subscriptions/"#,
            "managed_identity.health.hosts: is missing: write the host that the probe sends",
            r#"managed_identity.action: "off" is not one of the words here: write "answer" or "report" or "refuse""#,
            r#"managed_identity.imds.pass[0]: "/metadata/identity/info" would hand out the node's own identity: what is below /metadata/identity never passes"#,
            r#"managed_identity.imds.pass[1]: "/metadata/../x" is not a valid metadata path: write one below /metadata, /latest or /computeMetadata, without a query, such as "/metadata/instance""#,
            r#"managed_identity.imds.pass[2]: "/healthz" is not a valid metadata path: write one below /metadata, /latest or /computeMetadata, without a query, such as "/metadata/instance""#,
            r#"managed_identity.app_service.secret: there is no such field: write hosts, secret_from_env"#,
            r#"status.path: "status" is no path: write such as "/entra-exchange/status""#,
            r#"status.hosts[0]: "127.0.0.1:80" is no host: write a name or an address without a port"#,
        ]
    );
    assert_eq!(
        mistakes(r#"{"managed_identity":{}}"#),
        [
            r#"managed_identity.imds: is missing: write "imds": {} to answer IMDS clients, or "app_service": {} to answer those of App Service"#
        ]
    );
}

#[test]
fn only_metadata_that_is_not_the_nodes_identity_can_pass() {
    let pass = |path: &str| format!(r#"{{"managed_identity":{{"imds":{{"pass":["{path}"]}}}}}}"#);
    for path in ["/", "/metadata", "/metadata/", "/Metadata/Identity", "/metadata/identity/oauth2"] {
        let mistakes = mistakes(&pass(path));
        assert!(mistakes.len() == 1 && mistakes[0].contains("never passes"), "{path}: {mistakes:?}");
    }
    for path in
        ["metadata/instance", "/latest/*", "/latest?x", "/latest//x", "/latest/..", "/x", "/2021-1-1", "/msi/token"]
    {
        let mistakes = mistakes(&pass(path));
        assert!(mistakes.len() == 1 && mistakes[0].contains("not a valid metadata path"), "{path}: {mistakes:?}");
    }
    for path in ["/metadata/identityprovider", "/latest/", "/2021-07-15/meta-data", "/computeMetadata/v1/instance"] {
        assert!(Config::parse(pass(path).as_bytes(), &|_| None).is_ok(), "{path}");
    }
}

#[test]
fn a_path_that_hands_out_the_nodes_credentials_is_warned_of() {
    let warnings = |path: &str| {
        let text = format!(r#"{{"managed_identity":{{"imds":{{"pass":["{path}"]}}}}}}"#);
        let warnings = Config::parse(text.as_bytes(), &|_| None).unwrap().warnings;
        let about = warnings.into_iter().filter(|warning| warning.starts_with("managed_identity.imds.pass[0]: "));
        about.collect::<Vec<_>>()
    };
    for path in
        ["/latest", "/latest/meta-data", "/latest/meta-data/iam/info", "/2021-07-15", "/2021-07-15/meta-data/iam"]
    {
        let warnings = warnings(path);
        assert!(warnings.len() == 1 && warnings[0].contains("/latest/meta-data/iam, which hands out"), "{warnings:?}");
    }
    for path in
        ["/computeMetadata", "/computeMetadata/v1/instance", "/computeMetadata/v1/instance/service-accounts/default"]
    {
        assert_eq!(warnings(path).len(), 1, "{path}");
    }
    for path in
        ["/metadata/instance", "/latest/dynamic", "/latest/meta-data/placement", "/computeMetadata/v1/instance/zone"]
    {
        assert_eq!(warnings(path), [""; 0], "{path}");
    }
}

#[test]
fn report_cannot_be_combined_with_app_services_endpoint() {
    let text = r#"{"managed_identity":{"action":"report","imds":{},"app_service":{}}}"#;
    let mistakes = mistakes(text);
    assert!(mistakes.len() == 1, "{mistakes:?}");
    assert!(
        mistakes[0].starts_with(r#"managed_identity.app_service: cannot be combined with "action": "report""#),
        "{mistakes:?}"
    );
}

/// A configuration with these destinations, all of which may send tokens in clear.
fn destinations(text: &str) -> String {
    format!(r#"{{"defaults":{{"scope":"s/.default","plaintext":"allowed"}},"destinations":[{text}]}}"#)
}

#[test]
fn defaults_say_what_is_not_a_destinations_own() {
    let config = parse(
        r#"{"defaults":{"action":"report","scope":"a/.default","tls_clusters":["x"],"existing_credential":"replace","header":"X-A","on_failure":"pass"},
            "destinations":[{"hosts":["a.example"],"action":"inject","existing_credential":"refuse"},{"hosts":["b.example"]}]}"#,
    )
    .unwrap();
    let terms = terms(&config);
    assert_eq!((terms.header.as_str(), terms.existing_credential), ("x-a", ExistingCredential::Refuse));
    assert_eq!((terms.tls_clusters.as_slice(), terms.pass_on_failure), (&["x".to_owned()][..], true));
    assert!(matches!(&config.destinations[1].action, Action::Report(token, _) if token.scope == "a/.default"));
    assert_eq!(
        mistakes(
            r#"{"defaults":{"hosts":["a.example"],"scope":"a"},"destinations":[{"hosts":["a.example"]},{"hosts":["b.example"]}]}"#
        ),
        [
            "defaults.hosts: there is no such field: write scope, identity, action, tls_clusters, plaintext, shared_suffix, override_headers, existing_credential, header, on_failure, warm",
            r#"defaults.scope: "a" is a resource: write "a/.default""#,
        ],
        "each once, not for each destination"
    );
}

#[test]
fn destinations_that_tie_are_refused() {
    assert!(parse(&destinations(
        r#"{"hosts":["a.example"]},{"hosts":["a.example:80"]},{"hosts":["*.example"],"shared_suffix":"allowed"},
           {"hosts":["a.example"],"path_prefixes":["/v1"]},{"hosts":["a.example"],"path_prefixes":["/v1"],"methods":["GET"]},
           {"hosts":["a.example"],"path_prefixes":["/v1"],"methods":["PUT"]}"#
    ))
    .is_ok());
    assert_eq!(
        mistakes(&destinations(
            r#"{"hosts":["a.example"],"path_prefixes":["/v1","/v2"],"methods":["GET","PUT"]},
               {"hosts":["A.example"],"path_prefixes":["/v2/"],"methods":["PUT"]},
               {"hosts":["b.example","b.example:80","b.example:80"]}"#
        )),
        [
            r#"destinations[1].hosts[0]: "a.example" with path "/v2" and method PUT stands in two places (also destinations[0]), and which of them decides is not clear: write it once, or tell them apart by port, path_prefixes or methods"#,
            r#"destinations[2].hosts[2]: "b.example:80" stands in two places (also destinations[2]), and which of them decides is not clear: write it once, or tell them apart by port, path_prefixes or methods"#,
        ]
    );
}

#[test]
fn methods_prefixes_and_headers_are_judged_where_they_are_written() {
    assert_eq!(
        mistakes(&destinations(
            r#"{"hosts":["a.example"],"methods":["get","G T","PUT","PUT"],"path_prefixes":["v1","/v1?x","/*","/a/../b","/%61","/a","/a/"]},
               {"hosts":["b.example"],"header":"Host"},{"hosts":["c.example"],"header":":path"},{"hosts":["d.example"],"header":"Transfer-Encoding"},
               {"hosts":["e.example"],"header":"x-envoy-retry-on"}"#
        )),
        [
            r#"destinations[0].methods[0]: "get" is another method than "GET": write "GET""#,
            r#"destinations[0].methods[1]: "G T" is no method: write such as "GET""#,
            r#"destinations[0].methods[3]: "PUT" stands here a second time: write it once"#,
            r#"destinations[0].path_prefixes[0]: "v1" is no path prefix: write whole segments that begin with a slash, such as "/v1.0/users""#,
            r#"destinations[0].path_prefixes[1]: "/v1?x" is no path prefix: write whole segments that begin with a slash, such as "/v1.0/users""#,
            r#"destinations[0].path_prefixes[2]: "/*" is no path prefix: write whole segments that begin with a slash, such as "/v1.0/users""#,
            r#"destinations[0].path_prefixes[3]: "/a/../b" has a dot segment, and requests for such paths are refused: write it without"#,
            r#"destinations[0].path_prefixes[4]: "/%61" has an escape of a character that can be written as it is: write "/a""#,
            r#"destinations[0].path_prefixes[6]: "/a/" stands here a second time: write it once"#,
            r#"destinations[1].header: "host" does not reach the destination as it is: write "authorization" or a header of your own"#,
            r#"destinations[2].header: ":path" is no header: write such as "authorization""#,
            r#"destinations[3].header: "transfer-encoding" does not reach the destination as it is: write "authorization" or a header of your own"#,
            r#"destinations[4].header: "x-envoy-retry-on" does not reach the destination as it is: write "authorization" or a header of your own"#,
        ]
    );
}

#[test]
fn a_wildcard_under_which_strangers_can_have_hosts_is_refused() {
    assert_eq!(
        mistakes(&destinations(
            r#"{"hosts":["*.example.com","kv.vault.azure.net","*.vault.azure.net:443","*.254.169.254"]}"#
        )),
        [
            r#"destinations[0].hosts[3]: "*.254.169.254" is no host: write a name such as "api.example.com" or "*.example.com", with :port if only that port is meant"#,
            r#"destinations[0].hosts[2]: strangers can have a host under "*.vault.azure.net": list your own hosts, or write shared_suffix: allowed"#,
        ]
    );
    assert!(parse(&destinations(r#"{"hosts":["*.vault.azure.net"],"shared_suffix":"allowed"}"#)).is_ok());
}

#[test]
fn what_passes_or_is_refused_needs_no_scope_and_no_identity() {
    let two = format!(r#""identities":[{{"name":"a","client_id":"{CLIENT}"}},{{"name":"b","client_id":"{CLIENT}"}}]"#);
    let config = parse(&format!(
        r#"{{{two},"destinations":[{{"hosts":["a.example"],"action":"pass"}},{{"hosts":["b.example"],"identity":"a","action":"refuse"}}]}}"#
    ));
    assert!(config.is_ok());
    assert_eq!(
        mistakes(&format!(r#"{{{two},"destinations":[{{"hosts":["a.example"],"action":"report"}}]}}"#)),
        [
            "destinations[0].scope: is missing: write the resource and /.default",
            "destinations[0].identity: is missing: write a or b"
        ]
    );
}

#[test]
fn principals_stand_at_all_identities_or_none_and_one_caller_gets_one_token() {
    let two = |first: &str, second: &str, more: &str| {
        format!(
            r#"{{"identities":[{{"name":"a","client_id":"{CLIENT}"{first}}},{{"name":"b","client_id":"{CLIENT}"{second}}}],
                "destinations":[{{"hosts":["x.example"],"scope":"s/.default"{more}}}]}}"#
        )
    };
    let spiffe = |name: &str| format!(r#","principals":["spiffe://{name}"]"#);
    let config = parse(&two(&spiffe("a"), &spiffe("b"), "")).unwrap();
    assert!(config.warnings.is_empty());
    assert!(matches!(&config.destinations[0].action, Action::Inject(Token { whose: Whose::Caller, .. }, _)));
    assert_eq!(
        mistakes(&two(&spiffe("a"), "", "")),
        [r#"identities[1].principals: is missing: another identity has principals, so say who may use "b" too"#]
    );
    assert_eq!(
        mistakes(&two(&spiffe("a"), &spiffe("a"), "")),
        [
            r#"identities[1].principals[0]: "spiffe://a" stands at "a" too, and destinations[0] names no identity: write it at one of them, or an identity at each destination"#
        ]
    );
    assert!(parse(&two(&spiffe("a"), &spiffe("a"), r#","identity":"b""#)).is_ok());
    assert_eq!(
        mistakes(&two(
            r#","principals":["c/ns/a/sa/b","spiffe://c/ns/*","spiffe://c","spiffe://c"]"#,
            &spiffe("b"),
            ""
        )),
        [
            r#"identities[0].principals[0]: "c/ns/a/sa/b" is no URI: write it as the certificate has it, "spiffe://c/ns/a/sa/b""#,
            r#"identities[0].principals[1]: "spiffe://c/ns/*" is no principal: write each in full, there are no patterns"#,
            r#"identities[0].principals[3]: "spiffe://c" stands here a second time: write it once"#,
        ]
    );
    assert_eq!(
        mistakes(r#"{"identities":[{"principals":["spiffe://a"]}],"managed_identity":{"imds":{}}}"#),
        [
            "identities[0].principals: cannot be looked for among managed-identity callers, who show no certificate: take the identity out of managed_identity.identities"
        ]
    );
}

/// The hosts of each destination, and what their token is for.
fn targets(text: &str) -> Vec<(Vec<String>, String)> {
    let target = |destination: &Destination| {
        let hosts = destination.hosts.iter().map(ToString::to_string).collect();
        match &destination.action {
            Action::Inject(token, _) | Action::Report(token, _) => (hosts, token.scope.clone()),
            _ => (hosts, String::new()),
        }
    };
    parse(text).unwrap().destinations.iter().map(target).collect()
}

#[test]
fn a_service_of_azures_brings_hosts_and_scope_by_the_clouds_authority() {
    let target = |hosts: &[&str], scope: &str| {
        (hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>(), scope.to_owned())
    };
    let text = r#"{"defaults":{"tls_clusters":["outbound|80||{host}"],"scope":"api://mine/.default"},"destinations":[
        {"azure_service":"key_vault","names":["payments-kv","payments-kv2"]},
        {"azure_service":"microsoft_graph","methods":["GET"],"path_prefixes":["/v1.0/users"]},
        {"hosts":["api.example.com"]}]}"#;
    assert_eq!(
        targets(text),
        [
            target(
                &["payments-kv.vault.azure.net", "payments-kv2.vault.azure.net"],
                "https://vault.azure.net/.default"
            ),
            target(&["graph.microsoft.com"], "https://graph.microsoft.com/.default"),
            target(&["api.example.com"], "api://mine/.default"),
        ]
    );
    let government = text.replacen('{', r#"{"entra":{"authority":"https://login.microsoftonline.us"},"#, 1);
    assert_eq!(targets(&government)[0].0[0], "payments-kv.vault.usgovcloudapi.net");
    assert_eq!(targets(&government)[1], target(&["graph.microsoft.us"], "https://graph.microsoft.us/.default"));
    let by_variable = Config::parse(text.as_bytes(), &|name: &str| match name {
        "AZURE_AUTHORITY_HOST" => Some("https://login.partner.microsoftonline.cn/".into()),
        other => webhook(other),
    });
    assert_eq!(by_variable.unwrap().destinations[0].hosts[0].to_string(), "payments-kv.vault.azure.cn");
}

#[test]
fn a_service_whose_scope_has_the_name_in_it_is_a_destination_for_each() {
    let text = r#"{"identities":[{"name":"a","client_id":"aaaaaaaa-0000-4000-8000-000000000001","principals":["spiffe://x/ns/a/sa/b"]},
        {"name":"b","client_id":"bbbbbbbb-0000-4000-8000-000000000002","principals":["spiffe://x/ns/a/sa/b"]}],
        "destinations":[{"azure_service":"data_explorer","names":["first.weu","second.weu"],"identity":"a"},{"hosts":["x.example"],"scope":"x/.default"}]}"#;
    // The place that a mistake names is the one that the operator counts.
    assert_eq!(
        mistakes(text),
        [
            "identities[1].principals[0]: \"spiffe://x/ns/a/sa/b\" stands at \"a\" too, and destinations[1] names no identity: write it at one of them, or an identity at each destination"
        ]
    );
    let text = r#"{"destinations":[{"azure_service":"data_explorer","names":["first.weu","second.weu"]}]}"#;
    let scopes: Vec<String> = targets(text).into_iter().map(|(_, scope)| scope).collect();
    assert_eq!(
        scopes,
        ["https://first.weu.kusto.windows.net/.default", "https://second.weu.kusto.windows.net/.default"]
    );
}

#[test]
fn a_service_brings_the_form_of_its_header() {
    let config = parse(r#"{"destinations":[{"azure_service":"cosmos_db","names":["payments"]}]}"#).unwrap();
    assert_eq!(terms(&config).form, HeaderForm::CosmosDb);
    assert_eq!(terms(&parse(SMALLEST).unwrap()).form, HeaderForm::Bearer);
}

#[test]
fn what_is_wrong_with_a_service_is_said_where_it_stands() {
    let said = |destination: &str| mistakes(&format!(r#"{{"destinations":[{destination}]}}"#));
    for (destination, expected) in [
        (
            r#"{"azure_service":"key_valt","names":["kv1"]}"#,
            &[r#"destinations[0].azure_service: "key_valt" is not a known service: did you mean "key_vault"?"#][..],
        ),
        (
            r#"{"azure_service":"container_registry","names":["r"]}"#,
            &[
                r#"destinations[0].azure_service: "container_registry" cannot be a destination, because a registry does not accept Entra tokens: it requires an exchange of its own after a challenge: use the kubelet's credential provider, or have the client request https://containerregistry.azure.net from managed_identity"#,
            ],
        ),
        (
            r#"{"azure_service":"key_vault"}"#,
            &[
                r#"destinations[0].azure_service: "key_vault" has a host for each resource, {name}.vault.azure.net: list your resources in names"#,
            ],
        ),
        (
            r#"{"azure_service":"microsoft_graph","names":["x"]}"#,
            &[
                r#"destinations[0].names: "microsoft_graph" has the same host for all customers, graph.microsoft.com: remove names"#,
            ],
        ),
        (
            r#"{"azure_service":"key_vault","names":["ok1","payments-kv.vault.azure.net","a.b","evil.example/"]}"#,
            &[
                r#"destinations[0].names[1]: "payments-kv.vault.azure.net" is a host: write only the name, "payments-kv""#,
                r#"destinations[0].names[2]: "a.b" is not a valid resource name: expected 3 to 24 letters, digits and, between them, single hyphens, starting with a letter"#,
                r#"destinations[0].names[3]: "evil.example/" is not a valid resource name: expected 3 to 24 letters, digits and, between them, single hyphens, starting with a letter"#,
            ],
        ),
        (
            r#"{"azure_service":"key_vault","names":["kv1"],"hosts":["x.example"],"scope":"x/.default"}"#,
            &[
                "destinations[0].hosts: is what azure_service makes: leave out one of the two",
                "destinations[0].scope: is what azure_service makes: leave out one of the two",
            ],
        ),
        (
            r#"{"names":["kv1"],"hosts":["x.example"],"scope":"x/.default"}"#,
            &["destinations[0].names: are the names of what service's resources? Write azure_service"],
        ),
        (
            r#"{"azure_service":"key_vault","names":["kv1"]},{"hosts":["kv1.vault.azure.net"],"scope":"x/.default"}"#,
            &[
                r#"destinations[1].hosts[0]: "kv1.vault.azure.net" stands in two places (also destinations[0]), and which of them decides is not clear: write it once, or tell them apart by port, path_prefixes or methods"#,
            ],
        ),
    ] {
        assert_eq!(said(destination), expected, "{destination}");
    }
    let sovereign = r#"{"entra":{"authority":"https://login.sovcloud-identity.fr"},"destinations":[{"azure_service":"key_vault","names":["kv1"]}]}"#;
    assert!(mistakes(sovereign)[0].contains("and the authority belongs to none of them"), "{:?}", mistakes(sovereign));
}

#[test]
fn white_space_at_the_ends_of_a_variable_is_named_at_load_and_rejects_requests() {
    let text = serde_json::json!({"managed_identity": {"app_service": {"secret_from_env": "A_SECRET"}}}).to_string();
    let read = |name: &'static str, value: &'static str| {
        let variable = move |asked: &str| match asked {
            asked if asked == name => Some(value.to_owned()),
            "AZURE_TENANT_ID" | "AZURE_CLIENT_ID" => Some("11111111-1111-4111-8111-111111111111".to_owned()),
            "A_SECRET" => Some("a secret".to_owned()),
            _ => None,
        };
        Config::parse(text.as_bytes(), &variable).unwrap()
    };
    assert_eq!(read("", "").warnings, [] as [&str; 0]);
    for name in ["AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_AUTHORITY_HOST", "A_SECRET"] {
        for value in ["11111111-1111-4111-8111-111111111111\n", " x", "x\u{a0}", "\t", "https://login.microsoft.com "] {
            let config = read(name, value);
            assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);
            assert!(config.warnings[0].starts_with(&format!("{name} begins or ends with white space. Remove")));
            let secret = config.managed_identity.unwrap().app_service.unwrap().secret.is_err();
            assert_eq!((config.identities[0].principal.is_err(), secret), (name != "A_SECRET", name == "A_SECRET"));
        }
    }
}
