//! What the token endpoint issues and refuses, without a network.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fake_entra::{Answer, Credential, Cut, Directory, Fault, FaultKind, Issuer, TokenRequest};
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

/// A moment years away from the real one: nothing may look at the real clock.
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
    directory.register_credential(credential()).expect("the credential is right");
    directory
}

fn assertion() -> String {
    Issuer::new(ISSUER).service_account_token("payments", "payments", AUDIENCE, now(), HOUR)
}

/// Signs the claims of a right assertion, with these in place of its own; null takes one away.
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

/// A right request with these parameters in place of its own; an empty value takes one away.
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

fn ask(directory: &Directory, changes: &[(&str, &str)]) -> Answer {
    directory.token(TENANT, &form(changes), now())
}

fn body(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).expect("the body is JSON")
}

fn claims(answer: &Answer) -> Value {
    fake_entra::claims(body(answer)["access_token"].as_str().expect("a token")).expect("claims")
}

#[track_caller]
fn assert_refused(answer: &Answer, status: u16, error: &str, code: u64) {
    let body = body(answer);
    assert_eq!(
        (answer.status, body["error"].as_str(), body["error_codes"][0].as_u64()),
        (status, Some(error), Some(code))
    );
    let description = body["error_description"].as_str().expect("a description");
    assert!(description.starts_with(&format!("AADSTS{code}: ")), "{description}");
}

#[track_caller]
fn assert_issued(answer: &Answer) {
    assert_eq!(answer.status, 200, "{}", body(answer)["error_description"]);
}

fn refused_for(changes: &[(&str, &str)], status: u16, error: &str, code: u64) {
    assert_refused(&ask(&directory(), changes), status, error, code);
}

fn refused_assertion(assertion: &str, status: u16, error: &str, code: u64) {
    refused_for(&[("client_assertion", assertion)], status, error, code);
}

// What is issued.

#[test]
fn a_projected_service_account_token_is_exchanged() {
    let answer = ask(&directory(), &[]);
    assert_issued(&answer);
    let body = body(&answer);
    assert_eq!(body["token_type"], "Bearer");
    assert_eq!(body["expires_in"], 3599);
    assert_eq!(body["ext_expires_in"], 3599);
    assert_eq!(body.get("refresh_in"), None);
    let claims = claims(&answer);
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
    key.verify_token::<NoCustomClaims>(&token, Some(options)).expect("the signature is right");
    let metadata = Token::decode_metadata(&token).expect("a header");
    assert_eq!(metadata.key_id(), directory.jwks()["keys"][0]["kid"].as_str());
}

#[test]
fn it_knows_its_own_tokens_while_they_are_valid() {
    let directory = directory();
    let token = body(&directory.token(TENANT, &form(&[]), now()))["access_token"].as_str().expect("a token").to_owned();
    assert!(directory.issued(&token, now()));
    assert!(!directory.issued(&token, now() + 2 * HOUR), "it has ended");
    assert!(!directory.issued(&assertion(), now()), "another has signed it");
    assert!(!directory.issued(token.trim_end_matches(|end| end != '.'), now()), "nobody has signed it");
}

#[test]
fn every_token_is_another_one() {
    let directory = directory();
    assert_ne!(claims(&ask(&directory, &[]))["uti"], claims(&ask(&directory, &[]))["uti"]);
}

#[test]
fn the_audience_is_the_resource_as_asked_for() {
    let answer = ask(&directory(), &[("scope", "https://vault.azure.net//.default")]);
    assert_issued(&answer);
    assert_eq!(claims(&answer)["aud"], "https://vault.azure.net/");
}

#[test]
fn an_application_as_the_resource_takes_v2_tokens() {
    let directory = directory();
    directory.register_resource_v2("api://orders", "99999999-0000-0000-0000-000000000001");
    let answer = ask(&directory, &[("scope", "api://orders/.default")]);
    assert_issued(&answer);
    let claims = claims(&answer);
    assert_eq!(claims["aud"], "99999999-0000-0000-0000-000000000001");
    assert_eq!(claims["iss"], format!("https://login.microsoftonline.com/{TENANT}/v2.0"));
    assert_eq!((&claims["azp"], &claims["appid"]), (&json!(CLIENT), &json!(CLIENT)));
    assert_eq!(claims["ver"], "2.0");
}

