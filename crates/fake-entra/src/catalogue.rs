//! Entra's error responses: the AADSTS code, the HTTP status, OAuth's `error` and the text.
//!
//! Statuses and `error` values are taken from recorded responses where there is one. Failures of federated
//! credentials are 401 `invalid_client`; in 2022 Entra still returned 400 `invalid_request`.
//! Microsoft documents the codes in "Microsoft Entra authentication and authorization error codes".

use serde::Serialize;

/// An error of Entra: an AADSTS code and a text for this request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EntraError {
    pub(crate) code: u32,
    text: String,
}

/// OAuth's error response (RFC 6749, section 5.2) with Entra's additional fields.
#[derive(Serialize)]
struct ErrorBody<'a> {
    error: &'a str,
    error_description: String,
    error_codes: [u32; 1],
    timestamp: &'a str,
    trace_id: &'a str,
    correlation_id: &'a str,
    error_uri: String,
}

/// The values that identify an error response.
pub(crate) struct Trace<'a> {
    pub(crate) trace_id: &'a str,
    pub(crate) correlation_id: &'a str,
    /// `2026-01-31 12:00:00Z`
    pub(crate) timestamp: &'a str,
}

impl EntraError {
    /// Creates an error with a text that describes this request.
    pub(crate) fn new(code: u32, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    /// Creates an error with the catalogue's text.
    pub(crate) fn from_code(code: u32) -> Self {
        let text = entry(code).map_or("The request was rejected.", |entry| entry.text);
        Self::new(code, text)
    }

    /// The code with its prefix `AADSTS`, as operators search for it.
    pub(crate) fn name(&self) -> String {
        format!("AADSTS{}", self.code)
    }

    pub(crate) fn status(&self) -> u16 {
        entry(self.code).map_or(400, |entry| entry.status)
    }

    fn error(&self) -> &'static str {
        entry(self.code).map_or("invalid_request", |entry| entry.error)
    }

    /// Builds the JSON body with Entra's order of keys.
    pub(crate) fn body(&self, trace: &Trace<'_>) -> Vec<u8> {
        let body = ErrorBody {
            error: self.error(),
            error_description: format!(
                "{}: {}\r\nTrace ID: {}\r\nCorrelation ID: {}\r\nTimestamp: {}",
                self.name(),
                self.text,
                trace.trace_id,
                trace.correlation_id,
                trace.timestamp
            ),
            error_codes: [self.code],
            timestamp: trace.timestamp,
            trace_id: trace.trace_id,
            correlation_id: trace.correlation_id,
            error_uri: format!("https://login.microsoftonline.com/error?code={}", self.code),
        };
        serde_json::to_vec(&body).unwrap_or_default()
    }
}

struct Entry {
    code: u32,
    status: u16,
    error: &'static str,
    text: &'static str,
}

fn entry(code: u32) -> Option<&'static Entry> {
    CATALOGUE.iter().find(|entry| entry.code == code)
}

const fn row(code: u32, status: u16, error: &'static str, text: &'static str) -> Entry {
    Entry { code, status, error, text }
}

