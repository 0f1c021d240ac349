//! Answers of the token endpoint, of proxies in between, and hostile ones.

use serde_json::{Value, json};

use super::*;
use crate::assertion::tests::{NOW, claims, jwt};
use crate::entra::tests_support::spec;
use crate::http::{CallFailure, CallResponse};
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

const GUID: &str = "11111111-aaaa-4aaa-8aaa-111111111111";

fn assertion() -> Assertion {
    Assertion::parse(jwt(&json!({"alg": "RS256"}), &claims()).as_bytes(), NOW).unwrap()
}

fn answer(status: u16, body: &str) -> EndpointAnswer {
    answer_with(status, body, None)
}

fn answer_with(status: u16, body: &str, retry_after: Option<&str>) -> EndpointAnswer {
    let response = CallResponse {
        status,
        retry_after: retry_after.map(|value| value.as_bytes().to_vec()),
        request_id: None,
        grpc: None,
        body: body.as_bytes().to_vec(),
        is_envoys_own: false,
    };
    read_answer(Ok(response), "entra", &spec(), &assertion(), NOW)
}

fn refused(answer: EndpointAnswer) -> (Problem, RetryClass, Option<Duration>) {
    let EndpointAnswer::Refused { problem, retry_class, retry_after } = answer else { panic!("not rejected") };
    (*problem, retry_class, retry_after)
}

