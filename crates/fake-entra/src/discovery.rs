//! The routes of the HTTPS port: discovery documents, signing keys and the token endpoint.

use std::time::SystemTime;

use fake_http::{Request, Response};
use serde_json::{Value, json};

use crate::catalogue::EntraError;
use crate::directory::Directory;
use crate::http::{TokenRequest, error};

use crate::token::PUBLIC_AUTHORITY;
use crate::validation::tenant_not_found;

/// The clouds that instance discovery lists; the first alias is the preferred host.
const CLOUDS: [&[&str]; 3] = [
    &["login.microsoftonline.com", "login.windows.net", "login.microsoft.com", "sts.windows.net"],
    &["login.partner.microsoftonline.cn", "login.chinacloudapi.cn"],
    &["login.microsoftonline.us", "login.usgovcloudapi.net"],
];

/// Handles a request to the HTTPS port.
pub(crate) fn respond(directory: &Directory, request: &Request, now: SystemTime) -> Response {
    let segments: Vec<&str> = request.path().split('/').skip(1).collect();
    match segments.as_slice() {
        [tenant_id, "oauth2", "v2.0", "token"] => token(directory, request, tenant_id, now),
        ["common", "discovery", "instance"] => get(request, || instance(request, now)),
        [tenant_id, "v2.0", ".well-known", "openid-configuration"] => {
            get(request, || openid_configuration(directory, request, tenant_id, now))
        }
        [_, "discovery", "v2.0", "keys"] => get(request, || Response::json(200, document(&directory.jwks()))),
        _ => Response::of_type("text/plain", 404, b"Not found\n".to_vec()),
    }
}

fn get(request: &Request, handle: impl FnOnce() -> Response) -> Response {
    if request.method == "GET" {
        return handle();
    }
    Response::of_type("text/plain", 405, b"Only GET is allowed\n".to_vec()).header("allow", "GET")
}

fn token(directory: &Directory, request: &Request, tenant_id: &str, now: SystemTime) -> Response {
    let client_request_id = request.header("client-request-id");
    if request.method != "POST" {
        let text = format!("The endpoint only accepts POST requests. Received a {} request.", request.method);
        return error(&EntraError::new(900561, text), client_request_id, now).header("allow", "POST");
    }
    // A body of another content type contains no parameters.
    let form = if request.is_form() { &request.body[..] } else { &[] };
    directory.respond(&TokenRequest { tenant_id, form, authority: &authority(request), client_request_id, now })
}

/// Returns the authority of the cloud that the request's host belongs to, or of the public cloud for any other host.
fn authority(request: &Request) -> String {
    let host = request.host().split(':').next().unwrap_or_default();
    match CLOUDS.iter().find(|aliases| aliases.contains(&host)).and_then(|aliases| aliases.first()) {
        Some(preferred) => format!("https://{preferred}"),
        None => PUBLIC_AUTHORITY.to_owned(),
    }
}

/// Returns the tenant's OpenID configuration. Its URLs have the request's host; its issuer is the issuer of the tokens.
fn openid_configuration(directory: &Directory, request: &Request, tenant_id: &str, now: SystemTime) -> Response {
    let is_template = matches!(tenant_id, "common" | "organizations");
    if !is_template && !directory.has_tenant(tenant_id) {
        return error(&tenant_not_found(tenant_id), request.header("client-request-id"), now);
    }
    let base = format!("https://{}/{tenant_id}", request.host());
    let issuer_tenant = if is_template { "{tenantid}".to_owned() } else { tenant_id.to_ascii_lowercase() };
    Response::json(
        200,
        document(&json!({
            "token_endpoint": format!("{base}/oauth2/v2.0/token"),
            "token_endpoint_auth_methods_supported":
                ["client_secret_post", "private_key_jwt", "client_secret_basic", "self_signed_tls_client_auth"],
            "jwks_uri": format!("{base}/discovery/v2.0/keys"),
            "response_modes_supported": ["query", "fragment", "form_post"],
            "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "response_types_supported": ["code", "id_token", "code id_token", "id_token token"],
            "scopes_supported": ["openid", "profile", "email", "offline_access"],
            "issuer": format!("{}/{issuer_tenant}/v2.0", authority(request)),
            "authorization_endpoint": format!("{base}/oauth2/v2.0/authorize"),
            "tenant_region_scope": "EU",
            "cloud_instance_name": authority(request).trim_start_matches("https://login."),
        })),
    )
}

/// Handles instance discovery, from which MSAL learns the aliases of a cloud and the URL of the tenant's
/// configuration. The host of `authorization_endpoint` must be a known cloud or this server.
fn instance(request: &Request, now: SystemTime) -> Response {
    let reject = |problem: EntraError| error(&problem, request.header("client-request-id"), now);
    let missing =
        |name: &str| EntraError::new(900144, format!("The request must contain the following parameter: '{name}'."));
    let parameter = |name: &str| {
        form_urlencoded::parse(request.query().as_bytes())
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
    };
    let Some(version) = parameter("api-version") else {
        return reject(missing("api-version"));
    };
    let Some(endpoint) = parameter("authorization_endpoint") else {
        return reject(missing("authorization_endpoint"));
    };
    let mut parts = endpoint.strip_prefix("https://").unwrap_or_default().split('/');
    let (host, tenant_id) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let is_known = host == request.host() || CLOUDS.iter().any(|aliases| aliases.contains(&host));
    if !is_known || host.is_empty() || tenant_id.is_empty() {
        return reject(EntraError::from_code(50049));
    }
    let metadata: Vec<Value> = CLOUDS
        .iter()
        .map(|aliases| {
            json!({
                "preferred_network": aliases.first(),
                // The public cloud's cache key is its former host.
                "preferred_cache": if aliases.contains(&"login.windows.net") { "login.windows.net" } else { aliases[0] },
                "aliases": aliases,
            })
        })
        .collect();
    Response::json(
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
