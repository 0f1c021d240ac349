//! Tests of HTTP sources: the request, the answer, and the chain of sources.

mod platforms;

use serde_json::{Value, json};

use super::super::tests::{NOW, claims, jwt};
use super::super::{Alone, Assertions, ReadResult, Source, Wait};
use super::*;
use crate::config::Config;
use crate::http::{CallFailure, CallResponse};

const BEARER: &str = "bearer-of-the-job-0123456789";

fn variable(name: &str) -> Option<String> {
    let value = match name {
        "AZURE_TENANT_ID" => "11111111-1111-4111-8111-111111111111",
        "AZURE_CLIENT_ID" => "aaaaaaaa-0000-4000-8000-000000000001",
        "ACTIONS_ID_TOKEN_REQUEST_URL" => {
            "https://run.actions.githubusercontent.com//idtoken/8a1f%2D27?api-version=2.0"
        }
        "SYSTEM_OIDCREQUESTURI" => "https://dev.azure.com/contoso/_apis/oidctoken",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN" | "SYSTEM_ACCESSTOKEN" => BEARER,
        "STS_SECRET" => "a:b c/ä",
        "API_KEY" => "key-0123456789",
        _ => return None,
    };
    Some(value.to_owned())
}

/// The source of the default identity in a configuration with these assertions, the first of which is its own.
fn source_of(assertions: Value) -> Source {
    let name = assertions[0]["name"].clone();
    let text = json!({
        "assertions": assertions, "identities": [{"assertion": name}],
        "destinations": [{"hosts": ["a.example"], "scope": "https://vault.azure.net/.default"}],
    });
    let config = Config::parse(text.to_string().as_bytes(), &variable).unwrap_or_else(|found| panic!("{found:?}"));
    config.identities[0].spec("s/.default").unwrap().assertion().clone()
}

fn one(mut assertion: Value) -> Source {
    assertion["name"] = json!("a");
    source_of(json!([assertion]))
}

fn github() -> Source {
    one(json!({"source": "github_actions", "cluster": "github"}))
}

fn general(request: Value) -> Source {
    one(json!({"source": "http", "cluster": "sts", "request": request, "response": {"token": "/token"}}))
}

fn answer(status: u16, body: &str) -> CallResult {
    let body = body.as_bytes().to_vec();
    Ok(CallResponse { status, retry_after: None, request_id: None, grpc: None, body, is_envoys_own: false })
}

fn token_with(name: &str, value: Value) -> String {
    let mut claims = claims();
    claims["aud"] = json!("api://AzureADTokenExchange");
    claims[name] = value;
    jwt(&json!({"alg": "RS256", "kid": "k"}), &claims)
}

fn token() -> String {
    token_with("jti", json!(1))
}

fn value(token: &str) -> CallResult {
    answer(200, &json!({"value": token}).to_string())
}

fn problem(source: &Source, answer: CallResult) -> Problem {
    source.read(answer, None, NOW).err().unwrap()
}

fn header<'a>(call: &'a HttpCall, name: &str) -> Option<&'a str> {
    call.headers.iter().find(|(other, _)| other == name).map(|(_, value)| &**value)
}

#[test]
fn a_url_from_the_environment_is_kept_byte_for_byte_and_the_audience_is_added_to_its_query() {
    let call = github().call(None);
    assert_eq!((call.method, call.cluster.as_str()), ("GET", "github"));
    assert_eq!(call.authority, "run.actions.githubusercontent.com");
    assert_eq!(call.path, "//idtoken/8a1f%2D27?api-version=2.0&audience=api%3A%2F%2FAzureADTokenExchange");
    assert_eq!(header(&call, "authorization"), Some("Bearer bearer-of-the-job-0123456789"));
    let source = json!({"source": "azure_pipelines", "cluster": "azure", "service_connection_id": "c 1"});
    let call = one(source).call(None);
    assert_eq!(
        (call.method, call.path.as_str()),
        ("POST", "/contoso/_apis/oidctoken?api-version=7.1&serviceConnectionId=c%201")
    );
    assert_eq!(header(&call, "x-tfs-fedauthredirect"), Some("Suppress"));
}

