//! The federated token's file and the token endpoint may answer anything.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use entra_exchange_core::http::{CallFailure, CallResult, Response};
use entra_exchange_core::problem::{Code, Problem};
use entra_exchange_core::time::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::json;
use crate::worker::{NOWS, Told, Worker, jwt, response};

const REPLY: &[&str] =
    &["token_type", "Bearer", "expires_in", "refresh_in", "access_token", "error", "error_description", "error_codes"];
const CLAIMS: &[&str] = &["alg", "RS256", "iss", "sub", "aud", "exp", "nbf"];

const HOUR: Duration = Duration::from_secs(3600);
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// A length of time, as an endpoint might write it.
fn length() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u64>().prop_map(Value::from),
        (0..10_000_u64).prop_map(Value::from),
        any::<u64>().prop_map(|seconds| Value::from(seconds.to_string())),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
    ]
}

/// What is nearly right, or right.
fn reply() -> impl Strategy<Value = Vec<u8>> {
    let grant = (length(), prop::option::of(length()), "[a-zA-Z0-9._~+/=-]{0,40}").prop_map(|(life, refresh, token)| {
        json!({"token_type": "Bearer", "expires_in": life, "refresh_in": refresh, "access_token": token})
    });
    let refusal = (any::<String>(), any::<String>(), prop::collection::vec(any::<u64>(), 0..3)).prop_map(
        |(error, said, codes)| json!({"error": error, "error_description": said, "error_codes": codes, "trace_id": said}),
    );
    prop_oneof![
        grant.prop_map(|body| body.to_string().into_bytes()),
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
            Ok(Response { status, retry_after, request_id: None, body, is_envoys_own })
        },
    );
    prop_oneof![9 => response, 1 => Just(Err(CallFailure::NoEndpoint))]
}

/// A problem that can be told: in the log, as an answer.
fn makes_sense(problem: &Problem) {
    assert!(!problem.detail.is_empty() && !problem.remedy.is_empty(), "{problem:?}");
    assert_eq!(problem.identity.as_deref(), Some("payments"));
    assert!(problem.retry_after.is_some_and(|wait| wait <= HOUR), "{problem:?}");
    let reply = problem.to_reply();
    assert!((400..600).contains(&reply.status));
    assert!(serde_json::from_slice::<Value>(&reply.body).is_ok());
    assert!(reply.headers.iter().all(|(_, value)| value.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')));
}

fn check(told: &Told, worker: &Worker) -> Result<(), TestCaseError> {
    match &told.outcome {
        Some(Ok(issued)) => {
            prop_assert!(issued.is_usable(worker.now) && !issued.is_usable(issued.expires_at()));
            prop_assert!(issued.is_due(issued.expires_at()));
            prop_assert!(issued.expires_at().since(worker.now) <= WEEK);
            prop_assert!(!issued.token().expose().is_empty());
        }
        Some(Err(problem)) => makes_sense(problem),
        // Whoever waits still has a deadline.
        None => prop_assert!(worker.broker.next_due().is_some()),
    }
    for line in &told.lines {
        prop_assert!(line.starts_with("event=exchange ") && line.bytes().all(|byte| byte >= b' '), "{}", line);
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_answer_of_the_endpoint_is_a_token_that_can_be_used_or_a_problem_that_can_be_told(
        answer in answer(reply()), now in prop::sample::select(&NOWS[..]),
    ) {
        let mut worker = Worker::calling(now);
        let told = worker.endpoint(answer);
        check(&told, &worker)?;
    }

    #[test]
    fn any_file_is_an_assertion_or_a_problem_that_can_be_told(
        body in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            "[a-zA-Z0-9_=-]{0,20}\\.[a-zA-Z0-9_=-]{0,20}\\.[a-zA-Z0-9_=-]{0,20}".prop_map(String::into_bytes),
            (json(CLAIMS), json(CLAIMS)).prop_map(|(header, claims)| jwt(&header, &claims).into_bytes()),
            json(CLAIMS).prop_map(|claims| jwt(&json!({"alg": "RS256"}), &claims).into_bytes()),
        ],
        status in prop_oneof![9 => Just(200), 1 => any::<u16>()],
    ) {
        let mut worker = Worker::reading(NOWS[1]);
        let told = worker.assertion(Ok(response(status, body)));
        check(&told, &worker)?;
        prop_assert!(told.calls != told.outcome.is_some());
    }

    #[test]
    fn an_assertion_is_taken_between_its_times_whatever_number_they_are(
        exp in length(), nbf in length(), now in prop::sample::select(&NOWS[..]),
    ) {
        let seconds = |value: &Value| match value {
            Value::Number(number) => number.as_u64().map(|whole| whole as f64).or(number.as_f64()),
            _ => None,
        };
        // A time that is no positive number is none.
        let time = |value| seconds(value).filter(|seconds| *seconds >= 0.0);
        let at = now.unix_seconds() as f64;
        let over = time(&exp).is_none_or(|exp| exp < at);
        // Five minutes of leeway.
        let early = time(&nbf).is_some_and(|nbf| nbf > at + 301.0);
        let claims = json!({"iss": "i", "sub": "s", "aud": "a", "exp": exp, "nbf": nbf});
        let mut worker = Worker::reading(now);
        let told = worker.assertion(Ok(response(200, jwt(&json!({"alg": "RS256"}), &claims))));
        check(&told, &worker)?;
        prop_assert!(!(told.calls && (over || early)), "{claims}");
        let surely = time(&exp).is_some_and(|exp| exp > at + 1.0) && time(&nbf).is_none_or(|nbf| nbf < at + 299.0);
        prop_assert!(told.calls || !surely, "{claims}");
    }

    #[test]
    fn no_life_overflows_whenever_it_is(
        life in any::<u64>(), refresh in prop::option::of(any::<u64>()), now in 0..u64::MAX - 86_400_000,
    ) {
        let now = Timestamp::from_unix_millis(now);
        let mut worker = Worker::calling(now);
        let body = json!({"token_type": "Bearer", "access_token": "a", "expires_in": life, "refresh_in": refresh});
        let told = worker.endpoint(Ok(response(200, body.to_string())));
        check(&told, &worker)?;
    }

    #[test]
    fn what_the_endpoint_asks_for_is_waited_up_to_an_hour(seconds in any::<u64>(), as_date in any::<bool>()) {
        let seconds = if as_date { seconds % 100_000 } else { seconds };
        let mut worker = Worker::calling(NOWS[1]);
        let then = UNIX_EPOCH + Duration::from_secs(NOWS[1].unix_seconds());
        let date = |wait| SystemTime::checked_add(&then, Duration::from_secs(wait)).map(httpdate::fmt_http_date);
        let value = if as_date { date(seconds).unwrap_or_default() } else { seconds.to_string() };
        let answer = Response { retry_after: Some(value.into_bytes()), ..response(429, r#"{"error":"x"}"#) };
        let Some(Err(problem)) = worker.endpoint(Ok(answer)).outcome else { panic!("a token") };
        prop_assert_eq!(problem.code, Code::EntraUnavailable);
        let wait = problem.retry_after.unwrap_or_default();
        let asked = Duration::from_secs(seconds).min(HOUR);
        // The first back-off is two seconds at the most, and a second at the least.
        prop_assert!(wait >= asked && wait <= asked.max(Duration::from_secs(2)), "{:?} of {:?}", wait, asked);
    }
}
