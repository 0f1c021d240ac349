//! Tests of the decisions about requests to destinations.

use super::*;
use crate::broker::RejectedToken;
use crate::decision::Delivery;
use crate::entra::AccessToken;
use crate::policy::Policy;
use crate::policy::tests::decide;
use crate::request::tests::Sent;

const CONFIG: &str = r#"{
    "identities": [
        {"name": "payments", "client_id": "aaaaaaaa-0000-4000-8000-000000000001"},
        {"name": "reports", "client_id": "bbbbbbbb-0000-4000-8000-000000000002"}
    ],
    "defaults": {"identity": "payments", "scope": "s/.default"},
    "destinations": [
        {"hosts": ["kv.example", "blob.example"], "scope": "https://vault.azure.net/.default", "tls_clusters": ["outbound|80||{host}"]},
        {"hosts": ["kv.example:8443"], "scope": "api://other/.default", "identity": "reports", "plaintext": "allow", "existing_credential": "replace"},
        {"hosts": ["strict.example"], "plaintext": "allow", "existing_credential": "refuse"},
        {"hosts": ["nowhere.example"]}
    ]
}"#;

fn policy_of(config: &str) -> Policy {
    let tenant = |name: &str| match name {
        "AZURE_TENANT_ID" => Some("11111111-1111-4111-8111-111111111111".to_owned()),
        "AZURE_CLIENT_ID" => Some("cccccccc-0000-4000-8000-000000000003".to_owned()),
        _ => None,
    };
    Policy::new(&Config::parse(config.as_bytes(), &tenant).unwrap(), false)
}

fn policy() -> Policy {
    policy_of(CONFIG)
}

fn routed(authority: &str, cluster: &str) -> Sent {
    Sent::get(authority, "/").routed_to(cluster)
}

/// The decision in a few words.
fn describe(decision: Decision) -> String {
    match decision {
        Decision::Exchange(spec, _) => format!("{} {}", spec.identity(), spec.scope()),
        Decision::Report(report) | Decision::ReportToNode(report) => report.summary(),
        Decision::AwaitConnection(..) => "await".to_owned(),
        Decision::Ignore => "ignore".to_owned(),
        Decision::Pass(_) => "pass".to_owned(),
        Decision::Keep(kept) => format!("{} keeps {}", kept.identity, kept.credentials),
        other @ (Decision::Live | Decision::RefuseOwn(_) | Decision::Check(_) | Decision::Status(_)) => {
            format!("{other:?}")
        }
        Decision::Refuse(refusal) => {
            let reply = refusal.reply();
            let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
            format!("{} {}", reply.status, body.get("code").unwrap().as_str().unwrap())
        }
    }
}

#[test]
fn a_request_to_an_unlisted_host_costs_one_read() {
    let request = Sent::get("elsewhere.example", "/").header("authorization", b"x");
    assert!(matches!(decide(&policy(), &request), Decision::Ignore));
    assert_eq!(*request.reads.borrow(), ["authority"]);
}

#[test]
fn a_listed_host_gets_its_token_over_its_own_cluster_only() {
    let policy = policy();
    let kv = "payments https://vault.azure.net/.default";
    assert_eq!(describe(decide(&policy, &routed("kv.example", "outbound|80||kv.example"))), kv);
    assert_eq!(describe(decide(&policy, &routed("KV.example:80", "outbound|80||kv.example"))), kv);
    assert_eq!(describe(decide(&policy, &routed("kv.example", "outbound|80||blob.example"))), "403 cluster_not_listed");
    for other in [
        "",
        "outbound|80||kv.example.evil",
        "outbound|80||kv.exampl",
        "outbound|80||",
        "OUTBOUND|80||kv.example",
        "outbound|80||kv.example ",
        "x|outbound|80||kv.example",
    ] {
        assert_eq!(describe(decide(&policy, &routed("kv.example", other))), "403 cluster_not_listed", "{other:?}");
    }
    assert_eq!(describe(decide(&policy, &routed("nowhere.example", "x"))), "403 tls_clusters_missing");
}

#[test]
fn a_similar_authority_does_not_match_the_host() {
    let policy = policy();
    for authority in [
        "kv.example.",
        "kv.example.evil",
        "evilkv.example",
        "kv.example@evil",
        "x@kv.example",
        "kv%2eexample",
        "kv.example,evil.example",
        "http://kv.example",
        "kv.ex\u{e4}mple",
        "[kv.example]",
        "",
    ] {
        assert_eq!(describe(decide(&policy, &routed(authority, "outbound|80||kv.example"))), "ignore", "{authority}");
    }
}

#[test]
fn a_rule_with_a_port_precedes_one_without() {
    assert_eq!(describe(decide(&policy(), &routed("kv.example:8443", "x"))), "reports api://other/.default");
}

