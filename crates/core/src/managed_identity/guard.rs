//! Rules about who may call the managed-identity endpoints, the status page and the health endpoints.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::problem::{Code, Problem};
use crate::request::RequestView;

/// The address of every cloud's metadata service (IMDS).
const METADATA_SERVICE: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254));

/// The start of that address as text, and of the loopback addresses.
const STARTS: (&[u8], &[u8]) = (b"169.254.169.254:", b"127.");

/// Whether the client connected to the metadata service's address. Unlike the `Host` header, the client cannot forge it.
pub(crate) fn is_to_metadata_service(request: &RequestView<'_>) -> bool {
    address(request, &[STARTS.0]) == Some(METADATA_SERVICE)
}

/// Whether the request comes from within the pod: the client connected to a loopback address or to that of the metadata service.
pub(crate) fn is_local(request: &RequestView<'_>) -> bool {
    address(request, &[STARTS.0, STARTS.1]).is_some_and(|address| address.is_loopback() || address == METADATA_SERVICE)
}

/// The IP address that the client connected to; an IPv4-mapped IPv6 address is converted to IPv4. `None` for an IPv4 address that begins
/// with none of these: a request to any other address then costs a comparison, and is not parsed.
fn address(request: &RequestView<'_>, starts: &[&[u8]]) -> Option<IpAddr> {
    let text = request.destination_address()?;
    let is_ipv4 = text.first().is_some_and(u8::is_ascii_digit);
    if is_ipv4 && !starts.iter().any(|start| text.starts_with(start)) {
        return None;
    }
    let address: SocketAddr = str::from_utf8(text).ok()?.parse().ok()?;
    Some(address.ip().to_canonical())
}

/// Rejects a request with another method than GET.
pub(crate) fn must_be_get(request: &RequestView<'_>) -> Result<(), Problem> {
    match request.method() {
        b"GET" => Ok(()),
        _ => Err(Problem::new(Code::MethodNotAllowed, "this endpoint supports GET only", "Send a GET request.")),
    }
}
