//! Tests of the managed-identity endpoints: every form of a request, and the exact bytes of replies.

mod app_service;
mod health;
mod imds;
mod metadata_address;
mod selection;

use std::time::Duration;

use super::*;
use crate::broker::{CachedToken, RejectedToken, RequiredLifetime};
use crate::decision::Effect;
use crate::entra::AccessToken;
use crate::http::Reply;
use crate::metrics::Outcome;
use crate::policy::Policy;
use crate::policy::tests::decide;
use crate::request::tests::Sent;
use crate::time::Timestamp;

const ORDERS: &str = "aaaaaaaa-0000-4000-8000-000000000001";
const REPORTS: &str = "bbbbbbbb-0000-4000-8000-000000000002";
const OBJECT: &str = "dddddddd-0000-4000-8000-000000000004";
const RESOURCE_ID: &str = "/subscriptions/cccccccc-0000-4000-8000-000000000003/resourcegroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/reports";
const TOKEN_PATH: &str = "/metadata/identity/oauth2/token";
const SECRET: &str = "0f8e3b7a";

fn variable(name: &str) -> Option<String> {
    match name {
        "AZURE_TENANT_ID" => Some("11111111-1111-4111-8111-111111111111".to_owned()),
        "IDENTITY_HEADER" => Some(SECRET.to_owned()),
        _ => None,
    }
}

/// Two identities, with more in `managed_identity`.
fn policy_with(more: &str) -> Policy {
    let text = format!(
        r#"{{
            "identities": [
                {{"name": "orders", "client_id": "{ORDERS}", "resources": ["https://vault.azure.net", "https://database.windows.net/"]}},
                {{"name": "reports", "client_id": "{REPORTS}", "object_id": "{OBJECT}", "resource_id": "{RESOURCE_ID}"}},
                {{"name": "hidden", "client_id": "cccccccc-0000-4000-8000-000000000003"}}
            ],
            "managed_identity": {{"identities": ["orders", "reports"], {more}}}
        }}"#
    );
    Policy::new(&Config::parse(text.as_bytes(), &variable).unwrap(), false)
}

fn policy() -> Policy {
    policy_with(
        r#""imds": {"pass": ["/metadata/instance/"]}, "app_service": {}, "health": {"hosts": ["entra-exchange.health"]}"#,
    )
}

fn local(host: &str, target: &str) -> Sent {
    Sent::get(host, target).to("127.0.0.1:15002")
}

/// An IMDS token request with a resource and a version, followed by more parameters.
fn imds(more: &str) -> Sent {
    let target = format!("{TOKEN_PATH}?api-version=2018-02-01&resource=https://vault.azure.net{more}");
    local("169.254.169.254", &target).header("metadata", b"true")
}

fn app_service(query: &str) -> Sent {
    local("127.0.0.1:15091", &format!("/msi/token?{query}"))
}

fn shown(reply: Reply) -> String {
    format!("{} {}", reply.status, String::from_utf8(reply.body).unwrap())
}

/// The decision in one line: the identity and scope of the token, or the status and body of the reply.
fn describe(decision: Decision) -> String {
    match decision {
        Decision::Exchange(spec, _) => format!("{} {}", spec.identity(), spec.scope()),
        Decision::Report(report) | Decision::ReportToNode(report) => report.summary(),
        Decision::Refuse(refusal) => shown(refusal.reply()),
        Decision::RefuseOwn(problem) => shown(Protocol::ProblemJson.problem_reply(&problem)),
        Decision::Live => shown(Reply::ok()),
        Decision::Ignore => "ignore".to_owned(),
        Decision::Check(readiness) => {
            let name = |identity: &Decisive| match &identity.credential {
                Ok(_) => identity.name.clone(),
                Err(problem) => format!("{} ({})", identity.name, problem.code.as_str()),
            };
            format!("check {}", readiness.identities.iter().map(name).collect::<Vec<_>>().join(" "))
        }
        other => format!("{other:?}"),
    }
}

/// The decision about a request under [`policy`].
fn outcome(request: &Sent) -> String {
    describe(decide(&policy(), request))
}

fn cached() -> (CachedToken, Timestamp) {
    let at = Timestamp::from_unix_seconds(1_561_000_678);
    let cached = CachedToken::new(AccessToken::parse("abc").unwrap(), at, Duration::from_secs(3599), None, 0);
    (cached, at.plus(Duration::from_secs(99)))
}

/// The reply to a request, given the result of its exchange.
fn reply(request: &Sent, outcome: Result<(), &Problem>) -> Reply {
    let Decision::Exchange(_, delivery) = decide(&policy(), request) else { panic!("no exchange") };
    assert_eq!(delivery.required_lifetime(), RequiredLifetime::FiveMinutes);
    let (cached, now) = cached();
    let cached = Arc::new(cached);
    match delivery.deliver(outcome.map(|()| &cached), now) {
        (Effect::Reply(reply), Outcome::Answered) => reply,
        (Effect::Refuse(protocol), Outcome::Failed) => protocol.problem_reply(outcome.unwrap_err()),
        _ => panic!("not answered"),
    }
}

fn body(reply: Reply) -> String {
    assert!(reply.headers.contains(&("cache-control", "no-store".to_owned())));
    assert!(reply.headers.contains(&("content-type", "application/json; charset=utf-8".to_owned())));
    String::from_utf8(reply.body).unwrap()
}

#[test]
fn a_caller_over_the_limit_gets_a_429_with_retry_after_in_its_protocol() {
    let problem = Problem::new(Code::TooManyScopes, "d", "r").retry_after(std::time::Duration::from_millis(29_001));
    for (reply, body) in [
        (Protocol::Imds.problem_reply(&problem), r#"{"error":"temporarily_unavailable","error_description":"d. r"}"#),
        (
            Protocol::AppService(AppServiceVersion::Current).problem_reply(&problem),
            r#"{"statusCode":429,"message":"d. r"}"#,
        ),
    ] {
        assert_eq!((reply.status, String::from_utf8(reply.body).unwrap().as_str()), (429, body));
        assert!(reply.headers.contains(&("retry-after", "30".to_owned())), "{:?}", reply.headers);
    }
}

#[test]
fn a_refusal_has_the_status_of_its_protocol_and_the_part_of_the_configuration_that_enables_it() {
    let app_service_wrong = app_service("api-version=2019-08-01&resource=x");
    let imds_wrong = local("169.254.169.254", TOKEN_PATH);
    for (request, decided_by) in [(app_service_wrong, ConfigPath::AppService), (imds_wrong, ConfigPath::Imds)] {
        let Decision::Refuse(refusal) = decide(&policy(), &request) else { panic!("not refused") };
        assert_eq!(refusal.decided_by, decided_by);
        assert_eq!(refusal.protocol.status(refusal.problem.code), refusal.reply().status);
    }
    let status = |protocol: Protocol| protocol.status(Code::EntraRefused);
    assert_eq!((status(Protocol::ProblemJson), status(Protocol::Grpc), status(Protocol::Imds)), (502, 502, 400));
}

#[test]
fn only_the_hosts_of_an_endpoint_are_answered() {
    let endpoints =
        [("127.0.0.1:15091", "/msi/token"), ("169.254.169.254", TOKEN_PATH), ("entra-exchange.health", "/readyz")];
    for (host, path) in endpoints {
        assert_ne!(outcome(&local(host, path)), "ignore", "{host}{path}");
        let other = "x".repeat(host.split(':').next().unwrap().len());
        for (_, path) in endpoints {
            assert_eq!(outcome(&local(&other, path)), "ignore", "{other}{path}");
        }
    }
}
