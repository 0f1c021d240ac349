//! The service that the application wants to reach: an HTTPS server that answers with what it saw.

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

/// The names that the upstream's certificate holds.
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

/// How many of the last requests are remembered.
const REMEMBERED: usize = 100;

/// An HTTPS server with a CA of its own, for HTTP/1 and HTTP/2, and beside it one in clear. Both answer every request
/// with 200, or with the status that the path names (`/status/401`), and `{"method", "path", "headers": [[name, value], …],
/// "body_length", "trailers", "tls"}`; bytes of a header that are not UTF-8 become U+FFFD. `/redirect?<url>` redirects there,
/// `/delay/<milliseconds>` takes so long, and a WebSocket gets back what it sends.
/// It stops when dropped.
#[derive(Debug)]
pub struct Upstream {
    addr: SocketAddr,
    clear_addr: SocketAddr,
    ca_pem: String,
    requests: Arc<Requests>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

/// The requests that have come.
#[derive(Debug, Default)]
struct Requests {
    count: AtomicU64,
    last: Mutex<VecDeque<Value>>,
}

impl Requests {
    fn remember(&self, seen: &Value) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() == REMEMBERED {
            last.pop_front();
        }
        last.push_back(seen.clone());
    }
}

impl Upstream {
    /// Starts on free ports of the loopback interface.
    pub fn start() -> io::Result<Self> {
        let (ca_pem, config) = certificate().map_err(io::Error::other)?;
        let (listener, clear) = (listener()?, listener()?);
        let (addr, clear_addr) = (listener.local_addr()?, clear.local_addr()?);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let requests = Arc::new(Requests::default());
        let (stop, stopped) = oneshot::channel();
        let seen = Arc::clone(&requests);
        let thread = thread::Builder::new().name("upstream".to_owned()).spawn(move || {
            for (listener, tls) in [(listener, Some(TlsAcceptor::from(config))), (clear, None)] {
                let seen = Arc::clone(&seen);
                runtime.spawn(async {
                    if let Err(error) = serve(listener, tls, seen).await {
                        eprintln!("upstream: {error}");
                    }
                });
            }
            // Afterwards the runtime is dropped, and all of its connections with it.
            let _ = runtime.block_on(stopped);
        })?;
        Ok(Self { addr, clear_addr, ca_pem, requests, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where it listens in clear.
    pub fn clear_addr(&self) -> SocketAddr {
        self.clear_addr
    }

    /// The certificate of the CA that signed the upstream's own, as PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// How many requests it has seen.
    pub fn requests(&self) -> u64 {
        self.requests.count.load(Ordering::SeqCst)
    }

    /// The last requests that it has seen, as it answers them, the oldest first.
    pub fn seen(&self) -> Vec<Value> {
        self.requests.last.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

fn listener() -> io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
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
            // A client that gives up in the handshake, or leaves, is no event here: the tests look at Envoy's side.
            match tls {
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        speak(stream, true, &seen).await;
                    }
                }
                None => speak(stream, false, &seen).await,
            }
        });
    }
}

async fn speak(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, tls: bool, seen: &Arc<Requests>) {
    let service = service_fn(|request| answer(request, tls, Arc::clone(seen)));
    let server = auto::Builder::new(TokioExecutor::new());
    let _ = server.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
}

async fn answer(
    mut request: Request<Incoming>,
    tls: bool,
    requests: Arc<Requests>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    requests.count.fetch_add(1, Ordering::SeqCst);
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
    requests.remember(&seen);
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
