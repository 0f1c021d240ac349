//! An HTTP request, read completely.

use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;

/// The maximum size of a body, in bytes.
const MAX_BODY: usize = 1 << 20;

/// A request with its complete body. Its `Debug` output contains no values of headers and no body, because both can be secret.
#[derive(Clone, Default)]
pub struct Request {
    /// The method, as sent.
    pub method: String,
    /// The path and the query, byte for byte as sent.
    pub target: String,
    /// The headers in the order of arrival, with names in lower case.
    pub headers: Vec<(String, String)>,
    /// The complete body.
    pub body: Vec<u8>,
}

impl Request {
    /// Creates a request without headers and body. `target` is the path and the query.
    pub fn new(method: &str, target: &str) -> Self {
        Self { method: method.to_owned(), target: target.to_owned(), ..Self::default() }
    }

    /// Adds a header and keeps existing ones of the same name.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_ascii_lowercase(), value.to_owned()));
        self
    }

    /// Sets the body and its `Content-Type`.
    #[must_use]
    pub fn with_body(mut self, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self.with_header("content-type", content_type)
    }

    /// The path, without decoding it.
    pub fn path(&self) -> &str {
        self.target.split_once('?').map_or(self.target.as_str(), |(path, _)| path)
    }

    /// The query without its question mark; empty when there is none.
    pub fn query(&self) -> &str {
        self.target.split_once('?').map_or("", |(_, query)| query)
    }

    /// Returns the first header with this lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(existing, _)| existing == name).map(|(_, value)| value.as_str())
    }

    /// The `Host` header, including a port.
    pub fn host(&self) -> &str {
        self.header("host").unwrap_or_default()
    }

    /// Whether the body has this media type; parameters such as `charset` are ignored.
    pub fn has_media_type(&self, media_type: &str) -> bool {
        let content_type = self.header("content-type").unwrap_or_default();
        content_type.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(media_type)
    }

    /// Whether the body is `application/x-www-form-urlencoded`.
    pub fn is_form(&self) -> bool {
        self.has_media_type("application/x-www-form-urlencoded")
    }

    /// Reads the complete request; `None` when the body is incomplete or too large.
    pub(crate) async fn read(request: hyper::Request<Incoming>) -> Option<Self> {
        let (head, body) = request.into_parts();
        let headers = head.headers.iter();
        Some(Self {
            method: head.method.as_str().to_owned(),
            target: head.uri.path_and_query().map_or("/", |target| target.as_str()).to_owned(),
            headers: headers
                .map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
                .collect(),
            body: Limited::new(body, MAX_BODY).collect().await.ok()?.to_bytes().to_vec(),
        })
    }
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("path", &self.path())
            .field("headers", &names)
            .field("body", &format_args!("{} bytes", self.body.len()))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_and_query_are_not_decoded() {
        let request = Request::new("GET", "/a//b%2Dc?x=%20?&y");
        assert_eq!((request.path(), request.query()), ("/a//b%2Dc", "x=%20?&y"));
        assert_eq!((Request::new("GET", "/a").path(), Request::new("GET", "/a").query()), ("/a", ""));
    }

    #[test]
    fn a_media_type_is_compared_without_parameters_and_case() {
        let form = Request::new("POST", "/").with_body("Application/X-WWW-Form-Urlencoded; charset=utf-8", "a=b");
        assert!(form.is_form() && !form.has_media_type("application/json"));
        assert!(!Request::new("POST", "/").is_form());
    }

    #[test]
    fn debug_output_contains_no_secret() {
        let request =
            Request::new("POST", "/token?code=secret").with_header("Authorization", "secret").with_body("x", "secret");
        let shown = format!("{request:?}");
        assert!(!shown.contains("secret") && shown.contains("authorization") && shown.contains("6 bytes"), "{shown}");
    }
}
