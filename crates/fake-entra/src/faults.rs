//! Faults that a test injects into the next token requests.

use std::time::Duration;

use serde_json::Value;

use crate::fields::{Fields, InvalidField};
use crate::scope;

/// The maximum delay: an hour, which is longer than any client waits.
const MAX_DELAY_MS: u64 = 3_600_000;
/// The maximum lifetime of an access token: a week, in seconds. Entra's maximum is about a day.
const MAX_LIFETIME: u64 = 604_800;

/// A fault to inject. Faults are consumed in the order in which they were added; a request consumes the first
/// one that applies to its scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The kind of fault.
    pub kind: FaultKind,
    /// The scope of the requests that it applies to: the complete `scope` parameter or one of its parts. `None` is every request.
    pub scope: Option<String>,
    /// The number of requests that it applies to, at least one.
    pub times: u32,
}

/// The effect of a fault on a token request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultKind {
    /// Responds with this HTTP status. The body is an error in Entra's format when there is a `code` or the
    /// status is 4xx, otherwise a line of plain text, as a proxy in front of Entra would send it.
    Status {
        /// The HTTP status, 200 to 599.
        status: u16,
        /// The AADSTS code of the body.
        code: Option<u32>,
        /// The value of the `Retry-After` header, sent unchanged: seconds or an HTTP date.
        retry_after: Option<String>,
    },
    /// Rejects the request with this AADSTS code and the status that Entra uses for it.
    Aadsts {
        /// The number after `AADSTS`.
        code: u32,
    },
    /// Issues a token with these values instead of the default ones.
    Token {
        /// The lifetime in seconds: `expires_in`, and `exp` of the token.
        expires_in: Option<u64>,
        /// The `refresh_in` of the response, in seconds. `None` applies the default rule.
        refresh_in: Option<u64>,
        /// The `aud` of the token.
        audience: Option<String>,
    },
    /// Delays the normal response.
    Delay(Duration),
    /// Closes the connection with a TCP RST instead of a response.
    Reset,
    /// Sends the normal response, but closes the connection in the middle of the body.
    Truncate,
}

impl Fault {
    /// Creates a fault for the next request of any scope.
    pub fn new(kind: FaultKind) -> Self {
        Self { kind, scope: None, times: 1 }
    }

    /// Creates a response with this HTTP status.
    pub fn status(status: u16) -> Self {
        Self::new(FaultKind::Status { status, code: None, retry_after: None })
    }

    /// Creates an HTTP 429 with this `Retry-After`: seconds or an HTTP date.
    pub fn retry_after(value: impl Into<String>) -> Self {
        Self::new(FaultKind::Status { status: 429, code: None, retry_after: Some(value.into()) })
    }

    /// Creates an error with this AADSTS code.
    pub fn aadsts(code: u32) -> Self {
        Self::new(FaultKind::Aadsts { code })
    }

    /// Creates a normal response that is delayed by this time.
    pub fn delay(time: Duration) -> Self {
        Self::new(FaultKind::Delay(time))
    }

    /// Creates a token with a lifetime of this many seconds.
    pub fn expires_in(seconds: u64) -> Self {
        Self::new(FaultKind::Token { expires_in: Some(seconds), refresh_in: None, audience: None })
    }

    /// Limits the fault to this scope.
    #[must_use]
    pub fn for_scope(self, scope: &str) -> Self {
        Self { scope: Some(scope.to_owned()), ..self }
    }

    /// Applies the fault to this many requests.
    #[must_use]
    pub fn times(self, times: u32) -> Self {
        Self { times, ..self }
    }

    /// Parses the list of a `POST /faults` request.
    ///
    /// # Errors
    /// Names the field that is unknown, missing, of the wrong type or out of range.
    pub fn list_from_json(list: &Value) -> Result<Vec<Self>, InvalidField> {
        let list = list.as_array().ok_or_else(|| InvalidField::new("", "must be a JSON list of faults"))?;
        list.iter()
            .enumerate()
            .map(|(index, fault)| Self::from_json(fault).map_err(|error| error.in_entry(index)))
            .collect()
    }

    fn from_json(fault: &Value) -> Result<Self, InvalidField> {
        let mut fields = Fields::of(fault)?;
        let kind = match fields.required_text("kind")?.as_str() {
            "status" => FaultKind::Status {
                status: status(fields.required_number("status", 200, 599)?),
                code: code(&mut fields)?,
                retry_after: retry_after(&mut fields)?,
            },
            "retry_after" => {
                FaultKind::Status {
                    status: status(fields.number("status", 400, 599)?.unwrap_or(429)),
                    code: code(&mut fields)?,
                    retry_after: Some(retry_after(&mut fields)?.ok_or_else(|| {
                        InvalidField::new("seconds", "is missing: set a whole number or an HTTP date")
                    })?),
                }
            }
            "aadsts" => FaultKind::Aadsts {
                code: code(&mut fields)?
                    .ok_or_else(|| InvalidField::new("code", "is missing: set the number after AADSTS"))?,
            },
            "token" => FaultKind::Token {
                expires_in: fields.number("expires_in", 0, MAX_LIFETIME)?,
                refresh_in: fields.number("refresh_in", 0, MAX_LIFETIME)?,
                audience: fields.text("audience")?,
            },
            "delay" => FaultKind::Delay(Duration::from_millis(fields.required_number("ms", 0, MAX_DELAY_MS)?)),
            "reset" => FaultKind::Reset,
            "truncate" => FaultKind::Truncate,
            unknown => {
                return Err(InvalidField::new(
                    "kind",
                    format!(
                        "{unknown:?} is not a valid kind; valid kinds are: status, delay, reset, truncate, retry_after, aadsts, token"
                    ),
                ));
            }
        };
        let scope = fields.text("scope")?;
        let times = fields.number("times", 1, u32::MAX.into())?.unwrap_or(1);
        fields.end()?;
        Ok(Self { kind, scope, times: u32::try_from(times).unwrap_or(u32::MAX) })
    }
}

