//! An HTTP request, read completely for the routes.

use http_body_util::{BodyExt, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HOST};

/// The maximum size of a body, in bytes.
const MAX_BODY: usize = 1 << 20;

/// A request with its complete body.
pub(crate) struct ReceivedRequest {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    /// The `Host` header, including a port.
    pub(crate) host: String,
    pub(crate) client_request_id: Option<String>,
    /// Whether the body is `application/x-www-form-urlencoded`.
    pub(crate) is_form: bool,
    pub(crate) body: Bytes,
}

impl ReceivedRequest {
    /// Reads the complete request; `None` when the body is incomplete or too large.
    pub(crate) async fn read(request: hyper::Request<Incoming>) -> Option<Self> {
        let (head, body) = request.into_parts();
        let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let content_type = header(CONTENT_TYPE.as_str()).unwrap_or_default();
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        let is_form = media_type.eq_ignore_ascii_case("application/x-www-form-urlencoded");
        Some(Self {
            method: head.method.as_str().to_owned(),
            path: head.uri.path().to_owned(),
            query: head.uri.query().unwrap_or_default().to_owned(),
            host: header(HOST.as_str()).unwrap_or_default(),
            client_request_id: header("client-request-id"),
            is_form,
            body: Limited::new(body, MAX_BODY).collect().await.ok()?.to_bytes(),
        })
    }
}