#[test]
fn the_headers_of_tokens_are_those_of_the_destinations_that_inject_one() {
    let policy = policy_of(
        r#"{"defaults": {"plaintext": "allow", "scope": "s/.default"}, "destinations": [
            {"hosts": ["a.example"], "header": "X-Token"},
            {"hosts": ["b.example", "c.example"]},
            {"hosts": ["d.example"], "action": "report", "header": "x-reported"},
            {"hosts": ["e.example"], "action": "pass"}
        ]}"#,
    );
    let headers: Vec<&str> = policy.token_headers().iter().map(|name| &**name).collect();
    assert_eq!(headers, ["authorization", "x-token"]);
}

#[test]
fn the_tokens_of_destinations_with_warm_are_fetched_in_advance_once_each() {
    let policy = policy_of(
        r#"{"identities": [
                {"name": "payments", "client_id": "aaaaaaaa-0000-4000-8000-000000000001", "principals": ["spiffe://a"]},
                {"name": "reports", "client_id": "bbbbbbbb-0000-4000-8000-000000000002", "principals": ["spiffe://b"]}
            ],
            "defaults": {"identity": "reports", "plaintext": "allow", "warm": true}, "destinations": [
            {"hosts": ["a.example", "b.example"], "scope": "a/.default"},
            {"hosts": ["c.example"], "scope": "a/.default"},
            {"hosts": ["d.example"], "scope": "d/.default", "warm": false},
            {"hosts": ["e.example"], "scope": "e/.default", "identity": "payments"},
            {"hosts": ["f.example"], "action": "pass"}
        ]}"#,
    );
    let warm: Vec<_> = policy.warm().iter().map(|spec| (spec.identity(), spec.scope())).collect();
    assert_eq!(warm, [("reports", "a/.default"), ("payments", "e/.default")]);
}

#[test]
fn a_missing_variable_rejects_the_requests_that_need_it() {
    let policy = Policy::new(&Config::parse(CONFIG.as_bytes(), &|_| None).unwrap(), false);
    assert_eq!(describe(decide(&policy, &routed("kv.example", "outbound|80||kv.example"))), "503 env_var_missing");
    assert_eq!(describe(decide(&policy, &routed("elsewhere.example", ""))), "ignore");
    let pass = r#"{"destinations": [{"hosts": ["a.example"], "scope": "s/.default", "plaintext": "allow", "on_failure": "pass"}]}"#;
    let policy = Policy::new(&Config::parse(pass.as_bytes(), &|_| None).unwrap(), false);
    assert_eq!(describe(decide(&policy, &routed("a.example", ""))), "pass");
}

#[test]
fn the_most_specific_rule_applies_regardless_of_the_order() {
    let policy = policy_of(
        r#"{"defaults": {"plaintext": "allow"}, "destinations": [
            {"hosts": ["*.example.com"], "scope": "wild/.default"},
            {"hosts": ["*.example.com"], "scope": "wild-path/.default", "path_prefixes": ["/v1/"]},
            {"hosts": ["api.example.com"], "scope": "v1/.default", "path_prefixes": ["/v1"]},
            {"hosts": ["api.example.com"], "scope": "v1-get/.default", "path_prefixes": ["/v1"], "methods": ["GET", "HEAD"]},
            {"hosts": ["api.example.com"], "action": "refuse", "path_prefixes": ["/v1/users/mail"]},
            {"hosts": ["api.example.com:8443"], "scope": "port/.default"},
            {"hosts": ["other.example.com"], "action": "pass"}
        ]}"#,
    );
    let outcome = |method: &str, authority: &str, path: &str| {
        describe(decide(&policy, &Sent::get(authority, path).header(":method", method.as_bytes())))
    };
    for (method, authority, path, expected) in [
        ("GET", "api.example.com", "/v1", "default v1-get/.default"),
        ("GET", "api.example.com", "/v1/users?a=/x", "default v1-get/.default"),
        ("POST", "api.example.com", "/v1/users", "default v1/.default"),
        ("get", "api.example.com", "/v1/users", "400 ambiguous_method"),
        ("post", "api.example.com", "/v1/users", "default v1/.default"),
        ("GET", "api.example.com", "/v1/users/mail/1", "403 refused_by_rule"),
        ("GET", "api.example.com", "/v1/users/mails", "default v1-get/.default"),
        ("GET", "api.example.com", "/v10", "default wild/.default"),
        ("GET", "api.example.com", "/V1", "default wild/.default"),
        ("GET", "api.example.com:8443", "/v1/users/mail", "default port/.default"),
        ("GET", "b.example.com", "/v1", "default wild-path/.default"),
        ("GET", "b.example.com:81", "/", "default wild/.default"),
        ("GET", "a.b.example.com", "/", "ignore"),
        ("GET", "example.com", "/", "ignore"),
        ("GET", "other.example.com", "/v1", "pass"),
    ] {
        assert_eq!(outcome(method, authority, path), expected, "{method} {authority}{path}");
    }
}