fn status(number: u64) -> u16 {
    u16::try_from(number).unwrap_or(599)
}

fn code(fields: &mut Fields) -> Result<Option<u32>, InvalidField> {
    let code = fields.number("code", 1, u32::MAX.into())?;
    Ok(code.map(|code| u32::try_from(code).unwrap_or(u32::MAX)))
}

/// Parses seconds as a number, or any text that is valid in a header.
fn retry_after(fields: &mut Fields) -> Result<Option<String>, InvalidField> {
    match fields.value("seconds") {
        None => Ok(None),
        Some(Value::Number(seconds)) => Ok(Some(seconds.to_string())),
        Some(Value::String(text)) if text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) => Ok(Some(text)),
        Some(_) => Err(InvalidField::new("seconds", "must be a number or an HTTP date as a string")),
    }
}

/// The pending faults, in order.
#[derive(Debug, Default)]
pub(crate) struct Pending(Vec<Fault>);

impl Pending {
    pub(crate) fn add(&mut self, faults: Vec<Fault>) {
        self.0.extend(faults.into_iter().filter(|fault| fault.times > 0));
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Consumes one use of the first fault that applies to a request for `scope`.
    pub(crate) fn take(&mut self, scope: &str) -> Option<FaultKind> {
        let applies = |fault: &Fault| fault.scope.as_deref().is_none_or(|wanted| scope::contains(scope, wanted));
        let index = self.0.iter().position(applies)?;
        let fault = &mut self.0[index];
        fault.times -= 1;
        let kind = fault.kind.clone();
        if fault.times == 0 {
            self.0.remove(index);
        }
        Some(kind)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wrong_field(list: Value) -> String {
        Fault::list_from_json(&list).expect_err("the list is not valid").field
    }

    #[test]
    fn every_kind_is_parsed() {
        let faults = Fault::list_from_json(&json!([
            { "kind": "status", "status": 503, "times": 2 },
            { "kind": "delay", "ms": 250 },
            { "kind": "reset" },
            { "kind": "truncate" },
            { "kind": "retry_after", "seconds": 7 },
            { "kind": "retry_after", "seconds": "Fri, 31 Dec 1999 23:59:59 GMT" },
            { "kind": "aadsts", "code": 700024, "scope": "api://a/.default" },
            { "kind": "token", "expires_in": 86399, "refresh_in": 43199, "audience": "x" },
        ]))
        .expect("the list is valid");
        assert_eq!(faults.len(), 8);
        assert_eq!(faults[0], Fault::status(503).times(2));
        assert_eq!(faults[4], Fault::retry_after("7"));
        assert_eq!(faults[6], Fault::aadsts(700024).for_scope("api://a/.default"));
    }

    #[test]
    fn an_error_names_the_invalid_field() {
        assert_eq!(wrong_field(json!([{ "kind": "stauts" }])), "[0].kind");
        assert_eq!(wrong_field(json!([{ "kind": "reset" }, { "kind": "delay" }])), "[1].ms");
        assert_eq!(wrong_field(json!([{ "kind": "reset", "ms": 3 }])), "[0].ms");
        assert_eq!(wrong_field(json!([{ "kind": "status", "status": 1000 }])), "[0].status");
        assert_eq!(wrong_field(json!([{ "kind": "reset", "times": 0 }])), "[0].times");
        assert_eq!(wrong_field(json!([{ "kind": "retry_after" }])), "[0].seconds");
        assert_eq!(wrong_field(json!(["reset"])), "[0]");
        assert_eq!(wrong_field(json!({ "kind": "reset" })), "");
    }

    #[test]
    fn faults_are_consumed_in_order_and_only_by_requests_of_their_scope() {
        let mut pending = Pending::default();
        pending.add(vec![Fault::aadsts(1).for_scope("b"), Fault::aadsts(2).times(2), Fault::aadsts(3)]);
        assert_eq!(pending.take("a"), Some(FaultKind::Aadsts { code: 2 }));
        assert_eq!(pending.take("b openid"), Some(FaultKind::Aadsts { code: 1 }));
        assert_eq!(pending.take("b"), Some(FaultKind::Aadsts { code: 2 }));
        assert_eq!(pending.take("b"), Some(FaultKind::Aadsts { code: 3 }));
        assert_eq!(pending.take("b"), None);
    }
}
