//! The endpoints of Azure's managed identities, for the resource of the token exchange.
//!
//! | endpoint | request |
//! |---|---|
//! | IMDS of a virtual machine | `GET /metadata/identity/oauth2/token?api-version=2018-02-01&resource=…&client_id=…` with `Metadata: true` |
//! | App Service | `GET $IDENTITY_ENDPOINT?api-version=2019-08-01&resource=…&client_id=…` with `X-IDENTITY-HEADER: $IDENTITY_HEADER` |
//!
//! The machine and the app have one user-assigned identity and none of their own. Entra issues the tokens: their audience is the GUID of the
//! exchange's application.

use std::collections::BTreeSet;

use fake_entra::{Issuer, unique_guid, unix_seconds};
use fake_http::{Request, Response};
use serde_json::{Value, json};

use crate::parameters::Parameters;
use crate::source::{Rejection, Source, State};
use crate::token::{Claims, Mint};
use crate::{AUDIENCE, EXCHANGE_APPLICATION};

const IMDS_PATH: &str = "/metadata/identity/oauth2/token";
const APP_SERVICE_PATH: &str = "/msi/token";
const PRINCIPAL: &str = "c6a1f3b2-8d47-4e05-9b1c-2f7e5d3a9c84";
const RESOURCE: &str = "/subscriptions/5e0c7a91-3d2b-4f6e-8a17-9b4c2d1e0f35/resourcegroups/payments/providers/\
                        Microsoft.ManagedIdentity/userAssignedIdentities/payments";
/// The seconds for which a token is valid.
const LIFETIME: u64 = 86_400;

/// The endpoint of a user-assigned managed identity.
#[derive(Clone)]
pub struct ManagedIdentity {
    state: State,
    /// The value of `IDENTITY_HEADER`, if the endpoint is App Service's.
    app_service: Option<String>,
}

impl ManagedIdentity {
    /// The client id of the identity.
    pub const CLIENT_ID: &'static str = "dddddddd-0000-4000-8000-000000000004";

    /// Creates the IMDS of a virtual machine with an identity of this tenant.
    pub fn imds(tenant_id: &str) -> Self {
        Self { state: state(tenant_id), app_service: None }
    }

    /// Creates the endpoint of an app with an identity of this tenant, with a new secret.
    pub fn app_service(tenant_id: &str) -> Self {
        Self { state: state(tenant_id), app_service: Some(unique_guid()) }
    }

    /// The path of the endpoint.
    pub fn target(&self) -> &'static str {
        if self.app_service.is_some() { APP_SERVICE_PATH } else { IMDS_PATH }
    }

    /// The app's environment variables, with this authority (host and optional port) in the URL. IMDS has none.
    pub fn variables(&self, authority: &str) -> Vec<(String, String)> {
        let Some(secret) = &self.app_service else { return Vec::new() };
        vec![
            ("IDENTITY_ENDPOINT".to_owned(), format!("http://{authority}{APP_SERVICE_PATH}")),
            ("IDENTITY_HEADER".to_owned(), secret.clone()),
        ]
    }

    fn reject(&self, status: u16, error: &str, reason: &str) -> Rejection {
        let body = match self.app_service {
            Some(_) => json!({ "statusCode": status, "message": reason }),
            None => json!({ "error": error, "error_description": reason }),
        };
        Rejection::new(self.json(status, &body), reason)
    }

    fn json(&self, status: u16, body: &Value) -> Response {
        let server = if self.app_service.is_some() { "Kestrel" } else { "IMDS/150.870.65.1103" };
        Response::of_type("application/json; charset=utf-8", status, body.to_string()).header("server", server)
    }

    fn check(&self, request: &Request) -> Result<(), Rejection> {
        let invalid = |status, reason: &str| self.reject(status, "invalid_request", reason);
        if request.path() != self.target() {
            return Err(invalid(404, &format!("the path is {}, not {}", request.path(), self.target())));
        }
        if request.method != "GET" {
            return Err(invalid(405, "the method is not GET"));
        }
        let version = match &self.app_service {
            Some(secret) => {
                if request.header("x-identity-header") != Some(secret) {
                    return Err(invalid(401, "the header X-IDENTITY-HEADER is missing or wrong"));
                }
                "2019-08-01"
            }
            None => {
                if request.header("x-forwarded-for").is_some() {
                    return Err(invalid(400, "the request has an X-Forwarded-For header"));
                }
                if request.header("metadata") != Some("true") {
                    return Err(invalid(400, "Required metadata header not specified"));
                }
                "2018-02-01"
            }
        };
        let names: Vec<_> = form_urlencoded::parse(request.query().as_bytes()).map(|(name, _)| name).collect();
        if names.iter().collect::<BTreeSet<_>>().len() != names.len() {
            return Err(invalid(400, "a parameter occurs twice"));
        }
        let parameters = Parameters::parse(request.query().as_bytes());
        if parameters.get("api-version") != Some(version) {
            return Err(invalid(400, &format!("the parameter api-version is not {version}")));
        }
        if parameters.get("resource") != Some(AUDIENCE) {
            return Err(self.reject(400, "invalid_resource", "AADSTS500011: The resource principal was not found."));
        }
        match parameters.get("client_id") {
            Some(Self::CLIENT_ID) => Ok(()),
            _ => Err(invalid(400, "Identity not found")),
        }
    }
}

impl Source for ManagedIdentity {
    fn state(&self) -> &State {
        &self.state
    }

    /// The object id of the identity's principal, not its client id.
    fn subject(&self) -> String {
        PRINCIPAL.to_owned()
    }

    fn answer(&self, request: &Request, mint: &Mint<'_>) -> Result<Response, Rejection> {
        self.check(request)?;
        let claims = Claims {
            subject: self.subject(),
            audience: json!(EXCHANGE_APPLICATION),
            lifetime: LIFETIME,
            own: json!({ "azp": Self::CLIENT_ID, "oid": PRINCIPAL, "idtyp": "app", "ver": "2.0", "xms_mirid": RESOURCE }),
        };
        let now = unix_seconds(mint.now());
        let mut body = json!({
            "access_token": mint.token(&claims), "client_id": Self::CLIENT_ID,
            "expires_on": (now + mint.lifetime(&claims)).to_string(), "resource": AUDIENCE, "token_type": "Bearer",
        });
        if self.app_service.is_none() {
            body["expires_in"] = json!(mint.lifetime(&claims).to_string());
            body["ext_expires_in"] = json!(LIFETIME.to_string());
            body["not_before"] = json!(now.to_string());
        }
        Ok(self.json(200, &body))
    }
}

fn state(tenant_id: &str) -> State {
    State::new(Issuer::new(&format!("https://login.microsoftonline.com/{tenant_id}/v2.0")))
}
