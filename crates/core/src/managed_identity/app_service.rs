//! App Service's token endpoint. It authenticates callers by a secret, so any local address can serve it.
//!
//! Protocol: learn.microsoft.com, "How to use managed identities for App Service and Azure Functions", REST endpoint
//! reference; its first version (2017-09-01) as the client libraries of that time implement it.

use super::guard::must_be_get;
use super::query::{Query, bad};
use crate::problem::{Code, Problem};
use crate::protocol::AppServiceVersion;
use crate::request::RequestView;
use crate::secret::Secret;

/// The path of `IDENTITY_ENDPOINT` and of `MSI_ENDPOINT`.
const PATH: &[u8] = b"/msi/token";

/// The header with the secret.
const fn secret_header(version: AppServiceVersion) -> &'static str {
    match version {
        AppServiceVersion::First => "secret",
        AppServiceVersion::Current => "x-identity-header",
    }
}

/// Whether this is the endpoint's path, with or without a trailing slash.
pub(super) fn is_token_path(path: &[u8]) -> bool {
    path.strip_suffix(b"/").unwrap_or(path) == PATH
}

/// The problem that the configuration does not enable this endpoint.
pub(super) fn not_enabled() -> Problem {
    Problem::new(
        Code::PathRefused,
        "App Service's endpoint is not enabled",
        "Set managed_identity.app_service, such as to {}, and set the same IDENTITY_HEADER for the app and the proxy.",
    )
}

/// Reads a token request.
///
/// # Errors
/// If the request is not valid. The secret is checked first.
pub(super) fn read_request(
    request: &RequestView<'_>,
    query: &[u8],
    secret: &Result<Secret, Problem>,
) -> Result<(AppServiceVersion, Query), Problem> {
    let version = form_urlencoded::parse(query).find(|(name, _)| name.eq_ignore_ascii_case("api-version"));
    let version = match version.as_ref().map(|(_, version)| &**version) {
        Some("2017-09-01") => AppServiceVersion::First,
        _ => AppServiceVersion::Current,
    };
    let secret = secret.as_ref().map_err(Clone::clone)?;
    if !request.header(secret_header(version)).is_some_and(|sent| secret.is(sent)) {
        return Err(Problem::new(
            Code::SecretWrong,
            format!("the header {} is missing or wrong", secret_header(version)),
            "Set the app's IDENTITY_HEADER (MSI_SECRET) to that of the proxy.",
        ));
    }
    must_be_get(request)?;
    let query = Query::read(query)?;
    match query.version.as_deref() {
        Some("2017-09-01") => {}
        Some(version) if version >= "2019-08-01" => {}
        _ => {
            return Err(bad(
                "api-version is missing or unknown",
                "Send api-version=2019-08-01, or 2017-09-01 with MSI_ENDPOINT.",
            ));
        }
    }
    Ok((version, query))
}
