//! What `defaults` and `destinations` take, what they reject, and what they warn of.

use super::*;

const TENANT: &str = "11111111-1111-4111-8111-111111111111";
const CLIENT: &str = "aaaaaaaa-0000-4000-8000-000000000001";

fn parse(text: &str) -> Result<Config, Refused> {
    Config::parse(text.as_bytes(), &|name| match name {
        "AZURE_TENANT_ID" => Some(TENANT.into()),
        "AZURE_CLIENT_ID" => Some(CLIENT.into()),
        _ => None,
    })
}

/// The mistakes in these destinations, without the place of the first.
fn mistakes(destinations: &str) -> Vec<String> {
    let text = format!(r#"{{"destinations":[{destinations}]}}"#);
    let refused = parse(&text).map(|_| ()).expect_err(&text);
    refused.0.iter().map(|it| it.to_string().trim_start_matches("destinations[0].").to_owned()).collect()
}

fn warnings(destinations: &str) -> Vec<String> {
    let text = format!(r#"{{"defaults":{{"tls_clusters":["x"]}},"destinations":[{destinations}]}}"#);
    parse(&text).unwrap_or_else(|refused| panic!("{refused}")).warnings
}

fn terms(config: &Config) -> &Terms {
    match &config.destinations[0].action {
        Action::Inject(_, terms) => terms,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_scope_that_is_not_a_resource_and_default_says_what_would_be() {
    for (scope, expected) in [
        ("/.default", r#"scope: "/.default" has no resource: write it before /.default"#),
        ("//.default", r#"scope: "//.default" has no resource: write it before /.default"#),
        (
            "api://a/.default/.default",
            r#"scope: "api://a/.default/.default" has /.default twice: write "api://a/.default""#,
        ),
        ("api://orders", r#"scope: "api://orders" is a resource: write "api://orders/.default""#),
        (
            "https://vault.azure.net/",
            r#"scope: "https://vault.azure.net/" is a resource: write "https://vault.azure.net/.default""#,
        ),
        (
            "api://orders/read",
            r#"scope: "api://orders/read" does not end in /.default: write "api://orders/.default" if "read" is a permission (a workload gets all that it was granted), or "api://orders/read/.default" if it is a part of the resource's identifier"#,
        ),
        (
            "https://graph.microsoft.com/User.Read.All",
            r#"scope: "https://graph.microsoft.com/User.Read.All" does not end in /.default: write "https://graph.microsoft.com/.default" if "User.Read.All" is a permission (a workload gets all that it was granted), or "https://graph.microsoft.com/User.Read.All/.default" if it is a part of the resource's identifier"#,
        ),
        (
            "User.Read",
            r#"scope: "User.Read" is a permission, not a resource: write the resource's identifier and /.default, such as "https://graph.microsoft.com/.default""#,
        ),
    ] {
        assert_eq!(mistakes(&format!(r#"{{"hosts":["a.example"],"scope":"{scope}"}}"#)), [expected]);
    }
    for scope in [CLIENT, "api://a", "https://contoso.onmicrosoft.com/orders", "https://monitor.azure.com/"] {
        let text = format!(r#"{{"destinations":[{{"hosts":["a.example"],"scope":"{scope}/.default"}}]}}"#);
        assert!(parse(&text).is_ok(), "{scope}");
    }
}

#[test]
fn what_could_never_have_an_effect_is_rejected() {
    for (destination, expected) in [
        (
            r#"{"hosts":["a.example"],"scope":"s/.default","methods":["*"]}"#,
            r#"methods[0]: "*" is not a method, and there are no patterns: leave methods out for any method"#,
        ),
        (
            r#"{"hosts":["a.example"],"scope":"s/.default","path_prefixes":["/v1/orders/*"]}"#,
            r#"path_prefixes[0]: "/v1/orders/*" is not a path prefix: a prefix covers all paths below it, so write "/v1/orders""#,
        ),
        (
            r#"{"hosts":["a.example"],"scope":"s/.default","tls_clusters":["to_{host}","{name}"]}"#,
            r#"tls_clusters[1]: "{name}" has a placeholder {name}, and only {host} is replaced: write {host} or the cluster's name"#,
        ),
        (
            r#"{"hosts":["a.example"],"action":"refuse","warm":true}"#,
            "warm: has no effect, because this action uses no token: leave it out",
        ),
        (
            r#"{"hosts":["a.example"],"action":"block"}"#,
            r#"action: "block" is not one of the words here: write "inject" or "report" or "pass" or "refuse""#,
        ),
        (
            r#"{"hosts":["a.example"],"scope":"s/.default","override_headers":"allowed"}"#,
            r#"override_headers: "allowed" is not one of the words here: write "refuse" or "allow""#,
        ),
        (
            r#"{"hosts":["a.example"],"scope":"s/.default","path_prefixes":["/v1.0/%24batch"]}"#,
            r#"path_prefixes[0]: "/v1.0/%24batch" has an escape of a character that can be written as it is: write "/v1.0/$batch""#,
        ),
        (
            r#"{"hosts":["a.example"],"scope":"s/.default","path_prefixes":["/a;b"]}"#,
            r#"path_prefixes[0]: "/a;b" has a matrix parameter (;), and requests for such paths are refused: write it without"#,
        ),
        (
            r#"{"hosts":["a.example"],"scope":"s/.default","path_prefixes":["/caf%C3%A9","/caf%c3%a9"]}"#,
            r#"path_prefixes[1]: "/caf%c3%a9" stands here a second time: write it once"#,
        ),
    ] {
        assert_eq!(mistakes(destination), [expected]);
    }
    let defaults =
        r#"{"defaults":{"warm":true,"scope":"s/.default"},"destinations":[{"hosts":["a.example"],"action":"refuse"}]}"#;
    assert!(parse(defaults).is_ok(), "what is said for all need not fit each");
}

#[test]
fn a_header_that_envoy_prints_cannot_take_a_token() {
    for header in ["User-Agent", "x-forwarded-for", "x-request-id", "x-client-trace-id"] {
        let told = mistakes(&format!(r#"{{"hosts":["a.example"],"scope":"s/.default","header":"{header}"}}"#));
        let name = header.to_ascii_lowercase();
        assert_eq!(
            told,
            [format!(
                r#"header: "{name}" is printed by Envoy's default access log or traces, and the token with it: write "authorization" or a header of your own"#
            )]
        );
    }
}

#[test]
fn an_empty_list_of_clusters_undoes_the_defaults() {
    let text = |own: &str| {
        format!(
            r#"{{"defaults":{{"tls_clusters":["x"],"scope":"s/.default"}},"destinations":[{{"hosts":["a.example"]{own}}}]}}"#
        )
    };
    assert_eq!(terms(&parse(&text("")).unwrap()).tls_clusters, ["x"]);
    assert_eq!(terms(&parse(&text(r#","tls_clusters":[]"#)).unwrap()).tls_clusters, Vec::<String>::new());
    assert!(parse(&text(r#","tls_clusters":"x""#)).is_err());
}

#[test]
fn a_wildcard_over_a_shared_suffix_needs_no_danger_word_where_no_token_is_sent() {
    for action in ["refuse", "pass"] {
        let text = format!(r#"{{"destinations":[{{"hosts":["*.vault.azure.net"],"action":"{action}"}}]}}"#);
        assert!(parse(&text).is_ok(), "{action}");
    }
    for action in ["inject", "report"] {
        let told = mistakes(&format!(r#"{{"hosts":["*.vault.azure.net"],"scope":"s/.default","action":"{action}"}}"#));
        assert!(told[0].starts_with("hosts[0]: strangers can have a host under"), "{told:?}");
    }
    for host in ["*.com", "*.co.uk", "*.com.br", "*.grafana.azure.com", "*.fhir.azurehealthcareapis.com"] {
        assert_eq!(mistakes(&format!(r#"{{"hosts":["{host}"],"scope":"s/.default"}}"#)).len(), 1, "{host}");
    }
    assert!(parse(r#"{"destinations":[{"hosts":["*.example.co.uk"],"scope":"s/.default"}]}"#).is_ok());
}

#[test]
fn a_service_whose_scope_is_the_operators_needs_it_written() {
    let functions = |scope: &str| {
        format!(
            r#"{{"destinations":[{{"azure_service":"functions","names":["orders","pay-b2c.westeurope-01"]{scope}}}]}}"#
        )
    };
    let config = parse(&functions(r#","scope":"api://orders/.default""#)).unwrap();
    let hosts: Vec<String> = config.destinations[0].hosts.iter().map(ToString::to_string).collect();
    assert_eq!(hosts, ["orders.azurewebsites.net", "pay-b2c.westeurope-01.azurewebsites.net"]);
    assert!(
        matches!(&config.destinations[0].action, Action::Inject(token, _) if token.scope == "api://orders/.default")
    );
    assert_eq!(
        parse(&functions("")).unwrap_err().to_string(),
        "destinations[0].scope: is missing: write the resource and /.default"
    );
}

#[test]
fn a_path_that_is_refused_beside_a_wide_rule_where_odata_is_spoken_is_warned_of() {
    let refuse = r#"{"hosts":["graph.microsoft.com"],"path_prefixes":["/v1.0/users/x/messages"],"action":"refuse"}"#;
    let warning = r#"destinations[1] refuses paths on "graph.microsoft.com", which speaks OData, and does not restrict access beside destinations[0]: the same resource has other paths (POST /$batch, /users('id'), another version); list in destinations[0].path_prefixes and methods what may be reached instead"#;
    let graph = |more: &str| format!(r#"{{"hosts":["graph.microsoft.com"],"scope":"s/.default"{more}}},{refuse}"#);
    assert_eq!(warnings(&graph("")), [warning]);
    assert_eq!(warnings(&graph(r#","path_prefixes":["/v1.0"]"#)), [warning]);
    assert_eq!(warnings(&graph(r#","action":"report""#)), [warning]);
    assert_eq!(warnings(&format!(r#"{{"azure_service":"microsoft_graph"}},{refuse}"#)), [warning]);
    assert_eq!(warnings(&graph(r#","path_prefixes":["/v1.0/users"]"#)), Vec::<String>::new());
    assert_eq!(warnings(&graph(r#","path_prefixes":["/beta"]"#)), Vec::<String>::new());
    let search = r#"{"azure_service":"search","names":["payments"]},
        {"azure_service":"search","names":["payments"],"path_prefixes":["/indexes/secret"],"action":"refuse"}"#;
    assert_eq!(warnings(search).len(), 1);
    let wildcard = r#"{"hosts":["*.crm4.dynamics.com"],"scope":"s/.default","shared_suffix":"allowed"},
        {"hosts":["contoso.crm4.dynamics.com"],"path_prefixes":["/api/data/v9.2/accounts"],"action":"refuse"}"#;
    assert_eq!(warnings(wildcard).len(), 1);
    let elsewhere = r#"{"hosts":["api.example.com"],"scope":"s/.default"},
        {"hosts":["api.example.com"],"path_prefixes":["/admin"],"action":"refuse"}"#;
    assert_eq!(warnings(elsewhere), Vec::<String>::new());
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

#[test]
fn a_time_may_have_an_offset() {
    let discarded = |text: &str| {
        let text =
            format!(r#"{{"identities":[{{"discard_tokens_before":"{text}"}}],"managed_identity":{{"imds":{{}}}}}}"#);
        let config = parse(&text).ok()?;
        config.identities[0].grant("s/.default").unwrap().discard_before()
    };
    let utc = Timestamp::from_unix_seconds(1_769_825_400);
    for same in [
        "2026-01-31T02:10:00Z",
        "2026-01-31T02:10:00+00:00",
        "2026-01-31T02:10:00-00:00",
        "2026-01-31T03:10:00+01:00",
        "2026-01-31T07:40:00+05:30",
        "2026-01-30T18:10:00-08:00",
    ] {
        assert_eq!(discarded(same), Some(utc), "{same}");
    }
    for wrong in [
        "2026-01-31",
        "2026-01-31T02:10:00",
        "2026-01-31T02:10:00+1:00",
        "2026-01-31T02:10:00+01",
        "2026-01-31T02:10:00+24:00",
        "2026-01-31T02:10:00+01:60",
        "2026-01-31T02:10:00Z+01:00",
        "2026-01-31T02:10:00++1:00",
        "+01:00",
        "\u{e9}\u{e9}\u{e9}\u{e9}",
    ] {
        assert_eq!(discarded(wrong), None, "{wrong}");
    }
}

/// All mistakes of a whole text.
fn all(text: &[u8]) -> Vec<String> {
    Config::parse(text, &|_| Some(CLIENT.into())).unwrap_err().0.iter().map(ToString::to_string).collect()
}

#[test]
fn a_mistake_hides_no_other() {
    let nameless = br#"{"identities":[{"client_id":"x","principals":["a b"]},"y",{"name":"b","principals":["spiffe://b"],"object_id":"z"},{"name":"c"}],
        "managed_identity":{"identities":["b","b","nobody"],"imds":{}}}"#;
    assert_eq!(
        all(nameless),
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
        all(doubled),
        [
            "destinations[0].scope: stands here a second time: write it once",
            "destinations[0].methods: stands here a second time: write it once",
            r#"destinations[0].methods[0]: "get" is another method than "GET": write "GET""#,
            "destinations[0].scope: 5 is not a text: write a string that is not empty",
        ]
    );
    let names = br#"{"destinations":[{"azure_service":"key_vault","names":[12345]}]}"#;
    assert_eq!(all(names), ["destinations[0].names[0]: 12345 is not a text: write a string that is not empty"]);
}

#[test]
fn a_text_in_another_encoding_is_named_as_such() {
    assert_eq!(all(b"\xef\xbb\xbf{}"), ["the text begins with a byte order mark: save it as UTF-8 without one"]);
    for text in [&b"\xff\xfe{\0}\0"[..], b"\xfe\xff\0{\0}", b"{\0}\0", b"\0{\0}"] {
        assert_eq!(all(text), ["the text is UTF-16: save it as UTF-8"]);
    }
}

#[test]
fn what_managed_identity_callers_can_never_get_is_said() {
    let two = |second: &str| {
        parse(&format!(
            r#"{{"identities":[{{"name":"a","client_id":"{CLIENT}"}},{{"name":"b","client_id":"{second}"}}],
                "managed_identity":{{"identities":["a","b"],"imds":{{}}}}}}"#
        ))
        .unwrap()
        .warnings
    };
    assert_eq!(
        two(CLIENT),
        [
            "identities[0] (a) and identities[1] (b) are on offer with one client_id, by which callers cannot select: have them select by object_id or resource_id, and set these at both"
        ]
    );
    assert_eq!(two(TENANT), Vec::<String>::new());
    assert_eq!(
        all(br#"{"identities":[{"resources":["https://vault.azure.net/.default","https://vault.azure.net/"]}],"managed_identity":{"imds":{}}}"#),
        [
            r#"identities[0].resources[0]: "https://vault.azure.net/.default" is a scope, and callers ask for a resource: write "https://vault.azure.net""#
        ]
    );
    let pass = |path: &str| parse(&format!(r#"{{"managed_identity":{{"imds":{{"pass":["{path}"]}}}}}}"#)).is_ok();
    assert!(pass("/metadata/identityprovider"));
    assert!(!pass("/metadata/identity") && !pass("/metadata/Identity/info") && !pass("/metadata/%69dentity"));
}

#[test]
fn an_implicit_identity_need_not_be_used() {
    let only_refused = parse(r#"{"destinations":[{"hosts":["a.example"],"action":"refuse"}]}"#).unwrap();
    assert_eq!(only_refused.warnings, Vec::<String>::new());
}

#[test]
fn a_time_in_the_future_discards_every_token_until_then() {
    let config =
        parse(r#"{"identities":[{"discard_tokens_before":"2026-01-31T02:10:00Z"}],"managed_identity":{"imds":{}}}"#);
    let config = config.unwrap();
    let then = Timestamp::from_unix_seconds(1_769_825_400);
    assert_eq!(config.warnings_at(then), Vec::<String>::new());
    assert_eq!(
        config.warnings_at(then.minus(std::time::Duration::from_secs(1))),
        [
            "identities[0].discard_tokens_before (default) is in the future and has no effect until then; set the time at which the roles changed"
        ]
    );
}
