//! The instance metadata service (IMDS) of an Azure virtual machine.
//!
//! Protocol: learn.microsoft.com, "How to use managed identities on an Azure VM to acquire an access token". Requests
//! must have `Metadata: true` and no `X-Forwarded-For`, as IMDS itself requires, so that no app can be made to request a token for
//! somebody else.

use super::guard::must_be_get;
use super::query::{Query, bad};
use crate::config::Imds;
use crate::override_headers;
use crate::path;
use crate::problem::{Code, Problem};
use crate::request::RequestView;

/// The oldest `api-version` of the token request.
const OLDEST_VERSION: &str = "2018-02-01";

/// The kind of a path of the metadata service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Path {
    /// The token endpoint.
    Token,
    /// A part of the identity endpoint that the filter does not implement. MSAL.NET detects that by a 404; it takes a 400 as a sign
    /// that the part exists.
    Absent,
    /// Any other path.
    Other,
}

/// Classifies a path. `metadata` may have any case (some clients write `Metadata`), and the path may begin with `//` (an older
/// MSAL4J) and end with a slash (MSAL Node).
pub(super) fn read_path(path: &[u8]) -> Path {
    let path = path.strip_prefix(b"//").or_else(|| path.strip_prefix(b"/")).unwrap_or_default();
    let path = path.strip_suffix(b"/").unwrap_or(path);
    let (first, rest) = match path.iter().position(|byte| *byte == b'/') {
        Some(slash) => (path.get(..slash).unwrap_or_default(), path.get(slash..).unwrap_or_default()),
        None => (path, [].as_slice()),
    };
    match rest {
        b"/identity/oauth2/token" if first.eq_ignore_ascii_case(b"metadata") => Path::Token,
        b"/identity/getplatformmetadata" | b"/identity/issuecredential" => Path::Absent,
        _ => Path::Other,
    }
}

/// Whether a path is forwarded to the node's own metadata service. A path below `/metadata/identity` never is.
pub(super) fn passes(path: &[u8], imds: &Imds) -> bool {
    if path == b"/" {
        return imds.passes_root;
    }
    // Paths of the metadata service need no encoding. A path that the node's service would decode or normalize is not forwarded.
    let is_plain = path.is_ascii() && !path.contains(&b'%');
    is_plain
        && path::ambiguity(path).is_none()
        && !path::is_of_node_identity(path)
        && imds.pass.iter().any(|prefix| path::is_within(path, prefix.as_bytes()))
}

/// Rejects a request to be forwarded to the node whose headers override the path or method.
pub(super) fn must_not_be_overridden(request: &RequestView<'_>) -> Result<(), Problem> {
    let Some(header) = override_headers::in_request(request) else { return Ok(()) };
    Err(Problem::new(
        Code::OverrideHeaderPresent,
        format!("the request has the header {header}, which can make a server use another path or method"),
        "Send the request without the header.",
    ))
}

/// The problem that a request to the metadata service's address has the host of another service.
pub(super) fn host_not_listed() -> Problem {
    Problem::new(
        Code::HostNotListed,
        "the client connected to 169.254.169.254, but the Host header is not in managed_identity.imds.hosts",
        "Send Host: 169.254.169.254. For another service, connect to that service's address.",
    )
}

/// The problem that the filter does not implement this part of the identity endpoint.
pub(super) fn absent() -> Problem {
    Problem::new(
        Code::PathNotFound,
        "the filter does not implement this part of the metadata service",
        "Request a token at /metadata/identity/oauth2/token.",
    )
}

/// The problem that a path is neither the token endpoint nor forwarded to the node.
pub(super) fn not_forwarded(path: &[u8]) -> Problem {
    const REMEDY: &str = "Request a token at /metadata/identity/oauth2/token";
    match path::ambiguity(path) {
        Some(reason) => Problem::new(
            Code::PathRefused,
            format!("the path has {reason}, and such paths are never forwarded to the node's metadata service"),
            "Send the path in its normal form, without empty and dot segments, backslashes and needless escapes.",
        ),
        None if path::is_of_node_identity(path) => Problem::new(
            Code::PathRefused,
            "the filter serves only tokens, and no path below /metadata/identity is forwarded to the node",
            format!("{REMEDY}."),
        ),
        None => Problem::new(
            Code::PathRefused,
            "the filter serves only tokens, and this path is not forwarded to the node",
            format!("{REMEDY}; or list the path in managed_identity.imds.pass."),
        ),
    }
}

/// Reads a token request.
///
/// # Errors
/// If the request is not valid by the rules of IMDS.
pub(super) fn read_request(request: &RequestView<'_>, query: &[u8]) -> Result<Query, Problem> {
    if request.header("metadata").is_none_or(|value| !value.eq_ignore_ascii_case(b"true")) {
        return Err(Problem::new(
            Code::MetadataHeaderMissing,
            "Required metadata header not specified",
            "Send the header Metadata: true.",
        ));
    }
    if request.header("x-forwarded-for").is_some() {
        return Err(Problem::new(
            Code::Forwarded,
            "the request has an X-Forwarded-For header: a proxy forwarded it",
            "Call the endpoint without a proxy. If Envoy itself adds the header, set use_remote_address: false on \
             the listener's connection manager.",
        ));
    }
    must_be_get(request)?;
    let query = Query::read(query)?;
    if query.version.as_deref().is_none_or(|version| version < OLDEST_VERSION) {
        return Err(bad(
            format!("api-version is missing or older than {OLDEST_VERSION}"),
            "Send api-version=2018-02-01 or a later version.",
        ));
    }
    Ok(query)
}
