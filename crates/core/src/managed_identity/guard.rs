//! Rules about who may call the managed-identity endpoints, the status page and the health endpoints.

use std::net::{IpAddr, Ipv4Addr};

use crate::problem::{Code, Problem};
use crate::request::RequestView;

/// The address of every cloud's metadata service (IMDS).
const METADATA_SERVICE: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254));

/// Whether the client connected to the metadata service's address. Unlike the `Host` header, the client cannot forge it.
pub(crate) fn is_to_metadata_service(request: &RequestView<'_>) -> bool {
    address(request) == Some(METADATA_SERVICE)
}

/// Whether the request comes from within the pod: the client connected to a loopback address or to that of the metadata service.
pub(crate) fn is_local(request: &RequestView<'_>) -> bool {
    address(request).is_some_and(|address| address.is_loopback() || address == METADATA_SERVICE)
}

/// The IP address that the client connected to; an IPv4-mapped IPv6 address is converted to IPv4.
fn address(request: &RequestView<'_>) -> Option<IpAddr> {
    request.destination_address().map(|address| address.ip().to_canonical())
}

/// Rejects a request with another method than GET.
pub(crate) fn must_be_get(request: &RequestView<'_>) -> Result<(), Problem> {
    match request.method() {
        b"GET" => Ok(()),
        _ => Err(Problem::new(Code::MethodNotAllowed, "this endpoint supports GET only", "Send a GET request.")),
    }
}
