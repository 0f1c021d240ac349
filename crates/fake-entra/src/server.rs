//! Serves a directory: HTTPS for clients, plaintext HTTP for the admin API.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use fake_http::{Endpoint, Tls};

use crate::directory::Directory;
use crate::{admin, discovery};

/// The names in the server's certificate: Entra's authorities and the addresses that tests use.
const NAMES: [&str; 5] = [
    "login.microsoftonline.com",
    "login.microsoftonline.us",
    "login.partner.microsoftonline.cn",
    "localhost",
    "127.0.0.1",
];

/// A running fake Entra on its own thread. Dropping it closes its ports and connections.
pub struct Server {
    https: SocketAddr,
    admin: SocketAddr,
    ca_pem: String,
    directory: Directory,
    _server: fake_http::Server,
}

impl Server {
    /// Starts on free ports of 127.0.0.1.
    ///
    /// # Errors
    /// When no free port, thread or randomness is available.
    pub fn start(directory: Directory) -> io::Result<Self> {
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self::start_on(directory, free, free)
    }

    /// Starts on these addresses; port 0 selects a free port.
    ///
    /// # Errors
    /// When an address cannot be bound, or no thread or randomness is available.
    pub fn start_on(directory: Directory, https: SocketAddr, admin: SocketAddr) -> io::Result<Self> {
        let tls = Tls::create("fake-entra", &NAMES)?;
        let ca_pem = tls.ca_pem().to_owned();
        let (served, administered) = (directory.clone(), directory.clone());
        let server = fake_http::Server::start(
            "fake-entra",
            vec![
                Endpoint {
                    address: https,
                    tls: Some(tls),
                    handler: Arc::new(move |request| discovery::respond(&served, request, SystemTime::now())),
                },
                Endpoint {
                    address: admin,
                    tls: None,
                    handler: Arc::new(move |request| admin::respond(&administered, request)),
                },
            ],
        )?;
        let [https, admin] = *server.addresses() else {
            return Err(io::Error::other("the server has not started both endpoints"));
        };
        Ok(Self { https, admin, ca_pem, directory, _server: server })
    }

    /// The address of the token endpoint (TLS).
    pub fn https_addr(&self) -> SocketAddr {
        self.https
    }

    /// The address of the admin API (plaintext HTTP).
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin
    }

    /// The certificate of the CA to trust, as PEM. Every start creates a new CA.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The directory that this server serves.
    pub fn directory(&self) -> Directory {
        self.directory.clone()
    }
}
