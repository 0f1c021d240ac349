//! Tests of the section `assertions`.

use serde_json::{Value, json};

use super::super::Config;
use super::super::assertions::fields::{
    AssertionFields, BasicAuthFields, ExpectFields, ExpiryFields, RequestFields, ResponseFields, SourceKind,
};
use super::super::object::Section as _;
use super::super::reader::Names;
use super::super::shapes::Words as _;
use super::super::tree::Node;
use crate::assertion::{Body, Expected, Expiry, Format, NAMED, Source, Text};

fn variable(name: &str) -> Option<String> {
    let value = match name {
        "AZURE_TENANT_ID" => "11111111-1111-4111-8111-111111111111",
        "AZURE_CLIENT_ID" => "aaaaaaaa-0000-4000-8000-000000000001",
        "BEARER" => "bearer",
        "WITH_LINE_BREAK" => "a\nb",
        "GOOD_URL" => "https://a.example.com/x",
        "EVIL_URL" => "https://a.example.com.evil.example/x",
        "USER_URL" => "https://a.example.com@evil.example/x",
        "PLAIN_URL" => "http://a.example.com/x",
        "URL_OF_2048_BYTES" => return Some(format!("https://a.example.com/{}", "x".repeat(2047))),
        "URL_OF_2049_BYTES" => return Some(format!("https://a.example.com/{}", "x".repeat(2048))),
        _ => return None,
    };
    Some(value.to_owned())
}