#[test]
fn a_clients_id_and_secret_are_form_encoded_before_they_are_joined() {
    let request = json!({"path": "/token", "form": {"scope": "a b"}, "basic_auth": {"id": "pay:1", "secret_from_env": "STS_SECRET"}});
    let call = general(request).call(None);
    // "pay%3A1:a%3Ab%20c%2F%C3%A4"
    assert_eq!(header(&call, "authorization"), Some("Basic cGF5JTNBMTphJTNBYiUyMGMlMkYlQzMlQTQ="));
    assert_eq!(header(&call, "content-type"), Some("application/x-www-form-urlencoded"));
    assert_eq!((call.method, call.body.as_slice()), ("POST", &b"scope=a+b"[..]));
}

#[test]
fn a_url_is_that_of_an_https_service_or_of_a_service_on_this_machine() {
    let parse = |url| Target::parse(url).map(|target| [target.authority, target.path].join(" "));
    for (url, expected) in [
        ("https://STS.example:8443/a/?b=C", "sts.example:8443 /a/?b=C"),
        ("https://sts.example?b", "sts.example /?b"),
        ("https://sts.example", "sts.example /"),
        ("http://localhost:2772/x", "localhost:2772 /x"),
        ("http://127.3.2.1/", "127.3.2.1 /"),
        ("http://169.254.169.254/metadata", "169.254.169.254 /metadata"),
    ] {
        assert_eq!(parse(url).as_deref(), Some(expected));
    }
    for url in [
        "http://sts.example/",
        "http://10.0.0.1/",
        "sts.example",
        "https://",
        "https:///a",
        "https://a@sts.example/",
        "https://sts.example/#a",
        "https://sts.example/a b",
        "https://sts.example/\n",
        "https://sts.example/ä",
    ] {
        assert_eq!(parse(url), None, "{url}");
    }
}

#[test]
fn a_request_has_the_configured_query_headers_and_body() {
    let request = json!({
        "path": "/v2/tokens?x=1", "authority": "STS.example", "query": {"für": "a&b"}, "headers": {"X-Tenant": "t"},
        "headers_from_env": {"X-Api-Key": "API_KEY"}, "body": "{\"audience\":\"a\"}",
    });
    let call = general(request).call(None);
    assert_eq!((call.authority.as_str(), call.path.as_str()), ("sts.example", "/v2/tokens?x=1&f%C3%BCr=a%26b"));
    assert_eq!((header(&call, "x-tenant"), header(&call, "x-api-key")), (Some("t"), Some("key-0123456789")));
    assert_eq!(header(&call, "content-type"), Some("application/json"));
    assert_eq!((call.method, call.body.as_slice()), ("POST", &b"{\"audience\":\"a\"}"[..]));
    let without_body = general(json!({"path": "/"})).call(None);
    assert_eq!((without_body.method, header(&without_body, "content-type")), ("GET", None));
    let own_type = json!({"path": "/", "headers": {"Content-Type": "text/plain"}, "body": "a"});
    let types = general(own_type).call(None).headers.into_iter().filter(|(name, _)| name == "content-type");
    assert_eq!(types.map(|(_, value)| value).collect::<Vec<_>>(), ["text/plain"]);
}

#[test]
fn a_json_object_is_sent_as_the_body_in_its_order() {
    let text = r#"{"z": {"audience": "a\"b", "ü": [true, null, -1.5]}, "a": [], "b": {}}"#;
    let request = json!({"path": "/", "json": serde_json::from_str::<Value>(text).unwrap()});
    let call = general(request.clone()).call(None);
    assert_eq!((call.method, header(&call, "content-type")), ("POST", Some("application/json")));
    // The order of a `Value` depends on the features of other crates.
    assert_eq!(String::from_utf8(call.body).unwrap(), request["json"].to_string());
}

#[test]
fn no_secret_is_shown_by_debug() {
    for source in [github(), general(json!({"path": "/", "form_from_env": {"client_secret": "STS_SECRET"}}))] {
        let shown = format!("{source:?}");
        assert!(!shown.contains("bearer-of") && !shown.contains("a:b c"), "{shown}");
    }
}

