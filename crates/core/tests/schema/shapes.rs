//! A wrong shape of any field is rejected by the reader and by the schema. The wrong values follow from the schema.

use serde_json::{Value, json};

use crate::{SCHEMA, read, samples, validate};

/// A value of each type, and an empty text.
fn of_each_type() -> Vec<Value> {
    vec![
        json!(null),
        json!(true),
        json!(5),
        json!(1.5),
        json!("text"),
        json!(""),
        json!([]),
        json!(["text"]),
        json!([5]),
        json!({}),
    ]
}

/// Values that are wrong for a field, whatever the rest of the configuration is.
fn wrong_values(schema: &Value) -> Vec<Value> {
    let mut wrong: Vec<Value> = match schema["type"].as_str() {
        Some("string") => of_each_type().into_iter().filter(|value| value.as_str().is_none_or(str::is_empty)).collect(),
        Some("boolean") => of_each_type().into_iter().filter(|value| !value.is_boolean()).collect(),
        Some("object") => of_each_type().into_iter().filter(|value| !value.is_object()).collect(),
        Some("integer") => {
            let mut wrong: Vec<Value> = of_each_type().into_iter().filter(|value| !value.is_u64()).collect();
            let (least, most) = (schema["minimum"].as_i64().unwrap(), schema["maximum"].as_i64().unwrap());
            wrong.extend([json!(least - 1), json!(most + 1), json!(-1)]);
            wrong
        }
        Some("array") => {
            let least = schema["minItems"].as_u64().unwrap();
            let is_short = |value: &Value| value.as_array().is_none_or(|items| least > 0 && items.is_empty());
            let mut wrong: Vec<Value> = of_each_type().into_iter().filter(is_short).collect();
            wrong.extend(wrong_values(&schema["items"]).into_iter().map(|item| json!([item])));
            wrong
        }
        other => panic!("{other:?} has no wrong values"),
    };
    if schema.get("enum").is_some() {
        wrong.push(json!("other"));
    }
    wrong
}

/// Calls `visit` with each field in the sample and its schema, as a JSON pointer.
fn each_field(schema: &Value, sample: &Value, pointer: &str, visit: &mut dyn FnMut(&str, &Value)) {
    for (index, item) in sample.as_array().into_iter().flatten().enumerate() {
        each_field(&schema["items"], item, &format!("{pointer}/{index}"), visit);
    }
    let alternatives = schema["oneOf"].as_array().into_iter().flatten();
    for object in std::iter::once(schema).chain(alternatives) {
        for (name, field) in object["properties"].as_object().into_iter().flatten() {
            if let Some(value) = sample.get(name).filter(|_| field.get("const").is_none()) {
                let pointer = format!("{pointer}/{name}");
                visit(&pointer, field);
                each_field(field, value, &pointer, visit);
            }
        }
    }
}

/// Checks that the reader and the schema reject a configuration.
fn is_rejected(configuration: &Value, what: &str) {
    assert!(read(configuration).is_err(), "the reader accepts {what}: {configuration}");
    assert!(validate(configuration).is_err(), "the schema accepts {what}: {configuration}");
}

#[test]
fn a_wrong_value_of_any_field_is_rejected_by_the_reader_and_the_schema() {
    let mut tried = 0;
    for sample in samples::all() {
        each_field(&SCHEMA, &sample, "", &mut |pointer, schema| {
            for wrong in wrong_values(schema) {
                let mut configuration = sample.clone();
                *configuration.pointer_mut(pointer).unwrap() = wrong.clone();
                is_rejected(&configuration, &format!("{pointer}: {wrong}"));
                tried += 1;
            }
        });
    }
    assert!(tried > 500, "{tried}");
}

#[test]
fn an_unknown_field_beside_any_field_is_rejected_by_the_reader_and_the_schema() {
    for sample in samples::all() {
        each_field(&SCHEMA, &sample, "", &mut |pointer, _| {
            let (object, name) = pointer.rsplit_once('/').unwrap();
            for unknown in [format!("{name}s"), "unknown".to_owned()] {
                let mut configuration = sample.clone();
                configuration.pointer_mut(object).unwrap()[&unknown] = json!("text");
                is_rejected(&configuration, &format!("{object}/{unknown}"));
            }
        });
    }
}