#[test]
fn a_wider_rule_never_applies_to_an_ambiguous_path() {
    let policy = policy_of(
        r#"{"defaults": {"plaintext": "allow", "scope": "s/.default"}, "destinations": [
            {"hosts": ["api.example.com"], "action": "refuse", "path_prefixes": ["/admin"]},
            {"hosts": ["api.example.com"]},
            {"hosts": ["free.example.com"]},
            {"hosts": ["trial.example.com"], "action": "report", "path_prefixes": ["/admin"]}
        ]}"#,
    );
    let outcome = |authority: &str, path: &str| describe(decide(&policy, &Sent::get(authority, path)));
    assert_eq!(outcome("api.example.com", "/admin"), "403 refused_by_rule");
    for path in [
        "/x/../admin",
        "//admin",
        "/admin%2fx",
        "/.\\admin",
        "/x/%2e%2e/admin",
        "/admin;x=1/secret",
        "/x;/admin",
        "/admin%3bx",
        "/admin./x",
        "/admin%20",
        "/%2561dmin",
        "/%c0%afadmin",
    ] {
        assert_eq!(outcome("api.example.com", path), "400 ambiguous_path", "{path}");
        assert_eq!(outcome("free.example.com", path), "default s/.default", "no rule depends on the path there");
        let reported = "report unknown no token, enforced: ambiguous_path";
        assert_eq!(outcome("trial.example.com", path), reported, "a report refuses nothing");
    }
    assert_eq!(
        outcome("api.example.com", "/x?u=//admin/../;%2e"),
        "default s/.default",
        "the query is not part of the path"
    );
}

#[test]
fn a_rule_for_a_path_applies_to_every_spelling_of_it() {
    let policy = policy_of(
        r#"{"defaults": {"plaintext": "allow", "scope": "s/.default"}, "destinations": [
            {"hosts": ["api.example.com"]},
            {"hosts": ["api.example.com"], "action": "refuse", "path_prefixes": ["/v1.0/$batch", "/caf%C3%A9", "/a@b:c/(x)"]}
        ]}"#,
    );
    let outcome = |path: &str| describe(decide(&policy, &Sent::get("api.example.com", path)));
    for path in [
        "/v1.0/$batch",
        "/v1.0/%24batch",
        "/v1.0/%24%62atch/x",
        "/v1%2E0/$batch",
        "/caf%c3%a9",
        "/caf\u{e9}/x",
        "/%63af%C3%a9",
        "/a%40b%3Ac/%28x%29",
    ] {
        assert_eq!(outcome(path), "403 refused_by_rule", "{path}");
    }
    for path in ["/v1.0/batch", "/~x", "/%7Ex", "/a%2Bb", "/v1.0/%2424batch"] {
        assert_eq!(outcome(path), "default s/.default", "{path}");
    }
}

#[test]
fn a_header_that_overrides_the_method_or_path_is_rejected_where_rules_depend_on_them() {
    let policy = policy_of(
        r#"{"defaults": {"plaintext": "allow", "scope": "s/.default"}, "destinations": [
            {"hosts": ["*.example.com"]},
            {"hosts": ["path.example.com"], "action": "refuse", "path_prefixes": ["/admin"]},
            {"hosts": ["method.example.com"], "methods": ["GET"]},
            {"hosts": ["known.example.com"], "methods": ["GET"], "override_headers": "allow"},
            {"hosts": ["known.example.com"], "methods": ["PUT"]},
            {"hosts": ["all.example.com"], "path_prefixes": ["/v1"], "override_headers": "allow"},
            {"hosts": ["port.example.com:8443"], "methods": ["GET"]},
            {"hosts": ["trial.example.com"], "methods": ["GET"], "action": "report"}
        ]}"#,
    );
    let outcome = |method: &str, authority: &str, header: &str| {
        let request = Sent::get(authority, "/x").header(":method", method.as_bytes()).header(header, b"DELETE");
        describe(decide(&policy, &request))
    };
    for header in [
        "x-http-method-override",
        "x-http-method",
        "x-method-override",
        "x-original-url",
        "x-rewrite-url",
        "x_http_method_override",
        "x_original_url",
    ] {
        assert_eq!(outcome("GET", "path.example.com", header), "403 override_header_present", "{header}");
        assert_eq!(outcome("GET", "method.example.com", header), "403 override_header_present", "{header}");
        let wider = outcome("POST", "method.example.com", header);
        assert_eq!(wider, "403 override_header_present", "no wider rule applies: {header}");
        assert_eq!(outcome("GET", "known.example.com", header), "default s/.default", "{header}");
        assert_eq!(outcome("PUT", "known.example.com", header), "403 override_header_present", "{header}");
        assert_eq!(outcome("GET", "all.example.com", header), "default s/.default", "{header}");
        assert_eq!(outcome("GET", "any.example.com", header), "default s/.default", "nothing depends on it: {header}");
        assert_eq!(
            outcome("GET", "port.example.com", header),
            "default s/.default",
            "the rule is for another port: {header}"
        );
        assert_eq!(outcome("GET", "port.example.com:8443", header), "403 override_header_present", "{header}");
        let reported = "report unknown no token, enforced: override_header_present";
        assert_eq!(outcome("GET", "trial.example.com", header), reported, "{header}");
    }
    assert_eq!(outcome("GET", "method.example.com", "x-forwarded-host"), "default s/.default");
}

