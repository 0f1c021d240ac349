//! Tests of `/healthz` and `/readyz`.

use super::*;

#[test]
fn callers_outside_the_pod_get_the_health_paths_only() {
    let outside = |host: &str, path: &str| Sent::get(host, path).to("10.0.0.7:15020");
    assert_eq!(outcome(&outside("entra-exchange.health:15020", "/healthz")), "200 ok");
    assert_eq!(outcome(&outside("entra-exchange.health", "/readyz?verbose")), "check orders reports");
    assert!(outcome(&outside("entra-exchange.health", "/readyz").header(":method", b"POST")).starts_with("405 "));
    assert_eq!(outcome(&outside("entra-exchange.health", TOKEN_PATH)), "ignore");
    assert!(outcome(&outside("127.0.0.1", "/readyz")).starts_with("403 "));
    let decided = policy_with(r#""default_identity": "reports", "health": {"hosts": ["h"]}"#);
    assert_eq!(describe(decide(&decided, &outside("h", "/readyz"))), "check reports");
    let named = policy_with(r#""default_identity": "reports", "health": {"hosts": ["h"], "identities": ["orders"]}"#);
    assert_eq!(describe(decide(&named, &outside("h", "/readyz"))), "check orders");
    // Without a client id no exchange can succeed, which the check reports.
    let text = r#"{"managed_identity": {"health": {"hosts": ["h"]}}}"#;
    let incomplete = Policy::new(&Config::parse(text.as_bytes(), &variable).unwrap(), false);
    assert_eq!(describe(decide(&incomplete, &outside("h", "/readyz"))), "check default (env_var_missing)");
}

#[test]
fn without_a_default_identity_all_used_identities_decide_readiness() {
    let text = |destination: &str, managed: &str| {
        format!(
            r#"{{
                "identities": [
                    {{"name": "a", "client_id": "{ORDERS}"}}, {{"name": "b", "client_id": "{ORDERS}"}},
                    {{"name": "c", "client_id": "{ORDERS}"}}, {{"name": "unused", "client_id": "{ORDERS}"}}
                ],
                "destinations": [{{"hosts": ["h.example"], "scope": "x/.default", "tls_clusters": ["c"], {destination}}}],
                "managed_identity": {{{managed}, "health": {{"hosts": ["h"]}}}}
            }}"#
        )
    };
    for (destination, managed, expected) in [
        (r#""identity": "a""#, r#""identities": ["b", "c"]"#, "check a b c"),
        (r#""identity": "b", "action": "report""#, r#""identities": ["b", "c"]"#, "check b c"),
        (r#""identity": "a""#, r#""identities": ["b", "c"], "default_identity": "c""#, "check c"),
        (r#""identity": "a""#, r#""identities": ["b"]"#, "check b"),
    ] {
        let variable =
            |name: &str| (name == "AZURE_TENANT_ID").then(|| "11111111-1111-4111-8111-111111111111".to_owned());
        let config = Config::parse(text(destination, managed).as_bytes(), &variable).unwrap();
        let policy = Policy::new(&config, false);
        let request = Sent::get("h", "/readyz").to("10.0.0.7:15020");
        assert_eq!(describe(decide(&policy, &request)), expected, "{destination} {managed}");
    }
}
