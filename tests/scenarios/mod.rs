//! What the filter does, as a list that every host runs: a real Envoy, and whatever else can send requests through the
//! module that ships.

use std::time::Duration;

use fake_entra::{Directory, Fault, FaultKind};
use serde_json::{Value, json};
use stack::{AUDIENCE, CLIENT_ID, IMDS_HOST, LISTED_HOST, TENANT_ID, UNLISTED_HOST};
use stack::{Layout, Request, Response};

/// One thing that is true of the filter, and how to see it.
pub(crate) struct Scenario {
    /// The sentence.
    pub(crate) name: &'static str,
    /// How the world is before the first request.
    pub(crate) setup: Setup,
    /// Whether it stands for its kind on every version of the host that is supported, not only the newest.
    pub(crate) on_every_version: bool,
    /// Panics where the sentence is not true.
    pub(crate) run: fn(&dyn World),
}

/// How the world is before the first request.
#[derive(Clone, Copy)]
pub(crate) struct Setup {
    /// The filter's configuration, when not the sidecar's own.
    pub(crate) configuration: Option<fn() -> Value>,
    /// How the token's volume is laid out.
    pub(crate) layout: Layout,
    /// The audience of the first federated token.
    pub(crate) audience: &'static str,
    /// A variable that is not set.
    pub(crate) without: Option<&'static str>,
}

const USUAL: Setup = Setup { configuration: None, layout: Layout::Webhook160, audience: AUDIENCE, without: None };

/// A host that the filter runs in, with everything around it.
pub(crate) trait World {
    /// Sends these requests at the same time, each on a connection of its own, and waits for all answers.
    fn outbound(&self, requests: &[Request]) -> Vec<Response>;
    /// Sends a request to where IMDS is answered.
    fn imds(&self, request: &Request) -> Response;
    /// The fake Entra.
    fn entra(&self) -> Directory;
    /// Replaces the federated token by a correct one, as the kubelet does it.
    fn rotate(&self);
    /// Lets time pass.
    fn pass(&self, time: Duration);
}

