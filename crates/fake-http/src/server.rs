//! Serves fakes on loopback ports.

use std::io;
use std::net::SocketAddr;
use std::thread::JoinHandle;

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use crate::connection::{self, Handler};
use crate::tls::Tls;

/// A port and what it serves.
pub struct Endpoint {
    /// The address; port 0 selects a free port.
    pub address: SocketAddr,
    /// The certificate; `None` serves plaintext.
    pub tls: Option<Tls>,
    /// The fake.
    pub handler: Handler,
}

/// A running server on its own thread. Dropping it closes its ports and connections.
pub struct Server {
    addresses: Vec<SocketAddr>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts serving these endpoints on one thread with this name.
    ///
    /// # Errors
    /// When an address cannot be bound or no thread is available.
    pub fn start(name: &str, endpoints: Vec<Endpoint>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let bound = endpoints.into_iter().map(|endpoint| Ok((bind(endpoint.address)?, endpoint)));
        let bound = bound.collect::<io::Result<Vec<_>>>()?;
        let addresses = bound.iter().map(|(listener, _)| listener.local_addr()).collect::<io::Result<_>>()?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            runtime.block_on(async move {
                for (listener, endpoint) in bound {
                    let Ok(listener) = TcpListener::from_std(listener) else { return };
                    tokio::spawn(accept(listener, endpoint));
                }
                // Completes with a value or an error; both stop the server.
                let _ = stopped.await;
            });
        })?;
        Ok(Self { addresses, stop: Some(stop), thread: Some(thread) })
    }

    /// The addresses of the endpoints, in their order.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

async fn accept(listener: TcpListener, endpoint: Endpoint) {
    let acceptor = endpoint.tls.map(|tls| TlsAcceptor::from(tls.into_config()));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let handler = endpoint.handler.clone();
        match acceptor.clone() {
            None => {
                tokio::spawn(connection::serve(stream, handler));
            }
            Some(acceptor) => {
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        connection::serve(stream, handler).await;
                    }
                });
            }
        }
    }
}
