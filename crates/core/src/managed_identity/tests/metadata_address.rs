//! Tests of requests to 169.254.169.254, to which IMDS rules apply regardless of their headers. Invariant: only listed paths, and token
//! requests under `action: report`, are forwarded to the node.

use super::*;

const LISTED: &str = "payments-kv.vault.azure.net";
const STATUS_PATH: &str = "/entra-exchange/status";

/// A policy with every other feature that could answer or forward a request, and an action.
fn everything(action: &str) -> Policy {
    // `report` cannot be combined with App Service's endpoint.
    let app_service = if action == "report" { "" } else { r#""app_service": {},"# };
    let text = format!(
        r#"{{
            "identities": [{{"client_id": "{ORDERS}"}}],
            "destinations": [{{"hosts": ["{LISTED}"], "scope": "https://vault.azure.net/.default", "plaintext": "allow"}},
                             {{"hosts": ["passed.example"], "action": "pass"}}],
            "managed_identity": {{{app_service} "action": "{action}", "imds": {{"pass": ["/metadata/instance"]}},
                                  "health": {{"hosts": ["entra-exchange.health"]}}}},
            "status": {{"hosts": ["status.example", "127.0.0.1"]}}
        }}"#
    );
    Policy::new(&Config::parse(text.as_bytes(), &variable).unwrap(), false)
}

fn to(address: &str, host: &[u8], target: &str) -> Sent {
    let request = Sent::get("", target).header(":authority", host).header("metadata", b"true");
    request.header("x-identity-header", SECRET.as_bytes()).to(address)
}

fn to_metadata_address(host: &str, target: &str) -> Sent {
    to("169.254.169.254:80", host.as_bytes(), target)
}

fn token_target() -> String {
    format!("{TOKEN_PATH}?api-version=2018-02-01&resource=https://vault.azure.net")
}

const ACTIONS: [&str; 3] = ["answer", "report", "refuse"];

#[test]
fn a_request_with_a_foreign_host_is_neither_answered_nor_forwarded() {
    let foreign: [&[u8]; 22] = [
        b"imds.internal",
        b"evil",
        b"169.254.169.254.",
        b"127.0.0.1.",
        b"",
        LISTED.as_bytes(),
        b"payments-kv.vault.azure.net:443",
        b"passed.example",
        b"entra-exchange.health",
        b"status.example",
        b"user@169.254.169.254",
        b"2852039166",
        b"0xa9fea9fe",
        b"0251.0376.0251.0376",
        b"[::ffff:169.254.169.254]",
        b"metadata.google.internal",
        b"169.254.169.254, evil",
        b"169.254.169.254\xff",
        // A listed host with a port that a server may read in another way.
        b"169.254.169.254:",
        b"169.254.169.254:x",
        b"169.254.169.254:65536",
        b"localhost:+80",
    ];
    let policies = ACTIONS.map(|action| (action, everything(action)));
    let targets = [token_target(), "/metadata/instance".to_owned(), "/".to_owned(), STATUS_PATH.to_owned()];
    let targets =
        targets.into_iter().chain(["/msi/token", "/healthz", "/readyz", "/secrets", "", "*"].map(str::to_owned));
    for target in targets {
        for (host, (action, policy)) in
            foreign.iter().flat_map(|host| policies.iter().map(move |policy| (host, policy)))
        {
            for method in ["GET", "POST", "PUT", "HEAD", "CONNECT", "TRACE", "get"] {
                let request = to("169.254.169.254:80", host, &target).header(":method", method.as_bytes());
                let answer = describe(decide(policy, &request));
                let host = String::from_utf8_lossy(host);
                assert!(answer.starts_with("403 "), "{action}: {method} {target} of {host}: {answer}");
            }
        }
    }
    let answer = describe(decide(&everything("answer"), &to_metadata_address("evil", &token_target())));
    assert_eq!(
        answer,
        r#"403 {"error":"invalid_request","error_description":"the client connected to 169.254.169.254, but the Host header is not in managed_identity.imds.hosts. Send Host: 169.254.169.254. For another service, connect to that service's address."}"#
    );
}

