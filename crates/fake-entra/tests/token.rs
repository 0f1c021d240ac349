//! Tests of what the token endpoint issues and rejects, without a network.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fake_entra::{Credential, Directory, Disconnect, Fault, FaultKind, Issuer, Response, TokenRequest};
use jwt_simple::prelude::{Claims, NoCustomClaims, Token};
use jwt_simple::prelude::{ECDSAP256KeyPairLike, ES256KeyPair, HS256Key, MACLike};
use serde_json::{Value, json};

const TENANT: &str = "11111111-2222-3333-4444-555555555555";
const CLIENT: &str = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee";
const ISSUER: &str = "https://issuer.example/cluster";
const SUBJECT: &str = "system:serviceaccount:payments:payments";
const AUDIENCE: &str = "api://AzureADTokenExchange";
const VAULT: &str = "https://vault.azure.net/.default";
const HOUR: Duration = Duration::from_secs(3600);

/// A fixed time, years away from the real one: nothing may read the real clock.
fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_795_333_935)
}

fn credential() -> Credential {
    Credential {
        tenant_id: TENANT.into(),
        client_id: CLIENT.into(),
        issuer: ISSUER.into(),
        subject: SUBJECT.into(),
        audience: AUDIENCE.into(),
    }
}

fn directory() -> Directory {
    let directory = Directory::new();
    directory.trust_issuer(ISSUER, Issuer::new(ISSUER).jwks());
    directory.register_resource("https://vault.azure.net");
    directory.register_credential(credential()).expect("the credential is valid");
    directory
}

fn assertion() -> String {
    Issuer::new(ISSUER).service_account_token("payments", "payments", AUDIENCE, now(), HOUR)
}

/// Signs the claims of a valid assertion with these changes; null removes a claim.
fn assertion_with(changes: Value) -> String {
    let seconds = now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let mut claims = json!({
        "iss": ISSUER, "sub": SUBJECT, "aud": [AUDIENCE],
        "iat": seconds, "nbf": seconds, "exp": seconds + 3600,
    });
    for (name, value) in changes.as_object().expect("an object") {
        match value {
            Value::Null => claims.as_object_mut().expect("an object").remove(name),
            value => claims.as_object_mut().expect("an object").insert(name.clone(), value.clone()),
        };
    }
    Issuer::new(ISSUER).sign(&claims)
}

fn seconds_from_now(seconds: i64) -> Value {
    let now = now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    (i64::try_from(now).expect("small") + seconds).into()
}

/// A valid request with these changes to its parameters; an empty value removes a parameter.
fn form(changes: &[(&str, &str)]) -> Vec<u8> {
    let assertion = assertion();
    let mut parameters = vec![
        ("grant_type", "client_credentials"),
        ("client_id", CLIENT),
        ("scope", VAULT),
        ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
        ("client_assertion", assertion.as_str()),
        ("client_info", "1"),
    ];
    for (name, value) in changes {
        parameters.retain(|(other, _)| other != name);
        if !value.is_empty() {
            parameters.push((name, value));
        }
    }
    form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish().into_bytes()
}

fn request_token(directory: &Directory, changes: &[(&str, &str)]) -> Response {
    directory.token(TENANT, &form(changes), now())
}

fn body(response: &Response) -> Value {
    serde_json::from_slice(&response.body).expect("the body is JSON")
}

fn claims(response: &Response) -> Value {
    fake_entra::claims(body(response)["access_token"].as_str().expect("a token")).expect("claims")
}

#[track_caller]
fn assert_rejected(response: &Response, status: u16, error: &str, code: u64) {
    let body = body(response);
    assert_eq!(
        (response.status, body["error"].as_str(), body["error_codes"][0].as_u64()),
        (status, Some(error), Some(code))
    );
    let description = body["error_description"].as_str().expect("a description");
    assert!(description.starts_with(&format!("AADSTS{code}: ")), "{description}");
}

#[track_caller]
fn assert_issued(response: &Response) {
    assert_eq!(response.status, 200, "{}", body(response)["error_description"]);
}

fn assert_request_rejected(changes: &[(&str, &str)], status: u16, error: &str, code: u64) {
    assert_rejected(&request_token(&directory(), changes), status, error, code);
}

fn assert_assertion_rejected(assertion: &str, status: u16, error: &str, code: u64) {
    assert_request_rejected(&[("client_assertion", assertion)], status, error, code);
}

// Issued tokens.

