//! Strict fakes of the services that issue federated tokens over HTTP.
//!
//! | fake | service | token in the response |
//! |---|---|---|
//! | [`GitHub`] | the OIDC endpoint of GitHub Actions | `/value` |
//! | [`AzurePipelines`] | the OIDC endpoint of an Azure Pipelines job | `/oidcToken` |
//! | [`Google`] | Google's metadata server | the body |
//! | [`Vault`] | the identity tokens of Vault and OpenBao | `/data/token` |
//! | [`TokenEndpoint`] | an OAuth 2.0 token endpoint: client credentials and token exchange (RFC 8693) | `/access_token` |
//! | [`ManagedIdentity`] | Azure's IMDS and App Service, for a managed identity | `/access_token` |
//! | [`AwsSts`] | AWS STS, for a role; signatures are verified | `<WebIdentityToken>` |
//! | [`WorkloadApi`] | the Workload API of a SPIFFE agent, in gRPC | a field of the message |
//! | [`JsonService`] | a token service with an API of its own, in JSON | `/result/jwt` |
//!
//! Each implements [`Source`]: a function from a request and a time to a response, so that a test can call it without a network and with
//! any time. [`Server`] serves one on a loopback port. Each rejects what the service rejects, and records why
//! ([`Stats::rejected`]). [`Fault`] makes the next responses wrong, late or incomplete. Clones share one state.
//!
//! The tokens are really signed. [`Source::register`] makes the fake Entra accept them.
//!
//! ```
//! use std::time::SystemTime;
//! use fake_http::Request;
//! use fake_sources::{GitHub, Source};
//!
//! let github = GitHub::new();
//! let target = format!("{}&audience=api%3A%2F%2FAzureADTokenExchange", github.target());
//! let request = Request::new("GET", &target).with_header("authorization", &format!("Bearer {}", github.bearer()));
//! let response = github.respond(&request, SystemTime::now());
//! assert_eq!(response.status, 200);
//! ```

#![forbid(unsafe_code)]

mod aws_sts;
mod azure_pipelines;
mod client_auth;
mod faults;
mod github;
mod google;
mod json_service;
mod managed_identity;
mod parameters;
mod server;
mod sigv4;
mod source;
mod spiffe;
mod token;
mod token_endpoint;
mod vault;

pub use aws_sts::AwsSts;
pub use azure_pipelines::{AzurePipelines, ConnectionIssuer};
pub use client_auth::{Client, ClientAuth};
pub use faults::{Delivery, Fault, TokenFault};
pub use github::{GitHub, SubjectForm};
pub use google::Google;
pub use json_service::JsonService;
pub use managed_identity::ManagedIdentity;
pub use server::Server;
pub use sigv4::Credentials;
pub use source::{Rejection, Source, State, Stats};
pub use spiffe::{Fetched, SpiffeServer, Svid, WorkloadApi, fetch as fetch_svids};
pub use token::{Claims, Mint};
pub use token_endpoint::{GrantType, TokenEndpoint};
pub use vault::Vault;

/// The audience of federated credentials in the public cloud.
pub const AUDIENCE: &str = "api://AzureADTokenExchange";

/// The `aud` of tokens that Entra issues for the exchange: the GUID of the application `api://AzureADTokenExchange`.
const EXCHANGE_APPLICATION: &str = "fb60f99c-7a34-4190-8149-302f77469936";
