//! Tests of the selection of an identity, and of the resources that it is allowed for.

use super::*;

#[test]
fn every_selector_finds_its_identity_and_never_another() {
    for (name, value) in [
        ("client_id", REPORTS.to_uppercase()),
        ("object_id", OBJECT.to_owned()),
        ("principal_id", OBJECT.to_owned()),
        ("msi_res_id", RESOURCE_ID.to_owned()),
        ("mi_res_id", RESOURCE_ID.replace("resourcegroups", "resourceGroups")),
        ("msi-res-id", RESOURCE_ID.replace('/', "%2F")),
        ("clientid", REPORTS.to_owned()),
    ] {
        assert_eq!(outcome(&imds(&format!("&{name}={value}"))), "reports https://vault.azure.net/.default", "{name}");
        for unknown in ["cccccccc-0000-4000-8000-000000000003", "orders"] {
            let answer = outcome(&imds(&format!("&{name}={unknown}")));
            assert_eq!(
                answer,
                format!(
                    r#"400 {{"error":"invalid_request","error_description":"Identity not found. Check that an identity in managed_identity.identities has {name} \"{unknown}\"."}}"#
                )
            );
        }
    }
    assert_eq!(
        outcome(&imds("")),
        r#"400 {"error":"invalid_request","error_description":"Multiple user assigned identities exist, please specify the clientId / resourceId of the identity in the token request. Select an identity with client_id, or set managed_identity.default_identity."}"#
    );
}

#[test]
fn a_destination_whose_host_is_as_long_as_that_of_an_endpoint_is_a_destination() {
    let text = r#"{"managed_identity": {"imds": {}}, "destinations": [{"hosts": ["api.local"], "action": "refuse"}]}"#;
    let policy = Policy::new(&Config::parse(text.as_bytes(), &variable).unwrap(), false);
    let decided_by = |host: &str| decide(&policy, &local(host, TOKEN_PATH)).decided_by();
    assert_eq!(decided_by("localhost"), Some(ConfigPath::Imds));
    assert_eq!(decided_by("api.local"), Some(ConfigPath::Destination(0)));
}

#[test]
fn no_protocol_returns_the_token_of_an_identity_that_was_not_selected() {
    // With a default identity, whose token a caller would get if its selector were ignored.
    let policy = policy_with(r#""default_identity": "orders", "imds": {}, "app_service": {}"#);
    let protocols = [
        (TOKEN_PATH, "2018-02-01", "metadata", "true"),
        ("/msi/token", "2017-09-01", "secret", SECRET),
        ("/msi/token", "2019-08-01", "x-identity-header", SECRET),
    ];
    for (path, version, header, value) in protocols {
        let ask = |more: &str| {
            let target = format!("{path}?api-version={version}&resource=https://storage.azure.com{more}");
            describe(decide(&policy, &local("127.0.0.1", &target).header(header, value.as_bytes())))
        };
        for (names, own) in [
            (
                [
                    "client_id",
                    "CLIENT_ID",
                    "Client_Id",
                    "clientid",
                    "clientId",
                    "ClientID",
                    "%63lient_id",
                    "client%5fid",
                ],
                REPORTS,
            ),
            (
                [
                    "object_id",
                    "OBJECT_ID",
                    "principal_id",
                    "Principal_Id",
                    "principal%5Fid",
                    "%6Fbject_id",
                    "object_Id",
                    "OBJECT%5FID",
                ],
                OBJECT,
            ),
            (
                [
                    "msi_res_id",
                    "MSI_RES_ID",
                    "mi_res_id",
                    "Mi_Res_Id",
                    "msi-res-id",
                    "mi%5Fres%5Fid",
                    "msi_Res_Id",
                    "%6Di_res_id",
                ],
                RESOURCE_ID,
            ),
        ] {
            for name in names {
                assert_eq!(
                    ask(&format!("&{name}={own}")),
                    "reports https://storage.azure.com/.default",
                    "{version} {name}"
                );
                let unknown = ask(&format!("&{name}=ffffffff-0000-4000-8000-00000000000f"));
                assert!(
                    unknown.starts_with("400 ") && unknown.contains("Identity not found"),
                    "{version} {name}: {unknown}"
                );
                let none = ask(&format!("&{name}="));
                assert!(
                    none.contains("is not allowed for the resource"),
                    "the default identity: {version} {name}: {none}"
                );
            }
        }
    }
}

#[test]
fn a_missing_client_id_is_reported_to_a_caller_that_selects_by_client_id() {
    let text = r#"{"managed_identity": {"imds": {}}}"#;
    let policy = Policy::new(&Config::parse(text.as_bytes(), &variable).unwrap(), false);
    assert!(describe(decide(&policy, &imds(&format!("&client_id={ORDERS}")))).contains("AZURE_CLIENT_ID is not set"));
    assert!(describe(decide(&policy, &imds(&format!("&object_id={OBJECT}")))).contains("Identity not found"));
}

#[test]
fn a_selector_that_matches_two_identities_selects_neither() {
    let text = format!(
        r#"{{
            "identities": [
                {{"name": "a", "client_id": "{ORDERS}"}},
                {{"name": "b", "client_id": "{ORDERS}", "tenant_id": "22222222-2222-4222-8222-222222222222", "object_id": "{OBJECT}"}}
            ],
            "managed_identity": {{"identities": ["a", "b"], "imds": {{}}}}
        }}"#
    );
    let policy = Policy::new(&Config::parse(text.as_bytes(), &variable).unwrap(), false);
    let outcome_of = |more: String| describe(decide(&policy, &imds(&more)));
    assert!(
        outcome_of(format!("&client_id={ORDERS}"))
            .contains(r#"the identities \"a\" and \"b\" both have this client_id"#)
    );
    assert!(outcome_of(format!("&object_id={OBJECT}")).starts_with("b "));
}