#[test]
fn a_projected_service_account_token_is_exchanged() {
    let response = request_token(&directory(), &[]);
    assert_issued(&response);
    let body = body(&response);
    assert_eq!(body["token_type"], "Bearer");
    assert_eq!(body["expires_in"], 3599);
    assert_eq!(body["ext_expires_in"], 3599);
    assert_eq!(body.get("refresh_in"), None);
    let claims = claims(&response);
    assert_eq!(claims["aud"], "https://vault.azure.net");
    assert_eq!(claims["iss"], format!("https://sts.windows.net/{TENANT}/"));
    assert_eq!(claims["tid"], TENANT);
    assert_eq!(claims["appid"], CLIENT);
    assert_eq!(claims["ver"], "1.0");
    assert_eq!(claims["oid"], claims["sub"]);
    assert_eq!(claims["exp"], seconds_from_now(3599));
    assert_eq!(claims["nbf"], claims["iat"]);
}

#[test]
fn the_access_token_is_signed_with_the_published_key() {
    use jwt_simple::prelude::{RS256PublicKey, RSAPublicKeyLike, VerificationOptions};
    let directory = directory();
    let token = body(&directory.token(TENANT, &form(&[]), now()))["access_token"].as_str().expect("a token").to_owned();
    let key = RS256PublicKey::from_jwk(&directory.jwks()["keys"][0].to_string()).expect("a key");
    let at = jwt_simple::prelude::UnixTimeStamp::from_secs(1_795_333_935);
    let options = VerificationOptions { artificial_time: Some(at), ..VerificationOptions::default() };
    key.verify_token::<NoCustomClaims>(&token, Some(options)).expect("the signature is valid");
    let metadata = Token::decode_metadata(&token).expect("a header");
    assert_eq!(metadata.key_id(), directory.jwks()["keys"][0]["kid"].as_str());
}

#[test]
fn it_recognizes_its_own_tokens_while_they_are_valid() {
    let directory = directory();
    let token = body(&directory.token(TENANT, &form(&[]), now()))["access_token"].as_str().expect("a token").to_owned();
    assert!(directory.issued(&token, now()));
    assert!(!directory.issued(&token, now() + 2 * HOUR), "it has expired");
    assert!(!directory.issued(&assertion(), now()), "it is signed with another key");
    assert!(!directory.issued(token.trim_end_matches(|end| end != '.'), now()), "it has no signature");
}

#[test]
fn every_token_is_unique() {
    let directory = directory();
    assert_ne!(claims(&request_token(&directory, &[]))["uti"], claims(&request_token(&directory, &[]))["uti"]);
}

#[test]
fn the_audience_is_the_resource_as_requested() {
    let response = request_token(&directory(), &[("scope", "https://vault.azure.net//.default")]);
    assert_issued(&response);
    assert_eq!(claims(&response)["aud"], "https://vault.azure.net/");
}

#[test]
fn a_resource_that_is_an_application_gets_v2_tokens() {
    let directory = directory();
    directory.register_resource_v2("api://orders", "99999999-0000-0000-0000-000000000001");
    let response = request_token(&directory, &[("scope", "api://orders/.default")]);
    assert_issued(&response);
    let claims = claims(&response);
    assert_eq!(claims["aud"], "99999999-0000-0000-0000-000000000001");
    assert_eq!(claims["iss"], format!("https://login.microsoftonline.com/{TENANT}/v2.0"));
    assert_eq!((&claims["azp"], &claims["appid"]), (&json!(CLIENT), &json!(CLIENT)));
    assert_eq!(claims["ver"], "2.0");
}

#[test]
fn an_api_resource_is_v2_with_the_client_id_in_its_name() {
    let directory = directory();
    directory.register_resource("api://99999999-0000-0000-0000-000000000002");
    let response = request_token(&directory, &[("scope", "api://99999999-0000-0000-0000-000000000002/.default")]);
    assert_eq!(claims(&response)["aud"], "99999999-0000-0000-0000-000000000002");
    assert_issued(&request_token(&directory, &[("scope", "99999999-0000-0000-0000-000000000002/.default")]));
}

#[test]
fn the_scopes_of_openid_connect_are_ignored() {
    assert_issued(&request_token(
        &directory(),
        &[("scope", "https://vault.azure.net/.default openid offline_access profile")],
    ));
}

#[test]
fn a_single_audience_as_a_string_is_accepted() {
    assert_issued(&request_token(&directory(), &[("client_assertion", &assertion_with(json!({ "aud": AUDIENCE })))]));
}

