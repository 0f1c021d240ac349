//! A persistent connection, for bursts of requests that all start at the same time.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The timeout of a request.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A persistent connection.
pub struct Connection(TcpStream);

/// Returns the text of a GET request.
pub fn get(host: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n")
}

impl Connection {
    /// Connects to `addr`.
    pub async fn open(addr: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(Self(stream))
    }

    /// Sends a GET, reads the complete response and returns its status.
    pub async fn request(&mut self, host: &str, path: &str) -> std::io::Result<u16> {
        self.0.write_all(get(host, path).as_bytes()).await?;
        let (mut response, mut part) = (Vec::new(), [0; 16384]);
        loop {
            let read = tokio::time::timeout(TIMEOUT, self.0.read(&mut part)).await??;
            response.extend_from_slice(&part[..read]);
            let text = String::from_utf8_lossy(&response);
            let status = text.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_default();
            let Some((head, body)) = text.split_once("\r\n\r\n") else {
                if read == 0 {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
                continue;
            };
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            if read == 0
                || length.is_some_and(|length: usize| body.len() >= length)
                || head.contains("chunked") && body.ends_with("0\r\n\r\n")
            {
                return Ok(status);
            }
        }
    }
}
