//! Serves a directory: HTTPS for clients, plaintext HTTP for the admin API.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::SystemTime;

use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::header::CONTENT_LENGTH;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::directory::Directory;
use crate::http::{Disconnect, HttpResponse};
use crate::request::ReceivedRequest;
use crate::{admin, discovery, tls};

/// A running fake Entra on its own thread. Dropping it closes its ports and connections.
pub struct Server {
    https: SocketAddr,
    admin: SocketAddr,
    ca_pem: String,
    directory: Directory,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
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
        let (config, ca_pem) = tls::create()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let https = bind(https)?;
        let admin = bind(admin)?;
        let (https_addr, admin_addr) = (https.local_addr()?, admin.local_addr()?);
        let (stop, stopped) = oneshot::channel();
        let served = directory.clone();
        let thread = std::thread::Builder::new().name("fake-entra".to_owned()).spawn(move || {
            runtime.block_on(async move {
                let (Ok(https), Ok(admin)) = (TcpListener::from_std(https), TcpListener::from_std(admin)) else {
                    return;
                };
                tokio::spawn(serve_https(https, TlsAcceptor::from(config), served.clone()));
                tokio::spawn(serve_admin(admin, served));
                // Completes with a value or an error; both stop the server.
                let _ = stopped.await;
            });
        })?;
        Ok(Self { https: https_addr, admin: admin_addr, ca_pem, directory, stop: Some(stop), thread: Some(thread) })
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

async fn serve_https(listener: TcpListener, acceptor: TlsAcceptor, directory: Directory) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let (acceptor, directory) = (acceptor.clone(), directory.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let handle = move |request: &ReceivedRequest| discovery::respond(&directory, request, SystemTime::now());
            serve(stream, handle).await;
        });
    }
}

async fn serve_admin(listener: TcpListener, directory: Directory) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let directory = directory.clone();
        tokio::spawn(serve(stream, move |request: &ReceivedRequest| admin::respond(&directory, request)));
    }
}

/// Serves a connection until it is closed or a response requires a reset.
async fn serve<S: Socket>(stream: S, handle: impl Fn(&ReceivedRequest) -> HttpResponse) {
    let reset = Arc::new(Notify::new());
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let (handle, reset) = (&handle, reset.clone());
        Box::pin(async move {
            let response = match ReceivedRequest::read(request).await {
                Some(request) => handle(&request),
                None => HttpResponse::of_type("text/plain", 413, b"The body is too large or incomplete\n".to_vec()),
            };
            tokio::time::sleep(response.delay).await;
            if response.disconnect == Some(Disconnect::Reset) {
                reset.notify_one();
                return std::future::pending().await;
            }
            Ok::<_, Infallible>(to_hyper(response))
        })
    });
    let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let mut needs_reset = pin!(reset.notified());
    let needs_reset = poll_fn(|context| {
        if needs_reset.as_mut().poll(context).is_ready() {
            return Poll::Ready(true);
        }
        // An error comes from the client or from a truncated response; the connection ends in both cases.
        Pin::new(&mut connection).poll(context).map(|_| false)
    })
    .await;
    if needs_reset {
        connection.into_parts().io.into_inner().reset();
    }
}

fn to_hyper(response: HttpResponse) -> hyper::Response<ResponseBody> {
    let length = response.body.len();
    let truncated = response.disconnect == Some(Disconnect::Truncate);
    let complete = Bytes::from(response.body);
    let body = if truncated {
        ResponseBody::Half(Some(complete.slice(..length / 2)))
    } else {
        ResponseBody::Whole(Some(complete))
    };
    let mut builder = hyper::Response::builder().status(response.status);
    for (name, value) in &response.headers {
        builder = builder.header(name, value);
    }
    // 204 has no body and so no length (RFC 9110, section 8.6).
    if response.status != 204 {
        builder = builder.header(CONTENT_LENGTH, length);
    }
    builder.body(body).unwrap_or_else(|_| {
        let mut failed = hyper::Response::new(ResponseBody::Whole(None));
        *failed.status_mut() = hyper::StatusCode::INTERNAL_SERVER_ERROR;
        failed
    })
}

/// The body of a response: complete, or the first half followed by an error that closes the connection.
enum ResponseBody {
    Whole(Option<Bytes>),
    Half(Option<Bytes>),
    /// Half of the body is written and must be flushed before the error.
    Flushing,
    Failed,
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Half(bytes) => {
                let half = bytes.take().unwrap_or_default();
                *self = Self::Flushing;
                Poll::Ready(Some(Ok(Frame::data(half))))
            }
            Self::Flushing => {
                *self = Self::Failed;
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Self::Failed => Poll::Ready(Some(Err(io::Error::other("the response is truncated")))),
        }
    }
}

/// A connection that can be closed with a TCP RST.
trait Socket: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Closes the socket with a RST instead of a FIN.
    fn reset(self);
}

impl Socket for TcpStream {
    fn reset(self) {
        let _ = self.set_zero_linger();
    }
}

impl Socket for TlsStream<TcpStream> {
    fn reset(self) {
        self.into_inner().0.reset();
    }
}