#[test]
fn an_assertion_without_nbf_is_accepted() {
    assert_issued(&request_token(
        &directory(),
        &[("client_assertion", &assertion_with(json!({ "nbf": null, "iat": null })))],
    ));
}

// The request.

#[test]
fn a_missing_parameter_is_named() {
    for name in ["grant_type", "client_id", "scope", "client_assertion_type"] {
        let response = request_token(&directory(), &[(name, "")]);
        assert_rejected(&response, 400, "invalid_request", 900144);
        assert!(body(&response)["error_description"].as_str().is_some_and(|text| text.contains(&format!("'{name}'"))));
    }
}

#[test]
fn an_unsupported_grant_type_is_rejected_with_70003() {
    assert_request_rejected(&[("grant_type", "password")], 400, "unsupported_grant_type", 70003);
}

#[test]
fn a_duplicate_parameter_is_rejected_with_9000411() {
    let mut form = form(&[]);
    form.extend_from_slice(b"&scope=x");
    assert_rejected(&directory().token(TENANT, &form, now()), 400, "invalid_request", 9000411);
}

#[test]
fn a_resource_parameter_is_rejected_with_901002() {
    assert_request_rejected(&[("resource", "https://vault.azure.net")], 400, "invalid_request", 901002);
}

#[test]
fn an_unknown_tenant_is_rejected_with_90002() {
    let response = directory().token("99999999-2222-3333-4444-555555555555", &form(&[]), now());
    assert_rejected(&response, 400, "invalid_request", 90002);
}

#[test]
fn a_multi_tenant_name_is_rejected_with_9001023() {
    assert_rejected(&directory().token("common", &form(&[]), now()), 400, "invalid_request", 9001023);
}

#[test]
fn an_unknown_client_is_rejected_with_700016() {
    assert_request_rejected(
        &[("client_id", "00000000-bbbb-cccc-dddd-eeeeeeeeeeee")],
        400,
        "unauthorized_client",
        700016,
    );
}

#[test]
fn a_missing_assertion_is_rejected_with_7000218() {
    assert_request_rejected(&[("client_assertion", ""), ("client_assertion_type", "")], 401, "invalid_client", 7000218);
}

#[test]
fn a_client_secret_is_rejected_with_7000215() {
    assert_request_rejected(&[("client_assertion", ""), ("client_secret", "guess")], 401, "invalid_client", 7000215);
}

#[test]
fn an_unsupported_assertion_type_is_rejected_with_90011() {
    let saml = "urn:ietf:params:oauth:client-assertion-type:saml2-bearer";
    assert_request_rejected(&[("client_assertion_type", saml)], 400, "invalid_request", 90011);
}

#[test]
fn more_than_one_resource_is_rejected_with_70011() {
    let two = "https://vault.azure.net/.default https://storage.azure.com/.default";
    assert_request_rejected(&[("scope", two)], 400, "invalid_scope", 70011);
}

#[test]
fn a_scope_that_does_not_end_in_default_is_rejected_with_1002012() {
    assert_request_rejected(&[("scope", "https://vault.azure.net")], 400, "invalid_scope", 1002012);
    assert_request_rejected(&[("scope", "openid profile")], 400, "invalid_scope", 1002012);
}

#[test]
fn an_unknown_resource_is_rejected_with_500011() {
    assert_request_rejected(&[("scope", "https://unknown.example/.default")], 400, "invalid_resource", 500011);
}

// The assertion.

#[test]
fn an_assertion_that_is_not_a_jwt_is_rejected_with_50027() {
    for assertion in ["x", "a.b", "a.b.c", "e30.e30.", "e30.e30.x.y"] {
        assert_assertion_rejected(assertion, 400, "invalid_request", 50027);
    }
}

#[test]
fn a_newline_after_the_assertion_is_rejected_with_50027() {
    assert_assertion_rejected(&format!("{}\n", assertion()), 400, "invalid_request", 50027);
}

#[test]
fn a_jwt_without_the_claims_of_an_assertion_is_rejected_with_50027() {
    for claim in ["iss", "sub", "aud", "exp"] {
        assert_assertion_rejected(&assertion_with(json!({ claim: null })), 400, "invalid_request", 50027);
    }
    assert_assertion_rejected(&assertion_with(json!({ "exp": "tomorrow" })), 400, "invalid_request", 50027);
}

