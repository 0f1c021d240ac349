//! Managed identity in a real Envoy.

use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fake_entra::Fault;
use serde_json::{Value, json};
use stack::{HEALTH_HOST, IDENTITY_HEADER, IMDS_HOST, LISTED_HOST, Options, Request, Response, Stack};

use super::{assert_clean_log, newest};

/// The tests of this file.
pub(crate) const ALL: &[(&str, fn())] = &[
    ("an_app_service_client_with_the_secret_gets_a_token", an_app_service_client_gets_a_token),
    ("a_build_gets_a_token_for_the_allowed_resource_only", a_build_gets_a_token_for_the_allowed_resource_only),
    ("only_requests_for_listed_paths_reach_the_nodes_imds", only_requests_for_listed_paths_reach_the_node),
    ("two_identities_of_one_pod_are_never_confused", two_identities_are_never_confused),
    ("managed_identity_is_rejected_on_a_gateway", managed_identity_is_rejected_on_a_gateway),
    ("clients_get_the_cached_token_at_once_while_a_refresh_fails", clients_get_the_cached_token_while_a_refresh_fails),
    ("a_client_that_disconnects_does_not_cancel_the_exchange_for_others", a_client_that_disconnects_cancels_nothing),
    ("bypass_cache_forces_one_new_token_in_thirty_seconds", bypass_cache_forces_a_new_token),
    ("callers_of_new_resources_are_limited_and_known_resources_are_served", new_resources_are_limited),
    ("a_pod_is_ready_if_its_federated_token_is_valid_and_entra_has_not_rejected_it", readiness_follows_the_token),
    ("an_unacceptable_federated_token_is_a_400_and_an_expired_one_a_503", an_invalid_federated_token),
];

fn imds(query: &str) -> Request {
    let path = format!("/metadata/identity/oauth2/token?api-version=2018-02-01&{query}");
    Request::get(IMDS_HOST, &path).header("metadata", "true").timeout(Duration::from_secs(60))
}

fn token(answer: &Response) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["access_token"].as_str().unwrap().to_owned()
}

fn claims(answer: &Response) -> Value {
    fake_entra::claims(&token(answer)).unwrap()
}

fn an_app_service_client_gets_a_token() {
    let stack = newest(Options::default());
    let ask = |query: &str, header: (&str, &str)| {
        let path = format!("/msi/token?{query}");
        stack.send_imds(&Request::get("127.0.0.1:15002", &path).header(header.0, header.1)).unwrap()
    };
    let current = "api-version=2019-08-01&resource=https://vault.azure.net";
    let answer = ask(current, ("x-identity-header", IDENTITY_HEADER));
    assert_eq!(claims(&answer)["aud"], "https://vault.azure.net");
    assert_eq!(answer.header("cache-control").unwrap(), "no-store");
    let first = ask("api-version=2017-09-01&resource=https://vault.azure.net", ("secret", IDENTITY_HEADER));
    assert!(first.json()["expires_on"].as_str().unwrap().ends_with(" +00:00"), "{}", first.text());
    let members: Vec<String> = first.json().as_object().unwrap().keys().cloned().collect();
    assert_eq!(members, ["access_token", "expires_on", "resource", "token_type"]);
    let wrong = ask(current, ("x-identity-header", "wrong"));
    assert_eq!((wrong.status, &wrong.json()["statusCode"]), (401, &json!(401)));
    assert_eq!(stack.directory().stats().token_requests, 1);
    assert_clean_log(&stack);

    let stack = newest(Options::default().variable("IDENTITY_HEADER", None));
    let path = format!("/msi/token?{current}");
    let answer = stack.send_imds(&Request::get("localhost", &path).header("x-identity-header", "")).unwrap();
    assert_eq!(answer.status, 400, "clients would retry a 5xx for minutes");
    assert!(answer.text().contains("IDENTITY_HEADER is not set"), "{}", answer.text());
}

