//! A small blocking HTTP client: it opens a connection per request, follows no redirects and does not interpret responses.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use ureq::http;

/// The default timeout of a request.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A request that is sent without normalizing its path or the bytes of its headers.
#[derive(Clone, Debug)]
pub struct Request {
    method: String,
    host: String,
    path: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Option<Vec<u8>>,
    timeout: Duration,
}

impl Request {
    /// Creates a GET request.
    pub fn get(host: &str, path: &str) -> Self {
        Self::new("GET", host, path)
    }

    /// Creates a POST request with a body.
    pub fn post(host: &str, path: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { body: Some(body.into()), ..Self::new("POST", host, path) }
    }

    /// Creates a request with any method. `host` is the `Host` header; `path` begins with a slash and can have a query.
    pub fn new(method: &str, host: &str, path: &str) -> Self {
        Self {
            method: method.to_owned(),
            host: host.to_owned(),
            path: path.to_owned(),
            headers: Vec::new(),
            body: None,
            timeout: TIMEOUT,
        }
    }

    /// Adds a header and keeps existing ones of the same name.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// Sets the timeout, which is 30 s by default.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The method.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The `Host` header.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The path with its query.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The headers in the order in which they were added, without `Host`.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()))
    }

    /// The body; `None` when the request has none.
    pub fn body(&self) -> Option<&[u8]> {
        self.body.as_deref()
    }

    /// Sends the request in plaintext to `addr`. No status is an error.
    pub fn send(&self, addr: SocketAddr) -> io::Result<Response> {
        let mut builder = http::Request::builder()
            .method(self.method.as_str())
            .uri(format!("http://{addr}{}", self.path))
            .header(http::header::HOST, &self.host);
        for (name, value) in &self.headers {
            builder = builder.header(name, value.as_slice());
        }
        match &self.body {
            Some(body) => self.run(builder.body(body.as_slice())),
            None => self.run(builder.body(())),
        }
    }

    /// Sends the request in plaintext to `addr` as HTTP/2 with prior knowledge.
    pub fn send_http2(&self, addr: SocketAddr) -> io::Result<Response> {
        block_on(self.timeout, async {
            let mut sender = connect_http2(addr).await?;
            read_response(sender.send_request(self.to_hyper(true)?).await.map_err(io::Error::other)?).await
        })
    }

    /// Sends the request this many times at once in one HTTP/2 connection. Returns the responses in the order of the requests.
    pub fn send_many_http2(&self, addr: SocketAddr, count: usize) -> io::Result<Vec<Response>> {
        block_on(self.timeout, async {
            let mut sender = connect_http2(addr).await?;
            let mut pending = Vec::new();
            for _ in 0..count {
                sender.ready().await.map_err(io::Error::other)?;
                pending.push(sender.send_request(self.to_hyper(true)?));
            }
            let mut responses = Vec::new();
            for response in pending {
                responses.push(read_response(response.await.map_err(io::Error::other)?).await?);
            }
            Ok(responses)
        })
    }

    /// Sends the request over TLS to `addr`, as an application that calls `https://` itself does. The server must have a certificate for the
    /// request's host from this CA (PEM).
    pub fn send_https(&self, addr: SocketAddr, ca_pem: &str) -> io::Result<Response> {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(ca_pem.as_bytes()).map_err(io::Error::other)?;
        roots.add(ca).map_err(io::Error::other)?;
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?;
        self.send_over_tls(addr, &self.host, config.with_root_certificates(roots).with_no_client_auth())
    }

    /// Sends the request over TLS to `addr`, whose certificate must have this name.
    pub(crate) fn send_over_tls(&self, addr: SocketAddr, name: &str, config: ClientConfig) -> io::Result<Response> {
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        block_on(self.timeout, async {
            let stream = tokio::net::TcpStream::connect(addr).await?;
            let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
            let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
            let (mut sender, connection) = handshake.await.map_err(io::Error::other)?;
            tokio::spawn(connection);
            read_response(sender.send_request(self.to_hyper(false)?).await.map_err(io::Error::other)?).await
        })
    }

    /// Converts the request for hyper. The host is in the target for HTTP/2, and in a header for HTTP/1.
    fn to_hyper(&self, http2: bool) -> io::Result<http::Request<Full<Bytes>>> {
        let mut builder = http::Request::builder().method(self.method.as_str());
        builder = if http2 {
            builder.uri(format!("http://{}{}", self.host, self.path))
        } else {
            builder.uri(self.path.as_str()).header(http::header::HOST, &self.host)
        };
        for (name, value) in &self.headers {
            builder = builder.header(name, value.as_slice());
        }
        builder.body(Full::new(Bytes::from(self.body.clone().unwrap_or_default()))).map_err(io::Error::other)
    }

    fn run<B: ureq::AsSendBody>(&self, request: http::Result<http::Request<B>>) -> io::Result<Response> {
        let request = request.map_err(io::Error::other)?;
        let agent: ureq::Agent = ureq::config::Config::builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_idle_connections(0)
            .allow_non_standard_methods(true)
            // The loopback interface must not go through the proxy of the environment.
            .proxy(None)
            .timeout_global(Some(self.timeout))
            .build()
            .into();
        let mut response = agent.run(request).map_err(ureq::Error::into_io)?;
        let headers = response
            .headers()
            .iter()
            .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
            .collect();
        let body = response.body_mut().with_config().limit(u64::MAX).read_to_vec().map_err(ureq::Error::into_io)?;
        Ok(Response { status: response.status().as_u16(), headers, body })
    }
}

