//! The token endpoint, without sockets: `POST /{tenant}/oauth2/v2.0/token`.
//!
//! Client credentials with a signed assertion (RFC 6749, section 4.4; RFC 7523, section 2.2), in
//! Entra's dialect: faults first, then the checks of [`grant`](crate::grant), then a token.

use std::time::SystemTime;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::answer::{Answer, Cut, TokenRequest};
use crate::catalogue::Refusal;
use crate::directory::Directory;
use crate::faults::FaultKind;
use crate::grant::{Form, Grant, Version, grant};
use crate::ids::{guid_of, unique_guid, unix_seconds};

/// The authority of the public cloud, used where the request names none.
pub(crate) const PUBLIC_AUTHORITY: &str = "https://login.microsoftonline.com";
/// Life of an access token in seconds, unless a fault says otherwise.
const EXPIRES_IN: u64 = 3599;
/// From this life on, in seconds, the answer has a `refresh_in`, half the life.
const LONG_LIVED: u64 = 7200;
/// Entra dates its tokens five minutes back, so that a resource with a slow clock accepts them.
const BACKDATED: u64 = 300;

/// OAuth's answer (RFC 6749, section 5.1) with Entra's two fields, in Entra's order.
#[derive(Serialize)]
struct TokenBody {
    token_type: &'static str,
    expires_in: u64,
    ext_expires_in: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_in: Option<u64>,
    access_token: String,
}

/// Values that a fault puts in place of the usual ones.
#[derive(Default)]
struct Overrides {
    expires_in: Option<u64>,
    refresh_in: Option<u64>,
    audience: Option<String>,
}

impl Directory {
    /// One token request to the public cloud, as a pure function of the directory and the time:
    /// no sockets, no clock. Delay and cut are in the answer, for the transport to carry out.
    pub fn token(&self, tenant_id: &str, form_body: &[u8], now: SystemTime) -> Answer {
        self.answer(&TokenRequest {
            tenant_id,
            form: form_body,
            authority: PUBLIC_AUTHORITY,
            client_request_id: None,
            now,
        })
    }

    /// The same with what a transport knows besides: the authority and the correlation id.
    pub fn answer(&self, request: &TokenRequest<'_>) -> Answer {
        let form = Form::parse(request.form);
        let asked = form.get("scope").unwrap_or_default();
        let fault = {
            let mut state = self.state();
            state.stats.count_request(request.tenant_id, form.get("client_id").unwrap_or_default(), asked);
            state.pending.take(asked)
        };
        match fault {
            None => self.answer_as_usual(request, &form, Overrides::default()),
            Some(FaultKind::Token { expires_in, refresh_in, audience }) => {
                self.answer_as_usual(request, &form, Overrides { expires_in, refresh_in, audience })
            }
            Some(FaultKind::Delay(delay)) => {
                Answer { delay, ..self.answer_as_usual(request, &form, Overrides::default()) }
            }
            Some(FaultKind::Truncate) => {
                let whole = self.answer_as_usual(request, &form, Overrides::default());
                Answer { cut: Some(Cut::Truncate), ..whole }
            }
            Some(FaultKind::Reset) => {
                Answer { cut: Some(Cut::Reset), ..Answer::of_type("text/plain", 503, Vec::new()) }
            }
            Some(FaultKind::Aadsts { code }) => self.refuse(request, &Refusal::from_code(code), None),
            Some(FaultKind::Status { status, code, retry_after }) => {
                let answer = match (code, status) {
                    (Some(code), _) => self.refuse(request, &Refusal::from_code(code), Some(status)),
                    (None, 401) => self.refuse(request, &Refusal::from_code(7000215), Some(status)),
                    (None, 429) => self.refuse(request, &Refusal::from_code(90055), Some(status)),
                    (None, 400..=499) => self.refuse(request, &Refusal::from_code(90100), Some(status)),
                    (None, _) => {
                        self.state().stats.count_refusal(format!("HTTP{status}"));
                        Answer::of_type("text/plain", status, format!("HTTP status {status}\n").into_bytes())
                    }
                };
                match retry_after {
                    Some(value) => answer.header("retry-after", &value),
                    None => answer,
                }
            }
        }
    }

    fn refuse(&self, request: &TokenRequest<'_>, refusal: &Refusal, status: Option<u16>) -> Answer {
        self.state().stats.count_refusal(refusal.name());
        let status = status.unwrap_or_else(|| refusal.status());
        Answer::refusal_with_status(refusal, status, request.client_request_id, request.now)
    }

    fn answer_as_usual(&self, request: &TokenRequest<'_>, form: &Form, overrides: Overrides) -> Answer {
        let granted = grant(&self.state(), self.key().kid(), request, form);
        match granted {
            Err(refusal) => self.refuse(request, &refusal, None),
            Ok(grant) => {
                self.state().stats.issued += 1;
                self.issue(request, &grant, overrides)
            }
        }
    }

    fn issue(&self, request: &TokenRequest<'_>, grant: &Grant, overrides: Overrides) -> Answer {
        let expires_in = overrides.expires_in.unwrap_or(EXPIRES_IN);
        let half = (expires_in >= LONG_LIVED).then_some(expires_in / 2);
        let audience = overrides.audience.as_deref().unwrap_or(&grant.audience);
        let body = TokenBody {
            token_type: "Bearer",
            expires_in,
            ext_expires_in: expires_in,
            refresh_in: overrides.refresh_in.or(half),
            access_token: self.key().sign(&access_token(request, grant, audience, expires_in)),
        };
        Answer::json(200, serde_json::to_vec(&body).unwrap_or_default()).header("x-ms-request-id", &unique_guid())
    }
}

/// The claims of an app-only access token ("Access token claims reference" of the Microsoft identity platform).
fn access_token(request: &TokenRequest<'_>, grant: &Grant, audience: &str, expires_in: u64) -> Map<String, Value> {
    let now = unix_seconds(request.now);
    let tenant_id = request.tenant_id.to_ascii_lowercase();
    let service_principal = guid_of(&["service principal", &tenant_id, &grant.client_id.to_ascii_lowercase()]);
    let (issuer, version) = match grant.version {
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
    claim("appid", grant.client_id.as_str().into());
    match grant.version {
        Version::V1 => claim("appidacr", "2".into()),
        Version::V2 => {
            claim("azp", grant.client_id.as_str().into());
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