/// A build that uses the App Service endpoint, with one identity for one resource.
fn a_build_gets_a_token_for_the_allowed_resource_only() {
    let configuration = json!({
        "assertions": [{"name": "build", "source": "file", "cluster": "projected_token"}],
        "identities": [{"name": "deploy", "assertion": "build", "resources": ["https://management.azure.com"]}],
        "managed_identity": {"app_service": {}},
    });
    let stack = newest(Options { configuration: Some(configuration.to_string()), ..Options::default() });
    stack.directory().register_resource("https://management.azure.com/");
    let ask = |resource: &str| {
        let path = format!("/msi/token?api-version=2019-08-01&resource={resource}");
        stack.send_imds(&Request::get("127.0.0.1", &path).header("x-identity-header", IDENTITY_HEADER)).unwrap()
    };
    assert_eq!(claims(&ask("https://management.azure.com/"))["aud"], "https://management.azure.com/");
    let other = ask("https://vault.azure.net");
    assert_eq!(other.status, 400);
    assert!(other.json()["message"].as_str().unwrap().contains("is not allowed for the resource"), "{}", other.text());
    // Without the section `imds`, IMDS requests are not answered.
    assert_eq!(stack.send_imds(&imds("resource=https://management.azure.com/")).unwrap().status, 404);
    assert_clean_log(&stack);
}

fn only_requests_for_listed_paths_reach_the_node() {
    let stack = newest(Options::default());
    let compute = "/metadata/instance/compute?api-version=2021-02-01";
    let answer = stack.get_imds(compute, &[("metadata", "true")]);
    // The test's upstream takes the place of the node's IMDS and describes the request in its response.
    assert_eq!((answer.status, answer.json()["path"].as_str()), (200, Some(compute)));
    assert_eq!(answer.seen_header("x-forwarded-for"), None);
    for path in ["/metadata/scheduledevents", "/metadata/instances", "/metadata/identity/info"] {
        assert_eq!(stack.get_imds(path, &[("metadata", "true")]).status, 403, "{path}");
    }
    // Normalized by the listener, this is a token request without a resource.
    let normal = stack.get_imds("/metadata/instance/../identity/oauth2/token", &[("metadata", "true")]);
    assert_eq!((normal.status, &normal.json()["error"]), (400, &json!("invalid_request")));
    assert_eq!(stack.get_imds("/metadata/identity/getplatformmetadata", &[]).status, 404);
    let rebound =
        Request::get("metadata.example", "/metadata/identity/oauth2/token?resource=x").header("metadata", "true");
    assert_eq!(stack.send_imds(&rebound).unwrap().status, 404);
    assert_eq!(stack.upstream.requests(), 1);
    assert_clean_log(&stack);
}

/// Two user-assigned identities, each with its allowed resources, and no default identity.
fn two_identities_are_never_confused() {
    let (orders, reports) = ("aaaaaaaa-0000-4000-8000-000000000001", "bbbbbbbb-0000-4000-8000-000000000002");
    let resource_id = |name: &str| {
        format!(
            "/subscriptions/cccccccc-0000-4000-8000-000000000003/resourcegroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/{name}"
        )
    };
    let configuration = json!({
        "identities": [
            {"name": "orders", "client_id": orders, "resource_id": resource_id("orders"), "resources": ["https://vault.azure.net", "https://database.windows.net/"]},
            {"name": "reports", "client_id": reports, "resource_id": resource_id("reports"), "resources": ["https://storage.azure.com"]},
        ],
        "managed_identity": {"identities": ["orders", "reports"], "imds": {"pass": ["/metadata/instance"]}},
    });
    let stack = newest(Options { configuration: Some(configuration.to_string()), ..Options::default() });
    for client_id in [orders, reports] {
        stack.directory().register_credential(stack::credential(client_id)).unwrap();
    }
    let ask = |query: &str| stack.send_imds(&imds(query)).unwrap();
    let by_resource_id = format!("resource=https%3A%2F%2Fstorage.azure.com&msi_res_id={}", resource_id("reports"));
    assert_eq!(claims(&ask(&by_resource_id))["appid"], reports);
    let by_client_id = format!("resource=https://vault.azure.net&client_id={orders}");
    assert_eq!(claims(&ask(&by_client_id))["appid"], orders);
    for (query, words) in [
        ("resource=https://vault.azure.net".to_owned(), "Multiple user assigned identities exist"),
        (format!("resource=https://vault.azure.net&client_id={}", stack::CLIENT_ID), "Identity not found"),
        (format!("resource=https://vault.azure.net&client_id={reports}"), "is not allowed for the resource"),
        (format!("resource=https://storage.azure.com&msi_res_id={}", resource_id("other")), "Identity not found"),
        (format!("resource=https://storage.azure.com&object_id={reports}"), "Identity not found"),
    ] {
        let answer = ask(&query);
        assert_eq!(answer.status, 400, "{query}");
        assert!(answer.json()["error_description"].as_str().unwrap().contains(words), "{}", answer.text());
    }
    assert_eq!(stack.directory().stats().token_requests, 2);
    assert_eq!(stack.get_imds("/metadata/instance", &[("metadata", "true")]).status, 200);
    assert_clean_log(&stack);
}