#[test]
fn an_object_without_a_required_field_is_rejected_by_the_reader_and_the_schema() {
    let without = |pointer: &str| {
        let mut configuration = samples::sidecar();
        let (object, name) = pointer.rsplit_once('/').unwrap();
        configuration.pointer_mut(object).unwrap().as_object_mut().unwrap().remove(name).unwrap();
        configuration
    };
    let mut required = Vec::new();
    let sample = samples::sidecar();
    each_field(&SCHEMA, &sample, "", &mut |pointer, _| {
        let (configuration, original) = (without(pointer), validate(&sample));
        assert_eq!(original, Ok(()));
        if let Err(mistakes) = validate(&configuration) {
            assert!(read(&configuration).is_err(), "the reader accepts what lacks {pointer}: {mistakes}");
            required.push(pointer.to_owned());
        }
    });
    // A field that several kinds have is visited for each of them.
    required.sort();
    required.dedup();
    let of_all_sources = ["name", "source", "cluster"];
    required.retain(|pointer| {
        let of_a_source = pointer.strip_prefix("/assertions/").and_then(|rest| rest.split_once('/'));
        !of_a_source.is_some_and(|(index, name)| index != "0" && of_all_sources.contains(&name))
    });
    assert_eq!(
        required,
        [
            "/assertions/0/cluster",
            "/assertions/0/name",
            "/assertions/0/source",
            "/assertions/10/client_id",
            "/assertions/11/region",
            "/assertions/12/request",
            "/assertions/12/request/path",
            "/assertions/14/request",
            "/assertions/14/request/path",
            "/assertions/2/service_connection_id",
            "/assertions/4/role",
            "/assertions/5/path",
            "/assertions/6/basic_auth/id",
            "/assertions/6/basic_auth/secret_from_env",
            "/assertions/6/path",
            "/assertions/6/subject_token",
            "/assertions/7/request",
            "/assertions/7/request/basic_auth/id",
            "/assertions/7/request/basic_auth/secret_from_env",
            "/assertions/7/request/path",
            "/assertions/7/response/expiry/seconds",
            "/assertions/7/response/token",
            "/assertions/8/request",
            "/assertions/8/request/allowed_hosts",
            "/assertions/8/request/url_from_env",
            "/assertions/8/response/expiry/time",
            "/assertions/8/response/token",
            "/assertions/9/client_id",
            "/destinations/0/azure_service",
            "/destinations/1/hosts",
            "/destinations/2/hosts",
            "/identities/0/name",
            "/identities/1/name",
            "/managed_identity/health/hosts",
        ]
    );
}