#[test]
fn an_override_header_is_recognized_with_hyphens_and_underscores_mixed() {
    let policy = policy_of(
        r#"{"defaults": {"plaintext": "allow", "scope": "s/.default"}, "destinations": [
            {"hosts": ["a.example"], "methods": ["GET"]},
            {"hosts": ["a.example"], "path_prefixes": ["/admin"], "action": "refuse"}
        ]}"#,
    );
    let outcome = |header: &str| describe(decide(&policy, &Sent::get("a.example", "/x").header(header, b"/admin")));
    for header in [
        "x-http_method-override",
        "x_http-method_override",
        "x-http-method_override",
        "x_http-method",
        "x-method_override",
        "x_original-url",
        "x-original_url",
        "x_rewrite-url",
    ] {
        assert_eq!(outcome(header), "403 override_header_present", "{header}");
    }
    // These describe the request that another proxy received. No server is known to use them to select a resource.
    for header in ["x-forwarded-uri", "x-forwarded-method", "x-forwarded-path", "x-original-uri", "x-http-methods"] {
        assert_eq!(outcome(header), "default s/.default", "{header}");
    }
}

#[test]
fn a_method_with_lower_case_letters_is_rejected_if_another_rule_applies_to_it_in_upper_case() {
    let policy = policy_of(
        r#"{"defaults": {"plaintext": "allow", "scope": "s/.default"}, "destinations": [
            {"hosts": ["*.corp.example"]},
            {"hosts": ["refuse.corp.example"], "methods": ["DELETE"], "action": "refuse"},
            {"hosts": ["read.corp.example"], "methods": ["GET", "HEAD"]},
            {"hosts": ["read.corp.example"], "action": "refuse"},
            {"hosts": ["path.corp.example"], "methods": ["POST"], "path_prefixes": ["/admin"], "action": "refuse"},
            {"hosts": ["trial.corp.example"], "methods": ["GET"], "action": "report"}
        ]}"#,
    );
    let outcome = |method: &str, host: &str| {
        describe(decide(&policy, &Sent::get(host, "/admin/x").header(":method", method.as_bytes())))
    };
    for (method, host) in [
        ("delete", "refuse.corp.example"),
        ("Delete", "refuse.corp.example"),
        ("DELETe", "refuse.corp.example"),
        ("get", "read.corp.example"),
        ("hEAD", "read.corp.example"),
        ("post", "path.corp.example"),
    ] {
        assert_eq!(outcome(method, host), "400 ambiguous_method", "{method} {host}");
    }
    assert_eq!(outcome("gEt", "trial.corp.example"), "report unknown no token, enforced: ambiguous_method");
    for (method, host, expected) in [
        ("DELETE", "refuse.corp.example", "403 refused_by_rule"),
        ("GET", "read.corp.example", "default s/.default"),
        ("post", "read.corp.example", "403 refused_by_rule"),
        ("get", "refuse.corp.example", "default s/.default"),
        ("delete", "path.corp.example", "default s/.default"),
        ("delete", "any.corp.example", "default s/.default"),
    ] {
        assert_eq!(outcome(method, host), expected, "the same rule in any case of letters: {method} {host}");
    }
}

#[test]
fn a_listed_host_is_recognized_with_any_port() {
    let policy = policy();
    let kv = "payments https://vault.azure.net/.default";
    let outcome = |authority: &str| describe(decide(&policy, &routed(authority, "outbound|80||kv.example")));
    assert_eq!(outcome("kv.example:"), kv);
    for port in ["65536", "+80", "80:80", "http", "99999999999999999999"] {
        assert_eq!(outcome(&format!("kv.example:{port}")), "400 host_invalid", "{port}");
        assert_eq!(outcome(&format!("elsewhere.example:{port}")), "ignore", "{port}");
    }
    assert_eq!(outcome("kv.example:80@elsewhere.example"), "ignore", "userinfo, not a port");
    let report = policy_of(
        r#"{"destinations": [{"hosts": ["*.example.com"], "scope": "s/.default", "plaintext": "allow", "action": "report"}]}"#,
    );
    let outcome = describe(decide(&report, &Sent::get("a.example.com:65536", "/")));
    assert_eq!(outcome, "report unknown no token, enforced: host_invalid");
}

#[test]
fn an_existing_credential_is_kept_replaced_or_refused() {
    let policy = policy();
    for (credential, replaced) in
        [("authorization", "reports api://other/.default"), ("api-key", "reports api://other/.default")]
    {
        let with = |authority: &str| describe(decide(&policy, &routed(authority, "x").header(credential, b"\xff")));
        assert_eq!(with("kv.example"), format!("payments keeps {credential}"));
        assert_eq!(with("kv.example:8443"), replaced);
        assert_eq!(with("strict.example"), "403 credential_present");
    }
    let signed = |authority: &str| describe(decide(&policy, &Sent::get(authority, "/c/b?sv=2022-11-02&%73ig=abc%3D")));
    assert_eq!(signed("kv.example"), "payments keeps ?sig");
    assert_eq!(signed("kv.example:8443"), "403 credential_present", "a signature cannot be replaced");
    assert_eq!(signed("strict.example"), "403 credential_present");
}