fn managed_identity_is_rejected_on_a_gateway() {
    let edit = |document: &mut serde_json::Value| {
        document["node"]["id"] = json!("router~10.0.0.1~egress-5c8.istio-system~istio-system.svc.cluster.local");
    };
    let stack = newest(Options { edit: Some(Box::new(edit)), ..Options::default() });
    let answer = stack.send_imds(&imds("resource=https://vault.azure.net")).unwrap();
    assert_eq!(answer.status, 403);
    assert!(answer.text().contains("not available on a gateway"), "{}", answer.text());
    assert!(stack.get(LISTED_HOST, "/", &[]).seen_header("authorization").is_some(), "destinations still work");
}

/// While a refresh is due and Entra answers 500, clients get the cached token at once.
fn clients_get_the_cached_token_while_a_refresh_fails() {
    let stack = newest(Options { concurrency: 4, ..Options::default() });
    // The token's lifetime is one minute: its refresh is due after 24 s to 30 s.
    stack.directory().add_faults(vec![Fault::expires_in(60)]);
    let first = token(&stack.send_imds(&imds("resource=https://vault.azure.net")).unwrap());
    stack.directory().add_faults(vec![Fault::status(500).times(u32::MAX)]);
    let refreshed = stack::eventually(Duration::from_secs(45), || {
        thread::sleep(Duration::from_millis(100));
        token(&stack.send_imds(&imds("resource=https://vault.azure.net")).unwrap());
        stack.directory().stats().token_requests > 1
    });
    assert!(refreshed, "the filter did not try to refresh the token");
    for _ in 0..50 {
        let request = imds("resource=https://vault.azure.net").timeout(Duration::from_secs(2));
        assert_eq!(token(&stack.send_imds(&request).unwrap()), first);
    }
}

fn a_client_that_disconnects_cancels_nothing() {
    let stack = newest(Options { concurrency: 1, ..Options::default() });
    stack.directory().add_faults(vec![Fault::delay(Duration::from_secs(2))]);
    let mut client = TcpStream::connect(stack.imds_addr()).unwrap();
    let path = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net";
    write!(client, "GET {path} HTTP/1.1\r\nhost: {IMDS_HOST}\r\nmetadata: true\r\n\r\n").unwrap();
    let started = stack::eventually(Duration::from_secs(5), || stack.directory().stats().token_requests == 1);
    assert!(started, "the first client's exchange has not started");
    thread::scope(|scope| {
        let waiting = scope.spawn(|| stack.send_imds(&imds("resource=https://vault.azure.net")).unwrap());
        thread::sleep(Duration::from_millis(200));
        drop(client);
        token(&waiting.join().unwrap());
    });
    assert_eq!(stack.directory().stats().token_requests, 1);
    assert_clean_log(&stack);
}

fn bypass_cache_forces_a_new_token() {
    let stack = newest(Options { concurrency: 1, ..Options::default() });
    let request_token = |parameters: &str| {
        token(&stack.send_imds(&imds(&format!("resource=https://vault.azure.net{parameters}"))).unwrap())
    };
    let first = request_token("");
    assert_eq!(request_token(&format!("&token_sha256_to_refresh={}", "0".repeat(64))), first);
    let second = request_token("&bypass_cache=true");
    assert_ne!(second, first);
    // At most one forced refresh in thirty seconds.
    assert_eq!(request_token("&bypass_cache=true"), second);
    assert_eq!(stack.directory().stats().token_requests, 2);
    assert_clean_log(&stack);
}

fn new_resources_are_limited() {
    let stack = newest(Options::default());
    let ask = |resource: &str| stack.send_imds(&imds(&format!("resource={resource}"))).unwrap();
    let exchanges = || stack.directory().stats().token_requests;
    let first = token(&ask("https://vault.azure.net"));
    for length in [1025, 20_000, 55_000] {
        let answer = ask(&format!("api://{}", "a".repeat(length - "api://".len())));
        assert_eq!((answer.status, &answer.json()["error"]), (400, &json!("invalid_request")), "{length} bytes");
    }
    assert_eq!(exchanges(), 1);
    // Thirty scopes may be new in a minute. A destination lists the first one.
    let statuses: Vec<u16> = (0..35).map(|number| ask(&format!("api://new-{number}")).status).collect();
    assert!(statuses[..30].iter().all(|status| *status != 429), "{statuses:?}");
    assert_eq!(statuses[30..], [429; 5], "{statuses:?}");
    let answer = ask("api://new-99");
    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    assert_eq!((answer.status, &answer.json()["error"]), (429, &json!("temporarily_unavailable")));
    assert_eq!(token(&ask("https://vault.azure.net")), first);
    assert_eq!(exchanges(), 31);
}

