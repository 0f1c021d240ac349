//! An OIDC issuer that signs federated tokens.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::algorithms::OtherAlgorithm;
use crate::ids::{guid_of, unique_guid, unix_seconds};
use crate::keys::SigningKey;

/// An OIDC issuer that signs federated tokens with RS256, such as a Kubernetes cluster, SPIRE, Vault or Keycloak.
///
/// All issuers created by [`Issuer::new`] share one key per process, which is never Entra's own.
#[derive(Clone)]
pub struct Issuer {
    url: String,
    key: SigningKey,
}

impl Issuer {
    /// Creates an issuer with exactly this `iss`, with or without a trailing slash.
    pub fn new(url: &str) -> Self {
        Self { url: url.to_owned(), key: SigningKey::of_issuers() }
    }

    /// Creates an issuer with its own key, for key rotation and for signatures that must not verify.
    /// Generating the key takes up to a second.
    pub fn with_new_key(url: &str) -> Self {
        Self { url: url.to_owned(), key: SigningKey::generate() }
    }

    /// The `iss` of its tokens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The `kid` in the header of its tokens.
    pub fn key_id(&self) -> &str {
        self.key.kid()
    }

    /// The JWKS document that this issuer publishes.
    pub fn jwks(&self) -> Value {
        self.key.jwks()
    }

    /// Signs exactly these claims and adds none, not even `iss` or `exp`.
    ///
    /// # Panics
    /// When `claims` is not a JSON object.
    pub fn sign(&self, claims: &Value) -> String {
        self.key.sign(claims.as_object().expect("the claims of a JWT are a JSON object"))
    }

    /// Signs exactly these claims with an algorithm that Entra does not accept, and with a key that [`Issuer::jwks`] does not contain.
    ///
    /// # Panics
    /// When `claims` is not a JSON object.
    pub fn sign_with(&self, algorithm: OtherAlgorithm, claims: &Value) -> String {
        algorithm.sign(claims.as_object().expect("the claims of a JWT are a JSON object"))
    }

    /// Whether this issuer's key signed the JWT and the JWT is valid at `now`. All issuers created by [`Issuer::new`] share one key.
    pub fn signed(&self, token: &str, now: SystemTime) -> bool {
        self.key.signed(token, now)
    }

    /// Creates a token like the one that the kubelet projects into a pod (TokenRequest, bound to a pod):
    /// `aud` is a list even with one audience, `nbf` is `iat`, and the `kubernetes.io` object
    /// names the namespace, node, pod and service account. `lifetime` is rounded down to whole seconds.
    pub fn service_account_token(
        &self,
        namespace: &str,
        service_account: &str,
        audience: &str,
        now: SystemTime,
        lifetime: Duration,
    ) -> String {
        let issued = unix_seconds(now);
        self.sign(&json!({
            "aud": [audience],
            "exp": issued + lifetime.as_secs(),
            "iat": issued,
            "iss": self.url,
            "jti": unique_guid(),
            "kubernetes.io": {
                "namespace": namespace,
                "node": { "name": "node-1", "uid": guid_of(&["node", "node-1"]) },
                "pod": {
                    "name": format!("{service_account}-7c9f"),
                    "uid": guid_of(&["pod", namespace, service_account]),
                },
                "serviceaccount": {
                    "name": service_account,
                    "uid": guid_of(&["serviceaccount", namespace, service_account]),
                },
            },
            "nbf": issued,
            "sub": format!("system:serviceaccount:{namespace}:{service_account}"),
        }))
    }
}
