//! Where the token and its expiration time are in the answer of an HTTP source.

/// Where the token is in an answer.
#[derive(Clone)]
pub(crate) enum Format {
    /// The string at this JSON pointer (RFC 6901).
    Json(String),
    /// The message of the SPIFFE Workload API.
    JwtSvid {
        /// The hint of the identity whose token is taken. Without it the first one is.
        hint: Option<String>,
    },
    /// The text of the XML element with this name.
    Xml(String),
    /// The whole body.
    Text,
}

/// Where the expiration time is in an answer.
#[derive(Clone)]
pub(crate) enum Expiry {
    /// The number of seconds for which the token is valid, at this JSON pointer.
    Seconds(String),
    /// A time (RFC 3339), at this JSON pointer.
    Time(String),
}