#[test]
fn every_form_of_the_address_is_recognized() {
    for address in [
        "169.254.169.254:80",
        "169.254.169.254:8080",
        "[::ffff:169.254.169.254]:80",
        "[::ffff:a9fe:a9fe]:80",
        "[::FFFF:A9FE:A9FE]:80",
    ] {
        let answer = describe(decide(&everything("answer"), &to(address, b"evil", &token_target())));
        assert!(answer.starts_with("403 "), "{address}: {answer}");
        let answer = describe(decide(&everything("answer"), &to(address, b"169.254.169.254", &token_target())));
        assert_eq!(answer, "default https://vault.azure.net/.default", "{address}");
    }
    for other in ["169.254.169.253:80", "127.0.0.1:15001", "10.0.0.7:80", "[fe80::a9fe:a9fe]:80", "169.254.169.254", ""]
    {
        assert_eq!(describe(decide(&everything("answer"), &to(other, b"evil", &token_target()))), "ignore", "{other}");
    }
}

#[test]
fn with_a_listed_host_tokens_are_answered_and_listed_paths_are_forwarded() {
    for host in ["169.254.169.254", "169.254.169.254:80", "127.0.0.1", "localhost:8080", "LOCALHOST"] {
        let decide =
            |action: &str, target: &str| describe(decide(&everything(action), &to_metadata_address(host, target)));
        assert_eq!(decide("answer", &token_target()), "default https://vault.azure.net/.default", "{host}");
        assert!(decide("refuse", &token_target()).starts_with("403 "), "{host}");
        assert!(decide("report", &token_target()).starts_with("report default "), "{host}");
        for action in ACTIONS {
            assert_eq!(decide(action, "/metadata/instance/compute?api-version=2021-02-01"), "ignore", "{host}");
            // Only IMDS rules apply at this address.
            for target in ["/msi/token", "/healthz", "/readyz", STATUS_PATH, "/", "/secrets", "/metadata/identity/info"]
            {
                assert!(decide(action, target).starts_with("403 "), "{action}: {host}{target}");
            }
        }
    }
}

