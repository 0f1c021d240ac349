//! Calls `FetchJWTSVID` on a Unix socket, to compare the fake with a real agent.

use std::io;
use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use tokio::net::UnixStream;
use tonic::{Code, Status};

use super::{PATH, api, frame, unframe};

/// The time limit of a call.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A JWT-SVID.
pub struct Svid {
    /// The SPIFFE ID.
    pub id: String,
    /// The hint of its entry, or an empty text.
    pub hint: String,
    /// The token.
    pub token: String,
}

/// The answer of an agent.
pub enum Fetched {
    /// It issued these JWT-SVIDs.
    Svids(Vec<Svid>),
    /// It failed with this gRPC status and message.
    Failed(i32, String),
}

/// Fetches the JWT-SVIDs of this process: that of one SPIFFE ID, or all if `spiffe_id` is empty.
///
/// # Errors
/// When the agent cannot be reached, does not answer within ten seconds, or does not speak gRPC.
pub fn fetch(socket: &Path, audience: &str, spiffe_id: &str) -> io::Result<Fetched> {
    let message = api::JwtsvidRequest { audience: vec![audience.to_owned()], spiffe_id: spiffe_id.to_owned() };
    let request = Request::post(format!("http://localhost{PATH}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("workload.spiffe.io", "true")
        .body(Full::new(Bytes::from(frame(&message))))
        .map_err(io::Error::other)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let call = tokio::time::timeout(TIMEOUT, send(socket, request));
        call.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    })
}

async fn send(socket: &Path, request: Request<Full<Bytes>>) -> io::Result<Fetched> {
    let stream = TokioIo::new(UnixStream::connect(socket).await?);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.map_err(io::Error::other)?;
    tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    let (parts, body) = response.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?;
    // The status is in the headers if there is no message.
    let status = body.trailers().and_then(Status::from_header_map).or_else(|| Status::from_header_map(&parts.headers));
    let status = status.ok_or_else(|| io::Error::other("the answer has no grpc-status"))?;
    if status.code() != Code::Ok {
        return Ok(Fetched::Failed(status.code().into(), status.message().to_owned()));
    }
    let bytes = body.to_bytes();
    let message = unframe(&bytes).and_then(|message| api::JwtsvidResponse::decode(message).ok());
    let message = message.ok_or_else(|| io::Error::other("the answer is not one complete message"))?;
    let svid = |svid: api::Jwtsvid| Svid { id: svid.spiffe_id, hint: svid.hint, token: svid.svid };
    Ok(Fetched::Svids(message.svids.into_iter().map(svid).collect()))
}