#[test]
fn other_credentials_are_removed_when_a_token_is_injected() {
    let request = routed("kv.example:8443", "x").header("authorization", b"a").header("api-key", b"b");
    let Decision::Exchange(_, Delivery::Inject(injection)) = decide(&policy(), &request) else { panic!("no token") };
    assert_eq!((&*injection.header, injection.in_place_of.as_slice()), ("authorization", &[Arc::from("api-key")][..]));
}

#[test]
fn the_token_of_an_earlier_attempt_is_not_a_credential_of_the_app() {
    let again = |authority: &str, value: &str| {
        let request = routed(authority, "outbound|80||kv.example").header("authorization", value.as_bytes());
        request.redirected().after_sending(&["authorization", "x-token"], "ours")
    };
    let described = |authority: &str, value: &str| describe(decide(&policy(), &again(authority, value)));
    assert_eq!(described("kv.example", "Bearer ours"), "payments https://vault.azure.net/.default");
    assert_eq!(described("strict.example", "Bearer ours"), "payments s/.default");
    assert_eq!(described("kv.example", "Bearer theirs"), "payments keeps authorization");
    assert_eq!(described("strict.example", "Bearer theirs"), "403 credential_present");
    // The decision names the carried token, so that a retry after a 401 does not send it again.
    let carried = |value: &str| match decide(&policy(), &again("kv.example", value)) {
        Decision::Exchange(_, delivery) => delivery.rejected_token(),
        _ => panic!("no token"),
    };
    let digest = AccessToken::parse("ours").unwrap().digest();
    assert_eq!(carried("Bearer ours"), Some(RejectedToken::Attempted(digest)));
    assert_eq!(carried("ours"), None);
}

#[test]
fn a_token_in_another_header_is_removed_after_a_redirect_only_if_the_request_keeps_its_cluster() {
    let redirected = |authority: &str| {
        let request = routed(authority, "outbound|80||kv.example").header("x-token", b"ours");
        request.redirected().after_sending(&["authorization", "x-token"], "ours")
    };
    let decision = decide(&policy(), &redirected("strict.example"));
    let Decision::Exchange(_, Delivery::Inject(injection)) = decision else { panic!("no token") };
    assert_eq!(injection.in_place_of, [Arc::from("x-token")]);
    // In a listener's filter chain Envoy selects the route again when the header is removed.
    assert_eq!(describe(decide(&policy(), &redirected("kv.example"))), "403 replace_not_supported");
    let in_cluster = redirected("kv.example").attempt(1).with(|request| request.upstream_tls = Some(true));
    assert_eq!(describe(decide(&policy(), &in_cluster)), "payments https://vault.azure.net/.default");
}

#[test]
fn a_value_in_the_configured_header_is_a_credential() {
    let policy = policy_of(
        r#"{"destinations": [{"hosts": ["a.example"], "scope": "s/.default", "plaintext": "allow", "header": "X-Token"}]}"#,
    );
    let Decision::Exchange(_, Delivery::Inject(injection)) = decide(&policy, &Sent::get("a.example", "/")) else {
        panic!("no token")
    };
    assert_eq!(&*injection.header, "x-token");
    let theirs = Sent::get("a.example", "/").header("x-token", b"x");
    assert_eq!(describe(decide(&policy, &theirs)), "default keeps x-token");
}

#[test]
fn an_azure_service_has_its_own_credential_places_and_other_hosts_have_the_usual_ones() {
    let policy = policy_of(
        r#"{"defaults": {"plaintext": "allow"}, "destinations": [
            {"azure_service": "event_grid", "names": ["orders.westeurope"]},
            {"azure_service": "ai_services", "names": ["contoso"]},
            {"azure_service": "key_vault", "names": ["payments-kv"]},
            {"azure_service": "functions", "names": ["orders"], "scope": "api://orders/.default"},
            {"azure_service": "resource_manager"},
            {"hosts": ["a.example"], "scope": "s/.default"}
        ]}"#,
    );
    let with =
        |host: &str, path: &str, header: &str| describe(decide(&policy, &Sent::get(host, path).header(header, b"x")));
    let grid = "orders.westeurope.eventgrid.azure.net";
    assert_eq!(with(grid, "/", "aeg-sas-key"), "default keeps aeg-sas-key");
    assert_eq!(with(grid, "/", "aeg-sas-token"), "default keeps aeg-sas-token");
    assert_eq!(with(grid, "/?AEG-sas-key=k", "x"), "default keeps ?aeg-sas-key");
    assert_eq!(with(grid, "/?sig=x", "api-key"), "default https://eventgrid.azure.net/.default");
    let ai = "contoso.cognitiveservices.azure.com";
    assert_eq!(with(ai, "/?subscription-key=k", "api-key"), "default keeps api-key,?subscription-key");
    assert_eq!(with(ai, "/", "ocp-apim-subscription-key"), "default keeps ocp-apim-subscription-key");
    assert_eq!(with("payments-kv.vault.azure.net", "/", "api-key"), "default https://vault.azure.net/.default");
    assert_eq!(with("payments-kv.vault.azure.net", "/", "authorization"), "default keeps authorization");
    assert_eq!(with("orders.azurewebsites.net", "/", "x"), "default api://orders/.default");
    assert_eq!(with("orders.azurewebsites.net", "/", "x-functions-key"), "default keeps x-functions-key");
    assert_eq!(with("orders.azurewebsites.net", "/api/x?code=k", "x"), "default keeps ?code");
    let auxiliary = with("management.azure.com", "/", "x-ms-authorization-auxiliary");
    assert_eq!(auxiliary, "default keeps x-ms-authorization-auxiliary");
    assert_eq!(with("a.example", "/", "aeg-sas-key"), "default s/.default");
    assert_eq!(with("a.example", "/?sig=x", "api-key"), "default keeps api-key,?sig");
}

