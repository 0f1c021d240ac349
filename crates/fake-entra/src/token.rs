//! The token endpoint, without sockets: `POST /{tenant}/oauth2/v2.0/token`.
//!
//! The client-credentials grant with a signed assertion (RFC 6749, section 4.4; RFC 7523, section 2.2), as Entra
//! implements it: first faults, then the checks of [`validation`](crate::validation), then a token.

use std::time::SystemTime;

use fake_http::{Disconnect, Response};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::catalogue::EntraError;
use crate::directory::Directory;
use crate::faults::FaultKind;
use crate::http::{TokenRequest, error_with_status};
use crate::ids::{guid_of, unique_guid, unix_seconds};
use crate::validation::{Form, ValidRequest, Version, validate};

/// The authority of the public cloud, which is the default.
pub(crate) const PUBLIC_AUTHORITY: &str = "https://login.microsoftonline.com";
/// The lifetime of an access token in seconds, unless a fault overrides it.
const EXPIRES_IN: u64 = 3599;
/// The lifetime in seconds from which the response has a `refresh_in`, which is half of the lifetime.
const LONG_LIVED: u64 = 7200;
/// The time in seconds by which Entra backdates its tokens, so that a resource with a slow clock accepts them.
const BACKDATED: u64 = 300;

/// OAuth's successful response (RFC 6749, section 5.1) with Entra's two additional fields, in Entra's order.
#[derive(Serialize)]
struct TokenBody {
    token_type: &'static str,
    expires_in: u64,
    ext_expires_in: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_in: Option<u64>,
    access_token: String,
}

/// Values with which a fault overrides the defaults.
#[derive(Default)]
struct Overrides {
    expires_in: Option<u64>,
    refresh_in: Option<u64>,
    audience: Option<String>,
}

impl Directory {
    /// Handles a token request to the public cloud without sockets and without a clock. The response
    /// contains the delay and the disconnect that the transport must apply.
    pub fn token(&self, tenant_id: &str, form_body: &[u8], now: SystemTime) -> Response {
        self.respond(&TokenRequest {
            tenant_id,
            form: form_body,
            authority: PUBLIC_AUTHORITY,
            client_request_id: None,
            now,
        })
    }

    /// Handles a token request with its authority and correlation id.
    pub fn respond(&self, request: &TokenRequest<'_>) -> Response {
        let form = Form::parse(request.form);
        let scope = form.get("scope").unwrap_or_default();
        let fault = {
            let mut state = self.state();
            state.stats.count_request(request.tenant_id, form.get("client_id").unwrap_or_default(), scope);
            state.pending.take(scope)
        };
        match fault {
            None => self.respond_normally(request, &form, Overrides::default()),
            Some(FaultKind::Token { expires_in, refresh_in, audience }) => {
                self.respond_normally(request, &form, Overrides { expires_in, refresh_in, audience })
            }
            Some(FaultKind::Delay(delay)) => {
                Response { delay, ..self.respond_normally(request, &form, Overrides::default()) }
            }
            Some(FaultKind::Truncate) => {
                let complete = self.respond_normally(request, &form, Overrides::default());
                Response { disconnect: Some(Disconnect::Truncate), ..complete }
            }
            Some(FaultKind::Reset) => {
                Response { disconnect: Some(Disconnect::Reset), ..Response::of_type("text/plain", 503, Vec::new()) }
            }
            Some(FaultKind::Aadsts { code }) => self.reject(request, &EntraError::from_code(code), None),
            Some(FaultKind::Status { status, code, retry_after }) => {
                let response = match (code, status) {
                    (Some(code), _) => self.reject(request, &EntraError::from_code(code), Some(status)),
                    (None, 401) => self.reject(request, &EntraError::from_code(7000215), Some(status)),
                    (None, 429) => self.reject(request, &EntraError::from_code(90055), Some(status)),
                    (None, 400..=499) => self.reject(request, &EntraError::from_code(90100), Some(status)),
                    (None, _) => {
                        self.state().stats.count_rejection(format!("HTTP{status}"));
                        Response::of_type("text/plain", status, format!("HTTP status {status}\n").into_bytes())
                    }
                };
                match retry_after {
                    Some(value) => response.header("retry-after", &value),
                    None => response,
                }
            }
        }
    }

    fn reject(&self, request: &TokenRequest<'_>, error: &EntraError, status: Option<u16>) -> Response {
        self.state().stats.count_rejection(error.name());
        let status = status.unwrap_or_else(|| error.status());
        error_with_status(error, status, request.client_request_id, request.now)
    }

    fn respond_normally(&self, request: &TokenRequest<'_>, form: &Form, overrides: Overrides) -> Response {
        let validated = validate(&self.state(), self.key().kid(), request, form);
        match validated {
            Err(error) => self.reject(request, &error, None),
            Ok(valid) => {
                self.state().stats.issued += 1;
                self.issue(request, &valid, overrides)
            }
        }
    }

    fn issue(&self, request: &TokenRequest<'_>, valid: &ValidRequest, overrides: Overrides) -> Response {
        let expires_in = overrides.expires_in.unwrap_or(EXPIRES_IN);
        let half = (expires_in >= LONG_LIVED).then_some(expires_in / 2);
        let audience = overrides.audience.as_deref().unwrap_or(&valid.audience);
        let body = TokenBody {
            token_type: "Bearer",
            expires_in,
            ext_expires_in: expires_in,
            refresh_in: overrides.refresh_in.or(half),
            access_token: self.key().sign(&access_token(request, valid, audience, expires_in)),
        };
        Response::json(200, serde_json::to_vec(&body).unwrap_or_default()).header("x-ms-request-id", &unique_guid())
    }
}

/// Builds the claims of an app-only access token ("Access token claims reference" of the Microsoft identity platform).
fn access_token(
    request: &TokenRequest<'_>,
    valid: &ValidRequest,
    audience: &str,
    expires_in: u64,
) -> Map<String, Value> {
    let now = unix_seconds(request.now);
    let tenant_id = request.tenant_id.to_ascii_lowercase();
    let service_principal = guid_of(&["service principal", &tenant_id, &valid.client_id.to_ascii_lowercase()]);
    let (issuer, version) = match valid.version {
        Version::V1 => (format!("https://{}/{tenant_id}/", v1_issuer_host(request.authority)), "1.0"),
        Version::V2 => (format!("{}/{tenant_id}/v2.0", request.authority), "2.0"),
    };
    let mut claims = Map::new();
    let mut claim = |name: &str, value: Value| claims.insert(name.to_owned(), value);
    claim("aud", audience.into());
    claim("iss", issuer.into());
    claim("iat", now.saturating_sub(BACKDATED).into());
    claim("nbf", now.saturating_sub(BACKDATED).into());
    claim("exp", now.saturating_add(expires_in).into());
    claim("appid", valid.client_id.as_str().into());
    match valid.version {
        Version::V1 => claim("appidacr", "2".into()),
        Version::V2 => {
            claim("azp", valid.client_id.as_str().into());
            claim("azpacr", "2".into())
        }
    };
    claim("idtyp", "app".into());
    claim("oid", service_principal.as_str().into());
    claim("sub", service_principal.as_str().into());
    claim("tid", tenant_id.into());
    claim("uti", unique_guid().into());
    claim("ver", version.into());
    claims
}

fn v1_issuer_host(authority: &str) -> &'static str {
    if authority.ends_with(".cn") { "sts.chinacloudapi.cn" } else { "sts.windows.net" }
}
