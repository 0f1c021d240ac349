//! The failures.

use std::time::{Duration, SystemTime};

use fake_entra::{Fault, FaultKind, Issuer, OtherAlgorithm};
use serde_json::{Value, json};
use stack::{AUDIENCE, CLIENT_ID, IMDS_HOST, ISSUER_URL, LISTED_HOST, NAMESPACE, SERVICE_ACCOUNT, SUBJECT, TENANT_ID};
use stack::{Options, Request, Stack, document};

use super::{Ask, Failure};

const OTHER: &str = "0a0b0c0d-1111-4222-8333-444455556666";

const fn failure(name: &'static str, options: fn() -> Options, cause: fn(&Stack), request: fn() -> Ask) -> Failure {
    Failure { name, options, cause, request }
}

/// A failure of Entra, shown by a request to a service.
const fn entra(name: &'static str, cause: fn(&Stack)) -> Failure {
    failure(name, Options::default, cause, vault)
}

/// A failure of the pod, shown by a request to a service.
const fn pod(name: &'static str, options: fn() -> Options) -> Failure {
    failure(name, options, nothing, vault)
}

/// A request that the filter rejects.
const fn rejected(name: &'static str, options: fn() -> Options, request: fn() -> Ask) -> Failure {
    failure(name, options, nothing, request)
}

const fn nothing(_: &Stack) {}

fn vault() -> Ask {
    Ask::Outbound(Request::get(LISTED_HOST, "/secrets/db"))
}

fn imds(parameters: &str) -> Request {
    let path = format!("/metadata/identity/oauth2/token?api-version=2018-02-01&{parameters}");
    Request::get(IMDS_HOST, &path).header("metadata", "true")
}

/// Every exchange is answered with this code, also the immediate retry.
fn refuse(stack: &Stack, code: u32) {
    stack.directory().add_faults(vec![Fault::aadsts(code).times(9)]);
}

/// Another issuer or subject in the federated token than in the credential.
fn token(issuer: &str, subject: &str, claims: &[(&str, Value)]) -> String {
    let now = fake_entra::unix_seconds(SystemTime::now());
    let mut all =
        json!({ "iss": issuer, "sub": subject, "aud": [AUDIENCE], "iat": now, "nbf": now, "exp": now + 3600 });
    for (name, value) in claims {
        all[*name] = value.clone();
    }
    Issuer::new(ISSUER_URL).sign(&all)
}

fn with_token(token: String) -> Options {
    Options { token: Some(token), ..Options::default() }
}

/// The destination of the sidecar's manifest with other fields.
fn destination(more: &Value) -> Options {
    let mut destination =
        json!({ "hosts": [LISTED_HOST], "scope": "https://vault.azure.net/.default", "tls_clusters": ["payments_kv"] });
    for (name, value) in more.as_object().unwrap() {
        destination[name] = value.clone();
    }
    configured(&json!({ "destinations": [destination] }))
}

fn configured(configuration: &Value) -> Options {
    Options { configuration: Some(configuration.to_string()), ..Options::default() }
}

fn edited(edit: fn(&mut Value)) -> Options {
    Options { edit: Some(Box::new(edit)), ..Options::default() }
}

