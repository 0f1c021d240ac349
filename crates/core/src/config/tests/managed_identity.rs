//! Tests of the sections `managed_identity` and `status`.

use super::*;

#[test]
fn debug_hides_the_secret() {
    let variable = |name: &str| match name {
        "IDENTITY_HEADER" => Some("secret-of-the-app".to_owned()),
        name => webhook(name),
    };
    let config = Config::parse(br#"{"managed_identity":{"app_service":{}}}"#, &variable).unwrap();

    let shown = format!("{config:?}");

    assert!(shown.contains("AppService") && !shown.contains("secret-of-the-app"), "{shown}");
}

#[test]
fn the_limits_of_unlisted_scopes_are_read_and_have_maxima() {
    let with = |limits: &str| format!(r#"{{"managed_identity":{{"imds":{{}},"limits":{limits}}}}}"#);
    let limits = parse(&with(r#"{"unlisted_scopes":1000,"new_scopes_per_minute":5}"#)).unwrap().limits;
    assert_eq!(limits.unlisted, UnlistedLimits { scopes: 1000, new_per_minute: 5, parallel_exchanges: 4 });
    assert_eq!(
        mistakes(&with(r#"{"unlisted_scopes":0,"new_scopes_per_minute":1001,"parallel_exchanges":101,"scopes":1}"#)),
        [
            "managed_identity.limits.scopes: unknown field: expected one of unlisted_scopes, new_scopes_per_minute, parallel_exchanges",
            "managed_identity.limits.unlisted_scopes: 0 is not valid: write a number from 1 to 1000",
            "managed_identity.limits.new_scopes_per_minute: 1001 is not valid: write a number from 1 to 1000",
            "managed_identity.limits.parallel_exchanges: 101 is not valid: write a number from 1 to 100",
        ]
    );
}

#[test]
fn a_rate_at_which_new_scopes_can_replace_all_kept_ones_causes_a_warning() {
    let warnings = |scopes: u32, new: u32| {
        let limits = format!(r#"{{"unlisted_scopes":{scopes},"new_scopes_per_minute":{new}}}"#);
        let text = format!(r#"{{"managed_identity":{{"imds":{{}},"limits":{limits}}}}}"#);
        parse(&text)
            .unwrap()
            .warnings
            .into_iter()
            .filter(|warning| warning.contains("new_scopes_per_minute"))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        warnings(10, 10),
        [
            "managed_identity.limits.new_scopes_per_minute (10) is not lower than unlisted_scopes (10): callers that request new \
          scopes can make the filter drop scopes that are in use; lower it, or raise unlisted_scopes"
        ]
    );
    let counts = [(64, 30), (11, 10), (64, 128), (1, 1), (1000, 1000)].map(|(scopes, new)| warnings(scopes, new).len());
    assert_eq!(counts, [0, 0, 1, 1, 1]);
}

#[test]
fn all_mistakes_in_managed_identity_and_status_are_reported_at_once() {
    assert_eq!(
        mistakes(
            r#"{"identities":[{"object_id":"x","resource_id":"/resourcegroups/g","resources":[]}],
                "managed_identity":{"action":"off","imds":{"pass":["/metadata/identity/info","/metadata/../x","/healthz"]},"app_service":{"secret":"x"},"health":{}},
                "status":{"hosts":["127.0.0.1:80"],"path":"status"}}"#
        ),
        [
            "identities[0].resources: [] is not valid: write a list with at least one item",
            r#"identities[0].object_id: "x" is not a valid object id: write the managed identity's principal id, a GUID"#,
            r#"identities[0].resource_id: "/resourcegroups/g" is not a valid resource id: write that of the managed identity, which starts with /subscriptions/"#,
            "managed_identity.health.hosts: is missing: write a list with the host that the probe sends",
            r#"managed_identity.action: "off" is not valid: write "answer" or "report" or "refuse""#,
            r#"managed_identity.imds.pass[0]: "/metadata/identity/info" would expose the node's own identity: paths below /metadata/identity are never forwarded"#,
            r#"managed_identity.imds.pass[1]: "/metadata/../x" is not a valid metadata path: write one below /metadata, /latest or /computeMetadata, without a query, such as "/metadata/instance""#,
            r#"managed_identity.imds.pass[2]: "/healthz" is not a valid metadata path: write one below /metadata, /latest or /computeMetadata, without a query, such as "/metadata/instance""#,
            r#"managed_identity.app_service.secret: unknown field: expected one of hosts, secret_from_env"#,
            r#"status.path: "status" is not a valid path: write a path such as "/entra-exchange/status""#,
            r#"status.hosts[0]: "127.0.0.1:80" is not a valid host: write a name or an address without a port"#,
        ]
    );
    assert_eq!(
        mistakes(r#"{"managed_identity":{}}"#),
        [
            r#"managed_identity.imds: is missing: set "imds": {} to answer IMDS clients, or "app_service": {} to answer App Service clients"#
        ]
    );
}

#[test]
fn a_host_cannot_be_both_a_destination_and_a_managed_identity_host() {
    assert_eq!(
        mistakes(
            r#"{"managed_identity":{"imds":{}},"destinations":[{"hosts":["localhost:81"],"scope":"s/.default"}]}"#
        ),
        [
            r#"destinations[0].hosts[0]: "localhost:81" is also a host of managed_identity: remove it from one of the two"#
        ]
    );
}

#[test]
fn only_metadata_paths_outside_the_nodes_identity_can_be_forwarded() {
    let pass = |path: &str| format!(r#"{{"managed_identity":{{"imds":{{"pass":["{path}"]}}}}}}"#);
    for path in ["/", "/metadata", "/metadata/", "/Metadata/Identity", "/metadata/identity/oauth2"] {
        let mistakes = mistakes(&pass(path));
        assert!(mistakes.len() == 1 && mistakes[0].contains("never forwarded"), "{path}: {mistakes:?}");
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
fn a_path_that_exposes_the_nodes_credentials_gives_a_warning() {
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
        assert!(warnings.len() == 1 && warnings[0].contains("/latest/meta-data/iam, which exposes"), "{warnings:?}");
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

#[test]
fn identities_and_resources_that_callers_cannot_select_are_reported() {
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
            "identities[0] (a) and identities[1] (b) have the same client_id, so managed-identity callers cannot select one by it: set object_id or resource_id on both, and have callers select by that"
        ]
    );
    assert_eq!(two(TENANT), Vec::<String>::new());
    assert_eq!(
        mistakes(br#"{"identities":[{"resources":["https://vault.azure.net/.default","https://vault.azure.net/"]}],"managed_identity":{"imds":{}}}"#),
        [
            r#"identities[0].resources[0]: "https://vault.azure.net/.default" is a scope, and callers request a resource: write "https://vault.azure.net""#
        ]
    );
    let pass = |path: &str| parse(&format!(r#"{{"managed_identity":{{"imds":{{"pass":["{path}"]}}}}}}"#)).is_ok();
    assert!(pass("/metadata/identityprovider"));
    assert!(!pass("/metadata/identity") && !pass("/metadata/Identity/info") && !pass("/metadata/%69dentity"));
}
