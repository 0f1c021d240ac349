//! Client authentication at a token endpoint (RFC 6749, section 2.3; RFC 7523, section 2.2).

use std::time::SystemTime;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use fake_entra::{Issuer, claims};
use fake_http::Request;

use crate::parameters::Parameters;

const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// A client of a token endpoint.
#[derive(Clone)]
pub struct Client {
    /// The client id.
    pub id: String,
    /// How the client authenticates. Any other method is rejected.
    pub auth: ClientAuth,
}

/// How a client authenticates.
#[derive(Clone)]
pub enum ClientAuth {
    /// `client_secret_basic`: `Authorization: Basic` with id and secret, each form-encoded first (RFC 6749, section 2.3.1).
    SecretBasic(String),
    /// `client_secret_post`: `client_id` and `client_secret` in the form.
    SecretPost(String),
    /// `client_assertion` in the form: a token of another issuer with this subject, whose `aud` is the token endpoint's issuer.
    Assertion {
        /// The issuer of the assertions.
        issuer: Issuer,
        /// Their `sub`.
        subject: String,
    },
}

impl Client {
    /// Checks the credentials of a request. The error says what is wrong.
    pub(crate) fn authenticate(
        &self,
        request: &Request,
        form: &Parameters,
        own_issuer: &str,
        now: SystemTime,
    ) -> Result<(), String> {
        let basic = request.header("authorization");
        let methods = [basic.is_some(), form.get("client_secret").is_some(), form.get("client_assertion").is_some()];
        if methods.iter().filter(|used| **used).count() > 1 {
            return Err("the request uses more than one method of client authentication".to_owned());
        }
        let id = form.get("client_id");
        if id.is_some_and(|id| id != self.id) {
            return Err("the client_id is unknown".to_owned());
        }
        match &self.auth {
            ClientAuth::SecretBasic(secret) => {
                let (id, sent) = parse_basic(basic.ok_or("the Authorization header is missing")?)?;
                equal(&id, &self.id, "client id")?;
                equal(&sent, secret, "client secret")
            }
            ClientAuth::SecretPost(secret) => {
                id.ok_or("the parameter client_id is missing")?;
                equal(
                    form.get("client_secret").ok_or("the parameter client_secret is missing")?,
                    secret,
                    "client secret",
                )
            }
            ClientAuth::Assertion { issuer, subject } => {
                if form.get("client_assertion_type") != Some(JWT_BEARER) {
                    return Err(format!("the parameter client_assertion_type is not {JWT_BEARER}"));
                }
                let assertion = form.get("client_assertion").ok_or("the parameter client_assertion is missing")?;
                if !issuer.signed(assertion, now) {
                    return Err("the client assertion is not signed by its issuer, or not valid now".to_owned());
                }
                let claims = claims(assertion).unwrap_or_default();
                let is_for_this_server =
                    claims["aud"] == own_issuer || claims["aud"] == serde_json::json!([own_issuer]);
                if claims["iss"] != issuer.url() || claims["sub"] != subject.as_str() || !is_for_this_server {
                    return Err("the client assertion has another iss, sub or aud".to_owned());
                }
                Ok(())
            }
        }
    }
}

fn equal(sent: &str, expected: &str, name: &str) -> Result<(), String> {
    if sent == expected { Ok(()) } else { Err(format!("the {name} is wrong")) }
}

/// Decodes `Basic` credentials strictly: id and secret must be form-encoded, so a raw `%`, `/` or space in either is an error.
fn parse_basic(header: &str) -> Result<(String, String), String> {
    let encoded = header.strip_prefix("Basic ").ok_or("the Authorization header is not Basic")?;
    let decoded = BASE64_STANDARD.decode(encoded).map_err(|_| "the Basic credentials are not base64")?;
    let pair = String::from_utf8(decoded).map_err(|_| "the Basic credentials are not UTF-8")?;
    let (id, secret) = pair.split_once(':').ok_or("the Basic credentials have no colon")?;
    Ok((form_decode(id, "client id")?, form_decode(secret, "client secret")?))
}

fn form_decode(encoded: &str, name: &str) -> Result<String, String> {
    let mut bytes = encoded.bytes();
    while let Some(byte) = bytes.next() {
        let is_valid = match byte {
            b'%' => {
                [bytes.next(), bytes.next()].iter().all(|digit| digit.is_some_and(|digit| digit.is_ascii_hexdigit()))
            }
            b'*' | b'-' | b'.' | b'_' | b'~' | b'+' => true,
            other => other.is_ascii_alphanumeric(),
        };
        if !is_valid {
            return Err(format!("the {name} in the Basic credentials is not form-encoded (RFC 6749, section 2.3.1)"));
        }
    }
    // As the name of a parameter it cannot contain `&` or `=`, which the loop has excluded.
    let decoded = form_urlencoded::parse(encoded.as_bytes()).next();
    Ok(decoded.map(|(name, _)| name.into_owned()).unwrap_or_default())
}