/// All failures.
pub(crate) const ALL: &[Failure] = &[
    // ---- Entra refuses
    pod("client-unknown", || Options::default().variable("AZURE_CLIENT_ID", Some(OTHER))),
    pod("tenant-unknown", || Options::default().variable("AZURE_TENANT_ID", Some(OTHER))),
    pod("subject-differs", || with_token(token(ISSUER_URL, "system:serviceaccount:payments:other", &[]))),
    pod("subject-in-other-case", || with_token(token(ISSUER_URL, &SUBJECT.to_uppercase(), &[]))),
    pod("issuer-without-slash", || with_token(token(ISSUER_URL.trim_end_matches('/'), SUBJECT, &[]))),
    pod("audience-differs", || with_token(token(ISSUER_URL, SUBJECT, &[("aud", json!("api://other"))]))),
    failure(
        "credential-missing",
        || Options::default().variable("AZURE_CLIENT_ID", Some(OTHER)),
        |stack| stack.directory().register_app(TENANT_ID, OTHER),
        vault,
    ),
    pod("resource-unknown", || destination(&json!({ "scope": "https://unknown.example/.default" }))),
    failure(
        "issuers-key-rotated",
        || {
            with_token(Issuer::with_new_key(ISSUER_URL).service_account_token(
                NAMESPACE,
                SERVICE_ACCOUNT,
                AUDIENCE,
                SystemTime::now(),
                Duration::from_secs(3600),
            ))
        },
        nothing,
        vault,
    ),
    entra("application-disabled", |stack| refuse(stack, 7_000_112)),
    entra("conditional-access", |stack| refuse(stack, 53_003)),
    entra("policy-blocks-credential", |stack| refuse(stack, 700_238)),
    entra("public-client", |stack| refuse(stack, 700_025)),
    entra("tenant-in-other-cloud", |stack| refuse(stack, 90_038)),
    entra("token-of-entra-itself", |stack| refuse(stack, 700_222)),
    entra("issuer-unreachable-for-entra", |stack| refuse(stack, 50_166)),
    entra("token-outside-its-times", |stack| refuse(stack, 700_024)),
    // ---- Entra is not available
    entra("client-throttled", |stack| refuse(stack, 50_196)),
    entra("tenant-throttled", |stack| refuse(stack, 90_055)),
    entra("too-many-requests", |stack| stack.directory().add_faults(vec![Fault::retry_after("30").times(9)])),
    entra("entra-answers-500", |stack| stack.directory().add_faults(vec![Fault::status(500).times(9)])),
    entra("connection-reset", |stack| stack.directory().add_faults(vec![Fault::new(FaultKind::Reset).times(9)])),
    entra("answer-truncated", |stack| stack.directory().add_faults(vec![Fault::new(FaultKind::Truncate).times(9)])),
    failure(
        "exchange-too-slow",
        || {
            let mut options = destination(&json!({}));
            let text = options.configuration.take().unwrap();
            options.configuration = Some(text.replacen('{', r#"{"limits": {"exchange": "1s"}, "#, 1));
            options
        },
        |stack| stack.directory().add_faults(vec![Fault::delay(Duration::from_secs(5)).times(9)]),
        vault,
    ),
    pod("entras-certificate-for-another-name", || {
        edited(|envoy| {
            for cluster in ["entra", "entra_new_connection"] {
                let names = format!(
                    "static_resources.clusters[{cluster}].transport_socket.typed_config.common_tls_context.validation_context.match_typed_subject_alt_names"
                );
                let other = json!([{ "san_type": "DNS", "matcher": { "exact": "other.example" } }]);
                document::set(envoy, &names, other).unwrap();
            }
        })
    }),
    pod("entra-cluster-missing", || {
        configured(&json!({
            "entra": { "clusters": ["enter"] },
            "destinations": [ { "hosts": [LISTED_HOST], "scope": "https://vault.azure.net/.default", "tls_clusters": ["payments_kv"] } ],
        }))
    }),
    // ---- the federated token
    pod("token-empty", || with_token(String::new())),
    pod("token-not-a-jwt", || with_token("hello".to_owned())),
    pod("token-expired", || {
        let then = fake_entra::unix_seconds(SystemTime::now()) - 600;
        with_token(token(ISSUER_URL, SUBJECT, &[("exp", json!(then))]))
    }),
    pod("token-not-yet-valid", || {
        let then = fake_entra::unix_seconds(SystemTime::now()) + 3000;
        with_token(token(ISSUER_URL, SUBJECT, &[("nbf", json!(then))]))
    }),
    pod("token-with-two-audiences", || {
        with_token(token(ISSUER_URL, SUBJECT, &[("aud", json!([AUDIENCE, "account"]))]))
    }),
    pod("token-without-subject", || with_token(token(ISSUER_URL, "", &[]))),
    pod("token-signed-with-es256", || {
        let now = fake_entra::unix_seconds(SystemTime::now());
        let claims = json!({ "iss": ISSUER_URL, "sub": SUBJECT, "aud": AUDIENCE, "exp": now + 3600 });
        with_token(Issuer::new(ISSUER_URL).sign_with(OtherAlgorithm::Es256, &claims))
    }),
    pod("token-cluster-missing", || {
        configured(&json!({
            "assertions": [ { "name": "projected_token", "source": "file", "cluster": "projected-token" } ],
            "destinations": [ { "hosts": [LISTED_HOST], "scope": "https://vault.azure.net/.default", "tls_clusters": ["payments_kv"] } ],
        }))
    }),
    // ---- environment variables
    pod("client-id-not-set", || Options::default().variable("AZURE_CLIENT_ID", None)),
    pod("tenant-common", || Options::default().variable("AZURE_TENANT_ID", Some("common"))),
    pod("client-id-with-line-break", || {
        Options::default().variable("AZURE_CLIENT_ID", Some("b1d2c8a4-7f3e-4c6b-8a90-2e5d4f6a7c13\n"))
    }),
    pod("authority-unknown", || {
        Options::default().variable("AZURE_AUTHORITY_HOST", Some("https://login.example.com/"))
    }),
    // ---- the configuration rejects the request
    rejected("cluster-not-listed", || destination(&json!({ "tls_clusters": ["other"] })), vault),
    rejected(
        "tls-clusters-missing",
        || {
            configured(
                &json!({ "destinations": [ { "hosts": [LISTED_HOST], "scope": "https://vault.azure.net/.default" } ] }),
            )
        },
        vault,
    ),
    rejected("refused-by-rule", || destination(&json!({ "action": "refuse" })), vault),
    rejected(
        "ambiguous-path",
        || destination(&json!({ "path_prefixes": ["/secrets"] })),
        || Ask::Outbound(Request::get(LISTED_HOST, "/a/..%2fsecrets")),
    ),
    rejected(
        "override-header",
        || destination(&json!({ "methods": ["GET"] })),
        || Ask::Outbound(Request::get(LISTED_HOST, "/").header("x-http-method-override", "DELETE")),
    ),
    rejected(
        "credential-present",
        || destination(&json!({ "existing_credential": "refuse" })),
        || Ask::Outbound(Request::get(LISTED_HOST, "/").header("authorization", "Bearer mine")),
    ),
    rejected(
        "principal-not-listed",
        || {
            configured(&json!({
                "identities": [ { "tenant_id": TENANT_ID, "client_id": CLIENT_ID, "principals": ["spiffe://cluster.local/ns/payments/sa/api"] } ],
                "destinations": [ { "hosts": [LISTED_HOST], "scope": "https://vault.azure.net/.default", "tls_clusters": ["payments_kv"] } ],
            }))
        },
        vault,
    ),
    // ---- managed identity
    rejected("metadata-header-missing", Options::default, || {
        let path = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net";
        Ask::ManagedIdentity(Request::get(IMDS_HOST, path))
    }),
    rejected("forwarded-by-a-proxy", Options::default, || {
        Ask::ManagedIdentity(imds("resource=https://vault.azure.net").header("x-forwarded-for", "10.0.0.1"))
    }),
    rejected("identity-not-found", Options::default, || {
        Ask::ManagedIdentity(imds(&format!("resource=https://vault.azure.net&client_id={OTHER}")))
    }),
    rejected("resource-missing", Options::default, || Ask::ManagedIdentity(imds("resource="))),
    rejected(
        "resource-not-allowed",
        || {
            configured(&json!({
                "identities": [ { "resources": ["https://storage.azure.com"] } ], "managed_identity": { "imds": {} },
            }))
        },
        || Ask::ManagedIdentity(imds("resource=https://vault.azure.net")),
    ),
    rejected("two-selectors", Options::default, || {
        Ask::ManagedIdentity(imds(&format!("resource=https://vault.azure.net&client_id={CLIENT_ID}&object_id={OTHER}")))
    }),
    rejected("wrong-secret", Options::default, || {
        let path = "/msi/token?api-version=2019-08-01&resource=https://vault.azure.net";
        Ask::ManagedIdentity(Request::get("127.0.0.1", path).header("x-identity-header", "wrong"))
    }),
    rejected(
        "managed-identity-refused",
        || configured(&json!({ "managed_identity": { "imds": {}, "action": "refuse" } })),
        || Ask::ManagedIdentity(imds("resource=https://vault.azure.net")),
    ),
    rejected("metadata-path-not-passed", Options::default, || {
        Ask::ManagedIdentity(Request::get(IMDS_HOST, "/metadata/scheduledevents").header("metadata", "true"))
    }),
];
