//! Arbitrary contents of the token file and arbitrary responses of the token endpoint.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use entra_exchange_core::http::{CallFailure, CallResponse, CallResult};
use entra_exchange_core::problem::{Code, Problem};
use entra_exchange_core::protocol::Protocol;
use entra_exchange_core::time::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::json;
use crate::worker::{Effects, NOWS, Worker, jwt, response};

const REPLY: &[&str] =
    &["token_type", "Bearer", "expires_in", "refresh_in", "access_token", "error", "error_description", "error_codes"];
const CLAIMS: &[&str] = &["alg", "RS256", "iss", "sub", "aud", "exp", "nbf"];

const HOUR: Duration = Duration::from_secs(3600);
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// A duration in seconds, in any form that an endpoint may send.
fn duration() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u64>().prop_map(Value::from),
        (0..10_000_u64).prop_map(Value::from),
        any::<u64>().prop_map(|seconds| Value::from(seconds.to_string())),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
    ]
}

/// A valid, nearly valid or arbitrary response body.
fn reply() -> impl Strategy<Value = Vec<u8>> {
    let spec = (duration(), prop::option::of(duration()), "[a-zA-Z0-9._~+/=-]{0,40}").prop_map(|(life, refresh, token)| {
        json!({"token_type": "Bearer", "expires_in": life, "refresh_in": refresh, "access_token": token})
    });
    let refusal = (any::<String>(), any::<String>(), prop::collection::vec(any::<u64>(), 0..3)).prop_map(
        |(error, said, codes)| json!({"error": error, "error_description": said, "error_codes": codes, "trace_id": said}),
    );
    prop_oneof![
        spec.prop_map(|body| body.to_string().into_bytes()),
        refusal.prop_map(|body| body.to_string().into_bytes()),
        json(REPLY).prop_map(|body| body.to_string().into_bytes()),
        prop::collection::vec(any::<u8>(), 0..200),
    ]
}

