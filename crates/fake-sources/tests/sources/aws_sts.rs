use std::time::Duration;

use fake_http::Request;
use fake_sources::{AwsSts, Source};

use crate::{exchange, is_strict, now, set};

const FORM: &str = "Action=GetWebIdentityToken&Version=2011-06-15&Audience.member.1=api%3A%2F%2FAzureADTokenExchange&\
                    SigningAlgorithm=RS256&DurationSeconds=300";

fn unsigned() -> Request {
    Request::new("POST", "/")
        .with_header("host", "sts.eu-central-1.amazonaws.com")
        .with_body("application/x-www-form-urlencoded", FORM)
}

#[test]
fn only_a_request_that_is_signed_as_it_is_sent_is_accepted() {
    let sts = AwsSts::new("eu-central-1");
    let credentials = sts.credentials().expect("credentials");
    let signed = credentials.sign(unsigned(), "eu-central-1", now());
    is_strict(
        &sts,
        &signed,
        &[
            ("no signature", 403, "MissingAuthenticationToken", &|request| set(request, "authorization", "")),
            ("another body", 403, "hash of the body", &|request| request.body.push(b' ')),
            ("no session token", 403, "session token", &|request| set(request, "x-amz-security-token", "")),
            ("a header that is not signed", 403, "is not signed", &|request| set(request, "x-amz-trace", "1")),
            ("another host", 403, "another request", &|request| set(request, "host", "sts.amazonaws.com")),
            ("another region", 403, "scoped to", &|request| {
                *request = credentials.sign(unsigned(), "us-east-1", now());
            }),
            ("an old signature", 403, "expired", &|request| {
                *request = credentials.sign(unsigned(), "eu-central-1", now() - Duration::from_secs(600));
            }),
            ("a GET", 400, "InvalidAction", &|request| request.method = "GET".to_owned()),
        ],
    );
}

#[test]
fn only_a_form_for_one_token_with_rs256_is_accepted() {
    let sts = AwsSts::behind_a_signer("eu-central-1");
    let replaced = |from: &'static str, to: &'static str| {
        move |request: &mut Request| request.body = FORM.replace(from, to).into_bytes()
    };
    is_strict(
        &sts,
        &unsigned(),
        &[
            ("another action", 400, "InvalidAction", &replaced("GetWeb", "Get")),
            ("no audience", 400, "Audience", &replaced("api%3A%2F%2FAzureADTokenExchange", "")),
            ("another algorithm", 400, "SigningAlgorithm", &replaced("RS256", "ES384")),
            ("a long life", 403, "SessionDurationEscalation", &replaced("=300", "=3600")),
            ("a longer life", 400, "DurationSeconds", &replaced("=300", "=3601")),
            ("JSON", 400, "not a form", &|request| set(request, "content-type", "application/json")),
        ],
    );
}

#[test]
fn entra_accepts_the_token_in_the_answer() {
    let sts = AwsSts::behind_a_signer("eu-central-1");
    let response = sts.respond(&unsigned(), now());
    let text = String::from_utf8(response.body).expect("text");
    let (_, after) = text.split_once("<WebIdentityToken>").expect("an element");
    let (token, rest) = after.split_once("</WebIdentityToken>").expect("its end");
    assert!(rest.contains("<Expiration>2027-01-15T08:05:00Z</Expiration>"), "{rest}");
    let claims = fake_entra::claims(token).expect("a JWT");
    assert_eq!(
        (&claims["sub"], &claims["aud"]),
        (&"arn:aws:iam::111122223333:role/payments".into(), &"api://AzureADTokenExchange".into())
    );
    assert_eq!(exchange(&sts, token, now()), "issued");
}
