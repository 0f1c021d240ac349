//! Tests of the sections `entra`, `assertions` and `identities`, and of the environment variables.

use super::*;
use crate::problem::Code;

#[test]
fn a_minimal_configuration_uses_the_variables_and_defaults() {
    let config = parse(MINIMAL).unwrap();
    let spec = config.identities[0].spec("https://vault.azure.net/.default").unwrap();
    assert_eq!(spec.identity(), "default");
    assert_eq!((spec.tenant_id(), spec.client_id()), (TENANT, CLIENT));
    assert_eq!(spec.authority().host(), "login.microsoftonline.com");
    assert_eq!(spec.assertion().cluster(), "projected_token");
    assert_eq!(spec.clusters(), ["entra"]);
    assert_eq!(injection(&config).settings.existing_credential, ExistingCredential::Keep);
    assert_eq!(injection(&config).settings.header, "authorization");
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn the_configuration_overrides_the_variables() {
    let config = parse(
        r#"{"entra":{"authority":"https://login.microsoftonline.us","clusters":["gov"]},
            "assertions":[{"name":"spire","source":"file","cluster":"spire_file"}],
            "identities":[{"name":"a","tenant_id":"contoso.onmicrosoft.com","client_id":"bbbbbbbb-0000-4000-8000-000000000002","assertion":"spire"}],
            "managed_identity":{"imds":{"hosts":["127.0.0.1"]}}}"#,
    )
    .unwrap();
    let spec = config.identities[0].spec("x/.default").unwrap();
    assert_eq!(spec.tenant_id(), "contoso.onmicrosoft.com");
    assert_eq!(spec.authority().host(), "login.microsoftonline.us");
    assert_eq!((spec.assertion().cluster(), spec.clusters()), ("spire_file", &["gov".to_owned()][..]));
    let answers = config.managed_identity.unwrap();
    assert_eq!((answers.offered, answers.default), (vec![0], Some(0)));
    assert_eq!(answers.imds.as_ref().unwrap().hosts, ["127.0.0.1"]);
}