#[test]
fn an_api_resource_is_v2_with_the_client_id_in_its_name() {
    let directory = directory();
    directory.register_resource("api://99999999-0000-0000-0000-000000000002");
    let answer = ask(&directory, &[("scope", "api://99999999-0000-0000-0000-000000000002/.default")]);
    assert_eq!(claims(&answer)["aud"], "99999999-0000-0000-0000-000000000002");
    assert_issued(&ask(&directory, &[("scope", "99999999-0000-0000-0000-000000000002/.default")]));
}

#[test]
fn the_scopes_of_openid_connect_are_tolerated() {
    assert_issued(&ask(&directory(), &[("scope", "https://vault.azure.net/.default openid offline_access profile")]));
}

#[test]
fn a_single_audience_as_a_string_is_accepted() {
    assert_issued(&ask(&directory(), &[("client_assertion", &assertion_with(json!({ "aud": AUDIENCE })))]));
}

#[test]
fn an_assertion_without_nbf_is_accepted() {
    assert_issued(&ask(&directory(), &[("client_assertion", &assertion_with(json!({ "nbf": null, "iat": null })))]));
}

// The request.

#[test]
fn a_missing_parameter_is_named() {
    for name in ["grant_type", "client_id", "scope", "client_assertion_type"] {
        let answer = ask(&directory(), &[(name, "")]);
        assert_refused(&answer, 400, "invalid_request", 900144);
        assert!(body(&answer)["error_description"].as_str().is_some_and(|text| text.contains(&format!("'{name}'"))));
    }
}

#[test]
fn another_grant_type_is_refused_with_70003() {
    refused_for(&[("grant_type", "password")], 400, "unsupported_grant_type", 70003);
}

#[test]
fn a_parameter_that_comes_twice_is_refused_with_9000411() {
    let mut form = form(&[]);
    form.extend_from_slice(b"&scope=x");
    assert_refused(&directory().token(TENANT, &form, now()), 400, "invalid_request", 9000411);
}

#[test]
fn a_resource_parameter_is_refused_with_901002() {
    refused_for(&[("resource", "https://vault.azure.net")], 400, "invalid_request", 901002);
}

#[test]
fn an_unknown_tenant_is_refused_with_90002() {
    let answer = directory().token("99999999-2222-3333-4444-555555555555", &form(&[]), now());
    assert_refused(&answer, 400, "invalid_request", 90002);
}

#[test]
fn a_name_for_all_tenants_is_refused_with_9001023() {
    assert_refused(&directory().token("common", &form(&[]), now()), 400, "invalid_request", 9001023);
}

#[test]
fn an_unknown_client_is_refused_with_700016() {
    refused_for(&[("client_id", "00000000-bbbb-cccc-dddd-eeeeeeeeeeee")], 400, "unauthorized_client", 700016);
}

#[test]
fn a_missing_assertion_is_refused_with_7000218() {
    refused_for(&[("client_assertion", ""), ("client_assertion_type", "")], 401, "invalid_client", 7000218);
}

#[test]
fn a_client_secret_is_refused_with_7000215() {
    refused_for(&[("client_assertion", ""), ("client_secret", "guess")], 401, "invalid_client", 7000215);
}

#[test]
fn another_assertion_type_is_refused_with_90011() {
    let saml = "urn:ietf:params:oauth:client-assertion-type:saml2-bearer";
    refused_for(&[("client_assertion_type", saml)], 400, "invalid_request", 90011);
}

#[test]
fn more_than_one_resource_is_refused_with_70011() {
    let two = "https://vault.azure.net/.default https://storage.azure.com/.default";
    refused_for(&[("scope", two)], 400, "invalid_scope", 70011);
}

#[test]
fn a_scope_that_does_not_end_in_default_is_refused_with_1002012() {
    refused_for(&[("scope", "https://vault.azure.net")], 400, "invalid_scope", 1002012);
    refused_for(&[("scope", "openid profile")], 400, "invalid_scope", 1002012);
}

#[test]
fn an_unknown_resource_is_refused_with_500011() {
    refused_for(&[("scope", "https://unknown.example/.default")], 400, "invalid_resource", 500011);
}

// The assertion.

#[test]
fn what_is_not_a_jwt_is_refused_with_50027() {
    for assertion in ["x", "a.b", "a.b.c", "e30.e30.", "e30.e30.x.y"] {
        refused_assertion(assertion, 400, "invalid_request", 50027);
    }
}

