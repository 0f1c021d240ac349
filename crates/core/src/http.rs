//! The filter's replies, its own calls, and the responses to them.

use std::borrow::Cow;
use std::time::Duration;

use crate::json::ObjectWriter;
use crate::time::Timestamp;

/// A local reply: the shell sends it to the client instead of forwarding the request. Its body may hold an access token, so
/// it has no `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// The headers in order, with names in lower case.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Reply {
    /// A 200 reply with the body `ok`.
    pub fn ok() -> Self {
        let headers = vec![("content-type", "text/plain".to_owned()), ("cache-control", "no-store".to_owned())];
        Self { status: 200, headers, body: b"ok".to_vec() }
    }

    /// A JSON reply that caches must not store (RFC 9111, section 5.2.2.5). A 405 gets the `Allow` header that RFC 9110,
    /// section 15.5.6 requires; every path that the filter answers supports GET only.
    pub(crate) fn json(status: u16, content_type: &'static str, body: ObjectWriter) -> Self {
        let mut headers = vec![("content-type", content_type.to_owned()), ("cache-control", "no-store".to_owned())];
        if status == 405 {
            headers.push(("allow", "GET".to_owned()));
        }
        Self { status, headers, body: body.finish() }
    }
}

/// A call that a host makes. Its body may hold a client assertion and its headers a bearer token, so it has no `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpCall {
    /// The Envoy cluster that it goes to.
    pub cluster: String,
    /// `:method`
    pub method: &'static str,
    /// `:authority`
    pub authority: String,
    /// `:path`
    pub path: String,
    /// All other headers, names in lower case.
    pub headers: Vec<(Cow<'static, str>, Cow<'static, str>)>,
    /// The body; empty for none.
    pub body: Vec<u8>,
    /// How long the answer may take.
    pub timeout: Duration,
}

/// The response to an [`HttpCall`]. `Debug` shows the status only: the body may hold a token.
#[derive(Clone, PartialEq, Eq)]
pub struct CallResponse {
    /// HTTP status. Envoy generates 503 when it cannot connect and 504 when the call times out.
    pub status: u16,
    /// The unparsed value of `Retry-After`.
    pub retry_after: Option<Vec<u8>>,
    /// The value of `x-ms-request-id`, unparsed: Entra's ID of its response.
    pub request_id: Option<Vec<u8>>,
    /// The status of a gRPC call, if the response has one. A failed call has one, but its HTTP status is 200.
    pub grpc: Option<GrpcStatus>,
    /// The body, which may hold a token.
    pub body: Vec<u8>,
    /// Whether Envoy generated this response itself because the upstream sent none.
    pub is_envoys_own: bool,
}

/// The status of a gRPC call ("gRPC over HTTP2", Responses).
#[derive(Clone, PartialEq, Eq)]
pub struct GrpcStatus {
    /// 0 if the call succeeded.
    pub code: u32,
    /// The text of a failed call, percent-encoded.
    pub message: Vec<u8>,
}

/// The code of a status that is not a number: unknown.
const UNKNOWN: u32 = 2;

/// The status of a response that ended before its headers: Envoy's own when there was no connection.
const NO_ANSWER: u16 = 503;

/// The longest `Retry-After` that is honored; a longer one is capped.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

impl CallResponse {
    /// The response with these headers (`:status` among them, and the trailers of a gRPC call) and this body. A server with a clock dates its responses (RFC 9110, section
    /// 6.6.1), and Entra has one; Envoy does not date its own. So an error without a date is Envoy's own. A response without a valid status
    /// counts as one that ended early.
    pub fn new(header: impl Fn(&str) -> Option<Vec<u8>>, body: Vec<u8>) -> Self {
        let status = header(":status").and_then(|status| std::str::from_utf8(&status).ok()?.parse().ok());
        let status = status.unwrap_or(NO_ANSWER);
        let grpc = header("grpc-status").map(|code| GrpcStatus {
            code: std::str::from_utf8(&code).ok().and_then(|code| code.parse().ok()).unwrap_or(UNKNOWN),
            message: header("grpc-message").unwrap_or_default(),
        });
        Self {
            status,
            retry_after: header("retry-after"),
            request_id: header("x-ms-request-id"),
            grpc,
            body,
            is_envoys_own: status >= 500 && header("date").is_none(),
        }
    }

    /// The delay that `Retry-After` demands, in seconds or as a date (RFC 9110, section 10.2.3); at most an hour.
    pub(crate) fn retry_delay(&self, now: Timestamp) -> Option<Duration> {
        let text = std::str::from_utf8(self.retry_after.as_deref()?).ok()?.trim();
        let delay = match text.parse::<u64>() {
            Ok(seconds) => Duration::from_secs(seconds),
            Err(_) => {
                let date = httpdate::parse_http_date(text).ok()?;
                let seconds = date.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs();
                Timestamp::from_unix_seconds(seconds).since(now)
            }
        };
        Some(delay.min(LONGEST_RETRY_AFTER))
    }

    /// The response that ended before its headers were complete.
    pub const fn broken_off() -> Self {
        Self {
            status: NO_ANSWER,
            retry_after: None,
            request_id: None,
            grpc: None,
            body: Vec::new(),
            is_envoys_own: true,
        }
    }
}

impl std::fmt::Debug for CallResponse {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("CallResponse").field("status", &self.status).finish_non_exhaustive()
    }
}

/// Why Envoy could not dispatch a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallFailure {
    /// Envoy has no cluster of this name.
    NoSuchCluster,
    /// The cluster has no endpoint to call.
    NoEndpoint,
}

/// The result of a call that the host made.
pub type CallResult = Result<CallResponse, CallFailure>;

#[cfg(test)]
mod tests {
    #[test]
    fn debug_shows_a_responses_status_and_neither_body_nor_headers() {
        let response = super::CallResponse {
            status: 200,
            retry_after: Some(b"soon".to_vec()),
            request_id: None,
            grpc: None,
            body: b"{\"access_token\":\"body\"}".to_vec(),
            is_envoys_own: false,
        };
        assert_eq!(format!("{response:?}"), "CallResponse { status: 200, .. }");
        assert_eq!(format!("{:?}", super::CallResult::Ok(response)), "Ok(CallResponse { status: 200, .. })");
    }
}
