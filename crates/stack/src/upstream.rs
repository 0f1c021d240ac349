//! The service that the application wants to reach: an HTTPS server that answers with what it saw.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// The names that the upstream's certificate holds.
pub const NAMES: [&str; 3] = [crate::LISTED_HOST, crate::UNLISTED_HOST, "*.example.com"];

/// An HTTPS server with a CA of its own. It answers every request with 200, or with the status that the path names
/// (`/status/401`), and
/// `{"method", "path", "headers": [[name, value], …], "body_length"}`; bytes of a header that are not UTF-8 become U+FFFD.
/// It stops when dropped.
#[derive(Debug)]
pub struct Upstream {
    addr: SocketAddr,
    ca_pem: String,
    requests: Arc<AtomicU64>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Upstream {
    /// Starts on a free port of the loopback interface.
    pub fn start() -> io::Result<Self> {
        let (ca_pem, config) = certificate().map_err(io::Error::other)?;
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let requests = Arc::new(AtomicU64::new(0));
        let (stop, stopped) = oneshot::channel();
        let count = Arc::clone(&requests);
        let thread = thread::Builder::new().name("upstream".to_owned()).spawn(move || {
            runtime.spawn(async {
                if let Err(error) = serve(listener, TlsAcceptor::from(config), count).await {
                    eprintln!("upstream: {error}");
                }
            });
            // Afterwards the runtime is dropped, and all of its connections with it.
            let _ = runtime.block_on(stopped);
        })?;
        Ok(Self { addr, ca_pem, requests, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The certificate of the CA that signed the upstream's own, as PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// How many requests it has seen.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A CA made for this one server, and the server's certificate of that CA.
fn certificate() -> Result<(String, Arc<ServerConfig>), Box<dyn std::error::Error + Send + Sync>> {
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(DnType::CommonName, "upstream CA");
    let ca_key = KeyPair::generate()?;
    let ca_pem = ca.self_signed(&ca_key)?.pem();
    let issuer = Issuer::new(ca, ca_key);

    let key = KeyPair::generate()?;
    let leaf = CertificateParams::new(NAMES.map(str::to_owned))?.signed_by(&key, &issuer)?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)?;
    Ok((ca_pem, Arc::new(config)))
}

async fn serve(listener: std::net::TcpListener, tls: TlsAcceptor, count: Arc<AtomicU64>) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (tls, count) = (tls.clone(), Arc::clone(&count));
        tokio::spawn(async move {
            // A client that gives up in the handshake, or leaves, is no event here: the tests look at Envoy's side.
            let Ok(stream) = tls.accept(stream).await else {
                return;
            };
            let service = service_fn(|request| answer(request, &count));
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(request: Request<Incoming>, count: &AtomicU64) -> Result<Response<Full<Bytes>>, Infallible> {
    count.fetch_add(1, Ordering::SeqCst);
    let (head, body) = request.into_parts();
    let body_length = body.collect().await.map_or(0, |body| body.to_bytes().len());
    let headers: Vec<(&str, String)> = head
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    let seen = json!({
        "method": head.method.as_str(),
        "path": head.uri.path_and_query().map_or("", |path| path.as_str()),
        "headers": headers,
        "body_length": body_length,
    });
    let status = head.uri.path().strip_prefix("/status/").and_then(|status| status.parse().ok());
    let mut response = Response::new(Full::new(Bytes::from(seen.to_string())));
    *response.status_mut() = status.unwrap_or_default();
    response
        .headers_mut()
        .insert(hyper::header::CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
    Ok(response)
}
