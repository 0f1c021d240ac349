//! The OIDC endpoint of GitHub Actions.
//!
//! `GET $ACTIONS_ID_TOKEN_REQUEST_URL&audience=…` with `Authorization: Bearer $ACTIONS_ID_TOKEN_REQUEST_TOKEN`. The URL differs by job, has
//! a query, and its path can contain `//`. A client must send it byte for byte.

use fake_entra::{Issuer, unique_guid};
use fake_http::{Request, Response};
use serde_json::{Value, json};

use crate::faults::Fault;
use crate::parameters::Parameters;
use crate::source::{Rejection, Source, State};
use crate::token::{Claims, Mint};

const ISSUER: &str = "https://token.actions.githubusercontent.com";
/// The seconds for which a token is valid.
const LIFETIME: u64 = 300;
/// The path has an empty segment and a percent-encoded character. A client that normalizes either requests another path.
const PATH: &str = "/Zk3vQ7//idtoken/8a1f%2D27/42";
const QUERY: &str = "api-version=2.0";

/// The form of the `sub` claim, which depends on the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SubjectForm {
    /// `repo:ORG/REPO:…`, of repositories that existed before 15 July 2026.
    Names,
    /// `repo:ORG@ID/REPO@ID:…`, of repositories created, renamed or transferred since.
    #[default]
    NamesAndIds,
}

/// The OIDC endpoint of one job of GitHub Actions.
#[derive(Clone)]
pub struct GitHub {
    state: State,
    bearer: String,
    subject_form: SubjectForm,
}

impl Default for GitHub {
    fn default() -> Self {
        Self::new()
    }
}

impl GitHub {
    /// The host of a job's URL. It differs by job; all of them have this suffix: `.actions.githubusercontent.com`.
    pub const HOST: &'static str = "run-actions-3-azure-eastus.actions.githubusercontent.com";

    /// Creates the endpoint of a job in the environment `production`, with a new bearer token.
    pub fn new() -> Self {
        Self { state: State::new(Issuer::new(ISSUER)), bearer: unique_guid(), subject_form: SubjectForm::default() }
    }

    /// Changes the form of the subject.
    #[must_use]
    pub fn with_subject_form(self, subject_form: SubjectForm) -> Self {
        Self { subject_form, ..self }
    }

    /// The value of `ACTIONS_ID_TOKEN_REQUEST_TOKEN`.
    pub fn bearer(&self) -> &str {
        &self.bearer
    }

    /// The path and query of `ACTIONS_ID_TOKEN_REQUEST_URL`.
    pub fn target(&self) -> String {
        format!("{PATH}?{QUERY}")
    }

    /// The job's environment variables, with this authority (host and optional port) in the URL.
    pub fn variables(&self, authority: &str) -> [(String, String); 2] {
        [
            ("ACTIONS_ID_TOKEN_REQUEST_URL".to_owned(), format!("https://{authority}{}", self.target())),
            ("ACTIONS_ID_TOKEN_REQUEST_TOKEN".to_owned(), self.bearer.clone()),
        ]
    }

    /// The response for a job that has not started yet; the same request succeeds one or two seconds later.
    pub fn pending() -> Fault {
        Fault::Respond(reject(403, "Job is in Pending state, ID_TOKEN cannot be issued").response)
    }

    /// A response that GitHub sends now and then.
    pub fn unavailable() -> Fault {
        Fault::Respond(Response::of_type("text/plain", 503, "upstream connect error\n"))
    }

    fn check(&self, request: &Request) -> Result<String, Rejection> {
        if request.method != "GET" {
            return Err(reject(405, &format!("the method is {}, not GET", request.method)));
        }
        if request.path() != PATH {
            return Err(reject(
                404,
                &format!("the path is {}, not {PATH}: it was normalized or re-encoded", request.path()),
            ));
        }
        if request.header("authorization") != Some(&format!("Bearer {}", self.bearer)) {
            return Err(reject(401, "the bearer token is missing or wrong"));
        }
        let Some(added) = request.query().strip_prefix(QUERY) else {
            return Err(reject(400, &format!("the query does not begin with {QUERY}")));
        };
        let parameters = Parameters::parse(added.strip_prefix('&').unwrap_or(added).as_bytes());
        match (parameters.get("audience"), parameters.unknown(&["audience"]), parameters.duplicate(&[])) {
            (Some(audience), None, None) => Ok(audience.to_owned()),
            (None, _, _) => Err(reject(400, "the parameter audience is missing")),
            (_, Some(unknown), _) => Err(reject(400, &format!("the parameter {unknown} is unknown"))),
            (_, _, Some(duplicate)) => Err(reject(400, &format!("the parameter {duplicate} occurs twice"))),
        }
    }
}

impl Source for GitHub {
    fn state(&self) -> &State {
        &self.state
    }

    fn subject(&self) -> String {
        match self.subject_form {
            SubjectForm::Names => "repo:contoso/payments:environment:production".to_owned(),
            SubjectForm::NamesAndIds => "repo:contoso@6844498/payments@1296269:environment:production".to_owned(),
        }
    }

    fn answer(&self, request: &Request, mint: &Mint<'_>) -> Result<Response, Rejection> {
        let audience = self.check(request)?;
        let own = json!({
            "ref": "refs/heads/main",
            "repository": "contoso/payments",
            "repository_id": "1296269",
            "repository_owner": "contoso",
            "repository_owner_id": "6844498",
            "environment": "production",
            "job_workflow_ref": "contoso/payments/.github/workflows/deploy.yml@refs/heads/main",
            "event_name": "push",
            "runner_environment": "github-hosted",
            "run_id": "9876543210",
        });
        let claims = Claims { subject: self.subject(), audience: Value::String(audience), lifetime: LIFETIME, own };
        Ok(Response::json(200, json!({ "count": 1, "value": mint.token(&claims) }).to_string()))
    }
}

fn reject(status: u16, reason: &str) -> Rejection {
    Rejection::new(Response::of_type("text/plain; charset=utf-8", status, format!("{reason}\n")), reason)
}