fn readiness_follows_the_token() {
    let probe = |stack: &Stack, path: &str| stack.send_health(&Request::get(HEALTH_HOST, path)).unwrap();
    let stack = newest(Options { concurrency: 1, ..Options::default() });
    assert_eq!((probe(&stack, "/healthz").status, probe(&stack, "/readyz").status), (200, 200));
    assert_eq!(stack.directory().stats().token_requests, 0, "a probe causes no exchange");
    assert_eq!(stack.send_imds(&imds("resource=https://valt.azure.net")).unwrap().status, 400);
    assert_eq!(probe(&stack, "/readyz").status, 200, "a rejected resource does not make the pod unready");
    let verbose = json!({"ready": true, "identities": [{"identity": "default", "ready": true}]});
    assert_eq!(probe(&stack, "/readyz?verbose").json(), verbose);
    let elsewhere = stack.send_health(&Request::get(HEALTH_HOST, "/metadata/identity/oauth2/token")).unwrap();
    assert_eq!(elsewhere.status, 404);
    assert_clean_log(&stack);

    let stack = newest(
        Options { concurrency: 1, ..Options::default() }
            .variable("AZURE_CLIENT_ID", Some("00000000-0000-4000-8000-000000000000")),
    );
    assert_eq!(probe(&stack, "/readyz").status, 200, "Entra has not rejected the token yet");
    assert_eq!(stack.send_imds(&imds("resource=https://vault.azure.net")).unwrap().status, 400);
    let answer = probe(&stack, "/readyz");
    assert_eq!((answer.status, &answer.json()["aadsts"]), (503, &json!("AADSTS700016")));
    assert_eq!(probe(&stack, "/healthz").status, 200);

    let stack = newest(Options { concurrency: 1, token: Some("no token".to_owned()), ..Options::default() });
    let answer = probe(&stack, "/readyz");
    assert_eq!((answer.status, &answer.json()["code"]), (503, &json!("assertion_malformed")));
    stack.rotate_token().unwrap();
    let ready = stack::eventually(Duration::from_secs(5), || probe(&stack, "/readyz").status == 200);
    assert!(ready, "the pod is not ready although the token is valid");
    assert_clean_log(&stack);
}

/// SDKs report a 400 at once, and retry a 503 for up to 18 s.
fn an_invalid_federated_token() {
    let part = |json: Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let claims =
        |exp: i64| json!({"iss": "https://i.example", "sub": "s", "aud": "api://AzureADTokenExchange", "exp": exp});
    let signed = |alg: &str, claims: Value| format!("{}.{}.c2ln", part(json!({"alg": alg})), part(claims));
    let (past, future) = (1_600_000_000, 4_000_000_000);
    let mut not_yet_valid = claims(future);
    not_yet_valid["nbf"] = json!(future - 60);
    let mut without_issuer = claims(future);
    without_issuer["iss"] = json!("");
    for (token, status, error, words) in [
        ("no token".to_owned(), 400, "invalid_client", "not a JWT"),
        (signed("ES256", claims(future)), 400, "invalid_client", "ES256"),
        (signed("RS256", without_issuer), 400, "invalid_client", "no issuer"),
        (signed("RS256", claims(past)), 503, "temporarily_unavailable", "expired"),
        (signed("RS256", not_yet_valid), 503, "temporarily_unavailable", "not valid before"),
        (String::new(), 503, "temporarily_unavailable", "empty"),
    ] {
        let stack = newest(Options { token: Some(token), ..Options::default() });
        let answer = stack.send_imds(&imds("resource=https://vault.azure.net")).unwrap();
        assert_eq!((answer.status, &answer.json()["error"]), (status, &json!(error)), "{}", answer.text());
        assert!(answer.json()["error_description"].as_str().unwrap().contains(words), "{}", answer.text());
        assert_eq!(answer.header("retry-after").is_some(), status == 503);
        let path = "/msi/token?api-version=2019-08-01&resource=https://vault.azure.net";
        let request = Request::get("127.0.0.1", path).header("x-identity-header", IDENTITY_HEADER);
        assert_eq!(stack.send_imds(&request).unwrap().json()["statusCode"], status);
        assert_eq!(stack.directory().stats().token_requests, 0);
        assert_clean_log(&stack);
    }
}