#[test]
fn an_empty_credential_does_not_count_and_its_header_is_removed() {
    let policy = policy();
    for existing in ["kv.example", "kv.example:8443", "strict.example"] {
        let request =
            routed(existing, "outbound|80||kv.example").header("api-key", b" ").header("authorization", b"Bearer");
        let Decision::Exchange(_, Delivery::Inject(injection)) = decide(&policy, &request) else {
            panic!("no token for {existing}")
        };
        assert_eq!(injection.in_place_of, [Arc::from("api-key")], "{existing}");
    }
}

#[test]
fn a_credential_is_replaced_only_where_the_route_cannot_change() {
    let policy = policy_of(
        r#"{"defaults": {"scope": "s/.default", "existing_credential": "replace"}, "destinations": [
            {"hosts": ["pinned.example"], "tls_clusters": ["pinned"]},
            {"hosts": ["header.example"], "tls_clusters": ["pinned"], "header": "x-token"},
            {"hosts": ["plain.example"], "plaintext": "allow"},
            {"hosts": ["kept.example"], "tls_clusters": ["pinned"], "existing_credential": "keep"},
            {"hosts": ["trial.example"], "tls_clusters": ["pinned"], "action": "report"}
        ]}"#,
    );
    let token = "default s/.default";
    for header in ["authorization", "api-key", "x-token"] {
        let listener = |host: &str| routed(host, "pinned").header(header, b"x");
        let cluster = |host: &str| in_cluster(listener(host)).with(|request| request.upstream_tls = Some(true));
        let own = header == "x-token";
        let rejected = if own { token } else { "403 replace_not_supported" };
        assert_eq!(describe(decide(&policy, &listener("pinned.example"))), rejected, "{header}");
        assert_eq!(describe(decide(&policy, &listener("header.example"))), "403 replace_not_supported", "{header}");
        assert_eq!(describe(decide(&policy, &listener("plain.example"))), token, "{header}");
        assert_eq!(describe(decide(&policy, &cluster("pinned.example"))), token, "{header}");
        assert_eq!(describe(decide(&policy, &cluster("header.example"))), token, "{header}");
    }
    let authorization = |host: &str| describe(decide(&policy, &routed(host, "pinned").header("authorization", b"x")));
    assert_eq!(authorization("kept.example"), "default keeps authorization");
    assert_eq!(authorization("trial.example"), "report default s/.default, enforced: replace_not_supported");
    // A token that the filter injected in an earlier attempt is not a credential of the app.
    let again = routed("pinned.example", "pinned").header("authorization", b"Bearer x");
    let again = again.redirected().after_sending(&["authorization"], "x");
    assert_eq!(describe(decide(&policy, &again)), token);
}

#[test]
fn a_trace_gets_no_token() {
    let policy = policy_of(
        r#"{"defaults": {"scope": "s/.default", "plaintext": "allow"}, "destinations": [
            {"hosts": ["a.example"]}, {"hosts": ["b.example"]}, {"hosts": ["b.example"], "methods": ["TRACE"], "action": "pass"},
            {"hosts": ["c.example"], "action": "report"}
        ]}"#,
    );
    let outcome =
        |method: &[u8], host: &str| describe(decide(&policy, &Sent::get(host, "/").header(":method", method)));
    assert_eq!(outcome(b"TRACE", "a.example"), "403 trace_not_supported");
    assert_eq!(outcome(b"trace", "a.example"), "403 trace_not_supported");
    assert_eq!(outcome(b"TRACE", "b.example"), "pass");
    assert_eq!(outcome(b"TRACE", "c.example"), "report default s/.default, enforced: trace_not_supported");
    assert_eq!(outcome(b"TRACK", "a.example"), "default s/.default");
}

#[test]
fn a_connect_request_gets_no_token() {
    let tunnel = |config: &str| {
        let request = Sent::connect("a.example:443");
        describe(decide(&policy_of(config), &request))
    };
    let any = r#"{"destinations": [{"hosts": ["a.example"], "scope": "s/.default", "plaintext": "allow"}]}"#;
    assert_eq!(tunnel(any), "403 connect_not_supported");
    let excepted = r#"{"destinations": [
        {"hosts": ["a.example"], "scope": "s/.default", "plaintext": "allow", "path_prefixes": ["/v1"]},
        {"hosts": ["a.example"], "methods": ["CONNECT"], "action": "pass"}]}"#;
    assert_eq!(tunnel(excepted), "pass");
}

