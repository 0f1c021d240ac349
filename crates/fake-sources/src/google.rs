//! Google's metadata server.
//!
//! `GET /computeMetadata/v1/instance/service-accounts/default/identity?audience=…&format=full` with `Metadata-Flavor: Google`. The body is
//! the token alone, and its `Content-Type` does not say so.

use fake_entra::Issuer;
use fake_http::{Request, Response};
use serde_json::{Value, json};

use crate::parameters::Parameters;
use crate::source::{Rejection, Source, State};
use crate::token::{Claims, Mint};

const ISSUER: &str = "https://accounts.google.com";
const PATH: &str = "/computeMetadata/v1/instance/service-accounts/default/identity";
const ACCOUNT: &str = "112233445566778899001";
/// The seconds for which a token is valid.
const LIFETIME: u64 = 3600;

/// The metadata server of an instance with a service account.
#[derive(Clone)]
pub struct Google {
    state: State,
}

impl Default for Google {
    fn default() -> Self {
        Self::new()
    }
}

impl Google {
    /// The host of the URL.
    pub const HOST: &'static str = "metadata.google.internal";

    /// Creates the metadata server.
    pub fn new() -> Self {
        Self { state: State::new(Issuer::new(ISSUER)) }
    }

    /// The path of the identity token.
    pub fn target(&self) -> &'static str {
        PATH
    }
}

impl Source for Google {
    fn state(&self) -> &State {
        &self.state
    }

    /// The service account's numeric id.
    fn subject(&self) -> String {
        ACCOUNT.to_owned()
    }

    fn answer(&self, request: &Request, mint: &Mint<'_>) -> Result<Response, Rejection> {
        if request.header("x-forwarded-for").is_some() {
            return Err(reject(403, "the request has an X-Forwarded-For header"));
        }
        if request.header("metadata-flavor") != Some("Google") {
            return Err(reject(403, "the header Metadata-Flavor: Google is missing"));
        }
        if request.method != "GET" {
            return Err(reject(405, "the method is not GET"));
        }
        if request.path() != PATH {
            return Err(reject(404, &format!("the path is {}, not {PATH}", request.path())));
        }
        let parameters = Parameters::parse(request.query().as_bytes());
        let Some(audience) = parameters.get("audience") else {
            return Err(reject(400, "non-empty audience parameter required"));
        };
        let is_full = match parameters.get("format").unwrap_or("standard") {
            "full" => true,
            "standard" => false,
            other => return Err(reject(400, &format!("the parameter format is {other}, not standard or full"))),
        };
        let email =
            json!({ "azp": ACCOUNT, "email": "payments@contoso.iam.gserviceaccount.com", "email_verified": true });
        let own = if is_full { email } else { json!({ "azp": ACCOUNT }) };
        let claims = Claims { subject: self.subject(), audience: json!(audience), lifetime: LIFETIME, own };
        let body = match mint.token(&claims) {
            Value::String(token) => token,
            other => other.to_string(),
        };
        Ok(text(200, &body))
    }
}

fn reject(status: u16, reason: &str) -> Rejection {
    Rejection::new(text(status, &format!("{reason}\n")), reason)
}

fn text(status: u16, body: &str) -> Response {
    Response::of_type("text/html", status, body)
        .header("metadata-flavor", "Google")
        .header("server", "Metadata Server for VM")
}
