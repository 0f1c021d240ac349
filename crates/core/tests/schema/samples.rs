//! Two valid configurations that together have every field.

use serde_json::{Value, json};

use crate::{SCHEMA, read, validate};

/// The configuration of a sidecar, with the fields that only an egress gateway lacks.
pub(crate) fn sidecar() -> Value {
    json!({
        "$schema": "entra-exchange.schema.json",
        "entra": {
            "authority": "https://login.microsoftonline.com",
            "unknown_authority": "refuse",
            "clusters": ["entra", "entra_new_connection"],
            "path_prefix": "/proxy",
        },
        "assertions": [
            {"name": "spire", "source": "file", "cluster": "spire_file"},
            {"name": "github", "source": "github_actions", "cluster": "github", "allowed_hosts": [".ghe.example.com"]},
            {
                "name": "azure", "source": "azure_pipelines", "cluster": "azure", "service_connection_id": "c",
                "allowed_hosts": ["dev.azure.com"],
            },
            {
                "name": "google", "source": "google_metadata", "cluster": "google", "audience": "api://a", "timeout": "3s", "attempts": 5,
                "back_off": "200ms", "expect": {"iss": "https://accounts.google.com", "sub": "1", "aud": "api://a", "alg": "RS256"},
            },
            {"name": "vault", "source": "vault", "cluster": "vault", "role": "payments", "namespace": "n", "authority": "vault.example"},
            {
                "name": "oidc", "source": "oidc_client_credentials", "cluster": "oidc", "authority": "sts.example", "path": "/token",
                "client_assertion": "spire", "form": {"scope": "s"},
            },
            {
                "name": "sts", "source": "token_exchange", "cluster": "oidc", "path": "/token", "subject_token": "spire",
                "subject_token_type": "urn:ietf:params:oauth:token-type:jwt", "form_from_env": {"client_secret": "SECRET"},
                "basic_auth": {"id": "payments", "secret_from_env": "SECRET"},
            },
            {
                "name": "http", "source": "http", "cluster": "sts", "not_ready": [404], "reuse": "1m",
                "request": {
                    "method": "POST", "authority": "sts.example", "path": "/token", "query": {"a": "b"}, "headers": {"a": "b"},
                    "headers_from_env": {"x": "SECRET"}, "basic_auth": {"id": "payments", "secret_from_env": "SECRET"},
                    "form": {"a": "b"}, "form_from_env": {"x": "SECRET"}, "form_from_assertion": {"token": "spire"},
                },
                "response": {"token": "/token", "expiry": {"seconds": "/expires_in"}},
            },
            {
                "name": "url", "source": "http", "cluster": "sts",
                "request": {"url_from_env": "URL", "allowed_hosts": [".example.com"], "bearer_from_env": "SECRET", "body": "{}"},
                "response": {"token": "/token", "expiry": {"time": "/expires_at"}},
            },
            {"name": "imds", "source": "azure_managed_identity", "cluster": "imds", "client_id": "c"},
            {"name": "app", "source": "azure_app_service", "cluster": "app", "client_id": "c"},
            {"name": "aws", "source": "aws_sts", "cluster": "aws", "region": "eu-central-1", "authority": "sts.example"},
            {"name": "xml", "source": "http", "cluster": "sts", "request": {"path": "/"}, "response": {"xml": "Token"}},
            {"name": "spiffe", "source": "spiffe_workload_api", "cluster": "spire", "spiffe_id": "spiffe://e/a", "hint": "a"},
            {"name": "json", "source": "http", "cluster": "sts", "request": {"path": "/", "json": {"a": [1]}}, "response": {"token": "/a~1b"}},
        ],
        "identities": [
            {
                "name": "payments",
                "tenant_id": "11111111-1111-4111-8111-111111111111",
                "client_id": "aaaaaaaa-0000-4000-8000-000000000001",
                "assertion": "spire",
                "object_id": "cccccccc-0000-4000-8000-000000000003",
                "resource_id": "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/i",
                "resources": ["https://vault.azure.net", "https://storage.azure.com/"],
                "discard_tokens_before": "2026-01-31T02:10:00Z",
            },
            {"name": "reports", "tenant_id": "contoso.onmicrosoft.com", "client_id": "bbbbbbbb-0000-4000-8000-000000000002"},
        ],
        "defaults": {
            "scope": "https://vault.azure.net/.default",
            "identity": "payments",
            "action": "inject",
            "tls_clusters": ["outbound|80||{host}"],
            "plaintext": "refuse",
            "shared_suffix": "refuse",
            "override_headers": "refuse",
            "existing_credential": "keep",
            "header": "authorization",
            "on_failure": "refuse",
            "warm": false,
        },
        "destinations": [
            {
                "name": "vault",
                "azure_service": "key_vault",
                "names": ["payments-kv"],
                "methods": ["GET", "PUT"],
                "path_prefixes": ["/secrets", "/keys"],
            },
            {
                "hosts": ["api.example.com:8443", "*.example.com"],
                "scope": "api://example/.default",
                "identity": "reports",
                "action": "report",
                "tls_clusters": [],
                "plaintext": "allow",
                "shared_suffix": "allow",
                "override_headers": "allow",
                "existing_credential": "replace",
                "header": "X-Access-Token",
                "on_failure": "pass",
                "warm": true,
            },
            {"hosts": ["login.example.com"], "action": "pass"},
        ],
        "managed_identity": {
            "identities": ["payments", "reports"],
            "default_identity": "payments",
            "action": "answer",
            "imds": {"hosts": ["169.254.169.254", "[fd00:ec2::254]"], "pass": ["/metadata/instance", "/2021-07-15/dynamic"]},
            "app_service": {"hosts": ["127.0.0.1"], "secret_from_env": "IDENTITY_HEADER"},
            "health": {"hosts": ["entra-exchange.health"], "identities": ["payments"]},
            "limits": {"unlisted_scopes": 1000, "new_scopes_per_minute": 1, "parallel_exchanges": 100},
        },
        "status": {"hosts": ["localhost"], "path": "/status"},
        "limits": {"exchange": "1m", "wait": "1m 30s", "waiting": 1_000_000},
        "log": {"exchanges": "warn", "requests": "info", "access": true},
    })
}