/// Sends these bytes to `addr`, for requests that no HTTP client would send. Returns everything received until a response with
/// `connection: close` is complete, the connection is closed, or nothing arrives for a second; bytes that are not UTF-8 become U+FFFD.
pub fn send_bytes(addr: SocketAddr, bytes: &[u8]) -> io::Result<String> {
    let mut stream = TcpStream::connect(addr)?;
    // A peer that rejects the first bytes may close the connection before it has read all of them.
    let _ = stream.write_all(bytes);
    read_until(&mut stream, Duration::from_secs(1), ends_with_close)
}

/// Sends one request as text and returns the response as soon as it is complete, or the part received when the connection is closed or
/// nothing arrives for ten seconds. `half_close` shuts down the write side after the request.
pub fn send_text(addr: SocketAddr, request: &str, half_close: bool) -> io::Result<String> {
    let mut stream = TcpStream::connect(addr)?;
    stream.write_all(request.as_bytes())?;
    if half_close {
        stream.shutdown(Shutdown::Write)?;
    }
    read_until(&mut stream, Duration::from_secs(10), is_complete)
}

fn read_until(stream: &mut TcpStream, idle_timeout: Duration, is_complete: fn(&str) -> bool) -> io::Result<String> {
    stream.set_read_timeout(Some(idle_timeout))?;
    let mut received = Vec::new();
    let mut buffer = [0; 4096];
    while !is_complete(&String::from_utf8_lossy(&received))
        && let Ok(read @ 1..) = stream.read(&mut buffer)
    {
        received.extend_from_slice(buffer.get(..read).unwrap_or_default());
    }
    Ok(String::from_utf8_lossy(&received).into_owned())
}

/// Whether the last response is complete and has `connection: close`. Envoy waits a second for the client to close the connection.
fn ends_with_close(responses: &str) -> bool {
    let last = responses.rfind("HTTP/1.1 ").and_then(|start| responses.get(start..)).unwrap_or_default();
    let head = last.split_once("\r\n\r\n").map(|(head, _)| head).unwrap_or_default();
    let has_no_body = !head.contains("\r\ncontent-length: ") && !head.contains("\r\ntransfer-encoding: ");
    head.lines().any(|line| line == "connection: close") && (has_no_body || is_complete(last))
}

/// Whether this is one response with its complete body.
fn is_complete(response: &str) -> bool {
    let Some((head, body)) = response.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: Option<usize> = length.and_then(|length| length.parse().ok());
    length.is_some_and(|length| body.len() >= length)
}

/// Connects in plaintext, with HTTP/2 and prior knowledge.
async fn connect_http2(addr: SocketAddr) -> io::Result<hyper::client::conn::http2::SendRequest<Full<Bytes>>> {
    let stream = TokioIo::new(tokio::net::TcpStream::connect(addr).await?);
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream);
    let (sender, connection) = handshake.await.map_err(io::Error::other)?;
    tokio::spawn(connection);
    Ok(sender)
}

/// Runs an exchange until it completes or times out.
fn block_on<T>(timeout: Duration, exchange: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { tokio::time::timeout(timeout, exchange).await? })
}

/// Reads a complete response.
async fn read_response(response: http::Response<hyper::body::Incoming>) -> io::Result<Response> {
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes().to_vec();
    let headers = head.headers.iter();
    let headers = headers.map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect();
    Ok(Response { status: head.status.as_u16(), headers, body })
}

/// A response.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The headers in the order of arrival, with names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The complete body.
    pub body: Vec<u8>,
}

impl Response {
    /// Returns the first header with this lower-case name; bytes that are not UTF-8 become U+FFFD.
    pub fn header(&self, name: &str) -> Option<String> {
        self.headers
            .iter()
            .find(|(existing, _)| existing == name)
            .map(|(_, value)| String::from_utf8_lossy(value).into_owned())
    }

    /// The body as text; bytes that are not UTF-8 become U+FFFD.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When the body is not valid JSON. The message has the status and the body.
    pub fn json(&self) -> Value {
        match serde_json::from_slice(&self.body) {
            Ok(value) => value,
            Err(error) => {
                panic!("status {} with a body that is not valid JSON ({error}): {}", self.status, self.text())
            }
        }
    }

    /// Returns the value of a request header that the upstream received. Requires a response of the upstream.
    pub fn seen_header(&self, name: &str) -> Option<String> {
        self.json()["headers"]
            .as_array()?
            .iter()
            .find(|header| header[0] == name)
            .and_then(|header| header[1].as_str().map(str::to_owned))
    }
}
