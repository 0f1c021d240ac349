//! AWS STS with `GetWebIdentityToken` (outbound web identity federation).
//!
//! `POST /` with a form, signed with Signature Version 4 for the service `sts` and the endpoint's region. The response is XML.

use std::time::{Duration, SystemTime};

use fake_entra::{Issuer, unique_guid};
use fake_http::{Request, Response};
use serde_json::json;

use crate::parameters::Parameters;
use crate::sigv4::{self, Credentials};
use crate::source::{Rejection, Source, State};
use crate::token::{Claims, Mint};

const ISSUER: &str = "https://7f9f3f0e-2d64-4a51-9c1b-6f0e0f2b9f11.tokens.sts.global.api.aws";
const ROLE: &str = "arn:aws:iam::111122223333:role/payments";

/// The form of a token request with the audience of the exchange, in any order.
const PARAMETERS: [&str; 5] = ["Action", "Version", "Audience.member.1", "SigningAlgorithm", "DurationSeconds"];

/// The STS endpoint of a region.
#[derive(Clone)]
pub struct AwsSts {
    state: State,
    region: String,
    /// The credentials with which requests must be signed.
    credentials: Option<Credentials>,
}

impl AwsSts {
    /// Creates the endpoint of a region, with new credentials of a role's session.
    pub fn new(region: &str) -> Self {
        let credentials = Credentials {
            access_key_id: "ASIAEXAMPLE7PAYMENTS".to_owned(),
            secret_access_key: unique_guid(),
            session_token: Some(unique_guid()),
        };
        Self { credentials: Some(credentials), ..Self::behind_a_signer(region) }
    }

    /// Creates the endpoint of a region whose requests are signed between the sender and the endpoint, so that their signature is not
    /// checked.
    pub fn behind_a_signer(region: &str) -> Self {
        Self { state: State::new(Issuer::new(ISSUER)), region: region.to_owned(), credentials: None }
    }

    /// The credentials of the session.
    pub fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }

    /// The response to a role whose calls are throttled.
    pub fn throttled() -> Response {
        error(400, "Throttling", "Rate exceeded")
    }

    /// The response to a request without a signature, as a signer without credentials sends it.
    pub fn unsigned() -> Response {
        error(403, "MissingAuthenticationToken", "Request is missing Authentication Token")
    }

    fn check(&self, request: &Request, now: SystemTime) -> Result<String, Rejection> {
        if request.method != "POST" || request.target != "/" {
            return Err(reject(400, "InvalidAction", &format!("the request is {} {}", request.method, request.target)));
        }
        if let Some(credentials) = &self.credentials {
            let scope = sigv4::Scope { region: &self.region, service: "sts" };
            credentials.verify(request, &scope, now).map_err(|(code, reason)| reject(403, code, &reason))?;
        }
        let host = format!("sts.{}.amazonaws.com", self.region);
        if request.host() != host {
            return Err(reject(403, "InvalidClientTokenId", &format!("the host is {}, not {host}", request.host())));
        }
        if !request.is_form() {
            return Err(reject(400, "MissingAction", "the body is not a form"));
        }
        let form = Parameters::parse(&request.body);
        let given = |name: &str| form.get(name).unwrap_or_default();
        if let Some(name) = form.unknown(&PARAMETERS).or_else(|| form.duplicate(&[])) {
            return Err(reject(400, "ValidationError", &format!("the parameter {name} is not expected")));
        }
        if (given("Action"), given("Version")) != ("GetWebIdentityToken", "2011-06-15") {
            return Err(reject(400, "InvalidAction", "Action or Version is not that of GetWebIdentityToken"));
        }
        if given("SigningAlgorithm") != "RS256" {
            return Err(reject(400, "ValidationError", "SigningAlgorithm is not RS256"));
        }
        let duration = given("DurationSeconds").parse().unwrap_or(0);
        if !(60..=3600).contains(&duration) {
            return Err(reject(400, "ValidationError", "DurationSeconds is not between 60 and 3600"));
        }
        if duration > 900 {
            return Err(reject(403, "SessionDurationEscalationException", "the token would outlive the session"));
        }
        match given("Audience.member.1") {
            "" => Err(reject(400, "ValidationError", "Audience is missing")),
            audience => Ok(audience.to_owned()),
        }
    }
}

impl Source for AwsSts {
    fn state(&self) -> &State {
        &self.state
    }

    /// The role's ARN, not that of its session.
    fn subject(&self) -> String {
        ROLE.to_owned()
    }

    fn answer(&self, request: &Request, mint: &Mint<'_>) -> Result<Response, Rejection> {
        let audience = self.check(request, mint.now())?;
        let own =
            json!({ "https://sts.amazonaws.com/": { "aws_account": "111122223333", "source_region": self.region } });
        let claims = Claims { subject: self.subject(), audience: json!(audience), lifetime: 300, own };
        let token = mint.token(&claims);
        let expires_at = mint.now() + Duration::from_secs(mint.lifetime(&claims));
        let body = format!(
            "<GetWebIdentityTokenResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\n  <GetWebIdentityTokenResult>\n    \
             <WebIdentityToken>{}</WebIdentityToken>\n    <Expiration>{}</Expiration>\n  </GetWebIdentityTokenResult>\n  \
             <ResponseMetadata>\n    <RequestId>{}</RequestId>\n  </ResponseMetadata>\n</GetWebIdentityTokenResponse>\n",
            token.as_str().map_or_else(|| token.to_string(), str::to_owned),
            sigv4::iso_8601(expires_at),
            unique_guid(),
        );
        Ok(Response::of_type("text/xml", 200, body))
    }
}

fn reject(status: u16, code: &str, reason: &str) -> Rejection {
    Rejection::new(error(status, code, reason), format!("{code}: {reason}"))
}

fn error(status: u16, code: &str, message: &str) -> Response {
    let body = format!(
        "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\n  <Error>\n    <Type>Sender</Type>\n    \
         <Code>{code}</Code>\n    <Message>{message}</Message>\n  </Error>\n  <RequestId>{}</RequestId>\n</ErrorResponse>\n",
        unique_guid(),
    );
    Response::of_type("text/xml", status, body)
}
