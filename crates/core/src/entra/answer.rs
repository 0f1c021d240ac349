//! Reads the token endpoint's response. The response is untrusted: it may come from a proxy in between, or be hostile.

#[cfg(test)]
mod tests;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{AccessToken, RetryClass, TokenSpec, catalogue};
use crate::assertion::Assertion;
use crate::http::CallResult;
use crate::json::Json;
use crate::problem::{Code, EntraDiagnosis, Problem};
use crate::quote::{self, MAX_QUOTE};
use crate::time::Timestamp;
use crate::untrusted::{Guid, OAuthError, UntrustedText, is_guid};

/// The maximum length of a response body in bytes.
const LONGEST_ANSWER: usize = 256 * 1024;

/// The longest lifetime that is accepted of a token; a longer one is capped. Tokens issued by Entra live a day at most.
const LONGEST_LIFE: Duration = Duration::from_hours(168);

/// The status with which Entra throttles (RFC 6585, section 4).
const TOO_MANY_REQUESTS: u16 = 429;

/// The status that Envoy generates if a call times out.
const TIMED_OUT: u16 = 504;

/// The result of a request to the token endpoint.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum EndpointAnswer {
    /// The endpoint issued a token. Both durations count from the time of the request.
    Granted {
        token: AccessToken,
        expires_in: Duration,
        refresh_in: Option<Duration>,
        /// Entra's ID of this response: the request ID in its sign-in log.
        request_id: Option<Guid>,
    },
    /// The endpoint was not reached: no connection, a reset, or a time-out. Another cluster may reach it.
    Unreached { problem: Box<Problem> },
    /// The endpoint, or a proxy in between, sent a response without a usable token.
    Refused {
        problem: Box<Problem>,
        retry_class: RetryClass,
        /// The value of `Retry-After`, capped.
        retry_after: Option<Duration>,
    },
}

/// Reads the response to a token request for `spec` that was sent to `cluster` with `assertion`.
///
/// The problem in the result quotes no part of the assertion.
pub(crate) fn read_answer(
    answer: CallResult,
    cluster: &str,
    spec: &TokenSpec,
    assertion: &Assertion,
    now: Timestamp,
) -> EndpointAnswer {
    let about = |problem: Problem| Box::new(problem.about(spec.identity(), spec.scope()));
    let answer = match answer {
        Ok(answer) => answer,
        Err(failure) => {
            return EndpointAnswer::Unreached {
                problem: about(Problem::uncalled(failure, cluster, "which leads to Entra")),
            };
        }
    };
    if answer.is_envoys_own {
        return EndpointAnswer::Unreached {
            problem: about(no_answer(answer.status, &answer.body, cluster, assertion)),
        };
    }
    let retry_after = answer.retry_delay(now);
    let (problem, retry_class) = match answer.status {
        200 => match read_grant(&answer.body, spec.tenant_id(), assertion) {
            Ok((token, expires_in, refresh_in)) => {
                let request_id = answer.request_id.and_then(|id| Guid::parse(std::str::from_utf8(&id).ok()?));
                return EndpointAnswer::Granted { token, expires_in, refresh_in, request_id };
            }
            Err(reason) => (invalid_success(200, &reason), RetryClass::Transient),
        },
        // The body may hold a token, so it is not quoted.
        status @ 201..=299 => (
            invalid_success(status, &format!("expected 200; the body of {} bytes was ignored", answer.body.len())),
            RetryClass::Transient,
        ),
        status => read_refusal(status, &answer.body, cluster, assertion),
    };
    EndpointAnswer::Refused { problem: about(problem), retry_class, retry_after }
}

/// The problem of a successful response without a usable token. Its body is never quoted.
fn invalid_success(status: u16, reason: &str) -> Problem {
    Problem::new(
        Code::EntraReplyInvalid,
        format!("Entra answered {status}: {reason}"),
        "Check that no proxy between this Envoy and Entra answers in Entra's place.",
    )
}

/// Reads the token, its lifetime and its refresh time from a successful response (RFC 6749, section 5.1), or says what is
/// wrong with the response.
fn read_grant(
    body: &[u8],
    tenant_id: &str,
    assertion: &Assertion,
) -> Result<(AccessToken, Duration, Option<Duration>), String> {
    if body.len() > LONGEST_ANSWER {
        return Err(format!("the body has {} bytes, more than {LONGEST_ANSWER}", body.len()));
    }
    let body = Json::parse(body).map_err(|_| "the body is not JSON")?;
    let text = |name: &str| body.text(name);
    if !text("token_type").is_some_and(|kind| kind.eq_ignore_ascii_case("Bearer")) {
        return Err("token_type is not Bearer".to_owned());
    }
    let token = text("access_token")
        .and_then(AccessToken::parse)
        .ok_or("access_token is missing, empty or has characters that are not valid in a token")?;
    if assertion.is_in(token.expose()) {
        return Err("access_token is the federated token".to_owned());
    }
    if is_guid(tenant_id) && !may_be_of(&token, tenant_id) {
        return Err("the token was issued by another tenant (tid)".to_owned());
    }
    let expires_in = length(body.get("expires_in")).ok_or("expires_in is missing or not a number of seconds")?;
    Ok((token, expires_in, length(body.get("refresh_in"))))
}

