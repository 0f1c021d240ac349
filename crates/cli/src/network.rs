//! Calls to other servers, for the verbs whose description says so.

use std::time::Duration;

use crate::output::Failure;

/// How long a call may take.
const LONGEST: Duration = Duration::from_secs(10);

/// The largest body that is read.
const LARGEST: u64 = 8 * 1024 * 1024;

/// A response: its status and its body.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// Takes a URL as an argument.
pub(crate) fn url(text: &str) -> Result<String, String> {
    if is_url(text) { Ok(text.to_owned()) } else { Err("write a URL that begins with http:// or https://".to_owned()) }
}

/// Whether a text is a URL, and not the name of a file.
pub(crate) fn is_url(text: &str) -> bool {
    text.starts_with("https://") || text.starts_with("http://")
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .timeout_global(Some(LONGEST))
        .http_status_as_error(false)
        .user_agent(concat!("entra-exchange/", env!("CARGO_PKG_VERSION")))
        .build()
        .into()
}

/// Sends a GET request. The server's certificate is verified.
///
/// # Errors
/// If there is no response: why.
pub(crate) fn get(url: &str) -> Result<Response, String> {
    let mut response = agent().get(url).call().map_err(|error| error.to_string())?;
    let status = response.status().as_u16();
    let body = response.body_mut().with_config().limit(LARGEST).read_to_string().map_err(|error| error.to_string())?;
    Ok(Response { status, body })
}

/// The body of a successful GET request.
pub(crate) fn body(url: &str) -> Result<String, Failure> {
    match get(url) {
        Ok(Response { status: 200, body }) => Ok(body),
        Ok(Response { status, .. }) => Err(Failure::remote(format!("{url} answered {status} instead of 200"))),
        Err(error) => Err(Failure::remote(format!("{url} cannot be reached: {error}"))),
    }
}