#[test]
fn a_token_is_read_with_its_lifetime_and_refresh_time() {
    let granted = EndpointAnswer::Granted {
        token: AccessToken::parse("abc.def").unwrap(),
        expires_in: Duration::from_secs(3599),
        refresh_in: None,
        request_id: None,
    };
    assert!(answer(200, r#"{"token_type":"Bearer","expires_in":3599,"access_token":"abc.def"}"#) == granted);
    assert!(answer(200, r#"{"token_type":"bearer","expires_in":"3599","access_token":"abc.def"}"#) == granted);
    let EndpointAnswer::Granted { expires_in, refresh_in, .. } = answer(
        200,
        r#"{"token_type":"Bearer","expires_in":18446744073709551615,"refresh_in":43199,"access_token":"a"}"#,
    ) else {
        panic!()
    };
    assert_eq!((expires_in, refresh_in), (Duration::from_hours(168), Some(Duration::from_secs(43199))));
}

#[test]
fn a_response_of_up_to_256_kib_is_read() {
    let success = success(&"a".repeat(200_000));
    let with_length = |length: usize| answer(200, &(success.clone() + &" ".repeat(length - success.len())));
    assert!(matches!(with_length(262_144), EndpointAnswer::Granted { .. }));
    assert!(refused(with_length(262_145)).0.detail.contains("the body has 262145 bytes, more than 262144"));
}

#[test]
fn a_successful_response_without_a_usable_token_is_rejected() {
    for body in [
        "",
        "<html>",
        "{",
        "[]",
        r#"{"token_type":"Bearer","expires_in":1}"#,
        r#"{"token_type":"pop","expires_in":1,"access_token":"a"}"#,
        r#"{"token_type":"Bearer","expires_in":1,"access_token":""}"#,
        r#"{"token_type":"Bearer","expires_in":1,"access_token":"a\r\nx: y"}"#,
        r#"{"token_type":"Bearer","access_token":"a"}"#,
        r#"{"token_type":"Bearer","expires_in":-1,"access_token":"a"}"#,
        r#"{"token_type":"Bearer","expires_in":0,"access_token":"a"}"#,
    ] {
        let (problem, retry_class, _) = refused(answer(200, body));
        assert_eq!((problem.code, retry_class), (Code::EntraReplyInvalid, RetryClass::Transient), "{body}");
    }
}

#[test]
fn a_federated_token_is_never_accepted_as_an_access_token() {
    let signature = "c2lnbmF0dXJl".repeat(28);
    let (unsigned, _) =
        assertion().expose().rsplit_once('.').map(|(start, end)| (start.to_owned(), end.len())).unwrap();
    let own = Assertion::parse(format!("{unsigned}.{signature}").as_bytes(), NOW).unwrap();
    let parts = [unsigned.clone(), unsigned.get(..40).unwrap().to_owned()];
    let containing_it = [own.expose().to_owned(), format!("e30.e30.{signature}"), format!("a.{}~", own.expose())];
    for token in containing_it.into_iter().chain(parts) {
        let reason = read_grant(success(&token).as_bytes(), "contoso.example", &own).err().unwrap();
        assert_eq!(reason, "access_token is the federated token");
    }
    assert!(read_grant(success("e30.e30.c2ln").as_bytes(), "contoso.example", &own).is_ok());
}

#[test]
fn a_token_of_another_tenant_is_rejected() {
    let token = |token: String| answer(200, &success(&token));
    let of = |tid: Value| token(access_jwt(&json!({"tid": tid})));
    let own = "11111111-1111-4111-8111-111111111111";
    assert!(matches!(of(json!(own)), EndpointAnswer::Granted { .. }));
    // Opaque, or without a tenant.
    for opaque in ["abc", "a.b.c", "a.!.c", "..", &access_jwt(&json!({}))] {
        let opaque = opaque.replace('!', "~");
        assert!(matches!(token(opaque.clone()), EndpointAnswer::Granted { .. }), "{opaque}");
    }
    for other in [
        json!("22222222-2222-4222-8222-222222222222"),
        json!(format!(" {own}")),
        json!(format!("{own}\n")),
        json!(""),
        json!(null),
        json!(7),
        json!([own]),
        json!({"tid": own}),
    ] {
        assert!(refused(of(other.clone())).0.detail.contains("another tenant"), "{other}");
    }
    // Other readers may accept more forms of base64 than JWTs use.
    for encoding in [&URL_SAFE, &STANDARD] {
        for length in 1..4 {
            let claims = json!({"tid": "22222222-2222-4222-8222-222222222222", "x": "?>~".repeat(length)});
            let padded = format!("e30.{}.c2ln", encoding.encode(claims.to_string()));
            assert!(refused(token(padded.clone())).0.detail.contains("another tenant"), "{padded}");
        }
    }
}

#[test]
fn the_tid_is_not_compared_if_the_tenant_is_configured_as_a_domain_name() {
    assert!(read_grant(success(&access_jwt(&json!({"tid": 7}))).as_bytes(), "contoso.example", &assertion()).is_ok());
}

fn access_jwt(claims: &Value) -> String {
    format!("e30.{}.another-signature", URL_SAFE_NO_PAD.encode(claims.to_string()))
}

fn success(token: &str) -> String {
    json!({"token_type": "Bearer", "expires_in": 60, "access_token": token}).to_string()
}

#[test]
fn an_error_response_gives_entras_description_the_claims_and_a_remedy() {
    let body = json!({
        "error": "invalid_client",
        "error_description": "AADSTS700213: No matching federated identity record found.\r\nTrace ID: t\r\nCorrelation ID: c",
        "error_codes": [700213], "trace_id": GUID, "correlation_id": "c",
    });
    let (problem, retry_class, _) = refused(answer(401, &body.to_string()));
    assert_eq!((problem.code, retry_class), (Code::EntraRefused, RetryClass::Immediate));
    assert!(
        problem
            .detail
            .starts_with("AADSTS700213: No matching federated identity record found. (federated token: issuer")
    );
    assert!(problem.detail.contains("system:serviceaccount:payments:api"));
    assert!(problem.remedy.contains("subject"));
    assert_eq!(problem.aadsts().as_deref(), Some("AADSTS700213"));
    assert_eq!(problem.identity.as_deref(), Some("payments"));
    assert_eq!(problem.entra.trace_id.as_ref().map(Guid::as_str), Some(GUID));
    assert_eq!(problem.entra.correlation_id, None);
}

#[test]
fn the_retry_class_depends_on_the_aadsts_code_first_and_on_the_status_second() {
    let error = |status: u16, body: &str| {
        let (problem, retry_class, _) = refused(answer(status, body));
        (problem.code, retry_class)
    };
    assert_eq!(
        error(400, r#"{"error":"x","error_description":"AADSTS700016: no"}"#),
        (Code::EntraRefused, RetryClass::NeedsChange)
    );
    assert_eq!(error(400, r#"{"error":"x","error_codes":[700024]}"#), (Code::EntraRefused, RetryClass::StaleAssertion));
    assert_eq!(
        error(400, r#"{"error":"x","error_description":"AADSTS700024: old"}"#),
        (Code::EntraRefused, RetryClass::StaleAssertion)
    );
    assert_eq!(error(400, r#"{"error":"x","error_codes":[90033]}"#), (Code::EntraUnavailable, RetryClass::Transient));
    for (status, body) in [
        (429, r#"{"error":"x"}"#),
        (429, r#"{"error":"x","error_codes":[700016]}"#),
        (429, "slow down"),
        (400, r#"{"error":"x","error_codes":[50196]}"#),
        (400, r#"{"error":"x","error_codes":[90055]}"#),
    ] {
        assert_eq!(error(status, body), (Code::EntraUnavailable, RetryClass::Throttled), "{status} {body}");
    }
    assert_eq!(error(400, r#"{"error":"temporarily_unavailable"}"#), (Code::EntraUnavailable, RetryClass::Transient));
    assert_eq!(error(400, r#"{"error":"x","error_codes":[999]}"#), (Code::EntraRefused, RetryClass::NeedsChange));
    assert_eq!(error(503, "upstream connect error"), (Code::EntraUnavailable, RetryClass::Transient));
}

#[test]
fn a_successful_response_is_never_quoted() {
    let token = jwt(&json!({"typ": "JWT"}), &json!({"sub": "of an access token"}));
    let long = format!("{}{}", success(&token), " ".repeat(LONGEST_ANSWER));
    let refusal = json!({"error": token, "error_description": token, "access_token": token}).to_string();
    for status in [200, 201, 202, 204, 226, 299] {
        for body in [&*long, &*refusal, &*token, "spoken", "", &success(&token).replace("Bearer", "pop")] {
            let (problem, retry_class, _) = refused(answer(status, body));
            assert_eq!((problem.code, retry_class), (Code::EntraReplyInvalid, RetryClass::Transient));
            assert!(problem.detail.starts_with(&format!("Entra answered {status}: ")), "{}", problem.detail);
            assert!(problem.detail.len() < 120 && !problem.detail.contains("spoken"), "{}", problem.detail);
            let shown = serde_json::to_string(&problem).unwrap();
            assert!(!shown.contains("eyJ") && !shown.contains("c2ln"), "{shown}");
        }
    }
}

#[test]
fn an_error_of_a_proxy_is_quoted_unless_it_may_contain_a_token() {
    let quoted = |status, body: &str| refused(answer(status, body)).0.detail.contains("spoken");
    assert!(
        quoted(400, "it is spoken") && quoted(503, "<title>spoken</title>") && quoted(403, r#"{"message":"spoken"}"#)
    );
    for status in [0, 100, 302, 399, 600, 999] {
        assert!(!quoted(status, "spoken"), "{status}");
    }
    for body in [
        r#"{"x_token":"spoken"}"#,
        " \n{\"a_token\":\"spoken",
        "[\"spoken\"]",
        "\"spoken\"",
        "?\"access_token\":\"spoken\"}",
    ] {
        assert!(!quoted(400, body), "{body}");
    }
}

/// A hostile or broken endpoint may repeat the assertion in many forms. Its header has a line break after the brace, so
/// that it does not start with `eyJ`.
#[test]
fn a_problem_never_contains_any_form_of_the_assertion() {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let header = part("{\n  \"alg\": \"RS256\",\n  \"kid\": \"a key\"\n}");
    let signature = part(&"the signature of an issuer ".repeat(9));
    let token = format!("{header}.{}.{signature}", part(&claims().to_string()));
    let assertion = Assertion::parse(token.as_bytes(), NOW).unwrap();
    let pieces: Vec<&str> = token.as_bytes().chunks(30).map(|piece| std::str::from_utf8(piece).unwrap()).collect();
    let echoes = [
        token.clone(),
        format!("grant_type=x&client_assertion={token}&scope=y"),
        token.replace('.', "\n"),
        token.split('.').rev().collect::<Vec<_>>().join("."),
        signature.clone(),
        pieces.join(" "),
        pieces.join(" and then "),
        pieces.join("\u{200b}"),
        token.chars().rev().skip(40).collect::<String>().chars().rev().collect(),
        format!("{}{token}", "x".repeat(280)),
        token.to_uppercase(),
    ];
    let leaks = |text: &str| {
        let text: String = text.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
        let token: String = token.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
        text.as_bytes().windows(8).any(|run| token.as_bytes().windows(8).any(|part| part == run))
    };
    assert!(leaks(&echoes[3]));
    for echo in &echoes {
        let bodies = [
            echo.clone(),
            json!({"error": echo, "error_description": echo, "trace_id": echo, "correlation_id": echo}).to_string(),
            json!({"error": &echo[..echo.len().min(50)], "error_description": format!("AADSTS7000213: {echo}")})
                .to_string(),
            json!({"error": [echo], "error_description": {"a": echo}, "error_codes": [echo], "trace_id": [echo]})
                .to_string(),
        ];
        for body in bodies {
            for (status, is_envoys_own) in
                [(200, false), (201, false), (302, false), (400, false), (503, true), (600, false)]
            {
                let body = body.clone().into_bytes();
                let response =
                    CallResponse { status, retry_after: None, request_id: None, grpc: None, body, is_envoys_own };
                let problem = match read_answer(Ok(response), "entra", &spec(), &assertion, NOW) {
                    EndpointAnswer::Refused { problem, .. } | EndpointAnswer::Unreached { problem } => problem,
                    EndpointAnswer::Granted { .. } => panic!("{status} has a token"),
                };
                let problem = Problem { identity: None, scope: None, remedy: String::new(), ..*problem };
                let shown = serde_json::to_string(&problem).unwrap();
                assert!(!leaks(&shown), "{status}: {shown}");
            }
        }
    }
}

#[test]
fn an_error_description_is_one_line_of_at_most_one_kibibyte() {
    let huge = "AADSTS1: \u{202e}\u{1b}[2J".to_owned() + &"x ".repeat(100_000) + "\u{2028}event=forged";
    let body = json!({"error": "a\"b", "error_description": huge, "trace_id": huge, "correlation_id": 1});
    let (problem, ..) = refused(answer(400, &body.to_string()));
    let without_claims = problem.detail.split(" (the federated").next().unwrap();
    assert!(without_claims.len() <= UntrustedText::LONGEST, "{}", without_claims.len());
    assert!(!problem.detail.contains(crate::untrusted::is_invisible), "{}", problem.detail);
    assert_eq!((problem.entra.error, problem.entra.trace_id), (None, None));
    for body in ["[1]", "7", "null", r#"{"error":null}"#, r#"{"error":{}}"#, r#"{"error":[],"error_codes":{}}"#] {
        refused(answer(400, body));
    }
}

#[test]
fn the_detail_names_a_missing_cluster() {
    let answer = read_answer(Err(CallFailure::NoSuchCluster), "entra", &spec(), &assertion(), NOW);
    let EndpointAnswer::Unreached { problem } = answer else { panic!("not rejected") };
    assert_eq!(problem.code, Code::ClusterMissing);
    assert!(problem.detail.contains("\"entra\""));
}

#[test]
fn retry_after_is_parsed_in_both_forms_and_capped() {
    let wait = |value: &str| refused(answer_with(429, "{}", Some(value))).2;
    assert_eq!(wait("7"), Some(Duration::from_secs(7)));
    assert_eq!(wait("99999999999"), Some(Duration::from_secs(3600)));
    let soon = std::time::UNIX_EPOCH + Duration::from_secs(NOW.unix_seconds() + 9);
    assert_eq!(wait(&httpdate::fmt_http_date(soon)), Some(Duration::from_secs(9)));
    assert_eq!(wait("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
    assert_eq!(wait("soon"), None);
}

#[test]
fn an_empty_body_is_named_in_place_of_a_text_that_ends_early() {
    for body in [&b""[..], b" \r\n"] {
        for problem in [no_answer(503, body, "entra", &assertion()), foreign_answer(502, body, "entra", &assertion())] {
            assert!(problem.detail.ends_with(": (no body)"), "{}", problem.detail);
        }
    }
}
