//! The Workload API of a SPIFFE agent: the unary gRPC call `FetchJWTSVID`, as SPIRE answers it: `make test-spire` compares them.
//!
//! As a [`Source`], it responds to an HTTP request with a gRPC frame. [`SpiffeServer`] serves it with a gRPC library on a Unix socket, and
//! [`fetch`] calls it or a real agent.

mod client;
mod server;

use fake_entra::Issuer;
use fake_http::{Request, Response};
use prost::Message as _;
use serde_json::{Value, json};
use tonic::{Code, Status};

pub use client::{Fetched, Svid, fetch};
pub use server::SpiffeServer;

use crate::source::{Rejection, Source, State};
use crate::token::{Claims, Mint};

/// The messages and the service, generated from `proto/workload.proto`.
#[allow(clippy::all, clippy::pedantic, clippy::nursery, clippy::restriction, missing_docs, unreachable_pub)]
mod api {
    tonic::include_proto!("_");
}

const ISSUER: &str = "https://oidc.example.org";
const PATH: &str = "/SpiffeWorkloadAPI/FetchJWTSVID";
/// The message of the server, which the agent passes on.
const EMPTY_AUDIENCE: &str = "could not fetch JWT-SVID: failed to fetch JWT SVID: rpc error: code = Internal desc = failed to sign \
                              JWT-SVID: invalid JWT-SVID audience: cannot be empty";
/// The seconds for which a token is valid.
const LIFETIME: u64 = 300;

/// The agent of a node, with the identities of one workload.
#[derive(Clone)]
pub struct WorkloadApi {
    state: State,
    /// The SPIFFE ID and the hint of each identity.
    identities: Vec<(&'static str, &'static str)>,
}

impl Default for WorkloadApi {
    fn default() -> Self {
        Self::new()
    }
}

impl WorkloadApi {
    /// The SPIFFE ID of the workload's first identity, and the subject of the credential.
    pub const ID: &'static str = "spiffe://example.org/ns/payments/sa/payments";

    /// The SPIFFE ID of an identity with the hint `audit`.
    pub const AUDIT_ID: &'static str = "spiffe://example.org/audit";

    /// Creates the agent of a workload with one identity.
    pub fn new() -> Self {
        Self { state: State::new(Issuer::new(ISSUER)), identities: vec![(Self::ID, "")] }
    }

    /// Adds an identity with the hint `audit` before the others, so that it is the default.
    #[must_use]
    pub fn with_audit_identity(mut self) -> Self {
        self.identities.insert(0, (Self::AUDIT_ID, "audit"));
        self
    }

    /// The response to a workload without an entry.
    pub fn no_identity() -> Response {
        failed(&Status::permission_denied("no identity issued"))
    }

    /// The response of an agent that cannot attest the workload.
    pub fn unavailable() -> Response {
        failed(&Status::unavailable("workload attestation failed"))
    }

    fn fetch(&self, request: &api::JwtsvidRequest, mint: &Mint<'_>) -> Result<api::JwtsvidResponse, Status> {
        if request.audience.is_empty() {
            return Err(Status::invalid_argument("audience must be specified"));
        }
        if request.audience.contains(&String::new()) {
            return Err(Status::unavailable(EMPTY_AUDIENCE));
        }
        let is_wanted = |id: &str| request.spiffe_id.is_empty() || request.spiffe_id == id;
        let wanted = self.identities.iter().filter(|(id, _)| is_wanted(id));
        let svids: Vec<_> = wanted.map(|(id, hint)| self.svid(id, hint, &request.audience, mint)).collect();
        if svids.is_empty() {
            Err(Status::permission_denied("no identity issued"))
        } else {
            Ok(api::JwtsvidResponse { svids })
        }
    }

    fn svid(&self, id: &str, hint: &str, audience: &[String], mint: &Mint<'_>) -> api::Jwtsvid {
        let claims = Claims {
            subject: id.to_owned(),
            audience: json!(audience),
            lifetime: LIFETIME,
            // SPIRE's tokens do not have these.
            own: json!({ "nbf": null, "jti": null }),
        };
        let svid = match mint.token(&claims) {
            Value::String(token) => token,
            other => other.to_string(),
        };
        api::Jwtsvid { spiffe_id: id.to_owned(), svid, hint: hint.to_owned() }
    }
}

impl Source for WorkloadApi {
    fn state(&self) -> &State {
        &self.state
    }

    fn subject(&self) -> String {
        Self::ID.to_owned()
    }

    fn answer(&self, request: &Request, mint: &Mint<'_>) -> Result<Response, Rejection> {
        if request.method != "POST" || request.target != PATH {
            return Err(reject(&Status::unimplemented(format!("unknown service or method {}", request.target))));
        }
        if request.header("content-type") != Some("application/grpc") || request.header("te") != Some("trailers") {
            let response = Response::of_type("text/plain", 415, "invalid gRPC request content-type or te\n");
            return Err(Rejection::new(response, "content-type is not application/grpc, or te is not trailers"));
        }
        if request.header("workload.spiffe.io") != Some("true") {
            return Err(reject(&Status::invalid_argument("security header missing from request")));
        }
        let message = unframe(&request.body).ok_or_else(|| reject(&Status::internal("the frame is not complete")))?;
        let message = api::JwtsvidRequest::decode(message)
            .map_err(|error| reject(&Status::internal(format!("the message is not valid: {error}"))))?;
        let response = self.fetch(&message, mint).map_err(|status| reject(&status))?;
        // The status is in the trailers, which this form of a response does not have.
        Ok(Response::of_type("application/grpc", 200, frame(&response)))
    }
}

fn reject(status: &Status) -> Rejection {
    Rejection::new(failed(status), format!("{:?}: {}", status.code(), status.message()))
}

/// A response without a body, whose status is in the headers.
fn failed(status: &Status) -> Response {
    Response::of_type("application/grpc", 200, "")
        .header("grpc-status", &i32::from(status.code()).to_string())
        .header("grpc-message", status.message())
}

/// The status of a failed response.
fn status_of(response: &Response) -> Option<Status> {
    let header = |name: &str| response.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str());
    let code = header("grpc-status").map(|code| Code::from_bytes(code.as_bytes()));
    let code = code.or((response.status != 200).then_some(Code::Unavailable))?;
    Some(Status::new(code, header("grpc-message").unwrap_or_default()))
}

/// A message with the prefix of a frame: no compression, and the length.
fn frame(message: &impl prost::Message) -> Vec<u8> {
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[0], length.as_slice(), &message].concat()
}

/// The message of a frame that is complete and not compressed.
fn unframe(frame: &[u8]) -> Option<&[u8]> {
    let (prefix, message) = frame.split_at_checked(5)?;
    let length = u32::from_be_bytes(prefix.get(1..)?.try_into().ok()?);
    (prefix.first() == Some(&0) && usize::try_from(length) == Ok(message.len())).then_some(message)
}
