//! A request, as the rules see it: typed values, which a host decodes from its own encoding.
//!
//! Header values are bytes: HTTP does not require them to be UTF-8 (RFC 9110, section 5.5).

use std::borrow::Cow;
use std::cell::OnceCell;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use crate::path;
use crate::sent::SentTokens;

/// Reads a request. Each method may be a call into the proxy, so the rules call it only for a value that they need, and
/// [`RequestView`] keeps what is read more than once. `None` means that the request does not have the value.
pub trait RequestSource {
    /// `:authority`. It is read first, unless the previous request's headers were needed: it alone can decide that no rule applies.
    fn authority(&self) -> Option<Cow<'_, [u8]>>;

    /// Whether the request has this header. It is asked for requests of which nothing but the authority is read.
    fn has_header(&self, name: &str) -> bool;

    /// All headers, including the pseudo-headers. They are empty only if the host cannot read them.
    fn headers(&self) -> Cow<'_, Headers>;

    /// The name of the cluster to which the request is routed.
    fn cluster_name(&self) -> Option<Cow<'_, str>>;

    /// The number of this attempt to send the request, from 1, in an upstream cluster's filter chain; 0 or `None` in a listener's.
    fn attempt(&self) -> Option<u64>;

    /// Whether the upstream connection is established. Only an upstream cluster's filter chain knows this.
    fn upstream_is_established(&self) -> bool;

    /// Whether the upstream connection is established and uses TLS. Only an upstream cluster's filter chain knows this.
    fn upstream_tls(&self) -> bool;

    /// The first URI in the client's certificate.
    fn peer_uri(&self) -> Option<Cow<'_, str>>;

    /// The address and port that the client connected to, before any redirection, as [`SocketAddr`] and Envoy write them; any other text
    /// is no IP address, such as that of a Unix domain socket.
    fn destination_address(&self) -> Option<Cow<'_, [u8]>>;
}

/// The headers of a request: one block of bytes, and the position of each name and value in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    block: Vec<u8>,
    positions: Vec<HeaderPosition>,
}

/// The positions of a header's name, in lower case, and of its value.
pub type HeaderPosition = (Range<usize>, Range<usize>);

impl Headers {
    /// Headers whose names and values are at these positions of a block. A position outside the block is an absent text.
    pub const fn in_block(block: Vec<u8>, positions: Vec<HeaderPosition>) -> Self {
        Self { block, positions }
    }

    /// The first value of a header. Pseudo-headers have their HTTP/2 names (`:authority`, `:path`, `:method`).
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        // Most names have another length, and comparing it first costs a request fewer instructions.
        let is_named = |position: &Range<usize>| {
            position.end.wrapping_sub(position.start) == name.len() && self.at(position) == name.as_bytes()
        };
        self.positions.iter().find(|(position, _)| is_named(position)).map(|(_, value)| self.at(value))
    }

    /// The names, in the host's order.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.positions.iter().map(|(name, _)| self.at(name))
    }

    /// Whether there are no headers.
    pub const fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    /// Adds a header, whose name is in lower case.
    pub fn push(&mut self, name: &str, value: &[u8]) {
        let mut add = |text: &[u8]| {
            let start = self.block.len();
            self.block.extend_from_slice(text);
            start..self.block.len()
        };
        let position = (add(name.as_bytes()), add(value));
        self.positions.push(position);
    }

    fn at(&self, position: &Range<usize>) -> &[u8] {
        self.block.get(position.clone()).unwrap_or_default()
    }
}

/// A view of a request that reads each part at most once.
pub struct RequestView<'a> {
    source: &'a dyn RequestSource,
    authority: OnceCell<Cow<'a, [u8]>>,
    headers: OnceCell<Cow<'a, Headers>>,
    destination_address: OnceCell<Option<Cow<'a, [u8]>>>,
    attempt: OnceCell<Option<u64>>,
    earlier: Option<EarlierAttempts<'a>>,
}

/// How to recognize a token that the filter set in an earlier attempt of a request.
#[derive(Clone, Copy)]
struct EarlierAttempts<'a> {
    sent: &'a SentTokens,
    /// The header that Envoy sets on an internal redirect.
    original_url: &'a str,
}

impl<'a> RequestView<'a> {
    /// A view that has read nothing.
    pub const fn new(source: &'a dyn RequestSource) -> Self {
        Self {
            source,
            authority: OnceCell::new(),
            headers: OnceCell::new(),
            destination_address: OnceCell::new(),
            attempt: OnceCell::new(),
            earlier: None,
        }
    }

    /// Recognizes these tokens on a retry and after an internal redirect. `original_url` is the header that Envoy sets on a redirect.
    #[must_use]
    pub const fn recognizing(mut self, sent: &'a SentTokens, original_url: &'a str) -> Self {
        self.earlier = Some(EarlierAttempts { sent, original_url });
        self
    }

