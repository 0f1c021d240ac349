//! The service that the application calls: an HTTPS server that returns the requests it receives.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// The names in the upstream's certificate.
pub const NAMES: [&str; 8] = [
    crate::LISTED_HOST,
    crate::UNLISTED_HOST,
    "*.example.com",
    "paymentsdata.blob.core.windows.net",
    "contoso-eu.openai.azure.com",
    "agency-kv.vault.usgovcloudapi.net",
    "reports-kv.vault.azure.net",
    "graph.microsoft.com",
];

/// The maximum number of requests that are kept.
const MAX_KEPT: usize = 100;

/// An HTTPS server with its own CA for HTTP/1 and HTTP/2, and a plaintext server. Both respond to every request with 200, or with the
/// status in the path (`/status/401`), and `{"method", "path", "headers": [[name, value], …], "body_length", "trailers", "tls"}`; bytes
/// of a header that are not UTF-8 become U+FFFD. `/redirect?<url>` redirects to the URL, `/delay/<milliseconds>` delays the response,
/// a WebSocket echoes, and `/empty` has an empty response and is only counted, for benchmarks. The servers stop when the value is dropped.
#[derive(Debug)]
pub struct Upstream {
    addr: SocketAddr,
    plaintext_addr: SocketAddr,
    ca_pem: String,
    requests: Arc<Requests>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

/// The requests that the upstream has received.
#[derive(Debug, Default)]
struct Requests {
    count: AtomicU64,
    last: Mutex<VecDeque<Value>>,
}

impl Requests {
    fn add(&self, seen: &Value) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() == MAX_KEPT {
            last.pop_front();
        }
        last.push_back(seen.clone());
    }
}

impl Upstream {
    /// Starts on free ports of the loopback interface.
    pub fn start() -> io::Result<Self> {
        Self::start_on(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
    }

    /// Starts the HTTPS server on this address, and the plaintext server on a free port of the loopback interface.
    pub fn start_on(address: SocketAddr) -> io::Result<Self> {
        let (ca_pem, config) = certificate().map_err(io::Error::other)?;
        let (listener, plaintext) = (listener(address)?, listener(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?);
        let (addr, plaintext_addr) = (listener.local_addr()?, plaintext.local_addr()?);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let requests = Arc::new(Requests::default());
        let (stop, stopped) = oneshot::channel();
        let seen = Arc::clone(&requests);
        let thread = thread::Builder::new().name("upstream".to_owned()).spawn(move || {
            for (listener, tls) in [(listener, Some(TlsAcceptor::from(config))), (plaintext, None)] {
                let seen = Arc::clone(&seen);
                runtime.spawn(async {
                    if let Err(error) = serve(listener, tls, seen).await {
                        eprintln!("upstream: {error}");
                    }
                });
            }
            // Dropping the runtime afterwards closes all connections.
            let _ = runtime.block_on(stopped);
        })?;
        Ok(Self { addr, plaintext_addr, ca_pem, requests, stop: Some(stop), thread: Some(thread) })
    }

    /// The address of the HTTPS server.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The address of the plaintext server.
    pub fn plaintext_addr(&self) -> SocketAddr {
        self.plaintext_addr
    }

    /// The certificate of the upstream's CA, as PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The number of requests received.
    pub fn requests(&self) -> u64 {
        self.requests.count.load(Ordering::SeqCst)
    }

    /// The last requests received, as returned in the responses, oldest first.
    pub fn seen(&self) -> Vec<Value> {
        self.requests.last.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

fn listener(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

impl Drop for Upstream {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Creates a CA for this server and the server's certificate.
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
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((ca_pem, Arc::new(config)))
}

async fn serve(listener: std::net::TcpListener, tls: Option<TlsAcceptor>, seen: Arc<Requests>) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (tls, seen) = (tls.clone(), Arc::clone(&seen));
        tokio::spawn(async move {
            // Failed handshakes and closed connections are ignored: the tests check them on Envoy's side.
            match tls {
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        serve_connection(stream, true, &seen).await;
                    }
                }
                None => serve_connection(stream, false, &seen).await,
            }
        });
    }
}

async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    tls: bool,
    seen: &Arc<Requests>,
) {
    let service = service_fn(|request| respond(request, tls, Arc::clone(seen)));
    let server = auto::Builder::new(TokioExecutor::new());
    let _ = server.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
}

async fn respond(
    mut request: Request<Incoming>,
    tls: bool,
    requests: Arc<Requests>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    requests.count.fetch_add(1, Ordering::SeqCst);
    if request.uri().path() == "/empty" {
        return Ok(Response::new(Full::default()));
    }
    let is_websocket = request.headers().get(header::UPGRADE).is_some_and(|kind| kind == "websocket");
    let upgrade = is_websocket.then(|| hyper::upgrade::on(&mut request));
    let (head, mut body) = request.into_parts();
    let (mut body_length, mut trailers) = (0, Vec::new());
    while let Some(Ok(frame)) = body.frame().await {
        body_length += frame.data_ref().map_or(0, Bytes::len);
        trailers.extend(frame.trailers_ref().map(texts).unwrap_or_default());
    }
    let mut headers = texts(&head.headers);
    if let (None, Some(authority)) = (head.headers.get(header::HOST), head.uri.authority()) {
        headers.insert(0, ("host".to_owned(), authority.to_string()));
    }
    let seen = json!({
        "method": head.method.as_str(),
        "path": head.uri.path_and_query().map_or("", |path| path.as_str()),
        "headers": headers,
        "body_length": body_length,
        "trailers": trailers,
        "tls": tls,
    });
    requests.add(&seen);
    if let Some(Ok(wait)) = head.uri.path().strip_prefix("/delay/").map(str::parse) {
        tokio::time::sleep(Duration::from_millis(wait)).await;
    }
    let mut response = Response::new(Full::new(Bytes::from(seen.to_string())));
    let status = head.uri.path().strip_prefix("/status/").and_then(|status| status.parse().ok());
    *response.status_mut() = status.unwrap_or_default();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let ("/redirect", Some(Ok(to))) = (head.uri.path(), head.uri.query().map(HeaderValue::from_str)) {
        *response.status_mut() = StatusCode::FOUND;
        response.headers_mut().insert(header::LOCATION, to);
    }
    if let Some(upgrade) = upgrade {
        tokio::spawn(async move {
            let Ok(stream) = upgrade.await else { return };
            let (mut from, mut to) = tokio::io::split(TokioIo::new(stream));
            let _ = tokio::io::copy(&mut from, &mut to).await;
        });
        response = Response::new(Full::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        for (name, value) in [(header::UPGRADE, "websocket"), (header::CONNECTION, "upgrade")] {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
    }
    Ok(response)
}

fn texts(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect()
}