#[test]
fn a_json_pointer_has_escapes_and_indices() {
    let body = json!({"a/b": [{"m~n": token()}], "0": "x", "~1": "x"}).to_string();
    let with = |pointer: &str| {
        one(json!({"source": "http", "cluster": "sts", "request": {"path": "/"}, "response": {"token": pointer}}))
    };
    assert_eq!(with("/a~1b/0/m~0n").read(answer(200, &body), None, NOW).unwrap().expose(), token());
    // An index has no leading zero (RFC 6901, section 4).
    for pointer in ["/a~1b/00/m~0n", "/a~1b/-/m~0n", "/a~1b/1/m~0n", "/a/b/0/m~0n", "/~1"] {
        assert!(problem(&with(pointer), answer(200, &body)).detail.contains("has nothing at"), "{pointer}");
    }
}

#[test]
fn a_token_is_read_from_its_place_and_expires_when_the_source_says_so() {
    assert_eq!(github().read(value(&token()), None, NOW).unwrap().expose(), token());
    let body = json!({"value": token()}).to_string();
    let longest = [&body, " ".repeat(64 * 1024 - body.len()).as_str()].concat();
    assert!(github().read(answer(200, &longest), None, NOW).is_ok());
    let google = one(json!({"source": "google_metadata", "cluster": "google"}));
    assert_eq!(google.read(answer(200, &format!("{}\n", token())), None, NOW).unwrap().expose(), token());
    let with = |expiry: Value| {
        let response = json!({"token": "/token", "expiry": expiry});
        one(json!({"source": "http", "cluster": "sts", "request": {"path": "/"}, "response": response}))
    };
    let body = json!({"token": token(), "in": 60, "text": "61", "at": "2026-11-22T08:34:22Z", "not": []}).to_string();
    for (expiry, seconds) in [(json!({"seconds": "/in"}), 60), (json!({"seconds": "/text"}), 61)] {
        let assertion = with(expiry).read(answer(201, &body), None, NOW).unwrap();
        assert_eq!(assertion.lifetime().expires_at, NOW.plus(Duration::from_secs(seconds)));
    }
    let at = with(json!({"time": "/at"})).read(answer(200, &body), None, NOW).unwrap().lifetime().expires_at;
    assert_eq!(at, Timestamp::parse_rfc3339("2026-11-22T08:34:22Z").unwrap());
    for expiry in [json!({"seconds": "/not"}), json!({"seconds": "/none"}), json!({"time": "/in"})] {
        assert_eq!(problem(&with(expiry), answer(200, &body)).code, Code::SourceReplyInvalid);
    }
}

#[test]
fn each_bad_answer_has_a_problem_that_names_what_was_found() {
    let own = |status| Ok(CallResponse { is_envoys_own: true, ..answer(status, "").unwrap() });
    let huge = " ".repeat(64 * 1024 + 1);
    let expired = token_with("exp", json!(1_795_333_999_u64));
    let es256 = jwt(&json!({"alg": "ES256"}), &claims());
    for (answer, code, detail) in [
        (Err(CallFailure::NoSuchCluster), Code::ClusterMissing, "does not exist"),
        (own(503), Code::AssertionUnavailable, "could not be reached"),
        (own(504), Code::AssertionUnavailable, "within 10 s"),
        (answer(503, "busy"), Code::AssertionUnavailable, "503: \"busy\""),
        (answer(403, "Job is in Pending state"), Code::SourceNotReady, "Pending"),
        (answer(401, ""), Code::SourceRefused, "(no body)"),
        (answer(302, "<html>"), Code::SourceReplyInvalid, "redirect"),
        (answer(203, "<html>"), Code::SourceReplyInvalid, "sign-in page"),
        (answer(200, " <!DOCTYPE html>"), Code::SourceReplyInvalid, "HTML"),
        (answer(200, &huge), Code::SourceReplyInvalid, "65537 bytes"),
        (answer(200, "{\"value\":\"ey"), Code::SourceReplyInvalid, "incomplete"),
        (
            answer(200, "{\"value\":5}"),
            Code::SourceReplyInvalid,
            "the source github_actions (cluster \"github\") has no string at \"/value\"",
        ),
        (answer(200, "{\"valve\":\"\"}"), Code::SourceReplyInvalid, "nothing at \"/value\""),
        (value("opaque"), Code::AssertionMalformed, "not a JWT"),
        (value(&"a".repeat(16 * 1024 + 1)), Code::AssertionMalformed, "16385 bytes"),
        (value(&expired), Code::AssertionExpired, "expired"),
        (value(&es256), Code::AssertionInvalid, "ES256"),
        (value(&token_with("aud", json!(["a", "b"]))), Code::AssertionInvalid, "2 audiences"),
        (value(&token_with("aud", json!("other"))), Code::AssertionUnexpected, "expected audience"),
        (
            value(&token_with("iss", json!("https://login.microsoftonline.com/t/v2.0"))),
            Code::AssertionInvalid,
            "by Entra",
        ),
    ] {
        let found = problem(&github(), answer);
        assert!(found.code == code && found.detail.contains(detail), "{found:?}, expected {detail}");
        assert!(found.remedy.len() > 20 && !found.remedy.contains("watched_directory"), "{}", found.remedy);
    }
}

