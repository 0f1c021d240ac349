//! Serves one connection, with the delays and disconnects of its responses.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::header::CONTENT_LENGTH;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::server::TlsStream;

use crate::request::Request;
use crate::response::{Disconnect, Response};

/// Responds to a request. It is called on the server's thread, so it must not block.
pub type Handler = Arc<dyn Fn(&Request) -> Response + Send + Sync>;

/// Serves a connection until it is closed or a response requires a reset.
pub(crate) async fn serve<S: Socket>(stream: S, handle: Handler) {
    let reset = Arc::new(Notify::new());
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let (handle, reset) = (&handle, reset.clone());
        Box::pin(async move {
            let response = match Request::read(request).await {
                Some(request) => handle(&request),
                None => Response::of_type("text/plain", 413, b"The body is too large or incomplete\n".to_vec()),
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

fn to_hyper(response: Response) -> hyper::Response<ResponseBody> {
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
pub(crate) trait Socket: AsyncRead + AsyncWrite + Unpin + Send + 'static {
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