#[test]
fn a_report_changes_no_request_and_names_the_code_that_would_reject_it() {
    let configuration = r#"{"defaults": {"action": "report", "scope": "s/.default", "tls_clusters": ["to_{host}"]},
        "destinations": [{"hosts": ["a.example"], "existing_credential": "refuse"}, {"hosts": ["b.example"]}]}"#;
    let policy = policy_of(configuration);
    for (request, enforced) in [
        (routed("a.example", "to_a.example"), "forwarded"),
        (routed("a.example", "to_a.example").header("authorization", b"x"), "credential_present"),
        (routed("a.example", "to_b.example"), "cluster_not_listed"),
        (Sent::connect("a.example:443"), "connect_not_supported"),
        // The request keeps its own credential.
        (routed("b.example", "to_b.example").header("authorization", b"x"), "forwarded"),
        // The request does not wait for its connection.
        (in_cluster(routed("a.example", "to_a.example")), "forwarded"),
    ] {
        assert_eq!(describe(decide(&policy, &request)), format!("report default s/.default, enforced: {enforced}"));
    }
    let policy = Policy::new(&Config::parse(configuration.as_bytes(), &|_| None).unwrap(), false);
    let missing = "report default no token, enforced: env_var_missing";
    assert_eq!(describe(decide(&policy, &routed("a.example", "to_a.example"))), missing);
}

const GATEWAY: &str = r#"{
    "identities": [
        {"name": "payments", "client_id": "aaaaaaaa-0000-4000-8000-000000000001", "principals": ["spiffe://c/ns/payments/sa/api"]},
        {"name": "reports", "client_id": "bbbbbbbb-0000-4000-8000-000000000002", "principals": ["spiffe://c/ns/reports/sa/a", "spiffe://c/ns/reports/sa/b"]}
    ],
    "defaults": {"plaintext": "allow", "scope": "s/.default"},
    "destinations": [
        {"hosts": ["a.example"]},
        {"hosts": ["b.example"], "identity": "reports"},
        {"hosts": ["c.example"], "action": "report"}
    ]
}"#;

#[test]
fn a_caller_gets_the_token_of_its_own_identity_or_none() {
    let policy = policy_of(GATEWAY);
    let calls = |principal: &str, host: &str| {
        let request = Sent::get(host, "/").header("x-identity", b"payments").header("authorization", b"x");
        describe(decide(&policy, &request.from(principal)))
    };
    // Without headers of its own.
    let bare = |principal: &str, host: &str| describe(decide(&policy, &Sent::get(host, "/").from(principal)));
    assert_eq!(bare("spiffe://c/ns/payments/sa/api", "a.example"), "payments s/.default");
    assert_eq!(bare("spiffe://c/ns/reports/sa/b", "a.example"), "reports s/.default");
    assert_eq!(bare("spiffe://c/ns/reports/sa/a", "b.example"), "reports s/.default");
    assert_eq!(bare("spiffe://c/ns/payments/sa/api", "b.example"), "403 principal_not_listed");
    assert_eq!(calls("spiffe://c/ns/payments/sa/api", "a.example"), "payments keeps authorization");
    for stranger in ["", "spiffe://c/ns/payments/sa/api2", "spiffe://C/ns/payments/sa/api", "spiffe://c/ns/payments"] {
        assert_eq!(bare(stranger, "a.example"), "403 principal_not_listed", "{stranger}");
        assert_eq!(calls(stranger, "a.example"), "403 principal_not_listed", "{stranger}");
        assert_eq!(bare(stranger, "c.example"), "report unknown no token, enforced: principal_not_listed");
        assert_eq!(bare(stranger, "d.example"), "ignore");
    }
}

#[test]
fn a_certificate_with_several_uris_is_rejected_if_envoy_lists_them() {
    let request = Sent::get("a.example", "/")
        .header("x-forwarded-client-cert", b"By=x;URI=spiffe://c/ns/payments/sa/api;URI=spiffe://c/other")
        .from("spiffe://c/ns/payments/sa/api");
    assert_eq!(describe(decide(&policy_of(GATEWAY), &request)), "403 principal_not_listed");
}

/// The request in a cluster's own filter chain, in its first attempt.
fn in_cluster(request: Sent) -> Sent {
    request.with(|request| request.attempt = Some(1))
}

fn upstream(host: &str) -> Sent {
    in_cluster(routed(host, "outbound|80||kv.example"))
}

#[test]
fn in_a_clusters_own_filter_chain_the_connection_must_use_tls() {
    let policy = policy();
    let token = "payments s/.default";
    let decide = |request: Sent| describe(decide(&policy, &request));
    assert_eq!(decide(upstream("nowhere.example")), "await");
    let with_tls = |host: &str| upstream(host).with(|request| request.upstream_tls = Some(true));
    assert_eq!(decide(with_tls("nowhere.example")), token);
    let in_plaintext = upstream("nowhere.example").with(|request| request.upstream_tls = Some(false));
    assert_eq!(decide(in_plaintext), "403 connection_not_tls");
    // `tls_clusters` applies here as well, and `plaintext: allow` needs no connection.
    assert_eq!(decide(with_tls("blob.example")), "403 cluster_not_listed");
    assert_eq!(decide(upstream("strict.example")), token);
    // In a listener's filter chain the count is 0 or missing.
    let downstream = routed("nowhere.example", "x").with(|request| {
        (request.attempt, request.upstream_tls) = (Some(0), Some(true));
    });
    assert_eq!(decide(downstream), "403 tls_clusters_missing");
}