#[test]
fn a_newline_after_the_assertion_is_refused_with_50027() {
    refused_assertion(&format!("{}\n", assertion()), 400, "invalid_request", 50027);
}

#[test]
fn a_jwt_without_the_claims_of_an_assertion_is_refused_with_50027() {
    for claim in ["iss", "sub", "aud", "exp"] {
        refused_assertion(&assertion_with(json!({ claim: null })), 400, "invalid_request", 50027);
    }
    refused_assertion(&assertion_with(json!({ "exp": "tomorrow" })), 400, "invalid_request", 50027);
}

#[test]
fn other_algorithms_are_refused_with_5002730() {
    let claims = Claims::create(jwt_simple::prelude::Duration::from_hours(1)).with_issuer(ISSUER).with_subject(SUBJECT);
    let es256 = ES256KeyPair::generate().sign(claims.clone()).expect("signed");
    let hs256 = HS256Key::generate().authenticate(claims).expect("signed");
    // {"alg":"none"} and no signature.
    let none = format!("eyJhbGciOiJub25lIn0.{}.", assertion().split('.').nth(1).expect("claims"));
    for assertion in [es256, hs256, none] {
        refused_assertion(&assertion, 400, "invalid_request", 5002730);
    }
}

#[test]
fn a_token_of_entra_is_refused_with_700222() {
    let directory = directory();
    let token = body(&ask(&directory, &[]))["access_token"].as_str().expect("a token").to_owned();
    assert_refused(&ask(&directory, &[("client_assertion", &token)]), 401, "invalid_client", 700222);
    let by_issuer = assertion_with(json!({ "iss": format!("https://login.microsoftonline.com/{TENANT}/v2.0") }));
    refused_assertion(&by_issuer, 401, "invalid_client", 700222);
}

#[test]
fn another_issuer_is_refused_with_700211() {
    refused_assertion(&assertion_with(json!({ "iss": "https://other.example" })), 401, "invalid_client", 700211);
}

#[test]
fn a_trailing_slash_makes_another_issuer() {
    refused_assertion(&assertion_with(json!({ "iss": format!("{ISSUER}/") })), 401, "invalid_client", 700211);
}

#[test]
fn another_audience_is_refused_with_700212() {
    refused_assertion(&assertion_with(json!({ "aud": ["api://AKSIdentityBinding"] })), 401, "invalid_client", 700212);
}

#[test]
fn more_than_one_audience_is_refused_with_700212() {
    refused_assertion(&assertion_with(json!({ "aud": [AUDIENCE, "account"] })), 401, "invalid_client", 700212);
    refused_assertion(&assertion_with(json!({ "aud": [] })), 401, "invalid_client", 700212);
}

#[test]
fn another_subject_is_refused_with_700213() {
    let other = "system:serviceaccount:payments:other";
    refused_assertion(&assertion_with(json!({ "sub": other })), 401, "invalid_client", 700213);
}

#[test]
fn a_subject_that_differs_only_in_case_is_refused_with_7002138() {
    let other = "system:serviceaccount:Payments:payments";
    refused_assertion(&assertion_with(json!({ "sub": other })), 401, "invalid_client", 7002138);
}

#[test]
fn an_app_without_a_credential_is_refused_with_70025() {
    let directory = directory();
    directory.register_app(TENANT, "bbbbbbbb-bbbb-cccc-dddd-eeeeeeeeeeee");
    let answer = ask(&directory, &[("client_id", "bbbbbbbb-bbbb-cccc-dddd-eeeeeeeeeeee")]);
    assert_refused(&answer, 401, "invalid_client", 70025);
}

#[test]
fn a_key_that_the_issuer_does_not_publish_is_refused_with_7000272() {
    let rotated = Issuer::with_new_key(ISSUER).service_account_token("payments", "payments", AUDIENCE, now(), HOUR);
    refused_assertion(&rotated, 401, "invalid_client", 7000272);
}

#[test]
fn a_published_encryption_key_does_not_verify() {
    let directory = directory();
    let mut jwks = Issuer::new(ISSUER).jwks();
    jwks["keys"][0]["use"] = "enc".into();
    directory.trust_issuer(ISSUER, jwks);
    assert_refused(&ask(&directory, &[]), 401, "invalid_client", 7000272);
}

