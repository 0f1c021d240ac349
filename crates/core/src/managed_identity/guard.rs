//! Checks of a request's connection and method.

use std::cell::OnceCell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::http::RequestAccess;
use crate::problem::{Code, Problem};

/// The address of every cloud's metadata service (IMDS), also as text, which Envoy follows with the port.
const METADATA_SERVICE: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254));
const METADATA_SERVICE_TEXT: &[u8] = b"169.254.169.254:";

/// The downstream connection of a request. Its address is read at most once, because each read is a call into the proxy.
pub(crate) struct Connection<'a> {
    request: &'a dyn RequestAccess,
    destination: OnceCell<Vec<u8>>,
}

impl<'a> Connection<'a> {
    /// The connection of this request.
    pub(crate) const fn of(request: &'a dyn RequestAccess) -> Self {
        Self { request, destination: OnceCell::new() }
    }

    /// Whether the client connected to the metadata service's address. Unlike the `Host` header, the client cannot forge it.
    pub(crate) fn is_to_metadata_service(&self) -> bool {
        match self.destination() {
            // An IPv6 address, which may be an IPv4-mapped one.
            [b'[', ..] => self.address() == Some(METADATA_SERVICE),
            // This runs for every request, so the address is compared without parsing it.
            ipv4 => ipv4.starts_with(METADATA_SERVICE_TEXT),
        }
    }

    /// Whether it comes from within the pod: the client connected to a loopback address or to that of the metadata service.
    pub(crate) fn is_local(&self) -> bool {
        self.address().is_some_and(|address| address.is_loopback() || address == METADATA_SERVICE)
    }

    /// The IP address that the client connected to; an IPv4-mapped IPv6 address is converted to IPv4.
    fn address(&self) -> Option<IpAddr> {
        let address: SocketAddr = std::str::from_utf8(self.destination()).ok()?.parse().ok()?;
        Some(address.ip().to_canonical())
    }

    /// The address and port that the client connected to, before any redirection (Envoy's attribute `destination.address`).
    fn destination(&self) -> &[u8] {
        self.destination.get_or_init(|| self.request.property(&["destination", "address"]).unwrap_or_default())
    }
}

/// Rejects a request with another method than GET.
pub(crate) fn must_be_get(request: &dyn RequestAccess) -> Result<(), Problem> {
    match request.header(":method") {
        Some(method) if method == b"GET" => Ok(()),
        _ => Err(Problem::new(Code::MethodNotAllowed, "this endpoint supports GET only", "Send a GET request.")),
    }
}