#[test]
fn a_token_of_entra_is_accepted_from_azure_pipelines_with_the_audience_as_a_guid() {
    let source = |cluster| json!({"source": "azure_pipelines", "cluster": cluster, "service_connection_id": "c"});
    let mut claims = claims();
    claims["iss"] = json!("https://login.microsoftonline.com/t/v2.0");
    claims["aud"] = json!("fb60f99c-7a34-4190-8149-302f77469936");
    let token = jwt(&json!({"alg": "RS256"}), &claims);
    assert!(one(source("azure")).read(answer(200, &json!({"oidcToken": token}).to_string()), None, NOW).is_ok());
}

#[test]
fn the_issuer_and_subject_must_be_the_expected_ones() {
    let expecting = |expect: Value| one(json!({"source": "github_actions", "cluster": "g", "expect": expect}));
    let (iss, sub) = (claims()["iss"].clone(), claims()["sub"].clone());
    assert!(expecting(json!({"iss": iss, "sub": sub})).read(value(&token()), None, NOW).is_ok());
    for expect in [json!({"iss": "https://other"}), json!({"sub": "other"})] {
        let found = problem(&expecting(expect), value(&token()));
        assert!(found.code == Code::AssertionUnexpected && found.detail.contains("system:serviceaccount"), "{found:?}");
    }
}

#[test]
fn the_audience_and_the_algorithm_must_be_the_expected_ones() {
    let expecting = |expect: Value| one(json!({"source": "github_actions", "cluster": "g", "expect": expect}));
    let es256 = |claims: &Value| jwt(&json!({"alg": "ES256"}), claims);
    let read = |source: &Source, token: &str| source.read(value(token), None, NOW);
    let other = token_with("aud", json!("other"));
    assert!(read(&expecting(json!({"aud": "other"})), &other).is_ok());
    assert_eq!(problem(&expecting(json!({"aud": "other"})), value(&token())).code, Code::AssertionUnexpected);
    let source = expecting(json!({"alg": "ES256"}));
    assert!(read(&source, &es256(&claims())).is_ok());
    let detail = problem(&source, value(&token())).detail;
    assert_eq!(detail, "the federated token is signed with RS256, and expect.alg is another");
}

#[test]
fn a_file_can_have_expected_claims() {
    let file = |expect: Value| one(json!({"source": "file", "cluster": "projected_token", "expect": expect}));
    let (token, aud) = (token(), "api://AzureADTokenExchange");
    let expected = file(json!({"aud": aud, "iss": claims()["iss"]}));
    assert_eq!((expected.kind(), expected.holds_token(), expected.target().2), ("file", true, "/"));
    assert!(expected.read(answer(200, &token), None, NOW).is_ok());
    assert_ne!(expected, file(json!({"aud": aud})));
    let found = problem(&file(json!({"sub": "other"})), answer(200, &token));
    assert!(found.code == Code::AssertionUnexpected && found.detail.contains("expected subject"), "{found:?}");
    assert!(problem(&expected, answer(404, "")).remedy.contains("Mount the volume"));
    assert!(matches!(one(json!({"source": "file", "cluster": "projected_token"})), Source::File { .. }));
}

