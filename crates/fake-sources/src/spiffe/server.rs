//! Serves the Workload API on a Unix socket, with a gRPC library.

use std::io;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::SystemTime;

use fake_http::Request as HttpRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use prost::Message as _;
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

use super::api::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};
use super::{PATH, WorkloadApi, api, frame, status_of, unframe};
use crate::source::Source as _;

/// A running agent on its own thread. Dropping it closes its socket and connections.
pub struct SpiffeServer {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl SpiffeServer {
    /// Serves the API on a new socket at this path.
    ///
    /// # Errors
    /// When the socket cannot be bound, or no thread is available.
    pub fn start(api: &WorkloadApi, socket: &Path) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = std::os::unix::net::UnixListener::bind(socket)?;
        listener.set_nonblocking(true)?;
        let service = SpiffeWorkloadApiServer::new(api.clone());
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("spiffe-agent".to_owned()).spawn(move || {
            runtime.block_on(async move {
                let Ok(listener) = UnixListener::from_std(listener) else { return };
                tokio::spawn(accept(listener, service));
                // Completes with a value or an error; both stop the server.
                let _ = stopped.await;
            });
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for SpiffeServer {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: UnixListener, service: SpiffeWorkloadApiServer<WorkloadApi>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let service = TowerToHyperService::new(service.clone());
        tokio::spawn(async move {
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            // An error is the end of the connection.
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for WorkloadApi {
    /// Answers as the source does. The library reads and writes the frames and the trailers.
    async fn fetch_jwtsvid(
        &self,
        request: Request<api::JwtsvidRequest>,
    ) -> Result<Response<api::JwtsvidResponse>, Status> {
        let mut source = HttpRequest::new("POST", PATH).with_header("te", "trailers");
        if let Some(value) = request.metadata().get("workload.spiffe.io").and_then(|value| value.to_str().ok()) {
            source = source.with_header("workload.spiffe.io", value);
        }
        let response = self.respond(&source.with_body("application/grpc", frame(request.get_ref())), SystemTime::now());
        tokio::time::sleep(response.delay).await;
        if let Some(status) = status_of(&response) {
            return Err(status);
        }
        let message = unframe(&response.body).and_then(|message| api::JwtsvidResponse::decode(message).ok());
        message.map(Response::new).ok_or_else(|| Status::internal("the fault cannot be sent with gRPC"))
    }
}