#[test]
fn unsupported_algorithms_are_rejected_with_5002730() {
    let claims = Claims::create(jwt_simple::prelude::Duration::from_hours(1)).with_issuer(ISSUER).with_subject(SUBJECT);
    let es256 = ES256KeyPair::generate().sign(claims.clone()).expect("signed");
    let hs256 = HS256Key::generate().authenticate(claims).expect("signed");
    // {"alg":"none"} and no signature.
    let none = format!("eyJhbGciOiJub25lIn0.{}.", assertion().split('.').nth(1).expect("claims"));
    for assertion in [es256, hs256, none] {
        assert_assertion_rejected(&assertion, 400, "invalid_request", 5002730);
    }
}

#[test]
fn a_token_issued_by_entra_is_rejected_with_700222() {
    let directory = directory();
    let token = body(&request_token(&directory, &[]))["access_token"].as_str().expect("a token").to_owned();
    assert_rejected(&request_token(&directory, &[("client_assertion", &token)]), 401, "invalid_client", 700222);
    let entra_issuer = assertion_with(json!({ "iss": format!("https://login.microsoftonline.com/{TENANT}/v2.0") }));
    assert_assertion_rejected(&entra_issuer, 401, "invalid_client", 700222);
}

#[test]
fn an_unknown_issuer_is_rejected_with_700211() {
    assert_assertion_rejected(
        &assertion_with(json!({ "iss": "https://other.example" })),
        401,
        "invalid_client",
        700211,
    );
}

#[test]
fn an_issuer_with_an_added_trailing_slash_is_rejected_with_700211() {
    assert_assertion_rejected(&assertion_with(json!({ "iss": format!("{ISSUER}/") })), 401, "invalid_client", 700211);
}

#[test]
fn a_wrong_audience_is_rejected_with_700212() {
    assert_assertion_rejected(
        &assertion_with(json!({ "aud": ["api://AKSIdentityBinding"] })),
        401,
        "invalid_client",
        700212,
    );
}

#[test]
fn more_than_one_audience_is_rejected_with_700212() {
    assert_assertion_rejected(&assertion_with(json!({ "aud": [AUDIENCE, "account"] })), 401, "invalid_client", 700212);
    assert_assertion_rejected(&assertion_with(json!({ "aud": [] })), 401, "invalid_client", 700212);
}

#[test]
fn a_wrong_subject_is_rejected_with_700213() {
    let other = "system:serviceaccount:payments:other";
    assert_assertion_rejected(&assertion_with(json!({ "sub": other })), 401, "invalid_client", 700213);
}

#[test]
fn a_subject_that_differs_only_in_case_is_rejected_with_7002138() {
    let other = "system:serviceaccount:Payments:payments";
    assert_assertion_rejected(&assertion_with(json!({ "sub": other })), 401, "invalid_client", 7002138);
}

#[test]
fn an_app_without_a_credential_is_rejected_with_70025() {
    let directory = directory();
    directory.register_app(TENANT, "bbbbbbbb-bbbb-cccc-dddd-eeeeeeeeeeee");
    let response = request_token(&directory, &[("client_id", "bbbbbbbb-bbbb-cccc-dddd-eeeeeeeeeeee")]);
    assert_rejected(&response, 401, "invalid_client", 70025);
}

#[test]
fn a_key_that_the_issuer_does_not_publish_is_rejected_with_7000272() {
    let rotated = Issuer::with_new_key(ISSUER).service_account_token("payments", "payments", AUDIENCE, now(), HOUR);
    assert_assertion_rejected(&rotated, 401, "invalid_client", 7000272);
}

#[test]
fn a_published_encryption_key_does_not_verify() {
    let directory = directory();
    let mut jwks = Issuer::new(ISSUER).jwks();
    jwks["keys"][0]["use"] = "enc".into();
    directory.trust_issuer(ISSUER, jwks);
    assert_rejected(&request_token(&directory, &[]), 401, "invalid_client", 7000272);
}

#[test]
fn a_signature_by_another_key_is_rejected_with_700027() {
    let other = Issuer::with_new_key(ISSUER);
    let directory = directory();
    let mut jwks = other.jwks();
    jwks["keys"][0]["kid"] = Issuer::new(ISSUER).key_id().into();
    directory.trust_issuer(ISSUER, jwks);
    assert_rejected(&request_token(&directory, &[]), 401, "invalid_client", 700027);
}

