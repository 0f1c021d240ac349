//! Who may ask at all.

use crate::http::Request;
use crate::problem::{Code, Problem};

/// Whether the connection came in on a loopback address or on IMDS's own.
pub(crate) fn is_local(request: &dyn Request) -> bool {
    let address = request.property(&["destination", "address"]).unwrap_or_default();
    let address = String::from_utf8(address).ok();
    address
        .and_then(|address| address.parse::<std::net::SocketAddr>().ok())
        .is_some_and(|address| address.ip().is_loopback() || address.ip().to_string() == "169.254.169.254")
}

/// Only GET asks for anything here.
pub(crate) fn must_be_get(request: &dyn Request) -> Result<(), Problem> {
    match request.header(":method") {
        Some(method) if method == b"GET" => Ok(()),
        _ => Err(Problem::new(Code::MethodNotAllowed, "only GET is answered here", "Send a GET request.")),
    }
}