#[test]
fn what_is_wrong_in_an_object_as_a_whole_is_rejected_by_the_reader_and_the_schema() {
    let destination = |text: &str| format!(r#"{{"destinations":[{text}]}}"#);
    let source = |text: &str| {
        let source = format!(r#"{{"name":"a","source":"http","cluster":"c",{text}}}"#);
        format!(r#"{{"managed_identity":{{"imds":{{}}}},"assertions":[{source}]}}"#)
    };
    let request = |text: &str| source(&format!(r#""request":{text}"#));
    let response = |text: &str| source(&format!(r#""request":{{"path":"/"}},"response":{text}"#));
    for text in [
        destination(r#"{"azure_service":"functions","names":["payments"],"scope":"s/.default"}"#),
        r#"{"defaults":{"action":"pass","warm":true},"destinations":[{"hosts":["a.example"]}]}"#.to_owned(),
        request(r#"{"path":"/","headers":{"Hosts":"a","x-authorization":"b"}}"#),
        response(r#"{"token":"/a","expiry":{"time":"/c"}}"#),
    ] {
        let configuration = serde_json::from_str(&text).unwrap();
        assert_eq!((read(&configuration).map(drop), validate(&configuration)), (Ok(()), Ok(())), "{text}");
    }
    for text in [
        "[]".to_owned(),
        "{}".to_owned(),
        r#"{"status":{}}"#.to_owned(),
        r#"{"managed_identity":{}}"#.to_owned(),
        r#"{"managed_identity":{"action":"report","identities":["default"]}}"#.to_owned(),
        destination("{}"),
        destination(r#"{"scope":"s/.default"}"#),
        destination(r#"{"azure_service":"key_vault","names":["payments-kv"],"hosts":["a.example"]}"#),
        destination(r#"{"hosts":["a.example"],"names":["payments-kv"],"scope":"s/.default"}"#),
        destination(r#"{"hosts":["a.example","a.example"],"scope":"s/.default"}"#),
        destination(r#"{"hosts":["a.example"],"action":"pass","warm":true}"#),
        destination(r#"{"hosts":["a.example"],"action":"refuse","warm":true}"#),
        destination(r#"{"azure_service":"key_vault","names":["payments-kv"],"scope":"s/.default"}"#),
        request("{}"),
        request(r#"{"path":"/","url_from_env":"URL","allowed_hosts":["a.example"]}"#),
        request(r#"{"authority":"a","url_from_env":"URL","allowed_hosts":["a.example"]}"#),
        request(r#"{"url_from_env":"URL"}"#),
        request(r#"{"path":"/","allowed_hosts":["a.example"]}"#),
        request(r#"{"path":"/","form":{"a":"b"},"json":{}}"#),
        request(r#"{"path":"/","form_from_assertion":{"a":"projected_token"},"json":{}}"#),
        request(r#"{"path":"/","body":"x","json":{}}"#),
        request(r#"{"path":"/","body":"x","form_from_env":{"a":"SECRET"}}"#),
        request(r#"{"path":"/","bearer_from_env":"SECRET","basic_auth":{"id":"a","secret_from_env":"SECRET"}}"#),
        request(r#"{"path":"/","headers":{"Host":"a"}}"#),
        request(r#"{"path":"/","headers":{"Authorization":"a"}}"#),
        request(r#"{"path":"/","headers":{"a b":"a"}}"#),
        request(r#"{"path":"/","headers":{"a":"a\nb"}}"#),
        request(r#"{"path":"/","headers_from_env":{"content-Length":"SECRET"}}"#),
        response(r#"{"token":"/a","xml":"a"}"#),
        response(r#"{"token":"/a","expiry":{"seconds":"/b","time":"/c"}}"#),
        response(r#"{"token":"/a","expiry":{}}"#),
        response(r#"{"expiry":{"seconds":"/b"}}"#),
    ] {
        is_rejected(&serde_json::from_str(&text).unwrap(), "an object");
    }
}

#[test]
fn a_text_of_the_wrong_form_is_rejected_by_the_reader_and_the_schema() {
    for (pointer, wrong) in [
        ("/assertions/1/allowed_hosts/0", "*.example"),
        ("/assertions/1/allowed_hosts/0", ".com"),
        ("/assertions/4/authority", "a b/c"),
        ("/assertions/4/authority", "vault.example:99999"),
        ("/assertions/4/namespace", "a\nb"),
        ("/assertions/7/request/path", "/a b"),
        ("/assertions/7/request/path", "/a#b"),
        ("/assertions/8/request/allowed_hosts/0", "https://a.example.com"),
        ("/assertions/11/region", "eu.central"),
        ("/entra/authority", "http://login.microsoftonline.com"),
        ("/entra/authority", "login.microsoftonline.com"),
        ("/entra/authority", "https://login.microsoftonline.com/common"),
        ("/identities/0/name", "Payments"),
        ("/identities/0/tenant_id", "https://contoso.com"),
        ("/identities/0/tenant_id", "contoso"),
        ("/identities/0/resources/0", "https://vault.azure.net/.default"),
        ("/identities/0/client_id", "payments"),
        ("/identities/0/object_id", "aaaaaaaa00004000800000000000001"),
        ("/identities/0/resource_id", "/resourceGroups/g"),
        ("/identities/0/discard_tokens_before", "2026-01-31"),
        ("/identities/0/discard_tokens_before", "yesterday"),
        ("/destinations/0/azure_service", "key_valt"),
        ("/destinations/0/methods/0", "get"),
        ("/destinations/0/methods/0", "GET PUT"),
        ("/destinations/0/path_prefixes/0", "secrets"),
        ("/destinations/0/path_prefixes/0", "/secrets/*"),
        ("/destinations/1/hosts/0", "https://api.example.com"),
        ("/destinations/1/hosts/0", "api.*.com"),
        ("/destinations/1/hosts/0", "*"),
        ("/destinations/1/hosts/0", "api.example.com:99999"),
        ("/destinations/1/hosts/0", "api.example.com:65536"),
        ("/destinations/1/hosts/0", "api.example.com."),
        ("/destinations/1/scope", "https://vault.azure.net"),
        ("/destinations/1/scope", "/.default"),
        ("/destinations/1/scope", "a/.default b/.default"),
        ("/destinations/1/scope", "a\tb/.default"),
        ("/destinations/1/scope", "a/.default/.default"),
        ("/destinations/1/header", ":path"),
        ("/destinations/1/header", "host"),
        ("/destinations/1/header", "User-Agent"),
        ("/destinations/1/header", "X-Envoy-Peer-Metadata"),
        ("/defaults/tls_clusters/0", "outbound|{port}||{host}"),
        ("/defaults/tls_clusters/0", "outbound|80||{hosts}"),
        ("/managed_identity/imds/hosts/0", "localhost:80"),
        ("/managed_identity/imds/pass/0", "/healthz"),
        ("/managed_identity/imds/pass/0", "metadata/instance"),
        ("/status/path", "status"),
        ("/status/path", "/status?full"),
        ("/limits/exchange", "10"),
        ("/limits/exchange", "ten seconds"),
        ("/limits/exchange", "abc1sec"),
        ("/limits/exchange", "1x"),
        ("/limits/exchange", "1s1"),
    ] {
        let mut configuration = samples::sidecar();
        *configuration.pointer_mut(pointer).unwrap() = json!(wrong);
        is_rejected(&configuration, &format!("{pointer}: {wrong}"));
    }
}

#[test]
fn a_principal_with_white_space_is_rejected_by_the_reader_and_the_schema() {
    for wrong in ["spiffe://a\tb", "spiffe://a b", "a"] {
        let mut configuration = samples::gateway();
        *configuration.pointer_mut("/identities/0/principals/0").unwrap() = json!(wrong);
        is_rejected(&configuration, wrong);
    }
}

#[test]
fn a_duration_or_a_port_in_any_accepted_spelling_is_valid_for_the_schema() {
    for (pointer, text) in [
        ("/limits/wait", "90s"),
        ("/limits/wait", " 1m30s"),
        ("/limits/wait", "1 0 seconds\u{a0}5 hrs 2m 0.5s"),
        ("/limits/wait", "1.5 s"),
        ("/limits/wait", "2000000µs"),
        ("/limits/wait", "0y 0M 0weeks 1d"),
        ("/assertions/3/back_off", "0"),
        ("/assertions/3/back_off", "0ms"),
        ("/destinations/1/hosts/0", "api.example.com:0"),
        ("/destinations/1/hosts/0", "api.example.com:000065535"),
        ("/destinations/1/hosts/0", "_a..b-:60000"),
        ("/defaults/tls_clusters/0", "a{b{host}c}{host}{"),
    ] {
        let mut configuration = samples::sidecar();
        *configuration.pointer_mut(pointer).unwrap() = json!(text);
        // The reader also has a range.
        let accepted = read(&configuration).map(drop);
        assert!(accepted.is_ok() || text.contains("hrs") || text.contains("1d"), "{text}: {accepted:?}");
        assert_eq!(validate(&configuration), Ok(()), "{text}");
    }
}

#[test]
fn every_example_and_default_of_the_schema_is_valid_for_its_field() {
    let mut tried = 0;
    for sample in samples::all() {
        each_field(&SCHEMA, &sample, "", &mut |pointer, schema| {
            for value in schema["examples"].as_array().into_iter().flatten().chain(schema.get("default")) {
                let mut configuration = sample.clone();
                *configuration.pointer_mut(pointer).unwrap() = value.clone();
                validate(&configuration).unwrap_or_else(|mistakes| panic!("{pointer}: {mistakes}"));
                tried += 1;
            }
        });
    }
    assert!(tried > 50, "{tried}");
}

/// What a configuration means: all but its fingerprint.
fn meaning(configuration: &Value) -> String {
    let shown = format!("{:?}", read(configuration).unwrap_or_else(|mistakes| panic!("{configuration}: {mistakes}")));
    let (_, after) = shown.split_once("identities:").unwrap();
    after.to_owned()
}

#[test]
fn a_default_in_the_schema_is_the_value_that_the_reader_uses_for_a_missing_field() {
    let bare = json!({
        "entra": {}, "defaults": {}, "status": {}, "limits": {}, "log": {},
        "identities": [{"client_id": "aaaaaaaa-0000-4000-8000-000000000001"}],
        "destinations": [{"hosts": ["api.example.com"], "scope": "api://example/.default"}],
        "managed_identity": {"imds": {}, "app_service": {}, "health": {"hosts": ["h"]}, "limits": {}},
    });
    let mut tried = Vec::new();
    let mut visit = |pointer: &str, schema: &Value| {
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let Some(default) = field.get("default") else { continue };
            let mut configuration = bare.clone();
            configuration.pointer_mut(pointer).unwrap()[name] = default.clone();
            assert_eq!(meaning(&configuration), meaning(&bare), "{pointer}/{name}: {default}");
            tried.push(format!("{pointer}/{name}"));
        }
    };
    each_object(&SCHEMA, &bare, "", &mut visit);
    assert!(tried.len() > 30, "{tried:?}");
}

/// Calls `visit` with each object in the sample and its schema, as a JSON pointer.
fn each_object(schema: &Value, sample: &Value, pointer: &str, visit: &mut dyn FnMut(&str, &Value)) {
    if sample.is_object() {
        visit(pointer, schema);
    }
    for (name, value) in sample.as_object().into_iter().flatten() {
        each_object(&schema["properties"][name], value, &format!("{pointer}/{name}"), visit);
    }
    for (index, item) in sample.as_array().into_iter().flatten().enumerate() {
        each_object(&schema["items"], item, &format!("{pointer}/{index}"), visit);
    }
}
