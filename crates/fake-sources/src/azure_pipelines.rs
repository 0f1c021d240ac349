//! The OIDC endpoint of an Azure Pipelines job.
//!
//! `POST $SYSTEM_OIDCREQUESTURI?api-version=7.1&serviceConnectionId=…` with `Authorization: Bearer $SYSTEM_ACCESSTOKEN`, an empty body, and
//! `X-TFS-FedAuthRedirect: Suppress`, without which a wrong bearer token is answered with a sign-in page.

use fake_entra::{Issuer, unique_guid};
use fake_http::{Request, Response};
use serde_json::{Value, json};

use crate::EXCHANGE_APPLICATION;
use crate::faults::SIGN_IN_PAGE;
use crate::parameters::Parameters;
use crate::source::{Rejection, Source, State};
use crate::token::{Claims, Mint};

const PATH: &str = "/contoso/7d1e3a52-0f64-4b0c-9a55-6f2f1c9d8e10/_apis/distributedtask/hubs/build/plans/\
                    5b2c7f11-3e8d-4a6b-8c90-1d2e3f4a5b6c/jobs/12f1170f-54f2-53f3-20dd-22fc7dff55f9/oidctoken";
const CONNECTION: &str = "c0ffee00-1234-4cde-8f01-23456789abcd";
const ORGANIZATION: &str = "6d0c1b5a-9e4f-4a3b-8c2d-7e6f5a4b3c2d";
/// The seconds for which a token is valid.
const LIFETIME: u64 = 600;

/// The issuer of a service connection's tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectionIssuer {
    /// Entra, of the tenant with this id. New connections have it.
    Entra(String),
    /// `vstoken.dev.azure.com`, of older connections.
    AzureDevOps,
}

/// The OIDC endpoint of one job of Azure Pipelines.
#[derive(Clone)]
pub struct AzurePipelines {
    state: State,
    issuer: ConnectionIssuer,
    bearer: String,
}

impl AzurePipelines {
    /// The host of the URL.
    pub const HOST: &'static str = "dev.azure.com";

    /// Creates the endpoint of a job whose service connection has this issuer, with a new bearer token.
    pub fn new(issuer: ConnectionIssuer) -> Self {
        let url = match &issuer {
            ConnectionIssuer::Entra(tenant_id) => format!("https://login.microsoftonline.com/{tenant_id}/v2.0"),
            ConnectionIssuer::AzureDevOps => format!("https://vstoken.dev.azure.com/{ORGANIZATION}"),
        };
        Self { state: State::new(Issuer::new(&url)), issuer, bearer: unique_guid() }
    }

    /// The id of the service connection.
    pub fn connection(&self) -> &'static str {
        CONNECTION
    }

    /// The value of `SYSTEM_ACCESSTOKEN`.
    pub fn bearer(&self) -> &str {
        &self.bearer
    }

    /// The path of `SYSTEM_OIDCREQUESTURI`, which has no query.
    pub fn target(&self) -> &'static str {
        PATH
    }

    /// The job's environment variables, with this authority (host and optional port) in the URL.
    pub fn variables(&self, authority: &str) -> [(String, String); 2] {
        [
            ("SYSTEM_OIDCREQUESTURI".to_owned(), format!("https://{authority}{PATH}")),
            ("SYSTEM_ACCESSTOKEN".to_owned(), self.bearer.clone()),
        ]
    }

    fn check(&self, request: &Request) -> Result<(), Rejection> {
        if request.path() != PATH {
            return Err(reject(404, &format!("the path is {}, not {PATH}", request.path())));
        }
        if request.method != "POST" {
            return Err(reject(
                405,
                &format!("The requested resource does not support http method '{}'.", request.method),
            ));
        }
        if request.header("authorization") != Some(&format!("Bearer {}", self.bearer)) {
            let reason = "the bearer token is missing or wrong";
            return Err(match request.header("x-tfs-fedauthredirect") {
                Some("Suppress") => Rejection::new(Response::of_type("text/plain", 401, ""), reason),
                _ => sign_in(reason),
            });
        }
        if request.header("x-tfs-fedauthredirect") != Some("Suppress") {
            return Err(sign_in("the header X-TFS-FedAuthRedirect: Suppress is missing"));
        }
        if !request.has_media_type("application/json") || !request.body.is_empty() {
            return Err(reject(415, "the request does not have an empty body of type application/json"));
        }
        let parameters = Parameters::parse(request.query().as_bytes());
        if parameters.get("api-version") != Some("7.1") {
            return Err(reject(400, "the parameter api-version is not 7.1"));
        }
        match parameters.get("serviceConnectionId") {
            Some(CONNECTION) => Ok(()),
            Some(_) => Err(reject(404, "the service connection does not exist")),
            None => Err(reject(400, "the parameter serviceConnectionId is missing")),
        }
    }
}

impl Source for AzurePipelines {
    fn state(&self) -> &State {
        &self.state
    }

    fn subject(&self) -> String {
        match self.issuer {
            ConnectionIssuer::Entra(_) => {
                format!("/eid1/c/pub/t/Pm8fNV4LD02cVQyfWht9IQ/a/mXyJ8Zq3TUO0a1bYt0XyZw/sc/{ORGANIZATION}/{CONNECTION}")
            }
            ConnectionIssuer::AzureDevOps => "sc://contoso/payments/production".to_owned(),
        }
    }

    fn answer(&self, request: &Request, mint: &Mint<'_>) -> Result<Response, Rejection> {
        self.check(request)?;
        let audience = match self.issuer {
            ConnectionIssuer::Entra(_) => EXCHANGE_APPLICATION,
            ConnectionIssuer::AzureDevOps => crate::AUDIENCE,
        };
        let claims = Claims {
            subject: self.subject(),
            audience: Value::String(audience.to_owned()),
            lifetime: LIFETIME,
            own: json!({ "org_id": ORGANIZATION, "rh_cn": CONNECTION }),
        };
        Ok(Response::json(200, json!({ "oidcToken": mint.token(&claims) }).to_string()))
    }
}

fn reject(status: u16, reason: &str) -> Rejection {
    Rejection::new(Response::json(status, json!({ "$id": "1", "Message": reason }).to_string()), reason)
}

/// The redirect to a sign-in page, which is sent as HTML.
fn sign_in(reason: &str) -> Rejection {
    let page = Response::of_type("text/html; charset=utf-8", 302, SIGN_IN_PAGE);
    Rejection::new(
        page.header("location", "https://spsprodeus1.vssps.visualstudio.com/_signin?realm=dev.azure.com"),
        reason,
    )
}