#[test]
fn a_token_that_contains_the_secret_with_which_the_source_was_asked_is_rejected() {
    for claim in ["iss", "sub", "aud"] {
        let found = problem(&github(), value(&token_with(claim, json!(format!("x {BEARER}")))));
        assert_eq!(found.code, Code::SourceReplyInvalid);
        assert!(found.detail.contains("contains a secret") && !found.detail.contains("bearer-of"), "{}", found.detail);
    }
    let algorithm = jwt(&json!({"alg": BEARER}), &claims());
    let found = problem(&github(), value(&algorithm));
    assert!(found.detail.contains("an unknown algorithm") && !found.detail.contains("bearer-of"), "{}", found.detail);
    // A part of a name that is also in the secret.
    assert!(github().read(value(&token_with("sub", json!("bearer-of-the"))), None, NOW).is_ok());
}

#[test]
fn what_a_source_says_is_quoted_in_short_and_without_secrets() {
    let text = format!("no\n\u{202e}{BEARER} {} {}", token(), "x ".repeat(500));
    let detail = problem(&github(), answer(400, &text)).detail;
    assert!(detail.contains("no (hidden)") && !detail.contains("bearer-of") && !detail.contains("ey"), "{detail}");
    assert!(detail.len() < 400 && !detail.contains('\u{202e}'), "{detail}");
    let short = general(json!({"path": "/", "form_from_env": {"client_secret": "STS_SECRET"}}));
    let detail = problem(&short, answer(400, "not a:b c/ä, nor a%3Ab%20c%2F%C3%A4")).detail;
    assert!(detail.ends_with("not (hidden), nor (hidden)\""), "{detail}");
}

