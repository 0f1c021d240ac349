//! Faults that a test orders: the next token requests fail in this way.

use std::time::Duration;

use serde_json::Value;

use crate::fields::{Fields, InvalidField};
use crate::scope;

/// Longest delay, an hour: longer than any client waits.
const LONGEST_DELAY_MS: u64 = 3_600_000;
/// Longest life of an access token, a week, in seconds; Entra's longest is about a day.
const LONGEST_LIFE: u64 = 604_800;

/// An order to fail. Faults are consumed in the order they were added; a request takes the first
/// one that applies to its scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What happens.
    pub kind: FaultKind,
    /// Only for requests whose `scope` is this text or has it as a part; `None` is every request.
    pub scope: Option<String>,
    /// How many requests it hits, at least one.
    pub times: u32,
}

/// What happens to a token request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultKind {
    /// Answers with this HTTP status: with an error of Entra's shape when there is a `code` or the
    /// status is 4xx, else with a line of plain text, as a proxy before Entra would.
    Status {
        /// HTTP status, 200 to 599.
        status: u16,
        /// AADSTS code of the body.
        code: Option<u32>,
        /// Value of the `Retry-After` header, sent as it is: seconds or an HTTP date.
        retry_after: Option<String>,
    },
    /// Refuses with this AADSTS code, and with the status that Entra answers for it.
    Aadsts {
        /// The number after `AADSTS`.
        code: u32,
    },
    /// Issues a token as usual, with these values in place of the usual ones.
    Token {
        /// Life in seconds: `expires_in`, and `exp` of the token.
        expires_in: Option<u64>,
        /// Seconds after which the client should refresh. Without it the usual rule holds.
        refresh_in: Option<u64>,
        /// `aud` of the token.
        audience: Option<String>,
    },
    /// Answers as usual, but later.
    Delay(Duration),
    /// Closes the connection with a TCP RST in place of an answer.
    Reset,
    /// Answers as usual, but the connection closes in the middle of the body.
    Truncate,
}

impl Fault {
    /// A fault for the next request, whatever its scope.
    pub fn new(kind: FaultKind) -> Self {
        Self { kind, scope: None, times: 1 }
    }

    /// An answer with this HTTP status.
    pub fn status(status: u16) -> Self {
        Self::new(FaultKind::Status { status, code: None, retry_after: None })
    }

    /// HTTP 429 with this `Retry-After`: seconds or an HTTP date.
    pub fn retry_after(value: impl Into<String>) -> Self {
        Self::new(FaultKind::Status { status: 429, code: None, retry_after: Some(value.into()) })
    }

    /// A refusal with this AADSTS code.
    pub fn aadsts(code: u32) -> Self {
        Self::new(FaultKind::Aadsts { code })
    }

    /// A usual answer after this time.
    pub fn delay(time: Duration) -> Self {
        Self::new(FaultKind::Delay(time))
    }

    /// A token that lives this many seconds.
    pub fn expires_in(seconds: u64) -> Self {
        Self::new(FaultKind::Token { expires_in: Some(seconds), refresh_in: None, audience: None })
    }

    /// Only for this scope.
    #[must_use]
    pub fn for_scope(self, scope: &str) -> Self {
        Self { scope: Some(scope.to_owned()), ..self }
    }

    /// For this many requests.
    #[must_use]
    pub fn times(self, times: u32) -> Self {
        Self { times, ..self }
    }

    /// Reads the list that `POST /faults` takes.
    ///
    /// # Errors
    /// Names the field that is unknown, missing, of the wrong type or out of range.
    pub fn list_from_json(list: &Value) -> Result<Vec<Self>, InvalidField> {
        let list = list.as_array().ok_or_else(|| InvalidField::new("", "a JSON list of faults is needed"))?;
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
            "retry_after" => FaultKind::Status {
                status: status(fields.number("status", 400, 599)?.unwrap_or(429)),
                code: code(&mut fields)?,
                retry_after: Some(retry_after(&mut fields)?.ok_or_else(|| {
                    InvalidField::new("seconds", "is missing: a whole number or an HTTP date is needed")
                })?),
            },
            "aadsts" => FaultKind::Aadsts {
                code: code(&mut fields)?
                    .ok_or_else(|| InvalidField::new("code", "is missing: the number after AADSTS is needed"))?,
            },
            "token" => FaultKind::Token {
                expires_in: fields.number("expires_in", 0, LONGEST_LIFE)?,
                refresh_in: fields.number("refresh_in", 0, LONGEST_LIFE)?,
                audience: fields.text("audience")?,
            },
            "delay" => FaultKind::Delay(Duration::from_millis(fields.required_number("ms", 0, LONGEST_DELAY_MS)?)),
            "reset" => FaultKind::Reset,
            "truncate" => FaultKind::Truncate,
            unknown => {
                return Err(InvalidField::new(
                    "kind",
                    format!(
                        "{unknown:?} is not known; known are: status, delay, reset, truncate, retry_after, aadsts, token"
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

/// Seconds as a number, or any text that fits into a header.
fn retry_after(fields: &mut Fields) -> Result<Option<String>, InvalidField> {
    match fields.value("seconds") {
        None => Ok(None),
        Some(Value::Number(seconds)) => Ok(Some(seconds.to_string())),
        Some(Value::String(text)) if text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) => Ok(Some(text)),
        Some(_) => Err(InvalidField::new("seconds", "must be a number or an HTTP date as a string")),
    }
}

/// The faults that are still to happen, in order.
#[derive(Debug, Default)]
pub(crate) struct Pending(Vec<Fault>);

impl Pending {
    pub(crate) fn add(&mut self, faults: Vec<Fault>) {
        self.0.extend(faults.into_iter().filter(|fault| fault.times > 0));
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Takes one use of the first fault that applies to a request for `scope`.
    pub(crate) fn take(&mut self, scope: &str) -> Option<FaultKind> {
        let applies = |fault: &Fault| fault.scope.as_deref().is_none_or(|wanted| scope::names(scope, wanted));
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
        Fault::list_from_json(&list).expect_err("the list is wrong").field
    }

    #[test]
    fn every_kind_is_read() {
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
        .expect("the list is right");
        assert_eq!(faults.len(), 8);
        assert_eq!(faults[0], Fault::status(503).times(2));
        assert_eq!(faults[4], Fault::retry_after("7"));
        assert_eq!(faults[6], Fault::aadsts(700024).for_scope("api://a/.default"));
    }

    #[test]
    fn a_mistake_is_named_by_its_field() {
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
    fn faults_are_consumed_in_order_and_only_by_their_scope() {
        let mut pending = Pending::default();
        pending.add(vec![Fault::aadsts(1).for_scope("b"), Fault::aadsts(2).times(2), Fault::aadsts(3)]);
        assert_eq!(pending.take("a"), Some(FaultKind::Aadsts { code: 2 }));
        assert_eq!(pending.take("b openid"), Some(FaultKind::Aadsts { code: 1 }));
        assert_eq!(pending.take("b"), Some(FaultKind::Aadsts { code: 2 }));
        assert_eq!(pending.take("b"), Some(FaultKind::Aadsts { code: 3 }));
        assert_eq!(pending.take("b"), None);
    }
}
