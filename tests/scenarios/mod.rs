//! The scenarios: example tests of the filter that every host runs, Envoy and this workspace's own proxy-wasm host, with the
//! release module.

use std::time::Duration;

use fake_entra::{Directory, Fault, FaultKind};
use serde_json::{Value, json};
use stack::{AUDIENCE, CLIENT_ID, IMDS_HOST, LISTED_HOST, TENANT_ID, UNLISTED_HOST};
use stack::{Layout, Request, Response};

/// An example test of the filter.
pub(crate) struct Scenario {
    /// A sentence that the test proves.
    pub(crate) name: &'static str,
    /// The environment before the first request.
    pub(crate) setup: Setup,
    /// Whether it runs on every supported version of Envoy, not only on the newest.
    pub(crate) on_every_version: bool,
    /// Panics if the sentence is not true.
    pub(crate) run: fn(&dyn TestHost),
}

/// The environment of a scenario.
#[derive(Clone, Copy)]
pub(crate) struct Setup {
    /// The filter's configuration; by default the one in the sidecar's manifest.
    pub(crate) configuration: Option<fn() -> Value>,
    /// The layout of the federated token's volume.
    pub(crate) layout: Layout,
    /// The audience of the first federated token.
    pub(crate) audience: &'static str,
    /// An environment variable to leave unset.
    pub(crate) unset_variable: Option<&'static str>,
}

const DEFAULT: Setup =
    Setup { configuration: None, layout: Layout::Webhook160, audience: AUDIENCE, unset_variable: None };

/// A host that runs the filter, with its environment.
pub(crate) trait TestHost {
    /// Sends these requests concurrently, each on its own connection, and waits for all responses.
    fn outbound(&self, requests: &[Request]) -> Vec<Response>;
    /// Sends a request to the listener for managed identity.
    fn imds(&self, request: &Request) -> Response;
    /// The fake Entra.
    fn entra(&self) -> Directory;
    /// Replaces the federated token with a valid one, in the same way as the kubelet.
    fn rotate(&self);
    /// Waits, or advances the host's clock, by this time.
    fn advance(&self, time: Duration);
}