#[test]
fn changed_claims_are_rejected_with_700027() {
    let original = assertion();
    let changed = assertion_with(json!({ "jti": "changed" }));
    let parts = |token: &str| token.split('.').map(str::to_owned).collect::<Vec<_>>();
    let forged = format!("{}.{}.{}", parts(&original)[0], parts(&changed)[1], parts(&original)[2]);
    assert_assertion_rejected(&forged, 401, "invalid_client", 700027);
}

#[test]
fn an_issuer_whose_keys_cannot_be_fetched_is_rejected_with_50166() {
    let directory = Directory::new();
    directory.register_resource("https://vault.azure.net");
    directory.register_credential(credential()).expect("the credential is valid");
    assert_rejected(&request_token(&directory, &[]), 400, "invalid_request", 50166);
}

#[test]
fn an_assertion_outside_its_validity_period_is_rejected_with_700024() {
    assert_assertion_rejected(&assertion_with(json!({ "exp": seconds_from_now(-6) })), 401, "invalid_client", 700024);
    assert_assertion_rejected(&assertion_with(json!({ "nbf": seconds_from_now(6) })), 401, "invalid_client", 700024);
}

#[test]
fn five_seconds_of_clock_skew_are_tolerated() {
    let late = assertion_with(json!({ "exp": seconds_from_now(-5) }));
    let early = assertion_with(json!({ "nbf": seconds_from_now(5) }));
    for assertion in [late, early] {
        assert_issued(&request_token(&directory(), &[("client_assertion", &assertion)]));
    }
}

#[test]
fn the_current_time_is_a_parameter() {
    let form = form(&[]);
    assert_issued(&directory().token(TENANT, &form, now() + HOUR));
    assert_rejected(&directory().token(TENANT, &form, now() + 2 * HOUR), 401, "invalid_client", 700024);
}

// The format of an error response.

#[test]
fn an_error_response_has_entras_format() {
    let form = form(&[("client_assertion", "")]);
    let response = directory().respond(&TokenRequest {
        tenant_id: TENANT,
        form: &form,
        authority: "https://login.microsoftonline.com",
        client_request_id: Some("c0ffee00-0000-0000-0000-000000000000"),
        now: now(),
    });
    let body = body(&response);
    let text = std::str::from_utf8(&response.body).expect("text");
    let keys = ["error", "error_description", "error_codes", "timestamp", "trace_id", "correlation_id", "error_uri"];
    let positions: Vec<usize> =
        keys.iter().map(|key| text.find(&format!("\"{key}\":")).expect("the key is there")).collect();
    assert!(positions.is_sorted(), "{text}");
    assert_eq!(body.as_object().map(|object| object.len()), Some(keys.len()));
    assert_eq!(body["correlation_id"], "c0ffee00-0000-0000-0000-000000000000");
    assert_eq!(body["timestamp"], "2026-11-22 07:52:15Z");
    assert_eq!(body["error_uri"], "https://login.microsoftonline.com/error?code=7000218");
    assert_eq!(
        body["error_description"].as_str().expect("text"),
        format!(
            "AADSTS7000218: The request body must contain the following parameter: 'client_assertion' or \
             'client_secret'.\r\nTrace ID: {}\r\nCorrelation ID: c0ffee00-0000-0000-0000-000000000000\r\n\
             Timestamp: 2026-11-22 07:52:15Z",
            body["trace_id"].as_str().expect("text")
        )
    );
}

#[test]
fn no_error_response_contains_the_assertion() {
    let assertion = assertion_with(json!({ "sub": "other" }));
    let response = request_token(&directory(), &[("client_assertion", &assertion)]);
    let text = String::from_utf8(response.body.clone()).expect("text");
    assert!(assertion.split('.').all(|part| !text.contains(part)));
    assert!(!format!("{response:?}").contains("AADSTS"));
}

// Configuration limits.

#[test]
fn an_application_has_at_most_twenty_credentials() {
    let directory = Directory::new();
    let numbered = |number| Credential { subject: format!("subject-{number}"), ..credential() };
    for number in 0..20 {
        directory.register_credential(numbered(number)).expect("the maximum is 20");
    }
    assert!(directory.register_credential(numbered(20)).is_err());
}

#[test]
fn a_credential_that_entra_does_not_accept_is_rejected() {
    let directory = Directory::new();
    let long = "x".repeat(601);
    for invalid in [
        Credential { issuer: "https://issuer.example /".into(), ..credential() },
        Credential { issuer: long.clone(), ..credential() },
        Credential { subject: long.clone(), ..credential() },
        Credential { audience: long, ..credential() },
        Credential { audience: String::new(), ..credential() },
    ] {
        assert!(directory.register_credential(invalid).is_err());
    }
    directory.register_credential(credential()).expect("the credential is valid");
    let same_pair = Credential { audience: "other".into(), ..credential() };
    assert!(directory.register_credential(same_pair).is_err());
}