#[test]
fn a_signature_by_another_key_is_refused_with_700027() {
    let other = Issuer::with_new_key(ISSUER);
    let directory = directory();
    let mut jwks = other.jwks();
    jwks["keys"][0]["kid"] = Issuer::new(ISSUER).key_id().into();
    directory.trust_issuer(ISSUER, jwks);
    assert_refused(&ask(&directory, &[]), 401, "invalid_client", 700027);
}

#[test]
fn changed_claims_are_refused_with_700027() {
    let right = assertion();
    let changed = assertion_with(json!({ "jti": "changed" }));
    let parts = |token: &str| token.split('.').map(str::to_owned).collect::<Vec<_>>();
    let forged = format!("{}.{}.{}", parts(&right)[0], parts(&changed)[1], parts(&right)[2]);
    refused_assertion(&forged, 401, "invalid_client", 700027);
}

#[test]
fn an_issuer_whose_keys_cannot_be_fetched_is_refused_with_50166() {
    let directory = Directory::new();
    directory.register_resource("https://vault.azure.net");
    directory.register_credential(credential()).expect("the credential is right");
    assert_refused(&ask(&directory, &[]), 400, "invalid_request", 50166);
}

#[test]
fn an_assertion_outside_its_time_is_refused_with_700024() {
    refused_assertion(&assertion_with(json!({ "exp": seconds_from_now(-6) })), 401, "invalid_client", 700024);
    refused_assertion(&assertion_with(json!({ "nbf": seconds_from_now(6) })), 401, "invalid_client", 700024);
}

#[test]
fn five_seconds_of_clock_skew_are_granted() {
    let late = assertion_with(json!({ "exp": seconds_from_now(-5) }));
    let early = assertion_with(json!({ "nbf": seconds_from_now(5) }));
    for assertion in [late, early] {
        assert_issued(&ask(&directory(), &[("client_assertion", &assertion)]));
    }
}

#[test]
fn the_time_is_the_one_that_is_passed_in() {
    let form = form(&[]);
    assert_issued(&directory().token(TENANT, &form, now() + HOUR));
    assert_refused(&directory().token(TENANT, &form, now() + 2 * HOUR), 401, "invalid_client", 700024);
}

// The shape of a refusal.

