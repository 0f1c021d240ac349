//! An OAuth 2.0 token endpoint: client credentials (RFC 6749, section 4.4) or token exchange (RFC 8693).

use fake_entra::{Issuer, claims, guid_of};
use fake_http::{Request, Response};
use serde_json::{Map, Value, json};

use crate::client_auth::{Client, ClientAuth};
use crate::parameters::Parameters;
use crate::source::{Rejection, Source, State};
use crate::token::{Claims, Mint};

const PATH: &str = "/realms/workloads/protocol/openid-connect/token";
const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
const ID_TOKEN: &str = "urn:ietf:params:oauth:token-type:id_token";
/// Parameters that can occur more than once (RFC 8693, section 2.1; RFC 8707).
const REPEATABLE: [&str; 2] = ["audience", "resource"];
/// The seconds for which a token is valid.
const LIFETIME: u64 = 300;

/// The grant that the endpoint accepts.
#[derive(Clone)]
pub enum GrantType {
    /// `client_credentials`.
    ClientCredentials,
    /// `urn:ietf:params:oauth:grant-type:token-exchange` for subject tokens of this issuer.
    TokenExchange(Issuer),
}

/// A token endpoint with one client.
#[derive(Clone)]
pub struct TokenEndpoint {
    state: State,
    client: Client,
    grant_type: GrantType,
    token_type: &'static str,
    opaque_access_token: bool,
}

impl TokenEndpoint {
    /// The `iss` of its tokens, which is also the audience of client assertions.
    pub const ISSUER: &str = "https://sts.example/realms/workloads";

    /// Creates an endpoint for this grant and client.
    pub fn new(grant_type: GrantType, client: Client) -> Self {
        Self {
            state: State::new(Issuer::new(Self::ISSUER)),
            client,
            grant_type,
            token_type: "Bearer",
            opaque_access_token: false,
        }
    }

    /// Issues tokens of the type `N_A` (RFC 8693, section 2.2.1): they are not used as bearer tokens.
    #[must_use]
    pub fn with_token_type_n_a(self) -> Self {
        Self { token_type: "N_A", ..self }
    }

    /// Issues an opaque `access_token`; the JWT is the `id_token`, as of some OpenID providers.
    #[must_use]
    pub fn with_opaque_access_token(self) -> Self {
        Self { opaque_access_token: true, ..self }
    }

    /// The path of the endpoint.
    pub fn target(&self) -> &'static str {
        PATH
    }

    fn check_exchange(&self, form: &Parameters, trusted: &Issuer, mint: &Mint<'_>) -> Result<(), Rejection> {
        let subject_token = required(form, "subject_token")?;
        let subject_type = required(form, "subject_token_type")?;
        if ![ACCESS_TOKEN, JWT, ID_TOKEN].contains(&subject_type) {
            return Err(reject(400, "invalid_request", "the subject_token_type is not supported"));
        }
        if form.get("actor_token").is_some() != form.get("actor_token_type").is_some() {
            return Err(reject(400, "invalid_request", "the request has only one of actor_token and actor_token_type"));
        }
        if form.get("requested_token_type").is_some_and(|requested| ![ACCESS_TOKEN, JWT].contains(&requested)) {
            return Err(reject(400, "invalid_request", "the requested_token_type is not supported"));
        }
        let is_issued = trusted.signed(subject_token, mint.now())
            && claims(subject_token).is_some_and(|claims| claims["iss"] == trusted.url());
        if !is_issued {
            return Err(reject(400, "invalid_request", "the subject_token is not valid"));
        }
        Ok(())
    }

    fn issue(&self, form: &Parameters, mint: &Mint<'_>) -> Response {
        let claims = Claims {
            subject: self.subject(),
            audience: json!(form.get("audience").unwrap_or(crate::AUDIENCE)),
            lifetime: LIFETIME,
            own: json!({ "typ": "Bearer", "azp": self.client.id, "client_id": self.client.id }),
        };
        let mut body = Map::new();
        let token = mint.token(&claims);
        if self.opaque_access_token {
            body.insert("access_token".to_owned(), json!(guid_of(&["opaque", &self.client.id])));
            body.insert("id_token".to_owned(), token);
        } else {
            body.insert("access_token".to_owned(), token);
        }
        body.insert("expires_in".to_owned(), json!(mint.lifetime(&claims)));
        body.insert("token_type".to_owned(), json!(self.token_type));
        body.insert("scope".to_owned(), json!(form.get("scope").unwrap_or_default()));
        if matches!(self.grant_type, GrantType::TokenExchange(_)) {
            body.insert(
                "issued_token_type".to_owned(),
                json!(form.get("requested_token_type").unwrap_or(ACCESS_TOKEN)),
            );
        }
        Response::json(200, Value::Object(body).to_string())
    }
}

impl Source for TokenEndpoint {
    fn state(&self) -> &State {
        &self.state
    }

    /// The id of the client's service account.
    fn subject(&self) -> String {
        guid_of(&["service-account", &self.client.id])
    }

    fn answer(&self, request: &Request, mint: &Mint<'_>) -> Result<Response, Rejection> {
        if request.path() != PATH {
            return Err(reject(404, "not_found", "the path is not the token endpoint's"));
        }
        if request.method != "POST" {
            return Err(reject(405, "invalid_request", "the method is not POST"));
        }
        if !request.is_form() {
            return Err(reject(400, "invalid_request", "the body is not application/x-www-form-urlencoded"));
        }
        let form = Parameters::parse(&request.body);
        if let Some(name) = form.duplicate(&REPEATABLE) {
            return Err(reject(400, "invalid_request", &format!("the parameter {name} occurs twice")));
        }
        self.client.authenticate(request, &form, Self::ISSUER, mint.now()).map_err(|reason| {
            let rejection = reject(401, "invalid_client", &reason);
            match &self.client.auth {
                ClientAuth::SecretBasic(_) => Rejection {
                    response: rejection.response.header("www-authenticate", "Basic realm=\"workloads\""),
                    ..rejection
                },
                _ => rejection,
            }
        })?;
        let grant_type = required(&form, "grant_type")?;
        match &self.grant_type {
            GrantType::ClientCredentials if grant_type == "client_credentials" => {}
            GrantType::TokenExchange(trusted) if grant_type == TOKEN_EXCHANGE => {
                self.check_exchange(&form, trusted, mint)?;
            }
            _ => return Err(reject(400, "unsupported_grant_type", "the endpoint does not accept this grant_type")),
        }
        if form.get("audience").is_some_and(|audience| audience != crate::AUDIENCE) {
            return Err(reject(400, "invalid_target", "the audience is unknown"));
        }
        Ok(self.issue(&form, mint))
    }
}

fn required<'a>(form: &'a Parameters, name: &str) -> Result<&'a str, Rejection> {
    form.get(name).ok_or_else(|| reject(400, "invalid_request", &format!("the parameter {name} is missing")))
}

fn reject(status: u16, error: &str, reason: &str) -> Rejection {
    let body = json!({ "error": error, "error_description": reason });
    Rejection::new(Response::json(status, body.to_string()), reason)
}
