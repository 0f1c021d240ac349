//! A token service with an API of its own, which only a general HTTP source can describe.
//!
//! `POST /v2/tokens` with `X-Api-Key` and `{"audience": …, "ttl_seconds": …}`. The token is at `/result/jwt`, and its expiry is an RFC 3339
//! timestamp at `/result/expires_at`. Errors are at `/error/code` and `/error/text`.

use fake_entra::{Issuer, unique_guid, unix_seconds};
use fake_http::{Request, Response};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::source::{Rejection, Source, State};
use crate::token::{Claims, Mint};

const PATH: &str = "/v2/tokens";
/// The greatest `ttl_seconds`, which is also the default.
const MAX_LIFETIME: u64 = 900;

/// A token service with one client.
#[derive(Clone)]
pub struct JsonService {
    state: State,
    api_key: String,
}

impl Default for JsonService {
    fn default() -> Self {
        Self::new()
    }
}

impl JsonService {
    /// Creates the service with a new API key for its client.
    pub fn new() -> Self {
        Self { state: State::new(Issuer::new("https://tokens.example")), api_key: unique_guid() }
    }

    /// The client's API key.
    pub fn api_key(&self) -> &str {
        &self.api_key
    }

    /// The path of the endpoint.
    pub fn target(&self) -> &'static str {
        PATH
    }

    fn check(&self, request: &Request) -> Result<(String, u64), Rejection> {
        if (request.method.as_str(), request.target.as_str()) != ("POST", PATH) {
            return Err(reject(404, "no_route", "the request is not POST /v2/tokens"));
        }
        if request.header("x-api-key") != Some(&self.api_key) {
            return Err(reject(401, "bad_key", "the API key is missing or wrong"));
        }
        if !request.has_media_type("application/json") {
            return Err(reject(415, "bad_type", "the body is not application/json"));
        }
        let body: Value = serde_json::from_slice(&request.body)
            .map_err(|error| reject(400, "bad_body", &format!("the body is not JSON: {error}")))?;
        let audience = body["audience"].as_str().filter(|audience| !audience.is_empty());
        let audience = audience.ok_or_else(|| reject(400, "bad_body", "audience is missing or not a string"))?;
        let lifetime = match &body["ttl_seconds"] {
            Value::Null => Some(MAX_LIFETIME),
            seconds => seconds.as_u64().filter(|seconds| (1..=MAX_LIFETIME).contains(seconds)),
        };
        let lifetime = lifetime.ok_or_else(|| reject(422, "bad_ttl", "ttl_seconds is not a number from 1 to 900"))?;
        Ok((audience.to_owned(), lifetime))
    }
}

impl Source for JsonService {
    fn state(&self) -> &State {
        &self.state
    }

    fn subject(&self) -> String {
        "workload/payments".to_owned()
    }

    fn answer(&self, request: &Request, mint: &Mint<'_>) -> Result<Response, Rejection> {
        let (audience, lifetime) = self.check(request)?;
        let claims = Claims { subject: self.subject(), audience: json!(audience), lifetime, own: Value::Null };
        let expires = unix_seconds(mint.now()).saturating_add(mint.lifetime(&claims));
        let expires = i64::try_from(expires).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
        let expires = expires.and_then(|expires| expires.format(&Rfc3339).ok());
        let result = json!({ "result": { "jwt": mint.token(&claims), "expires_at": expires } });
        Ok(Response::json(201, result.to_string()))
    }
}

fn reject(status: u16, code: &str, reason: &str) -> Rejection {
    Rejection::new(Response::json(status, json!({ "error": { "code": code, "text": reason } }).to_string()), reason)
}