#[test]
fn the_rejection_of_a_grpc_request_is_plain_text() {
    let request = routed("nowhere.example", "x").header("content-type", b"application/grpc");
    let Decision::Refuse(refusal) = decide(&policy(), &request) else { panic!("not refused") };
    let text = String::from_utf8(refusal.reply().body).unwrap();
    assert!(text.contains("(tls_clusters_missing): Add the cluster") && !text.contains('{'), "{text}");
}

#[test]
fn a_narrower_report_rule_does_not_disable_a_wider_refuse_rule() {
    let policy = policy_of(
        r#"{"defaults": {"plaintext": "allow", "scope": "s/.default"}, "destinations": [
            {"hosts": ["*.corp.example.com"], "action": "refuse"},
            {"hosts": ["api.corp.example.com"], "path_prefixes": ["/a"], "action": "report"},
            {"hosts": ["m.corp.example.com"], "methods": ["GET"], "action": "report"},
            {"hosts": ["p.example.com"], "action": "refuse"},
            {"hosts": ["p.example.com:8080"], "path_prefixes": ["/a"], "action": "report"}
        ]}"#,
    );
    let get = |authority: &str, path: &str| describe(decide(&policy, &Sent::get(authority, path)));
    assert_eq!(get("api.corp.example.com", "/b"), "403 refused_by_rule");
    for path in ["//b", "/b;x", "/b%20"] {
        assert_eq!(get("api.corp.example.com", path), "400 ambiguous_path", "{path}");
        assert_eq!(get("p.example.com:8080", path), "400 ambiguous_path", "{path}");
    }
    let overridden = Sent::get("m.corp.example.com", "/").header("x-http-method", b"DELETE");
    assert_eq!(describe(decide(&policy, &overridden)), "403 override_header_present");
}

#[test]
fn the_length_of_a_message_about_a_request_is_bounded() {
    let policy = policy_of(
        r#"{"defaults": {"scope": "s/.default", "tls_clusters": ["a"]}, "destinations": [
            {"hosts": ["*.corp.example.com"], "path_prefixes": ["/v1"]}, {"hosts": ["kv.example.com"]}]}"#,
    );
    let long = "a".repeat(50_000);
    for request in [Sent::get(&format!("{long}.corp.example.com"), "//"), routed("kv.example.com", &long)] {
        let Decision::Refuse(refusal) = decide(&policy, &request) else { panic!("not refused") };
        assert!(
            refusal.reply().body.len() < 4096 && refusal.problem.detail.len() < 3072,
            "{}",
            refusal.problem.detail.len()
        );
    }
}

#[test]
fn an_explanation_lists_every_rule_of_the_host_in_order_of_precedence_and_why_it_does_not_apply() {
    let policy = policy_of(
        r#"{"destinations": [
            {"name": "wild", "hosts": ["*.example.com"], "action": "pass"},
            {"name": "any", "hosts": ["api.example.com"], "action": "pass"},
            {"name": "path", "hosts": ["api.example.com"], "path_prefixes": ["/v1"], "action": "pass"},
            {"name": "other", "hosts": ["api.example.com"], "path_prefixes": ["/v2"], "action": "pass"},
            {"name": "post", "hosts": ["api.example.com"], "path_prefixes": ["/v1"], "methods": ["POST"], "action": "pass"},
            {"name": "port", "hosts": ["api.example.com:8443"], "action": "pass"},
            {"name": "elsewhere", "hosts": ["other.example.com"], "action": "pass"}
        ]}"#,
    );
    let explained = |authority: &str, method: &str| {
        let sent = Sent::get(authority, "/v1/users").header(":method", method.as_bytes());
        let explanation = policy.explain(&RequestView::new(&sent));
        let listed = explanation.candidates.iter().map(|it| format!("{} {:?}", it.label, it.outcome));
        (explanation.decision.decided_by(), listed.collect::<Vec<_>>())
    };
    assert_eq!(
        explained("api.example.com", "GET"),
        (
            Some(ConfigPath::Destination(2)),
            [
                "port OtherPort",
                "post OtherMethod",
                "path Applies",
                "other OtherPath",
                "any LessSpecific",
                "wild LessSpecific"
            ]
            .map(str::to_owned)
            .to_vec()
        )
    );
    let (decided_by, listed) = explained("api.example.com:8443", "POST");
    assert_eq!((decided_by, listed[0].as_str()), (Some(ConfigPath::Destination(5)), "port Applies"));
    assert_eq!(explained("unlisted.example", "GET"), (None, vec![]));
}
