//! The request of an HTTP source.

use std::borrow::Cow;
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::http::HttpCall;
use crate::secret::{Secret, Secrets};

/// The maximum length of a URL, without its scheme, in bytes.
pub(crate) const MAX_URL: usize = 2048;

const LOCALHOST: &str = "localhost";

/// A text of a request.
#[derive(Clone)]
pub(crate) enum Text {
    /// From the configuration.
    Plain(String),
    /// From the environment.
    Secret(Secret),
    /// The assertion of the source's input.
    Input,
}

/// A request without the assertion that it may contain.
#[derive(Clone)]
pub(crate) struct Request {
    /// The Envoy cluster that it goes to.
    pub(crate) cluster: String,
    pub(crate) method: &'static str,
    pub(crate) target: Target,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, Text)>,
    pub(crate) body: Body,
    /// The secrets in the request, which an answer may repeat.
    pub(crate) secrets: Secrets,
}

/// The authority and path of a request.
#[derive(Clone, Default)]
pub(crate) struct Target {
    /// `:authority`
    pub(crate) authority: String,
    /// `:path`, with the query.
    pub(crate) path: String,
}

impl Target {
    /// Splits an `https` URL, whose path and query are kept byte for byte. `None` if the text is not one. The URL of a service on this
    /// machine may be an `http` one.
    pub(crate) fn parse(url: &str) -> Option<Self> {
        let (rest, is_plaintext) = match url.strip_prefix("https://") {
            Some(rest) => (rest, false),
            None => (url.strip_prefix("http://")?, true),
        };
        let (authority, _) = rest.split_once(['/', '?']).unwrap_or((rest, ""));
        let path = rest.get(authority.len()..)?;
        let is_visible = rest.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
        if authority.is_empty() || authority.contains('@') || !is_visible {
            return None;
        }
        let root = if path.starts_with('/') { "" } else { "/" };
        let target = Self { authority: authority.to_ascii_lowercase(), path: [root, path].concat() };
        (!is_plaintext || target.is_on_this_machine()).then_some(target)
    }

    fn host(&self) -> &str {
        self.authority.split_once(':').map_or(&self.authority, |(host, _)| host)
    }

    /// Whether the host is a loopback or link-local address.
    fn is_on_this_machine(&self) -> bool {
        let is_local = |address: Ipv4Addr| address.is_loopback() || address.is_link_local();
        self.host() == LOCALHOST || self.host().parse().is_ok_and(is_local)
    }

    /// Whether the host is one of these, or below one that begins with a dot. `localhost` stands for loopback and link-local addresses too.
    pub(crate) fn is_at(&self, hosts: &[String]) -> bool {
        let host = self.host();
        hosts.iter().any(|allowed| match allowed.as_str() {
            LOCALHOST => self.is_on_this_machine(),
            domain if domain.starts_with('.') => host.ends_with(domain),
            allowed => host == allowed,
        })
    }

    /// Adds parameters to the query.
    pub(crate) fn add_query(&mut self, parameters: &[(&str, &str)]) {
        for (name, value) in parameters {
            self.path.push(if self.path.contains('?') { '&' } else { '?' });
            self.path.push_str(&encode(name));
            self.path.push('=');
            self.path.push_str(&encode(value));
        }
    }
}

/// The body of a request.
#[derive(Clone)]
pub(crate) enum Body {
    /// A text, or nothing.
    Raw(String),
    /// A message that is not a text.
    Bytes(Vec<u8>),
    /// `application/x-www-form-urlencoded`
    Form(Vec<(String, Text)>),
}

impl Request {
    /// The call. `input` is the assertion that the request contains.
    pub(super) fn call(&self, input: &str, timeout: Duration) -> HttpCall {
        let value = |text: &Text| match text {
            Text::Plain(text) => text.clone(),
            Text::Secret(secret) => secret.expose().to_owned(),
            Text::Input => input.to_owned(),
        };
        let headers = self.headers.iter().map(|(name, text)| (Cow::Owned(name.clone()), Cow::Owned(value(text))));
        let body = match &self.body {
            Body::Raw(text) => text.clone().into_bytes(),
            Body::Bytes(bytes) => bytes.clone(),
            Body::Form(fields) => {
                let mut form = form_urlencoded::Serializer::new(String::new());
                for (name, text) in fields {
                    form.append_pair(name, &value(text));
                }
                form.finish().into_bytes()
            }
        };
        HttpCall {
            cluster: self.cluster.clone(),
            method: self.method,
            authority: self.target.authority.clone(),
            path: self.target.path.clone(),
            headers: headers.collect(),
            body,
            timeout,
        }
    }
}

/// Percent-encodes a text for a query or a segment of a path (RFC 3986, section 2.3).
pub(crate) fn encode(text: &str) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let digit = |half: u8| char::from(DIGITS.get(usize::from(half)).copied().unwrap_or_default());
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            encoded.push(digit(byte >> 4));
            encoded.push(digit(byte & 15));
        }
    }
    encoded
}

/// The value of `Authorization` for a client's id and secret, both of which are percent-encoded first (RFC 6749, section 2.3.1). A form
/// decodes `%20` and `+` alike.
pub(crate) fn basic(id: &str, secret: &str) -> String {
    ["Basic ", &base64([&encode(id), ":", &encode(secret)].concat())].concat()
}

/// Encodes a text in base64 (RFC 4648, section 4). The crate's encoder would add two kilobytes to the module for this one use.
fn base64(text: String) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut encoded = String::new();
    for part in text.as_bytes().chunks(3) {
        let [a, b, c] = [0, 1, 2].map(|index| part.get(index).copied().unwrap_or_default());
        let bits = u32::from_be_bytes([0, a, b, c]);
        for index in 0..4_u32 {
            let sextet = usize::try_from((bits >> (18 - 6 * index)) & 63).unwrap_or_default();
            let is_padding = usize::try_from(index).is_ok_and(|index| index > part.len());
            let character = if is_padding { b'=' } else { ALPHABET.get(sextet).copied().unwrap_or_default() };
            encoded.push(char::from(character));
        }
    }
    encoded
}