/// All scenarios.
pub(crate) const ALL: &[Scenario] = &[
    Scenario {
        name: "a_request_to_a_listed_host_gets_the_workloads_token",
        setup: DEFAULT,
        on_every_version: true,
        run: |world| {
            let token = seen_token(&get(world, LISTED_HOST, "/secrets/db?api-version=7.4"));
            assert_eq!(token["aud"], "https://vault.azure.net");
            assert_eq!(token["tid"], TENANT_ID);
            assert_eq!(token["appid"], CLIENT_ID);
        },
    },
    Scenario {
        name: "a_second_request_is_served_from_the_cache",
        setup: DEFAULT,
        on_every_version: false,
        run: |world| {
            let first = seen_token(&get(world, LISTED_HOST, "/"));
            for _ in 0..8 {
                assert_eq!(seen_token(&get(world, LISTED_HOST, "/")), first);
            }
            assert_eq!(world.entra().stats().token_requests, 1);
        },
    },
    Scenario {
        name: "eight_concurrent_requests_without_a_cached_token_share_one_exchange",
        setup: DEFAULT,
        on_every_version: true,
        run: |world| {
            // Long enough for all requests to wait.
            world.entra().add_faults(vec![Fault::delay(Duration::from_millis(300))]);
            let answers = world.outbound(&vec![Request::get(LISTED_HOST, "/"); 8]);
            let tokens: Vec<Value> = answers.iter().map(seen_token).collect();
            assert!(tokens.iter().all(|token| *token == tokens[0]));
            assert_eq!(world.entra().stats().token_requests, 1);
        },
    },
    Scenario {
        name: "a_request_to_an_unlisted_host_gets_no_token_and_causes_no_exchange",
        setup: DEFAULT,
        on_every_version: false,
        run: |world| {
            let answer = get(world, UNLISTED_HOST, "/");
            assert_eq!((answer.status, answer.seen_header("authorization")), (200, None));
            assert_eq!(world.entra().stats().token_requests, 0);
        },
    },
    Scenario {
        name: "a_request_routed_to_an_unlisted_cluster_is_rejected",
        setup: Setup { configuration: Some(|| destination(&json!({"tls_clusters": ["another_cluster"]}))), ..DEFAULT },
        on_every_version: true,
        run: |world| {
            let problem = problem(&get(world, LISTED_HOST, "/"), 403, "cluster_not_listed");
            assert!(problem["detail"].as_str().unwrap().contains("payments_kv"), "{problem}");
            assert_eq!(world.entra().stats().token_requests, 0);
        },
    },
    Scenario {
        name: "a_destination_without_tls_clusters_is_rejected_unless_plaintext_is_allowed",
        setup: Setup {
            configuration: Some(|| {
                json!({"destinations": [
                    {"hosts": [LISTED_HOST], "scope": "https://vault.azure.net/.default"},
                    {"hosts": [UNLISTED_HOST], "scope": "https://vault.azure.net/.default", "plaintext": "allow"},
                ]})
            }),
            ..DEFAULT
        },
        on_every_version: false,
        run: |world| {
            problem(&get(world, LISTED_HOST, "/"), 403, "tls_clusters_missing");
            seen_token(&get(world, UNLISTED_HOST, "/"));
        },
    },
    Scenario {
        name: "an_existing_credential_is_kept",
        setup: DEFAULT,
        on_every_version: false,
        run: |world| {
            let request =
                Request::get(LISTED_HOST, "/").header("authorization", "SharedKey x").header("authorization", "b");
            let answer = one(world, request);
            // Envoy joins several Authorization headers into one before the first filter runs.
            assert_eq!(authorizations(&answer), ["SharedKey x,b"]);
            assert_eq!(world.entra().stats().token_requests, 0);
        },
    },
    Scenario {
        name: "several_existing_credentials_are_replaced_with_one_token",
        setup: Setup {
            configuration: Some(|| destination(&json!({"existing_credential": "replace", "plaintext": "allow"}))),
            ..DEFAULT
        },
        on_every_version: true,
        run: |world| {
            let request =
                Request::get(LISTED_HOST, "/").header("authorization", "SharedKey x").header("authorization", "b");
            // The first request waits for the token, the second gets it from the cache: different code paths in the filter.
            for _ in 0..2 {
                let seen = authorizations(&one(world, request.clone()));
                assert!(seen.len() == 1 && seen[0].starts_with("Bearer ey"), "{} headers", seen.len());
            }
        },
    },
    Scenario {
        name: "a_credential_is_not_replaced_in_a_listeners_filter_chain_where_the_route_could_change",
        setup: Setup { configuration: Some(|| destination(&json!({"existing_credential": "replace"}))), ..DEFAULT },
        on_every_version: true,
        run: |world| {
            for header in ["authorization", "api-key"] {
                let problem = problem(
                    &one(world, Request::get(LISTED_HOST, "/").header(header, "x")),
                    403,
                    "replace_not_supported",
                );
                assert!(problem["remedy"].as_str().unwrap().contains("the cluster's own http_filters"), "{problem}");
            }
            assert_eq!(world.entra().stats().token_requests, 0);
            seen_token(&get(world, LISTED_HOST, "/"));
        },
    },
    Scenario {
        name: "an_empty_credential_header_is_removed_and_the_request_gets_a_token",
        setup: DEFAULT,
        on_every_version: true,
        run: |world| {
            for authorization in ["", "Bearer", "Bearer ", "basic"] {
                let request = Request::get(LISTED_HOST, "/?sig=&x=1").header("authorization", authorization);
                let answer = one(world, request.header("api-key", ""));
                seen_token(&answer);
                assert_eq!(answer.seen_header("api-key"), None, "{authorization:?}");
            }
            let kept = one(world, Request::get(LISTED_HOST, "/").header("authorization", "Bearer x"));
            assert_eq!(authorizations(&kept), ["Bearer x"]);
        },
    },
    Scenario {
        name: "a_trace_request_is_rejected",
        setup: DEFAULT,
        on_every_version: true,
        run: |world| {
            problem(&one(world, Request::new("TRACE", LISTED_HOST, "/")), 403, "trace_not_supported");
            assert_eq!(world.entra().stats().token_requests, 0);
        },
    },
    Scenario {
        name: "an_existing_credential_is_rejected_if_so_configured",
        setup: Setup { configuration: Some(|| destination(&json!({"existing_credential": "refuse"}))), ..DEFAULT },
        on_every_version: false,
        run: |world| {
            let request = Request::get(LISTED_HOST, "/").header("authorization", "SharedKey x");
            problem(&one(world, request), 403, "credential_present");
            seen_token(&get(world, LISTED_HOST, "/"));
        },
    },
    Scenario {
        name: "rules_match_paths_and_methods_and_an_ambiguous_path_is_rejected",
        setup: Setup {
            configuration: Some(|| {
                json!({
                    "defaults": {"scope": "https://vault.azure.net/.default", "tls_clusters": ["payments_kv"]},
                    "destinations": [
                        {"hosts": [LISTED_HOST], "path_prefixes": ["/v1/users"], "methods": ["GET"]},
                        {"hosts": [LISTED_HOST], "path_prefixes": ["/v1/users/admin"], "action": "refuse"},
                        {"hosts": [LISTED_HOST], "path_prefixes": ["/open"], "action": "pass"},
                    ],
                })
            }),
            ..DEFAULT
        },
        on_every_version: true,
        run: |world| {
            seen_token(&get(world, LISTED_HOST, "/v1/users/x?next=//a/../b"));
            for (method, path) in
                [("POST", "/v1/users"), ("GET", "/v1/users2"), ("GET", "/open/x"), ("GET", "/V1/users")]
            {
                let answer = one(world, Request::new(method, LISTED_HOST, path));
                assert_eq!(authorizations(&answer), Vec::<String>::new(), "{method} {path}");
            }
            for path in ["/v1/users/admin/1", "/v1/users/%61dmin", "/v1/%75sers/admi%6E"] {
                problem(&get(world, LISTED_HOST, path), 403, "refused_by_rule");
            }
            for path in [
                "/v1/users/./admin",
                "/v1/users//admin",
                "/open/%2e%2e/v1/users",
                "/open\\x",
                "/v1/users/admin;x=1",
                "/v1/users;/admin",
                "/v1/users/admin%3bx",
                "/v1/users/admin.",
                "/v1/users/admin%20/1",
                "/v1/users/%2561dmin",
                "/v1/users%c0%afadmin",
            ] {
                problem(&get(world, LISTED_HOST, path), 400, "ambiguous_path");
            }
            for header in ["x-http-method-override", "X-Original-URL"] {
                let request = Request::get(LISTED_HOST, "/v1/users/x").header(header, "DELETE");
                problem(&one(world, request), 403, "override_header_present");
            }
        },
    },
    Scenario {
        name: "a_custom_header_gets_the_token_without_a_scheme_and_an_api_key_is_removed",
        setup: Setup {
            configuration: Some(|| {
                destination(&json!({"header": "X-Token", "existing_credential": "replace", "plaintext": "allow"}))
            }),
            ..DEFAULT
        },
        on_every_version: false,
        run: |world| {
            let answer = one(world, Request::get(LISTED_HOST, "/").header("api-key", "k").header("x-token", "theirs"));
            let headers = answer.json()["headers"].as_array().unwrap().clone();
            let named = |name: &str| headers.iter().filter(|header| header[0] == name).count();
            assert_eq!((named("api-key"), named("authorization"), named("x-token")), (0, 0, 1));
            assert_eq!(claims(&answer.seen_header("x-token").unwrap())["aud"], "https://vault.azure.net");
        },
    },
    Scenario {
        name: "a_request_with_a_signature_in_its_query_is_rejected_if_credentials_are_to_be_replaced",
        setup: Setup { configuration: Some(|| destination(&json!({"existing_credential": "replace"}))), ..DEFAULT },
        on_every_version: false,
        run: |world| {
            problem(&get(world, LISTED_HOST, "/c/b?sv=2022-11-02&sig=x"), 403, "credential_present");
            seen_token(&get(world, LISTED_HOST, "/c/b?sv=2022-11-02&sigma=x"));
        },
    },
    Scenario {
        name: "a_grpc_client_gets_a_rejection_as_grpc_status_and_message",
        setup: Setup { configuration: Some(|| destination(&json!({"tls_clusters": ["another_cluster"]}))), ..DEFAULT },
        on_every_version: true,
        run: |world| {
            let answer = one(world, Request::get(LISTED_HOST, "/s/M").header("content-type", "application/grpc"));
            assert_eq!((answer.status, answer.header("grpc-status").as_deref()), (200, Some("7")));
            let message = answer.header("grpc-message").unwrap();
            assert!(
                message.contains("(cluster_not_listed): Route the request to") && !message.contains('{'),
                "{message}"
            );
        },
    },
    Scenario {
        name: "headers_that_are_not_utf_8_are_handled",
        setup: DEFAULT,
        on_every_version: true,
        run: |world| {
            let odd = |host: &str| Request::get(host, "/%ff").header("x-odd", b"\xff\xfe").header("cookie", b"\xff");
            for _ in 0..4 {
                seen_token(&one(world, odd(LISTED_HOST)));
                assert_eq!(one(world, odd(UNLISTED_HOST)).status, 200);
            }
            let odd = Request::get(IMDS_HOST, IMDS_PATH).header("metadata", b"\xff").header("x-odd", b"\xff");
            assert_eq!(world.imds(&odd).status, 400);
        },
    },
    Scenario {
        name: "the_next_exchange_uses_a_rotated_token",
        setup: Setup { audience: "api://another", ..DEFAULT },
        on_every_version: true,
        run: rotation,
    },
    Scenario {
        name: "the_next_exchange_uses_a_rotated_token_in_the_older_volume_layout",
        setup: Setup { audience: "api://another", layout: Layout::Webhook151, ..DEFAULT },
        on_every_version: false,
        run: rotation,
    },
    Scenario {
        name: "a_token_that_replaces_a_rejected_one_is_tried_before_the_back_off_ends",
        setup: DEFAULT,
        on_every_version: false,
        run: |world| {
            // The back-off is up to 30 s, because this rejection needs a change. After one of them the file is replaced.
            world.entra().add_faults(vec![Fault::aadsts(90_002)]);
            problem(&get(world, LISTED_HOST, "/"), 502, "entra_refused");
            world.advance(Duration::from_secs(1));
            world.rotate();
            // The file is read once a second, and Envoy may notice the new one a moment later.
            let accepted = (0..3).any(|_| {
                world.advance(Duration::from_millis(1_100));
                get(world, LISTED_HOST, "/").status == 200
            });
            assert!(accepted, "the new federated token is not tried");
        },
    },
    Scenario {
        name: "a_rejection_by_entra_states_cause_and_remedy_and_causes_at_most_two_exchanges",
        setup: Setup { audience: "api://another", ..DEFAULT },
        on_every_version: true,
        run: |world| {
            let answers = world.outbound(&vec![Request::get(LISTED_HOST, "/"); 8]);
            for answer in &answers {
                let problem = problem(answer, 502, "entra_refused");
                assert_eq!(problem["aadsts"], "AADSTS700212");
                assert_eq!(problem["identity"], "default");
                assert_eq!(problem["scope"], "https://vault.azure.net/.default");
                assert!(problem["detail"].as_str().unwrap().contains("api://another"), "{problem}");
                assert!(problem["remedy"].as_str().unwrap().contains("audience"), "{problem}");
                for id in ["trace_id", "correlation_id"] {
                    assert_eq!(problem[id].as_str().unwrap().len(), 36, "{problem}");
                }
                assert!(answer.header("retry-after").is_some());
            }
            assert_eq!(world.entra().stats().token_requests, 2);
        },
    },
    Scenario {
        name: "an_outage_of_entra_is_reported_and_the_request_succeeds_after_retry_after",
        setup: DEFAULT,
        on_every_version: false,
        run: |world| {
            world.entra().add_faults(vec![Fault::status(503)]);
            let answer = get(world, LISTED_HOST, "/");
            problem(&answer, 503, "entra_unavailable");
            let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
            world.advance(Duration::from_secs(seconds));
            seen_token(&get(world, LISTED_HOST, "/"));
            assert_eq!(world.entra().stats().token_requests, 2);
        },
    },
    Scenario {
        name: "a_truncated_response_from_entra_is_a_transient_error",
        setup: DEFAULT,
        on_every_version: true,
        run: |world| {
            // Once for each of the two clusters for Entra.
            world.entra().add_faults(vec![Fault::new(FaultKind::Truncate).times(2)]);
            let answer = get(world, LISTED_HOST, "/");
            problem(&answer, 503, "entra_unavailable");
            world.advance(Duration::from_secs(answer.header("retry-after").unwrap().parse().unwrap()));
            seen_token(&get(world, LISTED_HOST, "/"));
        },
    },
    Scenario {
        name: "without_an_environment_variable_only_requests_that_need_it_are_rejected",
        setup: Setup { unset_variable: Some("AZURE_CLIENT_ID"), ..DEFAULT },
        on_every_version: false,
        run: |world| {
            let problem = problem(&get(world, LISTED_HOST, "/"), 503, "env_var_missing");
            assert_eq!(problem["detail"], "AZURE_CLIENT_ID is not set");
            assert_eq!(get(world, UNLISTED_HOST, "/").status, 200);
        },
    },
    Scenario {
        name: "a_problem_names_the_missing_cluster_for_entra",
        setup: Setup {
            configuration: Some(|| {
                let mut configuration = destination(&json!({}));
                configuration["entra"] = json!({"clusters": ["nowhere"]});
                configuration
            }),
            ..DEFAULT
        },
        on_every_version: false,
        run: |world| {
            let problem = problem(&get(world, LISTED_HOST, "/"), 503, "cluster_missing");
            assert!(problem["detail"].as_str().unwrap().contains("\"nowhere\""), "{problem}");
        },
    },
    Scenario {
        name: "an_imds_client_gets_the_workloads_token",
        setup: DEFAULT,
        on_every_version: true,
        run: |world| {
            let answer = world.imds(&Request::get(IMDS_HOST, IMDS_PATH).header("metadata", "true"));
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert_eq!(answer.header("cache-control").as_deref(), Some("no-store"));
            let body = answer.json();
            assert_eq!(claims(body["access_token"].as_str().unwrap())["aud"], "https://vault.azure.net");
            assert_eq!((&body["client_id"], &body["token_type"]), (&json!(CLIENT_ID), &json!("Bearer")));
            // The injected token has the same cache key, so there is one exchange.
            seen_token(&get(world, LISTED_HOST, "/"));
            assert_eq!(world.entra().stats().token_requests, 1);
        },
    },
    Scenario {
        name: "requests_that_imds_rejects_are_rejected",
        setup: DEFAULT,
        on_every_version: false,
        run: |world| {
            let request = |path: &str| Request::get(IMDS_HOST, path).header("metadata", "true");
            let error = |request: Request, status: u16| {
                let answer = world.imds(&request);
                assert_eq!(answer.status, status, "{}", answer.text());
                answer.json()["error_description"].as_str().unwrap().to_owned()
            };
            assert!(
                error(Request::get(IMDS_HOST, IMDS_PATH), 400).starts_with("Required metadata header not specified")
            );
            for address in ["10.0.0.1", ""] {
                let forwarded = request(IMDS_PATH).header("x-forwarded-for", address);
                assert!(error(forwarded, 400).contains("use_remote_address"), "{address:?}");
            }
            assert!(error(request(&format!("{IMDS_PATH}&object_id=x")), 400).starts_with("Identity not found"));
            error(request("/metadata/scheduledevents?api-version=2020-07-01"), 403);
            error(request("/metadata/identity/getplatformmetadata"), 404);
            assert_eq!(world.entra().stats().token_requests, 0);
        },
    },
    Scenario {
        name: "an_imds_client_gets_entras_error_description",
        setup: Setup { audience: "api://another", ..DEFAULT },
        on_every_version: false,
        run: |world| {
            let answer = world.imds(&Request::get(IMDS_HOST, IMDS_PATH).header("metadata", "true"));
            assert_eq!(answer.status, 400, "{}", answer.text());
            let body = answer.json();
            assert_eq!(body["error"], "invalid_client");
            assert!(body["error_description"].as_str().unwrap().starts_with("AADSTS700212: "), "{body}");
        },
    },
    Scenario {
        name: "the_status_page_is_html_for_a_browser_and_json_for_any_other_client",
        setup: Setup {
            configuration: Some(|| {
                let mut configuration = destination(&json!({}));
                configuration["managed_identity"] = json!({"imds": {}});
                configuration["status"] = json!({});
                configuration
            }),
            ..DEFAULT
        },
        on_every_version: false,
        run: status_page,
    },
];