/// Whether a token may be of this tenant. Access tokens are opaque to clients, so one that cannot be decoded, or has no
/// `tid`, is accepted; one with any other `tid` than this id is not.
fn may_be_of(token: &AccessToken, tenant_id: &str) -> bool {
    let Some(claims) = token.expose().split('.').nth(1) else { return true };
    // Padding and both alphabets are accepted (RFC 4648, sections 4 and 5), because other readers may accept them.
    let claims = claims.trim_end_matches('=').replace('+', "-").replace('/', "_");
    let claims = URL_SAFE_NO_PAD.decode(claims).ok().and_then(|json| Json::parse(&json).ok());
    let tenant = claims.as_ref().and_then(|claims| claims.get("tid"));
    tenant.is_none_or(|tenant| tenant.as_str().is_some_and(|tenant| tenant.eq_ignore_ascii_case(tenant_id)))
}

/// Parses a positive number of seconds. Some endpoints send a string instead of a number.
fn length(value: Option<&Json>) -> Option<Duration> {
    let seconds = match value? {
        Json::String(text) => text.parse().ok()?,
        number => number.as_u64()?,
    };
    (seconds > 0).then(|| Duration::from_secs(seconds).min(LONGEST_LIFE))
}

/// The problem of a response that Envoy generated because the cluster gave none. The cluster's statistics show the cause.
fn no_answer(status: u16, body: &[u8], cluster: &str, assertion: &Assertion) -> Problem {
    if status == TIMED_OUT {
        return Problem::new(
            Code::EntraUnavailable,
            format!("no response from cluster {cluster:?} within limits.exchange"),
            format!(
                "The exchange is retried automatically. If the problem persists, check what is slow between this Envoy and \
                 Entra (cluster.{cluster}.upstream_cx_connect_timeout and upstream_rq_timeout in Envoy's /stats), or raise \
                 limits.exchange."
            ),
        );
    }
    Problem::new(
        Code::EntraUnavailable,
        format!("no response from cluster {cluster:?}: {}", quoted(status, body, assertion)),
        format!(
            "The exchange is retried automatically. If the problem persists, check in Envoy's /stats which counter of \
             cluster.{cluster} grows: upstream_cx_connect_fail alone (closed port, firewall), ssl.fail_verify_error (the CA is not \
             in trusted_ca), ssl.fail_verify_san (the certificate is for another name). membership_total 0: DNS does not \
             resolve."
        ),
    )
}

/// The problem of a response that a proxy between this Envoy and Entra sent.
fn foreign_answer(status: u16, body: &[u8], cluster: &str, assertion: &Assertion) -> Problem {
    Problem::new(
        Code::EntraUnavailable,
        format!("cluster {cluster:?} answered {status}, not in Entra's format: {}", quoted(status, body, assertion)),
        "The exchange is retried automatically. If the problem persists, check that no proxy between this Envoy and Entra \
         answers in Entra's place.",
    )
}

/// What a message shows of a body that Entra did not send.
fn quoted(status: u16, body: &[u8], assertion: &Assertion) -> String {
    quote::text_of(status, body, None).map_or_else(str::to_owned, |text| {
        UntrustedText::without(&text, assertion.expose()).shortened(MAX_QUOTE).as_str().to_owned()
    })
}

/// Reads an error response: the problem and its retry class.
fn read_refusal(status: u16, body: &[u8], cluster: &str, assertion: &Assertion) -> (Problem, RetryClass) {
    let json = body.get(..LONGEST_ANSWER).unwrap_or(body);
    let json = Json::parse(json).ok().filter(|json| json.get("error").is_some());
    let Some(json) = json else {
        let retry_class = if status == TOO_MANY_REQUESTS { RetryClass::Throttled } else { RetryClass::Transient };
        return (foreign_answer(status, body, cluster, assertion), retry_class);
    };
    let text = |name: &str| json.text(name);
    let description = text("error_description").unwrap_or_default();
    let codes = match json.get("error_codes") {
        Some(Json::List(codes)) => codes.as_slice(),
        _ => &[],
    };
    let aadsts = codes.iter().find_map(|code| u32::try_from(code.as_u64()?).ok()).or_else(|| aadsts_in(description));
    let diagnosis = EntraDiagnosis {
        error: text("error").and_then(|error| OAuthError::parse_without(error, assertion.expose())),
        aadsts,
        trace_id: text("trace_id").and_then(Guid::parse),
        correlation_id: text("correlation_id").and_then(Guid::parse),
    };
    let error = diagnosis.error.as_ref().map(OAuthError::as_str);
    let row = aadsts.and_then(catalogue::row);
    let retry_class = match row {
        _ if status == TOO_MANY_REQUESTS => RetryClass::Throttled,
        Some(row) => row.retry_class,
        None if status >= 500 || error == Some("temporarily_unavailable") => RetryClass::Transient,
        None => RetryClass::NeedsChange,
    };
    let code = if retry_class.is_transient() { Code::EntraUnavailable } else { Code::EntraRefused };
    // The lines after the first repeat values that have members of their own.
    let description = UntrustedText::without(description.lines().next().unwrap_or_default(), assertion.expose());
    let reason = match description.as_str() {
        "" => error.unwrap_or("Entra gave no reason"),
        description => description,
    };
    let mut problem = Problem::new(
        code,
        format!("{reason} (federated token: {})", assertion.claims()),
        row.map_or(
            "Look up the code at https://login.microsoftonline.com/error, and the trace id in the sign-in log.",
            |row| row.remedy,
        ),
    );
    problem.entra = diagnosis;
    (problem, retry_class)
}

/// Finds the AADSTS code in an error description, such as `AADSTS700213: …`.
fn aadsts_in(description: &str) -> Option<u32> {
    let (_, rest) = description.split_once("AADSTS")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}