#[test]
fn a_probe_for_an_unimplemented_path_gets_a_404_with_any_host() {
    for host in ["169.254.169.254", "evil", ""] {
        for target in
            ["/metadata/identity/getplatformmetadata?cred-api-version=2.0", "//metadata/identity/issuecredential/"]
        {
            for action in ACTIONS {
                let answer = describe(decide(&everything(action), &to_metadata_address(host, target)));
                assert!(answer.starts_with(r#"404 {"error":"invalid_request""#), "{host}{target}: {answer}");
            }
        }
    }
}

#[test]
fn no_spelling_of_a_path_evades_the_filter() {
    // A path that no HTTP library sends, and a target that Envoy splits before the filter runs.
    let raw = ["/metadata/identity/oauth2/token\u{0}", "http://169.254.169.254/metadata/identity/oauth2/token"];
    for path in include_str!("../../../tests/path-evasions.txt").lines().chain(raw) {
        let target = format!("{path}?api-version=2018-02-01&resource=https://vault.azure.net");
        for action in ACTIONS {
            let answer = describe(decide(&everything(action), &to_metadata_address("169.254.169.254", &target)));
            assert!(answer.starts_with("403 "), "{action}: {path}: {answer}");
        }
    }
}

#[test]
fn the_path_forms_of_azures_client_libraries_are_answered() {
    for path in [
        "//metadata/identity/oauth2/token",
        "/metadata/identity/oauth2/token/",
        "/Metadata/identity/oauth2/token",
        "//metadata/identity/oauth2/token/",
    ] {
        let target = format!("{path}?api-version=2018-02-01&resource=https://vault.azure.net");
        for address in ["169.254.169.254:80", "127.0.0.1:15001"] {
            let answer = describe(decide(&everything("answer"), &to(address, b"169.254.169.254", &target)));
            assert_eq!(answer, "default https://vault.azure.net/.default", "{path} at {address}");
        }
    }
}

#[test]
fn report_forwards_no_request_from_outside_the_pod() {
    for address in ["10.0.0.7:80", "[fd00::7]:80", ""] {
        let request = to(address, b"169.254.169.254", &token_target());
        assert!(describe(decide(&everything("report"), &request)).starts_with("403 "), "{address}");
    }
}

#[test]
fn the_address_is_read_once_and_only_if_imds_is_enabled() {
    let reads_of = |policy: &Policy, request: &Sent| {
        decide(policy, request);
        request.reads.take()
    };
    let unlisted = to("10.0.0.7:80", b"unlisted.example", "/");
    assert_eq!(reads_of(&everything("answer"), &unlisted), ["authority", "destination_address"]);
    let token = to_metadata_address("169.254.169.254", &token_target());
    let read = reads_of(&everything("answer"), &token);
    let by_host = reads_of(&everything("answer"), &to("127.0.0.1:15002", b"169.254.169.254", &token_target()));
    for once in ["authority", "headers", "destination_address"] {
        for read in [&read, &by_host] {
            assert_eq!(read.iter().filter(|name| *name == once).count(), 1, "{once}: {read:?}");
        }
    }
    let without =
        Policy::new(&Config::parse(br#"{"managed_identity": {"app_service": {}}}"#, &variable).unwrap(), false);
    assert_eq!(reads_of(&without, &unlisted), ["authority"]);
}

#[test]
fn metadata_paths_of_other_clouds_are_forwarded_if_listed() {
    let policy = policy_with(r#""imds": {"pass": ["/latest", "/2021-07-15/meta-data", "/computeMetadata/v1"]}"#);
    let answer_to = |method: &str, host: &str, target: &str| {
        describe(decide(&policy, &to_metadata_address(host, target).header(":method", method.as_bytes())))
    };
    for (method, host, target) in [
        ("PUT", "169.254.169.254", "/latest/api/token"),
        ("GET", "169.254.169.254", "/latest/meta-data/placement/region"),
        ("GET", "169.254.169.254", "/2021-07-15/meta-data/"),
        ("GET", "metadata.google.internal", "/computeMetadata/v1/instance/id?alt=text"),
        // Google's clients request the root to detect the service.
        ("GET", "169.254.169.254", "/"),
        ("GET", "metadata.google.internal:80", "/"),
    ] {
        assert_eq!(answer_to(method, host, target), "ignore", "{method} {host}{target}");
    }
    for target in
        ["/latest/../metadata/identity/oauth2/token", "/metadata/identity/info", "/2020-01-01/meta-data", "/x"]
    {
        assert!(answer_to("GET", "169.254.169.254", target).starts_with("403 "), "{target}");
    }
    assert!(answer_to("GET", "metadata.google.internal.", "/computeMetadata/v1/").starts_with("403 "));
    // Google's host is only accepted if one of Google's paths is listed.
    let only_aws = policy_with(r#""imds": {"pass": ["/latest"]}"#);
    let google = to_metadata_address("metadata.google.internal", "/latest");
    assert!(describe(decide(&only_aws, &google)).starts_with("403 "));
    assert!(describe(decide(&only_aws, &to_metadata_address("169.254.169.254", "/"))).starts_with("403 "));
}

#[test]
fn the_rejection_of_a_path_has_a_fitting_remedy() {
    let remedy = |target: &str| describe(decide(&policy(), &to_metadata_address("169.254.169.254", target)));
    assert!(remedy("/metadata/scheduledevents").contains("list the path in managed_identity.imds.pass"));
    for below in ["/metadata/identity/info", "/metadata/Identity/oauth2/token", "/metadata/identity"] {
        assert!(!remedy(below).contains("imds.pass"), "{}", remedy(below));
    }
    assert!(remedy("/metadata/instance/../x").contains("the path has a dot segment"));
    let without = policy_with(r#""imds": {}"#);
    let remedy = describe(decide(&without, &to_metadata_address("169.254.169.254", "/metadata/scheduledevents")));
    assert!(remedy.contains("list the path in managed_identity.imds.pass"), "{remedy}");
    for address in ["127.0.0.1:15002", "169.254.169.254:80"] {
        assert_eq!(
            describe(decide(&without, &to(address, b"127.0.0.1:15002", "/msi/token?resource=x"))),
            r#"403 {"statusCode":403,"message":"App Service's endpoint is not enabled. Set managed_identity.app_service, such as to {}, and set the same IDENTITY_HEADER for the app and the proxy."}"#
        );
    }
}

#[test]
fn a_request_with_a_header_that_overrides_its_path_or_method_is_not_forwarded() {
    for header in ["x-original-url", "x_rewrite-url", "x-http-method-override", "x-http_method"] {
        for address in ["169.254.169.254:80", "127.0.0.1:15002"] {
            let to_node = |action: &str, target: &str| {
                let request =
                    to(address, b"169.254.169.254", target).header(header, b"/metadata/identity/oauth2/token");
                describe(decide(&everything(action), &request))
            };
            for action in ACTIONS {
                let answer = to_node(action, "/metadata/instance?api-version=2021-02-01");
                assert!(answer.starts_with("403 ") && answer.contains(header), "{action} {header}: {answer}");
            }
            let answer = to_node("report", &token_target());
            assert!(answer.starts_with("403 "), "{header}: {answer}");
            let answer = to_node("answer", &token_target());
            assert_eq!(answer, "default https://vault.azure.net/.default", "the filter answers it itself: {header}");
        }
    }
}