#[rustfmt::skip]
const CATALOGUE: &[Entry] = &[
    // The request.
    row(900144, 400, "invalid_request", "The request body must contain a parameter that is missing."),
    row(90011, 400, "invalid_request", "Unexpected client assertion type."),
    row(90100, 400, "invalid_request", "A request parameter is empty or not valid."),
    row(900561, 405, "invalid_request", "The endpoint only accepts POST requests."),
    row(901002, 400, "invalid_request", "The 'resource' request parameter is not supported."),
    row(9000411, 400, "invalid_request", "The request is not properly formatted. A parameter is duplicated."),
    row(70003, 400, "unsupported_grant_type", "The app requested an unsupported grant type."),
    row(9001023, 400, "invalid_request", "The grant type is not supported over the /common or /consumers endpoints. Please use the /organizations or tenant-specific endpoint."),
    // The scope and the resource.
    row(70011, 400, "invalid_scope", "The provided value for the input parameter 'scope' is not valid."),
    row(1002012, 400, "invalid_scope", "The provided value for scope is not valid. Client credential flows must have a scope value with /.default suffixed to the resource identifier (application ID URI)."),
    row(28002, 400, "invalid_scope", "Provided value for the input parameter scope isn't valid when requesting an access token. Specify a valid scope."),
    row(700022, 400, "invalid_scope", "The provided value for the input parameter scope can't be valid: it contains more than one resource."),
    row(700023, 400, "invalid_scope", "The provided value for the input parameter scope isn't valid."),
    row(500011, 400, "invalid_resource", "The resource principal was not found in the tenant."),
    row(50001, 400, "invalid_resource", "The resource is disabled or does not exist. Check your app's code to ensure that you have specified the exact resource URL for the resource you are trying to access."),
    // The tenant and the application.
    row(90002, 400, "invalid_request", "Tenant not found. Check to make sure you have the correct tenant ID and are signing into the correct cloud."),
    row(90038, 400, "invalid_request", "The tenant belongs to a national cloud; the request was sent to another one."),
    row(50049, 400, "invalid_instance", "Unknown or invalid instance."),
    row(700016, 400, "unauthorized_client", "Application was not found in the directory."),
    row(7000112, 400, "unauthorized_client", "Application is disabled."),
    row(900382, 400, "invalid_request", "Confidential Client is not supported in Cross Cloud request."),
    row(900432, 400, "invalid_request", "Confidential Client is not supported in Cross Cloud request."),
    // The credential.
    row(7000218, 401, "invalid_client", "The request body must contain the following parameter: 'client_assertion' or 'client_secret'."),
    row(7000215, 401, "invalid_client", "Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not the client secret ID."),
    row(7000222, 401, "invalid_client", "The provided client secret keys for app are expired."),
    row(700025, 401, "invalid_client", "Client is public so neither 'client_assertion' nor 'client_secret' should be presented."),
    // The assertion.
    row(50027, 400, "invalid_request", "JWT token is invalid or malformed."),
    row(5002730, 400, "invalid_request", "Invalid JWT token. Unsupported key for the signing algorithm."),
    row(50166, 400, "invalid_request", "Request to External OIDC endpoint failed."),
    row(501661, 400, "invalid_request", "Request to External OIDC endpoint failed."),
    row(90061, 400, "invalid_request", "Request to External OIDC endpoint failed."),
    row(70021, 401, "invalid_client", "No matching federated identity record found for presented assertion."),
    row(700211, 401, "invalid_client", "No matching federated identity record found for presented assertion issuer."),
    row(700212, 401, "invalid_client", "No matching federated identity record found for presented assertion audience."),
    row(700213, 401, "invalid_client", "No matching federated identity record found for presented assertion subject."),
    row(7002138, 401, "invalid_client", "No matching federated identity record found for presented assertion subject. The subject matches with case-insensitive comparison, but not with case-sensitive comparison."),
    row(70025, 401, "invalid_client", "The client has no configured federated identity credentials."),
    row(700222, 401, "invalid_client", "AAD-issued tokens may not be used for federated identity flows."),
    row(700229, 401, "invalid_client", "Only app-only tokens may be used as Federated Identity Credentials."),
    row(700024, 401, "invalid_client", "Client assertion is not within its valid time range."),
    row(700027, 401, "invalid_client", "Client assertion failed signature validation."),
    row(7000272, 401, "invalid_client", "The certificate used to sign the federated credential could not be found in the metadata of identity provider."),
    row(900384, 400, "invalid_request", "JWT token failed signature validation."),
    // Policies.
    row(53003, 400, "invalid_grant", "Access has been blocked by Conditional Access policies. The access policy does not allow token issuance."),
    row(530032, 400, "invalid_grant", "Blocked by Conditional Access on risk."),
    row(700238, 400, "invalid_grant", "The request was blocked by a policy."),
    row(50196, 400, "invalid_grant", "The server terminated an operation because it encountered a client request loop. Please contact your app vendor."),
    // Transient.
    row(90055, 429, "temporarily_unavailable", "The server is processing too many requests from this tenant."),
    row(50033, 503, "temporarily_unavailable", "A transient error has occurred. Please try again."),
    row(50087, 503, "temporarily_unavailable", "A transient error has occurred during signout. Please try again."),
    row(90006, 503, "temporarily_unavailable", "The service is temporarily unavailable."),
    row(90012, 503, "temporarily_unavailable", "The request has timed out."),
    row(90024, 503, "temporarily_unavailable", "A transient error has occurred. Please try again."),
    row(90033, 503, "temporarily_unavailable", "A transient error has occurred. Please try again."),
    row(90090, 503, "temporarily_unavailable", "A transient error has occurred. Please try again."),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_has_no_duplicate_code() {
        let mut codes: Vec<u32> = CATALOGUE.iter().map(|entry| entry.code).collect();
        codes.sort_unstable();
        let listed = codes.len();
        codes.dedup();
        assert_eq!(codes.len(), listed);
    }

    #[test]
    fn an_unknown_code_is_a_bad_request() {
        let error = EntraError::from_code(99999);
        assert_eq!((error.status(), error.error()), (400, "invalid_request"));
    }
}
