//! Responses to the filter's HTTP calls, without cryptography: each access token contains its resource in plain text.

use serde_json::json;
use wasm_host::{Callout, Host, Response};

use super::{ENTRA_AGAIN_CLUSTER, ENTRA_CLUSTER, TOKEN_CLUSTER, unsigned_assertion};

/// The lifetime of the access tokens, in seconds.
const LIFETIME: u64 = 3600;

/// Serves the federated token's file and the token endpoint.
#[derive(Default)]
pub(crate) struct Answers {
    /// The number of access tokens issued.
    pub(crate) exchanges: usize,
}

impl Answers {
    /// Responds to one call.
    pub(crate) fn answer(&mut self, host: &Host, call: &Callout) {
        let response = match call.cluster.as_str() {
            TOKEN_CLUSTER => Response::new(200, unsigned_assertion(host)),
            ENTRA_CLUSTER | ENTRA_AGAIN_CLUSTER => {
                self.exchanges += 1;
                Response::new(200, token_answer(&scope(&call.body)).to_string())
            }
            other => panic!("unexpected call to the cluster {other}"),
        };
        host.respond(call, response);
    }

    /// Responds to all calls, including those that follow from a response, until the host is idle.
    pub(crate) fn serve(&mut self, host: &Host) {
        serve(host, |call| self.answer(host, call));
    }
}

/// Passes all calls to `answer`, including those that follow from a response, until the host is idle.
pub(crate) fn serve(host: &Host, mut answer: impl FnMut(&Callout)) {
    loop {
        host.run_until_idle();
        let calls = host.callouts();
        if calls.is_empty() {
            return;
        }
        calls.iter().for_each(&mut answer);
    }
}

/// The access token for a resource.
pub(crate) fn token(resource: &str) -> String {
    token_of_scope(&format!("{resource}/.default"))
}

/// The `authorization` header for a resource.
pub(crate) fn bearer(resource: &str) -> String {
    format!("Bearer {}", token(resource))
}

/// The token endpoint's response for a scope.
pub(crate) fn token_answer(scope: &str) -> serde_json::Value {
    json!({"token_type": "Bearer", "expires_in": LIFETIME, "access_token": token_of_scope(scope)})
}

fn token_of_scope(scope: &str) -> String {
    let kept: String = scope.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    // Has the form of a JWT; its header is `{"access`.
    format!("eyJhY2Nlc3M.{kept}.c2ln")
}

/// The client assertion of a token request, or an empty string.
pub(crate) fn assertion(form: &[u8]) -> String {
    let form = String::from_utf8_lossy(form);
    form.split('&').find_map(|pair| pair.strip_prefix("client_assertion=")).unwrap_or_default().to_owned()
}

/// The scope of a token request.
pub(crate) fn scope(form: &[u8]) -> String {
    let form = String::from_utf8_lossy(form);
    let scope = form.split('&').find_map(|pair| pair.strip_prefix("scope=")).unwrap_or_default();
    scope.replace("%3A", ":").replace("%2F", "/")
}
