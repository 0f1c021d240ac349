//! Who may ask at all.

use std::cell::OnceCell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::http::RequestAccess;
use crate::problem::{Code, Problem};

/// The address of every cloud's metadata service (IMDS), and how Envoy writes it before a port.
const METADATA_SERVICE: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254));
const METADATA_SERVICE_TEXT: &[u8] = b"169.254.169.254:";

/// The connection that a request came by. Its address is read at most once: each reading is a call into the proxy.
pub(crate) struct Connection<'a> {
    request: &'a dyn RequestAccess,
    destination: OnceCell<Vec<u8>>,
}

impl<'a> Connection<'a> {
    pub(crate) const fn of(request: &'a dyn RequestAccess) -> Self {
        Self { request, destination: OnceCell::new() }
    }

    /// Whether the client connected to the metadata service's address. The client cannot fake it, unlike the `Host` header.
    pub(crate) fn is_to_metadata_service(&self) -> bool {
        match self.destination() {
            // IPv6, in which the IPv4 address may be mapped.
            [b'[', ..] => self.address() == Some(METADATA_SERVICE),
            // Every request is compared, so no address is parsed for it.
            ipv4 => ipv4.starts_with(METADATA_SERVICE_TEXT),
        }
    }

    /// Whether only the pod itself can have made it: the client connected to a loopback address or to the metadata service's.
    pub(crate) fn is_local(&self) -> bool {
        self.address().is_some_and(|address| address.is_loopback() || address == METADATA_SERVICE)
    }

    /// The IP address that the client connected to; an IPv4-mapped IPv6 address is the IPv4 address.
    fn address(&self) -> Option<IpAddr> {
        let address: SocketAddr = std::str::from_utf8(self.destination()).ok()?.parse().ok()?;
        Some(address.ip().to_canonical())
    }

    /// The address and port that the client connected to, before any redirection (Envoy's attribute `destination.address`).
    fn destination(&self) -> &[u8] {
        self.destination.get_or_init(|| self.request.property(&["destination", "address"]).unwrap_or_default())
    }
}

/// Only GET asks for anything here.
pub(crate) fn must_be_get(request: &dyn RequestAccess) -> Result<(), Problem> {
    match request.header(":method") {
        Some(method) if method == b"GET" => Ok(()),
        _ => Err(Problem::new(Code::MethodNotAllowed, "only GET is answered here", "Send a GET request.")),
    }
}