/// All scenarios.
pub(crate) const ALL: &[Scenario] = &[
    Scenario {
        name: "a_listed_host_gets_a_token_of_the_workload",
        setup: USUAL,
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
        setup: USUAL,
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
        name: "eight_cold_requests_at_once_make_one_exchange",
        setup: USUAL,
        on_every_version: true,
        run: |world| {
            // Long enough for all to wait.
            world.entra().add_faults(vec![Fault::delay(Duration::from_millis(300))]);
            let answers = world.outbound(&vec![Request::get(LISTED_HOST, "/"); 8]);
            let tokens: Vec<Value> = answers.iter().map(seen_token).collect();
            assert!(tokens.iter().all(|token| *token == tokens[0]));
            assert_eq!(world.entra().stats().token_requests, 1);
        },
    },
    Scenario {
        name: "an_unlisted_host_gets_no_token_and_costs_no_exchange",
        setup: USUAL,
        on_every_version: false,
        run: |world| {
            let answer = get(world, UNLISTED_HOST, "/");
            assert_eq!((answer.status, answer.seen_header("authorization")), (200, None));
            assert_eq!(world.entra().stats().token_requests, 0);
        },
    },
    Scenario {
        name: "a_request_on_another_way_than_the_listed_is_refused",
        setup: Setup { configuration: Some(|| destination(&json!({"tls_clusters": ["another_cluster"]}))), ..USUAL },
        on_every_version: true,
        run: |world| {
            let problem = problem(&get(world, LISTED_HOST, "/"), 403, "cluster_not_listed");
            assert!(problem["detail"].as_str().unwrap().contains("payments_kv"), "{problem}");
            assert_eq!(world.entra().stats().token_requests, 0);
        },
    },
    Scenario {
        name: "a_destination_that_states_no_way_is_refused_unless_plain_text_is_allowed",
        setup: Setup {
            configuration: Some(|| {
                json!({"destinations": [
                    {"hosts": [LISTED_HOST], "scope": "https://vault.azure.net/.default"},
                    {"hosts": [UNLISTED_HOST], "scope": "https://vault.azure.net/.default", "plaintext": "allowed"},
                ]})
            }),
            ..USUAL
        },
        on_every_version: false,
        run: |world| {
            problem(&get(world, LISTED_HOST, "/"), 403, "way_not_stated");
            seen_token(&get(world, UNLISTED_HOST, "/"));
        },
    },
    Scenario {
        name: "a_credential_that_the_request_brings_is_kept",
        setup: USUAL,
        on_every_version: false,
        run: |world| {
            let request =
                Request::get(LISTED_HOST, "/").header("authorization", "SharedKey x").header("authorization", "b");
            let answer = one(world, request);
            // Envoy itself joins several of these into one, before any filter.
            assert_eq!(authorizations(&answer), ["SharedKey x,b"]);
            assert_eq!(world.entra().stats().token_requests, 0);
        },
    },
    Scenario {
        name: "several_credentials_are_replaced_by_the_one_token",
        setup: Setup {
            configuration: Some(|| destination(&json!({"existing_credential": "replace", "plaintext": "allowed"}))),
            ..USUAL
        },
        on_every_version: true,
        run: |world| {
            let request =
                Request::get(LISTED_HOST, "/").header("authorization", "SharedKey x").header("authorization", "b");
            // The first waits for the token, the second has it from the cache: two ways through the filter.
            for _ in 0..2 {
                let seen = authorizations(&one(world, request.clone()));
                assert!(seen.len() == 1 && seen[0].starts_with("Bearer ey"), "{} headers", seen.len());
            }
        },
    },
    Scenario {
        name: "a_credential_is_not_replaced_in_a_listeners_chain_where_the_route_could_change",
        setup: Setup { configuration: Some(|| destination(&json!({"existing_credential": "replace"}))), ..USUAL },
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
        name: "an_empty_credential_is_none_and_does_not_go_along",
        setup: USUAL,
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
        name: "a_trace_gets_no_token",
        setup: USUAL,
        on_every_version: true,
        run: |world| {
            problem(&one(world, Request::new("TRACE", LISTED_HOST, "/")), 403, "trace_not_supported");
            assert_eq!(world.entra().stats().token_requests, 0);
        },
    },
    Scenario {
        name: "a_credential_that_the_request_brings_is_refused_where_so_configured",
        setup: Setup { configuration: Some(|| destination(&json!({"existing_credential": "refuse"}))), ..USUAL },
        on_every_version: false,
        run: |world| {
            let request = Request::get(LISTED_HOST, "/").header("authorization", "SharedKey x");
            problem(&one(world, request), 403, "credential_present");
            seen_token(&get(world, LISTED_HOST, "/"));
        },
    },
    Scenario {
        name: "rules_hang_on_paths_and_methods_and_an_ambiguous_path_is_refused",
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
            ..USUAL
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
        name: "another_header_takes_the_bare_token_and_a_key_goes_away",
        setup: Setup {
            configuration: Some(|| {
                destination(&json!({"header": "X-Token", "existing_credential": "replace", "plaintext": "allowed"}))
            }),
            ..USUAL
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
        name: "a_signature_is_a_credential_that_cannot_be_replaced",
        setup: Setup { configuration: Some(|| destination(&json!({"existing_credential": "replace"}))), ..USUAL },
        on_every_version: false,
        run: |world| {
            problem(&get(world, LISTED_HOST, "/c/b?sv=2022-11-02&sig=x"), 403, "credential_present");
            seen_token(&get(world, LISTED_HOST, "/c/b?sv=2022-11-02&sigma=x"));
        },
    },
    Scenario {
        name: "a_grpc_client_is_refused_in_one_sentence",
        setup: Setup { configuration: Some(|| destination(&json!({"tls_clusters": ["another_cluster"]}))), ..USUAL },
        on_every_version: true,
        run: |world| {
            let answer = one(world, Request::get(LISTED_HOST, "/s/M").header("content-type", "application/grpc"));
            assert_eq!((answer.status, answer.header("grpc-status").as_deref()), (200, Some("7")));
            let message = answer.header("grpc-message").unwrap();
            assert!(message.contains("(cluster_not_listed): Route it to") && !message.contains('{'), "{message}");
        },
    },
    Scenario {
        name: "headers_that_are_no_text_do_no_harm",
        setup: USUAL,
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
        name: "a_rotated_token_is_used_from_the_next_exchange_on",
        setup: Setup { audience: "api://another", ..USUAL },
        on_every_version: true,
        run: rotation,
    },
    Scenario {
        name: "a_rotated_token_is_used_in_the_older_layout_too",
        setup: Setup { audience: "api://another", layout: Layout::Webhook151, ..USUAL },
        on_every_version: false,
        run: rotation,
    },
    Scenario {
        name: "a_refusal_of_entras_names_cause_and_remedy_and_makes_two_exchanges_at_most",
        setup: Setup { audience: "api://another", ..USUAL },
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
        name: "trouble_of_entras_is_told_and_passes_by_itself",
        setup: USUAL,
        on_every_version: false,
        run: |world| {
            world.entra().add_faults(vec![Fault::status(503)]);
            let answer = get(world, LISTED_HOST, "/");
            problem(&answer, 503, "entra_unavailable");
            let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
            world.pass(Duration::from_secs(seconds));
            seen_token(&get(world, LISTED_HOST, "/"));
            assert_eq!(world.entra().stats().token_requests, 2);
        },
    },
    Scenario {
        name: "an_answer_of_entras_that_breaks_off_is_trouble_that_passes",
        setup: USUAL,
        on_every_version: true,
        run: |world| {
            // Through each of the two clusters that lead to Entra.
            world.entra().add_faults(vec![Fault::new(FaultKind::Truncate).times(2)]);
            let answer = get(world, LISTED_HOST, "/");
            problem(&answer, 503, "entra_unavailable");
            world.pass(Duration::from_secs(answer.header("retry-after").unwrap().parse().unwrap()));
            seen_token(&get(world, LISTED_HOST, "/"));
        },
    },
    Scenario {
        name: "a_missing_variable_refuses_what_needs_it_and_nothing_else",
        setup: Setup { without: Some("AZURE_CLIENT_ID"), ..USUAL },
        on_every_version: false,
        run: |world| {
            let problem = problem(&get(world, LISTED_HOST, "/"), 503, "variable_missing");
            assert_eq!(problem["detail"], "AZURE_CLIENT_ID is not set");
            assert_eq!(get(world, UNLISTED_HOST, "/").status, 200);
        },
    },
    Scenario {
        name: "a_missing_cluster_is_named",
        setup: Setup {
            configuration: Some(|| {
                let mut configuration = destination(&json!({}));
                configuration["entra"] = json!({"clusters": ["nowhere"]});
                configuration
            }),
            ..USUAL
        },
        on_every_version: false,
        run: |world| {
            let problem = problem(&get(world, LISTED_HOST, "/"), 503, "cluster_missing");
            assert!(problem["detail"].as_str().unwrap().contains("\"nowhere\""), "{problem}");
        },
    },
    Scenario {
        name: "an_app_that_asks_imds_gets_a_token_of_the_workload",
        setup: USUAL,
        on_every_version: true,
        run: |world| {
            let answer = world.imds(&Request::get(IMDS_HOST, IMDS_PATH).header("metadata", "true"));
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert_eq!(answer.header("cache-control").as_deref(), Some("no-store"));
            let body = answer.json();
            assert_eq!(claims(body["access_token"].as_str().unwrap())["aud"], "https://vault.azure.net");
            assert_eq!((&body["client_id"], &body["token_type"]), (&json!(CLIENT_ID), &json!("Bearer")));
            // The injected token is the same one: one key, one exchange.
            seen_token(&get(world, LISTED_HOST, "/"));
            assert_eq!(world.entra().stats().token_requests, 1);
        },
    },
    Scenario {
        name: "imdss_guard_stands",
        setup: USUAL,
        on_every_version: false,
        run: |world| {
            let ask = |path: &str| Request::get(IMDS_HOST, path).header("metadata", "true");
            let error = |request: Request, status: u16| {
                let answer = world.imds(&request);
                assert_eq!(answer.status, status, "{}", answer.text());
                answer.json()["error_description"].as_str().unwrap().to_owned()
            };
            assert!(
                error(Request::get(IMDS_HOST, IMDS_PATH), 400).starts_with("Required metadata header not specified")
            );
            for address in ["10.0.0.1", ""] {
                let forwarded = ask(IMDS_PATH).header("x-forwarded-for", address);
                assert!(error(forwarded, 400).contains("use_remote_address"), "{address:?}");
            }
            assert!(error(ask(&format!("{IMDS_PATH}&object_id=x")), 400).starts_with("Identity not found"));
            error(ask("/metadata/scheduledevents?api-version=2020-07-01"), 403);
            error(ask("/metadata/identity/getplatformmetadata"), 404);
            assert_eq!(world.entra().stats().token_requests, 0);
        },
    },
    Scenario {
        name: "an_app_that_asks_imds_gets_entras_own_words",
        setup: Setup { audience: "api://another", ..USUAL },
        on_every_version: false,
        run: |world| {
            let answer = world.imds(&Request::get(IMDS_HOST, IMDS_PATH).header("metadata", "true"));
            assert_eq!(answer.status, 400, "{}", answer.text());
            let body = answer.json();
            assert_eq!(body["error"], "invalid_client");
            assert!(body["error_description"].as_str().unwrap().starts_with("AADSTS700212: "), "{body}");
        },
    },
];

const IMDS_PATH: &str = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net";

/// Until the token is rotated Entra refuses it; afterwards the next exchange has the new one.
fn rotation(world: &dyn World) {
    let answer = get(world, LISTED_HOST, "/");
    problem(&answer, 502, "entra_refused");
    world.rotate();
    // The back-off must end, and a back-off that begins just before the new file is seen may come on top.
    for _ in 0..4 {
        world.pass(Duration::from_secs(2));
        if get(world, LISTED_HOST, "/").status == 200 {
            return;
        }
    }
    panic!("the rotated token is not used");
}

/// The sidecar's own destination, with these fields besides.
pub(crate) fn destination(more: &Value) -> Value {
    let mut destination = json!({
        "hosts": [LISTED_HOST], "scope": "https://vault.azure.net/.default", "tls_clusters": ["payments_kv"],
    });
    for (name, value) in more.as_object().unwrap() {
        destination[name] = value.clone();
    }
    json!({"destinations": [destination]})
}

fn one(world: &dyn World, request: Request) -> Response {
    world.outbound(&[request]).remove(0)
}

fn get(world: &dyn World, host: &str, path: &str) -> Response {
    one(world, Request::get(host, path))
}

/// The claims of the token that the upstream saw.
fn seen_token(answer: &Response) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = authorizations(answer);
    let [authorization] = seen.as_slice() else { panic!("{} Authorization headers", seen.len()) };
    claims(authorization.strip_prefix("Bearer ").unwrap())
}

/// The Authorization headers that the upstream saw.
fn authorizations(answer: &Response) -> Vec<String> {
    let headers = answer.json()["headers"].as_array().unwrap().clone();
    let named = headers.iter().filter(|header| header[0] == "authorization");
    named.map(|header| header[1].as_str().unwrap().to_owned()).collect()
}

fn claims(token: &str) -> Value {
    fake_entra::claims(token).unwrap()
}

/// A problem of this status and code, as RFC 9457 has it.
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