#[test]
fn an_identity_without_an_assertion_uses_the_one_with_the_name_projected_token() {
    let cluster = |assertions: &str, assertion: &str| {
        let identities = format!(r#"[{{"client_id":"{CLIENT}"{assertion}}}]"#);
        let text = format!(r#"{{"assertions":[{assertions}],"identities":{identities},{}"#, &MINIMAL[1..]);
        let spec = parse(&text).unwrap().identities[0].spec("s/.default").unwrap();
        spec.assertion().cluster().to_owned()
    };
    let spire = r#"{"name":"spire","source":"file","cluster":"spire_file"}"#;
    let own = r#"{"name":"projected_token","source":"file","cluster":"own_file"}"#;
    for assertion in ["", r#","assertion":"projected_token""#] {
        assert_eq!(cluster(spire, assertion), "projected_token");
        assert_eq!(cluster(&format!("{spire},{own}"), assertion), "own_file");
    }
    assert_eq!(
        mistakes(&format!(r#"{{"assertions":[{own},{spire},{own}],{}"#, &MINIMAL[1..])),
        [r#"assertions[2].name: "projected_token" is already the name of another assertion: choose another name"#]
    );
}

#[test]
fn a_name_has_at_most_63_characters_and_a_tenant_is_an_id_or_a_domain_name() {
    let identity = |fields: &str| format!(r#"{{"identities":[{{{fields}}}],{}"#, &MINIMAL[1..]);
    let named = |length: usize| identity(&format!(r#""name":"{}""#, "a".repeat(length)));
    assert!(parse(&named(63)).is_ok());
    assert!(parse(&identity(r#""name":"2nd_payments-api""#)).is_ok());
    for name in ["payments api", "payments.api", "paymentsÄ"] {
        assert!(mistakes(&identity(&format!(r#""name":{name:?}"#)))[0].contains("is not a valid name"), "{name}");
    }
    for length in [64, 65] {
        assert!(mistakes(&named(length))[0].ends_with("write at most 63 characters of a-z, 0-9, _ and -"), "{length}");
    }
    for tenant in ["contoso", "contoso.example/x", "contoso.example:443", ".", TENANT.get(1..).unwrap()] {
        let found = mistakes(&identity(&format!(r#""tenant_id":"{tenant}""#)));
        assert!(found[0].contains("is not a valid tenant: write its id"), "{tenant}: {found:?}");
    }
}

#[test]
fn a_missing_variable_rejects_requests_and_not_the_configuration() {
    let config = Config::parse(MINIMAL.as_bytes(), &|_| None).unwrap();
    let problem = config.identities[0].spec("s/.default").unwrap_err();
    assert_eq!(problem.code, Code::EnvVarMissing);
    assert_eq!(problem.detail, "AZURE_TENANT_ID is not set; AZURE_CLIENT_ID is not set");
    // An Istio sidecar does not get the variables in the Deployment's `env`.
    assert!(problem.remedy.contains("proxy.istio.io/config") && problem.remedy.contains("host_env_keys"));
    assert_eq!(problem.remedy.matches("Set the variables").count(), 1);
    let all_invalid = |name: &str| Some(if name == "AZURE_TENANT_ID" { "contoso ".to_owned() } else { "x".to_owned() });
    let config = Config::parse(MINIMAL.as_bytes(), &all_invalid).unwrap();
    let problem = config.identities[0].spec("s/.default").unwrap_err();
    for variable in ["AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_AUTHORITY_HOST"] {
        assert!(problem.detail.contains(variable), "{}", problem.detail);
    }
    let invalid = |name: &str| if name == "AZURE_AUTHORITY_HOST" { Some("http://x".into()) } else { webhook(name) };
    let config = Config::parse(MINIMAL.as_bytes(), &invalid).unwrap();
    assert!(
        config.identities[0].spec("s/.default").unwrap_err().detail.starts_with("AZURE_AUTHORITY_HOST: \"http://x\"")
    );
    let invalid = |name: &str| if name == "AZURE_CLIENT_ID" { Some("payments".into()) } else { webhook(name) };
    let config = Config::parse(MINIMAL.as_bytes(), &invalid).unwrap();
    assert!(config.identities[0].spec("s/.default").unwrap_err().detail.contains("is not a valid client id"));
}

#[test]
fn a_variable_that_several_identities_need_gives_one_warning() {
    let two = format!(
        r#"{{"identities":[{{"name":"a","client_id":"{CLIENT}"}},{{"name":"b","client_id":"{}"}}],
            "managed_identity":{{"identities":["a","b"],"imds":{{}}}}}}"#,
        CLIENT.replace('a', "b")
    );
    let [warning] = &Config::parse(two.as_bytes(), &|_| None).unwrap().warnings[..] else { panic!("not one warning") };
    assert!(warning.starts_with("AZURE_TENANT_ID is not set. "), "{warning}");
}

#[test]
fn white_space_at_the_ends_of_a_variable_gives_a_warning_and_rejects_requests() {
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
            assert_eq!((config.identities[0].client.is_err(), secret), (name != "A_SECRET", name == "A_SECRET"));
        }
    }
}

#[test]
fn with_several_identities_each_use_must_name_one() {
    let two = format!(r#""identities":[{{"name":"a","client_id":"{CLIENT}"}},{{"name":"b","client_id":"{CLIENT}"}}]"#);
    assert_eq!(
        mistakes(&format!(
            r#"{{{two},"managed_identity":{{"imds":{{}}}},"destinations":[{{"hosts":["x.example"],"scope":"s/.default"}}]}}"#
        )),
        [
            "managed_identity.identities: is missing: list the identities that callers may select, from a, b",
            "destinations[0].identity: is missing: write a or b",
        ]
    );
    assert_eq!(
        mistakes(&format!(
            r#"{{{two},"managed_identity":{{"identities":["a","c"],"default_identity":"b","imds":{{"hosts":["x:1"]}}}}}}"#
        )),
        [
            r#"managed_identity.identities[1]: "c" is not a known identity: write a or b"#,
            r#"managed_identity.default_identity: "b" is not among managed_identity.identities: add it there"#,
            r#"managed_identity.imds.hosts[0]: "x:1" is not a valid host: write a name or an address without a port"#,
        ]
    );
    assert_eq!(
        mistakes(&format!(
            r#"{{{two},"managed_identity":{{"identities":["a"],"health":{{"hosts":["h"],"identities":["c"]}}}}}}"#
        )),
        [r#"managed_identity.health.identities[0]: "c" is not a known identity: write a or b"#]
    );
    let health = r#""health":{"hosts":["h"],"identities":["b","a"]}"#;
    let config = parse(&format!(r#"{{{two},"managed_identity":{{"identities":["a"],{health}}}}}"#)).unwrap();
    assert_eq!(config.managed_identity.unwrap().health_identities, Some(vec![1, 0]));
    let config = parse(&format!(r#"{{{two},"managed_identity":{{"identities":["a","b"],"imds":{{}}}}}}"#)).unwrap();
    assert_eq!(config.limits.unlisted, UnlistedLimits { scopes: 64, new_per_minute: 30, parallel_exchanges: 4 });
    // They share the places of waiting requests.
    assert_eq!(config.limits.identities, 2);
    assert_eq!(config.managed_identity.unwrap().default, None);
}

#[test]
fn all_identities_or_none_have_principals_and_each_caller_has_one_identity() {
    let two = |first: &str, second: &str, more: &str| {
        format!(
            r#"{{"identities":[{{"name":"a","client_id":"{CLIENT}"{first}}},{{"name":"b","client_id":"{CLIENT}"{second}}}],
                "destinations":[{{"hosts":["x.example"],"scope":"s/.default"{more}}}]}}"#
        )
    };
    let spiffe = |name: &str| format!(r#","principals":["spiffe://{name}"]"#);
    let config = parse(&two(&spiffe("a"), &spiffe("b"), "")).unwrap();
    assert!(config.warnings.is_empty());
    assert!(matches!(
        &config.destinations[0].action,
        DestinationAction::Inject(Token { owner: TokenOwner::Caller, .. }, _)
    ));
    assert_eq!(
        mistakes(&two(&spiffe("a"), "", "")),
        [r#"identities[1].principals: is missing: another identity has principals, so list those that may use "b""#]
    );
    assert_eq!(
        mistakes(&two(&spiffe("a"), &spiffe("a"), "")),
        [
            r#"identities[1].principals[0]: "spiffe://a" is also a principal of "a", and destinations[0] sets no identity: remove it from one of the two, or set identity on each destination"#
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
            r#"identities[0].principals[0]: "c/ns/a/sa/b" is not a URI: write it as in the certificate, "spiffe://c/ns/a/sa/b""#,
            r#"identities[0].principals[1]: "spiffe://c/ns/*" is not a valid principal: write each in full, without patterns"#,
            r#"identities[0].principals[3]: "spiffe://c" is a duplicate entry: remove it"#,
        ]
    );
    assert_eq!(
        mistakes(r#"{"identities":[{"principals":["spiffe://a"]}],"managed_identity":{"imds":{}}}"#),
        [
            "identities[0].principals: cannot be checked for managed-identity callers, which present no certificate: remove the identity from managed_identity.identities"
        ]
    );
}

#[test]
fn an_unused_identity_gives_a_warning() {
    let config = parse(&format!(
        r#"{{"identities":[{{"name":"a"}},{{"name":"b","client_id":"{CLIENT}"}}],
            "destinations":[{{"hosts":["x.example"],"scope":"s/.default","identity":"a"}}]}}"#
    ))
    .unwrap();
    assert_eq!(config.warnings, ["identities[1] (b) is not used by any destination or by managed_identity"]);
}

#[test]
fn an_implicit_identity_need_not_be_used() {
    let only_refused = parse(r#"{"destinations":[{"hosts":["a.example"],"action":"refuse"}]}"#).unwrap();
    assert_eq!(only_refused.warnings, Vec::<String>::new());
}

#[test]
fn a_time_may_have_an_offset() {
    let discarded = |text: &str| {
        let text =
            format!(r#"{{"identities":[{{"discard_tokens_before":"{text}"}}],"managed_identity":{{"imds":{{}}}}}}"#);
        let config = parse(&text).ok()?;
        config.identities[0].spec("s/.default").unwrap().discard_before()
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

#[test]
fn a_discard_time_in_the_future_gives_a_warning_until_then() {
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
