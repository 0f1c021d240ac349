//! The identity tokens of Vault and OpenBao.
//!
//! `GET /v1/identity/oidc/token/<role>` with `X-Vault-Token`. The `aud` is the role's client id.

use std::sync::{Arc, Mutex, PoisonError};

use fake_entra::{Issuer, guid_of, unique_guid};
use fake_http::{Request, Response};
use serde_json::{Value, json};

use crate::faults::Fault;
use crate::source::{Rejection, Source, State};
use crate::token::{Claims, Mint};

const PATH: &str = "identity/oidc/token/";
/// The role's ttl, in seconds.
const LIFETIME: u64 = 3600;

/// A Vault with one role, whose client id is `api://AzureADTokenExchange`.
#[derive(Clone)]
pub struct Vault {
    state: State,
    token: Arc<Mutex<String>>,
    requires_request_header: bool,
}

impl Default for Vault {
    fn default() -> Self {
        Self::new()
    }
}

impl Vault {
    /// The name of the role.
    pub const ROLE: &'static str = "payments";

    /// Creates a Vault with a new token for its client.
    pub fn new() -> Self {
        Self {
            state: State::new(Issuer::new("https://vault.example/v1/identity/oidc")),
            token: Arc::new(Mutex::new(unique_guid())),
            requires_request_header: false,
        }
    }

    /// Demands `X-Vault-Request: true`, as a listener with `require_request_header` does.
    #[must_use]
    pub fn requiring_request_header(self) -> Self {
        Self { requires_request_header: true, ..self }
    }

    /// The client's valid Vault token.
    pub fn token(&self) -> String {
        self.token.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Revokes the client's Vault token and returns a new one, as after a login of the agent.
    pub fn renew_token(&self) -> String {
        let renewed = unique_guid();
        self.token.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&renewed);
        renewed
    }

    /// The response of a sealed Vault.
    pub fn sealed() -> Fault {
        Fault::Respond(reject(503, "Vault is sealed").response)
    }

    /// The response of a performance standby that cannot forward the request.
    pub fn standby() -> Fault {
        Fault::Respond(Response::json(473, ""))
    }

    /// The response when a quota is exhausted.
    pub fn quota() -> Fault {
        Fault::Respond(reject(429, "request path \"identity/oidc/token\": rate limit quota exceeded").response)
    }

    /// The response to a token without an entity, such as a root token.
    pub fn no_entity() -> Fault {
        Fault::Respond(reject(400, "no entity associated with the request's token").response)
    }
}

impl Source for Vault {
    fn state(&self) -> &State {
        &self.state
    }

    /// The entity's id.
    fn subject(&self) -> String {
        guid_of(&["entity", Self::ROLE])
    }

    fn answer(&self, request: &Request, mint: &Mint<'_>) -> Result<Response, Rejection> {
        if self.requires_request_header && request.header("x-vault-request") != Some("true") {
            return Err(reject(412, "missing 'X-Vault-Request' header"));
        }
        match request.header("x-vault-token") {
            Some(token) if token == self.token() => {}
            Some(_) => return Err(reject(403, "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n")),
            None => return Err(reject(403, "permission denied")),
        }
        let path = request.path().strip_prefix("/v1/").unwrap_or_default();
        let Some(role) = path.strip_prefix(PATH) else {
            return Err(reject(404, &format!("no handler for route \"{path}\". route entry not found.")));
        };
        if request.method != "GET" {
            return Err(reject(405, "1 error occurred:\n\t* unsupported operation\n\n"));
        }
        if role != Self::ROLE {
            return Err(reject(400, &format!("role \"{role}\" not found")));
        }
        let audience = Value::String(crate::AUDIENCE.to_owned());
        let claims =
            Claims { subject: self.subject(), audience, lifetime: LIFETIME, own: json!({ "namespace": "root" }) };
        let body = json!({
            "request_id": unique_guid(),
            "lease_id": "",
            "renewable": false,
            "lease_duration": 0,
            "data": { "client_id": crate::AUDIENCE, "token": mint.token(&claims), "ttl": mint.lifetime(&claims) },
            "wrap_info": null,
            "warnings": null,
            "auth": null,
        });
        Ok(Response::json(200, body.to_string()))
    }
}

fn reject(status: u16, reason: &str) -> Rejection {
    Rejection::new(Response::json(status, json!({ "errors": [reason] }).to_string()), reason)
}
