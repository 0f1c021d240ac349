//! Tests of the section `assertions`.

use serde_json::{Value, json};

use super::super::Config;

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
    let mut assertion = http(url("GOOD_URL"));
    assertion["name"] = json!("a");
    assert!(parse(json!([assertion]), "a").unwrap().identities[0].spec("s").is_ok());
}

#[test]
fn mistakes_in_a_source_are_reported_with_their_paths() {
    for (assertion, expected) in [
        (json!({"source": "vault", "cluster": "v"}), "assertions[0].role: is missing"),
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
        (http(json!({"path": "/", "headers": {"Authorization": "x"}})), "has a credential"),
        (http(json!({"path": "/", "headers": {"Host": "x"}})), "\"host\""),
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
        (http(json!({"path": format!("/{}", "x".repeat(2048))})), "at most 2048 bytes"),
        (
            json!({"source": "http", "cluster": "o", "request": {"path": "/"}, "response": {"token": "x"}}),
            "\"x\" is not valid: write a JSON pointer",
        ),
        (
            json!({"source": "http", "cluster": "o", "request": {"path": "/"}, "response": {"token": "/a~2b"}}),
            "\"/a~2b\" is not valid: write a JSON pointer",
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
    let long = mistakes(json!({"source": "vault", "cluster": "v", "role": "x".repeat(2048)}));
    assert!(long.contains("at most 2048 bytes"), "{long}");
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
    assert!(parse(json!([exchange("a", "a")]), "a").unwrap_err().contains("needs the token of \"a\" itself"));
    let unknown = parse(json!([exchange("a", "none")]), "a").unwrap_err();
    assert!(
        unknown.contains("assertions[0].subject_token: \"none\" is not a known assertion: write a or projected_token"),
        "{unknown}"
    );
}