/// The configuration of an egress gateway, whose callers have identities of their own.
pub(crate) fn gateway() -> Value {
    json!({
        "identities": [
            {
                "name": "payments",
                "client_id": "aaaaaaaa-0000-4000-8000-000000000001",
                "principals": ["spiffe://cluster.local/ns/payments/sa/api"],
            },
        ],
        "destinations": [
            {"hosts": ["payments-kv.vault.azure.net"], "scope": "https://vault.azure.net/.default"},
        ],
    })
}

/// Both configurations. A field with a default that they do not set has the default.
pub(crate) fn all() -> [Value; 2] {
    [sidecar(), gateway()].map(|mut sample| {
        add_defaults(&SCHEMA, &mut sample);
        sample
    })
}

fn add_defaults(schema: &Value, sample: &mut Value) {
    for item in sample.as_array_mut().into_iter().flatten() {
        add_defaults(&schema["items"], item);
    }
    let Some(object) = sample.as_object_mut() else { return };
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        match object.get_mut(name) {
            Some(value) => add_defaults(field, value),
            None => object.extend(field.get("default").map(|default| (name.clone(), default.clone()))),
        }
    }
}

#[test]
fn the_samples_are_valid_and_have_every_field_of_the_schema() {
    for sample in all() {
        read(&sample).map(drop).unwrap();
        validate(&sample).unwrap();
    }
    assert_eq!(missing(&SCHEMA, &all().iter().collect::<Vec<_>>(), ""), Vec::<String>::new());
}

/// The paths of the fields in a schema that none of these values has.
fn missing(schema: &Value, values: &[&Value], path: &str) -> Vec<String> {
    let mut paths = Vec::new();
    let alternatives = schema["oneOf"].as_array().into_iter().flatten();
    for (name, field) in
        std::iter::once(schema).chain(alternatives).filter_map(|it| it["properties"].as_object()).flatten()
    {
        let path = format!("{path}.{name}");
        let found: Vec<&Value> = values.iter().filter_map(|value| value.get(name)).collect();
        if found.is_empty() {
            paths.push(path);
            continue;
        }
        paths.extend(missing(field, &found, &path));
        let items: Vec<&Value> = found.iter().filter_map(|value| value.as_array()).flatten().collect();
        paths.extend(missing(&field["items"], &items, &path));
    }
    paths
}