/// Entra has issued one token and rejected another request, with an error that names the caller's resource.
fn status_page(world: &dyn TestHost) {
    seen_token(&get(world, LISTED_HOST, "/"));
    let hostile = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=api%3A%2F%2F%3Cscript%3Ealert(1)";
    assert_eq!(world.imds(&Request::get(IMDS_HOST, hostile).header("metadata", "true")).status, 400);
    let status = |accept: Option<&str>| {
        let request = Request::get("127.0.0.1:15002", "/entra-exchange/status");
        let answer = world.imds(&accept.into_iter().fold(request, |request, accept| request.header("accept", accept)));
        (answer.header("content-type").unwrap(), answer)
    };
    for accept in [None, Some("*/*"), Some("application/json"), Some("text/html;q=0.5, application/json")] {
        let (content_type, answer) = status(accept);
        assert_eq!((content_type.as_str(), answer.status), ("application/json", 200), "{accept:?}");
        assert_eq!(answer.json()["keys"].as_array().map(Vec::len), Some(2), "{accept:?}: {}", answer.text());
    }
    let (content_type, answer) = status(Some("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"));
    let page = answer.text();
    assert_eq!((content_type.as_str(), answer.status), ("text/html; charset=utf-8", 200), "{page}");
    assert!(answer.header("content-security-policy").unwrap().starts_with("default-src 'none'; style-src 'sha256-"));
    assert!(page.contains("<h3>https://vault.azure.net/.default</h3>") && page.contains("<b>fresh</b>"), "{page}");
    assert!(page.contains("<b>failing</b>") && page.contains("api://&lt;script&gt;alert(1)"), "{page}");
    assert!(!page.contains("<script") && !page.contains("eyJ"), "{page}");
}