// Faults and counters.

#[test]
fn requests_are_counted_by_result_and_by_identity() {
    let directory = directory();
    request_token(&directory, &[]);
    request_token(&directory, &[]);
    request_token(&directory, &[("client_assertion", &assertion_with(json!({ "sub": "other" })))]);
    request_token(&directory, &[("scope", "https://unknown.example/.default")]);
    let stats = directory.stats();
    assert_eq!((stats.token_requests, stats.issued), (4, 2));
    let rejected: HashMap<&str, u64> = stats.rejected.iter().map(|(code, count)| (code.as_str(), *count)).collect();
    assert_eq!(rejected, HashMap::from([("AADSTS700213", 1), ("AADSTS500011", 1)]));
    assert_eq!(stats.by_key.iter().map(|key| key.count).collect::<Vec<_>>(), [3, 1]);
    assert_eq!(stats.by_key[0].client_id, CLIENT);
    directory.reset();
    assert_eq!(directory.stats().token_requests, 0);
    assert_issued(&request_token(&directory, &[]));
}

#[test]
fn a_status_fault_applies_to_the_configured_number_of_requests() {
    let directory = directory();
    directory.add_faults(vec![Fault::status(503).times(2)]);
    assert_eq!(request_token(&directory, &[]).status, 503);
    assert_eq!(request_token(&directory, &[]).status, 503);
    assert_issued(&request_token(&directory, &[]));
    assert_eq!(directory.stats().rejected.get("HTTP503"), Some(&2));
}

#[test]
fn retry_after_is_sent_unchanged() {
    let directory = directory();
    directory.add_faults(vec![Fault::retry_after("Fri, 31 Dec 1999 23:59:59 GMT")]);
    let response = request_token(&directory, &[]);
    assert_rejected(&response, 429, "temporarily_unavailable", 90055);
    let header = response.headers.iter().find(|(name, _)| name == "retry-after").expect("a header");
    assert_eq!(header.1, "Fri, 31 Dec 1999 23:59:59 GMT");
}

#[test]
fn an_aadsts_fault_has_entras_format() {
    let directory = directory();
    directory.add_faults(vec![Fault::aadsts(700213), Fault::aadsts(90033)]);
    assert_rejected(&request_token(&directory, &[]), 401, "invalid_client", 700213);
    assert_rejected(&request_token(&directory, &[]), 503, "temporarily_unavailable", 90033);
}

#[test]
fn a_token_fault_changes_lifetime_and_audience() {
    let directory = directory();
    directory.add_faults(vec![Fault::new(FaultKind::Token {
        expires_in: Some(86399),
        refresh_in: None,
        audience: Some("other".into()),
    })]);
    let response = request_token(&directory, &[]);
    assert_eq!((&body(&response)["expires_in"], &body(&response)["refresh_in"]), (&json!(86399), &json!(43199)));
    assert_eq!((&claims(&response)["aud"], &claims(&response)["exp"]), (&json!("other"), &seconds_from_now(86399)));
}

#[test]
fn transport_faults_are_returned_to_the_transport() {
    let directory = directory();
    directory.add_faults(vec![
        Fault::new(FaultKind::Reset),
        Fault::new(FaultKind::Truncate),
        Fault::delay(Duration::from_millis(20)),
    ]);
    assert_eq!(request_token(&directory, &[]).disconnect, Some(Disconnect::Reset));
    let truncated = request_token(&directory, &[]);
    assert_eq!((truncated.disconnect, truncated.status), (Some(Disconnect::Truncate), 200));
    let delayed = request_token(&directory, &[]);
    assert_eq!((delayed.delay, delayed.status), (Duration::from_millis(20), 200));
}

#[test]
fn a_fault_for_one_scope_does_not_affect_other_scopes() {
    let directory = directory();
    directory.register_resource("https://storage.azure.com");
    directory.add_faults(vec![Fault::aadsts(700024).for_scope(VAULT)]);
    assert_issued(&request_token(&directory, &[("scope", "https://storage.azure.com/.default")]));
    assert_rejected(&request_token(&directory, &[]), 401, "invalid_client", 700024);
}
