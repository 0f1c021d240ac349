//! Tests of the sections `defaults` and `destinations`: accepted values, mistakes and warnings.

use super::*;

/// A configuration with these destinations, all of which may send tokens in plaintext.
fn destinations(text: &str) -> String {
    format!(r#"{{"defaults":{{"scope":"s/.default","plaintext":"allow"}},"destinations":[{text}]}}"#)
}

/// The mistakes in these destinations, without the path of the first one.
fn mistakes_in(destinations: &str) -> Vec<String> {
    let text = format!(r#"{{"destinations":[{destinations}]}}"#);
    let refused = parse(&text).map(|_| ()).expect_err(&text);
    refused.0.iter().map(|it| it.to_string().trim_start_matches("destinations[0].").to_owned()).collect()
}

fn warnings(destinations: &str) -> Vec<String> {
    let text = format!(r#"{{"defaults":{{"tls_clusters":["x"]}},"destinations":[{destinations}]}}"#);
    parse(&text).unwrap_or_else(|refused| panic!("{refused}")).warnings
}

#[test]
fn a_destination_overrides_the_defaults() {
    let config = parse(
        r#"{"defaults":{"action":"report","scope":"a/.default","tls_clusters":["x"],"existing_credential":"replace","header":"X-A","on_failure":"pass"},
            "destinations":[{"hosts":["a.example"],"action":"inject","existing_credential":"refuse"},{"hosts":["b.example"]}]}"#,
    )
    .unwrap();
    let injection = injection(&config);
    assert_eq!(
        (injection.settings.header.as_str(), injection.settings.existing_credential),
        ("x-a", ExistingCredential::Refuse)
    );
    assert_eq!(
        (injection.settings.tls_clusters.as_slice(), injection.settings.pass_on_failure),
        (&["x".to_owned()][..], true)
    );
    assert!(
        matches!(&config.destinations[1].action, DestinationAction::Report(token, _) if token.scope == "a/.default")
    );
    assert_eq!(
        mistakes(
            r#"{"defaults":{"hosts":["a.example"],"scope":"a"},"destinations":[{"hosts":["a.example"]},{"hosts":["b.example"]}]}"#
        ),
        [
            "defaults.hosts: unknown field: expected one of scope, identity, action, tls_clusters, plaintext, shared_suffix, override_headers, existing_credential, header, on_failure, warm",
            r#"defaults.scope: "a" is a resource: write "a/.default""#,
        ],
        "each once, not for each destination"
    );
}

#[test]
fn destinations_that_match_the_same_requests_are_rejected() {
    assert!(parse(&destinations(
        r#"{"hosts":["a.example"]},{"hosts":["a.example:80"]},{"hosts":["*.example"],"shared_suffix":"allow"},
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
            r#"destinations[1].hosts[0]: "a.example" with path "/v2" and method PUT is also listed in destinations[0]: remove one of the two, or distinguish them by port, path_prefixes or methods"#,
            r#"destinations[2].hosts[2]: "b.example:80" is also listed in destinations[2]: remove one of the two, or distinguish them by port, path_prefixes or methods"#,
        ]
    );
}

#[test]
fn mistakes_in_methods_prefixes_and_headers_name_their_fields() {
    assert_eq!(
        mistakes(&destinations(
            r#"{"hosts":["a.example"],"methods":["get","G T","PUT","PUT"],"path_prefixes":["v1","/v1?x","/*","/a/../b","/%61","/a","/a/"]},
               {"hosts":["b.example"],"header":"Host"},{"hosts":["c.example"],"header":":path"},{"hosts":["d.example"],"header":"Transfer-Encoding"},
               {"hosts":["e.example"],"header":"x-envoy-retry-on"}"#
        )),
        [
            r#"destinations[0].methods[0]: "get" is not the method "GET", because methods are case-sensitive: write "GET""#,
            r#"destinations[0].methods[1]: "G T" is not a valid method: write a method such as "GET""#,
            r#"destinations[0].methods[3]: "PUT" is a duplicate entry: remove it"#,
            r#"destinations[0].path_prefixes[0]: "v1" is not a valid path prefix: write whole segments that begin with a slash, such as "/v1.0/users""#,
            r#"destinations[0].path_prefixes[1]: "/v1?x" is not a valid path prefix: write whole segments that begin with a slash, such as "/v1.0/users""#,
            r#"destinations[0].path_prefixes[2]: "/*" is not a valid path prefix: write whole segments that begin with a slash, such as "/v1.0/users""#,
            r#"destinations[0].path_prefixes[3]: "/a/../b" has a dot segment, and requests with such paths are rejected: remove it"#,
            r#"destinations[0].path_prefixes[4]: "/%61" has an escape of a character that can be written as it is: write "/a""#,
            r#"destinations[0].path_prefixes[6]: "/a/" is a duplicate entry: remove it"#,
            r#"destinations[1].header: "host" does not reach the destination unchanged: write "authorization" or a header of your own"#,
            r#"destinations[2].header: ":path" is not a valid header: write a header such as "authorization""#,
            r#"destinations[3].header: "transfer-encoding" does not reach the destination unchanged: write "authorization" or a header of your own"#,
            r#"destinations[4].header: "x-envoy-retry-on" does not reach the destination unchanged: write "authorization" or a header of your own"#,
        ]
    );
}

#[test]
fn a_wildcard_under_which_anyone_can_register_a_host_is_rejected() {
    assert_eq!(
        mistakes(&destinations(
            r#"{"hosts":["*.example.com","kv.vault.azure.net","*.vault.azure.net:443","*.254.169.254"]}"#
        )),
        [
            r#"destinations[0].hosts[3]: "*.254.169.254" is not a valid host: write a name such as "api.example.com" or "*.example.com", with :port to match that port only"#,
            r#"destinations[0].hosts[2]: anyone can register a host under "*.vault.azure.net": list your own hosts, or set shared_suffix to "allow""#,
        ]
    );
    assert!(parse(&destinations(r#"{"hosts":["*.vault.azure.net"],"shared_suffix":"allow"}"#)).is_ok());
}

#[test]
fn a_wildcard_over_a_shared_suffix_needs_no_permission_if_no_token_is_sent() {
    for action in ["refuse", "pass"] {
        let text = format!(r#"{{"destinations":[{{"hosts":["*.vault.azure.net"],"action":"{action}"}}]}}"#);
        assert!(parse(&text).is_ok(), "{action}");
    }
    for action in ["inject", "report"] {
        let mistakes =
            mistakes_in(&format!(r#"{{"hosts":["*.vault.azure.net"],"scope":"s/.default","action":"{action}"}}"#));
        assert!(mistakes[0].starts_with("hosts[0]: anyone can register a host under"), "{mistakes:?}");
    }
    for host in ["*.com", "*.co.uk", "*.com.br", "*.grafana.azure.com", "*.fhir.azurehealthcareapis.com"] {
        assert_eq!(mistakes_in(&format!(r#"{{"hosts":["{host}"],"scope":"s/.default"}}"#)).len(), 1, "{host}");
    }
    assert!(parse(r#"{"destinations":[{"hosts":["*.example.co.uk"],"scope":"s/.default"}]}"#).is_ok());
}

#[test]
fn a_destination_with_the_action_pass_or_refuse_needs_no_scope_and_no_identity() {
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
fn a_mistake_in_a_scope_names_a_valid_scope() {
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
            r#"scope: "api://orders/read" does not end in /.default: write "api://orders/.default" if "read" is a permission (a workload gets all permissions that it was granted), or "api://orders/read/.default" if it is part of the resource's identifier"#,
        ),
        (
            "https://graph.microsoft.com/User.Read.All",
            r#"scope: "https://graph.microsoft.com/User.Read.All" does not end in /.default: write "https://graph.microsoft.com/.default" if "User.Read.All" is a permission (a workload gets all permissions that it was granted), or "https://graph.microsoft.com/User.Read.All/.default" if it is part of the resource's identifier"#,
        ),
        ("Orders", r#"scope: "Orders" is a resource: write "Orders/.default""#),
        ("Orders.example", r#"scope: "Orders.example" is a resource: write "Orders.example/.default""#),
        (
            "User.Read",
            r#"scope: "User.Read" is a permission, not a resource: write the resource's identifier and /.default, such as "https://graph.microsoft.com/.default""#,
        ),
    ] {
        assert_eq!(mistakes_in(&format!(r#"{{"hosts":["a.example"],"scope":"{scope}"}}"#)), [expected]);
    }
    for scope in [CLIENT, "api://a", "https://contoso.onmicrosoft.com/orders", "https://monitor.azure.com/"] {
        let text = format!(r#"{{"destinations":[{{"hosts":["a.example"],"scope":"{scope}/.default"}}]}}"#);
        assert!(parse(&text).is_ok(), "{scope}");
    }
}

#[test]
fn a_setting_that_could_never_have_an_effect_is_rejected() {
    for (destination, expected) in [
        (
            r#"{"hosts":["a.example"],"scope":"s/.default","methods":["*"]}"#,
            r#"methods[0]: "*" is not a valid method: remove methods to match any method"#,
        ),
        (
            r#"{"hosts":["a.example"],"scope":"s/.default","path_prefixes":["/v1/orders/*"]}"#,
            r#"path_prefixes[0]: "/v1/orders/*" is not a valid path prefix: a prefix includes all paths below it, so write "/v1/orders""#,
        ),
        (
            r#"{"hosts":["a.example"],"scope":"s/.default","tls_clusters":["to_{host}","{name}"]}"#,
            r#"tls_clusters[1]: "{name}" has a placeholder {name}, and only {host} is replaced: write {host} or the cluster's name"#,
        ),
        (
            r#"{"hosts":["a.example"],"action":"refuse","warm":true}"#,
            "warm: has no effect, because this action uses no token: remove it",
        ),
        (
            r#"{"hosts":["a.example"],"action":"block"}"#,
            r#"action: "block" is not valid: write "inject" or "report" or "pass" or "refuse""#,
        ),
        (
            r#"{"hosts":["a.example"],"scope":"s/.default","override_headers":"allowed"}"#,
            r#"override_headers: "allowed" is not valid: write "refuse" or "allow""#,
        ),
        (
            r#"{"hosts":["a.example"],"scope":"s/.default","path_prefixes":["/v1.0/%24batch"]}"#,
            r#"path_prefixes[0]: "/v1.0/%24batch" has an escape of a character that can be written as it is: write "/v1.0/$batch""#,
        ),
        (
            r#"{"hosts":["a.example"],"scope":"s/.default","path_prefixes":["/a;b"]}"#,
            r#"path_prefixes[0]: "/a;b" has a matrix parameter (;), and requests with such paths are rejected: remove it"#,
        ),
        (
            r#"{"hosts":["a.example"],"scope":"s/.default","path_prefixes":["/caf%C3%A9","/caf%c3%a9"]}"#,
            r#"path_prefixes[1]: "/caf%c3%a9" is a duplicate entry: remove it"#,
        ),
    ] {
        assert_eq!(mistakes_in(destination), [expected]);
    }
    let defaults =
        r#"{"defaults":{"warm":true,"scope":"s/.default"},"destinations":[{"hosts":["a.example"],"action":"refuse"}]}"#;
    assert!(parse(defaults).is_ok(), "a default need not apply to every destination");
}

#[test]
fn a_header_that_envoy_logs_cannot_carry_a_token() {
    for header in ["User-Agent", "x-forwarded-for", "x-request-id", "x-client-trace-id"] {
        let mistakes = mistakes_in(&format!(r#"{{"hosts":["a.example"],"scope":"s/.default","header":"{header}"}}"#));
        let name = header.to_ascii_lowercase();
        assert_eq!(
            mistakes,
            [format!(
                r#"header: "{name}" is written to Envoy's default access log or traces, which would reveal the token: write "authorization" or a header of your own"#
            )]
        );
    }
}

#[test]
fn an_empty_list_of_clusters_overrides_the_defaults() {
    let text = |own: &str| {
        format!(
            r#"{{"defaults":{{"tls_clusters":["x"],"scope":"s/.default"}},"destinations":[{{"hosts":["a.example"]{own}}}]}}"#
        )
    };
    assert_eq!(injection(&parse(&text("")).unwrap()).settings.tls_clusters, ["x"]);
    assert_eq!(injection(&parse(&text(r#","tls_clusters":[]"#)).unwrap()).settings.tls_clusters, Vec::<String>::new());
    assert!(parse(&text(r#","tls_clusters":"x""#)).is_err());
}

#[test]
fn a_refused_path_that_another_destination_allows_by_odata_gives_a_warning() {
    let refuse = r#"{"hosts":["graph.microsoft.com"],"path_prefixes":["/v1.0/users/x/messages"],"action":"refuse"}"#;
    let warning = r#"destinations[1] refuses paths on "graph.microsoft.com", which has an OData API, but destinations[0] still allows access: the same resource has other paths (POST /$batch, /users('id'), another version). List the allowed paths and methods in path_prefixes and methods of destinations[0] instead"#;
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
    let wildcard = r#"{"hosts":["*.crm4.dynamics.com"],"scope":"s/.default","shared_suffix":"allow"},
        {"hosts":["contoso.crm4.dynamics.com"],"path_prefixes":["/api/data/v9.2/accounts"],"action":"refuse"}"#;
    assert_eq!(warnings(wildcard).len(), 1);
    for hosts in [r#""graph.microsoft.us""#, r#""*.crm.dynamics.com","crm4.dynamics.com""#, r#""microsoft.com""#] {
        let others = format!(
            r#"{{"hosts":[{hosts}],"scope":"s/.default","shared_suffix":"allow"}},{refuse},
                {{"hosts":["contoso.crm4.dynamics.com"],"path_prefixes":["/api/data/v9.2/accounts"],"action":"refuse"}}"#
        );
        assert_eq!(warnings(&others), Vec::<String>::new(), "{hosts}");
    }
    let elsewhere = r#"{"hosts":["api.example.com"],"scope":"s/.default"},
        {"hosts":["api.example.com"],"path_prefixes":["/admin"],"action":"refuse"}"#;
    assert_eq!(warnings(elsewhere), Vec::<String>::new());
}
