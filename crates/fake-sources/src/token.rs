//! Creates the tokens of a source.

use std::time::SystemTime;

use fake_entra::{Issuer, unique_guid, unix_seconds};
use serde_json::{Map, Value, json};

use crate::faults::TokenFault;

/// The claims that every token has. A source adds its own.
#[derive(Debug, Clone)]
pub struct Claims {
    /// The `sub`.
    pub subject: String,
    /// The `aud`, a string or a list.
    pub audience: Value,
    /// The seconds from `iat` to `exp`.
    pub lifetime: u64,
    /// The source's own claims. They replace the common ones of the same name; null removes one.
    pub own: Value,
}

/// Creates tokens for one response, with the response's fault.
pub struct Mint<'a> {
    pub(crate) issuer: &'a Issuer,
    pub(crate) now: SystemTime,
    pub(crate) fault: Option<&'a TokenFault>,
}

impl Mint<'_> {
    /// The time of the request.
    pub fn now(&self) -> SystemTime {
        self.now
    }

    /// Returns the number of seconds for which a token with these claims is valid, with the fault.
    pub fn lifetime(&self, claims: &Claims) -> u64 {
        match self.fault {
            Some(TokenFault::Lifetime(seconds)) => *seconds,
            _ => claims.lifetime,
        }
    }

    /// Creates a token: a JSON string, unless the fault replaces it.
    pub fn token(&self, claims: &Claims) -> Value {
        let mut content = self.claims(claims);
        match self.fault {
            Some(TokenFault::Replaced(value)) => return value.clone(),
            Some(TokenFault::Algorithm(algorithm)) => {
                return json!(self.issuer.sign_with(*algorithm, &Value::Object(content)));
            }
            Some(TokenFault::Claim(name, value)) => {
                content.insert((*name).to_owned(), value.clone());
            }
            Some(TokenFault::Without(name)) => {
                content.remove(*name);
            }
            Some(TokenFault::Padding(bytes)) => {
                content.insert("padding".to_owned(), json!("x".repeat(*bytes)));
            }
            _ => {}
        }
        let mut token = self.issuer.sign(&Value::Object(content));
        if self.fault == Some(&TokenFault::Torn) {
            token.truncate(token.len() / 2);
        }
        json!(token)
    }

    fn claims(&self, claims: &Claims) -> Map<String, Value> {
        let now = unix_seconds(self.now);
        let (issued, expires) = match self.fault {
            Some(TokenFault::Expired(seconds)) => {
                let expired = now.saturating_sub(*seconds);
                (expired.saturating_sub(claims.lifetime), expired)
            }
            Some(TokenFault::NotYetValid(seconds)) => (now + seconds, now + seconds + claims.lifetime),
            _ => (now, now + self.lifetime(claims)),
        };
        let mut content = Map::new();
        let mut set = |name: &str, value: Value| content.insert(name.to_owned(), value);
        set("iss", json!(self.issuer.url()));
        set("sub", json!(claims.subject));
        set("aud", claims.audience.clone());
        set("iat", json!(issued));
        set("nbf", json!(issued));
        set("exp", json!(expires));
        set("jti", json!(unique_guid()));
        for (name, value) in claims.own.as_object().into_iter().flatten() {
            match value {
                Value::Null => content.remove(name),
                value => content.insert(name.clone(), value.clone()),
            };
        }
        content
    }
}
