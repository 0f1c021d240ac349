//! The answer of an HTTP source.

use super::format::{Expiry, Format};
use super::{HttpSource, spiffe};
use crate::assertion::Assertion;
use crate::assertion::source::MOUNT_THE_FILE;
use crate::http::{CallResponse, CallResult};
use crate::json::Json;
use crate::problem::{Code, Problem};
use crate::quote::{self, MAX_QUOTE};
use crate::time::Timestamp;
use crate::untrusted::{self, UntrustedText};
use crate::xml;

/// The maximum length of an answer in bytes.
const MAX_BYTES: usize = 64 * 1024;

/// Reads the assertion from the answer and checks that it is valid at `now`. `input` is the assertion that the request contained.
///
/// # Errors
/// A problem, which names no identity.
pub(super) fn read(
    source: &HttpSource,
    answer: CallResult,
    input: Option<&Assertion>,
    now: Timestamp,
) -> Result<Assertion, Problem> {
    let cluster = &source.request.cluster;
    let answer = answer
        .map_err(|failure| Problem::uncalled(failure, cluster, "which leads to the source of the federated token"))?;
    if let Some(status) = answer.grpc.as_ref().filter(|status| status.code != 0) {
        return Err(spiffe::refusal(&source.name(), status));
    }
    // A service that regards the token as a new resource answers 201.
    if !matches!(answer.status, 200 | 201) {
        return Err(refusal(source, &answer, input, now));
    }
    if answer.body.len() > MAX_BYTES {
        return Err(invalid(source, format!("is {} bytes long, more than {MAX_BYTES}", answer.body.len())));
    }
    if let Format::JwtSvid { hint } = &source.format {
        let token = spiffe::svid(&answer.body, hint.as_deref()).map_err(|what| invalid(source, what))?;
        return parse(source, token, input, now);
    }
    if let Format::Xml(name) = &source.format {
        let token = str::from_utf8(&answer.body).ok().and_then(|text| xml::element(text, name));
        let token = token.ok_or_else(|| invalid(source, format!("has no complete XML element {name:?}")))?;
        return parse(source, token.as_bytes(), input, now);
    }
    if starts_with_html(&answer.body) {
        return Err(invalid(source, "is an HTML page".to_owned()));
    }
    let Format::Json(pointer) = &source.format else {
        return parse(source, &answer.body, input, now);
    };
    let Ok(json) = Json::parse(&answer.body) else {
        return Err(invalid(source, "is not valid JSON, or is incomplete".to_owned()));
    };
    let token = match at(&json, pointer) {
        Some(Json::String(token)) => token,
        Some(_) => return Err(invalid(source, format!("has no string at {pointer:?}"))),
        None => return Err(invalid(source, format!("has nothing at {pointer:?}"))),
    };
    let assertion = parse(source, token.as_bytes(), input, now)?;
    let expires_at = match &source.expiry {
        None => None,
        Some(Expiry::Seconds(pointer)) => {
            let seconds = at(&json, pointer).and_then(|value| match value {
                // Some services send numbers as strings.
                Json::String(text) => text.parse().ok(),
                number => number.as_u64(),
            });
            let seconds = seconds.ok_or_else(|| invalid(source, format!("has no number of seconds at {pointer:?}")))?;
            Some(now.plus(std::time::Duration::from_secs(seconds)))
        }
        Some(Expiry::Time(pointer)) => {
            let time = at(&json, pointer).and_then(Json::as_str).and_then(Timestamp::parse_rfc3339);
            Some(time.ok_or_else(|| invalid(source, format!("has no time (RFC 3339) at {pointer:?}")))?)
        }
    };
    Ok(assertion.expiring(expires_at))
}

/// Parses the token. One that repeats a secret of the request, or the assertion in it, is used for nothing: the secret would be in messages,
/// and Entra would get it, and quote it.
fn parse(source: &HttpSource, token: &[u8], input: Option<&Assertion>, now: Timestamp) -> Result<Assertion, Problem> {
    let parsed = Assertion::parse_expected(token, &source.expected, now);
    let shown = match &parsed {
        Ok(assertion) => assertion.claims().to_string(),
        Err(problem) => problem.detail.to_string(),
    };
    let repeats = |input: &Assertion| untrusted::remove_pieces(&shown, input.expose()) != shown;
    if source.request.secrets.are_in(&shown) || input.is_some_and(repeats) {
        return Err(Problem::new(
            Code::SourceReplyInvalid,
            format!("the token of {} contains a secret of the request", source.name()),
            "Check that the cluster leads to the right service. Replace the secret: it is in a token that others get.",
        ));
    }
    parsed
}

/// The value at a JSON pointer (RFC 6901).
fn at<'a>(json: &'a Json, pointer: &str) -> Option<&'a Json> {
    pointer.split('/').skip(1).try_fold(json, |value, token| match value {
        // An index has no leading zero.
        Json::List(items) if token == "0" || !token.starts_with('0') => items.get(token.parse::<usize>().ok()?),
        Json::Object(fields) => {
            fields.iter().rev().find(|(name, _)| is_escaped(token.as_bytes(), name.as_bytes())).map(|(_, value)| value)
        }
        _ => None,
    })
}