#[test]
fn a_resource_that_an_identity_is_not_allowed_for_is_rejected() {
    let ask = |resource: &str| {
        let target = format!("{TOKEN_PATH}?api-version=2018-02-01&client_id={ORDERS}&resource={resource}");
        outcome(&local("127.0.0.1", &target).header("metadata", b"true"))
    };
    // A trailing slash is ignored in the comparison, but kept in the scope.
    assert_eq!(ask("https://vault.azure.net/"), "orders https://vault.azure.net//.default");
    assert_eq!(ask("https://database.windows.net"), "orders https://database.windows.net/.default");
    assert_eq!(ask("https://vault.azure.net/.default"), "orders https://vault.azure.net/.default");
    assert_eq!(
        ask("https://storage.azure.com"),
        r#"400 {"error":"invalid_resource","error_description":"identity \"orders\" is not allowed for the resource \"https://storage.azure.com\". Request one of https://vault.azure.net, https://database.windows.net, or add the resource to the identity's resources."}"#
    );
    assert!(ask("https://vault.azure.net//").starts_with("400 ") && ask("https://VAULT.azure.net").starts_with("400 "));
}

#[test]
fn a_resource_is_listed_if_the_identity_or_one_of_its_destinations_names_it() {
    let text = format!(
        r#"{{
            "identities": [
                {{"name": "a", "client_id": "{ORDERS}"}},
                {{"name": "b", "client_id": "{REPORTS}", "resources": ["https://vault.azure.net"]}}
            ],
            "destinations": [
                {{"hosts": ["h.example"], "scope": "api://x/.default", "identity": "a", "tls_clusters": ["c"]}},
                {{"hosts": ["i.example"], "scope": "api://y/.default", "identity": "a", "action": "report", "tls_clusters": ["c"]}},
                {{"hosts": ["j.example"], "scope": "api://z/.default", "identity": "b", "tls_clusters": ["c"]}}
            ],
            "managed_identity": {{"identities": ["a", "b"], "imds": {{}}}}
        }}"#
    );
    let policy = Policy::new(&Config::parse(text.as_bytes(), &variable).unwrap(), false);
    let is_listed = |client: &str, resource: &str| {
        let path = format!("{TOKEN_PATH}?api-version=2018-02-01&resource={resource}&client_id={client}");
        match decide(&policy, &local("169.254.169.254", &path).header("metadata", b"true")) {
            Decision::Exchange(spec, _) => spec.is_listed(),
            other => panic!("{other:?}"),
        }
    };
    for resource in ["api://x", "api://x/.default", "api://y"] {
        assert!(is_listed(ORDERS, resource), "{resource}");
    }
    for resource in ["api://x/", "api://X", "api://z", "https://vault.azure.net"] {
        assert!(!is_listed(ORDERS, resource), "{resource}");
    }
    assert!(is_listed(REPORTS, "https://vault.azure.net/"));
}

#[test]
fn a_resource_is_listed_for_every_identity_of_the_same_client() {
    let text = format!(
        r#"{{
            "identities": [{{"name": "a", "client_id": "{ORDERS}"}}, {{"name": "b", "client_id": "{ORDERS}"}}],
            "destinations": [
                {{"hosts": ["h.example"], "scope": "api://x/.default", "identity": "a", "tls_clusters": ["c"]}}
            ],
            "managed_identity": {{"identities": ["b"], "imds": {{}}}}
        }}"#
    );
    let policy = Policy::new(&Config::parse(text.as_bytes(), &variable).unwrap(), false);
    let path = format!("{TOKEN_PATH}?api-version=2018-02-01&resource=api://x");
    let request = local("169.254.169.254", &path).header("metadata", b"true");
    let Decision::Exchange(spec, _) = decide(&policy, &request) else { panic!("no token") };
    assert_eq!((spec.identity(), spec.is_listed()), ("b", true), "it is the token of the destination");
}

#[test]
fn a_scope_has_the_same_spec_each_time_however_many_others_are_requested() {
    let spec = |policy: &Policy, client: &str, number: usize| {
        let target = format!("{TOKEN_PATH}?api-version=2018-02-01&resource=api://{number}&client_id={client}");
        let request = local("169.254.169.254", &target).header("metadata", b"true");
        let Decision::Exchange(spec, _) = decide(policy, &request) else { panic!("{target}") };
        spec
    };
    let text = format!(
        r#"{{"identities": [{{"name": "reports", "client_id": "{REPORTS}"}}, {{"name": "hidden", "client_id": "cccccccc-0000-4000-8000-000000000003"}}],
            "managed_identity": {{"identities": ["reports", "hidden"], "imds": {{}}}}}}"#
    );
    let new = || Policy::new(&Config::parse(text.as_bytes(), &variable).unwrap(), false);
    let policy = new();
    let hidden = "cccccccc-0000-4000-8000-000000000003";
    let mut before: Vec<Arc<TokenSpec>> = Vec::new();
    for number in (0..30).chain(0..30) {
        let first = spec(&policy, REPORTS, number);
        assert!(before.iter().all(|spec| !Arc::ptr_eq(spec, &first)), "only a few are kept");
        before.push(Arc::clone(&first));
        assert_eq!((first.identity(), first.scope()), ("reports", &*format!("api://{number}/.default")));
        assert_eq!(first, spec(&new(), REPORTS, number), "as in a policy that has seen no other request");
        assert!(Arc::ptr_eq(&first, &spec(&policy, REPORTS, number)), "it is not built again");
        assert_eq!(spec(&policy, hidden, number).identity(), "hidden", "another identity's are apart");
    }
}