const IMDS_PATH: &str = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net";

/// Entra rejects the first federated token. After the rotation, the next exchange uses the new one.
fn rotation(world: &dyn TestHost) {
    let answer = get(world, LISTED_HOST, "/");
    problem(&answer, 502, "entra_refused");
    world.rotate();
    // Wait for the back-off to end, and for another one that may start just before Envoy reads the new file.
    for _ in 0..4 {
        world.advance(Duration::from_secs(2));
        if get(world, LISTED_HOST, "/").status == 200 {
            return;
        }
    }
    panic!("the filter does not use the rotated token");
}

/// A configuration with the destination of the sidecar's manifest and these additional fields.
pub(crate) fn destination(more: &Value) -> Value {
    let mut destination = json!({
        "hosts": [LISTED_HOST], "scope": "https://vault.azure.net/.default", "tls_clusters": ["payments_kv"],
    });
    for (name, value) in more.as_object().unwrap() {
        destination[name] = value.clone();
    }
    json!({"destinations": [destination]})
}

fn one(world: &dyn TestHost, request: Request) -> Response {
    world.outbound(&[request]).remove(0)
}

pub(crate) fn get(world: &dyn TestHost, host: &str, path: &str) -> Response {
    one(world, Request::get(host, path))
}

/// The claims of the token that the upstream received.
pub(crate) fn seen_token(answer: &Response) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = authorizations(answer);
    let [authorization] = seen.as_slice() else { panic!("{} Authorization headers", seen.len()) };
    claims(authorization.strip_prefix("Bearer ").unwrap())
}

/// The Authorization headers that the upstream received.
fn authorizations(answer: &Response) -> Vec<String> {
    let headers = answer.json()["headers"].as_array().unwrap().clone();
    let named = headers.iter().filter(|header| header[0] == "authorization");
    named.map(|header| header[1].as_str().unwrap().to_owned()).collect()
}

fn claims(token: &str) -> Value {
    fake_entra::claims(token).unwrap()
}

/// Asserts that the response is a problem document (RFC 9457) with this status and code, and returns it.
pub(crate) fn problem(answer: &Response, status: u16, code: &str) -> Value {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(answer.header("content-type").as_deref(), Some("application/problem+json"));
    let problem = answer.json();
    assert_eq!(problem["type"], format!("urn:entra-exchange:problem:{code}"));
    assert_eq!((&problem["code"], &problem["status"]), (&json!(code), &json!(status)));
    for text in ["title", "detail", "remedy"] {
        assert!(problem[text].as_str().is_some_and(|text| !text.is_empty()), "{problem}");
    }
    problem
}
