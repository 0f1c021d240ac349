//! The directory behind sockets: HTTPS for clients, plain HTTP for the admin API.

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

use crate::answer::{Answer, Cut};
use crate::directory::Directory;
use crate::request::Request;
use crate::{admin, discovery, tls};

/// A running fake Entra, on a thread of its own. Dropping it closes its ports and connections.
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
    /// When there is no free port, thread or randomness.
    pub fn start(directory: Directory) -> io::Result<Self> {
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self::start_on(directory, free, free)
    }

    /// Starts on these addresses; port 0 is any free one.
    ///
    /// # Errors
    /// When an address cannot be bound, or there is no thread or randomness.
    pub fn start_on(directory: Directory, https: SocketAddr, admin: SocketAddr) -> io::Result<Self> {
        let (config, ca_pem) = tls::make()?;
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
                // Either way the server is gone: told to stop, or dropped.
                let _ = stopped.await;
            });
        })?;
        Ok(Self { https: https_addr, admin: admin_addr, ca_pem, directory, stop: Some(stop), thread: Some(thread) })
    }

    /// Where the token endpoint is, over TLS.
    pub fn https_addr(&self) -> SocketAddr {
        self.https
    }

    /// Where the admin API is, over plain HTTP.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin
    }

    /// The certificate authority to trust, made at the start, as PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The directory that is served.
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
            let answer = move |request: &Request| discovery::answer(&directory, request, SystemTime::now());
            serve(stream, answer).await;
        });
    }
}

async fn serve_admin(listener: TcpListener, directory: Directory) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let directory = directory.clone();
        tokio::spawn(serve(stream, move |request: &Request| admin::answer(&directory, request)));
    }
}

/// Serves one connection until it ends or an answer asks for a reset.
async fn serve<S: Socket>(stream: S, answer: impl Fn(&Request) -> Answer) {
    let reset = Arc::new(Notify::new());
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let (answer, reset) = (&answer, reset.clone());
        Box::pin(async move {
            let answer = match Request::read(request).await {
                Some(request) => answer(&request),
                None => Answer::of_type("text/plain", 413, b"The body is too long or broke off\n".to_vec()),
            };
            tokio::time::sleep(answer.delay).await;
            if answer.cut == Some(Cut::Reset) {
                reset.notify_one();
                return std::future::pending().await;
            }
            Ok::<_, Infallible>(response(answer))
        })
    });
    let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let mut reset_asked = pin!(reset.notified());
    let reset_asked = poll_fn(|context| {
        if reset_asked.as_mut().poll(context).is_ready() {
            return Poll::Ready(true);
        }
        // An error is the client's, or the end of a truncated answer: the connection ends either way.
        Pin::new(&mut connection).poll(context).map(|_| false)
    })
    .await;
    if reset_asked {
        connection.into_parts().io.into_inner().reset();
    }
}

fn response(answer: Answer) -> hyper::Response<AnswerBody> {
    let length = answer.body.len();
    let whole = Bytes::from(answer.body);
    let truncated = answer.cut == Some(Cut::Truncate);
    let body =
        if truncated { AnswerBody::Half(Some(whole.slice(..length / 2))) } else { AnswerBody::Whole(Some(whole)) };
    let mut response = hyper::Response::builder().status(answer.status);
    for (name, value) in &answer.headers {
        response = response.header(name, value);
    }
    // 204 has no body and so no length (RFC 9110, section 8.6).
    if answer.status != 204 {
        response = response.header(CONTENT_LENGTH, length);
    }
    response.body(body).unwrap_or_else(|_| {
        let mut broken = hyper::Response::new(AnswerBody::Whole(None));
        *broken.status_mut() = hyper::StatusCode::INTERNAL_SERVER_ERROR;
        broken
    })
}

/// The body of an answer: whole, or half of it and then an error that ends the connection.
enum AnswerBody {
    Whole(Option<Bytes>),
    Half(Option<Bytes>),
    /// Half is written; it is flushed before the error.
    Flushing,
    Broken,
}

impl Body for AnswerBody {
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
                *self = Self::Broken;
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Self::Broken => Poll::Ready(Some(Err(io::Error::other("the answer is truncated")))),
        }
    }
}

/// A connection that can end with a TCP RST.
trait Socket: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Closes the socket so that the peer gets a RST and no end of stream.
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
