//! Answers to the filter's calls without any cryptography: the token of a resource can be told by looking at it.

use serde_json::json;
use wasm_host::{Callout, Host, Response};

use super::{ENTRA_AGAIN_CLUSTER, ENTRA_CLUSTER, TOKEN_CLUSTER, unsigned_assertion};

/// How long its tokens live, in seconds.
const LIFE: u64 = 3600;

/// The token's file and the token endpoint, in one.
#[derive(Default)]
pub(crate) struct Answers {
    /// How many tokens have been given out.
    pub(crate) exchanges: usize,
}

impl Answers {
    /// Answers one call.
    pub(crate) fn answer(&mut self, host: &Host, call: &Callout) {
        let response = match call.cluster.as_str() {
            TOKEN_CLUSTER => Response::new(200, unsigned_assertion(host)),
            ENTRA_CLUSTER | ENTRA_AGAIN_CLUSTER => {
                self.exchanges += 1;
                Response::new(200, token_answer(&scope(&call.body)).to_string())
            }
            other => panic!("a call to {other}"),
        };
        host.respond(call, response);
    }

    /// Answers all calls, and those that come of it, until nothing more can happen.
    pub(crate) fn serve(&mut self, host: &Host) {
        loop {
            host.run_until_idle();
            let calls = host.callouts();
            if calls.is_empty() {
                return;
            }
            for call in &calls {
                self.answer(host, call);
            }
        }
    }
}

/// The access token of a resource.
pub(crate) fn token(resource: &str) -> String {
    token_of_scope(&format!("{resource}/.default"))
}

/// What is set for it as the `authorization` header.
pub(crate) fn bearer(resource: &str) -> String {
    format!("Bearer {}", token(resource))
}

/// The token endpoint's answer for a scope.
pub(crate) fn token_answer(scope: &str) -> serde_json::Value {
    json!({"token_type": "Bearer", "expires_in": LIFE, "access_token": token_of_scope(scope)})
}

fn token_of_scope(scope: &str) -> String {
    let kept: String = scope.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    // A JWT, as far as anybody looks: the header says "access".
    format!("eyJhY2Nlc3M.{kept}.c2ln")
}

/// The federated token of a token request; empty where there is none.
pub(crate) fn assertion(form: &[u8]) -> String {
    let form = String::from_utf8_lossy(form);
    form.split('&').find_map(|pair| pair.strip_prefix("client_assertion=")).unwrap_or_default().to_owned()
}

/// The scope that a token request asks for.
pub(crate) fn scope(form: &[u8]) -> String {
    let form = String::from_utf8_lossy(form);
    let scope = form.split('&').find_map(|pair| pair.strip_prefix("scope=")).unwrap_or_default();
    scope.replace("%3A", ":").replace("%2F", "/")
}