#[test]
fn an_answer_that_may_contain_a_token_is_not_quoted() {
    for body in [
        r#"{"access_token":"0paque","expires_in":3600}]"#,
        r#"{"id_Token" : "0paque""#,
        r#"{"Token": "0paque"}"#,
        r#" "0paque""#,
        "access_token=0paque&expires_in=3600",
        // The member in which this source's token is expected.
        r#"{"value":"0paque"}"#,
    ] {
        for status in [0, 400, 403, 500, 503] {
            let detail = problem(&github(), answer(status, body)).detail;
            assert!(detail.ends_with(": an answer that may contain a token"), "{status} {body}: {detail}");
        }
    }
    assert!(!problem(&github(), answer(204, "0paque")).detail.contains("0paque"));
    let detail = problem(&github(), answer(400, r#"{"error_description":"bad subject_token"}"#)).detail;
    assert!(detail.contains("bad subject_token"), "{detail}");
}

#[test]
fn the_token_that_a_source_got_is_not_quoted() {
    let source = chain();
    let subject = Assertion::parse(jwt(&json!({"alg": "RS256"}), &claims()).as_bytes(), NOW).unwrap();
    let parts: Vec<&str> = subject.expose().split('.').collect();
    let said = format!("bad subject_token: {} of {}", &parts[1][3..60], subject.expose());
    let problem = source.read(answer(400, &said), Some(&subject), NOW).err().unwrap();
    assert!(problem.detail.ends_with("bad subject_token: (hidden) of (hidden)\""), "{}", problem.detail);
}

#[test]
fn a_source_is_asked_again_after_a_transient_problem_only_and_as_it_demands() {
    let pause = |answer: CallResult, attempt| {
        let source = github();
        source.pause_before_retry(&problem(&source, answer), attempt, &mut || 0).map(|pause| pause.as_millis())
    };
    let demanding =
        |seconds: &str| Ok(CallResponse { retry_after: Some(seconds.as_bytes().to_vec()), ..answer(429, "").unwrap() });
    assert_eq!([1, 2, 3].map(|attempt| pause(answer(503, ""), attempt)), [Some(200), Some(400), None]);
    let patient =
        one(json!({"source": "http", "cluster": "s", "request": {"path": "/"}, "attempts": 10, "back_off": "1s"}));
    let unavailable = problem(&patient, answer(503, ""));
    let pauses = |random: u32| {
        [1, 2, 3, 9].map(|attempt| {
            patient.pause_before_retry(&unavailable, attempt, &mut || random).map(|pause| pause.as_millis())
        })
    };
    // Up to three seconds, and up to half of it less.
    assert_eq!(pauses(0), [Some(1000), Some(2000), Some(3000), Some(3000)]);
    assert_eq!(pauses(u32::MAX), [Some(500), Some(1000), Some(1500), Some(1500)]);
    assert_eq!(pause(answer(403, ""), 1), Some(1000));
    assert_eq!(["2", "3", "4", "60"].map(|seconds| pause(demanding(seconds), 1)), [Some(2000), Some(3000), None, None]);
    for last in [answer(401, ""), answer(302, ""), value("opaque"), answer(200, "<html>")] {
        assert_eq!(pause(last, 1), None);
    }
    // A file may have been read while it was being written.
    let file = one(json!({"source": "file", "cluster": "f", "expect": {"sub": "s"}}));
    let torn = problem(&file, answer(200, "eyJhbGciOi"));
    assert_eq!([1, 2].map(|attempt| file.pause_before_retry(&torn, attempt, &mut || 0).is_some()), [true, false]);
    let source = github();
    let back_off = |answer| source.back_off(&problem(&source, answer)).as_secs();
    assert_eq!((back_off(answer(401, "")), back_off(demanding("60")), back_off(demanding("9999"))), (2, 60, 300));
}

#[test]
fn a_token_is_used_again_for_the_time_of_its_source_and_at_most_for_half_of_its_life() {
    let reuse = |seconds: u64| {
        let token = token_with("exp", json!(NOW.unix_seconds() + seconds));
        let source = github();
        let assertion = source.read(value(&token), None, NOW).unwrap();
        source.reuse_until(&assertion, NOW).since(NOW).as_secs()
    };
    assert_eq!((reuse(3600), reuse(100)), (120, 50));
}

#[test]
fn a_rejected_token_is_recognized_in_the_next_one_by_its_issuer_subject_audience_algorithm_and_key() {
    let print = |token: &str| github().read(value(token), None, NOW).unwrap().fingerprint();
    assert_eq!(print(&token()), print(&token_with("jti", json!(2))));
    assert_ne!(print(&token()), print(&token_with("sub", json!("other"))));
    let other_key = jwt(
        &json!({"alg": "RS256", "kid": "l"}),
        &serde_json::from_str(&{
            let mut claims = claims();
            claims["aud"] = json!("api://AzureADTokenExchange");
            claims.to_string()
        })
        .unwrap(),
    );
    assert_ne!(print(&token()), print(&other_key));
}

/// A token exchange whose subject token is read from a file.
fn chain() -> Source {
    source_of(json!([
        {"name": "sts", "source": "token_exchange", "cluster": "sts", "path": "/token", "subject_token": "spire",
         "form": {"client_id": "payments", "audience": "x"}},
        {"name": "spire", "source": "file", "cluster": "spire_file"},
    ]))
}

fn wanted(machines: &mut Assertions, calls: &mut Vec<Wait>) -> Option<ReadResult> {
    machines.want(&chain(), NOW, &mut Alone, calls)
}

#[test]
fn a_chain_asks_its_first_source_and_sends_the_token_to_the_next() {
    let (mut machines, mut calls) = (Assertions::default(), Vec::new());
    assert!(wanted(&mut machines, &mut calls).is_none() && calls.len() == 1);
    let file = calls.remove(0);
    assert_eq!(file.call.unwrap().cluster, "spire_file");
    assert!(chain().depends_on(&file.source) && chain().depends_on(&chain()));
    assert!(!chain().depends_on(&github()) && !file.source.depends_on(&chain()));
    // Entra does not accept the algorithm and the audiences, but it does not get this token.
    let mut subject = claims();
    subject["aud"] = json!(["a", "b"]);
    let subject = jwt(&json!({"alg": "ES256"}), &subject);
    let reads = machines.answered(&file.source, answer(200, &subject), NOW, &mut || 0, &mut Alone, &mut calls);
    assert!(reads.len() == 1 && reads[0].result.is_ok() && calls.len() == 1);
    let sts = calls.remove(0);
    let form = String::from_utf8(sts.call.unwrap().body).unwrap();
    assert!(form.contains(&format!("subject_token={subject}")) && form.contains("client_id=payments"), "{form}");
    assert!(form.contains("subject_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Ajwt"), "{form}");
    let body = json!({"access_token": token(), "token_type": "N_A", "expires_in": 300}).to_string();
    let reads = machines.answered(&sts.source, answer(200, &body), NOW, &mut || 0, &mut Alone, &mut calls);
    assert_eq!(reads[0].result.as_ref().unwrap().expose(), token());
    assert!(calls.is_empty());
}

#[test]
fn a_client_may_authenticate_with_an_assertion_whose_type_is_sent_with_it() {
    let client = |more: Value| {
        let mut source = json!({"source": "oidc_client_credentials", "cluster": "o", "path": "/token"});
        source.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        String::from_utf8(one(source).call(Assertion::parse(token().as_bytes(), NOW).ok().as_ref()).body).unwrap()
    };
    let form = client(json!({"client_assertion": "projected_token"}));
    let expected = "&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer";
    assert!(form.contains(expected) && form.contains(&format!("client_assertion={}", token())), "{form}");
    assert_eq!(client(json!({"form": {"scope": "a"}})), "grant_type=client_credentials&scope=a");
}

#[test]
fn a_token_for_another_source_may_be_signed_with_any_algorithm() {
    let token = jwt(&json!({"alg": "EdDSA"}), &claims());
    let exchange =
        json!({"name": "sts", "source": "token_exchange", "cluster": "s", "path": "/", "subject_token": "a"});
    for (input, body) in [
        (
            json!({"name": "a", "source": "vault", "cluster": "v", "role": "r"}),
            json!({"data": {"token": token, "ttl": 300}}).to_string(),
        ),
        (json!({"name": "a", "source": "file", "cluster": "f", "expect": {"sub": claims()["sub"]}}), token.clone()),
    ] {
        let chain = source_of(json!([exchange, input]));
        assert!(chain.input().unwrap().read(answer(200, &body), None, NOW).is_ok(), "{input}");
        assert_eq!(problem(&one(input), answer(200, &body)).code, Code::AssertionInvalid);
    }
}

#[test]
fn the_attempts_of_a_source_count_although_its_input_is_read_again_before_each() {
    let (mut machines, mut calls, mut now) = (Assertions::default(), Vec::new(), NOW);
    let busy = || Ok(CallResponse { retry_after: Some(b"2".to_vec()), ..answer(429, "").unwrap() });
    assert!(wanted(&mut machines, &mut calls).is_none());
    let mut pauses = Vec::new();
    while let Some(file) = calls.pop() {
        assert_eq!(file.source.kind(), "file");
        machines.answered(&file.source, answer(200, &token()), now, &mut || 0, &mut Alone, &mut calls);
        let sts = calls.pop().unwrap().source;
        let reads = machines.answered(&sts, busy(), now, &mut || 0, &mut Alone, &mut calls);
        let Some(again_at) = reads[0].again_at else { break };
        pauses.push(again_at.since(now).as_secs());
        now = again_at;
        machines.tick(now, &mut Alone, &mut calls);
        assert!(pauses.len() < 9, "the attempts have no end");
    }
    assert_eq!(pauses, [2, 2]);
}

#[test]
fn a_chain_fails_with_its_first_source_and_asks_no_other() {
    let (mut machines, mut calls) = (Assertions::default(), Vec::new());
    wanted(&mut machines, &mut calls);
    let file = calls.remove(0).source;
    let reads = machines.answered(&file, answer(404, ""), NOW, &mut || 0, &mut Alone, &mut calls);
    let ends: Vec<_> =
        reads.iter().map(|read| (read.source.kind(), read.result.as_ref().err().unwrap().code)).collect();
    assert_eq!(ends, [("file", Code::SourceRefused), ("token_exchange", Code::SourceRefused)]);
    assert!(calls.is_empty() && matches!(wanted(&mut machines, &mut calls), Some(Err(_))));
}

#[test]
fn the_id_of_a_source_is_letters_and_behind_a_slash_the_id_of_its_input() {
    let is_hash = |id: &str| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_lowercase());
    let (alone, chain) = (github(), chain());
    assert!(is_hash(alone.id()), "{}", alone.id());
    let (own, input) = chain.id().split_once('/').unwrap();
    assert!(is_hash(own) && input == chain.input().unwrap().id(), "{}", chain.id());
}

#[test]
fn two_sources_with_the_same_configuration_are_one_and_any_difference_makes_another() {
    assert_eq!(github(), github());
    assert_ne!(github(), one(json!({"source": "github_actions", "cluster": "github", "audience": "x"})));
    assert_eq!(chain(), chain());
}
