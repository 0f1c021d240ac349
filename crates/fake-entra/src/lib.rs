//! A strict fake of Microsoft Entra's token endpoint, for tests and demonstrations.
//!
//! It exchanges a federated token (a client assertion, RFC 7523) for an access token. It rejects what Entra rejects,
//! with Entra's status, JSON and AADSTS codes. [`Directory`] works without a network: a test can call it directly.
//! [`Server`] serves it over TLS, with an admin API on a second port.
//!
//! ```
//! use std::time::{Duration, SystemTime};
//! use fake_entra::{Credential, Directory, Issuer};
//!
//! let cluster = Issuer::new("https://issuer.example/cluster");
//! let entra = Directory::new();
//! entra.trust_issuer(cluster.url(), cluster.jwks());
//! entra.register_resource("https://vault.azure.net");
//! entra.register_credential(Credential {
//!     tenant_id: "11111111-2222-3333-4444-555555555555".into(),
//!     client_id: "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee".into(),
//!     issuer: cluster.url().into(),
//!     subject: "system:serviceaccount:payments:payments".into(),
//!     audience: "api://AzureADTokenExchange".into(),
//! })?;
//!
//! let now = SystemTime::now();
//! let hour = Duration::from_secs(3600);
//! let assertion = cluster.service_account_token("payments", "payments", "api://AzureADTokenExchange", now, hour);
//! let form = format!(
//!     "grant_type=client_credentials&client_id=aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee\
//!      &scope=https://vault.azure.net/.default\
//!      &client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-bearer&client_assertion={assertion}"
//! );
//! let response = entra.token("11111111-2222-3333-4444-555555555555", form.as_bytes(), now);
//! assert_eq!(response.status, 200);
//! # Ok::<(), String>(())
//! ```

#![forbid(unsafe_code)]

mod admin;
mod algorithms;
mod assertion;
mod catalogue;
mod directory;
mod discovery;
mod faults;
mod fields;
mod http;
mod ids;
mod issuer;
mod keys;
mod scope;
mod server;
mod token;
mod validation;

pub use algorithms::OtherAlgorithm;
pub use assertion::claims;
pub use directory::{Credential, Directory, KeyCount, Stats};
pub use fake_http::{Disconnect, Response};
pub use faults::{Fault, FaultKind};
pub use fields::InvalidField;
pub use http::TokenRequest;
pub use ids::{guid_of, unique_guid, unix_seconds};
pub use issuer::Issuer;
pub use server::Server;