#[test]
fn a_refusal_has_entras_shape() {
    let form = form(&[("client_assertion", "")]);
    let answer = directory().answer(&TokenRequest {
        tenant_id: TENANT,
        form: &form,
        authority: "https://login.microsoftonline.com",
        client_request_id: Some("c0ffee00-0000-0000-0000-000000000000"),
        now: now(),
    });
    let body = body(&answer);
    let text = std::str::from_utf8(&answer.body).expect("text");
    let keys = ["error", "error_description", "error_codes", "timestamp", "trace_id", "correlation_id", "error_uri"];
    let places: Vec<usize> =
        keys.iter().map(|key| text.find(&format!("\"{key}\":")).expect("the key is there")).collect();
    assert!(places.is_sorted(), "{text}");
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
fn no_refusal_repeats_the_assertion() {
    let assertion = assertion_with(json!({ "sub": "other" }));
    let answer = ask(&directory(), &[("client_assertion", &assertion)]);
    let text = String::from_utf8(answer.body.clone()).expect("text");
    assert!(assertion.split('.').all(|part| !text.contains(part)));
    assert!(!format!("{answer:?}").contains("AADSTS"));
}

// What can be configured.

#[test]
fn an_application_has_at_most_twenty_credentials() {
    let directory = Directory::new();
    let numbered = |number| Credential { subject: format!("subject-{number}"), ..credential() };
    for number in 0..20 {
        directory.register_credential(numbered(number)).expect("there is room");
    }
    assert!(directory.register_credential(numbered(20)).is_err());
}

#[test]
fn a_credential_that_entra_would_not_store_is_refused() {
    let directory = Directory::new();
    let long = "x".repeat(601);
    for wrong in [
        Credential { issuer: "https://issuer.example /".into(), ..credential() },
        Credential { issuer: long.clone(), ..credential() },
        Credential { subject: long.clone(), ..credential() },
        Credential { audience: long, ..credential() },
        Credential { audience: String::new(), ..credential() },
    ] {
        assert!(directory.register_credential(wrong).is_err());
    }
    directory.register_credential(credential()).expect("the credential is right");
    let same_pair = Credential { audience: "other".into(), ..credential() };
    assert!(directory.register_credential(same_pair).is_err());
}

// Faults and counts.

#[test]
fn requests_are_counted_by_outcome_and_by_identity() {
    let directory = directory();
    ask(&directory, &[]);
    ask(&directory, &[]);
    ask(&directory, &[("client_assertion", &assertion_with(json!({ "sub": "other" })))]);
    ask(&directory, &[("scope", "https://unknown.example/.default")]);
    let stats = directory.stats();
    assert_eq!((stats.token_requests, stats.issued), (4, 2));
    let refused: HashMap<&str, u64> = stats.refused.iter().map(|(code, count)| (code.as_str(), *count)).collect();
    assert_eq!(refused, HashMap::from([("AADSTS700213", 1), ("AADSTS500011", 1)]));
    assert_eq!(stats.by_key.iter().map(|key| key.count).collect::<Vec<_>>(), [3, 1]);
    assert_eq!(stats.by_key[0].client_id, CLIENT);
    directory.reset();
    assert_eq!(directory.stats().token_requests, 0);
    assert_issued(&ask(&directory, &[]));
}

#[test]
fn a_status_fault_answers_as_often_as_it_was_ordered() {
    let directory = directory();
    directory.add_faults(vec![Fault::status(503).times(2)]);
    assert_eq!(ask(&directory, &[]).status, 503);
    assert_eq!(ask(&directory, &[]).status, 503);
    assert_issued(&ask(&directory, &[]));
    assert_eq!(directory.stats().refused.get("HTTP503"), Some(&2));
}

#[test]
fn retry_after_is_sent_as_it_was_ordered() {
    let directory = directory();
    directory.add_faults(vec![Fault::retry_after("Fri, 31 Dec 1999 23:59:59 GMT")]);
    let answer = ask(&directory, &[]);
    assert_refused(&answer, 429, "temporarily_unavailable", 90055);
    let header = answer.headers.iter().find(|(name, _)| name == "retry-after").expect("a header");
    assert_eq!(header.1, "Fri, 31 Dec 1999 23:59:59 GMT");
}

#[test]
fn an_ordered_code_is_refused_in_entras_shape() {
    let directory = directory();
    directory.add_faults(vec![Fault::aadsts(700213), Fault::aadsts(90033)]);
    assert_refused(&ask(&directory, &[]), 401, "invalid_client", 700213);
    assert_refused(&ask(&directory, &[]), 503, "temporarily_unavailable", 90033);
}

#[test]
fn a_token_fault_changes_life_and_audience() {
    let directory = directory();
    directory.add_faults(vec![Fault::new(FaultKind::Token {
        expires_in: Some(86399),
        refresh_in: None,
        audience: Some("other".into()),
    })]);
    let answer = ask(&directory, &[]);
    assert_eq!((&body(&answer)["expires_in"], &body(&answer)["refresh_in"]), (&json!(86399), &json!(43199)));
    assert_eq!((&claims(&answer)["aud"], &claims(&answer)["exp"]), (&json!("other"), &seconds_from_now(86399)));
}

#[test]
fn transport_faults_are_left_to_the_transport() {
    let directory = directory();
    directory.add_faults(vec![
        Fault::new(FaultKind::Reset),
        Fault::new(FaultKind::Truncate),
        Fault::delay(Duration::from_millis(20)),
    ]);
    assert_eq!(ask(&directory, &[]).cut, Some(Cut::Reset));
    let truncated = ask(&directory, &[]);
    assert_eq!((truncated.cut, truncated.status), (Some(Cut::Truncate), 200));
    let delayed = ask(&directory, &[]);
    assert_eq!((delayed.delay, delayed.status), (Duration::from_millis(20), 200));
}

#[test]
fn a_fault_for_one_scope_spares_the_others() {
    let directory = directory();
    directory.register_resource("https://storage.azure.com");
    directory.add_faults(vec![Fault::aadsts(700024).for_scope(VAULT)]);
    assert_issued(&ask(&directory, &[("scope", "https://storage.azure.com/.default")]));
    assert_refused(&ask(&directory, &[]), 401, "invalid_client", 700024);
}