fn answer(body: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = CallResult> {
    let retry_after = prop_oneof![
        any::<u64>().prop_map(|seconds| seconds.to_string().into_bytes()),
        prop::collection::vec(any::<u8>(), 0..40),
    ];
    let status = prop_oneof![Just(200), Just(401), Just(429), any::<u16>()];
    let response = (status, body, prop::option::of(retry_after), prop::bool::weighted(0.1)).prop_map(
        |(status, body, retry_after, is_envoys_own)| {
            Ok(CallResponse { status, retry_after, request_id: None, grpc: None, body, is_envoys_own })
        },
    );
    prop_oneof![9 => response, 1 => Just(Err(CallFailure::NoEndpoint))]
}

/// Checks that a problem is valid as a log line and as a reply.
fn check_problem(problem: &Problem) {
    assert!(!problem.detail.is_empty() && !problem.remedy.is_empty(), "{problem:?}");
    assert_eq!(problem.identity.as_deref(), Some("payments"));
    assert!(problem.retry_after.is_some_and(|wait| wait <= HOUR), "{problem:?}");
    let reply = Protocol::ProblemJson.problem_reply(problem);
    assert!((400..600).contains(&reply.status));
    assert!(serde_json::from_slice::<Value>(&reply.body).is_ok());
    assert!(reply.headers.iter().all(|(_, value)| value.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')));
}

fn check(effects: &Effects, worker: &mut Worker) -> Result<(), TestCaseError> {
    match &effects.outcome {
        Some(Ok(issued)) => {
            prop_assert!(issued.is_usable(worker.now()) && !issued.is_usable(issued.expires_at()));
            prop_assert!(issued.is_due(issued.expires_at()));
            prop_assert!(issued.expires_at().since(worker.now()) <= WEEK);
            prop_assert!(!issued.token().expose().is_empty());
        }
        Some(Err(problem)) => check_problem(problem),
        // A request that still waits has a deadline.
        None => prop_assert!(worker.driver.next_due(worker.now()).is_some()),
    }
    for line in &effects.lines {
        prop_assert!(line.starts_with("event=exchange ") && line.bytes().all(|byte| byte >= b' '), "{}", line);
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_response_of_the_endpoint_gives_a_usable_token_or_a_valid_problem(
        answer in answer(reply()), now in prop::sample::select(&NOWS[..]),
    ) {
        let mut worker = Worker::calling(now);
        let effects = worker.endpoint(answer);
        check(&effects, &mut worker)?;
    }

    #[test]
    fn any_token_file_gives_an_assertion_or_a_valid_problem(
        body in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            "[a-zA-Z0-9_=-]{0,20}\\.[a-zA-Z0-9_=-]{0,20}\\.[a-zA-Z0-9_=-]{0,20}".prop_map(String::into_bytes),
            (json(CLAIMS), json(CLAIMS)).prop_map(|(header, claims)| jwt(&header, &claims).into_bytes()),
            json(CLAIMS).prop_map(|claims| jwt(&json!({"alg": "RS256"}), &claims).into_bytes()),
        ],
        status in prop_oneof![9 => Just(200), 1 => any::<u16>()],
    ) {
        let mut worker = Worker::reading(NOWS[1]);
        let effects = worker.assertion(Ok(response(status, body)));
        check(&effects, &mut worker)?;
        prop_assert!(effects.calls != effects.outcome.is_some());
    }

    #[test]
    fn an_assertion_is_accepted_between_nbf_and_exp_for_any_numbers(
        exp in duration(), nbf in duration(), now in prop::sample::select(&NOWS[..]),
    ) {
        let seconds = |value: &Value| match value {
            Value::Number(number) => number.as_u64().map(|whole| whole as f64).or(number.as_f64()),
            _ => None,
        };
        // A time that is not a positive number is ignored.
        let time = |value| seconds(value).filter(|seconds| *seconds >= 0.0);
        let at = now.unix_seconds() as f64;
        let expired = time(&exp).is_none_or(|exp| exp < at);
        // Five minutes of leeway.
        let early = time(&nbf).is_some_and(|nbf| nbf > at + 301.0);
        let claims = json!({"iss": "i", "sub": "s", "aud": "a", "exp": exp, "nbf": nbf});
        let mut worker = Worker::reading(now);
        let effects = worker.assertion(Ok(response(200, jwt(&json!({"alg": "RS256"}), &claims))));
        check(&effects, &mut worker)?;
        prop_assert!(!(effects.calls && (expired || early)), "{claims}");
        let is_valid = time(&exp).is_some_and(|exp| exp > at + 1.0) && time(&nbf).is_none_or(|nbf| nbf < at + 299.0);
        prop_assert!(effects.calls || !is_valid, "{claims}");
    }

    #[test]
    fn no_lifetime_overflows_at_any_time(
        life in any::<u64>(), refresh in prop::option::of(any::<u64>()), now in 0..u64::MAX - 86_400_000,
    ) {
        let now = Timestamp::from_unix_millis(now);
        let mut worker = Worker::calling(now);
        let body = json!({"token_type": "Bearer", "access_token": "a", "expires_in": life, "refresh_in": refresh});
        let effects = worker.endpoint(Ok(response(200, body.to_string())));
        check(&effects, &mut worker)?;
    }

    #[test]
    fn retry_after_is_honored_up_to_an_hour(seconds in any::<u64>(), as_date in any::<bool>()) {
        let seconds = if as_date { seconds % 100_000 } else { seconds };
        let mut worker = Worker::calling(NOWS[1]);
        let then = UNIX_EPOCH + Duration::from_secs(NOWS[1].unix_seconds());
        let date = |wait| SystemTime::checked_add(&then, Duration::from_secs(wait)).map(httpdate::fmt_http_date);
        let value = if as_date { date(seconds).unwrap_or_default() } else { seconds.to_string() };
        let answer = CallResponse { retry_after: Some(value.into_bytes()), ..response(429, r#"{"error":"x"}"#) };
        let Some(Err(problem)) = worker.endpoint(Ok(answer)).outcome else { panic!("a token") };
        prop_assert_eq!(problem.code, Code::EntraUnavailable);
        let wait = problem.retry_after.unwrap_or_default();
        let requested = Duration::from_secs(seconds).min(HOUR);
        // The first back-off is between one and two seconds.
        prop_assert!(wait >= requested && wait <= requested.max(Duration::from_secs(2)), "{:?} of {:?}", wait, requested);
    }
}
