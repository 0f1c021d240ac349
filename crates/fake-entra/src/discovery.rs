//! The HTTPS side: discovery documents, signing keys, and the way to the token endpoint.

use std::time::SystemTime;

use serde_json::{Value, json};

use crate::answer::{Answer, TokenRequest};
use crate::catalogue::Refusal;
use crate::directory::Directory;
use crate::grant::tenant_not_found;
use crate::request::Request;
use crate::token::PUBLIC_AUTHORITY;

/// The clouds as instance discovery lists them; the first alias is the host to use.
const CLOUDS: [&[&str]; 3] = [
    &["login.microsoftonline.com", "login.windows.net", "login.microsoft.com", "sts.windows.net"],
    &["login.partner.microsoftonline.cn", "login.chinacloudapi.cn"],
    &["login.microsoftonline.us", "login.usgovcloudapi.net"],
];

/// Answers one request of the HTTPS port.
pub(crate) fn answer(directory: &Directory, request: &Request, now: SystemTime) -> Answer {
    let segments: Vec<&str> = request.path.split('/').skip(1).collect();
    match segments.as_slice() {
        [tenant_id, "oauth2", "v2.0", "token"] => token(directory, request, tenant_id, now),
        ["common", "discovery", "instance"] => get(request, || instance(request, now)),
        [tenant_id, "v2.0", ".well-known", "openid-configuration"] => {
            get(request, || openid_configuration(directory, request, tenant_id, now))
        }
        [_, "discovery", "v2.0", "keys"] => get(request, || Answer::json(200, document(&directory.jwks()))),
        _ => Answer::of_type("text/plain", 404, b"Not found\n".to_vec()),
    }
}

fn get(request: &Request, answer: impl FnOnce() -> Answer) -> Answer {
    if request.method == "GET" {
        return answer();
    }
    Answer::of_type("text/plain", 405, b"Only GET is allowed here\n".to_vec()).header("allow", "GET")
}

fn token(directory: &Directory, request: &Request, tenant_id: &str, now: SystemTime) -> Answer {
    let client_request_id = request.client_request_id.as_deref();
    if request.method != "POST" {
        let text = format!("The endpoint only accepts POST requests. Received a {} request.", request.method);
        return Answer::refusal(&Refusal::new(900561, text), client_request_id, now).header("allow", "POST");
    }
    // A body of another type holds no parameters.
    let form = if request.is_form { &request.body[..] } else { &[] };
    directory.answer(&TokenRequest { tenant_id, form, authority: &authority(request), client_request_id, now })
}

/// The authority of the cloud whose host was asked; the public one under any other name.
fn authority(request: &Request) -> String {
    let host = request.host.split(':').next().unwrap_or_default();
    match CLOUDS.iter().find(|aliases| aliases.contains(&host)).and_then(|aliases| aliases.first()) {
        Some(preferred) => format!("https://{preferred}"),
        None => PUBLIC_AUTHORITY.to_owned(),
    }
}

/// The tenant's OpenID configuration. Its addresses are at the host that was asked; its issuer is
/// that of the tokens.
fn openid_configuration(directory: &Directory, request: &Request, tenant_id: &str, now: SystemTime) -> Answer {
    let is_template = matches!(tenant_id, "common" | "organizations");
    if !is_template && !directory.has_tenant(tenant_id) {
        return Answer::refusal(&tenant_not_found(tenant_id), request.client_request_id.as_deref(), now);
    }
    let here = format!("https://{}/{tenant_id}", request.host);
    let issuer_tenant = if is_template { "{tenantid}".to_owned() } else { tenant_id.to_ascii_lowercase() };
    Answer::json(
        200,
        document(&json!({
            "token_endpoint": format!("{here}/oauth2/v2.0/token"),
            "token_endpoint_auth_methods_supported":
                ["client_secret_post", "private_key_jwt", "client_secret_basic", "self_signed_tls_client_auth"],
            "jwks_uri": format!("{here}/discovery/v2.0/keys"),
            "response_modes_supported": ["query", "fragment", "form_post"],
            "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "response_types_supported": ["code", "id_token", "code id_token", "id_token token"],
            "scopes_supported": ["openid", "profile", "email", "offline_access"],
            "issuer": format!("{}/{issuer_tenant}/v2.0", authority(request)),
            "authorization_endpoint": format!("{here}/oauth2/v2.0/authorize"),
            "tenant_region_scope": "EU",
            "cloud_instance_name": authority(request).trim_start_matches("https://login."),
        })),
    )
}

/// Instance discovery: MSAL asks which host names are the same cloud, and where the tenant's
/// configuration is. `authorization_endpoint` must be at a known cloud or at this server.
fn instance(request: &Request, now: SystemTime) -> Answer {
    let refuse = |refusal| Answer::refusal(&refusal, request.client_request_id.as_deref(), now);
    let missing =
        |name: &str| Refusal::new(900144, format!("The request must contain the following parameter: '{name}'."));
    let parameter = |name: &str| {
        form_urlencoded::parse(request.query.as_bytes())
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
    };
    let Some(version) = parameter("api-version") else {
        return refuse(missing("api-version"));
    };
    let Some(endpoint) = parameter("authorization_endpoint") else {
        return refuse(missing("authorization_endpoint"));
    };
    let mut parts = endpoint.strip_prefix("https://").unwrap_or_default().split('/');
    let (host, tenant_id) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let is_known = host == request.host || CLOUDS.iter().any(|aliases| aliases.contains(&host));
    if !is_known || host.is_empty() || tenant_id.is_empty() {
        return refuse(Refusal::from_code(50049));
    }
    let metadata: Vec<Value> = CLOUDS
        .iter()
        .map(|aliases| {
            json!({
                "preferred_network": aliases.first(),
                // The cache key of the public cloud is an old name.
                "preferred_cache": if aliases.contains(&"login.windows.net") { "login.windows.net" } else { aliases[0] },
                "aliases": aliases,
            })
        })
        .collect();
    Answer::json(
        200,
        document(&json!({
            "tenant_discovery_endpoint": format!("https://{host}/{tenant_id}/v2.0/.well-known/openid-configuration"),
            "api-version": version,
            "metadata": metadata,
        })),
    )
}

fn document(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}