fn parse(assertions: Value, assertion: &str) -> Result<Config, String> {
    let text = json!({
        "assertions": assertions, "identities": [{"assertion": assertion}],
        "destinations": [{"hosts": ["a.example"], "scope": "https://vault.azure.net/.default"}],
    });
    Config::parse(text.to_string().as_bytes(), &variable)
        .map_err(|mistakes| mistakes.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

fn mistakes(mut assertion: Value) -> String {
    assertion["name"] = json!("a");
    let shown = assertion.to_string();
    parse(json!([assertion]), "a").map(drop).expect_err(&shown)
}

fn http(request: Value) -> Value {
    json!({"source": "http", "cluster": "sts", "request": request})
}

/// What is missing in the environment for a request.
fn missing(request: Value) -> String {
    let mut assertion = http(request);
    assertion["name"] = json!("a");
    let config = parse(json!([assertion]), "a").unwrap();
    let problem = config.identities[0].spec("s").unwrap_err();
    assert_eq!(problem.code.as_str(), "env_var_missing");
    assert!(config.warnings.iter().any(|warning| warning.contains(&problem.detail)), "{:?}", config.warnings);
    problem.detail
}

#[test]
fn what_is_missing_in_the_environment_rejects_requests_and_not_the_configuration() {
    assert_eq!(missing(json!({"path": "/", "bearer_from_env": "NONE"})), "NONE is not set");
    let several =
        json!({"path": "/", "headers_from_env": {"x-key": "NONE"}, "form_from_env": {"secret": "WITH_LINE_BREAK"}});
    assert_eq!(missing(several), "NONE is not set; WITH_LINE_BREAK has a control character");
}

#[test]
fn a_bearer_token_is_sent_to_allowed_hosts_only() {
    let url =
        |name: &str| json!({"url_from_env": name, "allowed_hosts": [".example.com"], "bearer_from_env": "BEARER"});
    assert!(missing(url("EVIL_URL")).contains("not one of allowed_hosts"));
    assert!(missing(url("USER_URL")).contains("not an https URL"));
    assert!(missing(url("PLAIN_URL")).contains("not an https URL"));
    assert!(missing(url("URL_OF_2049_BYTES")).contains("not an https URL of at most 2 KiB"));
    for name in ["GOOD_URL", "URL_OF_2048_BYTES"] {
        let mut assertion = http(url(name));
        assertion["name"] = json!("a");
        assert!(parse(json!([assertion]), "a").unwrap().identities[0].spec("s").is_ok(), "{name}");
    }
}

#[test]
fn a_request_may_have_one_assertion_in_several_parameters_and_not_two_assertions() {
    let with_second = |second: &str| {
        let form = json!({"a": "projected_token", "b": second});
        parse(
            json!([{"name": "a", "source": "http", "cluster": "c", "request": {"path": "/", "form_from_assertion": form}}]),
            "a",
        )
    };
    assert!(with_second("projected_token").is_ok());
    let mistake = "assertions[0].request.form_from_assertion.b: \"other\" is the second assertion in this request, beside \
                   \"projected_token\": remove one";
    assert_eq!(with_second("other").map(drop), Err(mistake.to_owned()));
}

#[test]
fn a_path_may_have_as_many_bytes_as_a_url() {
    let request = json!({"path": format!("/{}", "x".repeat(2047))});
    assert!(parse(json!([{"name": "a", "source": "http", "cluster": "c", "request": request}]), "a").is_ok());
}

#[test]
fn two_sources_are_one_only_if_their_variables_have_the_same_values() {
    let assertions = json!([
        {"name": "sts", "source": "token_exchange", "cluster": "sts", "path": "/", "subject_token": "job"},
        {"name": "job", "source": "http", "cluster": "job", "request": {
            "url_from_env": "URL", "allowed_hosts": [".example.com"], "headers_from_env": {"x-key": "KEY"}, "bearer_from_env": "BEARER",
        }},
    ]);
    let text = json!({
        "assertions": assertions, "identities": [{"assertion": "sts"}],
        "destinations": [{"hosts": ["a.example"], "scope": "https://vault.azure.net/.default"}],
    });
    let source = |url: &str, key: &str, bearer: &str| {
        let own = |name: &str| match name {
            "URL" => Some(format!("https://a.example.com/{url}")),
            "KEY" => Some(key.to_owned()),
            "BEARER" => Some(bearer.to_owned()),
            name => variable(name),
        };
        let config = Config::parse(text.to_string().as_bytes(), &own).map_err(drop).unwrap();
        config.identities[0].spec("s").unwrap().assertion().clone()
    };
    let one = source("a", "b", "c");
    assert_eq!(one, source("a", "b", "c"));
    for (url, key, bearer) in [("x", "b", "c"), ("a", "x", "c"), ("a", "b", "x")] {
        assert_ne!(one, source(url, key, bearer), "{url} {key} {bearer}");
    }
    assert_ne!(source("a", "bc", "d"), source("a", "b", "cd"));
}

#[test]
fn mistakes_in_a_source_are_reported_with_their_paths() {
    for (assertion, expected) in [
        (json!({"source": "vault", "cluster": "v"}), "assertions[0].role: is missing: write the name of the role"),
        (json!({"source": "vault", "cluster": "v", "role": 5}), "assertions[0].role: 5 is not valid"),
        (json!({"source": "github_actions"}), "assertions[0].cluster: is missing"),
        (json!({"source": "github_actions", "cluster": "g", "role": "x"}), "assertions[0].role: unknown field"),
        (
            json!({"source": "github_actions", "cluster": "g", "allowed_hosts": [".com"]}),
            "assertions[0].allowed_hosts[0]: \".com\"",
        ),
        (json!({"source": "gitlab", "cluster": "g"}), "\"file\" or \"github_actions\""),
        (json!({"source": "oidc_client_credentials", "cluster": "o"}), "assertions[0].path: is missing"),
        (
            json!({"source": "oidc_client_credentials", "cluster": "o", "path": "t"}),
            "assertions[0].path: \"t\" is not valid",
        ),
        (
            json!({"source": "oidc_client_credentials", "cluster": "o", "path": "/t", "basic_auth": {"id": "x"}}),
            "assertions[0].basic_auth.secret_from_env: is missing",
        ),
        (
            json!({"source": "oidc_client_credentials", "cluster": "o", "path": "/t", "form": {"a": 1}}),
            "assertions[0].form.a: 1 is not valid",
        ),
        (json!({"source": "token_exchange", "cluster": "o", "path": "/t"}), "assertions[0].subject_token: is missing"),
        (json!({"source": "http", "cluster": "o"}), "assertions[0].request: is missing"),
        (http(json!({})), "assertions[0].request.path: is missing"),
        (http(json!({"url_from_env": "GOOD_URL"})), "assertions[0].request.allowed_hosts: is missing"),
        (http(json!({"path": "/a b"})), "assertions[0].request.path: \"/a b\" is not valid: write a path"),
        (http(json!({"path": "/a#b"})), "assertions[0].request.path: \"/a#b\" is not valid: write a path"),
        (
            http(json!({"url_from_env": "GOOD_URL", "allowed_hosts": [".example.com"], "path": "/"})),
            "assertions[0].request.url_from_env: is set beside path or authority",
        ),
        (
            http(json!({"url_from_env": "GOOD_URL", "allowed_hosts": [".example.com"], "authority": "a.example"})),
            "assertions[0].request.url_from_env: is set beside path or authority",
        ),
        (http(json!({"path": "/", "headers": {"Authorization": "x"}})), "has a credential"),
        (http(json!({"path": "/", "headers": {"Host": "x"}})), "\"host\""),
        (
            http(json!({"path": "/", "headers": {"x key": "a"}})),
            "assertions[0].request.headers: has \"x key\", which is not the name of a header",
        ),
        (http(json!({"path": "/", "headers": {"": "a"}})), "assertions[0].request.headers: has \"\", which is not"),
        (http(json!({"path": "/", "headers": {"x": "a\nb"}})), "control character"),
        (
            http(json!({"path": "/", "form": {"a": "b"}, "body": "x"})),
            "assertions[0].request.body: is set beside a form or json",
        ),
        (
            http(json!({"path": "/", "json": {}, "body": "x"})),
            "assertions[0].request.body: is set beside a form or json",
        ),
        (
            http(json!({"path": "/", "json": {}, "form": {"a": "b"}})),
            "assertions[0].request.json: is set beside a form",
        ),
        (http(json!({"path": "/", "json": "{}"})), "assertions[0].request.json: \"{}\" is not valid: write an object"),
        (
            json!({"source": "vault", "cluster": "v", "role": "r", "expect": {"alg": 5}}),
            "assertions[0].expect.alg: 5 is not valid: write a non-empty string",
        ),
        (
            json!({"source": "vault", "cluster": "v", "role": "r", "back_off": "11s"}),
            "assertions[0].back_off: \"11s\" is not valid: write a duration from 0s to 10s",
        ),
        (
            json!({"source": "file", "cluster": "f", "expect": {"issuer": "x"}}),
            "assertions[0].expect.issuer: unknown field",
        ),
        (http(json!({"path": "/", "form": {"a": 1}})), "assertions[0].request.form.a: 1 is not valid"),
        (
            http(json!({"path": "/", "query": {"a": ""}})),
            "assertions[0].request.query.a: \"\" is not valid: write a non-empty string",
        ),
        (
            http(json!({"path": format!("/{}", "x".repeat(2048))})),
            "assertions[0].request: makes a URL of 2049 bytes: shorten it to 2048 bytes",
        ),
        (
            json!({"source": "vault", "cluster": "v", "role": "x".repeat(2048)}),
            "assertions[0]: makes a URL of 2072 bytes: shorten it to 2048 bytes",
        ),
        (
            json!({"source": "vault", "cluster": "v", "role": "r", "namespace": "a\nb"}),
            "assertions[0].namespace: \"a\\nb\" is not valid: remove its control characters",
        ),
        (
            json!({"source": "aws_sts", "cluster": "a", "region": "eu west"}),
            "assertions[0].region: \"eu west\" is not valid: write letters, digits and hyphens",
        ),
        (
            json!({"source": "vault", "cluster": "v", "role": "r", "authority": "a b/c"}),
            "assertions[0].authority: \"a b/c\" is not valid: write a host",
        ),
        (http(json!({"path": "/", "authority": "a@b"})), "assertions[0].request.authority: \"a@b\" is not valid"),
        (
            http(json!({"path": "/", "allowed_hosts": ["a.example"]})),
            "assertions[0].request.allowed_hosts: is for the URL of url_from_env, which is not set: remove it",
        ),
        (
            json!({"source": "http", "cluster": "o", "request": {"path": "/"}, "response": {"token": "x"}}),
            "\"x\" is not valid: write a JSON pointer",
        ),
        (
            json!({"source": "http", "cluster": "o", "request": {"path": "/"}, "response": {"token": "/a~2b"}}),
            "\"/a~2b\" is not valid: write a JSON pointer",
        ),
        (
            json!({"source": "http", "cluster": "o", "request": {"path": "/"}, "response": {"xml": "Token", "token": "/t"}}),
            "assertions[0].response.xml: is set beside token or expiry",
        ),
        (
            json!({"source": "http", "cluster": "o", "request": {"path": "/"}, "response": {"xml": "Token", "expiry": {"seconds": "/s"}}}),
            "assertions[0].response.xml: is set beside token or expiry",
        ),
        (
            json!({"source": "http", "cluster": "o", "request": {"path": "/"}, "response": {"expiry": {"seconds": "/x"}}}),
            "set token",
        ),
    ] {
        let found = mistakes(assertion);
        assert!(found.contains(expected), "{found}\nexpected {expected}");
    }
}

#[test]
fn every_mistake_in_a_source_is_reported_once_and_by_the_name_of_its_field() {
    let wrong = json!({"timeout": 10, "attempts": 0, "expect": {"iss": 5}, "rol": "x", "namespace": 7, "audience": "", "authority": []});
    let common = ["attempts", "audience", "expect.iss", "rol", "timeout"];
    for (kind, more) in [
        ("github_actions", &["authority", "cluster", "namespace"][..]),
        ("azure_pipelines", &["authority", "cluster", "namespace", "service_connection_id"]),
        ("google_metadata", &["authority", "cluster", "namespace"]),
        ("vault", &["authority", "cluster", "namespace", "role"]),
        ("oidc_client_credentials", &["authority", "cluster", "namespace", "path"]),
        ("token_exchange", &["authority", "cluster", "namespace", "path", "subject_token"]),
        ("http", &["authority", "cluster", "namespace", "request"]),
    ] {
        let mut assertion = wrong.clone();
        assertion["source"] = json!(kind);
        let text = mistakes(assertion);
        let mut found: Vec<&str> = text.lines().map(|line| line.split(": ").next().unwrap()).collect();
        found.sort_unstable();
        let mut expected: Vec<String> = common.iter().chain(more).map(|name| format!("assertions[0].{name}")).collect();
        expected.sort_unstable();
        assert_eq!(found, expected, "{kind}: {text}");
    }
    let required_alone = mistakes(json!({"source": "vault", "cluster": "v", "role": ""}));
    assert_eq!(required_alone, "assertions[0].role: \"\" is not valid: write a non-empty string");
}

#[test]
fn a_request_has_each_header_and_each_parameter_once() {
    for (request, expected) in [
        (
            json!({"bearer_from_env": "BEARER", "basic_auth": {"id": "a", "secret_from_env": "BEARER"}}),
            "assertions[0].request.basic_auth: sets \"authorization\", which the request already has: remove one of the two",
        ),
        (
            json!({"headers_from_env": {"Authorization": "NONE"}, "bearer_from_env": "BEARER"}),
            "assertions[0].request.bearer_from_env: sets \"authorization\"",
        ),
        (json!({"headers": {"X-Key": "a", "x-key": "b"}}), "assertions[0].request.headers: sets \"x-key\""),
        (
            json!({"headers": {"x-key": "a"}, "headers_from_env": {"x-key": "NONE"}}),
            "assertions[0].request.headers_from_env: sets \"x-key\"",
        ),
        (
            json!({"form": {"a": "b"}, "form_from_env": {"a": "NONE"}}),
            "assertions[0].request.form_from_env: sets \"a\"",
        ),
        (
            json!({"form": {"a": "b"}, "form_from_assertion": {"a": "projected_token"}}),
            "assertions[0].request.form_from_assertion.a: sets \"a\"",
        ),
    ] {
        let mut request = request;
        request["path"] = json!("/");
        let found = mistakes(http(request));
        assert!(found.contains(expected) && found.lines().count() == 1, "{found}\nexpected {expected}");
    }
    let of_a_row = mistakes(json!({
        "source": "token_exchange", "cluster": "c", "path": "/", "subject_token": "projected_token",
        "form_from_env": {"grant_type": "BEARER"},
    }));
    assert!(of_a_row.contains("assertions[0].form_from_env: sets \"grant_type\""), "{of_a_row}");
}

#[test]
fn a_duplicate_field_anywhere_in_a_source_is_a_mistake() {
    for (fields, expected) in [
        (r#""source":"vault","role":"r","expect":{"iss":"a","iss":"b"}"#, "expect.iss"),
        (r#""source":"oidc_client_credentials","path":"/","form":{"a":"b","a":"c"}"#, "form.a"),
        (
            r#""source":"oidc_client_credentials","path":"/","basic_auth":{"id":"b","id":"c","secret_from_env":"S"}"#,
            "basic_auth.id",
        ),
        (r#""source":"http","request":{"path":"/","path":"/b"}"#, "request.path"),
        (r#""source":"http","request":{"path":"/","query":{"a":"b","a":"c"}}"#, "request.query.a"),
    ] {
        let text =
            format!(r#"{{"managed_identity":{{"imds":{{}}}},"assertions":[{{"name":"a","cluster":"c",{fields}}}]}}"#);
        let found = Config::parse(text.as_bytes(), &variable).unwrap_err().to_string();
        assert_eq!(found, format!("assertions[0].{expected}: duplicate entry: remove it"));
    }
}

#[test]
fn every_kind_of_source_but_file_and_http_has_a_row_with_its_own_fields() {
    let kinds: Vec<&str> = SourceKind::WORDS.iter().map(|(word, _)| *word).collect();
    let named: Vec<&str> = NAMED.iter().map(|row| row.kind).collect();
    let without_row: Vec<&str> = kinds.iter().copied().filter(|kind| !named.contains(kind)).collect();
    assert_eq!(without_row, ["file", "http"]);
    assert_eq!(kinds.len(), named.len() + 2);
    for row in NAMED {
        let fields = names(row.kind);
        for name in row.form.split('$').skip(1) {
            let name = name.split(|next: char| !next.is_ascii_lowercase() && next != '_').next().unwrap();
            assert!(fields.contains(&name) || name == "client_assertion_type", "{}: ${name} is not a field", row.kind);
        }
    }
}

/// The names of the fields of a kind of source.
fn names(kind: &str) -> Vec<&'static str> {
    let object = [("source".to_owned(), Node::from(kind))];
    AssertionFields::NAMES.of(&object).iter().map(|known| known.name).collect()
}

/// Two values of a field of a source.
fn two_values(name: &str) -> [Value; 2] {
    match name {
        "cluster"
        | "xml"
        | "client_id"
        | "role"
        | "namespace"
        | "service_connection_id"
        | "hint"
        | "subject_token_type"
        | "audience"
        | "iss"
        | "sub"
        | "aud"
        | "alg"
        | "id" => [json!("one"), json!("two")],
        "region" => [json!("eu-central-1"), json!("us-east-1")],
        "authority" => [json!("one.example"), json!("two.example:8443")],
        "path" => [json!("/one"), json!("/two")],
        "timeout" | "reuse" | "back_off" => [json!("7s"), json!("8s")],
        "attempts" => [json!(7), json!(8)],
        "not_ready" => [json!([418]), json!([404, 418])],
        "expect" => [json!({"sub": "one"}), json!({"sub": "two"})],
        "spiffe_id" => [json!("spiffe://e/one"), json!("spiffe://e/two")],
        "subject_token" | "client_assertion" => [json!("projected_token"), json!("other")],
        "form_from_assertion" => [json!({"t": "projected_token"}), json!({"t": "other"})],
        "allowed_hosts" => [json!(["one.example"]), json!(["two.example"])],
        "url_from_env" => [json!("GOOD_URL"), json!("EVIL_URL")],
        "query" | "headers" | "form" | "json" => [json!({"a": "one"}), json!({"a": "two"})],
        "headers_from_env" | "form_from_env" => [json!({"a": "BEARER"}), json!({"a": "GOOD_URL"})],
        "bearer_from_env" | "secret_from_env" => [json!("BEARER"), json!("GOOD_URL")],
        "basic_auth" => {
            [json!({"id": "a", "secret_from_env": "BEARER"}), json!({"id": "b", "secret_from_env": "BEARER"})]
        }
        "body" => [json!("one"), json!("two")],
        "method" => [json!("POST"), json!("GET")],
        "token" | "seconds" | "time" => [json!("/one"), json!("/two")],
        "expiry" => [json!({"seconds": "/one"}), json!({"time": "/one"})],
        "request" => [json!({"path": "/one"}), json!({"path": "/two"})],
        "response" => [json!({"token": "/one"}), json!({"xml": "One"})],
        other => panic!("{other}: add two values"),
    }
}

/// What is built of the assertion `a`: everything but its id, which is a hash of its fields. Or the mistakes.
fn built(mut assertion: Value) -> String {
    let platform = |name: &str| match name {
        "ACTIONS_ID_TOKEN_REQUEST_URL" => Some("https://a.actions.githubusercontent.com/x".to_owned()),
        "SYSTEM_OIDCREQUESTURI" => Some("https://dev.azure.com/x".to_owned()),
        "IDENTITY_ENDPOINT" => Some("http://localhost/x".to_owned()),
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN" | "SYSTEM_ACCESSTOKEN" | "IDENTITY_HEADER" => Some("secret".to_owned()),
        name => variable(name),
    };
    assertion["name"] = json!("a");
    let text = json!({
        "assertions": [assertion, {"name": "other", "source": "file", "cluster": "other"}], "identities": [{"assertion": "a"}],
        "destinations": [{"hosts": ["a.example"], "scope": "https://vault.azure.net/.default"}],
    });
    let config = match Config::parse(text.to_string().as_bytes(), &platform) {
        Ok(config) => config,
        Err(refused) => return refused.to_string(),
    };
    let client = match &config.identities[0].client {
        Ok(client) => client,
        Err(problem) => return problem.detail.clone(),
    };
    let Source::Http { http: source, input } = &client.assertion else { return format!("{:?}", client.assertion) };
    let shown = |texts: &[(String, Text)]| -> Vec<String> {
        let shown = |(name, text): &(String, Text)| match text {
            Text::Plain(text) => format!("{name}={text}"),
            Text::Secret(secret) => format!("{name}={}", secret.expose()),
            Text::Input => format!("{name}=input"),
        };
        texts.iter().map(shown).collect()
    };
    let request = &source.request;
    let body = match &request.body {
        Body::Raw(text) => text.clone(),
        Body::Bytes(bytes) => format!("{bytes:?}"),
        Body::Form(form) => format!("{:?}", shown(form)),
    };
    let format = match &source.format {
        Format::Json(pointer) => format!("json {pointer}"),
        Format::JwtSvid { hint } => format!("svid {hint:?}"),
        Format::Xml(name) => format!("xml {name}"),
        Format::Text => "text".to_owned(),
    };
    let expiry = source.expiry.as_ref().map(|expiry| match expiry {
        Expiry::Seconds(pointer) => format!("seconds {pointer}"),
        Expiry::Time(pointer) => format!("time {pointer}"),
    });
    let Expected { algorithm, issuer, subject, audience, .. } = &source.expected;
    format!(
        "{} {} {} {} {:?} {body} {format} {expiry:?} {algorithm:?} {issuer:?} {subject:?} {audience:?} {:?} {} {:?} {:?} {:?} {:?}",
        request.cluster,
        request.method,
        request.target.authority,
        request.target.path,
        shown(&request.headers),
        source.timeout,
        source.attempts,
        source.back_off,
        source.not_ready,
        source.reuse,
        input.as_deref().map(Source::id),
    )
}

/// Checks that each of these fields, set at a place of an assertion, changes what is built or is a mistake. Where the assertion has the
/// field, another value does.
fn each_is_used(assertion: &Value, place: &str, names: &[&str]) {
    let bare = built(assertion.clone());
    for name in names {
        let [one, two] = two_values(name);
        for value in [one, two] {
            let mut changed = assertion.clone();
            let object = changed.pointer_mut(place).unwrap();
            if object.get(*name) == Some(&value) {
                continue;
            }
            object[*name] = value;
            assert_ne!(built(changed.clone()), bare, "{name} has no effect: {changed}");
        }
    }
}

#[test]
fn every_declared_field_of_a_source_has_an_effect_or_is_a_mistake() {
    let has_row = |kind: &str| NAMED.iter().any(|row| row.kind == kind);
    for (kind, _) in SourceKind::WORDS {
        let object = [("source".to_owned(), Node::from(*kind))];
        let mut assertion = json!({"source": kind});
        for known in AssertionFields::NAMES.of(&object).iter().filter(|known| known.required.is_some()) {
            if !["name", "source"].contains(&known.name) {
                assertion[known.name] = two_values(known.name)[0].clone();
            }
        }
        let names: Vec<&str> = names(kind).into_iter().filter(|name| !["name", "source"].contains(name)).collect();
        assert!(!has_row(kind) || built(assertion.clone()).starts_with("one "), "{kind}: {}", built(assertion));
        each_is_used(&assertion, "", &names);
    }
    let of = |names: &Names| names.of(&[]).iter().map(|known| known.name).collect::<Vec<_>>();
    let http = |more: Value| {
        let mut assertion =
            json!({"source": "http", "cluster": "one", "request": {"path": "/one", "form": {"f": "g"}}});
        assertion.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        assertion
    };
    let request: Vec<&str> = of(&RequestFields::NAMES).into_iter().filter(|name| *name != "method").collect();
    each_is_used(&http(json!({})), "/request", &request);
    each_is_used(&json!({"source": "http", "cluster": "one", "request": {"path": "/one"}}), "/request", &request);
    each_is_used(
        &json!({"source": "http", "cluster": "one", "request": {"path": "/", "body": "x", "method": "POST"}}),
        "/request",
        &["method"],
    );
    each_is_used(&http(json!({"response": {}})), "/response", &of(&ResponseFields::NAMES));
    each_is_used(&http(json!({"expect": {}})), "/expect", &of(&ExpectFields::NAMES));
    each_is_used(&json!({"source": "file", "cluster": "one", "expect": {}}), "/expect", &of(&ExpectFields::NAMES));
    let expiry = http(json!({"response": {"token": "/t", "expiry": {}}}));
    each_is_used(&expiry, "/response/expiry", &of(&ExpiryFields::NAMES));
    let mut basic = http(json!({}));
    basic["request"]["basic_auth"] = json!({"id": "one", "secret_from_env": "BEARER"});
    each_is_used(&basic, "/request/basic_auth", &of(&BasicAuthFields::NAMES));
}

fn exchange(name: &str, subject: &str) -> Value {
    json!({"name": name, "source": "token_exchange", "cluster": name, "path": "/t", "subject_token": subject})
}

#[test]
fn a_chain_of_three_sources_is_possible_and_a_longer_one_or_a_loop_is_a_mistake() {
    let three = [exchange("a", "b"), exchange("b", "projected_token")];
    assert!(parse(json!(three), "a").is_ok());
    let four = [exchange("a", "b"), exchange("b", "c"), exchange("c", "projected_token")];
    assert!(
        parse(json!(four), "a")
            .unwrap_err()
            .contains("assertions[2].subject_token: \"projected_token\" would be the fourth")
    );
    let looped = parse(json!([exchange("a", "b"), exchange("b", "a")]), "a").unwrap_err();
    assert!(looped.contains("assertions[1].subject_token: \"a\" needs the token of \"b\" itself"), "{looped}");
    // Each mistake is found once, from whichever source the reading begins.
    let behind_a_loop = parse(json!([exchange("c", "a"), exchange("a", "b"), exchange("b", "a")]), "c").unwrap_err();
    let paths: Vec<&str> = behind_a_loop.lines().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(paths, ["assertions[2].subject_token", "assertions[1].subject_token"], "{behind_a_loop}");
    assert!(parse(json!([exchange("a", "a")]), "a").unwrap_err().contains("needs the token of \"a\" itself"));
    let in_a_request = json!([{"name": "x", "source": "http", "cluster": "c", "request": {"path": "/", "form_from_assertion": {"a": "nobody"}}}]);
    assert_eq!(
        parse(in_a_request, "x").unwrap_err(),
        "assertions[0].request.form_from_assertion.a: \"nobody\" is not a known assertion: write x or projected_token"
    );
    let unknown = parse(json!([exchange("a", "none")]), "a").unwrap_err();
    assert!(
        unknown.contains("assertions[0].subject_token: \"none\" is not a known assertion: write a or projected_token"),
        "{unknown}"
    );
}
