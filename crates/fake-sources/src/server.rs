//! Serves a source on a loopback port.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use fake_http::{Endpoint, Tls};

use crate::source::Source;

/// A running source on its own thread. Dropping it closes its port and connections.
pub struct Server {
    address: SocketAddr,
    ca_pem: Option<String>,
    _server: fake_http::Server,
}

impl Server {
    /// Serves the source in plaintext on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When no free port or thread is available.
    pub fn start(source: &impl Source) -> io::Result<Self> {
        Self::start_with(source, None)
    }

    /// Serves the source over TLS on a free port of 127.0.0.1, with a certificate for these names.
    ///
    /// # Errors
    /// When a name is not valid, or no free port, thread or randomness is available.
    pub fn start_tls(source: &impl Source, names: &[&str]) -> io::Result<Self> {
        Self::start_with(source, Some(Tls::create("fake-sources", names)?))
    }

    fn start_with(source: &impl Source, tls: Option<Tls>) -> io::Result<Self> {
        let ca_pem = tls.as_ref().map(|tls| tls.ca_pem().to_owned());
        let source = source.clone();
        let handler = Arc::new(move |request: &fake_http::Request| source.respond(request, SystemTime::now()));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = fake_http::Server::start("fake-sources", vec![Endpoint { address, tls, handler }])?;
        let [address] = *server.addresses() else {
            return Err(io::Error::other("the server has not started its endpoint"));
        };
        Ok(Self { address, ca_pem, _server: server })
    }

    /// The address.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// The certificate of the CA to trust, as PEM; `None` for a server in plaintext.
    pub fn ca_pem(&self) -> Option<&str> {
        self.ca_pem.as_deref()
    }
}
