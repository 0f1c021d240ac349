//! Faults that a test injects into the next responses of a source.

use std::time::Duration;

use fake_entra::OtherAlgorithm;
use fake_http::{Disconnect, Response};
use serde_json::{Value, json};

/// A fault of one response. A source consumes its faults in the order in which they were added.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// Responds with exactly this, whatever the request is.
    Respond(Response),
    /// Issues a token with this fault, if the request is valid.
    Token(TokenFault),
    /// Delivers the normal response with this fault.
    Deliver(Delivery),
}

/// A fault of the token.
#[derive(Debug, Clone, PartialEq)]
pub enum TokenFault {
    /// The token is valid for this many seconds from now.
    Lifetime(u64),
    /// The token expired this many seconds ago.
    Expired(u64),
    /// The token is not valid yet, for this many seconds.
    NotYetValid(u64),
    /// The token is signed with an algorithm that Entra does not accept.
    Algorithm(OtherAlgorithm),
    /// The token has these claims in addition to its own, or in place of them.
    Claim(&'static str, Value),
    /// The token lacks this claim.
    Without(&'static str),
    /// The token is larger than usual by this many bytes.
    Padding(usize),
    /// The token ends in the middle of its claims.
    Torn,
    /// This value replaces the token.
    Replaced(Value),
}

/// A fault of the delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// The response is late by this time.
    Delay(Duration),
    /// The connection is reset instead of a response.
    Reset,
    /// The connection is closed in the middle of the body.
    Truncate,
    /// The body ends in its middle, although the HTTP message is complete.
    Torn,
    /// The body has this many bytes of white space before its content.
    Padding(usize),
    /// The body is labelled with this `Content-Type`.
    ContentType(&'static str),
}

impl Fault {
    /// Creates a response with this status and a line of text, as a proxy in front of the source would send it.
    pub fn status(status: u16) -> Self {
        Self::Respond(Response::of_type("text/plain", status, format!("HTTP status {status}\n")))
    }

    /// Creates a 429 with this `Retry-After`: seconds or an HTTP date.
    pub fn retry_after(value: &str) -> Self {
        Self::Respond(Response::of_type("text/plain", 429, "too many requests\n").header("retry-after", value))
    }

    /// Creates a redirect to this URL.
    pub fn redirect(location: &str) -> Self {
        Self::Respond(Response::of_type("text/html", 302, "<html>Moved</html>").header("location", location))
    }

    /// Creates a sign-in page with status 200, as a captive portal sends it.
    pub fn html() -> Self {
        Self::Respond(Response::of_type("text/html; charset=utf-8", 200, SIGN_IN_PAGE))
    }

    /// Creates a normal response that is late by this time.
    pub fn delay(time: Duration) -> Self {
        Self::Deliver(Delivery::Delay(time))
    }

    /// Creates a connection on which no response arrives for an hour.
    pub fn no_response() -> Self {
        Self::delay(Duration::from_secs(3600))
    }

    /// Creates a token for this list of audiences.
    pub fn audiences(audiences: &[&str]) -> Self {
        Self::Token(TokenFault::Claim("aud", json!(audiences)))
    }

    /// Creates a token with this value of the claim `iss`.
    pub fn issuer(issuer: &str) -> Self {
        Self::Token(TokenFault::Claim("iss", json!(issuer)))
    }
}

impl Delivery {
    /// Applies the fault to a response.
    pub(crate) fn apply(&self, mut response: Response) -> Response {
        match self {
            Self::Delay(delay) => response.delay = *delay,
            Self::Reset => response.disconnect = Some(Disconnect::Reset),
            Self::Truncate => response.disconnect = Some(Disconnect::Truncate),
            Self::Torn => response.body.truncate(response.body.len() / 2),
            Self::Padding(bytes) => {
                let mut padded = vec![b' '; *bytes];
                padded.append(&mut response.body);
                response.body = padded;
            }
            Self::ContentType(content_type) => {
                response.headers.retain(|(name, _)| name != "content-type");
                response = response.header("content-type", content_type);
            }
        }
        response
    }
}

/// The body of a sign-in page.
pub(crate) const SIGN_IN_PAGE: &str =
    "<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>Sign in to your account</body></html>\n";