/// Whether a part of a JSON pointer stands for this name: in the pointer `~` is `~0`, and `/` is `~1`.
fn is_escaped(part: &[u8], name: &[u8]) -> bool {
    match (part, name) {
        ([], []) => true,
        ([b'~', b'0', part @ ..], [b'~', name @ ..]) | ([b'~', b'1', part @ ..], [b'/', name @ ..]) => {
            is_escaped(part, name)
        }
        ([first, part @ ..], [other, name @ ..]) => first == other && *first != b'~' && is_escaped(part, name),
        _ => false,
    }
}

/// The problem of an answer that is neither 200 nor 201.
fn refusal(source: &HttpSource, answer: &CallResponse, input: Option<&Assertion>, now: Timestamp) -> Problem {
    let (name, status) = (source.name(), answer.status);
    let retry_after = answer.retry_delay(now);
    let problem = |code, detail: String, remedy: &str| {
        let problem = Problem::new(code, detail, remedy);
        match retry_after {
            Some(wait) => problem.retry_after(wait),
            None => problem,
        }
    };
    if answer.is_envoys_own {
        let detail = match status {
            504 => format!("{name} did not answer within {} s", source.timeout.as_secs()),
            _ => format!("{name} could not be reached (Envoy answered {status})"),
        };
        return problem(
            Code::AssertionUnavailable,
            detail,
            "Check the endpoint of the cluster, its TLS settings, and the network. A slow source needs a longer timeout in its assertion.",
        )
        .unreached();
    }
    let said = quoted(source, input, status, &answer.body);
    let aws = AwsError::read(source, &answer.body);
    if source.not_ready.contains(&status) || aws == Some(AwsError::NoCredentials) {
        return problem(
            Code::SourceNotReady,
            format!("{name} answered {status}, which means not yet: {said}"),
            "If this persists, check what the source waits for: the start of the job, or the renewal of its own credential.",
        );
    }
    match status {
        203 | 300..=399 => problem(
            Code::SourceReplyInvalid,
            format!("{name} answered {status}, a redirect or a sign-in page, which is not followed"),
            "Check the URL, and the credential with which the source is asked: many services redirect to a sign-in page if it is wrong.",
        ),
        _ if aws == Some(AwsError::Throttling) => problem(
            Code::AssertionUnavailable,
            format!("{name} answered {status}: {said}"),
            "AWS throttles the account's calls. The source is asked again after a pause.",
        ),
        408 | 429 | 472 | 473 | 500..=599 => problem(
            Code::AssertionUnavailable,
            format!("{name} answered {status}: {said}"),
            "The source is overloaded or out of order. It is asked again after a pause.",
        ),
        _ => problem(Code::SourceRefused, format!("{name} refused with {status}: {said}"), source.refusal_remedy()),
    }
}

/// An error of AWS's query APIs that passes, whatever its status is (docs.aws.amazon.com, "Common error types" of the STS API).
#[derive(Clone, Copy, PartialEq, Eq)]
enum AwsError {
    Throttling,
    /// Envoy has no credentials yet, or renews them.
    NoCredentials,
}

impl AwsError {
    fn read(source: &HttpSource, body: &[u8]) -> Option<Self> {
        match error_of(source, body)?.0 {
            "Throttling" | "ThrottlingException" | "RequestLimitExceeded" => Some(Self::Throttling),
            "MissingAuthenticationToken" | "ExpiredToken" | "ExpiredTokenException" => Some(Self::NoCredentials),
            _ => None,
        }
    }
}

/// The code and the message of an error in XML.
fn error_of<'a>(source: &HttpSource, body: &'a [u8]) -> Option<(&'a str, &'a str)> {
    let Format::Xml(_) = &source.format else { return None };
    let text = str::from_utf8(body).ok()?;
    Some((xml::element(text, "Code")?, xml::element(text, "Message").unwrap_or_default()))
}

impl HttpSource {
    /// The source in a message.
    fn name(&self) -> String {
        format!("the source {} (cluster {:?})", self.kind, self.request.cluster)
    }

    fn refusal_remedy(&self) -> &'static str {
        if !self.expected.made_on_demand {
            return MOUNT_THE_FILE;
        }
        super::NAMED.iter().find(|named| named.kind == self.kind).map_or(
            "Check the request in the assertion's configuration, and the credential with which the source is asked.",
            |named| named.remedy,
        )
    }
}

/// What a message shows of an answer, without the secrets and the assertion of the request.
fn quoted(source: &HttpSource, input: Option<&Assertion>, status: u16, body: &[u8]) -> String {
    let token = match &source.format {
        Format::Json(pointer) => pointer.rsplit('/').next(),
        _ => None,
    };
    let text = match error_of(source, body) {
        Some((code, message)) => Ok([code, ": ", message].concat()),
        None => quote::text_of(status, body, token),
    };
    text.map_or_else(str::to_owned, |text| {
        let text = source.request.secrets.removed_from(&text);
        format!("{:?}", UntrustedText::without(&text, input.map_or("", Assertion::expose)).shortened(MAX_QUOTE))
    })
}

fn starts_with_html(body: &[u8]) -> bool {
    body.trim_ascii_start().first() == Some(&b'<')
}

/// The problem of a successful answer that contains no token.
fn invalid(source: &HttpSource, what: String) -> Problem {
    Problem::new(
        Code::SourceReplyInvalid,
        format!("the answer of {} {what}", source.name()),
        "Check that the cluster and the path lead to the source, and response.token in the assertion's configuration.",
    )
}