    /// Reads all headers at once, and the authority from them: one read instead of two for a request whose headers are needed. If the
    /// host cannot read them, nothing changes.
    #[must_use]
    pub(crate) fn headers_first(self) -> Self {
        let headers = self.source.headers();
        if !headers.is_empty() {
            let _ = self.headers.set(headers);
        }
        self
    }

    /// `:authority`; empty if there is none.
    pub(crate) fn authority(&self) -> &[u8] {
        match self.headers.get() {
            Some(headers) if !headers.is_empty() => headers.get(":authority").unwrap_or_default(),
            _ => self.authority.get_or_init(|| self.source.authority().unwrap_or_default()),
        }
    }

    /// All headers.
    pub(crate) fn headers(&self) -> &Headers {
        self.headers.get_or_init(|| self.source.headers())
    }

    /// Whether the headers were needed, and the host could not read them.
    pub(crate) fn lacks_headers(&self) -> bool {
        self.headers.get().is_some_and(|headers| headers.is_empty())
    }

    /// The first value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers().get(name)
    }

    pub(crate) fn method(&self) -> &[u8] {
        self.header(":method").unwrap_or_default()
    }

    /// The path and query; `None` for a CONNECT request, which has no path.
    pub(crate) fn target(&self) -> Option<&[u8]> {
        self.header(":path").filter(|target| !target.is_empty())
    }

    /// The path without the query; `None` for a CONNECT request.
    pub(crate) fn path(&self) -> Option<&[u8]> {
        self.target().map(|target| path::split(target).0)
    }

    pub(crate) fn query(&self) -> &[u8] {
        self.target().map_or(&[], |target| path::split(target).1)
    }

    /// The text of the address and port that the client connected to.
    pub(crate) fn destination_address(&self) -> Option<&[u8]> {
        self.destination_address.get_or_init(|| self.source.destination_address()).as_deref()
    }

    /// Whether the filter is in an upstream cluster's filter chain, where it knows the connection.
    pub(crate) fn is_in_cluster(&self) -> bool {
        self.attempt() > 0
    }

    /// The number of this attempt; 0 in a listener's filter chain.
    fn attempt(&self) -> u64 {
        let attempt = self.attempt.get_or_init(|| self.source.attempt()).unwrap_or_default();
        if let Some(earlier) = self.earlier.filter(|_| attempt > 0) {
            earlier.sent.note_cluster();
        }
        attempt
    }

    /// The names of the headers with a token that the filter set in an earlier attempt or before an internal redirect, possibly for
    /// another destination.
    ///
    /// A client can set the header of a redirect. It then costs one comparison, and the client gets nothing for it: only a token that
    /// was sent is recognized, and it is removed or replaced.
    pub(crate) fn own_headers(&self) -> Vec<Arc<str>> {
        match self.earlier.filter(|earlier| !earlier.sent.is_empty() && self.is_again(*earlier)) {
            Some(earlier) => earlier.sent.headers_with(|name| self.header(name)),
            None => Vec::new(),
        }
    }

    /// Whether the request may have passed the filter before.
    fn is_again(&self, earlier: EarlierAttempts<'_>) -> bool {
        let is_redirected = match self.headers.get() {
            Some(headers) => headers.get(earlier.original_url).is_some(),
            None => self.source.has_header(earlier.original_url),
        };
        is_redirected || earlier.sent.in_cluster() && self.attempt() > 1
    }

    /// What is read in one place only.
    pub(crate) const fn source(&self) -> &'a dyn RequestSource {
        self.source
    }
}

/// A request that is described instead of received: for tests, and to ask how a request would be handled.
#[derive(Clone, Debug, Default)]
pub struct DescribedRequest {
    /// All headers, including `:method`, `:authority` and `:path`.
    pub headers: Headers,
    /// See [`RequestSource::cluster_name`].
    pub cluster_name: Option<String>,
    /// See [`RequestSource::attempt`].
    pub attempt: Option<u64>,
    /// The upstream connection, if it is established: whether it uses TLS.
    pub upstream_tls: Option<bool>,
    /// See [`RequestSource::peer_uri`].
    pub peer_uri: Option<String>,
    /// See [`RequestSource::destination_address`].
    pub destination_address: Option<SocketAddr>,
}

impl DescribedRequest {
    /// A request with this method, authority and target (path and query).
    pub fn new(method: &str, authority: &str, target: &str) -> Self {
        let headers = [(":method", method), (":authority", authority), (":path", target)];
        headers.into_iter().fold(Self::default(), |request, (name, value)| request.with_header(name, value.as_bytes()))
    }

