//! What the core sees of a request and says in reply: bytes, because headers are bytes.

/// A request as the shell sees it. Each look may cost a call into the proxy: take only what a decision needs.
pub trait Request {
    /// The first value of a header; pseudo-headers by their names (`:authority`, `:path`, `:method`).
    fn header(&self, name: &str) -> Option<Vec<u8>>;

    /// An Envoy attribute, such as `["xds", "cluster_name"]`.
    fn property(&self, path: &[&str]) -> Option<Vec<u8>>;
}

/// A reply that the shell sends instead of letting the request go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Headers in order, names in lower case.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Reply {
    /// 200, in a word.
    pub fn ok() -> Self {
        let headers = vec![("content-type", "text/plain".to_owned()), ("cache-control", "no-store".to_owned())];
        Self { status: 200, headers, body: b"ok".to_vec() }
    }

    /// A JSON reply that no cache may keep (RFC 9111, section 5.2.2.5). A 405 names GET, the one method of all that is
    /// answered here (RFC 9110, section 15.5.6).
    pub fn json(status: u16, content_type: &'static str, body: &impl serde::Serialize) -> Self {
        let mut headers = vec![("content-type", content_type.to_owned()), ("cache-control", "no-store".to_owned())];
        if status == 405 {
            headers.push(("allow", "GET".to_owned()));
        }
        // Our own structs of strings and numbers cannot fail to serialise.
        Self { status, headers, body: serde_json::to_vec(body).unwrap_or_default() }
    }
}

/// What came back from a call that the shell made for the broker.
#[derive(Clone, PartialEq, Eq)]
pub struct Response {
    /// HTTP status; Envoy itself answers 503 when there was no connection and 504 when time ran out.
    pub status: u16,
    /// `Retry-After`, as it came.
    pub retry_after: Option<Vec<u8>>,
    /// The body; it may hold a token.
    pub body: Vec<u8>,
    /// Whether Envoy made it up, because no answer came.
    pub is_envoys_own: bool,
}

impl std::fmt::Debug for Response {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Response").field("status", &self.status).finish_non_exhaustive()
    }
}

/// Why a call could not even be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallFailure {
    /// Envoy has no cluster of this name.
    NoSuchCluster,
    /// The cluster has no endpoint to call.
    NoEndpoint,
}

/// A call's outcome.
pub type CallResult = Result<Response, CallFailure>;

/// A request that tests make up.
#[cfg(test)]
pub(crate) mod tests {
    use super::Request;
    use std::cell::RefCell;
    use std::collections::HashMap;

    #[derive(Default)]
    pub(crate) struct Sent {
        headers: HashMap<String, Vec<u8>>,
        properties: HashMap<String, Vec<u8>>,
        /// What was looked at, in order.
        pub(crate) looks: RefCell<Vec<String>>,
    }

    impl Sent {
        pub(crate) fn get(authority: &str, path: &str) -> Self {
            Self::default()
                .header(":method", b"GET")
                .header(":authority", authority.as_bytes())
                .header(":path", path.as_bytes())
        }

        pub(crate) fn header(mut self, name: &str, value: &[u8]) -> Self {
            self.headers.insert(name.to_owned(), value.to_vec());
            self
        }

        pub(crate) fn property(mut self, path: &[&str], value: &str) -> Self {
            self.properties.insert(path.join("."), value.as_bytes().to_vec());
            self
        }
    }

    #[test]
    fn debug_shows_a_responses_status_and_neither_body_nor_headers() {
        let response = super::Response {
            status: 200,
            retry_after: Some(b"soon".to_vec()),
            body: b"{\"access_token\":\"body\"}".to_vec(),
            is_envoys_own: false,
        };
        assert_eq!(format!("{response:?}"), "Response { status: 200, .. }");
        assert_eq!(format!("{:?}", super::CallResult::Ok(response)), "Ok(Response { status: 200, .. })");
    }

    impl Request for Sent {
        fn header(&self, name: &str) -> Option<Vec<u8>> {
            self.looks.borrow_mut().push(name.to_owned());
            self.headers.get(name).cloned()
        }

        fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
            self.looks.borrow_mut().push(path.join("."));
            self.properties.get(&path.join(".")).cloned()
        }
    }
}
