//! Entra's token endpoint: building requests and reading responses.
//!
//! A request uses the client credentials grant with a JWT as client assertion (RFC 6749, section 4.4; RFC 7523,
//! section 2.2), in the form of Microsoft's v2.0 endpoint (learn.microsoft.com, "OAuth 2.0 client credentials flow",
//! third case).

mod answer;
mod catalogue;
mod token_spec;

pub(crate) use answer::{EndpointAnswer, read_answer};
pub use catalogue::{CatalogueEntry, catalogue};
pub(crate) use catalogue::{RetryClass, is_of_credential};
pub use token_spec::{CredentialKey, TokenKey, TokenSpec, TokenSpecParts};

use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::assertion::Assertion;
use crate::http::HttpCall;

/// An access token issued by Entra, after `BEARER`. It has neither `Debug` nor `Display`.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct AccessToken(String);

/// The text before a token in `Authorization` (RFC 6750, section 2.1).
const BEARER: &str = "Bearer ";

impl Serialize for AccessToken {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.expose())
    }
}

impl TryFrom<String> for AccessToken {
    type Error = &'static str;

    /// Validates a token from shared data like one from Entra, because it becomes a header value.
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("not a valid token")
    }
}

impl AccessToken {
    /// Parses a token (`b64token` in RFC 6750, section 2.1). Returns `None` if the text is empty or has any other character,
    /// such as a line break.
    pub fn parse(text: &str) -> Option<Self> {
        let fits =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'+' | b'/' | b'=');
        (!text.is_empty() && text.bytes().all(fits)).then(|| Self([BEARER, text].concat()))
    }

    /// The SHA-256 of the token. A client can use it to name the token without revealing it.
    pub(crate) fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.expose()).into()
    }

    /// The token itself, for a request's header or a reply to a managed-identity client.
    pub fn expose(&self) -> &str {
        self.0.get(BEARER.len()..).unwrap_or_default()
    }

    /// The value of `Authorization` with the token. It is not built for each request.
    pub(crate) fn bearer(&self) -> &str {
        &self.0
    }
}

/// A request to the token endpoint. Its body holds the assertion, so it has no `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenRequest {
    /// The `:authority` of the request: the host of the token endpoint, with a port unless it is 443.
    pub authority: String,
    /// The path of the token endpoint, with the tenant.
    pub path: String,
    /// The form parameters, `application/x-www-form-urlencoded`.
    pub body: String,
}

impl TokenRequest {
    /// Returns the call that sends it through this cluster.
    pub(crate) fn into_call(self, cluster: String, timeout: Duration) -> HttpCall {
        let headers = [("content-type", "application/x-www-form-urlencoded"), ("accept", "application/json")];
        let headers = headers.map(|(name, value)| (name.into(), value.into())).into();
        let Self { authority, path, body } = self;
        HttpCall { cluster, method: "POST", authority, path, headers, body: body.into_bytes(), timeout }
    }

    /// Builds the request for a token, authenticated with this assertion.
    pub(crate) fn new(spec: &TokenSpec, assertion: &Assertion) -> Self {
        let body = form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "client_credentials")
            .append_pair("client_id", spec.client_id())
            .append_pair("scope", spec.scope())
            .append_pair("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
            .append_pair("client_assertion", assertion.expose())
            .finish();
        Self {
            authority: spec.authority().host().to_owned(),
            path: format!("{}/{}/oauth2/v2.0/token", spec.authority().path_prefix(), spec.tenant_id()),
            body,
        }
    }
}

/// Test helpers for other modules of the crate.
#[cfg(test)]
pub(crate) mod tests_support {
    use super::*;
    use crate::assertion::Source;
    use crate::authority::Authority;

    /// A token spec of the identity `payments` for Key Vault.
    pub(crate) fn spec() -> TokenSpec {
        spec_of(&Authority::public())
    }

    /// The same with this authority.
    pub(crate) fn spec_of(authority: &Authority) -> TokenSpec {
        TokenSpec::new(&TokenSpecParts {
            identity: "payments",
            authority,
            tenant_id: "11111111-1111-4111-8111-111111111111",
            client_id: "aaaaaaaa-0000-4000-8000-000000000001",
            scope: "https://vault.azure.net/.default",
            assertion: &Source::File { cluster: "projected_token".to_owned() },
            clusters: &["entra".to_owned()],
            discard_before: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::tests_support::{spec, spec_of};
    use super::*;
    use crate::assertion::tests::{NOW, claims, jwt};

    fn assertion() -> Assertion {
        Assertion::parse(jwt(&json!({"alg": "RS256"}), &claims()).as_bytes(), NOW).unwrap()
    }

    #[test]
    fn a_token_request_uses_the_client_credentials_grant_with_a_client_assertion() {
        let request = TokenRequest::new(&spec(), &assertion());
        assert_eq!(request.authority, "login.microsoftonline.com");
        assert_eq!(request.path, "/11111111-1111-4111-8111-111111111111/oauth2/v2.0/token");
        let fields: Vec<(String, String)> = form_urlencoded::parse(request.body.as_bytes()).into_owned().collect();
        let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(
            fields,
            [
                ("grant_type", "client_credentials"),
                ("client_id", "aaaaaaaa-0000-4000-8000-000000000001"),
                ("scope", "https://vault.azure.net/.default"),
                ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
                ("client_assertion", assertion().expose()),
            ]
        );
    }

    #[test]
    fn the_path_of_a_service_in_front_of_entra_is_before_that_of_the_token_endpoint() {
        let path = |prefix: &str| {
            let authority = crate::authority::Authority::public().behind(prefix);
            let request = TokenRequest::new(&spec_of(&authority), &assertion());
            assert_eq!(request.authority, "login.microsoftonline.com");
            request.path
        };
        let own = "/11111111-1111-4111-8111-111111111111/oauth2/v2.0/token";
        assert_eq!(
            [path(""), path("/"), path("/a/b"), path("/a/")],
            [own, own, &["/a/b", own].concat(), &["/a", own].concat()]
        );
    }

    #[test]
    fn a_text_that_could_end_a_header_is_rejected_as_a_token_from_every_source() {
        for text in ["a\rb", "a\nb", "a\0b", "a b", ""] {
            assert!(AccessToken::parse(text).is_none(), "{text:?}");
            assert!(serde_json::from_value::<AccessToken>(Value::from(text)).is_err(), "{text:?}");
        }
        let token: AccessToken = serde_json::from_value(Value::from("a.b")).unwrap();
        assert_eq!(serde_json::to_value(&token).unwrap(), "a.b");
    }
}
