//! Arbitrary configurations, and arbitrary requests under a fixed configuration.

use std::sync::LazyLock;

use entra_exchange_core::config::{self, Config};
use entra_exchange_core::decision::Decision;
use entra_exchange_core::policy::Policy;
use entra_exchange_core::request::{DescribedRequest, Headers, RequestView};
use proptest::prelude::*;
use serde_json::Value;

use crate::json;
use crate::worker::TENANT;

/// Names and values that occur in configurations: those of the JSON Schema, and some that it does not have.
static WORDS: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    let mut words = vec!["a.example", "a.example:8443", "[::1]:80", "*.example", "/v1", "a"];
    let schema: &'static Value = Box::leak(Box::new(serde_json::from_str(&config::schema()).unwrap()));
    collect(schema, &mut words);
    words
});

/// The names of fields, and the texts of words, defaults and examples, in a schema.
fn collect(schema: &'static Value, words: &mut Vec<&'static str>) {
    match schema {
        Value::String(text) => words.push(text),
        Value::Array(items) => items.iter().for_each(|item| collect(item, words)),
        Value::Object(fields) => {
            for (name, value) in fields {
                match name.as_str() {
                    "description" | "pattern" | "type" | "title" => {}
                    "properties" | "items" | "enum" | "default" | "examples" | "oneOf" => collect(value, words),
                    _ => {
                        words.push(name);
                        collect(value, words);
                    }
                }
            }
        }
        _ => {}
    }
}

fn bytes(likely: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => prop::sample::select(likely).prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..30),
        1 => any::<String>().prop_map(String::into_bytes),
    ]
}

prop_compose! {
    fn sent()(
        authority in bytes(&["a.example", "A.EXAMPLE:8443", "169.254.169.254", "localhost:80", "127.0.0.1:15091", "a.example."]),
        path in bytes(&[
            "/",
            "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net",
            "//Metadata/identity/oauth2/token/?resource=a&resource=b",
            "/metadata/instance/../identity/oauth2/token",
            "/msi/token?api-version=2019-08-01&resource=https://vault.azure.net",
            "/readyz",
            "/entra-exchange/status",
        ]),
        method in bytes(&["GET", "POST"]),
        metadata in bytes(&["true", "True", ""]),
        secret in bytes(&["s", ""]),
        authorization in prop::option::of(bytes(&["Bearer x"])),
        cluster_name in prop::option::of(prop_oneof![Just("outbound|80||a.example".to_owned()), any::<String>()]),
        address in prop::option::of(prop::sample::select(&["127.0.0.1:80", "169.254.169.254:80", "10.0.0.7:80"][..])),
        attempt in prop::option::of(0..2_u64),
        upstream_tls in prop::option::of(any::<bool>()),
    ) -> DescribedRequest {
        let mut headers = Headers::default();
        let sent = [(":authority", authority), (":path", path), (":method", method), ("metadata", metadata), ("x-identity-header", secret)];
        for (name, value) in sent.into_iter().chain(authorization.map(|value| ("authorization", value))) {
            headers.push(name, &value);
        }
        let destination_address = address.map(|address| address.parse().unwrap());
        DescribedRequest { headers, cluster_name, destination_address, attempt, upstream_tls, ..DescribedRequest::default() }
    }
}

fn variable(name: &str) -> Option<String> {
    match name {
        "AZURE_TENANT_ID" => Some(TENANT.to_owned()),
        "IDENTITY_HEADER" => Some("s".to_owned()),
        _ => None,
    }
}

fn parse(text: &[u8]) -> Option<Config> {
    match Config::parse(text, &variable) {
        Ok(config) => Some(config),
        Err(refused) => {
            assert!(!refused.0.is_empty() && refused.0.iter().all(|mistake| !mistake.message.is_empty()));
            assert!(!refused.to_string().is_empty());
            None
        }
    }
}

const BOTH: &str = r#"{
    "identities": [{"name": "a", "client_id": "aaaaaaaa-0000-4000-8000-000000000001"}],
    "destinations": [
        {"hosts": ["a.example"], "scope": "https://vault.azure.net/.default", "tls_clusters": ["outbound|80||{host}"]},
        {"hosts": ["a.example:8443"], "scope": "s/.default", "plaintext": "allow", "existing_credential": "refuse"}
    ],
    "managed_identity": {"imds": {"pass": ["/metadata/instance"]}, "app_service": {}, "health": {"hosts": ["localhost"]}},
    "status": {"hosts": ["a.example"]}
}"#;

proptest! {
    #[test]
    fn any_text_is_accepted_or_rejected_with_its_mistakes(text in prop::collection::vec(any::<u8>(), 0..300)) {
        parse(&text);
    }

    #[test]
    fn any_json_is_accepted_or_rejected_with_its_mistakes(text in json(&WORDS)) {
        if let Some(config) = parse(text.to_string().as_bytes()) {
            prop_assert!(config.limits.waiting >= 1 && !config.limits.wait.is_zero());
            Policy::new(&config, false);
        }
    }

    #[test]
    fn a_configuration_with_any_byte_changed_is_accepted_or_rejected_with_its_mistakes(at in 0..BOTH.len(), byte in any::<u8>()) {
        let mut text = BOTH.as_bytes().to_vec();
        text[at] = byte;
        parse(&text);
    }

    #[test]
    fn any_request_is_forwarded_unchanged_answered_or_given_a_token_for_its_host(request in sent()) {
        let policy = Policy::new(&parse(BOTH.as_bytes()).unwrap(), false);
        match policy.decide(&RequestView::new(&request)) {
            Decision::Ignore | Decision::Pass(_) | Decision::Keep(_) | Decision::AwaitConnection(..) => {}
            Decision::Refuse(refusal) => {
                let reply = refusal.reply();
                prop_assert!((400..600).contains(&reply.status));
                prop_assert!(serde_json::from_slice::<serde_json::Value>(&reply.body).is_ok());
            }
            Decision::Status(_) | Decision::Check(_) | Decision::Live | Decision::RefuseOwn(_) => {}
            Decision::Report(_) | Decision::ReportToNode(_) => prop_assert!(false, "no action is report"),
            Decision::Exchange(spec, _) => {
                let authority = request.headers.get(":authority").unwrap_or_default().to_ascii_lowercase();
                let listed = ["a.example", "a.example:80", "a.example:8443", "169.254.169.254", "localhost", "127.0.0.1"];
                prop_assert!(listed.iter().any(|host| authority.starts_with(host.as_bytes())));
                prop_assert!(spec.scope().ends_with("/.default"));
            }
        }
    }
}
