//! Tests of the IMDS endpoint.

use super::*;

#[test]
fn a_token_request_is_accepted_in_the_form_of_each_client_library() {
    for target in [
        format!("{TOKEN_PATH}?api-version=2018-02-01&resource=https://vault.azure.net&client_id={ORDERS}"),
        format!("/{TOKEN_PATH}?resource=https%3A%2F%2Fvault.azure.net&api-version=2019-08-01&client_id={ORDERS}"),
        format!(
            "{TOKEN_PATH}/?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net&xms_cc=cp1&client_id={ORDERS}"
        ),
        format!(
            "/Metadata/identity/oauth2/token?api-version=2099-01-01&resource=https://vault.azure.net&bypass_cache=true&client_id={ORDERS}"
        ),
    ] {
        let request = local("169.254.169.254:80", &target).header("metadata", b"True");
        assert_eq!(outcome(&request), "orders https://vault.azure.net/.default", "{target}");
    }
}

#[test]
fn a_request_that_imds_itself_would_reject_is_rejected() {
    let first_sentence = |request: &Sent| outcome(request).split(". ").next().unwrap().to_owned();
    let target = format!("{TOKEN_PATH}?api-version=2018-02-01&resource=x&client_id={REPORTS}");
    for request in [
        local("169.254.169.254", &target),
        local("169.254.169.254", TOKEN_PATH),
        local("169.254.169.254", &target).header("metadata", b"yes"),
        local("169.254.169.254", &target).header("metadata", b"true,true"),
    ] {
        assert_eq!(
            first_sentence(&request),
            r#"400 {"error":"invalid_request","error_description":"Required metadata header not specified"#
        );
    }
    // IMDS rejects the header with any value, and a proxy may send an empty one.
    for value in ["10.0.0.1", "", " "] {
        let answer = outcome(&imds("").header("x-forwarded-for", value.as_bytes()));
        assert!(answer.starts_with("400") && answer.contains("use_remote_address: false"), "{value:?}: {answer}");
    }
    for method in ["POST", "HEAD", "get"] {
        assert!(first_sentence(&imds("").header(":method", method.as_bytes())).starts_with("405"), "{method}");
    }
    for more in ["&resource=x", "&client_id=a&object_id=b", "&client_id=a&client_id=a"] {
        assert!(outcome(&imds(more)).starts_with(r#"400 {"error":"invalid_request""#), "{more}");
    }
    for query in [
        "",
        "?",
        "?resource=x",
        "?api-version=2017-12-01&resource=x",
        "?api-version=2018-02-01&resource=",
        "?api-version=2018-02-01&resource=a%20b&client_id=x",
        "?api-version=2018-02-01&resource=a%00&client_id=x",
    ] {
        let request = local("127.0.0.1", &format!("{TOKEN_PATH}{query}")).header("metadata", b"true");
        let answer = outcome(&request);
        assert!(answer.starts_with("400 ") && !answer.contains("Identity"), "{query}: {answer}");
    }
}

#[test]
fn only_requests_from_within_the_pod_are_answered() {
    let target = format!("{TOKEN_PATH}?api-version=2018-02-01&resource=x&client_id={REPORTS}");
    for (address, answered) in [
        ("169.254.169.254:80", true),
        ("127.0.0.7:1", true),
        ("[::1]:80", true),
        ("10.0.0.7:80", false),
        ("169.254.169.253:80", false),
        ("", false),
    ] {
        let request = Sent::get("169.254.169.254", &target).header("metadata", b"true").to(address);
        assert_eq!(outcome(&request).starts_with("reports "), answered, "{address}");
    }
    let text = r#"{"managed_identity": {"imds": {}, "app_service": {}}}"#;
    let on_gateway = Policy::new(&Config::parse(text.as_bytes(), &variable).unwrap(), true);
    for request in [imds(""), app_service("api-version=2019-08-01&resource=x")] {
        assert!(describe(decide(&on_gateway, &request)).contains("not available on a gateway"));
    }
}

#[test]
fn other_hosts_and_paths_are_not_answered() {
    for host in ["metadata.evil.example", "169.254.169.253", "169.254.169.254.", "2852039166"] {
        let request = local(host, &format!("{TOKEN_PATH}?api-version=2018-02-01&resource=x"));
        assert_eq!(outcome(&request.header("metadata", b"true")), "ignore", "{host}");
    }
    for path in [
        "/",
        "/metadata/scheduledevents",
        "/metadata/identity/oauth2/tokenfoo",
        "/metadata/identity/oauth2/token/x",
        "/metadata/Identity/oauth2/token",
        "/metadata/identity/info",
        "/metadata/instancefoo",
        "/metadata/instance/../identity/oauth2/token",
        "/metadata/instance/%2e%2e/identity/oauth2/token",
        "/metadata/instance//identity",
        "///metadata/identity/oauth2/token",
        "/x/identity/oauth2/token",
        "",
    ] {
        let request = local("169.254.169.254", path).header("metadata", b"true");
        assert!(outcome(&request).starts_with(r#"403 {"error":"invalid_request""#), "{path}: {}", outcome(&request));
    }
    for path in ["/metadata/identity/getplatformmetadata?cred-api-version=2.0", "/metadata/identity/issuecredential"] {
        assert!(outcome(&local("169.254.169.254", path)).starts_with("404 "), "{path}");
    }
}

#[test]
fn a_listed_path_is_forwarded_to_the_node() {
    for path in ["/metadata/instance", "/metadata/instance/compute?api-version=2021-02-01"] {
        assert_eq!(outcome(&local("169.254.169.254", path)), "ignore");
        let from_outside = Sent::get("169.254.169.254", path).to("10.0.0.7:80");
        assert!(outcome(&from_outside).starts_with("403 "));
    }
}

#[test]
fn an_imds_reply_has_only_strings_in_a_fixed_order() {
    let request = imds(&format!("&client_id={ORDERS}"));
    assert_eq!(
        body(reply(&request, Ok(()))),
        format!(
            r#"{{"access_token":"abc","client_id":"{ORDERS}","expires_in":"3500","expires_on":"1561004277","ext_expires_in":"3500","not_before":"1561000678","resource":"https://vault.azure.net","token_type":"Bearer"}}"#
        )
    );
}

#[test]
fn a_permanent_problem_is_a_400_and_a_transient_one_a_503_with_retry_after() {
    let request = imds(&format!("&client_id={ORDERS}"));
    let problem = Problem::new(Code::EntraRefused, "AADSTS700016: no such application.", "Correct it.");
    let mut problem = problem.retry_after(Duration::from_secs(30));
    problem.entra.error = crate::untrusted::OAuthError::parse("unauthorized_client");
    let answer = reply(&request, Err(&problem));
    assert_eq!(answer.status, 400);
    assert!(answer.headers.iter().all(|(name, _)| *name != "retry-after"), "azure-core for Python would wait");
    assert_eq!(
        body(answer),
        r#"{"error":"unauthorized_client","error_description":"AADSTS700016: no such application. Correct it."}"#
    );
    for code in [Code::AssertionInvalid, Code::AssertionMalformed, Code::AssertionUnexpected, Code::SourceRefused] {
        let answer = reply(&request, Err(&Problem::new(code, "d", "r").retry_after(Duration::from_secs(2))));
        assert_eq!((answer.status, answer.headers.iter().any(|(name, _)| *name == "retry-after")), (400, false));
        assert_eq!(body(answer), r#"{"error":"invalid_client","error_description":"d. r"}"#);
    }
    for code in [
        Code::TokenWaitTimeout,
        Code::EntraUnavailable,
        Code::TooManyWaiting,
        Code::AssertionUnavailable,
        Code::AssertionExpired,
        Code::AssertionNotYetValid,
        Code::SourceNotReady,
        Code::SourceReplyInvalid,
        Code::ClusterMissing,
    ] {
        let mut problem = Problem::new(code, "d", "r").retry_after(Duration::from_secs(2));
        problem.entra.error = crate::untrusted::OAuthError::parse("server_error");
        let answer = reply(&request, Err(&problem));
        assert_eq!(answer.status, 503);
        assert!(answer.headers.contains(&("retry-after", "2".to_owned())));
        assert_eq!(body(answer), r#"{"error":"temporarily_unavailable","error_description":"d. r"}"#);
    }
}

#[test]
fn report_forwards_token_requests_to_the_node_and_refuse_rejects_them() {
    let request = imds(&format!("&client_id={ORDERS}"));
    let report = policy_with(r#""action": "report", "imds": {}"#);
    assert_eq!(
        describe(decide(&report, &request)),
        "report orders https://vault.azure.net/.default, enforced: forwarded"
    );
    // The node's own endpoint decides about these.
    for (request, code) in [
        (imds(""), "identity_ambiguous"),
        (imds("&client_id=x"), "identity_not_found"),
        (local("169.254.169.254", TOKEN_PATH), "metadata_header_missing"),
    ] {
        assert_eq!(describe(decide(&report, &request)), format!("report unknown no token, enforced: {code}"));
    }
    let target = format!("{TOKEN_PATH}?api-version=2018-02-01&resource=https://storage.azure.com&client_id={ORDERS}");
    let disallowed = local("169.254.169.254", &target).header("metadata", b"true");
    assert_eq!(describe(decide(&report, &disallowed)), "report orders no token, enforced: resource_not_allowed");
    let refuse = policy_with(r#""action": "refuse", "imds": {"pass": ["/metadata/instance"]}"#);
    assert!(
        describe(decide(&refuse, &request)).starts_with(
            r#"403 {"error":"invalid_request","error_description":"managed_identity.action is \"refuse\""#
        )
    );
    assert_eq!(describe(decide(&refuse, &local("169.254.169.254", "/metadata/instance"))), "ignore");
}

#[test]
fn a_decision_names_the_token_that_the_caller_rejects() {
    let rejected_token = |more: &str| match decide(&policy(), &imds(&format!("&client_id={ORDERS}{more}"))) {
        Decision::Exchange(_, delivery) => delivery.rejected_token(),
        other => panic!("{other:?}"),
    };
    assert_eq!(rejected_token(""), None);
    assert_eq!(rejected_token("&bypass_cache=true"), Some(RejectedToken::Cached));
    let digest = AccessToken::parse("test_token").unwrap().digest();
    let hash = "cc0af97287543b65da2c7e1476426021826cab166f1e063ed012b855ff819656";
    assert_eq!(rejected_token(&format!("&token_sha256_to_refresh={hash}")), Some(RejectedToken::Digest(digest)));
}
