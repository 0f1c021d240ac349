//! A small blocking HTTP client: one new connection per request, nothing followed, nothing interpreted.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use ureq::http;

/// How long a request may take when it says nothing else.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A request that is sent as it is written, whatever its path and its headers' bytes.
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
    /// A GET.
    pub fn get(host: &str, path: &str) -> Self {
        Self::new("GET", host, path)
    }

    /// A POST with a body.
    pub fn post(host: &str, path: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { body: Some(body.into()), ..Self::new("POST", host, path) }
    }

    /// Any method. `host` is the `Host` header, `path` begins with a slash and may have a query.
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

    /// Adds a header; one of the same name may already be there.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// Gives up after this time instead of 30 s.
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

    /// The body; `None` where none is sent.
    pub fn body(&self) -> Option<&[u8]> {
        self.body.as_deref()
    }

    /// Sends it in clear to `addr`. Every status is an answer, not an error.
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

    /// Sends it in clear to `addr` as HTTP/2, which says without asking that it is that.
    pub fn send_http2(&self, addr: SocketAddr) -> io::Result<Response> {
        block_on(self.timeout, async {
            let stream = TokioIo::new(tokio::net::TcpStream::connect(addr).await?);
            let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream);
            let (mut sender, connection) = handshake.await.map_err(io::Error::other)?;
            tokio::spawn(connection);
            take(sender.send_request(self.to_hyper(true)?).await.map_err(io::Error::other)?).await
        })
    }

    /// The request as hyper sends it: HTTP/2 has the host in its target, HTTP/1 in a header.
    pub(crate) fn to_hyper(&self, http2: bool) -> io::Result<http::Request<Full<Bytes>>> {
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

    pub(crate) fn timeout_of(&self) -> Duration {
        self.timeout
    }

    fn run<B: ureq::AsSendBody>(&self, request: http::Result<http::Request<B>>) -> io::Result<Response> {
        let request = request.map_err(io::Error::other)?;
        let agent: ureq::Agent = ureq::config::Config::builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_idle_connections(0)
            .allow_non_standard_methods(true)
            // The environment's proxy is not for the loopback interface.
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

/// Sends these bytes to `addr` and returns all that comes back, until an answer that says it is the last is complete, the connection is
/// closed, or nothing comes for a second; bytes that are not UTF-8 become U+FFFD. For what no HTTP client would write.
pub fn send_bytes(addr: SocketAddr, bytes: &[u8]) -> io::Result<String> {
    let mut stream = TcpStream::connect(addr)?;
    // A peer that refuses the first bytes may close before it has read all.
    let _ = stream.write_all(bytes);
    read_until(&mut stream, Duration::from_secs(1), is_the_last)
}

/// Sends one request, written out, and returns its answer as soon as it is whole, or what there is when the connection is closed or
/// nothing comes for ten seconds. `half_close` ends this side of the connection after the request.
pub fn send_text(addr: SocketAddr, request: &str, half_close: bool) -> io::Result<String> {
    let mut stream = TcpStream::connect(addr)?;
    stream.write_all(request.as_bytes())?;
    if half_close {
        stream.shutdown(Shutdown::Write)?;
    }
    read_until(&mut stream, Duration::from_secs(10), is_whole)
}

fn read_until(stream: &mut TcpStream, silence: Duration, is_all: fn(&str) -> bool) -> io::Result<String> {
    stream.set_read_timeout(Some(silence))?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while !is_all(&String::from_utf8_lossy(&answer))
        && let Ok(read @ 1..) = stream.read(&mut buffer)
    {
        answer.extend_from_slice(buffer.get(..read).unwrap_or_default());
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Whether the answers end with a whole one after which the connection is closed. Envoy leaves the closing to its client for a second.
fn is_the_last(answers: &str) -> bool {
    let last = answers.rfind("HTTP/1.1 ").and_then(|start| answers.get(start..)).unwrap_or_default();
    let head = last.split_once("\r\n\r\n").map(|(head, _)| head).unwrap_or_default();
    let has_no_body = !head.contains("\r\ncontent-length: ") && !head.contains("\r\ntransfer-encoding: ");
    head.lines().any(|line| line == "connection: close") && (has_no_body || is_whole(last))
}

/// Whether this is one answer with all of its body.
fn is_whole(answer: &str) -> bool {
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: Option<usize> = length.and_then(|length| length.parse().ok());
    length.is_some_and(|length| body.len() >= length)
}

/// Runs one exchange to its end, or until its time is over.
pub(crate) fn block_on(
    timeout: Duration,
    exchange: impl Future<Output = io::Result<Response>>,
) -> io::Result<Response> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { tokio::time::timeout(timeout, exchange).await? })
}

/// All of an answer.
pub(crate) async fn take(answer: http::Response<hyper::body::Incoming>) -> io::Result<Response> {
    let (head, body) = answer.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes().to_vec();
    let headers = head.headers.iter();
    let headers = headers.map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect();
    Ok(Response { status: head.status.as_u16(), headers, body })
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Names in lower case, in the order of arrival.
    pub headers: Vec<(String, Vec<u8>)>,
    /// All of the body.
    pub body: Vec<u8>,
}

impl Response {
    /// The first header of this name, in lower case; bytes that are not UTF-8 become U+FFFD.
    pub fn header(&self, name: &str) -> Option<String> {
        self.headers
            .iter()
            .find(|(present, _)| present == name)
            .map(|(_, value)| String::from_utf8_lossy(value).into_owned())
    }

    /// The body as text; bytes that are not UTF-8 become U+FFFD.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none, with the status and the body: for tests that is the most useful end.
    pub fn json(&self) -> Value {
        match serde_json::from_slice(&self.body) {
            Ok(value) => value,
            Err(error) => panic!("status {} with a body that is no JSON ({error}): {}", self.status, self.text()),
        }
    }

    /// The value of a header that the upstream saw in the request, when this is the upstream's answer.
    pub fn seen_header(&self, name: &str) -> Option<String> {
        self.json()["headers"]
            .as_array()?
            .iter()
            .find(|header| header[0] == name)
            .and_then(|header| header[1].as_str().map(str::to_owned))
    }
}
