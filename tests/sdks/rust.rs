//! The driver for the Azure SDK for Rust. It is this test's binary, started as another process.

use std::net::SocketAddr;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Instant;

use azure_core::credentials::TokenCredential as _;
use azure_core::error::{Error, ErrorKind};
use azure_core::http::headers::{HeaderName, HeaderValue, Headers};
use azure_core::http::{AsyncRawResponse, ClientOptions, HttpClient, Request, Transport};
use azure_identity::{ManagedIdentityCredential, ManagedIdentityCredentialOptions, UserAssignedId};
use serde_json::{Value, json};

/// The argument that selects the driver.
const FLAG: &str = "--azure-identity-driver";
/// The host of IMDS. No request may reach the real one.
const IMDS: &str = "169.254.169.254";

/// Returns the command that starts the driver.
pub(crate) fn driver() -> Option<Command> {
    let mut command = Command::new(std::env::current_exe().ok()?);
    command.arg(FLAG);
    Some(command)
}

/// Runs the request on the command line if this process is the driver; otherwise returns `None`.
pub(crate) fn run() -> Option<ExitCode> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, flag, request] = arguments.as_slice() else { return None };
    if flag != FLAG {
        return None;
    }
    let request: Value = serde_json::from_str(request).unwrap();
    println!("{}", futures_executor::block_on(respond(&request)));
    Some(ExitCode::SUCCESS)
}

async fn respond(request: &Value) -> Value {
    let (mut tokens, mut expires_on, mut ms) = (Vec::new(), Vec::new(), Vec::new());
    let mut started = Instant::now();
    let result: azure_core::Result<()> = async {
        let options = ManagedIdentityCredentialOptions {
            user_assigned_id: selected(&request["selector"]),
            client_options: ClientOptions {
                transport: Some(Transport::new(Arc::new(Redirecting))),
                ..ClientOptions::default()
            },
        };
        let credential = ManagedIdentityCredential::new(Some(options))?;
        let scope = format!("{}/.default", request["resource"].as_str().unwrap());
        for _ in 0..request["times"].as_u64().unwrap_or(1) {
            started = Instant::now();
            let token = credential.get_token(&[&scope], None).await?;
            tokens.push(token.token.secret().to_owned());
            expires_on.push(token.expires_on.unix_timestamp());
            ms.push(started.elapsed().as_millis());
        }
        Ok(())
    }
    .await;
    let version = version();
    match result {
        Ok(()) => json!({"version": version, "tokens": tokens, "expires_on": expires_on, "ms": ms}),
        Err(error) => json!({
            "version": version,
            "error": {"type": error.kind().to_string(), "message": error.to_string()},
            "ms": started.elapsed().as_millis(),
        }),
    }
}

fn selected(selector: &Value) -> Option<UserAssignedId> {
    let (kind, value) = selector.as_object()?.iter().next()?;
    let value = value.as_str().unwrap().to_owned();
    match kind.as_str() {
        "client_id" => Some(UserAssignedId::ClientId(value)),
        "object_id" => Some(UserAssignedId::ObjectId(value)),
        "resource_id" => Some(UserAssignedId::ResourceId(value)),
        other => panic!("unknown selector {other}"),
    }
}

/// Returns the SDK's version from the lock file, because the SDK does not expose it.
fn version() -> &'static str {
    let rest = include_str!("../../Cargo.lock").split_once("name = \"azure_identity\"\nversion = \"").unwrap().1;
    rest.split_once('"').unwrap().0
}

/// Sends requests for IMDS to `$IMDS_URL`, as iptables does in a pod.
#[derive(Debug)]
struct Redirecting;

#[async_trait::async_trait]
impl HttpClient for Redirecting {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        let failed = |error: String| Error::with_message(ErrorKind::Io, error);
        let url = request.url();
        let host = url.host_str().unwrap_or_default();
        let port = url.port_or_known_default().unwrap_or(80);
        let address: SocketAddr = match host {
            IMDS => {
                let target = std::env::var("IMDS_URL");
                let target = target.map_err(|_| failed(format!("set IMDS_URL: no request may be sent to {IMDS}")))?;
                target.trim_start_matches("http://").parse()
            }
            host => format!("{host}:{port}").parse(),
        }
        .map_err(|error| failed(format!("{url}: {error}")))?;
        let path = format!("{}?{}", url.path(), url.query().unwrap_or_default());
        let sent = stack::Request::new(request.method().as_str(), host, &path);
        let sent =
            request.headers().iter().fold(sent, |sent, (name, value)| sent.header(name.as_str(), value.as_str()));
        let response = sent.send(address).map_err(|error| failed(error.to_string()))?;
        let mut headers = Headers::new();
        for (name, value) in response.headers {
            let value = String::from_utf8_lossy(&value).into_owned();
            headers.insert(HeaderName::from(name), HeaderValue::from(value));
        }
        Ok(AsyncRawResponse::from_bytes(response.status.into(), headers, response.body))
    }
}