    /// Adds a header, whose name is in lower case. The first of several values counts.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &[u8]) -> Self {
        self.headers.push(name, value);
        self
    }
}

impl RequestSource for DescribedRequest {
    fn authority(&self) -> Option<Cow<'_, [u8]>> {
        self.headers.get(":authority").map(Cow::Borrowed)
    }

    fn has_header(&self, name: &str) -> bool {
        self.headers.get(name).is_some()
    }

    fn headers(&self) -> Cow<'_, Headers> {
        Cow::Borrowed(&self.headers)
    }

    fn cluster_name(&self) -> Option<Cow<'_, str>> {
        self.cluster_name.as_deref().map(Cow::Borrowed)
    }

    fn attempt(&self) -> Option<u64> {
        self.attempt
    }

    fn upstream_is_established(&self) -> bool {
        self.upstream_tls.is_some()
    }

    fn upstream_tls(&self) -> bool {
        self.upstream_tls == Some(true)
    }

    fn peer_uri(&self) -> Option<Cow<'_, str>> {
        self.peer_uri.as_deref().map(Cow::Borrowed)
    }

    fn destination_address(&self) -> Option<Cow<'_, [u8]>> {
        self.destination_address.map(|address| address.to_string().into_bytes().into())
    }
}

/// A request for tests.
#[cfg(test)]
pub(crate) mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::sent::tests::sent;

    /// The header that Envoy sets on an internal redirect, if its bootstrap has no `header_prefix`.
    pub(crate) const ORIGINAL_URL: &str = "x-envoy-original-url";

    /// A described request that records what is read.
    #[derive(Default)]
    pub(crate) struct Sent {
        pub(crate) request: DescribedRequest,
        unreadable: bool,
        /// The tokens that were sent before.
        tokens: SentTokens,
        /// The methods of [`RequestSource`] that were called, in order.
        pub(crate) reads: RefCell<Vec<String>>,
    }

    impl Sent {
        pub(crate) fn get(authority: &str, path: &str) -> Self {
            Self { request: DescribedRequest::new("GET", authority, path), ..Self::default() }
        }

        /// A request to a host that cannot read more than its authority.
        pub(crate) fn without_readable_headers(authority: &str) -> Self {
            Self { unreadable: true, ..Self::get(authority, "/") }
        }

        /// A CONNECT request, which has no path.
        pub(crate) fn connect(authority: &str) -> Self {
            Self::default().header(":method", b"CONNECT").header(":authority", authority.as_bytes())
        }

        /// Sets a header.
        pub(crate) fn header(mut self, name: &str, value: &[u8]) -> Self {
            let mut headers = Headers::default();
            headers.push(name, value);
            for (other, position) in &self.request.headers.positions {
                let other = std::str::from_utf8(self.request.headers.at(other)).unwrap();
                if other != name {
                    headers.push(other, self.request.headers.at(position));
                }
            }
            self.request.headers = headers;
            self
        }

        /// Sets other properties.
        pub(crate) fn with(mut self, set: impl FnOnce(&mut DescribedRequest)) -> Self {
            set(&mut self.request);
            self
        }

        pub(crate) fn routed_to(self, cluster: &str) -> Self {
            self.with(|request| request.cluster_name = Some(cluster.to_owned()))
        }

        pub(crate) fn from(self, uri: &str) -> Self {
            self.with(|request| request.peer_uri = Some(uri.to_owned()))
        }

        /// Sets the address that the client connected to; none if the text has not both an address and a port.
        pub(crate) fn to(self, address: &str) -> Self {
            self.with(|request| request.destination_address = address.parse().ok())
        }

        /// Sets a token that the filter has sent before in these headers.
        pub(crate) fn after_sending(self, headers: &[&str], token: &str) -> Self {
            Self { tokens: sent(headers, &[token]), ..self }
        }

        /// The view of the request that the engine has.
        pub(crate) fn view(&self) -> RequestView<'_> {
            RequestView::new(self).recognizing(&self.tokens, ORIGINAL_URL)
        }

        /// Sets the number of the attempt in a cluster's filter chain.
        pub(crate) fn attempt(self, number: u64) -> Self {
            self.with(|request| request.attempt = Some(number))
        }

        /// Sets the header that Envoy sets on an internal redirect.
        pub(crate) fn redirected(self) -> Self {
            self.header(ORIGINAL_URL, b"http://a.example/")
        }

        fn read<T>(&self, what: &str, value: T) -> T {
            self.reads.borrow_mut().push(what.to_owned());
            value
        }
    }

    impl RequestSource for Sent {
        fn authority(&self) -> Option<Cow<'_, [u8]>> {
            self.read("authority", self.request.authority())
        }

        fn has_header(&self, name: &str) -> bool {
            self.read("has_header", self.request.has_header(name))
        }

        fn headers(&self) -> Cow<'_, Headers> {
            self.read("headers", if self.unreadable { Cow::default() } else { self.request.headers() })
        }

        fn cluster_name(&self) -> Option<Cow<'_, str>> {
            self.read("cluster_name", self.request.cluster_name())
        }

        fn attempt(&self) -> Option<u64> {
            self.read("attempt", self.request.attempt())
        }

        fn upstream_is_established(&self) -> bool {
            self.read("upstream_is_established", self.request.upstream_is_established())
        }

        fn upstream_tls(&self) -> bool {
            self.read("upstream_tls", self.request.upstream_tls())
        }

        fn peer_uri(&self) -> Option<Cow<'_, str>> {
            self.read("peer_uri", self.request.peer_uri())
        }

        fn destination_address(&self) -> Option<Cow<'_, [u8]>> {
            self.read("destination_address", self.request.destination_address())
        }
    }

    #[test]
    fn the_authority_is_read_with_all_headers_or_alone_if_they_cannot_be_read() {
        let listed = Sent::get("a.example", "/p");
        let view = listed.view().headers_first();
        assert_eq!((view.authority(), view.path(), view.lacks_headers()), (&b"a.example"[..], Some(&b"/p"[..]), false));
        assert_eq!(*listed.reads.borrow(), ["headers"]);

        let none = Sent::default().header(":method", b"GET");
        assert_eq!(none.view().headers_first().authority(), b"");

        let unreadable = Sent::without_readable_headers("a.example");
        let view = unreadable.view().headers_first();
        assert_eq!((view.authority(), view.lacks_headers()), (&b"a.example"[..], false));
        assert_eq!(*unreadable.reads.borrow(), ["headers", "authority"]);
    }

    #[test]
    fn the_first_of_several_values_counts_and_a_position_outside_the_block_is_empty() {
        let headers =
            Headers::in_block(b"a12b3".to_vec(), vec![(0..1, 1..2), (0..1, 2..3), (3..4, 4..9), (7..8, 0..1)]);
        assert_eq!(headers.get("a"), Some(&b"1"[..]));
        assert_eq!(headers.get("b"), Some(&b""[..]));
        assert_eq!(headers.get("3"), None);
        assert_eq!(headers.names().collect::<Vec<_>>(), [&b"a"[..], b"a", b"b", b""]);
    }

    #[test]
    fn a_view_reads_each_part_once() {
        let sent = Sent::get("a.example", "/p?q").to("127.0.0.1:80");
        let view = RequestView::new(&sent);
        for _ in 0..2 {
            assert_eq!(
                (view.authority(), view.method(), view.target()),
                (&b"a.example"[..], &b"GET"[..], Some(&b"/p?q"[..]))
            );
            assert_eq!((view.path(), view.query(), view.is_in_cluster()), (Some(&b"/p"[..]), &b"q"[..], false));
            assert_eq!(view.destination_address(), Some(&b"127.0.0.1:80"[..]));
        }
        assert_eq!(*sent.reads.borrow(), ["authority", "headers", "attempt", "destination_address"]);
    }

    #[test]
    fn own_tokens_are_recognized_on_a_retry_and_after_a_redirect_only() {
        let sent = sent(&["authorization"], &["ours"]);
        let own = |request: &Sent| RequestView::new(request).recognizing(&sent, ORIGINAL_URL).own_headers();
        let request = || Sent::get("a.example", "/").header("authorization", b"Bearer ours");
        assert_eq!(own(&request()), []);
        assert_eq!(own(&request().redirected()), [Arc::from("authorization")]);
        // The number of the attempt is read only after the filter has run in a cluster's filter chain.
        let retry = request().attempt(2);
        assert_eq!((own(&retry), retry.reads.borrow().as_slice()), (Vec::new(), &["has_header".to_owned()][..]));
        assert!(RequestView::new(&request().attempt(1)).recognizing(&sent, ORIGINAL_URL).is_in_cluster());
        assert_eq!(own(&request().attempt(1)), []);
        assert_eq!(own(&request().attempt(2)), [Arc::from("authorization")]);
        let theirs = || Sent::get("a.example", "/").header("authorization", b"Bearer theirs");
        assert_eq!((own(&theirs().attempt(2)), own(&theirs().redirected())), (Vec::new(), Vec::new()));
        // A view that recognizes no tokens has none, and nothing is read before a token was sent.
        assert_eq!(RequestView::new(&request().redirected()).own_headers(), []);
        let before = Sent::get("a.example", "/").redirected();
        assert_eq!(RequestView::new(&before).recognizing(&SentTokens::default(), ORIGINAL_URL).own_headers(), []);
        assert_eq!(before.reads.borrow().len(), 0);
    }
}
